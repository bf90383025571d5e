"""Scores become levels, levels become channel values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.channels import CHANNEL_WEIGHTS, CHANNELS, channel_values, level_of


@pytest.mark.parametrize(
    ("score", "level"),
    [
        (0.0, 0),
        (1.0, 100),
        (0.3, 30),
        (0.1 + 0.2, 30),
        (0.301, 31),
        (0.2, 20),
        (0.2001, 21),
        (0.995, 100),
        (1e-12, 0),
    ],
)
def test_scores_are_rounded_up_to_hundredths_except_for_floating_point_dust(score, level):
    """A score becomes the next whole hundredth, and 0.30000000000000004 is still 30."""
    assert level_of(score) == level


@given(st.floats(0, 1))
def test_rounding_never_lowers_a_score_and_adds_less_than_a_hundredth(score):
    """Quantisation is one-sided, as a test for drops needs it."""
    assert score - 1e-9 <= level_of(score) / 100 < score + 0.01


@pytest.mark.parametrize("score", [float("nan"), -0.01, 1.01, float("inf"), -float("inf")])
def test_a_score_outside_the_unit_interval_is_refused(score):
    """NaN, infinities and values outside [0, 1] raise instead of becoming a level."""
    with pytest.raises(ValueError, match="outside"):
        level_of(score)


def test_every_channel_falls_when_the_level_falls():
    """All channels lie in [0, 1] and never rise as the level goes down."""
    values = channel_values(np.arange(101))
    assert values.shape == (101, len(CHANNELS))
    assert values.min() == 0.0
    assert values.max() == 1.0
    assert (np.diff(values, axis=0) >= 0).all()


def test_channels_tell_exact_agreement_and_collapse_apart():
    """Only 100 is exact and everything up to 20 is collapsed."""
    assert channel_values(100).tolist() == [1.0, 1.0, 1.0]
    assert channel_values(99).tolist() == [0.99, 0.0, 1.0]
    assert channel_values(21).tolist() == [0.21, 0.0, 1.0]
    assert channel_values(20).tolist() == [0.2, 0.0, 0.0]
    assert sum(CHANNEL_WEIGHTS) == 1.0
