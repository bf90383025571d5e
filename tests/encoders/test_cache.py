"""The query cache: right vectors, few calls, bounded memory. On a small encoder that counts its calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.encoders.cache import CachedEncoder
from sidecar.encoders.protocol import Encoder
from sidecar.errors import ConfigurationError, EncoderError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.encoders.protocol import Vectors
    from sidecar.encoders.sentence_transformer import SentenceTransformerEncoder


@dataclass
class CountingEncoder:
    """Give every text a vector from its hash and note what was asked."""

    name: str = "counting"
    dimension: int = 4
    calls: list[list[str]] = field(default_factory=list)
    fails: bool = False
    closed: bool = False

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Note the texts and encode them."""
        if self.fails:
            message = "out of order"
            raise EncoderError(message)
        self.calls.append(list(texts))
        rows = [np.frombuffer(sha256(text.encode()).digest()[:4], dtype=np.uint8) for text in texts]
        return np.array(rows, dtype=np.float32).reshape(-1, 4)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Give the negative, so that the modes differ."""
        return -self.encode_queries(texts)

    def close(self) -> None:
        """Note it."""
        self.closed = True


def test_a_cached_encoder_is_an_encoder() -> None:
    """It stands wherever an encoder stands, with the inner name and dimension."""
    cached = CachedEncoder(CountingEncoder(), 3)
    assert isinstance(cached, Encoder)
    assert (cached.name, cached.dimension) == ("counting", 4)


def test_known_and_repeated_texts_are_not_encoded_again() -> None:
    """A repeat within a call and a repeat across calls both cost nothing and count as hits."""
    inner = CountingEncoder()
    cached = CachedEncoder(inner, 10)
    cached.encode_queries(["a", "b", "a"])
    vectors = cached.encode_queries(["c", "b", "c"])
    assert inner.calls == [["a", "b"], ["c"]]
    assert (cached.hits, cached.misses) == (3, 3)
    assert np.array_equal(vectors, CountingEncoder().encode_queries(["c", "b", "c"]))


def test_the_least_recently_used_text_goes_first() -> None:
    """A hit makes an entry young again."""
    inner = CountingEncoder()
    cached = CachedEncoder(inner, 2)
    cached.encode_queries(["a"])
    cached.encode_queries(["b"])
    cached.encode_queries(["a"])
    cached.encode_queries(["c"])
    cached.encode_queries(["a", "b"])
    assert inner.calls == [["a"], ["b"], ["c"], ["b"]]


def test_a_failure_leaves_cache_and_counts_alone() -> None:
    """When the encoder raises, nothing was kept and nothing was counted."""
    inner = CountingEncoder()
    cached = CachedEncoder(inner, 2)
    cached.encode_queries(["a"])
    inner.fails = True
    with pytest.raises(EncoderError):
        cached.encode_queries(["a", "b"])
    assert (cached.hits, cached.misses, len(cached)) == (0, 1, 1)


def test_documents_pass_through() -> None:
    """Documents are neither kept nor mixed up with queries."""
    cached = CachedEncoder(CountingEncoder(), 2)
    query = cached.encode_queries(["a"])
    assert np.array_equal(cached.encode_documents(["a"]), -query)
    assert len(cached) == 1


def test_the_text_is_not_kept() -> None:
    """Nothing that the cache holds contains the query."""
    cached = CachedEncoder(CountingEncoder(), 2)
    cached.encode_queries(["a secret question"])
    assert b"secret" not in b"".join(cached._slots)
    assert "secret" not in repr(cached._slots)


def test_handed_out_vectors_are_the_callers_own() -> None:
    """Writing into a result does not poison what the next caller gets."""
    cached = CachedEncoder(CountingEncoder(), 2)
    first = cached.encode_queries(["a"])
    right = first.copy()
    first[:] = 0
    second = cached.encode_queries(["a"])
    assert np.array_equal(second, right)
    second[:] = 0
    assert np.array_equal(cached.encode_queries(["a"]), right)


def test_closing_frees_the_store_and_the_encoder() -> None:
    """A closed cache holds no vectors and has closed the encoder."""
    inner = CountingEncoder()
    cached = CachedEncoder(inner, 2)
    cached.encode_queries(["a"])
    cached.close()
    assert inner.closed
    assert len(cached) == 0
    assert cached.largest_bytes == 0


def test_a_negative_size_is_refused() -> None:
    """The number of entries has a rule and the message names it."""
    with pytest.raises(ConfigurationError, match="at least 0"):
        CachedEncoder(CountingEncoder(), -1)


def test_memory_stays_within_the_stated_bound() -> None:
    """10,000 full entries take no more than `largest_bytes`, measured by the allocator."""
    import tracemalloc

    texts = [str(number) for number in range(20_000)]
    tracemalloc.start()
    cached = CachedEncoder(CountingEncoder(), 10_000)
    for start in range(0, len(texts), 500):
        cached.encode_queries(texts[start : start + 500])
        cached.encoder.calls.clear()  # type: ignore[attr-defined]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(cached) == 10_000
    assert used < cached.largest_bytes


@settings(deadline=None)
@given(
    entries=st.integers(0, 5),
    calls=st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8), max_size=12),
)
def test_any_history_gives_the_plain_encoders_vectors(entries: int, calls: list[list[str]]) -> None:
    """Whatever was asked before, the vectors are right, the cache is bounded and every text is counted once."""
    inner, plain = CountingEncoder(), CountingEncoder()
    cached = CachedEncoder(inner, entries)
    for texts in calls:
        assert np.array_equal(cached.encode_queries(texts), plain.encode_queries(texts))
        assert len(cached) <= entries
    assert cached.hits + cached.misses == sum(map(len, calls))
    assert cached.misses == sum(map(len, inner.calls))


def test_a_real_encoder_answers_alike_from_the_cache(minilm: SentenceTransformerEncoder) -> None:
    """A hit gives the very bits that the model gave when the text was encoded."""
    cached = CachedEncoder(minilm, 8)
    texts = ["first question", "second question"]
    assert np.array_equal(cached.encode_queries(texts), cached.encode_queries(texts))
    assert (cached.hits, cached.misses) == (2, 2)
