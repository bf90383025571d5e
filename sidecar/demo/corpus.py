"""The demo's passages, and collections in BEIR layout in general.

The demo needs real text that every user already has: the documentation of the Python standard library, read
from the installed sources (`ast`), from a few built-in modules (`inspect`) and from `pydoc_data.topics`. Nothing
is imported for its docstrings except modules without side effects. Identifiers are qualified names, so that the
judgements in `data/` hold on every supported Python version. `load_beir` reads that collection and any other one
of the same layout. Encoding and indexing are left to others.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import math
import re
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.errors import DataError, DemoError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CORPUS_FILE = "corpus.jsonl"
QUERIES_FILE = "queries.jsonl"
QRELS_FILE = "qrels/test.tsv"
DEFAULT_SLICE = "default"
DATA_FOLDER = Path(__file__).parent / "data"

SMALLEST_CORPUS = 2_000
LARGEST_CORPUS = 2_200
FEWEST_WORDS = 16
FEWEST_WORDS_OF_CORE = 7
MOST_WORDS = 110
MOST_CUTS_PER_DOCSTRING = 2
MOST_CUTS_PER_TOPIC = 14

# Modules with documentation in C. Each is imported by the interpreter itself or has no effect when imported.
BUILT_IN_MODULES = (
    "builtins", "math", "itertools", "time", "datetime", "sys", "os", "collections", "operator", "struct", "zlib",
    "gc", "signal", "atexit", "io", "functools", "csv", "hashlib", "weakref",
)  # fmt: skip

# Sources in the order in which people ask about them: a limited corpus keeps the useful part.
SOURCE_MODULES = (
    "json", "collections", "functools", "pathlib", "posixpath", "genericpath", "os", "shutil", "tempfile", "glob",
    "fnmatch", "re", "string", "textwrap", "calendar", "random", "statistics", "secrets", "heapq", "bisect",
    "copy", "pprint", "enum", "dataclasses", "typing", "types", "contextlib", "abc", "subprocess", "threading",
    "queue", "concurrent.futures", "multiprocessing.pool", "multiprocessing.process", "multiprocessing.connection",
    "multiprocessing.shared_memory", "asyncio.tasks", "asyncio.locks", "asyncio.queues", "asyncio.runners",
    "asyncio.streams", "asyncio.timeouts", "asyncio.taskgroups", "asyncio.threads", "asyncio.futures", "csv",
    "difflib", "fractions", "ipaddress", "shlex", "getpass", "platform", "locale", "warnings", "traceback", "timeit",
    "tracemalloc", "graphlib", "sched", "importlib.metadata", "fileinput", "filecmp", "linecache", "webbrowser",
    "tomllib", "colorsys", "weakref", "operator", "mimetypes", "argparse", "configparser", "pickle", "shelve",
    "gzip", "bz2", "lzma", "zipfile", "tarfile", "hashlib", "hmac", "base64", "uuid", "urllib.parse",
    "urllib.request", "html", "xml.sax.saxutils", "ast", "inspect", "logging", "unittest.case", "unittest.mock",
    "xml.etree.ElementTree", "smtplib", "http.client", "http.cookies", "http.server", "http", "socketserver",
    "socket", "email.message", "email.utils", "selectors", "pkgutil", "runpy", "gettext", "cProfile", "pstats",
    "pdb", "codecs", "code", "codeop", "cmd", "getopt", "plistlib", "netrc", "numbers", "sysconfig", "site", "venv",
    "zipapp", "compileall", "py_compile", "reprlib", "wave", "stat", "signal", "sqlite3", "ssl", "ftplib", "dis",
    "tokenize",
)  # fmt: skip
# Even the one-line descriptions of these are worth finding.
CORE_MODULES = frozenset({
    "builtins", "math", "itertools", "time", "datetime", "collections", "functools", "os", "os.path", "random",
    "string", "shutil", "json", "re", "statistics", "copy", "pathlib", "threading", "queue", "textwrap", "uuid",
    "asyncio.tasks", "bisect",
})  # fmt: skip
# Where a name is defined and where people look for it (the classes: in Python 3.13).
PUBLIC_NAME_OF = {"posixpath": "os.path", "genericpath": "os.path"}
PUBLIC_CLASS_OF = {"pathlib.PurePathBase": "pathlib.PurePath", "pathlib.PathBase": "pathlib.Path"}
# Twins of a type that is documented already.
SKIPPED_TYPES = frozenset({"bytearray", "memoryview", "Binary", "UCD"})
# Thin wrappers of system calls, each family nearly alike.
SKIPPED_NAMES = re.compile(
    r"os\.(W[A-Z]|sched_|spawn|exec|set|gete[ug]id|getres|posix_|pread|pwrite|readv|writev|tc|wait|fd|.*xattr)"
    r"|signal\.sig|time\.(pthread|clock)|importlib\.metadata\.(?!version|files|requires|entry|dist|meta)"
)
SKIPPED_FOLDERS = frozenset({"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"})

# Topics that only repeat others as chapters of one long text.
REPEATED_TOPICS = frozenset({"specialnames", "compound", "types", "typesseq", "formatstrings", "debugger"})

_PARAGRAPH_GAP = re.compile(r"\n\s*\n")
_SPACES = re.compile(r"\s+")
_RULE_LINE = re.compile(r"^\s*[*=\-^~+#|]{3,}[*=\-^~+#| ]*$", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+")


@dataclass(frozen=True, slots=True)
class Passage:
    """One document of a collection."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a collection with the group that it belongs to."""

    id: str
    text: str
    slice: str = DEFAULT_SLICE


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents, queries and judgements; `qrels` maps query id to document id to grade (0 or more)."""

    corpus: tuple[Passage, ...]
    queries: tuple[Query, ...]
    qrels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def write_corpus(folder: Path, *, limit: int | None = None) -> int:
    """Write `corpus.jsonl` (BEIR layout) from this machine's Python documentation and return its length.

    `limit` keeps only the first passages of the fixed order. The result is the same on every run with one Python
    installation. Raises DemoError when the installation holds fewer than 2,000 passages (for instance where the
    library's sources were stripped).
    """
    passages = standard_library_passages()
    if len(passages) < SMALLEST_CORPUS:
        raise DemoError(
            f"the documentation of Python {sys.version_info.major}.{sys.version_info.minor} yields {len(passages)} "
            f"passages, the demo needs at least {SMALLEST_CORPUS}: install the standard library with its sources, "
            "or pass a collection of your own with --corpus"
        )
    chosen = passages if limit is None else passages[:limit]
    folder.mkdir(parents=True, exist_ok=True)
    lines = (
        json.dumps({"_id": passage.id, "title": passage.title, "text": passage.text}, ensure_ascii=False)
        for passage in chosen
    )
    (folder / CORPUS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(chosen)


def standard_library_passages() -> list[Passage]:
    """Collect the passages: built-in modules, topics, then sources, without repeated names or texts."""
    passages: list[Passage] = []
    ids: set[str] = set()
    texts: set[str] = set()
    for passage in _all_passages():
        if passage.id in ids or passage.text in texts:
            continue
        ids.add(passage.id)
        texts.add(passage.text)
        passages.append(passage)
        if len(passages) == LARGEST_CORPUS:
            break
    return passages


def _all_passages() -> Iterator[Passage]:
    for name in BUILT_IN_MODULES:
        yield from _built_in_passages(name)
    yield from _topic_passages()
    library = Path(sysconfig.get_path("stdlib"))
    for name in SOURCE_MODULES:
        for path in _source_files(library, name):
            yield from _source_passages(path, _public_module(path, library))


def _topic_passages() -> Iterator[Passage]:
    from pydoc_data.topics import topics  # noqa: PLC0415  (half a megabyte of text that only the demo needs)

    for name in sorted(topics):
        if name not in REPEATED_TOPICS:
            yield from _cut(f"topic:{name}", name, topics[name], most=MOST_CUTS_PER_TOPIC)


def _built_in_passages(module_name: str) -> Iterator[Passage]:
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        return
    prefix = "" if module_name == "builtins" else f"{module_name}."
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or inspect.ismodule(value) or not callable(value):
            continue
        if not _belongs_to(value, module_name):
            continue
        yield from _docstring_passages(module_name, prefix + name, _own_docstring(value))
        if inspect.isclass(value) and not issubclass(value, BaseException) and name not in SKIPPED_TYPES:
            for method_name, method in sorted(vars(value).items()):
                if not method_name.startswith("_") and not isinstance(method, str | int):
                    own = _own_docstring(method)
                    yield from _docstring_passages(module_name, f"{prefix}{name}.{method_name}", own)


def _own_docstring(value: Any) -> str | None:
    """Return the docstring that `value` itself carries, cleaned, without those that it inherits."""
    doc = value.__dict__.get("__doc__") if inspect.isclass(value) else getattr(value, "__doc__", None)
    return inspect.cleandoc(doc) if isinstance(doc, str) else None


def _belongs_to(value: Any, module_name: str) -> bool:
    """Tell whether a name is at home in the module: C code names its private twin (`_socket`, `posix`) as home."""
    home = str(getattr(value, "__module__", None) or module_name)
    twins = {module_name, f"_{module_name}", "posix", "nt", "_operator", "_io", "_hashlib", "builtins"}
    return home in twins


def _source_files(library: Path, name: str) -> list[Path]:
    stem = name.replace(".", "/")
    module, package = library / f"{stem}.py", library / stem
    if module.is_file():
        return [module]
    return sorted(
        (path for path in package.rglob("*.py") if not SKIPPED_FOLDERS & set(path.relative_to(library).parts)),
        # The package's own file first, whatever the private files beside it are called.
        key=lambda path: (path.name != "__init__.py" or path.parent != package, path.as_posix()),
    )


def _public_module(path: Path, library: Path) -> str:
    """Return the module's name without private parts: `pathlib/_local.py` is `pathlib`."""
    parts = [part for part in path.relative_to(library).with_suffix("").parts if not part.startswith("_")]
    name = ".".join(parts)
    return PUBLIC_NAME_OF.get(name, name)


def _source_passages(path: Path, module: str) -> Iterator[Passage]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    yield from _docstring_passages(module, module, ast.get_docstring(tree))
    yield from _definitions(tree.body, module, module)


def _definitions(body: Iterable[ast.stmt], module: str, prefix: str) -> Iterator[Passage]:
    for node in body:
        if isinstance(node, ast.If):
            yield from _definitions([*node.body, *node.orelse], module, prefix)
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from _definitions([*node.body, *handlers, *node.orelse], module, prefix)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("_"):
                continue
            name = f"{prefix}.{node.name}"
            name = PUBLIC_CLASS_OF.get(name, name)
            yield from _docstring_passages(module, name, ast.get_docstring(node))
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node.body, module, name)


def _docstring_passages(module: str, name: str, doc: str | None) -> Iterator[Passage]:
    if SKIPPED_NAMES.match(name):
        return
    fewest = FEWEST_WORDS_OF_CORE if module in CORE_MODULES else FEWEST_WORDS
    if doc and len(doc.split()) >= fewest:
        yield from _cut(name, name, doc, most=MOST_CUTS_PER_DOCSTRING)


def _cut(name: str, title: str, text: str, *, most: int) -> Iterator[Passage]:
    """Cut a text at its paragraphs into at most `most` passages; the first keeps the plain name as its id."""
    pieces = _pieces(text)
    for number, piece in enumerate(pieces[:most], start=1):
        yield Passage(id=name if number == 1 else f"{name}#{number}", title=title, text=piece)


def _pieces(text: str) -> list[str]:
    pieces: list[str] = []
    open_piece: list[str] = []
    for part in _parts(text):
        words = part.split(" ")
        if open_piece and len(open_piece) + len(words) > MOST_WORDS:
            pieces.append(" ".join(open_piece))
            open_piece = []
        open_piece.extend(words)
    if open_piece:
        # A few left-over words say nothing alone.
        if pieces and len(open_piece) < FEWEST_WORDS_OF_CORE:
            pieces[-1] = " ".join([pieces[-1], *open_piece])
        else:
            pieces.append(" ".join(open_piece))
    return pieces


def _parts(text: str) -> Iterator[str]:
    """Yield paragraphs, and the sentences (at worst runs of words) of those that are too long."""
    for paragraph in _PARAGRAPH_GAP.split(_RULE_LINE.sub("", text)):
        flat = _SPACES.sub(" ", paragraph).strip()
        if not flat:
            continue
        if flat.count(" ") < MOST_WORDS:
            yield flat
            continue
        for sentence in _SENTENCE_END.split(flat):
            words = sentence.split(" ")
            for start in range(0, len(words), MOST_WORDS):
                yield " ".join(words[start : start + MOST_WORDS])


def load_beir(folder: Path) -> Collection:
    """Read a collection in BEIR layout: `corpus.jsonl`, `queries.jsonl` and, where present, `qrels/test.tsv`.

    A query's slice is its `metadata.slice`, else `metadata.dom`, else "default". Titles may be missing; the
    judgements may have a header line or not. Raises DataError with file, line and the broken rule; never with a
    query's text.
    """
    corpus = tuple(read_passages(folder / CORPUS_FILE))
    queries = tuple(_read_queries(folder / QUERIES_FILE))
    qrels_path = folder / QRELS_FILE
    qrels = _read_qrels(qrels_path) if qrels_path.is_file() else {}
    return Collection(corpus=corpus, queries=queries, qrels=qrels)


def load_demo_queries() -> tuple[tuple[Query, ...], dict[str, dict[str, float]]]:
    """Read the demo's own queries and judgements, which ship with the package."""
    return tuple(_read_queries(DATA_FOLDER / QUERIES_FILE)), _read_qrels(DATA_FOLDER / QRELS_FILE)


def read_passages(path: Path) -> Iterator[Passage]:
    """Yield the documents of a `corpus.jsonl`; raise DataError with file, line and rule."""
    for number, entry, key in _json_lines(path):
        title = entry.get("title") or ""
        text = entry.get("text")
        if not isinstance(text, str) or not isinstance(title, str):
            raise DataError(f"{path.name}, line {number}: `text` must be a string, and `title` too where present")
        yield Passage(id=key, title=title, text=text)


def _read_queries(path: Path) -> Iterator[Query]:
    for number, entry, key in _json_lines(path):
        text = entry.get("text")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{path.name}, line {number}: `text` must be a string that is not blank")
        metadata = entry.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise DataError(f"{path.name}, line {number}: `metadata` must be an object")
        group = metadata.get("slice") or metadata.get("dom") or DEFAULT_SLICE
        yield Query(id=key, text=text, slice=str(group))


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Yield line number, object and its `_id`, which must be a new string on every line."""
    seen: set[str] = set()
    for number, line in _text_lines(path):
        try:
            entry = json.loads(line)
        except ValueError:
            raise DataError(f"{path.name}, line {number}: every line must be one JSON object") from None
        if not isinstance(entry, dict):
            raise DataError(f"{path.name}, line {number}: every line must be one JSON object")
        key = entry.get("_id")
        if not isinstance(key, str) or not key:
            raise DataError(f"{path.name}, line {number}: `_id` must be a string that is not empty")
        if key in seen:
            raise DataError(f"{path.name}, line {number}: `_id` must be unique, this one stood on an earlier line")
        seen.add(key)
        yield number, entry, key
    if not seen:
        raise DataError(f"{path.name}: the file must hold at least one line")


def _read_qrels(path: Path) -> dict[str, dict[str, float]]:
    qrels: dict[str, dict[str, float]] = {}
    columns = 3
    for number, line in _text_lines(path):
        cells = line.split("\t")
        if len(cells) != columns:
            raise DataError(
                f"{path.name}, line {number}: a judgement has {columns} columns separated by tabs "
                f"(query, document, grade), found {len(cells)}"
            )
        query, document, grade_text = cells
        try:
            grade = float(grade_text)
        except ValueError:
            if number == 1:
                continue
            grade = math.nan
        if not (math.isfinite(grade) and grade >= 0):
            raise DataError(f"{path.name}, line {number}: the grade must be a number of 0 or more")
        qrels.setdefault(query, {})[document] = grade
    return qrels


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: the file is missing; a collection has {CORPUS_FILE} and {QUERIES_FILE}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the file must be readable UTF-8 text ({type(error).__name__})") from error
    for number, line in enumerate(content.split("\n"), start=1):
        stripped = line.rstrip("\r")
        if stripped.strip():
            yield number, stripped
