"""From observations to verdicts and alarms, for one signal over the whole stream and every slice.

One page for one event: evidence of all slices is pooled with weights that sum to one (whole stream one half, slices the
other), so the promise of weeks between false pages holds for all of them together (docs/statistics.md). When the pool
reaches the promise, and the fall is large enough to matter, one alarm is raised; until a person starts a new
calibration, slices that follow join it and do not page again.

A baseline is bound to the encoders that gave it. While calibrating, another encoder means to begin again. Afterwards
another deployed encoder is what we watch for, but another reference makes the numbers incomparable: observations with
it are set aside and the verdict says so. A rebuilt index (the corpus grows every day) is remembered and named in an
alarm, no more.

Everything here is a function of the observations in their order: no clock, no randomness, no IO. That is what makes a
killed and restarted judge raise the same alarm at the same observation.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Self

from sidecar.judge.track import BLOCK, Rules, Track
from sidecar.model import (
    OTHER_SLICE,
    WHOLE_STREAM,
    Alarm,
    BaselineAccepted,
    CalibrationStarted,
    Stack,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.model import AuditEvent, Observation

STATE_VERSION = 1
WHOLE_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """When to accept and when to page. `signal` is the full name, `overlap@10`."""

    signal: str
    weeks_between_false_pages: float = 26.0
    min_effect: float = 0.02
    confidence: float = 0.95
    recent_queries: int = 1000
    min_queries: int = 5000
    min_slice_queries: int = 2000
    min_days: float = 7.0
    error: float = 0.01
    tolerance: float = 0.02
    max_slices: int = 20

    @property
    def rules(self) -> Rules:
        """Give the part that a track needs."""
        return Rules(self.min_days, self.error, self.tolerance, self.confidence, self.recent_queries)


class Judgement:
    """The state of the judge on duty."""

    def __init__(self, options: JudgeOptions) -> None:
        self.options = options
        self.tracks: dict[str, Track] = {}
        self.accepted: Stack | None = None
        self.accepted_at: float | None = None
        self.stack: Stack | None = None
        self.alarm_id: str | None = None
        self.last_request = ""
        self.set_aside = 0
        self._mix: Counter[str] = Counter()
        self._recent_mix: deque[Counter[str]] = deque(maxlen=max(1, options.recent_queries // BLOCK))
        self._mix_block: Counter[str] = Counter()
        self._new_calibration()

    def feed(self, identity: str, observation: Observation) -> list[AuditEvent]:
        """Take in one observation; give what follows from it, usually nothing.

        `identity` is the observation's own id; it becomes part of the events' ids, so that they are the same again
        after a restart.
        """
        value = observation.values.get(self.options.signal)
        if value is None:
            return []
        events: list[AuditEvent] = []
        self._notice_stack(observation.stack)
        if self.accepted is not None and observation.stack.reference_encoder != self.accepted.reference_encoder:
            self.set_aside += 1
            return events
        self.set_aside = 0
        touched = self._take(observation, value)
        accepted = (self._maybe_accept(name, identity, observation) for name in touched)
        events += [event for event in accepted if event is not None]
        if alarm := self._maybe_alarm(identity, observation, touched):
            events.append(alarm)
        return events

    def recalibrate(self, identity: str, at: float, by: str, why: str) -> CalibrationStarted:
        """Give up the baselines and the alarm, and measure anew from the next observation."""
        self.last_request = identity
        self._new_calibration()
        return CalibrationStarted(identity, at, self.options.signal, by, why)

    @property
    def evidence(self) -> float:
        """Pooled evidence of all slices, in weeks; the pager's number."""
        return sum(weight * self.tracks[name].evidence for name, weight in self._weights().items())

    def verdicts(self) -> list[Verdict]:
        """Give what is held about each slice now, the whole stream first."""
        weights = self._weights()
        return [self._verdict(name, track, weights.get(name, 0.0)) for name, track in self.tracks.items()]

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain JSON."""
        return {
            "version": STATE_VERSION,
            "signal": self.options.signal,
            "tracks": {name: track.to_state() for name, track in self.tracks.items()},
            "accepted": astuple(self.accepted) if self.accepted else None,
            "accepted_at": self.accepted_at,
            "stack": astuple(self.stack) if self.stack else None,
            "alarm_id": self.alarm_id,
            "last_request": self.last_request,
            "set_aside": self.set_aside,
            "mix": dict(self._mix),
            "recent_mix": [dict(block) for block in self._recent_mix],
            "mix_block": dict(self._mix_block),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], options: JudgeOptions) -> Self:
        """Rebuild what `to_state` gave.

        Raises:
            ValueError, KeyError, TypeError: not such a state, or of another version or signal.
        """
        if state["version"] != STATE_VERSION:
            raise ValueError(f"state has version {state['version']}, this program writes {STATE_VERSION}")
        if state["signal"] != options.signal:
            raise ValueError(f"state belongs to the signal {state['signal']}, the settings say {options.signal}")
        made = cls(options)
        made.tracks = {name: Track.from_state(track, options.rules) for name, track in state["tracks"].items()}
        made.accepted = Stack(*state["accepted"]) if state["accepted"] else None
        made.accepted_at = state.get("accepted_at")
        made.stack = Stack(*state["stack"]) if state["stack"] else None
        made.alarm_id = state["alarm_id"]
        made.last_request = state["last_request"]
        made.set_aside = state["set_aside"]
        made._mix = Counter(state["mix"])
        made._recent_mix.extend(Counter(block) for block in state["recent_mix"])
        made._mix_block = Counter(state["mix_block"])
        return made

    def _new_calibration(self) -> None:
        self.tracks = {WHOLE_STREAM: Track(self.options.rules, self.options.min_queries)}
        self.accepted = None
        self.accepted_at = None
        self.alarm_id = None
        self._mix.clear()
        self._recent_mix.clear()
        self._mix_block.clear()

    def _notice_stack(self, stack: Stack) -> None:
        before, self.stack = self.stack, stack
        if before is None or self.accepted is not None:
            return
        if {"deployed_encoder", "reference_encoder"} & set(stack.changes_since(before)):
            self._new_calibration()

    def _take(self, observation: Observation, value: float) -> list[str]:
        """Put the value into its tracks and give their names. Floor samples are not part of the whole stream."""
        name = observation.slice
        if name not in self.tracks and len(self.tracks) > self.options.max_slices:
            name = OTHER_SLICE
        touched = [name]
        if observation.weight > 0:
            touched.insert(0, WHOLE_STREAM)
            self._count_mix(name)
        for one in touched:
            track = self.tracks.get(one)
            if track is None:
                track = self.tracks[one] = Track(self.options.rules, self.options.min_slice_queries)
            track.take(value, observation.at)
        return touched

    def _count_mix(self, name: str) -> None:
        if self.accepted is None:
            self._mix[name] += 1
        self._mix_block[name] += 1
        if self._mix_block.total() >= BLOCK:
            self._recent_mix.append(self._mix_block)
            self._mix_block = Counter()

    def _maybe_accept(self, name: str, identity: str, observation: Observation) -> BaselineAccepted | None:
        """Accept a finished calibration: the whole stream first; no slice during an alarm, it would learn the drift."""
        track = self.tracks[name]
        if track.baseline is not None or track.progress < 1 or self.alarm_id is not None:
            return None
        if name != WHOLE_STREAM and self.accepted is None:
            return None
        baseline = track.accept()
        if baseline is None:
            return None
        if name == WHOLE_STREAM:
            self.accepted, self.accepted_at = observation.stack, observation.at
        channel = baseline.channels[0]
        return BaselineAccepted(
            id=f"{identity}/{name}",
            at=observation.at,
            signal=self.options.signal,
            slice=name,
            mean=channel.mean,
            lower=channel.lower,
            queries=baseline.n,
            stack=observation.stack,
        )

    def _weights(self) -> dict[str, float]:
        """Give each detector's weight. A slice that joins lowers the others' weights, which the promise allows."""
        judged = [name for name, track in self.tracks.items() if track.baseline is not None and name != WHOLE_STREAM]
        weights = {name: (1 - WHOLE_WEIGHT) / len(judged) for name in judged}
        if self.tracks[WHOLE_STREAM].baseline is not None:
            weights[WHOLE_STREAM] = WHOLE_WEIGHT if judged else 1.0
        return weights

    def _maybe_alarm(self, identity: str, observation: Observation, touched: list[str]) -> Alarm | None:
        weights = self._weights()
        threshold = self.options.weeks_between_false_pages
        shares = {name: weight * self.tracks[name].evidence for name, weight in weights.items()}
        if self.alarm_id is not None:
            for name in touched:
                if shares.get(name, 0.0) >= threshold:
                    self._latch(name, observation.at)
            return None
        if sum(shares.values()) < threshold:
            return None
        leader = max(shares, key=lambda name: shares[name])
        track = self.tracks[leader]
        drop = track.drop()
        if drop is None or drop.size < self.options.min_effect or track.start is None:
            return None
        assert track.baseline is not None and self.accepted is not None  # noqa: S101, PT018  (it has evidence)
        self.alarm_id = identity
        track.mark_drifted(observation.at)
        shift, queries = self._mix_shift(track.start.n)
        return Alarm(
            id=identity,
            at=observation.at,
            signal=self.options.signal,
            slice=leader,
            evidence=sum(shares.values()),
            threshold=threshold,
            baseline=track.baseline.channels[0].mean,
            level=drop.level,
            drop=drop.size,
            drop_lower=drop.lower,
            drop_upper=drop.upper,
            start=observation.at if track.start.at is None else track.start.at,
            queries_since_start=track.start.n,
            changed=observation.stack.changes_since(self.accepted),
            accepted_stack=self.accepted,
            stack=observation.stack,
            mix_shift=shift,
            mix_queries=queries,
        )

    def _latch(self, name: str, at: float) -> None:
        track = self.tracks[name]
        if track.alarm_at is None:
            drop = track.drop()
            if drop is not None and drop.size >= self.options.min_effect:
                track.mark_drifted(at)

    def _mix_shift(self, queries: int) -> tuple[float, int]:
        """Compare the slices of about the last `queries` queries with those of the calibration."""
        recent = Counter(self._mix_block)
        for block in reversed(self._recent_mix):
            if recent.total() >= queries:
                break
            recent += block
        total, before = recent.total(), self._mix.total()
        if not total or not before:
            return 0.0, total
        names = set(recent) | set(self._mix)
        return sum(abs(recent[name] / total - self._mix[name] / before) for name in names) / 2, total

    def _verdict(self, name: str, track: Track, weight: float) -> Verdict:
        level = track.level()
        if track.baseline is None:
            state, reason = "calibrating", "alarm open" if self.alarm_id is not None else ""
        elif track.alarm_at is not None:
            state, reason = "drifted", ""
        else:
            state, reason = "steady", ""
        if self.set_aside:
            reason = "the reference encoder is another than the baseline's: recalibrate"
        return Verdict(
            signal=self.options.signal,
            slice=name,
            state=state,  # type: ignore[arg-type]
            queries=track.queries,
            progress=track.progress,
            evidence=weight * track.evidence,
            threshold=self.options.weeks_between_false_pages,
            baseline=None if track.baseline is None else track.baseline.channels[0].mean,
            level=None if level is None else level[0],
            lower=None if level is None else level[1].lower,
            upper=None if level is None else level[1].upper,
            start=track.start.at if track.alarm_at is not None and track.start is not None else None,
            since=track.alarm_at,
            reason=reason,
        )
