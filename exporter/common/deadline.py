"""The time that one attempt may take and has taken, waiting for its turn left out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self


class Deadline:
    """An asynchronous context in which at most `limit` seconds may pass, pauses not counted; then TimeoutError."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._timeout = asyncio.timeout(limit)
        self._started = 0.0
        self._waited = 0.0

    async def __aenter__(self) -> Self:
        self._started = asyncio.get_running_loop().time()
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._timeout.__aexit__(kind, error, trace)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop counting."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        # The attempt may have ended while somebody else waits on its behalf.
        with suppress(RuntimeError):
            self._timeout.reschedule(None)
        try:
            yield
        finally:
            self._waited += loop.time() - began
            with suppress(RuntimeError):
                self._timeout.reschedule(self._started + self._limit + self._waited)

    def elapsed(self) -> float:
        """Seconds since the start, pauses left out."""
        return asyncio.get_running_loop().time() - self._started - self._waited
