"""Real Redis servers for the whole suite: every test that asks for one runs on each supported generation.

`redis` is a flushed client, `redis_url` its address for other processes, `redis_server` the running server (shared by
the session: do not stop it), `own_redis` a server of the test's own that it may stop, start and give a password.
The real encoder is `real_encoder`'s.
"""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import version as distribution_version
from typing import TYPE_CHECKING

import pytest
import redis.asyncio

from sidecar.embedded_redis import EmbeddedRedis, binaries, version
from sidecar.redis_edge import connect
from tests.programs import absent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytest_plugins = ["tests.real_encoder"]

LONGEST = (
    "tests/demo/test_scenarios.py",
    "tests/monitoring/test_accident.py",
    "tests/monitoring/test_silence.py",
    "tests/app/test_failures.py",
    "tests/demo/test_encoders.py",
    "tests/gate/test_models.py",
    "tests/replay/test_watch.py",
)
"""Files that take minutes: begun first, so that two workers end together."""

SERVERS = ("redis-6.2-wheel", "redis-7-system")
MONITORS = ("prometheus", "promtool", "prometheus-alertmanager", "amtool")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; the others keep their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def pytest_report_header() -> list[str]:
    """Name what the suite runs against."""
    servers = [f"{name} {version(path)}" for name, path in binaries().items()]
    monitors = [name for name in MONITORS if shutil.which(name)]
    return [
        f"servers: {', '.join([*servers, *monitors]) or 'none'}",
        f"redis-py {distribution_version('redis')}, Python {platform.python_version()}",
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests measured: `record_property("measured", "a line")`, also from another worker."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    lines = [text for report in reports for name, text in report.user_properties if name == "measured"]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.line(str(line))


@pytest.fixture(scope="session", params=SERVERS)
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """Give one server binary after the other; in CI a missing one is a failure."""
    path = binaries().get(request.param)
    if path is None:
        absent(f"{request.param}: no such server on this machine")
    return path


@pytest.fixture(scope="session")
def redis_server(redis_binary: Path) -> Iterator[EmbeddedRedis]:
    """Run one server for all tests of a generation."""
    with EmbeddedRedis(redis_binary) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """Give the address of the shared server."""
    return redis_server.url


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """Give a client of the shared server, emptied before the test."""
    client = connect(redis_url)
    await client.flushall()
    await client.script_flush()
    yield client
    await client.aclose()


@pytest.fixture
def own_redis(redis_binary: Path) -> Iterator[EmbeddedRedis]:
    """Run a server that the test may stop and start."""
    with EmbeddedRedis(redis_binary) as server:
        yield server
