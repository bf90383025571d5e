"""`rag-drift plan` as an engineer types it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.drift.planner import Pager, assumed_channel, delay, queries_per_day_needed
from sidecar.errors import ConfigurationError
from sidecar.judge.options import JudgeOptions
from sidecar.judge.signal_watch import SignalWatch
from sidecar.plan import Wish, days_of, make_plan, scopes, share_of, weeks_of
from tests.app.conftest import command

WISH = Wish(
    drop=0.05, within_days=1.0, weeks=26.0, slices=20, signals=1, calibration_days=7.0, queries_per_day=None,
    channel=assumed_channel(5_000),
)  # fmt: skip


def test_the_answer_names_its_numbers_and_what_it_assumes():
    """The command line of the documentation answers in words, with units and assumptions."""
    done = command("plan", "--drop", "5%", "--within", "1d", "--false-pages", "1/26w", "--slices", "20")
    assert done.returncode == 0, done.stderr
    for part in (
        "fall of 5 % within 1 d", "1 false page in 26 weeks", "whole stream", "one of 20 slices", "smallest visible",
        "mean 0.62, standard deviation 0.32, kappa 1.6", "tolerance 0.0064", "not a prediction",
    ):  # fmt: skip
        assert part in " ".join(done.stdout.split()), part
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_the_json_says_the_same_as_the_planner():
    """Delays in queries and in days, and traffic for the slice and for the stream that it takes."""
    done = command("plan", "--slices", "20", "--json")
    whole, one = json.loads(done.stdout)["needed"]
    needed = queries_per_day_needed(assumed_channel(5_000), 0.05, 1.0, Pager(26.0, 0.5), min_queries=5_000)
    assert whole["queries_per_day"] == pytest.approx(needed, abs=1)
    assert whole["delay"]["median_days"] == pytest.approx(1.0, abs=1e-6)
    assert one["stream_queries_per_day"] == pytest.approx(20 * one["queries_per_day"], abs=20)
    assert one["calibration_queries"] == pytest.approx(7 * one["queries_per_day"], abs=7)


def test_the_traffic_that_there_is_answers_with_a_table_of_falls():
    """The reverse: from 1 % (never) to 40 %, for the stream and for a slice."""
    done = command("plan", "--queries-per-day", "20000", "--slices", "20")
    assert done.returncode == 0, done.stderr
    rows = [re.split(r"\s*│\s*", line.strip("│ ")) for line in done.stdout.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["1 %", "2 %", "3 %", "5 %", "10 %", "20 %", "40 %"]
    assert rows[0][1:] == ["never"] * 4
    assert all(" min (" in cell for cell in rows[-1][1:])
    assert "judge.min_effect" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ("--drop 5", "--drop: '5' is not a share"),
        ("--drop 0%", "--drop: '0%' is not a share"),
        ("--drop 100%", "--drop: '100%' is not a share"),
        ("--within 1y", "--within: '1y' is not a duration"),
        ("--within 0d", "--within: '0d' is not a duration above 0"),
        ("--calibration week", "--calibration: 'week' is not a duration"),
        ("--false-pages 26w", "--false-pages: '26w' is not a count and a duration"),
        ("--false-pages 0/26w", "--false-pages: '0/26w' is not a count"),
        ("--slices -1", "--slices: -1 is below 0"),
        ("--signals 0", "--signals: 0 is below 1"),
        ("--queries-per-day 0", "--queries-per-day: 0 is not above 0"),
        ("--queries-per-day nan", "--queries-per-day: nan is not above 0"),
        ("--sd .6", "--mean, --sd, --kappa: the standard deviation"),
        ("--mean 1", "--mean, --sd, --kappa: the mean"),
        ("--kappa .5", "--mean, --sd, --kappa: kappa"),
    ],
)
def test_an_option_that_breaks_a_rule_is_named_with_the_rule(arguments, rule):
    """One line on standard error, nothing on standard output."""
    from sidecar.cli import rag_drift

    with pytest.raises(ConfigurationError, match=re.escape(rule)):
        rag_drift.main(["plan", *arguments.split()], standalone_mode=False)


def test_a_usage_error_ends_with_code_2():
    """As for every other command."""
    done = command("plan", "--drop", "5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rag-drift: --drop: '5' is not a share above 0 % and below 100 %; write 5% or 0.05\n"


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (share_of, "5%", 0.05),
        (share_of, " .5 % ", 0.005),
        (share_of, "0.2", 0.2),
        (days_of, "90min", 0.0625),
        (days_of, "90m", 0.0625),
        (days_of, "36h", 1.5),
        (days_of, "2 w", 14.0),
        (weeks_of, "1/26w", 26.0),
        (weeks_of, "2/14d", 1.0),
    ],
)
def test_shares_and_durations_are_read_as_people_write_them(read, text, value):
    """With and without blanks, in the units of the help text."""
    assert read("--x", text) == pytest.approx(value)


@pytest.mark.parametrize("slices", [0, 1, 20])
def test_weights_are_those_that_the_judge_gives(slices):
    """The same as a signal's watch over as many slices with a baseline: one set of weights, not two."""
    options = JudgeOptions(signals=("overlap@10",))
    watch = SignalWatch("overlap@10", options.rules, min_queries=2, min_slice_queries=2, max_slices=20)
    names = ["all", *(f"s{i}" for i in range(slices))]
    for name in names:
        track = watch.tracks.setdefault(name, type(watch.tracks["all"])(options.rules, 2))
        for at in (0.0, 8 * 86_400.0):
            track.take(0.5 + at / 1e7, at)
        track.accept()
    planned = [scope.pager.weight for scope in scopes(replace(WISH, slices=slices))]
    assert planned == [watch.weights()[name] for name in names[:2]]
    halved = [scope.pager.weight for scope in scopes(replace(WISH, slices=slices, signals=2))]
    assert halved == [weight / 2 for weight in planned]


def test_a_measured_baseline_is_taken_as_it_is():
    """With the traffic given, the delays are those of the baseline in force, not of one to come."""
    measured = assumed_channel(14_000, mean=0.9, sd=0.1, kappa=2.0)
    plan = make_plan(replace(WISH, channel=measured, measured=True, queries_per_day=2_000.0, slices=0))
    assert plan["assumed"]["baseline"] == "measured"
    assert plan["sees"][0]["calibration_queries"] == 14_000
    shown = {line["drop"]: line["delay"] for line in plan["sees"][0]["drops"]}
    assert shown[0.1]["median_queries"] == round(delay(measured, 0.1, 2_000, Pager(26.0, 1.0)).median)


def test_a_fall_that_no_traffic_shows_is_said_to_be_never_seen():
    """An answer, not an error."""
    (whole,) = make_plan(replace(WISH, drop=0.01, slices=0))["needed"]
    assert (whole["queries_per_day"], whole["delay"], whole["visible_after_calibration_queries"]) == (None, None, None)


def test_the_table_of_the_documentation_is_what_the_planner_says():
    """Every entry of docs/planner.md, rounded up to two digits as the command does."""
    text = (Path(__file__).parents[2] / "docs" / "planner.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (\d+) % \|(.*)\|$", text, re.MULTILINE)
    assert [int(drop) for drop, _ in lines] == [2, 3, 5, 10, 20, 40]
    for drop, cells in lines:
        written = [int(cell.replace(",", "")) for cell in cells.split("|")]
        for within, entry in zip(("1h", "6h", "1d", "3d", "7d"), written, strict=True):
            wish = replace(WISH, drop=int(drop) / 100, within_days=days_of("", within))
            assert entry == pytest.approx(make_plan(wish)["needed"][0]["queries_per_day"], rel=0.1), (drop, within)
            assert entry >= make_plan(wish)["needed"][0]["queries_per_day"] - 1
