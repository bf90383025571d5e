"""Who asked: the mix of slices and query clusters, the sessions, and what the service says that it served.

What is accepted with a baseline is more than a level: also the traffic that it was measured on. A fall that another mix
explains is none of the retrieval's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.drift.sessions import SessionTracker
from sidecar.judge.mix_watch import MixWatch
from sidecar.model import WHOLE_STREAM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.drift.sessions import ClosedSession
    from sidecar.model import Observation


class Traffic:
    """The accepted and the recent traffic. `disrupted` is the level at which a retrieval counts as hit."""

    def __init__(self, disrupted: float, recent: int) -> None:
        self._disrupted, self._recent = disrupted, recent
        self.forget()

    def forget(self) -> None:
        """Forget the accepted mix and the sessions seen."""
        self.sessions = SessionTracker(self._disrupted)
        self.slices = MixWatch(self._recent)
        self.fidelity = MixWatch(self._recent)
        self.forget_clusters()

    def forget_clusters(self) -> None:
        """Forget the clusters: the reference numbers them, and another one means other groups by the same numbers."""
        self.clusters = MixWatch(self._recent)

    def count(self, observation: Observation, value: float, *, calibrating: bool) -> None:
        """Count who asked. Floor samples would distort the mix."""
        if observation.weight <= 0:
            return
        self.slices.add(observation.slice, value, calibrating=calibrating)
        if observation.cluster is not None:
            # Within slices: a slice of another style of question is in the same topics (docs/attribution.md).
            group = f"{observation.slice}/{observation.cluster}"
            self.clusters.add(group, value, calibrating=calibrating)
        served = next((one for name, one in observation.values.items() if name.startswith("fidelity@")), None)
        if served is not None:
            self.fidelity.add(WHOLE_STREAM, served, calibrating=calibrating)

    def close_sessions(self, observation: Observation, value: float) -> list[ClosedSession]:
        """Count the retrieval in its session; give the sessions that are over."""
        return list(self.sessions.add(observation.session or "", observation.at, value <= self._disrupted))

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain JSON."""
        return {
            "sessions": self.sessions.to_state(),
            "slices": self.slices.to_state(),
            "clusters": self.clusters.to_state(),
            "fidelity": self.fidelity.to_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Take over what `to_state` gave; False if the sessions were counted by another threshold and begin anew.

        Raises:
            ValueError, KeyError, TypeError: the mapping is not such a state.
        """
        self.sessions = SessionTracker.from_state(state["sessions"])
        self.slices = MixWatch.from_state(state["slices"], self._recent)
        self.clusters = MixWatch.from_state(state["clusters"], self._recent)
        self.fidelity = MixWatch.from_state(state["fidelity"], self._recent)
        if self.sessions.threshold == self._disrupted:
            return True
        self.sessions = SessionTracker(self._disrupted)
        return False
