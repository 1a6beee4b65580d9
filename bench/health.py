"""How late answers of `/-/healthy` are during the first refreshes: what a liveness probe sees of a stalled event loop.

The questions, the exporter and the simulated cloud are processes of their own, and nobody scrapes.

    python -m bench.health 300 100000    # 300 projects, one of them with 100,000 deployments
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from aiohttp import web

from bench.fleet import fetch, sums
from bench.listings import pieces
from bench.probing import EVERY, asked
from bench.processes import beside, until
from bench.serving import running
from bench.table import Row, shown

PORT = 19202
URL = f"http://127.0.0.1:{PORT}"
DEPLOYMENTS, SERVERS = 100_000, 20_000
"""Of the one large project."""
EACH = 50
"""Deployments of every other project."""
SETTINGS: dict[str, Any] = {
    "clouds": [{"name": "bench", "cloud": "simulator"}],
    "refresh": {"interval": "1h", "timeout": "10m", "silence": "10m"},
    # The cloud's answers are the only thing that the exporter waits for.
    "limits": {"requests_per_second": 100_000},
}
MODULE = [sys.executable, "-m", "bench.health"]


async def _cloud(projects: int, deployments: int) -> None:
    """A simulated cloud. One project has so many deployments, if any, and another name with each discovery; prints its
    clouds.yaml."""
    from exporter.simulator import Plan, Simulator, build

    plan = Plan(projects=projects, disabled_projects=0, servers=projects * 10, deployments=projects * EACH, churn=0)
    world = build(plan)
    large = next(iter(world.deployments.values())).project_id if deployments else None
    body = list(pieces(deployments, SERVERS)) if deployments else []

    names = count(1)

    async def listing(request: web.BaseRequest, api: str) -> web.StreamResponse | None:
        if large is not None and request.path.endswith("/auth/projects"):
            world.projects[large].name = f"large-{next(names)}"
        if not request.path.endswith(f"/{large}/software_deployments"):
            return None
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        for piece in body:
            await answer.write(piece)
        await answer.write_eof()
        return answer

    async with Simulator(world) as simulator:
        simulator.intercept = listing  # type: ignore[assignment]
        print(simulator.clouds_yaml(), flush=True)
        print("---", flush=True)
        await asyncio.Event().wait()


def _ready() -> bool:
    try:
        return fetch(f"{URL}/-/ready") == b"Ready\n"
    except OSError:
        return False


def _percentile(late: list[float], share: float) -> float:
    return sorted(late)[min(len(late) - 1, int(len(late) * share))]


def _shown(what: str, busy: list[float], idle: list[float]) -> Iterator[Row]:
    for which, share, target in (("99.9 % of answers", 0.999, 50), ("longest answer", 1.0, 200)):
        ours, theirs = _percentile(busy, share) * 1e3, _percentile(idle, share) * 1e3
        yield Row(
            what=f"{which} of /-/healthy, {what}",
            ours=ours,
            theirs=theirs,
            unit="ms",
            peer="an idle exporter (the ratio is ms)",
            ratio=ours,
            target=target,
            limit=True,
            note=f"{len(busy):,} questions, one every {EVERY * 1e3:g} ms",
        )


@contextmanager
def _exporter(config: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """An exporter that has refreshed all of its projects once."""
    command = [sys.executable, "-m", "exporter", f"--config.file={config}", "--log.level=error"]
    command.append(f"--web.listen-address=127.0.0.1:{PORT}")
    with running(*command, url=f"{URL}/-/healthy", env=environment) as process:
        until(_ready, 600, pause=0.1)
        yield process


def _idle(config: Path, environment: Mapping[str, str]) -> list[float]:
    """Answers of an exporter of one small project, which it has refreshed."""
    one = [{**SETTINGS["clouds"][0], "projects": "current"}]
    config.write_text(json.dumps(SETTINGS | {"clouds": one}))
    with _exporter(config, environment):
        time.sleep(1)
        with asked(PORT) as late:
            time.sleep(20)
    return late


def rows(projects: int, deployments: int = 0) -> Iterator[Row]:
    """Answers during the first refreshes of so many projects, one of which has so many deployments if any, beside those
    of an exporter that has nothing to do; and while that one gets another name, and all of them other families."""
    again: list[float] = []
    with ExitStack() as stack:
        environment = stack.enter_context(beside([*MODULE, "cloud", str(projects), str(deployments)]))
        config = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))) / "config.yaml"
        idle = _idle(config, environment)
        config.write_text(json.dumps(SETTINGS))
        with asked(PORT) as busy:
            process = stack.enter_context(_exporter(config, environment))
        page = sums(fetch(f"{URL}/metrics").decode())
        assert page["heat_up"] == projects, "every project was refreshed"
        assert page["heat_software_deployments"] >= deployments
        if deployments:
            config.write_text(json.dumps(SETTINGS | {"metrics": {"exclude": ["heat_software_deployments_stuck"]}}))
            with asked(PORT) as again:
                process.send_signal(signal.SIGHUP)
                until(lambda: b'"large-2"' in fetch(f"{URL}/metrics?name[]=heat_up"), pause=0.1)
    one = f", one with {deployments:,} deployments" if deployments else f" of {EACH} deployments"
    yield from _shown(f"first refreshes of {projects:,} projects{one}", busy, idle)
    if again:
        yield from _shown(f"that one renamed, and a reload with other families for all {projects:,}", again, idle)


if __name__ == "__main__":
    if sys.argv[1] == "cloud":
        asyncio.run(_cloud(int(sys.argv[2]), int(sys.argv[3])))
    else:
        print(shown(list(rows(int(sys.argv[1]), int(sys.argv[2])))))
