"""Say how far two rankings of the same query agree.

Overlap is the number that the whole sidecar watches: what the deployed retriever returns, held against what
the reference returns. Several measures are computed at once because they fail differently: `overlap@k` sees
lost documents and is blind to order, `rbo@k` weighs the top, `top1` is what a reader of one document gets,
`tau_ap` sees a reshuffle of documents that both still return.

Rankings come in as document ids, best first, and leave as arrays with one number per query. Where the ids
come from, which series they belong to, and whether a level is bad is left to others. Three rules hold
throughout:

* an id that is repeated within one ranking counts once, at its first (best) place, and what follows moves up;
  only then is the ranking cut to k. A service that returns passages of one document under the document's id
  is therefore compared by documents;
* two empty rankings agree fully (1), an empty and a non-empty one not at all (0);
* a query's numbers do not depend, to the last bit, on the other queries of its batch, so that a replay after
  a restart gives what it gave before. Sums over depth are therefore running sums (`cumsum`): their order is
  fixed and padding adds exact zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["Agreement", "break_ties", "compare", "signal_name"]

# One chunk of the pairwise order comparison holds this many booleans: 1 MiB stays in a core's cache and
# bounds the memory however large the batch is. Beyond k = 1024 a chunk is one query and takes k^2.
_CELLS = 1 << 20

_DEPTH_MEASURES = frozenset({"overlap", "jaccard", "rbo", "rbo_min", "tau_ap"})


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """Hold the agreement of a batch of ranking pairs: arrays of shape (B,), float64, read-only.

    A and B are the two rankings of one query, without repetitions and cut to k; A_d is the first d of A.

    Attributes:
        k: Depth at which the rankings were cut.
        p: Persistence of the RBO user model, in (0, 1).
        overlap: |A & B| / max(|A|, |B|), in [0, 1]. The larger list is the denominator because a retriever
            that returns fewer documents than the other has lost some: dividing by the smaller one would call
            it perfect. With both lists full it is the usual |A & B| / k, so its values are the exact floats
            of 0/k, 1/k ... 1.
        jaccard: |A & B| / |A | B|, in [0, 1], never above `overlap`.
        rbo: Rank-biased overlap, extrapolated, in [0, 1]: RBO_EXT for lists of different lengths, equation
            (32) of Webber, Moffat and Zobel, "A similarity measure for indefinite rankings", ACM TOIS 28(4),
            2010. It assumes that the agreement seen last goes on for ever, also in the unseen rest of the
            shorter list: a ranking and its own beginning score 1. A shortened result list shows in `overlap`,
            not here.
        rbo_min: The lower bound RBO_MIN, equation (11) of the same paper, at depth k: nothing beyond what was
            seen is shared. Beyond the end of a short list |A_d & B_d| stays as it is, which is the same
            assumption. Never above `rbo`. Identical lists get what their ranks weigh together, not 1: .86
            with 10 documents at p = .9, equation (21).
        top1: 1 if the first ids are the same, else 0.
        tau_ap: AP rank correlation of the shared documents in their two orders, in [-1, 1]; NaN with fewer
            than two shared documents (not enough data is a state). Yilmaz, Aslam and Robertson, "A new rank
            correlation coefficient for information retrieval", SIGIR 2008: 2/(n-1) * sum over i = 2..n of
            C(i)/(i-1), less 1, C(i) the number of documents above rank i that the other ranking has above
            that document too. The coefficient is not symmetric; this is the mean of both directions.
    """

    k: int
    p: float
    overlap: Floats
    jaccard: Floats
    rbo: Floats
    rbo_min: Floats
    top1: Floats
    tau_ap: Floats


def compare(left: Sequence[Sequence[str]], right: Sequence[Sequence[str]], *, k: int = 10, p: float = 0.9) -> Agreement:
    """Compare two rankings of each of B queries.

    Every measure is symmetric in left and right (`tau_ap` up to rounding). Where scores are known, order the
    ids with `break_ties` first.

    Args:
        left: B rankings, each a sequence of document ids, best first; any length, also empty.
        right: The other ranking of the same queries, in the same order.
        k: Depth of comparison, at least 1; what a ranking has beyond it is cut.
        p: Persistence of RBO, strictly between 0 and 1. The first 10 ranks carry 86 % of the weight at .9
            (equation (21) of the RBO paper).

    Raises:
        ValueError: If k or p is out of range, the batches differ in length, or a ranking is a bare string.

    """
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if not 0 < p < 1:
        raise ValueError(f"p is {p}; it must lie strictly between 0 and 1")
    if len(left) != len(right):
        raise ValueError(f"left has {len(left)} rankings and right has {len(right)}; both need one per query")

    places, left_size, right_size = _align(left, right, k)
    seen = _shared_by_depth(places)
    shared = seen[:, -1]
    longer, shorter = np.maximum(left_size, right_size), np.minimum(left_size, right_size)
    both_empty = longer == 0
    top1 = np.where(both_empty, 1.0, places[:, 0] == 0)
    rbo = np.where(both_empty, 1.0, _rbo_ext(seen, shorter, longer, p))
    rbo_min = np.where(both_empty, 1.0, _rbo_min(seen, p))
    measures = (
        _share(shared, longer),
        _share(shared, left_size + right_size - shared),
        rbo,
        # Both are computed to some 1e-15; where they meet, rounding must not put the bound above the value.
        np.minimum(rbo_min, rbo),
        top1,
        _tau_ap(places, shared),
    )
    for values in measures:
        values.flags.writeable = False
    return Agreement(k, p, *measures)


def break_ties(ids: Sequence[str], scores: Sequence[float]) -> tuple[str, ...]:
    """Order ids by score, descending, and equal scores by id, ascending (by code point: "10" before "9").

    Two retrievers that give the same scores then give the same list, whatever order their index happened to
    return; without this, ties look like disagreement.

    Raises:
        ValueError: If the lengths differ or a score is NaN, which has no place in an order.

    """
    if len(ids) != len(scores):
        raise ValueError(f"there are {len(ids)} ids and {len(scores)} scores; each id needs one score")
    if any(map(math.isnan, scores)):
        raise ValueError("a score is NaN; scores must be comparable numbers")
    return tuple(name for _, name in sorted((-score, name) for name, score in zip(ids, scores, strict=True)))


def signal_name(measure: str, k: int) -> str:
    """Name the signal of one measure of `Agreement`: `overlap@10`; `top1` has no depth.

    Raises:
        ValueError: If the measure is unknown.

    """
    if measure == "top1":
        return measure
    if measure not in _DEPTH_MEASURES:
        raise ValueError(f"measure is {measure!r}; it must be one of {', '.join(sorted({*_DEPTH_MEASURES, 'top1'}))}")
    return f"{measure}@{k}"


def _align(left: Sequence[Sequence[str]], right: Sequence[Sequence[str]], k: int) -> tuple[Ints, Ints, Ints]:
    """Turn ids into places, once per batch, so that everything after it is arithmetic on integers.

    Returns:
        places: (B, width), the place (from 0) in the right ranking of the document at each place of the left
            one; `width` where the right ranking lacks it and as padding. width is the longest ranking's
            length, at least 1.
        left_size: (B,) lengths after removing repetitions and cutting.
        right_size: likewise.

    """
    lefts = [_distinct(ranking, k) for ranking in left]
    rights = [_distinct(ranking, k) for ranking in right]
    left_size = np.array([len(ranking) for ranking in lefts], dtype=np.int64)
    right_size = np.array([len(ranking) for ranking in rights], dtype=np.int64)
    width = int(max(left_size.max(initial=1), right_size.max(initial=1)))
    flat: list[int] = []
    for ours, theirs in zip(lefts, rights, strict=True):
        place_of = dict(zip(theirs, range(width), strict=False))
        flat += map(place_of.get, ours, repeat(width))
    places = np.full((len(lefts), width), width, dtype=np.int64)
    places[np.arange(width) < left_size[:, None]] = flat
    return places, left_size, right_size


def _distinct(ranking: Sequence[str], k: int) -> list[str]:
    if isinstance(ranking, str):
        # Bad input is a ValueError throughout this module, also where its type is what is bad.
        raise ValueError("a ranking is a string; it must be a sequence of document ids")  # noqa: TRY004
    return list(islice(dict.fromkeys(ranking), k))


def _shared_by_depth(places: Ints) -> Ints:
    """Count X_d = |A_d & B_d| for d = 1..width: a document is shared from the deeper of its two places on."""
    batch, width = places.shape
    met = np.maximum(places, np.arange(width))
    cells = met + np.arange(batch)[:, None] * (width + 1)
    counts = np.bincount(cells.ravel(), minlength=batch * (width + 1)).reshape(batch, width + 1)
    return np.cumsum(counts[:, :width], axis=1, dtype=np.int64)


def _share(part: Ints, whole: Ints) -> Floats:
    return np.divide(part, whole, out=np.ones(part.shape), where=whole > 0)


def _rbo_ext(seen: Ints, shorter: Ints, longer: Ints, p: float) -> Floats:
    """Evaluate equation (32), regrouped.

    With s and l the two lengths, the equation is a weighted sum of agreements a_d = (X_d + X_s max(d-s, 0)/s)
    / d with weights w_d = (1-p) p^(d-1) for d = 1..l and p^l for the rest, at a_l. The weights add up to 1,
    so it equals a_l + sum of w_d (a_d - a_l), which needs no p^l and is exactly 1 where every a_d is 1.
    """
    batch, width = seen.shape
    rows, depth = np.arange(batch), np.arange(1, width + 1)
    at_shorter = seen[rows, np.maximum(shorter, 1) - 1]
    assumed = at_shorter[:, None] * np.maximum(depth - shorter[:, None], 0) / np.maximum(shorter, 1)[:, None]
    agreement = (seen + assumed) / depth
    last: Floats = agreement[rows, np.maximum(longer, 1) - 1]
    excess = np.where(depth <= longer[:, None], agreement - last[:, None], 0.0)
    weighted = np.cumsum(excess * ((1 - p) * p ** (depth - 1.0)), axis=1)
    # Rounding can leave some 1e-17 below 0 where only the depths that p makes negligible agree.
    return np.clip(last + weighted[:, -1], 0.0, 1.0)


def _rbo_min(seen: Ints, p: float) -> Floats:
    """Evaluate equation (11): (1-p)/p * (sum over d of (X_d - X_k) p^d/d, less X_k ln(1-p)).

    One p is multiplied in, so that a tiny p divides nothing. The depth may be that of the longest ranking
    instead of k, since X_d = X_k from there on.
    """
    depth = np.arange(1, seen.shape[1] + 1)
    last = seen[:, -1]
    missing = np.cumsum((seen - last[:, None]) * (p ** (depth - 1.0) / depth), axis=1)[:, -1]
    # The difference cancels when documents are shared only far down; what is left of it may be a rounded zero
    # below 0.
    return np.maximum((1 - p) * (missing - last * (math.log1p(-p) / p)), 0.0)


def _tau_ap(places: Ints, shared: Ints) -> Floats:
    """Mean of both directions of tau_AP over the shared documents of each row.

    A pair is in the same order seen from either side, so the number C of documents above a shared document in
    both rankings serves both directions; they differ only in the rank that C is divided by.
    """
    result = np.full(len(places), np.nan)
    rows = np.flatnonzero(shared >= 2)  # an order needs two
    width = places.shape[1]
    step = max(1, _CELLS // width**2)
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        result[chunk] = _tau_ap_of(places[chunk], shared[chunk])
    return result


def _tau_ap_of(places: Ints, shared: Ints) -> Floats:
    batch, width = places.shape
    rows = np.arange(batch)[:, None]
    is_shared = places < width
    above_left = np.cumsum(is_shared, axis=1) - 1
    in_right = np.zeros((batch, width + 1), dtype=np.bool_)
    in_right[rows, places] = is_shared
    above_right = np.cumsum(in_right, axis=1)[rows, places] - 1

    # Axes: query, other document, document. The narrow type and the sum over the middle axis let numpy use
    # vector instructions; with int64 and the last axis this step takes about four times as long.
    narrow = places.astype(np.min_scalar_type(width))
    above_both = narrow[:, :, None] < narrow[:, None, :]
    above_both &= ~np.tri(width, dtype=np.bool_)
    concordant = np.where(is_shared, np.add.reduce(above_both, axis=1, dtype=np.int32), 0)
    # The first document of either order has nothing above it: C is 0 there and any divisor will do.
    directions = concordant / np.maximum(above_left, 1), concordant / np.maximum(above_right, 1)
    from_left, from_right = (2 * np.cumsum(terms, axis=1)[:, -1] / (shared - 1) - 1 for terms in directions)
    return (from_left + from_right) / 2
