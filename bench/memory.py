"""The memory of refreshes: in the default configuration, with names and series of servers, and of a response in which
every deployment has another status. Each is measured in a process of its own against a cloud in another one."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from aiohttp import web

from bench.listings import PIECE, pieces
from bench.processes import beside, peak, resident

CONFIG_NAMES = 50
"""So many different names the configs have."""


def _distinct_statuses(deployments: int) -> Iterator[bytes]:
    """A response of so many short records, each with a status of its own, in a random order."""
    numbers = list(range(deployments))
    random.Random(1).shuffle(numbers)
    comma = b'{"software_deployments": ['
    for start in range(0, deployments, 1000):
        records = [b'{"id": "%d", "status": "S%d"}' % (each, each) for each in numbers[start : start + 1000]]
        yield comma + b", ".join(records)
        comma = b", "
    yield b"]}"


class _Collection:
    """What a cloud lists page by page: things with an id and a name, in the order of their ids."""

    def __init__(self, key: str, ids: Sequence[str], names: int | None) -> None:
        self.key = key
        self.ids = sorted(ids)
        self.places = dict(zip(self.ids, count()))
        self.names = names or len(self.ids)

    def page(self, request: web.BaseRequest) -> web.Response:
        """The page that a request asks for."""
        start = self.places.get(request.query.get("marker", ""), -1) + 1
        limit = int(request.query["limit"])
        items = [
            {"id": each, "name": f"{self.key}-{place % self.names}", "group": "script"}
            for place, each in enumerate(self.ids[start : start + limit], start)
        ]
        return web.json_response({self.key: items})


async def _cloud(kind: str, deployments: int, servers: int) -> None:
    """A simulated cloud with one project, whose response has so many deployments; prints its clouds.yaml."""
    from exporter.simulator import Plan, Simulator, build

    world = build(Plan(projects=1, disabled_projects=0, servers=1, deployments=0, churn=0))
    made = list(_distinct_statuses(deployments) if kind == "statuses" else pieces(deployments, servers))
    collections: dict[str, _Collection] = {}
    if kind == "default":
        listed = json.loads(b"".join(made))["software_deployments"]
        collections = {
            "/software_configs": _Collection("software_configs", [each["config_id"] for each in listed], CONFIG_NAMES),
            "/servers": _Collection("servers", list({each["server_id"] for each in listed}), None),
        }
        del listed

    async def answer(request: web.BaseRequest, _api: str) -> web.StreamResponse | None:
        for path, collection in collections.items():
            if request.path.endswith(path):
                return collection.page(request)
        if not request.path.endswith("/software_deployments"):
            return None
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for piece in made:
            for start in range(0, len(piece), PIECE):
                await response.write(piece[start : start + PIECE])
        await response.write_eof()
        return response

    async with Simulator(world) as simulator:
        simulator.intercept = answer  # type: ignore[assignment]
        print(simulator.clouds_yaml(), flush=True)
        print("---", flush=True)
        await asyncio.Event().wait()


_SETTINGS = {
    "clouds": [{"name": "bench", "cloud": "simulator"}],
    "refresh": {"timeout": "30m", "silence": "10m"},
    "limits": {"requests_per_second": 1000, "response_bytes": "64GiB"},
}
"""The default configuration, but for the time that a large response may take."""


async def _refresh() -> None:
    """One exporter that refreshes its project, asks for names, and refreshes it again; prints what each step took."""
    from exporter import logs
    from exporter.config import parse
    from exporter.fleet import Fleet
    from exporter.serve import settle_interpreter

    settle_interpreter()
    logs.configure(level="error", format="logfmt")
    async with Fleet(parse(json.dumps(_SETTINGS), source="bench")).opened() as fleet:
        (cloud,) = fleet.clouds.values()
        await cloud.discover()
        (project,) = cloud.projects.values()
        idle = resident()
        found: dict[str, Any] = {"idle": idle}
        for step in ("first", "names", "second"):
            began = time.process_time()
            if step == "names":
                await project.ask_for_names(at_once=True)
            else:
                _, error = await project.refresh()
                assert error is None, error
            found[step] = {
                "cpu": time.process_time() - began,
                "peak": peak() - idle,
                "after": resident() - idle,
            }
        data = project.state.shown
        assert data is not None
        found["total"] = data.total
        found["named"] = sum(row.deployments for row in data.configs if row.config_name), len(data.server_names)
    print(json.dumps(found))


def measured(kind: str, deployments: int, *, servers: int = 0) -> dict[str, Any]:
    """What an exporter took beside a cloud of this kind and size."""
    command = [sys.executable, "-m", "bench.memory"]
    with beside([*command, "cloud", kind, str(deployments), str(servers)]) as environment:
        done = subprocess.run(
            [*command, "refresh"], check=True, stdout=subprocess.PIPE, text=True, env=environment, timeout=1200
        )
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["total"] == deployments
    return found


if __name__ == "__main__":
    if sys.argv[1] == "cloud":
        asyncio.run(_cloud(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    elif sys.argv[1] == "refresh":
        asyncio.run(_refresh())
    else:
        print(json.dumps(measured(sys.argv[1], int(sys.argv[2]), servers=int(sys.argv[3])), indent=1))
