"""Exact search: the true best k, ties by id, and nothing else having a say."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.encoders import threads
from sidecar.encoders.fingerprint import Fingerprint, adopt, measure
from sidecar.errors import DataError, MismatchError, VectorIndexError
from sidecar.indexes import exact
from sidecar.indexes.exact import DECIMALS, ExactIndex
from sidecar.indexes.manifest import MANIFEST_FILE, Manifest
from sidecar.indexes.protocol import Index
from sidecar.indexes.write import write_index

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sidecar.encoders.protocol import Vectors
    from sidecar.encoders.sentence_transformer import SentenceTransformerEncoder

DIMENSION = 16


def unit_rows(count: int, seed: int, dimension: int = DIMENSION) -> Vectors:
    """Give random unit rows."""
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    result: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return result


def fingerprint_of(dimension: int) -> Fingerprint:
    """Give some fingerprint of that dimension."""
    rows = unit_rows(64, 1, dimension)
    return Fingerprint("0" * 12, "1" * 12, rows, rows)


def index_of(folder: Path, ids: list[str], vectors: Vectors, block: int | None = None) -> ExactIndex:
    """Write an index and open it."""
    facts = {"encoder_name": "none", "fingerprint": fingerprint_of(vectors.shape[1]), "now": 12.5}
    write_index(folder, ids, vectors, **facts)  # type: ignore[arg-type]
    return ExactIndex.open(folder, verify=True, block=block)


def slow_search(ids: list[str], matrix: Vectors, query: NDArray[np.float32], k: int) -> list[tuple[str, float]]:
    """Rank everything in float64 in plain Python: the definition that `search` must agree with."""
    scored = []
    for one, row in zip(ids, matrix, strict=True):
        score = float((row.astype(np.float64) * query.astype(np.float64)).sum())
        scored.append((-(round(score, DECIMALS) + 0.0), one))
    return [(one, -negative + 0.0) for negative, one in sorted(scored)[:k]]


class TestSearch:
    """What a search gives."""

    def test_an_exact_index_is_an_index(self, tmp_path: Path) -> None:
        """It fits the protocol and says what it holds."""
        index = index_of(tmp_path / "index", ["b", "a"], unit_rows(2, 1))
        assert isinstance(index, Index)
        assert (index.size, index.dimension, index.ids) == (2, DIMENSION, ("b", "a"))
        assert index.generation == index.manifest.generation

    @pytest.mark.parametrize("k", [1, 10, 999, 1000, 5000])
    def test_it_agrees_with_ranking_everything(self, tmp_path: Path, k: int) -> None:
        """The best k of 1,000 are those of the definition, with the scores, also where k is above the size."""
        matrix, queries = unit_rows(1000, 1), unit_rows(7, 2)
        ids = [f"d{number}" for number in range(1000)]
        found = index_of(tmp_path / "index", ids, matrix, block=128).search(queries, k)
        for ranking, query in zip(found, queries, strict=True):
            expected = slow_search(ids, matrix, query, k)
            assert ranking.ids == tuple(one for one, _ in expected)
            assert ranking.scores == tuple(score for _, score in expected)

    @settings(deadline=None, max_examples=60)
    @given(
        seed=st.integers(0, 10_000),
        size=st.integers(1, 80),
        different=st.integers(1, 80),
        k=st.integers(1, 90),
        block=st.integers(1, 90),
        early=st.booleans(),
    )
    def test_ties_and_blocks_never_matter(  # noqa: PLR0917  (hypothesis draws them)
        self,
        tmp_path_factory: pytest.TempPathFactory,
        seed: int,
        size: int,
        different: int,
        k: int,
        block: int,
        early: bool,
    ) -> None:
        """With any number of copies, any block size, and early cutting of candidates, the definition holds."""
        generator = np.random.default_rng(seed)
        matrix = unit_rows(different, seed)[generator.integers(0, different, size)]
        ids = [f"d{number}" for number in generator.permutation(size)]
        queries = unit_rows(3, seed + 1)
        index = index_of(tmp_path_factory.mktemp("ties") / "index", ids, matrix, block)
        with pytest.MonkeyPatch.context() as patch:
            if early:
                patch.setattr(exact, "CANDIDATES_AT_ONCE", 0)
            found = index.search(queries, k)
        for ranking, query in zip(found, queries, strict=True):
            expected = slow_search(ids, matrix, query, k)
            assert list(zip(ranking.ids, ranking.scores or (), strict=True)) == expected

    def test_batches_blocks_and_threads_give_the_same_bits(self, tmp_path: Path) -> None:
        """Ids and scores of a query are equal whether it came alone, with others, or in other blocks.

        BLAS does give other last bits for these shapes: the first assertion makes sure that there is
        something to hide.
        """
        matrix, queries = unit_rows(5000, 1, 384), unit_rows(64, 2, 384)
        together = queries @ matrix.T
        alone = np.concatenate([queries[row : row + 1] @ matrix.T for row in range(len(queries))])
        assert (together != alone).any()
        ids = [f"d{number}" for number in range(len(matrix))]
        index = index_of(tmp_path / "index", ids, matrix)
        expected = index.search(queries, 20)
        assert [index.search(queries[row : row + 1], 20)[0] for row in range(len(queries))] == expected
        for block in (17, 1024, 5000):
            index.block = block
            assert index.search(queries, 20) == expected
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1):
            assert index.search(queries, 20) == expected

    def test_copies_with_other_last_bits_are_ranked_by_id(self, tmp_path: Path) -> None:
        """Copies of a document whose vectors differ by float32 noise come in the order of their ids.

        Noise of 5e-8 in the score of 1 straddles no rounding border: 1.0 is half a step, 5e-7, from the
        nearest.
        """
        vector = unit_rows(1, 1)
        noise = np.random.default_rng(3).uniform(-1e-8, 1e-8, (50, DIMENSION)).astype(np.float32)
        ids = [f"d{number:02d}" for number in np.random.default_rng(4).permutation(50)]
        (ranking,) = index_of(tmp_path / "index", ids, vector + noise).search(vector, 10)
        assert ranking.ids == tuple(f"d{number:02d}" for number in range(10))

    def test_a_collapsed_encoder_does_not_exhaust_memory(self, tmp_path: Path) -> None:
        """Where all documents are one vector, scratch memory stays bounded and the smallest ids win.

        All 64 x 30,000 pairs are candidates. Kept whole with their scores they would take 40 bytes each, 77
        MB, and twice that while they grow; the bound of 2^18 pairs plus one slice (2^19 scores) and 16 MiB of
        products, with sorting, stays under 150 MB.
        """
        import tracemalloc

        matrix = np.repeat(unit_rows(1, 1), 30_000, axis=0)
        ids = [f"d{number:05d}" for number in range(len(matrix))]
        index = index_of(tmp_path / "index", ids, matrix)
        tracemalloc.start()
        found = index.search(unit_rows(64, 2), 10)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert all(ranking.ids == tuple(ids[:10]) for ranking in found)
        assert peak < 150e6

    def test_many_queries_are_taken_in_groups(self, tmp_path: Path) -> None:
        """A batch above the internal group size gives what its parts give."""
        ids = [f"d{number}" for number in range(50)]
        index = index_of(tmp_path / "index", ids, unit_rows(50, 1))
        queries = unit_rows(exact.QUERIES_AT_ONCE * 2 + 1, 2)
        found = index.search(queries, 3)
        assert len(found) == len(queries)
        assert found[-1:] == index.search(queries[-1:], 3)

    def test_lengths_other_than_one_are_inner_products(self, tmp_path: Path) -> None:
        """Vectors that are not of unit length are ranked by inner product, exactly, over several magnitudes."""
        scale = np.logspace(-3, 3, 500)[:, None]
        matrix = (unit_rows(500, 1) * scale).astype(np.float32)
        ids = [f"d{number}" for number in range(500)]
        query = unit_rows(1, 2) * np.float32(7.0)
        (ranking,) = index_of(tmp_path / "index", ids, matrix, block=64).search(query, 20)
        assert list(ranking.ids) == [one for one, _ in slow_search(ids, matrix, query[0], 20)]

    def test_no_queries_give_no_rankings(self, tmp_path: Path) -> None:
        """An empty batch is no error."""
        assert index_of(tmp_path / "index", ["a"], unit_rows(1, 1)).search(np.empty((0, DIMENSION), "f4"), 3) == []

    def test_what_cannot_be_searched_is_refused(self, tmp_path: Path) -> None:
        """Another width, k below 1, numbers that are not finite and a closed index each name their rule."""
        index = index_of(tmp_path / "index", ["a"], unit_rows(1, 1))
        with pytest.raises(VectorIndexError, match=r"rule: \(n, 16\)"):
            index.search(unit_rows(1, 1, 8), 1)
        with pytest.raises(VectorIndexError, match="at least 1"):
            index.search(unit_rows(1, 1), 0)
        with pytest.raises(VectorIndexError, match="not finite"):
            index.search(np.full((1, DIMENSION), np.nan, "f4"), 1)
        index.close()
        index.close()
        with pytest.raises(VectorIndexError, match="is closed"):
            index.search(unit_rows(1, 1), 1)

    def test_stored_vectors_can_be_read_back(self, tmp_path: Path) -> None:
        """Chosen rows come back as they were written, as a copy."""
        matrix = unit_rows(5, 1)
        index = index_of(tmp_path / "index", list("abcde"), matrix)
        assert np.array_equal(index.vectors(np.array([3, 0])), matrix[[3, 0]])


class TestScores:
    """What documents that somebody else found are worth here."""

    @settings(deadline=None, max_examples=60)
    @given(seed=st.integers(0, 10_000), size=st.integers(1, 60), k=st.integers(1, 20))
    def test_a_pair_has_the_score_that_the_search_gives_it(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int, size: int, k: int
    ) -> None:
        """To the last bit, whatever is asked with it: members of the top k reach the k-th score, others never pass it.

        A regret out of rounding is thereby impossible. Rows are drawn with repetition, so that ties occur.
        """
        generator = np.random.default_rng(seed)
        matrix = unit_rows(30, seed, 384)[generator.integers(0, 30, size)]
        ids = [f"d{number}" for number in generator.permutation(size)]
        queries = unit_rows(4, seed + 1, 384)
        index = index_of(tmp_path_factory.mktemp("scores") / "index", ids, matrix)
        everything = index.scores(queries, [ids] * len(queries))
        for ranking, scores in zip(index.search(queries, k), everything, strict=True):
            found = dict(zip(ids, scores, strict=True))
            assert tuple(found[one] for one in ranking.ids) == ranking.scores
            outside = [score for one, score in found.items() if one not in ranking.ids]
            assert all(score <= ranking.scores[-1] for score in outside)
        shuffled = [list(generator.permutation(ids)[: generator.integers(0, size + 1)]) for _ in queries]
        for wanted, scores, row in zip(shuffled, index.scores(queries, shuffled), everything, strict=True):
            assert scores == tuple(row[ids.index(one)] for one in wanted)

    def test_a_document_that_is_not_there_has_no_score(self, tmp_path: Path) -> None:
        """Ids before, between and behind those of the index are unknown, not 0, wherever they stand in the list."""
        index = index_of(tmp_path / "index", ["b", "d"], unit_rows(2, 1))
        ((a, b, c, d, e), nothing, (only,)) = index.scores(unit_rows(3, 2), [list("abcde"), [], ["aa"]])
        assert a is c is e is only is None
        assert nothing == ()
        assert isinstance(b, float)
        assert isinstance(d, float)
        assert index.scores(unit_rows(0, 1), []) == []

    def test_many_pairs_are_scored_in_bounded_memory(self, tmp_path: Path) -> None:
        """64 queries with 500 documents each are 32,000 pairs: at once they would take 98 MB as float64, twice.

        Steps of 4,096 pairs take 25 MB for two arrays; rows, ids and results of all pairs some 100 bytes each.
        """
        import tracemalloc

        ids = [f"d{number:03d}" for number in range(500)]
        index = index_of(tmp_path / "index", ids, unit_rows(500, 1, 384))
        queries = unit_rows(64, 2, 384)
        tracemalloc.start()
        found = index.scores(queries, [ids] * 64)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(found[63]) == 500
        assert peak < 60e6

    def test_what_cannot_be_scored_is_refused(self, tmp_path: Path) -> None:
        """Another width, numbers that are not finite, another number of lists and a closed index name their rule."""
        index = index_of(tmp_path / "index", ["a"], unit_rows(1, 1))
        with pytest.raises(VectorIndexError, match=r"rule: \(n, 16\)"):
            index.scores(unit_rows(1, 1, 8), [["a"]])
        with pytest.raises(VectorIndexError, match="not finite"):
            index.scores(np.full((1, DIMENSION), np.nan, "f4"), [["a"]])
        with pytest.raises(VectorIndexError, match="2 lists of ids and 1 query vectors"):
            index.scores(unit_rows(1, 1), [["a"], ["a"]])
        index.close()
        with pytest.raises(VectorIndexError, match="is closed"):
            index.scores(unit_rows(1, 1), [["a"]])


class TestEncoderOfAnIndex:
    """An index belongs to one encoder's documents."""

    def test_another_encoder_is_refused_with_both_names(
        self, tmp_path: Path, minilm_fingerprint: Fingerprint, minilm: SentenceTransformerEncoder
    ) -> None:
        """The sentence names the digests and how alike the encoders are; the right encoder passes."""
        write_index(
            tmp_path / "index", ["a"], minilm.encode_documents(["x"]),
            encoder_name="minilm", fingerprint=minilm_fingerprint, now=0.0,
        )  # fmt: skip
        index = ExactIndex.open(tmp_path / "index")
        index.require_encoder(minilm_fingerprint)
        other = -minilm_fingerprint.vectors
        wrong = Fingerprint("9" * 12, "8" * 12, other, other.copy())
        with pytest.raises(MismatchError) as caught:
            index.require_encoder(wrong)
        for part in ("minilm", minilm_fingerprint.digest, wrong.digest, "888888888888", "is -1.0000"):
            assert part in str(caught.value)

    def test_a_changed_query_side_is_no_mismatch(self, tmp_path: Path, any_fingerprint: Fingerprint) -> None:
        """A lost query prefix leaves the index searchable."""
        write_index(
            tmp_path / "index", ["a"], unit_rows(1, 1),
            encoder_name="x", fingerprint=any_fingerprint, now=0.0,
        )  # fmt: skip
        lost = Fingerprint("7" * 12, "6" * 12, unit_rows(64, 9), any_fingerprint.document_vectors)
        ExactIndex.open(tmp_path / "index").require_encoder(lost)

    def test_the_fingerprint_comes_back_with_its_adopted_digest(
        self, tmp_path: Path, minilm: SentenceTransformerEncoder, minilm_fingerprint: Fingerprint
    ) -> None:
        """The stored fingerprint is a known one that a later measurement can adopt."""
        write_index(
            tmp_path / "index", ["a"], minilm.encode_documents(["x"]),
            encoder_name="minilm", fingerprint=minilm_fingerprint, now=0.0,
        )  # fmt: skip
        stored = ExactIndex.open(tmp_path / "index").encoder_fingerprint
        with threads.single():
            assert adopt(measure(minilm), [stored]) == minilm_fingerprint


class TestFiles:
    """Damaged, missing and replaced files."""

    def test_a_missing_index_says_how_to_make_one(self, tmp_path: Path) -> None:
        """A folder without a manifest is no index."""
        with pytest.raises(VectorIndexError, match="rag-drift index build"):
            ExactIndex.open(tmp_path)

    @pytest.mark.parametrize("kind", ["vectors-*.f32", "ids-*.jsonl", "encoder-*.fingerprint"])
    def test_a_missing_file_is_named(self, tmp_path: Path, kind: str) -> None:
        """The message names the file that is not there."""
        index_of(tmp_path / "index", ["a"], unit_rows(1, 1)).close()
        next((tmp_path / "index").glob(kind)).unlink()
        with pytest.raises(VectorIndexError, match=f"lacks {kind.split('-', maxsplit=1)[0]}"):
            ExactIndex.open(tmp_path / "index")

    def test_cut_vectors_are_refused_without_reading_them(self, tmp_path: Path) -> None:
        """A truncated matrix is seen by its size."""
        index_of(tmp_path / "index", ["a", "b"], unit_rows(2, 1)).close()
        vectors = next((tmp_path / "index").glob("vectors-*"))
        vectors.write_bytes(vectors.read_bytes()[:-4])
        with pytest.raises(VectorIndexError, match=r"124 bytes; rule: 2 documents x 16 x 4 = 128"):
            ExactIndex.open(tmp_path / "index")

    @pytest.mark.parametrize("kind", ["vectors-*.f32", "ids-*.jsonl"])
    def test_a_flipped_bit_is_found_when_asked_for(self, tmp_path: Path, kind: str) -> None:
        """`verify` compares the checksums of matrix and ids."""
        index_of(tmp_path / "index", ["a", "b"], unit_rows(2, 1)).close()
        place = next((tmp_path / "index").glob(kind))
        content = bytearray(place.read_bytes())
        content[1] ^= 1
        place.write_bytes(content)
        ExactIndex.open(tmp_path / "index")
        with pytest.raises(VectorIndexError, match="checksum"):
            ExactIndex.open(tmp_path / "index", verify=True)

    @pytest.mark.parametrize("content", ['"a"\n', '"a"\n"b"\n"c"\n', '"a"\n7\n', '"a"\nb\n'])
    def test_ids_that_do_not_fit_are_refused(self, tmp_path: Path, content: str) -> None:
        """Too few, too many, not strings, not JSON."""
        index_of(tmp_path / "index", ["a", "b"], unit_rows(2, 1)).close()
        next((tmp_path / "index").glob("ids-*")).write_text(content)
        with pytest.raises(VectorIndexError, match=r"ids-.*(rule: 2 JSON strings|not a JSON string)"):
            ExactIndex.open(tmp_path / "index")

    def test_a_damaged_fingerprint_is_an_index_error(self, tmp_path: Path) -> None:
        """The message names the file."""
        index_of(tmp_path / "index", ["a"], unit_rows(1, 1)).close()
        next((tmp_path / "index").glob("encoder-*")).write_bytes(b"x")
        with pytest.raises(VectorIndexError, match=r"encoder-.*damaged"):
            ExactIndex.open(tmp_path / "index")

    def test_replacing_is_safe_for_an_open_reader(self, tmp_path: Path) -> None:
        """A reader keeps its old index, the next one gets the new, and the old files are gone from the folder."""
        folder, query = tmp_path / "index", unit_rows(1, 9)
        old = index_of(folder, ["a", "b"], unit_rows(2, 1))
        before = old.search(query, 2)
        new = index_of(folder, ["c", "d", "e"], unit_rows(3, 2))
        assert old.search(query, 2) == before
        assert set(new.search(query, 3)[0].ids) == {"c", "d", "e"}
        assert sorted(place.name for place in folder.iterdir()) == sorted([MANIFEST_FILE, *new.manifest.files])

    def test_readers_that_open_during_replacements_see_whole_indexes(self, tmp_path: Path) -> None:
        """100 replacements in a second thread: every opening gives one of the two indexes, whole and verified."""
        folder = tmp_path / "index"
        contents = {2: unit_rows(2, 1), 3: unit_rows(3, 2)}

        def write(size: int) -> None:
            ids = [f"{size}-{number}" for number in range(size)]
            fingerprint = fingerprint_of(DIMENSION)
            write_index(folder, ids, contents[size], encoder_name="x", fingerprint=fingerprint, now=0.0)

        write(2)

        def write_many() -> None:
            for turn in range(100):
                write(2 + turn % 2)

        writer = threading.Thread(target=write_many)
        writer.start()
        opened = 0
        while writer.is_alive() or opened == 0:
            index = ExactIndex.open(folder, verify=True)
            assert set(index.search(unit_rows(1, 9), 9)[0].ids) == {
                f"{index.size}-{number}" for number in range(index.size)
            }
            opened += 1
        writer.join()


class TestWriting:
    """Indexes of vectors that exist already."""

    def test_the_generation_names_the_content(self, tmp_path: Path) -> None:
        """Same ids and vectors: same generation, whenever and wherever written; any change: another."""
        matrix = unit_rows(2, 1)
        first = index_of(tmp_path / "a", ["a", "b"], matrix).generation
        assert index_of(tmp_path / "b", ["a", "b"], matrix).generation == first
        assert index_of(tmp_path / "c", ["b", "a"], matrix).generation != first
        assert index_of(tmp_path / "d", ["a", "b"], np.nextafter(matrix, np.float32(2))).generation != first

    @pytest.mark.parametrize(
        ("ids", "rows", "error", "rule"),
        [
            ([], 0, DataError, "at least one document"),
            (["a", "a"], 2, DataError, "document 1 .*repeated id"),
            (["a", ""], 2, DataError, "document 1 .*empty id"),
            (["a"], 2, VectorIndexError, "one row for each of 1 ids"),
        ],
        ids=["none", "repeated", "empty", "rows"],
    )
    def test_impossible_content_is_refused(
        self, tmp_path: Path, ids: list[str], rows: int, error: type[Exception], rule: str
    ) -> None:
        """Nothing is left behind at the target."""
        with pytest.raises(error, match=rule):
            index_of(tmp_path / "index", ids, unit_rows(rows, 1))
        assert list(tmp_path.iterdir()) == []

    def test_numbers_that_are_not_finite_are_refused(self, tmp_path: Path) -> None:
        """A NaN in a document is refused when it is written, not when it is found."""
        matrix = unit_rows(2, 1)
        matrix[1, 3] = np.inf
        with pytest.raises(VectorIndexError, match="not finite"):
            index_of(tmp_path / "index", ["a", "b"], matrix)

    def test_ids_of_any_kind_survive(self, tmp_path: Path) -> None:
        """Newlines, quotes and other scripts in an id are kept."""
        ids = ["line\nbreak", 'quo"te', "документ", "\u2028", " "]
        assert index_of(tmp_path / "index", ids, unit_rows(5, 1)).ids == tuple(ids)


class TestManifest:
    """The file that says what an index is."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Give a folder with a good index."""
        index_of(tmp_path / "index", ["a"], unit_rows(1, 1)).close()
        return tmp_path / "index"

    def test_it_reads_what_it_wrote(self, folder: Path) -> None:
        """A round trip keeps every fact."""
        manifest = Manifest.read(folder)
        manifest.write(folder)
        assert Manifest.read(folder) == manifest
        assert (manifest.created_at, manifest.documents, manifest.dtype) == (12.5, 1, "float32")

    @pytest.mark.parametrize(
        ("change", "rule"),
        [
            ({"format": 2}, "format 2; rule: format 1"),
            ({"documents": None}, "lacks the key 'documents'"),
            ({"documents": "1"}, "'documents' is '1'; rule: int"),
            ({"documents": True}, "'documents' is True; rule: int"),
            ({"documents": 0}, "at least 1 x 1"),
            ({"dtype": "float16"}, "float16; rule: float32"),
            ({"generation": "../../x"}, "letters and digits"),
        ],
    )
    def test_a_wrong_key_is_named(self, folder: Path, change: dict[str, object], rule: str) -> None:
        """The message has the file, the key, the value and the rule."""
        place = folder / MANIFEST_FILE
        content = {**json.loads(place.read_text()), **change}
        place.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
        with pytest.raises(VectorIndexError, match=rule):
            Manifest.read(folder)

    @pytest.mark.parametrize(
        ("content", "rule"), [("{", "not JSON"), ("[]", "rule: a JSON object"), ("\xff", "not JSON")]
    )
    def test_what_is_not_a_manifest_is_refused(self, folder: Path, content: str, rule: str) -> None:
        """Broken JSON, another type, not UTF-8."""
        (folder / MANIFEST_FILE).write_bytes(content.encode("latin-1"))
        with pytest.raises(VectorIndexError, match=rule):
            Manifest.read(folder)
