"""A cache of query vectors, because live queries repeat and encoding is by far the dearest step of a replay.

A cache belongs to one loaded encoder, and a loaded encoder never changes its weights: an entry can therefore
never be stale, and there is nothing to invalidate. A new encoder gets a new cache. Documents are not cached;
they are encoded once.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from sidecar.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.encoders.protocol import Encoder, Vectors

DIGEST_BYTES = 16
BYTES_PER_ENTRY_BESIDE_VECTOR = 256


@dataclass(slots=True)
class CachedEncoder:
    """An encoder with a least-recently-used cache of `entries` query vectors in front of it.

    The text itself is never kept, only a 128-bit digest of it. Memory is at most `entries` times (4 x
    dimension + 256) bytes: 18 MB for 10,000 entries of dimension 384. Duplicates within one call are encoded
    once. `hits` and `misses` count texts since the start; a repeat within a call is a hit. `entries` 0 keeps
    nothing between calls.
    """

    encoder: Encoder
    entries: int
    hits: int = 0
    misses: int = 0
    _slots: OrderedDict[bytes, int] = field(default_factory=OrderedDict, repr=False)
    _store: Vectors = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Set aside the room; the operating system hands out its pages as they are filled."""
        if self.entries < 0:
            msg = f"encoder cache has {self.entries} entries; rule: at least 0"
            raise ConfigurationError(msg)
        self._store = np.empty((self.entries, self.encoder.dimension), dtype=np.float32)

    @property
    def name(self) -> str:
        """Give the inner encoder's name."""
        return self.encoder.name

    @property
    def dimension(self) -> int:
        """Give the inner encoder's dimension."""
        return self.encoder.dimension

    def __len__(self) -> int:
        """Count the vectors that are kept now."""
        return len(self._slots)

    @property
    def largest_bytes(self) -> int:
        """Give the bound on the cache's own memory in bytes."""
        return self.entries * (4 * self.dimension + BYTES_PER_ENTRY_BESIDE_VECTOR)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Encode `texts` as queries, asking the inner encoder once, and only for what is not known yet.

        Nothing is kept or counted when the inner encoder raises.
        """
        keys = [_digest(text) for text in texts]
        missing: dict[bytes, str] = {}
        for key, text in zip(keys, texts, strict=True):
            if key not in self._slots:
                missing.setdefault(key, text)
        if len(missing) == len(keys):
            fresh = self.encoder.encode_queries(texts)
            self.misses += len(keys)
            self._keep(keys, fresh)
            return fresh
        vectors = np.empty((len(keys), self.dimension), dtype=np.float32)
        fresh = self.encoder.encode_queries(list(missing.values())) if missing else vectors[:0]
        rows = {key: row for row, key in enumerate(missing)}
        for target, key in enumerate(keys):
            row = rows.get(key)
            if row is None:
                self._slots.move_to_end(key)
                vectors[target] = self._store[self._slots[key]]
            else:
                vectors[target] = fresh[row]
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        self._keep(list(missing), fresh)
        return vectors

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Encode `texts` as documents with the inner encoder; nothing is kept."""
        return self.encoder.encode_documents(texts)

    def close(self) -> None:
        """Forget every vector and close the inner encoder."""
        self._slots.clear()
        self._store = np.empty((0, self.dimension), dtype=np.float32)
        self.entries = 0
        self.encoder.close()

    def _keep(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        # More new texts than room: only the last ones could survive, so only they are written.
        first = max(0, len(keys) - self.entries)
        for key, vector in zip(keys[first:], vectors[first:], strict=True):
            full = len(self._slots) == self.entries
            slot = self._slots.popitem(last=False)[1] if full else len(self._slots)
            self._store[slot] = vector
            self._slots[key] = slot


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
