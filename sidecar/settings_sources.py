"""Read the settings: file, environment and flags merged, checked, and told in one line per mistake.

A message names where the value came from, the key, the value and the rule; a secret's value is never in it. The tree
and its rules are in `settings`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import SecretStr, ValidationError

from sidecar.errors import ConfigurationError
from sidecar.settings import ENVIRONMENT_PREFIX, Settings, environment_name, leaves

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def load(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read, merge and check the settings.

    `overrides` maps dotted paths ("redis.url") to values and wins over everything; None values are passed over.

    Raises:
        ConfigurationError: one line per broken rule, each with key, value (secrets hidden) and rule.
    """
    tree = _read_file(file) if file is not None else {}
    origin: dict[str, str] = {}
    for path, text, name in _environment(os.environ if environ is None else environ):
        _put(tree, path, _from_environment(path, text))
        origin[path] = name
    for path, value in (overrides or {}).items():
        if value is not None:
            _put(tree, path, value)
            origin[path] = "--" + path.replace(".", "-").replace("_", "-")
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        where = str(file) if file is not None else "settings"
        raise ConfigurationError("\n".join(_explain(error, where, origin))) from None


def redacted(settings: Settings) -> dict[str, Any]:
    """Give the tree as plain data with every secret hidden, also the one inside a Redis URL."""
    tree = settings.model_dump(mode="json")
    tree["redis"]["url"] = _without_credentials(settings.redis.url)
    return tree


def secret(inline: SecretStr | None, file: Path | None, what: str) -> str | None:
    """Read a secret from where the settings keep it.

    Raises:
        ConfigurationError: the file cannot be read or is empty.
    """
    if file is None:
        return inline.get_secret_value() if inline is not None else None
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"{what}: cannot read {file}: {error.strerror}") from None
    if not text:
        raise ConfigurationError(f"{what}: {file} is empty")
    return text


def _read_file(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark is not None else str(file)
        raise ConfigurationError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or 'not UTF-8'}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigurationError(f"{file}: the top level must be a mapping of settings, not {type(tree).__name__}")
    return tree


def _environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for name in sorted(environ):
        if name.startswith(ENVIRONMENT_PREFIX):
            yield name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."), environ[name], name


def _from_environment(path: str, text: str) -> Any:
    """Read an environment value: a text setting as it stands, anything else as YAML (numbers, lists, null).

    A password `a #b` or a prompt `query: ` is another value in YAML. `null` leaves an optional text out, and so does
    nothing at all for a secret or a file.
    """
    kinds = dict(_text_settings()).get(path)
    if kinds is not None:
        left_out = text == "null" or (not text and str not in kinds)
        return None if left_out and type(None) in kinds else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _text_settings() -> Iterator[tuple[str, set[Any]]]:
    """Yield the settings that hold a text of any kind, with the types that they allow."""
    for path, field in leaves():
        kinds = set(get_args(field.annotation)) or {field.annotation}
        if kinds - {type(None)} <= {str, SecretStr, Path}:
            yield path, kinds


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        below = tree.get(name)
        if not isinstance(below, dict):
            below = tree[name] = {}
        tree = below
    tree[last] = value


def _explain(error: ValidationError, where: str, origin: Mapping[str, str]) -> Iterator[str]:
    secrets = {path for path, field in leaves() if "SecretStr" in str(field.annotation)} | {"redis.url"}
    known = [path for path, _ in leaves()]
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        source = origin.get(path, where)
        if item["type"] == "extra_forbidden":
            yield f"{source}: {path}: unknown setting{_nearest(path, known)}"
        elif item["type"] == "missing":
            yield f"{source}: {path}: required, but not set (file, or {environment_name(path)})"
        else:
            hidden = not path or any(secret == path or secret.startswith(f"{path}.") for secret in secrets)
            value = "" if hidden else f" = {item['input']!r}"
            rule = item["msg"].removeprefix("Value error, ")
            yield f"{source}: {path}{value}: {rule[0].lower()}{rule[1:]}" if path else f"{source}: {rule}"


def _nearest(path: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415  (only on the way to an error)

    close = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _without_credentials(url: str) -> str:
    url, question, query = url.partition("?")
    if "password" in query:  # redis-py takes it there as well
        query = "**********"
    url += question + query
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, _, user = head.partition("://")
    name, colon, _ = user.partition(":")
    return f"{scheme}://{name}{':**********' if colon else ''}@{tail}"
