"""Turn a calibration into the null that later traffic is held against, with its own uncertainty taken off.

A detector that compares with the measured mean pages for the error of that mean. The null is therefore a
lower bound that the accepted mean keeps with probability 1 - alpha0, widened for dependence between queries
(batch means) and by a small tolerance, and moved through the day by hour-of-day offsets. When to accept a
baseline, and versions, are the judge's business.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sidecar.drift.channels import CHANNELS, TOP, channel_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from sidecar.drift.calibration import Calibration

HOURS = 24
BATCH_HOURS = (2, 3, 4, 6)
MIN_BATCH_FREEDOM = 7
"""Fewest degrees of freedom of a usable batch-means estimate; its relative error is then sqrt(2/7) = 0.53."""


@dataclass(frozen=True, slots=True)
class ChannelBaseline:
    """What the calibration says about one channel; all values in score units, [0, 1]."""

    mean: float
    sd: float
    kappa: float
    """Variance inflation of a mean over hours, from dependence between queries; at least 1."""
    n: int
    loss: float
    """Typical fall below the mean, the mean itself when none was seen; scales the margin's unseen part."""
    offsets: tuple[float, ...]
    """What to add to `lower` in each UTC hour of the day, 24 values."""
    lower: float
    """The null mean m: mean - margin - tolerance, at least 0."""
    tolerance: float
    """Part of the distance to `lower` that is allowed change, not uncertainty."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """A group of the calibration's values (`strata`)."""

    n: int
    offsets: tuple[float, ...]
    """Mean of the group less the mean of the whole, by channel."""
    sds: tuple[float, ...]
    losses: tuple[float, ...]
    """Typical fall below the group's mean, as `ChannelBaseline.loss`."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The accepted state of one signal and slice, channels in the order of `CHANNELS`."""

    channels: tuple[ChannelBaseline, ...]
    n: int
    started_at: float
    ended_at: float
    histogram: tuple[int, ...]
    """Values per level 0..100."""
    error: float = 0.01
    """Probability per channel that the true mean lies below `lower` + `tolerance`."""
    strata: Mapping[str, Stratum] = field(default_factory=dict)
    """The groups of values with a level of their own; empty when the stream was not told apart."""

    def to_state(self) -> dict[str, Any]:
        """Give the baseline as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild what `to_state` gave, exactly.

        Raises:
            ValueError, KeyError, TypeError: the mapping is not such a state.

        """
        channels = tuple(
            ChannelBaseline(**{**channel, "offsets": tuple(channel["offsets"])}) for channel in state["channels"]
        )
        histogram = tuple(int(count) for count in state["histogram"])
        shapes = (len(channels), len(histogram), *(len(channel.offsets) for channel in channels))
        if shapes != (len(CHANNELS), TOP + 1, *[HOURS] * len(CHANNELS)):
            msg = f"baseline state has shapes {shapes}"
            raise ValueError(msg)
        return cls(
            channels=channels,
            n=int(state["n"]),
            started_at=float(state["started_at"]),
            ended_at=float(state["ended_at"]),
            histogram=histogram,
            error=float(state["error"]),
            strata={
                name: Stratum(int(one["n"]), *(tuple(map(float, one[part])) for part in ("offsets", "sds", "losses")))
                for name, one in state["strata"].items()
            },
        )


def margin(sd: float, loss: float, kappa: float, n: int, alpha: float) -> float:
    """Give how far a mean of n values in [0, 1] may lie above the true mean, one-sided at level alpha.

        margin = z(1 - alpha) sd sqrt(kappa / n) + loss (1 - alpha^(kappa / n))

    The first term is the usual normal bound with the effective sample size n / kappa. It knows only the
    spread that was seen: with a frozen reference all values are often exactly 1, sd is 0, and it would claim
    that the true mean is 1. The second term is the exact bound for that case, where loss = 1. Let the true
    mean be 1 - q. A loss 1 - X is at most 1{X < 1}, so P(X < 1) >= q, and n independent values are all 1 with
    probability at most (1 - q)^n. That is below alpha as soon as q > 1 - alpha^(1 / n), the Clopper-Pearson
    limit: about 4.6 / n for alpha = 0.01 ("rule of three" for 0.05). Values that are all c can have missed
    only falls of at most c, which scales the bound by loss = c.

    The terms are added, not maximised: with one or two total losses seen the normal bound misses by far (a
    Poisson count of 1 has the 99 % limit 6.6, not 1 + 2.3), and k + z sqrt(k) + log(1 / alpha) lies above the
    exact Poisson limit for every k. Losses of size y scale both by y; `loss` is that size, estimated by
    `loss_size`.
    """
    effective = n / kappa
    unseen = 1.0 - alpha ** (1.0 / effective)
    return float(NormalDist().inv_cdf(1.0 - alpha) * sd / effective**0.5 + loss * unseen)


def estimate_baseline(calibration: Calibration, *, alpha0: float = 0.01, tolerance: float = 0.02) -> Baseline | None:
    """Estimate the baseline of the three channels, or None when there are fewer than two values.

    Args:
        calibration: the values by hour.
        alpha0: probability per channel that the true mean lies below `lower` + `tolerance`, in (0, 0.5].
        tolerance: allowed change in standard deviations of the channel.

    Hour offsets are fitted (weighted least squares on two daily harmonics) when every hour of the UTC day was
    seen on at least two days; before that they are zero, because a pattern seen once cannot be told from a
    slow change.

    kappa is the mean over batches of 2, 3, 4 and 6 clock hours of (variance of a batch mean x batch size /
    variance), after the offsets, over the batches that hold values, with one degree of freedom off per fitted
    parameter, and at least 1. A batch length counts only with 7 or more degrees of freedom (16 hours of
    calibration for 2 h batches); a shorter calibration cannot see bursts and gets kappa = 1, as does a
    constant channel.

    """
    hours, counts = calibration.table()
    n = int(counts.sum())
    if n < 2:
        return None
    seen = counts.sum(axis=1)
    hour_of_day = hours % HOURS
    days_seen = np.bincount(hour_of_day, minlength=HOURS)
    fit_offsets = bool(days_seen.min() >= 2)
    histogram = counts.sum(axis=0)
    values = channel_values(np.arange(TOP + 1))
    channels = []
    for x in values.T:
        sums = counts @ x
        mean = float(sums.sum() / n)
        occurring = x[histogram > 0]
        if occurring.min() == occurring.max():
            # Exactly, so that no rounding error is taken for spread.
            mean = float(occurring[0])
        sd = float(np.sqrt(max(0.0, float((counts * (x - mean) ** 2).sum()) / (n - 1))))
        offsets = _hour_offsets(hour_of_day, seen, sums, mean) if fit_offsets else np.zeros(HOURS)
        kappa = 1.0
        if sd > 0.0:
            residual = sums - seen * (mean + offsets[hour_of_day])
            kappa = _variance_inflation(hours, seen, residual, sd, fitted=5 if fit_offsets else 1)
        allowed = tolerance * sd
        loss = loss_size(histogram, x, mean)
        lower = max(0.0, mean - margin(sd, loss, kappa, n, alpha0) - allowed)
        # An hour's null must stay below what n perfect values could prove: a fitted sine may pass 1, values
        # cannot.
        ceiling = max(lower, 1.0 - margin(0.0, loss, kappa, n, alpha0) - allowed)
        channels.append(
            ChannelBaseline(
                mean=mean,
                sd=sd,
                kappa=kappa,
                n=n,
                loss=loss,
                offsets=tuple(np.minimum(offsets, ceiling - lower).tolist()),
                lower=lower,
                tolerance=allowed,
            )
        )
    return Baseline(
        channels=tuple(channels),
        n=n,
        started_at=float(calibration.started_at or 0.0),
        ended_at=float(calibration.ended_at or 0.0),
        histogram=tuple(histogram.tolist()),
        error=alpha0,
    )


def loss_size(histogram: NDArray[Any], x: NDArray[Any], mean: float) -> float:
    """Average the falls below the mean, weighted by themselves, with one fall to 0 added to those seen.

    For rare losses of one size this tends to that size; it is the mean itself for a constant channel.
    """
    fall = np.maximum(mean - x, 0.0)
    weight = mean + float(histogram @ fall)
    return float((mean**2 + histogram @ fall**2) / weight) if weight > 0.0 else 0.0


def _hour_offsets(hour_of_day: NDArray[Any], seen: NDArray[Any], sums: NDArray[Any], mean: float) -> NDArray[Any]:
    """Fit {1, cos, sin, cos 2, sin 2} of the hour to hourly means, weighted by count; centred on `mean`."""
    weight = np.bincount(hour_of_day, weights=seen, minlength=HOURS)
    total = np.bincount(hour_of_day, weights=sums, minlength=HOURS)
    angle = 2.0 * np.pi * (np.arange(HOURS) + 0.5) / HOURS
    basis = np.stack([np.ones(HOURS), np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)], axis=1)
    root = np.sqrt(weight)
    solution = np.linalg.lstsq(basis * root[:, None], total / root, rcond=None)[0]
    offsets: NDArray[Any] = basis @ solution - mean
    return offsets


def _variance_inflation(
    hours: NDArray[Any], seen: NDArray[Any], residual: NDArray[Any], sd: float, *, fitted: int
) -> float:
    """Average n_j (batch residual mean)^2 / sd^2 per degree of freedom over the batch lengths."""
    ratios = []
    for length in BATCH_HOURS:
        _, batch = np.unique(hours // length, return_inverse=True)
        freedom = int(batch.max()) + 1 - fitted
        if freedom < MIN_BATCH_FREEDOM:
            continue
        size = np.bincount(batch, weights=seen)
        total = np.bincount(batch, weights=residual)
        ratios.append(float((total**2 / size).sum()) / (freedom * sd**2))
    return max(1.0, float(np.mean(ratios))) if ratios else 1.0
