"""The objective of each slice, as metrics: which buckets of the live histogram are bad, and how many may be.

Recording rules join the floor with `rag_drift_agreement_ratio_bucket`, so that every replica's queries count and
nothing is counted twice. An accepted baseline moves the floor for the past as well as for the future: what was accepted
is no longer burning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Gauge
from prometheus_client.utils import floatToGoString

from sidecar.drift.objective import objective_of
from sidecar.model import WHOLE_STREAM

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from sidecar.judge.judgement import Judgement

RATIO_BUCKETS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
"""Whole hundredths: a baseline keeps values as such, and an edge between two of them would split a level."""


class ObjectiveMetrics:
    """The gauges of the objective, for each slice with a baseline of the first signal; none while there is none."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._floor = Gauge(
            "rag_drift_slo_floor_accepted_timestamp_seconds",
            "When the slice's floor was accepted; queries up to this bucket edge of the agreement are bad.",
            ["slice", "edge"],
            registry=registry,
        )
        self._budget = Gauge(
            "rag_drift_slo_budget_ratio",
            "Share of bad queries that the objective allows.",
            ["slice"],
            registry=registry,
        )
        self._shown: dict[str, tuple[str, float, float]] = {}

    def show(self, judgement: Judgement) -> None:
        """Show the objectives of the baselines in force."""
        wanted = {}
        for name, track in judgement.first.tracks.items():
            if name == WHOLE_STREAM or track.baseline is None:
                continue
            found = objective_of(track.baseline.histogram, RATIO_BUCKETS, judgement.options.objective)
            if found is not None:
                wanted[name] = (_text(found.edge), track.baseline.ended_at, found.budget)
        for name in self._shown.keys() - wanted.keys():
            self._forget(name)
        for name, (edge, at, budget) in wanted.items():
            if self._shown.get(name) == wanted[name]:
                continue
            if name in self._shown:
                self._forget(name)
            self._floor.labels(name, edge).set(at)
            self._budget.labels(name).set(budget)
        self._shown = wanted

    def clear(self) -> None:
        """Show what a replica shows that does not judge."""
        for name in list(self._shown):
            self._forget(name)

    def _forget(self, name: str) -> None:
        edge, _, _ = self._shown.pop(name)
        self._floor.remove(name, edge)
        self._budget.remove(name)


def _text(edge: float) -> str:
    """Write an edge as the exposition writes `le`."""
    return str(floatToGoString(edge))  # type: ignore[no-untyped-call]
