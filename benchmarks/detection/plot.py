"""Draw the delays at equal false alarms as an SVG that reads well on light and on dark pages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WIDTH, HEIGHT = 1000, 566
TOP, BOTTOM = 62, 400
PANELS = ((74, 440), (560, 960))
LOW, HIGH = 2.0, 60_000.0
# Label, class; the order is the order of drawing, ours last and on top.
LINES = (
    ("Evidently, window 500", "c1"), ("NannyML drift, chunk 500", "c2"), ("Frouros HDDM-A", "c3"),
    ("river Page-Hinkley", "c4"), ("river ADWIN", "c5"), ("Mann-Whitney, window 500", "c6"),
    ("fixed threshold", "c7"), ("oracle CUSUM", "oracle"), ("ours, three channels", "ours"),
)  # fmt: skip
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--ink); }
  .h { font-size: 15px; font-weight: 600; } .s { font-size: 12px; fill: var(--soft); }
  .m { text-anchor: middle; } .e { text-anchor: end; }
  svg { --page: #ffffff; --ink: #1d2733; --soft: #55657a; --grid: #dfe5ec; --ours: #1f5fbf; --c1: #b4552d;
    --c2: #8a4fb0; --c3: #2e8b57; --c4: #a07a00; --c5: #c2185b; --c6: #00838f; --c7: #7a7a7a; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #11161d; --ink: #e6ecf3; --soft: #9fb0c3; --grid: #2b3644; --ours: #6aa9ff; --c1: #e79a72;
      --c2: #c79aea; --c3: #6fd09a; --c4: #e0bf4a; --c5: #ff7fae; --c6: #4fd0dc; --c7: #b0b0b0; }
  }
  .page { fill: var(--page); } .grid { stroke: var(--grid); stroke-width: 1; }
  polyline, path { fill: none; stroke-width: 1.8; }
  .ours { stroke: var(--ours); } path.ours, polyline.ours { stroke-width: 4; } circle.ours { fill: var(--ours); }
  .oracle { stroke: var(--ink); } circle.oracle { fill: var(--ink); }
  path.oracle, polyline.oracle { stroke-width: 2; stroke-dasharray: 6 5; }
"""


def write(results: Mapping[str, Any], target: Path) -> None:
    """Draw synthetic drops on the left and recorded changes on the right."""
    worlds = results["worlds"]
    left = [change for change in worlds["iid"]["changes"] if change.startswith("tilt")]
    real = worlds["real"]["changes"]
    right = sorted((change for change in real if not real[change]["decoy"]), key=lambda change: real[change]["drop"])
    kinds = [kind for _, kind in LINES if kind.startswith("c")]
    colours = [f".{kind} {{ stroke: var(--{kind}); }} circle.{kind} {{ fill: var(--{kind}); }}" for kind in kinds]
    label = "Median delay in queries of nine detectors at the same false-alarm rate, by size of the drop"
    foot = (
        f"One false alarm per {results['plan']['rate']:,} queries for every detector. Lower is faster. "
        "A cross at the top: more than half were missed."
    )
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">',
        "\n  ".join([f"<style>{STYLE.rstrip()}", *colours]),
        "</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
        *panel(worlds["iid"], left, PANELS[0], "Synthetic: the mean of independent values falls"),
        *panel(worlds["real"], right, PANELS[1], "Recorded: real encoders, daily mix, bursts", tilted=True),
        *legend(),
        f'<text class="s" x="{PANELS[0][0]}" y="{HEIGHT - 8}">{foot}</text>',
        "</svg>",
    ]
    target.write_text("\n".join(out) + "\n", encoding="utf-8")


def height_of(delay: float) -> float:
    """Give the place of a delay on the logarithmic axis."""
    share = math.log(min(max(delay, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return BOTTOM - share * (BOTTOM - TOP)


def panel(
    world: Mapping[str, Any], changes: Sequence[str], span: tuple[int, int], title: str, *, tilted: bool = False
) -> list[str]:
    """Draw one world's delays."""
    left, right = span
    places = [left + 26 + i * (right - left - 52) / (len(changes) - 1) for i in range(len(changes))]
    out = [f'<text class="h" x="{left}" y="28">{title}</text>']
    out.append(f'<text class="s" x="{left}" y="48">median delay in queries</text>')
    for power in (10, 100, 1_000, 10_000):
        y = height_of(power)
        out.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="e s" x="{left - 8}" y="{y + 4:.1f}">{power:,}</text>')
    for x, change in zip(places, changes, strict=True):
        drop = f"{-world['changes'][change]['drop']:.0%}".replace("-", "\u2212")
        if tilted:
            place = f'transform="translate({x + 5:.1f} {BOTTOM + 14}) rotate(-28)"'
            out.append(f'<text class="e s" {place}>{change}, {drop}</text>')
        else:
            out.append(f'<text class="m s" x="{x:.1f}" y="{BOTTOM + 20}">{drop}</text>')
    for name, kind in LINES:
        if name in world["tuned"]:
            delays = world["tuned"][name]["delays"]
            out += line(kind, places, [delays[change]["median"] for change in changes])
    return out


def line(kind: str, places: Sequence[float], medians: Sequence[int | None]) -> list[str]:
    """Draw one detector: its line, a dot per median, a cross where it is beyond the limit."""
    points = [(x, height_of(HIGH if median is None else median)) for x, median in zip(places, medians, strict=True)]
    out = [f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>']
    radius = 4.5 if kind == "ours" else 3
    for (x, y), median in zip(points, medians, strict=True):
        if median is None:
            out.append(f'<path class="{kind}" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/>')
        else:
            out.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>')
    return out


def legend() -> list[str]:
    """Name the lines, ours first."""
    out = []
    for place, (name, kind) in enumerate(reversed(LINES)):
        x, y = 10 + (place % 5) * 200, BOTTOM + 112 + (place // 5) * 20
        out.append(f'<path class="{kind}" d="M{x} {y - 4}h22"/>')
        out.append(f'<text class="s" x="{x + 28}" y="{y}">{name}</text>')
    return out
