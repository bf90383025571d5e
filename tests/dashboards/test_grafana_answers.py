"""What panels answer where a wrong answer would be believed: promtool evaluates their queries over written series.

That a query is well-formed and asks for what exists is `test_grafana_queries`' business; that a whole sidecar fills the
panels, the end-to-end test's. Here the series are few, so that the right answer is known.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.dashboards.expressions import RULES, rules
from tests.dashboards.promtool import promtool
from tests.dashboards.queries import dashboards, panels, queries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ON_CALL = "rag-drift-on-call"
Samples = dict[str, float]
"""Labels as they are written, and the value."""


def asked(title: str, ref: str = "A", chosen: Mapping[str, str] | None = None) -> str:
    """Give a query of the on-call page."""
    (found,) = [one.expr for one in queries(chosen) if (one.dashboard, one.title, one.ref) == (ON_CALL, title, ref)]
    return found


def answer(folder: Path, given: Samples, wanted: dict[str, Samples], *files: str, at: str = "5m") -> None:
    """Compare what expressions give over nine minutes of constant series, to which the rules of these files apply."""
    test = {
        "interval": "1m",
        "input_series": [
            {"series": series, "values": f"{value:g}+0x9".replace("nan", "NaN")} for series, value in given.items()
        ],
        "promql_expr_test": [
            {
                "expr": expr,
                "eval_time": at,
                "exp_samples": [{"labels": labels, "value": value} for labels, value in samples.items()],
            }
            for expr, samples in wanted.items()
        ],
    }
    tree = {"rule_files": [str(RULES / file) for file in files], "evaluation_interval": "1m", "tests": [test]}
    (folder / "test.yaml").write_text(yaml.safe_dump(tree, width=10_000))
    done = promtool("test", "rules", str(folder / "test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def of(name: str, namespace: str = "prod", job: str = "search", **labels: str) -> str:
    """Write a series of a target; an empty namespace is none."""
    found = {"namespace": namespace, "job": job, "instance": "a", **labels}
    texts = [f'{label}="{value}"' for label, value in found.items() if value]
    return f"{name}{{{', '.join(texts)}}}"


# Which slice.


def verdict(slice_: str, *, level: float, evidence: float, drifted: int, namespace: str = "prod") -> Samples:
    """Write what a judge shows of a slice whose baseline is 1."""
    values = {"level_ratio": level, "baseline_ratio": 1, "evidence_log10": evidence, "drifted": drifted}
    return {
        of(f"rag_drift_{name}", namespace, signal="overlap@10", slice=slice_): value for name, value in values.items()
    }


DRIFTED = {
    **verdict("all", level=0.875, evidence=9, drifted=1),
    **verdict("de", level=0.5, evidence=2, drifted=1),
    **verdict("fr", level=0.25, evidence=0, drifted=0),
}
"""The whole stream has most evidence, `de` fell most, and what `fr` shows is not proved."""


def on_the_page(namespace: str) -> str:
    """Give the query by which the page's text names the slice."""
    (text,) = {
        rule["annotations"]["description"] for rule in rules("alerts.yaml")
        if rule.get("alert") == "RagDriftRetrievalDrifted"
    }  # fmt: skip
    found = re.search(r'query \(printf "(topk\([^"]+)" \$of', text)
    assert found is not None
    return found[1].replace("%s", f'namespace="{namespace}",job="search"')


@pytest.mark.parametrize("at", ["5m", "20m"], ids=["judged", "judge-away"])
def test_the_tiles_and_the_page_name_the_same_slice(tmp_path, at):
    """Both take the drifted slice that fell most, in each deployment; evidence and unproved falls do not count.

    Without a judge both still say what was known last.
    """
    given = DRIFTED | verdict("it", level=0.75, evidence=1, drifted=1, namespace="staging")
    fallen = {
        '{namespace="prod", job="search", signal="overlap@10", slice="de"}': -0.5,
        '{namespace="staging", job="search", signal="overlap@10", slice="it"}': -0.25,
    }
    wanted = {
        asked("Where"): fallen,
        asked("How much"): fallen,
        on_the_page("prod"): {'{signal="overlap@10", slice="de"}': 0.5},
        on_the_page("staging"): {'{signal="overlap@10", slice="it"}': 0.25},
    }
    answer(tmp_path, given, wanted, at=at)


# Which deployment.


@pytest.mark.parametrize(
    ("chosen", "seen"),
    [
        ({}, {"prod": 3, "staging": 2, "": 0}),
        ({"namespace": "staging"}, {"staging": 2}),
        ({"namespace": "(staging|prod)"}, {"prod": 3, "staging": 2}),
    ],
    ids=["all", "one", "two"],
)
def test_a_namespace_is_chosen_and_all_means_none_as_well(tmp_path, chosen, seen):
    """One job's name in two namespaces is two tiles; one without a namespace is among `All`."""
    given = {of("rag_drift_alarm_severity", name): value for name, value in {"prod": 3, "staging": 2, "": 0}.items()}
    tiles = {of("", name, instance=""): value for name, value in seen.items()}
    answer(tmp_path, given, {asked("Is it drifting?", chosen=chosen): tiles})


# Whether alerts are evaluated.

TABLE = "Alerts that fire or are pending"
JUDGE = {of("rag_drift_judge_active"): 1}
RECORDED = {'job:rag_drift_judge_active:sum{namespace="prod", job="search"}': 1}
STAGING = {of("rag_drift_judge_active", "staging"): 1}
ALERT = {'ALERTS{alertname="RagDriftNoJudge", alertstate="firing", namespace="prod", job="search"}': 1}
PLAIN = {'ALERTS{alertname="RagDriftNoJudge", alertstate="firing", job="search"}': 1}
ABSENT = {'ALERTS{alertname="RagDriftAbsent", alertstate="pending"}': 1}
FIRING = {
    'ALERTS{alertname="RagDriftNoJudge", alertstate="firing", namespace="prod", job="search", '
    'runbook="RagDriftNoJudge"}': 1.0
}
UNRULED = '{{alertname="unruled", alertstate="blind", runbook="none", namespace="{}", job="search"}}'
UNSEEN = {'{alertname="unseen", alertstate="blind", runbook="none"}': 1.0}
QUIET = {'{alertname="none", alertstate="quiet", runbook="none"}': 0.0}


@pytest.mark.parametrize(
    ("given", "chosen", "rows"),
    [
        (JUDGE | RECORDED, {}, QUIET),
        (JUDGE, {}, {UNRULED.format("prod"): 1.0}),
        (JUDGE | RECORDED | STAGING, {}, {UNRULED.format("staging"): 1.0}),
        (JUDGE | RECORDED | STAGING, {"namespace": "prod"}, QUIET),
        (JUDGE | RECORDED | ALERT, {}, FIRING),
        (JUDGE | RECORDED | ALERT | STAGING, {}, FIRING | {UNRULED.format("staging"): 1.0}),
        (JUDGE | RECORDED | ALERT, {"namespace": "staging"}, UNSEEN),
        (JUDGE | RECORDED | PLAIN, {"namespace": "prod"}, QUIET),
        (ABSENT, {"namespace": "prod"}, {next(iter(ABSENT))[:-1] + ', runbook="RagDriftAbsent"}': 1.0}),
        ({}, {}, UNSEEN),
    ],
    ids=[
        "quiet",
        "no-rules",
        "no-rules-for-one",
        "other-one",
        "fires",
        "fires-beside",
        "none-of-it",
        "no-namespace",
        "absent",
        "nothing",
    ],
)
def test_green_is_said_only_where_rules_are_evaluated(tmp_path, given, chosen, rows):
    """Without rules nothing fires, which is no good news; one deployment's alert does not hide another's silence."""
    answer(tmp_path, given, {asked(TABLE, chosen=chosen): rows})


def test_the_rule_that_shows_that_rules_are_loaded_is_one(tmp_path):
    """The series that the table looks for comes out of the recording rules."""
    answer(tmp_path, JUDGE, {asked(TABLE): QUIET}, "recording.yaml")


# Which limit.

WINDOWS = ("1h", "5m", "6h", "30m", "1d", "2h", "3d", "6h")
"""In the order of the table's columns."""
BURNS = {
    f'slice:rag_drift_slo_burn:ratio_rate{window}{{namespace="prod", job="search", slice="de"}}': 7.0
    for window in WINDOWS
}
NO_QUERIES = {next(iter(BURNS)): float("nan")}
BURNING = "Burn rate of each slice, by window"
DE = '{namespace="prod", job="search", slice="de"}'
LIMITS = {"7d": (13.44, 3.5, 1.4, 0.98), "30d": (14.4, 6, 3, 1)}


@pytest.mark.parametrize(
    ("files", "limits"),
    [(["7d"], LIMITS["7d"]), (["30d"], LIMITS["30d"]), (["7d", "30d"], LIMITS["7d"])],
    ids=["7d", "30d", "both"],
)
def test_burns_are_held_against_the_limits_that_are_loaded(tmp_path, files, limits):
    """A burn of 7 is twice a limit of the 7 days and just above that of the 30 days; with both the lower one counts."""
    shares = [limit for limit in limits for _ in range(2)]
    wanted = {asked(BURNING, ref): {DE: 7 / limit} for ref, limit in zip("ABCDEFGH", shares, strict=True)}
    for at, window in ((0, "1h and 5m"), (3, "3d and 6h")):
        wanted[asked(f"Burn rate over {window}", "C")] = {
            f'{{slo_window="{days}"}}': LIMITS[days][at] for days in files
        }
    answer(tmp_path, BURNS, wanted, *(f"slo-{days}.yaml" for days in files))


@pytest.mark.parametrize(
    ("given", "first", "other"),
    [(BURNS, {DE: -1.0}, {DE: -1.0}), (BURNS | NO_QUERIES, {DE: -1.0}, {DE: -1.0}), ({}, {"{}": -1.0}, {})],
    ids=["burns", "no-queries", "no-floor"],
)
def test_without_the_objectives_rules_no_burn_has_a_colour(tmp_path, given, first, other):
    """What is shown then has the words for it, also where nothing burns, and the graph's line has them for a name."""
    words: dict[str, Any] = {
        asked(BURNING): first,
        asked(BURNING, "F"): other,
        # NaN is equal to nothing, so the series are counted.
        f"count by (slo_window) ({asked('Burn rate over 1h and 5m', 'C')})": {
            '{slo_window="no objective rules loaded"}': 1.0
        },
    }
    answer(tmp_path, given, words)


def test_the_words_of_a_missing_limit_are_there():
    """The number that stands for it is mapped, in each column."""
    (table,) = [one for one in panels(dashboards()["on-call"]) if one["title"] == BURNING]
    texts = [
        mapping["options"]["-1"]["text"]
        for override in table["fieldConfig"]["overrides"]
        for setting in override["properties"]
        if setting["id"] == "mappings"
        for mapping in setting["value"]
        if mapping["type"] == "value"
    ]
    assert texts == ["no objective rules loaded"] * 8
