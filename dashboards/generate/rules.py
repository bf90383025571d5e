"""What the dashboards share with the rules in `dashboards/rules`: runbooks, and the burn rate's windows and limits."""

from __future__ import annotations

from pathlib import Path

import yaml
from grafana_foundation_sdk.models import dashboard as model

RULES = Path(__file__).parents[1] / "rules"
RUNBOOKS = "https://rag-drift.example/runbooks/"
"""The base of the rules' `runbook_url`; the chart puts the real one in its place, in rules and dashboards alike."""

BURN_WINDOWS = (("1h", "5m"), ("6h", "30m"), ("1d", "2h"), ("3d", "6h"))
"""Long and short window. The burn rate from which both alert is the loaded rule file's to say: over 7 or 30 days."""


def burn_limit(window: str) -> str:
    """Select the limit that the loaded rule file has recorded for a long window. It belongs to no deployment."""
    return f'window:rag_drift_slo_burn_limit:constant{{window="{window}"}}'


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
