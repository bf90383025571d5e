"""The frozen copy: real folders, copied whole or not at all, and loaded as what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest
import structlog

from sidecar.encoders.sentence_transformer import SentenceTransformerOptions
from sidecar.errors import ConfigurationError, DataError, EncoderError, MismatchError, VectorIndexError
from sidecar.replay import freeze as module
from sidecar.replay import watch
from sidecar.replay.freeze import FrozenSource, freeze
from sidecar.replay.retriever import Pair, Retrievers
from sidecar.replay.source import RetrieverSource
from sidecar.replay.watch import Watcher
from sidecar.store import Store

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def options(model, **changes) -> SentenceTransformerOptions:
    """Give the options of the deployed encoder."""
    return SentenceTransformerOptions(str(model), **changes)


def ranked(retriever) -> list[tuple[str, ...]]:
    """Search with a retriever, so that it is known to work."""
    rankings, _ = retriever.search(["can I send my order back?", "how long is data kept?"], 3, lambda *_: None)
    return [ranking.ids for ranking in rankings]


def files(folder: Path) -> dict[str, bytes]:
    """Read every file below a folder."""
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


@pytest.fixture(scope="session")
def frozen_base(base, tmp_path_factory) -> Path:
    """Freeze the base model once, with a prompt that the settings gave; tests that change the copy copy it."""
    target = tmp_path_factory.mktemp("frozen")
    freeze(options(base.model, query_prompt="Find the passage: "), base.index, target)
    return target


@pytest.fixture
def frozen(frozen_base, tmp_path) -> Path:
    """Give a frozen copy of the test's own."""
    return shutil.copytree(frozen_base, tmp_path / "frozen", symlinks=True)


def test_the_copy_is_what_was_deployed_and_stays_so(base, prompted, frozen):
    """Every file is there with its bytes and as a file of its own, and the prompt of the settings with them.

    The model folder has no prompt; `prompted` has the same one in its folder.
    """
    assert files(frozen / "current" / "encoder" / "model") == files(base.model)
    assert files(frozen / "current" / "index") == files(base.index)
    inodes = [{one.stat().st_ino for one in folder.rglob("*")} for folder in (base.model, base.index, frozen)]
    assert not (inodes[0] | inodes[1]) & inodes[2]
    loaded = FrozenSource(frozen, 10).load([prompted.fingerprint])
    assert (loaded.role, loaded.index_matches) == ("frozen", True)
    assert loaded.fingerprint == prompted.fingerprint
    assert loaded.index.generation == base.retriever.index.generation
    assert ranked(loaded) == ranked(prompted.retriever)


def test_links_are_followed_and_what_is_never_loaded_is_left_behind(base, tmp_path, monkeypatch):
    """A deployment's link and a hub's links to its blobs become files; pickles and other backends stay away."""
    shipped = tmp_path / "shipped"
    shutil.copytree(base.model, tmp_path / "v1")
    (tmp_path / "v1" / "config.json").rename(tmp_path / "blob")
    (tmp_path / "v1" / "config.json").symlink_to(tmp_path / "blob")
    (tmp_path / "v1" / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "v1" / "onnx").mkdir()
    (tmp_path / "v1" / "onnx" / "model.onnx").write_bytes(b"graph")
    shipped.symlink_to(tmp_path / "v1")
    monkeypatch.setattr(module.os, "copy_file_range", refused)
    module._copy(RetrieverSource("deployed", options(shipped), 0, base.index), shipped, tmp_path / "copy")
    copied = tmp_path / "copy" / "encoder" / "model"
    assert files(copied) == files(base.model)
    assert not any(one.is_symlink() for one in copied.rglob("*"))


def refused(*_):
    """Stand for a file system that cannot copy by itself."""
    raise OSError(95, "Operation not supported")


def test_a_stack_that_does_not_fit_together_is_not_frozen(base, tuned, frozen):
    """An encoder without its index is the accident, and nothing to accept: the copy that was there stays."""
    before = files(frozen)
    with pytest.raises(MismatchError, match="built by encoder"):
        freeze(options(base.model), tuned.index, frozen)
    assert files(frozen) == before


def test_files_that_change_while_they_are_copied_are_refused(base, tmp_path, monkeypatch):
    """A copy that is half the old version and half the new one is thrown away, and the message says why."""
    shipped = shutil.copytree(base.model, tmp_path / "shipped")
    copy = module._copy_file

    def ship(source, target):
        (shipped / "new-file").write_text("x")
        return copy(source, target)

    monkeypatch.setattr(module, "_copy_file", ship)
    with pytest.raises(DataError, match="changed while it was copied"):
        freeze(options(shipped), base.index, tmp_path / "frozen")
    assert list((tmp_path / "frozen").iterdir()) == []


def test_a_damaged_index_is_not_frozen(base, tmp_path):
    """The checksums of the index are read before anybody trusts the copy."""
    damaged = shutil.copytree(base.index, tmp_path / "damaged")
    vectors = next(damaged.glob("vectors-*"))
    content = bytearray(vectors.read_bytes())
    content[1] ^= 1
    vectors.write_bytes(content)
    with pytest.raises(VectorIndexError, match="checksum"):
        freeze(options(base.model), damaged, tmp_path / "frozen")
    assert list((tmp_path / "frozen").iterdir()) == []


def test_what_cannot_be_frozen_is_refused_by_name(base, tmp_path):
    """A model of a hub, a folder without an index, and a target that is no folder each name the rule."""
    with pytest.raises(ConfigurationError, match="only a folder can be frozen"):
        freeze(options("all-MiniLM-L6-v2"), base.index, tmp_path / "frozen")
    with pytest.raises(VectorIndexError, match="no vector index"):
        freeze(options(base.model), tmp_path, tmp_path / "frozen")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match=r"cannot be put into .*file: "):
        freeze(options(base.model), base.index, tmp_path / "file")
    (tmp_path / "occupied" / "current" / "mine").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="not a link that an earlier copy left"):
        freeze(options(base.model), base.index, tmp_path / "occupied")
    assert [one.name for one in (tmp_path / "occupied").iterdir()] == ["current"]


def test_without_a_copy_the_source_says_how_to_make_one(tmp_path, frozen):
    """A folder that nobody froze into, and options that cannot be read, are errors with the command in them."""
    source = FrozenSource(tmp_path / "nowhere", 10)
    assert source.signature() == ((), ())
    with pytest.raises(EncoderError, match="rag-drift freeze"):
        source.load([])
    for content in ("{", "[]", '{"model": "x", "unknown": 1}'):
        (frozen / "current" / "encoder" / "options.json").write_text(content)
        with pytest.raises(EncoderError, match="does not hold the options"):
            FrozenSource(frozen, 10).load([])


def test_a_reader_never_finds_half_a_copy(tmp_path):
    """While copies replace each other, what the link points at is always whole, and only the last one is left."""
    stop, torn, looks = threading.Event(), [], 0

    def look():
        nonlocal looks
        while not stop.is_set():
            place = tmp_path / "current"
            looks += 1
            target = place.readlink()
            # A copy may be replaced while it is looked at; it must be whole for as long as the link points at it.
            if not (tmp_path / target / "a").is_file() and place.readlink() == target:
                torn.append(looks)

    def install(number):
        copy = tmp_path / f"copy-{number:08x}"
        copy.mkdir()
        (copy / "a").write_text("x")
        module._install(copy, tmp_path)

    install(0)
    reader = threading.Thread(target=look)
    reader.start()
    for number in range(1, 300):
        install(number)
    stop.set()
    reader.join()
    assert looks > 10
    assert torn == []
    assert sorted(one.name for one in tmp_path.iterdir()) == ["copy-0000012b", "current"]


class Recorder:
    """Remembers what the watcher tells."""

    def __init__(self) -> None:
        self.loaded, self.failed = [], []

    def retriever_loaded(self, retriever):
        """Note a loaded retriever."""
        self.loaded.append(retriever)

    def reload_failed(self, role):
        """Note a version that was refused."""
        self.failed.append(role)


@pytest.mark.parametrize("redis_binary", ["redis-6.2-wheel"], indirect=True)
async def test_a_new_copy_is_taken_and_a_mixture_refused(redis, base, tuned, frozen, monkeypatch):
    """The watcher looks after three roles: freezing again exchanges the frozen one alone, whole and in one step."""
    monkeypatch.setattr(watch, "SETTLE_SECONDS", 0.15)
    retriever = base.retriever
    sources = [RetrieverSource(role, options(base.model), 0, base.index) for role in ("deployed", "reference")]
    metrics = Recorder()
    watcher = Watcher(
        [*sources, FrozenSource(frozen, 10)], Store(redis, "test"), metrics=metrics, log=structlog.get_logger(),
        every_seconds=0.1,
    )  # fmt: skip
    sides = {role: replace(retriever, role=role) for role in ("deployed", "reference", "frozen")}
    retrievers = Retrievers(Pair(**sides))
    before = retrievers.pair
    task = asyncio.create_task(watcher.run(retrievers))
    try:
        async with asyncio.timeout(60):
            index = frozen / "current" / "index"
            shutil.rmtree(index)
            shutil.copytree(tuned.index, index)
            while metrics.failed != ["frozen"]:
                await asyncio.sleep(0.02)
            assert retrievers.pair is before
            shutil.copytree(tuned.model, frozen / "copy-new" / "encoder" / "model")
            shutil.copytree(tuned.index, frozen / "copy-new" / "index")
            (frozen / "copy-new" / "encoder" / "options.json").write_text(json.dumps(asdict(options(tuned.model))))
            module._install(frozen / "copy-new", frozen)
            while retrievers.pair.frozen is before.frozen:
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    after = retrievers.pair
    assert (after.deployed, after.reference) == (before.deployed, before.reference)
    assert after.stack.changes_since(before.stack) == ("frozen_encoder", "frozen_index")
    assert after.frozen.fingerprint.document_digest == tuned.fingerprint.document_digest
    assert ranked(after.frozen) == ranked(tuned.retriever)
    assert metrics.failed == ["frozen"]
