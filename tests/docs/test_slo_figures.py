"""The figures of docs/slo.md follow from the rule files: thresholds, least numbers of queries, and chance.

    python tests/docs/test_slo_figures.py    print the tables, to be put between the markers of docs/slo.md

A steady slice is one whose accepted behaviour spends all that it may, half of the budget. Queries of one hour resemble
each other, so n of them count as n / 2 (a variance inflation of 2). What is left is the binomial law.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import binom

from sidecar.drift.objective import SPENT_WHEN_STEADY, objective_of
from sidecar.exporter.objective_metrics import RATIO_BUCKETS
from sidecar.settings import Judge

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "slo.md"
FILES = {"7d": ROOT / "dashboards" / "rules" / "slo-7d.yaml", "30d": ROOT / "dashboards" / "rules" / "slo-30d.yaml"}
HOURS = {"5m": 1 / 12, "30m": 0.5, "1h": 1, "2h": 2, "6h": 6, "1d": 24, "3d": 72, "7d": 168, "30d": 720}
BUDGET = 1 - Judge().objective
INFLATION = 2
WEEKS = 26
LIVES, STEP_HOURS, SEED = 100, 1 / 12, 20260416
BEGIN, END = "<!-- {}: made by tests/docs/test_slo_figures.py -->", "<!-- end of {} -->"


@dataclass(frozen=True)
class Threshold:
    """One pair of windows of a rule file."""

    file: str
    severity: str
    long: str
    short: str
    burn: float
    queries: int

    @property
    def spent(self) -> float:
        """Share of the whole budget that is gone when a burn of just this much has lasted for the long window."""
        return self.burn * HOURS[self.long] / HOURS[self.file]

    @property
    def looks(self) -> int:
        """Independent queries behind the least number of queries."""
        return self.queries // INFLATION

    @property
    def bad(self) -> int:
        """Fewest bad ones of them that are above the threshold."""
        return int(self.burn * BUDGET * self.looks + 1e-9) + 1

    @property
    def chance(self) -> float:
        """Probability that a steady slice is above the threshold at one moment, with just the least number."""
        return float(binom.sf(self.bad - 1, self.looks, SPENT_WHEN_STEADY * BUDGET))

    @property
    def unreachable_from(self) -> float | None:
        """Accepted share at the lowest edge from which even nothing but bad queries stays below; None: never.

        The budget is twice that share, and no burn rate is above one over the budget.
        """
        share = SPENT_WHEN_STEADY / self.burn
        return share if share < SPENT_WHEN_STEADY else None


def thresholds() -> list[Threshold]:
    """Read the pairs of windows out of the rule files."""
    found = []
    for name, file in FILES.items():
        for rule in yaml.safe_load(file.read_text())["groups"][0]["rules"]:
            burns = re.findall(r"slo_burn:ratio_rate(\w+) > ([\d.]+)", rule["expr"])
            least = dict(re.findall(r"rag_drift_agreement_ratio_count\[(\w+)\]\)\) >= (\d+)", rule["expr"]))
            for (long, burn), (short, same) in zip(burns[::2], burns[1::2], strict=True):
                assert burn == same
                found.append(Threshold(name, rule["labels"]["severity"], long, short, float(burn), int(least[long])))
    return found


@cache
def false_alarms(one: Threshold, spent: float = SPENT_WHEN_STEADY) -> float:
    """Simulate how often a steady slice with just the least traffic is called burning in half a year.

    It spends this share of its budget. Pairs of alike queries come evenly; both windows are looked at every five
    minutes. Alarms less than the long window apart are one.
    """
    random = np.random.default_rng(SEED)
    rate = one.looks / HOURS[one.long]
    times = np.arange(HOURS[one.long], WEEKS * 168, STEP_HOURS)
    last = np.floor(times * rate).astype(int)
    firsts = [np.floor((times - HOURS[window]) * rate).astype(int) for window in (one.long, one.short)]
    alarms = 0
    for _ in range(LIVES):
        bad = np.cumsum(np.r_[0, random.random(last[-1]) < spent * BUDGET])
        shares = [(bad[last] - bad[first]) / np.maximum(last - first, 1) for first in firsts]
        above = np.flatnonzero((shares[0] > one.burn * BUDGET) & (shares[1] > one.burn * BUDGET))
        alarms += int(above.size > 0) + int((np.diff(above) * STEP_HOURS > HOURS[one.long]).sum())
    return alarms / LIVES


def chances_table() -> str:
    """Give a row for each pair of windows."""
    columns = (
        "file", "severity", "windows", "burn above", "spent by then", "queries at least", "bad, of independent ones",
        "chance in one look", "false alarms in 26 weeks",
    )  # fmt: skip
    rows = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for one in thresholds():
        cells = (
            f"`slo-{one.file}.yaml`",
            one.severity,
            f"{one.long} and {one.short}",
            f"{one.burn:g}",
            f"{100 * one.spent:.3g} %",
            f"{one.queries:,}",
            f"{one.bad} of {one.looks}",
            f"{one.chance:.1e}",
            f"{false_alarms(one):.2f}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def reach_table() -> str:
    """Give the accepted shares from which each threshold cannot be reached any more."""
    rows = ["| file | windows | burn above | out of reach from an accepted share of |", "| --- | --- | --- | --- |"]
    for one in thresholds():
        share = one.unreachable_from
        shown = "never" if share is None else f"{100 * share:.1f} %"
        rows.append(f"| `slo-{one.file}.yaml` | {one.long} and {one.short} | {one.burn:g} | {shown} |")
    return "\n".join(rows)


TABLES = {"chances": chances_table, "reach": reach_table}


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_the_page_are_recomputed_from_the_rule_files(name):
    """What the page says of the thresholds is what they are and what follows from them."""
    _, begin, rest = PAGE.read_text().partition(BEGIN.format(name))
    told, end, _ = rest.partition(END.format(name))
    assert all((begin, end)), f"docs/slo.md has no markers for the table {name}"
    assert told.strip() == TABLES[name](), f"run: python {Path(__file__).relative_to(ROOT)}"


def test_a_steady_slice_reaches_no_threshold_by_chance_in_one_look():
    """The least numbers are large enough for what the rule files say of them: at most one look of 500."""
    assert {f"{one.file} {one.long}": one.chance for one in thresholds() if one.chance > 1 / 500} == {}


@pytest.mark.parametrize("one", thresholds(), ids=lambda one: f"{one.file}-{one.long}")
def test_twice_the_traffic_or_half_of_the_accepted_burn_leaves_no_false_alarms(one):
    """So says the page of the simulation: 0.01 in 26 weeks at most."""
    assert false_alarms(replace(one, queries=2 * one.queries)) <= 0.01
    assert false_alarms(one, SPENT_WHEN_STEADY / 2) <= 0.01


def test_each_window_has_a_least_number_in_both_files():
    """Without one, the first bad query of a quiet night would be a burn of 20."""
    assert [(one.file, one.long) for one in thresholds()] == [
        (file, window) for file in ("7d", "30d") for window in ("1h", "6h", "1d", "3d")
    ]


@pytest.mark.parametrize("one", thresholds(), ids=lambda one: f"{one.file}-{one.long}")
def test_from_the_share_in_the_table_on_a_threshold_is_out_of_reach(one):
    """The share is the very border: a little below it a slice with nothing but bad queries is above the threshold."""
    share = one.unreachable_from
    if share is None:
        assert one.burn <= 1
        return
    most = {}
    for accepted in (share - 0.001, share + 0.001):
        collapsed = round(1_000_000 * accepted)
        objective = objective_of([collapsed, *[0] * 99, 1_000_000 - collapsed], RATIO_BUCKETS, Judge().objective)
        most[accepted] = 1 / objective.budget
    below, above = most.values()
    assert below > one.burn > above


def test_a_slice_spends_at_most_half_of_its_budget_as_it_was_accepted():
    """Whatever the accepted histogram is, and whatever the target: so says the page."""
    random = np.random.default_rng(SEED)
    burns = []
    for target in (0.94, 0.95, 0.99):
        for _ in range(200):
            histogram = np.zeros(101, dtype=int)
            histogram[::10] = random.multinomial(5000, random.dirichlet(np.full(11, 0.5)))
            found = objective_of(histogram.tolist(), RATIO_BUCKETS, target)
            if found is not None:
                burns.append(found.accepted / found.budget)
    assert len(burns) > 500
    assert max(burns) <= 0.5
    assert max(burns) > 0.499  # and some spend all of the half: the table is about these


if __name__ == "__main__":
    for name, table in TABLES.items():
        print(f"{BEGIN.format(name)}\n{table()}\n{END.format(name)}\n")
