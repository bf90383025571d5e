"""`rag-drift probes`: list, show and look over probe sets, and measure the figures of their cards.

What a set is, what is wrong with one and what its figures are is `probesets`' business; here they are found by name
or folder and printed. A set's texts are shown by `show --query` only.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from sidecar.errors import ConfigurationError, DataError
from sidecar.probesets.card import LEVELS, Card, markdown, measure_card, rewrite
from sidecar.probesets.library import Library, bundled_folder, find_sets
from sidecar.probesets.lint import lint_aside, lint_set
from sidecar.probesets.read import PAIR_KEYS, looks_like_a_set

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sidecar.encoders.protocol import Encoder
    from sidecar.probesets.lint import Finding, Severity
    from sidecar.probesets.read import ProbeSet

SHOWN = 10
"""Findings of one rule and set that people see; `--json` has all."""

README = "README.md"
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


def list_sets(config: Path | None, folders: Sequence[Path], *, as_json: bool) -> None:
    """Print the sets that the settings choose, or all bundled ones, and those of `folders`.

    Raises:
        ConfigurationError: a set or folder that is named is not there.
    """
    library = _library(config, folders)
    if as_json:
        click.echo(
            json.dumps(
                {"sets": [_summary(one) for one in library.sets], "aside": [asdict(one) for one in library.aside]},
                indent=2,
            )
        )
        return
    table = Table()
    for name in ("set", "kind", "version", "checksum", "holds", "domains or phenomena", "licence", "where"):
        table.add_column(name)
    for one in library.sets:
        table.add_row(
            one.name,
            one.kind,
            str(one.manifest.version),
            one.checksum,
            _counted(one),
            ", ".join(one.groups),
            one.manifest.licence,
            _where(one),
        )
    _console().print(table)
    for aside in library.aside:
        for reason in aside.reason.splitlines():
            click.echo(f"set aside: {aside.name}: {reason}")


def show_set(name: str, query: str | None) -> None:
    """Print what a set is, or one of its queries with the judged documents.

    Raises:
        ConfigurationError: there is no such set or query.
        DataError: the set cannot be read.
    """
    one = _one(name)
    if query is not None:
        _show_query(one, query)
        return
    click.echo(f"{one.name}: {one.kind}, version {one.manifest.version}, checksum {one.checksum}, {_where(one)}")
    for key, value in one.manifest.model_dump().items():
        if key not in {"kind", "version"} and value:
            click.echo(f"  {key}: {', '.join(value) if isinstance(value, tuple) else value}")
    click.echo(f"  holds: {_counted(one)}")
    for what, texts in _texts(one).items():
        lengths = [len(text.split()) for text in texts]
        click.echo(f"  words a {what}: {min(lengths)} to {max(lengths)}, median {median(lengths):g}")
    if one.kind == "retrieval":
        grades = Counter(grade for its in one.judgements.values() for grade in its.values())
        click.echo("  judgements: " + ", ".join(f"{n} of grade {grade:g}" for grade, n in sorted(grades.items())))
    if one.groups:
        table = Table()
        table.add_column("domain" if one.queries else "phenomenon")
        table.add_column("queries" if one.queries else "triples", justify="right")
        counts = Counter([query.domain for query in one.queries] or [triple.phenomenon for triple in one.triples])
        for group in one.groups:
            table.add_row(group, str(counts[group]))
        _console().print(table)


def lint(names: Sequence[str], model: str | None, *, strict: bool, as_json: bool) -> int:
    """Print the findings in the sets of these names and folders (none: all bundled ones); 1 if there is an error.

    Raises:
        ConfigurationError: a set or folder that is named is not there.
        EncoderError: the model cannot be loaded or fails.
    """
    libraries = [_named(name) for name in dict.fromkeys(names)] or [find_sets()]
    sets = [one for library in libraries for one in library.sets]
    found = [finding for library in libraries for aside in library.aside for finding in lint_aside(aside)]
    if model is None:
        found += [finding for one in sets for finding in lint_set(one)]
    else:
        with _loaded(model) as encoder:
            for one in sets:
                measured = one.kind != "sentinel" and (one.kind == "composition" or one.corpus is not None)
                found += lint_set(one, measure_card(one, encoder) if measured else None)
    if strict:
        found = [replace(one, severity="error") if one.severity == "warning" else one for one in found]
    found.sort(key=lambda one: SEVERITIES.index(one.severity))
    counts = Counter(one.severity for one in found)
    total = len(sets) + sum(len(library.aside) for library in libraries)
    if as_json:
        click.echo(json.dumps({"sets": total, "findings": [asdict(one) for one in found]}, indent=2))
    else:
        for line in _lines(found):
            click.echo(line)
        click.echo(
            f"{total} {'set' if total == 1 else 'sets'}: " + ", ".join(f"{counts[one]} {one}s" for one in SEVERITIES)
        )
    return 1 if counts["error"] else 0


def card(name: str, model: str, encoder_name: str | None, *, write: bool, as_json: bool) -> None:
    """Measure and print the figures of a set's card, or write them into its README.

    Raises:
        ConfigurationError: there is no such set, or none that has figures.
        DataError: the set cannot be read, or its README has no place for them.
        EncoderError: the model cannot be loaded or fails.
    """
    one = _one(name)
    with _loaded(model) as encoder:
        measured = measure_card(one, encoder, name=encoder_name)
    if write:
        rewrite(one.folder / README, markdown(measured))
    click.echo(json.dumps(_card_json(measured), indent=2) if as_json else markdown(measured))


def _library(config: Path | None, folders: Sequence[Path]) -> Library:
    if config is None:
        return find_sets(None, folders)
    from sidecar.settings_sources import load  # noqa: PLC0415  (only with settings)

    chosen = load(config).canaries
    return find_sets(chosen.bundled, [*chosen.folders, *folders])


def _named(name: str) -> Library:
    """Find what a word of the command line means: a bundled set, or a folder that is one or holds some."""
    home = bundled_folder()
    if "/" not in name and looks_like_a_set(home / name):
        return find_sets([name])
    if not Path(name).is_dir():
        there = ", ".join(one.name for one in find_sets().sets)
        raise ConfigurationError(f"{name} is neither a bundled probe set ({there}) nor a folder")
    return find_sets((), [Path(name)])


def _one(name: str) -> ProbeSet:
    library = _named(name)
    if library.aside and not library.sets:
        raise DataError("\n".join(one.reason for one in library.aside))
    if len(library.sets) != 1:
        there = ", ".join(one.name for one in library.sets)
        raise ConfigurationError(f"{name} holds several sets ({there}); rule: name one")
    return library.sets[0]


@contextmanager
def _loaded(model: str) -> Iterator[Encoder]:
    from sidecar.encoders import threads  # noqa: PLC0415  (torch is slow to import)
    from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load  # noqa: PLC0415

    with Console(stderr=True).status("measuring"):
        encoder = load(SentenceTransformerOptions(model))
        threads.use(threads.available())
        try:
            yield encoder
        finally:
            encoder.close()


def _show_query(one: ProbeSet, name: str) -> None:
    if (triple := next((triple for triple in one.triples if triple.id == name), None)) is not None:
        for part in PAIR_KEYS:
            click.echo(f"{part.replace('_', '-')}: {getattr(triple, part)}")
        return
    query = next((query for query in one.queries if query.id == name), None)
    if query is None:
        raise ConfigurationError(f"{one.name} has no judged query or triple {name}")
    click.echo(f"{query.id} ({query.domain}): {query.text}")
    for document, grade in sorted(one.judgements[name].items(), key=lambda pair: (-pair[1], pair[0])):
        text = (one.corpus or {}).get(document, "not in the corpus" if one.corpus else "in the production index")
        click.echo(f"\ngrade {grade:g}: {document}\n{text}")


def _lines(found: Iterable[Finding]) -> Iterator[str]:
    shown: Counter[tuple[str, str]] = Counter()
    for one in found:
        shown[one.set, one.rule] += 1
        if shown[one.set, one.rule] <= SHOWN:
            place = (one.file or one.set) + (f":{one.line}" if one.line else "") + (f" {one.id}" if one.id else "")
            yield f"{one.severity}: {place}: {one.what} [{one.rule}]"
    for (name, rule), n in shown.items():
        if n > SHOWN:
            yield f"{name}: {n - SHOWN} more [{rule}]; --json lists all"


def _summary(one: ProbeSet) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind,
        "version": one.manifest.version,
        "checksum": one.checksum,
        "groups": list(one.groups),
        "counts": _counts(one),
        "language": one.manifest.language,
        "licence": one.manifest.licence,
        "where": _where(one),
    }


def _counts(one: ProbeSet) -> dict[str, int]:
    counts = {
        "queries": len(one.queries),
        "unjudged queries": len(one.unjudged),
        "documents": len(one.corpus or ()),
        "triples": len(one.triples),
        "texts": len(one.texts),
    }
    return {what: n for what, n in counts.items() if n}


def _counted(one: ProbeSet) -> str:
    return ", ".join(f"{n} {what}" for what, n in _counts(one).items())


def _where(one: ProbeSet) -> str:
    return "bundled" if one.folder.resolve().parent == bundled_folder().resolve() else str(one.folder)


def _texts(one: ProbeSet) -> dict[str, list[str]]:
    texts = {
        "query": [query.text for query in one.queries],
        "document": list((one.corpus or {}).values()),
        "sentence": [getattr(triple, part) for triple in one.triples for part in PAIR_KEYS],
        "text": list(one.texts),
    }
    return {what: its for what, its in texts.items() if its}


def _card_json(measured: Card) -> dict[str, Any]:
    content = asdict(measured)
    for row, plain in zip(measured.rows, content["rows"], strict=True):
        plain["smallest"] = {f"{p:g}": change for p, change in zip(LEVELS, row.smallest, strict=True)}
    return content


def _console() -> Console:
    # Names and licences are somebody's text, not markup.
    console = Console(markup=False, highlight=False)
    return console if console.is_terminal else Console(width=200, markup=False, highlight=False)
