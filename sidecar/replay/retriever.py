"""A retriever is an encoder with its index; the pair of them is exchanged whole or not at all.

A service that ships a new encoder with a newly embedded index must never be watched through the new encoder and the old
index, so `Retrievers` hands out one consistent pair per batch. Whether files have changed is `watch`'s business.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.model import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.encoders.cache import CachedEncoder
    from sidecar.encoders.fingerprint import Fingerprint
    from sidecar.indexes.protocol import Index
    from sidecar.model import Ranking, Role


@dataclass(frozen=True, slots=True)
class Retriever:
    """One loaded retriever. Its weights and vectors never change; a new version is a new object.

    `index_matches` says whether the index was built by this very encoder (document side). For the reference that is a
    condition; for the deployed retriever it may be the accident that we are here to show.
    """

    role: Role
    encoder: CachedEncoder
    index: Index
    fingerprint: Fingerprint
    index_matches: bool

    def search(self, texts: Sequence[str], k: int, phase: Callable[[str, float], None]) -> list[Ranking]:
        """Rank the top `k` documents for each text. Blocking: call it from a worker thread."""
        begin = time.perf_counter()
        vectors = self.encoder.encode_queries(texts)
        middle = time.perf_counter()
        rankings = self.index.search(vectors, k)
        phase(f"encode_{self.role}", middle - begin)
        phase(f"search_{self.role}", time.perf_counter() - middle)
        return rankings


@dataclass(frozen=True, slots=True)
class Pair:
    """The deployed and the reference retriever that answer one batch."""

    deployed: Retriever
    reference: Retriever

    @property
    def stack(self) -> Stack:
        """Name the four parts by their digests."""
        return Stack(
            deployed_encoder=self.deployed.fingerprint.digest,
            deployed_index=self.deployed.index.generation,
            reference_encoder=self.reference.fingerprint.digest,
            reference_index=self.reference.index.generation,
        )


class Retrievers:
    """The pair in use, readable from the worker thread while the watcher replaces one side."""

    def __init__(self, pair: Pair) -> None:
        self._lock = threading.Lock()
        self._pair = pair

    @property
    def pair(self) -> Pair:
        """Give the pair in use now."""
        with self._lock:
            return self._pair

    def replace(self, retriever: Retriever) -> Retriever:
        """Put `retriever` in the place of its role and return the one that was there."""
        with self._lock:
            old = getattr(self._pair, retriever.role)
            if retriever.role == "deployed":
                self._pair = Pair(retriever, self._pair.reference)
            else:
                self._pair = Pair(self._pair.deployed, retriever)
        return old  # type: ignore[no-any-return]
