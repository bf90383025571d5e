"""The consumer: reads the query stream as one of a group, keeps what the sampler takes, settles everything else.

The service is never slowed and Redis is never made to keep an entry. Three tasks run beside each other: read; take
over what dead consumers left; show that we live and look at the stream. An outage of Redis is waited out with growing
pauses. What leaves here as a `QueryEvent` is owed an acknowledgement, which replay gives with its observation; all else
(not sampled, shed, malformed) is acknowledged here. Nothing is kept that could not be lost: what a killed process
held is pending in Redis, and another one takes it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from redis.exceptions import ResponseError

from sidecar.errors import ConfigurationError, EventError, StoreError
from sidecar.intake import trimming
from sidecar.intake.events import EventLimits, FieldMap, SliceRegistry, entry_time, parse, raw_keys
from sidecar.intake.options import IntakeCounts, IntakeOptions
from sidecar.intake.sampler import UNSAMPLED, Sampler
from sidecar.redis_edge import mapped_redis_errors
from sidecar.tasks import Backoff, finish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import redis.asyncio
    from redis.commands.core import AsyncScript
    from redis.typing import EncodableT

    from sidecar.model import QueryEvent

_log = logging.getLogger(__name__)

# The last id but one: Redis takes the very last one for ">", and would hand out a new entry that nobody looks at.
_NOTHING_AFTER = f"{2**64 - 1}-{2**64 - 2}"
_SMALLEST_BATCH = 8
_DEAD_FIELDS = 16
_BURIED_AT_ONCE = 100
_MADE_ANEW = 2

Entry: TypeAlias = "tuple[bytes, Mapping[bytes, bytes]]"


class Consumer:
    """One member of the consumer group.

    `out` is the bounded queue to replay; `prefix` is the deployment's (`rag-drift:{name}:`); `now` gives unix
    seconds. The client must come from `redis_edge.connect` (bytes, RESP2). A consumer is used by one event loop.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        *,
        sampler: Sampler,
        slices: SliceRegistry,
        out: asyncio.Queue[QueryEvent],
        prefix: str,
        options: IntakeOptions = IntakeOptions(),  # noqa: B008  (frozen)
        field_map: FieldMap = FieldMap(),  # noqa: B008  (frozen)
        limits: EventLimits = EventLimits(),  # noqa: B008  (frozen)
        counts: IntakeCounts | None = None,
        now: Callable[[], float] = time.time,
        name: str | None = None,
    ) -> None:
        """Wire it; nothing is sent yet. Raises ConfigurationError for an unbounded queue."""
        if out.maxsize <= 0:
            msg = "the intake needs a bounded queue: an unbounded one turns a slow encoder into lost memory"
            raise ConfigurationError(msg)
        self.counts = counts or IntakeCounts()
        self.name = name or f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(3)}"
        self.hash_key = f"{prefix}intake"
        self.dead_letter_key = f"{prefix}dead-letters"
        self._redis = redis
        self._decide = sampler.decide
        self._slices = slices
        self._out = out
        self._options = options
        self._field_map = field_map
        self._limits = limits
        self._now = now
        self._keys = [options.stream, self.hash_key]
        self._query_key = raw_keys(field_map).query
        self._count = min(options.batch, _SMALLEST_BATCH)
        self._prepared = False
        self._due: list[bytes] = []
        self._dead: list[tuple[bytes, str, Mapping[bytes, bytes]]] = []
        self._ack = redis.register_script(trimming.ACK)
        self._bury = redis.register_script(trimming.BURY)
        self._create = redis.register_script(trimming.CREATE)
        self._snapshot = redis.register_script(trimming.SNAPSHOT)
        self._claim = redis.register_script(trimming.CLAIM)
        self._leave = redis.register_script(trimming.LEAVE)

    async def prepare(self) -> None:
        """Make stream and group if they are missing. Raises StoreError."""
        with mapped_redis_errors(f"making the consumer group of stream {self._options.stream}"):
            made = await self._create(keys=self._keys, args=[self._options.group, self._options.start])
        if made == _MADE_ANEW:
            self.counts.groups_remade += 1
            _log.warning("consumer_group_remade stream=%s", self._options.stream)
        self._prepared = True

    async def run(self) -> None:
        """Work until cancelled. Outages of Redis are waited out; anything else that is raised is a defect."""
        options = self._options
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._forever(self._read_blocking, 0.0), name="intake-read")
                tasks.create_task(self._forever(self.claim, options.claim_every_seconds), name="intake-claim")
                keep_every = min(options.keep_every_seconds, options.claim_idle_seconds / 4)
                tasks.create_task(self._forever(self.keep, keep_every), name="intake-keep")
        finally:
            await finish(self.leave())

    async def drain(self) -> int:
        """Read without waiting until nothing new is left; return how many entries. For tests and batch work."""
        total = 0
        while got := await self.read(None):
            total += got
        return total

    async def read(self, block_seconds: float | None) -> int:
        """Read and treat one batch; return its size, 0 if there was nothing. Raises StoreError."""
        if not self._prepared:
            await self.prepare()
        if self._due or self._dead:
            await self._settle()
        block = None if block_seconds is None else max(1, int(1000 * block_seconds))
        with mapped_redis_errors(f"reading stream {self._options.stream}"):
            try:
                reply: Any = await self._redis.xreadgroup(
                    self._options.group,
                    self.name,
                    {self._options.stream: ">"},
                    count=self._count,
                    block=block,
                )
            except ResponseError as error:
                if not _group_lost(error):
                    raise
                reply = None
                self._prepared = False
        if not self._prepared:
            await self.prepare()
        entries: list[Entry] = reply[0][1] if reply else []
        if entries:
            self.counts.read += len(entries)
            self.counts.last_read_at = self._now()
            self._fit(entries)
            await self._treat(entries)
        return len(entries)

    async def claim(self) -> int:
        """Take over what dead consumers left and what nobody acknowledged; return how many entries. Raises StoreError.

        Entries that were trimmed meanwhile are gone: they count as lost. Those that were handed out too often go to the
        dead letters: one of them may be what kills the process.
        """
        options = self._options
        limits = [int(1000 * seconds) for seconds in (options.claim_idle_seconds, options.stuck_seconds)]
        total = 0
        while True:
            count = self._count
            args: list[EncodableT] = [options.group, self.name, *limits, count]
            reply = await self._call(self._claim, args, "taking over entries of dead consumers")
            if reply is None:
                return total
            gone, taken = reply
            entries = []
            for entry_id, deliveries, flat in taken:
                entry = dict(zip(flat[::2], flat[1::2], strict=True))
                if deliveries >= options.max_deliveries:
                    self._refuse(entry_id, "too_many_deliveries", entry)
                else:
                    entries.append((entry_id, entry))
            total += len(taken)
            self.counts.claimed += len(taken)
            await self._treat(entries)
            if len(taken) + gone < count:
                return total

    async def keep(self) -> None:
        """Show that this consumer lives, look at the stream, remove consumers that died long ago. Raises StoreError.

        While the queue is full nothing is read, and only reading would tell the others that we live: so this reads
        our own history after its end, which is empty.
        """
        options = self._options
        if not self._prepared:
            await self.prepare()
        with mapped_redis_errors("showing that this consumer lives"):
            try:
                await self._redis.xreadgroup(options.group, self.name, {options.stream: _NOTHING_AFTER}, count=1)
            except ResponseError as error:
                if not _group_lost(error):
                    raise
                return
        await self.snapshot()
        args: list[EncodableT] = [options.group, "", int(1000 * options.consumer_expiry_seconds)]
        await self._call(self._leave, args, "removing old consumers")

    async def snapshot(self) -> trimming.StreamState | None:
        """Look at stream and group, bring the count of lost entries up to date; None while there is no group."""
        reply = await self._call(self._snapshot, [self._options.group, trimming.NEAR], "looking at the query stream")
        if reply is not None:
            self.counts.state = trimming.state(reply)
        return self.counts.state if reply is not None else None

    async def leave(self) -> None:
        """Give what is still owed to Redis and leave the group if nothing is pending; never raises StoreError.

        A consumer with pending entries stays, so that another one takes them over.
        """
        try:
            if self._due or self._dead:
                await self._settle()
            await self._call(self._leave, [self._options.group, self.name, 0], "leaving the consumer group")
        except StoreError as error:
            self._failed("leave", error)

    async def _read_blocking(self) -> None:
        await self.read(self._options.block_seconds)

    async def _forever(self, step: Callable[[], Awaitable[object]], every: float) -> None:
        backoff = Backoff()
        while True:
            try:
                await step()
            except StoreError as error:
                self._failed(step.__name__, error)
                await backoff.wait()
            else:
                backoff.reset()
                await asyncio.sleep(every)

    def _failed(self, step: str, error: StoreError) -> None:
        self.counts.store_errors += 1
        _log.warning("intake_store_error step=%s error=%s", step.lstrip("_"), error)

    async def _call(self, script: AsyncScript, args: Sequence[EncodableT], doing: str) -> Any:
        """Run one script on stream and hash; None if the group is not there, which the next read repairs."""
        with mapped_redis_errors(doing):
            try:
                return await script(keys=self._keys, args=args)
            except ResponseError as error:
                if not _group_lost(error):
                    raise
                self._prepared = False
                return None

    def _fit(self, entries: Sequence[Entry]) -> None:
        """Choose the next batch size: twice as many, unless entries like the largest would weigh too much."""
        largest = 64 + max(len(entry.get(self._query_key, b"")) for _, entry in entries)
        fitting = self._options.batch_bytes // largest
        self._count = max(1, min(self._options.batch, fitting, 2 * self._count))

    async def _treat(self, entries: Sequence[Entry]) -> None:
        """Decide about a batch: settle what is not taken first, so that waiting for the queue cannot delay it."""
        events: list[QueryEvent] = []
        decide, settle = self._decide, self._due.append
        passed = 0
        for entry_id, entry in entries:
            decision = decide(entry_id, entry)
            if decision is UNSAMPLED:  # at one percent this is the whole loop: nothing but the decision
                settle(entry_id)
                passed += 1
                continue
            self.counts.decisions[decision.outcome] += 1
            if decision.taken:
                event = self._event(entry_id, entry, decision.weight)
                if event is not None:
                    events.append(event)
            else:
                self.counts.outcomes[decision.outcome] += 1
                settle(entry_id)
        self.counts.decisions["unsampled"] += passed
        self.counts.outcomes["unsampled"] += passed
        error = await self._settle_later()
        shed: list[bytes] = []
        try:
            for event in events:
                if await self._offer(event):
                    self.counts.outcomes["queued"] += 1
                else:
                    self.counts.outcomes["shed_queue"] += 1
                    shed.append(event.entry_id.encode())
        finally:
            if shed:
                self._due.extend(shed)
                error = await self._settle_later()
        if error is not None:
            raise error

    def _event(self, entry_id: bytes, entry: Mapping[bytes, bytes], weight: float) -> QueryEvent | None:
        now = self._now()
        try:
            event = parse(
                entry_id,
                entry,
                now=now,
                slices=self._slices,
                field_map=self._field_map,
                limits=self._limits,
                weight=weight,
            )
        except EventError as error:
            self._refuse(entry_id, error.reason, entry)
            return None
        if entry_time(entry_id, now, self._limits.future_seconds)[1]:
            self.counts.clock_skewed += 1
        return event

    def _refuse(self, entry_id: bytes, reason: str, entry: Mapping[bytes, bytes]) -> None:
        self.counts.outcomes["malformed"] += 1
        self.counts.malformed[reason] += 1
        self._dead.append((entry_id, reason, self._excerpt(entry)))
        _log.debug("entry_refused reason=%s entry_id=%s", reason, entry_id.decode("ascii", "replace"))

    def _excerpt(self, entry: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        most = self._options.dead_letter_bytes
        return {b"field:" + name[:64]: value[:most] for name, value in list(entry.items())[:_DEAD_FIELDS]}

    async def _offer(self, event: QueryEvent) -> bool:
        """Hand an event to replay; False if the queue stayed full until the event was too old."""
        with contextlib.suppress(asyncio.QueueFull):
            self._out.put_nowait(event)
            return True
        if self._options.shed_after_seconds is None:
            await self._out.put(event)
            return True
        left = event.at + self._options.shed_after_seconds - self._now()
        if left <= 0:
            return False
        try:
            async with asyncio.timeout(left):
                await self._out.put(event)
        except TimeoutError:
            return False
        return True

    async def _settle_later(self) -> StoreError | None:
        """Settle also when cancelled; what Redis did not take is tried again before the next read."""
        try:
            await finish(self._settle())
        except StoreError as error:
            return error
        return None

    async def _settle(self) -> None:
        """Acknowledge what is due and bury what was refused."""
        due, dead = list(self._due), list(self._dead)
        self._due.clear()
        self._dead.clear()
        try:
            with mapped_redis_errors("acknowledging entries"):
                if due:
                    args: list[EncodableT] = [self._options.group, b" ".join(due)]
                    self.counts.acknowledged += await self._ack(keys=self._keys, args=args)
                    due = []
                while dead:
                    self.counts.acknowledged += await self._bury_some(dead[:_BURIED_AT_ONCE])
                    del dead[:_BURIED_AT_ONCE]
        finally:
            self._due[:0] = due
            self._dead[:0] = dead

    async def _bury_some(self, dead: Sequence[tuple[bytes, str, Mapping[bytes, bytes]]]) -> int:
        async with self._redis.pipeline(transaction=False) as pipe:
            for entry_id, reason, excerpt in dead:
                fields: list[EncodableT] = [b"entry_id", entry_id, b"reason", reason]
                fields += [part for pair in excerpt.items() for part in pair]
                args: list[EncodableT] = [self._options.group, entry_id, self._options.dead_letters, *fields]
                await self._bury(keys=[*self._keys, self.dead_letter_key], args=args, client=pipe)
            return sum(await pipe.execute())


def _group_lost(error: ResponseError) -> bool:
    # Redis 6.2 wraps the error of a command inside a script into a sentence, later ones pass it on.
    text = str(error)
    return any(sign in text for sign in ("NOGROUP", "UNBLOCKED", "no such key"))
