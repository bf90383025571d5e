"""Write the tables of `settings.md` and `metrics.md` from the code, between their markers.

    python docs/tables.py          rewrite the files
    python docs/tables.py --check  exit 1 if a file would change (a test runs this)

A table that is typed by hand is wrong after the next change; text around the markers is written by hand and stays.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic_core import PydanticUndefined

HERE = Path(__file__).parent
BEGIN, END = "<!-- table: made by docs/tables.py -->", "<!-- end of table -->"


def settings_table() -> str:
    """Give one row per setting, with default, environment twin and description."""
    from sidecar.settings import environment_name, leaves

    rows = ["| setting | default | environment | meaning |", "| --- | --- | --- | --- |"]
    for path, field in leaves():
        default = "required" if field.default is PydanticUndefined else f"`{_shown(field.default)}`"
        rows.append(f"| `{path}` | {default} | `{environment_name(path)}` | {field.description} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """Give one row per metric family of our own, as a running sidecar registers them."""
    rows = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for name, kind, labels, text in metric_families():
        shown = ", ".join(f"`{label}`" for label in labels)
        rows.append(f"| `{name}` | {kind} | {shown} | {text} |")
    return "\n".join(rows)


def metric_families() -> list[tuple[str, str, list[str], str]]:
    """List (name as queried, type, labels, help) of every family with our prefix."""
    from sidecar.exporter.intake_collector import IntakeCollector
    from sidecar.exporter.metrics import Metrics

    metrics = Metrics(signals=["overlap@10"], k=10, version="0", pages=26.0, tickets=4.0, now=lambda: 0.0)
    intake = IntakeCollector()
    labels = {
        collector._name: list(collector._labelnames)  # noqa: SLF001  (client_python has no public way)
        for collector in metrics.registry._collector_to_names  # noqa: SLF001
        if hasattr(collector, "_labelnames")
    }
    families = []
    for family in (*metrics.registry.collect(), *intake.collect()):
        if not family.name.startswith("rag_drift_"):
            continue
        names = labels.get(family.name) or sorted({name for sample in family.samples for name in sample.labels})
        queried = {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(family.type, family.name)
        families.append((queried, family.type, names, family.documentation))
    return sorted(families)


def render(file: Path, table: str) -> str:
    """Give the file's text with `table` between the markers."""
    head, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{file.name}: the table's markers are missing")
    return f"{head}{BEGIN}\n{table}\n{END}{tail}"


def main(*, check: bool) -> int:
    """Rewrite the files, or only compare."""
    stale = []
    for name, table in (("settings.md", settings_table()), ("metrics.md", metrics_table())):
        file = HERE / name
        text = render(file, table)
        if text != file.read_text(encoding="utf-8"):
            stale.append(name)
            if not check:
                file.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'is stale, run python docs/tables.py' if check else 'rewritten'}")
    return 1 if check and stale else 0


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value)


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv))
