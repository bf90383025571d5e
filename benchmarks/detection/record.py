"""Record what real encoders do to real queries: one number per query and state of the deployed retriever.

    HF_HUB_OFFLINE=1 python benchmarks/detection/record.py [--threads 1]

The demo's corpus and its 441 queries, searched exactly. The accepted state is `house` with its prompt. Every other
state is one that a team could ship: the fine-tuning accident at several strengths (weights on the line from `house` to
`precision`), an index of which a tenth or half is another encoder's, a lost prompt; and two decoys, a benign re-tune
and vectors stored as int8. Per query we keep how many of the first ten documents each state shares with two
references: `base`, the independent encoder that `house` was tuned from, and the frozen copy of the accepted state.
Queries are told apart by a number, their slice, and a topic (k-means of the base's query vectors); no text leaves this
script.

Writes `recorded.npz`. Another Python has other documentation and gives slightly other numbers, so the
file in the repository is what the benchmark reads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from sidecar.demo.corpus import CORPUS_FILE, load_demo_queries, read_passages, write_corpus
from sidecar.demo.encoders import QUERY_PROMPT, delta_path, materialise
from sidecar.relevance import ndcg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

K = 10
TOPICS = 12
SEED = 20260416
STRENGTHS = (0.1, 0.25, 0.5, 0.75, 1.0)
RETUNE = 0.05
"""How far the benign re-tune goes towards `precision`; the fine-tuning that is real, stopped early."""
TARGET = Path(__file__).parent / "recorded.npz"


def main() -> None:
    """Encode, search, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", type=Path, default=TARGET)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        columns, about = record(Path(folder))
    np.savez_compressed(options.target, about=json.dumps(about, indent=1), **columns)
    print(json.dumps(about, indent=1))


def record(folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Give the columns of the recording (each (441,)) and what it is."""
    from scipy.cluster.vq import kmeans2

    write_corpus(folder)
    queries, qrels = load_demo_queries()
    passages = list(read_passages(folder / CORPUS_FILE))
    texts = [f"{passage.title}\n{passage.text}".strip() for passage in passages]
    asked = [query.text for query in queries]

    def encode(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        model = _load(folder / name)
        found = model.encode_query(asked, batch_size=64), model.encode_document(texts, batch_size=64)
        print(name, flush=True)
        return found

    for name in ("base", "house"):
        materialise(name, folder / name, query_prompt=QUERY_PROMPT)
    materialise("house", folder / "house-bare", query_prompt=None)
    base, house = encode("base"), encode("house")
    bare = _load(folder / "house-bare").encode_query(asked, batch_size=64)
    tuned = {}
    for strength in (RETUNE, *STRENGTHS):
        _write_between(folder / f"s{strength}", strength)
        tuned[strength] = encode(f"s{strength}")

    order = np.random.default_rng(SEED).permutation(len(texts))

    def mixed(share: float) -> NDArray[Any]:
        vectors, rows = house[1].copy(), order[: int(share * len(texts))]
        vectors[rows] = tuned[1.0][1][rows]
        return vectors

    scale = np.abs(house[1]).max(axis=1, keepdims=True) / 127.0
    coarse = (np.rint(house[1] / scale).astype(np.int8) * scale).astype(np.float32)

    states = {"accepted": house, "int8 vectors": (house[0], coarse), "benign re-tune": tuned[RETUNE]}
    states |= {f"fine-tuned {strength:g}": tuned[strength] for strength in STRENGTHS}
    states |= {"tenth of index": (house[0], mixed(0.1)), "half index": (house[0], mixed(0.5))}
    states |= {"lost prompt": (bare, house[1])}
    rankings = {name: _rank(*vectors) for name, vectors in states.items()}
    references = {"base": _rank(*base), "frozen": rankings["accepted"]}

    _, topic = kmeans2(base[0].astype(np.float64), TOPICS, seed=np.random.default_rng(SEED), minit="++")
    slices = sorted({query.slice for query in queries})
    columns: dict[str, NDArray[Any]] = {
        "slice": np.array([slices.index(query.slice) for query in queries], dtype=np.uint8),
        "topic": topic.astype(np.uint8),
    }
    about: dict[str, Any] = {
        "command": "python benchmarks/detection/record.py",
        "seed": SEED,
        "queries": len(queries),
        "documents": len(texts),
        "k": K,
        "slices": slices,
        "topic sizes": np.bincount(topic, minlength=TOPICS).tolist(),
        "versions": {name: version(name) for name in ("torch", "sentence-transformers", "numpy", "scipy")}
        | {"python": platform.python_version()},
        "states": {},
    }
    for name, ranking in rankings.items():
        measured = {"nDCG@10": round(_mean_ndcg(queries, qrels, passages, ranking), 4)}
        for reference, other in references.items():
            shared = (ranking[:, :, None] == other[:, None, :]).sum(axis=(1, 2)).astype(np.uint8)
            columns[f"{reference}|{name}"] = shared
            measured[f"overlap with {reference}"] = round(float(shared.mean()) / K, 4)
        about["states"][name] = measured
    return columns, about


def _load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def _write_between(target: Path, strength: float) -> None:
    """Write the encoder whose weights lie at `strength` on the line from `house` (0) to `precision` (1)."""
    from safetensors.numpy import load_file, save_file

    materialise("house", target, query_prompt=QUERY_PROMPT)
    weights = load_file(target / "model.safetensors")
    for name, share in (("house", -strength), ("precision", strength)):
        factors = load_file(delta_path(name))
        for key in sorted(factors):
            if key.endswith(".up"):
                weight = key.removesuffix(".up")
                up, down = factors[key].astype(np.float32), factors[f"{weight}.down"].astype(np.float32)
                weights[weight] = (weights[weight] + share * (up @ down)).astype(weights[weight].dtype)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def _rank(queries: NDArray[Any], documents: NDArray[Any]) -> NDArray[Any]:
    """Give the rows of the first ten documents of each query; ties keep the corpus order."""
    return np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :K]


def _mean_ndcg(queries: Sequence[Any], qrels: Any, passages: Sequence[Any], ranking: NDArray[Any]) -> float:
    scores = [
        ndcg([passages[row].id for row in rows], qrels[query.id], K)
        for query, rows in zip(queries, ranking, strict=True)
        if query.id in qrels
    ]
    return float(np.nanmean(scores))


if __name__ == "__main__":
    main()
