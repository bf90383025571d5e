"""Read the intake's plain counts at scrape time, so that the intake need not know of Prometheus."""

from __future__ import annotations

from asyncio import Queue
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sidecar.intake import IntakeCounts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from sidecar.model import QueryEvent


class IntakeCollector(Collector):
    """Metrics of the query stream and of the queue between intake and replay.

    `source` is exchanged when the settings are reloaded; the counts then begin at 0, as after a restart.
    """

    def __init__(self) -> None:
        self.source: tuple[IntakeCounts, Queue[QueryEvent]] = (IntakeCounts(), Queue(1))

    def collect(self) -> Iterable[Metric]:
        """Give the families with what was counted so far."""
        counts, queue = self.source
        yield _counter(
            "events", "Entries read from the query stream, by what became of them.", "outcome", counts.outcomes
        )
        yield _counter("sampling_decisions", "What the sampler decided.", "decision", counts.decisions)
        yield _counter("events_malformed", "Entries that break the event contract.", "reason", counts.malformed)
        for name, text, value in (
            ("events_claimed", "Entries taken over from a consumer that died.", counts.claimed),
            (
                "events_clock_skewed",
                "Entries whose id lies in the future; their time was clamped.",
                counts.clock_skewed,
            ),
            ("stream_groups_remade", "Times that the consumer group had to be made anew.", counts.groups_remade),
            ("intake_failures", "Steps of the intake that failed for Redis and were tried again.", counts.store_errors),
        ):
            yield CounterMetricFamily(f"rag_drift_{name}", text, value=value)
        yield _gauge("last_read_timestamp_seconds", "When entries were last read; 0 before.", counts.last_read_at)
        yield _gauge("queue_length", "Queries that wait for replay.", queue.qsize())
        yield _gauge("queue_limit", "Queries that may wait for replay.", queue.maxsize)
        state = counts.state
        # The count goes on where an earlier process stopped. A 0 before the first look would make that a sudden loss.
        yield CounterMetricFamily(
            "rag_drift_events_lost",
            "Entries that were trimmed from the stream before the group read them; absent until it was looked at.",
            value=state.lost if state else None,
        )
        yield _gauge(
            "events_lost_estimated",
            "1 if the count of lost entries is an estimate (Redis before 7).",
            bool(state and state.estimated),
        )
        yield _gauge("stream_length", "Entries in the query stream.", state.length if state else 0)
        yield _gauge(
            "stream_pending", "Entries handed out to the group and not yet acknowledged.", state.pending if state else 0
        )
        yield _gauge(
            "stream_behind_seconds",
            "Age difference of the newest entry and the last one that the group was given.",
            state.behind_seconds if state else 0,
        )


def _counter(name: str, text: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"rag_drift_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"rag_drift_{name}", text, value=value)
