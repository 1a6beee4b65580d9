"""Basic authentication against bcrypt hashes, beside the event loop, so that no password holds up anybody's scrape.

What was found out is remembered, right and wrong answers apart: a flood of wrong passwords pushes out no right one, so
whoever has been let in before is let in at once. Guesses take their turns by where they come from.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import bcrypt

from exporter.common.errors import BusyError
from exporter.common.threads import run_blocking

AT_ONCE: Final = 2
"""How many passwords are hashed at the same time."""
LINE: Final = 16
"""How many passwords from one place may wait for that."""
PLACES: Final = 256
"""From how many places."""
REMEMBERED: Final = 1024
"""How many answers of each kind are kept."""
_LONGEST: Final = 72  # what bcrypt looks at; Go's ignores the rest, Python's refuses it


def credentials(header: str | None) -> tuple[bytes, bytes] | None:
    """User and password of an Authorization header; None where it is none of `Basic`, or malformed."""
    if header is None or header[:6].lower() != "basic ":
        return None
    try:
        user, colon, password = base64.b64decode(header[6:].encode("ascii"), validate=True).partition(b":")
    except (ValueError, binascii.Error):
        return None
    return (user, password) if colon else None


@dataclass(slots=True)
class _Line:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0


class Turns:
    """Who may hash a password next: one at a time of each place, in the order in which they came."""

    def __init__(self, *, at_once: int = AT_ONCE, line: int = LINE, places: int = PLACES) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._longest = line
        self._most = places
        self._lines: dict[str, _Line] = {}

    @asynccontextmanager
    async def turn(self, place: str) -> AsyncIterator[None]:
        """With a turn, once it has come; BusyError where too many wait already."""
        line = self._lines.get(place)
        if line is None:
            if len(self._lines) >= self._most:
                raise BusyError("too many passwords to check, from too many places")
            line = self._lines[place] = _Line()
        if line.length >= self._longest:
            raise BusyError("too many passwords to check from there")
        line.length += 1
        try:
            async with line.turn, self._free:
                yield
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[place]


class Users:
    """The users of one web configuration, and what was found out about their passwords."""

    def __init__(self, hashes: Mapping[str, str], turns: Turns) -> None:
        self._hashes = {user.encode(): text.encode() for user, text in hashes.items()}
        self._any = tuple(self._hashes.values())
        self._turns = turns
        # Answers are kept by this, so that neither passwords nor anything to try them on is in memory.
        self._secret = os.urandom(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[bool]] = {}

    async def admits(self, header: str | None, *, address: str | None) -> bool:
        """Whether this Authorization header is a user's; BusyError where that can't be found out now."""
        given = credentials(header)
        if given is None:
            return False
        key = self._digest(*given)
        for answers, admitted in ((self._right, True), (self._wrong, False)):
            if key in answers:
                answers.move_to_end(key)
                return admitted
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._find_out(key, *given, place(address)), name="password")
            self._running[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        await asyncio.wait((task,))  # who goes away meanwhile leaves it alone, for others may wait too
        return task.result()

    async def _find_out(self, key: bytes, user: bytes, password: bytes, place: str) -> bool:
        known = self._hashes.get(user)
        # For an unknown user some known one's hash is computed: that takes as long, whatever costs there are.
        hashed = known or self._any[int.from_bytes(self._digest(user, b"")[:8], "big") % len(self._any)]
        async with self._turns.turn(place):
            matches = await run_blocking(lambda: _matches(password, hashed), name="password")
        admitted = matches and known is not None
        answers = self._right if admitted else self._wrong
        answers[key] = None
        if len(answers) > REMEMBERED:
            answers.popitem(last=False)
        return admitted

    def _ended(self, key: bytes, task: asyncio.Task[bool]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # whoever waited has been told; perhaps nobody did

    def _digest(self, user: bytes, password: bytes) -> bytes:
        return hmac.digest(self._secret, len(user).to_bytes(4, "big") + user + password, hashlib.sha256)


def _matches(password: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:_LONGEST], hashed)
    except ValueError:
        return False


def place(address: str | None) -> str:
    """Where somebody is, as far as addresses tell: a network of IPv6 is one place."""
    try:
        found = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "here"
    return str(found) if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))
