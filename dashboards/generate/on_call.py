"""`Retrieval drift — on-call`: what somebody who was woken needs, the answer at the top and the evidence below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.models.common import BigValueTextMode

from dashboards.generate import evidence, objective, stack
from dashboards.generate.blocks import number, sheet, states
from dashboards.generate.frame import Board, signal_choice
from dashboards.generate.looks import AGO, DEPLOYMENT_NAME, OWNER_NARROW, SHARE, Column, Query
from dashboards.generate.promql import (
    DEPLOYED,
    DEPLOYMENT,
    JUDGED,
    LEADING,
    WHOLE,
    best,
    change,
    copied,
    frozen_overlap,
    leading_fall,
    named,
    on_duty,
    ours,
)
from dashboards.generate.rules import BURN_WINDOWS, RUNBOOKS, runbook_files
from dashboards.generate.words import (
    BLIND,
    CANNOT_TELL,
    FALL,
    GOOD,
    NOT_NEEDED,
    NOTE,
    QUIET,
    WARN,
    advice,
    causes,
    drift_state,
    mapped,
    severities,
)

if TYPE_CHECKING:
    from dashboards.generate.blocks import Panel


OUR_ALERTS = 'alertname=~"RagDrift.*"'
NO_ALERT: dict[object, tuple[str, str]] = {
    "none": ("No alert fires", GOOD),
    "unruled": ("Rules are not loaded", BLIND),
    "unseen": ("Neither rules nor a sidecar", BLIND),
}
ALERT_STATES: dict[object, tuple[str, str]] = {
    "firing": ("firing", WARN),
    "pending": ("pending", NOTE),
    "quiet": ("quiet", GOOD),
    "blind": ("blind", BLIND),
}


def board() -> Board:
    """Lay the dashboard out."""
    made = Board(
        "Retrieval drift — on-call",
        "rag-drift-on-call",
        "Is retrieval drifting, how much, since when, where and why? Read it from the top; the rest is evidence.",
        period="now-6h",
        refresh="30s",
        variables=[signal_choice()],
    )
    made.line(5, (answer(), 4), (how_much(), 4), (which_slice(), 6), (since_when(), 4), (what_changed(), 6))
    made.line(5, (cause(), 12), (alarm_over_time(), 12))
    made.line(6, (firing(), 24))
    made.section("Evidence against the thresholds")
    made.line(9, (evidence.pooled(), 12), (evidence.by_slice(), 12))
    made.section("How far the level is from what was accepted")
    made.line(9, (evidence.whole_level(), 12), (evidence.changes_by_slice(), 12))
    made.line(9, (evidence.verdicts(), 24))
    made.line(9, (evidence.overlap_heat(), 12), (evidence.other_measures(), 12))
    made.folded("Each slice with its interval", (8, [(evidence.slice_level(), 24)]))
    made.section("Deployed against reference")
    made.line(6, (stack.in_use(), 24))
    made.line(7, (stack.similarity(), 8), (stack.matches(), 8), (stack.documents(), 8))
    made.line(8, (stack.fidelity(), 12), (stack.frozen_overlaps(), 12))
    made.section("Another mix of questions (not a fault of retrieval)")
    made.line(8, (evidence.mix_moved(), 12), (evidence.mix_parts(), 12))
    made.section("Objective: how fast bad retrievals spend the budget")
    made.line(9, (objective.burn_table(), 10), *((objective.burn(*BURN_WINDOWS[at]), 7) for at in (0, -1)))
    made.section("Agent sessions, and what can be seen at all")
    made.line(8, (objective.sessions(), 10), (objective.visible(), 6), (objective.delay(), 8))
    return made


def largest_fall() -> str:
    """Give the largest fall of a drifted slice; where none has drifted, the largest of all that is watched whole.

    An alarm of the frozen probes or the canaries has no slice of live queries; their fall is then the largest. A fall
    of the live level counts only when the baseline lies outside its interval: noise is not a number to wake up to.
    """
    probes = f"({frozen_overlap('deployed')})\n/ {on_duty('frozen_floor_ratio', '', DEPLOYED)}\n- 1"
    canaries = best("canary_change_relative_ratio", "probe_set", 'domain="all"', 'against="accepted"', LEADING)
    whole = change(JUDGED, WHOLE)
    proved = f"{best('level_upper_ratio', JUDGED, WHOLE)} < {best('baseline_ratio', JUDGED, WHOLE)}"
    watched = "\nor\n".join(
        (
            f"({whole}) and ({proved})",
            f"abs(0 * ({whole}))",
            named(probes, signal="frozen probes", slice="all"),
            named(copied(canaries, "slice", "probe_set"), signal="canaries"),
        )
    )
    return (
        f"-1 * {leading_fall()}\n"
        # Nothing passes a comparison with NaN: what nobody knows is not the largest.
        f"or on ({DEPLOYMENT})\nbottomk by ({DEPLOYMENT}) (1, (\n{watched}\n) >= -1)"
    )


def answer() -> Panel:
    """Say in one word what is proved."""
    return number(
        "Is it drifting?",
        "The open alarm by what is proved: drifting (it pages), major (more than the first tier, 5 % by default), "
        "critical (more than the second, 15 %). A ticket is for the working day. Blue and purple are no answer: "
        "nothing is accepted yet, nobody judges, or the judge stands still; look at Sidecar health first. With "
        "several jobs there is a tile for each.",
        Query(drift_state(), DEPLOYMENT_NAME),
        mappings=[severities()],
        full=True,
        nothing="No data: is the sidecar scraped?",
    )


def how_much() -> Panel:
    """Give the size."""
    return number(
        "How much",
        "Change of the mean against the accepted baseline, of the drifted slice that fell most, as in the page's text. "
        "While no slice of live queries has drifted: the largest fall among the whole stream (0 while the baseline is "
        "within its interval), the frozen probes and the canary sets. -10 % means that a tenth of the agreement is "
        "gone.",
        Query(largest_fall(), DEPLOYMENT_NAME),
        unit=SHARE,
        decimals=1,
        steps=FALL,
        nothing="No baseline yet",
    )


def which_slice() -> Panel:
    """Name the place."""
    return number(
        "Where",
        "The signal and slice of the number beside it, the one that the page names; `all` is the whole stream. An "
        "alarm about one slice alone points to a tenant, language or route; one about `all` to encoder, index or "
        "corpus. All slices: table below.",
        Query(largest_fall(), "{{signal}} of {{slice}}"),
        unit=SHARE,
        steps=FALL,
        show=BigValueTextMode.NAME,
        nothing="No baseline yet",
    )


def since_when() -> Panel:
    """Give the start."""
    severity = best("alarm_severity")
    quiet = f"max_over_time((timestamp({severity} == 0))[$__range:1m])"
    return number(
        "Since when",
        "Estimated start of the drift, the earliest of all slices: look there for a release, a re-index or a job that "
        "ran. The alarm came later. For an alarm of the frozen probes or canaries, the last time without an alarm in "
        "the period that is looked at.",
        Query(
            f"1000 * min by ({DEPLOYMENT}) ({best('drift_start_timestamp_seconds', JUDGED)} > 0)\n"
            f"or\n1000 * {quiet} and ({severity} > 0)\nor\n0 * ({severity} == 0)",
            DEPLOYMENT_NAME,
        ),
        unit=AGO,
        mappings=[mapped({0: ("No drift", GOOD)})],
        steps=((None, WARN),),
        nothing="Longer than this period",
    )


def what_changed() -> Panel:
    """Name the parts of the stack that are not the accepted ones."""
    return number(
        "What part of the stack changed",
        "Parts whose digest is another than that of the accepted baseline. Encoder and index together: a release. "
        "Encoder alone: weights, prompt or pooling changed under an old index. Index alone: a re-embedding, lost or "
        "new documents; that it changed is normal where the corpus grows. Reference: the yardstick moved, not "
        "retrieval.",
        Query(best("stack_changed", "part"), "{{part}}"),
        mappings=[mapped({0: ("as accepted", GOOD), 1: ("CHANGED", WARN)})],
        show=BigValueTextMode.VALUE_AND_NAME,
        sentences=True,
    )


def cause() -> Panel:
    """Name the causes with what to do."""
    explained = best("cause", "cause")
    inspected = best("diagnosis_timestamp_seconds")
    nothing = named(f"{inspected} == 0", cause=NOT_NEEDED)
    cannot = named(f"{inspected} > 0 and (max by ({DEPLOYMENT}) ({explained}) == 0)", cause=CANNOT_TELL)
    named_causes = f"({explained} == 1)\nor\n{nothing}\nor\n{cannot}"
    return sheet(
        "Likely cause, and what to do",
        "What the last diagnosis established, a row for each cause; it is made a minute or two after the alarm and "
        "again while it stands. It names only what its gauges prove. The case for and against each: "
        "/api/v1/diagnosis.",
        Query(copied(named_causes, "advice", "cause")),
        columns=[
            *OWNER_NARROW,
            Column("cause", "Cause", width=210, mappings=[causes()], background=True),
            Column("advice", "What to do", mappings=[advice()]),
        ],
        nothing="No diagnosis: nobody judges",
    )


def alarm_over_time() -> Panel:
    """Show when the alarm opened, rose and ended."""
    return states(
        "Alarm over time",
        "The same state as in the tile above over time: when the alarm opened, when a larger fall was proved, when it "
        "ended. A gap is a time without a scrape. Marks on the axes: exchanged encoders, accepted baselines, "
        "settings.",
        Query(drift_state(), DEPLOYMENT_NAME),
        mappings=[severities()],
    )


def firing() -> Panel:
    """List the alerts.

    That none fires is said only where rules are evaluated: a recorded series beside what it is recorded from.
    """
    # That no sidecar is anywhere is an alert with neither namespace nor job.
    alerts = f'{ours("ALERTS", OUR_ALERTS)}\nor ALERTS{{{OUR_ALERTS}, namespace="", job=""}}'
    recorded = ours("job:rag_drift_judge_active:sum")
    watched = f"{best('judge_active')}\nunless on ({DEPLOYMENT}) {recorded}"
    alerting = copied(alerts, "runbook", "alertname")
    unruled = named(watched, alertname="unruled", runbook="none", alertstate="blind")
    unseen = named(f"absent({recorded})", alertname="unseen", runbook="none", alertstate="blind")
    quiet = named("vector(0)", alertname="none", runbook="none", alertstate="quiet")
    return sheet(
        "Alerts that fire or are pending",
        "What Prometheus holds of the sidecar's alerts, with the runbook of each. Pending ones have not lasted long "
        "enough. Start with the worst; an alert of the component `monitor` means that the others may be blind. Purple: "
        "nothing evaluates the alerts of this job (load `dashboards/rules`, or `prometheusRule.enabled` of the chart), "
        "or nothing is scraped.",
        Query(f"{alerting}\nor on ({DEPLOYMENT})\n{unruled}\nor on ()\n{unseen}\nor on ()\n{quiet}"),
        columns=[
            Column("alertname", "Alert", width=260, mappings=[mapped(NO_ALERT)]),
            Column(
                "alertstate",
                "State",
                width=90,
                mappings=[mapped(ALERT_STATES)],
                background=True,
            ),
            Column("severity", "Severity", width=90),
            Column("component", "Component", width=110),
            *OWNER_NARROW,
            Column("slice", "Slice", width=120),
            Column("domain", "Domain", width=120),
            Column(
                "runbook",
                "Runbook",
                mappings=[runbook_files(), mapped({"none": ("", QUIET)})],
                link=("Open the runbook", f"{RUNBOOKS}${{__value.text}}"),
            ),
        ],
        sort=["State", "Severity"],
        descending=False,
    )
