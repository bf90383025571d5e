"""The kept probes: what comes back, what of a text is in them, and which key opens them."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
from cryptography.fernet import Fernet

from sidecar.drift.paired import noise_floor
from sidecar.errors import ConfigurationError, StoreError
from sidecar.model import Ranking, Stack
from sidecar.replay.known_documents import KnownDocuments
from sidecar.replay.probe_book import KEY_BYTES, AtRest, Book, Probe, TextKey

TEXTS = ("how do I reset the alarm in room 7", "¿dónde está el contrato de la señora Ibáñez?", "lone surrogate \ud800")
SALT = TextKey(b"s" * KEY_BYTES)


@pytest.fixture
def key_file(tmp_path):
    """Write a key file as an operator would."""
    file = tmp_path / "key"
    file.write_bytes(Fernet.generate_key() + b"\n")
    return file


def book(key: TextKey, *, texts=True, floor=None) -> Book:
    """Make a book of a few probes."""
    documents = KnownDocuments(np.array([3, 70_000, 2**32 - 1], dtype=np.uint32))
    probes = tuple(
        Probe(
            key.digest(text),
            "legal",
            Ranking(("d1", "d2"), (0.5, 0.25)),
            Ranking(("d2",)),
            text if texts else None,
        )
        for text in TEXTS
    )
    return Book("b1", 10.25, 11.5, Stack("a", "b", "c", "d"), 2, probes, AtRest(floor, documents), AtRest(None, None))


def same(one: Book, other: Book) -> bool:
    """Compare everything but the arrays' identities."""
    documents = [
        (None if side.documents is None else side.documents.hashes.tolist(), side.floor)
        for each in (one, other)
        for side in (each.deployed, each.reference)
    ]
    names = ("id", "accepted_at", "taken_at", "stack", "k", "probes")
    return documents[:2] == documents[2:] and all(getattr(one, name) == getattr(other, name) for name in names)


def contents(fields) -> bytes:
    """Give all that is readable in the fields, deflated parts inflated."""
    plain = [
        value if name in {"id", "header", "texts", "salt"} else zlib.decompress(value) for name, value in fields.items()
    ]
    return b"\n".join(plain)


def test_encrypted_probes_come_back_whole(key_file):
    """With the key, everything is there again, texts included, and nothing of them can be read without it."""
    key = TextKey.read(key_file)
    floor = noise_floor([[1.0, 0.5, 1.0], [0.5, 0.5, 1.0]])
    fields = book(key, floor=floor).to_fields(key, encrypted=True)
    assert same(Book.from_fields(fields, TextKey.read(key_file)), book(key, floor=floor))
    assert not any(word.encode() in contents(fields) for text in TEXTS[:2] for word in text.split() if len(word) > 4)
    assert "salt" not in fields


def test_probes_without_texts_come_back_asleep():
    """Where texts are not kept, digests and rankings come back, the texts do not."""
    fields = book(SALT).to_fields(SALT, encrypted=False)
    assert same(Book.from_fields(fields, TextKey(fields["salt"])), book(SALT, texts=False))
    assert "texts" not in fields
    assert not any(word.encode() in contents(fields) for text in TEXTS[:2] for word in text.split() if len(word) > 4)


def test_another_key_is_refused_by_name_and_says_what_to_do(key_file, tmp_path):
    """A wrong key file, or none where there was one, is the operator's mistake."""
    key = TextKey.read(key_file)
    other = tmp_path / "other"
    other.write_bytes(Fernet.generate_key())
    for encrypted in (True, False):
        fields = book(key).to_fields(key, encrypted=encrypted)
        with pytest.raises(ConfigurationError, match=f"frozen.key_file: .* belong to the key {key.name}"):
            Book.from_fields(fields, TextKey.read(other))
        with pytest.raises(ConfigurationError, match=r"frozen.key_file: it is not set, .* delete the probes"):
            Book.from_fields(fields, SALT)


def test_probes_of_a_salt_are_set_aside_when_a_key_file_comes(key_file):
    """They cannot be named with the new key, and are no reason to stop: they can be taken again."""
    with pytest.raises(StoreError, match="without a key file"):
        Book.from_fields(book(SALT).to_fields(SALT, encrypted=False), TextKey.read(key_file))


@pytest.mark.parametrize("content", [b"", b"short", b"!" * 44, b"QUJD" * 9, b"\xff" * 44])
def test_a_file_that_holds_no_key_is_refused(tmp_path, content):
    """The message names the file and the rule, not the content."""
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(
        ConfigurationError, match=r"frozen.key_file: .*key holds no key; rule: 32 random bytes"
    ) as error:
        TextKey.read(file)
    assert not content or content.decode("latin-1") not in str(error.value)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        TextKey.read(tmp_path / "absent")


def test_damaged_probes_are_refused(key_file):
    """Whatever is missing, cut off or of another format is a StoreError that quotes no text."""
    key = TextKey.read(key_file)
    good = book(key).to_fields(key, encrypted=True)
    header = json.loads(good["header"])
    damaged = [
        {name: value for name, value in good.items() if name != "header"},
        {**good, "header": b"{"},
        {**good, "header": b"[]"},
        {**good, "header": json.dumps({**header, "format": 0}).encode()},
        {**good, "header": json.dumps({**header, "floors": [None]}).encode()},
        {
            **good,
            "header": json.dumps(
                {**header, "floors": [{"replays": 2, "level": [1.0], "variance": 0.0, "jump": 0.0}, None]}
            ).encode(),
        },
        {**good, "probes": good["probes"][:-4]},
        {**good, "probes": zlib.compress(b"[[1]]")},
        {**good, "texts": good["texts"][:-4]},
        {**good, "texts": key.encrypt(["one"])},
        {**good, "known_deployed": b"x"},
    ]
    for fields in damaged:
        with pytest.raises(StoreError, match="frozen probes in Redis cannot be read") as error:
            Book.from_fields(fields, key)
        assert "reset" not in str(error.value)


def test_a_digest_needs_the_key_and_the_text_stays_hidden():
    """Equal texts have equal digests under one key and others under another; no repr shows a text."""
    assert SALT.digest(TEXTS[0]) == TextKey(b"s" * KEY_BYTES).digest(TEXTS[0])
    assert len({SALT.digest(text) for text in TEXTS} | {TextKey(b"t" * KEY_BYTES).digest(text) for text in TEXTS}) == 6
    assert "alarm" not in repr(book(SALT)) + repr(SALT)
    with pytest.raises(ValueError, match="rule: 32"):
        TextKey(b"short")
    with pytest.raises(ValueError, match="without its text"):
        book(SALT, texts=False).to_fields(TextKey(b"f" * KEY_BYTES, from_file=True), encrypted=True)
