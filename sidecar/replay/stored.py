"""Hold stored vectors against the text that they stand for: is this still an index of this encoder?

An index cannot be told from its name. Its vectors may be those of the last encoder, of two encoders, or of none after
a bad copy; encoding a few hundred of its documents again with the encoder deployed now shows which. The sample is
drawn by a hash of the document id: every replica and every later look takes the same documents as long as they exist,
and the ids of the first sample suffice to tell which documents of a later one are new.

Everything is done in small steps, because live replay waits meanwhile: each `yield` is a place to stop at. What the
counts mean is `drift.attribution`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from sidecar.drift.evidence import StoredCheck, count_stored
from sidecar.errors import DataError
from sidecar.indexes.build import read_documents

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from sidecar.encoders.protocol import Vectors

SAMPLE = 400
"""Documents of a sample. One vector in a hundred damaged is then missed with probability 0.99^400 = 2 %."""

ENCODED_AT_ONCE = 8
LINES_AT_ONCE = 512
IDS_AT_ONCE = 4096
LARGEST_DIGEST = 2**64 - 1


@runtime_checkable
class HoldsVectors(Protocol):
    """An index that gives its vectors out; a store that only answers searches does not."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Give all document ids in the order of the rows."""
        ...

    def vectors(self, rows: NDArray[np.int64]) -> Vectors:
        """Copy the stored vectors of `rows`."""
        ...


class Encodes(Protocol):
    """What is needed of an encoder."""

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Encode `texts` as documents."""
        ...


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """What is kept of the check made at acceptance: its counts, and which documents its sample had."""

    check: StoredCheck
    digests: frozenset[int]
    """64-bit digests of the ids of the documents."""
    border: int
    """No document of the accepted index with a digest up to this one is missing in `digests`."""

    def to_state(self) -> dict[str, Any]:
        """Give it as JSON-able data; digests as hex, because a JSON number of 64 bits loses its last digits."""
        counts = (self.check.documents, self.check.bad, self.check.low)
        return {
            "counts": counts,
            "digests": [f"{one:016x}" for one in sorted(self.digests)],
            "border": hex(self.border),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> StoredRecord:
        """Read what `to_state` gave."""
        documents, bad, low = state["counts"]
        digests = frozenset(int(one, 16) for one in state["digests"])
        return cls(StoredCheck(documents, bad, low), digests, int(state["border"], 16))


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """How the stored vectors of a sample agree with their text."""

    check: StoredCheck
    record: StoredRecord
    cosines: NDArray[np.float64] = field(repr=False)
    """Of each vector with its re-encoding, ascending, (documents,); 0 where one of them is no direction."""
    textless: int
    """Sampled documents of the index that the corpus file does not have; they are not in the check."""


def stored_vectors(
    index: HoldsVectors, encoder: Encodes, corpus: Path, *, sample: int = SAMPLE, accepted: StoredRecord | None = None
) -> Generator[None, None, Stored]:
    """Encode sampled documents of the index with `encoder` and compare with what it holds. Blocking.

    Args:
        index: the deployed one.
        encoder: the deployed one.
        corpus: the file that the index was built from, `corpus.jsonl` of BEIR layout or the folder of one.
        sample: documents to draw, at least 1. Beside an accepted sample those are drawn of which it tells whether
            they are new, which are fewer only if the index has shrunk.
        accepted: the record of the check at acceptance.

    Raises:
        DataError: the corpus cannot be read, breaks a rule before the last sampled document, or has none of them; or
            the index has none of the documents of the accepted sample.
        EncoderError, VectorIndexError: encoding or reading the index fails.

    """
    drawn, whole = yield from _draw(index.ids, sample, accepted.border if accepted else LARGEST_DIGEST)
    if not drawn:
        raise DataError("the index holds no document that the sample taken at acceptance could hold; it was emptied")
    texts = yield from _texts(corpus, drawn)
    ids = sorted(texts, key=lambda one: (len(texts[one]), one))  # a batch of texts of one length has little padding
    encoded = []
    for start in range(0, len(ids), ENCODED_AT_ONCE):
        encoded.append(encoder.encode_documents([texts[one] for one in ids[start : start + ENCODED_AT_ONCE]]))
        yield
    held, fresh = index.vectors(np.array([drawn[one] for one in ids])), np.concatenate(encoded)
    digests = np.array([digest(one) for one in ids], dtype=np.uint64)
    is_new = None if accepted is None else [int(one) not in accepted.digests for one in digests]
    check = count_stored(held, fresh, is_new=is_new, accepted=accepted.check if accepted else None)
    # A document without text may be in the index all the same: it counts as known.
    every = frozenset(digest(one) for one in drawn)
    record = StoredRecord(
        StoredCheck(check.documents, check.bad, check.low),
        every,
        LARGEST_DIGEST if whole else max(every),
    )
    return Stored(check, record, np.sort(_cosines(held, fresh)), len(drawn) - len(ids))


def digest(one: str) -> int:
    """Give the number that decides whether a document is sampled: 64 bits, even over all ids."""
    return int.from_bytes(blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _draw(ids: tuple[str, ...], size: int, border: int) -> Generator[None, None, tuple[dict[str, int], bool]]:
    """Give the `size` ids of smallest digest, none above `border`, with their rows; and whether those are all."""
    kept: list[tuple[int, int]] = []
    bound = border
    for start in range(0, len(ids), IDS_AT_ONCE):
        rows = range(start, min(start + IDS_AT_ONCE, len(ids)))
        kept += [pair for row in rows if (pair := (digest(ids[row]), row))[0] <= bound]
        if len(kept) > size:
            kept = sorted(kept)[:size]
            bound = kept[-1][0]
        yield
    return {ids[row]: row for _, row in kept}, len(kept) == len(ids)


def _texts(corpus: Path, wanted: Mapping[str, int]) -> Generator[None, None, dict[str, str]]:
    """Read the corpus until every wanted document was found; keep nothing else."""
    file = corpus / "corpus.jsonl" if corpus.is_dir() else corpus
    texts: dict[str, str] = {}
    try:
        with file.open("rb") as lines:
            for number, document in read_documents(lines, file, 0):
                if document.id in wanted:
                    texts[document.id] = document.text
                    if len(texts) == len(wanted):
                        break
                if number % LINES_AT_ONCE == 0:
                    yield
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; rule: the corpus that the index is of") from error
    if not texts:
        raise DataError(f"{file} has none of {len(wanted)} sampled documents; rule: the corpus that the index is of")
    return texts


def _cosines(held: Vectors, fresh: Vectors) -> NDArray[np.float64]:
    a, b = held.astype(np.float64), fresh.astype(np.float64)
    if a.shape != b.shape:
        return np.zeros(len(a))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    finite: NDArray[np.float64] = np.nan_to_num(cosines, nan=0.0, posinf=0.0, neginf=0.0)
    return finite
