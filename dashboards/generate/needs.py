"""What may honestly be empty: queries about an optional part of the sidecar, about a baseline, or about last week.

Everything else must answer on every sidecar that has a judge; the end-to-end test holds the dashboards to that.
"""

from __future__ import annotations

from typing import Literal, get_args

Need = Literal["baseline", "canaries", "frozen probes", "week"]
ALL: frozenset[Need] = frozenset(get_args(Need))

NEEDS: dict[str, Need] = {
    "rag_drift_baseline_": "baseline",
    "slice:rag_drift_slo_": "baseline",
    "rag_drift_canary_": "canaries",
    "rag_drift_frozen_": "frozen probes",
    " offset 7d": "week",
}
"""A text in a query, and what must be there for a series to come back. While no slice has a baseline of its own there
is no objective; while the first replay of the frozen probes is under way it has no age."""


def needs_of(expr: str) -> frozenset[Need]:
    """Give what a query needs."""
    return frozenset(need for text, need in NEEDS.items() if text in expr)
