"""`Weekly drift review`: what the last week was like, for people who decide whether to accept, repair or watch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.generate import evidence, objective
from dashboards.generate.blocks import graph, number, sheet, states
from dashboards.generate.frame import Board, signal_choice
from dashboards.generate.looks import (
    AGO,
    DEPLOYMENT_NAME,
    EACH_SECOND,
    OWNER,
    SECONDS,
    SHARE,
    Axis,
    Column,
    Line,
    Query,
)
from dashboards.generate.promql import BY_SLICE, DEPLOYED, DEPLOYMENT, LEADING, best, family, grown, labels, ours, rate
from dashboards.generate.words import (
    BAD,
    FALL,
    GOOD,
    NOTE,
    QUIET,
    WARN,
    drift_state,
    severities,
    unknown,
)

if TYPE_CHECKING:
    from dashboards.generate.blocks import Panel

RISK = ((None, GOOD), (0.5, NOTE), (1, BAD))


def board() -> Board:
    """Lay the dashboard out."""
    made = Board(
        "Weekly drift review",
        "rag-drift-weekly",
        "What the week was like: events, levels against what was accepted, the budgets, and what nobody could have "
        "seen.",
        period="now-7d",
        refresh="",
        variables=[signal_choice()],
    )
    made.line(4, (alarms(), 5), (tickets(), 5), (under_alarm(), 4), (watched(), 5), (closest(), 5))
    made.line(5, (states_over_time(), 24))
    made.section("Levels against the accepted baselines")
    made.line(10, (evidence.verdicts(), 24))
    made.line(9, (evidence.changes_by_slice(), 12), (pager(), 12))
    made.section("Budgets and baselines")
    made.line(8, (objective.spent(), 10), (baselines(), 7), (endings(), 7))
    made.section("Canaries, week over week")
    made.line(9, (week_over_week(), 14), (canary_scores(), 10))
    made.section("Who asked what")
    made.line(8, (evidence.mix_moved(), 8), (evidence.mix_parts(), 8), (objective.sessions(), 8))
    made.section("What was seen, and what could not be")
    made.line(8, (volume(), 8), (volume_by_slice(), 5), (losses(), 5), (replayed_share(), 6))
    made.line(8, (objective.visible(), 8), (objective.delay(), 16))
    return made


def alarms() -> Panel:
    """Count the pages."""
    return number(
        "Alarms in this period",
        "Drift events, by the signal that raised each. `frozen_probes` and `canaries` page by tests of their own. One "
        "alarm is one event, however many slices joined it.",
        Query(grown("alarms", "signal"), "{{signal}}"),
        steps=((None, GOOD), (1, WARN)),
        decimals=0,
    )


def tickets() -> Panel:
    """Count the tickets."""
    return number(
        "Tickets in this period",
        "Falls with too little evidence, or too small, for a page; and rises. A rise is a better retriever, or a "
        "reference that was changed silently: somebody should say which.",
        Query(grown("tickets", "direction"), "{{direction}}"),
        steps=((None, GOOD), (1, NOTE)),
        decimals=0,
    )


def under_alarm() -> Panel:
    """Give the time with an open alarm."""
    open_alarm = f"({best('alarm_severity')} > bool 0)"
    return number(
        "Time under an alarm",
        "How long an alarm stood open in this period, at a resolution of a minute. Long for a known cause: repair it, "
        "or accept; an open alarm hides the next event.",
        Query(f"60 * sum_over_time({open_alarm}[$__range:1m])", DEPLOYMENT_NAME),
        unit=SECONDS,
        steps=((None, GOOD), (1, WARN)),
    )


def watched() -> Panel:
    """Give the share of the time in which somebody judged."""
    judging = f"({best('judge_active')} == 1)"
    return number(
        "Time with a judge",
        "Share of this period's minutes in which a replica was judging and Prometheus saw it. What is missing was "
        "seen by nobody: no alarm in it means nothing.",
        Query(f"clamp_max(60 * count_over_time({judging}[$__range:1m]) / $__range_s, 1)", DEPLOYMENT_NAME),
        unit=SHARE,
        decimals=1,
        steps=((None, BAD), (0.9, WARN), (0.99, GOOD)),
    )


def closest() -> Panel:
    """Say how close it came to a page."""
    peak = f"max by ({DEPLOYMENT}) (max_over_time({family('pager_evidence_log10')}[$__range]))"
    return number(
        "Closest to a page",
        "The largest pooled evidence of this period as a share of what pages (26 weeks of false-page budget by "
        "default). A healthy week stays in the low per cents; 100 % and more paged, or the fall was too small to "
        "matter.",
        Query(f"clamp_max(10 ^ ({peak} - {best('pager_threshold_log10')}), 10)", DEPLOYMENT_NAME),
        unit=SHARE,
        decimals=1,
        steps=RISK,
    )


def states_over_time() -> Panel:
    """Show the week at a glance."""
    return states(
        "State over the period",
        "Calibrating, steady, ticket, drifting by severity, or blind. Marks: exchanged encoders, accepted baselines, "
        "settings. An exchange without an alarm behind it was harmless, or not seen yet.",
        Query(drift_state(), DEPLOYMENT_NAME),
        mappings=[severities()],
    )


def pager() -> Panel:
    """Show the evidence of the week."""
    panel = evidence.pooled()
    return panel.title("False-page budget: evidence over the period").description(
        "The promise is 26 weeks between false pages, so evidence of 1 is a week of that budget. A week that touches "
        "the red line without a cause is a false page; more than one in half a year means that the baseline is no "
        "longer true: calibrate."
    )


def baselines() -> Panel:
    """Tell the age of the baselines."""
    return sheet(
        "Baselines in force",
        "When each signal's whole-stream baseline was accepted, and observations that are set aside because the "
        "reference is another than the baseline's. A baseline that is older than the service's seasons is due; one "
        "that moves every week hides a slow decay.",
        Query(f"1000 * ({best('baseline_accepted_timestamp_seconds', 'signal')} > 0)"),
        Query(f"1000 * ({best('baseline_accepted_timestamp_seconds', 'signal')} > 0)"),
        Query(best("observations_set_aside", "signal")),
        columns=[
            *OWNER,
            Column("signal", "Signal"),
            Column("Value #A", "Accepted", "dateTimeAsIso"),
            Column("Value #B", "That is", AGO),
            Column("Value #C", "Set aside", decimals=0, steps=((None, QUIET), (1, WARN))),
        ],
        nothing="No baseline yet",
    )


def endings() -> Panel:
    """Count how alarms ended and what was accepted."""
    return number(
        "How alarms ended, and baselines accepted",
        "Recovered by itself, fixed by a person, recalibrated (the present behaviour was accepted), or silent (no "
        "values for three days). Many `recalibrated` in a row: the service drifts by consent. The audit trail has who "
        "and why.",
        Query(grown("alarms_ended", "how"), "{{how}}"),
        Query(grown("baselines_accepted", "signal"), "accepted: {{signal}}"),
        decimals=0,
    )


def week_over_week() -> Panel:
    """Compare the canaries with a week ago."""
    by = "probe_set, domain"
    now = best("canary_score_ratio", by, LEADING, DEPLOYED)
    then = f"max by ({labels(by)}) ({family('canary_score_ratio', LEADING, DEPLOYED)} offset 7d)"
    relative = best("canary_change_relative_ratio", by, LEADING, 'against="accepted"')
    return sheet(
        "Canaries by domain: now and a week ago",
        "nDCG@10 of the deployed encoder. A fall over the week with no alarm: small domains do not page by "
        "themselves, so this is the place to see them. Empty columns: there was no sidecar, or another content of the "
        "set, a week ago.",
        Query(now),
        Query(then),
        Query(f"{now}\n- {then}"),
        Query(relative),
        columns=[
            *OWNER,
            Column("probe_set", "Set"),
            Column("domain", "Domain"),
            Column("Value #A", "Now", SHARE, 1),
            Column("Value #B", "A week ago", SHARE, 1),
            Column("Value #C", "Difference", SHARE, 1, steps=FALL),
            Column("Value #D", "Against accepted", SHARE, 1, steps=FALL),
        ],
        sort="Difference",
        descending=False,
        nothing="No labelled set",
    )


def canary_scores() -> Panel:
    """Show the canaries of the week."""
    score = best("canary_score_ratio", "probe_set", LEADING, DEPLOYED, 'domain="all"')
    auc = best("canary_pair_auc_ratio", "probe_set", DEPLOYED, 'phenomenon="all"')
    return graph(
        "Canaries of the deployed encoder",
        "nDCG@10 of the labelled sets and AUC of the pairs over the period. One up and the other down is the trade: "
        "open Probes.",
        Query(score, "nDCG@10 ({{probe_set}})"),
        Query(auc, "AUC ({{probe_set}})"),
        axis=Axis(SHARE, most=1, soft=(0.5, 1)),
        lines=[Line("/^nDCG/", BAD, width=2), Line("/^AUC/", GOOD, width=2)],
        calcs=("min", "lastNotNull"),
        stepped=True,
    )


def volume() -> Panel:
    """Show how much was replayed."""
    return graph(
        "Replayed queries a second, by slice",
        "What the verdicts rest on. A slice that thins out is watched less closely; one that disappears is silent, "
        "which is not steady.",
        Query(rate("replays", "slice", BY_SLICE), "{{slice}}"),
        axis=Axis(EACH_SECOND, least=0),
        stacked=True,
    )


def volume_by_slice() -> Panel:
    """Count the replayed queries."""
    return sheet(
        "Queries replayed",
        "In this period, by slice. A baseline of a slice needs `judge.calibration.min_slice_queries`.",
        Query(grown("replays", "slice", BY_SLICE)),
        columns=[*OWNER, Column("slice", "Slice"), Column("Value", "Queries", "short", 0)],
        sort="Queries",
    )


def losses() -> Panel:
    """Count what was not seen."""
    return number(
        "Not seen in this period",
        "Trimmed: Redis threw entries away before they were read (lengthen the stream, add replicas). Shed: the "
        "budget or the queue was full. Malformed: the service breaks the event contract. Gaps: observations were "
        "trimmed before they were judged.",
        # Every replica tells the same count of the group: the largest, not the sum.
        Query(f"round(max by ({DEPLOYMENT}) (increase({family('events_lost_total')}[$__range])))", "trimmed"),
        Query(grown("events", "", 'outcome=~"shed_.+"'), "shed"),
        Query(grown("events", "", 'outcome="malformed"'), "malformed"),
        Query(grown("judge_gaps"), "gaps"),
        unit="short",
        decimals=0,
        steps=((None, GOOD), (1, NOTE)),
    )


def replayed_share() -> Panel:
    """Show the share of queries that were replayed."""
    events = f"sum by ({DEPLOYMENT}) (increase({family('events_total')}[$__range]))"
    replays = f"sum by ({DEPLOYMENT}) (increase({family('replays_total')}[$__range]))"
    return number(
        "Share of queries replayed, and lost",
        "Replayed: what sampling left of the queries that were read. Lost, shed, malformed: shares of the last half "
        "hour, as the alerts see them. Nothing can be said without traffic.",
        Query(f"{replays}\n/ {events}", "replayed"),
        Query(ours("job:rag_drift_events_lost:ratio_rate30m"), "lost"),
        Query(ours("job:rag_drift_events_shed:ratio_rate30m"), "shed"),
        Query(ours("job:rag_drift_events_malformed:ratio_rate30m"), "malformed"),
        unit=SHARE,
        decimals=2,
        mappings=[unknown("no traffic")],
    )
