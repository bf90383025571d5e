"""A monitor that says nothing: its Redis gone, then the process itself stuck. Somebody must hear of both.

One small sidecar, run through both (the process that ends for good is in `test_accident.py`). The times are those of
`quick.py`.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from sidecar.embedded_redis import EmbeddedRedis, binaries
from tests.app.conftest import Process, settings
from tests.monitoring.quick import ABSENT, EVALUATIONS, PAGE, ROUTE, busy, holding, seconds, watching
from tests.monitoring.servers import INTERVAL, until
from tests.programs import need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.monitoring.servers import Prometheus
    from tests.monitoring.webhook import Webhook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NO_JUDGE = {"alertname": "RagDriftNoJudge", "severity": "critical"}


@dataclass(slots=True)
class Silence:
    """What watched the sidecar, and when it was watched, lost its Redis, had it back, and was stopped."""

    prometheus: Prometheus
    webhook: Webhook
    watched: float
    lost: float = 0.0
    back: float = 0.0
    stuck: float = 0.0


@pytest.fixture(scope="module")
def silence(built, tmp_path_factory) -> Iterator[Silence]:
    """Run a sidecar, take its Redis away until somebody is paged, give it back, and stop the process until again."""
    need("prometheus", "prometheus-alertmanager")
    folder = tmp_path_factory.mktemp("silence")
    with ExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis(next(iter(binaries().values()))))
        sidecar = stack.enter_context(Process(folder, settings(built, redis.url)))
        sidecar.until(lambda: sidecar.value("judge_active") == 1, 120)
        prometheus, _, webhook = watching(stack, folder, sidecar.port)
        found = Silence(prometheus, webhook, time.time())

        def told(status: str, **labels: str) -> None:
            until(lambda: webhook.told(PAGE, status, **labels), 90, f"{labels['alertname']} is {status}", tell=tell)

        def tell() -> str:
            lines = "\n".join(map(str, webhook.received))
            return f"{lines}\n{prometheus.tail()}\n{sidecar.stderr.read_text()[-2000:]}"

        until(lambda: prometheus.value("rag_drift_judge_active") == 1, 30, "a judge in Prometheus", tell=tell)
        # Longer than the window of the absence: whatever fires on a new sidecar has begun.
        until(lambda: time.time() > found.watched + seconds("8m"), 30, "a quiet while")
        found.lost = time.time()
        redis.stop()
        told("firing", **NO_JUDGE)
        redis.start()
        until(lambda: prometheus.value("rag_drift_judge_active") == 1, 60, "the judge again", tell=tell)
        found.back = time.time()
        # Before the next: an absence holds back what there is to say about a judge, also that it is back.
        told("resolved", **NO_JUDGE)
        found.stuck = time.time()
        os.kill(sidecar.process.pid, signal.SIGSTOP)
        stack.callback(os.kill, sidecar.process.pid, signal.SIGCONT)
        told("firing", **ABSENT)
        yield found


def test_a_new_sidecar_is_no_event(silence):
    """Between its start and the loss of its Redis nobody is told anything."""
    assert [str(one) for one in silence.webhook.received if one.at < silence.lost] == []
    assert silence.prometheus.fired(silence.watched, silence.lost) == {}


def test_a_sidecar_without_redis_has_no_judge(silence, record_property):
    """The process answers its scrapes and judges nothing: a page, alone, and an all-clear when Redis is back."""
    judging = silence.prometheus.scraped("rag_drift_judge_active", silence.lost, silence.back)
    off = next(at for at, value in judging if value == 0)
    page = silence.webhook.told(PAGE, **NO_JUDGE)[0]
    wait, holds = seconds(ROUTE["group_wait"]), seconds("10m") + holding(**NO_JUDGE)
    record_property(
        "measured",
        f"no judge: {(page.at - off) / INTERVAL:.1f} scrape intervals after the scrape without one, of which {holds:g} "
        f"are the window and `for`, and {wait:g} group_wait; Redis was gone {off - silence.lost:.1f} s before",
    )
    fired = silence.prometheus.fired(off, page.at)[tuple(NO_JUDGE.values())]
    assert fired - off <= holds + EVALUATIONS + busy(silence.prometheus, off, page.at)
    assert page.at - fired <= wait + busy(silence.prometheus, off, page.at)
    assert {one["labels"]["alertname"] for one in page.alerts()} == {NO_JUDGE["alertname"]}
    over = silence.webhook.told(PAGE, "resolved", **NO_JUDGE)[0]
    assert over.at - silence.back <= EVALUATIONS + seconds(ROUTE["group_interval"]) + busy(
        silence.prometheus, off, over.at
    )


def test_a_process_that_is_stuck_is_missed(silence, record_property):
    """It lives, its port takes connections, and no scrape is answered: a page for its absence."""
    up = silence.prometheus.scraped("up", silence.stuck)
    assert 0 in [value for _, value in up]
    gone = silence.prometheus.scraped("rag_drift_build_info", silence.watched)[-1][0]
    page = silence.webhook.told(PAGE, **ABSENT)[0]
    wait, holds = seconds(ROUTE["group_wait"]), seconds("5m") + holding(**ABSENT)
    record_property(
        "measured",
        f"stuck: {(page.at - gone) / INTERVAL:.1f} scrape intervals after the last scrape, of which {holds:g} are the "
        f"window and `for`, and {wait:g} group_wait",
    )
    fired = silence.prometheus.fired(gone, page.at)[tuple(ABSENT.values())]
    assert fired - gone <= holds + EVALUATIONS + busy(silence.prometheus, gone - 10, gone)
    assert page.at - fired <= wait + busy(silence.prometheus, gone - 10, gone)
    assert {one["labels"]["alertname"] for one in page.alerts()} == {ABSENT["alertname"]}
