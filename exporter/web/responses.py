"""Answers' bodies that are there already, sent step by step without being copied.

The event loop copies what a socket does not take at once, so a page that is given to it whole is copied whole for every
reader. In steps, no more than one of them waits for a reader, however slow it is; the more readers there are, the
shorter the steps, so that all of them together keep no more waiting than is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from exporter.metrics.gzip_members import together

# A socket takes the more at once, the more it is offered: a long step is half as much work as many short ones.
LONGEST: Final = 4 * 1024 * 1024
SHORTEST: Final = 64 * 1024
ALLOWED: Final = 32 * 1024 * 1024
"""What may wait for all readers together, as long as that is more than the shortest step for each."""
# Each step takes a call of the system: smaller parts are joined.
LEAST: Final = 16 * 1024


class Outbox:
    """What is on its way to readers."""

    def __init__(self) -> None:
        self._readers = 0

    @contextmanager
    def reader(self) -> Iterator[None]:
        """Somebody is being sent something."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    @property
    def step(self) -> int:
        """How many bytes to hand to a socket at once."""
        return max(SHORTEST, min(LONGEST, ALLOWED // max(1, self._readers)))


class Parts(Payload):
    """Bytes in several parts, to be sent one after the other."""

    def __init__(self, parts: Sequence[bytes], outbox: Outbox) -> None:
        super().__init__(parts)
        self._parts = parts
        self._outbox = outbox
        self._size = sum(map(len, parts))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """All of it as text."""
        return b"".join(self._parts).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all of it, as fast as it is taken."""
        with self._outbox.reader():
            for part in together(self._parts, least=LEAST):
                sent = 0
                with memoryview(part) as whole:
                    while sent < len(part):
                        step = self._outbox.step
                        await writer.write(whole[sent : sent + step])
                        sent += step

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """The same: its length is what was announced."""
        await self.write(writer)
