"""Hold rendered objects to Kubernetes' own schemas, to the operator's definitions, and to restricted pod security.

`kubernetes_validate` brings the schemas of every version; the definitions of the Prometheus operator lie beside the
repository, with a schema that is open: here it is closed, so that a misspelt field is found.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.helm.charts import ROOT

DEFINITIONS = ROOT.parent / "shared" / "data" / "kubernetes-crds"
OPERATOR = "monitoring.coreos.com/v1"
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected",
           "secret"}  # fmt: skip
"""Volume types of the restricted level; `image` since there are image volumes."""


@dataclass
class Counted:
    """What was validated in this session."""

    renderings: set[tuple[str, str]] = field(default_factory=set)
    objects: int = 0
    operator_objects: int = 0

    def __str__(self) -> str:
        """Give the line for the report."""
        return (
            f"{len(self.renderings)} renderings x versions valid ({self.objects} objects against Kubernetes' schemas, "
            f"{self.operator_objects} against the operator's)"
        )


COUNTED = Counted()


@cache
def _valid(text: str, version: str) -> None:
    kubernetes_validate.validate(json.loads(text), version, strict=True)


def against_kubernetes(manifest: dict[str, Any], version: str) -> None:
    """Validate one object of Kubernetes' own strictly.

    Raises:
        jsonschema.ValidationError: it is not valid.
    """
    _valid(json.dumps(manifest, sort_keys=True), version)


@cache
def operator_schema(kind: str) -> Any:
    """Give a validator for a kind of the operator's."""
    definition = yaml.safe_load((DEFINITIONS / f"{kind.lower()}.yaml").read_text(encoding="utf-8"))
    (version,) = [one for one in definition["spec"]["versions"] if one["name"] == OPERATOR.partition("/")[2]]
    return jsonschema.Draft7Validator(closed(version["schema"]["openAPIV3Schema"]))


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Turn a structural schema of Kubernetes into JSON schema: objects closed, numbers or texts where it says so."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"], **({"pattern": schema["pattern"]} if "pattern" in schema else {})}
    turned = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if "properties" in schema:
        turned["properties"] = {name: closed(one) for name, one in schema["properties"].items()}
        turned.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    if isinstance(schema.get("additionalProperties"), dict):
        turned["additionalProperties"] = closed(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        turned["items"] = closed(schema["items"])
    return turned


def restricted(pod: dict[str, Any]) -> list[str]:
    """Say what in a pod specification the restricted level of pod security refuses, and what we promise beyond it."""
    wrong = [f"pod: {key}" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    if pod.get("automountServiceAccountToken") is not False:
        wrong.append("pod: a service account's token is mounted")
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            wrong.append(f"volume {volume['name']}: {', '.join(kinds)}")
    outer = pod.get("securityContext", {})
    for one in [*pod.get("initContainers", []), *pod["containers"]]:
        own = {**outer, **one.get("securityContext", {})}
        checks = {
            "may be root": own.get("runAsNonRoot") is True,
            "has no numeric user": isinstance(own.get("runAsUser"), int) and own["runAsUser"] > 0,
            "may escalate": own.get("allowPrivilegeEscalation") is False,
            "is privileged": not own.get("privileged"),
            "keeps capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "has no seccomp profile": own.get("seccompProfile") == {"type": "RuntimeDefault"},
            "writes to its root": own.get("readOnlyRootFilesystem") is True,
            "takes a port of the host": not any("hostPort" in port for port in one.get("ports", [])),
        }
        wrong += [f"container {one['name']} {what}" for what, kept in checks.items() if not kept]
    return wrong
