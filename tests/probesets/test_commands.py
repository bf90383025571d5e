"""`rag-drift probes` as an engineer types it, and the figures of cards with the real encoder."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import yaml

from sidecar.cli import main
from sidecar.drift.composition import summarise
from sidecar.drift.labelled import means
from sidecar.probesets.card import BEGIN, END, OVERLAP, Disturbed, markdown, measure_card
from sidecar.probesets.library import bundled_folder
from sidecar.probesets.measure import ask, finish, measure_pairs, score_rankings
from sidecar.probesets.read import ProbeSet, read_set
from tests.probesets.conftest import HEADS, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BUNDLED = bundled_folder()


class Done(NamedTuple):
    """What a command line left."""

    code: int
    out: str
    err: str


@pytest.fixture
def rag_drift(monkeypatch, capsys) -> Callable[..., Done]:
    """Run a command line in this process, with its exit code and outputs."""

    def run(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["rag-drift", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capsys.readouterr())

    return run


def test_list_shows_what_there_is(rag_drift, tmp_path):
    """The bundled sets and one's own, with checksum and licence; a bad one with its reason."""
    good = write(tmp_path / "sets" / "returns", "retrieval")
    write(tmp_path / "sets" / "bad", "retrieval", **{"queries.jsonl": "no\n"})
    done = rag_drift("probes", "list", "--folder", tmp_path / "sets")
    assert done.code == 0
    row = next(line for line in done.out.splitlines() if "returns" in line)
    for part in ("retrieval", read_set(good).checksum, "2 queries, 3 documents", "general, shop", "Apache-2.0"):
        assert part in row
    assert "generalization" in done.out
    assert f"set aside: bad: {tmp_path}/sets/bad/queries.jsonl, line 1: not JSON (Expecting value)" in done.out


def test_list_as_json_says_the_same(rag_drift, tmp_path):
    """For scripts: names, versions, counts, and what was set aside."""
    write(tmp_path / "bad", "retrieval", **{"queries.jsonl": None})
    listed = json.loads(rag_drift("probes", "list", "--folder", tmp_path, "--json").out)
    by_name = {one["name"]: one for one in listed["sets"]}
    assert set(by_name) == {"composition", "generalization", "sentinel"}
    assert by_name["sentinel"]["counts"] == {"texts": 64}
    assert by_name["generalization"]["where"] == "bundled"
    assert len(by_name["composition"]["groups"]) == 7
    assert [one["name"] for one in listed["aside"]] == ["bad"]


def test_list_follows_the_settings(rag_drift, tmp_path):
    """With a settings file, the sets that a sidecar with it would use."""
    write(tmp_path / "sets" / "returns", "retrieval")
    retriever = {"encoder": {"model": "a-model"}, "index": "/an/index"}
    tree = {
        "deployment": "shop",
        "retrievers": {"deployed": retriever, "reference": retriever},
        "canaries": {"bundled": ["composition"], "folders": [str(tmp_path / "sets")]},
    }
    (tmp_path / "sidecar.yaml").write_text(yaml.safe_dump(tree))
    done = rag_drift("probes", "list", "-c", tmp_path / "sidecar.yaml", "--json")
    assert [one["name"] for one in json.loads(done.out)["sets"]] == ["composition", "returns"]


def test_show_says_what_a_set_is(rag_drift, tmp_path):
    """Head, counts, lengths, grades and domains; no text."""
    done = rag_drift("probes", "show", write(tmp_path / "returns", "retrieval"))
    assert done.code == 0
    for part in (
        "returns: retrieval, version 1, checksum", "licence: Apache-2.0", "2 queries, 3 documents",
        "words a query: 4 to 4, median 4", "1 of grade 0, 1 of grade 1, 1 of grade 2", "│ shop    │       1 │",
    ):  # fmt: skip
        assert part in done.out
    assert "bill" not in done.out
    assert "│ negation " in rag_drift("probes", "show", "composition").out
    assert "64 texts" in rag_drift("probes", "show", "sentinel").out


def test_show_gives_one_query_with_its_documents(rag_drift, tmp_path):
    """The best grade first; this is the user's own terminal."""
    out = rag_drift("probes", "show", write(tmp_path / "a", "retrieval"), "--query", "q1").out
    assert out.splitlines()[0] == "q1 (shop): send back sale items?"
    assert out.index("grade 2: d1\nReturns\nReduced goods") < out.index("grade 0: d2\nThe invoice")
    pairs = write(tmp_path / "b", "composition")
    assert "near-miss: The tenant may paint" in rag_drift("probes", "show", pairs, "--query", "m1").out
    index = write(tmp_path / "c", "retrieval", **{"corpus.jsonl": None})
    assert "in the production index" in rag_drift("probes", "show", index, "--query", "q1").out


def test_lint_passes_what_is_clean(rag_drift):
    """Without names, the bundled sets; warnings would be errors."""
    done = rag_drift("probes", "lint", "--strict")
    assert (done.code, done.out) == (0, "3 sets: 0 errors, 0 warnings, 0 notes\n")


def test_lint_fails_on_errors_only(rag_drift, tmp_path):
    """Warnings exit 0, or 1 with --strict; errors exit 1 and name file, line and rule, in a form that tools read."""
    small, bad = write(tmp_path / "small", "composition"), write(tmp_path / "bad", "sentinel", **{"texts.jsonl": "\n{"})
    warned = rag_drift("probes", "lint", small)
    assert (warned.code, warned.out.count("warning: ")) == (0, 1)
    assert warned.out.endswith("1 set: 0 errors, 1 warnings, 0 notes\n")
    assert rag_drift("probes", "lint", small, "--strict").code == 1
    failed = rag_drift("probes", "lint", small, bad, "sentinel")
    assert failed.code == 1
    place = f"error: {bad}/texts.jsonl:2: not JSON (Expecting property name enclosed in double quotes) [format]"
    assert failed.out.splitlines()[0] == place
    assert failed.out.endswith("3 sets: 1 errors, 1 warnings, 0 notes\n")


def test_lint_shows_ten_of_a_kind_and_counts_the_rest(rag_drift, tmp_path):
    """A flood of one finding does not hide another; the JSON has them all."""
    judged = "q1\td1\t1\nq2\td2\t1\n" + "".join(f"q1\tx{n}\t1\n" for n in range(25))
    folder = write(tmp_path / "a", "retrieval", **{"qrels/test.tsv": judged})
    out = rag_drift("probes", "lint", folder).out
    assert out.count("[unknown-document]\n") == 10
    assert "a: 15 more [unknown-document]; --json lists all" in out
    found = json.loads(rag_drift("probes", "lint", folder, "--json").out)["findings"]
    assert sum(one["rule"] == "unknown-document" for one in found) == 25


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "nothing"], "nothing is neither a bundled probe set (composition, generalization, sentinel) nor a"),
        (["lint", "nothing"], "nothing is neither a bundled probe set"),
        (["list", "--folder", "nothing"], "probe sets: nothing is not a folder"),
        (["show", "sentinel", "--query", "x"], "sentinel has no judged query or triple x"),
        (["show", str(BUNDLED)], f"{BUNDLED} holds several sets (composition, generalization, sentinel)"),
        (["card", "sentinel"], "Missing option '--model'"),
    ],
)
def test_wrong_usage_exits_with_2(rag_drift, arguments, said):
    """The message names what was wrong, and what there is."""
    done = rag_drift("probes", *arguments)
    assert done.code == 2
    assert said in done.err


def test_show_names_every_broken_rule_of_a_bad_set(rag_drift, tmp_path):
    """A set that cannot be read is an error of data, one line for each rule."""
    done = rag_drift("probes", "show", write(tmp_path / "a", "composition", **{"pairs.jsonl": "no\nno\n"}))
    assert done.code == 2
    assert [line.split(": ")[2] for line in done.err.splitlines()] == ["not JSON (Expecting value)"] * 2


def part_of(folder: Path, domain: str) -> Path:
    """Write the bundled queries and passages of one domain as a set of their own."""
    whole = BUNDLED / "generalization"

    def rows(name: str) -> list[dict[str, Any]]:
        lines = (whole / name).read_text(encoding="utf-8").splitlines()
        return [row for row in map(json.loads, lines) if row["_id"].startswith(domain)]

    judged = (whole / "qrels" / "test.tsv").read_text().splitlines(keepends=True)
    changes = {
        "corpus.jsonl": rows("corpus.jsonl")[:40],
        "queries.jsonl": rows("queries.jsonl")[:40],
        "qrels/test.tsv": "".join(line for line in judged if line.startswith(domain)),
    }
    return write(folder, "retrieval", **changes)


@pytest.fixture(scope="module")
def one_domain(tmp_path_factory) -> ProbeSet:
    """Give a real labelled set that is encoded in a few seconds."""
    return read_set(part_of(tmp_path_factory.mktemp("sets") / "cloud", "cloud"))


@pytest.fixture(scope="module")
def some_pairs(tmp_path_factory) -> ProbeSet:
    """Give the first ten real triples of each phenomenon."""
    lines = (BUNDLED / "composition" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    kept = [row for row in rows if int(row["id"].rpartition("-")[2]) <= 10]
    head = {**HEADS["composition"], "phenomena": sorted({row["phenomenon"] for row in kept})}
    folder = tmp_path_factory.mktemp("sets") / "pairs"
    return read_set(write(folder, "composition", **{"probe.yaml": head, "pairs.jsonl": kept}))


@pytest.mark.slow
def test_the_figures_of_a_card_are_those_of_a_run(one_domain, some_pairs, minilm):
    """Means, shares and cosines are what the canary runner measures; the noise has no part in them, and is sized."""
    scores = score_rankings(one_domain, finish(ask(one_domain, minilm)))
    card = measure_card(one_domain, minilm)
    assert {row.name: {name: row.values[name] for name in scores.values} for row in card.rows} == means(scores)
    ndcg = scores.values["ndcg@10"]
    assert card.rows[0].values["perfect"] == sum(one == 1.0 for one in ndcg) / len(ndcg)
    assert card.overlap == pytest.approx(OVERLAP, abs=0.015)
    pairs = measure_card(some_pairs, minilm)
    for row, summary in zip(pairs.rows, summarise(finish(measure_pairs(some_pairs, minilm))).values(), strict=True):
        assert (row.n, row.values["auc"], row.values["near_miss"]) == (summary.n, summary.auc, summary.near_miss)
        assert 0.0 < row.spread < 0.1
    assert pairs.overlap == pytest.approx(OVERLAP, abs=0.015)
    assert pairs == measure_card(some_pairs, minilm)


def test_the_noise_has_no_direction_and_keeps_the_length(minilm):
    """Of size s it leaves a cosine of 1/sqrt(1 + s^2), the same text gets the same noise, and 0 changes nothing."""
    texts = [f"sentence number {n}" for n in range(40)]
    plain = minilm.encode_queries(texts)
    disturbed = Disturbed(minilm)
    assert np.array_equal(disturbed.encode_queries(texts), plain)
    disturbed.size = 0.5
    noisy = disturbed.encode_queries(texts)
    assert np.allclose(np.linalg.norm(noisy, axis=1), 1.0, atol=1e-6)
    cosines = (noisy * plain).sum(axis=1)
    # The cosine of one text has a standard deviation of about s / sqrt(384 (1 + s^2)) = .023.
    assert cosines.mean() == pytest.approx(1 / np.sqrt(1.25), abs=4 * 0.023 / np.sqrt(40))
    assert np.array_equal(disturbed.encode_queries(texts[::-1])[::-1], noisy)
    disturbed.draw = 1
    assert abs(((disturbed.encode_queries(texts) - plain) * (noisy - plain)).sum(axis=1).mean()) < 0.05


def test_a_set_that_is_too_small_for_noise_has_a_card(minilm, tmp_path):
    """Three documents are always all found: the card says what overlap there was."""
    card = measure_card(read_set(write(tmp_path / "a", "retrieval")), minilm)
    assert card.overlap == 1.0
    assert [row.n for row in card.rows] == [2, 1, 1]
    pairs = measure_card(read_set(write(tmp_path / "b", "composition")), minilm)
    assert [row.spread for row in pairs.rows] == [0.0, 0.0]


@pytest.mark.slow
def test_card_prints_and_writes_the_figures(rag_drift, tmp_path, minilm_folder):
    """The same table on the terminal and between the markers; the prose around it stays."""
    readme = f"# Mine\n\nbefore\n\n{BEGIN}\nold\n{END}\n\nafter\n"
    folder = write(tmp_path / "a", "retrieval", **{"README.md": readme})
    done = rag_drift("probes", "card", folder, "--model", minilm_folder, "--name", "MiniLM", "--write")
    assert done.code == 0, done.err
    assert done.out.startswith("MiniLM, version 1, checksum `")
    assert (folder / "README.md").read_text() == readme.replace("old\n", done.out)
    as_json = json.loads(rag_drift("probes", "card", folder, "--model", minilm_folder, "--json").out)
    assert [row["name"] for row in as_json["rows"]] == ["all", "general", "shop"]
    assert set(as_json["rows"][0]["smallest"]) == {"0.001", "0.005"}
    measured = rag_drift("probes", "lint", folder, "sentinel", "--model", minilm_folder)
    assert (measured.code, measured.out.count("[power]"), "(spread assumed)" in measured.out) == (0, 1, False)


def test_a_card_that_cannot_be_made_says_why(rag_drift, tmp_path, minilm_folder):
    """Texts have no figures, a set without a corpus is not of an encoder alone, a README needs its markers."""
    index = write(tmp_path / "index", "retrieval", **{"corpus.jsonl": None})
    plain = write(tmp_path / "plain", "composition", **{"README.md": "# Mine\n"})
    for name, said in (("sentinel", "no figures"), (index, "has no corpus"), (plain, "no place for the figures")):
        done = rag_drift("probes", "card", name, "--model", minilm_folder, "--write")
        assert done.code == 2
        assert said in done.err
    assert rag_drift("probes", "lint", index, "--model", minilm_folder).out.count("[unchecked]") == 1
    assert rag_drift("probes", "card", plain, "--model", tmp_path).code == 3


def numbers(text: str) -> list[float]:
    """Give the figures of a card's table in their order; a per cent is a hundredth."""
    found = re.findall(r"(?<![\w.])(-?\d+\.?\d*)( %)?", text)
    return [float(number) / (100 if percent else 1) for number, percent in found]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["generalization", "composition"])
def test_the_figures_on_the_bundled_cards_are_current(minilm, name):
    """What the README of a bundled set says is what the command measures now, to the last digits."""
    one = read_set(BUNDLED / name)
    written = (one.folder / "README.md").read_text().partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0]
    now = markdown(measure_card(one, minilm, name="all-MiniLM-L6-v2"))
    assert re.sub(r"-?\d+\.\d+", "0", written) == re.sub(r"-?\d+\.\d+", "0", now)
    assert numbers(written) == pytest.approx(numbers(now), abs=0.002)
