"""Tickets: one for each stretch of time in which the evidence of a direction stands above the ticket's.

A fall makes one before or instead of a page (too little evidence, or too small to matter), a rise always. While an
alarm is open nothing is written: people are looking already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sidecar.model import Ticket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.judge.verdicts import Judged

CLOSES = 0.25
"""A ticket may be written again once its evidence has fallen to this share of what wrote it."""

DIRECTIONS: tuple[Literal["fall", "rise"], ...] = ("fall", "rise")


class Tickets:
    """Remember which tickets are open, by direction."""

    def __init__(self, open_ones: Iterable[str] = ()) -> None:
        self._open = set(open_ones)

    @property
    def open(self) -> list[str]:
        """Name the directions of the open tickets."""
        return sorted(self._open)

    def forget(self, direction: str | None = None) -> None:
        """Forget the ticket of a direction, or all."""
        self._open -= {direction} if direction else set(DIRECTIONS)

    def write(self, identity: str, at: float, judged: Judged, weeks: float, *, alarm_open: bool) -> list[Ticket]:
        """Give the tickets that are due; `weeks` of evidence make one."""
        written = []
        for direction in DIRECTIONS:
            shares = {
                key: weight * (track.evidence if direction == "fall" else track.rise)
                for key, (weight, track) in judged.items()
            }
            pooled = sum(shares.values())
            if pooled < weeks * CLOSES:
                self._open.discard(direction)
            if pooled < weeks or direction in self._open or alarm_open:
                continue
            self._open.add(direction)
            signal, name = max(shares, key=lambda key: shares[key])
            track = judged[signal, name][1]
            assert track.baseline is not None  # noqa: S101  (it has evidence)
            mean = track.baseline.channels[0].mean
            recent, drop = track.level(), track.drop() if direction == "fall" else None
            level = drop.level if drop is not None else mean if recent is None else recent[0]
            written.append(
                Ticket(
                    id=f"{identity}/{direction}",
                    at=at,
                    signal=signal,
                    slice=name,
                    direction=direction,
                    evidence=pooled,
                    threshold=weeks,
                    baseline=mean,
                    level=level,
                )
            )
        return written
