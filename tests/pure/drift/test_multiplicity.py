"""Many rows at once: e-values that no null law can win, lists with bounded false marks, one budget for 60 detectors."""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import exp, factorial, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sidecar.drift.baseline import Baseline, ChannelBaseline, estimate_baseline
from sidecar.drift.calibration import Calibration
from sidecar.drift.channels import channel_values
from sidecar.drift.esr import CAP, advance, bets, log_factors
from sidecar.drift.multiplicity import (
    BlockEvidence,
    benjamini_hochberg,
    benjamini_yekutieli,
    block_evidence,
    e_bh,
)
from sidecar.drift.strata import shift_of, with_strata
from tests.pure.drift.streams import (
    DAY,
    IID,
    LEVELS,
    ORIGIN,
    WEEK,
    Environment,
    Streams,
    base_law,
    baseline_of,
    hours_of,
    stacked,
    thin,
)

ALL_LEVELS = np.arange(101)
levels = st.integers(0, 100)
calibrations = st.one_of(
    st.lists(levels, min_size=2, max_size=60),
    st.tuples(levels, st.integers(1, 3_000)).map(lambda pair: [pair[0]] + [100] * pair[1]),
)
spacings = st.sampled_from([60.0, 5 * 3_600.0])
probabilities = st.lists(st.floats(0, 1), min_size=0, max_size=40)
e_lists = st.lists(st.one_of(st.floats(0, 500), st.sampled_from([0.0, 1.0, 10.0, 20.0, 40.0, 1e12])), max_size=40)


def baseline_from(sequence, spacing=3_600.0):
    """Calibrate on levels at even spacing."""
    made = Calibration()
    for i, level in enumerate(sequence):
        made.add(level, ORIGIN + i * spacing)
    return estimate_baseline(made)


def block(pairs):
    """Counts (24, 101) of (hour, level) pairs."""
    counts = np.zeros((24, 101), dtype=np.int64)
    for hour, level in pairs:
        counts[hour, level] += 1
    return counts


def boundary_baseline(law):
    """Accepted state whose null is the truth itself: every bet is exactly fair."""
    values = channel_values(LEVELS)
    means = law @ values
    sds = np.sqrt(law @ values**2 - means**2)
    channels = tuple(
        ChannelBaseline(
            mean=float(m), sd=float(s), kappa=1.0, n=10**9, loss=1.0, offsets=(0.0,) * 24, lower=float(m), tolerance=0.0
        )
        for m, s in zip(means, sds, strict=True)
    )
    return Baseline(channels=channels, n=10**9, started_at=0.0, ended_at=1.0, histogram=(0,) * 101)


@settings(max_examples=60, deadline=None)
@given(calibrations, spacings, st.lists(st.tuples(st.integers(0, 23), levels), max_size=30))
def test_block_evidence_is_the_mean_over_bets_of_products_over_queries(sequence, spacing, pairs):
    """From the histogram comes what multiplying query by query gives, and no queries give 1."""
    wagers = bets(baseline_from(sequence, spacing))
    factors = np.ones(wagers.lam.shape)
    for hour, level in pairs:
        factors = factors * np.exp(log_factors(wagers, channel_values(level), hour))
    expected = (wagers.weights * factors).sum() if wagers.weights.any() else 1.0
    made = block_evidence(wagers, block(pairs))
    assert made.value == pytest.approx(min(expected, CAP), rel=1e-9)
    assert exp(made.log) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(
    calibrations,
    spacings,
    st.lists(st.tuples(levels, st.floats(0, 1)), min_size=1, max_size=3),
    st.lists(st.integers(0, 23), min_size=1, max_size=2, unique=True),
)
def test_no_law_above_the_null_can_win_block_evidence_on_average(sequence, spacing, masses, hours):
    """E[E] <= 1 exactly, over all blocks of 3 queries per hour, for random laws lifted just to the null.

    A law with too low a mean is mixed with perfect values until all channels reach their null in every hour used.
    """
    wagers = bets(baseline_from(sequence, spacing))
    law = np.bincount([level for level, _ in masses], weights=[mass + 1e-6 for _, mass in masses], minlength=101)
    law /= law.sum()
    means = law @ channel_values(ALL_LEVELS)
    short = (wagers.null[:, hours] - means[:, None]).max(axis=1)
    share = max(
        (gap / (1.0 - mean) for gap, mean in zip(short, means, strict=True) if gap > 0.0 and mean < 1.0), default=0.0
    )
    law *= 1.0 - share
    law[100] += share
    support = np.flatnonzero(law).tolist()
    queries = list(combinations_with_replacement(support, 3))
    orders = [factorial(3) // prod(factorial(drawn.count(level)) for level in set(drawn)) for drawn in queries]
    chances = [ways * prod(law[list(drawn)]) for ways, drawn in zip(orders, queries, strict=True)]
    blocks = [(1.0, [])]
    for hour in hours:
        blocks = [
            (p * q, [*pairs, *((hour, level) for level in drawn)])
            for p, pairs in blocks
            for q, drawn in zip(chances, queries, strict=True)
        ]
    total = sum(chance * exp(block_evidence(wagers, block(pairs)).log) for chance, pairs in blocks)
    assert sum(chance for chance, _ in blocks) == pytest.approx(1.0)
    assert total <= 1.0 + 1e-9


def test_at_the_boundary_of_the_null_block_evidence_is_exactly_fair():
    """With the null at the true means and no price of dependence the expectation is 1, not less."""
    law = base_law()
    wagers = bets(boundary_baseline(law))
    total = sum(
        law[i] * law[j] * exp(block_evidence(wagers, block([(3, LEVELS[i]), (17, LEVELS[j])])).log)
        for i in range(11)
        for j in range(11)
    )
    assert total == pytest.approx(1.0, abs=1e-12)


def test_parts_of_a_block_carry_the_offsets_of_their_strata():
    """Two strata at once give the product of queries against each stratum's own null."""
    easy, hard = Calibration(), Calibration()
    rng = np.random.default_rng(1)
    for i in range(4_000):
        (easy if i % 2 else hard).add(int(rng.integers(60, 101) - 40 * (1 - i % 2)), ORIGIN + 60.0 * i)
    whole = Calibration()
    whole.merge(easy)
    whole.merge(hard)
    baseline = with_strata(
        estimate_baseline(whole), {"easy": easy.table()[1].sum(axis=0), "hard": hard.table()[1].sum(axis=0)}
    )
    wagers = bets(baseline)
    shifts = np.stack([shift_of(baseline, "easy"), shift_of(baseline, "hard")])
    queries = [[(2, 80), (9, 40)], [(2, 20), (23, 55), (23, 55)]]
    logs = sum(
        log_factors(wagers, channel_values(level), hour, shift)
        for part, shift in zip(queries, shifts, strict=True)
        for hour, level in part
    )
    made = block_evidence(wagers, np.stack([block(part) for part in queries]), shifts)
    assert exp(made.log) == pytest.approx((wagers.weights * np.exp(logs)).sum(), rel=1e-12)
    assert made.log != pytest.approx(block_evidence(wagers, sum(block(part) for part in queries)).log)


def test_a_week_of_dead_queries_is_capped_and_its_logarithm_is_not():
    """14,000 zeros are worth e^thousands; the number stays finite, the logarithm is kept, and perfection is below 1."""
    wagers = bets(baseline_of(Streams(base_law(), IID, 1, 61).draw(14_000)[0], 2_000))
    dead = block_evidence(wagers, block([(hour, 0) for hour in range(24)] * 583))
    assert dead.value == pytest.approx(CAP)
    assert dead.log > 5_000
    perfect = block_evidence(wagers, block([(hour, 100) for hour in range(24)] * 583))
    assert 0.0 <= perfect.value < 1e-6
    assert np.isfinite(perfect.log)


def test_where_nothing_can_fall_there_is_no_evidence():
    """A baseline of zeros has no stakes, and its e-value is the constant 1."""
    assert block_evidence(bets(baseline_from([0] * 500)), block([(4, 0)] * 50)) == BlockEvidence(0.0)


def test_a_week_with_a_fall_is_marked_and_a_week_without_is_not():
    """Of ten slices with 1,400 queries the three that lose 20 % of their neighbours are listed at 10 %, no other.

    A healthy slice's e-value exceeds 10 / (4 x .1) = 25 with probability at most 1 / 25 + 3 x .01 (its three channels'
    baselines may each be wrong with probability alpha0); the seed is fixed.
    """
    rows = []
    for i in range(10):
        past = Streams(base_law(), IID, 1, 900 + i).draw(14_000)[0]
        law = thin(base_law(), 0.2) if i in {2, 5, 6} else base_law()
        now = LEVELS[Streams(law, IID, 1, 950 + i).draw(1_400)[0]]
        hours = hours_of(0, 1_400, 200) % 24
        rows.append(block_evidence(bets(baseline_of(past, 2_000)), block(zip(hours, now, strict=True))).value)
    assert np.flatnonzero(e_bh(rows, 0.1)).tolist() == [2, 5, 6]


@given(e_lists, st.floats(0.01, 0.99))
def test_e_bh_reports_the_largest_rows_that_pass_together(e_values, q):
    """The reported rows are the k largest with the k-th at least J / (k q), and no larger k passes."""
    marked = e_bh(e_values, q)
    ranked = sorted(e_values, reverse=True)
    passing = [k for k in range(1, len(ranked) + 1) if ranked[k - 1] >= len(ranked) / (q * k)]
    assert marked.sum() == max(passing, default=0)
    assert sorted(np.array(e_values)[marked], reverse=True) == ranked[: int(marked.sum())]


@given(e_lists, st.floats(0.01, 0.99))
def test_e_bh_is_benjamini_hochberg_on_reciprocals(e_values, q):
    """With 1/E as the p-value, which is valid (Markov), BH reports the rows that e-BH does, but for rounding."""
    p = [1.0 / max(e, 1.0) for e in e_values]
    marked = e_bh(e_values, q)
    assert (marked <= (benjamini_hochberg(p) <= q * (1 + 1e-9))).all()
    assert (marked >= (benjamini_hochberg(p) <= q * (1 - 1e-9))).all()


@given(probabilities)
def test_adjusted_p_values_are_those_of_scipy(p):
    """Benjamini-Hochberg and Benjamini-Yekutieli agree with `scipy.stats.false_discovery_control`."""
    if p:
        assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p, method="bh"), abs=1e-12)
        assert benjamini_yekutieli(p) == pytest.approx(stats.false_discovery_control(p, method="by"), abs=1e-12)
    else:
        assert benjamini_hochberg(p).size == benjamini_yekutieli(p).size == e_bh(p, 0.1).size == 0


def within_binomial(q, runs):
    """Largest mean false discovery proportion that a rate of q explains: its variance is at most q (1 - q)."""
    return q + 4 * np.sqrt(q * (1 - q) / runs)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.99])
def test_the_false_discovery_rate_of_e_bh_is_bounded_however_the_rows_depend(correlation):
    """Likelihood ratios exp(2 z - 2) of equicorrelated normals, 10 of 40 rows changed: mean share of false marks <= q.

    Over 4,000 weeks the mean of proportions in [0, 1] with expectation at most q = .1 stays below .1 + 4 standard
    errors = .119. A changed row, z ~ N(4, 1), passes even alone (E >= 40 / .1, z >= 4.0) with probability .502, so at
    least half of them are found: the list is not empty by design.
    """
    rng = np.random.default_rng(40)
    false, found = [], []
    for _ in range(4_000):
        z = np.sqrt(correlation) * rng.standard_normal() + np.sqrt(1 - correlation) * rng.standard_normal(40)
        z[:10] += 4.0
        marked = e_bh(np.exp(2 * z - 2), 0.1)
        false.append(marked[10:].sum() / max(1, marked.sum()))
        found.append(marked[:10].mean())
    assert np.mean(false) <= within_binomial(0.1, 4_000)
    assert np.mean(found) >= 0.5


def test_the_worst_dependence_attains_the_rate_and_does_not_pass_it():
    """All J rows null; with probability q a random k of them get J / (k q) together: E = 1 each, and the rate is q.

    The share of weeks with a (false) list is then Binomial(4,000, .1); 4 standard errors are .019 to both sides.
    """
    rng = np.random.default_rng(41)
    rows, q, runs = 40, 0.1, 4_000
    listed = 0
    for _ in range(runs):
        e_values = np.zeros(rows)
        if rng.random() < q:
            k = int(rng.integers(1, rows + 1))
            e_values[rng.choice(rows, k, replace=False)] = rows / (k * q)
        listed += bool(e_bh(e_values, q).any())
    assert listed / runs == pytest.approx(q, abs=within_binomial(q, runs) - q)


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: e_bh([-1.0], 0.1), "e-values must"),
        (lambda: e_bh([float("nan")], 0.1), "e-values must"),
        (lambda: e_bh([1.0], 1.0), "between 0 and 1"),
        (lambda: benjamini_hochberg([1.5]), "p-values must"),
        (lambda: benjamini_yekutieli([[0.5]]), "p-values must"),
        (lambda: block_evidence(bets(baseline_from([50, 60])), np.zeros((24, 100))), "counts must"),
        (lambda: block_evidence(bets(baseline_from([50, 60])), -np.ones((24, 101))), "counts must"),
    ],
)
def test_arguments_that_cannot_be_are_refused(call, rule):
    """The message names the rule."""
    with pytest.raises(ValueError, match=rule):
        call()


METRICS, SLICES = 6, 10
DETECTORS = METRICS * SLICES
SLICE_PER_DAY = 200


def atoms_of_detectors(runs, seed):
    """Streams of 6 metrics x 10 slices per run, and what draws (runs x 60, size) atoms from them.

    The metrics of a query resemble each other: each is the slice's common value with probability one half, else its
    own, so every detector has the marginal law, and six detectors of a slice depend on each other.
    """
    world = Environment(per_day=SLICE_PER_DAY)
    common = Streams(base_law(), world, runs * SLICES, seed)
    own = Streams(base_law(), world, runs * DETECTORS, seed + 1)
    rng = np.random.default_rng(seed + 2)

    def draw(size):
        shared = np.repeat(common.draw(size), METRICS, axis=0)
        return np.where(rng.random(shared.shape) < 0.5, shared, own.draw(size))

    return draw


def highest_evidence(draw, wagers, runs, limit, first=0):
    """Largest evidence in weeks that was seen: of any one detector (runs,) and of the 60 pooled (runs,).

    `wagers` has one detector for all or one per stream; all values are taken in by `advance`, as in `first_pages`.
    """
    values = channel_values(LEVELS)
    own = wagers.lam.ndim == 3
    width = wagers.lam.shape[-2] * wagers.lam.shape[-1]
    factors = np.stack([[np.exp(log_factors(wagers, value, hour)) for value in values] for hour in range(24)])
    flat = np.ascontiguousarray(factors.reshape(-1, width))
    weights = np.broadcast_to(wagers.weights.reshape(-1, width), (runs * DETECTORS, width))
    stride, column = (runs * DETECTORS, np.arange(runs * DETECTORS)) if own else (1, 0)
    gamma = DAY / SLICE_PER_DAY / WEEK
    sr = np.zeros((runs * DETECTORS, width))
    single, pooled = np.zeros(runs), np.zeros(runs)
    for start in range(0, limit, 500):
        size = min(500, limit - start)
        hours = hours_of(first + start, size, SLICE_PER_DAY) % 24
        rows = (hours[:, None] * 11 + draw(size).T) * stride + column
        for i in range(size):
            sr = advance(sr, gamma if start + i else 0.0, flat[rows[i]])
            weeks = np.einsum("sk,sk->s", sr, weights).reshape(runs, DETECTORS)
            np.maximum(single, weeks.max(axis=1), out=single)
            np.maximum(pooled, weeks.mean(axis=1), out=pooled)
    return single, pooled


def test_one_budget_for_60_detectors_keeps_the_promise_of_one():
    """Pooled or Bonferroni, P(any page) <= T / A for 60 detectors together; each with a budget of its own, it is lost.

    On the boundary of the null evidence less elapsed time is a supermartingale, whatever the dependence, so evidence
    pooled with weights 1/60 reaches A before T with probability at most T / A = 1/3, and so does any single one at
    60 A. Of 120 runs at most the 1 - 1e-4 quantile of Binomial(120, 1/3) may page. Sixty budgets of A allow 20 pages
    per run.
    """
    runs, limit = 120, 300
    streams = Streams(base_law(), IID, 1, 0)
    law = np.bincount(streams._table, minlength=11) / streams._table.size
    threshold = 3 * limit * DAY / SLICE_PER_DAY / WEEK
    single, pooled = highest_evidence(atoms_of_detectors(runs, 130), bets(boundary_baseline(law)), runs, limit)
    bound = stats.binom.isf(1e-4, runs, 1 / 3)
    assert (pooled >= threshold).sum() <= bound
    assert (single >= threshold * DETECTORS).sum() <= bound
    assert (single >= threshold).sum() > bound


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_60_detectors_rarely_page_in_26_null_weeks():
    """Of 150 runs x 26 weeks at 2,000 queries a day in ten slices, at most a share of .20 pages (bar 13).

    Each detector has its own baseline of 14,000 queries. The promise is an expected number of pages of at most 1 per
    run; the bar is the study's. A budget of 26 weeks for each detector would page in more than half of the runs.
    """
    runs = 150
    singles, pools = [], []
    # Ten runs at a time: the factors of 600 detectors stay in the processor's cache.
    for part in range(runs // 10):
        draw = atoms_of_detectors(10, 1_300 + 10 * part)
        detectors = stacked([baseline_of(atoms, SLICE_PER_DAY) for atoms in draw(14_000)])
        single, pooled = highest_evidence(draw, detectors, 10, 26 * 7 * SLICE_PER_DAY, first=14_000)
        singles.append(single)
        pools.append(pooled)
    single, pooled = np.concatenate(singles), np.concatenate(pools)
    assert (pooled >= 26).mean() <= 0.20
    assert (single >= 26 * DETECTORS).mean() <= 0.20
    assert (single >= 26).mean() > 0.5
