"""Finding out what a project's configs and servers are called, rarely and in nobody's way.

Configs come from Heat's `GET …/software_configs`, newest first, so that one page of it usually names what is new;
servers from the compute service's `GET …/servers`. A cloud is asked by one project at a time, and after each page it is
left alone, so that it is kept busy for no more than `refresh.share` of the time and has most of its
`limits.requests_per_second` for refreshes. Names are no reason to authenticate: they are asked for with the token that
the refreshes have. Where a cloud does not let us, names are left out, and it is asked again much later; where it fails,
no project asks it for a while. Only names of what is listed are kept.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

import msgspec
import structlog

from exporter.common.deadline import Deadline
from exporter.common.errors import Api, DeadlineError, DecodeError, RefreshError
from exporter.common.threads import run_beside
from exporter.config.units import format_duration
from exporter.deployments.names import UNKNOWN, Names, NameTable
from exporter.deployments.records import TEXT_LIMIT
from exporter.deployments.snapshot import ConfigName
from exporter.openstack.project_request import Request, fetch
from exporter.openstack.session import CloudSession, Token

log = structlog.get_logger("naming")

PAGE_ITEMS: Final = 1000
PAGE_BYTES: Final = 4 * 1024 * 1024
# A project is asked again for what is new only after so many of its refresh intervals.
INTERVALS: Final = 5
# Servers may be renamed, and what nobody knew may have been a mistake.
RENEWAL: Final = 3600.0
# Where the cloud does not let us, or has no such service; and where something else went wrong.
DENIED: Final = 3600.0
FAILED: Final = 600.0
# However slow a cloud, and however long its list, a look-up ends after this time or so many pages.
LONGEST: Final = 600.0
PAGES: Final = 1000
# What counts as not being let, and what is the whole cloud's trouble rather than the project's.
_DENIALS: Final = frozenset({"auth", "forbidden", "not_found", "catalog"})
_OUTAGES: Final = frozenset({"timeout", "connect", "dns", "tls", "server_error", "rate_limited"})
# Beside those of what is listed, names of so many things that were are kept.
SPARE: Final = 1000
# More names are looked up in a worker thread, and larger pages of them decoded.
LARGE: Final = 2000
LARGE_PAGE: Final = 64 * 1024

N = TypeVar("N", bound=Hashable)


class NameQueue:
    """Where the projects of one cloud queue up to ask."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.owed = 0.0
        """For how long the cloud is to be left alone now."""
        self.closed_until: dict[Api, float] = {}
        """Until when nobody asks an API that has failed, by the steady clock."""
        self.told: set[Api] = set()
        """Whose failures are in the log already."""

    async def rest(self) -> None:
        """Leave the cloud alone for as long as is owed."""
        owed, self.owed = self.owed, 0.0
        await asyncio.sleep(owed)


@dataclass(frozen=True, slots=True, kw_only=True)
class NameSettings:
    """How a cloud is asked."""

    access: CloudSession
    silence: float
    timeout: float
    """Of one page, in seconds."""
    pause: Callable[[float], float]
    """How long to leave the cloud alone after a page that took so many seconds."""
    desk: NameQueue


class _Wanted:
    """Ids, by their hashes, whose names are wanted, and which of them were found."""

    def __init__(self, hashes: array[int]) -> None:
        """`hashes` are sorted, each once."""
        self._hashes = hashes
        self._found = bytearray(len(hashes))
        self.left = len(hashes)

    def take(self, identity: int) -> bool:
        """Whether the name of this hash is wanted; it is then found."""
        at = bisect_left(self._hashes, identity)
        if at == len(self._hashes) or self._hashes[at] != identity or self._found[at]:
            return False
        self._found[at] = 1
        self.left -= 1
        return True

    def rest(self) -> array[int]:
        """What was not found."""
        return array("q", [each for each, found in zip(self._hashes, self._found) if not found])


@dataclass(slots=True)
class _Book(Generic[N]):
    """The names of one kind of thing, and when to ask for more of them."""

    api: Api
    collection: str
    unknown: N
    """What stands for the name of a thing that the cloud does not list."""
    read: Callable[[Mapping[str, Any]], N]
    names: NameTable[N] = field(default_factory=NameTable)
    not_before: float = 0.0
    """By the steady clock."""
    closed: bool = False
    """Whether the cloud did not let us when it was last asked."""
    doubted: bool = False
    """Whether the token was refused when it was last asked: the next refresh finds out whether it was revoked."""
    renew_at: float = float("inf")

    def forget_unknown(self) -> None:
        """What nobody knew may be asked for again."""
        self.names = self.names.without(self.unknown)

    async def ask(self, manners: NameSettings, project_id: str, hashes: array[int]) -> None:
        """Look up the names of these ids; RefreshError where the cloud fails, and what was found until then is kept."""
        wanted, error = _Wanted(hashes), None
        pages_left = PAGES
        first: frozenset[str] = frozenset()
        found: array[int] = array("q")
        names: list[N] = []
        shared: dict[N, N] = {}
        complete = False
        try:
            async with asyncio.timeout(LONGEST), aclosing(self._pages(manners, project_id)) as pages:
                async for page in pages:
                    complete = not page
                    for each, name in page.items():
                        if wanted.take(hash(each)):
                            found.append(hash(each))
                            names.append(shared.setdefault(name, name))
                    # Where the marker is gone, a real Heat begins again at the front; that is not the end of the list.
                    pages_left -= 1
                    if complete or not wanted.left or not pages_left or not first.isdisjoint(page):
                        break
                    first = first or frozenset(page)
        except TimeoutError:
            pass  # the next time begins with what is new again, and knows what was found
        except RefreshError as failure:
            error = failure
        if complete:
            rest = await run_beside(len(hashes) > LARGE, wanted.rest, name="names")
            found.extend(rest)
            names += [self.unknown] * len(rest)
        await self._add(found, names)
        if error is not None:
            raise error

    async def _add(self, hashes: array[int], names: list[N]) -> None:
        """Add the names of these hashes to whatever is known by then."""
        while hashes:
            known = self.names
            more = await run_beside(
                len(known) + len(hashes) > LARGE, partial(known.with_more, hashes, names), name="names"
            )
            if self.names is known:
                self.names = more
                return

    async def _pages(self, manners: NameSettings, project_id: str) -> AsyncGenerator[dict[str, N], None]:
        marker = ""
        while (token := manners.access.held(project_id)) is not None:
            stopwatch = Deadline(manners.timeout)
            try:
                async with stopwatch:
                    page = await self._page(manners, token, stopwatch, marker)
            except TimeoutError:
                limit = format_duration(manners.timeout)
                raise DeadlineError(f"no {self.collection} within refresh.timeout ({limit})", api=self.api) from None
            finally:
                manners.desk.owed = manners.pause(stopwatch.elapsed())
            yield page
            if not page:
                return
            await manners.desk.rest()
            marker = f"&marker={quote(next(reversed(page)), safe='')}"

    async def _page(self, manners: NameSettings, token: Token, stopwatch: Deadline, marker: str) -> dict[str, N]:
        base = f"{manners.access.endpoint(token, self.api)}/{self.collection}"
        await manners.access.admitted(stopwatch)
        request = Request(
            api=self.api,
            what=f"list of {self.collection}",
            url=f"{base}?limit={PAGE_ITEMS}{marker}",
            token=token.value,
            limit=PAGE_BYTES,
            limit_key="a page may be",
            silence=manners.silence,
        )
        body = bytearray()
        async with aclosing(fetch(manners.access, request)) as parts:
            async for part in parts:
                body += part
        try:
            return await run_beside(len(body) > LARGE_PAGE, partial(self._read_page, body), name="names")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError) as error:
            raise DecodeError(f"the list of {self.collection} is not as documented: {error}", api=self.api) from None

    def _read_page(self, body: bytes | bytearray) -> dict[str, N]:
        items = msgspec.json.decode(body)[self.collection]
        return {item["id"]: self.read(item) for item in items if isinstance(item["id"], str)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= TEXT_LIMIT else ""


class NameResolver:
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
        self._opened = 0
        """How often it was opened anew: what was asked before says nothing now."""

    @property
    def names(self) -> Names:
        """What is known at this moment."""
        asking = not self._configs.closed or self._clock() >= self._configs.not_before
        return Names(self._configs.names, self._servers.names, asking)

    def reopen(self) -> None:
        """What the cloud said so far holds no longer: it may be asked at once, also for what it did not know."""
        self._opened += 1
        for book in (self._configs, self._servers):
            book.not_before, book.closed = 0.0, False
            book.forget_unknown()

    def forget(self) -> None:
        """Forget all names; those of what is listed again are asked for when that is due."""
        self._configs.names, self._servers.names = NameTable(), NameTable()

    def keep(self, kept: NameTable[ConfigName], *, of: NameTable[ConfigName]) -> None:
        """Keep only so much of a table, unless there is another one by now."""
        if self._configs.names is of:
            self._configs.names = kept

    def overgrown(self, size: int) -> bool:
        """Whether more names of configs are kept than so many deployments can need."""
        return len(self._configs.names) > 2 * size + SPARE

    async def ask(
        self,
        manners: Callable[[], NameSettings | None],
        project_id: str,
        *,
        configs: Sequence[array[int]],
        servers: Sequence[array[int]],
        interval: float,
        at_once: bool = False,
    ) -> None:
        """Ask for what is due of these hashes of ids: configs whose names may not be known, and all servers with rows.

        `manners` gives what is in force when its turn comes, which `at_once` nobody waits for. Never raises for what a
        cloud does: it then goes without.
        """
        if self._clock() >= self._configs.renew_at:
            # The next listing is counted by the ids of these again, so they will be asked for.
            self._configs.forget_unknown()
            self._configs.renew_at = float("inf")
        large = sum(map(len, (*configs, *servers))) > LARGE
        if (queue := manners()) is None:
            return
        if not await run_beside(large, partial(self.due, queue, configs, servers), name="names"):
            return
        async with nullcontext() if at_once else queue.desk.turn:
            for book, wanted in ((self._configs, configs), (self._servers, servers)):
                if (current := manners()) is not None:
                    await self._ask(current, project_id, book, wanted, interval)
                    await current.desk.rest()

    def open(self, manners: NameSettings) -> bool:
        """Whether anything may be asked now, whatever it is: to be known before working out what would be."""
        return any(self._open(manners, book) for book in (self._configs, self._servers))

    def _open(self, manners: NameSettings, book: _Book[Any]) -> bool:
        return self._clock() >= max(book.not_before, manners.desk.closed_until.get(book.api, 0.0))

    def due(self, manners: NameSettings, configs: Sequence[array[int]], servers: Sequence[array[int]]) -> bool:
        """Whether it is time to ask for any of these."""
        return bool(self._wanted(manners, self._configs, configs) or self._wanted(manners, self._servers, servers))

    def _wanted(self, manners: NameSettings, book: _Book[Any], among: Sequence[array[int]]) -> array[int]:
        """What it is time to ask for among these."""
        if not self._open(manners, book):
            return array("q")
        renewing = book is self._servers and self._clock() >= book.renew_at
        known: NameTable[Any] = NameTable() if renewing else book.names
        return known.missing(among)

    async def _ask(
        self, manners: NameSettings, project_id: str, book: _Book[Any], among: Sequence[array[int]], interval: float
    ) -> None:
        large = sum(map(len, among)) > LARGE
        wanted = await run_beside(large, partial(self._wanted, manners, book, among), name="names")
        if not wanted or manners.access.held(project_id) is None:
            return
        desk, opened, wait, closed = manners.desk, self._opened, INTERVALS * interval, False
        try:
            async with manners.access.in_use():
                await book.ask(manners, project_id, wanted)
            book.renew_at, book.doubted = self._clock() + RENEWAL, False
            if book is self._servers:
                known = book.names
                kept = await run_beside(large, partial(known.only, among), name="names")
                book.names = kept if book.names is known else book.names
        except RefreshError as error:
            if error.reason == "auth" and not book.doubted:
                book.doubted, wait = True, 0.0
                return
            closed = error.reason in _DENIALS
            wait = max(wait, DENIED if closed else FAILED)
            if error.reason in _OUTAGES and opened == self._opened:
                desk.closed_until[book.api] = self._clock() + max(FAILED, error.retry_after)
            if book.api not in desk.told:
                desk.told.add(book.api)
                name = manners.access.name
                log.info("no names", cloud=name, what=book.collection, reason=error.reason, error=str(error))
        finally:
            if opened == self._opened:
                book.not_before, book.closed = self._clock() + wait, closed
