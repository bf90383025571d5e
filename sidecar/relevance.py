"""Score one ranking against judgements, for probe sets whose right answers are known.

Overlap says that two retrievers differ; only judgements say which one is worse. The measures are those of the
paper on compositional training (nDCG@10) and the usual companions. They take one query each: probe sets hold
hundreds of queries, not millions, and the mean over queries, its interval and its test belong to the drift
engine.

Rules that all measures share: a grade above 0 is relevant and anything else (also an unjudged document) is
not; an id repeated within a ranking counts once, at its first place, and what follows moves up; a query
without any relevant judgement has no answer to find, so its score is NaN and not 0 ("not enough data" is a
state).
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["ndcg", "recall", "reciprocal_rank", "success"]


def ndcg(ranking: Sequence[str], judgements: Mapping[str, float], k: int = 10) -> float:
    """Compute nDCG@k with linear gain, in [0, 1]; NaN without a relevant judgement.

    DCG@k = sum over ranks i = 1..k of grade_i / log2(i + 1); nDCG@k divides it by the DCG@k of the best
    possible order of all judged documents. Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR
    techniques", ACM TOIS 20(4), 2002, with the discount and gain of trec_eval's `ndcg_cut`, as BEIR and
    NanoBEIR report it. (The exponential gain 2^grade - 1 is another measure; the two agree on grades 0 and
    1.)

    Raises:
        ValueError: If k is below 1 or a grade is not finite.

    """
    relevant = _relevant(judgements, k)
    if not relevant:
        return math.nan
    ideal = _dcg(sorted(relevant.values(), reverse=True)[:k])
    # Rounding alone can lift a swap of two nearly equal grades above the ideal.
    return min(1.0, _dcg(relevant.get(name, 0.0) for name in _top(ranking, k)) / ideal)


def recall(ranking: Sequence[str], judgements: Mapping[str, float], k: int = 10) -> float:
    """Compute recall@k, the share of all relevant documents among the first k, in [0, 1]; NaN without any.

    Raises:
        ValueError: If k is below 1 or a grade is not finite.

    """
    relevant = _relevant(judgements, k)
    if not relevant:
        return math.nan
    return sum(name in relevant for name in _top(ranking, k)) / len(relevant)


def reciprocal_rank(ranking: Sequence[str], judgements: Mapping[str, float], k: int = 10) -> float:
    """Compute RR@k: 1/i for the first relevant document at rank i <= k, else 0; NaN without any.

    The mean over queries is MRR@k (Voorhees, "The TREC-8 question answering track report", 1999).

    Raises:
        ValueError: If k is below 1 or a grade is not finite.

    """
    relevant = _relevant(judgements, k)
    if not relevant:
        return math.nan
    return next((1 / rank for rank, name in enumerate(_top(ranking, k), start=1) if name in relevant), 0.0)


def success(ranking: Sequence[str], judgements: Mapping[str, float], k: int = 10) -> float:
    """Compute success@k (accuracy@k, Acc@k): 1 if a relevant document is among the first k, else 0.

    NaN without a relevant judgement. The mean over queries is the share of queries that found something; with
    one relevant document per query it is recall@k. trec_eval calls it `success`.

    Raises:
        ValueError: If k is below 1 or a grade is not finite.

    """
    relevant = _relevant(judgements, k)
    if not relevant:
        return math.nan
    return float(any(name in relevant for name in _top(ranking, k)))


def _relevant(judgements: Mapping[str, float], k: int) -> dict[str, float]:
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if not all(map(math.isfinite, judgements.values())):
        raise ValueError("a grade is not finite; grades must be finite numbers")
    return {name: grade for name, grade in judgements.items() if grade > 0}


def _top(ranking: Sequence[str], k: int) -> Iterable[str]:
    return islice(dict.fromkeys(ranking), k)


def _dcg(grades: Iterable[float]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1))
