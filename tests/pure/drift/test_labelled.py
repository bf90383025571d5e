"""Labelled queries: each score by its measure, each difference exact, and what `detectable` is worth."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass, replace
from math import inf, isnan, nextafter, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sidecar import overlap
from sidecar.drift.labelled import ALL, DEPTH, LEADING, MEASURES, RetrievalScores, compare_labelled, means, scale, score
from sidecar.drift.paired import ranking_hash, sign_flip
from sidecar.model import Ranking
from sidecar.relevance import ndcg, recall, reciprocal_rank, success

QUERIES = (("q1", "law"), ("q2", "pets"), ("q3", "law"))
JUDGEMENTS = {"q1": {"d1": 2.0, "d7": 1.0}, "q2": {"d3": 1.0}, "q3": {"d0": 1.0, "d9": 1.0, "d5": 0.0}}
DOCUMENTS = [f"d{i}" for i in range(120)]

rankings = st.lists(
    st.permutations(DOCUMENTS[:14]).map(lambda ids: Ranking(tuple(ids), tuple(0.9 - 0.01 * i for i in range(14)))),
    min_size=3,
    max_size=3,
)


def retriever(values, *, domains=None, rankings=None):
    """Give the scores of a retriever whose nDCG@10 are these; its rankings differ where they do."""
    n = len(values)
    return RetrievalScores(
        queries=tuple(f"q{i}" for i in range(n)),
        domains=tuple(domains or ["law"] * n),
        rankings=tuple(rankings or [(f"best at {one}",) for one in values]),
        values={LEADING: tuple(map(float, values))},
        top=(None,) * n,
        gap=(None,) * n,
    )


def differing(differences):
    """Compare two retrievers that differ by these, and give the change of the leading measure over all."""
    return compare_labelled(retriever(np.full(len(differences), 0.5)), retriever(0.5 + differences))[0].leading


class TestScores:
    """What one retriever scores."""

    @settings(max_examples=60, deadline=None)
    @given(rankings)
    def test_each_query_gets_the_five_measures_of_its_own_ranking(self, found):
        """The values are those of `relevance`, in the set's order, and the means of a domain those of its queries."""
        scores = score(QUERIES, found, JUDGEMENTS)
        pairs = [(ranking.ids, JUDGEMENTS[query]) for (query, _), ranking in zip(QUERIES, found, strict=True)]
        assert scores.values == {
            "ndcg@10": tuple(ndcg(*pair, 10) for pair in pairs),
            "mrr@10": tuple(reciprocal_rank(*pair, 10) for pair in pairs),
            "acc@1": tuple(success(*pair, 1) for pair in pairs),
            "recall@10": tuple(recall(*pair, 10) for pair in pairs),
            "recall@100": tuple(recall(*pair, 100) for pair in pairs),
        }
        averages = means(scores)
        assert list(averages) == [ALL, "law", "pets"]
        for measure, values in scores.values.items():
            assert averages[ALL][measure] == pytest.approx(np.mean(values))
            assert averages["law"][measure] == pytest.approx((values[0] + values[2]) / 2)
            assert averages["pets"][measure] == values[1]

    def test_the_deepest_measure_sees_as_far_as_is_asked_for(self):
        """A document at rank 100 counts for recall@100 and one at rank 101 for nothing."""
        queries, judged = [("q1", "law")], {"q1": {"d99": 1.0, "d100": 1.0}}
        scores = score(queries, [Ranking(tuple(DOCUMENTS))], judged)
        assert {name: value[0] for name, value in scores.values.items() if value[0]} == {f"recall@{DEPTH}": 0.5}

    def test_the_first_ten_ids_are_kept_and_hashed(self):
        """What lies below the tenth place changes neither the kept ranking nor its digest."""
        long, short = (score(QUERIES[:1], [Ranking(tuple(DOCUMENTS[:n]))], JUDGEMENTS) for n in (100, 10))
        assert long.rankings == short.rankings == (tuple(DOCUMENTS[:10]),)
        assert long.hashes == short.hashes == (ranking_hash(DOCUMENTS[:10]),)

    def test_the_scale_is_of_the_best_score_and_its_distance_to_the_tenth(self):
        """With fewer than ten the last one counts, without scores or documents the query has no part in it."""
        found = [
            Ranking(tuple(DOCUMENTS[:12]), tuple(0.9 - 0.05 * i for i in range(12))),
            Ranking(("d1", "d2"), (0.5, 0.4)),
            Ranking(("d1", "d2")),
        ]
        scores = score(QUERIES, found, JUDGEMENTS)
        assert scores.top == (0.9, 0.5, None)
        assert scores.gap == (pytest.approx(0.45), pytest.approx(0.1), None)
        assert scale(scores).top == pytest.approx(np.quantile([0.5, 0.9], [0.1, 0.5, 0.9]))
        assert scale(scores).gap == pytest.approx(np.quantile([0.1, 0.45], [0.1, 0.5, 0.9]))
        nothing = scale(score(QUERIES[:1], [Ranking(())], JUDGEMENTS))
        assert (nothing.top, nothing.gap) == (None, None)

    def test_a_query_without_a_relevant_judgement_is_refused(self):
        """Its score would be no number; leaving it out is the reader's business."""
        for judged in ({}, {"q1": {}}, {"q1": {"d1": 0.0}}):
            with pytest.raises(ValueError, match="no relevant judgement"):
                score(QUERIES[:1], [Ranking(("d1",))], judged)


class TestChanges:
    """What two retrievers differ in."""

    @settings(max_examples=60, deadline=None)
    @given(rankings)
    def test_no_change_is_exactly_zero(self, found):
        """Every measure of every domain: effect 0, nothing moved, p = 1 both ways, and no interval of zero width."""
        scores = score(QUERIES, found, JUDGEMENTS)
        for domain in compare_labelled(scores, scores):
            assert (domain.moved, domain.overlap) == (0, 1.0)
            assert set(domain.measures) == set(MEASURES)
            for one in domain.measures.values():
                assert (one.effect, one.moved, one.spread, one.lower, one.upper) == (0.0, 0, 0.0, None, None)
                assert (one.p, one.rise.p, one.now) == (1.0, 1.0, one.before)

    @settings(max_examples=60, deadline=None)
    @given(rankings, rankings)
    def test_a_change_is_the_paired_difference_of_its_queries(self, found, later):
        """Effect, spread, interval, overlap and the number of moved rankings are those of the domain's queries."""
        before, now = score(QUERIES, found, JUDGEMENTS), score(QUERIES, later, JUDGEMENTS)
        agreement = overlap.compare(before.rankings, now.rankings, k=10).overlap
        rows = {ALL: [0, 1, 2], "law": [0, 2], "pets": [1]}
        changes = compare_labelled(before, now)
        assert [one.domain for one in changes] == list(rows)
        for one in changes:
            mine = rows[one.domain]
            assert one.n == len(mine)
            assert one.overlap == pytest.approx(agreement[mine].mean())
            assert one.moved == sum(before.rankings[i] != now.rankings[i] for i in mine)
            assert one.leading is one.measures[LEADING]
            for name, change in one.measures.items():
                d = np.array([now.values[name][i] - before.values[name][i] for i in mine])
                assert change.effect == pytest.approx(d.mean(), abs=1e-12)
                assert change.moved == np.count_nonzero(np.abs(d) > 1e-9)
                assert change.spread == pytest.approx(d.std(ddof=1) if len(mine) > 1 else 0.0, abs=1e-12)
                if len(mine) > 1 and change.moved:
                    half = stats.t.isf(0.025, len(mine) - 1) * change.spread / sqrt(len(mine))
                    assert (change.lower, change.upper) == pytest.approx((d.mean() - half, d.mean() + half))

    def test_both_directions_are_tested(self):
        """Twelve queries that all fell: a fall in the least likely of 2^12 patterns of signs, and no rise at all."""
        fall = differing(np.full(12, -0.1))
        rise = differing(np.full(12, 0.1))
        assert (fall.p, fall.rise.p, rise.p, rise.rise.p) == pytest.approx((2.0**-12, 1.0, 1.0, 2.0**-12))
        assert (fall.relative, rise.relative) == pytest.approx((-0.2, 0.2))

    def test_a_rise_from_nothing_has_no_relative_size(self):
        """Relative to a mean of 0 a change is not a number."""
        assert isnan(compare_labelled(retriever([0.0, 0.0]), retriever([0.0, 0.5]))[0].leading.relative)

    def test_a_ranking_can_move_without_its_score(self):
        """Two documents that nobody judged change places: the ranking moved, the measure did not."""
        before = retriever([0.5, 0.5], rankings=[("a", "b"), ("c",)])
        (whole, _) = compare_labelled(before, retriever([0.5, 0.5], rankings=[("b", "a"), ("c",)]))
        assert (whole.moved, whole.leading.moved, whole.leading.effect) == (1, 0, 0.0)

    def test_rounding_is_no_change(self):
        """The next floating-point number is the same score."""
        assert differing(np.array([nextafter(0.5, inf) - 0.5, 0.0])).moved == 0

    def test_other_queries_are_refused(self):
        """Other ids or other domains are another set; without queries there is nothing to compare."""
        some = retriever([0.5, 0.5])
        for other in (retriever([0.5]), retriever([0.5, 0.5], domains=["law", "pets"])):
            with pytest.raises(ValueError, match="different sets"):
                compare_labelled(some, other)
        assert compare_labelled(retriever([]), retriever([])) == ()
        assert means(retriever([])) == {}

    def test_results_hold_plain_numbers(self):
        """No number is numpy's own: results are stored and shown by parts that know nothing of numpy."""

        def leaves(value):
            if is_dataclass(value):
                value = asdict(value)
            if isinstance(value, dict):
                value = list(value.values())
            return [leaf for one in value for leaf in leaves(one)] if isinstance(value, (list, tuple)) else [value]

        found = [Ranking(tuple(DOCUMENTS[i : i + 20]), tuple(np.linspace(0.9, 0.5, 20))) for i in range(3)]
        scores, later = score(QUERIES, found, JUDGEMENTS), score(QUERIES, found[::-1], JUDGEMENTS)
        for value in (scores, means(scores), scale(scores), compare_labelled(scores, later)):
            assert {type(leaf) for leaf in leaves(value)} <= {int, float, str, type(None)}


class TestDetectable:
    """The smallest fall that a test at level p is said to find with 80 % power."""

    @pytest.mark.parametrize(
        ("n", "share", "p"),
        [(62, 0.4, 0.05), (62, 0.4, 0.005), (62, 1.0, 0.005), (372, 0.4, 0.005), (372, 0.4, 0.001)],
    )
    def test_the_sign_flip_test_finds_it_about_as_often_as_it_says(self, n, share, p):
        """Of 1,000 sets whose mean falls by just as much, 80 % are found, give or take the normal approximation.

        `share` of the queries move, by amounts of overall spread .25. The flips know nothing of the fall, so theirs is
        larger, sqrt(1 + f^2) times for a fall of f spreads, and the power is Phi(f sqrt(n) - z_(1-p) sqrt(1 + f^2)) if
        all move: .73 at n = 62 and p = .005, near .8 for many queries. With 25 of 62 moved it is .85 to .88
        (measured). Three standard errors of a share over 1,000 sets are added on either side.
        """
        rng = np.random.default_rng(n)
        fall = replace(differing(np.array([0.1, -0.1])), n=n, spread=0.25).detectable(p)
        inner = sqrt((0.25**2 + fall**2) / share - (fall / share) ** 2)
        moved = rng.random((1_000, n)) < share
        d = np.rint(100.0 * np.where(moved, rng.normal(-fall / share, inner, moved.shape), 0.0)) / 100.0
        power = np.mean([sign_flip(one).p <= p for one in d])
        f = (stats.norm.isf(p) + stats.norm.isf(0.2)) / sqrt(n)
        assert fall == pytest.approx(0.25 * f)
        least = stats.norm.cdf(f * sqrt(n) - stats.norm.isf(p) * sqrt(1.0 + f**2))
        noise = 3.0 * sqrt(0.8 * 0.2 / 1_000)
        assert least - noise <= power <= 0.88 + noise

    def test_it_shrinks_with_the_root_of_the_queries(self):
        """Four times the queries of the same spread find half the fall; without a change there is no spread."""
        d = np.tile([0.1, -0.1], 20)
        assert differing(np.tile(d, 4)).detectable(0.005) == pytest.approx(differing(d).detectable(0.005) / 2, rel=0.02)
        assert differing(np.zeros(10)).detectable(0.005) == 0.0

    def test_too_few_moved_queries_prove_nothing_whatever_it_says(self):
        """Six moved queries of 62 can fall as far as they like: p is 2^-6 at best, above .005."""
        d = np.zeros(62)
        d[:6] = -0.5
        change = differing(d)
        assert -change.effect > change.detectable(0.05)
        assert change.p == 2.0**-6
