"""What finished, how long it took and which one is broken: from a simulated cloud to the page."""

import asyncio
import re
from typing import Any

import pytest

from exporter.deployments.aggregator import server_filter
from exporter.simulator import Deployment
from tests import harness
from tests.harness import (
    FIRST,
    SECOND,
    Cloud,
    Hands,
    Hold,
    Samples,
    answering,
    configuration,
    page_of,
    watch_of,
)
from tests.test_fleet import DEPLOYMENTS, WITHHELD

cloud = harness.cloud
pytestmark = harness.sdk_warning

FINISHED = "heat_software_deployment_finished_total"
DURATION = "heat_software_deployment_duration_seconds"
PROBLEMS = "heat_software_deployment_problem_timestamp_seconds"
CONFIGS = "heat_software_config_deployments"
CELLS = [
    (status, action)
    for status in ("COMPLETE", "FAILED")
    for action in ("CREATE", "UPDATE", "DELETE", "SUSPEND", "RESUME")
]


def finish(cloud: Cloud, deployment: Deployment, status: str = "COMPLETE", **fields: Any) -> None:
    """Let a run end now."""
    cloud.world.update(deployment.id, status=status, **fields)


def finished(page: Samples, project: str = FIRST) -> dict[tuple[str, str], float]:
    """What was counted, zeros left out."""
    return page.cells(FINISHED, "status", "action", project=project)


# -- finishes


async def test_counters_are_there_from_the_first_refresh_on(cloud: Cloud):
    """Before the first listing there is no counter; with it there are zeros for every documented cell, so that rates
    are right from the first finish on."""
    cloud.listing(answering(500), SECOND)
    async with cloud.fleet() as fleet:
        assert not page_of(fleet).select(FINISHED)
        await fleet.once()
        page = page_of(fleet)
    found = page.select(FINISHED, project=FIRST)
    assert sorted((each.labels["status"], each.labels["action"]) for each in found) == sorted(CELLS)
    assert {each.value for each in found} == {0}
    assert not page.select(FINISHED, project=SECOND)
    assert not page.select(f"{DURATION}_count")


async def test_a_run_is_counted_when_it_ends(cloud: Cloud):
    """A creation and an update that were seen to run count once each, with how long they took."""
    created = cloud.deploy(status="IN_PROGRESS", age=90)
    updated = cloud.deploy(status="IN_PROGRESS", action="UPDATE", age=10**6, updated=cloud.world.now() - 20)
    async with cloud.fleet() as fleet:
        await fleet.once()
        finish(cloud, created)
        finish(cloud, updated, "FAILED")
        for _ in range(3):
            await watch_of(fleet).refresh()
        page = page_of(fleet)
    assert finished(page) == {("COMPLETE", "CREATE"): 1, ("FAILED", "UPDATE"): 1}
    assert page.value(f"{DURATION}_sum", status="COMPLETE", action="CREATE") == pytest.approx(90, abs=2)
    assert page.value(f"{DURATION}_sum", status="FAILED", action="UPDATE") == pytest.approx(20, abs=2)
    buckets = page.cells(f"{DURATION}_bucket", "le", status="FAILED")
    assert buckets.keys() == {"30.0", "60.0", "120.0", "300.0", "600.0", "1800.0", "3600.0", "7200.0", "+Inf"}


async def test_the_bounds_are_the_configuration_s(cloud: Cloud):
    """`buckets.duration` are the histogram's bounds."""
    run = cloud.deploy(status="IN_PROGRESS", age=90)
    async with cloud.fleet(configuration(buckets={"duration": ["1s", "2m"]})) as fleet:
        await fleet.once()
        finish(cloud, run)
        await watch_of(fleet).refresh()
        page = page_of(fleet)
    found = {each.labels["le"]: each.value for each in page.select(f"{DURATION}_bucket")}
    assert found == {"1.0": 0, "120.0": 1, "+Inf": 1}


async def test_a_reload_with_the_same_patterns_loses_no_completion(cloud: Cloud):
    """A project whose server patterns stay the same counts on over a reload, however many patterns others have."""
    run = cloud.deploy(status="IN_PROGRESS")
    sections = {"clouds": [{"name": "sim", "cloud": "simulator", "servers": {"include": ["server-.*"]}}]}
    async with cloud.fleet(configuration(**sections)) as fleet:
        await fleet.once()
        for number in range(100):
            server_filter((f"other-{number}",), ())
        await fleet.reload(lambda: configuration(**sections, thresholds={"stuck_after": "2h"}))
        finish(cloud, run)
        await watch_of(fleet).refresh()
        assert finished(page_of(fleet)) == {("COMPLETE", "CREATE"): 1}


async def test_failures_and_staleness_lose_nothing(cloud: Cloud):
    """What ends while the cloud can't be reached counts when it can again; the counters outlive data that is stale."""
    run = cloud.deploy(status="IN_PROGRESS")
    hands = Hands()
    async with cloud.fleet(clock=hands.clock) as fleet:
        await fleet.once()
        finish(cloud, run)
        await watch_of(fleet).refresh()
        cloud.listing(answering(500))
        await watch_of(fleet).refresh()
        hands.advance(10**4)
        await fleet.expire()
        stale = page_of(fleet)
        assert not stale.select(DEPLOYMENTS, project=FIRST)
        assert finished(stale) == {("COMPLETE", "CREATE"): 1}
        again = cloud.deploy(age=1)
        cloud.mend()
        await watch_of(fleet).refresh()
        page = page_of(fleet)
    assert again.status == "COMPLETE"
    assert finished(page) == {("COMPLETE", "CREATE"): 2}


async def test_an_administrator_s_token_counts_each_finish_once(cloud: Cloud):
    """Where one project counts the whole cloud, each completion counts once, there."""
    runs = [cloud.deploy(name, status="IN_PROGRESS") for name in (FIRST, SECOND) for _ in range(5)]
    cloud.write(cloud.entry(user="admin", project="admin"))
    async with cloud.fleet() as fleet:
        await fleet.once()
        for number, run in enumerate(runs):
            finish(cloud, run, "FAILED" if number % 2 else "COMPLETE")
            await watch_of(fleet, "admin").refresh()
        page = page_of(fleet)
    assert page.cells(FINISHED, "project", "status") == {("admin", "COMPLETE"): 5, ("admin", "FAILED"): 5}


async def test_a_first_listing_that_was_empty(cloud: Cloud):
    """Where the first listing is empty by mistake, what the next one shows of days ago is no news; what has just
    finished is."""
    for number in range(5):
        cloud.deploy(age=86400.0 * (number + 1))
    cloud.listing(answering(200, b'{"software_deployments": []}'))
    async with cloud.fleet() as fleet:
        await fleet.once()
        cloud.mend()
        await watch_of(fleet).refresh()
        page = page_of(fleet)
    assert page.total(DEPLOYMENTS, project=FIRST) == 6
    assert finished(page) == {("COMPLETE", "CREATE"): 1}  # the fixture's, a minute ago


@pytest.mark.parametrize("change", ["families", "filter"])
async def test_a_reload_under_way_is_no_news(cloud: Cloud, change: str):
    """Other settings that come while a listing is under way make nothing of what it did not look for news."""
    for number in range(5):
        cloud.deploy(server="db-1", age=86400.0 * number + 120)
    before: dict[str, Any] = {"metrics": {"exclude": [FINISHED, DURATION]}}
    if change == "filter":
        before = {"clouds": [{"name": "sim", "cloud": "simulator", "servers": {"include": ["server-.*"]}}]}
    async with cloud.exporter(configuration(**before)) as exporter:
        await exporter.refreshed(2)
        hold = Hold()
        cloud.listing(hold)
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        await exporter.fleet.reload(configuration)
        hold.released.set()
        page = await exporter.refreshed(4)
        assert finished(page) == {}
        cloud.deploy(server="db-1", status="FAILED", age=0)
        page = await exporter.when(finished)
    assert finished(page) == {("FAILED", "CREATE"): 1}


async def test_names_that_come_while_a_listing_is_counted(cloud: Cloud):
    """Names that are found out while a newer listing is under way are on the page with it."""
    for number in range(10):
        cloud.deploy(age=600 + number)
    asked, listed = Hold(), Hold()
    async with cloud.fleet() as fleet:
        await fleet.clouds["sim"].discover()
        watch = watch_of(fleet)
        await watch.refresh()
        cloud.intercept(asked, f"/heat/v1/{cloud.project(FIRST).id}/software_configs")
        asking = asyncio.create_task(watch.ask_for_names())
        await asyncio.wait_for(asked.entered.wait(), harness.DEADLINE)
        cloud.listing(listed)
        refreshing = asyncio.create_task(watch.refresh())
        await asyncio.wait_for(listed.entered.wait(), harness.DEADLINE)
        asked.released.set()
        await asking
        assert page_of(fleet).cells(CONFIGS, "config_name", project=FIRST) == {"install-agent": 11}
        listed.released.set()
        await refreshing
        await watch.ask_for_names()
        assert page_of(fleet).cells(CONFIGS, "config_name", project=FIRST) == {"install-agent": 11}


async def test_other_bounds_come_with_a_reload(cloud: Cloud):
    """After a reload with other `buckets.duration` the histogram has one set of bounds, and begins anew."""
    run = cloud.deploy(status="IN_PROGRESS", age=90)
    async with cloud.exporter() as exporter:
        await exporter.when(lambda page: page.select(FINISHED, project=FIRST))
        finish(cloud, run)
        await exporter.when(finished)
        await exporter.fleet.reload(lambda: configuration(buckets={"duration": ["1s", "1h"]}))
        page = await exporter.refreshed(2)
        assert not page.select(f"{DURATION}_bucket")
        again = cloud.deploy(status="FAILED", age=1)
        page = await exporter.when(lambda page: page.select(f"{DURATION}_bucket"))
    assert again.status == "FAILED"
    assert {each.labels["le"] for each in page.select(f"{DURATION}_bucket")} == {"1.0", "3600.0", "+Inf"}
    assert finished(page) == {("COMPLETE", "CREATE"): 1, ("FAILED", "CREATE"): 1}


async def test_names_under_way_when_other_credentials_come(cloud: Cloud, capsys: pytest.CaptureFixture[str]):
    """A look-up that other credentials meet ends with those it began with; whoever waits for its turn asks with the
    new ones, as soon as a refresh has a token by them."""
    hold = Hold()
    cloud.intercept(hold, f"/heat/v1/{cloud.project(FIRST).id}/software_configs")
    cloud.intercept(hold, f"/heat/v1/{cloud.project(SECOND).id}/software_configs")
    async with cloud.exporter(configuration()) as exporter:
        await exporter.fleet.wait_ready()
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        cloud.write({**cloud.entry(), "verify": False})
        await exporter.fleet.reload(configuration)
        hold.released.set()
        page = await exporter.when(lambda page: len(page.select(CONFIGS, config_name="install-agent")) == 2)
    assert page.total("heat_up") == 2
    assert "internal error" not in capsys.readouterr().out


async def test_a_filter_that_lets_more_in_is_no_news(cloud: Cloud):
    """Deployments that a reload lets in had finished before; from then on theirs count as well."""
    only = {"clouds": [{"name": "sim", "cloud": "simulator", "servers": {"include": ["web-.*"]}}]}
    cloud.deploy(server="web-1", age=5)
    async with cloud.exporter(configuration(**only)) as exporter:
        await exporter.refreshed(2)
        cloud.deploy(server="db-1", age=3)
        await exporter.fleet.reload(configuration)
        page = await exporter.refreshed(2)
        assert finished(page) == {}
        assert page.total(DEPLOYMENTS, project=FIRST) == 3
        cloud.deploy(server="db-1", status="FAILED", age=0)
        page = await exporter.when(finished)
    assert finished(page) == {("FAILED", "CREATE"): 1}


@pytest.mark.parametrize("excluded", [[FINISHED], [DURATION], [FINISHED, DURATION]])
async def test_families_of_finishes_may_be_left_out(cloud: Cloud, excluded: list[str]):
    """Each of the two is on the page or not as configured; without both nothing is remembered."""
    run = cloud.deploy(status="IN_PROGRESS")
    async with cloud.fleet(configuration(metrics={"exclude": excluded})) as fleet:
        await fleet.once()
        finish(cloud, run)
        await watch_of(fleet).refresh()
        names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in page_of(fleet).names()}
        remembered = watch_of(fleet)._memory
    assert names & {FINISHED, DURATION} == {FINISHED, DURATION} - set(excluded)
    assert (remembered is None) == (len(excluded) == 2)


async def test_exemplars_are_for_openmetrics_alone(cloud: Cloud):
    """The counter and the bucket of a run carry its id in OpenMetrics; the text format has the same without."""
    run = cloud.deploy(status="IN_PROGRESS", age=40)
    async with cloud.exporter() as exporter:
        await exporter.when(lambda page: page.select(FINISHED, project=FIRST))
        finish(cloud, run)
        page = await exporter.when(finished)
        answer = await exporter.get(Accept="application/openmetrics-text; version=1.0.0")
        text = (await exporter.get()).text
    exemplar = f'# {{deployment_id="{run.id}"}}'
    lines = [line for line in answer.text.splitlines() if exemplar in line]
    assert [line.partition("{")[0] for line in lines] == [FINISHED, f"{DURATION}_bucket"]
    assert 'le="60.0"' in lines[1]
    assert run.id not in text
    assert page.value(f"{DURATION}_count", project=FIRST) == 1


# -- problems


async def test_a_problem_s_row(cloud: Cloud):
    """A failed and a stuck deployment have rows by all that names them, with when they last changed."""
    failed = cloud.deploy(status="FAILED", server="web", code=127, age=500, updated=cloud.world.now() - 60)
    stuck = cloud.deploy(status="IN_PROGRESS", action="UPDATE", code=None, age=10**6, updated=cloud.world.now() - 7200)
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    found = {each.labels["deployment_id"]: each for each in page.select(PROBLEMS)}
    labels = {"status": "FAILED", "action": "CREATE", "problem": "failed", "deploy_status_code": "127"}
    assert found[failed.id].labels | labels == found[failed.id].labels
    assert found[failed.id].labels["server_id"] == "web"
    assert found[failed.id].labels["config_id"] == failed.config_id
    assert found[failed.id].value == int(failed.updated or 0)
    labels = {"status": "IN_PROGRESS", "action": "UPDATE", "problem": "stuck", "deploy_status_code": ""}
    assert found[stuck.id].labels | labels == found[stuck.id].labels
    assert len(found) == 2


async def test_the_limit_of_problems(cloud: Cloud):
    """No more rows than `limits.problems`, half of them sure for each kind, what is left out counted; totals whole."""
    for number in range(30):
        cloud.deploy(status="FAILED", age=100 + number)
        cloud.deploy(status="IN_PROGRESS", age=10**5 + number)
    async with cloud.fleet(configuration(limits={"problems": 10})) as fleet:
        await fleet.once()
        page = page_of(fleet)
    found = page.select(PROBLEMS, project=FIRST)
    assert sorted(each.labels["problem"] for each in found) == ["failed"] * 5 + ["stuck"] * 5
    newest = sorted(int(each.created) for each in cloud.world.deployments.values() if each.status == "FAILED")[-5:]
    assert sorted(each.value for each in found if each.labels["problem"] == "failed") == newest
    assert page.value(WITHHELD, project=FIRST, family=PROBLEMS) == 50
    assert page.total(DEPLOYMENTS, project=FIRST, status="FAILED") == 30


async def test_the_limit_of_configs(cloud: Cloud):
    """No more config names than `limits.configs`, the troubled ones first, what is left out counted."""
    project = cloud.project(FIRST).id
    for number in range(12):
        config = cloud.world.add_config(project, f"config-{number:02}").id
        cloud.deploy(config=config, status="FAILED" if number == 7 else "COMPLETE")
    async with cloud.fleet(configuration(limits={"configs": 3})) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert [each.labels["config_name"] for each in page.select(CONFIGS, project=FIRST)] == [
        "config-07", "config-00", "config-01",
    ]  # fmt: skip
    assert page.value(WITHHELD, project=FIRST, family=CONFIGS) == 10


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2, 0.0])
async def test_a_page_of_every_kind_is_cut(cloud: Cloud, share: float):
    """`limits.series` holds with names, problems, configs and servers on the page; problems stay longest, and what is
    withheld is said."""
    project = cloud.project(FIRST).id
    for number in range(40):
        server = cloud.world.add_server(project)
        config = cloud.world.add_config(project, f"config-{number:02}").id
        status = "FAILED" if number % 4 == 0 else "IN_PROGRESS" if number % 4 == 1 else "COMPLETE"
        cloud.deploy(server=server, config=config, status=status, age=7200 + number)
    families = ("heat_server_software_deployments", PROBLEMS, CONFIGS, "heat_software_config_info", "heat_server_info")
    async with cloud.fleet() as fleet:
        await fleet.once()
        whole = page_of(fleet)
    bounded = sum(len(whole.select(family)) for family in families)
    assert bounded > 150
    limit = len(whole) + 20 - bounded + int(share * bounded)
    async with cloud.fleet(configuration(limits={"series": limit})) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert len(page) + 20 <= limit
    assert page.total(DEPLOYMENTS) == whole.total(DEPLOYMENTS)
    for family in families[:3]:
        assert len(page.select(family)) + page.total(WITHHELD, family=family) == len(whole.select(family))
    assert page.total(WITHHELD, family=families[0]) > 0
    if page.total(WITHHELD, family=PROBLEMS):
        assert not page.select(families[0], project=FIRST)


async def test_a_reason_is_on_no_page_of_metrics(cloud: Cloud):
    """What a cloud says of a failure, and what a run printed, is no label."""
    cloud.deploy(status="FAILED", status_reason="a very particular reason")
    async with cloud.exporter() as exporter:
        page = await exporter.when(lambda page: page.select(PROBLEMS))
        shown = (await exporter.get(f"/project?cloud=sim&project={FIRST}")).text
    assert "particular" not in str(page)
    assert "a very particular reason" in shown
    assert "secret-output" not in shown
