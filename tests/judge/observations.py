"""Seeded observations for the judge's tests: a beta-binomial law of overlaps, with a drop from a point on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sidecar.judge.options import JudgeOptions
from sidecar.model import Observation, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNAL = "overlap@10"
HOUSE = Stack("encoder-a", "index-a", "encoder-r", "index-r")
SHIPPED = Stack("encoder-b", "index-b", "encoder-r", "index-r")
START = 1_790_000_000.0
STEP = 300.0


def options(**changes: object) -> JudgeOptions:
    """Give options with a short calibration: 1,000 queries, 400 for a slice, one day."""
    values = {"signals": (SIGNAL,), "min_queries": 1000, "min_slice_queries": 400, "min_days": 1.0, **changes}
    return JudgeOptions(**values)  # type: ignore[arg-type]


def stream(
    count: int,
    *,
    seed: int,
    drop_from: int | None = None,
    keep: float = 0.6,
    shipped_from: int | None = None,
    only: str | None = None,
) -> Iterator[tuple[str, Observation]]:
    """Yield observations of two slices; from `drop_from` on each shared neighbour survives with probability `keep`.

    `only` limits the drop to one slice. The stack is `SHIPPED` from `shipped_from` on.
    """
    rng = np.random.default_rng(seed)
    mean = (0.62 - 0.25) / 0.75
    for i in range(count):
        name = "legal" if rng.random() < 0.5 else "support"
        shared = 10 if rng.random() < 0.25 else int(rng.binomial(10, rng.beta(mean * 4, (1 - mean) * 4)))
        if drop_from is not None and i >= drop_from and only in (None, name):
            shared = int(rng.binomial(shared, keep))
        yield (
            f"{i + 1}-0",
            Observation(
                entry_id=f"{i + 1}-5",
                at=START + i * STEP,
                slice=name,
                weight=1.0,
                values={SIGNAL: shared / 10},
                stack=SHIPPED if shipped_from is not None and i >= shipped_from else HOUSE,
            ),
        )
