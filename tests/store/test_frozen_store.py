"""What the store keeps of the frozen probes: one set, and the last replays, both under the judge's lease."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from sidecar.drift.evidence import Sample
from sidecar.drift.probe_run import FrozenRun, ProbeSide
from sidecar.model import Stack
from sidecar.store import START, Store


def run(at: float) -> FrozenRun:
    """Make a replay at which nothing had moved."""
    side = ProbeSide(0, Sample(1.0, 50, 0.0), Sample(1.0, 50, 0.0), None, None, None, None, ("",) * 50)
    return FrozenRun(at, Stack("a", "b", "c", "d"), "b1", 1.0, 10, 50, 50, side, side)


@pytest.fixture
async def store(redis) -> Store:
    """Give a store whose lease `judge` holds."""
    made = Store(redis, "test")
    await made.hold_lease("judge", 60)
    return made


async def test_probes_are_replaced_as_a_whole_and_only_under_the_lease(store):
    """Nothing of the old probes is left among the new ones, and a judge without the lease changes nothing."""
    assert (await store.frozen_id(), await store.frozen_fields()) == ("", {})
    assert await store.keep_frozen("judge", {"id": b"one", "texts": b"\x00secret", "known_deployed": b"x"})
    assert not await store.keep_frozen("other", {"id": b"two"})
    assert await store.frozen_id() == "one"
    assert await store.keep_frozen("judge", {"id": b"three", "header": b"{}"})
    assert await store.frozen_fields() == {"id": b"three", "header": b"{}"}
    assert key_slot(store.keys.frozen.encode()) == key_slot(store.keys.frozen_runs.encode())


async def test_a_deployment_has_one_salt(store):
    """The first candidate stays."""
    assert await store.frozen_salt(b"first") == b"first"
    assert await store.frozen_salt(b"second") == b"first"
    assert await store.frozen_id() == ""


async def test_runs_are_read_in_order_behind_an_id_and_bounded(store):
    """The last fifty are kept; reading goes on behind the last id, and needs no lease."""
    for number in range(60):
        assert await store.add_frozen_run("judge", run(float(number)))
    assert not await store.add_frozen_run("other", run(99.0))
    read = await store.frozen_runs_after(START)
    assert [one.at for _, one in read] == [float(number) for number in range(10, 60)]
    following = await store.frozen_runs_after(read[46][0], count=2)
    assert following == read[47:49]
    assert await store.frozen_runs_after(read[-1][0]) == []


async def test_a_run_that_is_sent_again_is_one_run(store):
    """The client repeats a command whose answer was lost; a second copy would confirm the first."""
    for at in (1.0, 1.0, 2.0, 2.0):
        assert await store.add_frozen_run("judge", run(at))
    assert [one.at for _, one in await store.frozen_runs_after(START)] == [1.0, 2.0]


async def test_a_run_that_cannot_be_read_does_not_stop_those_behind_it(store):
    """It has its id and is None."""
    await store.redis.xadd(store.keys.frozen_runs, {"run": "{"})
    await store.redis.xadd(store.keys.frozen_runs, {"other": "x"})
    await store.add_frozen_run("judge", run(1.0))
    assert [one and one.at for _, one in await store.frozen_runs_after(START)] == [None, None, 1.0]
