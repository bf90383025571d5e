"""`rag-drift observations` and `rag-drift replay-log`: record on a real Redis, judge the record."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from sidecar.backtest import replay_log
from sidecar.errors import DataError
from sidecar.judge.judgement import Judgement
from sidecar.store import Store
from tests.judge.observations import SIGNAL, options, stream


def run(*arguments):
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "sidecar.cli", *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def record(tmp_path):
    """A record of a fall: 1,000 observations of calibration, 600 steady, 400 fallen."""
    file = tmp_path / "record.jsonl"
    with file.open("w") as out:
        for identity, one in stream(2000, seed=31, drop_from=1600):
            out.write(json.dumps({"id": identity, **asdict(one)}) + "\n")
    return file


def test_the_record_raises_what_the_judge_raised(record):
    """Replaying a file gives the very events and the very state that the judge had."""
    live = Judgement(options())
    expected = [event for identity, one in stream(2000, seed=31, drop_from=1600) for event in live.feed(identity, one)]
    test = replay_log(record, options())
    assert test.events == expected
    assert test.judgement is not None
    assert test.judgement.to_state() == live.to_state()
    assert test.observations == 2000


@pytest.mark.slow
def test_the_command_prints_alarms_for_people_and_machines(record):
    """A table names time, severity and size; JSON carries whole events; other settings give another answer."""
    short = ("--min-queries", 1000, "--min-slice-queries", 400, "--min-days", 1)
    shown = run("replay-log", record, *short)
    assert shown.returncode == 0, shown.stderr
    assert "alarm" in shown.stdout
    assert "1 alarms" in shown.stdout
    found = json.loads(run("replay-log", record, *short, "--json").stdout)
    (alarm,) = [event for event in found["events"] if event["kind"] == "alarm"]
    assert alarm["signal"] == SIGNAL
    assert found["alarm"] == 1
    blind = json.loads(run("replay-log", record, *short, "--min-effect", 0.9, "--json").stdout)
    assert blind["alarm"] == 0


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ("not json", "no JSON object"),
        ("[1]", "no JSON object"),
        ({"values": None}, "values has another type"),
        ({"values": {SIGNAL: 1.5}}, "must lie in [0, 1]"),
        ({"values": {SIGNAL: "secret"}}, "not finite"),
        ({"at": float("nan")}, "not finite"),
        ({"at": 1.79e12}, "unix seconds"),
        ({"slice": ["secret"]}, "slice has another type"),
        ({"query": "secret"}, "1 unknown fields"),
        ({"stack": {"secret": "x"}}, "stack must name"),
        ({"entry_id": ...}, "entry_id missing"),
    ],
    ids=str,
)
def test_a_broken_line_is_named_with_its_rule_and_without_its_content(record, change, rule):
    """File, line and rule, whatever part is broken; a wrong file may hold the text of queries."""
    good = json.loads(record.read_text().splitlines()[0])
    line = change if isinstance(change, str) else json.dumps({k: v for k, v in (good | change).items() if v is not ...})
    record.write_text(json.dumps(good) + "\n\n" + line + "\n")
    with pytest.raises(DataError, match=r"record\.jsonl:3") as caught:
        replay_log(record, options())
    assert rule in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_signal_that_is_in_no_observation_is_said(record):
    """A mistyped signal does not calibrate in silence."""
    with pytest.raises(DataError, match=r"no observation has the signal overlap; there are overlap@10"):
        replay_log(record, options(signals=("overlap",)))


@pytest.mark.slow
async def test_what_redis_keeps_is_written_and_judged(redis, redis_url, tmp_path):
    """Observations go from Redis to a file and through the judge without loss."""
    store = Store(redis, "recorded")
    await redis.xgroup_create("rag:queries", "g", mkstream=True)
    observations = [one for _, one in stream(30, seed=32)]
    for one in observations:
        await redis.xadd("rag:queries", {"query": "x"}, id=one.entry_id)
    await redis.xreadgroup("g", "c", {"rag:queries": ">"})
    assert await store.record("rag:queries", "g", observations) == 30
    config = tmp_path / "settings.yaml"
    least = {"encoder": {"model": "m"}, "index": "i"}
    retrievers = {"deployed": least, "reference": least}
    config.write_text(json.dumps({"deployment": "recorded", "redis": {"url": redis_url}, "retrievers": retrievers}))
    target = tmp_path / "out.jsonl"
    done = run("observations", "-c", config, target)
    assert done.returncode == 0, done.stderr
    assert "30 observations" in done.stderr
    assert len(target.read_text().splitlines()) == 30
    found = json.loads(run("replay-log", target, "-c", config, "--json").stdout)
    assert found["observations"] == 30
    assert found["verdicts"][0]["queries"] == 30
