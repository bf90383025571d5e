"""The store on real Redis: keys, the two scripts that must not come apart, fencing, damaged contents, rights."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json

import pytest
from redis.crc import key_slot
from redis.exceptions import NoPermissionError

from sidecar.errors import StoreError
from sidecar.intake import Consumer, IntakeOptions, Sampler, SamplingOptions, SliceRegistry
from sidecar.model import Alarm, BaselineAccepted, CalibrationStarted, Observation, Stack
from sidecar.redis_edge import connect
from sidecar.store import START, Keys, Request, Store
from tests.store.test_canary_store import run, scores

STREAM, GROUP = "rag:queries", "rag-drift"
STACK = Stack("enc-a", "idx-a", "enc-r", "idx-r")
NAMES = ("observations", "audit", "judge", "lease", "request", "dead_letters", "intake", "fingerprints")


def observation(entry_id="1-0", **changes) -> Observation:
    """Make an observation with every part set."""
    values = {"at": 1_790_000_000.25, "slice": "legal", "weight": 10.0, "values": {"overlap@10": 0.7, "top1": 1.0}}
    return Observation(**{"entry_id": entry_id, **values, "stack": STACK, "session": "0f", "step": 3, **changes})


def baseline(name="all", identity="5-0/all") -> BaselineAccepted:
    """Make an event for the audit trail."""
    return BaselineAccepted(identity, 1.0, "overlap@10", name, 0.7, 0.69, 5000, STACK)


async def deliver(redis, count) -> list[str]:
    """Put entries on the query stream and hand them to a consumer of the group."""
    ids = [(await redis.xadd(STREAM, {"query": "x"})).decode() for _ in range(count)]
    if not any(group["name"] == GROUP.encode() for group in await redis.xinfo_groups(STREAM)):
        await redis.xgroup_create(STREAM, GROUP, id="0")
    await redis.xreadgroup(GROUP, "one", {STREAM: ">"}, count=count)
    return ids


async def test_all_keys_of_a_deployment_share_one_slot():
    """On a cluster every key of a deployment lies on one node, and another deployment's may lie elsewhere."""
    keys = Keys("eu-west.1")
    names = [getattr(keys, name) for name in NAMES]
    assert len(set(names)) == len(NAMES)
    assert all(name.startswith("rag-drift:{eu-west.1}:") for name in names)
    assert len({key_slot(name.encode()) for name in names}) == 1
    with pytest.raises(AttributeError):
        _ = keys.observation


async def test_what_is_recorded_reads_back_and_is_acknowledged(redis):
    """An observation survives the way through Redis, its entry is acknowledged and counted as handled."""
    store = Store(redis, "test")
    ids = await deliver(redis, 2)
    first = observation(ids[0])
    second = observation(ids[1], session=None, step=None, values={"overlap@10": 0.1234567, "tau_ap@10": float("nan")})
    assert await store.record(STREAM, GROUP, [first, second]) == 2
    read = await store.observations_after(START, count=10, block_seconds=0.1)
    assert read[0][1] == first
    assert read[1][1] == dataclasses.replace(second, values={"overlap@10": 0.123457})
    assert (await redis.xpending(STREAM, GROUP))["pending"] == 0
    assert await redis.hget(store.keys.intake, "handled") == b"2"


async def test_an_entry_is_observed_once_however_often_it_is_recorded(redis):
    """A second replica, or a repeated send after a lost answer, writes and counts nothing."""
    store = Store(redis, "test")
    ids = await deliver(redis, 3)
    assert await store.record(STREAM, GROUP, [observation(ids[0])]) == 1
    assert await store.record(STREAM, GROUP, [observation(one) for one in ids]) == 2
    assert await store.record(STREAM, GROUP, [observation(one) for one in ids]) == 0
    assert await store.record(STREAM, GROUP, []) == 0
    read = await store.observations_after(START, count=10, block_seconds=0.1)
    assert [one.entry_id for _, one in read] == ids
    assert await redis.hget(store.keys.intake, "handled") == b"3"


async def test_acknowledging_counts_each_entry_once(redis):
    """Entries without an observation are acknowledged and handled once, and an empty list asks nothing."""
    store = Store(redis, "test")
    ids = await deliver(redis, 2)
    await store.acknowledge(STREAM, GROUP, [])
    await store.acknowledge(STREAM, GROUP, ids)
    await store.acknowledge(STREAM, GROUP, ids)
    assert (await redis.xpending(STREAM, GROUP))["pending"] == 0
    assert await redis.hget(store.keys.intake, "handled") == b"2"


async def test_observations_are_read_in_order_behind_an_id_and_kept_in_number(redis):
    """Reading continues behind the last id; the stream stays near its bound."""
    store = Store(redis, "test", observations_kept=1000)
    ids = await deliver(redis, 3000)
    await store.record(STREAM, GROUP, [observation(one) for one in ids])
    # MAXLEN ~ removes whole macro nodes (100 entries by default), so at most one node more than asked for is left.
    assert 1000 <= await redis.xlen(store.keys.observations) <= 1100
    oldest = await store.oldest_observation()
    assert oldest is not None
    first = await store.observations_after(START, count=10, block_seconds=0.1)
    assert first[0][0] == oldest
    following = await store.observations_after(first[-1][0], count=2, block_seconds=0.1)
    position = ids.index(first[-1][1].entry_id)
    assert [one.entry_id for _, one in following] == ids[position + 1 : position + 3]
    newest = (await redis.xrevrange(store.keys.observations, count=1))[0][0].decode()
    begin = asyncio.get_running_loop().time()
    assert await store.observations_after(newest, count=10, block_seconds=0.2) == []
    assert asyncio.get_running_loop().time() - begin >= 0.15


async def test_the_lease_has_one_holder(redis):
    """A lease is taken by one, renewed by its holder, given back only by its holder, and expires."""
    store = Store(redis, "test")
    assert await store.hold_lease("one", 60)
    assert not await store.hold_lease("two", 60)
    assert await store.hold_lease("one", 60)
    assert 59_000 < await redis.pttl(store.keys.lease) <= 60_000
    await store.release_lease("two")
    assert await redis.get(store.keys.lease) == b"one"
    await store.release_lease("one")
    assert await store.hold_lease("two", 0.05)
    await asyncio.sleep(0.1)
    assert await store.hold_lease("one", 60)


async def test_a_checkpoint_without_the_lease_writes_nothing(redis):
    """A judge that was replaced while it slept can overwrite neither the state nor the audit trail."""
    store = Store(redis, "test")
    assert not await store.checkpoint("one", {"last": "1-0"}, [baseline()])
    assert await store.load_checkpoint() is None
    await store.hold_lease("one", 60)
    assert await store.checkpoint("one", {"last": "1-0"}, [baseline()])
    await store.release_lease("one")
    await store.hold_lease("two", 60)
    assert await store.checkpoint("two", {"last": "2-0"})
    assert not await store.checkpoint("one", {"last": "9-0"}, [baseline("x", "9-0/x")])
    assert await store.load_checkpoint() == {"last": "2-0"}
    assert [event["id"] for event in await store.audit()] == ["5-0/all"]


async def test_a_checkpoint_that_is_sent_again_raises_its_events_once(redis):
    """The client repeats a command whose answer was lost; one alarm stays one in the audit trail."""
    store = Store(redis, "test")
    await store.hold_lease("one", 60)
    for _ in range(2):
        assert await store.checkpoint("one", {"last": "1-0"}, [baseline()])
    assert len(await store.audit()) == 1


async def test_the_audit_trail_reads_newest_first_with_its_kinds(redis):
    """Every kind of event comes back as what it was, in order, up to the count that was asked for."""
    store = Store(redis, "test")
    await store.hold_lease("one", 60)
    alarm = Alarm(
        "7-0", 2.0, "overlap@10", "legal", "minor", 30.0, 26.0, 0.7, 0.4, 0.43, 0.3, 0.5, 1.5, 120,
        ("deployed_encoder",), STACK, STACK, 0.1, 1000,
    )  # fmt: skip
    await store.checkpoint("one", {"last": "1-0"}, [baseline(), alarm])
    await store.checkpoint("one", {"last": "2-0"}, [CalibrationStarted("r1", 3.0, "ann", "new model")])
    trail = await store.audit()
    assert [event["kind"] for event in trail] == ["calibration_started", "alarm", "baseline_accepted"]
    expected = json.loads(json.dumps(dataclasses.asdict(alarm)))
    assert trail[1] == {"kind": "alarm", **expected}
    assert [event["kind"] for event in await store.audit(1)] == ["calibration_started"]


async def test_a_request_stays_until_it_expires(redis):
    """A request reads back as it was left and does not live for ever."""
    store = Store(redis, "test")
    assert await store.request() is None
    asked = Request("a1", "recalibrate", "ann", "we shipped a better model")
    await store.ask(asked)
    assert await store.request() == asked
    assert 0 < await redis.ttl(store.keys.request) <= Store.REQUEST_EXPIRY_SECONDS


async def test_fingerprints_are_kept_once_and_in_bounded_number(redis, monkeypatch):
    """The first bytes under a digest stay, and the hash does not grow without end."""
    monkeypatch.setattr(Store, "FINGERPRINTS_KEPT", 3)
    store = Store(redis, "test")
    await store.remember_fingerprint("a", b"\x00\xff")
    await store.remember_fingerprint("a", b"other")
    assert await store.fingerprints() == {"a": b"\x00\xff"}
    for name in "bcd":
        await store.remember_fingerprint(name, b"x")
    assert set(await store.fingerprints()) == {"a", "b", "c"}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b'"text"'])
async def test_a_damaged_checkpoint_is_a_store_error_that_names_the_key(redis, content):
    """What is no checkpoint is refused with the key that holds it."""
    store = Store(redis, "test")
    await redis.set(store.keys.judge, content)
    with pytest.raises(StoreError, match=r"rag-drift:\{test\}:judge"):
        await store.load_checkpoint()


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"id": "x"}', b'{"id":"x","kind":"k","by":"b","why":"w","z":1}'])
async def test_a_damaged_request_is_a_store_error_that_names_the_key(redis, content):
    """What is no request is refused with the key that holds it."""
    store = Store(redis, "test")
    await redis.set(store.keys.request, content)
    with pytest.raises(StoreError, match=r"rag-drift:\{test\}:request"):
        await store.request()


@pytest.mark.parametrize("fields", [{"event": "{"}, {"other": "{}"}, {"event": "3"}])
async def test_a_damaged_audit_trail_is_a_store_error_that_names_the_key(redis, fields):
    """What is no event is refused with the key that holds it."""
    store = Store(redis, "test")
    await redis.xadd(store.keys.audit, fields)
    with pytest.raises(StoreError, match=r"rag-drift:\{test\}:audit"):
        await store.audit()


@pytest.mark.parametrize(
    "change",
    [
        {"t": "soon"}, {"v": "{"}, {"v": "[1, 2]"}, {"v": '{"overlap@10": null}'}, {"v": '{"overlap@10": [1]}'},
        {"k": "a|b|c"}, {"p": "first"}, {"s": b"\xff"}, {"e": None},
    ],
)  # fmt: skip
async def test_a_damaged_observation_does_not_hide_those_behind_it(redis, change):
    """An observation that cannot be read is None, whatever part is damaged; the next one is read."""
    store = Store(redis, "test")
    ids = await deliver(redis, 1)
    await store.record(STREAM, GROUP, [observation(ids[0])])
    (_, fields) = (await redis.xrange(store.keys.observations))[0]
    sound = dict(fields)
    for name, value in change.items():
        fields.pop(name.encode()) if value is None else fields.update({name.encode(): value})
    await redis.delete(store.keys.observations)
    await redis.xadd(store.keys.observations, fields)
    await redis.xadd(store.keys.observations, sound)
    (_, damaged), (last, read) = await store.observations_after(START, count=2, block_seconds=0.1)
    assert damaged is None
    assert read == observation(ids[0])
    assert [one async for one in store.observations_before(last)] == [read]
    assert [one async for one in store.all_observations()] == [(last, read)]


@pytest.mark.parametrize("name", ["judge", "lease", "request", "audit", "observations", "fingerprints"])
async def test_a_key_of_another_type_is_a_store_error(redis, name):
    """Another program's key under our name gives a clear error and no crash, for each key."""
    store = Store(redis, "test")
    await redis.sadd(getattr(store.keys, name), "member")
    calls = {
        "judge": store.load_checkpoint,
        "lease": lambda: store.hold_lease("one", 1),
        "request": store.request,
        "audit": store.audit,
        "observations": lambda: store.observations_after(START, count=1, block_seconds=0.05),
        "fingerprints": store.fingerprints,
    }
    with pytest.raises(StoreError, match="another type"):
        await calls[name]()


async def test_redis_away_is_a_store_error_and_not_reachable(own_redis):
    """Without a server nothing hangs: a ping says so, and `reachable` answers in time."""
    client = connect(own_redis.url, retries=0)
    store = Store(client, "test")
    assert await store.reachable()
    own_redis.stop()
    assert not await store.reachable(1.0)
    with pytest.raises(StoreError) as caught:
        await store.ping()
    assert not caught.value.refused
    await client.aclose()


COMMANDS = tuple(
    (  # noqa: SIM905  (a list to read and to copy)
        "ping client evalsha script xadd xreadgroup xread xack xclaim xpending xrange xrevrange xgroup "
        "xinfo get set del pexpire hget hgetall hkeys hlen hmget hset hsetnx hdel hincrby"
    ).split()
)
"""What a sidecar needs; docs/events.md lists it for the intake alone."""


async def everything(store: Store) -> None:
    """Do once what a sidecar does to Redis, everything of the store and of the intake."""
    redis = store.redis
    slices = SliceRegistry()
    consumer = Consumer(
        redis,
        sampler=Sampler(SamplingOptions(), deployment="test", slices=slices, clock=lambda: 0.0),
        slices=slices,
        out=asyncio.Queue(10),
        prefix=store.keys.prefix,
        options=IntakeOptions(stream=STREAM, group=GROUP, start="0", block_seconds=0.01, claim_idle_seconds=0.02),
    )
    await store.ping()
    await redis.xadd(STREAM, {"query": "fine"})
    await redis.xadd(STREAM, {"query": "also fine"})
    await redis.xadd(STREAM, {"nothing": "malformed"})
    await consumer.prepare()
    await redis.xreadgroup(GROUP, "dead", {STREAM: ">"}, count=1)
    await consumer.drain()
    await asyncio.sleep(0.05)
    assert await consumer.claim() == 1
    await consumer.keep()
    ids = [consumer._out.get_nowait().entry_id for _ in range(2)]
    assert await store.record(STREAM, GROUP, [observation(ids[0])]) == 1
    await store.acknowledge(STREAM, GROUP, [ids[1]])
    assert len(await store.observations_after(START, count=5, block_seconds=0.05)) == 1
    assert await store.oldest_observation()
    for _ in range(2):
        assert await store.hold_lease("one", 60)
    assert await store.checkpoint("one", {"last": "1-0"}, [baseline()])
    assert await store.load_checkpoint() == {"last": "1-0"}
    await store.remember_fingerprint("a", b"x")
    assert await store.fingerprints() == {"a": b"x"}
    await store.canaries.keep_scores("one", "old", scores())
    assert await store.canaries.add_run("one", run(1.0), [])
    assert await store.canaries.scores("old") is None
    assert await store.canaries.last_run() == (await store.canaries.runs_after(START))[0][1]
    assert len(await store.audit()) == 1
    await store.ask(Request("a", "recalibrate", "b", "c"))
    assert await store.request()
    await store.release_lease("one")
    await consumer.leave()


@contextlib.asynccontextmanager
async def limited(own_redis, commands):
    """Give a store of an ACL user with these commands and our two key patterns only, on an empty server."""
    admin = connect(own_redis.url)
    await admin.flushall()
    await admin.script_flush()
    await admin.execute_command(
        "ACL",
        "SETUSER",
        "sidecar",
        "reset",
        "on",
        ">secret",
        "~rag-drift:*",
        "~rag:*",
        *(f"+{one}" for one in commands),
    )
    await admin.aclose()
    client = connect(own_redis.url.replace("redis://", "redis://sidecar:secret@"))
    try:
        yield Store(client, "test")
    finally:
        await client.aclose()


async def test_a_limited_acl_user_is_enough(own_redis):
    """The listed commands on the two key patterns carry everything that store and intake do."""
    async with limited(own_redis, COMMANDS) as store:
        await everything(store)


async def test_no_command_of_the_acl_is_there_for_nothing(own_redis):
    """Without any one of the listed commands something fails: the list is minimal."""
    needless = []
    for command in COMMANDS:
        try:
            async with limited(own_redis, [one for one in COMMANDS if one != command]) as store:
                await everything(store)
        except StoreError:
            pass
        except NoPermissionError:  # the plain commands with which this test plays the service
            assert command in {"xadd", "xreadgroup"}
        else:
            needless.append(command)
    assert needless == []


async def test_a_wrong_password_is_refused_for_good(own_redis):
    """A refusal is told apart from an outage: waiting for it would not help. The password is in no message."""
    admin = connect(own_redis.url)
    await admin.execute_command("CONFIG", "SET", "requirepass", "right")
    await admin.aclose()
    for url in (own_redis.url, own_redis.url.replace("redis://", "redis://:wrongpass99@")):
        client = connect(url)
        with pytest.raises(StoreError) as caught:
            await Store(client, "test").ping()
        assert caught.value.refused
        assert "wrongpass99" not in str(caught.value)
        await client.aclose()
