"""Who leads an alarm: which signal and slice it is about, and whether its fall is large enough to page.

The pooled evidence says that something fell. It must also matter, and the page must name the right one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.judge.mix_watch import BLOCK
from sidecar.judge.track import Drop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.drift.mix import Split
    from sidecar.judge.options import JudgeOptions
    from sidecar.judge.track import Track
    from sidecar.judge.verdicts import Judged

    Key = tuple[str, str]

CLEARLY = 3.0
"""Standard errors."""

MIX_MOVED = 3.0
"""How many times what chance moves the slices' shares must have moved, before a fall is told without the mix's part."""


def leader(
    judged: Judged,
    shares: Mapping[Key, float],
    options: JudgeOptions,
    drop_of: Callable[[str, str], Drop | None],
) -> tuple[Key, Drop] | None:
    """Give the signal and slice that the alarm is about, with its fall; None when nothing material is proved.

    The one with most evidence, if its fall is large enough to matter. A small fall that has stood for long has all
    the evidence there can be, and would hide every accident behind it. So when the evidence against "at most the
    first tier" reaches the promise as well, whoever has most of that leads, at its level of now.
    """
    key = max(shares, key=lambda one: shares[one])
    drop = drop_of(*key)
    if drop is not None and drop.size >= options.min_effect:
        return key, _at_its_level_of_now(judged[key][1], drop)
    beyond = {one: weight * float(track.tiers[0]) for one, (weight, track) in judged.items()}
    if sum(beyond.values()) < options.weeks_between_false_pages:
        return None
    key = max(beyond, key=lambda one: beyond[one])
    drop = drop_of(*key)
    if drop is None:
        return None
    drop = _at_its_level_of_now(judged[key][1], drop)
    return (key, drop) if drop.size >= options.min_effect else None


def _at_its_level_of_now(track: Track, drop: Drop) -> Drop:
    """Give the level of the last values, where it lies clearly below the mean since a start that is long ago."""
    recent, baseline = track.recent(), track.baseline
    if baseline is None or recent.mean is None or recent.n < BLOCK:
        return drop
    channel = baseline.channels[0]
    if drop.level - recent.mean < CLEARLY * channel.sd * (channel.kappa / recent.n) ** 0.5:
        return drop
    size = 1.0 - recent.mean / channel.mean
    return Drop(recent.mean, size, drop.lower, max(drop.upper, size))


def without_mix(drop: Drop, by_slice: Split) -> Drop:
    """Take the part off that another mix of slices explains, if the mix has moved."""
    if by_slice.distance < MIX_MOVED * by_slice.distance_expected or by_slice.before <= 0.0:
        return drop
    within = -by_slice.rate / by_slice.before
    other = drop.size - within
    return Drop(by_slice.before * (1.0 - within), within, drop.lower - other, drop.upper - other)
