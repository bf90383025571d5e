"""What one scrape takes of the event loop, with as many series as 20 slices, a frozen copy and the bundled sets make.

The real application serves a registry as full as the tests can make it on a real port; another process scrapes it.
Two figures for each scrape: processor time that the loop's thread spent on it, and the longest time that a waiting task
was late meanwhile, beside what it is without scrapes. Rendering on the loop instead of in a thread is measured as well,
for the ratio. Exit 1 if the loop's thread takes 50 ms or more for a scrape.

    python -m benchmarks.scrape [--scrapes 40]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from sidecar.exporter.http import application
from tests.exporter.conftest import Around
from tests.exporter.test_metrics import full, samples

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BAR_SECONDS = 0.05
ACCEPT = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
BEAT_SECONDS = 0.001
CLIENT = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Accept": sys.argv[2], "Accept-Encoding": "gzip"})
for line in sys.stdin:
    print(len(urllib.request.urlopen(request).read()), flush=True)
"""


class Heartbeat:
    """A task that wants to run every millisecond; `worst` is the longest that it was late, in seconds."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def run(self) -> None:
        """Beat until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self.worst = max(self.worst, loop.time() - due)


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[asyncio.subprocess.Process]:
    """Serve it, and give a process that scrapes once for each line that it is sent."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, url, ACCEPT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield client
    finally:
        client.terminate()
        await client.wait()
        await runner.cleanup()


async def measure(app: web.Application, scrapes: int) -> tuple[list[float], list[float], list[float], int]:
    """Give for each scrape: the loop's time, the worst delay, that of as long a time without; and the bytes."""
    taken, late, quiet, size = [], [], [], 0
    async with served(app) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for number in range(scrapes + 3):
            beat = Heartbeat()
            beating = asyncio.create_task(beat.run())
            await asyncio.sleep(0.05)
            beat.worst, began, wall = 0.0, time.thread_time(), time.perf_counter()
            client.stdin.write(b"\n")
            size = int(await client.stdout.readline())
            wall = time.perf_counter() - wall
            spent, worst = time.thread_time() - began, beat.worst
            beat.worst, began = 0.0, time.thread_time()
            await asyncio.sleep(wall)
            idle = time.thread_time() - began
            beating.cancel()
            if number >= 3:  # the first ones warm up
                taken.append(max(0.0, spent - idle))
                late.append(worst)
                quiet.append(beat.worst)
    return taken, late, quiet, size


def on_the_loop(around: Around) -> web.Application:
    """Give an application that renders where it answers."""

    async def metrics(request: web.Request) -> web.Response:
        encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        response = web.Response(body=encoder(around.metrics.registry), headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    return app


async def main(scrapes: int) -> int:
    """Measure both and print them; the exit code is 1 at or above the bar."""
    around = Around(metrics=full(frozen=True))
    ours = application(around.metrics.registry, around, token=around.give_token)
    print(f"{len(samples(around.metrics))} series")
    medians = {}
    for name, app in (("in a thread (ours)", ours), ("on the loop", on_the_loop(around))):
        taken, late, quiet, size = await measure(app, scrapes)
        medians[name] = statistics.median(taken)
        print(
            f"{name}: {size / 1000:.0f} kB; loop's thread {1000 * medians[name]:.1f} ms "
            f"(largest {1000 * max(taken):.1f}); a waiting task late by {1000 * statistics.median(late):.1f} ms "
            f"(largest {1000 * max(late):.1f}; without a scrape {1000 * statistics.median(quiet):.1f})"
        )
    ours_taken, theirs = medians.values()
    print(f"ratio of the loop's time: {ours_taken / theirs:.2f}; bar {1000 * BAR_SECONDS:.0f} ms")
    return int(ours_taken >= BAR_SECONDS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scrapes", type=int, default=40)
    sys.exit(asyncio.run(main(parser.parse_args().scrapes)))
