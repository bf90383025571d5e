"""Scores of one ranking against judgements: worked examples and what must hold for any input."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sidecar.relevance import ndcg, recall, reciprocal_rank, success

MEASURES = (ndcg, recall, reciprocal_rank, success)
by_name = pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.__name__)

ids = st.sampled_from([f"doc-{number}" for number in range(12)])
rankings = st.lists(ids, max_size=16)
judgements = st.dictionaries(ids, st.sampled_from([-1, 0, 0.5, 1, 2, 3]), max_size=8)
depths = st.integers(1, 14)


def relevant(judged):
    """Select the documents with a grade above 0."""
    return {name for name, grade in judged.items() if grade > 0}


class TestWorkedExamples:
    """Small cases whose arithmetic is in their docstrings."""

    def test_ndcg_with_grades(self):
        """Grades 3, 0, 2 at ranks 1 to 3 with judged grades 3, 2, 1, cut at 3.

        DCG = 3/log2(2) + 2/log2(4) = 3 + 1 = 4. Ideal = 3 + 2/log2(3) + 1/log2(4) = 3.5 + 2/log2(3).
        """
        found = ndcg(["a", "x", "b"], {"a": 3, "b": 2, "c": 1}, k=3)
        assert found == pytest.approx(4 / (3.5 + 2 / math.log2(3)), rel=1e-15)

    def test_ndcg_of_one_relevant_document_at_rank_three_is_a_half(self):
        """1/log2(3 + 1) = 1/2 against 1/log2(2) = 1."""
        assert ndcg(["x", "y", "a"], {"a": 1}) == 0.5

    def test_ndcg_counts_only_the_k_best_into_the_ideal(self):
        """Two of three equally relevant documents fill both places: nothing is better at k = 2."""
        assert ndcg(["a", "b"], {"a": 1, "b": 1, "c": 1}, k=2) == 1

    def test_ndcg_has_linear_gain(self):
        """Grade 1 above grade 2: DCG = 1 + 2/log2(3) over the ideal 2 + 1/log2(3).

        With exponential gain it would be (1 + 3/log2(3)) / (3 + 1/log2(3)).
        """
        gain = 1 / math.log2(3)
        assert ndcg(["b", "a"], {"a": 2, "b": 1}) == pytest.approx((1 + 2 * gain) / (2 + gain), rel=1e-15)

    def test_recall_is_the_share_of_all_relevant_documents(self):
        """Two of four relevant documents are in the first three."""
        assert recall(["a", "x", "b", "c"], {"a": 1, "b": 2, "c": 1, "d": 1}, k=3) == 0.5

    def test_reciprocal_rank_is_of_the_first_relevant_document(self):
        """It is at rank 2, and the one after it does not matter."""
        assert reciprocal_rank(["x", "b", "a"], {"a": 3, "b": 1}) == 0.5

    def test_reciprocal_rank_is_zero_when_the_first_relevant_document_is_below_k(self):
        """Rank 3 is out of sight at k = 2."""
        assert reciprocal_rank(["x", "y", "a"], {"a": 1}, k=2) == 0

    @pytest.mark.parametrize(("k", "expected"), [(1, 0), (2, 1), (10, 1)])
    def test_success_asks_whether_anything_relevant_is_there(self, k, expected):
        """The relevant document is at rank 2."""
        assert success(["x", "a", "y"], {"a": 1}, k=k) == expected

    def test_a_repeated_document_counts_once_and_the_rest_moves_up(self):
        """Read aab as ab: both documents are within k = 2, and a is not rewarded twice."""
        judged = {"a": 1, "b": 1}
        assert ndcg(["a", "a", "b"], judged, k=2) == 1
        assert recall(["a", "a", "b"], judged, k=2) == 1
        assert reciprocal_rank(["x", "x", "a"], judged) == 0.5


class TestAnyInput:
    """Properties over generated rankings."""

    @by_name
    @given(ranking=rankings, judged=judgements, k=depths)
    def test_lies_between_zero_and_one_or_is_nan_without_a_relevant_judgement(self, measure, ranking, judged, k):
        """NaN and nothing else marks a query that has no answer to find."""
        found = measure(ranking, judged, k=k)
        assert isinstance(found, float)
        assert math.isnan(found) == (not relevant(judged))
        assert math.isnan(found) or 0 <= found <= 1

    @by_name
    @given(ranking=rankings, judged=judgements, k=depths)
    def test_is_positive_exactly_when_something_relevant_is_in_sight(self, measure, ranking, judged, k):
        """All four measures agree on what a miss is."""
        assume(relevant(judged))
        in_sight = set(list(dict.fromkeys(ranking))[:k]) & relevant(judged)
        assert (measure(ranking, judged, k=k) > 0) == bool(in_sight)

    @by_name
    @given(judged=judgements, k=depths)
    def test_is_one_for_the_best_order(self, measure, judged, k):
        """The judged documents by grade cannot be beaten; recall is then limited by k alone."""
        assume(relevant(judged))
        best = sorted(judged, key=lambda name: -judged[name])
        expected = min(k, len(relevant(judged))) / len(relevant(judged)) if measure is recall else 1
        assert measure(best, judged, k=k) == expected

    @by_name
    @given(ranking=rankings, judged=judgements, k=depths)
    def test_is_zero_for_an_empty_ranking_with_an_answer_to_find(self, measure, ranking, judged, k):
        """A retriever that returns nothing is a miss and not a gap in the data."""
        assume(relevant(judged))
        assert measure([], judged, k=k) == 0
        strangers = [f"unjudged {name}" for name in ranking]
        assert measure(strangers, judged, k=k) == 0

    @given(rankings, judgements, depths)
    def test_ndcg_agrees_with_a_plain_sum(self, ranking, judged, k):
        """The definition as a loop over ranks: 14 terms, four roundings each, on both sides: 112 * 2^-53."""
        assume(relevant(judged))
        seen, total, rank = set(), 0.0, 0
        for name in ranking:
            if name in seen or rank == k:
                continue
            seen.add(name)
            rank += 1
            total += max(judged.get(name, 0), 0) * math.log(2) / math.log(rank + 1)
        best = sorted((max(grade, 0) for grade in judged.values()), reverse=True)[:k]
        ideal = sum(grade * math.log(2) / math.log(place + 2) for place, grade in enumerate(best))
        assert ndcg(ranking, judged, k=k) == pytest.approx(total / ideal, abs=1.3e-14)

    @given(rankings, judgements, depths, st.sampled_from([0.25, 2, 1024]))
    def test_ndcg_does_not_depend_on_the_unit_of_the_grades(self, ranking, judged, k, unit):
        """Grades times a power of two give the same bits, since gain is linear."""
        assume(relevant(judged))
        scaled = {name: grade * unit for name, grade in judged.items()}
        assert ndcg(ranking, scaled, k=k) == ndcg(ranking, judged, k=k)

    @given(st.permutations([f"doc-{number}" for number in range(6)]), st.integers(0, 4))
    @example([f"doc-{number}" for number in range(6)], 0)
    def test_ndcg_rises_when_a_better_document_moves_above_a_worse_one(self, ranking, place):
        """Exchange two neighbours: the order with the better one above scores higher."""
        judged = {f"doc-{number}": number for number in range(6)}
        swapped = list(ranking)
        swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
        improved = judged[swapped[place]] > judged[ranking[place]]
        assert (ndcg(swapped, judged) > ndcg(ranking, judged)) == improved

    @given(rankings, judgements, depths)
    def test_recall_and_success_never_fall_with_depth(self, ranking, judged, k):
        """Seeing one more document loses none."""
        assume(relevant(judged))
        assert recall(ranking, judged, k=k + 1) >= recall(ranking, judged, k=k)
        assert success(ranking, judged, k=k + 1) >= success(ranking, judged, k=k)

    @given(rankings, judgements, depths)
    def test_success_is_whether_the_reciprocal_rank_is_positive(self, ranking, judged, k):
        """Both look for the first relevant document."""
        assume(relevant(judged))
        assert success(ranking, judged, k=k) == (reciprocal_rank(ranking, judged, k=k) > 0)


class TestRefusals:
    """Input that is refused, and how."""

    @by_name
    def test_k_below_one_is_refused(self, measure):
        """The message gives the value and the rule."""
        with pytest.raises(ValueError, match="k is 0; it must be at least 1"):
            measure(["a"], {"a": 1}, k=0)

    @by_name
    @pytest.mark.parametrize("grade", [math.nan, math.inf, -math.inf])
    def test_a_grade_that_is_not_finite_is_refused(self, measure, grade):
        """NaN is not above 0 and would silently count as irrelevant; infinity leaves nothing to divide by."""
        with pytest.raises(ValueError, match="a grade is not finite; grades must be finite numbers"):
            measure(["a"], {"a": grade, "b": 1})
