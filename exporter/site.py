"""The pages for people over HTTP: the landing page and its news, a project's page, the configuration, and the assets.

Long pages are put together in steps, between which the event loop is free.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

import msgspec
from aiohttp import web
from isal import isal_zlib

from exporter import effective, pages
from exporter.assets import ASSETS
from exporter.board import STEP, Board
from exporter.errors import ProjectQueryError
from exporter.fleet import Fleet
from exporter.lookup import sought
from exporter.negotiation import accepts_gzip
from exporter.threads import run_blocking
from exporter.view import View

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PAGE_HEADERS: Final = {**SECURITY_HEADERS, "Cache-Control": "no-store"}
PATHS: Final = ("/project", "/config", "/updates")
"""What is served here besides `/`; the telemetry path is none of them."""


class Site:
    """The pages of one fleet."""

    def __init__(self, fleet: Fleet, *, telemetry_path: str) -> None:
        self._fleet = fleet
        self._board = Board(fleet)
        self._metrics = f".{telemetry_path}"
        self._home = telemetry_path != "/"

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Serve the pages; the landing page only where the metrics are not in its place."""
        if self._home:
            router.add_get("/", self._landing)
            router.add_get("/updates", self._updates)
        router.add_get("/project", self._project)
        router.add_get("/config", self._config)
        router.add_get("/assets/{name}", self._asset)

    def _now(self) -> float:
        return self._fleet.clock.wall()

    async def _landing(self, request: web.Request) -> web.Response:
        board, view, now = self._board, View.of(request.query), self._now()
        await board.look()
        version, overview = board.version, board.overview
        wanted = view.order([summary for summary in board.summaries if view.shows(summary)])
        rows = [board.row(summary) for summary in wanted]
        top = pages.landing_top(overview, view, metrics=self._metrics, now=now, version=version, matching=len(rows))
        steps = ("".join(row.html(now) for row in rows[start : start + STEP]) for start in range(0, len(rows), STEP))
        return await _page(request, chain((top,), steps, (pages.LANDING_BOTTOM,)))

    async def _updates(self, request: web.Request) -> web.Response:
        await self._board.look()
        news = self._board.changes(request.query.get("since", ""), self._now())
        if news is None:
            return web.Response(status=204, headers=PAGE_HEADERS)
        return await _sent(request, [msgspec.json.encode(news)], content_type="application/json")

    async def _project(self, request: web.Request) -> web.Response:
        now = self._now()
        try:
            watch = sought(self._fleet, "/project", request.query)
        except ProjectQueryError as error:
            return await _page(request, [pages.message(str(error), now=now, home=self._home)], status=error.status)
        return await _page(request, [pages.project(watch.state, now=now, home=self._home)])

    async def _config(self, request: web.Request) -> web.Response:
        settings = {name: cloud.access.settings for name, cloud in self._fleet.clouds.items()}
        config = self._fleet.config

        def text() -> tuple[str, str]:
            return effective.configuration(config), effective.clouds(settings)

        # YAML of thousands of projects takes a while.
        in_force, resolved = await run_blocking(text, name="configuration")
        if "text/html" in request.headers.get("Accept", ""):
            return await _page(request, [pages.configuration(in_force, resolved, now=self._now(), home=self._home)])
        both = f"{in_force}---\n# What openstacksdk resolved\n{resolved}"
        return await _sent(request, [both.encode()], content_type="text/plain")

    async def _asset(self, request: web.Request) -> web.Response:
        asset = ASSETS.get(request.match_info["name"])
        if asset is None:
            return web.Response(status=404, text="No such file\n", headers=SECURITY_HEADERS)
        # An address with the version in it never means anything else.
        lasting = request.query.get("v") == asset.version
        headers = {
            **SECURITY_HEADERS,
            "Cache-Control": "public, max-age=31536000, immutable" if lasting else "no-cache",
            "ETag": f'"{asset.version}"',
        }
        known = request.if_none_match or ()
        if any(tag.value in (asset.version, "*") for tag in known):
            return web.Response(status=304, headers=headers)
        return web.Response(body=asset.body, headers={**headers, "Content-Type": asset.content_type})


async def _page(request: web.Request, parts: Iterable[str], *, status: int = 200) -> web.Response:
    return await _sent(request, (part.encode() for part in parts), content_type="text/html", status=status)


async def _sent(request: web.Request, parts: Iterable[bytes], *, content_type: str, status: int = 200) -> web.Response:
    """An answer whose parts are made, and compressed if that is wanted, one at a time."""
    headers = {**PAGE_HEADERS, "Content-Type": f"{content_type}; charset=utf-8", "Vary": "Accept, Accept-Encoding"}
    if accepts_gzip(",".join(request.headers.getall("Accept-Encoding", ()))):
        headers["Content-Encoding"] = "gzip"
        parts = _compressed(parts)
    made = []
    for part in parts:
        made.append(part)
        await asyncio.sleep(0)
    return web.Response(status=status, body=b"".join(made), headers=headers)


def _compressed(parts: Iterable[bytes]) -> Iterator[bytes]:
    compressor = isal_zlib.compressobj(level=1, wbits=zlib.MAX_WBITS + 16)
    for part in parts:
        yield compressor.compress(part)
    yield compressor.flush()
