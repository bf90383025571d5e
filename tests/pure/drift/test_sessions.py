"""Sessions: what opens, closes and counts, and whether the intervals and the prediction are what they say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.sessions import (
    LONGEST,
    ClosedSession,
    Counts,
    SessionTracker,
    clopper_pearson,
    expected_share,
)

IDLE = 60.0


def tracker(**options):
    """Give a tracker whose sessions rest after a minute."""
    return SessionTracker(**{"idle_seconds": IDLE, **options})


def closed(counts):
    """Give a tracker that has closed these sessions: steps to counts."""
    made = tracker()
    made._counts = dict(counts)
    return made


def simulate(rng, sessions, share, clustered=0.0, lengths=(1, 2, 3, 5, 8)):
    """Give the counts of simulated sessions; a share `clustered` of them is disrupted in every step or in none."""
    counts = {}
    steps = rng.choice(lengths, size=sessions)
    disrupted = rng.binomial(steps, share)
    alike = rng.random(sessions) < clustered
    disrupted[alike] = steps[alike] * (rng.random(alike.sum()) < share)
    for n in lengths:
        d = disrupted[steps == n]
        counts[n] = Counts(len(d), int((d > 0).sum()), int(d.sum()), int((d**2).sum()))
    return counts


def test_a_session_closes_when_the_observations_have_moved_on():
    """It is over once another observation is more than the idle time younger than its last step."""
    made = tracker()
    assert made.add("a", 0.0, False) == []
    assert made.add("a", 50.0, True) == []
    assert made.add("b", 110.0, False) == []
    assert made.add("b", 110.5, False) == [ClosedSession(at=50.0, steps=2, disrupted=1)]
    assert made.add("b", 500.0, False) == [ClosedSession(at=110.5, steps=2, disrupted=0)]
    assert made.counts == {2: Counts(2, 1, 1, 1)}


def test_a_session_that_speaks_again_after_its_rest_is_another_one():
    """Its own pause closes it, too."""
    made = tracker()
    made.add("a", 0.0, True)
    assert made.add("a", 61.0, False) == [ClosedSession(at=0.0, steps=1, disrupted=1)]


@pytest.mark.parametrize(("disrupted", "value"), [(0, 1.0), (1, 0.0), (4, 0.0)])
def test_a_closed_session_is_worth_one_if_nothing_was_disrupted(disrupted, value):
    """The value falls when agents are hit."""
    assert ClosedSession(0.0, 5, disrupted).value == value


def test_the_session_that_was_longest_silent_gives_way_when_too_many_are_open():
    """The bound holds, and the summary counts what was cut."""
    made = tracker(most_open=2)
    made.add("a", 0.0, False)
    made.add("b", 1.0, False)
    made.add("a", 2.0, False)
    assert made.add("c", 3.0, True) == [ClosedSession(at=1.0, steps=1, disrupted=0)]
    assert (made.summary().open, made.summary().cut) == (2, 1)


def test_a_session_that_never_rests_is_cut():
    """After 100 steps it is judged, and goes on as another one."""
    made = tracker()
    over = [one for i in range(250) for one in made.add("a", float(i), False)]
    assert [one.steps for one in over] == [LONGEST, LONGEST]
    assert [one.at for one in over] == [99.0, 199.0]


steps = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.floats(-30, 90), st.booleans()), min_size=1, max_size=120
)  # session, seconds since the latest, disrupted


def told(one, sequence):
    """Feed steps whose times are relative to the latest; give what was closed, and the time reached."""
    now, over = 1e9, []
    for name, later, disrupted in sequence:
        over += one.add(name, now + later, disrupted)
        now = max(now, now + later)
    return over


@given(steps, st.integers(0, 120))
def test_a_restart_anywhere_changes_nothing(sequence, cut):
    """Through JSON: the same sessions close at the same observation, and the state is the same to the last bit."""
    whole = tracker(most_open=3)
    first = tracker(most_open=3)
    expected, found, now = [], [], 1e9
    for i, (name, later, disrupted) in enumerate(sequence):
        if i == cut:
            first = SessionTracker.from_state(json.loads(json.dumps(first.to_state())))
        expected.append(whole.add(name, now + later, disrupted))
        found.append(first.add(name, now + later, disrupted))
        now = max(now, now + later)
    assert found == expected
    assert first.to_state() == whole.to_state()


@given(steps)
def test_every_step_is_in_one_session_and_memory_is_bounded(sequence):
    """Steps and disrupted steps of closed and open sessions add up to what was fed; at most three are open."""
    made = tracker(most_open=3)
    over = told(made, sequence)
    opened = [one[2:] for one in made.to_state()["open"]]
    assert len(opened) <= 3
    assert sum(one.steps for one in over) + sum(count for count, _ in opened) == len(sequence)
    assert sum(one.disrupted for one in over) + sum(bad for _, bad in opened) == sum(bad for *_, bad in sequence)
    assert sum(one.sessions for one in made.counts.values()) == len(over)
    assert sum(one.squares for one in made.counts.values()) == sum(one.disrupted**2 for one in over)


def test_the_state_stays_small():
    """20,000 retrievals of sessions of all lengths: at most 1,000 open ones and 100 lines of counts."""
    made = SessionTracker()
    rng = np.random.default_rng(1)
    for i, name in enumerate(rng.integers(0, 4_000, size=20_000).tolist()):
        made.add(f"{name:016x}", 0.5 * i, i % 7 == 0)
    state = made.to_state()
    assert len(state["open"]) <= 1_000
    assert len(state["counts"]) <= LONGEST
    assert len(json.dumps(state)) < 60_000


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        ({"counts": [[101, 1, 0, 0, 0]]}, ValueError),
        ({"threshold": 2.0}, ValueError),
        ({"open": [["a", 1.0]]}, ValueError),
        ({"counts": [[1, 1]], "cut": None}, TypeError),
    ],
)
def test_a_state_that_is_none_is_refused(damage, error):
    """With the errors that the judge expects of a checkpoint."""
    with pytest.raises(error):
        SessionTracker.from_state(tracker().to_state() | damage)


def test_nothing_closed_is_a_summary_without_shares():
    """No guess is made without data."""
    summary = tracker().summary()
    assert (summary.sessions, summary.share, summary.expected, summary.retrieval, summary.excess) == (0, *[None] * 4)
    assert [(row.least, row.most) for row in summary.rows] == [*((n, n) for n in range(1, 11)), (11, None)]


def test_shares_are_given_by_number_of_steps():
    """Rows for 1 to 10 steps and one for longer sessions add up to the whole."""
    made = closed(
        {1: Counts(100, 10, 10, 10), 3: Counts(50, 12, 14, 18), 12: Counts(4, 2, 3, 5), 20: Counts(1, 1, 5, 25)}
    )
    summary = made.summary()
    rows = {row.least: row for row in summary.rows if row.sessions}
    assert {least: (row.sessions, row.hit, row.share) for least, row in rows.items()} == {
        1: (100, 10, 0.1),
        3: (50, 12, 0.24),
        11: (5, 3, 0.6),
    }
    assert (summary.sessions, summary.hit, summary.steps, summary.disrupted) == (155, 25, 318, 32)
    assert summary.retrieval.value == 32 / 318
    assert rows[11].expected == pytest.approx((4 * (1 - (1 - 32 / 318) ** 12) + 1 - (1 - 32 / 318) ** 20) / 5)
    for row in (summary, *rows.values()):
        assert row.lower < row.share < row.upper
        assert row.expected_lower < row.expected < row.expected_upper


@given(st.floats(0, 1), st.integers(1, 12))
def test_the_prediction_is_exact_under_independence(p, n):
    """1 - (1 - p)^n is the binomial probability of at least one among n, summed term by term."""
    summed = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(1, n + 1))
    assert expected_share(p, [(n, 7)]) == pytest.approx(summed, abs=1e-12)


def test_independent_steps_are_as_expected():
    """Over 200,000 sessions the excess is within four standard errors of 0: .0045 at most."""
    summary = closed(simulate(np.random.default_rng(2), 200_000, 0.1)).summary()
    # Var(hit - expected) <= Var(hit) <= 1/4 by session, and taking p from the same data only lowers it.
    assert abs(summary.excess.value) <= 4 * 0.5 / math.sqrt(200_000)
    assert summary.excess.upper - summary.excess.lower <= 2 * 1.96 * 0.5 / math.sqrt(200_000)


def test_disruptions_that_come_together_hit_fewer_sessions_than_expected():
    """With half of the sessions all or nothing the excess is the value worked out by hand, and its interval is below 0.

    For n steps half of the sessions are hit with p, half with 1 - (1 - p)^n: the excess is half of p - (1 - (1 - p)^n),
    averaged over the lengths; -.0965 for p = .1.
    """
    lengths = (1, 2, 3, 5, 8)
    summary = closed(simulate(np.random.default_rng(3), 20_000, 0.1, clustered=0.5)).summary()
    by_hand = np.mean([0.5 * (0.1 - (1 - 0.9**n)) for n in lengths])
    assert summary.excess.upper < 0
    assert summary.excess.lower <= by_hand <= summary.excess.upper
    # Half of the steps are alike within their session, so p is known as well as from far fewer of them.
    plain = clopper_pearson(summary.disrupted, summary.steps)
    assert summary.retrieval.upper - summary.retrieval.lower > 1.3 * (plain.upper - plain.lower)


@pytest.mark.parametrize(("hit", "given"), [(99, False), (100, True), (400, True), (401, False)])
def test_the_excess_waits_for_a_hundred_sessions_of_either_kind(hit, given):
    """A normal interval from fewer would be a guess."""
    assert (closed({2: Counts(500, hit, hit, hit)}).summary().excess is not None) == given


@pytest.mark.parametrize(("p", "n"), [(0.003, 40), (0.02, 200), (0.1, 30), (0.5, 11), (0.97, 100)])
def test_the_interval_of_a_share_covers_at_least_as_often_as_it_says(p, n):
    """Summed over all outcomes, not simulated: the coverage is .95 or more for every p and n."""
    covered = 0.0
    for k in range(n + 1):
        bounds = clopper_pearson(k, n)
        if bounds.lower <= p <= bounds.upper:
            covered += math.comb(n, k) * p**k * (1 - p) ** (n - k)
    assert covered >= 0.95 - 1e-12


@pytest.mark.parametrize("clustered", [0.0, 0.5], ids=["independent", "clustered"])
def test_intervals_cover_in_simulated_streams_of_sessions(clustered):
    """In 1,000 simulations of 2,000 sessions each 95 % interval (p, share, excess) misses the truth at most 71 times.

    Misses at .05 are binomial(1,000, .05): 71 or fewer with probability .998. The share's interval is exact (.05 or
    less); those of p and of the excess are asymptotic, and 400 sessions or more are hit.
    """
    lengths, p = (1, 2, 3, 5, 8), 0.1
    # The lengths are drawn too, so the truth is that of their law.
    independent = np.mean([1 - (1 - p) ** n for n in lengths])
    share = (1 - clustered) * independent + clustered * p
    truth = (p, share, share - independent)
    rng = np.random.default_rng(5)
    missed = np.zeros(3, dtype=int)
    for _ in range(1_000):
        summary = closed(simulate(rng, 2_000, p, clustered)).summary()
        excess, retrieval = summary.excess, summary.retrieval
        bounds = ((retrieval.lower, retrieval.upper), (summary.lower, summary.upper), (excess.lower, excess.upper))
        missed += [not low <= one <= high for (low, high), one in zip(bounds, truth, strict=True)]
    assert missed.max() <= 71, missed


@pytest.mark.parametrize(
    ("options", "rule"),
    [({"threshold": 1.1}, "threshold"), ({"idle_seconds": 0}, "idle_seconds"), ({"most_open": 0}, "most_open")],
)
def test_options_outside_their_range_are_refused(options, rule):
    """The message names the option."""
    with pytest.raises(ValueError, match=rule):
        tracker(**options)


def test_a_time_or_a_confidence_that_is_none_is_refused():
    """Neither can be guessed."""
    with pytest.raises(ValueError, match="time"):
        tracker().add("a", math.nan, False)
    with pytest.raises(ValueError, match="confidence"):
        tracker().summary(1.0)
