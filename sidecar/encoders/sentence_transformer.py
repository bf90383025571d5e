"""The in-process encoder: a sentence-transformers model, from folder or hub, loaded without running its code.

Three rules make loading safe: code that a model folder brings is never run, weights are read from safetensors
only (a pickle can run code), and a local folder is loaded without touching the network. A hub name is first
resolved to a local folder from which pickles are left out; from there on there is one path. Errors of the
libraries end here.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sidecar.encoders import threads
from sidecar.errors import ConfigurationError, EncoderError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.encoders.protocol import Vectors

Dtype = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "float16", "bfloat16")

PICKLED_WEIGHTS = ("pytorch_model*.bin", "adapter_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
OTHER_BACKENDS = ("onnx", "openvino")
FETCHED_FILES = ["*.json", "*.txt", "*.safetensors", "*.model", "*.tiktoken", "*.jinja"]
DEFAULT_ORGANISATION = "sentence-transformers"
PATH_SIGNS = ("/", ".", "~")
FEWEST_TOKENS = 3
UNLIMITED_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class SentenceTransformerOptions:
    """What makes one encoder: any difference here is a different encoder and changes the fingerprint.

    `model` is a folder or a hub name, `revision` a commit, tag or branch of a hub name. A prompt of None
    means what the model's own configuration says (`prompts` in `config_sentence_transformers.json`), "" means
    none, anything else is put in front of every text of that mode. `max_length` is in tokens, None means the
    model's own. Pooling is always the model's own. `batch_size` bounds the texts per forward pass; it changes
    the speed and nothing else.
    """

    model: str
    revision: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    normalize: bool = True
    max_length: int | None = None
    batch_size: int = 16
    device: str = "cpu"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        """Refuse what no model could satisfy."""
        if not self.model:
            msg = "encoder model is empty; rule: a folder or a hub name"
            raise ConfigurationError(msg)
        if self.dtype not in DTYPES:
            msg = f"encoder dtype is {self.dtype!r}; rule: one of {', '.join(DTYPES)}"
            raise ConfigurationError(msg)
        if self.batch_size < 1:
            msg = f"encoder batch_size is {self.batch_size}; rule: at least 1"
            raise ConfigurationError(msg)
        if self.max_length is not None and self.max_length < FEWEST_TOKENS:
            msg = f"encoder max_length is {self.max_length}; rule: at least {FEWEST_TOKENS}"
            raise ConfigurationError(msg)


@dataclass(slots=True)
class SentenceTransformerEncoder:
    """A loaded model; made by `load`, used from one worker thread at a time."""

    name: str
    dimension: int
    options: SentenceTransformerOptions
    _model: Any = field(repr=False)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Encode `texts` in query mode; float32, shape (n, dimension), unit rows when `normalize` is on."""
        return self._encode("encode_query", texts, self.options.query_prompt)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Encode `texts` in document mode; otherwise as `encode_queries`."""
        return self._encode("encode_document", texts, self.options.document_prompt)

    def close(self) -> None:
        """Let go of the model; its memory is freed with the last reference."""
        self._model = None

    def _encode(self, method: str, texts: Sequence[str], prompt: str | None) -> Vectors:
        if self._model is None:
            msg = f"encoder {self.name} is closed"
            raise EncoderError(msg)
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        try:
            encoded = getattr(self._model, method)(
                list(texts),
                prompt=prompt,
                batch_size=self.options.batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
        except Exception as error:  # noqa: BLE001  (torch and tokenizers raise whatever they like)
            # `from None`: the chained error could quote the text, and a traceback ends up in a log.
            msg = f"encoder {self.name} failed on {len(texts)} texts: {_reason(error)}"
            raise EncoderError(msg) from None
        return self._checked(encoded)

    def _checked(self, encoded: Any) -> Vectors:
        vectors: Vectors = np.ascontiguousarray(encoded, dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        broken = int(np.count_nonzero(~np.isfinite(norms)))
        if broken:
            msg = f"encoder {self.name} gave numbers that are not finite for {broken} of {len(vectors)} texts"
            raise EncoderError(msg)
        if self.options.normalize:
            norms[norms == 0.0] = 1.0
            # The array was made for this call and nobody else holds it: no copy for the division.
            np.divide(vectors, norms, out=vectors)
        return vectors


def load(options: SentenceTransformerOptions) -> SentenceTransformerEncoder:
    """Load the model that `options` names and try it on one text.

    Raises `EncoderError` when the library, the folder, its files or the hub are missing or broken, or when
    weights are only there as pickles, and `ConfigurationError` when `max_length` exceeds the positions that
    the model has.
    """
    with _quiet():
        try:
            torch = threads.load_torch()
            from sentence_transformers import SentenceTransformer  # noqa: PLC0415  (seconds and hundreds of MB)
        except ImportError as error:
            msg = f"encoder {options.model!r} needs the packages torch and sentence-transformers: {error}"
            raise EncoderError(msg) from error
        except OSError as error:  # torch asks for a folder for temporary files as soon as it is imported
            msg = f"encoder {options.model!r}: torch cannot be imported: {_reason(error)}"
            raise EncoderError(msg) from error
        folder, name = _resolve(options)
        _refuse_pickles(folder, name)
        try:
            model = SentenceTransformer(
                str(folder),
                device=options.device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True, "dtype": getattr(torch, options.dtype)},
            )
        except Exception as error:
            msg = f"encoder {name} could not be loaded: {_reason(error)}"
            raise EncoderError(msg) from error
    _limit_length(model, options, name)
    model.eval()
    encoder = SentenceTransformerEncoder(name=name, dimension=0, options=options, _model=model)
    encoder.dimension = int(encoder.encode_queries(["warm-up"]).shape[1])
    return encoder


def _resolve(options: SentenceTransformerOptions) -> tuple[Path, str]:
    """Give the local folder of the model and the name to show for it."""
    folder = Path(options.model).expanduser()
    if folder.is_dir():
        return folder, folder.resolve().name
    if options.model.startswith(PATH_SIGNS) or options.model.count("/") > 1 or folder.exists():
        msg = f"encoder model {options.model!r} is not there; rule: a folder with a model, or a hub name"
        raise EncoderError(msg)
    name = options.model if "/" in options.model else f"{DEFAULT_ORGANISATION}/{options.model}"
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    try:
        found = snapshot_download(
            name,
            revision=options.revision,
            allow_patterns=FETCHED_FILES,
            ignore_patterns=[f"{backend}/*" for backend in OTHER_BACKENDS],
        )
    except Exception as error:
        msg = f"encoder model {name!r} is neither a local folder nor to be had from the hub: {_reason(error)}"
        raise EncoderError(msg) from error
    return Path(found), name


def _refuse_pickles(folder: Path, name: str) -> None:
    """Refuse a model of which any part has weights only in a form that can run code when it is read."""
    for place, folders, files in os.walk(folder):
        folders[:] = [inner for inner in folders if inner not in OTHER_BACKENDS]
        here = [Path(file) for file in files]
        if any(file.suffix == ".safetensors" for file in here):
            continue
        pickled = sorted(str(file) for file in here if any(file.match(pattern) for pattern in PICKLED_WEIGHTS))
        if pickled:
            part = Path(place).relative_to(folder)
            msg = (
                f"encoder {name} has its weights in {part / pickled[0]}; rule: safetensors only, "
                "since reading a pickle can run code (convert the model once with save_pretrained)"
            )
            raise EncoderError(msg)


def _limit_length(model: Any, options: SentenceTransformerOptions, name: str) -> None:
    if options.max_length is None:
        return
    config = getattr(model[0], "config", None)
    positions = getattr(config, "max_position_embeddings", None) or UNLIMITED_TOKENS
    if options.max_length > positions:
        msg = f"encoder max_length is {options.max_length}; rule: at most {positions}, the positions of {name}"
        raise ConfigurationError(msg)
    model.max_seq_length = options.max_length


def _reason(error: Exception) -> str:
    """Give the error's class and the first line of those that cannot quote a text."""
    if isinstance(error, OSError | RuntimeError | MemoryError | ImportError | KeyError | json.JSONDecodeError):
        first = str(error).strip().splitlines()
        return f"{type(error).__name__}: {first[0]}" if first else type(error).__name__
    return type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loading libraries' progress bars off the terminal, and leave their settings as they were."""
    try:
        from huggingface_hub.utils.tqdm import (  # noqa: PLC0415
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )
        from transformers.utils import logging as transformers_logging  # noqa: PLC0415
    except ImportError:
        yield
        return
    hub_was_on = not are_progress_bars_disabled()
    bars_were_on = transformers_logging.is_progress_bar_enabled()
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if hub_was_on:
            enable_progress_bars()
        if bars_were_on:
            transformers_logging.enable_progress_bar()
