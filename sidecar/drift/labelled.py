"""Labelled queries that never change: what one retriever scores on them, and how two differ, query by query.

A score here is a function of the retriever and the set, nothing is sampled: no change is exactly zero, and any change
shows at the first run. The interval beside an effect is about other queries like these (`paired` says why). Which
measures there are is fixed: those of the paper on compositional training, linear gain. Where answers come from is left
to others, and so is the word for a change (`signature`).
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  (pydantic reads the annotations at run time, in `redis_shapes`)
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from sidecar import overlap
from sidecar.drift.composition import ALL
from sidecar.drift.paired import DRAWS, DUST, SignFlip, mean_interval, ranking_hash, sign_flip
from sidecar.relevance import ndcg, recall, reciprocal_rank, success

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from sidecar.model import Ranking

    Floats = NDArray[np.float64]

MEASURES: Mapping[str, Callable[[Sequence[str], Mapping[str, float]], float]] = {
    "ndcg@10": lambda ranking, grades: ndcg(ranking, grades, 10),
    "mrr@10": lambda ranking, grades: reciprocal_rank(ranking, grades, 10),
    "acc@1": lambda ranking, grades: success(ranking, grades, 1),
    "recall@10": lambda ranking, grades: recall(ranking, grades, 10),
    "recall@100": lambda ranking, grades: recall(ranking, grades, 100),
}
LEADING = "ndcg@10"
"""The measure that decides; the others are shown."""

DEPTH = 100
"""Documents to rank for the deepest measure."""

SHOWN = 10
"""Places of a ranking that are kept, compared and hashed."""

SHOWN_DRAWS = 9_999
"""Sign patterns for the measures that are shown and decide nothing: p-values from 1e-4 up."""

QUANTILES = (0.1, 0.5, 0.9)
POWER = 0.8


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """What one retriever gives a labelled set, query by query in the set's order.

    `rankings` are the first ten ids. `values` has one number per query for each measure. `top` is the score of the best
    document and `gap` its distance to the tenth (the last, if there are fewer); None where nothing came back.
    """

    queries: tuple[str, ...]
    domains: tuple[str, ...]
    rankings: tuple[tuple[str, ...], ...]
    values: Mapping[str, tuple[float, ...]]
    top: tuple[float | None, ...]
    gap: tuple[float | None, ...]

    def __post_init__(self) -> None:
        """Refuse lists that do not belong together."""
        if {len(self.queries)} != set(
            map(len, (self.domains, self.rankings, self.top, self.gap, *self.values.values()))
        ):
            raise ValueError("retrieval scores have one entry of each kind for each query")

    @property
    def hashes(self) -> tuple[str, ...]:
        """Give a digest of each ranking."""
        return tuple(ranking_hash(one) for one in self.rankings)


@dataclass(frozen=True, slots=True)
class MeasureChange:
    """How one measure changed over some queries.

    `effect` is the mean paired difference, exactly 0 when nothing changed. `fall` and `rise` are one-sided tests by
    sign flips. `lower` and `upper` are the 95 % interval for queries like these, None where nothing moved. `spread` is
    the standard deviation of the differences.
    """

    n: int
    before: float
    now: float
    effect: float
    moved: int
    fall: SignFlip
    rise: SignFlip
    lower: float | None
    upper: float | None
    spread: float

    @property
    def relative(self) -> float:
        """Effect relative to the mean before; NaN where that is 0."""
        return self.effect / self.before if self.before > 0.0 else nan

    @property
    def p(self) -> float:
        """Give the p-value of a fall."""
        return self.fall.p

    def detectable(self, p: float) -> float:
        """Give the smallest mean fall that a test at level `p` finds with 80 % power, if queries differ as they do."""
        return smallest_change(self.spread, self.n, p)


@dataclass(frozen=True, slots=True)
class DomainChange:
    """How the queries of one domain changed.

    `moved` counts those of the `n` whose first ten changed, `overlap` is the mean overlap@10 of the two rankings.
    """

    domain: str
    n: int
    moved: int
    overlap: float
    measures: Mapping[str, MeasureChange]

    @property
    def leading(self) -> MeasureChange:
        """Give the change of the measure that decides."""
        return self.measures[LEADING]


@dataclass(frozen=True, slots=True)
class Scale:
    """Quantiles (.1, .5, .9) of the best document's score, and of its distance to the tenth.

    Thresholds on scores, in caches and re-rankers, hang on them; None where no query has one.
    """

    top: tuple[float, ...] | None
    gap: tuple[float, ...] | None


def smallest_change(spread: float, n: int, p: float) -> float:
    """Give the smallest mean change of n paired values that a one-sided test at level `p` finds with 80 % power.

    (z_(1-p) + z_.8) spread / sqrt(n), the normal approximation; `spread` is the standard deviation of the differences.
    The power is .73 to .88 with 62 queries of which 25 or more move, .8 with hundreds. It takes for granted that many
    move: with fewer than log2(1/p) moved queries no fall is found, however large.
    """
    z = NormalDist().inv_cdf
    return (z(1.0 - p) + z(POWER)) * spread / sqrt(n)


def score(
    queries: Sequence[tuple[str, str]], rankings: Sequence[Ranking], judgements: Mapping[str, Mapping[str, float]]
) -> RetrievalScores:
    """Score `rankings` (down to `DEPTH`), one for each of `queries`, given as (id, domain).

    Raises:
        ValueError: a query has no relevant judgement; a probe set leaves those out when it is read.
    """
    values: dict[str, tuple[float, ...]] = {
        name: tuple(
            measure(ranking.ids, judgements.get(query, {}))
            for (query, _), ranking in zip(queries, rankings, strict=True)
        )
        for name, measure in MEASURES.items()
    }
    if not all(np.isfinite(one).all() for one in values.values()):
        raise ValueError("a query has no relevant judgement; leave it out of the set")
    first = [(one.scores or ())[:SHOWN] for one in rankings]
    return RetrievalScores(
        queries=tuple(query for query, _ in queries),
        domains=tuple(domain for _, domain in queries),
        rankings=tuple(one.ids[:SHOWN] for one in rankings),
        values=values,
        top=tuple(float(one[0]) if one else None for one in first),
        gap=tuple(float(one[0] - one[-1]) if one else None for one in first),
    )


def means(scores: RetrievalScores) -> dict[str, dict[str, float]]:
    """Give the mean of each measure over all queries (`all`, first) and over each domain's; {} without a query."""
    return {
        name: {measure: float(np.asarray(values)[rows].mean()) for measure, values in scores.values.items()}
        for name, rows in _groups(scores)
    }


def scale(scores: RetrievalScores) -> Scale:
    """Give the quantiles of the scores themselves."""

    def quantiles(values: Sequence[float | None]) -> tuple[float, ...] | None:
        # An index that gives a score that is no number must not make the run unreadable: JSON has no NaN.
        there = [one for one in values if one is not None and isfinite(one)]
        return tuple(np.quantile(there, QUANTILES).tolist()) if there else None

    return Scale(quantiles(scores.top), quantiles(scores.gap))


def compare_labelled(before: RetrievalScores, now: RetrievalScores) -> tuple[DomainChange, ...]:
    """Hold two retrievers' scores on the same queries against each other: `all` first, then each domain.

    Raises:
        ValueError: they are not of the same queries.

    """
    if (before.queries, before.domains) != (now.queries, now.domains):
        raise ValueError("scores of different sets; only those of one version can be compared")
    if not now.queries:
        return ()
    agreement = overlap.compare(before.rankings, now.rankings, k=SHOWN).overlap
    differ = np.array([old != new for old, new in zip(before.rankings, now.rankings, strict=True)])
    return tuple(
        DomainChange(
            domain=name,
            n=int(rows.sum()),
            moved=int(differ[rows].sum()),
            overlap=float(agreement[rows].mean()),
            measures={
                measure: _change(
                    np.asarray(before.values[measure])[rows],
                    np.asarray(now.values[measure])[rows],
                    draws=DRAWS if measure == LEADING else SHOWN_DRAWS,
                )
                for measure in now.values
            },
        )
        for name, rows in _groups(now)
    )


def _change(before: Floats, now: Floats, *, draws: int) -> MeasureChange:
    d = now - before
    d[np.abs(d) <= DUST] = 0.0
    lower, upper = mean_interval(d) or (None, None)
    return MeasureChange(
        n=d.size,
        before=float(before.mean()),
        now=float(now.mean()),
        effect=float(d.mean()),
        moved=int((d != 0.0).sum()),
        fall=sign_flip(d, draws=draws),
        rise=sign_flip(-d, draws=draws),
        lower=lower,
        upper=upper,
        spread=float(d.std(ddof=1)) if d.size > 1 else 0.0,
    )


def _groups(scores: RetrievalScores) -> list[tuple[str, NDArray[np.bool_]]]:
    if not scores.queries:
        return []
    names = np.asarray(scores.domains)
    whole = np.ones(len(scores.domains), dtype=np.bool_)
    return [(ALL, whole), *((name, names == name) for name in sorted(set(scores.domains)))]
