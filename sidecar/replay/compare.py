"""From up to four rankings of one query to the numbers of its observation.

They are what the service served, what the deployed replay gives, what the reference gives and, where there is one, what
the frozen copy of the accepted stack gives. Agreement is of the deployed replay with the reference, by rank (`overlap`)
and by the reference's scores (`score_loss`); that with the frozen copy has names that begin with `frozen_`. Replay
fidelity is served against deployed replay: it says whether the sidecar's picture of the deployed retriever is true, and
is compared only as deep as the service was asked (where it does not say: as deep as it answered). It is not defined
where the service served nothing that we know of, or applied a metadata filter that the replay cannot repeat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from sidecar import overlap, score_loss
from sidecar.model import Observation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.model import QueryEvent, Ranking, Stack

MEASURES = ("overlap", "jaccard", "rbo", "top1", "tau_ap")
"""The measures of agreement between the deployed replay and the reference, by rank."""

SCORE_MEASURES = ("tolerant", "regret", "known")
"""Those by the reference's scores. `regret` is a loss: 0 is best."""

FROZEN_MEASURES, FROZEN_SCORE_MEASURES = ("overlap",), ("tolerant", "known")
"""The measures of agreement between the deployed replay and the frozen copy."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What another retriever makes of a batch: its own rankings, and its scores of the deployed ones' documents.

    `scores[i]` has a number for each document of the deployed ranking i, None for one that its index lacks.
    """

    rankings: Sequence[Ranking]
    scores: Sequence[Sequence[float | None]]


def signal_names(k: int, *, frozen: bool = False) -> tuple[str, ...]:
    """Give the label of every live signal at depth `k`: `overlap@10`, `top1`, `tolerant@10`, `fidelity@10`.

    With `frozen` also those of a frozen copy: `frozen_overlap@10`, `frozen_tolerant@10`, `frozen_known@10`.
    """
    names = [overlap.signal_name(measure, k) for measure in MEASURES]
    names += [score_loss.signal_name(measure, k) for measure in SCORE_MEASURES]
    names.append(fidelity_name(k))
    if frozen:
        names += [frozen_name(overlap.signal_name(measure, k)) for measure in FROZEN_MEASURES]
        names += [frozen_name(score_loss.signal_name(measure, k)) for measure in FROZEN_SCORE_MEASURES]
    return tuple(names)


def fidelity_name(k: int) -> str:
    """Give the label of the replay fidelity."""
    return f"fidelity@{k}"


def frozen_name(signal: str) -> str:
    """Give the label of a signal when it is measured against the frozen copy."""
    return f"frozen_{signal}"


def observe(
    events: Sequence[QueryEvent],
    deployed: Sequence[Ranking],
    reference: Opinion,
    stack: Stack,
    *,
    k: int,
    p: float,
    tolerance: float,
    session_digest: Sequence[str | None],
    clusters: Sequence[int | None],
    frozen: Opinion | None = None,
) -> list[Observation]:
    """Compare the rankings of each event and give its observation; all values lie in [0, 1].

    `p` is the persistence of RBO and `tolerance` the largest near tie, in units of score. tau_ap is moved from [-1, 1]
    to [0, 1] (1 same order, 0.5 unrelated, 0 reversed) and absent with fewer than two shared documents; regret is
    absent where the reference knows none of the deployed documents.
    """
    ids = [ranking.ids for ranking in deployed]
    columns = {
        **_by_rank(ids, reference, MEASURES, k, p),
        **_by_score(reference, SCORE_MEASURES, k, tolerance),
        fidelity_name(k): _fidelity(events, ids, k),
    }
    if frozen is not None:
        accepted = {
            **_by_rank(ids, frozen, FROZEN_MEASURES, k, p),
            **_by_score(frozen, FROZEN_SCORE_MEASURES, k, tolerance),
        }
        columns |= {frozen_name(name): column for name, column in accepted.items()}
    return [
        Observation(
            entry_id=event.entry_id,
            at=event.at,
            slice=event.slice,
            weight=event.weight,
            values={name: column[i] for name, column in columns.items() if not math.isnan(column[i])},
            stack=stack,
            session=session_digest[i],
            step=event.step,
            cluster=clusters[i],
        )
        for i, event in enumerate(events)
    ]


def _by_rank(
    deployed: Sequence[tuple[str, ...]], other: Opinion, measures: Sequence[str], k: int, p: float
) -> dict[str, list[float]]:
    agreement = overlap.compare(deployed, [ranking.ids for ranking in other.rankings], k=k, p=p)
    columns = {overlap.signal_name(measure, k): getattr(agreement, measure).tolist() for measure in measures}
    if "tau_ap" in measures:
        name = overlap.signal_name("tau_ap", k)
        columns[name] = [(value + 1) / 2 for value in columns[name]]
    return columns


def _by_score(other: Opinion, measures: Sequence[str], k: int, tolerance: float) -> dict[str, list[float]]:
    best = [ranking.scores or () for ranking in other.rankings]
    loss = score_loss.compare(best, other.scores, k=k, tolerance=tolerance)
    return {score_loss.signal_name(measure, k): getattr(loss, measure).tolist() for measure in measures}


def _fidelity(events: Sequence[QueryEvent], deployed: Sequence[tuple[str, ...]], k: int) -> list[float]:
    """Compare served with replayed at the depth that the service was asked for, grouped by that depth; else NaN."""
    result = [math.nan] * len(events)
    by_depth: dict[int, list[int]] = {}
    for i, event in enumerate(events):
        if event.served is not None and not event.filtered:
            asked = event.top_k or len(event.served.ids)
            if depth := min(k, asked):
                by_depth.setdefault(depth, []).append(i)
    for depth, rows in by_depth.items():
        served = [_served(events[i]) for i in rows]
        agreement = overlap.compare(served, [deployed[i][:depth] for i in rows], k=depth)
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
    return overlap.break_ties(served.ids, scores)
