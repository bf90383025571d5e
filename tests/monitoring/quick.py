"""What the scenarios share: our rules and routes, and how long their times are in a run.

A minute of the rules is a second of a test (`compress.py`), a scrape and an evaluation each second stand for one each
minute, and what a page may take is added up from the rules themselves.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.monitoring import compress
from tests.monitoring.servers import INTERVAL, Alertmanager, Prometheus
from tests.monitoring.webhook import Webhook

if TYPE_CHECKING:
    from contextlib import ExitStack

ROOT = Path(__file__).parents[2]
RULES = [ROOT / "dashboards" / "rules" / f"{name}.yaml" for name in ("recording", "alerts", "slo-7d")]
ROUTES = ROOT / "dashboards" / "alertmanager.yaml"
ROUTE: dict[str, Any] = yaml.safe_load(ROUTES.read_text(encoding="utf-8"))["route"]["routes"][0]
FACTOR = 60

JOB, NAMESPACE = "rag-drift", "shop"
OF_THE_JOB = {"job": JOB, "namespace": NAMESPACE}
PAGE, WORKING_DAY, REVIEW = "retrieval-page", "retrieval-working-day", "retrieval-review"
ABSENT = {"alertname": "RagDriftAbsent", "severity": "critical"}

EVALUATIONS = 2 * INTERVAL
"""A sample waits at most one interval for the recording rule, and what that records one for the alert; or an alert is
noticed at one evaluation and its `for` at another."""
BUSY = 2.0
"""What a busy machine may take for a scrape, a message from Prometheus to Alertmanager and one from there to us."""


def seconds(duration: str) -> float:
    """Give a duration of the rules or routes in seconds of a run."""
    return compress.milliseconds(duration) / 1000 / FACTOR


def holding(*, alertname: str, severity: str) -> float:
    """Give how long an alert waits before it fires, in seconds of a run: the longest of the rules that raise it."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    found = [one for group in groups for one in group["rules"] if one.get("alert") == alertname]
    return max(seconds(one.get("for", "0s")) for one in found if one["labels"]["severity"] == severity)


def watching(stack: ExitStack, folder: Path, port: int) -> tuple[Prometheus, Alertmanager, Webhook]:
    """Start the three servers that watch a sidecar on this port; they end with `stack`."""
    webhook = stack.enter_context(Webhook())
    alertmanager = stack.enter_context(Alertmanager(folder, ROUTES, webhook, factor=FACTOR))
    prometheus = Prometheus(
        folder,
        RULES,
        factor=FACTOR,
        job={JOB: [f"127.0.0.1:{port}"]},
        labels={"namespace": NAMESPACE},
        alertmanager=alertmanager,
    )
    return stack.enter_context(prometheus), alertmanager, webhook


def busy(prometheus: Prometheus, start: float, end: float) -> float:
    """Give what to allow a busy machine: the usual, and how much more than an interval once lay between two scrapes."""
    times = [at for at, _ in prometheus.scraped(f'up{{job="{JOB}"}}', start, end)]
    return BUSY + max((b - a for a, b in pairwise(times)), default=INTERVAL) - INTERVAL
