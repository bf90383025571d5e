"""What the judge holds, as metrics: verdicts by signal and slice, the pager, alarms and tickets, the mix, sessions.

Only the replica on duty shows verdicts; when it retires they disappear, so that two replicas never contradict each
other on a dashboard.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

from sidecar.drift.attribution import Cause
from sidecar.exporter.objective_metrics import ObjectiveMetrics
from sidecar.exporter.plan_metrics import PlanMetrics
from sidecar.judge.canary_watch import CANARIES
from sidecar.judge.probe_watch import FROZEN_PROBES
from sidecar.judge.tickets import DIRECTIONS
from sidecar.model import SEVERITIES, STACK_PARTS, Alarm, AlarmEnded, BaselineAccepted, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client import CollectorRegistry

    from sidecar.drift.mix import Split
    from sidecar.judge.judgement import Judgement
    from sidecar.model import AuditEvent, Stack

LEAST_LOG10 = -12.0
"""What log10 of no evidence at all reads."""
GROUPINGS = ("slice", "cluster")


class JudgeMetrics:
    """The instruments of the judge.

    `now` gives unix seconds. `accepted` is told with every checkpoint when the baseline in force was accepted, None
    before there is one; `retired` is called when the duty ends.
    """

    def __init__(  # noqa: PLR0915  (one statement a metric)
        self,
        registry: CollectorRegistry,
        signals: Sequence[str],
        *,
        pages: float,
        tickets: float,
        now: Callable[[], float],
        accepted: Callable[[float | None], None],
        retired: Callable[[], None],
    ) -> None:
        self._now = now
        self._acceptance = accepted
        self._retired = retired
        self._shown: set[tuple[str, str]] = set()

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"rag_drift_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(f"rag_drift_{name}", text, labels, registry=registry)

        judged = ["signal", "slice"]
        self._drifted = gauge("drifted", "1 while the slice is held to have drifted.", judged)
        self._severity = gauge(
            "severity",
            "What the slice's own evidence proves: 0 nothing, 1 ticket, 2 minor, 3 major, 4 critical.",
            judged,
        )
        self._start = gauge(
            "drift_start_timestamp_seconds", "Estimated start of the drift; 0 while there is none.", judged
        )
        self._progress = gauge("calibration_progress_ratio", "Share of the calibration that is done.", judged)
        self._baseline = gauge("baseline_ratio", "Mean of the accepted baseline; 0 before there is one.", judged)
        self._level = gauge(
            "level_ratio", "Current mean: since the alarm if drifted, else over the recent window.", judged
        )
        self._lower = gauge("level_lower_ratio", "Lower end of the current mean's interval.", judged)
        self._upper = gauge("level_upper_ratio", "Upper end of the current mean's interval.", judged)
        self._evidence = gauge(
            "evidence_log10",
            "log10 of the slice's share of the pager's evidence, in weeks of false-page budget.",
            judged,
        )
        self._pager = gauge("pager_evidence_log10", "log10 of the pooled evidence of a fall, in weeks of budget.")
        self._rise = gauge("rise_evidence_log10", "log10 of the pooled evidence of a rise, in weeks of budget.")
        gauge("pager_threshold_log10", "log10 of the evidence that pages, in weeks.").set(math.log10(pages))
        gauge("ticket_threshold_log10", "log10 of the evidence that makes a ticket, in weeks.").set(math.log10(tickets))
        self._open = gauge(
            "alarm_severity", "Severity of the open alarm: 0 there is none, 2 minor, 3 major, 4 critical."
        )
        self._alarms = counter("alarms", "Alarms raised; one per drift event.", ["signal"])
        self._ended = counter("alarms_ended", "Alarms that ended, by how.", ["how"])
        self._tickets = counter("tickets", "Tickets written, by direction.", ["direction"])
        self._accepted = counter("baselines_accepted", "Baselines that came into force.", ["signal"])
        self._accepted_at = gauge(
            "baseline_accepted_timestamp_seconds",
            "When the whole stream's baseline came into force; 0 before.",
            ["signal"],
        )
        self._set_aside = gauge(
            "observations_set_aside",
            "Observations in a row that were not judged, because what they are held against changed.",
            ["signal"],
        )
        for signal in signals:
            for family in (self._alarms, self._accepted, self._accepted_at, self._set_aside):
                family.labels(signal)
        for signal in (FROZEN_PROBES, CANARIES):
            self._alarms.labels(signal)
        for how in ("recovered", "silent", "fixed", "recalibrated"):
            self._ended.labels(how)
        self._ticket = gauge(
            "ticket_open", "1 while a ticket's evidence stands: a fall short of an alarm, or a rise.", ["direction"]
        )
        for direction in DIRECTIONS:
            self._tickets.labels(direction)
        self._changed = gauge("stack_changed", "1 while this part is another than the accepted baseline's.", ["part"])
        for part in STACK_PARTS:
            self._changed.labels(part)
        self._moved = gauge(
            "mix_moved_ratio",
            "Share of recent queries that moved to other groups since the baseline.",
            ["grouping"],
        )
        self._moved_expected = gauge(
            "mix_moved_expected_ratio", "What would be seen of that by chance alone.", ["grouping"]
        )
        self._new = gauge(
            "mix_new_ratio", "Share of the recent queries in groups that the baseline never saw.", ["grouping"]
        )
        self._change = gauge(
            "level_change_ratio",
            "Change of the first signal's mean since the baseline by part: mix, rate (within groups), new groups.",
            ["grouping", "part"],
        )
        self._session_share = gauge(
            "sessions_disrupted_ratio",
            "Share of closed sessions with at least one disrupted retrieval; NaN before.",
        )
        self._session_lower = gauge("sessions_disrupted_lower_ratio", "Lower end of its interval.")
        self._session_upper = gauge("sessions_disrupted_upper_ratio", "Upper end of its interval.")
        self._session_expected = gauge(
            "sessions_disrupted_expected_ratio", "What it would be if retrievals failed independently of each other."
        )
        self._sessions = gauge("sessions_closed", "Sessions behind these shares.")
        self._cause = gauge("cause", "1 for each cause that the last diagnosis names.", ["cause"])
        for cause in Cause:
            self._cause.labels(cause.value)
        self._diagnosed_at = gauge(
            "diagnosis_timestamp_seconds", "When the stack was last inspected for a cause; 0 while nothing needs one."
        )
        self._recorded_at = gauge(
            "accepted_stack_recorded_timestamp_seconds",
            "When this replica had the accepted stack's record, which a diagnosis compares with; 0 before.",
        )
        self._diagnosis_failures = counter("diagnosis_failures", "Inspections that failed and were tried again.")
        self._judged = counter("observations_judged", "Observations that the judge has counted.")
        self._damaged = counter("observations_damaged", "Observations that could not be read and were passed over.")
        self._active = gauge("judge_active", "1 on the replica that judges.")
        self._judge_failures = counter("judge_failures", "Judge steps that failed and were tried again.")
        self._gaps = counter("judge_gaps", "Times that observations were trimmed before the judge read them.")
        self._evaluated_at = gauge(
            "last_evaluation_timestamp_seconds", "When this replica last finished judging what there was; 0 before."
        )
        self._signals = tuple(signals)
        self._plan = PlanMetrics(registry, self._signals)
        self._objective = ObjectiveMetrics(registry)
        self._clear()

    def on_duty(self, active: bool) -> None:
        """Note whether this replica judges; verdicts of a former duty must not linger."""
        self._active.set(active)
        if not active:
            self._clear()
            self._retired()

    def judged(self, judgement: Judgement, observations: int, *, caught_up: bool = True) -> None:
        """Show the verdicts after a checkpoint that counts `observations` more; in a backlog they are not of now."""
        verdicts = judgement.verdicts()
        self._forget(self._shown - {(verdict.signal, verdict.slice) for verdict in verdicts})
        for verdict in verdicts:
            labels = (verdict.signal, verdict.slice)
            self._shown.add(labels)
            self._drifted.labels(*labels).set(verdict.state == "drifted")
            self._severity.labels(*labels).set(SEVERITIES.index(verdict.severity))
            self._start.labels(*labels).set(verdict.start or 0)
            self._progress.labels(*labels).set(verdict.progress)
            self._baseline.labels(*labels).set(verdict.baseline or 0)
            self._evidence.labels(*labels).set(_log10(verdict.evidence))
            for family, value in (
                (self._level, verdict.level),
                (self._lower, verdict.lower),
                (self._upper, verdict.upper),
            ):
                family.labels(*labels).set(math.nan if value is None else value)
        self._pager.set(_log10(judgement.evidence))
        self._rise.set(_log10(judgement.rise))
        self._open.set(SEVERITIES.index(judgement.severity))
        self._show_tickets(judgement.tickets.open)
        for signal, watch in judgement.watches.items():
            self._accepted_at.labels(signal).set(watch.accepted_at or 0)
            self._set_aside.labels(signal).set(watch.set_aside)
        self._acceptance(judgement.first.accepted_at)
        self._show_stack(judgement.accepted, judgement.stack)
        for grouping, split in zip(GROUPINGS, judgement.mix(), strict=True):
            self._show_mix(grouping, split)
        self._show_sessions(judgement)
        self._plan.show(judgement)
        self._objective.show(judgement)
        self._judged.inc(observations)
        if caught_up:
            self._evaluated_at.set(self._now())

    def audit(self, event: AuditEvent) -> None:
        """Count an event that is in the audit trail."""
        if isinstance(event, Alarm):
            self._alarms.labels(event.signal).inc()
        elif isinstance(event, AlarmEnded):
            self._ended.labels(event.how).inc()
        elif isinstance(event, Ticket):
            self._tickets.labels(event.direction).inc()
        elif isinstance(event, BaselineAccepted):
            self._accepted.labels(event.signal).inc()

    def diagnosed(self, causes: tuple[str, ...] | None, at: float) -> None:
        """Show the named causes; None when there is nothing to explain any more."""
        for cause in Cause:
            self._cause.labels(cause.value).set(cause.value in (causes or ()))
        self._diagnosed_at.set(0 if causes is None else at)

    def stack_recorded(self, at: float) -> None:
        """Note that there is a record of the accepted stack to compare with."""
        self._recorded_at.set(at)

    def diagnosis_failed(self) -> None:
        """Note that an inspection failed and will be tried again."""
        self._diagnosis_failures.inc()

    def judge_gap(self) -> None:
        """Note that observations were trimmed before they were judged."""
        self._gaps.inc()

    def judge_failed(self) -> None:
        """Note that a step failed and will be tried again."""
        self._judge_failures.inc()

    def observation_damaged(self) -> None:
        """Note an observation that could not be read and is passed over."""
        self._damaged.inc()

    def _clear(self) -> None:
        """Show what a replica shows that does not judge."""
        self._forget(set(self._shown))
        self._pager.set(LEAST_LOG10)
        self._rise.set(LEAST_LOG10)
        self._open.set(0)
        self._show_tickets(())
        for signal in self._signals:
            self._accepted_at.labels(signal).set(0)
            self._set_aside.labels(signal).set(0)
        self._show_stack(None, None)
        for grouping in GROUPINGS:
            self._show_mix(grouping, None)
        self._show_sessions(None)
        self.diagnosed(None, 0.0)
        self._recorded_at.set(0)
        self._plan.clear()
        self._objective.clear()

    def _forget(self, gone: set[tuple[str, str]]) -> None:
        for labels in gone:
            for family in self._verdict_families():
                family.remove(*labels)
        self._shown -= gone

    def _show_tickets(self, open_ones: Sequence[str]) -> None:
        for direction in DIRECTIONS:
            self._ticket.labels(direction).set(direction in open_ones)

    def _show_stack(self, accepted: Stack | None, current: Stack | None) -> None:
        changed = current.changes_since(accepted) if accepted and current else ()
        for part in STACK_PARTS:
            self._changed.labels(part).set(part in changed)

    def _show_mix(self, grouping: str, split: Split | None) -> None:
        """Show the split; NaN where nobody knows, which is not the same as no change."""
        self._moved.labels(grouping).set(math.nan if split is None else split.distance)
        self._moved_expected.labels(grouping).set(math.nan if split is None else split.distance_expected)
        self._new.labels(grouping).set(math.nan if split is None else split.new_share)
        for part in ("mix", "rate", "new"):
            self._change.labels(grouping, part).set(math.nan if split is None else getattr(split, part))

    def _show_sessions(self, judgement: Judgement | None) -> None:
        summary = None if judgement is None else judgement.traffic.sessions.summary()
        self._sessions.set(0 if summary is None else summary.sessions)
        for family, value in (
            (self._session_share, None if summary is None else summary.share),
            (self._session_lower, None if summary is None else summary.lower),
            (self._session_upper, None if summary is None else summary.upper),
            (self._session_expected, None if summary is None else summary.expected),
        ):
            family.set(math.nan if value is None else value)

    def _verdict_families(self) -> tuple[Gauge, ...]:
        return (
            self._drifted,
            self._severity,
            self._start,
            self._progress,
            self._baseline,
            self._level,
            self._lower,
            self._upper,
            self._evidence,
        )


def _log10(weeks: float) -> float:
    return max(LEAST_LOG10, math.log10(weeks)) if weeks > 0 else LEAST_LOG10
