"""What the frozen probes show, as metrics: how many there are, what moved, and what of it is noise.

They are this replica's own: only the replica that judges replays them, and what another one showed last stays until it
restarts, so read them beside `rag_drift_judge_active`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prometheus_client import CollectorRegistry

    from sidecar.drift.probe_run import FrozenRun

ROLES = ("deployed", "reference")
FAILURES = ("EncoderError", "VectorIndexError", "StoreError")


class ProbeMetrics:
    """The instruments of the frozen probes; NaN before the first replay."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(f"rag_drift_frozen_{name}", text, labels, registry=registry)

        self._probes = gauge("probes", "Frozen probes: all, and those whose text is known here.", ["state"])
        for state in ("all", "awake"):
            self._probes.labels(state)
        self._at = gauge(
            "last_replay_timestamp_seconds", "When this replica last replayed the frozen probes whole; 0 before."
        )
        self._seconds = gauge("replay_duration_seconds", "How long the last replay of them took.")
        self._busy = Counter(
            "rag_drift_frozen_busy_seconds", "Time that they took of the replay's thread.", registry=registry
        )
        self._failures = Counter(
            "rag_drift_frozen_failures", "Freezing or replaying that failed.", ["reason"], registry=registry
        )
        for reason in FAILURES:
            self._failures.labels(reason)
        self._moved = gauge("moved_ratio", "Share of the probes whose ranking is not the accepted one.", ["role"])
        self._overlap = gauge(
            "overlap_ratio",
            "Mean overlap of the probes with their accepted rankings, on all or only the documents known then.",
            ["role", "documents"],
        )
        self._floor = gauge(
            "floor_ratio", "What that overlap is when nothing changed: 1, less an index's own jitter.", ["role"]
        )
        self._new = gauge(
            "new_documents_ratio", "Share of the probes' top k that documents added since acceptance take.", ["role"]
        )
        for role in ROLES:
            for family in (self._moved, self._floor, self._new):
                family.labels(role).set(math.nan)
            for documents in ("all", "known"):
                self._overlap.labels(role, documents).set(math.nan)

    def frozen_probes(self, total: int, awake: int) -> None:
        """Note how many probes are frozen, and how many of them have a text here."""
        self._probes.labels("all").set(total)
        self._probes.labels("awake").set(awake)

    def frozen_replayed(self, run: FrozenRun, busy_seconds: float, seconds: float) -> None:
        """Show a complete replay."""
        self._at.set(run.at)
        self._busy.inc(busy_seconds)
        self._seconds.set(seconds)
        for role, side in zip(ROLES, (run.deployed, run.reference), strict=True):
            self._moved.labels(role).set(side.moved / side.now.n)
            self._overlap.labels(role, "all").set(side.now.mean)
            self._overlap.labels(role, "known").set(math.nan if side.known is None else side.known.mean)
            self._floor.labels(role).set(side.floor.mean)
            self._new.labels(role).set(math.nan if side.new_share is None else side.new_share)

    def frozen_failed(self, reason: str) -> None:
        """Note that freezing or replaying failed and will be tried again."""
        self._failures.labels(reason).inc()
