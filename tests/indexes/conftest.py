"""Vectors that stand for any encoder's."""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.encoders.fingerprint import SENTINELS, Fingerprint


@pytest.fixture(scope="session")
def any_fingerprint() -> Fingerprint:
    """Give a fingerprint of dimension 16, for indexes of vectors that no encoder made."""
    vectors = np.random.default_rng(5).standard_normal((SENTINELS, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Fingerprint("0123456789ab", "ba9876543210", vectors, vectors.copy())
