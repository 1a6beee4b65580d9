"""Administrators' tokens: the own project counts the whole cloud, every other one is refused, nothing counts twice."""

import asyncio
import random
from collections.abc import Iterator

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from exporter.collector.administrators import SampleIndex
from exporter.collector.collector import Collector
from exporter.config.sharding import owner
from exporter.simulator import Project
from tests import harness
from tests.harness import (
    FIRST,
    ONCE,
    SECOND,
    Cloud,
    Exporter,
    Hold,
    Samples,
    configuration,
    page_of,
    run,
    watch_of,
)

cloud = harness.cloud
pytestmark = harness.sdk_warning

DEPLOYMENTS = "heat_software_deployments"
DUPLICATES = "heat_duplicate_records_total"
FAILURES = "heat_refresh_failures_total"
FINISHED = "heat_software_deployment_finished_total"
REMOVED = "heat_projects_removed_total"
TOKEN = "heat_cloud_admin_token"


def fill(cloud: Cloud) -> None:
    """Deployments in both projects, three and five more than they have, and one in the administrator's."""
    for name, number in ((FIRST, 3), (SECOND, 5), ("admin", 1)):
        for each in range(number):
            cloud.deploy(name, server=f"server-{each}-of-{name}")


def become(cloud: Cloud, role: str, *names: str, before: str = "reader") -> None:
    """Give `monitor` this role in these projects instead of another one, and end its tokens."""
    user = cloud.world.user("monitor").id
    for name in names:
        cloud.world.revoke(user, cloud.project(name).id, before)
        cloud.world.grant(user, cloud.project(name).id, role)
    cloud.revoke()


def shown(page: Samples) -> dict[str, float]:
    """How many deployments the page shows, by project; projects without data are absent."""
    found: dict[str, float] = {}
    for each in page.select(DEPLOYMENTS):
        found[each.labels["project"]] = found.get(each.labels["project"], 0) + each.value
    return found


def refused(page: Samples) -> set[str]:
    """The projects whose last refresh failed, each as `forbidden`."""
    failing = {each.labels["project"] for each in page.select("heat_up") if not each.value}
    assert failing <= {each.labels["project"] for each in page.select(FAILURES, reason="forbidden") if each.value}
    return failing


def asked(cloud: Cloud) -> list[str]:
    """The names of the projects whose deployments were requested, in order."""
    paths = (each.path.split("/") for each in cloud.requests.select(api="orchestration"))
    return [cloud.world.projects[path[3]].name for path in paths if path[-1] == "software_deployments"]


def truth(cloud: Cloud) -> int:
    """How many deployments the cloud has."""
    return len(cloud.world.deployments)


def projects(cloud: Cloud) -> Iterator[Project]:
    """The projects that are enabled."""
    return (project for project in cloud.world.projects.values() if project.enabled)


# -- rule 1: the entry's own project


@pytest.mark.parametrize("wanted", ["discover", "current", ["admin"]])
async def test_the_own_project_counts_the_whole_cloud(cloud: Cloud, wanted: object):
    """An administrator's own project is the only one that is watched, all deployments count there from one response,
    and the log says so once, with the remedy."""
    fill(cloud)
    cloud.write(cloud.entry(user="admin"))
    with capture_logs() as logs:
        clouds = [{"name": "sim", "cloud": "simulator", "projects": wanted}]
        async with cloud.fleet(configuration(clouds=clouds)) as fleet:
            await fleet.once()
            await fleet.once()
            page = page_of(fleet)
    assert shown(page) == {"admin": truth(cloud)}
    assert {each.labels["project"] for each in page if "project" in each.labels} == {"admin"}
    assert page.value(TOKEN) == 1
    assert page.value("heat_up") == 1
    assert page.value(DUPLICATES) == 0
    assert asked(cloud) == ["admin", "admin"]
    (told,) = [line for line in logs if line["event"].startswith("the token is an administrator's")]
    assert (told["log_level"], told["project"]) == ("warning", "admin")
    assert "a user with the role reader" in told["event"]


@pytest.mark.parametrize("bound", [True, False])
async def test_an_application_credential_of_an_administrator(cloud: Cloud, bound: bool):
    """An administrator's application credential counts the whole cloud for its one project, whatever the role's case;
    in a cloud with another admin project it is nobody special."""
    fill(cloud)
    cloud.world.add_role("AdMin")
    become(cloud, "AdMin", FIRST)
    if not bound:
        cloud.world.admin_project = cloud.project("admin").id
    cloud.world.add_application_credential(cloud.world.user("monitor").id, cloud.project(FIRST).id, "x", secret="x")
    entry = cloud.entry()
    auth = {"auth_url": entry["auth"]["auth_url"], "application_credential_name": "x"}
    auth |= {"application_credential_secret": "x", "username": "monitor", "user_domain_name": "Default"}
    cloud.write({**entry, "auth_type": "v3applicationcredential", "auth": auth})
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert shown(page) == {FIRST: truth(cloud) if bound else 4}
    assert page.value(TOKEN) == bound


async def test_is_admin_project_decides(cloud: Cloud):
    """With the role admin in every project, but `is_admin_project` false in all but one that is not watched, every
    project counts its own deployments."""
    fill(cloud)
    cloud.world.admin_project = cloud.world.add_project("elsewhere").id
    cloud.write(cloud.entry(user="admin"))
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert shown(page) == {FIRST: 4, SECOND: 6, "admin": 1}
    assert page.value(TOKEN) == 0
    assert not refused(page)


async def test_a_reader_gets_an_administrator_s_token(cloud: Cloud):
    """When the own token is renewed and an administrator's, the others are removed as `config` before its response
    counts; they come back when it is a reader's again. Nothing counts twice in between, nor as a completion."""
    fill(cloud)
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
        assert shown(page) == {FIRST: 4, SECOND: 6}
        assert page.value(TOKEN) == 0
        become(cloud, "admin", FIRST)
        hold = Hold()
        cloud.listing(hold)
        refreshing = asyncio.create_task(watch_of(fleet).refresh())
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        hold.released.set()
        await refreshing
        page = page_of(fleet)
        assert shown(page) == {FIRST: truth(cloud)}
        assert page.cells(REMOVED, "reason") == {"config": 1}
        assert page.value(TOKEN) == 1
        assert page.total(FINISHED) == 0
        await watch_of(fleet).refresh()
        assert page_of(fleet).total(FINISHED) == 0
        cloud.deploy(SECOND, age=0)
        await watch_of(fleet).refresh()
        assert page_of(fleet).total(FINISHED) == 1

        cloud.mend()
        become(cloud, "reader", FIRST, before="admin")
        cloud.listing(harness.answering(500))
        await fleet.clouds["sim"].discover()
        await watch_of(fleet, SECOND).refresh()
        await watch_of(fleet).refresh()
        page = page_of(fleet)
        assert shown(page) == {SECOND: 7}
        assert page.value(TOKEN) == 0
        cloud.mend()
        await watch_of(fleet).refresh()
        page = page_of(fleet)
        assert shown(page) == {FIRST: 4, SECOND: 7}
        assert page.total(FINISHED) == 1


async def test_a_response_to_an_administrator_s_old_token_is_not_counted(cloud: Cloud):
    """A response that was requested when the token was an administrator's, and that arrives when the others are watched
    again, is refused."""
    fill(cloud)
    become(cloud, "admin", FIRST)
    async with cloud.fleet() as fleet:
        await fleet.once()
        assert shown(page_of(fleet)) == {FIRST: truth(cloud)}
        everything = [each.body() for each in cloud.world.deployments.values()]
        hold = Hold()

        async def late(request: web.BaseRequest) -> web.StreamResponse:
            await hold(request)
            cloud.mend()
            return web.json_response({"software_deployments": everything})

        cloud.listing(late)
        refreshing = asyncio.create_task(watch_of(fleet).refresh())
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        become(cloud, "reader", FIRST, before="admin")
        await fleet.clouds["sim"].discover()
        await watch_of(fleet, SECOND).refresh()
        hold.released.set()
        _, error = await refreshing
        page = page_of(fleet)
        assert error is not None
        assert error.reason == "forbidden"
        assert shown(page) == {SECOND: 6}
        await watch_of(fleet).refresh()
        assert shown(page_of(fleet)) == {FIRST: 4, SECOND: 6}
        assert page_of(fleet).value(TOKEN) == 0


async def test_no_page_counts_anything_twice(cloud: Cloud):
    """While the user is an administrator and a reader by turns, no page of a running exporter shows more deployments
    than there are, and after each change the page is soon the truth."""
    fill(cloud)
    totals: list[float] = []

    async def scrape(exporter: Exporter) -> None:
        while True:
            totals.append((await exporter.samples()).total(DEPLOYMENTS))

    async with cloud.exporter(configuration(refresh={"discovery": "200ms", "interval": "50ms"})) as exporter:
        await exporter.when(lambda page: shown(page) == {FIRST: 4, SECOND: 6})
        task = asyncio.create_task(scrape(exporter))
        for _ in range(3):
            become(cloud, "admin", FIRST)
            await exporter.when(lambda page: shown(page) == {FIRST: truth(cloud)})
            become(cloud, "reader", FIRST, before="admin")
            await exporter.when(lambda page: shown(page) == {FIRST: 4, SECOND: 6})
        task.cancel()
    assert max(totals) == truth(cloud)


async def test_one_shard_watches_an_administrator_s_project(cloud: Cloud):
    """Of several shards the one that has the own project counts the whole cloud, the others have no project, which is
    no failure, and all of them show that the token is an administrator's."""
    fill(cloud)
    cloud.write(cloud.entry(user="admin"))
    mine = owner("sim", cloud.project("admin").id, 2)
    for index in range(2):
        async with cloud.fleet(configuration(shard={"index": index, "total": 2})) as fleet:
            await fleet.once()
            page = page_of(fleet)
        assert shown(page) == ({"admin": truth(cloud)} if index == mine else {})
        assert page.value(TOKEN) == 1
        options = ("--shard.index", str(index), "--shard.total=2", "--log.level=error")
        done = await run("check", "--config.file", cloud.configure(), *options)
        assert (done.status, done.stderr) == (0, "")
    assert asked(cloud) == ["admin", "admin"]


# -- rule 2: every other administrator's token


async def test_other_administrators_tokens_are_refused_unasked(cloud: Cloud):
    """In a list of several projects each project whose token is an administrator's fails as `forbidden`, the entry's
    own too, without a request to Heat; the others are shown. `check` and the landing page name the remedy."""
    fill(cloud)
    become(cloud, "admin", FIRST)
    clouds = [{"name": "sim", "cloud": "simulator", "projects": [FIRST, SECOND]}]
    async with cloud.exporter(configuration(clouds=clouds), refreshing=False) as exporter:
        await exporter.fleet.once()
        page = page_of(exporter.fleet)
        landing = (await exporter.get("/")).text
    assert shown(page) == {SECOND: 6}
    assert refused(page) == {FIRST}
    assert page.value(FAILURES, api="identity", reason="forbidden", project=FIRST) == 1
    assert page.value(TOKEN) == 1
    assert asked(cloud) == [SECOND]
    assert landing.count("a user with the role reader") == 2
    done = await run("check", "--config.file", cloud.configure(clouds=clouds), "--log.level=error")
    assert done.status == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"project {FIRST!r}")
    assert "forbidden: " in line
    assert "use a user with the role reader" in line
    assert "a user with the role reader" in done.stdout


async def test_an_administrator_in_some_of_the_discovered_projects(cloud: Cloud):
    """If the own token is a reader's, a discovered project in which the user is an administrator is refused.
    Its roles are looked at again after each discovery."""
    fill(cloud)
    become(cloud, "admin", SECOND)
    cloud.write(cloud.entry(project=FIRST))
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
        assert shown(page) == {FIRST: 4}
        assert refused(page) == {SECOND}
        assert page.value(TOKEN) == 1
        become(cloud, "reader", SECOND, before="admin")
        await fleet.clouds["sim"].discover()
        await watch_of(fleet, SECOND).refresh()
        page = page_of(fleet)
    assert shown(page) == {FIRST: 4, SECOND: 6}
    assert page.value(TOKEN) == 0


async def test_an_entry_without_a_project_of_its_own(cloud: Cloud):
    """With an unscoped entry all projects of an administrator are refused, and the status is that of a failure."""
    fill(cloud)
    entry = cloud.entry(user="admin")
    for key in [key for key in entry["auth"] if key.startswith("project_")]:
        del entry["auth"][key]
    cloud.write(entry)
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert shown(page) == {}
    assert refused(page) == {FIRST, SECOND, "admin"}
    assert page.value(TOKEN) == 1
    assert asked(cloud) == []


# -- rule 3: rights that the roles do not tell


def all_seeing(cloud: Cloud, *names: str) -> None:
    """A cloud whose policy gives the role `operator`, which `monitor` has in these projects, an administrator's
    rights."""
    fill(cloud)
    cloud.world.add_role("operator", administrator=True)
    become(cloud, "operator", *names)


@pytest.mark.parametrize("own", [FIRST, SECOND])
@pytest.mark.parametrize("seed", range(3))
async def test_of_projects_that_list_the_same_one_is_shown(cloud: Cloud, own: str, seed: int):
    """Whatever the order of refreshes, of several projects that list the same the entry's own is shown, the others are
    refused until the next discovery, and each deployment is counted once."""
    third = cloud.add_project("third").name
    cloud.deploy(third)
    all_seeing(cloud, FIRST, SECOND, third)
    cloud.write(cloud.entry(project=own))
    chance = random.Random(seed)
    async with cloud.fleet() as fleet:
        await fleet.clouds["sim"].discover()
        for _ in range(3):
            for watch in chance.sample(list(fleet.watches()), 3):
                await watch.refresh()
        page = page_of(fleet)
        assert shown(page) == {own: truth(cloud)}
        assert refused(page) == {FIRST, SECOND, third} - {own}
        assert page.value(TOKEN) == 1


async def test_the_project_with_the_higher_id_is_refused(cloud: Cloud):
    """If neither is the entry's own, the project with the lower id is shown, in any order of refreshes."""
    cloud.add_project("third")
    cloud.deploy("third")
    all_seeing(cloud, FIRST, SECOND)
    cloud.write(cloud.entry(project="third"))
    lower, higher = sorted((FIRST, SECOND), key=lambda name: cloud.project(name).id)
    for order in ((lower, higher), (higher, lower)):
        async with cloud.fleet() as fleet:
            await fleet.clouds["sim"].discover()
            for name in order:
                await watch_of(fleet, name).refresh()
            page = page_of(fleet)
            assert shown(page) == {lower: truth(cloud)}
            assert refused(page) == {higher}
            error = watch_of(fleet, higher).state.error
            assert f"project {lower!r}" in error
            assert "use a user with the role reader" in error


async def test_a_refused_project_is_asked_again_after_each_discovery(cloud: Cloud):
    """A running exporter asks a refused project once after each discovery, not before, and shows it as soon as it lists
    its own deployments."""
    all_seeing(cloud, FIRST, SECOND)
    cloud.write(cloud.entry(project=FIRST))
    async with cloud.exporter(configuration(refresh={"interval": "20ms"})) as exporter:
        fleet: Collector = exporter.fleet
        await fleet.wait_ready()
        page = await exporter.when(lambda page: page.get("heat_up", project=SECOND) == 0)
        assert shown(page) == {FIRST: truth(cloud)}
        asked = cloud.asked(SECOND)
        for number in range(1, 3):
            await exporter.refreshed(10)
            assert cloud.asked(SECOND) == asked + number - 1
            await fleet.clouds["sim"].discover()
            await exporter.refreshed(1, project=SECOND)
            assert cloud.asked(SECOND) == asked + number
        page = await exporter.refreshed()
        assert shown(page) == {FIRST: truth(cloud)}
        assert page.value(TOKEN) == 1
        cloud.world.administrators.remove("operator")
        await exporter.when(lambda page: shown(page).get(FIRST) == 4)
        await fleet.clouds["sim"].discover()
        page = await exporter.when(lambda page: page.value("heat_up", project=SECOND) == 1)
    assert shown(page) == {FIRST: 4, SECOND: 6}
    assert page.value(TOKEN) == 0


async def test_data_of_before_is_withdrawn(cloud: Cloud):
    """When a project begins to list what another shows, its earlier data goes at once, and a removed project leaves
    nothing behind with which others are compared."""
    cloud.add_project("third")
    cloud.deploy("third")
    all_seeing(cloud)
    cloud.write(cloud.entry(project="third"))
    lower, higher = sorted((FIRST, SECOND), key=lambda name: cloud.project(name).id)
    async with cloud.fleet() as fleet:
        await fleet.once()
        assert shown(page_of(fleet)) == {FIRST: 4, SECOND: 6, "third": 1}
        become(cloud, "operator", FIRST, SECOND)
        await watch_of(fleet, lower).refresh()
        await watch_of(fleet, higher).refresh()
        assert shown(page_of(fleet)) == {lower: truth(cloud), "third": 1}
        cloud.world.remove_project(cloud.project(lower).id)
        await fleet.clouds["sim"].discover()
        await watch_of(fleet, higher).refresh()
        page = page_of(fleet)
    assert shown(page) == {higher: truth(cloud), "third": 1}
    assert not refused(page)
    assert page.value(TOKEN) == 0


async def test_projects_without_deployments_are_not_alike(cloud: Cloud):
    """Empty responses are equal, and say nothing about the token."""
    for deployment in list(cloud.world.deployments):
        cloud.world.remove(deployment)
    async with cloud.fleet(configuration(refresh=ONCE)) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.total("heat_up") == 2
    assert page.value(TOKEN) == 0


# -- which responses are alike

SAMPLES = st.dictionaries(
    st.sampled_from("abcdef"), st.frozensets(st.integers(0, 12), max_size=8).map(sorted).map(tuple), max_size=6
)


@settings(deadline=None)
@given(SAMPLES, SAMPLES, st.frozensets(st.sampled_from("abcdef")))
def test_similar_samples_are_found(
    before: dict[str, tuple[int, ...]], now: dict[str, tuple[int, ...]], gone: frozenset[str]
) -> None:
    """Whatever was known before, the look-up finds exactly the projects that share at least half of the larger sample,
    and leaves nothing behind of samples and projects that are gone."""
    index = SampleIndex()
    for samples in (before, now):
        for project, sample in samples.items():
            index.put(project, sample)
    for project in gone:
        index.drop(project)
    known = {project: sample for project, sample in (before | now).items() if project not in gone}
    for project, sample in now.items():
        expected = [
            other
            for other, theirs in sorted(known.items())
            if other != project
            and (common := len(set(sample) & set(theirs)))
            and common >= max(len(sample), len(theirs)) / 2
        ]
        assert index.similar(project, sample) == expected
    for project in known:
        index.drop(project)
    assert not index._holders
    assert not index._samples
