"""Queries of the exporter's own pages: any bytes after the `?` get a page, or are refused, and never break anything."""

import asyncio
import atexit
import http.client
import threading
from typing import NamedTuple
from urllib.parse import parse_qsl

from exporter.cli.serve import Address, listening
from exporter.collector.cloud_collector import _Found
from exporter.collector.collector import Collector
from exporter.config import schema
from exporter.metrics.families import FAMILIES
from exporter.openstack.session import Project
from exporter.web.app import Server

PATHS = ("/metrics", "/probe", "/project", "/updates", "/")
PROJECTS = (("1d", "web"), ("2d", "twice"), ("3d", "twice"), ("4d", "1d"), ("5d", "a b&c"))
SEEDS = (
    b"\x00name[]=heat_up&name[]=heat_refreshes_total",
    b"\x01cloud=sim&project=1d&name[]=heat_up",
    b"\x01cloud=sim&project=web",
    b"\x01cloud=sim&project=twice",
    b"\x01cloud=sim&project=a%20b%26c&name[]=heat_refreshes",
    b"\x02cloud=sim&project=1d",
    b"\x03since=1.1",
    b"\x04state=failing&q=web&sort=-project&page=2",
)
WORDS = (
    b"cloud=", b"project=", b"name[]=", b"name%5B%5D=", b"&", b"=", b"sim", b"1d", b"web", b"twice", b"%20", b"+",
    b"%", b"%ff", b"heat_up", b"heat_refreshes_total", b"heat_refreshes", b"heat_interval_seconds",
    b"process_cpu_seconds_total", b"since=", b"process_cpu_seconds", b"state=", b"q=", b"sort=", b";",
    b"heat_refresh_duration_seconds_bucket", b"%00", b"%0d%0a", b"#",
)  # fmt: skip
_SAMPLES = {name: family.name for family in FAMILIES for name in (family.name, *family.sample_names())}
_SAMPLES |= {family.name.removesuffix("_total"): family.name for family in FAMILIES}


class _Exporter:
    """An exporter that knows some projects, asks nobody, and serves from a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._stop = asyncio.Event()
        started: asyncio.Future[int] = self._loop.create_future()
        asyncio.run_coroutine_threadsafe(self._serve(started), self._loop)
        self.port = asyncio.run_coroutine_threadsafe(_result(started), self._loop).result(30)
        self.client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        atexit.register(self.client.close)

    async def _serve(self, started: asyncio.Future[int]) -> None:
        fleet = Collector(schema.parse("clouds: [{name: sim, cloud: nowhere}]", source="fuzz"))
        projects = [Project(id, name, "", enabled=True) for id, name in PROJECTS]
        cloud = fleet.clouds["sim"]
        await cloud._take_over(_Found(projects, [], frozenset()))
        await fleet.publisher.settled()
        async with listening(Server(fleet), [Address("127.0.0.1", 0)]) as ports:
            started.set_result(ports[0])
            await self._stop.wait()

    def get(self, path: str) -> tuple[int, str]:
        self.client.request("GET", path)
        answer = self.client.getresponse()
        return answer.status, answer.read().decode()


async def _result(future: asyncio.Future[int]) -> int:
    return await future


class _Served(NamedTuple):
    exporter: _Exporter


_served: list[_Served] = []


def _exporter() -> _Exporter:
    if not _served:
        _served.append(_Served(_Exporter()))
    return _served[0].exporter


def check(data: bytes) -> None:
    """The first byte says which page is asked for. No answer is an internal error; a page has what the names select."""
    if not data:
        return
    path = PATHS[data[0] % len(PATHS)]
    # What can't stand in the first line of a request is sent by nobody.
    query = "".join(chr(byte) for byte in data[1:] if 0x20 < byte < 0x7F and byte != ord("#"))
    status, body = _exporter().get(f"{path}?{query}")
    assert status in {200, 204, 400, 404}, f"{path}?{query}: {status} {body[:200]}"
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        return
    first = dict(reversed(pairs))
    if path == "/probe":
        if not first.get("cloud") or not first.get("project"):
            assert status == 400, f"{path}?{query}: {status}"
            return
        meant = [id for id, name in PROJECTS if id == first["project"]]
        meant = meant or [id for id, name in PROJECTS if name == first["project"]]
        known = first["cloud"] == "sim"
        assert status == (404 if not meant or not known else 200 if len(meant) == 1 else 400), (
            f"{path}?{query}: {status}"
        )
    names = [value for key, value in pairs if key == "name[]"]
    if status == 200 and path in {"/metrics", "/probe"}:
        shown = {line.split()[2] for line in body.splitlines() if line.startswith("# TYPE heat_")}
        wanted = {_SAMPLES[name] for name in names if name in _SAMPLES}
        assert not names or shown <= wanted, f"{path}?{query}: {shown} instead of {wanted}"
        if path == "/metrics":
            every = {"heat_refreshes_total", "heat_exporter_config_hash", "heat_refresh_interval_seconds"}
            assert shown >= every & (wanted if names else every), f"{path}?{query}: {shown}"
