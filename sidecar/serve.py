"""Run the sidecar as a process: the orders of the operating system, and nothing else."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from sidecar.app import Sidecar
from sidecar.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from sidecar.settings import Settings


async def serve(load: Callable[[], Settings], *, log: FilteringBoundLogger) -> None:
    """Run a sidecar until SIGTERM or SIGINT; SIGHUP reloads the settings."""
    sidecar = Sidecar(load, log=log)
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        with suppress(ConfigurationError):  # said in the log and in a metric
            await sidecar.reload()

    def on_hangup() -> None:
        task = loop.create_task(reload(), name="reload")
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, sidecar.stop.set)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    await sidecar.run()
