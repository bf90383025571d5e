"""Freeze live queries with their answers when a baseline is accepted, and ask them again and again.

A frozen probe is a live query with the answers that the accepted stack gave. Asked again it gives the very same
answers, unless something changed: then it shows at the first replay, long before the live stream can tell.

The work is done by the replica that judges, and everything is written under the judge's lease. How the probes are
chosen is in `reservoir`, how they are kept in `probe_book`, how they are asked without holding up the live queries in
`probe_ask`. What the numbers mean is the judge's business.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal, Protocol

from sidecar.drift.paired import noise_floor
from sidecar.errors import ConfigurationError, DependencyError, StoreError
from sidecar.replay.known_documents import KnownDocuments
from sidecar.replay.probe_ask import Asker
from sidecar.replay.probe_book import KEY_BYTES, SIDES, AtRest, Book, Probe, TextKey
from sidecar.replay.probe_compare import compare_run, self_overlap
from sidecar.replay.reservoir import Reservoir, Sampled
from sidecar.tasks import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor

    from structlog.typing import FilteringBoundLogger

    from sidecar.drift.paired import NoiseFloor
    from sidecar.drift.probe_run import FrozenRun
    from sidecar.encoders.protocol import Encoder
    from sidecar.model import QueryEvent, Ranking, Stack
    from sidecar.replay.probe_ask import Vector
    from sidecar.replay.probe_book import Side
    from sidecar.replay.probe_compare import Answers
    from sidecar.replay.retriever import Pair, Retriever, Retrievers
    from sidecar.store import Store

State = Literal[
    "not_judging", "waiting_for_queries", "waiting_for_accepted_stack", "waiting_for_texts", "freezing", "replaying"
]

FEWEST = 50
"""Probes below which none are frozen: one that moves would be more than the 2 % that a page needs."""

LOOK_SECONDS = 1.0


class FrozenMetrics(Protocol):
    """What the frozen probes tell about themselves."""

    def frozen_probes(self, total: int, awake: int) -> None:
        """Note how many probes are kept, and how many of them have a text here."""

    def frozen_replayed(self, run: FrozenRun, busy_seconds: float, seconds: float) -> None:
        """Note a complete replay that took `seconds`, of which the replay's thread was busy for `busy_seconds`."""

    def frozen_failed(self, reason: str) -> None:
        """Note that freezing or replaying failed and will be tried again."""


@dataclass(frozen=True, slots=True)
class FrozenOptions:
    """How many probes, how often, and for which share of the time of the replay's thread at most.

    Without `key` there is no key file, and texts cannot be `encrypted`: they are not kept.
    """

    k: int = 10
    probes: int = 1000
    every_seconds: float = 300.0
    share: float = 0.2
    encrypted: bool = False
    key: TextKey | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            ConfigurationError: a rule is broken.
        """
        if self.encrypted and (self.key is None or not self.key.from_file):
            raise ConfigurationError("frozen.text: encrypted needs frozen.key_file")
        if self.probes < FEWEST:
            raise ConfigurationError(f"frozen.probes is {self.probes}; rule: at least {FEWEST}")
        if not 0.0 < self.share <= 1.0:
            raise ConfigurationError(f"frozen.share is {self.share}; rule: above 0 and at most 1")
        if not self.every_seconds > 0.0:
            raise ConfigurationError(f"frozen.every_seconds is {self.every_seconds}; rule: above 0")


class SupersededError(Exception):
    """A retriever was exchanged, or another baseline accepted, while work on the old ones was under way."""


@dataclass(slots=True)
class _Encoded:
    """The probes' vectors by one loaded encoder, which never changes: encoded once, they stay true."""

    encoder: Encoder
    vectors: dict[str, Vector] = field(default_factory=dict)


class FrozenProbes:
    """Freeze and replay until cancelled.

    `accepted` gives the time of the acceptance (unix seconds, the same after a restart: it names the acceptance) and
    the accepted stack, or None while this replica does not judge or has no baseline. `token` is the judge's.
    """

    def __init__(
        self,
        store: Store,
        retrievers: Retrievers,
        options: FrozenOptions,
        *,
        token: str,
        accepted: Callable[[], tuple[float, Stack] | None],
        executor: Executor,
        metrics: FrozenMetrics,
        log: FilteringBoundLogger,
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._store = store
        self._retrievers = retrievers
        self._options = options
        self._token = token
        self._accepted = accepted
        self._asker = Asker(executor, share=options.share)
        self._metrics = metrics
        self._log = log
        self._now = now
        self._clock = clock
        self._look = look_seconds
        self.state: State = "not_judging"
        self.last: FrozenRun | None = None
        self._key: TextKey | None = options.key
        self._reservoir = Reservoir(options.probes)
        self._book: Book | None = None
        self._unreadable: str | None = None
        self._texts: dict[str, str] = {}
        self._asleep: set[str] = set()
        self._encoded: dict[Side, _Encoded] = {}
        self._documents: dict[tuple[str, str], KnownDocuments | None] = {}
        self._due = 0.0
        self._replayed: Pair | None = None

    def offer(self, event: QueryEvent) -> None:
        """Take a live query into account: it may become a probe, or wake one. Costs a digest of the text."""
        if self._key is None:  # the salt is not known yet: in the first moment after the start
            return
        digest = self._key.digest(event.query)
        self._reservoir.add(Sampled(digest, event.query, event.slice), event.at, whole=event.weight > 0)
        if digest in self._asleep:
            self._asleep.discard(digest)
            self._texts[digest] = event.query

    def awake_texts(self) -> list[str]:
        """Give the texts of the probes that are awake, in an order that does not depend on when they woke."""
        return [self._texts[digest] for digest in sorted(self._texts)]

    def adopt(self, before: FrozenProbes) -> None:
        """Take over what a predecessor in this process has in memory: its settings were reloaded. Call it first."""
        if before._key is None or (self._key is not None and self._key.name != before._key.name):
            return  # what it knows has other names
        self._key = before._key
        self._texts, self._encoded = dict(before._texts), before._encoded
        if before._options.probes == self._options.probes:
            self._reservoir = before._reservoir

    async def load(self) -> None:
        """Read the probes that are kept, if they are others than those here.

        Raises:
            ConfigurationError: they belong to another key file.
            StoreError: Redis is away.
        """
        if self._key is None:
            self._key = TextKey(await self._store.frozen_salt(os.urandom(KEY_BYTES)))
        kept = await self._store.frozen_id()
        if kept in {"" if self._book is None else self._book.id, self._unreadable}:
            return
        fields = await self._store.frozen_fields()
        try:
            self._use(await asyncio.to_thread(Book.from_fields, fields, self._key) if "id" in fields else None)
        except StoreError as error:
            self._unreadable = kept
            self._log.warning("frozen_probes_unreadable", error=str(error))
            self._use(None)

    async def run(self) -> None:
        """Freeze what was accepted and replay what is frozen; a failure leaves the last complete result in place."""
        redis, others = Backoff(), Backoff(longest=self._options.every_seconds)
        while True:
            try:
                await self._round()
            except SupersededError:
                self._log.info("frozen_replay_superseded")
            except DependencyError as error:
                self._metrics.frozen_failed(type(error).__name__)
                self._log.warning("frozen_probes_failed", error=str(error))
                await (redis if isinstance(error, StoreError) else others).wait()
            else:
                redis.reset()
                others.reset()
            await asyncio.sleep(self._look)

    async def _round(self) -> None:
        await self.load()
        self._metrics.frozen_probes(len(self._texts) + len(self._asleep), len(self._texts))
        accepted, pair = self._accepted(), self._retrievers.pair
        if accepted is None:
            self.state = "not_judging"
        elif self._book is None or (self._book.accepted_at, self._book.k) != (accepted[0], self._options.k):
            if _same(accepted[1], pair.stack):
                await self._freeze(accepted[0], pair)
            else:
                self.state = "waiting_for_accepted_stack"
        elif not self._texts:
            self.state = "waiting_for_texts"
        else:
            self.state = "replaying"
            if self._replayed is None or _exchanged(self._replayed, pair) or self._clock() >= self._due:
                self._replayed, self._due = pair, self._clock() + self._options.every_seconds
                await self._replay(self._book, pair)

    async def _freeze(
        self, accepted_at: float, pair: Pair, awake: Sequence[Probe] = (), asleep: Sequence[Probe] = ()
    ) -> None:
        """Ask sampled queries and keep the answers.

        The probes in `awake` keep their place and their answers, which are from the same stack; those in `asleep` have
        what is left of the room.
        """
        room = self._options.probes - len(awake)
        queries = self._reservoir.draw(room, without=frozenset(one.digest for one in awake))
        if len(awake) + len(queries) < FEWEST:
            self.state = "waiting_for_queries"
            return
        self.state = "freezing"
        begin, taken_at = self._clock(), self._now()
        wanted = partial(self._still_wanted, pair, accepted_at)
        texts = {one.digest: one.text for one in queries}
        answers: dict[Side, list[dict[str, Ranking]]] = {}
        for side in SIDES:
            retriever: Retriever = getattr(pair, side)
            answers[side], vectors = await self._asker.ask_at_rest(retriever, texts, self._options.k, wanted)
            self._vectors_of(side, retriever).update(vectors)
        if awake and any(len(repetitions) > 1 for repetitions in answers.values()):
            return  # the jitter of the new ones says nothing of those that were there
        deployed, reference = answers["deployed"][0], answers["reference"][0]
        fresh = [
            Probe(one.digest, one.slice, deployed[one.digest], reference[one.digest], one.text)
            for one in queries
            if one.digest in deployed and one.digest in reference
        ]
        rest = asleep[: room - len(fresh)]
        probes = tuple(sorted((*awake, *fresh, *rest), key=lambda one: one.digest))
        at_rest = {
            side: AtRest(
                _floor(answers[side], [one.digest for one in probes], self._options.k),
                await asyncio.to_thread(self._known, getattr(pair, side)),
            )
            for side in SIDES
        }
        wanted()
        names = repr((accepted_at, taken_at, self._options.k, [one.digest for one in probes])).encode()
        book = Book(
            id=blake2b(names, digest_size=8).hexdigest(),
            accepted_at=accepted_at,
            taken_at=taken_at,
            stack=pair.stack,
            k=self._options.k,
            probes=probes,
            **at_rest,
        )
        assert self._key is not None  # noqa: S101  (`load` came first)
        fields = await asyncio.to_thread(book.to_fields, self._key, encrypted=self._options.encrypted)
        if await self._store.keep_frozen(self._token, fields):
            self._use(book)
            self._log.info(
                "probes_frozen",
                probes=len(probes),
                new=len(fresh),
                jitter=[side for side in SIDES if at_rest[side].floor is not None],
                bytes=sum(map(len, fields.values())),
                seconds=round(self._clock() - begin, 1),
            )

    async def _replay(self, book: Book, pair: Pair) -> None:
        begin, busy, at = self._clock(), self._asker.busy_seconds, self._now()
        wanted = partial(self._still_wanted, pair, book.accepted_at)
        texts = dict(self._texts)
        answers: dict[Side, Answers] = {}
        for side in SIDES:
            retriever: Retriever = getattr(pair, side)
            vectors = self._vectors_of(side, retriever)
            missing = {digest: text for digest, text in texts.items() if digest not in vectors}
            vectors.update(await self._asker.encode(retriever.encoder.encoder, missing, wanted))
            asked = {digest: vectors[digest] for digest in texts if digest in vectors}
            answers[side] = await self._asker.search(retriever.index, asked, book.k, wanted)
        if not answers["deployed"].keys() & answers["reference"].keys():
            return
        run = await asyncio.to_thread(self._compare, book, pair, answers, at, len(texts))
        if not await self._store.add_frozen_run(self._token, run):
            return
        before, self.last = self.last, run
        self._metrics.frozen_replayed(run, self._asker.busy_seconds - busy, self._clock() - begin)
        if before is None or before.state != run.state:
            self._log.info(
                "frozen_probes_still" if run.still else "frozen_probes_moved",
                replayed=run.replayed,
                deployed=run.deployed.moved,
                reference=run.reference.moved,
                deployed_overlap=round(run.deployed.now.mean, 4),
                reference_overlap=round(run.reference.now.mean, 4),
            )
        await self._grow(book, pair, run)

    def _compare(self, book: Book, pair: Pair, answers: Mapping[Side, Answers], at: float, awake: int) -> FrozenRun:
        """Hold both sides against the book. Blocking: listing a large index takes a while."""
        today = {side: self._known(getattr(pair, side)) for side in SIDES if getattr(book, side).documents is not None}
        return compare_run(book, answers, today, at=at, stack=pair.stack, awake=awake)

    async def _grow(self, book: Book, pair: Pair, run: FrozenRun) -> None:
        """Freeze further queries, in place of probes that sleep or up to the number that is wanted.

        Only while the accepted stack is in use and the probes that were just asked prove it: nothing moved, nothing
        ever jittered. Otherwise a fault that nobody has noticed would be frozen as the accepted state.
        """
        jitters = book.deployed.floor is not None or book.reference.floor is not None
        if not run.still or jitters or run.replayed < FEWEST or not _same(book.stack, pair.stack):
            return
        awake = [replace(one, text=self._texts[one.digest]) for one in book.probes if one.digest in self._texts]
        missing, worth_it = self._options.probes - len(awake), max(1, self._options.probes // 10)
        if missing < worth_it or len(self._reservoir.draw(missing, without=frozenset(self._texts))) < worth_it:
            return
        asleep = [] if self._options.encrypted else [one for one in book.probes if one.digest in self._asleep]
        await self._freeze(book.accepted_at, pair, awake, asleep)

    def _still_wanted(self, pair: Pair, accepted_at: float) -> None:
        accepted = self._accepted()
        if _exchanged(pair, self._retrievers.pair) or accepted is None or accepted[0] != accepted_at:
            raise SupersededError

    def _vectors_of(self, side: Side, retriever: Retriever) -> dict[str, Vector]:
        """Give the vectors that the encoder in use gave to probes."""
        encoder = retriever.encoder.encoder
        if side not in self._encoded or self._encoded[side].encoder is not encoder:
            self._encoded[side] = _Encoded(encoder)
        return self._encoded[side].vectors

    def _known(self, retriever: Retriever) -> KnownDocuments | None:
        """List what an index holds; the lists of the last few are remembered."""
        name = (retriever.role, retriever.index.generation)
        if name not in self._documents:
            while len(self._documents) >= 2 * len(SIDES):
                del self._documents[next(iter(self._documents))]
            self._documents[name] = KnownDocuments.of(retriever.index)
        return self._documents[name]

    def _use(self, book: Book | None) -> None:
        """Work with these probes from now on, with all of their texts that are at hand."""
        probes = () if book is None else book.probes
        at_hand = self._reservoir.texts() | self._texts
        at_hand |= {one.digest: one.text for one in probes if one.text is not None}
        self._book = book
        self._texts = {one.digest: at_hand[one.digest] for one in probes if one.digest in at_hand}
        self._asleep = {one.digest for one in probes} - self._texts.keys()
        for encoded in self._encoded.values():
            encoded.vectors = {digest: one for digest, one in encoded.vectors.items() if digest in self._texts}
        self._due = 0.0


def _floor(answers: Sequence[Answers], order: Sequence[str], k: int) -> NoiseFloor | None:
    """Measure how far the repetitions differ from the first answers; None where asking again changed nothing."""
    if len(answers) == 1:
        return None
    first, *others = ([one[digest] for digest in order] for one in answers)
    return noise_floor([self_overlap(first, other, k) for other in others])


def _exchanged(before: Pair, now: Pair) -> bool:
    return before.deployed is not now.deployed or before.reference is not now.reference


def _same(one: Stack, other: Stack) -> bool:
    """Say whether two stacks agree in the deployed and the reference retriever."""
    return not any(part.startswith(SIDES) for part in one.changes_since(other))
