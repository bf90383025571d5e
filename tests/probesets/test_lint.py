"""What is wrong with a probe set that can be read: each rule has a set that breaks it, and one that does not."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidecar.drift.labelled import smallest_change
from sidecar.probesets.card import Card, Row
from sidecar.probesets.library import find_sets
from sidecar.probesets.lint import NEARLY_EQUAL, RULES, Finding, lint_aside, lint_set
from sidecar.probesets.read import read_set
from tests.probesets.conftest import CONTENTS, HEADS, write

DOCS = Path(__file__).parents[2] / "docs" / "probe-sets.md"
CORPUS = CONTENTS["retrieval"]["corpus.jsonl"]
QUERIES = CONTENTS["retrieval"]["queries.jsonl"]
PAIR = CONTENTS["composition"]["pairs.jsonl"][0]
OTHER = {**PAIR, "id": "m2", "anchor": "A guest may park here.", "paraphrase": "Visitors can leave cars in this place."}
OTHER["near_miss"] = "A guest must park here."


def findings(folder: Path, card: Card | None = None) -> list[Finding]:
    """Read and lint a set; `few` is left out, since all sets of these tests are small."""
    return [one for one in lint_set(read_set(folder), card) if one.rule != "few"]


@pytest.mark.parametrize("kind", ["retrieval", "composition"])
def test_a_good_set_has_no_findings(tmp_path, kind):
    """Nothing is found where nothing is wrong, but that it is small."""
    assert findings(write(tmp_path / "a", kind)) == []


def test_the_bundled_sets_are_clean():
    """What we ship breaks none of our own rules."""
    assert [finding for one in find_sets().sets for finding in lint_set(one)] == []


CASES: dict[str, tuple[str, dict[str, Any], str, tuple[str | None, str | None]]] = {
    "unknown document": ("retrieval", {"qrels/test.tsv": "q1\td9\t1\n"}, "unknown-document", ("qrels/test.tsv", "d9")),
    "unknown query": (
        "retrieval", {"qrels/test.tsv": "q1\td1\t1\nq2\td2\t1\nq9\td1\t1\n"}, "unknown-query", ("qrels/test.tsv", "q9"),
    ),
    "unjudged": ("retrieval", {"qrels/test.tsv": "q1\td1\t1\n"}, "unjudged", ("queries.jsonl", None)),
    "same query": (
        "retrieval", {"queries.jsonl": [*QUERIES, {"_id": "q3", "text": "Where is -- MY bill?"}],
                      "qrels/test.tsv": "q1\td1\t1\nq2\td2\t1\nq3\td2\t1\n"},
        "repeated", ("queries.jsonl", "q3"),
    ),
    "same document": (
        "retrieval", {"corpus.jsonl": [*CORPUS, {"_id": "d4", "text": "The invoice comes, by mail"}]},
        "repeated", ("corpus.jsonl", "d4"),
    ),
    "words in another order": (
        "retrieval", {"corpus.jsonl": [*CORPUS, {"_id": "d4", "text": "By mail comes the invoice."}]},
        "repeated", ("corpus.jsonl", "d4"),
    ),
    "leak": (
        "retrieval", {"queries.jsonl": [{"_id": "q1", "text": "reduced goods go back within 14 days"}]},
        "leak", ("queries.jsonl", None),
    ),
    "near-miss equal to the anchor": (
        "composition", {"pairs.jsonl": [{**PAIR, "near_miss": PAIR["anchor"].upper()}]},
        "same-sentence", ("pairs.jsonl", "m1"),
    ),
    "paraphrase equal to the anchor": (
        "composition", {"pairs.jsonl": [{**PAIR, "paraphrase": PAIR["anchor"]}]},
        "same-sentence", ("pairs.jsonl", "m1"),
    ),
    "two roles": (
        "composition", {"pairs.jsonl": [PAIR, {**OTHER, "near_miss": PAIR["paraphrase"]}]},
        "two-roles", ("pairs.jsonl", "m2"),
    ),
    "copy": (
        "composition", {"pairs.jsonl": [{**PAIR, "paraphrase": "The tenant shall paint one door."}]},
        "copy", ("pairs.jsonl", "m1"),
    ),
    "far": (
        "composition", {"pairs.jsonl": [{**PAIR, "near_miss": "Nobody who rents has any obligation."}]},
        "far", ("pairs.jsonl", None),
    ),
    "anchor twice": (
        "composition", {"pairs.jsonl": [PAIR, {**OTHER, "anchor": "The tenant shall paint the door!"}]},
        "repeated", ("pairs.jsonl", "m2"),
    ),
    "too few sentinels": ("sentinel", {}, "sentinels", ("texts.jsonl", None)),
    "sentinels all alike": ("sentinel", {}, "variety", ("texts.jsonl", None)),
    "no corpus": ("retrieval", {"corpus.jsonl": None}, "unchecked", (None, None)),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "rule", "place"), CASES.values(), ids=CASES)
def test_a_broken_rule_is_found_where_it_is(tmp_path, kind, changes, rule, place):
    """A finding has the rule's severity, the file, and the id where there is one."""
    file, name = place
    found = [one for one in findings(write(tmp_path / "a", kind, **changes)) if one.rule == rule]
    assert [(one.severity, one.set, one.id) for one in found] == [(RULES[rule][0], "a", name)]
    assert found[0].file == (str(tmp_path / "a" / file) if file else None)


def test_every_rule_is_tested_here():
    """A new rule needs a set that breaks it."""
    tested = {case[2] for case in CASES.values()} | {"format", "few", "saturated", "power"}
    assert tested == set(RULES)


def test_two_equal_sentinels_are_an_error(tmp_path):
    """64 texts of which two are the same are 63."""
    texts = [{"text": f"text {n}"} for n in range(63)]
    found = findings(write(tmp_path / "a", "sentinel", **{"texts.jsonl": [*texts, texts[0]]}))
    assert "64 texts, 63 of them different" in next(one.what for one in found if one.rule == "sentinels")


def test_what_cannot_be_read_is_a_finding_for_each_rule(tmp_path):
    """File and line are told apart from what is wrong, for tools that mark lines."""
    write(tmp_path / "a", "retrieval", **{"queries.jsonl": '{"_id": "q1"}\nno\n', "qrels/test.tsv": None})
    (aside,) = find_sets([], [tmp_path]).aside
    found = list(lint_aside(aside))
    queries, judged = str(tmp_path / "a" / "queries.jsonl"), str(tmp_path / "a" / "qrels" / "test.tsv")
    assert [(one.rule, one.severity, one.set) for one in found] == [("format", "error", "a")] * 3
    assert [(one.file, one.line) for one in found] == [(queries, 1), (queries, 2), (judged, None)]
    assert found[0].what == "'text' is missing; rule: a string"


def test_deliberate_confusables_are_no_repetition(tmp_path):
    """Passages that share many words and differ in what decides are what a good corpus is made of."""
    corpus = [*CORPUS, {"_id": "d4", "text": "Reduced goods go back within 30 days if the label is still on them."}]
    assert findings(write(tmp_path / "a", "retrieval", **{"corpus.jsonl": corpus})) == []


def test_the_search_for_repetitions_finds_what_comparing_all_pairs_finds(tmp_path):
    """Looking at rare words only must lose none, whatever the lengths."""
    rng = random.Random(7)  # noqa: S311  (the seed matters)
    words = [f"w{n}" for n in range(30)]
    texts: list[list[str]] = []
    for _ in range(300):
        text = rng.sample(words, rng.randint(1, 25)) if not texts or rng.random() < 0.5 else list(rng.choice(texts))
        if rng.random() < 0.5:
            text[rng.randrange(len(text))] = rng.choice(words)
        texts.append(text)
    rows = [{"_id": f"d{n}", "text": " ".join(text)} for n, text in enumerate(texts)]
    changes = {"corpus.jsonl": rows, "qrels/test.tsv": "q1\td0\t1\nq2\td1\t1\n"}
    found = {one.id for one in findings(write(tmp_path / "a", "retrieval", **changes)) if one.rule == "repeated"}
    bags = [set(text) for text in texts]
    expected = {
        f"d{n}" for n, bag in enumerate(bags)
        if any(len(bag & other) >= NEARLY_EQUAL * len(bag | other) for other in bags[:n])
    }  # fmt: skip
    assert found == expected
    assert 50 < len(expected) < 250


def test_common_words_are_no_leak(tmp_path):
    """A word that every passage has tells none apart, in any language."""
    corpus = [{"_id": f"d{n}", "text": f"Die Rechnung kommt mit der Post {n} {'Mai' * (n == 1)}"} for n in range(20)]
    changes = {"corpus.jsonl": corpus, "queries.jsonl": [{"_id": "q1", "text": "Rechnung Post Frist"}]}
    folder = write(tmp_path / "a", "retrieval", **changes, **{"qrels/test.tsv": "q1\td1\t1\n"})
    assert "leak" not in {one.rule for one in findings(folder)}
    changes["queries.jsonl"] = [{"_id": "q1", "text": "Rechnung Mai"}]
    folder = write(tmp_path / "b", "retrieval", **changes, **{"qrels/test.tsv": "q1\td1\t1\n"})
    assert "leak" in {one.rule for one in findings(folder)}


def test_findings_never_quote_a_text(tmp_path):
    """They may stand in the log of a CI server."""
    secret = "xylophone lessons"
    changes = {
        "corpus.jsonl": [*CORPUS, {"_id": "d7", "text": secret}],
        "queries.jsonl": [{"_id": f"q{n}", "text": secret} for n in range(3)],
        "qrels/test.tsv": "q0\td7\t1\nq1\td9\t1\nq1\td7\t1\n",
    }
    found = list(lint_set(read_set(write(tmp_path / "a", "retrieval", **changes))))
    assert {one.rule for one in found} >= {"repeated", "leak", "unjudged", "unknown-document", "few"}
    assert secret not in str(found)


def labelled(folder: Path, sizes: dict[str, int]) -> Path:
    """Write a set with so many different queries in each domain."""
    names = [f"{domain}-{n}" for domain, size in sizes.items() for n in range(size)]
    queries = [
        {"_id": name, "text": f"ask{place} about{place}", "metadata": {"domain": name.rpartition("-")[0]}}
        for place, name in enumerate(names)
    ]
    judged = "".join(f"{name}\td1\t1\n" for name in names)
    return write(folder, "retrieval", **{"queries.jsonl": queries, "qrels/test.tsv": judged})


def test_too_few_queries_are_named_with_what_they_can_see(tmp_path):
    """Fewer than 50 in a domain or 200 in all: the smallest fall that they find stands beside the number."""
    found = [one for one in lint_set(read_set(labelled(tmp_path / "a", {"law": 49, "tax": 50}))) if one.rule == "few"]
    assert [one.what.split(",")[0] for one in found] == ["all: 99 queries", "law: 49 queries"]
    assert f"is {smallest_change(0.15, 49, 0.001):.3f} (spread assumed)" in found[1].what
    enough = lint_set(read_set(labelled(tmp_path / "b", {"law": 100, "tax": 100})))
    assert list(enough) == []


def test_too_few_triples_of_a_phenomenon_are_named(tmp_path):
    """A set of pairs is judged by its phenomena, and not by its size."""
    (found,) = (one for one in lint_set(read_set(write(tmp_path / "a", "composition"))) if one.rule == "few")
    assert found.what.startswith("modality: 1 triples, rule: at least 50; the smallest change of sensitivity")


def card(*rows: Row) -> Card:
    """Give a card of these figures."""
    return Card("a", 1, "0", "an encoder", 0.85, rows)


def test_a_card_replaces_the_assumed_spread(tmp_path):
    """What an encoder really does says more than an assumption."""
    whole = Row("all", 210, {"ndcg@10": 0.6, "perfect": 0.3, "zero": 0.1}, 0.2)
    law, tax = replace(whole, name="law", n=10, spread=0.3), replace(whole, name="tax", n=200)
    found = list(lint_set(read_set(labelled(tmp_path / "a", {"law": 10, "tax": 200})), card(whole, law, tax)))
    assert [(one.rule, one.severity) for one in found] == [("few", "warning"), ("power", "note")]
    assert found[0].what.endswith(f"is {smallest_change(0.3, 10, 0.001):.3f}")
    assert f"{smallest_change(0.2, 210, 0.001):.3f} at p = 0.001" in found[1].what


@pytest.mark.parametrize(("mean", "saturated"), [(0.19, True), (0.2, False), (0.9, False), (0.91, True)])
def test_a_domain_at_its_end_of_the_scale_is_saturated(tmp_path, mean, saturated):
    """Where nearly all or nearly nothing is found, the scale has no room for a change."""
    whole = Row("all", 200, {"ndcg@10": 0.95, "perfect": 0.9, "zero": 0.0}, 0.1)
    found = list(
        lint_set(
            read_set(labelled(tmp_path / "a", {"law": 200})),
            card(whole, replace(whole, name="law", values={**whole.values, "ndcg@10": mean})),
        )
    )
    assert [one.what for one in found if one.rule == "saturated"] == (
        [f"law: mean nDCG@10 {mean:.3f}, 90% of the queries at 1"] if saturated else []
    )


def test_a_card_of_pairs_says_what_change_it_finds(tmp_path):
    """Sensitivity has no end of the scale; only its power is told."""
    values = {"accuracy": 0.0, "margin": -0.2, "auc": 0.0, "paraphrase": 0.7, "near_miss": 0.9}
    found = findings(write(tmp_path / "a", "composition"), card(Row("all", 1, values, 0.02)))
    assert [one.rule for one in found] == ["power"]


def test_the_numbers_of_the_documentation_are_those_of_the_formula():
    """The table of queries needed is what `lint` would say."""
    table = DOCS.read_text().partition("that pages |")[2].partition("\n\n")[0]
    rows = [[float(cell) for cell in line.strip("| ").split("|")] for line in table.splitlines() if line[2:3].isdigit()]
    assert [row[0] for row in rows] == [50, 100, 200, 400, 800]
    for n, page, ticket in rows:
        assert page == pytest.approx(smallest_change(0.15, int(n), 0.001), abs=5e-4)
        assert ticket == pytest.approx(smallest_change(0.15, int(n), 0.005), abs=5e-4)


def test_the_example_of_the_documentation_is_a_good_triple(tmp_path):
    """What users are shown breaks no rule."""
    example = next(line for line in DOCS.read_text().splitlines() if line.startswith('{"id"'))
    head = {**HEADS["composition"], "phenomena": ["modality"]}
    folder = write(tmp_path / "a", "composition", **{"probe.yaml": head, "pairs.jsonl": [json.loads(example)]})
    assert findings(folder) == []
