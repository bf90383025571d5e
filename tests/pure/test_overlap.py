"""Agreement of two rankings: worked examples, the equations as printed, and what must hold for any input.

The drift engine reads these numbers; what it makes of them is tested with it.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from sidecar.overlap import Agreement, break_ties, compare, signal_name

MEASURES = ("overlap", "jaccard", "rbo", "rbo_min", "top1", "tau_ap")

# Rounding at most, with 12 documents and p in [.01, .99], in units of 2^-53. RBO_MIN as printed is the worst:
# at p = .01 its parts are as large as 12 * .01 before they are multiplied by (1-p)/p = 99, so 16 roundings on
# either side make 2 * 16 * 12 = 384; 1 - p inside its logarithm is off by half a unit, times 12 * 99 = 594.
# 978 units are 1.1e-13. RBO and tau_ap add at most 14 terms, with a total of at most 2: far below.
ROUNDING = 1.1e-13

# Twelve ids make shared documents, repetitions and permutations all frequent.
ids = st.sampled_from([f"doc-{number}" for number in range(12)])
any_ranking = st.lists(ids, max_size=16)
rankings = st.lists(ids, max_size=12, unique=True)
pairs = st.tuples(any_ranking, any_ranking)
depths = st.integers(1, 14)
persistences = st.floats(0.01, 0.99)


def one(left, right, **options):
    """Compare one pair and return its numbers by measure."""
    agreement = compare([left], [right], **options)
    return {measure: float(getattr(agreement, measure)[0]) for measure in MEASURES}


def numbers(agreement):
    """Stack the measures, to compare whole answers by `assert_array_equal` (NaN equals NaN)."""
    return np.stack([getattr(agreement, measure) for measure in MEASURES])


def distinct(ranking, k):
    """Drop repetitions, then cut to k."""
    kept = []
    for name in ranking:
        if name not in kept:
            kept.append(name)
    return kept[:k]


def rbo_ext_as_printed(left, right, p):
    """Equation (32), term by term, in exact arithmetic; s and l are the shorter and the longer length."""
    p = Fraction(p)
    short, long = sorted((left, right), key=len)
    s, l = len(short), len(long)

    def x(d):
        return len(set(short[:d]) & set(long[:d]))

    seen = sum(Fraction(x(d), d) * p**d for d in range(1, l + 1))
    assumed = sum(Fraction(x(s) * (d - s), s * d) * p**d for d in range(s + 1, l + 1))
    rest = (Fraction(x(l) - x(s), l) + Fraction(x(s), s)) * p**l
    return float((1 - p) / p * (seen + assumed) + rest)


def rbo_min_as_printed(left, right, p, k):
    """Equation (11), term by term, at depth k."""

    def x(d):
        return len(set(left[:d]) & set(right[:d]))

    head = math.fsum((x(d) - x(k)) * p**d / d for d in range(1, k + 1))
    return (1 - p) / p * (head - x(k) * math.log(1 - p))


def tau_ap_as_printed(ranking, truth):
    """AP correlation of one order against another of the same documents, one direction, by the definition."""
    n = len(ranking)
    total = Fraction(0)
    for i in range(2, n + 1):
        here = ranking[i - 1]
        correct = sum(truth.index(above) < truth.index(here) for above in ranking[: i - 1])
        total += Fraction(correct, i - 1)
    return Fraction(2, n - 1) * total - 1


def reference(left, right, k, p):
    """Compute every measure slowly and obviously, one pair at a time, with sets and lists."""
    a, b = distinct(left, k), distinct(right, k)
    if not a and not b:
        return {"overlap": 1.0, "jaccard": 1.0, "rbo": 1.0, "rbo_min": 1.0, "top1": 1.0, "tau_ap": math.nan}
    both = set(a) & set(b)
    tau = math.nan
    if len(both) > 1:
        in_a, in_b = [x for x in a if x in both], [x for x in b if x in both]
        tau = float((tau_ap_as_printed(in_a, in_b) + tau_ap_as_printed(in_b, in_a)) / 2)
    return {
        "overlap": len(both) / max(len(a), len(b)),
        "jaccard": len(both) / len(set(a) | set(b)),
        "rbo": rbo_ext_as_printed(a, b, p) if a and b else 0.0,
        "rbo_min": rbo_min_as_printed(a, b, p, k),
        "top1": float(a[:1] == b[:1]),
        "tau_ap": tau,
    }


class TestWorkedExamples:
    """Small cases whose arithmetic is in their docstrings."""

    def test_counts_shared_documents_against_the_longer_list_and_the_union(self):
        """Two of abcd are in bdx: overlap 2 / max(4, 3), jaccard 2 / 5."""
        found = one(list("abcd"), list("bdx"))
        assert found["overlap"] == 2 / 4
        assert found["jaccard"] == 2 / 5
        assert found["top1"] == 0

    def test_rbo_of_lists_of_equal_length(self):
        """For abc and bax at p = 1/2 the agreements are 0, 1, 2/3.

        Weights (1-p) p^(d-1) = 1/2, 1/4, 1/8 and p^3 = 1/8 for the rest at 2/3:
        0 + 1/4 + 1/12 + 1/12 = 5/12.
        Lower bound: X = 0, 2, 2, 2 ... and sum p^d/d = ln 2 over all d, so (1-p)/p * 2 * (ln 2 - 1/2) = 2 ln
        2 - 1.
        """
        found = one(list("abc"), list("bax"), p=0.5)
        assert found["rbo"] == pytest.approx(5 / 12, abs=ROUNDING)
        assert found["rbo_min"] == pytest.approx(2 * math.log(2) - 1, abs=ROUNDING)

    def test_rbo_of_lists_of_different_length(self):
        """For abc and ax at p = 1/2: X = 1, 1, 1, s = 2, l = 3, X_s = 1.

        Equation (32): seen 1/2 + 1/8 + 1/24 = 2/3; assumed 1 * (3-2) / (2*3) / 8 = 1/48; both times (1-p)/p =
        1; rest (0/3 + 1/2) / 8 = 1/16. Sum 32/48 + 1/48 + 3/48 = 3/4.
        """
        assert one(list("abc"), list("ax"), p=0.5)["rbo"] == pytest.approx(3 / 4, abs=ROUNDING)

    def test_rbo_of_a_short_list_that_is_found_late(self):
        """For abc and c at p = 1/2, X = 0, 0, 1 and X_s = 0: seen 1/3 * 1/8, rest (1-0)/3 * 1/8, sum 1/12."""
        assert one(list("abc"), ["c"], p=0.5)["rbo"] == pytest.approx(1 / 12, abs=ROUNDING)

    def test_rbo_of_a_ranking_and_its_beginning_is_one_while_overlap_sees_the_loss(self):
        """Of ten documents seven are left: equation (32) expects the other three to match."""
        full = [f"doc-{number}" for number in range(10)]
        found = one(full, full[:7])
        assert found["rbo"] == 1
        assert found["overlap"] == 7 / 10

    def test_rbo_min_of_identical_lists_is_the_weight_of_their_ranks(self):
        """Ten equal documents at p = .9 reach equation (21)'s W(1:10), and 86 % as the paper says of it.

        W(1:d) = 1 - p^(d-1) + (1-p)/p * d * (ln 1/(1-p) - sum over i < d of p^i/i).
        """
        same = [f"doc-{number}" for number in range(10)]
        p, d = 0.9, 10
        unseen = math.log(1 / (1 - p)) - sum(p**i / i for i in range(1, d))
        weight = 1 - p ** (d - 1) + (1 - p) / p * d * unseen
        found = one(same, same)["rbo_min"]
        assert found == pytest.approx(weight, abs=ROUNDING)
        assert round(found, 2) == 0.86

    def test_tau_ap_is_the_mean_of_both_directions(self):
        """Orders abc and cab: c moved to the front.

        cab against abc: at a nothing above is right (c above a: wrong) 0/1; at b one of two (a) 1/2;
        2/2 * 1/2 - 1 = -1/2. abc against cab: at b 1/1; at c 0/2; 2/2 * 1 - 1 = 0. Mean -1/4.
        """
        assert one(list("abc"), list("cab"))["tau_ap"] == -1 / 4

    def test_tau_ap_looks_at_shared_documents_only(self):
        """Documents that one side lacks do not count: axbyc and cqab share abc and cab, the example above."""
        assert one(list("axbyc"), list("cqab"))["tau_ap"] == -1 / 4

    def test_tau_ap_of_reversed_order_is_minus_one(self):
        """No pair keeps its order, so every C(i) is 0."""
        assert one(list("abcd"), list("dcba"))["tau_ap"] == -1

    @pytest.mark.parametrize(
        ("left", "right"),
        [([], []), (["a"], []), (["a"], ["a"]), (["a", "b"], ["b", "c"]), (["a"], ["b"])],
        ids=["both-empty", "one-empty", "one-document", "one-shared", "none-shared"],
    )
    def test_tau_ap_is_nan_below_two_shared_documents(self, left, right):
        """One document has no order, which is too little data and not a disagreement."""
        assert math.isnan(one(left, right)["tau_ap"])

    def test_two_empty_rankings_agree(self):
        """Both retrievers found nothing: that is the same answer."""
        found = one([], [])
        assert [found[m] for m in ("overlap", "jaccard", "rbo", "rbo_min", "top1")] == [1] * 5

    def test_an_empty_and_a_filled_ranking_do_not_agree_at_all(self):
        """One retriever found something that the other did not."""
        found = one([], ["a", "b"])
        assert [found[m] for m in ("overlap", "jaccard", "rbo", "rbo_min", "top1")] == [0] * 5

    def test_repetitions_count_once_before_the_cut(self):
        """At k = 2, aab is read as ab, not as aa: both of its documents are in ba."""
        found = one(list("aab"), list("ba"), k=2)
        assert found["overlap"] == 1
        assert found["top1"] == 0

    def test_full_lists_give_the_exact_tenths(self):
        """The detector asks for overlap <= 0.2 and == 1, so 2 of 10 must be the float 0.2 itself."""
        left = [f"doc-{number}" for number in range(10)]
        others = [f"other-{number}" for number in range(10)]
        found = [one(left, left[:kept] + others[kept:])["overlap"] for kept in range(11)]
        assert found == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]


class TestAnyInput:
    """Properties over generated rankings."""

    @given(st.lists(pairs, max_size=5), depths, persistences)
    @example([([], []), (["a"], []), (["a", "b"], ["b", "a"])], 1, 0.5)
    def test_agrees_with_the_slow_reference(self, batch, k, p):
        """Every measure equals its printed definition, computed with sets and fractions."""
        found = compare([left for left, _ in batch], [right for _, right in batch], k=k, p=p)
        for row, (left, right) in enumerate(batch):
            for measure, expected in reference(left, right, k, p).items():
                value = getattr(found, measure)[row]
                assert value == pytest.approx(expected, abs=ROUNDING, rel=0, nan_ok=True), measure

    @given(any_ranking, any_ranking, depths, persistences)
    def test_is_symmetric(self, left, right, k, p):
        """Exchanging the sides changes nothing (tau_ap adds the same fractions in another order)."""
        forth, back = one(left, right, k=k, p=p), one(right, left, k=k, p=p)
        assert forth.pop("tau_ap") == pytest.approx(back.pop("tau_ap"), abs=ROUNDING, rel=0, nan_ok=True)
        assert forth == back

    @given(any_ranking, any_ranking, depths, st.floats(0, 1, exclude_min=True, exclude_max=True))
    @example(list("abc"), list("ba"), 10, 5e-324)
    @example(list("abc"), list("ba"), 10, math.nextafter(1, 0))
    @example(list("ikcdlabegj"), list("glj"), 12, 5.046684907628714e-05)
    def test_stays_within_its_bounds_for_every_persistence(self, left, right, k, p):
        """Shares lie in [0, 1], correlations in [-1, 1], also where p^d or 1 - p is at its smallest."""
        found = one(left, right, k=k, p=p)
        tau = found.pop("tau_ap")
        assert all(0 <= value <= 1 for value in found.values())
        assert math.isnan(tau) or -1 <= tau <= 1

    @given(any_ranking, depths, persistences)
    def test_identical_rankings_agree_exactly(self, ranking, k, p):
        """Identity is exactly 1, whatever the length, so that a threshold at 1 means identity."""
        found = one(ranking, ranking, k=k, p=p)
        assert (found["overlap"], found["jaccard"], found["rbo"], found["top1"]) == (1, 1, 1, 1)
        assert found["tau_ap"] == 1 or len(set(distinct(ranking, k))) < 2

    @given(rankings, rankings, depths, persistences)
    def test_full_agreement_means_the_same_documents_and_order(self, left, right, k, p):
        """Overlap is 1 for the same sets only; tau_ap is then 1 for the same order only."""
        a, b = left[:k], right[:k]
        found = one(left, right, k=k, p=p)
        assert (found["overlap"] == 1) == (set(a) == set(b))
        if found["overlap"] == 1 and len(a) > 1:
            assert (found["tau_ap"] == 1) == (a == b)

    @given(any_ranking, any_ranking, depths, persistences)
    @example(list("j"), list("fgikhje"), 12, 0.01)
    @example(list("c"), list("jc"), 12, 7.963347190011511e-16)
    def test_bounds_between_measures_hold(self, left, right, k, p):
        """The bound of RBO never exceeds its estimate, nor jaccard, with its larger divisor, overlap."""
        found = one(left, right, k=k, p=p)
        assert found["rbo_min"] <= found["rbo"]
        assert found["jaccard"] <= found["overlap"]

    @given(rankings, rankings, st.floats(0.01, 0.9))
    def test_rbo_min_is_the_rbo_of_rankings_that_go_on_without_a_shared_document(self, left, right, p):
        """RBO itself is the infinite sum; cut after 400 ranks it misses at most p^400 <= .9^400 < 1e-18.

        400 terms that add up to at most 1, each rounded twice, are off by 800 units at most (see ROUNDING).
        """
        assume(left or right)
        endless = (
            left + [f"left-{n}" for n in range(400)],
            right + [f"right-{n}" for n in range(400)],
        )
        seen = [len(set(left[:d]) & set(right[:d])) for d in range(1, 401)]
        infinite = math.fsum((1 - p) * p ** (d - 1) * x / d for d, x in enumerate(seen, start=1))
        assert one(left, right, k=20, p=p)["rbo_min"] == pytest.approx(infinite, abs=ROUNDING)
        assert one(*endless, k=400, p=p)["rbo"] == pytest.approx(infinite, abs=ROUNDING)

    @given(rankings, rankings, persistences)
    def test_rbo_min_never_falls_as_more_is_seen(self, left, right, p):
        """Looking deeper can only confirm more: the bound rises with k (up to rounding)."""
        assume(left or right)
        bounds = [one(left, right, k=k, p=p)["rbo_min"] for k in range(1, 13)]
        assert all(later >= earlier - ROUNDING for earlier, later in pairwise(bounds))

    @given(rankings, rankings, depths, st.floats(0, 1e-17, exclude_min=True))
    @example(["a"], ["a"], 1, 1e-20)
    def test_at_a_vanishing_persistence_only_the_first_document_counts(self, left, right, k, p):
        """All weight is on rank 1: later terms add up to less than 12 p, so both forms of RBO are top1."""
        found = one(left, right, k=k, p=p)
        assert found["rbo"] == pytest.approx(found["top1"], abs=ROUNDING)
        assert found["rbo_min"] == pytest.approx(found["top1"], abs=ROUNDING)

    @given(st.lists(pairs, min_size=1, max_size=6), st.tuples(any_ranking, any_ranking), depths, persistences)
    @example([(list("jlcai"), list("dcjilfe"))], (list("abcdefghijkl"), []), 12, 0.5)
    @example([(list("eljaf"), list("j"))], ([*"abcdefghijkl"], []), 12, 0.01)
    @example([(list("a"), list("a"))], (list("abcdefghijkl"), list("lkjihgfedcba")), 12, 0.9)
    def test_a_query_does_not_depend_on_its_batch(self, batch, other, k, p):
        """Alone, together or beside longer rankings, a pair gets the same numbers to the last bit."""
        left, right = zip(*batch, other, strict=True)
        together = numbers(compare(left, right, k=k, p=p))
        alone = [numbers(compare([a], [b], k=k, p=p)) for a, b in zip(left, right, strict=True)]
        np.testing.assert_array_equal(together, np.concatenate(alone, axis=1))

    @given(any_ranking, any_ranking, st.permutations(range(12)), depths)
    def test_names_do_not_matter(self, left, right, order, k):
        """Renaming the documents, one to one, changes nothing: only equality of ids is used."""
        name = {f"doc-{number}": f"renamed/{order[number]}" for number in range(12)}
        renamed = one([name[x] for x in left], [name[x] for x in right], k=k)
        np.testing.assert_array_equal(list(renamed.values()), list(one(left, right, k=k).values()))

    @given(rankings, rankings, depths)
    def test_what_lies_beyond_k_does_not_matter(self, left, right, k):
        """The measures are of the first k documents, so cutting before changes nothing."""
        np.testing.assert_array_equal(
            list(one(left, right, k=k).values()), list(one(left[:k], right[:k], k=k).values())
        )

    def test_every_permutation_of_five_documents_has_its_tau_ap(self):
        """All 120 orders agree with the definition, and -1 and 1 belong to reversal and identity alone."""
        straight = list("abcde")
        orders = list(permutations(straight))
        found = compare([straight] * len(orders), orders).tau_ap
        for value, order in zip(found, orders, strict=True):
            exact = (tau_ap_as_printed(straight, order) + tau_ap_as_printed(list(order), straight)) / 2
            assert value == pytest.approx(float(exact), abs=ROUNDING)
        assert [orders[i] for i in np.flatnonzero(found == 1)] == [tuple(straight)]
        assert [orders[i] for i in np.flatnonzero(found == -1)] == [tuple(reversed(straight))]

    def test_a_batch_larger_than_one_chunk_is_compared_whole(self):
        """At k = 100 one chunk of order comparisons takes 104 pairs (2^20 / 100^2), so 150 need two."""
        generator = np.random.default_rng(20100428)
        names = np.array([f"doc-{number}" for number in range(150)])
        left, right = ([generator.permutation(names)[:100].tolist() for _ in range(150)] for _ in range(2))
        found = compare(left, right, k=100)
        for row in (0, 103, 104, 105, 149):
            for measure, expected in reference(left[row], right[row], 100, 0.9).items():
                # RBO_MIN as in ROUNDING: 2 * 102 roundings of 100 * ln(10) / 9 = 26: 5300 units are 6e-13.
                assert getattr(found, measure)[row] == pytest.approx(expected, abs=6e-13), measure


class TestAnswer:
    """The value that comes back."""

    def test_an_empty_batch_gives_empty_arrays(self):
        """No queries, no numbers, no error."""
        assert numbers(compare([], [])).shape == (6, 0)

    def test_arrays_are_float64_and_cannot_be_changed(self):
        """The answer is a value: neither its fields nor its arrays can be overwritten."""
        found = compare([["a"]], [["a"]], k=3, p=0.8)
        assert isinstance(found, Agreement)
        assert (found.k, found.p) == (3, 0.8)
        for measure in MEASURES:
            values = getattr(found, measure)
            assert values.dtype == np.float64
            with pytest.raises(ValueError, match="read-only"):
                values[0] = 0.5
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.k = 4

    def test_tuples_and_lists_are_equally_good_rankings(self):
        """Any sequence of ids will do."""
        pair = compare([("a", "b")], (["a", "b"],))
        assert pair.overlap.tolist() == [1]


class TestRefusals:
    """Input that is refused, and how."""

    @pytest.mark.parametrize("k", [0, -1])
    def test_k_below_one_is_refused(self, k):
        """The message gives the value and the rule."""
        with pytest.raises(ValueError, match=rf"k is {k}; it must be at least 1"):
            compare([["a"]], [["a"]], k=k)

    @pytest.mark.parametrize("p", [0.0, 1.0, -0.1, 1.5, math.nan])
    def test_p_outside_the_open_interval_is_refused(self, p):
        """At 0 only the first rank would count, at 1 the sum has no limit; NaN is neither."""
        with pytest.raises(ValueError, match=r"p is .*; it must lie strictly between 0 and 1"):
            compare([["a"]], [["a"]], p=p)

    def test_batches_of_different_length_are_refused(self):
        """A missing ranking would shift every later pair."""
        with pytest.raises(ValueError, match="left has 2 rankings and right has 1; both need one per query"):
            compare([["a"], ["b"]], [["a"]])

    @pytest.mark.parametrize("sides", [(["ab"], [["a"]]), ([["a"]], ["ab"])], ids=["left", "right"])
    def test_a_string_in_place_of_a_ranking_is_refused(self, sides):
        """A string is a sequence of strings too and would be compared letter by letter."""
        with pytest.raises(ValueError, match="a ranking is a string; it must be a sequence of document ids"):
            compare(*sides)


class TestBreakTies:
    """The order among equal scores."""

    def test_orders_by_score_and_then_by_id(self):
        """The best score is first; equal scores are in ascending order of id, by code point."""
        assert break_ties(["9", "b", "10", "a"], [0.5, 0.9, 0.5, 0.1]) == ("b", "10", "9", "a")

    @given(st.data(), st.dictionaries(ids, st.sampled_from([0.0, -0.0, 0.25, 0.5])))
    def test_does_not_depend_on_the_order_in_which_an_index_returned_its_hits(self, data, score_of):
        """Any arrangement of the same hits gives one list: down by score, up by id within a tie."""
        arranged = data.draw(st.permutations(list(score_of)))
        found = break_ties(arranged, [score_of[name] for name in arranged])
        assert found == break_ties(list(score_of), list(score_of.values()))
        assert sorted(found) == sorted(score_of)
        for first, second in pairwise(found):
            above, below = score_of[first], score_of[second]
            assert above > below or (above == below and first < second)

    def test_tied_retrievers_agree_after_it_and_not_before(self):
        """Equal scores in two orders: the difference is the index's and not the encoder's."""
        left, right, scores = ["a", "b", "c"], ["c", "b", "a"], [0.5, 0.5, 0.5]
        assert one(left, right)["rbo"] < 1
        assert one(break_ties(left, scores), break_ties(right, scores))["rbo"] == 1

    def test_lengths_that_differ_are_refused(self):
        """A score without an id, or the other way round, is a fault of the caller."""
        with pytest.raises(ValueError, match="there are 2 ids and 1 scores; each id needs one score"):
            break_ties(["a", "b"], [1.0])

    def test_nan_is_refused(self):
        """NaN compares as neither above nor below, so the order would depend on the arrangement."""
        with pytest.raises(ValueError, match="a score is NaN"):
            break_ties(["a", "b"], [1.0, math.nan])


class TestSignalName:
    """Names of the signals."""

    def test_every_measure_has_a_name(self):
        """Depth belongs to the name; the first document has none."""
        assert [signal_name(measure, 10) for measure in MEASURES] == [
            "overlap@10",
            "jaccard@10",
            "rbo@10",
            "rbo_min@10",
            "top1",
            "tau_ap@10",
        ]

    def test_an_unknown_measure_is_refused(self):
        """The message lists what there is."""
        with pytest.raises(ValueError, match="measure is 'ndcg'; it must be one of jaccard, overlap, rbo"):
            signal_name("ndcg", 10)
