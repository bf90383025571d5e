"""Panels about what the judge holds: evidence, levels against baselines, agreement, and the mix of questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.generate.blocks import graph, heat, sheet
from dashboards.generate.looks import AGO, OWNER, SHARE, Axis, Column, Line, Query
from dashboards.generate.promql import (
    BY_SIGNAL,
    BY_SLICE,
    BY_SLICE_OR_WHOLE,
    JUDGED,
    WHOLE,
    best,
    change,
    family,
    mean,
)
from dashboards.generate.words import BAD, COLD, FALL, NOTE, QUIET, mapped, severities, verdict_state

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders import timeseries

    from dashboards.generate.blocks import Panel

WEEKS = Axis(label="weeks of false-page budget", log=True, soft=(0.01, 100))
PAGE, TICKET = "pages", "makes a ticket"
THRESHOLDS = (Line(f"/^{PAGE}$/", BAD, dashed=True), Line(f"/^{TICKET}$/", NOTE, dashed=True))
BAND = (
    Line("/^level/", COLD, width=2),
    Line("/^baseline$/", QUIET, dashed=True),
    Line("/^upper$/", COLD, width=0, fill_to="lower"),
    Line("/^lower$/", COLD, width=0),
)


def weeks(log10: str) -> str:
    """Give evidence in weeks, within what an axis should show: far below it is nothing, far above it is certain."""
    return f"clamp(10 ^ {log10}, 0.001, 10000)"


def thresholds() -> tuple[Query, Query]:
    """Give the lines that evidence is held against."""
    return (
        Query(weeks(best("pager_threshold_log10")), PAGE),
        Query(weeks(best("ticket_threshold_log10")), TICKET),
    )


def pooled() -> Panel:
    """Show how close the pager is."""
    return graph(
        "Evidence of all signals and slices together",
        "It pages when the pooled evidence of a fall reaches the red line (26 weeks by default: a false page in half "
        "a year) and the fall is large enough. Evidence that wanders below 1 is a healthy service. A steady climb "
        "over hours is a drift that is not told yet. Canaries and frozen probes page by tests of their own and are "
        "not in here.",
        Query(weeks(best("pager_evidence_log10")), "evidence of a fall"),
        Query(weeks(best("rise_evidence_log10")), "evidence of a rise"),
        *thresholds(),
        axis=WEEKS,
        lines=(Line("/fall$/", BAD, width=2), Line("/rise$/", COLD), *THRESHOLDS),
    )


def by_slice() -> Panel:
    """Show whose evidence it is."""
    return graph(
        "Each slice's share of that evidence",
        "Whose evidence it is. A slice above the red line pages, or joins the open alarm, by itself. Many slices that "
        "rise together with `all`: encoder, index or corpus. One alone: look at its tenant or language.",
        Query(weeks(best("evidence_log10", JUDGED, BY_SLICE_OR_WHOLE)), "{{signal}} of {{slice}}"),
        thresholds()[0],
        axis=WEEKS,
        lines=THRESHOLDS,
        calcs=("max", "lastNotNull"),
    )


def whole_level() -> Panel:
    """Show the level with its interval."""
    return _level(
        "Level of the whole stream: $signal",
        "The current mean with its interval, against the accepted baseline (dashed). Drifted: since the alarm; else "
        "the recent window. The band below the line is a fall that is proved; a band across it is noise, or too "
        "little traffic yet. An alarm ends by itself when the level is back.",
        WHOLE,
    )


def slice_level() -> Panel:
    """Show the same for each slice."""
    panel = _level(
        "$slice: $signal",
        "As the level of the whole stream, for this slice. One that calibrates has no baseline and pages nobody.",
        'slice="$slice"',
    )
    return panel.repeat("slice").repeat_direction("h").max_per_row(3)


def _level(title: str, text: str, where: str) -> timeseries.Panel:
    def one(name: str) -> str:
        return best(name, "", BY_SIGNAL, where)

    return graph(
        title,
        text,
        Query(one("level_ratio"), "level"),
        Query(f"{one('baseline_ratio')} > 0", "baseline"),
        Query(one("level_lower_ratio"), "lower"),
        Query(one("level_upper_ratio"), "upper"),
        axis=Axis(SHARE, soft=(0, 1), decimals=0),
        lines=BAND,
    )


def changes_by_slice() -> Panel:
    """Compare the slices."""
    return graph(
        "Change against the baseline by slice: $signal",
        "Each slice's mean relative to its own baseline, so that slices of different levels compare. 0 % is as "
        "accepted; the dashed lines are the default tiers. Small slices scatter: trust the evidence, not the line.",
        Query(change("slice", BY_SIGNAL, BY_SLICE_OR_WHOLE), "{{slice}}"),
        axis=Axis(SHARE, soft=(-0.2, 0.1), decimals=0, steps=FALL),
        lines=[Line("/^all$/", QUIET, width=3)],
        calcs=("min", "lastNotNull"),
    )


def verdicts() -> Panel:
    """Tell everything about each signal and slice in one row."""
    where = BY_SLICE_OR_WHOLE
    start = f"1000 * {best('drift_start_timestamp_seconds', JUDGED, where)}"
    return sheet(
        "Verdict on each signal and slice",
        "Everything that is held about each signal and slice, the strongest evidence first. Evidence is in weeks of "
        "false-page budget; the start is an estimate and stands only while the slice is held to have drifted.",
        Query(verdict_state(JUDGED, where)),
        Query(change(JUDGED, where)),
        Query(best("level_ratio", JUDGED, where)),
        Query(best("level_lower_ratio", JUDGED, where)),
        Query(best("level_upper_ratio", JUDGED, where)),
        Query(f"{best('baseline_ratio', JUDGED, where)} > 0"),
        Query(weeks(best("evidence_log10", JUDGED, where))),
        Query(start),
        columns=[
            *OWNER,
            Column("signal", "Signal"),
            Column("slice", "Slice"),
            Column("Value #A", "State", mappings=[severities()], background=True),
            Column("Value #B", "Change", SHARE, 1, steps=FALL),
            Column("Value #C", "Level", SHARE, 1),
            Column("Value #D", "Lower", SHARE, 1),
            Column("Value #E", "Upper", SHARE, 1),
            Column("Value #F", "Baseline", SHARE, 1),
            Column("Value #G", "Evidence", decimals=2),
            Column("Value #H", "Since", AGO, mappings=[mapped({0: ("", QUIET)})]),
        ],
        sort="Evidence",
        nothing="No verdict: nobody judges",
    )


def overlap_heat() -> Panel:
    """Show the whole distribution of the live signal."""
    buckets = family("agreement_ratio_bucket", BY_SLICE)
    return heat(
        "Agreement of live queries, first tested signal",
        "How many replayed queries agreed by how much, over time. A dark band that moves down: everything lost a "
        "little. A new band at the bottom beside the old one: some queries died, look for a slice. The band at the "
        "top thins out: neighbours get shuffled.",
        Query(f"sum by (le) (increase({buckets}[$__rate_interval]))"),
        unit=SHARE,
        label="agreement",
        interval="1m",
    )


def other_measures() -> Panel:
    """Show the other measures beside the tested one."""
    not_fidelity = 'signal!~"fidelity.*"'
    return graph(
        "Means of all measures of agreement",
        "The tested signal beside the other measures. `overlap` falls and `tolerant` stays: near ties were shuffled, "
        "no harm. Both fall: worse documents. `known` falls: the deployed index has documents that the reference "
        "lacks, or the other way round. `regret` is a loss: 0 is best.",
        Query(mean("agreement_ratio", "signal", BY_SLICE), "{{signal}}"),
        Query(mean("agreement_detail_ratio", "signal", not_fidelity, BY_SLICE), "{{signal}}"),
        axis=Axis(SHARE, least=0, most=1),
        calcs=("lastNotNull",),
    )


def mix_moved() -> Panel:
    """Show whether people ask other things."""
    return graph(
        "Queries that moved to other groups",
        "Share of the recent queries that moved to other slices, or to other topics within them, against what chance "
        "alone shows (dashed). It pages nobody: people ask other things. Unseen: queries in slices that the baseline "
        "never saw, which are held against nothing until you calibrate.",
        Query(best("mix_moved_ratio", "grouping"), "moved, by {{grouping}}"),
        Query(best("mix_moved_expected_ratio", "grouping"), "by chance, by {{grouping}}"),
        Query(best("mix_new_ratio", "grouping"), "unseen, by {{grouping}}"),
        axis=Axis(SHARE, least=0, soft=(0, 0.2)),
        lines=[Line("/chance/", dashed=True), Line("/unseen/", NOTE)],
    )


def mix_parts() -> Panel:
    """Split the change of the level."""
    return graph(
        "What the change of the level is made of",
        "The first signal's change since the baseline in parts that add up. `mix`: other questions are asked. `rate`: "
        "the same questions get worse answers, and that is what pages. `new`: groups that the baseline never saw. A "
        "large `mix` beside a `rate` of 0 is no fault of retrieval.",
        Query(best("level_change_ratio", "grouping, part"), "{{part}}, by {{grouping}}"),
        axis=Axis(SHARE, soft=(-0.05, 0.05)),
        lines=[Line("/^rate/", BAD, width=2), Line("/^mix/", COLD), Line("/^new/", NOTE)],
    )
