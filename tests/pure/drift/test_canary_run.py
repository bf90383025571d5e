"""One run of the canaries: what is held against what, and what makes two runs the same look."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.drift.canary_run import AGAINST, Scored, SetName, comparable, compile_run
from sidecar.drift.composition import PairScores, compare_pairs, shares_above, summarise
from sidecar.drift.labelled import compare_labelled, means, scale, score
from sidecar.drift.signature import SignatureRule, name_changes
from sidecar.model import Ranking, Stack

N = 20
QUESTIONS, PAIRS, MORE_PAIRS = (SetName(name, 1, "first") for name in ("questions", "pairs", "more-pairs"))
THRESHOLDS = (0.8, 0.9)


def answers(place, *, checked="d0"):
    """Score N queries of two domains whose relevant document is at `place` (from 0)."""
    ids = [f"x{i}" for i in range(10)]
    ranking = Ranking((*ids[:place], checked, *ids[place:]), tuple(0.9 - 0.01 * i for i in range(11)))
    queries = [(f"q{i}", "law" if i % 2 else "pets") for i in range(N)]
    return score(queries, [ranking] * N, {query: {checked: 1.0} for query, _ in queries})


def cosines(near_miss, phenomenon="negation"):
    """Give N triples whose paraphrases have a cosine of .7 and whose near-misses have this one."""
    return PairScores((phenomenon,) * N, (0.7,) * N, (near_miss,) * N)


def run(*scored, rule=None):
    """Put a run together."""
    return compile_run(
        scored,
        at=1_000.0,
        stack=Stack("d", "di", "r", "ri"),
        accepted_at=None,
        thresholds=THRESHOLDS,
        rule=rule or SignatureRule(),
    )


def names(found, against="reference"):
    """Give the names by domain."""
    return {one.domain: one.name for one in found.retrieval[0].signatures[against]}


def test_a_run_holds_what_the_parts_compute():
    """Means, scales, summaries, shares, changes and names are those of the functions that define them."""
    deployed, reference = answers(3), answers(0)
    near, far = cosines(0.9), cosines(0.75)
    found = run(Scored(QUESTIONS, deployed, reference, None, missing=0.25), Scored(PAIRS, far, near, None))
    (asked,), (told,) = found.retrieval, found.composition
    changes = compare_labelled(reference, deployed), compare_pairs(near, far)
    assert (asked.set, asked.missing, asked.hashes) == (QUESTIONS, 0.25, deployed.hashes)
    assert asked.means == {"deployed": means(deployed), "reference": means(reference)}
    assert asked.scales == {"deployed": scale(deployed), "reference": scale(reference)}
    assert asked.changes == {"reference": changes[0]}
    assert asked.signatures == {"reference": name_changes(*changes)}
    assert told.summaries == {"deployed": summarise(far), "reference": summarise(near)}
    assert told.shares == {"deployed": shares_above(far, THRESHOLDS), "reference": shares_above(near, THRESHOLDS)}
    assert told.changes == {"reference": changes[1]}
    assert names(found) == dict.fromkeys(("all", "law", "pets"), "precision_trap")


def test_each_comparison_is_with_its_own_pairs():
    """Against the accepted stack it is a trap; against a reference that is as sensitive it is a loss."""
    found = run(
        Scored(QUESTIONS, answers(3), answers(0), answers(1)),
        Scored(PAIRS, cosines(0.6), cosines(0.6), cosines(0.9)),
    )
    assert tuple(found.retrieval[0].changes) == AGAINST
    assert set(names(found, "reference").values()) == {"retrieval_loss"}
    assert set(names(found, "accepted").values()) == {"precision_trap"}
    assert found.retrieval[0].signatures["accepted"][0].retrieval.before == pytest.approx(
        answers(1).values["ndcg@10"][0]
    )


def test_pairs_that_were_not_accepted_yet_say_nothing_of_the_accepted_stack():
    """A composition set that is new since the acceptance has no part in that comparison."""
    found = run(Scored(QUESTIONS, answers(3), answers(0), answers(0)), Scored(PAIRS, cosines(0.6), cosines(0.9), None))
    assert set(names(found, "reference").values()) == {"precision_trap"}
    assert set(names(found, "accepted").values()) == {"retrieval_loss"}


def test_lists_condensed_to_known_documents_are_held_against_the_accepted_result():
    """New documents above the answer are no loss since the acceptance; against the reference the full list counts."""
    found = run(Scored(QUESTIONS, answers(3), answers(0), answers(0), compared=answers(0)))
    assert set(names(found, "accepted").values()) == {"unchanged"}
    assert set(names(found, "reference").values()) == {"retrieval_loss"}
    assert found.retrieval[0].means["deployed"] == means(answers(3))


def test_the_phenomena_of_all_composition_sets_count_together():
    """A trade in one set is no more averaged away by another set than by another phenomenon of its own."""
    questions = Scored(QUESTIONS, answers(3), answers(0), None)
    still = Scored(PAIRS, cosines(0.9), cosines(0.9), None)
    traded = Scored(MORE_PAIRS, cosines(0.6, "role_swap"), cosines(0.9, "role_swap"), None)
    found = run(questions, still, traded)
    assert set(names(found).values()) == {"precision_trap"}
    assert found.retrieval[0].signatures["reference"][0].rose == ("role_swap",)
    assert [one.set for one in found.composition] == [PAIRS, MORE_PAIRS]
    assert set(names(run(questions, still)).values()) == {"retrieval_loss"}


def test_the_rule_is_that_of_the_settings():
    """A tolerance of everything leaves no loss."""
    found = run(Scored(QUESTIONS, answers(3), answers(0), None), rule=SignatureRule(min_effect=1.0))
    assert set(names(found).values()) == {"changed_not_worse"}


def test_findings_name_every_domain_of_every_comparison():
    """Each with its set and what it is held against."""
    found = run(Scored(QUESTIONS, answers(3), answers(0), answers(3))).findings
    assert [(name, against, one.domain) for name, against, one in found] == [
        (QUESTIONS, against, domain) for against in AGAINST for domain in ("all", "law", "pets")
    ]
    assert {one.name for _, against, one in found if against == "accepted"} == {"unchanged"}


def test_the_state_is_of_the_deployed_rankings_and_the_sets():
    """Another ranking or another version of a set is another look; the reference and cosines are not asked."""
    first = Scored(QUESTIONS, answers(3), answers(0), None)
    other_reference = Scored(QUESTIONS, answers(3), answers(1), answers(2))
    pairs = Scored(PAIRS, cosines(0.6), cosines(0.9), None)
    assert run(first).state == run(other_reference, pairs).state
    states = {
        run(first).state,
        run(replace(first, deployed=answers(4))).state,
        run(replace(first, name=replace(QUESTIONS, checksum="second"))).state,
        run(first, replace(first, name=replace(QUESTIONS, name="others"))).state,
        run().state,
    }
    assert len(states) == 5


def test_only_results_of_the_same_queries_and_measures_are_comparable():
    """Other queries, domains, measures, phenomena or another kind of set are not."""
    one = answers(0)
    assert comparable(one, answers(3))
    assert comparable(cosines(0.6), cosines(0.9))
    others = [
        replace(one, queries=one.queries[::-1]),
        replace(one, domains=one.domains[::-1]),
        replace(one, values={"ndcg@10": one.values["ndcg@10"]}),
        cosines(0.9),
    ]
    assert not any(comparable(one, other) for other in others)
    assert not comparable(cosines(0.9), cosines(0.9, "role_swap"))
