"""A small retrieval service in numpy: two encoders, two indexes, live queries, and everything that can happen to it.

A text is a point in a latent space, near the centre of its topic. An encoder is a random linear map of it plus a
bounded random non-linear part (what the model makes of that text and no other model does), normalised. The deployed
index misses neighbours at random, anew at each search; the reference index is exact. Topics differ in breadth (the
number of directions in which their texts vary), and so in how much the two retrievers agree on them.

`measure` sees the accepted system and the system of now, never what was done to it. That is `EVENTS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sidecar.drift.confidence import Moments
from sidecar.drift.evidence import (
    EncoderCheck,
    Evidence,
    IndexCheck,
    ProbeCheck,
    RecallCheck,
    Sample,
    count_stored,
)
from sidecar.drift.mix import split

LATENT, DIMENSION = 24, 48
TOPICS, DOCUMENTS, PROBES, LIVE = 12, 4_000, 150, 3_000
BREADTHS = (2, 2, 2, 3, 3, 4, 4, 5, 6, 8, 10, 12)
CLEAR, VAGUE = 0.1, 0.8
"""Noise of queries."""
K = 10
SENTINELS, SAMPLED_DOCUMENTS, FLOOR_REPLAYS, CLUSTERS = 64, 400, 5, 32
SAME_DISTANCE = 3e-5


@dataclass(frozen=True)
class Encoder:
    """Map latent points (n, LATENT) to unit vectors (n, DIMENSION)."""

    linear: np.ndarray
    inner: np.ndarray
    outer: np.ndarray
    prompt: np.ndarray
    """Added to queries."""

    def documents(self, latent):
        """Encode documents."""
        raw = latent @ self.linear + np.sin(latent @ self.inner) @ self.outer
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    def queries(self, latent):
        """Encode queries."""
        raw = latent @ self.linear + np.sin(latent @ self.inner) @ self.outer + self.prompt
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def new_encoder(rng):
    """Draw a model."""
    scales = np.exp(rng.normal(0.0, 0.5, LATENT))
    return Encoder(
        linear=scales[:, None] * rng.normal(0.0, 1.0, (LATENT, DIMENSION)),
        inner=rng.normal(0.0, 0.5, (LATENT, DIMENSION)),
        outer=rng.normal(0.0, 0.25, (DIMENSION, DIMENSION)),
        prompt=rng.normal(0.0, 0.6, DIMENSION),
    )


def tuned(encoder, amount, rng):
    """Train a model further: each weight moves by `amount` of the typical one of its row."""

    def moved(weights):
        spread = np.sqrt(np.mean(weights**2, axis=-1, keepdims=True))
        return weights + amount * spread * rng.normal(0.0, 1.0, weights.shape)

    return replace(encoder, linear=moved(encoder.linear), outer=moved(encoder.outer))


@dataclass(frozen=True)
class Index:
    """Documents by id with their latent points and the vectors that are stored for them."""

    ids: np.ndarray
    latent: np.ndarray
    vectors: np.ndarray
    generation: int = 0

    def keep(self, rows):
        """Give the index of some rows, as a new generation."""
        return Index(self.ids[rows], self.latent[rows], self.vectors[rows], self.generation + 1)

    def add(self, ids, latent, vectors):
        """Give the index with more documents, as a new generation."""
        return Index(
            np.concatenate([self.ids, ids]),
            np.concatenate([self.latent, latent]),
            np.concatenate([self.vectors, vectors]),
            self.generation + 1,
        )

    def top(self, queries, depth):
        """Give the ids of the nearest stored vectors, best first, (n, depth)."""
        found = []
        for start in range(0, len(queries), 1_000):
            scores = queries[start : start + 1_000].astype(np.float32) @ self.vectors.T.astype(np.float32)
            best = np.argpartition(-scores, depth, axis=1)[:, :depth]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
            found.append(self.ids[np.take_along_axis(best, order, axis=1)])
        return np.concatenate(found)


@dataclass(frozen=True)
class System:
    """The service and its surroundings at one time."""

    centres: np.ndarray
    axes: tuple[np.ndarray, ...]
    """Directions (breadth, LATENT) in which the texts of each topic vary."""
    traffic: np.ndarray
    """Share of each topic in the live queries; the last topic has documents but no traffic at first."""
    terse: float
    """Share of live queries that are vague: far off what the documents of their topic say."""
    deployed: Encoder
    reference: Encoder
    deployed_index: Index
    reference_index: Index
    misses: float
    """Chance that the approximate search misses a neighbour."""

    def ask(self, n, rng):
        """Draw live queries: their topics (n,), which the service publishes as slices, and latent (n, LATENT)."""
        topics = rng.choice(len(self.traffic), n, p=self.traffic)
        vague = np.where(rng.random(n) < self.terse, VAGUE, CLEAR)
        return topics, self._texts(topics, rng) + vague[:, None] * rng.normal(0.0, 1.0, (n, LATENT))

    def write(self, n, rng):
        """Draw documents, latent (n, LATENT)."""
        return self._texts(rng.integers(0, len(self.centres), n), rng)

    def _texts(self, topics, rng):
        latent = self.centres[topics] + 0.1 * rng.normal(0.0, 1.0, (len(topics), LATENT))
        for topic, axes in enumerate(self.axes):
            rows = topics == topic
            latent[rows] += rng.normal(0.0, 1.0, (int(rows.sum()), len(axes))) @ axes
        return latent

    def answer(self, queries, rng, depth=K):
        """Rank with the deployed retriever, (n, depth)."""
        exact = self.deployed_index.top(self.deployed.queries(queries), depth + 3 * K)
        missed = rng.random(exact.shape) < self.misses
        found = np.argsort(missed, axis=1, kind="stable")[:, :depth]
        return np.take_along_axis(exact, found, axis=1)

    def refer(self, queries, depth=K):
        """Rank with the reference retriever, (n, depth)."""
        return self.reference_index.top(self.reference.queries(queries), depth)


def found(ranking, truth):
    """Give the share of each row of `truth` that the same row of `ranking` holds; rows of ids, -1 is no document."""
    there = (truth[:, :, None] == ranking[:, None, :]).any(axis=2) & (truth >= 0)
    return there.sum(axis=1) / np.maximum(1, (truth >= 0).sum(axis=1))


def new_system(rng):
    """Draw a healthy service."""
    centres = rng.normal(0.0, 1.6, (TOPICS + 1, LATENT))
    axes = tuple(rng.normal(0.0, 1.0, (breadth, LATENT)) / 2.0 for breadth in (*rng.permutation(BREADTHS), 16))
    traffic = np.append(rng.dirichlet(np.full(TOPICS, 20.0)), 0.0)
    deployed, reference = new_encoder(rng), new_encoder(rng)
    empty = Index(np.arange(0), np.empty((0, LATENT)), np.empty((0, DIMENSION)))
    system = System(centres, axes, traffic, 0.0, deployed, reference, empty, empty, 0.02)
    latent, ids = system.write(DOCUMENTS, rng), np.arange(DOCUMENTS)
    return replace(
        system,
        deployed_index=Index(ids, latent, deployed.documents(latent)),
        reference_index=Index(ids, latent, reference.documents(latent)),
    )


@dataclass(frozen=True)
class Accepted:
    """What is kept of the accepted system: the frozen probes, their answers, and the baseline of the live signal."""

    system: System
    sentinels: np.ndarray
    probes: np.ndarray
    deployed_lists: np.ndarray
    reference_lists: np.ndarray
    floor: Sample
    recall: Sample
    stored: object
    clusters: tuple[np.ndarray, np.ndarray]
    """Centres, and the largest distance from its centre of each cluster's queries."""
    live_slices: dict
    live_clusters: dict


def accept(system, rng, live=LIVE):
    """Calibrate on the healthy system."""
    (_, probes), (topics, queries) = system.ask(PROBES, rng), system.ask(live, rng)
    lists = system.answer(probes, rng)
    floors = [found(system.answer(probes, rng), lists) for _ in range(FLOOR_REPLAYS)]
    clusters = _clusters(system.reference.queries(queries), rng)
    values = found(system.answer(queries, rng), system.refer(queries))
    return Accepted(
        system=system,
        sentinels=rng.normal(0.0, 1.5, (SENTINELS, LATENT)),
        probes=probes,
        deployed_lists=lists,
        reference_lists=system.refer(probes),
        floor=_sample(np.mean(floors, axis=0)),
        recall=_recall(system, probes, rng),
        stored=_stored(system, DOCUMENTS, None, rng),
        clusters=clusters,
        live_slices=_moments(values, topics),
        live_clusters=_moments(values, _assign(system, queries, clusters)),
    )


def measure(accepted, now, rng, live=LIVE, *, clustered=False):
    """Read every gauge on the system of now; strata are slices, or clusters of the reference's query vectors."""
    was = accepted.system
    topics, queries = now.ask(live, rng)
    values = found(now.answer(queries, rng), now.refer(queries))
    strata = _assign(now, queries, accepted.clusters) if clustered else topics
    before = accepted.live_clusters if clustered else accepted.live_slices
    deployed = now.answer(accepted.probes, rng, depth=4 * K)
    return Evidence(
        deployed_encoder=_encoder(accepted.sentinels, was.deployed, now.deployed),
        reference_encoder=_encoder(accepted.sentinels, was.reference, now.reference),
        deployed_index=_index(was.deployed_index, now.deployed_index),
        reference_index=_index(was.reference_index, now.reference_index),
        stored=_stored(now, DOCUMENTS, accepted.stored, rng),
        recall=RecallCheck(_recall(now, accepted.probes, rng), accepted.recall),
        deployed_probes=_probes(
            accepted.deployed_lists, deployed, was.deployed_index, now.deployed_index, accepted.floor
        ),
        reference_probes=_probes(
            accepted.reference_lists,
            now.refer(accepted.probes, depth=4 * K),
            was.reference_index,
            now.reference_index,
            Sample(1.0, PROBES, 0.0),
        ),
        live=split(before, _moments(values, strata)),
        clustered=clustered,
    )


def _sample(values):
    return Sample(float(values.mean()), len(values), float(values.std(ddof=1)))


def _encoder(sentinels, was, now):
    sides = []
    for side in ("queries", "documents"):
        before, after = getattr(was, side)(sentinels), getattr(now, side)(sentinels)
        distance = np.linalg.norm(before - after, axis=1).max()
        sides.append((bool(distance <= SAME_DISTANCE), float(np.sum(before * after, axis=1).mean())))
    (query_same, query_cosine), (document_same, document_cosine) = sides
    return EncoderCheck(query_same, document_same, query_cosine, document_cosine)


def _index(was, now):
    return IndexCheck(len(now.ids), len(was.ids), was.generation != now.generation)


def _stored(system, known, accepted, rng):
    index = system.deployed_index
    rows = rng.choice(len(index.ids), SAMPLED_DOCUMENTS, replace=False)
    encoded = system.deployed.documents(index.latent[rows])
    return count_stored(index.vectors[rows], encoded, is_new=index.ids[rows] >= known, accepted=accepted)


def _recall(system, probes, rng):
    exact = system.deployed_index.top(system.deployed.queries(probes), K)
    return _sample(found(system.answer(probes, rng), exact))


def _probes(accepted, deep, was, now, floor):
    lists = deep[:, :K]
    held = np.isin(accepted, now.ids)
    # Condensed: what came since is taken out of the list of now, what has gone out of the accepted one.
    known = np.isin(deep, was.ids)
    order = np.argsort(~known, axis=1, kind="stable")[:, :K]
    condensed = np.where(np.take_along_axis(known, order, axis=1), np.take_along_axis(deep, order, axis=1), -2)
    condensed[np.arange(K) >= held.sum(axis=1)[:, None]] = -2
    kept = found(lists, accepted)
    return ProbeCheck(
        now=_sample(kept),
        floor=floor,
        known=_sample(found(condensed, np.where(held, accepted, -1))),
        moved=float((kept < 1.0).mean()),
        new_share=float(1.0 - np.isin(lists, was.ids).mean()),
        gone_share=float(1.0 - held.mean()),
    )


def _moments(values, strata):
    return {
        str(z): Moments(int(here.sum()), float(values[here].sum()), float((values[here] ** 2).sum()))
        for z, here in ((z, strata == z) for z in np.unique(strata))
    }


def _assign(system, queries, clusters):
    """Give each query its cluster, -1 where it lies farther out than any query of the baseline did."""
    centres, reach = clusters
    nearest, distance = _nearest(system.reference.queries(queries), centres)
    return np.where(distance > reach[nearest], -1, nearest)


def _nearest(points, centres):
    distance = np.sqrt(np.maximum(0.0, 2.0 - 2.0 * points @ centres.T + (centres**2).sum(axis=1) - 1.0))
    nearest = distance.argmin(axis=1)
    return nearest, distance[np.arange(len(points)), nearest]


def _clusters(points, rng):
    """Lloyd's algorithm from random points."""
    centres = points[rng.choice(len(points), CLUSTERS, replace=False)]
    for _ in range(20):
        nearest, _ = _nearest(points, centres)
        centres = np.stack(
            [points[nearest == z].mean(axis=0) if (nearest == z).any() else centres[z] for z in range(CLUSTERS)]
        )
    nearest, distance = _nearest(points, centres)
    return centres, np.array([distance[nearest == z].max(initial=0.0) for z in range(CLUSTERS)])


# What can happen. Each takes the system and a generator and gives the system after it.


def nothing(system, _):
    """Time passes."""
    return system


def encoder_nudged(system, rng):
    """The deployed encoder is trained a little further; the index stays."""
    return replace(system, deployed=tuned(system.deployed, 0.15, rng))


def encoder_swapped(system, rng):
    """Another model of the same dimension is deployed; the index stays."""
    return replace(system, deployed=new_encoder(rng))


def prompt_lost(system, _):
    """Queries lose their prompt."""
    return replace(system, deployed=replace(system.deployed, prompt=np.zeros(DIMENSION)))


def vectors_corrupted(system, rng):
    """5 % of the stored vectors are overwritten: with noise, with one another's, or with zeros."""
    index = system.deployed_index
    rows = rng.choice(len(index.ids), len(index.ids) // 20, replace=False)
    vectors = index.vectors.copy()
    kind = rng.integers(3)
    if kind == 0:
        noise = rng.normal(0.0, 1.0, (len(rows), DIMENSION))
        vectors[rows] = noise / np.linalg.norm(noise, axis=1, keepdims=True)
    elif kind == 1:
        vectors[rows] = vectors[np.roll(rows, 1)]
    else:
        vectors[rows] = 0.0
    return replace(system, deployed_index=replace(index, vectors=vectors))


def versions_mixed(system, rng):
    """30 % of the stored vectors come from an older version of the deployed encoder."""
    index, older = system.deployed_index, tuned(system.deployed, 0.3, rng)
    old = rng.random(len(index.ids)) < 0.3
    return replace(
        system,
        deployed_index=replace(index, vectors=np.where(old[:, None], older.documents(index.latent), index.vectors)),
    )


def recall_fell(system, _):
    """The approximate search looks at less."""
    return replace(system, misses=0.15)


def mix_shifted(system, _):
    """Broad topics are asked for more often."""
    weights = system.traffic * np.sqrt([len(axes) for axes in system.axes])
    return replace(system, traffic=weights / weights.sum())


def corpus_grew(system, rng, *, both=True):
    """Every fifth document more, on both sides; the new ones are encoded with the encoders of now."""
    n = len(system.deployed_index.ids) // 5
    latent, ids = system.write(n, rng), DOCUMENTS + np.arange(n)
    deployed = system.deployed_index.add(ids, latent, system.deployed.documents(latent))
    reference = system.reference_index
    if both:
        reference = reference.add(ids, latent, system.reference.documents(latent))
    return replace(system, deployed_index=deployed, reference_index=reference)


def corpus_grew_deployed(system, rng):
    """Every fifth document more on the deployed side."""
    return corpus_grew(system, rng, both=False)


def documents_lost(system, rng):
    """A tenth of the documents vanishes from the deployed index."""
    index = system.deployed_index
    return replace(system, deployed_index=index.keep(rng.random(len(index.ids)) >= 0.1))


def reference_changed(system, rng):
    """The reference encoder is trained further and its index is made anew with it."""
    encoder, index = tuned(system.reference, 0.2, rng), system.reference_index
    return replace(
        system,
        reference=encoder,
        reference_index=replace(index, vectors=encoder.documents(index.latent), generation=index.generation + 1),
    )


def upgraded(system, rng, *, share=1.0):
    """The next version of the encoder is deployed and `share` of the documents re-indexed with it."""
    encoder, index = tuned(system.deployed, 0.6, rng), system.deployed_index
    fresh = rng.random(len(index.ids)) < share
    vectors = np.where(fresh[:, None], encoder.documents(index.latent), index.vectors)
    return replace(
        system, deployed=encoder, deployed_index=replace(index, vectors=vectors, generation=index.generation + 1)
    )


def upgrade_halfway(system, rng):
    """An upgrade stops after 40 % of the documents."""
    return upgraded(system, rng, share=0.4)


def new_topic(system, _):
    """A fifth of the traffic asks about a topic that nobody asked about before."""
    traffic = 0.8 * system.traffic
    traffic[-1] = 0.2
    return replace(system, traffic=traffic)


def terse_queries(system, _):
    """A third of the queries of every topic get vague, as when a front end starts to shorten them."""
    return replace(system, terse=0.33)
