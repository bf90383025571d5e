"""Names and colours of states, taken from the program where it has them, so that a new one cannot be forgotten here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.models import dashboard as model

from dashboards.generate.promql import best, labels
from sidecar.drift.attribution import ADVICE, Cause
from sidecar.drift.signature import NAMES
from sidecar.model import SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dashboards.generate.looks import Steps

GOOD, NOTE, WARN, BAD, WORST = "green", "yellow", "orange", "red", "dark-red"
QUIET, BLIND, COLD = "text", "purple", "blue"

FALL: Steps = ((None, WORST), (-0.15, BAD), (-0.05, WARN), (-0.02, GOOD))
"""The default tiers: 2 % may page, 5 and 15 % are the severities above that."""

NO_JUDGE, STALE, CALIBRATING = -1, -2, -3
"""What stands beside the severities where there is no verdict."""

SEVERITY_WORDS = {
    "none": ("Steady", GOOD),
    "ticket": ("Ticket", NOTE),
    "minor": ("Drifting", WARN),
    "major": ("Drifting: major", BAD),
    "critical": ("Drifting: critical", WORST),
}
BLIND_WORDS = {
    NO_JUDGE: ("Blind: no judge", BLIND),
    STALE: ("Blind: judge stands still", BLIND),
    CALIBRATING: ("Calibrating", COLD),
}

NOT_NEEDED, CANNOT_TELL = "not_needed", "cannot_tell"
CAUSE_COLOURS = {
    Cause.NOTHING: GOOD,
    Cause.REINDEX_COMPLETE: NOTE,
    Cause.CORPUS_GREW: NOTE,
    Cause.CORPUS_GREW_DEPLOYED_ONLY: NOTE,
    Cause.REFERENCE_CHANGED: NOTE,
    Cause.MIX_SHIFTED: NOTE,
    Cause.OUTSIDE_PROBES: NOTE,
}
"""What is not in here is a fault that serves wrong documents."""

NOT_MEASURED = "not_measured"
SIGNATURE_COLOURS = {
    "unchanged": GOOD,
    "changed_not_worse": GOOD,
    "changed_unclear": NOTE,
    "improved": COLD,
    "reverse_trade": WARN,
    "retrieval_loss": BAD,
    "precision_trap": WORST,
}


def sentence(name: str) -> str:
    """Give a label's value as people write it."""
    return name.replace("_", " ").capitalize()


def mapped(words: Mapping[object, tuple[str, str]]) -> model.ValueMap:
    """Map values to a text and a colour."""
    return model.ValueMap(
        {
            str(value): model.ValueMappingResult(text=text, color=colour, index=index)
            for index, (value, (text, colour)) in enumerate(words.items())
        }
    )


def unknown(text: str = "not known") -> model.SpecialValueMap:
    """Show NaN as what it means: nobody knows."""
    result = model.ValueMappingResult(text=text, color=QUIET)
    return model.SpecialValueMap(model.DashboardSpecialValueMapOptions(model.SpecialValueMatch.NULL_AND_NAN, result))


def severities() -> model.ValueMap:
    """Map a severity, or why there is none, to words."""
    words: dict[object, tuple[str, str]] = {SEVERITIES.index(name): SEVERITY_WORDS[name] for name in SEVERITIES}
    return mapped(words | BLIND_WORDS)


def causes() -> model.ValueMap:
    """Map the name of a cause to words."""
    words: dict[object, tuple[str, str]] = {
        cause.value: (sentence(cause.value), CAUSE_COLOURS.get(cause, BAD)) for cause in Cause
    }
    words[NOT_NEEDED] = ("No alarm, nothing to explain", GOOD)
    words[CANNOT_TELL] = ("Cannot tell", NOTE)
    return mapped(words)


def advice() -> model.ValueMap:
    """Map the name of a cause to what to do about it."""
    words: dict[object, tuple[str, str]] = {cause.value: (text, QUIET) for cause, text in ADVICE.items()}
    words[NOT_NEEDED] = ("Nothing.", QUIET)
    words[CANNOT_TELL] = ("/api/v1/diagnosis names the measurement that is missing.", QUIET)
    return mapped(words)


def signatures() -> model.ValueMap:
    """Map the name of a signature to words."""
    words: dict[object, tuple[str, str]] = {name: (sentence(name), SIGNATURE_COLOURS[name]) for name in NAMES}
    words[NOT_MEASURED] = ("Not measured yet", QUIET)
    return mapped(words)


def signature_numbers() -> model.ValueMap:
    """Map the number that `signature_number` gives to words."""
    return mapped({index: (sentence(name), SIGNATURE_COLOURS[name]) for index, name in enumerate(NAMES)})


def signature_number(*where: str) -> str:
    """Give each domain's signature as the number of its name; NaN before the first run.

    Exactly one name is 1, so the sum over the names of number x (0 or 1) is the number of that one.
    """
    terms = (
        f"{index} * " + best("canary_signature", "probe_set, domain", f'signature="{name}"', *where)
        for index, name in enumerate(NAMES)
    )
    return "\n+ ".join(terms)


def drift_state() -> str:
    """Give a deployment's state: the open alarm's severity; else why there can be none, a ticket, or 0.

    An alarm comes first, because it stands whether or not somebody can still see.
    """
    interval = best("evaluation_interval_seconds", "", 'loop="judge"')
    fall = best("ticket_open", "", 'direction="fall"')
    silence = f"time() - {best('last_evaluation_timestamp_seconds')}"
    # A judge that works every few seconds is not silent because two scrapes passed.
    allowed = f"clamp_min(2 * {interval}, 300)"
    return "\nor\n".join(
        (
            f"({best('alarm_severity')} > 0)",
            f"({best('judge_active')} == 0) - {-NO_JUDGE}",
            f"0 * ({silence} > {allowed}) - {-STALE}",
            f"({best('baseline_accepted_timestamp_seconds')} == 0) - {-CALIBRATING}",
            f"({fall} == 1)",
            best("alarm_severity"),
        )
    )


def verdict_state(by: str, *where: str) -> str:
    """Give a slice's state in the same numbers."""
    calibrating = f"0 * ({best('calibration_progress_ratio', by, *where)} < 1) - {-CALIBRATING}"
    return f"{calibrating}\nor\n{best('severity', by, *where)}"


def unless_measured(expr: str, by: str, *, label: str, value: str) -> str:
    """Give the series of `expr` that are NaN a label that says so, with no measured name beside it."""
    grouped = f"max by ({labels(by)}) ({expr})"
    return f'label_replace({grouped} != {grouped}, "{label}", "{value}", "", "")'
