"""The package that people install: all it needs and nothing else, and it renders what the folder renders."""

from __future__ import annotations

import base64
import gzip
import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.helm.charts import CHART, ROOT, Helm

if TYPE_CHECKING:
    from pathlib import Path

LARGEST_SECRET = 1_048_576
"""Kubernetes' bound on a Secret, and Helm keeps a release in one."""
ON = "prometheusRule.enabled=true,dashboards.enabled=true,podMonitor.enabled=true"


@pytest.fixture(scope="module")
def package(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack the chart as for a repository."""
    folder = tmp_path_factory.mktemp("package")
    done = helm("package", CHART, "--destination", folder)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.tgz")
    return path


def contents(package: Path) -> dict[str, tarfile.TarInfo]:
    """Give the files of the package by their path in the chart."""
    with tarfile.open(package) as archive:
        return {member.name.removeprefix("rag-drift-sidecar/"): member for member in archive.getmembers()}


def test_rules_and_dashboards_are_files_in_the_package(package):
    """Behind the links are the real files, each whole."""
    found = contents(package)
    assert all(member.isfile() for member in found.values())
    for source, inside in (("rules/*.yaml", "files/rules"), ("grafana/*.json", "files/grafana")):
        wanted = {f"{inside}/{path.name}": path for path in (ROOT / "dashboards").glob(source)}
        assert wanted
        assert set(wanted) == {name for name in found if name.startswith(f"{inside}/")}
        with tarfile.open(package) as archive:
            for name, path in wanted.items():
                packed = archive.extractfile(f"rag-drift-sidecar/{name}")
                assert packed is not None
                assert packed.read() == path.read_bytes()


def test_nothing_else_is_in_the_package(package):
    """No tests, no generators, no values of ours: what a chart is made of, its README and its files."""
    allowed = ("templates/", "files/rules/", "files/grafana/")
    single = {
        "Chart.yaml",
        "values.yaml",
        "values.schema.json",
        "README.md",
        ".helmignore",
        "files/settings-defaults.yaml",
    }
    assert [name for name in contents(package) if name not in single and not name.startswith(allowed)] == []
    assert [name for name in contents(package) if name.endswith(".py") or "/tests/" in name] == []


@pytest.mark.parametrize("values", ["", ON, f"mode=sidecar,{ON}"], ids=["default", "monitoring", "sidecar"])
def test_the_package_renders_what_the_folder_renders(helm, package, values):
    """Whoever installs the package gets what the tests looked at."""
    arguments = ["--set", values] if values else []
    from_package = helm.template(*arguments, chart=package)
    assert (from_package.returncode, from_package.stderr) == (0, "")
    assert from_package.stdout == helm.template(*arguments).stdout


def test_a_release_fits_into_the_secret_that_helm_keeps_it_in(helm, package, record_property):
    """The chart's files and the largest rendering, packed as Helm packs a release, stay far below a Secret's bound."""
    with tarfile.open(package) as archive:
        files = {
            member.name: base64.b64encode(archive.extractfile(member).read()).decode()  # type: ignore[union-attr]
            for member in archive.getmembers()
        }
    release = json.dumps({"chart": files, "manifest": helm.template("--set", ON).stdout})
    size = len(base64.b64encode(gzip.compress(release.encode(), 9)))
    record_property(
        "measured", f"chart: package {package.stat().st_size:,} bytes, release {size:,} of {LARGEST_SECRET:,}"
    )
    assert size < LARGEST_SECRET / 2
