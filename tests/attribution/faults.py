"""What can happen to a retrieval service, done for real to `world`, each with the cause that must be named.

Each fault takes the accepted situation and gives the one after it. `Case.start` says which accepted situation it
needs; nearly all share one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sidecar.drift.attribution import Cause
from sidecar.replay.retriever import Pair
from tests.attribution.world import CELLS, Situation

if TYPE_CHECKING:
    from collections.abc import Callable

TRAFFIC = {"howto": 0.6, "language": 0.3, "chat": 0.1}
WIDE, NARROW = 3 * CELLS // 4, 2
"""Lists that an approximate search looks into while it is healthy, and after somebody saved on it."""


@dataclass(frozen=True)
class Case:
    """A fault, from which accepted situation it starts, and what must be named."""

    fault: Callable
    causes: frozenset[Cause]
    start: str = "exact"


class Documents:
    """Which documents are in the index at acceptance, and which come later (20 % more)."""

    def __init__(self, ids, rng):
        shuffled = [list(ids)[i] for i in rng.permutation(len(ids))]
        later = len(shuffled) // 6
        self.old, self.new = sorted(shuffled[later:]), sorted(shuffled[:later])


def start(world, documents, how) -> Situation:
    """Give the accepted situation.

    `exact`; `approximate`: the replay searches approximately; `served`: the service does, the replay is exact; `without
    chat`: nobody asks that kind of question.
    """
    width = WIDE if how == "approximate" else None
    pair = Pair(
        world.retriever("deployed", "house", documents.old, width=width),
        world.retriever("reference", "base", documents.old),
    )
    traffic = {name: share for name, share in TRAFFIC.items() if how != "without chat" or name != "chat"}
    return Situation(pair, traffic, service_width=WIDE if how == "served" else None)


def nothing(_world, _documents, was, _rng):
    """Nothing happens."""
    return was


def rebuilt(world, documents, was, _rng):
    """The same index is built again and its rows come in another order."""
    return _deployed(was, world.retriever("deployed", "house", documents.old[::-1]))


def nudged(world, documents, was, _rng):
    """The query encoder is fine-tuned a little and deployed; the index stays."""
    return _deployed(was, world.retriever("deployed", "nudged", documents.old, _stored(was), made_by="house"))


def fine_tuned(world, documents, was, _rng):
    """The query encoder is fine-tuned thoroughly and deployed; the index stays."""
    return _deployed(was, world.retriever("deployed", "precision", documents.old, _stored(was), made_by="house"))


def swapped(world, documents, was, _rng):
    """Another model is deployed; the index stays."""
    return _deployed(was, world.retriever("deployed", "other", documents.old, _stored(was), made_by="house"))


def prompt_lost(world, documents, was, _rng):
    """The query prompt is lost."""
    return _deployed(was, world.retriever("deployed", "bare", documents.old, _stored(was)))


def upgraded(world, documents, was, _rng):
    """The encoder is fine-tuned and every document re-indexed."""
    return _deployed(was, world.retriever("deployed", "precision", documents.old))


def upgrade_stopped(world, documents, was, rng):
    """The encoder is fine-tuned; re-indexing stopped after 40 % of the documents."""
    vectors = _mixed(world, documents, was, rng, encoder="precision", share=0.4)
    return _deployed(was, world.retriever("deployed", "precision", documents.old, vectors))


def nudge_stopped(world, documents, was, rng):
    """The encoder is fine-tuned a little; re-indexing stopped after 40 % of the documents."""
    vectors = _mixed(world, documents, was, rng, encoder="nudged", share=0.4)
    return _deployed(was, world.retriever("deployed", "nudged", documents.old, vectors))


def shuffled(world, documents, was, rng):
    """5 % (`world.damage`) of the stored vectors belong to other documents."""
    rows = _some(documents.old, world.damage, rng)
    vectors = _stored(was)
    vectors[rows] = vectors[np.roll(rows, 1)]
    return _deployed(was, world.retriever("deployed", "house", documents.old, vectors))


def overwritten(world, documents, was, rng):
    """5 % (`world.damage`) of the stored vectors are noise."""
    rows = _some(documents.old, world.damage, rng)
    vectors = _stored(was)
    noise = rng.normal(0.0, 1.0, (len(rows), vectors.shape[1]))
    vectors[rows] = (noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float32)
    return _deployed(was, world.retriever("deployed", "house", documents.old, vectors))


def versions_mixed(world, documents, was, rng):
    """30 % of the stored vectors are those of a slightly different encoder."""
    vectors = _mixed(world, documents, was, rng, encoder="nudged", share=0.3)
    return _deployed(was, world.retriever("deployed", "house", documents.old, vectors))


def versions_mixed_far(world, documents, was, rng):
    """30 % of the stored vectors are those of a thoroughly fine-tuned encoder."""
    vectors = _mixed(world, documents, was, rng, encoder="precision", share=0.3)
    return _deployed(was, world.retriever("deployed", "house", documents.old, vectors))


def recall_fell(world, documents, was, _rng):
    """The approximate search looks into fewer lists."""
    return _deployed(was, world.retriever("deployed", "house", documents.old, _stored(was), width=NARROW))


def service_recall_fell(_world, _documents, was, _rng):
    """The service's own search looks into fewer lists; the replay searches exactly."""
    return replace(was, service_width=NARROW)


def documents_lost(world, documents, was, rng):
    """A tenth of the documents vanish from the deployed index."""
    rows = np.setdiff1d(np.arange(len(documents.old)), _some(documents.old, 0.1, rng))
    kept = [documents.old[row] for row in rows]
    return _deployed(was, world.retriever("deployed", "house", kept))


def corpus_grew(world, documents, was, _rng):
    """20 % more documents, in both indexes."""
    every = documents.old + documents.new
    reference = world.retriever("reference", "base", every)
    return replace(was, pair=Pair(world.retriever("deployed", "house", every), reference))


def corpus_grew_deployed(world, documents, was, _rng):
    """20 % more documents, in the deployed index only."""
    return _deployed(was, world.retriever("deployed", "house", documents.old + documents.new))


def reference_changed(world, documents, was, _rng):
    """The reference becomes another encoder, with an index of its own."""
    return replace(was, pair=Pair(was.pair.deployed, world.retriever("reference", "precision", documents.old)))


def mix_shifted(_world, _documents, was, _rng):
    """People ask much more of one kind of question."""
    return replace(was, traffic={"howto": 0.1, "language": 0.3, "chat": 0.6})


def nudged_and_grown(world, documents, was, _rng):
    """A fine-tuned query encoder, and 20 % more documents in both indexes, encoded by the new one."""
    every = documents.old + documents.new
    vectors = np.concatenate([_stored(was), world.vectors("nudged", documents.new)])
    deployed = world.retriever("deployed", "nudged", every, vectors, made_by="house")
    return replace(was, pair=Pair(deployed, world.retriever("reference", "base", every)))


def nudged_and_reference(world, documents, was, rng):
    """The query encoder is fine-tuned a little, and the reference becomes another."""
    return reference_changed(world, documents, nudged(world, documents, was, rng), rng)


def shuffled_and_shifted(world, documents, was, rng):
    """5 % of the stored vectors belong to other documents, and people ask other questions."""
    return mix_shifted(world, documents, shuffled(world, documents, was, rng), rng)


def mixed_and_narrow(world, documents, was, rng):
    """30 % of the stored vectors are of another version, and the approximate search looks into fewer lists."""
    vectors = _mixed(world, documents, was, rng, encoder="nudged", share=0.3)
    return _deployed(was, world.retriever("deployed", "house", documents.old, vectors, width=NARROW))


def _case(fault, *causes, start="exact") -> Case:
    return Case(fault, frozenset(causes), start)


CASES = {
    one.fault.__name__: one
    for one in (
        _case(nothing, Cause.NOTHING),
        _case(rebuilt, Cause.NOTHING),
        _case(nudged, Cause.ENCODER_CHANGED_SLIGHTLY),
        _case(fine_tuned, Cause.ENCODER_CHANGED_SLIGHTLY),
        _case(swapped, Cause.ENCODER_SWAPPED),
        _case(prompt_lost, Cause.QUERY_SIDE_CHANGED),
        _case(upgraded, Cause.REINDEX_COMPLETE),
        _case(upgrade_stopped, Cause.REINDEX_INCOMPLETE),
        _case(nudge_stopped, Cause.REINDEX_INCOMPLETE),
        _case(shuffled, Cause.VECTORS_CORRUPTED),
        _case(overwritten, Cause.VECTORS_CORRUPTED),
        _case(versions_mixed, Cause.VERSIONS_MIXED),
        _case(versions_mixed_far, Cause.VERSIONS_MIXED),
        _case(recall_fell, Cause.RECALL_FELL, start="approximate"),
        _case(service_recall_fell, Cause.RECALL_FELL, start="served"),
        _case(documents_lost, Cause.DOCUMENTS_LOST),
        _case(corpus_grew, Cause.CORPUS_GREW),
        _case(corpus_grew_deployed, Cause.CORPUS_GREW_DEPLOYED_ONLY),
        _case(reference_changed, Cause.REFERENCE_CHANGED),
        _case(mix_shifted, Cause.MIX_SHIFTED),
        _case(nudged_and_grown, Cause.ENCODER_CHANGED_SLIGHTLY, Cause.CORPUS_GREW),
        _case(nudged_and_reference, Cause.ENCODER_CHANGED_SLIGHTLY, Cause.REFERENCE_CHANGED),
        _case(shuffled_and_shifted, Cause.VECTORS_CORRUPTED, Cause.MIX_SHIFTED),
        _case(mixed_and_narrow, Cause.VERSIONS_MIXED, Cause.RECALL_FELL, start="approximate"),
    )
}


def _deployed(was: Situation, retriever) -> Situation:
    return replace(was, pair=Pair(retriever, was.pair.reference))


def _stored(was: Situation) -> np.ndarray:
    index = was.pair.deployed.index
    return np.array(index.vectors(np.arange(index.size)))


def _some(ids, share, rng) -> np.ndarray:
    return rng.choice(len(ids), round(share * len(ids)), replace=False)


def _mixed(world, documents, was, rng, *, encoder, share) -> np.ndarray:
    vectors, rows = _stored(was), _some(documents.old, share, rng)
    vectors[rows] = world.vectors(encoder, [documents.old[row] for row in rows])
    return vectors
