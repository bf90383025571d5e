"""A retriever is an encoder with its index; they are exchanged together or not at all.

A service that ships a new encoder with a newly embedded index must never be watched through the new encoder and the old
index, so `Retrievers` hands out one consistent set per batch. Whether files have changed is `watch`'s business.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sidecar.model import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.encoders.cache import CachedEncoder
    from sidecar.encoders.fingerprint import Fingerprint
    from sidecar.encoders.protocol import Vectors
    from sidecar.indexes.protocol import Index
    from sidecar.model import Ranking, Role
    from sidecar.replay.clusters import Clusters


@dataclass(frozen=True, slots=True)
class Retriever:
    """One loaded retriever. Its weights and vectors never change; a new version is a new object.

    `index_matches` says whether the index was built by this very encoder (document side). For the reference and the
    frozen copy that is a condition; for the deployed retriever it may be the accident that we are here to show.
    `clusters` are those of the index's documents, which only the reference has.
    """

    role: Role
    encoder: CachedEncoder
    index: Index
    fingerprint: Fingerprint
    index_matches: bool
    clusters: Clusters | None = None

    def search(
        self, texts: Sequence[str], k: int, phase: Callable[[str, float], None]
    ) -> tuple[list[Ranking], Vectors]:
        """Rank the top `k` documents for each text; give also the texts' vectors, a row each.

        Blocking: call it from a worker thread.
        """
        begin = time.perf_counter()
        vectors = self.encoder.encode_queries(texts)
        middle = time.perf_counter()
        rankings = self.index.search(vectors, k)
        phase(f"encode_{self.role}", middle - begin)
        phase(f"search_{self.role}", time.perf_counter() - middle)
        return rankings, vectors


@dataclass(frozen=True, slots=True)
class Pair:
    """The deployed and the reference retriever that answer one batch, and the frozen copy where there is one.

    The frozen one is the deployed stack as it was accepted. It is replayed for real even while it has the digests of
    the deployed one: a shortcut would hide every fault that digests cannot see.
    """

    deployed: Retriever
    reference: Retriever
    frozen: Retriever | None = None

    @property
    def roles(self) -> tuple[Role, ...]:
        """Name the roles that there are."""
        return ("deployed", "reference") if self.frozen is None else ("deployed", "reference", "frozen")

    @property
    def stack(self) -> Stack:
        """Name all parts by their digests."""
        return Stack(
            deployed_encoder=self.deployed.fingerprint.digest,
            deployed_index=self.deployed.index.generation,
            reference_encoder=self.reference.fingerprint.digest,
            reference_index=self.reference.index.generation,
            frozen_encoder=self.frozen.fingerprint.digest if self.frozen else "",
            frozen_index=self.frozen.index.generation if self.frozen else "",
        )


class Retrievers:
    """The retrievers in use, readable from the worker thread while the watcher replaces one of them."""

    def __init__(self, pair: Pair) -> None:
        self._lock = threading.Lock()
        self._pair = pair

    @property
    def pair(self) -> Pair:
        """Give the retrievers in use now."""
        with self._lock:
            return self._pair

    def replace(self, retriever: Retriever) -> Retriever:
        """Put `retriever` in the place of its role and return the one that was there."""
        with self._lock:
            old = getattr(self._pair, retriever.role)
            self._pair = replace(self._pair, **{retriever.role: retriever})
        return old  # type: ignore[no-any-return]
