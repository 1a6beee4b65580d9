"""Clouds whose listings are slow: asked for politely, waited for patiently, and in nobody's way."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from exporter.config.units import parse_duration
from exporter.simulator import Plan, Requests
from tests import harness
from tests.harness import (
    FIRST,
    Cloud,
    Exporter,
    Samples,
    configuration,
    eventually,
    page_of,
    watch_of,
)
from tests.test_fleet import beside, look

cloud = harness.cloud
pytestmark = harness.sdk_warning

DEPLOYMENTS = "heat_software_deployments"
INTERVAL = "heat_refresh_interval_seconds"
REFRESHES = "heat_refreshes_total"
SKIPPED = "heat_refreshes_skipped_total"
FAILURES = "heat_refresh_failures_total"
OWN = [{"name": "sim", "cloud": "simulator", "projects": "current"}]
"""The cloud's own project alone."""
SHARE = 0.25
STALE_AFTER = 1.0
STEPS = ((0.0, 6), (0.1, 2), (0.3, 3), (0.4, 2), (0.3, 1), (0.1, 2), (0.0, 11))
"""How long a listing takes, and for how many refreshes."""


@asynccontextmanager
async def looking(exporter: Exporter) -> AsyncIterator[list[tuple[float, Samples]]]:
    """The pages that are shown meanwhile, one after the other, and when."""
    pages: list[tuple[float, Samples]] = []

    async def look_on() -> None:
        while True:
            page = await look(exporter)
            pages.append((time.time(), page))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(look_on())
    try:
        yield pages
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def slow_by(cloud: Cloud, seconds: float) -> None:
    """Let every deployment take the cloud so long from now on."""
    cloud.world.plan = Plan(churn=0, delay_per_deployment=seconds)


async def test_a_listing_keeps_within_its_share_while_it_gets_slower_and_faster(cloud: Cloud):
    """While listings get slower and faster again the project keeps its cloud busy for no more than `refresh.share` of
    any ten refreshes, its data never leaves the page, the interval in force is there, and the log has a line each way.
    """
    refresh = {"share": SHARE, "stale_after": f"{STALE_AFTER:.0f}s"}
    with capture_logs() as logs:
        async with cloud.exporter(configuration(refresh=refresh, clouds=OWN)) as exporter:
            await exporter.refreshed()
            async with looking(exporter) as pages:
                for seconds, times in STEPS:
                    slow_by(cloud, seconds)
                    before = cloud.asked()
                    await eventually(lambda wanted=before + times: cloud.asked() >= wanted, f"{times} of {seconds} s")
                last = await exporter.when(lambda page: page.value(INTERVAL) == 0.1)

    asked = cloud.requests.select(path_suffix="/software_deployments", status=200)
    assert len(asked) > 20
    for number, later in enumerate(asked[10:]):
        busy = sum(each.ended - each.time for each in asked[number : number + 10] if each.ended is not None)
        assert busy <= SHARE * (later.time - asked[number].time + 0.4), "one may be late on its way"

    assert all(page.total(DEPLOYMENTS) == 1 for _, page in pages)
    assert "data withdrawn, too old" not in [line["event"] for line in logs]
    ages = [at - page.value("heat_last_refresh_success_timestamp_seconds") for at, page in pages]
    assert max(ages) > STALE_AFTER, "three intervals in force are longer"

    longest = max(page.value(INTERVAL) for _, page in pages)
    assert longest >= 0.4 / SHARE
    assert last.value(INTERVAL) == 0.1
    lines = [line for line in logs if "interval" in line["event"]]
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("interval stretched, for the listing is slow", "info"),
        ("interval as usual again", "info"),
    ]
    assert {line["project"] for line in lines} == {FIRST}
    assert parse_duration(lines[0]["from"]) == 0.1
    assert parse_duration(lines[0]["to"]) >= 0.3 / SHARE
    assert parse_duration(lines[1]["from"]) > parse_duration(lines[1]["to"]) == 0.1
    assert lines[0]["share"] == SHARE


async def test_a_stretch_may_end_with_a_reload(cloud: Cloud):
    """Where the configuration allows as much from now on, the interval goes by that at once, and soon the log."""
    slow_by(cloud, 0.4)
    allowing = configuration(refresh={"share": 1, "interval": "10s"}, clouds=OWN)
    with capture_logs() as logs:
        async with cloud.fleet(configuration(refresh={"share": SHARE}, clouds=OWN)) as fleet:
            await fleet.once()
            assert page_of(fleet).value(INTERVAL) >= 0.4 / SHARE
            await fleet.reload(lambda: allowing)
            assert page_of(fleet).value(INTERVAL) == 10
            for _ in range(3):
                await watch_of(fleet).refresh()
    events = [(line["event"], line["to"]) for line in logs if "interval" in line["event"]]
    assert [event for event, _ in events] == ["interval stretched, for the listing is slow", "interval as usual again"]
    assert events[1][1] == "10s"


async def test_a_share_of_one_misses_no_turn(cloud: Cloud):
    """Where a listing may keep its cloud busy all the time, one follows the other: no turn in between is left out."""
    slow_by(cloud, 0.5)
    async with cloud.exporter(configuration(refresh={"share": 1}, clouds=OWN)) as exporter:
        page = await exporter.when(lambda page: page.get(REFRESHES, default=0) >= 6)
    assert page.value(SKIPPED) <= 2  # of five, where the machine itself was busy
    assert cloud.requests.peak(path_suffix="/software_deployments") == 1


# -- large and slow at once


def fill(cloud: Cloud, *, bytes_per_second: float) -> None:
    """Some 90 KB of deployments, sent this fast."""
    for _ in range(39):
        cloud.deploy(output_values={"deploy_stdout": "x" * 2000, "deploy_status_code": 0})
    cloud.world.plan = Plan(churn=0, bytes_per_second=bytes_per_second)


async def test_a_listing_may_arrive_slowly_for_long(cloud: Cloud):
    """A listing that goes on for longer than `refresh.silence` succeeds, as long as bytes keep coming."""
    fill(cloud, bytes_per_second=40_000)
    async with cloud.fleet(configuration(refresh={"silence": "1s", "timeout": "15s"}, clouds=OWN)) as fleet:
        await fleet.once()
        page = page_of(fleet)
    (listing,) = cloud.requests.select(path_suffix="/software_deployments")
    assert listing.ended is not None
    assert listing.ended - listing.time > 1.5
    assert page.value("heat_up") == 1
    assert page.total(DEPLOYMENTS) == 40


async def test_a_listing_that_takes_too_long_says_which_key_to_raise(cloud: Cloud):
    """A listing that does not end within `refresh.timeout` fails, however steadily it comes, and the message names the
    key, its value and where to raise it; with more time it succeeds."""
    fill(cloud, bytes_per_second=40_000)
    async with cloud.fleet(configuration(refresh={"timeout": "1s"}, clouds=OWN)) as fleet:
        await fleet.once()
        assert page_of(fleet).cells(FAILURES, "api", "reason") == {("orchestration", "timeout"): 1}
        error = watch_of(fleet).state.error
        assert "longer than refresh.timeout (1s)" in error
        assert "may need more, for all clouds or under this cloud's own `refresh`" in error
        raised = configuration(clouds=[{**OWN[0], "refresh": {"timeout": "15s"}}])
        await fleet.reload(lambda: raised)
        await watch_of(fleet).refresh()
        page = page_of(fleet)
    assert page.value("heat_up") == 1
    assert page.total(DEPLOYMENTS) == 40


async def test_a_listing_that_falls_silent_says_which_key_to_raise(cloud: Cloud):
    """A cloud that is silent for longer than `refresh.silence` before its list is ready is a failure whose message
    names the key, the silence and where to raise it; with more patience it succeeds."""
    slow_by(cloud, 1.5)
    async with cloud.fleet(configuration(refresh={"silence": "500ms"}, clouds=OWN)) as fleet:
        await fleet.once()
        assert page_of(fleet).cells(FAILURES, "api", "reason") == {("orchestration", "timeout"): 1}
        error = watch_of(fleet).state.error
        assert "no byte for 500ms" in error
        assert "a longer refresh.silence, for all clouds or under this cloud's own `refresh`" in error
        raised = configuration(clouds=[{**OWN[0], "refresh": {"silence": "15s"}}])
        await fleet.reload(lambda: raised)
        await watch_of(fleet).refresh()
        assert page_of(fleet).value("heat_up") == 1


# -- and in nobody's way

PROJECTS, SLOW = 100, 10
CYCLES = 4


async def test_slow_projects_take_no_turn_from_the_others(cloud: Cloud):
    """Of 100 projects, 10 have responses that dribble in for half an interval, and always want to be asked again.
    The other 90 are asked as often as a project of another cloud, which has nobody beside it."""
    names = [FIRST, *(cloud.add_project(f"project-{number:03}").name for number in range(PROJECTS - 2))]
    paths = {f"/heat/v1/{cloud.project(name).id}/software_deployments": name for name in names}
    slow = {path for number, path in enumerate(paths) if number % (PROJECTS // SLOW) == 5}
    body = b'{"software_deployments": [' + b" " * 30 + b"]}"

    async def dribble(request: web.BaseRequest, api: str) -> web.StreamResponse | None:
        if request.path not in slow:
            return None
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for place in range(len(body)):
            await response.write(body[place : place + 1])
            await asyncio.sleep(0.025)
        return response

    cloud.simulator.intercept = dribble
    settings = configuration(
        refresh={"interval": "3s", "share": 1, "slow_after": "500ms"},
        limits={"concurrency": 16},
        clouds=[{"name": "sim", "cloud": "simulator"}, {"cloud": "other", "projects": "current"}],
        names=False,
    )
    async with beside(cloud, "other") as other, cloud.exporter(settings) as exporter:
        # From when it is known which are slow: every project has been asked once.
        await exporter.fleet.wait_ready()
        cloud.requests.clear()
        other.requests.clear()
        page = await look(exporter)
        before = {each.labels["project"]: each.value for each in page.select(SKIPPED, cloud="sim")}
        await eventually(lambda: other.asked() >= CYCLES + 1, f"{CYCLES} intervals")
        page = await look(exporter)
        asked = Counter(each.path for each in cloud.requests.select(path_suffix="/software_deployments"))
        held = Requests()
        for each in cloud.requests:
            if each.path in slow:
                held.append(each)
    assert len(before) == PROJECTS
    quick = [path for path in paths if path not in slow]
    # One that was just about due when the other cloud's last was may be missing.
    late = {paths[path]: asked[path] for path in quick if asked[path] < CYCLES - 1}
    assert not late
    assert not [
        name for path, name in paths.items() if path not in slow and page.value(SKIPPED, cloud="sim", project=name)
    ]
    # The slow ones wanted more, and got their half of the cloud's places.
    assert held.peak() == 4
    assert sum(asked[path] for path in slow) >= CYCLES
    assert page.total("heat_up") == PROJECTS + 1
