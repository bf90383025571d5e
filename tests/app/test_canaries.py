"""Canary sets in a running sidecar: asked at the start, at once after a swap, and anew after a reload."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.demo.corpus import CORPUS_FILE
from sidecar.demo.encoders import materialise
from tests.app.conftest import TOKEN, settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("redis_binary", ["redis-7-system"], indirect=True)]

WORDS = ("refund", "warranty", "invoice", "delivery", "password", "insurance", "holiday", "battery", "visa", "recipe")


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_set(folder: Path, questions: dict[str, str], corpus: dict[str, str] | None) -> None:
    """Write a labelled set in BEIR's layout; each question has the document of the same id."""
    write_lines(folder / "queries.jsonl", [{"_id": one, "text": text} for one, text in questions.items()])
    if corpus is not None:
        write_lines(folder / "corpus.jsonl", [{"_id": one, "text": text} for one, text in corpus.items()])
    (folder / "qrels").mkdir()
    lines = ["query-id\tcorpus-id\tscore", *(f"{one}\t{one}\t1" for one in questions)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def sets(built, tmp_path) -> Path:
    """Give a folder with a good set and a broken one; beside it, in `more`, one that asks the production index."""
    corpus = {f"d{i}": f"How to ask for {'a' if i % 2 else 'no'} {word}, in ten steps." for i, word in enumerate(WORDS)}
    write_set(tmp_path / "sets" / "own", {f"d{i}": f"{word}, please" for i, word in enumerate(WORDS)}, corpus)
    write_set(tmp_path / "sets" / "broken", {"d1": "a question"}, {"d1": "a text"})
    (tmp_path / "sets" / "broken" / "corpus.jsonl").write_text('{"_id": "d1"\n', encoding="utf-8")
    rows = [json.loads(line) for line in (built / CORPUS_FILE).read_text(encoding="utf-8").splitlines()[:20]]
    write_set(tmp_path / "more" / "production", {row["_id"]: row["text"][:60] for row in rows}, None)
    return tmp_path / "sets"


def test_own_sets_are_asked_at_the_start_after_a_swap_and_after_a_reload(start, built, redis_server, sets, tmp_path):
    """No change is exactly zero, another encoder shows in run, trail and metrics, and a bad set costs itself only."""
    model = shutil.copytree(built / "model", tmp_path / "model")
    tree = settings(built, redis_server.url, canaries={"folders": [str(sets)], "share": 1.0})
    tree["retrievers"] = {
        **tree["retrievers"],
        "deployed": {"encoder": {"model": str(model)}, "index": str(built / "index")},
    }
    one = start(redis_server.url, tree=tree)

    def run() -> dict[str, Any] | None:
        return json.loads(one.get("/api/v1/canaries")[1])

    def of(name: str, run: dict[str, Any]) -> dict[str, Any]:
        (found,) = [each for each in run["retrieval"] if each["set"]["name"] == name]
        return found["changes"]["reference"][0]

    one.ready()
    one.until(run)
    still = run()
    assert [each["set"]["name"] for each in still["retrieval"]] == ["own"]
    assert still["retrieval"][0]["signatures"]["reference"][0]["name"] == "unchanged"
    assert of("own", still)["measures"]["ndcg@10"]["before"] > 0.5
    assert {measure["effect"] for measure in of("own", still)["measures"].values()} == {0.0}
    one.until(lambda: one.value("canary_last_run_timestamp_seconds", probe_set="own") > 0)
    assert one.value("canary_set_errors_total", probe_set="broken") == 1
    assert one.value("canary_sets", state="loaded") == one.value("canary_sets", state="set_aside") == 1

    materialise("precision", model, query_prompt="Something else: ")
    one.until(lambda: run()["stack"]["deployed_encoder"] != still["stack"]["deployed_encoder"])
    moved = run()
    assert of("own", moved)["moved"] > 0
    name = moved["retrieval"][0]["signatures"]["reference"][0]["name"]
    one.until(lambda: one.value("canary_signature", probe_set="own", against="reference", signature=name) >= 1)
    one.until(lambda: json.loads(one.get("/api/v1/audit")[1]))
    told = json.loads(one.get("/api/v1/audit")[1])[0]
    assert (told["kind"], told["probe_set"], told["signature"]) == ("canary_finding", "own", name)

    one.write({**tree, "canaries": {**tree["canaries"], "folders": [str(sets), str(sets.parent / "more")]}})
    assert one.get("/-/reload", body=b"", token=TOKEN)[0] == 200
    one.until(lambda: len(run()["retrieval"]) == 2)
    both = run()
    assert of("own", both) == of("own", moved)
    assert of("production", both)["measures"]["recall@100"]["before"] > 0.9
    assert both["retrieval"][1]["missing"] == 0.0
    assert one.stop() == 0
    assert {line["event"] for line in one.log() if line["level"] == "error"} == {"probe_set_aside"}
    assert not any(f"{word}, please" in one.stderr.read_text() for word in WORDS)
