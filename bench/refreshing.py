"""A whole refresh: memory, and how long the event loop is held up, measured in a process of its own against a cloud in
another one, whose listing is made on the fly."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from bench.listings import pieces
from bench.table import Row

TICK = 0.001


async def _cloud(deployments: int, servers: int) -> None:
    """A simulated cloud with one project, whose listing has so many deployments; prints its clouds.yaml."""
    from exporter.simulator import Plan, Simulator, build

    world = build(Plan(projects=1, disabled_projects=0, servers=1, deployments=0, churn=0))

    async def listing(request: web.BaseRequest, api: str) -> web.StreamResponse | None:
        if not request.path.endswith("/software_deployments"):
            return None
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        for piece in pieces(deployments, servers):
            await answer.write(piece)
        await answer.write_eof()
        return answer

    async with Simulator(world) as simulator:
        simulator.intercept = listing  # type: ignore[assignment]
        print(simulator.clouds_yaml(), flush=True)
        print("---", flush=True)
        await asyncio.Event().wait()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


async def _refresh(servers: int) -> None:
    """One exporter that refreshes its project once; prints what that took."""
    from exporter import logs
    from exporter.config import parse
    from exporter.fleet import Fleet
    from exporter.serve import settle_interpreter

    settle_interpreter()
    logs.configure(level="error", format="logfmt")
    settings = {
        "clouds": [{"name": "bench", "cloud": "simulator"}],
        "refresh": {"timeout": "30m", "silence": "10m"},
        "limits": {"servers": servers, "requests_per_second": 1000, "response_bytes": "64GiB"},
        "names": False,
    }
    stalls: list[float] = []

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(TICK)
            now = loop.time()
            stalls.append(now - before - TICK)
            before = now

    async with Fleet(parse(json.dumps(settings), source="bench")).opened() as fleet:
        (cloud,) = fleet.clouds.values()
        await cloud.discover()
        (project,) = cloud.projects.values()
        idle = _resident()
        times = os.times()
        ticker = asyncio.create_task(watch())
        _, error = await project.refresh()
        ticker.cancel()
        cpu = sum(os.times()[:2]) - sum(times[:2])
    assert error is None, error
    found = project.state.shown
    assert found is not None
    longest = max(stalls)
    print(json.dumps({"idle": idle, "growth": _peak() - idle, "stall": longest, "cpu": cpu, "total": found.total}))


@contextmanager
def _environment(deployments: int, servers: int) -> Iterator[dict[str, str]]:
    """The environment of a process beside a cloud of this size."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        command = [sys.executable, "-m", "bench.refreshing", "cloud", str(deployments), str(servers)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while (line := process.stdout.readline()) not in ("---\n", ""):
                lines.append(line)
            path = Path(folder) / "clouds.yaml"
            path.write_text("".join(lines))
            yield os.environ | {"OS_CLIENT_CONFIG_FILE": str(path)}
        finally:
            process.terminate()
            process.wait(10)


def measured(deployments: int, *, servers: int, series: int) -> dict[str, Any]:
    """What one refresh of so many deployments on so many servers took, with series for so many of them."""
    with _environment(deployments, servers) as environment:
        command = [sys.executable, "-m", "bench.refreshing", "refresh", str(series)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["total"] == deployments
    return found


def rows(*, large: int, runs: int) -> Iterator[Row]:
    """Memory and stalls of refreshes of 100,000 deployments, and memory of `large` beside it."""
    small = measured(100_000, servers=20_000, series=0)
    yield Row(
        what="memory of a refresh of 100,000 deployments, no server series",
        ours=small["growth"] / 1e6,
        theirs=None,
        unit="MB",
        ratio=small["growth"] / 1024**2,
        target=24,
        limit=True,
        peer="idle (the ratio is MiB)",
    )
    if large:
        big = measured(large, servers=200_000, series=0)
        yield Row(
            what=f"the same for {large:,} deployments",
            ours=big["growth"] / 1e6,
            theirs=small["growth"] / 1e6,
            unit="MB",
            peer="100,000 deployments",
            ratio=big["growth"] / small["growth"],
            target=1.25,
            limit=True,
        )
    stalls = sorted(measured(100_000, servers=20_000, series=20_000)["stall"] for _ in range(runs))
    yield Row(
        what="longest stall of the event loop, 100,000 deployments on 20,000 servers",
        ours=stalls[len(stalls) // 2] * 1e3,
        theirs=None,
        unit="ms",
        ratio=stalls[len(stalls) // 2] * 1e3,
        target=15,
        limit=True,
        peer="(the ratio is ms)",
    )


if __name__ == "__main__":
    if sys.argv[1] == "cloud":
        asyncio.run(_cloud(int(sys.argv[2]), int(sys.argv[3])))
    else:
        asyncio.run(_refresh(int(sys.argv[2])))
