"""Imports run one way, and the contracts that say so cover the whole package."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def lint(config: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter with a configuration file, without its cache."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--config", str(config), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def modules() -> set[str]:
    """Name everything directly below the package."""
    return {
        f"sidecar.{place.stem}"
        for place in (ROOT / "sidecar").iterdir()
        if (place.suffix == ".py" and place.stem != "__init__") or (place / "__init__.py").is_file()
    }


def test_every_contract_is_kept():
    """The package imports as its contracts say, imports inside functions and for types included."""
    done = lint(ROOT / "pyproject.toml", ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in done.stdout


def test_every_module_of_the_package_has_a_layer():
    """A new module must say where it belongs, and a removed one must leave the list."""
    (layers,) = [contract["layers"] for contract in CONTRACTS if contract["type"] == "layers"]
    listed = [name.strip() for layer in layers for name in layer.split("|")]
    assert len(listed) == len(set(listed))
    assert set(listed) == modules()


def test_the_contracts_name_modules_that_exist():
    """A contract about a module that was renamed would hold for ever and say nothing."""
    for contract in CONTRACTS:
        for name in [*contract.get("source_modules", ()), *contract.get("forbidden_modules", ())]:
            if name.startswith("sidecar"):
                assert name in modules(), f"{contract['name']}: {name}"


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("sidecar/overlap.py", "from sidecar.store import Keys", "Imports run one way"),
        ("sidecar/intake/sampler.py", "from sidecar.judge.duty import Judge", "Imports run one way"),
        ("sidecar/encoders/cache.py", "from sidecar.indexes.protocol import Index", "Imports run one way"),
        ("sidecar/drift/esr.py", "import time", "The pure core knows no IO, clock, log or metric"),
        ("sidecar/publish.py", "import redis", "What a service imports to publish is the standard library"),
        ("sidecar/judge/duty.py", "import prometheus_client", "Only the exporter knows Prometheus"),
    ],
)
def test_a_wrong_import_breaks_its_contract(tmp_path, module, line, broken):
    """The contracts can fail: one wrong import in a copy of the sources, even inside a function, is found."""
    for place in (ROOT / "sidecar").rglob("*.py"):
        copy = tmp_path / place.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(place.read_text())
    config = tmp_path / "pyproject.toml"
    config.write_text((ROOT / "pyproject.toml").read_text())
    place = tmp_path / module
    place.write_text(place.read_text() + f"\n\ndef wrong():\n    {line}\n")
    done = lint(config, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    verdicts = [text for text in done.stdout.splitlines() if text.endswith(("KEPT", "BROKEN"))]
    assert [text for text in verdicts if text.startswith(broken) and text.endswith("BROKEN")], done.stdout
