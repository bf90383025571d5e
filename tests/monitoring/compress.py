"""Rules and an Alertmanager configuration in quick motion: every time divided by a factor, everything else as it is.

The rules speak of quarters of an hour; a test cannot wait for those. With a factor of 60 a minute of the rules is a
second of the test, and a scrape each second stands for one each minute. Divided are:

* `for`, `keep_firing_for` and `interval` of rules and groups;
* every range, step and offset in an expression, and ranges in the PromQL of annotations (`[30m]`);
* numbers in expressions that are seconds: those added to, taken from or compared with a time (`time() - x > 120`). What
  is a time is read off the expression: `time()` and metrics whose name says `_seconds`. A number that counts or scales
  (`>= 100`, `2 * ...`) stays;
* `group_wait`, `group_interval`, `repeat_interval` and `resolve_timeout` of Alertmanager.

Names of recording rules stay (`max15m` is then about 15 seconds), and so do the times of the sidecar itself: how long
it loads, diagnoses and holds a lease is as real as ever, and so is `rag_drift_evaluation_interval_seconds`.
"""

from __future__ import annotations

import re
from typing import Any

import promql_parser as promql

DURATION = r"(?:\d+(?:ms|[smhdwy]))+"
RULE_TIMES = {"for", "keep_firing_for", "interval"}
ROUTE_TIMES = {"group_wait", "group_interval", "repeat_interval", "resolve_timeout"}
MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000, "y": 31_536_000_000}
UNITS = ("d", "h", "m", "s", "ms")
_TOKEN = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`|\#[^\n]*)"""
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_:]*)"
    rf"|(?P<duration>{DURATION})"
    r"|(?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
)
_RANGE = re.compile(rf"\[({DURATION})(:?)({DURATION})?\]")
_SECONDS = re.compile(r"_seconds(?=$|:)")
_SUMS = {"+", "-", "==", "!=", ">", "<", ">=", "<="}
_OF_THE_LEFT = {"==", "!=", ">", "<", ">=", "<=", "and", "or", "unless"}
# What these make of times is a number of something, or a share of a second in each second.
_COUNTS = {
    "count", "group", "count_values", "absent", "absent_over_time", "changes", "count_over_time", "increase", "irate",
    "present_over_time", "rate", "resets", "sgn", "deriv",
}  # fmt: skip


def milliseconds(duration: str) -> int:
    """Read a duration as Prometheus writes it."""
    return sum(int(count) * MILLISECONDS[unit] for count, unit in re.findall(r"(\d+)(ms|[smhdwy])", duration))


def divided(duration: str, factor: float) -> str:
    """Divide a duration; nothing is rounded away, what is no whole millisecond is refused."""
    if factor == 1:
        return duration
    left = milliseconds(duration) / factor
    if not left.is_integer() or left < 1:
        raise ValueError(f"{duration} by {factor} is no number of milliseconds")
    whole, text = int(left), ""
    for unit in UNITS:
        count, whole = divmod(whole, MILLISECONDS[unit])
        text += f"{count}{unit}" if count else ""
    return text


def rules(tree: dict[str, Any], factor: float) -> dict[str, Any]:
    """Give the content of a rule file with its times divided."""
    return {**tree, "groups": [_group(group, factor) for group in tree["groups"]]}


def alertmanager(tree: Any, factor: float) -> Any:
    """Give an Alertmanager configuration with its times divided."""
    if isinstance(tree, list):
        return [alertmanager(one, factor) for one in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: divided(value, factor) if key in ROUTE_TIMES else alertmanager(value, factor)
        for key, value in tree.items()
    }


def expression(text: str, factor: float) -> str:
    """Divide the times of one PromQL expression, and leave every other character where it is."""
    numbers = iter(_numbers(promql.parse(text)))

    def token(match: re.Match[str]) -> str:
        word = match[0]
        if match["duration"]:
            return divided(word, factor)
        if match["number"]:
            value, is_time = next(numbers)
            if abs(value) != float(int(word, 16) if word[:2].lower() == "0x" else word):
                raise ValueError(f"{word} in {text!r} is not the number {value} that the parser has there")
            return f"{value / factor:.12g}".lstrip("-") if is_time and value else word
        # The parser has these words as numbers, too.
        if match["name"] and word.lower() in {"inf", "nan"}:
            next(numbers)
        return word

    done = _TOKEN.sub(token, text)
    if (left := next(numbers, None)) is not None:
        raise ValueError(f"the parser has one number more in {text!r}: {left[0]}")
    return done


def _group(group: dict[str, Any], factor: float) -> dict[str, Any]:
    return _times(group, factor) | {"rules": [_rule(rule, factor) for rule in group["rules"]]}


def _rule(rule: dict[str, Any], factor: float) -> dict[str, Any]:
    done = _times(rule, factor) | {"expr": expression(rule["expr"], factor)}
    if "annotations" in rule:
        done["annotations"] = {
            name: _RANGE.sub(lambda match: expression(f"x{match[0]}", factor)[1:], text)
            for name, text in rule["annotations"].items()
        }
    return done


def _times(tree: dict[str, Any], factor: float) -> dict[str, Any]:
    return {key: divided(value, factor) if key in RULE_TIMES else value for key, value in tree.items()}


def _numbers(node: Any) -> list[tuple[float, bool]]:
    """Give the numbers of an expression in the order of its text, and whether each is a time."""
    if isinstance(node, promql.NumberLiteral):
        return [(node.val, False)]
    if isinstance(node, promql.BinaryExpr):
        left, right = _numbers(node.lhs), _numbers(node.rhs)
        if str(node.op) in _SUMS:
            left = [(left[0][0], _is_time(node.rhs))] if _is_number(node.lhs) else left
            right = [(right[0][0], _is_time(node.lhs))] if _is_number(node.rhs) else right
        return left + right
    if isinstance(node, promql.AggregateExpr):
        return (_numbers(node.param) if node.param is not None else []) + _numbers(node.expr)
    if isinstance(node, promql.Call):
        return [number for argument in node.args for number in _numbers(argument)]
    if isinstance(node, promql.ParenExpr | promql.UnaryExpr | promql.SubqueryExpr):
        return _numbers(node.expr)
    return []


def _is_number(node: Any) -> bool:
    if isinstance(node, promql.ParenExpr | promql.UnaryExpr):
        return _is_number(node.expr)
    return isinstance(node, promql.NumberLiteral)


def _is_time(node: Any) -> bool:
    """Say whether the values of an expression are seconds."""
    match node:
        case promql.VectorSelector():
            found = bool(node.name and _SECONDS.search(node.name))
        case promql.MatrixSelector():
            found = _is_time(node.vector_selector)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            found = _is_time(node.expr)
        case promql.AggregateExpr():
            found = str(node.op) not in _COUNTS and _is_time(node.expr)
        case promql.Call():
            name = node.func.name
            found = name == "time" or (name not in _COUNTS and any(_is_time(one) for one in node.args))
        case promql.BinaryExpr():
            found = _is_time_of_two(node)
        case _:
            found = False
    return found


def _is_time_of_two(node: Any) -> bool:
    left, right, op = _is_time(node.lhs), _is_time(node.rhs), str(node.op)
    if node.modifier is not None and node.modifier.return_bool:
        return False
    if op == "/":
        return left and not right
    return left if op in _OF_THE_LEFT else left or right
