"""Run the canary sets: at the start, on a schedule, and at once when an encoder or the accepted stack changes.

A labelled set that never changes says what live overlap cannot: whether retrieval got worse, and whether it was traded
for something. The work is done by the replica that judges, on the replay's own thread in small steps with pauses, so
that live queries go first. How a set is asked is in `probesets.measure`, what the numbers amount to in
`drift.canary_run`, whether it is worth a page is the judge's business.

What an encoder scores on a set is a function of both. So results are kept by the encoder's fingerprint and the set's
checksum: the reference is asked once, and the accepted stack need not be there any more to be held against. A run that
fails leaves the last complete one in place.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from sidecar.drift.canary_run import Scored, SetName, comparable, compile_run
from sidecar.drift.labelled import DEPTH, RetrievalScores
from sidecar.drift.signature import SignatureRule
from sidecar.errors import DataError, DependencyError, EncoderError, StoreError, VectorIndexError
from sidecar.probesets.measure import ask, measure_pairs, score_rankings
from sidecar.replay.canary_sets import condensed, missing_share, of_the_index, result_key
from sidecar.replay.known_documents import KnownDocuments
from sidecar.tasks import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from concurrent.futures import Executor

    from structlog.typing import FilteringBoundLogger

    from sidecar.drift.canary_run import CanaryRun
    from sidecar.drift.composition import PairScores
    from sidecar.model import Stack
    from sidecar.probesets.library import Library
    from sidecar.probesets.read import ProbeSet
    from sidecar.replay.retriever import Pair, Retriever, Retrievers
    from sidecar.store import Store

    Scores = RetrievalScores | PairScores

Result = TypeVar("Result")
State = Literal["not_judging", "no_sets", "running", "waiting"]

LOOK_SECONDS = 1.0
STRIKES, STRIKE_SECONDS = 3, 60.0
"""Failures in a row, and over how long, after which a set is set aside if the encoders answer otherwise: an endpoint
that starts again or has too much to do may well answer a short text."""

DEEPER = 2 * DEPTH
"""Documents searched in a production index, so that `DEPTH` are left when those unknown at acceptance are dropped."""


class CanaryMetrics(Protocol):
    """What the canaries tell about themselves."""

    def canaries_known(self, library: Library) -> None:
        """Note which sets there are, and which were set aside."""

    def canaries_ran(self, run: CanaryRun, busy_seconds: float, seconds: float) -> None:
        """Note a complete run that took `seconds`, of which the replay's thread was busy for `busy_seconds`."""

    def canaries_failed(self, reason: str) -> None:
        """Note that a run failed and will be tried again."""

    def canary_set_aside(self, name: str) -> None:
        """Note that a set cannot be used."""


@dataclass(frozen=True, slots=True)
class CanaryOptions:
    """How often, for which share of the time of the replay's thread at most, and what the numbers are held against."""

    every_seconds: float = 3600.0
    share: float = 0.2
    thresholds: tuple[float, ...] = (0.85, 0.9, 0.95)
    most_documents: int = 20_000
    rule: SignatureRule = field(default_factory=SignatureRule)


class _SupersededError(Exception):
    """A retriever was exchanged, another baseline accepted, or the duty lost, while the old ones were asked."""


class Canaries:
    """Run the sets of `library` until cancelled.

    `on_duty` says whether this replica judges. `accepted` gives the time of the acceptance and the accepted stack, None
    before there is one. `token` is the judge's.
    """

    def __init__(
        self,
        store: Store,
        retrievers: Retrievers,
        library: Library,
        options: CanaryOptions,
        *,
        token: str,
        on_duty: Callable[[], bool],
        accepted: Callable[[], tuple[float, Stack] | None],
        executor: Executor,
        metrics: CanaryMetrics,
        log: FilteringBoundLogger,
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._store = store
        self._retrievers = retrievers
        self._options = options
        self._token = token
        self._on_duty = on_duty
        self._accepted = accepted
        self._executor = executor
        self._metrics = metrics
        self._log = log
        self._now = now
        self._clock = clock
        self._look = look_seconds
        self.state: State = "not_judging"
        self.last: CanaryRun | None = None
        self._library = library
        self._sets = [one for one in library.sets if one.kind != "sentinel"]
        self._due = 0.0
        self._asked: tuple[Pair, tuple[float, Stack] | None] | None = None
        self._confirming = False
        self._fresh: dict[str, tuple[Retriever, Scores]] = {}
        self._strikes: dict[str, tuple[int, float]] = {}
        self._retries = Backoff(longest=options.every_seconds)
        self._busy = 0.0

    async def run(self) -> None:
        """Run them whenever it is time; a failure leaves the last complete run in place."""
        self._metrics.canaries_known(self._library)
        for broken in self._library.aside:
            self._aside(broken.name, broken.reason)
        for one in [one for one in self._sets if len(one.corpus or ()) > self._options.most_documents]:
            self._drop(one, f"{len(one.corpus or ())} documents; rule: at most {self._options.most_documents}")
        redis = Backoff()
        while True:
            try:
                await self._round()
            except _SupersededError:
                self._asked = None
                self._log.info("canary_run_superseded")
            except DependencyError as error:
                self._metrics.canaries_failed(type(error).__name__)
                self._log.warning("canary_run_failed", error=str(error))
                if isinstance(error, StoreError):
                    self._asked = None
                    await redis.wait()
                else:  # not slept through: another encoder is asked at once
                    self._due = self._clock() + self._retries.take()
            else:
                redis.reset()
            await asyncio.sleep(self._look)

    async def _round(self) -> None:
        if not self._sets:
            self.state = "no_sets"
            return
        if not self._on_duty():
            self.state, self._asked = "not_judging", None
            self._fresh.clear()
            return
        pair, accepted = self._retrievers.pair, self._accepted()
        if self._asked is None or _other(self._asked, (pair, accepted)):
            self._confirming = False
            self._retries.reset()
            self._strikes.clear()
        elif self._clock() < self._due:
            self.state = "waiting"
            return
        else:  # it is time to ask again; when only a baseline was accepted, what was just asked still holds
            self._fresh.clear()
        self.state = "running"
        # Before the run: a failing one is tried again when the caller says so, not at every look.
        self._asked, self._due = (pair, accepted), self._clock() + self._options.every_seconds
        await self._run(pair, accepted)

    async def _run(self, pair: Pair, accepted: tuple[float, Stack] | None) -> None:
        begin, at, self._busy = self._clock(), self._now(), 0.0
        wanted = partial(self._still_wanted, pair, accepted)
        kept: set[str] = set()
        scored = []
        for one in list(self._sets):
            try:
                scored.append(await self._scored(one, pair, accepted, wanted, kept))
            except DataError as error:
                self._drop(one, str(error))
            except (EncoderError, VectorIndexError) as error:
                if not await self._is_at_fault(one, pair, wanted):
                    raise
                self._drop(one, f"it cannot be asked: {error}")
            else:
                self._strikes.pop(one.name, None)
        if not scored:
            return
        run = await asyncio.to_thread(
            compile_run,
            scored,
            at=at,
            stack=pair.stack,
            accepted_at=None if accepted is None else accepted[0],
            thresholds=self._options.thresholds,
            rule=self._options.rule,
        )
        wanted()
        if not await self._store.canaries.add_run(self._token, run, kept):
            raise _SupersededError
        self._retries.reset()
        before, self.last = self.last, run
        self._metrics.canaries_ran(run, self._busy, self._clock() - begin)
        changed = before is None or before.state != run.state
        # Two runs in a row page; the second need not wait for its hour. But only one: an index that jitters gives
        # every run a state of its own.
        self._confirming = changed and not self._confirming
        if self._confirming:
            self._due = self._clock()
        if changed:
            self._tell(run)

    async def _scored(
        self,
        one: ProbeSet,
        pair: Pair,
        accepted: tuple[float, Stack] | None,
        wanted: Callable[[], None],
        kept: set[str],
    ) -> Scored:
        """Ask both encoders about one set; what they gave is kept under the keys that `kept` collects."""
        then = None if accepted is None else accepted[1]
        keys = {
            "deployed": result_key(one, pair.deployed.fingerprint.digest, pair.deployed.index.generation),
            "reference": result_key(one, pair.reference.fingerprint.digest, pair.reference.index.generation),
            "accepted": "" if then is None else result_key(one, then.deployed_encoder, then.deployed_index),
        }
        kept |= set(keys.values()) - {""}
        if then is not None:
            # Another set may be away for a while, and nothing else knows what the accepted stack gave it.
            encoder, index = then.deployed_encoder, then.deployed_index
            kept |= {f"*/{encoder}", f"*/{encoder}/{index}", f"documents/{index}"}
        documents = await self._documents(one, pair, then, kept)
        asked, on_known = self._fresh.get(one.name), None
        if documents is None and asked is not None and asked[0] is pair.deployed:
            deployed = asked[1]
        else:
            deployed, on_known = await self._ask(one, pair.deployed, documents, wanted)
            self._fresh[one.name] = pair.deployed, deployed
        # The first result under a key stays: a later one that differs is a change, whatever the fingerprint says.
        before: Scores | None = await self._store.canaries.keep_scores(self._token, keys["deployed"], deployed)
        if keys["accepted"] != keys["deployed"]:
            before = await self._known(keys["accepted"], deployed) if keys["accepted"] else None
        missing = await asyncio.to_thread(missing_share, one, pair.deployed, before)
        other_index = then is not None and then.deployed_index != pair.deployed.index.generation
        if of_the_index(one) and before is not None and other_index and documents is None:
            # On full lists a corpus that grew would look like decay.
            self._log.warning("canaries_not_compared", probe_set=one.name, why="the accepted documents are not known")
            before = None
        reference = await self._known(keys["reference"], deployed)
        if reference is None:
            found, _ = await self._ask(one, pair.reference, None, wanted)
            reference = await self._store.canaries.keep_scores(self._token, keys["reference"], found)
        name = SetName(one.name, one.manifest.version, one.checksum)
        return Scored(name, deployed, reference, before, on_known, missing)

    async def _is_at_fault(self, one: ProbeSet, pair: Pair, wanted: Callable[[], None]) -> bool:
        """Say whether a set failed again and again while the encoders answer otherwise: it must not stop the others."""
        count, since = self._strikes.get(one.name, (0, self._clock()))
        self._strikes[one.name] = count + 1, since
        if count + 1 < STRIKES or self._clock() - since < STRIKE_SECONDS:
            return False

        def greet() -> Generator[None, None, bool]:
            for retriever in (pair.deployed, pair.reference):
                vectors = retriever.encoder.encoder.encode_queries(["hello"])
                if of_the_index(one):
                    retriever.index.search(vectors, 1)
                yield
            return True

        try:
            return await self._in_steps(greet(), wanted)
        except (EncoderError, VectorIndexError):
            return False

    async def _known(self, key: str, deployed: Scores) -> Scores | None:
        """Read a kept result; None for one that another version of this program left and `deployed` has no match in."""
        found = await self._store.canaries.scores(key)
        return found if found is not None and comparable(found, deployed) else None

    async def _documents(
        self, one: ProbeSet, pair: Pair, accepted: Stack | None, kept: set[str]
    ) -> KnownDocuments | None:
        """Give the documents of the accepted index for a set that is asked of the production index.

        They are kept while that index is in use. A document added later is judged by nobody, and on full lists it would
        push judged ones down.
        """
        if not of_the_index(one) or accepted is None:
            return None
        name = f"documents/{accepted.deployed_index}"
        kept.add(name)
        if accepted.deployed_index == pair.deployed.index.generation:
            known = await asyncio.to_thread(KnownDocuments.of, pair.deployed.index)
            if known is not None:
                await self._store.canaries.keep_documents(self._token, name, known.to_bytes())
            return None
        content = await self._store.canaries.documents(name)
        try:
            return None if content is None else KnownDocuments.from_bytes(content)
        except ValueError as error:
            self._log.warning("canary_documents_unreadable", error=str(error))
            return None

    async def _ask(
        self, one: ProbeSet, retriever: Retriever, known: KnownDocuments | None, wanted: Callable[[], None]
    ) -> tuple[Scores, Scores | None]:
        """Give one retriever's scores, and those on lists condensed to `known` documents where it is given."""
        # Not through the cache: it holds vectors of live batches, and the last bits of a vector hang on its batch.
        encoder = retriever.encoder.encoder
        if one.kind == "composition":
            return await self._in_steps(measure_pairs(one, encoder), wanted), None
        depth = DEPTH if known is None else DEEPER
        rankings = await self._in_steps(ask(one, encoder, retriever.index, depth=depth), wanted)
        on_known = None
        if known is not None:
            on_known = await asyncio.to_thread(lambda: score_rankings(one, [condensed(r, known) for r in rankings]))
        return await asyncio.to_thread(score_rankings, one, rankings), on_known

    async def _in_steps(self, steps: Generator[None, None, Result], wanted: Callable[[], None]) -> Result:
        """Take one step after the other on the replay's thread, with pauses that keep to the share."""

        def step() -> tuple[list[Result], float]:
            begin = time.perf_counter()
            try:
                next(steps)
            except StopIteration as end:
                return [end.value], time.perf_counter() - begin
            return [], time.perf_counter() - begin

        loop = asyncio.get_running_loop()
        while True:
            wanted()
            result, seconds = await loop.run_in_executor(self._executor, step)
            self._busy += seconds
            if result:
                return result[0]
            await asyncio.sleep(seconds * (1.0 / self._options.share - 1.0))

    def _still_wanted(self, pair: Pair, accepted: tuple[float, Stack] | None) -> None:
        if not self._on_duty() or _other((pair, accepted), (self._retrievers.pair, self._accepted())):
            raise _SupersededError

    def _drop(self, one: ProbeSet, reason: str) -> None:
        self._sets = [other for other in self._sets if other is not one]
        self._aside(one.name, reason)

    def _aside(self, name: str, reason: str) -> None:
        self._metrics.canary_set_aside(name)
        self._log.error("probe_set_aside", probe_set=name, reason=reason)

    def _tell(self, run: CanaryRun) -> None:
        for name, against, signature in run.findings:
            if signature.name != "unchanged":
                self._log.info(
                    "canaries_changed",
                    probe_set=name.name,
                    domain=signature.domain,
                    against=against,
                    signature=signature.name,
                    summary=signature.describe(standing=against == "reference"),
                )


def _other(before: tuple[Pair, tuple[float, Stack] | None], now: tuple[Pair, tuple[float, Stack] | None]) -> bool:
    """Say whether a retriever was exchanged, or another baseline accepted."""
    exchanged = before[0].deployed is not now[0].deployed or before[0].reference is not now[0].reference
    return exchanged or before[1] != now[1]
