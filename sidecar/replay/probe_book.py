"""The frozen probes as they are kept: live queries, the answers of the accepted stack, and what is kept of the text.

Query text is sensitive. Either it is kept encrypted, with a key from a file that Redis never sees, or it is not kept at
all: then a probe has only a keyed digest of its text and sleeps until the same query comes by again. Rankings are
document ids and scores. Nothing here has an effect; Redis is `store`'s business and replaying that of `frozen`.
"""

from __future__ import annotations

import json
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import asdict, astuple, dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

from sidecar.drift.paired import NoiseFloor
from sidecar.errors import ConfigurationError, StoreError
from sidecar.model import Ranking, Stack
from sidecar.replay.known_documents import KnownDocuments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Side = Literal["deployed", "reference"]
SIDES: tuple[Side, Side] = ("deployed", "reference")

FORMAT = 1
KEY_BYTES = 32


class TextKey:
    """A secret of 32 bytes: names texts by digests and, if it came from a file, encrypts them (Fernet).

    Without a file the secret is a random salt that lies in Redis beside the digests. It keeps digests of two
    deployments apart and tables made beforehand useless; who reads Redis can still try guessed texts against it.
    """

    def __init__(self, secret: bytes, *, from_file: bool = False) -> None:
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a key has {len(secret)} bytes; rule: {KEY_BYTES}")
        self.from_file = from_file
        self.name = blake2b(key=secret, digest_size=4, person=b"key name").hexdigest()
        """Says which key it is, and nothing about it."""
        self._secret = secret
        self._keyed = blake2b(key=secret, digest_size=16, person=b"frozen probe").copy

    @classmethod
    def read(cls, file: Path) -> TextKey:
        """Read a key file: 32 bytes in URL-safe base64, as `Fernet.generate_key` makes them.

        Raises:
            ConfigurationError: the file cannot be read or holds something else.
        """
        try:
            secret = urlsafe_b64decode(file.read_bytes().strip())
            return cls(secret, from_file=True)
        except OSError as error:
            raise ConfigurationError(f"frozen.key_file: {file} cannot be read: {error.strerror}") from None
        except ValueError:
            raise ConfigurationError(
                f"frozen.key_file: {file} holds no key; rule: {KEY_BYTES} random bytes in URL-safe base64"
            ) from None

    @property
    def salt(self) -> bytes | None:
        """Give the secret if it is a salt, which lies beside what it names."""
        return None if self.from_file else self._secret

    def digest(self, text: str) -> str:
        """Name a text: 128 bits in hex, the same at every repetition."""
        digest = self._keyed()
        digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def encrypt(self, texts: Sequence[str]) -> bytes:
        """Encrypt texts; for a key from a file."""
        token: bytes = self._fernet().encrypt(zlib.compress(json.dumps(texts).encode()))
        return token

    def decrypt(self, token: bytes) -> list[str]:
        """Give the texts of `encrypt`.

        Raises:
            ValueError: it is something else, or was encrypted with another key.
        """
        from cryptography.fernet import InvalidToken  # noqa: PLC0415  (only where texts are encrypted)

        try:
            return list(json.loads(zlib.decompress(self._fernet().decrypt(token))))
        except (InvalidToken, zlib.error):
            raise ValueError("the texts cannot be decrypted") from None

    def _fernet(self) -> Any:
        from cryptography.fernet import Fernet  # noqa: PLC0415  (only where texts are encrypted)

        return Fernet(urlsafe_b64encode(self._secret))


@dataclass(frozen=True, slots=True)
class Probe:
    """A frozen query with its accepted answers. `text` is None while it is not known here."""

    digest: str
    slice: str
    deployed: Ranking
    reference: Ranking
    text: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class AtRest:
    """What one retriever was like at acceptance.

    `floor` is None when asking again gave the very same answers; `documents` is None where they were not kept.
    """

    floor: NoiseFloor | None
    documents: KnownDocuments | None


@dataclass(frozen=True, slots=True, eq=False)
class Book:
    """All frozen probes of one acceptance, in the order of their digests; `floor.level` has that order too.

    `id` differs between any two books. `accepted_at` names the acceptance, `taken_at` is when the probes were asked
    (unix seconds), `k` the depth.
    """

    id: str
    accepted_at: float
    taken_at: float
    stack: Stack
    k: int
    probes: tuple[Probe, ...]
    deployed: AtRest
    reference: AtRest

    def to_fields(self, key: TextKey, *, encrypted: bool) -> dict[str, bytes]:
        """Give it as named values; the texts only if they are to be encrypted, and then all of them."""
        header = {
            "format": FORMAT,
            "id": self.id,
            "accepted_at": self.accepted_at,
            "taken_at": self.taken_at,
            "stack": astuple(self.stack),
            "k": self.k,
            "key": key.name,
            "key_from_file": key.from_file,
            "floors": [None if one.floor is None else asdict(one.floor) for one in (self.deployed, self.reference)],
        }
        rankings = [(one.digest, one.slice, *_packed(one.deployed), *_packed(one.reference)) for one in self.probes]
        fields = {"id": self.id.encode(), "header": _json(header), "probes": zlib.compress(_json(rankings))}
        if (salt := key.salt) is not None:
            fields["salt"] = salt
        if encrypted:
            texts = [one.text for one in self.probes]
            if any(text is None for text in texts):
                raise ValueError("a probe without its text; rule: encrypted probes have theirs")
            fields["texts"] = key.encrypt([text for text in texts if text is not None])
        for name, rest in (("deployed", self.deployed), ("reference", self.reference)):
            if rest.documents is not None:
                fields[f"known_{name}"] = rest.documents.to_bytes()
        return fields

    @classmethod
    def from_fields(cls, fields: Mapping[str, bytes], key: TextKey) -> Book:
        """Read what `to_fields` gave, with the texts if they were encrypted.

        Raises:
            ConfigurationError: the probes belong to another key file.
            StoreError: they cannot be read.
        """
        try:
            return cls._read(fields, key)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, zlib.error) as error:
            raise StoreError(f"the frozen probes in Redis cannot be read: {type(error).__name__}: {error}") from None

    @classmethod
    def _read(cls, fields: Mapping[str, bytes], key: TextKey) -> Book:
        header = json.loads(fields["header"])
        if header["format"] != FORMAT:
            raise ValueError("another format")
        if header["key"] != key.name:
            if not header["key_from_file"]:  # a key file is new here: these probes can only be taken anew
                raise ValueError("probes without a key file")
            ours = f"its key is {key.name}" if key.from_file else "it is not set"
            raise ConfigurationError(
                f"frozen.key_file: {ours}, the frozen probes in Redis belong to the key {header['key']}; give that key "
                "file, or delete the probes (the Redis key `frozen`) to have them taken again"
            )
        rows = json.loads(zlib.decompress(fields["probes"]))
        texts: Sequence[str | None] = key.decrypt(fields["texts"]) if "texts" in fields else [None] * len(rows)
        probes = tuple(
            Probe(digest, name, _unpacked(ids, scores), _unpacked(reference_ids, reference_scores), text)
            for (digest, name, ids, scores, reference_ids, reference_scores), text in zip(rows, texts, strict=True)
        )
        rest = {}
        for name, floor in zip(("deployed", "reference"), header["floors"], strict=True):
            known = fields.get(f"known_{name}")
            rest[name] = AtRest(
                None if floor is None else NoiseFloor(**{**floor, "level": tuple(floor["level"])}),
                None if known is None else KnownDocuments.from_bytes(known),
            )
        for one in rest.values():
            if one.floor is not None and len(one.floor.level) != len(probes):
                raise ValueError("a noise floor of other probes")
        return cls(
            id=header["id"],
            accepted_at=float(header["accepted_at"]),
            taken_at=float(header["taken_at"]),
            stack=Stack(*header["stack"]),
            k=int(header["k"]),
            probes=probes,
            **rest,
        )


def _packed(ranking: Ranking) -> tuple[tuple[str, ...], list[float] | None]:
    return ranking.ids, None if ranking.scores is None else [round(score, 6) for score in ranking.scores]


def _unpacked(ids: Sequence[str], scores: Sequence[float] | None) -> Ranking:
    return Ranking(tuple(ids), None if scores is None else tuple(scores))


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
