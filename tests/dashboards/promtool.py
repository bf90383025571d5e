"""The real promtool, amtool and Alertmanager for the tests of the rules; missing ones skip, in CI they fail."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

SECONDS = 240


def found(name: str) -> str:
    """Give the path of a program; skip the test where it is missing, or fail in CI."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not on this machine: apt-get install prometheus prometheus-alertmanager"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return path


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return run("promtool", *arguments)


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program and give what it says."""
    return subprocess.run([found(name), *arguments], capture_output=True, text=True, check=False, timeout=SECONDS)
