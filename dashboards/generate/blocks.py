"""Panels in this project's dress: one function for each kind, which takes a title, what it is for, and its queries.

A panel's text is for the person on call: what it shows, how to read it, what to do. Where a panel stands is `frame`'s
business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from grafana_foundation_sdk.builders import (
    barchart,
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as look
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat_model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.generate.looks import (
    NONE,
    PLAIN,
    SOURCE,
    legend,
    owned,
    properties,
    renamed,
    thresholds,
    without_empty_namespace,
)
from dashboards.generate.words import unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashboards.generate.looks import Axis, Column, Line, Mappings, Query, Steps

    Panel = (
        barchart.Panel
        | bargauge.Panel
        | heatmap.Panel
        | stat.Panel
        | statetimeline.Panel
        | table.Panel
        | timeseries.Panel
    )

Kind = TypeVar(
    "Kind",
    barchart.Panel,
    bargauge.Panel,
    heatmap.Panel,
    stat.Panel,
    statetimeline.Panel,
    table.Panel,
    timeseries.Panel,
)


def graph(
    title: str,
    text: str,
    *queries: Query,
    axis: Axis,
    lines: Sequence[Line] = (),
    stacked: bool = False,
    stepped: bool = False,
    calcs: Sequence[str] = (),
) -> timeseries.Panel:
    """Numbers over time. Lines break where nothing is known."""
    panel = _common(timeseries.Panel(), title, text, queries, unit=axis.unit)
    panel.legend(legend(calcs)).tooltip(
        common.VizTooltipOptions().mode(look.TooltipDisplayMode.MULTI).sort(look.SortOrder.DESCENDING)
    )
    panel.draw_style(look.GraphDrawStyle.LINE)
    panel.line_interpolation(look.LineInterpolation.STEP_AFTER if stepped else look.LineInterpolation.LINEAR)
    panel.line_width(1).fill_opacity(30 if stacked else 0).show_points(look.VisibilityMode.AUTO)
    panel.span_nulls(False).axis_label(axis.label)
    mode = look.StackingMode.NORMAL if stacked else look.StackingMode.NONE
    panel.stacking(common.StackingConfig().mode(mode).group("A"))
    if axis.log:
        panel.scale_distribution(common.ScaleDistributionConfig().type(look.ScaleDistribution.LOG).log(10))
    if axis.least is not None:
        panel.min(axis.least)
    if axis.most is not None:
        panel.max(axis.most)
    if axis.soft[0] is not None:
        panel.axis_soft_min(axis.soft[0])
    if axis.soft[1] is not None:
        panel.axis_soft_max(axis.soft[1])
    if axis.decimals is not None:
        panel.decimals(axis.decimals)
    panel.thresholds(thresholds(axis.steps))
    drawn = look.GraphThresholdsStyleMode.OFF if axis.steps == PLAIN else look.GraphThresholdsStyleMode.DASHED
    panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(drawn))
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
    for line in lines:
        panel.override_by_regexp(line.pattern, line.overrides())
    return panel


def number(
    title: str,
    text: str,
    *queries: Query,
    unit: str = NONE,
    steps: Steps = PLAIN,
    mappings: Mappings = (),
    show: look.BigValueTextMode = look.BigValueTextMode.AUTO,
    nothing: str = "No data",
    decimals: int | None = None,
    full: bool = False,
    sentences: bool = False,
) -> stat.Panel:
    """One value, or a few, large. `full` colours the tile, `sentences` writes names as words."""
    panel = _common(stat.Panel(), title, text, queries, unit=unit, mappings=mappings, instant=True, whose=True)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    panel.graph_mode(look.BigValueGraphMode.NONE).text_mode(show).justify_mode(look.BigValueJustifyMode.CENTER)
    panel.color_mode(look.BigValueColorMode.BACKGROUND if full else look.BigValueColorMode.VALUE)
    panel.orientation(look.VizOrientation.AUTO).wide_layout(True)
    panel.thresholds(thresholds(steps)).no_value(nothing)
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    if decimals is not None:
        panel.decimals(decimals)
    if sentences:
        # Not in the name of the deployment, which stands in brackets at the end.
        panel.with_transformation(renamed(r"/_(?=.*\()/g", " "))
    return panel


def sheet(
    title: str,
    text: str,
    *queries: Query,
    columns: Sequence[Column],
    sort: str | Sequence[str] = (),
    descending: bool = True,
    nothing: str = "No data",
    unit: str = NONE,
) -> table.Panel:
    """Rows of the newest values; the queries' rows with the same labels are one row."""
    panel = _common(table.Panel(), title, text, queries, unit=unit, mappings=[unknown()], table_format=True)
    if len(queries) > 1:
        panel.with_transformation(model.DataTransformerConfig("merge", options={}))
    keep = {"include": {"names": [column.source for column in columns]}}
    panel.with_transformation(model.DataTransformerConfig("filterFieldsByName", options=keep))
    order = {
        "excludeByName": {},
        "indexByName": {column.source: place for place, column in enumerate(columns)},
        "renameByName": {column.source: column.title for column in columns},
    }
    panel.with_transformation(model.DataTransformerConfig("organize", options=order))
    panel.show_header(True).cell_height(look.TableCellHeight.SM).align(look.FieldTextAlignment.AUTO)
    panel.filterable(False).no_value(nothing).thresholds(thresholds(PLAIN))
    by = [sort] if isinstance(sort, str) else sort
    panel.sort_by([common.TableSortByFieldState().display_name(one).desc(descending) for one in by])
    for column in columns:
        panel.override_by_name(column.title, column.overrides())
    return panel


def matrix(
    title: str, text: str, query: Query, *, rows: str, columns: str, unit: str, steps: Steps, nothing: str = "No data"
) -> table.Panel:
    """A value for each pair of two labels: one down, the other across."""
    panel = _common(table.Panel(), title, text, [query], unit=unit, mappings=[unknown()], table_format=True)
    across = {"columnField": columns, "rowField": rows, "valueField": "Value"}
    panel.with_transformation(model.DataTransformerConfig("groupingToMatrix", options=across))
    panel.show_header(True).cell_height(look.TableCellHeight.SM).align(look.FieldTextAlignment.AUTO).no_value(nothing)
    panel.cell_options(look.TableColoredBackgroundCellOptions(mode=look.TableCellBackgroundDisplayMode.BASIC))
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS)).decimals(1)
    return panel.thresholds(thresholds(steps))


def states(title: str, text: str, *queries: Query, mappings: Mappings, nothing: str = "No data") -> statetimeline.Panel:
    """States over time, a row each."""
    panel = _common(statetimeline.Panel(), title, text, queries, unit=NONE, mappings=mappings, whose=True)
    panel.merge_values(True).show_value(look.VisibilityMode.AUTO).row_height(0.85).fill_opacity(80).line_width(0)
    panel.align_value(look.TimelineValueAlignment.LEFT)
    panel.legend(common.VizLegendOptions().show_legend(False)).tooltip(
        common.VizTooltipOptions().mode(look.TooltipDisplayMode.SINGLE).sort(look.SortOrder.NONE)
    )
    panel.thresholds(thresholds(PLAIN)).no_value(nothing)
    return panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))


def bars(
    title: str, text: str, *queries: Query, by: str, names: Sequence[tuple[str, str]], axis: Axis
) -> barchart.Panel:
    """The newest values side by side; `by` is the label below the bars, `names` each query's name and colour."""
    panel = _common(barchart.Panel(), title, text, queries, unit=axis.unit, table_format=True)
    values = [f"Value #{_reference(place)}" for place in range(len(queries))] if len(queries) > 1 else ["Value"]
    if len(queries) > 1:
        panel.with_transformation(model.DataTransformerConfig("merge", options={}))
    keep = {"include": {"names": [by, *values]}}
    panel.with_transformation(model.DataTransformerConfig("filterFieldsByName", options=keep))
    renamed = {source: name for source, (name, _) in zip(values, names, strict=True)}
    panel.with_transformation(
        model.DataTransformerConfig(
            "organize", options={"excludeByName": {}, "indexByName": {}, "renameByName": renamed}
        )
    )
    panel.x_field(by).orientation(look.VizOrientation.AUTO).show_value(look.VisibilityMode.AUTO)
    panel.stacking(look.StackingMode.NONE).bar_width(0.9).group_width(0.7).x_tick_label_rotation(-30)
    panel.x_tick_label_max_length(20).full_highlight(False).axis_label(axis.label)
    panel.legend(legend(())).tooltip(
        common.VizTooltipOptions().mode(look.TooltipDisplayMode.SINGLE).sort(look.SortOrder.NONE)
    )
    panel.thresholds(thresholds(axis.steps))
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
    for name, colour in names:
        panel.override_by_name(name, properties({"color": {"mode": "fixed", "fixedColor": colour}}))
    return panel


def gauges(
    title: str, text: str, *queries: Query, unit: str, steps: Steps, most: float | None = None
) -> bargauge.Panel:
    """The newest values as bars in a column, coloured by threshold."""
    panel = _common(bargauge.Panel(), title, text, queries, unit=unit, mappings=[unknown()], instant=True, whose=True)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
    panel.orientation(look.VizOrientation.HORIZONTAL).display_mode(look.BarGaugeDisplayMode.BASIC)
    panel.value_mode(look.BarGaugeValueMode.COLOR).name_placement(look.BarGaugeNamePlacement.LEFT)
    panel.show_unfilled(True).sizing(look.BarGaugeSizing.AUTO).min(0).thresholds(thresholds(steps))
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    if most is not None:
        panel.max(most)
    return panel


def heat(title: str, text: str, query: Query, *, unit: str, label: str, interval: str) -> heatmap.Panel:
    """Buckets of a histogram over time: the darker, the more."""
    panel = _common(heatmap.Panel(), title, text, [query], unit=unit, heat_format=True)
    panel.calculate(False).interval(interval).max_data_points(120)
    panel.color(
        heatmap.HeatmapColorOptions()
        .mode(heat_model.HeatmapColorMode.SCHEME)
        .scheme("Blues")
        .scale(heat_model.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
        .reverse(False)
        .fill("dark-blue")
    )
    panel.y_axis(heatmap.YAxisConfig().unit(unit).axis_label(label).axis_placement(look.AxisPlacement.LEFT))
    panel.cell_gap(1).cell_values(heatmap.CellValues().unit("short").decimals(0))
    # A cell without a query is nothing, not a little.
    panel.filter_values(heatmap.FilterValueRange().le(1e-9)).show_value(look.VisibilityMode.NEVER)
    panel.mode(look.TooltipDisplayMode.SINGLE).show_y_histogram().show_legend().exemplars_color("rgba(255,0,255,0.7)")
    return panel.scale_distribution(common.ScaleDistributionConfig().type(look.ScaleDistribution.LINEAR))


def _common(
    panel: Kind,
    title: str,
    text: str,
    queries: Sequence[Query],
    *,
    unit: str,
    mappings: Mappings = (),
    instant: bool = False,
    table_format: bool = False,
    heat_format: bool = False,
    whose: bool = False,
) -> Kind:
    """Give a panel what every panel has; `whose` names the deployment of each series."""
    if whose:
        queries = [owned(query) for query in queries]
        panel.with_transformation(without_empty_namespace())
    panel.title(title).description(text).datasource(SOURCE).unit(unit)
    if mappings:
        panel.mappings(list(mappings))
    for place, query in enumerate(queries):
        target = prometheus.Dataquery().expr(query.expr).datasource(SOURCE).ref_id(_reference(place))
        target = target.instant() if instant or table_format else target.range()
        if table_format:
            target.format(PromQueryFormat.TABLE)
        elif heat_format:
            target.format(PromQueryFormat.HEATMAP).legend_format("{{le}}")
        else:
            target.format(PromQueryFormat.TIME_SERIES).legend_format(query.legend)
        panel.with_target(target)
    return panel


def _reference(place: int) -> str:
    return chr(ord("A") + place)
