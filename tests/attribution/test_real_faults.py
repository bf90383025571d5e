"""Real faults on real encoders: the cause that was made is the cause that is named, and no other.

Scope: gauges and decision table together. The table on made-up evidence is in `tests/pure/drift`, each gauge by itself
in `tests/replay/test_inspection.py`, more seeds and larger indexes in `benchmarks/attribution.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.drift.attribution import Cause, attribute
from tests.attribution.conftest import SAMPLE, SEED
from tests.attribution.faults import CASES
from tests.attribution.world import look

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_named(name, world, documents, accepted) -> None:
    """Exactly the causes that were made are named, each with evidence for it."""
    case = CASES[name]
    was, kept = accepted(case.start)
    now = case.fault(world, documents, was, np.random.default_rng(SEED))
    found = attribute(look(world, kept, now, np.random.default_rng(SEED + 1), sample=SAMPLE).evidence)
    assert frozenset(found.causes) == case.causes, found.summary
    for finding in found.findings:
        if finding.cause in found.causes:
            assert finding.supports
        elif finding.holds is False:
            assert finding.contradicts


def test_the_kinds_of_question_differ(accepted) -> None:
    """A shift of the mix can only show where the retrievers agree less on one kind of question than on another."""
    means = [moments.mean for moments in accepted("exact")[1].live.values()]
    assert max(means) - min(means) > 0.03


def test_every_cause_is_made_by_a_fault() -> None:
    """No row of the decision table goes without a real fault, except the one that is about coverage and no fault."""
    assert frozenset.union(*(case.causes for case in CASES.values())) == frozenset(Cause) - {Cause.OUTSIDE_PROBES}


def test_without_a_corpus_a_fault_of_the_vectors_is_not_guessed(world, documents, accepted) -> None:
    """Without texts to encode again, damaged vectors are not named but left open, and the reason is given."""
    was, kept = accepted("exact")
    now = CASES["shuffled"].fault(world, documents, was, np.random.default_rng(SEED))
    seen = look(world, kept, now, np.random.default_rng(SEED + 1), corpus=None)
    found = attribute(seen.evidence)
    assert not found.causes
    assert {Cause.VECTORS_CORRUPTED, Cause.VERSIONS_MIXED} <= set(found.open)
    assert "no corpus is configured" in found.summary


def test_a_new_kind_of_question_is_told_from_decay(world, documents, accepted) -> None:
    """Queries of a slice that acceptance never saw make nobody look for a fault of encoder or index."""
    was, kept = accepted("without chat")
    now = CASES["mix_shifted"].fault(world, documents, was, np.random.default_rng(SEED))
    seen = look(world, kept, now, np.random.default_rng(SEED + 1), sample=SAMPLE)
    assert seen.evidence.live is not None
    assert seen.evidence.live.new_share == pytest.approx(now.traffic["chat"], abs=0.05)
    found = attribute(seen.evidence)
    assert set(found.causes) <= {Cause.OUTSIDE_PROBES, Cause.MIX_SHIFTED}
    assert Cause.OUTSIDE_PROBES in found.causes
