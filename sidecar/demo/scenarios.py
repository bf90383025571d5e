"""What can happen to the demo's service, and what the sidecar must say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MIX_SHIFT = 0.3
"""Share of the traffic that must have moved to other slices to be called a shift."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One story. `ship` is what the service is told to ship; `changed` the parts that the alarm must name, exactly.

    Without `changed` there must be no alarm; with `shift` the mix of the queries must be seen to have moved. `cause` is
    what the diagnosis must name, `signature` what the canary sets must, of all their queries together; without one they
    are not run.
    """

    name: str
    title: str
    expected: str
    ship: str | None = None
    shift: bool = False
    changed: frozenset[str] | None = None
    cause: str | None = None
    signature: str | None = None


SCENARIOS: Mapping[str, Scenario] = {
    one.name: one
    for one in (
        Scenario("steady", "nothing happens", "no alarm"),
        Scenario(
            "fine-tuned",
            "an encoder fine-tuned for precision ships, with a new index",
            "an alarm that names the encoder and its index, a complete re-index as the cause, and the precision trap",
            ship="fine-tuned",
            changed=frozenset({"deployed_encoder", "deployed_index"}),
            cause="reindex_complete",
            signature="precision_trap",
        ),
        Scenario(
            "int8-build",
            "the same encoder ships with weights rounded to 8 bits, with a new index",
            "no alarm: the canary sets see that it changed and did not get worse",
            ship="int8-build",
            signature="changed_not_worse",
        ),
        Scenario(
            "half-index",
            "a re-embedding stops, half of the vectors are another encoder's",
            "an alarm that names the index alone, and mixed versions as the cause",
            ship="half-index",
            changed=frozenset({"deployed_index"}),
            cause="versions_mixed",
        ),
        Scenario(
            "lost-prefix",
            "a release loses the prompt that the encoder expects before each query",
            "an alarm that names the encoder alone, and its query side as the cause",
            ship="lost-prefix",
            changed=frozenset({"deployed_encoder"}),
            cause="query_side_changed",
        ),
        Scenario(
            "query-shift",
            "encoder and index stay, people begin to ask other questions",
            "no alarm: the shift is shown, and no slice is blamed for it",
            shift=True,
        ),
    )
}


def verdict(
    scenario: Scenario,
    alarm: Mapping[str, Any] | None,
    moved: float,
    diagnosis: Mapping[str, Any] | None,
    signature: str | None,
) -> tuple[str, bool]:
    """Say in words what the sidecar found, and whether that is what the scenario expects.

    `moved` is the share of the recent queries that the sidecar saw move to other slices, `diagnosis` the attribution,
    `signature` what the canary sets say.
    """
    shifted = moved >= MIX_SHIFT
    words = f", {moved:.0%} of the queries are of other slices than before" if shifted else ""
    told = "" if signature is None else f"; canaries: {signature.replace('_', ' ')}"
    if alarm is None:
        right = scenario.changed is None and shifted == scenario.shift and signature == scenario.signature
        return f"no alarm{words}{told}", right
    changed = frozenset(alarm["changed"])
    what = "changed " + ", ".join(sorted(changed)) if changed else "encoders and indexes unchanged"
    causes = [] if diagnosis is None else [one["cause"] for one in diagnosis["causes"]]
    named = " and ".join(causes).replace("_", " ") or "unknown"
    right = changed == scenario.changed and causes == [scenario.cause] and not scenario.shift
    return f"alarm: {what}{words}; cause: {named}{told}", right and signature == scenario.signature
