"""Hold the answers of one retriever to the frozen probes against its accepted ones.

A corpus that grows pushes accepted documents out of the top k, and that is no decay. So lists are also compared
condensed: the accepted list without the documents that are gone, today's without those that were unknown, both only as
deep as the shorter one goes. Growth and removal alone then leave exactly 1, without searching deeper than k. Only new
documents excuse a short list: an answer that is shorter than the accepted one by itself has lost what it lacks.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sidecar import overlap
from sidecar.drift.evidence import Sample
from sidecar.drift.paired import compare_paired, ranking_hash
from sidecar.drift.probe_run import FrozenRun, ProbeSide, WorstProbe
from sidecar.replay.probe_book import SIDES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sidecar.drift.paired import NoiseFloor
    from sidecar.model import Ranking, Stack
    from sidecar.replay.known_documents import KnownDocuments
    from sidecar.replay.probe_book import AtRest, Book, Side

    Floats = NDArray[np.float64]
    Answers = Mapping[str, Ranking]
    """The ranking of each probe, by the digest of its text."""

WORST = 10


def self_overlap(accepted: Sequence[Ranking], now: Sequence[Ranking], k: int) -> Floats:
    """Give overlap@k of each ranking with its accepted one, (n,)."""
    return overlap.compare([one.ids for one in accepted], [one.ids for one in now], k=k).overlap


def compare_run(
    book: Book,
    answers: Mapping[Side, Answers],
    today: Mapping[Side, KnownDocuments | None],
    *,
    at: float,
    stack: Stack,
    awake: int,
) -> FrozenRun:
    """Compare today's answers of both sides, at least one probe of each, with those of the book.

    `today` lists what the indexes hold now, as far as that is known. A probe that has no answer of one side is left
    out.
    """
    there = answers["deployed"].keys() & answers["reference"].keys()
    rows = [row for row, one in enumerate(book.probes) if one.digest in there]
    probes = [book.probes[row] for row in rows]
    sides, overlaps = {}, {}
    for side in SIDES:
        at_rest: AtRest = getattr(book, side)
        then, now = at_rest.documents, today.get(side)
        sides[side], overlaps[side] = compare_side(
            {one.digest: getattr(one, side) for one in probes},
            {one.digest: answers[side][one.digest] for one in probes},
            k=book.k,
            floor=_of_probes(at_rest.floor, rows),
            documents=None if then is None or now is None else (then, now),
        )
        hashes = dict(zip(rows, sides[side].hashes, strict=True))
        sides[side] = replace(sides[side], hashes=tuple(hashes.get(row, "") for row in range(len(book.probes))))
    pairs = zip(overlaps["deployed"].tolist(), overlaps["reference"].tolist(), strict=True)
    lost = sorted((*pair, one.digest) for one, pair in zip(probes, pairs, strict=True) if min(pair) < 1.0)
    return FrozenRun(
        at=at,
        stack=stack,
        book=book.id,
        accepted_at=book.accepted_at,
        k=book.k,
        total=len(book.probes),
        awake=awake,
        worst=tuple(WorstProbe(digest, deployed, reference) for deployed, reference, digest in lost[:WORST]),
        **sides,
    )


def compare_side(
    accepted: Answers,
    now: Answers,
    *,
    k: int,
    floor: NoiseFloor | None,
    documents: tuple[KnownDocuments, KnownDocuments] | None,
) -> tuple[ProbeSide, Floats]:
    """Compare the probes of one side; give also the overlap@k of each, (n,).

    Args:
        accepted: the accepted ranking of each probe, by digest.
        now: today's, of the same probes in the same order; at least one.
        k: depth.
        floor: the jitter at acceptance of these probes, in this order; None if there was none.
        documents: what the index held at acceptance and what it holds now; None if either is not known.

    """
    before, after = list(accepted.values()), list(now.values())
    whole = self_overlap(before, after, k)
    moved = [one.ids != other.ids for one, other in zip(before, after, strict=True)]
    known, new_share, gone_share = None, None, None
    if documents is not None:
        known, new_share, gone_share = _condensed(before, after, *documents, k=k)
    values = whole if known is None else known
    level = np.ones(len(values)) if floor is None else np.array(floor.level)
    side = ProbeSide(
        moved=sum(moved),
        now=_sample(whole),
        floor=_floor_sample(floor, len(values)),
        known=None if known is None or np.isnan(known).all() else _sample(known[~np.isnan(known)]),
        new_share=new_share,
        gone_share=gone_share,
        paired=compare_paired(level, values, moved=moved, floor=floor),
        hashes=tuple(ranking_hash(one.ids) if has else "" for one, has in zip(after, moved, strict=True)),
    )
    return side, whole


def _of_probes(floor: NoiseFloor | None, rows: Sequence[int]) -> NoiseFloor | None:
    """Give the floor of some of the probes."""
    return None if floor is None else replace(floor, level=tuple(floor.level[row] for row in rows))


def _condensed(
    before: Sequence[Ranking], after: Sequence[Ranking], then: KnownDocuments, today: KnownDocuments, *, k: int
) -> tuple[Floats, float, float]:
    """Give the overlap of the condensed lists (NaN with nothing left to compare), and the shares of new and gone."""
    held = _split(today.holds([one for ranking in before for one in ranking.ids]), before)
    was_known = _split(then.holds([one for ranking in after for one in ranking.ids]), after)
    lefts = [_kept(ranking, flags) for ranking, flags in zip(before, held, strict=True)]
    rights = [_kept(ranking, flags) for ranking, flags in zip(after, was_known, strict=True)]
    depths = [
        min(k, len(left), len(right) + max(0, len(accepted.ids) - len(now.ids)))
        for left, right, accepted, now in zip(lefts, rights, before, after, strict=True)
    ]
    values = np.full(len(before), math.nan)
    for depth in set(depths) - {0}:
        rows = [row for row, one in enumerate(depths) if one == depth]
        values[rows] = overlap.compare([lefts[row] for row in rows], [rights[row] for row in rows], k=depth).overlap
    return values, 1.0 - _share(was_known), 1.0 - _share(held)


def _split(flags: NDArray[np.bool_], rankings: Sequence[Ranking]) -> list[NDArray[np.bool_]]:
    ends = np.cumsum([len(ranking.ids) for ranking in rankings])
    return np.split(flags, ends[:-1])


def _kept(ranking: Ranking, flags: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(one for one, keep in zip(ranking.ids, flags, strict=True) if keep)


def _share(flags: Sequence[NDArray[np.bool_]]) -> float:
    every = np.concatenate(flags)
    return float(every.mean()) if every.size else 1.0


def _sample(values: Floats) -> Sample:
    return Sample(float(values.mean()), len(values), float(values.std()))


def _floor_sample(floor: NoiseFloor | None, n: int) -> Sample:
    if floor is None:
        return Sample(1.0, n, 0.0)
    level = np.array(floor.level)
    return Sample(float(level.mean()), n, math.sqrt(float(level.var()) + floor.variance))
