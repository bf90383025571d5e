"""What one value costs: ours, one detector of one signal and slice, and a thousand of them; and the peers.

Ours is `sidecar.drift.esr.step`, the function that the judge calls, with its dataclass per value. The peers are called
as their users would, in their own environments, in the same run on the same machine. Times are processor times, which
other work on the machine moves less than the clock's.
"""

from __future__ import annotations

import json
import pickle
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from ask import ask, write
from series import CALIBRATION, PER_DAY, WORLDS, null

from sidecar.drift.esr import Bets, bets, evidence, initial_state, step
from tests.pure.drift.streams import DAY, ORIGIN, baseline_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ONE_BY_ONE = ("river", "frouros")
MANY = (100, 1_000, 10_000)


def measure(peers: Sequence[Any], folder: Path, values: int) -> dict[str, Any]:
    """Give microseconds per value and bytes of state of each detector, and how ours grows with their number."""
    sample = null(WORLDS[0], 1, values, seed=1)
    levels = (sample.live[0].astype(int) * 10).tolist()
    found = bets(baseline_of(sample.reference[0], PER_DAY))
    state = initial_state(found)
    start = time.process_time()
    for place, level in enumerate(levels):
        state = step(found, state, level, ORIGIN + (CALIBRATION + place) * DAY / PER_DAY)
    taken = time.process_time() - start
    start = time.process_time()
    for _ in range(2_000):
        evidence(found, state)
    looked = (time.process_time() - start) / 2_000
    rows = {
        "ours": {
            "microseconds": taken / values * 1e6,
            "bytes": len(pickle.dumps(state)),
            "bytes as JSON": len(json.dumps(state.to_state())),
            "microseconds to read the evidence": looked * 1e6,
        }
    }
    file = folder / "cost.npz"
    write(file, sample.reference, sample.change, {"null": sample.live})
    for peer in peers:
        if peer.library in ONE_BY_ONE:
            count = values if peer.detector != "KSWIN" else min(values, 3_000)
            rows[peer.label] = ask(peer.library, file, [{"detector": peer.detector, "cost": count}])["answers"][0]
        else:
            job = {"detector": peer.detector, "settings": [peer.default], "streams": 1}
            answer = ask(peer.library, file, [job])["answers"][0]
            rows[peer.label] = {"microseconds": answer["seconds"] / answer["values"] * 1e6, "bytes": None}
    return {"values": values, "detectors": rows, "growth": growth(found)}


def growth(found: Bets) -> dict[str, float]:
    """Give milliseconds for one value in each of so many detectors, fastest of three rounds each."""
    rng = np.random.default_rng(2)
    rounds: dict[str, float] = {}
    for many in MANY:
        states = [initial_state(found) for _ in range(many)]
        levels = (10 * rng.integers(0, 11, size=many)).tolist()
        best = float("inf")
        for turn in range(3):
            at = ORIGIN + turn * 60.0
            start = time.process_time()
            states = [step(found, state, level, at) for state, level in zip(states, levels, strict=True)]
            best = min(best, time.process_time() - start)
        rounds[str(many)] = best * 1e3
    return rounds
