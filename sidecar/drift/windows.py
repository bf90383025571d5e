"""Compare one signal of this week with its accepted baseline: effect sizes, intervals and classical tests.

For the review, where somebody looks once at a window fixed beforehand. A pager that looks after every query must not
use these p-values: it is the detector's (`esr`). Both windows are level histograms, so the cost does not grow with the
traffic, and both should hold whole days: a daily pattern would otherwise count as a change. Several rows at once are
corrected in `multiplicity`; the same queries asked twice are pairs and belong to `paired`.

Dependence. Queries of one hour resemble each other. Let S be the covariance of the 101 level indicators of independent
queries and V their long-run covariance. The baseline's kappa is taken as V <= kappa S: no weighted mean of levels
varies more than kappa times as much as with independent queries. Bursts that tilt the law exponentially attain it in
the mean x itself: the derivative of the law is then S x, so V = S + c S x x'S, whose one inflated direction is x, by
1 + c x'S x.
 - The rank sum and the difference of means are linear in the histograms, the rank sum to first order (Hoeffding 1948).
   Their variance is at most kappa times as large: z / sqrt(kappa) and t with se sqrt(kappa).
 - Chi-square and Kolmogorov-Smirnov are symmetric convex functions of the difference of two histograms. Their tails are
   at most those of V = kappa S (Anderson 1955): X^2 / kappa, the most cautious correction of Rao & Scott (1981), and
   nm / (n + m) / kappa as the size of the Kolmogorov distribution.
Both are what sizes divided by kappa give, so effective sizes n / kappa are used throughout.

Not offered: `scipy.stats.cramervonmises_2samp`. Its statistic is built on mid-ranks, and the terms that ties add cancel
only between samples of equal size. On 11 tied values, 14,000 against 500, it calls every unchanged window drift.
Distances with a fixed cut-off (Wasserstein, Jensen-Shannon) are no tests either; the first is an effect size here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special
from scipy.stats import kstwo

from sidecar.drift.channels import COLLAPSED, TOP
from sidecar.drift.confidence import Interval

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MIN_EXPECTED = 5.0
"""Fewest effective values expected in a cell of the chi-square table (Cochran 1954)."""

MAX_LYAPUNOV = 0.1
"""Largest E|s - E s|^3 / sd^3 / sqrt(effective size of the smaller window) at which tails are taken from the limit law,
for the values and for their ranks. It bounds the skewness g of the sum, and the first Edgeworth term g (z^2 - 1) phi(z)
/ 6 then moves a one-sided p = .05 by at most .003 and p = .001 by at most half of itself; two-sided it cancels. Of two
levels, 100 effective values must be expected on the rarer one."""


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the queries in both windows."""

    before: float
    after: float
    interval: Interval
    """Of the difference: Newcombe's (1998) hybrid score interval, method 10, on effective sizes."""

    @property
    def difference(self) -> float:
        """Share after less share before."""
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class PValues:
    """One look at fixed windows; correct for the number of rows before reading several."""

    mann_whitney: float
    """One-sided, small when the values after are lower."""
    welch: float
    """Two-sided, of the means."""
    chi_square: float
    """Of the levels, neighbours merged where few are expected."""
    kolmogorov_smirnov: float
    """Two-sided; on few levels the limit law makes it conservative."""
    permutation: bool
    """Whether they are permutation p-values, because the limit laws cannot be trusted on so few values."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """This window (after) against the baseline (before); scores in [0, 1], differences are after less before."""

    n_before: int
    n_after: int
    kappa: float
    """Variance inflation; the effective sizes are n / kappa."""
    mean_before: float
    mean_after: float
    sd_before: float
    interval: Interval | None
    """Of the difference of means (Welch on effective sizes); None when no value differs within either window. Rough
    where `p.permutation`."""
    a12: float
    """P(after > before) + P(equal) / 2 (Vargha & Delaney 2000); 0.5 without a change, lower after a fall."""
    wasserstein: float
    """Wasserstein-1 distance in score units; never less than the absolute difference of means."""
    exact: Share
    """Queries with score 1."""
    collapsed: Share
    """Queries with a score of at most 0.2."""
    p: PValues

    @property
    def effective_before(self) -> float:
        """Number of independent queries that the baseline is worth."""
        return self.n_before / self.kappa

    @property
    def effective_after(self) -> float:
        """Number of independent queries that this window is worth."""
        return self.n_after / self.kappa

    @property
    def difference(self) -> float:
        """Mean after less mean before."""
        return self.mean_after - self.mean_before

    @property
    def relative(self) -> float | None:
        """Difference as a fraction of the mean before; None when that is 0."""
        return self.difference / self.mean_before if self.mean_before else None

    @property
    def cliffs_delta(self) -> float:
        """P(after > before) - P(after < before), in [-1, 1]."""
        return 2.0 * self.a12 - 1.0

    @property
    def wasserstein_in_sd(self) -> float | None:
        """Wasserstein-1 distance in standard deviations of the baseline; None when that is 0."""
        return self.wasserstein / self.sd_before if self.sd_before else None


def compare(
    before: ArrayLike,
    after: ArrayLike,
    *,
    rng: np.random.Generator,
    kappa: float = 1.0,
    alpha: float = 0.05,
    draws: int = 9_999,
) -> Comparison | None:
    """Compare two windows; None when one is worth fewer than two independent queries.

    Args:
        before: values per level 0..100 (101,), such as `Baseline.histogram`.
        after: the same of the window.
        rng: for the permutations; not touched where the limit laws serve.
        kappa: variance inflation, at least 1: the largest of the baseline's channels.
        alpha: error probability of each interval.
        draws: permutations; the smallest p-value is then 1 / (draws + 1).

    Limit laws give the p-values while `MAX_LYAPUNOV` holds; with kappa = 1 they are then those of scipy on the
    expanded samples: `mannwhitneyu(after, before, alternative="less", method="asymptotic")`,
    `ttest_ind(equal_var=False)`, `chi2_contingency(correction=False)` on the merged levels,
    `ks_2samp(method="asymp")`. Otherwise the values are dealt anew to windows of the same sizes, and 0.5 - A12,
    |difference of means| and the Kolmogorov-Smirnov distance, each over sqrt(kappa), and X^2 of all levels over kappa
    are ranked among their permutations. That is exact for kappa = 1 (Phipson & Smyth 2010). For larger kappa the
    variance is right, but rare losses that come in clusters are more skewed than any permutation of single queries.

    Raises:
        ValueError: a histogram is not 101 whole counts, kappa is below 1, alpha outside (0, 1), draws
            below 1.

    """
    if not (isfinite(kappa) and kappa >= 1.0):
        raise ValueError(f"kappa is {kappa}; it must be a finite number of at least 1")
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha}; it must be between 0 and 1")
    if draws < 1:
        raise ValueError(f"draws is {draws}; at least one is needed")
    was, now = _counts(before, "before"), _counts(after, "after")
    n, m = int(was.sum()), int(now.sum())
    if min(n, m) < 2.0 * kappa:
        return None
    exact, collapsed = (
        _share(was[levels].sum() / n, now[levels].sum() / m, sizes=(n / kappa, m / kappa), alpha=alpha)
        for levels in (slice(TOP, None), slice(0, COLLAPSED + 1))
    )
    x = np.arange(TOP + 1) / TOP
    mean_before, sd_before = _moments(was, x)
    mean_after, sd_after = _moments(now, x)
    se = sqrt(kappa * (sd_before**2 / n + sd_after**2 / m))
    freedom = _welch_freedom(sd_before**2 * kappa / n, n / kappa, sd_after**2 * kappa / m, m / kappa)
    difference = mean_after - mean_before
    half = float(special.stdtrit(freedom, 1.0 - alpha / 2.0)) * se

    seen = np.flatnonzero(was + now)
    was, now, x = was[seen], now[seen], x[seen]
    gap = np.cumsum(now / m - was / n)
    a12 = float(_a12(was, now))
    smaller = min(n, m) / kappa
    pooled = was + now
    groups = _merged(pooled / (n + m) * smaller)
    worst = max(_lyapunov(scores, pooled) for scores in (x, np.cumsum(pooled) - pooled / 2.0)) / sqrt(smaller)
    if worst <= MAX_LYAPUNOV and groups.size > 1 and se > 0.0:
        cells_was, cells_now = np.add.reduceat(was, groups), np.add.reduceat(now, groups)
        chi = n * m / (n + m) * float(_chi(cells_was / n, cells_now / m, (cells_was + cells_now) / (n + m)))
        p = PValues(
            mann_whitney=_mann_whitney(a12, pooled, n, m, kappa),
            welch=float(2.0 * special.stdtr(freedom, -abs(difference) / se)),
            chi_square=float(special.chdtrc(groups.size - 1, chi / kappa)),
            kolmogorov_smirnov=float(kstwo.sf(np.abs(gap).max(), np.round(n * m / (n + m) / kappa))),
            permutation=False,
        )
    else:
        p = _permuted(was, now, x, kappa=kappa, rng=rng, draws=draws)
    return Comparison(
        n_before=n,
        n_after=m,
        kappa=kappa,
        mean_before=mean_before,
        mean_after=mean_after,
        sd_before=sd_before,
        interval=Interval(difference - half, difference + half) if se > 0.0 else None,
        a12=a12,
        wasserstein=float(np.abs(gap[:-1]) @ np.diff(x)),
        exact=exact,
        collapsed=collapsed,
        p=p,
    )


def _counts(histogram: ArrayLike, name: str) -> NDArray[Any]:
    """Give the counts as float64, exact below 2^53."""
    counts = np.asarray(histogram, dtype=np.float64)
    if counts.shape != (TOP + 1,) or not ((counts >= 0.0) & (counts % 1.0 == 0.0)).all():
        raise ValueError(f"{name} must be {TOP + 1} whole counts, none negative; its shape is {counts.shape}")
    return counts


def _moments(counts: NDArray[Any], x: NDArray[Any]) -> tuple[float, float]:
    """Give mean and standard deviation (n - 1), exactly 0 when all values are the same."""
    occurring = x[counts > 0]
    if occurring.size == 1:
        return float(occurring[0]), 0.0
    n = counts.sum()
    mean = float(counts @ x / n)
    return mean, sqrt(float(counts @ (x - mean) ** 2) / (n - 1.0))


def _welch_freedom(a: float, n: float, b: float, m: float) -> float:
    """Give the Welch-Satterthwaite degrees of freedom of two squared standard errors; 1 when both are 0."""
    return (a + b) ** 2 / (a**2 / (n - 1.0) + b**2 / (m - 1.0)) if a + b > 0.0 else 1.0


def _share(p: float, q: float, *, sizes: tuple[float, float], alpha: float) -> Share:
    """Give two shares and Newcombe's interval of their difference from the Wilson limits of each."""
    z = float(special.ndtri(1.0 - alpha / 2.0))
    low_p, high_p = _wilson(p, sizes[0], z)
    low_q, high_q = _wilson(q, sizes[1], z)
    lower = q - p - sqrt((q - low_q) ** 2 + (high_p - p) ** 2)
    upper = q - p + sqrt((high_q - q) ** 2 + (p - low_p) ** 2)
    return Share(float(p), float(q), Interval(float(lower), float(upper)))


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    centre = (p + z**2 / (2.0 * n)) / (1.0 + z**2 / n)
    half = z / (1.0 + z**2 / n) * sqrt(p * (1.0 - p) / n + z**2 / (4.0 * n**2))
    return min(p, centre - half), max(p, centre + half)


def _a12(was: NDArray[Any], now: NDArray[Any]) -> NDArray[Any]:
    """Give P(now > was) + P(equal) / 2 for count rows (..., levels)."""
    wins = (now * (np.cumsum(was, axis=-1) - was / 2.0)).sum(axis=-1)
    share: NDArray[Any] = wins / (was.sum(axis=-1) * now.sum(axis=-1))
    return share


def _chi(p: NDArray[Any], q: NDArray[Any], pooled: NDArray[Any]) -> NDArray[Any]:
    """Give sum (q - p)^2 / pooled over the last axis; times n m / (n + m) it is Pearson's X^2."""
    total: NDArray[Any] = ((q - p) ** 2 / pooled).sum(axis=-1)
    return total


def _merged(expected: NDArray[Any]) -> NDArray[Any]:
    """Give where each cell begins: neighbouring levels joined from the lowest until `MIN_EXPECTED` are expected.

    What is left over at the top joins the last cell. Only pooled counts decide, and the split of the pooled values
    into windows is what is tested, so choosing the cells by the data does not change the level of the test.
    """
    begins, mass = [0], 0.0
    for i, one in enumerate(expected):
        if mass >= MIN_EXPECTED:
            begins.append(i)
            mass = 0.0
        mass += one
    if mass < MIN_EXPECTED and len(begins) > 1:
        begins.pop()
    return np.array(begins)


def _lyapunov(scores: NDArray[Any], counts: NDArray[Any]) -> float:
    """Give E|s - E s|^3 / sd^3, infinite when all values are the same."""
    shares = counts / counts.sum()
    distance = np.abs(scores - shares @ scores)
    variance = float(shares @ distance**2)
    return float(shares @ distance**3) / variance**1.5 if counts.size > 1 else np.inf


def _mann_whitney(a12: float, pooled: NDArray[Any], n: int, m: int, kappa: float) -> float:
    """Give the one-sided p-value with the tie-corrected variance and a continuity correction of one half."""
    size = float(n + m)
    ties = float((pooled**3 - pooled).sum())
    sd = sqrt(n * m / 12.0 * (size + 1.0 - ties / (size * (size - 1.0))))
    return float(special.ndtr(-(n * m * (0.5 - a12) - 0.5) / (sd * sqrt(kappa))))


def _permuted(
    was: NDArray[Any], now: NDArray[Any], x: NDArray[Any], *, kappa: float, rng: np.random.Generator, draws: int
) -> PValues:
    """Rank the observed statistics, reduced by kappa, among those of the pooled values dealt anew."""
    pooled = (was + now).astype(np.int64)
    dealt = rng.multivariate_hypergeometric(pooled, int(now.sum()), size=draws)
    reduced = _statistics(was, now, x) / np.array([sqrt(kappa), sqrt(kappa), kappa, sqrt(kappa)])
    # Equal statistics differ by rounding.
    as_extreme = _statistics(pooled - dealt, dealt, x) >= reduced - 1e-12
    fall, mean, chi, distance = ((1.0 + as_extreme.sum(axis=0)) / (draws + 1.0)).tolist()
    return PValues(mann_whitney=fall, welch=mean, chi_square=chi, kolmogorov_smirnov=distance, permutation=True)


def _statistics(was: NDArray[Any], now: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Give 0.5 - A12, |difference of means|, chi-square and Kolmogorov-Smirnov distance of count rows: (..., 4)."""
    n, m = was.sum(axis=-1, keepdims=True), now.sum(axis=-1, keepdims=True)
    p, q = was / n, now / m
    return np.stack(
        [
            0.5 - _a12(was, now),
            np.abs((q - p) @ x),
            _chi(p, q, (was + now) / (n + m)),
            np.abs(np.cumsum(q - p, axis=-1)).max(axis=-1),
        ],
        axis=-1,
    )
