"""An event loop whose time passes at once: where nothing is under way that takes real time, it jumps to what is next.

Sockets, threads and everything else are real; only `loop.time()` is not the machine's.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

TICK = 1e-6
"""Seconds that each turn of the loop takes: a clock that stands still can keep a timer from ever being due."""
REAL_WAIT = 0.002
"""Seconds for which the loop really waits at a time for what is under way."""
SLOWLY = 1e-4
"""Seconds that pass meanwhile: some, for what is under way may wait for a timer of the loop; few, so that it makes no
difference how busy the machine is."""


class _Jumping(selectors.DefaultSelector):
    """A selector that moves its loop's time on instead of waiting, unless something real is under way."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.busy: Callable[[], bool] = lambda: False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready, at once; if nothing is, the time is then what it was to be waited for."""
        self.now += TICK
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or self.busy():
            if not (ready := super().select(REAL_WAIT)):
                self.now += SLOWLY if timeout is None else min(timeout, SLOWLY)
            return ready
        self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The event loop; `busy` says whether something is under way that takes real time."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds, as far as they have passed here."""
        return self._jumping.now

    def look_out(self, busy: Callable[[], bool]) -> None:
        """Let time jump only while this is not true."""
        self._jumping.busy = busy

    def run(self, awaitable: Any) -> Any:
        """The awaitable's result."""
        return self.run_until_complete(awaitable)
