"""Ask many queries without getting into the way of the live ones, and so that the same question has the same answer.

The neighbours of a text in its batch change the last bits of its vector, which can swap two documents of nearly the
same score. So each text is encoded alone, and not through the cache, which holds vectors of live batches.

Live queries go first: the work is done on the replay's own thread in steps of some 50 ms, and pauses between them keep
it to a share of the time.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from sidecar.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from sidecar.encoders.protocol import Encoder
    from sidecar.indexes.protocol import Index
    from sidecar.model import Ranking
    from sidecar.replay.retriever import Retriever

    Vector = NDArray[np.float32]
    Wanted = Callable[[], None]
    """Called between the steps; raises when the work has lost its purpose."""

Item = TypeVar("Item")
Result = TypeVar("Result")

JITTER_REPLAYS = 20
STEP_SECONDS = 0.05
LARGEST_STEP = 64


class Asker:
    """Encode and search in small steps. What `steps` took, without the waits for the thread, is `busy_seconds`."""

    def __init__(self, executor: Executor, *, share: float) -> None:
        self._executor = executor
        self._share = share
        self.steps = 0
        self.busy_seconds = 0.0

    async def encode(self, encoder: Encoder, texts: Mapping[str, str], wanted: Wanted) -> dict[str, Vector]:
        """Encode each text alone; leave out those that the encoder refuses.

        Raises:
            EncoderError: it refuses all of them.
        """

        def alone(items: Sequence[tuple[str, str]]) -> list[Vector | EncoderError]:
            return [_encoded(encoder, text) for _, text in items]

        found = await self._in_steps(alone, list(texts.items()), wanted)
        vectors = {name: one for name, one in zip(texts, found, strict=True) if not isinstance(one, EncoderError)}
        if found and not vectors:
            raise next(one for one in found if isinstance(one, EncoderError))
        return vectors

    async def search(self, index: Index, vectors: Mapping[str, Vector], k: int, wanted: Wanted) -> dict[str, Ranking]:
        """Rank the top `k` for each vector.

        Raises:
            VectorIndexError: the index cannot be searched.
        """

        def search(rows: Sequence[Vector]) -> list[Ranking]:
            return index.search(np.stack(rows), k)

        rankings = await self._in_steps(search, list(vectors.values()), wanted)
        return dict(zip(vectors, rankings, strict=True))

    async def ask_at_rest(
        self, retriever: Retriever, texts: Mapping[str, str], k: int, wanted: Wanted
    ) -> tuple[list[dict[str, Ranking]], dict[str, Vector]]:
        """Ask the same twice; where the answers differ, `JITTER_REPLAYS` times more instead of the second.

        Gives the answers, the first being those to accept, and the vectors that they are from. With exact search and a
        steady encoder there is one set of answers. All have the same texts.
        """
        encoder, index = retriever.encoder.encoder, retriever.index
        vectors = await self.encode(encoder, texts, wanted)
        again = await self.encode(encoder, texts, wanted)
        steady = vectors.keys() == again.keys() and all(np.array_equal(vectors[one], again[one]) for one in vectors)
        answers = [await self.search(index, vectors, k, wanted)]
        if await self.search(index, again, k, wanted) != answers[0]:
            for _ in range(JITTER_REPLAYS):
                fresh = vectors if steady else await self.encode(encoder, texts, wanted)
                answers.append(await self.search(index, fresh, k, wanted))
        common = set(texts).intersection(*answers)
        return [{name: one[name] for name in texts if name in common} for one in answers], vectors

    async def _in_steps(
        self, work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], wanted: Wanted
    ) -> list[Result]:
        def timed(some: Sequence[Item]) -> tuple[list[Result], float]:
            begin = time.perf_counter()
            results = work(some)
            self.steps += 1
            return results, time.perf_counter() - begin

        loop = asyncio.get_running_loop()
        done: list[Result] = []
        size = 1
        while len(done) < len(items):
            wanted()
            some = items[len(done) : len(done) + size]
            results, seconds = await loop.run_in_executor(self._executor, timed, some)
            done += results
            self.busy_seconds += seconds
            fitting = int(len(some) * STEP_SECONDS / max(seconds, 1e-6))
            size = max(1, min(2 * size, fitting, LARGEST_STEP))
            await asyncio.sleep(seconds * (1.0 / self._share - 1.0))
        wanted()
        return done


def _encoded(encoder: Encoder, text: str) -> Vector | EncoderError:
    try:
        vector: Vector = encoder.encode_queries([text])[0]
    except EncoderError as error:
        return error
    return vector
