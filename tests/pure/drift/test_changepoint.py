"""The set of plausible change times."""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.drift.baseline import estimate_baseline
from sidecar.drift.calibration import Calibration
from sidecar.drift.changepoint import BLOCK, BLOCKS, change_set
from sidecar.drift.esr import bets
from tests.pure.drift.streams import ORIGIN


def wagers_from(levels):
    """Give the bets of a baseline of these levels."""
    made = Calibration()
    for i, level in enumerate(levels):
        made.add(level, ORIGIN + i)
    return bets(estimate_baseline(made))


@pytest.fixture
def wagers():
    """Bets of a baseline that moves between 60 and 90."""
    return wagers_from([60, 70, 80, 90] * 500)


def placed(wagers, levels):
    """Give the set for levels one second apart."""
    return change_set(wagers, np.array(levels, dtype=np.int64), ORIGIN + np.arange(len(levels), dtype=float))


@pytest.mark.parametrize("healthy", [100, 107, 4_000, BLOCK * BLOCKS + 5_000])
def test_a_hard_fall_is_placed_within_its_block(wagers, healthy):
    """A fall from 75 to 10 is held by a set of at most three blocks, however much came before."""
    found = placed(wagers, ([60, 70, 80, 90] * healthy)[:healthy] + [10] * 60)
    assert found.earliest <= healthy <= found.latest
    assert found.size <= 3 * BLOCK


def test_a_fall_older_than_the_window_is_placed_at_its_edge(wagers):
    """When all values are bad the set begins with the oldest block."""
    assert placed(wagers, [50] * 400).earliest == 0


def test_less_than_a_block_or_nothing_to_lose_gives_no_set(wagers):
    """Without a whole block, or with a baseline at zero, there is no set."""
    assert placed(wagers, [10] * (BLOCK - 1)) is None
    assert placed(wagers, []) is None
    assert placed(wagers_from([0] * 500), [0] * 100) is None


def test_thousands_of_dead_queries_stay_finite(wagers):
    """Log-sums far beyond the range of a float still give a set inside the values."""
    found = placed(wagers, [80] * 100 + [0] * 15_000)
    assert 0 <= found.earliest <= 100 <= found.latest < 15_100
