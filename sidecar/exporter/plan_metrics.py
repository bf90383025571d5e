"""What the traffic that there is can see: the planner's numbers for the baselines in force, as metrics.

A dashboard that shows "no drift" must show beside it how large a drift would have been seen by now. The numbers are
`drift.planner`'s, from the accepted baseline and the rate at which queries have been judged since.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prometheus_client import Gauge

from sidecar.drift.planner import Pager, delay, smallest_visible_drop
from sidecar.model import WHOLE_STREAM

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from sidecar.judge.judgement import Judgement
    from sidecar.judge.signal_watch import SignalWatch

DROPS = (0.02, 0.05, 0.1, 0.2)
DAY_SECONDS = 86_400.0
SETTLED_QUERIES = 200
"""Judged queries from which a rate is told."""


class PlanMetrics:
    """The planner's gauges, for the whole stream of each signal; NaN where nobody knows or nothing is ever seen."""

    def __init__(self, registry: CollectorRegistry, signals: tuple[str, ...]) -> None:
        self._visible = Gauge(
            "rag_drift_visible_drop_ratio",
            "Smallest fall of the whole stream that the detector can see at all; NaN before there is a baseline.",
            ["signal"],
            registry=registry,
        )
        self._delay = Gauge(
            "rag_drift_detection_delay_seconds",
            "Median time until a fall of this size would page, at the present traffic; NaN if unknown or never.",
            ["signal", "drop"],
            registry=registry,
        )
        self._signals = signals
        self._shown: dict[str, tuple[float, float, float]] = {}
        self.clear()

    def show(self, judgement: Judgement) -> None:
        """Show what each judged signal can see; computed again only when baseline, weight or traffic have changed."""
        weights = judgement.whole_weights()
        for signal, watch in judgement.watches.items():
            weight = weights.get(signal)
            if weight is None or watch.accepted_at is None:
                self._forget(signal)
                continue
            rate = _queries_per_day(watch)
            # Two digits of the rate are all that a delay needs, and keep this from running at every checkpoint.
            key = (watch.accepted_at, weight, float(f"{rate:.1e}"))
            before = self._shown.get(signal)
            if before != key:
                self._shown[signal] = key
                pager = Pager(judgement.options.weeks_between_false_pages, weight)
                self._compute(signal, watch, rate, pager, new=before is None or before[0] != watch.accepted_at)

    def clear(self) -> None:
        """Show what a replica shows that does not judge."""
        for signal in self._signals:
            self._forget(signal)

    def _forget(self, signal: str) -> None:
        self._shown.pop(signal, None)
        self._visible.labels(signal).set(math.nan)
        for drop in DROPS:
            self._delay.labels(signal, f"{drop:g}").set(math.nan)

    def _compute(self, signal: str, watch: SignalWatch, rate: float, pager: Pager, *, new: bool) -> None:
        baseline = watch.tracks[WHOLE_STREAM].baseline
        assert baseline is not None  # noqa: S101  (it has a weight)
        channel = baseline.channels[0]
        if new:
            least = smallest_visible_drop(channel)
            self._visible.labels(signal).set(math.nan if least is None else least)
        for drop in DROPS:
            found = delay(channel, drop, rate, pager) if rate > 0 else None
            seconds = math.nan if found is None else found.median / rate * DAY_SECONDS
            self._delay.labels(signal, f"{drop:g}").set(seconds)


def _queries_per_day(watch: SignalWatch) -> float:
    """Give the rate since the detector began, 0 while too few queries have been judged to tell."""
    track = watch.tracks[WHOLE_STREAM]
    state = track.state
    if state is None or state.last_time is None or state.n < SETTLED_QUERIES or track.begun_at is None:
        return 0.0
    seconds = state.last_time - track.begun_at
    return state.n / seconds * DAY_SECONDS if seconds > 0 else 0.0
