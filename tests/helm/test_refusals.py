"""Combinations that cannot work end before anything is installed, each with a sentence that says what to do."""

from __future__ import annotations

import pytest

from tests.helm.charts import VERSIONS, of_kind

SIDECAR = ["mode=sidecar"]
BUDGET = ["podDisruptionBudget.enabled=true", "podDisruptionBudget.maxUnavailable="]
REFUSED = {
    "two-sources-of-models": (
        ["models.existingClaim=a", "models.initCopy.image=b:1"],
        "models.existingClaim and models.initCopy.image: models can come from one place only",
    ),
    "a-volume-and-a-claim": (
        ["models.existingClaim=a", "models.volume.emptyDir.medium=Memory"],
        "models.existingClaim and models.volume: models can come from one place only",
    ),
    "the-parents-volume-without-a-parent": (["models.podVolume=models"], "it needs mode sidecar"),
    "a-folder-of-no-volume": (["models.subPath=eu"], "models.subPath is a folder in a volume, but there is none"),
    "replicas-of-a-sidecar": ([*SIDECAR, "replicas=2"], "scale the parent's Deployment"),
    "monitor-of-a-service-that-is-not-there": (
        [*SIDECAR, "serviceMonitor.enabled=true"],
        "serviceMonitor.enabled needs mode deployment",
    ),
    "network-policy-of-the-service-as-well": (
        [*SIDECAR, "networkPolicy.enabled=true"],
        "it would cut off the service as well",
    ),
    "budget-of-the-parents-pods": (
        [*SIDECAR, "podDisruptionBudget.enabled=true"],
        "podDisruptionBudget.enabled needs mode deployment",
    ),
    "node-selector-of-the-parents-pods": ([*SIDECAR, "nodeSelector.a=b"], "nodeSelector has no effect in mode sidecar"),
    "priority-of-the-parents-pods": ([*SIDECAR, "priorityClassName=x"], "priorityClassName has no effect"),
    "pull-secret-of-the-parents-pods": (
        [*SIDECAR, "imagePullSecrets[0].name=x"],
        "imagePullSecrets has no effect in mode sidecar",
    ),
    "scraped-twice": (["serviceMonitor.enabled=true", "podMonitor.enabled=true"], "counted as two judges"),
    "monitor-without-service": (
        ["serviceMonitor.enabled=true", "service.enabled=false"],
        "serviceMonitor.enabled needs service.enabled",
    ),
    "budget-that-stops-every-drain": (
        [*BUDGET, "podDisruptionBudget.minAvailable=1"],
        "no node could ever be drained",
    ),
    "budget-of-nobody": (
        ["podDisruptionBudget.enabled=true", "podDisruptionBudget.maxUnavailable=0"],
        "no node could ever be drained",
    ),
    "budget-of-a-share-that-is-the-only-pod": ([*BUDGET, "podDisruptionBudget.minAvailable=50%"], "with 1 replicas"),
    "budget-of-a-share-that-is-rounded-up-to-all": (
        [*BUDGET, "podDisruptionBudget.minAvailable=67%", "replicas=3"],
        "no node could ever be drained",
    ),
    "budget-of-the-share-nobody": (
        ["podDisruptionBudget.enabled=true", "podDisruptionBudget.maxUnavailable=0%", "replicas=3"],
        "no node could ever be drained",
    ),
    "budget-of-two-kinds": (
        ["podDisruptionBudget.enabled=true", "podDisruptionBudget.minAvailable=1"],
        "give either maxUnavailable or minAvailable",
    ),
    "budget-of-no-kind": (
        ["podDisruptionBudget.enabled=true", "podDisruptionBudget.maxUnavailable="],
        "give either maxUnavailable or minAvailable",
    ),
    "two-files-for-one-password": (
        ["secrets.redisPassword.existingSecret=redis", "config.redis.password_file=/etc/redis/password"],
        "config.redis.password_file and secrets.redisPassword name two files for one secret",
    ),
    "two-files-for-one-key": (
        ["secrets.frozenKey.value=x", "config.frozen.key_file=/etc/key"],
        "config.frozen.key_file and secrets.frozenKey",
    ),
    "two-values-under-one-key": (
        [
            "secrets.redisPassword.value=a",
            "secrets.httpToken.value=b",
            "secrets.redisPassword.key=x",
            "secrets.httpToken.key=x",
        ],
        "secrets.httpToken and secrets.redisPassword: the chart makes one Secret of the values, and both have the key",
    ),
    "encrypted-without-a-key": (["config.frozen.text=encrypted"], "set secrets.frozenKey"),
    "a-port-that-nobody-knows": (["config.http.port=0"], "Kubernetes must know it"),
    "a-port-for-itself": (["config.http.host=127.0.0.1"], "come from outside of the pod"),
}


@pytest.mark.parametrize(("values", "sentence"), REFUSED.values(), ids=REFUSED)
def test_an_impossible_combination_is_refused(helm, values, sentence):
    """The rendering fails, and the message says which values and what to do."""
    done = helm.template(*(argument for value in values for argument in ("--set", value)))
    assert done.returncode != 0
    assert sentence in done.stderr


@pytest.mark.parametrize(
    ("replicas", "budget"),
    [
        (2, "minAvailable=50%"),
        (3, "minAvailable=66%"),
        (2, "minAvailable=1"),
        (1, "minAvailable=0"),
        (0, "minAvailable=1"),
        (1, "maxUnavailable=1%"),
    ],
)
def test_a_budget_that_lets_a_pod_go_is_rendered(helm, replicas, budget):
    """Shares are rounded up, so 66 % of three pods are two; without pods nothing holds up a drain."""
    (one,) = of_kind(
        helm.objects(*BUDGET, f"podDisruptionBudget.{budget}", f"replicas={replicas}"), "PodDisruptionBudget"
    )
    name, _, value = budget.partition("=")
    assert one["spec"][name] == (value if value.endswith("%") else int(value))


def test_one_key_in_two_secrets_is_no_mistake(helm):
    """Only the values of the chart's own Secret would overwrite each other."""
    same = ["secrets.redisPassword.key=x", "secrets.httpToken.key=x", "secrets.redisPassword.value=a"]
    assert helm.objects(*same, "secrets.httpToken.existingSecret=other")


def test_a_native_sidecar_needs_kubernetes_that_has_them(helm):
    """Below 1.29 mode sidecar is refused with the version, in subchart and parent; from then on it renders."""
    for chart in ({}, {"chart": helm.parent}):
        done = helm.template("--set", "mode=sidecar" if not chart else "replicas=1", kubernetes="1.28", **chart)
        assert done.returncode != 0
        assert "1.29" in done.stderr or ">=1.29.0-0" in done.stderr
    done = helm.template("--set", "mode=sidecar", kubernetes="1.28")
    assert "mode sidecar needs Kubernetes 1.29 or newer" in done.stderr
    assert helm.template("--set", "mode=sidecar", kubernetes="1.29").returncode == 0
    assert helm.template(kubernetes=VERSIONS[0]).returncode == 0


def test_the_chart_needs_a_kubernetes_that_it_is_validated_for(helm):
    """Older versions than the oldest tested one are refused."""
    done = helm.template(kubernetes="1.27")
    assert done.returncode != 0
    assert ">=1.28.0-0" in done.stderr


def test_a_parent_that_forgot_the_mode_is_told(helm):
    """Including the native sidecar while the subchart would render its own Deployment is a mistake."""
    values = "rag-drift-sidecar.mode=deployment,rag-drift-sidecar.models.podVolume="
    done = helm.template("--set", values, chart=helm.parent)
    assert done.returncode != 0
    assert "set mode: sidecar" in done.stderr


@pytest.mark.parametrize(
    "value",
    [
        "mode=daemonset",
        "image.digest=sha1:1",
        "prometheusRule.slo.window=1d",
        "models.mountPath=models",
        "probes.startup.path=/",
        "secrets.redisPassword.existingSecrets=x",
        "serviceMonitor.interval=often",
        "extraEnv[0].value=x",
    ],
    ids=lambda value: value.partition("=")[0],
)
def test_the_schema_refuses_wrong_values_of_the_charts_own(helm, value):
    """A misspelt or impossible value is refused, and the message names it."""
    done = helm.template("--set", value)
    assert done.returncode != 0
    path = value.partition("=")[0].replace("[", ".").replace("]", "")
    assert (
        path in done.stderr
        or f"{path.rpartition('.')[0]}: Additional property" in done.stderr
        or (f"{path.rpartition('.')[0]}: name is required" in done.stderr)
    ), done.stderr


def test_what_parents_share_is_not_refused(helm):
    """A parent chart's `global` and the switch of its dependency's condition reach every subchart's values."""
    assert helm.template("--set", "global.imageRegistry=x,enabled=true").returncode == 0
