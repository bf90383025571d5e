"""Who asks: the groups of the queries (slices, or clusters of their embeddings), then and now.

A mix that moves changes the whole stream's level without any fault of retrieval. What is kept is enough to say how far
it moved and to split a change of level into the part of the mix and the part within the groups (`drift.mix`): count,
sum and sum of squares of the first signal's values by group, over the calibration and over about the last queries.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Self

from sidecar.drift.confidence import Moments

if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK = 50
"""Queries per block of a recent window."""

Groups = dict[str, Moments]


class MixWatch:
    """Remember the groups of the accepted traffic and of the last `recent` queries."""

    __slots__ = ("_block", "_block_size", "_recent", "before")

    def __init__(self, recent: int) -> None:
        self.before: Groups = {}
        self._recent: deque[Groups] = deque(maxlen=max(1, recent // BLOCK))
        self._block: Groups = {}
        self._block_size = 0

    def add(self, group: str, value: float, *, calibrating: bool) -> None:
        """Count one query in its group."""
        moment = Moments(1, value, value * value)
        if calibrating:
            self.before[group] = self.before.get(group, Moments()) + moment
        self._block[group] = self._block.get(group, Moments()) + moment
        self._block_size += 1
        if self._block_size >= BLOCK:
            self._recent.append(self._block)
            self._block, self._block_size = {}, 0

    def after(self, queries: int | None = None) -> Groups:
        """Give the groups of about the last `queries` queries, by default of the whole recent window."""
        total = dict(self._block)
        count = self._block_size
        for block in reversed(self._recent):
            if queries is not None and count >= queries:
                break
            for name, moments in block.items():
                total[name] = total.get(name, Moments()) + moments
            count += BLOCK
        return total

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain JSON."""
        return {
            "before": _plain(self.before),
            "recent": [_plain(block) for block in self._recent],
            "block": _plain(self._block),
            "block_size": self._block_size,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], recent: int) -> Self:
        """Rebuild what `to_state` gave.

        Raises:
            ValueError, KeyError, TypeError: the mapping is not such a state.
        """
        made = cls(recent)
        made.before = _groups(state["before"])
        made._recent.extend(_groups(block) for block in state["recent"])
        made._block = _groups(state["block"])
        made._block_size = int(state["block_size"])
        return made


def _plain(groups: Groups) -> dict[str, list[float]]:
    return {name: [one.n, one.total, one.squares] for name, one in groups.items()}


def _groups(state: Mapping[str, Any]) -> Groups:
    return {name: Moments(*numbers) for name, numbers in state.items()}
