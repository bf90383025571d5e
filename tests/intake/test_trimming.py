"""How many entries were lost unread, on real trimming: exact on Redis 7, a marked estimate on 6.2."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.intake import trimming
from sidecar.publish import fields

STREAM, PREFIX = "rag:queries", "rag-drift:{test}:"
GROUP = "rag-drift"


@pytest.fixture
async def exact(redis):
    """Tell whether this server counts the entries that were ever added."""
    return int((await redis.info("server"))["redis_version"].split(".")[0]) >= 7


async def fill(redis, count, start=1, maxlen=None):
    """Publish entries one second apart, so that the estimate of 6.2 has a known rate."""
    async with redis.pipeline(transaction=False) as pipe:
        for second in range(start, start + count):
            pipe.xadd(STREAM, fields(query="q"), id=f"{second * 1000}-0", maxlen=maxlen, approximate=False)
        await pipe.execute()


async def settled(one):
    """Look at the stream and give the number of lost entries, which must be up to date."""
    state = await one.state()
    assert state.settled
    return state.lost


async def test_nothing_is_lost_while_everything_is_read(redis, bench, exact):
    """Reading, sampling, acknowledging and waiting entries are no loss, whenever one looks."""
    one = bench(rate=0.5)
    for start in (1, 101, 201):
        await fill(redis, 100, start)
        assert await settled(one) == 0 if start > 1 else True
        await one.consumer.drain()
        assert await settled(one) == 0
        await one.acknowledge()
        assert await settled(one) == 0
    assert (await one.state()).estimated is not exact


async def test_entries_trimmed_by_maxlen_before_they_were_read_are_lost(redis, bench):
    """The group falls behind and the stream's bound overtakes it: what was between is lost.

    On 6.2 the estimate is right here because the entries come at a steady rate.
    """
    one = bench()
    await fill(redis, 100)
    await one.consumer.drain()
    await one.acknowledge()
    await fill(redis, 1_000, 101, maxlen=150)
    assert await settled(one) == 850
    await one.consumer.drain()
    await one.acknowledge()
    assert await settled(one) == 850
    await fill(redis, 400, 1_101, maxlen=150)
    assert await settled(one) == 850 + 250


async def test_trimming_what_was_read_is_no_loss(redis, bench):
    """A bounded stream throws away what the group has already read: that is what the bound is for."""
    one = bench()
    for start in range(1, 1_001, 100):
        await fill(redis, 100, start, maxlen=100)
        await one.consumer.drain()
        await one.acknowledge()
        assert await settled(one) == 0


async def test_trimming_to_nothing_loses_what_was_unread(redis, bench, exact):
    """XTRIM to zero; 6.2 can only say that at least one was lost."""
    one = bench()
    await fill(redis, 50)
    await one.consumer.drain()
    await one.acknowledge()
    await fill(redis, 30, 51)
    await redis.xtrim(STREAM, maxlen=0, approximate=False)
    assert await settled(one) == (30 if exact else 1)
    await fill(redis, 5, 81)
    assert await one.consumer.drain() == 5
    assert await settled(one) == (30 if exact else 1)


async def test_deleted_entries_are_lost_only_if_they_were_unread(redis, bench, exact):
    """XDEL of handled entries changes nothing, of unread ones loses them; Redis' own lag is nil by then."""
    one = bench()
    await fill(redis, 40)
    await one.consumer.drain()
    await one.acknowledge()
    await fill(redis, 40, 41)
    await redis.xdel(STREAM, *(f"{second * 1000}-0" for second in range(10, 20)))
    assert await settled(one) == 0
    await redis.xdel(STREAM, *(f"{second * 1000}-0" for second in range(50, 57)))
    await one.consumer.drain()
    await one.acknowledge()
    assert await settled(one) == (7 if exact else 0)


async def test_pending_entries_that_were_trimmed_are_lost_when_they_are_taken_over(redis, bench):
    """They were handed out and never handled: exactly known on every version."""
    soon = {"claim_idle_seconds": 0.2, "block_seconds": 0.1, "keep_every_seconds": 0.1}
    dead, heir = bench(**soon), bench(**soon)
    await fill(redis, 30)
    await dead.consumer.drain()
    await redis.xtrim(STREAM, maxlen=10, approximate=False)
    assert await settled(dead) == 0
    await fill(redis, 1, 31)
    await heir.consumer.drain()
    await asyncio.sleep(0.25)
    assert await heir.consumer.claim() == 10
    assert await settled(heir) == 20
    assert len(heir.taken()) == 11
    await heir.acknowledge()
    assert (await heir.state()).pending == 0
    assert await settled(heir) == 20


async def test_trimmed_entries_that_replay_still_acknowledges_are_not_lost(redis, bench):
    """An entry in the queue was read; that Redis trimmed it meanwhile does not matter."""
    one = bench()
    await fill(redis, 30)
    await one.consumer.drain()
    await redis.xtrim(STREAM, maxlen=0, approximate=False)
    assert await one.acknowledge() == 30
    assert await settled(one) == 0


async def test_a_group_that_starts_at_new_entries_has_not_lost_the_old_ones(redis, bench):
    """What came and went before the group was made is nobody's loss."""
    await fill(redis, 500, maxlen=100)
    late, whole = bench(start="$"), bench(start="0")
    await late.consumer.prepare()
    await fill(redis, 10, 501)
    await late.consumer.drain()
    await late.acknowledge()
    assert await settled(late) == 0
    await redis.delete(f"{PREFIX}intake")
    await redis.xgroup_destroy(STREAM, GROUP)
    await whole.consumer.prepare()
    assert await settled(whole) == 0
    assert await whole.consumer.drain() == 110


@pytest.mark.parametrize("removed", ["stream", "group"])
async def test_losses_survive_a_stream_or_group_that_is_made_anew(redis, bench, removed):
    """The total never goes back, and what is in the new stream is read from its oldest entry."""
    one = bench()
    await fill(redis, 10)
    await one.consumer.drain()
    await one.acknowledge()
    await fill(redis, 120, 11, maxlen=20)
    assert await settled(one) == 100
    await (redis.delete(STREAM) if removed == "stream" else redis.xgroup_destroy(STREAM, GROUP))
    await fill(redis, 7, 131)
    expected = 7 if removed == "stream" else 27
    assert await one.consumer.drain() == 0  # this read finds out and makes the group
    assert await one.consumer.drain() == expected
    await one.acknowledge()
    assert await settled(one) == 100
    assert one.consumer.counts.groups_remade == 1
    await fill(redis, 60, 138, maxlen=20)
    assert await settled(one) == 140


async def test_all_replicas_and_restarts_see_one_number(redis, bench):
    """The count lives in Redis: another process goes on where the first one ended."""
    one = bench()
    await fill(redis, 10)
    await one.consumer.drain()
    await one.acknowledge()
    await fill(redis, 100, 11, maxlen=50)
    assert await settled(one) == 50
    other = bench()
    assert await settled(other) == 50
    await other.consumer.drain()
    await other.acknowledge()
    assert await settled(one) == await settled(other) == 50


async def test_in_the_middle_of_a_long_backlog_the_last_number_stays(redis, bench, exact):
    """Counting a long backlog would hold the server up; near an end the number is exact again."""
    one = bench(batch=trimming.NEAR + 100)
    await fill(redis, 3 * trimming.NEAR + 300)
    await redis.xtrim(STREAM, maxlen=3 * trimming.NEAR + 250, approximate=False)
    assert await one.consumer.read(None) == 8
    assert await settled(one) == 0  # the group was made after the trimming
    while (await one.redis.xinfo_groups(STREAM))[0]["pending"] < trimming.NEAR + 100:
        await one.consumer.read(None)
    state = await one.state()
    assert (state.settled, state.lost) == (not exact, 0)
    await redis.xtrim(STREAM, maxlen=40, approximate=False)
    lost = 3 * trimming.NEAR + 250 - 40 - state.pending
    found = await settled(one)
    assert found == lost


async def test_a_group_moved_by_hand_does_not_count_backwards(redis, bench):
    """XGROUP SETID back to the start hands everything out again and loses nothing."""
    one = bench()
    await fill(redis, 20)
    await one.consumer.drain()
    await one.acknowledge()
    assert await settled(one) == 0
    await redis.xgroup_setid(STREAM, GROUP, "0")
    assert await settled(one) == 0
    assert await one.consumer.drain() == 20
    await one.acknowledge()
    assert await settled(one) == 0


async def test_the_time_behind_is_that_of_the_entries(redis, bench):
    """How far the group is behind is told in seconds of the stream."""
    one = bench()
    await one.consumer.prepare()
    assert (await one.state()).behind_seconds == 0
    await fill(redis, 8)
    assert await one.consumer.read(None) == 8
    await fill(redis, 30, 9)
    assert (await one.state()).behind_seconds == 30
    await one.consumer.drain()
    assert (await one.state()).behind_seconds == 0


async def test_without_a_group_there_is_no_state(bench):
    """Looking at nothing is a state, not an error."""
    assert await bench().consumer.snapshot() is None


async def test_redis_own_lag_would_mislead(redis, bench, exact):
    """The reason for the own count: after trimming, the server's lag still counts what is gone; Redis 6.2 has none."""
    one = bench()
    await fill(redis, 10)
    await one.consumer.drain()
    await fill(redis, 1_000, 11, maxlen=100)
    await one.consumer.drain()
    [group] = await redis.xinfo_groups(STREAM)
    assert group["lag"] != 0 if exact else "lag" not in group
    if exact:
        assert await settled(one) == 900
