"""The edge to Redis: every error of redis-py becomes ours, with a sentence that helps and shows nothing."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import traceback

import pytest
from redis import exceptions as raw

from sidecar.errors import ConfigurationError, StoreError
from sidecar.redis_edge import connect, describe, mapped_redis_errors, redact

CLASSES = sorted(
    (cls for _, cls in inspect.getmembers(raw, inspect.isclass) if issubclass(cls, Exception)),
    key=lambda cls: cls.__name__,
)
SPECIAL = {"AskError": "1 127.0.0.1:1", "MovedError": "1 127.0.0.1:1", "ClusterDownError": "CLUSTERDOWN down"}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_exception_class_of_redis_py_is_mapped(cls):
    """No class of `redis.exceptions` gets through, and none quotes the server."""
    with pytest.raises(StoreError, match=r"^reading: .{10,}") as caught, mapped_redis_errors("reading"):
        raise cls(SPECIAL.get(cls.__name__, "where is my parcel"))
    assert "parcel" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (raw.AuthenticationError("invalid username-password pair or user is disabled."), "check the password file"),
        (raw.AuthenticationError("Authentication required."), "password"),
        (raw.NoPermissionError("this user has no permissions to run the 'xadd' command"), "extend its ACL"),
        (raw.ResponseError("WRONGTYPE Operation against a key"), "choose another stream"),
        (raw.ResponseError("MISCONF Redis is configured to save"), "cannot save to disk"),
        (raw.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "maxmemory"),
        (raw.ReadOnlyError("You can't write against a read only replica."), "primary"),
        (raw.BusyLoadingError("Redis is loading the dataset in memory"), "loading"),
        (raw.TimeoutError("Timeout reading from socket"), "in time"),
        (raw.MaxConnectionsError("Too many connections"), "connections"),
        (raw.ResponseError("unknown command 'FOO', with args beginning with: 'secret' "), "ResponseError"),
        (
            raw.ResponseError("Error running script (call to f_ab12): @user_script:3: WRONGTYPE Operation"),
            "another type",
        ),
        (raw.ResponseError("Error running script (call to f_ab): @user_script:3: @user_script: 3: -NOPERM x"), "ACL"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_messages_say_what_to_do(error, said):
    """What the operator can change is named; what the server said is not repeated."""
    assert said in describe(error)
    assert "secret" not in describe(error)


async def test_a_failed_command_of_a_pipeline_is_not_quoted(redis):
    """redis-py puts the command with its arguments into the message: not even the traceback shows it."""
    await redis.set("taken", "x")
    pipe = redis.pipeline(transaction=False)
    pipe.xadd("taken", {"query": "where is my parcel"})
    with pytest.raises(StoreError, match="another type") as caught, mapped_redis_errors("writing"):
        await pipe.execute()
    assert "parcel" not in "".join(traceback.format_exception(caught.value))


async def test_an_unknown_command_is_not_quoted(redis):
    """Redis repeats the arguments of a command that it does not know."""
    with pytest.raises(StoreError) as caught, mapped_redis_errors("asking"):
        await redis.execute_command("NOSUCH", "where is my parcel")
    assert "parcel" not in "".join(traceback.format_exception(caught.value))


async def test_a_server_that_is_not_there():
    """A refused connection is a StoreError after a bounded time."""
    client = connect("redis://someone:hunter2@127.0.0.1:1/0")
    with pytest.raises(StoreError, match=r"^asking: Redis is not reachable$") as caught, mapped_redis_errors("asking"):
        await asyncio.wait_for(client.ping(), 5)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    await client.aclose()


def test_network_errors_are_mapped():
    """What the operating system says about the network is the store's fault as well."""
    with pytest.raises(StoreError, match="not reachable"), mapped_redis_errors():
        raise ConnectionResetError


def test_other_errors_pass():
    """A defect of ours stays what it is."""
    with pytest.raises(KeyError), mapped_redis_errors():
        raise KeyError


async def test_a_cancellation_that_was_swallowed_comes_back():
    """If the block ends normally although its task was cancelled meanwhile, the cancellation is raised behind it."""

    async def swallow():
        with mapped_redis_errors(), contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)

    task = asyncio.create_task(swallow())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_cleaning_up_after_a_cancellation_is_possible():
    """A block that begins in a cancelled task is not cancelled again."""
    done = []

    async def work():
        try:
            await asyncio.sleep(10)
        finally:
            with mapped_redis_errors():
                await asyncio.sleep(0)
            done.append(True)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert done == [True]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:pa@ss@host:6379/0", "redis://host:6379/0"),
        ("rediss://:secret@host/1?password=secret", "rediss://host/1"),
        ("unix://user:secret@/tmp/redis.sock?db=1", "unix:///tmp/redis.sock"),
        ("host:6379", "(not shown)"),
        ("user:secret@host", "(not shown)"),
        ("redis://user:se/cret@host", "(not shown)"),
        ("redis://user:se#cret@host", "(not shown)"),
        ("redis://host?password=se@cret", "(not shown)"),
        ("redis://[::1", "redis://[::1"),
    ],
)
def test_a_url_is_shown_without_its_user(url, shown):
    """Logs and messages show where, never who."""
    assert redact(url) == shown


@pytest.mark.parametrize("url", ["http://user:secret@host", "host", "redis://user:secret@host:port/0"])
def test_a_url_that_is_none_is_refused(url):
    """The message shows the form and no secret."""
    with pytest.raises(ConfigurationError, match="redis://") as caught:
        connect(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


async def test_a_password_file_is_read_at_each_connect(redis, redis_url, tmp_path):
    """A rotated password is used without a restart, and the user comes from the URL."""
    await redis.execute_command("ACL", "SETUSER", "monitor", "on", ">first", "~*", "+@all")
    path = tmp_path / "password"
    path.write_text("first\n")
    client = connect(redis_url.replace("redis://", "redis://monitor@"), password_file=path)
    assert await client.execute_command("ACL", "WHOAMI") == b"monitor"
    await redis.execute_command("ACL", "SETUSER", "monitor", "resetpass", ">second")
    path.write_text("second")
    await client.connection_pool.disconnect()
    assert await client.execute_command("ACL", "WHOAMI") == b"monitor"
    await client.aclose()
    await redis.execute_command("ACL", "DELUSER", "monitor")


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_password_file_that_holds_none_is_refused(tmp_path, content):
    """Missing and empty files are named at the start, not at the first command."""
    path = tmp_path / "password"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match="password file"):
        connect("redis://localhost", password_file=path)


def test_two_passwords_are_refused(tmp_path):
    """A password in the URL and one in a file cannot both be meant."""
    (tmp_path / "p").write_text("x")
    with pytest.raises(ConfigurationError, match="remove one") as caught:
        connect("redis://u:hunter2@host", password_file=tmp_path / "p")
    assert "hunter2" not in str(caught.value)


async def test_answers_are_bytes(redis):
    """Nothing is decoded behind our back: a query may be no UTF-8."""
    await redis.set("k", b"\xff")
    assert await redis.get("k") == b"\xff"


async def test_a_unix_socket_is_as_good_as_a_port(redis_binary, tmp_path):
    """The settings allow unix://, where there is no TCP connection to keep alive."""
    path = tmp_path / "redis.sock"
    server = await asyncio.create_subprocess_exec(
        str(redis_binary), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path),
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    client = connect(f"unix://{path}")
    try:
        async with asyncio.timeout(20):
            while not path.exists():
                await asyncio.sleep(0.02)
        assert await client.ping()
    finally:
        await client.aclose()
        server.terminate()
        await server.wait()
