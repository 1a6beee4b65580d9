"""`servers.ids`: a few servers of a project, each asked for by itself, and never the whole listing."""

import asyncio
import re
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from exporter.config import schema
from exporter.simulator import Plan, Simulator, build
from tests import harness
from tests.harness import (
    DEADLINE,
    FIRST,
    SECOND,
    Cloud,
    Handler,
    Hands,
    Hold,
    answering,
    configuration,
    eventually,
    page_of,
    watch_of,
)
from tests.test_fleet import comparable
from tests.test_manners import assert_rate

cloud = harness.cloud
pytestmark = harness.sdk_warning

DEPLOYMENTS = "heat_software_deployments"
PER_SERVER = "heat_server_software_deployments"
FAILURES = "heat_refresh_failures_total"
FINISHED = "heat_software_deployment_finished_total"
INTERVAL = "heat_refresh_interval_seconds"
PLAIN = ("server-1", "server-2", "server-3")


def only(*ids: str, projects: Any = "current", **sections: Any) -> schema.Config:
    """A configuration that asks for these servers of the cloud's own project."""
    entry = {"name": "sim", "cloud": "simulator", "projects": projects, "servers": {"ids": list(ids)}}
    return configuration(clouds=[entry], **sections)


class Asked:
    """Notes which servers are asked for, in order (None: the whole listing); the cloud, or `then`, answers."""

    def __init__(self, then: Handler | None = None) -> None:
        self.servers: list[str | None] = []
        self._then = then

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """Note one."""
        assert set(request.query) <= {"server_id"}
        servers = request.query.getall("server_id", [])
        self.servers.append(servers[0] if len(servers) == 1 else None)
        return await self._then(request) if self._then else None


def of_server(server: str, then: Handler) -> Handler:
    """Let `then` answer what is asked of one server."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse | None:
        return await then(request) if request.query.get("server_id") == server else None

    return handler


def everything(cloud: Cloud) -> Handler:
    """A cloud that knows no filter: the whole listing, whatever is asked for."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        project = cloud.project().id
        pieces = [each.render() for each in cloud.world.visible(project)] + cloud.world.raw(project)
        return web.Response(body=b'{"software_deployments": [%b]}' % b", ".join(pieces))

    return handler


# -- what is asked for


async def test_each_server_is_asked_for_by_itself(cloud: Cloud):
    """One request for each server in their order, whatever characters their ids have, and none for all of them."""
    odd = ("server-1", "a&server_id=b", "x+y z", "%41", "50%", "a;b=c", "größe/日本", "#?", "'\"<>\\", "\n")
    for server in odd:
        cloud.deploy(server=server)
    cloud.deploy(server="b")
    asked = Asked()
    cloud.listing(asked)
    async with cloud.fleet(only(*odd)) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert asked.servers == list(odd)
    found = page.cells(PER_SERVER, "server_id")
    assert found == dict.fromkeys(odd, 1) | {"server-1": 2}
    assert page.total(DEPLOYMENTS) == len(odd) + 1


async def test_ids_show_what_patterns_of_them_show(cloud: Cloud):
    """The page is the same as with patterns that leave these servers, but for the size of the listings."""
    world = build(Plan(projects=1, disabled_projects=0, servers=12, deployments=400, churn=0))
    async with Simulator(world) as simulator:
        busy = Cloud(simulator, cloud.monkeypatch, cloud.folder)
        busy.write()
        ids = sorted({each.server_id for each in world.deployments.values()})[:3]
        pages = []
        clock = Hands(world.now()).clock
        for servers in ({"ids": ids}, {"include": [re.escape(each) for each in ids]}):
            entry = {"name": "sim", "cloud": "simulator", "projects": "current", "servers": servers}
            async with busy.fleet(configuration(clouds=[entry]), clock=clock) as fleet:
                await fleet.once()
                pages.append(page_of(fleet))
    sizes = [page.value("heat_refresh_response_bytes") for page in pages]
    assert 0 < sizes[0] < sizes[1] / 3
    data = [
        comparable(each for each in page if each.name.startswith(("heat_software", "heat_server", "heat_up")))
        for page in pages
    ]
    assert data[0] == data[1]
    assert pages[0].total(DEPLOYMENTS) > 30


async def test_a_server_that_the_cloud_does_not_know_is_no_rows(cloud: Cloud):
    """A server without a deployment is nothing on the page, no failure, and costs the others nothing."""
    async with cloud.fleet(only("nobody", "server-1")) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value("heat_up") == 1
    assert page.cells(PER_SERVER, "server_id") == {"server-1": 1}
    assert not page.select(FAILURES)
    async with cloud.fleet(only("nobody")) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value("heat_up") == 1
    assert page.total(DEPLOYMENTS) == 0
    assert page.select(DEPLOYMENTS)


@pytest.mark.parametrize(("ids", "output"), [(PLAIN, 10), (PLAIN[:1], 10), (PLAIN, 200_000)])
async def test_a_cloud_without_the_filter_changes_no_number(cloud: Cloud, ids: tuple[str, ...], output: int):
    """Deployments of servers that were not asked for count nowhere, also not twice; the log says so once, and when it
    is over."""
    for server in (*PLAIN, "other", ""):
        cloud.deploy(server=server, status="FAILED", output_values={"deploy_stdout": "x" * output})
    with capture_logs() as logs:
        async with cloud.fleet(only(*ids)) as fleet:
            cloud.listing(everything(cloud))
            await fleet.once()
            for _ in range(3):
                await watch_of(fleet).refresh()
            page = page_of(fleet)
            cloud.mend()
            for _ in range(2):
                await watch_of(fleet).refresh()
            usual = page_of(fleet)
    for each in (page, usual):
        assert each.cells(PER_SERVER, "server_id", status="FAILED") == dict.fromkeys(ids, 1)
        assert each.total(DEPLOYMENTS) == len(ids) + 1
        assert each.value("heat_duplicate_records_total") == 0
    lines = [line for line in logs if "the cloud sends" in line["event"]]
    assert [line["log_level"] for line in lines] == ["warning", "info"]
    assert lines[0]["records"] == 6 * len(ids) - len(ids) - 1
    assert "servers.ids" in lines[0]["event"]


# -- one snapshot


async def test_one_server_that_fails_is_a_failed_refresh(cloud: Cloud):
    """Where one of several requests fails, nothing of the others is shown; data from before stays as it was."""
    for server in PLAIN:
        cloud.deploy(server=server)
    async with cloud.fleet(only(*PLAIN)) as fleet:
        cloud.listing(of_server(PLAIN[-1], answering(500)))
        await fleet.once()
        page = page_of(fleet)
        assert page.value("heat_up") == 0
        assert not page.select(DEPLOYMENTS)
        assert page.cells(FAILURES, "api", "reason") == {("orchestration", "server_error"): 1}
        cloud.mend()
        await watch_of(fleet).refresh()
        assert page_of(fleet).total(DEPLOYMENTS) == 4
        cloud.deploy(server=PLAIN[0])
        cloud.listing(of_server(PLAIN[1], answering(403)))
        await watch_of(fleet).refresh()
        page = page_of(fleet)
    assert page.total(DEPLOYMENTS) == 4
    assert page.value("heat_up") == 0
    assert page.value(FAILURES, reason="forbidden") == 1


async def test_ages_are_of_the_moment_of_the_first_request(cloud: Cloud):
    """However long the servers take one after the other, their ages are of one instant, and so is the success."""
    hands = Hands(cloud.world.now())
    began = hands.wall
    for server in PLAIN:
        cloud.deploy(server=server, age=250)

    async def later(request: web.BaseRequest) -> None:
        hands.advance(100)

    cloud.listing(later)
    async with cloud.fleet(only(*PLAIN), clock=hands.clock) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert hands.wall == began + 300
    assert page.value("heat_last_refresh_success_timestamp_seconds") == pytest.approx(began, abs=0.001)
    # By the moments of their own requests, two of the servers' deployments would be older than that.
    assert page.value("heat_software_deployment_age_seconds_bucket", status="COMPLETE", le="300.0") == 4


async def test_only_rejected_records_of_one_server_are_a_failure(cloud: Cloud):
    """A listing without one usable record is a failed refresh, whatever other servers' listings have; usable records
    of other servers are usable ones."""
    project = cloud.project().id
    cloud.world.add_raw(project, b'{"id": 5}')
    cloud.deploy(server="other")
    async with cloud.fleet(only("server-1", "server-2")) as fleet:
        cloud.listing(everything(cloud))
        await fleet.once()
        page = page_of(fleet)
        assert page.value("heat_up") == 1
        assert page.value("heat_records_rejected_total", reason="id") == 2
        cloud.mend()
        cloud.listing(of_server("server-2", answering(200, b'{"software_deployments": [{"id": 5}]}')))
        await watch_of(fleet).refresh()
        page = page_of(fleet)
    assert page.cells(FAILURES, "reason") == {"decode": 1}


@pytest.mark.parametrize("fits", [True, False])
async def test_the_limit_is_for_all_of_them_together(cloud: Cloud, fits: bool):
    """`limits.response_bytes` bounds what one refresh receives for all servers, and the page shows that sum."""
    for server in PLAIN:
        cloud.deploy(server=server, output_values={"deploy_stdout": "x" * 2000})
    limit = "16KiB" if fits else "6KiB"
    async with cloud.fleet(only(*PLAIN, limits={"response_bytes": limit})) as fleet:
        await fleet.once()
        page = page_of(fleet)
        error = watch_of(fleet).state.error
    if fits:
        assert page.value("heat_refresh_response_bytes") > 3 * 2000
    else:
        assert page.cells(FAILURES, "reason") == {"too_large": 1}
        assert "limits.response_bytes (6KiB)" in error
        assert "with those before it" in error


# -- manners


async def test_every_request_waits_for_its_turn(cloud: Cloud):
    """In no window are there more requests than `requests_per_second` allows, over several refreshes of two projects,
    and each project's share one token."""
    settings = only(*PLAIN, *"abcdefghi", projects=[FIRST, SECOND], limits={"requests_per_second": 20})
    async with cloud.exporter(settings) as exporter:
        await eventually(lambda: cloud.asked(FIRST) >= 24 and cloud.asked(SECOND) >= 24, "two refreshes of each")
        page = await exporter.samples()
    assert page.total("heat_up") == 2
    assert cloud.authentications() == 2
    assert_rate(cloud, 20, late=0.4)
    for name in (FIRST, SECOND):
        assert cloud.requests.peak(path=f"/heat/v1/{cloud.project(name).id}/software_deployments") == 1


async def test_a_round_counts_one_request_for_each_server(cloud: Cloud):
    """Seven servers in two projects at ten requests a second take 1.4 s: that is the interval in force."""
    settings = only(*PLAIN, *"abcd", projects=[FIRST, SECOND], limits={"requests_per_second": 10})
    async with cloud.fleet(settings) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value(INTERVAL, project=FIRST) >= 1.4


async def test_the_listings_times_add_up(cloud: Cloud):
    """Four servers that take 50 ms each keep the cloud busy for 200 ms: at a share of a quarter, every 800 ms."""

    async def slow(request: web.BaseRequest) -> None:
        await asyncio.sleep(0.05)

    cloud.listing(slow)
    async with cloud.fleet(only(*PLAIN, "a", refresh={"share": 0.25})) as fleet:
        await fleet.once()
        assert page_of(fleet).value(INTERVAL) >= 0.8


async def test_waiting_between_servers_is_not_on_the_clock(cloud: Cloud):
    """Waits for `requests_per_second` between the requests count neither towards `timeout` nor as listing time."""
    settings = only(*PLAIN, refresh={"timeout": "900ms", "share": 0.25}, limits={"requests_per_second": 2})
    async with cloud.fleet(settings) as fleet:
        await fleet.once()
        page = page_of(fleet)
    asked = [each.time for each in cloud.requests.select(path_suffix="/software_deployments")]
    assert asked[-1] - asked[0] >= 0.9
    assert page.value("heat_up") == 1
    # The time of a round; with the waits it would be 4 s.
    assert page.value(INTERVAL) == 1.5


async def test_a_token_refused_half_way_is_renewed_once(cloud: Cloud):
    """Where the cloud refuses the token for the second server, all are asked again with a new one, as one snapshot."""
    for server in PLAIN:
        cloud.deploy(server=server)
    asked = Asked()

    async def revoked(request: web.BaseRequest) -> web.StreamResponse | None:
        if len(asked.servers) == 2:
            cloud.revoke()
        return None

    asked._then = revoked
    cloud.listing(asked)
    async with cloud.fleet(only(*PLAIN)) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert asked.servers == [*PLAIN[:2], *PLAIN]
    assert page.value("heat_up") == 1
    assert page.total(DEPLOYMENTS) == 4
    assert page.value("heat_duplicate_records_total") == 0
    assert not page.select(FAILURES)
    assert cloud.authentications() == 2


# -- together with the rest


async def test_an_administrator_s_own_project_counts_each_deployment_once(cloud: Cloud):
    """Where the own token shows every project's deployments of these servers, the page has each of them once."""
    user = cloud.world.user("monitor")
    cloud.world.grant(user.id, cloud.project(FIRST).id, "admin")
    for name in (FIRST, SECOND):
        for server in (*PLAIN, "other"):
            cloud.deploy(name, server=server)
    async with cloud.fleet(only(*PLAIN, projects=[FIRST])) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.total(DEPLOYMENTS) == 2 * (len(PLAIN) + 1)
    assert page.cells(PER_SERVER, "project", "server_id") == {
        (FIRST, "server-1"): 4, (FIRST, "server-2"): 2, (FIRST, "server-3"): 2,
    }  # fmt: skip
    assert page.value("heat_cloud_admin_token") == 1


async def finish(cloud: Cloud, deployment: Any) -> None:
    """Let a deployment end well, now."""
    cloud.world.update(deployment.id, status="COMPLETE", output_values={"deploy_status_code": 0})


async def test_what_other_servers_had_finished_is_no_news(cloud: Cloud):
    """What a server has finished that is asked for since a reload is not counted; what it finishes from then on is."""
    one, two = (cloud.deploy(server=server, status="IN_PROGRESS", age=5) for server in PLAIN[:2])
    async with cloud.fleet(only(PLAIN[0])) as fleet:
        await fleet.once()
        await finish(cloud, two)
        settings = only(PLAIN[1], PLAIN[0])
        await fleet.reload(lambda: settings)
        await watch_of(fleet).refresh()
        page = page_of(fleet)
        assert page.cells(PER_SERVER, "server_id").keys() == set(PLAIN[:2])
        assert page.total(FINISHED) == 0
        # The same servers in another order are the same.
        again = only(*PLAIN[:2])
        await finish(cloud, one)
        await fleet.reload(lambda: again)
        await watch_of(fleet).refresh()
        assert page_of(fleet).total(FINISHED) == 1


async def test_servers_changed_while_a_refresh_is_under_way_are_no_news(cloud: Cloud):
    """The same where a refresh that still asks for the other servers was under way at that moment."""
    one, two = (cloud.deploy(server=server, status="IN_PROGRESS", age=5) for server in PLAIN[:2])
    async with cloud.exporter(only(PLAIN[0])) as exporter:
        await exporter.refreshed()
        await finish(cloud, one)
        await exporter.when(lambda page: page.total(FINISHED) == 1)
        await finish(cloud, two)
        hold = Hold()
        asked = Asked(hold)
        cloud.listing(asked)
        await asyncio.wait_for(hold.entered.wait(), DEADLINE)
        settings = only(*PLAIN[:2])
        await exporter.fleet.reload(lambda: settings)
        hold.released.set()
        page = await exporter.when(lambda page: page.get(PER_SERVER, server_id=PLAIN[1]) == 1)
        assert asked.servers[0] == PLAIN[0]
        assert asked.servers[-2:] == list(PLAIN[:2])
        assert page.total(FINISHED) == 1
        await finish(cloud, cloud.deploy(server=PLAIN[1], status="IN_PROGRESS", age=1))
        page = await exporter.when(lambda page: page.total(FINISHED) >= 2)
        assert page.total(FINISHED) == 2
    assert cloud.authentications() == 1


async def test_a_reload_to_other_servers(cloud: Cloud):
    """After a reload the next turn asks for the servers that are configured now, and only theirs are shown."""
    for server in PLAIN:
        cloud.deploy(server=server)
    asked = Asked()
    cloud.listing(asked)
    async with cloud.exporter(only(*PLAIN[:2])) as exporter:
        await exporter.when(lambda page: page.cells(PER_SERVER, "server_id").keys() == set(PLAIN[:2]))
        settings = only(PLAIN[2])
        await exporter.fleet.reload(lambda: settings)
        await exporter.when(lambda page: page.cells(PER_SERVER, "server_id").keys() == {PLAIN[2]})
        everyone = configuration(clouds=[{"name": "sim", "cloud": "simulator", "projects": "current"}])
        await exporter.fleet.reload(lambda: everyone)
        await exporter.when(lambda page: page.cells(PER_SERVER, "server_id").keys() == set(PLAIN))
    assert asked.servers[-1] is None
    assert set(asked.servers) == {*PLAIN, None}
