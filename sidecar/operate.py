"""What a person on call does from a shell: look at the verdicts, accept the present behaviour as the new normal.

Both go through Redis, so they work from any machine that reaches it and with any replica on duty.
"""

from __future__ import annotations

import json
import secrets
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from sidecar.errors import StoreError
from sidecar.judge.judgement import Judgement
from sidecar.options import judge_options, redis_url
from sidecar.redis_edge import connect
from sidecar.store import Request, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.model import Verdict
    from sidecar.settings import Settings


COLUMNS = (
    "signal",
    "slice",
    "verdict",
    "queries",
    "baseline",
    "now",
    "interval",
    "evidence / threshold",
    "drift since",
)


async def show_status(settings: Settings, *, as_json: bool) -> None:
    """Print the verdicts of the newest checkpoint.

    Raises:
        StoreError: Redis is not reachable, or holds no checkpoint that this program can read.
    """
    async with opened_store(settings) as store:
        state = await store.load_checkpoint()
        if state is None:
            raise StoreError(f"no judge has written a checkpoint for the deployment {settings.deployment} yet")
        try:
            judgement = Judgement.from_state(state, judge_options(settings))
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            raise StoreError(f"{store.keys.judge}: the checkpoint cannot be read: {error}") from None
    if as_json:
        verdicts = [asdict(verdict) for verdict in judgement.verdicts()]
        found = {"alarm": judgement.alarm_id, "severity": judgement.severity, "verdicts": verdicts}
        print(json.dumps(found, indent=2))  # noqa: T201  (the output)
        return
    alarm = "no alarm" if judgement.alarm_id is None else f"alarm {judgement.alarm_id} ({judgement.severity})"
    table = Table(title=f"{settings.deployment}: {alarm}", title_justify="left")
    for name in COLUMNS:
        table.add_column(name)
    for verdict in judgement.verdicts():
        table.add_row(*_row(verdict))
    console = Console()
    # A pipe has no width: cells cut to fit 80 columns could not be searched.
    (console if console.is_terminal else Console(width=200)).print(table)


async def ask_judge(settings: Settings, kind: str, *, by: str, why: str) -> None:
    """Leave a request (`recalibrate` or `fixed`) for the judge on duty.

    Raises:
        StoreError: Redis is not reachable.
    """
    async with opened_store(settings) as store:
        await store.ask(Request(id=secrets.token_hex(8), kind=kind, by=by[:200], why=why[:1000]))
    what = "starts a new calibration" if kind == "recalibrate" else "ends the alarm and keeps the baselines"
    Console().print(f"asked: the judge on duty {what} within seconds")


@asynccontextmanager
async def opened_store(settings: Settings) -> AsyncIterator[Store]:
    """Reach the store for one command."""
    redis = connect(redis_url(settings), password_file=settings.redis.password_file)
    try:
        yield Store(redis, settings.deployment)
    finally:
        await redis.aclose()


def _row(verdict: Verdict) -> tuple[str, ...]:
    state = verdict.state if verdict.state != "calibrating" else f"calibrating {verdict.progress:.0%}"
    return (
        verdict.signal,
        verdict.slice,
        f"{state} ({verdict.reason})" if verdict.reason else state,
        str(verdict.queries),
        _number(verdict.baseline),
        _number(verdict.level),
        "" if verdict.lower is None else f"{_number(verdict.lower)} to {_number(verdict.upper)}",
        f"{verdict.evidence:.3g} / {verdict.threshold:g} weeks",
        "" if verdict.start is None else datetime.fromtimestamp(verdict.start, UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
