"""Who may refresh now: so many at once, shared out evenly among clouds, so that a cloud that hangs delays no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager


class Gate:
    """At most `concurrency` turns at once. Each cloud has a share of its own of at least one; slow projects hold at
    most half of it, so that the quick ones of the same cloud stay on time. First come, first served."""

    def __init__(self, concurrency: int, clouds: Sequence[str], before: Gate | None = None) -> None:
        """`before` is the one that this one replaces: where the limit is the same, turns held there still count."""
        shares = {
            cloud: max(1, concurrency // len(clouds) + (place < concurrency % len(clouds)))
            for place, cloud in enumerate(clouds)
        }
        self.concurrency = concurrency
        same = before is not None and before.concurrency == concurrency
        self.all_turns: asyncio.Semaphore = before.all_turns if before and same else asyncio.Semaphore(concurrency)
        self._shares = {cloud: asyncio.Semaphore(share) for cloud, share in shares.items()}
        self._slow = {cloud: asyncio.Semaphore(max(1, share // 2)) for cloud, share in shares.items()}

    @asynccontextmanager
    async def turn(self, cloud: str, *, slow: bool) -> AsyncIterator[None]:
        """Wait for a turn and hold it."""
        async with AsyncExitStack() as stack:
            # From the narrowest to the widest, so that nobody holds a wide one while waiting for a narrow one.
            if slow:
                await stack.enter_async_context(self._slow[cloud])
            await stack.enter_async_context(self._shares[cloud])
            await stack.enter_async_context(self.all_turns)
            yield
