"""`rag-drift plan`: what traffic finds which fall, and how late. Asks `drift.planner`, and shows what is assumed."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sidecar.drift.planner import (
    DROPS,
    Pager,
    assumed_channel,
    calibration_needed,
    delay,
    queries_per_day_needed,
    resized,
    smallest_visible_drop,
    visible,
)
from sidecar.errors import ConfigurationError
from sidecar.judge.options import JudgeOptions
from sidecar.judge.signal_watch import WHOLE_WEIGHT

if TYPE_CHECKING:
    from sidecar.drift.baseline import ChannelBaseline
    from sidecar.drift.planner import Delay

DAYS = {"s": 1 / 86_400, "m": 1 / 1_440, "min": 1 / 1_440, "h": 1 / 24, "d": 1.0, "w": 7.0}
JUDGE = JudgeOptions(signals=("overlap",))
"""The judge's defaults: what the plan assumes of it."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for, in days, weeks and shares. `slices` share the traffic equally; 0 for none."""

    drop: float
    within_days: float
    weeks: float
    slices: int
    signals: int
    calibration_days: float
    queries_per_day: float | None
    channel: ChannelBaseline
    measured: bool = False
    """Whether the channel is a baseline in force, whose size is as it is, and not an assumed one."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The whole stream or one slice: its share of the traffic, its say in the pager, its smallest calibration."""

    name: str
    share: float
    pager: Pager
    min_queries: int


def run_plan(
    *,
    drop: str,
    within: str,
    false_pages: str,
    slices: int,
    signals: int,
    mean: float,
    sd: float,
    kappa: float,
    calibration: str,
    queries_per_day: float | None,
    as_json: bool,
    measured: ChannelBaseline | None = None,
) -> None:
    """Print the plan; `measured` is a baseline to use instead of an assumed one.

    Raises:
        ConfigurationError: an option cannot be read or breaks a rule, and the message names both; or out of range.
    """
    if queries_per_day is not None and not (queries_per_day > 0 and math.isfinite(queries_per_day)):
        raise ConfigurationError(f"--queries-per-day: {queries_per_day:g} is not above 0")
    if slices < 0:
        raise ConfigurationError(f"--slices: {slices} is below 0; 0 is a stream without slices")
    if signals < 1:
        raise ConfigurationError(f"--signals: {signals} is below 1")
    try:
        channel = measured or assumed_channel(
            JUDGE.min_queries, mean=mean, sd=sd, kappa=kappa, alpha0=JUDGE.error, tolerance=JUDGE.tolerance
        )
    except ValueError as error:
        raise ConfigurationError(f"--mean, --sd, --kappa: {error}") from None
    wish = Wish(
        drop=share_of("--drop", drop),
        within_days=days_of("--within", within),
        weeks=weeks_of("--false-pages", false_pages),
        slices=slices,
        signals=signals,
        calibration_days=days_of("--calibration", calibration),
        queries_per_day=queries_per_day,
        channel=channel,
        measured=measured is not None,
    )
    try:
        plan = make_plan(wish)
    except OverflowError:
        raise ConfigurationError("these numbers lead to delays beyond reckoning") from None
    if as_json:
        print(json.dumps(plan, indent=2))  # noqa: T201  (the output)
    else:
        show(wish, plan)


def make_plan(wish: Wish) -> dict[str, Any]:
    """Give the plan as plain JSON values: delays in queries and days, None for what is never seen."""
    answer: dict[str, Any] = {
        "assumed": {
            "baseline": "measured" if wish.measured else "assumed",
            "mean": wish.channel.mean,
            "sd": wish.channel.sd,
            "kappa": wish.channel.kappa,
            "baseline_error": JUDGE.error,
            "tolerance": wish.channel.tolerance,
            "calibration_days": wish.calibration_days,
            "weeks_between_false_pages": wish.weeks,
            "signals": wish.signals,
            "slices": wish.slices,
        }
    }
    if wish.queries_per_day is None:
        answer["asked"] = {"drop": wish.drop, "within_days": wish.within_days}
        answer["needed"] = [_needed(wish, scope) for scope in scopes(wish)]
    else:
        answer["queries_per_day"] = wish.queries_per_day
        answer["sees"] = [_sees(wish, scope, wish.queries_per_day) for scope in scopes(wish)]
    return answer


def scopes(wish: Wish) -> list[Scope]:
    """Give the whole stream, and one slice of equal share, with the weights that the judge gives them."""
    whole = WHOLE_WEIGHT if wish.slices else 1.0
    found = [Scope("whole stream", 1.0, Pager(wish.weeks, whole / wish.signals), JUDGE.min_queries)]
    if wish.slices:
        weight = (1.0 - WHOLE_WEIGHT) / wish.slices / wish.signals
        name = f"one of {wish.slices} slices" if wish.slices > 1 else "the slice"
        found.append(Scope(name, 1.0 / wish.slices, Pager(wish.weeks, weight), JUDGE.min_slice_queries))
    return found


def _needed(wish: Wish, scope: Scope) -> dict[str, Any]:
    own = queries_per_day_needed(
        wish.channel,
        wish.drop,
        wish.within_days,
        scope.pager,
        calibration_days=wish.calibration_days,
        min_queries=scope.min_queries,
        alpha0=JUDGE.error,
    )
    answer: dict[str, Any] = {
        "scope": scope.name,
        "queries_per_day": None if own is None else math.ceil(own),
        "stream_queries_per_day": None if own is None else math.ceil(own / scope.share),
        "smallest_calibration_queries": scope.min_queries,
        "visible_after_calibration_queries": calibration_needed(wish.channel, wish.drop, JUDGE.error),
    }
    if own is None:
        return answer | dict.fromkeys(("calibration_queries", "calibration_days", "smallest_visible_drop", "delay"))
    channel, days = _calibrated(wish, scope, own)
    return answer | {
        "calibration_queries": channel.n,
        "calibration_days": days,
        "smallest_visible_drop": smallest_visible_drop(channel),
        "delay": _delay(delay(channel, wish.drop, own, scope.pager), own),
    }


def _sees(wish: Wish, scope: Scope, stream: float) -> dict[str, Any]:
    own = stream * scope.share
    channel, days = _calibrated(wish, scope, own)
    drops = sorted({*DROPS, wish.drop})
    return {
        "scope": scope.name,
        "queries_per_day": own,
        "calibration_queries": channel.n,
        "calibration_days": days,
        "smallest_visible_drop": smallest_visible_drop(channel),
        "drops": [
            {"drop": sight.drop, "delay": _delay(sight.delay, own)}
            for sight in visible(channel, own, scope.pager, drops)
        ],
    }


def _calibrated(wish: Wish, scope: Scope, own: float) -> tuple[ChannelBaseline, float]:
    """Give the baseline that this traffic leads to, and how long its calibration lasts in days."""
    if wish.measured and scope.share == 1.0 and wish.queries_per_day is not None:
        return wish.channel, wish.channel.n / own
    n = max(scope.min_queries, wish.calibration_days * own)
    return resized(wish.channel, n, JUDGE.error), n / own


def _delay(found: Delay | None, own: float) -> dict[str, float | None] | None:
    if found is None:
        return None
    late = found.p90
    return {
        "median_queries": round(found.median),
        "median_days": found.median / own,
        "p90_queries": None if late is None else round(late),
        "p90_days": None if late is None else late / own,
    }


def show(wish: Wish, plan: dict[str, Any]) -> None:
    """Print the plan for people."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=120, highlight=False)
    promise = f"at most 1 false page in {_duration(wish.weeks * 7)}, over {_all(wish)} together"
    if wish.queries_per_day is None:
        title = (
            f"To page about a fall of {_percent(wish.drop)} within {_duration(wish.within_days)} (median); {promise}"
        )
        console.print(title, style="bold")
        console.print(_needed_table(plan["needed"]))
    else:
        console.print(f"What {_count(wish.queries_per_day)} replayed queries a day can see; {promise}", style="bold")
        console.print(_sees_table(plan["sees"]))
        for scope in plan["sees"]:
            console.print(
                f"{scope['scope']}: {_count(scope['queries_per_day'])} queries a day, baseline of "
                f"{_count(scope['calibration_queries'])} queries ({_duration(scope['calibration_days'])}), "
                f"smallest visible fall {_least(scope['smallest_visible_drop'])}"
            )
    for line in _notes(wish):
        console.print(line, style="dim")


def _needed_table(needed: list[dict[str, Any]]) -> Table:
    table = Table()
    table.add_column("")
    for scope in needed:
        table.add_column(scope["scope"], justify="right")

    def row(name: str, cells: list[str]) -> None:
        table.add_row(name, *cells)

    row(f"replayed queries a day{' in it' * (len(needed) > 1)}", [_count(one["queries_per_day"]) for one in needed])
    if len(needed) > 1:
        row("replayed queries a day, whole stream", [_count(one["stream_queries_per_day"]) for one in needed])
    row("page after: median (queries)", [_late(one["delay"], "median") for one in needed])
    row("page after: about 9 times of 10", [_late(one["delay"], "p90") for one in needed])
    row("calibration (queries)", [_calibration(one) for one in needed])
    row("smallest visible fall after it", [_least(one["smallest_visible_drop"]) for one in needed])
    row("calibration to see this fall at all", [_at_all(one) for one in needed])
    return table


def _sees_table(sees: list[dict[str, Any]]) -> Table:
    table = Table()
    table.add_column("fall", justify="right")
    for scope in sees:
        table.add_column(f"{scope['scope']}:\nmedian (queries)", justify="right")
        table.add_column("\nabout 9 times of 10", justify="right")
    for place, line in enumerate(sees[0]["drops"]):
        cells = []
        for scope in sees:
            found = scope["drops"][place]["delay"]
            cells += [_late(found, "median"), _late(found, "p90")]
        table.add_row(_percent(line["drop"]), *cells)
    return table


def _notes(wish: Wish) -> list[str]:
    channel = wish.channel
    kind = "Measured baseline" if wish.measured else "Assumed"
    notes = [
        (
            f"{kind}: mean {channel.mean:.3g}, standard deviation {channel.sd:.3g}, kappa {channel.kappa:.3g} (queries "
            f"alike inflate the variance), baseline error {_percent(JUDGE.error)}, tolerance {channel.tolerance:.2g}."
        ),
        (
            "Steady traffic, slices of equal share, a fall at once and to stay. Queries are replayed ones: with "
            "sampling.rate 0.1 ten times as many are asked."
        ),
        (
            "Predictions: the median is within 0.7 to 1.4 times that of simulated streams (docs/planner.md). The "
            "promise about false pages is not a prediction."
        ),
    ]
    if wish.queries_per_day is not None or wish.drop < JUDGE.min_effect:
        notes.append(
            f"A page also needs an estimated fall of {_percent(JUDGE.min_effect)} (judge.min_effect); a smaller one "
            "makes a ticket."
        )
    return notes


def share_of(option: str, text: str) -> float:
    """Read `5%` or `0.05`, above 0 and below 1.

    Raises:
        ConfigurationError: it is neither.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", text)
    value = float(found[1]) / (100 if found[2] else 1) if found else math.nan
    if not 0 < value < 1:
        raise ConfigurationError(f"{option}: {text!r} is not a share above 0 % and below 100 %; write 5% or 0.05")
    return value


def days_of(option: str, text: str) -> float:
    """Read a duration such as `90min`, `24h`, `1d` or `2w`, in days.

    Raises:
        ConfigurationError: it is none, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(s|min|m|h|d|w)\s*", text)
    days = float(found[1]) * DAYS[found[2]] if found else 0.0
    if not 0 < days < math.inf:
        raise ConfigurationError(
            f"{option}: {text!r} is not a duration above 0; write a number and s, min, h, d or w: 90min, 24h, 1d, 2w"
        )
    return days


def weeks_of(option: str, text: str) -> float:
    """Read how often a false page is accepted, `1/26w` or `2/1w`, as weeks from one to the next.

    Raises:
        ConfigurationError: it is not a count above 0 and a duration.
    """
    count, slash, duration = text.partition("/")
    if not slash or not re.fullmatch(r"\s*\d+\s*", count) or int(count) == 0:
        raise ConfigurationError(f"{option}: {text!r} is not a count and a duration; write 1/26w: one in 26 weeks")
    return days_of(option, duration) / 7 / int(count)


def _late(found: dict[str, float | None] | None, which: str) -> str:
    if found is None:
        return "never"
    queries, days = found[f"{which}_queries"], found[f"{which}_days"]
    return "not assured" if queries is None or days is None else f"{_duration(days)} ({_count(queries)})"


def _calibration(one: dict[str, Any]) -> str:
    if one["calibration_queries"] is None:
        return "-"
    return f"{_duration(one['calibration_days'])} ({_count(one['calibration_queries'])})"


def _at_all(one: dict[str, Any]) -> str:
    least, smallest = one["visible_after_calibration_queries"], one["smallest_calibration_queries"]
    if least is None:
        return "none is enough"
    return f"{_count(least)} queries" if least > smallest else f"any ({_count(smallest)} queries at least)"


def _least(drop: float | None) -> str:
    """Show a smallest fall: two digits, rounded up."""
    if drop is None:
        return "-"
    step = 10.0 ** (math.floor(math.log10(drop)) - 1)
    return _percent(math.ceil(drop / step - 1e-9) * step)


def _all(wish: Wish) -> str:
    signals = "1 signal" if wish.signals == 1 else f"{wish.signals} signals"
    if not wish.slices:
        return f"{signals}, no slices,"
    return f"{signals}, the whole stream and {wish.slices} slice{'s' if wish.slices > 1 else ''}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _count(value: float | None) -> str:
    """Round up to two digits: a prediction has no more, and less traffic would not do."""
    if value is None:
        return "no number is enough"
    step = 10 ** max(0, math.floor(math.log10(value)) - 1) if value >= 1 else 1
    return f"{math.ceil(value / step - 1e-9) * step:,}"


def _duration(days: float) -> str:
    """Show the largest unit that fits, and the next one where it says something."""
    minutes, hours = max(1, round(1_440 * days)), round(24 * days)
    if minutes > 10_080 and minutes % 10_080 == 0:
        return f"{minutes // 10_080} weeks"
    if hours >= 240:
        return f"{round(days)} d"
    large, small, unit, below = (hours, 24, "d", "h") if hours >= 24 else (minutes, 60, "h", "min")
    whole, rest = divmod(large, small)
    return " ".join(f"{number} {name}" for number, name in ((whole, unit), (rest, below)) if number)
