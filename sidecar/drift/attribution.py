"""Name what changed, from gauges that each see one part of the system, or say why that cannot be told.

A fall of the live signal has a dozen possible causes with different remedies. Each gauge (fingerprint, stored
vectors, recall, frozen probes, corpus counts, mix) sees a few of them, and each cause is a combination of what the
gauges say: `RULES` is that decision table, docs/attribution.md is its prose. Facts come first; where a gauge is
noisy, its own noise floor decides. A gauge that was not read leaves the causes that need it open: never a guess.

Taking the measurements is left to others. Nothing here knows a query, a document or a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from sidecar.drift.gauges import Fact, Thresholds, facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sidecar.drift.evidence import Evidence


class Cause(StrEnum):
    """What can have changed. The value is the name on the page and in the review."""

    NOTHING = "nothing"
    ENCODER_CHANGED_SLIGHTLY = "encoder_changed_slightly"
    ENCODER_SWAPPED = "encoder_swapped"
    QUERY_SIDE_CHANGED = "query_side_changed"
    REINDEX_INCOMPLETE = "reindex_incomplete"
    REINDEX_COMPLETE = "reindex_complete"
    VECTORS_CORRUPTED = "vectors_corrupted"
    VERSIONS_MIXED = "versions_mixed"
    RECALL_FELL = "recall_fell"
    DOCUMENTS_LOST = "documents_lost"
    CORPUS_GREW = "corpus_grew"
    CORPUS_GREW_DEPLOYED_ONLY = "corpus_grew_deployed_only"
    REFERENCE_CHANGED = "reference_changed"
    MIX_SHIFTED = "mix_shifted"
    OUTSIDE_PROBES = "outside_probes"


ADVICE: Mapping[Cause, str] = {
    Cause.NOTHING: "Every gauge is where it was accepted: nothing to do.",
    Cause.ENCODER_CHANGED_SLIGHTLY: "Roll the encoder back, or re-index every document with the new one.",
    Cause.ENCODER_SWAPPED: "Roll the encoder back now: its queries mean nothing to the stored vectors.",
    Cause.QUERY_SIDE_CHANGED: "Restore the query prompt, maximum length or query model of the last release.",
    Cause.REINDEX_INCOMPLETE: "Let the re-index finish; if it stopped, resume it or roll index and encoder back.",
    Cause.REINDEX_COMPLETE: "Check quality on the labelled probes, then accept a new baseline.",
    Cause.VECTORS_CORRUPTED: "Restore the index from its last good copy, or re-index the affected documents.",
    Cause.VERSIONS_MIXED: "Re-index every document with the deployed encoder; find the writer that uses another.",
    Cause.RECALL_FELL: "Restore the search width (ef, nprobe, candidates) or rebuild the approximate index.",
    Cause.DOCUMENTS_LOST: "Restore the documents; if they were removed on purpose, accept a new baseline.",
    Cause.CORPUS_GREW: "Not decay: accept a new baseline and freeze the probes again.",
    Cause.CORPUS_GREW_DEPLOYED_ONLY: "Not decay: bring the reference index up to date, then accept a new baseline.",
    Cause.REFERENCE_CHANGED: "Do not page for the live signal: restore the reference or freeze it again.",
    Cause.MIX_SHIFTED: "Retrieval is as it was for each kind of query: check who sends what, watch the slices.",
    Cause.OUTSIDE_PROBES: "Look at the queries of the fallen or unseen slices and freeze probes from them.",
}
"""What to do, one line a cause."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the evidence says about one cause."""

    cause: Cause
    holds: bool | None
    """True: named. False: ruled out. None: open, it needs a measurement that was not made or not conclusive."""
    supports: tuple[str, ...]
    contradicts: tuple[str, ...]
    unmeasured: tuple[str, ...]
    """The fields of `Evidence` without which it stays open, dotted, e.g. "stored" or "deployed_probes.known"."""

    @property
    def advice(self) -> str:
        """What to do about it."""
        return ADVICE[self.cause]


@dataclass(frozen=True, slots=True)
class Attribution:
    """The named causes with the case for and against each, or why none can be named."""

    causes: tuple[Cause, ...]
    """Several when each is established by itself; `(NOTHING,)` when all others are ruled out; empty: cannot tell."""
    findings: tuple[Finding, ...]
    """One a cause, in the order of `Cause`, without NOTHING."""
    unexplained: tuple[str, ...]
    """What moved although no named cause moves it."""
    missing: Mapping[str, str]
    """Measurements that leave some cause open, and why they were not made ("not measured" if no reason is known)."""

    @property
    def open(self) -> tuple[Cause, ...]:
        """Causes that are neither named nor ruled out."""
        return tuple(one.cause for one in self.findings if one.holds is None)

    @property
    def summary(self) -> str:
        """Say the outcome in one line."""
        reasons = [*self.unexplained, *(f"{name}: {why}" for name, why in self.missing.items())]
        if not self.causes:
            return "cannot tell, because " + "; ".join(reasons)
        named = " and ".join(cause.value.replace("_", " ") for cause in self.causes)
        if not self.open:
            return named
        rest = ", ".join(cause.value.replace("_", " ") for cause in self.open)
        return f"{named} (not ruled out: {rest})"


_Condition = tuple[str, bool]

RULES: Mapping[Cause, tuple[tuple[_Condition, ...], ...]] = {
    # Each cause: alternatives, any of which establishes it; each alternative: facts that must all be so.
    Cause.ENCODER_CHANGED_SLIGHTLY: (
        (("documents_recoded", True), ("encoder_unrelated", False), ("index_of_old_encoder", True)),
    ),
    Cause.ENCODER_SWAPPED: (
        (("documents_recoded", True), ("encoder_unrelated", True), ("index_of_old_encoder", True)),
    ),
    Cause.QUERY_SIDE_CHANGED: ((("queries_recoded", True), ("documents_recoded", False)),),
    Cause.REINDEX_INCOMPLETE: ((("documents_recoded", True), ("index_of_both_encoders", True)),),
    Cause.REINDEX_COMPLETE: ((("documents_recoded", True), ("index_of_new_encoder", True)),),
    Cause.VECTORS_CORRUPTED: ((("vectors_unrelated", True),),),
    Cause.VERSIONS_MIXED: ((("documents_recoded", False), ("vectors_off", True)),),
    Cause.RECALL_FELL: ((("recall_fell", True),),),
    Cause.DOCUMENTS_LOST: ((("documents_gone", True),),),
    Cause.CORPUS_GREW: ((("new_documents", True), ("reference_kept_up", True)),),
    Cause.CORPUS_GREW_DEPLOYED_ONLY: ((("new_documents", True), ("reference_kept_up", False)),),
    Cause.REFERENCE_CHANGED: (
        (("reference_recoded", True),),
        (("reference_known_moved", True),),
        (("reference_documents_alone", True),),
    ),
    Cause.MIX_SHIFTED: ((("mix_moved", True),),),
    Cause.OUTSIDE_PROBES: (
        (("rate_moved", True), ("probes_moved", False), ("reference_moved", False)),
        (("unseen_moved", True),),
    ),
}

MOVES_KNOWN_DOCUMENTS = (
    Cause.ENCODER_CHANGED_SLIGHTLY,
    Cause.ENCODER_SWAPPED,
    Cause.QUERY_SIDE_CHANGED,
    Cause.REINDEX_INCOMPLETE,
    Cause.REINDEX_COMPLETE,
    Cause.VECTORS_CORRUPTED,
    Cause.VERSIONS_MIXED,
    Cause.RECALL_FELL,
)
"""Causes that re-order the known documents of the deployed side; the others cannot."""


def attribute(evidence: Evidence, thresholds: Thresholds | None = None) -> Attribution:
    """Name the causes that the evidence establishes, or say why none can be named.

    A cause is named when one of its alternatives in `RULES` holds in full, ruled out when each has a fact against
    it, and open otherwise. Nothing happened when every cause is ruled out and nothing moved without one.
    Deterministic.
    """
    read = facts(evidence, thresholds or Thresholds())
    findings = tuple(_finding(cause, alternatives, read) for cause, alternatives in RULES.items())
    moved = read["probes_known_moved"]
    if moved.holds is False:
        findings = tuple(_without_effect(one, moved) for one in findings)
    named = tuple(one.cause for one in findings if one.holds)
    undecided = [one for one in findings if one.holds is None]
    unexplained: tuple[str, ...] = ()
    if moved.holds and not any(one.holds is not False for one in findings if one.cause in MOVES_KNOWN_DOCUMENTS):
        unseen = "no gauge sees filters, re-rankers and other settings of the search"
        unexplained = (f"{moved.says}, though encoder, vectors, recall and documents are as accepted: {unseen}",)
    missing = {
        name: evidence.missing.get(name) or evidence.missing.get(name.partition(".")[0]) or "not measured"
        for one in undecided
        for name in one.unmeasured
    }
    if not named and not undecided and not unexplained:
        named = (Cause.NOTHING,)
    if not named and not unexplained and not missing:
        unexplained = tuple(dict.fromkeys(says for one in undecided for says in one.supports))
    return Attribution(named, findings, unexplained, missing)


def _finding(cause: Cause, alternatives: Sequence[Sequence[_Condition]], read: Mapping[str, Fact]) -> Finding:
    states = [_all((_agrees(read[name], wanted)) for name, wanted in alternative) for alternative in alternatives]
    holds = True if True in states else None if None in states else False
    conditions = [condition for alternative in alternatives for condition in alternative]
    waiting = [
        condition
        for alternative, state in zip(alternatives, states, strict=True)
        for condition in alternative
        if state is None
    ]
    return Finding(
        cause,
        holds,
        # What is not conclusive speaks for a cause as far as it speaks.
        supports=_distinct(read[name].says for name, wanted in conditions if _agrees(read[name], wanted) is not False),
        contradicts=_distinct(read[name].says for name, wanted in conditions if _agrees(read[name], wanted) is False),
        unmeasured=_distinct(need for name, _ in waiting if holds is None for need in read[name].needs),
    )


def _without_effect(finding: Finding, still: Fact) -> Finding:
    """Say of a fault that is a fact, such as another precision of the encoder, that no ranking shows it."""
    if not finding.holds or finding.cause not in MOVES_KNOWN_DOCUMENTS:
        return finding
    return replace(finding, contradicts=(*finding.contradicts, f"{still.says}: no effect is seen"))


def _agrees(fact: Fact, wanted: bool) -> bool | None:
    return None if fact.holds is None else fact.holds is wanted


def _all(states: Iterable[bool | None]) -> bool | None:
    known = list(states)
    return False if False in known else None if None in known else True


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))
