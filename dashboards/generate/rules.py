"""What the dashboards share with the rules in `dashboards/rules`: runbooks of alerts, and windows of the burn rate."""

from __future__ import annotations

from pathlib import Path

import yaml
from grafana_foundation_sdk.models import dashboard as model

RULES = Path(__file__).parents[1] / "rules"
RUNBOOKS = "https://rag-drift.example/runbooks/"
"""The base of the rules' `runbook_url`; the chart puts the real one in its place, in rules and dashboards alike."""

BURN_WINDOWS = (("1h", "5m", 13.44), ("6h", "30m", 3.5), ("1d", "2h", 1.4), ("3d", "6h", 0.98))
"""Long window, short window, and the burn rate from which both alert, for an objective over seven days."""


def alert_names() -> list[str]:
    """List the alerts of the rule files."""
    names: set[str] = set()
    for file in sorted(RULES.glob("*.yaml")):
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]:
            names |= {rule["alert"] for rule in group["rules"] if "alert" in rule}
    return sorted(names)


def runbook_files() -> model.ValueMap:
    """Map an alert to its runbook's file: neither PromQL nor a link of Grafana can write in lower case."""
    return model.ValueMap(
        {
            name: model.ValueMappingResult(text=f"{name.lower()}.md", index=place)
            for place, name in enumerate(alert_names())
        }
    )
