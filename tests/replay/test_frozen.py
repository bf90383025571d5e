"""The frozen probes on real Redis: taken at acceptance, exactly still under no change, moved at the first replay.

The real encoder shows that the same question has the same answer. What a real one cannot do on demand (fail at a text,
jitter, be counted) is done by an encoder that turns texts into fixed random vectors, with a real exact index.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import structlog
from cryptography.fernet import Fernet

from sidecar.encoders.cache import CachedEncoder
from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load
from sidecar.errors import ConfigurationError, EncoderError, VectorIndexError
from sidecar.indexes.exact import ExactIndex
from sidecar.indexes.write import write_index
from sidecar.model import QueryEvent, Ranking
from sidecar.replay.frozen import FrozenOptions, FrozenProbes
from sidecar.replay.probe_book import TextKey
from sidecar.replay.retriever import Pair, Retriever, Retrievers
from sidecar.store import START, Store
from tests.replay.doubles import DIMENSION, fingerprint

DOCUMENTS = 40
WORDS = ("parcel", "invoice", "password", "holiday", "contract", "warehouse", "customer", "refund")
LEASE = "judge"


class Vectors:
    """An encoder of fixed random vectors; refuses texts with `poison` in them and counts what it encodes."""

    name = "vectors"
    dimension = DIMENSION

    def __init__(self, seconds: float = 0.0) -> None:
        self.asked: Counter[str] = Counter()
        self.steps = 0
        self._seconds = seconds

    def encode_queries(self, texts):
        """Give a unit row for each text."""
        self.asked.update(texts)
        self.steps += 1
        time.sleep(self._seconds)
        if any("poison" in text for text in texts):
            raise EncoderError("encoder double failed")
        return np.stack([_unit(text) for text in texts])

    def close(self):
        """Nothing to let go of."""


class Jittery:
    """An index that puts another document in the last place of one query in four, at random."""

    def __init__(self, index) -> None:
        self._index, self._random = index, np.random.default_rng(1)
        self.searched = 0

    def __getattr__(self, name):
        return getattr(self._index, name)

    def search(self, vectors, k):
        """Rank exactly, then stray."""
        self.searched += len(vectors)
        return [
            Ranking((*one.ids[:-1], self._index.ids[int(self._random.integers(DOCUMENTS))]))
            if self._random.random() < 0.25
            else Ranking(one.ids)
            for one in self._index.search(vectors, k)
        ]


class Broken:
    """An index that cannot be searched while `broken`."""

    def __init__(self, index) -> None:
        self._index, self.broken = index, False

    def __getattr__(self, name):
        return getattr(self._index, name)

    def search(self, vectors, k):
        """Rank, or not."""
        if self.broken:
            raise VectorIndexError("index double is broken")
        return self._index.search(vectors, k)


class Recorder:
    """Remembers what the probes tell."""

    def __init__(self) -> None:
        self.runs, self.times, self.failures, self.counts = [], [], [], (0, 0)

    def frozen_probes(self, total, awake):
        """Note the counts."""
        self.counts = (total, awake)

    def frozen_replayed(self, run, busy_seconds, seconds):
        """Note a run."""
        self.runs.append(run)
        self.times.append((busy_seconds, seconds))

    def frozen_failed(self, reason):
        """Note a failure."""
        self.failures.append(reason)


class Bench:
    """Frozen probes with what surrounds them; another one on the same Redis is a restart."""

    def __init__(self, redis, pair: Pair, **options) -> None:
        self.store = Store(redis, "test")
        self.retrievers = Retrievers(pair)
        self.accepted = (100.0, pair.stack)
        self.metrics = Recorder()
        self.executor = ThreadPoolExecutor(1)
        options = {"k": 3, "probes": 60, "every_seconds": 3600.0, "share": 1.0, **options}
        self.frozen = FrozenProbes(
            self.store,
            self.retrievers,
            FrozenOptions(**options),
            token=LEASE,
            accepted=lambda: self.accepted,
            executor=self.executor,
            metrics=self.metrics,
            log=structlog.get_logger(),
            now=itertools.count(500.0).__next__,
            look_seconds=0.01,
        )

    async def begin(self) -> Bench:
        """Take the lease and read what is kept, so that offers count."""
        assert await self.store.hold_lease(LEASE, 600)
        await self.frozen.load()
        return self

    def offer(self, texts) -> None:
        """Let queries come by."""
        for number, text in enumerate(texts):
            self.frozen.offer(QueryEvent(f"{number}-0", text, 10.0 + number, slice=f"slice {number % 3}"))

    @contextlib.asynccontextmanager
    async def running(self):
        """Run the task and cancel it at the end."""
        task = asyncio.create_task(self.frozen.run())
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.executor.shutdown(wait=False)

    async def runs(self, count: int):
        """Wait for so many replays."""
        await until(lambda: len(self.metrics.runs) >= count)
        return self.metrics.runs

    def exchange(self, index=None, *, role="deployed", encoder=None) -> None:
        """Put another index or encoder in the place of the one in use."""
        now = getattr(self.retrievers.pair, role)
        new = {"index": now.index if index is None else index, "encoder": now.encoder if encoder is None else encoder}
        self.retrievers.replace(replace(now, **new))


async def until(condition, seconds=60.0):
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def _unit(text: str):
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))
    row = random.standard_normal(DIMENSION)
    return (row / np.linalg.norm(row)).astype(np.float32)


def texts(count: int, start: int = 0) -> list[str]:
    """Give different queries."""
    return [f"what about {WORDS[number % 8]} number {number}" for number in range(start, start + count)]


def build(folder, *, documents=DOCUMENTS, changed=(), name="double") -> ExactIndex:
    """Write a real index; the vectors of `changed` documents are other ones."""
    rows = [_unit(f"document {number}{' changed' if number in changed else ''}") for number in range(documents)]
    ids = [f"d{number}" for number in range(documents)]
    write_index(folder, ids, np.stack(rows), encoder_name=name, fingerprint=fingerprint(name), now=1.0)
    return ExactIndex.open(folder)


@pytest.fixture
def pair(tmp_path) -> Pair:
    """Give two retrievers that agree."""
    index = build(tmp_path / "index")
    return Pair(
        *(
            Retriever(role, CachedEncoder(Vectors(), 0), index, fingerprint(role), index_matches=True)
            for role in ("deployed", "reference")
        )
    )


@pytest.fixture
def key(tmp_path) -> TextKey:
    """Give a key from a file."""
    (tmp_path / "key").write_bytes(Fernet.generate_key())
    return TextKey.read(tmp_path / "key")


@pytest.mark.slow
@pytest.mark.parametrize("redis_binary", ["redis-7-system"], indirect=True)  # encoding is what takes the time
async def test_no_change_is_exactly_one_and_a_new_model_moves_answers_with_the_real_encoder(redis, base, prompted):
    """The model replayed, and loaded again, gives every accepted answer again; with a query prompt it does not."""
    bench = await Bench(redis, Pair(base.retriever, replace(base.retriever, role="reference")), probes=50, k=2).begin()
    bench.offer(texts(50))
    # Live batches put vectors with other last bits into the cache; they must not become the probes'.
    base.retriever.encoder.encode_queries(texts(50))
    async with bench.running():
        await bench.runs(1)
        again = await asyncio.to_thread(load, SentenceTransformerOptions(str(base.model)))
        bench.exchange(encoder=CachedEncoder(again, 100))
        await bench.runs(2)
        bench.retrievers.replace(replace(base.retriever, encoder=prompted.retriever.encoder))
        *still, moved = await bench.runs(3)
    for run in still:
        assert (run.replayed, run.awake, run.total, run.state, run.worst) == (50, 50, 50, "/", ())
        for side in (run.deployed, run.reference):
            assert (side.moved, side.now.mean, side.known.mean, side.paired.effect) == (0, 1.0, 1.0, 0.0)
            assert (side.new_share, side.gone_share) == (0.0, 0.0)
    assert moved.deployed.moved > 0 > moved.deployed.paired.effect
    assert (moved.reference.moved, moved.reference.paired.effect) == (0, 0.0)
    assert moved.worst[0].deployed < 1.0 == moved.worst[0].reference
    assert [run for _, run in await bench.store.frozen_runs_after(START)] == [*still, moved]


async def test_one_changed_document_is_seen_at_once(redis, pair, tmp_path):
    """The exchange of an index in which one vector differs is replayed without waiting, and the first run shows it."""
    bench = await Bench(redis, pair).begin()
    bench.offer(texts(60))
    async with bench.running():
        still = (await bench.runs(1))[0]
        bench.exchange(build(tmp_path / "changed", changed=(7,)))
        moved = (await bench.runs(2))[1]
    assert still.still
    asked = [one.encode() for one in texts(60)]
    # By the exact search itself: which of the queries have other answers now.
    vectors = np.stack([_unit(one.decode()) for one in asked])
    old, new = (index.search(vectors, 3) for index in (pair.deployed.index, bench.retrievers.pair.deployed.index))
    expected = sum(one.ids != other.ids for one, other in zip(old, new, strict=True))
    assert moved.deployed.moved == expected > 0
    assert (moved.reference.moved, moved.deployed.new_share, moved.deployed.gone_share) == (0, 0.0, 0.0)
    assert moved.state != still.state
    assert moved.stack.deployed_index != still.stack.deployed_index


async def test_growth_of_the_corpus_is_told_from_decay(redis, pair, tmp_path):
    """Documents that were not there at acceptance take places, and the known ones keep theirs exactly."""
    bench = await Bench(redis, pair).begin()
    bench.offer(texts(60))
    async with bench.running():
        await bench.runs(1)
        bench.exchange(build(tmp_path / "grown", documents=DOCUMENTS + 10))
        run = (await bench.runs(2))[1]
    assert run.deployed.moved > 0
    assert run.deployed.now.mean < 1.0
    assert run.deployed.new_share > 0
    assert (run.deployed.known.mean, run.deployed.paired.effect, run.deployed.gone_share) == (1.0, 0.0, 0.0)


async def test_encrypted_probes_are_awake_after_a_restart(redis, pair, key):
    """With the texts kept, a new process replays all probes before a single query has come by."""
    first = await Bench(redis, pair, encrypted=True, key=key).begin()
    first.offer(texts(60))
    async with first.running():
        await first.runs(1)
    second = await Bench(redis, pair, encrypted=True, key=key).begin()
    async with second.running():
        run = (await second.runs(1))[0]
    assert (run.replayed, run.state) == (60, "/")
    assert second.metrics.counts == (60, 60)


async def test_probes_without_texts_sleep_until_their_query_comes_by(redis, pair):
    """After a restart nothing is replayed, then what the live stream has asked again, against the same answers."""
    first = await Bench(redis, pair).begin()
    first.offer(texts(60))
    async with first.running():
        await first.runs(1)
    kept = await first.store.frozen_id()
    second = await Bench(redis, pair, every_seconds=0.05).begin()
    async with second.running():
        await until(lambda: second.frozen.state == "waiting_for_texts")
        assert second.metrics.counts == (60, 0)
        second.offer([*texts(20), "never asked before"])
        runs = await second.runs(3)
    assert (runs[-1].total, runs[-1].awake, runs[-1].replayed, runs[-1].state) == (60, 20, 20, "/")
    assert await second.store.frozen_id() == kept


async def test_a_reload_of_the_settings_keeps_every_probe_awake(redis, pair, key):
    """The successor has the texts of its predecessor, and nothing is encoded again; with another key it has none."""
    first = await Bench(redis, pair).begin()
    first.offer(texts(60))
    async with first.running():
        await first.runs(1)
    steps = pair.deployed.encoder.encoder.steps
    second = Bench(redis, pair, share=0.5)
    second.frozen.adopt(first.frozen)
    await second.begin()
    async with second.running():
        assert (await second.runs(1))[0].replayed == 60
    assert second.frozen.awake_texts() == first.frozen.awake_texts() != []
    assert pair.deployed.encoder.encoder.steps == steps
    third = Bench(redis, pair, key=key)
    third.frozen.adopt(first.frozen)
    assert third.frozen.awake_texts() == []


async def test_a_wrong_key_ends_the_task_with_the_reason(redis, pair, key, tmp_path):
    """Probes of another key file are not thrown away: the operator is told."""
    bench = await Bench(redis, pair, encrypted=True, key=key).begin()
    bench.offer(texts(60))
    async with bench.running():
        await bench.runs(1)
    (tmp_path / "other").write_bytes(Fernet.generate_key())
    for wrong in ({"encrypted": True, "key": TextKey.read(tmp_path / "other")}, {}):
        with pytest.raises(ConfigurationError, match=f"frozen.key_file: .* key {key.name}"):
            await Bench(redis, pair, **wrong).frozen.run()


@pytest.mark.parametrize("encrypted", [True, False])
async def test_no_text_is_in_redis_or_in_the_log(redis, pair, key, tmp_path, encrypted):
    """Neither a word of a query nor the key is readable anywhere, also where a text made the encoder fail."""
    asked = [*texts(58), "the poison of señora Ibáñez", "tell me the secret combination"]
    with structlog.testing.capture_logs() as logs:
        bench = await Bench(redis, pair, encrypted=encrypted, key=key if encrypted else None).begin()
        bench.offer(asked)
        async with bench.running():
            await bench.runs(1)
            bench.exchange(build(tmp_path / "changed", changed=(7, 8, 9)))
            await bench.runs(2)
    everything = (await dump(redis) + repr(logs).encode() + repr(bench.metrics.runs).encode()).lower()
    words = {word.lower() for text in asked for word in text.split() if len(word) > 3 and word not in {"about", "tell"}}
    assert [word for word in words if word.encode() in everything and word != "number"] == []
    assert (tmp_path / "key").read_bytes() not in everything
    assert b"frozen" in everything
    assert b"d17" in everything  # the scan does see what is in there


async def dump(redis) -> bytes:
    """Read every key of every kind, inflating what is deflated."""
    found = []
    for name in await redis.keys("*"):
        found.append(name)
        match await redis.type(name):
            case b"hash":
                found += [part for pair in (await redis.hgetall(name)).items() for part in pair]
            case b"stream":
                found += [part for _, entry in await redis.xrange(name) for pair in entry.items() for part in pair]
            case b"string":
                found.append(await redis.get(name))
            case other:
                raise AssertionError(other)
    for part in list(found):
        with contextlib.suppress(zlib.error):
            found.append(zlib.decompress(part))
    return b"\n".join(found)


@pytest.mark.slow
async def test_live_work_goes_on(redis, pair):
    """Live queries wait for at most the step under way, and the probes take no more than their share of the time."""
    slow = Vectors(seconds=0.002)
    bench = Bench(redis, replace(pair, deployed=replace(pair.deployed, encoder=CachedEncoder(slow, 0))), share=0.2)
    await bench.begin()
    bench.offer(texts(60))
    loop = asyncio.get_running_loop()
    waited: list[int] = []
    async with bench.running():
        while not bench.metrics.runs:
            steps = bench.frozen._asker.steps
            after = await loop.run_in_executor(bench.executor, lambda: bench.frozen._asker.steps)
            waited.append(after - steps)
            await asyncio.sleep(0.001)
    assert max(waited) <= 1
    assert len(waited) > 20
    # Each step of t seconds is followed by a pause of at least 4 t.
    assert bench.metrics.times[0][0] <= 0.2 * bench.metrics.times[0][1]


async def test_nothing_is_done_while_another_replica_judges(redis, pair):
    """Without a verdict of ours nothing is frozen; without the lease nothing that we freeze is written."""
    bench = await Bench(redis, pair).begin()
    stack = bench.accepted
    bench.accepted = None
    bench.offer(texts(60))
    async with bench.running():
        await asyncio.sleep(0.1)
        assert bench.frozen.state == "not_judging"
        assert pair.deployed.encoder.encoder.steps == 0
        await bench.store.release_lease(LEASE)
        await bench.store.hold_lease("another", 600)
        bench.accepted = stack
        await until(lambda: bench.frozen.state == "freezing")
        await asyncio.sleep(0.1)
    assert await bench.store.frozen_id() == ""
    assert await bench.store.frozen_runs_after(START) == []


async def test_probes_are_taken_only_from_the_accepted_stack(redis, pair, tmp_path):
    """While another stack is in use nothing is frozen; a new acceptance takes new answers."""
    bench = await Bench(redis, pair).begin()
    original = pair.deployed.index
    bench.exchange(build(tmp_path / "changed", changed=range(20)))
    bench.offer(texts(60))
    async with bench.running():
        await until(lambda: bench.frozen.state == "waiting_for_accepted_stack")
        await asyncio.sleep(0.05)
        assert await bench.store.frozen_id() == ""
        bench.exchange(original)
        await bench.runs(1)
        first = await bench.store.frozen_id()
        bench.exchange(build(tmp_path / "changed", changed=range(20)))
        moved = (await bench.runs(2))[1]
        bench.accepted = (200.0, bench.retrievers.pair.stack)
        await until(lambda: bench.metrics.runs[-1].accepted_at == 200.0)
    assert not moved.still
    assert bench.metrics.runs[-1].still
    assert await bench.store.frozen_id() != first


async def test_too_few_queries_are_waited_for(redis, pair):
    """Forty queries are no probes; with fifty they are frozen, and with more they grow to the number wanted."""
    bench = await Bench(redis, pair, every_seconds=0.02).begin()
    bench.offer(texts(40))
    async with bench.running():
        await until(lambda: bench.frozen.state == "waiting_for_queries")
        bench.offer(texts(52))
        assert (await bench.runs(1))[0].total == 52
        bench.offer(texts(200))
        await until(lambda: bench.metrics.runs[-1].total == 60)
    assert all(run.still for run in bench.metrics.runs)


async def test_probes_do_not_grow_while_anything_has_moved(redis, pair, tmp_path):
    """What is in use is not the proven accepted state then, even if it goes by the same names."""
    bench = await Bench(redis, pair, every_seconds=0.02).begin()
    bench.offer(texts(50))
    async with bench.running():
        await bench.runs(1)
        damaged = build(tmp_path / "changed", changed=(7,))
        damaged.manifest = pair.deployed.index.manifest  # the generation does not give it away
        bench.exchange(damaged)
        bench.offer(texts(200))
        await until(lambda: not bench.metrics.runs[-1].still)
        seen = len(bench.metrics.runs)
        runs = await bench.runs(seen + 3)
    assert {run.total for run in runs[seen:]} == {50}
    assert not runs[-1].still


async def test_sleeping_probes_make_room_for_new_ones(redis, pair):
    """After a restart without texts the probes that nobody asks for are replaced, once those awake prove the stack."""
    first = await Bench(redis, pair).begin()
    first.offer(texts(60))
    async with first.running():
        await first.runs(1)
    second = await Bench(redis, pair, every_seconds=0.02).begin()
    second.offer(texts(50))
    async with second.running():
        await second.runs(1)
        assert second.metrics.runs[0].awake == 50
        second.offer(texts(6, start=1000))
        await until(lambda: second.metrics.runs[-1].awake == 56)
    assert second.metrics.runs[-1].total == 60
    assert all(run.still for run in second.metrics.runs)


async def test_a_text_that_cannot_be_encoded_costs_itself_only(redis, pair):
    """It is no probe; the others are."""
    bench = await Bench(redis, pair).begin()
    bench.offer([*texts(55), "poison"])
    async with bench.running():
        assert (await bench.runs(1))[0].total == 55
    assert bench.metrics.failures == []


async def test_a_failed_replay_leaves_the_last_result_in_place(redis, pair):
    """An index that cannot be searched is counted and tried again; the last complete run stays what it was."""
    index = Broken(pair.deployed.index)
    bench = Bench(redis, replace(pair, deployed=replace(pair.deployed, index=index)), every_seconds=0.02)
    await bench.begin()
    bench.offer(texts(60))
    async with bench.running():
        await bench.runs(1)
        index.broken = True
        await until(lambda: "VectorIndexError" in bench.metrics.failures)
        last, done = bench.frozen.last, len(bench.metrics.runs)
        await asyncio.sleep(0.05)
        assert bench.frozen.last is last
        assert len(bench.metrics.runs) == done
        index.broken = False
        await bench.runs(done + 1)


@pytest.mark.slow
async def test_a_replay_is_abandoned_when_a_retriever_is_exchanged(redis, pair, tmp_path):
    """No run mixes answers of two stacks: the one under way is given up, and the next is of the new stack alone."""
    bench = await Bench(redis, pair).begin()
    bench.offer(texts(60))
    async with bench.running():
        await bench.runs(1)
        slow = Vectors(seconds=0.02)
        bench.exchange(role="reference", encoder=CachedEncoder(slow, 0))
        await until(lambda: slow.steps > 3)
        bench.exchange(build(tmp_path / "changed", changed=(7,)))
        assert slow.steps < 60
        runs = await bench.runs(2)
    assert len(runs) == 2
    assert runs[1].stack == bench.retrievers.pair.stack
    assert runs[1].deployed.moved > 0 == runs[1].reference.moved


async def test_an_approximate_index_gets_a_noise_floor(redis, pair):
    """Where asking twice gives two answers, twenty more repetitions measure the jitter; an exact side has none."""
    index = Jittery(pair.deployed.index)
    bench = await Bench(redis, replace(pair, deployed=replace(pair.deployed, index=index))).begin()
    bench.offer(texts(60))
    async with bench.running():
        run = (await bench.runs(1))[0]
    assert index.searched == 60 * (2 + 20 + 1)
    assert pair.reference.encoder.encoder.asked.total() == 2 * 60
    # A quarter of the queries stray; the accepted answers and the repeated ones do so each by itself, which costs
    # 1/3 of the overlap unless the same document comes up: level about 1 - (1 - .75^2) / 3 = .854 or a bit more.
    assert 0.8 < run.deployed.floor.mean < 0.93
    assert run.deployed.floor.sd > 0
    assert run.deployed.paired.jitter is not None
    # Bernstein's bound says that this replay is what the index does by itself.
    assert run.deployed.paired.jitter > 0.001
    assert (run.reference.floor.mean, run.reference.floor.sd, run.reference.paired.jitter) == (1.0, 0.0, None)


async def test_probes_that_were_deleted_or_damaged_are_taken_again(redis, pair):
    """Deleting the key in Redis is how an operator starts afresh; what cannot be read is replaced as well."""
    bench = await Bench(redis, pair).begin()
    bench.offer(texts(60))
    async with bench.running():
        await bench.runs(1)
        await redis.delete(bench.store.keys.frozen)
        await bench.runs(2)
        await redis.hset(bench.store.keys.frozen, mapping={"id": "damaged", "header": "{"})
        await bench.runs(3)
    restarted = await Bench(redis, pair).begin()
    assert (len(restarted.frozen._texts), len(restarted.frozen._asleep)) == (0, 60)


async def test_two_deployments_name_a_text_differently(redis, pair):
    """Without a key file the digests of each deployment have a salt of their own."""
    bench = await Bench(redis, pair).begin()
    other = Bench(redis, pair)
    other.frozen._store = Store(redis, "another")
    await other.frozen.load()
    assert bench.frozen._key.digest("x") != other.frozen._key.digest("x")


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"encrypted": True}, "needs frozen.key_file"),
        ({"probes": 49}, "at least 50"),
        ({"share": 0.0}, "above 0 and at most 1"),
        ({"every_seconds": 0.0}, "above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, rule):
    """The message names the setting and the rule."""
    with pytest.raises(ConfigurationError, match=rule):
        FrozenOptions(**options)
