"""Every Redis key of the sidecar and its shape, in one place.

All keys of one deployment share a hash tag, so that they live on one node of a cluster:

    rag-drift:{<deployment>}:observations   stream  one entry per replayed query, bounded in length
    rag-drift:{<deployment>}:audit          stream  what the judge decided: alarms, baselines; bounded in length
    rag-drift:{<deployment>}:judge          string  the judge's checkpoint: JSON with the last observation read
    rag-drift:{<deployment>}:fingerprints   hash    digest to the encoder fingerprint's bytes, a few at most
    rag-drift:{<deployment>}:lease          string  token of the judge on duty, with an expiry
    rag-drift:{<deployment>}:request        string  a person's request to the judge, with an expiry
    rag-drift:{<deployment>}:inspection     string  what the accepted stack measured, for attribution: JSON
    rag-drift:{<deployment>}:diagnosis      string  the last attribution, with the case for and against each cause: JSON
    rag-drift:{<deployment>}:frozen         hash    the frozen probes: accepted answers, texts only encrypted
    rag-drift:{<deployment>}:frozen-runs    stream  the last replays of the frozen probes, under the lease
    rag-drift:{<deployment>}:canaries       hash    what encoders scored on the canary sets, by fingerprint and checksum
    rag-drift:{<deployment>}:canary-runs    stream  the last complete runs of the canaries, under the lease
    rag-drift:{<deployment>}:dead-letters   stream  malformed entries (written by the intake)
    rag-drift:{<deployment>}:intake         hash    what the intake has handled, for the count of lost entries

Two steps must not come apart, and are scripts on the server (`redis_scripts`): acknowledging an entry of the query
stream with writing its observation (an entry that two replicas replayed is observed once), and the judge's checkpoint
with the audit events that it raised under the lease (a killed judge neither forgets an alarm nor raises it twice, and
a judge that lost its lease writes nothing). The observation stream's ids are Redis' own and ascend; the checkpoint
names the last one that it contains.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import AuthenticationError, NoPermissionError

from sidecar import redis_scripts as scripts
from sidecar import redis_shapes
from sidecar.errors import StoreError
from sidecar.model import (
    Alarm,
    AlarmEnded,
    AlarmEscalated,
    BaselineAccepted,
    CalibrationStarted,
    CanaryFinding,
    Ticket,
)
from sidecar.redis_edge import describe, mapped_redis_errors
from sidecar.store_canaries import CanaryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from redis.asyncio import Redis

    from sidecar.drift.probe_run import FrozenRun
    from sidecar.model import AuditEvent, Observation

_KINDS = {
    Alarm: "alarm",
    AlarmEscalated: "alarm_escalated",
    AlarmEnded: "alarm_ended",
    Ticket: "ticket",
    BaselineAccepted: "baseline_accepted",
    CalibrationStarted: "calibration_started",
    CanaryFinding: "canary_finding",
}

START = "0-0"
"""The id before every stream entry."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The key names of one deployment."""

    deployment: str

    @property
    def prefix(self) -> str:
        """Give what every key begins with, colon included."""
        return f"rag-drift:{{{self.deployment}}}:"

    def __getattr__(self, name: str) -> str:
        """Give the key of one of the names in the module's docstring."""
        if name in {
            "observations",
            "audit",
            "judge",
            "lease",
            "request",
            "dead_letters",
            "intake",
            "fingerprints",
            "inspection",
            "diagnosis",
            "frozen",
            "frozen_runs",
            "canaries",
            "canary_runs",
        }:
            return self.prefix + name.replace("_", "-")
        raise AttributeError(name)


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked of the judge. `kind` is `recalibrate` or `fixed`."""

    id: str
    kind: str
    by: str
    why: str


class Store:
    """The sidecar's state on one Redis; the client is an argument and stays the caller's to close."""

    AUDIT_KEPT = 1000
    PAGE = 1000
    FINGERPRINTS_KEPT = 100
    FROZEN_RUNS_KEPT = 50
    REQUEST_EXPIRY_SECONDS = 86_400

    def __init__(self, redis: Redis, deployment: str, *, observations_kept: int = 100_000) -> None:
        self.redis = redis
        # redis-py types a reply as every shape that any protocol version could give; ours are RESP2 (`redis_edge`).
        self._client: Any = redis
        self.keys = Keys(deployment)
        self._observations_kept = observations_kept
        self._record = redis.register_script(scripts.RECORD)
        self._acknowledge = redis.register_script(scripts.ACKNOWLEDGE)
        self._checkpoint = redis.register_script(scripts.CHECKPOINT)
        self._keep = redis.register_script(scripts.KEEP)
        self._renew = redis.register_script(scripts.RENEW)
        self._release = redis.register_script(scripts.RELEASE)
        self._keep_frozen = redis.register_script(scripts.KEEP_FROZEN)
        self._add_frozen_run = redis.register_script(scripts.ADD_FROZEN_RUN)
        keys = self.keys
        self.canaries = CanaryStore(redis, lease=keys.lease, results=keys.canaries, runs=keys.canary_runs)

    async def ping(self) -> None:
        """Ask Redis for a sign of life.

        Raises:
            StoreError: there is none; `refused` if Redis does not let us in, so that waiting would not help.
        """
        with mapped_redis_errors("reaching Redis"):
            try:
                await self._client.ping()
            except (AuthenticationError, NoPermissionError) as error:
                raise StoreError(f"reaching Redis: {describe(error)}", refused=True) from None

    async def reachable(self, seconds: float = 1.0) -> bool:
        """Say whether Redis answers within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self.ping()
        except (StoreError, TimeoutError):
            return False
        return True

    async def record(self, stream: str, group: str, observations: Sequence[Observation]) -> int:
        """Acknowledge the entries of `observations` and write those that nobody had acknowledged before.

        Returns how many were written: fewer than given when another replica took an entry over and was first.
        """
        if not observations:
            return 0
        arguments: list[Any] = [group, self._observations_kept]
        for one in observations:
            arguments += redis_shapes.observation_fields(one)
        with mapped_redis_errors():
            written: int = await self._record(keys=[stream, self.keys.observations, self.keys.intake], args=arguments)
        return written

    async def acknowledge(self, stream: str, group: str, entry_ids: Sequence[str]) -> None:
        """Acknowledge entries that give no observation."""
        if entry_ids:
            with mapped_redis_errors():
                await self._acknowledge(keys=[stream, self.keys.intake], args=[group, *entry_ids])

    async def observations_after(
        self, last: str, *, count: int, block_seconds: float
    ) -> list[tuple[str, Observation | None]]:
        """Read observations behind the id `last`, oldest first; wait for the first at most `block_seconds`.

        One that cannot be read is None: it must not stop those behind it.
        """
        with mapped_redis_errors():
            answer = await self._client.xread(
                {self.keys.observations: last}, count=count, block=max(1, round(block_seconds * 1000))
            )
        entries = answer[0][1] if answer else []
        return [(identity.decode(), redis_shapes.observation(fields)) for identity, fields in entries]

    async def all_observations(self) -> AsyncIterator[tuple[str, Observation]]:
        """Give every readable observation with its id, oldest first."""
        async for identity, observation in self._observations(self._client.xrange, "-"):
            yield identity, observation

    async def observations_before(self, last: str) -> AsyncIterator[Observation]:
        """Give the readable observations up to the id `last`, newest first."""
        async for _, observation in self._observations(self._client.xrevrange, last):
            yield observation

    async def _observations(
        self, read: Callable[..., Awaitable[Any]], begin: str
    ) -> AsyncIterator[tuple[str, Observation]]:
        """Read page by page from the id `begin` on, in the direction of `read`."""
        while True:
            with mapped_redis_errors():
                entries = await read(self.keys.observations, begin, count=self.PAGE)
            for identity, fields in entries:
                if (observation := redis_shapes.observation(fields)) is not None:
                    yield identity.decode(), observation
            if len(entries) < self.PAGE:
                return
            begin = "(" + entries[-1][0].decode()

    async def oldest_observation(self) -> str | None:
        """Give the id of the oldest observation kept, so that a judge can tell that it missed some."""
        with mapped_redis_errors():
            entries = await self._client.xrange(self.keys.observations, count=1)
        return entries[0][0].decode() if entries else None

    async def hold_lease(self, token: str, seconds: float) -> bool:
        """Take or renew the judge's lease; False when another judge holds it."""
        with mapped_redis_errors():
            return bool(await self._renew(keys=[self.keys.lease], args=[token, max(1, round(seconds * 1000))]))

    async def release_lease(self, token: str) -> None:
        """Give the lease back, if it is ours."""
        with mapped_redis_errors():
            await self._release(keys=[self.keys.lease], args=[token])

    async def load_checkpoint(self) -> dict[str, Any] | None:
        """Read the judge's checkpoint, or None before the first.

        Raises:
            StoreError: the key holds something else than a checkpoint.
        """
        with mapped_redis_errors():
            text = await self._client.get(self.keys.judge)
        if text is None:
            return None
        try:
            state = json.loads(text)
        except ValueError as error:
            raise StoreError(f"{self.keys.judge}: not a checkpoint (JSON expected): {error}") from None
        if not isinstance(state, dict):
            raise StoreError(f"{self.keys.judge}: not a checkpoint (JSON object expected)")
        return state

    async def checkpoint(self, token: str, state: dict[str, Any], events: Sequence[AuditEvent] = ()) -> bool:
        """Write the state and append the events in one step; False, and nothing written, without the lease."""
        with mapped_redis_errors():
            done = await self._checkpoint(
                keys=[self.keys.lease, self.keys.judge, self.keys.audit],
                args=[
                    token,
                    json.dumps(state, separators=(",", ":"), allow_nan=False),
                    self.AUDIT_KEPT,
                    *(json.dumps(audit_json(event), separators=(",", ":")) for event in events),
                ],
            )
        return bool(done)

    async def fingerprints(self) -> dict[str, bytes]:
        """Read every encoder fingerprint that was ever in use here, by its digest."""
        with mapped_redis_errors():
            answer = await self._client.hgetall(self.keys.fingerprints)
        return {digest.decode(): bytes(value) for digest, value in answer.items()}

    async def remember_fingerprint(self, digest: str, content: bytes) -> None:
        """Keep a fingerprint, so that every replica gives the same encoder the same digest."""
        with mapped_redis_errors():
            if await self._client.hlen(self.keys.fingerprints) < self.FINGERPRINTS_KEPT:
                await self._client.hsetnx(self.keys.fingerprints, digest, content)

    async def audit(self, count: int = 100) -> list[dict[str, Any]]:
        """Read the newest events of the audit trail, newest first; each has its `kind`.

        Raises:
            StoreError: the key holds something else than events.
        """
        with mapped_redis_errors():
            entries = await self._client.xrevrange(self.keys.audit, count=count)
        try:
            return [dict(json.loads(fields[b"event"])) for _, fields in entries]
        except (KeyError, ValueError, TypeError):
            raise StoreError(f"{self.keys.audit}: an event cannot be read (JSON object expected)") from None

    async def ask(self, request: Request) -> None:
        """Leave a request for the judge; it expires after a day if no judge takes it."""
        text = json.dumps({"id": request.id, "kind": request.kind, "by": request.by, "why": request.why})
        with mapped_redis_errors():
            await self._client.set(self.keys.request, text, ex=self.REQUEST_EXPIRY_SECONDS)

    async def request(self) -> Request | None:
        """Read the pending request. It stays: the judge remembers in its checkpoint which one it has carried out.

        Raises:
            StoreError: the key holds something else than a request.
        """
        with mapped_redis_errors():
            text = await self._client.get(self.keys.request)
        if not text:
            return None
        try:
            return Request(**json.loads(text))
        except (ValueError, TypeError):
            raise StoreError(f"{self.keys.request}: not a request; delete the key") from None

    async def frozen_salt(self, candidate: bytes) -> bytes:
        """Give the salt of this deployment's digests; `candidate` becomes it if there is none."""
        with mapped_redis_errors():
            await self._client.hsetnx(self.keys.frozen, "salt", candidate)
            return bytes(await self._client.hget(self.keys.frozen, "salt"))

    async def frozen_id(self) -> str:
        """Give the id of the frozen probes that are kept, "" if there are none."""
        with mapped_redis_errors():
            return (await self._client.hget(self.keys.frozen, "id") or b"").decode()

    async def frozen_fields(self) -> dict[str, bytes]:
        """Read the frozen probes as they were kept; the fields are `replay.probe_book`'s."""
        with mapped_redis_errors():
            answer = await self._client.hgetall(self.keys.frozen)
        return {name.decode(): bytes(value) for name, value in answer.items()}

    async def keep_frozen(self, token: str, fields: Mapping[str, bytes]) -> bool:
        """Put other frozen probes in the place of those kept; False, and nothing written, without the lease."""
        pairs = [part for pair in fields.items() for part in pair]
        with mapped_redis_errors():
            return bool(await self._keep_frozen(keys=[self.keys.lease, self.keys.frozen], args=[token, *pairs]))

    async def add_frozen_run(self, token: str, run: FrozenRun) -> bool:
        """Append a replay of the frozen probes; False, and nothing written, without the lease."""
        with mapped_redis_errors():
            return bool(
                await self._add_frozen_run(
                    keys=[self.keys.lease, self.keys.frozen_runs], args=[token, self.FROZEN_RUNS_KEPT, run.to_json()]
                )
            )

    async def load_inspection(self) -> bytes | None:
        """Read the record of the accepted stack, None if there is none."""
        with mapped_redis_errors():
            text: bytes | None = await self._client.get(self.keys.inspection)
        return text

    async def keep_inspection(self, token: str, text: str) -> bool:
        """Keep the record of the accepted stack; False, and nothing written, without the lease."""
        with mapped_redis_errors():
            return bool(await self._keep(keys=[self.keys.lease, self.keys.inspection], args=[token, text]))

    async def keep_diagnosis(self, token: str, text: str | None) -> bool:
        """Keep the last attribution, or forget it; False, and nothing written, without the lease."""
        arguments = [token] if text is None else [token, text]
        with mapped_redis_errors():
            return bool(await self._keep(keys=[self.keys.lease, self.keys.diagnosis], args=arguments))

    async def diagnosis(self) -> dict[str, Any] | None:
        """Read the last attribution, None if there is nothing to explain.

        Raises:
            StoreError: the key holds something else.
        """
        with mapped_redis_errors():
            text = await self._client.get(self.keys.diagnosis)
        if text is None:
            return None
        try:
            return dict(json.loads(text))
        except (ValueError, TypeError):
            raise StoreError(f"{self.keys.diagnosis}: not a diagnosis; delete the key") from None

    async def frozen_runs_after(
        self, last: str, *, count: int = FROZEN_RUNS_KEPT
    ) -> list[tuple[str, FrozenRun | None]]:
        """Read the replays of the frozen probes behind the id `last`, oldest first; one that cannot be read is None."""
        with mapped_redis_errors():
            entries = await self._client.xrange(self.keys.frozen_runs, f"({last}", count=count)
        return [(identity.decode(), redis_shapes.frozen_run(fields)) for identity, fields in entries]


def audit_json(event: AuditEvent) -> dict[str, Any]:
    """Give an event as plain JSON types with its kind: `alarm`, `ticket`, `baseline_accepted` ..."""
    return {"kind": _KINDS[type(event)], **asdict(event)}
