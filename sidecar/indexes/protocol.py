"""What the rest of the program may ask of a vector index, so that no room depends on one store.

An index blocks: it is called from a worker thread, never from the event loop. Encoding the query and
comparing rankings are left to others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.encoders.protocol import Vectors
    from sidecar.model import Ranking


@runtime_checkable
class Index(Protocol):
    """Query vectors to rankings of document ids."""

    @property
    def generation(self) -> str:
        """Give the short digest of what the index holds; another content has another generation."""
        ...

    @property
    def size(self) -> int:
        """Count the documents."""
        ...

    @property
    def dimension(self) -> int:
        """Give the number of components of every vector."""
        ...

    def search(self, vectors: Vectors, k: int) -> list[Ranking]:
        """Rank the best `k` documents for each row of `vectors`, shape (n, dimension).

        Gives one ranking per row with scores and without repeated ids, best first; shorter than `k` only where the
        index is. Raises `VectorIndexError` when the search fails or the vectors do not fit.
        """
        ...

    def scores(self, vectors: Vectors, ids: Sequence[Sequence[str]]) -> list[tuple[float | None, ...]]:
        """Score the documents `ids[i]` for row i of `vectors`; None for a document that is not in the index.

        A pair has the score that `search` gives it: what `search` ranks lower never scores higher here. Raises
        `VectorIndexError` as `search` does.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections; closing twice is harmless."""
        ...
