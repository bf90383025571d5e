"""What the documentation lists is what the code has, both ways."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_generated_tables_are_current():
    """Settings and metrics in the documentation are those of the code: names, defaults, types, labels, meanings."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "tables.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_and_metric_that_prose_mentions_exists():
    """A name in running text, in code marks, is a real one: prose rots as well as tables do."""
    from sidecar.settings import leaves

    settings = {path for path, _ in leaves()}
    sections = {path.rpartition(".")[0] for path in settings} - {""}
    metrics = set(re.findall(r"^\| `(rag_drift_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    tops = "|".join(sorted({path.split(".")[0] for path in settings if "." in path}))
    wrong = []
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = file.read_text()
        wrong += [
            f"{file.name}: setting {name}"
            for name in re.findall(rf"`((?:{tops})\.[a-z_.]+)`", text)
            if name not in settings | sections and not name.endswith((".py", ".md", ".log"))
        ]
        wrong += [
            f"{file.name}: metric {name}"
            for name in re.findall(r"`[^`]*?(?<!:)(rag_drift_[a-z0-9_]+)", text)  # not the recording rules
            if re.sub(r"_(bucket|sum|count)$", "", name) not in metrics and name not in metrics
        ]
    assert wrong == []


COMMANDS = [
    "run", "config check", "config show", "index build", "status", "calibrate", "fixed", "freeze", "plan",
    "observations", "replay-log", "gate", "probes list", "probes show", "probes lint", "probes card", "demo",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented_and_has_help(command):
    """Each command answers --help and is named in the README or the documentation."""
    done = subprocess.run(
        [sys.executable, "-m", "sidecar.cli", *command.split(), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "Usage" in done.stdout
    texts = [(ROOT / "README.md").read_text(), *(file.read_text() for file in (ROOT / "docs").rglob("*.md"))]
    assert any(f"rag-drift {command}" in text for text in texts)


def test_the_list_of_commands_in_this_test_is_complete():
    """A new command must be added above, and so be documented."""
    from sidecar.cli import rag_drift

    found = set()
    for name, command in rag_drift.commands.items():
        below = getattr(command, "commands", None)
        found |= {f"{name} {inner}" for inner in below} if below else {name}
    assert found == set(COMMANDS)
