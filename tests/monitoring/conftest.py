"""The watched accident, once for the module that looks at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.app.conftest import built  # noqa: F401  (a fixture of ours, too)
from tests.monitoring.accident import Accident, happened

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def accident(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accident]:
    """Give the demo's default run from its first query to its end, with what watched it."""
    with happened(tmp_path_factory.mktemp("accident")) as found:
        yield found
