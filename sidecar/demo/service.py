"""A small real RAG service: encoder, index, HTTP search; it publishes a query event for each search it answers.

It runs in its own process and knows of the sidecar only what any service would: the stream. Like a service in
production it reads its model and its index from a release folder that `current` points to, and shipping means to
build another release and to move the link. One thing is not as in production: `entry_id` of its events comes from the
demo's clock, on which `--step-ms` pass from one query to the next, so that a calibration of a week fits into a
minute. The queries are real, the pace is not.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import web

from sidecar.demo.corpus import CORPUS_FILE
from sidecar.demo.encoders import QUERY_PROMPT, EncoderName, int8_weights, materialise
from sidecar.encoders import threads
from sidecar.encoders.cache import CachedEncoder
from sidecar.encoders.fingerprint import measure
from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load
from sidecar.indexes.build import build_index
from sidecar.indexes.exact import ExactIndex
from sidecar.indexes.write import write_index
from sidecar.publish import publish
from sidecar.redis_edge import connect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.model import Ranking

CURRENT = "current"
MODEL, INDEX = "model", "index"
TOP_K = 10
BATCH = 64
HALF_SEED = 7


@dataclass(frozen=True, slots=True)
class Release:
    """One version of the service's retriever, loaded."""

    name: str
    encoder: CachedEncoder
    index: ExactIndex

    @classmethod
    def open(cls, folder: Path) -> Release:
        """Load the model and open the index of a release folder."""
        options = SentenceTransformerOptions(model=str(folder / MODEL))
        return cls(folder.name, CachedEncoder(load(options), 10_000), ExactIndex.open(folder / INDEX))

    def close(self) -> None:
        """Free model and index."""
        self.encoder.close()
        self.index.close()

    def search(self, texts: Sequence[str]) -> list[Ranking]:
        """Rank the passages for each text."""
        return self.index.search(self.encoder.encode_queries(texts), TOP_K)


class Service:
    """Answers searches in batches and ships releases while it does."""

    def __init__(self, folder: Path, redis_url: str, stream: str, *, start_ms: int, step_ms: int) -> None:
        self._folder = folder
        self._redis = connect(redis_url)
        self._stream = stream
        self._next_ms, self._step_ms = start_ms, step_ms
        self._release = Release.open((folder / CURRENT).resolve())
        self._waiting: asyncio.Queue[tuple[str, asyncio.Future[tuple[Ranking, str]]]] = asyncio.Queue()
        self._publishing = asyncio.Lock()
        self._searcher = ThreadPoolExecutor(1, thread_name_prefix="search")
        self._shipped = 0.0
        self._shipping: asyncio.Task[None] | None = None

    async def answer(self) -> None:
        """Search for whatever has come in, together, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            release = self._release
            texts = [text for text, _ in batch]
            rankings = await loop.run_in_executor(self._searcher, release.search, texts)
            for (_, future), ranking in zip(batch, rankings, strict=True):
                if not future.done():
                    future.set_result((ranking, release.name))

    async def search(self, request: web.Request) -> web.Response:
        """Answer `{"query", "slice"}` with documents; publish the event unless `publish` is false."""
        body = await request.json()
        future: asyncio.Future[tuple[Ranking, str]] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((body["query"], future))
        ranking, release = await future
        at_ms = None
        if body.get("publish", True):
            at_ms = await self._publish(body, ranking, release)
        return web.json_response({"documents": list(ranking.ids), "encoder": release, "at_ms": at_ms})

    async def _publish(self, body: dict[str, Any], ranking: Ranking, release: str) -> int:
        async with self._publishing:
            at_ms = self._next_ms
            self._next_ms += self._step_ms
            await publish(
                self._redis,
                stream=self._stream,
                query=body["query"],
                documents=list(zip(ranking.ids, ranking.scores or (), strict=True)),
                slice=body.get("slice"),
                top_k=TOP_K,
                encoder=release,
                entry_id=f"{at_ms}-0",
                timeout=5.0,
            )
        return at_ms

    async def ship(self, request: web.Request) -> web.Response:
        """Begin to ship another release: `fine-tuned`, `int8-build`, `half-index` or `lost-prefix`."""
        change = (await request.json())["change"]
        self._shipping = asyncio.create_task(self._ship(change), name="ship")
        return web.json_response({"shipping": change}, status=202)

    async def status(self, _: web.Request) -> web.Response:
        """Say which release serves and how far shipping is; a failed shipment is an error here."""
        if self._shipping is not None and self._shipping.done():
            self._shipping.result()
        return web.json_response(
            {"release": self._release.name, "shipped": self._shipped, "at_ms": self._next_ms - self._step_ms}
        )

    async def _ship(self, change: str) -> None:
        """Build the new release beside the old one, move the link, use it."""
        folder = self._folder / "releases" / change
        await asyncio.to_thread(self._build, change, folder)
        release = await asyncio.to_thread(Release.open, folder)
        point(self._folder / CURRENT, folder)
        old, self._release = self._release, release
        self._shipped = 1.0
        # The searcher takes one batch after the other: when it comes to this, nobody uses the old release any more.
        await asyncio.get_running_loop().run_in_executor(self._searcher, old.close)

    def _build(self, change: str, folder: Path) -> None:
        """Build a release in this thread, which has the processors nearly for itself while the traffic is low."""
        threads.use(len(os.sched_getaffinity(0)))
        builders = {
            "fine-tuned": self._build_fine_tuned,
            "int8-build": self._build_int8,
            "half-index": self._build_half_index,
            "lost-prefix": self._build_lost_prefix,
        }
        builders[change](folder)

    def _build_fine_tuned(self, folder: Path) -> None:
        """Ship the fine-tuned encoder and embed every passage again with it."""
        build_release(self._folder, folder, "precision", prompt=True, progress=self._progress)

    def _build_int8(self, folder: Path) -> None:
        """Ship the present encoder with its weights rounded to 8 bits, and embed every passage again with it."""
        int8_weights((self._folder / CURRENT).resolve() / MODEL, folder / MODEL)
        build_index_of(self._folder, folder, progress=self._progress)

    def _build_half_index(self, folder: Path) -> None:
        """Keep the encoder; half of the passages carry the other one's vectors, as if a re-embedding had stopped."""
        aside = self._folder / "releases" / "aside"
        build_release(self._folder, aside, "precision", prompt=True, progress=self._progress)
        old, new = self._release.index, ExactIndex.open(aside / INDEX)
        shutil.copytree((self._folder / CURRENT).resolve() / MODEL, folder / MODEL)
        rows = np.arange(old.size)
        vectors = np.array(old.vectors(rows))
        half = np.random.default_rng(HALF_SEED).permutation(rows)[: old.size // 2]
        vectors[half] = new.vectors(half)
        write_index(
            folder / INDEX,
            old.ids,
            vectors,
            encoder_name=self._release.encoder.name,
            fingerprint=old.encoder_fingerprint,
            now=(self._folder / CURRENT).stat().st_mtime,
        )

    def _build_lost_prefix(self, folder: Path) -> None:
        """Ship the same weights and the same index; the model's configuration has lost its query prompt."""
        materialise("house", folder / MODEL, query_prompt=None)
        shutil.copytree((self._folder / CURRENT).resolve() / INDEX, folder / INDEX)

    def _progress(self, done: int, total: int) -> None:
        self._shipped = done / total


def build_release(root: Path, folder: Path, encoder: EncoderName, *, prompt: bool, progress: Any = None) -> None:
    """Write a release folder: the model and an index of the corpus in `root`."""
    materialise(encoder, folder / MODEL, query_prompt=QUERY_PROMPT if prompt else None)
    build_index_of(root, folder, progress=progress)


def build_index_of(root: Path, folder: Path, *, progress: Any = None) -> None:
    """Embed the corpus in `root` with the model of a release folder."""
    model = load(SentenceTransformerOptions(model=str(folder / MODEL)))
    build_index(
        root / CORPUS_FILE,
        model,
        folder / INDEX,
        fingerprint=measure(model),
        now=(root / CORPUS_FILE).stat().st_mtime,
        shard_size=256,
        progress=progress,
    )
    model.close()


def point(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target` in one step."""
    fresh = link.with_name(link.name + ".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    os.replace(fresh, link)  # noqa: PTH105  (rename over an existing link, in one step)


async def serve(service: Service, port: int) -> None:
    """Serve until the process is told to stop."""
    app = web.Application()
    app.add_routes(
        [web.post("/search", service.search), web.post("/ship", service.ship), web.get("/status", service.status)]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201  (the parent reads the port from here)
    await service.answer()


def main() -> None:
    """Run the service in the foreground; its first line of output is its port."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--redis-url", required=True)
    parser.add_argument("--stream", required=True)
    parser.add_argument("--start-ms", type=int, required=True)
    parser.add_argument("--step-ms", type=int, required=True)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    release = folder / "releases" / "house"
    build_release(folder, release, "house", prompt=True)
    point(folder / CURRENT, release)
    service = Service(
        folder, arguments.redis_url, arguments.stream, start_ms=arguments.start_ms, step_ms=arguments.step_ms
    )
    asyncio.run(serve(service, 0))


if __name__ == "__main__":
    main()
