"""Collect the scores of one signal and slice until a baseline can be taken from them.

Counts per hour and level are all that `estimate_baseline` needs (means, hour-of-day pattern, batch means),
they take constant memory per hour whatever the traffic, and they add up across workers and restarts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sidecar.drift.channels import TOP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

HOUR_SECONDS = 3600


class Calibration:
    """Hold level counts by hour since the epoch; mergeable, order does not matter."""

    __slots__ = ("_count", "_first", "_hours", "_last")

    def __init__(self) -> None:
        """Start empty."""
        self._hours: dict[int, dict[int, int]] = {}
        self._count = 0
        self._first = math.inf
        self._last = -math.inf

    def add(self, level: int, at: float) -> None:
        """Count one level (0..100) seen at `at` (unix seconds).

        Raises:
            ValueError: the level is outside 0..100 or the time is not finite.

        """
        if not 0 <= level <= TOP:
            msg = f"level {level!r} is outside 0..{TOP}"
            raise ValueError(msg)
        if not math.isfinite(at):
            msg = f"time {at!r} is not a finite number of seconds"
            raise ValueError(msg)
        levels = self._hours.setdefault(math.floor(at / HOUR_SECONDS), {})
        levels[level] = levels.get(level, 0) + 1
        self._count += 1
        self._first = min(self._first, at)
        self._last = max(self._last, at)

    def merge(self, other: Calibration) -> None:
        """Add the counts of another collection of the same signal and slice to this one."""
        for hour, counts in other._hours.items():
            levels = self._hours.setdefault(hour, {})
            for level, count in counts.items():
                levels[level] = levels.get(level, 0) + count
        self._count += other._count
        self._first = min(self._first, other._first)
        self._last = max(self._last, other._last)

    @property
    def count(self) -> int:
        """Number of values."""
        return self._count

    @property
    def span_seconds(self) -> float:
        """Seconds between the first and the last value; 0 when there are fewer than two."""
        return self._last - self._first if self._count else 0.0

    @property
    def started_at(self) -> float | None:
        """Unix time of the earliest value, None when empty."""
        return self._first if self._count else None

    @property
    def ended_at(self) -> float | None:
        """Unix time of the latest value, None when empty."""
        return self._last if self._count else None

    def table(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Give the hours since the epoch with values, ascending (H,), and their level counts (H, 101)."""
        hours = sorted(self._hours)
        counts = np.zeros((len(hours), TOP + 1), dtype=np.int64)
        for row, hour in enumerate(hours):
            for level, count in self._hours[hour].items():
                counts[row, level] = count
        return np.array(hours, dtype=np.int64), counts

    def to_state(self) -> dict[str, Any]:
        """Give the collection as plain JSON values."""
        return {
            "first": self.started_at,
            "last": self.ended_at,
            "hours": {
                str(hour): {str(level): count for level, count in sorted(counts.items())}
                for hour, counts in sorted(self._hours.items())
            },
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild what `to_state` gave.

        Raises:
            ValueError, KeyError, TypeError: the mapping is not such a state.

        """
        made = cls()
        for hour, counts in state["hours"].items():
            levels = {int(level): int(count) for level, count in counts.items()}
            if any(not 0 <= level <= TOP or count < 1 for level, count in levels.items()):
                msg = f"hour {hour}: levels must be in 0..{TOP} and counts positive"
                raise ValueError(msg)
            made._hours[int(hour)] = levels
            made._count += sum(levels.values())
        if made._count:
            made._first, made._last = float(state["first"]), float(state["last"])
        return made
