"""What a sidecar does when something is wrong: at the start one clear line and an exit code, later it goes on."""

from __future__ import annotations

import json
import signal
import socket
import time

import pytest
import redis

from sidecar.demo.corpus import CORPUS_FILE
from tests.app.conftest import PASSAGES, settings

pytestmark = pytest.mark.slow

ONE_SERVER = pytest.mark.parametrize("redis_binary", ["redis-7-system"], indirect=True)
"""For what does not depend on the generation of Redis."""


def queries(built, count) -> list[str]:
    """Give that many different texts out of the corpus."""
    lines = (built / CORPUS_FILE).read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"][:120] for line in lines]
    return [f"{number} {texts[number % PASSAGES]}" for number in range(count)]


def refused(one, code) -> str:
    """Wait for the end, check the exit code, and give the lines that a person reads."""
    assert one.wait() == code, one.stderr.read_text()
    lines = [line for line in one.stderr.read_text().splitlines() if not line.startswith("{")]
    assert lines
    assert all(line.startswith("rag-drift: ") for line in lines), lines
    return "\n".join(lines)


@ONE_SERVER
def test_killed_and_started_again_it_loses_and_repeats_nothing(start, built, redis_server):
    """Each sampled entry is observed exactly once, though the process was killed with entries in its hands."""
    client = redis.Redis.from_url(redis_server.url)
    first = start(redis_server.url)
    first.ready()
    ids = [client.xadd(first.key, {"query": text}).decode() for text in queries(built, 400)]
    first.until(lambda: client.xlen(first.own("observations")) >= 16)
    first.process.send_signal(signal.SIGKILL)
    first.wait()
    held, done = client.xpending(first.key, "rag-drift")["pending"], client.xlen(first.own("observations"))
    assert held > 0
    assert done < 400
    second = start(redis_server.url, tree=first.tree)
    second.until(lambda: client.xlen(first.own("observations")) >= 400, 120)
    second.until(lambda: client.xpending(first.key, "rag-drift")["pending"] == 0)
    time.sleep(1.5)  # longer than the silence after which entries are claimed: nothing comes a second time
    observed = [fields[b"e"].decode() for _, fields in client.xrange(first.own("observations"))]
    assert sorted(observed) == sorted(ids)
    assert second.value("events_claimed_total") >= held
    assert second.value("replays_total") == 400 - done
    second.until(lambda: second.value("judge_active") == 1)
    second.until(lambda: json.loads(second.get("/api/v1/verdicts")[1])["verdicts"][0]["queries"] == 400)
    assert second.stop() == 0
    client.close()


def test_it_goes_on_when_redis_comes_back(start, built, own_redis):
    """Redis stops and starts again: the process stays, says that it is not ready, and works again without help."""
    client = redis.Redis.from_url(own_redis.url)
    one = start(own_redis.url)
    one.ready()
    for text in queries(built, 20):
        client.xadd(one.key, {"query": text})
    one.until(lambda: client.xlen(one.own("observations")) == 20)
    own_redis.stop()
    one.until(lambda: one.get("/-/ready")[0] == 503)
    assert "redis" in one.get("/-/ready")[1]
    assert one.get("/-/healthy")[0] == 200
    assert one.get("/api/v1/audit")[0] == 503
    one.process.send_signal(signal.SIGHUP)  # a reload in the middle of an outage is no reason to end either
    one.until(lambda: one.events("reloaded"))
    time.sleep(2)
    own_redis.start()
    one.ready()
    for text in queries(built, 20):
        client.xadd(one.key, {"query": text})
    one.until(lambda: client.exists(one.own("observations")) and client.xlen(one.own("observations")) == 20)
    one.until(lambda: one.value("judge_active") == 1)
    assert one.stop() == 0
    client.close()


@ONE_SERVER
def test_a_wrong_password_ends_it_with_one_line(start, own_redis):
    """Waiting would not help: exit 3 at once, with what to do, and without the password."""
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", "right-4711")
    begin = time.monotonic()
    one = start(own_redis.url, redis={"password": "wrong-4712"})
    line = refused(one, 3)
    assert time.monotonic() - begin < 20
    assert line.count("\n") == 0
    assert "password" in line
    for text in (one.stderr.read_text(), one.stdout.read_text()):
        assert "4711" not in text
        assert "4712" not in text
    with redis.Redis.from_url(own_redis.url, password="right-4711") as client:
        client.config_set("requirepass", "")


def test_an_unreachable_redis_ends_it_after_a_while(start):
    """Nobody answers: it waits, says so, and ends with 3. The wait is cut here, as no setting holds it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"redis://user:secret-4711@127.0.0.1:{free.getsockname()[1]}/0"
        one = start(url, prelude="import sidecar.app\nsidecar.app.REDIS_WAIT_SECONDS = 1.0")
        line = refused(one, 3)
    assert line == "rag-drift: reaching Redis: Redis is not reachable"
    assert one.events("waiting_for_redis")
    assert "4711" not in one.stderr.read_text()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"replay": {"k": 0}}, "replay.k = 0"),
        ({"stream": {"claim_idle_seconds": 1.0, "block_seconds": 0.9}}, "claim_idle_seconds"),
        ({"stream": {"fields": {"query": "q", "slice": "q"}}}, "used twice"),
        ({"sampling": {"rate": 0.0}}, "rate"),
        ({"sampling": {"slices": ["all"]}}, "slice name 'all'"),
        ({"sampling": {"max_slices": 1, "slices": ["a", "b"]}}, "maximum"),
        ({"redis": {"password_file": "/nowhere/secret"}}, "/nowhere/secret"),
        ({"redis": {"url": "redis://127.0.0.1:notaport/0"}}, "Redis URL"),
        ({"http": {"token": None, "token_file": "/nowhere/token"}}, "http.token_file"),
    ],
)
def test_broken_settings_end_it_before_the_port_opens(start, changes, rule):
    """Whatever is wrong with the settings is told with exit 2, before anything listens, is reached or loaded."""
    one = start("redis://127.0.0.1:1/0", **changes)
    assert rule in refused(one, 2)
    assert one.events("listening") == []


@ONE_SERVER
@pytest.mark.parametrize("part", ["model", "index"])
def test_a_folder_that_is_not_there_ends_it(start, built, redis_server, tmp_path, part):
    """A model or an index that is missing at the start is named, with exit 3."""
    tree = settings(built, redis_server.url)
    retriever = {"encoder": {"model": str(built / "model")}, "index": str(built / "index")}
    if part == "model":
        retriever["encoder"] = {"model": str(tmp_path / "nowhere")}
    else:
        retriever["index"] = str(tmp_path / "nowhere")
    tree["retrievers"] = {**tree["retrievers"], "deployed": retriever}
    line = refused(start(redis_server.url, tree=tree), 3)
    assert str(tmp_path / "nowhere") in line
    assert "\n" not in line


def test_a_port_in_use_ends_it(start):
    """Somebody else listens there: exit 2 with the setting's name."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused(start("redis://127.0.0.1:1/0", http={"port": port}), 2)
    assert f"http.port = {port}" in line


@ONE_SERVER
def test_it_can_be_stopped_while_it_starts(start, own_redis):
    """SIGTERM during the wait for Redis or the load of the models is obeyed as well."""
    own_redis.stop()
    one = start(own_redis.url)
    one.until(lambda: one.events("waiting_for_redis"))
    assert one.get("/-/ready")[0] == 503
    assert one.get("/-/ready")[1].startswith("waiting for: redis, models")
    assert one.stop() == 0


@ONE_SERVER
def test_a_damaged_checkpoint_stops_the_judge_and_not_the_replay(start, built, redis_server):
    """What the judge cannot read is said with the key to delete; when it is gone, judging begins anew."""
    client = redis.Redis.from_url(redis_server.url)
    tree = settings(built, redis_server.url)
    key = f"rag-drift:{{{tree['deployment']}}}:judge"
    client.set(key, '{"version": 1, "signal": "overlap@10", "tracks": [], "last": "0-0"}')
    client.hset(f"rag-drift:{{{tree['deployment']}}}:fingerprints", "old", b"of another version")
    client.set(f"rag-drift:{{{tree['deployment']}}}:request", "no request")
    one = start(redis_server.url, tree=tree)
    one.ready()
    for text in queries(built, 20):
        client.xadd(one.key, {"query": text})
    one.until(lambda: client.xlen(one.own("observations")) == 20)
    one.until(lambda: one.value("judge_failures_total") > 0)
    assert any(key in line["error"] for line in one.events("judge_failed"))
    client.delete(key)
    one.until(lambda: one.value("observations_judged_total") == 20)
    assert one.events("request_unreadable")
    assert one.stop() == 0
    client.close()
