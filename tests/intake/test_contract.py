"""The event contract: what is accepted, what is refused and for which reason. No Redis here."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigurationError, EventError
from sidecar.intake import REASONS, EventLimits, FieldMap, SliceRegistry, parse
from sidecar.intake.events import entry_time
from sidecar.model import QueryEvent, Ranking

NOW = 1_800_000_000.0
ID = b"1799999999500-3"
TEXT = b"where is my parcel, Ada Lovelace?"


def event(**fields):
    """Parse an entry of these fields, with a good query unless one is given."""
    entry = {b"query": TEXT, **{name.encode(): value for name, value in fields.items()}}
    return parse(
        ID,
        {name: value for name, value in entry.items() if value is not None},
        now=NOW,
        slices=SliceRegistry(),
    )


def test_a_full_entry_becomes_an_event():
    """Every field of the contract arrives in the event."""
    found = event(
        v=b"1", slice=b"tenant/a", trace_id=b"t1", session_id=b"s1", step=b"3", top_k=b"20", filter=b"lang=en",
        encoder=b"minilm@7", documents=b'[{"id":"a","score":0.5},{"id":"b","score":1}]',
    )  # fmt: skip
    assert found == QueryEvent(
        entry_id="1799999999500-3", query=TEXT.decode(), at=1_799_999_999.5, slice="tenant/a", weight=1.0,
        served=Ranking(("a", "b"), (0.5, 1.0)), trace_id="t1", session_id="s1", step=3, top_k=20, filtered=True,
        encoder="minilm@7",
    )  # fmt: skip


def test_a_query_alone_is_enough():
    """All other fields are optional."""
    found = event()
    assert (found.slice, found.served, found.filtered, found.step) == ("default", None, False, None)


def test_empty_optional_fields_count_as_absent():
    """A service that writes empty strings for what it does not know is understood."""
    names = ("v", "slice", "trace_id", "session_id", "step", "top_k", "filter", "encoder", "documents")
    assert event(**dict.fromkeys(names, b"")) == event()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"query": None}, "missing_query", id="no query"),
        pytest.param({"query": b""}, "empty_query", id="empty query"),
        pytest.param({"query": b" \t\n\xc2\xa0"}, "empty_query", id="blank query"),
        pytest.param({"query": b"caf\xe9"}, "not_utf8", id="latin-1 query"),
        pytest.param({"query": b"\xed\xa0\x80"}, "not_utf8", id="surrogate query"),
        pytest.param({"query": b"q" * 8_193}, "too_large", id="8 KiB and one byte"),
        pytest.param({"query": b"q" * 10_000_000}, "too_large", id="10 MB query"),
        pytest.param({"session_id": b"s" * 257}, "too_large", id="long session"),
        pytest.param({"trace_id": b"\xff"}, "not_utf8", id="trace not utf-8"),
        pytest.param({"encoder": b"\xff"}, "not_utf8", id="encoder not utf-8"),
        pytest.param({"v": b"2"}, "unknown_version", id="version 2"),
        pytest.param({"v": b"1.0"}, "unknown_version", id="version 1.0"),
        pytest.param({"slice": b"all"}, "bad_slice", id="reserved slice"),
        pytest.param({"slice": b"a b"}, "bad_slice", id="slice with blank"),
        pytest.param({"slice": b"a" * 65}, "bad_slice", id="long slice"),
        pytest.param({"slice": b"\xff"}, "bad_slice", id="slice not ascii"),
        pytest.param({"slice": b"a\n"}, "bad_slice", id="slice with newline"),
        pytest.param({"step": b"-1"}, "bad_number", id="negative step"),
        pytest.param({"step": b"1.5"}, "bad_number", id="fractional step"),
        pytest.param({"step": "٣".encode()}, "bad_number", id="arabic digit"),
        pytest.param({"step": b"9" * 5_000}, "bad_number", id="step of 5,000 digits"),
        pytest.param({"top_k": b"0"}, "bad_number", id="top_k 0"),
        pytest.param({"top_k": b"100001"}, "bad_number", id="top_k too large"),
        pytest.param({"documents": b"["}, "bad_documents", id="broken json"),
        pytest.param({"documents": b"{}"}, "bad_documents", id="object"),
        pytest.param({"documents": b"[1]"}, "bad_documents", id="number as id"),
        pytest.param({"documents": b'[""]'}, "bad_documents", id="empty id"),
        pytest.param({"documents": b'["\\ud800"]'}, "bad_documents", id="lone surrogate"),
        pytest.param({"documents": b'[{"score":1}]'}, "bad_documents", id="no id"),
        pytest.param({"documents": b'[{"id":"a","score":NaN}]'}, "bad_documents", id="nan"),
        pytest.param({"documents": b'[{"id":"a","score":-Infinity}]'}, "bad_documents", id="infinity"),
        pytest.param({"documents": b'[{"id":"a","score":1e999}]'}, "bad_documents", id="overflowing float"),
        pytest.param({"documents": b'[{"id":"a","score":1' + b"0" * 400 + b"}]"}, "bad_documents", id="huge int"),
        pytest.param({"documents": b'[{"id":"a","score":1' + b"0" * 5_000 + b"}]"}, "bad_documents", id="huger int"),
        pytest.param({"documents": b'[{"id":"a","score":true}]'}, "bad_documents", id="bool"),
        pytest.param({"documents": b'[{"id":"a","score":"1"}]'}, "bad_documents", id="text score"),
        pytest.param({"documents": b"[" * 200_000}, "bad_documents", id="deep nesting"),
        pytest.param({"documents": b'["\xff"]'}, "not_utf8", id="documents not utf-8"),
        pytest.param({"documents": json.dumps(["d"] * 1_001).encode()}, "bad_documents", id="1,001 documents"),
        pytest.param({"documents": b'["' + b"d" * 262_144 + b'"]'}, "too_large", id="256 KiB of documents"),
    ],
)
def test_what_breaks_the_contract_is_refused_with_its_reason(fields, reason):
    """Each kind of broken entry has one reason, and the message carries nothing of what was sent."""
    with pytest.raises(EventError) as caught:
        event(**fields)
    assert caught.value.reason == reason
    assert str(caught.value) == REASONS[reason]
    assert caught.value.__cause__ is None


def test_a_query_of_exactly_8_kib_is_taken():
    """The bound is inclusive."""
    assert len(event(query=b"q" * 8_192).query) == 8_192


def test_the_order_of_the_service_is_kept_and_repeated_documents_keep_their_best_place():
    """Scores do not reorder what the service served; a document served as several chunks counts once."""
    found = event(documents=b'[{"id":"b","score":0.1},{"id":"a","score":0.9},{"id":"b","score":0.05}]')
    assert found.served == Ranking(("b", "a"), (0.1, 0.9))


@pytest.mark.parametrize(
    "documents", [b'["a","b"]', b'[{"id":"a"},{"id":"b","score":1}]', b'["a",{"id":"b","score":1}]']
)
def test_scores_are_kept_only_if_every_document_has_one(documents):
    """A half-scored list is a list of ids."""
    assert event(documents=documents).served == Ranking(("a", "b"))


def test_an_empty_list_of_documents_is_an_empty_ranking():
    """Serving nothing differs from not saying what was served."""
    assert event(documents=b"[]").served == Ranking(())


@pytest.mark.parametrize(("ahead", "skewed"), [(0.0, False), (299.0, False), (301.0, True), (1e9, True)])
def test_an_id_from_the_future_is_taken_with_our_time(ahead, skewed):
    """A clock far ahead of ours is replaced by ours instead of being refused."""
    entry_id = b"%d-0" % ((NOW + ahead) * 1000)
    assert entry_time(entry_id, NOW) == (NOW if skewed else NOW + ahead, skewed)
    assert parse(entry_id, {b"query": b"q"}, now=NOW, slices=SliceRegistry()).at <= NOW + 300


def test_the_largest_id_is_taken():
    """The last id that Redis can give does not overflow anything."""
    assert entry_time(b"18446744073709551615-18446744073709551615", NOW) == (NOW, True)


def test_an_event_does_not_show_its_query():
    """A repr ends up in logs."""
    assert "Lovelace" not in repr(event())


def test_a_field_map_lets_a_team_keep_its_stream():
    """Other field names carry the same contract."""
    field_map = FieldMap(query="gen_ai.retrieval.query.text", top_k="gen_ai.request.top_k")
    entry = {
        b"gen_ai.retrieval.query.text": b"q",
        b"gen_ai.request.top_k": b"5",
        b"query": b"another meaning",
    }
    found = parse(ID, entry, now=NOW, slices=SliceRegistry(), field_map=field_map)
    assert (found.query, found.top_k) == ("q", 5)


@pytest.mark.parametrize("names", [{"query": ""}, {"query": "slice"}])
def test_a_field_map_that_cannot_work_is_refused(names):
    """Two parts cannot share a field, and no part is nameless."""
    with pytest.raises(ConfigurationError, match="field map"):
        FieldMap(**names)


def test_slices_are_first_come_first_served_up_to_the_maximum():
    """Configured names are always there; what comes after the last free place is `other`."""
    heard = []
    slices = SliceRegistry(["gold"], maximum=2, on_new=heard.append)
    assert [slices.resolve(raw) for raw in (b"silver", b"bronze", b"gold", b"silver", None, b"other", b"default")] == [
        "silver", "other", "gold", "silver", "default", "other", "default",
    ]  # fmt: skip
    assert heard == ["silver"]
    assert slices.names == ("default", "other", "gold", "silver")


def test_a_registry_adopts_names_that_were_accepted_before():
    """After a restart the same names are known, and bad ones are passed over."""
    slices = SliceRegistry(maximum=2)
    slices.adopt(["a", "all", "b c", "b", "d"])
    assert slices.names == ("default", "other", "a", "b")


@pytest.mark.parametrize("names", [["all"], ["a b"], ["a", "b", "c"]])
def test_configured_slices_are_checked(names):
    """A configured name must be one that a service may use, and there must be room."""
    with pytest.raises(ConfigurationError, match="slice"):
        SliceRegistry(names, maximum=2)


FIELD_NAMES = [name.encode() for name in FieldMap.__slots__]
# A small alphabet with what hurts: blanks, NUL, quotes, two to four byte characters, a lone surrogate.
TEXTS = st.text(alphabet='a1:/ \t\n\0"\\é中🙂\ud800', max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "score"]), inner),
    max_leaves=6,
)
VALUES = st.one_of(
    st.binary(max_size=80),
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.integers().map(lambda number: b"%d" % number),
    st.sampled_from([b"1", b"2", b"all", b"other"]),
    JSON.map(lambda value: json.dumps(value).encode()),
)
ENTRIES = st.dictionaries(st.sampled_from(FIELD_NAMES) | st.binary(max_size=10), VALUES, max_size=8)
IDS = st.builds(lambda ms, seq: b"%d-%d" % (ms, seq), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


@given(IDS | st.binary(max_size=30), ENTRIES)
def test_any_bytes_give_an_event_or_a_reason(entry_id, entry):
    """Nothing that a service can write raises anything else, and what is taken can be written back."""
    limits = EventLimits(query_bytes=60, documents=3)
    try:
        found = parse(entry_id, entry, now=NOW, slices=SliceRegistry(maximum=1), limits=limits)
    except EventError as error:
        refused = error
    else:
        assert found.at <= NOW + 300
        assert found.query.strip()
        for document in found.served.ids if found.served else ():
            assert document.encode()
        return
    assert str(refused) == REASONS[refused.reason]
