"""What the canaries show, as metrics: which sets there are, how their runs fare, and what the last complete one found.

A set has its series (`canary_series`) from the moment that it is known until it is gone or set aside. Scores of
different contents are never compared, so another content begins anew with NaN. A run that fails leaves everything as it
was, with the time of the last complete one.

Only the replica that judges runs the canaries. When it retires it forgets what they found, so that two replicas never
contradict each other. What was found against an acceptance goes with the acceptance, without waiting for the next run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

from sidecar.drift.canary_run import AGAINST, SetName
from sidecar.drift.composition import ALL
from sidecar.exporter.canary_series import CompositionSeries, RetrievalSeries
from sidecar.exporter.probe_metrics import FAILURES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client import CollectorRegistry

    from sidecar.drift.canary_run import CanaryRun
    from sidecar.exporter.canary_series import Cell
    from sidecar.probesets.library import Library
    from sidecar.probesets.read import ProbeSet


@dataclass(frozen=True, slots=True)
class _Known:
    """What the series of a set hang on; `groups` are the domains or phenomena that have some."""

    set: SetName
    kind: str
    groups: tuple[str, ...]

    @classmethod
    def of(cls, one: ProbeSet) -> _Known:
        """Describe a set. A single domain is the whole set and needs no series of its own."""
        groups = one.groups if len(one.groups) > 1 else ()
        return cls(SetName(one.name, one.manifest.version, one.checksum), one.kind, (ALL, *groups))


class CanaryMetrics:
    """The instruments of the canaries."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(f"rag_drift_canary_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
            return Counter(f"rag_drift_canary_{name}", text, labels, registry=registry)

        def of_set(name: str, text: str, labels: Sequence[str]) -> Gauge:
            return gauge(name, text, ["probe_set", *labels])

        self._known: dict[str, _Known] = {}
        self._aside: list[str] = []
        self._named: set[str] = set()
        self._shown: dict[str, set[tuple[Gauge, tuple[str, ...]]]] = {}
        self._last: CanaryRun | None = None

        self._sets = gauge("sets", "Probe sets, by what became of them: loaded, set_aside.", ["state"])
        self._info = of_set("set_info", "1 for each probe set that is loaded.", ["kind", "version", "checksum"])
        self._errors = counter("set_errors", "Times that a probe set was set aside.", ["probe_set"])
        self._failures = counter("failures", "Runs of the canaries that failed.", ["reason"])
        for reason in FAILURES:
            self._failures.labels(reason)
        self._busy = counter("busy_seconds", "Time that complete runs of the canaries took of the replay's thread.")
        self._seconds = gauge("run_duration_seconds", "How long the last complete run took, pauses included.")
        self._seconds.set(math.nan)
        self._at = of_set(
            "last_run_timestamp_seconds", "When the run began whose numbers the set shows; 0 while it shows none.", []
        )
        self._sensitivity_only = gauge(
            "sensitivity_only",
            "1 if near-misses were pushed away and yet the AUC rose in no phenomenon of any set, else 0.",
            ["against"],
        )
        self._retrieval = RetrievalSeries(of_set)
        self._composition = CompositionSeries(of_set)
        self._count()
        self._show_sensitivity_only(None)

    def canaries_known(self, library: Library) -> None:
        """Take the sets of a start or a reload; what was measured on one that is still the same stays."""
        known = {one.name: _Known.of(one) for one in library.sets}
        for name in self._known.keys() - known.keys():
            self._forget(name)
        for name, one in known.items():
            if self._known.get(name) != one:
                self._known[name] = one
                self._show_nothing(one)
        self._aside = [one.name for one in library.aside]
        named = {*known, *self._aside}
        for name in self._named - named:
            self._errors.remove(name)
        for name in named:
            self._errors.labels(name)
        self._named = named
        self._count()

    def canaries_ran(self, run: CanaryRun, busy_seconds: float, seconds: float) -> None:
        """Show a complete run. A set that it lacks keeps what it shows; one that is not loaded is passed over."""
        self._busy.inc(busy_seconds)
        self._seconds.set(seconds)
        self._show_run(run)

    def acceptance(self, at: float | None) -> None:
        """Note the time of the acceptance in force; None while a new baseline is being measured."""
        if self._last is not None and self._last.accepted_at not in {None, at}:
            self._show_run(self._last.unaccepted)

    def _show_run(self, run: CanaryRun) -> None:
        self._last = run
        for labelled in run.retrieval:
            if (known := self._loaded(labelled.set)) is not None:
                self._show(known, run.at, self._retrieval.cells(known.groups, labelled))
        for pairs in run.composition:
            if (known := self._loaded(pairs.set)) is not None:
                self._show(known, run.at, self._composition.cells(known.groups, pairs, run.thresholds))
        self._show_sensitivity_only(run)

    def canaries_failed(self, reason: str) -> None:
        """Note that a run failed and will be tried again."""
        self._failures.labels(reason).inc()

    def canary_set_aside(self, name: str) -> None:
        """Note that a set cannot be used."""
        self._errors.labels(name).inc()
        # What was set aside when the sets were read is counted, and may have the name of a good one.
        if name in self._known and name not in self._aside:
            self._forget(name)
            self._aside.append(name)
        self._count()

    def retired(self) -> None:
        """Forget what was found: another replica runs the canaries now."""
        for known in self._known.values():
            self._show_nothing(known)
        self._last = None
        self._show_sensitivity_only(None)

    def _loaded(self, name: SetName) -> _Known | None:
        """Give the set of this very content; None after a reload that the run did not see."""
        known = self._known.get(name.name)
        return known if known is not None and known.set == name else None

    def _show_nothing(self, known: _Known) -> None:
        if known.kind == "retrieval":
            self._show(known, 0.0, self._retrieval.cells(known.groups, None))
        elif known.kind == "composition":
            self._show(known, 0.0, self._composition.cells(known.groups, None))
        else:
            self._show(known, None, ())

    def _show(self, known: _Known, at: float | None, cells: Iterable[Cell]) -> None:
        """Give a set its info, these series and no others; `at` is None for a set that is never run."""
        name, kind, version = known.set.name, known.kind, str(known.set.version)
        wanted: list[Cell] = [(self._info, (kind, version, known.set.checksum), 1.0), *cells]
        if at is not None:
            wanted.append((self._at, (), at))
        for family, labels, value in wanted:
            family.labels(name, *labels).set(value)
        shown = {(family, (name, *labels)) for family, labels, _ in wanted}
        self._remove(self._shown.get(name, set()) - shown)
        self._shown[name] = shown

    def _forget(self, name: str) -> None:
        del self._known[name]
        self._remove(self._shown.pop(name))

    def _remove(self, series: Iterable[tuple[Gauge, tuple[str, ...]]]) -> None:
        for family, labels in series:
            family.remove(*labels)

    def _count(self) -> None:
        self._sets.labels("loaded").set(len(self._known))
        self._sets.labels("set_aside").set(len(self._aside))

    def _show_sensitivity_only(self, run: CanaryRun | None) -> None:
        """Show what is of the encoder and not of a domain: every signature of a run has the same."""
        for against in AGAINST:
            self._sensitivity_only.labels(against).set(math.nan)
        for _, against, signature in run.findings if run is not None else ():
            if signature.sensitivity is not None:
                self._sensitivity_only.labels(against).set(signature.sensitivity_only)
