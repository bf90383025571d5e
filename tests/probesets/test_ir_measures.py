"""The same scores as an independent program: `ir-measures`, which asks trec_eval, on real questions and rankings.

The rankings are those of a lexical retriever in the place of an encoder: seconds instead of minutes, and judgements do
not care who ranked. The public collections are not part of the repository; without them the bundled set is left.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import ir_measures
import numpy as np
import pytest

from sidecar.drift.labelled import MEASURES, means
from sidecar.probesets.library import bundled_folder
from sidecar.probesets.measure import ask, finish, score_rankings
from sidecar.probesets.read import read_set

COLLECTIONS = Path(__file__).parents[2].parent / "shared" / "data" / "collections"
NAMES = ("clapnq_dev", "condaqa_dev", "covidqa", "mtragun", "xquad_en")
WIDTH = 4_096
THEIRS = dict(zip(MEASURES, ("nDCG@10", "RR@10", "Success@1", "R@10", "R@100"), strict=True))
"""Names of the measures there."""


class Lexical:
    """A retriever of words as an encoder: hashed words, weighted by how rare they are among the documents."""

    def __init__(self, documents):
        counts = self._counts(documents)
        self._weights = np.log((1 + len(documents)) / (1 + np.count_nonzero(counts, axis=0))).astype(np.float32)

    def encode_documents(self, texts):
        return self.encode_queries(texts)

    def encode_queries(self, texts):
        vectors = np.sqrt(self._counts(texts)) * self._weights
        return vectors / np.maximum(1e-9, np.linalg.norm(vectors, axis=1, keepdims=True))

    def _counts(self, texts):
        counts = np.zeros((len(texts), WIDTH), dtype=np.float32)
        for row, text in zip(counts, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[zlib.crc32(word.encode()) % WIDTH] += 1
        return counts


def independently(one, rankings):
    """Score with ir-measures; the scores fall with the rank, so that no tie is theirs to break."""
    judged = [
        ir_measures.Qrel(query, document, int(grade))
        for query, grades in one.judgements.items()
        for document, grade in grades.items()
    ]
    ranked = [
        ir_measures.ScoredDoc(query.id, document, float(-rank))
        for query, ranking in zip(one.queries, rankings, strict=True)
        for rank, document in enumerate(ranking.ids)
    ]
    measures = {name: ir_measures.parse_measure(theirs) for name, theirs in THEIRS.items()}
    found = {
        (str(one.measure), one.query_id): one.value
        for one in ir_measures.iter_calc(list(measures.values()), judged, ranked)
    }
    averages = ir_measures.calc_aggregate(list(measures.values()), judged, ranked)
    return (
        {name: [found[theirs, query.id] for query in one.queries] for name, theirs in THEIRS.items()},
        {name: averages[measure] for name, measure in measures.items()},
    )


def agrees(one):
    """Compare all measures, query by query and on average, and give our means."""
    rankings = finish(ask(one, Lexical(list(one.corpus.values()))))
    scores = score_rankings(one, rankings)
    values, averages = independently(one, rankings)
    for name in MEASURES:
        np.testing.assert_allclose(scores.values[name], values[name], rtol=0.0, atol=1e-9, err_msg=name)
        assert means(scores)["all"][name] == pytest.approx(averages[name], abs=1e-9)
    return means(scores)["all"]


def test_the_bundled_set_scores_as_elsewhere():
    """Graded judgements of six domains: every query in every measure."""
    one = read_set(bundled_folder() / "generalization")
    assert {grade for grades in one.judgements.values() for grade in grades.values()} == {1.0, 2.0}
    found = agrees(one)
    assert 0.2 < found["ndcg@10"] < 0.9
    assert found["acc@1"] < found["mrr@10"] < found["recall@10"] < found["recall@100"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_public_collection_scores_as_elsewhere(name):
    """A BEIR folder as it is, without a `probe.yaml`: every judged query in every measure."""
    folder = COLLECTIONS / name
    if not folder.is_dir():
        pytest.skip(f"the public collection {name} is not on this machine")
    one = read_set(folder)
    assert len(one.queries) > 100
    found = agrees(one)
    assert 0.05 < found["acc@1"] <= found["mrr@10"]
