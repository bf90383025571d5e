"""Named, guarded background tasks: one that ends without being asked to is an error, said at once.

Loops that meet a failing dependency wait longer each time, up to a bound, and start again at once after a success.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from structlog.typing import FilteringBoundLogger


LAST_WORD_SECONDS = 2.0
"""How long work that must not be cut off may go on after a cancellation."""


class Backoff:
    """Waits that double from `first` to `longest` seconds and return to `first` after `reset()`."""

    def __init__(self, first: float = 0.1, longest: float = 5.0) -> None:
        self._first, self._longest = first, longest
        self._next = first

    async def wait(self) -> None:
        """Sleep for the present wait and double it."""
        await asyncio.sleep(self.take())

    def take(self) -> float:
        """Give the present wait and double it, for a caller who need not sleep through it."""
        now, self._next = self._next, min(self._next * 2, self._longest)
        return now

    def reset(self) -> None:
        """Begin again with the shortest wait."""
        self._next = self._first


async def finish(work: Coroutine[Any, Any, None], seconds: float = LAST_WORD_SECONDS) -> None:
    """Await `work` even if this task is cancelled meanwhile, but then for at most `seconds`, and be cancelled then."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            task.cancel()
        elif not task.cancelled():
            task.exception()  # looked at, so that nobody reports it as forgotten
        raise


def spawn(
    group: asyncio.TaskGroup, name: str, work: Coroutine[None, None, None], log: FilteringBoundLogger
) -> asyncio.Task[None]:
    """Run `work` as a task that must not end by itself: its end or failure ends the whole group."""

    async def guarded() -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # Only our own messages are known not to quote a query.
            said = str(error) if isinstance(error, SidecarError) else ""
            log.error(  # noqa: TRY400  (raised again: the trace comes with the end of the process)
                "task_failed", task=name, error=type(error).__name__, message=said
            )
            raise
        log.error("task_ended", task=name)
        raise RuntimeError(f"the task {name} ended by itself")

    return group.create_task(guarded(), name=name)
