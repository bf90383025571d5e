"""Reading a probe set: whole or not at all, and every broken rule is named with file and line.

Left to others: finding sets (`test_library`) and what is wrong with sets that can be read (`test_lint`).
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import yaml

from sidecar.errors import DataError
from sidecar.probesets.manifest import json_schema, read_manifest
from sidecar.probesets.read import MOST_COMPLAINTS, read_set
from tests.probesets.conftest import CONTENTS, HEADS, write

QUERIES = CONTENTS["retrieval"]["queries.jsonl"]
CORPUS = CONTENTS["retrieval"]["corpus.jsonl"]
PAIR = CONTENTS["composition"]["pairs.jsonl"][0]
SECRET = "the patient's name"


def test_a_labelled_set_is_read(tmp_path):
    """Queries with their domains, grades, and documents with title and text joined."""
    one = read_set(write(tmp_path / "Help.Desk", "retrieval"))
    assert (one.name, one.kind, one.groups) == ("help-desk", "retrieval", ("general", "shop"))
    assert [(query.id, query.domain) for query in one.queries] == [("q1", "shop"), ("q2", "general")]
    assert one.judgements == {"q1": {"d1": 2.0, "d2": 0.0}, "q2": {"d2": 1.0}}
    assert one.corpus is not None
    assert one.corpus["d1"] == "Returns\nReduced goods go back within 14 days."
    assert (one.unjudged, one.strangers) == ((), ())


def test_pairs_and_texts_are_read(tmp_path):
    """Triples with their phenomenon; white space alone is a text of a sentinel set."""
    pairs = read_set(write(tmp_path / "pairs", "composition"))
    assert [(one.id, one.phenomenon, one.near_miss) for one in pairs.triples] == [
        ("m1", "modality", "The tenant may paint the door.")
    ]
    assert read_set(write(tmp_path / "texts", "sentinel")).texts == ("a", "  ")


def test_what_cannot_be_scored_is_told_apart(tmp_path):
    """Queries without a relevant document, and judgements of what the set does not have, do not count."""
    judged = "q1\td1\t1\nq1\td9\t1\nq2\td2\t0\nq9\td1\t1\n"
    one = read_set(write(tmp_path / "a", "retrieval", **{"qrels/test.tsv": judged}))
    assert [query.id for query in one.queries] == ["q1"]
    assert one.unjudged == ("q2",)
    assert one.strangers == (("q1", "d9"), ("q9", "d1"))


def test_without_a_corpus_the_judgements_are_of_the_production_index(tmp_path):
    """No document of theirs is a stranger."""
    one = read_set(write(tmp_path / "a", "retrieval", **{"corpus.jsonl": None}))
    assert one.corpus is None
    assert one.strangers == ()


@pytest.mark.parametrize(
    ("split", "judgements"),
    [
        ("test", "query-id\tcorpus-id\tscore\nq1\td1\t1\n"),
        ("test", "q1\td1\t1\n"),
        ("dev", "query-id\tcorpus-id\tscore\r\nq1\td1\t1\r\n"),
        ("train", "query-id\tcorpus-id\nq1\td1\n"),
        ("test", "\ufeffquery-id\tcorpus-id\nq1\td1\n\n"),
    ],
    ids=["header", "no header", "another split and line ends", "no grades", "byte order mark and blank line"],
)
def test_a_beir_folder_is_a_set_as_it_is(tmp_path, split, judgements):
    """Without a probe.yaml the folder's name is set and domain, and the only split is taken."""
    changes = {"probe.yaml": None, "qrels/test.tsv": None, f"qrels/{split}.tsv": judgements}
    one = read_set(write(tmp_path / "scifact", "retrieval", **changes))
    assert (one.name, one.manifest.domain, one.manifest.split) == ("scifact", "scifact", split)
    assert one.judgements == {"q1": {"d1": 1.0}}


def test_of_several_splits_test_is_taken(tmp_path):
    """The folder of a whole benchmark needs no choice."""
    changes = {"probe.yaml": None, "qrels/train.tsv": "q2\td3\t1\n", "qrels/dev.tsv": "q2\td3\t1\n"}
    assert "q1" in read_set(write(tmp_path / "a", "retrieval", **changes)).judgements


BROKEN = {
    "not YAML": ("retrieval", {"probe.yaml": "kind: retrieval\nversion: [1\n"}, "probe.yaml, line 3", "not YAML"),
    "not a mapping": ("retrieval", {"probe.yaml": "- kind\n"}, "probe.yaml", "not a mapping"),
    "empty head": ("retrieval", {"probe.yaml": ""}, "probe.yaml", "not a mapping"),
    "head not UTF-8": ("retrieval", {"probe.yaml": b"kind: \xff\n"}, "probe.yaml", "UTF-8"),
    "head with a bad date": ("retrieval", {"probe.yaml": "source: 2024-99-99\n"}, "probe.yaml", "not YAML"),
    "head nested too deeply": ("retrieval", {"probe.yaml": "[" * 1_000}, "probe.yaml", "not YAML"),
    "key given twice": ("retrieval", {"probe.yaml": "kind: a\nkind: b\n"}, "probe.yaml, line 2", "given twice"),
    "key is a list": ("retrieval", {"probe.yaml": "kind: a\n? [a]\n: b\n"}, "probe.yaml, line 2", "unhashable"),
    "no head and no queries": ("composition", {"probe.yaml": None}, "probe.yaml", "cannot be read"),
    "missing key": ("retrieval", {"probe.yaml": {"kind": "retrieval"}}, "probe.yaml", "licence: field required"),
    "unknown key": (
        "retrieval", {"probe.yaml": {**HEADS["retrieval"], "licens": "x"}}, "probe.yaml, line 4", "not permitted",
    ),
    "unknown kind": ("retrieval", {"probe.yaml": {**HEADS["retrieval"], "kind": "x"}}, "line 1", "input should be"),
    "another depth": ("retrieval", {"probe.yaml": {**HEADS["retrieval"], "k": 5}}, "line 1", "should be 10"),
    "pairs without phenomena": (
        "composition", {"probe.yaml": {**HEADS["composition"], "phenomena": []}}, "line 4", "at least one",
    ),
    "queries missing": ("retrieval", {"queries.jsonl": None}, "queries.jsonl", "cannot be read"),
    "judgements missing": ("retrieval", {"qrels/test.tsv": None}, "test.tsv", "cannot be read"),
    "pairs missing": ("composition", {"pairs.jsonl": None}, "pairs.jsonl", "cannot be read"),
    "texts missing": ("sentinel", {"texts.jsonl": None}, "texts.jsonl", "cannot be read"),
    "no documents": ("retrieval", {"corpus.jsonl": "\n"}, "corpus.jsonl", "at least one"),
    "no texts": ("sentinel", {"texts.jsonl": ""}, "texts.jsonl", "at least one"),
    "nothing relevant": ("retrieval", {"qrels/test.tsv": "q1\td1\t0\n"}, "test.tsv", "at least one"),
    "query not JSON": ("retrieval", {"queries.jsonl": '\n{"_id": \n'}, "queries.jsonl, line 2", "not JSON"),
    "query nested too deeply": ("retrieval", {"queries.jsonl": "[" * 99_999}, "queries.jsonl, line 1", "not JSON"),
    "query not an object": ("retrieval", {"queries.jsonl": "[1]"}, "queries.jsonl, line 1", "a JSON object"),
    "query not UTF-8": ("retrieval", {"queries.jsonl": b'{"_id": "\xe4"}'}, "queries.jsonl, line 1", "UTF-8"),
    "query without text": ("retrieval", {"queries.jsonl": [{"_id": "q1"}]}, "line 1", "'text' is missing"),
    "query id a number": ("retrieval", {"queries.jsonl": [{"_id": 1, "text": "x"}]}, "line 1", "'_id' is int"),
    "blank query": ("retrieval", {"queries.jsonl": [{"_id": "q1", "text": " "}]}, "line 1", "'text' is empty"),
    "half a surrogate": ("retrieval", {"queries.jsonl": '{"_id": "q1", "text": "\\ud800"}'}, "line 1", "surrogate"),
    "query id twice": ("retrieval", {"queries.jsonl": [*QUERIES, QUERIES[0]]}, "line 3", "used in line 1"),
    "domain no label": (
        "retrieval", {"queries.jsonl": [{**QUERIES[0], "metadata": {"domain": "Tax law\n"}}]}, "line 1", "domain",
    ),
    "domain with a line end": (
        "retrieval", {"queries.jsonl": [{**QUERIES[0], "metadata": {"domain": "law\n"}}]}, "line 1", "domain",
    ),
    "too many domains": (
        "retrieval",
        {
            "queries.jsonl": [{"_id": f"q{n}", "text": "x", "metadata": {"domain": f"d{n}"}} for n in range(13)],
            "qrels/test.tsv": "".join(f"q{n}\td1\t1\n" for n in range(13)),
        },
        "queries.jsonl", "at most 12",
    ),
    "too many phenomena": (
        "composition", {"probe.yaml": {**HEADS["composition"], "phenomena": [f"p{n}" for n in range(13)]}},
        "line 4", "at most 12",
    ),
    "document without text": ("retrieval", {"corpus.jsonl": [{"_id": "d1"}]}, "corpus.jsonl, line 1", "'text'"),
    "document not JSON": ("retrieval", {"corpus.jsonl": "\n\n{"}, "corpus.jsonl, line 3", "not JSON"),
    "document id twice": ("retrieval", {"corpus.jsonl": [*CORPUS, CORPUS[1]]}, "line 4", "used in line 2"),
    "two columns": ("retrieval", {"qrels/test.tsv": "q1\td1\t1\nq1 d2\t1\n"}, "test.tsv, line 2", "2 columns"),
    "bad grade": ("retrieval", {"qrels/test.tsv": "q1\td1\t1\nq1\td2\tgood\n"}, "test.tsv, line 2", "finite number"),
    "endless grade": ("retrieval", {"qrels/test.tsv": "q1\td1\tinf\n"}, "test.tsv, line 1", "finite number"),
    "judged twice": ("retrieval", {"qrels/test.tsv": "q1\td1\t1\nq1\td1\t2\n"}, "test.tsv, line 2", "second time"),
    "two splits": (
        "retrieval",
        {"probe.yaml": None, "qrels/test.tsv": None, "qrels/dev.tsv": "q1\td1\t1\n", "qrels/train.tsv": "q1\td1\t1\n"},
        "qrels", "holds dev, train; rule: name the `split`",
    ),
    "unknown phenomenon": ("composition", {"pairs.jsonl": [{**PAIR, "phenomenon": "x"}]}, "line 1", "phenomenon"),
    "phenomenon without triples": (
        "composition", {"probe.yaml": {**HEADS["composition"], "phenomena": ["modality", "tense"]}},
        "pairs.jsonl", "no triple of tense",
    ),
    "triple without near-miss": (
        "composition", {"pairs.jsonl": [{**PAIR, "near_miss": None}]}, "line 1", "'near_miss' is NoneType",
    ),
    "triple id twice": ("composition", {"pairs.jsonl": [PAIR, PAIR]}, "line 2", "used in line 1"),
    "sentinel no string": ("sentinel", {"texts.jsonl": [{"text": 3}]}, "texts.jsonl, line 1", "'text' is int"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "where", "rule"), BROKEN.values(), ids=BROKEN)
def test_a_broken_set_is_refused_with_place_and_rule(tmp_path, kind, changes, where, rule):
    """The message names the file, the line where there is one, and the rule that is broken."""
    with pytest.raises(DataError) as caught:
        read_set(write(tmp_path / "a", kind, **changes))
    broken = [line for line in str(caught.value).splitlines() if where in line and rule in line]
    assert len(broken) == 1, str(caught.value)
    assert broken[0].startswith(str(tmp_path))


def test_a_folder_whose_name_cannot_be_a_label_is_refused(tmp_path):
    """The folder's name becomes the value of metric labels."""
    with pytest.raises(DataError, match="names the set"):
        read_set(write(tmp_path / "müller & co", "retrieval"))


def test_all_broken_rules_are_named_at_once(tmp_path):
    """A person mends a set in one go; one broken line does not hide the next or another file's."""
    changes = {
        "queries.jsonl": '{"_id": 1}\nno\n{"_id": "q1", "text": "x"}\n',
        "corpus.jsonl": '{"_id": "d1", "text": "x"}\n[]\n',
        "qrels/test.tsv": "q1\td1\t1\nq1\td2\n",
    }
    with pytest.raises(DataError) as caught:
        read_set(write(tmp_path / "a", "retrieval", **changes))
    places = [line.removeprefix(f"{tmp_path / 'a'}/").split(":")[0] for line in str(caught.value).splitlines()]
    assert places == [
        "corpus.jsonl, line 2",
        "queries.jsonl, line 1",
        "queries.jsonl, line 2",
        "qrels/test.tsv, line 2",
    ]


def test_a_file_full_of_errors_does_not_flood_the_message(tmp_path):
    """The first broken rules are named and the others counted."""
    with pytest.raises(DataError) as caught:
        read_set(write(tmp_path / "a", "sentinel", **{"texts.jsonl": "{\n" * 100}))
    said = str(caught.value).splitlines()
    assert len(said) == MOST_COMPLAINTS + 1
    assert said[-1] == f"and {100 - MOST_COMPLAINTS} more broken rules"


def test_a_message_never_quotes_a_text(tmp_path):
    """What a query says may be personal, and messages end up in logs."""
    changes = {
        "queries.jsonl": f'{{"text": "{SECRET}", }}\n{{"_id": "q1", "text": "{SECRET}", "metadata"}}\n"{SECRET}"',
        "corpus.jsonl": [{"_id": 3, "text": SECRET}, {"_id": "x", "text": [SECRET]}],
        "qrels/test.tsv": "q1\td1\n",
    }
    with pytest.raises(DataError) as caught:
        read_set(write(tmp_path / "a", "retrieval", **changes))
    assert SECRET not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 6


@pytest.mark.parametrize(
    ("kind", "file", "content"),
    [
        ("retrieval", "corpus.jsonl", [*CORPUS, {"_id": "d4", "text": "x"}]),
        ("retrieval", "queries.jsonl", [*QUERIES, {"_id": "q3", "text": "x"}]),
        ("retrieval", "qrels/test.tsv", "q1\td1\t2\nq2\td2\t2\n"),
        ("retrieval", "corpus.jsonl", None),
        ("retrieval", "probe.yaml", {**HEADS["retrieval"], "domain": "law"}),
        ("composition", "pairs.jsonl", [{**PAIR, "near_miss": "The tenant must not paint the door."}]),
        ("sentinel", "texts.jsonl", [{"text": "a"}, {"text": " "}]),
    ],
    ids=["corpus", "queries", "judgements", "no corpus", "domain", "pairs", "texts"],
)
def test_another_content_has_another_checksum(tmp_path, kind, file, content):
    """Whatever a score hangs on makes another version."""
    before = read_set(write(tmp_path / "a", kind)).checksum
    assert read_set(write(tmp_path / "b", kind, **{file: content})).checksum != before


def test_what_no_score_hangs_on_leaves_the_checksum(tmp_path):
    """Name, description, licence, source, version number and README are for people."""
    head = {**HEADS["retrieval"], "description": "x", "licence": "MIT", "source": "y", "version": 2, "language": "de"}
    before = read_set(write(tmp_path / "a", "retrieval")).checksum
    assert read_set(write(tmp_path / "b", "retrieval", **{"probe.yaml": head, "README.md": "x"})).checksum == before


MANIFESTS: dict[str, tuple[Any, bool]] = {
    "smallest": (HEADS["retrieval"], True),
    "pairs": (HEADS["composition"], True),
    "whole": (
        {
            **HEADS["retrieval"], "domain": "tax-law", "description": "", "k": 10, "phenomena": [], "split": "dev",
            "language": "zh-Hant",
        },
        True,
    ),
    "version 1.0": ({**HEADS["retrieval"], "version": 1.0}, True),
    "version 1.5": ({**HEADS["retrieval"], "version": 1.5}, False),
    "version 0": ({**HEADS["retrieval"], "version": 0}, False),
    "version true": ({**HEADS["retrieval"], "version": True}, False),
    "version '1'": ({**HEADS["retrieval"], "version": "1"}, False),
    "version null": ({**HEADS["retrieval"], "version": None}, False),
    "unknown key": ({**HEADS["retrieval"], "author": "x"}, False),
    "no licence": ({key: value for key, value in HEADS["retrieval"].items() if key != "licence"}, False),
    "empty licence": ({**HEADS["retrieval"], "licence": ""}, False),
    "licence a number": ({**HEADS["retrieval"], "licence": 2}, False),
    "no kind": ({key: value for key, value in HEADS["retrieval"].items() if key != "kind"}, False),
    "unknown kind": ({**HEADS["retrieval"], "kind": "other"}, False),
    "language": ({**HEADS["retrieval"], "language": "English"}, False),
    "domain": ({**HEADS["retrieval"], "domain": "Tax law"}, False),
    "domain too long": ({**HEADS["retrieval"], "domain": "x" * 41}, False),
    "depth": ({**HEADS["retrieval"], "k": 100}, False),
    "split with a path": ({**HEADS["retrieval"], "split": "../x"}, False),
    "pairs without phenomena": ({**HEADS["composition"], "phenomena": []}, False),
    "pairs, phenomena missing": ({**HEADS["retrieval"], "kind": "composition"}, False),
    "phenomena elsewhere": ({**HEADS["retrieval"], "phenomena": ["negation"]}, False),
    "phenomena a word": ({**HEADS["composition"], "phenomena": "negation"}, False),
    "phenomena no labels": ({**HEADS["composition"], "phenomena": ["Role swap"]}, False),
    "phenomena numbers": ({**HEADS["composition"], "phenomena": [1]}, False),
    "12 phenomena": ({**HEADS["composition"], "phenomena": [f"p{n}" for n in range(12)]}, True),
    "13 phenomena": ({**HEADS["composition"], "phenomena": [f"p{n}" for n in range(13)]}, False),
    "a list": ([HEADS["retrieval"]], False),
}  # fmt: skip


@pytest.mark.parametrize(("content", "good"), MANIFESTS.values(), ids=MANIFESTS)
def test_schema_and_model_agree(tmp_path, content, good):
    """What an editor accepts by the schema is what the program reads, and nothing else."""
    (tmp_path / "probe.yaml").write_text(yaml.safe_dump(content))
    assert jsonschema.Draft7Validator(json_schema()).is_valid(content) == good
    if good:
        assert read_manifest(tmp_path).version == 1
    else:
        with pytest.raises(DataError):
            read_manifest(tmp_path)


def test_the_schema_is_one_of_draft_7():
    """It can be read by tools that know that draft, and needs no other file."""
    schema = json_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    assert "$ref" not in json.dumps(schema)
