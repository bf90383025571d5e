"""Streams with a known law, and the production arithmetic run over hundreds of them at once.

The laws are those of the acceptance bars: overlap@10 takes the levels 0, 10 .. 100; a quarter of the queries
agree exactly, the rest is beta-binomial. Conditional laws are drawn from tables of 2^14 equally likely
entries, so every law here is a law on multiples of 2^-14 and is the same in the baseline and in the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import comb, exp, lgamma

import numpy as np
from scipy.optimize import brentq
from scipy.signal import lfilter

from sidecar.drift.baseline import Baseline, estimate_baseline
from sidecar.drift.calibration import Calibration
from sidecar.drift.channels import channel_values
from sidecar.drift.esr import Bets, advance, bets, log_factors

ATOMS = np.arange(11)
LEVELS = 10 * ATOMS
HOUR = 3600.0
DAY = 86_400.0
WEEK = 7 * DAY
ORIGIN = 20_000 * DAY
"""Midnight at which every stream's calibration begins."""

ENTRIES = 2**14
SHIFTS = np.arange(-0.2, 0.2001, 0.002)
"""Grid of conditional mean shifts."""


def mean_of(law):
    """Mean overlap of a law on the atoms."""
    return float(law @ ATOMS / 10)


def base_law():
    """A quarter exact agreement, else beta-binomial(10), concentration 4; mean .62, sd .317."""
    centre = (0.62 - 0.25) / 0.75
    a, b = 4 * centre, 4 * (1 - centre)

    def beta(p, q):
        return lgamma(p) + lgamma(q) - lgamma(p + q)

    law = np.array([comb(10, k) * exp(beta(k + a, 10 - k + b) - beta(a, b)) for k in range(11)])
    law = 0.75 * law
    law[10] += 0.25
    return law


def frozen_law():
    """Overlap with a frozen copy under approximate search: each neighbour is kept with probability .98."""
    return np.array([comb(10, k) * 0.98**k * 0.02 ** (10 - k) for k in range(11)])


def tilted_to(law, mean):
    """Exponentially tilt a law to a mean: the closest law in relative entropy that has it."""

    def tilt(theta):
        weight = law * np.exp(theta * (ATOMS - 5))
        return weight / weight.sum()

    return tilt(brentq(lambda theta: mean_of(tilt(theta)) - mean, -8, 8, xtol=1e-12))


def tilt(law, drop):
    """Lower the mean by a share `drop` in the least visible way."""
    return tilted_to(law, (1 - drop) * mean_of(law))


def thin(law, drop):
    """Lose each shared neighbour with probability `drop`."""
    kept = np.zeros(11)
    for k, mass in enumerate(law):
        for j in range(k + 1):
            kept[j] += mass * comb(k, j) * (1 - drop) ** j * drop ** (k - j)
    return kept


def collapse(law, drop):
    """Turn a share `drop` of the queries into complete disagreement."""
    fallen = (1 - drop) * law
    fallen[0] += drop
    return fallen


def table_of(law):
    """Give 2^14 equally likely atoms that follow the law."""
    return np.searchsorted(law.cumsum()[:-1], (np.arange(ENTRIES) + 0.5) / ENTRIES).astype(np.uint8)


@dataclass(frozen=True)
class Environment:
    """How the conditional mean moves while nothing is wrong."""

    diurnal: float = 0.0
    bursts: float = 0.0
    per_day: int = 2_000
    phi: float = 0.98

    @property
    def still(self):
        """Whether values are independent and identically distributed."""
        return not (self.diurnal or self.bursts)


IID = Environment()
BURSTS = Environment(bursts=0.03)
DIURNAL_BURSTS = Environment(diurnal=0.02, bursts=0.03)


@dataclass
class Streams:
    """Many independent streams of one law in one environment, drawn piece by piece; atoms 0..10."""

    law: np.ndarray
    environment: Environment
    count: int
    seed: int
    changed: np.ndarray | None = None
    """Law after the change, if there is one."""
    change_at: np.ndarray | None = None
    """Query index of the change per stream."""
    position: int = 0
    _rng: np.random.Generator = field(init=False)
    _burst: np.ndarray = field(init=False)

    def __post_init__(self):
        self._rng = np.random.default_rng(self.seed)
        self._burst = self.environment.bursts * self._rng.standard_normal((self.count, 1))
        laws = [self.law] if self.changed is None else [self.law, self.changed]
        shifts = [0.0] if self.environment.still else SHIFTS
        self._rows = len(shifts)
        self._table = np.concatenate(
            [
                table_of(law if self.environment.still else tilted_to(law, np.clip(mean_of(law) + s, 0.02, 0.995)))
                for law in laws
                for s in shifts
            ]
        )

    def draw(self, size):
        """Give the next `size` atoms of every stream (streams, size)."""
        world = self.environment
        when = self.position + np.arange(size)
        row = np.zeros((self.count, size), dtype=np.int64)
        if not world.still:
            shift = world.diurnal * np.sin(2 * np.pi * when / world.per_day) + np.zeros((self.count, 1))
            if world.bursts:
                scale = world.bursts * np.sqrt(1 - world.phi**2)
                noise = scale * self._rng.standard_normal((self.count, size))
                path, _ = lfilter([1.0], [1.0, -world.phi], noise, axis=1, zi=world.phi * self._burst)
                self._burst = path[:, -1:]
                shift = shift + path
            row = np.clip(np.rint((shift - SHIFTS[0]) / 0.002).astype(np.int64), 0, len(SHIFTS) - 1)
        if self.change_at is not None:
            row = row + self._rows * (when >= self.change_at[:, None])
        self.position += size
        return self._table[row * ENTRIES + self._rng.integers(0, ENTRIES, size=row.shape)]


def hours_of(first, size, per_day):
    """Give the hours since the epoch of queries first .. first + size - 1, evenly spaced in time."""
    return ((ORIGIN + (first + np.arange(size)) * DAY / per_day) // HOUR).astype(np.int64)


def baseline_of(atoms, per_day, first=0):
    """Estimate the baseline of one stream's atoms (n,) through the calibration's own state."""
    hours = hours_of(first, len(atoms), per_day)
    kinds, counts = np.unique(hours * 11 + atoms, return_counts=True)
    state = {"first": ORIGIN, "last": ORIGIN + len(atoms) * DAY / per_day, "hours": {}}
    for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True):
        state["hours"].setdefault(str(kind // 11), {})[str(10 * (kind % 11))] = count
    made = estimate_baseline(Calibration.from_state(state))
    assert isinstance(made, Baseline)
    return made


def stacked(baselines):
    """Stack the bets of many detectors along a leading axis."""
    each = [bets(baseline) for baseline in baselines]
    return Bets(*(np.stack([getattr(one, part.name) for one in each]) for part in fields(Bets)))


def first_pages(streams, detectors, limit, threshold=26.0, *, stop_when_all=False, piece=1_000):
    """Run production evidence over all streams and give the query index of each first page, -1 without one.

    The factors of all (hour, atom) pairs are computed once by `log_factors`; every value is then taken in by
    `advance`, the same function that `step` uses.
    """
    count, per_day = streams.count, streams.environment.per_day
    values = channel_values(LEVELS)
    factors = np.empty((24, 11, *detectors.lam.shape))
    for hour in range(24):
        for atom in range(11):
            factors[hour, atom] = np.exp(log_factors(detectors, values[atom], hour))
    width = detectors.lam.shape[1] * detectors.lam.shape[2]
    flat = np.ascontiguousarray(factors.reshape(24 * 11 * count, width))
    weights = detectors.weights.reshape(count, width)
    gamma = DAY / per_day / WEEK
    begin = streams.position
    sr = np.zeros((count, width))
    pages = np.full(count, -1)
    own = np.arange(count)
    for start in range(0, limit, piece):
        size = min(piece, limit - start)
        hours = hours_of(begin + start, size, per_day) % 24
        rows = ((hours[:, None] * 11 + streams.draw(size).T) * count + own).astype(np.int64)
        for i in range(size):
            sr = advance(sr, gamma if start + i else 0.0, flat[rows[i]])
            over = np.einsum("sk,sk->s", sr, weights) >= threshold
            if over.any():
                pages[over & (pages < 0)] = start + i
        if stop_when_all and (pages >= 0).all():
            break
    return pages


def null_pages(law, environment, count, limit, *, seed, calibration=14_000):
    """Calibrate each stream on its own past, go on without a change, and give the first pages."""
    streams = Streams(law, environment, count, seed)
    baselines = [baseline_of(atoms, environment.per_day) for atoms in streams.draw(calibration)]
    return first_pages(streams, stacked(baselines), limit)


def delays(law, changed, environment, *, count, limit, seed, calibration=14_000):
    """Give the delays to the page after a change in the second day; streams that page before it are left out.

    Streams that do not page within `limit` queries of the change count with an infinite delay.
    """
    rng = np.random.default_rng(seed + 1)
    change = environment.per_day + rng.integers(0, environment.per_day, size=count)
    streams = Streams(law, environment, count, seed, changed=changed, change_at=calibration + change)
    baselines = [baseline_of(atoms, environment.per_day) for atoms in streams.draw(calibration)]
    pages = first_pages(streams, stacked(baselines), 2 * environment.per_day + limit, stop_when_all=True)
    delay = np.where(pages < 0, np.inf, pages - change + 1)
    return delay[delay > 0]
