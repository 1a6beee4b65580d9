"""A real Alertmanager, and a receiver for what it sends."""

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.programs.process import eventually
from tests.programs.service import Service

Json = Any


class Alertmanager(Service):
    """An Alertmanager with storage of its own, from entering the context until leaving it."""

    name = "alertmanager"

    def options(self, file: Path, data: Path) -> list[str]:
        """Where its data is, and that it is alone."""
        return [*super().options(file, data), f"--storage.path={data}", "--cluster.listen-address="]

    def alerts(self) -> list[Json]:
        """What it knows of now, with `labels` and `status`."""
        answer = self._http.get(f"http://{self.address}/api/v2/alerts", timeout=30)
        answer.raise_for_status()
        return list(answer.json())


class Webhook:
    """A receiver of notifications, from entering the context until leaving it."""

    def __init__(self) -> None:
        self.notifications: list[Json] = []
        """Every message, in the order of arrival: `receiver`, and `alerts` with `status`, `labels`, `annotations`."""
        notifications = self.notifications

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Keeps what it is sent."""
                notifications.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def latest(self, alert: str, **labels: str) -> Json | None:
        """The newest that was said of an alert with these labels, and to which `receiver`."""
        wanted: Mapping[str, str] = {"alertname": alert, **labels}
        for notification in reversed(self.notifications):
            for each in notification["alerts"]:
                if wanted.items() <= each["labels"].items():
                    return {**each, "receiver": notification["receiver"]}
        return None

    def wait_until(self, status: str, alert: str, *, timeout: float = 60.0, **labels: str) -> Json:
        """The newest that was said of an alert, once that is this status (`firing` or `resolved`)."""

        def said() -> Json | None:
            latest = self.latest(alert, **labels)
            return latest if latest is not None and latest["status"] == status else None

        return eventually(said, timeout=timeout, what=f"{alert} {labels} is {status}")
