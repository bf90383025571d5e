"""Panels about the way of a query through the sidecar: read, sampled, replayed, judged, and what is lost on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.generate.blocks import gauges, graph, number
from dashboards.generate.looks import AGO, EACH_SECOND, SECONDS, SHARE, Axis, Line, Query
from dashboards.generate.promql import BY_SLICE, DEPLOYMENT, best, family, labels, ours, rate
from dashboards.generate.words import BAD, COLD, GOOD, NOTE, QUIET, WARN, mapped

if TYPE_CHECKING:
    from dashboards.generate.blocks import Panel


def outcomes() -> Panel:
    """Show what became of the entries."""
    return graph(
        "Entries read, by what became of them",
        "`queued` goes to replay, `unsampled` is passed over on purpose. `shed_budget`: more than `sampling` allows; "
        "`shed_queue`: replay does not keep up; `malformed`: the service breaks the contract.",
        Query(rate("events", "outcome"), "{{outcome}}"),
        axis=Axis(EACH_SECOND, least=0),
        lines=[Line("/^shed/", WARN), Line("/^malformed/", BAD), Line("/^queued/", GOOD), Line("/^unsampled/", QUIET)],
        stacked=True,
        calcs=("mean", "lastNotNull"),
    )


def decisions() -> Panel:
    """Show what the sampler decided."""
    return graph(
        "Decisions of the sampler",
        "`sampled` by the rate, `floor` because the slice is rare, `unsampled` passed over, `shed_budget` over the "
        "budget. All shed and nothing sampled: the budget is too small for the rate.",
        Query(rate("sampling_decisions", "decision"), "{{decision}}"),
        axis=Axis(EACH_SECOND, least=0),
        calcs=("mean", "lastNotNull"),
    )


def replays() -> Panel:
    """Show how much is replayed."""
    return graph(
        "Replayed queries, by slice",
        "What the verdicts rest on. 0 with traffic means that nothing is watched: look at failures, readiness and the "
        "queue.",
        Query(rate("replays", "slice", BY_SLICE), "{{slice}}"),
        axis=Axis(EACH_SECOND, least=0),
        stacked=True,
        calcs=("mean", "lastNotNull"),
    )


def lost() -> Panel:
    """Show what is not seen, as the alerts see it."""
    return graph(
        "Lost, shed and malformed, shares of half an hour",
        "The numbers that the alerts use. Lost: Redis trimmed entries before they were read. Shed: they were read, "
        "and not replayed for want of budget or queue. Malformed: they break the event contract; they are kept on the "
        "dead-letter stream.",
        Query(ours("job:rag_drift_events_lost:ratio_rate30m"), "lost"),
        Query(ours("job:rag_drift_events_shed:ratio_rate30m"), "shed"),
        Query(ours("job:rag_drift_events_malformed:ratio_rate30m"), "malformed"),
        axis=Axis(SHARE, least=0, soft=(0, 0.05)),
        lines=[Line("/^lost/", BAD), Line("/^shed/", WARN), Line("/^malformed/", NOTE)],
    )


def behind() -> Panel:
    """Show how far the group is behind."""
    return graph(
        "Behind the stream",
        "Age between the newest entry and the last one that the group was given. It rises while replicas are too few "
        "or Redis is slow; near the stream's length in time, entries will be lost.",
        Query(best("stream_behind_seconds"), "behind"),
        axis=Axis(SECONDS, least=0),
    )


def queue() -> Panel:
    """Show how full the queue is."""
    return graph(
        "Queue, stream and pending",
        "Queries that wait for replay against the queue's limit (dashed), entries in the stream, and entries handed "
        "out and not yet acknowledged. A full queue makes intake wait, and shed what is old.",
        Query(f"sum by ({DEPLOYMENT}) ({family('queue_length')})", "queue"),
        Query(f"sum by ({DEPLOYMENT}) ({family('queue_limit')})", "limit"),
        Query(best("stream_length"), "stream"),
        Query(best("stream_pending"), "pending"),
        axis=Axis("short", least=0),
        lines=[Line("/^limit/", BAD, dashed=True)],
    )


def malformed() -> Panel:
    """Show why entries are refused."""
    return graph(
        "Malformed entries, by reason",
        "Which rule of docs/events.md is broken. A burst after a release of the service is a changed field; "
        "`rag-drift` keeps examples on the dead-letter stream.",
        Query(rate("events_malformed", "reason"), "{{reason}}"),
        axis=Axis(EACH_SECOND, least=0),
        stacked=True,
    )


def phases() -> Panel:
    """Show how long each phase takes."""
    buckets = f"sum by ({labels('phase, le')}) (rate({family('phase_duration_seconds_bucket')}[$__rate_interval]))"
    return graph(
        "Duration of a batch's phases, 95 of 100",
        "How long each phase of a batch takes at most in 95 of 100 cases. Encoding dominates; a search that grows is "
        "a larger index, `record` is Redis. A phase without a batch in the interval has no value.",
        Query(f"histogram_quantile(0.95, {buckets})", "{{phase}}"),
        axis=Axis(SECONDS, least=0, log=False),
        calcs=("mean", "max"),
    )


def busy() -> Panel:
    """Show what the replay's thread does."""
    spent = f"sum by ({labels('phase')}) (rate({family('phase_duration_seconds_sum')}[$__rate_interval]))"
    return graph(
        "Who takes the replay's time",
        "Seconds that each phase of live replay, the canaries and the frozen probes take per second, over all "
        "replicas. The last two are held to `canaries.share` and `frozen.share` of one thread (20 % each by default). "
        "A sum near the number of replicas is the limit.",
        Query(spent, "{{phase}}"),
        Query(rate("canary_busy_seconds"), "canaries"),
        Query(rate("frozen_busy_seconds"), "frozen probes"),
        axis=Axis(SHARE, least=0),
        stacked=True,
        calcs=("mean", "max"),
    )


def judged() -> Panel:
    """Show whether observations are judged."""
    return graph(
        "Observations judged",
        "It should follow the replayed queries. Below them for long: the judge is behind. Damaged: what was written "
        "cannot be read, as after a change of versions. Gaps: observations were trimmed before they were judged.",
        Query(rate("observations_judged"), "judged"),
        Query(rate("observations_damaged"), "damaged"),
        Query(rate("judge_gaps"), "gaps"),
        axis=Axis(EACH_SECOND, least=0),
        lines=[Line("/^judged/", GOOD), Line("/^damaged/", BAD), Line("/^gaps/", WARN)],
    )


def progress() -> Panel:
    """Show how far calibrations are."""
    return gauges(
        "Calibration",
        "Share of each signal's calibration that is done, for the whole stream. Below 100 % nothing is judged. One "
        "that begins again and again: the encoder keeps being exchanged, or an alarm is open.",
        Query(best("calibration_progress_ratio", "signal", 'slice="all"'), "{{signal}}"),
        unit=SHARE,
        steps=((None, COLD), (1, GOOD)),
        most=1,
    )


def diagnosis() -> Panel:
    """Show whether causes are looked for."""
    mapping = [mapped({0: ("not needed", GOOD)})]
    return number(
        "Diagnosis",
        "When the stack was last inspected for a cause, and when the record of the accepted stack was taken that an "
        "inspection compares with. Without a record many causes stay open.",
        Query(f"1000 * {best('diagnosis_timestamp_seconds')}", "inspected"),
        Query(f"1000 * {best('accepted_stack_recorded_timestamp_seconds')}", "accepted stack recorded"),
        unit=AGO,
        mappings=mapping,
    )
