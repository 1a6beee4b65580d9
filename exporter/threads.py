"""Between the event loop and blocking calls beside it, without ever holding up the end of the program."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


async def run_beside(large: bool, call: Callable[[], T], *, name: str) -> T:
    """Call something that takes long only where it is about a lot, in a thread of its own where it is."""
    return await run_blocking(call, name=name) if large else call()


async def run_blocking(call: Callable[[], T], *, name: str) -> T:
    """The call's result, computed in a thread of its own.

    The thread is a daemon: unlike an executor's, one that hangs in a read does not keep the process from exiting.
    Callers bound how many run at once. Cancelling stops the wait, not the call.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # it is a T where there is no error

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:  # handed on to whoever waits
            error = raised
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future


def wait_for_loop(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Have the event loop do some work, and wait in this other thread for what comes of it.

    RuntimeError where the loop ends before it is done, or the work is cancelled; unlike with
    asyncio.run_coroutine_threadsafe, no coroutine is left over.
    """
    done: Future[T] = Future()

    def start() -> None:
        def ended(task: asyncio.Task[T]) -> None:
            error = RuntimeError("nobody waits for it any more") if task.cancelled() else task.exception()
            done.set_exception(error) if error else done.set_result(task.result())

        loop.create_task(work()).add_done_callback(ended)

    loop.call_soon_threadsafe(start)
    while not done.done():
        with suppress(TimeoutError):
            done.exception(timeout=1)
        if not done.done() and loop.is_closed():
            raise RuntimeError("the event loop ended")
    return done.result()
