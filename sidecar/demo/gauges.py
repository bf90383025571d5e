"""What the demo reads of the sidecar: the same port that Prometheus and people read, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp

AGREEMENT = frozenset(
    f"rag_drift_{family}_{part}"
    for family in ("agreement_ratio", "agreement_detail_ratio")
    for part in ("sum", "count")
)


@dataclass(slots=True)
class Gauges:
    """The sidecar's numbers at the last look. `overlap` and `fidelity` are means since the look before.

    `moved` is the share of the recent queries that moved to other slices; `recorded` says that the accepted stack was
    inspected, so that a diagnosis has something to compare with.
    """

    session: aiohttp.ClientSession
    base: str
    judged: int = 0
    similarity: float = 0.0
    moved: float = 0.0
    recorded: bool = False
    overlap: float | None = None
    fidelity: float | None = None
    verdicts: list[Mapping[str, Any]] = field(default_factory=list)
    _sums: dict[str, tuple[float, float]] = field(default_factory=dict)

    async def look(self) -> None:
        """Read metrics and verdicts."""
        async with self.session.get(self.base + "/metrics") as response:
            families = text_string_to_metric_families(await response.text())
        async with self.session.get(self.base + "/api/v1/verdicts") as response:
            found = await response.json()
        self.verdicts = found["verdicts"] or self.verdicts
        self.moved = ((found.get("mix") or {}).get("slice") or {}).get("distance", self.moved)
        agreement: dict[tuple[str, str], float] = {}
        for sample in (sample for family in families for sample in family.samples):
            if sample.name in AGREEMENT:
                key = (sample.labels["signal"], sample.name.rpartition("_")[2])
                agreement[key] = agreement.get(key, 0.0) + sample.value
            elif sample.name == "rag_drift_observations_judged_total":
                self.judged = int(sample.value)
            elif sample.name == "rag_drift_accepted_stack_recorded_timestamp_seconds":
                self.recorded = sample.value > 0
            elif sample.name == "rag_drift_encoder_similarity_ratio" and sample.labels["role"] == "deployed":
                self.similarity = sample.value
        self.overlap = self._mean_since_last_look("overlap@10", agreement)
        self.fidelity = self._mean_since_last_look("fidelity@10", agreement)

    async def ready(self) -> bool:
        """Say whether the sidecar is ready."""
        async with self.session.get(self.base + "/-/ready") as response:
            return response.ok

    async def event(self, kind: str) -> dict[str, Any] | None:
        """Give the newest event of a kind in the audit trail."""
        async with self.session.get(self.base + "/api/v1/audit") as response:
            events = await response.json()
        return next((event for event in events if event["kind"] == kind), None)

    async def diagnosis(self) -> dict[str, Any] | None:
        """Give the last attribution."""
        async with self.session.get(self.base + "/api/v1/diagnosis") as response:
            found: dict[str, Any] | None = await response.json()
        return found

    async def canaries(self, *, since: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """Give the last run of the canary sets that is held against the accepted stack.

        With `since`, a run before: only one of another deployed encoder.
        """
        async with self.session.get(self.base + "/api/v1/canaries") as response:
            found: dict[str, Any] | None = await response.json()
        if found is None or not all("accepted" in one["signatures"] for one in found["retrieval"]):
            return None
        encoder = None if since is None else since["stack"]["deployed_encoder"]
        return None if found["stack"]["deployed_encoder"] == encoder else found

    def verdict(self, name: str) -> Mapping[str, Any] | None:
        """Give the verdict of one slice."""
        return next((one for one in self.verdicts if one["slice"] == name), None)

    @property
    def drifted(self) -> bool:
        """Say whether any slice is held to have drifted."""
        return any(one["state"] == "drifted" for one in self.verdicts)

    def _mean_since_last_look(self, signal: str, agreement: dict[tuple[str, str], float]) -> float | None:
        now = (agreement.get((signal, "sum"), 0.0), agreement.get((signal, "count"), 0.0))
        before, self._sums[signal] = self._sums.get(signal, (0.0, 0.0)), now
        return (now[0] - before[0]) / (now[1] - before[1]) if now[1] > before[1] else None
