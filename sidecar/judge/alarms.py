"""What an alarm says: put together from the track that leads it, or from a replay of the frozen probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.judge.probe_watch import FROZEN_PROBES
from sidecar.model import SEVERITIES, WHOLE_STREAM, Alarm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.drift.mix import Split
    from sidecar.drift.paired import PairedResult
    from sidecar.drift.probe_run import FrozenRun
    from sidecar.judge.probe_watch import ProbeWatch
    from sidecar.judge.signal_watch import SignalWatch
    from sidecar.judge.track import Drop
    from sidecar.model import Observation, Stack


def live_alarm(
    identity: str, observation: Observation, watch: SignalWatch, name: str, *, drop: Drop, by_slice: Split | None
) -> Alarm:
    """Describe the fall of slice `name`; severity and evidence are the pool's, and added by who knows them."""
    track = watch.tracks[name]
    assert track.baseline is not None  # noqa: S101  (a drop is one from a baseline,
    assert track.start is not None  # noqa: S101  has a start,
    assert watch.accepted is not None  # noqa: S101  and the baseline was accepted with a stack)
    return Alarm(
        id=identity,
        at=observation.at,
        signal=watch.signal,
        slice=name,
        severity="minor",
        evidence=0.0,
        threshold=0.0,
        baseline=track.baseline.channels[0].mean,
        level=drop.level,
        drop=drop.size,
        drop_lower=drop.lower,
        drop_upper=drop.upper,
        start=observation.at if track.start.at is None else track.start.at,
        queries_since_start=track.start.n,
        changed=observation.stack.changes_since(watch.accepted),
        accepted_stack=watch.accepted,
        stack=observation.stack,
        mix_shift=0.0 if by_slice is None else by_slice.distance,
        mix_queries=0 if by_slice is None else by_slice.n_after,
    )


def probe_alarm(
    identity: str,
    run: FrozenRun,
    paired: PairedResult,
    probes: ProbeWatch,
    *,
    accepted: Stack,
    tiers: Sequence[float],
) -> Alarm:
    """Describe a fall of the frozen probes: its size is exact for these queries, nothing was sampled."""
    drop = -(paired.relative or 0.0)
    start = probes.first_bad or run.at
    return Alarm(
        id=identity,
        at=run.at,
        signal=FROZEN_PROBES,
        slice=WHOLE_STREAM,
        severity=SEVERITIES[SEVERITIES.index("minor") + sum(drop > tier for tier in tiers)],
        evidence=0.0,
        threshold=0.0,
        baseline=paired.before,
        level=paired.before + paired.effect,
        drop=drop,
        drop_lower=drop,
        drop_upper=drop,
        start=start,
        queries_since_start=paired.n,
        changed=run.stack.changes_since(accepted),
        accepted_stack=accepted,
        stack=run.stack,
        mix_shift=0.0,
        mix_queries=0,
        start_earliest=probes.last_good,
        start_latest=start,
        p=paired.sign_flip.p,
    )
