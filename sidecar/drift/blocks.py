"""Take many values in at once, from a histogram that several workers may have counted.

`esr.step` needs the values one after the other, hence one reader. A block needs only how often each level was seen in
each hour of the day: histograms of different workers add up, and one writer applies the sum. The bets do not depend
on the order of the values, so their product over a block is exact; what is lost is that a change can only be betted
on from the edge of a block, which costs about one block of delay. Who counts, and when a block is full, is left to
others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.drift.baseline import HOURS
from sidecar.drift.calibration import HOUR_SECONDS
from sidecar.drift.channels import TOP, channel_values
from sidecar.drift.esr import advance, follow, log_factors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from sidecar.drift.esr import Bets, DetectorState

LARGEST_LOG = 600.0
"""Log-factors of a block end here: exp(600) times the largest evidence is still a float, and far beyond any page."""

_LEVELS = np.arange(TOP + 1)


def block_of(levels: ArrayLike, times: ArrayLike) -> NDArray[np.int64]:
    """Count levels (n,) 0..100 seen at unix seconds (n,) by UTC hour of the day: (24, 101). Blocks add up with `+`.

    Raises:
        ValueError: the lengths differ or a level is outside 0..100.

    """
    seen, when = np.asarray(levels, dtype=np.int64), np.asarray(times, dtype=np.float64)
    if seen.shape != when.shape or seen.ndim != 1:
        raise ValueError(f"levels and times have shapes {seen.shape} and {when.shape}; the rule is one time per level")
    if seen.size and not (seen.min() >= 0 and seen.max() <= TOP):
        raise ValueError(f"a level is outside 0..{TOP}")
    hours = (when // HOUR_SECONDS).astype(np.int64) % HOURS
    counts: NDArray[np.int64] = np.bincount(hours * (TOP + 1) + seen, minlength=HOURS * (TOP + 1))
    return counts.reshape(HOURS, TOP + 1)


def block_logs(bets: Bets, counts: NDArray[Any], shift: NDArray[Any] | float = 0.0) -> NDArray[Any]:
    """Sum each bet's log-factors over a block (24, 101): (..., C, K).

    `shift` (C,) is the offset of the stratum that all its values belong to; blocks of several strata add their sums.
    """
    total = np.zeros(bets.lam.shape)
    axes = (1,) * (bets.lam.ndim - 2)
    for hour in np.flatnonzero(counts.any(axis=1)).tolist():
        levels = np.flatnonzero(counts[hour])
        values = channel_values(levels).reshape(levels.size, *axes, -1)
        total += np.tensordot(counts[hour, levels], log_factors(bets, values, hour, shift), axes=1)
    return total


def step_block(
    bets: Bets,
    state: DetectorState,
    counts: NDArray[Any],
    gamma: float,
    at: float,
    *,
    shift: NDArray[Any] | float = 0.0,
) -> DetectorState:
    """Take one block in: R <- (R + gamma) exp(sum of counts x log-factor), and the CUSUM likewise.

    Args:
        bets: from the baseline.
        state: the state before.
        counts: values per UTC hour of the day and level (24, 101), or one such block per stratum (S, 24, 101).
        gamma: stake in weeks, at least 0: the time since the block before. It is staked at the beginning.
        at: unix seconds of the newest value, or of the end of a block without any.
        shift: offset of the values' stratum (C,), or of each (S, C).

    The stake must not depend on the block's values, as the time of a block of so many queries does not. A CUSUM that
    leaves 0 within the block is dated to its beginning, the latest time seen before.

    Raises:
        ValueError: the counts are not such blocks, or gamma is negative.

    """
    parts = np.asarray(counts)
    if parts.shape[-2:] != (HOURS, TOP + 1) or parts.ndim > 3 or (parts.size and parts.min() < 0):
        raise ValueError(f"a block has shape {parts.shape}; the rule is counts of at least 0, ({HOURS}, {TOP + 1})")
    if not gamma >= 0.0:
        raise ValueError(f"gamma is {gamma}; the rule is a number of weeks of at least 0")
    parts = parts.reshape(-1, HOURS, TOP + 1)
    offsets = np.broadcast_to(np.asarray(shift, dtype=np.float64), (len(parts), bets.null.shape[-2]))
    centred = replace(bets, null=bets.centre)
    logs = sum(block_logs(bets, part, offset) for part, offset in zip(parts, offsets, strict=True))
    steps = sum(block_logs(centred, part, offset) for part, offset in zip(parts, offsets, strict=True))

    leaving = state.cusum <= 0.0
    marks = state.marks
    if leaving.any():
        began = at if state.last_time is None else state.last_time
        here = np.array([state.n, began, state.total, state.squares], dtype=np.float64)
        marks = np.where(leaving, here.reshape(-1, *(1,) * leaving.ndim), marks)
    levels = parts.sum(axis=(0, 1))
    return replace(
        state,
        sr=advance(state.sr, gamma, np.exp(np.minimum(logs, LARGEST_LOG))),
        cusum=follow(state.cusum, np.asarray(steps)),
        marks=marks,
        n=state.n + int(levels.sum()),
        total=state.total + int(levels @ _LEVELS),
        squares=state.squares + int(levels @ _LEVELS**2),
        last_time=at if state.last_time is None else max(state.last_time, at),
    )
