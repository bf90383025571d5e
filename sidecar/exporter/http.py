"""The port: metrics for Prometheus, health for Kubernetes, verdicts for people and scripts.

Nothing here carries query text. Reading is open, as for any exporter; changing (a new calibration, a reload) needs
the bearer token, and is refused altogether where none is configured. Metrics are rendered in a thread: 1,000 label
sets take the event loop a third of a second otherwise.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from sidecar.errors import ConfigurationError, StoreError
from sidecar.store import Request, Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prometheus_client import CollectorRegistry

    from sidecar.drift.mix import Split
    from sidecar.judge.judgement import Judgement

MAX_BODY = 16_384


class Surroundings(Protocol):
    """What the endpoints need to know of the running sidecar."""

    async def missing(self) -> tuple[str, ...]:
        """Name what is not there yet; empty means ready."""

    @property
    def judgement(self) -> Judgement | None:
        """Give the judge's state if this replica is on duty."""

    @property
    def store(self) -> Store | None:
        """Give the store, once connected."""

    async def reload(self) -> None:
        """Read the settings again and use them.

        Raises:
            ConfigurationError: they are not valid; the old ones stay.
        """


def application(
    registry: CollectorRegistry, surroundings: Surroundings, *, token: Callable[[], str | None]
) -> web.Application:
    """Build the aiohttp application; `token` gives the present token, or None if changes are off."""
    endpoints = _Endpoints(registry, surroundings, token)
    app = web.Application(client_max_size=MAX_BODY)
    app.add_routes(
        [
            web.get("/", endpoints.home),
            web.get("/metrics", endpoints.metrics),
            web.get("/-/healthy", endpoints.healthy),
            web.get("/-/ready", endpoints.ready),
            web.post("/-/reload", endpoints.reload),
            web.get("/api/v1/verdicts", endpoints.verdicts),
            web.get("/api/v1/baselines", endpoints.baselines),
            web.get("/api/v1/audit", endpoints.audit),
            web.get("/api/v1/diagnosis", endpoints.diagnosis),
            web.get("/api/v1/canaries", endpoints.canaries),
            web.post("/api/v1/calibrations", endpoints.calibrate),
            web.post("/api/v1/fixes", endpoints.fixed),
        ]
    )
    return app


class _Endpoints:
    def __init__(
        self, registry: CollectorRegistry, surroundings: Surroundings, token: Callable[[], str | None]
    ) -> None:
        self._registry = registry
        self._surroundings = surroundings
        self._token = token

    async def home(self, _: web.Request) -> web.Response:
        """Say what this is and where to go."""
        links = "".join(
            f'<li><a href="{path}">{path}</a> {text}</li>'
            for path, text in (
                ("/metrics", "for Prometheus"),
                ("/api/v1/verdicts", "what the judge holds now"),
                ("/api/v1/audit", "alarms and baselines, newest first"),
                ("/api/v1/diagnosis", "why, as far as it can be told"),
                ("/api/v1/canaries", "what the canary sets say"),
                ("/-/ready", "readiness"),
                ("/-/healthy", "liveness"),
            )
        )
        page = (
            f'<!doctype html><html lang="en"><title>rag-drift</title><h1>rag-drift sidecar</h1><ul>{links}</ul></html>'
        )
        return web.Response(text=page, content_type="text/html")

    async def metrics(self, request: web.Request) -> web.Response:
        """Render the registry in the format that the client asks for."""
        encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await asyncio.to_thread(encoder, self._registry)
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    async def healthy(self, _: web.Request) -> web.Response:
        """Answer: that alone shows that the loop turns."""
        return web.Response(text="healthy\n")

    async def ready(self, _: web.Request) -> web.Response:
        """Answer 200 when models are loaded and the stream can be read, else 503 and what is missing."""
        if missing := await self._surroundings.missing():
            return web.Response(status=503, text="waiting for: " + ", ".join(missing) + "\n")
        return web.Response(text="ready\n")

    async def reload(self, request: web.Request) -> web.Response:
        """Reload the settings; on an error the old ones stay in use."""
        self._authorize(request)
        try:
            await self._surroundings.reload()
        except ConfigurationError as error:
            return web.json_response({"error": str(error).splitlines()}, status=422)
        return web.json_response({"reloaded": True})

    async def verdicts(self, _: web.Request) -> web.Response:
        """Give the verdicts, if this replica judges; else say so."""
        judgement = self._surroundings.judgement
        if judgement is None:
            return web.json_response({"on_duty": False, "verdicts": []})
        return web.json_response(
            {
                "on_duty": True,
                "signals": judgement.options.signals,
                "evidence_weeks": judgement.evidence,
                "rise_weeks": judgement.rise,
                "threshold_weeks": judgement.options.weeks_between_false_pages,
                "alarm": judgement.alarm_id,
                "severity": judgement.severity,
                "sessions": asdict(judgement.traffic.sessions.summary()),
                "mix": dict(zip(("slice", "cluster"), map(_split, judgement.mix()), strict=True)),
                "accepted_stack": asdict(judgement.accepted) if judgement.accepted else None,
                "stack": asdict(judgement.stack) if judgement.stack else None,
                "verdicts": [asdict(verdict) for verdict in judgement.verdicts()],
            }
        )

    async def baselines(self, _: web.Request) -> web.Response:
        """Give the accepted baselines, whole, if this replica judges; a slice that is still calibrating has none."""
        judgement = self._surroundings.judgement
        if judgement is None:
            return web.json_response({"on_duty": False, "baselines": {}})
        accepted = {
            signal: {
                name: track.baseline.to_state() for name, track in watch.tracks.items() if track.baseline is not None
            }
            for signal, watch in judgement.watches.items()
        }
        return web.json_response(
            {
                "on_duty": True,
                "accepted_stack": asdict(judgement.accepted) if judgement.accepted else None,
                "baselines": accepted,
            }
        )

    async def audit(self, request: web.Request) -> web.Response:
        """Give the newest events of the audit trail; `?count=` up to 1000."""
        try:
            count = int(request.query.get("count", "100"))
        except ValueError:
            count = 0
        if not 1 <= count <= Store.AUDIT_KEPT:
            return _problem(400, f"count must be a whole number from 1 to {Store.AUDIT_KEPT}")
        return await self._with_store(lambda store: store.audit(count))

    async def diagnosis(self, _: web.Request) -> web.Response:
        """Give the last attribution with the case for and against each cause; null while nothing needs one."""
        return await self._with_store(lambda store: store.diagnosis())

    async def canaries(self, _: web.Request) -> web.Response:
        """Give the last complete run of the canary sets, null before the first."""

        async def last(store: Store) -> Any:
            run = await store.canaries.last_run()
            return None if run is None else asdict(run)

        return await self._with_store(last)

    async def calibrate(self, request: web.Request) -> web.Response:
        """Ask the judge to give up the baselines and measure anew: JSON body with `by` and `why`."""
        return await self._ask("recalibrate", request)

    async def fixed(self, request: web.Request) -> web.Response:
        """Tell the judge that the cause is repaired, so that the alarm ends: JSON body with `by` and `why`."""
        return await self._ask("fixed", request)

    async def _ask(self, kind: str, request: web.Request) -> web.Response:
        self._authorize(request)
        try:
            body = await request.json()
            by, why = body["by"], body["why"]
        except (ValueError, LookupError, TypeError, RecursionError):
            by = why = None
        if not (isinstance(by, str) and isinstance(why, str) and by.strip() and why.strip()):
            return _problem(400, 'the body must be JSON with the texts "by" (who asks) and "why"')
        ask = Request(id=secrets.token_hex(8), kind=kind, by=by[:200], why=why[:1000])

        async def leave(store: Store) -> dict[str, str]:
            await store.ask(ask)
            return {"request": ask.id}

        return await self._with_store(leave, status=202)

    async def _with_store(self, work: Callable[[Store], Awaitable[Any]], *, status: int = 200) -> web.Response:
        store = self._surroundings.store
        if store is None:
            return _problem(503, "not connected to Redis yet")
        try:
            return web.json_response(await work(store), status=status)
        except StoreError as error:
            return _problem(503, str(error))

    def _authorize(self, request: web.Request) -> None:
        """Refuse a change without the right token."""
        try:
            token = self._token()
        except ConfigurationError as error:
            raise web.HTTPServiceUnavailable(text=f"changes are off: {error}\n") from None
        if token is None:
            raise web.HTTPForbidden(text="changes are off: no http.token or http.token_file is configured\n")
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), f"Bearer {token}".encode()):
            raise web.HTTPUnauthorized(text="a valid bearer token is needed\n", headers={"WWW-Authenticate": "Bearer"})


def _split(split: Split | None) -> dict[str, Any] | None:
    return None if split is None else asdict(split)


def _problem(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
