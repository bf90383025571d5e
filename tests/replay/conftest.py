"""Real model folders and small real indexes of a few versions, made once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from sidecar.demo.encoders import materialise
from sidecar.encoders import threads
from sidecar.encoders.cache import CachedEncoder
from sidecar.encoders.fingerprint import Fingerprint, measure
from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load
from sidecar.indexes.build import write_index
from sidecar.indexes.exact import ExactIndex
from sidecar.replay.retriever import Retriever

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = (
    "A parcel can be returned within thirty days.",
    "The invoice is sent by mail at the end of the month.",
    "A password must have at least twelve characters.",
    "The warehouse is closed on public holidays.",
    "Customer data is deleted after ten years.",
)


@dataclass(frozen=True)
class Version:
    """A model folder with an index that it built, and both loaded once for all tests."""

    model: Path
    index: Path
    retriever: Retriever

    @property
    def fingerprint(self) -> Fingerprint:
        """Give the fingerprint of the model."""
        return self.retriever.fingerprint


def make(folder: Path, name: str, prompt: str | None = None) -> Version:
    """Write a real model folder, and an index of a few texts with it."""
    model = materialise(name, folder / "model", query_prompt=prompt)
    encoder = load(SentenceTransformerOptions(str(model)))
    with threads.single():
        fingerprint = measure(encoder)
        vectors = encoder.encode_documents(TEXTS)
    index = folder / "index"
    write_index(
        index, [f"d{i}" for i in range(len(TEXTS))], vectors, encoder_name=name, fingerprint=fingerprint, now=1.0
    )
    loaded = Retriever("deployed", CachedEncoder(encoder, 100), ExactIndex.open(index), fingerprint, index_matches=True)
    return Version(model, index, loaded)


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Version:
    """Give the base model."""
    return make(tmp_path_factory.mktemp("base"), "base")


@pytest.fixture(scope="session")
def prompted(tmp_path_factory) -> Version:
    """Give the base model with a query prompt: other queries, the same documents."""
    return make(tmp_path_factory.mktemp("prompted"), "base", "Find the passage: ")


@pytest.fixture(scope="session")
def tuned(tmp_path_factory) -> Version:
    """Give a fine-tuned model: other queries and other documents."""
    return make(tmp_path_factory.mktemp("tuned"), "precision")
