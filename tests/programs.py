"""Programs that tests run for real: where they are, and what it means when one is missing.

Elsewhere a missing program skips its tests with a reason; in CI nothing that can run is skipped, and it fails. Those of
Debian are found by their names on PATH, those that come as wheels beside this Python.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

PACKAGES = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}
"""The Debian package of a program that is not called as its package."""
WHEELS = {"helm", "hadolint"}


def path_of(name: str) -> str | None:
    """Give the path of a program; None where there is none."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if name in WHEELS and beside.exists() else shutil.which(name)


def missing(*names: str) -> str:
    """Say which of these programs this machine lacks, and nothing if it has all."""
    lacking = [name for name in names if path_of(name) is None]
    packages = " ".join(sorted({PACKAGES.get(name, name) for name in lacking}))
    return f"no {' and no '.join(lacking)} on this machine: install {packages}" if lacking else ""


def absent(reason: str) -> NoReturn:
    """Skip the test for this reason; in CI fail it."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def need(*names: str) -> None:
    """Skip the test where a program is missing; in CI that is a failure."""
    if reason := missing(*names):
        absent(reason)


def program(name: str) -> str:
    """Give the path of a program that the test needs."""
    need(name)
    path = path_of(name)
    assert path is not None
    return path
