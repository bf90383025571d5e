"""Write the tables of `docs/detection.md` between their markers from `results.json`, and have the plot drawn."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plot
import series

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "detection.md"
OURS, MEAN_ONLY, ORACLE, FIXED = "ours, three channels", "ours, mean only", "oracle CUSUM", "fixed threshold"
OWN = (OURS, MEAN_ONLY, ORACLE)
BUDGET_QUERIES = 26 * 7 * 2_000
NEAR = 1.25
"""A peer that alarms more often than the rate by more than this factor could not be set to it and does not compete."""


def write(results: Mapping[str, Any]) -> None:
    """Rewrite every marked part of the page, and the plot."""
    text = PAGE.read_text(encoding="utf-8")
    for name, made in parts(results).items():
        begin, end = f"<!-- {name}: made by benchmarks/detection/run.py -->", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"{PAGE.name} must have the markers of `{name}` once")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{made}\n{end}{rest.partition(end)[2]}"
    PAGE.write_text(text, encoding="utf-8")
    plot.write(results, DOCS / "images" / "detection.svg")


def tables(results: Mapping[str, Any]) -> str:
    """Give all parts, one below the other."""
    return "\n\n".join(f"{name}\n\n{made}" for name, made in parts(results).items())


def parts(results: Mapping[str, Any]) -> dict[str, str]:
    """Give each part of the page as Markdown."""
    worlds = results["worlds"]
    return {
        "run": about(results),
        "delays": delays(results),
        "shipped": shipped(worlds),
        "null": promise(worlds),
        "frozen": frozen(worlds["frozen"]),
        "states": states(),
        "every detector": "\n\n".join(every(worlds[name]) for name in worlds if worlds[name]["tuned"]),
        "cost": cost(results["cost"]),
    }


def about(results: Mapping[str, Any]) -> str:
    """Say how and where the figures were made."""
    plan, machine = results["plan"], results["machine"]
    peers = ", ".join(f"{name} {number}" for name, number in results["peers"].items())
    missing = "".join(f" {name}: {why}." for name, why in results["missing"].items())
    alarming = -math.expm1(-plan["null_length"] / plan["rate"])
    rate, slow_rate = (1 / math.sqrt(plan[count] * alarming) for count in ("null_streams", "slow_null_streams"))
    median, slow_median = (1.25 / math.sqrt(plan[count]) for count in ("streams", "slow_streams"))
    made = (
        f"`{results['command']}`, seed {plan['seed']}, {results['minutes']:.0f} minutes on a {machine['architecture']} "
        f"machine with {machine['cores']} cores that others used at the same time, Python {machine['python']}, "
        f"numpy {machine['numpy']}, scipy {machine['scipy']}. Peers: {peers}.{missing or ' None is missing.'}"
    )
    sizes = (
        f"Null streams: {plan['null_streams']} of {plan['null_length']:,} queries ({plan['slow_null_streams']} for "
        "KSWIN, Frouros, Evidently and NannyML, which are slow), another set in each world; at one alarm per "
        f"{plan['rate']:,} queries the relative standard error of a rate is {rate:.0%} ({slow_rate:.0%}). Delays: "
        f"{plan['streams']} streams ({plan['slow_streams']}); where the delay's spread is as large as its median, "
        f"the standard error of the median is {median:.0%} ({slow_median:.0%}) of it."
    )
    return "\n\n".join(textwrap.fill(text, 120) for text in (made, sizes))


def best_peer(world: Mapping[str, Any], change: str, rate: int) -> str | None:
    """Name the peer with the smallest median delay among those that keep the rate."""
    able = [
        (found["delays"][change]["median"], name)
        for name, found in world["tuned"].items()
        if name not in OWN
        and "delays" in found
        and found["delays"][change]["median"] is not None
        and (found["arl"] or math.inf) * NEAR >= rate
    ]
    return min(able)[1] if able else None


def delays(results: Mapping[str, Any]) -> str:
    """Give the one table: every drop, at equal false alarms."""
    head = [
        "world",
        "change",
        "mean falls",
        "oracle",
        "ours",
        "ours, mean only",
        "best peer",
        "",
        "ours / oracle",
        "ours / best peer",
    ]
    rows = []
    for world in results["worlds"].values():
        if not world["tuned"]:
            continue
        for change, known in world["changes"].items():
            tuned = world["tuned"]
            ours = tuned[OURS]["delays"][change]
            oracle = tuned[ORACLE]["delays"].get(change)
            name = best_peer(world, change, results["plan"]["rate"])
            peer = tuned[name]["delays"][change] if name else None
            rows.append([
                world["title"], change + (" (decoy)" if known["decoy"] else ""), f"{known['drop']:.1%}",
                cell(oracle), cell(ours), cell(tuned[MEAN_ONLY]["delays"][change]), cell(peer), name or "none",
                ratio(ours, oracle), ratio(ours, peer),
            ])  # fmt: skip
    return table(head, rows)


def shipped(worlds: Mapping[str, Any]) -> str:
    """Give false pages and delays of every detector with its defaults."""
    nulls = [name for name in worlds if name != "frozen"]
    shown = {
        "iid": ("tilt -5%", "tilt -10%", "tilt -20%"),
        "real": ("tenth of index", "lost prompt", "fine-tuned 0.25"),
    }
    head = ["detector"]
    head += [f"false pages in 26 weeks: {worlds[name]['title']}" for name in nulls]
    head += [f"{change} ({name})" for name, changes in shown.items() for change in changes]
    rows = []
    for detector in worlds["iid"]["shipped"]:
        row = [detector, *(pages(worlds[name]["shipped"][detector]) for name in nulls)]
        for name, changes in shown.items():
            row += [cell(worlds[name]["shipped"][detector]["delays"].get(change)) for change in changes]
        rows.append(row)
    return table(head, rows)


def promise(worlds: Mapping[str, Any]) -> str:
    """Hold the share of unchanged streams that page against the promise, with an exact binomial bound."""
    from scipy.stats import beta

    head = [
        "world",
        "variance inflation",
        "streams",
        "days each",
        "paged",
        "95 % upper bound of the share",
        "promised at most",
    ]
    rows = []
    for world in (world for world in worlds.values() if world["tuned"]):
        found = world["shipped"][OURS]
        length = world["null_length"]
        upper = (
            1.0
            if found["alarms"] == found["streams"]
            else beta.ppf(0.95, found["alarms"] + 1, found["streams"] - found["alarms"])
        )
        rows.append([
            world["title"], f"{world['kappa']:.1f}", str(found["streams"]), f"{length / 2_000:g}",
            str(found["alarms"]), f"{upper:.3f}", f"{length / BUDGET_QUERIES:.3f}",
        ])  # fmt: skip
    return table(head, rows)


def frozen(world: Mapping[str, Any]) -> str:
    """Give the delays of every detector as shipped where the reference is the frozen accepted copy."""
    changes = world["changes"]
    head = [
        "detector",
        *(f"{change}{' (decoy)' if known['decoy'] else ''}, {known['drop']:.1%}" for change, known in changes.items()),
    ]
    return table(
        head,
        [
            [name, *(cell(found["delays"].get(change)) for change in changes)]
            for name, found in world["shipped"].items()
        ],
    )


def states() -> str:
    """Give what was measured of each recorded state."""
    recorded = series.Recording.about()
    head = ["state", "nDCG@10", "overlap with base", "overlap with the frozen copy"]
    rows = [
        [name, *(f"{found[measure]:.3f}" for measure in ("nDCG@10", "overlap with base", "overlap with frozen"))]
        for name, found in recorded["states"].items()
    ]
    versions = ", ".join(f"{name} {number}" for name, number in recorded["versions"].items())
    return f"{table(head, rows)}\n\n`{recorded['command']}`, seed {recorded['seed']}; {versions}."


def every(world: Mapping[str, Any]) -> str:
    """Give threshold, rate and delays of every detector at equal false alarms in one world."""
    head = [world["title"], "threshold", "queries per alarm", *world["changes"]]
    rows = []
    for name, found in world["tuned"].items():
        if "delays" in found:
            threshold = found.get("threshold")
            shown = "per change" if threshold is None else f"{threshold:.4g}"
            per = "per change" if threshold is None else f"{found['arl']:,}" if found["arl"] else "no alarm"
            rows.append([name, shown, per, *(cell(found["delays"].get(change)) for change in world["changes"])])
    return table(head, rows)


def cost(found: Mapping[str, Any]) -> str:
    """Give time and memory."""
    rows = []
    for name, one in found["detectors"].items():
        size = f"{one['bytes']:,}" if one["bytes"] else "the calibration and a window"
        time = one["microseconds"]
        rows.append([name, f"{time:.2g}" if time < 10 else f"{time:,.0f}", size])
    ours, growth = found["detectors"]["ours"], found["growth"]
    fewest = min(growth, key=int)
    grown = [
        [f"{int(many):,}", f"{taken:.1f}", f"{taken / int(many) / (growth[fewest] / int(fewest)):.2f}"]
        for many, taken in growth.items()
    ]
    return (
        table(["detector", "µs per value", "bytes of state (pickled)"], rows)
        + f"\n\nOurs: {ours['bytes as JSON']:,} bytes as JSON after {found['values']:,} values; reading the evidence "
        f"takes {ours['microseconds to read the evidence']:.0f} µs more. One value in each of many detectors (signals "
        "times slices):\n\n" + table(["detectors", "ms", f"of each, in that of {int(fewest):,}"], grown)
    )


def cell(found: Mapping[str, Any] | None) -> str:
    """Show median / 90 % quantile, then what was missed and what alarmed before the change."""
    if found is None:
        return "-"
    if found["missed"] is None:
        return "all early"
    notes = [f"{found['missed']:.0%} missed"] if found["missed"] >= 0.005 else []
    notes += [f"{found['early']:.0%} early"] if found["early"] >= 0.10 else []
    shown = " / ".join("missed" if value is None else f"{value:,}" for value in (found["median"], found["p90"]))
    shown = "missed" if found["median"] is None and found["p90"] is None else shown
    return shown + (f" ({', '.join(notes)})" if notes else "")


def ratio(ours: Mapping[str, Any], other: Mapping[str, Any] | None) -> str:
    """Show the ratio of two median delays."""
    if other is None or ours["median"] is None or not other["median"]:
        return "-"
    value = ours["median"] / other["median"]
    return f"**{value:.2f}**" if value > 1.0 else f"{value:.2f}"


def pages(found: Mapping[str, Any]) -> str:
    """Show false pages in 26 weeks; an upper bound (95 %) where there was none."""
    if not found["alarms"]:
        return f"< {-math.log(0.05) / found['queries'] * BUDGET_QUERIES:.2g}"
    value = found["alarms"] / found["queries"] * BUDGET_QUERIES
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
