"""Finding the projects over sockets: what the configuration means, and what happens when projects come and go."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from exporter.config.schema import Config
from tests import harness
from tests.harness import (
    DEADLINE,
    FIRST,
    SECOND,
    Cloud,
    Hold,
    Samples,
    answering,
    configuration,
    eventually,
    page_of,
    watch_of,
)

cloud = harness.cloud
pytestmark = harness.sdk_warning

DEPLOYMENTS = "heat_software_deployments"
DISABLED = "legacy-crm"
OFTEN = configuration(refresh={"discovery": "100ms"})


def watching(projects: Any, **refresh: str) -> Config:
    """A configuration with these projects."""
    return configuration(refresh=refresh, clouds=[{"name": "sim", "cloud": "simulator", "projects": projects}])


def watched(page: Samples) -> set[str]:
    """The names of the projects that answered."""
    return set(page.cells("heat_up", "project"))


async def once(cloud: Cloud, projects: Any) -> Samples:
    """The page after one round."""
    async with cloud.fleet(watching(projects)) as fleet:
        await fleet.once()
        return page_of(fleet)


# -- what the configuration means


async def test_discover_finds_every_enabled_project(cloud: Cloud):
    """`discover` watches every project in which the user has a role, and leaves disabled ones alone."""
    page = await once(cloud, "discover")
    assert watched(page) == {FIRST, SECOND}
    assert page.value("heat_discovery_up", cloud="sim") == 1
    assert page.value("heat_discovery_last_success_timestamp_seconds", cloud="sim") > 0
    assert page.cells("heat_projects", "state") == {"fresh": 2}
    disabled = cloud.project(DISABLED)
    assert disabled.id not in str(page)
    assert not [each for each in cloud.requests if disabled.id in each.path]


async def test_current_is_the_entrys_own_project(cloud: Cloud):
    """`current` watches the project that the entry is scoped to, and does not ask which others there are."""
    cloud.write(cloud.entry(project=SECOND))
    page = await once(cloud, "current")
    assert watched(page) == {SECOND}
    assert cloud.requests.count(path="/v3/auth/projects") == 0
    assert cloud.authentications() == 1


async def test_current_without_a_scope_fails(cloud: Cloud):
    """`current` with an entry that names no project is a failed discovery that says so."""
    entry = cloud.entry()
    auth = {key: value for key, value in entry["auth"].items() if not key.startswith("project_")}
    cloud.write({**entry, "auth": auth})
    async with cloud.fleet(watching("current")) as fleet:
        await fleet.once()
        assert page_of(fleet).value("heat_discovery_up", cloud="sim") == 0
        assert "not scoped to a project" in fleet.clouds["sim"].state.discovery_error


async def test_discover_without_a_scope(cloud: Cloud):
    """`discover` needs no project in the entry: an unscoped token is enough to find them."""
    entry = cloud.entry()
    auth = {key: value for key, value in entry["auth"].items() if not key.startswith("project_")}
    cloud.write({**entry, "auth": auth})
    assert watched(await once(cloud, "discover")) == {FIRST, SECOND}


async def test_projects_by_id_and_by_name(cloud: Cloud):
    """A list may name projects by id or by name; the others are left alone."""
    cloud.add_project("third")
    page = await once(cloud, [cloud.project(FIRST).id, "third"])
    assert watched(page) == {FIRST, "third"}
    assert page.value("heat_discovery_up", cloud="sim") == 1
    assert cloud.asked(SECOND) == 0


@pytest.mark.parametrize("role", ["", "admin"])
async def test_others_have_a_turn_while_many_projects_are_removed(cloud: Cloud, role: str):
    """However many projects are gone or left out for an administrator, they are removed one by one, with a turn
    for everything else between two of them."""
    names = [cloud.add_project(f"project-{number}").name for number in range(8)]
    user = cloud.world.user("monitor").id
    seen: set[int] = set()
    async with cloud.fleet() as fleet:
        await fleet.once()
        (clouds,) = fleet.clouds.values()
        before = len(clouds.projects)
        if role:
            cloud.world.grant(user, cloud.project(FIRST).id, role)
            cloud.revoke()
        for name in () if role else names:
            cloud.world.revoke(user, cloud.project(name).id, "reader")

        async def look() -> None:
            while True:
                seen.add(len(clouds.projects))
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        await clouds.discover()
        looking.cancel()
        left = len(clouds.projects)
    assert (before, left) == (len(names) + 2, 1 if role else 2)
    assert seen == set(range(left, before + 1))


async def test_projects_of_stack_users_are_not_discovered(cloud: Cloud):
    """A project that Heat made for a stack's users is not watched unless a list names it: its deployments are listed in
    the stack's own project."""
    cloud.add_project("stack-users").description = "Heat stack user project"
    cloud.world.add_deployment(
        cloud.project(FIRST).id,
        "server-1",
        cloud.world.add_config(cloud.project(FIRST).id, "x").id,
        stack_user_project_id=cloud.project("stack-users").id,
    )
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert {each.labels["project"] for each in page.select("heat_up")} == {FIRST, SECOND}
    assert page.total("heat_software_deployments", project=FIRST) == 2
    async with cloud.fleet(configuration(clouds=[{"cloud": "simulator", "projects": ["stack-users"]}])) as fleet:
        await fleet.once()
        assert page_of(fleet).total("heat_software_deployments", project="stack-users") == 1


async def test_a_project_that_is_listed_twice_is_one(cloud: Cloud):
    """The same project by id and by name is watched once."""
    page = await once(cloud, [FIRST, cloud.project(FIRST).id, {"name": FIRST, "domain": "Default"}])
    assert page.total("heat_projects") == 1
    assert cloud.asked(FIRST) == 1


@pytest.mark.parametrize("by", ["name", "id"])
async def test_a_project_by_name_and_domain(cloud: Cloud, by: str):
    """Of two projects with one name, {name, domain} means the one in that domain, given by its name or its id."""
    domain = cloud.world.add_domain("elsewhere")
    twin = cloud.add_project(FIRST, domain_id=domain)
    page = await once(cloud, [{"name": FIRST, "domain": "elsewhere" if by == "name" else domain}])
    assert set(page.cells("heat_up", "project_id")) == {twin.id}
    assert page.value("heat_discovery_up", cloud="sim") == 1


@pytest.mark.parametrize("unknown", ["nowhere", "0" * 32, {"name": FIRST, "domain": "nowhere"}], ids=str)
async def test_an_unknown_project_costs_no_other(cloud: Cloud, unknown: Any):
    """A listed project that is not to be found is a failed discovery that names it; the others are watched."""
    async with cloud.fleet(watching([unknown, SECOND])) as fleet:
        await fleet.once()
        page = page_of(fleet)
        assert watched(page) == {SECOND}
        assert page.value("heat_discovery_up", cloud="sim") == 0
        assert page.cells("heat_discovery_failures_total", "api", "reason") == {("identity", "not_found"): 1}
        name = unknown["name"] if isinstance(unknown, dict) else unknown
        assert name in fleet.clouds["sim"].state.discovery_error


async def test_an_ambiguous_name_costs_no_other(cloud: Cloud):
    """A name that two projects have is a failed discovery that names it and the remedy; the others are watched."""
    domain = cloud.world.add_domain("elsewhere")
    cloud.add_project(FIRST, domain_id=domain)
    async with cloud.fleet(watching([FIRST, SECOND])) as fleet:
        await fleet.once()
        page = page_of(fleet)
        assert page.value("heat_discovery_up", cloud="sim") == 0
        assert FIRST in fleet.clouds["sim"].state.discovery_error
        assert "domain" in fleet.clouds["sim"].state.discovery_error
        assert watched(page) == {SECOND}


async def test_a_name_that_becomes_ambiguous_removes_nothing(cloud: Cloud):
    """When a second project takes a listed name, the first stays watched, and the failure is visible."""
    async with cloud.fleet(watching([FIRST, SECOND])) as fleet:
        await fleet.once()
        cloud.add_project(FIRST, domain_id=cloud.world.add_domain("elsewhere"))
        await fleet.clouds["sim"].discover()
        page = page_of(fleet)
        assert watched(page) == {FIRST, SECOND}
        assert page.cells("heat_discovery_failures_total", "api", "reason") == {("identity", "client_error"): 1}
        assert not page.cells("heat_projects_removed_total", "reason")


async def test_a_disabled_project_of_the_list_is_left_out(cloud: Cloud):
    """A listed project that is disabled is not asked."""
    page = await once(cloud, [DISABLED, SECOND])
    assert watched(page) == {SECOND}
    assert cloud.asked(DISABLED) == 0


async def test_discover_with_an_application_credential_means_current(cloud: Cloud):
    """An application credential is bound to its project: `discover` is `current`, and the log says so once."""
    cloud.write(cloud.entry(application_credential=True, project=SECOND))
    with capture_logs() as logs:
        async with cloud.exporter(OFTEN) as exporter:
            page = await exporter.when(lambda page: page.get("heat_refreshes_total", project=SECOND, default=0) >= 3)
            await eventually(lambda: exporter.fleet.clouds["sim"].state.discovery_last_success)
    assert page.cells("heat_up", "project") == {SECOND: 1}
    assert cloud.requests.count(path="/v3/auth/projects") == 0
    assert len([line for line in logs if "application credential" in line["event"]]) == 1


async def test_an_application_credential_is_never_taken_for_another_projects(cloud: Cloud):
    """A listed project that the application credential is not bound to fails; nobody else's data is shown there."""
    cloud.deploy(FIRST, status="FAILED")
    cloud.write(cloud.entry(application_credential=True, project=FIRST))
    page = await once(cloud, [FIRST, SECOND])
    assert watched(page) == {FIRST}
    assert not page.select(DEPLOYMENTS, project=SECOND)
    assert cloud.asked(SECOND) == 0
    assert page.value(DEPLOYMENTS, project=FIRST, status="FAILED", action="CREATE") == 1


async def test_the_same_project_in_two_clouds_is_two(cloud: Cloud):
    """Two entries that lead to one cloud are two clouds on the page."""
    cloud.write(None, again=cloud.entry())
    clouds = [{"name": "sim", "cloud": "simulator"}, {"cloud": "again", "projects": [SECOND]}]
    async with cloud.fleet(configuration(clouds=clouds)) as fleet:
        await fleet.once()
        found = page_of(fleet).cells("heat_up", "cloud", "project")
    assert found == {("sim", FIRST): 1, ("sim", SECOND): 1, ("again", SECOND): 1}


# -- projects that come and go


async def test_a_new_project_appears(cloud: Cloud):
    """A project that Keystone lists from now on is asked at once and shown; the others go on undisturbed."""
    async with cloud.exporter(OFTEN) as exporter:
        await exporter.when(lambda page: page.total("heat_up") == 2)
        new = cloud.add_project("new")
        cloud.deploy("new", status="FAILED", action="UPDATE")
        page = await exporter.when(lambda page: page.get("heat_up", project="new") == 1)
        assert page.value(DEPLOYMENTS, project_id=new.id, status="FAILED", action="UPDATE") == 1
        assert page.value("heat_projects", state="fresh") == 3
        assert not page.cells("heat_projects_removed_total", "reason")
        assert not page.select("heat_refresh_failures_total")


@pytest.mark.parametrize("how", ["removed", "no role", "disabled"])
async def test_a_project_goes(cloud: Cloud, how: str):
    """A project that is gone, forbidden or disabled leaves no series and is asked no more; the reason is counted."""
    project = cloud.project(SECOND)
    with capture_logs() as logs:
        async with cloud.exporter(OFTEN) as exporter:
            await exporter.when(lambda page: page.total("heat_up") == 2)
            if how == "removed":
                cloud.world.remove_project(project.id)
            elif how == "no role":
                cloud.world.revoke(cloud.world.user("monitor").id, project.id, "reader")
            else:
                project.enabled = False
            page = await exporter.when(lambda page: not page.select("heat_refreshes_total", project=SECOND))
            assert project.id not in str(page)
            assert page.cells("heat_projects_removed_total", "reason") == {
                "disabled" if how == "disabled" else "gone": 1
            }
            assert page.total("heat_projects") == 1
            assert page.value("heat_discovery_up", cloud="sim") == 1
            cloud.requests.clear()
            page = await exporter.refreshed(3)
            assert not [each for each in cloud.requests if project.id in each.path]
            assert not page.select("heat_up", project=SECOND)
    removed = [line for line in logs if line["event"] == "project removed"]
    assert [line["project"] for line in removed] == [SECOND]


async def test_a_project_comes_back(cloud: Cloud):
    """A project that was disabled for a while is shown again, with counters of its own from zero."""
    project = cloud.project(SECOND)
    async with cloud.exporter(OFTEN) as exporter:
        await exporter.refreshed(3, SECOND)
        project.enabled = False
        await exporter.when(lambda page: not page.select("heat_refreshes_total", project=SECOND))
        before = cloud.asked(SECOND)
        project.enabled = True
        page = await exporter.when(lambda page: page.get("heat_up", project=SECOND) == 1)
        assert page.value("heat_refreshes_total", project=SECOND) <= cloud.asked(SECOND) - before
        assert page.value(DEPLOYMENTS, project=SECOND, status="COMPLETE", action="CREATE") == 1
        assert page.cells("heat_projects_removed_total", "reason") == {"disabled": 1}


async def test_a_project_that_goes_in_the_middle_of_its_refresh(cloud: Cloud):
    """A project that disappears while its listing is under way does not come back when the listing does."""
    hold = Hold()
    cloud.listing(hold, SECOND)
    project = cloud.project(SECOND)
    async with cloud.exporter(OFTEN) as exporter:
        await asyncio.wait_for(hold.entered.wait(), DEADLINE)
        project.enabled = False
        await exporter.when(lambda page: page.cells("heat_projects_removed_total", "reason") == {"disabled": 1})
        hold.released.set()
        page = await exporter.refreshed(3)
        assert project.id not in str(page)


async def test_a_project_is_renamed(cloud: Cloud):
    """After a renaming every series has the new name and none the old; counters go on."""
    async with cloud.exporter(OFTEN) as exporter:
        page = await exporter.refreshed(2, SECOND)
        before = page.value("heat_refreshes_total", project=SECOND)
        cloud.project(SECOND).name = "renamed"
        page = await exporter.when(lambda page: page.select("heat_up", project="renamed"))
        assert not [each for each in page if each.labels.get("project") == SECOND]
        assert page.value("heat_refreshes_total", project="renamed") >= before
        assert page.value(DEPLOYMENTS, project="renamed", status="COMPLETE", action="CREATE") == 1
        assert not page.cells("heat_projects_removed_total", "reason")


@pytest.mark.parametrize("how", ["error", "garbage", "down"])
async def test_a_failed_discovery_removes_nothing(cloud: Cloud, how: str):
    """While projects can't be looked up, those that are known stay and are refreshed; it is tried again."""
    async with cloud.exporter(OFTEN) as exporter:
        await exporter.when(lambda page: page.total("heat_up") == 2)
        bad = answering(500) if how == "error" else answering(200, b"{}")
        if how == "down":
            await cloud.simulator.stop()
        else:
            cloud.intercept(bad, "/v3/auth/projects")
        page = await exporter.when(lambda page: page.value("heat_discovery_up", cloud="sim") == 0)
        assert page.total("heat_discovery_failures_total") >= 1
        assert page.select(DEPLOYMENTS, project=FIRST)
        assert page.select(DEPLOYMENTS, project=SECOND)
        assert not page.cells("heat_projects_removed_total", "reason")
        if how == "down":
            await cloud.simulator.start()
        else:
            page = await exporter.refreshed(2, SECOND)
            assert page.value("heat_up", project=SECOND) == 1
            cloud.mend()
        page = await exporter.when(lambda page: page.value("heat_discovery_up", cloud="sim") == 1)
        page = await exporter.when(lambda page: page.total("heat_up") == 2)
        assert not page.cells("heat_projects_removed_total", "reason")


async def test_a_discovery_of_nothing_is_believed(cloud: Cloud):
    """A list without any project is an answer: all are removed, and discovery is up."""
    async with cloud.exporter(OFTEN) as exporter:
        await exporter.when(lambda page: page.total("heat_up") == 2)
        cloud.intercept(answering(200, b'{"projects": []}'), "/v3/auth/projects")
        page = await exporter.when(lambda page: not page.select("heat_up"))
        assert page.value("heat_discovery_up", cloud="sim") == 1
        assert page.cells("heat_projects_removed_total", "reason") == {"gone": 2}


async def test_the_entrys_own_project_goes(cloud: Cloud):
    """When the project that the entry is scoped to is disabled, that is visible, and the others go on."""
    async with cloud.exporter(OFTEN) as exporter:
        await exporter.when(lambda page: page.total("heat_up") == 2)
        cloud.project(FIRST).enabled = False
        page = await exporter.when(
            lambda page: page.value("heat_discovery_up", cloud="sim") == 0 and page.value("heat_up", project=FIRST) == 0
        )
        page = await exporter.refreshed(3, SECOND)
        assert page.value("heat_up", project=SECOND) == 1


async def test_a_forbidden_listing_is_no_removal(cloud: Cloud):
    """A 403 or 404 on a listing is a failed refresh: only discovery removes projects."""
    async with cloud.fleet() as fleet:
        await fleet.once()
        for status in (403, 404):
            cloud.mend()
            cloud.listing(answering(status), SECOND)
            await watch_of(fleet, SECOND).refresh()
            await fleet.clouds["sim"].discover()
            page = page_of(fleet)
            assert page.value("heat_up", project=SECOND) == 0
            assert page.value(DEPLOYMENTS, project=SECOND, status="COMPLETE", action="CREATE") == 1
            assert not page.cells("heat_projects_removed_total", "reason")


async def test_a_project_with_a_hostile_name(cloud: Cloud):
    """A name with quotes, backslashes, newlines and other alphabets is a label value that reads as it was."""
    name = 'a"b\\c\nd{e="f"} é 雪 %s {0}'
    cloud.add_project(name)
    cloud.deploy(name)
    page = await once(cloud, "discover")
    assert page.value("heat_up", project=name) == 1
    assert page.value(DEPLOYMENTS, project=name, status="COMPLETE", action="CREATE") == 1
