"""One run of the canaries, as values: what both encoders score on every set, how they differ, and the names for it.

Labelled sets say whether retrieval got worse, composition sets whether the encoder was traded for it. Everything is
held against the reference and, once there is one, against the accepted stack. How the sets are asked is `replay`'s
business, when a fall is worth a page that of `paired_watch`. No text of a probe is in here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from sidecar.drift.composition import PairChange, PairScores, PairSummary, compare_pairs, shares_above, summarise
from sidecar.drift.labelled import DomainChange, RetrievalScores, Scale, compare_labelled, means, scale
from sidecar.drift.paired import ranking_hash
from sidecar.drift.signature import Signature, SignatureRule, name_changes
from sidecar.model import Stack  # noqa: TC001  (pydantic reads the annotations at run time, in `redis_shapes`)

if TYPE_CHECKING:
    from collections.abc import Sequence

Against = Literal["reference", "accepted"]
AGAINST: tuple[Against, ...] = ("reference", "accepted")

Held = TypeVar("Held")

Sides = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class SetName:
    """Which set, in which version; results of different checksums are never compared."""

    name: str
    version: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Scored:
    """What a set's encoders scored: the deployed, the reference, and the accepted one where its result is known."""

    name: SetName
    deployed: RetrievalScores | PairScores
    reference: RetrievalScores | PairScores
    accepted: RetrievalScores | PairScores | None
    compared: RetrievalScores | PairScores | None = None
    """What is held against the accepted result, where that is not `deployed` itself: scores on lists condensed to the
    documents that were known at acceptance."""
    missing: float = 0.0
    """Share of the judged documents that the deployed index does not have."""


@dataclass(frozen=True, slots=True)
class RetrievalRun:
    """A labelled set. `means` go by role, domain and measure; `changes` and `signatures` by what they are against."""

    set: SetName
    means: Mapping[str, Mapping[str, Mapping[str, float]]]
    scales: Mapping[str, Scale]
    changes: Mapping[Against, tuple[DomainChange, ...]]
    signatures: Mapping[Against, tuple[Signature, ...]]
    hashes: tuple[str, ...]
    """A digest of each of the deployed retriever's rankings, in the set's order."""
    missing: float


@dataclass(frozen=True, slots=True)
class CompositionRun:
    """A composition set. `summaries` go by role and phenomenon; `shares` too, one pair for each of the thresholds."""

    set: SetName
    summaries: Mapping[str, Mapping[str, PairSummary]]
    shares: Mapping[str, Mapping[str, tuple[tuple[float, float], ...]]]
    changes: Mapping[Against, tuple[PairChange, ...]]


@dataclass(frozen=True, slots=True)
class CanaryRun:
    """A complete run at `at` (unix seconds) through `stack`.

    `accepted_at` names the acceptance that it is held against, None before there is one. `thresholds` are those of the
    semantic caches that the shares are about.
    """

    at: float
    stack: Stack
    accepted_at: float | None
    thresholds: tuple[float, ...]
    retrieval: tuple[RetrievalRun, ...]
    composition: tuple[CompositionRun, ...]

    @property
    def unaccepted(self) -> CanaryRun:
        """Give the run without what was held against an acceptance."""
        return replace(
            self,
            accepted_at=None,
            retrieval=tuple(
                replace(one, changes=_of_reference(one.changes), signatures=_of_reference(one.signatures))
                for one in self.retrieval
            ),
            composition=tuple(replace(one, changes=_of_reference(one.changes)) for one in self.composition),
        )

    @property
    def state(self) -> str:
        """Give a digest of the deployed rankings: equal states are the same look at the same data."""
        return ranking_hash([part for one in self.retrieval for part in (one.set.checksum, *one.hashes)])

    @property
    def findings(self) -> list[tuple[SetName, Against, Signature]]:
        """List every named change, with its set and what it is against."""
        return [
            (one.set, against, signature)
            for one in self.retrieval
            for against, signatures in one.signatures.items()
            for signature in signatures
        ]


def comparable(one: RetrievalScores | PairScores, other: RetrievalScores | PairScores) -> bool:
    """Say whether two results are of the same queries in the same measures, or of the same triples.

    Those of one checksum are, unless another version of this program read the set or measured otherwise.
    """
    return _subject(one) == _subject(other)


def compile_run(
    scored: Sequence[Scored],
    *,
    at: float,
    stack: Stack,
    accepted_at: float | None,
    thresholds: Sequence[float],
    rule: SignatureRule,
) -> CanaryRun:
    """Put a run together: compare every set, then name what happened to each domain.

    The phenomena of all composition sets count together, since an encoder has one behaviour; they are kept apart by
    set and phenomenon, so that a trade in one is not averaged away.
    """
    composition = tuple(_composition(one, thresholds) for one in scored if isinstance(one.deployed, PairScores))
    pairs: dict[Against, list[PairChange]] = {
        against: [change for one in composition for change in one.changes.get(against, ())] for against in AGAINST
    }
    return CanaryRun(
        at=at,
        stack=stack,
        accepted_at=accepted_at,
        thresholds=tuple(thresholds),
        retrieval=tuple(_retrieval(one, pairs, rule) for one in scored if isinstance(one.deployed, RetrievalScores)),
        composition=composition,
    )


def _of_reference(held: Mapping[Against, Held]) -> dict[Against, Held]:
    return {"reference": held["reference"]}


def _subject(one: RetrievalScores | PairScores) -> tuple[object, ...]:
    return (one.phenomena,) if isinstance(one, PairScores) else (one.queries, one.domains, set(one.values))


def _retrieval(one: Scored, pairs: Mapping[Against, Sequence[PairChange]], rule: SignatureRule) -> RetrievalRun:
    deployed, reference = one.deployed, one.reference
    assert isinstance(deployed, RetrievalScores)  # noqa: S101  (a set is of one kind
    assert isinstance(reference, RetrievalScores)  # noqa: S101  for every encoder)
    changes: dict[Against, tuple[DomainChange, ...]] = {"reference": compare_labelled(reference, deployed)}
    if isinstance(one.accepted, RetrievalScores):
        compared = one.compared if isinstance(one.compared, RetrievalScores) else deployed
        changes["accepted"] = compare_labelled(one.accepted, compared)
    return RetrievalRun(
        set=one.name,
        means={"deployed": means(deployed), "reference": means(reference)},
        scales={"deployed": scale(deployed), "reference": scale(reference)},
        changes=changes,
        signatures={against: name_changes(found, pairs[against], rule) for against, found in changes.items()},
        hashes=deployed.hashes,
        missing=one.missing,
    )


def _composition(one: Scored, thresholds: Sequence[float]) -> CompositionRun:
    deployed, reference = one.deployed, one.reference
    assert isinstance(deployed, PairScores)  # noqa: S101  (a set is of one kind
    assert isinstance(reference, PairScores)  # noqa: S101  for every encoder)
    changes: dict[Against, tuple[PairChange, ...]] = {"reference": compare_pairs(reference, deployed)}
    if isinstance(one.accepted, PairScores):
        changes["accepted"] = compare_pairs(one.accepted, deployed)
    return CompositionRun(
        set=one.name,
        summaries={"deployed": summarise(deployed), "reference": summarise(reference)},
        shares={"deployed": shares_above(deployed, thresholds), "reference": shares_above(reference, thresholds)},
        changes=changes,
    )
