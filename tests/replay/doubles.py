"""Tiny deterministic retrievers for what a real model cannot be made to do on demand: fail, block, or be counted.

Whatever can be shown with the real encoder is shown with it (`test_watch.py`, `tests/app`). These stand in only where a
test needs a batch that fails at one text, an encoder that waits for the test, or exact knowledge of the batches.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from sidecar.encoders.fingerprint import SENTINELS, Fingerprint
from sidecar.errors import EncoderError
from sidecar.model import Ranking
from sidecar.replay.clusters import Clusters
from sidecar.replay.retriever import Pair, Retriever, Retrievers

if TYPE_CHECKING:
    import threading

DIMENSION = 4


class Encoder:
    """Vectors from a digest of the text; refuses texts with `poison` in them, waits at `gate` if there is one."""

    name = "double"
    dimension = DIMENSION

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.batches: list[list[str]] = []
        self._gate = gate

    def encode_queries(self, texts):
        """Give a row for each text, unless one is poisonous."""
        self.batches.append(list(texts))
        if self._gate is not None:
            assert self._gate.wait(20)
        if any("poison" in text for text in texts):
            raise EncoderError(f"encoder double failed on {len(texts)} texts")
        return np.array(
            [np.frombuffer(hashlib.sha256(text.encode()).digest()[:DIMENSION], np.uint8) for text in texts],
            dtype=np.float32,
        )

    def close(self):
        """Nothing to let go of."""


class Index:
    """Ten documents whose order follows from the vector."""

    generation = "double"
    size = 10
    dimension = DIMENSION

    def search(self, vectors, k):
        """Rank the ten documents from the one that the vector names; the scores descend from 1 in steps of 0.1."""
        ids = [tuple(f"d{(int(row[0]) + i) % 10}" for i in range(min(k, 10))) for row in vectors]
        return [Ranking(names, scores) for names, scores in zip(ids, self.scores(vectors, ids), strict=True)]

    def scores(self, vectors, ids):
        """Score each document by its place in the ranking."""
        return [
            tuple(1.0 - (int(one[1:]) - int(row[0])) % 10 / 10 for one in wanted)
            for row, wanted in zip(vectors, ids, strict=True)
        ]

    def close(self):
        """Nothing to let go of."""


def fingerprint(name: str) -> Fingerprint:
    """Give a fingerprint with this name as its digests."""
    vectors = np.zeros((SENTINELS, DIMENSION), dtype=np.float32)
    return Fingerprint(name.ljust(12, "0"), name.ljust(12, "0"), vectors, vectors.copy())


def retrievers(gate: threading.Event | None = None, *, frozen: bool = False) -> Retrievers:
    """Give doubles that agree on every query; the reference's documents lie in a cluster for each axis."""
    sides = {}
    for role in ("deployed", "reference", "frozen")[: 3 if frozen else 2]:
        encoder = Encoder(gate if role == "deployed" else None)
        clusters = Clusters(np.eye(DIMENSION)) if role == "reference" else None
        sides[role] = Retriever(role, encoder, Index(), fingerprint(role), index_matches=True, clusters=clusters)
    return Retrievers(Pair(**sides))
