"""One signal in one slice: first a calibration, then a detector against the accepted baseline.

Pure and restart-safe: the same observations in the same order give the same state, wherever a restart falls between
them. Which observations belong to it, and when evidence becomes an alarm, is `judgement`'s business.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from sidecar.drift.baseline import Baseline, estimate_baseline
from sidecar.drift.calibration import Calibration
from sidecar.drift.channels import TOP, level_of
from sidecar.drift.confidence import Interval, Moments, drop_interval, interval
from sidecar.drift.esr import DetectorState, Start, bets, estimated_start, evidence, initial_state, step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.drift.esr import Bets

BLOCK = 50
"""Queries per block of the recent window."""

SETTLED = 100
"""Queries after an alarm from which the interval that begins at the alarm is shown."""

DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What a calibration needs and how a level is told. Sizes in queries."""

    min_days: float
    error: float
    tolerance: float
    confidence: float
    recent_queries: int


@dataclass(frozen=True, slots=True)
class Drop:
    """A fall relative to the baseline mean, with its interval and the level that it led to."""

    level: float
    size: float
    lower: float
    upper: float


class Track:
    """The memory of one signal in one slice."""

    __slots__ = (
        "_bets",
        "_block",
        "_recent",
        "_rules",
        "alarm_at",
        "baseline",
        "calibration",
        "needed",
        "since_alarm",
        "start",
        "state",
    )

    def __init__(self, rules: Rules, needed: int) -> None:
        self._rules = rules
        self.needed = needed
        self.calibration = Calibration()
        self.baseline: Baseline | None = None
        self._bets: Bets | None = None
        self.state: DetectorState | None = None
        self._recent: deque[Moments] = deque(maxlen=max(1, rules.recent_queries // BLOCK))
        self._block = Moments()
        self.alarm_at: float | None = None
        self.start: Start | None = None
        self.since_alarm = Moments()

    def take(self, value: float, at: float) -> None:
        """Take in one value of [0, 1], seen at `at` (unix seconds)."""
        level = level_of(value)
        score = level / TOP
        moment = Moments(1, score, score * score)
        self._block += moment
        if self._block.n >= BLOCK:
            self._recent.append(self._block)
            self._block = Moments()
        if self.state is None or self._bets is None:
            self.calibration.add(level, at)
            return
        self.state = step(self._bets, self.state, level, at)
        if self.alarm_at is not None:
            self.since_alarm += moment

    @property
    def progress(self) -> float:
        """Share of the calibration that is done, by queries and by days, whichever is behind."""
        if self.baseline is not None:
            return 1.0
        parts = [self.calibration.count / self.needed]
        if self._rules.min_days:
            parts.append(self.calibration.span_seconds / (self._rules.min_days * DAY_SECONDS))
        return min(1.0, *parts)

    def accept(self) -> Baseline | None:
        """Turn the calibration into the baseline and start the detector; None while there is not enough data."""
        baseline = estimate_baseline(self.calibration, alpha0=self._rules.error, tolerance=self._rules.tolerance)
        if baseline is not None:
            self._begin(baseline)
            self.calibration = Calibration()
        return baseline

    @property
    def queries(self) -> int:
        """Number of values in the present phase."""
        return self.calibration.count if self.state is None else self.state.n

    @property
    def evidence(self) -> float:
        """Evidence against the baseline, in weeks; 0 while calibrating."""
        if self.state is None or self._bets is None:
            return 0.0
        return evidence(self._bets, self.state)

    def drop(self) -> Drop | None:
        """Give the fall since the estimated start, biased high and with an interval that allows for every start."""
        if self.baseline is None or self.state is None or self._bets is None:
            return None
        start = estimated_start(self._bets, self.state)
        mean = self.baseline.channels[0].mean
        if start.mean is None or mean <= 0:
            return None
        self.start = start
        bounds = drop_interval(
            self.baseline.channels[0], start.moments, 1 - self._rules.confidence, starts=max(1, self.state.n)
        )
        return Drop(start.mean, 1 - start.mean / mean, bounds.lower, bounds.upper)

    def mark_drifted(self, at: float) -> None:
        """Latch: remember when the drift was told and count from there."""
        self.alarm_at = at
        self.since_alarm = Moments()

    def level(self) -> tuple[float, Interval] | None:
        """Give the current mean and its interval: since the alarm, since the start, or over the recent window."""
        if self.alarm_at is not None and self.since_alarm.n >= SETTLED:
            moments = self.since_alarm
        elif self.alarm_at is not None and self.start is not None and self.start.n:
            moments = self.start.moments
        else:
            moments = sum(self._recent, start=self._block)
        if moments.mean is None:
            return None
        centre = self.baseline.channels[0].mean if self.baseline is not None else 0.5
        return moments.mean, interval(moments, centre, 1 - self._rules.confidence)

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain JSON."""
        return {
            "needed": self.needed,
            "calibration": self.calibration.to_state() if self.baseline is None else None,
            "baseline": self.baseline.to_state() if self.baseline is not None else None,
            "detector": self.state.to_state() if self.state is not None else None,
            "recent": [_numbers(block) for block in self._recent],
            "block": _numbers(self._block),
            "alarm_at": self.alarm_at,
            "start": None if self.start is None else [self.start.index, self.start.at, *_numbers(self.start.moments)],
            "since_alarm": _numbers(self.since_alarm),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], rules: Rules) -> Self:
        """Rebuild what `to_state` gave.

        Raises:
            ValueError, KeyError, TypeError: the mapping is not such a state.
        """
        track = cls(rules, int(state["needed"]))
        if state["baseline"] is not None:
            track._begin(Baseline.from_state(state["baseline"]))
            track.state = DetectorState.from_state(state["detector"])
        else:
            track.calibration = Calibration.from_state(state["calibration"])
        track._recent.extend(Moments(*block) for block in state["recent"])
        track._block = Moments(*state["block"])
        track.alarm_at = state["alarm_at"]
        if state["start"] is not None:
            index, at, *moments = state["start"]
            track.start = Start(index, at, Moments(*moments))
        track.since_alarm = Moments(*state["since_alarm"])
        return track

    def _begin(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self._bets = made = bets(baseline)
        self.state = initial_state(made)


def _numbers(moments: Moments) -> list[float]:
    return [moments.n, moments.total, moments.squares]
