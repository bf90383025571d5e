"""The native sidecar in a parent's pod: what is there, what must not be, and its process kept running, for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.helm.charts import CHART, of_kind, pod_specs

SCRIPT_SECONDS = 30


def entry(helm) -> dict:
    """Give the sidecar's entry in the example parent chart."""
    (pod,) = pod_specs(helm.manifests("rag-service"))
    (one,) = pod["initContainers"]
    return one


def test_the_service_does_not_suffer_from_its_monitor(helm):
    """No probe of any kind: each would take the pod out of traffic, hold back the service, or restart the container."""
    one = entry(helm)
    assert one["restartPolicy"] == "Always"
    assert not {"readinessProbe", "startupProbe", "livenessProbe", "lifecycle"} & set(one)
    (pod,) = pod_specs(helm.manifests("rag-service"))
    assert [container["name"] for container in pod["containers"]] == ["rag-service"]


def test_a_secret_that_is_missing_does_not_hold_back_the_service(helm):
    """In a parent's pod the Secrets are optional; a Deployment of its own waits for them and says so."""
    for name, optional in (("rag-service", True), ("existing-secrets", None)):
        (pod,) = pod_specs(helm.manifests(name))
        (volume,) = [one for one in pod["volumes"] if one["name"] == "rag-drift-secrets"]
        assert {source["secret"].get("optional") for source in volume["projected"]["sources"]} == {optional}


def test_a_full_scratch_folder_does_not_evict_the_service(helm):
    """Only the Deployment's own scratch volume has a limit, for a pod above one is evicted."""
    for name, volume in (("rag-service", {}), ("default", {"sizeLimit": "64Mi"})):
        (pod,) = pod_specs(helm.manifests(name))
        (found,) = [one for one in pod["volumes"] if one["name"] == "rag-drift-tmp"]
        assert found["emptyDir"] == volume


def test_the_subchart_renders_everything_but_the_pod(helm):
    """Settings, monitor, rules and dashboards are there; Deployment, Service and account are the parent's matter."""
    kinds = {one["kind"] for one in helm.manifests("sidecar")}
    assert kinds >= {"ConfigMap", "Secret", "PodMonitor", "PrometheusRule"}
    assert not kinds & {"Deployment", "Service", "ServiceAccount", "ServiceMonitor"}


def test_the_monitor_finds_the_parents_pods_and_names_the_job_in_both_modes(helm):
    """The PodMonitor selects by a label that the pods carry; the job is that label's value, and its port is there."""
    for name in ("rag-service", "pod-monitor"):
        manifests = helm.manifests(name)
        (monitor,) = of_kind(manifests, "PodMonitor")
        (workload,) = of_kind(manifests, "Deployment")
        template = workload["spec"]["template"]
        wanted = monitor["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= template["metadata"]["labels"].items()
        assert monitor["spec"]["jobLabel"] in template["metadata"]["labels"]
        containers = [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]
        ports = [port["name"] for one in containers for port in one.get("ports", [])]
        assert ports.count(monitor["spec"]["podMetricsEndpoints"][0]["port"]) == 1


def test_new_settings_replace_the_parents_pods(helm):
    """The annotation follows the settings, and only them."""

    def annotation(*values: str) -> str:
        (workload,) = of_kind(helm.objects(*values, flag="--set-json", chart=helm.parent), "Deployment")
        return workload["spec"]["template"]["metadata"]["annotations"]["checksum/rag-drift-config"]

    before = annotation()
    assert annotation("rag-drift-sidecar.config.sampling.rate=0.2") != before
    assert annotation('rag-drift-sidecar.podMonitor.interval="1m"') == before


def test_models_can_be_copied_before_the_sidecar_starts(helm):
    """With models from an image the copying container comes first, as restricted as the rest."""
    models = "rag-drift-sidecar.models.podVolume=,rag-drift-sidecar.models.initCopy.image=models:1"
    (pod,) = pod_specs(helm.objects(models, chart=helm.parent))
    copy, sidecar = pod["initContainers"]
    assert (copy["name"], sidecar["name"]) == ("rag-drift-models", "rag-drift")
    assert "restartPolicy" not in copy


def test_a_parent_without_the_dependency_has_nothing_of_it(helm):
    """The condition switches everything off, and the parent still renders."""
    done = helm.template("--set", "rag-drift-sidecar.enabled=false", chart=helm.parent)
    assert done.returncode == 0, done.stderr
    assert "drift" not in done.stdout


def test_the_templates_work_under_an_alias(helm, tmp_path):
    """A parent may give the dependency another name, and have two of it."""
    chart = tmp_path / "parent"
    (chart / "templates").mkdir(parents=True)
    dependencies = [
        {"name": CHART.name, "alias": name, "version": ">=0.1.0", "repository": f"file://{CHART}"}
        for name in ("de", "en")
    ]
    (chart / "Chart.yaml").write_text(
        yaml.safe_dump({"apiVersion": "v2", "name": "parent", "version": "0.1.0", "dependencies": dependencies})
    )
    one = {"mode": "sidecar", "models": {"podVolume": "models"}}
    (chart / "values.yaml").write_text(yaml.safe_dump({"de": one, "en": one}))
    (chart / "templates" / "pod.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: p\ndata:\n  p: |\n"
        '    {{- include "rag-drift-sidecar.podLabels" .Subcharts.de | nindent 4 }}\n'
        '    {{- include "rag-drift-sidecar.nativeSidecar" .Subcharts.en | nindent 4 }}\n'
    )
    assert helm("dependency", "build", chart).returncode == 0
    names = {one["metadata"]["name"] for one in of_kind(helm.objects(chart=chart), "ConfigMap")}
    assert names == {"p", "search-de", "search-en"}


@pytest.fixture
def script(helm, tmp_path):
    """Start the rendered command, with a pause of a second, on given settings; stop it at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(settings: str) -> subprocess.Popen[str]:
        (tmp_path / "sidecar.yaml").write_text(settings, encoding="utf-8")
        one = entry(helm)
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAG_DRIFT_CONFIG": str(tmp_path / "sidecar.yaml"),
            "HOME": str(tmp_path),
        }
        text = one["args"][0].replace("sleep 60", "sleep 1")
        assert text != one["args"][0]
        # A shell cannot trap what was ignored before it began, as under `nohup`; in a container nothing is.
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            process = subprocess.Popen(
                [*one["command"], text], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
        finally:
            signal.signal(signal.SIGHUP, before)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stderr is not None
        process.stderr.close()


def lines_until(process: subprocess.Popen[str], *words: str) -> list[str]:
    """Read log lines until one has a word for each of `words`, in their order."""
    seen, wanted = [], list(words)
    deadline = time.monotonic() + SCRIPT_SECONDS
    assert process.stderr is not None
    while wanted and time.monotonic() < deadline:
        line = process.stderr.readline()
        seen.append(line)
        if wanted[0] in line:
            del wanted[0]
        if not line and process.poll() is not None:
            break
    assert not wanted, (wanted, seen)
    return seen


NO_REDIS = """
redis: {url: "redis://127.0.0.1:1/0"}
http: {host: 127.0.0.1, port: 0}
retrievers:
  deployed: {encoder: {model: /nowhere}, index: /nowhere}
  reference: {encoder: {model: /nowhere}, index: /nowhere}
"""


@pytest.mark.slow
def test_a_sidecar_that_ends_is_started_again_in_its_container(script, tmp_path):
    """Broken settings end the process, not the container; repaired ones are taken up at the next start."""
    process = script("nope: 1\n")
    seen = lines_until(process, "nope: unknown setting", '"event": "ended"', '"event": "ended"')
    told = json.loads(next(line for line in seen if '"ended"' in line))
    assert told == {"event": "ended", "exit_code": 2, "restart_seconds": 60, "level": "error"}
    assert process.poll() is None
    (tmp_path / "sidecar.yaml").write_text(NO_REDIS, encoding="utf-8")
    lines_until(process, '"event": "listening"')


def test_an_order_to_stop_reaches_the_sidecar(script):
    """SIGTERM is handed on, the sidecar ends by itself, and the container with its exit code."""
    process = script(NO_REDIS)
    lines_until(process, '"event": "waiting_for_redis"')
    process.send_signal(signal.SIGTERM)
    lines_until(process, '"event": "stopped"')
    assert process.wait(SCRIPT_SECONDS) == 0


@pytest.mark.slow
def test_an_order_to_stop_is_heard_between_two_starts(script):
    """The pause does not hold up the end of the pod."""
    process = script("nope: 1\n")
    lines_until(process, '"event": "ended"')
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    process.wait(SCRIPT_SECONDS)
    assert time.monotonic() - begun < SCRIPT_SECONDS / 2


def test_an_order_to_reload_reaches_the_sidecar(script):
    """SIGHUP to the container's first process reloads the settings, and nothing ends."""
    process = script(NO_REDIS)
    lines_until(process, '"event": "waiting_for_redis"')
    process.send_signal(signal.SIGHUP)
    lines_until(process, '"event": "reloaded"')
    assert process.poll() is None
