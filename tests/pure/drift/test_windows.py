"""The review's window tests: scipy's numbers, brute-force effect sizes, and the level they claim on tied data."""

from __future__ import annotations

from dataclasses import astuple
from itertools import combinations
from math import sqrt

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from sidecar.drift.windows import MAX_LYAPUNOV, MIN_EXPECTED, _lyapunov, _merged, _permuted, compare
from tests.pure.drift.streams import BURSTS, Streams, base_law, baseline_of, frozen_law, mean_of, tilt

TESTS = ("mann_whitney", "welch", "chi_square", "kolmogorov_smirnov")
samples = st.lists(st.integers(0, 100), min_size=2, max_size=40)
seeds = st.integers(0, 2**32 - 1)


def counted(levels):
    """Histogram of levels."""
    return np.bincount(np.asarray(levels, dtype=np.int64), minlength=101)


def spread(atoms):
    """Histogram (..., 101) of counts per atom 0, .1 .. 1 (..., 11)."""
    made = np.zeros((*atoms.shape[:-1], 101), dtype=np.int64)
    made[..., ::10] = atoms
    return made


def expanded(histogram):
    """All values of a histogram."""
    return np.repeat(np.arange(101) / 100, histogram)


def p_values(befores, afters, *, kappas=None, draws=9_999):
    """P-values of many comparisons (runs, 4) in the order of `TESTS`."""
    rng = np.random.default_rng(5)
    kappas = np.ones(len(befores)) if kappas is None else kappas
    made = [compare(b, a, kappa=k, rng=rng, draws=draws) for b, a, k in zip(befores, afters, kappas, strict=True)]
    return np.array([astuple(one.p)[:4] for one in made])


def windows(seed):
    """Two windows of a random law each, large enough for the limit laws most of the time."""
    rng = np.random.default_rng(seed)
    atoms = rng.choice(101, size=rng.integers(2, 30), replace=False)
    law = rng.dirichlet(np.ones(atoms.size))
    other = 0.7 * law + 0.3 * rng.dirichlet(np.ones(atoms.size))
    made = np.zeros((2, 101), dtype=np.int64)
    for row, size, one in zip(made, rng.integers(200, 3_000, 2), (law, other), strict=True):
        row[atoms] = rng.multinomial(size, one)
    return made


@example([9, 9, 9], [0, 0])  # no spread, though its deviation is 2e-17 in floats
@given(samples, samples)
def test_effect_sizes_are_those_of_brute_force(before, after):
    """Means, shares, A12, Cliff's delta and Wasserstein from histograms agree with loops over all values."""
    made = compare(counted(before), counted(after), rng=np.random.default_rng(1), draws=1)
    b, a = np.array(before) / 100, np.array(after) / 100
    above, equal = (a[:, None] > b).mean(), (a[:, None] == b).mean()
    assert (made.n_before, made.n_after) == (b.size, a.size)
    assert (made.mean_before, made.mean_after) == pytest.approx((b.mean(), a.mean()))
    assert made.difference == pytest.approx(a.mean() - b.mean())
    assert made.sd_before == pytest.approx(b.std(ddof=1), abs=1e-12)
    assert made.a12 == pytest.approx(above + equal / 2)
    assert made.cliffs_delta == pytest.approx(above - (a[:, None] < b).mean(), abs=1e-12)
    assert made.wasserstein == pytest.approx(stats.wasserstein_distance(b, a), abs=1e-12)
    assert made.wasserstein >= abs(made.difference) - 1e-12
    assert (made.exact.before, made.exact.after) == ((b == 1).mean(), (a == 1).mean())
    assert made.collapsed.difference == pytest.approx((a <= 0.2).mean() - (b <= 0.2).mean())
    if b.mean() > 0:
        assert made.relative == pytest.approx(a.mean() / b.mean() - 1)
    if len(set(before)) > 1:
        assert made.wasserstein_in_sd == pytest.approx(made.wasserstein / b.std(ddof=1))
    else:
        assert made.wasserstein_in_sd is None


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_p_values_and_interval_are_those_of_scipy_on_the_expanded_samples(seed):
    """With kappa 1 each test gives scipy's number to 1e-9."""
    before, after = windows(seed)
    made = compare(before, after, rng=np.random.default_rng(1))
    assume(not made.p.permutation)
    b, a = expanded(before), expanded(after)
    welch = stats.ttest_ind(a, b, equal_var=False)
    seen = before + after > 0
    cells = _merged((before + after)[seen] / (b.size + a.size) * min(b.size, a.size))
    table = np.add.reduceat(np.stack([before, after])[:, seen], cells, axis=1)
    expected = (
        stats.mannwhitneyu(a, b, alternative="less", method="asymptotic").pvalue,
        welch.pvalue,
        stats.chi2_contingency(table, correction=False).pvalue,
        stats.ks_2samp(a, b, method="asymp").pvalue,
    )
    assert astuple(made.p)[:4] == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert astuple(made.interval) == pytest.approx(tuple(welch.confidence_interval()), rel=1e-9, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(seeds, st.floats(1.0, 6.0))
def test_kappa_acts_as_sizes_divided_by_it(seed, kappa):
    """Each p-value is that of the same shares in windows of n / kappa and m / kappa values."""
    before, after = windows(seed)
    plain = compare(before, after, rng=np.random.default_rng(1))
    made = compare(before, after, kappa=kappa, rng=np.random.default_rng(1))
    assume(not made.p.permutation)
    n, m = made.effective_before, made.effective_after
    assert (n, m) == (before.sum() / kappa, after.sum() / kappa)
    b, a = expanded(before), expanded(after)
    welch = stats.ttest_ind_from_stats(a.mean(), a.std(ddof=1), m, b.mean(), b.std(ddof=1), n, equal_var=False)
    assert made.p.welch == pytest.approx(welch.pvalue, rel=1e-9)
    if 1e-12 < plain.p.mann_whitney < 1 - 1e-9:
        z = stats.norm.isf(plain.p.mann_whitney)
        assert stats.norm.isf(made.p.mann_whitney) == pytest.approx(z / sqrt(kappa), abs=1e-6)
    distance = stats.ks_2samp(a, b, method="asymp").statistic
    assert made.p.kolmogorov_smirnov == pytest.approx(stats.kstwo.sf(distance, round(n * m / (n + m))), rel=1e-9)
    seen = before + after > 0
    cells = _merged((before + after)[seen] / (n + m) / kappa * min(n, m))
    table = np.add.reduceat(np.stack([before, after])[:, seen], cells, axis=1) / kappa
    expected = stats.chi2_contingency(table, correction=False)
    assert expected.expected_freq.min() >= MIN_EXPECTED - 1e-9
    assert made.p.chi_square == pytest.approx(expected.pvalue, rel=1e-9)


@given(st.lists(st.floats(1e-3, 40.0), min_size=1, max_size=60))
def test_merged_cells_are_neighbours_and_hold_enough(expected):
    """Cells begin at the lowest level, follow each other, and hold the minimum unless everything together does not."""
    begins = _merged(np.array(expected))
    assert begins[0] == 0
    assert (np.diff(begins) > 0).all()
    if sum(expected) >= MIN_EXPECTED:
        assert (np.add.reduceat(expected, begins) >= MIN_EXPECTED - 1e-9).all()
    else:
        assert begins.size == 1


def test_share_intervals_are_newcombes():
    """His example (Statistics in Medicine 17, 1998, table II a): 56/70 against 48/80 gives .0524 to .3339."""
    made = compare(counted([100] * 48 + [10] * 32), counted([100] * 56 + [10] * 14), rng=np.random.default_rng(1))
    assert astuple(made.exact.interval) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert astuple(made.collapsed.interval) == pytest.approx((-0.3339, -0.0524), abs=5e-5)
    doubled = compare(
        counted([100] * 96 + [10] * 64), counted([100] * 112 + [10] * 28), kappa=2.0, rng=np.random.default_rng(1)
    )
    assert astuple(doubled.exact.interval) == pytest.approx(astuple(made.exact.interval))


@settings(max_examples=100, deadline=None)
@given(samples, samples, st.floats(1.0, 3.0))
def test_every_number_is_in_its_range(before, after, kappa):
    """P-values are in (0, 1], intervals hold their estimates, for any pair of small windows."""
    made = compare(counted(before), counted(after), kappa=kappa, rng=np.random.default_rng(1), draws=19)
    if min(len(before), len(after)) < 2 * kappa:
        assert made is None
        return
    assert made.p.permutation
    assert all(0.0 < p <= 1.0 for p in astuple(made.p)[:4])
    for share in (made.exact, made.collapsed):
        assert -1.0 <= share.interval.lower <= share.difference + 1e-12
        assert share.difference - 1e-12 <= share.interval.upper <= 1.0
    if made.interval is not None:
        assert made.interval.lower <= made.difference <= made.interval.upper


def test_permutations_give_the_share_of_all_splits_that_are_as_extreme():
    """Against all 1,287 splits of 13 values: within 5 standard errors of 20,000 draws."""
    before, after = np.array([90, 70, 90, 100, 60, 100, 90, 80]), np.array([70, 60, 90, 20, 70])
    pooled = np.concatenate([before, after])
    splits = []
    for chosen in combinations(range(pooled.size), after.size):
        mask = np.zeros(pooled.size, dtype=bool)
        mask[list(chosen)] = True
        splits.append((pooled[~mask], pooled[mask]))

    def statistics(b, a):
        table = np.stack([counted(b), counted(a)])
        return (
            stats.mannwhitneyu(b, a, method="asymptotic").statistic,
            abs(b.mean() - a.mean()),
            stats.chi2_contingency(table[:, table.any(axis=0)], correction=False).statistic,
            np.abs(np.subtract(*np.cumsum(table / table.sum(axis=1, keepdims=True), axis=1))).max(),
        )

    seen = np.array(statistics(before, after))
    exact = np.mean([np.array(statistics(*split)) >= seen - 1e-9 for split in splits], axis=0)
    made = compare(counted(before), counted(after), rng=np.random.default_rng(2), draws=20_000)
    assert made.p.permutation
    assert np.abs(np.array(astuple(made.p)[:4]) - exact).max() <= 5 * sqrt(0.25 / 20_000)


@pytest.mark.parametrize("law", [base_law(), frozen_law()], ids=["base", "frozen"])
def test_limit_laws_and_permutations_agree_where_they_meet(law):
    """Just inside the rule, the rank sum's limit p-value is within .02 of its permutation p-value.

    The first Edgeworth term is at most g phi(0) / 6 = .0067 for g <= .1, and five standard errors of 40,000 draws are
    .0125. (Welch's t and the difference of means are different statistics: they need not agree window by window.)
    """
    rng = np.random.default_rng(3)
    atoms = np.arange(11) / 10
    size = next(
        size
        for size in range(50, 20_000, 50)
        if max(_lyapunov(s, law) for s in (atoms, np.cumsum(law) - law / 2)) / sqrt(size) <= 0.9 * MAX_LYAPUNOV
    )
    for before, after in zip(rng.multinomial(14_000, law, 12), rng.multinomial(size, law, 12), strict=True):
        made = compare(spread(before), spread(after), rng=rng)
        assert not made.p.permutation
        seen = before + after > 0
        dealt = _permuted(before[seen], after[seen], atoms[seen], kappa=1.0, rng=rng, draws=40_000)
        assert made.p.mann_whitney == pytest.approx(dealt.mann_whitney, abs=0.02)


def test_every_test_holds_its_level_on_tied_null_windows_and_is_not_idle():
    """Of 4,000 unchanged windows, 14,000 against 500 on 11 atoms, the share with p < .05 is in [.005, .09] (bar 17).

    A test of level .05 gives a share of .05 with standard error sqrt(.05 x .95 / 4,000) = .0034. With the .003 that
    the rule for limit laws leaves, and four standard errors, the share is in .05 +- .017 for the three tests that do
    not lose by ties. Kolmogorov-Smirnov does and is only bounded from above; the bar bounds all from below.
    """
    rng = np.random.default_rng(17)
    befores, afters = (spread(rng.multinomial(size, base_law(), 4_000)) for size in (14_000, 500))
    share = dict(zip(TESTS, (p_values(befores, afters) < 0.05).mean(axis=0), strict=True))
    assert all(0.005 <= one <= 0.09 for one in share.values()), share
    assert all(share[name] == pytest.approx(0.05, abs=0.017) for name in TESTS[:3]), share
    assert share["kolmogorov_smirnov"] <= 0.05 + 0.017


def test_the_cramer_von_mises_test_of_scipy_calls_unchanged_tied_windows_drift():
    """Why it is not offered: ten of ten unchanged windows get p < .05; at level .05 that has probability 1e-13."""
    rng = np.random.default_rng(18)
    for before, after in zip(*(spread(rng.multinomial(n, base_law(), 10)) for n in (14_000, 500)), strict=True):
        assert stats.cramervonmises_2samp(expanded(before), expanded(after)).pvalue < 0.05


@pytest.mark.parametrize(
    ("law", "sizes"), [(base_law(), (14_000, 40)), (base_law(), (30, 30)), (frozen_law(), (14_000, 200))]
)
def test_permutation_p_values_hold_their_level_where_limit_laws_would_not(law, sizes):
    """Of 600 small or sparse unchanged windows, at most the 1 - 1e-5 quantile of Binomial(600, .05) have p <= .05.

    A permutation test on 199 draws has p <= .05 with probability at most .05, ties or not.
    """
    rng = np.random.default_rng(19)
    befores, afters = (spread(rng.multinomial(size, law, 600)) for size in sizes)
    p = p_values(befores, afters, draws=199)
    assert all(compare(b, a, rng=rng, draws=1).p.permutation for b, a in zip(befores[:20], afters[:20], strict=True))
    assert ((p <= 0.05).sum(axis=0) <= stats.binom.isf(1e-5, 600, 0.05)).all()
    assert ((p <= 0.05).sum(axis=0) > 0).all()


@pytest.mark.slow
def test_on_bursts_kappa_keeps_the_level_and_without_it_it_is_lost():
    """Of 600 windows from AR(1) bursts no corrected test rejects more than Binomial(600, .06) allows, 1 - 1e-4.

    Bursts b with sd .03 and phi .98 add b^2 (1 + phi) / (1 - phi) to a variance of .1005, so the long-run kappa is 1.89
    and that of the mean of 500 queries 1.80 (its AR(1) sum is cut off). With the true kappa the level is therefore
    below .05. Estimated from 84 batches or fewer it has a relative standard deviation of at most sqrt(2 / 27) = .27
    (6 h batches; the average over lengths has less), and 2 Phi(-1.96 sqrt(1 + e)) has the mean .05 + .139 var(e) to
    second order: .060. Without the correction Welch's test rejects at 2 Phi(-1.96 / sqrt(1.80)) = .144, that is 86 of
    600, with a standard error of 9. The tests of location must not become idle: a kappa 20 % too large leaves a level
    of 2 Phi(-1.96 sqrt(1.2)) = .032. Chi-square may, because X^2 / kappa treats all directions like the worst.
    """
    atoms, estimated = [], []
    for seed in (31, 32):
        streams = Streams(base_law(), BURSTS, 300, seed)
        past, now = streams.draw(14_000), streams.draw(500)
        estimated += [max(channel.kappa for channel in baseline_of(row, 2_000).channels) for row in past]
        atoms += [[np.bincount(row, minlength=11) for row in pair] for pair in zip(past, now, strict=True)]
    befores, afters = spread(np.array(atoms)).swapaxes(0, 1)
    law = base_law()
    variance = law @ (np.arange(11) / 10) ** 2 - mean_of(law) ** 2
    true = 1 + BURSTS.bursts**2 * (1 + BURSTS.phi) / (1 - BURSTS.phi) / variance
    for kappas, level in ((np.full(600, true), 0.05), (estimated, 0.06)):
        rejected = (p_values(befores, afters, kappas=kappas) < 0.05).sum(axis=0)
        assert (rejected <= stats.binom.isf(1e-4, 600, level)).all(), rejected
        assert (rejected[:2] >= stats.binom.ppf(1e-4, 600, 0.032)).all(), rejected
    plain = (p_values(befores, afters) < 0.05).sum(axis=0)
    assert plain[TESTS.index("welch")] > stats.binom.isf(1e-4, 600, 0.06)


def test_a_fall_is_seen_and_a_rise_is_no_fall():
    """A 20 % fall of 2,000 queries has p < 1e-6 in all four tests; the same windows in reverse have no fall."""
    rng = np.random.default_rng(20)
    healthy = spread(rng.multinomial(14_000, base_law()))
    fallen = spread(rng.multinomial(2_000, tilt(base_law(), 0.2)))
    made = compare(healthy, fallen, kappa=1.9, rng=rng)
    assert all(getattr(made.p, name) < 1e-6 for name in TESTS)
    assert made.interval.lower < -0.2 * mean_of(base_law()) < made.interval.upper
    assert made.a12 < 0.5
    back = compare(fallen, healthy, kappa=1.9, rng=rng)
    assert back.p.mann_whitney > 1 - 1e-6
    assert back.p.welch < 1e-6


def test_identical_constant_windows_show_nothing():
    """All queries perfect in both windows: p is 1, no interval of the mean, and the shares' intervals are not empty."""
    made = compare(counted([100] * 14_000), counted([100] * 500), rng=np.random.default_rng(1), draws=99)
    assert astuple(made.p) == (1.0, 1.0, 1.0, 1.0, True)
    assert made.interval is None
    assert made.wasserstein_in_sd is None
    assert made.exact.interval.lower < -0.005
    assert made.exact.interval.upper >= 0.0


def test_two_different_constants_are_told_apart():
    """Without any spread inside the windows Welch has nothing to divide by; permutations still decide."""
    made = compare(counted([80] * 500), counted([50] * 500), rng=np.random.default_rng(1), draws=999)
    assert astuple(made.p) == (0.001, 0.001, 0.001, 0.001, True)
    assert made.interval is None


def test_a_baseline_of_zeros_has_no_relative_change():
    """There is nothing to relate a rise from zero to."""
    assert compare(counted([0] * 50), counted([0, 10] * 25), rng=np.random.default_rng(1), draws=9).relative is None


def test_the_same_seed_gives_the_same_comparison():
    """A review that is printed twice says the same."""
    before, after = counted([90, 100, 70] * 9), counted([80, 100, 60] * 7)
    first, second = (compare(before, after, rng=np.random.default_rng(7), draws=99) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("n", "m", "kappa"), [(0, 500, 1.0), (500, 1, 1.0), (500, 0, 2.0), (3, 500, 2.0)])
def test_fewer_than_two_effective_queries_are_not_enough(n, m, kappa):
    """Not enough data is a state."""
    assert compare(counted([50] * n), counted([50] * m), kappa=kappa, rng=np.random.default_rng(1)) is None


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"kappa": 0.9}, "at least 1"),
        ({"kappa": float("nan")}, "at least 1"),
        ({"alpha": 0.0}, "between 0 and 1"),
        ({"draws": 0}, "at least one"),
        ({"before": np.ones(100)}, "101 whole counts"),
        ({"after": -np.ones(101)}, "none negative"),
        ({"after": np.full(101, 0.5)}, "whole counts"),
        ({"after": np.full(101, np.nan)}, "whole counts"),
    ],
)
def test_arguments_that_cannot_be_are_refused(wrong, rule):
    """The message names the rule."""
    arguments = {"before": np.ones(101), "after": np.ones(101), "rng": np.random.default_rng(1)} | wrong
    with pytest.raises(ValueError, match=rule):
        compare(arguments.pop("before"), arguments.pop("after"), **arguments)
