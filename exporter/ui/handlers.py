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

from exporter.collector.collector import Collector
from exporter.common.errors import ProjectQueryError
from exporter.common.threads import run_beside, run_blocking
from exporter.config import effective
from exporter.metrics.negotiation import accepts_gzip
from exporter.ui import pages
from exporter.ui.assets import ASSETS
from exporter.ui.board import STEP, Board
from exporter.ui.lookup import sought
from exporter.ui.view import View

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

MANY: Final = 200
"""More projects, or rows of one, are worked on in a worker thread."""
PIECE: Final = 256 * 1024
"""So many bytes are compressed at once."""


class Site:
    """The pages of one fleet."""

    def __init__(self, fleet: Collector, *, telemetry_path: str) -> None:
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
        version, overview, shown = board.version, board.overview, board.rows

        def selected() -> list[pages.Row]:
            wanted = view.order([summary for summary, _ in shown.values() if view.shows(summary)])
            return [shown[summary.key][1] for summary in wanted]

        rows = await run_beside(len(shown) > MANY, selected, name="landing page")
        top = pages.landing_top(overview, view, metrics=self._metrics, now=now, version=version, matching=len(rows))
        steps = ("".join(row.html(now) for row in rows[start : start + STEP]) for start in range(0, len(rows), STEP))
        return await _page(request, chain((top,), steps, (pages.LANDING_BOTTOM,)))

    async def _updates(self, request: web.Request) -> web.Response:
        board, since, now = self._board, request.query.get("since", ""), self._now()
        await board.look()

        def news() -> bytes:
            found = board.changes(since, now)
            return b"" if found is None else msgspec.json.encode(found)

        if body := await run_beside(len(board.rows) > MANY, news, name="updates"):
            return await _sent(request, _pieces(body), content_type="application/json")
        return web.Response(status=204, headers=PAGE_HEADERS)

    async def _project(self, request: web.Request) -> web.Response:
        now = self._now()
        try:
            watch = sought(self._fleet, "/project", request.query)
        except ProjectQueryError as error:
            return await _page(request, [pages.message(str(error), now=now, home=self._home)], status=error.status)
        state = watch.state
        many = state.shown is not None and len(state.shown.problems) > MANY
        page = await run_beside(many, lambda: pages.project(state, now=now, home=self._home).encode(), name="project")
        return await _sent(request, _pieces(page), content_type="text/html")

    async def _config(self, request: web.Request) -> web.Response:
        settings = {name: cloud.access.settings for name, cloud in self._fleet.clouds.items()}
        config, now = self._fleet.config, self._now()
        html = "text/html" in request.headers.get("Accept", "")

        def page() -> bytes:
            in_force, resolved = effective.configuration(config), effective.clouds(settings)
            if html:
                return pages.configuration(in_force, resolved, now=now, home=self._home).encode()
            return f"{in_force}---\n# What openstacksdk resolved\n{resolved}".encode()

        # YAML of thousands of projects takes a while.
        body = await run_blocking(page, name="configuration")
        return await _sent(request, _pieces(body), content_type="text/html" if html else "text/plain")

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


def _pieces(body: bytes) -> Iterator[bytes]:
    return (body[start : start + PIECE] for start in range(0, len(body), PIECE))


def _compressed(parts: Iterable[bytes]) -> Iterator[bytes]:
    compressor = isal_zlib.compressobj(level=1, wbits=zlib.MAX_WBITS + 16)
    for part in parts:
        yield compressor.compress(part)
    yield compressor.flush()
