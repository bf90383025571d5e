"""Runs of the canaries for tests: real sets, rankings and cosines of which some queries and pairs changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.drift.canary_run import CanaryRun, Scored, SetName, compile_run
from sidecar.drift.composition import PairScores
from sidecar.drift.signature import SignatureRule
from sidecar.model import Ranking, Stack
from sidecar.probesets.library import Library
from sidecar.probesets.manifest import Manifest
from sidecar.probesets.measure import score_rankings
from sidecar.probesets.read import ProbeSet, Query, Triple

if TYPE_CHECKING:
    from collections.abc import Collection

    from sidecar.drift.labelled import RetrievalScores

AT = 1_800_000_000.0
THRESHOLDS = (0.85, 0.9, 0.95)
QUERIES = 15
"""Queries a domain: as many losses are beyond doubt (a sign-flip test gives 2^-15)."""
TRIPLES = 12
"""Triples a phenomenon, for the same reason."""


def labelled(name="questions", domains=("law", "pets"), *, version=1, checksum="first") -> ProbeSet:
    """Give a labelled set with one relevant document for each query."""
    queries = tuple(Query(f"{domain}-{i}", "a question", domain) for domain in domains for i in range(QUERIES))
    manifest = Manifest(kind="retrieval", version=version, language="en", licence="none", source="a test")
    judgements = {one.id: {f"answer to {one.id}": 1.0} for one in queries}
    return ProbeSet(name, Path(name), manifest, checksum, queries=queries, judgements=judgements)


def pairs(name="pairs", phenomena=("negation", "role_swap"), *, version=1, checksum="first") -> ProbeSet:
    """Give a composition set of `TRIPLES` triples a phenomenon."""
    triples = tuple(Triple(f"{one}-{i}", "a", "b", "c", one) for one in phenomena for i in range(TRIPLES))
    manifest = Manifest(
        kind="composition", version=version, language="en", licence="none", source="a test", phenomena=phenomena
    )
    return ProbeSet(name, Path(name), manifest, checksum, triples=triples)


def library(*sets: ProbeSet, aside=()) -> Library:
    """Give a library of these sets."""
    return Library(tuple(sorted(sets, key=lambda one: one.name)), tuple(aside))


def scores(one: ProbeSet, lost: Collection[str] = ()) -> RetrievalScores:
    """Score an encoder that ranks the relevant documents first, and fourth for `QUERIES` queries of the lost domains.

    The best document has the score 0.9, each further one 0.05 less.
    """
    left = dict.fromkeys(lost, QUERIES)
    rankings = []
    for query in one.queries:
        others = [f"other {i}" for i in range(10)]
        place = 0
        if left.get(query.domain, 0):
            left[query.domain] -= 1
            place = 3
        ids = [*others[:place], *sorted(one.judgements[query.id]), *others[place:]]
        rankings.append(Ranking(tuple(ids), tuple(0.9 - 0.05 * i for i in range(len(ids)))))
    return score_rankings(one, rankings)


def cosines(one: ProbeSet, pushed: float = 0.0, nearest: float = 0.89) -> PairScores:
    """Give paraphrases a cosine of 0.9, and near-misses one from `nearest` to 0.055 more, less `pushed`."""
    return PairScores(
        phenomena=tuple(triple.phenomenon for triple in one.triples),
        paraphrase=(0.9,) * len(one.triples),
        near_miss=tuple(nearest + 0.005 * (i % TRIPLES) - pushed for i in range(len(one.triples))),
    )


def ran(
    sets: Library,
    *,
    lost: Collection[str] = (),
    pushed: float = 0.0,
    nearest: float = 0.89,
    accepted: bool = True,
    missing: float = 0.0,
    thresholds: tuple[float, ...] = THRESHOLDS,
    at: float = AT,
) -> CanaryRun:
    """Give a run in which the deployed encoder lost these domains and pushed the near-misses away.

    The accepted encoder, if there is one, is the reference.
    """
    scored = []
    for one in sets.sets:
        name = SetName(one.name, one.manifest.version, one.checksum)
        if one.kind == "retrieval":
            before = scores(one)
            scored.append(Scored(name, scores(one, lost), before, before if accepted else None, missing=missing))
        elif one.kind == "composition":
            rest = cosines(one, nearest=nearest)
            scored.append(Scored(name, cosines(one, pushed, nearest), rest, rest if accepted else None))
    return compile_run(
        scored,
        at=at,
        stack=Stack("encoder-b", "index-b", "encoder-r", "index-r"),
        accepted_at=AT - 1000.0 if accepted else None,
        thresholds=thresholds,
        rule=SignatureRule(),
    )
