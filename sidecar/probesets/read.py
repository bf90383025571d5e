"""Read a probe set from its folder, whole or not at all: every broken line is named with file, line and rule.

`retrieval` is BEIR's layout (`corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`), so that any BEIR folder is a probe
set as it is, also without a `probe.yaml`. Without a corpus the judgements name documents of the production index.
`composition` is `pairs.jsonl`, `sentinel` is `texts.jsonl`.

The checksum is of what scores hang on: the data files and the keys that change a result. Scores of different checksums
are never compared.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar.errors import DataError
from sidecar.indexes.build import read_documents
from sidecar.probesets.manifest import FILE, LABEL, MOST_GROUPS, Kind, Manifest, read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

CORPUS, QUERIES, PAIRS, TEXTS = "corpus.jsonl", "queries.jsonl", "pairs.jsonl", "texts.jsonl"
UNGRADED = ["query-id", "corpus-id"]
"""Header of judgements without grades, as those of NanoBEIR: all are relevant."""

MOST_COMPLAINTS = 20
PAIR_KEYS = ("anchor", "paraphrase", "near_miss")

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Query:
    """One labelled query."""

    id: str
    text: str = field(repr=False)
    domain: str


@dataclass(frozen=True, slots=True)
class Triple:
    """An anchor, a sentence that means the same, and one that only uses the same words."""

    id: str
    anchor: str = field(repr=False)
    paraphrase: str = field(repr=False)
    near_miss: str = field(repr=False)
    phenomenon: str


@dataclass(frozen=True, slots=True, eq=False)
class ProbeSet:
    """One set; of the four contents those of other kinds are empty.

    `corpus` maps ids to texts (title and text joined by a newline) and is None where the judgements name documents of
    the production index. `queries` are those with a relevant document in the split, `unjudged` the ids of the others,
    and `strangers` (query id, document id) are of judgements whose query or document the set does not have.
    """

    name: str
    folder: Path
    manifest: Manifest
    checksum: str
    corpus: Mapping[str, str] | None = field(default=None, repr=False)
    queries: tuple[Query, ...] = ()
    judgements: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)
    unjudged: tuple[str, ...] = ()
    strangers: tuple[tuple[str, str], ...] = ()
    triples: tuple[Triple, ...] = ()
    texts: tuple[str, ...] = field(default=(), repr=False)

    @property
    def kind(self) -> Kind:
        """Give the kind."""
        return self.manifest.kind

    @property
    def groups(self) -> tuple[str, ...]:
        """Name the domains of its queries, or the phenomena of its triples, in order."""
        return tuple(sorted({one.domain for one in self.queries} | {one.phenomenon for one in self.triples}))


class _Reading:
    """One pass over a set's files: each line is hashed as it is read, and what breaks a rule is gathered.

    A person mends a set in one go; and a file that changes meanwhile cannot have the checksum of other content.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.complaints: list[str] = []
        self._digest = hashlib.sha256(json.dumps([manifest.kind, manifest.domain, manifest.k]).encode())

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Note a broken rule and go on."""
        try:
            yield
        except DataError as error:
            self.complaints.append(str(error))

    def lines(self, file: Path) -> Iterator[tuple[int, bytes]]:
        """Give each line that is not blank, with its number."""
        digest = hashlib.sha256()
        try:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    digest.update(line)
                    if line.strip():
                        yield number, line
        except OSError as error:
            self.complaints.append(f"{file}: cannot be read ({error.strerror}); rule: the file of its kind of set")
        self._digest.update(f"\0{file.name}\0".encode() + digest.digest())

    def rows(self, file: Path, make: Callable[[str, dict[str, Any]], Row], key: str | None = None) -> list[Row]:
        """Make something of each line's object; `key` names the id that must not be repeated."""
        made = []
        known: dict[str, int] = {}
        for number, line in self.lines(file):
            where = f"{file}, line {number}"
            with self.gathering():
                row = _object(where, line)
                if key is not None:
                    _refuse_repeated(where, _text(where, row, key), number, known)
                made.append(make(where, row))
        return made

    def finish(self) -> str:
        """Give the checksum.

        Raises:
            DataError: a rule was broken; one line for each, as far as they are few.
        """
        if self.complaints:
            shown, rest = self.complaints[:MOST_COMPLAINTS], self.complaints[MOST_COMPLAINTS:]
            raise DataError("\n".join([*shown, *([f"and {len(rest)} more broken rules"] if rest else [])]))
        return self._digest.hexdigest()[:12]


def looks_like_a_set(folder: Path) -> bool:
    """Say whether a folder is meant as a probe set."""
    return (folder / FILE).is_file() or (folder / QUERIES).is_file()


def read_set(folder: Path) -> ProbeSet:
    """Read the set in `folder`.

    Raises:
        DataError: a file is missing or breaks rules; each line of the message names file, line and rule.
    """
    name = folder.resolve().name.lower().replace(" ", "-").replace(".", "-")
    if not re.fullmatch(LABEL, name):
        raise DataError(f"{folder}: the folder's name names the set; rule: {LABEL}")
    if (folder / FILE).exists() or not (folder / QUERIES).is_file():
        manifest = read_manifest(folder)
    else:
        manifest = Manifest(
            kind="retrieval", version=1, domain=name, language="mul", licence="unknown", source="a BEIR folder",
            split=_only_split(folder),
        )  # fmt: skip
    reading = _Reading(manifest)
    parts = _READERS[manifest.kind](folder, manifest, reading)
    return ProbeSet(name, folder, manifest, reading.finish(), **parts)


def read_files(queries: Path, corpus: Path, judgements: Path | None = None) -> ProbeSet:
    """Read a set from files in BEIR's layout, wherever they are; without judgements all queries are kept, unlabelled.

    Raises:
        DataError: as in `read_set`.
    """
    manifest = Manifest(kind="retrieval", version=1, language="mul", licence="unknown", source="files")
    reading = _Reading(manifest)
    parts = _asked(queries, corpus, judgements, manifest, reading)
    return ProbeSet("queries", queries.parent, manifest, reading.finish(), **parts)


def _retrieval(folder: Path, manifest: Manifest, reading: _Reading) -> dict[str, Any]:
    corpus, judgements = folder / CORPUS, folder / "qrels" / f"{manifest.split}.tsv"
    return _asked(folder / QUERIES, corpus if corpus.exists() else None, judgements, manifest, reading)


def _asked(
    queries_file: Path, corpus_file: Path | None, judgements_file: Path | None, manifest: Manifest, reading: _Reading
) -> dict[str, Any]:
    corpus = None if corpus_file is None else _corpus(corpus_file, reading)
    asked = reading.rows(
        queries_file,
        lambda where, row: Query(_text(where, row, "_id"), _text(where, row, "text"), _domain(where, row, manifest)),
        key="_id",
    )
    judgements = {} if judgements_file is None else _judgements(judgements_file, reading)
    queries = tuple(
        one
        for one in asked
        if judgements_file is None or any(grade > 0 for grade in judgements.get(one.id, {}).values())
    )
    domains = {one.domain for one in queries}
    if not queries and not reading.complaints:
        lack = "no queries" if judgements_file is None else f"no query of {queries_file.name} has a relevant document"
        reading.complaints.append(f"{judgements_file or queries_file}: {lack}; rule: at least one")
    if len(domains) > MOST_GROUPS:
        reading.complaints.append(
            f"{queries_file}: {len(domains)} domains; rule: at most {MOST_GROUPS}, they become labels of metrics"
        )
    known, judged = {one.id for one in asked}, {one.id for one in queries}
    return {
        "corpus": corpus,
        "queries": queries,
        "judgements": {one.id: judgements[one.id] for one in queries if one.id in judgements},
        "unjudged": tuple(one.id for one in asked if one.id not in judged),
        "strangers": tuple(
            (query, document)
            for query, grades in judgements.items()
            for document in grades
            if query not in known or (corpus is not None and document not in corpus)
        ),
    }


def _composition(folder: Path, manifest: Manifest, reading: _Reading) -> dict[str, Any]:
    def triple(where: str, row: dict[str, Any]) -> Triple:
        phenomenon = _text(where, row, "phenomenon")
        if phenomenon not in manifest.phenomena:
            raise DataError(f"{where}: phenomenon {phenomenon!r:.40}; rule: one of those in {FILE}")
        anchor, paraphrase, near_miss = (_text(where, row, key) for key in PAIR_KEYS)
        return Triple(_text(where, row, "id"), anchor, paraphrase, near_miss, phenomenon)

    triples = tuple(reading.rows(folder / PAIRS, triple, key="id"))
    missing = set(manifest.phenomena) - {one.phenomenon for one in triples}
    if missing and not reading.complaints:
        reading.complaints.append(
            f"{folder / PAIRS}: no triple of {', '.join(sorted(missing))}; rule: each phenomenon in {FILE} has some"
        )
    return {"triples": triples}


def _sentinel(folder: Path, _: Manifest, reading: _Reading) -> dict[str, Any]:
    # Not `_text`: white space alone is a sentinel, too.
    texts = tuple(reading.rows(folder / TEXTS, lambda where, row: _string(where, row, "text")))
    if not texts and not reading.complaints:
        reading.complaints.append(f"{folder / TEXTS}: no texts; rule: at least one")
    return {"texts": texts}


_READERS: Mapping[Kind, Callable[[Path, Manifest, _Reading], dict[str, Any]]] = {
    "retrieval": _retrieval,
    "composition": _composition,
    "sentinel": _sentinel,
}


def _corpus(file: Path, reading: _Reading) -> dict[str, str]:
    documents: dict[str, str] = {}
    known: dict[str, int] = {}
    for number, line in reading.lines(file):
        with reading.gathering():
            for _, one in read_documents(BytesIO(line), file, number - 1):
                _refuse_repeated(f"{file}, line {number}", one.id, number, known)
                documents[one.id] = one.text
    if not documents and not reading.complaints:
        reading.complaints.append(f"{file}: no documents; rule: at least one, or no such file")
    return documents


def _judgements(file: Path, reading: _Reading) -> dict[str, dict[str, float]]:
    """Read query id, document id and grade, separated by tabs; a first line that is no judgement is a header."""
    found: dict[str, dict[str, float]] = {}
    graded = True
    for number, line in reading.lines(file):
        where = f"{file}, line {number}"
        with reading.gathering():
            parts = _decoded(where, line).rstrip("\r\n").split("\t")
            if number == 1 and parts == UNGRADED:
                graded = False
            elif not (number == 1 and len(parts) == 3 and _number(parts[2]) is None):
                _judge(where, parts if graded else [*parts, "1"], found)
    return found


def _judge(where: str, parts: list[str], found: dict[str, dict[str, float]]) -> None:
    if len(parts) != 3:
        raise DataError(f"{where}: {len(parts)} columns; rule: query id, document id and grade, with tabs between")
    query, document, grade = parts
    value = _number(grade)
    if value is None or not math.isfinite(value):
        raise DataError(f"{where}: grade {grade[:20]!r}; rule: a finite number")
    if document in found.setdefault(query, {}):
        raise DataError(f"{where}: judges the same document a second time; rule: one grade for each pair")
    found[query][document] = value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _only_split(folder: Path) -> str:
    splits = sorted(file.stem for file in (folder / "qrels").glob("*.tsv"))
    if "test" in splits or not splits:
        return "test"
    if len(splits) > 1:
        raise DataError(f"{folder / 'qrels'}: holds {', '.join(splits)}; rule: name the `split` in {FILE}")
    return splits[0]


def _domain(where: str, row: Mapping[str, Any], manifest: Manifest) -> str:
    metadata = row.get("metadata")
    domain = metadata.get("domain") if isinstance(metadata, dict) else None
    if domain is None:
        return manifest.domain
    if not isinstance(domain, str) or not re.fullmatch(LABEL, domain):
        raise DataError(f"{where}: domain {domain!r:.40}; rule: {LABEL}")
    return domain


def _object(where: str, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(_decoded(where, line))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({getattr(error, 'msg', 'damaged')})") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: {type(row).__name__}; rule: a JSON object")
    return row


def _decoded(where: str, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8") from None


def _string(where: str, row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise DataError(f"{where}: {key!r} is {'missing' if key not in row else type(value).__name__}; rule: a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {key!r} holds half of a surrogate pair; rule: valid Unicode") from None
    return value


def _text(where: str, row: Mapping[str, Any], key: str) -> str:
    value = _string(where, row, key)
    if not value.strip():
        raise DataError(f"{where}: {key!r} is empty; rule: at least one character that is no white space")
    return value


def _refuse_repeated(where: str, one: str, number: int, known: dict[str, int]) -> None:
    if known.setdefault(one, number) != number:
        raise DataError(f"{where}: id {one!r} was used in line {known[one]}; rule: ids are unique")
