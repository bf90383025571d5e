"""The one place that wires everything: settings in, a running sidecar out.

Nothing else creates clients, models or tasks, and nothing here decides anything about retrieval. The order of
starting is the order in which people need things: the port first (a probe can ask what is missing), then Redis, then
the models, then the loops. A reload exchanges the loops and keeps port, Redis and models; settings that those hang on
need a restart, and a reload says so.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from aiohttp import web

from sidecar.diagnosis import Diagnosis
from sidecar.encoders import threads
from sidecar.encoders.fingerprint import Fingerprint, similarity
from sidecar.errors import ConfigurationError, EncoderError, StoreError
from sidecar.exporter.http import application
from sidecar.exporter.intake_collector import IntakeCollector
from sidecar.exporter.metrics import ROLES, Metrics
from sidecar.intake import Consumer, EventLimits, Sampler, SliceRegistry
from sidecar.judge.duty import Judge
from sidecar.options import (
    canary_options,
    canary_sets,
    checked,
    diagnosis_options,
    encoder_options,
    field_map,
    frozen_options,
    intake_options,
    judge_options,
    redis_url,
    refuse_what_needs_a_restart,
    replay_options,
    sampling_options,
    signals,
)
from sidecar.redis_edge import connect
from sidecar.replay.canaries import Canaries
from sidecar.replay.freeze import FrozenSource
from sidecar.replay.frozen import FrozenProbes
from sidecar.replay.source import RetrieverSource
from sidecar.replay.watch import Watcher
from sidecar.replay.worker import Replayer
from sidecar.settings_sources import secret
from sidecar.store import Store
from sidecar.tasks import Backoff, spawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from sidecar.judge.judgement import Judgement
    from sidecar.model import QueryEvent, Stack
    from sidecar.replay.retriever import Retrievers
    from sidecar.settings import Settings

REDIS_WAIT_SECONDS = 30.0
LOOK_SECONDS = 5.0


class Sidecar:
    """One running sidecar. `load` gives the settings, now and again at each reload; `now` is unix seconds."""

    def __init__(
        self,
        load: Callable[[], Settings],
        *,
        log: FilteringBoundLogger,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self.settings = checked(load())
        self._log = log
        self._now = now
        self._clock = clock
        self.metrics = Metrics(
            signals=signals(self.settings),
            k=self.settings.replay.k,
            version=version("rag-drift-sidecar"),
            pages=self.settings.judge.weeks_between_false_pages,
            tickets=self.settings.judge.weeks_between_false_tickets,
            frozen=self.settings.retrievers.frozen is not None,
            now=now,
        )
        self.metrics.config_reload_time.set(now())
        self._intake_metrics = IntakeCollector()
        self.metrics.registry.register(self._intake_metrics)
        self.store: Store | None = None
        self.retrievers: Retrievers | None = None
        self.port = 0
        self.stop = asyncio.Event()
        self._reloaded = asyncio.Event()
        self._judge: Judge | None = None
        self._consumer: Consumer | None = None
        self._probes: FrozenProbes | None = None

    @property
    def judgement(self) -> Judgement | None:
        """Give the judge's state if this replica is on duty."""
        return self._judge.judgement if self._judge is not None else None

    def _accepted(self) -> tuple[float, Stack] | None:
        """Give the acceptance in force: its time and its stack, if this replica judges and there is one."""
        first = self.judgement.first if self.judgement is not None else None
        if first is None or first.accepted is None or first.accepted_at is None:
            return None
        return first.accepted_at, first.accepted

    async def missing(self) -> tuple[str, ...]:
        """Name what is not there yet; empty means ready."""
        missing = []
        if self.store is None or not await self.store.reachable():
            missing.append("redis")
        if self.retrievers is None:
            missing.append("models")
        if self._consumer is None or self._consumer.counts.state is None:
            missing.append("stream")
        self.metrics.ready.set(not missing)
        return tuple(missing)

    async def reload(self) -> None:
        """Read the settings again; on an error keep the old ones and say so in a metric.

        Raises:
            ConfigurationError: the new settings are not valid, or differ where only a restart helps.
        """
        try:
            settings = checked(self._load())
            refuse_what_needs_a_restart(self.settings, settings)
        except ConfigurationError as error:
            self.metrics.config_reload_success.set(0)
            self._log.error("reload_failed", error=str(error))
            raise
        self.settings = settings
        self.metrics.config_reload_success.set(1)
        self.metrics.config_reload_time.set(self._now())
        self._reloaded.set()
        self._log.info("reloaded")

    async def run(self) -> None:
        """Work until `stop` is set.

        Raises:
            ConfigurationError, StoreError, EncoderError, VectorIndexError: the sidecar cannot start.
        """
        settings = self.settings
        self._log.info("starting", version=version("rag-drift-sidecar"), deployment=settings.deployment)
        async with AsyncExitStack() as stack:
            # The client sends nothing yet, but says what is wrong with its settings.
            redis = connect(redis_url(settings), password_file=settings.redis.password_file)
            stack.push_async_callback(redis.aclose)
            await self._listen(stack)
            store = Store(redis, settings.deployment, observations_kept=settings.replay.observations_kept)
            watcher = Watcher(
                self._sources(settings),
                store,
                metrics=self.metrics,
                log=self._log,
                every_seconds=settings.retrievers.watch_seconds,
            )
            cores = settings.retrievers.threads or threads.available()
            executor = ThreadPoolExecutor(1, "replay", initializer=threads.use, initargs=(cores,))
            stack.callback(executor.shutdown, wait=False, cancel_futures=True)
            retrievers = await self._start(store, watcher)
            while retrievers is not None and not self.stop.is_set():
                self._reloaded.clear()
                await self._work(store, retrievers, watcher, executor)
        self._log.info("stopped")

    async def _start(self, store: Store, watcher: Watcher) -> Retrievers | None:
        """Reach Redis and load the models; None when the sidecar is stopped before that is done."""

        async def start() -> Retrievers:
            await self._reach(store)
            self.store = store
            return await watcher.load()

        starting = asyncio.create_task(start(), name="start")
        stopping = asyncio.create_task(self.stop.wait(), name="stop")
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if not starting.done():
            starting.cancel()
            return None
        self.retrievers = starting.result()
        return self.retrievers

    async def _work(self, store: Store, retrievers: Retrievers, watcher: Watcher, executor: ThreadPoolExecutor) -> None:
        """Run the loops until the sidecar is stopped or its settings were reloaded."""
        settings = self.settings
        queue: asyncio.Queue[QueryEvent] = asyncio.Queue(settings.replay.queue_size)
        self.metrics.cycles(
            judge=settings.judge.lease_seconds,
            frozen=settings.frozen.every_seconds,
            canaries=settings.canaries.every_seconds,
        )
        consumer = self._consumer = await self._make_consumer(store, queue)
        self._intake_metrics.source = (consumer.counts, queue)
        token = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        # What works beside live replay: on its thread, and under the judge's lease.
        aside: dict[str, Any] = {"token": token, "executor": executor, "log": self._log, "now": self._now}
        before = self._probes
        probes = self._probes = FrozenProbes(
            store,
            retrievers,
            frozen_options(settings),
            accepted=self._accepted,
            metrics=self.metrics.probes,
            **aside,
        )
        if before is not None:
            probes.adopt(before)
        try:
            await probes.load()  # before any task runs, so that a wrong key ends the start with one clear line
        except StoreError as error:  # it loads again by itself
            self._log.warning("frozen_probes_not_loaded", error=str(error))
        replayer = Replayer(
            queue=queue,
            retrievers=retrievers,
            store=store,
            options=replay_options(settings),
            executor=executor,
            metrics=self.metrics,
            log=self._log,
            watcher=watcher,
            offer=probes.offer,
        )
        judge = self._judge = Judge(
            store,
            judge_options(settings),
            token=token,
            lease_seconds=settings.judge.lease_seconds,
            metrics=self.metrics.judge,
            log=self._log,
            now=self._now,
        )
        canaries = Canaries(
            store,
            retrievers,
            await asyncio.to_thread(canary_sets, settings),
            canary_options(settings),
            on_duty=lambda: self.judgement is not None,
            accepted=self._accepted,
            metrics=self.metrics.canaries,
            **aside,
        )
        diagnosis = Diagnosis(
            store,
            retrievers,
            diagnosis_options(settings),
            judgement=lambda: self.judgement,
            probes=probes,
            metrics=self.metrics.judge,
            **aside,
        )
        async with asyncio.TaskGroup() as group:
            loops = [
                spawn(group, "intake", consumer.run(), self._log),
                spawn(group, "replay", replayer.run(), self._log),
                spawn(group, "judge", judge.run(), self._log),
                spawn(group, "frozen-probes", probes.run(), self._log),
                spawn(group, "canaries", canaries.run(), self._log),
                spawn(group, "diagnosis", diagnosis.run(), self._log),
                spawn(group, "watch", watcher.run(retrievers), self._log),
                spawn(group, "look-after", self._look_after(store, retrievers), self._log),
            ]
            ends = [asyncio.create_task(event.wait()) for event in (self.stop, self._reloaded)]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (*ends, *loops):
                    task.cancel()

    async def _make_consumer(self, store: Store, queue: asyncio.Queue[QueryEvent]) -> Consumer:
        settings = self.settings
        fields = field_map(settings)
        slices = SliceRegistry(
            settings.sampling.slices,
            maximum=settings.sampling.max_slices,
            on_new=lambda name: self.metrics.know_slices([name]),
        )
        try:
            tracks = _first_tracks(await store.load_checkpoint())
        except StoreError as error:  # no reason to stop: the names of the slices come again with the traffic
            self._log.warning("slices_not_adopted", error=str(error))
        else:
            slices.adopt(tracks if isinstance(tracks, dict) else ())
        self.metrics.know_slices(slices.names)
        sampler = Sampler(
            sampling_options(settings),
            deployment=settings.deployment,
            slices=slices,
            clock=self._clock,
            field_map=fields,
        )
        return Consumer(
            store.redis,
            sampler=sampler,
            slices=slices,
            out=queue,
            prefix=store.keys.prefix,
            options=intake_options(settings),
            field_map=fields,
            limits=EventLimits(query_bytes=settings.stream.max_query_bytes, documents=settings.stream.max_documents),
            now=self._now,
        )

    async def _listen(self, stack: AsyncExitStack) -> None:
        """Open the port."""
        http = self.settings.http
        app = application(
            self.metrics.registry, self, token=lambda: secret(http.token, http.token_file, "http.token_file")
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, http.host, http.port).start()
        except OSError as error:
            raise ConfigurationError(
                f"http.port = {http.port}: cannot listen on {http.host}: {error.strerror}"
            ) from None
        self.port = runner.addresses[0][1]
        self._log.info("listening", host=http.host, port=self.port)

    async def _reach(self, store: Store) -> None:
        """Wait for Redis, for a while."""
        backoff = Backoff()
        deadline = asyncio.get_running_loop().time() + REDIS_WAIT_SECONDS
        while True:
            try:
                await store.ping()
            except StoreError as error:
                if error.refused or asyncio.get_running_loop().time() > deadline:
                    raise
                self._log.warning("waiting_for_redis", error=str(error))
                await backoff.wait()
            else:
                return

    async def _look_after(self, store: Store, retrievers: Retrievers) -> None:
        """Keep readiness current, and on the judging replica the similarity of both encoders to the accepted ones."""
        graded: object = None
        while True:
            await self.missing()
            accepted = self.judgement.accepted if self.judgement is not None else None
            pair = retrievers.pair
            if accepted is None and graded is not None:
                for role in pair.roles:
                    self.metrics.encoder_similarity(role, None)
                graded = None
            if accepted is not None and (accepted, pair.stack) != graded:
                try:
                    known = await store.fingerprints()
                except StoreError as error:
                    self._log.info("similarity_unknown", error=str(error))
                else:
                    for role in pair.roles:
                        retriever, digest = getattr(pair, role), getattr(accepted, f"{role}_encoder")
                        try:
                            cosine = similarity(retriever.fingerprint, Fingerprint.from_bytes(known[digest]))
                        except (KeyError, EncoderError):  # not kept, or by another version of this program
                            cosine = None
                        self.metrics.encoder_similarity(retriever.role, cosine)
                    graded = (accepted, pair.stack)
            await asyncio.sleep(LOOK_SECONDS)

    def _sources(self, settings: Settings) -> tuple[RetrieverSource | FrozenSource, ...]:
        """Name where the retrievers come from: deployed, reference, and the frozen copy where there is one."""
        both = settings.retrievers.deployed, settings.retrievers.reference
        sources: list[RetrieverSource | FrozenSource] = [
            RetrieverSource(role, encoder_options(one), one.encoder.cache_entries, one.index)
            for role, one in zip(ROLES, both, strict=True)
        ]
        if settings.retrievers.frozen is not None:
            sources.append(FrozenSource(settings.retrievers.frozen, both[0].encoder.cache_entries))
        return tuple(sources)


def _first_tracks(checkpoint: Any) -> Any:
    """Give the first signal's tracks, whose names are the slices that are known, out of a checkpoint of any shape."""
    with suppress(AttributeError, LookupError, TypeError, StopIteration):
        return next(iter(checkpoint["signals"].values()))["tracks"]
    return None
