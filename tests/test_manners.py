"""How the exporter treats a cloud, counted there: who asks too much of one is locked out of it.

Every number here is of requests that a simulated cloud received, over many refreshes of every project.
"""

import asyncio
import email.utils
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from exporter.collector.name_resolver import INTERVALS
from exporter.config import schema
from exporter.simulator import Requests, Token
from tests import harness
from tests.harness import (
    FIRST,
    ONCE,
    SECOND,
    Cloud,
    Hold,
    Plan,
    answering,
    configuration,
    eventually,
)
from tests.test_fleet import CYCLES, REFRESHES, beside, cycles, look, when

cloud = harness.cloud
pytestmark = harness.sdk_warning

INTERVAL = 0.05
"""The refresh interval of all clouds here."""
MORE = ("search", "mobile-api", "analytics")
"""Further projects of the cloud here, which has five with them."""
PROJECTS = 5
FAILURES = "heat_refresh_failures_total"


@dataclass
class Ledger:
    """The authentications that a cloud was asked for, by the id of the project that they were for."""

    cloud: Cloud
    asked: Counter[str] = field(default_factory=Counter)
    needless: list[str] = field(default_factory=list)
    """Projects for which a token was asked for although the last one was good for a while yet."""

    async def __call__(self, request: web.BaseRequest) -> None:
        """Note one; the cloud answers."""
        project = await scope(self.cloud, request)
        self.asked[project] += 1
        world = self.cloud.world
        # The exporter renews a tenth before the end, and the cloud cuts off the fraction of a second.
        near = world.now() + world.plan.token_lifetime / 10 + 1.1
        mine: list[Token] = [token for token in world.tokens.values() if token.project_id == project]
        if any(token.expires_at > near for token in mine):
            self.needless.append(project)


async def scope(cloud: Cloud, request: web.BaseRequest) -> str:
    """The id of the project that an authentication is for."""
    wanted = (await request.json())["auth"]["scope"]["project"]
    return str(wanted["id"] if "id" in wanted else cloud.project(wanted["name"]).id)


@pytest.fixture
def ledger(cloud: Cloud) -> Ledger:
    """Every authentication that the cloud, which has five projects, is asked for from now on."""
    for name in MORE:
        cloud.add_project(name)
        cloud.deploy(name)
    book = Ledger(cloud)
    cloud.authentication(book)
    return book


def settings_of(*, refresh: dict[str, Any] | None = None, **sections: Any) -> schema.Config:
    """A configuration with a short interval."""
    return configuration(refresh={"interval": "50ms", **(refresh or {})}, **sections)


def every(cloud: Cloud) -> set[str]:
    """The ids of all projects that are watched."""
    return {cloud.project(name).id for name in (FIRST, SECOND, *MORE)}


def listings(cloud: Cloud, **criteria: Any) -> dict[str, list[float]]:
    """When each project's deployments were listed, by its id."""
    found: dict[str, list[float]] = {}
    for each in cloud.requests.select(method="GET", path_suffix="/software_deployments", **criteria):
        found.setdefault(each.path.split("/")[3], []).append(each.time)
    return found


def pages(cloud: Cloud) -> dict[str, list[float]]:
    """When each project's first page of configs was asked for, by its id."""
    found: dict[str, list[float]] = {}
    for each in cloud.requests.select(path_suffix="/software_configs"):
        if "marker" not in each.query:
            found.setdefault(each.path.split("/")[3], []).append(each.time)
    return found


def assert_polite(cloud: Cloud) -> None:
    """Nothing but whole listings was asked of Heat, no project's more than once an interval, and names seldom."""
    assert cloud.requests.shows == 0
    assert {(each.method, each.path.rsplit("/", 1)[1]) for each in cloud.requests.select(api="orchestration")} <= {
        ("GET", "software_deployments"),
        ("GET", "software_configs"),
    }
    for times in pages(cloud).values():
        # From one to the next that is not its continuation.
        assert all(later - first >= (INTERVALS - 1) * INTERVAL for first, later in pairwise(times))
    for times in listings(cloud).values():
        # The first refresh authenticates before it lists. One interval more is for requests that were late on the way.
        spread = times[-1] - times[1] if len(times) > 1 else 0.0
        assert (len(times) - 2) * INTERVAL <= spread + INTERVAL


# -- how many at once, how many a second


@pytest.mark.parametrize(("clouds", "concurrency"), [(1, 3), (2, 4)])
async def test_no_more_refreshes_at_once_than_allowed(cloud: Cloud, ledger: Ledger, clouds: int, concurrency: int):
    """Over many cycles of slow listings no more are under way than `limits.concurrency`, all clouds together."""
    async with beside(cloud, "other") as other:
        for each in (cloud, other):
            each.world.plan = Plan(churn=0, delay_per_deployment=0.03)
        for name in MORE:
            other.add_project(name)
            other.deploy(name)
        entries = [{"name": "sim", "cloud": "simulator"}, {"cloud": "other"}][:clouds]
        settings = settings_of(limits={"concurrency": concurrency}, clouds=entries)
        async with cloud.exporter(settings) as exporter:
            page = await cycles(exporter)
            assert page.total("heat_up") == PROJECTS * clouds
        together = Requests()
        for asked in (*cloud.requests, *other.requests):
            together.append(asked)
        assert together.peak(path_suffix="/software_deployments") == concurrency
        assert_polite(cloud)


def assert_rate(cloud: Cloud, rate: float, *, late: float) -> None:
    """In no window of k seconds are there more than k × rate + 1 requests, where one is at most so late on its way."""
    times = [each.time for each in cloud.requests]
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            assert last - first <= rate * (times[last] - start + late), (first, last)


async def test_the_rate_holds_in_every_window(cloud: Cloud, ledger: Ledger):
    """Listings, authentications and discovery together stay below `requests_per_second` while all three go on."""
    cloud.world.plan = Plan(churn=0, token_lifetime=2)
    settings = settings_of(refresh={"discovery": "200ms"}, limits={"requests_per_second": 40})
    async with cloud.exporter(settings) as exporter:
        await eventually(lambda: len(cloud.requests) >= 140, "140 requests")
        page = await look(exporter)
    assert page.total("heat_up") == PROJECTS
    assert min(ledger.asked.values()) >= 2
    assert cloud.requests.count(path="/v3/auth/projects") > 5
    assert_rate(cloud, 40, late=0.4)
    assert_polite(cloud)


@pytest.mark.parametrize("pinned", [True, False])
async def test_the_rate_holds_from_the_first_request_on(cloud: Cloud, pinned: bool):
    """The requests with which a client gets to know Keystone wait for their turn as all others do."""
    entry = cloud.entry()
    if not pinned:
        del entry["identity_api_version"]
    cloud.write(entry)
    async with cloud.fleet(settings_of(limits={"requests_per_second": 2})) as fleet:
        await fleet.once()
    assert cloud.authentications() == 2
    assert_rate(cloud, 2, late=0.4)


def densest(cloud: Cloud, interval: float, since: float) -> int:
    """How many projects' latest listings since then began, at most, within a quarter of an interval."""
    latest = [max(time for time in times if time >= since) for times in listings(cloud).values()]
    return max(sum((time - first) % interval < interval / 4 for time in latest) for first in latest)


async def test_starts_are_spread_over_the_interval(cloud: Cloud):
    """Twelve projects are asked evenly over the interval, whatever brought them together: the start, or the end of an
    outage that all were told to wait for."""
    names = [FIRST, SECOND, *(cloud.add_project(f"more-{number}").name for number in range(10))]
    interval = 4.0

    def asked(least: int, since: float) -> bool:
        times = listings(cloud, status=200).values()
        return len(times) == len(names) and all(sum(each >= since for each in those) >= least for those in times)

    def spread(since: float) -> bool:
        # By their ids half of these have their places in one quarter; a busy machine puts off some into it. Those that
        # were brought together all begin in one.
        return densest(cloud, interval, since) <= len(names) * 3 / 4

    settings = settings_of(refresh={"interval": "4s", "stale_after": "1h"}, limits={"concurrency": 64})
    async with cloud.exporter(settings) as exporter:
        await eventually(lambda: asked(2, 0.0) and spread(0.0), "two rounds, and they are spread")
        # Later than any of them would come by itself; by whole seconds, so they come within one.
        date = email.utils.formatdate(time.time() + 9, usegmt=True)

        async def busy(request: web.BaseRequest, api: str) -> web.StreamResponse | None:
            return web.Response(status=503, headers={"Retry-After": date}) if api == "orchestration" else None

        cloud.simulator.intercept = busy
        await when(exporter, lambda page: page.total("heat_up") == 0)
        cloud.mend()
        await when(exporter, lambda page: page.total("heat_up") == len(names))
        back = max(max(times) for times in listings(cloud).values())
        since = back + interval / 10
        await eventually(lambda: asked(2, since) and spread(since), "two more rounds, and they are spread again")


# -- how often a token, how often a list


async def test_one_authentication_for_each_project(cloud: Cloud, ledger: Ledger):
    """Ten refreshes of five projects, and their discovery, cost five authentications and one list per interval."""
    async with cloud.exporter(settings_of(refresh={"discovery": "200ms"})) as exporter:
        page = await cycles(exporter)
        rediscovered = cloud.requests.count(path="/v3/auth/projects")
    assert ledger.asked == dict.fromkeys(every(cloud), 1)
    assert page.value("heat_authentications_total", cloud="sim") == PROJECTS
    assert rediscovered >= 3
    assert cloud.requests.count(path="/v3") == 1
    assert {each.path for each in cloud.requests.select(api="identity")} == {
        "/v3", "/v3/auth/tokens", "/v3/auth/projects",
    }  # fmt: skip
    assert listings(cloud).keys() == every(cloud)
    assert_polite(cloud)


async def test_one_authentication_for_each_token_s_life(cloud: Cloud, ledger: Ledger):
    """While tokens end again and again none is asked for before its time, discovery included, and no refresh fails."""
    cloud.world.plan = Plan(churn=0, token_lifetime=3)
    async with cloud.exporter(settings_of(refresh={"discovery": "100ms"})) as exporter:
        await eventually(lambda: len(ledger.asked) == PROJECTS and min(ledger.asked.values()) >= 3, "two renewals")
        page = await cycles(exporter, 3)
    assert not ledger.needless
    assert not page.select(FAILURES)
    assert page.value("heat_authentications_total") == ledger.asked.total()
    refused = {project: len(times) for project, times in listings(cloud, status=401).items()}
    assert all(number < ledger.asked[project] for project, number in refused.items())
    assert_polite(cloud)


async def test_revoked_tokens_cost_one_authentication_each(cloud: Cloud, ledger: Ledger):
    """When all tokens are revoked at once, each project sees one refusal and asks for one token."""
    async with cloud.exporter(settings_of()) as exporter:
        await cycles(exporter, 3)
        cloud.revoke()
        page = await cycles(exporter)
    assert ledger.asked == dict.fromkeys(every(cloud), 2)
    assert {project: len(times) for project, times in listings(cloud, status=401).items()} == dict.fromkeys(
        every(cloud), 1
    )
    assert not page.select(FAILURES)
    assert cloud.requests.shows == 0


async def test_an_outage_of_keystone_goes_unnoticed_while_tokens_are_good(cloud: Cloud, ledger: Ledger):
    """As long as nobody needs a token, Keystone's outage fails no refresh, and nobody asks it for one."""
    async with cloud.exporter(settings_of()) as exporter:
        await cycles(exporter, 2)

        async def down(request: web.BaseRequest, api: str) -> web.StreamResponse | None:
            return web.Response(status=503) if api == "identity" else None

        cloud.simulator.intercept = down
        before = cloud.requests.count(api="identity")
        page = await cycles(exporter)
    assert cloud.requests.count(api="identity") == before
    assert page.total("heat_up") == PROJECTS
    assert not page.select(FAILURES)
    assert_polite(cloud)


async def test_an_outage_of_keystone_when_tokens_end(cloud: Cloud, ledger: Ledger):
    """While no token can be had, each attempt asks once, attempts grow rarer, and afterwards one success is enough."""
    async with cloud.exporter(settings_of()) as exporter:
        await cycles(exporter, 2)
        cloud.revoke()
        cloud.authentication(answering(503))
        await when(
            exporter,
            lambda page: [each.value >= 3 for each in page.select(FAILURES, api="identity")] == [True] * PROJECTS,
        )
        cloud.mend()
        page = await when(exporter, lambda page: page.total("heat_up") == PROJECTS)
        page = await cycles(exporter, 3)
    assert cloud.requests.count(path="/v3/auth/tokens", status=201) == 2 * PROJECTS
    assert_polite(cloud)
    failed = cloud.requests.count(path="/v3/auth/tokens", status=503)
    assert failed == page.total(FAILURES, api="identity", reason="server_error") == page.total(FAILURES)
    assert cloud.requests.shows == 0


async def test_an_outage_of_the_whole_cloud_costs_no_token(cloud: Cloud, ledger: Ledger):
    """Tokens outlive an outage: when the cloud is back, its projects are listed with the ones that there were."""
    async with cloud.exporter(settings_of()) as exporter:
        await cycles(exporter, 2)
        await cloud.simulator.stop()
        down = await when(exporter, lambda page: page.total("heat_up") == 0)
        assert down.total(FAILURES, api="orchestration", reason="connect") >= PROJECTS
        await cloud.simulator.start()
        await when(exporter, lambda page: page.total("heat_up") == PROJECTS)
        await cycles(exporter, 3)
    assert ledger.asked == dict.fromkeys(every(cloud), 1)
    assert_polite(cloud)


async def test_a_reload_asks_for_nothing_but_the_projects(cloud: Cloud, ledger: Ledger):
    """Reloading the same configuration in the middle of it all costs a discovery: no token, no list before its turn."""
    settings = settings_of()
    async with cloud.exporter(settings) as exporter:
        for number in range(1, 5):
            await cycles(exporter, 2)
            await exporter.fleet.reload(lambda: settings)
            await eventually(
                lambda number=number: cloud.requests.count(path="/v3/auth/projects") == 1 + number, "discovery"
            )
        await cycles(exporter, 3)
    assert ledger.asked == dict.fromkeys(every(cloud), 1)
    assert cloud.requests.count(api="identity") == 1 + PROJECTS + 5
    assert_polite(cloud)


async def test_a_reload_takes_nobody_s_turn_forward(cloud: Cloud, ledger: Ledger):
    """However often a configuration is reloaded, projects whose next turn is in an hour are not asked."""
    settings = settings_of(refresh=ONCE)
    async with cloud.exporter(settings) as exporter:
        await exporter.fleet.wait_ready()
        for number in range(1, 6):
            await exporter.fleet.reload(lambda: settings)
            await eventually(
                lambda number=number: cloud.requests.count(path="/v3/auth/projects", status=200) == 1 + number,
                "discovery",
            )
    assert {project: len(times) for project, times in listings(cloud).items()} == dict.fromkeys(every(cloud), 1)
    assert ledger.asked == dict.fromkeys(every(cloud), 1)


# -- one trouble is nobody else's


async def _dribble(request: web.BaseRequest) -> web.StreamResponse:
    """A listing that comes, byte by byte, and never ends."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


async def _slow(request: web.BaseRequest) -> None:
    """A listing that takes many intervals."""
    await asyncio.sleep(1)


def _hung_token(cloud: Cloud) -> None:
    hold = Hold()

    async def handler(request: web.BaseRequest) -> None:
        if await scope(cloud, request) == cloud.project(SECOND).id:
            await hold(request)

    cloud.authentication(handler)


TROUBLES: dict[str, Callable[[Cloud], None]] = {
    "hung": lambda cloud: cloud.listing(Hold(), SECOND),
    "endless": lambda cloud: cloud.listing(_dribble, SECOND),
    "slow": lambda cloud: cloud.listing(_slow, SECOND),
    "failing": lambda cloud: cloud.listing(answering(500), SECOND),
    "without a token": _hung_token,
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_project_in_trouble_delays_no_other(cloud: Cloud, trouble: str):
    """While one project hangs, trickles, is slow or fails, all others of its cloud are refreshed as ever."""
    for name in MORE:
        cloud.add_project(name)
    TROUBLES[trouble](cloud)
    async with cloud.exporter(settings_of(limits={"concurrency": 2})) as exporter:
        good = (FIRST, *MORE)
        page = await when(
            exporter, lambda page: all(page.get(REFRESHES, project=name, default=0) >= CYCLES for name in good)
        )
    assert all(page.value("heat_up", project=name) == 1 for name in good)
    assert not page.select(FAILURES, project=FIRST)
    bad, least = page.value(REFRESHES, project=SECOND), min(page.value(REFRESHES, project=name) for name in good)
    assert bad < least
    # It was asked, and is not asked twice at once.
    assert cloud.requests.peak(path=f"/heat/v1/{cloud.project(SECOND).id}/software_deployments") <= 1


@pytest.mark.parametrize("what", ["everything", "identity", "orchestration"])
async def test_a_cloud_in_trouble_delays_no_other(cloud: Cloud, what: str):
    """While a whole cloud, its Keystone or its Heat hangs, the projects of another cloud are refreshed as ever."""
    hold = Hold()

    async def hang(request: web.BaseRequest, api: str) -> None:
        if what in ("everything", api):
            await hold(request)

    async with beside(cloud, "other") as other:
        for name in MORE:
            other.add_project(name)
        other.simulator.intercept = hang
        settings = settings_of(
            limits={"concurrency": 2}, clouds=[{"cloud": "other"}, {"name": "sim", "cloud": "simulator"}]
        )
        async with cloud.exporter(settings) as exporter:
            await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
            page = await when(
                exporter,
                lambda page: all(
                    page.get(REFRESHES, cloud="sim", project=name, default=0) >= CYCLES for name in (FIRST, SECOND)
                ),
            )
            assert page.total("heat_up", cloud="sim") == 2
            assert not page.select("heat_up", cloud="other")
            assert other.requests.peak(api="orchestration") <= 1
    assert_polite(cloud)


async def test_neither_faults_nor_odd_answers_make_it_ask_for_one_deployment(cloud: Cloud, ledger: Ledger):
    """Whatever a listing says and however requests fail, no single deployment is ever shown, whose side effects a real
    Heat would have."""
    cloud.deploy(FIRST, status="IN_PROGRESS", age=7200)
    cloud.deploy(SECOND, status="FAILED", output_values=None)
    cloud.world.add_raw(cloud.project(FIRST).id, b'{"id": "a", "status": null}')
    cloud.world.add_raw(cloud.project(SECOND).id, b"{}")
    cloud.world.plan = Plan(churn=0, faults=0.3)
    async with cloud.exporter(settings_of()) as exporter:
        await eventually(lambda: sum(map(len, listings(cloud, status=200).values())) >= 30, "30 listings")
        page = await look(exporter)
    assert page.select(FAILURES)
    assert cloud.requests.shows == 0
    paths = {each.path.split("/", 4)[-1] for each in cloud.requests.select(api="orchestration")}
    assert paths == {"software_deployments", "software_configs"}
