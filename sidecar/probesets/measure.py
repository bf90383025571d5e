"""Put a probe set to an encoder, in steps: the sidecar pauses between them, the gate does not.

The same set and the same encoder must give the same numbers, always: a change of a canary is a fact only if nothing but
the encoder can move it. The neighbours of a text in its batch change the last bits of its vector, so the batches are a
function of the set alone. They are also what makes a run as fast as encoding can be: sorted by length, small enough
that a live query never waits long behind one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from sidecar.drift.composition import PairScores
from sidecar.drift.labelled import DEPTH, score
from sidecar.model import Ranking

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import NDArray

    from sidecar.drift.labelled import RetrievalScores
    from sidecar.encoders.protocol import Encoder, Vectors
    from sidecar.indexes.protocol import Index
    from sidecar.probesets.read import ProbeSet

    Steps = Generator[None, None, "Result"]
    """One step of work for each `next`; the result is what the generator returns."""

Result = TypeVar("Result")

BATCH_TEXTS = 32
BATCH_CHARACTERS = 4_000
"""About a thousand tokens: some 100 ms for a small encoder on two cores."""

SEARCHED_AT_ONCE = 64


def finish(steps: Generator[None, None, Result]) -> Result:
    """Take all steps at once and give the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


def ask(one: ProbeSet, encoder: Encoder, index: Index | None = None, *, depth: int = DEPTH) -> Steps[list[Ranking]]:
    """Rank the first `depth` documents for each query of a labelled set: by its own corpus, else by `index`.

    Raises:
        EncoderError, VectorIndexError: the encoder or the index fails.
        ValueError: the set has no corpus, and there is no index.
    """
    queries = yield from _encode(encoder.encode_queries, [query.text for query in one.queries])
    rankings: list[Ranking] = []
    if one.corpus is None:
        if index is None:
            raise ValueError(f"the set {one.name} has no corpus and needs an index")
        for at in range(0, len(queries), SEARCHED_AT_ONCE):
            rankings += index.search(queries[at : at + SEARCHED_AT_ONCE], depth)
            yield
        return rankings
    ids = tuple(one.corpus)
    documents = yield from _encode(encoder.encode_documents, list(one.corpus.values()))
    places = np.argsort(np.argsort(np.asarray(ids)))
    for at in range(0, len(queries), SEARCHED_AT_ONCE):
        products = queries[at : at + SEARCHED_AT_ONCE] @ documents.T
        rankings += [_best(row, ids, places, depth) for row in products]
        yield
    return rankings


def score_rankings(one: ProbeSet, rankings: Sequence[Ranking]) -> RetrievalScores:
    """Score the rankings of a labelled set's queries, in their order."""
    return score([(query.id, query.domain) for query in one.queries], rankings, one.judgements)


def measure_pairs(one: ProbeSet, encoder: Encoder) -> Steps[PairScores]:
    """Give the cosines of a composition set's triples. All are encoded as queries: that is what a cache compares.

    Raises:
        EncoderError: the encoder fails.
    """
    sides = [[getattr(triple, part) for triple in one.triples] for part in ("anchor", "paraphrase", "near_miss")]
    vectors = yield from _encode(encoder.encode_queries, [text for side in sides for text in side])
    anchor, paraphrase, near_miss = np.split(vectors.astype(np.float64), 3)
    return PairScores(
        phenomena=tuple(triple.phenomenon for triple in one.triples),
        paraphrase=tuple(_cosines(anchor, paraphrase).tolist()),
        near_miss=tuple(_cosines(anchor, near_miss).tolist()),
    )


def batches(texts: Sequence[str]) -> list[list[int]]:
    """Group the places of `texts` by ascending length, so that a batch has little padding and a bounded cost."""
    found: list[list[int]] = []
    characters = 0
    for place in sorted(range(len(texts)), key=lambda place: (len(texts[place]), place)):
        characters += len(texts[place])
        if not found or len(found[-1]) == BATCH_TEXTS or characters > BATCH_CHARACTERS:
            found.append([])
            characters = len(texts[place])
        found[-1].append(place)
    return found


def _encode(encode: Callable[[Sequence[str]], Vectors], texts: Sequence[str]) -> Steps[Vectors]:
    found: Vectors | None = None
    for places in batches(texts):
        vectors = encode([texts[place] for place in places])
        if found is None:
            found = np.empty((len(texts), vectors.shape[1]), dtype=np.float32)
        found[places] = vectors
        yield
    return np.empty((0, 0), dtype=np.float32) if found is None else found


def _best(scores: Vectors, ids: Sequence[str], places: NDArray[np.int64], depth: int) -> Ranking:
    """Rank by score, equal ones by id."""
    order = np.lexsort((places, -scores))[:depth]
    return Ranking(tuple(ids[place] for place in order), tuple(scores[order].astype(float).tolist()))


def _cosines(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    # Unit vectors of float32 are a little short or long, and the cosine of equal texts must not exceed 1.
    products = np.einsum("ij,ij->i", one, other) / np.where(lengths > 0.0, lengths, 1.0)
    return np.asarray(np.clip(products, -1.0, 1.0), dtype=np.float64)
