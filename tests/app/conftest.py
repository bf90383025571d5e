"""The sidecar as anybody runs it: a process of the command line, with a small real index and a real encoder."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Self

import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sidecar.children import dying_with_parent
from sidecar.demo.corpus import CORPUS_FILE, write_corpus
from sidecar.demo.encoders import materialise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSAGES = 300
TOKEN = "letmein-4711"
_numbers = itertools.count()


def environment() -> dict[str, str]:
    """Give the environment of a child: no settings of ours, one thread, no network."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("RAG_DRIFT")}
    return clean | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run one command line to its end."""
    line = [sys.executable, "-m", "sidecar.cli", *arguments]
    return subprocess.run(
        line, capture_output=True, text=True, check=False, env=environment(), **{"timeout": 120, **options}
    )


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """Give a folder with a real model and an index of a few hundred real passages, built by the command."""
    folder = tmp_path_factory.mktemp("built")
    write_corpus(folder)
    lines = (folder / CORPUS_FILE).read_text(encoding="utf-8").splitlines(keepends=True)[:PASSAGES]
    (folder / CORPUS_FILE).write_text("".join(lines), encoding="utf-8")
    model = materialise("base", folder / "model", query_prompt=None)
    corpus = str(folder / CORPUS_FILE)
    done = command("index", "build", "--corpus", corpus, "--model", str(model), str(folder / "index"))
    assert done.returncode == 0, done.stderr
    assert f"{PASSAGES} documents, 384 dimensions" in done.stderr
    return folder


def settings(built: Path, redis_url: str, **changes: Any) -> dict[str, Any]:
    """Give settings of a deployment of its own; `changes` are merged in, section by section."""
    name = f"app-{os.getpid()}-{next(_numbers)}"
    retriever = {"encoder": {"model": str(built / "model")}, "index": str(built / "index")}
    tree: dict[str, Any] = {
        "deployment": name,
        "redis": {"url": redis_url},
        # A consumer must show that it lives four times within `claim_idle_seconds`, and that must be at least twice
        # `block_seconds`: these are the smallest values that the settings allow.
        "stream": {"key": f"rag:{name}", "start": "oldest", "block_seconds": 0.2, "claim_idle_seconds": 1.0},
        "sampling": {"rate": 1.0, "budget_per_second": 10_000, "burst": 10_000},
        "replay": {"batch_size": 16},
        "retrievers": {"deployed": retriever, "reference": retriever, "watch_seconds": 1.0},
        # The bundled sets would take the processors for half a minute at each start.
        "canaries": {"bundled": []},
        "http": {"host": "127.0.0.1", "port": 0, "token": TOKEN},
        "log": {"level": "debug"},
    }
    for section, values in changes.items():
        tree[section] = {**tree[section], **values} if isinstance(values, dict) else values
    return tree


class Process:
    """One `rag-drift run`; its output is in files that tests may search."""

    def __init__(self, folder: Path, tree: dict[str, Any], prelude: str = "") -> None:
        number = next(_numbers)
        self.tree = tree
        self.config = folder / f"settings-{number}.yaml"
        self.stdout, self.stderr = folder / f"stdout-{number}", folder / f"stderr-{number}"
        self.write(tree)
        self._port = 0
        code = f"{prelude}\nfrom sidecar.cli import main\nmain()"
        line = dying_with_parent([sys.executable, "-c", code, "run", "--config", str(self.config)])
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(line, stdout=out, stderr=err, env=environment())

    def write(self, tree: dict[str, Any]) -> None:
        """Write the settings file."""
        self.config.write_text(yaml.safe_dump(tree), encoding="utf-8")

    @property
    def key(self) -> str:
        """Give the query stream's key."""
        return self.tree["stream"]["key"]

    def own(self, name: str) -> str:
        """Give one of the sidecar's own keys."""
        return f"rag-drift:{{{self.tree['deployment']}}}:{name}"

    def log(self) -> list[dict[str, Any]]:
        """Give the log lines so far; what a person reads at the end is no JSON and left out."""
        lines = self.stderr.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Give the log lines of one event."""
        return [line for line in self.log() if line.get("event") == name]

    @property
    def port(self) -> int:
        """Give the port that it listens on, once it says so."""
        if not self._port:
            self.until(lambda: self.events("listening"), 60)
            self._port = self.events("listening")[0]["port"]
        return self._port

    def get(self, path: str, *, body: bytes | None = None, token: str | None = None) -> tuple[int, str]:
        """Ask an endpoint; a body makes it a POST."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body)
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  (our own address)
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def ready(self) -> None:
        """Wait until it is ready."""
        self.until(lambda: self.get("/-/ready")[0] == 200, 120)

    def value(self, name: str, **labels: str) -> float:
        """Give the sum of the samples of a metric that have these labels."""
        return sum(
            one.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for one in family.samples
            if one.name == f"rag_drift_{name}" and labels.items() <= one.labels.items()
        )

    def until(self, condition, seconds: float = 60.0) -> None:
        """Wait for a condition; fail at once when the process ends."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.stderr.read_text()[-3000:]
            assert time.monotonic() < end, self.stderr.read_text()[-3000:]
            time.sleep(0.1)

    def wait(self, seconds: float = 60.0) -> int:
        """Wait for its end and give the exit code."""
        return self.process.wait(seconds)

    def stop(self) -> int:
        """Ask it to stop and give the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(20)

    def __enter__(self) -> Self:
        """Nothing more to do: it runs."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def start(built, tmp_path) -> Iterator[Any]:
    """Start processes that end with the test: `start(redis_url, prelude=…, section={…})`."""
    running: list[Process] = []

    def begin(redis_url: str, *, tree: dict[str, Any] | None = None, prelude: str = "", **changes: Any) -> Process:
        running.append(Process(tmp_path, tree or settings(built, redis_url, **changes), prelude))
        return running[-1]

    yield begin
    for one in running:
        one.__exit__()


@pytest.fixture(scope="module")
def shared(built, tmp_path_factory, redis_server) -> Iterator[Process]:
    """Give one running sidecar that the tests of a module use together, one on each Redis."""
    with Process(tmp_path_factory.mktemp("shared"), settings(built, redis_server.url)) as one:
        one.ready()
        yield one


@pytest.fixture
def client(redis_server) -> Iterator[redis.Redis]:
    """Give a plain client of the shared server, which keeps what other tests have there."""
    with redis.Redis.from_url(redis_server.url) as one:
        yield one
