"""One replay of the frozen probes, as values: what moved since the accepted answers, and beside it the noise at rest.

Frozen probes are live queries with the answers of the accepted stack. They are asked again and again, so no change is
exactly zero and any change shows at the first replay. How they are kept and replayed is the business of `replay`, when
a fall is worth a page that of `paired_watch`, what caused it that of `attribution`. No query text is in here, only
keyed digests.
"""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Any

from sidecar.drift.evidence import ProbeCheck, Sample
from sidecar.drift.paired import PairedResult, SignFlip, ranking_hash
from sidecar.model import Stack

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ProbeSide:
    """What a replay says about one retriever.

    `moved` counts the rankings that differ at all, in documents or order. `now` is the overlap@k with the accepted
    rankings, `floor` the same when nothing changed (mean 1, sd 0 for exact search). `known` is `now` on lists condensed
    to the documents that the index held at acceptance and still holds; None where those documents were not kept.
    `new_share` is the share of the places in the top k that documents unknown at acceptance take, `gone_share` the
    share of the accepted top-k documents that the index no longer holds.

    `paired` holds each probe against itself, by the condensed lists where there are such, else by the whole ones; None
    when no probe has anything left to compare.

    `hashes` has one entry for each kept probe, in an order that is the book's: "" where the ranking is the accepted one
    or was not asked for, else its `ranking_hash`. `state` is a digest of them: equal states are the same look at the
    same data.
    """

    moved: int
    now: Sample
    floor: Sample
    known: Sample | None
    new_share: float | None
    gone_share: float | None
    paired: PairedResult | None
    hashes: tuple[str, ...]

    @property
    def state(self) -> str:
        """Give a digest of what moved and how; "" when nothing did."""
        return ranking_hash(self.hashes) if any(self.hashes) else ""

    def check(self) -> ProbeCheck:
        """Give it as evidence for attribution."""
        return ProbeCheck(self.now, self.floor, self.known, self.moved / self.now.n, self.new_share, self.gone_share)


@dataclass(frozen=True, slots=True)
class WorstProbe:
    """A probe that lost much: the keyed digest of its text, and its overlap@k with the accepted answers."""

    digest: str
    deployed: float
    reference: float


@dataclass(frozen=True, slots=True)
class FrozenRun:
    """One complete replay of the frozen probes at `at` (unix seconds) through `stack`.

    `book` names the set of probes: runs of different books cannot be compared probe by probe. `accepted_at` is the
    acceptance that they belong to, `total` how many are kept, `awake` how many of them have
    a text to replay, `replayed` how many were: a text that cannot be encoded is left out. `worst` are the ten that lost
    most on the deployed side, none that lost nothing.
    """

    at: float
    stack: Stack
    book: str
    accepted_at: float
    k: int
    total: int
    awake: int
    deployed: ProbeSide
    reference: ProbeSide
    worst: tuple[WorstProbe, ...] = ()

    @property
    def replayed(self) -> int:
        """Count the probes that were replayed."""
        return self.deployed.now.n

    @property
    def still(self) -> bool:
        """Say that no ranking moved on either side."""
        return not self.deployed.moved and not self.reference.moved

    @property
    def state(self) -> str:
        """Give the digest of all that moved; "/" when nothing did."""
        return f"{self.deployed.state}/{self.reference.state}"

    def to_json(self) -> str:
        """Give it as a JSON object: about a kB, and 25 bytes for each ranking that moved."""
        content = {"format": FORMAT, **asdict(self), "stack": astuple(self.stack)}
        for role in ("deployed", "reference"):
            content[role]["hashes"] = {place: one for place, one in enumerate(content[role]["hashes"]) if one}
        return json.dumps(content, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> FrozenRun:
        """Read what `to_json` gave.

        Raises:
            ValueError: it is something else, or of another version of this program.
        """
        try:
            content = json.loads(text)
            if content.pop("format") != FORMAT:
                raise ValueError(f"a run of frozen probes has another format than {FORMAT}")
            content["stack"] = Stack(*content["stack"])
            content["worst"] = tuple(WorstProbe(**one) for one in content["worst"])
            for role in ("deployed", "reference"):
                content[role] = _side(content[role], int(content["total"]))
            return cls(**content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a run of frozen probes: {type(error).__name__}: {error}") from None


def _side(content: Mapping[str, Any], total: int) -> ProbeSide:
    known, paired = content["known"], content["paired"]
    if paired is not None:
        paired = PairedResult(**{**paired, "sign_flip": SignFlip(**paired["sign_flip"])})
    return ProbeSide(
        **{
            **content,
            "now": Sample(**content["now"]),
            "floor": Sample(**content["floor"]),
            "known": None if known is None else Sample(**known),
            "paired": paired,
            "hashes": tuple(content["hashes"].get(str(place), "") for place in range(total)),
        }
    )
