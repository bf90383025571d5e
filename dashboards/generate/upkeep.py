"""Panels about the upkeep of fixed questions: are they asked, how long does it take, and what went wrong?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.generate.blocks import graph, number
from dashboards.generate.looks import NONE, SECONDS, Axis, Query
from dashboards.generate.pairs import SET
from dashboards.generate.promql import age, best, grown, in_rounds, on_duty
from dashboards.generate.words import GOOD, WARN

if TYPE_CHECKING:
    from dashboards.generate.blocks import Panel


def awake() -> Panel:
    """Show how many frozen probes can be asked."""
    return number(
        "Frozen probes",
        "How many there are, and of how many the text is known to the judge. Without a key file they sleep after a "
        "restart until their query comes by again; while few are awake, little is seen.",
        Query(on_duty("frozen_probes", "state"), "{{state}}"),
        decimals=0,
    )


def ages() -> Panel:
    """Show the age of each set's numbers against the interval."""
    newest = f"time() - ({best('canary_last_run_timestamp_seconds', 'probe_set', SET)} > 0)"
    return graph(
        "Age of the last run, in rounds",
        "Age of each set's numbers divided by the longest that a round should take (its interval and a minute). Below "
        "1 is on time; above 2 (dashed) a run is missing, and it alerts when that stays. Frozen probes likewise.",
        Query(in_rounds(newest, "canaries"), "{{probe_set}}"),
        Query(in_rounds(age("frozen_last_replay_timestamp_seconds"), "frozen"), "frozen probes"),
        axis=Axis(NONE, least=0, soft=(0, 3), decimals=1, steps=((None, "transparent"), (2, WARN))),
    )


def durations() -> Panel:
    """Show how long runs take."""
    return graph(
        "Duration of a run",
        "How long the last complete run took, pauses included. It should stay well below the interval; a slower "
        "encoder or a larger set lengthens it.",
        Query(best("canary_run_duration_seconds"), "canaries"),
        Query(on_duty("frozen_replay_duration_seconds"), "frozen probes"),
        axis=Axis(SECONDS, least=0),
        stepped=True,
    )


def troubles() -> Panel:
    """Count what went wrong."""
    return number(
        "Trouble in this period",
        "Sets that are set aside now, and in this period: sets set aside, failed runs of the canaries, failed replays "
        "of the frozen probes. The log names the rule that a set broke.",
        Query(best("canary_sets", "", 'state="set_aside"'), "sets aside now"),
        Query(grown("canary_set_errors"), "set aside"),
        Query(grown("canary_failures"), "failed canary runs"),
        Query(grown("frozen_failures"), "failed frozen replays"),
        steps=((None, GOOD), (1, WARN)),
        decimals=0,
    )
