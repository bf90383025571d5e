"""Time `sidecar.overlap.compare` per query, held against an obvious implementation in the same process.

Run: python -m benchmarks.overlap (or python benchmarks/overlap.py). It prints microseconds per query, which
belong to the machine, and the ratio to the obvious implementation, which mostly does not. Rankings share
about half of their documents, in unrelated order. Each figure is the best of several rounds, the two sides
alternating.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sidecar.overlap import compare

ROUNDS = 5
P = 0.9


def obvious(left: list[str], right: list[str], k: int) -> tuple[float, ...]:
    """Compute the same six measures for one pair with sets, prefix by prefix and pair by pair."""
    a, b = list(dict.fromkeys(left))[:k], list(dict.fromkeys(right))[:k]
    if not a or not b:
        alike = float(not a and not b)
        return alike, alike, alike, alike, alike, math.nan
    both = set(a) & set(b)
    short, long = sorted((a, b), key=len)
    s, depth = len(short), len(long)
    x = [len(set(a[:d]) & set(b[:d])) for d in range(depth + 1)]
    seen = sum(x[d] / d * P**d for d in range(1, depth + 1))
    assumed = sum(x[s] * (d - s) / (s * d) * P**d for d in range(s + 1, depth + 1))
    rbo = (1 - P) / P * (seen + assumed) + ((x[-1] - x[s]) / depth + x[s] / s) * P**depth
    head = sum((x[d] - x[-1]) * P**d / d for d in range(1, depth + 1))
    rbo_min = (1 - P) / P * (head - x[-1] * math.log(1 - P))
    tau = math.nan
    if len(both) > 1:
        in_a, in_b = [name for name in a if name in both], [name for name in b if name in both]
        tau = (direction(in_a, in_b) + direction(in_b, in_a)) / 2
    return len(both) / depth, len(both) / len({*a, *b}), rbo, rbo_min, float(a[0] == b[0]), tau


def direction(order: list[str], truth: list[str]) -> float:
    """Compute the AP correlation of one order against the other."""
    place = {name: rank for rank, name in enumerate(truth)}
    total = sum(sum(place[up] < place[here] for up in order[:i]) / i for i, here in enumerate(order) if i)
    return 2 / (len(order) - 1) * total - 1


def measure(k: int, batch: int) -> tuple[float, float]:
    """Return seconds per query of `compare` and of `obvious`, and fail if they disagree."""
    generator = np.random.default_rng(k * batch)
    names = np.array([f"document-{number:06d}" for number in range(2 * k)])
    left, right = ([generator.permutation(names)[:k].tolist() for _ in range(batch)] for _ in range(2))
    few = min(batch, max(8, 3200 // k))
    found = compare(left, right, k=k, p=P)
    columns = (found.overlap, found.jaccard, found.rbo, found.rbo_min, found.top1, found.tau_ap)
    fast = np.stack(columns, axis=1)
    slow = [obvious(a, b, k) for a, b in zip(left[:few], right[:few], strict=True)]
    np.testing.assert_allclose(fast[:few], slow, atol=1e-12)

    repeat, again = max(1, 256 // batch), max(1, 64 // few)
    ours, theirs = math.inf, math.inf
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(repeat):
            compare(left, right, k=k, p=P)
        ours = min(ours, (time.perf_counter() - start) / (repeat * batch))
        start = time.perf_counter()
        for _ in range(again):
            for a, b in zip(left[:few], right[:few], strict=True):
                obvious(a, b, k)
        theirs = min(theirs, (time.perf_counter() - start) / (again * few))
    return ours, theirs


def main() -> None:
    """Print the table."""
    print(f"{'k':>5} {'batch':>6} {'compare':>14} {'obvious':>14} {'ratio':>8}")
    for k in (10, 100):
        for batch in (1, 64, 1024):
            ours, theirs = measure(k, batch)
            print(f"{k:>5} {batch:>6} {ours * 1e6:>8.1f} us/query {theirs * 1e6:>8.1f} {ours / theirs:>8.3f}")


if __name__ == "__main__":
    main()
