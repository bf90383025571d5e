"""The planner's predictions against the detector itself, and against what can be worked out by hand.

Bar 19: predicted / measured median delay lies in .7 .. 1.4 over a grid of 45 cells (3 worlds x 3 sizes of calibration
x 5 falls) for a whole stream and for one of 20 slices. The constant of the planner was fitted to other streams (seed
9100). 200 streams per cell: a delay's standard deviation is at most its median, so a measured median is off by about
1.25 / sqrt(200) = 9 %.

A cell is held to the bar where the planner gives a 90 % quantile. Where it says that the fall is not assured, one
baseline in ten lies too low for the fall ever to be seen, and the median hangs on the luck of the baselines; where it
says never, there is no median. Both are held to what they say.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.drift.baseline import margin
from sidecar.drift.esr import DROPS
from sidecar.drift.planner import (
    Pager,
    _beta_law,
    assumed_channel,
    calibration_needed,
    delay,
    growth,
    queries_per_day_needed,
    resized,
    smallest_visible_drop,
    traffic_for,
    visible,
)
from tests.pure.drift.streams import (
    ATOMS,
    BURSTS,
    IID,
    Streams,
    base_law,
    baseline_of,
    first_pages,
    frozen_law,
    mean_of,
    stacked,
    thin,
    tilt,
)

WORLDS = {
    "iid": (base_law(), tilt, IID, (0.05, 0.10, 0.20, 0.30, 0.40)),
    "bursts": (base_law(), tilt, BURSTS, (0.05, 0.10, 0.20, 0.30, 0.40)),
    "frozen": (frozen_law(), thin, IID, (0.01, 0.02, 0.05, 0.10, 0.20)),
}
WHOLE, SLICE = 0.5, 0.5 / 20


def measure(world, calibration, drop, weight, *, seed, count=200):
    """Give the measured delays (count,), and the planner's for each measured baseline and for the nominal one."""
    law, changed, environment, _ = WORLDS[world]
    rng = np.random.default_rng(seed + 1)
    change = environment.per_day + rng.integers(0, environment.per_day, size=count)
    streams = Streams(law, environment, count, seed, changed=changed(law, drop), change_at=calibration + change)
    baselines = [baseline_of(atoms, environment.per_day) for atoms in streams.draw(calibration)]
    pager = Pager(26.0, weight)
    channels = [baseline.channels[0] for baseline in baselines]
    planned = [delay(channel, drop, environment.per_day, pager) for channel in channels]
    mean = mean_of(law)
    nominal = assumed_channel(
        calibration,
        mean=mean,
        sd=math.sqrt(law @ (ATOMS / 10 - mean) ** 2),
        kappa=float(np.median([channel.kappa for channel in channels])),
    )
    expected = delay(nominal, drop, environment.per_day, pager)
    limit = int(min(30_000, 6 * expected.median if expected else 30_000))
    pages = first_pages(
        streams, stacked(baselines), 2 * environment.per_day + limit, pager.weeks / weight, stop_when_all=True
    )
    found = np.where(pages < 0, np.inf, pages - change + 1)
    return found[found > 0], planned, expected


def held_to_its_word(world, calibration, drop, weight, *, seed):
    """Assert what the planner says about one cell."""
    measured, planned, expected = measure(world, calibration, drop, weight, seed=seed)
    assert measured.size >= 195
    median = np.median(measured)
    cell = f"{world} {calibration} {drop:.0%} {weight:g}"
    if expected is None:
        # A page in 30,000 queries (2 weeks of 26 x 20) may still be a false one.
        assert math.isinf(median), cell
        return
    if expected.p90 is None:
        # At least 5 of 100 are not found in six medians: a share of .1 among 200 falls below that with p < .01.
        assert np.isinf(measured).mean() >= 0.05, cell
        return
    from_baselines = np.median([math.inf if one is None else one.median for one in planned])
    print(f"{cell}: {expected.median / median:.2f} {from_baselines / median:.2f} "
          f"by p90 {np.mean(measured <= expected.p90):.3f}")  # fmt: skip
    assert 0.7 <= expected.median / median <= 1.4, cell
    assert 0.7 <= from_baselines / median <= 1.4, cell


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "calibration", "drop"),
    [("iid", 14_000, 0.10), ("iid", 2_000, 0.40), ("bursts", 14_000, 0.20), ("frozen", 14_000, 0.05)],
)
def test_predicted_delays_are_near_the_measured_ones(world, calibration, drop):
    """Four cells of the grid, in every run (bar 19)."""
    held_to_its_word(world, calibration, drop, WHOLE, seed=190)


@pytest.mark.nightly
@pytest.mark.parametrize("weight", [WHOLE, SLICE], ids=["whole", "slice"])
@pytest.mark.parametrize("calibration", [2_000, 14_000, 50_000])
@pytest.mark.parametrize("world", list(WORLDS))
def test_predicted_delays_are_near_the_measured_ones_over_the_grid(world, calibration, weight):
    """All cells (bar 19)."""
    for drop in WORLDS[world][3]:
        held_to_its_word(world, calibration, drop, weight, seed=191)


STUDY = {
    0.02: (2_276_855, 348_137, 88_267, 33_013, 17_015),
    0.03: (569_577, 87_080, 22_075, 8_255, 4_254),
    0.05: (142_758, 21_816, 5_527, 2_066, 1_064),
    0.10: (28_588, 4_359, 1_101, 410, 211),
    0.20: (6_791, 1_026, 256, 94, 48),
    0.40: (1_985, 291, 69, 24, 12),
}
"""Queries a day that the study behind docs/statistics.md gives for a page within 1 h, 6 h, 1 d, 3 d and 7 d."""
WITHIN = (1 / 24, 1 / 4, 1.0, 3.0, 7.0)


STUDY_SD = math.sqrt(base_law() @ (ATOMS / 10 - mean_of(base_law())) ** 2)
"""0.3172: the table calls it .32 and was computed with all digits."""


def study_days(drop):
    """Delay in days by the study's formula: one bet at its best, the plain normal margin, tolerance 1 % of the mean."""

    def days(queries_per_day):
        e = 0.62 * (drop - 0.01) - 2.326348 * STUDY_SD * math.sqrt(1.6 / (7 * queries_per_day))
        if e <= 0:
            return math.inf
        g = e * e / (2 * (1.6 * STUDY_SD**2 + e * e))
        height = math.log(26 * 7 * queries_per_day * 2 * g) - 0.94
        return height / g / queries_per_day if height > 0 else math.inf

    return days


@pytest.mark.parametrize("drop", STUDY)
def test_the_solver_gives_the_table_of_the_study_from_the_formula_of_the_study(drop):
    """All 30 entries within rounding; the constant .94 is rounded too, which moves the large ones by a few 1e-4."""
    found = [traffic_for(study_days(drop), within) for within in WITHIN]
    assert found == pytest.approx(STUDY[drop], rel=5e-4, abs=1)


@pytest.mark.parametrize("drop", STUDY)
def test_the_planner_asks_for_more_than_the_study_and_less_than_twice_as_much(drop):
    """The study's formula, taken for the detector that runs, is too quick.

    It had one channel of weight 1 and its constant was -0.94; ten bets over three channels need about 1.6 more of a
    height of 7 to 15, 10 to 25 %. The margin has one more term, loss (1 - .01^(kappa / n)), which is 1 to 2 % of the
    mean at the smallest calibrations here (84 to 500 queries) and counts twice. The smallest bet is made for 1 % of the
    mean and gains from half of it on, which costs where the fall less the margin is about 1 %: at -2 %. For -40 %
    the true growth is above the quadratic one, which takes back 5 % at most (the 1 h entry).
    """
    channel = assumed_channel(14_000)
    found = [queries_per_day_needed(channel, drop, within, Pager()) for within in WITHIN]
    ratios = np.array(found) / STUDY[drop]
    assert ratios.min() >= 0.95
    assert ratios.max() <= 2.0


@given(st.floats(0.01, 0.99), st.floats(0.01, 500.0))
def test_the_quadrature_has_the_moments_of_the_beta_law(mean, concentration):
    """Three raw moments, in closed form: products of (a + i) / (a + b + i)."""
    values, mass = _beta_law(mean, concentration)
    a, moment = mean * concentration, 1.0
    assert mass.sum() == pytest.approx(1.0)
    for i in range(3):
        moment *= (a + i) / (concentration + i)
        assert mass @ values ** (i + 1) == pytest.approx(moment, rel=1e-8)


@pytest.mark.parametrize("drop", [0.02, 0.025, 0.03])
def test_small_falls_grow_as_the_quadratic_formula_says(drop):
    """Between .74 and 1.16 of e^2 / (2 (kappa sd^2 + e^2)), for an e between two stakes.

    Neighbouring stakes differ by 60^(1/9) = 1.576, so the best one is off by a factor of 1.256 at most and keeps
    1 - .256^2 = .934 of the growth. The variance after the fall is at most 1.02 of the one before it, which takes
    .02 x 1.256^2 = .03 off. With stakes up to .15 the terms from the cubic one on are at most .15 / (3 x .85^3) =
    .08 of y^2, .16 of the growth (y^2 / 2), and can have either sign.
    """
    channel = assumed_channel(1_000_000, kappa=1.0)
    e = channel.lower - (1 - drop) * channel.mean
    assert 1.256 * e >= DROPS[0] * channel.lower
    assert 1.256 * e / channel.sd**2 <= 0.15
    found = growth(channel, drop)
    assert 0.74 <= found.rate / (e * e / (2 * (channel.sd**2 + e * e))) <= 1.16


channels = st.builds(
    lambda mean, spread, kappa, n: assumed_channel(n, mean=mean, sd=spread * math.sqrt(mean * (1 - mean)), kappa=kappa),
    st.floats(0.05, 0.99),
    st.floats(0.05, 0.95),
    st.floats(1.0, 10.0),
    st.integers(100, 200_000),
)


@settings(max_examples=40)
@given(channels, st.floats(0.01, 0.9), st.floats(1.01, 1.5), st.floats(10, 1e6))
def test_worse_falls_are_found_earlier_and_a_smaller_say_makes_it_later(channel, drop, factor, traffic):
    """The median moves with the size of the fall and the weight, in the right direction."""
    pager = Pager(26.0, 0.5)
    small, large = (delay(channel, size, traffic, pager) for size in (drop, min(1.0, factor * drop)))
    if small is None:
        return
    assert large.median <= small.median * (1 + 1e-9)
    assert delay(channel, drop, traffic, Pager(26.0, 0.05)).median > small.median
    if small.p90 is not None:
        assert small.p90 > small.median


@settings(max_examples=25, deadline=None)
@given(channels, st.floats(0.02, 0.9), st.sampled_from([1 / 24, 1.0, 30.0]), st.sampled_from([0.0, 5_000.0]))
def test_the_traffic_needed_is_just_enough(channel, drop, within, least):
    """At the traffic given the median is within the time, at 1 % less it is not, and more is never slower."""
    pager = Pager()
    needed = queries_per_day_needed(channel, drop, within, pager, min_queries=least)
    if needed is None or needed <= 1:
        return

    def days(traffic):
        found = delay(resized(channel, max(least, 7 * traffic)), drop, traffic, pager)
        return math.inf if found is None else found.median / traffic

    assert days(needed) <= within
    assert days(0.99 * needed) > within
    course = [days(needed * factor) for factor in (0.5, 1.0, 2.0, 10.0, 100.0)]
    assert course == sorted(course, reverse=True)


@settings(max_examples=25, deadline=None)
@given(channels)
def test_the_smallest_visible_drop_divides_seen_from_unseen(channel):
    """Just above it a bet gains, just below it none does; it is more than the margin and the tolerance together."""
    least = smallest_visible_drop(channel)
    if least is None:
        assert growth(channel, 1.0) is None
        return
    assert growth(channel, min(1.0, least * 1.001)) is not None
    assert growth(channel, least * 0.999) is None
    discount = margin(channel.sd, channel.loss, channel.kappa, channel.n, 0.01) + channel.tolerance
    assert least * channel.mean > discount


@pytest.mark.parametrize("drop", [0.02, 0.03, 0.05, 0.20])
def test_the_calibration_needed_is_the_smallest_after_which_a_fall_is_seen(drop):
    """With it the fall is visible, with one query less it is not."""
    channel = assumed_channel(14_000)
    n = calibration_needed(channel, drop)
    assert growth(resized(channel, n), drop) is not None
    assert growth(resized(channel, n - 1), drop) is None


def test_a_fall_inside_the_tolerance_is_never_seen():
    """No traffic and no calibration is enough for -1 %, where the tolerance alone is 1.03 % of the mean."""
    channel = assumed_channel(14_000)
    assert calibration_needed(channel, 0.01) is None
    assert queries_per_day_needed(channel, 0.01, 30.0, Pager()) is None
    assert [sight.delay is None for sight in visible(channel, 1e6, Pager(), (0.01, 0.20))] == [True, False]


def test_a_perfect_reference_without_spread_is_planned_with_the_slowest_law():
    """Scores that are all 1 have no law to learn: the worst one, on {0, 1}, makes the prediction."""
    perfect = baseline_of(np.full(14_000, 10), 2_000).channels[0]
    assert (perfect.mean, perfect.sd) == (1.0, 0.0)
    found = growth(perfect, 0.05)
    # A bet of stake 1 / d gains log(1 + m / d) with probability .05, and loses -log(1 - (1 - m) / d) else.
    m = perfect.lower
    stakes = np.minimum(1 / (m * DROPS), 0.95 / (1 - m))
    best = max(0.05 * np.log1p(stakes * m) + 0.95 * np.log1p(-stakes * (1 - m)))
    assert found.rate == pytest.approx(best, rel=0.01)


def test_a_channel_that_cannot_fall_is_not_watched():
    """With a null mean of 0 nothing is visible."""
    channel = assumed_channel(20, mean=0.05, sd=0.05, kappa=10.0)
    assert channel.lower == 0.0
    assert smallest_visible_drop(channel) is None
    assert delay(channel, 0.5, 2_000, Pager()) is None


def test_an_assumed_baseline_is_what_a_calibration_of_such_scores_gives():
    """Mean, spread and null of 14,000 queries lie within four standard errors of the assumed ones.

    The mean's error is sd / sqrt(n) = .0027; that of the sd is below it for scores in [0, 1], and the null moves with
    both, through sd by 2.33 / sqrt(n) + .02 = .04 only. kappa of independent queries is 1 at best and its estimate from
    84 two-hour batches and fewer is below 1.5, which lowers the null by another .0014.
    """
    law = base_law()
    sd = math.sqrt(law @ (ATOMS / 10 - mean_of(law)) ** 2)
    assumed = assumed_channel(14_000, mean=mean_of(law), sd=sd, kappa=1.0)
    measured = baseline_of(Streams(law, IID, 1, 4).draw(14_000)[0], 2_000).channels[0]
    error = 4 * sd / math.sqrt(14_000)
    assert abs(measured.mean - assumed.mean) <= error
    assert abs(measured.sd - assumed.sd) <= error
    assert abs(measured.lower - assumed.lower) <= error + 0.0014
    assert measured.loss == pytest.approx(assumed.loss, rel=0.1)


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: assumed_channel(100, mean=1.0), "mean"),
        (lambda: assumed_channel(100, sd=0.49), "standard deviation"),
        (lambda: assumed_channel(100, kappa=0.9), "kappa"),
        (lambda: assumed_channel(100, tolerance=-1), "tolerance"),
        (lambda: assumed_channel(0), "calibration"),
        (lambda: Pager(weeks=0), "weeks"),
        (lambda: Pager(weight=1.5), "weight"),
        (lambda: growth(assumed_channel(100), 0.0), "drop"),
        (lambda: delay(assumed_channel(100), 0.1, 0.0, Pager()), "queries per day"),
        (lambda: queries_per_day_needed(assumed_channel(100), 0.1, math.nan, Pager()), "time"),
    ],
)
def test_numbers_outside_their_range_are_refused(call, rule):
    """The message names the number."""
    with pytest.raises(ValueError, match=rule):
        call()
