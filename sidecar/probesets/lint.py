"""Look over probe sets for what makes their scores wrong, or too weak to tell anything.

A set that can be read can still mislead: the same question twice counts twice, a question in the passage's own words
is found by any encoder, forty questions see only a collapse. The rules below are the whole list; a finding names set,
file, line or id and rule, and never quotes a text. What needs an encoder comes in as the set's card.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Literal

from sidecar.drift.composition import ALL
from sidecar.drift.labelled import LEADING, smallest_change
from sidecar.encoders.fingerprint import SENTINELS
from sidecar.probesets.card import LEVELS
from sidecar.probesets.read import CORPUS, PAIR_KEYS, PAIRS, QUERIES, TEXTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sidecar.probesets.card import Card
    from sidecar.probesets.library import SetAside
    from sidecar.probesets.read import ProbeSet

Severity = Literal["error", "warning", "note"]

RULES: Mapping[str, tuple[Severity, str]] = {
    "format": ("error", "Every file keeps the format, and no two sets have one name"),
    "unknown-document": ("error", "Judged documents are in the corpus: one that is missing can never be found"),
    "unknown-query": ("warning", "Judged queries are in `queries.jsonl`"),
    "unjudged": ("warning", "Every query has a relevant document; the others are left out"),
    "repeated": ("warning", "No query, document or sentence says the same words again: it would count twice"),
    "leak": ("warning", "Queries use a user's words: on average at most half of theirs are in the relevant document"),
    "same-sentence": ("error", "The three sentences of a triple differ"),
    "two-roles": ("warning", "No sentence is a paraphrase here and an anchor or near-miss there"),
    "copy": ("warning", "A paraphrase shares at most 65 % of its words with the anchor, as a passive does"),
    "far": ("warning", "Near-misses of a phenomenon share more words with the anchors than paraphrases do, on average"),
    "few": ("warning", "At least 50 queries a domain and 200 a set, or 50 triples a phenomenon"),
    "sentinels": ("error", "A sentinel set has 64 different texts: a fingerprint is taken on so many"),
    "variety": ("warning", "Sentinels are short and long, of several scripts, with digits, in two cases, two spacings"),
    "saturated": ("warning", "With `--model`: the mean nDCG@10 of each domain is between 0.2 and 0.9"),
    "power": ("note", "With `--model`: the smallest change that one run finds"),
    "unchecked": ("note", "A set for the production index: only its index knows documents and scores"),
}

NEARLY_EQUAL = 0.9
"""Share of common words (Jaccard) from which two texts count as one."""

MOST_LEAK = 0.5
"""Questions written by people who looked for something share 0.3 to 0.4 of their content words with the answer;
those of reading tests, made up from the passage, 0.55 to 0.65."""

COMMON_WORD = 0.2
"""A word in more than this share of the documents is none that tells them apart."""

MOST_COPIED = 0.65
FEWEST, FEWEST_OF_SET = 50, 200
SATURATED = (0.2, 0.9)

ASSUMED_SPREAD = {"retrieval": 0.15, "composition": 0.03}
"""Without a card: a little above what MiniLM has on the bundled sets (of nDCG@10, and of sensitivity)."""

LONG_SENTINEL, SCRIPTS = 512, 4
"""Words that are beyond the limit of most encoders, and scripts that a sentinel set should have."""

WORST = 10

_WORD = re.compile(r"[^\W_]+")
_PLACE = re.compile(r"(?P<file>.+?)(?:, line (?P<line>\d+))?: (?P<what>.+)")


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule; `file`, `line` and `id` where there is one."""

    severity: Severity
    set: str
    rule: str
    what: str
    file: str | None = None
    line: int | None = None
    id: str | None = None


def lint_aside(aside: SetAside) -> Iterator[Finding]:
    """Give a finding for each rule that a set breaks which cannot be read."""
    for reason in aside.reason.splitlines():
        if place := _PLACE.fullmatch(reason):
            line = int(place["line"]) if place["line"] else None
            yield Finding("error", aside.name, "format", place["what"], place["file"], line)
        else:
            yield Finding("error", aside.name, "format", reason)


def lint_set(one: ProbeSet, card: Card | None = None) -> Iterator[Finding]:
    """Give the findings of a set that can be read; `card` adds what only an encoder can tell."""
    yield from {"retrieval": _retrieval, "composition": _composition, "sentinel": _sentinel}[one.kind](one)
    if one.kind != "sentinel":
        yield from _few(one, card)
    if card is not None:
        yield from _measured(one, card)


def _retrieval(one: ProbeSet) -> Iterator[Finding]:
    judged = f"qrels/{one.manifest.split}.tsv"
    asked = {*one.unjudged, *(query.id for query in one.queries)}
    for query, document in one.strangers:
        if query not in asked:
            yield _found(one, "unknown-query", "judged and not asked", judged, query)
        else:
            yield _found(one, "unknown-document", f"judged for {query} and not in {CORPUS}", judged, document)
    if one.unjudged:
        what = f"{len(one.unjudged)} queries have no relevant document: {_some(one.unjudged)}"
        yield _found(one, "unjudged", what, QUERIES)
    yield from _repeated(one, {query.id: query.text for query in one.queries}, QUERIES)
    if one.corpus is None:
        yield _found(one, "unchecked", f"no {CORPUS}: leaks, unknown documents and figures are not looked at")
        return
    yield from _repeated(one, one.corpus, CORPUS)
    leaks = _leaks(one, one.corpus)
    mean = sum(leaks.values()) / max(1, len(leaks))
    if mean > MOST_LEAK:
        worst = [query for query, share in sorted(leaks.items(), key=lambda pair: -pair[1]) if share > MOST_LEAK]
        what = f"{mean:.0%} of a query's words are in its document; {len(worst)} are above {MOST_LEAK:.0%}: "
        yield _found(one, "leak", what + _some(worst), QUERIES)


def _leaks(one: ProbeSet, corpus: Mapping[str, str]) -> dict[str, float]:
    """Give, for each query, the largest share of its content words that one relevant document has."""
    words = {name: set(_words(text)) for name, text in corpus.items()}
    documents = Counter(word for its in words.values() for word in its)
    most = max(1.0, COMMON_WORD * len(words))
    leaks = {}
    for query in one.queries:
        content = {word for word in _words(query.text) if len(word) > 2 and documents[word] <= most}
        relevant = [name for name, grade in one.judgements[query.id].items() if grade > 0 and name in words]
        if content and relevant:
            leaks[query.id] = max(len(content & words[name]) for name in relevant) / len(content)
    return leaks


def _composition(one: ProbeSet) -> Iterator[Finding]:
    roles: dict[str, tuple[str, str]] = {}
    nearer: dict[str, list[float]] = {}
    for triple in one.triples:
        sentences = {part: " ".join(_words(getattr(triple, part))) for part in PAIR_KEYS}
        if len(set(sentences.values())) < len(PAIR_KEYS):
            yield _found(one, "same-sentence", "two of its sentences are the same words", PAIRS, triple.id)
            continue
        for part, sentence in sentences.items():
            other, role = roles.setdefault(sentence, (triple.id, part))
            if role != part:
                yield _found(one, "two-roles", f"{part} is the {role} of {other}", PAIRS, triple.id)
        anchor, paraphrase, near_miss = (set(sentences[part].split()) for part in PAIR_KEYS)
        copied = _jaccard(anchor, paraphrase)
        if copied > MOST_COPIED:
            yield _found(one, "copy", f"paraphrase and anchor share {copied:.0%} of their words", PAIRS, triple.id)
        nearer.setdefault(triple.phenomenon, []).append(_jaccard(anchor, near_miss) - copied)
    for phenomenon, gains in sorted(nearer.items()):
        if (mean := sum(gains) / len(gains)) <= 0.0:
            yield _found(one, "far", f"{phenomenon}: near-misses share {-mean:.0%} less than paraphrases do", PAIRS)
    for part in PAIR_KEYS:
        yield from _repeated(one, {triple.id: getattr(triple, part) for triple in one.triples}, PAIRS, f"{part} ")


def _sentinel(one: ProbeSet) -> Iterator[Finding]:
    different = set(one.texts)
    if len(one.texts) != SENTINELS or len(different) != SENTINELS:
        what = f"{len(one.texts)} texts, {len(different)} of them different"
        yield _found(one, "sentinels", what, TEXTS)
    lengths = [len(text.split()) for text in one.texts]
    lacks = {
        "a single word": min(lengths) > 1,
        f"{LONG_SENTINEL} words": max(lengths) < LONG_SENTINEL,
        f"{SCRIPTS} scripts": len(_scripts(one.texts)) < SCRIPTS,
        "digits": not any(char.isdigit() for text in one.texts for char in text),
        "a text in two cases": len({text.casefold() for text in different}) == len(different),
        "a text in two spacings": len({" ".join(text.split()) for text in different}) == len(different),
    }
    if any(lacks.values()):
        yield _found(one, "variety", f"lacks {', '.join(what for what, lacking in lacks.items() if lacking)}", TEXTS)


def _few(one: ProbeSet, card: Card | None) -> Iterator[Finding]:
    labelled = one.kind == "retrieval"
    counts = Counter(query.domain for query in one.queries) + Counter(triple.phenomenon for triple in one.triples)
    spreads = {} if card is None else {row.name: row.spread for row in card.rows}
    for name, n in [(ALL, counts.total()), *sorted(counts.items())]:
        # A set of pairs is judged by its phenomena.
        fewest = FEWEST if name != ALL else FEWEST_OF_SET if labelled else 0
        if n < fewest:
            fall = smallest_change(spreads.get(name, ASSUMED_SPREAD[one.kind]), n, LEVELS[0])
            what = (
                f"{name}: {n} {'queries' if labelled else 'triples'}, rule: at least {fewest}; the smallest "
                f"{'fall of nDCG@10' if labelled else 'change of sensitivity'} found with 80 % power at p = "
                f"{LEVELS[0]:g} is {fall:.3f}{'' if name in spreads else ' (spread assumed)'}"
            )
            yield _found(one, "few", what, QUERIES if labelled else PAIRS)


def _measured(one: ProbeSet, card: Card) -> Iterator[Finding]:
    for row in card.rows:
        if row.name == ALL:
            changes = " and ".join(f"{change:.3f} at p = {p:g}" for change, p in zip(row.smallest, LEVELS, strict=True))
            yield _found(one, "power", f"smallest change found with 80 % power: {changes}")
        elif LEADING in row.values and not SATURATED[0] <= row.values[LEADING] <= SATURATED[1]:
            what = (
                f"{row.name}: mean nDCG@10 {row.values[LEADING]:.3f}, {row.values['perfect']:.0%} of the queries at 1"
            )
            yield _found(one, "saturated", what, QUERIES)


def _repeated(one: ProbeSet, texts: Mapping[str, str], file: str, what: str = "") -> Iterator[Finding]:
    """Compare all texts with each other, by prefix filtering.

    Two sets of words with a Jaccard of at least t share one of the first |x| - ceil(t |x|) + 1 words of either, if
    rare words come first (Chaudhuri, Ganti, Kaushik, "A primitive operator for similarity joins", ICDE 2006).
    """
    words = {name: _words(text) for name, text in texts.items()}
    documents = Counter(word for its in words.values() for word in set(its))
    seen: dict[str, list[str]] = {}
    for name, its in words.items():
        different = sorted(set(its), key=lambda word: (documents[word], word))
        prefix = different[: len(different) - ceil(NEARLY_EQUAL * len(different)) + 1]
        # In the order of the file, so that the first of a family is named.
        for other in dict.fromkeys(other for word in prefix for other in seen.get(word, ())):
            if _jaccard(set(different), set(words[other])) >= NEARLY_EQUAL:
                same = "the same words as" if its == words[other] else "nearly the same words as"
                yield _found(one, "repeated", f"{what}{same} {other}", file, name)
                break
        for word in prefix:
            seen.setdefault(word, []).append(name)


def _found(one: ProbeSet, rule: str, what: str, file: str | None = None, name: str | None = None) -> Finding:
    return Finding(RULES[rule][0], one.name, rule, what, str(one.folder / file) if file else None, None, name)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _scripts(texts: Iterable[str]) -> set[str]:
    """Name the scripts of the letters, as Unicode does in the first word of a letter's name."""
    return {unicodedata.name(char, "?").split()[0] for char in set("".join(texts)) if char.isalpha()}


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def _some(ids: Iterable[str]) -> str:
    names = list(ids)
    return ", ".join(names[:WORST]) + (f" and {len(names) - WORST} more" if len(names) > WORST else "")
