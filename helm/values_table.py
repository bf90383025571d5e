"""Make the README's table of values out of `values.yaml`: each key with its default and the comment above it.

A key without a comment belongs to the value of the one above that has one: `resources` is one row, and so is `config`'s
part for a model. Writing the files is `schema`'s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN, END = "<!-- table: made by helm/schema.py -->", "<!-- end of table -->"


@dataclass(frozen=True, slots=True)
class Value:
    """A documented key: its dotted path, its default (None for a heading of others), and its comment."""

    path: str
    default: Any
    heading: bool
    comment: str


def documented(text: str) -> Iterator[Value]:
    """Yield the keys of a values file that have a comment, in its order."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    yield from _below(root, text.splitlines(), yaml.safe_load(text), "")


def _below(node: yaml.MappingNode, lines: list[str], values: Any, prefix: str) -> Iterator[Value]:
    for key, value in node.value:
        comment = _comment(lines, key.start_mark.line)
        if comment is None:
            continue
        path, given = prefix + key.value, values[key.value]
        inner = list(_below(value, lines, given, path + ".")) if isinstance(value, yaml.MappingNode) else []
        yield Value(path, given, bool(inner), comment)
        yield from inner


def _comment(lines: list[str], line: int) -> str | None:
    """Give the comment that stands directly above a line, on one line; None if there is none."""
    found: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].lstrip().removeprefix("#").strip())
    return " ".join(found) or None


def table(text: str) -> str:
    """Give the table of a values file in Markdown."""
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    for one in documented(text):
        default = "" if one.heading else f"`{json.dumps(one.default, ensure_ascii=False)}`"
        rows.append(f"| `{one.path}` | {default} | {one.comment.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def with_table(readme: str, values: str) -> str:
    """Give the README with the present table between its markers.

    Raises:
        ValueError: the markers are not there.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the README has no {BEGIN!r} with {END!r} after it")
    return f"{before}{BEGIN}\n{table(values)}\n{END}{after}"
