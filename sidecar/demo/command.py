"""`rag-drift demo`: let an accident happen, and see whether the sidecar says so.

This process is traffic, screen and referee. What it knows of the sidecar it reads from the sidecar's port.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from rich.console import Console

from sidecar.demo.processes import Memory
from sidecar.demo.scenarios import SCENARIOS, Scenario, verdict
from sidecar.demo.screen import Screen
from sidecar.demo.stage import SECONDS_PER_QUERY, Stage, collect, redis_server, set_up
from sidecar.demo.traffic import Traffic
from sidecar.drift.signature import WORSE
from sidecar.errors import DemoError
from sidecar.model import WHOLE_STREAM

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sidecar.demo.corpus import Collection

CHUNK = 128
MOST_AHEAD = 1500
"""Queries that may be on their way between the service and the judge."""

CALIBRATION_LIMIT = 50_000
STEADY_QUERIES = 800
AFTERWARDS = 1500
"""Queries after an alarm: enough for an interval that the alarm has not biased."""

LIMIT = {"steady": 20_000, "query-shift": 4_000, "int8-build": 2_000}
DEFAULT_LIMIT = 8_000
IDLE_QUERIES_PER_SECOND = 20
DIAGNOSIS_SECONDS = 150.0
"""How long a cause is waited for: 400 documents are encoded again, beside everything else on this machine."""
CANARY_SECONDS = 300.0
"""How long a run of the canary sets is waited for: 3,100 texts, for one encoder or two."""
STARTS = ("start", "start_earliest", "start_latest")


def run_demo(
    *,
    scenario: str,
    once: bool,
    as_json: bool,
    queries: int | None,
    corpus: Path | None,
    redis_url: str | None,
    port: int,
    seed: int,
) -> int:
    """Run one scenario; return 0 when the sidecar said what it must, 1 when it said something else.

    Raises:
        DemoError: something that the demo needs is not there, or a process of it failed.
        DataError: the corpus breaks a rule.
    """
    story = SCENARIOS[scenario]
    demo = _Demo(
        story,
        Screen(f"rag-drift demo: {scenario}", Console(stderr=as_json, highlight=False)),
        once=once,
        limit=queries or LIMIT.get(scenario, DEFAULT_LIMIT),
        port=port,
        seed=seed,
    )
    with tempfile.TemporaryDirectory(prefix="rag-drift-demo-", ignore_cleanup_errors=True) as folder:
        try:
            asyncio.run(demo.run(Path(folder), corpus, redis_url))
        except KeyboardInterrupt:
            if not demo.result:
                return 130
        except aiohttp.ClientError as error:
            raise DemoError(f"a process of the demo stopped answering ({type(error).__name__})") from error
    if as_json:
        sys.stdout.write(json.dumps(demo.result, indent=2) + "\n")
    return 0 if demo.result["passed"] else 1


@dataclass(slots=True)
class _Demo:
    story: Scenario
    screen: Screen
    once: bool
    limit: int
    port: int
    seed: int
    result: dict[str, Any] = field(default_factory=dict)

    async def run(self, folder: Path, corpus: Path | None, redis_url: str | None) -> None:
        """Tell the whole story; `result` is there when it has ended, also while the demo stays open."""
        begin = time.monotonic()
        async with AsyncExitStack() as stack:
            stack.enter_context(self.screen)
            memory = Memory()
            watching = asyncio.create_task(memory.watch(), name="memory")
            stack.callback(watching.cancel)
            url = redis_url or await redis_server(stack, self.screen)
            collection = await asyncio.to_thread(collect, folder, corpus)
            self._tell_collection(collection, corpus)
            rng = random.Random(self.seed)  # noqa: S311  (traffic, not secrets)
            traffic = Traffic(collection.queries, held_back=self._held_back(collection), rng=rng)
            timeout = aiohttp.ClientTimeout(total=60)
            session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            self.screen.view.phase = "embedding"
            stage = await set_up(
                stack,
                session,
                self.screen,
                folder=folder,
                redis_url=url,
                slices=traffic.slices,
                port=self.port,
                canaries=self.story.signature is not None,
            )
            ready = time.monotonic()
            await self._calibrate(stage, traffic)
            calibrated = time.monotonic()
            calibration_queries = stage.client.sent
            result = await self._story(stage, traffic, collection)
            self.result = result | {
                "calibration_queries": calibration_queries,
                "seconds": {
                    "until_ready": round(ready - begin, 1),
                    "calibration": round(calibrated - ready, 1),
                    "all": round(time.monotonic() - begin, 1),
                },
                "peak_memory_mb": memory.peak_bytes // 1_000_000,
            }
            self._tell_result()
            if not self.once:
                await self._stay(stage, traffic)

    def _held_back(self, collection: Collection) -> str | None:
        """Choose the slice that only a query shift brings: `chat`, else the smallest."""
        sizes: dict[str, int] = {}
        for query in collection.queries:
            sizes[query.slice] = sizes.get(query.slice, 0) + 1
        if "chat" in sizes:
            return "chat"
        return min(sizes, key=lambda name: sizes[name]) if self.story.shift else None

    async def _calibrate(self, stage: Stage, traffic: Traffic) -> None:
        """Send traffic until the baseline of the whole stream is accepted."""
        self.screen.view.phase = "calibrating"
        self.screen.tell("calibration: 5,000 queries over 7 days of the demo's clock, 2,000 for a slice")

        async def accepted() -> bool:
            whole = stage.gauges.verdict(WHOLE_STREAM)
            return whole is not None and whole["state"] != "calibrating"

        await self._traffic(stage, traffic, accepted, limit=CALIBRATION_LIMIT)
        whole = stage.gauges.verdict(WHOLE_STREAM)
        if whole is None or whole["baseline"] is None:
            raise DemoError(f"no baseline after {stage.client.sent} queries")
        self.screen.tell(f"baseline accepted: overlap@10 with the reference is {whole['baseline']:.3f}", "green")

    async def _story(self, stage: Stage, traffic: Traffic, collection: Collection) -> dict[str, Any]:
        """Let it happen, wait for the alarm or for the end of the queries, and say what was found."""
        story, client, gauges = self.story, stage.client, stage.gauges
        self.screen.view.phase = "steady"
        await self._traffic(stage, traffic, _never, limit=STEADY_QUERIES)
        before = await client.quality(collection.queries, collection.qrels)
        too_early = await gauges.event("alarm")
        self.screen.view.phase = story.name
        self.screen.tell(f"scenario {story.name}: {story.title}", "bold yellow")
        canaries = None
        if story.ship:
            await self._recorded(stage)
            canaries = await self._canaries(stage, None)
            await self._ship(stage, traffic, story.ship)
        if story.shift:
            traffic.shift()
        sent, changed_at = client.sent, client.at

        async def alarmed() -> bool:
            # A verdict turns drifted a moment before its alarm is written down.
            return gauges.drifted and await gauges.event("alarm") is not None

        await self._traffic(stage, traffic, alarmed, limit=self.limit)
        needed = client.sent - sent
        alarm = await gauges.event("alarm")
        result: dict[str, Any] = {
            "scenario": story.name,
            "expected": story.expected,
            "queries_after_change": needed,
            "queries_judged": gauges.judged,
            "alarm": alarm,
        }
        diagnosis = None
        if alarm is not None:
            self._tell_alarm(alarm)
            await self._traffic(stage, traffic, _never, limit=AFTERWARDS)
            result["start_error_queries"] = round((alarm["start"] - changed_at) / SECONDS_PER_QUERY)
            result["settled"] = self._settled(stage, alarm)
            result["escalated"] = await gauges.event("alarm_escalated")
            if result["escalated"] is not None:
                self.screen.tell(f"escalated: the fall is proved to be {result['escalated']['severity']}", "red")
            diagnosis = result["diagnosis"] = await self._diagnosis(stage)
        signature = None
        if (found := await self._canaries(stage, canaries)) is not None:
            signature, result["canaries"] = self._tell_canaries(found)
        words, passed = verdict(story, alarm, gauges.moved, diagnosis, signature)
        result |= {"verdict": words, "passed": passed and too_early is None}
        after = await client.quality(collection.queries, collection.qrels) if story.ship else before
        return result | {"ndcg_at_10": {"before": before, "after": after}}

    async def _ship(self, stage: Stage, traffic: Traffic, change: str) -> None:
        """Let the service ship while it serves."""
        release, _ = await stage.client.status()
        await stage.client.ship(change)

        async def served() -> bool:
            return (await stage.client.status())[0] != release

        while not await served():
            await stage.client.send(traffic, 2)
            await self._look(stage)
            await asyncio.sleep(0.25)
        self.screen.tell("the new release serves; every request is still answered with 10 documents", "yellow")

    async def _traffic(
        self, stage: Stage, traffic: Traffic, done: Callable[[], Awaitable[bool]], *, limit: int
    ) -> None:
        """Send queries until `done` or `limit`, never far ahead of the judge; then let the judge catch up."""
        client, gauges = stage.client, stage.gauges
        end = client.sent + limit
        while client.sent < end and not await done():
            await client.send(traffic, min(CHUNK, end - client.sent))
            await self._look(stage)
            while client.sent - gauges.judged > MOST_AHEAD and not await done():
                await asyncio.sleep(0.1)
                await self._look(stage)
        while gauges.judged < client.sent and not await done():
            await asyncio.sleep(0.2)
            await self._look(stage)

    async def _look(self, stage: Stage) -> None:
        """Read the sidecar's numbers and show them."""
        for child in stage.children:
            child.check()
        gauges, view = stage.gauges, self.screen.view
        await gauges.look()
        view.sent, view.clock, view.judged = stage.client.sent, stage.client.at, gauges.judged
        view.verdicts = gauges.verdicts
        view.fidelity = gauges.fidelity if gauges.fidelity is not None else view.fidelity
        if gauges.overlap is not None:
            view.history.append(gauges.overlap)

    async def _recorded(self, stage: Stage) -> None:
        """Wait until the accepted stack was inspected: in production days pass before something ships."""
        deadline = time.monotonic() + DIAGNOSIS_SECONDS
        while not stage.gauges.recorded and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            await self._look(stage)

    async def _diagnosis(self, stage: Stage) -> dict[str, Any] | None:
        """Wait until the sidecar has named a cause, for a while, and tell it."""
        deadline = time.monotonic() + DIAGNOSIS_SECONDS
        found = await stage.gauges.diagnosis()
        while (found is None or not found["causes"]) and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            await self._look(stage)
            found = await stage.gauges.diagnosis()
        if found is not None:
            self.screen.tell(f"cause: {found['summary']}", "red")
            for one in found["causes"]:
                self.screen.tell(f"  {one['advice']}", "red")
        return found

    async def _canaries(self, stage: Stage, since: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Wait for a complete run of the canary sets, for a while; None in a scenario without them."""
        if self.story.signature is None:
            return None
        deadline = time.monotonic() + CANARY_SECONDS
        while (found := await stage.gauges.canaries(since=since)) is None and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
            await self._look(stage)
        return found

    def _tell_canaries(self, run: Mapping[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        """Tell what the first run after the release says of each domain; give the name for all, and the findings."""
        (one,) = run["retrieval"]
        findings = one["signatures"]["accepted"]
        for finding in findings:
            retrieval, pair = finding["retrieval"], finding["sensitivity"]
            self.screen.tell(
                f"canaries, {finding['domain']}: {finding['name'].replace('_', ' ')}: "
                f"nDCG@10 {retrieval['before']:.3f} -> {retrieval['now']:.3f}"
                + (
                    f"; {pair['phenomenon'].replace('_', ' ')}: near-miss cosine {pair['before']['near_miss']:.3f} -> "
                    f"{pair['now']['near_miss']:.3f}, AUC {pair['before']['auc']:.2f} -> {pair['now']['auc']:.2f}"
                    if finding["domain"] == "all"
                    else ""
                ),
                "red" if finding["name"] in WORSE else "",
            )
        return findings[0]["name"], findings

    def _settled(self, stage: Stage, alarm: dict[str, Any]) -> dict[str, float]:
        """Say how large the change is by the queries after the alarm, which had no part in raising it."""
        one = stage.gauges.verdict(alarm["slice"])
        assert one is not None  # noqa: S101  (the alarm's slice has a verdict)
        change, low, high = (one[name] / one["baseline"] - 1 for name in ("level", "lower", "upper"))
        self.screen.tell(
            f"{AFTERWARDS} queries later: {one['baseline']:.3f} -> {one['level']:.3f} "
            f"({change:+.0%}, 95 % interval {low:+.0%} to {high:+.0%})",
            "red",
        )
        similarity = stage.gauges.similarity
        self.screen.tell(f"the deployed encoder's cosine with the accepted one is {similarity:.3f}", "red")
        return {"level": one["level"], "lower": one["lower"], "upper": one["upper"], "encoder_similarity": similarity}

    def _tell_collection(self, collection: Collection, corpus: Path | None) -> None:
        slices = ", ".join(sorted({query.slice for query in collection.queries}))
        source = corpus.name if corpus else "the Python documentation on this machine"
        self.screen.tell(f"{len(collection.corpus)} passages from {source}")
        self.screen.tell(f"{len(collection.queries)} queries in the slices {slices}")

    def _tell_alarm(self, alarm: dict[str, Any]) -> None:
        """Say what a page would say."""
        tell = self.screen.tell
        tell(
            f"ALARM  {alarm['signal']} in {alarm['slice']}: {alarm['baseline']:.3f} -> {alarm['level']:.3f} "
            f"({-alarm['drop']:+.0%}, biased high as yet), {alarm['severity']}",
            "bold white on red",
        )
        when = [time.strftime("%a %d %b %H:%M", time.gmtime(alarm[name])) for name in STARTS if alarm[name] is not None]
        tell(f"  since {when[0]} of the demo's clock, {alarm['queries_since_start']} queries before the alarm", "red")
        if len(when) == len(STARTS):
            tell(f"  (95 % set of starts: {when[1]} to {when[2]})", "red")
        if alarm["changed"]:
            tell(f"  changed: {', '.join(part.replace('_', ' ') for part in alarm['changed'])}", "red")
        else:
            tell("  encoders and indexes are the accepted ones", "red")
        tell(
            f"  evidence worth {alarm['evidence']:.3g} weeks of false-page budget, page at {alarm['threshold']:g}",
            "red",
        )

    def _tell_result(self) -> None:
        result, quality = self.result, self.result["ndcg_at_10"]
        if quality["before"] is not None and self.story.ship:
            change = quality["after"] / quality["before"] - 1
            figures = f"{quality['before']:.3f} -> {quality['after']:.3f} ({change:+.1%})"
            self.screen.tell(f"nDCG@10 of the service on the judged queries: {figures}")
        if result["passed"]:
            self.screen.tell(f"{result['verdict']}: as expected", "bold green")
        else:
            self.screen.tell(f"{result['verdict']}: NOT as expected, which is {self.story.expected}", "bold red")
        self.screen.tell(
            f"{result['seconds']['all']:.0f} s, at most {result['peak_memory_mb']} MB of memory in all", "dim"
        )

    async def _stay(self, stage: Stage, traffic: Traffic) -> None:
        """Keep going at an easy pace, so that people can look around."""
        self.screen.tell(f"{stage.gauges.base}/metrics stays open; stop with Ctrl-C", "bold")
        while True:
            await stage.client.send(traffic, IDLE_QUERIES_PER_SECOND)
            await self._look(stage)
            await asyncio.sleep(1)


async def _never() -> bool:
    return False
