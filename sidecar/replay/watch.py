"""Keep the retrievers loaded and current: load them at start, exchange one when its files are another version."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from sidecar.encoders.fingerprint import Fingerprint
from sidecar.errors import EncoderError, SidecarError, StoreError
from sidecar.replay.retriever import Pair, Retrievers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import FilteringBoundLogger

    from sidecar.replay.freeze import FrozenSource
    from sidecar.replay.retriever import Retriever
    from sidecar.replay.source import RetrieverSource
    from sidecar.store import Store


SETTLE_SECONDS = 1.0
"""Time between two looks that must see the same before a new version counts as complete."""

PATIENCE_SECONDS = 60.0


class WatchMetrics(Protocol):
    """What the watcher tells about itself."""

    def retriever_loaded(self, retriever: Retriever) -> None:
        """Note the retriever that is now in use for its role."""

    def reload_failed(self, role: str) -> None:
        """Note that a new version could not be loaded."""

    def up_to_date(self, role: str) -> None:
        """Note that the folder holds the version in use again, after one that was refused."""


class Watcher:
    """Load and reload the retrievers: one source for each role, the frozen one only where there is such a copy."""

    def __init__(
        self,
        sources: Sequence[RetrieverSource | FrozenSource],
        store: Store,
        *,
        metrics: WatchMetrics,
        log: FilteringBoundLogger,
        every_seconds: float,
    ) -> None:
        self._sources = sources
        self._store = store
        self._metrics = metrics
        self._log = log
        self._every = every_seconds
        self._loaded = [source.signature() for source in sources]
        self._before = list(self._loaded)
        self._refused: list[object] = [None] * len(sources)
        self._now = asyncio.Event()
        self._current = asyncio.Event()
        self._current.set()
        self._outdated_since = 0.0

    async def load(self) -> Retrievers:
        """Load all retrievers, one after the other (loading needs all cores and the memory of one more model).

        Raises:
            EncoderError, VectorIndexError, StoreError: a part cannot be had.
        """
        loaded: dict[str, Retriever] = {}
        for number, source in enumerate(self._sources):
            self._loaded[number] = self._before[number] = await asyncio.to_thread(source.signature)
            loaded[source.role] = await self._load(source, None)
        return Retrievers(Pair(**loaded))

    async def run(self, retrievers: Retrievers) -> None:
        """Check the folders until cancelled; `check_now` cuts a wait short."""
        while True:
            try:
                async with asyncio.timeout(self._every):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()
            settled = [await self._check(number, retrievers) for number in range(len(self._sources))]
            if all(settled):
                if not self._now.is_set():  # else somebody asked again while we looked
                    self._current.set()
            else:
                await asyncio.sleep(min(SETTLE_SECONDS, self._every))
                self._now.set()

    def check_now(self) -> None:
        """Ask for a check without waiting: the service says that it uses another encoder."""
        self._outdated()
        self._now.set()

    async def up_to_date(self) -> None:
        """Wait while a new version is known and not yet loaded: nothing is replayed on a picture known to be old.

        At most `PATIENCE_SECONDS` after the first sign of it, all waits together: copying a large index takes longer,
        and then the old picture is better than none.
        """
        if not self._current.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._outdated_since + PATIENCE_SECONDS):
                    await self._current.wait()

    def _outdated(self) -> None:
        if self._current.is_set():
            self._outdated_since = asyncio.get_running_loop().time()
            self._current.clear()

    async def _check(self, number: int, retrievers: Retrievers) -> bool:
        """Look at one role's folders and load what is new; False while files are still changing."""
        source = self._sources[number]
        signature = await asyncio.to_thread(source.signature)
        settled = signature == self._before[number]
        self._before[number] = signature
        if signature == self._loaded[number] and self._refused[number] is not None:
            self._refused[number] = None
            self._metrics.up_to_date(source.role)
        if signature in (self._loaded[number], self._refused[number]):
            return True
        self._outdated()
        if not settled:
            return False
        current = getattr(retrievers.pair, source.role)
        same_encoder = signature[0] == self._loaded[number][0]
        try:
            retriever = await self._load(source, current if same_encoder else None)
        except StoreError as error:  # says nothing about the version: try it again
            self._log.warning("retriever_not_loaded", role=source.role, error=str(error))
            return False
        except (SidecarError, OSError) as error:
            self._refused[number] = signature
            self._metrics.reload_failed(source.role)
            self._log.error("retriever_refused", role=source.role, error=str(error))
            return True
        self._loaded[number] = signature
        retrievers.replace(retriever)
        self._log.warning(
            "retriever_replaced",
            role=source.role,
            encoder=retriever.fingerprint.digest,
            encoder_before=current.fingerprint.digest,
            index=retriever.index.generation,
            index_before=current.index.generation,
            index_matches=retriever.index_matches,
        )
        return True

    async def _load(self, source: RetrieverSource | FrozenSource, reuse: Retriever | None) -> Retriever:
        known = []
        for digest, content in (await self._store.fingerprints()).items():
            try:
                known.append(Fingerprint.from_bytes(content))
            except EncoderError as error:  # taken by another version of this program: it cannot be compared with
                self._log.warning("fingerprint_passed_over", digest=digest, error=str(error))
        retriever = await asyncio.to_thread(source.load, known, reuse=reuse)
        fingerprint = retriever.fingerprint
        await self._store.remember_fingerprint(fingerprint.digest, fingerprint.to_bytes())
        self._metrics.retriever_loaded(retriever)
        self._log.info(
            "retriever_loaded",
            role=source.role,
            encoder=fingerprint.digest,
            index=retriever.index.generation,
            documents=retriever.index.size,
            index_matches=retriever.index_matches,
        )
        return retriever
