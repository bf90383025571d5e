"""Say what the reference makes of the documents that the deployed retriever returned, in the reference's own scores.

Rank overlap calls every lost document a loss, also where another one that is as good took its place: an approximate
index or int8 vectors shuffle near ties all the time. These measures ask the reference instead how good the returned
documents are. A shuffle among near ties costs nothing here; a document that the reference finds worse costs what it is
worse by.

Numbers come in: for each query the reference's scores of its own best k, and its scores of the deployed best k, one
for each distinct document. Where they come from is left to `indexes` and `replay`. The scores are cosines: both
measures are absolute, and an inner product of vectors that were not normalised has no scale.

**Documents that the reference does not know** (None: its corpus lacks them) cannot be scored, and three rules keep a
corpus that grew on the deployed side apart from a fault:

* `tolerant` counts them as lost, as overlap does. An index that returns names from nowhere must not look well;
* `regret` leaves them out and compares the m known documents with the reference's best m (a condensed list). Growth
  alone leaves it at exactly 0: what is pushed out of the deployed list are its last documents. It is undefined (NaN)
  where the reference knows none of the returned documents;
* `known` is the share that the reference knows. Under growth alone, `tolerant` and `overlap` fall by exactly what
  `known` falls; what they fall beyond it is not growth.

Measured on MiniLM (benchmarks/measures.py): a fine-tune that leaves its mark is seen with 1.2 times the effect size of
overlap against an independent reference, whose ranking differs from the deployed one by near ties anyway; against a
copy of the very encoder overlap is the sharper one, because there a moved near tie is already a sign.

As in `overlap`, a query's numbers do not depend on the other queries of its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["TOLERANCE", "ScoreLoss", "compare", "signal_name"]

TOLERANCE = 0.02
"""Differences of cosine up to this are a near tie: the smallest of those tried that neither int8 vectors nor an HNSW
graph with ordinary settings noticed (MiniLM; chosen and tested on different queries by benchmarks/measures.py). An
encoder whose cosines lie closer together, as some do between 0.7 and 1, wants a smaller one."""

_MEASURES = ("tolerant", "regret", "known")


@dataclass(frozen=True, slots=True, eq=False)
class ScoreLoss:
    """Hold what a batch of rankings lost: arrays of shape (B,), float64, read-only.

    R is the reference's ranking of one query and D the deployed one, both cut to k; s(d) is the reference's score.

    Attributes:
        k: Depth at which the rankings were cut.
        tolerance: Largest difference of scores that counts as a near tie.
        tolerant: Share of documents that are as good as the reference's last, in [0, 1]: the number of d in D with
            s(d) >= s(last of R) - tolerance, divided by max(|D|, |R|). Documents of R pass, so it is never below
            overlap@k of the same rankings. Two empty rankings give 1, an empty and a non-empty one 0.
        regret: Mean score lost per place, in [0, 1], 0 is best. The i-th best score of D's known documents is
            subtracted from the i-th best of R, each taken as what it is worth: clipped to [0, 1], so that a document
            at a right angle to the query is worth as little as none. Where D is shorter than R the missing places
            lose all that R has there. With all documents known and all scores in [0, 1] it is the sum over R less
            the sum over D, divided by k. NaN where D has documents and none is known.
        known: Share of D that the reference knows, in [0, 1]; 1 for an empty D.
    """

    k: int
    tolerance: float
    tolerant: Floats
    regret: Floats
    known: Floats


def compare(
    reference: Sequence[Sequence[float]],
    deployed: Sequence[Sequence[float | None]],
    *,
    k: int = 10,
    tolerance: float = TOLERANCE,
) -> ScoreLoss:
    """Compare the reference's scores of its own documents with its scores of the deployed ones.

    Args:
        reference: For each of B queries the reference's scores of its ranking, best first; any length, also empty.
        deployed: For each of the same queries the reference's scores of the deployed ranking's documents, in any
            order; None or NaN where the reference does not know the document. Both are to come from one computation
            of the reference, so that a document has one score.
        k: Depth of comparison, at least 1; what a ranking has beyond it is cut.
        tolerance: Difference of scores that still counts as equal, at least 0.

    Raises:
        ValueError: If k or tolerance is out of range or the batches differ in length.

    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if not tolerance >= 0:
        raise ValueError(f"tolerance is {tolerance}; it must be at least 0")
    if len(reference) != len(deployed):
        raise ValueError(
            f"there are {len(reference)} queries of the reference and {len(deployed)} of the deployed retriever; "
            "both need the same"
        )
    width = max(1, *(min(k, len(scores)) for scores in (*reference, *deployed))) if len(reference) else 1
    best, best_size = _padded(reference, width)
    found, found_size = _padded(deployed, width)
    # Both best first: the same documents in another order then lose exactly nothing, whatever rounding does to sums.
    best, found = (-np.sort(-scores, axis=1) for scores in (best, found))  # NaN comes last
    known = np.count_nonzero(~np.isnan(found), axis=1)

    last = best[np.arange(len(best)), np.maximum(best_size, 1) - 1]
    passed = np.count_nonzero(found >= (last - tolerance)[:, None], axis=1)
    measures = (
        _share(passed, np.maximum(best_size, found_size)),
        _regret(best, best_size, found, found_size, known),
        _share(known, found_size),
    )
    for values in measures:
        values.flags.writeable = False
    return ScoreLoss(k, tolerance, *measures)


def signal_name(measure: str, k: int) -> str:
    """Name the signal of one measure of `ScoreLoss`: `tolerant@10`.

    Raises:
        ValueError: If the measure is unknown.

    """
    if measure not in _MEASURES:
        raise ValueError(f"measure is {measure!r}; it must be one of {', '.join(_MEASURES)}")
    return f"{measure}@{k}"


def _padded(rows: Sequence[Sequence[float | None]], width: int) -> tuple[Floats, Ints]:
    """Give the scores as (B, width), NaN for unknown and as padding, and the (B,) lengths after cutting."""
    sizes = np.array([min(len(row), width) for row in rows], dtype=np.int64)
    scores = np.full((len(rows), width), np.nan)
    flat = [score for row in rows for score in row[:width]]
    scores[np.arange(width) < sizes[:, None]] = np.array(flat, dtype=np.float64)  # None becomes NaN
    return scores, sizes


def _share(part: Ints, whole: Ints) -> Floats:
    return np.divide(part, whole, out=np.ones(part.shape), where=whole > 0)


def _regret(best: Floats, best_size: Ints, found: Floats, found_size: Ints, known: Ints) -> Floats:
    # The condensed lists: an unknown document takes its place, and the last of the reference's, out of the comparison.
    places = np.maximum(best_size - (found_size - known), known)
    compared = np.arange(best.shape[1]) < places[:, None]
    worth_best, worth_found = (np.clip(np.nan_to_num(scores, nan=0.0), 0.0, 1.0) for scores in (best, found))
    # The i-th best of a few documents is never above the i-th best of all; only a caller's mistake could make it so.
    lost = np.where(compared, np.maximum(worth_best - worth_found, 0.0), 0.0)
    total = np.cumsum(lost, axis=1)[:, -1]  # a fixed order of summation, to which padding adds exact zeros
    regret: Floats = np.divide(total, places, out=np.zeros(len(total)), where=places > 0)
    regret[(found_size > 0) & (known == 0)] = np.nan
    return regret
