"""Make the frozen copy of the deployed stack, and load retrievers from it.

Against a copy of what was accepted, any change of the deployed retriever shows at once: without a change both agree
fully. The copy is made when a person accepts the present behaviour, and stays while the service's own folders change.

`TARGET/current` is a symbolic link to a folder beside it with the model, the options that it is loaded with (a prompt
that is changed in the settings later must not change what was accepted) and the index. A new copy is made beside the
old one, verified, and put in place by renaming the link: a reader finds the old copy or the new one, never a mixture,
also where TARGET is a mounted volume that cannot itself be renamed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.encoders.sentence_transformer import OTHER_BACKENDS, PICKLED_WEIGHTS, SentenceTransformerOptions
from sidecar.errors import ConfigurationError, DataError, EncoderError
from sidecar.indexes.exact import ExactIndex
from sidecar.replay.source import RetrieverSource, Signature, folder_signature

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.encoders.fingerprint import Fingerprint
    from sidecar.model import Role
    from sidecar.replay.retriever import Retriever

CURRENT = "current"
ENCODER, INDEX = "encoder", "index"
MODEL, OPTIONS = "model", "options.json"
LEFT_OUT = shutil.ignore_patterns(*PICKLED_WEIGHTS, *OTHER_BACKENDS, ".*")
"""What is never loaded, and the working files of a build."""


@dataclass(frozen=True, slots=True)
class FrozenSource:
    """Where the frozen retriever comes from: a folder that `freeze` filled; otherwise as `RetrieverSource`."""

    folder: Path
    cache_entries: int

    @property
    def role(self) -> Role:
        """Give the role that this source is for."""
        return "frozen"

    def signature(self) -> tuple[Signature, Signature]:
        """Describe the files of encoder and index; equal signatures mean that nothing was replaced."""
        copy = self.folder / CURRENT
        return folder_signature(copy / ENCODER), folder_signature(copy / INDEX)

    def load(self, known: Iterable[Fingerprint], *, reuse: Retriever | None = None) -> Retriever:
        """Load both, or the index alone if `reuse` brings the encoder. Blocking, seconds.

        Raises:
            EncoderError, VectorIndexError: there is no copy, or a part cannot be loaded.
            MismatchError: the index was built by another encoder, or a dimension does not fit.
        """
        copy = (self.folder / CURRENT).resolve()  # one copy, even if another is put in place meanwhile
        place = copy / ENCODER / OPTIONS
        try:
            options = SentenceTransformerOptions(**json.loads(place.read_bytes()))
        except OSError:
            msg = f"no frozen copy in {self.folder}; make one with `rag-drift freeze {self.folder}`"
            raise EncoderError(msg) from None
        except (ValueError, TypeError) as error:
            msg = f"{place} does not hold the options of an encoder; make the copy again with `rag-drift freeze`"
            raise EncoderError(msg) from error
        encoder = replace(options, model=str(copy / ENCODER / MODEL))
        return RetrieverSource(self.role, encoder, self.cache_entries, copy / INDEX).load(known, reuse=reuse)


def freeze(encoder: SentenceTransformerOptions, index: Path, target: Path) -> Retriever:
    """Copy the deployed model and index to `target`, in place of the copy that was there; give the loaded copy.

    Files are copied and not linked, because a service may write into its own in place; on a file system that shares
    blocks between files (Btrfs, XFS) the copy takes no room until then. The index is compared with its checksums, and
    the copied encoder must be the one that built it. Blocking, seconds to minutes.

    Raises:
        ConfigurationError: the model is not a folder (one from a hub is frozen by its revision), or `target` cannot
            be written to.
        DataError: the files changed while they were copied.
        EncoderError, VectorIndexError: a part cannot be loaded.
        MismatchError: the deployed index was built by another encoder: an accident, and nothing to accept.
    """
    model = Path(encoder.model).expanduser()
    if not model.is_dir():
        msg = f"encoder model {encoder.model!r} is not a folder; rule: only a folder can be frozen"
        raise ConfigurationError(msg)
    if (target / CURRENT).exists() and not (target / CURRENT).is_symlink():
        msg = f"{target / CURRENT} is not a link that an earlier copy left; rule: a folder for frozen copies alone"
        raise ConfigurationError(msg)
    ExactIndex.open(index).close()
    deployed = RetrieverSource("deployed", encoder, 0, index)
    copy = target / f"copy-{secrets.token_hex(4)}"
    try:
        target.mkdir(parents=True, exist_ok=True)
        _copy(deployed, model, copy)
        (copy / ENCODER / OPTIONS).write_text(json.dumps(asdict(encoder), indent=2) + "\n", encoding="utf-8")
        ExactIndex.open(copy / INDEX, verify=True).close()
        frozen_encoder = replace(encoder, model=str(copy / ENCODER / MODEL))
        frozen = RetrieverSource("frozen", frozen_encoder, 0, copy / INDEX).load([])
        _install(copy, target)
    except BaseException as error:
        shutil.rmtree(copy, ignore_errors=True)
        if isinstance(error, OSError):
            msg = f"the frozen copy cannot be put into {target}: {_reason(error)}"
            raise ConfigurationError(msg) from error
        raise
    return frozen


def _copy(deployed: RetrieverSource, model: Path, copy: Path) -> None:
    """Copy model and index; refuse a copy of files that were being replaced meanwhile."""
    before = deployed.signature()
    failed: OSError | None = None
    try:
        for folder, place in ((model, copy / ENCODER / MODEL), (deployed.index, copy / INDEX)):
            shutil.copytree(folder, place, ignore=LEFT_OUT, copy_function=_copy_file)
    except OSError as error:
        failed = error
    if deployed.signature() != before:
        msg = f"{model} or {deployed.index} changed while it was copied; rule: freeze when nothing is being shipped"
        raise DataError(msg) from failed
    if failed is not None:
        raise failed


def _copy_file(source: str, target: str) -> str:
    """Copy the content of a file durably, and share its blocks where the file system can."""
    with open(source, "rb") as old, open(target, "wb") as new:  # noqa: PTH123  (copytree gives strings)
        # Not every system and file system can, nor between any two files: what is left is copied below.
        with suppress(OSError, AttributeError):
            while os.copy_file_range(old.fileno(), new.fileno(), 1 << 30):
                pass
        old.seek(new.seek(0, os.SEEK_END))
        shutil.copyfileobj(old, new)
        new.flush()
        os.fsync(new.fileno())
    return target


def _install(copy: Path, target: Path) -> None:
    """Point the link at the new copy in one step, and remove the copy that it pointed at."""
    place = target / CURRENT
    before = place.resolve() if place.is_symlink() else None
    link = target / f".{copy.name}"
    link.symlink_to(copy.name)
    try:
        link.rename(place)
    except OSError:
        link.unlink()
        raise
    if before is not None and before.parent == target.resolve():
        # A process that has the old files mapped keeps them until it lets go of them.
        shutil.rmtree(before, ignore_errors=True)


def _reason(error: OSError) -> str:
    if isinstance(error, shutil.Error):  # what went wrong with the first of the files
        return str(error.args[0][0][2])
    return error.strerror or type(error).__name__
