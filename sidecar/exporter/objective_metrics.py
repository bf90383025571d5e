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

    from sidecar.drift.baseline import Baseline
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
        self._shown: dict[str, tuple[Baseline, float, str | None]] = {}
        """By slice: baseline and target that are shown, and the floor's edge, None without an objective."""

    def show(self, judgement: Judgement) -> None:
        """Show the objectives of the baselines in force; computed again only for another baseline or target."""
        target = judgement.options.objective
        baselines = {
            name: track.baseline
            for name, track in judgement.first.tracks.items()
            if name != WHOLE_STREAM and track.baseline is not None
        }
        for name, (baseline, shown_target, _) in list(self._shown.items()):
            if baselines.get(name) is not baseline or shown_target != target:
                self._forget(name)
        for name in baselines.keys() - self._shown.keys():
            self._compute(name, baselines[name], target)

    def clear(self) -> None:
        """Show what a replica shows that does not judge."""
        for name in list(self._shown):
            self._forget(name)

    def _compute(self, name: str, baseline: Baseline, target: float) -> None:
        found = objective_of(baseline.histogram, RATIO_BUCKETS, target)
        edge = None if found is None else _text(found.edge)
        self._shown[name] = baseline, target, edge
        if found is not None and edge is not None:
            self._floor.labels(name, edge).set(baseline.ended_at)
            self._budget.labels(name).set(found.budget)

    def _forget(self, name: str) -> None:
        _, _, edge = self._shown.pop(name)
        if edge is not None:
            self._floor.remove(name, edge)
            self._budget.remove(name)


def _text(edge: float) -> str:
    """Write an edge as the exposition writes `le`."""
    return str(floatToGoString(edge))  # type: ignore[no-untyped-call]
