"""What an alarm says: put together from the track that leads it, or from a run of frozen probes or canaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.judge.canary_watch import CANARIES
from sidecar.judge.probe_watch import FROZEN_PROBES
from sidecar.model import SEVERITIES, WHOLE_STREAM, Alarm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.drift.canary_run import CanaryRun, RetrievalRun
    from sidecar.drift.labelled import MeasureChange
    from sidecar.drift.mix import Split
    from sidecar.drift.paired import PairedResult
    from sidecar.drift.probe_run import FrozenRun
    from sidecar.judge.canary_watch import CanaryWatch
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
    start = probes.first_bad or run.at
    return _exact_alarm(
        identity,
        run,
        (FROZEN_PROBES, WHOLE_STREAM),
        drop=-(paired.relative or 0.0),
        levels=(paired.before, paired.before + paired.effect),
        queries=paired.n,
        began=(probes.last_good, start),
        p=paired.sign_flip.p,
        accepted=accepted,
        tiers=tiers,
    )


def canary_alarm(
    identity: str,
    run: CanaryRun,
    one: RetrievalRun,
    change: MeasureChange,
    watch: CanaryWatch,
    *,
    accepted: Stack,
    tiers: Sequence[float],
) -> Alarm:
    """Describe a fall of a canary set's nDCG@10."""
    name = f"{one.set.name}/{one.set.checksum}"
    return _exact_alarm(
        identity,
        run,
        (CANARIES, one.set.name),
        drop=-change.relative,
        levels=(change.before, change.now),
        queries=change.n,
        began=(watch.last_good.get(name), watch.first_bad.get(name, run.at)),
        p=change.p,
        accepted=accepted,
        tiers=tiers,
    )


def _exact_alarm(
    identity: str,
    run: FrozenRun | CanaryRun,
    subject: tuple[str, str],
    *,
    drop: float,
    levels: tuple[float, float],
    queries: int,
    began: tuple[float | None, float],
    p: float,
    accepted: Stack,
    tiers: Sequence[float],
) -> Alarm:
    """Describe a fall that was measured and not estimated: its size is exact for these queries."""
    return Alarm(
        id=identity,
        at=run.at,
        signal=subject[0],
        slice=subject[1],
        severity=SEVERITIES[SEVERITIES.index("minor") + sum(drop > tier for tier in tiers)],
        evidence=0.0,
        threshold=0.0,
        baseline=levels[0],
        level=levels[1],
        drop=drop,
        drop_lower=drop,
        drop_upper=drop,
        start=began[1],
        queries_since_start=queries,
        changed=run.stack.changes_since(accepted),
        accepted_stack=accepted,
        stack=run.stack,
        mix_shift=0.0,
        mix_queries=0,
        start_earliest=began[0],
        start_latest=began[1],
        p=p,
    )
