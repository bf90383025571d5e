"""Every metric of the sidecar, in one registry that belongs to one instance.

The rooms below tell what happened through small protocols (`ReplayMetrics`, `WatchMetrics`, and those whose instruments
are in `judge_metrics`, `probe_metrics` and `canary_metrics`) and know nothing of Prometheus; this class fulfils them.
`docs/metrics.md` lists every family, and a test compares both ways.
Labels are bounded: slices by `sampling.max_slices`, everything else by lists in the code. A histogram by slice exists
for the first signal only; fidelity and the other measures are summaries (a mean each), or 20 slices would cost over
2,000 series.
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

from sidecar.exporter.canary_metrics import CanaryMetrics
from sidecar.exporter.judge_metrics import JudgeMetrics
from sidecar.exporter.objective_metrics import RATIO_BUCKETS
from sidecar.exporter.probe_metrics import ProbeMetrics
from sidecar.replay.compare import signal_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.model import Observation, Role
    from sidecar.replay.retriever import Retriever

DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
PHASES = (
    "gather", "encode_deployed", "search_deployed", "encode_reference", "search_reference", "score_reference",
    "compare", "record",
)  # fmt: skip
FROZEN_PHASES = ("encode_frozen", "search_frozen", "score_frozen")
ROLES: tuple[Role, ...] = ("deployed", "reference")
FAILURES = ("EncoderError", "VectorIndexError", "store")


class Metrics:
    """The instruments of one sidecar.

    `pages` and `tickets` are the weeks promised between false ones; `now` gives unix seconds. `frozen` says that there
    is a frozen copy.
    """

    def __init__(
        self,
        *,
        signals: Sequence[str],
        k: int,
        version: str,
        pages: float,
        tickets: float,
        now: Callable[[], float],
        frozen: bool = False,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._now = now
        self._first = signals[0]
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
            "Agreement of two rankings of one query, by the first tested signal.",
            ["signal", "slice"],
            buckets=RATIO_BUCKETS,
            registry=registry,
        )
        self._detail = Summary(
            "rag_drift_agreement_detail_ratio",
            "Agreement by the other measures, with reference, frozen copy or what was served; regret is 0 at best.",
            ["signal", "slice"],
            registry=registry,
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
        self._outdated = gauge(
            "retriever_outdated", "1 while the folder holds a version that could not be loaded.", ["role"]
        )
        self._roles: tuple[Role, ...] = (*ROLES, "frozen") if frozen else ROLES
        for role in self._roles:
            for family in (
                self._similarity,
                self._documents,
                self._matches,
                self._loaded_at,
                self._reload_failures,
                self._outdated,
            ):
                family.labels(role)
            # 0 would say that an encoder is a wholly different one, or its index a wrong one, before either is loaded.
            self._similarity.labels(role).set(math.nan)
            self._matches.labels(role).set(math.nan)
        for phase in (*PHASES, *(FROZEN_PHASES if frozen else ())):
            self._phases.labels(phase)
        for reason in FAILURES:
            self._replay_failures.labels(reason)
        self._cycle = gauge(
            "evaluation_interval_seconds",
            "The longest that one round of this loop should take, by the settings.",
            ["loop"],
        )
        self._info_labels: dict[str, tuple[str, str, str]] = {}
        self._signal_names = signal_names(k, frozen=frozen)
        self.probes = ProbeMetrics(registry)
        self.canaries = CanaryMetrics(registry)
        self.judge = JudgeMetrics(
            registry,
            signals,
            pages=pages,
            tickets=tickets,
            now=now,
            accepted=self.canaries.acceptance,
            retired=self._unknown,
        )

    def cycles(self, *, judge: float, frozen: float, canaries: float) -> None:
        """Note how long one round of each loop should take at most, so that rules need not know the settings."""
        for loop, seconds in (("judge", judge), ("frozen", frozen), ("canaries", canaries)):
            self._cycle.labels(loop).set(seconds)

    def phase(self, name: str, seconds: float) -> None:
        """Note that a phase of one batch took `seconds`."""
        self._phases.labels(name).observe(seconds)

    def know_slices(self, names: Sequence[str]) -> None:
        """Make the series of these slices exist with 0."""
        for name in names:
            if name not in self._slices_seen:
                self._slices_seen.add(name)
                self._replays.labels(name)
                for signal in self._signal_names:
                    self._family(signal).labels(signal, name)

    def replayed(self, observations: Sequence[Observation]) -> None:
        """Note observations that were written."""
        for one in observations:
            self.know_slices([one.slice])
            self._replays.labels(one.slice).inc()
            for signal, value in one.values.items():
                self._family(signal).labels(signal, one.slice).observe(value)

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
        self._outdated.labels(role).set(0)

    def encoder_similarity(self, role: Role, cosine: float | None) -> None:
        """Note how close the encoder in use is to the accepted one; None while nobody knows (not 0)."""
        self._similarity.labels(role).set(math.nan if cosine is None else cosine)

    def _family(self, signal: str) -> Histogram | Summary:
        return self._agreement if signal == self._first else self._detail

    def _unknown(self) -> None:
        """Forget what only the judging replica knows."""
        for role in self._roles:
            self.encoder_similarity(role, None)
        self.canaries.retired()

    def reload_failed(self, role: str) -> None:
        """Note that a new version could not be loaded."""
        self._reload_failures.labels(role).inc()
        self._outdated.labels(role).set(1)

    def up_to_date(self, role: str) -> None:
        """Note that the folder holds the version in use again, after one that was refused."""
        self._outdated.labels(role).set(0)
