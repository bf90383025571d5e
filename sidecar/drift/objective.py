"""A service-level objective for retrieval from the accepted baseline: which queries are bad, and how many may be.

The pager asks whether the level fell at all, under a budget of false pages. Teams that run on error budgets ask another
question: how fast is the share of bad retrievals spending what we allow? A query is bad when its agreement lies below
the floor of its slice. The floor is put where the accepted behaviour itself spends at most half of the budget, so a
steady service never burns it, and both change only when a person accepts another baseline.

Burn rates over several windows are the rules' business (`dashboards/rules`); the method is that of the Site
Reliability Workbook, chapter 5. Edges are those of the exported histogram, from which the rules count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.drift.channels import TOP

if TYPE_CHECKING:
    from collections.abc import Sequence

SPENT_WHEN_STEADY = 0.5
"""Share of the budget that the accepted behaviour may spend."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A query with a score of at most `edge` is bad; `accepted` is the share of them in the accepted baseline.

    `budget` is the share that is allowed, in (0, 1).
    """

    edge: float
    accepted: float
    budget: float


def objective_of(histogram: Sequence[int], edges: Sequence[float], target: float) -> Objective | None:
    """Give the objective of a slice with this accepted histogram (counts of the levels 0 to 100).

    The highest of the `edges` (ascending, in [0, 1)) at or below which at most half of the budget of 1 - `target` lies.
    Where even the lowest has more, that one counts, and the budget is twice its accepted share. None when that would
    be everything: a slice that was accepted with nothing to lose.
    """
    total = sum(histogram)
    if not total:
        return None
    shares = [sum(histogram[: math.floor(TOP * edge + 1e-9) + 1]) / total for edge in edges]
    budget = 1.0 - target
    fitting = [number for number, share in enumerate(shares) if share <= SPENT_WHEN_STEADY * budget]
    number = fitting[-1] if fitting else 0
    budget = max(budget, shares[number] / SPENT_WHEN_STEADY)
    return Objective(edges[number], shares[number], budget) if budget < 1.0 else None
