"""Measuring a loaded stack: stored vectors against their text, encoder sides, recall, and the evidence as a whole.

Real encoders and indexes where they can show it; a stand-in only for exact knowledge of a thousand documents. Whether
the measurements lead to the right cause is in `tests/attribution`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.attribution import Cause, attribute
from sidecar.drift.evidence import Sample
from sidecar.encoders.cache import CachedEncoder
from sidecar.errors import DataError
from sidecar.indexes.exact import ExactIndex
from sidecar.indexes.write import write_index
from sidecar.model import Ranking
from sidecar.replay.inspection import EXACT, Elsewhere, Inspection, Record, encoder_sides, index_recall, inspect
from sidecar.replay.known_documents import KnownDocuments
from sidecar.replay.probe_book import SIDES, AtRest, Book, Probe
from sidecar.replay.probe_compare import compare_run
from sidecar.replay.retriever import Pair, Retriever
from sidecar.replay.stored import StoredRecord, digest, stored_vectors
from tests.replay.conftest import TEXTS

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.drift.probe_run import FrozenRun

pytestmark = pytest.mark.slow

QUERIES = ("When do I get my money back?", "Who may see my data?", "Is the warehouse open?")


def finish(run):
    """Run a measurement to its end."""
    while True:
        try:
            next(run)
        except StopIteration as done:
            return done.value


def corpus_of(folder: Path, documents) -> Path:
    """Write a corpus file."""
    lines = (json.dumps({"_id": one, "text": text}) for one, text in documents)
    place = folder / "corpus.jsonl"
    place.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return place


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Give the corpus that the indexes of `conftest` were built from."""
    return corpus_of(tmp_path_factory.mktemp("corpus"), ((f"d{i}", text) for i, text in enumerate(TEXTS)))


def with_vectors(version, folder: Path, vectors) -> Retriever:
    """Give the version's retriever with other stored vectors; written past the builder, as a fault of a disk is."""
    index = version.retriever.index
    write_index(folder, index.ids, index.vectors(np.arange(index.size)), encoder_name="any",
                fingerprint=version.fingerprint, now=1.0)  # fmt: skip
    opened = ExactIndex.open(folder)
    (folder / opened.manifest.vectors_file).write_bytes(np.asarray(vectors, dtype="<f4").tobytes())
    return replace(version.retriever, index=ExactIndex.open(folder))


def as_reference(version) -> Retriever:
    """Give the version's retriever in the role of the reference."""
    return replace(version.retriever, role="reference")


class Hashed:
    """Encodes a text to numbers that only that text has."""

    name, dimension = "hashed", 8

    def encode_documents(self, texts):
        """Give a row for each text."""
        return np.stack([np.random.default_rng(digest(text)).normal(size=8) for text in texts]).astype(np.float32)


class Held:
    """An index of documents that were all encoded by `Hashed`, but for those in `stale`."""

    def __init__(self, ids, stale=()):
        self.ids = tuple(ids)
        self._stale = set(stale)

    def vectors(self, rows):
        """Give stored vectors."""
        return Hashed().encode_documents([self.ids[row] + "!" * (self.ids[row] in self._stale) for row in rows])


class TestStoredVectors:
    """Stored vectors against the text that they stand for."""

    def test_an_index_agrees_with_the_encoder_that_built_it(self, base, corpus) -> None:
        """Every vector is its text's, to float32 rounding."""
        stored = finish(stored_vectors(base.retriever.index, base.retriever.encoder, corpus))
        assert (stored.check.documents, stored.check.bad, stored.textless) == (len(TEXTS), 0, 0)
        assert stored.cosines.min() > 1 - 1e-5

    def test_a_lost_query_prompt_is_no_fault_of_the_index(self, base, prompted, corpus) -> None:
        """Only the document side of the encoder matters here."""
        assert finish(stored_vectors(base.retriever.index, prompted.retriever.encoder, corpus)).check.bad == 0

    def test_no_vector_is_that_of_another_encoder(self, base, tuned, corpus) -> None:
        """With a fine-tuned encoder before the old index every vector is off."""
        stored = finish(stored_vectors(base.retriever.index, tuned.retriever.encoder, corpus))
        assert stored.check.bad == len(TEXTS)
        assert stored.cosines.max() < 0.9999

    def test_exchanged_vectors_are_unrelated(self, base, corpus, tmp_path) -> None:
        """Two documents with each other's vectors are found, and only they."""
        vectors = base.retriever.index.vectors(np.array([1, 0, 2, 3, 4]))
        check = finish(
            stored_vectors(with_vectors(base, tmp_path / "i", vectors).index, base.retriever.encoder, corpus)
        ).check
        assert (check.bad, check.low) == (2, 2)

    def test_numbers_that_are_not_finite_are_unrelated(self, base, corpus, tmp_path) -> None:
        """What a torn disk block leaves is counted and warns of nothing."""
        vectors = base.retriever.index.vectors(np.arange(5))
        vectors[3, 7], vectors[4] = np.nan, np.inf
        broken = with_vectors(base, tmp_path / "i", vectors)
        stored = finish(stored_vectors(broken.index, base.retriever.encoder, corpus))
        assert (stored.check.bad, stored.check.low) == (2, 2)
        assert stored.cosines[:2].tolist() == [0.0, 0.0]

    def test_a_document_without_text_is_left_out_and_counted(self, base, tmp_path) -> None:
        """The corpus may have lost a document that the index still holds."""
        place = corpus_of(tmp_path, [("d1", TEXTS[1]), ("d4", TEXTS[4]), ("not indexed", "Nothing.")])
        stored = finish(stored_vectors(base.retriever.index, base.retriever.encoder, place))
        assert (stored.check.documents, stored.check.bad, stored.textless) == (2, 0, 3)

    @pytest.mark.parametrize(
        ("content", "rule"),
        [
            ('{"_id": "d0", "text": "a"}\nnot JSON\n', "line 2: not JSON"),
            ('{"_id": "d0"}\n', "line 1: lacks the key 'text'"),
            ('{"_id": "x", "text": "a"}\n', "has none of 5 sampled documents"),
            (None, "cannot be read"),
        ],
    )
    def test_a_broken_corpus_is_named(self, base, tmp_path, content, rule) -> None:
        """The error says which file and which rule."""
        place = tmp_path / "corpus.jsonl"
        if content is not None:
            place.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=rule) as caught:
            finish(stored_vectors(base.retriever.index, base.retriever.encoder, place))
        assert "corpus.jsonl" in str(caught.value)

    def test_every_replica_draws_the_same_documents(self, tmp_path) -> None:
        """The order of the rows does not matter, and a smaller sample is a part of a larger one."""
        ids = [f"d{i}" for i in range(300)]
        place = corpus_of(tmp_path, ((one, one) for one in ids))

        def drawn(order, sample):
            return finish(stored_vectors(Held(order), Hashed(), place, sample=sample)).record.digests

        assert drawn(ids, 50) == drawn(ids[::-1], 50)
        assert len(drawn(ids, 50)) == 50
        assert drawn(ids, 20) < drawn(ids, 50)

    @given(st.data())
    def test_new_documents_are_told_from_known_ones(self, tmp_path_factory, data) -> None:
        """However an index grows and shrinks, each sampled document is known as new or old, and old faults as old."""
        pool = [f"d{i}" for i in range(60)]
        before = data.draw(st.lists(st.sampled_from(pool), min_size=1, unique=True))
        after = data.draw(st.lists(st.sampled_from(pool), min_size=1, unique=True))
        stale = data.draw(st.sets(st.sampled_from(pool)))
        place = corpus_of(tmp_path_factory.mktemp("c"), ((one, one) for one in pool))
        first = finish(stored_vectors(Held(before), Hashed(), place, sample=12)).record
        record = StoredRecord.from_state(json.loads(json.dumps(first.to_state())))
        assert record == first
        try:
            later = finish(stored_vectors(Held(after, stale), Hashed(), place, sample=12, accepted=record))
        except DataError:
            assert all(digest(one) > first.border for one in after)
            return
        drawn = [one for one in pool if digest(one) in later.record.digests]
        assert set(drawn) <= set(after)
        new = [one for one in drawn if one not in before]
        assert later.check.new_documents == len(new)
        assert later.check.bad == len(stale & set(drawn))
        assert later.check.new_bad == len(stale & set(new))


class TestEncoderSides:
    """Query side and document side apart."""

    def test_a_lost_prompt_shows_on_the_query_side_only(self, base, prompted) -> None:
        """The documents are as they were."""
        sides = encoder_sides(prompted.fingerprint, base.fingerprint)
        assert (sides.query_same, sides.document_same) == (False, True)
        assert sides.query_cosine < 0.99
        assert sides.document_cosine == pytest.approx(1.0, abs=1e-6)

    def test_a_fine_tune_shows_on_both(self, base, tuned) -> None:
        """Queries and documents move."""
        sides = encoder_sides(base.fingerprint, tuned.fingerprint)
        assert (sides.query_same, sides.document_same) == (False, False)


class Forgetful:
    """An exact index whose search misses the best document."""

    def __init__(self, index):
        self._index = index
        self.ids, self.size, self.generation = index.ids, index.size, index.generation
        self.vectors, self.scores, self.dimension = index.vectors, index.scores, index.dimension

    def search(self, vectors, k):
        """Rank from the second on."""
        deeper = self._index.search(vectors, k + 1)
        return [Ranking(one.ids[1:], one.scores[1:]) for one in deeper]


class TestIndexRecall:
    """Approximate search against exact search on the same vectors."""

    def test_exact_search_misses_nothing(self, base) -> None:
        """Every found document scores as an exact one."""
        assert finish(index_recall(base.retriever, QUERIES, 3)) == Sample(1.0, 3, 0.0)

    def test_what_the_search_misses_is_missing(self, base) -> None:
        """One document of two is lost for every query."""
        forgetful = replace(base.retriever, index=Forgetful(base.retriever.index))
        assert finish(index_recall(forgetful, QUERIES, 2)) == Sample(0.5, 3, 0.0)

    def test_a_copy_of_the_best_is_as_good(self, base, tmp_path) -> None:
        """Where two documents are equal, either is right."""
        copies = base.retriever.index.vectors(np.array([0, 0, 0, 0, 0]))
        forgetful = Forgetful(with_vectors(base, tmp_path / "i", copies).index)
        assert finish(index_recall(replace(base.retriever, index=forgetful), QUERIES, 2)) == Sample(1.0, 3, 0.0)


def measured(pair, accepted, corpus, **others):
    """Inspect in one go."""
    fingerprints = others.pop("fingerprints", {})
    run = inspect(
        pair, accepted=accepted, fingerprints=fingerprints, corpus=corpus, elsewhere=Elsewhere(**others), probes=QUERIES
    )
    return Inspection(run).step(60.0)


def frozen(accepted: Pair, now: Pair) -> FrozenRun:
    """Freeze the queries at the accepted pair and replay them through the one of now."""

    def answers(pair):
        return {
            side: dict(zip(QUERIES, getattr(pair, side).search(QUERIES, 3, lambda *_: None)[0], strict=True))
            for side in SIDES
        }

    before = answers(accepted)
    probes = tuple(Probe(text, "all", before["deployed"][text], before["reference"][text]) for text in QUERIES)
    rest = {side: AtRest(None, KnownDocuments.of(getattr(accepted, side).index)) for side in SIDES}
    book = Book("book", 0.0, 0.0, accepted.stack, 3, probes, **rest)
    today = {side: KnownDocuments.of(getattr(now, side).index) for side in SIDES}
    return compare_run(book, answers(now), today, at=1.0, stack=now.stack, awake=len(probes))


class TestInspect:
    """The evidence as a whole."""

    @pytest.fixture
    def pair(self, base, tuned) -> Pair:
        """Give a deployed base model and a fine-tuned reference."""
        return Pair(base.retriever, as_reference(tuned))

    def test_a_first_look_has_nothing_to_compare_with_and_gives_a_record(self, pair, corpus) -> None:
        """The record survives JSON, and the evidence says why it is empty."""
        first = measured(pair, None, corpus, fidelity=Sample(0.9, 100, 0.1))
        assert first.evidence.deployed_encoder is None
        assert "nothing was recorded" in first.evidence.missing["deployed_encoder"]
        assert first.record.documents == {"deployed": 5, "reference": 5}
        assert Record.from_state(json.loads(json.dumps(first.record.to_state()))) == first.record

    def test_an_unchanged_stack_has_every_gauge_but_the_live_one(self, pair, corpus) -> None:
        """Nothing changed, and of what needs the stack nothing is missing."""
        record = measured(pair, None, corpus).record
        seen = measured(pair, record, corpus, frozen=frozen(pair, pair)).evidence
        assert set(seen.missing) == {"live"}
        found = attribute(seen)
        assert set(found.open) == {Cause.MIX_SHIFTED, Cause.OUTSIDE_PROBES}

    def test_a_new_encoder_is_compared_with_the_accepted_fingerprint(self, base, tuned, corpus) -> None:
        """Both sides of it, and what is stored."""
        record = measured(Pair(base.retriever, as_reference(base)), None, corpus).record
        deployed = replace(tuned.retriever, index=base.retriever.index, index_matches=False)
        pair, known = Pair(deployed, as_reference(base)), {base.fingerprint.digest: base.fingerprint}
        seen = measured(pair, record, corpus, fingerprints=known).evidence
        assert seen.deployed_encoder == encoder_sides(base.fingerprint, tuned.fingerprint)
        assert seen.reference_encoder == encoder_sides(base.fingerprint, base.fingerprint)
        assert seen.deployed_index.rebuilt is False
        assert seen.stored.bad == len(TEXTS)
        without = measured(pair, record, corpus).evidence
        assert without.deployed_encoder is None
        assert base.fingerprint.digest in without.missing["deployed_encoder"]

    def test_without_a_corpus_the_manifest_is_what_is_left(self, pair, corpus) -> None:
        """The reason says what the index claims."""
        record = measured(pair, None, corpus).record
        seen = measured(pair, record, None).evidence
        assert seen.stored is None
        assert seen.missing["stored"] == "no corpus is configured; the index's manifest names the deployed encoder"

    def test_a_broken_corpus_takes_no_other_gauge_down(self, pair, corpus, tmp_path) -> None:
        """Its error is the reason, the rest is measured."""
        record = measured(pair, None, corpus).record
        broken = tmp_path / "corpus.jsonl"
        broken.write_text("not JSON\n", encoding="utf-8")
        seen = measured(pair, record, broken).evidence
        assert "line 1: not JSON" in seen.missing["stored"]
        assert seen.deployed_encoder is not None
        assert seen.recall is not None

    def test_a_replay_of_another_stack_is_no_evidence(self, pair, corpus) -> None:
        """Probes that were replayed before the last release say nothing about it."""
        record = measured(pair, None, corpus).record
        run = replace(frozen(pair, pair), stack=replace(pair.stack, deployed_index="another"))
        seen = measured(pair, record, corpus, frozen=run).evidence
        assert seen.deployed_probes is None
        assert "since the stack changed" in seen.missing["reference_probes"]

    def test_exact_search_has_recall_1_unless_the_service_says_otherwise(self, pair, corpus) -> None:
        """The fidelity of the service's answers is used as soon as both ends are known."""
        record = measured(pair, None, corpus, fidelity=Sample(0.99, 500, 0.03)).record
        by_construction = measured(pair, record, corpus).evidence.recall
        assert (by_construction.now, by_construction.accepted) == (EXACT, EXACT)
        served = measured(pair, record, corpus, fidelity=Sample(0.8, 500, 0.2)).evidence.recall
        assert (served.now.mean, served.accepted.mean, served.gauge) == (0.8, 0.99, "served against replayed")

    def test_an_approximate_index_is_measured_against_exact_search(self, pair, corpus) -> None:
        """Now and at acceptance."""
        forgetful = replace(pair.deployed, index=Forgetful(pair.deployed.index))
        record = measured(pair, None, corpus).record
        worse = Pair(forgetful, pair.reference)
        assert measured(worse, record, corpus).evidence.recall.now.mean == pytest.approx(0.8)
        assert measured(
            worse, measured(worse, None, corpus).record, corpus
        ).evidence.recall.accepted.mean == pytest.approx(0.8)

    def test_live_replay_gets_its_turn_after_every_step(self, pair, corpus) -> None:
        """With no time to spend an inspection still proceeds, a small step at a time, to the same evidence."""
        run = inspect(pair, accepted=None, fingerprints={}, corpus=corpus, elsewhere=Elsewhere(), sample=5)
        inspection, steps = Inspection(run), 1
        while (done := inspection.step(0.0)) is None:
            steps += 1
        assert steps >= 3  # drawing, one batch of texts, the rest
        assert done.record == measured(pair, None, corpus).record

    def test_a_cached_encoder_is_not_filled_with_documents(self, base, corpus) -> None:
        """The cache is for live queries."""
        cached = CachedEncoder(base.retriever.encoder.encoder, 100)
        finish(stored_vectors(base.retriever.index, cached, corpus))
        assert len(cached) == 0
