"""Many clouds and many projects at once: each counted for itself, once, within limits, forgotten when it is gone."""

import asyncio
import gc
import inspect
import re
import sys
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

from exporter.cli.report import summarize
from exporter.collector.cloud_collector import CloudCollector
from exporter.collector.collector import Collector
from exporter.metrics.series_budget import OWN_SERIES, SPARE_SHARE
from exporter.simulator import Plan, Simulator, World, build
from tests import harness
from tests.harness import (
    FIRST,
    ONCE,
    SECOND,
    Cloud,
    Exporter,
    Hands,
    Hold,
    Sample,
    Samples,
    answering,
    configuration,
    eventually,
    page_of,
)

cloud = harness.cloud
pytestmark = harness.sdk_warning

T = TypeVar("T")

DEPLOYMENTS = "heat_software_deployments"
PER_SERVER = "heat_server_software_deployments"
CODES = "heat_software_deployment_status_codes"
WITHHELD = "heat_series_withheld"
REFRESHES = "heat_refreshes_total"
PROBLEMS = "heat_software_deployment_problem_timestamp_seconds"
CONFIGS = "heat_software_config_deployments"
OTHER_BOUNDED = [PROBLEMS, CONFIGS]
"""The families beside those of servers that `limits.series` cuts."""
CYCLES = 10


@asynccontextmanager
async def beside(cloud: Cloud, name: str, world: World | None = None) -> AsyncIterator[Cloud]:
    """A second simulated cloud, whose entry in clouds.yaml has this name; by default the first one's twin."""
    async with Simulator(world or harness.quiet_world()) as simulator:
        other = Cloud(simulator, cloud.monkeypatch, cloud.folder)
        other.write(cloud.entry(), **{name: other.entry()})
        yield other


def comparable(samples: Iterable[Sample], *without: str) -> Counter[tuple[str, frozenset[tuple[str, str]], float]]:
    """Samples as a multiset, without some of their labels."""
    return Counter(
        (each.name, frozenset((key, value) for key, value in each.labels.items() if key not in without), each.value)
        for each in samples
    )


async def look(exporter: Exporter) -> Samples:
    """What /metrics shows now, read the quick way: these tests look at thousands of pages, of labels without quotes."""
    found = Samples()
    for line in (await exporter.get()).text.splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition("{")
            labels, _, value = rest.rpartition("} ") if rest else ("", "", line.rpartition(" ")[2])
            found.append(Sample(name.partition(" ")[0], dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)))
    return found


async def when(exporter: Exporter, check: Callable[[Samples], Any]) -> Samples:
    """The first page that fulfils the check."""

    async def page() -> Samples | None:
        found = await look(exporter)
        return found if check(found) else None

    found: Samples = await eventually(page, inspect.getsource(check).strip())
    return found


async def cycles(exporter: Exporter, number: int = CYCLES, **labels: str) -> Samples:
    """A page after so many more refreshes of every project that has these labels."""

    def refreshes() -> dict[Any, int]:
        found = {(watch.key, watch.state.name): watch.state.refreshes for watch in exporter.fleet.watches()}
        wanted = {"cloud": lambda key: key[0].cloud, "project": lambda key: key[1]}
        return {key: each for key, each in found.items() if all(wanted[name](key) == labels[name] for name in labels)}

    await exporter.fleet.wait_ready()
    before = refreshes()
    assert before
    await eventually(
        lambda: all(now - before.get(key, 0) >= number for key, now in refreshes().items()), f"{number} more refreshes"
    )
    return await look(exporter)


# -- several clouds


async def test_clouds_have_credentials_intervals_and_projects_of_their_own(cloud: Cloud):
    """Clouds of one configuration, and entries of one cloud, are asked each with its own user, pace and projects."""
    world = build(Plan(projects=3, servers=3, deployments=0, churn=0, seed=2))
    world.user("monitor").password = "another"
    async with beside(cloud, "other", world) as other:
        bound = other.entry(application_credential=True, project="data-pipeline")
        other.write(cloud.entry(), other=other.entry(), bound=bound)
        clouds = [
            {"name": "sim", "cloud": "simulator", "refresh": {"interval": "150ms"}},
            {"cloud": "other", "projects": [SECOND], "refresh": ONCE},
            {"name": "third", "cloud": "bound", "refresh": {"interval": "200ms"}},
        ]
        async with cloud.exporter(configuration(clouds=clouds)) as exporter:
            await exporter.fleet.wait_ready()
            page = await when(
                exporter,
                lambda page: (
                    page.value(REFRESHES, cloud="third") >= 3 and page.value(REFRESHES, cloud="sim", project=FIRST) >= 3
                ),
            )
    assert {(each.labels["cloud"], each.labels["project"]): each.value for each in page.select("heat_up")} == {
        ("sim", FIRST): 1, ("sim", SECOND): 1, ("other", SECOND): 1, ("third", "data-pipeline"): 1,
    }  # fmt: skip
    # A slow answer lengthens a short interval, but not to an hour.
    assert 0.15 <= page.value("heat_refresh_interval_seconds", cloud="sim", project=SECOND) < 3600
    assert 0.2 <= page.value("heat_refresh_interval_seconds", cloud="third") < 3600
    assert page.value("heat_refresh_interval_seconds", cloud="other") == 3600
    assert page.value(REFRESHES, cloud="other") == 1
    assert not cloud.requests.count(status=401) + other.requests.count(status=401)
    # What nobody asked for was not asked for.
    assert other.asked(FIRST) == 0
    assert other.asked(SECOND) == 1
    assert page.value("heat_authentications_total", cloud="third") == 1


async def test_the_same_id_in_two_clouds_is_two_projects(cloud: Cloud):
    """Twins of clouds, alike to every id, share no data, no failure and no end."""
    async with beside(cloud, "other") as other:
        assert other.project().id == cloud.project().id
        for _ in range(3):
            other.deploy(FIRST, status="FAILED", code=7)
        clouds = [{"name": "sim", "cloud": "simulator"}, {"cloud": "other"}]
        settings = configuration(refresh={"discovery": "100ms"}, clouds=clouds)
        async with cloud.exporter(settings) as exporter:
            await exporter.fleet.wait_ready()
            page = await look(exporter)
            mine, theirs = ({"cloud": name, "project_id": cloud.project().id} for name in ("sim", "other"))
            assert page.cells(DEPLOYMENTS, "status", **mine) == {"COMPLETE": 1}
            assert page.cells(DEPLOYMENTS, "status", **theirs) == {"FAILED": 3}
            assert page.total("heat_duplicate_records_total") == 0
            assert page.total("heat_cloud_admin_token") == 0

            other.listing(answering(500))
            page = await when(exporter, lambda page: page.value("heat_up", cloud="other", project=FIRST) == 0)
            assert page.value("heat_up", **mine) == 1
            assert not page.select("heat_refresh_failures_total", cloud="sim")

            other.project(SECOND).enabled = False
            page = await when(exporter, lambda page: not page.select("heat_up", cloud="other", project=SECOND))
            assert page.value("heat_up", cloud="sim", project=SECOND) == 1
            assert page.cells(DEPLOYMENTS, "status", cloud="sim", project=SECOND) == {"COMPLETE": 1}
            assert page.cells("heat_projects_removed_total", "cloud", "reason") == {("other", "disabled"): 1}


# -- which servers count


async def test_what_the_server_patterns_leave_out_counts_nowhere(cloud: Cloud):
    """With patterns, the page is that of a cloud which never had the other deployments: no total, code, age, series or
    duplicate tells of them."""
    now = cloud.world.now()
    async with beside(cloud, "other") as other:
        for each in (cloud, other):
            for deployment in list(each.world.deployments):
                each.world.remove(deployment)
        kept = ("web-1", "web-22", "db-web-1")
        for server in (*kept, "web-2", "db-1", "db-2", "xweb-1", None):
            for status, code, ago in (("COMPLETE", 0, 50), ("FAILED", 3, 700), ("IN_PROGRESS", None, 9000)):
                fields = {"status": status, "code": code, "server": server, "created": now - ago}
                for each in (cloud, other) if server in kept else (cloud,):
                    deployment = deploy_at(each, **fields)
                    if server not in kept:
                        # Met twice, but left out both times.
                        each.world.add_raw(each.project().id, deployment.render())
        for each in (cloud, other):
            record = deploy_at(each, status="COMPLETE", code=0, server="web-1", created=now - 5)
            each.world.add_raw(each.project().id, record.render())
        patterns = {"include": ["web-.*", "db-.*"], "exclude": ["web-2", "db-[0-9]"]}
        clouds = [{"name": "sim", "cloud": "simulator", "servers": patterns}, {"cloud": "other"}]
        hands = Hands(wall=now)
        async with cloud.fleet(configuration(refresh=ONCE, clouds=clouds), clock=hands.clock) as fleet:
            await fleet.once()
            page = page_of(fleet)
    ours = [
        each
        for each in page
        if each.labels.get("project") == FIRST
        and "deployment_id" not in each.labels
        and each.name not in ("heat_refresh_response_bytes", "heat_last_refresh_duration_seconds")
    ]
    left, right = (comparable((s for s in ours if s.labels["cloud"] == name), "cloud") for name in ("sim", "other"))
    assert left == right
    assert page.total(DEPLOYMENTS, cloud="sim", project=FIRST) == 3 * len(kept) + 1
    assert page.value("heat_duplicate_records_total", cloud="sim", project=FIRST) == 1


def deploy_at(cloud: Cloud, *, created: float, code: object, **fields: Any) -> Any:
    """A deployment in the first project, created at exactly this time."""
    made = cloud.deploy(FIRST, code=code, **fields)
    made.created = created
    made.json = None
    return made


@asynccontextmanager
async def scraping(exporter: Exporter, note: Callable[[Samples], None]) -> AsyncIterator[None]:
    """While this lasts, page after page is scraped and looked at; at least one is."""

    async def scrape() -> None:
        while True:
            note(await look(exporter))

    task = asyncio.create_task(scrape())
    try:
        yield
        await asyncio.sleep(0)
    finally:
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
    if not isinstance(outcome, asyncio.CancelledError):
        raise outcome


# -- duplicates


async def test_a_listing_of_as_many_as_before_is_not_taken_for_the_same(cloud: Cloud):
    """However often a listing was the same, in whatever order: one deployment in the place of another is noticed if it
    is one that stands there twice."""
    some = [cloud.deploy(FIRST, server=f"server-{number}") for number in range(6)]
    project = cloud.project(FIRST).id
    places = {"cloud": "sim", "project": FIRST}

    def show(deployment: Any) -> None:
        # At the end of the listing, wherever it was.
        cloud.world.remove(deployment.id)
        cloud.world.add_raw(project, deployment.render())

    async with cloud.fleet() as fleet:
        for deployment in (some[3], some[1]):
            await fleet.once()
            show(deployment)
        await fleet.once()
        page = page_of(fleet)
        assert page.total(DEPLOYMENTS, **places) == 7
        assert page.value("heat_duplicate_records_total", **places) == 0

        cloud.world.remove(some[0].id)
        cloud.world.add_raw(project, some[2].render())
        await fleet.once()
        page = page_of(fleet)
        assert page.total(DEPLOYMENTS, **places) == 6
        assert page.value("heat_duplicate_records_total", **places) == 1


async def test_an_ordinary_cloud_has_no_administrator_s_token(cloud: Cloud, capsys: pytest.CaptureFixture[str]):
    """Where no listings meet, the gauge is 0 and nothing is said, by `check` neither."""
    with capture_logs() as logs:
        async with cloud.exporter() as exporter:
            page = await cycles(exporter, 3)
            assert summarize(exporter.fleet, to=sys.stdout)
    assert page.value("heat_cloud_admin_token", cloud="sim") == 0
    assert not [line for line in logs if "admin" in line["event"]]
    shown = capsys.readouterr()
    assert FIRST in shown.out
    assert "admin" not in shown.out + shown.err


# -- limits


async def test_so_many_servers_of_a_project(cloud: Cloud):
    """`limits.servers` keeps the servers with the most failed and stuck deployments, each whole, and says how many
    series are missing; totals are whole."""
    for number in range(12):
        server = f"server-{number:02}"
        cloud.deploy(server=server)
        for _ in range(number % 4):
            cloud.deploy(server=server, status="FAILED")
        if number == 5:
            for _ in range(9):
                cloud.deploy(server=server, status="IN_PROGRESS", age=7200)
    async with cloud.fleet(configuration(limits={"servers": 5})) as fleet:
        await fleet.once()
        page = page_of(fleet)
    # Number 5 has nine stuck ones and a failed one; 3, 7 and 11 three failed ones; 2 is the first with two.
    assert {each.labels["server_id"] for each in page.select(PER_SERVER, project=FIRST)} == {
        f"server-{number:02}" for number in (5, 3, 7, 11, 2)
    }
    everything = 1 + 12 + 9 + 1  # server-1 of the fixture; COMPLETE of each; FAILED of nine; IN_PROGRESS of one
    assert len(page.select(PER_SERVER, project=FIRST)) == 5 + 5 + 1
    assert page.value(WITHHELD, project=FIRST, family=PER_SERVER) == everything - 11
    assert page.total(DEPLOYMENTS, project=FIRST) == 1 + 12 + 18 + 9


def lines(fleet: Collector) -> int:
    """How many series the page has."""
    return sum(not line.startswith(b"#") for line in fleet.page.plain("text").splitlines())


def rows(page: Samples) -> Counter[str]:
    """How many series of servers each project shows."""
    return Counter(each.labels["project"] for each in page.select(PER_SERVER))


def withheld(page: Samples) -> Counter[str]:
    """How many it does not show."""
    found = Counter({each.labels["project"]: int(each.value) for each in page.select(WITHHELD, family=PER_SERVER)})
    return +found


async def test_so_many_series_on_the_whole_page(cloud: Cloud):
    """`limits.series` holds on every page from the first on: the biggest projects are cut, to the same size, their most
    troubled servers kept; what is withheld is said, totals are whole; and they grow back when there is room."""
    sizes = {FIRST: 100, SECOND: 14, "search": 70, "mobile-api": 5}
    for name, size in sizes.items():
        if name not in (FIRST, SECOND):
            cloud.add_project(name)
        for number in range(size):
            failed = number % 10 == 9
            cloud.deploy(name, server=f"{name}-{number:03}", status="FAILED" if failed else "COMPLETE")
    for name in (FIRST, SECOND):
        sizes[name] += 1  # the fixture's
    only: Any = {"metrics": {"exclude": OTHER_BOUNDED}, "names": False}
    async with cloud.fleet(configuration(**only)) as fleet:
        await fleet.once()
        whole = lines(fleet)
    limit = whole - 60

    settings = configuration(limits={"series": limit}, **only)
    counts: list[int] = []

    def note(page: Samples) -> None:
        counts.append(len(page))

    async with cloud.exporter(settings) as exporter:
        async with scraping(exporter, note):
            await exporter.fleet.wait_ready()
            page = await when(exporter, lambda page: all(each.value >= 5 for each in page.select(REFRESHES)))
        assert max(counts) <= limit
        assert rows(page)[SECOND] == sizes[SECOND]
        assert rows(page)["mobile-api"] == sizes["mobile-api"]
        cut = rows(page)[FIRST], rows(page)["search"]
        assert max(cut) - min(cut) <= 1
        assert rows(page) + withheld(page) == Counter(sizes)
        # Not cut for nothing: little more than what is meant to be spare is free.
        room = limit - OWN_SERIES - lines(exporter.fleet)
        assert room <= (room + rows(page).total()) // SPARE_SHARE + len(cut)
        assert {name: page.total(DEPLOYMENTS, project=name) for name in sizes} == sizes
        for name in (FIRST, "search"):
            kept = {each.labels["server_id"] for each in page.select(PER_SERVER, project=name)}
            assert {f"{name}-{number:03}" for number in range(9, 70, 10)} <= kept

        for deployment in list(cloud.world.deployments.values()):
            if deployment.project_id == cloud.project("search").id:
                cloud.world.remove(deployment.id)
        page = await when(exporter, lambda page: not withheld(page))
        assert rows(page)[FIRST] == sizes[FIRST]
        assert len(page) <= limit


CROWD = 120


@asynccontextmanager
async def crowd(cloud: Cloud, *, projects: int = CROWD, servers: int = 6) -> AsyncIterator[Cloud]:
    """A cloud of many projects, each with one deployment on each of so many servers."""
    world = build(Plan(projects=projects, disabled_projects=0, servers=projects, deployments=0, churn=0))
    for project in world.projects.values():
        config = world.add_config(project.id, "install").id
        for number in range(servers):
            world.add_deployment(project.id, f"server-{number}", config, status="COMPLETE")
    async with Simulator(world) as simulator:
        many = Cloud(simulator, cloud.monkeypatch, cloud.folder)
        many.write()
        yield many


@asynccontextmanager
async def every_turn(found: Callable[[], T]) -> AsyncIterator[list[T]]:
    """What is found at every turn of the event loop where it is something else than before, from before what happens
    inside until after it."""
    seen = [found()]

    async def look() -> None:
        while True:
            await asyncio.sleep(0)
            if (now := found()) != seen[-1]:
                seen.append(now)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    seen.append(found())


def sizes(fleet: Collector) -> Counter[str]:
    """How many series that limits cut each project shows, by its id; quicker than reading the page."""
    return Counter({key.project_id: size for key, size in fleet.publisher.budget.shown.numbers.items()})


def steps(seen: Sequence[Counter[Any]]) -> list[int]:
    """How many keys have another number from each look to the next."""
    return [len((now - before) | (before - now)) for before, now in pairwise(seen)]


async def test_many_projects_are_cut_at_once(cloud: Cloud):
    """If a reload leaves hundreds of projects of one size too small a page, whole families are withheld until they fit,
    and then all get the same share. From one turn of the event loop to the next hardly more than one changes."""
    async with crowd(cloud) as many, many.fleet() as fleet:
        await fleet.once()
        limit = lines(fleet) - 2 * CROWD
        async with every_turn(lambda: sizes(fleet)) as seen:
            await fleet.reload(lambda: configuration(limits={"series": limit}))
        assert lines(fleet) <= limit
        assert max(steps(seen)) <= 2
        assert len(seen[-1]) == CROWD
        assert len(set(seen[-1].values())) == 1
        for _ in range(2):
            await asyncio.gather(*(watch.refresh() for watch in fleet.watches()))
        page = page_of(fleet)
    assert len(page) <= limit
    assert page.total("heat_up") == CROWD
    assert not page.select("heat_refresh_failures_total")
    # All alike, though there is room for a row more of some: whoever is refreshed first takes no more than others.
    assert set(rows(page).values()) == {3}
    assert len(rows(page)) == CROWD
    assert page.total(DEPLOYMENTS) == 6 * CROWD


async def test_many_projects_share_a_page_from_the_start(cloud: Cloud):
    """While hundreds of projects come to too small a page, it is never larger than it may be, whoever looks in
    between; only a few at a time are cut for those that come, and in the end all have the same share."""
    async with crowd(cloud, servers=60) as many:
        async with many.fleet(configuration(names=False)) as fleet:
            await fleet.once()
            limit = lines(fleet) - 20 * CROWD
        async with many.fleet(configuration(limits={"series": limit}, names=False)) as fleet:
            largest, before = 0, Counter[str]()

            def look() -> Counter[str]:
                nonlocal largest, before
                if (found := sizes(fleet)) != before:
                    largest, before = max(largest, lines(fleet)), found
                return found

            async with every_turn(look) as seen:
                await fleet.once()
            page = page_of(fleet)
    assert limit - CROWD < largest <= limit
    cut = [sum(now[name] < was[name] for name in was) for was, now in pairwise(seen)]
    assert max(cut) <= 2
    assert len({(rows(page) + withheld(page))[name] for name in rows(page)}) == 1
    assert len(rows(page)) == CROWD
    assert max(rows(page).values()) == min(rows(page).values()) >= 35
    assert page.total(DEPLOYMENTS) == 60 * CROWD
    assert page.total("heat_up") == CROWD


async def test_many_projects_are_shown_one_by_one(cloud: Cloud):
    """A cloud's projects come onto the page one by one as they are found, and so does an interval that changes for all:
    in between others have their turn, and the number of projects is that of those on the page, also where some go."""
    page: tuple[bytes, ...] = ()
    intervals = Counter[str]()
    counted: list[tuple[int, float]] = []

    def shown() -> Counter[str]:
        nonlocal page, intervals
        if (parts := fleet.page.parts("text")) is not page:
            page, text = parts, b"".join(parts)
            found = re.findall(rb'\nheat_refresh_interval_seconds{.*project_id="(.*?)".* (.*)', text)
            intervals = Counter({project.decode(): int(float(seconds)) for project, seconds in found})
            counted.append((len(intervals), sum(map(float, re.findall(rb"\nheat_projects{.* (.*)", text)))))
        return intervals

    many_requests = {"requests_per_second": 10 * CROWD}
    settings = configuration(refresh={"interval": "1h"}, limits=many_requests)
    async with crowd(cloud) as many, many.fleet(settings) as fleet:
        async with every_turn(shown) as seen:
            await asyncio.gather(*(each.discover() for each in fleet.clouds.values()))
            await fleet.publisher.settled()
        assert not seen[0]
        assert list(seen[-1].values()) == [3600] * CROWD
        assert max(steps(seen)) <= 2
        settings = configuration(refresh={"interval": "50m"}, limits=many_requests)
        async with every_turn(shown) as seen:
            await fleet.reload(lambda: settings)
        assert list(seen[-1].values()) == [3000] * CROWD
        assert max(steps(seen)) <= 2
        gone = [each for each in many.world.projects.values() if each.id in seen[-1]][-5:]
        for project in gone:
            many.world.remove_project(project.id)
        many.add_project("new")
        async with every_turn(shown) as seen:
            await asyncio.gather(*(each.discover() for each in fleet.clouds.values()))
            await fleet.publisher.settled()
        assert len(seen[-1]) == CROWD - 5 + 1
        assert max(steps(seen)) <= 2
    assert not [each for each in counted if each[0] != each[1]]


async def test_exit_codes_past_the_limit(cloud: Cloud):
    """Of more than 64 distinct exit codes the rarest are counted together as `other`; none and invalid stay apart."""
    for code in range(70):
        for _ in range(1 if code % 7 == 3 else 2):
            cloud.deploy(SECOND, status="FAILED", code=code)
    cloud.deploy(SECOND, status="FAILED", code=None)
    cloud.deploy(SECOND, status="FAILED", code="x")
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    codes = page.cells(CODES, "deploy_status_code", project=SECOND, status="FAILED")
    rare = [str(code) for code in range(70) if code % 7 == 3]
    # The fixture's deployment has code 0. Ten are rare; of those the four smallest still fit.
    assert codes.pop("none") == codes.pop("invalid") == 1
    assert codes.pop("other") == len(rare) - 4
    assert len(codes) == 64
    assert set(rare) & set(codes) == set(rare[:4])
    assert page.total(CODES, project=SECOND) == page.total(DEPLOYMENTS, project=SECOND) == 130 + 2 + 1
    assert page.value("heat_software_deployment_deploy_status_code_gcount", project=SECOND, action="CREATE") == 131


@pytest.mark.parametrize("kind", ["status", "action"])
async def test_undocumented_values_past_the_limit(cloud: Cloud, kind: str):
    """Of more than 20 undocumented statuses (or actions) the first in lexical order appear as they are, the rest as
    `other`; the documented ones are there whatever else is."""
    values = [f"ODD-{number:02}" for number in range(25)]
    for value in reversed(values):
        cloud.deploy(SECOND, **{kind: value})
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    cells = page.cells(DEPLOYMENTS, kind, project=SECOND)
    usual = "COMPLETE" if kind == "status" else "CREATE"
    assert cells == {usual: 1, "other": 5} | dict.fromkeys(values[:20], 1)
    documented = 3 if kind == "status" else 5
    assert len({each.labels[kind] for each in page.select(DEPLOYMENTS, project=SECOND)}) == documented + 20 + 1


async def test_what_the_page_shows_is_kept_there_alone(cloud: Cloud):
    """The data of a refresh stays on the page while only the state or the name of its project changes."""
    project = cloud.project(FIRST).id
    async with cloud.fleet() as fleet:
        await fleet.once()
        (watch,) = (each for each in fleet.watches() if each.key.project_id == project)
        before = page_of(fleet).cells(DEPLOYMENTS, "status", "action", project=FIRST)
        assert sum(before.values()) == 1
        cloud.listing(answering(500))
        await watch.refresh()
        assert page_of(fleet).value("heat_up", project=FIRST) == 0
        assert page_of(fleet).cells(DEPLOYMENTS, "status", "action", project=FIRST) == before
        watch.rename("renamed")
        await fleet.publisher.settled()
        assert page_of(fleet).cells(DEPLOYMENTS, "status", "action", project="renamed") == before


# -- what is gone leaves nothing behind


def open_files() -> int:
    """How many files and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def held(fleet: Collector) -> dict[str, int]:
    """How much the parts of a fleet keep."""
    (watch,) = fleet.clouds.values()
    access, samples, page, budget = watch.access, watch._samples, fleet.page, fleet.publisher.budget
    shelves = {id(each.shelf): each.shelf for sections in page._sections.values() for each in sections}.values()
    return {
        "tokens": len(access._tokens),
        "plugins": len(access._plugins),
        "renewals": len(access._renewals),
        "samples": len(samples._samples) + len(samples._holders),
        "slots": len(page._slots) + len(page._free),
        "series": sum(len(each.numbers) for each in (budget.shown, budget._fixed, budget._fixed_data, budget._wanted)),
        "conditions": len(fleet.publisher._conditions._of) + len(fleet.publisher._shown),
        "blocks": sum(len(shelf.sizes) + sum(slot >= 0 for _, slot in shelf.pieces) for shelf in shelves),
        "pieces": sum(len(shelf.pieces) for shelf in shelves),
        "lines": sum(b"project_id=" in line for line in page.plain("text").splitlines()),
        "loops": len(watch._tasks),
        "watches": len(watch.projects),
    }


REPLACED = 5


async def test_projects_that_come_and_go_leave_nothing_behind(cloud: Cloud):
    """After ten rounds in each of which half of the projects were replaced, there is no series, task, token, plugin,
    sample, block, thread or connection more than after the first."""
    names = [cloud.add_project(f"project-{number}").name for number in range(8)]
    for name in names:
        cloud.deploy(name, server=f"server-of-{name}")
    made = len(names)
    assert (2 + made) / 2 == REPLACED
    settings = configuration(refresh={"discovery": "50ms"}, limits={"concurrency": 2})
    async with cloud.exporter(settings) as exporter:
        fleet: Collector = exporter.fleet
        await when(exporter, lambda page: page.total("heat_up") == 2 + len(names))
        seen: list[weakref.ref[Any]] = []
        first: dict[str, int] = {}
        files, threads, tasks = 0, 0, 0
        for turn in range(11):
            for name in names[:REPLACED]:
                cloud.world.remove_project(cloud.project(name).id)
            new = [cloud.add_project(f"project-{made + number}").name for number in range(REPLACED)]
            names = names[REPLACED:] + new
            made += REPLACED
            for name in new:
                cloud.deploy(name, server=f"server-of-{name}")
            wanted = {FIRST, SECOND, *names}
            await eventually(
                lambda wanted=wanted: wanted == {each.state.name for each in fleet.watches() if each.state.up}
            )
            seen += [weakref.ref(watch) for watch in fleet.watches()]
            assert {each.labels["project"] for each in await look(exporter) if "project" in each.labels} == wanted
            if turn == 0:
                first = await eventually(lambda: calm(fleet))
                files, threads = open_files(), threading.active_count()
                tasks = len(asyncio.all_tasks())
        last = await eventually(lambda: calm(fleet))
        assert last == first
        ids = {cloud.project(name).id for name in wanted}
        named = {task.get_name() for task in asyncio.all_tasks()}
        assert {name for name in named if name.startswith("refresh ")} == {f"refresh sim/{each}" for each in ids}
        # A connection or a thread may be idle or in use just now; one for each project gone would be fifty.
        assert len(asyncio.all_tasks()) <= tasks + 4
        assert open_files() <= files + 6
        assert threading.active_count() <= threads + 2
        assert max(fleet.page._slots.values()) <= len(wanted) + REPLACED + 2
        (watch,) = fleet.clouds.values()
        assert set(watch.access._tokens) == {None, *ids}
        assert set(watch._samples._samples) == ids
        assert {each[2] for each in fleet.publisher.budget._fixed.numbers if each[0] == "project"} == ids
        page = await look(exporter)
        assert page.value("heat_projects_removed_total", reason="gone") == REPLACED * 11

        def alive() -> set[str]:
            gc.collect()
            return {watch.state.name for reference in seen if (watch := reference()) is not None}

        # A task that was cancelled a moment ago needs a few turns of the event loop to end.
        await eventually(lambda: alive() == wanted)


def calm(fleet: Collector) -> dict[str, int] | None:
    """What is held at a moment when no project is about to be asked for the first time."""
    found = held(fleet)
    return found if found["renewals"] == 0 and all(watch.state.up for watch in fleet.watches()) else None


async def test_a_project_that_goes_while_its_token_is_asked_for_leaves_none(cloud: Cloud):
    """A token that arrives when its project is gone is not kept."""
    hold = Hold()
    gone = cloud.add_project("gone")
    late: list[Any] = []

    async def slow(request: Any) -> None:
        scope = (await request.json())["auth"]["scope"]["project"]
        if scope.get("id") == gone.id:
            late.append(request)
            await hold(request)

    cloud.authentication(slow)
    async with cloud.exporter(configuration(refresh={"discovery": "50ms"})) as exporter:
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        watch: CloudCollector = exporter.fleet.clouds["sim"]
        # Not for long: Keystone answers when the exporter has forgotten why it asked.
        for key in [key for key in cloud.world.grants if key[1] == gone.id]:
            cloud.world.grants[key].clear()
        await when(exporter, lambda page: page.value("heat_projects_removed_total", reason="gone") == 1)
        cloud.world.grant(cloud.world.user("monitor").id, gone.id, "reader")
        cloud.intercept(answering(503), "/v3/auth/projects")
        hold.released.set()
        await eventually(
            lambda: cloud.requests.count(path="/v3/auth/tokens", status=201) >= 2 and not watch.access._renewals
        )
        await cycles(exporter, 2, project=SECOND)
        assert gone.id not in watch.access._tokens
        assert gone.id not in watch.access._plugins


async def test_a_project_that_goes_before_its_first_answer_keeps_nobody_from_being_ready(cloud: Cloud):
    """Readiness does not wait for the first attempt of a project that is watched no more."""
    gone = cloud.add_project("gone")
    cloud.listing(Hold(), "gone")
    async with cloud.exporter(configuration(refresh={"discovery": "100ms"})) as exporter:
        await when(exporter, lambda page: page.total("heat_up") == 2)
        assert (await exporter.get("/-/ready")).status == 503
        cloud.world.remove_project(gone.id)

        async def ready() -> bool:
            return (await exporter.get("/-/ready")).status == 200

        await eventually(ready, "ready")
