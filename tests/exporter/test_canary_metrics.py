"""The metrics of the canaries: what a run shows, what is unknown, and that no series outlives its set."""

from __future__ import annotations

from math import isnan, log2

import pytest
from prometheus_client import CollectorRegistry

from sidecar.drift.signature import NAMES
from sidecar.exporter.canary_metrics import CanaryMetrics
from sidecar.probesets.library import SetAside, find_sets
from tests.exporter.canary_runs import AT, cosines, labelled, library, pairs, ran
from tests.exporter.conftest import metrics

LOST = 1 - 1 / log2(5)
"""What a query loses of its nDCG@10 when its only answer falls from the first place to the fourth."""


class Canaries(CanaryMetrics):
    """The instruments in a registry of their own, with short ways to read it."""

    def __init__(self, *sets) -> None:
        self.registry = CollectorRegistry()
        super().__init__(self.registry)
        if sets:
            self.canaries_known(library(*sets))

    def series(self):
        """Give every sample by its name and labels."""
        return series(self.registry)

    def value(self, name, **labels) -> float | None:
        """Give one sample, None if it is not there."""
        return self.registry.get_sample_value(f"rag_drift_canary_{name}", labels)

    def about(self, probe_set):
        """Give the samples of one set."""
        return {key: value for key, value in self.series().items() if ("probe_set", probe_set) in key[1]}


def series(registry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Give every sample of the canaries by its name, without our prefix, and labels."""
    return {
        (one.name.removeprefix("rag_drift_canary_"), frozenset(one.labels.items())): one.value
        for family in registry.collect()
        for one in family.samples
        if one.name.startswith("rag_drift_canary_") and not one.name.endswith("_created")
    }


QUESTIONS, PAIRS = labelled(), pairs()
ADMINISTRATION = {"set_info", "set_errors_total", "last_run_timestamp_seconds"}


# What is there before anything was measured.


def test_a_known_set_has_all_its_series_before_the_first_run_and_nothing_reads_0():
    """Unknown is NaN; only counters and the time of the last run begin at 0."""
    made = Canaries(QUESTIONS, PAIRS)
    before = made.series()
    measured = {key: value for key, value in before.items() if "probe_set" in dict(key[1])}
    assert {name for (name, _), value in measured.items() if not isnan(value)} == ADMINISTRATION
    assert made.value("last_run_timestamp_seconds", probe_set="questions") == 0
    assert made.value("set_errors_total", probe_set="pairs") == 0
    assert isnan(made.value("run_duration_seconds"))
    for reason in ("EncoderError", "VectorIndexError", "StoreError"):
        assert made.value("failures_total", reason=reason) == 0
    made.canaries_ran(ran(library(QUESTIONS, PAIRS)), 1.0, 2.0)
    new = {name for name, _ in made.series().keys() - before.keys()}
    assert new == {"pair_above_threshold_ratio"}  # whose thresholds come with the run
    assert before.keys() <= made.series().keys()


def test_a_set_is_named_with_its_version_and_checksum():
    """The info series says what the scores are of, also for the sentinels, which are never run."""
    made = Canaries(labelled(version=3, checksum="abc"), find_sets(["sentinel"]).sets[0])
    assert made.value("set_info", probe_set="questions", kind="retrieval", version="3", checksum="abc") == 1
    assert {name for name, _ in made.about("sentinel")} == {"set_info", "set_errors_total"}
    assert (made.value("sets", state="loaded"), made.value("sets", state="set_aside")) == (2, 0)


# What a run shows of labelled sets.


def test_a_run_shows_scores_and_paired_changes_by_domain():
    """A lost domain falls by what its queries lost; an unchanged one by exactly 0, with no interval to speak of."""
    made = Canaries(QUESTIONS, PAIRS)
    made.canaries_ran(ran(library(QUESTIONS, PAIRS), lost=["law"], missing=0.25), 1.5, 9.0)
    measure = {"probe_set": "questions", "measure": "ndcg@10"}
    assert made.value("score_ratio", **measure, domain="law", role="deployed") == pytest.approx(1 - LOST)
    assert made.value("score_ratio", **measure, domain="law", role="reference") == 1
    assert made.value("score_ratio", **measure, domain="all", role="deployed") == pytest.approx(1 - LOST / 2)
    for against in ("reference", "accepted"):
        held = {**measure, "against": against}
        assert made.value("change_ratio", **held, domain="law") == pytest.approx(-LOST)
        assert made.value("change_relative_ratio", **held, domain="law") == pytest.approx(-LOST)
        assert made.value("change_ratio", **held, domain="all") == pytest.approx(-LOST / 2)
        lower, upper = (made.value(f"change_{end}_ratio", **held, domain="all") for end in ("lower", "upper"))
        assert lower < -LOST / 2 < upper < 0
        assert made.value("change_ratio", **held, domain="pets") == 0
        assert isnan(made.value("change_lower_ratio", **held, domain="pets"))
        ranked = {"probe_set": "questions", "against": against}
        assert made.value("moved_ratio", **ranked, domain="law") == 1
        assert made.value("moved_ratio", **ranked, domain="all") == 0.5
        assert made.value("overlap_ratio", **ranked, domain="pets") == 1
    assert made.value("last_run_timestamp_seconds", probe_set="questions") == AT
    assert made.value("missing_documents_ratio", probe_set="questions") == 0.25
    assert (made.value("busy_seconds_total"), made.value("run_duration_seconds")) == (1.5, 9)


def test_the_other_measures_are_shown_for_the_whole_set_only():
    """nDCG@10 has a series for each domain, MRR, accuracy and recall one for each role."""
    made = Canaries(QUESTIONS)
    made.canaries_ran(ran(library(QUESTIONS), lost=["law"]), 1.0, 2.0)
    shown = {
        (dict(labels)["domain"], dict(labels)["measure"]) for name, labels in made.series() if name == "score_ratio"
    }
    others = {("all", measure) for measure in ("mrr@10", "acc@1", "recall@10", "recall@100")}
    assert shown == {*others, *((domain, "ndcg@10") for domain in ("all", "law", "pets"))}
    whole = {"probe_set": "questions", "domain": "all", "role": "deployed"}
    assert made.value("score_ratio", **whole, measure="acc@1") == 0.5
    assert made.value("score_ratio", **whole, measure="mrr@10") == pytest.approx((1 + 0.25) / 2)
    assert made.value("score_ratio", **whole, measure="recall@100") == 1


def test_a_set_of_one_domain_is_shown_as_a_whole():
    """A BEIR folder is one domain: the same numbers twice would double its series."""
    made = Canaries(labelled("beir", ("science",)))
    made.canaries_ran(ran(library(labelled("beir", ("science",)))), 1.0, 2.0)
    assert {dict(labels)["domain"] for _, labels in made.about("beir") if "domain" in dict(labels)} == {"all"}
    assert made.value("score_ratio", probe_set="beir", domain="all", measure="ndcg@10", role="deployed") == 1


def test_the_scale_of_the_scores_is_shown_by_role():
    """Percentiles of the first score, and of its distance to the tenth, on which thresholds hang."""
    made = Canaries(QUESTIONS)
    made.canaries_ran(ran(library(QUESTIONS)), 1.0, 2.0)
    for role in ("deployed", "reference"):
        for percentile in ("10", "50", "90"):
            labels = {"probe_set": "questions", "role": role, "percentile": percentile}
            assert made.value("top_score", **labels) == pytest.approx(0.9)
            assert made.value("score_gap", **labels) == pytest.approx(0.45)


# The names of what happened.


def names(made: Canaries, domain: str, against: str = "accepted") -> dict[str, float]:
    """Give the state set of one domain."""
    labels = {"probe_set": "questions", "domain": domain, "against": against}
    return {name: made.value("signature", **labels, signature=name) for name in NAMES}


def test_every_domain_has_exactly_one_name_at_1():
    """A trade of one domain for composition is a trap there, and is not hidden by the domain that kept its rankings."""
    made = Canaries(QUESTIONS, PAIRS)
    made.canaries_ran(ran(library(QUESTIONS, PAIRS), lost=["law"], pushed=0.1), 1.0, 2.0)
    for against in ("reference", "accepted"):
        assert names(made, "law", against) == {name: float(name == "precision_trap") for name in NAMES}
        assert names(made, "pets", against) == {name: float(name == "changed_not_worse") for name in NAMES}
    made.canaries_ran(ran(library(QUESTIONS, PAIRS)), 1.0, 2.0)
    assert names(made, "law") == names(made, "all") == {name: float(name == "unchanged") for name in NAMES}


def test_before_an_acceptance_nothing_is_held_against_it():
    """Changes and names against the accepted stack are unknown until there is one, and again when it is gone."""
    made = Canaries(QUESTIONS, PAIRS)
    held = [key for key in made.series() if ("against", "accepted") in key[1]]
    assert {name for name, _ in held} == {
        "change_ratio", "change_relative_ratio", "change_lower_ratio", "change_upper_ratio", "moved_ratio",
        "overlap_ratio", "signature", "sensitivity_only", "pair_sensitivity_change", "pair_auc_change_ratio",
    }  # fmt: skip
    for accepted in (False, True, False):
        run = ran(library(QUESTIONS, PAIRS), lost=["law", "pets"], pushed=0.1, accepted=accepted)
        made.canaries_ran(run, 1.0, 2.0)
        assert all(isnan(made.series()[key]) is not accepted for key in held), accepted
        assert names(made, "law", "reference")["precision_trap"] == 1


def test_what_was_held_against_an_acceptance_goes_with_it():
    """A name that a new calibration made void would page for as long as the next run is away; the reference stays."""
    sets = library(QUESTIONS, PAIRS)
    made, never = Canaries(QUESTIONS, PAIRS), Canaries(QUESTIONS, PAIRS)
    made.acceptance(None)
    made.canaries_ran(ran(sets, lost=["law"], pushed=0.1), 1.0, 2.0)
    shown = made.series()
    made.acceptance(AT - 1000.0)
    assert made.series() == pytest.approx(shown, nan_ok=True)
    assert names(made, "law")["precision_trap"] == 1
    never.canaries_ran(ran(sets, lost=["law"], pushed=0.1, accepted=False), 1.0, 2.0)
    for given_up in (None, AT + 1000.0):
        made.canaries_ran(ran(sets, lost=["law"], pushed=0.1), 0.0, 2.0)
        made.acceptance(given_up)
        assert made.series() == pytest.approx(never.series(), nan_ok=True), given_up


def test_sensitivity_without_discrimination_is_told_of_the_encoder():
    """It is 1 where near-misses went away from anchors and no threshold is the better for it."""
    made = Canaries(QUESTIONS, PAIRS)
    for pushed, only in ((0.0, 0), (0.1, 0), (0.025, 1)):
        made.canaries_ran(ran(library(QUESTIONS, PAIRS), lost=["law"], pushed=pushed, nearest=0.93), 1.0, 2.0)
        assert made.value("sensitivity_only", against="reference") == only, pushed


def test_without_a_composition_set_nobody_knows_of_sensitivity():
    """A library of labelled sets alone leaves it unknown."""
    made = Canaries(QUESTIONS)
    made.canaries_ran(ran(library(QUESTIONS), lost=["law"]), 1.0, 2.0)
    assert names(made, "law")["retrieval_loss"] == 1
    assert isnan(made.value("sensitivity_only", against="reference"))


# What a run shows of composition sets.


def test_pairs_are_shown_by_phenomenon():
    """Accuracy, AUC and both cosines of each encoder, and what changed between them."""
    made = Canaries(PAIRS)
    made.canaries_ran(ran(library(PAIRS), pushed=0.1), 1.0, 2.0)
    near = sum(cosines(PAIRS).near_miss) / len(PAIRS.triples)
    for phenomenon in ("all", "negation", "role_swap"):
        of = {"probe_set": "pairs", "phenomenon": phenomenon}
        assert made.value("pair_cosine", **of, role="deployed", text="near_miss") == pytest.approx(near - 0.1)
        assert made.value("pair_cosine", **of, role="reference", text="near_miss") == pytest.approx(near)
        assert made.value("pair_cosine", **of, role="deployed", text="paraphrase") == pytest.approx(0.9)
        # Of the twelve near-misses two are below the paraphrases, and one is as far away.
        for name in ("pair_accuracy_ratio", "pair_auc_ratio"):
            assert made.value(name, **of, role="reference") == pytest.approx(2.5 / 12)
            assert made.value(name, **of, role="deployed") == 1
        for against in ("reference", "accepted"):
            assert made.value("pair_sensitivity_change", **of, against=against) == pytest.approx(0.1)
            assert made.value("pair_auc_change_ratio", **of, against=against) == pytest.approx(9.5 / 12)


def test_shares_above_the_thresholds_are_a_caches_false_hits_by_phenomenon():
    """All triples have both texts and both encoders, a phenomenon the deployed encoder's near-misses."""
    made = Canaries(PAIRS)
    made.canaries_ran(ran(library(PAIRS), pushed=0.02, thresholds=(0.892,)), 1.0, 2.0)
    shown = {
        tuple(dict(labels)[name] for name in ("phenomenon", "role", "text", "threshold")): value
        for (family, labels), value in made.series().items()
        if family == "pair_above_threshold_ratio"
    }
    assert shown == {
        ("all", "deployed", "paraphrase", "0.892"): 1.0,
        ("all", "reference", "paraphrase", "0.892"): 1.0,
        ("all", "reference", "near_miss", "0.892"): pytest.approx(11 / 12),
        ("all", "deployed", "near_miss", "0.892"): pytest.approx(7 / 12),
        ("negation", "deployed", "near_miss", "0.892"): pytest.approx(7 / 12),
        ("role_swap", "deployed", "near_miss", "0.892"): pytest.approx(7 / 12),
    }


def test_a_threshold_that_is_no_longer_asked_for_disappears():
    """After a change of the settings only the new thresholds have series."""
    made = Canaries(PAIRS)
    for thresholds in ((0.85, 0.9), (0.9, 0.97)):
        made.canaries_ran(ran(library(PAIRS), thresholds=thresholds), 1.0, 2.0)
        found = {dict(labels).get("threshold") for _, labels in made.series()} - {None}
        assert found == {f"{one:g}" for one in thresholds}


# Which series there are, as sets come and go.


def test_a_reload_keeps_what_is_the_same_and_drops_what_is_not():
    """A set that stayed keeps its scores, one of another content starts anew, and one that is gone has no series."""
    sets = [labelled("stays"), labelled("changes"), labelled("goes"), pairs("goes-too")]
    made = Canaries(*sets)
    made.canaries_ran(ran(library(*sets), lost=["law"]), 1.0, 2.0)
    kept = made.about("stays")
    made.canaries_known(library(labelled("stays"), labelled("changes", ("law", "tax"), checksum="second")))
    assert made.about("stays") == pytest.approx(kept, nan_ok=True)
    assert made.about("goes") == made.about("goes-too") == {}
    changed = made.about("changes")
    assert {name for (name, _), value in changed.items() if not isnan(value)} == ADMINISTRATION
    assert {dict(labels)["checksum"] for name, labels in changed if name == "set_info"} == {"second"}
    assert {dict(labels).get("domain") for _, labels in changed} == {None, "all", "law", "tax"}
    assert made.value("last_run_timestamp_seconds", probe_set="changes") == 0
    assert made.value("sets", state="loaded") == 2


def test_a_run_that_began_before_a_reload_shows_nothing_of_sets_that_changed():
    """Its scores are of a content that is no longer in use."""
    old = library(labelled("changes"), labelled("goes"))
    made = Canaries(*old.sets)
    made.canaries_known(library(labelled("changes", checksum="second")))
    before = made.about("changes")
    made.canaries_ran(ran(old, lost=["law"]), 1.0, 2.0)
    assert made.about("changes") == pytest.approx(before, nan_ok=True)
    assert made.about("goes") == {}


def test_a_run_that_fails_leaves_the_last_complete_one_in_place():
    """Scores and their time stay as they were: an old time is what tells."""
    made = Canaries(QUESTIONS, PAIRS)
    made.canaries_ran(ran(library(QUESTIONS, PAIRS), lost=["law"]), 1.0, 2.0)
    questions, composition = made.about("questions"), made.about("pairs")
    made.canaries_failed("EncoderError")
    assert made.value("failures_total", reason="EncoderError") == 1
    assert made.about("questions") == pytest.approx(questions, nan_ok=True)
    assert made.about("pairs") == pytest.approx(composition, nan_ok=True)


def test_a_set_that_a_run_lacks_keeps_what_it_shows():
    """Each set has a time of its own."""
    made = Canaries(QUESTIONS, PAIRS)
    made.canaries_ran(ran(library(QUESTIONS, PAIRS), lost=["law"]), 1.0, 2.0)
    questions = made.about("questions")
    made.canaries_ran(ran(library(PAIRS), at=AT + 3600), 1.0, 2.0)
    assert made.about("questions") == pytest.approx(questions, nan_ok=True)
    assert made.value("last_run_timestamp_seconds", probe_set="questions") == AT
    assert made.value("last_run_timestamp_seconds", probe_set="pairs") == AT + 3600


def test_a_set_that_is_set_aside_has_only_its_errors():
    """It counts as set aside, whether its files were bad or a run found it unfit."""
    made = Canaries()
    made.canaries_known(library(QUESTIONS, PAIRS, aside=[SetAside("bad", "a rule")]))
    assert made.value("set_errors_total", probe_set="bad") == 0
    made.canary_set_aside("bad")
    made.canary_set_aside("pairs")
    assert {name for name, _ in made.about("bad")} == {name for name, _ in made.about("pairs")} == {"set_errors_total"}
    assert made.value("set_errors_total", probe_set="pairs") == 1
    assert (made.value("sets", state="loaded"), made.value("sets", state="set_aside")) == (1, 2)
    made.canaries_ran(ran(library(QUESTIONS, PAIRS)), 1.0, 2.0)
    assert {name for name, _ in made.about("pairs")} == {"set_errors_total"}
    made.canaries_known(library(QUESTIONS, PAIRS))
    assert made.about("bad") == {}
    assert (made.value("sets", state="loaded"), made.value("sets", state="set_aside")) == (2, 0)


def test_a_bad_set_does_not_take_a_good_one_of_the_same_name_with_it():
    """Two folders of one name: the second is counted, the first stays."""
    made = Canaries()
    made.canaries_known(library(QUESTIONS, aside=[SetAside("questions", "names differ")]))
    made.canary_set_aside("questions")
    assert made.value("set_errors_total", probe_set="questions") == 1
    assert made.value("set_info", probe_set="questions", kind="retrieval", version="1", checksum="first") == 1


def test_a_replica_that_retires_forgets_what_it_found():
    """What a former judge saw last must not contradict its successor on a dashboard."""
    made = metrics()
    made.canaries.canaries_known(library(QUESTIONS, PAIRS))
    fresh = series(made.registry)
    made.judge.on_duty(True)
    made.canaries.canaries_ran(ran(library(QUESTIONS, PAIRS), lost=["law"], pushed=0.1), 1.0, 2.0)
    law = {"probe_set": "questions", "domain": "law", "against": "accepted", "signature": "precision_trap"}
    assert made.registry.get_sample_value("rag_drift_canary_signature", law) == 1
    made.judge.on_duty(False)
    left = series(made.registry)
    spent = {("busy_seconds_total", frozenset()): 1.0, ("run_duration_seconds", frozenset()): 2.0}
    assert left == pytest.approx({**fresh, **spent}, nan_ok=True)
