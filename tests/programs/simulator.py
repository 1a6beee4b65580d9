"""The project's own simulator in a thread, reached over loopback like any other cloud."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from exporter.simulator import Plan, Simulator, build
from exporter.simulator.build import PASSWORD
from tests.programs.cloud import Cloud

T = TypeVar("T")

QUIET = Plan(projects=1, disabled_projects=0, servers=1, deployments=0, churn=0)
"""A cloud in which nothing happens but what it is asked for."""


@contextmanager
def running(simulator: Simulator) -> Iterator[Callable[[Callable[[], T]], T]]:
    """Runs a simulator with an event loop of its own; yields what calls a function there, between two requests."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="simulator", daemon=True)
    thread.start()

    def act(function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), loop).result(10)

    try:
        asyncio.run_coroutine_threadsafe(simulator.start(), loop).result(10)
        yield act
    finally:
        asyncio.run_coroutine_threadsafe(simulator.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def simulated_cloud(plan: Plan = QUIET) -> Iterator[Cloud]:
    """A simulated cloud for clients that block."""
    simulator = Simulator(build(plan))
    with running(simulator), closing(Cloud(simulator.auth_url, PASSWORD)) as cloud:
        yield cloud
