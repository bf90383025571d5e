"""One signal in one slice: first a calibration, then detectors against the accepted baseline.

Pure and restart-safe: the same observations in the same order give the same state, wherever a restart falls between
them. Which observations belong to it, and when evidence becomes an alarm, is `judgement`'s business.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sidecar.drift.baseline import Baseline, estimate_baseline
from sidecar.drift.calibration import Calibration
from sidecar.drift.channels import TOP, level_of
from sidecar.drift.confidence import Interval, Moments, drop_interval, interval
from sidecar.drift.esr import DetectorState, Start, bets, estimated_start, evidence, initial_state, stake, step
from sidecar.drift.ladder import tiers_and_rise, way_back
from sidecar.drift.strata import shift_of, with_strata
from sidecar.judge.mix_watch import BLOCK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from sidecar.drift.esr import Bets
    from sidecar.drift.ladder import Ladder

SETTLED = 100
"""Queries after an alarm from which the interval that begins at the alarm is shown."""

BACK_BLOCKS = 10
"""Blocks (500 queries) whose mean must be back before an alarm ends."""

STRATA_KEPT = 1000
"""Strata whose offsets are remembered; whoever names them bounds them lower."""

DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What a calibration needs, what an alarm tells and when it ends. Sizes in queries."""

    min_days: float
    error: float
    tolerance: float
    confidence: float
    recent_queries: int
    tiers: tuple[float, ...]
    min_effect: float
    weeks: float
    """Evidence, in weeks, that a way back needs."""


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
        "_back",
        "_back_blocks",
        "_back_sr",
        "_bets",
        "_block",
        "_ladder",
        "_ladder_sr",
        "_recent",
        "_rules",
        "_shifts",
        "_weeks",
        "alarm_at",
        "alarm_level",
        "baseline",
        "begun_at",
        "calibration",
        "evidence",
        "last_at",
        "needed",
        "since_alarm",
        "start",
        "state",
        "uncovered",
    )

    def __init__(self, rules: Rules, needed: int) -> None:
        self._rules = rules
        self.needed = needed
        self.calibration = Calibration()
        self.baseline: Baseline | None = None
        self._bets: Bets | None = None
        self._ladder: Ladder | None = None
        self._ladder_sr: NDArray[Any] = np.zeros(0)
        self._weeks: NDArray[Any] = np.zeros(len(rules.tiers) + 1)
        self._shifts: dict[str, tuple[NDArray[Any], NDArray[Any]] | None] = {}
        self.state: DetectorState | None = None
        self.evidence = 0.0
        self.uncovered = 0
        self.begun_at: float | None = None
        self.last_at: float | None = None
        self._recent: deque[Moments] = deque(maxlen=max(BACK_BLOCKS, rules.recent_queries // BLOCK))
        self._block = Moments()
        self.alarm_at: float | None = None
        self.alarm_level = 0.0
        self.start: Start | None = None
        self.since_alarm = Moments()
        self._back: Ladder | None = None
        self._back_sr: NDArray[Any] = np.zeros(0)
        self._back_blocks: deque[Moments] = deque(maxlen=BACK_BLOCKS + 1)

    def take(self, value: float, at: float, stratum: str = "", *, learning: bool = True) -> None:
        """Take in one value of [0, 1], seen at `at` (unix seconds) in a stratum of the baseline.

        A value of a stratum without an accepted level is counted in `uncovered` and held against nothing. Unless
        `learning`, a calibration takes nothing in.
        """
        self.last_at = at if self.last_at is None else max(at, self.last_at)
        level = level_of(value)
        score = level / TOP
        moment = Moments(1, score, score * score)
        self._block += moment
        if self._block.n >= BLOCK:
            self._recent.append(self._block)
            self._block = Moments()
        if self.state is None or self._bets is None or self._ladder is None:
            if learning:
                self.calibration.add(level, at)
            return
        shifts = self._shifts_of(stratum)
        if shifts is None:
            self.uncovered += 1
            return
        shift, ladder_shift = shifts
        gamma = stake(self.state.last_time, at)
        self.begun_at = at if self.begun_at is None else self.begun_at
        self.state = step(self._bets, self.state, level, at, shift)
        self.evidence = evidence(self._bets, self.state)
        self._ladder_sr = self._ladder.step(self._ladder_sr, level, at, gamma, ladder_shift)
        self._weeks = self._ladder.weeks(self._ladder_sr)
        if self.alarm_at is not None and self._back is not None:
            self.since_alarm += moment
            self._count_back(score, stratum)
            # The rise's offsets are those of the way back.
            self._back_sr = self._back.step(self._back_sr, level, at, gamma, ladder_shift[-1:])

    @property
    def progress(self) -> float:
        """Share of the calibration that is done, by queries and by days, whichever is behind."""
        if self.baseline is not None:
            return 1.0
        parts = [self.calibration.count / self.needed]
        if self._rules.min_days:
            parts.append(self.calibration.span_seconds / (self._rules.min_days * DAY_SECONDS))
        return min(1.0, *parts)

    def accept(self, strata: Mapping[str, Calibration] | None = None) -> Baseline | None:
        """Turn the calibration into the baseline and start the detectors; None while there is not enough data.

        `strata` are the calibrations of the groups that this one is made of, where they are told apart.
        """
        baseline = estimate_baseline(self.calibration, alpha0=self._rules.error, tolerance=self._rules.tolerance)
        if baseline is None:
            return None
        if strata:
            baseline = with_strata(baseline, {name: one.table()[1].sum(axis=0) for name, one in strata.items()})
        self._begin(baseline)
        self.calibration = Calibration()
        return baseline

    @property
    def queries(self) -> int:
        """Number of values in the present phase."""
        return self.calibration.count if self.state is None else self.state.n

    @property
    def bets(self) -> Bets | None:
        """The bets against the baseline; None while calibrating."""
        return self._bets

    @property
    def tiers(self) -> NDArray[Any]:
        """Evidence for a fall of more than each tier, in weeks; zeros while calibrating."""
        return self._weeks[:-1]

    @property
    def rise(self) -> float:
        """Evidence for a rise, in weeks; 0 while calibrating."""
        return float(self._weeks[-1])

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

    def mark_drifted(self, at: float, level: float) -> None:
        """Latch: remember when the drift was told and at which level, and watch for the way back."""
        self.alarm_at = at
        self.alarm_level = level
        self.since_alarm = Moments()
        self._watch_way_back()

    @property
    def recovered(self) -> bool:
        """Whether the level is back: proved to be above the middle, and the last 500 queries short of no effect."""
        if self.alarm_at is None or self._back is None or self.baseline is None:
            return False
        if self.since_alarm.n < BACK_BLOCKS * BLOCK or float(self._back.weeks(self._back_sr)[0]) < self._rules.weeks:
            return False
        last = sum(self._back_blocks, start=Moments())
        return last.mean is not None and last.mean >= (1 - self._rules.min_effect) * self.baseline.channels[0].mean

    def forget_calibration(self) -> None:
        """Begin a calibration under way again: what it took in lately may be the drift."""
        if self.baseline is None:
            self.calibration = Calibration()

    def recent(self) -> Moments:
        """Give the moments of the last 50 to 100 values."""
        blocks = [*self._recent, self._block]
        return sum(blocks[-2:], start=Moments())

    def reset(self) -> None:
        """Forget all evidence and the alarm; the baseline stays."""
        if self.baseline is not None:
            self._begin(self.baseline)

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
            "calibration": self.calibration.to_state() if self.baseline is None else None,
            "baseline": self.baseline.to_state() if self.baseline is not None else None,
            "detector": self.state.to_state() if self.state is not None else None,
            "ladder": self._ladder_sr.tolist(),
            "uncovered": self.uncovered,
            "recent": [_numbers(block) for block in self._recent],
            "block": _numbers(self._block),
            "alarm_at": self.alarm_at,
            "alarm_level": self.alarm_level,
            "start": None if self.start is None else [self.start.index, self.start.at, *_numbers(self.start.moments)],
            "since_alarm": _numbers(self.since_alarm),
            "back": self._back_sr.tolist(),
            "back_blocks": [_numbers(block) for block in self._back_blocks],
            "begun_at": self.begun_at,
            "last_at": self.last_at,
            "tiers": list(self._rules.tiers),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], rules: Rules, needed: int) -> Self:
        """Rebuild what `to_state` gave; evidence of other tiers than the rules' begins anew.

        Raises:
            ValueError, KeyError, TypeError: the mapping is not such a state.
        """
        track = cls(rules, needed)
        if state["baseline"] is not None:
            track._begin(Baseline.from_state(state["baseline"]))
            track.state = DetectorState.from_state(state["detector"])
            if track._bets is not None:
                track.evidence = evidence(track._bets, track.state)
            if tuple(state["tiers"]) == rules.tiers:
                track._ladder_sr = _shaped(state["ladder"], track._ladder_sr)
            if track._ladder is not None:
                track._weeks = track._ladder.weeks(track._ladder_sr)
        else:
            track.calibration = Calibration.from_state(state["calibration"])
        track.uncovered = int(state["uncovered"])
        track._recent.extend(Moments(*block) for block in state["recent"])
        track._block = Moments(*state["block"])
        track.alarm_at = state["alarm_at"]
        track.alarm_level = float(state["alarm_level"])
        if state["start"] is not None:
            index, at, *moments = state["start"]
            track.start = Start(index, at, Moments(*moments))
        track.since_alarm = Moments(*state["since_alarm"])
        if track.alarm_at is not None:
            track._watch_way_back()
            track._back_sr = _shaped(state["back"], track._back_sr)
            track._back_blocks.extend(Moments(*block) for block in state["back_blocks"])
        track.begun_at, track.last_at = state["begun_at"], state["last_at"]
        return track

    def _begin(self, baseline: Baseline) -> None:
        self.baseline = baseline
        self._bets = made = bets(baseline)
        self.state = initial_state(made)
        self.evidence = 0.0
        self._ladder = tiers_and_rise(baseline, self._rules.tiers)
        self._ladder_sr = self._ladder.start()
        self._weeks = self._ladder.weeks(self._ladder_sr)
        self._shifts = {}
        self.alarm_at = self.start = self._back = None
        self.alarm_level = 0.0
        self.since_alarm = Moments()
        self._back_sr = np.zeros(0)
        self._back_blocks.clear()
        self.begun_at = None

    def _watch_way_back(self) -> None:
        if self.baseline is not None:
            self._back = way_back(self.baseline, self.alarm_level)
            self._back_sr = self._back.start()
            self._back_blocks.clear()

    def _count_back(self, score: float, stratum: str) -> None:
        """Keep the last scores without what is due to their strata: another mix must not look like no recovery."""
        found = self.baseline.strata.get(stratum) if self.baseline is not None else None
        if not self._back_blocks or self._back_blocks[-1].n >= BLOCK:
            self._back_blocks.append(Moments())
        adjusted = score - (found.offsets[0] if found is not None else 0.0)
        self._back_blocks[-1] += Moments(1, adjusted, adjusted * adjusted)

    def _shifts_of(self, stratum: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Give the offsets of a stratum for the detector and the ladder; None when it has no accepted level."""
        if stratum not in self._shifts:
            assert self.baseline is not None  # noqa: S101  (the detectors run)
            assert self._ladder is not None  # noqa: S101
            shift, ladder_shift = shift_of(self.baseline, stratum), self._ladder.shift(stratum)
            if len(self._shifts) >= STRATA_KEPT:
                self._shifts.clear()
            self._shifts[stratum] = None if shift is None or ladder_shift is None else (shift, ladder_shift)
        return self._shifts[stratum]


def _numbers(moments: Moments) -> list[float]:
    return [moments.n, moments.total, moments.squares]


def _shaped(state: Any, like: NDArray[Any]) -> NDArray[Any]:
    made = np.array(state, dtype=np.float64)
    if made.shape != like.shape:
        raise ValueError(f"evidence has shape {made.shape}, not {like.shape}")
    return made
