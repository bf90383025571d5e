"""The judge's duty: hold the lease, read observations in order, keep the checkpoint, tell the verdicts.

One replica judges at a time. It holds a lease in Redis with a token of its own; every checkpoint is written under
that token, so a judge that was paused and replaced cannot overwrite its successor. A checkpoint contains the id of
the last observation that it counts; the next judge continues behind it. An alarm becomes known (log, metrics) only
after its checkpoint is written.

Within which stretch a change began is read from the observations behind the alarm, which Redis keeps anyway: the
judge's own memory stays constant.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sidecar.drift.changepoint import BLOCK, BLOCKS, change_set
from sidecar.drift.channels import level_of
from sidecar.errors import StoreError
from sidecar.judge.judgement import SESSIONS, Judgement
from sidecar.model import WHOLE_STREAM, Alarm
from sidecar.store import START, audit_json
from sidecar.tasks import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from sidecar.judge.options import JudgeOptions
    from sidecar.model import AuditEvent
    from sidecar.store import Store

READ_COUNT = 500
CHECKPOINT_SECONDS = 1.0
SAVED_EVERY = 5
"""Checkpoints without an event of which one writes the state: it can be some hundred kB."""


class JudgeMetrics(Protocol):
    """What the judge tells about itself."""

    def on_duty(self, active: bool) -> None:
        """Note whether this replica judges."""

    def judged(self, judgement: Judgement, observations: int, *, caught_up: bool) -> None:
        """Note the verdicts after a checkpoint that counts `observations` more; whether there are none left."""

    def audit(self, event: AuditEvent) -> None:
        """Note an event that is in the audit trail."""

    def judge_gap(self) -> None:
        """Note that observations were trimmed before they were judged."""

    def judge_failed(self) -> None:
        """Note that a step failed and will be tried again."""

    def observation_damaged(self) -> None:
        """Note an observation that could not be read and is passed over."""


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
        self._last_run = self._last_canaries = START
        self._unsaved = 0
        self._events: list[AuditEvent] = []

    async def run(self) -> None:
        """Compete for the lease and judge while it is held; Redis being away is waited out."""
        backoff = Backoff()
        try:
            while True:
                try:
                    if await self._store.hold_lease(self._token, self._lease_seconds):
                        try:
                            await self._serve()
                        except asyncio.CancelledError:
                            await self._save()
                            raise
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
        self._unsaved = 0
        self._metrics.on_duty(True)
        self._metrics.judged(judgement, 0, caught_up=False)
        self._log.info("judge_on_duty", last_observation=self._last)
        loop = asyncio.get_running_loop()
        self._events = []
        fed, heard = 0, False
        written = loop.time()
        every = max(0.01, min(CHECKPOINT_SECONDS, self._lease_seconds / 3))
        while True:
            batch = await self._store.observations_after(self._last, count=READ_COUNT, block_seconds=every)
            for identity, observation in batch:
                self._last = identity
                if observation is None:
                    self._metrics.observation_damaged()
                    self._log.warning("observation_damaged", id=identity)
                    continue
                raised = judgement.feed(identity, observation)
                self._events += raised
                for alarm in (event for event in raised if isinstance(event, Alarm)):
                    self._events[self._events.index(alarm)] = await self._dated(alarm)
            fed += len(batch)
            heard |= await self._hear_runs(judgement)
            if not self._events and loop.time() - written < every:
                continue
            await self._carry_out_request(judgement)
            if not await self._checkpoint(judgement, fed, heard=heard, caught_up=len(batch) < READ_COUNT):
                return
            fed, heard, written = 0, False, loop.time()

    async def _hear_runs(self, judgement: Judgement) -> bool:
        """Feed the runs of frozen probes and canaries that are new; say whether there were any."""
        heard = False
        for identity, run in await self._store.frozen_runs_after(self._last_run):
            self._last_run = identity
            if run is not None:
                self._events += judgement.feed_run(f"frozen-{identity}", run)
                heard = True
        for identity, canaries in await self._store.canaries.runs_after(self._last_canaries):
            self._last_canaries = identity
            if canaries is None:
                self._log.warning("canary_run_damaged", id=identity)
                continue
            self._events += judgement.feed_canaries(f"canaries-{identity}", canaries)
            heard = True
        return heard

    async def _checkpoint(self, judgement: Judgement, fed: int, *, heard: bool, caught_up: bool) -> bool:
        """Write the state and tell the world; False when another replica has taken over.

        `heard` says that the frozen probes were replayed, or the canaries.
        """
        if not await self._store.hold_lease(self._token, self._lease_seconds):
            return False
        self._unsaved += 1 if fed or self._unsaved else 0
        events = self._events
        if events or heard or self._unsaved >= SAVED_EVERY:
            if not await self._store.checkpoint(self._token, self._state(judgement), events):
                return False
            self._unsaved, self._events = 0, []
        for event in events:
            self._metrics.audit(event)
            level = self._log.warning if isinstance(event, Alarm) else self._log.info
            # The stacks are in the audit trail; `stack` is also a word that structlog keeps for itself.
            fields = {name: value for name, value in audit_json(event).items() if not isinstance(value, dict)}
            level(fields.pop("kind"), **fields)
        self._metrics.judged(judgement, fed, caught_up=caught_up)
        return True

    def _state(self, judgement: Judgement) -> dict[str, Any]:
        """Give what a checkpoint holds: the state and the last entries that it counts."""
        places = {"last": self._last, "last_run": self._last_run, "last_canaries": self._last_canaries}
        return {**places, **judgement.to_state()}

    async def _resume(self) -> Judgement:
        """Continue from the checkpoint, or begin at the oldest observation that is kept."""
        state = await self._store.load_checkpoint()
        if state is None:
            self._last = self._last_run = self._last_canaries = START
            return Judgement(self._options)
        try:
            judgement = Judgement.from_state(state, self._options)
            self._last, self._last_run = state["last"], state["last_run"]
            self._last_canaries = state.get("last_canaries", START)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{self._store.keys.judge}: the checkpoint cannot be used: {error}. Delete the key to calibrate anew"
            ) from None
        oldest = await self._store.oldest_observation()
        if oldest is not None and _order(oldest) > _order(self._last):
            self._metrics.judge_gap()
            self._log.warning("judge_gap", last_observation=self._last, oldest_kept=oldest)
        return judgement

    async def _carry_out_request(self, judgement: Judgement) -> None:
        """Carry out a person's request, once. One that cannot be read must not end the judging."""
        try:
            request = await self._store.request()
        except StoreError as error:
            self._metrics.judge_failed()
            self._log.warning("request_unreadable", error=str(error))
            return
        if request is None or request.id == judgement.last_request:
            return
        carry_out = judgement.fixed if request.kind == "fixed" else judgement.recalibrate
        self._events += carry_out(request.id, self._now(), request.by, request.why)
        self._unsaved = SAVED_EVERY  # also where nothing came of it: it must not be carried out again later

    async def _dated(self, alarm: Alarm) -> Alarm:
        """Add the stretch within which the change began, as far back as observations are kept."""
        judgement = self.judgement
        watch = judgement.watches.get(alarm.signal) if judgement is not None else None
        track = watch.tracks[alarm.slice] if watch is not None else None
        if track is None or track.bets is None or track.state is None or alarm.signal == SESSIONS:
            return alarm  # replays and closed sessions are in no observation
        values: list[tuple[int, float]] = []
        wanted = min(BLOCK * BLOCKS, track.state.n)
        async for one in self._store.observations_before(alarm.id):
            if len(values) >= wanted:
                break
            value = one.values.get(alarm.signal)
            mine = one.weight > 0 if alarm.slice == WHOLE_STREAM else one.slice == alarm.slice
            if mine and value is not None:
                values.append((level_of(value), one.at))
        levels, times = np.array(values[::-1], dtype=np.float64).reshape(-1, 2).T
        found = change_set(track.bets, levels.astype(np.int64), times)
        if found is None:
            return alarm
        return replace(alarm, start_earliest=float(times[found.earliest]), start_latest=float(times[found.latest]))

    def _retire(self) -> None:
        if self.judgement is not None:
            self.judgement = None
            self._metrics.on_duty(False)
            self._log.info("judge_off_duty")

    async def _save(self) -> None:
        """Write what the last checkpoints did not, so that the successor need not judge it again."""
        if self.judgement is None or not self._unsaved or self._events:
            return  # events are told with the state that they belong to, or by the successor who finds them again
        try:
            async with asyncio.timeout(2):
                await self._store.checkpoint(self._token, self._state(self.judgement))
        except (StoreError, TimeoutError):
            self._log.info("checkpoint_left_unwritten")

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
