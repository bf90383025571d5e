"""The consumer on a real Redis: what happens to entries of every kind, to slow queues and to dead processes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from sidecar.errors import ConfigurationError
from sidecar.intake import IntakeOptions
from sidecar.publish import fields, publish

STREAM, PREFIX = "rag:queries", "rag-drift:{test}:"
DEAD = f"{PREFIX}dead-letters"


async def fill(redis, count, **extra):
    """Publish numbered queries."""
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(count):
            pipe.xadd(STREAM, fields(query=f"question {number}", **extra))
        return await pipe.execute()


async def test_entries_become_events_and_stay_pending_until_replay_acknowledges(redis, bench):
    """What is handed on is owed an acknowledgement; nothing else is left."""
    ids = await fill(redis, 20, documents=["a", ("b", 0.5)], session_id="s")
    one = bench()
    assert await one.consumer.drain() == 20
    assert [event.entry_id.encode() for event in one.taken()] == ids
    assert one.events[0].served.ids == ("a", "b")
    assert await one.pending() == 20
    assert await one.acknowledge() == 20
    assert (await one.pending(), one.consumer.counts.outcomes["queued"]) == (0, 20)


async def test_unsampled_entries_are_acknowledged_at_once(redis, bench):
    """Only sampled entries stay pending, and every entry has one outcome."""
    await fill(redis, 1_200)
    one = bench(rate=0.1)
    await one.consumer.drain()
    counts = one.consumer.counts
    assert await one.pending() == len(one.taken()) == counts.outcomes["queued"] > 0
    assert sum(counts.outcomes.values()) == counts.read == 1_200
    assert counts.acknowledged == counts.outcomes["unsampled"]
    assert {event.weight for event in one.events} == {10.0}


async def test_two_replicas_share_the_stream(redis, bench):
    """Each entry goes to one of them, and both decide alike."""
    await fill(redis, 400)
    one, two = bench(batch=20), bench(batch=20)
    while await one.consumer.read(None) + await two.consumer.read(None):
        pass
    seen = [event.entry_id for event in one.taken() + two.taken()]
    assert len(seen) == len(set(seen)) == 400
    assert one.events
    assert two.events


async def test_a_new_group_starts_where_the_setting_says(redis, bench):
    """`$` takes what comes from now on, `0` takes what is there."""
    await fill(redis, 5)
    fresh, whole = bench(start="$", group="fresh"), bench(start="0", group="whole")
    await fresh.consumer.prepare()
    await fill(redis, 2)
    assert (await fresh.consumer.drain(), await whole.consumer.drain()) == (2, 7)


MALFORMED = {
    "missing_query": {b"text": b"secret words"},
    "empty_query": {b"query": b"  "},
    "not_utf8": {b"query": b"secret words \xff"},
    "too_large": {b"query": b"secret words " * 800_000},
    "bad_documents": {b"query": b"secret words", b"documents": b'["secret'},
    "bad_number": {b"query": b"secret words", b"step": b"one"},
    "bad_slice": {b"query": b"secret words", b"slice": b"all"},
    "unknown_version": {b"query": b"secret words", b"v": b"2"},
}


async def test_malformed_entries_go_to_the_dead_letters_and_never_stop_the_loop(redis, bench, caplog):
    """Each is counted by its reason, acknowledged, kept in part, and no log line shows its text."""
    caplog.set_level(logging.DEBUG)
    ids = {}
    for reason, entry in MALFORMED.items():
        ids[await redis.xadd(STREAM, entry)] = reason.encode()
        await fill(redis, 1)
    one = bench()
    await one.consumer.drain()
    counts = one.consumer.counts
    assert len(one.taken()) == len(MALFORMED)
    assert {reason: n for reason, n in counts.malformed.items() if n} == dict.fromkeys(MALFORMED, 1)
    assert await one.pending() == len(MALFORMED)  # the good ones, which are replay's
    letters = [letter for _, letter in await redis.xrange(DEAD)]
    assert {letter[b"entry_id"]: letter[b"reason"] for letter in letters} == ids
    kept = {letter[b"reason"]: letter for letter in letters}
    assert kept[b"too_large"][b"field:query"] == (b"secret words " * 200)[:2_048]
    assert kept[b"unknown_version"][b"field:v"] == b"2"
    assert "secret" not in caplog.text


@pytest.mark.slow
async def test_dead_letters_are_bounded(redis, bench):
    """A flood of broken entries keeps about the configured number, at a bounded size each.

    Approximate trimming works in whole nodes of at most 100 entries.
    """
    async with redis.pipeline(transaction=False) as pipe:
        for number in range(1_500):
            pipe.xadd(STREAM, {f"field{part}{'x' * 100}": b"y" * 5_000 for part in range(20)} | {"n": number})
        await pipe.execute()
    one = bench(dead_letters=200, dead_letter_bytes=10)
    await one.consumer.drain()
    assert await one.pending() == 0
    assert 200 <= await redis.xlen(DEAD) <= 300
    [(_, letter)] = await redis.xrange(DEAD, count=1)
    assert len(letter) == 2 + 16
    assert max(map(len, letter.values())) <= 32
    assert max(map(len, letter)) <= 64 + len("field:")


async def test_keeping_no_dead_letters_is_possible(redis, bench):
    """Where query text must not stay, refused entries are counted and acknowledged only."""
    await redis.xadd(STREAM, {"text": "secret words"})
    one = bench(dead_letters=0)
    await one.consumer.drain()
    assert one.consumer.counts.malformed["missing_query"] == 1
    assert await one.pending() == 0
    assert await redis.exists(DEAD) == 0


async def test_an_id_from_the_future_does_not_blind_us(redis, bench):
    """After one service wrote with a wrong clock, all later entries still arrive, with our time, and are counted."""
    ahead = int((time.time() + 86_400 * 365) * 1000)
    assert await publish(redis, query="from the future", entry_id=f"{ahead}-0", timeout=5.0)
    await fill(redis, 3)
    one = bench()
    await one.consumer.drain()
    assert len(one.taken()) == 4
    assert max(event.at for event in one.events) <= time.time()
    assert one.consumer.counts.clock_skewed == 4


async def test_large_entries_make_small_batches(redis, bench):
    """Reads of 500 do not turn into gigabytes when entries are large, and grow again when they are small."""
    await fill(redis, 600)
    for _ in range(30):
        await redis.xadd(STREAM, {"query": b"q" * 1_000_000})
    await fill(redis, 600)
    one = bench(batch_bytes=4_000_000)
    sizes = []
    while got := await one.consumer.read(None):
        sizes.append((got, one.consumer._count))
    assert max(count for _, count in sizes) == 500
    assert min(count for _, count in sizes) <= 4
    assert sum(got for got, _ in sizes) == 1_230


async def test_a_full_queue_waits_and_then_sheds(redis, bench):
    """Entries wait while they are young; older ones are dropped, counted and acknowledged; nothing grows."""
    await fill(redis, 60)
    one = bench(maxsize=5, shed_after_seconds=0.5)
    started = time.monotonic()
    assert await one.consumer.drain() == 60
    assert time.monotonic() - started >= 0.3
    assert one.queue.qsize() == 5
    assert one.consumer.counts.outcomes["shed_queue"] == 55
    assert await one.pending() == 5


async def test_without_shedding_the_reader_waits_for_the_queue(redis, bench):
    """No entry is dropped, and no more than one batch is in memory beside the queue."""
    await fill(redis, 100)
    one = bench(maxsize=2, batch=10, shed_after_seconds=None)
    reader = asyncio.create_task(one.consumer.drain())
    await asyncio.sleep(0.2)
    assert not reader.done()
    assert await one.pending() <= 2 + 10
    seen = [await one.queue.get() for _ in range(100)]
    assert await reader == 100
    assert [event.query for event in seen] == [f"question {number}" for number in range(100)]


async def test_waiting_for_the_queue_does_not_delay_other_acknowledgements(redis, bench):
    """Unsampled entries of the same batch are settled before the wait begins."""
    await fill(redis, 400)
    one = bench(rate=0.5, maxsize=1, shed_after_seconds=None)
    reader = asyncio.create_task(one.consumer.drain())
    await asyncio.sleep(0.2)
    reader.cancel()
    await asyncio.wait([reader])
    counts = one.consumer.counts
    assert counts.acknowledged == counts.outcomes["unsampled"] > 0


async def test_an_unbounded_queue_is_refused(bench):
    """Back-pressure needs a bound."""
    with pytest.raises(ConfigurationError, match="bounded queue"):
        bench(maxsize=0)


@pytest.mark.parametrize(
    "options", [{"start": "now"}, {"block_seconds": 10.0}, {"claim_idle_seconds": 3.9}, {"batch": 0}], ids=str
)
def test_options_that_cannot_work_are_refused(options):
    """The message names the option."""
    with pytest.raises(ConfigurationError, match=next(iter(options)).removesuffix("_seconds").removesuffix("_idle")):
        IntakeOptions(**options)


CLAIM_SOON = {
    "claim_idle_seconds": 0.4,
    "block_seconds": 0.1,
    "keep_every_seconds": 0.1,
    "claim_every_seconds": 0.1,
}

VICTIM = """
import asyncio, sys, time
from sidecar.intake import *
from sidecar.redis_edge import connect

async def main():
    slices = SliceRegistry()
    consumer = Consumer(
        connect(sys.argv[1]), slices=slices, out=asyncio.Queue(1000), prefix="rag-drift:{test}:",
        sampler=Sampler(SamplingOptions(), deployment="test", slices=slices, clock=time.monotonic),
        options=IntakeOptions(start="0"), name="victim",
    )
    await consumer.drain()
    print("holding", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_entries_of_a_killed_process_are_taken_over(redis, redis_url, bench):
    """A replica dies with -9 while it holds entries; another one gets every one of them, and its name disappears."""
    ids = await fill(redis, 30)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, redis_url], stdout=subprocess.PIPE, env=env)
    assert await asyncio.to_thread(victim.stdout.readline) == b"holding\n"
    victim.send_signal(signal.SIGKILL)
    await asyncio.to_thread(victim.wait)
    victim.stdout.close()
    one = bench(**CLAIM_SOON)
    assert await one.consumer.claim() == 0  # not yet: it may be alive
    await asyncio.sleep(0.5)
    assert await one.consumer.claim() == 30
    assert [event.entry_id.encode() for event in one.taken()] == ids
    assert one.consumer.counts.claimed == 30
    assert await one.acknowledge() == 30
    await one.consumer._leave(keys=[STREAM], args=["rag-drift", "", 400])
    assert [c["name"] for c in await redis.xinfo_consumers(STREAM, "rag-drift")] == [one.consumer.name.encode()]


async def test_waiting_entries_of_a_live_consumer_are_not_taken_away(redis, bench):
    """A slow encoder is no dead process: the consumer shows that it lives although it reads nothing."""
    await fill(redis, 30)
    slow, other = bench(maxsize=1, shed_after_seconds=None, **CLAIM_SOON), bench(**CLAIM_SOON)
    running = asyncio.create_task(slow.consumer.run())
    for _ in range(12):
        await asyncio.sleep(0.1)
        assert await other.consumer.claim() == 0
    assert len(other.taken()) == 0
    running.cancel()
    await asyncio.wait([running])


async def test_an_entry_that_is_never_acknowledged_is_handed_out_again_and_at_last_put_aside(redis, bench):
    """What kills every process that tries it ends on the dead-letter stream."""
    await fill(redis, 1)
    one = bench(stuck_seconds=0.05, max_deliveries=3, **CLAIM_SOON)
    await one.consumer.drain()
    for _ in range(2):
        await asyncio.sleep(0.1)
        assert await one.consumer.claim() == 1
    await asyncio.sleep(0.1)
    assert await one.consumer.claim() == 1
    assert len(one.taken()) == 3
    assert one.consumer.counts.malformed["too_many_deliveries"] == 1
    assert await one.pending() == 0
    assert (await redis.xrange(DEAD))[0][1][b"reason"] == b"too_many_deliveries"


async def test_a_clean_stop_leaves_no_consumer_behind(redis, bench):
    """Restarts do not pile consumers up."""
    one = bench(rate=1e-9, block_seconds=0.2)
    await fill(redis, 10)
    running = asyncio.create_task(one.consumer.run())
    while one.consumer.counts.read < 10:
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert await redis.xinfo_consumers(STREAM, "rag-drift") == []


async def test_a_stop_with_pending_entries_keeps_them(redis, bench):
    """Removing a consumer would throw its pending entries away."""
    one = bench(block_seconds=0.2)
    await fill(redis, 10)
    running = asyncio.create_task(one.consumer.run())
    while one.consumer.counts.read < 10:
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert await one.pending() == 10
    assert len(await redis.xinfo_consumers(STREAM, "rag-drift")) == 1


async def test_cancelling_loses_no_due_acknowledgement(redis, bench):
    """However early the cancellation comes, what was decided not to be replayed is acknowledged."""
    for pause in (0.0, 0.001, 0.002, 0.004, 0.008):
        one = bench(rate=1e-9, group=f"g{pause}")
        await fill(redis, 300)
        running = asyncio.create_task(one.consumer.run())
        while not one.consumer.counts.read:
            await asyncio.sleep(pause)
        running.cancel()
        await asyncio.wait([running])
        counts = one.consumer.counts
        assert counts.acknowledged == counts.outcomes["unsampled"] == counts.read


async def test_a_shared_name_is_not_possible(bench):
    """Every consumer of every process has its own name."""
    assert len({bench().consumer.name for _ in range(50)}) == 50


async def test_a_million_sized_session_field_is_hashed_not_kept(redis, bench):
    """A hostile session name costs a hash and a refusal."""
    await redis.xadd(STREAM, {"query": "q", "session_id": b"s" * 1_000_000})
    one = bench()
    await one.consumer.drain()
    assert one.consumer.counts.malformed["too_large"] == 1


async def test_counts_start_complete(bench):
    """Every known outcome and reason is there with 0, so that metrics exist from the start."""
    counts = bench().consumer.counts
    assert json.loads(json.dumps(counts.outcomes)) == dict.fromkeys(
        ("queued", "unsampled", "shed_budget", "shed_queue", "malformed"), 0
    )
    assert set(counts.malformed.values()) == set(counts.decisions.values()) == {0}
