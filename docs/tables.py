"""Write from the code what the code knows: tables of the documentation, between their markers, and the probes' schema.

    python docs/tables.py          rewrite the files
    python docs/tables.py --check  exit 1 if a file would change (a test runs this)

A table that is typed by hand is wrong after the next change; text around the markers is written by hand and stays.
"""

from __future__ import annotations

import json
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


def probe_keys_table() -> str:
    """Give one row per key of `probe.yaml`."""
    from sidecar.probesets.manifest import Manifest

    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    for name, field in Manifest.model_fields.items():
        default = (
            "required" if field.is_required() else f"`{_shown(field.default)}`" if field.default != "" else "empty"
        )
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(rows)


def lint_table() -> str:
    """Give one row per rule of `probes lint`."""
    from sidecar.probesets.lint import RULES

    rows = ["| rule | severity | what holds |", "| --- | --- | --- |"]
    return "\n".join(rows + [f"| `{name}` | {severity} | {what} |" for name, (severity, what) in RULES.items()])


def alerts_table() -> str:
    """Give one row per alert and severity, in the order of the rule files."""
    import yaml

    rows = ["| alert | severity | after | what it says |", "| --- | --- | --- | --- |"]
    seen: set[tuple[str, ...]] = set()
    for file in ("alerts", "slo-7d"):  # the other file of the objective differs in its thresholds only
        content = yaml.safe_load((HERE.parent / "dashboards" / "rules" / f"{file}.yaml").read_text(encoding="utf-8"))
        for rule in (rule for group in content["groups"] for rule in group["rules"] if "alert" in rule):
            name, labels = rule["alert"], rule["labels"]
            details = [f"{label} {labels[label]}" for label in ("loop", "fall") if label in labels]
            key = (name, labels["severity"], *details)
            assert key not in seen, f"two rules are {key}"
            seen.add(key)
            link = f"[`{name}`](runbooks/{name.lower()}.md)"
            after, said = rule.get("for", "at once"), rule["annotations"]["summary"]
            rows.append(f"| {' '.join([link, *details])} | {labels['severity']} | {after} | {said} |")
    return "\n".join(rows)


def schema() -> str:
    """Give the JSON schema of `probe.yaml`."""
    from sidecar.probesets.manifest import json_schema

    return json.dumps(json_schema(), indent=2) + "\n"


def render(file: Path, *tables: str) -> str:
    """Give the file's text with the tables between its pairs of markers, in their order."""
    done, rest = "", file.read_text(encoding="utf-8")
    for table in tables:
        head, begin, rest = rest.partition(BEGIN)
        _, end, rest = rest.partition(END)
        if not begin or not end:
            raise SystemExit(f"{file.name}: the table's markers are missing")
        done += f"{head}{BEGIN}\n{table}\n{END}"
    return done + rest


def main(*, check: bool) -> int:
    """Rewrite the files, or only compare."""
    stale = []
    for file, text in (
        (HERE / "settings.md", render(HERE / "settings.md", settings_table())),
        (HERE / "metrics.md", render(HERE / "metrics.md", metrics_table())),
        (HERE / "alerts.md", render(HERE / "alerts.md", alerts_table())),
        (HERE / "probe-sets.md", render(HERE / "probe-sets.md", probe_keys_table(), lint_table())),
        (HERE.parent / "probes" / "probe.schema.json", schema()),
    ):
        if not file.exists() or text != file.read_text(encoding="utf-8"):
            stale.append(file.name)
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
