"""systemd's side of a service, without its library: sockets that are handed over, and telling how it goes."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

from exporter.common.errors import ConfigError

FIRST: Final = 3
"""The descriptor with which those that are handed over begin."""


def activated(environment: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening sockets that were handed to this process; ConfigError where there are none.

    The environment forgets them, so that nobody else takes them for theirs.
    """
    process, number = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if process != str(os.getpid()) or not number.isdecimal() or int(number) < 1:
        raise ConfigError("--web.systemd-socket: expected sockets from systemd (LISTEN_FDS and LISTEN_PID)")
    sockets: list[socket.socket] = []
    for descriptor in range(FIRST, FIRST + int(number)):
        if not _listens(descriptor):
            for each in sockets:
                each.close()
            raise ConfigError(f"--web.systemd-socket: expected descriptor {descriptor} to be a listening stream socket")
        os.set_inheritable(descriptor, False)
        sockets.append(socket.socket(fileno=descriptor))
    return sockets


def _listens(descriptor: int) -> bool:
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:
        return False
    with found:
        try:
            return found.type == socket.SOCK_STREAM and bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        except OSError:
            return False
        finally:
            found.detach()  # it is looked at, not closed


class Notifier:
    """Tells the service manager where NOTIFY_SOCKET says; without it, nobody."""

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        usec, process = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        mine = process in ("", str(os.getpid()))
        self._alive_every = int(usec) / 2e6 if usec.isdecimal() and int(usec) and mine else None
        """Half of the time after which we would be taken for dead, in seconds."""
        self._ready = False

    def tell(self, **variables: str | int) -> None:
        """Send these, such as READY=1. A manager that does not listen is none of our worries."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in variables.items())
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode(), self._address)

    def ready(self) -> None:
        """It listens."""
        self._ready = True
        self.tell(READY=1)

    def reloading(self) -> None:
        """Configuration is being read again; nothing is said of that before it listens."""
        if self._ready:
            self.tell(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)

    def reloaded(self) -> None:
        """That is done, whatever came of it."""
        if self._ready:
            self.tell(READY=1)

    def stopping(self) -> None:
        """It ends."""
        self.tell(STOPPING=1)

    async def alive(self) -> None:
        """Tell the watchdog, for as long as the event loop runs, that it does; until cancelled."""
        while self._alive_every is not None:
            self.tell(WATCHDOG=1)
            await asyncio.sleep(self._alive_every)
