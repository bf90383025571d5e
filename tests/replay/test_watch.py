"""Loading and exchanging retrievers: real model folders, real indexes, real Redis, and copies that break off."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import structlog

from sidecar.encoders.fingerprint import Fingerprint
from sidecar.encoders.sentence_transformer import SentenceTransformerOptions
from sidecar.errors import EncoderError, MismatchError, StoreError, VectorIndexError
from sidecar.indexes.build import write_index
from sidecar.redis_edge import connect
from sidecar.replay import watch
from sidecar.replay.retriever import Pair, Retrievers
from sidecar.replay.source import RetrieverSource
from sidecar.replay.watch import Watcher
from sidecar.store import Store
from tests.replay.doubles import fingerprint as fake_fingerprint

# One server is enough here: the Redis commands of the watcher are the store's, whose tests run on both.
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("redis_binary", ["redis-6.2-wheel"], indirect=True)]


if TYPE_CHECKING:
    from pathlib import Path


class Recorder:
    """Remembers what the watcher tells; the exporter that listens in production has its own tests."""

    def __init__(self) -> None:
        self.loaded, self.failed, self.outdated = [], [], set()

    def retriever_loaded(self, retriever):
        """Note a loaded retriever, which is the version in the folder."""
        self.loaded.append(retriever)
        self.outdated.discard(retriever.role)

    def reload_failed(self, role):
        """Note a version that was refused."""
        self.failed.append(role)
        self.outdated.add(role)

    def up_to_date(self, role):
        """Note that the version in use is in the folder again."""
        self.outdated.discard(role)


class Bench:
    """A watcher on two folders that the test changes."""

    def __init__(self, redis, folder: Path, version, *, every=0.1) -> None:
        self.store = Store(redis, "test")
        self.version = version
        self.folders = {}
        for role in ("deployed", "reference"):
            self.folders[role] = folder / role
            self.folders[role].mkdir()
            self.point(role, "model", version.model)
            self.point(role, "index", version.index)
        self.metrics = Recorder()
        self.watcher = Watcher(
            tuple(self.source(role) for role in self.folders),
            self.store,
            metrics=self.metrics,
            log=structlog.get_logger(),
            every_seconds=every,
        )
        self.retrievers = None

    def source(self, role) -> RetrieverSource:
        """Give the source of one role."""
        folder = self.folders[role]
        return RetrieverSource(role, SentenceTransformerOptions(str(folder / "model")), 10, folder / "index")

    def point(self, role, part, target) -> None:
        """Switch the symbolic link of one part in one step, as a deployment does."""
        link = self.folders[role] / f".{part}.new"
        link.symlink_to(target)
        link.rename(self.folders[role] / part)

    @contextlib.asynccontextmanager
    async def running(self):
        """Watch until the block ends, from the state that `load` leaves (which has its own tests)."""
        self.retrievers = Retrievers(Pair(self.version.retriever, replace(self.version.retriever, role="reference")))
        await self.store.remember_fingerprint(self.version.fingerprint.digest, self.version.fingerprint.to_bytes())
        task = asyncio.create_task(self.watcher.run(self.retrievers))
        try:
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def current(self, role):
        """Give the retriever that is in use for a role."""
        return getattr(self.retrievers.pair, role)


async def until(condition, seconds=30.0):
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
def bench(redis, tmp_path, base, monkeypatch) -> Bench:
    """Give a watcher on the base model; looks follow each other quickly."""
    monkeypatch.setattr(watch, "SETTLE_SECONDS", 0.15)
    return Bench(redis, tmp_path, base)


def ranked(retriever) -> list[str]:
    """Search with a retriever, so that it is known to work."""
    (ranking,), _ = retriever.search(["can I send my order back?"], 3, lambda *_: None)
    return list(ranking.ids)


async def test_a_switched_link_brings_the_new_version(bench, base, tuned):
    """Model and index are exchanged together; the role, the digests and the metric follow; the other role stays."""
    async with bench.running():
        before = bench.retrievers.pair
        assert ranked(before.deployed)[0] == "d0"
        assert before.deployed.fingerprint.digest == before.reference.fingerprint.digest == base.fingerprint.digest
        bench.point("deployed", "model", tuned.model)
        bench.point("deployed", "index", tuned.index)
        await until(lambda: bench.current("deployed").index.generation != before.deployed.index.generation)
        await until(bench.watcher._current.is_set)
        after = bench.retrievers.pair
        assert after.deployed.fingerprint.digest == tuned.fingerprint.digest
        assert after.deployed.index_matches
        assert after.reference is before.reference
        assert after.stack.changes_since(before.stack) == ("deployed_encoder", "deployed_index")
        assert len(ranked(after.deployed)) == 3
    assert bench.metrics.failed == []
    assert bench.metrics.loaded[-1] is after.deployed


async def test_a_new_index_alone_keeps_the_loaded_encoder(bench, base, tmp_path):
    """A corpus that grows every day costs no model load: the encoder and its cache are the same objects."""
    async with bench.running():
        before = bench.current("deployed")
        vectors = before.encoder.encode_documents(["One more document."])
        write_index(tmp_path / "grown", ["e0"], vectors, encoder_name="base", fingerprint=base.fingerprint, now=2.0)
        bench.point("deployed", "index", tmp_path / "grown")
        await until(lambda: bench.current("deployed") is not before)
        after = bench.current("deployed")
        assert after.encoder is before.encoder
        assert after.fingerprint is before.fingerprint
        assert after.index.ids == ("e0",)


async def test_an_untouched_folder_is_not_loaded_again(bench):
    """Looking often costs nothing but looking."""
    async with bench.running():
        await asyncio.sleep(0.8)
        assert bench.metrics.loaded == []


async def test_a_copy_under_way_is_not_loaded(bench, tuned, tmp_path):
    """While files still appear the old version stays, without a failure; a finished copy is loaded."""
    async with bench.running():
        before = bench.current("deployed")
        target = tmp_path / "copied"
        target.mkdir()
        bench.point("deployed", "model", target)
        weights = tuned.model / "model.safetensors"
        for file in sorted(tuned.model.rglob("*")):
            place = target / file.relative_to(tuned.model)
            if file.is_dir():
                place.mkdir(exist_ok=True)
            elif file != weights:
                shutil.copyfile(file, place)
        content = weights.read_bytes()
        with (target / weights.name).open("wb") as copy:
            for part in range(20):
                copy.write(content[part * len(content) // 20 : (part + 1) * len(content) // 20])
                copy.flush()
                await asyncio.sleep(0.05)  # below the settling time: two looks never see the same
                assert bench.current("deployed") is before
        assert bench.metrics.failed == []
        await until(lambda: bench.current("deployed") is not before)
        assert bench.current("deployed").fingerprint.digest == tuned.fingerprint.digest


async def test_a_version_that_cannot_be_loaded_leaves_the_old_one(bench, tuned, tmp_path):
    """A broken copy is counted once and not tried again until it changes; when it is whole it is taken."""
    async with bench.running():
        before = bench.current("deployed")
        broken = tmp_path / "broken"
        shutil.copytree(tuned.model, broken)
        whole = (broken / "model.safetensors").read_bytes()
        (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        bench.point("deployed", "model", broken)
        await until(lambda: bench.metrics.failed)
        await until(bench.watcher._current.is_set)
        await asyncio.sleep(0.6)
        assert bench.metrics.failed == ["deployed"]
        assert bench.metrics.outdated == {"deployed"}
        assert bench.current("deployed") is before
        assert ranked(before)[0] == "d0"
        (broken / "model.safetensors").write_bytes(whole)
        await until(lambda: bench.current("deployed") is not before)
        assert bench.current("deployed").fingerprint.digest == tuned.fingerprint.digest
        assert bench.metrics.outdated == set()
    assert bench.metrics.failed == ["deployed"]


async def test_a_folder_that_disappears_leaves_the_old_version(bench, tmp_path):
    """An unmounted volume is a version that cannot be loaded, for the model and for the index."""
    async with bench.running():
        before = bench.current("deployed")
        bench.point("deployed", "index", tmp_path / "nowhere")
        await until(lambda: bench.metrics.failed == ["deployed"])
        bench.point("deployed", "model", tmp_path / "nowhere")
        await until(lambda: bench.metrics.failed == ["deployed"] * 2)
        assert bench.current("deployed") is before
        assert bench.metrics.outdated == {"deployed"}
        for part, path in (("model", bench.version.model), ("index", bench.version.index)):
            bench.point("deployed", part, path)
        await until(lambda: not bench.metrics.outdated)
        assert bench.current("deployed") is before


async def test_the_references_index_must_be_its_own(bench, tuned):
    """A reference whose index another encoder built is refused and counted: its numbers would mean nothing."""
    async with bench.running():
        before = bench.current("reference")
        bench.point("reference", "model", tuned.model)
        await until(lambda: bench.metrics.failed == ["reference"])
        assert bench.current("reference") is before
        bench.point("reference", "index", tuned.index)
        await until(lambda: bench.current("reference") is not before)
        assert bench.current("reference").index_matches


async def test_the_deployed_retriever_is_shown_with_a_wrong_index(bench, tuned):
    """An encoder deployed without re-indexing is the accident to show: loaded, and reported as not matching."""
    async with bench.running():
        before = bench.current("deployed")
        bench.point("deployed", "model", tuned.model)
        await until(lambda: bench.current("deployed") is not before)
        after = bench.current("deployed")
        assert not after.index_matches
        assert after.fingerprint.digest == tuned.fingerprint.digest
        assert len(ranked(after)) == 3


async def test_another_query_prompt_is_another_encoder_with_a_fitting_index(bench, base, prompted):
    """A lost prefix changes the encoder's digest; the index still belongs to the documents' side."""
    async with bench.running():
        before = bench.current("deployed")
        bench.point("deployed", "model", prompted.model)
        await until(lambda: bench.current("deployed") is not before)
        after = bench.current("deployed")
        assert after.index_matches
        assert after.fingerprint.digest not in {base.fingerprint.digest, before.fingerprint.digest}
        assert after.fingerprint.document_digest == base.fingerprint.document_digest


async def test_an_index_of_another_dimension_is_refused_for_either_role(bench, tmp_path):
    """What cannot be searched at all is refused, and the message names both numbers."""
    other = tmp_path / "four"
    write_index(
        other, ["x"], np.eye(1, 4, dtype=np.float32), encoder_name="x", fingerprint=fake_fingerprint("x"), now=1.0
    )
    async with bench.running():
        for role in ("deployed", "reference"):
            before = bench.current(role)
            bench.point(role, "index", other)
            await until(lambda role=role: role in bench.metrics.failed)
            assert bench.current(role) is before
            with pytest.raises(MismatchError, match=r"4 dimensions and the encoder .* gives 384"):
                bench.source(role).load([], reuse=before)


async def test_the_first_load_gives_both_roles_and_tells_so(bench, base):
    """Model and index of each role are loaded, reported, and searchable."""
    loaded = await bench.watcher.load()
    assert [one.role for one in bench.metrics.loaded] == ["deployed", "reference"]
    assert loaded.pair.stack.deployed_encoder == loaded.pair.stack.reference_encoder == base.fingerprint.digest
    assert ranked(loaded.pair.reference)[0] == "d0"


@pytest.mark.parametrize(("part", "error"), [("model", EncoderError), ("index", VectorIndexError)])
async def test_the_first_load_fails_clearly(bench, tmp_path, part, error):
    """At the start there is no old version to stay with: the folder that is not there is named."""
    bench.point("reference", part, tmp_path / "nowhere")
    with pytest.raises(error, match=f"reference/{part}"):
        await bench.watcher.load()


async def test_fingerprints_are_kept_in_redis_for_every_process(bench, base):
    """A digest that is known in Redis is given again by a later process, also for a slightly other measurement."""
    # The known one has the vectors of the base, off by less than the noise that counts as the same, and its own digest.
    vectors = base.fingerprint.vectors + 1e-8
    noisy = Fingerprint("feedfeedfeed", "beefbeefbeef", vectors, base.fingerprint.document_vectors)
    await bench.store.remember_fingerprint(noisy.digest, noisy.to_bytes())
    loaded = await bench.watcher.load()
    assert loaded.pair.stack.deployed_encoder == loaded.pair.stack.reference_encoder == noisy.digest
    assert set(await bench.store.fingerprints()) == {noisy.digest}


async def test_another_process_gives_the_same_digest(bench, redis_url):
    """A second process that loads the same folder names it alike."""
    loaded = await bench.watcher.load()
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from sidecar.encoders.fingerprint import Fingerprint\n"
        "from sidecar.encoders.sentence_transformer import SentenceTransformerOptions\n"
        "from sidecar.redis_edge import connect\n"
        "from sidecar.replay.source import RetrieverSource\n"
        "from sidecar.store import Store\n"
        "async def known():\n"
        "    client = connect(sys.argv[1])\n"
        "    found = await Store(client, 'test').fingerprints()\n"
        "    await client.aclose()\n"
        "    return [Fingerprint.from_bytes(one) for one in found.values()]\n"
        "folder = Path(sys.argv[2])\n"
        "source = RetrieverSource('deployed', SentenceTransformerOptions(str(folder / 'model')), 0, folder / 'index')\n"
        "print(source.load(asyncio.run(known())).fingerprint.digest)\n"
    )
    command = [sys.executable, "-c", script, redis_url, str(bench.folders["deployed"])]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == loaded.pair.stack.deployed_encoder


async def test_a_fingerprint_that_cannot_be_read_stops_nothing(bench):
    """Bytes of another program version under our key are passed over, not a reason not to start."""
    await bench.store.remember_fingerprint("old", b"of another format")
    assert (await bench.watcher.load()).pair.deployed.index_matches


async def test_an_outage_of_redis_does_not_condemn_a_good_version(own_redis, tmp_path, base, prompted, monkeypatch):
    """A version that could not be loaded because Redis was away is loaded when it is back."""
    monkeypatch.setattr(watch, "SETTLE_SECONDS", 0.15)
    client = connect(own_redis.url, retries=0)
    bench = Bench(client, tmp_path, base)
    async with bench.running():
        before = bench.current("deployed")
        own_redis.stop()
        bench.point("deployed", "model", prompted.model)
        await asyncio.sleep(1.0)
        assert bench.current("deployed") is before
        own_redis.start()
        await until(lambda: bench.current("deployed") is not before)
    assert bench.metrics.failed == []
    await client.aclose()


async def test_without_redis_there_is_no_first_load(own_redis, tmp_path, base):
    """Digests come from Redis: without it the start fails as what it is."""
    client = connect(own_redis.url, retries=0)
    bench = Bench(client, tmp_path, base)
    own_redis.stop()
    with pytest.raises(StoreError):
        await bench.watcher.load()
    await client.aclose()


async def test_a_check_on_demand_does_not_wait_for_the_next_look(redis, tmp_path, base, prompted, monkeypatch):
    """Told that the service shipped, the watcher looks at once, and replay waits for the result."""
    monkeypatch.setattr(watch, "SETTLE_SECONDS", 0.15)
    bench = Bench(redis, tmp_path, base, every=3600)
    async with bench.running():
        before = bench.current("deployed")
        bench.point("deployed", "model", prompted.model)
        await asyncio.sleep(0.3)
        assert bench.current("deployed") is before
        bench.watcher.check_now()
        await bench.watcher.up_to_date()
        assert bench.current("deployed") is not before


async def test_the_wait_for_a_new_version_is_bounded_in_all(bench, monkeypatch):
    """A version that never gets complete holds replay back once for the whole patience, not once for each batch."""
    monkeypatch.setattr(watch, "PATIENCE_SECONDS", 0.5)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    bench.watcher.check_now()  # nobody looks: the state of a copy that takes for ever
    await bench.watcher.up_to_date()
    assert 0.45 <= loop.time() - begin < 2.0
    begin = loop.time()
    for _ in range(10):
        bench.watcher.check_now()
        await bench.watcher.up_to_date()
    assert loop.time() - begin < 0.4


async def test_a_cached_vector_is_not_carried_over_to_a_new_encoder(bench, prompted):
    """A query that the old encoder has in its cache is encoded anew by the new one."""
    async with bench.running():
        before = bench.current("deployed")
        text = "can I send my order back?"
        with ThreadPoolExecutor(1) as pool:
            old = pool.submit(before.encoder.encode_queries, [text]).result()
            bench.point("deployed", "model", prompted.model)
            await until(lambda: bench.current("deployed") is not before)
            new = pool.submit(bench.current("deployed").encoder.encode_queries, [text]).result()
        assert float(np.abs(old - new).max()) > 1e-3
