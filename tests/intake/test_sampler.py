"""The sampler's decisions: deterministic, whole sessions, floors, budgets. No Redis here."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigurationError
from sidecar.intake import OUTCOMES, Sampler, SamplingOptions, SliceRegistry


class Clock:
    """Seconds that a test moves."""

    def __init__(self, at=1_000.0):
        self.at = at

    def __call__(self):
        """Give the time."""
        return self.at


def sampler(clock=None, deployment="shop", slices=None, **options):
    """Build a sampler."""
    return Sampler(
        SamplingOptions(**options),
        deployment=deployment,
        slices=slices or SliceRegistry(),
        clock=clock or Clock(),
    )


def ids(count):
    """Give entry ids of one stream."""
    return [b"%d-0" % (1_800_000_000_000 + 7 * i) for i in range(count)]


@given(st.binary(max_size=20), st.floats(0.01, 0.99))
def test_an_entry_is_taken_if_its_place_lies_below_the_rate(entry_id, rate):
    """The place of an entry does not depend on the rate."""
    place = sampler(rate=1.0).position(entry_id, {})
    assert 0 <= place < 1
    assert sampler(rate=rate).decide(entry_id, {}).taken == (place < rate)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_the_share_is_the_rate(rate):
    """Of 20,000 entries the sampled share lies within five standard deviations of the rate.

    The count is binomial if the hash is uniform: sd = sqrt(n p (1 - p)); beyond five sd: 6e-7.
    """
    one = sampler(rate=rate)
    taken = [one.decide(entry_id, {}) for entry_id in ids(20_000)]
    hits = [decision for decision in taken if decision.taken]
    assert abs(len(hits) - 20_000 * rate) <= 5 * math.sqrt(20_000 * rate * (1 - rate))
    assert {decision.weight for decision in hits} == {1 / rate}
    assert {decision.outcome for decision in taken} == {"sampled", "unsampled"}


def test_rate_one_takes_everything():
    """No hash value lies above the threshold of a full sample."""
    one = sampler(rate=1.0)
    assert all(one.decide(entry_id, {}).taken for entry_id in ids(2_000))
    assert one._threshold > b"\xff" * 8


def test_every_process_decides_alike():
    """Two interpreters with different hash seeds take exactly the entries that this one takes."""
    program = (
        "import sys; from sidecar.intake import *\n"
        "s = Sampler(SamplingOptions(rate=0.3), deployment='shop', slices=SliceRegistry(), clock=lambda: 0.0)\n"
        "print(''.join('01'[s.decide(b'%d-0' % (1_800_000_000_000 + 7 * i), {}).taken] for i in range(500)))"
    )
    one = sampler(rate=0.3)
    here = "".join("01"[one.decide(entry_id, {}).taken] for entry_id in ids(500))
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
        assert answer.stdout.strip() == here


def test_deployments_take_different_entries():
    """Two deployments on one stream do not burden the same sessions."""
    one, two = sampler(rate=0.5), sampler(rate=0.5, deployment="shop-canary")
    both = sum(one.decide(i, {}).taken and two.decide(i, {}).taken for i in ids(4_000))
    # Independent halves overlap in a quarter: 1,000 with sd sqrt(4000 * 0.25 * 0.75) = 27.4.
    assert abs(both - 1_000) <= 5 * 27.4


@given(st.binary(min_size=1, max_size=20), st.lists(st.binary(min_size=1, max_size=10), min_size=2, max_size=6))
def test_a_session_is_taken_whole_or_not_at_all(session, traces):
    """The session decides before trace and entry id."""
    one = sampler(rate=0.5)
    entries = [(b"%d-0" % i, {b"session_id": session, b"trace_id": trace}) for i, trace in enumerate(traces)]
    assert len({one.decide(*entry).outcome for entry in entries}) == 1


def test_without_a_session_the_trace_decides_and_then_the_entry():
    """An empty field is no session."""
    one = sampler(rate=0.5)
    by_trace = {one.decide(i, {b"session_id": b"", b"trace_id": b"t"}).outcome for i in ids(64)}
    by_entry = {one.decide(i, {b"session_id": b"", b"trace_id": b""}).outcome for i in ids(64)}
    assert len(by_trace) == 1
    assert by_entry == {"sampled", "unsampled"}  # 64 entries of one kind: 2 to the power of -63


@given(st.binary(max_size=20), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_a_lower_rate_takes_a_subset(entry_id, one, two):
    """Lowering the rate never brings new sessions in."""
    low, high = sorted((one, two))
    assert sampler(rate=high).decide(entry_id, {}).taken or not sampler(rate=low).decide(entry_id, {}).taken


def test_the_floor_lets_rare_slices_in_without_weight():
    """A slice that the rate passes over gets its floor each minute, as weight 0."""
    clock = Clock(60_000.0)
    one = sampler(clock, rate=1e-12, floor_per_minute=3)
    rare = {b"slice": b"rare"}

    def minute():
        return [one.decide(i, rare) for i in ids(10)]

    assert [decision.outcome for decision in minute()] == ["floor"] * 3 + ["unsampled"] * 7
    clock.at += 59.9
    assert not any(decision.taken for decision in minute())
    clock.at += 0.1
    assert [(decision.outcome, decision.weight) for decision in minute()][:3] == [("floor", 0.0)] * 3


def test_sampled_entries_count_towards_the_floor():
    """A slice that the rate serves well needs no floor."""
    one = sampler(rate=0.5, floor_per_minute=20)
    decisions = [one.decide(i, {b"slice": b"busy"}) for i in ids(2_000)]
    first = [decision for decision in decisions if decision.taken][:20]
    assert [decision.outcome for decision in decisions[200:]].count("floor") == 0
    assert {decision.outcome for decision in first} == {"sampled", "floor"}


def test_floors_are_bounded_by_the_slice_registry():
    """A service that invents a slice per query gets one floor for all of them beyond the maximum."""
    one = sampler(rate=1e-12, floor_per_minute=2, slices=SliceRegistry(maximum=3))
    outcomes = [one.decide(i, {b"slice": b"s%d" % n}).outcome for n, i in enumerate(ids(100))]
    assert outcomes.count("floor") == 3 + 2  # three known slices of one entry each, then two of `other`
    assert len(one._taken) == 4


def test_an_invalid_slice_has_no_floor():
    """What validation would refuse cannot use up the budget."""
    one = sampler(rate=1e-12, floor_per_minute=5)
    assert one.decide(b"1-0", {b"slice": b"not a slice"}).outcome == "unsampled"


def test_the_budget_sheds_what_goes_beyond():
    """A burst passes, then the configured rate, and the rest is shed."""
    clock = Clock()
    one = sampler(clock, rate=1.0, queries_per_second=2.0, burst=5)
    assert [one.decide(i, {}).outcome for i in ids(8)] == ["sampled"] * 5 + ["shed_budget"] * 3
    clock.at += 1.0
    assert [one.decide(i, {}).outcome for i in ids(3)] == ["sampled"] * 2 + ["shed_budget"]
    clock.at += 3_600.0
    assert sum(one.decide(i, {}).taken for i in ids(50)) == 5


def test_unsampled_entries_cost_no_budget():
    """Only what would be replayed is charged."""
    one = sampler(rate=1e-12, queries_per_second=1.0)
    assert {one.decide(i, {}).outcome for i in ids(100)} == {"unsampled"}


def test_a_clock_that_stands_still_or_steps_back_gives_no_tokens():
    """The bucket never fills from nothing."""
    clock = Clock()
    one = sampler(clock, queries_per_second=1.0, burst=1)
    one.decide(b"1-0", {})
    clock.at -= 100.0
    assert not one.decide(b"2-0", {}).taken


def test_the_outcomes_are_enumerated():
    """Every outcome that occurs is one of the published ones."""
    one = sampler(rate=0.5, floor_per_minute=1, queries_per_second=1.0, burst=30)
    assert {one.decide(i, {b"slice": b"s%d" % (n % 10)}).outcome for n, i in enumerate(ids(200))} == set(OUTCOMES)


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0},
        {"rate": 1.1},
        {"rate": math.nan},
        {"floor_per_minute": -1},
        {"queries_per_second": 0},
        {"burst": 0.5},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(options):
    """The message names the setting."""
    with pytest.raises(ConfigurationError, match="sampling"):
        SamplingOptions(**options)
