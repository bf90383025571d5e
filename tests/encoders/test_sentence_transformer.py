"""The in-process encoder with a real model: what it gives, what it refuses, and that it stays off the network.

Fingerprints of changed models are in test_fingerprint.py; throughput is a benchmark's business.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sidecar.encoders import threads
from sidecar.encoders.protocol import Encoder
from sidecar.encoders.sentence_transformer import (
    SentenceTransformerEncoder,
    SentenceTransformerOptions,
    load,
)
from sidecar.errors import ConfigurationError, EncoderError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

TEXTS = ["How do I rotate a key?", "short", "Wo ist der Bahnhof?", "a much longer text " * 30]

# Float32 leaves a unit row's norm within dimension * 2^-24 = 2.3e-5 of 1.
UNIT = 2.3e-5


def copy_model(source: Path, target: Path) -> Path:
    """Copy a model folder with the big weights file linked instead of copied."""

    def link_weights(original: str, copied: str) -> str:
        if original.endswith(".safetensors"):
            (target / "model.safetensors").symlink_to(original)
            return copied
        return shutil.copy2(original, copied)

    shutil.copytree(source, target, copy_function=link_weights)
    return target


class TestEncoding:
    """What comes out of a loaded model."""

    def test_fits_the_protocol(self, minilm: SentenceTransformerEncoder) -> None:
        """The encoder is what the rest of the program expects of one."""
        assert isinstance(minilm, Encoder)
        assert (minilm.name, minilm.dimension) == ("model", 384)

    def test_gives_unit_rows_of_float32_in_the_order_of_the_texts(self, minilm: SentenceTransformerEncoder) -> None:
        """Row i belongs to text i whatever the lengths are, and has length 1."""
        vectors = minilm.encode_queries(TEXTS)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(TEXTS), 384)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=0, atol=UNIT)
        # 3e-5 is the bound below which two vectors count as the same (see the fingerprint).
        for row, text in zip(vectors, TEXTS, strict=True):
            assert np.linalg.norm(row - minilm.encode_queries([text])[0]) < 3e-5

    def test_no_texts_give_no_rows(self, minilm: SentenceTransformerEncoder) -> None:
        """An empty call gives an array of no rows and the right width."""
        assert minilm.encode_documents([]).shape == (0, 384)

    def test_a_prompt_changes_its_own_mode_only(self, minilm_folder: Path) -> None:
        """A query prompt equals the prefixed text, and documents stay as they were."""
        prompted = load(SentenceTransformerOptions(str(minilm_folder), query_prompt="query: "))
        plain = load(SentenceTransformerOptions(str(minilm_folder)))
        prefixed = plain.encode_queries([f"query: {text}" for text in TEXTS])
        assert np.array_equal(prompted.encode_queries(TEXTS), prefixed)
        assert np.array_equal(prompted.encode_documents(TEXTS), plain.encode_documents(TEXTS))

    def test_the_models_own_prompts_apply_unless_overridden(self, minilm_folder: Path, tmp_path: Path) -> None:
        """None takes the prompt of the model's configuration, and "" takes none."""
        folder = copy_model(minilm_folder, tmp_path / "prompted")
        config = folder / "config_sentence_transformers.json"
        config.write_text(json.dumps({"prompts": {"query": "query: ", "document": "passage: "}}))
        own = load(SentenceTransformerOptions(str(folder)))
        none = load(SentenceTransformerOptions(str(folder), query_prompt="", document_prompt=""))
        assert np.array_equal(own.encode_queries(["x"]), none.encode_queries(["query: x"]))
        assert np.array_equal(own.encode_documents(["x"]), none.encode_documents(["passage: x"]))

    def test_without_normalising_the_models_own_lengths_stay(self, minilm_folder: Path, tmp_path: Path) -> None:
        """A model without a normalising module gives its own lengths when asked to."""
        folder = copy_model(minilm_folder, tmp_path / "raw")
        modules = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps(modules[:2]))
        raw = load(SentenceTransformerOptions(str(folder), normalize=False)).encode_queries(TEXTS)
        unit = load(SentenceTransformerOptions(str(folder))).encode_queries(TEXTS)
        lengths = np.linalg.norm(raw, axis=1, keepdims=True)
        assert (np.abs(lengths - 1.0) > 100 * UNIT).all()
        assert np.allclose(raw / lengths, unit, rtol=0, atol=UNIT)

    def test_numbers_that_are_not_finite_are_an_error(self, minilm_folder: Path) -> None:
        """A model with a broken weight does not hand out NaN, and the message has no text in it."""
        import torch

        encoder = load(SentenceTransformerOptions(str(minilm_folder)))
        with torch.no_grad():
            next(encoder._model.parameters()).fill_(float("nan"))
        with pytest.raises(EncoderError, match="not finite for 1 of 1") as caught:
            encoder.encode_queries(["a secret question"])
        assert "secret" not in str(caught.value)

    def test_a_text_that_breaks_the_tokenizer_is_an_error_without_the_text(
        self, minilm: SentenceTransformerEncoder
    ) -> None:
        """Half of a surrogate pair is refused; neither message nor cause carries the text."""
        with pytest.raises(EncoderError, match="failed on 1 texts") as caught:
            minilm.encode_queries(["a secret \ud800 question"])
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    def test_a_closed_encoder_refuses(self, minilm_folder: Path) -> None:
        """Closing twice is harmless; encoding after it is an error that says so."""
        encoder = load(SentenceTransformerOptions(str(minilm_folder)))
        encoder.close()
        encoder.close()
        with pytest.raises(EncoderError, match="is closed"):
            encoder.encode_queries(["x"])


class TestLoading:
    """What can be loaded, what is refused, and with which words."""

    @pytest.mark.parametrize(
        ("changes", "rule"),
        [
            ({"model": ""}, "a folder or a hub name"),
            ({"model": "m", "dtype": "int4"}, "one of float32, float16, bfloat16"),
            ({"model": "m", "batch_size": 0}, "at least 1"),
            ({"model": "m", "max_length": 2}, "at least 3"),
        ],
        ids=["model", "dtype", "batch", "length"],
    )
    def test_impossible_options_are_refused(self, changes: dict[str, object], rule: str) -> None:
        """Options that no model could satisfy name their rule before anything is loaded."""
        with pytest.raises(ConfigurationError, match=rule):
            SentenceTransformerOptions(**changes)  # type: ignore[arg-type]

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        """A path that is not there is an error with the path, not a search on the hub."""
        with pytest.raises(EncoderError, match=r"nowhere.* is not there"):
            load(SentenceTransformerOptions(str(tmp_path / "nowhere")))

    def test_an_empty_folder_is_an_encoder_error(self, tmp_path: Path) -> None:
        """A folder without a model does not become another error's class."""
        with pytest.raises(EncoderError, match="could not be loaded"):
            load(SentenceTransformerOptions(str(tmp_path)))

    def test_cut_weights_are_an_encoder_error(self, minilm_folder: Path, tmp_path: Path) -> None:
        """A weights file that ends early is refused."""
        folder = copy_model(minilm_folder, tmp_path / "cut")
        weights = folder / "model.safetensors"
        start = weights.read_bytes()[:10_000]
        weights.unlink()
        weights.write_bytes(start)
        with pytest.raises(EncoderError, match="could not be loaded"):
            load(SentenceTransformerOptions(str(folder)))

    @pytest.mark.parametrize("part", [".", "3_Dense"])
    def test_pickled_weights_are_refused_by_name(self, minilm_folder: Path, tmp_path: Path, part: str) -> None:
        """Weights that exist only as a pickle are refused before anything reads them, in every module."""
        folder = copy_model(minilm_folder, tmp_path / "pickled")
        if part == ".":
            (folder / "model.safetensors").unlink()
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 9'\ntR.")
        with pytest.raises(EncoderError, match=r"pytorch_model\.bin.*safetensors only"):
            load(SentenceTransformerOptions(str(folder)))

    def test_a_pickle_beside_safetensors_is_left_alone(self, minilm_folder: Path, tmp_path: Path) -> None:
        """Many models carry both; then the safetensors are read and the pickle is not."""
        folder = copy_model(minilm_folder, tmp_path / "both")
        (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 9'\ntR.")
        assert load(SentenceTransformerOptions(str(folder))).dimension == 384

    def test_code_of_a_model_folder_is_not_run(self, minilm_folder: Path, tmp_path: Path) -> None:
        """A module class that lives in the model folder is refused, and its file is never executed."""
        folder = copy_model(minilm_folder, tmp_path / "custom")
        ran = tmp_path / "ran"
        (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Evil: pass\n")
        modules = json.loads((folder / "modules.json").read_text())
        modules[2]["type"] = "evil.Evil"
        (folder / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(EncoderError, match="could not be loaded"):
            load(SentenceTransformerOptions(str(folder)))
        assert not ran.exists()

    def test_more_tokens_than_positions_are_a_configuration_error(self, minilm_folder: Path) -> None:
        """A length that the model has no positions for is refused at the start, not at the first long text."""
        with pytest.raises(ConfigurationError, match="at most 512"):
            load(SentenceTransformerOptions(str(minilm_folder), max_length=513))

    def test_the_libraries_progress_bars_come_back(self, minilm: SentenceTransformerEncoder) -> None:
        """Loading leaves the settings of the libraries as they were."""
        from transformers.utils import logging

        assert minilm.dimension
        assert logging.is_progress_bar_enabled()


ISOLATED = """
import os, sys
os.environ.pop("HF_HUB_OFFLINE", None)
os.environ.update({environment})
touched = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        touched.append(arguments[-1])
        raise OSError("the network is forbidden in this test")
sys.addaudithook(watch)
from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load
from sidecar.errors import EncoderError
try:
    print("dimension", load(SentenceTransformerOptions({model})).dimension)
except EncoderError as error:
    print("EncoderError", error)
print("touched", len(touched))
"""


def run_isolated(model: str, **environment: str) -> str:
    """Load `model` in a process of its own in which every attempt to reach the network fails and is counted."""
    code = ISOLATED.format(model=repr(model), environment=repr(environment))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


class TestNetwork:
    """When the hub is asked, and what happens when it does not answer."""

    def test_a_local_folder_never_touches_the_network(self, minilm_folder: Path) -> None:
        """A folder loads without one connection, even where the hub is not switched off, and prints nothing."""
        output = run_isolated(str(minilm_folder))
        assert output.split("\n")[:2] == ["dimension 384", "touched 0"]

    def test_a_hub_that_does_not_answer_is_an_encoder_error(self, tmp_path: Path) -> None:
        """A name that has to be fetched and cannot be becomes an error that names it."""
        output = run_isolated("some/model", HF_HOME=str(tmp_path), HF_HUB_DISABLE_TELEMETRY="1")
        assert "EncoderError encoder model 'some/model' is neither a local folder nor" in output

    def test_a_cached_name_loads_offline(self, minilm_folder: Path, tmp_path: Path) -> None:
        """A name that lies in the hub's cache loads with the hub switched off, with its organisation filled in."""
        cached = tmp_path / "hub" / "models--sentence-transformers--tiny"
        commit = "0123456789012345678901234567890123456789"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text(commit)
        (cached / "snapshots").mkdir()
        copy_model(minilm_folder, cached / "snapshots" / commit)
        output = run_isolated("tiny", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
        assert "dimension 384" in output
        assert "touched 0" in output


def test_a_machine_without_a_folder_for_temporary_files_is_told_so(monkeypatch):
    """Torch asks for one as soon as it is imported, on a read-only root without /tmp in vain: one clear line."""

    def refuse():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(threads, "load_torch", refuse)
    with pytest.raises(EncoderError, match=r"torch cannot be imported: FileNotFoundError: .*No usable temporary"):
        load(SentenceTransformerOptions(model="any"))
