"""What the path from stream to observation costs beside what no replay avoids: two encodings, two products.

Floor: `SentenceTransformer.encode` of all texts at once with both models, at the batch size that is best here,
and `queries @ matrix.T` with both matrices; nothing is ranked, compared, or written. Ours: the real intake and
replay with the settings' defaults on a real Redis, from their start on a stream that holds the events until the
last observation is written. Both run in this process on the same texts, alternating; what counts is the median
of the ratios of neighbouring runs.

The texts are the demo's queries, put together and varied so that no two are equal, and every run begins with an
empty vector cache: no cache helps. Documents are random unit vectors, which an exact search treats like others.

    python benchmarks/replay.py [--quick] [--texts 1536] [--documents 1000 10000 100000] [--repeats 5]

`ratio` compares elapsed times. `cpu_ratio` compares the processor times of this process and feels the rest of the
machine less. On a busy machine run with `OMP_WAIT_POLICY=PASSIVE`, on both sides alike: threads that spin while
they wait for each other tell nothing but how busy it is. Exit 1 if the ratio is below the bar for any size.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from sidecar.demo.encoders import QUERY_PROMPT, delta_path, materialise
from sidecar.embedded_redis import EmbeddedRedis, version
from sidecar.encoders import threads
from sidecar.encoders.cache import CachedEncoder
from sidecar.encoders.fingerprint import measure
from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load
from sidecar.errors import DemoError
from sidecar.exporter.metrics import Metrics
from sidecar.indexes.write import write_index
from sidecar.intake import Consumer, Sampler, SamplingOptions, SliceRegistry
from sidecar.options import intake_options, replay_options
from sidecar.publish import fields
from sidecar.redis_edge import connect
from sidecar.replay.retriever import Pair, Retrievers
from sidecar.replay.source import RetrieverSource
from sidecar.replay.watch import Watcher
from sidecar.replay.worker import Replayer
from sidecar.settings import Encoder, Replay, Settings
from sidecar.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import redis.asyncio

    from sidecar.encoders.fingerprint import Fingerprint
    from sidecar.model import Observation
    from sidecar.replay.retriever import Retriever

BAR = 0.85
BATCHES = (16, 32, 64, 128)
SIZES = (1_000, 10_000, 100_000)
PRODUCT_ROWS = (64, 256)
ROLES = ("deployed", "reference")
SHOWN = {
    "gather": ("gather",),
    "encode": ("encode_deployed", "encode_reference"),
    "search": ("search_deployed", "search_reference"),
    "compare": ("compare",),
    "record": ("record",),
}
OPENINGS = ("", "", "", "", "hi, ", "quick question: ", "in python 3.12, ", "beginner here, ", "for a web service: ")
DETAILS = (
    "on windows", "on linux", "in a container", "without extra packages", "for a large file", "inside a class",
    "with type hints", "in an async function", "since the last upgrade", "step by step", "and why", "with an example",
)  # fmt: skip


def query_texts(count: int, seed: int) -> list[str]:
    """Make different texts of realistic lengths: the demo's queries, often with an opening, a detail, a second one."""
    lines = files("sidecar.demo").joinpath("data/queries.jsonl").read_text(encoding="utf-8").splitlines()
    queries = [json.loads(line)["text"] for line in lines]
    choose = random.Random(seed)  # noqa: S311  (texts for a measurement)
    texts: dict[str, None] = {}
    while len(texts) < count:
        text = choose.choice(OPENINGS) + choose.choice(queries)
        if choose.random() < 0.6:
            text = f"{text.rstrip('?')} {choose.choice(DETAILS)}"
        if choose.random() < 0.2:
            text = f"{text}, and {choose.choice(queries)}"
        texts[text] = None
    return list(texts)


@dataclass(frozen=True)
class Parts:
    """What both sides of the comparison share: models, folders, and what was measured of them."""

    folders: tuple[Path, Path]
    encoders: tuple[Any, Any]
    bare: tuple[Any, Any]
    fingerprints: tuple[Fingerprint, Fingerprint]

    @classmethod
    def load(cls, folder: Path, batch: int) -> Parts:
        """Write and load two encoders: the base model and, where its weights are, the demo's tuned one."""
        from sentence_transformers import SentenceTransformer

        try:
            delta_path("house")
            names = ("house", "base")
        except DemoError:
            names = ("base", "base")
        folders = tuple(
            materialise(name, folder / f"{role}-model", query_prompt=QUERY_PROMPT)
            for role, name in zip(ROLES, names, strict=True)
        )
        encoders = tuple(load(SentenceTransformerOptions(str(one), batch_size=batch)) for one in folders)
        bare = tuple(SentenceTransformer(str(one), device="cpu", local_files_only=True) for one in folders)
        with threads.single():
            fingerprints = tuple(measure(one) for one in encoders)
        print(f"encoders: {' and '.join(names)}, all-MiniLM-L6-v2 architecture, float32")
        return cls(folders, encoders, bare, fingerprints)


def encode(parts: Parts, texts: list[str], batch: int) -> list[Any]:
    """Encode all texts with both bare models."""
    return [
        model.encode(texts, prompt_name="query", batch_size=batch, show_progress_bar=False, convert_to_numpy=True)
        for model in parts.bare
    ]


def best_batch(parts: Parts, texts: list[str], rounds: int) -> int:
    """Try the batch sizes in turn and give the fastest by median."""
    times: dict[int, list[float]] = defaultdict(list)
    encode(parts, texts[:256], 64)
    for _ in range(rounds):
        for batch in BATCHES:
            begin = time.perf_counter()
            encode(parts, texts, batch)
            times[batch].append(time.perf_counter() - begin)
    medians = {batch: statistics.median(taken) for batch, taken in times.items()}
    told = ", ".join(f"{batch}: {len(texts) / seconds:.0f}/s" for batch, seconds in medians.items())
    best = min(medians, key=lambda batch: medians[batch])
    print(f"floor, texts through both bare models at batch size {told}; best {best}")
    return best


def best_rows(vectors: Any, matrix: Any) -> int:
    """Give the faster number of queries per matrix product."""
    times: dict[int, list[float]] = defaultdict(list)
    for _ in range(3):
        for rows in PRODUCT_ROWS:
            begin = time.perf_counter()
            products(vectors, matrix, rows)
            times[rows].append(time.perf_counter() - begin)
    return min(times, key=lambda rows: statistics.median(times[rows]))


def products(vectors: Any, matrix: Any, rows: int) -> None:
    """Multiply, and throw the result away."""
    for start in range(0, len(vectors), rows):
        vectors[start : start + rows] @ matrix.T


class Recorder(Metrics):
    """The exporter's own instruments, which also add up the phases and tell when everything is written."""

    def __init__(self, expected: int) -> None:
        """Expect so many observations."""
        super().__init__(signal="overlap@10", k=10, version="benchmark", threshold_weeks=26, now=time.time)
        self.seconds: dict[str, float] = defaultdict(float)
        self.left = expected
        self.done = asyncio.Event()

    def phase(self, name: str, seconds: float) -> None:
        """Add it up."""
        self.seconds[name] += seconds
        super().phase(name, seconds)

    def replayed(self, observations: Sequence[Observation]) -> None:
        """Count down."""
        super().replayed(observations)
        self.left -= len(observations)
        if self.left <= 0:
            self.done.set()


def settings_of(parts: Parts, indexes: Sequence[Path], batch: int) -> Settings:
    """Give the settings' defaults, but take every query and begin at the oldest."""
    retrievers = {
        role: {"encoder": {"model": str(folder)}, "index": str(index)}
        for role, folder, index in zip(ROLES, parts.folders, indexes, strict=True)
    }
    return Settings.model_validate(
        {
            "deployment": "bench",
            "stream": {"start": "oldest"},
            "replay": {"batch_size": batch},
            "sampling": {"rate": 1.0, "budget_per_second": 1e6, "burst": 1_000_000},
            "retrievers": retrievers,
        }
    )


async def fill(client: redis.asyncio.Redis, stream: str, texts: Sequence[str], documents: int) -> None:
    """Write the events as a service does: text, ten served documents with scores, session, slice."""
    for start in range(0, len(texts), 500):
        async with client.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + 500, len(texts))):
                served = [(f"d{(number * 31 + rank) % documents}", 1.0 - rank / 100) for rank in range(10)]
                entry = fields(
                    query=texts[number],
                    documents=served,
                    session_id=f"session-{number // 4}",
                    slice=f"tenant-{number % 5}",
                    encoder="house-1",
                )
                pipe.xadd(stream, entry)
            await pipe.execute()


async def ours(
    client: redis.asyncio.Redis, settings: Settings, retrievers: Sequence[Retriever], texts: Sequence[str]
) -> tuple[float, float, dict[str, float]]:
    """Run intake and replay until all is observed; give seconds, processor seconds and those of each phase."""
    await client.flushall()
    await fill(client, settings.stream.key, texts, retrievers[0].index.size)
    fresh = [
        replace(one, encoder=CachedEncoder(one.encoder.encoder, settings.retrievers.deployed.encoder.cache_entries))
        for one in retrievers
    ]
    recorder = Recorder(len(texts))
    log = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr), wrapper_class=structlog.make_filtering_bound_logger(30)
    )
    store = Store(client, settings.deployment, observations_kept=settings.replay.observations_kept)
    sources = tuple(
        RetrieverSource(role, SentenceTransformerOptions(one.encoder.model), one.encoder.cache_entries, one.index)
        for role, one in (("deployed", settings.retrievers.deployed), ("reference", settings.retrievers.reference))
    )
    watcher = Watcher(sources, store, metrics=recorder, log=log, every_seconds=settings.retrievers.watch_seconds)
    queue: asyncio.Queue = asyncio.Queue(settings.replay.queue_size)
    slices = SliceRegistry(settings.sampling.slices, maximum=settings.sampling.max_slices)
    sampling = SamplingOptions(rate=1.0, queries_per_second=1e6, burst=1_000_000)
    consumer = Consumer(
        client,
        sampler=Sampler(sampling, deployment=settings.deployment, slices=slices, clock=time.monotonic),
        slices=slices,
        out=queue,
        prefix=store.keys.prefix,
        options=intake_options(settings),
    )
    executor = ThreadPoolExecutor(1, "replay", initializer=threads.use, initargs=(threads.available(),))
    replayer = Replayer(
        queue=queue,
        retrievers=Retrievers(Pair(fresh[0], fresh[1])),
        store=store,
        options=replay_options(settings),
        executor=executor,
        metrics=recorder,
        log=log,
        watcher=watcher,
    )
    begin, used = time.perf_counter(), time.process_time()
    loops = [asyncio.create_task(consumer.run()), asyncio.create_task(replayer.run())]
    await recorder.done.wait()
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    for task in loops:
        task.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    executor.shutdown()
    assert await client.xlen(store.keys.observations) == len(texts), "every text gives one observation"
    assert all(one.encoder.hits == 0 for one in fresh), "no cache helps"
    return seconds, used, recorder.seconds


def indexed(parts: Parts, folder: Path, documents: int) -> Iterator[Retriever]:
    """Write two indexes of random unit vectors and open them."""
    generator = np.random.default_rng(documents)
    for number, role in enumerate(ROLES):
        fingerprint = parts.fingerprints[number]
        vectors = generator.standard_normal((documents, fingerprint.dimension), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        target = folder / f"{role}-{documents}"
        write_index(
            target, [f"d{i}" for i in range(documents)], vectors, encoder_name=role, fingerprint=fingerprint, now=0.0
        )
        encoder = parts.encoders[number]
        source = RetrieverSource(role, encoder.options, 0, target)
        yield source.load([fingerprint], reuse=_loaded(role, encoder, fingerprint))


def _loaded(role: Any, encoder: Any, fingerprint: Fingerprint) -> Retriever:
    from sidecar.replay.retriever import Retriever

    no_index: Any = None
    return Retriever(role, CachedEncoder(encoder, 0), no_index, fingerprint, index_matches=True)


async def measure_size(  # noqa: PLR0917  (one caller)
    parts: Parts,
    folder: Path,
    client: redis.asyncio.Redis,
    texts: list[str],
    documents: int,
    batch: int,
    repeats: int,
    replay_batch: int,
) -> dict[str, Any]:
    """Alternate floor and ours over one number of documents."""
    retrievers = list(indexed(parts, folder, documents))
    matrices = [one.index.vectors(np.arange(documents)) for one in retrievers]
    settings = settings_of(parts, [folder / f"{role}-{documents}" for role in ROLES], replay_batch)
    rows = best_rows(np.ascontiguousarray(matrices[0][:256]), matrices[1])

    def floor() -> tuple[float, float]:
        begin, used = time.perf_counter(), time.process_time()
        for vectors, matrix in zip(encode(parts, texts, batch), matrices, strict=True):
            products(vectors, matrix, rows)
        return time.perf_counter() - begin, time.process_time() - used

    elapsed: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[float]] = defaultdict(list)
    shares: dict[str, list[float]] = defaultdict(list)
    for repeat in range(-1, repeats):  # the first pair warms up and is not counted
        for kind in ("floor", "ours") if repeat % 2 else ("ours", "floor"):
            phases: dict[str, float] = {}
            if kind == "floor":
                seconds, used = floor()
            else:
                seconds, used, phases = await ours(client, settings, retrievers, texts)
            if repeat < 0:
                continue
            elapsed[kind].append(seconds)
            cpu[kind].append(used)
            for name in SHOWN if phases else ():
                shares[name].append(sum(phases[member] for member in SHOWN[name]) / seconds)
    ratios = [one / two for one, two in zip(elapsed["floor"], elapsed["ours"], strict=True)]
    cpu_ratios = [one / two for one, two in zip(cpu["floor"], cpu["ours"], strict=True)]
    return {
        "documents": documents,
        "floor_per_second": round(len(texts) / statistics.median(elapsed["floor"]), 1),
        "replayed_per_second": round(len(texts) / statistics.median(elapsed["ours"]), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_lowest": round(min(ratios), 3),
        "ratio_highest": round(max(ratios), 3),
        "cpu_ratio": round(statistics.median(cpu_ratios), 3),
        "cpu_ms_per_query": round(1000 * statistics.median(cpu["ours"]) / len(texts), 2),
        "share": {name: round(statistics.median(values), 3) for name, values in shares.items()},
    }


async def main() -> int:
    """Measure each number of documents."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts and repeats, 1,000 documents only")
    parser.add_argument("--texts", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--documents", type=int, nargs="+")
    parser.add_argument("--replay-batch", type=int, default=Replay.model_fields["batch_size"].default)
    parser.add_argument("--encoder-batch", type=int, default=Encoder.model_fields["batch_size"].default)
    options = parser.parse_args()
    count = options.texts or (512 if options.quick else 1_536)
    repeats = options.repeats or (3 if options.quick else 5)
    sizes = options.documents or (SIZES[:1] if options.quick else SIZES)

    threads.use(threads.available())
    texts = query_texts(count, seed=1)
    words = [len(text.split()) for text in texts]
    print(f"{count} different texts of {min(words)} to {max(words)} words, median {statistics.median(words):.0f}")
    worst = 1e9
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        parts = Parts.load(folder, options.encoder_batch)
        batch = best_batch(parts, texts[:512], 2 if options.quick else 3)
        async with EmbeddedRedis() as server:
            print(
                f"Redis {version(server.binary)}, {threads.available()} threads, "
                f"batches: replay {options.replay_batch}, encoder {options.encoder_batch}"
            )
            client = connect(server.url)
            for documents in sizes:
                result = await measure_size(
                    parts, folder, client, texts, documents, batch, repeats, options.replay_batch
                )
                worst = min(worst, result["ratio"])
                print(json.dumps(result), flush=True)
            await client.aclose()
    print("share: of our elapsed time; `record` runs beside the next batch's encoding: they need not add up to 1")
    print(f"ratio {worst:.3f}, bar {BAR}: {'ok' if worst >= BAR else 'below'}")
    return 0 if worst >= BAR else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
