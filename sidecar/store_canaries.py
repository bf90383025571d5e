"""What the canaries keep in Redis: results by encoder and set, and the last complete runs. The keys are `store`'s.

A result is written once and stays until no encoder, set or index in use needs it; a run and that tidying are one step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar import redis_scripts as scripts
from sidecar import redis_shapes
from sidecar.drift.canary_run import comparable
from sidecar.redis_edge import mapped_redis_errors

if TYPE_CHECKING:
    from collections.abc import Collection

    from sidecar.drift.canary_run import CanaryRun
    from sidecar.redis_shapes import Scores

RUNS_KEPT = 20


class CanaryStore:
    """The canaries' part of the store. `lease`, `results` and `runs` are key names."""

    def __init__(self, redis: Any, *, lease: str, results: str, runs: str) -> None:
        self._client = redis
        self._lease, self._results, self._runs = lease, results, runs
        self._keep_first = redis.register_script(scripts.KEEP_FIRST)
        self._add_run = redis.register_script(scripts.ADD_CANARY_RUN)

    async def scores(self, key: str) -> Scores | None:
        """Read what an encoder scored on a set; None if that is not known, or cannot be read any more."""
        with mapped_redis_errors():
            content = await self._client.hget(self._results, key)
        return None if content is None else redis_shapes.scores(content)

    async def keep_scores(self, token: str, key: str, scores: Scores) -> Scores:
        """Keep what an encoder scored on a set, unless that is known; give what is kept then.

        What another version of this program left, and cannot be read or compared, is replaced. Without the lease
        nothing is written, and `scores` come back.
        """
        arguments = [token, key, redis_shapes.scores_bytes(scores)]
        with mapped_redis_errors():
            content = await self._keep_first(keys=[self._lease, self._results], args=arguments)
            kept = None if content is None else redis_shapes.scores(content)
            if kept is not None and comparable(kept, scores):
                return kept
            if content is not None:
                await self._keep_first(keys=[self._lease, self._results], args=[*arguments, content])
        return scores

    async def documents(self, name: str) -> bytes | None:
        """Read the list of an index's documents; None if it is not kept."""
        with mapped_redis_errors():
            content: bytes | None = await self._client.hget(self._results, name)
        return content

    async def keep_documents(self, token: str, name: str, content: bytes) -> None:
        """Keep the list of an index's documents, unless it is kept; nothing is written without the lease."""
        with mapped_redis_errors():
            await self._keep_first(keys=[self._lease, self._results], args=[token, name, content])

    async def add_run(self, token: str, run: CanaryRun, kept: Collection[str]) -> bool:
        """Append a complete run and forget all results but those `kept` (`*end`: all whose name ends so).

        Gives False, and nothing is done, without the lease.
        """
        with mapped_redis_errors():
            return bool(
                await self._add_run(
                    keys=[self._lease, self._runs, self._results],
                    args=[token, RUNS_KEPT, redis_shapes.canary_run_json(run), *sorted(kept)],
                )
            )

    async def runs_after(self, last: str, *, count: int = RUNS_KEPT) -> list[tuple[str, CanaryRun | None]]:
        """Read the runs behind the id `last`, oldest first; one that cannot be read is None."""
        with mapped_redis_errors():
            entries = await self._client.xrange(self._runs, f"({last}", count=count)
        return [(identity.decode(), redis_shapes.canary_run(fields)) for identity, fields in entries]

    async def last_run(self) -> CanaryRun | None:
        """Read the last complete run, None before the first."""
        with mapped_redis_errors():
            entries = await self._client.xrevrange(self._runs, count=1)
        return redis_shapes.canary_run(entries[0][1]) if entries else None
