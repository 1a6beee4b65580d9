"""Many small projects: what a refresh of one of them costs, and a scrape of the page that shows them all."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path

from bench.processes import Scraper, beside, resident, until
from bench.serving import running, scraped_in_every_way
from bench.table import Row
from exporter.metrics.families import FAMILIES, SCOPE_LABELS
from exporter.metrics.text_format import Block

DEPLOYMENTS = 50
"""Of each project."""
FAMILIES_SHOWN = 25
LINES = 2
"""Of each family and project."""
MANY, ONE, WATCHING = 19196, 19197, 19201
MINUTE = 60.0
PART = "heat_software_deployments"
SETTINGS = {
    "clouds": [{"name": "bench", "cloud": "simulator"}],
    "limits": {"requests_per_second": 100_000},
    "names": False,
}
SCRAPES = 400


# -- refreshing


async def _cloud(projects: int) -> None:
    """A simulated cloud; prints its clouds.yaml."""
    from exporter.simulator import Plan, Simulator, build

    plan = Plan(
        projects=projects,
        disabled_projects=0,
        servers=projects * DEPLOYMENTS // 5,
        deployments=projects * DEPLOYMENTS,
        churn=0,
    )
    async with Simulator(build(plan)) as simulator:
        print(simulator.clouds_yaml(), flush=True)
        print("---", flush=True)
        await asyncio.Event().wait()


async def _refresh(refreshes: int) -> None:
    """Refresh every project once, and then so many again, in turn; prints the CPU that one of these took."""
    from exporter.cli.serve import settle_interpreter
    from exporter.collector.collector import Collector
    from exporter.common import logs
    from exporter.config.schema import parse

    logs.configure(level="error", format="logfmt")
    settle_interpreter()
    async with Collector(parse(json.dumps(SETTINGS), source="bench")).opened() as fleet:
        await fleet.once()
        watches = list(fleet.watches())
        began = time.process_time()
        for watch in islice(cycle(watches), refreshes):
            _, error = await watch.refresh()
            assert error is None, error
        print((time.process_time() - began) / refreshes)


def _cost(projects: int, refreshes: int) -> float:
    """Seconds of CPU for a refresh of one of so many projects."""
    command = [sys.executable, "-m", "bench.many"]
    with beside([*command, "cloud", str(projects)]) as environment:
        done = subprocess.run(
            [*command, "refresh", str(refreshes)], check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
    return float(done.stdout)


def refreshing(projects: int) -> Row:
    """A refresh of one of many projects, against the same project alone."""
    alone, together = _cost(1, 200), _cost(projects, 400)
    return Row(
        what=f"CPU of a refresh of one of {projects:,} projects",
        ours=together * 1e3,
        theirs=alone * 1e3,
        unit="ms",
        peer="the same project alone",
        ratio=together / alone,
        target=2,
        limit=True,
    )


# -- a whole exporter


@contextmanager
def _watching(projects: int) -> Iterator[int]:
    """The process of an exporter that has refreshed so many projects."""
    with ExitStack() as stack:
        environment = stack.enter_context(beside([sys.executable, "-m", "bench.many", "cloud", str(projects)]))
        config = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))) / "config.yaml"
        config.write_text(json.dumps(SETTINGS | {"refresh": {"interval": "1h"}}))
        command = [sys.executable, "-m", "exporter", f"--config.file={config}", "--log.level=error"]
        command.append(f"--web.listen-address=127.0.0.1:{WATCHING}")
        process = stack.enter_context(running(*command, url=f"http://127.0.0.1:{WATCHING}/", env=environment))
        scraper = Scraper(WATCHING)
        until(lambda: scraper.scrape("/metrics?name[]=heat_up").count(b"} 1\n") == projects, 600)
        yield process.pid


def watching(projects: int, *, scrapes: int) -> Iterator[Row]:
    """What an exporter that watches many small projects takes more than with one of them, scraped in every way; and how
    long a part of its page takes, asked for by `name[]` or as a project's probe, against the whole of it."""
    with _watching(1) as process:
        scraped_in_every_way(WATCHING)
        one = resident(process)
    with _watching(projects) as process:
        page = scraped_in_every_way(WATCHING)
        full = resident(process)
        project = re.search(rb'heat_up\{.*?project_id="([^"]*)"', page)
        assert project is not None
        times = {}
        for path in ("/metrics", f"/metrics?name[]={PART}", f"/probe?cloud=bench&project={project[1].decode()}"):
            scraper = Scraper(WATCHING, compressed=True)
            for _ in range(scrapes):
                scraper.scrape(path)
            times[path] = scraper.p99
    series = page.count(b"\n") - page.count(b"\n# ")
    whole, *parts = times.values()
    for what, seconds in zip((f"with name[]={PART}", "of one project's /probe"), parts, strict=True):
        yield Row(
            what=f"99 of 100 scrapes {what}, {projects:,} projects, gzip",
            ours=seconds * 1e3,
            theirs=whole * 1e3,
            unit="ms",
            peer="the whole page",
            ratio=seconds / whole,
            limit=True,
        )
    yield Row(
        what=f"memory of an exporter with {series:,} series of {projects:,} projects, scraped in every way",
        ours=(full - one) / 1e6,
        theirs=len(page) / 1e6,
        unit="MB",
        peer="the plain page's bytes",
        ratio=(full - one) / len(page),
        target=4,
        limit=True,
    )


# -- scraping


def blocks(project: int, value: int) -> dict[str, Block]:
    """What one project shows."""
    found = {}
    names = [family.name for family in FAMILIES if family.kind == "gauge" and family.scope in ("data", "project")]
    scope = SCOPE_LABELS["project"]
    for place in range(FAMILIES_SHOWN):
        name = names[place % len(names)]
        labels = f'{scope[0]}="cloud",{scope[1]}="{project:032x}",{scope[2]}="project-{project}"'
        line = "".join(f'{name}{{{labels},action="{place}-{each}"}} {value}\n' for each in range(LINES)).encode()
        before = found.get(name)
        text = (before.text[0] + line if before else line,)
        found[name] = Block(text, text)
    return found


async def _serve(port: int, projects: int, owners: int) -> None:
    """A page of so many projects, put by so many owners; each of them changes once a minute."""
    from exporter.cli.serve import Address, listening, settle_interpreter
    from exporter.collector.collector import Collector
    from exporter.config.schema import parse
    from exporter.web.app import Server

    settle_interpreter()
    fleet = Collector(parse("clouds: [{name: bench}]", source="bench"))
    share = projects // owners

    def put(owner: int, value: int) -> None:
        together: dict[str, Block] = {}
        for project in range(owner * share, (owner + 1) * share):
            for name, block in blocks(project, value).items():
                before = together.get(name)
                text = (before.text[0] if before else b"") + block.text[0]
                together[name] = Block((text,), (text,))
        fleet.page.put(("project", owner), together)

    for owner in range(owners):
        put(owner, 0)
    async with listening(Server(fleet), [Address("127.0.0.1", port)]):
        for owner in cycle(range(owners)) if owners > 1 else ():
            await asyncio.sleep(MINUTE / owners)
            put(owner, int(time.monotonic()))
        await asyncio.Event().wait()


def scraping(projects: int, *, scrapes: int) -> Iterator[Row]:
    """Scrapes of a page that many projects keep changing, against the same bytes as one project's that stay."""
    with ExitStack() as stack:
        for port, owners in ((MANY, projects), (ONE, 1)):
            command = [sys.executable, "-m", "bench.many", "serve", str(port), str(projects), str(owners)]
            stack.enter_context(running(*command, url=f"http://127.0.0.1:{port}/-/healthy"))
        for compressed in (False, True):
            many, one = Scraper(MANY, compressed=compressed), Scraper(ONE, compressed=compressed)
            size = len(one.scrape())
            many.scrape()
            many.times.clear()
            one.times.clear()
            for _ in range(scrapes):
                many.scrape()
                one.scrape()
            how = "gzip" if compressed else "plain"
            yield Row(
                what=f"99 of 100 scrapes of {projects:,} projects, {size / 1e6:.1f} MB {how}",
                ours=many.p99 * 1e3,
                theirs=one.p99 * 1e3,
                unit="ms",
                peer="the same bytes as one project",
                ratio=many.p99 / one.p99,
                target=2,
                limit=True,
            )


if __name__ == "__main__":
    match sys.argv[1]:
        case "cloud":
            asyncio.run(_cloud(int(sys.argv[2])))
        case "refresh":
            asyncio.run(_refresh(int(sys.argv[2])))
        case _:
            asyncio.run(_serve(*map(int, sys.argv[2:5])))
