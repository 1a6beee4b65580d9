"""This exporter and node_exporter, which read the same web configuration files, and asking both the same things."""

import http.client
import os
import re
import ssl
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.programs.available import OLDEST, find
from tests.programs.process import Process, eventually, free_port

TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Said:
    """What came of a request: a status with some headers and the body of a refusal, or that there was no answer."""

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    version: str | None = None
    """Of TLS."""


HEADERS = (
    "WWW-Authenticate",
    "Strict-Transport-Security",
    "X-Frame-Options",
    "X-XSS-Protection",
    "Content-Security-Policy",
)
"""The headers by which answers are compared."""


def ask(
    port: int, *, tls: ssl.SSLContext | None = None, path: str = "/metrics", headers: Mapping[str, str] | None = None
) -> Said:
    """One request on a connection of its own; whatever goes wrong with the connection is no answer."""
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        if tls is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT, context=tls)
    )
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        version = connection.sock.version() if isinstance(connection.sock, ssl.SSLSocket) else None
        answer = connection.getresponse()
        body = answer.read().decode()
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException):  # TLS' errors are OSErrors too
        return Said(None)
    finally:
        connection.close()
    found = {name: value for name in HEADERS if (value := answer.headers.get(name)) is not None}
    return Said(answer.status, found, "" if answer.status < 400 else body, version)


class WebProgram:
    """One of the two with a web configuration file, from entering the context until leaving it."""

    def __init__(self, program: str, config: Path, folder: Path, *, release: str = OLDEST) -> None:
        """`program` is `node_exporter` (of a release) or `ours`; the latter finds no cloud, which is no matter here."""
        self.program = program
        folder.mkdir(exist_ok=True)
        environment = {"OS_AUTH_URL": "http://127.0.0.1:9/v3", "OS_USERNAME": "nobody", "OS_PASSWORD": "nothing"}
        self._port = 0
        if program == "node_exporter":
            self._port = free_port()
            command = find("node_exporter", release).command(
                "--collector.disable-defaults", f"--web.listen-address=127.0.0.1:{self._port}"
            )
        else:
            command = [sys.executable, "-m", "exporter", "serve", "--web.listen-address=127.0.0.1:0"]
            if path := os.environ.get("PYTHONPATH"):
                environment["PYTHONPATH"] = path
        self._process = Process(program, [*command, f"--web.config.file={config}"], folder, **environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stop()

    def said(self) -> str:
        """What it has logged so far."""
        return self._process.log.read_text(errors="replace")

    def starts(self) -> bool:
        """Whether it comes to listen; False where it has ended instead."""
        line = r"Listening on" if self._port else r"event=listening .*?ports=(\d+)"

        def found() -> tuple[bool] | None:
            if self._process.ended is not None:
                return (False,)
            match = re.search(line, self.said())
            if match is None:
                return None
            if self._port:
                return (True,) if self._listens() else None
            self.port = int(match[1])
            return (True,)

        answer = eventually(found, timeout=60.0, what=f"{self.program} starts")
        return answer == (True,)

    def _listens(self) -> bool:
        """Whether node_exporter has read its file, which it does after it has begun to listen."""
        self.port = self._port
        return "TLS is" in self.said()

    @property
    def status(self) -> int | None:
        """Its exit status."""
        return self._process.ended
