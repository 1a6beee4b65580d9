"""Between the event loop and blocking calls beside it, without ever holding up the end of the program."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

IDLE_SECONDS: Final = 1.0
"""How long a thread waits for another call."""

T = TypeVar("T")


async def run_beside(large: bool, call: Callable[[], T], *, name: str) -> T:
    """Call something that takes long only where it is about a lot, in a worker thread where it is."""
    return await run_blocking(call, name=name) if large else call()


class _Workers:
    """Threads that wait for the next call for a while; one more is started if none waits.

    They are daemons: unlike an executor's, one that hangs in a read does not keep the process from exiting. To start a
    thread holds up the event loop until it runs, which took 300 ms on a busy machine, so calls share them.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Callable[[], None]], str]] = SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0
        """How many threads wait for a call that is not queued yet."""
        self.calls = 0
        """How many calls are under way, queued ones included."""

    def run(self, call: Callable[[], Callable[[], None]], name: str) -> None:
        """Run a call in a thread that has this name meanwhile, and then, when the thread is free, what it returned;
        neither raises."""
        with self._lock:
            self.calls += 1
            free = self._free > 0
            self._free -= free
            self._calls.put((call, name))
        if not free:
            # Not with the call as its argument, which it would keep for as long as it lives.
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                call, name = self._calls.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._calls.empty():
                        self._free -= 1
                        return
                continue
            threading.current_thread().name = name
            deliver = call()
            with self._lock:
                self._free += 1
            deliver()
            del call, deliver  # what they refer to is not kept while the thread waits
            with self._lock:
                self.calls -= 1


WORKERS: Final = _Workers()


async def run_blocking(call: Callable[[], T], *, name: str) -> T:
    """The call's result, computed in a worker thread.

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

    def run() -> Callable[[], None]:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:  # handed on to whoever waits
            error = raised

        def deliver() -> None:
            with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, error)

        return deliver

    WORKERS.run(run, name)
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
