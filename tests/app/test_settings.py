"""Settings: one tree, three sources, and messages that say what to do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml

from sidecar.errors import ConfigurationError
from sidecar.settings import environment_name, leaves
from sidecar.settings_sources import load, redacted, secret

LEAST = {
    "retrievers": {
        "deployed": {"encoder": {"model": "a"}, "index": "i"},
        "reference": {"encoder": {"model": "b"}, "index": "j"},
    }
}


@pytest.fixture
def file(tmp_path):
    """Give a function that writes a settings file."""

    def write(tree):
        path = tmp_path / "settings.yaml"
        path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
        return path

    return write


def test_the_least_file_gives_every_default(file):
    """Only the retrievers are required; everything else has its documented default."""
    settings = load(file(LEAST), environ={})
    assert settings.replay.k == 10
    assert settings.judge.weeks_between_false_pages == 26.0
    assert settings.judge.calibration.min_days == 7.0


def test_flags_beat_the_environment_which_beats_the_file(file):
    """The precedence is the documented one."""
    path = file(LEAST | {"replay": {"k": 5, "batch_size": 8}, "deployment": "from-file"})
    environ = {"RAG_DRIFT__REPLAY__K": "7", "RAG_DRIFT__DEPLOYMENT": "from-environment"}
    settings = load(path, environ=environ, overrides={"deployment": "from-flag", "redis.url": None})
    assert (settings.replay.k, settings.replay.batch_size, settings.deployment) == (7, 8, "from-flag")


def test_the_environment_can_write_lists_null_and_paths(file):
    """Values in the environment are read as YAML."""
    environ = {
        "RAG_DRIFT__SAMPLING__SLICES": "[legal, support]",
        "RAG_DRIFT__REPLAY__SHED_AFTER_SECONDS": "null",
        "RAG_DRIFT__RETRIEVERS__DEPLOYED__INDEX": "/indexes/current",
    }
    settings = load(file(LEAST), environ=environ)
    assert settings.sampling.slices == ("legal", "support")
    assert settings.replay.shed_after_seconds is None
    assert str(settings.retrievers.deployed.index) == "/indexes/current"


def test_what_kubernetes_injects_for_a_service_of_our_name_is_not_a_setting(file):
    """Service variables have one underscore and must not break the start of every pod in the namespace."""
    environ = {"RAG_DRIFT_SERVICE_HOST": "10.0.0.1", "RAG_DRIFT_PORT": "tcp://10.0.0.1:9464"}
    assert load(file(LEAST), environ=environ).deployment == "default"


@pytest.mark.parametrize(
    ("change", "environ", "message"),
    [
        ({"replay": {"kk": 3}}, {}, "settings.yaml: replay.kk: unknown setting; did you mean replay.k?"),
        ({"replay": {"k": 0}}, {}, "settings.yaml: replay.k = 0: input should be greater than or equal to 1"),
        ({}, {"RAG_DRIFT__REPLAY__K": "0"}, "RAG_DRIFT__REPLAY__K: replay.k = 0: input should be"),
        ({}, {"RAG_DRIFT__REPLY": "0"}, "RAG_DRIFT__REPLY: reply: unknown setting"),
        ({"redis": {"url": "http://x"}}, {}, "redis.url: must start with redis://"),
        ({"retrievers": {}}, {}, "retrievers.deployed: required, but not set"),
        ({"deployment": "a b"}, {}, "deployment = 'a b': string should match pattern"),
        ({"judge": {"signals": ["bleu"]}}, {}, "judge.signals.0 = 'bleu': input should be 'overlap', 'jaccard', 'rbo'"),
        ({"http": {"token": "t", "token_file": "f"}}, {}, "http: give the secret inline or as a file, not both"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_a_mistake_names_source_key_value_and_rule(file, change, environ, message):
    """Each broken rule is one line that an operator can act on."""
    with pytest.raises(ConfigurationError) as caught:
        load(file(LEAST | change), environ=environ)
    assert message in str(caught.value)


def test_all_mistakes_are_told_at_once(file):
    """Nobody wants to fix one line a time."""
    with pytest.raises(ConfigurationError) as caught:
        load(file(LEAST | {"replay": {"k": 0, "rbo_p": 2}, "foo": 1}), environ={})
    assert len(str(caught.value).splitlines()) == 3


def test_a_secret_is_in_no_message_and_no_output(file):
    """A wrong or shown setting never echoes a password, also not the one inside the Redis URL."""
    with pytest.raises(ConfigurationError) as caught:
        load(file(LEAST | {"redis": {"password": ["hunter2"], "url": "ftp://me:hunter3@x"}}), environ={})
    assert "hunter" not in str(caught.value)
    settings = load(
        file(
            LEAST | {"redis": {"password": "hunter2", "url": "redis://me:hunter3@r:1/0"}, "http": {"token": "hunter4"}}
        ),
        environ={},
    )
    shown = yaml.safe_dump(redacted(settings))
    assert "hunter" not in shown + repr(settings)
    assert "redis://me:**********@r:1/0" in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not valid YAML"), ("- 1", "must be a mapping"), (None, "cannot be read")],
    ids=["broken", "a list", "missing"],
)
def test_a_file_that_is_no_settings_file_is_named(file, tmp_path, text, message):
    """The message names the file and what is wrong with it."""
    path = tmp_path / "nowhere.yaml" if text is None else file(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load(path, environ={})
    assert path.name in str(caught.value)


def test_a_secret_file_must_be_there_and_hold_something(tmp_path):
    """An empty or missing secret file is a configuration error, not an empty password."""
    empty = tmp_path / "empty"
    empty.write_text("\n")
    with pytest.raises(ConfigurationError, match="is empty"):
        secret(None, empty, "http.token_file")
    with pytest.raises(ConfigurationError, match="cannot read"):
        secret(None, tmp_path / "missing", "http.token_file")
    empty.write_text(" token \n")
    assert secret(None, empty, "http.token_file") == "token"


def test_every_leaf_can_be_set_from_the_environment_and_has_a_description():
    """No setting is out of reach of the environment, and none is undocumented."""
    names = [environment_name(path) for path, _ in leaves()]
    assert len(names) == len(set(names)) > 50
    assert [path for path, field in leaves() if not field.description] == []


def run(*arguments, **environ):
    """Run the command line."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAG_DRIFT")}
    return subprocess.run(
        [sys.executable, "-m", "sidecar.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=clean | environ,
    )


def test_config_check_and_show(file):
    """`config check` exits 0 or 2 with one line per mistake; `config show` prints a file that loads again."""
    path = file(LEAST | {"redis": {"password": "hunter2"}})
    assert run("config", "check", "--config", str(path)).returncode == 0
    wrong = run("config", "check", "--config", str(path), RAG_DRIFT__REPLAY__K="x")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("rag-drift: RAG_DRIFT__REPLAY__K: replay.k = 'x':")
    assert len(wrong.stderr.splitlines()) == 1
    shown = run("config", "show", "-c", str(path), "--deployment", "eu")
    assert "hunter2" not in shown.stdout
    assert load(file(shown.stdout), environ={}).deployment == "eu"


def test_the_command_line_answers_help_without_loading_anything_heavy():
    """`--help` imports neither numpy nor torch nor redis nor aiohttp: it must answer at once."""
    heavy = "{'numpy', 'torch', 'redis', 'aiohttp', 'pydantic', 'scipy'}"
    code = f"import sys, sidecar.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert run("--help").returncode == 0
    assert run("--version").stdout.startswith("rag-drift ")
    assert run("no-such-command").returncode == 2
