"""The detector: fair bets under every null, exact restarts, a monotone clock, no number out of hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.drift.baseline import Baseline, ChannelBaseline, estimate_baseline
from sidecar.drift.calibration import Calibration
from sidecar.drift.channels import channel_values
from sidecar.drift.esr import (
    CAP,
    LONGEST_STAKE,
    WEEK_SECONDS,
    DetectorState,
    bets,
    estimated_start,
    evidence,
    initial_state,
    log_factors,
    step,
)
from tests.pure.drift.streams import (
    DAY,
    IID,
    LEVELS,
    ORIGIN,
    Streams,
    base_law,
    baseline_of,
    first_pages,
    stacked,
    thin,
)

levels = st.integers(0, 100)
spacings = st.sampled_from([1.0, 60.0, 3_600.0, 5 * 3_600.0])
calibrations = st.one_of(
    st.lists(levels, min_size=2, max_size=80),
    st.lists(st.sampled_from([0, 100]), min_size=2, max_size=80),
    st.tuples(levels, st.integers(2, 400)).map(lambda pair: [pair[0]] * pair[1]),
    st.tuples(levels, st.integers(1, 3_000)).map(lambda pair: [pair[0]] + [100] * pair[1]),
)


def baseline_from(sequence, spacing=3_600.0):
    """Calibrate on levels at even spacing."""
    made = Calibration()
    for i, level in enumerate(sequence):
        made.add(level, ORIGIN + i * spacing)
    return estimate_baseline(made)


def run(wagers, state, pairs):
    """Take (level, time) pairs in, one after the other."""
    for level, at in pairs:
        state = step(wagers, state, level, at)
    return state


@settings(max_examples=150, deadline=None)
@given(calibrations, spacings, st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
def test_no_law_above_the_null_can_win_a_bet_on_average(sequence, spacing, masses, data):
    """E[L] <= 1 for every bet, channel, hour, baseline and law with at least the null mean (bar 10).

    A random law with too low a mean is mixed with perfect values until it just reaches the null: the
    boundary, where a wrong factor would show most.
    """
    wagers = bets(baseline_from(sequence, spacing))
    hour = data.draw(st.integers(0, 23))
    support = data.draw(st.lists(levels, min_size=len(masses), max_size=len(masses)))
    law = np.bincount(support, weights=np.array(masses) + 1e-6, minlength=101)
    law /= law.sum()
    values = channel_values(np.arange(101))
    factors = np.exp(np.stack([log_factors(wagers, value, hour) for value in values]))
    means = law @ values
    for channel, null in enumerate(wagers.null[:, hour]):
        share = max(0.0, (null - means[channel]) / (1.0 - means[channel])) if means[channel] < 1.0 else 0.0
        mixed = (1.0 - share) * law
        mixed[100] += share
        assert (mixed @ factors[:, channel] <= 1.0 + 1e-9).all()


@settings(max_examples=60, deadline=None)
@given(calibrations, spacings, st.lists(st.tuples(levels, st.floats(0, 1e6)), max_size=40), st.data())
def test_a_restart_anywhere_gives_the_same_state(sequence, spacing, steps, data):
    """Written as JSON and read back anywhere, the detector ends in the identical state (bar 20)."""
    baseline = baseline_from(sequence, spacing)
    wagers = bets(baseline)
    at = ORIGIN + np.cumsum([gap for _, gap in steps]) if steps else []
    pairs = [(level, float(when)) for (level, _), when in zip(steps, at, strict=True)]
    cut = data.draw(st.integers(0, len(pairs)))
    whole = run(wagers, initial_state(wagers), pairs)
    half = run(wagers, initial_state(wagers), pairs[:cut])
    woken = DetectorState.from_state(json.loads(json.dumps(half.to_state())))
    reread = bets(Baseline.from_state(json.loads(json.dumps(baseline.to_state()))))
    assert run(reread, woken, pairs[cut:]).to_state() == whole.to_state()
    assert estimated_start(wagers, whole) == estimated_start(reread, run(reread, woken, pairs[cut:]))


@settings(max_examples=60, deadline=None)
@given(calibrations, spacings, st.lists(st.tuples(levels, st.floats(-1e9, 1e9)), max_size=40))
def test_no_baseline_and_no_stream_gives_a_number_out_of_hand(sequence, spacing, steps):
    """Evidence stays in [0, CAP] and every state is finite, for degenerate baselines and wild clocks too."""
    wagers = bets(baseline_from(sequence, spacing))
    assert all(np.isfinite(part).all() for part in (wagers.lam, wagers.null, wagers.penalty, wagers.weights))
    state = run(wagers, initial_state(wagers), [(level, ORIGIN + at) for level, at in steps])
    assert np.isfinite(state.sr).all()
    assert np.isfinite(state.cusum).all()
    assert 0.0 <= evidence(wagers, state) <= CAP
    assert 0 <= estimated_start(wagers, state).n <= len(steps)


@settings(max_examples=60, deadline=None)
@given(calibrations, spacings)
def test_a_perfect_value_never_raises_a_bet(sequence, spacing):
    """Full agreement is never evidence of a drop, in any hour."""
    wagers = bets(baseline_from(sequence, spacing))
    for hour in range(24):
        assert (log_factors(wagers, channel_values(100), hour) <= 1e-12).all()


def test_a_channel_that_cannot_fall_is_left_out_and_its_weight_shared():
    """Without exact agreement in the baseline that channel's factors are 1, the others carry 2/3 and 1/3."""
    wagers = bets(baseline_from([60] * 2_000))
    assert (wagers.lam[1] == 0.0).all()
    assert (log_factors(wagers, channel_values(0), 5)[1] == 0.0).all()
    assert wagers.weights.sum(axis=1) == pytest.approx([2 / 3, 0.0, 1 / 3])


def test_a_baseline_at_zero_never_gives_evidence():
    """Where there is nothing to lose, years of zeros are worth nothing."""
    wagers = bets(baseline_from([0] * 500))
    state = run(wagers, initial_state(wagers), [(0, ORIGIN + i * WEEK_SECONDS) for i in range(200)])
    assert evidence(wagers, state) == 0.0


@pytest.mark.parametrize("n", [100, 2_000, 14_000])
def test_a_frozen_reference_that_stays_perfect_never_pages_and_a_dead_retriever_does(n):
    """After a baseline of ones, a year of ones stays below one week of evidence and 10 zeros pass 26."""
    wagers = bets(baseline_from([100] * n, spacing=43.2))
    spacing = 432.0
    state = initial_state(wagers)
    for i in range(73_000):
        state = step(wagers, state, 100, ORIGIN + i * spacing)
        if i % 1_000 == 0:
            assert evidence(wagers, state) < 1.0
    state = run(wagers, state, [(0, ORIGIN + (73_000 + i) * spacing) for i in range(10)])
    assert evidence(wagers, state) >= 26.0
    start = estimated_start(wagers, state)
    assert (start.index, start.at, start.n, start.mean) == (73_000, ORIGIN + 73_000 * spacing, 10, 0.0)


def test_one_bad_query_after_a_perfect_calibration_does_not_page():
    """A single total loss in 14,000 + 2,000 perfect values is below a ticket (4 weeks)."""
    wagers = bets(baseline_from([100] * 14_000, spacing=43.2))
    state = run(wagers, initial_state(wagers), [(100, ORIGIN + i * 43.2) for i in range(2_000)])
    state = step(wagers, state, 0, ORIGIN + 2_000 * 43.2)
    assert evidence(wagers, state) < 4.0


def test_evidence_is_capped_and_comes_back_down():
    """After 20,000 dead queries evidence is at the cap, and 10,000 perfect ones bring it below a page.

    The smallest stake is that on a 1 % drop of exact agreement, lam = .0027 / .2 = .013; a perfect value
    costs it .013 x (1 - .257) = .0097 in log evidence, 10,000 of them 97, and the cap is only ln(1e12) = 27.6
    high.
    """
    wagers = bets(baseline_of(Streams(base_law(), IID, 1, 61).draw(14_000)[0], 2_000))
    state = run(wagers, initial_state(wagers), [(0, ORIGIN + i * 43.2) for i in range(20_000)])
    assert evidence(wagers, state) == pytest.approx(CAP)
    state = run(wagers, state, [(100, ORIGIN + (20_000 + i) * 43.2) for i in range(10_000)])
    assert evidence(wagers, state) < 26.0


def test_the_first_value_and_the_past_stake_nothing():
    """Stake is elapsed time: none at the first value or for one older than the newest; at most 6 hours."""
    wagers = bets(baseline_from([50, 60, 70, 80] * 50))
    state = step(wagers, initial_state(wagers), 0, ORIGIN)
    assert evidence(wagers, state) == 0.0
    state = step(wagers, state, 0, ORIGIN - 9_999.0)
    assert evidence(wagers, state) == 0.0
    assert state.last_time == ORIGIN
    for gap, weeks in ((WEEK_SECONDS / 64, 1 / 64), (52 * WEEK_SECONDS, LONGEST_STAKE)):
        later = step(wagers, state, 70, ORIGIN + gap)
        hour = int((ORIGIN + gap) // 3_600) % 24
        assert later.sr == pytest.approx(weeks * np.exp(log_factors(wagers, channel_values(70), hour)))


def test_one_step_follows_the_formula():
    """R <- (R + gamma) L and C <- max(C, 0) + log L', written out by hand for one bet.

    L bets against the null (.78, in every hour .01 more), L' against the accepted mean (.80 and .01).
    """
    channel = ChannelBaseline(
        mean=0.8, sd=0.2, kappa=1.5, n=900, loss=1.0, offsets=(0.01,) * 24, lower=0.78, tolerance=0.0
    )
    wagers = bets(Baseline(channels=(channel,) * 3, n=900, started_at=0.0, ended_at=1.0, histogram=(0,) * 101))
    d = 0.78 * 0.6
    lam = min(d / (1.5 * 0.04 + d * d), 0.95 / (1 - 0.79))
    price = lam**2 * 0.5 * 0.04 / 2
    state = run(wagers, initial_state(wagers), [(40, ORIGIN), (90, ORIGIN + WEEK_SECONDS / 64)])
    factor = (1 + lam * (0.79 - 0.9)) * math.exp(-price)
    assert state.sr[0, -1] == pytest.approx(factor / 64, rel=1e-12)
    first, second = (math.log(1 + lam * (0.81 - value)) - price for value in (0.4, 0.9))
    assert state.cusum[0, -1] == pytest.approx(first + second, rel=1e-12)
    assert (state.n, state.total, state.squares) == (2, 130, 40**2 + 90**2)


def test_the_estimated_start_is_where_the_fall_began():
    """After 50 collapsed values behind 500 healthy ones start, time and mean since are those of the fall."""
    wagers = bets(baseline_from([60, 70, 80, 90] * 500))
    healthy = [(level, ORIGIN + i) for i, level in enumerate([60, 70, 80, 90] * 125)]
    fallen = [(10, ORIGIN + 500 + i) for i in range(50)]
    start = estimated_start(wagers, run(wagers, initial_state(wagers), healthy + fallen))
    assert abs(start.index - 500) <= 2
    assert start.at == ORIGIN + start.index
    since = np.array([level / 100 for level, _ in (healthy + fallen)[start.index :]])
    assert start.n == since.size
    assert start.mean == pytest.approx(since.mean())
    assert start.moments.squares == pytest.approx((since**2).sum())


def test_without_a_fall_there_is_no_start():
    """Before the first value, and after perfect ones, the start is ahead and empty."""
    wagers = bets(baseline_from([60, 70, 80, 90] * 500))
    fresh = estimated_start(wagers, initial_state(wagers))
    assert (fresh.index, fresh.at, fresh.n, fresh.mean) == (0, None, 0, None)
    state = run(wagers, initial_state(wagers), [(100, ORIGIN + i) for i in range(30)])
    later = estimated_start(wagers, state)
    assert (later.index, later.at, later.n) == (30, None, 0)


def test_a_step_leaves_the_state_before_untouched():
    """States are values: taking a value in twice from the same state gives the same result."""
    wagers = bets(baseline_from([60, 70, 80, 90] * 500))
    before = run(wagers, initial_state(wagers), [(10, ORIGIN), (20, ORIGIN + 50.0)])
    kept = json.dumps(before.to_state())
    once = step(wagers, before, 0, ORIGIN + 99.0).to_state()
    assert json.dumps(before.to_state()) == kept
    assert step(wagers, before, 0, ORIGIN + 99.0).to_state() == once


@pytest.mark.parametrize("level", [-1, 101])
def test_a_level_that_cannot_be_is_refused(level):
    """A level outside 0..100 raises; a negative one does not count from the end."""
    wagers = bets(baseline_from([50, 60]))
    with pytest.raises(ValueError, match="outside"):
        step(wagers, initial_state(wagers), level, ORIGIN)


def test_a_state_of_the_wrong_shape_is_refused():
    """A state of another number of bets raises instead of broadcasting."""
    wagers = bets(baseline_from([50, 60]))
    state = initial_state(wagers).to_state()
    with pytest.raises(ValueError, match="shapes"):
        DetectorState.from_state({**state, "sr": [0.0]})


def test_the_simulation_pages_where_single_steps_page():
    """The acceptance tests' vectorised run and `step` with `evidence` agree on the page of every stream."""
    drawn = Streams(base_law(), IID, 6, 71).draw(14_000)
    baselines = [baseline_of(atoms, 2_000) for atoms in drawn]
    fallen = thin(base_law(), 0.3)
    pages = first_pages(Streams(fallen, IID, 6, 72), stacked(baselines), 400)
    atoms = Streams(fallen, IID, 6, 72).draw(400)
    for baseline, sequence, page in zip(baselines, atoms, pages, strict=True):
        wagers = bets(baseline)
        state = initial_state(wagers)
        for i, level in enumerate(LEVELS[sequence].tolist()):
            state = step(wagers, state, level, ORIGIN + i * DAY / 2_000)
            if evidence(wagers, state) >= 26.0:
                break
        assert i == page
