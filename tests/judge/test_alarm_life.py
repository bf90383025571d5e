"""What becomes of an alarm: it escalates, it ends when the level is back, nothing pages twice; and tickets."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from sidecar.judge.judgement import SESSIONS, Judgement
from sidecar.model import (
    WHOLE_STREAM,
    Alarm,
    AlarmEnded,
    AlarmEscalated,
    BaselineAccepted,
    Observation,
    Ticket,
)
from tests.judge.observations import HOUSE, SIGNAL, START, STEP, options

pytestmark = pytest.mark.slow

ENOUGH = {"min_queries": 4000, "min_slice_queries": 2000}


def feed(judgement, observations):
    """Feed everything and give the events."""
    return [event for identity, one in observations for event in judgement.feed(identity, one)]


def of(events, *kinds):
    """Give the events of these kinds."""
    return [event for event in events if isinstance(event, kinds)]


def story(*phases, seed=0, slices=("legal", "support")):
    """Yield observations of phases (count, share of shared neighbours kept, shares of the slices, values by slice)."""
    rng = np.random.default_rng(seed)
    number = 0
    for count, keep, shares, means in phases:
        for _ in range(count):
            name = slices[int(rng.choice(len(slices), p=shares))]
            mean = (means[name] - 0.25) / 0.75
            shared = 10 if rng.random() < 0.25 else int(rng.binomial(10, rng.beta(mean * 4, (1 - mean) * 4)))
            shared = int(rng.binomial(shared, keep))
            number += 1
            yield (
                f"{number}-0",
                Observation(
                    entry_id=f"{number}-5",
                    at=START + number * STEP,
                    slice=name,
                    weight=1.0,
                    values={SIGNAL: shared / 10},
                    stack=HOUSE,
                ),
            )


EVEN = (0.5, 0.5)
SAME = {"legal": 0.62, "support": 0.62}


def test_an_alarm_escalates_once_per_tier_as_the_fall_is_proved():
    """A loss of 40 % is first a page and then proved to be more than 5 and more than 15 %, without a second page."""
    judgement = Judgement(options(**ENOUGH))
    events = feed(judgement, story((4500, 1.0, EVEN, SAME), (3000, 0.6, EVEN, SAME), seed=1))
    (alarm,) = of(events, Alarm)
    steps = [alarm.severity, *(event.severity for event in of(events, AlarmEscalated))]
    assert steps == sorted(set(steps), key=["minor", "major", "critical"].index)
    assert steps[-1] == "critical" == judgement.severity
    assert {event.alarm for event in of(events, AlarmEscalated)} == {alarm.id}


def test_a_fall_of_a_tenth_is_never_critical():
    """The tier of 15 % is a detector with the same promise: a fall of 10 % does not reach it."""
    judgement = Judgement(options(**ENOUGH))
    events = feed(judgement, story((4500, 1.0, EVEN, SAME), (9000, 0.9, EVEN, SAME), seed=2))
    assert len(of(events, Alarm)) == 1
    assert judgement.severity in {"minor", "major"}


def test_when_the_level_is_back_the_alarm_ends_and_a_second_event_pages_again():
    """Fall, repair, fall: two alarms, and between them one end by recovery, soon after the repair."""
    judgement = Judgement(options(**ENOUGH))
    phases = ((4500, 1.0, EVEN, SAME), (1500, 0.6, EVEN, SAME), (3000, 1.0, EVEN, SAME), (1500, 0.6, EVEN, SAME))
    events = feed(judgement, story(*phases, seed=3))
    assert [type(event) for event in of(events, Alarm, AlarmEnded)] == [Alarm, AlarmEnded, Alarm]
    first, ended, second = of(events, Alarm, AlarmEnded)
    assert (ended.alarm, ended.how) == (first.id, "recovered")
    repaired, fell_again = START + 6000 * STEP, START + 9000 * STEP
    # The way back is half of 40 % for the slices, which see half of the traffic; the mean of 500 must be back as well.
    assert repaired < ended.at <= repaired + 2500 * STEP
    assert fell_again < second.at <= fell_again + 200 * STEP
    assert second.start >= repaired


def test_half_a_repair_does_not_end_the_alarm():
    """A fall of 40 % that is repaired to a fall of 20 % stays one open alarm."""
    judgement = Judgement(options(**ENOUGH))
    events = feed(judgement, story((4500, 1.0, EVEN, SAME), (1500, 0.6, EVEN, SAME), (4000, 0.8, EVEN, SAME), seed=4))
    assert [type(event) for event in of(events, Alarm, AlarmEnded)] == [Alarm]
    assert judgement.verdicts()[0].state == "drifted"


def test_fixed_ends_the_alarm_keeps_the_baseline_and_sees_a_fix_that_was_none():
    """A person's word ends the alarm at once; when the level is still low, the judge pages again."""
    judgement = Judgement(options(**ENOUGH))
    observations = list(story((4500, 1.0, EVEN, SAME), (2000, 0.6, EVEN, SAME), seed=5))
    (alarm,) = of(feed(judgement, observations[:5500]), Alarm)
    (ended,) = judgement.fixed("request-1", START, "ada", "prompt restored")
    assert (ended.alarm, ended.how, ended.by, ended.why) == (alarm.id, "fixed", "ada", "prompt restored")
    assert judgement.verdicts()[0].state == "steady"
    assert judgement.verdicts()[0].baseline is not None
    assert judgement.evidence == 0.0
    assert len(of(feed(judgement, observations[5500:]), Alarm)) == 1


def test_other_questions_do_not_page():
    """When the traffic moves to the slice with the lower level, no slice changed and nothing pages.

    Levels .75 and .5, from half each to one in twenty and the rest: the whole stream's mean falls by 18 %, which
    without the slices' offsets is found in about 200 queries.
    """
    judgement = Judgement(options(**ENOUGH))
    levels = {"legal": 0.75, "support": 0.5}
    events = feed(judgement, story((4500, 1.0, EVEN, levels), (6000, 1.0, (0.05, 0.95), levels), seed=6))
    assert of(events, Alarm) == []
    by_slice, _ = judgement.mix()
    assert by_slice.distance == pytest.approx(0.45, abs=0.06)
    assert by_slice.mix == pytest.approx(-0.45 * 0.25, abs=3 * by_slice.mix_se)
    assert abs(by_slice.rate) <= 4 * by_slice.rate_se


def test_a_fall_within_the_slices_pages_although_the_mix_moves_too():
    """Offsets for the slices do not hide a real fall: found under another mix as well."""
    judgement = Judgement(options(**ENOUGH))
    levels = {"legal": 0.75, "support": 0.5}
    events = feed(judgement, story((4500, 1.0, EVEN, levels), (1500, 0.7, (0.2, 0.8), levels), seed=7))
    (alarm,) = of(events, Alarm)
    assert alarm.at <= START + (4500 + 500) * STEP


def test_a_slice_that_the_baseline_never_saw_is_told_and_held_against_nothing():
    """Queries of a new slice have no accepted level: they do not page, and their share is known."""
    judgement = Judgement(options(**ENOUGH))
    known = story((4500, 1.0, EVEN, SAME), seed=8)
    feed(judgement, known)
    new = [
        (f"{i}-1", dataclasses.replace(one, slice="chat", at=one.at + 4500 * STEP, values={SIGNAL: 0.1}))
        for i, (_, one) in enumerate(story((1500, 1.0, EVEN, SAME), seed=9))
    ]
    assert of(feed(judgement, new), Alarm, Ticket) == []
    assert judgement.first.tracks[WHOLE_STREAM].uncovered == 1500
    assert judgement.mix()[0].new_share == 1.0
    assert judgement.verdicts()[-1].state == "calibrating"


def test_a_rise_makes_one_ticket_and_no_page():
    """A level that is suddenly better (or a reference that silently changed) is a ticket."""
    judgement = Judgement(options(**ENOUGH))
    better = {"legal": 0.8, "support": 0.8}
    events = feed(judgement, story((4500, 1.0, EVEN, SAME), (2500, 1.0, EVEN, better), seed=10))
    assert of(events, Alarm) == []
    (ticket,) = of(events, Ticket)
    assert ticket.direction == "rise"
    assert ticket.level > ticket.baseline
    assert ticket.evidence >= ticket.threshold == 4.0


def test_a_fall_too_small_for_a_page_is_one_ticket():
    """Sure but immaterial: below the smallest effect that pages, the fall is written down once."""
    judgement = Judgement(options(min_effect=0.3, tiers=(0.4, 0.5), **ENOUGH))
    events = feed(judgement, story((4500, 1.0, EVEN, SAME), (6000, 0.85, EVEN, SAME), seed=11))
    assert of(events, Alarm) == []
    (ticket,) = of(events, Ticket)
    assert ticket.direction == "fall"
    assert judgement.verdicts()[0].severity == "ticket"


def two_signals(observations, *, frozen_from):
    """Add a second signal that is perfect until `frozen_from`, and then loses a document in every third query."""
    for i, (identity, one) in enumerate(observations):
        value = 0.9 if i >= frozen_from and i % 3 == 0 else 1.0
        yield identity, dataclasses.replace(one, values={**one.values, "frozen_overlap@10": value})


def test_two_signals_share_one_budget_and_one_page():
    """The sensitive signal pages first and alone; the weights of both sum to one."""
    judgement = Judgement(options(signals=(SIGNAL, "frozen_overlap@10"), **ENOUGH))
    observations = two_signals(story((6000, 1.0, EVEN, SAME), seed=12), frozen_from=4500)
    events = feed(judgement, observations)
    (alarm,) = of(events, Alarm)
    assert alarm.signal == "frozen_overlap@10"
    assert alarm.at <= START + (4500 + 150) * STEP
    assert sum(weight for weight, _ in judgement._judged().values()) == pytest.approx(1.0)
    states = {(one.signal, one.slice): one.state for one in judgement.verdicts()}
    assert states[SIGNAL, WHOLE_STREAM] == "steady"


def test_sessions_are_a_signal_of_their_own():
    """Closed sessions give a value each; hit sessions page under the name of the session signal."""
    rng = np.random.default_rng(13)
    judgement = Judgement(options(signals=(SIGNAL, SESSIONS), min_queries=500, min_slice_queries=500, min_days=0.0))

    def observations():
        for i in range(12_000):
            # A session has four steps. Later one step in two sessions is dead: a quarter of that for all queries.
            dead = i >= 8_000 and i % 8 == 0
            level = 0.0 if dead else float(rng.choice([0.6, 0.7, 0.8, 0.9]))
            yield (
                f"{i}-0",
                Observation(f"{i}-5", START + i * 60.0, "default", 1.0, {SIGNAL: level}, HOUSE, session=f"s{i // 4}"),
            )

    events = feed(judgement, observations())
    assert {event.signal for event in of(events, BaselineAccepted)} == {SIGNAL, SESSIONS}
    assert len(of(events, Alarm)) == 1
    summary = judgement.traffic.sessions.summary()
    assert summary.sessions > 2500
    states = {(one.signal, one.slice): one for one in judgement.verdicts()}
    assert states[SESSIONS, WHOLE_STREAM].evidence > 26


def test_restarts_all_through_the_life_of_an_alarm_change_nothing():
    """Stopped, written, read and continued at ten places, the judge raises the same events and ends the same.

    The places lie in the calibration, at its end, between change and alarm, in the alarm, after it.
    """
    phases = ((1200, 1.0, EVEN, SAME), (700, 0.6, EVEN, SAME), (900, 1.0, (0.3, 0.7), SAME))
    settings = options(signals=(SIGNAL, "frozen_overlap@10"))
    observations = list(two_signals(story(*phases, seed=14), frozen_from=1400))
    whole = Judgement(settings)
    expected = feed(whole, observations)
    assert {type(event) for event in expected} >= {BaselineAccepted, Alarm, AlarmEscalated}
    again, events, done = Judgement(settings), [], 0
    for cut in (3, 999, 1000, 1001, 1205, 1230, 1600, 1899, 1950, 2500, len(observations)):
        events += feed(again, observations[done:cut])
        again, done = Judgement.from_state(json.loads(json.dumps(again.to_state())), settings), cut
    assert events == expected
    assert again.to_state() == whole.to_state()
    assert again.verdicts() == whole.verdicts()
