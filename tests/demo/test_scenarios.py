"""The demo from end to end, as a user starts it: four processes, real encoders, the exit code and the JSON.

The default (the standard library's 2,200 passages, fine-tuned) runs in `tests/monitoring/test_accident.py`, where
Prometheus watches it. The other scenarios run on the first 250 of those passages, given as a BEIR folder: the same way
through the program in a fifth of the time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sidecar.demo.corpus import DATA_FOLDER, write_corpus
from sidecar.embedded_redis import EmbeddedRedis, binaries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Give a BEIR folder with 250 passages and the demo's queries."""
    folder = tmp_path_factory.mktemp("beir")
    write_corpus(folder, limit=250)
    (folder / "queries.jsonl").write_text((DATA_FOLDER / "queries.jsonl").read_text())
    return folder


def demo(*arguments):
    """Run `rag-drift demo --once --json` and give the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "sidecar.cli", "demo", "--once", "--json", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )


def result(done):
    """Read the JSON; show the timeline if there is none."""
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_a_benign_build_is_called_changed_and_no_trap(small):
    """The same encoder with 8-bit weights raises nothing, and no domain is called a trap or a loss."""
    done = demo("--scenario", "int8-build", "--corpus", str(small))
    found = result(done)
    assert done.returncode == 0, done.stderr
    assert found["alarm"] is None
    assert found["canaries"][0]["name"] == "changed_not_worse"
    assert {one["name"] for one in found["canaries"]} <= {
        "unchanged",
        "changed_not_worse",
        "changed_unclear",
        "improved",
    }


@pytest.mark.parametrize("scenario", ["half-index", "lost-prefix", "query-shift"])
def test_each_scenario_gets_its_verdict(small, scenario):
    """The sidecar tells the scenarios apart by what changed."""
    done = demo("--scenario", scenario, "--corpus", str(small))
    assert done.returncode == 0, done.stderr
    assert result(done)["scenario"] == scenario


def test_nothing_is_raised_in_20_000_steady_queries_on_a_server_of_ones_own(small):
    """Four weeks of the demo's clock without a change pass without an alarm, and nothing is left on the server."""
    import redis

    with EmbeddedRedis(list(binaries().values())[-1]) as server:
        done = demo("--scenario", "steady", "--corpus", str(small), "--redis-url", server.url)
        left = redis.Redis.from_url(server.url).keys("*")
    found = result(done)
    assert done.returncode == 0, done.stderr
    assert found["alarm"] is None
    assert found["queries_after_change"] == 20_000
    assert found["queries_judged"] >= 25_000
    assert left == []


def test_the_wrong_verdict_is_exit_1(small):
    """When the alarm does not come within the queries allowed, the demo says so and exits 1."""
    done = demo("--scenario", "lost-prefix", "--corpus", str(small), "--queries", "1")
    found = result(done)
    assert done.returncode == 1
    assert found["verdict"].startswith("no alarm")
    assert not found["passed"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the order to die with the parent is Linux' own")
def test_a_killed_demo_leaves_no_process_behind(small):
    """A demo that is killed with -9 takes Redis, service and sidecar with it."""
    assert binaries()
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecar.cli", "demo", "--once", "--corpus", str(small)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    below = set()
    while len(below) < 3 and time.monotonic() < deadline:
        below = _children(process.pid)
        time.sleep(0.2)
    assert len(below) >= 3
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while any(_alive(pid) for pid in below) and time.monotonic() < deadline + 20:
        time.sleep(0.2)
    assert [pid for pid in below if _alive(pid)] == []


def test_a_folder_that_is_no_collection_is_refused(tmp_path):
    """A wrong --corpus is one clear line and exit 2, without a traceback."""
    done = demo("--corpus", str(tmp_path))
    assert done.returncode == 2
    assert "corpus.jsonl" in done.stderr
    assert "Traceback" not in done.stderr


def _children(pid):
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
