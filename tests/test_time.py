"""Which clock counts for what: ages go by the wall clock, staleness, pace and tokens by one that nothing sets."""

import asyncio
import time
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web

from exporter.common.clock import Clock, since_boot
from tests import harness
from tests.harness import (
    DEADLINE,
    FIRST,
    ONCE,
    SECOND,
    Cloud,
    Hands,
    Hold,
    Plan,
    answering,
    configuration,
    eventually,
    page_of,
    watch_of,
)

cloud = harness.cloud
pytestmark = harness.sdk_warning

DEPLOYMENTS = "heat_software_deployments"
AGES = "heat_software_deployment_age_seconds"
NOW = 1_700_000_000.0
"""2023-11-14T22:13:20Z"""
HOUR = 3600.0


# -- tokens


async def test_a_token_ends_while_the_machine_sleeps(cloud: Cloud):
    """A token's life goes by a clock that goes on in a suspended machine: an ended one is renewed, never tried."""
    hands = Hands()
    async with cloud.fleet(clock=hands.clock) as fleet:
        await fleet.once()
        cloud.requests.clear()
        hands.advance(HOUR)
        await watch_of(fleet).refresh()
        asked = [(each.path.rsplit("/", 1)[1], each.status) for each in cloud.requests]
        assert asked == [("tokens", 201), ("software_deployments", 200)]
        assert not page_of(fleet).select("heat_refresh_failures_total")


async def test_the_wall_clock_ends_no_token(cloud: Cloud):
    """However the wall clock is set, a token that is good is used."""
    hands = Hands()
    async with cloud.fleet(clock=hands.clock) as fleet:
        await fleet.once()
        for jump in (10 * HOUR, -30 * HOUR):
            hands.wall += jump
            await watch_of(fleet).refresh()
            assert watch_of(fleet).state.up
        assert cloud.authentications() == 2


def test_the_steady_clock_counts_suspension() -> None:
    """Where the system has a clock that goes on in suspension, that is the steady one."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= since_boot() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert Clock().steady is since_boot


# -- a machine that was suspended


async def test_data_of_before_a_sleep_is_on_no_page(cloud: Cloud):
    """The first scrape after hours of suspension shows nothing of before them, though no refresh has come yet."""
    hands = Hands()
    async with cloud.exporter(configuration(refresh=ONCE), clock=hands.clock) as exporter:
        await asyncio.wait_for(exporter.fleet.wait_ready(), DEADLINE)
        for path in ("/metrics", "/probe?cloud=sim&project=web-frontend", "/project?cloud=sim&project=web-frontend"):
            hands.advance(10 * HOUR)
            await exporter.get(path)
            assert watch_of(exporter.fleet).state.stale
            owner = ("project", *watch_of(exporter.fleet).key)
            assert not exporter.fleet.page.owned(owner, "text", frozenset({DEPLOYMENTS}))
            await watch_of(exporter.fleet).refresh()
            assert not watch_of(exporter.fleet).state.stale
        hands.advance(10 * HOUR)
        page = await exporter.samples()
        assert not page.select(DEPLOYMENTS)
        assert page.cells("heat_projects", "state") == {"stale": 2}
        assert page.cells("heat_up", "project") == {FIRST: 1, SECOND: 1}


async def test_a_sleep_is_not_made_up_for(cloud: Cloud):
    """After hours of suspension each project is asked at its next turn, once; no turn counts as missed."""
    hands = Hands()
    settings = configuration(refresh={"interval": "300ms", "share": 1})
    async with cloud.exporter(settings, clock=hands.clock) as exporter:
        await exporter.refreshed(2)
        before = exporter.fleet.clouds["sim"].projects[cloud.project().id].state
        started, asked = asyncio.get_running_loop().time(), cloud.asked()
        hands.advance(10 * HOUR)
        await eventually(lambda: watch_of(exporter.fleet).fetched_at == hands.steady)
        await exporter.refreshed(2)
        passed = asyncio.get_running_loop().time() - started
        # By its turns alone; one may have been under way.
        assert cloud.asked() - asked <= passed / 0.3 + 2
        after = watch_of(exporter.fleet).state
        assert after.skipped - before.skipped <= passed / 0.3
        assert after.failures == {}
    assert cloud.authentications() == 4


# -- a wall clock that is set


async def test_a_refresh_is_of_the_moment_when_it_was_asked_for(cloud: Cloud):
    """Ages, stuck and the time of the success are of the moment of the request, however the clock is set meanwhile."""
    hands = Hands(wall=cloud.world.now())
    cloud.deploy(status="IN_PROGRESS", age=1800)
    asked_at = hands.wall
    async with cloud.fleet(clock=hands.clock) as fleet:
        await fleet.once()
        for jump in (5 * HOUR, -9 * HOUR):
            hold = Hold()
            cloud.mend()
            cloud.listing(hold)
            hands.wall = asked_at
            refresh = asyncio.create_task(watch_of(fleet).refresh())
            await asyncio.wait_for(hold.entered.wait(), DEADLINE)
            hands.wall += jump
            hold.released.set()
            await asyncio.wait_for(refresh, DEADLINE)
            page = page_of(fleet)
            assert page.value("heat_last_refresh_success_timestamp_seconds", project=FIRST) == asked_at
            assert page.value("heat_software_deployments_stuck", project=FIRST, action="CREATE") == 0
            assert page.value(f"{AGES}_gsum", project=FIRST, status="IN_PROGRESS") == pytest.approx(1800, abs=2)


async def test_ages_go_by_the_wall_clock(cloud: Cloud):
    """After the wall clock is set, the next refresh's ages and stuck are by it; no age is less than nothing."""
    hands = Hands(wall=cloud.world.now())
    cloud.deploy(status="IN_PROGRESS", age=1800)
    async with cloud.fleet(clock=hands.clock) as fleet:
        await fleet.once()
        for jump, age, stuck in ((HOUR, 1800 + HOUR, 1), (-2 * HOUR, 0, 0), (HOUR, 1800, 0)):
            hands.wall += jump
            await watch_of(fleet).refresh()
            page = page_of(fleet)
            assert page.value(f"{AGES}_gsum", project=FIRST, status="IN_PROGRESS") == pytest.approx(age, abs=2)
            assert page.value("heat_software_deployments_stuck", project=FIRST, action="CREATE") == stuck
            success = page.value("heat_last_refresh_success_timestamp_seconds", project=FIRST)
            assert success == pytest.approx(hands.wall)


async def test_staleness_goes_by_the_steady_clock(cloud: Cloud):
    """However far the wall clock is set, data is withdrawn after `stale_after` of time that has passed, no sooner or
    later."""
    hands = Hands()
    async with cloud.fleet(configuration(refresh={"interval": "1m", "stale_after": "10m"}), clock=hands.clock) as fleet:
        await fleet.once()
        for jump in (100 * HOUR, -300 * HOUR):
            hands.wall += jump
            hands.steady += 300
            await fleet.expire()
            assert page_of(fleet).select(DEPLOYMENTS, project=FIRST)
        hands.steady += 1
        await fleet.expire()
        assert not page_of(fleet).select(DEPLOYMENTS, project=FIRST)


@pytest.mark.parametrize("ahead", [-5 * HOUR, 0, 5 * HOUR])
async def test_a_date_to_come_back_at_is_by_the_cloud_s_clock(cloud: Cloud, ahead: float):
    """A Retry-After that is a date means the seconds between it and the answer's own, however clocks are set."""
    now = time.time() + ahead
    headers = {"Date": formatdate(now, usegmt=True), "Retry-After": formatdate(now + 90, usegmt=True)}
    async with cloud.fleet() as fleet:
        await fleet.once()
        cloud.listing(answering(429, headers=headers))
        _, error = await watch_of(fleet).refresh()
        assert error is not None
        assert error.retry_after == 90
        cloud.authentication(answering(503, headers=headers))
        fleet.clouds["sim"].access.forget(cloud.project().id)
        _, error = await watch_of(fleet).refresh()
        assert error is not None
        assert (error.api, error.reason, error.retry_after) == ("identity", "rate_limited", 90)


# -- times that a cloud sends

LAST_CHANGES: dict[str, float | None] = {
    "2023-11-14T22:13:20Z": NOW,
    "2023-11-14T23:13:20+01:00": NOW,
    "2023-11-14T12:43:20-09:30": NOW,
    "2023-11-15T12:13:20+14:00": NOW,
    "2023-11-14T22:13:20.75": NOW + 0.75,
    "2016-12-31T23:59:60Z": 1483228800,
    "2015-07-01T01:59:60+02:00": 1435708800,
    "1970-01-01T00:00:00Z": 0,
    "1969-12-31T23:59:59Z": -1,
    "2038-01-19T03:14:08Z": 2**31,
    "2106-02-07T06:28:16Z": 2**32,
    "9999-12-31T23:59:59Z": 253402300799,
    "9999-12-31T23:59:59-14:00": 253402300799 + 14 * HOUR,
    "0001-01-01T00:00:00Z": -62135596800,
    "0001-01-01T00:00:00+14:00": -62135596800 - 14 * HOUR,
    "0000-01-01T00:00:00Z": None,
    "2023-02-29T00:00:00Z": None,
    "2023-11-14T24:00:01Z": None,
    "2023-11-14T22:13:61Z": None,
}


@pytest.mark.parametrize("text", LAST_CHANGES)
async def test_any_time_that_a_cloud_may_send(cloud: Cloud, text: str):
    """A deployment's times are read to the second from the year 1 to 9999, and the page can be; no age is negative, and
    one without a readable time counts everywhere else."""
    record = {"id": "odd", "status": "FAILED", "action": "UPDATE", "creation_time": text, "updated_time": text}
    cloud.world.add_raw(cloud.project().id, record)
    async with cloud.exporter(clock=Hands(wall=NOW).clock, refreshing=False) as exporter:
        await exporter.fleet.once()
        page = await exporter.samples()
        for path in ("/", f"/project?cloud=sim&project={FIRST}"):
            assert (await exporter.get(path)).status == 200
    labels = {"project": FIRST, "status": "FAILED"}
    assert page.value(DEPLOYMENTS, **labels, action="UPDATE") == 1
    assert page.value("heat_up", project=FIRST) == 1
    expected = LAST_CHANGES[text]
    for which in ("oldest", "newest"):
        found = page.get(f"heat_software_deployment_{which}_change_timestamp_seconds", **labels, action="UPDATE")
        assert found == expected if expected is not None else found is None
    for family in (AGES, "heat_software_deployment_state_age_seconds"):
        if expected is None:
            assert not page.select(f"{family}_bucket", **labels)
        else:
            assert page.value(f"{family}_gcount", **labels) == 1
            assert page.value(f"{family}_gsum", **labels) == max(0, NOW - expected)


async def test_a_cloud_whose_clock_is_wrong_is_no_trouble(cloud: Cloud):
    """Tokens last as long as Keystone's own clock says, however far it is from ours."""
    for years in (-30, 30):
        cloud.passed = years * 365.25 * 24 * HOUR
        hands = Hands()
        async with cloud.fleet(clock=hands.clock) as fleet:
            await fleet.once()
            before = cloud.authentications()
            hands.advance(50 * 60)
            await watch_of(fleet).refresh()
            assert cloud.authentications() == before
            hands.advance(10 * 60)
            await watch_of(fleet).refresh()
            assert cloud.authentications() == before + 1
            assert page_of(fleet).total("heat_up") == 2


# -- an interval shorter than a refresh


async def test_a_refresh_that_outlasts_its_interval_costs_turns(cloud: Cloud):
    """While authentications outlast the interval, no project is asked twice at once, and the turns that pass by are
    counted."""
    cloud.world.plan = Plan(churn=0, token_lifetime=1)
    entered = 0

    async def slow(request: web.BaseRequest) -> None:
        nonlocal entered
        entered += 1
        await asyncio.sleep(0.35)

    cloud.authentication(slow)
    hands = Hands()
    async with cloud.exporter(configuration(refresh={"share": 1}), clock=hands.clock) as exporter:
        await asyncio.wait_for(exporter.fleet.wait_ready(), DEADLINE)

        def outlasted() -> Any:
            hands.advance(0.05)  # so that every refresh finds its token at an end
            return watch_of(exporter.fleet).state.skipped >= 4

        await eventually(outlasted)
        assert watch_of(exporter.fleet).state.failures == {}
    path = f"/heat/v1/{cloud.project().id}/software_deployments"
    assert cloud.requests.peak(path=path) == 1
    assert entered >= 4
