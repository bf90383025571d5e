"""Every query of the dashboards with Grafana's variables substituted, as Grafana would send it to Prometheus.

The lint tests parse them, the end-to-end test asks a real Prometheus each of them and demands data. They are read from
the files in `dashboards/grafana`, which are what people install, and not from the generator.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dashboards.generate.needs import needs_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dashboards.generate.needs import Need

FOLDER = Path(__file__).parents[2] / "dashboards" / "grafana"

EVERYTHING: Mapping[str, str] = {
    "datasource": "prometheus",
    "namespace": ".*",
    "job": ".+",
    "instance": ".+",
    "slice": ".+",
    "signal": "overlap@10",
    "probe_set": ".+",
    "against": "accepted",
    "__rate_interval": "1m",
    "__interval": "15s",
    "__range": "1h",
    "__range_s": "3600",
}
"""What the variables are when nobody has chosen anything, in a window of an hour. Without Kubernetes there is no label
`namespace`, and only a pattern that matches nothing at all finds such series."""

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)(?::\w+)?\}|([A-Za-z_]\w*))")
_LABEL_VALUES = re.compile(r"label_values\((?P<series>.+), (?P<label>\w+)\)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One query: where it stands, and what Prometheus is asked.

    `kind` says how Grafana asks: `instant` at the end of the window, `range` over it; an annotation is a range and
    shows only what happened within it; a variable is the values of a label, here an instant query with a series each.
    """

    dashboard: str
    title: str
    ref: str
    kind: Literal["instant", "range", "annotation", "variable"]
    expr: str
    label: str | None = None
    """The label of a variable."""

    @property
    def needs(self) -> frozenset[Need]:
        """What must be there for a series to come back, beside a sidecar that judges."""
        return needs_of(self.expr)


def dashboards() -> dict[str, dict[str, Any]]:
    """Read the dashboards by the names of their files."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.json"))}


def panels(dashboard: Mapping[str, Any], *, rows: bool = False) -> Iterator[dict[str, Any]]:
    """Give every panel, also those in closed rows; the rows themselves only on request."""
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            yield panel
            continue
        if rows:
            yield panel
        yield from panel["panels"]


def substituted(text: str, values: Mapping[str, str]) -> str:
    """Put the variables' values in.

    Raises:
        KeyError: a variable that nobody knows.
    """
    return _VARIABLE.sub(lambda found: values[found[1] or found[2]], text)


def queries(values: Mapping[str, str] | None = None, *, one_slice: str = "default") -> Iterator[Asked]:
    """Give every query of every dashboard. `one_slice` is what a panel that is repeated for each slice asks for."""
    known = {**EVERYTHING, **(values or {})}
    for dashboard in dashboards().values():
        uid = dashboard["uid"]
        for panel in panels(dashboard):
            repeated = {"slice": one_slice} if panel.get("repeat") == "slice" else {}
            for target in panel["targets"]:
                place = (uid, panel["title"], target["refId"])
                kind: Literal["instant", "range"] = "instant" if target.get("instant") else "range"
                yield Asked(*place, kind, substituted(target["expr"], known | repeated))
        for mark in dashboard["annotations"]["list"]:
            place = (uid, mark["name"], "annotation")
            yield Asked(*place, "annotation", substituted(mark["expr"], known))
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                found = _LABEL_VALUES.fullmatch(variable["query"])
                assert found is not None, variable["query"]
                expr = f"count by ({found['label']}) ({substituted(found['series'], known)})"
                yield Asked(uid, variable["name"], "variable", "variable", expr, label=found["label"])
