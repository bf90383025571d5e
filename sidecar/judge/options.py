"""When the judge accepts a baseline, when it pages, and when an alarm ends."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.judge.track import Rules


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """When to accept and when to page. `signals` are full names, `overlap@10`; the first is the one that mixes follow.

    `tiers` are falls relative to the mean, ascending: they make an alarm `major` and `critical`. A retrieval counts as
    disrupted when the first signal is at most `disrupted`. `objective` is the share of queries that should reach the
    floor of their slice (`drift.objective`).
    """

    signals: tuple[str, ...]
    weeks_between_false_pages: float = 26.0
    weeks_between_false_tickets: float = 4.0
    min_effect: float = 0.02
    tiers: tuple[float, float] = (0.05, 0.15)
    confidence: float = 0.95
    recent_queries: int = 1000
    min_queries: int = 5000
    min_slice_queries: int = 2000
    min_days: float = 7.0
    error: float = 0.01
    tolerance: float = 0.02
    max_slices: int = 20
    disrupted: float = 0.2
    objective: float = 0.95

    @property
    def rules(self) -> Rules:
        """Give the part that a track needs."""
        return Rules(
            min_days=self.min_days,
            error=self.error,
            tolerance=self.tolerance,
            confidence=self.confidence,
            recent_queries=self.recent_queries,
            tiers=self.tiers,
            min_effect=self.min_effect,
            weeks=self.weeks_between_false_pages,
        )
