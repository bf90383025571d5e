"""The command line. Every command imports what it needs when it runs, so that `--help` answers at once.

Exit codes: 0 done; 1 the check failed; 2 usage or configuration; 3 a dependency was not reachable.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.settings import Settings

FILE = click.Path(path_type=Path, dir_okay=False)


def main() -> None:
    """Run the command line and turn our errors into one clear line and an exit code."""
    from sidecar.errors import SidecarError  # noqa: PLC0415

    try:
        rag_drift(standalone_mode=False)
    except SidecarError as error:
        for line in str(error).splitlines():
            click.echo(f"rag-drift: {line}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415

        click.echo(f"rag-drift {version('rag-drift-sidecar')}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, callback=_version, expose_value=False, is_eager=True, help="Show the version.")
def rag_drift() -> None:
    """Tell when the retrieval of a production RAG service has drifted, how much, since when and why."""


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the file and the few flags that matter; everything else is in the file or the environment."""
    for option in (
        click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="log.level"),
        click.option("--http-port", type=int, help="http.port"),
        click.option("--redis-url", help="redis.url"),
        click.option("--deployment", help="deployment"),
        click.option(
            "-c", "--config", "--config.file", "config", type=FILE, envvar="RAG_DRIFT_CONFIG", show_envvar=True,
            help="Settings file in YAML.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def _loader(
    config: Path | None, deployment: str | None, redis_url: str | None, http_port: int | None, log_level: str | None
) -> Callable[[], Settings]:
    from sidecar.settings_sources import load  # noqa: PLC0415

    overrides = {
        "deployment": deployment, "redis.url": redis_url, "http.port": http_port, "log.level": log_level,
    }  # fmt: skip
    return lambda: load(config, overrides=overrides)


@rag_drift.command()
@_settings_options
def run(**flags: Any) -> None:
    """Run the sidecar until it is told to stop (SIGTERM); SIGHUP reloads the settings."""
    import asyncio  # noqa: PLC0415

    load = _loader(**flags)
    settings = load()
    from sidecar.logs import configure  # noqa: PLC0415
    from sidecar.serve import serve  # noqa: PLC0415

    asyncio.run(serve(load, log=configure(settings.log.level, settings.log.format)))


@rag_drift.group()
def config() -> None:
    """Check and show the settings."""


@config.command("check")
@_settings_options
def config_check(**flags: Any) -> None:
    """Check the settings and say what is wrong, one line per rule."""
    settings = _loader(**flags)()
    from sidecar.options import checked  # noqa: PLC0415

    checked(settings)
    click.echo("settings are valid")


@config.command("show")
@_settings_options
def config_show(**flags: Any) -> None:
    """Print the settings in force as YAML, secrets hidden."""
    settings = _loader(**flags)()
    import yaml  # noqa: PLC0415

    from sidecar.settings_sources import redacted  # noqa: PLC0415

    click.echo(yaml.safe_dump(redacted(settings), sort_keys=False, allow_unicode=True), nl=False)


@rag_drift.command()
@_settings_options
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
def freeze(target: Path, **flags: Any) -> None:
    """Copy the deployed model and index to the folder TARGET, as `retrievers.frozen` wants them."""
    settings = _loader(**flags)()
    from sidecar.options import encoder_options  # noqa: PLC0415
    from sidecar.replay.freeze import freeze as copy  # noqa: PLC0415

    deployed = settings.retrievers.deployed
    frozen = copy(encoder_options(deployed), deployed.index, target)
    click.echo(f"frozen: encoder {frozen.fingerprint.digest}, index {frozen.index.generation}")


@rag_drift.group()
def index() -> None:
    """Build vector indexes."""


@index.command("build")
@click.option(
    "--corpus", type=FILE, required=True, help="Documents as JSON lines with _id, title and text (BEIR layout)."
)
@click.option("--model", required=True, help="Folder or name of a sentence-transformers model.")
@click.option("--revision", help="Revision of the model on its hub.")
@click.option("--query-prompt", help="Text put before each query; part of the encoder's fingerprint.")
@click.option("--document-prompt", help="Text put before each document.")
@click.option("--max-length", type=click.IntRange(1), help="Longest input in tokens.")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Texts per forward pass.")
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
def index_build(corpus: Path, target: Path, **encoder: Any) -> None:
    """Embed the documents of CORPUS and write the index folder TARGET.

    An interrupted build goes on where it stopped; a finished one appears whole.
    """
    from sidecar.indexes.command import build  # noqa: PLC0415

    build(corpus, target, encoder)


@rag_drift.group()
def probes() -> None:
    """List, show and check probe sets, and measure what they can detect."""


@probes.command("list")
@click.option(
    "-c", "--config", "--config.file", "config", type=FILE, envvar="RAG_DRIFT_CONFIG", show_envvar=True,
    help="Settings whose sets to list; without them all that are bundled.",
)  # fmt: skip
@click.option(
    "--folder",
    "folders",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Folder that is or holds sets; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def probes_list(config: Path | None, folders: tuple[Path, ...], as_json: bool) -> None:
    """List the probe sets, and those that cannot be used."""
    from sidecar.probes_command import list_sets  # noqa: PLC0415

    list_sets(config, folders, as_json=as_json)


@probes.command("show")
@click.argument("name", metavar="NAME|FOLDER")
@click.option("--query", metavar="ID", help="Show this query, or triple, with its texts.")
def probes_show(name: str, query: str | None) -> None:
    """Show what a probe set is."""
    from sidecar.probes_command import show_set  # noqa: PLC0415

    show_set(name, query)


@probes.command("lint")
@click.argument("names", metavar="[NAME|FOLDER]...", nargs=-1)
@click.option("--model", help="Folder or name of a model: look also for saturation and power.")
@click.option("--strict", is_flag=True, help="Warnings are errors.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def probes_lint(names: tuple[str, ...], model: str | None, strict: bool, as_json: bool) -> None:
    """Look for what makes the scores of probe sets wrong or weak; exit 1 if there is an error."""
    from sidecar.probes_command import lint  # noqa: PLC0415

    sys.exit(lint(names, model, strict=strict, as_json=as_json))


@probes.command("card")
@click.argument("name", metavar="NAME|FOLDER")
@click.option("--model", required=True, help="Folder or name of a sentence-transformers model.")
@click.option("--name", "encoder_name", help="Name of the model on the card; default: that of its folder.")
@click.option("--write", is_flag=True, help="Write the figures into the set's README.md, between their markers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def probes_card(name: str, model: str, encoder_name: str | None, write: bool, as_json: bool) -> None:
    """Measure the figures of a probe set's card: scores, saturation, the smallest change that it finds."""
    from sidecar.probes_command import card  # noqa: PLC0415

    card(name, model, encoder_name, write=write, as_json=as_json)


@rag_drift.command()
@_settings_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool, **flags: Any) -> None:
    """Show what the judge holds now, read from Redis."""
    settings = _loader(**flags)()
    import asyncio  # noqa: PLC0415

    from sidecar.operate import show_status  # noqa: PLC0415

    asyncio.run(show_status(settings, as_json=as_json))


def _ask_judge(kind: str, by: str, why: str, flags: dict[str, Any]) -> None:
    """Leave a person's request for the judge on duty."""
    settings = _loader(**flags)()
    import asyncio  # noqa: PLC0415

    from sidecar.operate import ask_judge  # noqa: PLC0415

    asyncio.run(ask_judge(settings, kind, by=by, why=why))


@rag_drift.command()
@_settings_options
@click.option("--by", required=True, help="Who asks.")
@click.option("--why", required=True, help="Why the present behaviour is to be accepted.")
def calibrate(by: str, why: str, **flags: Any) -> None:
    """Give up the baselines and the alarm; measure the present behaviour as the new normal."""
    _ask_judge("recalibrate", by, why, flags)


@rag_drift.command()
@_settings_options
@click.option("--by", required=True, help="Who repaired it.")
@click.option("--why", required=True, help="What was repaired.")
def fixed(by: str, why: str, **flags: Any) -> None:
    """End the open alarm because its cause is repaired; the baselines stay."""
    _ask_judge("fixed", by, why, flags)


@rag_drift.command()
@_settings_options
@click.argument("target", type=click.File("w", encoding="utf-8", lazy=False))
def observations(target: Any, **flags: Any) -> None:
    """Write the observations that Redis keeps to the file TARGET (`-` for standard output), for `replay-log`."""
    settings = _loader(**flags)()
    import asyncio  # noqa: PLC0415

    from sidecar.backtest import export_observations  # noqa: PLC0415

    count = asyncio.run(export_observations(settings, target))
    click.echo(f"{count} observations", err=True)


@rag_drift.command("replay-log")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "-c", "--config", "--config.file", "config", type=FILE, envvar="RAG_DRIFT_CONFIG", show_envvar=True,
    help="Settings whose judge is to be tried; without them the defaults.",
)  # fmt: skip
@click.option("--signal", "signals", multiple=True, help="Signal to test, as `overlap@10`; repeatable.")
@click.option("--weeks-between-false-pages", type=click.FloatRange(0, min_open=True))
@click.option("--min-effect", type=click.FloatRange(0, 1))
@click.option("--min-queries", type=click.IntRange(100))
@click.option("--min-slice-queries", type=click.IntRange(100))
@click.option("--min-days", type=click.FloatRange(0))
@click.option("--tolerance", type=click.FloatRange(0, 1))
@click.option("--weekly", is_flag=True, help="Compare also each week with the baseline, by the review's window tests.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def replay_log(
    file: Path, config: Path | None, as_json: bool, weekly: bool, signals: tuple[str, ...], **options: Any
) -> None:
    """Run the judge over the recorded observations in FILE and print what it would have raised."""
    from sidecar.backtest import replay_log as replay  # noqa: PLC0415
    from sidecar.backtest import show, tried_options  # noqa: PLC0415

    show(replay(file, tried_options(config, signals, options), by_week=weekly), as_json=as_json)


@rag_drift.command()
@click.option("--drop", default="5%", show_default=True, help="Fall to find, relative to the accepted mean.")
@click.option("--within", default="1d", show_default=True, help="Time from the fall to the page, in half of the cases.")
@click.option(
    "--false-pages", default="1/26w", show_default=True, help="False pages accepted, for everything together."
)
@click.option("--slices", type=int, default=0, show_default=True, help="Slices watched beside the whole stream.")
@click.option("--signals", type=int, default=1, show_default=True, help="Signals tested (judge.signals).")
@click.option("--mean", type=float, default=0.62, show_default=True, help="Mean of the scores, in (0, 1).")
@click.option("--sd", type=float, default=0.32, show_default=True, help="Their standard deviation.")
@click.option("--kappa", type=float, default=1.6, show_default=True, help="Variance inflation from alike queries.")
@click.option("--calibration", default="7d", show_default=True, help="Length of the calibration.")
@click.option("--queries-per-day", type=float, help="Replayed queries there are: show what they can see instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(**options: Any) -> None:
    """Say how much traffic finds a fall in time, or what the traffic that there is can see."""
    from sidecar.plan import run_plan  # noqa: PLC0415

    run_plan(**options)


@rag_drift.command()
@click.option("--reference", required=True, help="Folder or name of the model in use.")
@click.option("--candidate", required=True, help="Folder or name of the model that is to take its place.")
@click.option(
    "--probes", multiple=True, help="Bundled probe set or a folder with sets; repeatable. Default: all bundled."
)
@click.option("--queries", type=FILE, help="Your own queries as JSON lines (BEIR layout), beside the probe sets.")
@click.option("--corpus", type=FILE, help="The passages that they search (BEIR layout).")
@click.option("--qrels", type=FILE, help="Judgements of them; without, only the overlap of rankings is compared.")
@click.option("--tolerance", default="2%", show_default=True, help="Fall of the mean nDCG@10 that is accepted.")
@click.option("--reference-query-prompt", help="Text put before each query for the reference.")
@click.option("--reference-document-prompt", help="Text put before each document for the reference.")
@click.option("--candidate-query-prompt", help="Text put before each query for the candidate.")
@click.option("--candidate-document-prompt", help="Text put before each document for the candidate.")
@click.option("--json", "to_json", type=FILE, help="Write everything measured to this file.")
@click.option("--markdown", "to_markdown", type=FILE, help="Write a comment for a pull request.")
@click.option("--junit", "to_junit", type=FILE, help="Write JUnit XML.")
@click.option("--strict", is_flag=True, help="Exit 1 also where there is not enough power to tell.")
def gate(reference: str, candidate: str, tolerance: str, strict: bool, **options: Any) -> None:
    """Hold a model against the one in use before it is deployed: 0 no regression, 1 a regression.

    A candidate that the queries are too few to judge exits 0 and says so; see --strict.
    """
    from sidecar.encoders.sentence_transformer import SentenceTransformerOptions  # noqa: PLC0415
    from sidecar.gate import choose_sets, run_gate  # noqa: PLC0415
    from sidecar.gate_reports import clear, show, write  # noqa: PLC0415
    from sidecar.plan import share_of  # noqa: PLC0415

    def side(name: str, model: str) -> SentenceTransformerOptions:
        query, document = options[f"{name}_query_prompt"], options[f"{name}_document_prompt"]
        return SentenceTransformerOptions(model, query_prompt=query, document_prompt=document)

    reports = {name: options[name] for name in ("to_json", "to_markdown", "to_junit")}
    tolerated = share_of("--tolerance", tolerance)
    clear(*reports.values())
    sets = choose_sets(options["probes"], options["queries"], options["corpus"], options["qrels"])
    found = run_gate(sets, side("reference", reference), side("candidate", candidate), tolerated, strict=strict)
    write(found, **reports)
    show(found)
    sys.exit(found.exit_code)


@rag_drift.command()
@click.option(
    "--scenario",
    type=click.Choice(["steady", "fine-tuned", "int8-build", "half-index", "lost-prefix", "query-shift"]),
    default="fine-tuned",
    show_default=True,
    help="What happens to the service.",
)
@click.option("--once", is_flag=True, help="End after the verdict: 0 if it is the scenario's, 1 if it is another.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; the timeline goes to standard error.")
@click.option("--queries", type=click.IntRange(1), help="Queries replayed after the calibration, at most.")
@click.option("--corpus", type=click.Path(path_type=Path, file_okay=False), help="A BEIR folder to use instead.")
@click.option("--redis-url", help="Use this Redis server instead of an embedded one.")
@click.option("--port", type=int, default=0, help="Port of the sidecar's metrics; 0 takes a free one.")
@click.option("--seed", type=int, default=20260, show_default=True, help="Seed of the traffic.")
def demo(**options: Any) -> None:
    """Watch the sidecar catch a real fine-tuning accident."""
    from sidecar.demo.command import run_demo  # noqa: PLC0415

    sys.exit(run_demo(**options))


if __name__ == "__main__":
    main()
