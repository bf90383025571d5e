"""The demo's queries and judgements, which ship with the package.

Scope: the two files against the corpus of the running Python; how well encoders answer is in `test_encoders.py`.
"""

from __future__ import annotations

from collections import Counter

import pytest

from sidecar.demo.corpus import load_demo_queries, standard_library_passages

QUERIES, QRELS = load_demo_queries()


def test_there_are_enough_queries_in_every_slice() -> None:
    """The three slices have the sizes that the scenarios rely on."""
    sizes = Counter(query.slice for query in QUERIES)
    assert set(sizes) == {"howto", "language", "chat"}
    assert sizes["howto"] >= 150
    assert sizes["language"] >= 120
    assert sizes["chat"] >= 80
    assert len(QUERIES) >= 360


def test_queries_are_unique() -> None:
    """No query repeats another, whatever its case and spaces."""
    assert len({" ".join(query.text.lower().split()) for query in QUERIES}) == len(QUERIES)
    assert len({query.id for query in QUERIES}) == len(QUERIES)


def test_every_query_is_judged_and_every_judgement_has_a_query() -> None:
    """Queries and judgements name each other completely."""
    assert set(QRELS) == {query.id for query in QUERIES}


@pytest.mark.slow
def test_every_judged_passage_is_in_the_corpus() -> None:
    """A judgement names a passage that this Python documents."""
    ids = {passage.id for passage in standard_library_passages()}
    assert not {name for judged in QRELS.values() for name in judged} - ids


def test_grades_are_one_or_two() -> None:
    """A judged passage helps (1) or answers (2); what does not help is not judged."""
    assert {grade for judged in QRELS.values() for grade in judged.values()} == {1.0, 2.0}


@pytest.mark.slow
def test_no_query_is_copied_from_its_passage() -> None:
    """Queries are in a user's own words: no judged passage contains one of four words or more as it stands."""
    texts = {passage.id: passage.text.lower() for passage in standard_library_passages()}
    copied = [
        query.id
        for query in QUERIES
        if len(query.text.split()) >= 4 and any(query.text.lower() in texts[name] for name in QRELS[query.id])
    ]
    assert copied == []
