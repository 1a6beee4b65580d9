"""The soak itself: an exporter that refreshes at many times its usual speed, scraped all the time from all sides."""

import asyncio
import gc
import random
import signal
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.collector.collector import Collector
from exporter.config import schema
from tests import harness
from tests.harness import OPENMETRICS, Answer, Cloud, Exporter, eventually, running, serving
from tests.soak.judge import DATA, Floor, Judge, Kind, Settings
from tests.soak.life import Life
from tests.soak.pages import Page, PageError, one

STALE_AFTER = "3s"
SCRAPERS = 3
EVERY = 12
"""An event comes after so many listings, more or less."""
PARSED = 50
"""Every so many pages one is read by prometheus-client too."""
MEASUREMENTS = 12
RELOADED = "heat_exporter_config_last_reload_success_timestamp_seconds"
SUCCESSFUL = "heat_exporter_config_last_reload_successful"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long, and from which seed; `inside`: the exporter runs in this process, where its objects can be counted."""

    seed: int
    refreshes: int = 3000
    seconds: float | None = None
    """Instead of a number of refreshes."""
    inside: bool = False

    @property
    def command(self) -> str:
        """What does the same again."""
        length = f"--refreshes {self.refreshes}" if self.seconds is None else f"--seconds {self.seconds:g}"
        return f"{sys.executable} -m tests.soak {length} --seed {self.seed}{' --inside' if self.inside else ''}"


@dataclass
class Report:
    """What a soak has seen."""

    refreshes: int
    pages: int
    figures: int
    doubts: int
    compared: int
    events: Counter[str]
    measured: dict[str, tuple[float, float]]
    """What must not grow: its usual value in the middle third of the run, and in the last."""

    def __str__(self) -> str:
        lines = [
            f"{self.refreshes} listings asked for, {self.compared} of them compared",
            f"{self.pages} pages with {self.figures} figures, {self.doubts} projects in doubt",
            "events: " + ", ".join(f"{name} {count}" for name, count in sorted(self.events.items())),
            *(f"{name}: {before:,.0f}, later {after:,.0f}" for name, (before, after) in self.measured.items()),
        ]
        return "\n".join(lines)


def settings_file(settings: Settings) -> str:
    """The configuration file that says so."""
    return harness.written(
        refresh={"interval": "100ms", "timeout": "30s", "silence": "8s", "stale_after": STALE_AFTER, "share": 1.0,
                 "discovery": "700ms"},
        limits={"requests_per_second": 2000, "servers": settings.servers, "problems": settings.problems,
                "configs": settings.configs, "series": settings.series},
        thresholds={"stuck_after": settings.stuck_after},
        names=settings.names,
    )  # fmt: skip


VARIANTS = (
    Settings(),
    Settings(stuck_after="2s"),
    Settings(servers=3, problems=5),
    Settings(configs=4, names=False),
    Settings(series=900),
    Settings(servers=0, problems=0, configs=0),
)


class Soak:
    """One run."""

    def __init__(self, options: Options, cloud: Cloud, life: Life, exporter: Exporter, reload: "Reload") -> None:
        self.options, self.cloud, self.life, self.exporter = options, cloud, life, exporter
        self.judge = Judge(life, VARIANTS[0])
        self.events: Counter[str] = Counter()
        self._reload = reload
        self._chance = random.Random(f"{options.seed}/soak")
        self._measured: list[dict[str, float]] = []
        self._over = False

    async def run(self, measure: Callable[[], dict[str, float]]) -> Report:
        """All of it; PageError (or another AssertionError) where something is not as it must be."""
        await eventually(lambda: self.life.asked, "the first listing")
        began = time.monotonic()
        seconds = self.options.seconds

        def share() -> float:
            """How much of it is over."""
            return (time.monotonic() - began) / seconds if seconds else self.life.asked / self.options.refreshes

        tasks = [asyncio.create_task(self._scrape(number)) for number in range(SCRAPERS)]
        tasks.append(asyncio.create_task(self._events()))

        async def measuring() -> None:
            while share() < 1:
                await self.life.pass_by(5)
                if share() >= len(self._measured) / MEASUREMENTS:
                    self._measured.append(measure())

        tasks.append(asyncio.create_task(measuring()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            self._over = True
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        third = len(self._measured) // 3
        middle, last = self._measured[third : 2 * third], self._measured[2 * third :]
        judge = self.judge
        return Report(
            self.life.asked, judge.pages, judge.figures, judge.doubts, judge.data, self.events,
            {name: (median(each[name] for each in middle), median(each[name] for each in last)) for name in middle[0]},
        )  # fmt: skip

    # -- from outside

    async def _scrape(self, number: int) -> None:
        """Ask for one page after the other, and have each judged."""
        chance = random.Random(f"{self.options.seed}/scraper/{number}")
        while True:
            await self.life.pass_by(2)
            floor = self.judge.floor
            openmetrics, gzip = chance.random() < 0.5, chance.random() < 0.5
            headers = {"Accept_Encoding": "gzip"} if gzip else {}
            if openmetrics:
                headers["Accept"] = OPENMETRICS
            path, kind = self._path(chance)
            answer = await self.exporter.get(path, **headers)
            if kind is None:
                assert answer.status in {200, 204, 404, 503}, f"{path}: {answer.status}"
                continue
            if answer.status == 404 and path.startswith("/probe"):
                assert self.life.may_be_unknown(path), f"{path}: {answer.text}"
                continue
            assert answer.status == 200, f"{path}: {answer.status}"
            assert (answer.headers.get("Content-Encoding") == "gzip") is gzip, path
            self._judge(path, answer, floor, kind, openmetrics=openmetrics)

    def _judge(self, path: str, answer: Answer, floor: Floor, kind: Kind, *, openmetrics: bool) -> None:
        text = answer.text
        try:
            page = Page.of(text, openmetrics=openmetrics)
            self.judge.page(page, floor, kind=kind)
            if self.judge.pages % PARSED == 0:
                for family in (parse_openmetrics if openmetrics else parse_text)(text):
                    assert family.documentation or not family.name.startswith("heat_"), family.name
        except Exception as error:
            if not isinstance(error, AssertionError):
                error = PageError(f"{type(error).__name__}: {error}")
            (self.cloud.folder / "page.txt").write_text(text)
            raise PageError(f"{path} after {self.life.asked} listings: {error} (the page is in page.txt)") from error

    def _path(self, chance: random.Random) -> tuple[str, Kind | None]:
        """What to ask for next, and what kind of page that is; None for one without figures."""
        known = self.life.watchable()
        project = chance.choice(known)
        names = [name for name in DATA if chance.random() < 0.4] or [DATA[0]]
        some = "&".join(f"name[]={name}" for name in [*names, "heat_series_withheld"])
        match chance.choices(("whole", "probe", "names", "probe names", "other"), (10, 6, 3, 2, 2))[0]:
            case "whole":
                return "/metrics", "whole"
            case "probe":
                return f"/probe?cloud=sim&project={project}", "project"
            case "names":
                return f"/metrics?{some}", "some"
            case "probe names":
                return f"/probe?cloud=sim&project={project}&{some}", "some"
            case _:
                others = ("/", "/sd", "/config", "/updates", f"/project?cloud=sim&project={project}", "/-/ready")
                return chance.choice(others), None

    # -- what happens

    async def _events(self) -> None:
        """One thing after the other."""
        life, chance = self.life, self._chance
        plain = (life.project_comes, life.project_goes, life.renamed, life.tokens_end, life.fails, life.erased,
                 life.oddities, life.oddities)  # fmt: skip
        passing = (life.role_goes, life.disabled)
        while True:
            await life.pass_by(chance.randint(1, 2 * EVERY))
            kind = chance.choices(("plain", "passing", "hangs", "outage", "reload", "refused"), (10, 4, 0.5, 1, 4, 1))[
                0
            ]
            match kind:
                case "plain":
                    event = chance.choice(plain)
                    kind = event.__name__
                    event(chance)
                case "passing":
                    change = chance.choice(passing)
                    kind = change.__name__
                    back = change(chance)
                    await life.pass_by(chance.randint(1, 4 * EVERY))
                    back()
                case "hangs":
                    life.hangs(chance)
                case "outage":
                    await life.outage()
                case "reload":
                    await self._reloaded(chance)
                case "refused":
                    await self._refused(chance)
            self.events[kind] += 1

    async def _reloaded(self, chance: random.Random) -> None:
        judge = self.judge
        current = judge.in_force[-1][1]
        wanted = chance.choice([each for each in VARIANTS if each != current])
        judge.in_force.append((time.time(), wanted))
        before = await self._exporter_figure(RELOADED)
        await self._reload(settings_file(wanted), chance)

        async def read() -> bool:
            return await self._exporter_figure(RELOADED) > before and await self._exporter_figure(SUCCESSFUL) == 1

        await eventually(read, "the reload")
        judge.replaced[len(judge.in_force) - 2] = time.time()

    async def _refused(self, chance: random.Random) -> None:
        """A broken configuration changes nothing, and the one before is read again afterwards."""
        await self._reload("refresh: {interval: soon}\n", chance)

        async def refused() -> bool:
            return await self._exporter_figure(SUCCESSFUL) == 0

        await eventually(refused, "the refusal")
        await self._reload(settings_file(self.judge.in_force[-1][1]), chance)

        async def read() -> bool:
            return await self._exporter_figure(SUCCESSFUL) == 1

        await eventually(read, "the reload of what was")

    async def _exporter_figure(self, name: str) -> float:
        answer = await self.exporter.get(f"/metrics?name[]={name}")
        value = one(Page.of(answer.text, openmetrics=False).exporter, name)
        assert value is not None, answer.text
        return value


Reload = Callable[[str, random.Random], Any]
"""Puts a configuration in place and has it read, by SIGHUP or by HTTP as chance has it."""


async def soak(options: Options, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """Run it; the environment has to be isolated already."""
    life = Life(options.seed)
    async with life.simulator:
        cloud = Cloud(life.simulator, monkeypatch, folder)
        cloud.write()
        async with _inside(cloud) if options.inside else _outside(cloud) as (exporter, reload, measure):
            report = await Soak(options, cloud, life, exporter, reload).run(measure)
    for name, (before, after) in report.measured.items():
        slack, factor = SLACK[name]
        assert after <= before * factor + slack, f"{name} grows: {before:,.0f}, later {after:,.0f}"
    return report


def _own(module: str) -> bool:
    return module.startswith("exporter.") and not module.startswith("exporter.simulator")


SLACK: dict[str, tuple[float, float]] = {
    "resident KiB": (12 * 1024, 1.08),
    "file descriptors": (8, 1.1),
    "threads": (4, 1.0),
    "tasks": (8, 1.1),
    "traced KiB": (512, 1.15),
    "objects": (200, 1.1),
}
"""By how much each may be more in the last third than in the middle one: so much, and so many times."""


@asynccontextmanager
async def _outside(cloud: Cloud) -> AsyncIterator[tuple[Exporter, Reload, Callable[[], dict[str, float]]]]:
    """The exporter as a process of its own."""
    file = cloud.put("exporter.yaml", settings_file(VARIANTS[0]))
    async with serving("--config.file", file, "--web.enable-lifecycle") as (process, exporter):

        async def reload(text: str, chance: random.Random) -> None:
            file.write_text(text)
            if chance.random() < 0.5:
                process.process.send_signal(signal.SIGHUP)
            else:
                answer = await exporter.get("/-/reload", method="POST")
                assert answer.status == (500 if "soon" in text else 200), answer.text

        def measure() -> dict[str, float]:
            wrong = [
                line for line in process.lines if "level=error" in line or "Traceback" in line or "Warning:" in line
            ]
            assert not wrong, wrong[:5]
            del process.lines[:-100]
            folder = Path(f"/proc/{process.process.pid}")
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            return {
                "resident KiB": float(status["VmRSS"].split()[0]),
                "file descriptors": len(list((folder / "fd").iterdir())),
                "threads": int(status["Threads"]),
            }

        yield exporter, reload, measure
        assert await process.stopped(signal.SIGTERM) == 0, process.lines[-20:]


@asynccontextmanager
async def _inside(cloud: Cloud) -> AsyncIterator[tuple[Exporter, Reload, Callable[[], dict[str, float]]]]:
    """The exporter in this process."""
    fleet = Collector(schema.parse(settings_file(VARIANTS[0]), source="test"))
    tracemalloc.start()
    try:
        async with running(fleet) as exporter:

            async def reload(text: str, chance: random.Random) -> None:
                try:
                    await fleet.reload(lambda: schema.parse(text, source="test"))
                except schema.ConfigError:
                    assert "soon" in text

            def measure() -> dict[str, float]:
                gc.collect()
                own = [tracemalloc.Filter(True, "*/exporter/*"), tracemalloc.Filter(False, "*/exporter/simulator/*")]
                traces = tracemalloc.take_snapshot().filter_traces(own)
                # Rows of snapshots are as many as settings allow: they say nothing.
                kinds = Counter(type(each) for each in gc.get_objects() if not isinstance(each, tuple))
                objects = sum(count for kind, count in kinds.items() if _own(str(kind.__module__)))
                return {
                    "traced KiB": sum(each.size for each in traces.statistics("filename")) / 1024,
                    "objects": objects,
                    "tasks": len(asyncio.all_tasks()),
                    "threads": threading.active_count(),
                }

            yield exporter, reload, measure
    finally:
        tracemalloc.stop()
