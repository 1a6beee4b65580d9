"""Running the exporter: listening, refreshing, and ending within seconds when told to."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

import structlog
from aiohttp import web

from exporter import __version__
from exporter.config import Config
from exporter.errors import ConfigError
from exporter.fleet import Fleet
from exporter.web import Server

SHUTDOWN_SECONDS: Final = 2.0

log = structlog.get_logger("serve")


class Address(NamedTuple):
    """Where to listen; no host means every interface."""

    host: str | None
    port: int


_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")


def parse_address(text: str) -> Address:
    """An address from `:19180`, `host:19180` or `[::1]:19180`; ConfigError otherwise."""
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(f"--web.listen-address: expected host:port, [address]:port or :port, not {text!r}")
    return Address(match["v6"] or match["host"] or None, int(match["port"]))


@asynccontextmanager
async def listening(server: Server, addresses: Sequence[Address]) -> AsyncIterator[list[int]]:
    """With the application served on these addresses; gives the ports. ConfigError where one can't be had."""
    runner = web.AppRunner(server.app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        ports: list[int] = []
        for host, port in addresses:
            site = web.TCPSite(runner, host, port)
            try:
                await site.start()
            except OSError as error:
                raise ConfigError(f"can't listen on {host or ''}:{port}: {error.strerror or error}") from None
            ports = [name[1] for name in runner.addresses]
        yield ports
    finally:
        await runner.cleanup()


async def serve(config: Config, *, addresses: Sequence[Address], telemetry_path: str) -> None:
    """Serve until SIGTERM or SIGINT. ConfigError where a cloud's entry can't be used or an address can't be had."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    fleet = Fleet(config)
    server = Server(fleet, telemetry_path=telemetry_path)
    async with listening(server, addresses) as ports:
        log.info("listening", ports=",".join(map(str, ports)), path=telemetry_path, version=__version__)
        refreshing = asyncio.create_task(_refresh(fleet), name="fleet")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait((refreshing, stopped), return_when=asyncio.FIRST_COMPLETED)
        server.stopping()
        stopped.cancel()
        if refreshing.done():
            refreshing.result()  # it never ends by itself but by an error
        log.info("stopping")
        refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await refreshing


async def _refresh(fleet: Fleet) -> None:
    async with fleet.opened():
        await fleet.run()
