"""Which sets there are: the bundled ones and what is promised of them, and folders of the user's own."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from sidecar.encoders.fingerprint import SENTINELS, sentinel_texts
from sidecar.errors import ConfigurationError
from sidecar.probesets.library import bundled_folder, find_sets
from sidecar.probesets.read import PAIR_KEYS, ProbeSet, read_set
from tests.probesets.conftest import write
from training.sentences import paraphrases, twins

TRAINING = Path(__file__).parents[2] / "training"
PHENOMENA = {"negation", "role_swap", "spatial", "quantity", "temporal_order", "modality", "comparison"}


@pytest.fixture(scope="module")
def bundled() -> dict[str, ProbeSet]:
    """Read the bundled sets once."""
    return {one.name: one for one in find_sets().sets}


def test_all_bundled_sets_can_be_read(bundled):
    """One of each kind comes with the program, and none is set aside."""
    assert set(bundled) == {"composition", "generalization", "sentinel"}
    assert find_sets().aside == ()
    for one in bundled.values():
        assert one.manifest.licence == "Apache-2.0"
        assert (one.folder / "README.md").is_file()


def test_the_bundled_queries_cover_six_domains(bundled):
    """At least 60 passages of 60 to 200 words and 50 queries for each domain, and graded judgements."""
    one = bundled["generalization"]
    passages = Counter(name.rpartition("-")[0] for name in one.corpus)
    queries = Counter(query.domain for query in one.queries)
    assert len(queries) >= 6
    assert queries.keys() == passages.keys()
    assert min(passages.values()) >= 60
    assert min(queries.values()) >= 50
    texts = [json.loads(line)["text"] for line in (one.folder / "corpus.jsonl").read_text().splitlines()]
    assert [text for text in texts if not 60 <= len(text.split()) <= 200] == []
    grades = Counter(grade for its in one.judgements.values() for grade in its.values())
    assert grades.keys() == {1.0, 2.0}
    assert sum(len(its) > 1 for its in one.judgements.values()) >= 6 * 10
    assert (one.unjudged, one.strangers) == ((), ())


def test_the_bundled_pairs_cover_seven_phenomena(bundled):
    """At least 700 triples, and enough of each phenomenon to see a change of it."""
    counts = Counter(triple.phenomenon for triple in bundled["composition"].triples)
    assert counts.keys() == PHENOMENA
    assert counts.total() >= 700
    assert min(counts.values()) >= 50


def test_the_bundled_texts_are_those_of_the_fingerprint(bundled):
    """64 of them, and the same that encoders are told apart by."""
    assert bundled["sentinel"].texts == sentinel_texts()
    assert len(sentinel_texts()) == SENTINELS


def test_no_training_sentence_is_in_the_bundled_pairs(bundled):
    """The demo's encoder must not be measured on what it, or its own test, was made from."""

    def plain(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.casefold()))

    ours = {plain(getattr(one, part)) for one in bundled["composition"].triples for part in PAIR_KEYS}
    rows = [json.loads(line) for line in (TRAINING / "data" / "composition_heldout.jsonl").read_text().splitlines()]
    theirs = {plain(row[part]) for row in rows for part in PAIR_KEYS}
    rng = random.Random(20260)  # noqa: S311  (the seed matters)
    for pair in twins(20_000, rng):
        theirs |= {plain(pair.sentence), plain(pair.twin)}
    for sentences in paraphrases(10_000, rng):
        theirs |= set(map(plain, sentences))
    assert len(theirs) > 40_000
    assert ours & theirs == set()


def test_bundled_sets_are_chosen_by_name():
    """Only those that the settings name are read."""
    assert [one.name for one in find_sets(["sentinel"]).sets] == ["sentinel"]
    assert find_sets([]).sets == ()


def test_an_unknown_name_is_refused_with_those_that_there_are():
    """A typing error in the settings is not an empty canary run."""
    with pytest.raises(ConfigurationError, match="generalisation; there are composition, generalization, sentinel"):
        find_sets(["generalisation"])


def test_a_folder_is_a_set_or_holds_sets(tmp_path):
    """Hidden folders and other things in it are passed over."""
    write(tmp_path / "b", "retrieval")
    write(tmp_path / "a", "composition")
    write(tmp_path / ".hidden", "retrieval")
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("x")
    assert [one.name for one in find_sets([], [tmp_path]).sets] == ["a", "b"]
    assert [one.name for one in find_sets([], [tmp_path / "b"]).sets] == ["b"]


def test_one_bad_set_is_set_aside_and_the_others_are_read(tmp_path):
    """It keeps its name and every rule that it breaks."""
    write(tmp_path / "good", "retrieval")
    write(tmp_path / "bad", "retrieval", **{"queries.jsonl": "no\nno\n"})
    write(tmp_path / "good-too", "composition")
    library = find_sets([], [tmp_path])
    assert [one.name for one in library.sets] == ["good", "good-too"]
    (aside,) = library.aside
    assert aside.name == "bad"
    assert [f"queries.jsonl, line {n}: not JSON" in line for n, line in enumerate(aside.reason.splitlines(), 1)] == [
        True, True,
    ]  # fmt: skip


def test_of_two_sets_of_one_name_the_first_counts(tmp_path):
    """Their scores could not be told apart; a bundled set is never replaced by accident."""
    write(tmp_path / "sentinel", "sentinel")
    library = find_sets(["sentinel"], [tmp_path])
    assert library.sets[0].checksum == read_set(bundled_folder() / "sentinel").checksum
    assert "same name" in library.aside[0].reason


def test_a_folder_that_is_no_set_says_what_it_lacks(tmp_path):
    """An empty folder in the settings is a set that cannot be read."""
    (aside,) = find_sets([], [tmp_path]).aside
    assert "probe.yaml: cannot be read" in aside.reason


@pytest.mark.parametrize("name", ["missing", "x" * 300], ids=["missing", "impossible"])
def test_a_folder_that_is_not_there_is_refused(tmp_path, name):
    """A folder in the settings that cannot be opened is an error of the settings."""
    with pytest.raises(ConfigurationError, match="probe sets: "):
        find_sets([], [tmp_path / name])
