"""The floor and the budget that a slice's accepted baseline gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.objective import objective_of

EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)


def histogram(**counts: int) -> list[int]:
    """Give counts by level: `histogram(l0=5, l100=95)`."""
    levels = [0] * 101
    for name, count in counts.items():
        levels[int(name[1:])] = count
    return levels


def test_the_floor_is_the_highest_edge_that_spends_half_of_the_budget_at_most():
    """2.5 % of the values lie at or below 0.3; one more at 0.4 would be more than half of 5 %."""
    found = objective_of(histogram(l10=10, l30=15, l40=1, l100=974), EDGES, 0.95)
    assert (found.edge, found.accepted, found.budget) == (0.3, 0.025, pytest.approx(0.05))


def test_values_between_two_edges_belong_to_the_higher_one():
    """Levels are rounded up to hundredths, as in the detector: 0.31 is above an edge of 0.3."""
    found = objective_of(histogram(l31=20, l100=980), EDGES, 0.95)
    assert (found.edge, found.accepted) == (0.99, 0.02)
    found = objective_of(histogram(l30=20, l31=6, l100=974), EDGES, 0.95)
    assert (found.edge, found.accepted) == (0.3, 0.02)


def test_a_stack_that_always_agrees_with_its_frozen_copy_counts_every_disagreement():
    """With all values at 1 the highest edge counts, and nothing is bad."""
    found = objective_of(histogram(l100=1000), EDGES, 0.95)
    assert (found.edge, found.accepted, found.budget) == (0.99, 0.0, pytest.approx(0.05))


def test_a_slice_that_often_shares_nothing_has_a_wider_budget():
    """One query in ten shares nothing: the budget is twice that, so that a steady slice still spends half of it."""
    found = objective_of(histogram(l0=100, l50=900), EDGES, 0.95)
    assert (found.edge, found.accepted, found.budget) == (0.0, 0.1, 0.2)


@pytest.mark.parametrize(
    "levels", [histogram(), histogram(l0=50, l100=50), histogram(l0=1)], ids=["empty", "half", "all"]
)
def test_with_nothing_to_lose_there_is_no_objective(levels):
    """No values, or half of them at 0: whatever is bad would be allowed."""
    assert objective_of(levels, EDGES, 0.95) is None


@given(
    counts=st.lists(st.integers(0, 50), min_size=101, max_size=101),
    target=st.floats(0.94, 0.999),
)
def test_the_accepted_behaviour_never_spends_more_than_half(counts, target):
    """Whatever was accepted, its own rate is at most half of the budget, and no higher edge would do."""
    found = objective_of(counts, EDGES, target)
    if found is None:
        assert not sum(counts) or counts[0] >= sum(counts) / 2
        return
    assert found.accepted <= found.budget / 2 + 1e-12
    values = np.repeat(np.arange(101), counts) / 100
    assert found.accepted == pytest.approx(float((values <= found.edge + 1e-12).mean()))
    higher = [edge for edge in EDGES if edge > found.edge]
    if higher:
        assert float((values <= higher[0] + 1e-12).mean()) > (1 - target) / 2 - 1e-12
