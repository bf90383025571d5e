"""Decide when fixed queries that got worse are worth a page.

One replay of canaries or frozen probes is decided by `paired`; this carries over what takes more than one: two
replays in a row must agree, and a corpus whose rankings churn wanders away from the accepted ones by itself and is
held to a smaller p-value. Nothing is added up over replays. Latching, recovery and words for on-call are left to the
judge.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from sidecar.drift.paired import DUST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.drift.paired import PairedResult

PairedLevel = Literal["steady", "ticket", "page"]

CHURN_HOURS = 24
"""Hours over which churn is measured."""


@dataclass(frozen=True, slots=True)
class PairedRule:
    """When fixed queries page."""

    min_effect: float = 0.02
    """Smallest relative fall of the mean that matters."""
    page_p: float = 0.001
    """An index that changes every hour gives 336 looks in two weeks, hence a tenth of the usual levels."""
    churning_page_p: float = 0.0002
    """Instead of `page_p` on a corpus that churns. Of simulated fortnights in which 2 % of the rankings change an hour,
    for better and worse alike, one in twelve pages at .005, one in thirty at .001, one in eighty at .0002."""
    churn_limit: float = 0.01
    """Share of the rankings that change per hour, above which a corpus churns."""
    ticket_p: float = 0.005
    replays: int = 2
    """Replays in a row that must agree."""


@dataclass(frozen=True, slots=True)
class PairedWatch:
    """What the latest replays of one set of fixed queries amount to; a new set starts a new one."""

    hashes: tuple[str, ...] = ()
    """Ranking hashes of the latest replay."""
    looks: int = 0
    """States seen. A replay of an unchanged state is no new look at the data."""
    paging: int = 0
    """Replays in a row that met the page's conditions."""
    ticketing: int = 0
    """Replays in a row that met the ticket's."""
    first_hour: int | None = None
    """Hour since the epoch of the first replay."""
    changes: tuple[tuple[int, int], ...] = ()
    """(hour since the epoch, rankings that changed in it) of the last 24 hours, oldest first."""

    def level(self, rule: PairedRule) -> PairedLevel:
        """Say what it amounts to."""
        if self.paging >= rule.replays:
            return "page"
        return "ticket" if self.ticketing >= rule.replays else "steady"

    def churn(self) -> float:
        """Give the share of the rankings that changes per hour, over the last 24 hours without the busiest one.

        Without it, because a deployment that moves everything at once is an event and not churn, and must not make
        its own page harder. A jittering index counts: each of its replays is a new state. 0 before the third hour.
        """
        if self.first_hour is None or not self.hashes:
            return 0.0
        hours = min(CHURN_HOURS, self.changes[-1][0] - self.first_hour + 1)
        if hours < 3:
            return 0.0
        counts = [count for _, count in self.changes]
        return (sum(counts) - max(counts)) / (len(self.hashes) * (hours - 1))

    def look(self, rule: PairedRule, hashes: Sequence[str], result: PairedResult | None, at: float) -> Self:
        """Take one replay in.

        Only this replay's own result counts; what is carried over is how many in a row agreed. Without a result
        (no query had a value) nothing can be said and the row is broken.

        Args:
            rule: when to page.
            hashes: `ranking_hash` of every query's ranking, in the set's order.
            result: of this replay against the accepted values.
            at: unix seconds of the replay.

        Raises:
            ValueError: the number of queries is not that of the replay before.

        """
        now = tuple(hashes)
        if self.looks and len(now) != len(self.hashes):
            raise ValueError(f"the replay has {len(now)} queries and the one before {len(self.hashes)}; start anew")
        changed = sum(old != new for old, new in zip(self.hashes, now, strict=self.looks > 0))
        hour = int(at // 3600)
        counts = dict(self.changes)
        counts[hour] = counts.get(hour, 0) + changed
        newest = max(counts)
        seen = type(self)(
            hashes=now,
            looks=self.looks + (changed > 0 or not self.looks),
            first_hour=hour if self.first_hour is None else self.first_hour,
            changes=tuple(sorted((h, count) for h, count in counts.items() if h > newest - CHURN_HOURS)),
        )
        page_p = rule.churning_page_p if seen.churn() > rule.churn_limit else rule.page_p
        return replace(
            seen,
            paging=self.paging + 1 if _fell(rule, result, page_p) else 0,
            ticketing=self.ticketing + 1 if _fell(rule, result, rule.ticket_p) else 0,
        )

    def to_state(self) -> dict[str, Any]:
        """Give the state as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild what `to_state` gave, exactly.

        Raises:
            ValueError, KeyError, TypeError: the mapping is not such a state.

        """
        first = state["first_hour"]
        return cls(
            hashes=tuple(map(str, state["hashes"])),
            looks=int(state["looks"]),
            paging=int(state["paging"]),
            ticketing=int(state["ticketing"]),
            first_hour=None if first is None else int(first),
            changes=tuple((int(hour), int(count)) for hour, count in state["changes"]),
        )


def _fell(rule: PairedRule, result: PairedResult | None, p: float) -> bool:
    if result is None or result.relative is None or result.relative > DUST - rule.min_effect:
        return False
    return result.sign_flip.p <= p and (result.jitter is None or result.jitter <= p)
