"""The streams that every detector of the benchmark sees: synthetic ones with known laws, and recorded real queries.

A value is the number of documents, 0 to 10, that the two retrievers share in their first ten. A stream is 14,000
accepted values (7 days at 2,000 a day), then live ones. Null sets go on without a change; in the others the change
comes at a random time of the second day, and the values before it are the same for every change of one world.

**Synthetic**: the laws of `tests/pure/drift/streams.py` (tilt, thin, collapse), independent (`iid`) or with a daily
wave and bursts of the conditional mean (`waves`).

**Recorded** (`real`): values of real queries under real encoders (`record.py`), in an order drawn as follows. A query
begins a new session with probability 1/8, so sessions last 8 queries on average, one after the other; a session stays
in one topic (k-means, 12 topics) and draws its queries uniformly from it, with replacement. Topics come and go with
the hour: topic z has the weight n_z (1 + 0.5 sin(2 pi (day + z / 12))). And topics are in the news: epochs last 100
queries on average, one in five has a topic of its own, which half of its sessions take up. `frozen` is the same with
the frozen copy of the accepted state as reference, where every accepted value is 10.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from tests.pure.drift.streams import DIURNAL_BURSTS, IID, Streams, base_law, collapse, thin, tilt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PER_DAY = 2_000
CALIBRATION = 7 * PER_DAY
CHANGE_BY = 2 * PER_DAY
RECORDING = Path(__file__).parent / "recorded.npz"

SESSION = 8
EPOCH = 100
NEWS_SHARE = 0.2
NEWS_PULL = 0.5
DAILY_SWING = 0.5

LIMITS = {0.02: 40_000, 0.05: 20_000, 0.10: 10_000, 0.20: 6_000, 0.40: 4_000}
"""Queries after the change until a synthetic drop counts as missed."""
RECORDED_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class World:
    """How streams are made."""

    name: str
    title: str
    changes: tuple[str, ...]
    decoys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """Streams of one world, all of the same accepted state."""

    reference: NDArray[np.uint8]
    """Accepted values (S, 14,000)."""
    live: NDArray[np.uint8]
    """What follows (S, T)."""
    change: NDArray[np.int64]
    """Place in `live` of the first changed value (S,); T without a change."""
    before: NDArray[Any]
    """Law of a value before the change (11,)."""
    after: NDArray[Any]
    """Law of a value after it (11,)."""


DROPS = tuple(f"{kind} -{drop:.0%}" for kind, drops in (
    ("tilt", (0.02, 0.05, 0.10, 0.20, 0.40)), ("thin", (0.02, 0.05, 0.10)), ("collapse", (0.05, 0.10)),
) for drop in drops)  # fmt: skip
WAVE_DROPS = ("tilt -5%", "tilt -10%", "tilt -20%", "tilt -40%", "thin -5%", "collapse -10%")
STATES = (
    "tenth of index", "fine-tuned 0.1", "lost prompt", "fine-tuned 0.25", "half index", "fine-tuned 0.5",
    "fine-tuned 0.75", "fine-tuned 1",
)  # fmt: skip
DECOYS = ("int8 vectors", "benign re-tune")

WORLDS = (
    World("iid", "synthetic, independent", DROPS),
    World("real", "recorded, base as reference", STATES, DECOYS),
    World("frozen", "recorded, frozen copy as reference", STATES, DECOYS),
    World("waves", "synthetic, daily wave and bursts", WAVE_DROPS),
)


def null(world: World, streams: int, length: int, seed: int) -> Sample:
    """Draw streams in which nothing changes."""
    law, draw = _source(world, streams, seed, None, None)
    return Sample(*_cut(draw, length), np.full(streams, length), law, law)


def changed(world: World, change: str, streams: int, seed: int) -> Sample:
    """Draw streams that change; the values before the change depend on world and seed only."""
    at = PER_DAY + np.random.default_rng((seed, 1)).integers(0, PER_DAY, size=streams)
    law, draw = _source(world, streams, seed, change, CALIBRATION + at)
    return Sample(*_cut(draw, CHANGE_BY + limit(change)), at, law, law_of(world, change))


def limit(change: str) -> int:
    """Give the number of queries after the change within which it must be found."""
    return LIMITS[_size(change)] if "%" in change else RECORDED_LIMIT


def relative_drop(world: World, change: str) -> float:
    """Give the fall of the mean relative to the accepted one."""
    before, after = (law @ np.arange(11) for law in (law_of(world, None), law_of(world, change)))
    return float(1 - after / before)


def law_of(world: World, change: str | None) -> NDArray[Any]:
    """Give the law of a value averaged over the day, of the accepted state or of a change."""
    if world.name in ("iid", "waves"):
        return _changed_law(change)
    recording = Recording.load("base" if world.name == "real" else "frozen")
    found = np.bincount(recording.values[change or "accepted"], minlength=11) / recording.topic.size
    return np.asarray(found)


def _size(change: str) -> float:
    return -float(change.split()[1].rstrip("%")) / 100


def _changed_law(change: str | None) -> NDArray[Any]:
    if change is None:
        return base_law()
    kinds = {"tilt": tilt, "thin": thin, "collapse": collapse}
    return np.asarray(kinds[change.split()[0]](base_law(), _size(change)))


def _source(world: World, streams: int, seed: int, change: str | None, at: NDArray[Any] | None) -> tuple[Any, Any]:
    law = law_of(world, None)
    if world.name in ("iid", "waves"):
        environment = IID if world.name == "iid" else DIURNAL_BURSTS
        new = None if change is None else _changed_law(change)
        return law, Streams(law, environment, streams, seed, changed=new, change_at=at).draw
    recording = Recording.load("base" if world.name == "real" else "frozen")
    return law, Replay(recording, streams, seed, change, at).draw


def _cut(draw: Any, length: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    reference = draw(CALIBRATION).astype(np.uint8)
    pieces = [draw(size).astype(np.uint8) for size in _pieces(length)]
    return reference, np.concatenate(pieces, axis=1)


def _pieces(length: int, most: int = 5_000) -> Iterator[int]:
    for start in range(0, length, most):
        yield min(most, length - start)


@dataclass(frozen=True, slots=True)
class Recording:
    """Values per query and state against one reference, and the topic of each query."""

    topic: NDArray[np.uint8]
    values: dict[str, NDArray[np.uint8]]

    @classmethod
    def load(cls, reference: str) -> Recording:
        """Read the recording."""
        with np.load(RECORDING) as found:
            names = [name for name in found.files if name.startswith(f"{reference}|")]
            return cls(found["topic"], {name.partition("|")[2]: found[name] for name in names})

    @staticmethod
    def about() -> dict[str, Any]:
        """Say what was recorded, with which versions, and each state's measures."""
        with np.load(RECORDING) as found:
            return dict(json.loads(str(found["about"])))


class Replay:
    """Many streams of recorded values, drawn piece by piece."""

    def __init__(
        self, recording: Recording, streams: int, seed: int, change: str | None, at: NDArray[Any] | None
    ) -> None:
        self._rng = np.random.default_rng(seed)
        order = np.argsort(recording.topic, kind="stable")
        self._sizes = np.bincount(recording.topic)
        self._offsets = np.concatenate([[0], self._sizes.cumsum()[:-1]])
        self._old = recording.values["accepted"][order]
        self._new = self._old if change is None else recording.values[change][order]
        self._at = at
        self._position = 0
        self._topic = self._news = np.zeros((streams, 1), dtype=np.int64)
        # Cumulative weights of the topics by the minute of the day.
        topics = len(self._sizes)
        day = np.arange(1440)[:, None] / 1440
        weights = self._sizes * (1 + DAILY_SWING * np.sin(2 * np.pi * (day + np.arange(topics) / topics)))
        self._mix = (weights / weights.sum(axis=1, keepdims=True)).cumsum(axis=1)

    def draw(self, size: int) -> NDArray[np.uint8]:
        """Give the next `size` values of every stream (streams, size)."""
        shape = (len(self._topic), size)
        when = self._position + np.arange(size)
        mix = self._mix[(when % PER_DAY) * 1440 // PER_DAY]

        def some_topic() -> NDArray[np.int64]:
            drawn = np.empty(shape, dtype=np.int64)
            for place in range(size):
                drawn[:, place] = np.searchsorted(mix[place], self._rng.random(shape[0]), side="right")
            return np.minimum(drawn, len(self._sizes) - 1)

        # 0 means no news, z + 1 that topic z is in them; both last until the next epoch or session begins.
        news = np.where(self._rng.random(shape) < NEWS_SHARE, some_topic() + 1, 0)
        news = _held(news, self._rng.random(shape) < 1 / EPOCH, self._news)
        follows = (news > 0) & (self._rng.random(shape) < NEWS_PULL)
        topic = np.where(follows, news - 1, some_topic())
        topic = _held(topic, self._rng.random(shape) < 1 / SESSION, self._topic)
        query = self._offsets[topic] + (self._rng.random(shape) * self._sizes[topic]).astype(np.int64)
        self._news, self._topic = news[:, -1:], topic[:, -1:]
        self._position += size
        if self._at is None:
            return self._old[query]
        return np.where(when >= self._at[:, None], self._new[query], self._old[query])


def _held(values: NDArray[np.int64], begins: NDArray[np.bool_], before: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep each value from where one begins until the next one does."""
    place = np.where(begins, np.arange(1, values.shape[1] + 1), 0)
    place = np.maximum.accumulate(place, axis=1)
    return np.take_along_axis(np.concatenate([before, values], axis=1), place, axis=1)
