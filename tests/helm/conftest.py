"""Helm for the tests of the chart."""

from __future__ import annotations

import pytest

from tests.helm.charts import Helm
from tests.helm.validation import DEFINITIONS
from tests.programs import program


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Give Helm, with renderings kept for the session."""
    return Helm(program("helm"), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def operator_definitions() -> None:
    """Skip where the operator's definitions are not beside the repository, also in CI: they are not part of it."""
    if not DEFINITIONS.is_dir():
        pytest.skip("the Prometheus operator's definitions (../shared/data/kubernetes-crds) are not on this machine")
