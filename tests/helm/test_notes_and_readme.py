"""What people read: the notes after an installation, the README's table of values, and the comments in values.yaml.

`helm install` needs a cluster, so the notes are rendered from a copy of the chart in which they are a template of
another name, put into a ConfigMap.
"""

from __future__ import annotations

import re
import shutil

import pytest
import yaml

from tests.helm.charts import CHART, Helm, of_kind

FREE = ("resources", "podSecurityContext", "securityContext", "probes.startup", "probes.readiness", "probes.liveness",
        "models.initCopy.resources", "dashboards.labels", "dashboards.annotations")  # fmt: skip
"""Values that are one thing: their keys are Kubernetes' or the user's, and need no comment of ours."""

NOTES = """apiVersion: v1
kind: ConfigMap
metadata:
  name: notes
data:
  notes: {{ include "notes" . | toJson }}
"""


@pytest.fixture(scope="module")
def notes(helm: Helm, tmp_path_factory: pytest.TempPathFactory):
    """Render the notes with some values."""
    copy = tmp_path_factory.mktemp("notes") / "rag-drift-sidecar"
    shutil.copytree(CHART, copy)
    text = (copy / "templates" / "NOTES.txt").read_text("utf-8")
    (copy / "templates" / "NOTES.txt").unlink()
    (copy / "templates" / "_notes.tpl").write_text('{{- define "notes" -}}\n' + text + "{{- end -}}\n", "utf-8")
    (copy / "templates" / "notes.yaml").write_text(NOTES, "utf-8")

    def render(*values: str) -> str:
        found = of_kind(helm.objects(*values, chart=copy), "ConfigMap")
        (one,) = [one for one in found if one["metadata"]["name"] == "notes"]
        return str(one["data"]["notes"])

    return render


def test_the_notes_of_a_deployment_name_its_objects(notes):
    """The commands can be copied: release, namespace and ports are filled in."""
    text = notes()
    assert "kubectl -n rag rollout status deployment/search-rag-drift-sidecar" in text
    assert "kubectl -n rag exec deployment/search-rag-drift-sidecar -- rag-drift status" in text
    assert "port-forward service/search-rag-drift-sidecar 9464:9464" in text
    assert 'the deployment "rag.search-rag-drift-sidecar" on the stream "rag:queries"' in text
    for lacking in ("No volume holds models", "Nothing scrapes it yet: serviceMonitor", "Nobody is told of drift"):
        assert lacking in text


def test_the_notes_of_a_sidecar_say_what_the_parent_must_include(notes):
    """In mode sidecar they name the templates, and no Deployment that is not there."""
    text = notes("mode=sidecar", "models.podVolume=models", "podMonitor.enabled=true")
    for template in ("nativeSidecar", "volumes", "podLabels", "podAnnotations"):
        assert f"rag-drift-sidecar.{template} " in text
    assert "deployment/" not in text
    assert "No volume holds models" not in text
    assert "Nothing scrapes it" not in text


def test_the_notes_do_not_repeat_what_is_done(notes):
    """With monitoring and runbooks in place there is nothing left to be told of."""
    done = ["serviceMonitor.enabled=true", "prometheusRule.enabled=true", "models.existingClaim=x"]
    text = notes(*done)
    assert "The alerts link to https://rag-drift.example/runbooks/, which is not yours" in text
    text = notes(*done, "prometheusRule.runbookBaseUrl=https://wiki.example/")
    for lacking in ("No volume", "Nothing scrapes", "Nobody is told", "not yours"):
        assert lacking not in text


def keys(values: dict, prefix: str = ""):
    """Yield the path of every key in values.yaml that is ours."""
    for key, value in values.items():
        path = prefix + key
        yield path
        if isinstance(value, dict) and path not in FREE:
            yield from keys(value, path + ".")


VALUES = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))


def test_the_readme_lists_every_value_and_no_other():
    """The table and values.yaml name the same keys, with the same defaults."""
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.+) \|$", (CHART / "README.md").read_text("utf-8"), re.MULTILINE)
    assert [path for path, _, _ in rows] == list(keys(VALUES))
    for path, default, meaning in rows:
        value = VALUES
        for name in path.split("."):
            value = value[name]
        if isinstance(value, dict) and value and path not in FREE:
            assert default == "", path
        else:
            assert yaml.safe_load(default.strip("`")) == value, path
        assert len(meaning) > 5, path


def test_every_key_of_the_values_has_a_comment_above_it():
    """Who reads values.yaml needs no other page."""
    lines = (CHART / "values.yaml").read_text("utf-8").splitlines()
    depth: list[tuple[int, str]] = []
    for above, line in zip(["", *lines], lines, strict=False):
        match = re.match(r"^( *)([A-Za-z]\w*):", line)
        if not match:
            continue
        indent = len(match.group(1))
        depth = [one for one in depth if one[0] < indent]
        path = ".".join([*(name for _, name in depth), match.group(2)])
        depth.append((indent, match.group(2)))
        if not any(path.startswith(f"{free}.") for free in FREE) and "metricsFrom." not in path:
            assert above.lstrip().startswith("#"), path
