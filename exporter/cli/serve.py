"""Running the exporter: listening, refreshing, and ending within seconds when told to."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import structlog
from aiohttp import web
from yarl import URL

from exporter import __version__
from exporter.collector.collector import Collector
from exporter.common.errors import ConfigError
from exporter.config.schema import Config
from exporter.ui.handlers import PATHS as PAGES
from exporter.web.app import Server
from exporter.web.auth_middleware import AuthMiddleware
from exporter.web.listeners import Address, Bounds, Listeners, requests_logger
from exporter.web.systemd import Notifier, activated
from exporter.web.web_config import Loaded

SHUTDOWN_SECONDS: Final = 2.0
GARBAGE_THRESHOLDS: Final = (10_000, 10, 1000)
SWITCH_INTERVAL: Final = 0.00005

log = structlog.get_logger("serve")


_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")


def parse_address(text: str) -> Address:
    """An address from `:19180`, `host:19180` or `[::1]:19180`; ConfigError otherwise."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(f"--web.listen-address: expected host:port, [address]:port or :port, not {text!r}")
    return Address(match["v6"] or match["host"] or None, int(match["port"]))


@asynccontextmanager
async def listening(
    server: Server,
    addresses: Sequence[Address],
    *,
    sockets: Sequence[socket.socket] = (),
    entrance: AuthMiddleware | None = None,
    bounds: Bounds | None = None,
) -> AsyncIterator[list[int]]:
    """With the application served on these addresses and sockets; gives the ports.

    ConfigError where an address can't be had. An entrance is asked about every request, and looked after.
    """
    bounds = bounds or Bounds()
    runner = web.AppRunner(
        server.app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_SECONDS,
        keepalive_timeout=bounds.idle,
        logger=requests_logger(),
    )
    listeners = Listeners(runner, bounds)
    server.app.middlewares[:0] = [listeners.middleware, *([entrance.middleware] if entrance else [])]
    await runner.setup()
    watching: list[asyncio.Task[None]] = []
    try:
        listeners.adopt(sockets)
        await listeners.bind(addresses)
        if entrance is None:
            await listeners.serve(None)
        else:

            async def changed(loaded: Loaded) -> None:
                await listeners.serve(loaded.context, loaded.names)

            await changed(entrance.loaded)
            entrance.changed = changed
            watching.append(asyncio.create_task(entrance.watch(), name="entrance"))
        watching.append(asyncio.create_task(listeners.watch(), name="connections"))
        yield listeners.ports
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        listeners.close()
        await runner.cleanup()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line says of serving."""

    addresses: Sequence[Address]
    telemetry_path: str = "/metrics"
    external_url: str | None = None
    lifecycle: bool = False
    """Whether `POST /-/reload` is allowed."""
    web_config: str | None = None
    """The file that says who may connect and how."""
    systemd_socket: bool = False
    """Whether to listen on sockets that systemd hands over, instead of the addresses."""

    def __post_init__(self) -> None:
        """Refuse, as ConfigError, a path that is none or somebody else's, and a URL that is none."""
        path = self.telemetry_path
        taken = ("/probe", "/sd", *PAGES)
        if not path.startswith("/") or path.startswith(("/-/", "/assets/")) or path in taken or {*"{}"} & {*path}:
            raise ConfigError(f"--web.telemetry-path: expected a path of its own such as /metrics, not {path!r}")
        if self.external_url is not None:
            try:
                parts = URL(self.external_url)
                usable = parts.scheme in ("http", "https") and bool(parts.host) and parts.port is not None
            except ValueError:
                usable = False
            if not usable or parts.user or parts.password or parts.query_string or parts.fragment:
                # Never the URL itself: it may hold a password.
                raise ConfigError(
                    "--web.external-url: expected a URL such as https://host/path, without user, query or fragment"
                )


def settle_interpreter() -> None:
    """Have the event loop held up for short times only.

    The garbage collector holds up everything while it goes through the rows of all projects, which are in no cycle.
    With Python's own thresholds that was most of the time that 100,000 deployments held up the event loop, and a third
    of their CPU. So it looks at old objects hardly ever, and at no more than 100,000 new ones in one pass, because a
    pass over a million takes 50 ms. And a worker thread that counts or renders a lot hands the interpreter over soon.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    sys.setswitchinterval(SWITCH_INTERVAL)


async def serve(load: Callable[[], Config], settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    ConfigError where a configuration or a cloud's entry can't be used or an address can't be had.
    """
    settle_interpreter()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    notifier = Notifier()
    entrance = AuthMiddleware(settings.web_config) if settings.web_config else None
    fleet = Collector(load())
    sockets = activated() if settings.systemd_socket else []
    tasks: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        notifier.reloading()
        try:
            await fleet.reload(load)
        finally:  # neither file waits for the other to be right
            try:
                if entrance is not None:
                    await entrance.look()
            finally:
                notifier.reloaded()

    async def hang_up() -> None:
        with suppress(ConfigError):  # it was logged, and the metrics show it
            await reload()

    def hung_up() -> None:
        task = asyncio.create_task(hang_up(), name="reload")
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, hung_up)
    server = Server(
        fleet,
        telemetry_path=settings.telemetry_path,
        external_url=settings.external_url,
        reload=reload if settings.lifecycle else None,
    )
    addresses = () if settings.systemd_socket else settings.addresses
    async with listening(server, addresses, sockets=sockets, entrance=entrance) as ports:
        tls = entrance is not None and entrance.loaded.context is not None
        log.info(
            "listening", ports=",".join(map(str, ports)), path=settings.telemetry_path, tls=tls, version=__version__
        )
        notifier.ready()
        alive = asyncio.create_task(notifier.alive(), name="watchdog")
        refreshing = asyncio.create_task(_refresh(fleet), name="fleet")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait((refreshing, stopped), return_when=asyncio.FIRST_COMPLETED)
        server.stopping()
        notifier.stopping()
        stopped.cancel()
        if refreshing.done():
            refreshing.result()  # it never ends by itself but by an error
        log.info("stopping")
        refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await refreshing
        alive.cancel()


async def _refresh(fleet: Collector) -> None:
    async with fleet.opened():
        await fleet.run()
