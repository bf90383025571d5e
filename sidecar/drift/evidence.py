"""What attribution reasons from: one small record for each gauge, and None where a gauge was not read.

Only measured numbers, each beside its own noise (sample size, spread, level at acceptance). How they are measured
is the replay's business, what they mean is that of `gauges` and `attribution`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from sidecar.drift.mix import Split

STORED_SAME = 0.9999
"""Cosine of a stored vector with its re-encoding from which it is the same: float16 storage and bfloat16 weights
keep more, retraining leaves less (docs/encoders.md)."""

UNRELATED_RANK = 0.01
"""A stored vector is unrelated to its document when more than this share of other documents are closer to it. A rank,
because no cosine separates the two for every encoder: where all vectors lie in a narrow cone, any two documents have
a cosine of 0.8, and a vector of the encoder's last version may have 0.7 with its own."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Mean of n independent values in [0, 1], one a query.

    Without `sd` the largest possible one is used: sqrt(mean (1 - mean)).
    """

    mean: float
    n: int
    sd: float | None = None


@dataclass(frozen=True, slots=True)
class EncoderCheck:
    """An encoder now against its accepted fingerprint, each side apart (`encoders.fingerprint`)."""

    query_same: bool
    document_same: bool
    query_cosine: float
    """Mean cosine over the sentinels in query mode (`similarity`)."""
    document_cosine: float
    """The same in document mode (`document_similarity`)."""


@dataclass(frozen=True, slots=True)
class IndexCheck:
    """What an index says of itself, now and when the baseline was accepted. Unknown parts are None."""

    documents: int | None = None
    accepted_documents: int | None = None
    rebuilt: bool | None = None
    """Whether its generation differs from the accepted one; None for a store that has no generations."""


@dataclass(frozen=True, slots=True)
class StoredCheck:
    """Stored vectors of randomly sampled documents against re-encoding with the encoder deployed now."""

    documents: int
    """Documents sampled, new ones included."""
    bad: int
    """How many of them have a cosine below `STORED_SAME`."""
    low: int
    """How many of them (part of `bad`) are closer to other documents than to their own (`count_stored`)."""
    new_documents: int | None = None
    """How many of the sampled documents were unknown at acceptance; None if that cannot be told."""
    new_bad: int | None = None
    """How many of those are bad."""
    accepted_documents: int = 0
    """Size of the same sample at acceptance, 0 if there was none (then every vector is taken to have agreed)."""
    accepted_bad: int = 0
    accepted_low: int = 0

    def __post_init__(self) -> None:
        """Refuse counts that cannot be."""
        if not 0 <= self.low <= self.bad <= self.documents or not self.documents:
            raise ValueError(
                f"low {self.low}, bad {self.bad}, documents {self.documents}; rule: low <= bad <= documents"
            )
        if not 0 <= self.accepted_low <= self.accepted_bad <= self.accepted_documents:
            raise ValueError("accepted counts must obey accepted_low <= accepted_bad <= accepted_documents")
        new, new_bad = self.new_documents, self.new_bad
        if (new is None) != (new_bad is None):
            raise ValueError("new_documents and new_bad are known together or not at all")
        if new is None or new_bad is None:
            return
        if not (0 <= new_bad <= new <= self.documents and 0 <= self.bad - new_bad <= self.documents - new):
            raise ValueError(f"new_bad {new_bad} of new_documents {new}; rule: bad <= documents, new and known")


@dataclass(frozen=True, slots=True)
class RecallCheck:
    """Recall@k of the search itself, on the stored vectors, per query, now and at acceptance."""

    now: Sample
    accepted: Sample
    gauge: str = "approximate against exact"
    """Or "served against replayed". An exact index gives two samples of mean 1, sd 0."""


@dataclass(frozen=True, slots=True)
class ProbeCheck:
    """Frozen probes replayed against one retriever: overlap@k of each ranking with its accepted ranking."""

    now: Sample
    floor: Sample
    """The same number when nothing changed: replays of the accepted state itself. Exact search: mean 1, sd 0."""
    known: Sample | None = None
    """As `now`, on lists condensed to the documents that the index held at acceptance and still holds."""
    moved: float | None = None
    """Share of the probes whose ranking differs at all."""
    new_share: float | None = None
    """Share of the places in the top k that documents unknown at acceptance hold."""
    gone_share: float | None = None
    """Share of the accepted top-k documents that the index no longer holds."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was measured; None is "not measured", its reason under the field's name in `missing`."""

    deployed_encoder: EncoderCheck | None = None
    reference_encoder: EncoderCheck | None = None
    deployed_index: IndexCheck | None = None
    reference_index: IndexCheck | None = None
    stored: StoredCheck | None = None
    recall: RecallCheck | None = None
    deployed_probes: ProbeCheck | None = None
    reference_probes: ProbeCheck | None = None
    live: Split | None = None
    """The change of the watched live signal since acceptance, by `mix.split`."""
    clustered: bool = False
    """Whether the strata of `live` are clusters of the reference encoder's vectors; False: slices of the service."""
    missing: Mapping[str, str] = field(default_factory=dict)


def count_stored(
    stored: ArrayLike,
    encoded: ArrayLike,
    *,
    is_new: ArrayLike | None = None,
    accepted: StoredCheck | None = None,
) -> StoredCheck:
    """Count the sampled stored vectors that disagree with their re-encoding.

    Args:
        stored: (n, dimension) vectors of n randomly sampled documents as the index holds them, any length.
        encoded: (n, dimension) the same documents encoded with the encoder deployed now; another dimension
            disagrees altogether.
        is_new: (n,) whether the document was unknown at acceptance, if that can be told.
        accepted: the check made at acceptance, if there was one.

    Raises:
        ValueError: no document, or numbers of documents differ.

    """
    held, fresh = _unit(stored), _unit(encoded)
    n = len(held)
    new = None if is_new is None else np.asarray(is_new, dtype=np.bool_)
    if not n or len(fresh) != n or (new is not None and len(new) != n):
        raise ValueError(f"{n} stored vectors, {len(fresh)} encodings; rule: one of each a document, at least one")
    if held.shape == fresh.shape:
        cosines = held @ fresh.T
        own = np.diagonal(cosines).copy()
        np.fill_diagonal(cosines, -np.inf)
        bad = own < STORED_SAME
        # A vector of zeros is as close to every document as to its own.
        low = bad & ((cosines >= own[:, None]).sum(axis=1) > UNRELATED_RANK * (n - 1))
    else:
        bad = low = np.ones(n, dtype=np.bool_)
    return StoredCheck(
        documents=n,
        bad=int(bad.sum()),
        low=int(low.sum()),
        new_documents=None if new is None else int(new.sum()),
        new_bad=None if new is None else int((new & bad).sum()),
        accepted_documents=accepted.documents if accepted else 0,
        accepted_bad=accepted.bad if accepted else 0,
        accepted_low=accepted.low if accepted else 0,
    )


def _unit(vectors: ArrayLike) -> NDArray[np.float64]:
    """Scale rows to length 1; rows that are no direction (zeros, not finite) become zeros."""
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float64))
    rows = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, 0.0)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0.0)
    return unit
