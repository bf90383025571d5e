"""Panels about what retrieval owes: the objective and its burn rate, agent sessions, and the smallest visible fall."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.generate.blocks import graph, number, sheet
from dashboards.generate.looks import NONE, OWNER, SECONDS, SHARE, Axis, Column, Line, Query
from dashboards.generate.promql import BY_SLICE, DEPLOYMENT, best, family, labels, named, ours
from dashboards.generate.rules import BURN_WINDOWS, burn_limit
from dashboards.generate.words import BAD, BLIND, COLD, GOOD, NOTE, QUIET, WARN, mapped, unknown
from sidecar.exporter.plan_metrics import DROPS

if TYPE_CHECKING:
    from dashboards.generate.blocks import Panel

BURN = "slice:rag_drift_slo_burn:ratio_rate"
NO_LIMIT = -1
"""What stands in the table where no rule file of the objective is loaded: no share of a limit is negative."""


def of_limit(window: str, long: str) -> str:
    """Give a burn rate as a share of the limit of its pair; `NO_LIMIT` where the burn is known and no limit.

    Should both files be loaded, the lower limit counts: it is the one that alerts first.
    """
    # Without their names the rows of all windows are the same row.
    rate = f"max by ({labels('slice')}) ({ours(BURN + window, BY_SLICE)})"
    # A comparison, because the burn of a window without queries is NaN and stays that in a product.
    return f"{rate}\n/ on () group_left () min({burn_limit(long)})\nor\n0 * ({rate} >= bool 0) - {-NO_LIMIT}"


def burn_table() -> Panel:
    """Show all windows of all slices."""
    columns = [
        column for long, short in BURN_WINDOWS for column in ((long, long, long), (short, f"{long}: {short}", long))
    ]
    first, *others = (of_limit(name, long) for name, _, long in columns)
    unloaded = f"0 * absent(max({burn_limit(BURN_WINDOWS[0][0])})) - {-NO_LIMIT}"
    return sheet(
        "Burn rate of each slice, by window",
        "Burn rate as a share of the limit that the loaded rule file (7 or 30 days) sets for the pair of windows. An "
        "alert needs both of a pair at 100 %, `1h` and the short one beside it, `1h: 5m`, and a least number of "
        'queries, and no alarm of `fall="critical"`, which speaks for its burn, open or just over. Burn is the share '
        "of bad queries divided by what the objective allows; bad is a query at or below its slice's accepted floor. "
        "Purple: no rule file of the objective is loaded, and nothing alerts.",
        Query(f"{first}\nor on ()\n{unloaded}"),
        *(Query(other) for other in others),
        columns=[
            *OWNER,
            Column("slice", "Slice"),
            *(
                Column(
                    f"Value #{chr(ord('A') + place)}",
                    title,
                    SHARE,
                    0,
                    mappings=[mapped({NO_LIMIT: ("no objective rules loaded", BLIND)}), unknown("no queries")],
                    steps=((None, GOOD), (1, BAD)),
                )
                for place, (_, title, _) in enumerate(columns)
            ),
        ],
        sort=BURN_WINDOWS[0][0],
        nothing="No slice has a baseline of its own yet",
    )


def burn(long: str, short: str) -> Panel:
    """Show one pair of windows."""
    limit = f"max by (slo_window) ({burn_limit(long)})"
    # At the end of the period: before the rules were loaded, and while Prometheus was away, there was none either.
    unloaded = named(f"NaN * absent(max({burn_limit(long)} @ end()))", slo_window="no objective rules loaded")
    return graph(
        f"Burn rate over {long} and {short}",
        "Both lines of a slice above the limit (red) alert: the long window shows that it matters, the short one that "
        "it still goes on. Short below long: it is getting better. The limit is that of the loaded rule file, over 7 "
        "or 30 days; where none is loaded nothing alerts, and the legend says so. Nor does it while an alarm of "
        '`fall="critical"` speaks for its burn, open or just over.',
        Query(ours(f"{BURN}{long}", BY_SLICE), f"{{{{slice}}}} over {long}"),
        Query(ours(f"{BURN}{short}", BY_SLICE), f"{{{{slice}}}} over {short}"),
        Query(f"{limit}\nor on ()\n{unloaded}", "limit: {{slo_window}}"),
        axis=Axis(NONE, least=0, label="times the allowed rate"),
        lines=[
            Line(f"/over {short}$/", dashed=True),
            Line("/^limit: /", BAD, dashed=True, width=2),
            Line("/^limit: no/", BLIND),
        ],
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
        "Share of bad queries in the period, what the objective allows, and the one divided by the other. Over the "
        "days of the objective, 7 or 30 by the loaded rule file, 100 % is the whole budget. A steady service spends at "
        "most half. The floor is the newest accepted one for the whole period.",
        Query(bad),
        # Without its name, which would make a row of its own.
        Query(f"max by ({labels('slice')}) ({budget})"),
        Query(f"{bad}\n/ on ({DEPLOYMENT}, slice) {budget}"),
        columns=[
            *OWNER,
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
            *OWNER,
            Column("signal", "Signal"),
            Column("drop", "Fall", mappings=[mapped({f"{drop:g}": (f"{drop:.0%}", QUIET) for drop in DROPS})]),
            Column("Value", "Told after", SECONDS, 0, mappings=[unknown("never, or not known")], steps=((None, COLD),)),
        ],
        sort="Fall",
        descending=False,
    )
