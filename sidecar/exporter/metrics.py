"""Every metric of the sidecar, in one registry that belongs to one instance.

The rooms below tell what happened through small protocols (`ReplayMetrics`, `JudgeMetrics`, `WatchMetrics`) and know
nothing of Prometheus; this class fulfils them. `docs/metrics.md` lists every family, and a test compares both ways.
Labels are bounded: slices by `sampling.max_slices`, everything else by lists in the code. Histograms by slice exist
for the tested signal and replay fidelity only; the other measures are summaries (a mean each), or 20 slices would
cost over 2,000 series.
"""

from __future__ import annotations

import math
import platform
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    Summary,
    disable_created_metrics,
)

from sidecar.model import STACK_PARTS, Alarm, BaselineAccepted
from sidecar.replay.compare import fidelity_name, signal_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.judge.judgement import Judgement
    from sidecar.model import AuditEvent, Observation, Role, Stack
    from sidecar.replay.retriever import Retriever

RATIO_BUCKETS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999)
DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
PHASES = ("gather", "encode_deployed", "search_deployed", "encode_reference", "search_reference", "compare", "record")
ROLES: tuple[Role, ...] = ("deployed", "reference")
FAILURES = ("EncoderError", "VectorIndexError", "store")
LEAST_LOG10 = -12.0
"""What log10 of no evidence at all reads."""


class Metrics:
    """The instruments of one sidecar. `now` gives unix seconds."""

    def __init__(  # noqa: PLR0915  (one statement a metric)
        self, *, signal: str, k: int, version: str, threshold_weeks: float, now: Callable[[], float]
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._now = now
        self._signal = signal
        self._by_slice = {signal, fidelity_name(k)}
        self._slices_seen: set[str] = set()

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"rag_drift_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(f"rag_drift_{name}", text, labels, registry=registry)

        Info("rag_drift_build", "Version of the sidecar.", registry=registry).info(
            {"version": version, "python": platform.python_version()}
        )
        self.ready = gauge("ready", "1 while models are loaded and the stream can be read.")
        self.config_reload_success = gauge(
            "config_last_reload_successful", "1 if the last reload of the settings succeeded, or there was none."
        )
        self.config_reload_success.set(1)
        self.config_reload_time = gauge(
            "config_last_reload_success_timestamp_seconds", "When the settings in use were read."
        )

        self._replays = counter("replays", "Queries that were replayed and observed.", ["slice"])
        self._replay_failures = counter("replay_failures", "Queries or writes that failed in replay.", ["reason"])
        self._phases = Histogram(
            "rag_drift_phase_duration_seconds",
            "Duration of one phase of one batch.",
            ["phase"],
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self._agreement = Histogram(
            "rag_drift_agreement_ratio",
            "Agreement of two rankings of one query, for the tested signal and replay fidelity.",
            ["signal", "slice"],
            buckets=RATIO_BUCKETS,
            registry=registry,
        )
        self._detail = Summary(
            "rag_drift_agreement_detail_ratio",
            "Agreement of deployed and reference rankings by the other measures.",
            ["signal", "slice"],
            registry=registry,
        )

        judged = ["signal", "slice"]
        self._drifted = gauge("drifted", "1 while the slice is held to have drifted.", judged)
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
        self._pager = gauge("pager_evidence_log10", "log10 of the pooled evidence, in weeks of budget.", ["signal"])
        self._threshold = gauge("pager_threshold_log10", "log10 of the evidence that pages, in weeks.", ["signal"])
        self._threshold.labels(signal).set(math.log10(threshold_weeks))
        self._pager.labels(signal).set(LEAST_LOG10)
        self._alarms = counter("alarms", "Alarms raised; one per drift event.", ["signal"])
        self._alarms.labels(signal)
        self._accepted = counter("baselines_accepted", "Baselines that came into force.", ["signal"])
        self._accepted.labels(signal)
        self._accepted_at = gauge(
            "baseline_accepted_timestamp_seconds",
            "When the whole stream's baseline came into force; 0 before.",
            ["signal"],
        )
        self._accepted_at.labels(signal)
        self._changed = gauge("stack_changed", "1 while this part is another than the accepted baseline's.", ["part"])
        for part in STACK_PARTS:
            self._changed.labels(part)
        self._judged = counter("observations_judged", "Observations that the judge has counted.")
        self._set_aside = gauge(
            "observations_set_aside", "Observations in a row that were not judged, because the reference changed."
        )
        self._active = gauge("judge_active", "1 on the replica that judges.")
        self._judge_failures = counter("judge_failures", "Judge steps that failed and were tried again.")
        self._gaps = counter("judge_gaps", "Times that observations were trimmed before the judge read them.")
        self._evaluated_at = gauge(
            "last_evaluation_timestamp_seconds", "When this replica last finished judging what there was; 0 before."
        )

        self._encoder = gauge("encoder_info", "1 for the encoder and index in use.", ["role", "fingerprint", "index"])
        self._similarity = gauge(
            "encoder_similarity_ratio",
            "Mean cosine of the sentinel texts with the accepted encoder; 1 is the same, NaN unknown.",
            ["role"],
        )
        self._documents = gauge("index_documents", "Documents in the index in use.", ["role"])
        self._matches = gauge(
            "index_matches_encoder",
            "1 if the index was built by the encoder in use; NaN before it is loaded.",
            ["role"],
        )
        self._loaded_at = gauge("retriever_loaded_timestamp_seconds", "When the retriever in use was loaded.", ["role"])
        self._reload_failures = counter(
            "retriever_reload_failures", "New versions of a retriever that could not be loaded.", ["role"]
        )
        for role in ROLES:
            for family in (self._similarity, self._documents, self._matches, self._loaded_at, self._reload_failures):
                family.labels(role)
            # 0 would say that an encoder is a wholly different one, or its index a wrong one, before either is loaded.
            self._similarity.labels(role).set(math.nan)
            self._matches.labels(role).set(math.nan)
        for phase in PHASES:
            self._phases.labels(phase)
        for reason in FAILURES:
            self._replay_failures.labels(reason)
        self._info_labels: dict[str, tuple[str, str, str]] = {}
        self._k = k
        self._judged_slices: set[str] = set()

    def phase(self, name: str, seconds: float) -> None:
        """Note that a phase of one batch took `seconds`."""
        self._phases.labels(name).observe(seconds)

    def know_slices(self, names: Sequence[str]) -> None:
        """Make the series of these slices exist with 0."""
        for name in names:
            if name not in self._slices_seen:
                self._slices_seen.add(name)
                self._replays.labels(name)
                for signal in signal_names(self._k):
                    (self._agreement if signal in self._by_slice else self._detail).labels(signal, name)

    def replayed(self, observations: Sequence[Observation]) -> None:
        """Note observations that were written."""
        for one in observations:
            self.know_slices([one.slice])
            self._replays.labels(one.slice).inc()
            for signal, value in one.values.items():
                (self._agreement if signal in self._by_slice else self._detail).labels(signal, one.slice).observe(value)

    def replay_failed(self, reason: str, queries: int = 1) -> None:
        """Note queries that could not be replayed, or a write that failed (`store`)."""
        self._replay_failures.labels(reason).inc(queries)

    def retriever_loaded(self, retriever: Retriever) -> None:
        """Note the retriever that is now in use for its role."""
        role = retriever.role
        if (old := self._info_labels.get(role)) is not None:
            self._encoder.remove(*old)
        labels = (role, retriever.fingerprint.digest, retriever.index.generation)
        self._info_labels[role] = labels
        self._encoder.labels(*labels).set(1)
        self._documents.labels(role).set(retriever.index.size)
        self._matches.labels(role).set(retriever.index_matches)
        self._loaded_at.labels(role).set(self._now())

    def encoder_similarity(self, role: Role, cosine: float | None) -> None:
        """Note how close the encoder in use is to the accepted one; None while nobody knows (not 0)."""
        self._similarity.labels(role).set(math.nan if cosine is None else cosine)

    def reload_failed(self, role: str) -> None:
        """Note that a new version could not be loaded."""
        self._reload_failures.labels(role).inc()

    def on_duty(self, active: bool) -> None:
        """Note whether this replica judges; verdicts of a former duty must not linger."""
        self._active.set(active)
        if not active:
            for name in self._judged_slices:
                for family in self._verdict_families():
                    family.remove(self._signal, name)
            self._judged_slices.clear()
            self._pager.labels(self._signal).set(LEAST_LOG10)
            self._accepted_at.labels(self._signal).set(0)
            self._show_stack(None, None)
            self._set_aside.set(0)
            for role in ROLES:
                self.encoder_similarity(role, None)

    def judged(self, judgement: Judgement, observations: int) -> None:
        """Show the verdicts after a checkpoint that counts `observations` more."""
        verdicts = judgement.verdicts()
        for gone in self._judged_slices - {verdict.slice for verdict in verdicts}:
            for family in self._verdict_families():
                family.remove(self._signal, gone)
        self._judged_slices = {verdict.slice for verdict in verdicts}
        for verdict in verdicts:
            labels = (verdict.signal, verdict.slice)
            self._drifted.labels(*labels).set(verdict.state == "drifted")
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
        self._pager.labels(self._signal).set(_log10(judgement.evidence))
        self._accepted_at.labels(self._signal).set(judgement.accepted_at or 0)
        self._show_stack(judgement.accepted, judgement.stack)
        self._judged.inc(observations)
        self._set_aside.set(judgement.set_aside)
        self._evaluated_at.set(self._now())

    def audit(self, event: AuditEvent) -> None:
        """Count an event that is in the audit trail."""
        if isinstance(event, Alarm):
            self._alarms.labels(event.signal).inc()
        elif isinstance(event, BaselineAccepted):
            self._accepted.labels(event.signal).inc()

    def judge_gap(self) -> None:
        """Note that observations were trimmed before they were judged."""
        self._gaps.inc()

    def judge_failed(self) -> None:
        """Note that a step failed and will be tried again."""
        self._judge_failures.inc()

    def _show_stack(self, accepted: Stack | None, current: Stack | None) -> None:
        changed = current.changes_since(accepted) if accepted and current else ()
        for part in STACK_PARTS:
            self._changed.labels(part).set(part in changed)

    def _verdict_families(self) -> tuple[Gauge, ...]:
        return (
            self._drifted,
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
