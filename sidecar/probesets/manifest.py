"""What `probe.yaml` says about a probe set, and the JSON schema of it that users' editors and CI read.

The model below is the only list of keys; `probes/probe.schema.json` is written from it by `docs/tables.py` and a test
holds them together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from sidecar.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic_core import ErrorDetails

FILE = "probe.yaml"
LABEL = r"^(?!all$)[a-z0-9][a-z0-9_-]{0,39}$"
"""What may become the value of a metric label: names of sets, domains and phenomena. `all` stands for the whole."""

MOST_GROUPS = 12
"""Domains or phenomena of a set: each is a value of metric labels."""

Kind = Literal["retrieval", "composition", "sentinel"]
Label = Annotated[str, Field(pattern=LABEL)]


class Manifest(BaseModel):
    """The head of a probe set."""

    # Strict: a schema knows no conversions, and `version: true` is a slip of the pen.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        regex_engine="python-re",  # the other one cannot look ahead
        title="A probe set of the retrieval-drift sidecar",
        json_schema_extra={
            "if": {"properties": {"kind": {"const": "composition"}}},
            "then": {"required": ["phenomena"], "properties": {"phenomena": {"minItems": 1}}},
            "else": {"properties": {"phenomena": {"maxItems": 0}}},
        },
    )

    kind: Kind = Field(description="What the set holds: labelled queries, minimal pairs, or texts for the fingerprint")
    version: int = Field(ge=1, description="Number of the version; another content must have another one")
    domain: Label = Field("general", description="Domain of the queries that name none themselves")
    language: str = Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$", description="Language tag, `mul` for several")
    licence: str = Field(min_length=1, description="SPDX identifier of the licence")
    source: str = Field(min_length=1, description="Where the texts come from")
    description: str = Field("", description="What it is for, in a sentence")
    k: Literal[10] = Field(10, description="Depth of the measures that decide")
    phenomena: tuple[Label, ...] = Field(
        (),
        strict=False,  # YAML has lists only
        validate_default=True,
        max_length=MOST_GROUPS,
        description="Phenomena of the pairs, in sets of that kind only; of each there is at least one pair",
    )
    split: str = Field("test", pattern=r"^[A-Za-z0-9_-]+$", description="Name of the judgements' file in `qrels/`")

    @field_validator("version", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """Take 1.0 for 1, as JSON schema does."""
        return int(value) if isinstance(value, float) and value.is_integer() else value

    @field_validator("phenomena")
    @classmethod
    def _of_pairs(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "kind" in info.data and bool(value) != (info.data["kind"] == "composition"):
            raise PydanticCustomError("phenomena", "a composition set names at least one, other sets none")
        return value


def read_manifest(folder: Path) -> Manifest:
    """Read the head of the set in `folder`.

    Raises:
        DataError: it is missing or breaks rules; each line of the message names file, line, key and rule.
    """
    file = folder / FILE
    try:
        content, lines = _parse(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({type(error).__name__}); rule: a UTF-8 file") from None
    except yaml.MarkedYAMLError as error:
        where = f"{file}, line {error.problem_mark.line + 1}" if error.problem_mark else str(file)
        raise DataError(f"{where}: not YAML ({error.problem or 'damaged'})") from None
    # PyYAML makes dates of what looks like one, and gives up at depths that no probe.yaml has.
    except (yaml.YAMLError, ValueError, RecursionError):
        raise DataError(f"{file}: not YAML; rule: keys and values") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: not a mapping; rule: keys and values")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise DataError("\n".join(_complaint(file, lines, one) for one in error.errors(include_url=False))) from None


def json_schema() -> dict[str, Any]:
    """Give the draft-07 JSON schema of `probe.yaml`."""
    return {"$schema": "http://json-schema.org/draft-07/schema#", **Manifest.model_json_schema()}


def _parse(text: str) -> tuple[Any, dict[str, int]]:
    """Give the content, and the line of each key."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            name = str(key.value)
            if name in lines:
                raise yaml.MarkedYAMLError(problem=f"{name!r:.40} is given twice", problem_mark=key.start_mark)
            lines[name] = key.start_mark.line + 1
        return None if node is None else loader.construct_document(node), lines
    finally:
        loader.dispose()


def _complaint(file: Path, lines: Mapping[str, int], error: ErrorDetails) -> str:
    key = ".".join(map(str, error["loc"]))
    line = lines.get(str(error["loc"][0])) if error["loc"] else None
    where = f"{file}, line {line}" if line else str(file)
    found = "" if error["type"] in {"missing", "extra_forbidden"} else f" (it is {error['input']!r:.60})"
    return f"{where}: {key and f'{key}: '}{error['msg'][:1].lower()}{error['msg'][1:]}{found}"
