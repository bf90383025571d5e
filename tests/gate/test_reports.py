"""What the four reports say: the same line first, sound XML, JSON and tables, and never the text of a query."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from sidecar.errors import ConfigurationError
from sidecar.gate import choose_sets, compare, measure_encoder
from sidecar.gate_reports import as_json, as_junit, as_markdown, clear, headline, show, write
from tests.gate.conftest import changed, gate, pairs, scores

SIX = [name for name in "abcdef" for _ in range(40)]
FALL = changed([-0.2] * 20 + [0.0] * 220, SIX)
TRAP = gate(FALL, composition=(pairs(0.9), pairs(0.6)))
NOISE = gate(changed(np.round(np.random.default_rng(4).normal(0.0, 0.2, 240), 2), SIX))
CALM = gate(changed([0.0] * 240, SIX), composition=(pairs(0.9), pairs(0.9)), same=True)
ALONE = gate(None, own=tuple(scores([0.5] * 9, moved=[moved] * 9, judged=False) for moved in (False, True)))
BESIDE = gate(FALL, own=tuple(scores([0.5] * 9, moved=[moved] * 9, judged=False) for moved in (False, True)))
KINDS = {"trap": TRAP, "noise": NOISE, "calm": CALM, "alone": ALONE, "beside": BESIDE}


class Encoder:
    """Vectors from a digest of the text and the encoder's name."""

    dimension = 32

    def __init__(self, name):
        self.name = name

    def encode_queries(self, texts):
        digests = [hashlib.sha256((self.name + text).encode()).digest() for text in texts]
        return np.array([np.frombuffer(one, np.uint8) for one in digests], dtype=np.float32) - 127.5

    encode_documents = encode_queries


def parsed(found):
    """Give the root of the JUnit report."""
    return ET.fromstring(as_junit(found))  # noqa: S314  (it was written a moment ago)


def markdown_tables(text):
    """Give the tables as lists of rows of cells, split as a renderer does."""
    blocks = re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in block.strip().splitlines()] for block in blocks]


@pytest.mark.parametrize("found", KINDS.values(), ids=KINDS)
def test_every_report_starts_with_the_verdict(found, capsys):
    """Terminal, JSON, Markdown and JUnit have the same first line."""
    line = headline(found)
    show(found)
    assert capsys.readouterr().out.splitlines()[0] == line
    assert as_markdown(found).splitlines()[0] == f"**{line}**"
    assert next(iter(json.loads(as_json(found)).items())) == ("headline", line)
    assert parsed(found).get("name") == line


@pytest.mark.parametrize(
    ("found", "parts"),
    [
        (TRAP, ("FAIL, precision trap", "nDCG@10 0.500 to 0.483 (-3.3%)", "negation: near-miss cosine 0.900 to 0.600",
                "1 of 6 domains fell")),
        (NOISE, ("UNDECIDED, not enough power to tell", "smallest fall found with 80 % power",
                 "to rule one out takes about",
                 "there are 240", "composition was not measured")),
        (CALM, ("PASS, the same encoder, all differences are exactly 0", "(+0.0%)", "near-miss cosine 0.900")),
        (ALONE, ("UNDECIDED, there are no judgements", "9 of 9 rankings moved, overlap@10 1.000")),
        (BESIDE, ("FAIL, retrieval fell", "without judgements, queries all: 9 of 9 rankings moved")),
    ],
    ids=KINDS,
)  # fmt: skip
def test_the_first_line_has_both_numbers(found, parts):
    """Retrieval and composition stand side by side, and what is missing of them is said."""
    for part in parts:
        assert part in headline(found)


def test_strictness_is_named_where_it_makes_the_exit_code():
    """A reader of a failed job must see why an undecided gate failed."""
    assert "--strict" in headline(replace(NOISE, strict=True))
    assert "--strict" not in headline(replace(TRAP, strict=True))


@pytest.mark.parametrize("found", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("strict", [False, True])
def test_junit_counts_its_cases(found, strict):
    """Each check is a case; failures are what makes the exit code, and the counts are those of the elements."""
    found = replace(found, strict=strict)
    root = parsed(found)
    checks = [check for one in found.sets for check in one.checks]
    assert root.tag == "testsuites"
    for element in (root, *root.findall("testsuite")):
        cases = list(element.iter("testcase"))
        assert element.get("tests") == str(len(cases))
        assert element.get("failures") == str(sum(case.find("failure") is not None for case in cases))
        assert element.get("skipped") == str(sum(case.find("skipped") is not None for case in cases))
        assert element.get("errors") == "0"
    assert [case.get("name") for case in root.iter("testcase")] == [check.domain for check in checks]
    assert (root.get("failures") != "0") == (found.exit_code == 1)
    assert all(case.get("classname") for case in root.iter("testcase"))


@pytest.mark.parametrize("found", KINDS.values(), ids=KINDS)
def test_markdown_tables_are_whole(found):
    """Every row has as many cells as its header, and the second row is the rule."""
    tables = markdown_tables(as_markdown(found))
    assert len(tables) == len(found.sets) + len(found.pairs) + sum(bool(one.lost) for one in found.sets)
    for header, rule, *rows in tables:
        assert {cell.strip() for cell in rule} == {"---"}
        assert rows
        assert {len(row) for row in rows} == {len(header)} == {len(rule)}


def test_ids_and_names_cannot_break_a_report():
    """Ids and model names are other people's data: bars, marks, tags and control characters stay what they are."""
    old, new = FALL
    ids = ("a|b", "`x`", "<img>", "line\nbreak", *old.queries[4:])
    found = gate((replace(old, queries=ids), replace(new, queries=ids)), names=("[red]old\x07", "<b>new @me"))
    text = as_markdown(found)
    for header, _, *rows in markdown_tables(text):
        assert {len(row) for row in rows} == {len(header)}
    assert "<b>" not in text
    assert " @me" not in text
    assert "`a\\|b`" in text
    assert b"\x07" not in as_junit(found)
    assert json.loads(as_json(found))["retrieval"][0]["lost_most"][0]["query"] in ids


@pytest.mark.parametrize("found", KINDS.values(), ids=KINDS)
def test_the_json_has_what_was_measured(found):
    """Numbers of every check and phenomenon, no NaN, and the exit code that the command will give."""
    plain = json.loads(as_json(found), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert plain["verdict"] == found.verdict
    assert plain["exit_code"] == found.exit_code
    assert [one["checksum"] for one in plain["retrieval"]] == [one.set.checksum for one in found.sets]
    for one, of_set in zip(plain["retrieval"], found.sets, strict=True):
        for check, known in zip(one["checks"], of_set.checks, strict=True):
            assert check["decision"] == known.decision
            assert check["smallest_fall"] == known.smallest
            assert [value["effect"] for value in check["measures"].values()] == [
                measure.effect for measure in known.change.measures.values()
            ]


def test_every_report_states_the_tolerance_and_the_smallest_fall():
    """What could not have been seen belongs to what was seen."""
    share = f"{NOISE.sets[0].checks[0].smallest:.1%}"
    assert share in as_markdown(NOISE)
    assert "tolerance of 2 %" in as_markdown(NOISE)
    assert share in as_junit(NOISE).decode()
    assert parsed(NOISE).find(".//property[@name='tolerance']").get("value") == "0.02"


@pytest.mark.slow
def test_no_report_has_the_text_of_a_query(tmp_path, capsys):
    """Ids may be listed; queries, passages and pairs are in no report."""
    asked = tmp_path / "asked"
    (asked / "qrels").mkdir(parents=True)
    numbers = range(12)
    (asked / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{one}", "text": f"secret question {one}"}) + "\n" for one in numbers)
    )
    (asked / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{one}", "text": f"secret passage {one}"}) + "\n" for one in numbers)
    )
    (asked / "qrels" / "test.tsv").write_text("".join(f"q{one}\td{one}\t1\n" for one in numbers))
    kinds = tmp_path / "kinds"
    kinds.mkdir()
    (kinds / "probe.yaml").write_text(
        "kind: composition\nversion: 1\nlanguage: en\nlicence: MIT\nsource: a test\nphenomena: [negation]\n"
    )
    triple = {"anchor": "secret a", "paraphrase": "secret b", "near_miss": "secret c", "phenomenon": "negation"}
    (kinds / "pairs.jsonl").write_text("".join(json.dumps({"id": f"t{one}", **triple}) + "\n" for one in numbers))
    own = (asked / "queries.jsonl", asked / "corpus.jsonl")
    sets = choose_sets([str(tmp_path)], *own)
    found = compare(sets, *(measure_encoder(sets, Encoder(name)) for name in ("old", "new")), 0.02)
    show(found)
    reports = [capsys.readouterr().out, as_json(found), as_markdown(found), as_junit(found).decode()]
    assert found.sets[0].lost
    assert len(found.sets) == 2
    assert len(found.pairs) == 1
    assert not any("secret" in report for report in reports)


def test_reports_are_emptied_before_and_written_after(tmp_path):
    """A verdict of yesterday must not stand beside an error of today."""
    file = tmp_path / "gate.md"
    file.write_text("PASS")
    clear(None, file)
    assert file.read_text() == ""
    write(TRAP, to_json=None, to_markdown=file, to_junit=None)
    assert file.read_text().startswith("**FAIL")


def test_a_report_that_cannot_be_written_is_named(tmp_path):
    """The message names the file, before anything is measured."""
    with pytest.raises(ConfigurationError, match=r"nowhere/gate\.json: the report cannot be written"):
        clear(tmp_path / "nowhere" / "gate.json")
