"""Split the change of a live mean into the part that other queries explain and the part that other answers do.

A mean over all traffic falls when the retriever gets worse and also when harder queries become more frequent.
Over strata (slices, or clusters of queries) the two add up exactly, so on-call need not guess. What the strata
are, and what a part means, is left to others.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import TYPE_CHECKING

from sidecar.drift.confidence import Moments

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST_VARIANCE = 0.25
"""Of values in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Split:
    """The change of a mean of values in [0, 1]: change = mix + rate + new, exactly."""

    n_before: int
    n_after: int
    before: float
    """Mean before."""
    change: float
    """Mean after less mean before."""
    change_se: float
    mix: float
    """What the shares of the strata changed, each answered as before."""
    mix_se: float
    rate: float
    """What the answers within the strata changed, at the shares of now."""
    rate_se: float
    new: float
    """What strata without a baseline add, by differing from the mean before."""
    new_se: float
    new_share: float
    """Share of the queries of now that are in such strata."""
    strata: int
    """Number of strata that have a baseline; with one of them a shift of the mix cannot be seen."""
    distance: float
    """Total variation distance between the shares before and now: the share of queries that changed stratum."""
    distance_expected: float
    """Its mean for two samples of these sizes from the same traffic: a window of few queries always has some."""


def split(before: Mapping[str, Moments], after: Mapping[str, Moments], *, inflation: float = 1.0) -> Split | None:
    """Split the change between two windows over their strata; None where a window is empty.

    With shares p, means b and the mean before B, primes for now, z over strata that have a baseline:

        mix  = sum (p'_z - p_z) (b_z - B)        rate = sum p'_z (b'_z - b_z)
        new  = sum over strata without a baseline of p'_z (b'_z - B)

    which is the Oaxaca-Blinder (Kitagawa 1955) decomposition at the means of before and the shares of now.
    Taking B off changes nothing without new strata and otherwise puts their share of queries where it belongs.

    The standard error of the mix is that of multinomial shares and of the means b (delta method); those of rate
    and new are given the shares of now. A stratum's variance has one pseudo-observation at the variance within
    all strata, so that a single query has an error too.

    Args:
        before: moments of each stratum in the baseline.
        after: moments of each stratum now.
        inflation: how much more the mean of a window varies than independent queries would make it (the
            baseline's `kappa`), at least 1.

    Raises:
        ValueError: inflation is below 1.

    """
    if not inflation >= 1.0:
        raise ValueError(f"inflation is {inflation}; it must be at least 1")
    names = sorted({*before, *after})
    was = {z: before.get(z, Moments()) for z in names}
    now = {z: after.get(z, Moments()) for z in names}
    old, recent = sum(was.values(), Moments()), sum(now.values(), Moments())
    if old.mean is None or recent.mean is None:
        return None

    p = {z: was[z].n / old.n for z in names}
    q = {z: now[z].n / recent.n for z in names}
    known = [z for z in names if was[z].n]
    unseen = [z for z in names if now[z].n and not was[z].n]
    mean = old.mean
    level = {z: _mean(was[z]) - mean for z in known}
    typical = _variance_within([*was.values(), *now.values()])
    error = {z: (_variance(was[z], typical), _variance(now[z], typical)) for z in names}

    mix = sum((q[z] - p[z]) * level[z] for z in known)
    rate = sum(q[z] * (_mean(now[z]) - _mean(was[z])) for z in known if now[z].n)
    new = sum(q[z] * (_mean(now[z]) - mean) for z in unseen)
    new_share = sum(q[z] for z in unseen)

    spread = (_spread(p, level) / old.n + _spread(q, level) / recent.n) + sum(
        (q[z] - p[z]) ** 2 * error[z][0] / was[z].n for z in known
    )
    rate_variance = sum(q[z] ** 2 * (error[z][0] / was[z].n + error[z][1] / now[z].n) for z in known if now[z].n)
    total_was, total_now = _variance(old, typical) / old.n, _variance(recent, typical) / recent.n
    new_variance = sum(q[z] ** 2 * error[z][1] / now[z].n for z in unseen) + new_share**2 * total_was

    per_query = inflation * (1.0 / old.n + 1.0 / recent.n)
    pooled = {z: (was[z].n + now[z].n) / (old.n + recent.n) for z in names}
    return Split(
        n_before=old.n,
        n_after=recent.n,
        before=mean,
        change=recent.mean - mean,
        change_se=sqrt(inflation * (total_was + total_now)),
        mix=mix,
        mix_se=sqrt(inflation * spread),
        rate=rate,
        rate_se=sqrt(inflation * rate_variance),
        new=new,
        new_se=sqrt(inflation * new_variance),
        new_share=new_share,
        strata=len(known),
        distance=sum(abs(q[z] - p[z]) for z in names) / 2.0,
        # E|x| of a normal variable is sqrt(2 / pi) sd; the variance of a difference of two shares is
        # p (1 - p) (1/n + 1/n').
        distance_expected=sum(sqrt(2.0 / pi * pooled[z] * (1.0 - pooled[z]) * per_query) for z in names) / 2.0,
    )


def _mean(moments: Moments) -> float:
    return moments.total / moments.n


def _squares_about_mean(moments: Moments) -> float:
    return max(0.0, moments.squares - moments.total**2 / moments.n) if moments.n else 0.0


def _variance_within(strata: list[Moments]) -> float:
    freedom = sum(max(0, one.n - 1) for one in strata)
    return sum(map(_squares_about_mean, strata)) / freedom if freedom else LARGEST_VARIANCE


def _variance(moments: Moments, typical: float) -> float:
    return (_squares_about_mean(moments) + typical) / max(1, moments.n)


def _spread(shares: Mapping[str, float], level: Mapping[str, float]) -> float:
    """Give the variance over queries of their stratum's level; new strata have level 0."""
    first = sum(shares[z] * level[z] for z in level)
    return max(0.0, sum(shares[z] * level[z] ** 2 for z in level) - first**2)
