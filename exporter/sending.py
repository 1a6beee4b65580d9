"""An answer's body that is there already, sent step by step without being copied.

The event loop copies what a socket does not take at once, so a page that is given to it whole is copied whole for
every reader. In steps no more than one of them waits for a reader, however slow it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from exporter.pieces import together

STEP: Final = 256 * 1024
# Each step takes a call of the system: smaller parts are joined.
LEAST: Final = 16 * 1024


class Parts(Payload):
    """Bytes in several parts, to be sent one after the other."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        super().__init__(parts)
        self._parts = parts
        self._size = sum(map(len, parts))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """All of it as text."""
        return b"".join(self._parts).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all of it, as fast as it is taken."""
        for part in together(self._parts, least=LEAST):
            with memoryview(part) as whole:
                for start in range(0, len(part), STEP):
                    await writer.write(whole[start : start + STEP])

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """The same: its length is what was announced."""
        await self.write(writer)
