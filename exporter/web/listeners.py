"""Listening: sockets that stay the same while how they are served changes, and connections that can't be hoarded.

Whoever connects has to ask something soon, to take what was answered, and to come back now and then. There is room for
so many connections; past it the one that has been idle for longest makes way.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from exporter.common.errors import ConfigError
from exporter.web.tls import names_of

BACKLOG: Final = 1024
SWEEP_SECONDS: Final = 1.0
_SPARE_FILES: Final = 128
"""Open files that are left for everything else than those who connect."""
_MOST_FILES: Final = 65536


class Address(NamedTuple):
    """Where to listen; no host means every interface."""

    host: str | None
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What those who connect may do, in seconds and connections."""

    asking: float = 10.0
    """How long the first request may take to arrive, and before it TLS."""
    idle: float = 330.0
    """How long a connection may wait for its next request; Prometheus ends its own after five minutes."""
    stalled: float = 60.0
    """How long a reader may take nothing of its answer."""
    connections: int | None = None
    """How many there may be; None: as many as the limit on open files allows, 4096 at most."""


@dataclass(slots=True)
class _Guest:
    """What is known of one connection."""

    transport: asyncio.Transport
    since: float
    """When it last did something."""
    asked: bool = False
    busy: bool = False
    pending: int = 0
    """Bytes that wait to be taken."""
    taken_at: float = 0.0
    """When that last changed."""


class _Door(asyncio.Protocol):
    """The first protocol of a connection, until it is let in."""

    def __init__(self, listeners: Listeners, sans: Collection[str] | None) -> None:
        self._listeners = listeners
        self._sans = sans

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        certificate: Mapping[str, Any] | None = transport.get_extra_info("peercert")
        if self._sans is not None and not names_of(certificate or {}) & set(self._sans):
            cast("asyncio.Transport", transport).abort()
            return
        self._listeners.let_in(cast("asyncio.Transport", transport))


class Listeners:
    """The sockets of one application."""

    def __init__(self, runner: web.AppRunner, bounds: Bounds) -> None:
        self._runner = runner
        self._bounds = bounds
        self._room = bounds.connections or _room()
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._guests: dict[web.RequestHandler, _Guest] = {}

    @property
    def ports(self) -> list[int]:
        """The TCP ports of the sockets."""
        return [each.getsockname()[1] for each in self._sockets if each.family in (socket.AF_INET, socket.AF_INET6)]

    async def bind(self, addresses: Sequence[Address]) -> None:
        """Have sockets for these addresses; ConfigError where one can't be had."""
        loop = asyncio.get_running_loop()
        for host, port in addresses:
            try:
                server = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
            except (OSError, UnicodeError) as error:
                said = getattr(error, "strerror", None) or error
                raise ConfigError(f"can't listen on {host or ''}:{port}: {said}") from None
            self._sockets += [each.dup() for each in server.sockets]
            server.close()

    def adopt(self, sockets: Sequence[socket.socket]) -> None:
        """Have these sockets, which somebody else has bound."""
        for each in sockets:
            each.setblocking(False)
        self._sockets += sockets

    async def serve(self, context: ssl.SSLContext | None, sans: Collection[str] | None = None) -> None:
        """Serve what comes from now on with this context, or without TLS; connections that are there stay as they are.

        With `sans`, clients need a certificate that has one of these names. No connection is refused meanwhile: each
        socket is listened on twice for a moment, never not at all.
        """
        loop = asyncio.get_running_loop()
        servers: list[asyncio.Server] = []
        handshake = self._bounds.asking if context else None
        try:
            for each in self._sockets:
                servers.append(  # noqa: PERF401 - those before one that fails have to be closed
                    await loop.create_server(
                        lambda: _Door(self, sans if context else None),
                        sock=each.dup(),
                        ssl=context,
                        backlog=BACKLOG,
                        ssl_handshake_timeout=handshake,
                    )
                )
        except OSError as error:
            for server in servers:
                server.close()
            raise ConfigError(f"can't listen: {error.strerror or error}") from None
        former, self._servers = self._servers, servers
        for server in former:
            for each in server.sockets:
                loop.remove_reader(each)
        try:
            # A server that is closed leaves those whom it has just accepted without an answer: they have their turn.
            await asyncio.sleep(0)
        finally:
            for server in former:
                server.close()

    def close(self) -> None:
        """Listen no more."""
        for server in self._servers:
            server.close()
        for each in self._sockets:
            each.close()

    def let_in(self, transport: asyncio.Transport) -> None:
        """Give a new connection to the application; where there is no room, at the cost of one that is idle."""
        server = self._runner.server
        if server is None or not self._made_room(server):
            transport.abort()
            return
        handler = server()
        now = asyncio.get_running_loop().time()
        self._guests[handler] = _Guest(transport, now, taken_at=now)
        transport.set_protocol(handler)
        handler.connection_made(transport)

    def _made_room(self, server: web.Server) -> bool:
        if len(self._guests) < self._room:
            return True
        self._forget(server)
        if len(self._guests) < self._room:
            return True
        idle = [guest for guest in self._guests.values() if not guest.busy and not guest.transport.is_closing()]
        idle = [guest for guest in idle if not guest.transport.get_write_buffer_size()]
        if not idle:
            return False
        min(idle, key=lambda guest: (guest.asked, guest.since)).transport.abort()
        return True

    def _forget(self, server: web.Server) -> None:
        there = set(server.connections)
        for handler in self._guests.keys() - there:
            del self._guests[handler]

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note that a connection is being used."""
        guest = self._guests.get(request.protocol)
        if guest is None:
            return await handler(request)
        guest.asked = guest.busy = True
        try:
            return await handler(request)
        finally:
            guest.busy = False
            guest.since = asyncio.get_running_loop().time()

    async def watch(self) -> None:
        """End, until cancelled, connections that are held on to."""
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self._bounds.asking / 2, self._bounds.stalled / 2))
            self._sweep(asyncio.get_running_loop().time())

    def _sweep(self, now: float) -> None:
        if self._runner.server is not None:
            self._forget(self._runner.server)
        bounds = self._bounds
        for guest in list(self._guests.values()):
            pending = guest.transport.get_write_buffer_size()
            if pending != guest.pending or not pending:
                guest.pending, guest.taken_at = pending, now
            waited = now - guest.since
            unused = not guest.busy and not pending and waited > (bounds.idle if guest.asked else bounds.asking)
            # One that is closed politely still has to take what was sent.
            if unused or now - guest.taken_at > bounds.stalled:
                guest.transport.abort()


def requests_logger() -> logging.Logger:
    """Where aiohttp tells of its own mistakes, but not of those of whoever sends requests: these are told to them."""
    logger = logging.getLogger("aiohttp.server")
    if not any(isinstance(each, _Ours) for each in logger.filters):
        logger.addFilter(_Ours())
    return logger


class _Ours(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is not of a request that can't be read."""
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _room() -> int:
    """How many connections there may be, with as many open files as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft not in (-1, resource.RLIM_INFINITY) and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(16, min(4096, (soft if soft > 0 else _MOST_FILES) // 2 - _SPARE_FILES))
