"""How near the detector comes to a test that is told everything: the oracle CUSUM (bar 8).

The CUSUM that knows the law before and after the change has the smallest worst mean delay of all tests with its
false-alarm rate (Moustakides, Annals of Statistics 14(4), 1986). Both are given one false alarm per 364,000 queries
(26 weeks at 2,000 a day) and the same changed streams; the detector estimates its baseline from 14,000 queries of
its own and knows neither law.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.sparse import csc_matrix, eye
from scipy.sparse.linalg import spsolve

from sidecar.drift.channels import channel_values
from sidecar.drift.esr import advance, log_factors
from tests.pure.drift.streams import (
    DAY,
    IID,
    LEVELS,
    WEEK,
    Streams,
    base_law,
    baseline_of,
    first_pages,
    hours_of,
    stacked,
    table_of,
    tilt,
)

RUN_LENGTH = 364_000
"""Queries per false alarm of both tests."""

CALIBRATION = 14_000
GAMMA = DAY / 2_000 / WEEK


def drawn_law(law):
    """Give the law that the streams really draw from, in steps of 2^-14."""
    table = table_of(law)
    return np.bincount(table, minlength=11) / table.size


def oracle_steps(drop):
    """Log-likelihood ratio of each atom, and the law before the change."""
    before, after = drawn_law(base_law()), drawn_law(tilt(base_law(), drop))
    return np.log(after / before), before


def run_length(steps, law, threshold, cells=1_000):
    """Mean queries to a false alarm of W <- max(0, W) + step at W >= threshold, from W = 0.

    A Markov chain on `cells` values of W (Brook and Evans, Biometrika 59(3), 1972); a step that ends between two of
    them goes to both in proportion, which keeps its mean.
    """
    grid = threshold * np.arange(cells) / cells
    width = threshold / cells
    place = np.maximum(grid[:, None] + steps, 0.0) / width
    low = np.floor(place).astype(int)
    share = place - low
    origin = np.repeat(np.arange(cells), steps.size)
    mass = np.tile(law, cells)
    ends = [(low.ravel(), mass * (1 - share.ravel())), ((low + 1).ravel(), mass * share.ravel())]
    to, weight = (np.concatenate(parts) for parts in zip(*ends, strict=True))
    inside = to < cells
    chain = csc_matrix((weight[inside], (np.tile(origin, 2)[inside], to[inside])), shape=(cells, cells))
    return float(spsolve((eye(cells) - chain).tocsc(), np.ones(cells))[0])


def oracle_threshold(drop, queries):
    """Find the threshold at which the oracle has one false alarm per so many queries."""
    steps, law = oracle_steps(drop)
    return brentq(lambda h: np.log(run_length(steps, law, h) / queries), 1.0, 14.0, xtol=1e-3)


def oracle_pages(atoms, steps, threshold):
    """Give the index of each stream's first alarm in the atoms (streams, n), -1 without one."""
    level, pages = np.zeros(len(atoms)), np.full(len(atoms), -1)
    for i, seen in enumerate(atoms.T):
        level = np.maximum(level, 0.0) + steps[seen]
        over = (level >= threshold) & (pages < 0)
        pages[over] = i
    return pages


def mean_channel(detectors):
    """Put all weight on the mean channel."""
    weights = np.zeros_like(detectors.weights)
    weights[:, 0] = 1.0 / weights.shape[-1]
    return replace(detectors, weights=weights)


def detector_threshold(streams, detectors, queries, limit):
    """Find the evidence, in weeks, that the streams reach once in so many queries without a change.

    The rate of a level is the number of streams that reach it over the queries that all streams spent below it.
    """
    channel = replace(
        detectors, **{name: getattr(detectors, name)[:, :1] for name in ("lam", "null", "centre", "penalty", "weights")}
    )
    values = channel_values(LEVELS)[:, :1]
    factors = np.exp([[log_factors(channel, value, hour)[:, 0] for value in values] for hour in range(24)])
    count, width = channel.lam.shape[0], channel.lam.shape[2]
    flat = np.ascontiguousarray(factors.reshape(-1, width))
    sr, best, own = np.zeros((count, width)), np.full(count, 0.05), np.arange(count)
    records = []
    for start in range(0, limit, 1_000):
        hours = hours_of(CALIBRATION + start, 1_000, 2_000) % 24
        rows = (hours[:, None] * 11 + streams.draw(1_000).T) * count + own
        for i, row in enumerate(rows):
            sr = advance(sr, GAMMA, flat[row])
            level = sr.mean(axis=1)
            higher = np.flatnonzero(level > 1.01 * best)
            if higher.size:
                best[higher] = level[higher]
                records += [(one, start + i + 1, level[one]) for one in higher]
    stream, when, level = (np.array(part) for part in zip(*records, strict=True))

    def rate(threshold):
        first = np.full(count, limit)
        over = level >= threshold
        np.minimum.at(first, stream[over], when[over])
        return len(set(stream[over])) / first.sum()

    return brentq(lambda x: rate(np.exp(x)) * queries - 1.0, np.log(0.06), np.log(1e3), xtol=1e-3), rate


def test_the_oracle_keeps_the_rate_that_it_was_given():
    """At one false alarm per 500 queries the chain's threshold gives 500 in simulation.

    2,000 streams, each to its alarm: times to an alarm are nearly exponential, so their mean has a standard error of
    500 / sqrt(2,000) = 11; three of them, and 1 % for the grid.
    """
    steps, _ = oracle_steps(0.2)
    atoms = Streams(base_law(), IID, 2_000, 81).draw(6_000)
    pages = oracle_pages(atoms, steps, oracle_threshold(0.2, 500))
    assert (pages >= 0).mean() > 0.999
    assert abs(pages[pages >= 0].mean() + 1 - 500) <= 3 * 500 / np.sqrt(2_000) + 5


@pytest.fixture(scope="module")
def same_rate():
    """Tune the detector on 400 streams of 26 weeks, each with a baseline of its own.

    Some 250 of them alarm, so the rate is known to 1 / sqrt(250) = 6 %. A delay grows with the log of the evidence
    asked for, about ln(364,000) - 1: 6 % of the rate are .06 / 11 = .6 % of a delay.
    """
    streams = Streams(base_law(), IID, 400, 82)
    detectors = stacked([baseline_of(atoms, 2_000) for atoms in streams.draw(CALIBRATION)])
    log_threshold, rate = detector_threshold(streams, mean_channel(detectors), RUN_LENGTH, RUN_LENGTH)
    threshold = np.exp(log_threshold)
    assert rate(threshold) * RUN_LENGTH == pytest.approx(1.0, abs=0.02)
    return threshold


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("drop", "bar", "limit"), [(0.10, 1.35, 4_000), (0.20, 1.30, 2_000)])
def test_the_detector_is_nearly_as_fast_as_the_oracle(same_rate, drop, bar, limit):
    """At the same false-alarm rate the median delay is at most the bar times the oracle's (bar 8).

    800 changed streams. The standard error of a median is about 1.25 sd / sqrt(800) with sd about half the median,
    2.2 % of it, of a ratio of two 3.1 % at most (both see the same streams). With the default baseline the ratios are
    1.33 and 1.09, so the first lies within one standard error of its bar.
    """
    count, seed = 800, 83
    change = 2_000 + np.random.default_rng(seed + 1).integers(0, 2_000, size=count)

    def streams():
        return Streams(base_law(), IID, count, seed, changed=tilt(base_law(), drop), change_at=CALIBRATION + change)

    ours, theirs = streams(), streams()
    detectors = mean_channel(stacked([baseline_of(atoms, 2_000) for atoms in ours.draw(CALIBRATION)]))
    theirs.draw(CALIBRATION)
    pages = first_pages(ours, detectors, 4_000 + limit, same_rate, stop_when_all=True)
    atoms = np.concatenate([theirs.draw(1_000) for _ in range((4_000 + limit) // 1_000)], axis=1)
    oracle = oracle_pages(atoms, oracle_steps(drop)[0], oracle_threshold(drop, RUN_LENGTH))
    median = []
    for first in (pages, oracle):
        delay = np.where(first < 0, np.inf, first - change + 1)
        assert (delay > 0).mean() >= 0.95
        median.append(np.median(delay[delay > 0]))
    assert median[0] / median[1] <= bar
