"""The rules' cases: promtool runs them, and each alert of each severity has a quiet, a "not yet" and a firing one.

The cases are in `dashboards/rules/tests`, for promtool. Their names say what they are about:

    RagDriftNoJudge critical: quiet (why)            no such alert, long enough for one
    RagDriftNoJudge critical: not yet (why)          just below the threshold, or not for long enough
    RagDriftNoJudge critical: firing (why)           with all labels and texts
    RagDriftNoJudge critical: not yet, then firing   one evaluation apart
    one event: ...  recording: ...                   sentences about lasting alarms, or about recorded series

Their input must look like what the exporter really shows, so names, labels and values are compared with the registry;
and a real registry in steady operation, read by promtool, fires nothing.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from prometheus_client.utils import floatToGoString
from promql_parser import MatchOp

from sidecar.exporter.objective_metrics import RATIO_BUCKETS
from sidecar.probesets.library import find_sets
from sidecar.replay.compare import signal_names
from tests.dashboards.expressions import EVERY_FILE, RULES, TARGET, families, parsed, rules, values
from tests.dashboards.promtool import promtool
from tests.dashboards.test_rules import named, seconds
from tests.exporter.canary_runs import ran
from tests.exporter.conftest import metrics
from tests.exporter.test_metrics import judged, observations, samples
from tests.programs import need
from tests.replay.doubles import retrievers

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from sidecar.exporter.metrics import Metrics

CASES = RULES / "tests"
FILES = sorted(path.name for path in CASES.glob("*.yaml"))
KINDS = ("quiet", "not yet", "firing")
NAME = re.compile(
    r"(?P<alert>RagDrift\w+) (?P<severities>(?:critical|warning|info)(?:, (?:critical|warning|info))*): "
    r"(?P<kind>quiet|not yet|firing|not yet, then firing)(?: \(.+\))?"
)
OPEN = {"slice", "signal", "probe_set", "domain", "phenomenon", "version", "python", "checksum", "kind", "fingerprint"}
"""Labels whose values no list in the code bounds."""


@dataclass(frozen=True)
class Case:
    """One named group of a test file."""

    file: str
    rule_files: tuple[str, ...]
    interval: int
    """Seconds between two evaluations."""
    group: dict[str, Any]

    @property
    def name(self) -> str:
        """Give what it is about."""
        return str(self.group["name"])

    @property
    def about(self) -> re.Match[str] | None:
        """Read alert, severities and kind; None for a sentence."""
        return NAME.fullmatch(self.name)

    def looks(self, alert: str) -> list[tuple[int, list[dict[str, Any]]]]:
        """Give time and expected alerts of each look at an alert, in order."""
        found = [one for one in self.group.get("alert_rule_test", ()) if one["alertname"] == alert]
        return sorted(((at(one["eval_time"]), one.get("exp_alerts") or []) for one in found), key=lambda one: one[0])


def at(duration: str) -> int:
    """Read a time of promtool's."""
    return sum(seconds(part) for part in re.findall(r"\d+[smhdw]", str(duration)))


@cache
def cases() -> list[Case]:
    """Read every group of every file."""
    read = []
    for file in FILES:
        tree = yaml.safe_load((CASES / file).read_text(encoding="utf-8"))
        names = tuple(Path(name).name for name in tree["rule_files"])
        read += [Case(file, names, at(tree["evaluation_interval"]), group) for group in tree["tests"]]
    return read


def told_apart() -> Iterator[tuple[str, dict[str, Any]]]:
    """Give every alert with the file that it is in."""
    for file in EVERY_FILE:
        for rule in rules(file):
            if "alert" in rule:
                yield file, rule


every_alert = pytest.mark.parametrize(
    ("file", "rule"), list(told_apart()), ids=[f"{Path(file).stem}-{named(rule)}" for file, rule in told_apart()]
)


def of(file: str, rule: dict[str, Any], kind: str) -> list[Case]:
    """Give the cases of a kind for an alert, its severity and the file that has it."""
    return [
        one
        for one in cases()
        if file in one.rule_files
        and one.about is not None
        and one.about["alert"] == rule["alert"]
        and rule["labels"]["severity"] in one.about["severities"].split(", ")
        and kind in one.about["kind"].split(", then ")
    ]


def of_rule(rule: dict[str, Any], expected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give those of the expected alerts that this rule makes: they have its labels."""
    return [one for one in expected if rule["labels"].items() <= one["exp_labels"].items()]


# --- promtool


@pytest.fixture(scope="module")
def answers() -> dict[str, subprocess.CompletedProcess[str]]:
    """Run every file, two at a time."""
    need("promtool")
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        return dict(zip(FILES, pool.map(lambda file: promtool("test", "rules", str(CASES / file)), FILES), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_promtool_agrees_with_every_case(file, answers):
    """The rules fire when the cases say so, with these labels and texts, and at no other time."""
    assert answers[file].returncode == 0, (answers[file].stdout + answers[file].stderr)[:8000]


@pytest.mark.slow
def test_the_cases_are_counted(record_property, answers):
    """The figures of the report: alerts, cases, what they assert."""
    alerts = {(rule["alert"], rule["labels"]["severity"]) for _, rule in told_apart()}
    looks = [one for case in cases() for one in case.group.get("alert_rule_test", ())]
    numbers = [one for case in cases() for one in case.group.get("promql_expr_test", ())]
    firing = sum(len(one.get("exp_alerts") or []) for one in looks)
    record_property(
        "measured",
        f"promtool: {sum(one.returncode == 0 for one in answers.values())} of {len(FILES)} files pass; "
        f"{len({name for name, _ in alerts})} alerts, {len(alerts)} with their severities, in "
        f"{len(list(told_apart()))} rules; {len(cases())} cases with {len(looks)} looks at alerts "
        f"({firing} fire, with all texts) and {len(numbers)} at series",
    )
    assert len({case.name + case.file for case in cases()}) == len(cases())


# --- Each alert has its cases


@pytest.mark.parametrize("kind", KINDS)
@every_alert
def test_each_alert_has_each_kind_of_case(file, rule, kind):
    """Quiet, not yet, and firing: for every severity, and in every file that has the alert."""
    assert of(file, rule, kind)


@every_alert
def test_a_quiet_case_looks_long_enough(file, rule):
    """Nothing fires, and the last look is later than `for`, so that it could have."""
    still = [one for one in of(file, rule, "not yet") if one.about["kind"] == "not yet"]
    for case in [*of(file, rule, "quiet"), *still]:
        looks = case.looks(rule["alert"])
        assert looks, case.name
        assert not [time for time, expected in looks if of_rule(rule, expected)], case.name
        assert looks[-1][0] >= seconds(rule.get("for", "0m")), case.name


@every_alert
def test_what_fires_has_all_its_texts(file, rule):
    """Each rule is seen to fire, and promtool compares every text."""
    cases_of_rule = of(file, rule, "firing")
    found = [one for case in cases_of_rule for _, some in case.looks(rule["alert"]) for one in of_rule(rule, some)]
    assert found
    for one in found:
        assert one["exp_annotations"].keys() == rule["annotations"].keys()


@every_alert
def test_it_fires_just_after_it_does_not(file, rule):
    """Between `not yet` and `firing` lies one evaluation: the threshold and `for` are where they are said to be."""
    apart = []
    for case in of(file, rule, "not yet"):
        looks = case.looks(rule["alert"])
        first = next((time for time, expected in looks if of_rule(rule, expected)), None)
        before = [time for time, _ in looks if first is not None and time < first]
        if before:  # else the case is about another tier of the fall
            apart.append((first - before[-1]) / case.interval)
    assert apart, "no case in which it is not yet and then fires"
    assert set(apart) == {1.0}


def test_every_name_says_what_its_case_is_about():
    """A misspelt kind would make a case count for nothing."""
    known = {(rule["alert"], rule["labels"]["severity"]) for _, rule in told_apart()}
    for case in cases():
        about = case.about
        if about is None:
            assert not case.name.startswith("RagDrift"), case.name
        else:
            assert {(about["alert"], one) for one in about["severities"].split(", ")} <= known, case.name


def test_every_recorded_series_has_a_value_in_a_case():
    """An expression that gives nothing would be noticed."""
    shown = {
        name
        for case in cases()
        for one in case.group.get("promql_expr_test", ())
        if one["exp_samples"]
        for name in re.findall(r"[a-z_]+:rag_drift_\w+:\w+", one["expr"])
    }
    assert {rule["record"] for rule in rules() if "record" in rule} - shown == set()


# --- The input is like the exporter's


def given() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Give case, name and labels of every series that the cases put in."""
    for case in cases():
        for series in case.group["input_series"]:
            selector = parsed(series["series"])
            assert all(one.op == MatchOp.Equal for one in selector.matchers.matchers)
            yield case.name, selector.name, {one.name: one.value for one in selector.matchers.matchers}


def test_the_input_is_what_the_exporter_shows():
    """Each series is of a real family, with just its labels, those of a target, and values that the code can say."""
    edges = {str(floatToGoString(edge)) for edge in (*RATIO_BUCKETS, float("inf"))}
    wrong = []
    for case, name, labels in given():
        if name == "up":
            continue
        if name not in families():
            wrong.append(f"{case}: no {name}")
            continue
        if labels.keys() | {"namespace"} != families()[name].labels:
            wrong.append(f"{case}: {name} with {sorted(labels)}, not {sorted(families()[name].labels)}")
        for label, value in labels.items():
            exist = edges if label in ("le", "edge") else values().get((name, label), set())
            if label not in OPEN | TARGET and value not in exist:
                wrong.append(f"{case}: {name} with {label} {value}, not {sorted(exist)}")
    assert wrong == []


def test_most_cases_have_a_second_replica():
    """One that does not judge stands beside the judge, or the aggregation over replicas is not tried."""
    several = [
        case for case in cases() if len(set(re.findall(r'instance="(\w+)"', str(case.group["input_series"])))) > 1
    ]
    assert len(several) > len(cases()) / 2


# --- A real registry


def exposed(made: Metrics, instance: str, *, moving: bool) -> list[dict[str, str]]:
    """Write what a registry shows as promtool's input: times that follow the clock, counters that go on if `moving`."""
    series = []
    for (name, labels), value in samples(made).items():
        if not name.startswith("rag_drift_"):
            continue
        text = ",".join(
            f'{label}="{content}"' for label, content in (*labels, ("job", "rag-drift"), ("instance", instance))
        )
        number = f"{value:.17g}".replace("nan", "NaN")
        if name.endswith("_timestamp_seconds") and value > 0:
            shown = "1x60" if "accepted" in name else "0+60x60"
        elif families()[name].counter and moving:
            shown = f"{number}+{number}x60"
        else:
            shown = f"{number}+0x60"
        series.append({"series": f"{name}{{{text}}}", "values": shown})
    return series


def steady() -> tuple[Metrics, list[str]]:
    """Give the metrics of a replica on duty, with a baseline, unchanged canaries and traffic; and its slices."""
    made = metrics()
    made.ready.set(1)
    made.cycles(judge=15.0, frozen=300.0, canaries=3600.0)
    made.judge.on_duty(True)
    judgement = judged(2600)
    made.judge.judged(judgement, 2600)
    pair = retrievers().pair
    for retriever in (pair.deployed, pair.reference):
        made.retriever_loaded(retriever)
    made.canaries.canaries_known(find_sets())
    made.canaries.canaries_ran(ran(find_sets()), 1.0, 2.0)
    slices = sorted(judgement.first.tracks.keys() - {"all"})
    values = dict.fromkeys(signal_names(10), 0.95)
    made.replayed([replace(one, values=values) for one in observations(slices, 40)])
    return made, slices


@pytest.mark.slow
def test_a_real_registry_at_rest_fires_nothing_and_its_floors_meet_their_buckets(tmp_path):
    """A judge and a replica beside it, as the exporter shows them: no alert, and a burn for each slice with a floor."""
    judge, slices = steady()
    other = metrics()
    other.cycles(judge=15.0, frozen=300.0, canaries=3600.0)
    other.canaries.canaries_known(find_sets())
    test = {
        "interval": "1m",
        "input_series": [*exposed(judge, "a", moving=True), *exposed(other, "b", moving=False)],
        "alert_rule_test": [
            {"alertname": name, "eval_time": "50m", "exp_alerts": []}
            for name in sorted({rule["alert"] for _, rule in told_apart()})
        ],
        "promql_expr_test": [
            {
                "expr": "count by (slice) (slice:rag_drift_slo_burn:ratio_rate5m >= 0)",
                "eval_time": "50m",
                "exp_samples": [{"labels": f'{{slice="{name}"}}', "value": 1} for name in slices],
            }
        ],
    }
    tree = {
        "rule_files": [str(RULES / file) for file in EVERY_FILE],
        "evaluation_interval": "1m",
        "group_eval_order": ["rag-drift.recording", "rag-drift.slo-recording"],
        "tests": [test],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(tree, width=10_000))
    done = promtool("test", "rules", str(tmp_path / "test.yaml"))
    assert done.returncode == 0, (done.stdout + done.stderr)[:6000]
