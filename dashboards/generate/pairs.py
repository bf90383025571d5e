"""Panels about minimal pairs: near-misses, paraphrases, and what a semantic cache makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.generate.blocks import graph, matrix, sheet
from dashboards.generate.looks import NONE, OWNER, SHARE, Axis, Column, Line, Query
from dashboards.generate.promql import DEPLOYED, best
from dashboards.generate.words import BAD, GOOD, NOTE, QUIET, WARN

if TYPE_CHECKING:
    from dashboards.generate.blocks import Panel

SET = 'probe_set=~"$probe_set"'
AGAINST = 'against="$against"'
ALL_DOMAINS, ALL_PHENOMENA = 'domain="all"', 'phenomenon="all"'
ALL_PHENOMENA = 'phenomenon="all"'
ROLE_LINES = (Line("/reference/", dashed=True),)
AUC = ((None, BAD), (-0.02, QUIET), (0.02, GOOD))
"""A change of .02 is the least that counts."""
NO_CHANGE = ((None, "transparent"), (0, QUIET))
"""A dashed line at 0."""


def pair(name: str, by: str, *where: str) -> str:
    """Give something of the pairs."""
    return best(f"canary_pair_{name}", by, SET, *where)


def phenomena() -> Panel:
    """Tell everything about each phenomenon in one row."""
    by = "probe_set, phenomenon"
    return sheet(
        "Each phenomenon of the pairs",
        "What the deployed encoder makes of near-misses (the dog bit the man, the man bit the dog) and paraphrases. "
        "Sensitivity above 0 without a gain of AUC is of no use to any threshold.",
        Query(pair("auc_ratio", by, DEPLOYED)),
        Query(pair("auc_change_ratio", by, AGAINST)),
        Query(pair("sensitivity_change", by, AGAINST)),
        Query(pair("accuracy_ratio", by, DEPLOYED)),
        Query(pair("cosine", by, DEPLOYED, 'text="paraphrase"')),
        Query(pair("cosine", by, DEPLOYED, 'text="near_miss"')),
        columns=[
            *OWNER,
            Column("probe_set", "Set"),
            Column("phenomenon", "Phenomenon"),
            Column("Value #B", "AUC change", SHARE, 1, steps=AUC),
            Column("Value #C", "Sensitivity", NONE, 3),
            Column("Value #A", "AUC", SHARE, 1),
            Column("Value #D", "Accuracy", SHARE, 1),
            Column("Value #E", "Paraphrase cosine", NONE, 3),
            Column("Value #F", "Near-miss cosine", NONE, 3),
        ],
        sort="AUC change",
        nothing="No set of pairs",
    )


def cosines() -> Panel:
    """Show both mean cosines."""
    return graph(
        "Mean cosines of the pairs",
        "How near a paraphrase (green) and a near-miss (red) lie to their anchor; the reference is dashed. If both "
        "sink together, all your thresholds on scores are now too high; if they close up, no threshold works.",
        Query(pair("cosine", "probe_set, role, text", ALL_PHENOMENA), "{{text}}, {{role}} ({{probe_set}})"),
        axis=Axis(NONE, most=1, soft=(0.7, 1), decimals=3),
        lines=[Line("/^near_miss/", BAD, width=2), Line("/^paraphrase/", GOOD, width=2), *ROLE_LINES],
        stepped=True,
    )


def _above(text: str) -> str:
    return pair("above_threshold_ratio", "probe_set, role, threshold", ALL_PHENOMENA, f'text="{text}"')


def wrong_hits() -> Panel:
    """Show the wrong answers of a cache."""
    return graph(
        "Wrong answers of a cache, by its threshold",
        "Share of near-misses at or above each of `canaries.thresholds`: a semantic cache with that threshold answers "
        "them with another question's answer. It rises after an exchange: raise the threshold before users notice.",
        Query(_above("near_miss"), "from {{threshold}}, {{role}} ({{probe_set}})"),
        axis=Axis(SHARE, least=0, soft=(0, 0.5)),
        lines=ROLE_LINES,
        calcs=("lastNotNull",),
        stepped=True,
    )


def right_hits() -> Panel:
    """Show the right answers of a cache."""
    return graph(
        "Hits of a cache, by its threshold",
        "Share of paraphrases at or above each threshold: what a cache with it answers rightly. One minus this is "
        "what it misses. It falls after an exchange: the cache still works, and no longer helps.",
        Query(_above("paraphrase"), "from {{threshold}}, {{role}} ({{probe_set}})"),
        axis=Axis(SHARE, least=0, most=1),
        lines=ROLE_LINES,
        calcs=("lastNotNull",),
        stepped=True,
    )


def wrong_hits_by_phenomenon() -> Panel:
    """Show which kind of near-miss a cache takes for the same."""
    shares = pair("above_threshold_ratio", "phenomenon, threshold", DEPLOYED, 'text="near_miss"', 'phenomenon!="all"')
    return matrix(
        "Wrong answers of a cache, by phenomenon and threshold",
        "Share of the deployed encoder's near-misses at or above each threshold, by what was changed in the sentence. "
        "It says which kind of question a cache confuses: negations or numbers, say.",
        Query(shares),
        rows="phenomenon",
        columns="threshold",
        unit=SHARE,
        steps=((None, GOOD), (0.05, NOTE), (0.25, WARN), (0.5, BAD)),
        nothing="No set of pairs, or no threshold",
    )


def sensitivity() -> Panel:
    """Show the sensitivity of each phenomenon."""
    return graph(
        "Sensitivity by phenomenon",
        "Change of the paraphrase's cosine less that of the near-miss's, a mean over the triples: above 0 they moved "
        "apart.",
        Query(pair("sensitivity_change", "probe_set, phenomenon", AGAINST), "{{phenomenon}} ({{probe_set}})"),
        axis=Axis(NONE, soft=(-0.02, 0.02), decimals=3, steps=NO_CHANGE),
        lines=[Line("/^all/", QUIET, width=3)],
        stepped=True,
    )
