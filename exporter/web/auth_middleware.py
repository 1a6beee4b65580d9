"""Who gets in: what the web configuration file asks of every request, and looking after that file.

The file and what it names are read again once a second, beside the event loop. What can be gone by is gone by from then
on; what can't is told once, and what was in force stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from exporter.common.errors import BusyError, ConfigError
from exporter.common.threads import run_blocking
from exporter.web.basic_auth import Turns, Users
from exporter.web.web_config import Files, Loaded, RateLimit

LOOK_SECONDS: Final = 1.0
SETTLING_SECONDS: Final = 0.1
"""How long a changed file has to stay the same, for it may still be being written."""
ATTEMPTS: Final = 10
"""How often a file that keeps changing is read before the caller gets an error."""

log = structlog.get_logger("web")


class Bucket:
    """A token bucket: one request per interval, and so many more at once."""

    def __init__(self, limit: RateLimit, now: Callable[[], float]) -> None:
        self._interval = limit.interval
        self._burst = limit.burst
        self._now = now
        self._tokens = float(limit.burst)
        self._at = now()

    def take(self) -> bool:
        """Whether a request may come now."""
        if not self._interval:
            return True
        now = self._now()
        self._tokens = min(float(self._burst), self._tokens + (now - self._at) / self._interval)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class AuthMiddleware:
    """The web configuration file in force; `middleware` does what it says to each request."""

    def __init__(self, path: str | Path, *, now: Callable[[], float] | None = None) -> None:
        """Reads the file; ConfigError where it can't be gone by."""
        self._path = Path(path)
        self._now = now or asyncio.get_running_loop().time
        self._turns = Turns()
        self._looking = asyncio.Lock()
        self._refused: str | None = None
        found = Files.read(self._path)
        self._seen: Files | None = found
        """The files that were last used or refused; None after a look at files that kept changing."""
        self._use(found.loaded())
        self.changed: Callable[[Loaded], Awaitable[None]] | None = None
        """What is told of how TLS is spoken from now on."""

    def _use(self, loaded: Loaded) -> None:
        config = loaded.config
        hashes = {user: secret.get_secret_value() for user, secret in config.basic_auth_users.items()}
        # With a new configuration nothing is remembered of the old one.
        self._users = Users(hashes, self._turns) if hashes else None
        self._bucket = Bucket(config.rate_limit, self._now)
        # A header without a value is left as it is.
        self._headers = {name: value for name, value in config.http_server_config.headers.items() if value}
        self.loaded = loaded
        for note in loaded.notes:
            log.warning("web configuration", file=str(self._path), note=note)

    async def watch(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except ConfigError:
                pass  # it was logged
            except Exception:
                log.exception("internal error", path=str(self._path))

    async def look(self) -> None:
        """Use what the files say now; ConfigError if that is not what is in use afterwards."""
        for _ in range(ATTEMPTS):
            found = await self._read()
            if found != self._seen:
                await asyncio.sleep(SETTLING_SECONDS)
            # Held for one read only: a file that keeps changing keeps nobody else waiting.
            async with self._looking:
                if found == await self._read():
                    await self._settle(found)
                    return
        if self._seen is not None:
            log.warning("web configuration keeps changing; keeping the previous one", file=str(self._path))
        self._seen = None
        raise ConfigError(f"{self._path}: keeps changing: expected a file that stays the same while it is read")

    async def _read(self) -> Files:
        return await run_blocking(lambda: Files.read(self._path), name="web configuration")

    async def _settle(self, found: Files) -> None:
        if found != self._seen:
            self._seen = found
            try:
                await self._take(found)
            except ConfigError as error:
                log.warning("web configuration refused, the one before stays in force", error=str(error))
                self._refused = str(error)
                raise
            self._refused = None
            log.info("web configuration read", file=str(self._path), tls=self.loaded.context is not None)
        elif self._refused:
            raise ConfigError(self._refused)

    async def _take(self, found: Files) -> None:
        if found.empty:
            # Cut off, or about to be written; to open every door for that would be rash.
            raise ConfigError(f"{self._path}: is empty: expected keys, or {{}} for none")
        loaded = await run_blocking(found.loaded, name="web configuration")
        if self.changed is not None and (loaded.context or self.loaded.context):
            await self.changed(loaded)
        self._use(loaded)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request in, or answer it 401, 429 or 503; with the headers that are asked for."""
        headers = self._headers
        try:
            answer = await self._refusal(request) or await handler(request)
        except web.HTTPException as error:
            error.headers.update(headers)
            raise
        answer.headers.update(headers)
        return answer

    async def _refusal(self, request: web.Request) -> web.Response | None:
        if not self._bucket.take():
            return _refused(429, "Too Many Requests")
        if (users := self._users) is None:
            return None
        try:
            admitted = await users.admits(request.headers.get("Authorization"), address=request.remote)
        except BusyError:
            return _refused(503, "Service Unavailable", **{"Retry-After": "1"})
        return None if admitted else _refused(401, "Unauthorized", **{"WWW-Authenticate": "Basic"})


def _refused(status: int, text: str, **headers: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers={**headers, "X-Content-Type-Options": "nosniff"})
