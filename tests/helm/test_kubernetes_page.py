"""The page about Kubernetes: its commands run as they stand, as far as they need no cluster, and its names are real."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from tests.helm.charts import CHART, ROOT, of_kind, parse

PAGE = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
COMMANDS = re.findall(r"^\$ (helm .+)$", PAGE, re.MULTILINE)
WITHOUT_CLUSTER = [one for one in dict.fromkeys(COMMANDS) if one.split()[1] in {"template", "upgrade", "dependency"}]


def blocks(language: str) -> list[str]:
    """Give the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(helm, monkeypatch):
    """Stand where a reader stands: in a copy of the repository, with the page's values.yaml."""
    place = helm.parent.parents[2]
    for block in blocks("yaml"):
        if named := re.match(r"# (\S+\.yaml)\n", block):
            (place / named.group(1)).write_text(block, "utf-8")
    monkeypatch.chdir(place)
    return place


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", WITHOUT_CLUSTER, ids=lambda one: " ".join(one.split()[1:3] + one.split()[-2:]))
def test_the_commands_of_the_page_run(helm, command):
    """An installation is rendered instead of installed; the others run to the letter."""
    arguments = shlex.split(command)[1:]
    if arguments[0] == "upgrade":
        arguments = [
            "template",
            *(one for one in arguments[1:] if one not in {"--install", "--wait", "--timeout", "15m"}),
        ]
    done = helm(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    if arguments[0] == "template":
        assert of_kind(parse(done.stdout), "ConfigMap")
        assert "--" not in arguments


def test_the_commands_are_found():
    """The test above is about all of them."""
    assert len(WITHOUT_CLUSTER) >= 6
    assert {one.split()[1] for one in COMMANDS} == {"template", "upgrade", "dependency", "rollback", "uninstall"}


@pytest.mark.usefixtures("folder")
def test_the_objects_that_the_page_names_are_rendered(helm):
    """Deployment and job of the commands and of the rollout's arguments are those of the page's own values."""
    done = helm("template", "search", "helm/rag-drift-sidecar", "-n", "rag", "-f", "values.yaml")
    (deployment,), (service,) = (of_kind(parse(done.stdout), kind) for kind in ("Deployment", "Service"))
    assert set(re.findall(r"deployment/(\S+)", PAGE)) == {deployment["metadata"]["name"]}
    (steps,) = [yaml.safe_load(one) for one in blocks("yaml") if "setWeight" in one]
    arguments = {one["name"]: one["value"] for one in steps[1]["analysis"]["args"]}
    assert (arguments["job"], arguments["namespace"]) == (service["metadata"]["name"], "rag")


def test_the_values_and_alerts_that_the_page_names_exist():
    """Every value in code is in values.yaml or a setting, every alert in the rules."""
    from sidecar.settings import leaves

    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    settings = {path for path, _ in leaves()}
    dotted = set(re.findall(r"`([a-z][A-Za-z]+(?:\.[a-zA-Z_]+)+)`", PAGE)) - {"manifest.json"}
    assert len(dotted) > 15
    for path in dotted:
        if path.removeprefix("config.") in settings:
            continue
        found = values
        for name in path.split("."):
            assert isinstance(found, dict), path
            if name not in found and path.startswith(("resources.", "strategy.")):
                break  # Kubernetes' own names
            assert name in found, path
            found = found[name]
    rules = "".join(path.read_text("utf-8") for path in (ROOT / "dashboards" / "rules").glob("*.yaml"))
    for alert in set(re.findall(r"`(RagDrift\w+)`", PAGE)):
        assert f"- alert: {alert}\n" in rules


def test_the_links_of_the_page_lead_somewhere():
    """Every relative link is a file or folder of the repository."""
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", PAGE)
    assert links
    for link in links:
        assert (ROOT / "docs" / link).exists(), link
