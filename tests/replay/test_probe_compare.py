"""Frozen probes against their accepted answers: growth is not decay, loss is, and equal is exactly equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.drift.evidence import Sample
from sidecar.drift.paired import noise_floor
from sidecar.drift.probe_run import FrozenRun, WorstProbe
from sidecar.model import Ranking, Stack
from sidecar.replay.known_documents import MOST_DOCUMENTS, KnownDocuments
from sidecar.replay.probe_compare import compare_side


class Listed:
    """An index that only lists its documents."""

    def __init__(self, ids, size=None) -> None:
        self.ids = tuple(ids)
        self.size = len(self.ids) if size is None else size


class Unlisted:
    """An index that does not."""

    size = 3


def known(ids) -> KnownDocuments:
    """Remember some documents."""
    return KnownDocuments.of(Listed(ids))


def compare(accepted, now, *, then=None, today=None, k=4, floor=None):
    """Compare lists of ids, one letter a document."""
    sides = [{f"{row:032x}": Ranking(tuple(ids)) for row, ids in enumerate(lists)} for lists in (accepted, now)]
    documents = None if then is None else (known(then), known(today))
    return compare_side(*sides, k=k, floor=floor, documents=documents)[0]


def test_no_change_is_exactly_nothing():
    """Equal lists: overlap exactly 1, nothing moved, an empty state, an effect of exactly 0."""
    side = compare(["abcd", "bcde"], ["abcd", "bcde"], then="abcdef", today="abcdef")
    assert (side.moved, side.state, side.new_share, side.gone_share) == (0, "", 0.0, 0.0)
    assert side.now == side.known == side.floor == Sample(1.0, 2, 0.0)
    assert (side.paired.effect, side.paired.moved, side.paired.n) == (0.0, 0, 2)


def test_growth_moves_the_whole_lists_and_leaves_the_condensed_ones():
    """New documents push accepted ones out; of the known ones nothing is lost."""
    side = compare(["abcd", "efgh"], ["aXbc", "efgh"], then="abcdefgh", today="abcdefghX")
    assert (side.moved, side.now.mean, side.known.mean) == (1, 0.875, 1.0)
    assert (side.new_share, side.gone_share, side.paired.effect) == (0.125, 0.0, 0.0)


def test_removed_documents_move_the_whole_lists_and_leave_the_condensed_ones():
    """What moves up for a removed document is no loss, also where the index has fewer than k left."""
    side = compare(["abcd", "abce"], ["acde", "ace"], then="abcde", today="acde")
    assert (side.gone_share, side.new_share, side.known.mean) == (0.25, 0.0, 1.0)
    assert side.moved == 2


def test_a_list_that_is_short_by_itself_has_lost_what_it_lacks():
    """Only new documents excuse a short condensed list."""
    side = compare(["abcd"], ["ab"], then="abcd", today="abcd")
    assert side.known.mean == side.now.mean == 0.5


def test_a_probe_with_nothing_left_to_compare_is_missing_and_not_lost():
    """A list of new documents only says nothing about the known ones."""
    side = compare(["abcd", "efgh"], ["WXYZ", "efgh"], then="abcdefgh", today="abcdefghWXYZ")
    assert (side.known, side.paired.n, side.paired.missing) == (Sample(1.0, 1, 0.0), 1, 1)
    assert (side.now.mean, side.new_share) == (0.5, 0.5)
    alone = compare(["abcd"], ["WXYZ"], then="abcd", today="abcdWXYZ")
    assert (alone.known, alone.paired) == (None, None)


def test_without_the_documents_whole_lists_decide():
    """Where the documents were not kept, nothing is condensed and nothing said about new ones."""
    side = compare(["abcd"], ["aXbc"])
    assert (side.known, side.new_share, side.gone_share) == (None, None, None)
    assert side.paired.effect == pytest.approx(-0.25)


def test_the_state_is_that_of_the_moved_probes():
    """Another order is another state; the same rankings are the same one."""
    one = compare(["abcd", "efgh"], ["bacd", "efgh"])
    other = compare(["abcd", "efgh"], ["cbad", "efgh"])
    again = compare(["abcd", "efgh"], ["bacd", "efgh"], then="abcdefgh", today="abcdefgh")
    assert one.moved == 1
    assert one.now.mean == 1.0
    assert one.state == again.state != other.state != ""
    assert [bool(digest) for digest in one.hashes] == [True, False]


def test_an_approximate_index_is_held_against_its_own_level():
    """With jitter at acceptance the effect is against the mean level of each probe, and its chance is bounded."""
    floor = noise_floor([[1.0, 0.5], [0.5, 0.5]])
    side = compare(["abcd", "efgh"], ["abcX", "efXY"], floor=floor)
    assert side.paired.effect == pytest.approx((0.75 - 0.75 + 0.5 - 0.5) / 2)
    assert side.paired.jitter is not None
    # Levels .75 and .5: variance between probes 1/64; within, 1/8 for one probe and 0 for the other.
    assert side.floor.mean == pytest.approx(0.625)
    assert side.floor.sd == pytest.approx((1 / 64 + 1 / 16) ** 0.5)


@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(0, 8), st.integers(1, 6))
def test_growth_and_removal_alone_leave_the_condensed_lists_at_exactly_one(seed, come, go, k):
    """Whatever comes and goes: as long as the others keep their scores, known documents keep their places."""
    generator = np.random.default_rng(seed)
    names = [f"d{number}" for number in range(20)]
    then = set(generator.choice(names[:12], size=12 - min(go, 8), replace=False).tolist()) | set(names[:4])
    gone = set(generator.choice(sorted(then), size=min(go, len(then) - 1), replace=False).tolist())
    today = (then - gone) | set(names[12 : 12 + come])
    scores = {query: dict(zip(names, generator.permutation(20).tolist(), strict=True)) for query in range(5)}

    def rankings(held):
        return {
            f"{query:032x}": Ranking(tuple(sorted(held, key=lambda one: -scores[query][one])[:k])) for query in scores
        }

    side, _ = compare_side(rankings(then), rankings(today), k=k, floor=None, documents=(known(then), known(today)))
    assert side.known is None or side.known.mean == 1.0
    assert side.paired is None or side.paired.effect == 0.0


@given(st.sets(st.text(max_size=12), max_size=200), st.sets(st.text(max_size=12), max_size=50))
def test_known_documents_survive_the_way_through_bytes(ids, others):
    """Every document is known again afterwards, and others as before."""
    before = known(ids)
    after = KnownDocuments.from_bytes(before.to_bytes())
    assert np.array_equal(before.hashes, after.hashes)
    assert after.holds(sorted(ids)).all()
    # Of at most 50 others, one in 2^32 / 200 is taken for a known one.
    assert not after.holds(sorted(others - ids)).any()


def test_documents_are_kept_for_indexes_that_list_them_up_to_a_bound():
    """A larger corpus, and an index without a list, are not remembered; damaged bytes are refused."""
    assert KnownDocuments.of(Listed("abc", size=MOST_DOCUMENTS + 1)) is None
    assert KnownDocuments.of(Unlisted()) is None
    assert not known("").holds(["a"]).any()
    for content in (b"", b"nonsense", known("ab").to_bytes()[:-3]):
        with pytest.raises(ValueError, match="not a list of known documents"):
            KnownDocuments.from_bytes(content)


def run(**changes) -> FrozenRun:
    """Make a run."""
    moved = compare(["abcd", "efgh"], ["aXbc", "ehgf"], then="abcdefgh", today="abcdefghX")
    still = compare(["abcd", "efgh"], ["abcd", "efgh"])
    moved, still = replace(moved, hashes=("", *moved.hashes)), replace(still, hashes=("", "", ""))
    worst = (WorstProbe("0" * 32, 0.75, 1.0),)
    values = {
        "at": 2.5,
        "stack": Stack("a", "b", "c", "d"),
        "book": "b1",
        "accepted_at": 1.5,
        "k": 4,
        "total": 3,
        "awake": 2,
    }
    return FrozenRun(**{**values, "deployed": moved, "reference": still, "worst": worst, **changes})


def test_a_run_survives_the_way_through_json():
    """Reading gives what was written, with and without condensed lists, and evidence for attribution."""
    empty = compare(["ab"], ["XY"], then="ab", today="XY")
    for one in (
        run(),
        run(worst=(), deployed=run().reference),
        run(total=1, deployed=empty, reference=empty),
    ):
        assert FrozenRun.from_json(one.to_json()) == one
    assert (run().replayed, run().still, run().state[-1], run().deployed.hashes[0]) == (2, False, "/", "")
    check = run().deployed.check()
    assert (check.moved, check.new_share, check.known.mean, check.now.mean) == (1.0, 0.125, 1.0, 0.875)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format":0}', '{"format":1}', run().to_json().replace('"k":4,', ""), "null"]
)
def test_something_else_is_not_a_run(text):
    """Damaged content and other formats are refused."""
    with pytest.raises(ValueError, match=r"."):
        FrozenRun.from_json(text)
