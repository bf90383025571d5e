"""Build an index from a corpus in BEIR layout: streaming, resumable after a kill, never half visible.

A first pass reads the corpus to its end, so that a broken line is refused before the first minute of
encoding; a second pass encodes shard by shard into a working folder beside the target. After each shard the
progress is put on disk; a build that finds progress of the same corpus and the same encoder goes on from
there. `write.install` publishes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from sidecar.encoders.fingerprint import Fingerprint, matches_documents
from sidecar.errors import ConfigurationError, DataError, EncoderError, VectorIndexError
from sidecar.indexes.manifest import Manifest, write_atomically
from sidecar.indexes.write import append_vectors, id_lines, install, remove_folder, write_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sidecar.encoders.protocol import Encoder, Vectors

__all__ = ["build_index", "working_folder", "write_index"]

PROGRESS_FILE = "progress.json"
FINGERPRINT_FILE = "encoder.fingerprint"
VECTORS_FILE = "vectors"
IDS_FILE = "ids"


@dataclass(frozen=True, slots=True)
class _Document:
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far the working folder is good: everything behind these positions is cut off on resuming."""

    corpus_sha256: str
    documents: int = 0
    corpus_bytes: int = 0
    lines: int = 0
    ids_bytes: int = 0
    largest_norm: float = 0.0


def build_index(
    corpus: Path,
    encoder: Encoder,
    target: Path,
    *,
    fingerprint: Fingerprint,
    now: float,
    batch_size: int = 16,
    shard_size: int = 2048,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Encode the corpus with `encoder` and put the index into the folder `target`, replacing what it held.

    `corpus` is a `corpus.jsonl` of BEIR layout (`_id`, `title`, `text`) or a folder that holds one; title and
    text are joined by a newline. `fingerprint` is that of `encoder`. `progress` is called with (documents
    done, documents in all), first with what an earlier build left. `batch_size` bounds the texts per call of
    the encoder, `shard_size` the texts in memory and the work that a kill can cost.

    Raises `DataError` naming file, line and rule for a corpus that breaks one, `EncoderError` when encoding
    fails, and `VectorIndexError` when the folder cannot be written or another build is at work on it.
    """
    if batch_size < 1 or shard_size < 1:
        msg = f"batch_size is {batch_size} and shard_size {shard_size}; rule: at least 1 each"
        raise ConfigurationError(msg)
    file = corpus / "corpus.jsonl" if corpus.is_dir() else corpus
    total, checksum = _survey(file)
    folder = working_folder(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_build(folder, target):
            done = _resume(folder, checksum, fingerprint)
            report = progress or (lambda _done, _total: None)
            report(done.documents, total)
            with file.open("rb") as lines:
                lines.seek(done.corpus_bytes)
                documents = read_documents(lines, file, done.lines)
                while shard := list(islice(documents, shard_size)):
                    vectors = _encode(encoder, [one.text for _, one in shard], batch_size)
                    done = _append(folder, done, shard, vectors, lines.tell())
                    report(done.documents, total)
            if done.documents != total:
                msg = f"{file} changed while it was read: {total} documents at first, {done.documents} then"
                raise DataError(msg)
            manifest = install(
                folder / VECTORS_FILE,
                folder / IDS_FILE,
                target,
                encoder_name=encoder.name,
                fingerprint=fingerprint,
                documents=done.documents,
                largest_norm=done.largest_norm,
                corpus_sha256=checksum,
                now=now,
            )
            remove_folder(folder)
    except OSError as error:
        msg = f"the index cannot be built in {folder}: {error.strerror}"
        raise VectorIndexError(msg) from error
    return manifest


def working_folder(target: Path) -> Path:
    """Give the folder in which an index for `target` is built: beside it, so that publishing is a rename."""
    return target.with_name(f".{target.name}.building")


def _survey(file: Path) -> tuple[int, str]:
    """Read the whole corpus once: number of documents and SHA-256; `DataError` for the first broken rule."""
    digest = hashlib.sha256()
    seen: set[bytes] = set()
    try:
        with file.open("rb") as lines:
            for number, document in read_documents(lines, file, 0, digest.update):
                # Digests, because a corpus' ids can be longer than all else that a build holds in memory.
                key = hashlib.blake2b(document.id.encode(), digest_size=16).digest()
                if key in seen:
                    msg = f"{file}, line {number}: id {document.id!r} was used before; rule: ids are unique"
                    raise DataError(msg)
                seen.add(key)
    except OSError as error:
        msg = f"{file} cannot be read: {error.strerror}; rule: a corpus.jsonl of BEIR layout, or its folder"
        raise DataError(msg) from error
    if not seen:
        msg = f"{file} has no documents; rule: at least one"
        raise DataError(msg)
    return len(seen), digest.hexdigest()


def read_documents(
    lines: BinaryIO, file: Path, before: int, seen: Callable[[bytes], None] | None = None
) -> Iterator[tuple[int, _Document]]:
    """Give (line number, document) from an open corpus; blank lines are passed over."""
    number = before
    # `readline` and not iteration: iterating reads ahead, and `tell` must be the end of the line that was
    # given.
    while line := lines.readline():
        number += 1
        if seen is not None:
            seen(line)
        if line.strip():
            yield number, _parse(line, f"{file}, line {number}")


def _parse(line: bytes, where: str) -> _Document:
    try:
        content = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        msg = f"{where}: not UTF-8"
        raise DataError(msg) from error
    except (ValueError, RecursionError) as error:
        msg = f"{where}: not JSON ({getattr(error, 'msg', error)})"
        raise DataError(msg) from error
    if not isinstance(content, dict):
        msg = f"{where}: {type(content).__name__}; rule: a JSON object"
        raise DataError(msg)
    for key in ("_id", "text"):
        if key not in content:
            msg = f"{where}: lacks the key {key!r}"
            raise DataError(msg)
    identifier, text, title = content["_id"], content["text"], content.get("title") or ""
    for key, value in (("_id", identifier), ("text", text), ("title", title)):
        if not isinstance(value, str):
            msg = f"{where}: {key!r} is {type(value).__name__}; rule: a string"
            raise DataError(msg)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            msg = f"{where}: {key!r} holds half of a surrogate pair; rule: valid Unicode"
            raise DataError(msg) from error
    if not identifier:
        msg = f"{where}: '_id' is empty; rule: a string of at least one character"
        raise DataError(msg)
    return _Document(identifier, f"{title}\n{text}" if title else text)


def _encode(encoder: Encoder, texts: list[str], batch_size: int) -> Vectors:
    """Encode a shard by ascending length, so that a batch has little padding; equal texts once."""
    unique = sorted(set(texts), key=lambda text: (len(text), text))
    rows = {text: row for row, text in enumerate(unique)}
    encoded = np.concatenate(
        [encoder.encode_documents(unique[at : at + batch_size]) for at in range(0, len(unique), batch_size)]
    )
    return encoded[[rows[text] for text in texts]]


@contextmanager
def _only_build(folder: Path, target: Path) -> Iterator[None]:
    """Hold the working folder's lock; the operating system drops it with the process, however that ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"another build is at work on {target}; rule: one at a time"
            raise VectorIndexError(msg) from error
        yield
    finally:
        os.close(handle)


def _resume(folder: Path, checksum: str, fingerprint: Fingerprint) -> _Progress:
    """Give the progress to go on from and cut the files to it; a fresh one for another corpus or encoder."""
    done = _read_progress(folder, checksum, fingerprint)
    if done is None:
        (folder / PROGRESS_FILE).unlink(missing_ok=True)
        write_atomically(folder / FINGERPRINT_FILE, fingerprint.to_bytes())
        done = _Progress(checksum)
    for name, size in (
        (VECTORS_FILE, 4 * done.documents * fingerprint.dimension),
        (IDS_FILE, done.ids_bytes),
    ):
        with (folder / name).open("ab") as file:
            file.truncate(size)
    return done


def _read_progress(folder: Path, checksum: str, fingerprint: Fingerprint) -> _Progress | None:
    try:
        done = _Progress(**json.loads((folder / PROGRESS_FILE).read_bytes()))
        earlier = Fingerprint.from_bytes((folder / FINGERPRINT_FILE).read_bytes())
        vectors, ids = (folder / VECTORS_FILE).stat().st_size, (folder / IDS_FILE).stat().st_size
    except (OSError, ValueError, TypeError, EncoderError):
        return None
    whole = vectors >= 4 * done.documents * fingerprint.dimension and ids >= done.ids_bytes
    alike = done.corpus_sha256 == checksum and matches_documents(earlier, fingerprint)
    return done if whole and alike else None


def _append(
    folder: Path, done: _Progress, shard: list[tuple[int, _Document]], vectors: Vectors, corpus_bytes: int
) -> _Progress:
    """Append a shard, make it durable, and only then say so in the progress file."""
    lines = id_lines(one.id for _, one in shard)
    with (folder / VECTORS_FILE).open("ab") as file:
        largest = append_vectors(file, vectors)
        file.flush()
        os.fsync(file.fileno())
    with (folder / IDS_FILE).open("ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    grown = _Progress(
        corpus_sha256=done.corpus_sha256,
        documents=done.documents + len(shard),
        corpus_bytes=corpus_bytes,
        lines=shard[-1][0],
        ids_bytes=done.ids_bytes + len(lines),
        largest_norm=max(done.largest_norm, largest),
    )
    write_atomically(folder / PROGRESS_FILE, json.dumps(asdict(grown)).encode())
    return grown
