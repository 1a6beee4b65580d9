"""What users of such exporters suffer from, by the numbers of the list in docs: each is a test that none of it returns.

All over sockets: the simulated cloud on one side, /metrics on the other.
"""

import asyncio
import gc
import gzip
import json
import re
import select
import socket
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, product

import pytest
from aiohttp import web

from exporter.deployments.aggregator import Aggregator
from exporter.deployments.records import Batch
from exporter.deployments.snapshot import ACTIONS, STATUSES, TABLES, Snapshot
from exporter.metrics.families import CONFIG_NAMES, FAMILIES, PROBLEMS, SERVER_NAMES, SERVERS, Family
from exporter.metrics.text_format import CONTENT_TYPES
from exporter.openstack.decoder import ResponseDecoder
from tests import harness
from tests.harness import (
    FIRST,
    ONCE,
    OPENMETRICS,
    SECOND,
    Cloud,
    Handler,
    Hands,
    Hold,
    Samples,
    answering,
    configuration,
    eventually,
    page_of,
    watch_of,
)
from tests.test_listing import LEVELS

cloud = harness.cloud
pytestmark = harness.sdk_warning

DEPLOYMENTS = "heat_software_deployments"
PER_SERVER = "heat_server_software_deployments"


async def test_01_a_scrape_asks_nothing_of_the_cloud(cloud: Cloud):
    """Fifty scrapes of all kinds send the cloud not one request, and need no cloud at all."""
    async with cloud.exporter(configuration(refresh=ONCE, names=False)) as exporter:
        await exporter.fleet.wait_ready()
        before = len(cloud.requests)
        assert before > 0
        for number in range(50):
            accept = OPENMETRICS if number % 2 else "text/plain"
            answer = await exporter.get(Accept=accept, Accept_Encoding="gzip" if number % 3 else "identity")
            assert answer.status == 200
            assert b"heat_up" in answer.body
        for path in ("/", "/-/healthy", "/-/ready", "/metrics?name[]=heat_up"):
            assert (await exporter.get(path)).status == 200
        assert len(cloud.requests) == before
        await cloud.simulator.stop()
        assert (await exporter.samples()).value("heat_up", project=FIRST) == 1


async def test_02_one_authentication_over_many_cycles(cloud: Cloud):
    """Ten refreshes of two projects cost two authentications, nothing else of Keystone, and no new connections."""
    peers = set()

    async def note(request: web.BaseRequest) -> None:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))

    cloud.listing(note, FIRST)
    cloud.listing(note, SECOND)
    # Names would be asked for beside the listings, over a connection of their own.
    async with cloud.exporter(configuration(names=False)) as exporter:
        await exporter.fleet.wait_ready()
        identity = cloud.requests.count(api="identity")
        page = await exporter.when(
            lambda page: all(page.value("heat_refreshes_total", project=name) >= 10 for name in (FIRST, SECOND))
        )
        assert page.value("heat_authentications_total", cloud="sim") == 2
        assert cloud.authentications() == 2
        assert cloud.requests.count(api="identity") == identity
        assert len(peers) <= 2


async def test_03_token_expiry_mid_run_loses_nothing(cloud: Cloud):
    """While tokens end every two seconds, no refresh fails and no page lacks the data."""
    cloud.simulator.world.plan = harness.Plan(churn=0, token_lifetime=2)
    async with cloud.exporter() as exporter:
        await exporter.fleet.wait_ready()

        async def renewed() -> bool:
            page = await exporter.samples()
            assert page.value(DEPLOYMENTS, project=FIRST, status="COMPLETE", action="CREATE") == 1
            assert page.value("heat_up", project=FIRST) == 1
            assert not page.select("heat_refresh_failures_total")
            return page.value("heat_authentications_total") >= 4

        await eventually(renewed, "every project's token is renewed")


async def test_03_a_token_that_ends_early_costs_one_renewal_and_one_retry(cloud: Cloud):
    """A 401 on a listing is followed by exactly one authentication and one more listing, which succeeds."""
    async with cloud.fleet() as fleet:
        await fleet.once()
        for end in (cloud.revoke, lambda: setattr(cloud, "passed", cloud.passed + 7200)):
            cloud.requests.clear()
            end()
            await watch_of(fleet).refresh()
            asked = [(each.path.rsplit("/", 1)[1], each.status) for each in cloud.requests]
            assert asked == [("software_deployments", 401), ("tokens", 201), ("software_deployments", 200)]
            assert page_of(fleet).value("heat_up", project=FIRST) == 1
        assert not page_of(fleet).select("heat_refresh_failures_total")


async def test_03_a_token_that_is_never_good_is_not_asked_for_again_and_again(cloud: Cloud):
    """Where a new token is refused too, the refresh fails as `auth` after one renewal and one retry."""
    async with cloud.fleet() as fleet:
        await fleet.once()
        cloud.requests.clear()
        cloud.listing(answering(401))
        await watch_of(fleet).refresh()
        assert cloud.asked() == 2
        assert cloud.authentications() == 1
        page = page_of(fleet)
        assert page.value("heat_refresh_failures_total", project=FIRST, api="orchestration", reason="auth") == 1


async def test_04_keystone_down_at_start_then_recovers(cloud: Cloud):
    """An exporter that starts before its cloud serves, says so, and needs no restart when the cloud comes."""
    await cloud.simulator.stop()
    async with cloud.exporter() as exporter:
        page = await exporter.when(lambda page: page.get("heat_discovery_up", cloud="sim") == 0)
        assert page.value("heat_discovery_failures_total", api="identity", reason="connect") >= 1
        assert (await exporter.get("/-/healthy")).status == 200
        assert (await exporter.get("/-/ready")).status == 200
        await cloud.simulator.start()
        page = await exporter.when(lambda page: page.get("heat_up", project=SECOND) == 1)
        assert page.value("heat_discovery_up", cloud="sim") == 1
        assert page.value(DEPLOYMENTS, project=SECOND, status="COMPLETE", action="CREATE") == 1


async def test_05_failure_is_visible(cloud: Cloud):
    """When the cloud fails after a success, `heat_up` is 0, the reason counted, the data kept; no page is empty."""
    async with cloud.exporter() as exporter:
        good = await exporter.when(lambda page: page.get("heat_up", project=FIRST) == 1)
        cloud.listing(answering(500))
        bad = await exporter.when(lambda page: page.value("heat_up", project=FIRST) == 0)
        assert bad.value("heat_refresh_failures_total", project=FIRST, api="orchestration", reason="server_error") >= 1
        assert bad.select(DEPLOYMENTS, project=FIRST) == good.select(DEPLOYMENTS, project=FIRST)
        assert bad.value("heat_last_refresh_success_timestamp_seconds", project=FIRST) > 0
        assert bad.value("heat_projects", state="failing") == 1
        assert bad.value("heat_up", project=SECOND) == 1
        cloud.mend()
        await exporter.when(lambda page: page.value("heat_up", project=FIRST) == 1)


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
async def test_05_no_page_is_empty(cloud: Cloud, accept: str):
    """Before the first answer and without any cloud, a page still has the exporter's and the cloud's families."""
    hold = Hold()
    cloud.intercept(hold, "/v3")
    async with cloud.exporter() as exporter:
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        answer = await exporter.get(Accept=accept)
        page = Samples.of(answer.text, openmetrics=accept == OPENMETRICS)
        assert page.value("heat_projects", cloud="sim", state="fresh") == 0
        assert page.value("heat_exporter_build_info") == 1
        assert page.value("process_start_time_seconds") > 0
        assert not page.select("heat_up")


async def test_06_stale_data_is_withdrawn(cloud: Cloud):
    """Data past `stale_after` leaves the page, the exporter's own figures of the project stay; new data comes back."""
    hands = Hands(wall=time.time())
    async with cloud.exporter(configuration(refresh={"stale_after": "2s"}), clock=hands.clock) as exporter:
        fresh = await exporter.when(lambda page: page.get("heat_up", project=FIRST) == 1)
        cloud.listing(answering(503))
        failing = await exporter.when(lambda page: page.value("heat_up", project=FIRST) == 0)
        assert failing.select(DEPLOYMENTS, project=FIRST)
        success = failing.value("heat_last_refresh_success_timestamp_seconds", project=FIRST)
        hands.advance(3)
        # For a moment the other project's data is as old; its next refresh brings it back.
        stale = await exporter.when(
            lambda page: not page.select(DEPLOYMENTS, project=FIRST) and page.select(DEPLOYMENTS, project=SECOND)
        )
        data = {family.name for family in exporter.fleet.families if family.scope == "data"}
        shown = {each.name for each in stale if each.labels.get("project") == FIRST}
        assert data
        assert not {name for name in shown if any(name.startswith(family) for family in data)}
        own = {"heat_up", "heat_refreshes_total", "heat_refresh_failures_total", "heat_refresh_response_bytes"}
        assert own <= shown
        assert stale.value("heat_up", project=FIRST) == 0
        assert stale.value("heat_last_refresh_success_timestamp_seconds", project=FIRST) == success
        assert stale.value("heat_projects", state="stale") == 1
        assert stale.value(DEPLOYMENTS, project=SECOND, status="COMPLETE", action="CREATE") == 1
        cloud.mend()
        again = await exporter.when(lambda page: page.select(DEPLOYMENTS, project=FIRST))
        assert again.names() >= fresh.names() - {"heat_refreshes_skipped_total"}
        assert again.value("heat_refreshes_total", project=FIRST) > stale.value("heat_refreshes_total", project=FIRST)


async def test_06_fresh_data_is_not_withdrawn(cloud: Cloud):
    """Data that is exactly as old as allowed stays."""
    hands = Hands()
    settings = configuration(refresh={"interval": "1m", "stale_after": "10m"})
    async with cloud.fleet(settings, clock=hands.clock) as fleet:
        await fleet.once()
        hands.advance(600)
        await fleet.expire()
        assert page_of(fleet).select(DEPLOYMENTS, project=FIRST)
        hands.advance(1)
        await fleet.expire()
        assert not page_of(fleet).select(DEPLOYMENTS, project=FIRST)


BAD_RECORDS = {
    "not an object": (b"[1, 2]", "not_object"),
    "null": (b"null", "not_object"),
    "text": (b'"text"', "not_object"),
    "no id": (b'{"status": "FAILED", "action": "CREATE", "server_id": "s"}', "id"),
    "a number for an id": (b'{"id": 5, "status": "FAILED", "action": "CREATE"}', "id"),
    "an empty id": (b'{"id": "", "status": "FAILED", "action": "CREATE"}', "id"),
    "too deep": (b'{"id": "deep", "input_values": ' + b"[" * LEVELS + b"]" * LEVELS + b"}", "too_deep"),
}


async def test_07_one_malformed_record_costs_nothing_else(cloud: Cloud):
    """A record without a usable id is counted under its reason, and every other deployment is counted as ever."""
    project = cloud.project()
    async with cloud.fleet() as fleet:
        await fleet.once()
        for name, (record, reason) in BAD_RECORDS.items():
            before = page_of(fleet).cells("heat_records_rejected_total", "reason", project=FIRST)
            cloud.world.clear_raw(project.id)
            cloud.world.add_raw(project.id, record)
            cloud.world.add_raw(project.id, {"id": "last", "status": "FAILED", "action": "UPDATE"})
            await watch_of(fleet).refresh()
            page = page_of(fleet)
            assert page.value("heat_up", project=FIRST) == 1, name
            cells = page.cells(DEPLOYMENTS, "status", "action", project=FIRST)
            assert cells == {("COMPLETE", "CREATE"): 1, ("FAILED", "UPDATE"): 1}, name
            rejected = page.cells("heat_records_rejected_total", "reason", project=FIRST)
            assert rejected == {**before, reason: before.get(reason, 0) + 1}, name
        assert page.value(DEPLOYMENTS, project=SECOND, status="COMPLETE", action="CREATE") == 1


async def test_07_an_unusable_field_costs_only_itself(cloud: Cloud):
    """A record whose fields are all of wrong types but for its id counts, with empty labels and code `invalid`."""
    odd = {
        "id": "odd",
        "server_id": 7,
        "config_id": [],
        "status": {"a": 1},
        "action": None,
        "creation_time": "yesterday",
        "updated_time": 5,
        "output_values": {"deploy_status_code": [1]},
        "input_values": "none",
    }
    cloud.world.add_raw(cloud.project().id, odd)
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value(DEPLOYMENTS, project=FIRST, status="", action="") == 1
    assert page.value("heat_software_deployment_status_codes", status="", deploy_status_code="invalid") == 1
    assert page.value(PER_SERVER, project=FIRST, server_id="", status="", action="") == 1
    assert page.value("heat_software_deployment_age_seconds_gcount", project=FIRST, status="COMPLETE") == 1
    assert not page.cells("heat_records_rejected_total", "reason")


async def test_07_duplicates_are_counted_once(cloud: Cloud):
    """A deployment that stands in a listing three times is one deployment and two duplicates; that costs one further
    listing when it is noticed, and none later."""
    project = cloud.project(SECOND)
    twin = {"id": "twin", "status": "FAILED", "action": "CREATE", "server_id": "s"}
    # So large that what follows is decoded in another batch.
    fillers = [{"id": f"filler-{number}", "output_values": {"deploy_stdout": "x" * 2_000_000}} for number in range(2)]
    for record in (twin, *fillers, twin, twin):
        cloud.world.add_raw(project.id, record)
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
        assert page.value(DEPLOYMENTS, project=SECOND, status="FAILED", action="CREATE") == 1
        assert page.value(PER_SERVER, project=SECOND, server_id="s", status="FAILED", action="CREATE") == 1
        assert page.value("heat_duplicate_records_total", project=SECOND) == 2
        assert page.value("heat_up", project=SECOND) == 1
        assert cloud.asked(SECOND) == 2
        await watch_of(fleet, SECOND).refresh()
        assert page_of(fleet).value("heat_duplicate_records_total", project=SECOND) == 4
        assert cloud.asked(SECOND) == 3


@contextmanager
def traced() -> Iterator[None]:
    """Trace every allocation of Python objects."""
    gc.collect()
    tracemalloc.start(5)
    try:
        yield
    finally:
        tracemalloc.stop()


def held_by(filename: str) -> int:
    """Bytes that are still held of what was allocated by calls from this file."""
    gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, filename, all_frames=True)])
    return sum(trace.size for trace in snapshot.traces)


async def test_08_no_api_objects_kept(cloud: Cloud):
    """After a refresh nothing of the records is left but the counts, and none of their outputs at any time."""
    output = "x" * 20_000
    records = [
        {
            "id": f"deployment-{number:08}",
            "server_id": f"server-{number % 10}",
            "status": "COMPLETE",
            "action": "CREATE",
            "creation_time": "2024-01-01T00:00:00Z",
            "output_values": {"deploy_stdout": output, "deploy_status_code": 0},
        }
        for number in range(1000)
    ]
    size = len(json.dumps(records))
    for record in records:
        cloud.world.add_raw(cloud.project().id, record)
    # What a test before this one may have left to a failure's traceback is not this refresh's.
    others = [each for each in gc.get_objects() if isinstance(each, Aggregator | ResponseDecoder | Batch)]
    async with cloud.fleet() as fleet:
        await fleet.once()
        with traced():
            decoder = ResponseDecoder()
            head = json.dumps({"software_deployments": records[:500]}).encode()
            kept: list[Batch] = [*decoder.feed(head), *decoder.close()]
            assert held_by("*/openstack/decoder.py") > 50_000  # what keeping them would look like
            del kept, decoder, head
            assert held_by("*/openstack/decoder.py") < 10_000
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            await watch_of(fleet).refresh()
            _, peak = tracemalloc.get_traced_memory()
            assert held_by("*/openstack/decoder.py") < 10_000
            assert held_by("*/deployments/aggregator.py") < 100_000
        assert page_of(fleet).value("heat_refresh_response_bytes", project=FIRST) > size
        assert peak - before < size / 3
        gc.collect()
        left = [each for each in gc.get_objects() if isinstance(each, Aggregator | ResponseDecoder | Batch)]
        assert not [each for each in left if not any(each is other for other in others)]


async def test_09_cardinality_is_bounded(cloud: Cloud):
    """`limits.servers` holds, troubled servers go first, what is left out is counted, and the totals are whole."""
    for number in range(9):
        cloud.deploy(server=f"quiet-{number}")
    cloud.deploy(server="z-failed", status="FAILED")
    cloud.deploy(server="z-stuck", status="IN_PROGRESS", age=7200)
    settings = configuration(limits={"servers": 3})
    async with cloud.fleet(settings) as fleet:
        await fleet.once()
        page = page_of(fleet)
    shown = page.select(PER_SERVER, project=FIRST)
    assert {each.labels["server_id"] for each in shown} == {"z-failed", "z-stuck", "quiet-0"}
    assert page.value("heat_series_withheld", project=FIRST, family=PER_SERVER) == 12 - 3
    assert page.value("heat_series_withheld", project=SECOND, family=PER_SERVER) == 0
    assert page.total(DEPLOYMENTS, project=FIRST) == 12
    assert page.value("heat_software_deployments_stuck", project=FIRST, action="CREATE") == 1


async def test_09_odd_values_do_not_multiply(cloud: Cloud):
    """Undocumented statuses past 20 become `other`, exit codes past 64 too, and every deployment is still counted."""
    for number in range(100):
        cloud.deploy(SECOND, status=f"ODD_{number:03}", action=f"DO_{number:03}", code=number)
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    kept = {f"ODD_{number:03}" for number in range(20)}
    assert {each.labels["status"] for each in page.select(DEPLOYMENTS, project=SECOND)} == kept | {*STATUSES, "other"}
    assert len({each.labels["action"] for each in page.select(DEPLOYMENTS, project=SECOND)}) == 20 + 5 + 1
    codes = {each.labels["deploy_status_code"] for each in page.select("heat_software_deployment_status_codes")}
    assert len(codes) == 64 + 1
    assert "other" in codes
    assert page.total(DEPLOYMENTS, project=SECOND) == 101
    assert page.total("heat_software_deployment_status_codes", project=SECOND) == 101


async def test_09_families_left_out_cost_nothing(cloud: Cloud):
    """A family that `metrics.exclude` names is not on the page in any form."""
    settings = configuration(metrics={"exclude": [PER_SERVER, "heat_software_deployment_.*"]})
    async with cloud.fleet(settings) as fleet:
        await fleet.once()
        text = fleet.page.plain("openmetrics").decode()
    assert f"\n{PER_SERVER}{{" not in text
    assert f"# TYPE {PER_SERVER} " not in text
    assert "\nheat_software_deployment_" not in text
    assert "# TYPE heat_software_deployment_" not in text
    assert f"\n{DEPLOYMENTS}{{" in text


SUFFIX = "(_bucket|_g?count|_g?sum)?"
NAMES_OF = {SERVERS: (SERVER_NAMES,), PROBLEMS: (CONFIG_NAMES,)}
"""The names of what has rows of its own go with the rows."""
DATA_FAMILIES = [family for family in FAMILIES if family.scope == "data"]


@pytest.mark.parametrize("left_out", DATA_FAMILIES, ids=lambda family: family.name)
async def test_09_one_family_left_out(cloud: Cloud, left_out: Family):
    """Whichever family of the cloud's data is left out: nothing is counted for it alone, and every other one says what
    it says otherwise, to the letter."""
    servers = [cloud.world.add_server(cloud.project().id) for _ in range(3)]
    for number in range(40):
        cloud.deploy(
            server=servers[number % 3],
            status=("COMPLETE", "FAILED", "IN_PROGRESS")[number % 3],
            action=ACTIONS[number % 5],
            code=number % 4 or None,
        )
    hands = Hands(wall=time.time() + 600)  # long enough to be stuck

    async def found(**metrics: list[str]) -> tuple[Snapshot, set[str]]:
        settings = configuration(metrics=metrics, thresholds={"stuck_after": "1m"}, refresh=ONCE)
        async with cloud.fleet(settings, clock=hands.clock) as fleet:
            await fleet.once()
            snapshot = watch_of(fleet).state.snapshot
            assert snapshot is not None
            return snapshot, {
                line
                for family in DATA_FAMILIES
                for line in fleet.page.plain("text").decode().splitlines()
                if re.match(rf"(# \w+ )?{family.name}{SUFFIX}[{{ ]", line)
            }

    (whole, everything), (snapshot, others) = await found(), await found(exclude=[left_out.name])
    names = "|".join((left_out.name, *NAMES_OF.get(left_out.name, ())))
    assert others == {line for line in everything if not re.match(rf"(# \w+ )?({names}){SUFFIX}[{{ ]", line)}
    assert others < everything
    assert {table for table in TABLES if getattr(whole, table) and not getattr(snapshot, table)} == (
        {left_out.table} if left_out.table else set()
    )


async def test_09_without_the_clouds_data_next_to_nothing_is_kept(cloud: Cloud):
    """Where only `heat_up` is wanted, what is known of a listing is how many deployments are in which state."""
    for number in range(6):
        cloud.deploy(status=("COMPLETE", "FAILED", "IN_PROGRESS")[number % 3], code=number)
    async with cloud.fleet(configuration(metrics={"include": ["heat_up"]})) as fleet:
        await fleet.once()
        snapshot = watch_of(fleet).state.snapshot
    assert snapshot is not None
    assert snapshot.total == 7
    assert snapshot == Snapshot(
        asked_at=snapshot.asked_at,
        deployments=snapshot.deployments,
        stuck=snapshot.stuck,
        response_bytes=snapshot.response_bytes,
    )


async def test_10_gone_deployments_and_servers_are_forgotten(cloud: Cloud):
    """What leaves the listing leaves the page with the next refresh; documented cells fall to zero."""
    gone = cloud.deploy(server="doomed", status="FAILED", action="UPDATE", code=3)
    async with cloud.exporter() as exporter:
        page = await exporter.when(lambda page: page.get("heat_up", project=FIRST) == 1)
        assert page.value(PER_SERVER, server_id="doomed", status="FAILED", action="UPDATE") == 1
        cloud.world.remove(gone.id)
        page = await exporter.when(lambda page: not page.select(PER_SERVER, server_id="doomed"))
        assert page.value(DEPLOYMENTS, project=FIRST, status="FAILED", action="UPDATE") == 0
        assert not page.select("heat_software_deployment_status_codes", deploy_status_code="3")
        assert "doomed" not in str(page)
        assert page.value("heat_up", project=FIRST) == 1


async def test_10_gone_projects_are_forgotten(cloud: Cloud):
    """A project that discovery no longer finds leaves no series behind and is asked no more; the removal is counted."""
    project = cloud.project(SECOND)
    async with cloud.exporter(configuration(refresh={"discovery": "200ms"})) as exporter:
        await exporter.when(lambda page: page.get("heat_up", project=SECOND) == 1)
        cloud.world.remove_project(project.id)
        page = await exporter.when(lambda page: not page.select("heat_up", project=SECOND))
        assert project.id not in str(page)
        assert SECOND not in str(page)
        assert page.cells("heat_projects_removed_total", "reason", cloud="sim") == {"gone": 1}
        cloud.requests.clear()
        await exporter.refreshed(3, FIRST)
        assert not [each for each in cloud.requests if project.id in each.path]
        assert project.id not in (await exporter.get("/")).text


async def test_11_a_hung_project_stops_nobody(cloud: Cloud):
    """While one project's listing never comes, the others are refreshed as ever."""
    hold = Hold()
    cloud.listing(hold, FIRST)
    async with cloud.exporter(configuration(limits={"concurrency": 2})) as exporter:
        page = await exporter.refreshed(10, SECOND)
        assert hold.entered.is_set()
        assert page.get("heat_up", project=FIRST) is None
        assert page.value("heat_projects", state="pending") == 1
        assert cloud.asked(FIRST) == 1


async def test_11_slow_projects_leave_turns_to_the_others(cloud: Cloud):
    """As many projects as there are turns, slow at first and then hung for ever: those that answer get theirs."""
    settings = configuration(
        refresh={"timeout": "1h", "silence": "1h", "slow_after": "1500ms"}, limits={"concurrency": 2}
    )
    holds = [Hold() for _ in range(2)]

    def at_first_slow(hold: Hold) -> Handler:
        asked = count()

        async def handler(request: web.BaseRequest) -> web.StreamResponse | None:
            if next(asked) == 0:
                await asyncio.sleep(1.6)
                return web.Response(status=500)
            return await hold(request)

        return handler

    for number, hold in enumerate(holds):
        cloud.listing(at_first_slow(hold), cloud.add_project(f"slow-{number}").name)
    async with cloud.exporter(settings) as exporter:
        await exporter.when(lambda page: page.total("heat_refresh_failures_total") == len(holds))
        await eventually(lambda: any(hold.entered.is_set() for hold in holds), "one hangs")
        for name in (FIRST, SECOND):
            page = await exporter.refreshed(5, name)
            assert page.value("heat_up", project=name) == 1
        assert sum(hold.entered.is_set() for hold in holds) == 1


async def test_11_a_cloud_that_hangs_delays_no_other(cloud: Cloud):
    """With every request to one cloud hanging, Keystone's included, another cloud's projects are refreshed."""
    hanging = harness.Simulator(harness.quiet_world())
    hold = Hold()

    async def hang(request: web.BaseRequest, api: object) -> None:
        await hold(request)

    hanging.intercept = hang
    settings = configuration(
        limits={"concurrency": 2},
        clouds=[{"name": "hanging", "cloud": "hanging"}, {"name": "sim", "cloud": "simulator"}],
    )
    async with hanging:
        entry = cloud.entry()
        cloud.write(None, hanging={**entry, "auth": {**entry["auth"], "auth_url": hanging.auth_url}})
        async with cloud.exporter(settings) as exporter:
            await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
            page = await exporter.refreshed(5)
            assert page.value("heat_up", cloud="sim", project=FIRST) == 1
            assert page.get("heat_discovery_up", cloud="hanging") is None


async def test_12_health_never_asks_the_cloud(cloud: Cloud):
    """Health is 200 before the first answer, in an outage and after it, and sends no request."""
    hold = Hold()
    cloud.intercept(hold, "/v3")
    async with cloud.exporter() as exporter:
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        assert (await exporter.get("/-/healthy")).status == 200
        assert len(cloud.requests) == 1
        await cloud.simulator.stop()
        await exporter.when(lambda page: page.get("heat_discovery_up") == 0)
        assert (await exporter.get("/-/healthy")).status == 200


async def test_12_readiness_is_latched(cloud: Cloud):
    """Readiness comes when every project's first attempt has ended, well or not, and stays in an outage."""
    hold = Hold()
    cloud.listing(hold, FIRST)
    cloud.listing(answering(500), SECOND)
    async with cloud.exporter(configuration(refresh={"discovery": "200ms"})) as exporter:
        await exporter.when(lambda page: page.get("heat_up", project=SECOND) == 0)
        assert (await exporter.get("/-/ready")).status == 503
        hold.released.set()
        await asyncio.wait_for(exporter.fleet.wait_ready(), harness.DEADLINE)
        assert (await exporter.get("/-/ready")).status == 200
        late = cloud.add_project("late")
        hung = Hold()
        cloud.listing(hung, late.name)
        await asyncio.wait_for(hung.entered.wait(), harness.DEADLINE)
        assert (await exporter.get("/-/ready")).status == 200
        await cloud.simulator.stop()
        await exporter.when(lambda page: page.value("heat_up", project=FIRST) == 0)
        assert (await exporter.get("/-/ready")).status == 200


ACCEPTS = {
    None: "text",
    "": "text",
    "*/*": "text",
    "text/plain;version=0.0.4": "text",
    "text/html": "text",
    "image/png;q=0.9": "text",
    "application/json": "text",
    ",,;;q=": "text",
    "text/plain;q=nonsense": "text",
    "text/plain;q=0": "text",
    "*/*;q=0": "text",
    "application/openmetrics-text": "openmetrics",
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;q=0.3": "openmetrics",
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75": "openmetrics",
    "application/openmetrics-text;version=99.0": "text",
    "application/openmetrics-text;q=0.1,text/plain;q=0.9": "text",
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited": "text",
    "a/" + "b" * 4000: "text",
}


ENCODINGS = ("", "identity", "gzip", "br, zstd", "*", "gzip;q=0", "identity;q=0", ";;,", "gzip;q=x")


async def test_13_odd_accept_headers_get_a_whole_page(cloud: Cloud):
    """Whatever a client says it accepts, it gets a 200, a whole page, and a Content-Type that tells the truth."""
    async with cloud.exporter(configuration(refresh=ONCE, names=False)) as exporter:
        await exporter.fleet.wait_ready()
        pages = {"text": harness.plain((await exporter.get()).raw)}
        pages["openmetrics"] = harness.plain((await exporter.get(Accept=OPENMETRICS)).raw)
        assert all(b"heat_up{" in page for page in pages.values())
        for (accept, format), encoding in product(ACCEPTS.items(), ENCODINGS):
            headers = {} if accept is None else {"Accept": accept}
            answer = await exporter.get(Accept_Encoding=encoding, **headers)
            assert answer.status == 200
            assert answer.headers["Content-Type"] == CONTENT_TYPES[format], accept
            assert answer.headers.get("Content-Encoding") in (None, "gzip")
            assert harness.plain(answer.body) == pages[format], (accept, encoding)


async def test_13_a_slow_reader_holds_nobody_up(cloud: Cloud):
    """Readers that never read keep neither scrapes, refreshes nor the end waiting; one that reads has a whole page."""
    record = b'{"id":"%d","server_id":"a-server-with-a-rather-long-name-%d","status":"COMPLETE","action":"CREATE"}'
    for number in range(32_000):
        cloud.world.add_raw(cloud.project().id, record % (number, number))
    settings = configuration(limits={"servers": 100_000}, refresh={**ONCE, "timeout": "1m", "silence": "1m"})
    readers: list[socket.socket] = []
    async with asyncio.timeout(3 * harness.DEADLINE), cloud.exporter(settings) as exporter:
        await asyncio.wait_for(exporter.fleet.wait_ready(), harness.DEADLINE)
        old = (await exporter.get("/metrics?name[]=heat_server_software_deployments")).body
        assert len(old) > 5_000_000
        host, port = exporter.url.removeprefix("http://").split(":")
        for _ in range(5):
            slow = socket.socket()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect((host, int(port)))
            slow.sendall(
                b"GET /metrics?name[]=heat_server_software_deployments HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            )
            readers.append(slow)
        await eventually(lambda: len(select.select(readers, [], [], 0)[0]) == len(readers), "every answer has begun")
        cloud.world.clear_raw(cloud.project().id)
        await asyncio.wait_for(watch_of(exporter.fleet).refresh(), harness.DEADLINE)
        for _ in range(5):
            assert len((await exporter.get()).body) < 1_000_000
        assert (await exporter.get("/-/healthy")).status == 200
        received = await asyncio.to_thread(_read_all, readers[0])
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert body == old
    for slow in readers:
        slow.close()


def _read_all(slow: socket.socket) -> bytes:
    slow.settimeout(harness.DEADLINE)
    return b"".join(iter(lambda: slow.recv(1 << 20), b""))


async def test_13_gzip_is_one_whole_member(cloud: Cloud):
    """A compressed page decompresses with nothing behind its end, to what the plain page says."""
    async with cloud.exporter(configuration(refresh=ONCE)) as exporter:
        await exporter.fleet.wait_ready()
        answer = await exporter.get(Accept_Encoding="gzip")
        assert answer.headers["Content-Encoding"] == "gzip"
        assert harness.plain(gzip.decompress(answer.raw)) == harness.plain((await exporter.get()).raw)


async def test_14_status_is_readable(cloud: Cloud):
    """States are label values, every documented status and action with a zero where there is none; never a number."""
    cloud.deploy(status="FAILED", action="SUSPEND", code=137)
    cloud.deploy(status="PAUSED", action="CHECK")
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
    cells = {
        (each.labels["status"], each.labels["action"]): each.value for each in page.select(DEPLOYMENTS, project=FIRST)
    }
    expected = {("COMPLETE", "CREATE"): 1, ("FAILED", "SUSPEND"): 1, ("PAUSED", "CHECK"): 1}
    assert cells == dict.fromkeys(product(STATUSES, ACTIONS), 0) | expected
    assert page.cells(PER_SERVER, "status", "action", project=FIRST) == expected
    assert page.value("heat_software_deployment_status_codes", status="FAILED", deploy_status_code="137") == 1
    assert {each.labels["state"] for each in page.select("heat_projects")} == {"pending", "fresh", "failing", "stale"}


async def test_15_no_debug_endpoints(cloud: Cloud):
    """What is not documented is a 404; nothing can be sent, reloaded or ended over HTTP without a flag."""
    async with cloud.exporter(configuration(refresh=ONCE)) as exporter:
        await exporter.fleet.wait_ready()
        for path in (
            "/debug",
            "/debug/pprof/",
            "/-/quit",
            "/-/stop",
            "/api",
            "/metrics/",
            "/metrics/x",
            "/../etc/passwd",
        ):
            for method in ("GET", "POST", "PUT"):
                answer = await exporter.get(path, method=method)
                assert answer.status in (404, 405), path
        for path in ("/metrics", "/", "/-/healthy", "/-/ready"):
            for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
                assert (await exporter.get(path, method=method)).status == 405
        assert (await exporter.get("/-/reload", method="POST")).status in (403, 404)


RAW_REQUESTS = (
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /metrics HTTP/9.9\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nHost : y\r\n\r\n",
    b"GET /%zz?name[]=%ff%fe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /metrics?" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
)


async def test_15_broken_requests_get_no_traceback(cloud: Cloud):
    """Whatever is sent, no answer shows how the program is built, and the next scrape is answered."""
    async with cloud.exporter(configuration(refresh=ONCE)) as exporter:
        host, port = exporter.url.removeprefix("http://").split(":")
        for request in RAW_REQUESTS:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), harness.DEADLINE)
            writer.close()
            await writer.wait_closed()
            assert b"Traceback" not in answer
            assert b".py" not in answer
            assert (await exporter.get()).status == 200


async def test_15_a_mistake_of_ours_gets_no_traceback(cloud: Cloud):
    """Even an internal error is a plain 500, in which no client reads our code."""
    async with cloud.exporter(configuration(refresh=ONCE)) as exporter:
        del exporter.fleet.publisher.page
        answer = await exporter.get()
        assert answer.status == 500
        assert "Traceback" not in answer.text
        assert "AttributeError" not in answer.text
        assert ".py" not in answer.text
