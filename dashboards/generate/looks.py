"""How things look: the query and name of a series, lines, columns, axes, thresholds, units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders import common, dashboard
from grafana_foundation_sdk.models import common as look
from grafana_foundation_sdk.models import dashboard as model

if TYPE_CHECKING:
    from collections.abc import Sequence

    Mappings = Sequence[model.ValueMap | model.SpecialValueMap]

SOURCE = model.DataSourceRef("prometheus", "${datasource}")
NONE, SHARE, SECONDS, BYTES = "none", "percentunit", "s", "bytes"
AGO, DATE = "dateTimeFromNow", "dateTimeAsIso"
EACH_SECOND = "cps"

DEPLOYMENT_NAME = "{{namespace}}/{{job}}"
"""Two deployments may have the same job: with the chart a job is the release's name, and staging has it too."""

Steps = tuple[tuple[float | None, str], ...]
"""Thresholds: from which value on which colour; the first has None."""
PLAIN: Steps = ((None, "text"),)


@dataclass(frozen=True, slots=True)
class Query:
    """One expression with the name of its series."""

    expr: str
    legend: str = "__auto"


@dataclass(frozen=True, slots=True)
class Line:
    """How the series look whose names match a pattern."""

    pattern: str
    colour: str | None = None
    dashed: bool = False
    fill_to: str | None = None
    """Fill the area down to the series of this name."""
    width: int | None = None
    fill: int | None = None

    def overrides(self) -> list[model.DynamicConfigValue]:
        """Give the overrides."""
        found: dict[str, object] = {}
        if self.colour:
            found["color"] = {"mode": "fixed", "fixedColor": self.colour}
        if self.dashed:
            found["custom.lineStyle"] = {"fill": "dash", "dash": [8, 6]}
        if self.fill_to:
            found |= {"custom.fillBelowTo": self.fill_to, "custom.fillOpacity": 12}
        if self.width is not None:
            found["custom.lineWidth"] = self.width
        if self.fill is not None:
            found["custom.fillOpacity"] = self.fill
        return properties(found)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the field that it shows, and how."""

    source: str
    title: str
    unit: str | None = None
    decimals: int | None = None
    width: int | None = None
    mappings: Mappings = ()
    steps: Steps | None = None
    background: bool = False
    """Colour the cell and not the text."""
    link: tuple[str, str] | None = None
    """Title and address of a link."""

    def overrides(self) -> list[model.DynamicConfigValue]:
        """Give the overrides."""
        found: dict[str, object] = {}
        if self.unit:
            found["unit"] = self.unit
        if self.decimals is not None:
            found["decimals"] = self.decimals
        if self.width is not None:
            found["custom.width"] = self.width
        if self.mappings:
            found["mappings"] = list(self.mappings)
        if self.steps:
            found |= {"thresholds": thresholds(self.steps).build(), "color": {"mode": "thresholds"}}
        if self.steps or self.background:
            kind = {"type": "color-background", "mode": "basic"} if self.background else {"type": "color-text"}
            found["custom.cellOptions"] = kind
        if self.link:
            found["links"] = [{"title": self.link[0], "url": self.link[1], "targetBlank": True}]
        return properties(found)


OWNER = (Column("namespace", "Namespace"), Column("job", "Job"))
"""Whose row it is. Outside Kubernetes there is no namespace, and Grafana leaves its column out."""
OWNER_NARROW = (Column("namespace", "Namespace", width=110), Column("job", "Job", width=150))
"""The same where long texts stand beside it."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The y axis of a graph."""

    unit: str = NONE
    least: float | None = None
    most: float | None = None
    soft: tuple[float | None, float | None] = (None, None)
    label: str = ""
    decimals: int | None = None
    log: bool = False
    steps: Steps = PLAIN


def legend(calcs: Sequence[str]) -> common.VizLegendOptions:
    """Give a legend below the panel; with numbers it is a table."""
    made = common.VizLegendOptions().show_legend(True).placement(look.LegendPlacement.BOTTOM).calcs(list(calcs))
    return made.display_mode(look.LegendDisplayMode.TABLE if calcs else look.LegendDisplayMode.LIST)


def owned(query: Query) -> Query:
    """Add the deployment to the name of a series that does not have it; an instance is of one deployment only."""
    if DEPLOYMENT_NAME in query.legend or "{{instance}}" in query.legend:
        return query
    return Query(query.expr, f"{query.legend} ({DEPLOYMENT_NAME})")


def renamed(pattern: str, replacement: str) -> model.DataTransformerConfig:
    """Change the names of series by a regular expression between slashes."""
    return model.DataTransformerConfig("renameByRegex", options={"regex": pattern, "renamePattern": replacement})


def without_empty_namespace() -> model.DataTransformerConfig:
    """Take the slash away that a deployment's name begins with where there is no namespace."""
    return renamed(r"/(^|\()\//", "$1")


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    """Give Grafana's form of thresholds."""
    made = [model.Threshold(value, colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def properties(found: dict[str, object]) -> list[model.DynamicConfigValue]:
    """Give Grafana's form of overrides."""
    return [model.DynamicConfigValue(name, value) for name, value in found.items()]
