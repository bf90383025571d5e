"""Write what the chart knows from the sidecar: the schema of its values, the sidecar's defaults, the README's table.

    python helm/schema.py          rewrite the files
    python helm/schema.py --check  exit 1 if a file would change (a test runs this)

A chart whose schema is typed by hand refuses the next setting, or passes on a wrong one that then ends the start. The
settings are one pydantic tree; its JSON schema, turned from draft 2020-12 into the draft-07 that Helm reads, is the
`config` of `values.schema.json`. The rest of that schema is written by hand in `values-schema.yaml`; the table is made
by `values_table`. The rules that hang on two settings, which no schema says, are in the chart's `_validate.tpl`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from helm.values_table import with_table  # noqa: E402
from sidecar.settings import Settings, leaves  # noqa: E402

CHART = HERE / "rag-drift-sidecar"
REST = HERE / "values-schema.yaml"
NOT_INLINE = ("Redis.password", "Http.token")
"""Secrets, which have no place in a ConfigMap: the chart mounts them as files."""
SCHEMES = "^(redis|rediss|unix)://"
KEPT = (
    "additionalProperties", "const", "default", "description", "enum", "exclusiveMaximum", "exclusiveMinimum",
    "maxItems", "maximum", "maxLength", "minItems", "minimum", "minLength", "pattern", "required", "type",
    "uniqueItems",
)  # fmt: skip
DROPPED = ("title", "format", "writeOnly")
"""What says nothing to a person (titles are the names again) or nothing to Helm (formats are its own)."""


def values_schema() -> dict[str, Any]:
    """Give the schema of all values, in draft-07."""
    schema: dict[str, Any] = yaml.safe_load(REST.read_text(encoding="utf-8"))
    tree = Settings.model_json_schema()
    sections = tree.pop("$defs")
    for name in NOT_INLINE:
        section, setting = name.split(".")
        del sections[section]["properties"][setting]
    sections["Redis"]["properties"]["url"]["pattern"] = SCHEMES
    schema["properties"]["config"] = draft_07(tree, sections)
    return schema


def draft_07(schema: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """Turn a schema of pydantic into draft-07, with the sections that it refers to in place.

    Raises:
        ValueError: it has a keyword that is not known here, and dropping it in silence would open the schema.
    """
    if "$ref" in schema:
        # In place: Helm's message for a reference with a description beside it has a line more that says nothing.
        section = sections[schema["$ref"].removeprefix("#/$defs/")]
        beside = {key: value for key, value in schema.items() if key not in {"$ref", "default"}}
        return draft_07({**section, **beside}, sections)
    turned: dict[str, Any] = {}
    for key, value in schema.items():
        if key in KEPT:
            turned[key] = value
        elif key == "properties":
            turned[key] = {name: draft_07(one, sections) for name, one in value.items()}
        elif key in {"anyOf", "allOf", "oneOf"}:
            turned[key] = [draft_07(one, sections) for one in value]
        elif key == "items":
            turned[key] = draft_07(value, sections)
        elif key == "prefixItems":
            turned["items"] = [draft_07(one, sections) for one in value]
        elif key not in DROPPED:
            raise ValueError(f"the settings' schema has {key!r}, which helm/schema.py does not know")
    return turned


def settings_defaults() -> str:
    """Give the sidecar's defaults as YAML: what the templates assume for a setting that `config` leaves out."""
    tree: dict[str, Any] = {}
    for path, field in leaves():
        if field.is_required() or SecretStr.__name__ in str(field.annotation):
            continue
        *sections, last = path.split(".")
        below = tree
        for name in sections:
            below = below.setdefault(name, {})
        below[last] = list(field.default) if isinstance(field.default, tuple) else field.default
    head = (
        "# Written by helm/schema.py: the sidecar's defaults, which the templates assume where `config` says nothing.\n"
    )
    return head + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def files() -> dict[Path, str]:
    """Give every generated file with its content."""
    readme = CHART / "README.md"
    return {
        CHART / "values.schema.json": json.dumps(values_schema(), indent=2, ensure_ascii=False) + "\n",
        CHART / "files" / "settings-defaults.yaml": settings_defaults(),
        readme: with_table(readme.read_text(encoding="utf-8"), (CHART / "values.yaml").read_text(encoding="utf-8")),
    }


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` say which ones are not current."""
    changed = [
        (path, text) for path, text in files().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in changed:
        if "--check" in arguments:
            print(f"{path.relative_to(HERE.parent)} is not current: run python helm/schema.py")
        else:
            path.write_text(text, encoding="utf-8")
    return 1 if changed and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
