"""A real aiohttp server in front of a real registry and a store on real Redis."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from sidecar.exporter.http import application
from sidecar.exporter.intake_collector import IntakeCollector
from sidecar.exporter.metrics import Metrics
from sidecar.store import Store
from tests.judge.observations import SIGNAL

if TYPE_CHECKING:
    from sidecar.errors import ConfigurationError
    from sidecar.judge.judgement import Judgement

NOW = 1_800_000_000.0


@dataclass
class Around:
    """What the endpoints see of the sidecar; `app.Sidecar` is it in production, and tests/app goes through that."""

    store: Store | None = None
    judgement: Judgement | None = None
    absent: tuple[str, ...] = ()
    fails: ConfigurationError | None = None
    reloads: int = 0
    token: str | None = "letmein"
    token_fails: ConfigurationError | None = None
    metrics: Metrics = field(default_factory=lambda: metrics())  # noqa: PLW0108  (made below)

    async def missing(self):
        """Say what the test wants to be missing."""
        return self.absent

    async def reload(self):
        """Count a reload, or fail as the test wants."""
        if self.fails is not None:
            raise self.fails
        self.reloads += 1

    def give_token(self):
        """Give the token of the test."""
        if self.token_fails is not None:
            raise self.token_fails
        return self.token


def metrics(*, frozen: bool = False) -> Metrics:
    """Make the instruments of one sidecar with those of the intake."""
    made = Metrics(signals=[SIGNAL], k=10, version="0.1.0", pages=26.0, tickets=4.0, now=lambda: NOW, frozen=frozen)
    made.registry.register(IntakeCollector())
    return made


@contextlib.asynccontextmanager
async def serving(around: Around):
    """Serve on a free port and give a client session whose base is that port."""
    runner = web.AppRunner(application(around.metrics.registry, around, token=around.give_token), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            yield session
    finally:
        await runner.cleanup()


@pytest.fixture
async def around(redis) -> Around:
    """Give surroundings with a store."""
    return Around(store=Store(redis, "test"))


@pytest.fixture
async def http(around):
    """Give a client of a server on these surroundings."""
    async with serving(around) as session:
        yield session
