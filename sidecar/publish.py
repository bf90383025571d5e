"""How a RAG service tells the sidecar about a query: one `XADD`, and never a reason for the service to fail.

A service may copy the two lines of `docs/events.md` instead. This helper adds what is easy to forget: the stream
stays bounded, a slow or absent Redis costs at most `timeout`, and no error reaches the request. It imports the
standard library only and takes whatever client the service already has. What the fields mean is the event contract,
version 1.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_log = logging.getLogger(__name__)

STREAM = "rag:queries"
MAXLEN = 100_000
QUERY_BYTES = 8_192


def fields(
    *,
    query: str,
    documents: Iterable[object] | None = None,
    slice: str | None = None,  # noqa: A002  (the contract's name)
    trace_id: str | None = None,
    session_id: str | None = None,
    step: int | None = None,
    top_k: int | None = None,
    filter: object = None,  # noqa: A002  (the contract's name)
    encoder: str | None = None,
) -> dict[str, str]:
    """Build the flat fields of one stream entry.

    `documents` holds what was served, best first: ids, `(id, score)` pairs or mappings with `id` and perhaps `score`.
    Of `filter` only its presence is sent, because a filter often carries tenant or user names.

    Raises ValueError for a query that is blank or longer than 8 KiB, TypeError or ValueError for documents of another
    shape.
    """
    if not query.strip() or len(query.encode()) > QUERY_BYTES:
        msg = f"a query holds 1 to {QUERY_BYTES} bytes of UTF-8 and is not blank"
        raise ValueError(msg)
    entry = {"v": "1", "query": query}
    if documents is not None:
        entry["documents"] = json.dumps([_document(item) for item in documents], allow_nan=False)
    optional = {
        "slice": slice,
        "trace_id": trace_id,
        "session_id": session_id,
        "step": step,
        "top_k": top_k,
        "filter": "1" if filter else None,
        "encoder": encoder,
    }
    entry.update((name, str(value)) for name, value in optional.items() if value is not None)
    return entry


async def publish(
    redis: Any,
    *,
    query: str,
    documents: Iterable[object] | None = None,
    slice: str | None = None,  # noqa: A002  (the contract's name)
    trace_id: str | None = None,
    session_id: str | None = None,
    step: int | None = None,
    top_k: int | None = None,
    filter: object = None,  # noqa: A002  (the contract's name)
    encoder: str | None = None,
    stream: str = STREAM,
    maxlen: int = MAXLEN,
    timeout: float = 0.05,
    entry_id: str = "*",
) -> bool:
    """Publish one query event with an asyncio Redis client; return whether Redis took it.

    Never raises into the request: every failure is False and a debug log line without text. Waits at most `timeout`
    seconds. The stream is kept near `maxlen` entries (approximate trimming, which costs Redis nothing). Cancellation
    of the request passes through. A call that ran out of time may still have reached Redis.
    """
    try:
        entry = fields(
            query=query,
            documents=documents,
            slice=slice,
            trace_id=trace_id,
            session_id=session_id,
            step=step,
            top_k=top_k,
            filter=filter,
            encoder=encoder,
        )
    except Exception as error:  # noqa: BLE001  (a monitor must never break what it monitors)
        _log.debug("query_event_not_published error=%s", type(error).__name__)
        return False
    # A task of its own, because this returns in time even if the client is slow to notice that it was cancelled.
    sending = asyncio.ensure_future(_send(redis, stream, entry, entry_id, maxlen))
    try:
        done, _ = await asyncio.wait({sending}, timeout=timeout)
    except asyncio.CancelledError:
        sending.cancel()
        raise
    if not done:
        sending.cancel()
        _log.debug("query_event_not_published error=timeout")
        return False
    return not sending.cancelled() and sending.result()


async def _send(redis: Any, stream: str, entry: dict[str, str], entry_id: str, maxlen: int) -> bool:
    try:
        await redis.xadd(stream, entry, id=entry_id, maxlen=maxlen, approximate=True)
    except Exception as error:  # noqa: BLE001  (a monitor must never break what it monitors)
        _log.debug("query_event_not_published error=%s", type(error).__name__)
        return False
    return True


def publish_sync(redis: Any, *, stream: str = STREAM, maxlen: int = MAXLEN, entry_id: str = "*", **event: Any) -> bool:
    """Publish one query event with a blocking Redis client; `event` holds the arguments of `fields`.

    Never raises. The wait is bounded by the client's own `socket_timeout`: set it.
    """
    try:
        redis.xadd(stream, fields(**event), id=entry_id, maxlen=maxlen, approximate=True)
    except Exception as error:  # noqa: BLE001  (a monitor must never break what it monitors)
        _log.debug("query_event_not_published error=%s", type(error).__name__)
        return False
    return True


def _document(item: object) -> str | dict[str, object]:
    if isinstance(item, str):
        return item
    if isinstance(item, Mapping):
        score = item.get("score")
        return {"id": str(item["id"])} if score is None else {"id": str(item["id"]), "score": float(score)}
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return {"id": str(item[0]), "score": float(item[1])}
    msg = f"a document is an id, an (id, score) pair or a mapping, not {type(item).__name__}"
    raise TypeError(msg)
