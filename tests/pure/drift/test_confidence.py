"""Intervals: valid at all times at once, and honest about a drop after an alarm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.baseline import ChannelBaseline
from sidecar.drift.changepoint import change_set
from sidecar.drift.confidence import _PSI, _RATES, Interval, Moments, drop_interval, interval, radius
from sidecar.drift.esr import bets, estimated_start, evidence, initial_state, step
from tests.pure.drift.streams import (
    ATOMS,
    DAY,
    IID,
    LEVELS,
    ORIGIN,
    Streams,
    base_law,
    baseline_of,
    mean_of,
    tilt,
)

X = ATOMS / 10


def channel(mean=0.62, sd=0.317, n=14_000, loss=0.6):
    """Give a channel's baseline without dependence."""
    return ChannelBaseline(
        mean=mean, sd=sd, kappa=1.0, n=n, loss=loss, offsets=(0.0,) * 24, lower=mean - 0.01, tolerance=0.0
    )


@pytest.mark.parametrize("centre", [0.62, 0.5, 0.9])
def test_an_interval_read_all_the_time_seldom_misses(centre):
    """Of 1,000 streams of 50,000 looked at 400 times at most 5 % ever leave it (bar 11), for any centre."""
    blocks = np.random.default_rng(81).multinomial(125, base_law(), size=(1_000, 400)).cumsum(axis=1)
    n = blocks.sum(axis=2)
    mean = blocks @ X / n
    half = radius(n, blocks @ (X - centre) ** 2, 0.05)
    missed = (np.abs(mean - mean_of(base_law())) > half).any(axis=1)
    assert missed.mean() <= 0.05


def test_the_interval_is_narrow_enough_to_be_useful():
    """At 2,000 values with mean .62 the half width is at most .030 (bar 11)."""
    law = base_law()
    moments = Moments(2_000, 2_000 * mean_of(law), 2_000 * float(law @ X**2))
    found = interval(moments, 0.62)
    assert (found.upper - found.lower) / 2 <= 0.030
    assert found.lower < 0.62 < found.upper


@given(st.integers(1, 10**6), st.floats(0, 1), st.sampled_from([0.05, 0.01, 1e-9]))
def test_the_radius_solves_its_equation(n, share, alpha):
    """The Newton steps end on the root: the mixture equals 2 / alpha there."""
    spread = n * share
    s = float(radius(n, spread, alpha)) * n
    exponent = _RATES * s - _PSI * spread
    top = exponent.max()
    assert top + np.log(np.exp(exponent - top).mean()) == pytest.approx(np.log(2 / alpha), abs=1e-6)


@given(st.lists(st.integers(0, 100), max_size=30), st.lists(st.integers(0, 100), max_size=30), st.floats(0, 1))
def test_moments_of_parts_add_up(left, right, centre):
    """The interval of merged workers is the interval of one stream."""

    def moments(levels):
        return Moments(len(levels), float(sum(levels)), float(sum(x * x for x in levels)))

    assert moments(left) + moments(right) == moments(left + right)
    scaled = Moments(len(left), sum(left) / 100, sum(x * x for x in left) / 1e4)
    found = interval(scaled, centre)
    assert 0.0 <= found.lower <= found.upper <= 1.0
    if left:
        assert found.lower - 1e-9 <= sum(left) / len(left) / 100 <= found.upper + 1e-9


def test_without_values_everything_is_possible():
    """No data bounds nothing."""
    assert interval(Moments(), 0.5) == Interval(0.0, 1.0)
    assert Moments().mean is None
    found = drop_interval(channel(), Moments(), 0.05, starts=1)
    assert found.lower < 0.0
    assert found.upper > 0.99


def test_choosing_among_more_starts_widens_the_interval():
    """An interval over a picked stretch pays for the picking."""
    moments = Moments(500, 250.0, 160.0)
    once, picked = (drop_interval(channel(), moments, 0.05, starts=starts) for starts in (1, 20_000))
    assert picked.lower < once.lower < once.upper < picked.upper


def test_a_poor_baseline_widens_the_interval():
    """The baseline's own error is part of the size of a drop."""
    moments = Moments(5_000, 2_500.0, 1_600.0)
    rich, poor = (drop_interval(channel(n=n), moments, 0.05, starts=1) for n in (14_000, 100))
    assert poor.upper - poor.lower > rich.upper - rich.lower + 0.1


def test_a_channel_that_was_at_zero_has_no_drop():
    """Where nothing was, nothing can be lost."""
    assert drop_interval(channel(mean=0.0, sd=0.0), Moments(10, 1.0, 1.0), 0.05, starts=1) == Interval(0.0, 0.0)


@pytest.mark.slow
def test_after_a_drop_of_a_tenth_the_start_and_the_size_are_right():
    """After a -10 % change (bar 12, 200 streams): start, interval at the alarm, interval from the alarm on.

    The change comes after 2,000 healthy values; the median distance of the estimated start from it is at most
    75 queries, the 95 % set holds it in at least 93 %, and the intervals (from the alarm on, after 2,000
    values; at the alarm, over all possible starts) hold the true drop in at least 95 % of the streams.
    Streams that page before the change are left out and must be few.
    """
    changed = tilt(base_law(), 0.1)
    count, change = 200, 2_000
    streams = Streams(base_law(), IID, count, 91, changed=changed, change_at=np.full(count, 14_000 + change))
    baselines = [baseline_of(atoms, 2_000) for atoms in streams.draw(14_000)]
    sequences = LEVELS[streams.draw(change + 10_000)]
    errors, held, after, at_alarm = [], [], [], []
    for baseline, sequence in zip(baselines, sequences, strict=True):
        wagers = bets(baseline)
        state = initial_state(wagers)
        # Healthy values far before the change cannot matter to the start; the last 1,000 of them are taken
        # in.
        for i in range(change - 1_000, len(sequence)):
            state = step(wagers, state, int(sequence[i]), ORIGIN + i * DAY / 2_000)
            if evidence(wagers, state) >= 26.0:
                break
        if i < change:
            continue
        start = estimated_start(wagers, state)
        errors.append(abs(start.index + change - 1_000 - change))
        recent = np.arange(change - 1_000, i + 1)
        found = change_set(wagers, sequence[recent], ORIGIN + recent * DAY / 2_000)
        held.append(found.earliest <= 1_000 <= found.latest)
        x = sequence[i + 1 : i + 2_001] / 100
        was = baseline.channels[0]
        later = drop_interval(was, Moments(x.size, float(x.sum()), float((x * x).sum())), 0.05, starts=1)
        then = drop_interval(was, start.moments, 0.05, starts=state.n)
        # The interval is in units of the measured baseline mean; so is the true drop.
        true = 0.062 / was.mean
        after.append(later.lower <= true <= later.upper)
        at_alarm.append(then.lower <= true <= then.upper)
    assert len(errors) >= 190
    assert np.median(errors) <= 75
    assert np.mean(held) >= 0.93
    assert np.mean(after) >= 0.95
    assert np.mean(at_alarm) >= 0.95
