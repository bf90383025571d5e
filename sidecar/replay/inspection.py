"""Measure a loaded stack for attribution: what it is now, beside what it was when its baseline was accepted.

`inspect` reads every gauge that needs the encoders and indexes themselves, takes the others (frozen probes, the live
split, replay fidelity) as they were measured elsewhere, and puts all of it into one `Evidence`. What could not be
measured is None with its reason; one broken gauge takes no other down. The same measurements are what a later
inspection compares with if this state is accepted: `Record`.

Encoding and searching share their thread with live replay, so an inspection proceeds in steps of a fraction of a
second (`Inspection.step`). Where its inputs come from and who keeps the record is left to others, and what the
evidence means to `drift.attribution`.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sidecar.drift.evidence import EncoderCheck, Evidence, IndexCheck, RecallCheck, Sample
from sidecar.encoders.fingerprint import document_similarity, matches_documents, matches_queries, similarity
from sidecar.errors import DataError, DependencyError
from sidecar.indexes.exact import ExactIndex
from sidecar.model import Stack
from sidecar.replay.stored import SAMPLE, HoldsVectors, StoredRecord, stored_vectors

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from sidecar.drift.mix import Split
    from sidecar.drift.probe_run import FrozenRun
    from sidecar.encoders.fingerprint import Fingerprint
    from sidecar.replay.retriever import Pair, Retriever
    from sidecar.replay.stored import Stored

STEP_SECONDS = 0.2
"""A live query waits this long at most for a step that has begun, and for the one batch of documents that ends it."""

QUERIES_AT_ONCE = 64
ROWS_AT_ONCE = 65_536

EXACT = Sample(1.0, 0, 0.0)
"""Recall of exact search: 1 by construction. n = 0 is a number without an error."""

TIE = 1e-5
"""Scores this close, relative to 1 or to themselves, are equal: ten times what float32 rounds off."""

NO_RECORD = "nothing was recorded at acceptance"


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a stack when its baseline is accepted. Of an encoder: its digest, by which the store has it."""

    stack: Stack
    documents: Mapping[str, int]
    """Size of the index of each role."""
    stored: StoredRecord | None = None
    recall: Sample | None = None
    """Of an approximate index against exact search on the same vectors; None if it was not measured."""
    fidelity: Sample | None = None
    """Of the live queries: what the service served against what the replay of it gave."""

    def to_state(self) -> dict[str, Any]:
        """Give it as JSON-able data."""
        return {
            "stack": asdict(self.stack),
            "documents": dict(self.documents),
            "stored": self.stored.to_state() if self.stored else None,
            "recall": asdict(self.recall) if self.recall else None,
            "fidelity": asdict(self.fidelity) if self.fidelity else None,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Record:
        """Read what `to_state` gave."""
        stored, recall, fidelity = state["stored"], state["recall"], state["fidelity"]
        return cls(
            Stack(**state["stack"]),
            state["documents"],
            stored=StoredRecord.from_state(stored) if stored else None,
            recall=Sample(**recall) if recall else None,
            fidelity=Sample(**fidelity) if fidelity else None,
        )


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What is measured elsewhere and only handed through, with the reason for what is missing."""

    frozen: FrozenRun | None = None
    """The last complete replay of the frozen probes."""
    live: Split | None = None
    """The change of the watched live signal since acceptance."""
    clustered: bool = False
    """Whether its strata are clusters of the reference."""
    fidelity: Sample | None = None
    """`fidelity@k` of the recent live queries."""
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inspected:
    """The evidence against the accepted state, and the record to keep if this state is accepted."""

    evidence: Evidence
    record: Record
    stored: Stored | None
    """Details of the check of the stored vectors, for the review."""


class Inspection:
    """One inspection under way. Call `step` from the replay's worker thread until it gives the outcome."""

    def __init__(self, run: Generator[None, None, Inspected]) -> None:
        self._run = run

    def step(self, seconds: float = STEP_SECONDS) -> Inspected | None:
        """Go on for about `seconds`; None while there is more to do. Blocking."""
        end = time.monotonic() + seconds
        while True:
            try:
                next(self._run)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            if time.monotonic() >= end:
                return None


def inspect(
    pair: Pair,
    *,
    accepted: Record | None,
    fingerprints: Mapping[str, Fingerprint],
    corpus: Path | None,
    elsewhere: Elsewhere,
    probes: Sequence[str] = (),
    k: int = 10,
    sample: int = SAMPLE,
) -> Generator[None, None, Inspected]:
    """Measure the stack in steps; run it with `Inspection`.

    Args:
        pair: the retrievers in use.
        accepted: the record of the accepted state; None measures for a first record.
        fingerprints: known fingerprints by digest (`store.fingerprints`), the accepted ones among them.
        corpus: the file that the deployed index was built from, if one is configured.
        elsewhere: the other gauges.
        probes: texts of queries with which the recall of an approximate index is measured.
        k: depth of the recall.
        sample: documents whose stored vectors are checked.

    """
    missing = dict(elsewhere.missing)
    stored: Stored | None = None
    recall: Sample | None = None
    try:
        stored = yield from _stored(pair.deployed, corpus, sample, accepted, missing)
    except (DataError, DependencyError) as error:
        missing["stored"] = str(error)
    try:
        recall = yield from _recall(pair.deployed, probes, k, missing)
    except (DataError, DependencyError) as error:
        missing["recall"] = str(error)
    deployed, reference = pair.deployed, pair.reference
    record = Record(
        pair.stack,
        {one.role: one.index.size for one in (deployed, reference)},
        stored.record if stored else None,
        recall,
        elsewhere.fidelity,
    )
    frozen = _of_this_stack(elsewhere.frozen, pair.stack, missing)
    if elsewhere.live is None:
        missing.setdefault("live", "the live signal has no baseline yet")
    evidence = Evidence(
        deployed_encoder=_encoder(deployed, accepted, fingerprints, missing),
        reference_encoder=_encoder(reference, accepted, fingerprints, missing),
        deployed_index=_index(deployed, accepted),
        reference_index=_index(reference, accepted),
        stored=stored.check if stored else None,
        recall=_recall_check(record, accepted, missing),
        deployed_probes=frozen.deployed.check() if frozen else None,
        reference_probes=frozen.reference.check() if frozen else None,
        live=elsewhere.live,
        clustered=elsewhere.clustered,
        missing=missing,
    )
    return Inspected(evidence, record, stored)


def encoder_sides(accepted: Fingerprint, now: Fingerprint) -> EncoderCheck:
    """Compare an encoder with its accepted self, queries and documents apart: a lost query prompt shows on one."""
    return EncoderCheck(
        query_same=matches_queries(accepted, now),
        document_same=matches_documents(accepted, now),
        query_cosine=similarity(accepted, now),
        document_cosine=document_similarity(accepted, now),
    )


def index_recall(retriever: Retriever, texts: Sequence[str], k: int) -> Generator[None, None, Sample]:
    """Measure an approximate index against exact search on its own stored vectors. Blocking.

    Recall@k of a query: how many of the found documents score at least what the exact k-th does (equal scores are no
    miss), divided by k, or by the documents where they are fewer. Mean and spread are those over `texts`.

    Raises:
        DataError: there are no queries, or the index does not give out its vectors.
        EncoderError, VectorIndexError: encoding or searching fails.

    """
    index = retriever.index
    if not texts or not isinstance(index, HoldsVectors):
        raise DataError("recall needs queries, and an index that gives out its vectors")
    depth = min(k, index.size)
    recalls: list[float] = []
    for start in range(0, len(texts), QUERIES_AT_ONCE):
        queries = retriever.encoder.encode_queries(texts[start : start + QUERIES_AT_ONCE])
        best = np.full((len(queries), depth), -np.inf, dtype=np.float32)
        for first in range(0, index.size, ROWS_AT_ONCE):
            yield
            rows = np.arange(first, min(first + ROWS_AT_ONCE, index.size))
            products = np.concatenate([best, queries @ index.vectors(rows).T], axis=1)
            best = np.partition(products, -depth, axis=1)[:, -depth:]
        yield
        found = [ranking.ids for ranking in index.search(queries, k)]
        for scores, least in zip(index.scores(queries, found), best.min(axis=1).tolist(), strict=True):
            good = sum(score is not None and score >= least - TIE * max(1.0, abs(least)) for score in scores)
            recalls.append(good / depth)
    return Sample(float(np.mean(recalls)), len(recalls), float(np.std(recalls)))


def _stored(
    retriever: Retriever, corpus: Path | None, sample: int, accepted: Record | None, missing: dict[str, str]
) -> Generator[None, None, Stored | None]:
    index = retriever.index
    if corpus is None:
        # The manifest knows with which encoder the index was begun, not what was written into it since.
        claim = "names the deployed encoder" if retriever.index_matches else "names another encoder than the deployed"
        missing["stored"] = f"no corpus is configured; the index's manifest {claim}"
    elif not isinstance(index, HoldsVectors):
        missing["stored"] = "the index does not give out its vectors"
    else:
        before = accepted.stored if accepted else None
        return (yield from stored_vectors(index, retriever.encoder, corpus, sample=sample, accepted=before))
    return None


def _recall(
    retriever: Retriever, probes: Sequence[str], k: int, missing: dict[str, str]
) -> Generator[None, None, Sample | None]:
    if isinstance(retriever.index, ExactIndex):
        return EXACT
    if not probes:
        missing["recall"] = "the texts of the frozen probes are not kept"
        return None
    return (yield from index_recall(retriever, probes, k))


def _recall_check(now: Record, accepted: Record | None, missing: dict[str, str]) -> RecallCheck | None:
    """Compare recall with that at acceptance; where the replay is exact, the service's own answers say more."""
    if accepted is None:
        missing["recall"] = NO_RECORD
    elif now.recall == EXACT and now.fidelity and accepted.fidelity:
        return RecallCheck(now.fidelity, accepted.fidelity, "served against replayed")
    elif now.recall == EXACT and accepted.recall in (EXACT, None):
        return RecallCheck(EXACT, EXACT, "exact search")
    elif now.recall and accepted.recall:
        return RecallCheck(now.recall, accepted.recall)
    elif now.recall:
        missing["recall"] = "it was not measured at acceptance"
    return None


def _encoder(
    retriever: Retriever, accepted: Record | None, known: Mapping[str, Fingerprint], missing: dict[str, str]
) -> EncoderCheck | None:
    now = retriever.fingerprint
    digest = getattr(accepted.stack, f"{retriever.role}_encoder") if accepted else None
    was = now if digest == now.digest else known.get(digest) if digest else None
    if was is None:
        kept = f"the fingerprint {digest} of the accepted encoder is not kept"
        missing[f"{retriever.role}_encoder"] = kept if digest else NO_RECORD
        return None
    return encoder_sides(was, now)


def _of_this_stack(frozen: FrozenRun | None, stack: Stack, missing: dict[str, str]) -> FrozenRun | None:
    """Refuse a replay of another stack: half of the evidence would be of yesterday's release."""
    reason = "no frozen probes were replayed"
    if frozen is not None:
        if not {"deployed_encoder", "deployed_index", "reference_encoder", "reference_index"} & {
            *frozen.stack.changes_since(stack)
        }:
            return frozen
        reason = "the frozen probes have not been replayed since the stack changed"
    for side in ("deployed_probes", "reference_probes"):
        missing.setdefault(side, reason)
    return None


def _index(retriever: Retriever, accepted: Record | None) -> IndexCheck:
    index, role = retriever.index, retriever.role
    if accepted is None:
        return IndexCheck(index.size)
    rebuilt = getattr(accepted.stack, f"{role}_index") != index.generation
    return IndexCheck(index.size, accepted.documents.get(role), rebuilt)
