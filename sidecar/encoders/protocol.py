"""What the rest of the program may ask of an encoder, so that no room depends on an embedding library.

An encoder blocks: it is called from one worker thread, never from the event loop and never from two threads
at once. Micro-batching across queries, time-outs and the thread itself are `replay`'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Vectors: TypeAlias = NDArray[np.float32]
"""One vector a row, shape (n, dimension), C-contiguous; unit length unless normalising was switched off."""


@runtime_checkable
class Encoder(Protocol):
    """Text to unit vectors, in a query mode and a document mode (they differ by prompt or prefix).

    An encoder never changes after it was made: same text, same mode, same vector up to the last bits of
    float32.
    """

    @property
    def name(self) -> str:
        """Give the short name to show; it carries no path of the machine."""
        ...

    @property
    def dimension(self) -> int:
        """Give the number of components of every vector."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Encode `texts` as queries; shape (n, dimension), row i belongs to text i.

        Raises `EncoderError` when the model fails or gives a number that is not finite.
        """
        ...

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Encode `texts` as documents; otherwise as `encode_queries`."""
        ...

    def close(self) -> None:
        """Free the model; closing twice is harmless, encoding after it is an `EncoderError`."""
        ...
