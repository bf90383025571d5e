"""Which cause is named for which real fault: a confusion matrix over faults and seeds, as Markdown.

A seed decides which documents are indexed and which come later, which of them a fault hits, which queries become
probes and what is asked. Run from the top folder, because the faults are those of the tests:

    python -m benchmarks.attribution --seeds 10
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SINGLE_BAR, PAIR_BAR = 0.95, 0.90
"""Share of runs in which exactly the made causes must be named (docs/statistics.md)."""


def main() -> None:
    """Run the faults and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--words", type=int, default=40, help="words of a document that are indexed")
    parser.add_argument("--queries", type=int, default=None, help="queries to choose from; all by default")
    parser.add_argument("--probes", type=int, default=150)
    parser.add_argument("--sample", type=int, default=400)
    parser.add_argument("--damage", type=float, default=0.05, help="share of vectors that a fault of the index hits")
    parser.add_argument("--strata", choices=("slices", "clusters", "both"), nargs="+", default=["slices"])
    parser.add_argument("--faults", nargs="+", help="only these; all by default")
    parser.add_argument("--details", type=Path, help="append one JSON line for each run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        from tests.attribution.world import make_world

        world = make_world(Path(folder), documents=options.documents, words=options.words, queries=options.queries)
        for strata in options.strata:
            print(table(run(replace(world, damage=options.damage), strata, options), strata, options), flush=True)


def run(source, strata: str, options: argparse.Namespace) -> list[dict]:
    """Make every fault with every seed; one record each."""
    from sidecar.drift.attribution import attribute
    from tests.attribution.faults import CASES, Documents, start
    from tests.attribution.world import accept, look

    records = []
    for seed in range(options.seeds):
        world = source.with_documents(source.folder / f"{strata}-{seed}", source.texts)
        documents = Documents(world.texts, np.random.default_rng([seed, 0]))
        sizes, kept = {"probes": options.probes, "sample": options.sample}, {}
        for number, (name, case) in enumerate(CASES.items()):
            if options.faults and name not in options.faults:
                continue
            if case.start not in kept:
                was, rng = start(world, documents, case.start), np.random.default_rng([seed, 1])
                kept[case.start] = was, accept(world, was, rng, strata=strata, **sizes)
            was, accepted = kept[case.start]
            rng = np.random.default_rng([seed, 2, number])
            seen = look(world, accepted, case.fault(world, documents, was, rng), rng, sample=options.sample)
            found = attribute(seen.evidence)
            records.append({
                "fault": name,
                "strata": strata,
                "seed": seed,
                "made": sorted(case.causes),
                "named": sorted(found.causes),
                "open": sorted(found.open),
                "summary": found.summary,
                **_gauges(seen.evidence),
            })  # fmt: skip
            if options.details:
                with options.details.open("a", encoding="utf-8") as details:
                    details.write(json.dumps(records[-1]) + "\n")
    return records


def _gauges(evidence) -> dict:
    """Give the numbers of the evidence that the table shows."""
    live, stored, recall = evidence.live, evidence.stored, evidence.recall
    return {
        "query_cosine": evidence.deployed_encoder.query_cosine,
        "document_cosine": evidence.deployed_encoder.document_cosine,
        "bad": stored.bad / stored.documents,
        "low": stored.low / stored.documents,
        "recall": recall.now.mean,
        "probes": evidence.deployed_probes.now.mean,
        "known": evidence.deployed_probes.known.mean,
        "new": evidence.deployed_probes.new_share,
        "reference": evidence.reference_probes.now.mean,
        "live": live.change,
        "mix": live.mix,
        "rate": live.rate,
    }


def table(records: list[dict], strata: str, options: argparse.Namespace) -> str:
    """Give the confusion matrix, the mean gauges, and the two shares that have a bar."""
    faults = list(dict.fromkeys(one["fault"] for one in records))
    runs = {name: [one for one in records if one["fault"] == name] for name in faults}
    columns = sorted({cause for one in records for cause in (*one["named"], *one["made"])})
    head = (
        f"{options.seeds} seeds, {options.documents} documents of {options.words} words, {options.probes} probes, "
        f"{options.sample} sampled documents, {options.damage:.1%} of the vectors damaged, "
        f"live split over {strata}; Python {platform.python_version()}, "
        f"numpy {np.__version__}. Number of seeds in which a cause is named; **bold** is the cause that was made."
    )
    lines = [
        head,
        "",
        _row(["fault", *(name.replace("_", " ") for name in columns), "cannot tell", "exactly right"]),
        _row(["---"] * (len(columns) + 3)),
    ]
    for name in faults:
        named = Counter(cause for one in runs[name] for cause in one["named"])
        made = runs[name][0]["made"]
        cells = [f"**{named[one]}**" if one in made else str(named[one]) if named[one] else "" for one in columns]
        silent = sum(not one["named"] for one in runs[name])
        exact = sum(one["named"] == one["made"] for one in runs[name])
        lines.append(_row([name.replace("_", " "), *cells, str(silent or ""), f"{exact} / {len(runs[name])}"]))
    gauges = ["query_cosine", "document_cosine", "bad", "low", "recall", "probes", "known", "new", "reference",
              "live", "mix", "rate"]  # fmt: skip
    lines += ["", "Means of the gauges:", "", _row(["fault", *(one.replace("_", " ") for one in gauges)])]
    lines.append(_row(["---"] * (len(gauges) + 1)))
    for name in faults:
        means = [f"{np.mean([one[gauge] for one in runs[name]]):.3f}" for gauge in gauges]
        lines.append(_row([name.replace("_", " "), *means]))
    lines.append("")
    for what, bar, chosen in (
        ("single causes", SINGLE_BAR, [one for one in records if len(one["made"]) == 1]),
        ("pairs of causes", PAIR_BAR, [one for one in records if len(one["made"]) > 1]),
    ):
        exact = sum(one["named"] == one["made"] for one in chosen)
        if not chosen:
            continue
        share = exact / len(chosen)
        verdict = "met" if share >= bar else "MISSED"
        lines.append(f"Exactly right for {what}: {exact} of {len(chosen)} ({share:.3f}, bar {bar}: {verdict}).")
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
