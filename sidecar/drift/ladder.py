"""The questions beside "has it fallen?": by more than 5 or 15 %, has it risen, has it come back?

Each is the same e-detector with another null, so each keeps the same promise by itself. None of them dates a change,
so all that they remember is their evidence. The tiers say how severe an alarm is, the rise makes a ticket (a better
retriever, or a silently changed reference, is worth a look and no page), and the way back ends an alarm.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.drift.baseline import HOURS
from sidecar.drift.calibration import HOUR_SECONDS
from sidecar.drift.channels import channel_values
from sidecar.drift.esr import Bets, advance, bets, log_factors
from sidecar.drift.strata import mirrored, shift_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sidecar.drift.baseline import Baseline


@dataclass(frozen=True, slots=True, eq=False)
class Ladder:
    """D detectors of one signal and slice, stacked: D = tiers and the rise, or the way back alone."""

    bets: Bets
    """Leading axis D."""
    rising: NDArray[Any]
    """Which of them watch 1 - X (D, 1)."""
    baselines: tuple[Baseline, ...]
    """Of each detector, for the offsets of strata."""

    def start(self) -> NDArray[Any]:
        """Give the evidence before the first value: none, shape (D, C, K)."""
        return np.zeros(self.bets.lam.shape)

    def shift(self, stratum: str) -> NDArray[Any] | None:
        """Give the offsets of a stratum (D, C); None when the calibration did not see it."""
        shifts = [shift for one in self.baselines if (shift := shift_of(one, stratum)) is not None]
        return np.array(shifts) if shifts else None

    def step(
        self, evidence: NDArray[Any], level: int, at: float, gamma: float, shift: NDArray[Any] | float = 0.0
    ) -> NDArray[Any]:
        """Take one value in: level 0..100 seen at unix seconds `at`, with a stake of `gamma` weeks."""
        values = channel_values(level)
        seen = np.where(self.rising, 1.0 - values, values)
        return advance(evidence, gamma, np.exp(log_factors(self.bets, seen, int(at // HOUR_SECONDS) % HOURS, shift)))

    def weeks(self, evidence: NDArray[Any]) -> NDArray[Any]:
        """Give the evidence of each detector in weeks (D,)."""
        total: NDArray[Any] = (self.bets.weights * evidence).sum(axis=(-2, -1))
        return total


def tiers_and_rise(baseline: Baseline, tiers: Sequence[float]) -> Ladder:
    """Watch for falls of the mean by more than each of `tiers` (relative, ascending) and, last, for a rise.

    The tiers look at the mean channel alone: when each shared document is lost with probability 10 %, two thirds of
    the exact agreements go, and the mean has still fallen by 10 %.
    """
    up = mirrored(baseline)
    mean_only = _mean_only(baseline, baseline.channels[0].lower)
    each = [*(bets(mean_only, allowed) for allowed in tiers), bets(up)]
    return Ladder(_stacked(each), np.array([False] * len(tiers) + [True])[:, None], (*[baseline] * len(tiers), up))


def way_back(baseline: Baseline, level: float) -> Ladder:
    """Watch for the mean to be above the middle between the drifted `level` and the accepted mean.

    Against "the mean is at most the middle" evidence of A weeks means: if the drift still lasts, this is expected at
    most once in A weeks. A fall of one tenth is found to be over about as fast as a fall of one twentieth is found.
    """
    up = mirrored(baseline)
    middle = (level + baseline.channels[0].mean) / 2.0
    up = _mean_only(up, max(0.0, 1.0 - middle))
    return Ladder(_stacked([bets(up)]), np.array([[True]]), (up,))


def _mean_only(baseline: Baseline, lower: float) -> Baseline:
    """Give the baseline with another null for the mean channel and none for the others."""
    first, *others = baseline.channels
    return replace(baseline, channels=(replace(first, lower=lower), *(replace(one, lower=0.0) for one in others)))


def _stacked(each: list[Bets]) -> Bets:
    return Bets(*(np.stack([getattr(one, part.name) for one in each]) for part in fields(Bets)))
