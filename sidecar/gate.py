"""`rag-drift gate`: may this encoder take that one's place? Both are measured on the same sets, then it is decided.

Before deployment there is no traffic to compare, only sets: labelled queries say whether retrieval got worse, pairs
whether it was traded for precision. Retrieval alone decides. A gate that looked at pairs only would be the accident
that this project is about.

Several sets and domains are looked at in one gate, and each could fall by chance. What is promised is therefore for
the gate as a whole (`FALSE_FAILURES`). A domain is often too small to show that it did not fall: then the whole set
decides, and the domain says of itself that it cannot tell. Words and files are left to `gate_reports`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, log2
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from sidecar.drift.canary_run import SetName
from sidecar.drift.composition import ALL, PairChange, PairScores, compare_pairs
from sidecar.drift.labelled import LEADING, SHOWN, RetrievalScores, compare_labelled
from sidecar.drift.signature import SignatureRule, name_changes
from sidecar.encoders import threads
from sidecar.encoders.fingerprint import measure, same
from sidecar.encoders.sentence_transformer import load
from sidecar.errors import ConfigurationError, DataError
from sidecar.probesets.library import bundled_folder, find_sets
from sidecar.probesets.measure import ask, finish, measure_pairs, score_rankings
from sidecar.probesets.read import looks_like_a_set, read_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sidecar.drift.labelled import DomainChange
    from sidecar.drift.signature import Signature
    from sidecar.encoders.fingerprint import Fingerprint
    from sidecar.encoders.protocol import Encoder
    from sidecar.encoders.sentence_transformer import SentenceTransformerOptions
    from sidecar.probesets.read import ProbeSet

Decision = Literal["pass", "undecided", "fail"]
Scores = RetrievalScores | PairScores

FALSE_FAILURES = 0.01
"""Largest chance that a candidate which helps each query as often as it harms it fails, over everything in one gate:
half for whole sets, half for domains, each half by Holm's procedure (Scandinavian Journal of Statistics 6(2), 1979)."""

DOUBT = 0.05
"""A domain that fell by more than is tolerated makes the gate undecided where chance alone does this less often."""

MOST_LOST = 10
"""Queries that lost most, named by their ids for each set."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one encoder is and does: its fingerprint, and its scores on each set in their order."""

    name: str
    fingerprint: Fingerprint
    scores: tuple[Scores, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two encoders, as a report names it."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Check:
    """One set (`domain` is `all`) or one of its domains.

    Without judgements there is no `signature`: overlap says that rankings moved and not whether they got worse. `p` is
    that of a fall, held against `level`. `smallest` is the smallest fall, relative to the mean before, that this check
    would have failed with 80 % power, and `needed` how many queries would rule one out if there is none; None where
    nothing moved to judge the spread by, and `needed` also where the check is decided. `weighs` says whether the
    decision is one of the gate.
    """

    domain: str
    change: DomainChange
    signature: Signature | None
    level: float | None
    decision: Decision
    weighs: bool
    smallest: float | None = None
    needed: int | None = None


@dataclass(frozen=True, slots=True)
class SetChecks:
    """The checks of one set, the whole first, and the queries that lost most of `LEADING`: (id, loss)."""

    set: SetName
    checks: tuple[Check, ...]
    lost: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Gate:
    """What was measured and decided. `pairs` are the phenomena of each composition set."""

    reference: Side
    candidate: Side
    same: bool
    tolerance: float
    sets: tuple[SetChecks, ...]
    pairs: tuple[tuple[SetName, tuple[PairChange, ...]], ...]
    strict: bool = False

    @property
    def verdict(self) -> Decision:
        """Give the worst decision of those that weigh."""
        found = {check.decision for one in self.sets for check in one.checks if check.weighs}
        return "fail" if "fail" in found else "undecided" if "undecided" in found else "pass"

    @property
    def moved(self) -> bool:
        """Whether any ranking, score or cosine moved."""
        rankings = any(check.change.moved for one in self.sets for check in one.checks)
        return rankings or any(change.moved for _, changes in self.pairs for change in changes)

    @property
    def exit_code(self) -> int:
        """Give 1 for a failure, and where it is strict also for a gate that cannot tell; else 0."""
        return int(self.verdict == "fail" or (self.strict and self.verdict == "undecided"))


def choose_sets(
    probes: Sequence[str] = (),
    queries: Path | None = None,
    corpus: Path | None = None,
    judgements: Path | None = None,
) -> tuple[ProbeSet, ...]:
    """Read the sets to measure: `probes` are names of bundled ones or folders (none: all bundled), and the files.

    A set that is broken ends the gate: a check that was not made is not passed.

    Raises:
        ConfigurationError: what was asked for does not go together, is not there, or asks no query.
        DataError: a set or file breaks a rule.
    """
    if (queries is None) != (corpus is None):
        raise ConfigurationError("--queries and --corpus go together: the queries, and the passages that they search")
    if judgements is not None and queries is None:
        raise ConfigurationError("--qrels needs --queries and --corpus: judgements are about their ids")
    bundled = {place.name for place in bundled_folder().iterdir() if looks_like_a_set(place)}
    names = [one for one in probes if one in bundled]
    folders = [Path(one) for one in probes if one not in bundled]
    if missing := [str(one) for one in folders if not one.is_dir()]:
        raise ConfigurationError(f"--probes {', '.join(missing)}: neither a bundled probe set nor a folder")
    library = find_sets(names if probes else None, folders)
    if library.aside:
        raise DataError("\n".join(f"probe set {one.name} cannot be used: {one.reason}" for one in library.aside))
    sets = [one for one in library.sets if one.kind != "sentinel"]
    for one in sets:
        if one.kind == "retrieval" and one.corpus is None:
            raise DataError(f"{one.folder}: there is no corpus.jsonl; rule: the gate encodes the passages itself")
        _refuse_strangers(one)
    if queries is not None and corpus is not None:
        sets.append(read_files(queries, corpus, judgements))
    if not any(one.kind == "retrieval" for one in sets):
        raise ConfigurationError("no set asks a query; rule: at least one retrieval set, or --queries and --corpus")
    return tuple(sets)


def run_gate(
    sets: Sequence[ProbeSet],
    reference: SentenceTransformerOptions,
    candidate: SentenceTransformerOptions,
    tolerance: float,
    *,
    strict: bool,
) -> Gate:
    """Load both encoders and hold them against each other; progress goes to standard error.

    Raises:
        EncoderError: a model cannot be loaded, or fails.
        ConfigurationError: an option does not fit the model.
    """
    with Console(stderr=True).status("loading the encoders") as status:
        # Both before either is measured: the second path may be the wrong one.
        old, new = load(reference), load(candidate)
        threads.use(threads.available())
        measured = measure_encoder(sets, old, status.update), measure_encoder(sets, new, status.update)
    return replace(compare(sets, *measured, tolerance), strict=strict)


def measure_encoder(
    sets: Sequence[ProbeSet], encoder: Encoder, tell: Callable[[str], None] = lambda _: None
) -> Measured:
    """Measure one encoder on `sets`; `tell` hears what is at work.

    Raises:
        EncoderError: the encoder fails.
    """
    tell(f"{encoder.name}: fingerprint")
    with threads.single():
        fingerprint = measure(encoder)
    scores = []
    for one in sets:
        tell(f"{encoder.name}: {one.name}")
        scores.append(_score(one, encoder))
    return Measured(encoder.name, fingerprint, tuple(scores))


def compare(sets: Sequence[ProbeSet], reference: Measured, candidate: Measured, tolerance: float) -> Gate:
    """Hold two encoders that were measured on `sets` against each other, and decide."""
    alike = same(reference.fingerprint, candidate.fingerprint)
    # Equal encoders have one name, although noise may put their digests on two sides of a cell's border.
    digest = (reference if alike else candidate).fingerprint.digest
    names = [SetName(one.name, one.manifest.version, one.checksum) for one in sets]
    return decide(
        dict(zip(names, zip(reference.scores, candidate.scores, strict=True), strict=True)),
        Side(reference.name, reference.fingerprint.digest),
        Side(candidate.name, digest),
        same=alike,
        tolerance=tolerance,
    )


def decide(
    scored: Mapping[SetName, tuple[Scores, Scores]], reference: Side, candidate: Side, *, same: bool, tolerance: float
) -> Gate:
    """Compare what both encoders scored (reference, candidate) on each set, and decide."""
    pairs: list[tuple[SetName, tuple[PairChange, ...]]] = []
    asked: list[tuple[SetName, RetrievalScores, RetrievalScores]] = []
    for name, (old, new) in scored.items():
        if isinstance(old, PairScores) and isinstance(new, PairScores):
            pairs.append((name, compare_pairs(old, new)))
        elif isinstance(old, RetrievalScores) and isinstance(new, RetrievalScores):
            asked.append((name, old, new))
    changes = [_domains(compare_labelled(old, new)) for _, old, new in asked]
    levels = _levels(changes)
    judged = any(level is not None for of_set in levels for level in of_set)
    phenomena = [change for _, found in pairs for change in found]
    rule = SignatureRule(min_effect=tolerance)
    sets = tuple(
        SetChecks(
            name,
            tuple(
                _unjudged(change, weighs=not judged) if level is None else _check(change, level, phenomena, rule)
                for change, level in zip(of_set, of_levels, strict=True)
            ),
            _lost(old, new),
        )
        for (name, old, new), of_set, of_levels in zip(asked, changes, levels, strict=True)
    )
    return Gate(reference, candidate, same, tolerance, sets, tuple(pairs))


def _refuse_strangers(one: ProbeSet) -> None:
    """Refuse judgements of passages that are not there: what cannot be found cannot be lost, and would be passed."""
    documents = [document for _, document in one.strangers if one.corpus is not None and document not in one.corpus]
    if documents:
        raise DataError(
            f"{one.folder}: {len(documents)} judgements name a passage that the corpus does not have, as "
            f"{documents[0]!r:.60}; rule: the ids of the corpus"
        )


def _score(one: ProbeSet, encoder: Encoder) -> Scores:
    if one.kind == "composition":
        return finish(measure_pairs(one, encoder))
    rankings = finish(ask(one, encoder))
    if one.judgements:
        return score_rankings(one, rankings)
    nothing = (None,) * len(rankings)
    return RetrievalScores(
        queries=tuple(query.id for query in one.queries),
        domains=tuple(query.domain for query in one.queries),
        rankings=tuple(ranking.ids[:SHOWN] for ranking in rankings),
        values={},
        top=nothing,
        gap=nothing,
    )


def _domains(changes: tuple[DomainChange, ...]) -> tuple[DomainChange, ...]:
    """Leave out a single domain: it is the whole set again."""
    return changes if len(changes) > 2 else changes[:1]


def _levels(changes: Sequence[Sequence[DomainChange]]) -> list[list[float | None]]:
    """Give each change the level that its p-value is held against; None without judgements."""
    levels: list[list[float | None]] = [[None for _ in of_set] for of_set in changes]
    places = [(i, j) for i, of_set in enumerate(changes) for j, one in enumerate(of_set) if one.measures]
    groups = [[one for one in places if one[1] == 0], [one for one in places if one[1] > 0]]
    groups = [group for group in groups if group]
    for group in groups:
        found = holm([changes[i][j].leading.p for i, j in group], FALSE_FAILURES / len(groups))
        for (i, j), level in zip(group, found, strict=True):
            levels[i][j] = level
    return levels


def holm(p: Sequence[float], total: float) -> list[float]:
    """Give the level of each test so that the chance of any false rejection is at most `total`, by Holm's procedure.

    The smallest p is held against total / n; each rejection leaves the whole to the rest.
    """
    levels = [0.0] * len(p)
    left = len(p)
    level = total / max(1, left)
    for place in sorted(range(len(p)), key=lambda place: p[place]):
        levels[place] = level
        if p[place] <= level and left > 1:
            left -= 1
            level = total / left
    return levels


def _unjudged(change: DomainChange, *, weighs: bool) -> Check:
    return Check(change.domain, change, None, None, "undecided" if change.moved else "pass", weighs)


def _check(change: DomainChange, level: float, pairs: Sequence[PairChange], rule: SignatureRule) -> Check:
    (signature,) = name_changes([change], pairs, replace(rule, p=level))
    one = change.leading
    tolerated = rule.min_effect * one.before
    # With fewer queries not even a fall of all of them could fail, and a check that cannot fail is not passed.
    fewest = ceil(log2(1.0 / level))
    decision: Decision = "pass"
    if signature.worse:
        decision = "fail"
    elif (
        signature.name == "changed_unclear"
        or one.before <= 0.0
        or (signature.name == "changed_not_worse" and change.moved and one.n < fewest)
    ):
        decision = "undecided"
    doubtful = one.effect <= -tolerated and one.p <= DOUBT
    needed = None
    if decision == "undecided" and tolerated > 0.0:
        # So that a candidate without a fall passes with 80 % power: `at_least` is at 95 %.
        needed = max(fewest, ceil(one.n * (one.detectable(0.05) / tolerated) ** 2))
    smallest = None
    if one.spread > 0.0 and one.before > 0.0:
        # A failure takes an estimate beyond the tolerance, too: `detectable` at level 1/2 is the power's share alone.
        smallest = max(one.detectable(level), tolerated + one.detectable(0.5)) / one.before
    whole = change.domain == ALL
    return Check(
        change.domain, change, signature, level, decision, whole or decision == "fail" or doubtful, smallest, needed
    )


def _lost(old: RetrievalScores, new: RetrievalScores) -> tuple[tuple[str, float], ...]:
    if LEADING not in new.values:
        return ()
    losses = zip(old.values[LEADING], new.values[LEADING], old.queries, strict=True)
    lost = sorted((now - before, query) for before, now, query in losses if now < before)
    return tuple((query, -loss) for loss, query in lost[:MOST_LOST])
