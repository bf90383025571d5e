"""Panels about what retrieval owes: the objective and its burn rate, agent sessions, and the smallest visible fall."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.generate.blocks import graph, number, sheet
from dashboards.generate.looks import NONE, SECONDS, SHARE, Axis, Column, Line, Query
from dashboards.generate.promql import BY_SLICE, DEPLOYMENT, best, family, labels, ours
from dashboards.generate.rules import BURN_WINDOWS
from dashboards.generate.words import BAD, COLD, GOOD, NOTE, QUIET, WARN, mapped, unknown
from sidecar.exporter.plan_metrics import DROPS

if TYPE_CHECKING:
    from dashboards.generate.blocks import Panel

BURN = "slice:rag_drift_slo_burn:ratio_rate"


def burn_table() -> Panel:
    """Show all windows of all slices."""
    windows = [(name, limit) for long, short, limit in BURN_WINDOWS for name in (long, short)]
    titles = [(f"{name} / {limit:g}", limit) for name, limit in windows]
    return sheet(
        "Burn rate of each slice, by window",
        "Share of bad queries divided by what the objective allows: 1 spends the budget exactly by the end of its "
        "seven days. An alert needs both windows of a pair (1h with 5m, 6h with 30m, 1d with 2h, 3d with 6h) above "
        "their limit: 13.44, 3.5, 1.4, 0.98. Bad is a query below its slice's accepted floor.",
        # Without their names the rows of all windows are the same row.
        *(Query(f"max by ({labels('slice')}) ({ours(BURN + name, BY_SLICE)})") for name, _ in windows),
        columns=[
            Column("job", "Job"),
            Column("slice", "Slice"),
            *(
                Column(f"Value #{chr(ord('A') + place)}", title, decimals=2, steps=((None, GOOD), (limit, BAD)))
                for place, (title, limit) in enumerate(titles)
            ),
        ],
        sort=titles[0][0],
        nothing="No slice has a baseline of its own yet",
    )


def burn(long: str, short: str, limit: float) -> Panel:
    """Show one pair of windows."""
    return graph(
        f"Burn rate over {long} and {short}",
        f"Both lines of a slice above {limit:g} (dashed) alert: the long window shows that it matters, the short one "
        "that it still goes on. Short below long: it is getting better.",
        Query(ours(f"{BURN}{long}", BY_SLICE), f"{{{{slice}}}} over {long}"),
        Query(ours(f"{BURN}{short}", BY_SLICE), f"{{{{slice}}}} over {short}"),
        axis=Axis(NONE, least=0, label="times the allowed rate", steps=((None, "transparent"), (limit, BAD))),
        lines=[Line(f"/over {short}$/", dashed=True)],
    )


def spent() -> Panel:
    """Show the budget that the period has spent."""
    buckets, count = family("agreement_ratio_bucket", BY_SLICE), family("agreement_ratio_count", BY_SLICE)
    floor, budget = ours("slice:rag_drift_slo_floor:newest"), ours("slice:rag_drift_slo_budget:newest")
    bad = (
        f"sum by ({DEPLOYMENT}, slice) (\n"
        f"  sum by ({DEPLOYMENT}, slice, le) (increase({buckets}[$__range]))\n"
        f"  * on ({DEPLOYMENT}, slice, le) {floor}\n"
        ")\n"
        f"/ sum by ({DEPLOYMENT}, slice) (increase({count}[$__range]))"
    )
    return sheet(
        "Objective: budget spent in this period",
        "Share of bad queries in the period, what the objective allows, and the one divided by the other. 100 % over "
        "seven days is the whole budget. A steady service spends at most half. The floor is the newest accepted one "
        "for the whole period.",
        Query(bad),
        # Without its name, which would make a row of its own.
        Query(f"max by ({labels('slice')}) ({budget})"),
        Query(f"{bad}\n/ on ({DEPLOYMENT}, slice) {budget}"),
        columns=[
            Column("job", "Job"),
            Column("slice", "Slice"),
            Column("Value #A", "Bad", SHARE, 2),
            Column("Value #B", "Allowed", SHARE, 1),
            Column("Value #C", "Budget spent", SHARE, 0, steps=((None, GOOD), (0.75, WARN), (1, BAD)), background=True),
        ],
        sort="Budget spent",
        nothing="No slice has a baseline of its own yet",
    )


def sessions() -> Panel:
    """Show the share of disrupted sessions."""
    return graph(
        "Agent sessions with a disrupted retrieval",
        "Share of closed sessions with at least one retrieval that brought almost nothing in common with the "
        "reference; all later steps build on it. The band is its interval. Below `if independent` (dashed) the same "
        "sessions are hit again and again. No line without session ids.",
        Query(best("sessions_disrupted_ratio"), "disrupted"),
        Query(best("sessions_disrupted_expected_ratio"), "if independent"),
        Query(best("sessions_disrupted_lower_ratio"), "lower"),
        Query(best("sessions_disrupted_upper_ratio"), "upper"),
        axis=Axis(SHARE, least=0, soft=(0, 0.2)),
        lines=[
            Line("/^disrupted/", BAD, width=2),
            Line("/^if/", QUIET, dashed=True),
            Line("/^upper$/", BAD, width=0, fill_to="lower"),
            Line("/^lower$/", BAD, width=0),
        ],
    )


def visible() -> Panel:
    """Show how small a fall is seen."""
    return number(
        "Smallest fall that can be seen",
        "A fall of the whole stream that is smaller is never told, however long it lasts: `Steady` means steady to "
        "within this. It comes from the accepted baseline; more calibration or a frozen copy make it smaller "
        "(`rag-drift plan`).",
        Query(best("visible_drop_ratio", "signal"), "{{signal}}"),
        unit=SHARE,
        decimals=1,
        mappings=[unknown("no baseline yet")],
        steps=((None, GOOD), (0.05, NOTE), (0.1, WARN)),
    )


def delay() -> Panel:
    """Show how late a fall is told."""
    return sheet(
        "How late a fall is told",
        "Median time from a fall of the whole stream to the page, at the present traffic. If you fear that a smaller "
        "drift has begun within this time, it may not be told yet: look at the evidence. Raise `sampling.rate` to be "
        "faster.",
        Query(best("detection_delay_seconds", "signal, drop")),
        columns=[
            Column("job", "Job"),
            Column("signal", "Signal"),
            Column("drop", "Fall", mappings=[mapped({f"{drop:g}": (f"{drop:.0%}", QUIET) for drop in DROPS})]),
            Column("Value", "Told after", SECONDS, 0, mappings=[unknown("never, or not known")], steps=((None, COLD),)),
        ],
        sort="Fall",
        descending=False,
    )
