"""The fingerprint of a real model: blind to runtime noise, sensitive to everything that changes what the model does.

The bound between the two is `SAME_DISTANCE`; the derivation is at its definition and in docs/encoders.md. The
tests ask for half a decade of room on either side (a factor of 3), so that another machine's noise does not
tip them.
"""

from __future__ import annotations

import hashlib
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sidecar
from sidecar.encoders import fingerprint as module
from sidecar.encoders.fingerprint import (
    SAME_DISTANCE,
    SENTINELS,
    Fingerprint,
    adopt,
    document_distance,
    document_similarity,
    matches_documents,
    matches_queries,
    measure,
    query_distance,
    same,
    sentinel_texts,
    similarity,
)
from sidecar.encoders.sentence_transformer import (
    SentenceTransformerEncoder,
    SentenceTransformerOptions,
    load,
)
from sidecar.errors import DataError, EncoderError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from sidecar.encoders.protocol import Vectors

ROOM = 3.0

# Of texts.jsonl as published: the texts must never change without a new version of the probe set.
PUBLISHED = "d71b117e238147336522ce8adabd92107034d418ce611188f7ed27ee3fba3881"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with that many torch threads; one is fastest for single short texts on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Prepared:
    """An encoder that encodes all sentinels in batches first, and answers `measure` from that."""

    inner: SentenceTransformerEncoder
    batch_size: int
    name: str = "prepared"
    dimension: int = 384
    _known: dict[str, Vectors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Encode in the arrangement that is to be compared with one text at a time."""
        batched = replace(self.inner, options=replace(self.inner.options, batch_size=self.batch_size))
        self._known = dict(zip(sentinel_texts(), batched.encode_queries(sentinel_texts()), strict=True))

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Look the texts up."""
        return np.array([self._known[text] for text in texts])

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Look the texts up; this model has no prompts."""
        return self.encode_queries(texts)

    def close(self) -> None:
        """Hold nothing."""


def changed(folder: Path, change: Callable[[SentenceTransformerEncoder], None], **options: Any) -> Fingerprint:
    """Load the model anew, change it, and measure it."""
    encoder = load(SentenceTransformerOptions(str(folder), **options))
    change(encoder)
    with threads(1):
        return measure(encoder)


def unchanged(_encoder: SentenceTransformerEncoder) -> None:
    """Leave the model as it is."""


def disturb(relative: float) -> Callable[[SentenceTransformerEncoder], None]:
    """Give every weight relative Gaussian noise of that size."""

    def change(encoder: SentenceTransformerEncoder) -> None:
        import torch

        generator = torch.Generator().manual_seed(20)
        with torch.no_grad():
            for weights in encoder._model.parameters():
                weights.mul_(1.0 + relative * torch.randn(weights.shape, generator=generator))

    return change


def pool_first_token(encoder: SentenceTransformerEncoder) -> None:
    """Take the first token's vector instead of the mean."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    encoder._model[1] = Pooling(384, "cls")


def quantise(encoder: SentenceTransformerEncoder) -> None:
    """Make the linear layers int8 with dynamic activation scales."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the function's successor
        encoder._model = torch.ao.quantization.quantize_dynamic(
            encoder._model,
            {torch.nn.Linear},
            dtype=torch.qint8,
        )


@pytest.mark.slow
class TestNoise:
    """What must not change a fingerprint."""

    @pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (1, 8), (2, 64)])
    def test_threads_and_batches_are_noise(
        self,
        minilm: SentenceTransformerEncoder,
        minilm_fingerprint: Fingerprint,
        count: int,
        batch_size: int,
    ) -> None:
        """Whatever the arrangement, the distance stays a third of the bound away and the known digest is adopted."""
        with threads(count):
            again = measure(Prepared(minilm, batch_size))
        assert query_distance(again, minilm_fingerprint) < SAME_DISTANCE / ROOM
        assert same(again, minilm_fingerprint)
        assert adopt(again, [minilm_fingerprint]) is minilm_fingerprint

    def test_other_kernels_are_noise(
        self, minilm_folder: Path, minilm_fingerprint: Fingerprint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another implementation of attention and of the matrix product, as on another CPU, stays below the bound."""
        import torch

        def other_kernels(encoder: SentenceTransformerEncoder) -> None:
            encoder._model.transformers_model.set_attn_implementation("eager")

        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
        again = changed(minilm_folder, other_kernels)
        assert 0 < query_distance(again, minilm_fingerprint) < SAME_DISTANCE / ROOM

    def test_a_second_load_repeats_to_the_bit(self, minilm: SentenceTransformerEncoder, minilm_folder: Path) -> None:
        """One machine and one configuration give one digest without any adopting; the batch size is no part of it."""
        with threads(1):
            first = measure(minilm)
        again = changed(minilm_folder, unchanged, batch_size=3)
        assert np.array_equal(again.vectors, first.vectors)
        assert again == first


@pytest.mark.slow
class TestEffects:
    """What must change a fingerprint, by the vectors and by the digest."""

    @pytest.mark.parametrize(
        ("change", "options", "graded"),
        [
            # `graded` bounds the similarity from docs/encoders.md's table, rounded to leave the last digit
            # free.
            (unchanged, {"dtype": "float16"}, (0.999, 1.0)),
            (unchanged, {"dtype": "bfloat16"}, (0.999, 1.0)),
            (unchanged, {"max_length": 255}, (0.999, 1.0)),
            (unchanged, {"max_length": 128}, (0.98, 0.999)),
            (unchanged, {"query_prompt": "query: ", "document_prompt": "query: "}, (0.8, 0.95)),
            (pool_first_token, {}, (0.3, 0.7)),
            (quantise, {}, (0.7, 0.99)),
            (disturb(1e-3), {}, (0.999, 1.0)),
            (disturb(1e-4), {}, (0.999, 1.0)),
        ],
        ids=[
            "float16",
            "bfloat16",
            "255 tokens",
            "128 tokens",
            "prefix",
            "pooling",
            "int8",
            "0.1 %",
            "0.01 %",
        ],
    )
    def test_a_change_is_seen_on_both_sides(
        self,
        minilm_folder: Path,
        minilm_fingerprint: Fingerprint,
        change: Callable[[SentenceTransformerEncoder], None],
        options: dict[str, object],
        graded: tuple[float, float],
    ) -> None:
        """Each change is at least three times the bound away, gets its own digests, and is graded by its size."""
        other = changed(minilm_folder, change, **options)
        assert query_distance(other, minilm_fingerprint) > SAME_DISTANCE * ROOM
        assert document_distance(other, minilm_fingerprint) > SAME_DISTANCE * ROOM
        assert not same(other, minilm_fingerprint)
        adopted = adopt(other, [minilm_fingerprint])
        assert adopted.digest != minilm_fingerprint.digest
        assert adopted.document_digest != minilm_fingerprint.document_digest
        assert graded[0] < similarity(other, minilm_fingerprint) < graded[1]

    def test_a_lost_query_prefix_is_no_mismatch_of_the_documents(self, minilm_folder: Path) -> None:
        """With the query prompt gone the query side differs and the document side keeps its digest."""
        prompted = changed(minilm_folder, unchanged, query_prompt="query: ")
        lost = adopt(changed(minilm_folder, unchanged), [prompted])
        assert not matches_queries(lost, prompted)
        assert matches_documents(lost, prompted)
        assert lost.document_digest == prompted.document_digest
        assert lost.query_digest != prompted.query_digest
        assert lost.digest != prompted.digest
        assert document_similarity(lost, prompted) == pytest.approx(1.0, abs=1e-9)


def synthetic(vectors: NDArray[np.float64], documents: NDArray[np.float64] | None = None) -> Fingerprint:
    """Fingerprint an encoder that gives these vectors."""

    @dataclass
    class Given:
        name: str = "given"
        dimension: int = vectors.shape[1]

        def encode_queries(self, texts: Sequence[str]) -> Vectors:
            return vectors[[sentinel_texts().index(text) for text in texts]].astype(np.float32)

        def encode_documents(self, texts: Sequence[str]) -> Vectors:
            source = vectors if documents is None else documents
            return source[[sentinel_texts().index(text) for text in texts]].astype(np.float32)

        def close(self) -> None:
            pass

    return measure(Given())


def unit_rows(seed: int, dimension: int = 384) -> NDArray[np.float64]:
    """Give random unit rows, one a sentinel."""
    rows = np.random.default_rng(seed).standard_normal((SENTINELS, dimension))
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def moved(rows: NDArray[np.float64], distance: float, seed: int) -> NDArray[np.float64]:
    """Move every row by that L2 distance in a random direction."""
    away = np.random.default_rng(seed).standard_normal(rows.shape)
    result: NDArray[np.float64] = rows + distance * away / np.linalg.norm(away, axis=1, keepdims=True)
    return result


class TestDigest:
    """The short name, on vectors of known noise."""

    def test_noise_rarely_moves_the_digest_and_float16_always_does(self) -> None:
        """Of 200 encoders, noise renames few and an effect as small as float16's renames all.

        512 projections move by about 0.8 x distance each, so the expected crossings of cell borders are 512 x
        0.8 x 7e-7 x 32 = 0.009 for noise: 200 encoders give 1.8 on average, and more than 8 with probability
        2e-4 (Poisson). At 1.27e-3 it is 16.6 crossings: none in 200 trials but with probability 200 e^-16.6 =
        1e-5.
        """
        renamed = missed = 0
        for seed in range(200):
            rows = unit_rows(seed)
            digest = module._side_digest(b"query", rows.astype(np.float32))
            noisy, effect = moved(rows, 7e-7, seed + 1000), moved(rows, 1.27e-3, seed + 2000)
            renamed += digest != module._side_digest(b"query", noisy.astype(np.float32))
            missed += digest == module._side_digest(b"query", effect.astype(np.float32))
        assert renamed <= 8
        assert missed == 0

    def test_different_encoders_never_share_a_digest_after_adopting(self) -> None:
        """Where the grid cannot tell two encoders apart, adopting gives the second a digest of its own."""
        first = synthetic(unit_rows(1))
        second = synthetic(moved(unit_rows(1), 1e-4, 2))
        collided = Fingerprint(first.query_digest, first.document_digest, second.vectors, second.document_vectors)
        assert not same(collided, first)
        adopted = adopt(collided, [first])
        assert not {adopted.digest, adopted.query_digest} & {first.digest, first.query_digest}
        assert adopt(collided, [first, adopted]) is adopted

    def test_adopting_takes_the_closest_known_and_each_side_by_itself(self) -> None:
        """An encoder with the queries of one known and the documents of another gets both known side digests."""
        a, b = synthetic(unit_rows(1)), synthetic(unit_rows(2))
        mixed = adopt(synthetic(moved(unit_rows(1), 1e-6, 3), moved(unit_rows(2), 1e-6, 4)), [b, a])
        assert (mixed.query_digest, mixed.document_digest) == (a.query_digest, b.document_digest)
        assert mixed.digest not in {a.digest, b.digest}

    def test_nothing_known_leaves_the_measured_one(self) -> None:
        """The first encoder of a deployment keeps the digest that it was measured with."""
        measured = synthetic(unit_rows(1))
        assert adopt(measured, []) == measured

    def test_the_length_of_unnormalised_rows_does_not_narrow_the_grid(self) -> None:
        """Rows of length 50 with the same relative noise are named as stably as unit rows (bound as above)."""
        renamed = 0
        for seed in range(100):
            rows = 50.0 * unit_rows(seed)
            digest = module._side_digest(b"query", rows.astype(np.float32))
            noisy = moved(rows, 50.0 * 7e-7, seed + 1000).astype(np.float32)
            renamed += digest != module._side_digest(b"query", noisy)
        assert renamed <= 8


class TestComparing:
    """Distance and similarity at their edges."""

    @pytest.mark.parametrize(("distance", "expected"), [(1e-5, True), (2.9e-5, True), (3.1e-5, False)])
    def test_the_bound_is_where_it_says(self, distance: float, expected: bool) -> None:
        """A shift just below the bound is the same encoder, one just above is another."""
        assert same(synthetic(unit_rows(1)), synthetic(moved(unit_rows(1), distance, 2))) is expected

    def test_one_changed_sentinel_is_enough(self) -> None:
        """A change that touches one text only (a shorter max length) is a change."""
        rows = unit_rows(1)
        rows[17] = moved(rows, 1e-3, 2)[17]
        assert not same(synthetic(unit_rows(1)), synthetic(rows))

    def test_another_dimension_is_another_encoder(self) -> None:
        """Different widths compare as 0 similar and infinitely far, without an error."""
        a, b = synthetic(unit_rows(1)), synthetic(unit_rows(1, 128))
        assert similarity(a, b) == document_similarity(a, b) == 0.0
        assert not matches_queries(a, b)
        assert not matches_documents(a, b)
        assert adopt(a, [b]) == a

    def test_similarity_survives_zero_and_broken_rows(self) -> None:
        """A zero row against itself is equal, a NaN row counts as 0; neither poisons the mean."""
        rows = unit_rows(1)
        rows[0] = 0.0
        zero = synthetic(rows)
        assert similarity(zero, zero) == pytest.approx(1.0, abs=1e-9)
        assert same(zero, zero)
        broken = Fingerprint("q" * 12, "d" * 12, np.full_like(zero.vectors, np.nan), zero.document_vectors)
        assert similarity(broken, zero) == 0.0
        assert not same(broken, broken)

    @settings(deadline=None, max_examples=30)
    @given(seed=st.integers(0, 10_000), other=st.integers(0, 10_000), dimension=st.sampled_from([1, 2, 33, 384]))
    def test_similarity_is_symmetric_bounded_and_one_for_itself(self, seed: int, other: int, dimension: int) -> None:
        """A cosine is a cosine, for any two encoders."""
        a, b = unit_rows(seed, dimension).astype(np.float32), unit_rows(other, dimension).astype(np.float32)
        first, second = Fingerprint("a", "a", a, a), Fingerprint("b", "b", b, b)
        assert similarity(first, second) == similarity(second, first)
        assert -1.0 <= similarity(first, second) <= 1.0
        assert similarity(first, first) == pytest.approx(1.0, abs=1e-9)


class TestBytes:
    """The stored form."""

    @pytest.mark.parametrize("seeds", [(1, 1), (1, 2)], ids=["one side", "two sides"])
    def test_a_round_trip_keeps_digests_and_bits(self, seeds: tuple[int, int]) -> None:
        """What is read is what was written; equal sides are stored once."""
        wrote = synthetic(unit_rows(seeds[0]), unit_rows(seeds[1]))
        data = wrote.to_bytes()
        read = Fingerprint.from_bytes(data)
        assert read == wrote
        assert np.array_equal(read.vectors, wrote.vectors)
        assert np.array_equal(read.document_vectors, wrote.document_vectors)
        assert len(data) < len(set(seeds)) * SENTINELS * 384 * 4 + 100

    @pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign"])
    def test_damage_is_refused(self, damage: str) -> None:
        """Nothing that was not written by `to_bytes` is read."""
        data = synthetic(unit_rows(1, 8)).to_bytes()
        broken = {
            "empty": b"",
            "cut": data[:-1],
            "flipped": data[:100] + bytes([data[100] ^ 1]) + data[101:],
            "foreign": b"PK\x03\x04" + data,
        }[damage]
        with pytest.raises(EncoderError, match="damaged"):
            Fingerprint.from_bytes(broken)

    def test_another_format_and_other_sentinels_are_named(self) -> None:
        """A fingerprint of another version is not compared with ours by accident."""
        data = synthetic(unit_rows(1, 8)).to_bytes()
        body = data[: -module.CHECKSUM_BYTES]
        newer = body[:4] + b"\x02" + body[5:]
        with pytest.raises(EncoderError, match="format 2; rule: format 1"):
            Fingerprint.from_bytes(newer + module._checksum(newer))
        place = body.index(module._sentinel_digest())
        others = body[:place] + bytes(8) + body[place + 8 :]
        with pytest.raises(EncoderError, match="other sentinel texts"):
            Fingerprint.from_bytes(others + module._checksum(others))

    def test_vectors_cannot_be_changed(self) -> None:
        """A fingerprint's vectors are read-only, so that its digest stays true."""
        with pytest.raises(ValueError, match="read-only"):
            synthetic(unit_rows(1)).vectors[0, 0] = 1.0


class TestTexts:
    """The probe set itself."""

    def test_the_texts_are_the_published_ones(self) -> None:
        """Changing a sentinel changes every fingerprint in the field, so it must be done on purpose."""
        assert hashlib.sha256("\0".join(sentinel_texts()).encode()).hexdigest() == PUBLISHED

    def test_there_are_64_different_texts(self) -> None:
        """No text is there twice."""
        assert len(set(sentinel_texts())) == SENTINELS

    def test_lengths_reach_from_one_token_past_every_usual_limit(self, minilm_folder: Path) -> None:
        """Some text has one token, some lie between 64 and 256 tokens, and one passes 512."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        lengths = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in sentinel_texts()]
        assert min(lengths) == 1
        assert max(lengths) > 512
        assert any(64 < length < 256 for length in lengths)

    @pytest.mark.parametrize(
        "script",
        ["LATIN", "CYRILLIC", "GREEK", "CJK", "HIRAGANA", "HANGUL", "ARABIC", "HEBREW", "DEVANAGARI", "THAI"],
    )
    def test_a_script_is_represented(self, script: str) -> None:
        """A tokenizer that lost a script shows in the fingerprint."""
        import unicodedata

        letters = {letter for text in sentinel_texts() for letter in text if letter.isalpha()}
        assert any(unicodedata.name(letter, "").startswith(script) for letter in letters)

    def test_a_wheel_carries_the_texts_inside_the_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The copy inside the package is found first, and a missing one is named."""
        package = tmp_path / "site" / "sidecar"
        inside = package / "probes" / "sentinel"
        inside.mkdir(parents=True)
        monkeypatch.setattr(sidecar, "__file__", str(package / "__init__.py"))
        read = sentinel_texts.__wrapped__
        with pytest.raises(DataError, match=r"probes/sentinel/texts\.jsonl is missing"):
            read()
        source = Path(module.__file__).parents[2] / "probes" / "sentinel" / "texts.jsonl"
        (inside / "texts.jsonl").write_bytes(source.read_bytes())
        assert read() == sentinel_texts()
        (inside / "texts.jsonl").write_bytes(source.read_bytes() + b"{}\n")
        with pytest.raises(DataError, match="line 65"):
            read()
