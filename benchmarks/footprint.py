"""What the sidecar itself takes: memory without and with encoders, import time, queued events, checkpoint.

Everything is measured in fresh processes. Resident memory is `VmRSS` of /proc (Linux), after the work that is
named; `anonymous` is the part that is not a mapped file and cannot be given back. Times are medians of
alternating runs.

    python benchmarks/footprint.py [--repeats 9]

Exit 1 if the command line's help takes 0.3 s or more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HELP_BAR_SECONDS = 0.3
DOCUMENTS = 10_000
WARM_TEXTS = 512
EVENTS = 20_000
SLICES = 20
JUDGED_SLICES = 5
STARTS = {
    "python -c pass": ("-c", "pass"),
    "python -c 'import click'": ("-c", "import click"),
    "python -m sidecar.cli --help": ("-m", "sidecar.cli", "--help"),
}


def resident() -> dict[str, float]:
    """Give this process' resident memory in MB (10^6 bytes): now, the anonymous part, and the largest so far."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    kilobytes = {name: int(lines[key].split()[0]) for name, key in (("resident", "VmRSS"), ("anonymous", "RssAnon"))}
    kilobytes["peak"] = int(lines["VmHWM"].split()[0])
    return {name: round(value * 1024 / 1e6, 1) for name, value in kilobytes.items()}


def in_child(name: str, *arguments: str) -> Any:
    """Run one of the measurements below in a process of its own and give its answer."""
    command = [sys.executable, __file__, "--measure", name, *arguments]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(answer.splitlines()[-1])


async def wired(url: str, folders: list[str]) -> dict[str, float]:
    """Import the application, run its port, metrics, intake and judge; then load the encoders and use them."""
    import structlog
    from aiohttp import web

    from sidecar.app import Sidecar
    from sidecar.exporter.http import application
    from sidecar.intake import Consumer, Sampler, SamplingOptions, SliceRegistry
    from sidecar.judge.duty import Judge
    from sidecar.options import intake_options, judge_options
    from sidecar.redis_edge import connect
    from sidecar.settings import Settings
    from sidecar.store import Store

    nothing = {"encoder": {"model": "none"}, "index": "none"}
    settings = Settings.model_validate(
        {"redis": {"url": url}, "retrievers": {"deployed": nothing, "reference": nothing}}
    )
    log = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr), wrapper_class=structlog.make_filtering_bound_logger(40)
    )
    sidecar = Sidecar(lambda: settings, log=log)
    runner = web.AppRunner(application(sidecar.metrics.registry, sidecar, token=lambda: None), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    redis = connect(url)
    store = Store(redis, settings.deployment)
    slices = SliceRegistry([f"slice-{number}" for number in range(SLICES)])
    sidecar.metrics.know_slices(slices.names)
    consumer = Consumer(
        redis,
        sampler=Sampler(SamplingOptions(), deployment=settings.deployment, slices=slices, clock=time.monotonic),
        slices=slices,
        out=asyncio.Queue(settings.replay.queue_size),
        prefix=store.keys.prefix,
        options=intake_options(settings),
    )
    judge = Judge(
        store,
        judge_options(settings),
        token="benchmark",  # noqa: S106  (the lease's)
        lease_seconds=15,
        metrics=sidecar.metrics,
        log=log,
        now=time.time,
    )
    loops = [asyncio.create_task(consumer.run()), asyncio.create_task(judge.run())]
    await asyncio.sleep(2)
    assert not any(task.done() for task in loops), "both loops run"
    assert folders or "torch" not in sys.modules, "no torch without an encoder"
    kept = [await asyncio.to_thread(retriever, Path(folder), Path(folder).name) for folder in folders]
    figures = resident()
    for task in loops:
        task.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    await runner.cleanup()
    await redis.aclose()
    assert len(kept) == len(folders)
    return figures


def retriever(folder: Path, name: str) -> object:
    """Load an encoder and an index of random vectors, and put some texts to them."""
    import numpy as np

    from sidecar.encoders import threads
    from sidecar.encoders.cache import CachedEncoder
    from sidecar.encoders.fingerprint import measure
    from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load
    from sidecar.indexes.exact import ExactIndex
    from sidecar.indexes.write import write_index

    threads.use(threads.available())
    model = load(SentenceTransformerOptions(str(folder / "model")))
    with threads.single():
        fingerprint = measure(model)
    if not (folder / "index").exists():
        vectors = np.random.default_rng(1).standard_normal((DOCUMENTS, model.dimension), dtype=np.float32)
        ids = [f"document-{number}" for number in range(DOCUMENTS)]
        write_index(folder / "index", ids, vectors, encoder_name=name, fingerprint=fingerprint, now=0.0)
    index = ExactIndex.open(folder / "index")
    encoder = CachedEncoder(model, 20_000)
    for start in range(0, WARM_TEXTS, 64):
        texts = [f"how do I read line {number} of a large file in python?" for number in range(start, start + 64)]
        index.search(encoder.encode_queries(texts), 10)
    return encoder, index


def queued(query_bytes: int, documents: int) -> float:
    """Parse events as the intake does, put them into the queue, and give MB per 1,000."""
    from sidecar.intake import EventLimits, FieldMap, SliceRegistry
    from sidecar.intake.events import parse
    from sidecar.publish import fields

    queue: asyncio.Queue = asyncio.Queue()
    slices, field_map, limits = SliceRegistry(), FieldMap(), EventLimits()
    count = EVENTS if query_bytes < 1_000 else EVENTS // 10

    def entry(number: int) -> dict[bytes, bytes]:
        sent = fields(
            query=f"{number} ".ljust(query_bytes, "q"),
            documents=[(f"document-{number}-{rank}", 1.0 - rank / 2000) for rank in range(documents)],
            session_id=f"session-{number}",
            slice=f"tenant-{number % 5}",
        )
        return {key.encode(): value.encode() for key, value in sent.items()}

    def put(first: int, last: int) -> None:
        for number in range(first, last):
            event = parse(
                f"{1_700_000_000_000 + number}-0".encode(), entry(number), now=1_800_000_000.0, slices=slices,
                field_map=field_map, limits=limits, weight=1.0,
            )  # fmt: skip
            queue.put_nowait(event)

    put(0, 100)  # what is imported or set up at the first event is not the events'
    before = resident()["resident"]
    put(100, count + 100)
    return round((resident()["resident"] - before) / count * 1000, 2)


def checkpoint() -> dict[str, float]:
    """Feed a judge with one slice and with several; give kB of its checkpoint, whole and for a further slice."""
    from sidecar.judge.judgement import Judgement
    from sidecar.judge.options import JudgeOptions
    from sidecar.model import Observation, Stack

    stack = Stack("0123456789ab", "0123456789ab", "0123456789ab", "0123456789ab")

    def sizes(slices: int) -> tuple[int, int]:
        options = JudgeOptions("overlap@10")
        judgement = Judgement(options)
        choose = random.Random(1)  # noqa: S311  (numbers for a measurement)
        calibrating = size = 0
        # 2,500 of each slice within 8 days calibrate it, by the settings' defaults; then half as many again are judged.
        total = max(6_000, slices * 2_500)
        for number in range(total * 3 // 2):
            observation = Observation(
                entry_id=f"{number}-0", at=1.7e9 + number * 8 * 86_400 / total, slice=f"slice-{number % slices}",
                weight=1.0, values={"overlap@10": round(choose.betavariate(8, 2) * 10) / 10}, stack=stack,
            )  # fmt: skip
            if judgement.feed(f"{number}-0", observation) and not calibrating:
                calibrating = size
            if not calibrating and number % 50 == 0:
                size = len(json.dumps(judgement.to_state(), separators=(",", ":")))
        assert all(verdict.state == "steady" for verdict in judgement.verdicts()), "all slices are calibrated"
        return calibrating, len(json.dumps(judgement.to_state(), separators=(",", ":")))

    few, many = sizes(1), sizes(JUDGED_SLICES)
    return {
        "one_slice_calibrating_kb": round(few[0] / 1e3, 2),
        "one_slice_judging_kb": round(few[1] / 1e3, 2),
        "five_slices_calibrating_kb": round(many[0] / 1e3, 2),
        "five_slices_judging_kb": round(many[1] / 1e3, 2),
        "further_slice_calibrating_kb": round((many[0] - few[0]) / (JUDGED_SLICES - 1) / 1e3, 2),
        "further_slice_judging_kb": round((many[1] - few[1]) / (JUDGED_SLICES - 1) / 1e3, 2),
    }


def memory() -> None:
    """Print the resident memory without encoders, with one, and with two."""
    from sidecar.demo.encoders import QUERY_PROMPT, materialise
    from sidecar.embedded_redis import EmbeddedRedis

    with tempfile.TemporaryDirectory() as made, EmbeddedRedis() as server:
        folders = []
        for role in ("deployed", "reference"):
            (Path(made) / role / "model").mkdir(parents=True)
            materialise("base", Path(made) / role / "model", query_prompt=QUERY_PROMPT)
            folders.append(str(Path(made) / role))
        bare = in_child("bare")
        print(json.dumps({"what": "python alone, MB", **bare}))
        for number, what in enumerate(("sidecar without encoders", "with one encoder", "with two encoders")):
            print(json.dumps({"what": f"{what}, MB", **in_child("wired", server.url, *folders[:number])}), flush=True)


def starts(repeats: int) -> float:
    """Print how long each start takes, elapsed and in processor time; give the help's median."""
    elapsed: dict[str, list[float]] = {name: [] for name in STARTS}
    used: dict[str, list[float]] = {name: [] for name in STARTS}
    for repeat in range(-1, repeats):  # the first round fills the file cache and is not counted
        for name, arguments in STARTS.items():
            before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
            if repeat >= 0:
                elapsed[name].append(seconds)
                used[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    for name in STARTS:
        figures = {"median_s": statistics.median(elapsed[name]), "fastest_s": min(elapsed[name])}
        figures["processor_s"] = statistics.median(used[name])
        print(json.dumps({"what": name, **{key: round(value, 3) for key, value in figures.items()}}))
    return statistics.median(elapsed["python -m sidecar.cli --help"])


def main() -> int:
    """Measure everything, or in a child process one thing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, *rest = options.measure
        if name == "bare":
            figures: Any = resident()
        elif name == "wired":
            figures = asyncio.run(wired(rest[0], rest[1:]))
        elif name == "queued":
            figures = queued(int(rest[0]), int(rest[1]))
        else:
            figures = checkpoint()
        print(json.dumps(figures))
        return 0
    seconds = starts(options.repeats)
    memory()
    for what, size, documents in (("60-byte query, 10 documents", 60, 10), ("8 KiB query, 100 documents", 8_192, 100)):
        print(
            json.dumps(
                {"what": f"1,000 queued events, {what}, MB", "resident": in_child("queued", str(size), str(documents))}
            )
        )
    print(json.dumps({"what": f"judge's checkpoint, 1 and {JUDGED_SLICES} slices", **in_child("checkpoint")}))
    print(f"help {seconds:.3f} s, bar {HELP_BAR_SECONDS} s: {'ok' if seconds < HELP_BAR_SECONDS else 'above'}")
    return 0 if seconds < HELP_BAR_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
