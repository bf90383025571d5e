"""The replay loop on real Redis: batches, failures, outages, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog

from sidecar.model import QueryEvent
from sidecar.redis_edge import connect
from sidecar.replay.compare import signal_names
from sidecar.replay.worker import Replayer, ReplayOptions
from sidecar.store import START, Store
from tests.replay.doubles import retrievers

STREAM, GROUP = "rag:queries", "rag-drift"


class Recorder:
    """Remembers what the loop tells; the exporter that listens in production has its own tests."""

    def __init__(self) -> None:
        self.phases, self.observations, self.failures = [], [], []

    def phase(self, name, seconds):
        """Note a phase."""
        self.phases.append((name, seconds))

    def replayed(self, observations):
        """Note what was written."""
        self.observations += observations

    def replay_failed(self, reason, queries=1):
        """Note failures."""
        self.failures += [reason] * queries


class Fresh:
    """A watcher that knows of no newer version; counts how often it is asked, and can hold the loop back."""

    def __init__(self) -> None:
        self.asked = 0
        self.current = asyncio.Event()
        self.current.set()

    def check_now(self):
        """Note that somebody asked."""
        self.asked += 1

    async def up_to_date(self):
        """Wait as long as the test wants."""
        await self.current.wait()


class Bench:
    """A replayer with what surrounds it."""

    def __init__(self, client, *, gate=None, deployment="test", retrievers_=None, **options) -> None:
        self.redis = client
        self.queue: asyncio.Queue[QueryEvent] = asyncio.Queue(1000)
        self.store = Store(client, deployment)
        self.retrievers = retrievers_ or retrievers(gate)
        self.metrics = Recorder()
        self.watcher = Fresh()
        self.executor = ThreadPoolExecutor(1)
        self.replayer = Replayer(
            queue=self.queue,
            retrievers=self.retrievers,
            store=self.store,
            options=ReplayOptions(stream=STREAM, group=GROUP, **options),
            executor=self.executor,
            metrics=self.metrics,
            log=structlog.get_logger(),
            watcher=self.watcher,
        )

    @property
    def batches(self) -> list[list[str]]:
        """Give the texts of each batch that was encoded."""
        return self.retrievers.pair.deployed.encoder.batches

    async def deliver(self, texts, **event) -> list[str]:
        """Put queries on the stream, hand them to the group, and into the queue."""
        ids = await entries(self.redis, texts)
        for entry_id, text in zip(ids, texts, strict=True):
            self.queue.put_nowait(QueryEvent(entry_id, text, 1.0, **event))
        return ids

    @contextlib.asynccontextmanager
    async def running(self):
        """Run the loop and cancel it at the end."""
        task = asyncio.create_task(self.replayer.run())
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.executor.shutdown(wait=False)

    async def observed(self) -> list[str]:
        """Give the entries that were observed, in Redis' order."""
        found = await self.store.observations_after(START, count=10_000, block_seconds=0.01)
        return [one.entry_id for _, one in found]

    async def pending(self) -> int:
        """Ask Redis how many entries are not acknowledged."""
        return (await self.redis.xpending(STREAM, GROUP))["pending"]


async def entries(redis, texts) -> list[str]:
    """Put queries on the stream and hand them to the group."""
    async with redis.pipeline(transaction=False) as pipe:
        for text in texts:
            pipe.xadd(STREAM, {"query": text})
        ids = [one.decode() for one in await pipe.execute()]
    with contextlib.suppress(Exception):
        await redis.xgroup_create(STREAM, GROUP, id="0")
    await redis.xreadgroup(GROUP, "one", {STREAM: ">"}, count=len(ids))
    return ids


async def until(condition, seconds=10.0):
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_every_query_is_observed_and_acknowledged_in_order(redis):
    """What came in comes out once, in order, with nothing left pending, over several batches."""
    bench = Bench(redis, batch_size=64)
    ids = await bench.deliver([f"query {i}" for i in range(200)])
    async with bench.running():
        await until(lambda: len(bench.metrics.observations) == 200)
    assert await bench.observed() == ids
    assert await bench.pending() == 0
    assert [len(batch) for batch in bench.batches] == [64, 64, 64, 8]
    assert bench.metrics.failures == []
    names = {name for name, _ in bench.metrics.phases}
    assert names == {
        "gather", "encode_deployed", "search_deployed", "encode_reference", "search_reference", "score_reference",
        "compare", "record",
    }  # fmt: skip


async def test_a_frozen_copy_is_replayed_for_real(redis):
    """It encodes, searches and scores every query itself, also with nothing changed, and is named in the stack."""
    bench = Bench(redis, retrievers_=retrievers(frozen=True))
    await bench.deliver([f"query {i}" for i in range(20)])
    async with bench.running():
        await until(lambda: len(bench.metrics.observations) == 20)
    frozen = bench.retrievers.pair.frozen
    assert frozen.encoder.batches == bench.batches
    assert {"encode_frozen", "search_frozen", "score_frozen"} <= {name for name, _ in bench.metrics.phases}
    for _, one in await bench.store.observations_after(START, count=20, block_seconds=0.01):
        assert (one.stack.frozen_encoder, one.stack.frozen_index) == (frozen.fingerprint.digest, "double")
        assert set(one.values) == set(signal_names(10, frozen=True)) - {"fidelity@10"}
        assert one.values["frozen_overlap@10"] == one.values["frozen_tolerant@10"] == 1.0


async def test_a_query_gets_the_cluster_of_its_reference_vector(redis):
    """The cluster is that of the centre closest to the reference's vector, and reads back from Redis."""
    bench = Bench(redis)
    texts = [f"query {i}" for i in range(20)]
    await bench.deliver(texts)
    async with bench.running():
        await until(lambda: len(bench.metrics.observations) == 20)
    expected = bench.retrievers.pair.reference.encoder.encode_queries(texts).argmax(axis=1).tolist()
    read = await bench.store.observations_after(START, count=20, block_seconds=0.01)
    assert [one.cluster for _, one in read] == [one.cluster for one in bench.metrics.observations] == expected
    assert len(set(expected)) == 4


async def test_observations_of_an_earlier_version_still_read(redis):
    """Without a cluster, and with the four parts that a stack had, an observation is whole."""
    bench = Bench(redis)
    await bench.deliver(["query"])
    async with bench.running():
        await until(lambda: bench.metrics.observations)
    key = bench.store.keys.observations
    ((_, fields),) = await redis.xrange(key)
    assert fields[b"k"].count(b"|") == 3  # an earlier version can read what is written without a frozen copy
    del fields[b"c"]
    await redis.delete(key)
    await redis.xadd(key, fields)
    ((_, old),) = await bench.store.observations_after(START, count=1, block_seconds=0.01)
    (new,) = bench.metrics.observations
    assert old.cluster is None
    assert old.stack == new.stack
    assert (old.stack.frozen_encoder, old.stack.frozen_index) == ("", "")


async def test_queries_that_come_close_together_share_a_batch(redis):
    """A first query waits for others, but not longer than it may."""
    bench = Bench(redis, batch_size=64, batch_wait_seconds=0.4)
    async with bench.running():
        for number in range(3):
            await bench.deliver([f"query {number}"])
            await asyncio.sleep(0.05)
        await until(lambda: len(bench.metrics.observations) == 3)
    assert [len(batch) for batch in bench.batches] == [3]
    (gathered,) = [seconds for name, seconds in bench.metrics.phases if name == "gather"]
    # The timer may fire late on a busy machine, never early; the clock's own grain is far below the slack.
    assert 0.39 <= gathered < 2.0


async def test_a_full_batch_does_not_wait(redis):
    """The latency bound is for batches that are not full."""
    bench = Bench(redis, batch_size=4, batch_wait_seconds=60.0)
    await bench.deliver([f"query {i}" for i in range(8)])
    async with bench.running():
        await until(lambda: len(bench.metrics.observations) == 8)
    assert [len(batch) for batch in bench.batches] == [4, 4]


async def test_an_entry_that_two_replicas_replay_is_observed_once(redis):
    """Two replicas with the same entries in their queues write each of them once."""
    one, two = Bench(redis), Bench(redis)
    texts = [f"query {i}" for i in range(50)]
    ids = await one.deliver(texts)
    for entry_id, text in zip(ids, texts, strict=True):
        two.queue.put_nowait(QueryEvent(entry_id, text, 1.0))
    async with one.running(), two.running():
        await until(lambda: len(one.metrics.observations) == len(two.metrics.observations) == 50)
    assert sorted(await one.observed()) == sorted(ids)
    assert await one.pending() == 0
    assert await redis.hget(one.store.keys.intake, "handled") == b"50"


async def test_a_poisonous_query_costs_itself_only(redis):
    """The batch is tried again query by query; the one that fails is counted and acknowledged, the others observed."""
    bench = Bench(redis, batch_size=10)
    texts = [f"query {i}" for i in range(10)]
    texts[4] = "poison"
    ids = await bench.deliver(texts)
    async with bench.running():
        await until(lambda: len(bench.metrics.observations) == 9)
        await bench.deliver(["after"])
        await until(lambda: len(bench.metrics.observations) == 10)
    assert (await bench.observed())[:9] == ids[:4] + ids[5:]
    assert bench.metrics.failures == ["EncoderError"]
    assert await bench.pending() == 0


async def test_a_batch_of_poison_only_is_acknowledged(redis):
    """Nothing to observe is no reason to keep entries pending for ever."""
    bench = Bench(redis)
    await bench.deliver(["poison 1", "poison 2"])
    async with bench.running():
        await until(lambda: any(name == "record" for name, _ in bench.metrics.phases))
    assert bench.metrics.failures == ["EncoderError"] * 2
    assert await bench.pending() == 0
    assert await bench.observed() == []


async def test_what_is_not_our_own_error_ends_the_loop_and_keeps_the_entries(redis):
    """A defect is not swallowed as if a query were to blame: the entries stay for a process that works."""
    bench = Bench(redis)

    def broken(_):
        raise AttributeError("a defect")

    bench.retrievers.pair.deployed.encoder.encode_queries = broken
    await bench.deliver(["query"])
    task = asyncio.create_task(bench.replayer.run())
    with pytest.raises(AttributeError):
        await asyncio.wait_for(task, 10)
    bench.executor.shutdown()
    assert await bench.pending() == 1


async def test_a_write_waits_until_redis_is_back(own_redis):
    """Redis goes away between reading and writing: the observations are kept, counted as failed writes, and written."""
    gate = threading.Event()
    client = connect(own_redis.url, retries=0)
    bench = Bench(client, gate=gate)
    await bench.deliver(["query"])
    async with bench.running():
        await until(lambda: bench.batches)
        own_redis.stop()
        gate.set()
        await until(lambda: "store" in bench.metrics.failures)
        own_redis.start()
        # The server keeps nothing over a restart: give it the stream back as a server that does would have it.
        entry_id = (await client.xadd(STREAM, {"query": "x"}, id="1-1")).decode()
        await client.xgroup_create(STREAM, GROUP, id="0")
        await client.xreadgroup(GROUP, "one", {STREAM: ">"})
        await until(lambda: bench.metrics.observations)
        bench.queue.put_nowait(QueryEvent(entry_id, "query", 1.0))
        await until(lambda: len(bench.metrics.observations) == 2)
    assert await bench.observed() == [entry_id]
    assert set(bench.metrics.failures) == {"store"}
    await client.aclose()


@pytest.mark.slow
async def test_memory_stays_bounded_while_redis_is_away(own_redis):
    """The loop holds one batch being written and one answered; the rest waits in the queue and in Redis."""
    client = connect(own_redis.url, retries=0)
    bench = Bench(client, batch_size=5)
    await bench.deliver([f"query {i}" for i in range(50)])
    own_redis.stop()
    async with bench.running():
        await until(lambda: len(bench.metrics.failures) >= 3)
        assert len(bench.batches) == 2
        assert bench.queue.qsize() == 40
    await client.aclose()


async def test_cancelling_loses_nothing(redis):
    """Wherever the loop is stopped, each entry is either observed and acknowledged or still pending."""
    for stop_after in (0, 1, 2, 3):
        await redis.flushall()
        bench = Bench(redis, batch_size=5)
        ids = await bench.deliver([f"query {i}" for i in range(40)])
        async with bench.running():
            await until(lambda bench=bench, stop_after=stop_after: len(bench.batches) >= stop_after)
        observed = await bench.observed()
        assert observed == ids[: len(observed)]
        assert await bench.pending() == 40 - len(observed)


async def test_a_write_under_way_is_finished_when_cancelled(redis):
    """What was handed to the writer is written before the loop ends, and the next batch stays pending."""
    bench = Bench(redis, batch_size=5, batch_wait_seconds=30.0)
    released = asyncio.Event()
    write, starting = bench.store.record, asyncio.Event()

    async def slow(*arguments):
        starting.set()
        await released.wait()
        return await write(*arguments)

    bench.store.record = slow
    ids = await bench.deliver([f"query {i}" for i in range(8)])
    task = asyncio.create_task(bench.replayer.run())
    await starting.wait()
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    bench.executor.shutdown()
    assert await bench.observed() == ids[:5]
    assert await bench.pending() == 3


async def test_a_stopped_loop_gives_up_on_a_redis_that_is_away(own_redis, monkeypatch):
    """Stopping takes a bounded time, even with a write that cannot be done."""
    monkeypatch.setattr(Replayer, "LAST_WRITE_SECONDS", 0.3)
    client = connect(own_redis.url, retries=0)
    bench = Bench(client)
    await bench.deliver(["query"])
    own_redis.stop()
    begin = asyncio.get_running_loop().time()
    async with bench.running():
        await until(lambda: bench.metrics.failures)
        begin = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begin < 3
    await client.aclose()


async def test_nothing_is_replayed_on_a_picture_known_to_be_old(redis):
    """While a newer version is being loaded the loop waits, and then uses the new pair for the waiting batch."""
    bench, newer = Bench(redis), retrievers()
    bench.watcher.current.clear()
    await bench.deliver(["query"])
    async with bench.running():
        await asyncio.sleep(0.3)
        assert bench.batches == []
        bench.retrievers.replace(newer.pair.deployed)
        bench.watcher.current.set()
        await until(lambda: bench.metrics.observations)
    assert newer.pair.deployed.encoder.batches == [["query"]]


async def test_a_new_label_of_the_service_asks_for_a_check(redis):
    """The first label is taken as it is; another one means that something was shipped; none says nothing."""
    bench = Bench(redis, batch_size=1)
    async with bench.running():
        for label, asked in (("v1", 0), (None, 0), ("v1", 0), ("v2", 1), ("v2", 1), ("v1", 2)):
            count = len(bench.metrics.observations)
            await bench.deliver(["query"], encoder=label)
            await until(lambda count=count: len(bench.metrics.observations) > count)
            assert bench.watcher.asked == asked, label


async def test_a_session_digest_is_stable_and_says_nothing(redis):
    """The same session has the same name in every replica, another one in another deployment, and never its own."""
    digests = {}
    for key, deployment in (("one", "test"), ("two", "test"), ("other", "elsewhere")):
        await redis.flushall()
        bench = Bench(redis, deployment=deployment)
        await bench.deliver(["a", "b"], session_id="user-4711")
        await bench.deliver(["c"], session_id="user-4712")
        await bench.deliver(["d"])
        async with bench.running():
            await until(lambda bench=bench: len(bench.metrics.observations) == 4)
        digests[key] = [one.session for one in bench.metrics.observations]
    first, second, third, none = digests["one"]
    assert first == second != third
    assert none is None
    assert "4711" not in first
    assert digests["two"] == digests["one"]
    assert digests["other"][0] != first
