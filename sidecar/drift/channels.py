"""Turn one per-query score into the bounded values that the detector bets on.

A score is kept as a whole number of hundredths, so that histograms of different workers add up exactly and a
baseline, a detector and a replay of both see the very same value. Three views of a level are watched, because
a retriever can fail in three ways: every query gets a little worse (`mean`), neighbours are shuffled so that
full agreement becomes rare (`exact`), or a few queries die altogether (`collapse`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

TOP = 100
"""Highest level; level / TOP is the score."""

COLLAPSED = 20
"""Highest level that counts as collapsed."""

CHANNELS = ("mean", "exact", "collapse")
CHANNEL_WEIGHTS = (0.5, 0.25, 0.25)

_LEVELS = np.arange(TOP + 1)
_VALUES = np.stack([_LEVELS / TOP, _LEVELS == TOP, _LEVELS > COLLAPSED], axis=-1).astype(np.float64)
_VALUES.setflags(write=False)


def level_of(value: float) -> int:
    """Quantise a score in [0, 1] up to whole hundredths.

    Up, because the test looks for drops: rounding in that direction can only hide a drop smaller than 0.01
    and never invents one. Values within 1e-9 above a hundredth (floating-point dust) belong to that
    hundredth.

    Raises:
        ValueError: the score is not a number in [0, 1].

    """
    if not 0.0 <= value <= 1.0:
        msg = f"score {value!r} is outside [0, 1]"
        raise ValueError(msg)
    return min(TOP, max(0, math.ceil(TOP * value - 1e-9)))


def channel_values(level: ArrayLike) -> NDArray[Any]:
    """Give the channel values of one level or of an array of levels.

    Returns shape (..., 3) in the order of `CHANNELS`: level / 100, 1{level = 100}, 1{level > 20}. Each is in
    [0, 1] and each falls when retrieval gets worse. A single level gives a read-only view.

    Raises:
        IndexError: a level is above 100.

    """
    return _VALUES[level]  # type: ignore[index]
