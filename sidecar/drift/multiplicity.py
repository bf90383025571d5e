"""Read many rows at once: which of the review's metrics and slices changed, with the share of false marks bounded.

The pager needs none of this. It pools evidence with weights that sum to one (`judge.signal_watch`), and a single
detector with weight W pages alone at 26 / W, which is Bonferroni on the budget. The weekly list is a finite set of
hypotheses, so its false discovery rate can be bounded: from p-values under independence or positive dependence
(Benjamini-Hochberg), from p-values under any dependence (Benjamini-Yekutieli), or from e-values under any dependence
(e-BH), which queries shared between metrics and slices call for. The long-run false discovery rate of a pager that
never ends cannot be bounded by anyone (Dandapanthula & Ramdas, arXiv 2501.04130).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.drift.baseline import HOURS
from sidecar.drift.channels import CHANNELS, TOP, channel_values
from sidecar.drift.esr import CAP, log_factors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from sidecar.drift.esr import Bets


@dataclass(frozen=True, slots=True)
class BlockEvidence:
    """The e-value of one block of queries: its expectation is at most 1 while nothing has fallen."""

    log: float
    """Natural logarithm of the e-value."""

    @property
    def value(self) -> float:
        """The e-value, at most `CAP`: an e-value may be lowered, and more digits decide nothing."""
        return min(CAP, exp(min(self.log, log(CAP))))


def block_evidence(bets: Bets, counts: ArrayLike, shift: ArrayLike = 0.0) -> BlockEvidence:
    """Give the evidence of one block, such as a week, that the stream lies below its null.

        E = sum over channels and bets of w prod over queries of (1 + lam (m + o(h) - x)) exp(-price of dependence)

    Under the null each factor has conditional expectation at most 1, hence so has the product over a block whose limits
    are fixed beforehand, and the weighted mean over bets. Unlike the detector's, this evidence starts once, at the
    block's beginning; blocks that do not overlap may be multiplied. Where no channel can fall, E = 1.

    Args:
        bets: of one detector.
        counts: values per UTC hour of the day and level (..., 24, 101); leading axes are parts of the block, such as
            strata.
        shift: offset of each part's stratum (..., C).

    Raises:
        ValueError: counts have another shape or are negative.

    """
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim < 2 or table.shape[-2:] != (HOURS, TOP + 1) or not (table >= 0).all():
        raise ValueError(f"counts must be (..., {HOURS}, {TOP + 1}) and none negative; the shape is {table.shape}")
    values = channel_values(np.arange(TOP + 1))
    parts = table.reshape(-1, HOURS, TOP + 1)
    shifts = np.broadcast_to(shift, (*table.shape[:-2], len(CHANNELS))).reshape(-1, 1, len(CHANNELS))
    wealth = np.zeros(bets.lam.shape)
    for hour in range(HOURS):
        if parts[:, hour].any():
            wealth += np.einsum("sa,sack->ck", parts[:, hour], log_factors(bets, values, hour, shifts))
    staked = bets.weights > 0.0
    if not staked.any():
        return BlockEvidence(0.0)
    return BlockEvidence(float(np.logaddexp.reduce(np.log(bets.weights[staked]) + wealth[staked])))


def e_bh(e_values: ArrayLike, q: float) -> NDArray[Any]:
    """Mark the rows to report so that the expected share of false ones is at most q, whatever their dependence.

    The base e-BH procedure (Wang & Ramdas 2022, arXiv 2009.02824): of J rows report the k largest, k the largest number
    with E_(k) >= J / (k q).

    Args:
        e_values: of each row (J,), not negative, of expectation at most 1 where nothing fell; for `block_evidence` that
            holds unless a baseline's lower bound is wrong (`Baseline.error` per channel).
        q: false discovery rate in (0, 1).

    Raises:
        ValueError: an e-value is negative or not a number, or q is outside (0, 1).

    """
    e = _row(e_values, inf, "e-values")
    if not 0.0 < q < 1.0:
        raise ValueError(f"q is {q}; it must be between 0 and 1")
    levels = e.size / (q * np.arange(1, e.size + 1))
    enough = np.flatnonzero(np.sort(e)[::-1] >= levels)
    if not enough.size:
        return np.zeros(e.size, dtype=bool)
    marked: NDArray[Any] = e >= levels[enough[-1]]
    return marked


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[Any]:
    """Give adjusted p-values (J,): rows with one of at most q have a false discovery rate of at most q.

    min over k >= rank of J p_(k) / k, at most 1 (Benjamini & Hochberg 1995); for independent or positively dependent
    tests. Rows without enough data are left out beforehand: their size, not their outcome, decides that.

    Raises:
        ValueError: a p-value is outside [0, 1].

    """
    adjusted: NDArray[Any] = np.minimum(1.0, _stepped_up(p_values))
    return adjusted


def benjamini_yekutieli(p_values: ArrayLike) -> NDArray[Any]:
    """Give p-values adjusted for any dependence: those of Benjamini-Hochberg times 1 + 1/2 + ... + 1/J (2001).

    Raises:
        ValueError: a p-value is outside [0, 1].

    """
    stepped = _stepped_up(p_values)
    adjusted: NDArray[Any] = np.minimum(1.0, stepped * (1.0 / np.arange(1, stepped.size + 1)).sum())
    return adjusted


def _stepped_up(p_values: ArrayLike) -> NDArray[Any]:
    p = _row(p_values, 1.0, "p-values")
    order = np.argsort(p)
    ratios = p[order] * p.size / np.arange(1, p.size + 1)
    stepped = np.empty_like(p)
    stepped[order] = np.minimum.accumulate(ratios[::-1])[::-1]
    return stepped


def _row(values: ArrayLike, largest: float, name: str) -> NDArray[Any]:
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1 or not ((row >= 0.0) & (row <= largest)).all():
        raise ValueError(f"{name} must be one row of numbers in [0, {largest}]")
    return row
