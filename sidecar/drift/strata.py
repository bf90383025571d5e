"""Keep the null true when the mix of queries changes, and the mirror image of a baseline for the other direction.

Slices differ: German questions may overlap by 0.5 where English ones overlap by 0.7. When the traffic moves from one
to the other, the mean of the whole stream falls although no slice's retrieval changed. Each slice that the
calibration saw therefore gets an offset to the whole stream's null, exactly like an hour of the day. A slice that it
did not see has no accepted level: its values are not held against the whole stream's (`shift_of` gives None).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.drift.baseline import ChannelBaseline, Stratum, loss_size, margin
from sidecar.drift.channels import TOP, channel_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from sidecar.drift.baseline import Baseline

MIN_STRATUM = 100
"""Fewest calibration values of an offset."""

CONCENTRATION_ERROR = 0.05
"""Probability that the null of a mix that is all one stratum lies above the truth."""


def with_strata(baseline: Baseline, histograms: Mapping[str, NDArray[Any]]) -> Baseline:
    """Give the baseline with an offset for each stratum of its calibration.

    Args:
        baseline: of the whole stream.
        histograms: calibration values per level (101,) by stratum name. Strata of fewer than `MIN_STRATUM` values are
            taken together; when even together they have fewer, the baseline makes no claim about them.

    The offset is the stratum's mean less the whole stream's. A stratum may hold values that the whole stream does not
    (samples that only a slice's floor let in); weighted by the stream's own mix the offsets cancel all the same.

    """
    large = {name: counts for name, counts in histograms.items() if counts.sum() >= MIN_STRATUM}
    small = {name: counts for name, counts in histograms.items() if name not in large}
    rest = sum(small.values(), np.zeros(TOP + 1, dtype=np.int64))
    groups: list[tuple[tuple[str, ...], NDArray[Any]]] = [((name,), counts) for name, counts in large.items()]
    if rest.sum() >= MIN_STRATUM:
        groups.append((tuple(small), rest))
    if not groups:
        return baseline
    values = channel_values(np.arange(TOP + 1))
    strata = {name: _stratum(baseline, counts, values) for names, counts in groups for name in names}
    return replace(baseline, strata=strata)


def _stratum(baseline: Baseline, counts: NDArray[Any], values: NDArray[Any]) -> Stratum:
    n = int(counts.sum())
    means = counts @ values / n
    sds = np.sqrt(np.maximum(0.0, counts @ (values - means) ** 2 / max(1, n - 1)))
    return Stratum(
        n=n,
        offsets=tuple(float(mean) - one.mean for mean, one in zip(means, baseline.channels, strict=True)),
        sds=tuple(sds.tolist()),
        losses=tuple(loss_size(counts, x, float(mean)) for x, mean in zip(values.T, means, strict=True)),
    )


def shift_of(baseline: Baseline, stratum: str) -> NDArray[Any] | None:
    """Give what to add to the null for a value of this stratum (C,); None when the calibration did not see it.

    The margin of the whole stream covers the error of the accepted mix. A mix that concentrates on one stratum of n
    values has the error of that stratum's own mean (`margin` with its spread, its losses and its n), so the offset is
    lowered until the whole margin and it together cover that error with probability 95 %: large strata lose nothing,
    small ones a little sensitivity. A baseline that was not told apart has offset 0 for everything.
    """
    if not baseline.strata:
        return np.zeros(len(baseline.channels))
    found = baseline.strata.get(stratum)
    if found is None:
        return None
    shifts = []
    parts = zip(baseline.channels, found.offsets, found.sds, found.losses, strict=True)
    for channel, offset, sd, loss in parts:
        own = margin(sd, loss, channel.kappa, found.n, CONCENTRATION_ERROR)
        short = own - (channel.mean - channel.lower)
        # A shifted null must stay below what n perfect values could prove (`estimate_baseline` for the hours).
        ceiling = 1.0 - margin(0.0, channel.loss, channel.kappa, channel.n, baseline.error) - channel.tolerance
        highest = max(0.0, ceiling - channel.lower - max(channel.offsets))
        shifts.append(min(offset - max(0.0, short), highest))
    return np.array(shifts)


def mirrored(baseline: Baseline) -> Baseline:
    """Give the baseline of 1 - X: a rise of X is a fall of it, and the same detector finds it.

    The uncertainty is taken off on the upper side with the same error and tolerance; hour offsets and strata change
    their sign, less than exactly where the mirrored null would come too near to 1. How a stratum rises was not kept:
    its unseen rises are taken to be as large as they can be.
    """
    levels = np.array(baseline.histogram)
    values = 1.0 - channel_values(np.arange(TOP + 1))
    channels = []
    for x, channel in zip(values.T, baseline.channels, strict=True):
        mean = 1.0 - channel.mean
        loss = loss_size(levels, x, mean)
        off = margin(channel.sd, loss, channel.kappa, channel.n, baseline.error) + channel.tolerance
        lower = max(0.0, mean - off)
        ceiling = max(lower, 1.0 - margin(0.0, loss, channel.kappa, channel.n, baseline.error) - channel.tolerance)
        offsets = tuple(min(-offset, ceiling - lower) for offset in channel.offsets)
        channels.append(
            ChannelBaseline(
                mean=mean,
                sd=channel.sd,
                kappa=channel.kappa,
                n=channel.n,
                loss=loss,
                offsets=offsets,
                lower=lower,
                tolerance=channel.tolerance,
            )
        )
    strata = {
        name: Stratum(
            stratum.n, tuple(-offset for offset in stratum.offsets), stratum.sds, tuple(1.0 for _ in stratum.losses)
        )
        for name, stratum in baseline.strata.items()
    }
    return replace(baseline, channels=tuple(channels), histogram=baseline.histogram[::-1], strata=strata)
