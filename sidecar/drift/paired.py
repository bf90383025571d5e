"""Hold fixed queries against themselves: the same canary or frozen probe, asked at acceptance and again now.

The queries never change and the answers are deterministic, so nothing has to be estimated to say that *these*
queries got worse: no change is exactly zero, and one moved ranking is a fact at the first replay. Statistics enter
in two places only. An approximate index moves by itself (`NoiseFloor`), and whether what happened to these queries
says something about all queries is a question of sampling (`sign_flip`, `generalise`). The sample there is the
queries: replays of the same state are the same data and are never added up.

When a fall is worth a page is `paired_watch`'s business; how a metric is computed from a ranking is `relevance`'s.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

DUST = 1e-9
"""Differences up to this size are rounding of floating-point numbers and count as none."""

ENUMERATED = 32
"""Most differences whose 2^n signs are enumerated (in two halves of 2^16)."""

DRAWS = 99_999
"""Sign patterns of the Monte Carlo test: its smallest p-value is 1e-5, and p = .001 is known to about 10 %."""

SignFlipMethod = Literal["unmoved", "grid", "enumeration", "monte_carlo"]


def condense(ranking: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """Drop the documents that were unknown when the labels were made, keeping the order.

    On full lists a growing corpus looks like decay: a new document above a labelled one costs nDCG although nobody
    judged it. After the condensed lists of Sakai, "Alternatives to Bpref", SIGIR 2007. `known` should be a set.
    """
    return tuple(name for name in ranking if name in known)


def ranking_hash(ranking: Iterable[str]) -> str:
    """Give a digest of the ids in their order (16 hexadecimal digits); other ids or another order, another digest."""
    digest = hashlib.blake2b(digest_size=8)
    for name in ranking:
        data = name.encode()
        # The length first, so that ("a", "bc") and ("ab", "c") differ.
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """What an approximate index does to a metric by itself (A/A): the same stack asked several times."""

    replays: int
    level: tuple[float, ...]
    """Mean of each query over the replays: the value to compare with, which takes the mean of the noise off."""
    variance: float
    """Variance of one query between replays, averaged over the queries."""
    jump: float
    """Largest distance between two values of one query."""

    def p_value(self, effect: float, n: int) -> float | None:
        """Bound the probability that jitter alone gives a mean difference of `effect` or lower over n queries.

        Bernstein's inequality for n independent centred values of mean variance v that are at least -r:

            P(mean <= -g) <= exp(-n g^2 / (2 (v (1 + 1/J) + r g / 3)))

        1/J is the error of `level` itself, a mean of J replays. v and r are estimates: a jitter rarer than once in
        all the replays has not been seen and is not covered, which is why a page asks for two replays in a row.
        None when the replays never differed: an index without jitter has no floor.
        """
        if self.jump <= 0.0:
            return None
        if effect >= 0.0:
            return 1.0
        variance = self.variance * (1.0 + 1.0 / self.replays)
        return exp(-n * effect**2 / (2.0 * (variance - self.jump * effect / 3.0)))

    def smallest_fall(self, p: float = 0.001) -> float:
        """Give the smallest mean fall for which `p_value` is at most p; 0 for an index without jitter."""
        n, nats = len(self.level), log(1.0 / p)
        linear = nats * self.jump / 3.0
        return (linear + sqrt(linear**2 + 2.0 * n * nats * self.variance * (1.0 + 1.0 / self.replays))) / n


def noise_floor(replays: ArrayLike) -> NoiseFloor | None:
    """Measure the jitter of J replays of n queries on the accepted stack; None with fewer than two replays or no query.

    Args:
        replays: values (J, n), one row per replay; every one a number. 20 replays see a jitter of one query in 400.

    Raises:
        ValueError: not a table, or a value is not finite.

    """
    table = np.asarray(replays, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"replays have shape {table.shape}; the rule is (replays, queries)")
    if not np.isfinite(table).all():
        raise ValueError("a replayed value is not finite; leave that query out of all replays")
    if table.shape[0] < 2 or not table.shape[1]:
        return None
    still = np.ptp(table, axis=0) <= DUST
    # A query that stands still keeps its value to the last bit, which a mean of equal numbers need not.
    level = np.where(still, table[0], table.mean(axis=0))
    return NoiseFloor(
        replays=table.shape[0],
        level=tuple(level.tolist()),
        variance=float(np.where(still, 0.0, table.var(axis=0, ddof=1)).mean()),
        jump=float(np.where(still, 0.0, np.ptp(table, axis=0)).max()),
    )


@dataclass(frozen=True, slots=True)
class SignFlip:
    """A one-sided sign-flip test for a fall."""

    p: float
    method: SignFlipMethod
    """`grid` and `enumeration` are exact; `monte_carlo` is valid, and exact up to its number of draws."""


def sign_flip(differences: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> SignFlip:
    """Test whether the differences (n,) fall more than chance signs would: p = P(sum of +-|d_i| <= sum d_i).

    The null says that a change that moves a query is as likely to help as to harm it, each query by itself
    (Fisher's randomisation test, "The Design of Experiments", 1935). Zeros say nothing about signs and drop out. It
    needs a value that can go both ways: the self-overlap of frozen probes starts at its top, so there p only says how
    many fell; and noise with a preferred direction is the business of `NoiseFloor`, not of signs.

    The sum of differences is low exactly when the losses, the |d_i| whose sign is negative, are large; their sum is
    what is counted, over all 2^n patterns:

    * differences on a grid of hundredths: its distribution is convolved one difference at a time, for any n;
    * up to 32 others: all patterns, by sorting the sums of one half and looking those of the other up;
    * else `draws` random patterns from `seed`, p = (b + 1) / (draws + 1) with b of them at least as low, which is a
      valid p-value for any number of draws (Phipson and Smyth, SAGMB 9(1), 2010).
    """
    d = np.asarray(differences, dtype=np.float64)
    d = d[np.abs(d) > DUST]
    if not d.size:
        return SignFlip(1.0, "unmoved")
    sizes = np.abs(d)
    cents = np.rint(100.0 * sizes)
    if (np.abs(100.0 * sizes - cents) <= 100.0 * DUST).all():
        whole = cents.astype(np.int64)
        return SignFlip(_grid_tail(whole, int(whole[d < 0.0].sum())), "grid")
    # Sums that are equal but for rounding count as at least as low.
    lost = float(sizes[d < 0.0].sum()) - DUST
    if d.size <= ENUMERATED:
        return SignFlip(_enumerated_tail(sizes, lost), "enumeration")
    return SignFlip((_random_tail(sizes, lost, draws, seed) + 1) / (draws + 1), "monte_carlo")


def _grid_tail(sizes: NDArray[np.int64], lost: int) -> float:
    """Give P(sum of a random half of the sizes >= lost) for whole numbers."""
    step = int(np.gcd.reduce(sizes))
    mass = np.zeros(int(sizes.sum()) // step + 1)
    mass[0], top = 1.0, 0
    for size in (sizes // step).tolist():
        mass[: top + 1] *= 0.5
        shifted = mass[: top + 1].copy()
        top += size
        mass[size : top + 1] += shifted
    return min(1.0, float(mass[lost // step :].sum()))


def _enumerated_tail(sizes: Floats, lost: float) -> float:
    def sums(part: Floats) -> Floats:
        found = np.zeros(1)
        for size in part:
            found = np.concatenate([found, found + size])
        return found

    half = sizes.size // 2
    one, other = sums(sizes[:half]), np.sort(sums(sizes[half:]))
    below = np.searchsorted(other, lost - one, side="left")
    return float((other.size - below).sum()) / (one.size * other.size)


def _random_tail(sizes: Floats, lost: float, draws: int, seed: int) -> int:
    rng = np.random.default_rng(seed)
    count = 0
    for start in range(0, draws, 4_096):
        rows = min(4_096, draws - start)
        packed = rng.integers(0, 256, size=(rows, -(-sizes.size // 8)), dtype=np.uint8)
        harmed = np.unpackbits(packed, axis=1, count=sizes.size)
        count += int((harmed @ sizes >= lost).sum())
    return count


@dataclass(frozen=True, slots=True)
class PairedResult:
    """One replay of fixed queries held against their accepted values."""

    n: int
    """Queries that have a value both times."""
    missing: int
    """Queries without one (NaN), left out of everything."""
    moved: int
    """Queries whose ranking moved, if it is known, else whose value did."""
    before: float
    """Accepted mean."""
    effect: float
    """Mean difference, exact for this set of queries; exactly 0 when nothing changed."""
    sign_flip: SignFlip
    """Against "harm and help are equally likely"."""
    jitter: float | None
    """Bound on the probability of such a fall from index noise alone; None without a noise floor."""

    @property
    def relative(self) -> float | None:
        """Effect relative to the accepted mean; None where that is not positive."""
        return self.effect / self.before if self.before > 0.0 else None


def compare_paired(
    before: ArrayLike,
    now: ArrayLike,
    *,
    moved: ArrayLike | None = None,
    floor: NoiseFloor | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> PairedResult | None:
    """Compare each query's value now with its accepted one; None when no query has both.

    Args:
        before: accepted values (n,), NaN where a query has none; `floor.level` where the index is approximate.
        now: values of this replay (n,).
        moved: whether each ranking differs from the accepted one (n,) booleans, say from `ranking_hash`.
        floor: jitter of the accepted stack on these n queries.
        draws: as in `sign_flip`.
        seed: as in `sign_flip`.

    Raises:
        ValueError: the lengths differ.

    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(now, dtype=np.float64)
    flags = None if moved is None else np.asarray(moved, dtype=bool)
    sizes = [old.shape, new.shape] + ([] if flags is None else [flags.shape])
    if old.ndim != 1 or len(set(sizes)) > 1:
        raise ValueError(f"before, now and moved have shapes {sizes}; the rule is one entry per query")
    if floor is not None and len(floor.level) != old.size:
        raise ValueError(f"the noise floor has {len(floor.level)} queries and the replay {old.size}")
    there = ~(np.isnan(old) | np.isnan(new))
    if not there.any():
        return None
    d = new[there] - old[there]
    d[np.abs(d) <= DUST] = 0.0
    effect = float(d.mean())
    return PairedResult(
        n=int(there.sum()),
        missing=int((~there).sum()),
        moved=int(np.count_nonzero(d) if flags is None else flags[there].sum()),
        before=float(old[there].mean()),
        effect=effect,
        sign_flip=sign_flip(d, draws=draws, seed=seed),
        jitter=None if floor is None else floor.p_value(effect, int(there.sum())),
    )


@dataclass(frozen=True, slots=True)
class Generalisation:
    """What the differences of these queries say about all queries like them."""

    n: int
    wilcoxon_p: float
    """One-sided signed-rank test for a fall; 1 when nothing moved."""
    lower: float | None
    """Interval for the mean difference of the population; None when nothing moved or n < 2: one of zero width would
    claim that no query can move."""
    upper: float | None


def generalise(differences: ArrayLike, alpha: float = 0.05) -> Generalisation:
    """Carry paired differences (n,) over to the population: Wilcoxon signed-rank, and a t interval for the mean.

    The ranks of zeros are shared between the signs (`zsplit`): most canaries do not move, and without them the test
    would be one of the moved queries alone. Both take n as the number of queries, whatever the number of replays.
    For the review; the pager uses the sign-flip test.
    """
    from scipy import stats  # noqa: PLC0415  (slow to import, and only the review needs it)

    d = np.asarray(differences, dtype=np.float64)
    interval = mean_interval(d, alpha)
    if interval is None:
        return Generalisation(d.size, 1.0, None, None)
    # Ranks see through rounding: differences that are equal must be equal.
    ranked = stats.wilcoxon(np.round(d, 9), zero_method="zsplit", alternative="less")
    return Generalisation(d.size, float(ranked.pvalue), *interval)


def mean_interval(differences: ArrayLike, alpha: float = 0.05) -> tuple[float, float] | None:
    """Give the t interval for the population's mean difference; None when nothing moved or n < 2.

    Alone it costs nothing: the signed-rank test beside it takes a second where scipy enumerates up to 50 differences.
    """
    from scipy import special  # noqa: PLC0415  (as above)

    d = np.asarray(differences, dtype=np.float64)
    if d.size < 2 or (np.abs(d) <= DUST).all():
        return None
    half = float(special.stdtrit(d.size - 1, 1.0 - alpha / 2.0)) * float(d.std(ddof=1)) / sqrt(d.size)
    return float(d.mean()) - half, float(d.mean()) + half


@dataclass(frozen=True, slots=True)
class McNemar:
    """The exact McNemar test of paired yes-or-no answers (minimal pairs)."""

    n: int
    lost: int
    """Right before, wrong now."""
    gained: int
    """Wrong before, right now."""
    p: float
    """One-sided, for a fall."""
    p_two_sided: float


def mcnemar(before: ArrayLike, now: ArrayLike) -> McNemar:
    """Test whether more answers were lost than gained: lost ~ Binomial(lost + gained, 1/2) under the null.

    Args:
        before: whether each pair was told apart at acceptance (n,) booleans.
        now: the same, now.

    Raises:
        ValueError: the lengths differ.

    """
    from scipy import stats  # noqa: PLC0415  (as above)

    was, is_now = np.asarray(before, dtype=bool), np.asarray(now, dtype=bool)
    if was.shape != is_now.shape:
        raise ValueError(f"before and now have shapes {was.shape} and {is_now.shape}; the rule is one entry per pair")
    lost, gained = int((was & ~is_now).sum()), int((~was & is_now).sum())
    if not lost + gained:
        return McNemar(was.size, 0, 0, 1.0, 1.0)
    one, two = (
        float(stats.binomtest(lost, lost + gained, 0.5, alternative=side).pvalue) for side in ("greater", "two-sided")
    )
    return McNemar(was.size, lost, gained, one, two)
