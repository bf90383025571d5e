"""Offsets for the groups of a stream, and the mirror image of a baseline."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.drift.baseline import Baseline, estimate_baseline
from sidecar.drift.calibration import Calibration
from sidecar.drift.channels import channel_values
from sidecar.drift.esr import bets, evidence, initial_state, log_factors, step
from sidecar.drift.strata import MIN_STRATUM, mirrored, shift_of, with_strata
from tests.pure.drift.streams import DAY, LEVELS, ORIGIN, base_law, tilt

HIGH, LOW = base_law(), tilt(base_law(), 0.2)


def drawn(law, count, rng):
    """Draw levels of a law over the eleven atoms."""
    return LEVELS[rng.choice(11, size=count, p=law)]


def histogram(levels):
    """Count levels."""
    return np.bincount(np.asarray(levels, dtype=np.int64), minlength=101)


def calibrated(groups, rng):
    """Give the baseline of groups (name to law and size) in random order over 7 days, told apart."""
    parts = {name: drawn(law, size, rng) for name, (law, size) in groups.items()}
    levels = np.concatenate(list(parts.values()))
    rng.shuffle(levels)
    collected = Calibration()
    for i, level in enumerate(levels.tolist()):
        collected.add(level, ORIGIN + i * 7 * DAY / levels.size)
    return with_strata(estimate_baseline(collected), {name: histogram(part) for name, part in parts.items()})


def test_the_accepted_mix_needs_no_offset_on_average():
    """Weighted by size the offsets cancel, so the promise of the unchanged stream is what it was."""
    baseline = calibrated({"a": (HIGH, 3_000), "b": (LOW, 2_000)}, np.random.default_rng(1))
    total = sum(stratum.n * np.array(stratum.offsets) for stratum in baseline.strata.values())
    assert total == pytest.approx(np.zeros(3), abs=1e-9)
    assert baseline.strata["a"].offsets[0] > 0 > baseline.strata["b"].offsets[0]


def test_small_groups_are_taken_together_and_unknown_ones_have_no_level():
    """Two groups of 60 share an offset; a group that was never seen has none."""
    rng = np.random.default_rng(2)
    baseline = calibrated({"a": (HIGH, 3_000), "b": (LOW, 60), "c": (LOW, 60)}, rng)
    assert baseline.strata["b"] == baseline.strata["c"]
    assert baseline.strata["b"].n == 120
    assert shift_of(baseline, "never") is None
    alone = calibrated({"a": (HIGH, 3_000), "b": (LOW, MIN_STRATUM - 1)}, rng)
    assert shift_of(alone, "b") is None


def test_without_groups_everything_has_offset_zero():
    """A baseline that was not told apart treats every value alike."""
    baseline = estimate_baseline(Calibration.from_state(calibration_state(drawn(HIGH, 500, np.random.default_rng(3)))))
    assert shift_of(baseline, "anything").tolist() == [0.0, 0.0, 0.0]


def calibration_state(levels):
    """Give the state of a calibration with these levels in one hour."""
    counts = {str(level): int(count) for level, count in enumerate(histogram(levels)) if count}
    return {"first": ORIGIN, "last": ORIGIN + 60.0, "hours": {str(int(ORIGIN // 3600)): counts}}


def test_a_mix_that_is_all_one_small_group_seldom_has_too_high_a_null():
    """The null of a group of 200 lies above the group's true mean in at most 5 % of the calibrations.

    400 calibrations: a rate of .05 would be exceeded by 33 with probability .002 (binomial), so more than 33 says that
    the offset does not cover its own error.
    """
    rng = np.random.default_rng(4)
    true = float(np.arange(11) @ LOW) / 10
    over = 0
    for _ in range(400):
        baseline = calibrated_fast({"a": (HIGH, 4_800), "b": (LOW, 200)}, rng)
        over += baseline.channels[0].lower + shift_of(baseline, "b")[0] > true
    assert over <= 33


def calibrated_fast(groups, rng):
    """Give the same baseline without hours: all values in one."""
    parts = {name: drawn(law, size, rng) for name, (law, size) in groups.items()}
    state = calibration_state(np.concatenate(list(parts.values())))
    baseline = estimate_baseline(Calibration.from_state(state))
    return with_strata(baseline, {name: histogram(part) for name, part in parts.items()})


def test_a_shifted_null_still_pays_no_bet_on_average():
    """E[L] <= 1 for a law on the boundary of a stratum's null, in every bet of the mean channel (bar 10)."""
    baseline = calibrated({"a": (HIGH, 3_000), "b": (LOW, 2_000)}, np.random.default_rng(5))
    wagers = bets(baseline)
    values = channel_values(np.arange(101))
    for name in ("a", "b"):
        shift = shift_of(baseline, name)
        null = wagers.null[0, 0] + shift[0]
        law = np.zeros(101)
        law[0], law[100] = 1.0 - null, null
        factors = np.exp(np.stack([log_factors(wagers, value, 0, shift) for value in values]))
        assert (law @ factors[:, 0] <= 1.0 + 1e-9).all()


def test_a_moved_mix_gains_no_evidence_and_without_offsets_it_pages():
    """From 60:40 to 5:95 of two groups 20 % apart: told apart nothing happens, taken as one stream it pages."""
    rng = np.random.default_rng(6)
    baseline = calibrated({"a": (HIGH, 3_000), "b": (LOW, 2_000)}, rng)
    blind = Baseline(baseline.channels, baseline.n, baseline.started_at, baseline.ended_at, baseline.histogram)
    wagers = bets(baseline)
    told, whole = initial_state(wagers), initial_state(bets(blind))
    most = 0.0
    for i in range(6_000):
        name = "a" if rng.random() < 0.05 else "b"
        level, at = int(drawn(HIGH if name == "a" else LOW, 1, rng)[0]), ORIGIN + (7 + i / 2_000) * DAY
        told = step(wagers, told, level, at, shift_of(baseline, name))
        whole = step(bets(blind), whole, level, at) if i < 3_000 else whole
        most = max(most, evidence(wagers, told))
    assert most < 26.0
    assert evidence(bets(blind), whole) >= 26.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=30, max_size=200))
def test_the_mirror_of_the_mirror_is_the_same_mean_and_the_bounds_enclose_it(levels):
    """Mirrored twice, mean and spread are back; the two nulls lie on the two sides of the mean."""
    baseline = estimate_baseline(Calibration.from_state(calibration_state(levels)))
    once = mirrored(baseline)
    for channel, other in zip(baseline.channels, once.channels, strict=True):
        assert other.mean == pytest.approx(1.0 - channel.mean)
        assert other.sd == channel.sd
        assert channel.lower <= channel.mean <= 1.0 - other.lower + 1e-12


def test_written_and_read_back_a_baseline_with_groups_is_the_same():
    """Groups survive a checkpoint bit for bit."""
    baseline = calibrated({"a": (HIGH, 3_000), "b": (LOW, 60), "c": (LOW, 60)}, np.random.default_rng(7))
    assert Baseline.from_state(baseline.to_state()) == baseline
