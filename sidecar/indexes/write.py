"""Put a finished index into its folder in one step, whoever made the vectors.

All data files carry the generation in their names and the manifest is swapped last, by one atomic rename: a
reader finds the old index or the new one, never a mixture. Files of the old generation are unlinked after the
swap; a reader that has them mapped keeps them until it closes, since the operating system frees a file with
its last user.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from sidecar.errors import DataError, VectorIndexError
from sidecar.indexes.exact import file_checksum
from sidecar.indexes.manifest import Manifest, sync_folder, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidecar.encoders.fingerprint import Fingerprint
    from sidecar.encoders.protocol import Vectors

GENERATION_LENGTH = 12
ROWS_AT_ONCE = 65_536
DATA_FILES = ("vectors-*.f32", "ids-*.jsonl", "encoder-*.fingerprint")


def write_index(
    target: Path,
    ids: Sequence[str],
    vectors: Vectors,
    *,
    encoder_name: str,
    fingerprint: Fingerprint,
    now: float,
) -> Manifest:
    """Write an index of vectors that exist already, atomically, replacing what `target` held.

    `vectors` has shape (n, dimension), row i belongs to id i. Raises `DataError` for no documents, an empty
    or repeated id, and `VectorIndexError` for vectors that do not fit or hold numbers that are not finite.
    """
    if vectors.ndim != 2 or len(vectors) != len(ids):
        msg = f"vectors for {target} have shape {vectors.shape}; rule: one row for each of {len(ids)} ids"
        raise VectorIndexError(msg)
    seen: set[str] = set()
    for row, one in enumerate(ids):
        if not one or one in seen:
            fault = "a repeated" if one else "an empty"
            msg = f"document {row} for {target} has {fault} id; rule: unique and not empty"
            raise DataError(msg)
        seen.add(one)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as made:
        folder = Path(made)
        largest = 0.0
        with (folder / "vectors").open("wb") as file:
            for start in range(0, len(vectors), ROWS_AT_ONCE):
                largest = max(largest, append_vectors(file, vectors[start : start + ROWS_AT_ONCE]))
        (folder / "ids").write_bytes(id_lines(ids))
        return install(
            folder / "vectors",
            folder / "ids",
            target,
            encoder_name=encoder_name,
            fingerprint=fingerprint,
            documents=len(ids),
            largest_norm=largest,
            corpus_sha256="",
            now=now,
        )


def append_vectors(file: BinaryIO, vectors: Vectors) -> float:
    """Append rows to an open binary file and give their largest L2 norm; refuse what is not finite."""
    rows = np.ascontiguousarray(vectors, dtype="<f4")
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    if not np.isfinite(norms).all():
        msg = "document vectors hold numbers that are not finite; rule: finite float32"
        raise VectorIndexError(msg)
    file.write(rows.data)
    return float(norms.max(initial=0.0))


def id_lines(ids: Iterable[str]) -> bytes:
    """Give the ids as the id file holds them."""
    return "".join(json.dumps(one) + "\n" for one in ids).encode("ascii")


def install(
    vectors: Path,
    ids: Path,
    target: Path,
    *,
    encoder_name: str,
    fingerprint: Fingerprint,
    documents: int,
    largest_norm: float,
    corpus_sha256: str,
    now: float,
) -> Manifest:
    """Move finished files into `target` and swap its manifest; they must lie on the same file system.

    Raises `DataError` for no documents and `VectorIndexError` when the files cannot be put there.
    """
    if documents < 1:
        msg = f"an index in {target} would be empty; rule: at least one document"
        raise DataError(msg)
    dimension = fingerprint.dimension
    if (size := vectors.stat().st_size) != 4 * documents * dimension:
        msg = f"the vectors for {target} have {size} bytes; rule: {documents} x {dimension} x 4"
        raise VectorIndexError(msg)
    vectors_sha256, ids_sha256 = file_checksum(vectors), file_checksum(ids)
    content = f"{dimension} {vectors_sha256} {ids_sha256} {fingerprint.document_digest}"
    manifest = Manifest(
        generation=hashlib.sha256(content.encode()).hexdigest()[:GENERATION_LENGTH],
        encoder=encoder_name,
        encoder_digest=fingerprint.digest,
        document_digest=fingerprint.document_digest,
        documents=documents,
        dimension=dimension,
        vectors_sha256=vectors_sha256,
        ids_sha256=ids_sha256,
        corpus_sha256=corpus_sha256,
        largest_norm=largest_norm,
        created_at=now,
    )
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_atomically(target / manifest.encoder_file, fingerprint.to_bytes())
        ids.replace(target / manifest.ids_file)
        vectors.replace(target / manifest.vectors_file)
        sync_folder(target)
        manifest.write(target)
    except OSError as error:
        msg = f"the index cannot be put into {target}: {error.strerror}"
        raise VectorIndexError(msg) from error
    _remove_old(target, manifest)
    return manifest


def _remove_old(target: Path, manifest: Manifest) -> None:
    for pattern in DATA_FILES:
        for place in target.glob(pattern):
            if place.name not in manifest.files:
                with contextlib.suppress(OSError):
                    place.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a working folder; leftovers are harmless and no reason to fail."""
    shutil.rmtree(folder, ignore_errors=True)
