"""Which series a probe set has, and what they read: NaN where nothing was measured.

20 slices leave room for few, so what is worth one is decided here: nDCG@10 for every domain, with an interval, and the
other measures for the whole set; false hits of a cache by phenomenon, what else the thresholds tell for all triples
together. The run itself has everything. Which sets there are, and when their series go, is `canary_metrics`' business.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, TypeVar

from sidecar.drift.canary_run import AGAINST
from sidecar.drift.composition import ALL
from sidecar.drift.labelled import LEADING, MEASURES, QUANTILES, Scale
from sidecar.drift.signature import NAMES
from sidecar.exporter.probe_metrics import ROLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client import Gauge

    from sidecar.drift.canary_run import Against, CompositionRun, RetrievalRun
    from sidecar.drift.composition import PairChange, PairSummary
    from sidecar.drift.labelled import DomainChange, MeasureChange

    MakeGauge = Callable[[str, str, Sequence[str]], Gauge]
    """Makes a family from name, help and the labels behind `probe_set`."""

    Cell = tuple[Gauge, tuple[str, ...], float]
    """A family, the values of its labels behind `probe_set`, and what it reads."""

Told = TypeVar("Told")

PERCENTILES = tuple(f"{100 * one:g}" for one in QUANTILES)
"""A label `quantile` belongs to summaries alone."""


class RetrievalSeries:
    """The families of labelled sets."""

    def __init__(self, gauge: MakeGauge) -> None:
        self._missing = gauge(
            "missing_documents_ratio", "Share of the judged documents that the deployed index lacks.", []
        )
        self._score = gauge("score_ratio", "Mean of a measure over labelled queries.", ["domain", "measure", "role"])
        held = ["domain", "measure", "against"]
        self._change = gauge("change_ratio", "Mean paired difference of a measure; exactly 0 without a change.", held)
        relative = gauge(
            "change_relative_ratio", "Mean paired difference of a measure, relative to the mean before.", held
        )
        interval = "end of the 95 % interval of the difference for queries like these; NaN if none changed."
        lower = gauge("change_lower_ratio", f"Lower {interval}", held)
        upper = gauge("change_upper_ratio", f"Upper {interval}", held)
        self._of_leading: tuple[tuple[Gauge, Callable[[MeasureChange], float | None]], ...] = (
            (relative, lambda one: one.relative),
            (lower, lambda one: one.lower),
            (upper, lambda one: one.upper),
        )
        held = ["domain", "against"]
        moved = gauge("moved_ratio", "Share of the queries whose first ten documents, or their order, changed.", held)
        overlap = gauge("overlap_ratio", "Mean overlap@10 of the rankings with those that they are held against.", held)
        self._of_domain: tuple[tuple[Gauge, Callable[[DomainChange], float]], ...] = (
            (moved, lambda one: one.moved / one.n),
            (overlap, lambda one: one.overlap),
        )
        self._signature = gauge("signature", "1 for the name of what happened, 0 for the others.", [*held, "signature"])
        self._top = gauge("top_score", "Percentiles of the best document's score.", ["role", "percentile"])
        self._gap = gauge(
            "score_gap", "Percentiles of the best document's distance in score to the tenth.", ["role", "percentile"]
        )

    def cells(self, domains: Sequence[str], result: RetrievalRun | None) -> Iterator[Cell]:
        """Give every series of a set with these domains."""
        yield self._missing, (), _told(result, lambda one: one.missing)
        for role in ROLES:
            scale = Scale(None, None) if result is None else result.scales[role]
            yield from _percentiles(self._top, role, scale.top)
            yield from _percentiles(self._gap, role, scale.gap)
        for domain in domains:
            measures = tuple(MEASURES) if domain == ALL else (LEADING,)
            for measure, role in product(measures, ROLES):
                score = math.nan if result is None else result.means[role][domain][measure]
                yield self._score, (domain, measure, role), score
            for against in AGAINST:
                yield from self._changes(domain, measures, against, result)

    def _changes(
        self, domain: str, measures: Sequence[str], against: Against, result: RetrievalRun | None
    ) -> Iterator[Cell]:
        changes = () if result is None else result.changes.get(against, ())
        change = next((one for one in changes if one.domain == domain), None)
        for measure in measures:
            effect = math.nan if change is None else change.measures[measure].effect
            yield self._change, (domain, measure, against), effect
        leading = None if change is None else change.leading
        for family, number in self._of_leading:
            yield family, (domain, LEADING, against), _told(leading, number)
        for family, share in self._of_domain:
            yield family, (domain, against), _told(change, share)
        signatures = () if result is None else result.signatures.get(against, ())
        name = next((one.name for one in signatures if one.domain == domain), None)
        for each in NAMES:
            yield self._signature, (domain, against, each), math.nan if name is None else float(name == each)


class CompositionSeries:
    """The families of composition sets."""

    def __init__(self, gauge: MakeGauge) -> None:
        labels = ["phenomenon", "role"]
        accuracy = gauge(
            "pair_accuracy_ratio", "Share of the triples whose paraphrase is nearer than the near-miss.", labels
        )
        auc = gauge(
            "pair_auc_ratio",
            "Probability that a paraphrase is nearer to its anchor than a near-miss to its own.",
            labels,
        )
        self._of_summary: tuple[tuple[Gauge, Callable[[PairSummary], float]], ...] = (
            (accuracy, lambda one: one.accuracy),
            (auc, lambda one: one.auc),
        )
        self._cosine = gauge("pair_cosine", "Mean cosine of a text with its anchor.", [*labels, "text"])
        self._share = gauge(
            "pair_above_threshold_ratio",
            "Share of the texts whose cosine with the anchor is at or above a threshold of the settings.",
            [*labels, "text", "threshold"],
        )
        labels = ["phenomenon", "against"]
        sensitivity = gauge(
            "pair_sensitivity_change",
            "Mean of the change of the paraphrase's cosine less the near-miss's; above 0 is more sensitive.",
            labels,
        )
        auc_change = gauge("pair_auc_change_ratio", "Change of the probability that is called AUC.", labels)
        self._of_change: tuple[tuple[Gauge, Callable[[PairChange], float]], ...] = (
            (sensitivity, lambda one: one.sensitivity),
            (auc_change, lambda one: one.auc),
        )

    def cells(
        self, phenomena: Sequence[str], result: CompositionRun | None, thresholds: Sequence[float] = ()
    ) -> Iterator[Cell]:
        """Give every series of a set with these phenomena; the shares above the thresholds wait for a result."""
        for phenomenon in phenomena:
            for role in ROLES:
                summary = None if result is None else result.summaries[role][phenomenon]
                for family, number in self._of_summary:
                    yield family, (phenomenon, role), _told(summary, number)
                yield self._cosine, (phenomenon, role, "paraphrase"), _told(summary, lambda one: one.paraphrase)
                yield self._cosine, (phenomenon, role, "near_miss"), _told(summary, lambda one: one.near_miss)
                if result is not None:
                    yield from self._shares(phenomenon, role, thresholds, result.shares[role][phenomenon])
            for against in AGAINST:
                changes = () if result is None else result.changes.get(against, ())
                change = next((one for one in changes if one.phenomenon == phenomenon), None)
                for family, difference in self._of_change:
                    yield family, (phenomenon, against), _told(change, difference)

    def _shares(
        self, phenomenon: str, role: str, thresholds: Sequence[float], shares: Sequence[tuple[float, float]]
    ) -> Iterator[Cell]:
        for threshold, (paraphrase, near_miss) in zip(thresholds, shares, strict=True):
            if phenomenon == ALL:
                yield self._share, (phenomenon, role, "paraphrase", f"{threshold:g}"), paraphrase
            if phenomenon == ALL or role == "deployed":
                yield self._share, (phenomenon, role, "near_miss", f"{threshold:g}"), near_miss


def _percentiles(family: Gauge, role: str, values: Sequence[float] | None) -> Iterator[Cell]:
    for place, percentile in enumerate(PERCENTILES):
        yield family, (role, percentile), math.nan if values is None else values[place]


def _told(value: Told | None, number: Callable[[Told], float | None]) -> float:
    """Give the number of `value`, NaN where there is none."""
    found = None if value is None else number(value)
    return math.nan if found is None else found
