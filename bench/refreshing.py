"""A whole refresh: memory, CPU, and scrapes meanwhile, measured in a process of its own against a cloud in
another one, whose listing is made on the fly."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Any

from aiohttp import web

from bench.fleet import sums
from bench.listings import Text, pieces
from bench.processes import Scraper, beside, peak, resident
from bench.serving import running
from bench.table import Row

PORT = 19195
_LONG = {"timeout": "30m", "silence": "10m"}


async def _cloud(deployments: int, servers: int, text: Text) -> None:
    """A simulated cloud with one project, whose listing has so many deployments; prints its clouds.yaml."""
    from exporter.simulator import Plan, Simulator, build

    world = build(Plan(projects=1, disabled_projects=0, servers=1, deployments=0, churn=0))

    async def listing(request: web.BaseRequest, api: str) -> web.StreamResponse | None:
        if not request.path.endswith("/software_deployments"):
            return None
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        for piece in pieces(deployments, servers, text=text):
            await answer.write(piece)
        await answer.write_eof()
        return answer

    async with Simulator(world) as simulator:
        simulator.intercept = listing  # type: ignore[assignment]
        print(simulator.clouds_yaml(), flush=True)
        print("---", flush=True)
        await asyncio.Event().wait()


def _settings(*, servers: int) -> dict[str, Any]:
    return {
        "clouds": [{"name": "bench", "cloud": "simulator"}],
        "refresh": _LONG,
        "limits": {"servers": servers, "requests_per_second": 1000, "response_bytes": "64GiB"},
        "names": False,
    }


async def _refresh(servers: int) -> None:
    """One exporter that refreshes its project once; prints what that took."""
    from exporter.cli.serve import settle_interpreter
    from exporter.collector.collector import Collector
    from exporter.common import logs
    from exporter.config.schema import parse

    settle_interpreter()
    logs.configure(level="error", format="logfmt")
    async with Collector(parse(json.dumps(_settings(servers=servers)), source="bench")).opened() as fleet:
        (cloud,) = fleet.clouds.values()
        await cloud.discover()
        (project,) = cloud.projects.values()
        idle = resident()
        used = time.process_time()
        _, error = await project.refresh()
        cpu = time.process_time() - used
    assert error is None, error
    found = project.state.shown
    assert found is not None
    print(json.dumps({"idle": idle, "growth": peak() - idle, "cpu": cpu, "total": found.total}))


def environment(deployments: int, servers: int, *, text: Text = "plain") -> AbstractContextManager[dict[str, str]]:
    """The environment of a process beside a cloud of this size."""
    return beside([sys.executable, "-m", "bench.refreshing", "cloud", str(deployments), str(servers), text])


def measured(deployments: int, *, servers: int, series: int, text: Text = "plain") -> dict[str, Any]:
    """What one refresh of so many deployments on so many servers took, with series for so many of them."""
    with environment(deployments, servers, text=text) as variables:
        command = [sys.executable, "-m", "bench.refreshing", "refresh", str(series)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=variables)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["total"] == deployments
    return found


def _hashes(deployments: int) -> None:
    """Collect and sort as many hashes as a listing has; prints what that took of memory, a deployment."""
    from exporter.deployments.hashes import Gathered, repeated

    chance = random.Random(1)
    before = resident()
    gathered = Gathered()
    for _ in range(deployments // 1000):
        gathered.extend([chance.getrandbits(64) - 2**63 for _ in range(1000)])
    assert not repeated(gathered.ordered())
    print((peak() - before) / deployments)


def _bytes_to_find_duplicates(deployments: int) -> float:
    command = [sys.executable, "-m", "bench.refreshing", "hashes", str(deployments)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def memory(*, large: int) -> Iterator[Row]:
    """What refreshes of 100,000 deployments, and of `large`, add to the memory of an idle exporter; and their CPU."""
    small, *others = (measured(100_000, servers=20_000, series=0) for _ in range(3 if large else 1))
    small["cpu"] = median(each["cpu"] for each in (small, *others))
    yield Row(
        what="memory of a refresh of 100,000 deployments, no server series",
        ours=small["growth"] / 1e6,
        theirs=small["idle"] / 1e6,
        unit="MB",
        peer="idle before it (the ratio is MB)",
        ratio=small["growth"] / 1e6,
        target=24,
        limit=True,
    )
    if not large:
        return
    big = measured(large, servers=200_000, series=0)
    yield Row(
        what=f"memory of a refresh of {large:,} deployments",
        ours=big["growth"] / 1e6,
        theirs=24,
        unit="MB",
        peer="the 24 MB of 100,000",
        ratio=big["growth"] / 24e6,
        target=1.25,
        limit=True,
    )
    yield Row(
        what=f"the same, as it is: {large:,} against 100,000",
        ours=big["growth"] / 1e6,
        theirs=small["growth"] / 1e6,
        unit="MB",
        peer="100,000 deployments",
        ratio=big["growth"] / small["growth"],
    )
    each = _bytes_to_find_duplicates(large)
    yield Row(
        what=f"memory to find duplicates among {large:,}",
        ours=each,
        theirs=None,
        unit="bytes a deployment",
        peer="(the ratio is bytes)",
        ratio=each,
        target=16,
        limit=True,
    )
    yield Row(
        what=f"CPU of a refresh of {large:,} deployments",
        ours=big["cpu"],
        theirs=small["cpu"],
        unit="s",
        peer="100,000 deployments",
        ratio=big["cpu"] / small["cpu"],
        target=10.5 * large / 1_000_000,
        limit=True,
        note="a first listing, all of whose ids are sorted: so many in two rounds, which takes less memory",
    )


def scrapes(deployments: int) -> Row:
    """Scrapes while a large refresh runs, against scrapes when it has ended."""
    with environment(deployments, 200_000) as variables, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(json.dumps(_settings(servers=0) | {"refresh": {**_LONG, "interval": "1h"}}))
        command = [sys.executable, "-m", "exporter", f"--config.file={config}", "--log.level=error"]
        with running(
            *command, f"--web.listen-address=127.0.0.1:{PORT}", url=f"http://127.0.0.1:{PORT}/", env=variables
        ):
            busy, idle = Scraper(PORT), Scraper(PORT)
            up = False
            while not up:
                up = b"\nheat_up{" in busy.scrape()
                time.sleep(0.005)
            while len(idle.times) < len(busy.times):
                page = idle.scrape()
                time.sleep(0.005)
    assert sums(page.decode())["heat_software_deployments"] == deployments
    return Row(
        what=f"99 of 100 scrapes while {deployments:,} deployments are refreshed",
        ours=busy.p99 * 1e3,
        theirs=idle.p99 * 1e3,
        unit="ms",
        peer="when nothing is",
        ratio=busy.p99 / idle.p99,
        target=2,
        limit=True,
        note=f"half of them take {median(busy.times) * 1e3:.2f} ms, and {median(idle.times) * 1e3:.2f} when nothing is;"
        " the cloud that makes up the listing shares the two cores",
    )


if __name__ == "__main__":
    match sys.argv[1]:
        case "cloud":
            asyncio.run(_cloud(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))  # type: ignore[arg-type]
        case "hashes":
            _hashes(int(sys.argv[2]))
        case _:
            asyncio.run(_refresh(int(sys.argv[2])))
