"""Panels about what is in use: encoders and indexes, whether they belong together, fidelity, and the frozen probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.generate.blocks import graph, sheet, states
from dashboards.generate.looks import DATE, NONE, OWNER, SHARE, Axis, Column, Line, Query
from dashboards.generate.promql import (
    BY_SLICE,
    DEPLOYED,
    DEPLOYMENT,
    best,
    family,
    frozen_overlap,
    labels,
    mean,
    on_duty,
)
from dashboards.generate.words import BAD, COLD, GOOD, NOTE, QUIET, WARN, WORST, mapped, unknown

if TYPE_CHECKING:
    from dashboards.generate.blocks import Panel

IN_USE = "role, fingerprint, index"
MATCH = mapped({1: ("matches", GOOD), 0: ("another encoder's", WORST)})


def of_use(name: str) -> str:
    """Give a gauge of a retriever with its fingerprint and index."""
    return (
        f"max by ({labels(IN_USE)}) (\n"
        f"  {family(name)}\n"
        f"  * on ({DEPLOYMENT}, instance, role) group_left (fingerprint, index) {family('encoder_info')}\n"
        ")"
    )


def in_use() -> Panel:
    """List what is in use."""
    return sheet(
        "Encoders and indexes in use",
        "A row for each encoder and index that some replica has in use. Two rows for one role: replicas disagree, an "
        "exchange is under way or stuck. `Another encoder's` index: queries and documents come from different "
        "encoders, roll back now. Similarity is the mean cosine with the accepted encoder: 1 the same, below 0.25 "
        "another model.",
        Query(f"sum by ({labels(IN_USE)}) ({family('encoder_info')})"),
        Query(of_use("index_matches_encoder")),
        Query(of_use("encoder_similarity_ratio")),
        Query(of_use("index_documents")),
        Query(f"1000 * {of_use('retriever_loaded_timestamp_seconds')}"),
        columns=[
            *OWNER,
            Column("role", "Role"),
            Column("fingerprint", "Encoder"),
            Column("index", "Index"),
            Column("Value #A", "Replicas", decimals=0),
            Column("Value #B", "Index and encoder", mappings=[MATCH, unknown()], background=True),
            Column("Value #C", "Similarity", decimals=4, steps=((None, BAD), (0.25, WARN), (0.9999, GOOD))),
            Column("Value #D", "Documents", "short", 0),
            Column("Value #E", "Loaded", DATE),
        ],
        sort="Role",
        descending=False,
    )


def similarity() -> Panel:
    """Show how far the encoders are from the accepted ones."""
    return graph(
        "Encoder against the accepted one",
        "Mean cosine of 64 fixed texts under the encoder in use and the accepted one. 1 is the same model in the same "
        "configuration. A step down is an exchange; 0.9 a further tuning, below 0.25 another model. No line: nothing "
        "accepted yet.",
        Query(best("encoder_similarity_ratio", "role"), "{{role}}"),
        axis=Axis(NONE, most=1, soft=(0.8, 1), decimals=3),
        lines=[Line("/deployed/", BAD, width=2), Line("/reference/", COLD), Line("/frozen/", NOTE)],
        stepped=True,
    )


def matches() -> Panel:
    """Show whether index and encoder belong together."""
    return states(
        "Index built by the encoder in use",
        "Whether each index was built by the encoder that now asks it. Red for the deployed side means nearly random "
        "documents: roll the encoder back, or finish the re-index. The smallest value over replicas, so one wrong "
        "replica shows.",
        Query(f"min by ({labels('role')}) ({family('index_matches_encoder')})", "{{role}}"),
        mappings=[MATCH],
        nothing="Nothing loaded",
    )


def documents() -> Panel:
    """Show the size of the indexes."""
    return graph(
        "Documents in the index",
        "A sudden loss: deleted or filtered documents. Growth on one side only lowers the agreement without any "
        "decay; bring the other index up to date and accept a new baseline.",
        Query(best("index_documents", "role"), "{{role}}"),
        axis=Axis("short", least=0, decimals=0),
        lines=[Line("/deployed/", BAD, width=2), Line("/reference/", COLD), Line("/frozen/", NOTE)],
        calcs=("lastNotNull",),
        stepped=True,
    )


def fidelity() -> Panel:
    """Show whether the sidecar's picture of the retriever is true."""
    return graph(
        "Replay fidelity by slice",
        "How much of what the service served the sidecar finds again. Near 100 % the sidecar's picture of the "
        "deployed retriever is true. If it falls, do not believe the rest of the page first: the service searches "
        "otherwise than the sidecar (filter, search width, prompt). No line where the service does not publish what "
        "it served.",
        Query(mean("agreement_detail_ratio", "slice", 'signal=~"fidelity@.+"', BY_SLICE), "{{slice}}"),
        axis=Axis(SHARE, least=0, most=1, steps=((None, BAD), (0.9, GOOD))),
        calcs=("lastNotNull",),
    )


def frozen_overlaps() -> Panel:
    """Show the frozen probes against their floor."""
    return graph(
        "Frozen probes: overlap with their accepted answers",
        "The same questions asked again. Without a change the line lies on its floor (dashed; below 100 % only where "
        "an approximate index jitters). Below it, answers changed, from the first replay on. `all` below `known`: new "
        "documents took places, which is growth and no decay. The reference falls: the yardstick changed.",
        Query(frozen_overlap("deployed"), "deployed, known documents"),
        Query(on_duty("frozen_overlap_ratio", "", DEPLOYED, 'documents="all"'), "deployed, all documents"),
        Query(on_duty("frozen_floor_ratio", "", DEPLOYED), "floor"),
        Query(frozen_overlap("reference"), "reference, known documents"),
        axis=Axis(SHARE, most=1, soft=(0.9, 1)),
        lines=[
            Line("/^deployed, known/", BAD, width=2),
            Line("/^deployed, all/", WARN),
            Line("/^floor/", QUIET, dashed=True),
            Line("/^reference/", COLD),
        ],
        stepped=True,
    )


def frozen_moved() -> Panel:
    """Show how many probes moved."""
    return graph(
        "Frozen probes: moved, and places taken by new documents",
        "Share of the probes whose ranking is not the accepted one, in documents or order, and share of the first "
        "places that documents took which were added since. Moved without new documents and without an exchange is "
        "unexplained: filters, re-rankers, search settings.",
        Query(on_duty("frozen_moved_ratio", "role"), "{{role}} moved"),
        Query(on_duty("frozen_new_documents_ratio", "role"), "{{role}}, new documents"),
        axis=Axis(SHARE, least=0, soft=(0, 0.1)),
        lines=[Line("/^deployed moved/", BAD, width=2), Line("/^reference moved/", COLD), Line("/new/", dashed=True)],
        stepped=True,
    )
