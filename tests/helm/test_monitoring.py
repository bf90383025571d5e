"""Rules and dashboards in the chart are the repository's own; monitors are the operator's way to find the sidecar."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.helm.charts import NAMES, ROOT, of_kind

RULES = ROOT / "dashboards" / "rules"
DASHBOARDS = ROOT / "dashboards" / "grafana"
BASE = "https://rag-drift.example/runbooks/"
SWITCHED = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "NetworkPolicy", "PodDisruptionBudget"}


def source(*names: str) -> list[dict[str, Any]]:
    """Give the groups of rule files."""
    return [group for name in names for group in yaml.safe_load((RULES / f"{name}.yaml").read_text("utf-8"))["groups"]]


def groups(helm, name: str) -> list[dict[str, Any]]:
    """Give the groups of a rendered PrometheusRule."""
    (one,) = of_kind(helm.manifests(name), "PrometheusRule")
    return one["spec"]["groups"]


@pytest.mark.parametrize(
    ("name", "files"),
    [("sidecar", "slo-7d"), ("pod-monitor", "slo-30d"), ("no-objective", None)],
    ids=["7d", "30d", "none"],
)
def test_the_rules_are_those_that_promtool_tests(helm, name, files):
    """Without further values the PrometheusRule is the rule files to the letter, Prometheus' templates included."""
    wanted = source("recording", "alerts", *([files] if files else []))
    assert groups(helm, name) == wanted
    assert "{{ $labels.job }}" in json.dumps(wanted)
    assert len({group["name"] for group in wanted}) == len(wanted)


def test_labels_and_runbooks_are_those_of_the_values(helm):
    """Every alert has the added label beside its own, every runbook the other base; nothing else is changed."""
    rendered, wanted = groups(helm, "monitoring"), source("recording", "alerts", "slo-7d")
    alerts = 0
    for group in wanted:
        for rule in group["rules"]:
            if "alert" in rule:
                alerts += 1
                rule["labels"] = {**rule["labels"], "team": "search"}
                page = rule["annotations"]["runbook_url"]
                assert page.startswith(BASE)
                rule["annotations"] = {
                    **rule["annotations"], "runbook_url": page.replace(BASE, "https://wiki.example/rag-drift/"),
                }  # fmt: skip
    assert rendered == wanted
    assert alerts > 10


def test_a_label_of_the_values_wins_over_the_rules_own(helm):
    """A team may lower or raise what wakes whom."""
    (one,) = of_kind(
        helm.objects("prometheusRule.enabled=true", "prometheusRule.alertLabels.severity=info"), "PrometheusRule"
    )
    severities = {r["labels"]["severity"] for group in one["spec"]["groups"] for r in group["rules"] if "alert" in r}
    assert severities == {"info"}


def test_each_dashboard_is_a_config_map_of_its_own(helm):
    """Every generated dashboard is there with label and folder for Grafana's sidecar, and leads to your runbooks."""
    made = sorted(DASHBOARDS.glob("*.json"))
    if not made:
        pytest.fail("dashboards/grafana is empty: run python -m dashboards.generate")
    theirs, default = "https://wiki.example/rag-drift/", "https://rag-drift.example/runbooks/"
    assert default in "".join(path.read_text("utf-8") for path in made)
    for name, namespace, folder, runbooks in (
        ("monitoring", "grafana", "Search", theirs),
        ("sidecar", "rag", "RAG retrieval", default),
    ):
        found = {}
        for one in of_kind(helm.manifests(name), "ConfigMap"):
            if one["metadata"]["labels"].get("grafana_dashboard") == "1":
                assert one["metadata"]["namespace"] == namespace
                assert one["metadata"]["annotations"] == {"grafana_folder": folder}
                found |= one["data"]
        assert {key: json.loads(text) for key, text in found.items()} == {
            f"rag-drift-{path.name}": json.loads(path.read_text("utf-8").replace(default, runbooks)) for path in made
        }


def test_the_service_monitor_selects_the_service_and_its_port(helm):
    """Selector, port and path lead to the sidecar's /metrics; interval, labels and relabelings are the values'."""
    manifests = helm.manifests("monitoring")
    (monitor,), (service,) = of_kind(manifests, "ServiceMonitor"), of_kind(manifests, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert (endpoint["path"], endpoint["interval"], endpoint["scrapeTimeout"]) == ("/metrics", "30s", "10s")
    assert endpoint["relabelings"][0]["replacement"] == "eu"
    assert endpoint["metricRelabelings"][0]["action"] == "drop"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert monitor["metadata"]["labels"].items() >= {"release": "prometheus", "team": "search"}.items()


def test_the_network_policy_lets_in_prometheus_and_out_to_redis(helm):
    """Ports are those of the pod and of the URL; peers are the values'."""
    (policy,) = of_kind(helm.manifests("network-policy"), "NetworkPolicy")
    metrics, console = policy["spec"]["ingress"]
    assert metrics["ports"] == [{"port": "rag-drift", "protocol": "TCP"}]
    assert metrics["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
    assert console["from"][0]["podSelector"]["matchLabels"] == {"app": "drift-console"}
    dns, redis, further = policy["spec"]["egress"]
    assert [port["port"] for port in dns["ports"]] == [53, 53]
    assert (redis["ports"], len(redis["to"])) == ([{"port": 6390, "protocol": "TCP"}], 1)
    assert further["to"][0]["ipBlock"]["cidr"] == "10.1.0.0/16"
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}


@pytest.mark.parametrize(
    ("url", "port"),
    [("redis://redis", 6379), ("redis://user@[fd00::1]:7000/0", 7000), ("rediss://redis:6380/0?x=1", 6380)],
    ids=["usual", "ipv6", "tls"],
)
def test_the_policy_reads_redis_port_from_the_url(helm, url, port):
    """The port of the URL, else Redis' own."""
    (policy,) = of_kind(helm.objects("networkPolicy.enabled=true", f"config.redis.url={url}"), "NetworkPolicy")
    assert policy["spec"]["egress"][1]["ports"][0]["port"] == port


def test_a_socket_needs_no_way_out(helm):
    """Redis behind a Unix socket is not reached over the network."""
    (policy,) = of_kind(
        helm.objects("networkPolicy.enabled=true", "config.redis.url=unix:///run/redis.sock"), "NetworkPolicy"
    )
    assert len(policy["spec"]["egress"]) == 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_installed_that_was_not_asked_for(helm, name):
    """What needs an operator, or may cut something off, is off by default."""
    if name == "default":
        assert not SWITCHED & {one["kind"] for one in helm.manifests(name)}
        assert "grafana_dashboard" not in helm.render(name)
    for one in helm.manifests(name):
        assert one["kind"] not in {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}
