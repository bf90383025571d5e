"""The event contract, version 1: bytes of one stream entry to a `QueryEvent`, or a reason why not.

What comes in was written by somebody else's service and is hostile until proved otherwise: every field has a type and
a bound, every refusal one reason from `REASONS` (they become metric labels), and no message carries what was sent.
Whether an entry is looked at in the first place is the sampler's decision; what happens to a refused one is the
consumer's.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from sidecar.errors import ConfigurationError, EventError
from sidecar.model import DEFAULT_SLICE, OTHER_SLICE, WHOLE_STREAM, QueryEvent, Ranking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

REASONS = {
    "missing_query": "the entry has no query field",
    "empty_query": "the query is blank",
    "not_utf8": "a text field is not UTF-8",
    "too_large": "a field is longer than the contract allows",
    "bad_documents": "documents is not a JSON array of ids or of objects with id and finite score",
    "bad_number": "step or top_k is not a whole number in range",
    "bad_slice": "the slice name breaks the naming rule or is reserved",
    "unknown_version": "the contract version is not 1",
    "bad_entry_id": "the entry id is not one of Redis",
    "too_many_deliveries": "the entry was handed out again and again and never acknowledged",
}
"""Every reason for which an entry is refused, with the rule that it broke."""

VERSION = "1"

FUTURE_SECONDS = 300.0
"""How far an entry id may run ahead of our clock before it is taken for a wrong clock."""

_SLICE = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_ENTRY_ID = re.compile(rb"([0-9]{1,20})-([0-9]{1,20})")
_WHOLE = re.compile(rb"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class FieldMap:
    """Which stream field carries which part of the contract, so that a team keeps its existing stream."""

    query: str = "query"
    documents: str = "documents"
    slice: str = "slice"
    trace_id: str = "trace_id"
    session_id: str = "session_id"
    step: str = "step"
    top_k: str = "top_k"
    filter: str = "filter"
    encoder: str = "encoder"
    v: str = "v"

    def __post_init__(self) -> None:
        """Refuse two parts in one field, and nameless fields."""
        names = astuple(self)
        for name, value in zip((item.name for item in fields(self)), names, strict=True):
            if not value:
                msg = f"field map: {name} needs the name of a stream field"
                raise ConfigurationError(msg)
            if names.count(value) > 1:
                msg = f"field map: the stream field {value!r} is used twice; each part needs its own field"
                raise ConfigurationError(msg)


@dataclass(frozen=True, slots=True)
class EventLimits:
    """Bounds of one entry: bytes for texts as they arrive, counts for documents, seconds for the clock."""

    query_bytes: int = 8_192
    documents: int = 1_000
    documents_bytes: int = 262_144
    label_bytes: int = 256
    """`trace_id`, `session_id`, `encoder` and each document id."""
    top_k: int = 100_000
    future_seconds: float = FUTURE_SECONDS


class RawKeys(NamedTuple):
    """The stream field names as bytes, as they come from Redis."""

    query: bytes
    documents: bytes
    slice: bytes
    trace_id: bytes
    session_id: bytes
    step: bytes
    top_k: bytes
    filter: bytes
    encoder: bytes
    v: bytes


@lru_cache(maxsize=64)
def raw_keys(field_map: FieldMap) -> RawKeys:
    """Encode a field map once."""
    return RawKeys(*(name.encode() for name in astuple(field_map)))


class SliceRegistry:
    """The bounded set of slice names: configured ones first, then first come, first served, then `other`.

    `default` and `other` always exist and do not count. Names never leave the set while the process lives: a metric
    series that appears and disappears is worse than a coarse one.
    """

    def __init__(
        self, names: Iterable[str] = (), *, maximum: int = 20, on_new: Callable[[str], None] | None = None
    ) -> None:
        """Seed with `names` (they count); `on_new` hears of each name that a service brings."""
        self.maximum = maximum
        self._on_new = on_new
        self._known: dict[bytes, str] = {name.encode(): name for name in (DEFAULT_SLICE, OTHER_SLICE)}
        for name in names:
            if not valid_slice(name):
                msg = f"slice name {name!r}: 1 to 64 of A-Z a-z 0-9 _ . : / - and not {WHOLE_STREAM!r}"
                raise ConfigurationError(msg)
            self._known[name.encode()] = name
        if len(self._known) - 2 > maximum:
            msg = f"{len(self._known) - 2} slices are configured, but the maximum is {maximum}"
            raise ConfigurationError(msg)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that an event may end up with, in order of arrival."""
        return tuple(self._known.values())

    def adopt(self, names: Iterable[str]) -> None:
        """Take names that another replica or an earlier process accepted, as far as there is room."""
        for name in names:
            if valid_slice(name):
                self.resolve(name.encode())

    def resolve(self, raw: bytes | None) -> str | None:
        """Give the slice of a raw field, `other` when there is no room, None when the name breaks the rule."""
        if not raw:
            return DEFAULT_SLICE
        known = self._known.get(raw)
        if known is not None:
            return known
        name = raw[:65].decode("ascii", "replace")
        if not valid_slice(name):
            return None
        if len(self._known) - 2 >= self.maximum:
            return OTHER_SLICE
        self._known[raw] = name
        if self._on_new is not None:
            self._on_new(name)
        return name


def valid_slice(name: str) -> bool:
    """Tell whether a service may use this slice name."""
    return _SLICE.fullmatch(name) is not None and name != WHOLE_STREAM


def entry_time(entry_id: bytes, now: float, future_seconds: float = FUTURE_SECONDS) -> tuple[float, bool]:
    """Give the unix seconds of an entry id, and whether it was so far ahead that `now` stands in for it.

    An id from the future must not be refused: Redis gives every later entry of that stream a later id, so one service
    with a wrong clock would end the monitoring. It must not reach our clocks either.

    Raises EventError `bad_entry_id`.
    """
    match = _ENTRY_ID.fullmatch(entry_id)
    if match is None:
        _refuse("bad_entry_id")
    at = int(match[1]) / 1000
    return (now, True) if at > now + future_seconds else (at, False)


def parse(
    entry_id: bytes,
    entry: Mapping[bytes, bytes],
    *,
    now: float,
    slices: SliceRegistry,
    field_map: FieldMap = FieldMap(),
    limits: EventLimits = EventLimits(),
    weight: float = 1.0,
) -> QueryEvent:
    """Validate one stream entry against the contract.

    An optional field that is present but empty counts as absent. Raises EventError with a reason from `REASONS`, and
    nothing else, whatever the bytes are.
    """
    keys = raw_keys(field_map)
    version = entry.get(keys.v)
    if version and version != VERSION.encode():
        _refuse("unknown_version")
    at, _ = entry_time(entry_id, now, limits.future_seconds)
    slice_name = slices.resolve(entry.get(keys.slice))
    if slice_name is None:
        _refuse("bad_slice")
    return QueryEvent(
        entry_id=entry_id.decode(),
        query=_query(entry.get(keys.query), limits),
        at=at,
        slice=slice_name,
        weight=weight,
        served=_documents(entry.get(keys.documents), limits),
        trace_id=_label(entry.get(keys.trace_id), limits),
        session_id=_label(entry.get(keys.session_id), limits),
        step=_whole(entry.get(keys.step), 0, 10**9),
        top_k=_whole(entry.get(keys.top_k), 1, limits.top_k),
        filtered=bool(entry.get(keys.filter)),
        encoder=_label(entry.get(keys.encoder), limits),
    )


def _refuse(reason: str) -> NoReturn:
    # `from None`: the error beneath may quote the text that it could not decode.
    raise EventError(reason, REASONS[reason]) from None


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        _refuse("not_utf8")


def _query(raw: bytes | None, limits: EventLimits) -> str:
    if raw is None:
        _refuse("missing_query")
    if len(raw) > limits.query_bytes:
        _refuse("too_large")
    text = _text(raw)
    if not text.strip():
        _refuse("empty_query")
    return text


def _label(raw: bytes | None, limits: EventLimits) -> str | None:
    if not raw:
        return None
    if len(raw) > limits.label_bytes:
        _refuse("too_large")
    return _text(raw)


def _whole(raw: bytes | None, lowest: int, highest: int) -> int | None:
    if not raw:
        return None
    if _WHOLE.fullmatch(raw) is None or not lowest <= int(raw) <= highest:
        _refuse("bad_number")
    return int(raw)


def _documents(raw: bytes | None, limits: EventLimits) -> Ranking | None:
    if not raw:
        return None
    if len(raw) > limits.documents_bytes:
        _refuse("too_large")
    try:
        items = json.loads(_text(raw))
        if not isinstance(items, list) or len(items) > limits.documents:
            _refuse("bad_documents")
        pairs: dict[str, float | None] = {}
        for item in items:
            name, score = _document(item, limits)
            # A service that serves several chunks of one document names it several times: its best place counts.
            pairs.setdefault(name, score)
    except (ValueError, OverflowError, RecursionError):
        _refuse("bad_documents")
    scores = [score for score in pairs.values() if score is not None]
    return Ranking(tuple(pairs), tuple(scores) if pairs and len(scores) == len(pairs) else None)


def _document(item: object, limits: EventLimits) -> tuple[str, float | None]:
    """Give id and score of one served document; ValueError and OverflowError are the caller's `bad_documents`."""
    name, score = (item.get("id"), item.get("score")) if isinstance(item, dict) else (item, None)
    # `encode` also refuses the lone surrogates that JSON escapes can smuggle in and that Redis could not take back.
    if not isinstance(name, str) or not 0 < len(name.encode()) <= limits.label_bytes:
        _refuse("bad_documents")
    if score is None:
        return name, None
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        _refuse("bad_documents")
    return name, float(score)
