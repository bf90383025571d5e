"""What rules, dashboards and pages may ask for, and what an expression of PromQL does ask for, from its syntax tree."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promql_parser
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector
from promql_parser import AggModifierType, LabelModifierType, VectorMatchCardinality

from docs.tables import metric_families
from sidecar.exporter.intake_collector import IntakeCollector
from sidecar.exporter.metrics import Metrics
from sidecar.probesets.library import find_sets

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = Path(__file__).parents[2] / "dashboards" / "rules"
EVERY_FILE = sorted(path.name for path in RULES.glob("*.yaml"))
TARGET = frozenset({"namespace", "job", "instance"})
"""Labels that Prometheus gives to what it scrapes."""
SET_OPERATORS = frozenset({"and", "or", "unless"})
OF_A_WINDOW = frozenset({"rate", "irate", "increase", "resets", "changes", "delta"})
COUNTING = frozenset({"rate", "irate", "increase", "resets"})


@dataclass(frozen=True, slots=True)
class Family:
    """What can be selected: its labels, and whether it only grows."""

    labels: frozenset[str]
    counter: bool


@dataclass(frozen=True, slots=True)
class Selected:
    """A selector in an expression."""

    name: str
    matchers: tuple[tuple[str, str], ...]
    """Label and value."""
    inside: tuple[str, ...]
    """The functions and aggregations around it, the nearest first."""


@cache
def families() -> dict[str, Family]:
    """Give everything that the dashboards may select: our registry, the client library's process, and our rules."""
    found = {"up": Family(TARGET, counter=False)}
    for name, kind, labels, _ in metric_families():
        known = TARGET | set(labels)
        if kind in ("histogram", "summary"):
            found |= {f"{name}_{part}": Family(known, counter=True) for part in ("sum", "count")}
            if kind == "histogram":
                found[f"{name}_bucket"] = Family(known | {"le"}, counter=True)
        else:
            found[name] = Family(known, counter=kind == "counter")
    process = CollectorRegistry()
    ProcessCollector(registry=process)
    for family in process.collect():
        for sample in family.samples:
            found[sample.name] = Family(TARGET, counter=family.type == "counter")
    # The file of the other objective differs in its numbers only.
    for rule in rules("recording.yaml", "slo-7d.yaml"):
        if "record" in rule:
            found.setdefault(rule["record"], Family(frozenset(), counter=False))  # it may read what it said last
            known = came_out(parsed(rule["expr"]), found) | rule.get("labels", {}).keys()
            found[rule["record"]] = Family(known, counter=False)
    labels = {"alertname", "alertstate"}
    for rule in rules("alerts.yaml", "slo-7d.yaml"):
        if "alert" in rule:
            labels |= {*rule["labels"], *came_out(parsed(rule["expr"]), found)}
    found["ALERTS"] = Family(frozenset(labels), counter=False)
    return found


def rules(*files: str) -> list[dict[str, Any]]:
    """Give the rules of these files, by default of all."""
    trees = [yaml.safe_load((RULES / file).read_text(encoding="utf-8")) for file in files or EVERY_FILE]
    return [rule for tree in trees for group in tree["groups"] for rule in group["rules"]]


@cache
def values() -> dict[tuple[str, str], set[str]]:
    """Map a series' name and a label to the values that a sidecar with the bundled sets and a frozen copy shows."""
    made = Metrics(signals=["overlap@10"], k=10, version="0", pages=26.0, tickets=4.0, now=lambda: 0.0, frozen=True)
    made.cycles(judge=1, frozen=1, canaries=1)
    made.know_slices(["default"])
    made.canaries.canaries_known(find_sets())
    found: dict[tuple[str, str], set[str]] = {}
    for family in (*made.registry.collect(), *IntakeCollector().collect()):
        for sample in family.samples:
            for label, value in sample.labels.items():
                found.setdefault((sample.name, label), set()).add(value)
    for rule in rules("recording.yaml"):
        for name in {one.name for one in selectors(parsed(rule["expr"]))}:
            for label in families()[name].labels:
                found.setdefault((rule["record"], label), set()).update(found.get((name, label), ()))
    return {key: some for key, some in found.items() if some}


def parsed(expr: str) -> Any:
    """Parse an expression."""
    return promql_parser.parse(expr)


def children(node: Any) -> list[Any]:
    """Give the expressions in a node."""
    found = []
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        child = getattr(node, name, None)
        if child is not None:
            found.append(child)
    return [*found, *getattr(node, "args", ())]


def selectors(node: Any, inside: tuple[str, ...] = ()) -> Iterator[Selected]:
    """Give every selector with what stands around it."""
    if isinstance(node, promql_parser.VectorSelector):
        matchers = tuple((one.name, one.value) for one in node.matchers.matchers)
        yield Selected(node.name or "", matchers, inside)
        return
    if isinstance(node, promql_parser.Call):
        inside = (node.func.name, *inside)
    elif isinstance(node, promql_parser.AggregateExpr):
        inside = (str(node.op), *inside)
    for child in children(node):
        yield from selectors(child, inside)


def functions(node: Any) -> Iterator[Any]:
    """Give every call of a function."""
    if isinstance(node, promql_parser.Call):
        yield node
    for child in children(node):
        yield from functions(child)


def aggregations(node: Any) -> Iterator[Any]:
    """Give every aggregation."""
    if isinstance(node, promql_parser.AggregateExpr):
        yield node
    for child in children(node):
        yield from aggregations(child)


def came_out(node: Any, known: dict[str, Family] | None = None) -> frozenset[str]:
    """Give the labels that the series of an expression may have."""
    known = families() if known is None else known
    if isinstance(node, promql_parser.VectorSelector):
        return known[node.name].labels
    if isinstance(node, promql_parser.AggregateExpr):
        return _grouped(node, came_out(node.expr, known))
    if isinstance(node, promql_parser.Call):
        return _called(node, frozenset().union(*(came_out(one, known) for one in node.args)))
    if isinstance(node, promql_parser.BinaryExpr):
        return _both(node, came_out(node.lhs, known), came_out(node.rhs, known))
    inner = children(node)
    return came_out(inner[0], known) if inner else frozenset()


def _grouped(node: Any, inner: frozenset[str]) -> frozenset[str]:
    if str(node.op) in ("topk", "bottomk"):
        return inner
    if node.modifier is None:
        return frozenset()
    asked = frozenset(node.modifier.labels)
    return asked if node.modifier.type == AggModifierType.By else inner - asked


def _called(node: Any, inner: frozenset[str]) -> frozenset[str]:
    if node.func.name == "label_replace":
        return inner | {node.args[1].val}
    return inner - {"le"} if node.func.name == "histogram_quantile" else inner


def _both(node: Any, left: frozenset[str], right: frozenset[str]) -> frozenset[str]:
    operator = str(node.op)
    if operator == "or":
        return left | right
    if operator in SET_OPERATORS:
        return left
    matching = node.modifier.matching if node.modifier is not None else None
    if matching is None:
        return left | right if not (left and right) else left & right
    asked = frozenset(matching.labels)
    if node.modifier.card == VectorMatchCardinality.ManyToOne:
        return left | frozenset(node.modifier.group_labels)
    if node.modifier.card == VectorMatchCardinality.OneToMany:
        return right | frozenset(node.modifier.group_labels)
    return left & asked if matching.type == LabelModifierType.Include else left - asked
