"""`Sidecar health`: is the monitor alive, does it see everything, and what does it cost?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.generate import flow
from dashboards.generate.blocks import gauges, graph, number, sheet, states
from dashboards.generate.frame import Board
from dashboards.generate.looks import (
    AGO,
    BYTES,
    DATE,
    DEPLOYMENT_NAME,
    EACH_SECOND,
    NONE,
    OWNER,
    SHARE,
    Axis,
    Column,
    Query,
)
from dashboards.generate.promql import (
    DEPLOYMENT,
    TARGET,
    age,
    best,
    family,
    grown,
    in_rounds,
    labels,
    rate,
)
from dashboards.generate.words import BAD, COLD, GOOD, NOTE, WARN, mapped

if TYPE_CHECKING:
    from dashboards.generate.blocks import Panel

YES_NO = mapped({1: ("yes", GOOD), 0: ("NO", BAD)})
ON_TIME = ((None, GOOD), (1, NOTE), (2, BAD))
ROUNDS = Axis(NONE, least=0, soft=(0, 3), decimals=1, label="rounds", steps=((None, "transparent"), (2, BAD)))


def board() -> Board:
    """Lay the dashboard out."""
    made = Board(
        "Sidecar health",
        "rag-drift-health",
        "Is the monitor alive, does it see everything, and what does it cost? A silent monitor is the worst failure.",
        period="now-6h",
        refresh="30s",
    )
    made.line(4, (up(), 4), (ready(), 4), (judges(), 4), (evaluated(), 4), (read(), 4), (settings(), 4))
    made.line(7, (rounds(), 12), (duty(), 12))
    made.section("Intake: what comes in")
    made.line(8, (flow.outcomes(), 12), (flow.decisions(), 12))
    made.line(8, (flow.replays(), 12), (flow.lost(), 12))
    made.line(7, (flow.behind(), 8), (flow.queue(), 8), (flow.malformed(), 8))
    made.section("Replay: what it costs")
    made.line(8, (flow.phases(), 12), (flow.busy(), 12))
    made.section("Judge")
    made.line(7, (flow.judged(), 8), (flow.progress(), 8), (flow.diagnosis(), 8))
    made.section("What went wrong")
    made.line(8, (failures(), 14), (failures_counted(), 10))
    made.line(7, (retrievers(), 12), (probe_sets(), 12))
    made.section("Process")
    made.line(7, (memory(), 8), (cpu(), 8), (files(), 8))
    made.line(6, (builds(), 24))
    return made


def up() -> Panel:
    """Count the replicas that answer."""
    return number(
        "Replicas that answer",
        "Scraped replicas that are up. Compare with what you run; no data means that Prometheus does not know the "
        "sidecar.",
        Query(f"sum by ({DEPLOYMENT}) (up{{{TARGET}}})", DEPLOYMENT_NAME),
        steps=((None, BAD), (1, GOOD)),
        decimals=0,
        nothing="Not scraped",
    )


def ready() -> Panel:
    """Count the replicas that are ready."""
    return number(
        "Replicas that are ready",
        "Replicas with models loaded and a readable stream. Fewer than answer: one is loading, or cannot reach Redis; "
        "its /-/ready says what is missing.",
        Query(f"sum by ({DEPLOYMENT}) ({family('ready')})", DEPLOYMENT_NAME),
        steps=((None, BAD), (1, GOOD)),
        decimals=0,
    )


def judges() -> Panel:
    """Count the judges."""
    return number(
        "Judges",
        "Exactly one replica judges, by a lease in Redis. None: nobody will page. Two for longer than a moment: two "
        "deployments share a name, or a clock is wrong.",
        Query(f"sum by ({DEPLOYMENT}) ({family('judge_active')})", DEPLOYMENT_NAME),
        steps=((None, BAD), (1, GOOD), (2, BAD)),
        decimals=0,
    )


def evaluated() -> Panel:
    """Say when somebody last judged."""
    return number(
        "Last evaluation",
        "When a judge last finished judging what there was. It stays recent without traffic too; an old one means "
        "that it hangs or has no Redis.",
        Query(f"1000 * {best('last_evaluation_timestamp_seconds')}", DEPLOYMENT_NAME),
        unit=AGO,
        mappings=[mapped({0: ("never", BAD)})],
    )


def read() -> Panel:
    """Say when the stream was last read."""
    return number(
        "Last entry read",
        "When entries were last read from the query stream, by any replica. Old, while the service has traffic: "
        "nobody publishes, or to another stream.",
        Query(f"1000 * {best('last_read_timestamp_seconds')}", DEPLOYMENT_NAME),
        unit=AGO,
        mappings=[mapped({0: ("never", BAD)})],
    )


def settings() -> Panel:
    """Say whether the settings are what people think."""
    return number(
        "Last reload succeeded",
        "NO: some replica refused new settings and goes on with the old ones. `rag-drift config check` names key, "
        "value and rule.",
        Query(f"min by ({DEPLOYMENT}) ({family('config_last_reload_successful')})", DEPLOYMENT_NAME),
        mappings=[YES_NO],
    )


def rounds() -> Panel:
    """Hold each loop's last round against its interval."""
    # Of the canaries the set that waits longest; a replica that does not judge shows 0 for all.
    sets = f"{best('canary_last_run_timestamp_seconds', 'probe_set')} > 0"
    oldest = f"time() - min by ({DEPLOYMENT}) ({sets})"
    return graph(
        "Age of the last round of each loop, in rounds",
        "Age divided by the longest that a round should take (its interval and a minute): below 1 is on time, above 2 "
        "(dashed) rounds are missing, and it alerts when that stays. A loop without a line has not finished its first "
        "round, or is switched off.",
        Query(in_rounds(age("last_evaluation_timestamp_seconds"), "judge"), "judge"),
        Query(in_rounds(oldest, "canaries"), "canaries, oldest set"),
        Query(in_rounds(age("frozen_last_replay_timestamp_seconds"), "frozen"), "frozen probes"),
        axis=ROUNDS,
        calcs=("max", "lastNotNull"),
    )


def duty() -> Panel:
    """Show who judged and who was up."""
    return states(
        "Duty and readiness of each replica",
        "Judging, ready, not ready, or down. The duty should move only when its replica goes; a duty that wanders is "
        "a replica that loses its lease (a slow Redis, or a starved processor).",
        Query(
            f"2 * ({family('judge_active')} == 1)\nor\n1 * {family('ready')}\nor\n0 * up{{{TARGET}}} - 1",
            "{{instance}}",
        ),
        mappings=[
            mapped({2: ("judging", COLD), 1: ("ready", GOOD), 0: ("not ready", WARN), -1: ("down", BAD)}),
        ],
    )


FAILURES = (
    ("replay_failures", "reason", "replay: {{reason}}"),
    ("canary_failures", "reason", "canaries: {{reason}}"),
    ("frozen_failures", "reason", "frozen probes: {{reason}}"),
    ("intake_failures", "", "intake"),
    ("judge_failures", "", "judge"),
    ("diagnosis_failures", "", "diagnosis"),
    ("retriever_reload_failures", "role", "loading: {{role}}"),
    ("stream_groups_remade", "", "group made anew"),
    ("events_claimed", "", "taken over from a dead replica"),
    ("events_clock_skewed", "", "clock ahead"),
)


def failures() -> Panel:
    """Show failures over time."""
    return graph(
        "Failures, by part and reason",
        "What failed and was tried again. Single ones are life; a steady line is a fault. `store` is Redis; "
        "EncoderError and VectorIndexError are the models and indexes. The log has each with its message.",
        *(Query(rate(name, by), legend) for name, by, legend in FAILURES),
        axis=Axis(EACH_SECOND, least=0),
        stacked=True,
        calcs=("max",),
    )


def failures_counted() -> Panel:
    """Count the failures."""
    return gauges(
        "The same, counted over the period",
        "How often each happened in the period that is looked at, all replicas together. Green is 0. Read it after a "
        "bad night: a single failure is gone from a graph of rates soon.",
        *(Query(grown(name, by), legend) for name, by, legend in FAILURES),
        unit="short",
        steps=((None, GOOD), (1, WARN)),
    )


def retrievers() -> Panel:
    """Show whether the newest versions are loaded."""
    return states(
        "Newest version loaded",
        "NO: the folder holds a version of encoder or index that could not be loaded; the old one stays in use, and "
        "the sidecar's picture of the service is wrong. The log says why.",
        Query(f"max by ({labels('role')}) ({family('retriever_outdated')})", "{{role}}"),
        mappings=[mapped({0: ("yes", GOOD), 1: ("NO", BAD)})],
    )


def probe_sets() -> Panel:
    """List the probe sets."""
    return sheet(
        "Probe sets",
        "The sets that are loaded, and when each was last run whole. A sentinel set is not run. A set that broke a "
        "rule is set aside and missing here; the log names the rule.",
        Query(best("canary_set_info", "probe_set, kind, version, checksum")),
        Query(f"1000 * ({best('canary_last_run_timestamp_seconds', 'probe_set')} > 0)"),
        columns=[
            *OWNER,
            Column("probe_set", "Set"),
            Column("kind", "Kind"),
            Column("version", "Version"),
            Column("checksum", "Checksum"),
            Column("Value #B", "Run", AGO),
        ],
        sort="Set",
        descending=False,
        nothing="No set is loaded",
    )


def _process(name: str) -> str:
    return f"process_{name}{{{TARGET}}}"


def memory() -> Panel:
    """Show the memory."""
    return graph(
        "Memory of each replica",
        "Resident memory; about half a gigabyte with encoders in the process. A step at an exchange is normal (two "
        "versions for a moment), a steady climb is not.",
        Query(_process("resident_memory_bytes"), "{{instance}}"),
        axis=Axis(BYTES, least=0),
        calcs=("max", "lastNotNull"),
    )


def cpu() -> Panel:
    """Show the processor time."""
    return graph(
        "Processors of each replica",
        "Processors in use; 1 is one whole processor. At the container's limit replay slows down and sheds.",
        Query(f"rate({_process('cpu_seconds_total')}[$__rate_interval])", "{{instance}}"),
        axis=Axis(NONE, least=0, decimals=2),
        calcs=("mean", "max"),
    )


def files() -> Panel:
    """Show the open files."""
    return graph(
        "Open files of each replica",
        "Open file descriptors as a share of the limit. A climb is a leak of connections: restart the replica before "
        "it reaches 100 %, and report it.",
        Query(f"{_process('open_fds')}\n/ {_process('max_fds')}", "{{instance}}"),
        axis=Axis(SHARE, least=0, soft=(0, 0.1)),
    )


def builds() -> Panel:
    """List versions and starts."""
    started = f"1000 * max by ({labels('instance')}) ({_process('start_time_seconds')})"
    read_at = f"1000 * max by ({labels('instance')}) ({family('config_last_reload_success_timestamp_seconds')} > 0)"
    return sheet(
        "Replicas: version, start, settings",
        "Version of each replica, when its process began, and when the settings in use were read. Different versions "
        "side by side: a roll-out is under way, or stuck. Starts that differ by minutes: it is being killed; look at "
        "memory.",
        Query(f"max by ({labels('instance, version, python')}) ({family('build_info')})"),
        Query(started),
        Query(read_at),
        columns=[
            *OWNER,
            Column("instance", "Instance"),
            Column("version", "Version"),
            Column("python", "Python"),
            Column("Value #B", "Started", DATE),
            Column("Value #C", "Settings read", DATE),
        ],
        sort="Instance",
        descending=False,
    )
