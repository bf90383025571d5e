"""Say what a detector can see before it is run: which falls, how late, and how much traffic that takes.

The numbers are predictions, the promise about false pages is not. They come from the bets that the detector really
places (`esr.bets`) against a baseline that is really discounted (`baseline.margin`), and from one assumption about
the scores: before and after the fall they follow a beta law whose variance moves with the mean as it does for a share
of k neighbours. One constant is fitted to simulated delays. What to do with the numbers is the command's and the
exporter's business.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import exp, hypot, inf, isfinite, log, log1p, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.drift.baseline import HOURS, Baseline, ChannelBaseline, loss_size, margin
from sidecar.drift.channels import CHANNELS, TOP
from sidecar.drift.esr import bets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

DROPS = (0.01, 0.02, 0.03, 0.05, 0.10, 0.20, 0.40)
"""Falls that a table shows, relative to the accepted mean."""

HEAD_START = 0.7
"""Fitted once, on 108 cells of simulated delays (docs/planner.md): what the ten bets, the split into channels and the
spread of the paths add to the log of the evidence that is needed."""

LATE = NormalDist().inv_cdf(0.9)

NODES = 16
"""Nodes of the quadrature over scores: growths are within 1 % of those from 96 nodes."""

DAYS_PER_WEEK = 7.0


@dataclass(frozen=True, slots=True)
class Pager:
    """What one detector has to reach. `weight` is its share of the pager, in (0, 1]; `weeks` between false pages."""

    weeks: float = 26.0
    weight: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a promise that means nothing."""
        _positive("weeks between false pages", self.weeks)
        if not 0.0 < self.weight <= 1.0:
            raise ValueError(f"the weight of a detector must be in (0, 1], not {self.weight!r}")


@dataclass(frozen=True, slots=True)
class Growth:
    """How the evidence of the best bet moves per query after the fall: mean and long-run variance of its log.

    The variance is at most twice the rate, that of the growth-optimal stake: where the nearest bet stakes more, a path
    of bad luck is carried by a smaller one.
    """

    rate: float
    variance: float


@dataclass(frozen=True, slots=True)
class Delay:
    """Queries from the fall to the page."""

    median: float
    p90: float | None
    """None when in one case of ten the baseline lies too low for the fall ever to be seen. Rougher than the median: of
    simulated streams 60 to 97 % had paged by then, the fewest with small baselines against a frozen reference."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One line of what the traffic can see. `delay` is None for a fall that is never seen."""

    drop: float
    delay: Delay | None


def assumed_channel(
    n: float,
    *,
    mean: float = 0.62,
    sd: float = 0.32,
    kappa: float = 1.6,
    alpha0: float = 0.01,
    tolerance: float = 0.02,
) -> ChannelBaseline:
    """Make up the baseline that a calibration of n queries would give, for scores of a given mean and spread.

    The defaults are those of overlap@10 with an independent reference in the study behind docs/statistics.md.
    `tolerance` is in standard deviations.

    Raises:
        ValueError: a number is outside its range, or the spread is larger than scores in [0, 1] can have.
    """
    if not 0.0 < mean < 1.0:
        raise ValueError(f"the mean must be in (0, 1), not {mean!r}")
    if not 0.0 < sd <= sqrt(mean * (1.0 - mean)):
        raise ValueError(
            f"the standard deviation of scores in [0, 1] with mean {mean:g} must be in "
            f"(0, {sqrt(mean * (1.0 - mean)):.3g}], not {sd!r}"
        )
    if not (kappa >= 1.0 and isfinite(kappa)):
        raise ValueError(f"kappa must be at least 1, not {kappa!r}")
    if not tolerance >= 0.0:
        raise ValueError(f"the tolerance must not be negative, not {tolerance!r}")
    _positive("the size of the calibration", n)
    values, mass = _beta_law(mean, _concentration(mean, sd))
    made = ChannelBaseline(
        mean=mean,
        sd=sd,
        kappa=kappa,
        n=0,
        loss=loss_size(n * mass, values, mean),
        offsets=(0.0,) * HOURS,
        lower=0.0,
        tolerance=tolerance * sd,
    )
    return resized(made, n, alpha0)


def resized(channel: ChannelBaseline, n: float, alpha0: float = 0.01) -> ChannelBaseline:
    """Give the baseline that a calibration of another size would have given, all else being as it was."""
    _positive("the size of the calibration", n)
    whole = max(1, round(n))
    error = margin(channel.sd, channel.loss, channel.kappa, whole, alpha0)
    return replace(channel, n=whole, lower=max(0.0, channel.mean - error - channel.tolerance))


def growth(channel: ChannelBaseline, drop: float) -> Growth | None:
    """Give the growth of the best bet after a fall by the share `drop` of the mean; None when no bet gains.

    Per query a bet lam multiplies its evidence by 1 + lam (m - X), less the price of dependence. X has the mean
    (1 - drop) mean and the variance of a beta law of the baseline's concentration, which is that of a binomial share:
    var = mu (1 - mu) / (concentration + 1). For small falls and e = m - mu the best bet grows by about
    e^2 / (2 (kappa sd^2 + e^2)). A channel without spread is given the law with the largest one, on {0, 1}: slowest.

    Raises:
        ValueError: the drop is outside (0, 1].
    """
    if not 0.0 < drop <= 1.0:
        raise ValueError(f"a drop must be in (0, 1], not {drop!r}")
    lam, penalty = _bets(channel)
    values, mass = _beta_law((1.0 - drop) * channel.mean, _concentration(channel.mean, channel.sd))
    logs = np.log1p(lam[:, None] * (channel.lower - values)) - penalty[:, None]
    rates = logs @ mass
    best = int(rates.argmax())
    if not rates[best] > 0.0:
        return None
    variance = channel.kappa * float((logs[best] - rates[best]) ** 2 @ mass)
    return Growth(float(rates[best]), min(variance, 2.0 * float(rates[best])))


def delay(channel: ChannelBaseline, drop: float, queries_per_day: float, pager: Pager) -> Delay | None:
    """Predict how many queries pass between a fall and its page; None when it is never seen.

        median = log(1 + A g exp(HEAD_START)) / g,   A = weeks x queries per week / weight

    with the growth g: the wealth that a page needs, A, is split over about 1 / g starts. For a hopeless fall (g to 0)
    the median tends to a small multiple of A, the time to a false page. The 90 % quantile has two parts, added in
    quadrature on the log scale: the paths (a walk of that drift and variance), and the baseline, whose mean is off by
    its standard error or more, on the bad side, in one case of ten.

    Raises:
        ValueError: the drop is outside (0, 1], or the traffic is not positive.
    """
    _positive("queries per day", queries_per_day)
    found = growth(channel, drop)
    if found is None:
        return None
    median, height = _median(found, queries_per_day, pager)
    unlucky = drop - LATE * channel.sd * sqrt(channel.kappa / channel.n) / channel.mean
    late = growth(channel, unlucky) if unlucky > 0.0 else None
    if late is None:
        return Delay(median, None)
    error = log(_median(late, queries_per_day, pager)[0] / median)
    return Delay(median, median * exp(hypot(LATE * sqrt(found.variance / (found.rate * height)), error)))


def smallest_visible_drop(channel: ChannelBaseline) -> float | None:
    """Give the fall below which no bet gains, as a share of the mean; None when even a fall to 0 is not seen.

    That is the margin and the tolerance, and about half of the smallest bet's own drop, 0.5 % of the mean.
    """
    if growth(channel, 1.0) is None:
        return None
    return _first(lambda drop: growth(channel, drop) is not None, 1e-6, 1.0)


def calibration_needed(channel: ChannelBaseline, drop: float, alpha0: float = 0.01) -> int | None:
    """Give the fewest calibration queries after which a fall is visible at all; None when no number is enough."""

    def seen(n: float) -> bool:
        return growth(resized(channel, n, alpha0), drop) is not None

    return int(np.ceil(_first(seen, 1.0, 1e12))) if seen(1e12) else None


def visible(
    channel: ChannelBaseline, queries_per_day: float, pager: Pager, drops: Iterable[float] = DROPS
) -> tuple[Sight, ...]:
    """Give the delay of each fall, at the traffic and with the baseline that there are."""
    return tuple(Sight(drop, delay(channel, drop, queries_per_day, pager)) for drop in drops)


def queries_per_day_needed(
    channel: ChannelBaseline,
    drop: float,
    within_days: float,
    pager: Pager,
    *,
    calibration_days: float = 7.0,
    min_queries: float = 0.0,
    alpha0: float = 0.01,
) -> float | None:
    """Give the traffic at which half of such falls page within the time; None when no traffic is enough.

    The calibration grows with the traffic: it lasts `calibration_days`, and longer until it holds `min_queries`. The
    delay in days is log(1 + K q g) / (q g) for a constant K, which falls in q g, and g never falls when the
    calibration grows: there is one root.

    Raises:
        ValueError: a number is outside its range.
    """
    _positive("the time to the page", within_days)
    _positive("the days of calibration", calibration_days)

    def days(queries_per_day: float) -> float:
        n = max(min_queries, calibration_days * queries_per_day)
        found = growth(resized(channel, n, alpha0), drop)
        return inf if found is None else _median(found, queries_per_day, pager)[0] / queries_per_day

    return traffic_for(days, within_days)


def traffic_for(days: Callable[[float], float], within_days: float) -> float | None:
    """Solve days(queries per day) = within_days for a falling function; None when 1e9 a day are not enough."""
    most = 1e9
    return _first(lambda traffic: days(traffic) <= within_days, 1e-3, most) if days(most) <= within_days else None


def _median(found: Growth, queries_per_day: float, pager: Pager) -> tuple[float, float]:
    """Give the median delay in queries, and the log of the evidence reached by then."""
    needed = pager.weeks * DAYS_PER_WEEK * queries_per_day / pager.weight
    height = log1p(needed * found.rate * exp(HEAD_START))
    return height / found.rate, height


def _bets(channel: ChannelBaseline) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give the stakes and prices of dependence that the detector would place on this channel."""
    alone = Baseline(
        channels=(channel,) * len(CHANNELS), n=channel.n, started_at=0.0, ended_at=0.0, histogram=(0,) * (TOP + 1)
    )
    made = bets(alone)
    return made.lam[0], made.penalty[0]


def _concentration(mean: float, sd: float) -> float:
    """Give a + b of the beta law with this mean and spread, within what the quadrature can take."""
    return min(1e3, max(1e-3, mean * (1.0 - mean) / sd**2 - 1.0)) if sd > 0.0 else 1e-3


@lru_cache(maxsize=64)
def _beta_law(mean: float, concentration: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give nodes and masses of the Gauss quadrature for a beta law (Golub & Welsch 1969, Jacobi recurrence)."""
    mean = min(1.0 - 1e-9, max(1e-9, mean))
    a, b = mean * concentration, (1.0 - mean) * concentration
    k = np.arange(1.0, NODES)
    twice = 2.0 * k + concentration - 2.0
    diagonal = np.empty(NODES)
    diagonal[0] = mean
    diagonal[1:] = 0.5 + (a - b) * (concentration - 2.0) / (2.0 * twice * (twice + 2.0))
    square = np.empty(NODES - 1)
    # Of k = 1 a factor cancels that is 0 / 0 for a concentration of 1.
    square[0] = a * b / (concentration**2 * (concentration + 1.0))
    k, twice = k[1:], twice[1:]
    square[1:] = k * (k + a - 1.0) * (k + b - 1.0) * (k + concentration - 2.0)
    square[1:] /= twice**2 * (twice + 1.0) * (twice - 1.0)
    beside = np.sqrt(square)
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    law = np.clip(values, 0.0, 1.0), vectors[0] ** 2
    for part in law:  # they are shared
        part.setflags(write=False)
    return law


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Bisect, on the log scale, for the smallest number at which a condition begins to hold; it holds at `high`."""
    if holds(low):
        return low
    while high > low * (1.0 + 1e-9):
        middle = sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _positive(name: str, value: float) -> None:
    if not (value > 0.0 and isfinite(value)):
        raise ValueError(f"{name} must be a positive number, not {value!r}")
