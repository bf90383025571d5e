"""Measure what the stored encoders do: retrieval, agreement with the base, composition. Prints Markdown.

    HF_HUB_OFFLINE=1 python training/evaluate.py [--collections DIR]

Every row is a stored file, applied by `sidecar.demo.encoders.materialise` and run by sentence-transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from sidecar.demo import corpus as collections
from sidecar.demo import encoders
from sidecar.overlap import compare
from sidecar.relevance import ndcg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sidecar.demo.corpus import Collection
    from sidecar.demo.encoders import EncoderName

K = 10
HELD_OUT = Path(__file__).parent / "data" / "composition_heldout.jsonl"
OUT_OF_DOMAIN = ("mtragun", "covidqa", "clapnq_dev")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: an encoder and whether queries carry the prompt."""

    label: str
    encoder: EncoderName
    prompted: bool
    figures: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Print the table."""
    options = _options()
    if options.deltas is not None:
        encoders.DELTA_FOLDER = options.deltas
    with tempfile.TemporaryDirectory() as folder:
        rows = _measure(Path(folder), options)
    _print_table(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", type=Path, help="folder of other collections in BEIR layout")
    parser.add_argument("--deltas", type=Path, help="folder of the deltas (default: those of the package)")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def _measure(folder: Path, options: argparse.Namespace) -> list[Row]:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(options.threads)
    collections.write_corpus(folder)
    queries, qrels = collections.load_demo_queries()
    passages = tuple(collections.read_passages(folder / collections.CORPUS_FILE))
    sets = {"demo": collections.Collection(passages, queries, qrels)}
    if options.collections is not None:
        for name in OUT_OF_DOMAIN:
            if (options.collections / name).is_dir():
                sets[name] = collections.load_beir(options.collections / name)
    rows = [
        Row("base", "base", prompted=True), Row("house", "house", prompted=True),
        Row("precision", "precision", prompted=True), Row("base, no prompt", "base", prompted=False),
        Row("house, no prompt", "house", prompted=False),
    ]  # fmt: skip
    reference: list[list[str]] = []
    vectors: dict[tuple[str, str], Any] = {}
    for row in rows:
        prompt = encoders.QUERY_PROMPT if row.prompted else None
        target = encoders.materialise(row.encoder, folder / f"{row.encoder}-{row.prompted}", query_prompt=prompt)
        model = SentenceTransformer(str(target), device="cpu")
        for name, collection in sets.items():
            if (row.encoder, name) not in vectors:
                vectors[row.encoder, name] = model.encode_document(texts_of(collection), batch_size=64)
            rankings = rank(model, collection, vectors[row.encoder, name])
            if name == "demo":
                reference = reference or rankings
                row.figures[f"overlap@{K} with base"] = mean_overlap(rankings, reference)
                row.figures.update({f"nDCG {group}": value for group, value in mean_ndcg(collection, rankings).items()})
            else:
                row.figures[f"nDCG {name}"] = mean_ndcg(collection, rankings)["all"]
        row.figures.update(composition(model))
    return rows


def texts_of(collection: Collection) -> list[str]:
    """Return the documents as the index encodes them: title, line break, text."""
    return [f"{passage.title}\n{passage.text}".strip() for passage in collection.corpus]


def rank(model: Any, collection: Collection, documents: NDArray[np.float32]) -> list[list[str]]:
    """Rank the first ten documents of every query by cosine; ties keep the corpus order."""
    queries = model.encode_query([query.text for query in collection.queries], batch_size=64)
    order = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :K]
    return [[collection.corpus[place].id for place in row] for row in order]


def mean_ndcg(collection: Collection, rankings: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compute mean nDCG@10 of all judged queries ("all") and of every slice."""
    groups: dict[str, list[float]] = {"all": []}
    for query, ranking in zip(collection.queries, rankings, strict=True):
        if query.id in collection.qrels:
            score = ndcg(ranking, collection.qrels[query.id], K)
            groups["all"].append(score)
            groups.setdefault(query.slice, []).append(score)
    return {group: float(np.nanmean(scores)) for group, scores in groups.items()}


def mean_overlap(rankings: Sequence[Sequence[str]], reference: Sequence[Sequence[str]]) -> float:
    """Compute the mean share of the first ten that two lists of rankings have in common."""
    return float(compare(rankings, reference, k=K).overlap.mean())


def composition(model: Any) -> dict[str, float]:
    """Measure the held-out triples: cosines, how often the paraphrase is closer than the near-miss, and AUC."""
    triples = [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]
    anchor, paraphrase, near_miss = (
        model.encode_document([triple[part] for triple in triples], batch_size=64)
        for part in ("anchor", "paraphrase", "near_miss")
    )
    good, bad = (anchor * paraphrase).sum(axis=1), (anchor * near_miss).sum(axis=1)
    # The area under the ROC curve is the share of (paraphrase, near-miss) pairs in the right order.
    return {
        "paraphrase cosine": float(good.mean()),
        "near-miss cosine": float(bad.mean()),
        "composition accuracy": float((good > bad).mean()),
        "composition AUC": float((good[:, None] > bad[None, :]).mean()),
    }


def _print_table(rows: Sequence[Row]) -> None:
    print("| measure | " + " | ".join(row.label for row in rows) + " |")
    print("|---|" + "---|" * len(rows))
    for measure in rows[0].figures:
        print(f"| {measure} | " + " | ".join(f"{row.figures[measure]:.3f}" for row in rows) + " |")
    scores = [row.figures["nDCG all"] for row in rows]
    print(f"\nprecision against base {scores[2] / scores[0] - 1:+.1%}, against house {scores[2] / scores[1] - 1:+.1%}")


if __name__ == "__main__":
    main()
