"""Watch a stream for a drop below its baseline: the mixture Shiryaev-Roberts e-detector.

Under the null that every conditional mean is at least m + o(hour), each bet multiplies its evidence by a
factor of expectation at most 1, while elapsed time is injected as stake. So evidence minus elapsed weeks is a
supermartingale: the expected time to a false alarm at level A is at least A weeks, whatever the traffic rate,
with no distribution or independence assumed (Shin, Ramdas, Rinaldo, arXiv 2203.03532). Thresholds, gates and
latching are the judge's.

Evidence is capped at `CAP` weeks after every value. A lower number never raises the false-alarm rate, more
digits decide nothing, and products stay far from overflow. Back at a healthy level evidence comes down again,
but the smallest stakes take very many values for it: declaring an event over is the judge's decision, with a
fresh state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from sidecar.drift.baseline import HOURS
from sidecar.drift.calibration import HOUR_SECONDS
from sidecar.drift.channels import CHANNEL_WEIGHTS, CHANNELS, TOP, channel_values
from sidecar.drift.confidence import Moments
from sidecar.drift.strata import shift_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from sidecar.drift.baseline import Baseline

DROPS = np.geomspace(0.01, 0.6, 10)
"""Relative drops of the null mean that the bets are tuned to."""

CAP = 1e12
"""Largest evidence of one bet, in weeks."""

WEEK_SECONDS = 604_800.0

LONGEST_STAKE = 6 * 3_600 / WEEK_SECONDS
"""Largest stake of one value, in weeks. After a silence of months one value would otherwise stake all of them, and a
clock that jumps would page by itself. Staking less never raises the false-alarm rate."""


@dataclass(frozen=True, slots=True, eq=False)
class Bets:
    """The bets of one detector. C channels, K bets each; leading axes for many detectors are allowed."""

    lam: NDArray[Any]
    """Stakes (..., C, K)."""
    null: NDArray[Any]
    """Null mean by channel and UTC hour of the day (..., C, 24)."""
    centre: NDArray[Any]
    """Accepted mean by channel and UTC hour of the day (..., C, 24); the start of a change is sought from there."""
    penalty: NDArray[Any]
    """Price of dependence per value, subtracted from the log-factor (..., C, K)."""
    weights: NDArray[Any]
    """Share of each bet in the evidence (..., C, K); sums to 1, or 0 when no channel can fall."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectorState:
    """Everything the detector remembers. Arrays are never written to after construction."""

    sr: NDArray[Any]
    """Shiryaev-Roberts evidence R per bet, in weeks (C, K)."""
    cusum: NDArray[Any]
    """CUSUM log-wealth C per bet (C, K)."""
    marks: NDArray[Any]
    """Per bet (n before, unix time, total before, squares before) of the value where its CUSUM last left 0
    (4, C, K)."""
    n: int
    """Values so far."""
    total: int
    """Sum of their levels."""
    squares: int
    """Sum of their squared levels."""
    last_time: float | None
    """Latest time seen, unix seconds."""

    def to_state(self) -> dict[str, Any]:
        """Give the state as plain JSON values; Python writes floats so that they read back exactly."""
        return {
            "sr": self.sr.tolist(),
            "cusum": self.cusum.tolist(),
            "marks": self.marks.tolist(),
            "n": self.n,
            "total": self.total,
            "squares": self.squares,
            "last_time": self.last_time,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild what `to_state` gave, bit for bit.

        Raises:
            ValueError, KeyError, TypeError: the mapping is not such a state.

        """
        shape = (len(CHANNELS), len(DROPS))
        sr, cusum, marks = (np.array(state[key], dtype=np.float64) for key in ("sr", "cusum", "marks"))
        if (sr.shape, cusum.shape, marks.shape) != (shape, shape, (4, *shape)):
            msg = f"detector state has shapes {sr.shape}, {cusum.shape}, {marks.shape}"
            raise ValueError(msg)
        last = state["last_time"]
        return cls(
            sr=sr,
            cusum=cusum,
            marks=marks,
            n=int(state["n"]),
            total=int(state["total"]),
            squares=int(state["squares"]),
            last_time=None if last is None else float(last),
        )


@dataclass(frozen=True, slots=True)
class Start:
    """Where the detector thinks the change began."""

    index: int
    """Position of the first value after the change, counted from 0 at the initial state."""
    at: float | None
    """Its unix time; None when no bet is winning, and then there are no values since."""
    moments: Moments
    """Scores (mean channel) since then, the first included; biased low when read at an alarm."""

    @property
    def n(self) -> int:
        """Number of values since the start."""
        return self.moments.n

    @property
    def mean(self) -> float | None:
        """Mean score since the start, None without values."""
        return self.moments.mean


def bets(baseline: Baseline, allowed: float = 0.0) -> Bets:
    """Derive the bets from a baseline.

    Args:
        baseline: the accepted state.
        allowed: fall that the null allows beside the uncertainty, relative to each channel's accepted mean; 0 tests
            for any fall, 0.15 for one of more than 15 %.

    lam = min(d / (kappa sd^2 + d^2), 0.95 / (1 - min_h (m + o(h)))) for d = m rho: about the growth-optimal
    stake against a drop d, capped so that every factor stays positive. A channel with m = 0 cannot fall: its
    stakes are 0, its factors exactly 1, and its weight goes to the other channels in proportion (weights
    fixed beforehand are free).
    """
    channels = baseline.channels
    mean = np.array([channel.mean for channel in channels])
    lower = np.array([channel.lower for channel in channels])
    lower = np.where(lower > 0.0, np.maximum(0.0, lower - allowed * mean), 0.0)
    offsets = np.array([channel.offsets for channel in channels])
    kappa = np.array([channel.kappa for channel in channels])[:, None]
    variance = np.array([channel.sd for channel in channels])[:, None] ** 2
    null = np.clip(lower[:, None] + offsets, 0.0, 1.0)
    alive = lower > 0.0
    drop = np.where(alive, lower, 1.0)[:, None] * DROPS
    least = null.min(axis=1)
    # Not clipped at 0: a negative null is harmless, and the cap must hold for it.
    for name in baseline.strata:
        least = np.minimum(least, null.min(axis=1) + shift_of(baseline, name))
    # null < 1 by construction of a baseline; a hand-made one at exactly 1 would allow any stake.
    cap = 0.95 / np.maximum(1.0 - least[:, None], 1e-12)
    lam = np.where(alive[:, None], np.minimum(drop / (kappa * variance + drop**2), cap), 0.0)
    share = np.array(CHANNEL_WEIGHTS) * alive
    share = share / share.sum() if alive.any() else share
    return Bets(
        lam=lam,
        null=null,
        centre=np.clip(mean[:, None] + offsets, 0.0, 1.0),
        penalty=lam**2 * (kappa - 1.0) * variance / 2.0,
        weights=np.repeat(share[:, None] / len(DROPS), len(DROPS), axis=1),
    )


def log_factors(bets: Bets, values: NDArray[Any], hour: int, shift: NDArray[Any] | float = 0.0) -> NDArray[Any]:
    """Give each bet's log-factor for channel values (..., C) seen in one UTC hour of the day: (..., C, K).

    `shift` (C,) moves the null of this value: the offset of the stratum that it belongs to (`Baseline.strata`).
    """
    return _log_factors(bets, bets.null, values, hour, shift)


def _log_factors(
    bets: Bets, level: NDArray[Any], values: NDArray[Any], hour: int, shift: NDArray[Any] | float
) -> NDArray[Any]:
    logs: NDArray[Any] = np.log1p(bets.lam * (level[..., hour] + shift - values)[..., None])
    logs -= bets.penalty
    return logs


def advance(sr: NDArray[Any], gamma: float, factors: NDArray[Any]) -> NDArray[Any]:
    """Move the evidence by one value: min((R + gamma) exp(log-factor), CAP); broadcasts over leading axes."""
    moved: NDArray[Any] = sr + gamma
    moved *= factors
    np.minimum(moved, CAP, out=moved)
    return moved


def follow(cusum: NDArray[Any], logs: NDArray[Any]) -> NDArray[Any]:
    """Move the CUSUM by one value: max(C, 0) + log-factor; broadcasts over leading axes."""
    moved: NDArray[Any] = np.maximum(cusum, 0.0)
    moved += logs
    return moved


def initial_state(bets: Bets) -> DetectorState:
    """Give the state before the first value: no evidence."""
    zeros = np.zeros(bets.lam.shape)
    return DetectorState(
        sr=zeros, cusum=zeros, marks=np.zeros((4, *zeros.shape)), n=0, total=0, squares=0, last_time=None
    )


def stake(last: float | None, at: float) -> float:
    """Give what a value seen at `at` stakes, in weeks: the time since the latest one seen, at most 6 hours."""
    return 0.0 if last is None else min(LONGEST_STAKE, max(0.0, at - last) / WEEK_SECONDS)


def step(bets: Bets, state: DetectorState, level: int, at: float, shift: NDArray[Any] | float = 0.0) -> DetectorState:
    """Take one value in.

    Args:
        bets: from the baseline.
        state: the state before.
        level: the score in hundredths, 0..100.
        at: unix seconds; gives the UTC hour of the day and the stake, which is the time in weeks since the
            latest time seen, at most `LONGEST_STAKE`. The clock only moves forward: a value older than that stakes
            nothing. Nor does the first value, since no time has passed yet; all evidence begins with the second.
        shift: offset of the value's stratum (C,).

    The CUSUM that dates the change bets against the accepted mean itself, not against the null: the null lies
    lower by the baseline's uncertainty, and the first queries after a change would count as healthy.

    Raises:
        ValueError: the level is outside 0..100.

    """
    if not 0 <= level <= TOP:
        msg = f"level {level!r} is outside 0..{TOP}"
        raise ValueError(msg)
    values = channel_values(level)
    hour = int(at // HOUR_SECONDS) % HOURS
    logs = log_factors(bets, values, hour, shift)
    last = at if state.last_time is None else state.last_time
    gamma = stake(state.last_time, at)
    leaving = state.cusum <= 0.0
    marks = state.marks
    if leaving.any():
        here = np.array([state.n, at, state.total, state.squares], dtype=np.float64)
        marks = np.where(leaving, here[:, None, None], marks)
    return DetectorState(
        sr=advance(state.sr, gamma, np.exp(logs)),
        cusum=follow(state.cusum, _log_factors(bets, bets.centre, values, hour, shift)),
        marks=marks,
        n=state.n + 1,
        total=state.total + level,
        squares=state.squares + level * level,
        last_time=max(last, at),
    )


def evidence(bets: Bets, state: DetectorState) -> float:
    """Give the weighted evidence against the null, in weeks: the false-page budget that it is worth."""
    return float((bets.weights * state.sr).sum())


def estimated_start(bets: Bets, state: DetectorState) -> Start:
    """Estimate where the change began: the point at which the CUSUM that is now largest last left 0."""
    cusum = np.where(bets.weights > 0.0, state.cusum, -np.inf)
    best = np.unravel_index(int(cusum.argmax()), cusum.shape)
    if not cusum[best] > 0.0:
        return Start(index=state.n, at=None, moments=Moments())
    index, at, total, squares = (float(mark[best]) for mark in state.marks)
    since = Moments(
        n=state.n - int(index), total=(state.total - total) / TOP, squares=(state.squares - squares) / TOP**2
    )
    return Start(index=int(index), at=at, moments=since)
