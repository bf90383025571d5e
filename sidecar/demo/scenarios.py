"""What can happen to the demo's service, and what the sidecar must say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MIX_SHIFT = 0.3
"""Share of the traffic that must have moved to other slices for "the queries changed" to be the demo's expectation."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One story. `ship` is what the service is told to ship; `changed` the parts that the alarm must name, exactly."""

    name: str
    title: str
    expected: str
    ship: str | None = None
    shift: bool = False
    changed: frozenset[str] | None = None


SCENARIOS: Mapping[str, Scenario] = {
    one.name: one
    for one in (
        Scenario("steady", "nothing happens", "no alarm"),
        Scenario(
            "fine-tuned",
            "an encoder fine-tuned for precision ships, with a new index",
            "an alarm that names the encoder and its index",
            ship="fine-tuned",
            changed=frozenset({"deployed_encoder", "deployed_index"}),
        ),
        Scenario(
            "half-index",
            "a re-embedding stops, half of the vectors are another encoder's",
            "an alarm that names the index alone",
            ship="half-index",
            changed=frozenset({"deployed_index"}),
        ),
        Scenario(
            "lost-prefix",
            "a release loses the prompt that the encoder expects before each query",
            "an alarm that names the encoder alone",
            ship="lost-prefix",
            changed=frozenset({"deployed_encoder"}),
        ),
        Scenario(
            "query-shift",
            "encoder and index stay, people begin to ask other questions",
            "an alarm that clears encoder and index and shows the shift",
            shift=True,
            changed=frozenset(),
        ),
    )
}


def verdict(scenario: Scenario, alarm: Mapping[str, Any] | None) -> tuple[str, bool]:
    """Say in words what the sidecar found, and whether that is what the scenario expects."""
    if alarm is None:
        return "no alarm", scenario.changed is None
    changed = frozenset(alarm["changed"])
    shifted = alarm["mix_shift"] >= MIX_SHIFT
    if changed:
        words = "alarm: changed " + ", ".join(sorted(changed))
    else:
        words = "alarm: encoders and indexes unchanged" + (", the queries shifted" if shifted else "")
    return words, changed == scenario.changed and (shifted or not scenario.shift)
