"""Measure minimal pairs: does an encoder tell a sentence that says the same from one that only uses the same words?

A triple is an anchor, a paraphrase (other words, same meaning) and a near-miss (same words, other meaning). All that is
measured comes from two cosines a triple. The words for what it amounts to:

* *sensitivity*: how far the near-miss is pushed away relative to the paraphrase. Training against near-misses buys it.
* *discrimination* (AUC): whether one threshold could tell paraphrases from near-misses, which is what a semantic cache
  needs. It need not rise with sensitivity, and with pooled vectors it often does not.

What a change means together with retrieval is `signature`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from sidecar.drift.paired import McNemar, mcnemar, sign_flip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

ALL = "all"
"""The phenomenon (or domain) that stands for the whole set."""


SAME_COSINE = 1e-5
"""Differences up to this are the arithmetic of another processor or library and count as none.

The very same weights with other kernels move nearly every cosine, by 3e-7 at most; int8 weights move them by 1e-3.
"""


@dataclass(frozen=True, slots=True)
class PairScores:
    """What one encoder gives a composition set: for each triple its phenomenon and two cosines, in the set's order."""

    phenomena: tuple[str, ...]
    paraphrase: tuple[float, ...]
    near_miss: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse lists that do not belong together."""
        if not len(self.phenomena) == len(self.paraphrase) == len(self.near_miss):
            raise ValueError("composition scores have one phenomenon and two cosines for each triple")


@dataclass(frozen=True, slots=True)
class PairSummary:
    """The means of some triples.

    `accuracy` is the share whose paraphrase is nearer to the anchor than the near-miss (a tie counts half), `margin`
    the mean of the difference, `auc` the probability that a paraphrase is nearer to its anchor than the near-miss of
    any triple is to its own (ties half).
    """

    n: int
    accuracy: float
    margin: float
    auc: float
    paraphrase: float
    near_miss: float


@dataclass(frozen=True, slots=True)
class PairChange:
    """How the triples of one phenomenon changed, each held against itself.

    `sensitivity` is the mean of (change of the paraphrase's cosine - change of the near-miss's), 0 without a change;
    `p_rise` and `p_fall` are one-sided sign-flip tests of it. `auc_error` is the standard error of the change of AUC.
    `told_apart` counts triples whose order was right before or now.
    """

    phenomenon: str
    before: PairSummary
    now: PairSummary
    moved: int
    sensitivity: float
    p_rise: float
    p_fall: float
    auc_error: float
    told_apart: McNemar

    @property
    def auc(self) -> float:
        """Change of the AUC."""
        return self.now.auc - self.before.auc

    @property
    def paraphrase(self) -> float:
        """Change of the paraphrases' mean cosine."""
        return self.now.paraphrase - self.before.paraphrase

    @property
    def near_miss(self) -> float:
        """Change of the near-misses' mean cosine."""
        return self.now.near_miss - self.before.near_miss

    @property
    def beyond_scale(self) -> float:
        """Say how much lower the near-misses' mean cosine is than in proportion to the paraphrases'.

        Noise in the vectors, as of int8 weights, shrinks all cosines by one factor; that takes more from the near-miss,
        which is usually the nearer one, although nothing was learnt.
        """
        if self.before.paraphrase <= 0.0:
            return self.sensitivity
        return self.before.near_miss * self.now.paraphrase / self.before.paraphrase - self.now.near_miss


def summarise(scores: PairScores) -> dict[str, PairSummary]:
    """Summarise all triples (`all`, first) and those of each phenomenon in order of their names; {} for no triples."""
    good, bad = _cosines(scores)
    return {name: _summary(good[rows], bad[rows]) for name, rows in _groups(scores)}


def shares_above(scores: PairScores, thresholds: Sequence[float]) -> dict[str, tuple[tuple[float, float], ...]]:
    """Give, for each phenomenon and threshold, the shares of the paraphrases and of the near-misses at or above it.

    A semantic cache answers from memory there: a paraphrase below the threshold is a missed hit, a near-miss above it
    a wrong answer.
    """
    good, bad = _cosines(scores)
    return {
        name: tuple((float((good[rows] >= one).mean()), float((bad[rows] >= one).mean())) for one in thresholds)
        for name, rows in _groups(scores)
    }


def compare_pairs(before: PairScores, now: PairScores) -> tuple[PairChange, ...]:
    """Hold two encoders' cosines of the same triples against each other: `all` first, then each phenomenon.

    Raises:
        ValueError: they are not of the same triples.

    """
    if before.phenomena != now.phenomena:
        raise ValueError("composition scores of different sets; only those of one version can be compared")
    old, new = _cosines(before), _cosines(now)
    return tuple(
        _change(name, (old[0][rows], old[1][rows]), (new[0][rows], new[1][rows])) for name, rows in _groups(now)
    )


def _change(name: str, before: tuple[Floats, Floats], now: tuple[Floats, Floats]) -> PairChange:
    d = (now[0] - before[0]) - (now[1] - before[1])
    still = (np.abs(now[0] - before[0]) <= SAME_COSINE) & (np.abs(now[1] - before[1]) <= SAME_COSINE)
    d = np.where(still, 0.0, d)
    places = _placements(*now) - _placements(*before)
    return PairChange(
        phenomenon=name,
        before=_summary(*before),
        now=_summary(*now),
        moved=int((~still).sum()),
        sensitivity=float(d.mean()),
        p_rise=sign_flip(-d).p,
        p_fall=sign_flip(d).p,
        auc_error=float(places.std(ddof=1)) / sqrt(places.size) if places.size > 1 else 0.0,
        told_apart=mcnemar(before[0] > before[1], now[0] > now[1]),
    )


def _summary(good: Floats, bad: Floats) -> PairSummary:
    return PairSummary(
        n=good.size,
        accuracy=float(((good > bad) + 0.5 * (good == bad)).mean()),
        margin=float((good - bad).mean()),
        auc=float(_wins(good, bad).mean()),
        paraphrase=float(good.mean()),
        near_miss=float(bad.mean()),
    )


def _placements(good: Floats, bad: Floats) -> Floats:
    """Give what each triple contributes to the AUC (n,): how its two cosines place among those of the other kind.

    With both cosines of a triple in one cluster the variance of the AUC is that of the clusters' sums (DeLong et al.,
    Biometrics 44(3), 1988, extended to clustered data by Obuchowski, Biometrics 53(2), 1997).
    """
    # The share of near-misses below paraphrase i, and the share of paraphrases above near-miss i.
    return _wins(good, bad) + (1.0 - _wins(bad, good))


def _wins(these: Floats, those: Floats) -> Floats:
    """Give the share of `those` that each of `these` exceeds, ties half."""
    ordered = np.sort(those)
    below, upto = np.searchsorted(ordered, these, side="left"), np.searchsorted(ordered, these, side="right")
    return np.asarray((below + upto) / (2.0 * max(1, those.size)), dtype=np.float64)


def _cosines(scores: PairScores) -> tuple[Floats, Floats]:
    return np.asarray(scores.paraphrase, dtype=np.float64), np.asarray(scores.near_miss, dtype=np.float64)


def _groups(scores: PairScores) -> list[tuple[str, NDArray[np.bool_]]]:
    if not scores.phenomena:
        return []
    names = np.asarray(scores.phenomena)
    whole = np.ones(len(names), dtype=np.bool_)
    return [(ALL, whole), *((name, names == name) for name in sorted(set(scores.phenomena)))]
