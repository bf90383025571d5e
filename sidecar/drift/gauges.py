"""Turn measurements into facts that hold, do not hold, or are not known: the words in which causes are defined.

A noisy gauge has moved when it differs by more standard errors than chance gives any gauge of a quiet system, and by
enough to matter. Which facts make a cause is `attribution`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

from sidecar.drift.evidence import STORED_SAME, Sample

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.drift.evidence import EncoderCheck, Evidence, IndexCheck, ProbeCheck

STATISTICAL_GAUGES = 11
"""Stored vectors bad, low and off; recall; whole and condensed lists of both sides; mix, rate and new part."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a difference counts. What sample sizes and noise floors decide is not here."""

    error: float = 0.01
    """Chance that chance alone makes any statistical gauge say "changed" in one attribution of a quiet system."""
    material: float = 0.01
    """Smallest difference of an overlap, recall or share that is named: what rebuilding a graph index alone does."""
    material_live: float = 0.005
    """Smallest part of a live change that is named: a quarter to a half of the 2 % drop that a page needs."""
    unrelated: float = 0.25
    """Mean cosine with its fingerprint below which an encoder is another one. A change of precision, prompt or
    fine-tuning of one model leaves more (docs/encoders.md), two models have about 0."""

    related: float = 0.9
    """Mean cosine from which a changed encoder cannot make a vector unrelated to its document."""

    def __post_init__(self) -> None:
        """Refuse thresholds that no measurement could meet or miss."""
        if not 0.0 < self.error < 1.0:
            raise ValueError(f"error is {self.error}; it must lie strictly between 0 and 1")
        if not (self.material > 0.0 and self.material_live > 0.0):
            raise ValueError("material and material_live must be above 0")

    @property
    def z(self) -> float:
        """Standard errors that a gauge must move: `error`, two-sided, shared among the gauges (Bonferroni)."""
        return NormalDist().inv_cdf(1.0 - self.error / (2.0 * STATISTICAL_GAUGES))


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a gauge says."""

    holds: bool | None
    """None: not known, for lack of `needs` or because the gauge is not conclusive."""
    says: str
    """The measurement in words and numbers; "" if there is none."""
    needs: tuple[str, ...] = ()
    """Fields of `Evidence` that would settle it, dotted."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What documents that came or went hold, and of what."""

    share: float
    of: str


def facts(e: Evidence, t: Thresholds) -> Mapping[str, Fact]:
    """Read all gauges."""
    return (
        _encoder(e.deployed_encoder, t)
        | _index_version(e, t)
        | _vectors(e, t)
        | _recall(e, t)
        | _documents(e, t)
        | _probes(e, t)
        | _reference(e, t)
        | _live(e, t)
    )


def _encoder(check: EncoderCheck | None, t: Thresholds) -> dict[str, Fact]:
    if check is None:
        unknown = Fact(None, "", ("deployed_encoder",))
        return dict.fromkeys(("queries_recoded", "documents_recoded", "encoder_unrelated"), unknown)
    cosine = min(check.query_cosine, check.document_cosine)
    return {
        "queries_recoded": _recoded("queries", check.query_same, check.query_cosine),
        "documents_recoded": _recoded("documents", check.document_same, check.document_cosine),
        "encoder_unrelated": Fact(
            cosine < t.unrelated,
            f"the deployed encoder's mean cosine with its accepted fingerprint is {cosine:.4f} "
            f"({'another model' if cosine < t.unrelated else 'the same model or a relative'})",
        ),
    }


def _recoded(what: str, same: bool, cosine: float) -> Fact:
    how = "as accepted" if same else "otherwise than accepted"
    return Fact(not same, f"the deployed encoder encodes {what} {how} (mean cosine {cosine:.4f})")


def _index_version(e: Evidence, t: Thresholds) -> dict[str, Fact]:
    """Say with which encoder the index was made; only documents known at acceptance can tell, new ones are new."""
    names = ("index_of_old_encoder", "index_of_both_encoders", "index_of_new_encoder")
    check, encoder = e.stored, e.deployed_encoder
    if encoder is not None and not encoder.document_same and encoder.document_cosine >= STORED_SAME:
        says = "the encoder changed by too little to show in stored vectors: an index of the old one fits"
        return {name: Fact(name == names[0], says) for name in names}
    if check is None:
        if e.deployed_index is not None and e.deployed_index.rebuilt is False:
            says = "the deployed index is still of the accepted generation"
            return {name: Fact(name == names[0], says) for name in names}
        return dict.fromkeys(names, Fact(None, "", ("stored",)))
    n = check.documents - (check.new_documents or 0)
    bad = check.bad - (check.new_bad or 0)
    if not n:
        return dict.fromkeys(names, Fact(None, "only new documents were sampled", ("stored",)))
    whose = "known" if check.new_documents is not None else "sampled"
    says = f"{n - bad} of {n} {whose} documents are stored as the deployed encoder encodes them now"
    some_bad = _exceeds(_share(bad, n), _share(check.accepted_bad, check.accepted_documents), t)
    some_good = _exceeds(_share(n - bad, n), Sample(0.0, 0), t)
    state = names[0] if not some_good else names[1] if some_bad else names[2]
    grown = _grown(e.deployed_probes, e.deployed_index)
    may_be_new = check.new_documents is None and state == names[1]
    if may_be_new and (grown is None or not _exceeds(_share(n - bad, n), Sample(grown.share, 0), t)):
        # New documents agree with a new encoder without any re-indexing: old ones have to be looked at apart.
        unknown = Fact(None, says, ("stored.new_documents",))
        return {names[0]: unknown, names[1]: unknown, names[2]: Fact(False, says)}
    return {name: Fact(name == state, says) for name in names}


def _vectors(e: Evidence, t: Thresholds) -> dict[str, Fact]:
    check, encoder = e.stored, e.deployed_encoder
    if check is None:
        return dict.fromkeys(("vectors_unrelated", "vectors_off"), Fact(None, "", ("stored",)))
    n, before = check.documents, check.accepted_documents
    off = check.bad - check.low
    off_found = _found(_share(off, n), _share(check.accepted_bad - check.accepted_low, before), t)
    off_says = f"{off} of {n} stored vectors are off their re-encoding but related to it"
    found = _found(_share(check.low, n), _share(check.accepted_low, before), t)
    says = f"{check.low} of {n} stored vectors have nothing to do with their re-encoding"
    needs: tuple[str, ...] = ()
    if found and encoder is None:
        found, needs = None, ("deployed_encoder",)
    elif found and encoder is not None and not encoder.document_same and encoder.document_cosine < t.related:
        found, says = None, f"{says}, which the change of the encoder may explain as well"
    return {"vectors_unrelated": Fact(found, says, needs), "vectors_off": Fact(off_found, off_says)}


def _recall(e: Evidence, t: Thresholds) -> dict[str, Fact]:
    check, encoder = e.recall, e.deployed_encoder
    if check is None:
        return {"recall_fell": Fact(None, "", ("recall",))}
    says = f"recall ({check.gauge}) is {_number(check.now)}, was {_number(check.accepted)}"
    fell: bool | None = _exceeds(check.accepted, check.now, t)
    if fell and encoder is not None and encoder.query_cosine < t.unrelated:
        # A graph is built for the vectors in it; queries of another model lie elsewhere and cost it recall.
        fell, says = None, f"{says}, which queries of another model may cause"
    return {"recall_fell": Fact(fell, says)}


def _documents(e: Evidence, t: Thresholds) -> dict[str, Fact]:
    grown, reference_grown = _grown(e.deployed_probes, e.deployed_index), _grown(e.reference_probes, e.reference_index)
    lost, reference_lost = _lost(e.deployed_probes, e.deployed_index), _lost(e.reference_probes, e.reference_index)
    ahead = _alone(reference_grown, grown, "new", "new_share", t)
    behind = _alone(reference_lost, lost, "gone", "gone_share", t)
    alone = next((one for one in (ahead, behind) if one.holds), ahead if ahead.holds is None else behind)
    return {
        "new_documents": _at_least(grown, t.material, "new", "new_share"),
        "documents_gone": _at_least(lost, t.material, "gone", "gone_share"),
        "reference_kept_up": _kept_up(e, grown, reference_grown, t),
        "reference_documents_alone": alone,
    }


def _probes(e: Evidence, t: Thresholds) -> dict[str, Fact]:
    return {
        "probes_moved": _moved(e.deployed_probes, "deployed", t),
        "probes_known_moved": _known_moved(e.deployed_probes, e.deployed_index, "deployed", t),
    }


def _reference(e: Evidence, t: Thresholds) -> dict[str, Fact]:
    known = _known_moved(e.reference_probes, e.reference_index, "reference", t)
    check = e.reference_encoder
    if check is None:
        recoded = Fact(None, "", ("reference_encoder",))
        if known.holds is False:
            recoded = Fact(False, known.says)
    else:
        same, cosine = check.query_same and check.document_same, min(check.query_cosine, check.document_cosine)
        how = "encodes as accepted" if same else "encodes otherwise than accepted"
        recoded = Fact(not same, f"the reference encoder {how} (mean cosine {cosine:.4f})")
    untouched = e.reference_index is not None and e.reference_index.rebuilt is False
    if known.holds is None and recoded.holds is False and untouched:
        known = Fact(False, "the reference index is of the accepted generation")
    return {
        "reference_recoded": recoded,
        "reference_known_moved": known,
        "reference_moved": _moved(e.reference_probes, "reference", t),
    }


def _live(e: Evidence, t: Thresholds) -> dict[str, Fact]:
    live = e.live
    if live is None:
        return dict.fromkeys(("mix_moved", "rate_moved", "unseen_moved"), Fact(None, "", ("live",)))

    reference = e.reference_encoder
    if e.clustered and reference is not None and not (reference.query_same and reference.document_same):
        says = "the clusters of queries were drawn with the reference encoder, which has changed since"
        return dict.fromkeys(("mix_moved", "rate_moved", "unseen_moved"), Fact(None, says))

    def part(name: str, value: float, error: float) -> tuple[bool, str]:
        return (
            abs(value) >= max(t.z * error, t.material_live),
            f"the {name} part of the live change is {value:+.4f} (standard error {error:.4f}) of {live.change:+.4f}",
        )

    mix = Fact(*part("mix", live.mix, live.mix_se))
    rate = Fact(*part("rate", live.rate, live.rate_se))
    if live.strata < 2 and rate.holds:
        says = f"{rate.says}, in one stratum, where a shift of the mix looks the same"
        mix = rate = Fact(None, says, ("live.strata",))
    elif mix.holds and rate.holds and abs(live.rate) < abs(live.mix):
        rest = f"{rate.says}, less than the mix part: a shift of the mix within strata leaves such a rest"
        rate = Fact(None, rest, ("live.strata",))
    moved, says = part("unseen", live.new, live.new_se)
    says = f"{live.new_share:.1%} of the queries are in strata without a baseline; {says}"
    return {"mix_moved": mix, "rate_moved": rate, "unseen_moved": Fact(moved and live.new_share >= t.material, says)}


def _moved(check: ProbeCheck | None, side: str, t: Thresholds) -> Fact:
    if check is None:
        return Fact(None, "", (f"{side}_probes",))
    says = f"{side} probes keep {_number(check.now)} of their lists, {_number(check.floor)} when nothing changes"
    return Fact(_exceeds(check.floor, check.now, t), says)


def _known_moved(check: ProbeCheck | None, index: IndexCheck | None, side: str, t: Thresholds) -> Fact:
    """Compare condensed lists; whole lists do as well where documents neither came nor went."""
    if check is None:
        return Fact(None, "", (f"{side}_probes",))
    if check.known is not None:
        says = f"of known documents, {side} probes keep {_number(check.known)}, {_number(check.floor)} at rest"
        return Fact(_exceeds(check.floor, check.known, t), says)
    whole, grown, lost = _moved(check, side, t), _grown(check, index), _lost(check, index)
    if not whole.holds or (grown is not None and lost is not None and max(grown.share, lost.share) < t.material):
        return whole
    return Fact(None, whole.says, (f"{side}_probes.known",))


def _grown(probes: ProbeCheck | None, index: IndexCheck | None) -> _Part | None:
    """Give what new documents hold."""
    if probes is not None and probes.new_share is not None:
        return _Part(probes.new_share, "top k of the probes")
    return _net(index, 1)


def _lost(probes: ProbeCheck | None, index: IndexCheck | None) -> _Part | None:
    """Give what gone documents held."""
    if probes is not None and probes.gone_share is not None:
        return _Part(probes.gone_share, "accepted top k of the probes")
    return _net(index, -1)


def _net(index: IndexCheck | None, sign: int) -> _Part | None:
    """Take the change of the number of documents, where the probes do not tell."""
    if index is None:
        return None
    now, was = index.documents, index.accepted_documents
    if now is not None and was is not None:
        return _Part(max(0, sign * (now - was)) / max(now, was, 1), "index by number of documents")
    return _Part(0.0, "index of the accepted generation") if index.rebuilt is False else None


def _kept_up(e: Evidence, grown: _Part | None, reference_grown: _Part | None, t: Thresholds) -> Fact:
    """Ask whether the reference got at least half of what the deployed side got.

    By documents if they can be counted. The top k says it less well: beside stale vectors, the new documents of the
    deployed side come up more often than they should.
    """
    counted, reference_counted = _net(e.deployed_index, 1), _net(e.reference_index, 1)
    if counted is not None and reference_counted is not None and counted.share >= t.material:
        says = f"the deployed index grew by {counted.share:.1%}, the reference index by {reference_counted.share:.1%}"
        return Fact(reference_counted.share >= counted.share / 2.0, says)
    if grown is None or reference_grown is None:
        return Fact(None, "", ("reference_probes.new_share", "reference_index"))
    says = f"new documents: {grown.share:.1%} on the deployed side, {reference_grown.share:.1%} on the reference side"
    if grown.share / 4.0 < reference_grown.share < grown.share / 2.0:
        return Fact(None, says, ("deployed_index", "reference_index"))
    return Fact(reference_grown.share >= grown.share / 2.0, says)


def _at_least(part: _Part | None, least: float, what: str, name: str) -> Fact:
    if part is None:
        return Fact(None, "", (f"deployed_probes.{name}", "deployed_index"))
    return Fact(part.share >= least, f"{part.share:.1%} of the deployed {part.of} is {what} since acceptance")


def _alone(reference: _Part | None, deployed: _Part | None, what: str, name: str, t: Thresholds) -> Fact:
    """Ask whether documents came to, or went from, the reference side without the deployed side."""
    if reference is not None and reference.share < t.material:
        return Fact(False, f"{reference.share:.1%} of the reference {reference.of} is {what} since acceptance")
    if reference is None or deployed is None:
        sides = [side for side, part in (("reference", reference), ("deployed", deployed)) if part is None]
        return Fact(None, "", tuple(f"{side}_{rest}" for side in sides for rest in (f"probes.{name}", "index")))
    says = f"{what} documents: {reference.share:.1%} on the reference side, {deployed.share:.1%} on the deployed side"
    return Fact(deployed.share < reference.share / 2.0, says)


def _share(part: int, whole: int) -> Sample:
    return Sample(part / whole if whole else 0.0, whole)


def _exceeds(high: Sample, low: Sample, t: Thresholds) -> bool:
    """Say whether `high` lies above `low` by more than chance and by enough to matter; n = 0 is an exact value."""
    gap = high.mean - low.mean
    return gap >= max(t.material, t.z * sqrt(_variance(high) + _variance(low)))


def _found(now: Sample, before: Sample, t: Thresholds) -> bool | None:
    """Say whether a share rose; None where it rose by enough to matter and too few were sampled to be sure.

    For stored vectors only: each bad one is a fact, while a noisy mean may well be off by that much.
    """
    return True if _exceeds(now, before, t) else None if now.mean - before.mean >= t.material else False


def _variance(sample: Sample) -> float:
    """Give the variance of the mean; of values in [0, 1] none is larger than mean (1 - mean).

    Half a success and half a failure more (Jeffreys) keep a handful of equal values from passing for certainty.
    """
    if not sample.n:
        return 0.0
    if sample.sd is not None:
        return sample.sd**2 / sample.n
    mean = (sample.mean * sample.n + 0.5) / (sample.n + 1.0)
    return mean * (1.0 - mean) / sample.n


def _number(sample: Sample) -> str:
    return f"{sample.mean:.4f} (n {sample.n})" if sample.n else f"{sample.mean:.4f}"
