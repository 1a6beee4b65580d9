"""What configs and servers are called: asked for rarely, in nobody's way, and gone without where a cloud won't say."""

import asyncio
import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from exporter.collector.name_resolver import (
    DENIED,
    FAILED,
    INTERVALS,
    PAGE_ITEMS,
    PAGES,
    RENEWAL,
    SPARE,
    NameQueue,
    NameResolver,
    NameSettings,
)
from exporter.common.deadline import Deadline
from exporter.config.schema import Config
from exporter.deployments.names import NameTable, hashed
from exporter.deployments.snapshot import ConfigName
from exporter.openstack.session import CloudSession
from tests import harness
from tests.harness import FIRST, ONCE, SECOND, Cloud, Hands, Hold, answering, configuration, page_of, watch_of

cloud = harness.cloud
pytestmark = harness.sdk_warning

CONFIGS = "heat_software_config_deployments"
CONFIG_INFO = "heat_software_config_info"
SERVER_INFO = "heat_server_info"
PROBLEMS = "heat_software_deployment_problem_timestamp_seconds"
SERVERS = "heat_server_software_deployments"
NOVA = "/compute/v2.1/servers"


def configs_of(cloud: Cloud, project: str = FIRST) -> str:
    """The path of a project's configs."""
    return f"/heat/v1/{cloud.project(project).id}/software_configs"


def config(cloud: Cloud, name: str | None, group: str | None = "script", project: str = FIRST, **fields: Any) -> str:
    """A new config's id."""
    return cloud.world.add_config(cloud.project(project).id, name, group, **fields).id


def once(**sections: Any) -> Config:
    """A configuration under which each project is asked once."""
    return configuration(refresh=ONCE, **sections)


async def test_configs_and_servers_have_their_names(cloud: Cloud):
    """Deployments count under their config's name and group; problem rows' configs and servers of series are named."""
    project = cloud.project(FIRST).id
    web_1 = cloud.world.add_server(project, "web-1")
    idle = cloud.world.add_server(project, "idle")
    # As a stack does: each deployment has a config of its own, and what repeats is the name.
    derived = [config(cloud, "configure-nginx", "ansible", derived=True) for _ in range(3)]
    failed = derived[1]
    for each in derived:
        cloud.deploy(server=web_1, status="FAILED" if each == failed else "COMPLETE", config=each)
    async with cloud.exporter(once()) as exporter:
        page = await exporter.when(lambda page: page.select(SERVER_INFO, project=FIRST) and page.select(CONFIG_INFO))
    assert page.cells(CONFIGS, "config_name", "group", "status", project=FIRST) == {
        ("configure-nginx", "ansible", "COMPLETE"): 2,
        ("configure-nginx", "ansible", "FAILED"): 1,
        ("install-agent", "script", "COMPLETE"): 1,
    }
    assert page.cells(CONFIG_INFO, "config_id", "config_name", "group", project=FIRST) == {
        (failed, "configure-nginx", "ansible"): 1
    }
    # server-1 is a text that the compute service has never heard of; idle has no deployments.
    assert page.cells(SERVER_INFO, "server_id", "server_name", project=FIRST) == {(web_1, "web-1"): 1}
    assert idle not in str(page)
    assert page.value("heat_api_requests_total", api="compute", code="200") >= 1


async def test_once_has_the_names(cloud: Cloud):
    """One round ends with names, although they are found out only after the deployments were counted."""
    cloud.deploy(status="FAILED", server=cloud.world.servers[cloud.project(FIRST).id][0])
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value(CONFIGS, project=FIRST, config_name="install-agent", group="script", status="FAILED") == 1
    assert page.value(CONFIG_INFO, project=FIRST, config_name="install-agent") == 1
    assert page.value(SERVER_INFO, project=FIRST, server_name=f"{FIRST}-001") == 1
    assert not page.select(CONFIGS, config_name="")


async def test_names_can_be_switched_off(cloud: Cloud):
    """With `names: false` nobody is asked; deployments count under empty labels, and there are no info series."""
    cloud.deploy(status="FAILED")
    async with cloud.fleet(configuration(names=False)) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.cells(CONFIGS, "config_name", "group", "status", project=FIRST) == {
        ("", "", "COMPLETE"): 1,
        ("", "", "FAILED"): 1,
    }
    assert page.select(PROBLEMS, project=FIRST)
    assert not page.select(CONFIG_INFO)
    assert not page.select(SERVER_INFO)
    assert not cloud.requests.select(api="compute")
    assert not cloud.requests.select(path_suffix="/software_configs")


@pytest.mark.parametrize(
    ("excluded", "asked"),
    [
        ([CONFIGS, CONFIG_INFO], {NOVA}),
        ([SERVER_INFO], {"configs"}),
        ([SERVERS], {"configs"}),
        ([CONFIGS], {NOVA, "configs"}),
        ([CONFIGS, PROBLEMS], {NOVA}),
        ([CONFIGS, CONFIG_INFO, SERVER_INFO], set()),
    ],
)
async def test_names_of_families_left_out_are_not_asked_for(cloud: Cloud, excluded: list[str], asked: set[str]):
    """Names that no series would show cost the cloud nothing."""
    cloud.deploy(status="FAILED")
    async with cloud.fleet(configuration(metrics={"exclude": excluded})) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert not {each.name for each in page} & set(excluded)
    found = {each.path for each in cloud.requests if each.path == NOVA or each.path.endswith("configs")}
    assert {path if path == NOVA else "configs" for path in found} == asked


async def test_a_name_that_is_null(cloud: Cloud):
    """A config without a name or group has empty labels, like one that is unknown."""
    cloud.deploy(config=config(cloud, None, None))
    cloud.deploy(config="gone")
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value(CONFIGS, project=FIRST, config_name="", group="", status="COMPLETE") == 2


async def test_a_name_that_is_too_long(cloud: Cloud):
    """Of a name 255 characters are as many as an OpenStack stores: a longer one counts as none."""
    cloud.deploy(config=config(cloud, "x" * 255))
    cloud.deploy(config=config(cloud, "x" * 256))
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value(CONFIGS, project=FIRST, config_name="x" * 255, status="COMPLETE") == 1
    assert page.value(CONFIGS, project=FIRST, config_name="", group="script", status="COMPLETE") == 1


async def test_odd_names_are_text(cloud: Cloud):
    """A name may hold anything: the page stays one that parsers read."""
    odd = 'a "b"\\\n{c="d"} 1\n# EOF'
    server = cloud.world.add_server(cloud.project(FIRST).id, odd)
    cloud.deploy(status="FAILED", server=server, config=config(cloud, odd, odd))
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value(CONFIG_INFO, config_name=odd, group=odd) == 1
    assert page.value(SERVER_INFO, server_name=odd) == 1


# -- as many requests as are needed, and no more


async def test_more_configs_than_a_page_has(cloud: Cloud):
    """All pages are read where they are needed: the oldest config is on the last of them."""
    oldest = config(cloud, "oldest", created=1.0)
    for number in range(2 * PAGE_ITEMS + 10):
        config(cloud, f"other-{number}", created=2.0 + number // 7)
    cloud.deploy(config=oldest)
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value(CONFIGS, project=FIRST, config_name="oldest", status="COMPLETE") == 1
    pages = cloud.requests.select(path=configs_of(cloud))
    assert [each.query.count("marker") for each in pages] == [0, 1, 1]
    assert all(f"limit={PAGE_ITEMS}" in each.query for each in pages)


async def test_more_servers_than_a_page_has(cloud: Cloud):
    """The same for servers, whose pages an operator may make smaller than what is asked for."""
    project = cloud.project(FIRST).id
    first = cloud.world.add_server(project, "first")
    for _ in range(PAGE_ITEMS + 10):
        cloud.world.add_server(project)
    cloud.deploy(server=first)
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value(SERVER_INFO, project=FIRST, server_name="first") == 1


async def test_what_is_known_is_not_asked_for_again(cloud: Cloud):
    """Over many refreshes in which nothing new appears, each name is asked for once; so is one that nobody knows."""
    cloud.deploy(config="unknown")
    async with cloud.exporter() as exporter:
        await exporter.refreshed(4 * INTERVALS)
    firsts = [each for each in cloud.requests.select(path=configs_of(cloud)) if "marker" not in each.query]
    assert len(firsts) == 1
    assert cloud.requests.count(path=NOVA, project_id=cloud.project(FIRST).id) <= 2


async def test_what_is_new_is_found_on_the_first_page(cloud: Cloud):
    """A new config is named after a while with one request, for the newest come first."""
    for number in range(PAGE_ITEMS):
        config(cloud, f"other-{number}", created=2.0)
    async with cloud.exporter() as exporter:
        await exporter.when(lambda page: page.select(CONFIGS, config_name="install-agent", project=FIRST))
        cloud.requests.clear()
        cloud.deploy(config=config(cloud, "brand-new"))
        await exporter.when(lambda page: page.select(CONFIGS, config_name="brand-new", project=FIRST))
    assert cloud.requests.count(path=configs_of(cloud)) == 1


async def test_a_marker_that_is_gone(cloud: Cloud):
    """Where the last config of a page is deleted before the next is asked for, a real Heat begins again at the front:
    that ends the search, which is made again later."""
    oldest = config(cloud, "oldest", created=1.0)
    for number in range(PAGE_ITEMS + 10):
        config(cloud, f"other-{number}", created=2.0 + number)
    cloud.deploy(config=oldest)
    deleted: list[str] = []

    async def delete(request: web.BaseRequest) -> None:
        if "marker" in request.query and not deleted:
            deleted.append(request.query["marker"])
            del cloud.world.configs[request.query["marker"]]

    cloud.intercept(delete, configs_of(cloud))
    async with cloud.exporter() as exporter:
        page = await exporter.when(lambda page: page.select(CONFIGS, config_name="oldest", project=FIRST))
    assert deleted
    assert page.value("heat_up", project=FIRST) == 1


async def test_a_cloud_without_pages(cloud: Cloud):
    """A cloud that knows neither `limit` nor `marker` is asked twice, not for ever."""
    wanted = config(cloud, "wanted")
    cloud.deploy(config=wanted)
    cloud.deploy(config="unknown")
    body = json.dumps({"software_configs": [{"id": wanted, "name": "wanted", "group": "g"}]}).encode()
    cloud.intercept(answering(200, body), configs_of(cloud))
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value(CONFIGS, project=FIRST, config_name="wanted", group="g", status="COMPLETE") == 1
    assert cloud.requests.count(path=configs_of(cloud)) == 2


# -- where a cloud does not say

ODD: dict[str, bytes] = {
    "html": b"<html>",
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "another key": b'{"things": []}',
    "no list": b'{"software_configs": 7, "servers": 7}',
    "no objects": b'{"software_configs": [1], "servers": [1]}',
    "no ids": b'{"software_configs": [{}], "servers": [{}]}',
    "not UTF-8": b'{"software_configs": [{"id": "\xff"}], "servers": [{"id": "\xff"}]}',
    "deep": b"[" * 100_000,
}


def refused(status: int) -> Any:
    """A handler that refuses."""
    return answering(status, b"{}")


@pytest.mark.parametrize(
    "handler",
    [*map(refused, (400, 401, 403, 404, 429, 500, 503)), *(answering(200, body) for body in ODD.values())],
    ids=["400", "401", "403", "404", "429", "500", "503", *ODD],
)
async def test_going_without_names(cloud: Cloud, handler: Any, capsys: pytest.CaptureFixture[str]):
    """Where names are refused, or what comes is none, the data is there without them, and no refresh has failed."""
    cloud.deploy(status="FAILED")
    for path in (NOVA, configs_of(cloud), configs_of(cloud, SECOND)):
        cloud.intercept(handler, path)
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.total("heat_up") == 2
    assert not page.select("heat_refresh_failures_total")
    assert page.value(CONFIGS, project=FIRST, config_name="", group="", status="FAILED") == 1
    assert not page.select(CONFIG_INFO)
    assert not page.select(SERVER_INFO)
    assert page.select(PROBLEMS, project=FIRST)


async def test_a_refusal_is_said_once(cloud: Cloud, capsys: pytest.CaptureFixture[str]):
    """A cloud that lets nobody look up names is told of by one line for each API, and not asked again soon."""
    from exporter.common import logs

    logs.configure(level="info", format="json")
    for name in ("search", "mobile-api"):
        cloud.add_project(name)
        cloud.deploy(name)
    names = (FIRST, SECOND, "search", "mobile-api")
    for path in (NOVA, *(configs_of(cloud, name) for name in names)):
        cloud.intercept(refused(403), path)
    async with cloud.exporter() as exporter:
        await exporter.refreshed(3 * INTERVALS)
        await harness.eventually(lambda: cloud.requests.count(path=NOVA) >= len(names))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    told = [line for line in lines if line["event"] == "no names"]
    assert sorted(line["what"] for line in told) == ["servers", "software_configs"]
    assert all(line["reason"] == "forbidden" for line in told)
    assert cloud.requests.count(path=configs_of(cloud)) == 1
    assert cloud.requests.count(path=NOVA) == len(names)


async def test_a_catalog_without_compute(cloud: Cloud):
    """Without a compute service servers have no names, and nothing is asked of one."""
    before = cloud.simulator.intercept

    async def without(request: web.BaseRequest, api: Any) -> web.StreamResponse | None:
        if request.path == "/v3/auth/tokens" and request.method == "POST":
            answer = await cloud.simulator._keystone.answer(request)
            assert isinstance(answer, web.Response)
            assert isinstance(answer.body, bytes)
            body = json.loads(answer.body)
            catalog = body["token"]["catalog"]
            body["token"]["catalog"] = [each for each in catalog if each["type"] != "compute"]
            answer.body = json.dumps(body).encode()
            return answer
        return await before(request, api) if before else None

    cloud.simulator.intercept = without
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.total("heat_up") == 2
    assert page.select(CONFIGS, config_name="install-agent")
    assert not page.select(SERVER_INFO)
    assert not page.select("heat_api_requests_total", api="compute")


async def test_names_that_never_come_delay_nobody(cloud: Cloud):
    """While a cloud is silent about names, its refreshes go on as ever, and so does the end of the exporter."""
    hold = Hold()
    for path in (NOVA, configs_of(cloud), configs_of(cloud, SECOND)):
        cloud.intercept(hold, path)
    async with cloud.exporter() as exporter:
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        page = await exporter.refreshed(10)
        assert page.total("heat_up") == 2
        # One project at a time asks.
        assert cloud.requests.peak(path_suffix="/software_configs") == 1
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("names")]


async def test_a_project_that_goes_while_it_is_asked_about(cloud: Cloud):
    """A project that is removed while its names are looked up leaves nothing behind."""
    hold = Hold()
    cloud.intercept(hold, configs_of(cloud, SECOND))
    async with cloud.exporter(configuration(refresh={"discovery": "200ms"})) as exporter:
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        cloud.world.remove_project(cloud.project(SECOND).id)
        await exporter.when(lambda page: not page.select("heat_up", project=SECOND))
        await harness.eventually(
            lambda: len([task for task in asyncio.all_tasks() if task.get_name().startswith("names")]) <= 1, "ended"
        )
        hold.released.set()
        page = await exporter.refreshed(2)
    assert SECOND not in str(page)


# -- when to ask, by a clock of the test's own


class Asking:
    """One project's naming, with a clock that stands still until it is moved."""

    def __init__(self, access: CloudSession, project_id: str) -> None:
        self.now = 1000.0
        self.naming = NameResolver(clock=lambda: self.now)
        self.desk = NameQueue()
        self._project_id = project_id
        self._manners = NameSettings(
            access=access,
            silence=10.0,
            timeout=10.0,
            pause=lambda took: 0.0,
            desk=self.desk,
        )

    def due(self, configs: Iterable[str] = (), servers: Iterable[str] = ()) -> bool:
        """Whether it would ask for these."""
        return self.naming.due(self._manners, [hashed(configs)], [hashed(servers)])

    async def authenticate(self) -> None:
        """Have a new token, as a refresh that was refused with the last one gets it."""
        access = self._manners.access
        held = access.held(self._project_id)
        async with Deadline(10.0) as stopwatch:
            await access.token(self._project_id, stopwatch=stopwatch, rejected=held)

    async def ask(self, configs: Iterable[str] = (), servers: Iterable[str] = ()) -> None:
        """Ask for these."""
        await self.naming.ask(
            lambda: self._manners,
            self._project_id,
            configs=[hashed(configs)],
            servers=[hashed(servers)],
            interval=60.0,
        )


@pytest.fixture
async def asking(cloud: Cloud):
    """A naming of the first project."""
    async with cloud.fleet() as fleet:
        await fleet.clouds["sim"].discover()
        found = Asking(fleet.clouds["sim"].access, cloud.project(FIRST).id)
        await found.authenticate()
        yield found


async def test_not_more_often_than_every_few_intervals(cloud: Cloud, asking: Asking):
    """What is new waits until some intervals have passed since the project was last asked about."""
    one, other = config(cloud, "one"), config(cloud, "other")
    assert asking.due([one])
    await asking.ask([one])
    assert asking.naming.names.configs.get(one) == ConfigName("one", "script")
    assert len(asking.naming.names.configs) == 1  # and of nothing that nobody wanted
    assert not asking.due([one, other])
    asking.now += INTERVALS * 60.0
    assert not asking.due([one])
    assert asking.due([one, other])


@pytest.mark.parametrize(("status", "wait"), [(403, DENIED), (404, DENIED), (500, FAILED), (429, FAILED)])
async def test_after_a_refusal(cloud: Cloud, asking: Asking, status: int, wait: float):
    """A refusal is taken for an answer for an hour, a failure for some minutes; then names come."""
    one = config(cloud, "one")
    cloud.intercept(refused(status), configs_of(cloud))
    await asking.ask([one])
    assert asking.naming.names.asking == (wait == FAILED)
    cloud.mend()
    asking.now += wait - 1
    assert not asking.due([one])
    asking.now += 1
    assert asking.due([one])
    assert asking.naming.names.asking
    await asking.ask([one])
    assert asking.naming.names.configs.get(one) == ConfigName("one", "script")


async def test_other_credentials_may_ask_at_once(cloud: Cloud, asking: Asking):
    """What one user was refused, the next one asks for at once."""
    one = config(cloud, "one")
    cloud.intercept(refused(403), configs_of(cloud))
    await asking.ask([one])
    assert not asking.due([one])
    asking.naming.reopen()
    assert asking.due([one])


async def test_renamed_servers(cloud: Cloud, asking: Asking):
    """The names of servers are read anew after an hour; a server that is gone is forgotten then."""
    project = cloud.project(FIRST).id
    one, other = cloud.world.add_server(project, "one"), cloud.world.add_server(project, "other")
    unknown = "no server of Nova's"
    await asking.ask(servers=[one, other, unknown])
    assert asking.naming.names.servers.get(unknown) == ""
    cloud.world.server_names[one] = "renamed"
    cloud.world.servers[project].remove(other)
    asking.now += RENEWAL - 1
    assert not asking.due(servers=[one, unknown])
    asking.now += 1
    assert asking.due(servers=[one])
    await asking.ask(servers=[one])
    assert asking.naming.names.servers.get(one) == "renamed"
    assert other not in asking.naming.names.servers


async def test_a_mistake_is_not_for_ever(cloud: Cloud, asking: Asking):
    """What a cloud did not know once is asked for again after an hour, and at once with other credentials."""
    one = config(cloud, "one")
    cloud.intercept(answering(200, b'{"software_configs": []}'), configs_of(cloud))
    await asking.ask([one])
    assert asking.naming.names.configs.get(one) == ConfigName("", "")
    cloud.mend()
    asking.now += RENEWAL
    await asking.ask()  # what the next response is counted by
    assert one not in asking.naming.names.configs
    await asking.ask([one])
    assert asking.naming.names.configs.get(one) == ConfigName("one", "script")
    asking.naming._configs.names = NameTable[ConfigName]().with_more(hashed([one]), [ConfigName("", "")])
    asking.naming.reopen()
    assert one not in asking.naming.names.configs


async def test_names_that_nothing_has_any_more_are_forgotten(cloud: Cloud):
    """Configs come and go with each action: when too many names are kept, those that are in use are found by counting
    once by the ids, and asked for no more than before."""
    project = cloud.project(FIRST).id
    async with cloud.fleet() as fleet:
        await fleet.once()
        watch = watch_of(fleet)
        used = watch._naming.names.configs
        gone = [f"gone-{number}" for number in range(SPARE + 10)]
        names = [ConfigName("gone", "script")] * len(gone)
        watch._naming._configs.names = used.with_more(hashed(gone), names)
        asked = cloud.requests.count(path=configs_of(cloud))
        await watch.refresh()
        kept = watch._naming.names.configs
        assert (kept.hashes, kept.names) == (used.hashes, used.names)
        page = page_of(fleet)
        await watch.refresh()
    assert cloud.requests.count(path=configs_of(cloud)) == asked
    assert page.value(CONFIGS, project_id=project, config_name="install-agent", status="COMPLETE") == 1


async def test_names_go_with_the_data(cloud: Cloud):
    """When a project's data is withdrawn its names are, too, also those that arrive after that; with new data they are
    asked for again."""
    hands, asked = Hands(), Hold()
    async with cloud.fleet(configuration(refresh=ONCE), clock=hands.clock) as fleet:
        await fleet.once()
        watch = watch_of(fleet)
        assert watch._naming.names.configs
        assert watch._naming.names.servers
        for late in (False, True):
            if late:
                cloud.intercept(asked, configs_of(cloud))
                asking = asyncio.create_task(watch.ask_for_names())
                await asyncio.wait_for(asked.entered.wait(), harness.DEADLINE)
            hands.advance(10**5)
            await fleet.expire()
            if late:
                asked.released.set()
                await asking
            assert not watch._naming.names.configs
            assert not watch._naming.names.servers
            await watch.refresh()
            assert page_of(fleet).cells(CONFIGS, "config_name", project=FIRST) == {"": 1}
        cloud.mend()
        hands.advance(10**5)
        await watch.refresh()
        await watch.ask_for_names()
        assert page_of(fleet).cells(CONFIGS, "config_name", project=FIRST) == {"install-agent": 1}
        assert watch._naming.names.servers


async def test_a_list_without_an_end(cloud: Cloud, asking: Asking):
    """A cloud that always has another page is given up, and keeps neither the exporter nor its memory."""

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"software_configs": [{"id": f"{len(cloud.requests)}", "name": "x", "group": "y"}]})

    cloud.intercept(endless, configs_of(cloud))
    await asking.ask(["wanted"])
    assert cloud.requests.count(path=configs_of(cloud)) == PAGES
    assert not asking.naming.names.configs
    assert not asking.due(["wanted"])


async def test_a_token_that_was_revoked(cloud: Cloud, asking: Asking):
    """A token that is refused is no refusal of names: with the next one, which a refresh gets, they are asked for at
    once. Names themselves never authenticate."""
    one, other = config(cloud, "one"), config(cloud, "other")
    await asking.ask([one])
    cloud.revoke()
    before = cloud.authentications()
    asking.now += 3600
    await asking.ask([other])
    assert asking.due([other])
    assert asking.naming.names.asking
    assert cloud.authentications() == before
    await asking.authenticate()
    await asking.ask([other])
    assert asking.naming.names.configs.get(other) == ConfigName("other", "script")


async def test_a_token_that_is_refused_for_names_only(cloud: Cloud, asking: Asking):
    """Where the next token is refused too, that is the cloud's answer: it is asked again after an hour."""
    one = config(cloud, "one")
    cloud.intercept(refused(401), configs_of(cloud))
    await asking.ask([one])
    assert asking.due([one])
    await asking.authenticate()
    await asking.ask([one])
    assert not asking.due([one])
    assert not asking.naming.names.asking
    asking.now += DENIED
    assert asking.due([one])


async def test_without_a_token_nobody_is_asked(cloud: Cloud, asking: Asking):
    """While no token is there, names wait for the refresh that gets one, and then need not wait any longer."""
    one = config(cloud, "one")
    access = asking._manners.access
    access.forget(cloud.project(FIRST).id)
    before = cloud.authentications()
    await asking.ask([one])
    assert not asking.naming.names.configs
    assert cloud.authentications() == before
    assert not cloud.requests.count(path=configs_of(cloud))
    assert asking.due([one])


async def test_an_outage_is_the_whole_cloud_s(cloud: Cloud, asking: Asking):
    """Where an API fails, no project asks it for a while, and never before a Retry-After; the others are asked."""
    server = cloud.world.add_server(cloud.project(FIRST).id, "web")
    one = config(cloud, "one")
    cloud.intercept(answering(429, headers={"Retry-After": "1800"}), configs_of(cloud))
    await asking.ask([one], [server])
    assert asking.naming.names.servers.get(server) == "web"
    cloud.mend()
    another = Asking(asking._manners.access, cloud.project(SECOND).id)
    another._manners = asking._manners
    another.now = asking.now + 1799
    assert not another.due([one])
    another.now += 1
    assert another.due([one])


async def test_a_deleted_server_is_no_refusal(cloud: Cloud, asking: Asking):
    """Where the compute service doesn't know the last server of a page any more, it is asked again soon."""
    project = cloud.project(FIRST).id
    first = cloud.world.add_server(project, "first")
    for _ in range(PAGE_ITEMS + 5):
        cloud.world.add_server(project)

    async def delete(request: web.BaseRequest) -> None:
        if marker := request.query.get("marker"):
            cloud.world.servers[project].remove(marker)

    cloud.intercept(delete, NOVA)
    await asking.ask(servers=[first])
    cloud.mend()
    asking.now += FAILED
    assert asking.due(servers=[first])
    await asking.ask(servers=[first])
    assert asking.naming.names.servers.get(first) == "first"


async def test_an_answer_to_credentials_of_before(cloud: Cloud, asking: Asking):
    """A refusal that was on its way when other credentials came says nothing of these."""
    one = config(cloud, "one")

    async def refuse(request: web.BaseRequest) -> web.StreamResponse:
        asking.naming.reopen()
        return web.json_response({}, status=403)

    cloud.intercept(refuse, configs_of(cloud))
    await asking.ask([one])
    assert asking.due([one])
    assert asking.naming.names.asking


async def test_a_cloud_is_left_alone_after_each_page(cloud: Cloud):
    """Between two pages, of one project or of two, there is a pause, whether or not the first was enough."""
    for name in ("search", "mobile-api", "analytics"):
        cloud.add_project(name)
        cloud.deploy(name)
    rested: list[float] = []
    settings = configuration(refresh={"share": 0.5, "interval": "1h"}, limits={"requests_per_second": 20})
    async with cloud.exporter(settings) as exporter:
        await exporter.when(lambda page: len(page.select(CONFIGS, config_name="install-agent")) == 5)
    times = [each.time for each in cloud.requests if each.api == "compute" or each.path.endswith("configs")]
    rested += [later - earlier for earlier, later in pairwise(times)]
    # A twentieth of a second for its own turn, and as much again.
    assert min(rested) >= 0.05


async def test_names_take_a_share(cloud: Cloud):
    """After a page a cloud is left alone for as long as keeps names below their share of its time and its requests."""
    settings = configuration(refresh={"share": 0.2}, limits={"requests_per_second": 10})
    async with cloud.fleet(settings) as fleet:
        await fleet.clouds["sim"].discover()
        manners = watch_of(fleet)._shared.manners
    assert manners is not None
    assert manners.pause(3.0) == pytest.approx(12.0)
    assert manners.pause(0.001) == pytest.approx(0.4)
