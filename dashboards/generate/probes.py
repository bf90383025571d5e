"""`Probes`: what fixed questions say, and the trade of retrieval for composition as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from dashboards.generate import pairs, stack, upkeep
from dashboards.generate.blocks import bars, graph, number, sheet, states
from dashboards.generate.frame import Board, choice
from dashboards.generate.looks import AGO, DEPLOYMENT_NAME, NONE, OWNER, SHARE, Axis, Column, Line, Query
from dashboards.generate.pairs import AGAINST, ALL_PHENOMENA, AUC, NO_CHANGE, ROLE_LINES, SET, pair
from dashboards.generate.promql import DEPLOYED, LEADING, best, copied, family, labels
from dashboards.generate.words import (
    BAD,
    COLD,
    FALL,
    GOOD,
    QUIET,
    WARN,
    mapped,
    signature_number,
    signature_numbers,
    signatures,
    unknown,
    unless_measured,
)

if TYPE_CHECKING:
    from dashboards.generate.blocks import Panel

ALL_DOMAINS = 'domain="all"'
TRADE_LINES = (
    Line("/^nDCG/", BAD, width=3, fill=15),
    Line("/^AUC/", GOOD, width=3, fill=15),
    Line("/^sensitivity/", COLD, dashed=True),
)


def board() -> Board:
    """Lay the dashboard out."""
    against = (
        dashboard.CustomVariable("against")
        .label("Held against")
        .description("The accepted stack says what a release did, the reference how far the two encoders are apart.")
        .values("accepted,reference")
        .current(model.VariableOption(True, "accepted", "accepted"))
    )
    made = Board(
        "Probes",
        "rag-drift-probes",
        "What fixed questions say: did retrieval get worse, where, and was something bought for it?",
        period="now-24h",
        refresh="1m",
        by_slice=False,
        variables=[
            choice(
                "probe_set",
                "Probe set",
                f"label_values({family('canary_set_info')}, probe_set)",
                "Canary sets: labelled queries and minimal pairs.",
            ),
            against,
        ],
    )
    made.line(5, (what_happened(), 8), (retrieval_now(), 4), (composition_now(), 4), (only(), 4), (last_run(), 4))
    made.section("The trade: retrieval given up for composition")
    made.line(10, (trade(), 14), (trade_by_group(), 10))
    made.line(8, (scores(), 12), (interval(), 12))
    made.section("Retrieval by domain")
    made.line(9, (names_over_time(), 12), (domain_scores(), 12))
    made.line(9, (domains(), 24))
    made.line(7, (moved(), 12), (missing(), 12))
    made.section("Composition: near-misses, paraphrases and caches")
    made.line(8, (pairs.phenomena(), 24))
    made.line(8, (pairs.cosines(), 8), (pairs.wrong_hits(), 8), (pairs.right_hits(), 8))
    made.line(8, (pairs.wrong_hits_by_phenomenon(), 12), (pairs.sensitivity(), 12))
    made.section("Scale of the scores")
    made.line(7, (top_scores(), 12), (score_gaps(), 12))
    made.section("Frozen probes: live queries asked again")
    made.line(8, (stack.frozen_overlaps(), 10), (stack.frozen_moved(), 9), (upkeep.awake(), 5))
    made.section("Freshness")
    made.line(7, (upkeep.ages(), 8), (upkeep.durations(), 8), (upkeep.troubles(), 8))
    return made


def score(by: str, *where: str) -> str:
    """Give nDCG@10."""
    return best("canary_score_ratio", by, SET, LEADING, *where)


def difference(name: str, by: str, *where: str) -> str:
    """Give something of the change of nDCG@10."""
    return best(f"canary_change_{name}", by, SET, AGAINST, LEADING, *where)


def what_happened() -> Panel:
    """Name what happened to each set."""
    found = best("canary_signature", "probe_set, signature", SET, AGAINST, ALL_DOMAINS)
    unmeasured = unless_measured(
        family("canary_signature", SET, AGAINST, ALL_DOMAINS), "probe_set", label="signature", value="not_measured"
    )
    return sheet(
        "What happened to each labelled set",
        "The name of the change of all its queries together. `Precision trap`: retrieval fell and near-misses are "
        "told apart better, the accident that this sidecar is about; the encoder was bought with worse answers. "
        "`Retrieval loss`: worse, and nothing gained. `Changed, unclear`: it moved, too few queries to say more.",
        Query(f"({found} == 1)\nor\n{unmeasured}"),
        columns=[
            *OWNER,
            Column("probe_set", "Set"),
            Column("signature", "What happened", mappings=[signatures()], background=True),
        ],
        nothing="No labelled set, or nobody judges",
    )


def retrieval_now() -> Panel:
    """Give the relative change of retrieval."""
    return number(
        "Retrieval: nDCG@10",
        "Relative change of the mean nDCG@10 of each labelled set. 2 % is the least that counts; a fall that stands "
        "in two runs in a row pages.",
        Query(difference("relative_ratio", "probe_set", ALL_DOMAINS), "{{probe_set}}"),
        unit=SHARE,
        decimals=1,
        mappings=[unknown("not measured")],
        steps=FALL,
    )


def composition_now() -> Panel:
    """Give the change of composition."""
    return number(
        "Composition: AUC",
        "Change of the probability that a paraphrase is nearer than a near-miss. A gain is good by itself; beside a "
        "fall of nDCG@10 it is what was paid for.",
        Query(pair("auc_change_ratio", "probe_set", AGAINST, ALL_PHENOMENA), "{{probe_set}}"),
        unit=SHARE,
        decimals=1,
        mappings=[unknown("not measured")],
        steps=AUC,
    )


def only() -> Panel:
    """Say whether the sensitivity buys anything."""
    return number(
        "Sensitivity without use",
        "Yes: near-misses were pushed away, and yet no threshold tells them apart better in any phenomenon. The "
        "encoder became more sensitive for nothing, which pooled cosines tend to do.",
        Query(best("canary_sensitivity_only", "", AGAINST), DEPLOYMENT_NAME),
        mappings=[mapped({0: ("no", GOOD), 1: ("YES", WARN)}), unknown("not measured")],
    )


def last_run() -> Panel:
    """Say how old all this is."""
    runs = best("canary_last_run_timestamp_seconds", "probe_set", SET)
    return number(
        "Measured",
        "When the run began whose numbers each set shows. A run that fails leaves the last complete one standing, "
        "with its time: an old time is a silent canary.",
        Query(f"1000 * {runs}", "{{probe_set}}"),
        unit=AGO,
        mappings=[mapped({0: ("never", WARN)})],
        nothing="No set",
    )


def trade() -> Panel:
    """Draw retrieval and composition on one axis."""
    return graph(
        "The trade: retrieval against composition",
        "Both as differences from what is accepted, on one axis: 0 is as accepted. The red line falls while the green "
        "one rises: scissors that open are the precision trap. Red alone is a plain loss, green alone a gain. The "
        "dashed line is sensitivity (cosines moved apart); it buys nothing without the green one.",
        Query(difference("ratio", "probe_set", ALL_DOMAINS), "nDCG@10, finding the documents ({{probe_set}})"),
        Query(
            pair("auc_change_ratio", "probe_set", AGAINST, ALL_PHENOMENA), "AUC, telling pairs apart ({{probe_set}})"
        ),
        Query(pair("sensitivity_change", "probe_set", AGAINST, ALL_PHENOMENA), "sensitivity, cosine ({{probe_set}})"),
        axis=Axis(SHARE, soft=(-0.05, 0.05), label="difference", steps=NO_CHANGE),
        lines=TRADE_LINES,
        calcs=("lastNotNull",),
        stepped=True,
    )


def trade_by_group() -> Panel:
    """Draw the same by domain and phenomenon, now."""
    retrieval = copied(difference("ratio", "domain", 'domain!="all"'), "of", "domain")
    composition = copied(pair("auc_change_ratio", "phenomenon", AGAINST, 'phenomenon!="all"'), "of", "phenomenon")
    return bars(
        "Who paid, and what was bought",
        "The same two differences now: red for each domain of the labelled sets, green for each phenomenon of the "
        "pairs. Red bars below the line are the fields that pay; nobody who only looks at the green ones sees them.",
        Query(f"max by ({labels('of')}) ({retrieval})"),
        Query(f"max by ({labels('of')}) ({composition})"),
        by="of",
        names=[("nDCG@10 of the domain", BAD), ("AUC of the phenomenon", GOOD)],
        axis=Axis(SHARE, label="difference"),
    )


def scores() -> Panel:
    """Show the scores themselves."""
    return graph(
        "Scores of both encoders",
        "The values behind the differences, deployed and reference (dashed). They say little by themselves: how hard "
        "a set is decides them. A step is an exchange, a gap another content of the set.",
        Query(score("probe_set, role", ALL_DOMAINS), "nDCG@10, {{role}} ({{probe_set}})"),
        Query(pair("auc_ratio", "probe_set, role", ALL_PHENOMENA), "AUC, {{role}} ({{probe_set}})"),
        Query(pair("accuracy_ratio", "probe_set, role", ALL_PHENOMENA), "accuracy, {{role}} ({{probe_set}})"),
        axis=Axis(SHARE, most=1, soft=(0.5, 1)),
        lines=[Line("/^nDCG/", BAD), Line("/^AUC/", GOOD), Line("/^accuracy/", COLD), *ROLE_LINES],
        calcs=("lastNotNull",),
        stepped=True,
    )


def interval() -> Panel:
    """Show the change with what it means for other queries."""
    return graph(
        "Change of nDCG@10 with its interval",
        "The line is exact for these queries. The dashed ones say what it means for queries like them (95 %): if 0 "
        "lies between, other queries may see nothing. None without a change: then the difference is exactly 0.",
        Query(difference("ratio", "probe_set", ALL_DOMAINS), "change ({{probe_set}})"),
        Query(difference("lower_ratio", "probe_set", ALL_DOMAINS), "lower ({{probe_set}})"),
        Query(difference("upper_ratio", "probe_set", ALL_DOMAINS), "upper ({{probe_set}})"),
        axis=Axis(SHARE, soft=(-0.05, 0.05), steps=NO_CHANGE),
        lines=[
            Line("/^change/", BAD, width=2),
            Line("/^(lower|upper)/", BAD, dashed=True),
        ],
        stepped=True,
    )


def names_over_time() -> Panel:
    """Show the name of each domain's change over time."""
    return states(
        "What happened to each domain, over time",
        "The name of each domain's change. Red and dark red are losses that are proved for the domain; `Precision "
        "trap` has a gain of sensitivity beside it. A domain can be red while the whole set (`all`) is not.",
        Query(signature_number(SET, AGAINST), "{{domain}} ({{probe_set}})"),
        mappings=[signature_numbers(), unknown("not measured")],
        nothing="No labelled set",
    )


def domain_scores() -> Panel:
    """Show nDCG@10 of each domain."""
    return graph(
        "nDCG@10 of each domain, deployed encoder",
        "Levels by domain. Compare a domain with itself over time and not with its neighbours: they are of different "
        "difficulty.",
        Query(score("probe_set, domain", DEPLOYED), "{{domain}} ({{probe_set}})"),
        axis=Axis(SHARE, most=1, soft=(0.5, 1)),
        lines=[Line("/^all/", QUIET, width=3)],
        calcs=("min", "lastNotNull"),
        stepped=True,
    )


def domains() -> Panel:
    """Tell everything about each domain in one row."""
    by = "probe_set, domain"
    signature = best("canary_signature", f"{by}, signature", SET, AGAINST)
    return sheet(
        "Each domain",
        "nDCG@10 of both encoders, the change with its interval, and the share of queries whose first ten documents "
        "moved. An interval without 0 holds for queries like these; that these moved is a fact.",
        Query(score(by, DEPLOYED)),
        Query(score(by, 'role="reference"')),
        Query(difference("ratio", by)),
        Query(difference("relative_ratio", by)),
        Query(difference("lower_ratio", by)),
        Query(difference("upper_ratio", by)),
        Query(best("canary_moved_ratio", by, SET, AGAINST)),
        Query(best("canary_overlap_ratio", by, SET, AGAINST)),
        Query(f"{signature} == 1"),
        columns=[
            *OWNER,
            Column("probe_set", "Set"),
            Column("domain", "Domain"),
            Column("signature", "What happened", mappings=[signatures()], background=True),
            Column("Value #D", "Relative", SHARE, 1, steps=FALL),
            Column("Value #C", "Change", SHARE, 1),
            Column("Value #E", "Lower", SHARE, 1),
            Column("Value #F", "Upper", SHARE, 1),
            Column("Value #A", "Deployed", SHARE, 1),
            Column("Value #B", "Reference", SHARE, 1),
            Column("Value #G", "Moved", SHARE, 0),
            Column("Value #H", "Overlap", SHARE, 0),
        ],
        sort="Relative",
        descending=False,
        nothing="No labelled set",
    )


def moved() -> Panel:
    """Show how many queries moved."""
    return graph(
        "Queries whose first ten documents moved",
        "Share of the queries whose first ten documents, or their order, are others. Without a change it is exactly "
        "0, so one moved query is a fact at the first run. Moved, with an nDCG@10 that stays, is a harmless exchange.",
        Query(best("canary_moved_ratio", "probe_set, domain", SET, AGAINST), "{{domain}} ({{probe_set}})"),
        axis=Axis(SHARE, least=0, soft=(0, 0.1)),
        lines=[Line("/^all/", QUIET, width=3)],
        stepped=True,
    )


def missing() -> Panel:
    """Show whether the judged documents are still there."""
    return graph(
        "Judged documents that production has lost",
        "For sets that ask the production index: share of the documents with a judgement that the deployed index "
        "lacks. It stays 0 for sets with a corpus of their own. A rise is a loss of documents, or a set that has "
        "grown old.",
        Query(best("canary_missing_documents_ratio", "probe_set", SET), "{{probe_set}}"),
        axis=Axis(SHARE, least=0, soft=(0, 0.1)),
        stepped=True,
    )


def top_scores() -> Panel:
    """Show where the best documents' scores lie."""
    return _percentiles(
        "canary_top_score",
        "Score of the best document",
        "Percentiles over the queries of the labelled sets, deployed and reference (dashed). If it moves, every "
        "threshold on retrieval scores (`answer only above`) cuts elsewhere, though no ranking need have changed.",
    )


def score_gaps() -> Panel:
    """Show how far apart the scores lie."""
    return _percentiles(
        "canary_score_gap",
        "Distance of the best document to the tenth",
        "How much the scores tell the first document from the tenth. When it closes up, re-ranking by score, cut-offs "
        "and confidence lose their meaning.",
    )


def _percentiles(name: str, title: str, text: str) -> Panel:
    return graph(
        title,
        text,
        Query(best(name, "probe_set, role, percentile", SET), "p{{percentile}}, {{role}} ({{probe_set}})"),
        axis=Axis(NONE, decimals=3),
        lines=ROLE_LINES,
        stepped=True,
    )
