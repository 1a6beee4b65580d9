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
from statistics import median
from typing import Any

from aiohttp import web

from bench.listings import PIECE, pieces, records
from bench.processes import beside, peak, resident
from bench.table import Row

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
    collections: dict[str, _Collection] = {}
    if kind == "default":
        ids = [(each["config_id"], each["server_id"]) for each in map(json.loads, records(deployments, servers))]
        collections = {
            "/software_configs": _Collection("software_configs", [config for config, _ in ids], CONFIG_NAMES),
            "/servers": _Collection("servers", list({server for _, server in ids}), None),
        }
        del ids

    async def answer(request: web.BaseRequest, _api: str) -> web.StreamResponse | None:
        for path, collection in collections.items():
            if request.path.endswith(path):
                return collection.page(request)
        if not request.path.endswith("/software_deployments"):
            return None
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for piece in _distinct_statuses(deployments) if kind == "statuses" else pieces(deployments, servers):
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
    from exporter.cli.serve import settle_interpreter
    from exporter.collector.collector import Collector
    from exporter.common import logs
    from exporter.config.schema import parse

    settle_interpreter()
    logs.configure(level="error", format="logfmt")
    async with Collector(parse(json.dumps(_SETTINGS), source="bench")).opened() as fleet:
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


def _measured(kind: str, deployments: int, *, servers: int = 0) -> dict[str, Any]:
    """What an exporter took beside a cloud of this kind and size."""
    command = [sys.executable, "-m", "bench.memory"]
    with beside([*command, "cloud", kind, str(deployments), str(servers)]) as environment:
        done = subprocess.run([*command, "refresh"], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["total"] == deployments
    assert kind != "default" or found["named"] == [deployments, min(servers, 10_000)]
    return found


def default(*, large: int) -> Iterator[Row]:
    """The memory of the default configuration, names and series of servers included, at 100,000 deployments and at
    `large` (0: not at all)."""
    small = _measured("default", 100_000, servers=20_000)
    yield Row(
        what="memory in the default configuration: 100,000 deployments on 20,000 servers, with names",
        ours=small["second"]["peak"] / 1e6,
        theirs=small["idle"] / 1e6,
        unit="MB",
        peer="idle before it (the ratio is MB)",
        ratio=small["second"]["peak"] / 1e6,
        target=48,
        limit=True,
        note="the most during two refreshes and the look-up of all names between them",
    )
    if large:
        big = _measured("default", large, servers=large // 5)
        yield Row(
            what=f"the same with {large:,} deployments on {large // 5:,} servers",
            ours=big["second"]["peak"] / 1e6,
            theirs=small["second"]["peak"] / 1e6,
            unit="MB",
            peer="100,000 deployments",
            ratio=big["second"]["peak"] / small["second"]["peak"],
            limit=True,
        )


def statuses(*, runs: int) -> Iterator[Row]:
    """The memory and the CPU of responses in which every deployment has another status."""
    pairs = [[_measured("statuses", deployments) for deployments in (100_000, 200_000)] for _ in range(runs)]
    small, big = (median(each["first"]["cpu"] + each["second"]["cpu"] for each in column) for column in zip(*pairs))
    most = max(pair[1]["second"]["peak"] for pair in pairs)
    yield Row(
        what="memory of a response with 200,000 distinct statuses",
        ours=most / 1e6,
        theirs=pairs[0][1]["idle"] / 1e6,
        unit="MB",
        peer="idle before it (the ratio is MB)",
        ratio=most / 1e6,
        target=60,
        limit=True,
    )
    yield Row(
        what="CPU of a response with 200,000 distinct statuses",
        ours=big,
        theirs=small,
        unit="s",
        peer="100,000 distinct statuses",
        ratio=big / small,
        target=2.5,
        limit=True,
    )


if __name__ == "__main__":
    if sys.argv[1] == "cloud":
        asyncio.run(_cloud(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    else:
        asyncio.run(_refresh())
