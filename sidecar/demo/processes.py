"""The demo's child processes: started with their logs in files, ready when they say so, gone when the demo is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sidecar.children import dying_with_parent
from sidecar.errors import DemoError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

STOP_SECONDS = 10.0
# Two processes encode at the same time; one thread each is faster than two threads that wait for one another.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


class Child:
    """One Python process of ours, `python -m module arguments`; use it with `async with`."""

    def __init__(self, name: str, module: str, *arguments: str, logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self._command = dying_with_parent([sys.executable, "-m", module, *arguments])
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Start it."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAG_DRIFT")}
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=asyncio.subprocess.PIPE, stderr=log, env={**environment, **ENVIRONMENT}
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it: asked first, then killed."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def first_line(self, seconds: float) -> str:
        """Wait for the first line that it prints.

        Raises:
            DemoError: it ended or stayed silent; with the end of its log.
        """
        assert self._process is not None and self._process.stdout is not None  # noqa: S101, PT018
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            line = b""
        if not line:
            raise DemoError(f"the {self.name} did not start: {self.tail()}")
        return line.decode().strip()

    async def finished(self) -> None:
        """Wait for it to end by itself.

        Raises:
            DemoError: it failed; with the end of its log.
        """
        assert self._process is not None  # noqa: S101
        if await self._process.wait():
            raise DemoError(f"the {self.name} failed: {self.tail()}")

    def check(self) -> None:
        """Complain if it has died.

        Raises:
            DemoError: it ended; with the end of its log.
        """
        assert self._process is not None  # noqa: S101
        if self._process.returncode is not None:
            raise DemoError(f"the {self.name} ended: {self.tail()}")

    def tail(self) -> str:
        """Give the last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " / ".join(lines[-5:]) or "no output"


class Memory:
    """The memory of this process and everything below it, added up: the largest sum of proportional set sizes seen.

    The proportional size counts a page that n processes share (the libraries of torch, say) as 1/n for each, so that
    the sum is what the machine really had to hold. 0 where the system does not tell (not Linux).
    """

    EVERY_SECONDS = 0.5

    def __init__(self) -> None:
        self.peak_bytes = 0

    async def watch(self) -> None:
        """Look twice a second until cancelled."""
        while True:
            total = sum(_proportional_bytes(pid) for pid in _family(os.getpid()))
            self.peak_bytes = max(self.peak_bytes, total)
            await asyncio.sleep(self.EVERY_SECONDS)


def _family(pid: int) -> Iterator[int]:
    """Yield a process and all of its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = children.read_text().split()
        except OSError:
            continue
        for child in below:
            yield from _family(int(child))


def _proportional_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
