"""The Dockerfile: what hadolint says, and what would go wrong silently. The build itself is `make image`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sidecar.settings import leaves
from tests.image.dockerfile import ROOT, read
from tests.programs import program

FILE = ROOT / "Dockerfile"
IMAGE = read(FILE)
RUNTIME = IMAGE.stages["runtime"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/image.md").read_text(encoding="utf-8")
TEXTS = {"Dockerfile": FILE.read_text(encoding="utf-8")} | {
    f"example {number}": text
    for number, text in enumerate(re.findall(r"^```dockerfile\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL), start=1)
}


def hadolint(text: str) -> list[str]:
    """Give the rules that hadolint finds broken."""
    done = subprocess.run(
        [program("hadolint"), "--format", "json", "-"], input=text, capture_output=True, text=True, check=False
    )
    return [f"{one['code']} line {one['line']}: {one['message']}" for one in json.loads(done.stdout)]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_hadolint_finds_nothing(text):
    """Our file and the examples of the documentation keep all rules; none is switched off in them."""
    assert hadolint(text) == []
    assert "hadolint ignore" not in text


def test_hadolint_would_complain():
    """The check above can fail: a moving tag and unpinned packages are found."""
    found = hadolint("FROM python:latest\nRUN pip install torch\n")
    assert {one.split()[0] for one in found} >= {"DL3007", "DL3013"}


def test_the_examples_name_this_version():
    """An example that is copied names an image that the build above it made."""
    tags = re.findall(r"rag-drift-sidecar:([0-9][^\s`-]*)", PAGE)
    assert len(TEXTS) == 3
    assert len(tags) > 4
    assert set(tags) == {PROJECT["project"]["version"]}


def test_the_default_target_is_full():
    """A build without a target gives the image that can do everything."""
    assert list(IMAGE.stages)[-1] == "full"


@pytest.mark.parametrize("target", ["full", "slim"])
def test_the_targets_only_copy(target):
    """A command would leave the mount points and files of the machine that builds; the settings are in one place."""
    stage = IMAGE.stages[target]
    assert stage.base == "runtime"
    assert {word for word, _ in stage.instructions} == {"COPY"}
    assert RUNTIME.all("RUN") == []


def test_every_stage_starts_from_a_named_release():
    """One argument moves all stages to another base, and its default names version, variant and Debian release."""
    assert {stage.base for stage in IMAGE.stages.values()} - set(IMAGE.stages) == {"${PYTHON_IMAGE}"}
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+(\.\d+)?-slim-[a-z]+", IMAGE.arguments["PYTHON_IMAGE"])
    version = IMAGE.arguments["PYTHON_IMAGE"].partition(":")[2].split("-")[0]
    assert f"Programming Language :: Python :: {version}" in PROJECT["project"]["classifiers"]


def test_the_user_is_a_number():
    """Kubernetes cannot check `runAsNonRoot` against a name; the account of that number has a home it can write to."""
    assert RUNTIME.all("USER") == ["10001:10001"]
    (made,) = (rest for rest in IMAGE.stages["environment"].all("RUN") if "useradd" in rest)
    assert "--gid 10001 " in made
    assert "--uid 10001 " in made
    assert RUNTIME.copies() == [("environment", ["/etc/passwd", "/etc/group"], "/etc/")]
    assert RUNTIME.environment()["HOME"] == "/tmp"  # noqa: S108


def test_signals_reach_the_sidecar():
    """No shell stands between SIGTERM and the process, and without arguments it runs."""
    assert RUNTIME.exec_form("ENTRYPOINT") == ["rag-drift"]
    assert "rag-drift" in PROJECT["project"]["scripts"]
    assert RUNTIME.exec_form("CMD") == ["run"]
    assert RUNTIME.environment()["PATH"] == "/opt/venv/bin:$PATH"


def test_the_port_is_the_default_of_the_settings():
    """What EXPOSE says is where the sidecar listens."""
    default = next(field.default for path, field in leaves() if path == "http.port")
    assert RUNTIME.all("EXPOSE") == [str(default)]


def test_nothing_is_downloaded_at_start():
    """The model hub is off: a model that is not there is an error at once, not a download."""
    assert RUNTIME.environment()["HF_HUB_OFFLINE"] == "1"


def test_labels_tell_what_the_image_is():
    """The fixed labels repeat pyproject.toml; those of a release are arguments of the build."""
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in RUNTIME.labels().items()}
    assert labels.pop("title") == PROJECT["project"]["name"]
    assert labels.pop("licenses") == PROJECT["project"]["license"]
    assert labels.pop("description").removeprefix("Tells ") in PROJECT["project"]["description"]
    assert labels == {name.lower(): f"${{{name}}}" for name in ("VERSION", "REVISION", "SOURCE")}
    assert [argument.rstrip("=") for argument in RUNTIME.all("ARG")] == ["VERSION", "REVISION", "SOURCE"]


def test_slim_takes_nothing_from_a_stage_with_torch():
    """Neither directly nor through another stage."""
    behind = IMAGE.behind("slim")
    assert "full-environment" in IMAGE.behind("full")
    assert "full-environment" not in behind
    assert not [rest for name in behind - {"lists"} for rest in IMAGE.stages[name].all("RUN") if "torch" in rest]


def test_a_change_of_the_code_installs_nothing_again():
    """The stages that install dependencies see the lists and the constraints, and neither pyproject.toml nor code."""
    for target in ("slim-environment", "full-environment"):
        for name in IMAGE.behind(target) - {"lists"}:
            context = {path for stage, sources, _ in IMAGE.stages[name].copies() if stage is None for path in sources}
            assert context <= {"constraints.txt"}, name


def pip_installs() -> dict[str, list[str]]:
    """Give the pip commands of every stage that has some."""
    commands = {
        name: re.findall(r"pip [^&]*?\b(?:install|wheel) [^&]*", " && ".join(stage.all("RUN")))
        for name, stage in IMAGE.stages.items()
    }
    return {name: found for name, found in commands.items() if found}


def test_every_installed_version_is_constrained():
    """Pip takes versions from constraints.txt, or no index at all; and the package is installed for good."""
    found = [command for commands in pip_installs().values() for command in commands]
    assert len(found) == 6
    for command in found:
        assert " -c constraints.txt " in command or " --no-index " in command or "--no-build-isolation" in command
        assert not re.search(r"\s(-e|--editable)\b", command)


def test_torch_comes_first_and_alone():
    """Its build is chosen by nothing else, in the one version that is known to work."""
    torch, rest = pip_installs()["full-environment"]
    assert torch.rstrip().endswith(" torch")
    assert " --no-deps " in torch
    assert '${TORCH_INDEX:+--index-url "$TORCH_INDEX"}' in torch
    assert " -r full.txt" in rest
    assert "TORCH_INDEX" not in rest
    assert IMAGE.stages["full-environment"].all("ARG") == ["TORCH_INDEX="]
    assert re.search(r"^torch==\d", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)


def test_no_address_is_written_into_the_file():
    """Where packages come from is told at build time."""
    assert "://" not in TEXTS["Dockerfile"]


def test_the_lists_are_those_of_pyproject(tmp_path):
    """The command of the first stage, run: slim is everything but the encoder library."""
    (command,) = IMAGE.stages["lists"].all("RUN")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, env={"PATH": path}, check=True)
    lists = {
        name: (tmp_path / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("full", "slim", "build")
    }
    assert lists["full"] == PROJECT["project"]["dependencies"]
    assert lists["build"] == PROJECT["build-system"]["requires"]
    assert [one for one in lists["full"] if one not in lists["slim"]] == ["sentence-transformers>=5.1"]
    assert set(lists["slim"]) < set(lists["full"])


def test_the_context_is_what_the_build_copies():
    """.dockerignore lets through what is copied and nothing else, so that no secret or environment can slip in."""
    rules = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")
    ]
    copied = {
        path for stage in IMAGE.stages.values() for source, paths, _ in stage.copies() if not source for path in paths
    }
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / path).exists() for path in copied)


def test_the_package_is_built_from_all_that_it_needs():
    """Whatever pyproject.toml names for the wheel is copied: the probe sets, the readme, the licence."""
    (copied,) = [{path for stage, paths, _ in IMAGE.stages["package"].copies() if stage is None for path in paths}]
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = PROJECT["project"]
    assert copied == {
        "pyproject.toml", project["readme"], *project["license-files"], *wheel["packages"], *wheel["force-include"],
    }  # fmt: skip
