"""Prometheus and Alertmanager: the real servers, each for one test or one module.

They listen on free loopback ports, keep their data in a folder of the test, write their logs there, and cannot outlive
the thread that starts them. What they are given to watch and to say is the business of the tests; who is told is
`webhook.py`'s.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pytest
import yaml

from sidecar.children import dying_with_parent
from tests.monitoring import compress
from tests.programs import program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.monitoring.webhook import Webhook

INTERVAL = 1.0
"""Seconds between scrapes, and between evaluations of the rules."""

START_SECONDS = 30.0
ATTEMPTS = 5


def free_port() -> int:
    """Give a port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def waited(condition: Callable[[], Any], seconds: float) -> Any:
    """Wait until something holds, and give it or whatever false there is in the end."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def until(condition: Callable[[], Any], seconds: float, what: str, *, tell: Callable[[], str] = str) -> Any:
    """Wait until something holds and give it; `tell` says what there is when it does not come."""
    return waited(condition, seconds) or pytest.fail(f"{what}: not within {seconds:.0f} s\n{tell()}")


def get(url: str, seconds: float = 20.0) -> Any:
    """Get JSON; an answer that is an error is one with its text."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:  # noqa: S310  (our own address)
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            raise ValueError(f"{url}: {error.code}: {error.read().decode()}") from None


@dataclass(slots=True)
class Server:
    """One program with an HTTP port; `start` and `stop`, or `with`."""

    name: str
    folder: Path
    arguments: list[str]
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def base(self) -> str:
        """Give its address."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        path = program(self.name)
        for _ in range(ATTEMPTS):
            self.port = free_port()
            line = [path, *self.arguments, f"--web.listen-address=127.0.0.1:{self.port}"]
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(dying_with_parent(line), stdout=log, stderr=subprocess.STDOUT)
            end = time.monotonic() + START_SECONDS
            while self._process.poll() is None and time.monotonic() < end:
                if self._ready():
                    return self
                time.sleep(0.05)
            # Somebody may have taken the port between our look and the server's.
            self.__exit__()
        pytest.fail(f"{self.name} did not start:\n{self.tail()}")

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def log(self) -> Path:
        """Give the file with its output."""
        return self.folder / f"{self.name}.log"

    def tail(self, lines: int = 5) -> str:
        """Give the end of its log."""
        return "\n".join(line[:400] for line in self.log.read_text(errors="replace").splitlines()[-lines:])

    def counter(self, name: str) -> dict[str, float]:
        """Read one of its own metrics: numbers by what the series is called."""
        with urllib.request.urlopen(f"{self.base}/metrics", timeout=20) as answer:  # noqa: S310  (our own address)
            lines = answer.read().decode().splitlines()
        found = [line.rpartition(" ") for line in lines if line.startswith((f"{name}{{", f"{name} "))]
        assert found, f"{self.name} has no {name}"
        return {series: float(value) for series, _, value in found}

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base}/-/ready", timeout=1) as answer:  # noqa: S310  (our own address)
                return bool(answer.status == 200)
        except OSError:
            return False


class Prometheus(Server):
    """A Prometheus that scrapes some targets as one job, and evaluates our rules in quick motion."""

    def __init__(
        self,
        folder: Path,
        rule_files: Iterable[Path],
        *,
        factor: float,
        job: dict[str, list[str]],
        labels: dict[str, str],
        alertmanager: Alertmanager | None = None,
    ) -> None:
        """Write its configuration; `job` is the job's name and its targets (`host:port`)."""
        self._rule_files, self._factor = list(rule_files), factor
        self._targets = sum(map(len, job.values()))
        config: dict[str, Any] = {
            "global": {
                "scrape_interval": f"{INTERVAL:g}s",
                "scrape_timeout": f"{INTERVAL:g}s",
                "evaluation_interval": f"{INTERVAL:g}s",
            },
            "rule_files": [str(folder / "rules" / "*.yaml")],
            "scrape_configs": [
                {"job_name": name, "static_configs": [{"targets": targets, "labels": labels}]}
                for name, targets in job.items()
            ],
        }
        if alertmanager is not None:
            target = {"targets": [f"127.0.0.1:{alertmanager.port}"]}
            config["alerting"] = {"alertmanagers": [{"static_configs": [target]}]}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        arguments = [f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'prometheus'}"]
        super().__init__("prometheus", folder, arguments)

    def __enter__(self) -> Self:
        """Start it, and give it the rules once it scrapes: it begins after five seconds, which are minutes to them."""
        super().__enter__()
        assert self._process is not None
        until(lambda: self.value("sum(up)") == self._targets, START_SECONDS, "the first scrape", tell=self.tail)
        (self.folder / "rules").mkdir()
        for path in self._rule_files:
            tree = compress.rules(yaml.safe_load(path.read_text(encoding="utf-8")), self._factor)
            written = yaml.safe_dump(tree, sort_keys=False, width=1000)
            (self.folder / "rules" / path.name).write_text(written, encoding="utf-8")
        self._process.send_signal(signal.SIGHUP)
        until(self.rules, START_SECONDS, "the rules", tell=self.tail)
        return self

    def rules(self) -> list[dict[str, Any]]:
        """Give its rules with their health."""
        groups = get(f"{self.base}/api/v1/rules")["data"]["groups"]
        return [one for group in groups for one in group["rules"]]

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Ask for the series of an expression at one time, by default now; a scalar is one series without labels."""
        asked = {"query": expression} | ({} if at is None else {"time": f"{at:.3f}"})
        found = get(f"{self.base}/api/v1/query?{urllib.parse.urlencode(asked)}")["data"]
        return [{"metric": {}, "value": found["result"]}] if found["resultType"] == "scalar" else list(found["result"])

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """Ask for the lines of an expression."""
        asked = {"query": expression, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        return list(get(f"{self.base}/api/v1/query_range?{urllib.parse.urlencode(asked)}")["data"]["result"])

    def value(self, expression: str, at: float | None = None) -> float | None:
        """Give the one number of an expression, None if there is nothing."""
        found = self.query(expression, at)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def scraped(self, selector: str, since: float, at: float | None = None) -> list[tuple[float, float]]:
        """Give the samples (time, value) of one series as they were scraped or recorded, not looked up at steps."""
        at = time.time() if at is None else at
        found = self.query(f"{selector}[{max(1, round((at - since) * 1000))}ms]", at)
        assert len(found) <= 1, [one["metric"] for one in found]
        return [(when, float(value)) for when, value in (found[0]["values"] if found else ())]

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """Give the pending and firing alerts with these labels."""
        found = get(f"{self.base}/api/v1/alerts")["data"]["alerts"]
        return [one for one in found if labels.items() <= one["labels"].items()]

    def fired(self, since: float, at: float | None = None, **labels: str) -> dict[tuple[str, str], float]:
        """Give name and severity of the alerts that fired within a time, with when each did first."""
        at = time.time() if at is None else at
        matchers = "".join(f',{name}="{value}"' for name, value in labels.items())
        found: dict[tuple[str, str], float] = {}
        for one in self.query(f'ALERTS{{alertstate="firing"{matchers}}}[{max(1, round((at - since) * 1000))}ms]', at):
            name = (one["metric"]["alertname"], one["metric"]["severity"])
            found[name] = min(found.get(name, at), one["values"][0][0])
        return found


class Alertmanager(Server):
    """An Alertmanager with our routes and inhibitions in quick motion; every receiver is the webhook."""

    def __init__(self, folder: Path, config: Path, webhook: Webhook, *, factor: float) -> None:
        """Write its configuration: nothing of ours is changed but the times, and the receivers get an address."""
        tree = compress.alertmanager(yaml.safe_load(config.read_text(encoding="utf-8")), factor)
        for receiver in tree["receivers"]:
            assert receiver.keys() == {"name"}, "the example names receivers and leaves their content to its reader"
            receiver["webhook_configs"] = [{"url": webhook.url(receiver["name"])}]
        (folder / "alertmanager.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        arguments = [
            f"--config.file={folder / 'alertmanager.yaml'}",
            f"--storage.path={folder / 'alertmanager'}",
            "--cluster.listen-address=",
        ]
        super().__init__("prometheus-alertmanager", folder, arguments)

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """Give the alerts that it holds, muted ones with what mutes them."""
        return [one for one in get(f"{self.base}/api/v2/alerts") if labels.items() <= one["labels"].items()]
