"""A whole fleet on this machine: simulated clouds with thousands of projects, and one exporter that watches them all.

    python -m bench.fleet --clouds 3 --projects 2000 --deployments 100000

starts the simulated clouds and the exporter as processes of their own, waits until every project was refreshed twice,
scrapes for a few intervals, and prints what a user would care about. Exit status 1 where any project's number of
deployments with a status and an action is wrong on any page, data is older than an interval and a tenth, a refresh has
failed, an answer of /-/healthy took longer than a second, which is what a probe waits, or memory passes 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench.probing import asked
from bench.processes import cpu, peak
from exporter.simulator import Plan, build

HEALTHY_SECONDS = 1.0
EXPORTER = [sys.executable, "-m", "exporter"]


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    process = subprocess.Popen(command, text=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def fetch(url: str) -> bytes:
    """The body of an answer; an error where there is none."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def until(what: str, seconds: float, condition: Any) -> float:
    """Wait for a condition; how long it took."""
    began = time.monotonic()
    while True:
        try:
            if condition():
                return time.monotonic() - began
        except OSError:
            pass
        if time.monotonic() - began > seconds:
            sys.exit(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


def sums(page: str) -> dict[str, float]:
    """Every family's samples of a page added up."""
    result: dict[str, float] = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            name, _, value = line.partition("{")[0], None, line.rpartition(" ")[2]
            result[name] = result.get(name, 0) + float(value)
    return result


def _expected(cloud: str, plan: Plan) -> dict[tuple[str, ...], int]:
    """How many deployments each project of a simulated cloud has with each status and action."""
    found: Counter[tuple[str, ...]] = Counter()
    for each in build(plan).deployments.values():
        found[cloud, each.project_id, each.status, each.action] += 1
    return dict(found)


_CELL = re.compile(
    r'^heat_software_deployments\{cloud="([^"]*)",project_id="([^"]*)",.*,status="([^"]*)",action="([^"]*)"\} (\d+)$',
    re.MULTILINE,
)


def _cells(page: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """What a page says of the same."""
    for *cell, value in _CELL.findall(page):
        yield tuple(cell), int(value)


def _values(page: str, family: str) -> Iterator[float]:
    """The values of a family's samples."""
    return (float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"{family}{{"))


def _refreshed(url: str) -> float:
    """How often every project was refreshed at least."""
    return min(_values(fetch(f"{url}/metrics?name[]=heat_refreshes_total").decode(), "heat_refreshes_total"), default=0)


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clouds", type=int, default=3)
    parser.add_argument("--projects", type=int, default=2000, help="in all")
    parser.add_argument("--servers", type=int, default=20000, help="in all")
    parser.add_argument("--deployments", type=int, default=100_000, help="in all")
    parser.add_argument("--interval", type=int, default=60, help="seconds")
    parser.add_argument("--rounds", type=int, default=2, help="intervals to scrape for")
    options = parser.parse_args()
    port = 19181
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-")))
        entries: dict[str, Any] = {}
        expected: dict[tuple[str, ...], int] = {}
        for number in range(options.clouds):
            sizes = {
                name: getattr(options, name) // options.clouds + (number < getattr(options, name) % options.clouds)
                for name in ("projects", "servers", "deployments")
            }
            flags = [f"--{name}={size}" for name, size in sizes.items()]
            expected |= _expected(f"cloud-{number}", Plan(churn=0, seed=number, **sizes))
            command = [*EXPORTER, "simulate", "--churn=0", f"--seed={number}", *flags]
            process = stack.enter_context(running(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                if not line.strip():
                    break
                lines.append(line)
            (entries[f"cloud-{number}"],) = yaml.safe_load("".join(lines))["clouds"].values()
        (folder / "clouds.yaml").write_text(yaml.safe_dump({"clouds": entries}))
        (folder / "config.yaml").write_text(
            json.dumps(
                {
                    "refresh": {"interval": f"{options.interval}s"},
                    "limits": {"requests_per_second": 100},
                    "clouds": [{"cloud": name} for name in entries],
                }
            )
        )
        environment = os.environ | {"OS_CLIENT_CONFIG_FILE": str(folder / "clouds.yaml")}
        command = [*EXPORTER, f"--config.file={folder / 'config.yaml'}", f"--web.listen-address=127.0.0.1:{port}"]
        log = stack.enter_context((folder / "log").open("w"))
        exporter = stack.enter_context(running(command, env=environment, stderr=log))
        url = f"http://127.0.0.1:{port}"
        first = until("every project refreshed", 600, lambda: fetch(f"{url}/-/ready"))
        until("every project refreshed twice", 600, lambda: _refreshed(url) >= 2)
        before = os.times()
        cpu_before = cpu(exporter.pid)
        latencies: list[float] = []
        oldest = 0.0
        wrong: set[tuple[str, ...]] = set()
        page = ""
        with asked(port) as late:
            began = time.monotonic()
            while time.monotonic() - began < options.rounds * options.interval:
                at = time.monotonic()
                page = fetch(f"{url}/metrics").decode()
                latencies.append(time.monotonic() - at)
                now = time.time()
                oldest = max(
                    oldest, *(now - asked for asked in _values(page, "heat_last_refresh_success_timestamp_seconds"))
                )
                found = dict(_cells(page))
                wrong |= {
                    cell for cell in found.keys() | expected.keys() if found.get(cell, 0) != expected.get(cell, 0)
                }
                time.sleep(0.25)
        elapsed = os.times().elapsed - before.elapsed
        taken = cpu(exporter.pid) - cpu_before
        memory = peak(exporter.pid) // 1024
        values = sums(page)
        failures = (folder / "log").read_text().count("level=warning")
        latencies.sort()
        rows = {
            "projects up": f"{values['heat_up']:,.0f} of {options.projects:,}",
            "deployments counted": f"{values['heat_software_deployments']:,.0f} of {options.deployments:,}",
            "numbers of deployments that were wrong on any page": f"{len(wrong)} of {len(expected):,}",
            "series on the page": f"{page.count(chr(10)) - page.count('# '):,}",
            "page": f"{len(page) / 1e6:.1f} MB",
            "every project refreshed for the first time": f"{first:.1f} s after the start",
            "oldest data on any page": f"{oldest:.1f} s at an interval of {options.interval} s",
            "CPU, two scrapes of the whole page a second included": f"{taken / elapsed:.1%} of one core",
            "resident memory, at most": f"{memory / 1024:.0f} MiB",
            "scrape of the whole page, median / p99 / longest": f"{statistics.median(latencies) * 1e3:.0f} / "
            f"{latencies[int(len(latencies) * 0.99)] * 1e3:.0f} / {latencies[-1] * 1e3:.0f} ms",
            "longest answer of /-/healthy meanwhile": f"{max(late) * 1e3:.0f} ms",
            "failures logged": str(failures),
        }
        width = max(map(len, rows))
        for name, value in rows.items():
            print(f"{name:<{width}}  {value}")
        right = (
            not wrong
            and values["heat_up"] == options.projects
            and oldest <= 1.1 * options.interval
            and failures == 0
            and max(late) < HEALTHY_SECONDS
            and memory < 1024**2
        )
        sys.exit(0 if right else 1)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    main()
