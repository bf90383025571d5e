"""Why: inspect the stack while an alarm is open, and name the cause with the case for and against each.

When a baseline is accepted the loaded stack is inspected once, and the record is kept; while an alarm is open, or the
frozen probes have moved, it is inspected again and held against that record. Inspections run in short steps on the
replay's thread, only on the replica that judges. What is measured is `replay.inspection`'s business, what it means is
`drift.attribution`'s; this puts the two together with what the judge knows.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sidecar.drift.attribution import ADVICE, attribute
from sidecar.drift.confidence import Moments
from sidecar.drift.evidence import Sample
from sidecar.encoders.fingerprint import Fingerprint
from sidecar.errors import DataError, DependencyError, EncoderError
from sidecar.replay.frozen import SupersededError
from sidecar.replay.inspection import STEP_SECONDS, Elsewhere, Inspected, Inspection, Record, inspect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from sidecar.drift.attribution import Attribution
    from sidecar.judge.judgement import Judgement
    from sidecar.replay.frozen import FrozenProbes
    from sidecar.replay.retriever import Pair, Retrievers
    from sidecar.store import Store

LOOK_SECONDS = 2.0


class DiagnosisMetrics(Protocol):
    """What the diagnosis tells about itself."""

    def diagnosed(self, causes: tuple[str, ...] | None, at: float) -> None:
        """Note the named causes, none if it cannot be told; None when there is nothing to explain any more."""

    def stack_recorded(self, at: float) -> None:
        """Note that there is a record of the accepted stack."""

    def diagnosis_failed(self) -> None:
        """Note that an inspection failed and will be tried again."""


@dataclass(frozen=True, slots=True)
class DiagnosisOptions:
    """`corpus` is the file that the deployed index was built from; an open alarm is looked at every `every_seconds`.

    `share` of the time of the replay's thread is what an inspection takes at most.
    """

    k: int = 10
    corpus: Path | None = None
    every_seconds: float = 300.0
    share: float = 0.2


class Diagnosis:
    """Inspect until cancelled, whenever there is something to record or to explain."""

    def __init__(
        self,
        store: Store,
        retrievers: Retrievers,
        options: DiagnosisOptions,
        *,
        token: str,
        judgement: Callable[[], Judgement | None],
        probes: FrozenProbes,
        executor: Executor,
        metrics: DiagnosisMetrics,
        log: FilteringBoundLogger,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._retrievers = retrievers
        self._options = options
        self._token = token
        self._judgement = judgement
        self._probes = probes
        self._executor = executor
        self._metrics = metrics
        self._log = log
        self._now = now
        self._record: tuple[float, Record] | None = None
        self._seen: object = None
        self._due = 0.0

    async def run(self) -> None:
        """Look every few seconds; a failure leaves the last diagnosis in place."""
        while True:
            try:
                await self._look()
            except SupersededError:
                self._log.info("inspection_superseded")
            except (DependencyError, DataError) as error:
                self._metrics.diagnosis_failed()
                self._log.warning("diagnosis_failed", error=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        judgement = self._judgement()
        accepted_at = judgement.first.accepted_at if judgement is not None else None
        if judgement is None or accepted_at is None:
            self._record = self._seen = None
            return
        if self._record is None or self._record[0] != accepted_at:
            self._record = await self._recorded(accepted_at)
        pair = self._retrievers.pair
        if self._record is None and pair.stack == judgement.accepted:
            await self._remember(accepted_at, pair, judgement)
            return
        run = self._probes.last
        moved = run is not None and run.accepted_at == accepted_at and not run.still
        if judgement.alarm_id is None and not moved:
            if self._seen is not None:
                self._seen = None
                self._metrics.diagnosed(None, self._now())
                await self._store.keep_diagnosis(self._token, None)
            return
        seen = (judgement.alarm_id, pair.stack, None if run is None else run.state)
        if seen == self._seen and asyncio.get_running_loop().time() < self._due:
            return
        await self._explain(pair, judgement)
        self._seen, self._due = seen, asyncio.get_running_loop().time() + self._options.every_seconds

    async def _recorded(self, accepted_at: float) -> tuple[float, Record] | None:
        kept = await self._store.load_inspection()
        if kept is None:
            return None
        try:
            state = json.loads(kept)
            if state["accepted_at"] != accepted_at:
                return None
            found = Record.from_state(state["record"])
        except (ValueError, KeyError, TypeError) as error:
            self._log.warning("inspection_record_unreadable", error=str(error))
            return None
        self._metrics.stack_recorded(self._now())
        return accepted_at, found

    async def _remember(self, accepted_at: float, pair: Pair, judgement: Judgement) -> None:
        """Inspect what was accepted, and keep the record."""
        inspected = await self._inspect(pair, judgement, None)
        record = inspected.record
        text = json.dumps({"accepted_at": accepted_at, "record": record.to_state()}, separators=(",", ":"))
        if self._retrievers.pair.stack == pair.stack and await self._store.keep_inspection(self._token, text):
            self._record = accepted_at, record
            self._metrics.stack_recorded(self._now())
            self._log.info("stack_recorded", missing=dict(inspected.evidence.missing))

    async def _explain(self, pair: Pair, judgement: Judgement) -> None:
        # Without a record of what was accepted (the change came too soon), its encoders are known all the same.
        record = self._record[1] if self._record is not None else _least(judgement)
        inspected = await self._inspect(pair, judgement, record)
        found = attribute(inspected.evidence)
        at = self._now()
        content = {"at": at, "alarm": judgement.alarm_id, "stack": asdict(pair.stack), **explained(found)}
        if await self._store.keep_diagnosis(self._token, json.dumps(content, separators=(",", ":"))):
            self._metrics.diagnosed(tuple(cause.value for cause in found.causes), at)
            self._log.warning("diagnosis", alarm=judgement.alarm_id, summary=found.summary)

    async def _inspect(self, pair: Pair, judgement: Judgement, accepted: Record | None) -> Inspected:
        inspection = Inspection(
            inspect(
                pair,
                accepted=accepted,
                fingerprints=await self._fingerprints(),
                corpus=self._options.corpus,
                elsewhere=_elsewhere(judgement, self._probes, first=accepted is None),
                probes=self._probes.awake_texts(),
                k=self._options.k,
            )
        )
        loop = asyncio.get_running_loop()
        while True:
            done = await loop.run_in_executor(self._executor, inspection.step)
            if done is not None:
                return done
            if self._retrievers.pair is not pair:
                raise SupersededError
            await asyncio.sleep(STEP_SECONDS * (1.0 / self._options.share - 1.0))

    async def _fingerprints(self) -> dict[str, Fingerprint]:
        known = {}
        for digest, content in (await self._store.fingerprints()).items():
            try:
                known[digest] = Fingerprint.from_bytes(content)
            except EncoderError:  # by another version of this program: it cannot be compared with
                continue
        return known


def explained(found: Attribution) -> dict[str, Any]:
    """Give an attribution as plain JSON: named causes with advice, and the case for and against each."""
    return {
        "summary": found.summary,
        "causes": [{"cause": cause.value, "advice": ADVICE[cause]} for cause in found.causes],
        "findings": [{**asdict(one), "cause": one.cause.value} for one in found.findings],
        "unexplained": list(found.unexplained),
        "missing": dict(found.missing),
    }


def _elsewhere(judgement: Judgement, probes: FrozenProbes, *, first: bool) -> Elsewhere:
    """Collect what is measured elsewhere. Clusters within slices tell more than slices, where there are some."""
    by_slice, by_cluster = judgement.mix(judgement.queries_since_start)
    fidelity = (
        judgement.traffic.fidelity.before if first else judgement.traffic.fidelity.after(judgement.queries_since_start)
    )
    return Elsewhere(
        frozen=None if first else probes.last,
        live=None if first else by_cluster or by_slice,
        clustered=by_cluster is not None,
        fidelity=_sample(fidelity),
    )


def _least(judgement: Judgement) -> Record | None:
    return None if judgement.accepted is None else Record(judgement.accepted, {})


def _sample(groups: Mapping[str, Moments]) -> Sample | None:
    total = sum(groups.values(), Moments())
    if total.mean is None:
        return None
    variance = max(0.0, total.squares / total.n - total.mean**2)
    return Sample(total.mean, total.n, variance**0.5)
