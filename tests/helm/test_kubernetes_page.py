"""The page about Kubernetes: its commands run as they stand, as far as they need no cluster, and its names are real."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import Any

import pytest
import yaml

from sidecar.replay.probe_book import TextKey
from tests.helm.charts import CHART, ROOT, of_kind, parse, pod_specs, settings_text
from tests.programs import need

PAGE = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")
COMMANDS = re.findall(r"^\$ (helm .+)$", PAGE, re.MULTILINE)
WITHOUT_CLUSTER = [one for one in dict.fromkeys(COMMANDS) if one.split()[1] in {"template", "upgrade", "dependency"}]


def blocks(language: str) -> list[str]:
    """Give the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def installed(command: str) -> list[str]:
    """Give the release, chart and values of an upgrade."""
    return [one for one in shlex.split(command)[2:] if one not in {"--install", "--wait", "--timeout", "15m"}]


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
        arguments = ["template", *installed(command)]
    done = helm(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    if arguments[0] == "template":
        assert of_kind(parse(done.stdout), "ConfigMap")
        assert "--" not in arguments


UPGRADES = [one for one in WITHOUT_CLUSTER if one.split()[1] == "upgrade"]


def contains(whole: Any, part: Any) -> bool:
    """Say whether a tree holds another one: mappings by their keys, lists by their entries."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and contains(whole[key], one) for key, one in part.items())
    if isinstance(part, list):
        return all(any(contains(other, one) for other in whole) for one in part)
    return bool(whole == part)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", UPGRADES, ids=lambda one: " ".join(one.split()[-4:-3]))
def test_no_upgrade_throws_the_users_values_away(helm, command):
    """Whatever an installation from values.yaml has, each later one has as well, and it is waited for."""
    assert "--wait" in command
    place = installed(command)
    before, after = (
        {(one["kind"], one["metadata"]["name"]): one for one in parse(done.stdout)}
        for done in (helm("template", *place[:4], "-f", "values.yaml"), helm("template", *place))
    )
    assert set(before) <= set(after)
    (key,) = [one for one in before if one[0] == "ConfigMap" and "sidecar.yaml" in before[one]["data"]]
    settings = [yaml.safe_load(one[key]["data"]["sidecar.yaml"]) for one in (after, before)]
    assert "search:queries" in str(settings[1])
    assert contains(*settings)
    pods = [pod_specs(list(one.values()))[0] for one in (after, before)]
    for one in pods:
        del one["containers"][0]["resources"]  # what a frozen copy needs more of
    assert contains(*pods)


@pytest.mark.usefixtures("folder")
def test_a_frozen_copy_has_its_volume_first(helm):
    """The first step mounts what `freeze` fills, for writing; only the second one's settings name the copy."""
    frozen = [one for one in UPGRADES if "frozen" in one]
    assert len(frozen) == 2
    for command, named in zip(frozen, (False, True), strict=True):
        place = installed(command)
        manifests = parse(helm("template", *place).stdout)
        (pod,) = pod_specs(manifests)
        (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["mountPath"] == "/frozen"]
        assert "readOnly" not in mount
        settings = yaml.safe_load(settings_text(manifests))
        assert settings["retrievers"].get("frozen") == ("/frozen" if named else None)


@pytest.mark.usefixtures("folder")
def test_the_page_creates_every_secret_that_its_values_name(helm):
    """Each Secret with each key, before the installation that mounts it: a pod waits for one that is missing."""
    text = PAGE.replace("\\\n", " ")
    created = {
        (name, key)
        for name, rest in re.findall(r"^\$ kubectl .*create secret generic (\S+)(.*)$", text, re.MULTILINE)
        for key in re.findall(r"--from-literal=([\w-]+)=", rest)
    }
    wanted = set()
    for command in UPGRADES:
        place = installed(command)
        (pod,) = pod_specs(parse(helm("template", *place).stdout))
        (volume,) = [one for one in pod["volumes"] if one["name"] == "rag-drift-secrets"]
        wanted |= {
            (source["secret"]["name"], item["key"])
            for source in volume["projected"]["sources"]
            for item in source["secret"]["items"]
        }
    assert {key for _, key in wanted} == {"password", "http-token", "frozen-key"}
    assert created == wanted


def test_the_key_that_the_page_makes_is_one(tmp_path):
    """The shell's way to 32 random bytes in URL-safe base64 is read by the sidecar."""
    (command,) = set(re.findall(r'frozen-key="\$\((.*?)\)"', PAGE))
    need("sh", "openssl", "tr")
    made = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    key = tmp_path / "frozen.key"
    key.write_text(made.stdout.rstrip("\n"), "utf-8")  # as the shell's substitution does
    assert TextKey.read(key)


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
    dotted = {
        one for one in re.findall(r"`([a-z][A-Za-z]+(?:\.[a-zA-Z_]+)+)`", PAGE) if not one.endswith((".json", ".yaml"))
    }
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
