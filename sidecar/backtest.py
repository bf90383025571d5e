"""Write recorded observations to a file, and run the judge over such a file: what would have been raised?

For choosing settings on one's own traffic before the pager depends on them, and for asking afterwards when an event
would have been found. The judge is the one of production; only the lease and Redis are missing. A file has one JSON
object a line, as `rag-drift observations` writes them; it holds no query text.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from types import NoneType
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sidecar.errors import DataError
from sidecar.judge.judgement import Judgement
from sidecar.judge.options import JudgeOptions
from sidecar.model import STACK_PARTS, Alarm, Observation, Stack
from sidecar.operate import opened_store
from sidecar.options import judge_options
from sidecar.settings_sources import load
from sidecar.store import audit_json
from sidecar.weekly import FALSE_DISCOVERIES, Weekly

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sidecar.model import AuditEvent
    from sidecar.settings import Settings
    from sidecar.weekly import WeekRow

WEEK_SECONDS = 604_800
LATEST = 1e11
"""Unix seconds beyond this are milliseconds."""

REQUIRED = {"id", "entry_id", "at", "slice", "weight", "values", "stack"}
OPTIONAL = {"session", "step", "cluster"}
STACK_PARTS_REQUIRED = set(STACK_PARTS[:4])


@dataclass(slots=True)
class Backtest:
    """What the judge raised over a file."""

    observations: int = 0
    first_at: float | None = None
    last_at: float | None = None
    events: list[AuditEvent] = field(default_factory=list)
    judgement: Judgement | None = None
    weekly: list[WeekRow] = field(default_factory=list)

    @property
    def weeks(self) -> float:
        """Weeks between the first and the last observation."""
        return 0.0 if self.first_at is None or self.last_at is None else (self.last_at - self.first_at) / WEEK_SECONDS


def tried_options(config: Path | None, signals: Sequence[str], changes: Mapping[str, Any]) -> JudgeOptions:
    """Give the judge's options of the settings file, or the defaults, with what the command line changes.

    Raises:
        ConfigurationError: the settings are not valid.
    """
    options = JudgeOptions(("overlap@10",)) if config is None else judge_options(load(config))
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if signals:
        given["signals"] = tuple(signals)
    return replace(options, **given)


async def export_observations(settings: Settings, out: IO[str]) -> int:
    """Write the observations that Redis keeps, oldest first; give their number.

    Raises:
        StoreError: Redis is not reachable.
    """
    count = 0
    async with opened_store(settings) as store:
        async for identity, observation in store.all_observations():
            out.write(json.dumps({"id": identity, **asdict(observation)}, separators=(",", ":")) + "\n")
            count += 1
    return count


def replay_log(file: Path, options: JudgeOptions, *, by_week: bool = False) -> Backtest:
    """Feed every observation of the file to a new judge, in the file's order; `by_week` adds the weekly list.

    Raises:
        DataError: a line cannot be read; it is named with the rule that it breaks. Or the signal is in none.
    """
    test = Backtest(judgement=Judgement(options))
    assert test.judgement is not None  # noqa: S101  (given in the line above)
    weekly = Weekly() if by_week else None
    seen: set[str] = set()
    for identity, observation in _read(file):
        test.observations += 1
        seen.update(observation.values)
        test.first_at = observation.at if test.first_at is None else test.first_at
        test.last_at = observation.at
        test.events += test.judgement.feed(identity, observation)
        if weekly is not None:
            weekly.add(test.judgement, observation)
    if seen and options.signals[0] not in seen:
        have = ", ".join(sorted(seen))
        raise DataError(f"{file.name}: no observation has the signal {options.signals[0]}; there are {have}")
    if weekly is not None:
        test.weekly = weekly.rows(test.judgement)
    return test


def show(test: Backtest, *, as_json: bool) -> None:
    """Print the events and what they amount to."""
    judgement = test.judgement
    counts = Counter(audit_json(event)["kind"] for event in test.events)
    summary: dict[str, Any] = {
        "observations": test.observations,
        "weeks": round(test.weeks, 3),
        **{kind: counts[kind] for kind in ("alarm", "alarm_escalated", "alarm_ended", "ticket", "baseline_accepted")},
        "verdicts": [] if judgement is None else [asdict(verdict) for verdict in judgement.verdicts()],
    }
    if as_json:
        events = [audit_json(event) for event in test.events]
        found = {"events": events, **summary, "weekly": [asdict(row) for row in test.weekly]}
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    console = Console()
    if not console.is_terminal:  # a pipe has no width: cells cut to fit 80 columns could not be searched
        console = Console(width=200)
    table = Table(title="what the judge would have raised", title_justify="left")
    for name in ("time", "event", "signal", "slice", "what"):
        table.add_column(name)
    for event in test.events:
        table.add_row(*_row(event))
    console.print(table)
    if test.weekly:
        console.print(_weekly_table(test.weekly))
    console.print(
        f"{test.observations} observations over {test.weeks:.1f} weeks: {counts['alarm']} alarms, "
        f"{counts['ticket']} tickets, {counts['baseline_accepted']} baselines"
    )
    for verdict in [] if judgement is None else judgement.verdicts():
        if verdict.state == "calibrating":
            console.print(f"{verdict.signal} {verdict.slice}: still calibrating, {verdict.progress:.0%}")


def _row(event: AuditEvent) -> tuple[str, ...]:
    plain = audit_json(event)
    if isinstance(event, Alarm):
        fall = f"{event.baseline:.3f} -> {event.level:.3f} ({-event.drop:+.0%}, biased)"
        what = f"{event.severity}: {fall}, since {_time(event.start)}"
    elif plain["kind"] == "ticket":
        what = f"{plain['direction']}: {plain['baseline']:.3f} -> {plain['level']:.3f}"
    elif plain["kind"] == "baseline_accepted":
        what = f"mean {plain['mean']:.3f}, tested against {plain['lower']:.3f}, {plain['queries']} queries"
    else:
        what = str(plain.get("severity") or plain.get("how") or "")
    return _time(event.at), plain["kind"], plain.get("signal", ""), plain.get("slice", ""), what


def _weekly_table(rows: Sequence[WeekRow]) -> Table:
    caption = f"p: Mann-Whitney for a fall, Benjamini-Hochberg; marked by e-BH at {FALSE_DISCOVERIES:.0%} false marks"
    table = Table(title="week by week against the baseline", title_justify="left", caption=caption)
    for name in ("week of", "signal", "slice", "queries", "mean", "change", "95 % interval", "Cliff's d", "p", "e", ""):
        table.add_column(name)
    for row in rows:
        one = row.comparison
        table.add_row(
            _time(row.started_at)[:10],
            row.signal,
            row.slice,
            str(one.n_after),
            f"{one.mean_after:.3f}",
            "" if one.relative is None else f"{one.relative:+.1%}",
            "" if one.interval is None else f"{one.interval.lower:+.3f} to {one.interval.upper:+.3f}",
            f"{one.cliffs_delta:+.2f}",
            f"{row.p:.2g}",
            f"{row.e_value:.2g}",
            "fell" if row.marked else "",
        )
    return table


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _read(file: Path) -> Iterator[tuple[str, Observation]]:
    try:
        with file.open(encoding="utf-8") as lines:
            yield from _parse(lines, file.name)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None


def _parse(lines: Iterable[str], name: str) -> Iterator[tuple[str, Observation]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _observation(json.loads(line))
            except (ValueError, TypeError, AttributeError) as error:
                # Never the content of a field: a file that is another one may hold the text of queries.
                rule = error.args[0] if isinstance(error, _BrokenRuleError) else "it is no JSON object of that shape"
                raise DataError(
                    f"{name}:{number}: not an observation as `rag-drift observations` writes them: {rule}"
                ) from None


class _BrokenRuleError(ValueError):
    """A field breaks a rule that the message names; the message holds nothing of the field's content."""


def _observation(content: dict[str, Any]) -> tuple[str, Observation]:
    """Check every field of a line."""
    if missing := sorted(REQUIRED - content.keys()):
        raise _BrokenRuleError(f"{', '.join(missing)} missing")
    if unknown := len(content.keys() - REQUIRED - OPTIONAL):
        raise _BrokenRuleError(f"{unknown} unknown fields")
    for field_name, kinds in (
        ("id", str), ("entry_id", str), ("slice", str), ("at", (int, float)), ("weight", (int, float)),
        ("values", dict), ("stack", dict), ("session", (str, NoneType)), ("step", (int, NoneType)),
        ("cluster", (int, NoneType)),
    ):  # fmt: skip
        if not isinstance(content.get(field_name), kinds):
            raise _BrokenRuleError(f"{field_name} has another type")
    numbers = (content["at"], content["weight"], *content["values"].values())
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in numbers):
        raise _BrokenRuleError("a number is not finite")
    if not 0.0 <= content["at"] < LATEST:
        raise _BrokenRuleError("at must be unix seconds")
    if not all(0.0 <= one <= 1.0 for one in content["values"].values()) or content["weight"] < 0.0:
        raise _BrokenRuleError("values must lie in [0, 1], and weight at or above 0")
    if not STACK_PARTS_REQUIRED <= content["stack"].keys() <= set(STACK_PARTS):
        raise _BrokenRuleError("stack must name deployed and reference encoder and index")
    return content.pop("id"), Observation(**{**content, "stack": Stack(**content["stack"])})
