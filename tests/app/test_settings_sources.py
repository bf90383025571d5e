"""Texts, secrets and flags: what a source says arrives as it was written, and no mistake shows a secret."""

from __future__ import annotations

import pytest

from sidecar.errors import ConfigurationError
from sidecar.settings_sources import load, redacted

LEAST = {f"retrievers.{role}.{name}": "x" for role in ("deployed", "reference") for name in ("encoder.model", "index")}


def settings(environ, **overrides):
    """Load from an environment, the required parts given."""
    return load(environ=environ, overrides={**LEAST, **overrides})


@pytest.mark.parametrize("text", ["123456", "0123", "a #b", "user: pass", "yes", "[x]", "{", "*star", " spaced ", "~"])
def test_a_secret_in_the_environment_is_taken_as_it_stands(text):
    """A password that is a number, a comment, a list or a truth value to YAML stays the password."""
    found = settings({"RAG_DRIFT__REDIS__PASSWORD": text, "RAG_DRIFT__HTTP__TOKEN": text})
    assert found.redis.password.get_secret_value() == text
    assert found.http.token.get_secret_value() == text


@pytest.mark.parametrize(("text", "expected"), [("query: ", "query: "), ("", ""), ("null", None), ("1", "1")])
def test_a_prompt_in_the_environment_keeps_colon_and_blanks(text, expected):
    """A prompt is every character of it; nothing at all is an empty prompt, and null the model's own."""
    found = settings({"RAG_DRIFT__RETRIEVERS__DEPLOYED__ENCODER__QUERY_PROMPT": text})
    assert found.retrievers.deployed.encoder.query_prompt == expected


def test_an_empty_variable_sets_no_secret_and_no_file():
    """Kubernetes passes empty variables for what is not set."""
    found = settings({"RAG_DRIFT__REDIS__PASSWORD": "", "RAG_DRIFT__HTTP__TOKEN_FILE": ""})
    assert found.redis.password is None
    assert found.http.token_file is None


def test_a_broken_flag_is_named_as_it_was_typed():
    """The message has the flag that the person can see in their command."""
    with pytest.raises(ConfigurationError, match=r"^--http-port: http\.port = 99999: "):
        settings({}, **{"http.port": 99_999})
    with pytest.raises(ConfigurationError, match=r"^--redis-url: redis\.url: "):
        settings({}, **{"redis.url": "ftp://x"})


def test_a_whole_section_in_the_wrong_form_shows_none_of_its_secrets(tmp_path):
    """`redis: redis://user:secret@host` is a likely slip; the message must not repeat it."""
    place = tmp_path / "a.yaml"
    place.write_text("redis: redis://me:hunter2@host\nhttp: [hunter2]\n")
    with pytest.raises(ConfigurationError) as caught:
        load(place, environ={}, overrides=LEAST)
    assert "redis" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://me:hunter2@h/0", "redis://h/0?password=hunter2", "unix:///run/redis?db=1&password=hunter2"]
)
def test_no_form_of_a_password_in_the_url_is_shown(url):
    """`config show` hides the password wherever redis-py would read it from."""
    shown = redacted(settings({"RAG_DRIFT__REDIS__URL": url}))
    assert "hunter2" not in str(shown)
