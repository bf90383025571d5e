"""The real promtool and amtool for the tests of rules and dashboards."""

from __future__ import annotations

import subprocess

from tests.programs import program

SECONDS = 240


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return run("promtool", *arguments)


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program and give what it says."""
    return subprocess.run([program(name), *arguments], capture_output=True, text=True, check=False, timeout=SECONDS)
