"""The split of a live change into mix, rate and new strata."""

from __future__ import annotations

from dataclasses import astuple
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.confidence import Moments
from sidecar.drift.mix import split

SHARES = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
LEVELS = np.array([0.8, 0.7, 0.6, 0.5, 0.3])
SPREAD = 0.1


def moments(values):
    """Give the moments of one stratum's values."""
    values = np.asarray(values, dtype=float)
    return Moments(len(values), float(values.sum()), float((values**2).sum()))


def window(rng, n, shares, levels):
    """Draw a window of n queries."""
    strata = rng.choice(len(shares), n, p=shares)
    values = np.clip(levels[strata] + rng.normal(0.0, SPREAD, n), 0.0, 1.0)
    return {str(z): moments(values[strata == z]) for z in range(len(shares))}


windows = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(st.integers(0, 10).map(lambda x: x / 10), max_size=20).map(moments), max_size=6
)


@given(windows, windows)
def test_the_parts_add_up_to_the_change(before, after):
    """Mix, rate and new part are the change exactly, whatever strata come, go or are empty."""
    parts = split(before, after)
    old, recent = sum(before.values(), Moments()), sum(after.values(), Moments())
    if not old.n or not recent.n:
        assert parts is None
        return
    assert parts.before + parts.change == pytest.approx(recent.mean, abs=1e-12)
    assert parts.mix + parts.rate + parts.new == pytest.approx(parts.change, abs=1e-12)
    assert min(parts.change_se, parts.mix_se, parts.rate_se, parts.new_se, parts.distance_expected) >= 0.0
    assert 0.0 <= parts.distance <= 1.0 + 1e-12
    assert 0.0 <= parts.new_share <= 1.0 + 1e-12
    assert np.isfinite(astuple(parts)).all()


def test_only_the_shares_moved():
    """When each stratum answers as before, the whole change is the mix part."""
    parts = split(
        {"easy": moments([0.9, 0.7] * 30), "hard": moments([0.5, 0.3] * 10)},
        {"easy": moments([0.9, 0.7] * 10), "hard": moments([0.5, 0.3] * 30)},
    )
    assert parts.mix == pytest.approx(-0.2)
    assert parts.rate == pytest.approx(0.0, abs=1e-12)
    assert parts.distance == pytest.approx(0.5)


def test_only_the_answers_moved():
    """When the shares stay, the whole change is the rate part and the mix has not moved at all."""
    parts = split(
        {"easy": moments([0.8] * 30), "hard": moments([0.4] * 10)},
        {"easy": moments([0.6] * 60), "hard": moments([0.4] * 20)},
    )
    assert parts.rate == pytest.approx(-0.15)
    assert parts.mix == pytest.approx(0.0, abs=1e-12)
    assert parts.distance == pytest.approx(0.0, abs=1e-12)


def test_a_stratum_without_a_baseline_is_apart():
    """Queries of a stratum that the baseline never saw are neither mix nor rate, and their share is told."""
    parts = split({"known": moments([0.8] * 40)}, {"known": moments([0.8] * 30), "unseen": moments([0.4] * 10)})
    assert (parts.mix, parts.rate) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.0, abs=1e-12))
    assert parts.new == pytest.approx(-0.1)
    assert parts.new_share == pytest.approx(0.25)
    assert parts.strata == 1


def test_a_stratum_that_vanished_is_mix():
    """Queries that no longer come change the mix and nothing else."""
    parts = split({"a": moments([0.8] * 30), "b": moments([0.4] * 10)}, {"a": moments([0.8] * 50)})
    assert parts.mix == pytest.approx(0.1)
    assert (parts.rate, parts.new) == (pytest.approx(0.0, abs=1e-12), 0.0)


@pytest.mark.parametrize(
    ("shares", "levels"),
    [
        pytest.param(SHARES, LEVELS, id="nothing moved"),
        pytest.param(SHARES[::-1], LEVELS, id="the mix moved"),
        pytest.param(SHARES, LEVELS - 0.1, id="the rate moved"),
    ],
)
def test_standard_errors_are_those_of_repetition(shares, levels):
    """Over 1,000 repetitions, part less truth divided by its standard error has mean 0 and variance 1.

    Bounds: a mean of 1,000 has standard error .032, a variance sqrt(2/1000) = .045; four of each, plus .05 for values
    cut at 0 and 1 (up to 2.3 % of them are) and for the pseudo-observation.
    """
    rng = np.random.default_rng(7)
    reference = np.random.default_rng(8)
    means = [np.clip(level + reference.normal(0.0, SPREAD, 200_000), 0.0, 1.0).mean() for level in LEVELS]
    now = [np.clip(level + reference.normal(0.0, SPREAD, 200_000), 0.0, 1.0).mean() for level in levels]
    mix = float((shares - SHARES) @ np.array(means))
    rate = float(shares @ (np.array(now) - np.array(means)))
    scores = []
    for _ in range(1_000):
        parts = split(window(rng, 800, SHARES, LEVELS), window(rng, 500, shares, levels))
        scores.append(
            (
                (parts.mix - mix) / parts.mix_se,
                (parts.rate - rate) / parts.rate_se,
                (parts.change - mix - rate) / parts.change_se,
            )
        )
    scores = np.array(scores)
    assert np.abs(scores.mean(axis=0)).max() <= 4 * 0.032 + 0.05
    assert np.abs(scores.var(axis=0) - 1.0).max() <= 4 * 0.045 + 0.05


def test_the_expected_distance_is_that_of_unchanged_traffic():
    """Small windows of the same traffic differ by the expected distance, far from 0.

    Of 500 repetitions with a relative spread of about .35 the mean has a standard error of .016; four of them.
    """
    rng = np.random.default_rng(9)
    splits = [split(window(rng, 400, SHARES, LEVELS), window(rng, 100, SHARES, LEVELS)) for _ in range(500)]
    seen = np.mean([parts.distance for parts in splits])
    expected = np.mean([parts.distance_expected for parts in splits])
    assert expected > 0.05
    assert seen == pytest.approx(expected, rel=0.064)


def test_inflation_widens_what_depends_on_queries():
    """Dependent queries weigh as inflation times fewer independent ones."""
    rng = np.random.default_rng(10)
    before, after = window(rng, 400, SHARES, LEVELS), window(rng, 300, SHARES, LEVELS)
    plain, wide = split(before, after), split(before, after, inflation=4.0)
    assert (plain.mix, plain.rate, plain.distance) == (wide.mix, wide.rate, wide.distance)
    for name in ("change_se", "mix_se", "rate_se", "distance_expected"):
        assert getattr(wide, name) == pytest.approx(2.0 * getattr(plain, name))


def test_a_single_query_has_an_error():
    """One query of a stratum says little about it: its error is that of a query of the typical stratum."""
    rng = np.random.default_rng(11)
    before = window(rng, 1_000, SHARES, LEVELS)
    parts = split(before, {"0": moments([0.1])})
    assert parts.rate_se == pytest.approx(SPREAD * sqrt(1.0 + 1.0 / before["0"].n), rel=0.1)


@pytest.mark.parametrize("inflation", [0.5, float("nan")])
def test_an_inflation_below_one_is_refused(inflation):
    """No dependence makes a mean more certain than independence does, as far as we rely on it."""
    with pytest.raises(ValueError, match="at least 1"):
        split({"a": moments([1.0])}, {"a": moments([1.0])}, inflation=inflation)
