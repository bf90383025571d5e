"""What values may not say: labels by which objects are found, and `null` where a template needs something.

Helm takes a key whose value is `null` away before it looks at the schema, so a key that must be there is `required`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from tests.helm.charts import VERSIONS, of_kind, parse
from tests.helm.test_config import SCHEMA, VALUES, merged, tree
from tests.helm.validation import OPERATOR, against_kubernetes, operator_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

LABELS = ("labels", "podLabels", "serviceMonitor.labels", "podMonitor.labels", "prometheusRule.labels",
          "dashboards.labels", "networkPolicy.labels", "podDisruptionBudget.labels")  # fmt: skip
SWITCHES = {f"{name}.enabled" for name in ("serviceMonitor", "prometheusRule", "dashboards", "networkPolicy",
                                           "podDisruptionBudget")}  # fmt: skip
NEEDED = {"podDisruptionBudget.maxUnavailable"}
"""Either this or its other is needed."""


def errors(values: dict[str, Any]) -> list[str]:
    """Give what the schema says of values over the chart's own."""
    found = jsonschema.Draft7Validator(SCHEMA).iter_errors(merged(VALUES, values))
    return [f"{'.'.join(map(str, one.absolute_path))}: {one.message}" for one in found]


def own(helm) -> set[str]:
    """Give the keys of all labels that the chart sets by itself."""
    manifests = [*helm.manifests("default"), *helm.manifests("sidecar"), *helm.manifests("network-policy")]
    (workload,) = of_kind(helm.manifests("default"), "Deployment")
    given = [one["metadata"]["labels"] for one in [*manifests, workload["spec"]["template"]]]
    return {key for labels in given for key in labels} - {"grafana_dashboard", "team"}


@pytest.mark.parametrize("path", LABELS)
def test_the_charts_own_labels_cannot_be_given(helm, path):
    """A second `app.kubernetes.io/name` would be there twice, or make a selector that finds nothing."""
    reserved = own(helm)
    assert len(reserved) == 6
    for key in reserved:
        (error,) = errors(tree(path, {key: "x"}))
        assert error.startswith(f"{path}: ")
        assert key in error
    assert errors(tree(path, {"app.kubernetes.io/part-of": "search"})) == []


def test_helm_names_the_label_that_cannot_be_given(helm):
    """Its own reading of the schema is the same, and its message has the place and the key."""
    done = helm.template("--set", r"podDisruptionBudget.labels.app\.kubernetes\.io/name=x")
    assert done.returncode != 0
    assert 'podDisruptionBudget.labels: Property name of "app.kubernetes.io/name" does not match' in done.stderr


def test_the_charts_own_annotations_of_the_pod_cannot_be_given(helm):
    """With a checksum of its own a pod would not follow its settings."""
    (workload,) = of_kind(helm.manifests("default"), "Deployment")
    keys = set(workload["spec"]["template"]["metadata"]["annotations"])
    assert keys
    for key in keys:
        assert len(errors(tree("podAnnotations", {key: "x"}))) == 1


def test_a_label_of_an_object_wins_over_the_common_one(helm):
    """The same key in both is there once, with the value of the nearer place."""
    values = [f"{path}.team={path.partition('.')[0]}" for path in LABELS if path != "podMonitor.labels"]
    manifests = helm.objects(*(f"{path}=true" for path in SWITCHES), *values)  # the loader refuses a key that is twice
    settings = next(one for one in of_kind(manifests, "ConfigMap") if "sidecar.yaml" in one["data"])
    found = {one["kind"]: one["metadata"]["labels"]["team"] for one in manifests if one is not settings}
    for path in SWITCHES - {"dashboards.enabled"}:
        name = path.partition(".")[0]
        assert found[name[0].upper() + name[1:]] == name
    assert found["ConfigMap"] == "dashboards"
    assert settings["metadata"]["labels"]["team"] == found["Service"] == found["Deployment"] == "labels"
    (workload,) = of_kind(manifests, "Deployment")
    assert workload["spec"]["template"]["metadata"]["labels"]["team"] == "podLabels"


def paths(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """List the keys of the chart's own values, sections before what is in them."""
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, dict) and prefix + key != "config":
            yield from paths(value, f"{prefix}{key}.")


def without(path: str) -> dict[str, Any]:
    """Give the chart's values without a key, as Helm does with one that is null."""
    values: dict[str, Any] = yaml.safe_load(yaml.safe_dump(VALUES))
    *above, last = path.split(".")
    place = values
    for name in above:
        place = place[name]
    del place[last]
    return values


MAY_BE_NULL = [path for path in paths(VALUES) if jsonschema.Draft7Validator(SCHEMA).is_valid(without(path))]


def test_null_is_refused_where_a_template_needs_something():
    """Sections above all, and what has no sense without a value."""
    refused = set(paths(VALUES)) - set(MAY_BE_NULL)
    assert refused >= {
        "mode", "probes", "service", "prometheusRule.slo", "secrets.httpToken", "secrets.httpToken.key",
        "models.initCopy", "models.mountPath", "service.port", "image.repository", "sidecar.restartSeconds",
    }  # fmt: skip


def test_helm_names_the_section_that_is_null(helm):
    """`probes:` with nothing below it ends with the name of the key, not with a line of rendered YAML."""
    done = helm.template("--set", "probes=null")
    assert done.returncode != 0
    assert "probes is required" in done.stderr


@pytest.fixture(scope="module")
def nulled(helm, tmp_path_factory) -> list[dict[str, Any]]:
    """Render with all that the schema lets be null being null at once, and everything switched on."""
    nulls: dict[str, Any] = {}
    for path in sorted(set(MAY_BE_NULL) - NEEDED, key=len, reverse=True):  # a section that is null hides what is in it
        if path not in SWITCHES and path != "service.enabled":
            nulls = merged(nulls, tree(path, None))
    assert len(list(paths(nulls))) > 30
    for path in SWITCHES:
        nulls = merged(nulls, tree(path, True))
    file = tmp_path_factory.mktemp("nulls") / "nulls.yaml"
    file.write_text(yaml.safe_dump(nulls), "utf-8")
    done = helm.template("--values", file)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return parse(done.stdout)


def test_null_is_no_mistake_elsewhere(nulled):
    """Every object comes out, and those of Kubernetes' own are valid."""
    kinds = {one["kind"] for one in nulled}
    assert kinds >= {path[0].upper() + path[1:].partition(".")[0] for path in SWITCHES - {"dashboards.enabled"}}
    for one in nulled:
        if one["apiVersion"] != OPERATOR:
            against_kubernetes(one, VERSIONS[-1])


@pytest.mark.usefixtures("operator_definitions")
def test_null_makes_no_invalid_object_of_the_operator(nulled):
    """The monitor and the rules fit their definitions."""
    for one in nulled:
        if one["apiVersion"] == OPERATOR:
            operator_schema(one["kind"]).validate(one)


@pytest.mark.parametrize("name", ["startup", "readiness", "liveness"])
def test_a_probe_that_is_null_is_left_out(helm, name):
    """Only that one."""
    (workload,) = of_kind(helm.objects(f"probes.{name}=null"), "Deployment")
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    probes = {f"{one}Probe" for one in ("startup", "readiness", "liveness")}
    assert probes & set(container) == probes - {f"{name}Probe"}
