"""Render the charts with the real Helm, once for each set of values and Kubernetes version.

A case is the default, a file in the chart's `ci/`, or the example parent chart. A comment `# kubernetes: 1.29` in a
file says from which version on it can be installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "rag-drift-sidecar"
PARENT = ROOT / "helm" / "examples" / "rag-service"
VERSIONS = tuple(f"1.{minor}" for minor in range(28, 38))
NATIVE_SIDECARS = "1.29"
RELEASE, NAMESPACE = "search", "rag"


@dataclass(frozen=True, slots=True)
class Case:
    """One rendering: a chart with a values file, and the oldest Kubernetes that it is for."""

    name: str
    values: Path | None = None
    oldest: str = VERSIONS[0]
    parent: bool = False

    @property
    def versions(self) -> tuple[str, ...]:
        """Give the versions that it is to be valid for."""
        return VERSIONS[VERSIONS.index(self.oldest) :]


def cases() -> list[Case]:
    """List all cases: a new file in `ci/` is one by itself."""
    found = [Case("default")]
    for path in sorted((CHART / "ci").glob("*-values.yaml")):
        oldest = re.search(r"^# kubernetes: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        found.append(Case(path.name.removesuffix("-values.yaml"), path, oldest.group(1) if oldest else VERSIONS[0]))
    return [*found, Case("rag-service", oldest=NATIVE_SIDECARS, parent=True)]


CASES = cases()
NAMES = [case.name for case in CASES]


def case(name: str) -> Case:
    """Give one case by its name."""
    return CASES[NAMES.index(name)]


class Helm:
    """Helm with a home of its own, so that nobody's repositories or registries are read."""

    def __init__(self, binary: str, home: Path) -> None:
        self._binary, self._home = binary, home
        self._rendered: dict[tuple[str, str], str] = {}

    def __call__(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command; the lines that only name the links in `files/` are left out."""
        homes = {f"HELM_{name}_HOME": str(self._home / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [self._binary, *map(str, arguments)],
            env={"PATH": os.environ["PATH"], "HOME": str(self._home), **homes},
            capture_output=True,
            text=True,
            check=False,
        )
        done.stderr = "".join(
            line for line in done.stderr.splitlines(keepends=True) if "found symbolic link in path" not in line
        )
        return done

    @cached_property
    def parent(self) -> Path:
        """Build the dependency of the example parent chart, in a copy of the folder."""
        copy = self._home / "copy"
        shutil.copytree(ROOT / "helm", copy / "helm", ignore=shutil.ignore_patterns("charts", "Chart.lock"))
        chart = copy / "helm" / PARENT.relative_to(ROOT / "helm")
        done = self("dependency", "build", chart)
        assert done.returncode == 0, done.stderr
        return chart

    def template(
        self, *arguments: str | Path, chart: Path = CHART, kubernetes: str = VERSIONS[-1]
    ) -> subprocess.CompletedProcess[str]:
        """Render a chart, with `arguments` beside the release's name and namespace."""
        return self("template", RELEASE, chart, "--namespace", NAMESPACE, "--kube-version", kubernetes, *arguments)

    def render(self, name: str, kubernetes: str = VERSIONS[-1]) -> str:
        """Give the rendering of a case, made once."""
        if (name, kubernetes) not in self._rendered:
            one = case(name)
            values = ["--values", one.values] if one.values else []
            done = self.template(*values, chart=self.parent if one.parent else CHART, kubernetes=kubernetes)
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
            self._rendered[name, kubernetes] = done.stdout
        return self._rendered[name, kubernetes]

    def objects(self, *values: str, flag: str = "--set", chart: Path = CHART) -> list[dict[str, Any]]:
        """Give the objects of a rendering with these values."""
        done = self.template(*(argument for value in values for argument in (flag, value)), chart=chart)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return parse(done.stdout)

    def manifests(self, name: str, kubernetes: str = VERSIONS[-1]) -> list[dict[str, Any]]:
        """Give the objects of a case."""
        return parse(self.render(name, kubernetes))


def parse(text: str) -> list[dict[str, Any]]:
    """Give the objects of a rendering."""
    return [one for one in yaml.load_all(text, Loader=Loader) if one]


class Loader(yaml.CSafeLoader):  # type: ignore[misc]
    """A fast loader that refuses a key that is there twice: Kubernetes would take one of them and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Read a mapping, each key once."""
        keys = [key.value for key, _ in node.value]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        assert not twice, f"twice in line {node.start_mark.line + 1}: {twice}"
        return super().construct_mapping(node, deep=deep)


def of_kind(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Give the objects of a kind."""
    return [one for one in manifests if one["kind"] == kind]


def pod_specs(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the pod specifications of all workloads."""
    return [one["spec"]["template"]["spec"] for one in manifests if "template" in one.get("spec", {})]


def settings_text(manifests: list[dict[str, Any]]) -> str:
    """Give the sidecar.yaml of a rendering."""
    found = [one.get("data", {}).get("sidecar.yaml") for one in of_kind(manifests, "ConfigMap")]
    (text,) = [one for one in found if one]
    return str(text)
