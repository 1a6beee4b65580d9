"""The times that the exporter goes by; a test may give it others."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


def since_boot() -> float:
    """Seconds that no clock setting moves and that go on while the machine is suspended, where the system has such."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True, slots=True)
class Clock:
    """`wall` is Unix time, for what is shown; `steady` never jumps, for how old data is."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = since_boot
