"""Helm for the tests of the chart."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.helm.charts import Helm, binary
from tests.helm.validation import DEFINITIONS

if TYPE_CHECKING:
    from pathlib import Path


def needed(what: str | Path | None, name: str) -> None:
    """Skip without a part that the test needs; in CI a missing one is a failure."""
    if what is None:
        reason = f"{name} is not on this machine"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Give Helm, with renderings kept for the session."""
    found = binary()
    needed(found, "helm")
    assert found is not None
    return Helm(found, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def operator_definitions() -> None:
    """Skip where the operator's definitions are not beside the repository, also in CI: they are not part of it."""
    if not DEFINITIONS.is_dir():
        pytest.skip("the Prometheus operator's definitions (../shared/data/kubernetes-crds) are not on this machine")
