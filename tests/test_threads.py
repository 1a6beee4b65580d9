"""Calls in worker threads."""

from __future__ import annotations

import asyncio
import threading

from exporter.common.threads import run_blocking
from tests.harness import DEADLINE, eventually


async def test_calls_share_threads() -> None:
    """A call gets a thread that has just ended another one, and no call waits for one that hangs."""
    hanging = threading.Event()
    hung = [asyncio.create_task(run_blocking(lambda: hanging.wait(DEADLINE), name="hanging")) for _ in range(3)]
    await asyncio.sleep(0)  # they begin
    try:
        threads = [await run_blocking(threading.current_thread, name="quick") for _ in range(50)]
        assert len(set(threads)) == 1
        assert all(each.daemon for each in threads)
        assert not any(each.done() for each in hung)
    finally:
        hanging.set()
        await asyncio.gather(*hung)
    await eventually(lambda: not any(each.is_alive() for each in threads), "threads that have nothing to do end")


async def test_a_thread_has_the_name_of_its_call() -> None:
    """Whoever looks at all threads sees what each is for."""
    for name in ("one", "other"):
        assert await run_blocking(lambda: threading.current_thread().name, name=name) == name
