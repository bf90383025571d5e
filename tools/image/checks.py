"""What an image must be and do, tried on the built image.

Each check yields what was looked at and what is wrong with it; nothing wrong is an empty text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tools.image.engines import Engine, Ran

USER = "10001:10001"
SETTINGS = """\
retrievers:
  deployed: {encoder: {model: /models/current}, index: /indexes/current}
  reference: {encoder: {model: /models/accepted}, index: /indexes/accepted}
"""
IN_IMAGE = "/etc/rag-drift/sidecar.yaml"
MODEL, CORPUS, DOCUMENTS = "/models/accepted", "/corpus.jsonl", 396
INDEX_BUILD = ("rag-drift", "index", "build", "--corpus", CORPUS, "--model", MODEL, "/tmp/index")  # noqa: S108
NOT_HERE = r"-type d \( -path /proc -o -path /sys -o -path /dev -o -path /tmp \) -prune -o"
WRITABLE = f"touch /tmp/x && {{ find / {NOT_HERE} ! -type l -writable -print 2>/dev/null; true; }}"
LOOSE = "find /opt/venv ! -type l \\( -perm /022 -o ! -user 0 \\)"
COMPILERS = "for name in cc gcc c++ g++ clang ld make; do command -v $name; done; true"
HOLDING = 'find / -xdev -type f -exec grep -lF "$@" {} + ; true'
EXISTING = 'for path; do test ! -e "$path" || echo "$path"; done'
SETS = ("composition", "generalization", "sentinel")


@dataclass(frozen=True, slots=True)
class Expected:
    """What the image was built from: labels, texts that must not be in it, and a model to try where there is one."""

    labels: Mapping[str, str]
    traces: tuple[str, ...]
    settings: Path
    corpus: Path
    model: Path | None


def of_both(engine: Engine, image: str, expected: Expected) -> Iterator[tuple[str, str]]:
    """Check what holds for every target."""
    found = engine.inspect(image)
    yield f"user {USER}", _same(found.get("User"), USER)
    yield "entrypoint and command", _same((found.get("Entrypoint"), found.get("Cmd")), (["rag-drift"], ["run"]))
    labels = {name: (found.get("Labels") or {}).get(name) for name in expected.labels}
    yield "labels", _same(labels, dict(expected.labels))

    version = expected.labels["org.opencontainers.image.version"]
    yield "rag-drift --version", _ended(engine.run(image, ["rag-drift", "--version"], {}), 0, f"rag-drift {version}")
    checked = engine.run(image, ["rag-drift", "config", "check", "--config", IN_IMAGE], {expected.settings: IN_IMAGE})
    yield "rag-drift config check", _ended(checked, 0, "settings are valid")
    sets = engine.run(image, ["rag-drift", "probes", "list", "--json"], {})
    yield "rag-drift probes list", _ended(sets, 0, *(f'"{name}"' for name in SETS))
    yield "nothing is writable but /tmp", _ended(engine.run(image, ["sh", "-c", WRITABLE], {}))
    yield "the environment belongs to root", _ended(engine.run_as_root(image, ["sh", "-c", LOOSE]))
    yield "no compiler", _ended(engine.run(image, ["sh", "-c", COMPILERS], {}))
    if expected.traces:
        yield "no trace of this machine's index", _no_trace(engine, image, found, expected.traces)


def of_slim(engine: Engine, image: str, expected: Expected) -> Iterator[tuple[str, str]]:
    """Check that there is no encoder, and that this is said plainly."""
    ran = engine.run(image, INDEX_BUILD, {expected.corpus: CORPUS})
    wrong = _ended(ran, 3, "needs the packages torch and sentence-transformers")
    yield "an encoder is refused with exit 3", wrong or (ran.output if "Traceback" in ran.output else "")


def of_full(engine: Engine, image: str, expected: Expected) -> Iterator[tuple[str, str]]:
    """Check that a model encodes without network and without a place to write but /tmp."""
    if expected.model is not None:
        ran = engine.run(image, INDEX_BUILD, {expected.corpus: CORPUS, expected.model: MODEL})
        yield "a model encodes without network", _ended(ran, 0, f"{DOCUMENTS} documents")


def _no_trace(engine: Engine, image: str, found: object, traces: tuple[str, ...]) -> str:
    """Look for the texts in the configuration, in every file, and for the paths among them."""
    said = [trace for trace in traces if trace in json.dumps(found)]
    words = [word for trace in traces for word in ("-e", trace)]
    files = engine.run_as_root(image, ["sh", "-c", HOLDING, "sh", *words])
    paths = [trace for trace in traces if trace.startswith("/")]
    there = engine.run_as_root(image, ["sh", "-c", EXISTING, "sh", *paths])
    return "\n".join(filter(None, [*said, _ended(files), _ended(there)]))


def _same(found: object, wanted: object) -> str:
    return "" if found == wanted else f"{found} and not {wanted}"


def _ended(ran: Ran, code: int = 0, *texts: str) -> str:
    """Compare how a command ended; without `texts` it must have printed nothing."""
    if ran.code != code:
        return f"exit {ran.code} and not {code}: {ran.output}"
    missing = [text for text in texts if text not in ran.output]
    if missing:
        return f"no {', '.join(missing)} in: {ran.output}"
    return "" if texts else ran.output
