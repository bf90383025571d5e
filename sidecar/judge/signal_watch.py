"""One signal over the whole stream and every slice: its tracks, its baseline, and each one's say in the pager.

Half of a signal's weight is the whole stream's, half is shared by the slices that have a baseline. The weights sum to
one, so the promise about the pooled evidence holds for all of them together; a slice that joins lowers the others'
weights, which the promise allows.

A baseline is bound to the encoders that gave it. While calibrating, another encoder means to begin again. Afterwards
another deployed encoder is what we watch for, but another reference makes the numbers incomparable: observations with
it are set aside and the verdict says so. A rebuilt index (the corpus grows every day) is remembered, no more; only the
frozen copy's index is part of what it is held against.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any, Self

from sidecar.drift.calibration import Calibration
from sidecar.drift.channels import level_of
from sidecar.judge.track import Rules, Track
from sidecar.model import OTHER_SLICE, WHOLE_STREAM, BaselineAccepted, Stack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.model import Observation

WHOLE_WEIGHT = 0.5


class SignalWatch:
    """The state of one signal. Sizes in queries."""

    def __init__(self, signal: str, rules: Rules, *, min_queries: int, min_slice_queries: int, max_slices: int) -> None:
        self.signal = signal
        self._rules = rules
        self._min_queries = min_queries
        self._min_slice_queries = min_slice_queries
        self._max_slices = max_slices
        frozen = signal.startswith("frozen_")
        self._held_against = ("frozen_encoder", "frozen_index") if frozen else ("reference_encoder",)
        self.tracks: dict[str, Track] = {}
        self.accepted: Stack | None = None
        self.accepted_at: float | None = None
        self.set_aside = 0
        self.forget()

    def forget(self) -> None:
        """Give up the baselines and calibrate anew."""
        self.tracks = {WHOLE_STREAM: Track(self._rules, self._min_queries)}
        self.accepted = None
        self.accepted_at = None
        self.set_aside = 0
        self._strata: dict[str, Calibration] = {}

    def reset(self) -> None:
        """Forget all evidence and keep the baselines."""
        for track in self.tracks.values():
            track.reset()

    def notice_stack(self, before: Stack, now: Stack) -> None:
        """Begin a running calibration again when another encoder answers than before."""
        if self.accepted is None and {"deployed_encoder", *self._held_against} & set(now.changes_since(before)):
            self.forget()

    def take(self, value: float, observation: Observation, *, learning: bool) -> list[str]:
        """Put the value into its tracks and give their names; none when it cannot be compared.

        Floor samples (weight 0) are not part of the whole stream. Unless `learning`, calibrations take nothing in.
        """
        if self.accepted is not None and any(
            getattr(observation.stack, part) != getattr(self.accepted, part) for part in self._held_against
        ):
            self.set_aside += 1
            return []
        self.set_aside = 0
        name = observation.slice
        if name not in self.tracks and len(self.tracks) > self._max_slices:
            name = OTHER_SLICE
        touched = [name]
        if observation.weight > 0:
            touched.insert(0, WHOLE_STREAM)
        for one in touched:
            track = self.tracks.get(one)
            if track is None:
                track = self.tracks[one] = Track(self._rules, self._min_slice_queries)
            track.take(value, observation.at, name if one == WHOLE_STREAM else "", learning=learning)
        return touched

    def take_whole(self, value: float, at: float, stratum: str, *, learning: bool) -> None:
        """Put a value that belongs to no slice into the whole stream's track, told apart by a stratum of its own."""
        track = self.tracks[WHOLE_STREAM]
        if track.baseline is None and learning:
            self._strata.setdefault(stratum, Calibration()).add(level_of(value), at)
        track.take(value, at, stratum, learning=learning)

    def forget_calibrations(self) -> None:
        """Begin the calibrations under way again."""
        for track in self.tracks.values():
            track.forget_calibration()
        if self.tracks[WHOLE_STREAM].baseline is None:
            self._strata.clear()

    def accept(self, name: str, identity: str, at: float, stack: Stack) -> BaselineAccepted | None:
        """Accept a finished calibration: the whole stream's first, then the slices'."""
        track = self.tracks[name]
        if track.baseline is not None or track.progress < 1 or (name != WHOLE_STREAM and self.accepted is None):
            return None
        slices = {one: other.calibration for one, other in self.tracks.items() if one != WHOLE_STREAM}
        baseline = track.accept(self._strata or slices if name == WHOLE_STREAM else None)
        if baseline is None:
            return None
        if name == WHOLE_STREAM:
            self.accepted, self.accepted_at = stack, at
            self._strata.clear()
        channel = baseline.channels[0]
        return BaselineAccepted(
            id=f"{identity}/{self.signal}/{name}",
            at=at,
            signal=self.signal,
            slice=name,
            mean=channel.mean,
            lower=channel.lower,
            queries=baseline.n,
            stack=stack,
        )

    def weights(self) -> dict[str, float]:
        """Give the weight of each slice that has a baseline; they sum to one."""
        judged = [name for name, track in self.tracks.items() if track.baseline is not None and name != WHOLE_STREAM]
        if self.tracks[WHOLE_STREAM].baseline is None:
            return {}
        if not judged:
            return {WHOLE_STREAM: 1.0}
        return {WHOLE_STREAM: WHOLE_WEIGHT} | dict.fromkeys(judged, (1 - WHOLE_WEIGHT) / len(judged))

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain JSON."""
        return {
            "tracks": {name: track.to_state() for name, track in self.tracks.items()},
            "accepted": astuple(self.accepted) if self.accepted else None,
            "accepted_at": self.accepted_at,
            "set_aside": self.set_aside,
            "strata": {name: one.to_state() for name, one in self._strata.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> Self:
        """Take over what `to_state` gave.

        Raises:
            ValueError, KeyError, TypeError: the mapping is not such a state.
        """
        self.tracks = {
            name: Track.from_state(
                track, self._rules, self._min_queries if name == WHOLE_STREAM else self._min_slice_queries
            )
            for name, track in state["tracks"].items()
        }
        self._strata = {name: Calibration.from_state(one) for name, one in state["strata"].items()}
        self.accepted = Stack(*state["accepted"]) if state["accepted"] else None
        self.accepted_at = state["accepted_at"]
        self.set_aside = int(state["set_aside"])
        return self
