"""One small real world for all tests of this folder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.attribution import faults
from tests.attribution.world import World, accept, make_world

SEED = 1
SIZES = {"documents": 180, "words": 16, "queries": 110}
PROBES, SAMPLE = 60, 150
DAMAGE = 0.1
"""Of 150 documents 5 % would be 7 bad vectors, too few to name a fault by (docs/attribution.md, "What can be missed"):
with p the share and z = 3.32, p >= z sqrt(p / 150) needs p >= z^2 / 150 = 0.073."""


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Give the real encoders with a part of the documentation and of the queries."""
    return replace(make_world(tmp_path_factory.mktemp("attribution"), **SIZES), damage=DAMAGE)


@pytest.fixture(scope="session")
def documents(world) -> faults.Documents:
    """Give the documents that are indexed at acceptance and those that come later."""
    return faults.Documents(world.texts, np.random.default_rng(SEED))


@pytest.fixture(scope="session")
def accepted(world, documents):
    """Give a function from the name of a start to the situation there and what is kept of it, made once each."""
    made = {}

    def at(start):
        if start not in made:
            situation = faults.start(world, documents, start)
            made[start] = situation, accept(world, situation, np.random.default_rng(SEED), probes=PROBES, sample=SAMPLE)
        return made[start]

    return at
