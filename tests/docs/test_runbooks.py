"""The runbooks: each alert has its page, and what a page tells somebody to type, to open or to look at exists.

A page is read at three in the morning. A query that does not parse, a command without its option, a panel under another
name or a link to nowhere costs trust that is not won again; so all of them are checked against the program, the rules,
the dashboards and the chart. What the sentences say is not.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import click
import pytest
from prometheus_client import CollectorRegistry

from sidecar.cli import rag_drift
from sidecar.drift.attribution import Cause
from sidecar.exporter.http import application
from sidecar.intake import REASONS
from sidecar.store import Keys
from tests.dashboards.expressions import Selected, families, parsed, rules, selectors, values
from tests.programs import program

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "runbooks"
INDEX = FOLDER / "README.md"
CHART = ROOT / "helm" / "rag-drift-sidecar" / "templates"

HEADINGS = ["## Meaning", "## Impact", "## Diagnosis", "## Mitigation"]
ACCEPTANCE = "## When to accept a new baseline"
RECIPE_NAME = "Change a setting without a restart"
RECIPE = f"README.md#{RECIPE_NAME.lower().replace(' ', '-')}"
OPEN_LABELS = {"slice", "signal", "probe_set", "domain", "phenomenon", "fingerprint", "index", "version", "checksum"}
"""Labels whose values no list in the code bounds."""
TARGET_LABELS = {"job", "namespace", "instance", "pod"}

PANEL = re.compile(r"\*\*([^*]+?) \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} ([^*]+)\*\*")

PAGES = sorted(FOLDER.glob("ragdrift*.md"))
TEXTS = [INDEX, *PAGES, ROOT / "docs" / "slo.md"]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
every_text = pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.stem)


@cache
def alerts() -> dict[str, list[dict]]:
    """Group the alerting rules by their name."""
    found: dict[str, list[dict]] = {}
    for rule in rules():
        if "alert" in rule:
            found.setdefault(rule["alert"], []).append(rule)
    return found


def severities(name: str) -> str:
    """Write the severities of an alert, the worst first."""
    has = {rule["labels"]["severity"] for rule in alerts()[name]}
    return ", ".join(one for one in ("critical", "warning", "info") if one in has)


def blocks(page: Path, language: str) -> list[str]:
    """Give the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def outside_blocks(page: Path) -> str:
    """Give the text without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def queries(page: Path) -> list[str]:
    """Give the queries of a page: those in blocks, an empty line between two."""
    return [query for block in blocks(page, "promql") for query in re.split(r"\n\s*\n", block.strip())]


def shell_lines(page: Path) -> list[str]:
    """Give what a page tells to type into a shell."""
    return [
        line.removeprefix("$ ")
        for block in blocks(page, "console")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("$ ")
    ]


# --- Pages and headings


def test_each_alert_has_a_page_and_each_page_an_alert():
    """The file's name is the alert's in lower case: that is what `runbook_url` says."""
    assert {page.name for page in PAGES} == {f"{name.lower()}.md" for name in alerts()}
    for name, found in alerts().items():
        files = {rule["annotations"]["runbook_url"].rsplit("/", 1)[1] for rule in found}
        assert files == {f"{name.lower()}.md"}


@every_page
def test_a_page_has_the_fixed_headings_in_their_order(page):
    """Title, four headings, and where an acceptance can end it a fifth; nobody should have to look for them."""
    name = next(name for name in alerts() if name.lower() == page.stem)
    monitor = {rule["labels"]["component"] for rule in alerts()[name]} == {"monitor"}
    lines = re.findall(r"^#{1,6} .*", outside_blocks(page), re.MULTILINE)
    assert lines == [f"# {name}", *HEADINGS, *([] if monitor else [ACCEPTANCE])]


@every_page
def test_a_page_says_what_ends_it_and_what_a_false_alarm_looks_like(page):
    """Both are asked at once by whoever was woken, and stand under their own bold word."""
    sections = re.split(r"^## ", outside_blocks(page), flags=re.MULTILINE)
    places = {section.split("\n", 1)[0]: section for section in sections}
    assert "**False alarm.**" in places["Diagnosis"]
    assert "**It ends**" in places["Mitigation"]


@every_page
def test_a_page_is_short(page):
    """Longer than this is not read at night; shorter has not helped."""
    assert 40 <= len(page.read_text().splitlines()) <= 85


def test_the_index_lists_every_alert_with_its_severity_and_summary():
    """The table of the index is that of the rules."""
    rows = re.findall(r"^\| \[(\w+)\]\((\S+)\) \| (.*?) \| (.*?) \|$", INDEX.read_text(), re.MULTILINE)
    wanted = {
        (name, f"{name.lower()}.md", severities(name), found[0]["annotations"]["summary"])
        for name, found in alerts().items()
    }
    assert set(rows) == wanted
    assert len(rows) == len(wanted)


# --- Queries


def wrong_with(selector: Selected) -> list[str]:
    """Say what of a selector does not exist, or cannot be filled in."""
    known = families().get(selector.name)
    if known is None:
        return [f"no such metric: {selector.name}"]
    wrong = []
    matchers = dict(selector.matchers)
    if matchers.get("job") != "...":
        wrong.append(f'{selector.name} has no job="..." to fill in')
    for label, wanted in matchers.items():
        if label not in known.labels | TARGET_LABELS:
            wrong.append(f"{selector.name} has no label {label}")
        exist = values().get((selector.name, label))
        if exist and label not in OPEN_LABELS and not any(re.fullmatch(wanted, value) for value in exist):
            wrong.append(f"{selector.name}: no {label} is {wanted}")
    return wrong


@every_text
def test_each_query_parses_and_asks_for_what_exists(page):
    """Metric, label and value exist, and the job is there to be filled in."""
    asked = queries(page)
    assert asked or page == INDEX
    wrong = [problem for query in asked for one in selectors(parsed(query)) for problem in wrong_with(one)]
    assert wrong == []


# --- Commands


def wrong_with_command(text: str, *, whole: bool) -> str | None:
    """Say what is wrong with a `rag-drift` command; `whole` ones must also have all that is required."""
    command: click.Command = rag_drift
    words = shlex.split(text)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.commands.get(words.pop(0))
        if found is None:
            return f"no such command: {text}"
        command = found
    context = click.Context(command)
    try:
        given, left, _ = command.make_parser(context).parse_args(words)
    except click.UsageError as error:
        return f"{text}: {error.format_message()}" if whole or isinstance(error, click.NoSuchOption) else None
    if left:
        return f"{text}: {left} too much"
    if whole and isinstance(command, click.Group):
        return f"{text}: a command is missing"
    lacks = [one.name for one in command.get_params(context) if one.required and given.get(one.name) in (None, ())]
    return f"{text}: lacks {lacks}" if whole and lacks else None


@every_text
def test_each_command_and_option_exists(page):
    """What is to be typed runs as it stands; what the text mentions has at least that name and those options."""
    typed = [re.split(r" [|>&]", found)[0] for line in shell_lines(page)
             for found in re.findall(r"(?:^|\s)rag-drift ((?![-|]).*)", line)]  # fmt: skip
    mentioned = re.findall(r"`rag-drift ([^`]+)`", outside_blocks(page))
    wrong = [wrong_with_command(text, whole=True) for text in typed]
    wrong += [wrong_with_command(text, whole=False) for text in mentioned]
    assert [one for one in wrong if one] == []


@every_page
def test_a_page_has_something_to_type(page):
    """A runbook without a command is an essay."""
    assert shell_lines(page)


@cache
def routes() -> set[tuple[str, str]]:
    """Give method and path of every endpoint."""
    app = application(CollectorRegistry(), None, token=lambda: None)
    return {(route.method, route.resource.canonical) for route in app.router.routes()}


@every_text
def test_each_path_of_the_api_exists(page):
    """Asked with the method that the endpoint has."""
    text = page.read_text()
    paths = re.findall(r"(?<![\w/])(?:localhost:9464)?(/(?:api/v1|-)/\w+)", text)
    assert [path for path in paths if not {("GET", path), ("POST", path)} & routes()] == []
    asked = [
        ("POST" if "-X POST" in line else "GET", path)
        for line in shell_lines(page)
        for path in re.findall(r"localhost:9464(/[\w/-]+)", line)
    ]
    assert [one for one in asked if one not in routes()] == []


@every_text
def test_each_key_of_redis_exists(page):
    """A key that is looked at, or even deleted, is one that the store has."""
    keys = Keys("D")
    for name in re.findall(r"rag-drift:\{\w+\}:([a-z-]+)", page.read_text()):
        assert getattr(keys, name.replace("-", "_")) == f"rag-drift:{{D}}:{name}"


@every_text
def test_each_logged_event_exists(page):
    """What the log is searched for is what the program, or the chart's start script, writes."""
    sources = [*(ROOT / "sidecar").rglob("*.py"), *CHART.glob("*.tpl")]
    written = "\n".join(file.read_text() for file in sources)
    searched = [word for line in shell_lines(page) for words in re.findall(r"grep -E '([\w|]+)'", line)
                for word in words.split("|")]  # fmt: skip
    missing = [word for word in searched if not re.search(rf'"{word}[ "\\]', written)]
    assert missing == []


@every_text
def test_pods_are_found_by_what_the_chart_gives_them(page):
    """Label and container name are those of the chart, in both of its modes."""
    chart = "\n".join(file.read_text() for file in CHART.iterdir())
    asked = "\n".join(line.split(" -- ")[0] for line in shell_lines(page) if "kubectl" in line)
    labels, containers = set(re.findall(r" -l ([^\s=]+)", asked)), set(re.findall(r" -c (\S+)", asked))
    assert [label for label in labels if f"{label}: " not in chart] == []
    assert [name for name in containers if f"\nname: {name}\n" not in chart] == []


@every_text
def test_a_command_meets_the_pods_of_one_release(page):
    """Without the label's value it would take any release's first pod, and `calibrate` there; only the search may.

    A pod by its name is one that runs: another one cannot be entered.
    """
    loose = [
        line
        for line in shell_lines(page)
        if "-l rag-drift.example/sidecar" in line
        and "-l rag-drift.example/sidecar=SIDECAR " not in line
        and " --all-namespaces " not in line
    ]
    named = [line for line in shell_lines(page) if "kubectl" in line and " get pod " in line and "-o name" in line]
    assert loose + [line for line in named if "--field-selector=status.phase=Running" not in line] == []


@every_page
def test_a_pod_that_is_used_was_looked_up(page):
    """`$POD` is set on the page, before the first command that needs it."""
    lines = shell_lines(page)
    used = [number for number, line in enumerate(lines) if "$POD" in line]
    found = [number for number, line in enumerate(lines) if line.startswith("POD=$(")]
    assert len(found) == bool(used)
    assert found < used or not used


@every_text
def test_a_reload_is_one_of_all_pods(page):
    """The signal reaches one process: the recipe alone sends it, and a page that asks for a reload links the recipe."""
    _, _, remedy = outside_blocks(page).partition("## Mitigation\n")
    assert not any("kill -HUP" in line for line in shell_lines(page)) or page == INDEX
    if page in PAGES and re.search(r"\breload|need no restart|needs no restart", remedy):
        assert RECIPE in remedy


def test_the_recipe_changes_every_pod_and_the_values():
    """Edit, wait for the file, check, reload in a loop over the pods, and keep it in the release's values."""
    place = f"### {RECIPE_NAME}\n"
    text = INDEX.read_text().partition(place)[2].partition("\n## ")[0]
    typed = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    steps = ["edit configmap SIDECAR", "sha256sum /etc/rag-drift/", "rag-drift config check", "kill -HUP 1"]
    places = [next(number for number, line in enumerate(typed) if step in line) for step in steps]
    assert places == sorted(places)
    assert all(typed[number].startswith("for POD in $(pods); do ") for number in places[1:])
    assert "values of `RELEASE`" in text
    linking = {page.stem.removeprefix("ragdrift") for page in PAGES if RECIPE in page.read_text()}
    assert linking >= {
        "shedding", "fallingbehind", "canariesstale", "canarysetaside", "deadletters", "streamsilent", "reloadfailed",
        "uncalibrated", "nothingread",
    }  # fmt: skip


@every_text
def test_settings_are_rolled_back_by_helm(page):
    """`rollout undo` brings back a pod, and not the ConfigMap of a fixed name that it reads."""
    assert [line for line in shell_lines(page) if "rollout undo" in line] == []


@every_text
def test_each_helm_command_and_option_exists(page):
    """Asked of the program itself, and never without saying where the release is."""
    typed = [line.partition(" |")[0].split()[1:] for line in shell_lines(page) if line.startswith("helm ")]
    if not typed:
        return
    helm = program("helm")
    for words in typed:
        (name,) = [word for word in words if word in {"list", "history", "rollback"}]
        shown = subprocess.run([helm, name, "--help"], capture_output=True, text=True, check=True).stdout
        assert {"-n", "--all-namespaces"} & set(words)
        assert [word for word in words if word.startswith("-") and not re.search(rf"\s{word}\b", shown)] == []


@every_text
def test_the_shell_can_read_what_is_typed(page):
    """Quotes and loops are closed."""
    shell = program("sh")
    text = "\n".join(shell_lines(page)) + "\n"
    done = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- Panels, links, lists


@cache
def panels() -> dict[str, set[str]]:
    """Map each dashboard's title to those of its panels."""

    def titles(found: list[dict]) -> set[str]:
        return {one["title"] for one in found if one["type"] != "row"} | {
            title for one in found for title in titles(one.get("panels") or [])
        }

    boards = [json.loads(file.read_text()) for file in sorted((ROOT / "dashboards" / "grafana").glob("*.json"))]
    return {board["title"]: titles(board["panels"]) for board in boards}


@every_text
def test_each_panel_exists(page):
    """A bold name with an arrow in it is that of a dashboard and of one of its panels."""
    named = re.findall(PANEL, " ".join(page.read_text().split()))
    assert [(board, panel) for board, panel in named if panel not in panels().get(board, set())] == []


@every_page
def test_a_page_names_a_panel_to_look_at(page):
    """Most people look before they type."""
    assert re.search(PANEL, page.read_text())


def anchors(file: Path) -> set[str]:
    """Give the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@every_text
def test_each_link_leads_somewhere(page):
    """To a file of this repository, and to a heading that it has."""
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z]+:", target) or not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert wrong == []


@every_text
def test_each_alert_that_a_page_names_exists(page):
    """Pages point to each other instead of repeating; a name that was changed must be changed there too."""
    assert set(re.findall(r"RagDrift[A-Z]\w+", page.read_text())) <= set(alerts())


def test_the_page_of_the_alarm_has_an_answer_for_each_cause():
    """Whatever the diagnosis names, the page says what to do with it."""
    told = set(re.findall(r"`(\w+)`", (FOLDER / "ragdriftretrievaldrifted.md").read_text()))
    assert {cause.value for cause in Cause} <= told


def test_the_page_of_the_dead_letters_has_an_answer_for_each_reason():
    """Likewise for the rules of the event contract."""
    told = set(re.findall(r"`(\w+)`", (FOLDER / "ragdriftdeadletters.md").read_text()))
    assert set(REASONS) <= told
