"""What the store keeps of the canaries: results by encoder and set, and the last runs, all under the judge's lease."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from redis.crc import key_slot

from sidecar import redis_shapes
from sidecar.drift.canary_run import CanaryRun, Scored, SetName, compile_run
from sidecar.drift.composition import PairScores
from sidecar.drift.labelled import MEASURES, RetrievalScores
from sidecar.drift.signature import SignatureRule
from sidecar.model import Stack
from sidecar.store import START, Store

SET = SetName("questions", 1, "first")


def scores(count=3, value=1.0, top=0.9) -> RetrievalScores:
    """Give the result of a labelled set in which every query has this value."""
    return RetrievalScores(
        queries=tuple(f"q{i}" for i in range(count)),
        domains=("law",) * count,
        rankings=(("a", "b"),) * count,
        values=dict.fromkeys(MEASURES, (value,) * count),
        top=(top,) * count,
        gap=(0.1,) * count,
    )


def run(at: float, *results: Scored) -> CanaryRun:
    """Give a run of these results, by default of one set with no change."""
    return compile_run(
        results or (Scored(SET, scores(), scores(), scores()),),
        at=at,
        stack=Stack("a", "b", "c", "d"),
        accepted_at=1.0,
        thresholds=(0.9,),
        rule=SignatureRule(),
    )


@pytest.fixture
async def store(redis) -> Store:
    """Give a store whose lease `judge` holds."""
    made = Store(redis, "test")
    await made.hold_lease("judge", 60)
    return made


async def results(store) -> set[str]:
    """Name the results that are kept."""
    return {name.decode() for name in await store.redis.hkeys(store.keys.canaries)}


async def test_the_first_result_of_a_name_stays(store):
    """Whoever comes later gets the first one back to be compared with; both kinds are read as they were written."""
    pairs = PairScores(("negation", "swap"), (0.9, 0.8), (-0.1, 1.0))
    assert await store.canaries.scores("one") is None
    assert await store.canaries.keep_scores("judge", "one", scores()) == scores()
    assert await store.canaries.keep_scores("judge", "one", scores(value=0.5)) == scores()
    assert await store.canaries.keep_scores("judge", "two", pairs) == pairs
    assert (await store.canaries.scores("one"), await store.canaries.scores("two")) == (scores(), pairs)


async def test_without_the_lease_nothing_is_kept_and_the_work_is_not_lost(store):
    """What was measured comes back; neither a result, nor a list of documents, nor a run is written or forgotten."""
    await store.canaries.keep_scores("judge", "one", scores())
    assert await store.canaries.keep_scores("other", "two", scores()) == scores()
    assert await store.canaries.keep_scores("other", "one", scores(4)) == scores(4)
    await store.canaries.keep_documents("other", "documents/x", b"list")
    assert not await store.canaries.add_run("other", run(1.0), [])
    assert await results(store) == {"one"}
    assert await store.canaries.last_run() is None


@pytest.mark.parametrize("left", [b"damaged", redis_shapes.scores_bytes(scores(4))], ids=["damaged", "other queries"])
async def test_a_result_that_is_of_no_use_is_replaced(store, left):
    """One that another version of the program left, unreadable or of other queries, does not stay for ever."""
    await store.redis.hset(store.keys.canaries, "one", left)
    assert await store.canaries.keep_scores("judge", "one", scores()) == scores()
    assert await store.canaries.scores("one") == scores()


async def test_a_run_and_its_tidying_are_one_step(store):
    """With a run all results go that nobody needs any more; those named and the list of documents stay."""
    for name in ("in use", "old"):
        await store.canaries.keep_scores("judge", name, scores())
    await store.canaries.keep_documents("judge", "documents/x", b"first")
    await store.canaries.keep_documents("judge", "documents/x", b"second")
    assert await store.canaries.add_run("judge", run(1.0), {"in use", "documents/x", "not there"})
    assert await results(store) == {"in use", "documents/x"}
    assert await store.canaries.documents("documents/x") == b"first"
    assert await store.canaries.last_run() == run(1.0)
    assert len({key_slot(getattr(store.keys, name).encode()) for name in ("lease", "canaries", "canary_runs")}) == 1


async def test_a_star_keeps_what_ends_so(store):
    """The end of the name counts, to the last character; nothing in it is a pattern."""
    for name in ("a/x.y", "b/x.y", "b/x-y", "b/x.y/z", "x.y"):
        await store.canaries.keep_scores("judge", name, scores())
    assert await store.canaries.add_run("judge", run(1.0), {"*/x.y"})
    assert await results(store) == {"a/x.y", "b/x.y"}


async def test_runs_are_read_in_order_behind_an_id_and_bounded(store):
    """The last twenty are kept; reading goes on behind the last id, and needs no lease."""
    for number in range(25):
        assert await store.canaries.add_run("judge", run(float(number)), [])
    read = await store.canaries.runs_after(START)
    assert [one.at for _, one in read] == [float(number) for number in range(5, 25)]
    assert await store.canaries.runs_after(read[16][0], count=2) == read[17:19]
    assert await store.canaries.runs_after(read[-1][0]) == []


async def test_a_run_that_is_sent_again_is_one_run(store):
    """The client repeats a command whose answer was lost; a second copy would confirm the first and page."""
    for at in (1.0, 1.0, 2.0, 2.0, 1.0):
        assert await store.canaries.add_run("judge", run(at), [])
    assert [one.at for _, one in await store.canaries.runs_after(START)] == [1.0, 2.0, 1.0]


async def test_a_run_that_cannot_be_read_does_not_stop_those_behind_it(store):
    """It has its id and is None; as the last one it hides nothing but itself."""
    await store.redis.xadd(store.keys.canary_runs, {"run": "{"})
    await store.redis.xadd(store.keys.canary_runs, {"other": "x"})
    await store.canaries.add_run("judge", run(1.0), [])
    assert [one and one.at for _, one in await store.canaries.runs_after(START)] == [None, None, 1.0]
    await store.redis.xadd(store.keys.canary_runs, {"run": b"\xff"})
    assert await store.canaries.last_run() is None


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
async def test_scores_that_are_no_numbers_cost_their_quantiles_alone(store, strange):
    """JSON has no NaN: the index's odd scores are left out, and the run with everything else is read back."""
    odd = run(1.0, Scored(SET, replace(scores(), top=(0.9, strange, 0.7), gap=(strange,) * 3), scores(), scores()))
    assert await store.canaries.add_run("judge", odd, [])
    assert await store.canaries.last_run() == odd
    assert odd.retrieval[0].scales["deployed"].top == pytest.approx((0.72, 0.8, 0.88))
    assert odd.retrieval[0].scales["deployed"].gap is None


async def test_a_run_without_a_set_or_a_query_is_a_run(store):
    """Nothing to compare is written and read like anything else."""
    none = run(1.0, Scored(SET, scores(0), scores(0), scores(0)), Scored(SET, *[PairScores((), (), ())] * 3))
    empty = compile_run((), at=2.0, stack=none.stack, accepted_at=None, thresholds=(), rule=SignatureRule())
    for one in (none, empty):
        assert await store.canaries.add_run("judge", one, [])
        assert await store.canaries.last_run() == one
        assert one.findings == []


async def test_a_large_set_is_kept_small(store):
    """Of 5,000 queries a run holds a digest each, and a result is compressed: both stay far below a megabyte."""
    large = replace(scores(5000), rankings=tuple(tuple(f"d{i + j}" for j in range(10)) for i in range(5000)))
    await store.canaries.keep_scores("judge", "large", large)
    assert await store.canaries.scores("large") == large
    assert await store.canaries.add_run("judge", run(1.0, Scored(SET, large, large, large)), ["large"])
    assert len((await store.redis.xrange(store.keys.canary_runs))[0][1][b"run"]) < 200_000
    assert len(await store.redis.hget(store.keys.canaries, "large")) < 300_000
