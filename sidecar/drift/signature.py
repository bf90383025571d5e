r"""Give a change of an encoder its name: the trade of retrieval for composition, or something else.

The accident that this project watches for has a shape. An encoder is trained to tell near-misses apart; the score that
its team looks at goes up, and retrieval goes down in domains that nobody looks at. Neither number shows it alone. So
both are held side by side, for each domain of each labelled set:

    retrieval  \  sensitivity     rose                did not rise        fell
    fell                          precision_trap      retrieval_loss      retrieval_loss
    neither is proved             changed_not_worse, or changed_unclear where there are too few queries to say so
    rose                          improved            improved            reverse_trade

and `unchanged` where not one ranking and not one cosine moved. Sensitivity rose where near-misses were pushed away
(their cosine fell, by more than the paraphrases') or told apart better (AUC rose), in at least one phenomenon; it fell
where the opposite holds. A broken encoder often draws all texts together, paraphrases most: near-misses have come
nearer then, and nothing rose. `sensitivity_only` stands beside the name when near-misses were pushed away and no
threshold would tell them apart better for it (AUC rose in no phenomenon), which is what pooled cosine tends to give.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Literal, get_args

from sidecar.drift.composition import ALL, PairChange
from sidecar.drift.labelled import MeasureChange  # noqa: TC001  (as `canary_run` says)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.drift.labelled import DomainChange

Name = Literal[
    "unchanged",
    "changed_not_worse",
    "changed_unclear",
    "improved",
    "reverse_trade",
    "retrieval_loss",
    "precision_trap",
]
NAMES: tuple[Name, ...] = get_args(Name)
WORSE: frozenset[Name] = frozenset({"retrieval_loss", "precision_trap"})


@dataclass(frozen=True, slots=True)
class SignatureRule:
    """When a change counts; the levels are those of a ticket (`paired_watch`)."""

    min_effect: float = 0.02
    """Smallest fall (or rise) of the mean score that matters, relative to the score before."""
    p: float = 0.005
    """Level of the sign-flip test of a fall or rise: of all queries, and of all their domains together (Bonferroni)."""
    min_sensitivity: float = 0.02
    """How far near-misses must at least be pushed away: by themselves, relative to the paraphrases, and beyond a common
    factor. Of weights with rounding or noise so coarse that retrieval fell by 5 to 60 %, none reached half of it."""
    min_auc: float = 0.02
    """Smallest change of an AUC that matters."""
    sensitivity_p: float = 0.005
    """Level over both tests and all phenomena together (Bonferroni)."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What happened to one domain, with both numbers side by side.

    `rose` and `fell` name the phenomena in which sensitivity or AUC did, `discrimination` those in which AUC rose.
    `sensitivity` is the change of one phenomenon: of those that rose, else fell, else all the one whose cosines changed
    most in that direction; None without a composition set.
    """

    domain: str
    name: Name
    sensitivity_only: bool
    retrieval: MeasureChange
    overlap: float
    rose: tuple[str, ...]
    fell: tuple[str, ...]
    discrimination: tuple[str, ...]
    sensitivity: PairChange | None

    @property
    def worse(self) -> bool:
        """Whether retrieval fell."""
        return self.name in WORSE

    def describe(self, *, standing: bool = False) -> str:
        """Say it in one sentence, without a query's text.

        `standing` says that two encoders are compared that are in use side by side: not one that came after the other.
        """
        was, now = self.retrieval.before, self.retrieval.now
        words = f"{self.domain}: nDCG@10 {was:.3f} to {now:.3f}"
        if standing:
            words = f"{self.domain}: reference and deployed, nDCG@10 {was:.3f} and {now:.3f}"
        if was > 0.0:
            words += f" ({self.retrieval.relative:+.1%})"
        if (one := self.sensitivity) is not None and one.moved:
            words += (
                f"; {one.phenomenon.replace('_', ' ')}: near-miss cosine {one.before.near_miss:.3f} to "
                f"{one.now.near_miss:.3f}, paraphrase {one.before.paraphrase:.3f} to {one.now.paraphrase:.3f}, "
                f"AUC {one.before.auc:.2f} to {one.now.auc:.2f}"
            )
        if self.sensitivity_only:
            words += "; sensitivity rose, discrimination did not"
        return words


def name_changes(
    domains: Sequence[DomainChange], pairs: Sequence[PairChange], rule: SignatureRule | None = None
) -> tuple[Signature, ...]:
    """Name the change of each domain; `pairs` are the same encoders' phenomena, empty without a composition set.

    `all` is left out of the phenomena where there are others: a trade in one of them must not be averaged away.
    """
    rule = rule or SignatureRule()
    kinds = [one for one in pairs if one.phenomenon != ALL] or list(pairs)
    level = rule.sensitivity_p / (2 * max(1, len(kinds)))
    pushed, drawn = ([one for one in kinds if _pushed(one, rule, level, way)] for way in (1, -1))
    sharper, duller = ([one for one in kinds if _sharper(one, rule, level, way)] for way in (1, -1))
    rose = [one for one in kinds if one in pushed or one in sharper]
    fell = [one for one in kinds if one in drawn or one in duller]
    moved = any(one.moved for one in kinds)
    parts = max(1, sum(one.domain != ALL for one in domains))
    of_part = replace(rule, p=rule.p / parts)
    way = 1 if rose or not fell else -1
    leading = max(rose or fell or kinds, key=lambda one: way * one.sensitivity, default=None)
    return tuple(
        Signature(
            domain=domain.domain,
            name=_name(
                domain, rule if domain.domain == ALL else of_part, rose=bool(rose), fell=bool(fell), moved=moved
            ),
            sensitivity_only=bool(pushed) and not sharper,
            retrieval=domain.leading,
            overlap=domain.overlap,
            rose=tuple(one.phenomenon for one in rose),
            fell=tuple(one.phenomenon for one in fell),
            discrimination=tuple(one.phenomenon for one in sharper),
            sensitivity=leading,
        )
        for domain in domains
    )


def _pushed(one: PairChange, rule: SignatureRule, level: float, way: int) -> bool:
    """Say whether near-misses were pushed away (`way` 1), or drawn in (-1), by more than the paraphrases."""
    p = one.p_rise if way > 0 else one.p_fall
    change = min(-way * one.near_miss, way * one.sensitivity, way * one.beyond_scale)
    return change >= rule.min_sensitivity and p <= level


def _sharper(one: PairChange, rule: SignatureRule, level: float, way: int) -> bool:
    """Say whether the AUC rose (`way` 1) or fell (-1).

    The normal approximation claims too much of few triples: hence Student's t, and nothing at all where not even signs
    that all agree (2^-moved) would be proof.
    """
    from scipy import special  # noqa: PLC0415  (slow to import; `--help` must not wait for it)

    if way * one.auc < rule.min_auc or 2.0**-one.moved > level:
        return False
    return way * one.auc >= float(special.stdtrit(one.now.n - 1, 1.0 - level)) * one.auc_error


def _name(domain: DomainChange, rule: SignatureRule, *, rose: bool, fell: bool, moved: bool) -> Name:
    change = domain.leading
    if not (domain.moved or change.moved or moved):
        return "unchanged"
    tolerated = rule.min_effect * change.before
    if change.moved and change.effect <= -tolerated and change.p <= rule.p:
        return "precision_trap" if rose else "retrieval_loss"
    if change.moved and change.effect >= tolerated and change.rise.p <= rule.p:
        return "reverse_trade" if fell and not rose else "improved"
    return "changed_not_worse" if at_least(change, -tolerated) else "changed_unclear"


def at_least(change: MeasureChange, limit: float) -> bool:
    """Say whether queries like these change by at least `limit` on average: one-sided, 95 %; True if none moved.

    By Student's t: a collapse of so few queries that none is among these is not excluded. 62 queries whose mean stays
    show a limit of -.014 (2 % of .7) up to a spread of .065, that of a light fine-tune; a wider change takes more.
    """
    from scipy import special  # noqa: PLC0415  (as above)

    if not change.moved:
        return True
    if change.n < 2:
        return False
    error = change.spread / sqrt(change.n)
    return change.effect - float(special.stdtrit(change.n - 1, 0.95)) * error >= limit
