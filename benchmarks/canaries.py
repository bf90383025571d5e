"""What a run of the canary sets costs beside bare encoding of the same texts.

One run as the sidecar does it (share 1, so without pauses): both bundled sets put to the deployed encoder in the
runner's steps on the replay's thread, ranked, scored, compared with the cached reference and with the accepted stack,
written to a real Redis. Beside it `SentenceTransformer.encode` over the same texts with the library's own batches. Both
alternate in one process; the ratio is of the fastest of each, since others may use the machine.

    python benchmarks/canaries.py [--repeats 5]

Exit 1 if a run takes more than 1.15 times bare encoding.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import structlog

BAR = 1.15


async def measure(repeats: int) -> tuple[list[float], list[float]]:
    """Give the seconds of the runs and of bare encoding."""
    from sidecar.demo.encoders import base_model_path
    from sidecar.embedded_redis import EmbeddedRedis
    from sidecar.encoders import threads
    from sidecar.encoders.cache import CachedEncoder
    from sidecar.encoders.fingerprint import measure as fingerprint
    from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load
    from sidecar.exporter.canary_metrics import CanaryMetrics
    from sidecar.probesets.library import find_sets
    from sidecar.redis_edge import connect
    from sidecar.replay.canaries import Canaries, CanaryOptions
    from sidecar.replay.retriever import Pair, Retriever, Retrievers
    from sidecar.store import Store

    model = load(SentenceTransformerOptions(model=str(base_model_path())))
    same = fingerprint(model)
    # The bundled sets bring their own passages: no index is asked.
    index = type("NoIndex", (), {"generation": "none", "size": 0, "dimension": model.dimension})()
    roles = ("deployed", "reference")
    pair = Pair(*(Retriever(role, CachedEncoder(model, 0), index, same, index_matches=True) for role in roles))
    library = find_sets(["composition", "generalization"])
    texts = [text for one in library.sets for text in (one.corpus or {}).values()]
    texts += [query.text for one in library.sets for query in one.queries]
    texts += [part for one in library.sets for t in one.triples for part in (t.anchor, t.paraphrase, t.near_miss)]
    print(f"{len(texts)} texts, {threads.available()} threads")
    runs, bare = [], []
    from prometheus_client import CollectorRegistry

    with EmbeddedRedis() as server:
        redis = connect(server.url)
        store = Store(redis, "bench")
        await store.hold_lease("me", 3600)
        executor = ThreadPoolExecutor(1, initializer=threads.use, initargs=(threads.available(),))
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
        canaries = Canaries(
            store,
            Retrievers(pair),
            library,
            CanaryOptions(share=1.0),
            token="me",  # noqa: S106  (a lease's)
            on_duty=lambda: True,
            accepted=lambda: (1.0, pair.stack),
            executor=executor,
            metrics=CanaryMetrics(CollectorRegistry()),
            log=structlog.get_logger(),
            now=time.time,
        )
        loop = asyncio.get_running_loop()
        # The first run asks the reference, too; it is not counted.
        await canaries._run(pair, (1.0, pair.stack))  # noqa: SLF001
        for number in range(repeats):
            for what in ("run", "bare") if number % 2 else ("bare", "run"):
                begin = time.perf_counter()
                if what == "run":
                    canaries._fresh.clear()  # noqa: SLF001  (as when it is time to ask again)
                    await canaries._run(pair, (1.0, pair.stack))  # noqa: SLF001
                    runs.append(time.perf_counter() - begin)
                else:
                    await loop.run_in_executor(executor, lambda: model._model.encode(texts))  # noqa: SLF001
                    bare.append(time.perf_counter() - begin)
        await redis.aclose()
    return runs, bare


def main() -> int:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    runs, bare = asyncio.run(measure(parser.parse_args().repeats))
    for name, seconds in (("canary run", runs), ("bare encode", bare)):
        print(f"{name:12} {statistics.median(seconds):6.2f} s  ({', '.join(f'{one:.2f}' for one in seconds)})")
    ratio = min(runs) / min(bare)
    print(f"ratio        {ratio:6.2f}    of the fastest ones (bar {BAR})")
    return int(ratio > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
