"""What the canary runner knows of a set: what its result is a function of, and what a production index has of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.drift.labelled import RetrievalScores
from sidecar.errors import DataError
from sidecar.model import Ranking

if TYPE_CHECKING:
    from sidecar.drift.composition import PairScores
    from sidecar.probesets.read import ProbeSet
    from sidecar.replay.known_documents import KnownDocuments
    from sidecar.replay.retriever import Retriever


def result_key(one: ProbeSet, encoder: str, index: str) -> str:
    """Name a result by all that it is a function of."""
    return "/".join(["scores", one.name, one.checksum, encoder, *([index] if of_the_index(one) else [])])


def of_the_index(one: ProbeSet) -> bool:
    """Say whether a set is asked of the production index."""
    return one.kind == "retrieval" and one.corpus is None


def condensed(ranking: Ranking, known: KnownDocuments) -> Ranking:
    """Drop the documents that were unknown at acceptance."""
    held = known.holds(ranking.ids)
    scores = ranking.scores or (0.0,) * len(ranking.ids)
    there = [(name, score) for name, score, kept in zip(ranking.ids, scores, held, strict=True) if kept]
    return Ranking(tuple(name for name, _ in there), tuple(score for _, score in there))


def missing_share(one: ProbeSet, retriever: Retriever, accepted: RetrievalScores | PairScores | None) -> float:
    """Give the share of the judged documents that are in neither the set's corpus nor, without one, the index.

    0 for an index that does not list its documents.

    Raises:
        DataError: none of them is there, and the accepted stack found none: the set is about other documents.
    """
    ids = getattr(retriever.index, "ids", None) if of_the_index(one) else one.corpus
    if one.kind != "retrieval" or ids is None:
        return 0.0
    judged = {document for grades in one.judgements.values() for document, grade in grades.items() if grade > 0}
    share = len(judged.difference(ids)) / len(judged)
    if share == 1.0 and not (isinstance(accepted, RetrievalScores) and any(accepted.values["recall@100"])):
        where = "the deployed index" if of_the_index(one) else "its corpus"
        raise DataError(f"{one.folder}: none of its judged documents is in {where}; rule: the ids of those documents")
    return share
