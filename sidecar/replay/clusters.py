"""Give each query a neighbourhood, so that a change of what is asked can be told from a change of the answers.

The reference index's documents are divided into a few clusters; a query belongs to the cluster whose centre its
reference vector is closest to. The reference is the right gauge because a new deployed encoder does not move it. The
share of traffic by cluster is the query mix; what to make of its changes is the judge's business.

The centres follow from the index alone, so every replica and every restart numbers them alike (a processor that rounds
differently could move a query that lies on a border). Another index has other clusters: their numbers must never be
compared with these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sidecar.encoders.protocol import Vectors
    from sidecar.indexes.exact import ExactIndex

    Floats = NDArray[np.float64]

CLUSTERS = 16
SAMPLE = 5_000
ROUNDS = 50
SEED = 16


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Centres of unit length, shape (clusters, dimension)."""

    centres: Floats = field(repr=False)

    def nearest(self, vectors: Vectors) -> list[int]:
        """Number the cluster of each row of `vectors` by the largest cosine; the smaller number where two are equal.

        A row's cluster does not depend on the other rows: the products are summed one by one, not by BLAS.
        """
        products = np.einsum("nd,cd->nc", vectors.astype(np.float64), self.centres)
        return [int(one) for one in products.argmax(axis=1)]


def fit(index: ExactIndex, *, clusters: int = CLUSTERS, sample: int = SAMPLE) -> Clusters:
    """Divide the documents of `index` by spherical k-means: at most `clusters` centres, from at most `sample` rows.

    The sample is every n-th row. Starting centres are drawn as in k-means++ (Arthur and Vassilvitskii, SODA 2007) with
    a fixed seed; each round gives every row to the centre of largest cosine and moves the centre to the direction of
    the mean of its rows (Dhillon and Modha, Machine Learning 42, 2001), until none moves. Fewer centres come out where
    fewer rows differ.
    """
    rows = np.unique(np.linspace(0, index.size - 1, min(sample, index.size)).round().astype(np.int64))
    points = _unit(index.vectors(rows).astype(np.float64))
    centres = _start(points, clusters, np.random.default_rng(SEED))
    for _ in range(ROUNDS):
        member = (points @ centres.T).argmax(axis=1)[:, None] == np.arange(len(centres))
        means = _unit(member.T.astype(np.float64) @ points)
        moved = np.where(member.any(axis=0)[:, None], means, centres)  # a centre without rows stays where it is
        if np.array_equal(moved, centres):
            break
        centres = moved
    return Clusters(centres)


def _start(points: Floats, clusters: int, generator: np.random.Generator) -> Floats:
    """Draw different points: each next one with a probability that grows with the distance to those drawn before."""
    drawn = [points[generator.integers(len(points))]]
    distance = np.full(len(points), np.inf)
    while len(drawn) < clusters:
        # 1 - cosine is half the squared distance of unit rows; copies of a drawn point must not be left with 1e-16.
        distance = np.minimum(distance, np.maximum(1.0 - points @ drawn[-1], 0.0))
        distance[distance < 1e-9] = 0.0
        total = distance.sum()
        if not total > 0:
            break
        drawn.append(points[generator.choice(len(points), p=distance / total)])
    return np.array(drawn)


def _unit(rows: Floats) -> Floats:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)
