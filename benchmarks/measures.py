"""Which measure tells damage from harmless shuffles: rank overlaps beside the score-aware measures, on real encoders.

How far do near ties move each measure: an HNSW graph, int8 vectors, a graph tuned down to 90 % recall? And how far does
real damage move it, in units of its own spread: the encoders of the demo, and mixtures of their weights as weaker
versions? The effect size of a condition is its mean less that of the accepted encoder behind a healthy graph (faiss's
own defaults), divided by the root mean square of both standard deviations (Cohen's d, per query).

The tolerance is chosen on every other query of the demo's collection: the smallest of a fixed list at which neither
int8 vectors nor the healthy graph cost `tolerant` more than 0.001. The tables are of the other half, and of whole other
collections where `--collection` names some (folders in BEIR layout).

faiss-cpu is no dependency of this project: install it into an environment of its own that sees the project's.

    python benchmarks/measures.py [--collection FOLDER ...] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar import overlap, score_loss
from sidecar.demo.corpus import Collection, load_beir, load_demo_queries, standard_library_passages
from sidecar.demo.encoders import QUERY_PROMPT, materialise
from sidecar.encoders import threads
from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

K = 10
TOLERANCES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05)
LINKS, BUILD_EFFORT, SEARCH_EFFORT = 32, 40, 16
MAY_COST = 0.001
RECALL = 0.9
WEIGHTS = "model.safetensors"
ENCODERS = {
    "base": ("base", "base", 0.0),
    "house": ("house", "house", 0.0),
    "third": ("house", "precision", 1 / 3),  # of the way
    "precision": ("precision", "precision", 0.0),
}
# What the scores come from, what was accepted, and what is deployed instead.
CASES = (("base", "base", ("house", "third")), ("house", "house", ("third", "precision")),
         ("base", "house", ("third", "precision")))  # fmt: skip
MEASURES = ("overlap", "rbo", "tolerant", "retained")


@dataclass(frozen=True)
class Encoded:
    """Query and document vectors of one encoder."""

    queries: NDArray[np.float32]
    documents: NDArray[np.float32]


def main() -> None:
    """Choose the tolerance and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collection", type=Path, action="append", default=[])
    parser.add_argument("--cache", type=Path, help="keep the vectors here for the next run")
    options = parser.parse_args()
    threads.use(threads.available())
    with tempfile.TemporaryDirectory() as made:
        cache = options.cache or Path(made)
        cache.mkdir(parents=True, exist_ok=True)
        demo = Collection(tuple(standard_library_passages()), load_demo_queries()[0])
        collections = {"demo": demo, **{folder.name: load_beir(folder) for folder in options.collection}}
        encoded = {
            name: {encoder: vectors(encoder, name, one, cache) for encoder in ENCODERS}
            for name, one in collections.items()
        }
    tuning = {name: Encoded(one.queries[::2], one.documents) for name, one in encoded["demo"].items()}
    encoded["demo"] = {name: Encoded(one.queries[1::2], one.documents) for name, one in encoded["demo"].items()}
    tolerance = chosen(tuning)
    for name, versions in encoded.items():
        base = versions["base"]
        print(f"\n{name}: {len(base.queries)} queries, {len(base.documents)} documents, tolerance {tolerance}")
        tables(versions, tolerance)


def vectors(encoder: str, collection: str, content: Collection, cache: Path) -> Encoded:
    """Encode a collection, or take what an earlier run left."""
    place = cache / f"{collection}-{encoder.replace(' ', '-')}.npz"
    if not place.is_file():
        with tempfile.TemporaryDirectory() as made:
            model = load(SentenceTransformerOptions(str(mixed(*ENCODERS[encoder], Path(made))), batch_size=32))
            texts = [f"{one.title}: {one.text}" if one.title else one.text for one in content.corpus]
            documents = model.encode_documents(texts)
            queries = model.encode_queries([one.text for one in content.queries])
        np.savez(place, documents=documents, queries=queries)
    with np.load(place) as kept:
        return Encoded(kept["queries"], kept["documents"])


def mixed(one: Any, other: Any, share: float, folder: Path) -> Path:
    """Write the encoder that lies `share` of the way from one to the other."""
    from safetensors.numpy import load_file, save_file

    target = materialise(one, folder / "one", query_prompt=QUERY_PROMPT)
    if share:
        far = load_file(materialise(other, folder / "other", query_prompt=QUERY_PROMPT) / WEIGHTS)
        near = load_file(target / WEIGHTS)
        weights = {name: (value + share * (far[name] - value)).astype(value.dtype) for name, value in near.items()}
        save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    return target


def exact(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.int64]:
    """Give the rows of the best K documents, best first."""
    found: NDArray[np.int64] = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :K]
    return found


def hnsw(
    links: int = LINKS, effort: int = SEARCH_EFFORT
) -> Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.int64]]:
    """Give a search through an HNSW graph with so many links a node and so many candidates a search."""
    import faiss

    def search(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.int64]:
        graph = faiss.IndexHNSWFlat(documents.shape[1], links, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = BUILD_EFFORT
        faiss.omp_set_num_threads(1)  # the same graph on every run
        graph.add(documents)
        graph.hnsw.efSearch = effort
        found: NDArray[np.int64] = graph.search(queries, K)[1]
        return found

    return search


healthy = hnsw()


def eight_bits(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.int64]:
    """Search document vectors that were rounded to eight bits a component, as vector stores do."""
    import faiss

    store = faiss.IndexScalarQuantizer(documents.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    store.train(documents)
    store.add(documents)
    found: NDArray[np.int64] = store.search(queries, K)[1]
    return found


def tuned_down(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.int64]:
    """Search the graph whose mean recall comes closest to RECALL."""
    truth = exact(queries, documents)
    tries = [hnsw(links, effort)(queries, documents) for links in (3, 4, 6) for effort in (10, 12, 16, 20, 28, 40)]
    return min(tries, key=lambda found: abs(RECALL - overlap_of(truth, found).mean()))


def overlap_of(truth: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give the share of the true best K that was found, a query."""
    return np.array([len(set(a) & set(b)) / K for a, b in zip(truth.tolist(), found.tolist(), strict=True)])


def measured(reference: Encoded, found: NDArray[np.int64], tolerance: float) -> dict[str, NDArray[np.float64]]:
    """Give each measure of the found rows against the reference's exact ranking, a query."""
    truth = exact(reference.queries, reference.documents)
    ranks = overlap.compare(names(truth), names(found), k=K)
    # As the product does: rounded to six decimals, so that a document has one score.
    scores = np.round(reference.queries.astype(np.float64) @ reference.documents.astype(np.float64).T, 6)
    loss = score_loss.compare(
        np.take_along_axis(scores, truth, axis=1).tolist(),
        [
            [row[document] if document >= 0 else None for document in ids]
            for row, ids in zip(scores, found, strict=True)
        ],
        k=K,
        tolerance=tolerance,
    )
    return {
        "overlap": ranks.overlap, "rbo": ranks.rbo, "tolerant": loss.tolerant, "retained": 1 - loss.regret,
    }  # fmt: skip


def names(rows: NDArray[np.int64]) -> Sequence[Sequence[str]]:
    """Turn rows into ids; faiss gives -1 where it found nothing."""
    return [[str(one) for one in row if one >= 0] for row in rows.tolist()]


def chosen(versions: dict[str, Encoded]) -> float:
    """Give the smallest tolerance that harmless indexes do not notice, and show what each costs and what it sees."""
    base = versions["base"]
    harmless = {"healthy": healthy, "int8": eight_bits, f"recall {RECALL}": tuned_down}
    indexed = {name: search(base.queries, base.documents) for name, search in harmless.items()}
    shipped = [(truth, accepted, drifted[0]) for truth, accepted, drifted in CASES]
    print(
        f"choosing the tolerance on {len(base.queries)} queries: loss of `tolerant`, and effect size of what is shipped"
    )
    heads = [*indexed, *(f"{truth}: {accepted} to {drifted}" for truth, accepted, drifted in shipped)]
    print("| tolerance | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads))
    fit = []
    for tolerance in TOLERANCES:
        lost = [1 - measured(base, found, tolerance)["tolerant"].mean() for found in indexed.values()]
        seen = [
            effect(*(
                measured(versions[truth], healthy(one.queries, one.documents), tolerance)["tolerant"]
                for one in (versions[accepted], versions[drifted])
            ))
            for truth, accepted, drifted in shipped
        ]  # fmt: skip
        if max(lost[:2]) <= MAY_COST:
            fit.append(tolerance)
        cells = [*(f"{one:.4f}" for one in lost), *(f"{one:+.2f}" for one in seen)]
        print(f"| {tolerance} | " + " | ".join(cells) + " |")
    return min(fit)


def tables(versions: dict[str, Encoded], tolerance: float) -> None:
    """Print the means and effect sizes of every condition, for a frozen and for an independent reference."""
    for truth, accepted, drifted in CASES:
        own = versions[accepted]
        found = {f"{accepted}, HNSW (healthy)": healthy(own.queries, own.documents)}
        found[f"{accepted}, int8"] = eight_bits(own.queries, own.documents)
        found[f"{accepted}, HNSW at recall {RECALL}"] = tuned_down(own.queries, own.documents)
        for name in drifted:
            new = versions[name]
            found[f"{name}, re-indexed, HNSW"] = healthy(new.queries, new.documents)
            found[f"{name}, old index, HNSW"] = healthy(new.queries, own.documents)
        results = {name: measured(versions[truth], rows, tolerance) for name, rows in found.items()}
        calm = next(iter(results.values()))
        print(f"\nreference: {truth}; accepted: {accepted}. Mean, and effect size against the healthy index")
        print("| deployed | " + " | ".join(f"{one}@{K}" for one in MEASURES) + " |\n|---|" + "---|" * len(MEASURES))
        for name, values in results.items():
            cells = [f"{values[one].mean():.3f} ({effect(calm[one], values[one]):+.2f})" for one in MEASURES]
            print(f"| {name} | " + " | ".join(cells) + " |")


def effect(calm: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Give Cohen's d of a condition against the healthy one."""
    spread = np.sqrt((calm.var(ddof=1) + values.var(ddof=1)) / 2)
    return float((values.mean() - calm.mean()) / spread) if spread else 0.0


if __name__ == "__main__":
    main()
