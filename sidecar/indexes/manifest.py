"""What an index on disk says of itself, so that a wrong or half index is refused by name and not searched.

The manifest is the last thing that a build puts in place and the first that a reader opens: an index is what
its manifest says, and a folder without one is no index. Reading the vectors is `exact`'s business, writing
them `build`'s.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from sidecar.errors import VectorIndexError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The facts of one built index.

    `generation` is a short digest of ids and vectors and names the data files; `encoder_digest` and
    `document_digest` are those of the encoder that made the vectors; checksums are SHA-256 in hex
    (`corpus_sha256` is "" where there was no corpus file); `largest_norm` bounds the error of float32 scores;
    `created_at` is unix seconds.
    """

    generation: str
    encoder: str
    encoder_digest: str
    document_digest: str
    documents: int
    dimension: int
    vectors_sha256: str
    ids_sha256: str
    corpus_sha256: str
    largest_norm: float
    created_at: float
    dtype: str = "float32"
    format: int = FORMAT

    @property
    def vectors_file(self) -> str:
        """Give the name of the matrix file: `documents` x `dimension` little-endian float32, no header."""
        return f"vectors-{self.generation}.f32"

    @property
    def ids_file(self) -> str:
        """Give the name of the id list: one JSON string a line, line i for row i."""
        return f"ids-{self.generation}.jsonl"

    @property
    def encoder_file(self) -> str:
        """Give the name of the file with the encoder's fingerprint."""
        return f"encoder-{self.generation}.fingerprint"

    @property
    def files(self) -> tuple[str, str, str]:
        """Give the names of all data files."""
        return (self.vectors_file, self.ids_file, self.encoder_file)

    def write(self, folder: Path) -> None:
        """Put the manifest into `folder` in one atomic step; readers get the new index from then on."""
        write_atomically(folder / MANIFEST_FILE, json.dumps(asdict(self), indent=2).encode() + b"\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of the index in `folder`.

        Raises `VectorIndexError` when it is missing, is not JSON, is of another format, or lacks a key.
        """
        place = folder / MANIFEST_FILE
        try:
            content = json.loads(place.read_bytes())
        except FileNotFoundError as error:
            msg = f"no vector index in {folder}: no {MANIFEST_FILE}; make one with `rag-drift index build`"
            raise VectorIndexError(msg) from error
        except OSError as error:
            msg = f"{place} cannot be read: {error.strerror}"
            raise VectorIndexError(msg) from error
        except ValueError as error:
            msg = f"{place} is not JSON: {error}"
            raise VectorIndexError(msg) from error
        return cls._from_json(content, place)

    @classmethod
    def _from_json(cls, content: Any, place: Path) -> Manifest:
        if not isinstance(content, dict):
            msg = f"{place} holds {type(content).__name__}; rule: a JSON object"
            raise VectorIndexError(msg)
        if content.get("format") != FORMAT:
            msg = f"{place} has format {content.get('format')!r}; rule: format {FORMAT} (build the index again)"
            raise VectorIndexError(msg)
        values: dict[str, Any] = {}
        for wanted in fields(cls):
            if wanted.name not in content:
                msg = f"{place} lacks the key {wanted.name!r}"
                raise VectorIndexError(msg)
            value = content[wanted.name]
            kinds = {"str": (str,), "int": (int,), "float": (int, float)}[str(wanted.type)]
            if isinstance(value, bool) or not isinstance(value, kinds):
                msg = f"{place}, key {wanted.name!r} is {value!r}; rule: {wanted.type}"
                raise VectorIndexError(msg)
            values[wanted.name] = value
        manifest = cls(**values)
        if manifest.dtype != "float32" or manifest.documents < 1 or manifest.dimension < 1:
            shape = f"{manifest.documents} x {manifest.dimension} {manifest.dtype}"
            msg = f"{place} describes {shape}; rule: float32, at least 1 x 1"
            raise VectorIndexError(msg)
        if not manifest.generation.isalnum():
            # It becomes part of file names, which must stay inside the folder.
            msg = f"{place}, key 'generation' is {manifest.generation!r}; rule: letters and digits"
            raise VectorIndexError(msg)
        return manifest


def write_atomically(place: Path, data: bytes) -> None:
    """Write `data` so that `place` has its old content or all of the new, even after a loss of power."""
    beside = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(place)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    sync_folder(place.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
