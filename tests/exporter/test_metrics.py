"""The registry: which series there are and when, how many at most, and what promtool says to them."""

from __future__ import annotations

import math
import subprocess
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.drift.channels import TOP, level_of
from sidecar.exporter.objective_metrics import RATIO_BUCKETS
from sidecar.intake.options import IntakeCounts
from sidecar.judge.judgement import Judgement
from sidecar.model import Observation
from sidecar.probesets.library import find_sets
from sidecar.replay.compare import signal_names
from tests.exporter.canary_runs import labelled, library, ran
from tests.exporter.conftest import NOW, metrics
from tests.judge.observations import HOUSE, SIGNAL, options, stream
from tests.programs import program
from tests.replay.doubles import retrievers

MOST_SERIES = 2000
VERDICT_FAMILIES = (
    "drifted", "drift_start_timestamp_seconds", "calibration_progress_ratio", "baseline_ratio", "level_ratio",
    "level_lower_ratio", "level_upper_ratio", "evidence_log10",
)  # fmt: skip


def samples(made) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Scrape and read the registry."""
    text = generate_latest(made.registry).decode()
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def value(made, name, **labels) -> float | None:
    """Give one sample, None if it is not there."""
    return samples(made).get((f"rag_drift_{name}", tuple(sorted(labels.items()))))


def observations(slices, count=1):
    """Give observations with every signal in each slice."""
    for i in range(count):
        for name in slices:
            yield Observation(f"{i}-0", 1.0, name, 1.0, dict.fromkeys(signal_names(10), 0.65), HOUSE)


def judged(count, names=None, **drop) -> Judgement:
    """Give a judgement after that many observations, in slices of these names."""
    judgement = Judgement(options(min_slice_queries=100))
    for i, (identity, one) in enumerate(stream(count, seed=3, **drop)):
        judgement.feed(identity, replace(one, slice=names[i % len(names)]) if names else one)
    return judgement


def full(*, frozen=False):
    """Make a registry as full as the default settings let it become: 20 named slices, all judged, and all canaries."""
    made = metrics(frozen=frozen)
    names = [f"slice-{number:02d}" for number in range(20)]
    made.know_slices(["default", "other", *names])
    made.replayed(list(observations(["default", "other", *names])))
    made.judge.on_duty(True)
    made.judge.judged(judged(4400, ["default", "other", *names]), 4400)
    pair = retrievers(frozen=frozen).pair
    for retriever in (pair.deployed, pair.reference, *([pair.frozen] if pair.frozen else ())):
        made.retriever_loaded(retriever)
    bundled, run = bundled_run()
    made.canaries.canaries_known(bundled)
    made.canaries.canaries_ran(run, 1.0, 2.0)
    return made


@cache
def bundled_run():
    """Give the bundled sets and a run of them in which every domain and phenomenon changed."""
    bundled = find_sets()
    domains = {name for one in bundled.sets if one.kind == "retrieval" for name in one.groups}
    return bundled, ran(bundled, lost=domains, pushed=0.05)


@pytest.mark.parametrize("frozen", [False, True], ids=["without-frozen-copy", "with-frozen-copy"])
def test_twenty_slices_and_the_bundled_canaries_cost_fewer_than_two_thousand_series(frozen):
    """The series of a full registry are counted: the bound that the documentation names holds."""
    made = full(frozen=frozen)
    found = samples(made)
    assert len({dict(labels).get("slice") for _, labels in found} - {None}) == 23  # 20, default, other, all
    assert len({dict(labels).get("domain") for _, labels in found} - {None}) == 7  # six, all
    assert len({dict(labels).get("phenomenon") for _, labels in found} - {None}) == 8  # seven, all
    assert len({dict(labels).get("threshold") for _, labels in found} - {None}) == 3
    assert 500 < len(found) < MOST_SERIES, len(found)
    assert not [
        name for (name, _), value in found.items() if name.startswith("rag_drift_canary_") and math.isnan(value)
    ]


@pytest.mark.parametrize("make", [metrics, full])
def test_promtool_finds_nothing_to_say(make):
    """Names, help texts and types follow the Prometheus conventions, in an empty and in a full registry."""
    done = subprocess.run(
        [program("promtool"), "check", "metrics", "--extended"],
        input=generate_latest(make().registry),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert b"rag_drift_agreement_ratio" in done.stdout or make is metrics


def test_promtool_would_complain():
    """The check above can fail: a counter without `_total` is found."""
    text = b"# HELP rag_drift_things Things.\n# TYPE rag_drift_things counter\nrag_drift_things 1\n"
    done = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, check=False)
    assert done.returncode != 0


def test_known_series_exist_from_the_start_with_zero():
    """A rate over a counter needs its 0 before the first event."""
    made = metrics()
    for name, labels in (
        ("alarms_total", {"signal": SIGNAL}),
        ("baselines_accepted_total", {"signal": SIGNAL}),
        ("replay_failures_total", {"reason": "EncoderError"}),
        ("replay_failures_total", {"reason": "store"}),
        ("events_total", {"outcome": "queued"}),
        ("events_malformed_total", {"reason": "too_large"}),
        ("retriever_reload_failures_total", {"role": "deployed"}),
        ("phase_duration_seconds_count", {"phase": "record"}),
        ("judge_active", {}),
        ("ready", {}),
    ):
        assert value(made, name, **labels) == 0.0, name
    made.know_slices(["legal"])
    assert value(made, "replays_total", slice="legal") == 0.0
    assert value(made, "agreement_ratio_count", slice="legal", signal=SIGNAL) == 0.0


def test_what_is_not_known_yet_does_not_read_as_the_worst():
    """Before an encoder is loaded or accepted, its similarity and match are unknown and alert on nothing."""
    made = metrics()
    for role in ("deployed", "reference"):
        assert math.isnan(value(made, "encoder_similarity_ratio", role=role))
        assert math.isnan(value(made, "index_matches_encoder", role=role))


def test_no_created_series_are_sent():
    """The client library's `_created` samples would nearly double the counters."""
    assert [name for name, _ in samples(full()) if name.endswith("_created")] == []


def test_replayed_queries_are_counted_by_slice_with_every_signal():
    """The tested signal is a histogram, fidelity and the other measures a mean each."""
    made = metrics()
    made.replayed(list(observations(["legal"], 3)))
    assert value(made, "replays_total", slice="legal") == 3
    assert value(made, "agreement_ratio_count", signal=SIGNAL, slice="legal") == 3
    assert value(made, "agreement_ratio_bucket", signal=SIGNAL, slice="legal", le="0.6") == 0
    assert value(made, "agreement_ratio_bucket", signal=SIGNAL, slice="legal", le="0.7") == 3
    for signal in set(signal_names(10)) - {SIGNAL}:
        assert value(made, "agreement_detail_ratio_sum", signal=signal, slice="legal") == pytest.approx(1.95)


def test_a_failed_write_is_counted():
    """An outage while writing shows in the failures, as the metric's help says."""
    made = metrics()
    made.replay_failed("store")
    made.replay_failed("EncoderError", 4)
    assert value(made, "replay_failures_total", reason="store") == 1
    assert value(made, "replay_failures_total", reason="EncoderError") == 4


def test_verdicts_appear_with_duty_and_disappear_without():
    """A replica that was replaced shows no verdict, no change and no similarity; the next one's stand alone."""
    made = metrics()
    judgement = judged(2600, drop_from=2000, shipped_from=2000)
    assert value(made, "drifted", signal=SIGNAL, slice="all") is None
    made.judge.on_duty(True)
    made.judge.judged(judgement, 2600)
    made.encoder_similarity("deployed", 0.9)
    for name in VERDICT_FAMILIES:
        for one in ("all", "legal", "support"):
            assert value(made, name, signal=SIGNAL, slice=one) is not None, (name, one)
    assert value(made, "drifted", signal=SIGNAL, slice="all") == 1
    assert value(made, "drift_start_timestamp_seconds", signal=SIGNAL, slice="all") > 0
    assert value(made, "stack_changed", part="deployed_encoder") == 1
    assert value(made, "stack_changed", part="reference_encoder") == 0
    assert value(made, "pager_evidence_log10") >= value(made, "pager_threshold_log10")
    assert value(made, "baseline_accepted_timestamp_seconds", signal=SIGNAL) == judgement.first.accepted_at > 0
    made.judge.on_duty(False)
    left = [key for key in samples(made) if key[0].removeprefix("rag_drift_") in VERDICT_FAMILIES]
    assert left == []
    assert value(made, "judge_active") == 0
    assert value(made, "stack_changed", part="deployed_encoder") == 0
    assert value(made, "pager_evidence_log10") == -12
    assert math.isnan(value(made, "encoder_similarity_ratio", role="deployed"))
    made.judge.on_duty(False)
    made.judge.on_duty(True)
    made.judge.judged(judgement, 0)
    assert value(made, "drifted", signal=SIGNAL, slice="all") == 1


def test_the_time_of_the_baseline_survives_a_restart():
    """A judge that comes back from its checkpoint still says since when the baseline is in force."""
    judgement = judged(1500)
    made = metrics()
    made.judge.judged(Judgement.from_state(judgement.to_state(), judgement.options), 0)
    assert value(made, "baseline_accepted_timestamp_seconds", signal=SIGNAL) == judgement.first.accepted_at > 0


def test_slices_of_a_given_up_calibration_disappear():
    """After a new calibration only the slices that are measured again have series."""
    made = metrics()
    judgement = judged(1500)
    made.judge.judged(judgement, 1500)
    assert value(made, "baseline_ratio", signal=SIGNAL, slice="legal") > 0
    judgement.recalibrate("r1", 1.0, "ann", "new")
    made.judge.judged(judgement, 0)
    assert value(made, "baseline_ratio", signal=SIGNAL, slice="legal") is None
    assert value(made, "baseline_ratio", signal=SIGNAL, slice="all") == 0
    assert value(made, "baseline_accepted_timestamp_seconds", signal=SIGNAL) == 0


def test_a_new_calibration_takes_what_canaries_found_against_the_old_baseline():
    """What the alarm spoke for in Alertmanager must end with it."""
    made, judgement = metrics(), judged(1500)
    sets = library(labelled())
    made.canaries.canaries_known(sets)
    found = {"probe_set": "questions", "domain": "law", "against": "accepted", "signature": "retrieval_loss"}
    run = replace(ran(sets, lost=["law"]), accepted_at=judgement.first.accepted_at)
    made.canaries.canaries_ran(run, 1.0, 2.0)
    made.judge.judged(judgement, 1500)
    assert value(made, "canary_signature", **found) == 1
    judgement.recalibrate("r1", 1.0, "ann", "new")
    made.judge.judged(judgement, 0)
    assert math.isnan(value(made, "canary_signature", **found))
    assert value(made, "canary_signature", **found | {"against": "reference"}) == 1


def test_only_the_encoder_in_use_has_an_info_series():
    """A replaced version does not stay as a second 1."""
    made = metrics()
    pair = retrievers().pair
    for retriever in (pair.deployed, pair.deployed, pair.reference):
        made.retriever_loaded(retriever)
    infos = [dict(labels) for (name, labels), number in samples(made).items() if name == "rag_drift_encoder_info"]
    assert sorted(info["role"] for info in infos) == ["deployed", "reference"]
    assert value(made, "index_documents", role="deployed") == 10


def test_lost_entries_are_unknown_until_the_stream_was_looked_at():
    """The count belongs to the deployment and goes on after a restart: a 0 before it would read as a sudden loss."""
    import asyncio

    from sidecar.exporter.intake_collector import IntakeCollector
    from sidecar.intake.trimming import StreamState

    registry, collector = CollectorRegistry(), IntakeCollector()
    registry.register(collector)
    counts = IntakeCounts()
    collector.source = (counts, asyncio.Queue(1))
    assert registry.get_sample_value("rag_drift_events_lost_total") is None
    counts.state = StreamState(length=1, pending=0, lost=70, estimated=False, settled=True, behind_seconds=0.0)
    assert registry.get_sample_value("rag_drift_events_lost_total") == 70


def test_an_open_ticket_shows_until_its_evidence_is_gone():
    """Rules need a state: a counter's increase would resolve by itself while the fall still stands."""
    made = metrics()
    made.judge.on_duty(True)
    assert value(made, "ticket_open", direction="fall") == 0
    judgement = judged(5600, drop_from=2000, keep=0.975)
    assert judgement.alarm_id is None
    made.judge.judged(judgement, 5600)
    assert value(made, "ticket_open", direction="fall") == 1
    assert value(made, "ticket_open", direction="rise") == 0
    made.judge.on_duty(False)
    assert value(made, "ticket_open", direction="fall") == 0


def test_each_judged_slice_shows_its_floor_and_its_budget():
    """The floor is a bucket edge of the live histogram, so that rules can join the two; the whole stream has none."""
    made = metrics()
    judgement = judged(1500)
    made.replayed(list(observations(["legal", "support"])))
    made.judge.judged(judgement, 1500)
    found = samples(made)
    edges = {dict(labels)["le"] for name, labels in found if name == "rag_drift_agreement_ratio_bucket"}
    floors = {
        dict(labels)["slice"]: (dict(labels)["edge"], number)
        for (name, labels), number in found.items()
        if name == "rag_drift_slo_floor_accepted_timestamp_seconds"
    }
    assert floors.keys() == {"legal", "support"}
    for name, (edge, at) in floors.items():
        baseline = judgement.first.tracks[name].baseline
        bad = sum(baseline.histogram[: int(float(edge) * 100) + 1]) / baseline.n
        assert edge in edges
        assert at == baseline.ended_at
        assert 2 * bad <= value(made, "slo_budget_ratio", slice=name) + 1e-12
    made.judge.judged(judgement, 0)
    assert {key for key in samples(made) if "slo_" in key[0]} == {key for key in found if "slo_" in key[0]}


@given(value=st.floats(0.0, 1.0), edge=st.sampled_from(RATIO_BUCKETS))
def test_the_live_histogram_and_the_baseline_agree_on_what_is_bad(value, edge):
    """A query that the accepted baseline counts as good is in no bad bucket, or a steady slice would burn."""
    assume(abs(value - edge) > 1e-8)  # dust beside an edge belongs to it in the baseline
    assert (level_of(value) <= round(TOP * edge)) == (value <= edge)


def test_a_backlog_is_no_evaluation_of_now():
    """The time of the last evaluation stands still while observations are left, so that rules see a judge behind."""
    made = metrics()
    made.judge.judged(judged(1500), 500, caught_up=False)
    assert value(made, "last_evaluation_timestamp_seconds") == 0
    made.judge.judged(judged(1500), 500, caught_up=True)
    assert value(made, "last_evaluation_timestamp_seconds") == NOW


def test_another_baseline_exchanges_the_floor_and_duty_that_ends_takes_it_away():
    """One floor a slice at a time on one replica, and none where nobody judges."""
    made = metrics()
    made.judge.judged(judged(1500), 1500)
    before = {key for key in samples(made) if "slo_floor" in key[0]}
    better = Judgement(options(min_slice_queries=100))
    for identity, one in stream(1500, seed=3):
        better.feed(identity, replace(one, values={SIGNAL: max(0.5, one.values[SIGNAL])}))
    made.judge.judged(better, 0)
    after = {key for key in samples(made) if "slo_floor" in key[0]}
    assert [dict(labels)["edge"] for _, labels in sorted(before)] == ["0.0", "0.0"]
    assert [dict(labels)["edge"] for _, labels in sorted(after)] == ["0.4", "0.4"]
    made.judge.on_duty(False)
    assert not [key for key in samples(made) if "slo_" in key[0]]


def test_a_refused_version_shows_until_the_folder_holds_what_is_in_use():
    """Failures are counted once for a version; that an old one is in use is a state."""
    made = metrics()
    assert value(made, "retriever_outdated", role="deployed") == 0
    made.reload_failed("deployed")
    assert value(made, "retriever_outdated", role="deployed") == 1
    made.up_to_date("deployed")
    assert value(made, "retriever_outdated", role="deployed") == 0
    made.reload_failed("deployed")
    made.retriever_loaded(retrievers().pair.deployed)
    assert value(made, "retriever_outdated", role="deployed") == 0
    assert value(made, "retriever_reload_failures_total", role="deployed") == 2


def test_the_cycles_of_the_loops_are_told():
    """A rule that asks for two missed rounds takes their length from the settings, not from a guess."""
    made = metrics()
    made.cycles(judge=15.0, frozen=300.0, canaries=3600.0)
    found = {loop: value(made, "evaluation_interval_seconds", loop=loop) for loop in ("judge", "frozen", "canaries")}
    assert found == {"judge": 15.0, "frozen": 300.0, "canaries": 3600.0}


def test_the_intake_is_read_at_scrape_time():
    """Counts and queue are those of the moment of the scrape, and of the newest source after a reload."""
    import asyncio

    from sidecar.exporter.intake_collector import IntakeCollector

    made = metrics()
    made.registry.unregister(next(one for one in made.registry._collector_to_names if isinstance(one, IntakeCollector)))
    collector = IntakeCollector()
    made.registry.register(collector)
    counts, queue = IntakeCounts(), asyncio.Queue(7)
    collector.source = (counts, queue)
    counts.outcomes["queued"] = 5
    queue.put_nowait("x")
    assert value(made, "events_total", outcome="queued") == 5
    assert (value(made, "queue_length"), value(made, "queue_limit")) == (1, 7)
    collector.source = (IntakeCounts(), asyncio.Queue(3))
    assert value(made, "events_total", outcome="queued") == 0
