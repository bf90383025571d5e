"""Score-aware measures: examples by hand, the definition in plain Python, and what must never happen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import overlap
from sidecar.score_loss import TOLERANCE, ScoreLoss, compare, signal_name

SCORES = st.integers(-1_000_000, 1_000_000).map(lambda millionths: millionths / 1e6)


def one(reference, deployed, k=10, tolerance=0.01) -> tuple[float, float, float]:
    """Compare one query."""
    loss = compare([reference], [deployed], k=k, tolerance=tolerance)
    return float(loss.tolerant[0]), float(loss.regret[0]), float(loss.known[0])


def slowly(reference, deployed, k, tolerance) -> tuple[float, float, float]:
    """Follow the definition word by word, one query, in plain Python."""
    best, found = sorted(reference[:k], reverse=True), deployed[:k]
    known = sorted((score for score in found if score is not None), reverse=True)
    longer = max(len(best), len(found))
    passed = sum(score >= best[-1] - tolerance for score in known) if best else 0
    if found and not known:
        regret = math.nan
    else:
        places = max(len(best) - (len(found) - len(known)), len(known))
        worth = [[min(max(score, 0.0), 1.0) for score in scores] + [0.0] * k for scores in (best, known)]
        lost = sum(max(worth[0][place] - worth[1][place], 0.0) for place in range(places))
        regret = lost / places if places else 0.0
    return passed / longer if longer else 1.0, regret, len(known) / len(found) if found else 1.0


@st.composite
def worlds(draw, most=12):
    """Draw a reference corpus with its scores for one query, and what another retriever returns of it and beyond it."""
    corpus = {f"d{number}": score for number, score in enumerate(draw(st.lists(SCORES, min_size=1, max_size=most)))}
    names = [*corpus, *(f"new{number}" for number in range(draw(st.integers(0, 4))))]
    returned = draw(st.lists(st.sampled_from(names), unique=True, max_size=most))
    return corpus, returned


def ranked(corpus) -> list[str]:
    """Rank as an exact index does: by score, then by id."""
    return sorted(corpus, key=lambda name: (-corpus[name], name))


@pytest.mark.parametrize(
    ("reference", "deployed", "expected"),
    [
        ((0.9, 0.8, 0.7), (0.7, 0.9, 0.8), (1.0, 0.0, 1.0)),
        ((0.9, 0.8, 0.7), (0.9, 0.8, 0.695), (1.0, 0.005 / 3, 1.0)),
        ((0.9, 0.8, 0.7), (0.9, 0.8, 0.6), (2 / 3, 0.1 / 3, 1.0)),
        ((0.9, 0.8, 0.7), (0.9, 0.8), (2 / 3, 0.7 / 3, 1.0)),
        ((0.9, 0.8, 0.7), (), (0.0, 2.4 / 3, 1.0)),
        ((0.9, 0.8, 0.7), (-0.5, 0.0, -1.0), (0.0, 2.4 / 3, 1.0)),
        ((0.9, 0.8, 0.7), (None, 0.9, 0.8), (2 / 3, 0.0, 2 / 3)),
        ((0.9, 0.8, 0.7), (None, 0.9, 0.5), (1 / 3, 0.3 / 2, 2 / 3)),
        ((0.9, 0.8, 0.7), (None, 0.9), (1 / 3, 0.8 / 2, 1 / 2)),
        ((0.9, 0.8, 0.7), (None, None, None), (0.0, math.nan, 0.0)),
        ((0.9, 0.8), (0.9, 0.8, None, None), (1 / 2, 0.0, 1 / 2)),
        ((), (), (1.0, 0.0, 1.0)),
        ((), (None, None), (0.0, math.nan, 0.0)),
        ((7.0, 5.0), (5.0, 3.0), (1 / 2, 0.0, 1.0)),
    ],
    ids=[
        "another order", "a near tie", "a worse document", "one less", "nothing", "at right angles and beyond",
        "one new, the last pushed out", "one new and one worse", "one new and one less", "only new ones",
        "more than the reference has", "both empty", "an empty reference", "no cosines: no scale for regret",
    ],
)  # fmt: skip
def test_examples_by_hand(reference, deployed, expected):
    """Each rule of the definition gives the number that it says."""
    assert one(reference, deployed) == pytest.approx(expected, nan_ok=True)


@given(st.lists(worlds(), max_size=5), st.integers(1, 12), st.sampled_from([0.0, 0.01, 0.3]))
def test_a_batch_is_the_definition_for_each_query(drawn, k, tolerance):
    """The vectorised computation agrees with plain Python for any batch, and stays in its ranges."""
    reference = [[corpus[name] for name in ranked(corpus)] for corpus, _ in drawn]
    deployed = [[corpus.get(name) for name in returned] for corpus, returned in drawn]
    loss = compare(reference, deployed, k=k, tolerance=tolerance)
    for i, (best, found) in enumerate(zip(reference, deployed, strict=True)):
        got = (loss.tolerant[i], loss.regret[i], loss.known[i])
        assert got == pytest.approx(slowly(best, found, k, tolerance), nan_ok=True, abs=1e-12)
        assert all(0.0 <= value <= 1.0 or math.isnan(value) for value in got)


@given(worlds(), st.integers(1, 12))
def test_it_is_never_harder_than_overlap(world, k):
    """A shared document passes, so that `tolerant` is at least overlap; without shuffles and tolerance they agree."""
    corpus, returned = world
    best = ranked(corpus)
    shared = overlap.compare([best], [returned], k=k).overlap[0]
    scores = [corpus[name] for name in best], [corpus.get(name) for name in returned]
    assert one(*scores, k=k)[0] >= one(*scores, k=k, tolerance=0.0)[0] >= shared
    if len(set(corpus.values())) == len(corpus):
        assert one(*scores, k=k, tolerance=0.0)[0] == shared


@given(st.lists(SCORES, min_size=1, max_size=10).flatmap(st.permutations))
def test_the_same_documents_in_another_order_lose_exactly_nothing(scores):
    """No order of summation makes a regret of 1e-17 out of nothing."""
    best = sorted(scores, reverse=True)
    assert one(best, scores, tolerance=0.0) == (1.0, 0.0, 1.0)


@given(st.lists(SCORES, min_size=10, max_size=30), st.sets(st.integers(0, 9), max_size=9))
def test_growth_of_the_deployed_corpus_alone_is_not_regretted(scores, places):
    """New documents push the last ones out: regret stays 0, and `tolerant` falls as far as `known` and no further."""
    old = sorted(scores, reverse=True)
    grown = list(old)
    for place in sorted(places):
        grown.insert(place, None)
    tolerant, regret, known = one(old, grown, tolerance=0.0)
    assert known == (10 - len(places)) / 10
    assert (tolerant, regret) == (known, 0.0)


@given(st.lists(SCORES, min_size=10, max_size=10), st.lists(st.floats(0, 0.0099), min_size=10, max_size=10))
def test_near_ties_are_left_alone(scores, losses):
    """Documents that are each worse by less than the tolerance cost `tolerant` nothing and regret less than it."""
    best = sorted(scores, reverse=True)
    tolerant, regret, _ = one(best, [score - loss for score, loss in zip(best, losses, strict=True)], tolerance=0.01)
    assert tolerant == 1.0
    assert regret < 0.01


@given(st.lists(worlds(), min_size=1, max_size=6))
def test_a_query_does_not_depend_on_its_batch(drawn):
    """Alone or among others of other lengths a query has the same numbers to the last bit."""
    reference = [[corpus[name] for name in ranked(corpus)] for corpus, _ in drawn]
    deployed = [[corpus.get(name) for name in returned] for corpus, returned in drawn]
    together = compare(reference, deployed)
    for i, (best, found) in enumerate(zip(reference, deployed, strict=True)):
        alone = compare([best], [found])
        for measure in ("tolerant", "regret", "known"):
            assert getattr(alone, measure).tobytes() == getattr(together, measure)[i : i + 1].tobytes()


def test_nan_is_unknown_like_none():
    """A caller that has its scores in an array need not turn NaN into None."""
    assert one((0.9, 0.8), (0.9, math.nan)) == one((0.9, 0.8), (0.9, None))


def test_what_is_given_back_says_how_it_was_measured_and_cannot_be_changed():
    """Depth and tolerance stay with the numbers, which are read-only; an empty batch is no error."""
    loss = compare([], [], k=3)
    assert isinstance(loss, ScoreLoss)
    assert (loss.k, loss.tolerance, loss.tolerant.shape) == (3, TOLERANCE, (0,))
    for values in (loss.tolerant, loss.regret, loss.known):
        assert values.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            values[:] = 0


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"k": 0}, "k is 0; it must be at least 1"),
        ({"tolerance": -0.1}, "tolerance is -0.1; it must be at least 0"),
        ({"tolerance": math.nan}, "tolerance is nan; it must be at least 0"),
        ({"deployed": []}, "1 queries of the reference and 0 of the deployed"),
    ],
)
def test_impossible_arguments_are_refused(arguments, rule):
    """The message names the argument and the rule."""
    with pytest.raises(ValueError, match=rule):
        compare(**{"reference": [[1.0]], "deployed": [[1.0]], **arguments})


def test_signals_are_named_with_their_depth():
    """The names are those of the other measures' kind; an unknown one is refused."""
    assert [signal_name(measure, 5) for measure in ("tolerant", "regret", "known")] == [
        "tolerant@5", "regret@5", "known@5",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="must be one of tolerant, regret, known"):
        signal_name("overlap", 5)
