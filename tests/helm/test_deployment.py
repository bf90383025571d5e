"""The Deployment of its own: probes, restarts, secrets, models, and what people add to it."""

from __future__ import annotations

import base64

import pytest

from sidecar.probesets.library import find_sets
from tests.helm.charts import CHART, ROOT, VERSIONS, of_kind, parse, pod_specs
from tests.helm.validation import OPERATOR, against_kubernetes

SCRATCH = "/tmp"  # noqa: S108  (the mount of the container)


def pod(helm, name: str) -> dict:
    """Give the pod of a case."""
    (one,) = pod_specs(helm.manifests(name))
    return one


def container(helm, name: str) -> dict:
    """Give the sidecar's container of a case."""
    (one,) = pod(helm, name)["containers"]
    return one


def test_the_probes_ask_what_they_are_for(helm):
    """Started and ready are when models are loaded and the stream is read; alive is when the loop turns."""
    one = container(helm, "default")
    asked = {name: one[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert asked == {"startup": "/-/ready", "readiness": "/-/ready", "liveness": "/-/healthy"}
    assert {one[f"{name}Probe"]["httpGet"]["port"] for name in asked} == {"rag-drift"}
    startup = one["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600


def test_the_paths_of_the_probes_are_the_sidecars():
    """The endpoints that Kubernetes asks are endpoints that there are."""
    text = (ROOT / "sidecar" / "exporter" / "http.py").read_text("utf-8")
    assert all(f'"{path}"' in text for path in ("/-/ready", "/-/healthy", "/metrics"))


def test_new_settings_replace_the_pods(helm):
    """The annotation follows the settings and the secrets' files, and nothing else."""

    def annotation(*values: str) -> str:
        (one,) = of_kind(helm.objects(*values), "Deployment")
        return one["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    before = annotation()
    assert annotation("config.replay.k=20") != before
    assert annotation("secrets.httpToken.existingSecret=x") != before
    assert annotation("resources.limits.memory=3Gi", "podMonitor.enabled=true") == before


def test_nothing_is_fetched_and_the_home_can_be_written_to(helm):
    """The hub is offline, the settings are found, and home lies on the scratch volume; the values may say otherwise."""
    one = container(helm, "default")
    assert {entry["name"]: entry["value"] for entry in one["env"]} == {
        "HF_HUB_OFFLINE": "1", "HOME": SCRATCH, "RAG_DRIFT_CONFIG": "/etc/rag-drift/sidecar.yaml",
    }  # fmt: skip
    writable = [mount["mountPath"] for mount in one["volumeMounts"] if not mount.get("readOnly")]
    assert writable == [SCRATCH]
    changed = [entry for entry in container(helm, "extras")["env"] if entry["name"] == "HF_HUB_OFFLINE"]
    assert [entry["value"] for entry in changed] == ["0"]


def test_an_existing_secret_wins_over_a_value(helm):
    """With both, the existing one is mounted and the chart makes none."""
    assert of_kind(helm.manifests("existing-secrets"), "Secret") == []
    (volume,) = [one for one in pod(helm, "existing-secrets")["volumes"] if one["name"] == "rag-drift-secrets"]
    mounted = {source["secret"]["name"]: source["secret"]["items"] for source in volume["projected"]["sources"]}
    assert set(mounted) == {"redis", "rag-drift"}
    assert mounted["redis"] == [{"key": "password", "path": "redis-password"}]
    assert "not-used" not in helm.render("existing-secrets")


def test_inline_values_become_a_secret_and_nothing_else(helm):
    """For a trial the chart makes the Secret; no value is in the settings or anywhere else in clear."""
    manifests = helm.manifests("inline-secrets")
    (secret,) = of_kind(manifests, "Secret")
    values = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert values["redis-password"] == "a #b: {{ c }}"
    assert values["http-token"] == "0123"
    text = helm.render("inline-secrets")
    assert not [value for value in values.values() if value in text]
    (volume,) = [one for one in pod(helm, "inline-secrets")["volumes"] if one["name"] == "rag-drift-secrets"]
    assert {one["secret"]["name"] for one in volume["projected"]["sources"]} == {secret["metadata"]["name"]}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("existing-claim", {"persistentVolumeClaim"}),
        ("init-copy", {"emptyDir"}),
        ("model-volume", {"csi"}),
        ("image-volume", {"image"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_models_come_from_where_the_values_say(helm, name, kind):
    """Each source is mounted read-only where the settings look for the models."""
    one = container(helm, name)
    (volume,) = [found for found in pod(helm, name)["volumes"] if found["name"] == "rag-drift-models"]
    assert set(volume) - {"name"} == kind
    (mount,) = [found for found in one["volumeMounts"] if found["name"] == "rag-drift-models"]
    assert mount["readOnly"] is True
    assert mount["mountPath"] == ("/srv/models" if name == "model-volume" else "/models")


def test_a_claim_that_is_only_read_is_left_as_it_is(helm):
    """Read-only for the pod, in both modes: what is mounted for writing gets the pod's group, file by file."""
    (parent,) = pod_specs(
        helm.objects(
            "rag-drift-sidecar.models.podVolume=,rag-drift-sidecar.models.existingClaim=rag-models", chart=helm.parent
        )
    )
    for one in (pod(helm, "existing-claim"), parent):
        (volume,) = [found for found in one["volumes"] if found["name"] == "rag-drift-models"]
        assert volume["persistentVolumeClaim"] == {"claimName": "rag-models", "readOnly": True}
    (copy,) = [found for found in pod(helm, "frozen-copy")["volumes"] if found["name"] == "frozen-copy"]
    assert "readOnly" not in copy["persistentVolumeClaim"]  # what the group is for
    context = pod(helm, "frozen-copy")["securityContext"]
    assert (context["fsGroup"], context["fsGroupChangePolicy"]) == (10001, "OnRootMismatch")


def test_the_copy_takes_the_content_of_the_folder(helm):
    """`source/.` copies what is in the folder, hidden files included, and not the folder itself."""
    (copy,) = pod(helm, "init-copy")["initContainers"]
    assert copy["command"] == ["cp", "-R", "/srv/models/.", "/rag-drift-models/"]


def test_the_account_has_no_token(helm):
    """Neither account nor pod mounts a token, made here or not."""
    (account,) = of_kind(helm.manifests("default"), "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert pod(helm, "default")["serviceAccountName"] == account["metadata"]["name"]
    assert of_kind(helm.manifests("names"), "ServiceAccount") == []
    assert pod(helm, "names")["serviceAccountName"] == "search"


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ("", "rag-drift-sidecar:0.1.0"),
        ("image.tag=v2", "rag-drift-sidecar:v2"),
        (f"image.tag=v2,image.digest=sha256:{'a' * 64}", f"rag-drift-sidecar@sha256:{'a' * 64}"),
    ],
    ids=["appVersion", "tag", "digest"],
)
def test_the_image_is_named_by_version_tag_or_digest(helm, values, image):
    """A digest wins over a tag, a tag over the chart's appVersion."""
    (one,) = pod_specs(helm.objects(values))
    assert one["containers"][0]["image"] == image


def test_the_chart_is_of_the_sidecars_version():
    """appVersion, from which the image's tag is taken, is the package's version."""
    import tomllib

    import yaml

    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["appVersion"] == version


def test_a_spread_without_selector_is_about_these_pods(helm):
    """A constraint that selects nothing would spread nothing."""
    (constraint,) = pod(helm, "two-replicas")["topologySpreadConstraints"]
    (workload,) = of_kind(helm.manifests("two-replicas"), "Deployment")
    assert constraint["labelSelector"]["matchLabels"] == workload["spec"]["selector"]["matchLabels"]


def test_manifests_of_the_user_are_templated(helm):
    """Objects and texts alike know the release and the chart's own templates."""
    found = {one["metadata"]["name"]: one for one in helm.manifests("extras")}
    assert found["beside-search"]["data"]["image"] == "rag-drift-sidecar:0.1.0"
    assert "another-search" in found


def test_a_probe_set_can_come_from_a_config_map(helm, tmp_path):
    """A ConfigMap is mounted as links to links; the sidecar reads a set from such a folder, with its qrels in place."""
    (volume,) = [one for one in pod(helm, "extras")["volumes"] if one["name"] == "probe-set"]
    content = {
        "probe.yaml": "kind: retrieval\nversion: 1\nlanguage: en\nlicence: Apache-2.0\nsource: test\n",
        "queries.jsonl": '{"_id": "q1", "text": "how to return"}\n',
        "test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\n",
    }
    folder = tmp_path / "returns"
    real = folder / "..2026_01_01"
    for item in volume["configMap"]["items"]:
        place = real / item["path"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content[item["key"]], encoding="utf-8")
    (folder / "..data").symlink_to(real.name)
    for top in sorted({item["path"].partition("/")[0] for item in volume["configMap"]["items"]}):
        (folder / top).symlink_to(f"..data/{top}")
    library = find_sets((), [folder])
    assert ([one.name for one in library.sets], library.aside) == (["returns"], ())


def test_two_long_names_stay_valid(helm):
    """Names are cut so that every object's name with its suffix stays within 63 characters."""
    on = "dashboards.enabled=true,podMonitor.enabled=true,prometheusRule.enabled=true"
    done = helm("template", "r" * 53, CHART, "--namespace", "n", "--set", on)
    assert done.returncode == 0, done.stderr
    for one in parse(done.stdout):
        assert len(one["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in one["metadata"]["labels"].values())


def test_names_that_look_like_numbers_stay_names(helm):
    """A release, namespace, claim or key may be called 1: Kubernetes takes texts only."""
    numbers = "fullnameOverride,nameOverride,models.existingClaim,models.subPath,priorityClassName,serviceAccount.name"
    numbers += ",secrets.redisPassword.existingSecret,secrets.redisPassword.key,config.deployment"
    values = [one for name in numbers.split(",") for one in ("--set-string", f"{name}=3")]
    on = "podMonitor.enabled=true,dashboards.enabled=true,networkPolicy.enabled=true,podDisruptionBudget.enabled=true"
    done = helm("template", "1", CHART, "--namespace", "2", "--set", on, *values)
    assert done.returncode == 0, done.stderr
    for one in parse(done.stdout):
        assert isinstance(one["metadata"]["name"], str)
        assert one["metadata"]["namespace"] == "2"
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == "1"
        if one["apiVersion"] != OPERATOR:
            against_kubernetes(one, VERSIONS[-1])
