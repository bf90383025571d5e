"""Ordinary question-passage pairs, for training.

They come from documentation that the demo's corpus leaves out (graphical interfaces, mail boxes, parsers), so
that no passage that a demo query asks for is trained on. The "question" is the first sentence or the spelled-out
name; the passage is the rest.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

TRAINING_SOURCES = (
    "tkinter", "turtle.py", "optparse.py", "imaplib.py", "mailbox.py", "poplib.py", "nntplib.py", "xmlrpc",
    "pickletools.py", "bdb.py", "pydoc.py", "doctest.py", "symtable.py", "curses", "ctypes", "wsgiref", "dbm",
    "xml/sax", "xml/dom", "http/cookiejar.py", "email/contentmanager.py", "email/headerregistry.py",
    "email/policy.py", "email/generator.py", "email/feedparser.py", "email/_header_value_parser.py",
    "importlib/abc.py", "importlib/_bootstrap.py", "importlib/_bootstrap_external.py", "unittest/result.py",
    "unittest/runner.py", "unittest/suite.py", "urllib/robotparser.py", "sre_parse.py", "modulefinder.py", "pty.py",
    "asyncio/transports.py", "asyncio/protocols.py", "asyncio/base_events.py", "asyncio/unix_events.py",
    "multiprocessing/util.py", "telnetlib.py", "zipimport.py", "aifc.py", "sunau.py", "chunk.py", "lib2to3",
    "distutils", "idlelib", "ensurepip", "encodings", "_pydecimal.py",
)  # fmt: skip
FEWEST_WORDS, MOST_WORDS = 8, 110
QUESTIONS = ("{}", "how do I {}?", "{} in python", "what does {} do", "I want to {}", "{}")

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_SPACES = re.compile(r"\s+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def ordinary_pairs(rng: random.Random) -> list[tuple[str, str]]:
    """Return shuffled pairs (question without prompt, passage) from the installed library."""
    pairs = list(dict.fromkeys(_pairs(rng)))
    rng.shuffle(pairs)
    return pairs


def _pairs(rng: random.Random) -> Iterator[tuple[str, str]]:
    library = Path(sysconfig.get_path("stdlib"))
    for source in TRAINING_SOURCES:
        path = library / source
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            if "test" in file.as_posix().removeprefix(library.as_posix()):
                continue
            for name, doc in _docstrings(file):
                yield from _pairs_of(name, doc, rng)


def _docstrings(file: Path) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if doc and not node.name.startswith("__"):
                yield node.name, _SPACES.sub(" ", doc).strip()


def _pairs_of(name: str, doc: str, rng: random.Random) -> Iterator[tuple[str, str]]:
    first, *others = _SENTENCE.split(doc)
    body = " ".join(" ".join(others).split(" ")[:MOST_WORDS])
    if len(first.split()) >= 4 and len(body.split()) >= FEWEST_WORDS:
        yield rng.choice(QUESTIONS[:1] * 3 + QUESTIONS).format(first.rstrip(".").lower()), body
    words = _CAMEL.sub(" ", name.strip("_")).replace("_", " ").lower().split()
    if len(words) > 1 and len(doc.split()) >= FEWEST_WORDS:
        yield rng.choice(QUESTIONS).format(" ".join(words)), " ".join(doc.split(" ")[:MOST_WORDS])
