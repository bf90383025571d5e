"""What the consumer does when Redis, the stream or the group go away, and come back."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from sidecar.embedded_redis import EmbeddedRedis
from sidecar.errors import StoreError
from sidecar.publish import fields
from sidecar.redis_edge import connect

STREAM = "rag:queries"


async def until(condition, seconds=10.0):
    """Wait for a condition, and fail if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


@pytest.fixture
async def running(bench):
    """Run consumers in the background, and stop those that a failed test left."""
    tasks = []

    async def start(**options):
        one = bench(**{"block_seconds": 0.3, **options})
        task = asyncio.create_task(one.consumer.run())
        tasks.append(task)
        await until(lambda: one.consumer._prepared or one.consumer.counts.store_errors)
        return one, task

    yield start
    for task in tasks:
        if not task.done():
            await stop(task)


async def stop(task):
    """Cancel a running consumer; it must end soon."""
    task.cancel()
    started = time.monotonic()
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("removed", ["stream", "group"])
async def test_a_deleted_stream_or_group_is_made_anew(redis, running, removed):
    """The loop finds out while it waits for entries, and reads the new ones from the oldest on."""
    one, task = await running(start="$")
    await redis.xadd(STREAM, fields(query="before"))
    await until(lambda: one.queue.qsize() == 1)
    assert await one.acknowledge() == 1
    await asyncio.sleep(0.05)  # back in the blocking read
    await (redis.delete(STREAM) if removed == "stream" else redis.xgroup_destroy(STREAM, "rag-drift"))
    await redis.xadd(STREAM, fields(query="after"))
    await until(lambda: one.queue.qsize() == (1 if removed == "stream" else 2))
    assert [event.query for event in one.taken()][-1] == "after"
    assert one.consumer.counts.groups_remade == 1
    await stop(task)


async def test_everything_flushed_is_survived(redis, running):
    """FLUSHALL and SCRIPT FLUSH leave a working consumer."""
    one, task = await running()
    await redis.flushall()
    await redis.script_flush()
    await redis.xadd(STREAM, fields(query="after"))
    await until(lambda: one.queue.qsize() == 1)
    await stop(task)


@pytest.mark.slow
async def test_redis_stopped_and_started_on_the_same_port(own_redis, running):
    """The outage is waited out with growing pauses, counted, and the work goes on."""
    client = connect(own_redis.url)
    one, task = await running(client=client)
    await client.xadd(STREAM, fields(query="before"))
    await until(lambda: one.queue.qsize() == 1)
    await asyncio.to_thread(own_redis.stop)
    await until(lambda: one.consumer.counts.store_errors >= 2)
    errors, started = one.consumer.counts.store_errors, time.monotonic()
    await asyncio.sleep(1.0)
    # Three loops, whose pauses have at least 0.1 s at first and double: at most 4 tries each in a second.
    assert one.consumer.counts.store_errors - errors <= 12 * (time.monotonic() - started)
    own_redis.start()
    await client.xadd(STREAM, fields(query="after"))
    await until(lambda: one.queue.qsize() == 2)
    assert [event.query for event in one.taken()] == ["before", "after"]
    await stop(task)
    await client.aclose()


async def test_stopping_while_redis_is_gone_is_quick(own_redis, running):
    """A pod that is told to end does not hang on a dead Redis."""
    client = connect(own_redis.url)
    one, task = await running(client=client)
    await asyncio.to_thread(own_redis.stop)
    await until(lambda: one.consumer.counts.store_errors >= 1)
    await stop(task)
    await client.aclose()


async def test_acknowledgements_that_failed_are_given_later(own_redis, bench):
    """What could not be acknowledged is kept and sent before the next read."""
    client = connect(own_redis.url, retries=0)
    one = bench(client=client, rate=1e-9)
    await client.xadd(STREAM, fields(query="q"))
    entries = [(entry_id, entry) for entry_id, entry in await client.xrange(STREAM)]
    await one.consumer.prepare()
    await client.xreadgroup("rag-drift", one.consumer.name, {STREAM: ">"})
    right = one.consumer._keys
    await client.set("wrong", "type")
    one.consumer._keys = ["wrong", right[1]]
    with pytest.raises(StoreError, match="another type"):
        await one.consumer._treat(entries)
    one.consumer._keys = right
    assert await one.pending() == 1
    await one.consumer.read(None)
    assert await one.pending() == 0
    await client.aclose()


@pytest.mark.slow
async def test_a_wrong_password_says_what_to_do_and_shows_nothing(redis_binary, bench, caplog):
    """Neither error nor log hold the password or the user."""
    caplog.set_level(logging.DEBUG)
    with EmbeddedRedis(redis_binary, password="right-password") as server:
        for url in (f"redis://someone:hunter2@127.0.0.1:{server.port}/0", f"redis://127.0.0.1:{server.port}/0"):
            client = connect(url)
            one = bench(client=client, block_seconds=0.1)
            with pytest.raises(StoreError, match="password") as caught:
                await one.consumer.prepare()
            assert "hunter2" not in str(caught.value) + str(caught.value.__cause__)
            task = asyncio.create_task(one.consumer.run())
            await until(lambda one=one: one.consumer.counts.store_errors >= 2)
            await stop(task)
            await client.aclose()
    assert "hunter2" not in caplog.text
    assert "someone" not in caplog.text


async def test_a_stream_name_that_belongs_to_another_program(redis, bench):
    """A key of another type is refused with a sentence that names the way out."""
    await redis.set(STREAM, "something else")
    with pytest.raises(StoreError, match="choose another stream"):
        await bench().consumer.prepare()


async def test_a_user_without_rights_is_told_so(redis, redis_url, bench):
    """An ACL that lacks a command is named as such."""
    await redis.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-xreadgroup")
    client = connect(redis_url.replace("redis://", "redis://reader:secret@"))
    one = bench(client=client)
    with pytest.raises(StoreError, match="ACL"):
        await one.consumer.read(None)
    await client.aclose()
    await redis.execute_command("ACL", "DELUSER", "reader")


async def test_a_paused_server_does_not_stop_the_consumer_for_good(redis, running):
    """A server that does not answer for a while delays the work and no more."""
    one, task = await running()
    await redis.execute_command("CLIENT", "PAUSE", "700", "ALL")
    await redis.xadd(STREAM, fields(query="after the pause"))
    await until(lambda: one.queue.qsize() == 1)
    await stop(task)
