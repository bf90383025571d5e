"""The ConfigMap and the schema: Helm accepts what the sidecar accepts, and refuses the rest, with the same key."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from sidecar.errors import ConfigurationError
from sidecar.options import checked
from sidecar.settings import Settings, leaves
from sidecar.settings_sources import load
from tests.helm.charts import CHART, NAMES, ROOT, Helm, parse, settings_text

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
KEY = "h0pTRiBzXtDxwNXKsV7oeQ3g2wdH0kYz0z8JtsGcV3A="
ASIDE = {"redis.password", "http.token"}
"""Settings that a ConfigMap must not hold."""


def tree(path: str, value: Any) -> dict[str, Any]:
    """Give the tree with one setting."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay one tree over another, as Helm does with values."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def rendered(helm: Helm, folder: Path, config: dict[str, Any]):
    """Render the chart with these settings over its own."""
    values = folder / "values.yaml"
    values.write_text(json.dumps({"config": config}), encoding="utf-8")  # JSON has one reading
    return helm.template("--values", values)


def as_file(folder: Path, text: str) -> Path:
    """Write a settings file."""
    path = folder / "sidecar.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_generated_is_current():
    """The schema, the defaults and the README's table are those of the settings and values as they are now."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "helm" / "schema.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_schema_is_a_closed_draft_07_schema():
    """Helm reads draft-07; every object of the settings and of the chart's own values is closed."""
    assert SCHEMA["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(VALUES)
    assert "$defs" not in json.dumps(SCHEMA)

    def open_objects(schema: Any, path: str) -> list[str]:
        found = []
        if isinstance(schema, dict):
            if "properties" in schema and schema.get("additionalProperties") is not False and "items" not in path:
                found.append(path)
            for key, one in schema.items():
                found += open_objects(one, f"{path}.{key}")
        return found

    assert open_objects(SCHEMA, "") == []


@pytest.mark.parametrize("name", NAMES)
def test_the_sidecar_starts_with_every_rendered_file(helm, name, tmp_path):
    """Each feature's sidecar.yaml passes the sidecar's own checks, with the files that it names in place."""
    text = settings_text(helm.manifests(name))
    for place in ("/etc/rag-drift-secrets", "/etc/redis", "/probes/returns"):
        (tmp_path / place.lstrip("/")).mkdir(parents=True)
        text = text.replace(place, str(tmp_path / place.lstrip("/")))
    secrets = tmp_path / "etc" / "rag-drift-secrets"
    for path in (secrets / "redis-password", secrets / "http-token", tmp_path / "etc" / "redis" / "password"):
        path.write_text("secret", encoding="utf-8")
    (secrets / "frozen-key").write_text(KEY, encoding="utf-8")
    settings = checked(load(as_file(tmp_path, text), environ={}))
    assert settings.deployment


def test_every_setting_can_be_given_and_arrives_as_it_was(helm, tmp_path):
    """The tree is the sidecar's, one to one: all its settings at once come out of the ConfigMap as they went in."""
    everything = yaml.safe_load((CHART / "files" / "settings-defaults.yaml").read_text(encoding="utf-8"))
    given = merged(everything, VALUES["config"])
    known = {path for path, _ in leaves()} - ASIDE
    have = {path for path, _ in _paths(given)}
    assert known - have == {
        f"retrievers.{role}.{rest}"
        for role in ("deployed", "reference")
        for rest in [path.removeprefix("retrievers.deployed.") for path, field in leaves()
                     if path.startswith("retrievers.deployed.") and not field.is_required()]
    } - have  # fmt: skip
    done = rendered(helm, tmp_path, given)
    assert done.returncode == 0, done.stderr
    assert load(as_file(tmp_path, settings_text(parse(done.stdout))), environ={}) == Settings.model_validate(given)


def _paths(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """List the leaves of a tree."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _paths(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


TRAPS = {
    "null-that-means-something": ("replay.shed_after_seconds", None),
    "large-number": ("replay.observations_kept", 10_000_000),
    "tiny-number": ("replay.score_tolerance", 1e-9),
    "words-that-yaml-reads-as-something-else": (
        "sampling.slices",
        ["no", "y", "007", "1e3", "null", "~", "a: b #c", "2026-01-01", "12:30:45", "1_000", "0x1f", ".inf", "- x"],
    ),
    "prompt-with-blanks": ("retrievers.deployed.encoder.query_prompt", "query: "),
    "prompt-in-another-script": ("retrievers.reference.encoder.document_prompt", "文書>\n"),
    "go-template": ("stream.key", "{{ .Values.mode }}"),
    "empty-list": ("canaries.bundled", []),
    "deployment-like-a-number": ("deployment", "1.10"),
    "no-prompt": ("retrievers.deployed.encoder.query_prompt", ""),
}


@pytest.mark.parametrize(("path", "value"), TRAPS.values(), ids=TRAPS)
def test_no_value_changes_on_its_way_through_helm(helm, tmp_path, path, value):
    """Go and YAML have their own ideas of numbers, words and null; the sidecar gets what was written."""
    done = rendered(helm, tmp_path, tree(path, value))
    assert done.returncode == 0, done.stderr
    settings = load(as_file(tmp_path, settings_text(parse(done.stdout))), environ={})
    found: Any = settings
    for name in path.split("."):
        found = getattr(found, name)
    assert found == (tuple(value) if isinstance(value, list) else value)


REFUSED = {
    "unknown-key": ("replay.kk", 10),
    "unknown-section": ("nope", {}),
    "below-the-minimum": ("replay.k", 0),
    "above-the-maximum": ("sampling.rate", 1.5),
    "at-an-open-bound": ("judge.confidence", 1.0),
    "not-a-number": ("http.port", "http"),
    "not-of-the-choice": ("log.level", "loud"),
    "pattern": ("deployment", "-search"),
    "url-of-another-kind": ("redis.url", "http://redis:6379"),
    "a-list-that-is-none": ("sampling.slices", "legal"),
    "empty-list": ("judge.signals", []),
    "too-long-list": ("judge.tiers", [0.05, 0.1, 0.2]),
    "null-where-none-may-be": ("stream.key", None),
    "a-consumer-looks-dead": ("stream.claim_idle_seconds", 3),
    "frozen-signal-without-a-copy": ("judge.signals", ["overlap", "frozen_tolerant"]),
    "sessions-first": ("judge.signals", ["sessions", "overlap"]),
    "a-signal-twice": ("judge.signals", ["overlap", "overlap"]),
    "tiers-that-fall": ("judge.tiers", [0.2, 0.1]),
    "tier-below-the-smallest-effect": ("judge.tiers", [0.01, 0.1]),
    "tier-of-everything": ("judge.tiers", [0.1, 1.0]),
    "thresholds-that-fall": ("canaries.thresholds", [0.9, 0.8]),
    "no-cosine": ("canaries.thresholds", [0.9, 1.1]),
}


@pytest.mark.parametrize(("path", "value"), REFUSED.values(), ids=REFUSED)
def test_helm_refuses_what_the_sidecar_would_refuse(helm, tmp_path, path, value):
    """A wrong setting ends `helm upgrade`, with its key, and not a pod that was running."""
    done = rendered(helm, tmp_path, tree(path, value))
    assert done.returncode != 0
    section, _, last = path.rpartition(".")
    assert (f"config.{path}" in done.stderr) or (
        f"config{'.' + section if section else ''}: Additional property {last}" in done.stderr
    ), done.stderr
    with pytest.raises(ConfigurationError, match=section or last):
        load(as_file(tmp_path, yaml.safe_dump(merged(VALUES["config"], tree(path, value)))), environ={})


def bounds() -> dict[str, Any]:
    """Give for each bounded setting a value just outside of each bound."""
    outside = {}
    for path, field in leaves():
        for rule in field.metadata:
            for name, off in (("ge", -1), ("gt", 0), ("le", 1), ("lt", 0)):
                if (bound := getattr(rule, name, None)) is not None:
                    outside[f"{path}-{name}"] = (path, bound + off)
    return outside


@pytest.mark.parametrize(("path", "value"), bounds().values(), ids=bounds())
def test_every_bound_of_the_settings_is_in_the_schema(path, value):
    """A value just outside of a bound is refused by both, at the same key."""
    values = merged(VALUES, {"config": tree(path, value)})
    found = [".".join(map(str, one.absolute_path)) for one in jsonschema.Draft7Validator(SCHEMA).iter_errors(values)]
    assert found == [f"config.{path}"]
    with pytest.raises(ValueError, match=path.replace(".", r"\.")):
        Settings.model_validate(values["config"])


@pytest.mark.parametrize("path", sorted(ASIDE))
def test_a_secret_has_no_place_among_the_settings(helm, path):
    """The inline forms that the sidecar has for trials are refused: a ConfigMap is no place for a secret."""
    done = helm.template("--set", f"config.{path}=hush")
    assert done.returncode != 0
    section, _, last = path.rpartition(".")
    assert f"config.{section}: Additional property {last} is not allowed" in done.stderr


@pytest.mark.parametrize(
    "url",
    ["redis://user:hush@redis:6379/0", "rediss://:hush@redis", "redis://redis/0?password=hush"],
    ids=["user", "no-user", "query"],
)
def test_a_password_in_the_url_is_refused(helm, url):
    """The URL goes into the ConfigMap as well; the message names the place for the password."""
    done = helm.template("--set", f"config.redis.url={url}")
    assert done.returncode != 0
    assert "use secrets.redisPassword" in done.stderr
    assert "hush" not in done.stderr


def test_two_releases_never_share_their_state(helm):
    """Without a name of its own each release has one made of its namespace and name, so that Redis keys differ."""
    names = {
        load_deployment(helm("template", release, CHART, "--namespace", namespace).stdout)
        for release in ("a", "b")
        for namespace in ("x", "y")
    }
    assert names == {f"{n}.{r}-rag-drift-sidecar" for r in ("a", "b") for n in ("x", "y")}
    done = helm("template", "a", CHART, "--namespace", "n" * 60)
    assert "config.deployment" in done.stderr
    assert "set a shorter one" in done.stderr


def load_deployment(text: str) -> str:
    """Give the deployment's name of a rendering."""
    return yaml.safe_load(settings_text(parse(text)))["deployment"]


def test_what_the_templates_assume_are_the_sidecars_defaults(helm):
    """The file of defaults is the settings' own, and the port of an empty `config.http` is taken from it."""
    text = (CHART / "files" / "settings-defaults.yaml").read_text(encoding="utf-8")
    assumed = merged(yaml.safe_load(text), VALUES["config"])
    assert Settings.model_validate(assumed) == Settings.model_validate(VALUES["config"])
    (service,) = [one for one in helm.manifests("settings") if one["kind"] == "Service"]
    (deployment,) = [one for one in helm.manifests("settings") if one["kind"] == "Deployment"]
    ports = deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert (service["spec"]["ports"][0]["targetPort"], ports[0]["name"], ports[0]["containerPort"]) == (
        "rag-drift", "rag-drift", 9500,
    )  # fmt: skip
    (deployment,) = [one for one in helm.manifests("default") if one["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] == 9464
