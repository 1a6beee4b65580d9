"""How late answers of `/-/healthy` are, asked for by a process of its own, one question every 20 ms.

Every question is sent when it is due, whether or not the previous ones were answered, and a late one counts from when
it was due: a stall of a second delays fifty answers, not one.

    python -m bench.probing 19180        # until stdin ends
"""

from __future__ import annotations

import json
import select
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import cast

from bench.processes import until

EVERY = 0.02
"""Seconds between two questions."""


class _Questions:
    """Questions on their way, each on a connection of its own: no question waits for another one's answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._waiting = selectors.DefaultSelector()
        self._idle: list[socket.socket] = []
        self.late: list[float] = []
        """How late each answer was, in seconds."""

    def ask(self, due: float) -> None:
        """Send one question, which was due at this time."""
        connection = self._idle.pop() if self._idle else socket.create_connection(("127.0.0.1", self._port))
        connection.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: bench\r\n\r\n")
        self._waiting.register(connection, selectors.EVENT_READ, due)

    def receive(self, until: float) -> None:
        """Take the answers that come before this time."""
        while (left := until - time.perf_counter()) > 0:
            for key, _ in self._waiting.select(left):
                connection = cast("socket.socket", key.fileobj)
                answer = connection.recv(4096)
                assert answer.endswith(b"\r\n\r\nHealthy\n"), answer
                self.late.append(time.perf_counter() - key.data)
                self._waiting.unregister(connection)
                self._idle.append(connection)

    @property
    def open(self) -> bool:
        """Whether any answer is still to come."""
        return bool(self._waiting.get_map())


def _ask(port: int) -> None:
    """Ask until stdin ends; prints how late each answer was, in seconds."""
    until(lambda: _listens(port), pause=0.002)
    questions = _Questions(port)
    began = time.perf_counter()
    for number in count():
        due = began + number * EVERY
        questions.receive(due)
        questions.ask(due)
        if select.select([sys.stdin], [], [], 0)[0]:
            break
    while questions.open:
        questions.receive(time.perf_counter() + EVERY)
    print(json.dumps(questions.late))


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def asked(port: int) -> Iterator[list[float]]:
    """How late each answer was while this lasted, or since the server listened: filled when the block ends."""
    late: list[float] = []
    command = [sys.executable, "-m", "bench.probing", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asking:
        try:
            yield late
        except BaseException:
            asking.kill()
            raise
        late += json.loads(asking.communicate(timeout=60)[0])


if __name__ == "__main__":
    _ask(int(sys.argv[1]))
