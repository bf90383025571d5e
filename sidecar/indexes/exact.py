"""Exact search in the process: what a vector store should have answered, had it not approximated.

A ranking must not depend on how it was computed, or every change of batch size would read as drift. BLAS
gives other last bits for another batch shape, so it only picks candidates, with a margin that covers its
worst rounding error; the candidates are scored again in float64, one pair at a time, and ranked by score
rounded to six decimals, then by id.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from sidecar.encoders.fingerprint import Fingerprint, document_similarity, matches_documents
from sidecar.errors import EncoderError, MismatchError, VectorIndexError
from sidecar.indexes.manifest import Manifest
from sidecar.model import Ranking

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from sidecar.encoders.protocol import Vectors

DECIMALS = 6
"""Scores closer than this may count as equal, and the id decides.

Copies of one text that were encoded in different batches differ by about 1e-7: rounding lets their order be
the order of their ids in nearly every case instead of a coin's.
"""

SCORES_AT_ONCE = 1 << 22
"""Scores per matrix product: 16 MiB of scratch. Each product makes the threads of BLAS wait for each other, which costs
more than what a smaller block saves in the cache (measured: docs/performance.md)."""

PICKED_AT_ONCE = 1 << 19
"""Scores among which candidates are picked at a time: 2 MiB, which stay in a core's cache meanwhile."""

FEWEST_IN_BLOCK = 1024
QUERIES_AT_ONCE = 256

PAIRS_AT_ONCE = 4096
"""Pairs per step of the float64 scoring; scratch memory is 16 x PAIRS_AT_ONCE x dimension bytes."""

CANDIDATES_AT_ONCE = 1 << 18
"""More gathered candidates than this (a corpus of copies) are scored and cut to the best k early."""

READ_TRIES = 5
CHUNK = 1 << 22
FLOAT32_UNIT = float(np.finfo(np.float32).eps) / 2


@dataclass(slots=True)
class ExactIndex:
    """An index in a folder, its matrix memory-mapped; made by `open`, searched from one thread at a time."""

    manifest: Manifest
    encoder_fingerprint: Fingerprint
    block: int | None = None
    _ids: list[str] = field(default_factory=list, repr=False)
    _by_id: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64), repr=False)
    _ranks: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64), repr=False)
    _matrix: Vectors | None = field(default=None, repr=False)

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False, block: int | None = None) -> ExactIndex:
        """Open the index in `folder`; with `verify` read every byte and compare the checksums.

        `block` is the number of documents per matrix product, None for one that fits the batch; it changes
        the speed only. An index that is replaced while it is open stays what it was. Raises
        `VectorIndexError` when anything is missing, has the wrong size or, with `verify`, a wrong checksum.
        """
        manifest = Manifest.read(folder)
        missing: FileNotFoundError | None = None
        for _ in range(READ_TRIES):
            try:
                return cls._open(folder, manifest, verify=verify, block=block)
            except FileNotFoundError as error:
                # A build may have swapped the index between our reading of the manifest and of the files, and a second
                # one may have brought the first content back: an unchanged manifest does not say that a file is gone.
                missing = error
                manifest = Manifest.read(folder)
        msg = f"vector index {folder} lacks {_base(missing and missing.filename)}, after {READ_TRIES} tries"
        raise VectorIndexError(msg) from missing

    @classmethod
    def _open(cls, folder: Path, manifest: Manifest, *, verify: bool, block: int | None) -> ExactIndex:
        shape = (manifest.documents, manifest.dimension)
        vectors = folder / manifest.vectors_file
        expected = 4 * shape[0] * shape[1]
        if (found := vectors.stat().st_size) != expected:
            msg = f"{vectors} has {found} bytes; rule: {shape[0]} documents x {shape[1]} x 4 = {expected}"
            raise VectorIndexError(msg)
        if verify:
            _verify(vectors, manifest.vectors_sha256)
            _verify(folder / manifest.ids_file, manifest.ids_sha256)
        ids = _read_ids(folder / manifest.ids_file, manifest.documents)
        try:
            fingerprint = Fingerprint.from_bytes((folder / manifest.encoder_file).read_bytes())
        except EncoderError as error:
            msg = f"{folder / manifest.encoder_file}: {error}"
            raise VectorIndexError(msg) from error
        by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        ranks = np.empty_like(by_id)
        ranks[by_id] = np.arange(len(ids))
        try:
            matrix: Vectors = np.memmap(vectors, dtype="<f4", mode="r", shape=shape)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            msg = f"{vectors} cannot be mapped into memory: {error}"
            raise VectorIndexError(msg) from error
        return cls(manifest, fingerprint, block, ids, by_id, ranks, np.asarray(matrix))

    @property
    def generation(self) -> str:
        """Give the short digest of ids and vectors."""
        return self.manifest.generation

    @property
    def size(self) -> int:
        """Count the documents."""
        return self.manifest.documents

    @property
    def dimension(self) -> int:
        """Give the number of components of every vector."""
        return self.manifest.dimension

    @property
    def ids(self) -> tuple[str, ...]:
        """Give all document ids in the order of the rows."""
        return tuple(self._ids)

    def vectors(self, rows: NDArray[np.int64]) -> Vectors:
        """Copy the stored vectors of `rows`, for comparison with a fresh encoding."""
        return np.array(self._open_matrix()[rows], dtype=np.float32)

    def require_encoder(self, fingerprint: Fingerprint) -> None:
        """Raise `MismatchError` unless this index holds the document vectors of that encoder."""
        if not matches_documents(self.encoder_fingerprint, fingerprint):
            own = self.encoder_fingerprint
            msg = (
                f"index {self.generation} was built by encoder {self.manifest.encoder}, "
                f"fingerprint {own.digest} (documents {own.document_digest}), and cannot be searched with "
                f"fingerprint {fingerprint.digest} (documents {fingerprint.document_digest}): the mean cosine "
                f"of their sentinel documents is {document_similarity(own, fingerprint):.4f}; "
                "rule: build the index with the encoder that searches it"
            )
            raise MismatchError(msg)

    def search(self, vectors: Vectors, k: int) -> list[Ranking]:
        """Rank the `k` documents of largest inner product for each row of `vectors`, shape (n, dimension).

        Ties go to the smaller id. A row's ranking depends on that row alone: not on the batch, the block size
        or the number of threads. `k` above `size` gives all documents. Raises `VectorIndexError` for `k`
        below 1, another dimension, numbers that are not finite, and after `close`.
        """
        matrix, queries = self._open_matrix(), self._checked(vectors)
        if k < 1:
            msg = f"k is {k}; rule: at least 1"
            raise VectorIndexError(msg)
        rankings: list[Ranking] = []
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            rankings += self._search(matrix, queries[start : start + QUERIES_AT_ONCE], min(k, self.size))
        return rankings

    def _search(self, matrix: Vectors, queries: Vectors, k: int) -> list[Ranking]:
        rows, documents = self._candidates(matrix, queries, k)
        rows, documents, scores = self._best(matrix, queries, rows, documents, k)
        # Every row has exactly k candidates left, in order.
        ranked, scored = documents.reshape(-1, k).tolist(), scores.reshape(-1, k).tolist()
        return [
            Ranking(tuple(self._ids[document] for document in best), tuple(values))
            for best, values in zip(ranked, scored, strict=True)
        ]

    def scores(self, vectors: Vectors, ids: Sequence[Sequence[str]]) -> list[tuple[float | None, ...]]:
        """Score the documents `ids[i]` for row i of `vectors`; None for an id that is not in the index.

        A pair has, to the last bit, the score that `search` gives it. A lookup of an id is a binary search in the
        order that ranks equal scores: it needs no table of a hundred bytes a document. Raises `VectorIndexError` for
        vectors that `search` would refuse, for another number of rows than `ids` has, and after `close`.
        """
        matrix, queries = self._open_matrix(), self._checked(vectors)
        if len(ids) != len(queries):
            msg = f"there are {len(ids)} lists of ids and {len(queries)} query vectors; rule: one list a vector"
            raise VectorIndexError(msg)
        rows = np.repeat(np.arange(len(ids)), np.array([len(wanted) for wanted in ids], dtype=np.int64))
        documents = np.array([self._row(one) for wanted in ids for one in wanted], dtype=np.int64)
        known = documents >= 0
        scores = np.full(len(documents), None)
        scores[known] = _scores(matrix, queries, rows[known], documents[known])
        flat = iter(scores.tolist())
        return [tuple(islice(flat, len(wanted))) for wanted in ids]

    def close(self) -> None:
        """Let go of the mapped file; rankings that were given stay valid."""
        self._matrix = None

    def _open_matrix(self) -> Vectors:
        if self._matrix is None:
            msg = f"index {self.generation} is closed"
            raise VectorIndexError(msg)
        return self._matrix

    def _checked(self, vectors: Vectors) -> Vectors:
        queries = np.ascontiguousarray(vectors, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            msg = f"query vectors have shape {queries.shape}; rule: (n, {self.dimension}) for this index"
            raise VectorIndexError(msg)
        if not np.isfinite(queries).all():
            msg = f"query vectors for index {self.generation} hold numbers that are not finite"
            raise VectorIndexError(msg)
        return queries

    def _row(self, one: str) -> int:
        """Give the row of a document, -1 for an id that is not there."""
        place = bisect_left(self._by_id, one, key=self._ids.__getitem__)
        if place < self.size and self._ids[row := int(self._by_id[place])] == one:
            return row
        return -1

    def _candidates(self, matrix: Vectors, queries: Vectors, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give (query row, document) pairs that hold the true best `k` of every row, and few others."""
        margin = self._margin(queries)
        best = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = documents = np.empty(0, dtype=np.int64)
        scores = np.empty(0, dtype=np.float32)
        for start, products in self._products(matrix, queries):
            # Without a k-th best so far everything would pass; the block's own k-th best is a valid first bound.
            bound = best[:, 0] if start or products.shape[1] < k else _kth_largest(products, k)
            found = np.flatnonzero(products >= (bound - margin)[:, None])
            if not len(found):
                continue
            new_rows, new_documents = np.divmod(found, products.shape[1])
            new_scores = products[new_rows, new_documents]
            best = _merged(best, new_rows, new_scores)
            rows = np.concatenate([rows, new_rows])
            documents = np.concatenate([documents, new_documents + start])
            scores = np.concatenate([scores, new_scores])
            alive = scores >= (best[:, 0] - margin)[rows]
            rows, documents, scores = rows[alive], documents[alive], scores[alive]
            if len(rows) > CANDIDATES_AT_ONCE + len(queries) * k:
                rows, documents, _ = self._best(matrix, queries, rows, documents, k)
                scores = np.full(len(rows), np.inf, dtype=np.float32)
        return rows, documents

    def _products(self, matrix: Vectors, queries: Vectors) -> Iterator[tuple[int, Vectors]]:
        """Yield the first document and the products of one slice of documents after the other.

        They are computed in large blocks and handed out in small slices of those.
        """
        block = self.block or max(FEWEST_IN_BLOCK, SCORES_AT_ONCE // len(queries))
        width = self.block or max(FEWEST_IN_BLOCK, PICKED_AT_ONCE // len(queries))
        for start in range(0, self.size, block):
            products = queries @ matrix[start : start + block].T
            if not np.isfinite(products).all():
                msg = f"index {self.generation} holds vectors that are not finite; build it again"
                raise VectorIndexError(msg)
            for first in range(0, products.shape[1], width):
                yield start + first, products[:, first : first + width]

    def _margin(self, queries: Vectors) -> NDArray[np.float32]:
        """Bound, for each query, how far below the k-th best product a member of the true best k can lie.

        A float32 inner product of length d is off by at most gamma = d u / (1 - d u) times the product of the
        norms, in whatever order it is summed (Higham, Accuracy and Stability of Numerical Algorithms, 2002,
        section 3.1). Both the k-th best and the candidate may be off by that, and rounding to DECIMALS moves
        a score by one step more.
        """
        # Four more steps pay for the rounding of the bound itself, which is compared in float32.
        unit = (self.dimension + 4) * FLOAT32_UNIT
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        gamma = unit / (1.0 - unit)
        bound = 2.0 * gamma * norms * self.manifest.largest_norm + 10.0**-DECIMALS
        margin: NDArray[np.float32] = (bound * (1.0 + 1e-6)).astype(np.float32)
        return margin

    def _best(
        self,
        matrix: Vectors,
        queries: Vectors,
        rows: NDArray[np.int64],
        documents: NDArray[np.int64],
        k: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Score the pairs and keep the best `k` of each row, ordered by row, score and id."""
        scores = _scores(matrix, queries, rows, documents)
        order = np.lexsort((self._ranks[documents], -scores, rows))
        rows, documents, scores = rows[order], documents[order], scores[order]
        first = np.searchsorted(rows, rows, side="left")
        kept = np.arange(len(rows)) - first < k
        return rows[kept], documents[kept], scores[kept]


def _scores(
    matrix: Vectors, queries: Vectors, rows: NDArray[np.int64], documents: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Score each pair of a query row and a document in float64, rounded to DECIMALS, whatever the other pairs are."""
    scores = np.empty(len(rows), dtype=np.float64)
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        products = matrix[documents[part]].astype(np.float64)
        products *= queries[rows[part]]
        # Products of two float32 are exact in float64, and a row is summed in the same order whatever is around it.
        scores[part] = products.sum(axis=1)
    # The sum with 0.0 turns -0.0 into 0.0: they are one score and must not be told apart by a reader.
    rounded: NDArray[np.float64] = np.round(scores, DECIMALS) + 0.0
    return rounded


def _kth_largest(products: Vectors, k: int) -> Vectors:
    place = products.shape[1] - k
    largest: Vectors = np.partition(products, place, axis=1)[:, place]
    return largest


def _merged(best: Vectors, rows: NDArray[np.int64], scores: Vectors) -> Vectors:
    """Give each row's k largest of `best` and its new `scores`, smallest first; `rows` is sorted."""
    k = best.shape[1]
    starts = np.searchsorted(rows, np.arange(len(best)))
    within = np.arange(len(rows)) - starts[rows]
    both = np.full((len(best), k + int(within.max()) + 1), -np.inf, dtype=np.float32)
    both[:, :k] = best
    both[rows, k + within] = scores
    place = both.shape[1] - k
    return np.partition(both, place, axis=1)[:, place:]


def _read_ids(place: Path, documents: int) -> list[str]:
    ids: list[str] = []
    try:
        with place.open(encoding="utf-8") as lines:
            ids.extend(json.loads(line) for line in lines)
    except ValueError as error:
        msg = f"{place}, line {len(ids) + 1}: not a JSON string"
        raise VectorIndexError(msg) from error
    if len(ids) != documents or not all(isinstance(one, str) for one in ids):
        msg = f"{place} has {len(ids)} lines; rule: {documents} JSON strings, as the manifest says"
        raise VectorIndexError(msg)
    return ids


def file_checksum(place: Path) -> str:
    """Give the SHA-256 of a file in hex, read in pieces."""
    digest = hashlib.sha256()
    with place.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _verify(place: Path, expected: str) -> None:
    if (found := file_checksum(place)) != expected:
        msg = f"{place} has checksum {found[:12]}…; rule: {expected[:12]}…, as in the manifest"
        raise VectorIndexError(msg)


def _base(filename: Any) -> str:
    return str(filename).rsplit("/", maxsplit=1)[-1]
