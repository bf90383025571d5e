"""From observations to verdicts, alarms and tickets, over all signals and slices.

One page for one event: evidence is pooled with weights that sum to one, so the promise of weeks between false pages
holds for all signals and slices together (docs/statistics.md). An alarm stays open, and nothing pages again, until all
that drifted is back or a person says so; slices that follow join it, and it escalates when a larger fall is proved.
Runs of the frozen probes and of the canaries page by paired tests of their own (`probe_watch`, `canary_watch`) and
share the one alarm.

Everything here is a function of the observations in their order: no clock, no randomness, no IO. That is what makes a
killed and restarted judge raise the same alarm at the same observation.
"""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any, Self

from sidecar.drift.mix import split
from sidecar.judge.alarms import canary_alarm, live_alarm, probe_alarm
from sidecar.judge.canary_watch import CanaryWatch
from sidecar.judge.leader import leader, without_mix
from sidecar.judge.probe_watch import ProbeWatch
from sidecar.judge.signal_watch import SignalWatch
from sidecar.judge.tickets import Tickets
from sidecar.judge.traffic import Traffic
from sidecar.judge.verdicts import proved, verdict_of
from sidecar.model import (
    SEVERITIES,
    WHOLE_STREAM,
    AlarmEnded,
    AlarmEscalated,
    CalibrationStarted,
    Severity,
    Stack,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.drift.canary_run import CanaryRun
    from sidecar.drift.mix import Split
    from sidecar.drift.probe_run import FrozenRun
    from sidecar.judge.mix_watch import MixWatch
    from sidecar.judge.options import JudgeOptions
    from sidecar.judge.track import Drop
    from sidecar.judge.verdicts import Judged
    from sidecar.model import Alarm, AuditEvent, Observation

STATE_VERSION = 2

SILENT_SECONDS = 3 * 86_400.0
"""What drifted and then gave no value for this long no longer keeps an alarm open."""

LONG_SESSION = 11
"""Steps from which sessions are taken together."""

SESSIONS = "sessions"
"""The signal of agent sessions without a disrupted retrieval; judged over the whole stream only."""


class Judgement:
    """The state of the judge on duty."""

    def __init__(self, options: JudgeOptions) -> None:
        self.options = options
        self.watches = {
            signal: SignalWatch(
                signal,
                options.rules,
                min_queries=options.min_queries,
                min_slice_queries=options.min_slice_queries,
                max_slices=options.max_slices,
            )
            for signal in options.signals
        }
        self.stack: Stack | None = None
        self.alarm_id: str | None = None
        self.severity: Severity = "none"
        self.last_request = ""
        self.traffic = Traffic(options.disrupted, options.recent_queries)
        self.probes = ProbeWatch(options.min_effect)
        self.canaries = CanaryWatch(options.min_effect)
        self.tickets = Tickets()

    @property
    def first(self) -> SignalWatch:
        """The first signal: its baseline is what "accepted" means for the deployment."""
        return self.watches[self.options.signals[0]]

    @property
    def accepted(self) -> Stack | None:
        """The stack of the accepted baseline; None before there is one."""
        return self.first.accepted

    def feed(self, identity: str, observation: Observation) -> list[AuditEvent]:
        """Take in one observation; give what follows from it, usually nothing.

        `identity` is the observation's own id; it becomes part of the events' ids, so that they are the same again
        after a restart.
        """
        self._notice_stack(observation.stack)
        learning = self.alarm_id is None  # during an alarm a calibration would learn the drift
        touched: list[tuple[SignalWatch, list[str]]] = []
        for signal, watch in self.watches.items():
            value = observation.values.get(signal)
            if value is not None and (names := watch.take(value, observation, learning=learning)):
                touched.append((watch, names))
                if watch is self.first:
                    self.traffic.count(observation, value, calibrating=self.accepted is None)
        if touched and touched[0][0] is self.first and observation.session and observation.weight > 0:
            disruption = observation.values[self.first.signal]
            touched += self._close_sessions(observation, disruption, learning=learning)
        events: list[AuditEvent] = []
        if learning:
            for watch, names in touched:
                accepted = (watch.accept(name, identity, observation.at, observation.stack) for name in names)
                events += [event for event in accepted if event is not None]
        if touched:
            judged = self._judged()
            events += self._page(identity, observation, touched, judged)
            events += self.tickets.write(
                identity,
                observation.at,
                judged,
                self.options.weeks_between_false_tickets,
                alarm_open=self.alarm_id is not None,
            )
        return events

    def feed_run(self, identity: str, run: FrozenRun) -> list[AuditEvent]:
        """Take in one replay of the frozen probes; those of another acceptance say nothing about this one."""
        watch = self.first
        if watch.accepted is None or watch.accepted_at != run.accepted_at:
            return []
        level = self.probes.take(run)
        paired = run.deployed.paired
        if level != "page" or paired is None or paired.relative is None:
            return [] if self.alarm_id is None else self._recover(identity, run.at)
        self.probes.drifted = True
        found = probe_alarm(identity, run, paired, self.probes, accepted=watch.accepted, tiers=self.options.tiers)
        return self._raise(found)

    def feed_canaries(self, identity: str, run: CanaryRun) -> list[AuditEvent]:
        """Take in one run of the canaries: what it found, and what follows from its fall below the accepted stack."""
        watch = self.first
        events: list[AuditEvent] = []
        events += self.canaries.findings(identity, run, accepted_at=watch.accepted_at)
        if watch.accepted is None or watch.accepted_at != run.accepted_at:
            return events
        for one, change in (paging := self.canaries.take(run)):
            place = f"{identity}/{one.set.name}"
            accepted, tiers = watch.accepted, self.options.tiers
            events += self._raise(canary_alarm(place, run, one, change, self.canaries, accepted=accepted, tiers=tiers))
        return events if paging or self.alarm_id is None else [*events, *self._recover(identity, run.at)]

    def _raise(self, found: Alarm) -> list[AuditEvent]:
        """Open the alarm, or let an open one say the worse of both severities."""
        if self.alarm_id is not None:
            return self._escalate_to(found.severity, found.id, found.at)
        self._open(found.id, found.severity)
        return [found]

    def recalibrate(self, identity: str, at: float, by: str, why: str) -> list[AuditEvent]:
        """Give up the baselines and the alarm, and measure anew from the next observation."""
        self.last_request = identity
        ended = self._end(f"{identity}/end", at, "recalibrated", by, why)
        for watch in self.watches.values():
            watch.forget()
        self._forget_traffic()
        return [*ended, CalibrationStarted(identity, at, by, why)]

    def fixed(self, identity: str, at: float, by: str, why: str) -> list[AuditEvent]:
        """Take a person's word that the cause is repaired: end an open alarm and the evidence, keep the baselines."""
        self.last_request = identity
        if self.alarm_id is None:
            return []
        ended = self._end(identity, at, "fixed", by, why)
        for watch in self.watches.values():
            watch.reset()
        return ended

    @property
    def evidence(self) -> float:
        """Pooled evidence of all signals and slices, in weeks; the pager's number."""
        return sum(weight * track.evidence for weight, track in self._judged().values())

    @property
    def rise(self) -> float:
        """Pooled evidence that levels have risen, in weeks."""
        return sum(weight * track.rise for weight, track in self._judged().values())

    def verdicts(self) -> list[Verdict]:
        """Give what is held about each signal and slice now, the first signal's whole stream first."""
        judged = self._judged()
        return [
            verdict_of(
                watch,
                name,
                judged[signal, name][0] if (signal, name) in judged else 0.0,
                self.options,
                alarm_open=self.alarm_id is not None,
            )
            for signal, watch in self.watches.items()
            for name in watch.tracks
        ]

    @property
    def queries_since_start(self) -> int | None:
        """Queries since the estimated start of what drifted; None while nothing has."""
        lengths = [
            track.start.n + track.since_alarm.n
            for track in self.first.tracks.values()
            if track.alarm_at is not None and track.start is not None
        ]
        return max(lengths, default=None)

    def mix(self, queries: int | None = None) -> tuple[Split | None, Split | None]:
        """Split the change of the first signal's level over the last `queries` by slices, and by clusters in them."""
        return self._split(self.traffic.slices, queries), self._split(self.traffic.clusters, queries)

    def whole_weights(self) -> dict[str, float]:
        """Give the weight that the whole stream of each judged signal has in the pager."""
        return {signal: weight for (signal, name), (weight, _) in self._judged().items() if name == WHOLE_STREAM}

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain JSON."""
        return {
            "version": STATE_VERSION,
            "signals": {signal: watch.to_state() for signal, watch in self.watches.items()},
            "stack": astuple(self.stack) if self.stack else None,
            "alarm_id": self.alarm_id,
            "severity": self.severity,
            "last_request": self.last_request,
            **self.traffic.to_state(),
            "probes": self.probes.to_state(),
            "canaries": self.canaries.to_state(),
            "tickets": self.tickets.open,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], options: JudgeOptions) -> Self:
        """Rebuild what `to_state` gave. A signal that is new in the settings begins to calibrate.

        Raises:
            ValueError, KeyError, TypeError: not such a state, of another version, or of another first signal.
        """
        if state["version"] != STATE_VERSION:
            raise ValueError(f"state has version {state['version']}, this program writes {STATE_VERSION}")
        first = next(iter(state["signals"]))
        if first != options.signals[0]:
            raise ValueError(f"state belongs to the signal {first}, the settings say {options.signals[0]}")
        made = cls(options)
        for signal, watch in made.watches.items():
            if signal in state["signals"]:
                watch.restore(state["signals"][signal])
        made.stack = Stack(*state["stack"]) if state["stack"] else None
        made.alarm_id = state["alarm_id"]
        made.severity = state["severity"]
        made.last_request = state["last_request"]
        if not made.traffic.restore(state) and SESSIONS in made.watches:  # what counts as hit is another thing now
            made.watches[SESSIONS].forget()
        made.probes.restore(state["probes"])
        if "canaries" in state:  # earlier versions had none
            made.canaries.restore(state["canaries"])
        made.tickets = Tickets(state["tickets"])
        return made

    def _notice_stack(self, stack: Stack) -> None:
        before, self.stack = self.stack, stack
        if before is None or before == stack:
            return
        if {"reference_encoder", "reference_index"} & set(stack.changes_since(before)):
            self.traffic.forget_clusters()
        calibrating = self.accepted is None
        for watch in self.watches.values():
            watch.notice_stack(before, stack)
        if calibrating and not self.first.tracks[WHOLE_STREAM].queries:
            self._forget_traffic()

    def _forget_traffic(self) -> None:
        """Forget what was accepted beside the baselines."""
        self.traffic.forget()
        self.probes.reset()
        self.canaries.forget()
        self.tickets.forget()

    def _close_sessions(
        self, observation: Observation, value: float, *, learning: bool
    ) -> list[tuple[SignalWatch, list[str]]]:
        """Count the retrieval in its session; each session that is over gives one value of the session signal."""
        watch = self.watches.get(SESSIONS)
        closed = self.traffic.close_sessions(observation, value)
        if watch is None or not closed:
            return []
        for session in closed:
            # Longer sessions are hit more often: their length is a stratum, as a slice is one of the queries.
            watch.take_whole(session.value, session.at, str(min(session.steps, LONG_SESSION)), learning=learning)
        return [(watch, [WHOLE_STREAM])]

    def _split(self, groups: MixWatch, queries: int | None) -> Split | None:
        whole = self.first.tracks[WHOLE_STREAM].baseline
        inflation = 1.0 if whole is None else whole.channels[0].kappa
        return split(groups.before, groups.after(queries), inflation=inflation)

    def _judged(self) -> Judged:
        judged = {signal: weights for signal, watch in self.watches.items() if (weights := watch.weights())}
        return {
            (signal, name): (weight / len(judged), self.watches[signal].tracks[name])
            for signal, weights in judged.items()
            for name, weight in weights.items()
        }

    def _page(
        self, identity: str, observation: Observation, touched: list[tuple[SignalWatch, list[str]]], judged: Judged
    ) -> list[AuditEvent]:
        """Raise the alarm when the pool reaches the promise; see who joins an open one, and whether it is over."""
        threshold = self.options.weeks_between_false_pages
        shares = {key: weight * track.evidence for key, (weight, track) in judged.items()}
        if self.alarm_id is not None:
            for watch, names in touched:
                for name in names:
                    if shares.get((watch.signal, name), 0.0) >= threshold:
                        self._join(watch.signal, name, observation.at)
            return self._escalate(identity, observation, judged) or self._recover(identity, observation.at)
        total = sum(shares.values())
        if total < threshold or (lead := leader(judged, shares, self.options, self._drop)) is None:
            return []
        (signal, name), drop = lead
        watch, track = self.watches[signal], judged[signal, name][1]
        self._open(identity, proved(judged, self.options))
        track.mark_drifted(observation.at, drop.level)
        by_slice = self._split(self.traffic.slices, track.start.n if track.start is not None else None)
        found = live_alarm(identity, observation, watch, name, drop=drop, by_slice=by_slice)
        return [replace(found, severity=self.severity, evidence=total, threshold=threshold)]

    def _drop(self, signal: str, name: str) -> Drop | None:
        """Give the fall of one slice; of the first signal's whole stream, without what another mix explains."""
        track = self.watches[signal].tracks[name]
        drop = track.drop()
        if drop is None or track.start is None or name != WHOLE_STREAM or signal != self.first.signal:
            return drop
        by_slice = self._split(self.traffic.slices, track.start.n)
        return drop if by_slice is None else without_mix(drop, by_slice)

    def _join(self, signal: str, name: str, at: float) -> None:
        """Let a slice that reached the threshold by itself take part in the open alarm."""
        track = self.watches[signal].tracks[name]
        if track.alarm_at is None:
            drop = self._drop(signal, name)
            if drop is not None and drop.size >= self.options.min_effect:
                track.mark_drifted(at, drop.level)

    def _open(self, identity: str, severity: Severity) -> None:
        """Latch the alarm. Calibrations under way begin again: the drift began before it was told."""
        self.alarm_id, self.severity = identity, severity
        for watch in self.watches.values():
            watch.forget_calibrations()

    def _escalate_to(self, severity: Severity, identity: str, at: float) -> list[AuditEvent]:
        """Raise the open alarm's severity, if this is a higher one."""
        if self.alarm_id is None or SEVERITIES.index(severity) <= SEVERITIES.index(self.severity):
            return []
        self.severity = severity
        return [AlarmEscalated(f"{identity}/{severity}", at, self.alarm_id, severity)]

    def _escalate(self, identity: str, observation: Observation, judged: Judged) -> list[AuditEvent]:
        if not any(track.alarm_at for _, track in judged.values()):  # the probes' alarm: live evidence only joins it
            return []
        return self._escalate_to(proved(judged, self.options), identity, observation.at)

    def _recover(self, identity: str, at: float) -> list[AuditEvent]:
        """End the alarm when everything that drifted is back, or has given no values for days.

        What drifted may also not be watched any more: the settings changed. Live values are silent while others go on:
        a judge that works off a backlog is days behind the clock of the replays.
        """
        tracks = [track for watch in self.watches.values() for track in watch.tracks.values()]
        newest = max((track.last_at for track in tracks if track.last_at is not None), default=at)
        drifted = [track for track in tracks if track.alarm_at]
        silent = [track for track in drifted if track.last_at is None or newest - track.last_at > SILENT_SECONDS]
        if not all(track.recovered for track in drifted if track not in silent):
            return []
        fallen = [gauge for gauge in (self.probes, self.canaries) if gauge.drifted]
        gone = [gauge for gauge in fallen if at - (gauge.last_at or at) > SILENT_SECONDS]
        if not all(gauge.recovered for gauge in fallen if gauge not in gone):
            return []
        how = "silent" if silent or gone else "recovered"
        ended = self._end(f"{identity}/end", at, how, "", "")
        for watch in self.watches.values():
            watch.reset()
        return ended

    def _end(self, identity: str, at: float, how: Any, by: str, why: str) -> list[AuditEvent]:
        alarm, self.alarm_id, self.severity = self.alarm_id, None, "none"
        self.probes.reset()
        self.canaries.reset()
        self.tickets.forget("fall")
        return [] if alarm is None else [AlarmEnded(identity, at, alarm, how, by, why)]
