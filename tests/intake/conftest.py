"""A consumer on a real Redis with everything around it that a test may want to look at."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from sidecar.intake import Consumer, IntakeOptions, Sampler, SamplingOptions, SliceRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis.asyncio

    from sidecar.intake.trimming import StreamState
    from sidecar.model import QueryEvent

STREAM = "rag:queries"
PREFIX = "rag-drift:{test}:"


@dataclass
class Bench:
    """A consumer, its queue, and the acknowledgement that replay would give."""

    redis: redis.asyncio.Redis
    consumer: Consumer
    queue: asyncio.Queue[QueryEvent]
    slices: SliceRegistry
    options: IntakeOptions
    events: list[QueryEvent] = field(default_factory=list)

    def taken(self) -> list[QueryEvent]:
        """Empty the queue."""
        while not self.queue.empty():
            self.events.append(self.queue.get_nowait())
        return self.events

    async def acknowledge(self) -> int:
        """Do what replay does with everything that was handed on."""
        ids = [event.entry_id.encode() for event in self.taken()]
        self.events.clear()
        if not ids:
            return 0
        return await self.consumer._ack(keys=self.consumer._keys, args=[self.options.group, b" ".join(ids)])

    async def pending(self) -> int:
        """Ask Redis how many entries of the group are not acknowledged."""
        return (await self.redis.xpending(self.options.stream, self.options.group))["pending"]

    async def state(self) -> StreamState:
        """Look at the stream."""
        found = await self.consumer.snapshot()
        assert found is not None
        return found


@pytest.fixture
def bench(redis) -> Callable[..., Bench]:
    """Build consumers on the test's Redis; keywords go to the options of intake and sampling."""

    def build(
        *, rate=1.0, floor=0, budget=None, burst=None, maxsize=10_000, client=None, now=time.time, **options
    ) -> Bench:
        slices = SliceRegistry()
        sampling = SamplingOptions(rate=rate, floor_per_minute=floor, queries_per_second=budget, burst=burst)
        queue: asyncio.Queue[QueryEvent] = asyncio.Queue(maxsize)
        settings = IntakeOptions(**{"stream": STREAM, "start": "0", **options})
        consumer = Consumer(
            client or redis,
            sampler=Sampler(sampling, deployment="test", slices=slices, clock=time.monotonic),
            slices=slices,
            out=queue,
            prefix=PREFIX,
            options=settings,
            now=now,
        )
        return Bench(client or redis, consumer, queue, slices, settings)

    return build
