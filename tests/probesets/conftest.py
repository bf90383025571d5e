"""Small sets of each kind, written afresh for each test."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


HEAD = {"version": 1, "language": "en", "licence": "Apache-2.0", "source": "a test"}

HEADS: Mapping[str, Mapping[str, Any]] = {
    "retrieval": {"kind": "retrieval", **HEAD},
    "composition": {"kind": "composition", **HEAD, "phenomena": ["modality"]},
    "sentinel": {"kind": "sentinel", **HEAD},
}
CONTENTS: Mapping[str, Mapping[str, Any]] = {
    "retrieval": {
        "corpus.jsonl": [
            {"_id": "d1", "title": "Returns", "text": "Reduced goods go back within 14 days."},
            {"_id": "d2", "text": "The invoice comes by mail."},
            {"_id": "d3", "text": "A lost key costs twenty euros."},
        ],
        "queries.jsonl": [
            {"_id": "q1", "text": "send back sale items?", "metadata": {"domain": "shop"}},
            {"_id": "q2", "text": "where is my bill"},
        ],
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n",
    },
    "composition": {
        "pairs.jsonl": [
            {
                "id": "m1", "anchor": "The tenant shall paint the door.", "phenomenon": "modality",
                "paraphrase": "Painting it is an obligation of whoever rents.",
                "near_miss": "The tenant may paint the door.",
            }
        ]
    },
    "sentinel": {"texts.jsonl": [{"_id": "s1", "text": "a"}, {"_id": "s2", "text": "  "}]},
}  # fmt: skip


def write(folder: Path, kind: str, **changes: Any) -> Path:
    """Write a set that keeps all rules, but for `changes`: a file's name with its content, or None to leave it out.

    A list becomes JSON lines, a mapping YAML; text and bytes stay as they are.
    """
    for name, content in {"probe.yaml": HEADS[kind], **CONTENTS[kind], **changes}.items():
        if content is None:
            continue
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)  # noqa: PLW2901
        elif not isinstance(content, str | bytes):
            content = yaml.safe_dump(content)  # noqa: PLW2901
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder
