"""Dividing the times of rules and routes: what changes, what does not, and that Prometheus reads the result."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from tests.monitoring import compress
from tests.monitoring.quick import FACTOR, ROUTES
from tests.programs import need

FILES = sorted((ROUTES.parent / "rules").glob("*.yaml"))
IN_TEXT = re.compile(r"(?<![\w.])(?:\d+(?:ms|[smhdwy]))+(?![\w.])")
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")
TIMED = re.compile(r"rules\.\d+\.(expr|for|keep_firing_for|annotations\.description)\.$")


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def tree(request):
    """Give the content of one rule file after the other."""
    return yaml.safe_load(request.param.read_text(encoding="utf-8"))


def texts(tree):
    """Give every text of a tree with its place."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from ((f"{key}.{place}", text) for place, text in texts(value))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from ((f"{number}.{place}", text) for place, text in texts(value))
    else:
        yield "", str(tree)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("rate(x[15m])", "rate(x[15s])"),
        ("rate(x[90s])", "rate(x[1s500ms])"),
        ("increase(x[1h] offset 1d)", "increase(x[1m] offset 24m)"),
        ("max_over_time(sum(x)[1h:5m] offset -2h)", "max_over_time(sum(x)[1m:5s] offset -2m)"),
        ("time() - x > 120", "time() - x > 2"),
        ("120 < time() - x", "2 < time() - x"),
        ("x_seconds > -60", "x_seconds > -1"),
        ("x_timestamp_seconds:max + (90)", "x_timestamp_seconds:max + (1.5)"),
        ("time() - (x_seconds > 0) > 120 + 2 * y_seconds", "time() - (x_seconds > 0) > 2 + 2 * y_seconds"),
        ("60 + 3 * max(y_seconds) + 2 * sum(z_seconds)", "1 + 3 * max(y_seconds) + 2 * sum(z_seconds)"),
    ],
    ids=lambda text: text[:40],
)
def test_times_are_divided(before, after):
    """A range, a step, an offset, and a number that is held against seconds."""
    assert compress.expression(before, 60) == after


@pytest.mark.parametrize(
    "text",
    [
        "x > 120",
        "sum(increase(x_count[1m])) / 60 >= 100",
        "topk(3, x_seconds)",
        "histogram_quantile(0.95, x_bucket) > 120",
        "count(x_seconds > 0) > 60",
        "rate(x_seconds_total[1m]) > 60",
        "x_seconds / y_seconds > 60",
        "x_seconds > bool 0 == 60",
        'x{a="5m [3h] offset 1d"} == 60 # [5m]',
        "slice:x_5m:rate15m > 30",
        "x > Inf",
    ],
)
def test_everything_else_stays(text):
    """Counts, factors, shares, names, labels and comments are no times, however they look."""
    shorter = text.replace("[1m]", "[1s]")
    assert compress.expression(text, 60) == shorter


def test_a_duration_that_would_have_to_be_rounded_is_refused():
    """A test in quick motion must not run on other times than it says."""
    assert compress.divided("1d", 192) == "7m30s"
    assert compress.divided("1w3d", 1000) == "14m24s"
    with pytest.raises(ValueError, match="1s by 7 is no number of milliseconds"):
        compress.divided("1s", 7)


def test_a_factor_of_one_changes_nothing(tree):
    """Not a character: what the test runs are the rules themselves."""
    assert compress.rules(tree, 1) == tree


def test_every_duration_of_the_rules_is_divided(tree):
    """Place by place: the same durations in the same order, all sixty times shorter, and nothing else but numbers."""
    after, seen = dict(texts(compress.rules(tree, FACTOR))), 0
    for place, before in texts(tree):
        now = after.pop(place)
        if TIMED.search(place):
            durations = [[compress.milliseconds(one) for one in IN_TEXT.findall(text)] for text in (before, now)]
            assert durations[0] == [FACTOR * one for one in durations[1]], place
            seen += len(durations[0])
        assert bare(now, place) == bare(before, place)
    assert not after
    assert seen >= 7


def test_numbers_that_are_no_times_stay(tree):
    """What differs beside durations is a whole number of seconds from a minute up."""
    changed = set()
    done = compress.rules(tree, FACTOR)
    for before, after in zip(expressions(tree), expressions(done), strict=True):
        numbers = [NUMBER.findall(text) for text in (before, after)]
        changed |= {(float(a), float(b)) for a, b in zip(*numbers, strict=True) if a != b}
    assert all(a == b * FACTOR for a, b in changed)
    assert {a for a, _ in changed} <= {120.0, 600.0}


def bare(text, place):
    """Take durations and numbers out where there may be some."""
    return NUMBER.sub("#", IN_TEXT.sub("#", text)) if TIMED.search(place) else text


def expressions(tree):
    """Give the expressions of a rule file."""
    return [rule["expr"] for group in tree["groups"] for rule in group["rules"]]


def test_every_time_of_the_routes_is_divided():
    """Waits and repeats are a sixtieth, and with a factor of one the file is itself."""
    tree = yaml.safe_load(ROUTES.read_text(encoding="utf-8"))
    assert compress.alertmanager(tree, 1) == tree
    before, after = dict(texts(tree)), dict(texts(compress.alertmanager(tree, FACTOR)))
    differing = {place: (text, after[place]) for place, text in before.items() if after[place] != text}
    assert {place.split(".")[-2] for place in differing} >= {"group_wait", "group_interval", "repeat_interval"}
    for a, b in differing.values():
        assert compress.milliseconds(a) == compress.milliseconds(b) * FACTOR


def test_prometheus_reads_the_result(tree, tmp_path):
    """Prometheus' own tool finds as many rules as the file had."""
    need("promtool")
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(compress.rules(tree, FACTOR)), encoding="utf-8")
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(expressions(tree))} rules found" in done.stdout
