"""A real retrieval service in one process: MiniLM encoders, the documentation of Python, real queries, two indexes.

`World` holds what is expensive (the encoders with every vector that they gave so far) and `Situation` what a fault
changes: the retrievers, how the service itself searches, and what people ask. Nothing here knows which faults there
are (`faults`) or how they are told apart (`sidecar.drift.attribution`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import faiss
import numpy as np

from sidecar.demo.corpus import load_demo_queries, standard_library_passages
from sidecar.demo.encoders import QUERY_PROMPT, WEIGHTS_FILE, delta_path, materialise
from sidecar.drift.confidence import Moments
from sidecar.drift.evidence import Sample
from sidecar.drift.mix import split
from sidecar.encoders import threads
from sidecar.encoders.cache import CachedEncoder
from sidecar.encoders.fingerprint import measure, sentinel_texts
from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load
from sidecar.indexes.exact import ExactIndex
from sidecar.indexes.write import write_index
from sidecar.model import Ranking
from sidecar.overlap import compare
from sidecar.replay.clusters import Clusters, fit
from sidecar.replay.inspection import Elsewhere, Inspected, Inspection, Record, inspect
from sidecar.replay.known_documents import KnownDocuments
from sidecar.replay.probe_book import AtRest, Book, Probe
from sidecar.replay.probe_compare import compare_run
from sidecar.replay.retriever import Pair, Retriever

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

K = 10
SIDES = ("deployed", "reference")
LIVE = 1_500
CELLS = 16
"""Lists of the approximate index; at acceptance all but a few are searched."""
BATCH = 16


class Remembered:
    """A real encoder that encodes each text once: the same texts are asked for again by every fault and seed."""

    def __init__(self, folder: Path) -> None:
        self._encoder = load(SentenceTransformerOptions(str(folder)))
        self._known: dict[tuple[str, str], np.ndarray] = {}
        self.name, self.dimension = self._encoder.name, self._encoder.dimension

    def encode_queries(self, texts):
        """Encode as queries."""
        return self._encode("queries", texts)

    def encode_documents(self, texts):
        """Encode as documents."""
        return self._encode("documents", texts)

    def close(self):
        """Free the model."""
        self._encoder.close()

    def _encode(self, side, texts):
        new = sorted({text for text in texts if (side, text) not in self._known}, key=lambda text: (len(text), text))
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            vectors = getattr(self._encoder, f"encode_{side}")(batch)
            self._known |= {(side, text): vector for text, vector in zip(batch, vectors, strict=True)}
        return np.stack([self._known[side, text] for text in texts])


class InvertedLists:
    """A real approximate index (faiss IVF): a search looks into the `width` lists whose centres are closest."""

    def __init__(self, ids, vectors, width):
        quantizer = faiss.IndexFlatIP(vectors.shape[1])
        self._faiss = faiss.IndexIVFFlat(quantizer, vectors.shape[1], CELLS, faiss.METRIC_INNER_PRODUCT)
        self._faiss.cp.min_points_per_centroid = 1
        self._faiss.train(vectors)
        self._faiss.add(vectors)
        self._faiss.nprobe = width
        self.ids, self._vectors = tuple(ids), vectors
        self.size, self.dimension = vectors.shape
        self.generation = hashlib.sha256(vectors.tobytes()).hexdigest()[:12]

    def search(self, vectors, k):
        """Rank the best that the search meets."""
        scores, rows = self._faiss.search(np.ascontiguousarray(vectors), k)
        return [
            Ranking(tuple(self.ids[row] for row in found if row >= 0), tuple(near[found >= 0].tolist()))
            for near, found in zip(scores, rows, strict=True)
        ]

    def scores(self, vectors, ids):
        """Score documents."""
        rows = {one: row for row, one in enumerate(self.ids)}
        return [
            tuple(float(self._vectors[rows[one]] @ vector) if one in rows else None for one in wanted)
            for vector, wanted in zip(vectors, ids, strict=True)
        ]

    def vectors(self, rows):
        """Copy stored vectors."""
        return self._vectors[rows]

    def close(self):
        """Nothing to let go of."""


@dataclass(frozen=True)
class Situation:
    """The system at one time."""

    pair: Pair
    traffic: Mapping[str, float]
    """Share of each slice in the live queries."""
    service_width: int | None = None
    """Lists that the service's own search looks into; None: it searches as the replay does."""


@dataclass
class World:
    """Encoders, documents, queries; `folder` takes the indexes."""

    folder: Path
    texts: Mapping[str, str]
    queries: tuple
    encoders: dict[str, Remembered]
    damage: float = 0.05
    """Share of the stored vectors that a fault of the index hits."""
    fingerprints: dict = field(default_factory=dict)
    _indexes: int = 0

    @property
    def corpus(self) -> Path:
        """The corpus file: all documents, also those that are not indexed yet."""
        return self.folder / "corpus.jsonl"

    def with_documents(self, folder: Path, ids) -> World:
        """Give the same world with other documents in another folder."""
        folder.mkdir(parents=True, exist_ok=True)
        world = replace(self, folder=folder, texts={one: self.texts[one] for one in ids}, _indexes=0)
        lines = (json.dumps({"_id": one, "text": text}) for one, text in world.texts.items())
        world.corpus.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return world

    def fingerprint(self, encoder: str):
        """Measure an encoder once."""
        if encoder not in self.fingerprints:
            remembered = self.encoders[encoder]
            remembered.encode_queries(sentinel_texts()), remembered.encode_documents(sentinel_texts())
            self.fingerprints[encoder] = measure(remembered)
        return self.fingerprints[encoder]

    def vectors(self, encoder: str, ids) -> np.ndarray:
        """Encode documents."""
        return self.encoders[encoder].encode_documents([self.texts[one] for one in ids])

    def retriever(self, role, encoder: str, ids, vectors=None, *, made_by: str | None = None, width=None) -> Retriever:
        """Build a retriever: an index of `ids` with `vectors`, that says it was made by the encoder `made_by`."""
        ids = list(ids)
        vectors = self.vectors(encoder, ids) if vectors is None else vectors
        if width is None:
            self._indexes += 1
            place = self.folder / f"index-{self._indexes}"
            made = self.fingerprint(made_by or encoder)
            write_index(place, ids, vectors, encoder_name=made_by or encoder, fingerprint=made, now=1.0)
            index = ExactIndex.open(place)
        else:
            index = InvertedLists(ids, vectors, width)
        cached = CachedEncoder(self.encoders[encoder], 0)
        clusters = fit(index) if role == "reference" else None
        matches = (made_by or encoder) == encoder
        return Retriever(role, cached, index, self.fingerprint(encoder), index_matches=matches, clusters=clusters)

    def ask(self, situation: Situation, rng, n=LIVE):
        """Draw live queries."""
        weights = np.array([situation.traffic.get(query.slice, 0.0) for query in self.queries])
        sizes = {name: sum(query.slice == name for query in self.queries) for name in situation.traffic}
        weights /= np.array([max(1, sizes.get(query.slice, 0)) for query in self.queries])
        return [self.queries[i] for i in rng.choice(len(self.queries), n, p=weights / weights.sum())]


@dataclass(frozen=True)
class Accepted:
    """What is kept of the accepted situation."""

    record: Record
    book: Book
    live: dict[str, Moments]
    strata: str
    """What the live queries are split by: `slices`, `clusters` of the reference, or `both` crossed."""
    clusters: Clusters


def accept(world: World, situation: Situation, rng, *, probes=100, sample=400, strata="slices") -> Accepted:
    """Freeze probes, measure the live signal, and record the stack."""
    pair = situation.pair
    texts = list(dict.fromkeys(query.text for query in world.ask(situation, rng, 10 * probes)))[:probes]
    answers = {side: _answers(getattr(pair, side), texts) for side in SIDES}
    at_rest = {side: AtRest(None, KnownDocuments.of(getattr(pair, side).index)) for side in SIDES}
    frozen = tuple(Probe(text, "all", answers["deployed"][text], answers["reference"][text], text) for text in texts)
    live, fidelity = _live(world, situation, rng, strata, pair.reference.clusters)
    elsewhere = Elsewhere(fidelity=fidelity)
    run = inspect(
        pair, accepted=None, fingerprints={}, corpus=world.corpus, elsewhere=elsewhere, probes=texts, sample=sample
    )
    book = Book("book", 0.0, 0.0, pair.stack, K, frozen, **at_rest)
    return Accepted(_finish(run).record, book, live, strata, pair.reference.clusters)


def look(world: World, accepted: Accepted, now: Situation, rng, *, sample=400, corpus="world") -> Inspected:
    """Read every gauge on the situation of now, and nothing else; `corpus` None is a sidecar without one."""
    texts = [probe.digest for probe in accepted.book.probes]
    answers = {side: _answers(getattr(now.pair, side), texts) for side in SIDES}
    today = {side: KnownDocuments.of(getattr(now.pair, side).index) for side in SIDES}
    live, fidelity = _live(world, now, rng, accepted.strata, accepted.clusters)
    elsewhere = Elsewhere(
        frozen=compare_run(accepted.book, answers, today, at=1.0, stack=now.pair.stack, awake=len(texts)),
        live=split(accepted.live, live),
        clustered=accepted.strata != "slices",
        fidelity=fidelity,
    )
    run = inspect(
        now.pair,
        accepted=accepted.record,
        fingerprints={one.digest: one for one in world.fingerprints.values()},
        corpus=world.corpus if corpus else None,
        elsewhere=elsewhere,
        probes=texts,
        sample=sample,
    )
    return _finish(run)


def _answers(retriever: Retriever, texts) -> dict[str, Ranking]:
    return dict(zip(texts, retriever.search(texts, K, _ignore)[0], strict=True))


def _finish(run) -> Inspected:
    inspection = Inspection(run)
    while (done := inspection.step(0.05)) is None:
        pass
    return done


def _live(world: World, situation: Situation, rng, strata: str, clusters: Clusters):
    """Give the moments of the live overlap by stratum, and the fidelity where the service searches by itself."""
    asked = world.ask(situation, rng)
    unique = {query.text: query for query in asked}
    texts = list(unique)
    deployed = [one.ids for one in situation.pair.deployed.search(texts, K, _ignore)[0]]
    ranked, vectors = situation.pair.reference.search(texts, K, _ignore)
    overlap = dict(zip(texts, compare(deployed, [one.ids for one in ranked], k=K).overlap.tolist(), strict=True))
    number = dict(zip(texts, map(str, clusters.nearest(vectors)), strict=True))
    named = {
        "slices": {text: query.slice for text, query in unique.items()},
        "clusters": number,
        "both": {text: f"{query.slice} {number[text]}" for text, query in unique.items()},
    }[strata]
    moments: dict[str, Moments] = {}
    for query in asked:
        value = overlap[query.text]
        moments[named[query.text]] = moments.get(named[query.text], Moments()) + Moments(1, value, value**2)
    fidelity = None
    if situation.service_width is not None:
        retriever = situation.pair.deployed
        own = InvertedLists(
            retriever.index.ids, retriever.index.vectors(np.arange(retriever.index.size)), situation.service_width
        )
        served = [one.ids for one in own.search(retriever.encoder.encode_queries(texts), K)]
        agreed = dict(zip(texts, compare(served, deployed, k=K).overlap.tolist(), strict=True))
        values = np.array([agreed[query.text] for query in asked])
        fidelity = Sample(float(values.mean()), len(values), float(values.std()))
    return moments, fidelity


def _ignore(_name, _seconds):
    """Take the time of a phase."""


def make_world(
    folder: Path, *, documents: int | None = None, words: int | None = None, queries: int | None = None
) -> World:
    """Write and load the encoders; take the first documents and queries (spread over all slices), cut to `words`."""
    # A release that has been nudged carries a fifth of the next one's change.
    house, precision = _factors("house"), _factors("precision")
    recipes = {
        "base": [],
        "house": [(1.0, house)],
        "nudged": [(1.0, house), (0.2, precision)],
        "precision": [(1.0, precision)],
        "other": [(1.0, house)],
    }
    encoders = {}
    threads.use(2)
    for name, parts in recipes.items():
        model = materialise("base", folder / name, query_prompt=QUERY_PROMPT)
        _change(model / WEIGHTS_FILE, parts, permuted=name == "other")
        encoders[name] = Remembered(model)
    encoders["bare"] = Remembered(materialise("house", folder / "bare", query_prompt=None))
    passages = standard_library_passages()
    step = max(1, len(passages) // documents) if documents else 1
    texts = {one.id: " ".join(f"{one.title}\n{one.text}".split(" ")[:words]) for one in passages[::step][:documents]}
    asked, _ = load_demo_queries()
    every = max(1, len(asked) // queries) if queries else 1
    world = World(folder, texts, tuple(asked[::every]), encoders)
    return world.with_documents(folder / "world", texts)


def _factors(name) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    factors = load_file(delta_path(name))
    names = [key.removesuffix(".up") for key in factors if key.endswith(".up")]
    return {one: factors[f"{one}.up"].astype(np.float32) @ factors[f"{one}.down"].astype(np.float32) for one in names}


def _change(place: Path, parts, *, permuted: bool) -> None:
    """Add scaled low-rank changes to the weights.

    `permuted` numbers the hidden units anew in every layer: a model that ranks exactly as before, and whose vectors
    mean nothing to an index of the one before, as those of a second training from another seed.
    """
    from safetensors.numpy import load_file, save_file

    weights = load_file(place)
    for scale, changes in parts:
        for name, change in changes.items():
            weights[name] = (weights[name] + scale * change).astype(weights[name].dtype)
    if permuted:
        size = weights["embeddings.LayerNorm.weight"].shape[0]
        order = np.random.default_rng(3).permutation(size)
        weights = {name: _permuted(name, weight, order) for name, weight in weights.items()}
    save_file(weights, place, metadata={"format": "pt"})


def _permuted(name: str, weight: np.ndarray, order: np.ndarray) -> np.ndarray:
    if weight.ndim == 2 and name.startswith("embeddings"):
        weight = weight[:, order]
    elif "LayerNorm" in name or name.endswith("output.dense.bias"):
        weight = weight[order]
    elif name.endswith("output.dense.weight"):
        weight = weight[order, :]
    elif name.endswith(("query.weight", "key.weight", "value.weight", "intermediate.dense.weight")):
        weight = weight[:, order]
    return np.ascontiguousarray(weight)
