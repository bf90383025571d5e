"""`rag-drift gate` as an engineer types it: what is refused and by which exit code, and the documented workflow."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from sidecar.cli import gate
from sidecar.encoders.sentence_transformer import SentenceTransformerOptions
from sidecar.errors import ConfigurationError, DataError, EncoderError
from sidecar.gate import choose_sets, run_gate
from sidecar.probesets.library import bundled_folder
from tests.app.conftest import command

ROOT = Path(__file__).parents[2]
MODELS = ("--reference", "no/such/model", "--candidate", "no/such/model")
BUNDLED = bundled_folder() / "generalization"


@pytest.fixture
def asked(tmp_path) -> Path:
    """Give a copy of a bundled set that the test may break."""
    return shutil.copytree(BUNDLED, tmp_path / "asked")


def test_by_default_all_bundled_sets_are_measured():
    """Queries and pairs; the sentinels are the fingerprint's."""
    assert {one.kind for one in choose_sets()} == {"retrieval", "composition"}


def test_own_queries_stand_beside_the_bundled_sets():
    """The domains that a team does not look at are looked at also where it brings its own queries."""
    files = BUNDLED / "queries.jsonl", BUNDLED / "corpus.jsonl"
    names = [one.name for one in choose_sets()]
    plain, judged = choose_sets((), *files)[-1], choose_sets((), *files, BUNDLED / "qrels" / "test.tsv")[-1]
    assert [one.name for one in choose_sets((), *files)] == [*names, "queries"]
    assert len(plain.queries) == len(judged.queries) > 0
    assert not plain.judgements
    assert len(judged.judgements) == len(judged.queries)


def test_names_and_folders_choose_the_sets(asked):
    """Only what is named is measured."""
    assert [one.name for one in choose_sets(["composition", str(asked)])] == ["asked", "composition"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--queries", "q.jsonl"), "--queries and --corpus go together"),
        (("--corpus", "c.jsonl"), "--queries and --corpus go together"),
        (("--qrels", "q.tsv"), "--qrels needs --queries and --corpus"),
        (("--queries", "no-queries.jsonl", "--corpus", "no-corpus.jsonl"), "no-queries.jsonl: cannot be read"),
        (("--probes", "generalisation"), "--probes generalisation: neither a bundled probe set nor a folder"),
        (("--probes", "composition"), "no set asks a query"),
        (("--tolerance", "2 percent"), "--tolerance: '2 percent'"),
        (("--junit", "no/such/folder/gate.xml"), "no/such/folder/gate.xml: the report cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_asked_is_refused_before_a_model_is_loaded(arguments, message):
    """Exit 2 and one clear line: the models of these commands are not even there."""
    done = command("gate", *MODELS, *arguments)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_set_ends_the_gate(asked):
    """A check that was not made is not passed; file and line are named."""
    with (asked / "queries.jsonl").open("a") as file:
        file.write("no JSON\n")
    with pytest.raises(DataError, match=r"queries\.jsonl, line \d+: not JSON"):
        choose_sets([str(asked)])


def test_a_set_without_passages_is_refused(asked):
    """Judgements of a production index say nothing without that index."""
    (asked / "corpus.jsonl").unlink()
    with pytest.raises(DataError, match=r"there is no corpus\.jsonl"):
        choose_sets([str(asked)])


@pytest.mark.slow
def test_a_model_that_is_not_there_is_a_missing_dependency():
    """Exit 3, and the message names the model."""
    missing = SentenceTransformerOptions("no/such/model")
    with pytest.raises(EncoderError, match="no/such/model") as caught:
        run_gate(choose_sets(["generalization"]), missing, missing, 0.02, strict=False)
    assert caught.value.exit_code == 3


def test_one_of_both_files_is_not_enough():
    """The pairing is a rule of the function, too, not only of the command."""
    with pytest.raises(ConfigurationError):
        choose_sets((), Path("queries.jsonl"))


def test_the_workflow_in_the_documentation_is_sound():
    """It parses, its gate has only options that there are, and what it posts and uploads is what the gate writes."""
    file = ROOT / "docs" / "examples" / "gate.yml"
    workflow = yaml.safe_load(file.read_text())
    assert workflow[True]["pull_request"]  # YAML 1.1 reads the key `on` as a boolean
    assert workflow["permissions"]["pull-requests"] == "write"
    steps = workflow["jobs"]["gate"]["steps"]
    (line,) = [shlex.split(step["run"]) for step in steps if step.get("name") == "Gate"]
    known = {option: parameter for parameter in gate.params for option in parameter.opts}
    given = {option: line[line.index(option) + 1] for option in line if option.startswith("--")}
    assert line[:2] == ["rag-drift", "gate"]
    assert set(given) <= set(known)
    assert {name for name, one in known.items() if one.required} <= set(given)
    (comment,) = [step for step in steps if step.get("name") == "Comment"]
    (upload,) = [step for step in steps if step.get("name") == "Reports"]
    assert f"--body-file {given['--markdown']}" in comment["run"]
    assert upload["with"]["path"].split() == [given["--junit"], given["--json"]]
    assert comment["if"] == upload["if"] == "${{ !cancelled() }}"
    assert "examples/gate.yml" in (ROOT / "docs" / "gate.md").read_text()
