"""The HTTP side: it sends what the refreshes have prepared, and never waits for one.

A scrape's only own work is `process_*` and `python_*`. Nothing here asks a cloud, renders a cloud's families or
holds a lock, so a slow reader costs nobody else anything.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from yarl import URL

from exporter.collector.collector import Collector
from exporter.common.errors import ConfigError, ProjectQueryError
from exporter.common.threads import run_beside
from exporter.metrics.families import named
from exporter.metrics.gzip_members import GzipMember, deflated, gzip_parts, piece, plain
from exporter.metrics.negotiation import accepts_gzip, choose_format
from exporter.metrics.process_metrics import Own
from exporter.metrics.text_format import CONTENT_TYPES, END_OF_OPENMETRICS, Format
from exporter.ui.handlers import MANY, Site
from exporter.ui.lookup import sought
from exporter.web.responses import Outbox, Parts

log = structlog.get_logger("web")


class Server:
    """The web application of one fleet."""

    def __init__(
        self,
        fleet: Collector,
        *,
        telemetry_path: str = "/metrics",
        external_url: str | None = None,
        reload: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`external_url` is how Prometheus reaches this server; `reload` is None unless it may be asked for by HTTP."""
        self._fleet = fleet
        self._own = Own()
        self._outbox = Outbox()
        self._external = URL(external_url) if external_url else None
        self._reload = reload
        self._stopping = False
        self.app = web.Application(client_max_size=64 * 1024, middlewares=[_guarded, self._current])
        self.app.router.add_get(telemetry_path, self._metrics)
        self.app.router.add_get("/-/healthy", self._healthy)
        self.app.router.add_get("/-/ready", self._ready)
        self.app.router.add_get("/probe", self._probe)
        self.app.router.add_get("/sd", self._discovery)
        self.app.router.add_post("/-/reload", self._reloaded)
        Site(fleet, telemetry_path=telemetry_path).add_to(self.app.router)

    def stopping(self) -> None:
        """From now on the answer is: not ready."""
        self._stopping = True

    @web.middleware
    async def _current(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What is too old by now is on no page, even if nobody had the time to look."""
        if not request.path.startswith("/-/"):
            await self._fleet.expire_if_late()
        return await handler(request)

    async def _metrics(self, request: web.Request) -> web.Response:
        format = choose_format(_joined(request, "Accept"))
        names = request.query.getall("name[]", None)
        page = self._fleet.page
        if names is not None:
            selected: list[GzipMember | bytes] = [*page.selected(format, named(names, self._fleet.families))]
            return self._exposition(request, format, selected, self._own.some(format, names))
        own_text = self._own.write(format)
        if accepts_gzip(_joined(request, "Accept-Encoding")):
            return self._answer(format, gzip_parts(page.deflated(format), piece(own_text).deflated), gzip=True)
        return self._answer(format, (*page.parts(format), own_text), gzip=False)

    def _exposition(
        self, request: web.Request, format: Format, parts: list[GzipMember | bytes], end: bytes | None = None
    ) -> web.Response:
        """A part of the page, with what ends it: without that, with the mark that OpenMetrics wants there."""
        last = (END_OF_OPENMETRICS if format == "openmetrics" else b"") if end is None else end
        if accepts_gzip(_joined(request, "Accept-Encoding")):
            return self._answer(format, gzip_parts(deflated([*parts, last])), gzip=True)
        return self._answer(format, (*plain(parts), last), gzip=False)

    def _answer(self, format: Format, parts: Sequence[bytes], *, gzip: bool) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPES[format], "Vary": "Accept, Accept-Encoding"}
        if gzip:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=Parts(parts, self._outbox), headers=headers)

    async def _probe(self, request: web.Request) -> web.Response:
        try:
            watch = sought(self._fleet, "/probe", request.query)
        except ProjectQueryError as error:
            return web.Response(status=error.status, text=f"{error}\n")
        names = request.query.getall("name[]", None)
        families = None if names is None else named(names, self._fleet.families)
        format = choose_format(_joined(request, "Accept"))
        return self._exposition(request, format, await self._fleet.publisher.owned(watch.key, format, families))

    async def _discovery(self, request: web.Request) -> web.Response:
        clouds = self._fleet.clouds.values()
        if not all(cloud.found for cloud in clouds):
            return web.Response(status=503, text="Waiting for the projects of each cloud\n")
        external = self._external
        target = request.host if external is None else _host_and_port(external)
        scheme = request.scheme if external is None else external.scheme
        prefix = "" if external is None else external.path.rstrip("/")
        watches = [watch for cloud in clouds for watch in cloud.projects.values()]

        def entries() -> bytes:
            return json.dumps(
                [
                    {
                        "targets": [target],
                        "labels": {
                            "__scheme__": scheme,
                            "__metrics_path__": f"{prefix}/probe",
                            "__param_cloud": watch.key.cloud,
                            "__param_project": watch.key.project_id,
                            # Without it the `up` of all projects would be one series.
                            "instance": "/".join(watch.key),
                            "__meta_heat_cloud": watch.key.cloud,
                            "__meta_heat_project_id": watch.key.project_id,
                            "__meta_heat_project": watch.state.name,
                        },
                    }
                    for watch in sorted(watches, key=lambda watch: watch.key)
                ]
            ).encode()

        body = await run_beside(len(watches) > MANY, entries, name="service discovery")
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def _reloaded(self, request: web.Request) -> web.Response:
        if self._reload is None:
            return web.Response(status=403, text="Lifecycle API is not enabled (--web.enable-lifecycle)\n")
        try:
            await self._reload()
        except ConfigError as error:
            return web.Response(status=500, text=f"Configuration refused: {error}\n")
        return web.Response(text="Configuration read\n")

    async def _healthy(self, request: web.Request) -> web.Response:
        return web.Response(text="Healthy\n")

    async def _ready(self, request: web.Request) -> web.Response:
        if self._stopping:
            return web.Response(status=503, text="Stopping\n")
        if not self._fleet.ready:
            return web.Response(status=503, text="Waiting for the first refresh of each project\n")
        return web.Response(text="Ready\n")


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Nobody is told how we failed but the log; and no answer is taken for what it does not say that it is."""
    try:
        answer = await handler(request)
    except web.HTTPException as error:
        error.headers["X-Content-Type-Options"] = "nosniff"
        raise
    except Exception:
        log.exception("internal error", path=request.path)
        answer = web.Response(status=500, text="Internal error: see the log\n")
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer


def _joined(request: web.Request, header: str) -> str:
    """All lines of a header that may stand several times, as one."""
    return ",".join(request.headers.getall(header, ()))


def _host_and_port(url: URL) -> str:
    """What a scrape target is made of: no user, and an IPv6 address in brackets."""
    host = url.raw_host or ""
    host = f"[{host}]" if ":" in host else host
    return host if url.explicit_port is None else f"{host}:{url.explicit_port}"
