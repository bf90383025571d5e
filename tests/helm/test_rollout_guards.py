"""The examples that stop a rollout: their queries are about metrics that there are, and answer as their comments say.

The answers come from promtool, which evaluates the queries on made-up series of two replicas. Argo Rollouts and Flagger
themselves are not run here; what they do with an answer is in the examples' conditions.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from docs.tables import metric_families
from sidecar.drift.signature import NAMES, WORSE
from tests.dashboards.expressions import parsed, selectors
from tests.dashboards.promtool import promtool
from tests.helm.charts import ROOT

EXAMPLES = ROOT / "helm" / "examples"
GIVEN = {"namespace": "rag", "job": "sidecar", "fingerprint": "new", "prometheus": "http://prometheus"}
HOUR = 3600
NOW = 10 * HOUR


def argo() -> dict[str, Any]:
    """Give the AnalysisTemplate."""
    return yaml.safe_load((EXAMPLES / "argo-rollouts-analysis.yaml").read_text("utf-8"))


def flagger() -> list[dict[str, Any]]:
    """Give the MetricTemplates."""
    return list(yaml.safe_load_all((EXAMPLES / "flagger-metric-template.yaml").read_text("utf-8")))


def filled(query: str) -> str:
    """Put the arguments in, as both tools do with their own marks."""
    text = re.sub(r"{{ ?(?:args\.|variables\.)?([a-z]+) ?}}", lambda match: GIVEN[match.group(1)], query)
    assert "{{" not in text
    return text


def queries() -> dict[str, str]:
    """Give every query with its arguments."""
    found = {f"argo-{one['name']}": one["provider"]["prometheus"]["query"] for one in argo()["spec"]["metrics"]}
    found |= {
        f"flagger-{one['metadata']['name'].removeprefix('rag-drift-')}": one["spec"]["query"] for one in flagger()
    }
    return {name: filled(query) for name, query in found.items()}


QUERIES = queries()
each_query = pytest.mark.parametrize("name", QUERIES)


def test_both_tools_ask_the_same():
    """There are the same two questions in both examples, word for word."""
    assert len(QUERIES) == 4
    for name in ("canaries", "alarm"):
        assert QUERIES[f"argo-{name}"].split() == QUERIES[f"flagger-{name}"].split()


@each_query
def test_the_queries_are_about_metrics_that_there_are(name):
    """Every name is a family of the real registry, every label one of it or the target, every value a possible one."""
    known = {family: labels for family, _, labels, _ in metric_families()}
    found = list(selectors(parsed(QUERIES[name])))
    assert len(found) >= 4
    for one in found:
        for label, value in one.matchers:
            assert label in {*known[one.name], "namespace", "job"}, (one.name, label)
            if label == "signature":
                assert set(value.split("|")) == WORSE < set(NAMES)


def test_what_is_bad_ends_and_what_is_unknown_does_not_pass():
    """Argo's conditions: success is 0 and nothing else, failure is 2 at once, in between it waits for a person."""
    for metric in argo()["spec"]["metrics"]:
        assert (metric["successCondition"], metric["failureCondition"]) == ("result[0] == 0", "result[0] == 2")
        assert metric["failureLimit"] == 0
        assert 0 < metric["inconclusiveLimit"] < metric["count"]
    required = [one["name"] for one in argo()["spec"]["args"] if "value" not in one]
    assert required == ["namespace", "job", "fingerprint"]


def series(**changes: Any) -> list[dict[str, str]]:
    """Give the series of a healthy pair of replicas with a new encoder that does well; `changes` replaces values."""
    of = {
        "judge": 1,
        "fingerprint": "new",
        "reference": "base",
        "trap": 0,
        "other_domain": 0,
        "ran": NOW - HOUR,
        "other_set_ran": NOW - HOUR,
        "loaded": NOW - 2 * HOUR,
        "severity": 0,
        "evaluated": NOW - 10,
        "scraped": True,
        **changes,
    }
    if not of["scraped"]:
        return []
    judge, standby = 'namespace="rag",job="sidecar",instance="a"', 'namespace="rag",job="sidecar",instance="b"'
    elsewhere = 'namespace="other",job="sidecar",instance="a"'
    accepted = 'against="accepted",probe_set="generalization"'
    values = {
        f"rag_drift_judge_active{{{judge}}}": of["judge"],
        f"rag_drift_judge_active{{{standby}}}": 0,
        f"rag_drift_judge_active{{{elsewhere}}}": 1,
        f'rag_drift_encoder_info{{{judge},role="deployed",fingerprint="{of["fingerprint"]}",index="i"}}': 1,
        f'rag_drift_encoder_info{{{judge},role="reference",fingerprint="{of["reference"]}",index="r"}}': 1,
        f'rag_drift_encoder_info{{{standby},role="deployed",fingerprint="new",index="i"}}': 1,
        f'rag_drift_encoder_info{{{elsewhere},role="deployed",fingerprint="new",index="i"}}': 1,
        f'rag_drift_canary_signature{{{judge},{accepted},domain="all",signature="precision_trap"}}': of["trap"],
        f'rag_drift_canary_signature{{{judge},{accepted},domain="law",signature="retrieval_loss"}}': of["other_domain"],
        f'rag_drift_canary_signature{{{judge},{accepted},domain="all",signature="unchanged"}}': 1,
        f'rag_drift_canary_signature{{{judge},against="reference",probe_set="generalization",domain="all",'
        'signature="precision_trap"}': 1,
        f'rag_drift_canary_signature{{{standby},{accepted},domain="all",signature="precision_trap"}}': "NaN",
        f'rag_drift_canary_signature{{{elsewhere},{accepted},domain="all",signature="precision_trap"}}': 1,
        f'rag_drift_canary_last_run_timestamp_seconds{{{judge},probe_set="generalization"}}': of["ran"],
        f'rag_drift_canary_last_run_timestamp_seconds{{{judge},probe_set="composition"}}': of["other_set_ran"],
        f'rag_drift_canary_last_run_timestamp_seconds{{{standby},probe_set="generalization"}}': "NaN",
        f'rag_drift_retriever_loaded_timestamp_seconds{{{judge},role="deployed"}}': of["loaded"],
        f'rag_drift_retriever_loaded_timestamp_seconds{{{judge},role="reference"}}': NOW,
        f'rag_drift_retriever_loaded_timestamp_seconds{{{standby},role="deployed"}}': NOW,
        f"rag_drift_alarm_severity{{{judge}}}": of["severity"],
        f"rag_drift_alarm_severity{{{standby}}}": 0,
        f"rag_drift_alarm_severity{{{elsewhere}}}": 4,
        f"rag_drift_last_evaluation_timestamp_seconds{{{judge}}}": of["evaluated"],
        f"rag_drift_last_evaluation_timestamp_seconds{{{standby}}}": 0,
    }
    steps = NOW // 60 + 1
    return [
        {"series": one, "values": " ".join(["NaN"] * steps) if value == "NaN" else f"{value}+0x{steps}"}
        for one, value in values.items()
    ]


GOOD, UNKNOWN, BAD = 0, 1, 2
CASES = {
    "good": ({}, GOOD, GOOD),
    "trap": ({"trap": 1}, BAD, GOOD),
    "loss-in-one-domain": ({"other_domain": 1}, BAD, GOOD),
    "alarm": ({"severity": 2}, GOOD, BAD),
    "trap-of-the-old-encoder": ({"trap": 1, "severity": 3, "fingerprint": "old"}, UNKNOWN, UNKNOWN),
    "new-encoder-is-only-the-reference": ({"fingerprint": "old", "reference": "new", "trap": 1}, UNKNOWN, UNKNOWN),
    "canaries-older-than-the-encoder": ({"ran": NOW - 3 * HOUR + 60, "loaded": NOW - HOUR}, UNKNOWN, GOOD),
    "one-set-older-than-the-encoder": ({"other_set_ran": NOW - 2.5 * HOUR, "loaded": NOW - 2 * HOUR}, UNKNOWN, GOOD),
    "stale-canaries": ({"ran": NOW - 4 * HOUR, "loaded": NOW - 5 * HOUR}, UNKNOWN, GOOD),
    "canaries-never-ran": ({"ran": 0}, UNKNOWN, GOOD),
    "no-baseline-yet": ({"trap": "NaN", "other_domain": "NaN"}, UNKNOWN, GOOD),
    "no-judge": ({"judge": 0}, UNKNOWN, UNKNOWN),
    "stale-evaluation": ({"evaluated": NOW - 900}, GOOD, UNKNOWN),
    "not-scraped": ({"scraped": False}, UNKNOWN, UNKNOWN),
}


@pytest.mark.parametrize(("changes", "canaries", "alarm"), CASES.values(), ids=CASES)
def test_the_answers_are_those_of_the_comments(tmp_path, changes, canaries, alarm):
    """0 only for what is known and good; what is missing, old, of another encoder or another job does not pass."""
    tests = [
        {"expr": QUERIES[f"argo-{name}"], "eval_time": f"{NOW}s", "exp_samples": [{"labels": "{}", "value": wanted}]}
        for name, wanted in (("canaries", canaries), ("alarm", alarm))
    ]
    path = tmp_path / "guards.yaml"
    path.write_text(
        yaml.safe_dump({"evaluation_interval": "1m", "tests": [
            {"interval": "1m", "input_series": series(**changes), "promql_expr_test": tests}
        ]}), encoding="utf-8",
    )  # fmt: skip
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
