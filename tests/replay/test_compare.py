"""From three rankings to an observation: which numbers there are, and which are left out."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.model import QueryEvent, Ranking, Stack
from sidecar.replay.compare import MEASURES, SCORE_MEASURES, Opinion, observe, signal_names

STACK = Stack("a", "b", "c", "d")


def event(served=None, scores=None, **changes) -> QueryEvent:
    """Make an event with what the service served."""
    ranking = None if served is None else Ranking(tuple(served), None if scores is None else tuple(scores))
    return QueryEvent("1-0", "text", 5.0, served=ranking, **changes)


def opinion(deployed, ranked, known=None) -> Opinion:
    """Give what a retriever says that scores its documents 1, 0.95 and so on, and others of `known` 0.05."""
    scores = {name: (20 - place) / 20 for place, name in enumerate(ranked)}
    all_known = dict.fromkeys(deployed if known is None else known, 0.05) | scores
    ranking = Ranking(tuple(ranked), tuple(all_known[name] for name in ranked))
    return Opinion([ranking], [tuple(all_known.get(name) for name in deployed)])


def observed(one, deployed, reference="abcdefghij", k=10, *, known=None, frozen=None, digest=None, cluster=None):
    """Observe one event."""
    accepted = None if frozen is None else opinion(deployed, frozen, known)
    (result,) = observe(
        [one], [Ranking(tuple(deployed))], opinion(deployed, reference, known), STACK, k=k, p=0.9, tolerance=0.02,
        session_digest=[digest], clusters=[cluster], frozen=accepted,
    )  # fmt: skip
    return result


def values(*arguments, **changes):
    """Observe one event and give its values."""
    return observed(*arguments, **changes).values


def test_three_rankings_give_every_signal():
    """With documents served, every signal of the list is there; agreement is of deployed and reference."""
    found = values(event("abcdefghij"), "abcdefghij", "abcdeklmno")
    assert set(found) == set(signal_names(10))
    assert found["overlap@10"] == 0.5
    assert found["jaccard@10"] == pytest.approx(5 / 15)
    assert found["top1"] == 1.0
    assert found["tau_ap@10"] == 1.0
    assert found["fidelity@10"] == 1.0
    assert found["tolerant@10"] == 0.5
    assert found["regret@10"] == pytest.approx((0.75 + 0.7 + 0.65 + 0.6 + 0.55 - 5 * 0.05) / 10)
    assert found["known@10"] == 1.0


def test_a_frozen_copy_adds_its_own_signals():
    """They are of the deployed ranking against the frozen one, and leave those against the reference alone."""
    found = values(event("abcdefghij"), "abcdefghij", "abcdeklmno", frozen="abcdefghxy")
    assert set(found) == set(signal_names(10, frozen=True))
    assert found["frozen_overlap@10"] == found["frozen_tolerant@10"] == 0.8
    assert found["frozen_known@10"] == 1.0
    alone = values(event("abcdefghij"), "abcdefghij", "abcdeklmno")
    assert {name: value for name, value in found.items() if not name.startswith("frozen_")} == alone


def test_documents_that_the_reference_lacks_are_counted_and_not_regretted():
    """A corpus that grew on the deployed side only shows as such; without any known document there is no regret."""
    grown = values(event(), "NabcdefghM", known="abcdefghij")
    assert (grown["tolerant@10"], grown["known@10"], grown["regret@10"]) == (0.8, 0.8, 0.0)
    foreign = values(event(), "KLMNOPQRST", known="abcdefghij")
    assert (foreign["tolerant@10"], foreign["known@10"]) == (0.0, 0.0)
    assert "regret@10" not in foreign


def test_an_observation_keeps_what_the_event_said_and_not_its_text():
    """Id, time, slice, weight, session digest, step and cluster travel on; the text does not."""
    result = observed(event(slice="legal", weight=4.0, session_id="s", step=2), "a", "a", digest="0f", cluster=7)
    assert (result.entry_id, result.at, result.slice, result.weight) == ("1-0", 5.0, "legal", 4.0)
    assert (result.session, result.step, result.stack, result.cluster) == ("0f", 2, STACK, 7)
    assert "text" not in repr(dataclasses.asdict(result))


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (event(), None),
        (event("", top_k=None), None),
        (event("abc", filtered=True), None),
        (event("abc"), 1.0),
        (event("abx"), 2 / 3),
        (event("abc", top_k=3), 1.0),
        (event("abcdefghij", top_k=3), 1.0),
        (event("abcxyz", top_k=3), 1.0),
        (event("abc", top_k=6), 0.5),
        (event("", top_k=5), 0.0),
        (event("abcdefghijKLMNOPQRSTUVWXYZ"), 1.0),
        (event("abcdefghij", top_k=1000), 1.0),
    ],
    ids=[
        "no documents known", "served nothing, asked nothing", "filtered", "three served", "one of three wrong",
        "three asked and served", "more served than asked", "difference below what was asked", "fewer than asked",
        "nothing served though asked", "deeper than k", "asked deeper than k",
    ],
)  # fmt: skip
def test_fidelity_is_compared_as_deep_as_the_service_went(one, expected):
    """The service's own depth decides, up to k; a filter or unknown documents leave fidelity undefined, not 0."""
    found = values(one, "abcdefghij")
    assert found.get("fidelity@10") == (None if expected is None else pytest.approx(expected))


def test_a_batch_of_different_depths_keeps_each_value_with_its_event():
    """Grouping by depth must not mix up whose number is whose."""
    events = [event("ab"), event(None), event("xyz"), event("ax", top_k=2), event("abc"), event("zz", filtered=True)]
    ranking = Ranking(tuple("abcdefghij"), tuple(place / 10 for place in range(10, 0, -1)))
    reference = Opinion([ranking] * 6, [ranking.scores] * 6)
    none = [None] * 6
    found = observe(
        events, [ranking] * 6, reference, STACK, k=10, p=0.9, tolerance=0.02, session_digest=none, clusters=none
    )
    assert [one.values.get("fidelity@10") for one in found] == [1.0, None, 0.0, 0.5, 1.0, None]


def test_documents_with_equal_served_scores_are_taken_in_the_order_of_their_ids():
    """Where a tie lies across the cut, the service's arbitrary choice is no disagreement with the replay's."""
    tied = event("cba", scores=(0.5, 0.5, 0.5), top_k=2)
    assert values(tied, "abcdefghij")["fidelity@10"] == 1.0
    assert values(event("cba", top_k=2), "abcdefghij")["fidelity@10"] == 0.5  # without scores the order is all we know


def test_scores_that_do_not_descend_do_not_reorder_what_was_served():
    """A re-ranking service may publish an earlier stage's scores: its order is the fact."""
    assert values(event("abc", scores=(0.1, 0.2, 0.9), top_k=1), "abcdefghij")["fidelity@10"] == 1.0


@pytest.mark.parametrize(
    ("deployed", "reference", "overlap", "tau"),
    [("", "", 1.0, False), ("", "abc", 0.0, False), ("abc", "", 0.0, False), ("ab", "bz", 0.5, False),
     ("ab", "ba", 1.0, True), ("abc", "xyz", 0.0, False)],
)  # fmt: skip
def test_short_and_empty_rankings_are_defined_and_tau_is_absent_below_two_shared(deployed, reference, overlap, tau):
    """Every measure but the order of shared documents is defined for any lists."""
    found = values(event(), deployed, reference)
    assert found["overlap@10"] == overlap
    assert ("tau_ap@10" in found) is tau
    assert {f"{name}@10" for name in ("jaccard", "rbo", "tolerant", "regret", "known")} | {"top1"} <= set(found)
    assert found["tolerant@10"] >= overlap


@pytest.mark.parametrize(("reference", "expected"), [("abcd", 1.0), ("dcba", 0.0)])
def test_tau_is_moved_to_the_range_of_the_other_signals(reference, expected):
    """The same order is 1, the reversed one 0."""
    assert values(event(), "abcd", reference)["tau_ap@10"] == expected


RANKINGS = st.lists(st.sampled_from("abcdefghijklmno"), unique=True, max_size=15)


@given(RANKINGS, RANKINGS, st.none() | RANKINGS, st.none() | st.integers(1, 30), st.integers(1, 12))
def test_every_value_lies_between_zero_and_one(deployed, reference, served, top_k, k):
    """Whatever the lists are, each signal is one of the listed ones, and in [0, 1], which the judge relies on."""
    found = values(event(served, top_k=top_k), deployed, reference, k=k)
    assert set(found) <= set(signal_names(k))
    assert all(0.0 <= value <= 1.0 for value in found.values())
    assert len(set(signal_names(k))) == len(MEASURES) + len(SCORE_MEASURES) + 1
