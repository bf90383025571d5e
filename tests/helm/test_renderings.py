"""Every feature's rendering: linted, as it was last reviewed, valid on every Kubernetes, and safe to run.

`UPDATE_GOLDEN=1 python -m pytest tests/helm/test_renderings.py` writes the reviewed renderings anew. Rules and
dashboards are not in them: they have tests of their own, in their own rhythm.
"""

from __future__ import annotations

import copy
import os

import jsonschema
import pytest

from tests.helm.charts import CASES, CHART, NAMES, VERSIONS, case, of_kind, pod_specs
from tests.helm.validation import COUNTED, OPERATOR, against_kubernetes, operator_schema, restricted

GOLDEN = CHART.parents[1] / "tests" / "helm" / "golden"
each_case = pytest.mark.parametrize("name", NAMES)


def reviewed(text: str) -> str:
    """Give a rendering without the content of rules and dashboards."""
    parts = []
    for part in text.split("\n---\n"):
        head = part
        if "\nkind: PrometheusRule\n" in part:
            head = part.partition("\n  groups:\n")[0] + "\n  groups: of dashboards/rules"
        elif "/templates/dashboards.yaml\n" in part:
            head = part.partition(": |\n")[0] + ": of dashboards/grafana"
        parts.append(head.rstrip())
    return "\n---\n".join(parts) + "\n"


@each_case
def test_the_rendering_is_the_reviewed_one(helm, name):
    """A change of a template shows in the review as what it does to the objects."""
    path = GOLDEN / f"{name}.yaml"
    text = reviewed(helm.render(name))
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_there_is_no_rendering_of_a_feature_that_is_gone():
    """A removed case takes its reviewed rendering with it."""
    assert sorted(path.stem for path in GOLDEN.glob("*.yaml")) == sorted(NAMES)


@each_case
def test_lint_has_nothing_to_say(helm, name):
    """`helm lint --strict` passes for the default and for every feature; warnings are errors."""
    one = case(name)
    values = ["--values", one.values] if one.values else []
    done = helm("lint", "--strict", "--quiet", helm.parent if one.parent else CHART, *values)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout


def test_lint_would_complain(helm, tmp_path):
    """The check above can fail: a value that the schema does not know is found."""
    values = tmp_path / "values.yaml"
    values.write_text("modee: deployment\n", encoding="utf-8")
    done = helm("lint", "--strict", "--quiet", CHART, "--values", values)
    assert done.returncode == 1
    assert "Additional property modee is not allowed" in done.stdout


@pytest.mark.slow
@each_case
def test_every_object_is_valid_on_every_version(helm, name):
    """All objects of Kubernetes' own pass its strict schemas, each version's for itself."""
    for version in case(name).versions:
        manifests = helm.manifests(name, version)
        for one in manifests:
            if one["apiVersion"] != OPERATOR:
                against_kubernetes(one, version)
                COUNTED.objects += 1
        COUNTED.renderings.add((name, version))


@pytest.mark.usefixtures("operator_definitions")
@each_case
def test_every_object_of_the_operator_is_valid(helm, name):
    """Monitors and rules fit the operator's definitions, unknown fields refused."""
    for one in helm.manifests(name):
        if one["apiVersion"] == OPERATOR:
            operator_schema(one["kind"]).validate(one)
            COUNTED.operator_objects += 1


@pytest.mark.slow
def test_what_was_validated_is_counted(request, record_property):
    """What the report says was validated is every feature on every version that it is for."""
    ran = {item.name for item in request.session.items}
    if not all(f"test_every_object_is_valid_on_every_version[{name}]" in ran for name in NAMES):
        pytest.skip("only some of the renderings were asked for")
    wanted = {(one.name, version) for one in CASES for version in one.versions}
    assert wanted == COUNTED.renderings
    assert len(wanted) > 15 * (len(VERSIONS) - 1)
    record_property("measured", f"chart: {COUNTED}")


def test_an_invalid_object_would_be_found(helm):
    """The validation can fail: a misspelt field of a pod, and a native sidecar on a version that has none."""
    (workload,) = of_kind(helm.manifests("rag-service"), "Deployment")
    wrong = copy.deepcopy(workload)
    wrong["spec"]["template"]["spec"]["initContainers"][0]["restartPolicies"] = "Always"
    for version in VERSIONS[1:]:
        with pytest.raises(jsonschema.ValidationError):
            against_kubernetes(wrong, version)
    with pytest.raises(jsonschema.ValidationError):
        against_kubernetes(workload, "1.27")


@pytest.mark.usefixtures("operator_definitions")
def test_an_invalid_object_of_the_operator_would_be_found(helm):
    """The validation against the operator's definitions can fail: a misspelt key of an endpoint."""
    (monitor,) = of_kind(helm.manifests("rag-service"), "PodMonitor")
    wrong = copy.deepcopy(monitor)
    wrong["spec"]["podMetricsEndpoints"][0]["intervall"] = "1m"
    with pytest.raises(jsonschema.ValidationError, match="intervall"):
        operator_schema("PodMonitor").validate(wrong)


@each_case
def test_every_pod_is_restricted(helm, name):
    """Every container of every pod passes the restricted level, and its root is read-only."""
    for pod in pod_specs(helm.manifests(name)):
        assert restricted(pod) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"readOnlyRootFilesystem": False}, "writes to its root"),
        ({"runAsUser": 0}, "has no numeric user"),
        ({"runAsNonRoot": None}, "may be root"),
        ({"allowPrivilegeEscalation": True}, "may escalate"),
        ({"capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}}, "keeps capabilities"),
        ({"seccompProfile": None}, "has no seccomp profile"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pod_that_is_not_restricted_would_be_found(helm, change, says):
    """The check above can fail: each rule by itself."""
    (pod,) = pod_specs(helm.manifests("default"))
    pod = copy.deepcopy(pod)
    pod["securityContext"] = {}
    pod["containers"][0]["securityContext"] |= change
    assert restricted(pod) == [f"container rag-drift {says}"]


@each_case
def test_every_object_says_whose_it_is(helm, name):
    """All objects are in the release's namespace or one that was asked for, and carry the common labels."""
    for one in helm.manifests(name):
        if one["metadata"]["name"].startswith(("beside-", "another-")) or one["metadata"]["name"] == "search":
            continue  # the user's own manifests, and the parent chart's
        assert one["metadata"]["namespace"] in {"rag", "grafana"}
        labels = one["metadata"]["labels"]
        assert {key.partition("/")[2] for key in labels} >= {"name", "instance", "version", "managed-by", "chart"}


@each_case
def test_volumes_and_mounts_belong_together(helm, name):
    """Each mount has its volume, each volume is mounted, and no name or place is taken twice."""
    for pod in pod_specs(helm.manifests(name)):
        containers = [*pod.get("initContainers", []), *pod["containers"]]
        names = [volume["name"] for volume in pod["volumes"]]
        mounted = {mount["name"] for one in containers for mount in one["volumeMounts"]}
        assert sorted(names) == sorted(set(names)) == sorted(mounted)
        for one in containers:
            places = [mount["mountPath"] for mount in one["volumeMounts"]]
            assert len(places) == len(set(places))
