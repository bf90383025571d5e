"""The page about the settings: what its prose says that a reload refuses is what a reload refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.errors import ConfigurationError
from sidecar.options import refuse_what_needs_a_restart
from sidecar.settings import Settings, leaves

if TYPE_CHECKING:
    from pydantic import BaseModel

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
RETRIEVER = {"encoder": {"model": "/model"}, "index": "/index"}
SETTINGS = Settings.model_validate({"retrievers": {"deployed": RETRIEVER, "reference": RETRIEVER}})
OTHERS: dict[str, Any] = {"judge.signals": ("rbo",), "replay.k": 99}
"""Settings that a reload reads, and does not only compare; for the others any other value will do."""


def changed(settings: BaseModel, path: str, value: object) -> Any:
    """Give the settings with one of them changed, and not checked."""
    name, _, rest = path.partition(".")
    return settings.model_copy(update={name: changed(getattr(settings, name), rest, value) if rest else value})


def refused(path: str) -> bool:
    """Say whether a running sidecar refuses another value of a setting."""
    try:
        refuse_what_needs_a_restart(SETTINGS, changed(SETTINGS, path, OTHERS.get(path, object())))
    except ConfigurationError as error:
        return "cannot be changed by a reload" in str(error)
    return False


def listed() -> set[str]:
    """Give what the page says that a reload refuses: settings, and whole sections."""
    (text,) = re.findall(r"What cannot change in a running process\s+\((.*?)\)", PAGE, re.DOTALL)
    return set(re.findall(r"`([^`]+)`", text))


@pytest.mark.parametrize("path", [path for path, _ in leaves()])
def test_the_page_lists_what_a_reload_refuses(path):
    """Each setting is tried: it is refused if, and only if, it or its section is in the list."""
    assert refused(path) == any(path == one or path.startswith(f"{one}.") for one in listed())


def test_everything_in_the_list_is_a_setting():
    """A name that was changed in the settings is changed in the list, too."""
    paths = [path for path, _ in leaves()]
    assert [one for one in listed() if not any(path == one or path.startswith(f"{one}.") for path in paths)] == []
