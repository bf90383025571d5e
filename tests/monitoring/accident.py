"""The demo's fine-tuning accident from its first query to its last page, once, for all tests that look at it.

`rag-drift demo` runs as a user starts it. Where Prometheus and Alertmanager are on the machine they watch it from the
moment the sidecar is ready: calibration, accident, diagnosis, the acceptance by a person (`rag-drift calibrate` with
the demo's own settings), and the end of the sidecar. What happened is written down with its times; the servers stay, so
that tests may ask what they like of any moment. Nothing is judged here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.children import dying_with_parent
from tests.monitoring.quick import ABSENT, PAGE, ROUTE, seconds, watching
from tests.monitoring.servers import INTERVAL, free_port, until, waited
from tests.programs import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.monitoring.servers import Alertmanager, Prometheus
    from tests.monitoring.webhook import Notification, Webhook

DRIFTED = {"alertname": "RagDriftRetrievalDrifted", "severity": "critical"}
TRAP = {"alertname": "RagDriftPrecisionTrap", "severity": "critical"}
BURN = "slice:rag_drift_slo_burn:ratio_rate5m"

READY_SECONDS = 600.0
STORY_SECONDS = 1000.0
AFTERWARDS_SECONDS = 30.0
"""How long alerts that outlive the alarm are waited for: somebody may be paged for them."""
# SIGINT may be ignored where the tests run in the background of a shell; a person's terminal does not ignore it.
CODE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from sidecar.cli import main; main()"


@dataclass(slots=True)
class Demo:
    """One `rag-drift demo --json` that stays open until it is interrupted."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / "tmp").mkdir()
        environment = {name: text for name, text in os.environ.items() if not name.startswith("RAG_DRIFT")}
        line = dying_with_parent([sys.executable, "-c", CODE, "demo", "--json", "--port", str(self.port)])
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(
                line, stdout=out, stderr=err, env=environment | {"TMPDIR": str(self.folder / "tmp")}
            )

    @property
    def stdout(self) -> Path:
        """Give the file with the result."""
        return self.folder / "demo.json"

    @property
    def stderr(self) -> Path:
        """Give the file with the timeline."""
        return self.folder / "demo.log"

    def text(self) -> str:
        """Give the timeline so far."""
        return self.stderr.read_text(errors="replace")

    def says(self, words: str, seconds: float) -> float:
        """Wait until the timeline has these words, and give the time."""

        def said() -> bool:
            found = words in self.text()
            assert found or self.process.poll() is None, self.text()
            return found

        until(said, seconds, f"the demo says {words!r}", tell=self.text)
        return time.time()

    def settings(self) -> Path:
        """Give the sidecar's settings file."""
        (found,) = (self.folder / "tmp").glob("rag-drift-demo-*/sidecar.yaml")
        return found

    def interrupt(self) -> int:
        """Press Ctrl-C and give the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)

    def kill(self) -> None:
        """Leave no process behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@dataclass(slots=True)
class Moments:
    """When things were seen to happen (unix seconds)."""

    watched: float = 0.0
    calibrated: float = 0.0
    explained: float = 0.0
    accepted: float = 0.0
    stopped: float = 0.0


@dataclass(slots=True)
class Watch:
    """The servers that watched, and what they said while it happened.

    `alerts` is what Prometheus had when the cause was known (with its descriptions), `held` what Alertmanager did.
    """

    prometheus: Prometheus
    alertmanager: Alertmanager
    webhook: Webhook
    at: Moments = field(default_factory=Moments)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    held: list[dict[str, Any]] = field(default_factory=list)

    def alert(self, **labels: str) -> dict[str, Any]:
        """Give the one alert with these labels that Prometheus had when the cause was known."""
        found = [one for one in self.alerts if labels.items() <= one["labels"].items()]
        assert len(found) == 1, f"{labels}: {found}\n{self.tell()}"
        return found[0]

    def told(self, receiver: str, status: str = "firing", **labels: str) -> Notification:
        """Give the first notification of such an alert."""
        found = self.webhook.told(receiver, status, **labels)
        assert found, f"{receiver} was not told that {labels} is {status}\n{self.tell()}"
        return found[0]

    def tell(self) -> str:
        """Give what a failure needs: who was told what, and what Prometheus complains about."""
        told = "\n".join(str(one) for one in self.webhook.received) or "nobody was told anything"
        return f"{told}\n{self.prometheus.tail()}\n{self.alertmanager.tail()}"


@dataclass(slots=True)
class Accident:
    """What the demo said, how it ended, and what watched it; `watch` is None where the programs are missing."""

    result: dict[str, Any]
    exit_code: int
    timeline: str
    watch: Watch | None
    seconds: float


@contextmanager
def happened(folder: Path) -> Iterator[Accident]:
    """Let it happen, and keep the servers until the tests are done."""
    begin = time.monotonic()
    with ExitStack() as stack:
        demo = Demo(folder, free_port())
        stack.callback(demo.kill)
        demo.says("the sidecar watches", READY_SECONDS)
        watch = None
        if not missing("prometheus", "prometheus-alertmanager"):
            watch = Watch(*watching(stack, folder, demo.port))
        at = Moments() if watch is None else watch.at
        at.watched = time.time()
        at.calibrated = demo.says("baseline accepted", STORY_SECONDS)
        demo.says("stays open", STORY_SECONDS)
        if watch is not None:
            _explained(watch)
            _accepted(watch, demo)
        at.stopped = time.time()
        exit_code = demo.interrupt()
        if watch is not None:
            waited(lambda: watch.webhook.told(PAGE, **ABSENT), 60)
        assert demo.stdout.stat().st_size, demo.text()
        result = json.loads(demo.stdout.read_text())
        yield Accident(result, exit_code, demo.text(), watch, time.monotonic() - begin)


def _explained(watch: Watch) -> None:
    """Wait until the open alarm tells its cause and the canaries say trap, and write down what is known then."""

    def explained() -> bool:
        watch.alerts = watch.prometheus.alerts()
        firing = [one for one in watch.alerts if one["state"] == "firing"]
        told = [one["annotations"]["description"] for one in firing if DRIFTED.items() <= one["labels"].items()]
        trap = any(TRAP.items() <= one["labels"].items() for one in firing)
        return trap and any(" Diagnosis: " in one and " Canaries: " in one for one in told)

    def held() -> bool:
        watch.held = watch.alertmanager.alerts()
        # It says what it holds back once it has looked at the group again.
        return any(TRAP.items() <= one["labels"].items() and one["status"]["inhibitedBy"] for one in watch.held)

    waited(explained, 90)
    waited(held, 30)
    # While the demo waited for the canaries nobody asked anything, and a share of no queries is no number.
    waited(lambda: watch.prometheus.query(f"{BURN} >= 0"), 30)
    time.sleep(3 * INTERVAL)
    watch.at.explained = time.time()
    # Two intervals in which a page might have come again.
    pages = watch.webhook.told(PAGE, **DRIFTED)
    repeats = 2 * (seconds(ROUTE["group_interval"]) + INTERVAL)
    waited(lambda: pages and time.time() > pages[0].at + repeats, repeats)


def _accepted(watch: Watch, demo: Demo) -> None:
    """Accept the level as a person would, wait for the message that the alarm is over, and for what may follow."""
    line = [sys.executable, "-m", "sidecar.cli", "calibrate", "--config", str(demo.settings())]
    done = subprocess.run(
        [*line, "--by", "the test", "--why", "the new encoder is wanted"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    watch.at.accepted = time.time()
    waited(lambda: watch.webhook.told(PAGE, "resolved", **DRIFTED), 90)
    # What outlives the alarm would be told now: to nobody, if nothing does.
    waited(lambda: not any(_standing(watch)), AFTERWARDS_SECONDS)
    time.sleep(seconds(ROUTE["group_wait"]) + 2 * INTERVAL)


def _standing(watch: Watch) -> Iterator[dict[str, Any]]:
    """Give the firing alerts about retrieval and its objective."""
    for component in ("retrieval", "slo"):
        yield from (one for one in watch.prometheus.alerts(component=component) if one["state"] == "firing")
