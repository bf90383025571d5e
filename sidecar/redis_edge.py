"""Where Redis enters the program: one way to connect, one place that turns redis-py's errors into ours.

Everything that talks to Redis does so with a client from `connect` and inside `mapped_redis_errors`. Messages say
what to do. They never quote the server's sentence, because Redis and redis-py repeat the arguments of the failed
command in it, and an argument may be the text of a query; nor the URL, because it may hold a password. Keys and
scripts are the store's.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import redis.asyncio
from redis import exceptions as raw
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.credentials import CredentialProvider

from sidecar.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOCKET_TIMEOUT = 10.0
"""Seconds without an answer after which a connection counts as dead; a blocking read must ask for less."""

_ROOTS: tuple[type[Exception], ...] = tuple(
    cls
    for name in ("RedisError", "RedisClusterException", "ChildDeadlockedError", "IncorrectPolicyType")
    if (cls := getattr(raw, name, None)) is not None
)
"""redis-py has no single base class; these are the roots of what `redis.exceptions` holds."""

_PIPELINE = re.compile(r"\ACommand # \d+ \(.*\) of pipeline caused error: (?:\(['\"])?", re.DOTALL)
_SCRIPT = re.compile(r"\A(?:ERR )?Error running script \(call to \w+\): (?:@\w+: ?\d+: )*-?")
_CODE = re.compile(r"[A-Z][A-Z0-9]{2,}\b")

_BY_CODE = {
    "WRONGPASS": "Redis refused the user name or password: check the password file and the ACL user",
    "NOAUTH": "Redis asks for a password: set the password file (and the user, if it is not the default one)",
    "NOPERM": "the Redis user may not run a command or touch a key that is needed: "
    "extend its ACL as docs/events.md lists",
    "WRONGTYPE": "a Redis key that is needed holds another type, so another program uses its name: "
    "choose another stream or deployment name",
    "OOM": "Redis is at its memory limit and refuses writes: raise maxmemory or let it evict",
    "READONLY": "this Redis is a read-only replica: connect to the primary",
    "LOADING": "Redis is still loading its data: it will answer when it is done",
    "MISCONF": "Redis cannot save to disk and refuses writes: see its log",
    "NOSCRIPT": "Redis lost a script while it was being used: try again",
    "BUSY": "a script blocks Redis: wait, or see SCRIPT KILL",
    "MASTERDOWN": "this Redis replica lost its primary: connect to the primary",
    "CLUSTERDOWN": "the Redis Cluster is down or does not cover all slots",
    "CROSSSLOT": "the keys of one deployment lie on several Redis Cluster slots: "
    "give the stream the deployment's hash tag",
    "MOVED": "this Redis is part of a Cluster and the key lies on another node: connect to it as a Cluster",
    "ASK": "this Redis is part of a Cluster and the key is moving to another node: try again",
    "EXECABORT": "Redis refused a transaction because one of its commands was refused",
}
_BY_CLASS: tuple[tuple[str, str], ...] = (
    ("AuthenticationWrongNumberOfArgsError", _BY_CODE["WRONGPASS"]),
    ("AuthenticationError", _BY_CODE["WRONGPASS"]),
    ("NoPermissionError", _BY_CODE["NOPERM"]),
    ("AuthorizationError", _BY_CODE["NOPERM"]),
    ("ExternalAuthProviderError", "the provider of Redis credentials failed"),
    ("BusyLoadingError", _BY_CODE["LOADING"]),
    ("MaxConnectionsError", "all connections of the Redis client are in use"),
    ("OutOfMemoryError", _BY_CODE["OOM"]),
    ("ReadOnlyError", _BY_CODE["READONLY"]),
    ("NoScriptError", _BY_CODE["NOSCRIPT"]),
    ("ExecAbortError", _BY_CODE["EXECABORT"]),
    ("ClusterCrossSlotError", _BY_CODE["CROSSSLOT"]),
    ("CrossSlotTransactionError", _BY_CODE["CROSSSLOT"]),
    ("MovedError", _BY_CODE["MOVED"]),
    ("AskError", _BY_CODE["ASK"]),
    ("MasterDownError", _BY_CODE["MASTERDOWN"]),
    ("ClusterError", _BY_CODE["CLUSTERDOWN"]),
    ("RedisClusterException", _BY_CODE["CLUSTERDOWN"]),
    ("TimeoutError", "Redis did not answer in time"),
    ("ConnectionError", "Redis is not reachable"),
    ("InvalidResponse", "what answers there does not speak the Redis protocol"),
)


@contextmanager
def mapped_redis_errors(doing: str = "") -> Iterator[None]:
    """Turn every redis-py error and network error of the block into StoreError.

    `doing` ("reading the query stream") starts the message. `WatchError` becomes one too: whoever uses WATCH catches it
    inside. The original error is not chained where it could quote a query.
    """
    task = _current_task()
    cancelled_before = task.cancelling() if task is not None else 0
    try:
        yield
    except _ROOTS as error:
        sentence = describe(error)
        message = f"{doing}: {sentence}" if doing else sentence
        if isinstance(error, (raw.ConnectionError, raw.TimeoutError)):
            raise StoreError(message) from error
        raise StoreError(message) from None
    except OSError as error:
        message = f"Redis is not reachable ({type(error).__name__})"
        raise StoreError(f"{doing}: {message}" if doing else message) from error
    # redis-py sends inside `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that arrives together
    # with its result. A swallowed one would leave a task running that everybody takes for stopped.
    if task is not None and task.cancelling() > cancelled_before:
        raise asyncio.CancelledError


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop: a blocking client uses us
        return None


def describe(error: Exception) -> str:
    """Say in one sentence what a redis-py error asks of the operator, without quoting the server."""
    # Rights that a script lacks have no code of their own; the sentences are those of Redis 7 and of Redis 6.2.
    if any(sign in str(error) for sign in ("ACL failure in script", "can't run this command", "can't access")):
        return _BY_CODE["NOPERM"]
    code = _code(error)
    if code in _BY_CODE:
        return _BY_CODE[code]
    names = {cls.__name__ for cls in type(error).__mro__ if cls.__module__ == raw.__name__}
    for name, sentence in _BY_CLASS:
        if name in names:
            return sentence
    return f"Redis answered with an error ({type(error).__name__}{f', {code}' if code else ''})"


def _code(error: Exception) -> str:
    # redis-py puts the whole command before the errors of a pipeline, Redis 6.2 a sentence before those of a script.
    match = _CODE.match(_SCRIPT.sub("", _PIPELINE.sub("", str(error))))
    return match[0] if match else ""


def redact(url: str) -> str:
    """Give the URL without its user information and query, fit for logs and messages."""
    scheme, separator, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    # An "@" behind the host part means an unquoted character in the password: then nobody can tell where it ends.
    if not separator or "@" in tail:
        return "(not shown)"
    return f"{scheme}://{authority.rpartition('@')[2]}" + re.split(r"[?#]", tail)[0]


def connect(
    url: str,
    *,
    password_file: Path | None = None,
    client_name: str = "rag-drift",
    socket_timeout: float = SOCKET_TIMEOUT,
    connect_timeout: float = 5.0,
    retries: int = 2,
    max_connections: int = 32,
) -> redis.asyncio.Redis:
    """Make an asyncio client for `redis://`, `rediss://` or `unix://`; nothing is sent yet.

    Answers stay bytes. A lost connection is retried `retries` times within about a second, so everything that is sent
    must be safe to repeat; longer outages are the caller's. A password file is read at each connect, which lets it be
    rotated.

    Raises ConfigurationError for a URL or a password file that cannot be used. Close it with `aclose()`.
    """
    provider, plain = None, url
    if password_file is not None:
        provider, plain = _from_file(url, password_file)
    # A unix socket has no TCP connection to keep alive, and redis-py refuses the option for it.
    tcp: dict[str, Any] = {} if plain.startswith("unix:") else {"socket_keepalive": True}
    try:
        return redis.asyncio.Redis.from_url(
            plain,
            decode_responses=False,
            # RESP2 on purpose: replies look alike on every server from 6.2 on, and nothing is pushed between them.
            protocol=2,
            client_name=client_name,
            credential_provider=provider,
            socket_timeout=socket_timeout,
            socket_connect_timeout=connect_timeout,
            **tcp,
            health_check_interval=30,
            max_connections=max_connections,
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries),
        )
    except (ValueError, TypeError, raw.RedisError):
        msg = f"Redis URL {redact(url)}: redis://host:port/db, rediss://host:port/db or unix:///path is expected"
        raise ConfigurationError(msg) from None


class _PasswordFile(CredentialProvider):
    """Read the password anew for each connection.

    A file that is being replaced may be empty or missing for a moment: a failed connection, which is tried again.
    """

    def __init__(self, path: Path, user: str | None) -> None:
        self._path = path
        self._user = user

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = self.read()
        except ConfigurationError as error:
            raise raw.AuthenticationError(str(error)) from None
        return (self._user, password) if self._user else (password,)

    def read(self) -> str:
        """Give the password; raises ConfigurationError when the file cannot be read or is empty."""
        try:
            password = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            msg = f"Redis password file {self._path} cannot be read"
            raise ConfigurationError(msg) from None
        if not password:
            msg = f"Redis password file {self._path} is empty"
            raise ConfigurationError(msg)
        return password


def _from_file(url: str, path: Path) -> tuple[_PasswordFile, str]:
    try:
        parts = urlsplit(url)
        secret, user = parts.password, parts.username
    except ValueError:
        secret = user = None
        parts = urlsplit("")
    if secret:
        msg = f"Redis URL {redact(url)} holds a password and a password file is set: remove one"
        raise ConfigurationError(msg)
    provider = _PasswordFile(path, unquote(user) if user else None)
    provider.read()
    return provider, urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
