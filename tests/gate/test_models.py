"""Real encoders through the gate: the base, two int8 builds of it, the demo's benign tune, and its accident.

In `make test` on one domain and one phenomenon; the whole command on all bundled sets is nightly.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING

import pytest
import yaml

from sidecar.demo.encoders import int8_weights, materialise
from sidecar.encoders import threads
from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load
from sidecar.gate import choose_sets, compare, measure_encoder
from sidecar.probesets.library import bundled_folder
from tests.app.conftest import command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.gate import Gate, Measured

DOMAIN = "contracts"
PHENOMENA = ("role_swap",)
"""What the accident was trained on, with enough triples to show it."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Give the folders of the four models, none with a prompt."""
    root = tmp_path_factory.mktemp("models")
    made = {name: materialise(name, root / name, query_prompt=None) for name in ("base", "house", "precision")}
    return made | {"int8": int8_weights(made["base"], root / "int8")}


@pytest.fixture(scope="module")
def part(tmp_path_factory) -> Path:
    """Give a folder with a part of the bundled sets: one domain, one phenomenon."""
    root = tmp_path_factory.mktemp("part")
    asked, pairs = root / "asked", root / "pairs"
    (asked / "qrels").mkdir(parents=True)
    pairs.mkdir()
    source = bundled_folder() / "generalization"
    queries = [json.loads(line) for line in (source / "queries.jsonl").read_text().splitlines()]
    kept = {one["_id"] for one in queries if one["metadata"]["domain"] == DOMAIN}
    judged = (source / "qrels" / "test.tsv").read_text().splitlines()
    (asked / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries if one["_id"] in kept))
    (asked / "qrels" / "test.tsv").write_text("\n".join(one for one in judged if one.split("\t")[0] in kept) + "\n")
    passages = (source / "corpus.jsonl").read_text().splitlines()
    ours = [one for one in passages if json.loads(one)["_id"].startswith(DOMAIN)]
    (asked / "corpus.jsonl").write_text("\n".join(ours) + "\n")
    source = bundled_folder() / "composition"
    head = yaml.safe_load((source / "probe.yaml").read_text()) | {"phenomena": list(PHENOMENA)}
    (pairs / "probe.yaml").write_text(yaml.safe_dump(head))
    triples = (source / "pairs.jsonl").read_text().splitlines()
    ours = [one for one in triples if json.loads(one)["phenomenon"] in PHENOMENA]
    (pairs / "pairs.jsonl").write_text("\n".join(ours) + "\n")
    return root


@pytest.fixture(scope="module")
def against_base(models, part) -> Callable[[str], Gate]:
    """Hold one of the models against the base on the part of the sets."""
    sets = choose_sets([str(part)])

    def measured(name: str) -> Measured:
        encoder = load(SentenceTransformerOptions(str(models["base" if name == "dynamic" else name])))
        if name == "dynamic":
            quantise(encoder)
        threads.use(threads.available())
        return measure_encoder(sets, encoder)

    base = measured("base")
    return lambda name: compare(sets, base, measured(name), 0.02)


def quantise(encoder) -> None:
    """Let torch compute the linear layers of a loaded model in int8, activations too."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the function's successor
        layers = {torch.nn.Linear}
        encoder._model = torch.ao.quantization.quantize_dynamic(encoder._model, layers, dtype=torch.qint8)


@pytest.mark.slow
def test_the_base_against_itself_differs_by_exactly_0(against_base):
    """The same model loaded twice: equal fingerprints, no ranking and no cosine moved, every difference 0."""
    found = against_base("base")
    assert found.same
    assert found.reference == found.candidate
    assert (found.verdict, found.exit_code, found.moved) == ("pass", 0, False)
    for one in found.sets:
        assert one.lost == ()
        for check in one.checks:
            assert (check.change.moved, check.change.overlap, check.smallest) == (0, 1.0, None)
            assert {measure.effect for measure in check.change.measures.values()} == {0.0}
    for _, changes in found.pairs:
        differences = {(change.moved, change.sensitivity, change.auc, change.near_miss) for change in changes}
        assert differences == {(0, 0.0, 0.0, 0.0)}


@pytest.mark.slow
def test_the_accident_is_a_trap(against_base):
    """The demo's fine-tuned encoder fails, with both numbers."""
    found = against_base("precision")
    assert found.exit_code == 1
    whole = found.sets[0].checks[0].signature
    assert whole.name == "precision_trap"
    assert whole.retrieval.relative < -0.2
    assert whole.rose


@pytest.mark.slow
def test_int8_weights_are_seen_and_do_not_fail(against_base):
    """Rounding the weights makes another encoder, and no regression."""
    found = against_base("int8")
    assert not found.same
    assert found.moved
    assert found.exit_code == 0


@pytest.mark.slow
def test_int8_arithmetic_is_seen_and_is_no_trap(against_base):
    """What torch's dynamic quantisation costs (docs/gate.md: retrieval) is not bought with sensitivity."""
    found = against_base("dynamic")
    assert not found.same
    assert found.moved
    assert {check.signature.name for check in found.sets[0].checks}.isdisjoint({"precision_trap", "unchanged"})


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("candidate", "verdict", "start"),
    [
        ("base", "pass", "PASS, the same encoder, all differences are exactly 0: generalization all: nDCG@10"),
        ("int8", "pass", "PASS, changed and not worse: generalization all: nDCG@10"),
        ("house", "pass", "PASS, changed and not worse: generalization all: nDCG@10"),
        ("precision", "fail", "FAIL, precision trap (sensitivity to composition rose, retrieval fell): generalization"),
    ],
)
def test_the_command_on_all_bundled_sets(models, tmp_path, candidate, verdict, start):
    """The whole sets decide what a part of them leaves open, with the reports beside it."""
    reports = {kind: tmp_path / f"gate.{kind}" for kind in ("json", "markdown", "junit")}
    line = ["gate", "--reference", str(models["base"]), "--candidate", str(models[candidate])]
    line += [part for kind, file in reports.items() for part in (f"--{kind}", str(file))]
    done = command(*line, timeout=800)
    assert done.returncode == (verdict == "fail"), done.stderr
    assert done.stdout.startswith(start)
    assert json.loads(reports["json"].read_text())["verdict"] == verdict
    assert reports["markdown"].read_text().startswith(f"**{start}")
    assert reports["junit"].read_bytes().startswith(b"<?xml")
