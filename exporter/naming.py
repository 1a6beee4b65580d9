"""Finding out what a project's configs and servers are called, rarely and in nobody's way.

Configs come from Heat's `GET …/software_configs`, newest first, so that one page of it usually names what is new;
servers from the compute service's `GET …/servers`. A cloud is asked by one project at a time, and with a pause after
each page, so that it is kept busy for no more than `refresh.share` of the time and gets most of its
`limits.requests_per_second` for refreshes. Where a cloud does not let us, names are left out, and it is asked again
much later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

import msgspec
import structlog

from exporter.access import CloudAccess, Token
from exporter.errors import Api, DecodeError, RefreshError
from exporter.fetch import Request, fetch
from exporter.names import UNKNOWN, Names
from exporter.snapshot import ConfigName
from exporter.stopwatch import Stopwatch

log = structlog.get_logger("naming")

PAGE_ITEMS: Final = 1000
PAGE_BYTES: Final = 16 * 1024 * 1024
# A project is asked again for what is new only after so many of its refresh intervals.
INTERVALS: Final = 5
# Servers may be renamed.
RENEWAL: Final = 3600.0
# Where the cloud does not let us or has no such service; and where something else went wrong.
DENIED: Final = 3600.0
FAILED: Final = 600.0
# What counts as not being let.
_DENIALS: Final = frozenset({"auth", "forbidden", "not_found", "catalog", "client_error"})
# Beside what is listed so many names may be kept of what no longer is.
SPARE: Final = 1000

N = TypeVar("N")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How a cloud is asked."""

    access: CloudAccess
    silence: float
    timeout: float
    """Of one page, in seconds."""
    pause: Callable[[float], float]
    """How long to wait after a page that took so many seconds."""
    one_at_a_time: asyncio.Lock
    told: set[Api]
    """Whose failures are in the log already."""


@dataclass(slots=True)
class _Book(Generic[N]):
    """The names of one kind of thing, and when to ask for more of them."""

    api: Api
    collection: str
    unknown: N
    """What stands for the name of a thing that the cloud does not list."""
    read: Callable[[Mapping[str, Any]], N]
    names: Mapping[str, N] = field(default_factory=dict)
    not_before: float = 0.0
    """By the steady clock."""
    closed: bool = False
    """Whether the cloud did not let us when it was last asked."""
    renew_at: float = float("inf")

    def due(self, wanted: AbstractSet[str], size: int, now: float) -> bool:
        """Whether it is time to ask for these, or for all of them anew."""
        return now >= self.not_before and (not wanted <= self.names.keys() or self._whole(size, now))

    def _whole(self, size: int, now: float) -> bool:
        return now >= self.renew_at or len(self.names) > 2 * size + SPARE

    async def ask(self, manners: Manners, token: Token, wanted: AbstractSet[str], size: int, now: float) -> None:
        """Look the wanted ones up; RefreshError where the cloud fails, and what was found until then is kept."""
        whole = self._whole(size, now)
        missing = set(wanted) if whole else set(wanted - self.names.keys())
        found: dict[str, N] = {}
        complete = False
        try:
            async with aclosing(self._pages(manners, token)) as pages:
                async for page in pages:
                    if not page:
                        complete = True
                        break
                    # A marker that was deleted meanwhile makes Heat begin again at the front.
                    if page.keys() <= found.keys():
                        break
                    found |= page
                    missing -= page.keys()
                    if not missing and not whole:
                        break
        finally:
            if complete:
                found |= dict.fromkeys(missing, self.unknown)
            self.names = found if complete and whole else {**self.names, **found}
        if complete and self.api == "compute":
            self.renew_at = now + RENEWAL

    async def _pages(self, manners: Manners, token: Token) -> AsyncGenerator[dict[str, N], None]:
        base = f"{manners.access.endpoint(token, self.api)}/{self.collection}?limit={PAGE_ITEMS}"
        marker = ""
        while True:
            stopwatch = Stopwatch(manners.timeout)
            async with stopwatch:
                await manners.access.admitted(stopwatch)
                page = self._decode(await self._body(manners, token, f"{base}{marker}"))
            yield page
            if not page:
                return
            marker = f"&marker={quote(next(reversed(page)), safe='')}"
            await asyncio.sleep(manners.pause(stopwatch.elapsed()))

    async def _body(self, manners: Manners, token: Token, url: str) -> bytes:
        request = Request(
            api=self.api,
            what=f"list of {self.collection}",
            url=url,
            token=token.value,
            limit=PAGE_BYTES,
            limit_key="a page may be",
            silence=manners.silence,
        )
        body = bytearray()
        async with aclosing(fetch(manners.access, request)) as parts:
            async for part in parts:
                body += part
        return bytes(body)

    def _decode(self, body: bytes) -> dict[str, N]:
        try:
            items = msgspec.json.decode(body)[self.collection]
            return {item["id"]: self.read(item) for item in items if isinstance(item["id"], str)}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError) as error:
            raise DecodeError(f"the list of {self.collection} is not as documented: {error}", api=self.api) from None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


class Naming:
    """The names of one project: what is known of them, and asking for more."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._configs: _Book[ConfigName] = _Book(
            "orchestration",
            "software_configs",
            UNKNOWN,
            lambda item: ConfigName(_text(item.get("name")), _text(item.get("group"))),
        )
        self._servers: _Book[str] = _Book("compute", "servers", "", lambda item: _text(item.get("name")))

    @property
    def names(self) -> Names:
        """What is known at this moment."""
        asking = not self._configs.closed or self._clock() >= self._configs.not_before
        return Names(self._configs.names, self._servers.names, asking)

    def reopen(self) -> None:
        """What the cloud said so far holds no longer: it may be asked at once."""
        for book in (self._configs, self._servers):
            book.not_before, book.closed = 0.0, False

    def due(self, configs: AbstractSet[str], servers: AbstractSet[str], *, size: int) -> bool:
        """Whether it is time to ask for these; `size` is how many deployments the project has."""
        now = self._clock()
        return self._configs.due(configs, size, now) or self._servers.due(servers, size, now)

    async def ask(
        self,
        manners: Manners,
        project_id: str,
        *,
        configs: AbstractSet[str],
        servers: AbstractSet[str],
        size: int,
        interval: float,
    ) -> None:
        """Ask for what is due of these. Never raises for what a cloud does: it then goes without."""
        async with manners.one_at_a_time:
            await self._ask(manners, project_id, self._configs, configs, size, interval)
            await self._ask(manners, project_id, self._servers, servers, size, interval)

    async def _ask(
        self, manners: Manners, project_id: str, book: _Book[Any], wanted: AbstractSet[str], size: int, interval: float
    ) -> None:
        now = self._clock()
        if not book.due(wanted, size, now):
            return
        wait = INTERVALS * interval
        try:
            async with manners.access.in_use(), Stopwatch(manners.timeout) as stopwatch:
                token = await manners.access.token(project_id, stopwatch=stopwatch)
            async with manners.access.in_use():
                await book.ask(manners, token, wanted, size, now)
        except (RefreshError, TimeoutError) as error:
            reason = error.reason if isinstance(error, RefreshError) else "timeout"
            book.closed = reason in _DENIALS
            wait = max(wait, DENIED if book.closed else FAILED)
            if book.api not in manners.told:
                manners.told.add(book.api)
                log.info("no names", cloud=manners.access.name, what=book.collection, reason=reason, error=str(error))
        else:
            book.closed = False
            manners.told.discard(book.api)
        finally:
            book.not_before = self._clock() + wait
