"""The slim image's promise, held without an image: what it leaves out cannot be imported in these processes.

The distributions of slim are computed as its build installs them, from pyproject.toml down through their metadata.
Every other module of this environment is made unimportable in a process of its own, which then runs the command.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.image.dockerfile import ROOT
from tests.judge.observations import stream

pytestmark = pytest.mark.slow

ENCODER_LIBRARY = "sentence-transformers"
START = """
import json, sys
absent = set(json.loads(sys.argv[1]))
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = ["rag-drift", *sys.argv[2:]]
from sidecar.cli import main
main()
"""
SETTINGS = """
redis: {{url: "{url}"}}
retrievers:
  deployed: {{encoder: {{model: /models/current}}, index: /indexes/current}}
  reference: {{encoder: {{model: /models/accepted}}, index: /indexes/accepted}}
http: {{port: 0}}
"""


def installed_with(requirements: list[Requirement]) -> set[str]:
    """Give the canonical names of all that pip installs for these requirements."""
    found: set[tuple[str, str]] = set()
    wanted = [(one, extra) for one in requirements for extra in ("", *one.extras)]
    while wanted:
        one, extra = wanted.pop()
        key = (canonicalize_name(one.name), extra)
        if key in found:
            continue
        try:
            needs = [Requirement(text) for text in requires(one.name) or []]
        except PackageNotFoundError:
            continue
        found.add(key)
        wanted += [
            (need, inner)
            for need in needs
            if need.marker is None or need.marker.evaluate({"extra": extra})
            for inner in ("", *need.extras)
        ]
    return {name for name, _ in found}


@cache
def left_out() -> str:
    """Give the modules of this environment that the slim image does not have, as JSON."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    slim = installed_with([Requirement(one) for one in project["dependencies"] if not one.startswith(ENCODER_LIBRARY)])
    slim.add(canonicalize_name(project["name"]))
    modules = packages_distributions()
    absent = {name for name, ones in modules.items() if not {canonicalize_name(one) for one in ones} & slim}
    assert {"torch", "transformers", "sentence_transformers", "huggingface_hub", "sklearn", "pytest"} <= absent
    assert not {"sidecar", "numpy", "scipy", "redis", "hiredis", "pydantic", "click", "yaml", "rich"} & absent
    return json.dumps(sorted(absent))


def rag_drift(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as it would run in the slim image."""
    command = [sys.executable, "-c", START, left_out(), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)


@pytest.fixture
def settings(tmp_path):
    """Write settings whose Redis nobody asks."""
    file = tmp_path / "sidecar.yaml"
    file.write_text(SETTINGS.format(url="redis://127.0.0.1:1/0"), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--version"], "rag-drift "),
        (["config", "check", "--config", "FILE"], "settings are valid"),
        (["config", "show", "--config", "FILE"], "retrievers:"),
        (["plan"], "replayed queries a day"),
        (["probes", "list", "--json"], '"generalization"'),
        (["probes", "lint"], "0 errors"),
    ],
    ids=["version", "config-check", "config-show", "plan", "probes-list", "probes-lint"],
)
def test_what_needs_no_encoder_works(settings, arguments, said):
    """These commands import nothing that the slim image lacks."""
    done = rag_drift(*(settings if one == "FILE" else one for one in arguments))
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


def test_what_talks_to_the_judge_works(settings, redis_url, tmp_path):
    """The judge is asked for both things that a person may ask, and what Redis keeps is written to a file."""
    settings.write_text(SETTINGS.format(url=redis_url), encoding="utf-8")
    for command in ("calibrate", "fixed"):
        done = rag_drift(command, "--by", "ann", "--why", "slim", "--config", settings)
        assert (done.returncode, done.stdout[:6]) == (0, "asked:"), done.stderr
    done = rag_drift("observations", "--config", settings, tmp_path / "log.jsonl")
    assert (done.returncode, done.stderr) == (0, "0 observations\n")
    done = rag_drift("status", "--config", settings)
    assert done.returncode == 3
    assert done.stderr.startswith("rag-drift: no judge has written a checkpoint")


def test_a_record_is_judged(tmp_path):
    """The judge with its statistics runs over a recorded stream."""
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"id": identity, **asdict(one)}) + "\n" for identity, one in stream(50, seed=5)))
    done = rag_drift("replay-log", log, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["observations"] == 50


def test_run_says_what_is_missing(settings, redis_url):
    """A sidecar with a sentence-transformers model ends with exit 3 and one line, and without a traceback."""
    settings.write_text(SETTINGS.format(url=redis_url), encoding="utf-8")
    done = rag_drift("run", "--config", settings)
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "rag-drift: encoder '/models/current' needs the packages torch and sentence-transformers"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["index", "build", "--corpus", "probes/generalization/corpus.jsonl", "--model", "/models/m", "TARGET"],
        ["gate", "--reference", "/models/m", "--candidate", "/models/m"],
        ["probes", "card", "generalization", "--model", "/models/m"],
        ["probes", "lint", "--model", "/models/m"],
    ],
    ids=["index-build", "gate", "probes-card", "probes-lint"],
)
def test_what_needs_an_encoder_says_so(tmp_path, arguments):
    """The other commands name the packages that are not there, with exit 3."""
    done = rag_drift(*(tmp_path / "index" if one == "TARGET" else one for one in arguments))
    assert done.returncode == 3, done.stderr
    assert "needs the packages torch and sentence-transformers" in done.stderr
    assert "Traceback" not in done.stderr
