"""Every query of every dashboard, asked of a Prometheus: what came back, as rows and as a table for people.

The substitution of Grafana's variables is `tests.dashboards.queries`' business.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.dashboards.queries import Asked, queries

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.monitoring.servers import Prometheus

STEP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query gave: series in all, those with a number in them, and the error if it was refused."""

    asked: Asked
    series: int = 0
    numbers: int = 0
    error: str = ""


def ask_all(prometheus: Prometheus, start: float, end: float, *, one_slice: str) -> list[Answer]:
    """Ask each query as Grafana would in a window from `start` to `end`."""
    return [_ask(prometheus, one, start, end) for one in queries(one_slice=one_slice)]


def table(answers: Iterable[Answer]) -> str:
    """Write the answers as a Markdown table."""
    lines = ["| dashboard | panel | query | kind | series | with numbers | needs |", "| --- " * 7 + "|"]
    for one in answers:
        asked = one.asked
        cells = (asked.dashboard, asked.title, asked.ref, asked.kind, one.error or one.series, one.numbers)
        lines.append("| " + " | ".join(map(str, cells)) + f" | {', '.join(sorted(asked.needs))} |")
    return "\n".join(lines) + "\n"


def summary(answers: Iterable[Answer]) -> list[str]:
    """Say for each dashboard how many panels and queries there are, and how many were answered with numbers."""
    answers = list(answers)
    panels = Counter(name for name, _ in {(one.asked.dashboard, one.asked.title) for one in answers if _panel(one)})
    lines = []
    for name in sorted({one.asked.dashboard for one in answers}):
        own = [one for one in answers if one.asked.dashboard == name]
        answered = sum(one.numbers > 0 for one in own)
        series = sum(one.series for one in own)
        lines.append(f"{name}: {panels[name]} panels, {answered} of {len(own)} queries answered, {series} series")
    return lines


def _panel(answer: Answer) -> bool:
    return answer.asked.kind in {"instant", "range"}


def _ask(prometheus: Prometheus, asked: Asked, start: float, end: float) -> Answer:
    try:
        if asked.kind in {"instant", "variable"}:
            found = prometheus.query(asked.expr, end)
        else:
            found = prometheus.query_range(asked.expr, start, end, STEP_SECONDS)
    except ValueError as error:
        return Answer(asked, error=str(error))
    return Answer(asked, len(found), sum(_has_number(one) for one in found))


def _has_number(series: dict[str, Any]) -> bool:
    return any(text != "NaN" for _, text in series.get("values", [series.get("value")]))
