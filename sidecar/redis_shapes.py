"""How observations, and runs of the frozen probes and of the canaries, are written to Redis, and read back.

What was written by somebody else, or damaged, reads as None: one bad entry must not stop those behind it.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import astuple
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sidecar.drift.canary_run import CanaryRun
from sidecar.drift.composition import PairScores
from sidecar.drift.labelled import RetrievalScores
from sidecar.drift.probe_run import FrozenRun
from sidecar.model import Observation, Stack

Scores = RetrievalScores | PairScores

_RUN = TypeAdapter(CanaryRun)
_SCORES: TypeAdapter[Scores] = TypeAdapter(Scores)


def observation_fields(one: Observation) -> list[Any]:
    """Give an observation as the values of its stream fields, in the order of the script that writes them."""
    stack = one.stack
    return [
        one.entry_id,
        repr(one.at),
        one.slice,
        repr(one.weight),
        json.dumps(
            {name: round(value, 6) for name, value in one.values.items() if math.isfinite(value)}, separators=(",", ":")
        ),
        # Without a frozen retriever the four parts that every version of this program reads.
        "|".join(astuple(stack)).rstrip("|"),
        one.session or "",
        "" if one.step is None else one.step,
        "" if one.cluster is None else one.cluster,
    ]


def frozen_run(fields: dict[bytes, bytes]) -> FrozenRun | None:
    """Read a replay of the frozen probes; None when it is something else."""
    try:
        return FrozenRun.from_json(fields[b"run"])
    except (KeyError, ValueError):
        return None


def observation(fields: dict[bytes, bytes]) -> Observation | None:
    """Read what `observation_fields` gave; None when a part is damaged, or a number is none that a replay can give."""
    try:
        values = {name: float(value) for name, value in dict(json.loads(fields[b"v"])).items()}
        at, weight = float(fields[b"t"]), float(fields[b"w"])
        if not (all(0.0 <= value <= 1.0 for value in values.values()) and math.isfinite(at) and weight >= 0.0):
            return None
        return Observation(
            entry_id=fields[b"e"].decode(),
            at=at,
            slice=fields[b"s"].decode(),
            weight=weight,
            values=values,
            stack=Stack(*fields[b"k"].decode().split("|")),
            session=fields[b"n"].decode() or None,
            step=int(fields[b"p"]) if fields[b"p"] else None,
            cluster=int(found) if (found := fields.get(b"c")) else None,  # observations of earlier versions lack it
        )
    except (KeyError, ValueError, TypeError):
        return None


def canary_run_json(run: CanaryRun) -> bytes:
    """Give a run of the canaries as JSON."""
    return _RUN.dump_json(run)


def canary_run(fields: dict[bytes, bytes]) -> CanaryRun | None:
    """Read a run of the canaries; None when it is something else."""
    try:
        return _RUN.validate_json(fields[b"run"])
    except (KeyError, ValidationError):
        return None


def scores_bytes(scores: Scores) -> bytes:
    """Give what an encoder scored on a canary set as compressed JSON."""
    return zlib.compress(_SCORES.dump_json(scores))


def scores(content: bytes) -> Scores | None:
    """Read what `scores_bytes` gave; None when it is something else."""
    try:
        return _SCORES.validate_json(zlib.decompress(content))
    except (zlib.error, ValidationError):
        return None
