"""From up to three rankings of one query to the numbers of its observation.

The three are what the service served, what the deployed replay gives and what the reference gives. Live overlap is
deployed replay against reference. Replay fidelity is served against deployed replay: it says whether the sidecar's
picture of the deployed retriever is true, and is compared only as deep as the service was asked (where it does not say:
as deep as it answered). It is not defined where the service served nothing that we know of, or applied a metadata
filter that the replay cannot repeat.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from sidecar.model import Observation
from sidecar.overlap import break_ties, compare, signal_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.model import QueryEvent, Ranking, Stack


def signal_names(k: int) -> tuple[str, ...]:
    """Give the label of every live signal at depth `k`: `overlap@10`, `top1`, `fidelity@10`."""
    return (*(signal_name(measure, k) for measure in MEASURES), fidelity_name(k))


def fidelity_name(k: int) -> str:
    """Give the label of the replay fidelity."""
    return f"fidelity@{k}"


MEASURES = ("overlap", "jaccard", "rbo", "top1", "tau_ap")
"""The measures of agreement between the deployed replay and the reference."""


def observe(
    events: Sequence[QueryEvent],
    deployed: Sequence[Ranking],
    reference: Sequence[Ranking],
    stack: Stack,
    *,
    k: int,
    p: float,
    session_digest: Sequence[str | None],
) -> list[Observation]:
    """Compare the rankings of each event and give its observation; all values lie in [0, 1].

    tau_ap is moved from [-1, 1] to [0, 1] (1 same order, 0.5 unrelated, 0 reversed) and absent with fewer than two
    shared documents.
    """
    left = [ranking.ids for ranking in deployed]
    right = [ranking.ids for ranking in reference]
    agreement = compare(left, right, k=k, p=p)
    fidelity = _fidelity(events, left, k)
    columns = {signal_name(measure, k): getattr(agreement, measure).tolist() for measure in MEASURES}
    tau_ap = signal_name("tau_ap", k)
    columns[tau_ap] = [(value + 1) / 2 for value in columns[tau_ap]]
    observations = []
    for i, event in enumerate(events):
        values = {name: column[i] for name, column in columns.items() if not math.isnan(column[i])}
        if (agreed := fidelity[i]) is not None:
            values[fidelity_name(k)] = agreed
        observations.append(
            Observation(
                entry_id=event.entry_id,
                at=event.at,
                slice=event.slice,
                weight=event.weight,
                values=values,
                stack=stack,
                session=session_digest[i],
                step=event.step,
            )
        )
    return observations


def _fidelity(events: Sequence[QueryEvent], deployed: Sequence[tuple[str, ...]], k: int) -> list[float | None]:
    """Compare served with replayed at the depth that the service was asked for, grouped by that depth."""
    result: list[float | None] = [None] * len(events)
    by_depth: dict[int, list[int]] = {}
    for i, event in enumerate(events):
        if event.served is not None and not event.filtered:
            asked = event.top_k or len(event.served.ids)
            if depth := min(k, asked):
                by_depth.setdefault(depth, []).append(i)
    for depth, rows in by_depth.items():
        served = [_served(events[i]) for i in rows]
        agreement = compare(served, [deployed[i][:depth] for i in rows], k=depth)
        for i, value in zip(rows, agreement.overlap.tolist(), strict=True):
            result[i] = value
    return result


def _served(event: QueryEvent) -> tuple[str, ...]:
    """Give the served ids in the service's order; documents with equal scores in the order of their ids.

    The order is the fact. The scores only tell where it was arbitrary, and only if they descend with it (a re-ranking
    service may publish the scores of an earlier stage).
    """
    served = event.served
    if served is None:
        return ()
    scores = served.scores
    if scores is None or any(a < b for a, b in pairwise(scores)):
        return served.ids
    return break_ties(served.ids, scores)
