"""Baselines: the lower bound holds, daily waves and bursts are seen, degenerate calibrations stay usable."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from sidecar.drift.baseline import Baseline, estimate_baseline, loss_size, margin
from sidecar.drift.calibration import Calibration
from sidecar.drift.channels import channel_values
from tests.pure.drift.streams import (
    ATOMS,
    BURSTS,
    IID,
    LEVELS,
    Environment,
    Streams,
    base_law,
    baseline_of,
    frozen_law,
    mean_of,
)


def constant(level, n, spacing=60.0):
    """Calibrate on n equal values."""
    made = Calibration()
    for i in range(n):
        made.add(level, i * spacing)
    return estimate_baseline(made)


@pytest.mark.parametrize("n", [2, 5, 20, 200, 2_000, 20_000])
def test_the_margin_of_a_share_is_missed_at_most_as_often_as_it_says_exactly(n):
    """For zeros and ones with any loss share, the bound exceeds the true mean with probability <= alpha.

    No simulation: the probability is summed from the binomial law of the number of losses.
    """
    losses = np.arange(n + 1)
    share = losses / n
    sd = np.sqrt(share * (1 - share) * n / (n - 1))
    ends = np.array([0.0, 1.0])
    lower = np.array(
        [
            1 - p - margin(s, loss_size(np.array([k, n - k]), ends, 1 - p), 1.0, n, 0.01)
            for k, p, s in zip(losses, share, sd, strict=True)
        ]
    )
    for true_share in np.geomspace(0.01 / n, 0.3, 200):
        missed = stats.binom.pmf(losses[lower > 1 - true_share], n, true_share).sum()
        assert missed <= 0.01 + 1e-12


@pytest.mark.parametrize("law", [base_law(), frozen_law()], ids=["base", "frozen"])
@pytest.mark.parametrize("n", [200, 2_000])
def test_the_margin_of_overlap_is_missed_about_as_often_as_it_says(law, n):
    """Of 20,000 calibrations at most the promised 1 % and three standard errors lie above the true mean.

    Standard error sqrt(.01 x .99 / 20,000) = .0007, so the bound is .0121.
    """
    counts = np.random.default_rng(31).multinomial(n, law, size=20_000)
    x = ATOMS / 10
    means = counts @ x / n
    sds = np.sqrt((counts @ x**2 - n * means**2) / (n - 1))
    lower = [
        mean - margin(sd, loss_size(row, x, mean), 1.0, n, 0.01)
        for mean, sd, row in zip(means, sds, counts, strict=True)
    ]
    assert np.mean(np.array(lower) > mean_of(law)) <= 0.0121


@pytest.mark.parametrize("n", [2, 10, 100, 14_000])
def test_a_constant_perfect_baseline_keeps_the_exact_uncertainty_of_its_size(n):
    """When all n values are 1 the null is alpha^(1/n) in every channel, not 1."""
    baseline = constant(100, n, spacing=1.0)
    for channel in baseline.channels:
        assert (channel.mean, channel.sd, channel.kappa, channel.tolerance) == (1.0, 0.0, 1.0, 0.0)
        assert channel.lower == pytest.approx(0.01 ** (1 / n), rel=1e-12)


@pytest.mark.parametrize("level", [3, 29, 57, 60, 99])
def test_a_constant_baseline_is_not_widened_by_rounding(level):
    """A week of one and the same level has no spread and no inflation, whatever its decimal fraction does."""
    mean = constant(level, 2_000, spacing=302.4).channels[0]
    assert (mean.mean, mean.sd, mean.kappa) == (level / 100, 0.0, 1.0)
    assert mean.lower == pytest.approx(level / 100 * 0.01 ** (1 / 2_000), rel=1e-12)


def test_a_channel_that_is_always_zero_has_a_null_of_zero():
    """Values that are never exact give mean and null 0 in that channel, with finite numbers everywhere."""
    exact = constant(60, 500).channels[1]
    assert (exact.mean, exact.sd, exact.lower) == (0.0, 0.0, 0.0)
    assert np.isfinite(exact.offsets).all()


def test_fewer_than_two_values_give_no_baseline():
    """Too little data is an answer, not an error."""
    assert estimate_baseline(Calibration()) is None
    assert constant(50, 1) is None
    assert constant(50, 2) is not None


def test_moments_and_histogram_are_those_of_the_values():
    """Mean, standard deviation and histogram equal numpy's on the raw values, in each channel."""
    rng = np.random.default_rng(5)
    levels = rng.integers(0, 101, size=3_000)
    made = Calibration()
    for i, level in enumerate(levels.tolist()):
        made.add(level, 1e6 + i * 7.0)
    baseline = estimate_baseline(made)
    values = channel_values(levels)
    for index, channel in enumerate(baseline.channels):
        assert channel.mean == pytest.approx(values[:, index].mean(), rel=1e-12)
        assert channel.sd == pytest.approx(values[:, index].std(ddof=1), rel=1e-9)
        assert channel.tolerance == pytest.approx(0.02 * channel.sd)
    assert baseline.histogram == tuple(np.bincount(levels, minlength=101).tolist())
    assert (baseline.started_at, baseline.ended_at) == (1e6, 1e6 + 2_999 * 7.0)


def test_the_daily_wave_is_found():
    """A wave of +-.05 in the mean comes back as hour offsets.

    An offset is a sum of four fitted coefficients; its standard error is at most sd sqrt(4 / n) = .317 sqrt(4
    / 14,000) = .0054, and the largest of 24 stays below 4.5 of them.
    """
    streams = Streams(base_law(), Environment(diurnal=0.05), 1, seed=41)
    channel = baseline_of(streams.draw(14_000)[0], 2_000).channels[0]
    true = 0.05 * np.sin(2 * np.pi * (np.arange(24) + 0.5) / 24)
    assert np.abs(np.array(channel.offsets) - true).max() < 4.5 * 0.0054


@pytest.mark.parametrize(
    ("start", "days", "fitted"), [(0.0, 1.9, False), (0.0, 2.0, True), (0.4, 2.0, True), (0.0, 7.0, True)]
)
def test_hour_offsets_wait_for_two_days_of_every_hour(start, days, fitted):
    """Offsets are zero until each hour of the day was seen twice."""
    made = Calibration()
    rng = np.random.default_rng(3)
    for at in np.arange(start * 86_400, (start + days) * 86_400, 300.0):
        made.add(int(rng.integers(0, 101)), float(at))
    offsets = estimate_baseline(made).channels[0].offsets
    assert any(offsets) == fitted


def test_a_night_without_queries_leaves_the_offsets_at_zero():
    """With an hour of the day never seen nothing is extrapolated into it."""
    made = Calibration()
    rng = np.random.default_rng(3)
    for at in np.arange(0, 7 * 86_400, 300.0):
        if at % 86_400 > 4 * 3_600:
            made.add(int(rng.integers(0, 101)), float(at))
    assert not any(estimate_baseline(made).channels[0].offsets)


def test_bursts_inflate_kappa_by_what_theory_says():
    """The average kappa of 100 bursty calibrations is the theoretical one, of independent ones nearly 1.

    For an AR(1) part with variance share r and correlation phi, a batch of n has inflation 1 + r (g - 1) with
    g = (1 + phi)/(1 - phi) - 2 phi (1 - phi^n) / (n (1 - phi)^2). One estimate has a standard deviation of
    about kappa sqrt(2 / 40) = .35, the mean of 100 of .035; four of those is .14. Cutting at 1 lifts
    independent data by E max(0, N(0, .2)) = .08.
    """
    r, phi = 0.0009 / 0.1006, 0.98
    sizes = np.array([2, 3, 4, 6]) * 2_000 / 24
    g = (1 + phi) / (1 - phi) - 2 * phi * (1 - phi**sizes) / (sizes * (1 - phi) ** 2)
    theory = float(np.mean(1 + r * (g - 1)))
    means = [
        np.mean([baseline_of(a, 2_000).channels[0].kappa for a in Streams(base_law(), world, 100, 51).draw(14_000)])
        for world in (BURSTS, IID)
    ]
    assert means[0] == pytest.approx(theory, abs=0.14)
    assert 1.0 <= means[1] <= 1.08 + 0.14


def test_a_calibration_too_short_for_batches_has_kappa_one():
    """Below 8 batches of two hours nothing can be said about dependence."""
    made = Calibration()
    for i in range(1_000):
        made.add(100 if i < 500 else 0, i * 50.0)
    assert [channel.kappa for channel in estimate_baseline(made).channels] == [1.0, 1.0, 1.0]


def test_hours_never_promise_more_than_perfect_values_could_prove():
    """Near the ceiling a fitted wave cannot lift an hour's null to 1."""
    made = Calibration()
    for i in range(7 * 288):
        hour = i // 12 % 24
        made.add(100 if 6 <= hour < 18 or i % 3 else 40, i * 300.0)
    baseline = estimate_baseline(made)
    for channel in baseline.channels:
        assert any(channel.offsets)
        assert channel.lower + max(channel.offsets) < 1.0


def test_a_baseline_survives_json_exactly():
    """Stored and read back, every float is the same."""
    streams = Streams(base_law(), IID, 1, seed=6)
    baseline = baseline_of(streams.draw(5_000)[0], 2_000)
    assert Baseline.from_state(json.loads(json.dumps(baseline.to_state()))) == baseline


def test_a_baseline_state_of_the_wrong_shape_is_refused():
    """A state with a missing channel raises."""
    state = constant(70, 10).to_state()
    with pytest.raises(ValueError, match="shapes"):
        Baseline.from_state({**state, "channels": state["channels"][:2]})


def test_levels_of_the_laws_are_levels():
    """The bars' atoms are tenths on the level scale, and the law has the moments that the bars state."""
    law = base_law()
    assert LEVELS.tolist() == [10 * atom for atom in range(11)]
    assert mean_of(law) == pytest.approx(0.62)
    assert np.sqrt(law @ (ATOMS / 10) ** 2 - 0.62**2) == pytest.approx(0.317, abs=0.0005)
    assert law[10] == pytest.approx(0.277, abs=0.0005)
    assert law[:3].sum() == pytest.approx(0.158, abs=0.0005)
