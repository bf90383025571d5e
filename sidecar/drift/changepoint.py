"""Say within which stretch the change began, from the recent values behind an alarm.

`estimated_start` names one point; this gives the set of starts that the bets find plausible. It needs the recent
values themselves (a byte each), which whoever keeps them hands in at an alarm. The set covers the true change in
95 % and more of the simulated alarms; that is measured, not proved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.drift.baseline import HOURS
from sidecar.drift.calibration import HOUR_SECONDS
from sidecar.drift.channels import channel_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sidecar.drift.esr import Bets

BLOCK = 20
"""Values per block; the set is made of whole blocks."""

BLOCKS = 1_000
"""Blocks looked back at."""


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """Plausible positions of the first value after the change, counted from 0 in the values handed in."""

    earliest: int
    """First position in the set; when it lies in the oldest block the change may be older than the values."""
    latest: int
    """Last position in the set."""
    size: int
    """Positions in the set; less than latest - earliest + 1 when it has gaps."""


def change_set(bets: Bets, levels: NDArray[Any], times: NDArray[Any], coverage: float = 0.95) -> ChangeSet | None:
    """Give the smallest set of blocks that holds a share `coverage` of the evidence for a start in each.

    Args:
        bets: of the detector that raised the alarm.
        levels: recent levels 0..100 in order (n,), the newest last; only the last 20,000 are used.
        times: their unix seconds (n,).
        coverage: share of the evidence, in (0, 1).

    A start in block j weighs sum_k w_k exp(log-factors of all values from block j to the newest) over all bets k, the
    evidence of a test begun there. Values before the first whole block are left out. None with less than one block or
    when no channel can fall.

    """
    count = min(len(levels) // BLOCK, BLOCKS)
    if not count or not bets.weights.any():
        return None
    skipped = len(levels) - count * BLOCK
    values = channel_values(np.asarray(levels)[skipped:])
    hours = (np.asarray(times)[skipped:] // HOUR_SECONDS).astype(np.int64) % HOURS
    margins = bets.null.T[hours] - values
    logs = np.log1p(bets.lam * margins[:, :, None]) - bets.penalty
    blocks = logs.reshape(count, BLOCK, *bets.lam.shape).sum(axis=1)
    onward = blocks[::-1].cumsum(axis=0)[::-1].reshape(count, -1)
    weights = bets.weights.ravel()
    onward, weights = onward[:, weights > 0.0], weights[weights > 0.0]
    mass = np.exp(onward - onward.max()) @ weights
    order = np.argsort(-mass, kind="stable")
    enough = int(np.searchsorted(mass[order].cumsum(), coverage * mass.sum())) + 1
    members = order[:enough]
    return ChangeSet(
        earliest=skipped + int(members.min()) * BLOCK,
        latest=skipped + (int(members.max()) + 1) * BLOCK - 1,
        size=len(members) * BLOCK,
    )
