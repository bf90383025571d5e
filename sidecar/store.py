"""Every Redis key of the sidecar and its shape, in one place.

All keys of one deployment share a hash tag, so that they live on one node of a cluster:

    rag-drift:{<deployment>}:observations   stream  one entry per replayed query, bounded in length
    rag-drift:{<deployment>}:audit          stream  what the judge decided: alarms, baselines; bounded in length
    rag-drift:{<deployment>}:judge          string  the judge's checkpoint: JSON with the last observation read
    rag-drift:{<deployment>}:fingerprints   hash    digest to the encoder fingerprint's bytes, a few at most
    rag-drift:{<deployment>}:lease          string  token of the judge on duty, with an expiry
    rag-drift:{<deployment>}:request        string  a person's request to the judge, with an expiry
    rag-drift:{<deployment>}:dead-letters   stream  malformed entries (written by the intake)
    rag-drift:{<deployment>}:intake         hash    what the intake has handled, for the count of lost entries

Two steps must not come apart, and are scripts on the server: acknowledging an entry of the query stream with writing
its observation (an entry that two replicas replayed is observed once), and the judge's checkpoint with the audit
events that it raised under the lease (a killed judge neither forgets an alarm nor raises it twice, and a judge that
lost its lease writes nothing). The observation stream's ids are Redis' own and ascend; the checkpoint names the last
one that it contains.
"""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import AuthenticationError, NoPermissionError

from sidecar.errors import StoreError
from sidecar.model import Alarm, BaselineAccepted, CalibrationStarted, Observation, Stack
from sidecar.redis_edge import describe, mapped_redis_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Redis

    from sidecar.model import AuditEvent

_KINDS = {Alarm: "alarm", BaselineAccepted: "baseline_accepted", CalibrationStarted: "calibration_started"}

START = "0-0"
"""The id before every stream entry."""

_RECORD = """
local written = 0
for i = 3, #ARGV, 8 do
  if redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) == 1 then
    redis.call('HINCRBY', KEYS[3], 'handled', 1)
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'e', ARGV[i], 't', ARGV[i+1], 's', ARGV[i+2],
      'w', ARGV[i+3], 'v', ARGV[i+4], 'k', ARGV[i+5], 'n', ARGV[i+6], 'p', ARGV[i+7])
    written = written + 1
  end
end
return written
"""

_ACKNOWLEDGE = """
local acknowledged = redis.call('XACK', KEYS[1], unpack(ARGV))
redis.call('HINCRBY', KEYS[2], 'handled', acknowledged)
return acknowledged
"""

# A client that lost the answer sends it again: a state that is there already came with its events.
_CHECKPOINT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if redis.call('GET', KEYS[2]) == ARGV[2] then return 1 end
redis.call('SET', KEYS[2], ARGV[2])
for i = 4, #ARGV do
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[3], '*', 'event', ARGV[i])
end
return 1
"""

_RENEW = """
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) return 1 end
if not holder then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1 end
return 0
"""

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


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
        if name in {"observations", "audit", "judge", "lease", "request", "dead_letters", "intake", "fingerprints"}:
            return self.prefix + name.replace("_", "-")
        raise AttributeError(name)


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked of the judge. `kind` is `recalibrate`."""

    id: str
    kind: str
    by: str
    why: str


class Store:
    """The sidecar's state on one Redis; the client is an argument and stays the caller's to close."""

    AUDIT_KEPT = 1000
    FINGERPRINTS_KEPT = 100
    REQUEST_EXPIRY_SECONDS = 86_400

    def __init__(self, redis: Redis, deployment: str, *, observations_kept: int = 100_000) -> None:
        self.redis = redis
        # redis-py types a reply as every shape that any protocol version could give; ours are RESP2 (`redis_edge`).
        self._client: Any = redis
        self.keys = Keys(deployment)
        self._observations_kept = observations_kept
        self._record = redis.register_script(_RECORD)
        self._acknowledge = redis.register_script(_ACKNOWLEDGE)
        self._checkpoint = redis.register_script(_CHECKPOINT)
        self._renew = redis.register_script(_RENEW)
        self._release = redis.register_script(_RELEASE)

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
            arguments += _observation_fields(one)
        with mapped_redis_errors():
            written: int = await self._record(keys=[stream, self.keys.observations, self.keys.intake], args=arguments)
        return written

    async def acknowledge(self, stream: str, group: str, entry_ids: Sequence[str]) -> None:
        """Acknowledge entries that give no observation."""
        if entry_ids:
            with mapped_redis_errors():
                await self._acknowledge(keys=[stream, self.keys.intake], args=[group, *entry_ids])

    async def observations_after(self, last: str, *, count: int, block_seconds: float) -> list[tuple[str, Observation]]:
        """Read observations behind the id `last`, oldest first; wait for the first at most `block_seconds`."""
        with mapped_redis_errors():
            answer = await self._client.xread(
                {self.keys.observations: last}, count=count, block=max(1, round(block_seconds * 1000))
            )
        entries = answer[0][1] if answer else []
        return [(identity.decode(), _observation(fields)) for identity, fields in entries]

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


def audit_json(event: AuditEvent) -> dict[str, Any]:
    """Give an event as plain JSON types with its kind: `alarm`, `baseline_accepted` or `calibration_started`."""
    return {"kind": _KINDS[type(event)], **asdict(event)}


def _observation_fields(one: Observation) -> list[Any]:
    stack = one.stack
    return [
        one.entry_id,
        repr(one.at),
        one.slice,
        repr(one.weight),
        json.dumps(
            {name: round(value, 6) for name, value in one.values.items() if math.isfinite(value)}, separators=(",", ":")
        ),
        "|".join(astuple(stack)),
        one.session or "",
        "" if one.step is None else one.step,
    ]


def _observation(fields: dict[bytes, bytes]) -> Observation:
    try:
        return Observation(
            entry_id=fields[b"e"].decode(),
            at=float(fields[b"t"]),
            slice=fields[b"s"].decode(),
            weight=float(fields[b"w"]),
            values={name: float(value) for name, value in dict(json.loads(fields[b"v"])).items()},
            stack=Stack(*fields[b"k"].decode().split("|")),
            session=fields[b"n"].decode() or None,
            step=int(fields[b"p"]) if fields[b"p"] else None,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(f"an observation in Redis cannot be read: {type(error).__name__}: {error}") from None
