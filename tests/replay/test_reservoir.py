"""The reservoir: a uniform sample of distinct queries, the same in every order, within its bounds."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.replay.reservoir import FEW, Reservoir, Sampled

DAY = 86_400.0


def query(number: int, name: str = "default") -> Sampled:
    """Make a query with the digest that a keyed hash would give."""
    return Sampled(hashlib.sha256(f"{number}".encode()).hexdigest()[:32], f"text {number}", name)


def filled(size: int, queries, *, at=DAY, **options) -> Reservoir:
    """Fill a reservoir."""
    reservoir = Reservoir(size, **options)
    for one in queries:
        reservoir.add(one, at)
    return reservoir


@given(st.lists(st.integers(0, 60), max_size=200), st.randoms(use_true_random=False), st.integers(1, 40))
def test_order_and_repetition_have_no_say(numbers, generator, size):
    """The same distinct queries give the same sample, whatever their order and however often they repeat."""
    shuffled = numbers * 2
    generator.shuffle(shuffled)
    one, other = filled(size, map(query, numbers)), filled(size, map(query, shuffled))
    assert one.draw(size) == other.draw(size)
    assert len(one.draw(size)) == min(size, len(set(numbers)))


def test_rare_and_frequent_queries_are_as_likely():
    """Of 4,000 distinct queries, half of them asked ten times, the sample has as many of either half."""
    numbers = [*range(4000), *[number for number in range(2000) for _ in range(9)]]
    drawn = filled(1000, map(query, numbers)).draw(1000)
    frequent = sum(int(one.text.split()[1]) < 2000 for one in drawn)
    # Hypergeometric, 1,000 of 4,000: mean 500, sd sqrt(1000 x 1/4 x 3000/3999) = 13.7; four of them.
    assert abs(frequent - 500) <= 4 * 13.7


def test_slices_are_there_in_proportion_and_the_rare_one_with_a_few():
    """A slice with 30 % of the distinct queries has about 30 % of the sample, one with 0.2 % has its few."""
    names = ["large"] * 698 + ["middle"] * 300 + ["rare"] * 2
    queries = [query(number, names[number % 1000]) for number in range(10_000)]
    drawn = filled(500, queries).draw(500)
    counts = {name: sum(one.slice == name for one in drawn) for name in set(names)}
    assert len(drawn) == 500
    assert counts["rare"] >= FEW
    # Binomial, 500 x 0.3: mean 150, sd 10.2; four of them, and FEW places go to the rare slice first.
    assert abs(counts["middle"] - 150) <= 4 * 10.2 + FEW


def test_what_only_the_floor_let_in_represents_its_slice_alone():
    """Queries without weight are no part of the whole stream's sample."""
    reservoir = filled(100, map(query, range(1000)))
    for number in range(1000, 2000):
        reservoir.add(query(number, "quiet"), DAY, whole=False)
    drawn = reservoir.draw(100)
    assert sum(one.slice == "quiet" for one in drawn) == FEW
    assert len(drawn) == 100


def test_memory_is_bounded_by_size_and_slices():
    """However many queries come by, at most 2 x (size + slices x few) texts are held."""
    reservoir = Reservoir(50, period_seconds=DAY)
    for number in range(20_000):
        reservoir.add(query(number, f"slice {number % 7}"), at=10 * DAY + number * 4.0)
    bound = 2 * (50 + 7 * FEW)
    assert len(reservoir) <= bound
    assert len(reservoir.texts()) <= bound


def test_old_traffic_is_forgotten_after_a_second_period():
    """Queries of the present period and the one before are drawn, older ones and late ones of older periods are not."""
    reservoir = Reservoir(100, period_seconds=DAY)
    for day in range(4):
        for number in range(20):
            reservoir.add(query(100 * day + number), at=day * DAY)
    reservoir.add(query(999), at=0.0)
    assert {int(one.text.split()[1]) // 100 for one in reservoir.draw(100)} == {2, 3}
    reservoir.add(query(500), at=9 * DAY)  # after a silence of a whole period nothing of before is left
    assert [one.text for one in reservoir.draw(100)] == ["text 500"]


def test_two_periods_together_are_one_sample():
    """What is drawn from two periods is what one period with all of the queries would give."""
    two = Reservoir(50, period_seconds=DAY)
    for number in range(400):
        two.add(query(number), at=DAY * (number % 2))
    assert two.draw(50) == filled(50, map(query, range(400)), at=0.0).draw(50)


def test_what_is_there_already_is_not_drawn_again():
    """Drawing without some digests goes on with the next smallest."""
    reservoir = filled(100, map(query, range(100)))
    first = reservoir.draw(40)
    rest = reservoir.draw(100, without=frozenset(one.digest for one in first))
    assert len(rest) == 60
    assert max(one.digest for one in first) < min(one.digest for one in rest)


def test_no_room_is_refused_and_text_is_not_shown():
    """A reservoir has room, and a sampled query's text is in no repr."""
    with pytest.raises(ValueError, match="at least 1"):
        Reservoir(0)
    assert "text 7" not in repr(query(7))
