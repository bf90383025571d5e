"""Who is told: a receiver of Alertmanager's notifications that remembers them with the time of their arrival."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(slots=True)
class Notification:
    """One call of the webhook: who was told, when (unix seconds), and the body."""

    receiver: str
    at: float
    body: dict[str, Any]

    def alerts(self, status: str = "firing", **labels: str) -> list[dict[str, Any]]:
        """Give its alerts of a status with these labels."""
        return [
            one for one in self.body["alerts"] if one["status"] == status and labels.items() <= one["labels"].items()
        ]

    def __str__(self) -> str:
        told = ", ".join(
            f"{one['labels']['alertname']} {one['labels'].get('severity')} {one['status']}"
            for one in self.body["alerts"]
        )
        return f"{time.strftime('%H:%M:%S', time.localtime(self.at))} {self.receiver}: {told}"


class Webhook:
    """Takes Alertmanager's notifications and remembers them; the path of the URL names the receiver."""

    def __init__(self) -> None:
        self.received: list[Notification] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                at = time.time()
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received.append(Notification(self.path.strip("/"), at, body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing: the tests read `received`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="webhook", daemon=True)

    def url(self, receiver: str) -> str:
        """Give the address of one receiver."""
        return f"http://127.0.0.1:{self._server.server_port}/{receiver}"

    def told(self, receiver: str, status: str = "firing", **labels: str) -> list[Notification]:
        """Give what a receiver was told that has such an alert, oldest first."""
        return [one for one in list(self.received) if one.receiver == receiver and one.alerts(status, **labels)]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
