"""Each week of a record against the accepted baselines: the list that a weekly drift review begins with.

These are single looks at windows fixed beforehand (weeks since the baseline came into force), with effect sizes,
corrected p-values and e-values; the pager does not use them. The tests are `drift.windows`', the corrections
`drift.multiplicity`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.drift.baseline import HOURS
from sidecar.drift.calibration import HOUR_SECONDS
from sidecar.drift.channels import TOP, level_of
from sidecar.drift.multiplicity import benjamini_hochberg, block_evidence, e_bh
from sidecar.drift.strata import shift_of
from sidecar.drift.windows import compare
from sidecar.model import WHOLE_STREAM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from sidecar.drift.windows import Comparison
    from sidecar.judge.judgement import Judgement
    from sidecar.judge.track import Track
    from sidecar.model import Observation

WEEK_SECONDS = 604_800
FALSE_DISCOVERIES = 0.1
"""Share of false marks that the list may have in expectation."""

Key = tuple[int, str, str]
"""Week since the baseline, signal, slice."""


@dataclass(frozen=True, slots=True)
class WeekRow:
    """One signal and slice in one week. `p` is adjusted over the week's rows (Benjamini-Hochberg)."""

    week: int
    started_at: float
    signal: str
    slice: str
    comparison: Comparison
    p: float
    e_value: float
    marked: bool
    """Whether e-BH reports it."""


class Weekly:
    """Count levels by week, signal, slice and stratum."""

    def __init__(self) -> None:
        self._counts: dict[Key, dict[str, NDArray[Any]]] = {}

    def add(self, judgement: Judgement, observation: Observation) -> None:
        """Count the observation wherever it was held against a baseline."""
        for signal, watch in judgement.watches.items():
            value = observation.values.get(signal)
            if value is None or watch.set_aside or watch.accepted_at is None:
                continue
            week = int((observation.at - watch.accepted_at) // WEEK_SECONDS)
            names = [observation.slice, *([WHOLE_STREAM] if observation.weight > 0 else [])]
            for name in names:
                track = watch.tracks.get(name)
                if week < 0 or track is None or track.baseline is None:
                    continue
                stratum = observation.slice if name == WHOLE_STREAM else ""
                by_stratum = self._counts.setdefault((week, signal, name), {})
                if stratum not in by_stratum:
                    by_stratum[stratum] = np.zeros((HOURS, TOP + 1), dtype=np.int64)
                by_stratum[stratum][int(observation.at // HOUR_SECONDS) % HOURS, level_of(value)] += 1

    def rows(self, judgement: Judgement) -> list[WeekRow]:
        """Compare every week; rows with too few queries for a test are left out."""
        rows: list[WeekRow] = []
        for week in sorted({key[0] for key in self._counts}):
            found = list(self._compared(judgement, week))
            if not found:
                continue
            p = benjamini_hochberg([one.p.mann_whitney for _, one, _ in found])
            marked = e_bh([e for _, _, e in found], FALSE_DISCOVERIES)
            for ((_, signal, name), comparison, e), adjusted, mark in zip(found, p, marked, strict=True):
                began = (judgement.watches[signal].accepted_at or 0.0) + week * WEEK_SECONDS
                rows.append(WeekRow(week, began, signal, name, comparison, float(adjusted), e, bool(mark)))
        return rows

    def _compared(self, judgement: Judgement, week: int) -> Iterator[tuple[Key, Comparison, float]]:
        for key in sorted(key for key in self._counts if key[0] == week):
            _, signal, name = key
            track = judgement.watches[signal].tracks[name]
            comparison = _comparison(track, self._counts[key])
            if comparison is not None:
                yield key, comparison, _e_value(track, self._counts[key])


def _comparison(track: Track, counts: dict[str, NDArray[Any]]) -> Comparison | None:
    baseline = track.baseline
    assert baseline is not None  # noqa: S101  (only such tracks are counted)
    now = np.sum(list(counts.values()), axis=(0, 1))
    kappa = max(channel.kappa for channel in baseline.channels)
    return compare(np.array(baseline.histogram), now, kappa=kappa, rng=np.random.default_rng(0))


def _e_value(track: Track, counts: dict[str, NDArray[Any]]) -> float:
    """Give the week's evidence; values of strata without an accepted level are held against nothing."""
    assert track.baseline is not None  # noqa: S101
    assert track.bets is not None  # noqa: S101
    known = [(table, shift) for name, table in counts.items() if (shift := shift_of(track.baseline, name)) is not None]
    if not known:
        return 1.0
    tables, shifts = zip(*known, strict=True)
    return block_evidence(track.bets, np.array(tables), np.array(shifts)).value
