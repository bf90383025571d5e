"""Runs of the canaries in the judge: what is found and told once, when a set pages, and when it is back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from functools import lru_cache

import pytest

from sidecar import redis_shapes
from sidecar.drift.canary_run import Scored, SetName, compile_run
from sidecar.drift.composition import PairScores
from sidecar.drift.labelled import MEASURES, RetrievalScores
from sidecar.drift.signature import SignatureRule
from sidecar.judge.canary_watch import CANARIES
from sidecar.judge.judgement import SILENT_SECONDS, Judgement
from sidecar.model import Alarm, AlarmEnded, AlarmEscalated, CalibrationStarted, CanaryFinding
from sidecar.store import START as FIRST
from sidecar.store import Store
from tests.judge.observations import HOUSE, SHIPPED, START, STEP, options, stream
from tests.judge.test_duty import Recorder, judge, running, until

QUERIES = 100
"""Queries of a domain; there are two."""

SETS = (SetName("questions", 1, "first"), SetName("others", 3, "second"))
BEGIN = START + 600_000
EVERY = 3600.0
MINOR, MAJOR, CRITICAL = (16, 0.5), (40, 0.5), (80, 0.5)
"""Queries of `law` that lost, and what is left of their score: falls of 4, 10 and 20 % of the whole."""


def scores(lost=0, left=1.0, queries=QUERIES) -> RetrievalScores:
    """Score a set in which the first queries of the first domain have a part of their score left."""
    values = (*(left,) * lost, *(1.0,) * (2 * queries - lost))
    return RetrievalScores(
        queries=tuple(f"q{i}" for i in range(2 * queries)),
        domains=("law",) * queries + ("pets",) * queries,
        rankings=tuple(("a", "b") if one == 1.0 else ("b", "a") for one in values),
        values=dict.fromkeys(MEASURES, values),
        top=(0.9,) * 2 * queries,
        gap=(0.1,) * 2 * queries,
    )


def cosines(pushed=0.0) -> PairScores:
    """Give pairs whose near-misses are pushed away."""
    return PairScores(("negation",) * 40, (0.9,) * 40, tuple(0.85 + 0.002 * i - pushed for i in range(40)))


@lru_cache
def compiled(lost, against_reference, pushed, sets, queries):
    """Put a run together; `lost` is of the first set, the others never change."""
    still = scores(queries=queries)
    labelled = [
        Scored(
            name,
            scores(*lost, queries=queries) if name == sets[0] else still,
            still,
            None if against_reference else still,
        )
        for name in sets
    ]
    pairs = Scored(SetName("pairs", 1, "third"), cosines(pushed), cosines(), None if against_reference else cosines())
    return compile_run(
        [*labelled, *([pairs] if pushed else [])],
        at=0.0,
        stack=SHIPPED if lost[0] else HOUSE,
        accepted_at=0.0,
        thresholds=(0.9,),
        rule=SignatureRule(),
    )


def runs(judgement, *lost, first=0, at=None, accepted_at=None, pushed=0.0, sets=SETS[:1], queries=QUERIES, bare=False):
    """Feed one run for each (queries that lost, what they have left), as Redis gives it back; give the events."""
    events = []
    for number, one in enumerate(lost, first):
        made = replace(
            compiled(one or (0, 1.0), bare, pushed, sets, queries),
            at=BEGIN + number * EVERY if at is None else at,
            accepted_at=judgement.first.accepted_at if accepted_at is None else accepted_at,
        )
        read = redis_shapes.canary_run({b"run": redis_shapes.canary_run_json(made)})
        events += judgement.feed_canaries(f"canaries-{number}-0", read)
    return events


def of(events, *kinds):
    """Give the events of these kinds."""
    return [event for event in events if isinstance(event, kinds)]


def paged(events):
    """Give the events that are about alarms."""
    return of(events, Alarm, AlarmEscalated, AlarmEnded)


def feed(judgement, observations):
    """Feed live observations and give the events."""
    return [event for identity, one in observations for event in judgement.feed(identity, one)]


def reread(judgement):
    """Restart the judge from its checkpoint."""
    return Judgement.from_state(json.loads(json.dumps(judgement.to_state(), allow_nan=False)), options())


@pytest.fixture(scope="module")
def accepted():
    """Give the state of a judge with an accepted baseline."""
    made = Judgement(options())
    feed(made, stream(1500, seed=41))
    return json.dumps(made.to_state())


@pytest.fixture
def judgement(accepted):
    """Give a judge with an accepted baseline."""
    return Judgement.from_state(json.loads(accepted), options())


class TestPages:
    """A set pages by the mean of all its queries, held against the accepted stack."""

    def test_two_runs_in_a_row_page_once_and_one_does_not(self, judgement):
        """The alarm has the set's name, the exact size, the p-value and the stretch in which it began."""
        assert paged(runs(judgement, None, None, MAJOR, None, MAJOR)) == []
        (alarm,) = paged(runs(judgement, MAJOR, MAJOR, MAJOR, first=5))
        assert (alarm.id, alarm.signal, alarm.slice) == ("canaries-5-0/questions", CANARIES, "questions")
        assert (alarm.baseline, alarm.level) == (1.0, pytest.approx(0.9))
        assert alarm.drop == alarm.drop_lower == alarm.drop_upper == pytest.approx(0.1)
        assert (alarm.evidence, alarm.queries_since_start) == (0.0, 2 * QUERIES)
        assert 0.0 < alarm.p <= 0.001
        assert alarm.changed == ("deployed_encoder", "deployed_index")
        assert (alarm.accepted_stack, alarm.stack) == (HOUSE, SHIPPED)
        assert (alarm.start_earliest, alarm.start_latest, alarm.start) == (
            BEGIN + 3 * EVERY,
            BEGIN + 4 * EVERY,
            BEGIN + 4 * EVERY,
        )
        assert judgement.alarm_id == alarm.id
        assert judgement.canaries.drifted == {"questions/first"}

    @pytest.mark.parametrize(
        ("lost", "severity"), [(MINOR, "minor"), (MAJOR, "major"), (CRITICAL, "critical"), ((20, 0.5), "minor")]
    )
    def test_the_severity_is_the_measured_size(self, judgement, lost, severity):
        """Above 5 % it is major, above 15 % critical; exactly 5 % is not above."""
        (alarm,) = paged(runs(judgement, lost, lost))
        assert alarm.severity == severity

    @pytest.mark.parametrize("lost", [(9, 0.0), (30, 0.9)], ids=["too few moved", "too small"])
    def test_what_is_not_proved_or_not_material_does_not_page(self, judgement, lost):
        """Nine queries that fall have p = 2^-9 > .001; thirty that lose a tenth are a fall of 1.5 %, below 2 %."""
        assert paged(runs(judgement, lost, lost, lost)) == []
        assert judgement.alarm_id is None

    def test_a_larger_fall_escalates_the_open_alarm(self, judgement):
        """One page for one event: what follows raises its severity, once for each tier."""
        first, *steps = paged(runs(judgement, MINOR, MINOR, MAJOR, MAJOR, CRITICAL, CRITICAL))
        assert (type(first), first.severity) == (Alarm, "minor")
        assert [(one.alarm, one.severity) for one in steps] == [(first.id, "major"), (first.id, "critical")]
        assert len({one.id for one in (first, *steps)}) == 3

    def test_two_sets_share_the_one_alarm(self, judgement):
        """Each set has runs in a row of its own, named after it; the second one to fall joins."""
        assert paged(runs(judgement, MINOR, sets=SETS)) == []
        assert paged(runs(judgement, MINOR, sets=SETS[::-1], first=1)) == []
        (alarm,) = paged(runs(judgement, MINOR, sets=SETS[::-1], first=2))
        assert (alarm.slice, judgement.canaries.drifted) == ("others", {"others/second"})
        assert paged(runs(judgement, MINOR, MINOR, sets=SETS, first=3)) == []
        assert judgement.canaries.drifted == {"questions/first", "others/second"}

    def test_an_open_alarm_of_the_live_signal_takes_the_canaries_in(self, judgement):
        """They join and may raise its severity; what is over is only the live part, until the canaries are back."""
        later = stream(500, seed=42, drop_from=0, keep=0.6, shipped_from=0)
        alarms = (
            alarm
            for i, (_, one) in enumerate(later)
            for alarm in of(judgement.feed(f"{i}-9", replace(one, at=one.at + 1500 * STEP)), Alarm)
        )
        alarm = next(alarms)
        assert (alarm.signal, judgement.severity) == ("overlap@10", "minor")
        (raised,) = paged(runs(judgement, CRITICAL, CRITICAL, CRITICAL))
        assert (raised.alarm, raised.severity) == (alarm.id, "critical")
        good = [(f"{i}-8", replace(one, at=one.at + 2000 * STEP)) for i, (_, one) in enumerate(stream(3500, seed=43))]
        for number, place in enumerate(range(0, len(good), 500), 3):
            assert paged(feed(judgement, good[place : place + 500])) == []
            assert paged(runs(judgement, CRITICAL, first=number, at=good[place + 499][1].at)) == []
        assert all(track.recovered for track in judgement.first.tracks.values() if track.alarm_at)
        (ended,) = paged(runs(judgement, None, None, first=20, at=good[-1][1].at))
        assert (ended.alarm, ended.how) == (alarm.id, "recovered")

    def test_runs_of_another_acceptance_say_nothing(self, judgement):
        """What is held against an earlier baseline neither pages nor recovers nor is told."""
        assert runs(judgement, MAJOR, MAJOR, MAJOR, accepted_at=1.0, bare=True) != []
        events = runs(judgement, MAJOR, MAJOR, MAJOR, accepted_at=1.0, first=3)
        assert [one for one in events if one.against == "accepted"] == []
        assert (judgement.alarm_id, judgement.canaries.accepted_at) == (None, None)


class TestTheEnd:
    """An alarm of the canaries lasts until they are back or a person says otherwise."""

    def test_two_good_runs_end_it_and_the_next_fall_is_a_second_alarm(self, judgement):
        """One good run is not enough; what comes after the end needs two runs again."""
        first, ended, second = paged(runs(judgement, MAJOR, MAJOR, None, MAJOR, None, None, MAJOR, MAJOR))
        assert [type(one) for one in (first, ended, second)] == [Alarm, AlarmEnded, Alarm]
        assert (ended.alarm, ended.how, ended.at) == (first.id, "recovered", BEGIN + 5 * EVERY)
        assert second.id == "canaries-7-0/questions"

    def test_a_fall_that_is_too_small_to_page_but_material_keeps_it_open(self, judgement):
        """Half a repair is none: good is what has no material fall."""
        assert len(paged(runs(judgement, MAJOR, MAJOR, (8, 0.5), (8, 0.5), (8, 0.49), (8, 0.49)))) == 1
        assert judgement.alarm_id is not None
        (ended,) = paged(runs(judgement, (7, 0.5), (7, 0.5), first=6))
        assert ended.how == "recovered"

    def test_fixed_ends_it_and_sees_a_fix_that_was_none(self, judgement):
        """A person's word ends the alarm; two more bad runs open the next one."""
        (alarm,) = paged(runs(judgement, MAJOR, MAJOR))
        (ended,) = judgement.fixed("r", START, "ada", "repaired")
        assert (ended.alarm, ended.how) == (alarm.id, "fixed")
        assert paged(runs(judgement, MAJOR, first=2)) == []
        assert len(paged(runs(judgement, MAJOR, first=3))) == 1

    def test_a_calibration_ends_it_and_the_old_runs_are_history(self, judgement):
        """Runs that were held against the baseline that was given up say nothing more of it."""
        before = judgement.first.accepted_at
        (alarm,) = paged(runs(judgement, MAJOR, MAJOR))
        ended, started = judgement.recalibrate("r", START, "ada", "wanted")
        assert (ended.alarm, ended.how, type(started)) == (alarm.id, "recalibrated", CalibrationStarted)
        assert runs(judgement, MAJOR, MAJOR, first=2, accepted_at=before) == []
        feed(judgement, ((f"9{i}", replace(one, at=one.at + 10**6)) for i, one in stream(1500, seed=44)))
        assert judgement.first.accepted_at != before
        assert runs(judgement, MAJOR, MAJOR, first=4, accepted_at=before) == []
        told = runs(judgement, MAJOR, MAJOR, first=6)
        assert {one.against for one in of(told, CanaryFinding)} == {"accepted"}
        assert len(paged(told)) == 1

    @pytest.mark.parametrize("now", [SETS[1:], (SetName("questions", 2, "changed"),)], ids=["gone", "other content"])
    def test_a_set_that_is_run_no_more_does_not_keep_it_open_for_ever(self, judgement, now):
        """A set that was taken away or has another content can never be back; after days of silence that is said."""
        (alarm,) = paged(runs(judgement, MAJOR, MAJOR))
        days = int(SILENT_SECONDS // EVERY)
        assert paged(runs(judgement, *[None] * days, first=2, sets=now)) == []
        (ended,) = paged(runs(reread(judgement), None, None, first=2 + days, sets=now))
        assert (ended.alarm, ended.how) == (alarm.id, "silent")

    def test_a_set_that_is_gone_leaves_the_others_in_charge(self, judgement):
        """The alarm stays while another set is still down, and ends as silent only when that one is back."""
        both = (*SETS, SetName("third", 1, "x"))
        assert len(paged(runs(judgement, MAJOR, MAJOR, sets=both))) == 1
        assert paged(runs(judgement, MAJOR, MAJOR, first=2, sets=SETS[1:])) == []
        days = int(SILENT_SECONDS // EVERY) + 4
        assert paged(runs(judgement, *[MAJOR] * days, first=4, sets=SETS[1:])) == []
        (ended,) = paged(runs(judgement, None, None, first=4 + days, sets=SETS[1:]))
        assert ended.how == "silent"

    def test_a_judge_that_works_off_a_backlog_does_not_take_its_queries_for_silent(self, judgement):
        """Runs carry the present time, the queries of a backlog that of days ago: the alarm of the one stays open."""
        later = [
            (f"{i}-9", replace(one, at=one.at + 1500 * STEP))
            for i, (_, one) in enumerate(stream(600, seed=42, drop_from=0, keep=0.4))
        ]
        assert len(of(feed(judgement, later), Alarm)) == 1
        for number in range(5):
            assert paged(runs(judgement, None, first=number, at=BEGIN + 30 * 86_400.0 + number)) == []
        assert judgement.alarm_id is not None


class TestFindings:
    """What happened to a domain has a name, and a name that changes goes into the trail."""

    def test_a_name_is_told_when_it_changes_and_not_again(self, judgement):
        """An unchanged beginning says nothing; a loss is told once for each side, and so is the way back."""
        assert runs(judgement, None, None) == []
        told = runs(judgement, (9, 0.0), (9, 0.0), first=2)
        assert {(one.against, one.domain, one.signature) for one in told} == {
            (against, domain, "retrieval_loss") for against in ("reference", "accepted") for domain in ("all", "law")
        }
        one = next(one for one in told if (one.against, one.domain) == ("accepted", "law"))
        assert (one.probe_set, one.version, one.checksum) == ("questions", 1, "first")
        assert (one.ndcg_before, one.ndcg_now, one.p) == (1.0, pytest.approx(0.91), pytest.approx(2**-9))
        assert (one.phenomenon, one.near_miss_before) == (None, None)
        assert "law: nDCG@10 1.000 to 0.910 (-9.0%)" in one.summary
        back = runs(judgement, None, None, first=4)
        assert {(one.domain, one.signature) for one in back} == {("all", "unchanged"), ("law", "unchanged")}
        assert len({one.id for one in (*told, *back)}) == 8
        assert [(one.at, one.stack) for one in told] == [(BEGIN + 2 * EVERY, SHIPPED)] * 4

    def test_a_trade_is_told_with_both_numbers(self, judgement):
        """Near-misses pushed away and retrieval lost: the trap, in the domain that lost, beside one that did not."""
        told = of(runs(judgement, MAJOR, MAJOR, pushed=0.2), CanaryFinding)
        found = {one.domain: one for one in told if one.against == "accepted"}
        assert {name: one.signature for name, one in found.items()} == {
            "all": "precision_trap",
            "law": "precision_trap",
            "pets": "changed_not_worse",
        }
        one = found["law"]
        assert (one.ndcg_before, one.ndcg_now) == (1.0, pytest.approx(0.8))
        assert (one.phenomenon, one.near_miss_before - one.near_miss_now) == ("negation", pytest.approx(0.2))
        assert one.paraphrase_before == one.paraphrase_now == pytest.approx(0.9)
        assert one.auc_before < one.auc_now
        assert not one.sensitivity_only

    def test_a_set_that_hovers_between_two_names_for_nothing_is_told_once(self, judgement):
        """Proved or not proved to be no loss: on an index that changes every hour that would fill the trail."""
        told = runs(judgement, *[(3, 0.5), (1, 0.5)] * 3)
        assert {one.signature for one in told if one.domain == "law"} == {"changed_unclear"}
        assert len(told) == 4
        assert {one.signature for one in runs(judgement, (9, 0.0), first=6)} == {"retrieval_loss"}

    def test_a_restart_repeats_and_forgets_nothing(self, judgement):
        """Stopped and read again after each run, the judge gives the events of one that never stopped."""
        story = [None, MINOR, MINOR, MAJOR, None, MAJOR, (9, 0.0), None, None, CRITICAL, CRITICAL]
        again = reread(judgement)
        expected = runs(judgement, *story)
        events = []
        for number, one in enumerate(story):
            events += runs(again, one, first=number)
            again = reread(again)
        assert events == expected
        assert [type(one) for one in paged(expected)] == [Alarm, AlarmEscalated, AlarmEnded, Alarm]
        assert again.to_state() == judgement.to_state()

    def test_findings_against_the_reference_need_no_baseline(self):
        """While a first baseline is measured the reference is there to be held against; nothing pages."""
        fresh = Judgement(options())
        told = runs(fresh, MAJOR, MAJOR, MAJOR, bare=True)
        assert {(one.against, one.domain) for one in told} == {("reference", "all"), ("reference", "law")}
        assert fresh.alarm_id is None

    def test_a_new_content_is_told_of_for_itself(self, judgement):
        """Names belong to a content: another one begins without, and the old ones are forgotten."""
        runs(judgement, (9, 0.0))
        changed = (SetName("questions", 2, "changed"),)
        told = runs(judgement, (9, 0.0), first=1, sets=changed)
        assert {one.checksum for one in told} == {"changed"}
        assert runs(judgement, (9, 0.0), first=2, sets=changed) == []
        assert len(runs(judgement, (9, 0.0), first=3)) == 4


class TestWhatIsOdd:
    """Nothing that somebody else wrote, or a clock did, stops the judge."""

    def test_a_checkpoint_without_canaries_is_read(self, judgement):
        """Those of earlier versions have none."""
        state = judgement.to_state()
        del state["canaries"]
        old = Judgement.from_state(json.loads(json.dumps(state)), options())
        assert len(paged(runs(old, MAJOR, MAJOR))) == 1

    def test_another_number_of_queries_under_one_checksum_begins_anew(self, judgement):
        """Another version of the program may read a set otherwise: that is no second look, and no reason to end."""
        assert paged(runs(judgement, MAJOR)) == []
        assert paged(runs(judgement, (20, 0.0), first=1, queries=60)) == []
        assert len(paged(runs(judgement, (20, 0.0), first=2, queries=60))) == 1

    def test_a_clock_that_jumps_back_neither_pages_nor_ends_anything(self, judgement):
        """The order of the runs counts and not their time."""
        assert paged(runs(judgement, None, MAJOR)) == []
        (alarm,) = paged(runs(judgement, MAJOR, first=2, at=BEGIN - 40 * 86_400.0))
        assert paged(runs(judgement, None, first=3, at=BEGIN - 80 * 86_400.0)) == []
        (ended,) = paged(runs(reread(judgement), None, first=4, at=BEGIN))
        assert (ended.alarm, ended.how) == (alarm.id, "recovered")

    def test_a_run_without_queries_or_sets_says_nothing(self, judgement):
        """Neither an event nor an error, also while an alarm is open."""
        runs(judgement, MAJOR, MAJOR)
        assert runs(judgement, None, first=2, queries=0) == []
        assert runs(judgement, None, first=3, sets=()) == []
        assert judgement.alarm_id is not None

    def test_a_set_that_scored_nothing_cannot_fall(self, judgement):
        """Against an accepted mean of 0 there is no relative change; the numbers are told and can be written."""
        nothing = replace(scores(), values=dict.fromkeys(MEASURES, (0.0,) * 2 * QUERIES))
        run = compile_run(
            [Scored(SETS[0], scores(), nothing, nothing)],
            at=BEGIN,
            stack=SHIPPED,
            accepted_at=judgement.first.accepted_at,
            thresholds=(),
            rule=SignatureRule(),
        )
        events = [event for number in range(3) for event in judgement.feed_canaries(f"canaries-{number}-0", run)]
        assert paged(events) == []
        assert {(one.signature, one.ndcg_before, one.ndcg_now) for one in events} == {("improved", 0.0, 1.0)}
        assert "nan" not in events[0].summary
        reread(judgement)


class TestOnDuty:
    """The judge hears the runs in Redis, one replica after the other."""

    @pytest.fixture
    async def store(self, redis, accepted) -> Store:
        """Give a store with the checkpoint of an earlier version, which knew no canaries."""
        store = Store(redis, "judge")
        state = {name: value for name, value in json.loads(accepted).items() if name != "canaries"}
        await store.hold_lease("writer", 60)
        await store.checkpoint("writer", {"last": FIRST, "last_run": FIRST, **state})
        return store

    async def run(self, store, number, lost=(0, 1.0), token="writer"):
        """Write a run as the replica on duty does."""
        accepted_at = json.loads(await store.redis.get(store.keys.judge))["signals"]["overlap@10"]["accepted_at"]
        made = replace(compiled(lost, False, 0.0, SETS[:1], QUERIES), at=BEGIN + number, accepted_at=accepted_at)
        assert await store.canaries.add_run(token, made, [])

    async def test_runs_become_findings_and_one_alarm_across_a_change_of_duty(self, store):
        """A successor continues behind the last run that was heard; one that is damaged is passed over and told of."""
        for number, lost in enumerate([(0, 1.0), MAJOR]):
            await self.run(store, number, lost)
        await store.redis.xadd(store.keys.canary_runs, {"run": "damaged"})
        await store.release_lease("writer")
        first, second = Recorder(), Recorder()
        async with running(judge(store, token="one", recorder=first)):
            await until(lambda: len(first.events) == 4)
            assert {event["kind"] for event in await store.audit()} == {"canary_finding"}
        await store.hold_lease("writer", 60)
        await self.run(store, 2, MAJOR)
        await store.release_lease("writer")
        async with running(judge(store, token="two", recorder=second)):
            await until(lambda: len(second.events) == 1)
            await asyncio.sleep(0.3)
        trail = await store.audit()
        assert [event["kind"] for event in trail] == ["alarm"] + ["canary_finding"] * 4
        assert (trail[0]["signal"], trail[0]["slice"]) == (CANARIES, "questions")
        assert (first.failures, second.failures) == (0, 0)
