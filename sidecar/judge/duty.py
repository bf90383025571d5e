"""The judge's duty: hold the lease, read observations in order, keep the checkpoint, tell the verdicts.

One replica judges at a time. It holds a lease in Redis with a token of its own; every checkpoint is written under
that token, so a judge that was paused and replaced cannot overwrite its successor. A checkpoint contains the id of
the last observation that it counts; the next judge continues behind it. An alarm becomes known (log, metrics) only
after its checkpoint is written.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from sidecar.errors import StoreError
from sidecar.judge.judgement import Judgement
from sidecar.model import Alarm
from sidecar.store import START, audit_json
from sidecar.tasks import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from sidecar.judge.judgement import JudgeOptions
    from sidecar.model import AuditEvent
    from sidecar.store import Store

READ_COUNT = 500
CHECKPOINT_SECONDS = 1.0


class JudgeMetrics(Protocol):
    """What the judge tells about itself."""

    def on_duty(self, active: bool) -> None:
        """Note whether this replica judges."""

    def judged(self, judgement: Judgement, observations: int) -> None:
        """Note the verdicts after a checkpoint that counts `observations` more."""

    def audit(self, event: AuditEvent) -> None:
        """Note an event that is in the audit trail."""

    def judge_gap(self) -> None:
        """Note that observations were trimmed before they were judged."""

    def judge_failed(self) -> None:
        """Note that a step failed and will be tried again."""


class Judge:
    """Judge until cancelled, whenever the lease is ours."""

    def __init__(
        self,
        store: Store,
        options: JudgeOptions,
        *,
        token: str,
        lease_seconds: float,
        metrics: JudgeMetrics,
        log: FilteringBoundLogger,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._options = options
        self._token = token
        self._lease_seconds = lease_seconds
        self._metrics = metrics
        self._log = log
        self._now = now
        self.judgement: Judgement | None = None
        self._last = START

    async def run(self) -> None:
        """Compete for the lease and judge while it is held; Redis being away is waited out."""
        backoff = Backoff()
        try:
            while True:
                try:
                    if await self._store.hold_lease(self._token, self._lease_seconds):
                        try:
                            await self._serve()
                        finally:
                            self._retire()
                    backoff.reset()
                    await asyncio.sleep(self._lease_seconds / 3)
                except StoreError as error:
                    self._metrics.judge_failed()
                    self._log.warning("judge_failed", error=str(error))
                    await backoff.wait()
        finally:
            await self._leave()

    async def _serve(self) -> None:
        """Judge until the lease is lost."""
        judgement = self.judgement = await self._resume()
        self._metrics.on_duty(True)
        self._metrics.judged(judgement, 0)
        self._log.info("judge_on_duty", last_observation=self._last)
        loop = asyncio.get_running_loop()
        events: list[AuditEvent] = []
        fed = 0
        written = loop.time()
        every = max(0.01, min(CHECKPOINT_SECONDS, self._lease_seconds / 3))
        while True:
            batch = await self._store.observations_after(self._last, count=READ_COUNT, block_seconds=every)
            for identity, observation in batch:
                events += judgement.feed(identity, observation)
                self._last = identity
            fed += len(batch)
            if not events and loop.time() - written < every:
                continue
            events += await self._requests(judgement)
            if not await self._checkpoint(judgement, events, fed):
                return
            events, fed, written = [], 0, loop.time()

    async def _checkpoint(self, judgement: Judgement, events: list[AuditEvent], fed: int) -> bool:
        """Write the state and tell the world; False when another replica has taken over."""
        if not await self._store.hold_lease(self._token, self._lease_seconds):
            return False
        if events or fed:
            state = {"last": self._last, **judgement.to_state()}
            if not await self._store.checkpoint(self._token, state, events):
                return False
        for event in events:
            self._metrics.audit(event)
            level = self._log.warning if isinstance(event, Alarm) else self._log.info
            # The stacks are in the audit trail; `stack` is also a word that structlog keeps for itself.
            fields = {name: value for name, value in audit_json(event).items() if not isinstance(value, dict)}
            level(fields.pop("kind"), **fields)
        self._metrics.judged(judgement, fed)
        return True

    async def _resume(self) -> Judgement:
        """Continue from the checkpoint, or begin at the oldest observation that is kept."""
        state = await self._store.load_checkpoint()
        if state is None:
            self._last = START
            return Judgement(self._options)
        try:
            judgement = Judgement.from_state(state, self._options)
            self._last = state["last"]
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{self._store.keys.judge}: the checkpoint cannot be used: {error}. Delete the key to calibrate anew"
            ) from None
        oldest = await self._store.oldest_observation()
        if oldest is not None and _order(oldest) > _order(self._last):
            self._metrics.judge_gap()
            self._log.warning("judge_gap", last_observation=self._last, oldest_kept=oldest)
        return judgement

    async def _requests(self, judgement: Judgement) -> list[AuditEvent]:
        """Carry out a person's request, once. One that cannot be read must not end the judging."""
        try:
            request = await self._store.request()
        except StoreError as error:
            self._metrics.judge_failed()
            self._log.warning("request_unreadable", error=str(error))
            return []
        if request is None or request.id == judgement.last_request:
            return []
        return [judgement.recalibrate(request.id, self._now(), request.by, request.why)]

    def _retire(self) -> None:
        if self.judgement is not None:
            self.judgement = None
            self._metrics.on_duty(False)
            self._log.info("judge_off_duty")

    async def _leave(self) -> None:
        """Hand the lease back, so that another replica need not wait for it to expire."""
        try:
            async with asyncio.timeout(2):
                await self._store.release_lease(self._token)
        except (StoreError, TimeoutError):
            self._log.info("lease_left_to_expire")


def _order(identity: str) -> tuple[int, int]:
    milliseconds, _, number = identity.partition("-")
    return int(milliseconds), int(number)
