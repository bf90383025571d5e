"""The demo's stage: everything is started for real and wired as a user would wire it.

Three processes beside the demo's own: a Redis server, the RAG service, and the sidecar as anybody would run it, with
the production defaults of every statistical setting.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from sidecar.demo.corpus import CORPUS_FILE, Collection, load_beir, load_demo_queries, read_passages, write_corpus
from sidecar.demo.encoders import QUERY_PROMPT, materialise
from sidecar.demo.gauges import Gauges
from sidecar.demo.processes import Child
from sidecar.demo.traffic import Client
from sidecar.embedded_redis import EmbeddedRedis
from sidecar.errors import DemoError, StoreError
from sidecar.redis_edge import connect, mapped_redis_errors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack
    from pathlib import Path

    import aiohttp

    from sidecar.demo.screen import Screen

SECONDS_PER_QUERY = 125
"""The demo's clock: 5,000 queries last a little longer than the week that a calibration needs."""

CLOCK_BEHIND_DAYS = 75
"""How far back the demo's clock begins; it must not run into the present."""

READY_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs: the service's client, the sidecar's gauges, and the processes to keep an eye on."""

    client: Client
    gauges: Gauges
    children: tuple[Child, ...]


async def redis_server(stack: AsyncExitStack, screen: Screen) -> str:
    """Start a Redis server that ends with `stack` and give its address."""
    server = EmbeddedRedis(password=secrets.token_urlsafe())
    await server.start_async()
    stack.callback(server.stop)
    screen.tell(f"a Redis server of its own on port {server.port}")
    return server.url


def collect(folder: Path, corpus: Path | None) -> Collection:
    """Put the documents into `folder`, where the service finds them, and read queries and judgements."""
    if corpus is not None:
        collection = load_beir(corpus)
        shutil.copyfile(corpus / CORPUS_FILE, folder / CORPUS_FILE)
        return collection
    write_corpus(folder)
    queries, qrels = load_demo_queries()
    return Collection(tuple(read_passages(folder / CORPUS_FILE)), queries, qrels)


async def set_up(
    stack: AsyncExitStack,
    session: aiohttp.ClientSession,
    screen: Screen,
    *,
    folder: Path,
    redis_url: str,
    slices: Sequence[str],
    port: int,
    canaries: bool,
) -> Stage:
    """Start the service and the sidecar, and wait until both are ready; all of it ends with `stack`.

    Raises:
        DemoError: a process did not start; the message has the end of its log.
    """
    name = f"demo-{secrets.token_hex(3)}"
    stream = f"rag:queries:{name}"
    stack.push_async_callback(_forget, redis_url, stream, name)
    logs, reference = folder / "logs", folder / "reference"
    logs.mkdir()
    materialise("base", reference / "model", query_prompt=QUERY_PROMPT)
    screen.tell("embedding them with the service's encoder, and with the reference that it was tuned from")
    start_ms = int((time.time() - CLOCK_BEHIND_DAYS * 86_400) * 1000)
    service = Child(
        "service", "sidecar.demo.service", "--folder", str(folder), "--redis-url", redis_url, "--stream", stream,
        "--start-ms", str(start_ms), "--step-ms", str(SECONDS_PER_QUERY * 1000), logs=logs,
    )  # fmt: skip
    build = Child(
        "index-build", "sidecar.cli", "index", "build", "--corpus", str(folder / CORPUS_FILE),
        "--model", str(reference / "model"), str(reference / "index"), logs=logs,
    )  # fmt: skip
    await stack.enter_async_context(service)
    async with build:
        service_port, _ = await asyncio.gather(service.first_line(READY_SECONDS), build.finished())
    config = folder / "sidecar.yaml"
    config.write_text(
        yaml.safe_dump(
            _settings(folder, redis_url, name, stream, slices=slices, port=port, canaries=canaries), sort_keys=False
        )
    )
    sidecar = Child("sidecar", "sidecar.cli", "run", "--config", str(config), logs=logs)
    await stack.enter_async_context(sidecar)
    gauges = Gauges(session, await _ready(sidecar, session))
    screen.tell(f"the sidecar watches: {gauges.base}/metrics", "bold")
    return Stage(Client(session, f"http://127.0.0.1:{service_port}"), gauges, (service, sidecar))


def _settings(
    folder: Path, redis_url: str, name: str, stream: str, *, slices: Sequence[str], port: int, canaries: bool
) -> dict[str, Any]:
    """Give the sidecar's settings: all queries, no shedding, quick watching; every statistical default stays."""

    def retriever(root: Path) -> dict[str, Any]:
        return {"encoder": {"model": str(root / "model")}, "index": str(root / "index")}

    return {
        "deployment": name,
        "redis": {"url": redis_url},
        "stream": {"key": stream, "start": "oldest"},
        "sampling": {"rate": 1.0, "budget_per_second": 1e6, "burst": 1_000_000, "slices": list(slices)},
        "replay": {"shed_after_seconds": None},
        "retrievers": {
            "deployed": retriever(folder / "current") | {"corpus": str(folder / "corpus.jsonl")},
            "reference": retriever(folder / "reference"),
            "watch_seconds": 2.0,
        },
        "frozen": {"probes": 100, "share": 0.8},
        "canaries": {"share": 0.8} | ({} if canaries else {"bundled": []}),
        "http": {"host": "127.0.0.1", "port": port},
    }


async def _ready(sidecar: Child, session: aiohttp.ClientSession) -> str:
    """Wait for the sidecar's port and then for its readiness; give its address."""
    deadline = time.monotonic() + READY_SECONDS
    base = ""
    while time.monotonic() < deadline:
        sidecar.check()
        if not base and (port := _listening_port(sidecar.log)):
            base = f"http://127.0.0.1:{port}"
        if base and await Gauges(session, base).ready():
            return base
        await asyncio.sleep(0.2)
    raise DemoError(f"the sidecar did not become ready: {sidecar.tail()}")


def _listening_port(log: Path) -> int | None:
    """Find the port in the sidecar's log."""
    for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
        if '"listening"' in line:
            return int(json.loads(line)["port"])
    return None


async def _forget(url: str, stream: str, name: str) -> None:
    """Remove the demo's keys: the server may be somebody's own. One that is gone needs no cleaning."""
    redis = connect(url, retries=0)
    try:
        with mapped_redis_errors("removing the demo's keys"):
            keys = [key async for key in redis.scan_iter(f"rag-drift:{{{name}}}:*")]
            await redis.delete(stream, *keys)
    except StoreError:
        return
    finally:
        await redis.aclose()
