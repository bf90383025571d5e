"""What the judge holds, in words: the verdict of each signal and slice, and how much of a fall is proved.

The evidence of everything that has a baseline is pooled with weights that sum to one. A verdict tells one slice's own
share of that; an alarm's severity is what all of them prove together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.model import SEVERITIES, Severity, Verdict

if TYPE_CHECKING:
    from sidecar.judge.options import JudgeOptions
    from sidecar.judge.signal_watch import SignalWatch
    from sidecar.judge.track import Track

    Judged = dict[tuple[str, str], tuple[float, Track]]
    """Weight and track of everything that has a baseline, by signal and slice; the weights sum to one."""

_MINOR = SEVERITIES.index("minor")


def proved(judged: Judged, options: JudgeOptions) -> Severity:
    """Give the largest fall that the pooled evidence proves, for an alarm: at least `minor`."""
    pooled = [
        sum(weight * float(track.tiers[tier]) for weight, track in judged.values())
        for tier in range(len(options.tiers))
    ]
    return SEVERITIES[_MINOR + sum(weeks >= options.weeks_between_false_pages for weeks in pooled)]


def verdict_of(watch: SignalWatch, name: str, weight: float, options: JudgeOptions, *, alarm_open: bool) -> Verdict:
    """Say what is held about one slice of a signal; `weight` is its say in the pager."""
    track = watch.tracks[name]
    level = track.level()
    if track.baseline is None:
        state, reason = "calibrating", "alarm open" if alarm_open else ""
    elif track.alarm_at is not None:
        state, reason = "drifted", ""
    else:
        cannot_fall = track.bets is not None and not track.bets.weights.any()
        state, reason = "steady", "the accepted level is 0: it cannot fall" if cannot_fall else ""
    if watch.set_aside:
        reason = "what it is held against is another than the baseline's: recalibrate"
    return Verdict(
        signal=watch.signal,
        slice=name,
        state=state,  # type: ignore[arg-type]
        queries=track.queries,
        progress=track.progress,
        evidence=weight * track.evidence,
        threshold=options.weeks_between_false_pages,
        severity=_severity(track, weight, options),
        rise=weight * track.rise,
        baseline=None if track.baseline is None else track.baseline.channels[0].mean,
        level=None if level is None else level[0],
        lower=None if level is None else level[1].lower,
        upper=None if level is None else level[1].upper,
        start=track.start.at if track.alarm_at is not None and track.start is not None else None,
        since=track.alarm_at,
        reason=reason,
    )


def _severity(track: Track, weight: float, options: JudgeOptions) -> Severity:
    """Grade one slice by its own share of the evidence; part of an alarm it is at least `minor`."""
    if track.alarm_at is None:
        return "ticket" if weight * track.evidence >= options.weeks_between_false_tickets else "none"
    return SEVERITIES[_MINOR + int((weight * track.tiers >= options.weeks_between_false_pages).sum())]
