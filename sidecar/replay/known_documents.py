"""Remember which documents an index held, in four bytes each.

Only with that can a list be condensed to the documents that were there at acceptance, and a corpus that grew be told
from decay. A document is remembered by the CRC-32 of its id: a document that is not there is taken for one that is with
a probability of (number of documents) / 2^32, 0.02 % for a million.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from sidecar.indexes.protocol import Index

MOST_DOCUMENTS = 1_000_000
"""Larger corpora are not remembered: their list would weigh more than everything else that the sidecar keeps."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownDocuments:
    """The documents of an index; `hashes` are uint32, ascending and without repetitions."""

    hashes: NDArray[np.uint32] = field(repr=False)

    @classmethod
    def of(cls, index: Index) -> KnownDocuments | None:
        """Remember what `index` holds; None for more than `MOST_DOCUMENTS` and for an index that does not list them."""
        if index.size > MOST_DOCUMENTS:
            return None
        ids: Sequence[str] | None = getattr(index, "ids", None)
        return None if ids is None else cls(np.unique(_hashes(ids)))

    def holds(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Say of each id whether it is among the documents."""
        wanted = _hashes(ids)
        if not len(self.hashes):
            return np.zeros(len(wanted), dtype=np.bool_)
        places = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return np.asarray(self.hashes[places] == wanted)

    def to_bytes(self) -> bytes:
        """Give it compressed: differences of neighbours as little-endian uint32, deflated."""
        return zlib.compress(np.diff(self.hashes, prepend=self.hashes.dtype.type(0)).astype("<u4").tobytes())

    @classmethod
    def from_bytes(cls, content: bytes) -> KnownDocuments:
        """Read what `to_bytes` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            steps = np.frombuffer(zlib.decompress(content), dtype="<u4")
        except (zlib.error, ValueError) as error:
            raise ValueError(f"not a list of known documents: {error}") from None
        return cls(np.cumsum(steps, dtype=np.uint32))


def _hashes(ids: Iterable[str]) -> NDArray[np.uint32]:
    return np.fromiter((zlib.crc32(one.encode("utf-8", "surrogatepass")) for one in ids), dtype=np.uint32)
