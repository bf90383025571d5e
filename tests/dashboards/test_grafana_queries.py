"""The queries of the Grafana dashboards: what they may select, group, count and show.

They are read as syntax trees and held against the sidecar's registry and our recording rules. That each has an answer
is the end-to-end test's business.
"""

from __future__ import annotations

import re

import pytest
import yaml

from dashboards.generate.needs import NEEDS
from tests.dashboards.expressions import (
    COUNTING,
    OF_A_WINDOW,
    aggregations,
    came_out,
    families,
    functions,
    parsed,
    selectors,
)
from tests.dashboards.promtool import promtool
from tests.dashboards.queries import dashboards, panels, queries

WINDOWS = {
    "$__rate_interval": "a rate over what the panel's step covers",
    "$__range": "what was counted in the period that is looked at",
    "$__range:1m": "minutes of the period, because the panel counts time",
    "15m": "a judge that is away, in the number that the page's text asks for in the same way",
    "5m": "an encoder that was in use before a restart, in the annotation",
}
"""Every window in the dashboards, with its reason."""
LATER_FUNCTIONS = {
    "mad_over_time", "sort_by_label", "sort_by_label_desc", "histogram_avg", "info", "double_exponential_smoothing",
    "ts_of_max_over_time", "ts_of_min_over_time", "first_over_time", "step", "histogram_stddev", "histogram_stdvar",
}  # fmt: skip
"""What came after Prometheus 2.42."""

ASKED = list(queries())
each_dashboard = pytest.mark.parametrize("name", ["on-call", "probes", "weekly", "health"])


@pytest.fixture
def dashboard(name):
    """Give the dashboard as it is in the repository."""
    return dashboards()[name]


@pytest.fixture
def asked(dashboard):
    """Give its queries."""
    found = [one for one in ASKED if one.dashboard == dashboard["uid"]]
    assert len(found) > 30
    return found


def place(one) -> tuple[str, str]:
    """Say where a query stands."""
    return one.title, one.ref


def bare(node):
    """Take the brackets off an expression."""
    return bare(node.expr) if type(node).__name__ == "ParenExpr" else node


def test_every_query_is_one_that_prometheus_can_read(tmp_path):
    """Prometheus' own parser takes each query, as a rule of its own."""
    rules = [{"record": f"asked:{number}", "expr": one.expr} for number, one in enumerate(ASKED)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


@each_dashboard
def test_metrics_and_labels_exist(asked):
    """Every selector names a family that the sidecar or our rules have, and only labels of it."""
    wrong = []
    for one in asked:
        found = list(selectors(parsed(one.expr)))
        assert found, place(one)
        for selected in found:
            known = families().get(selected.name)
            labels = {label for label, _ in selected.matchers}
            if known is None or not labels <= known.labels:
                wrong.append((*place(one), selected.name, labels))
    assert wrong == []


@each_dashboard
def test_labels_that_are_grouped_by_come_out_of_what_is_grouped(asked):
    """An aggregation by a label that its series cannot have would silently merge them."""
    wrong = [
        (*place(one), grouped.prettify())
        for one in asked
        for grouped in aggregations(parsed(one.expr))
        if grouped.modifier is not None and not set(grouped.modifier.labels) <= came_out(grouped.expr)
    ]
    assert wrong == []


@each_dashboard
def test_only_the_chosen_targets_are_asked(dashboard):
    """Each selector takes namespace, job and instance; alerts and recorded series have no instance, a limit none."""
    deployment = {"namespace": "chosen-namespace", "job": "chosen-job"}
    chosen = {**deployment, "instance": "chosen-instance"}
    wrong = []
    for one in queries(chosen):
        if one.dashboard != dashboard["uid"] or one.kind == "variable":
            continue
        for selected in selectors(parsed(one.expr)):
            wanted = dict(chosen)
            if selected.name == "ALERTS":  # that no sidecar is anywhere is an alert with neither
                nowhere = dict.fromkeys(deployment, "")
                wanted = nowhere if nowhere.items() <= dict(selected.matchers).items() else deployment
            elif selected.name.startswith("window:"):  # what a rule file says of all deployments
                wanted = {}
            elif ":" in selected.name:
                wanted = deployment
            if not wanted.items() <= dict(selected.matchers).items():
                wrong.append((*place(one), selected.name))
    assert wrong == []


@each_dashboard
def test_what_only_grows_is_asked_how_much_it_grew(asked):
    """A counter stands in a rate or an increase, and nothing else does: a restart is no fall."""
    wrong = [
        (*place(one), selected.name)
        for one in asked
        if one.kind != "variable"
        for selected in selectors(parsed(one.expr))
        if families()[selected.name].counter != ((selected.inside[:1] or ("",))[0] in COUNTING)
        or (not families()[selected.name].counter and set(selected.inside[:1]) & OF_A_WINDOW)
    ]
    assert wrong == []


@each_dashboard
def test_windows_have_a_reason(dashboard):
    """A rate is taken over `$__rate_interval`; every other window is one of a few with a reason."""
    expressions = [
        *(target["expr"] for panel in panels(dashboard) for target in panel["targets"]),
        *(mark["expr"] for mark in dashboard["annotations"]["list"]),
    ]
    assert set(re.findall(r"\[([^\]]+)\]", "\n".join(expressions))) <= set(WINDOWS)
    rates = re.findall(r"\brate\([^\[]+\[([^\]]+)\]\)", "\n".join(expressions))
    assert set(rates) == {"$__rate_interval"} or not rates


@each_dashboard
def test_only_what_the_oldest_prometheus_has_is_used(asked):
    """Nothing came after Prometheus 2.42, also where promtool is a newer one."""
    used = {one.func.name for query in asked for one in functions(parsed(query.expr))}
    used |= {str(one.op) for query in asked for one in aggregations(parsed(query.expr))}
    assert not used & {*LATER_FUNCTIONS, "limitk", "limit_ratio"}


@each_dashboard
def test_legends_and_columns_show_labels_that_come_back(dashboard, asked):
    """A `{{label}}` that no series has is an empty name; a column without its field is not there at all."""
    known = {place(one): came_out(parsed(one.expr)) for one in asked}
    wrong = []
    for panel in panels(dashboard):
        title = panel["title"]
        labels = {target["refId"]: known[title, target["refId"]] for target in panel["targets"]}
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
            wrong += [(title, target["refId"], one) for one in shown - labels[target["refId"]]]
        fields = {f"Value #{ref}" for ref in labels} if len(labels) > 1 else {"Value"}
        fields = fields.union(*labels.values())
        for one in panel.get("transformations", ()):
            options = one["options"]
            if one["id"] == "filterFieldsByName":
                wrong += [(title, column) for column in set(options["include"]["names"]) - fields]
            elif one["id"] == "groupingToMatrix":
                wrong += [(title, label) for label in {options["columnField"], options["rowField"]} - fields]
    assert wrong == []


@each_dashboard
def test_series_of_one_graph_can_be_told_apart(dashboard, asked):
    """Two queries of a panel have two names, unless a label in the name tells them apart."""
    wrong = []
    for panel in panels(dashboard):
        legends = [target.get("legendFormat", "") for target in panel["targets"]]
        plain = [one for one in legends if one and "{{" not in one]
        if len(plain) != len(set(plain)):
            wrong.append(panel["title"])
        for target in panel["targets"]:
            expr = next(one.expr for one in asked if place(one) == (panel["title"], target["refId"]))
            several = came_out(parsed(expr)) - {"namespace", "job"}
            if panel["type"] == "timeseries" and several and "{{" not in target["legendFormat"]:
                wrong.append((panel["title"], target["refId"], several))
    assert wrong == []


@each_dashboard
def test_rows_that_are_merged_have_the_same_labels(dashboard, asked):
    """A table's queries share their labels, all but one or a few that name something: else each row is there twice."""
    wrong = []
    for panel in panels(dashboard):
        if panel["type"] != "table" or not any(one["id"] == "merge" for one in panel["transformations"]):
            continue
        found = [came_out(parsed(one.expr)) for one in asked if one.title == panel["title"]]
        trees = [bare(parsed(one.expr)) for one in asked if one.title == panel["title"]]
        common = frozenset.intersection(*found)
        names = {"signature", "kind", "version", "checksum", "python"}
        wrong += [(panel["title"], labels - common) for labels in found if labels - common - names]
        # A plain selector keeps its name, which would be one more column that differs.
        wrong += [(panel["title"], "has a metric's name") for tree in trees if type(tree).__name__ == "VectorSelector"]
    assert wrong == []


def test_the_heat_map_is_one_of_buckets():
    """Buckets grow, are told apart by their edge alone, and are sent as a heat map, which Grafana then takes apart."""
    (panel,) = [one for one in panels(dashboards()["on-call"]) if one["type"] == "heatmap"]
    (target,) = panel["targets"]
    assert (target["format"], panel["options"]["calculate"]) == ("heatmap", False)
    (asked,) = [one for one in ASKED if one.title == panel["title"]]
    assert came_out(parsed(asked.expr)) == {"le"}
    (bucket,) = selectors(parsed(asked.expr))
    assert (bucket.name, bucket.inside) == ("rag_drift_agreement_ratio_bucket", ("increase", "sum"))


def test_what_may_be_empty_is_a_query_that_exists():
    """Each honest gap is one of some query, and most queries have none."""
    for text in NEEDS:
        assert any(text in one.expr for one in ASKED), text
    assert sum(not one.needs for one in ASKED) > len(ASKED) / 2
