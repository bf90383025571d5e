"""The canaries on real Redis: when they run, what they compare with what, and what a failure leaves behind.

The real encoder shows that live queries are not held up. What a real one cannot do on demand (die at a text, wait for
the test, be counted) is done by an encoder that gives every word a fixed random vector, with real exact indexes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry

from sidecar import redis_shapes
from sidecar.encoders.cache import CachedEncoder
from sidecar.encoders.fingerprint import SENTINELS, Fingerprint
from sidecar.errors import EncoderError
from sidecar.exporter.canary_metrics import CanaryMetrics
from sidecar.indexes.exact import ExactIndex
from sidecar.indexes.write import write_index
from sidecar.model import Ranking
from sidecar.probesets.library import Library, find_sets
from sidecar.probesets.manifest import Manifest
from sidecar.probesets.measure import batches
from sidecar.probesets.read import ProbeSet, Query, Triple
from sidecar.redis_edge import connect
from sidecar.replay.canaries import Canaries, CanaryOptions
from sidecar.replay.retriever import Pair, Retriever, Retrievers
from sidecar.store import START, Store
from tests.replay.test_frozen import Broken, dump, until

pytestmark = pytest.mark.parametrize("redis_binary", ["redis-7-system"], indirect=True)
"""What the servers differ in is tested with the store."""

DIMENSION = 32
LEASE = "judge"
DOMAINS = ("law", "pets")
QUERIES = 12
HOUR = 3600.0


class Words:
    """An encoder of bags of words; `noise` is added to each text, `gate` waited at, after `left` texts it is dead."""

    name = "words"
    dimension = DIMENSION

    def __init__(self, noise: float = 0.0, *, seconds: float = 0.0, gate: threading.Event | None = None) -> None:
        self.asked: Counter[str] = Counter()
        self.steps = 0
        self.left: int | None = None
        self.poison: str | None = None
        self.gate = gate
        self._noise, self._seconds = noise, seconds

    def encode_queries(self, texts):
        """Give a unit row for each text."""
        self.steps += 1
        self.asked.update(texts)
        time.sleep(self._seconds)
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.left is not None:
            self.left -= len(texts)
            if self.left < 0:
                raise EncoderError("encoder double is dead")
        if self.poison is not None and any(self.poison in text for text in texts):
            raise EncoderError("encoder double cannot take a text")
        return np.stack([self._vector(text) for text in texts])

    encode_documents = encode_queries

    def close(self):
        """Nothing to let go of."""

    def _vector(self, text):
        row = np.sum([_random(word) for word in text.split()], axis=0)
        row = row / np.linalg.norm(row) + self._noise * _random(f"noise of {text}")
        return (row / np.linalg.norm(row)).astype(np.float32)


class Jittery:
    """An index that never gives the same order twice."""

    def __init__(self, index) -> None:
        self._index, self._random = index, np.random.default_rng(1)

    def __getattr__(self, name):
        return getattr(self._index, name)

    def search(self, vectors, k):
        """Rank exactly, then shuffle."""
        return [Ranking(tuple(self._random.permutation(one.ids))) for one in self._index.search(vectors, k)]


class Recorder(CanaryMetrics):
    """The real instruments, and a note of every call."""

    def __init__(self, registry) -> None:
        super().__init__(registry)
        self.runs, self.times, self.failures = [], [], []

    def canaries_ran(self, run, busy_seconds, seconds):
        """Note a run."""
        super().canaries_ran(run, busy_seconds, seconds)
        self.runs.append(run)
        self.times.append((busy_seconds, seconds))

    def canaries_failed(self, reason):
        """Note a failure."""
        super().canaries_failed(reason)
        self.failures.append(reason)


class Bench:
    """Canaries with what surrounds them; another one on the same Redis is a restart."""

    def __init__(self, redis, pair: Pair, library: Library, *, accepted=None, token=LEASE, **options) -> None:
        self.store = Store(redis, "test")
        self.retrievers = Retrievers(pair)
        self.accepted = (100.0, pair.stack) if accepted is None else accepted
        self.on_duty = True
        self.token = token
        self.registry = CollectorRegistry()
        self.metrics = Recorder(self.registry)
        self.executor = ThreadPoolExecutor(1)
        self._skipped = 0.0
        self.canaries = Canaries(
            self.store,
            self.retrievers,
            library,
            CanaryOptions(**{"share": 1.0, "every_seconds": HOUR, **options}),
            token=token,
            on_duty=lambda: self.on_duty,
            accepted=lambda: self.accepted,
            executor=self.executor,
            metrics=self.metrics,
            log=structlog.get_logger(),
            now=itertools.count(500.0).__next__,
            clock=lambda: time.monotonic() + self._skipped,
            look_seconds=0.005,
        )

    def skip(self, seconds: float) -> None:
        """Let time pass for the schedule."""
        self._skipped += seconds

    @contextlib.asynccontextmanager
    async def running(self):
        """Hold the lease, run the task, and cancel it at the end."""
        await self.store.hold_lease(self.token, 600)
        task = asyncio.create_task(self.canaries.run())
        try:
            yield task
            assert not task.done()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.executor.shutdown(wait=False)

    async def runs(self, count: int):
        """Wait for so many runs."""
        await until(lambda: len(self.metrics.runs) >= count)
        return self.metrics.runs

    async def settled(self):
        """Wait until nothing is due, and give the last run; a change is told before that."""
        seen = len(self.metrics.runs)
        await until(lambda: len(self.metrics.runs) > seen)
        await until(lambda: self.canaries.state == "waiting")
        return self.metrics.runs[-1]

    def exchange(self, role="deployed", name=None, *, encoder=None, index=None) -> None:
        """Put another encoder of this fingerprint, or another index, in the place of the one in use."""
        now = getattr(self.retrievers.pair, role)
        if encoder is not None:
            now = replace(now, encoder=CachedEncoder(encoder, 0))
        if name is not None:
            now = replace(now, fingerprint=fingerprint(name))
        self.retrievers.replace(replace(now, index=now.index if index is None else index))

    def value(self, name, **labels):
        """Give one number of the metrics."""
        return self.registry.get_sample_value(f"rag_drift_canary_{name}", labels)

    async def kept(self) -> set[str]:
        """Name the results that are kept."""
        return {name.decode() for name in await self.store.redis.hkeys(self.store.keys.canaries)}

    async def written(self):
        """Give the runs that are kept."""
        return [run for _, run in await self.store.canaries.runs_after(START)]


@cache
def _random(text: str):
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])).standard_normal(DIMENSION)


def fingerprint(name: str) -> Fingerprint:
    """Give a fingerprint of this name."""
    vectors = np.zeros((SENTINELS, DIMENSION), dtype=np.float32)
    return Fingerprint(name.ljust(12, "0"), name.ljust(12, "0"), vectors, vectors.copy())


def _query(domain: str, number: int) -> str:
    return f"{domain}{number} matter{number} asked {domain}"


def labelled(name="questions", checksum="first", *, corpus=True) -> ProbeSet:
    """Give a labelled set; each query has one relevant document, and one that shares a word."""
    queries = tuple(Query(f"{domain}-{i}", _query(domain, i), domain) for domain in DOMAINS for i in range(QUERIES))
    documents = {f"doc {one.id}": f"{one.text} answered" for one in queries}
    documents |= {f"other {one.id}": f"{one.text.split()[1]} elsewhere" for one in queries}
    return ProbeSet(
        name,
        Path(name),
        Manifest(kind="retrieval", version=1, language="en", licence="none", source="a test"),
        checksum,
        corpus=documents if corpus else None,
        queries=queries,
        judgements={one.id: {f"doc {one.id}": 1.0} for one in queries},
    )


def paired(name="pairs", checksum="first") -> ProbeSet:
    """Give a composition set."""
    triples = tuple(
        Triple(f"{kind}-{i}", f"the {kind} one{i} two{i}", f"a {kind} one{i} three{i}", f"not one{i} two{i}", kind)
        for kind in ("negation", "role_swap")
        for i in range(QUERIES)
    )
    phenomena = ("negation", "role_swap")
    manifest = Manifest(
        kind="composition", version=1, language="en", licence="none", source="a test", phenomena=phenomena
    )
    return ProbeSet(name, Path(name), manifest, checksum, triples=triples)


def library(*sets: ProbeSet, aside=()) -> Library:
    """Give a library of these sets."""
    return Library(sets or (paired(), labelled()), tuple(aside))


def texts(*sets: ProbeSet) -> list[str]:
    """Give every text that a run puts to an encoder."""
    found = []
    for one in sets:
        found += [query.text for query in one.queries] + list((one.corpus or {}).values())
        found += [text for triple in one.triples for text in (triple.anchor, triple.paraphrase, triple.near_miss)]
    return found


def build(folder, *, without=(), more=(), name="base", noise=0.0) -> ExactIndex:
    """Write a real index of the labelled set's documents without some, and with `more` texts."""
    documents = {one: text for one, text in labelled().corpus.items() if one not in without}
    documents |= {f"new {i}": text for i, text in enumerate(more)}
    vectors = Words(noise).encode_documents(list(documents.values()))
    write_index(folder, list(documents), vectors, encoder_name=name, fingerprint=fingerprint(name), now=1.0)
    return ExactIndex.open(folder)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> ExactIndex:
    """Give an index of the labelled set's documents."""
    return build(tmp_path_factory.mktemp("index") / "index")


@pytest.fixture
def pair(index) -> Pair:
    """Give a deployed and a reference encoder that do the same under different fingerprints."""
    return Pair(
        *(
            Retriever(role, CachedEncoder(Words(), 0), index, fingerprint(name), index_matches=True)
            for role, name in (("deployed", "base"), ("reference", "reference"))
        )
    )


def asked(pair: Pair, role: str) -> Counter[str]:
    """Count what was put to an encoder."""
    return getattr(pair, role).encoder.encoder.asked


def changes(run, against: str, kind: str = "retrieval"):
    """Give the changes of the first set of a kind: those of `all`, then of each domain or phenomenon."""
    return getattr(run, kind)[0].changes[against]


async def test_without_a_change_every_difference_is_exactly_zero(redis, pair):
    """Against the reference and against the accepted stack: no interval, no moved query, the name is `unchanged`."""
    bench = Bench(redis, pair, library())
    async with bench.running():
        last = await bench.settled()
    assert [run.accepted_at for run in bench.metrics.runs] == [100.0, 100.0]
    assert last.stack == pair.stack
    for run, against in itertools.product(bench.metrics.runs, ("reference", "accepted")):
        assert [one.domain for one in changes(run, against)] == ["all", *DOMAINS]
        for one in changes(run, against):
            assert (one.moved, one.overlap) == (0, 1.0)
            for measure in one.measures.values():
                assert (measure.effect, measure.moved, measure.lower, measure.spread) == (0.0, 0, None, 0.0)
        assert {(one.moved, one.sensitivity, one.auc) for one in changes(run, against, "composition")} == {
            (0, 0.0, 0.0)
        }
    assert {signature.name for _, _, signature in last.findings} == {"unchanged"}
    assert await bench.written() == bench.metrics.runs
    assert last.retrieval[0].means["deployed"]["all"]["ndcg@10"] > 0.8


async def test_they_run_at_the_start_twice_and_then_on_schedule(redis, pair):
    """The first run is confirmed at once, since two in a row page; the next one comes after its hour, alone."""
    bench = Bench(redis, pair, library())
    async with bench.running():
        await bench.settled()
        assert len(bench.metrics.runs) == 2
        bench.skip(HOUR - 60)
        await asyncio.sleep(0.05)
        assert len(bench.metrics.runs) == 2
        bench.skip(120)
        await bench.settled()
        await asyncio.sleep(0.05)
        assert len(bench.metrics.runs) == 3


@pytest.mark.parametrize("what", ["deployed encoder", "reference encoder", "index", "acceptance", "calibration"])
async def test_they_run_at_once_when_something_is_exchanged(redis, pair, what, tmp_path):
    """A new encoder, index or baseline is not kept waiting for an hour."""
    bench = Bench(redis, pair, library())
    async with bench.running():
        await bench.settled()
        match what:
            case "deployed encoder":
                bench.exchange(name="tuned", encoder=Words(0.2))
            case "reference encoder":
                bench.exchange("reference", name="another", encoder=Words(0.2))
            case "index":
                bench.exchange(index=build(tmp_path / "grown", more=["a new text"]))
            case "acceptance":
                bench.accepted = (200.0, pair.stack)
            case "calibration":
                bench.accepted = None
        run = await bench.settled()
    assert run.stack == bench.retrievers.pair.stack
    assert run.accepted_at == (bench.accepted[0] if bench.accepted else None)
    assert ("accepted" in run.retrieval[0].changes) == (what != "calibration")


async def test_the_reference_is_asked_once_for_its_fingerprint_and_the_sets_content(redis, pair):
    """Not again by the next runs, after a restart or for a new deployed encoder; once more for another content."""
    sets = paired(), labelled()
    first = Bench(redis, pair, library(*sets))
    async with first.running():
        await first.settled()
        first.exchange(name="tuned", encoder=Words(0.2))
        await first.settled()
    assert asked(pair, "reference") == Counter(texts(*sets))
    assert asked(pair, "deployed") == Counter(2 * texts(*sets))
    fresh = replace(pair, reference=replace(pair.reference, encoder=CachedEncoder(Words(), 0)))
    second = Bench(redis, fresh, library(*sets))
    async with second.running():
        await second.settled()
    assert asked(fresh, "reference") == Counter()
    changed = labelled(checksum="second")
    third = Bench(redis, fresh, library(sets[0], changed))
    async with third.running():
        await third.settled()
    assert asked(fresh, "reference") == Counter(texts(changed))


async def test_an_acceptance_asks_nobody_again_and_a_new_duty_does(redis, pair):
    """What was just asked of an encoder that is still there holds for another baseline, but not after a time away."""
    bench = Bench(redis, pair, library())
    async with bench.running():
        await bench.settled()
        bench.accepted = (200.0, pair.stack)
        run = await bench.settled()
        assert (run.accepted_at, asked(pair, "deployed")) == (200.0, Counter(2 * texts(*library().sets)))
        bench.on_duty = False
        await until(lambda: bench.canaries.state == "not_judging")
        bench.on_duty = True
        await bench.settled()
        assert asked(pair, "deployed") == Counter(3 * texts(*library().sets))


async def test_results_of_another_content_are_never_compared(redis, pair):
    """After a swap of encoder and set together nobody knows what the accepted stack scores: nothing is said of it."""
    first = Bench(redis, pair, library())
    async with first.running():
        await first.settled()
    tuned = replace(pair.deployed, encoder=CachedEncoder(Words(0.2), 0), fingerprint=fingerprint("tuned"))
    second = Bench(redis, replace(pair, deployed=tuned), library(paired(), labelled(checksum="second")))
    second.accepted = first.accepted
    async with second.running():
        run = await second.settled()
    assert set(run.retrieval[0].changes) == {"reference"}
    assert set(run.composition[0].changes) == {"reference", "accepted"}


async def test_the_accepted_stack_is_held_against_though_it_is_gone(redis, pair):
    """Its result is found by its digest after the swap, the same after a restart, and is met again on the way back."""
    first = Bench(redis, pair, library())
    async with first.running():
        before = await first.settled()
        first.exchange(name="tuned", encoder=Words(0.2))
        fallen = await first.settled()
    for one in changes(fallen, "accepted"):
        assert one.leading.effect < 0.0 < one.moved
        assert one.leading.before == before.retrieval[0].means["deployed"][one.domain]["ndcg@10"]
    second = Bench(redis, first.retrievers.pair, library(), accepted=first.accepted)
    async with second.running():
        again = await second.settled()
        second.exchange(name="base", encoder=Words())
        back = await second.settled()
    assert replace(again, at=0.0) == replace(fallen, at=0.0)
    assert {one.leading.effect for one in changes(back, "accepted")} == {0.0}


async def test_the_same_fingerprint_with_other_numbers_is_a_change(redis, pair):
    """The first result under a name stays: a fault that the fingerprint does not see is not measured against itself."""
    bench = Bench(redis, pair, library())
    async with bench.running():
        await bench.settled()
        bench.exchange(encoder=Words(0.2))
        run = await bench.settled()
    assert run.stack == pair.stack
    assert changes(run, "accepted")[0].leading.effect < 0.0


async def test_another_processor_is_no_change(redis, pair):
    """The last bits of a vector hang on the machine; after a move to another one nothing has another name."""
    bench = Bench(redis, pair, library())
    async with bench.running():
        await bench.settled()
        bench.exchange(encoder=Words(2e-8))
        run = await bench.settled()
    one, *_ = changes(run, "accepted", "composition")
    assert (one.now.near_miss != one.before.near_miss, one.moved, one.sensitivity) == (True, 0, 0.0)
    assert {signature.name for _, _, signature in run.findings} == {"unchanged"}


async def test_an_exchange_in_the_middle_of_a_run_gives_it_up(redis, pair):
    """No run mixes two stacks: what was under way is written nowhere, and the next one is of the new stack alone."""
    gate = threading.Event()
    slow = Words(gate=gate)
    bench = Bench(redis, replace(pair, deployed=replace(pair.deployed, encoder=CachedEncoder(slow, 0))), library())
    async with bench.running():
        await until(lambda: slow.steps == 1)
        bench.exchange(name="tuned", encoder=Words(0.2))
        gate.set()
        await bench.settled()
    assert slow.steps == 1
    assert {run.stack for run in await bench.written()} == {bench.retrievers.pair.stack}
    assert "tuned" not in repr(pair.stack)
    # What is kept is of the new encoder and the reference: nothing is known of the accepted one.
    digests = {fingerprint(name).digest for name in ("tuned", "reference")}
    assert {name.split("/")[3] for name in await bench.kept()} == digests
    assert set(bench.metrics.runs[-1].retrieval[0].changes) == {"reference"}


async def test_an_exchange_after_the_last_step_gives_the_run_up_too(redis, pair):
    """Between the last answer and the writing of the run there is work as well."""
    bench = Bench(redis, pair, library())
    keep = bench.store.canaries.keep_scores

    async def swap_at_the_last(token, key, scores):
        if "/questions/" in key:
            bench.exchange(name="tuned", encoder=Words(0.2))
            bench.store.canaries.keep_scores = keep
        return await keep(token, key, scores)

    async with bench.running():
        await bench.settled()
        bench.store.canaries.keep_scores = swap_at_the_last
        bench.skip(HOUR)
        await bench.settled()
    tuned = fingerprint("tuned").digest
    assert [run.stack.deployed_encoder == tuned for run in await bench.written()] == [False, False, True, True]


@pytest.mark.parametrize("texts_left", [0, 30, 130])
async def test_an_encoder_that_dies_leaves_the_last_run_as_it_was(redis, pair, texts_left):
    """Scores, their time and the last run stay and the failure is counted; when it is back, it is asked again."""
    encoder = pair.deployed.encoder.encoder
    bench = Bench(redis, pair, library())
    async with bench.running():
        last = await bench.settled()
        shown = list(bench.registry.collect())
        encoder.left = texts_left
        bench.skip(HOUR)
        await until(lambda: len(bench.metrics.failures) == 1)
        assert bench.canaries.last is last
        assert await bench.written() == bench.metrics.runs
        assert bench.value("last_run_timestamp_seconds", probe_set="questions") == last.at
        now = [one for one in bench.registry.collect() if one.name != "rag_drift_canary_failures"]
        # Compared as text: NaN is not equal to itself.
        assert repr(now) == repr([one for one in shown if one.name != "rag_drift_canary_failures"])
        bench.skip(10)
        await until(lambda: len(bench.metrics.failures) == 2)
        encoder.left = None
        bench.skip(10)
        assert (await bench.settled()).state == last.state
    assert bench.metrics.failures == ["EncoderError"] * 2
    assert bench.value("failures_total", reason="EncoderError") == 2.0


async def test_a_dead_encoder_is_asked_less_and_less_often_and_its_successor_at_once(redis, pair):
    """The wait between tries grows up to the schedule's; an exchange does not wait for it."""
    pair.deployed.encoder.encoder.left = 0
    bench = Bench(redis, pair, library())
    async with bench.running():
        for tries in range(1, 9):
            await until(lambda tries=tries: len(bench.metrics.failures) == tries)
            bench.skip(0.1 * 2**tries)
        dead = Words()
        dead.left = 0
        bench.exchange(name="dead as well", encoder=dead)
        # For the new one the waits are short again: 0.1 and 0.2 seconds, and not half a minute.
        seen = len(bench.metrics.failures)
        await until(lambda: len(bench.metrics.failures) >= seen + 3, seconds=15)
        bench.exchange(name="good", encoder=Words())
        run = await bench.settled()
    assert run.stack.deployed_encoder == fingerprint("good").digest
    assert set(bench.metrics.failures) == {"EncoderError"}


async def test_a_bad_set_is_set_aside_and_the_others_run(redis, pair, tmp_path):
    """A broken line, a corpus that is too large, judgements of another index: each is counted once for all runs."""
    folder = tmp_path / "broken"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "fine"}\n{"_id": \n', encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("q\td\t1\n", encoding="utf-8")
    broken = find_sets([], [folder]).aside
    foreign = replace(labelled("foreign", corpus=False), judgements={"law-0": {"nobody's": 1.0}})
    foreign = replace(foreign, queries=foreign.queries[:1])
    large = labelled("large")
    large = replace(large, corpus={**large.corpus, "one more": "a text"})
    sets = library(foreign, large, paired(), labelled(), aside=broken)
    bench = Bench(redis, pair, sets, most_documents=48)
    with structlog.testing.capture_logs() as logs:
        async with bench.running():
            await bench.settled()
            bench.skip(HOUR)
            run = await bench.settled()
    assert [one.set.name for one in (*run.retrieval, *run.composition)] == ["questions", "pairs"]
    told = {line["probe_set"]: line["reason"] for line in logs if line["event"] == "probe_set_aside"}
    assert len([line for line in logs if line["event"] == "probe_set_aside"]) == 3
    assert "queries.jsonl, line 2" in told["broken"]
    assert "49 documents; rule: at most 48" in told["large"]
    assert "none of its judged documents" in told["foreign"]
    assert {name: bench.value("set_errors_total", probe_set=name) for name in told} == dict.fromkeys(told, 1.0)
    assert bench.value("set_errors_total", probe_set="questions") == 0.0
    assert bench.value("sets", state="set_aside") == 3.0
    assert (bench.metrics.failures, len(bench.metrics.runs)) == ([], 3)


async def test_without_a_usable_set_nothing_is_run(redis, pair):
    """Neither a run nor an error: there is nothing to ask."""
    foreign = replace(labelled(corpus=False), judgements={one.id: {"x": 1.0} for one in labelled().queries})
    bench = Bench(redis, pair, library(foreign))
    async with bench.running():
        await until(lambda: bench.canaries.state == "no_sets")
    assert (await bench.written(), bench.metrics.failures) == ([], [])


class TestAProductionIndex:
    """A set without a corpus asks the deployed retriever, whose corpus lives."""

    async def test_growth_is_not_decay_and_removal_is(self, redis, pair, tmp_path):
        """New documents above the judged ones change nothing against the accepted stack; lost ones do, in full."""
        one = labelled("production", corpus=False)
        bench = Bench(redis, pair, library(one))
        crowd = [f"{query.text} {i}" for query in one.queries for i in range(8)]
        async with bench.running():
            still = await bench.settled()
            bench.exchange(index=build(tmp_path / "grown", more=crowd))
            grown = await bench.settled()
            gone = [f"doc {query.id}" for query in one.queries if query.domain == "law"]
            bench.exchange(index=build(tmp_path / "shrunk", without=gone, more=crowd))
            shrunk = await bench.settled()
            everything = [f"doc {query.id}" for query in one.queries]
            bench.exchange(index=build(tmp_path / "empty", without=everything, more=crowd))
            empty = await bench.settled()
        assert still.retrieval[0].missing == 0.0
        names = {against: [one.name for one in found] for against, found in still.retrieval[0].signatures.items()}
        assert names == {"reference": ["unchanged"] * 3, "accepted": ["unchanged"] * 3}
        # On full lists the judged documents fall behind those that nobody judged.
        assert changes(grown, "reference")[0].leading.effect < -0.2
        assert [(one.leading.effect, one.moved) for one in changes(grown, "accepted")] == [(0.0, 0)] * 3
        assert {one.name for one in grown.retrieval[0].signatures["accepted"]} == {"unchanged"}
        assert grown.retrieval[0].missing == 0.0
        whole, law, pets = changes(shrunk, "accepted")
        assert (law.leading.now, pets.leading.effect) == (0.0, 0.0)
        assert whole.leading.now == pytest.approx(whole.leading.before / 2, abs=0.1)
        names = {one.domain: one.name for one in shrunk.retrieval[0].signatures["accepted"]}
        assert names == {"all": "retrieval_loss", "law": "retrieval_loss", "pets": "changed_not_worse"}
        assert shrunk.retrieval[0].missing == 0.5
        # It answered once: now it is a catastrophe and not a set about another index.
        assert (empty.retrieval[0].missing, changes(empty, "accepted")[0].leading.now) == (1.0, 0.0)

    async def test_what_grew_is_known_after_a_restart(self, redis, pair, tmp_path):
        """The list of the accepted documents is kept with the results, and dropped with them."""
        one = labelled("production", corpus=False)
        first = Bench(redis, pair, library(one))
        async with first.running():
            await first.settled()
        grown = build(tmp_path / "grown", more=[query.text for query in one.queries])
        second = Bench(redis, replace(pair, deployed=replace(pair.deployed, index=grown)), library(one))
        second.accepted = first.accepted
        async with second.running():
            run = await second.settled()
            assert f"documents/{pair.deployed.index.generation}" in await second.kept()
            second.accepted = (200.0, second.retrievers.pair.stack)
            anew = await second.settled()
            assert f"documents/{grown.generation}" in await second.kept()
            assert f"documents/{pair.deployed.index.generation}" not in await second.kept()
        assert changes(run, "reference")[0].leading.effect < 0.0 == changes(run, "accepted")[0].leading.effect
        assert changes(anew, "reference")[0].leading.effect < 0.0 == changes(anew, "accepted")[0].leading.effect

    async def test_without_the_list_of_documents_another_index_is_not_compared(self, redis, pair, tmp_path):
        """On full lists growth would look like decay; what is missing is told, and the set stays."""
        one = labelled("production", corpus=False)
        bench = Bench(redis, pair, library(one))
        async with bench.running():
            await bench.settled()
            await redis.hset(bench.store.keys.canaries, f"documents/{pair.deployed.index.generation}", b"damaged")
            bench.exchange(index=build(tmp_path / "grown", more=[query.text for query in one.queries]))
            run = await bench.settled()
            assert set(run.retrieval[0].changes) == {"reference"}
            bench.exchange(index=build(tmp_path / "empty", without=[f"doc {query.id}" for query in one.queries]))
            assert (await bench.settled()).retrieval[0].missing == 1.0
        assert bench.metrics.failures == []
        assert bench.value("set_errors_total", probe_set="production") == 0.0

    async def test_another_encoder_on_the_same_index_is_compared(self, redis, pair):
        """A model that is exchanged without its index is the very accident: nothing needs to be condensed for it."""
        bench = Bench(redis, pair, library(labelled("production", corpus=False)))
        async with bench.running():
            await bench.settled()
            bench.exchange(name="tuned", encoder=Words(0.2))
            run = await bench.settled()
        assert changes(run, "accepted")[0].leading.effect < 0.0

    async def test_an_index_that_is_built_every_hour_leaves_nothing_behind(self, redis, pair, tmp_path):
        """The results of the accepted encoder on other indexes go, however long that encoder stays."""
        bench = Bench(redis, pair, library(labelled("production", corpus=False)))
        base = fingerprint("base").digest
        async with bench.running():
            await bench.settled()
            for hour in range(3):
                bench.exchange(index=build(tmp_path / f"hour {hour}", more=[f"news of hour{hour}"]))
                await bench.settled()
            results = {name for name in await bench.kept() if f"/{base}/" in name}
        accepted, deployed = (one.deployed.index.generation for one in (pair, bench.retrievers.pair))
        assert results == {f"scores/production/first/{base}/{index}" for index in (accepted, deployed)}

    async def test_an_index_that_jitters_is_not_run_for_ever(self, redis, pair):
        """Every run has a state of its own; each is confirmed once, and then waits for its hour."""
        jittery = replace(pair.deployed, index=Jittery(pair.deployed.index))
        bench = Bench(redis, replace(pair, deployed=jittery), library(labelled("production", corpus=False)))
        async with bench.running():
            first = await bench.settled()
            await asyncio.sleep(0.1)
            assert len(bench.metrics.runs) == 2
            assert first.state != bench.metrics.runs[0].state
            bench.skip(HOUR)
            await bench.settled()
            await asyncio.sleep(0.1)
            assert len(bench.metrics.runs) == 4

    async def test_a_swap_before_the_confirmation_is_confirmed_itself(self, redis, pair, tmp_path):
        """The first look at a new stack never counts as the second look at the old one."""
        one = labelled("production", corpus=False)
        bench = Bench(redis, pair, library(one))
        add = bench.store.canaries.add_run

        async def swap_after_the_first(*arguments):
            if not bench.metrics.runs:
                bench.exchange(
                    index=build(tmp_path / "shrunk", without=[f"doc {query.id}" for query in one.queries[:9]])
                )
            return await add(*arguments)

        bench.store.canaries.add_run = swap_after_the_first
        async with bench.running():
            await bench.settled()
        old, new, confirmed = bench.metrics.runs
        assert old.state != new.state == confirmed.state


async def test_live_work_goes_on(redis, pair):
    """A live query waits for at most the step under way, and the canaries keep to their share of the time."""
    slow = Words(seconds=0.003)
    pair = replace(pair, deployed=replace(pair.deployed, encoder=CachedEncoder(slow, 0)))
    bench = Bench(redis, pair, library(), share=0.2)
    loop = asyncio.get_running_loop()
    waited = []
    async with bench.running():
        while len(bench.metrics.runs) < 2:
            steps = slow.steps
            waited.append(await loop.run_in_executor(bench.executor, lambda: slow.steps) - steps)
            await asyncio.sleep(0.001)
    assert max(waited) <= 1
    assert len(waited) > 20
    for busy, seconds in bench.metrics.times:
        # Each step of t seconds is followed by a pause of at least 4 t.
        assert 0.01 < busy <= 0.2 * seconds
    assert bench.value("busy_seconds_total") == pytest.approx(sum(busy for busy, _ in bench.metrics.times))


@pytest.mark.slow
async def test_live_work_goes_on_with_the_real_encoder(redis, base):
    """A live query of the real model waits for one step of the canaries at most, a fraction of a second."""
    (one,) = find_sets(["generalization"]).sets
    some = replace(
        one,
        queries=one.queries[:16],
        corpus=dict(itertools.islice(one.corpus.items(), 32)),
        judgements={query.id: one.judgements[query.id] for query in one.queries[:16]},
    )
    steps: list[float] = []

    class Timed:
        """The real encoder, which notes how long each batch takes."""

        name, dimension = "timed", base.retriever.encoder.dimension

        def __getattr__(self, name):
            def encode(texts):
                begin = time.perf_counter()
                vectors = getattr(base.retriever.encoder.encoder, name)(texts)
                steps.append(time.perf_counter() - begin)
                return vectors

            return encode

    encoder = Timed()
    deployed = replace(base.retriever, encoder=CachedEncoder(encoder, 0))
    bench = Bench(redis, Pair(deployed, replace(deployed, role="reference")), library(some), share=0.3)
    loop = asyncio.get_running_loop()
    waited: list[tuple[int, float]] = []
    async with bench.running():
        while not bench.metrics.runs:
            before, begin = len(steps), time.perf_counter()
            after = await loop.run_in_executor(bench.executor, lambda: len(steps))
            waited.append((after - before, time.perf_counter() - begin))
            await asyncio.sleep(0.02)
    expected = len(batches([query.text for query in some.queries])) + len(batches(list(some.corpus.values())))
    assert len(steps) >= expected > 4
    assert max(count for count, _ in waited) <= 1
    # One step and the search behind it; twice that leaves room for a busy machine.
    assert max(seconds for _, seconds in waited) <= 2 * max(steps) + 0.2
    busy, seconds = bench.metrics.times[0]
    assert busy <= 0.3 * seconds
    assert {finding.name for _, _, finding in bench.metrics.runs[0].findings} == {"unchanged"}


async def test_nothing_is_asked_while_another_replica_judges(redis, pair):
    """Not on duty, nothing is run; a run under way ends with the duty."""
    gate = threading.Event()
    slow = Words(gate=gate)
    bench = Bench(redis, replace(pair, deployed=replace(pair.deployed, encoder=CachedEncoder(slow, 0))), library())
    bench.on_duty = False
    async with bench.running():
        await asyncio.sleep(0.05)
        assert (bench.canaries.state, slow.steps) == ("not_judging", 0)
        bench.on_duty = True
        await until(lambda: slow.steps == 1)
        bench.on_duty = False
        gate.set()
        await until(lambda: bench.canaries.state == "not_judging")
        assert slow.steps == 1
        assert (await bench.written(), await bench.kept()) == ([], set())
        bench.on_duty = True
        await bench.settled()


async def test_without_the_lease_nothing_is_written_and_with_it_again_the_run_is_made_good(redis, pair):
    """A judge that does not know yet that it was replaced writes no result and no run; a lost run is not skipped."""
    bench = Bench(redis, pair, library())
    async with bench.running():
        await bench.store.release_lease(LEASE)
        await bench.store.hold_lease("another", 600)
        with structlog.testing.capture_logs() as logs:
            await until(lambda: any(line["event"] == "canary_run_superseded" for line in logs))
        assert (await bench.written(), await bench.kept(), bench.metrics.runs) == ([], set(), [])
        await bench.store.release_lease("another")
        await bench.store.hold_lease(LEASE, 600)
        await bench.settled()
    assert await bench.written() == bench.metrics.runs


async def test_the_duty_moves_to_another_replica_and_back(redis, pair):
    """Whoever judges goes on with what the other one kept, and what the other one was about to write is lost."""
    fresh = replace(pair, reference=replace(pair.reference, encoder=CachedEncoder(Words(), 0)))
    one, other = Bench(redis, pair, library()), Bench(redis, fresh, library(), token="other")
    other.on_duty = False
    async with one.running(), other.running():
        await one.settled()
        one.on_duty = False
        await one.store.release_lease(LEASE)
        await other.store.hold_lease("other", 600)
        other.on_duty = True
        await other.settled()
        assert one.canaries.state == "not_judging"
        await other.store.release_lease("other")
        await one.store.hold_lease(LEASE, 600)
        one.on_duty = True  # and the other one does not know yet
        other.skip(HOUR)
        await until(lambda: len(one.metrics.runs) == 3)
        other.on_duty = False
    assert asked(fresh, "reference") == Counter()
    assert len(other.metrics.runs) == 2
    assert await one.written() == [*one.metrics.runs[:2], *other.metrics.runs, *one.metrics.runs[2:]]


async def test_results_stay_while_they_are_in_use(redis, pair):
    """Those of the deployed, the reference and the accepted encoder; an encoder in between leaves none behind."""
    bench = Bench(redis, pair, library())

    def names(*encoders):
        return {
            f"scores/{name}/first/{fingerprint(encoder).digest}"
            for name in ("pairs", "questions")
            for encoder in encoders
        }

    async with bench.running():
        await bench.settled()
        assert await bench.kept() == names("base", "reference")
        for name in ("second", "third"):
            bench.exchange(name=name, encoder=Words(0.2))
            await bench.settled()
            assert await bench.kept() == names("base", "reference", name)
        bench.accepted = None
        await bench.settled()
        assert await bench.kept() == names("reference", "third")
        bench.accepted = (300.0, bench.retrievers.pair.stack)
        bench.exchange("reference", name="other", encoder=Words())
        await bench.settled()
        assert await bench.kept() == names("other", "third")


async def test_a_set_that_was_away_is_held_against_the_accepted_stack_again(redis, pair):
    """While its file was broken the encoder was exchanged; what the accepted one gave is still known."""
    sets = paired(), labelled(), labelled("production", corpus=False)
    first = Bench(redis, pair, library(*sets))
    async with first.running():
        await first.settled()
    kept = await first.kept()
    tuned = replace(pair.deployed, encoder=CachedEncoder(Words(0.2), 0), fingerprint=fingerprint("tuned"))
    second = Bench(redis, replace(pair, deployed=tuned), library(paired()), accepted=first.accepted)
    async with second.running():
        await second.settled()
    assert {name for name in kept if fingerprint("reference").digest not in name} <= await second.kept()
    third = Bench(redis, second.retrievers.pair, library(*sets), accepted=first.accepted)
    async with third.running():
        run = await third.settled()
    assert {one.changes["accepted"][0].leading.effect < 0.0 for one in run.retrieval} == {True}


async def test_a_set_with_a_text_that_no_encoder_takes_does_not_stop_the_others(redis, pair):
    """After some failures in a row, over a minute, it is set aside, if the encoders answer otherwise."""
    encoder = pair.deployed.encoder.encoder
    encoder.poison = "poison"
    bad = labelled("bad")
    bad = replace(bad, queries=(replace(bad.queries[0], text="a poison text"), *bad.queries[1:]))
    bench = Bench(redis, pair, library(bad, paired(), labelled()))
    async with bench.running():
        await until(lambda: len(bench.metrics.failures) >= 4)
        assert bench.value("sets", state="set_aside") == 0.0
        bench.skip(60)
        run = await bench.settled()
    assert [one.set.name for one in run.retrieval] == ["questions"]
    assert bench.value("set_errors_total", probe_set="bad") == bench.value("sets", state="set_aside") == 1.0


async def test_failures_with_another_encoder_are_not_held_against_a_set(redis, pair):
    """Three in a row with one and the same: the one before the exchange and the two after it are not enough."""
    bad = labelled("bad")
    poisoned = Words()
    pair.deployed.encoder.encoder.poison = poisoned.poison = "answered"
    bench = Bench(redis, pair, library(bad, paired()))
    async with bench.running():
        await until(lambda: len(bench.metrics.failures) == 1)
        bench.exchange(name="another", encoder=poisoned)
        await until(lambda: len(bench.metrics.failures) == 2)
        bench.skip(HOUR)
        await bench.settled()
    assert len(bench.metrics.failures) == 3
    assert bench.value("set_errors_total", probe_set="bad") == 1.0


@pytest.mark.parametrize("dead", ["encoder", "index"])
async def test_what_is_dead_for_long_takes_no_set_with_it(redis, pair, dead):
    """An encoder or an index that is away is no fault of a set: all of them run when it is back."""
    index = Broken(pair.deployed.index)
    pair = replace(pair, deployed=replace(pair.deployed, index=index))
    bench = Bench(redis, pair, library(labelled("production", corpus=False), labelled()))
    encoder = pair.deployed.encoder.encoder
    async with bench.running():
        await bench.settled()
        encoder.left, index.broken = (0, False) if dead == "encoder" else (None, True)
        for tries in range(1, 7):
            bench.skip(HOUR)
            await until(lambda tries=tries: len(bench.metrics.failures) == tries)
        encoder.left, index.broken = None, False
        bench.skip(HOUR)
        run = await bench.settled()
    assert len(run.retrieval) == 2
    assert bench.value("sets", state="set_aside") == 0.0


async def test_a_reload_in_the_middle_of_a_run_goes_on_with_what_is_kept(redis, pair):
    """The successor waits for the step of its predecessor on the thread, and does not ask the reference again."""
    gate = threading.Event()
    slow = Words(gate=gate)
    gate.set()
    held = replace(pair, deployed=replace(pair.deployed, encoder=CachedEncoder(slow, 0)))
    first = Bench(redis, held, library())
    async with first.running():
        await first.settled()
        gate.clear()
        first.skip(HOUR)
        seen = slow.steps
        await until(lambda: slow.steps > seen)
    second = Bench(redis, held, library(paired()))
    async with second.running():
        gate.set()
        run = await second.settled()
    assert (run.retrieval, len(run.composition)) == ((), 1)
    assert asked(pair, "reference") == Counter(texts(paired(), labelled()))


@pytest.mark.parametrize("role", ["reference", "base"])
@pytest.mark.parametrize("left", ["unreadable", "of other queries"])
async def test_what_another_version_of_this_program_left_is_measured_anew(redis, pair, role, left):
    """A result that cannot be read or compared is replaced; it neither stops the run nor is compared."""
    bench = Bench(redis, pair, library(labelled()))
    async with bench.running():
        good = await bench.settled()
    (key,) = [name for name in await bench.kept() if fingerprint(role).digest in name]
    content = b"damaged"
    if left == "of other queries":
        found = await bench.store.canaries.scores(key)
        cut = {name: getattr(found, name)[1:] for name in ("queries", "domains", "rankings", "top", "gap")}
        values = {name: numbers[1:] for name, numbers in found.values.items()}
        content = redis_shapes.scores_bytes(replace(found, **cut, values=values))
    await redis.hset(bench.store.keys.canaries, key, content)
    again = Bench(redis, pair, library(labelled()), accepted=bench.accepted)
    async with again.running():
        run = await again.settled()
    assert replace(run, at=0.0) == replace(good, at=0.0)
    assert asked(pair, "reference").total() == len(texts(labelled())) * (2 if role == "reference" else 1)
    # Of an accepted stack that is gone nothing can be measured anew.
    await redis.hset(bench.store.keys.canaries, f"scores/questions/first/{fingerprint('base').digest}", content)
    gone = replace(pair, deployed=replace(pair.deployed, fingerprint=fingerprint("tuned")))
    last = Bench(redis, gone, library(labelled()), accepted=bench.accepted)
    async with last.running():
        assert set((await last.settled()).retrieval[0].changes) == {"reference"}


async def test_redis_may_go_away_at_any_moment(own_redis, pair):
    """Before the first run and in the middle of one: counted, and made good without help when it is back."""
    client = connect(own_redis.url, retries=0)
    gate = threading.Event()
    slow = Words(gate=gate)
    bench = Bench(client, replace(pair, deployed=replace(pair.deployed, encoder=CachedEncoder(slow, 0))), library())
    async with bench.running():
        await until(lambda: slow.steps == 1)
        own_redis.stop()
        gate.set()
        await until(lambda: len(bench.metrics.failures) >= 2)
        own_redis.start()
        await bench.store.hold_lease(LEASE, 600)  # it comes back empty
        run = await bench.settled()
    assert set(bench.metrics.failures) == {"StoreError"}
    assert run == (await bench.written())[-1]
    await client.aclose()


async def test_no_text_of_a_probe_is_in_redis_or_in_the_log(redis, pair):
    """What a set asks and what its documents say is nowhere but in its files."""
    one = labelled()
    foreign = replace(labelled("foreign", corpus=False), judgements={each.id: {"x": 1.0} for each in one.queries})
    with structlog.testing.capture_logs() as logs:
        bench = Bench(redis, pair, library(paired(), one, foreign))
        async with bench.running():
            await bench.settled()
            bench.exchange(name="tuned", encoder=Words(0.2))
            await bench.settled()
            bench.retrievers.pair.deployed.encoder.encoder.left = 3
            bench.skip(HOUR)
            await until(lambda: bench.metrics.failures)
    assert {"canaries_changed", "probe_set_aside", "canary_run_failed"} <= {line["event"] for line in logs}
    everything = await dump(redis) + repr(logs).encode()
    assert b"doc law-0" in everything  # the scan does see what is in there
    assert [text for text in texts(paired(), one) if text.encode() in everything] == []
