"""Fixed queries held against themselves: exact arithmetic, honest p-values, and when the rule pages (bars 15, 16)."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sidecar.drift.paired import (
    NoiseFloor,
    compare_paired,
    condense,
    generalise,
    mcnemar,
    noise_floor,
    ranking_hash,
    sign_flip,
)
from sidecar.drift.paired_watch import PairedRule, PairedWatch

HOUR = 3_600.0
REPLAY = 300.0
FORTNIGHT = 14 * 24 * 12
"""Replays of two weeks, one every five minutes."""

cents = st.lists(st.integers(-100, 100), max_size=9)
reals = st.lists(st.floats(-1, 1).filter(lambda x: x == 0 or abs(x) > 1e-6), max_size=9)


def by_hand(differences):
    """P(sum of +-|d| <= sum d) over all sign patterns, written out."""
    sizes = [abs(d) for d in differences]
    patterns = list(itertools.product([-1, 1], repeat=len(sizes)))
    low = [sum(s * x for s, x in zip(signs, sizes, strict=True)) <= sum(differences) + 1e-9 for signs in patterns]
    return sum(low) / len(patterns)


@settings(max_examples=100, deadline=None)
@given(cents)
def test_differences_on_a_grid_get_their_exact_p_value(differences):
    """The convolution gives the share of all sign patterns that are at least as low."""
    found = sign_flip([d / 100 for d in differences])
    assert found.p == pytest.approx(by_hand(differences), rel=1e-12)
    assert found.method == ("grid" if any(differences) else "unmoved")


@settings(max_examples=100, deadline=None)
@given(reals)
def test_few_differences_get_their_exact_p_value(differences):
    """The two halves together give the share of all sign patterns that are at least as low."""
    assert sign_flip(differences).p == pytest.approx(by_hand(differences), abs=1e-12)


def test_the_three_ways_agree():
    """A factor changes no p-value, but takes the differences off the grid: 30 are then enumerated, 200 drawn.

    The standard error of a share p over 99,999 draws is sqrt(p / 99,999); four of them and the added 1 are allowed.
    """
    d = np.random.default_rng(1).integers(-60, 51, size=200) / 100
    grid, enumerated = sign_flip(d[:30]), sign_flip(d[:30] * math.pi / 4)
    assert (grid.method, enumerated.method) == ("grid", "enumeration")
    assert enumerated.p == pytest.approx(grid.p, rel=1e-9)
    grid, drawn = sign_flip(d), sign_flip(d * math.pi / 4)
    assert (grid.method, drawn.method) == ("grid", "monte_carlo")
    assert 0.001 < grid.p < 0.5
    assert abs(drawn.p - grid.p) <= 4 * math.sqrt(grid.p / 99_999) + 1e-5


def test_a_random_p_value_repeats():
    """The same differences and seed give the same p-value, another seed another one near it."""
    d = np.random.default_rng(2).normal(-0.02, 0.1, size=100)
    assert sign_flip(d) == sign_flip(d)
    assert sign_flip(d, seed=1).p not in (sign_flip(d).p, 1.0)


def test_when_all_of_many_fall_the_p_value_is_tiny_and_exact():
    """200 queries that all lost .05 have p = 2^-200; no random test could say so."""
    assert sign_flip([-0.05] * 200).p == pytest.approx(2.0**-200, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 20))
def test_no_change_is_exactly_zero(values, replays):
    """Equal rankings give effect 0, no moved ranking and p = 1, also against a floor without jitter."""
    floor = noise_floor([values] * (replays + 1))
    result = compare_paired(floor.level, values, floor=floor)
    assert (result.effect, result.moved, result.sign_flip.p, result.jitter) == (0.0, 0, 1.0, None)
    assert floor.level == tuple(values)
    assert floor.smallest_fall() == 0.0


def test_a_comparison_counts_what_it_says():
    """Queries without a value are left out; effect, moved rankings and the relative effect are those of the rest."""
    result = compare_paired([0.5, 1.0, 0.5, math.nan], [0.4, 1.0, math.nan, 1.0], moved=[True, True, True, False])
    assert (result.n, result.missing, result.moved) == (2, 2, 2)
    assert result.effect == pytest.approx(-0.05)
    assert result.relative == pytest.approx(-0.05 / 0.75)
    assert compare_paired([0.5, 1.0], [0.4, 1.0]).moved == 1


def test_without_data_there_is_no_result():
    """No query with both values, and a mean of zero: nothing to say, no exception."""
    assert compare_paired([], []) is None
    assert compare_paired([math.nan], [1.0]) is None
    assert compare_paired([0.0, 0.0], [0.0, 0.0]).relative is None
    assert noise_floor([[1.0, 0.5]]) is None
    assert noise_floor(np.zeros((5, 0))) is None


def test_arguments_that_do_not_fit_are_refused():
    """One entry per query, one floor entry per query, finite replays, one answer per pair."""
    with pytest.raises(ValueError, match="one entry per query"):
        compare_paired([1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="one entry per query"):
        compare_paired([1.0, 1.0], [1.0, 1.0], moved=[True])
    with pytest.raises(ValueError, match="noise floor has 2"):
        compare_paired([1.0], [1.0], floor=noise_floor([[1.0, 1.0], [1.0, 0.9]]))
    with pytest.raises(ValueError, match="not finite"):
        noise_floor([[1.0], [math.nan]])
    with pytest.raises(ValueError, match="replays, queries"):
        noise_floor([1.0, 0.9])
    with pytest.raises(ValueError, match="one entry per pair"):
        mcnemar([True], [True, False])


def test_condensed_lists_keep_the_order_and_drop_what_was_unknown():
    """Documents that came after the labels do not push labelled ones down."""
    assert condense(["new", "b", "newer", "a"], {"a", "b", "c"}) == ("b", "a")


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_a_ranking_hash_knows_ids_and_order(one, other):
    """Two rankings have the same hash exactly when they are the same list of ids."""
    assert (ranking_hash(one) == ranking_hash(other)) == (one == other)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_is_the_sign_flip_test_of_yes_and_no(pairs):
    """Answers as 0 and 1 have differences of -1, 0 and 1, and flipping their signs is McNemar's binomial."""
    before, now = [a for a, _ in pairs], [b for _, b in pairs]
    found = mcnemar(before, now)
    flipped = sign_flip(np.array(now, dtype=float) - np.array(before, dtype=float))
    assert found.p == pytest.approx(flipped.p, rel=1e-9)
    assert (found.lost, found.gained) == (sum(a > b for a, b in pairs), sum(a < b for a, b in pairs))
    assert found.p <= found.p_two_sided + 1e-12 or found.lost < found.gained


def test_generalising_gives_the_t_interval_and_the_signed_rank_test():
    """Twelve differences, the interval by the textbook, and nothing at all when no query moved."""
    d = np.array([-0.2, -0.1, -0.1, 0.0, 0.0, 0.05, -0.3, 0.0, -0.15, 0.02, -0.04, -0.08])
    found = generalise(d)
    half = 2.200985 * d.std(ddof=1) / math.sqrt(12)  # t(.975) with 11 degrees of freedom, from a table
    assert (found.lower, found.upper) == pytest.approx((d.mean() - half, d.mean() + half), rel=1e-6)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(d, zero_method="zsplit", alternative="less").pvalue)
    assert found.wilcoxon_p < 0.05
    still = generalise([0.0] * 50)
    assert (still.n, still.wilcoxon_p, still.lower, still.upper) == (50, 1.0, None, None)


def test_the_noise_floor_follows_the_formula():
    """200 queries that jitter by .08 with probability 2 %: a mean fall of .01 has probability exp(-25)."""
    floor = NoiseFloor(replays=10**9, level=(0.7,) * 200, variance=0.02 * 0.08**2, jump=0.08)
    assert math.log(floor.p_value(-0.01, 200)) == pytest.approx(
        -200 * 0.01**2 / (2 * (0.000128 + 0.08 * 0.01 / 3)), rel=1e-6
    )
    assert floor.p_value(0.0, 200) == 1.0
    assert floor.p_value(-floor.smallest_fall(0.001), 200) == pytest.approx(0.001, rel=1e-9)


@pytest.mark.parametrize(("share", "size", "bias"), [(0.02, 0.08, 0.5), (0.2, 0.1, 1.0), (0.5, 0.03, 0.8)])
def test_jitter_rarely_passes_for_a_fall(share, size, bias):
    """A floor of 20 replays calls the jitter of the 21st a fall in at most 5 % (1 %) of 1,000 stacks at p <= .05 (.01).

    A query jitters with probability `share` by `size`, downwards with probability `bias`. Bernstein's inequality is
    not tight and the level carries the mean of the jitter, so the shares lie far below; the bounds are the promise,
    with 3 standard errors of a share of 1,000 on top.
    """
    rng = np.random.default_rng(3)
    p = []
    for _ in range(1_000):
        jitters = rng.random((21, 200)) < share
        table = 0.7 + size * jitters * np.where(rng.random((21, 200)) < bias, -1.0, 1.0)
        floor = noise_floor(table[:20])
        p.append(floor.p_value(float((table[20] - floor.level).mean()), 200))
    for alpha in (0.05, 0.01):
        assert np.mean(np.array(p) <= alpha) <= alpha + 3 * math.sqrt(alpha / 1_000)


def test_a_fall_beyond_the_jitter_is_seen_through_it():
    """The same floor gives p <= .001 to a fall of twice the smallest visible one."""
    rng = np.random.default_rng(4)
    table = 0.7 - 0.08 * (rng.random((21, 200)) < 0.1)
    floor = noise_floor(table[:20])
    assert 0.0 < floor.smallest_fall(0.001) < 0.02
    result = compare_paired(floor.level, table[20] - 2 * floor.smallest_fall(0.001), floor=floor)
    assert result.jitter <= 0.001


# The page rule


def replay(watch, values, accepted, *, at, rule, hashes=None, floor=None):
    """Compare one replay and take it in; without hashes the values stand for the rankings."""
    return watch.look(rule, hashes or [str(v) for v in values], compare_paired(accepted, values, floor=floor), at)


def test_a_fall_pages_at_its_second_replay_and_ends_when_it_is_gone():
    """One replay is a hint, two in a row are a page; a replay of the accepted rankings ends the row."""
    rule, accepted = PairedRule(), [0.7] * 200
    fallen = [0.3] * 20 + [0.7] * 180
    watch, said = PairedWatch(), []
    for i, values in enumerate([accepted, fallen, fallen, fallen, accepted, fallen]):
        watch = replay(watch, values, accepted, at=i * REPLAY, rule=rule)
        said.append(watch.level(rule))
    assert said == ["steady", "steady", "page", "page", "steady", "steady"]
    assert watch.looks == 4


@pytest.mark.parametrize(
    ("losers", "loss", "level"),
    [(10, 0.5, "page"), (9, 0.5, "ticket"), (8, 0.5, "ticket"), (7, 0.5, "steady"), (10, 0.25, "steady")],
)
def test_a_page_needs_size_and_sureness(losers, loss, level):
    """The p of k losers alone is 2^-k: .00098 for 10, .002 for 9, .0039 for 8, .0078 for 7. -1.8 % is too small."""
    rule, accepted = PairedRule(), [0.7] * 200
    values = [0.7 - loss] * losers + [0.7] * (200 - losers)
    watch = PairedWatch()
    for i in range(2):
        watch = replay(watch, values, accepted, at=i * REPLAY, rule=rule)
    assert watch.level(rule) == level


def test_replays_of_one_state_are_never_added_up():
    """A fall too unsure for a page stays a ticket, whether it is replayed twice or for a week, and is one look."""
    rule, accepted = PairedRule(), [0.7] * 200
    values = [0.2] * 9 + [0.7] * 191
    watch = PairedWatch()
    for i in range(7 * 288):
        watch = replay(watch, values, accepted, at=i * REPLAY, rule=rule)
    assert (watch.level(rule), watch.looks) == ("ticket", 1)


def test_a_fall_that_jitter_could_explain_does_not_page():
    """With a floor whose jitter is as large as the fall the same replays stay silent."""
    rule, accepted = PairedRule(), [0.7] * 200
    values = [0.3] * 20 + [0.7] * 180
    loud = NoiseFloor(replays=20, level=tuple(accepted), variance=0.05, jump=0.7)
    watch, still = PairedWatch(), PairedWatch()
    for i in range(2):
        watch = replay(watch, values, accepted, at=i * REPLAY, rule=rule)
        still = replay(still, values, accepted, at=i * REPLAY, rule=rule, floor=loud)
    assert (watch.level(rule), still.level(rule)) == ("page", "steady")


def test_a_churning_corpus_is_held_to_the_smaller_p_value():
    """With 2 % of the rankings changing each hour p = .00098 is a ticket; .2 % change nothing, nor does one rollout.

    The values fall by the same ten queries in all three; only the hashes of rankings tell the corpora apart.
    """
    rule, accepted = PairedRule(), [0.7] * 200
    fallen = [0.2] * 10 + [0.7] * 190
    levels = []
    for per_hour, at_once in ((4, 0), (0, 0), (0, 200)):
        watch = PairedWatch()
        for hour in range(30):
            changed = per_hour * hour + (at_once if hour >= 20 else 0)
            hashes = [f"{(changed + i) // 200}" for i in range(200)]
            watch = replay(watch, fallen, accepted, at=hour * HOUR, rule=rule, hashes=hashes)
        levels.append((watch.level(rule), round(watch.churn(), 6)))
    assert levels == [("ticket", 0.02), ("page", 0.0), ("page", 0.0)]


def test_a_replay_without_values_breaks_the_row():
    """Nothing known is not a fall: the row starts anew."""
    rule, accepted = PairedRule(), [0.7] * 200
    fallen = [0.3] * 20 + [0.7] * 180
    watch = replay(PairedWatch(), fallen, accepted, at=0.0, rule=rule)
    watch = watch.look(rule, [""] * 200, None, REPLAY)
    watch = replay(watch, fallen, accepted, at=2 * REPLAY, rule=rule)
    assert watch.level(rule) == "steady"


def test_another_set_of_queries_needs_another_watch():
    """A replay with another number of queries is refused."""
    watch = PairedWatch().look(PairedRule(), ["a", "b"], None, 0.0)
    with pytest.raises(ValueError, match="start anew"):
        watch.look(PairedRule(), ["a"], None, REPLAY)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1e5)), min_size=1, max_size=12), st.data())
def test_a_restart_anywhere_says_the_same(steps, data):
    """Written as JSON and read back between any two replays, the watch ends in the identical state."""
    rule, accepted = PairedRule(), [0.7] * 40
    cut = data.draw(st.integers(0, len(steps)))
    whole = woken = PairedWatch()
    at = 0.0
    for i, (losers, gap) in enumerate(steps):
        at += gap
        values = [0.2] * losers + [0.7] * (40 - losers)
        whole = replay(whole, values, accepted, at=at, rule=rule)
        if i == cut:
            woken = PairedWatch.from_state(json.loads(json.dumps(woken.to_state())))
        woken = replay(woken, values, accepted, at=at, rule=rule)
    assert woken == whole


@pytest.mark.parametrize("broken", [{"looks": "many"}, {"hashes": None}, {"changes": [1]}])
def test_a_state_that_is_none_is_refused(broken):
    """A mapping that `to_state` cannot have given raises."""
    with pytest.raises((ValueError, TypeError)):
        PairedWatch.from_state({**PairedWatch().to_state(), **broken})


# Simulated canaries: 200 labelled queries, nDCG@10 around .7 in hundredths


def quality(rng, n=200):
    """Draw how well each query is answered: Beta(3.5, 1.5), mean .7."""
    return rng.beta(3.5, 1.5, size=n)


def version(rng, q):
    """Draw the value of one ranking of each query; two of them differ by sd .1 and are exchangeable."""
    return np.round(np.clip(q + rng.normal(0.0, 0.07, size=q.size), 0.0, 1.0), 2)


def pages_under_jitter(rng, rule, replays):
    """Replay an approximate index: each query is off by +-.08 with probability 2 %, anew each time."""
    accepted = np.round(quality(rng), 2)
    watch, paged = PairedWatch(), False
    for i in range(replays):
        off = (rng.random(accepted.size) < 0.02) * rng.choice([-0.08, 0.08], size=accepted.size)
        watch = replay(watch, accepted + off, accepted, at=i * REPLAY, rule=rule, hashes=off.astype(str).tolist())
        paged = paged or watch.level(rule) == "page"
    return paged


def pages_under_churn(rng, rules, per_hour, hours=336):
    """Redraw a share of the rankings every hour; harm and help are exactly equally likely."""
    q = quality(rng)
    accepted = version(rng, q)
    values, number = accepted.copy(), np.zeros(q.size, dtype=int)
    watches, paged = [PairedWatch() for _ in rules], [False for _ in rules]
    for hour in range(hours):
        new = rng.random(q.size) < per_hour
        values = np.where(new, version(rng, q), values)
        number += new
        result = compare_paired(accepted, values)
        for i, rule in enumerate(rules):
            # Of the twelve replays of an hour ten more would say the same.
            for minute in (0, 30):
                watches[i] = watches[i].look(rule, number.astype(str).tolist(), result, hour * HOUR + 60 * minute)
            paged[i] = paged[i] or watches[i].level(rule) == "page"
    return paged


def fallen(rng, accepted, drop, share, spread):
    """Move a share of the queries by N(-drop x mean / share, spread), as a bad re-ranking does."""
    moved = rng.permutation(accepted.size) < round(share * accepted.size)
    change = rng.normal(-drop * accepted.mean() / share, spread, size=accepted.size)
    return np.where(moved, np.round(np.clip(accepted + change, 0.0, 1.0), 2), accepted)


@pytest.mark.parametrize("runs", [1, pytest.param(12, marks=pytest.mark.nightly)])
def test_an_unchanged_exact_index_never_pages(runs):
    """Two weeks of the same rankings are one look and nothing else (bar 15, deterministic)."""
    rule = PairedRule(page_p=0.005, churning_page_p=0.005)
    for run in range(runs):
        accepted = version(np.random.default_rng(run), quality(np.random.default_rng(run)))
        result = compare_paired(accepted, accepted)
        watch, hashes = PairedWatch(), accepted.astype(str).tolist()
        for i in range(FORTNIGHT):
            watch = watch.look(rule, hashes, result, i * REPLAY)
            assert watch.level(rule) == "steady"
        assert watch.looks == 1


@pytest.mark.parametrize(("runs", "replays"), [(2, 288), pytest.param(12, FORTNIGHT, marks=pytest.mark.nightly)])
def test_a_jittering_index_never_pages(runs, replays):
    """Jitter of 2 % of the queries gives no page, even at p <= .005 (bar 15).

    The mean jitter has sd .08 sqrt(.02 / 200) = .0008; a page needs -.014, 17 of them.
    """
    rule = PairedRule(page_p=0.005, churning_page_p=0.005)
    rng = np.random.default_rng(15)
    assert not any(pages_under_jitter(rng, rule, replays) for _ in range(runs))


@pytest.mark.nightly
@pytest.mark.parametrize(("per_hour", "bar"), [(0.002, 1), (0.02, 4)])
def test_benign_churn_rarely_pages(per_hour, bar):
    """Of 40 two-week runs at most the bar's number page at p <= .001, and no more by the shipped rule (bar 15)."""
    rng = np.random.default_rng(16)
    fixed, shipped = PairedRule(churn_limit=math.inf), PairedRule()
    runs = np.array([pages_under_churn(rng, (fixed, shipped), per_hour) for _ in range(40)])
    assert runs[:, 0].sum() <= bar
    assert runs[:, 1].sum() <= runs[:, 0].sum()


def test_a_one_sided_fall_pages_by_the_second_replay():
    """-5 %, a tenth of 200 queries losing about half their value: at least 98 of 100 sets page by replay 2 (bar 16)."""
    rule, paged = PairedRule(), 0
    for run in range(100):
        rng = np.random.default_rng(1_600 + run)
        accepted = version(rng, quality(rng))
        share = 0.05 * accepted.sum()
        values = accepted.copy()
        for i in rng.permutation(accepted.size):
            if share > 0.0:
                loss = min(share, accepted[i] / 2)
                values[i] = np.round(accepted[i] - loss, 2)
                share -= loss
        watch = PairedWatch()
        for i in range(2):
            watch = replay(watch, values, accepted, at=i * REPLAY, rule=rule)
        paged += watch.level(rule) == "page"
    assert paged >= 98


@pytest.mark.parametrize(("share", "spread", "bar"), [(0.25, 0.1, 0.98), (0.5, 0.15, 0.88)])
def test_a_re_ranking_that_harms_more_than_it_helps_is_found_at_one_look(share, spread, bar):
    """-5 % with help and harm: effect <= -2 % and p <= .001 in at least the bar's share of 400 sets (bar 16)."""
    rule, found = PairedRule(replays=1), 0
    rng = np.random.default_rng(17)
    for _ in range(400):
        accepted = version(rng, quality(rng))
        watch = replay(PairedWatch(), fallen(rng, accepted, 0.05, share, spread), accepted, at=0.0, rule=rule)
        found += watch.level(rule) == "page"
    assert found / 400 >= bar
