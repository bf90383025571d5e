"""A running sidecar, from events on the stream to metrics, verdicts and requests; shared by the tests of this file."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid

import pytest
import redis.asyncio

from sidecar.publish import publish
from tests.app.conftest import TOKEN, command

pytestmark = pytest.mark.slow

MARKER = "zyxquerymarker"
OUTCOMES = ("queued", "unsampled", "shed_budget", "shed_queue", "malformed")

MALFORMED = {
    "missing_query": [{"question": f"{MARKER} one"}],
    "empty_query": [{"query": "  \n"}],
    "not_utf8": [{"query": MARKER.encode() + b"\xff"}, {"query": f"{MARKER} two", "session_id": b"\xfe"}],
    "too_large": [{"query": MARKER * 750_000}, {"query": f"{MARKER} three", "trace_id": MARKER * 100}],
    "bad_documents": [
        {"query": f"{MARKER} four", "documents": "[{" + MARKER},
        {"query": f"{MARKER} five", "documents": json.dumps({"id": MARKER})},
        {"query": f"{MARKER} six", "documents": json.dumps([3])},
        {"query": f"{MARKER} seven", "documents": json.dumps([{"id": "a", "score": "high"}])},
        {"query": f"{MARKER} eight", "documents": '[{"id": "a", "score": NaN}]'},
        {"query": f"{MARKER} nine", "documents": "[" * 20_000},
    ],
    "bad_number": [{"query": f"{MARKER} ten", "step": "first"}, {"query": f"{MARKER} eleven", "top_k": "0"}],
    "bad_slice": [{"query": f"{MARKER} twelve", "slice": "all"}, {"query": f"{MARKER} thirteen", "slice": "a b"}],
    "unknown_version": [{"query": f"{MARKER} fourteen", "v": "2"}],
}


def handled(shared) -> float:
    """Count the entries that have come to an end: observed by replay, or with another outcome."""
    return shared.value("replays_total") + sum(
        shared.value("events_total", outcome=outcome) for outcome in OUTCOMES if outcome != "queued"
    )


def send(shared, client, count) -> None:
    """Publish that many fine queries and wait until they are observed."""
    before = client.xlen(shared.own("observations"))
    for _ in range(count):
        client.xadd(shared.key, {"query": f"{MARKER} {uuid.uuid4()}"})
    shared.until(lambda: client.xlen(shared.own("observations")) == before + count)


def test_it_says_what_it_is_and_that_it_is_ready(shared):
    """A started sidecar is alive and ready, and names its encoders; the reference's index is its own."""
    assert shared.get("/-/healthy") == (200, "healthy\n")
    assert shared.get("/-/ready") == (200, "ready\n")
    assert shared.value("ready") == 1
    assert shared.value("encoder_info") == 2
    assert shared.value("index_documents", role="deployed") == 300
    assert shared.value("index_matches_encoder") == 2


async def test_published_events_are_replayed_and_every_count_adds_up(shared, redis_server):
    """Events of the helper and of plain XADD are sampled, replayed once, judged, and counted alike everywhere."""
    async with redis.asyncio.Redis.from_url(redis_server.url) as client:
        earlier = int(await client.xlen(shared.key))
        for number in range(30):
            assert await publish(
                client, query=f"{MARKER} how is a list sorted {number}?", documents=[("a", 0.9), ("b", 0.8)],
                slice="docs", session_id=f"{MARKER}-session-{number % 3}", step=number // 3, trace_id="t", top_k=10,
                encoder="v1", stream=shared.key, timeout=10,
            )  # fmt: skip
        for number in range(20):
            await client.xadd(shared.key, {"query": f"{MARKER} what does asyncio do {number}"})
        total = earlier + 50
        await asyncio.to_thread(shared.until, lambda: handled(shared) == total)
        assert await client.xlen(shared.own("observations")) == shared.value("replays_total") == 50
        assert (await client.xpending(shared.key, "rag-drift"))["pending"] == 0
        assert int(await client.hget(shared.own("intake"), "handled")) == total
    assert sum(shared.value("events_total", outcome=one) for one in OUTCOMES) == total
    assert shared.value("events_total", outcome="queued") == 50
    assert shared.value("sampling_decisions_total", decision="sampled") == total
    assert shared.value("replays_total", slice="docs") == 30
    assert shared.value("replays_total", slice="default") == 20
    # The same model and index on both sides agree fully, which lands in the last bucket of each histogram.
    assert shared.value("agreement_ratio_count", signal="overlap@10") == 50
    assert shared.value("agreement_ratio_sum", signal="overlap@10") == 50
    assert shared.value("agreement_detail_ratio_count", signal="fidelity@10") == 30
    assert (
        shared.value("agreement_detail_ratio_sum", signal="fidelity@10") == 0
    )  # "a" and "b" are no documents of the index
    await asyncio.to_thread(shared.until, lambda: shared.value("observations_judged_total") == 50)
    assert shared.value("replay_failures_total") == shared.value("judge_failures_total") == 0
    assert shared.value("events_lost_total") == 0


def test_malformed_entries_of_every_kind_are_put_aside(shared, client):
    """Each is counted by its reason and kept with the dead letters, and the good ones around them are replayed."""
    entries = [(reason, fields) for reason, kinds in MALFORMED.items() for fields in kinds]
    replayed, letters = shared.value("replays_total"), client.xlen(shared.own("dead-letters"))
    before = {reason: shared.value("events_malformed_total", reason=reason) for reason in MALFORMED}
    for _, fields in entries:
        client.xadd(shared.key, {"query": f"{MARKER} fine"})
        client.xadd(shared.key, fields)
    shared.until(lambda: shared.value("replays_total") == replayed + len(entries))
    shared.until(lambda: client.xlen(shared.own("dead-letters")) == letters + len(entries))
    for reason, kinds in MALFORMED.items():
        assert shared.value("events_malformed_total", reason=reason) == before[reason] + len(kinds), reason
    found = [fields[b"reason"].decode() for _, fields in client.xrange(shared.own("dead-letters"))]
    assert found[letters:] == [reason for reason, _ in entries]
    assert client.xpending(shared.key, "rag-drift")["pending"] == 0
    assert shared.get("/-/ready")[0] == 200


def test_a_reload_takes_good_settings_and_leaves_bad_ones(shared, client):
    """By signal and by request: a good file is used, a bad one is refused with the rule, and replay goes on."""
    read = shared.value("config_last_reload_success_timestamp_seconds")
    changed = {**shared.tree, "sampling": {**shared.tree["sampling"], "slices": ["tenant-a"]}}
    shared.write(changed)
    shared.process.send_signal(signal.SIGHUP)
    shared.until(lambda: shared.value("config_last_reload_success_timestamp_seconds") > read)
    shared.until(lambda: "tenant-a" in shared.get("/metrics")[1])
    shared.ready()
    send(shared, client, 5)
    for section, change, rule in (
        ("replay", {"batch_size": 0}, "replay.batch_size"),
        ("sampling", {"rate": 0}, "rate"),
        ("stream", {"fields": {"query": "x", "documents": "x"}}, "used twice"),
        ("sampling", {"slices": ["not a name"]}, "not a name"),
        ("http", {"port": 1234}, "restart"),
    ):
        shared.write({**changed, section: {**changed[section], **change}})
        status, body = shared.get("/-/reload", body=b"", token=TOKEN)
        assert status == 422, body
        assert rule in body
        assert shared.value("config_last_reload_successful") == 0
    shared.process.send_signal(signal.SIGHUP)
    shared.until(lambda: len(shared.events("reload_failed")) == 6)
    send(shared, client, 5)
    assert shared.get("/-/reload", body=b"", token="wrong")[0] == 401
    shared.write(shared.tree)
    assert shared.get("/-/reload", body=b"", token=TOKEN) == (200, '{"reloaded": true}')
    assert shared.value("config_last_reload_successful") == 1
    shared.until(lambda: shared.value("judge_active") == 1)
    shared.ready()
    send(shared, client, 5)


def test_status_and_calibrate_work_from_another_shell(shared, client):
    """`status` shows what the judge holds, as a table and as JSON; `calibrate` reaches the judge and is on record."""
    send(shared, client, 3)
    shared.until(lambda: client.exists(shared.own("judge")))
    shown = command("status", "--config", str(shared.config))
    assert shown.returncode == 0, shown.stderr
    assert "calibrating" in shown.stdout
    told = command("status", "--config", str(shared.config), "--json")
    found = json.loads(told.stdout)
    assert found["alarm"] is None
    assert found["verdicts"][0]["slice"] == "all"
    assert found["verdicts"][0]["queries"] > 0
    asked = command("calibrate", "--config", str(shared.config), "--by", "ann", "--why", "a better model")
    assert asked.returncode == 0, asked.stderr

    def trail():
        return json.loads(shared.get("/api/v1/audit")[1])

    shared.until(lambda: trail() and trail()[0]["kind"] == "calibration_started")
    assert (trail()[0]["by"], trail()[0]["why"]) == ("ann", "a better model")
    body = json.dumps({"by": "bob", "why": "again"}).encode()
    assert shared.get("/api/v1/calibrations", body=body)[0] == 401
    assert shared.get("/api/v1/calibrations", body=body, token=TOKEN)[0] == 202
    shared.until(lambda: trail()[0]["by"] == "bob")
    assert [event["kind"] for event in trail()] == ["calibration_started"] * 2
    verdicts = json.loads(shared.get("/api/v1/verdicts")[1])
    assert verdicts["verdicts"][0]["state"] == "calibrating"


def test_an_entry_from_the_future_is_taken_and_counted(shared, client):
    """A service with a wrong clock is counted and does not end the monitoring."""
    seconds, _ = client.time()
    before = client.xlen(shared.own("observations"))
    client.xadd(shared.key, {"query": f"{MARKER} from the future"}, id=f"{(seconds + 3600) * 1000}-0")
    shared.until(lambda: client.xlen(shared.own("observations")) == before + 1)
    assert shared.value("events_clock_skewed_total") >= 1


def test_no_query_text_is_anywhere_but_on_the_two_streams(shared, client):
    """Standard output and error, every answer, and every other Redis key are free of what users asked."""
    for kinds in MALFORMED.values():
        client.xadd(shared.key, kinds[0])
    send(shared, client, 3)
    places = {
        "stdout": shared.stdout.read_bytes(),
        "stderr": shared.stderr.read_bytes(),
        **{
            path: shared.get(path)[1].encode()
            for path in ("/", "/metrics", "/-/ready", "/api/v1/verdicts", "/api/v1/audit")
        },
    }
    readers = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"stream": client.xrange,
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"list": lambda key: client.lrange(key, 0, -1),
    }
    secret = {shared.key, shared.own("dead-letters")}
    for key in client.keys("*"):
        if key.decode() not in secret:
            places[key.decode()] = repr(readers[client.type(key)](key)).encode() + key
    assert {shared.own(name) for name in ("observations", "judge", "intake", "fingerprints")} <= set(places)
    assert [place for place, content in places.items() if MARKER.encode() in content] == []
    # The search can find something: the text is where it belongs.
    assert MARKER in repr(client.xrange(shared.key, count=5))
    assert TOKEN.encode() not in places["stderr"]


def test_it_stops_when_asked(shared, client):
    """SIGTERM ends it with 0 within seconds, lease handed back, nothing left pending. Last of this file."""
    shared.process.send_signal(signal.SIGTERM)
    assert shared.wait(10) == 0
    assert client.exists(shared.own("lease")) == 0
    assert client.xpending(shared.key, "rag-drift")["pending"] == 0
    assert client.xinfo_consumers(shared.key, "rag-drift") == []
    assert shared.events("stopped")
    errors = [line["event"] for line in shared.log() if line["level"] in {"error", "critical"}]
    assert set(errors) <= {"reload_failed"}
    assert len(shared.log()) == len(shared.stderr.read_text().splitlines()), "every line on standard error is JSON"
    assert shared.stdout.read_bytes() == b""
