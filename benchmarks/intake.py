"""How much the intake costs beside a bare redis-py loop that reads and acknowledges and does nothing else.

Both drain the same stream on the same server with the same batch size, one after the other and again, and what counts
is the median of the ratios of neighbouring runs: whatever else the machine does hits both. Exit 1 below the bar.

    python -m benchmarks.intake [--entries 50000] [--repeats 7] [--rate 0.01]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from typing import TYPE_CHECKING

from sidecar.embedded_redis import EmbeddedRedis, binaries, version
from sidecar.intake import Consumer, IntakeOptions, Sampler, SamplingOptions, SliceRegistry
from sidecar.publish import fields
from sidecar.redis_edge import connect

if TYPE_CHECKING:
    import redis.asyncio

BAR = 0.7
BATCH = 500
STREAM = "rag:queries"


async def fill(client: redis.asyncio.Redis, entries: int) -> None:
    """Write events as a service does: a query, ten served documents with scores, a session."""
    documents = [(f"document-{number}", 1.0 - number / 100) for number in range(10)]
    for start in range(0, entries, 1_000):
        async with client.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + 1_000, entries)):
                entry = fields(
                    query=f"how do I return parcel {number} that was damaged on its way?",
                    documents=documents,
                    session_id=f"session-{number // 4}",
                    slice=f"tenant-{number % 5}",
                )
                pipe.xadd(STREAM, entry)
            await pipe.execute()


async def bare(client: redis.asyncio.Redis, group: str) -> int:
    """Read and acknowledge until nothing is left."""
    await client.xgroup_create(STREAM, group, "0")
    total = 0
    while reply := await client.xreadgroup(group, "bare", {STREAM: ">"}, count=BATCH):
        ids = [entry_id for entry_id, _ in reply[0][1]]
        await client.xack(STREAM, group, *ids)
        total += len(ids)
    return total


async def intake(client: redis.asyncio.Redis, group: str, rate: float) -> int:
    """Drain with the consumer; what it samples is acknowledged in bulk, as replay would."""
    slices = SliceRegistry()
    sampler = Sampler(SamplingOptions(rate=rate), deployment="bench", slices=slices, clock=time.monotonic)
    queue: asyncio.Queue = asyncio.Queue(100_000)
    consumer = Consumer(
        client,
        sampler=sampler,
        slices=slices,
        out=queue,
        prefix=f"rag-drift:{{{group}}}:",
        options=IntakeOptions(stream=STREAM, group=group, start="0", batch=BATCH),
    )
    total = await consumer.drain()
    while not queue.empty():
        ids = [queue.get_nowait().entry_id for _ in range(min(BATCH, queue.qsize()))]
        await client.xack(STREAM, group, *ids)
    return total


async def measure(client: redis.asyncio.Redis, entries: int, repeats: int, rate: float) -> dict[str, float]:
    """Alternate the two and give entries per second and the median ratio."""
    speeds: dict[str, list[float]] = {"bare": [], "intake": []}
    for repeat in range(-1, repeats):  # the first pair warms up and is not counted
        order = ("bare", "intake") if repeat % 2 else ("intake", "bare")
        for kind in order:
            group = f"{kind}-{repeat}"
            started = time.perf_counter()
            total = await (bare(client, group) if kind == "bare" else intake(client, group, rate))
            seconds = time.perf_counter() - started
            assert total == entries, (kind, total)
            await client.xgroup_destroy(STREAM, group)
            if repeat >= 0:
                speeds[kind].append(entries / seconds)
    ratios = [two / one for one, two in zip(speeds["bare"], speeds["intake"], strict=True)]
    return {
        "bare_per_second": round(statistics.median(speeds["bare"])),
        "intake_per_second": round(statistics.median(speeds["intake"])),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_lowest": round(min(ratios), 3),
    }


async def main() -> int:
    """Measure on each server of this machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--rate", type=float, default=0.01)
    options = parser.parse_args()
    worst = 1e9
    for name, path in binaries().items():
        async with EmbeddedRedis(path) as server:
            client = connect(server.url)
            await fill(client, options.entries)
            result = await measure(client, options.entries, options.repeats, options.rate)
            await client.aclose()
        worst = min(worst, result["ratio"])
        print(json.dumps({"server": f"{name} {version(path)}", "rate": options.rate, "batch": BATCH, **result}))
    print(f"ratio {worst:.3f}, bar {BAR}: {'ok' if worst >= BAR else 'below'}")
    return 0 if worst >= BAR else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
