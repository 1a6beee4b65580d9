"""Who may refresh now: so many at once, shared out evenly among clouds, so that a cloud that hangs delays no other."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count


class ConcurrencyLimit:
    """At most `concurrency` turns at once. Each cloud has a share of its own of at least one; slow projects hold at
    most half of it, so that the quick ones of the same cloud stay on time. The clouds take turns; within one it is
    first come, first served. The limits may change while turns are held: those still count."""

    def __init__(self, concurrency: int, clouds: Sequence[str]) -> None:
        self._tickets = count()
        self._waiting: dict[tuple[str, bool], deque[tuple[int, asyncio.Future[None]]]] = {}
        """By cloud and slowness, in order of arrival."""
        self._turns = count(1)
        self._served: dict[str, int] = {}
        """When each cloud last got a turn, counted in turns."""
        self._held: Counter[str] = Counter()
        self._held_slowly: Counter[str] = Counter()
        self.resize(concurrency, clouds)

    def resize(self, concurrency: int, clouds: Sequence[str]) -> None:
        """Go by other limits from now on."""
        self._concurrency = concurrency
        self._shares = {
            cloud: max(1, concurrency // len(clouds) + (place < concurrency % len(clouds)))
            for place, cloud in enumerate(clouds)
        }
        self._admit()

    @asynccontextmanager
    async def turn(self, cloud: str, *, slow: bool) -> AsyncIterator[None]:
        """Wait for a turn and hold it."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((cloud, slow), deque()).append((next(self._tickets), turn))
        self._admit()
        try:
            await turn
            yield
        finally:
            # Whoever is cancelled while waiting has cancelled the turn too, unless it had just been given.
            if turn.done() and not turn.cancelled():
                self._held[cloud] -= 1
                self._held_slowly[cloud] -= slow
            self._admit()

    def _admit(self) -> None:
        """Give turns to those who may have one: the cloud's that was served longest ago, and there the first."""
        while self._held.total() < self._concurrency:
            for lane, queue in list(self._waiting.items()):
                while queue and queue[0][1].done():  # cancelled
                    queue.popleft()
                if not queue:
                    del self._waiting[lane]
            lanes = [lane for lane in self._waiting if self._may(*lane)]
            if not lanes:
                return
            cloud, slow = lane = min(lanes, key=lambda each: (self._served.get(each[0], 0), self._waiting[each][0][0]))
            self._served[cloud] = next(self._turns)
            self._waiting[lane].popleft()[1].set_result(None)
            self._held[cloud] += 1
            self._held_slowly[cloud] += slow

    def _may(self, cloud: str, slow: bool) -> bool:
        share = self._shares.get(cloud, 1)
        return self._held[cloud] < share and not (slow and self._held_slowly[cloud] >= max(1, share // 2))
