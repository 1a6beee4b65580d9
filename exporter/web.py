"""The HTTP side: it sends what the refreshes have prepared, and never waits for one.

A scrape's only own work is `process_*` and `python_*`. Nothing here asks a cloud, renders a cloud's families or
holds a lock, so a slow reader costs nobody else anything.
"""

from __future__ import annotations

from html import escape
from typing import Final

from aiohttp import web
from isal import igzip
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter import __version__
from exporter.exposition import CONTENT_TYPES, END_OF_OPENMETRICS, Format
from exporter.families import named
from exporter.fleet import Fleet
from exporter.negotiation import accepts_gzip, choose_format
from exporter.page import gzip_member, piece

PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Own:
    """The families that are made at scrape time: `process_*` and `python_*`, from prometheus-client."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def write(self, format: Format, names: list[str] | None) -> bytes:
        """Their text, with OpenMetrics' end mark; with `names` only those families."""
        registry = self._registry if names is None else self._registry.restricted_registry(names)
        text: bytes = (generate_openmetrics if format == "openmetrics" else generate_text)(registry)
        return text

    def sample_names(self, names: list[str]) -> list[str]:
        """All sample names of the families that are named by a family or a sample."""
        wanted = set(names)
        found: list[str] = []
        for family in self._registry.collect():
            samples = {sample.name for sample in family.samples}
            if wanted & (samples | {family.name}):
                found += samples
        return found


class Server:
    """The web application of one fleet."""

    def __init__(self, fleet: Fleet, *, telemetry_path: str = "/metrics") -> None:
        self._fleet = fleet
        self._own = Own()
        self._telemetry_path = telemetry_path
        self._stopping = False
        self.app = web.Application(client_max_size=64 * 1024)
        self.app.router.add_get(telemetry_path, self._metrics)
        self.app.router.add_get("/-/healthy", self._healthy)
        self.app.router.add_get("/-/ready", self._ready)
        if telemetry_path != "/":
            self.app.router.add_get("/", self._index)

    def stopping(self) -> None:
        """From now on the answer is: not ready."""
        self._stopping = True

    async def _metrics(self, request: web.Request) -> web.Response:
        format = choose_format(request.headers.get("Accept"))
        gzip = accepts_gzip(request.headers.get("Accept-Encoding"))
        names = request.query.getall("name[]", None)
        page = self._fleet.page
        if names is not None:
            selected = page.selected(format, named(names, self._fleet.families))
            if own := self._own.sample_names(names):
                selected += self._own.write(format, own)
            elif format == "openmetrics":
                selected += END_OF_OPENMETRICS
            body = igzip.compress(selected, compresslevel=1) if gzip else selected
        else:
            own_text = self._own.write(format, None)
            if gzip:
                body = gzip_member(page.deflated(format), piece(own_text).deflated)
            else:
                body = page.plain(format) + own_text
        headers = {"Content-Type": CONTENT_TYPES[format], "Vary": "Accept, Accept-Encoding"}
        if gzip:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    async def _healthy(self, request: web.Request) -> web.Response:
        return web.Response(text="Healthy\n")

    async def _ready(self, request: web.Request) -> web.Response:
        if self._stopping:
            return web.Response(status=503, text="Stopping\n")
        if not self._fleet.ready:
            return web.Response(status=503, text="Waiting for the first refresh of each project\n")
        return web.Response(text="Ready\n")

    async def _index(self, request: web.Request) -> web.Response:
        rows = "".join(
            f"<tr><td>{escape(watch.key.cloud)}<td>{escape(watch.state.name)}<td>{escape(watch.key.project_id)}"
            f"<td>{watch.state.condition}<td>{watch.state.shown.total if watch.state.shown else ''}"
            f"<td>{escape(watch.state.error)}</tr>\n"
            for watch in self._fleet.watches()
        )
        return web.Response(
            text=_INDEX.format(path=escape(self._telemetry_path, quote=True), version=__version__, rows=rows),
            content_type="text/html",
            headers=PAGE_HEADERS,
        )


_INDEX: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>heat-deployment-exporter</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font-family:sans-serif;margin:2em}} td,th{{text-align:left;padding:.2em 1em .2em 0}}</style>
</head><body>
<h1>heat-deployment-exporter {version}</h1>
<p>OpenStack Heat software deployments for Prometheus:
<a href="{path}">metrics</a>, <a href="/-/healthy">health</a>, <a href="/-/ready">readiness</a></p>
<table><thead><tr><th>Cloud<th>Project<th>Id<th>State<th>Deployments<th>Last error</tr></thead>
<tbody>
{rows}</tbody></table>
</body></html>
"""
