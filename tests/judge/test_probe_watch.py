"""Replays of the frozen probes in the judge: when they page, that they share the one alarm, and when they are back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sidecar.drift.evidence import Sample
from sidecar.drift.paired import compare_paired
from sidecar.drift.probe_run import FrozenRun, ProbeSide
from sidecar.judge.judgement import Judgement
from sidecar.judge.probe_watch import FROZEN_PROBES
from sidecar.model import Alarm, AlarmEnded
from tests.judge.observations import HOUSE, SHIPPED, START, STEP, options, stream

PROBES = 200
EVERY = 300.0


def feed(judgement, observations):
    """Feed everything and give the events."""
    return [event for identity, one in observations for event in judgement.feed(identity, one)]


def side(hit, lost=0.2):
    """Give one side of a replay in which the first `hit` probes lost the share `lost` of their documents."""
    values = np.ones(PROBES)
    values[:hit] = 1.0 - lost
    moved = values < 1.0
    return ProbeSide(
        moved=int(moved.sum()),
        now=Sample(float(values.mean()), PROBES, float(values.std())),
        floor=Sample(1.0, PROBES, 0.0),
        known=None,
        new_share=None,
        gone_share=None,
        paired=compare_paired(np.ones(PROBES), values, moved=moved),
        hashes=tuple(f"{lost:.2f}" if one else "" for one in moved),
    )


def replays(judgement, *hits, first=0, stack=SHIPPED, lost=0.2, accepted_at=None):
    """Feed one replay for each number of hit probes and give the events."""
    events = []
    for number, hit in enumerate(hits, first):
        run = FrozenRun(
            at=START + 600_000 + number * EVERY,
            stack=HOUSE if not hit else stack,
            book="book",
            accepted_at=judgement.first.accepted_at if accepted_at is None else accepted_at,
            k=10,
            total=PROBES,
            awake=PROBES,
            deployed=side(hit, lost),
            reference=side(0),
        )
        events += judgement.feed_run(f"frozen-{number}-0", FrozenRun.from_json(run.to_json()))
    return events


@pytest.fixture
def judgement():
    """A judge with an accepted baseline."""
    made = Judgement(options())
    feed(made, stream(1500, seed=41))
    return made


def test_two_replays_in_a_row_page_and_one_does_not(judgement):
    """A material fall must be seen twice; the alarm has its exact size, its p-value and the stretch of its start."""
    assert replays(judgement, 0, 0, 40, 0) == []
    (alarm,) = replays(judgement, 40, 40, 40, first=4)
    assert (alarm.signal, alarm.slice) == (FROZEN_PROBES, "all")
    assert alarm.drop == alarm.drop_lower == alarm.drop_upper == pytest.approx(0.04)
    assert alarm.p <= 0.001
    assert alarm.severity == "minor"
    assert alarm.changed == ("deployed_encoder", "deployed_index")
    # The fourth replay was the last good one, the fifth the first bad one.
    assert (alarm.start_earliest, alarm.start_latest) == (START + 600_000 + 3 * EVERY, START + 600_000 + 4 * EVERY)
    assert judgement.alarm_id == alarm.id


@pytest.mark.parametrize(("hit", "lost"), [(9, 1.0), (30, 0.1)], ids=["too few moved", "too small"])
def test_what_is_not_proved_or_not_material_does_not_page(judgement, hit, lost):
    """Nine probes that fall have p = 2^-9 > .001; thirty that lose a tenth are a fall of 1.5 %, below 2 %."""
    assert replays(judgement, hit, hit, hit, lost=lost) == []
    assert judgement.alarm_id is None


def test_the_severity_is_the_measured_size(judgement):
    """Half of the probes lose everything: more than 15 % and critical, since the size is exact."""
    (alarm,) = replays(judgement, 100, 100, lost=1.0)
    assert alarm.severity == "critical"


def test_the_alarm_ends_when_the_answers_are_back_and_the_next_one_pages_again(judgement):
    """Two good replays in a row end it; a second accident is a second alarm."""
    first, ended, second = replays(judgement, 40, 40, 0, 0, 40, 40)
    assert isinstance(first, Alarm)
    assert isinstance(ended, AlarmEnded)
    assert (ended.alarm, ended.how) == (first.id, "recovered")
    assert isinstance(second, Alarm)


def test_an_open_alarm_of_the_live_signal_takes_the_probes_in(judgement):
    """One page for one event: the probes join, and the alarm lasts until both are back."""
    feed_from = stream(400, seed=42, drop_from=0, keep=0.4, shipped_from=0)
    later = [(f"{i}-9", replace(one, at=one.at + 1500 * STEP)) for i, (_, one) in enumerate(feed_from)]
    (alarm,) = [event for event in feed(judgement, later) if isinstance(event, Alarm)]
    assert alarm.signal == "overlap@10"
    assert replays(judgement, 40, 40, 40) == []
    assert judgement.probes.drifted


def test_probes_of_another_acceptance_say_nothing(judgement):
    """Replays that belong to an earlier baseline are passed over."""
    assert replays(judgement, 40, 40, 40, accepted_at=1.0) == []
    assert judgement.probes.effect is None


def test_a_restart_between_the_two_replays_changes_nothing(judgement):
    """The row of replays survives a checkpoint."""
    assert replays(judgement, 0, 40) == []
    again = Judgement.from_state(json.loads(json.dumps(judgement.to_state())), options())
    (alarm,) = replays(again, 40, first=2)
    assert alarm.id == "frozen-2-0"
    (ended,) = again.fixed("r", START, "ada", "repaired")
    assert ended.alarm == alarm.id
    assert replays(again, 0, 40, first=3) == []
