"""Building from a corpus: the right vectors, broken corpora refused, kills survived, nothing half visible.

One test builds with the real model; the others use a small deterministic encoder, because they are about
files.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sidecar.encoders.fingerprint import Fingerprint, measure
from sidecar.errors import ConfigurationError, DataError, EncoderError, VectorIndexError
from sidecar.indexes.build import build_index, working_folder
from sidecar.indexes.exact import ExactIndex, file_checksum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.encoders.protocol import Vectors
    from sidecar.encoders.sentence_transformer import SentenceTransformerEncoder


@dataclass
class HashEncoder:
    """Give every text a unit vector from its hash; fail or wait where a test asks for it."""

    salt: str = ""
    fail_after: int | None = None
    name: str = "hash"
    dimension: int = 8
    encoded: list[str] = field(default_factory=list)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Encode and note the texts."""
        if self.fail_after is not None and len(self.encoded) >= self.fail_after:
            message = "out of order"
            raise EncoderError(message)
        self.encoded += texts
        rows = [np.frombuffer(sha256((self.salt + text).encode()).digest(), "<i4") for text in texts]
        vectors = np.array(rows, dtype=np.float64)
        result: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        return result

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Encode as documents are, without noting."""
        return HashEncoder(self.salt).encode_documents(texts)

    def close(self) -> None:
        """Hold nothing."""


def write_corpus(place: Path, count: int) -> list[str]:
    """Write a corpus with and without titles; give the texts that must be embedded."""
    texts = []
    with place.open("w", encoding="utf-8") as file:
        for number in range(count):
            body = f"passage {number} " + "word " * (number * 7 % 23)
            document = {"_id": f"d{number}", "text": body}
            if number % 3:
                document["title"] = f"Title {number}" if number % 3 == 1 else ""
            texts.append(f"Title {number}\n{body}" if number % 3 == 1 else body)
            file.write(json.dumps(document) + "\n" + ("\n" if number % 10 == 0 else ""))
    return texts


def build(
    corpus: Path, target: Path, encoder: HashEncoder | None = None, **options: object
) -> tuple[ExactIndex, HashEncoder]:
    """Build with small shards and open the result."""
    encoder = encoder or HashEncoder()
    options = {"shard_size": 10, "batch_size": 4, "now": 1.0, **options}
    fingerprint = measure(HashEncoder(encoder.salt))
    build_index(corpus, encoder, target, fingerprint=fingerprint, **options)  # type: ignore[arg-type]
    return ExactIndex.open(target, verify=True), encoder


class TestBuilding:
    """A build that nothing disturbs."""

    def test_every_document_gets_the_vector_of_title_and_text(self, tmp_path: Path) -> None:
        """Row i is document i of the file, embedded as title, newline, text; the manifest knows where it is from."""
        corpus = tmp_path / "corpus.jsonl"
        texts = write_corpus(corpus, 47)
        index, encoder = build(corpus, tmp_path / "index")
        assert index.ids == tuple(f"d{number}" for number in range(47))
        assert np.array_equal(index.vectors(np.arange(47)), HashEncoder().encode_documents(texts))
        assert index.manifest.corpus_sha256 == file_checksum(corpus)
        assert (index.manifest.encoder, index.manifest.created_at) == ("hash", 1.0)
        assert index.encoder_fingerprint == measure(encoder)
        assert not working_folder(tmp_path / "index").exists()

    def test_a_folder_stands_for_its_corpus_file(self, tmp_path: Path) -> None:
        """A BEIR folder is taken as it is."""
        write_corpus(tmp_path / "corpus.jsonl", 3)
        assert build(tmp_path, tmp_path / "index")[0].size == 3

    def test_shards_and_batches_do_not_change_the_index(self, tmp_path: Path) -> None:
        """The generation is the content's, not the arrangement's."""
        write_corpus(tmp_path / "corpus.jsonl", 47)
        first, _ = build(tmp_path, tmp_path / "a")
        second, _ = build(tmp_path, tmp_path / "b", shard_size=1000, batch_size=1000)
        assert first.generation == second.generation

    def test_equal_texts_in_a_shard_are_encoded_once(self, tmp_path: Path) -> None:
        """Two documents of one text cost one encoding and get one vector."""
        lines = [json.dumps({"_id": one, "text": "same"}) for one in "abc"]
        (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
        index, encoder = build(tmp_path, tmp_path / "index")
        assert encoder.encoded == ["same"]
        assert index.size == 3

    def test_progress_counts_from_nothing_to_all(self, tmp_path: Path) -> None:
        """The callback hears the start, each shard and the end."""
        heard: list[tuple[int, int]] = []
        write_corpus(tmp_path / "corpus.jsonl", 25)
        build(tmp_path, tmp_path / "index", progress=lambda done, total: heard.append((done, total)))
        assert heard == [(0, 25), (10, 25), (20, 25), (25, 25)]

    def test_a_real_model_finds_its_documents(
        self, tmp_path: Path, minilm: SentenceTransformerEncoder, minilm_fingerprint: Fingerprint
    ) -> None:
        """With the real encoder a question finds the passage that answers it."""
        passages = {
            "key": "To rotate a signing key, create a new one, publish it, and retire the old one.",
            "river": "The river rises in a bog between two hills and turns east at the mill.",
            "bread": "Knead the dough for ten minutes and let it rest overnight in a cool place.",
        }
        lines = [json.dumps({"_id": one, "title": "", "text": text}) for one, text in passages.items()]
        (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
        build_index(tmp_path, minilm, tmp_path / "index", fingerprint=minilm_fingerprint, now=0.0)
        index = ExactIndex.open(tmp_path / "index", verify=True)
        index.require_encoder(minilm_fingerprint)
        questions = ["how long should bread dough rest", "where does the river begin", "replace signing key"]
        found = index.search(minilm.encode_queries(questions), 1)
        assert [ranking.ids for ranking in found] == [("bread",), ("river",), ("key",)]


BROKEN = {
    "not JSON": ('{"_id": "a", "text": ', "line 2: not JSON"),
    "not an object": ('["a"]', "line 2: list; rule: a JSON object"),
    "no id": ('{"text": "x"}', "line 2: lacks the key '_id'"),
    "no text": ('{"_id": "x"}', "line 2: lacks the key 'text'"),
    "id not a string": ('{"_id": 7, "text": "x"}', "line 2: '_id' is int; rule: a string"),
    "text not a string": ('{"_id": "x", "text": ["x"]}', "line 2: 'text' is list; rule: a string"),
    "title not a string": ('{"_id": "x", "text": "x", "title": 7}', "line 2: 'title' is int; rule: a string"),
    "empty id": ('{"_id": "", "text": "x"}', "line 2: '_id' is empty"),
    "repeated id": ('{"_id": "first", "text": "x"}', "line 2: id 'first' was used before"),
    "surrogate": ('{"_id": "x", "text": "\\ud800"}', "line 2: 'text' holds half of a surrogate pair"),
    "not UTF-8": ("\xff", "line 2: not UTF-8"),
}


class TestBrokenCorpora:
    """What is refused, with file, line and rule, before anything is encoded."""

    @pytest.mark.parametrize(("line", "rule"), BROKEN.values(), ids=BROKEN.keys())
    def test_a_broken_line_is_named_before_the_first_encoding(self, tmp_path: Path, line: str, rule: str) -> None:
        """The message says where and why; no time was spent and no folder made."""
        (tmp_path / "corpus.jsonl").write_bytes(b'{"_id": "first", "text": "x"}\n' + line.encode("latin-1"))
        encoder = HashEncoder()
        with pytest.raises(DataError, match=r"corpus\.jsonl, ") as caught:
            build(tmp_path, tmp_path / "index", encoder)
        assert rule in str(caught.value)
        assert encoder.encoded == []
        assert [place.name for place in tmp_path.iterdir()] == ["corpus.jsonl"]

    @pytest.mark.parametrize("content", ["", "\n\n"])
    def test_an_empty_corpus_is_refused(self, tmp_path: Path, content: str) -> None:
        """No documents is a fault of the data, not an empty index."""
        (tmp_path / "corpus.jsonl").write_text(content)
        with pytest.raises(DataError, match="no documents; rule: at least one"):
            build(tmp_path, tmp_path / "index")

    def test_a_missing_corpus_is_refused(self, tmp_path: Path) -> None:
        """The message names the file and the layout."""
        with pytest.raises(DataError, match=r"nowhere cannot be read.*BEIR layout"):
            build(tmp_path / "nowhere", tmp_path / "index")

    def test_impossible_sizes_are_refused(self, tmp_path: Path) -> None:
        """Batches and shards hold at least one text."""
        write_corpus(tmp_path / "corpus.jsonl", 1)
        with pytest.raises(ConfigurationError, match="at least 1 each"):
            build(tmp_path, tmp_path / "index", shard_size=0)


class TestResuming:
    """Builds that were stopped."""

    def test_a_failed_build_goes_on_from_the_last_shard(self, tmp_path: Path) -> None:
        """After a failure at document 24 only what was not in a complete shard is encoded again."""
        write_corpus(tmp_path / "corpus.jsonl", 47)
        with pytest.raises(EncoderError):
            build(tmp_path, tmp_path / "index", HashEncoder(fail_after=24))
        assert not (tmp_path / "index").exists()
        heard: list[int] = []
        index, encoder = build(tmp_path, tmp_path / "index", progress=lambda done, _total: heard.append(done))
        assert (heard[0], len(encoder.encoded)) == (20, 27)
        assert index.generation == build(tmp_path, tmp_path / "whole")[0].generation

    @pytest.mark.parametrize("change", ["corpus", "encoder", "progress", "vectors"])
    def test_progress_of_something_else_is_not_used(self, tmp_path: Path, change: str) -> None:
        """Another corpus, another encoder, unreadable progress, lost vectors: the build starts over and is right."""
        write_corpus(tmp_path / "corpus.jsonl", 47)
        with pytest.raises(EncoderError):
            build(tmp_path, tmp_path / "index", HashEncoder(fail_after=24))
        folder, salt = working_folder(tmp_path / "index"), ""
        if change == "corpus":
            write_corpus(tmp_path / "corpus.jsonl", 46)
        elif change == "encoder":
            salt = "other"
        elif change == "progress":
            (folder / "progress.json").write_text('{"documents": ')
        else:
            (folder / "vectors").write_bytes(b"")
        index, encoder = build(tmp_path, tmp_path / "index", HashEncoder(salt))
        assert len(encoder.encoded) == index.size
        assert index.generation == build(tmp_path, tmp_path / "whole", HashEncoder(salt))[0].generation

    def test_a_stopped_build_leaves_the_old_index_in_place(self, tmp_path: Path) -> None:
        """Until the new index is complete, readers get the old one."""
        write_corpus(tmp_path / "corpus.jsonl", 15)
        old, _ = build(tmp_path, tmp_path / "index")
        write_corpus(tmp_path / "corpus.jsonl", 47)
        with pytest.raises(EncoderError):
            build(tmp_path, tmp_path / "index", HashEncoder(fail_after=24))
        assert ExactIndex.open(tmp_path / "index", verify=True).generation == old.generation

    def test_two_builds_of_one_target_exclude_each_other(self, tmp_path: Path) -> None:
        """The second one is refused while the first is at work, and welcome afterwards."""
        write_corpus(tmp_path / "corpus.jsonl", 15)
        refused: list[str] = []

        def second(_done: int, _total: int) -> None:
            try:
                build(tmp_path, tmp_path / "index")
            except VectorIndexError as error:
                refused.append(str(error))

        build(tmp_path, tmp_path / "index", progress=second)
        assert len(refused) == 3
        assert all("another build is at work" in message for message in refused)
        build(tmp_path, tmp_path / "index")

    def test_a_build_killed_at_any_moment_goes_on_and_ends_right(self, tmp_path: Path) -> None:
        """Killed with SIGKILL five times at different moments, the build still ends with the very same index.

        The child takes 10 ms a batch, so 200 documents in batches of 4 take over half a second of encoding;
        each kill comes after the progress that is on disk has grown, so every round has something to lose and
        to keep.
        """
        write_corpus(tmp_path / "corpus.jsonl", 200)
        script = tmp_path / "child.py"
        script.write_text(
            textwrap.dedent(f"""
                import sys, time
                from pathlib import Path
                sys.path.insert(0, {str(Path(__file__).parent)!r})
                from test_build import HashEncoder, build
                class Slow(HashEncoder):
                    def encode_documents(self, texts):
                        time.sleep(0.01)
                        return super().encode_documents(texts)
                def heard(done, total):
                    print(done, flush=True)
                build(Path({str(tmp_path)!r}), Path({str(tmp_path / "index")!r}), Slow(), progress=heard)
            """)
        )
        starts = []
        for kill in range(5):
            child = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
            assert child.stdout is not None
            starts.append(int(child.stdout.readline()))
            while int(child.stdout.readline()) < starts[-1] + 20:
                pass
            time.sleep(0.007 * kill)  # inside a shard, somewhere else each time
            os.kill(child.pid, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            child.stdout.close()
            assert not (tmp_path / "index").exists()
        assert starts[0] == 0
        assert all(later >= earlier + 20 for earlier, later in pairwise(starts))
        index, encoder = build(tmp_path, tmp_path / "index")
        assert len(encoder.encoded) <= 200 - starts[-1] - 20
        assert index.generation == build(tmp_path, tmp_path / "whole")[0].generation
