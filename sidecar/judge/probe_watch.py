"""The frozen probes in the judge: when their replays page, what such an alarm says, and when they are back.

Probes are a gauge, not a sample: the same queries, asked again, must give the same answers. So they do not share the
pager's evidence. One replay is decided by exact paired tests, two in a row must agree (`drift.paired_watch`), and the
measured effect is exact for these queries. Pure and restart-safe, as everything that the judge remembers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sidecar.drift.paired_watch import PairedRule, PairedWatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.drift.paired_watch import PairedLevel
    from sidecar.drift.probe_run import FrozenRun

FROZEN_PROBES = "frozen_probes"
"""The signal's name in alarms, tickets and metrics."""


class ProbeWatch:
    """What the replays since the last acceptance amount to. `drifted` is latched until the answers are back."""

    def __init__(self, min_effect: float) -> None:
        self._rule = PairedRule(min_effect=min_effect)
        self.reset()

    def reset(self) -> None:
        """Begin anew; which acceptance the probes belong to is told by the next replay."""
        self._watch = PairedWatch()
        self.drifted = False
        self.accepted_at: float | None = None
        self.level: PairedLevel = "steady"
        self.effect: float | None = None
        """Relative change of the mean self-overlap at the last replay; None before one."""
        self.last_at: float | None = None
        """Time of the last replay."""
        self.last_good: float | None = None
        """Time of the last replay that did not count towards a page."""
        self.first_bad: float | None = None
        """Time of the first replay of the present row that does."""
        self._good_in_a_row = 0

    def take(self, run: FrozenRun) -> PairedLevel:
        """Take one replay in and say what the replays amount to; one of other probes begins anew."""
        if run.accepted_at != self.accepted_at:
            self.reset()
            self.accepted_at = run.accepted_at
        self.last_at = run.at
        side = run.deployed
        hashes = side.hashes
        if self._watch.looks and len(hashes) != len(self._watch.hashes):
            # Probes woke up: what moved cannot be told from what came, but replays in a row still count.
            self._watch = replace(self._watch, hashes=(), looks=0)
        self._watch = self._watch.look(self._rule, hashes, side.paired, run.at)
        self.level = self._watch.level(self._rule)
        self.effect = None if side.paired is None else side.paired.relative
        if self._watch.paging:
            self.first_bad = run.at if self.first_bad is None else self.first_bad
            self._good_in_a_row = 0
        else:
            self.last_good, self.first_bad = run.at, None
            back = self.effect is not None and self.effect > -self._rule.min_effect
            self._good_in_a_row = self._good_in_a_row + 1 if back else 0
        return self.level

    @property
    def recovered(self) -> bool:
        """Whether the answers are back: as many replays in a row as a page takes are short of a material effect."""
        return self.drifted and self._good_in_a_row >= self._rule.replays

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain JSON."""
        return {
            "watch": self._watch.to_state(),
            "drifted": self.drifted,
            "accepted_at": self.accepted_at,
            "level": self.level,
            "effect": self.effect,
            "last_at": self.last_at,
            "last_good": self.last_good,
            "first_bad": self.first_bad,
            "good_in_a_row": self._good_in_a_row,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `to_state` gave.

        Raises:
            ValueError, KeyError, TypeError: the mapping is not such a state.
        """
        self._watch = PairedWatch.from_state(state["watch"])
        self.drifted = bool(state["drifted"])
        self.accepted_at = state["accepted_at"]
        self.level = state["level"]
        self.effect = state["effect"]
        self.last_at = state["last_at"]
        self.last_good = state["last_good"]
        self.first_bad = state["first_bad"]
        self._good_in_a_row = int(state["good_in_a_row"])
