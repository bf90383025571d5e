"""Calibrations collect, merge and survive a restart."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.baseline import estimate_baseline
from sidecar.drift.calibration import Calibration

values = st.lists(st.tuples(st.integers(0, 100), st.floats(0, 1e7)), min_size=2, max_size=60)


def collected(pairs):
    """Collect (level, time) pairs."""
    made = Calibration()
    for level, at in pairs:
        made.add(level, at)
    return made


@given(values, st.data())
def test_merged_parts_equal_the_whole(pairs, data):
    """However a stream is split and shuffled, the merged collection and its baseline are the same."""
    shuffled = data.draw(st.permutations(pairs))
    cut = data.draw(st.integers(0, len(pairs)))
    left, right = collected(shuffled[:cut]), collected(shuffled[cut:])
    left.merge(right)
    whole = collected(pairs)
    assert left.to_state() == whole.to_state()
    assert (left.count, left.span_seconds) == (len(pairs), whole.span_seconds)
    assert estimate_baseline(left) == estimate_baseline(whole)


@given(values)
def test_a_state_survives_json(pairs):
    """What is stored comes back the same and can be added to."""
    whole = collected(pairs)
    again = Calibration.from_state(json.loads(json.dumps(whole.to_state())))
    assert again.to_state() == whole.to_state()
    again.add(50, 5.0)
    assert again.count == len(pairs) + 1


def test_an_empty_collection_has_no_span_and_survives_json():
    """Nothing collected is a state like any other."""
    empty = Calibration.from_state(json.loads(json.dumps(Calibration().to_state())))
    assert (empty.count, empty.span_seconds, empty.started_at, empty.ended_at) == (0, 0.0, None, None)
    assert estimate_baseline(empty) is None


def test_memory_grows_with_hours_and_not_with_values():
    """Ten thousand values of one hour take no more room than the levels that occur in it."""
    made = collected([(level % 3, 10.0) for level in range(10_000)])
    assert made.to_state()["hours"] == {"0": {"0": 3334, "1": 3333, "2": 3333}}


@pytest.mark.parametrize(("level", "at"), [(-1, 0.0), (101, 0.0), (50, float("nan")), (50, float("inf"))])
def test_values_that_cannot_be_are_refused(level, at):
    """A level outside 0..100 or a time that is not finite raises and changes nothing."""
    made = Calibration()
    with pytest.raises(ValueError, match=r"outside|finite"):
        made.add(level, at)
    assert made.count == 0


@pytest.mark.parametrize("hours", [{"0": {"101": 1}}, {"0": {"5": 0}}, {"0": {"-1": 2}}])
def test_a_damaged_state_is_refused(hours):
    """Levels and counts that could not have been collected raise on reading."""
    with pytest.raises(ValueError, match="levels must be"):
        Calibration.from_state({"first": 0.0, "last": 0.0, "hours": hours})
