"""The publisher: what changed comes onto the page, one project at a time, and large data from a worker thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from structlog.testing import capture_logs

from exporter.collector.publisher import LARGE_RESPONSE, Publisher
from exporter.deployments.snapshot import ProblemRow, ServerRow, Snapshot
from exporter.deployments.state import CloudState, ProjectKey, ProjectState
from exporter.metrics.families import FAMILIES, Family
from exporter.metrics.series_budget import OWN_SERIES
from tests import harness
from tests.harness import Cloud, Samples, configuration, eventually, page_of, watch_of

cloud = harness.cloud
pytestmark = harness.sdk_warning

DEPLOYMENTS = "heat_software_deployments"
PER_SERVER = "heat_server_software_deployments"
PROBLEMS = "heat_software_deployment_problem_timestamp_seconds"
WITHHELD = "heat_series_withheld"
SHOWN = tuple(
    family
    for family in FAMILIES
    if family.name in (DEPLOYMENTS, PER_SERVER, PROBLEMS, WITHHELD, "heat_refreshes_total")
)
WITHOUT_SERVERS = tuple(family for family in SHOWN if family.name != PER_SERVER)


class Counts(dict[Any, int]):
    """Deployments that note which thread renders them, and can hold it back."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.threads: list[threading.Thread] = []
        self.entered = threading.Event()
        self.released = threading.Event()
        self.released.set()

    def items(self) -> Any:
        """Called while the families are rendered."""
        self.threads.append(threading.current_thread())
        self.entered.set()
        self.released.wait(harness.DEADLINE)
        return super().items()


def state(number: int, *, servers: int = 0, failed: int = 0, **changes: Any) -> ProjectState:
    """A project that was read, with so many series of servers and problems."""
    rows = tuple(ServerRow(f"server-{each:03}", "COMPLETE", "CREATE", 1) for each in range(servers))
    problems = tuple(
        ProblemRow("failed", f"d-{each}", "", "", "FAILED", "CREATE", "", 1.0, "") for each in range(failed)
    )
    data = Snapshot(asked_at=1.0, servers=rows, problems=problems, **changes)
    key = ProjectKey("cloud", f"project-{number}")
    return ProjectState(key=key, name=f"name-{number}", interval=60.0, snapshot=data, up=True, refreshes=1)


class Projects(dict[ProjectKey, ProjectState]):
    """States that a publisher reads, and the publisher."""

    def __init__(self, *states: ProjectState, families: tuple[Family, ...] = SHOWN, series: int = 0) -> None:
        super().__init__({each.key: each for each in states})
        self.publisher = Publisher(families, series=series, source=self)

    def project_state(self, key: ProjectKey) -> ProjectState | None:
        """The state of a project."""
        return self.get(key)

    def cloud_state(self, cloud: str) -> CloudState | None:
        """The state of the cloud."""
        return CloudState(cloud=cloud)

    def put(self, *states: ProjectState) -> None:
        """Change these, and say so."""
        for each in states:
            self[each.key] = each
            self.publisher.changed(each.key)

    @property
    def page(self) -> Samples:
        """What the page shows."""
        return Samples.of(self.publisher.page.plain("text").decode())

    def rows(self, family: str = PER_SERVER) -> dict[str, int]:
        """How many series of a family each project shows."""
        found = [each.labels["project"] for each in self.page.select(family)]
        return {name: found.count(name) for name in sorted(set(found))}

    def withheld(self) -> dict[str, int]:
        """How many series of servers each project withholds."""
        values = {each.labels["project"]: int(each.value) for each in self.page.select(WITHHELD, family=PER_SERVER)}
        return {name: value for name, value in values.items() if value}


@asynccontextmanager
async def published(*states: ProjectState, **options: Any) -> AsyncIterator[Projects]:
    """A publisher that shows these."""
    projects = Projects(*states, **options)
    projects.put(*states)
    projects.publisher.settle()
    await projects.publisher.settled()
    try:
        yield projects
    finally:
        await projects.publisher.close()


# -- beside the event loop


async def test_large_data_is_rendered_in_a_worker_thread(cloud: Cloud):
    """Whatever has a large project rendered again, a new name or a reload with other families: not the event loop."""
    async with cloud.fleet() as fleet:
        await fleet.once()
        watch = watch_of(fleet)
        assert watch.state.snapshot is not None
        counts = Counts(watch.state.snapshot.deployments)
        large = replace(watch.state.snapshot, deployments=counts, response_bytes=LARGE_RESPONSE + 1)
        watch.state = replace(watch.state, snapshot=large)
        watch.rename("renamed")
        await fleet.publisher.settled()
        assert page_of(fleet).total(DEPLOYMENTS, project="renamed") == 1
        renders = len(counts.threads)
        await fleet.reload(lambda: configuration(metrics={"exclude": [PROBLEMS]}))
        assert page_of(fleet).total(DEPLOYMENTS, project="renamed") == 1
        assert len(counts.threads) > renders > 0
        assert threading.main_thread() not in counts.threads


async def test_others_are_served_while_a_large_project_is_rendered():
    """The event loop goes on, and what the project was until then stays on the page until all that is new is there."""
    counts = Counts()
    async with published(state(1, servers=2)) as projects:
        counts.released.clear()
        projects.put(state(1, servers=3, deployments=counts, response_bytes=LARGE_RESPONSE + 1))
        await eventually(counts.entered.is_set)
        assert projects.rows() == {"name-1": 2}
        counts.released.set()
        await projects.publisher.settled()
        assert projects.rows() == {"name-1": 3}


async def test_a_project_that_changes_while_it_is_rendered_is_shown_as_it_is_then():
    """A new name, newer data and the project's end in the middle of a render: no page mixes them, and whoever waits for
    the first change waits for the last one."""
    for change in ("name", "data", "end"):
        counts = Counts()
        async with published(state(1, servers=2)) as projects:
            counts.released.clear()
            first = state(1, servers=3, deployments=counts, response_bytes=LARGE_RESPONSE + 1)
            projects.put(first)
            waiting = projects.publisher.changed(first.key)
            await eventually(counts.entered.is_set)
            if change == "end":
                del projects[first.key]
                projects.publisher.changed(first.key)
            else:
                projects.put(replace(first, name="renamed") if change == "name" else state(1, servers=4))
            counts.released.set()
            await waiting
            expected = {"name": {"renamed": 3}, "data": {"name-1": 4}, "end": {}}
            assert projects.rows() == expected[change]


async def test_families_of_a_reload_are_there_with_it():
    """A project that is rendered when a reload adds families has them, too, as soon as the others have."""
    counts = Counts()
    async with published(state(1, servers=2), state(2, servers=5), families=WITHOUT_SERVERS) as projects:
        counts.released.clear()
        projects.put(state(1, servers=3, deployments=counts, response_bytes=LARGE_RESPONSE + 1))
        await eventually(counts.entered.is_set)
        projects.publisher.reconfigure(SHOWN, series=0, projects=projects)
        before = projects.publisher.page
        assert not projects.rows()
        counts.released.set()
        await projects.publisher.settled()
        assert projects.publisher.page is not before
        assert projects.rows() == {"name-1": 3, "name-2": 5}


async def test_a_caller_that_gives_up_takes_it_from_nobody_else():
    """Who waits for a project's publication gets it though another one who waited is cancelled."""
    projects = Projects(state(1))
    key = next(iter(projects))

    async def wait() -> None:
        await projects.publisher.changed(key)

    one, other = asyncio.create_task(wait()), asyncio.create_task(wait())
    await asyncio.sleep(0)
    one.cancel()
    await other
    assert one.cancelled()
    assert projects.page.value("heat_refreshes_total", project="name-1") == 1


# -- the limit on series


def limit(page: Samples, bounded: int) -> int:
    """A limit with room for so many bounded series beside the fixed ones of a page."""
    fixed = len(page) - len(page.select(PER_SERVER)) - len(page.select(PROBLEMS))
    return fixed + OWN_SERIES + bounded


async def test_a_new_share_applies_with_the_next_refresh():
    """A project that grows takes what is free, and no series of others; these are cut with their next refresh, and what
    that frees is its own with its next one."""
    async with published(state(1, servers=60), state(2, servers=10)) as projects:
        series = limit(projects.page, 80)
    async with published(state(1, servers=60), state(2, servers=10), series=series) as projects:
        assert projects.rows() == {"name-1": 60, "name-2": 10}
        projects.put(state(2, servers=100))
        await projects.publisher.settled()
        assert projects.rows() == {"name-1": 60, "name-2": 20}
        assert projects.withheld() == {"name-2": 80}
        for number, servers in ((1, 60), (2, 100)):
            projects.put(state(number, servers=servers))
            await projects.publisher.settled()
        assert projects.rows() == {"name-1": 38, "name-2": 38}
        assert projects.withheld() == {"name-1": 22, "name-2": 62}


async def test_a_failed_refresh_renders_no_data():
    """While only the state of a project changes its data stays as it is, not even cut to a smaller share."""
    async with published(state(1, servers=60), state(2, servers=10)) as projects:
        series = limit(projects.page, 80)
    counts = Counts()
    async with published(state(1, servers=60, deployments=counts), state(2), series=series) as projects:
        renders = len(counts.threads)
        projects.put(state(2, servers=100))
        await projects.publisher.settled()
        first = next(iter(projects.values()))
        projects.put(replace(first, up=False, refreshes=2))
        await projects.publisher.settled()
        assert projects.rows()["name-1"] == 60
        assert projects.page.value("heat_refreshes_total", project="name-1") == 2
        assert len(counts.threads) == renders


async def test_unread_projects_have_a_share_until_they_were_read():
    """The first project of several gets no more than its share of the page, and the rest when the others turn out to
    need less."""
    first, *others = (state(number, servers=90 if number == 1 else 1) for number in range(1, 5))
    async with published(first, *others) as projects:
        series = limit(projects.page, 100)
    pending = [replace(each, snapshot=None, up=None) for each in others]
    async with published(*pending, series=series) as projects:
        projects.put(first)
        await projects.publisher.settled()
        assert 0 < projects.rows()["name-1"] <= (series - OWN_SERIES) // 4
        projects.put(*others)
        await projects.publisher.settled()
        assert projects.rows() == {"name-1": 90, "name-2": 1, "name-3": 1, "name-4": 1}


async def test_a_smaller_limit_withholds_whole_families_first_of_the_largest():
    """Problems stay longest; what is withheld is said, and comes back as far as the limit allows."""
    async with published(state(1, servers=60, failed=3), state(2, servers=10)) as projects:
        before = limit(projects.page, 73)
        with capture_logs() as logs:
            projects.publisher.reconfigure(SHOWN, series=before - 40, projects=projects)
            await projects.publisher.settled()
        assert len(projects.page) + OWN_SERIES <= before - 40
        assert projects.rows(PROBLEMS) == {"name-1": 3}
        assert projects.rows() == {"name-1": 19, "name-2": 10}
        assert projects.withheld() == {"name-1": 41}
        withheld = [each for each in logs if each["event"] == "series withheld"]
        assert [(each["project_id"], each["families"]) for each in withheld] == [("project-1", PER_SERVER)]


async def test_more_fixed_series_leave_the_page_within_its_limit():
    """A full page on which a project has more fixed series than before withholds a family at once; if they alone exceed
    the limit, all bounded families, and a warning says so once."""
    states = state(1, servers=60), state(2, servers=10), state(3)
    async with published(*states) as projects:
        series = limit(projects.page, 70)
    async with published(*states, series=series) as projects:
        assert projects.rows() == {"name-1": 60, "name-2": 10}
        projects.put(state(3, deployments={("odd", "CREATE"): 1}))
        seen: list[int] = []
        settled = asyncio.create_task(projects.publisher.settled())
        while not settled.done():
            await asyncio.sleep(0)
            assert len(projects.page) + OWN_SERIES <= series
            seen.append(projects.rows().get("name-1", 0))
            assert seen[-1] + projects.withheld().get("name-1", 0) == 60
        assert (min(seen), seen[-1]) == (0, 56)
        with capture_logs() as logs:
            for more in range(3):
                odd = {(f"odd-{each}", "CREATE"): 1 for each in range(80 + more)}
                projects.put(state(3, deployments=odd))
                await projects.publisher.settled()
        assert not projects.rows()
        assert projects.withheld() == {"name-1": 60, "name-2": 10}
        assert [each["log_level"] for each in logs if "limits.series" in each["event"]] == ["warning"]
        projects.put(state(3))
        projects.publisher.settle()
        await projects.publisher.settled()
        assert projects.rows() == {"name-1": 60, "name-2": 10}


async def test_a_project_that_is_gone_leaves_its_series_to_others():
    """It is on no page, and its share is free."""
    async with published(state(1, servers=60), state(2, servers=60)) as projects:
        series = limit(projects.page, 60)
    async with published(state(1, servers=60), state(2, servers=60), series=series) as projects:
        assert projects.rows() == {"name-1": 28, "name-2": 28}
        gone = ProjectKey("cloud", "project-2")
        del projects[gone]
        await projects.publisher.changed(gone)
        projects.put(state(1, servers=60))
        await projects.publisher.settled()
        assert projects.rows() == {"name-1": 60}
