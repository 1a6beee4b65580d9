"""The project's own simulator in a thread, reached over loopback like any other cloud."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from exporter.simulator import Plan, Simulator, build
from exporter.simulator.build import PASSWORD
from tests.programs.cloud import Cloud

QUIET = Plan(projects=1, disabled_projects=0, servers=1, deployments=0, churn=0)
"""A cloud in which nothing happens but what it is asked for."""


@contextmanager
def simulated_cloud(plan: Plan = QUIET) -> Iterator[Cloud]:
    """A simulated cloud with an event loop of its own, for clients that block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="simulator", daemon=True)
    thread.start()
    simulator = Simulator(build(plan))
    try:
        asyncio.run_coroutine_threadsafe(simulator.start(), loop).result(10)
        with closing(Cloud(simulator.auth_url, PASSWORD)) as cloud:
            yield cloud
    finally:
        asyncio.run_coroutine_threadsafe(simulator.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
