"""Attribution: each row of the decision table, missing evidence, and the synthetic retrieval world.

The world (`world.py`) is measured, never asked what was done to it: `EVENTS` is only the answer sheet. The same causes
on a real encoder are the business of the detection benchmark.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from functools import cache, lru_cache, reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.drift.attribution import ADVICE, RULES, Cause, attribute
from sidecar.drift.evidence import (
    EncoderCheck,
    Evidence,
    IndexCheck,
    ProbeCheck,
    RecallCheck,
    Sample,
    StoredCheck,
    count_stored,
)
from sidecar.drift.gauges import Thresholds
from sidecar.drift.mix import Split
from tests.pure.drift import world

SAME = EncoderCheck(query_same=True, document_same=True, query_cosine=1.0, document_cosine=1.0)
NUDGED = EncoderCheck(query_same=False, document_same=False, query_cosine=0.97, document_cosine=0.97)
SWAPPED = EncoderCheck(query_same=False, document_same=False, query_cosine=0.02, document_cosine=0.02)
HALVED = EncoderCheck(query_same=False, document_same=False, query_cosine=0.999999, document_cosine=0.999999)
PROMPT = EncoderCheck(query_same=False, document_same=True, query_cosine=0.88, document_cosine=1.0)

AGREE = StoredCheck(400, 0, 0, 0, 0, accepted_documents=400)
REST = Sample(0.96, 150, 0.04)
STILL = ProbeCheck(now=REST, floor=REST, known=REST, moved=0.3, new_share=0.0, gone_share=0.0)
MOVED = replace(STILL, now=Sample(0.8, 150, 0.2), known=Sample(0.8, 150, 0.2), moved=0.8)
GREW = replace(STILL, now=Sample(0.8, 150, 0.2), moved=0.8, new_share=0.17)
LOST = replace(STILL, now=Sample(0.87, 150, 0.1), moved=0.6, gone_share=0.1)
ONE = Sample(1.0, 150, 0.0)
REFERENCE_STILL = ProbeCheck(now=ONE, floor=ONE, known=ONE, moved=0.0, new_share=0.0, gone_share=0.0)
REFERENCE_MOVED = replace(REFERENCE_STILL, now=Sample(0.8, 150, 0.2), known=Sample(0.8, 150, 0.2), moved=0.8)
REFERENCE_GREW = replace(REFERENCE_STILL, now=Sample(0.83, 150, 0.2), moved=0.8, new_share=0.16)
INDEX, REBUILT = IndexCheck(4_000, 4_000, rebuilt=False), IndexCheck(4_000, 4_000, rebuilt=True)
LARGER, SMALLER = IndexCheck(4_800, 4_000, rebuilt=True), IndexCheck(3_600, 4_000, rebuilt=True)
RECALL = RecallCheck(Sample(0.98, 150, 0.04), Sample(0.98, 150, 0.04))


def live(mix=0.0, rate=0.0, new=0.0, new_share=0.0, strata=12):
    """Give the split of a live change, 3,000 queries before and after."""
    return Split(
        n_before=3_000,
        n_after=3_000,
        before=0.55,
        change=mix + rate + new,
        change_se=0.008,
        mix=mix,
        mix_se=0.003,
        rate=rate,
        rate_se=0.005,
        new=new,
        new_se=0.003,
        new_share=new_share,
        strata=strata,
        distance=0.04,
        distance_expected=0.04,
    )


QUIET = Evidence(
    deployed_encoder=SAME,
    reference_encoder=SAME,
    deployed_index=INDEX,
    reference_index=INDEX,
    stored=AGREE,
    recall=RECALL,
    deployed_probes=STILL,
    reference_probes=REFERENCE_STILL,
    live=live(),
)


def seen(**changes):
    """Attribute a quiet system with some gauges changed."""
    return attribute(replace(QUIET, **changes))


def finding(result, cause):
    """Give the finding about one cause."""
    return next(one for one in result.findings if one.cause is cause)


class TestTheTable:
    """One row of the table a case; numbers as a real service would show them."""

    @pytest.mark.parametrize(
        ("changes", "causes"),
        [
            pytest.param({}, {Cause.NOTHING}, id="quiet"),
            pytest.param(
                {"deployed_encoder": NUDGED, "stored": StoredCheck(400, 400, 0, 0, 0), "deployed_probes": MOVED},
                {Cause.ENCODER_CHANGED_SLIGHTLY},
                id="encoder changed, nothing re-indexed",
            ),
            pytest.param(
                {"deployed_encoder": NUDGED, "stored": StoredCheck(400, 330, 0, 70, 0), "deployed_probes": MOVED},
                {Cause.ENCODER_CHANGED_SLIGHTLY},
                id="encoder changed, only new documents agree",
            ),
            pytest.param(
                {"deployed_encoder": SWAPPED, "stored": StoredCheck(400, 400, 398, 0, 0), "deployed_probes": MOVED},
                {Cause.ENCODER_SWAPPED},
                id="another model",
            ),
            pytest.param(
                {"deployed_encoder": HALVED}, {Cause.ENCODER_CHANGED_SLIGHTLY}, id="another precision of the same model"
            ),
            pytest.param(
                {"deployed_encoder": PROMPT, "deployed_probes": MOVED}, {Cause.QUERY_SIDE_CHANGED}, id="lost prompt"
            ),
            pytest.param(
                {"deployed_encoder": NUDGED, "deployed_index": REBUILT, "stored": StoredCheck(400, 240, 0, 0, 0)},
                {Cause.REINDEX_INCOMPLETE},
                id="encoder changed, 40 % re-indexed",
            ),
            pytest.param(
                {"deployed_encoder": NUDGED, "deployed_index": REBUILT, "deployed_probes": MOVED},
                {Cause.REINDEX_COMPLETE},
                id="encoder changed, all re-indexed",
            ),
            pytest.param(
                {"stored": StoredCheck(400, 20, 20, 0, 0, 400)}, {Cause.VECTORS_CORRUPTED}, id="unrelated vectors"
            ),
            pytest.param({"stored": StoredCheck(400, 120, 0, 0, 0, 400)}, {Cause.VERSIONS_MIXED}, id="stale vectors"),
            pytest.param(
                {"stored": StoredCheck(400, 140, 20, 0, 0, 400)},
                {Cause.VECTORS_CORRUPTED, Cause.VERSIONS_MIXED},
                id="unrelated and stale vectors",
            ),
            pytest.param(
                {"recall": replace(RECALL, now=Sample(0.85, 150, 0.1)), "deployed_probes": MOVED},
                {Cause.RECALL_FELL},
                id="approximate search looks at less",
            ),
            pytest.param(
                {"deployed_probes": LOST, "deployed_index": SMALLER}, {Cause.DOCUMENTS_LOST}, id="documents lost"
            ),
            pytest.param(
                {
                    "deployed_probes": GREW,
                    "reference_probes": REFERENCE_GREW,
                    "deployed_index": LARGER,
                    "reference_index": LARGER,
                },
                {Cause.CORPUS_GREW},
                id="corpus grew on both sides",
            ),
            pytest.param(
                {"deployed_probes": GREW, "deployed_index": LARGER},
                {Cause.CORPUS_GREW_DEPLOYED_ONLY},
                id="corpus grew on the deployed side",
            ),
            pytest.param(
                {"reference_probes": REFERENCE_GREW, "reference_index": LARGER},
                {Cause.REFERENCE_CHANGED},
                id="corpus grew on the reference side",
            ),
            pytest.param(
                {"reference_encoder": NUDGED, "reference_probes": REFERENCE_MOVED, "reference_index": REBUILT},
                {Cause.REFERENCE_CHANGED},
                id="reference encoder changed",
            ),
            pytest.param(
                {"reference_probes": REFERENCE_MOVED, "reference_index": REBUILT},
                {Cause.REFERENCE_CHANGED},
                id="reference index changed",
            ),
            pytest.param({"live": live(mix=-0.035)}, {Cause.MIX_SHIFTED}, id="mix part"),
            pytest.param({"live": live(rate=-0.05)}, {Cause.OUTSIDE_PROBES}, id="rate part, probes still"),
            pytest.param({"live": live(new=-0.04, new_share=0.2)}, {Cause.OUTSIDE_PROBES}, id="unseen slice"),
        ],
    )
    def test_a_row_names_its_cause_and_nothing_else(self, changes, causes):
        """Evidence of one row gives exactly the causes of that row, with numbers, and leaves nothing open."""
        result = seen(**changes)
        assert set(result.causes) == causes
        # Among vectors of another model, lost ones cannot be told.
        assert set(result.open) == ({Cause.VECTORS_CORRUPTED} if Cause.ENCODER_SWAPPED in causes else set())
        assert result.unexplained == ()
        assert all(finding(result, cause).supports for cause in causes - {Cause.NOTHING})
        assert all(one.contradicts for one in result.findings if one.holds is False)

    def test_the_table_covers_every_cause(self):
        """Every cause but "nothing" has a rule, and every cause has an advice of one line."""
        assert set(RULES) == set(Cause) - {Cause.NOTHING}
        assert set(ADVICE) == set(Cause)
        assert not any("\n" in advice for advice in ADVICE.values())

    def test_the_case_for_a_cause_carries_its_numbers(self):
        """A statement quotes the measurement that it rests on."""
        result = seen(recall=replace(RECALL, now=Sample(0.85, 150, 0.1)), deployed_probes=MOVED)
        assert finding(result, Cause.RECALL_FELL).supports == (
            "recall (approximate against exact) is 0.8500 (n 150), was 0.9800 (n 150)",
        )
        assert finding(result, Cause.VECTORS_CORRUPTED).contradicts == (
            "0 of 400 stored vectors have nothing to do with their re-encoding",
        )


class TestDoubt:
    """What cannot be told is said, with the reason."""

    def test_a_fault_that_moves_no_ranking_is_named_with_that_remark(self):
        """Another precision is a fact and no explanation of an alarm: the case against it says so."""
        result = seen(deployed_encoder=HALVED, live=live(rate=-0.05))
        assert result.causes == (Cause.ENCODER_CHANGED_SLIGHTLY, Cause.OUTSIDE_PROBES)
        assert "no effect is seen" in finding(result, Cause.ENCODER_CHANGED_SLIGHTLY).contradicts[-1]

    def test_nothing_measured_names_nothing(self):
        """Without any measurement no cause is named, not even "nothing", and each missing one is listed."""
        result = attribute(Evidence(missing={"stored": "the vector store does not give vectors"}))
        assert result.causes == ()
        assert set(result.open) == set(RULES)
        assert result.missing["stored"] == "the vector store does not give vectors"
        assert result.missing["recall"] == "not measured"
        assert result.summary.startswith("cannot tell, because ")

    def test_moved_probes_without_a_cause_are_unexplained(self):
        """Known documents changed places while every gauge of the deployed side is quiet: no gauge sees filters."""
        result = seen(deployed_probes=MOVED)
        assert result.causes == ()
        assert "filters" in result.summary

    def test_an_unexplained_move_stays_beside_a_named_cause(self):
        """A shift of the mix does not move frozen probes, so it does not explain them away."""
        result = seen(deployed_probes=MOVED, live=live(mix=-0.035))
        assert result.causes == (Cause.MIX_SHIFTED,)
        assert result.unexplained

    def test_one_stratum_hides_the_mix(self):
        """Without slices a fall of the rate may be a shift of the mix: neither is named; no fall is neither."""
        assert seen(live=live(strata=1)).causes == (Cause.NOTHING,)
        result = seen(live=live(rate=-0.05, strata=1))
        assert result.causes == ()
        assert set(result.open) == {Cause.MIX_SHIFTED, Cause.OUTSIDE_PROBES}
        assert "live.strata" in result.missing

    def test_a_rest_smaller_than_the_mix_part_is_not_a_cause(self):
        """Coarse strata leave a part of a shift within them; a larger rate part is a cause of its own."""
        small, large = seen(live=live(mix=-0.06, rate=-0.02)), seen(live=live(mix=-0.03, rate=-0.06))
        assert small.causes == (Cause.MIX_SHIFTED,)
        assert small.open == (Cause.OUTSIDE_PROBES,)
        assert large.causes == (Cause.MIX_SHIFTED, Cause.OUTSIDE_PROBES)

    def test_clusters_of_a_changed_reference_say_nothing(self):
        """Strata drawn with the vectors of an encoder that changed are other strata; slices are not touched."""
        changes = {"reference_encoder": NUDGED, "reference_probes": REFERENCE_MOVED, "live": live(mix=-0.035)}
        clustered = seen(**changes, clustered=True)
        assert clustered.causes == (Cause.REFERENCE_CHANGED,)
        assert set(clustered.open) == {Cause.MIX_SHIFTED, Cause.OUTSIDE_PROBES}
        assert seen(**changes).causes == (Cause.REFERENCE_CHANGED, Cause.MIX_SHIFTED)

    def test_recall_under_queries_of_another_model_is_open(self):
        """A graph answers foreign queries worse, so their recall does not accuse the search."""
        result = seen(
            deployed_encoder=SWAPPED,
            stored=StoredCheck(400, 400, 398, 0, 0),
            deployed_probes=MOVED,
            recall=replace(RECALL, now=Sample(0.85, 150, 0.1)),
        )
        assert result.causes == (Cause.ENCODER_SWAPPED,)
        assert Cause.RECALL_FELL in result.open

    def test_vectors_that_agree_with_a_new_encoder_may_be_new_documents(self):
        """17 % agreeing vectors in a corpus that grew by as much are no proof of a re-index, more are."""
        changes = {"deployed_encoder": NUDGED, "deployed_probes": GREW, "deployed_index": LARGER}
        unsplit = seen(**changes, stored=StoredCheck(400, 332, 0))
        assert Cause.ENCODER_CHANGED_SLIGHTLY not in unsplit.causes
        assert {Cause.ENCODER_CHANGED_SLIGHTLY, Cause.REINDEX_INCOMPLETE} <= set(unsplit.open)
        assert "stored.new_documents" in unsplit.missing
        assert Cause.REINDEX_INCOMPLETE in seen(**changes, stored=StoredCheck(400, 200, 0)).causes

    def test_the_generation_stands_in_for_stored_vectors(self):
        """An index of the accepted generation was not re-indexed, whatever its vectors are."""
        result = seen(deployed_encoder=NUDGED, stored=None, deployed_probes=MOVED)
        assert result.causes == (Cause.ENCODER_CHANGED_SLIGHTLY,)
        assert result.open == (Cause.VECTORS_CORRUPTED,)

    def test_how_far_the_reference_followed_is_counted_in_documents(self):
        """The top k may be full of new documents for another reason; without counts an unclear share stays open."""
        half = {"deployed_probes": replace(GREW, new_share=0.5), "reference_probes": REFERENCE_GREW}
        counted = seen(**half, deployed_index=LARGER, reference_index=LARGER)
        uncounted = seen(**half, deployed_index=None, reference_index=None)
        assert counted.causes == (Cause.CORPUS_GREW,)
        assert uncounted.causes == ()
        assert {Cause.CORPUS_GREW, Cause.CORPUS_GREW_DEPLOYED_ONLY} <= set(uncounted.open)
        assert "deployed_index" in uncounted.missing


class TestNoise:
    """Sample sizes and noise floors decide, not fixed cut-offs."""

    def test_the_floor_of_an_approximate_index_is_no_move(self):
        """Lists that differ as much as the accepted stack differs from itself have not moved."""
        floor = Sample(0.9, 150, 0.1)
        assert seen(deployed_probes=replace(STILL, now=floor, known=floor, floor=floor)).causes == (Cause.NOTHING,)

    def test_few_queries_need_a_larger_fall(self):
        """Recall .93 after .98 is chance on 10 queries of sd .1 and a fact on 1,000."""

        def fell(n):
            return seen(recall=RecallCheck(Sample(0.93, n, 0.1), Sample(0.98, n, 0.1))).causes

        assert fell(10) == (Cause.NOTHING,)
        assert fell(1_000) == (Cause.RECALL_FELL,)

    def test_a_certain_but_immaterial_fall_is_not_named(self):
        """Recall .975 after .980 on a million queries is what rebuilding a graph does."""
        recall = RecallCheck(Sample(0.975, 10**6, 0.05), Sample(0.98, 10**6, 0.05))
        assert seen(recall=recall).causes == (Cause.NOTHING,)

    def test_stale_vectors_of_the_accepted_state_are_its_floor(self):
        """Documents edited since they were indexed are not new if there were as many at acceptance."""
        assert seen(stored=StoredCheck(400, 12, 3, 0, 0, 400, 10, 3)).causes == (Cause.NOTHING,)

    def test_a_sample_without_spread_is_taken_at_its_widest(self):
        """Without a standard deviation that of a coin with the same mean is used: .8 of 20 is not below .96."""
        unknown = replace(STILL, known=Sample(0.8, 20), floor=Sample(0.96, 20))
        assert seen(deployed_probes=replace(unknown, now=unknown.known)).causes == (Cause.NOTHING,)

    @pytest.mark.parametrize("check", [StoredCheck(3, 2, 0, 0, 0, 400), StoredCheck(400, 8, 8, 0, 0, 400)])
    def test_a_few_bad_vectors_are_a_suspicion(self, check):
        """Two of three, or eight of 400, are too few to name a fault and too many to rule it out."""
        result = seen(stored=check)
        assert result.causes == ()
        assert set(result.open) == {Cause.VECTORS_CORRUPTED if check.low else Cause.VERSIONS_MIXED}
        assert f"{check.bad} of {check.documents} stored vectors" in result.summary

    def test_z_shares_the_error_among_the_gauges(self):
        """One percent over eleven two-sided gauges is 3.32 standard errors."""
        assert Thresholds().z == pytest.approx(3.317, abs=1e-3)
        assert Thresholds(error=0.001).z > Thresholds().z

    @pytest.mark.parametrize("bad", [{"error": 0.0}, {"error": 1.0}, {"material": 0.0}, {"material_live": -1.0}])
    def test_impossible_thresholds_are_refused(self, bad):
        """A threshold that every or no measurement meets is an error, not a setting."""
        with pytest.raises(ValueError, match="must"):
            Thresholds(**bad)


class TestCountStored:
    """The check of stored vectors."""

    @staticmethod
    def vectors(n=300, dimension=48):
        """Give vectors in a narrow cone: any two have a cosine of about 0.8."""
        rng = np.random.default_rng(5)
        raw = 2.0 + rng.normal(0.0, 1.0, (n, dimension))
        return raw / np.linalg.norm(raw, axis=1, keepdims=True)

    def test_equal_vectors_agree_at_any_length(self):
        """A store that keeps other lengths or less precision holds the same vectors."""
        vectors = self.vectors()
        assert count_stored(3.0 * vectors.astype(np.float16), vectors) == StoredCheck(300, 0, 0)

    def test_vectors_of_other_documents_are_unrelated_even_in_a_narrow_cone(self):
        """Exchanged vectors have a cosine of 0.8 with their document and are nevertheless not its vectors."""
        vectors = self.vectors()
        stored = vectors.copy()
        stored[:40] = vectors[np.roll(np.arange(40), 1)]
        check = count_stored(stored, vectors)
        # By chance a vector is among the 1 % closest to its document: P(more than 3 of 40) = .0006.
        assert check.bad == 40
        assert check.low >= 37

    def test_vectors_of_a_related_version_are_off_but_related(self):
        """What a re-trained encoder gives is closer to its document than to others."""
        vectors = self.vectors()
        older = vectors + 0.03 * np.random.default_rng(6).normal(0.0, 1.0, vectors.shape)
        check = count_stored(older, vectors)
        assert (check.bad, check.low) == (300, 0)

    @pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
    def test_vectors_without_a_direction_are_unrelated(self, value):
        """Zeros and what is not a number count as lost vectors."""
        vectors = self.vectors()
        stored = vectors.copy()
        stored[:5] = value
        check = count_stored(stored, vectors)
        assert (check.bad, check.low) == (5, 5)

    def test_another_dimension_disagrees_altogether(self):
        """Vectors of another dimension are of another model."""
        assert count_stored(self.vectors(dimension=32), self.vectors()) == StoredCheck(300, 300, 300)

    def test_new_documents_are_counted_apart(self):
        """Known and new documents are told apart, and the accepted counts come along."""
        vectors = self.vectors()
        stored = vectors.copy()
        stored[:30] *= -1.0
        check = count_stored(stored, vectors, is_new=np.arange(300) < 50, accepted=StoredCheck(200, 4, 2))
        assert check == StoredCheck(300, 30, 30, 50, 30, 200, 4, 2)

    def test_numbers_that_do_not_fit_are_refused(self):
        """Each document needs one stored vector and one encoding."""
        with pytest.raises(ValueError, match="one of each"):
            count_stored(self.vectors(), self.vectors(n=10))
        with pytest.raises(ValueError, match="one of each"):
            count_stored(np.empty((0, 4)), np.empty((0, 4)))

    @pytest.mark.parametrize(
        "counts",
        [
            (10, 3, 4),
            (10, 11, 0),
            (0, 0, 0),
            (10, 3, 1, 4, None),
            (10, 3, 1, 4, 5),
            (10, 8, 1, 5, 0),
            (10, 0, 0, None, None, 5, 6),
        ],
    )
    def test_impossible_counts_are_refused(self, counts):
        """A part is never larger than its whole."""
        with pytest.raises(ValueError, match=r"<=|together"):
            StoredCheck(*counts)


# The synthetic world. The answer sheet: what was done, and the name that it must get.

EVENTS = {
    world.nothing: Cause.NOTHING,
    world.encoder_nudged: Cause.ENCODER_CHANGED_SLIGHTLY,
    world.encoder_swapped: Cause.ENCODER_SWAPPED,
    world.prompt_lost: Cause.QUERY_SIDE_CHANGED,
    world.vectors_corrupted: Cause.VECTORS_CORRUPTED,
    world.versions_mixed: Cause.VERSIONS_MIXED,
    world.recall_fell: Cause.RECALL_FELL,
    world.mix_shifted: Cause.MIX_SHIFTED,
    world.corpus_grew: Cause.CORPUS_GREW,
    world.corpus_grew_deployed: Cause.CORPUS_GREW_DEPLOYED_ONLY,
    world.documents_lost: Cause.DOCUMENTS_LOST,
    world.reference_changed: Cause.REFERENCE_CHANGED,
    world.upgraded: Cause.REINDEX_COMPLETE,
    world.upgrade_halfway: Cause.REINDEX_INCOMPLETE,
    world.new_topic: Cause.OUTSIDE_PROBES,
    world.terse_queries: Cause.OUTSIDE_PROBES,
}
SINGLES = [(event,) for event in EVENTS]
PAIRS = [
    (world.encoder_nudged, world.corpus_grew),
    (world.versions_mixed, world.recall_fell),
    (world.vectors_corrupted, world.mix_shifted),
    (world.recall_fell, world.reference_changed),
    (world.mix_shifted, world.corpus_grew_deployed),
    (world.encoder_nudged, world.reference_changed),
    (world.prompt_lost, world.documents_lost),
    (world.upgrade_halfway, world.mix_shifted),
    (world.recall_fell, world.new_topic),
    (world.vectors_corrupted, world.corpus_grew),
]
BY_CLUSTERS = [world.nothing, world.mix_shifted, world.terse_queries, world.new_topic]
EVERY_DAY = SINGLES + PAIRS[:4]
"""The worlds outside the nightly run, one seed and `FEW` live queries each."""
SINGLE_SEEDS, PAIR_SEEDS, QUIET_SEEDS = 20, 10, 60
FEW = 1_000


def name_of(events):
    """Give a readable name of what was done."""
    return "+".join(event.__name__ for event in events)


def answer(events):
    """Give the causes that must be named."""
    return {EVENTS[event] for event in events}


@lru_cache(maxsize=32)
def accepted(seed, live_queries):
    """Calibrate one healthy world."""
    rng = np.random.default_rng([20_100, seed])
    return world.accept(world.new_system(rng), rng, live_queries)


@cache
def evidence(events, seed, live_queries=world.LIVE, *, clustered=False):
    """Let things happen to one world and read the gauges; the generator is numbered by place, not by cause."""
    rng = np.random.default_rng([20_200, seed, (SINGLES + PAIRS).index(events)])
    before = accepted(seed, live_queries)
    after = reduce(lambda system, event: event(system, rng), events, before.system)
    return world.measure(before, after, rng, live_queries, clustered=clustered)


def without(given, names):
    """Give the evidence without the measurements of dotted names."""
    for name in names:
        outer, _, inner = name.partition(".")
        part = getattr(given, outer)
        if not inner or part is None:
            given = replace(given, **{outer: None})
        elif name == "stored.new_documents":
            given = replace(given, stored=replace(part, new_documents=None, new_bad=None))
        else:
            given = replace(given, **{outer: replace(part, **{inner: None})})
    return given


MEASUREMENTS = [field.name for field in fields(Evidence) if field.name not in {"clustered", "missing"}]
PARTS = [
    *MEASUREMENTS,
    *(f"{side}_probes.{part}" for side in ("deployed", "reference") for part in ("known", "new_share", "gone_share")),
    *(f"{side}_index.{part}" for side in ("deployed", "reference") for part in ("documents", "rebuilt")),
    "stored.new_documents",
]


@pytest.mark.slow
class TestWorld:
    """The synthetic retrieval world, one seed here, all seeds nightly."""

    @pytest.mark.parametrize("events", EVERY_DAY, ids=name_of)
    def test_names_what_happened(self, events):
        """In one world every single cause and every pair is named exactly."""
        assert set(attribute(evidence(events, 0, FEW)).causes) == answer(events)

    @pytest.mark.parametrize("dropped", PARTS)
    def test_a_missing_measurement_never_gives_a_wrong_cause(self, dropped):
        """Without one measurement the answer stays right, or what is not named is open for the lack of it."""
        for events in EVERY_DAY:
            truth, result = answer(events), attribute(without(evidence(events, 0, FEW), [dropped]))
            assert set(result.causes) <= truth, name_of(events)
            if set(result.causes) != truth:
                assert truth - set(result.causes) - {Cause.NOTHING} <= set(result.open), name_of(events)
                roots = {need.partition(".")[0] for need in result.missing}
                assert dropped.partition(".")[0] in roots, name_of(events)
                assert all(need in result.summary for need in result.missing) or result.causes, name_of(events)

    @settings(max_examples=100, deadline=None)
    @given(
        events=st.sampled_from(EVERY_DAY),
        dropped=st.sets(st.sampled_from(PARTS), min_size=2, max_size=len(PARTS)),
    )
    def test_no_set_of_missing_measurements_gives_a_wrong_cause(self, events, dropped):
        """Whatever is missing, only true causes are named and the others of the truth are open."""
        truth, result = answer(events), attribute(without(evidence(events, 0, FEW), dropped))
        assert set(result.causes) <= truth
        assert truth - set(result.causes) - {Cause.NOTHING} <= set(result.open)
        if not result.causes:
            assert result.missing or result.unexplained

    @pytest.mark.nightly
    @pytest.mark.timeout(3_600)
    def test_bar_single_causes(self):
        """Single causes are named exactly in at least 95 % of the worlds, and each in at least 80 %.

        The first is the bar; the second keeps one cause from paying for the others: 16 of 20 is two standard
        errors below 95 %.
        """
        right = confusion(SINGLES, SINGLE_SEEDS)
        total = sum(right.values())
        print(f"\nsingle causes: {total} of {SINGLE_SEEDS * len(SINGLES)}")
        assert total >= 0.95 * SINGLE_SEEDS * len(SINGLES)
        assert min(right[events] for events in SINGLES) >= 16

    @pytest.mark.nightly
    @pytest.mark.timeout(3_600)
    def test_bar_pairs_of_causes(self):
        """Pairs of causes are named exactly in at least 90 % of the worlds."""
        total = sum(confusion(PAIRS, PAIR_SEEDS).values())
        print(f"\npairs: {total} of {PAIR_SEEDS * len(PAIRS)}")
        assert total >= 0.9 * PAIR_SEEDS * len(PAIRS)

    @pytest.mark.nightly
    @pytest.mark.timeout(3_600)
    def test_bar_quiet_worlds(self):
        """In quiet worlds some cause is named about as rarely as `Thresholds.error` says.

        Each world errs with probability at most .01 (Bonferroni), so more than 3 of 60 have probability
        1 - sum_(i<=3) C(60, i) .01^i .99^(60-i) = .003.
        """
        seeds = range(1_000, 1_000 + QUIET_SEEDS)
        wrong = sum(attribute(evidence((world.nothing,), seed)).causes != (Cause.NOTHING,) for seed in seeds)
        print(f"\nquiet worlds with a cause: {wrong} of {QUIET_SEEDS}")
        assert wrong <= 3

    @pytest.mark.nightly
    @pytest.mark.timeout(3_600)
    @pytest.mark.parametrize("event", BY_CLUSTERS, ids=lambda event: event.__name__)
    def test_clusters_do_where_the_service_names_no_slices(self, event):
        """With clusters of query vectors as strata no retriever is accused, and what happened is named or open.

        Clusters are coarser than slices: where a part of a new topic falls into known ones, the mix has shifted too.
        """
        truth, named = EVENTS[event], Counter()
        for seed in range(SINGLE_SEEDS):
            result = attribute(evidence((event,), seed, clustered=True))
            named[result.summary] += 1
            assert set(result.causes) <= {truth, Cause.MIX_SHIFTED, Cause.OUTSIDE_PROBES}
            assert {truth, Cause.MIX_SHIFTED} & {*result.causes, *result.open}
        print(f"\n{event.__name__} by clusters: {dict(named)}")


def confusion(cases, seeds):
    """Attribute every case in every world, print what was named instead, and count the exact answers."""
    right = Counter()
    for events in cases:
        named = Counter()
        for seed in range(seeds):
            result = attribute(evidence(events, seed))
            right[events] += set(result.causes) == answer(events)
            named[", ".join(sorted(result.causes)) or "cannot tell"] += 1
        print(f"\n{name_of(events)}: {dict(named)}", end="")
    return right


@st.composite
def any_evidence(draw):
    """Draw evidence that need not fit together: gauges may fail too."""
    share = st.floats(0.0, 1.0)
    sample = st.builds(Sample, share, st.integers(1, 1_000), st.none() | st.floats(0.0, 0.5))
    encoder = st.builds(EncoderCheck, st.booleans(), st.booleans(), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
    count = st.none() | st.integers(0, 10_000)
    index = st.builds(IndexCheck, count, count, st.none() | st.booleans())
    probes = st.builds(
        ProbeCheck, sample, sample, st.none() | sample, st.none() | share, st.none() | share, st.none() | share
    )
    low, bad = sorted(draw(st.lists(st.integers(0, 400), min_size=2, max_size=2)))
    new = draw(st.integers(0, 400))
    new_bad = draw(st.integers(max(0, bad - (400 - new)), min(bad, new)))
    stored = st.just(StoredCheck(400, bad, low)) | st.just(StoredCheck(400, bad, low, new, new_bad))
    change = st.floats(-0.3, 0.3)
    split = st.builds(live, change, change, change, share, st.integers(0, 20))
    return Evidence(
        deployed_encoder=draw(st.none() | encoder),
        reference_encoder=draw(st.none() | encoder),
        deployed_index=draw(st.none() | index),
        reference_index=draw(st.none() | index),
        stored=draw(st.none() | stored),
        recall=draw(st.none() | st.builds(RecallCheck, sample, sample)),
        deployed_probes=draw(st.none() | probes),
        reference_probes=draw(st.none() | probes),
        live=draw(st.none() | split),
        clustered=draw(st.booleans()),
    )


EXCLUSIVE = [
    {
        Cause.ENCODER_CHANGED_SLIGHTLY,
        Cause.ENCODER_SWAPPED,
        Cause.QUERY_SIDE_CHANGED,
        Cause.REINDEX_COMPLETE,
        Cause.REINDEX_INCOMPLETE,
    },
    {Cause.ENCODER_CHANGED_SLIGHTLY, Cause.ENCODER_SWAPPED, Cause.VERSIONS_MIXED},
    {Cause.CORPUS_GREW, Cause.CORPUS_GREW_DEPLOYED_ONLY},
]


class TestAnyEvidence:
    """What holds for any evidence, also for gauges that contradict each other."""

    @settings(max_examples=100, deadline=None)
    @given(any_evidence())
    def test_an_answer_is_consistent(self, given_evidence):
        """Causes that exclude each other are never named together, "nothing" only alone, and no name has a reason."""
        result = attribute(given_evidence)
        named = set(result.causes)
        assert result == attribute(given_evidence)
        assert all(len(named & group) <= 1 for group in EXCLUSIVE)
        if Cause.NOTHING in named:
            assert named == {Cause.NOTHING}
            assert not result.open
            assert not result.unexplained
        if not named:
            assert len(result.summary) > len("cannot tell, because ")
        assert all(one.supports for one in result.findings if one.holds)
        assert all(one.contradicts for one in result.findings if one.holds is False)
