"""The demo's terminal: a live panel for people, plain lines where nobody watches."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

BARS = "▁▂▃▄▅▆▇█"
HISTORY = 64


@dataclass(slots=True)
class View:
    """What the panel shows; the demo's driver writes it."""

    phase: str = ""
    clock: float = 0.0
    sent: int = 0
    judged: int = 0
    fidelity: float | None = None
    verdicts: list[Mapping[str, Any]] = field(default_factory=list)
    history: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))


class Screen:
    """Shows the view several times a second, and a timeline of what happened above it."""

    def __init__(self, title: str, console: Console) -> None:
        self.view = View()
        self._title = title
        self._console = console
        self._begin = time.monotonic()
        self._live = Live(console=console, get_renderable=self._panel, refresh_per_second=4, transient=False)

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture."""
        self._live.stop()

    def tell(self, text: str, style: str = "") -> None:
        """Put a line on the timeline: seconds since the start, the demo's clock, what happened."""
        line = Text.assemble((f"{time.monotonic() - self._begin:6.1f} s  ", "dim"), (self._clock() + "  ", "dim"))
        line.append(text, style)
        self._console.print(line, soft_wrap=True)

    def _clock(self) -> str:
        at = self.view.clock
        return datetime.fromtimestamp(at, UTC).strftime("%a %d %b %H:%M") if at else " " * 16

    def _panel(self) -> Panel:
        view = self.view
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "left", "right", "right", "left", "right"):
            table.add_column(justify=justify)
        table.add_row(
            *(Text(name, "dim") for name in ("slice", "verdict", "baseline", "now", "95 % interval", "evidence"))
        )
        for verdict in view.verdicts:
            table.add_row(*self._row(verdict))
        lines: list[RenderableType] = [
            Text.assemble((view.phase, "bold"), f"   {view.sent} queries sent, {view.judged} judged")
        ]
        if view.verdicts:
            lines += [Text(), table, Text(), Text.assemble(("overlap@10 ", "dim"), self._spark())]
        if view.fidelity is not None:
            lines.append(Text(f"replay fidelity {view.fidelity:.3f}", "dim"))
        subtitle = self._clock() if view.clock else None
        return Panel(Group(*lines), title=self._title, subtitle=subtitle, title_align="left", subtitle_align="right")

    def _row(self, verdict: Mapping[str, Any]) -> list[Text]:
        state = verdict["state"]
        style = {"drifted": "bold white on red", "steady": "green", "calibrating": "yellow"}[state]
        shown = f"calibrating {verdict['progress']:.0%}" if state == "calibrating" else state
        interval = f"{verdict['lower']:.3f} to {verdict['upper']:.3f}" if verdict["lower"] is not None else ""
        return [
            Text(verdict["slice"]),
            Text(f" {shown} ", style),
            Text(_number(verdict["baseline"])),
            Text(_number(verdict["level"])),
            Text(interval),
            Text(f"{verdict['evidence']:.2g} of {verdict['threshold']:g} weeks", "red" if state == "drifted" else ""),
        ]

    def _spark(self) -> Text:
        marks = "".join(BARS[min(len(BARS) - 1, int(value * len(BARS)))] for value in self.view.history)
        return Text(marks, "cyan")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
