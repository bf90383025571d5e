"""Say what the gate found: to a terminal, as JSON, as Markdown for a pull request, as JUnit XML for a build server.

All four start with the same line, because a reviewer may read no further: the verdict, and beside it the two numbers
that must not be read apart, retrieval and composition. No text of a query is in any of them; JSON and Markdown name the
ids of those that lost most.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.table import Table

from sidecar.drift.composition import ALL
from sidecar.errors import ConfigurationError
from sidecar.gate import FALSE_FAILURES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sidecar.drift.composition import PairChange
    from sidecar.drift.labelled import MeasureChange
    from sidecar.drift.signature import Name
    from sidecar.gate import Check, Gate, SetChecks

WORDS: Mapping[Name, str] = {
    "unchanged": "nothing moved",
    "changed_not_worse": "changed and not worse",
    "changed_unclear": "changed, too few queries to tell",
    "improved": "retrieval rose",
    "reverse_trade": "retrieval rose and sensitivity to composition fell",
    "retrieval_loss": "retrieval fell",
    "precision_trap": "precision trap (sensitivity to composition rose, retrieval fell)",
}
STYLES = {"pass": "green", "undecided": "yellow", "fail": "red"}

CHECKS = (
    "domain", "verdict", "change", "queries", "nDCG@10", "difference", "95 % interval", "p of a fall", "level",
    "smallest fall found", "overlap@10",
)  # fmt: skip
PAIRS = ("phenomenon", "triples", "near-miss cosine", "paraphrase cosine", "sensitivity", "AUC", "accuracy")


def headline(gate: Gate) -> str:
    """Give the verdict with both numbers side by side, in one line."""
    place, check = min(
        ((one, check) for one in gate.sets for check in one.checks if check.weighs and check.decision == gate.verdict),
        key=lambda pair: (pair[1].domain != ALL, _share(pair[1], "effect") or 0.0),
    )
    numbers = _numbers(place, check)
    if gate.verdict == "fail":
        return f"FAIL, {_words(check)}: {numbers}{_beside(gate)}"
    if gate.verdict == "undecided":
        why = "there are no judgements" if check.signature is None else "not enough power to tell"
        refused = ", and --strict wants a pass" if gate.strict else ""
        return f"UNDECIDED, {why}{refused}: {numbers}{_power(check)}{_beside(gate)}"
    if gate.same and not gate.moved:
        return f"PASS, the same encoder, all differences are exactly 0: {numbers}"
    return f"PASS, {_words(check)}: {numbers}{_beside(gate)}"


def notes(gate: Gate) -> list[str]:
    """Say what was compared, by which rule, and what the gate could not see."""
    old, new = gate.reference, gate.candidate
    told = [f"Reference: {old.name}, encoder {old.fingerprint}. Candidate: {new.name}, encoder {new.fingerprint}."]
    if gate.same:
        less = ", yet something moved, by less than a fingerprint sees" if gate.moved else ""
        told.append(f"The fingerprints are equal: it is the same encoder{less}.")
    told.append(
        f"A check fails when mean nDCG@10 fell by the tolerance of {100 * gate.tolerance:.3g} % or more and p is at "
        f"most its level. Of candidates that help queries as often as they harm them at most {FALSE_FAILURES:.0%} "
        "fail, all checks together."
    )
    told.append(
        "A check passes when a fall beyond the tolerance is ruled out (one-sided, 95 %). The smallest fall found is "
        "the one that would have failed with 80 % power, if queries differ as they do here."
    )
    for one in gate.sets:
        whole, *domains = one.checks
        if whole.signature is None:
            told.append(
                f"{one.set.name}: without judgements only overlap is compared. It says that rankings moved, not "
                "whether they got worse."
            )
        elif alone := [check for check in domains if check.decision == "undecided"]:
            doubtful = [check.domain for check in alone if check.weighs]
            told.append(
                f"{one.set.name}: {len(alone)} of {len(domains)} domains are too small to tell by themselves. "
                + (f"The fall in {', '.join(doubtful)} is in doubt." if doubtful else "There the whole set decides.")
            )
    return told


def show(gate: Gate) -> None:
    """Print it to the terminal."""
    # Names of models are data: a bracket in them is no markup.
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:  # a pipe has no width: cells cut to fit 80 columns could not be searched
        console = Console(markup=False, highlight=False, width=200)
    console.print(_printable(headline(gate)), style=f"bold {STYLES[gate.verdict]}", soft_wrap=True)
    for one in gate.sets:
        table = Table(*CHECKS, title=one.set.name, title_justify="left")
        for check in one.checks:
            table.add_row(*_row(check), style=STYLES[check.decision] if check.weighs else None)
        console.print(table)
    for name, changes in gate.pairs:
        table = Table(*PAIRS, title=name.name, title_justify="left")
        for change in changes:
            table.add_row(*_pair_row(change))
        console.print(table)
    for line in notes(gate):
        console.print(_printable(line), soft_wrap=True)


def as_json(gate: Gate) -> str:
    """Give everything that was measured."""
    content = {
        "headline": headline(gate),
        "verdict": gate.verdict,
        "exit_code": gate.exit_code,
        "strict": gate.strict,
        "same_encoder": gate.same,
        "tolerance": gate.tolerance,
        "false_failures": FALSE_FAILURES,
        "reference": asdict(gate.reference),
        "candidate": asdict(gate.candidate),
        "retrieval": [
            {
                **asdict(one.set),
                "checks": [_check_json(check) for check in one.checks],
                "lost_most": [{"query": query, "loss": loss} for query, loss in one.lost],
            }
            for one in gate.sets
        ],
        "composition": [
            {**asdict(name), "phenomena": [asdict(change) for change in changes]} for name, changes in gate.pairs
        ],
        "notes": notes(gate),
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def as_markdown(gate: Gate) -> str:
    """Give it as a comment for a pull request."""
    parts = [f"**{_plain(headline(gate))}**"]
    for one in gate.sets:
        parts += [f"{one.set.name}:", _table(CHECKS, [_row(check) for check in one.checks])]
    for name, changes in gate.pairs:
        parts += [f"{name.name}:", _table(PAIRS, [_pair_row(change) for change in changes])]
    parts.append("\n".join(f"* {_plain(line)}" for line in notes(gate)))
    for one in gate.sets:
        if one.lost:
            lost = _table(("query", "loss of nDCG@10"), [(_code(query), f"{loss:.3f}") for query, loss in one.lost])
            summary = f"{one.set.name}: the queries that lost most"
            parts.append(f"<details><summary>{summary}</summary>\n\n{lost}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def as_junit(gate: Gate) -> bytes:
    """Give a suite for each set and a case for each check; a check that cannot tell is skipped, failed where strict."""
    root = ET.Element("testsuites", name=_printable(headline(gate)))
    for one in gate.sets:
        suite = ET.SubElement(root, "testsuite", name=f"rag-drift gate {one.set.name}")
        properties = ET.SubElement(suite, "properties")
        for name, value in (("tolerance", f"{gate.tolerance:g}"), ("checksum", one.set.checksum)):
            ET.SubElement(properties, "property", name=name, value=value)
        for check in one.checks:
            case = ET.SubElement(suite, "testcase", classname=f"rag-drift.gate.{one.set.name}", name=check.domain)
            words = _printable(f"{_words(check)}: {_numbers(one, check)}{_power(check)}")
            if check.decision == "fail" or (gate.strict and check.weighs and check.decision == "undecided"):
                ET.SubElement(case, "failure", type=check.decision, message=words)
            elif check.decision == "undecided":
                ET.SubElement(case, "skipped", message=words)
            else:
                ET.SubElement(case, "system-out").text = words
    for element in (root, *root):
        for count, path in (("tests", ""), ("failures", "/failure"), ("errors", "/error"), ("skipped", "/skipped")):
            element.set(count, str(len(element.findall(f".//testcase{path}"))))
    ET.indent(root)
    found: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return found + b"\n"


def clear(*files: Path | None) -> None:
    """Empty the reports that are to be written: a gate that ends in an error must not leave an older one's verdict.

    Raises:
        ConfigurationError: a report cannot be written there; better now than after the measurement.
    """
    for file in files:
        _write(file, b"")


def write(gate: Gate, *, to_json: Path | None, to_markdown: Path | None, to_junit: Path | None) -> None:
    """Write the reports that are wanted.

    Raises:
        ConfigurationError: one cannot be written.
    """
    _write(to_json, as_json(gate).encode())
    _write(to_markdown, as_markdown(gate).encode())
    _write(to_junit, as_junit(gate))


def _write(file: Path | None, content: bytes) -> None:
    if file is None:
        return
    try:
        file.write_bytes(content)
    except OSError as error:
        raise ConfigurationError(f"{file}: the report cannot be written ({error.strerror})") from None


def _words(check: Check) -> str:
    if check.signature is None:
        return "rankings moved" if check.change.moved else "nothing moved"
    return WORDS["changed_unclear" if check.decision == "undecided" else check.signature.name]


def _numbers(place: SetChecks, check: Check) -> str:
    if check.signature is None:
        one = check.change
        return f"{place.set.name} {one.domain}: {one.moved} of {one.n} rankings moved, overlap@10 {one.overlap:.3f}"
    words = f"{place.set.name} {check.signature.describe()}"
    pairs = check.signature.sensitivity
    if pairs is None:
        words += "; composition was not measured"
    elif not pairs.moved:
        phenomenon = pairs.phenomenon.replace("_", " ")
        words += f"; {phenomenon}: near-miss cosine {pairs.now.near_miss:.3f} and AUC {pairs.now.auc:.2f} as before"
    return words


def _power(check: Check) -> str:
    words = "" if check.smallest is None else f"; smallest fall found with 80 % power {check.smallest:.1%}"
    if check.needed is not None:
        words += f"; to rule one out takes about {check.needed} queries, there are {check.change.n}"
    return words


def _beside(gate: Gate) -> str:
    """Mention what the leading numbers do not show: the domains, and sets without judgements."""
    domains = [check for one in gate.sets for check in one.checks[1:] if check.signature is not None]
    words = ""
    for decision, what in (("fail", "fell"), ("undecided", "too small to tell alone")):
        if count := sum(check.decision == decision for check in domains):
            words += f"; {count} of {len(domains)} domains {what}"
    judged = any(one.checks[0].signature is not None for one in gate.sets)
    for one in gate.sets:
        if judged and one.checks[0].signature is None:
            words += f"; without judgements, {_numbers(one, one.checks[0])}"
    return words


def _row(check: Check) -> tuple[str, ...]:
    change, signature = check.change, check.signature
    if signature is None:
        retrieval: tuple[str, ...] = ("overlap only", str(change.n), *[""] * 6)
    else:
        one = change.leading
        lower, upper = _share(check, "lower"), _share(check, "upper")
        retrieval = (
            signature.name.replace("_", " "),
            str(change.n),
            f"{one.before:.3f} to {one.now:.3f}",
            "" if (difference := _share(check, "effect")) is None else f"{difference:+.1%}",
            "" if lower is None or upper is None else f"{lower:+.1%} to {upper:+.1%}",
            f"{one.p:.2g}",
            f"{check.level:.2g}",
            "" if check.smallest is None else f"{check.smallest:.1%}",
        )
    return check.domain, check.decision, *retrieval, f"{change.overlap:.3f}"


def _pair_row(change: PairChange) -> tuple[str, ...]:
    was, now = change.before, change.now
    return (
        change.phenomenon,
        str(now.n),
        f"{was.near_miss:.3f} to {now.near_miss:.3f}",
        f"{was.paraphrase:.3f} to {now.paraphrase:.3f}",
        f"{change.sensitivity:+.3f}",
        f"{was.auc:.2f} to {now.auc:.2f}",
        f"{was.accuracy:.2f} to {now.accuracy:.2f}",
    )


def _share(check: Check, name: str) -> float | None:
    """Give a number of the leading measure relative to the mean before; None where there is none."""
    one = check.change.leading if check.signature else None
    value = None if one is None else getattr(one, name)
    return None if one is None or value is None or one.before <= 0.0 else value / one.before


def _check_json(check: Check) -> dict[str, Any]:
    signature = check.signature
    return {
        "domain": check.domain,
        "decision": check.decision,
        "weighs": check.weighs,
        "signature": None if signature is None else signature.name,
        "sensitivity_only": None if signature is None else signature.sensitivity_only,
        "queries": check.change.n,
        "moved": check.change.moved,
        "overlap": check.change.overlap,
        "level": check.level,
        "smallest_fall": check.smallest,
        "queries_needed": check.needed,
        "measures": {name: _measure_json(one) for name, one in check.change.measures.items()},
    }


def _measure_json(one: MeasureChange) -> dict[str, float | None]:
    return {
        "before": one.before,
        "now": one.now,
        "effect": one.effect,
        "relative": one.relative if isfinite(one.relative) else None,
        "lower": one.lower,
        "upper": one.upper,
        "moved": one.moved,
        "p_fall": one.fall.p,
        "p_rise": one.rise.p,
    }


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _printable(text: str) -> str:
    """Replace what neither a terminal nor XML can hold; names of models are data."""
    return "".join(one if one.isprintable() else " " for one in text)


def _plain(text: str) -> str:
    """Keep a name from being read as Markdown's HTML or mentions."""
    return _printable(text).replace("<", "&lt;").replace(" @", " &#64;")


def _code(text: str) -> str:
    return f"`{_printable(text).replace('`', ' ').replace('|', chr(92) + '|')}`"
