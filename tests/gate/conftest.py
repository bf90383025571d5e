"""Scores made to measure, so that what a gate decides follows from numbers in the test."""

from __future__ import annotations

import numpy as np

from sidecar.drift.canary_run import SetName
from sidecar.drift.composition import PairScores
from sidecar.drift.labelled import LEADING, RetrievalScores
from sidecar.gate import Gate, Side, decide

LEVEL = 0.5
"""What every query scores with the reference."""

SET, PAIRS, OWN = SetName("asked", 1, "aaaa"), SetName("pairs", 1, "bbbb"), SetName("queries", 1, "cccc")


def scores(values, domains=None, *, moved=None, judged=True) -> RetrievalScores:
    """Give a query for each value; `moved` says whose ranking is another one than the reference's."""
    n = len(values)
    moved = np.asarray(values) != LEVEL if moved is None else moved
    return RetrievalScores(
        queries=tuple(f"q{place}" for place in range(n)),
        domains=tuple(domains or ["one"] * n),
        rankings=tuple(("b", "a") if one else ("a", "b") for one in moved),
        values={LEADING: tuple(map(float, values))} if judged else {},
        top=(None,) * n,
        gap=(None,) * n,
    )


def changed(differences, domains=None, **options) -> tuple[RetrievalScores, RetrievalScores]:
    """Give what reference and candidate score when each query changes by its difference."""
    values = np.round(LEVEL + np.asarray(differences, dtype=float), 2)
    return scores([LEVEL] * len(values), domains, moved=[False] * len(values)), scores(values, domains, **options)


def pairs(near_miss) -> PairScores:
    """Give 40 triples of one phenomenon with this near-miss cosine, a little apart."""
    spread = np.linspace(-0.01, 0.01, 40)
    return PairScores(("negation",) * 40, (0.8,) * 40, tuple(near_miss + spread))


def gate(asked, *, composition=None, own=None, same=False, tolerance=0.02, names=("old", "new")) -> Gate:
    """Decide about one labelled set, and what else is given."""
    given = {SET: asked, PAIRS: composition, OWN: own}
    return decide(
        {name: scored for name, scored in given.items() if scored is not None},
        Side(names[0], "1" * 12),
        Side(names[1], ("1" if same else "2") * 12),
        same=same,
        tolerance=tolerance,
    )
