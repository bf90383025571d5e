"""The Grafana dashboards: that the files are the generator's, the rules of good dashboards, and their words.

Grafana itself does not run here; its published schema stands in. The queries are `test_grafana_queries`' business.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import chain, product
from pathlib import Path

import pytest
from grafana_foundation_sdk.models import units as unit_names
from jsonschema import Draft7Validator

from dashboards.generate import __main__ as build
from dashboards.generate.rules import BURN_WINDOWS, RUNBOOKS, alert_names
from sidecar.drift.attribution import Cause
from sidecar.drift.signature import NAMES
from sidecar.model import SEVERITIES
from tests.dashboards.expressions import came_out, parsed, rules
from tests.dashboards.queries import EVERYTHING, FOLDER, dashboards, panels, substituted

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT.parent / "shared" / "data" / "grafana-schema"
FILES = {
    "on-call": ("rag-drift-on-call", "Retrieval drift — on-call"),
    "probes": ("rag-drift-probes", "Probes"),
    "weekly": ("rag-drift-weekly", "Weekly drift review"),
    "health": ("rag-drift-health", "Sidecar health"),
}
MARKS = ["Encoder or index exchanged", "Baseline accepted", "Settings read"]
NO_NAMESPACE = r"/(^|\()\//"
NO_UNDERSCORES = r"/_(?=.*\()/g"
"""How Grafana changes the names of series."""
each_dashboard = pytest.mark.parametrize("name", FILES)


@pytest.fixture
def dashboard(name):
    """Give the dashboard as it is in the repository."""
    return dashboards()[name]


# The files and their generator.


def test_regenerating_gives_the_same_files():
    """What is checked in is what the generator writes, byte for byte, and nothing else lies beside it."""
    made = dict(build.files())
    assert (
        {file.name for file in made} == {file.name for file in FOLDER.iterdir()} == {f"{name}.json" for name in FILES}
    )
    for file, text in made.items():
        assert file.read_bytes() == text.encode(), f"{file.name} is stale: run python -m dashboards.generate"


def test_another_process_gives_the_same_files():
    """Nothing in the files depends on the order of sets or on the process: another hash seed changes no byte."""
    code = "from dashboards.generate import __main__ as b; print(*(text for _, text in b.files()), sep='', end='')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"".join(text.encode() for _, text in build.files())


def test_check_tells_a_stale_file_and_writes_nothing(tmp_path, monkeypatch, capsys):
    """`--check` fails on a missing and on a changed file and names it; without it both are written."""
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    assert build.main(["--check"]) == 1
    assert "on-call.json: is stale" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert build.main([]) == 0
    assert build.main(["--check"]) == 0
    (tmp_path / "weekly.json").write_text("{}")
    capsys.readouterr()
    assert build.main(["--check"]) == 1
    assert capsys.readouterr().out.splitlines() == ["weekly.json: is stale, run python -m dashboards.generate"]
    assert (tmp_path / "weekly.json").read_text() == "{}"


# The dashboards as a whole.


@each_dashboard
def test_a_dashboard_is_what_people_expect_to_install(name, dashboard):
    """Fixed uid and title, a schema version that Grafana 10 to 12 read, no editing in the browser, UTC."""
    assert (dashboard["uid"], dashboard["title"]) == FILES[name]
    assert 39 <= dashboard["schemaVersion"] <= 41
    assert dashboard["editable"] is False
    assert dashboard["timezone"] == "utc"
    assert dashboard["tags"] == ["rag-drift"]
    assert dashboard["time"]["from"] == {"weekly": "now-7d", "probes": "now-24h"}.get(name, "now-6h")
    assert "id" not in dashboard or dashboard["id"] is None
    assert len(dashboard["description"]) > 40


@each_dashboard
def test_the_dashboards_link_to_each_other(name, dashboard):
    """One list of links by tag, which keeps the period and what was chosen."""
    (link,) = dashboard["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["rag-drift"])
    assert (link["includeVars"], link["keepTime"]) == (True, True), name


@each_dashboard
def test_variables_follow_the_convention(name, dashboard):
    """Data source, namespace, job, instance, slice; several or all can be chosen, and new ones appear in time."""
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert list(variables)[:5] == ["datasource", "namespace", "job", "instance", "slice"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    for one in variables.values():
        assert one["label"], one["name"]
        if one["type"] != "query":
            continue
        assert one["refresh"] == 2, one["name"]
        assert one["datasource"]["uid"] == "${datasource}", one["name"]
        if one["name"] != "signal":  # intervals of two signals would lie over each other
            everything = ".*" if one["name"] == "namespace" else ".+"
            assert (one["multi"], one["includeAll"], one["allValue"]) == (True, True, everything), one["name"]
    assert ("signal" in variables) == (name in ("on-call", "weekly"))
    assert set(re.findall(r"\$\{?([a-z]\w+)", json.dumps(dashboard["panels"]))) <= set(variables) | {"value"}


@each_dashboard
def test_what_is_chosen_narrows_the_choices_below_it(name, dashboard):
    """Jobs are those of the chosen namespaces, and all that comes after those of the chosen jobs and replicas."""
    queries = {one["name"]: one["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"}
    before = []
    for variable in (one for one in queries if one != "against"):
        assert set(re.findall(r"\$(\w+)", queries[variable])) == set(before), (name, variable)
        before += [variable] if variable in ("namespace", "job", "instance") else []


@each_dashboard
def test_tiles_and_rows_name_the_deployment(name, dashboard):
    """Two deployments with one job's name are told apart by their namespaces, and a lacking one leaves no slash."""
    tables = tiles = 0
    for panel in panels(dashboard):
        changes = panel.get("transformations", [])
        if panel["type"] == "table" and changes[0]["id"] != "groupingToMatrix":
            (kept,) = [one["options"]["include"]["names"] for one in changes if one["id"] == "filterFieldsByName"]
            place = kept.index("namespace")
            assert kept[place + 1] == "job", panel["title"]
            tables += 1
        elif panel["type"] in ("stat", "bargauge", "state-timeline"):
            legends = [target["legendFormat"] for target in panel["targets"]]
            if legends == ["{{instance}}"]:
                continue
            assert all("{{namespace}}/{{job}}" in one for one in legends), panel["title"]
            assert changes[0] == {"id": "renameByRegex", "options": {"regex": NO_NAMESPACE, "renamePattern": "$1"}}
            tiles += 1
    assert tables >= 1, name
    assert tiles >= 5, name


@pytest.mark.parametrize(
    ("pattern", "text", "wanted"),
    [
        (NO_NAMESPACE, "/search", "search"),
        (NO_NAMESPACE, "overlap@10 of de (/search)", "overlap@10 of de (search)"),
        (NO_NAMESPACE, "prod/search", "prod/search"),
        (NO_NAMESPACE, "overlap@10 of a/b (prod/search)", "overlap@10 of a/b (prod/search)"),
        (NO_UNDERSCORES, "deployed_index_content (prod/my_job)", "deployed index content (prod/my_job)"),
    ],
    ids=["bare", "in-brackets", "with-namespace", "slash-elsewhere", "underscores"],
)
def test_names_are_written_as_people_read_them(pattern, text, wanted):
    """The patterns by which Grafana changes names, in the browser's own regular expressions where node is there."""
    used = {
        (change["options"]["regex"], change["options"]["renamePattern"])
        for dashboard in dashboards().values()
        for panel in panels(dashboard)
        for change in panel.get("transformations", [])
        if change["id"] == "renameByRegex"
    }
    assert used == {(NO_NAMESPACE, "$1"), (NO_UNDERSCORES, " ")}
    replacement = dict(used)[pattern]
    body, flags = pattern[1:].rsplit("/", 1)
    assert re.sub(body, replacement.replace("$", "\\"), text, count=0 if flags else 1) == wanted
    if shutil.which("node"):
        code = "const [p, f, t, r] = process.argv.slice(1); process.stdout.write(t.replace(new RegExp(p, f), r))"
        done = subprocess.run(
            ["node", "-e", code, body, flags, text, replacement], capture_output=True, text=True, check=True
        )
        assert done.stdout == wanted


@each_dashboard
def test_panels_lie_side_by_side_and_fill_their_lines(name, dashboard):
    """No panel overlaps another or stands out of the grid, and no line has a hole."""
    taken = {}
    for panel in panels(dashboard, rows=True):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])):
            assert cell not in taken, (panel["title"], taken[cell])
            taken[cell] = panel["title"]
    bottom = max(y for _, y in taken) + 1
    assert len(taken) == 24 * bottom, f"{name}: a line has a hole"


@each_dashboard
def test_ids_and_titles_are_unique(name, dashboard):
    """Links to a panel, and runbooks that name one, find one."""
    everything = list(panels(dashboard, rows=True))
    for what in ("id", "title"):
        values = [panel[what] for panel in everything]
        assert len(values) == len(set(values)), (name, what)


@each_dashboard
def test_every_panel_says_what_it_is_for(name, dashboard):
    """Title, a unit, and a text that is more than the title said again."""
    known = {value for key, value in vars(unit_names).items() if isinstance(value, str) and not key.startswith("_")}
    for panel in panels(dashboard):
        assert panel["title"], name
        assert len(panel["description"]) > 90, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        units = [panel["fieldConfig"]["defaults"]["unit"]]
        for override in panel["fieldConfig"]["overrides"]:
            units += [one["value"] for one in override["properties"] if one["id"] == "unit"]
        assert set(units) <= known, panel["title"]


@each_dashboard
def test_the_data_source_is_chosen_by_the_reader(name, dashboard):
    """Every data source is the variable's, of panels, targets and annotations."""
    wanted = {"type": "prometheus", "uid": "${datasource}"}
    sources = [one["datasource"] for one in dashboard["annotations"]["list"]]
    sources += [one["datasource"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    for panel in panels(dashboard):
        sources += [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert len(sources) > 2 * len(list(panels(dashboard))), name
    assert [one for one in sources if one != wanted] == []


@each_dashboard
def test_annotations_stand_where_the_event_was(name, dashboard):
    """Exchanges, baselines and settings are marked on every dashboard, at the time that is the metric's value."""
    marks = dashboard["annotations"]["list"]
    assert [one["name"] for one in marks] == MARKS, name
    for one in marks:
        assert (one["enable"], one["useValueForTime"]) == (True, True)
        assert one["expr"].startswith("1000 * "), "Prometheus has seconds, Grafana milliseconds"
        labels = came_out(parsed(substituted(one["expr"], EVERYTHING)))
        shown = re.findall(r"\{\{(\w+)\}\}", one["titleFormat"] + one["textFormat"]) + one["tagKeys"].split(",")
        assert set(shown) <= labels, one["name"]


@each_dashboard
def test_grafanas_schema_accepts_it(dashboard):
    """The dashboard, and options and fields of each kind of panel, are what Grafana's schema says."""
    if not SCHEMA.is_dir():
        pytest.skip(f"{SCHEMA} is not on this machine")
    schema = json.loads((SCHEMA / "dashboard.jsonschema.json").read_text())
    # False positives: both are of any type in Grafana, and the schema says object.
    schema["definitions"]["MatcherConfig"]["properties"]["options"] = {}
    schema["definitions"]["DynamicConfigValue"]["properties"]["value"] = {}
    assert [problem.message for problem in Draft7Validator(schema).iter_errors(dashboard)] == []
    targets = json.loads((SCHEMA / "prometheus.jsonschema.json").read_text())["definitions"]
    units = set(re.findall(r'"const": "(.+?)"', (SCHEMA / "units.jsonschema.json").read_text()))
    for panel in panels(dashboard):
        kinds = json.loads((SCHEMA / f"{panel['type'].replace('-', '')}.jsonschema.json").read_text())["definitions"]
        if "TableCellOptions" in kinds:  # a coloured cell in plain mode reads as a gauge in plain mode, too
            kinds["TableCellOptions"] = {"anyOf": kinds["TableCellOptions"]["oneOf"]}
        parts = [("Options", panel["options"], kinds)]
        if "FieldConfig" in kinds:
            parts.append(("FieldConfig", panel["fieldConfig"]["defaults"].get("custom", {}), kinds))
        parts += [("Dataquery", target, targets) for target in panel["targets"]]
        for part, value, definitions in parts:
            problems = Draft7Validator({"$ref": f"#/definitions/{part}", "definitions": definitions}).iter_errors(value)
            assert [problem.message for problem in problems] == [], (panel["title"], part)
        assert panel["fieldConfig"]["defaults"]["unit"] in units, panel["title"]


# Words.


def mapped_values(panel):
    """Give all values that the panel has a word for."""
    mappings = list(panel["fieldConfig"]["defaults"].get("mappings", ()))
    for override in panel["fieldConfig"]["overrides"]:
        mappings += chain(*(one["value"] for one in override["properties"] if one["id"] == "mappings"))
    return {value for one in mappings if one["type"] == "value" for value in one["options"]}


@pytest.mark.parametrize(
    ("name", "title", "values"),
    [
        ("on-call", "Likely cause, and what to do", {cause.value for cause in Cause}),
        ("on-call", "Is it drifting?", {str(SEVERITIES.index(one)) for one in SEVERITIES}),
        ("on-call", "Alarm over time", {str(SEVERITIES.index(one)) for one in SEVERITIES}),
        ("on-call", "Alerts that fire or are pending", set(alert_names())),
        ("probes", "What happened to each labelled set", set(NAMES)),
        ("probes", "What happened to each domain, over time", {str(place) for place in range(len(NAMES))}),
    ],
    ids=["causes", "severity", "severity-over-time", "runbooks", "signatures", "signatures-over-time"],
)
def test_every_state_has_a_word(name, title, values):
    """A cause, severity, signature or alert that is added to the program has its words on the dashboard."""
    (panel,) = [one for one in panels(dashboards()[name]) if one["title"] == title]
    assert len(values) > 4
    assert values <= mapped_values(panel)


def test_alerts_link_to_the_runbooks_of_the_rules():
    """The link's base is that of the rules' runbook_url, so that the chart replaces one text in both."""
    text = (FOLDER / "on-call.json").read_text()
    assert f"{RUNBOOKS}${{__value.text}}" in text
    alerts = (ROOT / "dashboards" / "rules" / "alerts.yaml").read_text()
    assert set(re.findall(r"runbook_url: (\S+/)", alerts)) == {RUNBOOKS}
    assert '"ragdriftretrievaldrifted.md"' in text


@pytest.mark.parametrize("days", ["7d", "30d"])
def test_the_recorded_limits_are_those_of_the_alerts(days):
    """Each pair of windows has one limit, which its file records for the dashboards; they have none of their own."""
    alerting, recorded = {}, {}
    for rule in rules(f"slo-{days}.yaml"):
        if "alert" in rule:
            found = re.findall(r"slo_burn:ratio_rate(\w+) > ([\d.]+)", rule["expr"])
            for (long, limit), (short, same) in zip(found[::2], found[1::2], strict=True):
                assert limit == same
                alerting[long, short] = limit
            continue
        assert rule["record"] == "window:rag_drift_slo_burn_limit:constant"
        assert rule["labels"].keys() == {"window", "slo_window"}
        assert rule["labels"]["slo_window"] == days
        recorded[rule["labels"]["window"]] = rule["expr"]
    assert tuple(alerting) == BURN_WINDOWS
    assert recorded == {long: f"vector({limit})" for (long, _), limit in alerting.items()}
    shown = (FOLDER / "on-call.json").read_text()
    assert not [limit for limit in alerting.values() if "." in limit and re.search(rf"\b{re.escape(limit)}\b", shown)]
