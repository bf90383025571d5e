"""Which entries are replayed: a deterministic share, a floor for rare slices, a ceiling in queries per second.

The share is decided by a hash, so that every replica, restart and claim decides alike and an agent session is taken
whole or not at all. It works on the raw bytes before any validation: at one percent, 99 of 100 entries cost a hash
and nothing else. A lower rate takes a subset of what a higher one takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from sidecar.errors import ConfigurationError
from sidecar.intake.events import FieldMap, SliceRegistry, raw_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OUTCOMES = ("sampled", "floor", "unsampled", "shed_budget")
"""What the sampler can say of an entry."""

_UNIT = 2**64


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How much of the stream is replayed, by each replica."""

    rate: float = 1.0
    """Share of the sessions (or traces, or entries) that is taken, above 0 and at most 1."""
    floor_per_minute: int = 0
    """Entries per slice and minute that are taken even if the rate says no."""
    queries_per_second: float | None = None
    """Budget: what goes beyond is shed and counted. None means no ceiling."""
    burst: float | None = None
    """Entries that may pass at once; default ten seconds of budget, at least 1."""

    def __post_init__(self) -> None:
        """Refuse settings that sample nothing or make no sense."""
        if not 0.0 < self.rate <= 1.0:
            msg = f"sampling rate {self.rate}: above 0 and at most 1"
            raise ConfigurationError(msg)
        if self.floor_per_minute < 0:
            msg = f"sampling floor {self.floor_per_minute} per minute: 0 or more"
            raise ConfigurationError(msg)
        if self.queries_per_second is not None and not self.queries_per_second > 0:
            msg = f"sampling budget {self.queries_per_second} queries per second: above 0, or none at all"
            raise ConfigurationError(msg)
        if self.burst is not None and not self.burst >= 1:
            msg = f"sampling burst {self.burst}: 1 or more"
            raise ConfigurationError(msg)


class Decision(NamedTuple):
    """What becomes of an entry: its outcome, whether it is replayed, and its sampling weight if so."""

    outcome: str
    taken: bool
    weight: float


FLOOR = Decision("floor", taken=True, weight=0.0)
UNSAMPLED = Decision("unsampled", taken=False, weight=0.0)
SHED = Decision("shed_budget", taken=False, weight=0.0)


class Sampler:
    """Decide entry by entry; `clock` gives monotonic seconds.

    Entries that only the floor let in have weight 0: they show their slice, and are no part of the whole-stream sample,
    because whether one gets in depends on the traffic around it.
    """

    def __init__(
        self,
        options: SamplingOptions,
        *,
        deployment: str,
        slices: SliceRegistry,
        clock: Callable[[], float],
        field_map: FieldMap = FieldMap(),  # noqa: B008  (frozen)
    ) -> None:
        """Salt the hash with `deployment`, so that two deployments on one stream do not take the same entries."""
        self._floor = options.floor_per_minute
        self._slices = slices
        self._clock = clock
        keys = raw_keys(field_map)
        self._session, self._trace, self._slice = keys.session_id, keys.trace_id, keys.slice
        salt = blake2b(deployment.encode(), digest_size=blake2b.SALT_SIZE).digest()
        # Copied for each entry: that takes half the time of salting a new one.
        self._salted = blake2b(digest_size=8, salt=salt).copy
        # Digests are compared as they are, big-endian bytes; nine bytes of ones lie above all of them.
        taken = round(options.rate * _UNIT)
        self._threshold = taken.to_bytes(8) if taken < _UNIT else b"\xff" * 9
        self._sampled = Decision("sampled", taken=True, weight=1.0 / options.rate)
        self._minute = -1
        self._taken: dict[str, int] = {}
        self._per_second = options.queries_per_second
        self._capacity = options.burst or max(1.0, 10.0 * (options.queries_per_second or 0.0))
        self._tokens = self._capacity
        self._refilled = clock()

    def position(self, entry_id: bytes, entry: Mapping[bytes, bytes]) -> float:
        """Give the place of an entry in [0, 1): it is sampled if the place lies below the rate."""
        digest = self._salted()
        digest.update(entry.get(self._session) or entry.get(self._trace) or entry_id)
        return int.from_bytes(digest.digest()) / _UNIT

    def decide(self, entry_id: bytes, entry: Mapping[bytes, bytes]) -> Decision:
        """Decide about one entry by its session, else its trace, else its own id."""
        digest = self._salted()
        digest.update(entry.get(self._session) or entry.get(self._trace) or entry_id)
        sampled = digest.digest() < self._threshold
        decision = self._sampled if sampled else UNSAMPLED
        if self._floor:
            decision = self._with_floor(entry, sampled=sampled)
        if decision.taken and self._per_second is not None and not self._spend():
            return SHED
        return decision

    def _with_floor(self, entry: Mapping[bytes, bytes], *, sampled: bool) -> Decision:
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._minute = minute
            self._taken.clear()
        name = self._slices.resolve(entry.get(self._slice))
        if name is None:  # not a slice: the validation will say so, if the rate lets it get there
            return self._sampled if sampled else UNSAMPLED
        taken = self._taken.get(name, 0)
        if not sampled and taken >= self._floor:
            return UNSAMPLED
        self._taken[name] = taken + 1
        return self._sampled if sampled else FLOOR

    def _spend(self) -> bool:
        now = self._clock()
        self._tokens = min(self._capacity, self._tokens + (now - self._refilled) * (self._per_second or 0.0))
        self._refilled = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
