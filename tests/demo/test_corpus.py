"""The corpus from the standard library, and reading collections in BEIR layout.

Scope: passages, identifiers, order and file rules. The demo's own queries are in `test_queries.py`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from sidecar.demo import corpus
from sidecar.errors import DataError, DemoError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def passages() -> list[corpus.Passage]:
    """The passages of this machine's library."""
    return corpus.standard_library_passages()


def write_collection(folder: Path, *, corpus_lines: str = "", query_lines: str = "", qrels: str | None = None) -> Path:
    """Write a small collection; what is not given is valid."""
    (folder / "corpus.jsonl").write_text(
        corpus_lines or '{"_id": "d1", "title": "", "text": "one"}\n', encoding="utf-8"
    )
    (folder / "queries.jsonl").write_text(query_lines or '{"_id": "q1", "text": "secret words"}\n', encoding="utf-8")
    if qrels is not None:
        (folder / "qrels").mkdir(exist_ok=True)
        (folder / "qrels" / "test.tsv").write_text(qrels, encoding="utf-8")
    return folder


@pytest.mark.slow
class TestStandardLibrary:
    """What the installed library yields."""

    def test_there_are_enough_passages_and_not_too_many(self, passages: list[corpus.Passage]) -> None:
        """The size lies between the limits that the demo states."""
        assert corpus.SMALLEST_CORPUS <= len(passages) <= corpus.LARGEST_CORPUS

    def test_ids_and_texts_are_unique(self, passages: list[corpus.Passage]) -> None:
        """No passage repeats the id or the text of another."""
        assert len({passage.id for passage in passages}) == len(passages)
        assert len({passage.text for passage in passages}) == len(passages)

    def test_passages_are_short(self, passages: list[corpus.Passage]) -> None:
        """A passage holds at most the cut's words and the few that were left over behind it."""
        longest = corpus.MOST_WORDS + corpus.FEWEST_WORDS_OF_CORE
        assert max(len(passage.text.split()) for passage in passages) < longest
        mean = sum(len(passage.text.split()) for passage in passages) / len(passages)
        assert 30 <= mean <= 80

    @pytest.mark.parametrize(
        ("name", "word"),
        [
            ("json.dumps", "JSON"),
            ("str.split", "separator"),
            ("itertools.chain", "iterable"),
            ("pathlib.Path.read_text", "text mode"),
            ("os.path.join", "pathname"),
            ("topic:with#2", "__exit__"),
            ("asyncio.tasks.gather", "coroutines"),
            ("logging.basicConfig", "logging system"),
        ],
    )
    def test_known_names_hold_their_documentation(self, passages: list[corpus.Passage], name: str, word: str) -> None:
        """A qualified name leads to the text that Python documents under it."""
        found = {passage.id: passage for passage in passages}[name]
        assert word in found.text

    def test_private_names_and_test_packages_are_left_out(self, passages: list[corpus.Passage]) -> None:
        """Identifiers name public things only."""
        parts = {part for passage in passages for part in passage.id.split("#")[0].split(".")}
        assert not [part for part in parts if part.startswith("_")]
        assert not parts & corpus.SKIPPED_FOLDERS - {"test"}


@pytest.mark.slow
class TestWriteCorpus:
    """The file that the demo indexes."""

    def test_two_runs_write_the_same_bytes(self, tmp_path: Path) -> None:
        """The order and the content depend on the installation only."""
        counts = [corpus.write_corpus(tmp_path / name) for name in ("a", "b")]
        first, second = ((tmp_path / name / "corpus.jsonl").read_bytes() for name in ("a", "b"))
        assert first == second
        assert counts == [first.count(b"\n")] * 2

    def test_limit_keeps_the_beginning(self, tmp_path: Path, passages: list[corpus.Passage]) -> None:
        """A limited corpus is a prefix of the whole one."""
        assert corpus.write_corpus(tmp_path, limit=25) == 25
        lines = (tmp_path / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["_id"] for line in lines] == [passage.id for passage in passages[:25]]

    def test_a_library_without_sources_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """With too few passages the error says how many there are and what to do."""
        monkeypatch.setattr(corpus, "SOURCE_MODULES", ())
        with pytest.raises(DemoError, match=r"yields \d+ passages, the demo needs at least 2000"):
            corpus.write_corpus(tmp_path)
        assert not (tmp_path / "corpus.jsonl").exists()


class TestLoadBeir:
    """Any folder of the layout."""

    def test_what_was_written_is_read(self, tmp_path: Path, passages: list[corpus.Passage]) -> None:
        """The demo's corpus survives writing and reading."""
        corpus.write_corpus(tmp_path)
        write_queries = '{"_id": "q1", "text": "a question"}\n'
        (tmp_path / "queries.jsonl").write_text(write_queries, encoding="utf-8")
        assert corpus.load_beir(tmp_path).corpus == tuple(passages)

    def test_slices_come_from_the_metadata(self, tmp_path: Path) -> None:
        """`slice` wins over `dom`, and a query without either is in the default slice."""
        lines = [
            {"_id": "a", "text": "x", "metadata": {"slice": "s", "dom": "d"}},
            {"_id": "b", "text": "y", "metadata": {"dom": "d"}},
            {"_id": "c", "text": "z"},
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        loaded = corpus.load_beir(write_collection(tmp_path, query_lines=text))
        assert [query.slice for query in loaded.queries] == ["s", "d", "default"]

    def test_titles_are_optional(self, tmp_path: Path) -> None:
        """A document without a title, or with none, has an empty one."""
        text = '{"_id": "d1", "text": "one"}\n\n{"_id": "d2", "title": null, "text": "two"}\n'
        loaded = corpus.load_beir(write_collection(tmp_path, corpus_lines=text))
        assert [(passage.id, passage.title) for passage in loaded.corpus] == [("d1", ""), ("d2", "")]

    @pytest.mark.parametrize("header", ["", "query-id\tcorpus-id\tscore\n"], ids=["bare", "header"])
    def test_judgements_may_have_a_header(self, tmp_path: Path, header: str) -> None:
        """The first line is skipped only where its grade is not a number."""
        loaded = corpus.load_beir(write_collection(tmp_path, qrels=f"{header}q1\td1\t2\r\nq1\td2\t0\n"))
        assert loaded.qrels == {"q1": {"d1": 2.0, "d2": 0.0}}

    def test_judgements_are_optional(self, tmp_path: Path) -> None:
        """A collection without judgements is still one to replay."""
        assert corpus.load_beir(write_collection(tmp_path)).qrels == {}

    @pytest.mark.parametrize(
        ("broken", "rule"),
        [
            ({"query_lines": "{oops\n"}, r"queries\.jsonl, line 1: every line must be one JSON object"),
            ({"query_lines": "[1]\n"}, r"queries\.jsonl, line 1: every line must be one JSON object"),
            ({"query_lines": '{"_id": 7, "text": "secret"}\n'}, r"line 1: `_id` must be a string"),
            ({"query_lines": '{"_id": "a", "text": " "}\n'}, r"line 1: `text` must be a string that is not blank"),
            ({"query_lines": '{"_id": "a", "text": "secret", "metadata": 3}\n'}, r"`metadata` must be an object"),
            ({"query_lines": '{"_id": "a", "text": "secret"}\n' * 2}, r"line 2: `_id` must be unique"),
            ({"query_lines": "\n"}, r"queries\.jsonl: the file must hold at least one line"),
            ({"corpus_lines": '{"_id": "d", "text": 1}\n'}, r"corpus\.jsonl, line 1: `text` must be a string"),
            ({"qrels": "q1 d1 1\n"}, r"test\.tsv, line 1: a judgement has 3 columns"),
            ({"qrels": "q1\td1\t1\nq1\td2\tgood\n"}, r"test\.tsv, line 2: the grade must be a number of 0 or more"),
            ({"qrels": "q1\td1\t-1\n"}, r"test\.tsv, line 1: the grade must be a number of 0 or more"),
        ],
    )
    def test_a_broken_line_is_named(self, tmp_path: Path, broken: dict[str, str], rule: str) -> None:
        """The error names file, line and rule and never shows a query."""
        write_collection(tmp_path, **broken)
        with pytest.raises(DataError, match=rule) as caught:
            corpus.load_beir(tmp_path)
        assert "secret" not in str(caught.value)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        """An empty folder is not a collection."""
        with pytest.raises(DataError, match=r"corpus\.jsonl: the file is missing"):
            corpus.load_beir(tmp_path)

    def test_text_in_another_encoding_is_refused(self, tmp_path: Path) -> None:
        """A file that is not UTF-8 is an error with its name, not a garbled collection."""
        write_collection(tmp_path)
        (tmp_path / "queries.jsonl").write_bytes(b'{"_id": "a", "text": "caf\xe9"}\n')
        with pytest.raises(DataError, match=r"queries\.jsonl: the file must be readable UTF-8 text"):
            corpus.load_beir(tmp_path)
