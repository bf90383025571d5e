"""The replay loop: take events from the bounded queue, answer them in batches, write what came out.

Encoding is the cost, and it is cheapest in batches; a live query should still not wait long. So a batch closes when it
is full or when its first query has waited `batch_wait_seconds`. Encoding, search and comparison of a batch run in one
worker thread, one batch at a time (torch uses all cores by itself), while the event loop writes the batch before.

An entry is acknowledged in the same step that writes its observation (`store`). A batch that fails is tried again query
by query, so that one poisonous text costs itself only; it is then acknowledged and counted, or it would come back for
ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sidecar.errors import DependencyError, StoreError
from sidecar.replay.compare import Opinion, observe
from sidecar.score_loss import TOLERANCE
from sidecar.tasks import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from structlog.typing import FilteringBoundLogger

    from sidecar.encoders.protocol import Vectors
    from sidecar.model import Observation, QueryEvent, Ranking
    from sidecar.replay.retriever import Pair, Retriever, Retrievers
    from sidecar.store import Store


class ReplayMetrics(Protocol):
    """What the loop tells about itself."""

    def phase(self, name: str, seconds: float) -> None:
        """Note that a phase of one batch took `seconds`."""

    def replayed(self, observations: Sequence[Observation]) -> None:
        """Note observations that were written."""

    def replay_failed(self, reason: str, queries: int = 1) -> None:
        """Note queries that could not be replayed."""


class Freshness(Protocol):
    """Whoever knows whether the retrievers in use are the newest."""

    def check_now(self) -> None:
        """Look for a new version without waiting for the next regular look."""

    async def up_to_date(self) -> None:
        """Wait until no newer version is known, for a bounded time."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to replay; the fields are those of the settings' section."""

    stream: str
    group: str
    k: int = 10
    rbo_p: float = 0.9
    score_tolerance: float = TOLERANCE
    batch_size: int = 128
    batch_wait_seconds: float = 0.05


class Replayer:
    """Replay what arrives on `queue` until cancelled. Each query is also offered to the frozen probes."""

    LAST_WRITE_SECONDS = 3.0

    def __init__(
        self,
        *,
        queue: asyncio.Queue[QueryEvent],
        retrievers: Retrievers,
        store: Store,
        options: ReplayOptions,
        executor: Executor,
        metrics: ReplayMetrics,
        log: FilteringBoundLogger,
        watcher: Freshness,
        offer: Callable[[QueryEvent], None] = lambda _: None,
    ) -> None:
        self._queue = queue
        self._retrievers = retrievers
        self._store = store
        self._options = options
        self._executor = executor
        self._metrics = metrics
        self._log = log
        self._watcher = watcher
        self._offer = offer
        self._encoder_label: str | None = None
        self._salt = store.keys.deployment.encode()[:16]

    async def run(self) -> None:
        """Replay until cancelled. A write under way is finished; the rest stays pending for another replica."""
        writing: asyncio.Task[None] | None = None
        try:
            while True:
                batch = await self._gather()
                observations = await self._answer(batch)
                if writing is not None:
                    await asyncio.shield(writing)
                writing = asyncio.create_task(self._write(batch, observations), name="replay-write")
        finally:
            if writing is not None and not writing.done():
                _, late = await asyncio.wait({writing}, timeout=self.LAST_WRITE_SECONDS)
                for task in late:
                    task.cancel()

    async def _gather(self) -> list[QueryEvent]:
        """Wait for a first event, then for others until the batch is full or the first has waited long enough."""
        batch = [await self._queue.get()]
        loop = asyncio.get_running_loop()
        begin = loop.time()
        deadline = begin + self._options.batch_wait_seconds
        while len(batch) < self._options.batch_size:
            try:
                batch.append(self._queue.get_nowait())
            except asyncio.QueueEmpty:
                if (left := deadline - loop.time()) <= 0:
                    break
                try:
                    async with asyncio.timeout(left):
                        batch.append(await self._queue.get())
                except TimeoutError:
                    break
        self._metrics.phase("gather", loop.time() - begin)
        return batch

    async def _answer(self, batch: Sequence[QueryEvent]) -> list[Observation]:
        loop = asyncio.get_running_loop()
        self._notice_label(batch)
        for event in batch:
            self._offer(event)
        await self._watcher.up_to_date()
        pair = self._retrievers.pair
        try:
            return await loop.run_in_executor(self._executor, self._replay, batch, pair)
        except DependencyError as error:
            self._log.warning("replay_batch_failed", queries=len(batch), error=str(error))
        observations: list[Observation] = []
        for event in batch:
            try:
                observations += await loop.run_in_executor(self._executor, self._replay, [event], pair)
            except DependencyError as error:
                self._metrics.replay_failed(type(error).__name__)
                self._log.warning("replay_failed", entry_id=event.entry_id, error=str(error))
        return observations

    def _replay(self, batch: Sequence[QueryEvent], pair: Pair) -> list[Observation]:
        """Answer and compare one batch; runs in the worker thread."""
        options, phase = self._options, self._metrics.phase
        texts = [event.query for event in batch]
        deployed, _ = pair.deployed.search(texts, options.k, phase)
        reference, vectors = self._opinion(pair.reference, texts, deployed)
        frozen = self._opinion(pair.frozen, texts, deployed)[0] if pair.frozen is not None else None
        begin = time.perf_counter()
        clusters = pair.reference.clusters
        observations = observe(
            batch,
            deployed,
            reference,
            pair.stack,
            k=options.k,
            p=options.rbo_p,
            tolerance=options.score_tolerance,
            session_digest=[self._digest(event.session_id) for event in batch],
            clusters=clusters.nearest(vectors) if clusters is not None else [None] * len(batch),
            frozen=frozen,
        )
        phase("compare", time.perf_counter() - begin)
        return observations

    def _opinion(self, other: Retriever, texts: Sequence[str], deployed: Sequence[Ranking]) -> tuple[Opinion, Vectors]:
        """Let another retriever rank for the texts and score what the deployed one found; give its vectors too."""
        phase = self._metrics.phase
        rankings, vectors = other.search(texts, self._options.k, phase)
        begin = time.perf_counter()
        scores = other.index.scores(vectors, [ranking.ids for ranking in deployed])
        phase(f"score_{other.role}", time.perf_counter() - begin)
        return Opinion(rankings, scores), vectors

    async def _write(self, batch: Sequence[QueryEvent], observations: Sequence[Observation]) -> None:
        """Write the observations and acknowledge the rest of the batch, however long Redis is away."""
        backoff = Backoff()
        seen = {one.entry_id for one in observations}
        failed = [event.entry_id for event in batch if event.entry_id not in seen]
        while True:
            begin = time.perf_counter()
            try:
                await self._store.record(self._options.stream, self._options.group, observations)
                await self._store.acknowledge(self._options.stream, self._options.group, failed)
            except StoreError as error:
                self._metrics.replay_failed("store")
                self._log.warning("replay_write_failed", queries=len(batch), error=str(error))
                await backoff.wait()
            else:
                self._metrics.phase("record", time.perf_counter() - begin)
                self._metrics.replayed(observations)
                return

    def _notice_label(self, batch: Sequence[QueryEvent]) -> None:
        """Tell when the service begins to name another encoder than before: a new version was shipped."""
        label = next((event.encoder for event in reversed(batch) if event.encoder is not None), None)
        if label is not None and label != self._encoder_label:
            if self._encoder_label is not None:
                self._watcher.check_now()
            self._encoder_label = label

    def _digest(self, session_id: str | None) -> str | None:
        """Give a session a name that says nothing about it, the same in every replica."""
        if session_id is None:
            return None
        return hashlib.blake2b(session_id.encode(), digest_size=8, salt=self._salt).hexdigest()
