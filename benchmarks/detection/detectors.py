"""Detectors that run here, over all streams at once: ours, the oracle, window tests, the fixed threshold.

Each gives a `Path`: a statistic that grows with the evidence for a drop, so that one run serves every threshold.
The window tests are those of scipy.stats, computed from counts of the eleven values; `check` holds them against scipy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from series import PER_DAY

from sidecar.drift.channels import channel_values
from sidecar.drift.esr import advance, log_factors
from tests.pure.drift.streams import DAY, LEVELS, WEEK, baseline_of, hours_of, stacked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from series import Sample

ATOMS = np.arange(11)


@dataclass(frozen=True, slots=True)
class Path:
    """A statistic of many streams over time."""

    values: NDArray[Any]
    """(S, n); larger means more evidence."""
    at: NDArray[np.int64]
    """Place of the live query after which each is known (n,)."""

    def first(self, threshold: float) -> NDArray[np.int64]:
        """Give the place of the query that brings each stream to the threshold, -1 where none does."""
        hit = self.values >= threshold
        return np.where(hit.any(axis=1), self.at[hit.argmax(axis=1)], -1)


def ours(sample: Sample, *, every: int = 1) -> Mapping[str, Path]:
    """Run the engine's evidence, natural logarithm of weeks: all three channels, and the mean channel alone.

    The baseline is estimated from each stream's own calibration with the defaults, and every value is taken in by
    `advance`, the function that `step` uses. `every` keeps only the largest of so many neighbouring values.
    """
    baselines = [baseline_of(row, PER_DAY) for row in sample.reference]
    detectors = stacked(baselines)
    streams, length = sample.live.shape
    channels, width = detectors.lam.shape[1:]
    values = channel_values(LEVELS)
    factors = np.empty((24, 11, streams, channels * width))
    for hour in range(24):
        for atom in ATOMS:
            factors[hour, atom] = np.exp(log_factors(detectors, values[atom], hour)).reshape(streams, -1)
    flat = factors.reshape(24 * 11 * streams, -1)
    # One column of weights per variant: the weighted sum of a stream's bets is its evidence.
    pooled = detectors.weights.reshape(streams, -1)
    alone = np.zeros_like(pooled)
    alone[:, :width] = 1.0 / width
    gamma = DAY / PER_DAY / WEEK
    hours = hours_of(sample.reference.shape[1], length, PER_DAY) % 24
    rows = (hours[:, None] * 11 + sample.live.T) * streams + np.arange(streams)
    blocks = -(-length // every)
    best = np.zeros((2, blocks, streams))
    sr = np.zeros((streams, channels * width))
    for place in range(length):
        sr = advance(sr, gamma if place else 0.0, flat[rows[place]])
        block = best[:, place // every]
        np.maximum(block[0], np.einsum("sk,sk->s", sr, pooled), out=block[0])
        np.maximum(block[1], np.einsum("sk,sk->s", sr, alone), out=block[1])
    at = np.minimum((np.arange(blocks) + 1) * every, length) - 1
    logs = np.log(np.maximum(best, 1e-300))
    return {"ours, three channels": Path(logs[0].T, at), "ours, mean only": Path(logs[1].T, at)}


def inflation(sample: Sample) -> float:
    """Give the median variance inflation that the baselines see, a measure of the world's bursts."""
    return float(np.median([baseline_of(row, PER_DAY).channels[0].kappa for row in sample.reference[:40]]))


def oracle(sample: Sample, before: NDArray[Any], after: NDArray[Any]) -> Path:
    """Run the CUSUM of the true log-likelihood ratios of one value, which knows both laws.

    A value that has no probability after the change counts as its millionth part, so that streams stay finite.
    """
    floor = 1e-6
    ratio = np.log(np.maximum(after, floor) / np.maximum(before, floor))
    found = np.empty(sample.live.shape, dtype=np.float32)
    for row, live in enumerate(sample.live):
        total = ratio[live].cumsum()
        least = np.minimum.accumulate(np.concatenate([[0.0], total[:-1]]))
        found[row] = total - least
    return Path(found, np.arange(sample.live.shape[1]))


def windows(sample: Sample, size: int, stride: int) -> Mapping[str, Path]:
    """Run one-sided Mann-Whitney, Welch t (z values) and KS (distance) of windows against the calibration."""
    reference, counts, at = _counts(sample, size, stride)
    n, m = sample.reference.shape[1], size
    both = reference + counts
    total = n + m
    lower = np.concatenate([np.zeros_like(counts[..., :1]), counts.cumsum(axis=-1)[..., :-1]], axis=-1)
    pairs = (reference * (lower + counts / 2)).sum(axis=-1)
    spread = n * m / 12 * (total + 1 - (both**3 - both).sum(axis=-1) / (total * (total - 1)))
    rank = (pairs - n * m / 2) / np.sqrt(np.maximum(spread, 1e-12))
    mean, sd = _moments(reference, n)
    means, sds = _moments(counts, m)
    welch = (mean - means) / np.sqrt(sd**2 / n + np.maximum(sds**2, 1e-12) / m)
    distance = (counts.cumsum(axis=-1) / m - reference.cumsum(axis=-1) / n).max(axis=-1)
    named = {"Mann-Whitney": rank, "Welch t": welch, "KS": distance}
    return {f"{name}, window {size:,}": Path(values, at) for name, values in named.items()}


def windows_as_used(sample: Sample, size: int) -> Mapping[str, Path]:
    """Run the same tests two-sided once per window that follows on another, as 1 - p."""
    from scipy import stats

    reference, counts, at = _counts(sample, size, size)
    sided = windows(sample, size, size)
    distance = np.abs(counts.cumsum(axis=-1) / size - reference.cumsum(axis=-1) / reference.sum(axis=-1, keepdims=True))
    n = sample.reference.shape[1]
    effective = int(np.round(n * size / (n + size)))
    # With n = 14,000 against 500 and 2,000 the degrees of freedom of Welch's t are near the window's.
    found = {
        "Mann-Whitney": 2 * stats.norm.sf(np.abs(sided[f"Mann-Whitney, window {size:,}"].values)),
        "Welch t": 2 * stats.t.sf(np.abs(sided[f"Welch t, window {size:,}"].values), size - 1),
        "KS": stats.kstwo.sf(distance.max(axis=-1), effective),
    }
    return {f"{name}, window {size:,}": Path(1.0 - p, at) for name, p in found.items()}


def fixed(sample: Sample, size: int = 500, stride: int = 50) -> Path:
    """Give by how much the mean of the last values lies below the calibration's, as a share of it."""
    reference, counts, at = _counts(sample, size, stride)
    mean, _ = _moments(reference, sample.reference.shape[1])
    means, _ = _moments(counts, size)
    return Path(1.0 - means / mean, at)


def check(sample: Sample) -> None:
    """Hold the window statistics against scipy on one window of one stream."""
    from scipy import stats

    size = 500
    found = windows_as_used(sample, size)
    for row in range(3):
        window, reference = sample.live[row, :size], sample.reference[row]
        expected = {
            "Mann-Whitney": stats.mannwhitneyu(window, reference, use_continuity=False, method="asymptotic").pvalue,
            "Welch t": stats.ttest_ind(window, reference, equal_var=False).pvalue,
            "KS": stats.ks_2samp(window, reference, method="asymp").pvalue,
        }
        for name, p in expected.items():
            np.testing.assert_allclose(1 - found[f"{name}, window {size}"].values[row, 0], p, atol=2e-3, err_msg=name)


def _counts(sample: Sample, size: int, stride: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Count the eleven values in the calibration (S, 1, 11) and in each window (S, n, 11)."""
    streams, length = sample.live.shape
    blocks = length // stride
    cells = (np.arange(streams)[:, None] * blocks + np.arange(blocks * stride) // stride) * 11
    each = np.bincount((cells + sample.live[:, : blocks * stride]).ravel(), minlength=streams * blocks * 11)
    sums = np.zeros((streams, blocks + 1, 11))
    sums[:, 1:] = each.reshape(streams, blocks, 11).cumsum(axis=1)
    per = size // stride
    at = np.arange(per, blocks + 1) * stride - 1
    reference = np.stack([np.bincount(row, minlength=11) for row in sample.reference]).astype(np.float64)
    return reference[:, None, :], sums[:, per:] - sums[:, :-per], at


def _moments(counts: NDArray[Any], n: int) -> tuple[NDArray[Any], NDArray[Any]]:
    mean = counts @ (ATOMS / 10) / n
    square = counts @ (ATOMS / 10) ** 2 / n
    return mean, np.sqrt(np.maximum(square - mean**2, 0.0) * n / (n - 1))
