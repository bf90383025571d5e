"""Minimal pairs: every number against its definition, the error of the AUC against resampling, and its error rate."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sidecar.drift.composition import ALL, PairScores, compare_pairs, shares_above, summarise

tenths = st.integers(-10, 10).map(lambda tenth: tenth / 10)
triples = st.lists(st.tuples(st.sampled_from(["negation", "role", "time"]), tenths, tenths), min_size=1, max_size=15)


def scores(rows):
    """Give the scores of (phenomenon, paraphrase, near-miss) rows."""
    return PairScores(*(tuple(column) for column in zip(*rows, strict=True)))


def of(paraphrase, near_miss, phenomenon="negation"):
    """Give the scores of triples of one phenomenon."""
    return PairScores((phenomenon,) * len(paraphrase), tuple(map(float, paraphrase)), tuple(map(float, near_miss)))


def half_ties(one, other):
    """Compare two numbers: 1 if the first is larger, half on a tie."""
    return (one > other) + 0.5 * (one == other)


def draw(rng, n, *, gap=0.0, noise=0.0):
    """Draw (paraphrase, near-miss) of n triples as two encoders see them, equally far from the truth.

    A triple's own level is in both of its cosines, `noise` is independent. Cosines on a grid of hundredths keep the
    sign-flip tests exact and quick.
    """
    level = rng.normal(0.0, 0.07, n)
    truth = np.array([level + rng.normal(0.75, 0.1, n), level + rng.normal(0.75 - gap, 0.1, n)])
    return [np.rint(100.0 * (truth + rng.normal(0.0, noise, truth.shape))) / 100.0 for _ in range(2)]


class TestSummary:
    """What one encoder does."""

    @settings(max_examples=150, deadline=None)
    @given(triples)
    def test_every_number_is_its_definition_ties_included(self, rows):
        """Accuracy compares within a triple, AUC every paraphrase with every near-miss; a tie counts half in both."""
        found = summarise(scores(rows))
        names = sorted({name for name, _, _ in rows})
        assert list(found) == [ALL, *names]
        for name in found:
            some = [(good, bad) for one, good, bad in rows if name in (ALL, one)]
            goods, bads = [good for good, _ in some], [bad for _, bad in some]
            summary = found[name]
            assert summary.n == len(some)
            assert summary.accuracy == pytest.approx(np.mean([half_ties(*one) for one in some]), abs=1e-12)
            assert summary.auc == pytest.approx(np.mean([half_ties(*one) for one in product(goods, bads)]), abs=1e-12)
            assert summary.margin == pytest.approx(np.mean(goods) - np.mean(bads), abs=1e-12)
            assert (summary.paraphrase, summary.near_miss) == (
                pytest.approx(np.mean(goods), abs=1e-12),
                pytest.approx(np.mean(bads), abs=1e-12),
            )

    @settings(max_examples=60, deadline=None)
    @given(triples, st.floats(0.1, 1.0))
    def test_no_common_curve_changes_the_auc(self, rows, factor):
        """The AUC is of the order alone: an encoder whose cosines are all shrunk, or all drawn towards 1, keeps it."""
        for curve in (lambda x: factor * x, lambda x: 1.0 - factor * (1.0 - x), lambda x: x**3):
            bent = scores([(name, curve(good), curve(bad)) for name, good, bad in rows])
            for change in compare_pairs(scores(rows), bent):
                assert change.auc == 0.0

    @settings(max_examples=60, deadline=None)
    @given(triples, st.lists(tenths, min_size=1, max_size=3))
    def test_a_share_counts_the_texts_at_or_above_the_threshold(self, rows, thresholds):
        """The first share is of the paraphrases, the second of the near-misses, for each threshold in turn."""
        for name, shares in shares_above(scores(rows), thresholds).items():
            some = [(good, bad) for one, good, bad in rows if name in (ALL, one)]
            expected = [tuple(np.mean([side >= limit for side in sides]) for sides in zip(*some, strict=True))
                        for limit in thresholds]  # fmt: skip
            assert list(shares) == [pytest.approx(one, abs=1e-12) for one in expected]

    def test_no_triples_have_no_numbers(self):
        """An empty set gives no summaries, shares or changes."""
        empty = PairScores((), (), ())
        assert (summarise(empty), shares_above(empty, [0.9]), compare_pairs(empty, empty)) == ({}, {}, ())

    def test_what_does_not_belong_together_is_refused(self):
        """Each triple has a phenomenon and two cosines, and only the same triples can be compared."""
        with pytest.raises(ValueError, match="two cosines for each triple"):
            PairScores(("negation",), (0.5, 0.6), (0.5,))
        with pytest.raises(ValueError, match="different sets"):
            compare_pairs(of([0.5], [0.5]), of([0.5], [0.5], "time"))


class TestChange:
    """What two encoders differ in."""

    @settings(max_examples=60, deadline=None)
    @given(triples)
    def test_no_change_is_exactly_zero(self, rows):
        """Equal cosines give effects and errors of exactly 0 and p-values of exactly 1."""
        for change in compare_pairs(scores(rows), scores(rows)):
            assert (change.moved, change.sensitivity, change.auc, change.auc_error) == (0, 0.0, 0.0, 0.0)
            assert (change.paraphrase, change.near_miss) == (0.0, 0.0)
            assert (change.p_rise, change.p_fall, change.told_apart.p_two_sided) == (1.0, 1.0, 1.0)

    def test_the_arithmetic_of_another_library_is_no_change(self):
        """Differences of 1e-5 are not counted as moved and have no sign; larger ones are."""
        change = compare_pairs(of([0.7, 0.8], [0.9, 0.9]), of([0.7 + 9e-6, 0.8], [0.9, 0.9 - 9e-6]))[0]
        assert (change.moved, change.sensitivity, change.p_rise, change.p_fall) == (0, 0.0, 1.0, 1.0)
        assert compare_pairs(of([0.7, 0.8], [0.9, 0.9]), of([0.7 + 2e-5, 0.8], [0.9, 0.9]))[0].moved == 1

    def test_pushing_near_misses_away_is_a_rise(self):
        """Ten near-misses .1 further away, paraphrases .02: .08, in the least likely of the 2^10 patterns of signs."""
        before, now = of([0.7] * 10, [0.9] * 10), of([0.68] * 10, [0.8] * 10)
        rise, fall = compare_pairs(before, now)[0], compare_pairs(now, before)[0]
        assert (rise.sensitivity, rise.near_miss, rise.paraphrase) == pytest.approx((0.08, -0.1, -0.02))
        assert (rise.p_rise, rise.p_fall) == pytest.approx((2.0**-10, 1.0))
        assert (fall.sensitivity, fall.p_fall, fall.p_rise) == pytest.approx((-0.08, 2.0**-10, 1.0))

    def test_a_common_factor_pushes_nothing_away(self):
        """All cosines a tenth lower take .09 from the near-miss and .07 from the paraphrase: nothing beyond scale."""
        change = compare_pairs(of([0.7] * 10, [0.9] * 10), of([0.63] * 10, [0.81] * 10))[0]
        assert change.sensitivity == pytest.approx(0.02)
        assert change.beyond_scale == pytest.approx(0.0, abs=1e-12)
        other = compare_pairs(of([0.0] * 2, [0.9] * 2), of([0.0] * 2, [0.8] * 2))[0]
        assert other.beyond_scale == other.sensitivity

    def test_each_phenomenon_is_as_if_it_were_alone(self):
        """The change of a phenomenon is that of its triples by themselves, and `all` comes first."""
        rng = np.random.default_rng(3)
        names = ["role", "negation", "role", "time", "negation"] * 4
        (good, bad), (good2, bad2) = draw(rng, len(names), noise=0.1)
        rows, rows2 = list(zip(names, good, bad, strict=True)), list(zip(names, good2, bad2, strict=True))
        whole, *found = compare_pairs(scores(rows), scores(rows2))
        assert (whole.phenomenon, whole.now.n) == (ALL, 20)
        assert [one.phenomenon for one in found] == ["negation", "role", "time"]
        for one in found:
            alone = [scores([row for row in some if row[0] == one.phenomenon]) for some in (rows, rows2)]
            assert compare_pairs(*alone)[1] == one

    def test_triples_told_apart_are_counted_both_ways(self):
        """Two orders are lost and one is gained; a tie is not told apart."""
        change = compare_pairs(of([0.9, 0.9, 0.5, 0.9], [0.5] * 4), of([0.4, 0.5, 0.6, 0.8], [0.5] * 4))[0]
        assert (change.told_apart.lost, change.told_apart.gained) == (2, 1)


class TestErrorOfTheAuc:
    """The standard error of the change of the AUC, with both cosines of a triple and both encoders dependent."""

    @pytest.mark.parametrize("gap", [0.0, -0.1, 0.3], ids=["no gap", "near-misses nearer", "well apart"])
    def test_it_is_that_of_resampled_triples(self, gap):
        """The standard deviation over 1,500 resamples of the triples is met within 8 %.

        It has a standard error of 1 / sqrt(2 x 1,500) = 1.8 % itself, of which three are allowed; the rest is for the
        terms of order 1 / 110 that the formula leaves out.
        """
        rng = np.random.default_rng(11)
        (good, bad), (good2, bad2) = draw(rng, 110, gap=gap, noise=0.08)
        error = compare_pairs(of(good, bad), of(good2, bad2))[0].auc_error

        def auc(good, bad):
            return half_ties(good[:, None], bad[None, :]).mean()

        picks = rng.integers(0, 110, size=(1_500, 110))
        resampled = [auc(good2[pick], bad2[pick]) - auc(good[pick], bad[pick]) for pick in picks]
        assert error == pytest.approx(np.std(resampled), rel=0.08)

    @pytest.mark.slow
    @pytest.mark.parametrize("gap", [0.0, -0.3], ids=["no gap", "AUC near 0"])
    def test_noise_is_rarely_taken_for_a_change(self, gap):
        """Two encoders that are equally far from the truth differ at 5 % two-sided in no more than 5 % of 600 sets.

        The count is at most the 99.9 % quantile of Binomial(600, .05). At an AUC near 0, where MiniLM is, the test is
        conservative, so the lower bound holds for the first case only.
        """
        rng = np.random.default_rng(7)
        limit, rejected = stats.t.isf(0.025, 59), 0
        for _ in range(600):
            change = compare_pairs(*(of(*encoder) for encoder in draw(rng, 60, gap=gap, noise=0.08)))[0]
            rejected += abs(change.auc) > limit * change.auc_error
        assert rejected <= stats.binom.ppf(0.999, 600, 0.05)
        if gap == 0.0:
            assert rejected >= stats.binom.ppf(0.001, 600, 0.05)
