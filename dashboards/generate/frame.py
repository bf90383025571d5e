"""What the four dashboards have in common: the grid, variables, links to each other, and annotations.

Annotations are drawn from metrics. Baselines and settings have the time of the event as their value, so the mark stands
where it happened, however coarse the query's step is. An encoder's load time alone would also mark every restart, so a
load counts as an exchange only if nobody had that encoder and index in use one step earlier.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

from dashboards.generate.looks import SOURCE
from dashboards.generate.promql import CHOSEN, DEPLOYMENT, best, family, labels
from sidecar.overlap import signal_name
from sidecar.settings import Judge, Replay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashboards.generate.blocks import Panel

TAG = "rag-drift"
WIDTH = 24
SCHEMA = 41
FIRST_SIGNAL = signal_name(Judge().signals[0], Replay().k)
"""The signal of the default settings; where it is not tested Grafana takes the first that is."""

Cell = tuple["Panel", int]
"""A panel and its width."""


class Mark(model.AnnotationQuery):
    """An annotation whose value is a time; the SDK of this Grafana version does not know the fields for that."""

    title_format: str = ""
    text_format: str = ""
    tag_keys: str = ""

    def to_json(self) -> dict[str, object]:
        """Give the fields of Prometheus' annotations beside the common ones."""
        return super().to_json() | {
            "step": "60s",
            "titleFormat": self.title_format,
            "textFormat": self.text_format,
            "tagKeys": self.tag_keys,
            "useValueForTime": True,
        }


def mark(name: str, colour: str, expr: str, *, title: str, text: str, tags: str) -> Mark:
    """Make an annotation from an expression whose values are times in milliseconds."""
    made = Mark(name, SOURCE, icon_color=colour, expr=expr, built_in=None)
    made.title_format, made.text_format, made.tag_keys = title, text, tags
    return made


def marks() -> list[Mark]:
    """Give what every time axis should carry: what was exchanged, accepted and reloaded, and when."""
    in_use = "role, fingerprint, index"
    loaded = (
        f"1000 * max by ({labels(in_use)}) (\n"
        f"  {family('retriever_loaded_timestamp_seconds')}\n"
        f"  * on ({DEPLOYMENT}, instance, role) group_left (fingerprint, index) {family('encoder_info')}\n"
        ")"
    )
    # Five minutes bridge a restart; a roll-back after that is an exchange like any other.
    before = f"max by ({labels(in_use)}) (last_over_time({family('encoder_info')}[5m] offset $__interval))"
    return [
        mark(
            "Encoder or index exchanged",
            "orange",
            f"{loaded}\nunless on ({labels(in_use)})\n{before}",
            title="Exchanged: {{role}}",
            text="encoder {{fingerprint}}, index {{index}}",
            tags="namespace,job,role",
        ),
        mark(
            "Baseline accepted",
            "green",
            f"1000 * ({best('baseline_accepted_timestamp_seconds', 'signal')} > 0)",
            title="Baseline accepted",
            text="{{signal}} of {{job}}",
            tags="namespace,job,signal",
        ),
        mark(
            "Settings read",
            "blue",
            f"1000 * (max by ({labels('instance')}) ({family('config_last_reload_success_timestamp_seconds')}) > 0)",
            title="Settings read",
            text="start or reload of {{instance}}",
            tags="namespace,job,instance",
        ),
    ]


def choice(
    name: str, label: str, query: str, text: str, *, hidden: bool = False, everything: str = ".+"
) -> dashboard.QueryVariable:
    """Make a variable of which several values, or all, may be chosen; `everything` is the pattern for all."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .description(text)
        .query(query)
        .datasource(SOURCE)
        .multi(True)
        .include_all(True)
        .all_value(everything)
        .current(model.VariableOption(True, ["All"], ["$__all"]))
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .hide(model.VariableHide.HIDE_VARIABLE if hidden else model.VariableHide.DONT_HIDE)
    )


def signal_choice() -> dashboard.QueryVariable:
    """Make the variable of the tested signals; one at a time, or intervals would lie over each other."""
    return (
        dashboard.QueryVariable("signal")
        .label("Signal")
        .description("The tested signal that panels of levels show. The top of the page is about all of them.")
        .query(f"label_values({family('drifted')}, signal)")
        .datasource(SOURCE)
        .multi(False)
        .include_all(False)
        .current(model.VariableOption(True, FIRST_SIGNAL, FIRST_SIGNAL))
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )


class Board:
    """A dashboard that is filled line by line, from the top."""

    def __init__(
        self,
        title: str,
        uid: str,
        text: str,
        *,
        period: str,
        refresh: str,
        by_slice: bool = True,
        variables: Sequence[dashboard.QueryVariable | dashboard.CustomVariable] = (),
    ) -> None:
        self.uid = uid
        self._y = 0
        self._id = 0
        self._made = (
            dashboard.Dashboard(title)
            .uid(uid)
            .description(text)
            .tags([TAG])
            .readonly()
            .timezone("utc")
            .tooltip(model.DashboardCursorSync.CROSSHAIR)
            .time(period, "now")
            .refresh(refresh)
            .version(1)
        )
        self._made._internal.schema_version = SCHEMA  # noqa: SLF001  (the builder has no method for it)
        self._made.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        for variable in (
            choice(
                "namespace",
                "Namespace",
                "label_values(rag_drift_build_info, namespace)",
                "Where a deployment runs. Outside Kubernetes there is none to choose, and `All` takes everything.",
                # Series without the label, too: see `promql.CHOSEN`.
                everything=".*",
            ),
            choice(
                "job",
                "Job",
                'label_values(rag_drift_build_info{namespace=~"$namespace"}, job)',
                "With its namespace, a job is one deployment of the sidecar.",
            ),
            choice("instance", "Instance", f"label_values(rag_drift_build_info{{{CHOSEN}}}, instance)", "Replicas."),
            choice(
                "slice",
                "Slice",
                f"label_values({family('replays_total')}, slice)",
                "Groups of queries. Panels about the whole stream do not change.",
                hidden=not by_slice,
            ),
            *variables,
        ):
            self._made.with_variable(variable)
        self._made.link(
            dashboard.DashboardLink("Retrieval drift")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
            .icon("external link")
            .tooltip("The other dashboards of the sidecar, with these variables")
        )
        made = self._made._internal.annotations = model.AnnotationContainer()  # noqa: SLF001  (it refuses a `Mark`)
        made.list_val = list(marks())

    def line(self, height: int, *cells: Cell) -> None:
        """Put panels side by side below the last line."""
        for panel in self._placed(height, cells):
            self._made.with_panel(panel)

    def section(self, title: str) -> None:
        """Begin a section with a heading."""
        self._made.with_row(self._heading(title))

    def folded(self, title: str, *lines: tuple[int, Sequence[Cell]]) -> None:
        """Put lines below a heading that is closed: their queries are not asked until somebody opens it."""
        row = self._heading(title).collapsed(True)
        for height, cells in lines:
            for panel in self._placed(height, cells):
                row.with_panel(panel)
        self._made.with_row(row)

    def text(self) -> str:
        """Give the JSON."""
        return json.dumps(self._made.build(), cls=JSONEncoder, indent=2, ensure_ascii=False) + "\n"

    def _heading(self, title: str) -> dashboard.Row:
        row = dashboard.Row(title).id(self._next()).grid_pos(model.GridPos(h=1, w=WIDTH, x=0, y=self._y))
        self._y += 1
        return row

    def _placed(self, height: int, cells: Sequence[Cell]) -> list[Panel]:
        if (width := sum(width for _, width in cells)) != WIDTH:
            raise ValueError(f"{self.uid}: a line is {WIDTH} wide, not {width}")
        x = 0
        for panel, width in cells:
            panel.id(self._next()).grid_pos(model.GridPos(h=height, w=width, x=x, y=self._y))
            x += width
        self._y += height
        return [panel for panel, _ in cells]

    def _next(self) -> int:
        self._id += 1
        return self._id
