"""Tell encoders apart by what they do, so that a change of model or configuration is a fact, not a suspicion.

A file checksum would miss a lost prefix and flag a re-saved copy of the same weights. A fingerprint is taken
from the outside instead: the vectors that an encoder gives the 64 sentinel texts, in query mode and in
document mode. Two fingerprints are the same when no sentinel moved further than runtime noise can move it;
the digest is the short name for that. What a change means (which alarm, which attribution) is left to others.

Noise and effects, as measured on all-MiniLM-L6-v2 (docs/encoders.md has the table; L2 distance of one
sentinel's unit vectors, the largest over the sentinels): threads, batch composition, kernels at most 1.5e-6;
relative weight noise of 0.01 % 6.9e-4; float16 2.1e-3; bfloat16 1.6e-2; one token less of max length 2.7e-2;
any prefix above 1.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import sidecar
from sidecar.errors import DataError, EncoderError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from sidecar.encoders.protocol import Encoder, Vectors

SENTINELS = 64
TEXTS_FILE = "sentinel/texts.jsonl"

SAME_DISTANCE = 3e-5
"""The largest relative L2 distance of one sentinel's vectors that still counts as the same encoder.

The geometric middle between the noise (1.5e-6) and the smallest change that matters (weights off by 0.01 %:
6.9e-4), rounded; 20 times away from either. It does not depend on the dimension, as a bound on single
components would.
"""

PROJECTIONS = 8
CELL = 1 / 32
"""Width of the digest's grid and number of projections for each text.

A projection on a vector of random signs moves by about the L2 distance itself, so N projections cross a cell
border about 0.8 x N x distance / CELL times. With N = 64 x 8 that is 0.009 for the median noise (7e-7) and 16
for float16 (1.3e-3): the digest of an unknown encoder comes out differently in about one run of a hundred,
and misses float16 once in e^16. No grid can do better than trade the one for the other; `adopt` removes the
rest by comparing the vectors themselves.
"""

DIGEST_LENGTH = 12
MAGIC = b"RDFP"
FORMAT = 1
HEADER = struct.Struct("<4sBBII8s12s12s")
CHECKSUM_BYTES = 16


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What an encoder does to the sentinel texts. Compares by digest; use `same` where noise may have a say.

    `vectors` are of query mode, `document_vectors` of document mode; shape (64, dimension), read-only.
    """

    query_digest: str
    document_digest: str
    vectors: Vectors = field(repr=False, compare=False)
    document_vectors: Vectors = field(repr=False, compare=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Derive the digest of the whole from its sides, and make the vectors read-only."""
        both = _short_digest(b"both", self.query_digest.encode(), self.document_digest.encode())
        object.__setattr__(self, "digest", both)
        self.vectors.setflags(write=False)
        self.document_vectors.setflags(write=False)

    @property
    def dimension(self) -> int:
        """Give the number of components of the encoder's vectors."""
        return int(self.vectors.shape[1])

    def to_bytes(self) -> bytes:
        """Write header, vectors (little-endian float32, once if both modes are equal) and a checksum."""
        query = np.ascontiguousarray(self.vectors, dtype="<f4").tobytes()
        document = np.ascontiguousarray(self.document_vectors, dtype="<f4").tobytes()
        one_side = query == document
        header = HEADER.pack(
            MAGIC,
            FORMAT,
            one_side,
            len(self.vectors),
            self.dimension,
            _sentinel_digest(),
            self.query_digest.encode(),
            self.document_digest.encode(),
        )
        body = header + query + (b"" if one_side else document)
        return body + _checksum(body)

    @classmethod
    def from_bytes(cls, data: bytes) -> Fingerprint:
        """Read what `to_bytes` wrote.

        Raises `EncoderError` when the bytes are damaged, of another format, or were taken on other sentinel
        texts.
        """
        body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        if len(body) < HEADER.size or not body.startswith(MAGIC) or _checksum(body) != checksum:
            msg = f"an encoder fingerprint of {len(data)} bytes is damaged; rule: a matching checksum"
            raise EncoderError(msg)
        _, version, one_side, rows, dimension, sentinels, query_digest, document_digest = HEADER.unpack_from(body)
        if version != FORMAT:
            msg = f"an encoder fingerprint has format {version}; rule: format {FORMAT}"
            raise EncoderError(msg)
        if sentinels != _sentinel_digest():
            msg = "an encoder fingerprint was taken on other sentinel texts than these; rule: measure it again"
            raise EncoderError(msg)
        numbers = np.frombuffer(body, dtype="<f4", offset=HEADER.size).astype(np.float32)
        sides = numbers.reshape(1 if one_side else 2, rows, dimension)
        return cls(query_digest.decode(), document_digest.decode(), sides[0], sides[-1])


@lru_cache(maxsize=1)
def sentinel_texts() -> tuple[str, ...]:
    """Give the 64 sentinel texts in their fixed order.

    They lie in the package of an installed wheel and beside the package in a source checkout. Raises
    `DataError` when they are missing or are not what they must be.
    """
    package = Path(sidecar.__file__).parent
    places = [root / "probes" / TEXTS_FILE for root in (package, package.parent)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        msg = f"probes/{TEXTS_FILE} is missing from the installation; rule: in the package or beside it"
        raise DataError(msg)
    texts = []
    with found.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                texts.append(str(json.loads(line)["text"]))
            except (ValueError, KeyError, TypeError) as error:
                msg = f"{found.name}, line {number}: not a JSON object with a text"
                raise DataError(msg) from error
    if len(texts) != SENTINELS:
        msg = f"{found.name} has {len(texts)} texts; rule: {SENTINELS}"
        raise DataError(msg)
    return tuple(texts)


def measure(encoder: Encoder) -> Fingerprint:
    """Encode the sentinels in both modes and give the fingerprint; a few seconds on a CPU.

    Each text is encoded alone: padding and, in an int8 model, the shared scale of a batch's activations would
    let the neighbours of a text into its vector. Measure the encoder itself, not a cache in front of it.
    """
    texts = sentinel_texts()
    query = np.concatenate([encoder.encode_queries([text]) for text in texts])
    document = np.concatenate([encoder.encode_documents([text]) for text in texts])
    return Fingerprint(_side_digest(b"query", query), _side_digest(b"document", document), query, document)


def query_distance(a: Fingerprint, b: Fingerprint) -> float:
    """Give the largest relative L2 distance over the query-mode sentinels; infinite for another dimension."""
    return _distance(a.vectors, b.vectors)


def document_distance(a: Fingerprint, b: Fingerprint) -> float:
    """Give the largest relative L2 distance over document-mode sentinels; infinite for another dimension."""
    return _distance(a.document_vectors, b.document_vectors)


def matches_queries(a: Fingerprint, b: Fingerprint) -> bool:
    """Say whether both encode queries alike."""
    return query_distance(a, b) <= SAME_DISTANCE


def matches_documents(a: Fingerprint, b: Fingerprint) -> bool:
    """Say whether both encode documents alike: is an index of the one searchable as an index of the other?

    A lost query prefix is a change of the encoder and no mismatch of the index; hence the document side only.
    """
    return document_distance(a, b) <= SAME_DISTANCE


def same(a: Fingerprint, b: Fingerprint) -> bool:
    """Say whether both are the same model in the same configuration."""
    return matches_queries(a, b) and matches_documents(a, b)


def adopt(measured: Fingerprint, known: Iterable[Fingerprint]) -> Fingerprint:
    """Give the known fingerprint that `measured` repeats, so that one encoder has one digest.

    A side (query, document) that only one of the known ones shares keeps that side's digest. Where the digest
    of a really different encoder happens to equal a known one, it is changed, so that different encoders have
    different digests.
    """
    candidates = sorted(known, key=lambda one: max(query_distance(one, measured), document_distance(one, measured)))
    if candidates and same(candidates[0], measured):
        return candidates[0]
    query = _adopted_digest(
        measured.query_digest,
        measured.vectors,
        [(one.query_digest, query_distance(one, measured)) for one in candidates],
    )
    document = _adopted_digest(
        measured.document_digest,
        measured.document_vectors,
        [(one.document_digest, document_distance(one, measured)) for one in candidates],
    )
    return Fingerprint(query, document, measured.vectors, measured.document_vectors)


def similarity(a: Fingerprint, b: Fingerprint) -> float:
    """Give the mean cosine over the query-mode sentinels: it grades a change; 0.0 for another dimension."""
    return _mean_cosine(a.vectors, b.vectors)


def document_similarity(a: Fingerprint, b: Fingerprint) -> float:
    """Give the mean cosine over the document-mode sentinels; 0.0 for another dimension."""
    return _mean_cosine(a.document_vectors, b.document_vectors)


def _adopted_digest(digest: str, vectors: Vectors, known: list[tuple[str, float]]) -> str:
    closest = min(known, key=lambda pair: pair[1], default=None)
    if closest is not None and closest[1] <= SAME_DISTANCE:
        return closest[0]
    taken = {other for other, _ in known}
    while digest in taken:
        digest = _short_digest(b"collision", digest.encode(), vectors.tobytes())
    return digest


def _distance(a: Vectors, b: Vectors) -> float:
    if a.shape != b.shape:
        return float("inf")
    lengths = np.maximum(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    lengths[lengths == 0.0] = 1.0
    largest = float(np.max(np.linalg.norm(a - b, axis=1) / lengths))
    return largest if np.isfinite(largest) else float("inf")


def _mean_cosine(a: Vectors, b: Vectors) -> float:
    if a.shape != b.shape:
        return 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    products = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    both_zero = ~x.any(axis=1) & ~y.any(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.where(both_zero, 1.0, np.sum(x * y, axis=1) / products)
    return float(np.clip(np.mean(np.nan_to_num(cosines, nan=0.0, posinf=0.0, neginf=0.0)), -1.0, 1.0))


def _side_digest(side: bytes, vectors: Vectors) -> str:
    dimension = vectors.shape[1]
    # Only an encoder without unit rows has an exponent other than 0: a power of two keeps its grid as wide as
    # theirs.
    typical = float(np.mean(np.linalg.norm(vectors, axis=1)))
    exponent = round(np.log2(typical)) if typical > 0 else 0
    scaled = vectors.astype(np.float64) / 2.0**exponent
    projected = np.einsum("tpd,td->tp", _signs(len(vectors), dimension), scaled)
    cells = np.floor(projected / CELL).astype("<i8")
    return _short_digest(side, _sentinel_digest(), struct.pack("<Ii", dimension, exponent), cells.tobytes())


def _signs(texts: int, dimension: int) -> NDArray[np.float64]:
    """Give random signs, shape (texts, PROJECTIONS, dimension), from a hash: the same everywhere, always."""
    needed = texts * PROJECTIONS * dimension
    stream = hashlib.shake_256(b"rag-drift sentinel projections").digest((needed + 7) // 8)
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8), count=needed)
    return (bits.astype(np.float64) * 2.0 - 1.0).reshape(texts, PROJECTIONS, dimension)


def _short_digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:DIGEST_LENGTH]


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()


@lru_cache(maxsize=1)
def _sentinel_digest() -> bytes:
    return hashlib.sha256("\0".join(sentinel_texts()).encode()).digest()[:8]
