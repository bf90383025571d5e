"""Clusters of the reference's documents: found, the same everywhere, and indifferent to batches."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from sidecar.encoders.fingerprint import SENTINELS, Fingerprint
from sidecar.indexes.exact import ExactIndex
from sidecar.indexes.write import write_index
from sidecar.replay.clusters import CLUSTERS, Clusters, fit

DIMENSION = 32


def index_of(folder, vectors) -> ExactIndex:
    """Write an index of these vectors and open it."""
    sentinels = np.zeros((SENTINELS, vectors.shape[1]), dtype=np.float32)
    fingerprint = Fingerprint("0" * 12, "1" * 12, sentinels, sentinels.copy())
    ids = [f"d{number}" for number in range(len(vectors))]
    write_index(folder, ids, vectors.astype(np.float32), encoder_name="none", fingerprint=fingerprint, now=0.0)
    return ExactIndex.open(folder)


def topics(count, each, seed, spread=0.05):
    """Give `each` unit vectors around each of `count` axes, in mixed order, and the axis of each."""
    generator = np.random.default_rng(seed)
    axis = generator.permutation(np.repeat(np.arange(count), each))
    vectors = np.eye(count, DIMENSION)[axis] + spread * generator.standard_normal((len(axis), DIMENSION))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), axis


@pytest.fixture
def index(tmp_path) -> ExactIndex:
    """Give an index of 600 documents about six things."""
    return index_of(tmp_path / "index", topics(6, 100, 1)[0])


def test_documents_and_queries_about_one_thing_share_a_cluster(index):
    """With as many centres as topics each topic is one cluster, also for queries that are nobody's document.

    The axes are at right angles and the noise of 0.05 in 32 dimensions is at 0.28 of the axis: within a topic cosines
    are near 0.93, between topics near 0.
    """
    found = fit(index, clusters=6)
    queries, axis = topics(6, 20, 2)
    numbers = found.nearest(queries.astype(np.float32))
    assert len(set(zip(axis.tolist(), numbers, strict=True))) == 6
    assert set(numbers) == set(range(6))


def test_every_process_finds_the_same_clusters(index, tmp_path):
    """Another process that opens the same index numbers the same queries alike; another index has other centres."""
    queries = topics(6, 50, 3, spread=0.5)[0].astype(np.float32)
    np.save(tmp_path / "queries.npy", queries)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from sidecar.indexes.exact import ExactIndex\n"
        "from sidecar.replay.clusters import fit\n"
        "print(fit(ExactIndex.open(Path(sys.argv[1]))).nearest(np.load(sys.argv[2])))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "index"), str(tmp_path / "queries.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(fit(index).nearest(queries))
    assert len(fit(index).centres) == CLUSTERS
    other = fit(index_of(tmp_path / "other", topics(6, 100, 4)[0]))
    assert not np.allclose(other.centres, fit(index).centres)


def test_a_query_does_not_depend_on_its_batch(index):
    """Alone, among others and in another order a query has the same cluster; so it has if two are as close."""
    found = fit(index)
    queries = topics(6, 50, 5, spread=0.5)[0].astype(np.float32)
    together = found.nearest(queries)
    assert [found.nearest(queries[row : row + 1])[0] for row in range(len(queries))] == together
    assert found.nearest(queries[::-1]) == together[::-1]
    assert found.nearest(queries[:0]) == []
    twins = Clusters(np.repeat(found.centres[:1], 3, axis=0))
    assert set(twins.nearest(queries)) == {0}


def test_a_longer_vector_is_no_other_query(index):
    """Only the direction counts, for encoders whose vectors are not of length 1, also a vector of zeros has a place."""
    found = fit(index)
    queries = topics(6, 10, 6)[0].astype(np.float32)
    assert found.nearest(queries * np.float32(7.5)) == found.nearest(queries)
    assert found.nearest(np.zeros((1, DIMENSION), dtype=np.float32)) == [0]


@pytest.mark.parametrize(("different", "copies"), [(1, 1), (1, 200), (3, 1), (5, 40)])
def test_there_are_no_more_clusters_than_different_documents(tmp_path, different, copies):
    """A tiny corpus, or one of copies, has few clusters, and each different document one of its own."""
    vectors = np.repeat(np.eye(different, DIMENSION), copies, axis=0)
    found = fit(index_of(tmp_path / "index", vectors))
    assert len(found.centres) == different
    assert sorted(found.nearest(np.eye(different, DIMENSION, dtype=np.float32))) == list(range(different))


def test_a_large_index_is_sampled_evenly():
    """Of 20,000 documents at most the asked number is read, from the first to the last."""

    class Recorded:
        """An index that remembers which rows were read."""

        size = 20_000

        def vectors(self, rows):
            """Give random rows."""
            self.rows = rows
            return np.random.default_rng(1).standard_normal((len(rows), DIMENSION)).astype(np.float32)

    index = Recorded()
    fit(index, sample=500)
    assert len(index.rows) == 500
    assert (index.rows[0], index.rows[-1]) == (0, 19_999)
    assert set(np.diff(index.rows)) <= {40, 41}


@pytest.mark.slow
def test_a_question_belongs_to_the_cluster_of_the_text_that_answers_it(base):
    """With the real encoder, a question in other words lands at the document about the same matter."""
    retriever = base.retriever
    found = fit(retriever.index)
    documents = found.nearest(retriever.index.vectors(np.arange(5)))
    assert sorted(documents) == list(range(5))
    vectors = retriever.encoder.encode_queries(["can I send my order back?", "how long is my personal data kept?"])
    assert found.nearest(vectors) == [documents[0], documents[4]]
