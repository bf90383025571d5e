"""The judge on a real Redis: lease, checkpoint, restart after kill -9, takeover, requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from sidecar.judge import duty
from sidecar.judge.duty import Judge
from sidecar.judge.judgement import Judgement
from sidecar.model import Alarm
from sidecar.store import Request, Store
from tests.judge.observations import HOUSE, SHIPPED, options, stream

GROUP = "watchers"
STREAM = "queries"


class Recorder:
    """Remembers what the judge tells; a plain stand-in for the exporter, whose own tests are elsewhere."""

    def __init__(self) -> None:
        self.events = []
        self.duty = []
        self.gaps = 0
        self.failures = 0
        self.count = 0
        self.progress = []

    def on_duty(self, active):
        self.duty.append(active)

    def judged(self, judgement, observations, *, caught_up):  # noqa: ARG002  (the protocol's)
        self.count += observations
        self.progress.append((self.count, caught_up))

    def audit(self, event):
        self.events.append(event)

    def judge_gap(self):
        self.gaps += 1

    def judge_failed(self):
        self.failures += 1


def judge(store, *, token="one", lease=0.6, recorder=None):
    """Make a judge with a short lease."""
    return Judge(
        store,
        options(),
        token=token,
        lease_seconds=lease,
        metrics=recorder or Recorder(),
        log=structlog.get_logger(),
        now=lambda: 1_800_000_000.0,
    )


async def write(redis, store, observations):
    """Put observations into Redis the way that replay does: through entries of the query stream."""
    with contextlib.suppress(Exception):
        await redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    batch = []
    for _, one in observations:
        await redis.xadd(STREAM, {"query": "x"}, id=one.entry_id)
        batch.append(one)
    await redis.xreadgroup(GROUP, "c", {STREAM: ">"}, count=len(batch) + 1)
    assert await store.record(STREAM, GROUP, batch) == len(batch)


async def until(condition, seconds=20.0):
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(one):
    """Run a judge in the background and stop it cleanly."""
    task = asyncio.create_task(one.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_judge_behind_says_so_until_nothing_is_left(redis, monkeypatch):
    """What it holds in the middle of a backlog is not of now, and no finished evaluation."""
    monkeypatch.setattr(duty, "READ_COUNT", 5)
    monkeypatch.setattr(duty, "CHECKPOINT_SECONDS", 0.0)
    store, recorder = Store(redis, "judge"), Recorder()
    await write(redis, store, stream(400, seed=6))
    async with running(judge(store, recorder=recorder)):
        await until(lambda: recorder.progress and recorder.progress[-1][1])
    assert recorder.progress[0] == (0, False)
    assert {count for count, caught_up in recorder.progress if not caught_up} - {0}
    assert {count for count, caught_up in recorder.progress if caught_up} == {400}


async def test_observations_become_one_alarm_in_the_audit_trail(redis):
    """The whole way in Redis: observations in, one alarm out, with everything that on-call needs."""
    store, recorder = Store(redis, "judge"), Recorder()
    await write(redis, store, stream(2600, seed=6, drop_from=2000, shipped_from=2000))
    async with running(judge(store, recorder=recorder)):
        await until(lambda: recorder.count == 2600)
    trail = await store.audit()
    (alarm,) = [event for event in trail if event["kind"] == "alarm"]
    assert list(alarm["changed"]) == ["deployed_encoder", "deployed_index"]
    assert alarm["stack"]["deployed_encoder"] == SHIPPED.deployed_encoder
    assert alarm["accepted_stack"]["deployed_encoder"] == HOUSE.deployed_encoder
    assert sum(event["kind"] == "baseline_accepted" for event in trail) == 3
    assert len([event for event in recorder.events if isinstance(event, Alarm)]) == 1


async def test_a_judge_that_leaves_hands_its_lease_back(redis):
    """After a clean stop another replica is on duty at once, not only when the lease expires."""
    store, second = Store(redis, "judge"), Recorder()
    first = Recorder()
    async with running(judge(store, lease=60.0, recorder=first)):
        await until(lambda: first.duty == [True])
    assert await redis.get(store.keys.lease) is None
    async with running(judge(store, token="two", lease=60.0, recorder=second)):
        await until(lambda: second.duty == [True], 5)


async def test_only_one_replica_judges_and_the_other_takes_over(redis):
    """Two replicas compete; when the one on duty goes away, the other continues behind its checkpoint."""
    store, first, second = Store(redis, "judge"), Recorder(), Recorder()
    observations = list(stream(2600, seed=6, drop_from=2000))
    await write(redis, store, observations[:1500])
    async with contextlib.AsyncExitStack() as stack:
        async with running(judge(store, token="one", recorder=first)):
            await until(lambda: first.duty == [True])
            await stack.enter_async_context(running(judge(store, token="two", recorder=second)))
            await until(lambda: first.count == 1500)
            assert second.duty == []
        await write(redis, store, observations[1500:])
        await until(lambda: second.count == 1100)
    assert sum(event["kind"] == "alarm" for event in await store.audit()) == 1


async def test_a_judge_without_the_lease_writes_nothing(redis):
    """The checkpoint is fenced: a paused judge whose lease went to another cannot overwrite the successor."""
    store = Store(redis, "judge")
    assert await store.hold_lease("old", 30)
    await redis.set(store.keys.lease, "new")
    assert not await store.checkpoint("old", {"last": "9-9"}, [])
    assert await store.load_checkpoint() is None
    assert await store.audit() == []


@pytest.mark.slow
async def test_a_request_is_carried_out_once_also_after_a_restart(redis):
    """A person's request to calibrate starts one new calibration; a restarted judge remembers that it did so."""
    store, recorder = Store(redis, "judge"), Recorder()
    await write(redis, store, stream(2600, seed=6, drop_from=2000))
    async with running(judge(store, recorder=recorder)):
        await until(lambda: recorder.count == 2600)
        await store.ask(Request("r1", "recalibrate", "ada", "wanted"))
        await until(lambda: any(type(event).__name__ == "CalibrationStarted" for event in recorder.events))
    again = Recorder()
    async with running(judge(store, token="two", recorder=again)):
        await asyncio.sleep(2.5)
    kinds = [event["kind"] for event in await store.audit()]
    assert kinds.count("calibration_started") == 1
    assert kinds.count("alarm") == 1
    state = await store.load_checkpoint()
    assert state["alarm_id"] is None


async def test_observations_that_were_trimmed_before_the_judge_came_are_noticed(redis):
    """A judge that was away for too long says that it missed observations."""
    store, recorder = Store(redis, "judge"), Recorder()
    await write(redis, store, stream(50, seed=1))
    async with running(judge(store, recorder=recorder)):
        await until(lambda: recorder.count == 50)
    await redis.xtrim(store.keys.observations, maxlen=0, approximate=False)
    await redis.xadd(
        store.keys.observations, {"e": "1-1", "t": "1", "s": "x", "w": "1", "v": "{}", "k": "a|b|c|d", "n": "", "p": ""}
    )
    again = Recorder()
    async with running(judge(store, token="two", recorder=again)):
        await until(lambda: again.duty == [True])
    assert (recorder.gaps, again.gaps) == (0, 1)


async def test_a_broken_checkpoint_is_said_and_not_overwritten(redis):
    """A checkpoint that cannot be read is an error with the way out, not a silent new beginning."""
    store, recorder = Store(redis, "judge"), Recorder()
    await redis.set(store.keys.judge, b"not json")
    async with running(judge(store, recorder=recorder)):
        await until(lambda: recorder.failures > 0)
    assert await redis.get(store.keys.judge) == b"not json"


async def test_the_judge_outlives_an_outage_of_redis(own_redis):
    """Redis goes away and comes back empty of nothing that matters: the judge waits and goes on."""
    from sidecar.redis_edge import connect

    client = connect(own_redis.url, retries=0)
    store, recorder = Store(client, "judge"), Recorder()
    async with running(judge(store, recorder=recorder)) as task:
        await until(lambda: recorder.duty == [True])
        own_redis.stop()
        await until(lambda: recorder.failures > 0)
        own_redis.start()
        await until(lambda: recorder.duty[-1] is True and len(recorder.duty) >= 3)
        assert not task.done()
    await client.aclose()


CHILD = """
import asyncio, sys, structlog
from tests.judge.test_duty import Recorder, judge
from sidecar.redis_edge import connect
from sidecar.store import Store

async def main():
    redis = connect(sys.argv[1])
    await judge(Store(redis, "judge"), token=sys.argv[2], lease=1.0).run()

asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_judge_killed_again_and_again_neither_forgets_nor_repeats_the_alarm(redis, redis_url):
    """Killed with -9 at five arbitrary moments, it leaves the trail and the state of a judge that was never killed."""
    store = Store(redis, "judge")
    observations = list(stream(2600, seed=6, drop_from=2000, shipped_from=2000))
    parts = [observations[i : i + 520] for i in range(0, 2600, 520)]
    for number, part in enumerate(parts):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, redis_url, f"child-{number}"],
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await write(redis, store, part)
        await asyncio.sleep(0.4 + 0.3 * number)
        child.send_signal(signal.SIGKILL)
        child.wait()
    last = Recorder()
    async with running(judge(store, token="last", recorder=last)):
        newest = (await redis.xrevrange(store.keys.observations, count=1))[0][0].decode()
        async with asyncio.timeout(30):
            while (await store.load_checkpoint() or {}).get("last") != newest:
                await asyncio.sleep(0.1)
    expected = Judgement(options())
    events = []
    for identity, one in await store.observations_after("0-0", count=5000, block_seconds=0.01):
        events += expected.feed(identity, one)
    trail = await store.audit()
    assert [event["id"] for event in reversed(trail)] == [event.id for event in events]
    assert sum(event["kind"] == "alarm" for event in trail) == 1
    state = await store.load_checkpoint()
    own = {"last", "last_run", "last_canaries"}
    assert {name: value for name, value in state.items() if name not in own} == json.loads(
        json.dumps(expected.to_state())
    )
