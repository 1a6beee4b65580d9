"""Large and slow at once: projects whose listings arrive at a megabyte a second for minutes, among many quick ones.

    python -m bench.slow --slow 20 --megabytes 120 --quick 180

starts a simulated cloud and an exporter, waits until every project was refreshed, and watches until every slow one was
refreshed once more. Exit status 1 where a quick project has missed a turn or has data older than an interval and a
tenth, a number of deployments is wrong, or a refresh has failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from aiohttp import web

from bench.fleet import EXPORTER, fetch, running, sums, until
from bench.listings import records
from bench.processes import cpu, peak
from exporter.common.chunking import in_steps

PORT = 19189
SPEED = 1_000_000
TICK = 0.05
INTERVAL = 60


async def _cloud(slow: int, megabytes: int, quick: int) -> None:
    """The simulated cloud; prints its clouds.yaml, and how many deployments each slow project has."""
    from exporter.simulator import Plan, Simulator, build

    world = build(
        Plan(projects=quick + slow, disabled_projects=0, servers=quick + slow, deployments=10 * quick, churn=0)
    )
    # One body for all of them, but for the ids: the same deployments everywhere would be an administrator's view.
    some = list(records(megabytes * SPEED // 1800, 100))
    projects = [project.id for project in world.projects.values() if project.name != "admin"][:slow]
    marks = {f"/heat/v1/{project}/software_deployments": f"{number:04x}" for number, project in enumerate(projects)}

    async def listing(request: web.BaseRequest, api: str) -> web.StreamResponse | None:
        if (mark := marks.get(request.path)) is None:
            return None
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        began, sent, comma = time.monotonic(), 0, b""
        await answer.write(b'{"software_deployments": [')
        for batch in in_steps(some, int(SPEED * TICK) // 1800):
            body = comma + b", ".join(each.replace(b'{"id": "', b'{"id": "' + mark.encode(), 1) for each in batch)
            comma = b", "
            await answer.write(body)
            sent += len(body)
            await asyncio.sleep(max(0.0, began + sent / SPEED - time.monotonic()))
        await answer.write(b"]}")
        await answer.write_eof()
        return answer

    async with Simulator(world) as simulator:
        simulator.intercept = listing  # type: ignore[assignment]
        print(simulator.clouds_yaml(), flush=True)
        others = sum(each.project_id not in projects for each in world.deployments.values())
        print(f"--- {len(some) * slow + others}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow", type=int, default=20, help="projects")
    parser.add_argument("--megabytes", type=int, default=120, help="of each slow project's listing")
    parser.add_argument("--quick", type=int, default=180, help="projects")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slow-")))
        command = [sys.executable, "-m", "bench.slow", "cloud"]
        sizes = [str(each) for each in (options.slow, options.megabytes, options.quick)]
        cloud = stack.enter_context(running([*command, *sizes], stdout=subprocess.PIPE))
        assert cloud.stdout is not None
        lines: list[str] = []
        for line in cloud.stdout:
            if line.startswith("---"):
                break
            lines.append(line)
        expected = int(line.split()[1])
        (folder / "clouds.yaml").write_text("".join(lines))
        refresh = {"interval": f"{INTERVAL}s", "timeout": "10m"}
        config = {"refresh": refresh, "limits": {"requests_per_second": 100}, "names": False}
        (folder / "config.yaml").write_text(json.dumps(config | {"clouds": [{"cloud": "simulator"}]}))
        environment = os.environ | {"OS_CLIENT_CONFIG_FILE": str(folder / "clouds.yaml")}
        log = stack.enter_context((folder / "log").open("w"))
        exporter = stack.enter_context(
            running(
                [*EXPORTER, f"--config.file={folder / 'config.yaml'}", f"--web.listen-address=127.0.0.1:{PORT}"],
                env=environment,
                stderr=log,
            )
        )
        url = f"http://127.0.0.1:{PORT}"
        patience = 4 * options.megabytes * (options.slow + 8)
        first = until("every project refreshed", patience, lambda: fetch(f"{url}/-/ready"))
        quick = _quick(fetch(f"{url}/metrics").decode(), options.megabytes)
        skipped = _of(url, "heat_refreshes_skipped_total")
        until("every quick project refreshed again", 4 * INTERVAL, lambda: _least(url, quick) >= 2)
        before, began = cpu(exporter.pid), time.monotonic()
        wanted = {each: count + 1 for each, count in _of(url, "heat_refreshes_total").items() if each not in quick}
        oldest = 0.0

        def again() -> bool:
            nonlocal oldest
            asked = _of(url, "heat_last_refresh_success_timestamp_seconds")
            oldest = max(oldest, *(time.time() - asked[each] for each in quick))
            done = _of(url, "heat_refreshes_total")
            return all(done[each] >= least for each, least in wanted.items())

        until("every slow project refreshed again", patience, again)
        taken = (cpu(exporter.pid) - before) / (time.monotonic() - began)
        missed = sum(
            count - skipped[each] for each, count in _of(url, "heat_refreshes_skipped_total").items() if each in quick
        )
        values = sums(fetch(f"{url}/metrics").decode())
        failures = values.get("heat_refresh_failures_total", 0)
        rows = {
            "slow projects": f"{len(wanted)}, {options.megabytes} MB each at 1 MB/s",
            "quick projects": f"{len(quick)} at an interval of {INTERVAL} s",
            "deployments counted": f"{values['heat_software_deployments']:,.0f} of {expected:,}",
            "every project refreshed for the first time": f"{first:.0f} s after the start",
            "turns that quick projects missed": f"{missed:.0f}",
            "oldest data of a quick project": f"{oldest:.1f} s",
            "failed refreshes": f"{failures:.0f}",
            "exporter's CPU": f"{taken:.1%} of one core",
            "exporter's memory, at most": f"{peak(exporter.pid) / 2**20:.0f} MiB",
        }
        width = max(map(len, rows))
        for name, value in rows.items():
            print(f"{name:<{width}}  {value}")
        right = (
            values["heat_software_deployments"] == expected
            and missed == failures == 0
            and oldest <= 1.1 * INTERVAL
            and len(wanted) == options.slow
        )
        sys.exit(0 if right else 1)


def _quick(page: str, megabytes: int) -> set[str]:
    """The ids of the projects whose listings are small."""
    sizes = _samples(page, "heat_refresh_response_bytes")
    return {project for project, size in sizes.items() if size < megabytes * SPEED / 2}


def _of(url: str, family: str) -> dict[str, float]:
    return _samples(fetch(f"{url}/metrics?name[]={family}").decode(), family)


def _least(url: str, projects: set[str]) -> float:
    done = _of(url, "heat_refreshes_total")
    return min(done[each] for each in projects)


def _samples(page: str, family: str) -> dict[str, float]:
    """A family's values by project id."""
    lines = [line for line in page.splitlines() if line.startswith(f"{family}{{")]
    return {line.split('project_id="')[1].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


if __name__ == "__main__":
    if sys.argv[1:2] == ["cloud"]:
        asyncio.run(_cloud(*map(int, sys.argv[2:5])))
    else:
        main()
