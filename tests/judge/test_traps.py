"""Ways in which a judge could be silent or wrong, each found by trying to break it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sidecar.judge.judgement import SESSIONS, Judgement
from sidecar.model import WHOLE_STREAM, Alarm, AlarmEnded, AlarmEscalated, BaselineAccepted, Observation
from tests.judge.observations import HOUSE, SIGNAL, START, STEP, options
from tests.judge.test_alarm_life import ENOUGH, EVEN, SAME, feed, of, story
from tests.judge.test_probe_watch import replays

FIRST, SECOND = "legal", "support"


def reread(judgement, settings):
    """Write the state, read it back under these options."""
    return Judgement.from_state(json.loads(json.dumps(judgement.to_state())), settings)


def steady(count, *, mean=0.8, sd=0.1, first=0, step=STEP, seed=0, slices=("a",), **changes):
    """Yield observations around a mean, on the grid of tenths."""
    rng = np.random.default_rng([seed, first])
    for i in range(first, first + count):
        value = float(np.clip(np.rint(10 * rng.normal(mean, sd)) / 10, 0, 1))
        one = Observation(f"{i}-5", START + i * step, slices[i % len(slices)], 1.0, {SIGNAL: value}, HOUSE)
        yield f"{i}-0", replace(one, **changes)


def test_an_accident_behind_a_harmless_fall_still_pages():
    """A fall of 1 % for weeks has all the evidence there can be and does not page; one of 15 % behind it does."""
    judgement = Judgement(options(min_queries=5000, min_slice_queries=5000, tolerance=0.0))
    harmless = [
        (identity, replace(one, values={SIGNAL: 1.0 if i % 20 else 0.8 if i < 5000 else 0.6}))
        for i, (identity, one) in enumerate(steady(12_000))
    ]
    assert of(feed(judgement, harmless), Alarm) == []
    assert judgement.evidence > judgement.options.weeks_between_false_pages
    (alarm,) = of(feed(judgement, steady(600, mean=0.84, first=12_000)), Alarm)
    assert alarm.at <= START + 12_060 * STEP
    assert alarm.drop >= 0.02
    assert judgement.verdicts()[0].level == pytest.approx(0.84, abs=0.02)


def test_an_easier_mix_does_not_hide_a_fall_within_every_slice():
    """Every slice loses a tenth while the traffic moves to the easier one: the whole mean rises, and it pages."""
    judgement = Judgement(options(**ENOUGH))
    levels = {FIRST: 0.8, SECOND: 0.5}
    events = feed(judgement, story((4500, 1.0, EVEN, levels), (3000, 0.9, (0.95, 0.05), levels), seed=51))
    (alarm,) = of(events, Alarm)
    assert 0.02 <= alarm.drop < 0.35


def test_samples_that_only_a_floor_let_in_do_not_move_the_whole_streams_null():
    """Half of all observations are floor samples of a hard slice: the offsets of the others stay near zero."""
    judgement = Judgement(options(min_queries=2000, min_slice_queries=1500))
    rng = np.random.default_rng(52)
    for i in range(9000):
        hard = i % 2 == 0
        level = float(np.clip(np.rint(10 * rng.normal(0.4 if hard else 0.8, 0.1)) / 10, 0, 1))
        one = Observation(
            f"{i}-5", START + i * STEP, "hard" if hard else "big", 0.0 if hard else 1.0, {SIGNAL: level}, HOUSE
        )
        assert of(judgement.feed(f"{i}-0", one), Alarm) == []
    strata = judgement.first.tracks[WHOLE_STREAM].baseline.strata
    assert strata["big"].offsets[0] == pytest.approx(0.0, abs=0.01)


def sessions(count, *, steps, first=0, hit=0.02, stack=HOUSE, seed=53):
    """Yield sessions of so many steps, a minute from step to step; a step is dead with probability `hit`."""
    rng = np.random.default_rng([seed, first])
    for i in range(count * steps):
        level = 0.1 if rng.random() < hit else 0.8
        number = first + i
        yield (
            f"{number}-0",
            Observation(
                f"{number}-5", START + number * 60.0, "a", 1.0, {SIGNAL: level}, stack, session=f"{first}/{i // steps}"
            ),
        )


def with_sessions(**changes):
    """Give options that watch sessions."""
    return options(signals=(SIGNAL, SESSIONS), min_queries=500, min_slice_queries=500, min_days=0.0, **changes)


def test_sessions_do_not_page_because_the_reference_changed():
    """What is set aside for the first signal is not counted for sessions either."""
    judgement = Judgement(with_sessions())
    feed(judgement, sessions(1500, steps=2))
    changed = replace(HOUSE, reference_encoder="encoder-q")
    assert of(feed(judgement, sessions(600, steps=2, first=3000, hit=0.9, stack=changed)), Alarm) == []


def test_longer_sessions_are_no_drift():
    """Agents take six steps instead of two, each as good as before: more sessions are hit, and nothing pages."""
    judgement = Judgement(with_sessions())
    feed(judgement, sessions(1000, steps=2))
    assert judgement.watches[SESSIONS].accepted is not None
    assert of(feed(judgement, sessions(1500, steps=6, first=2000)), Alarm) == []


def test_another_meaning_of_disrupted_begins_the_sessions_anew():
    """With another threshold the accepted share of sessions means nothing: it is measured again."""
    judgement = Judgement(with_sessions())
    feed(judgement, sessions(1000, steps=2))
    again = reread(judgement, with_sessions(disrupted=0.4))
    assert again.watches[SESSIONS].accepted is None
    assert again.traffic.sessions.threshold == 0.4
    assert again.accepted is not None


def test_a_slice_that_calibrates_during_an_alarm_does_not_learn_the_drift():
    """What came between the start of the drift and its end is in no baseline that follows."""
    judgement = Judgement(options(min_queries=4000, min_slice_queries=3000))
    phases = ((4500, 1.0, (0.9, 0.1), SAME), (2000, 0.5, EVEN, SAME), (9000, 1.0, EVEN, SAME))
    events = feed(judgement, story(*phases, seed=54))
    assert [type(one) for one in of(events, Alarm, AlarmEnded)] == [Alarm, AlarmEnded]
    late = [one for one in of(events, BaselineAccepted) if one.slice == SECOND]
    assert [one.mean for one in late] == [pytest.approx(0.62, abs=0.03)]


def test_an_alarm_whose_signal_is_no_longer_watched_ends():
    """The drifted signal is taken out of the settings: the alarm does not stay open for ever."""
    both = options(signals=(SIGNAL, "frozen_overlap@10"), **ENOUGH)
    judgement = Judgement(both)
    observations = [
        (identity, replace(one, values={**one.values, "frozen_overlap@10": 1.0 if i < 4500 or i % 3 else 0.7}))
        for i, (identity, one) in enumerate(story((5000, 1.0, EVEN, SAME), seed=55))
    ]
    (alarm,) = of(feed(judgement, observations), Alarm)
    assert alarm.signal == "frozen_overlap@10"
    again = reread(judgement, options(**ENOUGH))
    (ended,) = of(feed(again, steady(5, first=9000, slices=(FIRST,))), AlarmEnded)
    assert ended.alarm == alarm.id


def test_an_alarm_of_a_slice_that_fell_silent_ends_after_days():
    """A tenant that drifted and then left does not keep the pager busy; how it ended is said."""
    judgement = Judgement(options(**ENOUGH))
    rng = np.random.default_rng(56)
    hit = [
        (i, replace(one, values={SIGNAL: one.values[SIGNAL] * (rng.random() < 0.3)}) if one.slice == SECOND else one)
        for i, one in story((6500, 1.0, EVEN, SAME), seed=56)
        if int(i.split("-")[0]) > 4500
    ]
    feed(judgement, story((4500, 1.0, EVEN, SAME), seed=56))
    (alarm,) = of(feed(judgement, hit), Alarm)
    later = story((6500, 1.0, (1.0, 0.0), SAME), seed=57)
    shifted = [(f"9{i}", replace(one, at=one.at + 6500 * STEP)) for i, one in later]
    (ended,) = of(feed(judgement, shifted), AlarmEnded)
    assert alarm.slice == SECOND
    assert ended.how in {"silent", "recovered"}
    assert ended.at <= START + (6500 + 3.5 * 288 + 2500) * STEP


def test_recovery_is_seen_under_another_mix():
    """Repaired while the traffic has moved to the harder slice: the alarm ends all the same."""
    judgement = Judgement(options(**ENOUGH))
    levels = {FIRST: 0.8, SECOND: 0.5}
    phases = ((4500, 1.0, EVEN, levels), (1200, 0.5, EVEN, levels), (5000, 1.0, (0.15, 0.85), levels))
    events = feed(judgement, story(*phases, seed=58))
    assert [type(one) for one in of(events, Alarm, AlarmEnded)] == [Alarm, AlarmEnded]


@pytest.mark.parametrize("gap_days", [35, 365])
def test_a_long_silence_or_a_clock_that_jumps_does_not_page(gap_days):
    """One value stakes at most six hours, however long nothing came."""
    judgement = Judgement(options(**ENOUGH))
    feed(judgement, story((4500, 1.0, EVEN, SAME), seed=59))
    later = story((1000, 1.0, EVEN, SAME), seed=60)
    after = [(f"9{i}", replace(one, at=one.at + 4500 * STEP + gap_days * 86_400)) for i, one in later]
    assert of(feed(judgement, after), Alarm) == []


def test_changed_settings_are_taken_at_a_restart():
    """The calibration's minimum and the tiers are those of the settings, not of the checkpoint."""
    judgement = Judgement(options(min_queries=5000, min_days=0.0))
    feed(judgement, steady(1200))
    again = reread(judgement, options(min_queries=1000, min_days=0.0))
    assert again.verdicts()[0].progress == 1.0
    feed(again, steady(600, first=1200))
    assert again.accepted is not None
    other = reread(again, options(min_queries=1000, min_days=0.0, tiers=(0.3, 0.5)))
    events = feed(other, steady(1500, mean=0.7, first=1800))
    assert len(of(events, Alarm)) == 1
    assert of(events, AlarmEscalated) == []


def test_fixed_without_an_alarm_throws_nothing_away():
    """A person's word about an alarm that is not open changes nothing."""
    judgement = Judgement(options(min_queries=1000))
    feed(judgement, steady(1500))
    before = judgement.to_state()
    assert judgement.fixed("request-9", START, "ada", "?") == []
    assert judgement.to_state() == {**before, "last_request": "request-9"}


def test_probes_that_get_worse_escalate_their_alarm():
    """From a fall of 4 % to one of 50 %: one alarm, and it says so."""
    judgement = Judgement(options(min_queries=1000))
    feed(judgement, steady(1500))
    (alarm,) = of(replays(judgement, 40, 40), Alarm)
    assert alarm.severity == "minor"
    (escalated,) = replays(judgement, 100, first=2, lost=1.0)
    assert (escalated.alarm, escalated.severity) == (alarm.id, "critical")
