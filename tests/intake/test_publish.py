"""The publishing helper: what it writes is the contract, and whatever happens the service does not notice."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import time

import pytest
import redis as redis_py

from sidecar.intake import SliceRegistry, parse
from sidecar.model import Ranking
from sidecar.publish import fields, publish, publish_sync
from sidecar.redis_edge import connect

FULL = {
    "query": "where is my parcel?",
    "documents": ["a", "b"],
    "slice": "tenant-1",
    "trace_id": "t",
    "session_id": "s",
    "step": 0,
    "top_k": 10,
    "filter": {"tenant": "secret"},
    "encoder": "minilm",
}


async def test_what_is_published_meets_the_contract(redis):
    """Every field arrives as it was meant."""
    assert await publish(redis, **FULL, timeout=5.0)
    [(entry_id, entry)] = await redis.xrange("rag:queries")
    event = parse(entry_id, entry, now=time.time(), slices=SliceRegistry())
    assert (event.query, event.slice, event.step, event.top_k, event.filtered, event.encoder) == (
        "where is my parcel?", "tenant-1", 0, 10, True, "minilm",
    )  # fmt: skip
    assert event.served == Ranking(("a", "b"))
    assert b"secret" not in b"".join(entry.values())


@pytest.mark.parametrize(
    "documents",
    [
        [("a", 0.9), ("b", 0.5)],
        [["a", 0.9], ["b", 0.5]],
        [{"id": "a", "score": 0.9}, {"id": "b", "score": 0.5}],
        (pair for pair in [("a", 0.9), ("b", 0.5)]),
    ],
    ids=["pairs", "lists", "mappings", "generator"],
)
def test_documents_come_in_several_shapes(documents):
    """Pairs, lists, mappings and generators give the same field."""
    assert json.loads(fields(query="q", documents=documents)["documents"]) == [
        {"id": "a", "score": 0.9},
        {"id": "b", "score": 0.5},
    ]


def test_numbers_of_numpy_are_understood():
    """Scores usually come from an array."""
    numpy = pytest.importorskip("numpy")
    assert json.loads(fields(query="q", documents=[(7, numpy.float32(0.5))])["documents"]) == [
        {"id": "7", "score": 0.5}
    ]


async def test_the_stream_stays_bounded(redis):
    """MAXLEN is approximate: whole nodes of 100 entries."""
    for _ in range(500):
        assert await publish(redis, query="q", maxlen=100, timeout=5.0)
    assert 100 <= await redis.xlen("rag:queries") <= 200


@pytest.mark.parametrize(
    "event",
    [
        {"query": ""},
        {"query": None},
        {"query": "q" * 9_000},
        {"query": "\ud800"},
        {"query": "q", "documents": [1]},
        {"query": "q", "documents": 7},
        {"query": "q", "documents": [("a", float("nan"))]},
        {"query": "q", "documents": [("a", "much")]},
        {"query": "q", "documents": [{"score": 1}]},
    ],
    ids=str,
)
async def test_nonsense_is_not_published_and_not_raised(redis, event):
    """The caller's mistake is False, not an exception in its request."""
    assert await publish(redis, **event, timeout=5.0) is False
    assert await redis.exists("rag:queries") == 0


async def test_a_client_that_is_none_or_broken_is_survived():
    """Even a missing client does not raise."""

    class Broken:
        def xadd(self, *_, **__):
            raise RuntimeError

    assert await publish(None, query="q") is False
    assert await publish(Broken(), query="q") is False
    assert publish_sync(None, query="q") is False


async def test_a_server_that_is_gone_costs_at_most_the_timeout(own_redis, caplog):
    """Nothing is raised, nothing is logged above debug, and no log line holds the text."""
    caplog.set_level(logging.DEBUG, logger="sidecar")
    client = connect(own_redis.url)
    assert await publish(client, query="secret words", timeout=5.0)
    await asyncio.to_thread(own_redis.stop)
    started = time.monotonic()
    assert await publish(client, query="secret words", timeout=0.05) is False
    assert time.monotonic() - started < 0.5
    assert "secret" not in caplog.text
    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    await client.aclose()


async def test_a_server_that_does_not_answer_costs_at_most_the_timeout(redis):
    """A hanging Redis delays the request by the timeout, each time."""
    await redis.execute_command("CLIENT", "PAUSE", "600", "ALL")
    for _ in range(3):
        started = time.monotonic()
        assert await publish(redis, query="q", timeout=0.05) is False
        assert 0.04 <= time.monotonic() - started < 0.3
    await asyncio.sleep(0.7)
    assert await publish(redis, query="q", timeout=5.0)


async def test_cancelling_the_request_passes_through(redis):
    """A request that is cancelled while it publishes stays cancelled."""
    await redis.execute_command("CLIENT", "PAUSE", "300", "ALL")
    task = asyncio.create_task(publish(redis, query="q", timeout=5.0))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await asyncio.sleep(0.3)


async def test_a_client_that_swallows_cancellation_cannot_hold_the_request():
    """The bound is ours, not the client's."""
    released = asyncio.Event()

    class Deaf:
        async def xadd(self, *_, **__):
            try:
                await released.wait()
            except asyncio.CancelledError:
                await released.wait()

    started = time.monotonic()
    assert await publish(Deaf(), query="q", timeout=0.05) is False
    assert time.monotonic() - started < 0.3
    released.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.mark.usefixtures("redis")
def test_the_blocking_variant_publishes(redis_url):
    """Services without asyncio have the same helper."""
    with redis_py.Redis.from_url(redis_url, socket_timeout=1.0) as client:
        assert publish_sync(client, query="q", documents=["a"])
        assert client.xlen("rag:queries") == 1


def test_the_helper_imports_the_standard_library_only():
    """A service that imports it gets neither redis-py nor anything of the sidecar's weight."""
    program = (
        "import sys; import sidecar.publish\n"
        "print([m for m in ('redis', 'numpy', 'pydantic', 'torch', 'sidecar.model') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
