"""A real headless Chromium, driven through Playwright.

It lives in a thread with an event loop of its own, so that a test's loop is free to serve what it looks at, and one
browser does for many tests.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Page, Playwright, Request, async_playwright, expect

from tests.programs.available import PROGRAMS

T = TypeVar("T")

ARGUMENTS = (
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-sync",
)
PATIENCE = 20_000
"""Milliseconds after which something that does not happen has failed."""


@dataclass
class Visit:
    """A page of the browser, and what it did behind the test's back."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Errors and warnings of the console (violations of the Content-Security-Policy among them) and of scripts."""
    requests: list[str] = field(default_factory=list)

    @property
    def hosts(self) -> set[str]:
        """Whom it asked for anything."""
        return {urlsplit(each).netloc for each in self.requests}

    async def listen(self) -> None:
        """Note from now on what happens."""
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _request(self, request: Request) -> None:
        self.requests.append(request.url)


class Chromium:
    """A browser, from entering the context until leaving it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chromium", daemon=True)
        self._playwright: Playwright
        self._browser: Browser

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._launch(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _launch(self) -> None:
        expect.set_options(timeout=PATIENCE)
        self._playwright = await async_playwright().start()
        self._browser = await self._playwright.chromium.launch(
            executable_path=PROGRAMS["chromium"].files[0], args=list(ARGUMENTS)
        )

    async def _close(self) -> None:
        await self._browser.close()
        await self._playwright.stop()

    async def __call__(self, work: Awaitable[T]) -> T:
        """What some work with the browser comes to; it is done in the browser's thread."""

        async def done() -> T:
            return await work

        step: Coroutine[Any, Any, T] = done()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(step, self._loop))

    @asynccontextmanager
    async def visit(self, **options: Any) -> AsyncIterator[Visit]:
        """A page of a fresh profile, empty as yet; the options are those of Playwright's `new_context`."""
        context = await self(self._browser.new_context(**options))
        try:
            context.set_default_timeout(PATIENCE)
            result = Visit(await self(context.new_page()))
            await self(result.listen())  # in the browser's thread: it is told what to report
            yield result
        finally:
            await self(context.close())
