"""Say how large a level or a drop is, with intervals that stay true however often they are read.

A dashboard looks after every query and an alarm is a look chosen by the data, so intervals for one planned
look would miss far more often than they say (63 % instead of 5 % in the study). These hold at all times at
once, for any values in [0, 1], independent or not, and need three sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.drift.baseline import margin

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from sidecar.drift.baseline import ChannelBaseline

_RATES = np.geomspace(0.002, 0.9, 16)
_PSI = -np.log1p(-_RATES) - _RATES


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares of values in [0, 1]; two of them add up."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        """Give the moments of both sets of values together."""
        return Moments(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float | None:
        """Mean of the values, None without values."""
        return self.total / self.n if self.n else None


@dataclass(frozen=True, slots=True)
class Interval:
    """A closed interval."""

    lower: float
    upper: float


def radius(n: ArrayLike, spread: ArrayLike, alpha: float) -> NDArray[Any]:
    """Give the half width of the empirical-Bernstein mixture confidence sequence; broadcasts.

    Args:
        n: number of values, at least 1.
        spread: V = sum (x - c)^2 around any centre c in [0, 1] fixed beforehand.
        alpha: error probability over all times, both sides together.

    For y = x - c >= -1 and l in [0, 1): exp(l y - psi(l) y^2) <= 1 + l y with psi(l) = -log(1 - l) - l (Fan,
    Grama, Liu 2015; Waudby-Smith & Ramdas, arXiv 2010.09686), hence exp(l sum(x - mu) - psi(l) V) is a
    supermartingale for conditional means mu. Its mixture over 16 rates stays below 2 / alpha forever with
    probability 1 - alpha / 2 (Ville); the other side is 1 - x. The half width is s / n, where s solves
    mixture = 2 / alpha. The log of the mixture is convex and increasing in s, so Newton steps from above fall
    to the root monotonically.

    """
    spread = np.asarray(spread, dtype=np.float64)[..., None]
    goal = np.log(len(_RATES) * 2.0 / alpha)
    s = ((goal + _PSI * spread) / _RATES).min(axis=-1, keepdims=True)
    for _ in range(50):
        exponent = _RATES * s - _PSI * spread
        top = exponent.max(axis=-1, keepdims=True)
        terms = np.exp(exponent - top)
        mass = terms.sum(axis=-1, keepdims=True)
        change = (top + np.log(mass) - goal) * mass / (terms * _RATES).sum(axis=-1, keepdims=True)
        s = s - change
        if np.all(np.abs(change) <= 1e-10 * s):
            break
    half: NDArray[Any] = s[..., 0] / np.asarray(n, dtype=np.float64)
    return half


def interval(moments: Moments, centre: float, alpha: float = 0.05) -> Interval:
    """Bound the running average of the conditional means, at all times at once with probability 1 - alpha.

    `centre` is any value in [0, 1] chosen before the data, best the baseline mean. Without values: [0, 1].
    """
    if not moments.n:
        return Interval(0.0, 1.0)
    spread = max(0.0, moments.squares - 2.0 * centre * moments.total + moments.n * centre**2)
    mean = moments.total / moments.n
    half = float(radius(moments.n, spread, alpha))
    return Interval(max(0.0, mean - half), min(1.0, mean + half))


def drop_interval(
    baseline_channel: ChannelBaseline, moments_since_start: Moments, alpha: float = 0.05, starts: int = 1
) -> Interval:
    """Bound the drop (baseline mean - current mean) as a fraction of the measured baseline mean.

    Half of alpha pays for the baseline's own error (`margin`, both sides), half for the live values. `starts`
    is the number of times at which the stretch of values could have begun: 1 when it begins at a moment fixed
    by the past, such as the alarm; the number of candidate starts (at most the values so far) when it was
    picked by looking for the worst stretch, which over-states the drop: each candidate then gets 1 / starts
    of the live half (Bonferroni). A negative drop is a rise. A channel whose baseline mean is 0 cannot fall:
    [0, 0]. Hour offsets are not used, so a stretch much shorter than a day carries the hour's own level.
    """
    if baseline_channel.mean <= 0.0:
        return Interval(0.0, 0.0)
    live = interval(moments_since_start, baseline_channel.mean, alpha / 2.0 / max(1, starts))
    # The upper side uses the same width: losses are the long tail of a score, so the true mean is rarely far
    # above.
    was = baseline_channel
    error = margin(was.sd, was.loss, was.kappa, was.n, alpha / 4.0)
    highest, lowest = min(1.0, was.mean + error), max(0.0, was.mean - error)
    return Interval((lowest - live.upper) / was.mean, (highest - live.lower) / was.mean)
