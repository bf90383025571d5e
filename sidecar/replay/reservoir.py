"""A bounded, uniform sample of the distinct queries of the last one to two weeks: from it the frozen probes are taken.

Each query has a keyed digest of its text, which is as good as a random number that is the same at every repetition.
Keeping the n smallest digests is therefore a uniform sample of the distinct queries, whatever their order and however
often they repeat (bottom-k sketch: Cohen and Kaplan, "Summarizing data using bottom-k sketches", PODC 2007), and slices
are in it in proportion to their distinct queries. Beside it the few smallest of each slice are kept, so that a rare
slice is not left out.

Traffic changes. So there are two such samples, of the present period of entry time and of the one before; the smallest
digests of both together are the sample of both together, which is what makes the sketch mergeable.

Texts are in memory only. The bound is 2 x (size + slices x few) texts, each as long as the intake lets in.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PERIOD_SECONDS = 7 * 86_400.0
FEW = 10
"""Queries kept of each slice, however rare it is."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A query of the sample: keyed digest of the text in hex, text and slice."""

    digest: str
    text: str = field(repr=False)
    slice: str


class _Smallest:
    """The `room` queries of smallest digest."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._by_digest: dict[str, Sampled] = {}
        self._largest_first: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._by_digest)

    def __iter__(self) -> Iterator[Sampled]:
        return iter(self._by_digest.values())

    def add(self, query: Sampled) -> None:
        if query.digest in self._by_digest:
            return
        place = (-int(query.digest, 16), query.digest)
        if len(self._by_digest) < self._room:
            heapq.heappush(self._largest_first, place)
        elif self._largest_first and place > self._largest_first[0]:
            del self._by_digest[heapq.heapreplace(self._largest_first, place)[1]]
        else:
            return
        self._by_digest[query.digest] = query


class _Period:
    """What is kept of one period."""

    def __init__(self, size: int) -> None:
        self.whole = _Smallest(size)
        self.slices: dict[str, _Smallest] = {}


class Reservoir:
    """The sample. `size` queries of the whole stream and `FEW` of each slice, for each of two periods."""

    def __init__(self, size: int, *, period_seconds: float = PERIOD_SECONDS) -> None:
        if size < 1:
            raise ValueError(f"the reservoir has room for {size} queries; rule: at least 1")
        self._size = size
        self._seconds = period_seconds
        self._number = 0
        self._now, self._before = _Period(size), _Period(size)

    def add(self, query: Sampled, at: float, *, whole: bool = True) -> None:
        """Take a query into account that was asked `at` (unix seconds).

        `whole` False: it is no part of the whole stream's sample and can only represent its slice.
        """
        number = int(at // self._seconds)
        if number > self._number:
            self._before = self._now if number == self._number + 1 else _Period(self._size)
            self._now, self._number = _Period(self._size), number
        if number < self._number - 1:
            return
        period = self._now if number == self._number else self._before
        if whole:
            period.whole.add(query)
        few = period.slices.get(query.slice)
        if few is None:
            few = period.slices[query.slice] = _Smallest(FEW)
        few.add(query)

    def draw(self, count: int, *, without: frozenset[str] = frozenset()) -> list[Sampled]:
        """Give at most `count` queries, the smallest digests first, none whose digest is in `without`.

        At least `FEW` of each slice, as far as there are so many and they do not take more than half of `count`.
        """
        periods = (self._before, self._now)
        whole = {one.digest: one for period in periods for one in period.whole if one.digest not in without}
        names = {name for period in periods for name in period.slices}
        few = min(FEW, count // (2 * len(names))) if names else 0
        chosen: dict[str, Sampled] = {}
        for name in sorted(names):
            mine = {one.digest: one for period in periods for one in period.slices.get(name, ())}
            for digest in sorted(mine.keys() - without)[:few]:
                chosen[digest] = mine[digest]
        for digest in sorted(whole):
            if len(chosen) >= count:
                break
            chosen[digest] = whole[digest]
        return [chosen[digest] for digest in sorted(chosen)]

    def texts(self) -> dict[str, str]:
        """Give every text that is held, by its digest."""
        smallest = [part for period in (self._before, self._now) for part in (period.whole, *period.slices.values())]
        return {one.digest: one.text for part in smallest for one in part}

    def __len__(self) -> int:
        """Count the texts that are held; one that is held in two places counts twice."""
        return sum(len(period.whole) + sum(map(len, period.slices.values())) for period in (self._now, self._before))
