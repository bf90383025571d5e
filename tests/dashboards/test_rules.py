"""The rule files: what promtool says, what an alert must have, and that all that they ask for exists.

A rule that selects a name, a label or a value that nobody exports never fires, and nothing tells. So every selector,
every grouping and every join is compared with the real registry, and every text with the labels that are there when it
is written. Whether the rules fire when they should is the business of `test_rule_cases`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from promql_parser import LabelModifierType, MatchOp, ValueType, VectorMatchCardinality

from tests.dashboards.expressions import (
    EVERY_FILE,
    RULES,
    SET_OPERATORS,
    TARGET,
    aggregations,
    came_out,
    children,
    families,
    functions,
    rules,
    values,
)
from tests.dashboards.expressions import parsed as parse
from tests.dashboards.expressions import selectors as selected
from tests.dashboards.promtool import promtool

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
BASE = "https://rag-drift.example/runbooks/"

FILE_SETS = {name: ("recording.yaml", "alerts.yaml", f"slo-{name}.yaml") for name in ("7d", "30d")}
"""The files that are loaded together."""

GROUP_KEYS = {"name", "rules"}
RULE_KEYS = {
    "alert": {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"},
    "record": {"record", "expr", "labels"},
}
"""What Prometheus 2.42 and the PrometheusRule of an operator know, and we use."""
KNOWN_FUNCTIONS = {
    "absent_over_time", "increase", "label_replace", "last_over_time", "max_over_time", "min_over_time",
    "present_over_time", "rate", "time", "vector",
}  # fmt: skip
"""Functions that the rules use; each is in Prometheus 2.42. Look up the version before another one is added."""
OF_COUNTERS = {"rate", "increase"}

LABELS = {"severity", "component", "loop", "fall", "slo_window"}
SEVERITIES = {"critical", "warning", "info"}
COMPONENTS = {"retrieval", "slo", "monitor"}
COUNTED = {"RagDriftTwoJudges", "RagDriftCanarySetAside"}
"""Alerts whose value is a small whole number that needs no unit."""

LEVELS = {
    "job": {"namespace", "job"},
    "slice": {"namespace", "job", "slice"},
    "probe_set_domain": {"namespace", "job", "probe_set", "domain"},
    "window": {"window"},
}
BOUNDED = {
    "outcome", "signature", "part", "loop", "direction", "state", "documents", "role", "against", "signal", "domain",
    "reason",
}  # fmt: skip


def named(rule: dict[str, Any]) -> str:
    """Name a rule for the test's id."""
    labels = rule.get("labels", {})
    told = [labels[one] for one in ("severity", "fall", "window", "slo_window") if one in labels]
    return "-".join([rule.get("record") or rule["alert"], *told])


EVERY_RULE = rules()
ALERTS = [rule for rule in EVERY_RULE if "alert" in rule]
every_rule = pytest.mark.parametrize("rule", EVERY_RULE, ids=named)
every_alert = pytest.mark.parametrize("rule", ALERTS, ids=named)
every_recording = pytest.mark.parametrize("rule", [rule for rule in EVERY_RULE if "record" in rule], ids=named)


def nodes(node: Any) -> list[Any]:
    """Give a node and all below it."""
    return [node, *(below for child in children(node) for below in nodes(child))]


def is_scalar(node: Any) -> bool:
    """Say whether an expression is a number and no vector."""
    if isinstance(node, promql_parser.ParenExpr):
        return is_scalar(node.expr)
    if isinstance(node, promql_parser.BinaryExpr):
        return is_scalar(node.lhs) and is_scalar(node.rhs)
    if isinstance(node, promql_parser.Call):
        return bool(node.func.return_type == ValueType.Scalar)
    return isinstance(node, promql_parser.NumberLiteral)


def written_queries(rule: dict[str, Any]) -> list[str]:
    """Give the queries of an alert's texts as they are with some job."""
    texts = " ".join(rule.get("annotations", {}).values())
    found = re.findall(r'query \(printf "((?:[^"\\]|\\.)*)"', texts)
    assert len(found) == len(re.findall(r"\bquery [(\"]", texts)), "a query that this test does not find"
    return [one.replace('\\"', '"').replace("%s", 'namespace="n",job="j"') for one in found]


def everything_asked(rule: dict[str, Any]) -> list[Any]:
    """Parse a rule's expression and the queries of its texts."""
    return [parse(text) for text in (rule["expr"], *written_queries(rule))]


# --- promtool


@pytest.mark.parametrize("name", FILE_SETS)
def test_promtool_finds_nothing_to_say(name):
    """Both sets of files that are loaded together pass every lint."""
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *(str(RULES / file) for file in FILE_SETS[name]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("SUCCESS") == 3


def test_promtool_would_complain(tmp_path):
    """The check above can fail: a rule that stands there twice is found."""
    twice = "groups: [{name: a, rules: [{record: 'a:b:c', expr: up}, {record: 'a:b:c', expr: up}]}]"
    (tmp_path / "rules.yaml").write_text(twice)
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "rules.yaml")).returncode != 0


def test_every_file_belongs_to_a_set():
    """A file that nobody loads would be tested for nothing."""
    assert {file for files in FILE_SETS.values() for file in files} == set(EVERY_FILE)


@pytest.mark.parametrize("file", EVERY_FILE)
def test_only_fields_that_prometheus_2_42_knows(file):
    """Labels or an offset of a group came later, and an older Prometheus refuses the whole file."""
    for group in yaml.safe_load((RULES / file).read_text(encoding="utf-8"))["groups"]:
        assert group.keys() == GROUP_KEYS
        for rule in group["rules"]:
            assert rule.keys() <= RULE_KEYS["alert" if "alert" in rule else "record"], rule


# --- What an alert has


@every_alert
def test_the_summary_is_one_sentence_for_everybody(rule):
    """It is what a phone shows: no label, no number, no second sentence."""
    summary = rule["annotations"]["summary"]
    assert "{{" not in summary
    assert re.fullmatch(r"[A-Z][^.\n]{20,118}\.", summary), summary


@every_alert
def test_the_description_says_where_and_how_much(rule):
    """It names the job, only labels that are there, and numbers as people read them."""
    text = rule["annotations"]["description"]
    assert "$labels.job" in text
    has = came_out(parse(rule["expr"])) | rule["labels"].keys()
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= has
    for shown in re.findall(r"\{\{-?\s*([^{}]*(?:\$value|\.Value|value)\b[^{}]*)\}\}", text):
        formatted = re.search(r'humanize|printf "%\.\d|\bif\b|\bwith\b', shown) is not None
        counted = rule["alert"] in COUNTED or (shown.strip() == ".Value" and "count by" in text)
        assert formatted or counted, shown
    for queried in re.findall(r"range \.([^}]*)\}\}", text):
        assert "sortByLabel" in queried, "the order of a query's series is not always the same"


@every_alert
def test_the_runbook_exists(rule):
    """The address ends with the alert's name in lower case, and there is such a page."""
    page = f"{rule['alert'].lower()}.md"
    assert rule["annotations"]["runbook_url"] == BASE + page
    assert (RUNBOOKS / page).is_file()
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}


def test_each_runbook_has_an_alert():
    """A page of an alert that is gone would be trusted; the index is the only other page."""
    pages = {page.name for page in RUNBOOKS.glob("*.md")} - {"README.md"}
    assert pages == {f"{rule['alert'].lower()}.md" for rule in ALERTS}


@every_alert
def test_the_labels_route_it(rule):
    """Severity and component are among those that routes know, and no label of the series is overwritten."""
    labels = rule["labels"]
    assert labels.keys() <= LABELS
    assert labels["severity"] in SEVERITIES
    assert labels["component"] in COMPONENTS
    assert not labels.keys() & came_out(parse(rule["expr"]))
    assert rule["alert"].startswith("RagDrift")


@pytest.mark.parametrize("name", FILE_SETS)
def test_a_name_has_a_severity_once(name):
    """Inhibition of the lower by the higher one needs one name for both; a fall's tiers exclude each other."""
    alerts = [(rule["alert"], rule["labels"]) for rule in rules(*FILE_SETS[name]) if "alert" in rule]
    found = [(alert, labels["severity"], labels.get("fall")) for alert, labels in alerts]
    assert len(found) == len(set(found))


@every_alert
def test_a_page_is_for_something_that_is_going_on(rule):
    """Somebody who is to be woken is woken within minutes: what takes longer to confirm is for the morning."""
    if rule["labels"]["severity"] == "critical":
        assert seconds(rule.get("for", "0m")) <= 20 * 60


def seconds(duration: str) -> int:
    """Read a duration of one unit."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[duration[-1]]


def fires_on_one_sample(rule: dict[str, Any]) -> bool:
    """Say whether a single sample stays in a window for longer than the rule waits."""
    largest = r"(?:max_over_time\(rag_drift_\w+(?:\{[^}]*\})?\[(\w+)\]\)+|:max(\w+)\{[^}]*\}\)) (?:== 1|> 0)$"
    found = re.search(largest, rule["expr"])
    return "for" in rule and found is not None and seconds(rule["for"]) <= seconds(found[1] or found[2])


@every_alert
def test_waiting_is_longer_than_the_window_whose_largest_value_counts(rule):
    """The largest value of a window stays for its length: a shorter `for` confirms nothing."""
    assert not fires_on_one_sample(rule)


def test_a_wait_that_confirms_nothing_is_seen():
    """The test above can fail, for a gauge and for a recorded one."""
    assert fires_on_one_sample({"expr": "max by (job) (max_over_time(rag_drift_x[15m])) > 0", "for": "15m"})
    assert fires_on_one_sample({"expr": 'max by (job) (a:rag_drift_x:max15m{b="c"}) == 1', "for": "5m"})
    assert not fires_on_one_sample({"expr": "max by (job) (max_over_time(rag_drift_x[15m])) > 0", "for": "20m"})


# --- What is asked for


@every_rule
def test_every_series_and_label_exists(rule):
    """Names are the registry's or a recording rule's; labels those of the family, or of the target."""
    for tree in everything_asked(rule):
        for one in selected(tree):
            assert one.name in families(), one.name
            assert {label for label, _ in one.matchers} <= families()[one.name].labels, one
        for one in aggregations(tree):
            labels = set(one.modifier.labels) if one.modifier is not None else set()
            assert labels <= came_out(one.expr), f"{labels} of {came_out(one.expr)}"


def wrong_with_join(node: Any) -> str | None:
    """Say why the two sides of an operator can never meet, or meet more than one."""
    if not isinstance(node, promql_parser.BinaryExpr) or is_scalar(node.lhs) or is_scalar(node.rhs):
        return None
    left, right, modifier = came_out(node.lhs), came_out(node.rhs), node.modifier
    matching = None if modifier is None else modifier.matching
    asked = set() if matching is None else set(matching.labels)
    problem = None
    if str(node.op) == "or":
        pass
    elif matching is None or matching.type == LabelModifierType.Exclude:
        problem = None if left - asked == right - asked else f"other labels than {sorted(left - asked)}"
    elif not asked <= left & right:
        problem = f"no {sorted(asked - (left & right))} on one side"
    elif str(node.op) not in SET_OPERATORS:
        unique = right if modifier.card == VectorMatchCardinality.ManyToOne else left | right
        problem = None if unique <= asked else f"several partners by {sorted(unique - asked)}"
    return problem


@every_rule
def test_every_join_finds_its_partner(rule):
    """Both sides have the labels that are compared, and the side that must be one has no others."""
    for tree in everything_asked(rule):
        assert [problem for node in nodes(tree) if (problem := wrong_with_join(node))] == []


@pytest.mark.parametrize(
    ("expr", "problem"),
    [
        ("rag_drift_ready > rag_drift_queue_length", None),
        ("rag_drift_ready > on (job) rag_drift_queue_length", "several partners"),
        ("rag_drift_ready and on (job) rag_drift_queue_length", None),
        ("rag_drift_ready and on (slice) rag_drift_queue_length", "on one side"),
        ("rag_drift_ready * rag_drift_slo_budget_ratio", "other labels"),
        ("rag_drift_slo_budget_ratio * ignoring (slice) rag_drift_ready", None),
        ("rag_drift_slo_budget_ratio * ignoring (edge) rag_drift_ready", "other labels"),
        ("time() - rag_drift_ready > 3", None),
    ],
)
def test_a_join_that_finds_nothing_is_seen(expr, problem):
    """The check above can fail, in each of its ways."""
    found = [wrong for node in nodes(parse(expr)) if (wrong := wrong_with_join(node))]
    assert (problem is None and not found) or (problem is not None and problem in found[0])


@every_rule
def test_every_value_that_is_selected_exists(rule):
    """What a matcher names, each half of an alternative on its own, is among what the code can say."""
    for tree in everything_asked(rule):
        for node in (one for one in nodes(tree) if isinstance(one, promql_parser.VectorSelector)):
            for matcher in node.matchers.matchers:
                exist = values().get((node.name, matcher.name))
                if exist is None or matcher.name in TARGET or matcher.value == "":
                    continue
                several = matcher.op in (MatchOp.Re, MatchOp.NotRe)
                parts = matcher.value.split("|") if several else [re.escape(matcher.value)]
                wrong = [part for part in parts if not any(re.fullmatch(part, value) for value in exist)]
                assert not wrong, f"{node.name}: no {matcher.name} is {wrong}, but {sorted(exist)}"


def test_all_bounded_labels_are_compared():
    """The test above finds values for each bounded label that the rules select by."""
    used = {
        (node.name, matcher.name)
        for rule in EVERY_RULE
        for tree in everything_asked(rule)
        for node in nodes(tree)
        if isinstance(node, promql_parser.VectorSelector)
        for matcher in node.matchers.matchers
        if matcher.name in BOUNDED
    }
    assert {label for _, label in used} == BOUNDED
    assert {key for key in used if key not in values()} == set()


@every_rule
def test_counters_are_only_read_as_rates(rule):
    """A counter's value says how long the process runs; a gauge has no rate."""
    for tree in everything_asked(rule):
        for one in selected(tree):
            nearest = one.inside[0] if one.inside else ""
            assert families()[one.name].counter == (nearest in OF_COUNTERS), one


@every_rule
def test_only_functions_of_prometheus_2_42(rule):
    """Newer ones would make the file unreadable for the oldest version that we promise."""
    for tree in everything_asked(rule):
        assert {one.func.name for one in functions(tree)} <= KNOWN_FUNCTIONS


# --- Recording rules


@every_recording
def test_a_recorded_name_says_its_level(rule):
    """Its first part names the labels that are left (beside edge and signature), its last what was done."""
    found = re.fullmatch(r"([a-z_]+):(rag_drift_[a-z0-9_]+):([a-z0-9_]+)", rule["record"])
    assert found is not None, rule["record"]
    left = came_out(parse(rule["expr"])) | rule.get("labels", {}).keys()
    assert LEVELS[found[1]] <= left
    assert left - LEVELS[found[1]] <= {"le", "signature", "slo_window"}


def test_the_windows_of_the_objective_are_one_rule():
    """Seven windows are written out, since rules have no variables: only the window differs."""
    found = {rule["record"]: rule["expr"] for rule in rules("recording.yaml")}
    windows = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
    for kind in ("bad", "burn"):
        texts = {found[f"slice:rag_drift_slo_{kind}:ratio_rate{one}"].replace(one, "WINDOW") for one in windows}
        assert len(texts) == 1
        assert texts.pop().count("WINDOW") == {"bad": 2, "burn": 1}[kind]


def test_both_files_of_the_objective_are_one_rule():
    """Only thresholds and the label of the window differ."""
    texts = [(RULES / f"slo-{name}.yaml").read_text(encoding="utf-8").split("groups:")[1] for name in FILE_SETS]
    assert len({re.sub(r"> [\d.]+|vector\([\d.]+\)|\b(?:7|30)d\b", "", text) for text in texts}) == 1
