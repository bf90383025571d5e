"""The example of an Alertmanager configuration: who is told, and which alert speaks for which.

amtool checks routes; inhibition has no dry run, so a real Alertmanager is given alerts and asked which of them it
mutes. What Prometheus sends it in a drift, and what arrives at whom and when, is the end-to-end test's business.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.dashboards.expressions import came_out, parsed
from tests.dashboards.promtool import run
from tests.dashboards.test_rules import ALERTS, seconds
from tests.monitoring.servers import Server, get
from tests.programs import need

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = Path(__file__).parents[2] / "dashboards" / "alertmanager.yaml"
RECEIVERS = {"critical": "retrieval-page", "warning": "retrieval-working-day", "info": "retrieval-review"}
KEPT_DAYS = 5
"""Alertmanager forgets after 120 hours what it has sent, by default; a longer interval would repeat at random."""

Alert = dict[str, str]


def alert(name: str, severity: str, **labels: str) -> Alert:
    """Give an alert's own labels."""
    return {"alertname": f"RagDrift{name}", "severity": severity, **labels}


LARGEST = alert("RetrievalDrifted", "critical", fall="critical")
MAJOR, MINOR = alert("RetrievalDrifted", "critical", fall="major"), alert("RetrievalDrifted", "warning")
TRAP = alert("PrecisionTrap", "critical", probe_set="generalization", domain="all", signature="precision_trap")
TRAP_IN_PART = alert("PrecisionTrap", "warning", probe_set="generalization")
LOSS = alert("CanaryRegression", "warning", probe_set="generalization", domain="cloud")
BURN = alert("SloBurn", "critical", slice="legal", slo_window="7d")
SLOW_BURN = alert("SloBurn", "warning", slice="legal", slo_window="7d")
TICKET, ENCODER = alert("RetrievalTicket", "info"), alert("EncoderChanged", "warning")
MISMATCH = alert("IndexMismatch", "critical")
ABSENT, NO_JUDGE = alert("Absent", "critical"), alert("NoJudge", "critical")
STALE, FROZEN = alert("EvaluationStale", "critical", loop="judge"), alert("EvaluationStale", "warning", loop="frozen")
GONE = alert("Absent", "critical", job="", namespace="")

# What else fires, what is asked about, and whether it is muted; all of one job unless they say otherwise.
CASES: dict[str, tuple[list[Alert], Alert, bool]] = {
    "major-speaks-for-minor": ([MAJOR], MINOR, True),
    "largest-speaks-for-minor": ([LARGEST], MINOR, True),
    "major-is-told": ([MINOR], MAJOR, False),
    "burn-speaks-for-the-slow-one": ([BURN], SLOW_BURN, True),
    "burn-of-another-slice": ([BURN], SLOW_BURN | {"slice": "support"}, False),
    "trap-speaks-for-its-parts": ([TRAP], TRAP_IN_PART, True),
    "trap-of-another-set": ([TRAP], TRAP_IN_PART | {"probe_set": "own"}, False),
    "judge-is-not-the-frozen-probes": ([STALE], FROZEN, False),
    "page-of-another-name": ([MISMATCH], ENCODER, False),
    "page-speaks-for-a-canary": ([MAJOR], LOSS, True),
    "page-speaks-for-a-ticket": ([MAJOR], TICKET, True),
    "page-speaks-for-frozen-probes": ([MAJOR], alert("FrozenProbesMoved", "warning"), True),
    "page-speaks-for-fidelity": ([LARGEST], alert("ReplayFidelityLow", "warning"), True),
    "page-of-another-job": ([MAJOR | {"job": "another"}], LOSS, False),
    "page-of-another-namespace": ([MAJOR | {"namespace": "another"}], LOSS, False),
    "page-and-the-monitor": ([LARGEST], NO_JUDGE, False),
    "page-and-the-next-encoder": ([LARGEST], ENCODER, False),
    "page-and-the-index": ([LARGEST], MISMATCH, False),
    "minor-speaks-for-a-ticket": ([MINOR], TICKET, True),
    "minor-and-a-canary": ([MINOR], LOSS, False),
    "largest-speaks-for-the-trap": ([LARGEST], TRAP, True),
    "burn-that-the-rules-let-fire": ([LARGEST], BURN, False),
    "major-and-the-trap": ([MAJOR], TRAP, False),
    "major-and-the-burn": ([MAJOR], BURN, False),
    "trap-speaks-for-its-canaries": ([TRAP], LOSS, True),
    "trap-in-part-and-canaries": ([TRAP_IN_PART], LOSS, False),
    "trap-and-canaries-of-another-set": ([TRAP], LOSS | {"probe_set": "own"}, False),
    "absent-speaks-for-the-alarm": ([ABSENT], MAJOR, True),
    "absent-speaks-for-the-judge": ([ABSENT], NO_JUDGE, True),
    "absent-speaks-for-the-burn": ([ABSENT], BURN, True),
    "absent-is-told": ([MAJOR, NO_JUDGE], ABSENT, False),
    "absent-job-and-another": ([ABSENT | {"job": "another"}], MAJOR, False),
    "none-anywhere-and-one-that-is": ([GONE], MAJOR, False),
    "no-judge-speaks-for-evaluations": ([NO_JUDGE], STALE, True),
    "no-judge-speaks-for-frozen-probes": ([NO_JUDGE], FROZEN, True),
    "no-judge-speaks-for-canaries": ([NO_JUDGE], alert("CanariesStale", "warning", probe_set="own"), True),
    "no-judge-speaks-for-replay": ([NO_JUDGE], alert("NotReplaying", "critical"), True),
    "no-judge-speaks-for-silence": ([NO_JUDGE], alert("StreamSilent", "warning"), True),
    "no-judge-and-the-alarm": ([NO_JUDGE], MAJOR, False),
    "nobody-elses-alerts": ([MAJOR, ABSENT], {"alertname": "KubePodCrashLooping", "severity": "warning"}, False),
    "no-namespaces": ([MAJOR | {"namespace": ""}], LOSS | {"namespace": ""}, True),
}


@cache
def config() -> dict[str, Any]:
    """Read the example."""
    return dict(yaml.safe_load(CONFIG.read_text(encoding="utf-8")))


# --- Routes


def test_amtool_accepts_it():
    """The file can be loaded as it stands."""
    done = run("amtool", "check-config", str(CONFIG))
    assert done.returncode == 0, done.stdout + done.stderr


def test_amtool_would_complain(tmp_path):
    """The check above can fail: a route to nobody is found."""
    (tmp_path / "bad.yaml").write_text(CONFIG.read_text().replace("receiver: retrieval-page", "receiver: nobody"))
    assert run("amtool", "check-config", str(tmp_path / "bad.yaml")).returncode != 0


def routed(**labels: str) -> str:
    """Ask amtool who is told."""
    pairs = [f"{name}={value}" for name, value in labels.items()]
    done = run("amtool", "config", "routes", "test", f"--config.file={CONFIG}", *pairs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("severity", RECEIVERS)
def test_each_severity_has_its_receiver(severity):
    """Somebody is woken, or told in the morning, or at the review: for every alert of that severity."""
    for name in sorted({rule["alert"] for rule in ALERTS if rule["labels"]["severity"] == severity}):
        assert routed(alertname=name, severity=severity, namespace="search", job="rag-drift") == RECEIVERS[severity]


def test_other_alerts_go_where_they_went():
    """The route takes our alerts and no others."""
    assert routed(alertname="KubePodCrashLooping", severity="critical") == "default"
    assert routed(alertname="Watchdog", severity="info") == "default"


def test_nothing_is_lost_and_nothing_repeats_for_days():
    """Jobs and components are told apart, and what Alertmanager remembers of an alarm outlasts the time to the next."""
    (route,) = config()["route"]["routes"]
    for one in (route, *route["routes"]):
        assert {"namespace", "job", "component"} <= set(one.get("group_by", route["group_by"]))
        repeat = one.get("repeat_interval", route["repeat_interval"])
        assert seconds(repeat) < KEPT_DAYS * 86_400


# --- Inhibition, as it is written


def matches(matchers: list[str], labels: dict[str, str]) -> bool:
    """Say whether labels match, as Alertmanager does it."""
    for text in matchers:
        name, operator, value = re.fullmatch(r'(\w+)(=~|!=|=)"(.*)"', text).groups()
        has = labels.get(name, "")
        if {"=": has == value, "!=": has != value, "=~": re.fullmatch(value, has) is not None}[operator] is False:
            return False
    return True


def pairs() -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Give every inhibition with the rules that it lets speak for each other."""
    for one in config()["inhibit_rules"]:
        for source, target in product(ALERTS, repeat=2):
            texts = [{"alertname": rule["alert"], **rule["labels"]} for rule in (source, target)]
            meet = matches(one["source_matchers"], texts[0]) and matches(one["target_matchers"], texts[1])
            if meet and source is not target:
                yield one, source, target


def test_every_name_in_an_inhibition_is_an_alert():
    """A name that is misspelt mutes nothing, and nothing tells."""
    named = set(re.findall(r"RagDrift\w+", CONFIG.read_text()))
    assert named <= {rule["alert"] for rule in ALERTS}
    met = {id(one) for one, _, _ in pairs()}
    assert [one for one in config()["inhibit_rules"] if id(one) not in met] == []


def test_what_must_be_equal_is_on_both_or_on_neither():
    """A label that only one of two alerts has is never equal: that inhibition would be dead."""
    wrong = []
    for one, source, target in pairs():
        if "alertname" in one["equal"] and source["alert"] != target["alert"]:
            continue
        sides = [came_out(parsed(rule["expr"])) | rule["labels"].keys() | {"alertname"} for rule in (source, target)]
        dead = [label for label in one["equal"] if (label in sides[0]) != (label in sides[1])]
        wrong += [f"{label}: {source['alert']} for {target['alert']}" for label in dead]
    assert wrong == []


# --- Inhibition, as Alertmanager does it


@pytest.fixture(scope="module")
def muted(tmp_path_factory) -> dict[str, bool]:
    """Give a real Alertmanager the alerts of all cases, each in a job of its own, and ask which of them it mutes."""
    need("prometheus-alertmanager")
    folder = tmp_path_factory.mktemp("alertmanager")
    arguments = [f"--config.file={CONFIG}", f"--storage.path={folder / 'data'}", "--cluster.listen-address="]
    end = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    sent, asked = [], {}
    for number, (name, (others, target, _)) in enumerate(CASES.items()):
        for one in (*others, target):
            labels = {"job": f"job-{number}", "namespace": "search", **one}
            sent.append({"labels": {key: value for key, value in labels.items() if value}, "endsAt": end})
        asked[name] = sent[-1]["labels"]
    with Server("prometheus-alertmanager", folder, arguments) as server:
        request = urllib.request.Request(  # noqa: S310  (our own address)
            f"{server.base}/api/v2/alerts", json.dumps(sent).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  (our own address)
            assert answer.status == 200
        wanted = sum(is_muted for _, _, is_muted in CASES.values())
        deadline = time.monotonic() + 10
        while True:
            held = get(f"{server.base}/api/v2/alerts")
            status = {frozenset(one["labels"].items()): one["status"] for one in held}
            now = {name: bool(status[frozenset(labels.items())]["inhibitedBy"]) for name, labels in asked.items()}
            if sum(now.values()) >= wanted or time.monotonic() > deadline:
                return now
            time.sleep(0.1)


@pytest.mark.parametrize("name", CASES)
def test_alertmanager_mutes_what_another_alert_speaks_for(name, muted):
    """One event, one page: the case says which alerts fire, and whether the one in question is told."""
    assert muted[name] == CASES[name][2]
