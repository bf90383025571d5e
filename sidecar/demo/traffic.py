"""The demo's traffic: real queries, drawn at random with a mix of slices that moves with the hour of the day.

Drawing is pure and seeded; sending goes through the service's HTTP port with a bounded number of requests in flight.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from sidecar.errors import DemoError
from sidecar.relevance import ndcg

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    import aiohttp

    from sidecar.demo.corpus import Query

IN_FLIGHT = 64
DAILY_SWING = 0.1
"""How much the first slice's share moves up and down over a day."""


class Traffic:
    """Draws queries. Nobody asks the slice `held_back` before `shift` is called; afterwards it is nearly everything."""

    SHIFTED_SHARE = 0.9

    def __init__(self, queries: Sequence[Query], *, held_back: str | None, rng: random.Random) -> None:
        self._by_slice: dict[str, list[Query]] = {}
        for query in queries:
            self._by_slice.setdefault(query.slice, []).append(query)
        self._held_back = held_back
        self._usual = [name for name in self._by_slice if name != held_back]
        if not self._usual:
            raise DemoError("the traffic needs a slice beside the one that the shift brings in")
        self._rng = rng
        self._shifted = False

    @property
    def slices(self) -> tuple[str, ...]:
        """Name the slices of the usual traffic."""
        return tuple(self._usual)

    def shift(self) -> None:
        """Let people ask other questions from now on."""
        self._shifted = True

    def draw(self, at: float) -> Query:
        """Draw the query that is asked at `at` (unix seconds)."""
        if self._shifted and self._held_back is not None and self._rng.random() < self.SHIFTED_SHARE:
            name = self._held_back
        else:
            swing = DAILY_SWING * math.sin(2 * math.pi * at / 86_400)
            weights = [1.0] * len(self._usual)
            weights[0] += swing * len(self._usual)
            name = self._rng.choices(self._usual, weights)[0]
        return self._rng.choice(self._by_slice[name])


class Client:
    """Talks to the service."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base
        self.sent = 0
        self.at = 0.0

    async def search(self, query: Query, *, publish: bool = True) -> list[str]:
        """Ask one query and give the ids that the service answered with."""
        body = {"query": query.text, "slice": query.slice, "publish": publish}
        async with self._session.post(self._base + "/search", json=body) as response:
            response.raise_for_status()
            answer = await response.json()
        if publish:
            self.sent += 1
            self.at = max(self.at, answer["at_ms"] / 1000)
        return list(answer["documents"])

    async def send(self, traffic: Traffic, count: int) -> None:
        """Ask `count` queries, a bounded number at once."""
        room = asyncio.Semaphore(IN_FLIGHT)

        async def one() -> None:
            async with room:
                await self.search(traffic.draw(self.at))

        await asyncio.gather(*(one() for _ in range(count)))

    async def quality(self, queries: Sequence[Query], qrels: Mapping[str, Mapping[str, float]]) -> float | None:
        """Measure nDCG@10 of the service on the judged queries; None if nothing is judged."""
        judged = [query for query in queries if any(grade > 0 for grade in qrels.get(query.id, {}).values())]
        if not judged:
            return None
        room = asyncio.Semaphore(IN_FLIGHT)

        async def one(query: Query) -> float:
            async with room:
                return ndcg(await self.search(query, publish=False), qrels[query.id], 10)

        scores = await asyncio.gather(*(one(query) for query in judged))
        return sum(scores) / len(scores)

    async def ship(self, change: str) -> None:
        """Tell the service to ship a release."""
        async with self._session.post(self._base + "/ship", json={"change": change}) as response:
            response.raise_for_status()

    async def status(self) -> tuple[str, float]:
        """Give the release that serves and how far shipping is, 0 to 1."""
        async with self._session.get(self._base + "/status") as response:
            response.raise_for_status()
            answer = await response.json()
        return answer["release"], answer["shipped"]
