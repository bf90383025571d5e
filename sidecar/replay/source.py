"""Load a retriever from its folders, and notice when the folders hold another version.

A service ships a new encoder by replacing files or switching a symbolic link; the sidecar mounts the same volume. The
check is cheap (names, sizes and times, links followed), so it can run often. A folder is loaded only after two checks
in a row saw the same, because a copy under way changes from check to check. A version that cannot be loaded leaves the
old one in place: the service may be in the middle of shipping, and a monitor that stops then would be blind at the
worst moment.

For the reference and the frozen copy, an index of another encoder is refused. For the deployed retriever it is loaded
and reported, because "query encoder deployed without re-indexing" is an accident that we must show, not one to stop at.
Only a different dimension cannot be searched at all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.encoders import threads
from sidecar.encoders.cache import CachedEncoder
from sidecar.encoders.fingerprint import adopt, matches_documents, measure
from sidecar.encoders.sentence_transformer import load
from sidecar.errors import MismatchError
from sidecar.indexes.exact import ExactIndex
from sidecar.replay.clusters import fit
from sidecar.replay.retriever import Retriever

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.encoders.fingerprint import Fingerprint
    from sidecar.encoders.sentence_transformer import SentenceTransformerOptions
    from sidecar.model import Role

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class RetrieverSource:
    """Where the encoder and the index of one role come from."""

    role: Role
    encoder: SentenceTransformerOptions
    cache_entries: int
    index: Path

    def signature(self) -> tuple[Signature, Signature]:
        """Describe the files of encoder and index; equal signatures mean that nothing was replaced.

        A model named on a hub has no folder and an empty signature: it is pinned by its revision.
        """
        return folder_signature(Path(self.encoder.model).expanduser()), folder_signature(self.index)

    def load(self, known: Iterable[Fingerprint], *, reuse: Retriever | None = None) -> Retriever:
        """Load both, or the index alone if `reuse` brings the encoder. Blocking, seconds.

        Raises:
            EncoderError, VectorIndexError: a part cannot be loaded.
            MismatchError: the index of the reference or the frozen copy was built by another encoder, or a dimension
                does not fit.
        """
        if reuse is not None:
            encoder, fingerprint = reuse.encoder, reuse.fingerprint
        else:
            model = load(self.encoder)
            with threads.single():
                fingerprint = adopt(measure(model), known)
            encoder = CachedEncoder(model, self.cache_entries)
        index = ExactIndex.open(self.index)
        matches = matches_documents(fingerprint, index.encoder_fingerprint)
        if index.dimension != encoder.dimension:
            raise MismatchError(
                f"{self.role}: the index {self.index} has {index.dimension} dimensions and the encoder "
                f"{self.encoder.model} gives {encoder.dimension}; they must be the same"
            )
        if self.role != "deployed" and not matches:
            index.require_encoder(fingerprint)
        clusters = fit(index) if self.role == "reference" else None
        return Retriever(self.role, encoder, index, fingerprint, matches, clusters)


def folder_signature(folder: Path) -> Signature:
    """List (path, inode, size, time of change) of the files below a folder, links followed; none without a folder."""
    entries = []
    root = os.path.realpath(folder)
    for path, _, files in os.walk(root, followlinks=True):
        for name in sorted(files):
            full = os.path.join(path, name)  # noqa: PTH118  (os.walk gives strings; this runs every few seconds)
            try:
                status = os.stat(full)  # noqa: PTH116
            except OSError:
                continue
            entries.append((full, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(sorted(entries))
