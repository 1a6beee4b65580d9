"""Refreshing over sockets: when a project is asked, and what each way to fail looks like on the page and in the log."""

import asyncio
import gzip
import json
import socket
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from exporter.collector.collector import Collector
from exporter.common.clock import Clock
from exporter.simulator import Simulator
from tests import harness
from tests.harness import (
    DEADLINE,
    FIRST,
    ONCE,
    SECOND,
    Authority,
    Cloud,
    Handler,
    Hold,
    Samples,
    answering,
    closed_port,
    configuration,
    eventually,
    page_of,
    serving,
    tls_front,
    watch_of,
)
from tests.programs.trouble import bomb, cut, falling_silent, hang_up, packed, trickling

cloud = harness.cloud
pytestmark = harness.sdk_warning

DEPLOYMENTS = "heat_software_deployments"
FAILURES = "heat_refresh_failures_total"
LISTING = b'{"software_deployments": [{"id": "a", "status": "FAILED", "action": "UPDATE"}]}'
GZIP = {"Content-Encoding": "gzip"}
ZLIB = {"Content-Encoding": "deflate"}


def members(body: bytes, *, each: int = 40) -> bytes:
    """The body as a gzip file of several members, as servers send it that compress piece by piece."""
    return b"".join(gzip.compress(body[start : start + each]) for start in range(0, len(body), each))


def failures(page: Samples, project: str = FIRST) -> dict[tuple[str, str], float]:
    """A project's failures by API and reason."""
    return page.cells(FAILURES, "api", "reason", project=project)


def arrivals(cloud: Cloud, project: str = FIRST) -> list[float]:
    """When the project's listings were asked for."""
    path = f"/heat/v1/{cloud.project(project).id}/software_deployments"
    return [each.time for each in cloud.requests.select(path=path)]


def grown(before: dict[Any, float], after: dict[Any, float]) -> dict[Any, float]:
    """What was added to a table of counts."""
    return {key: count - before.get(key, 0) for key, count in after.items() if count != before.get(key)}


# -- the pace


async def test_the_first_refresh_comes_at_once(cloud: Cloud):
    """Every project is asked when it is found, however long the interval, and then not again before its turn."""
    async with cloud.exporter(configuration(refresh=ONCE)) as exporter:
        await asyncio.wait_for(exporter.fleet.wait_ready(), DEADLINE)
        page = await exporter.samples()
        assert page.cells("heat_refreshes_total", "project") == {FIRST: 1, SECOND: 1}
        assert page.total("heat_up") == 2
        assert cloud.asked(FIRST) == cloud.asked(SECOND) == 1


async def test_refreshes_are_an_interval_apart(cloud: Cloud):
    """No project is asked before its interval is over, and the interval in force is on the page."""
    async with cloud.exporter(configuration(refresh={"interval": "200ms"})) as exporter:
        page = await exporter.when(lambda page: page.get("heat_refreshes_total", project=FIRST, default=0) >= 4)
        assert page.value("heat_refresh_interval_seconds", project=FIRST) >= 0.2
    # One interval less than there are, for a request may arrive late and the next one not.
    asked = arrivals(cloud)
    assert asked[3] - asked[0] >= 0.2 * 2


async def test_a_slow_listing_lengthens_the_interval(cloud: Cloud):
    """A listing that takes 100 ms is asked for every 400 ms at most where `share` is 0.25."""

    async def slow(request: web.BaseRequest) -> None:
        await asyncio.sleep(0.1)

    cloud.listing(slow)
    async with cloud.exporter(configuration(refresh={"share": 0.25})) as exporter:
        page = await exporter.when(lambda page: page.get("heat_refreshes_total", project=FIRST, default=0) >= 2)
        assert page.value("heat_refresh_interval_seconds", project=FIRST) >= 0.4
    asked = arrivals(cloud)
    assert asked[1] - asked[0] >= 0.3  # the listing's own time may be partly before its arrival


async def test_the_rate_limit_lengthens_the_interval(cloud: Cloud):
    """A round of two projects at ten requests a second takes 200 ms: that is the interval in force."""
    async with cloud.exporter(configuration(limits={"requests_per_second": 10})) as exporter:
        page = await exporter.when(lambda page: page.total("heat_up") == 2)
        assert page.value("heat_refresh_interval_seconds", project=FIRST) >= 0.2


async def test_the_interval_in_force_is_every_project_s(cloud: Cloud):
    """A project that was never listed, and one that is not asked yet, go by the interval that a round takes too, from
    when the projects are known, and as soon as there are more of them."""
    cloud.listing(answering(500), FIRST)
    hold = Hold()
    cloud.listing(hold, SECOND)
    settings = configuration(refresh={"discovery": "50ms"}, limits={"requests_per_second": 8})
    async with cloud.exporter(settings) as exporter:
        page = await exporter.when(lambda page: page.select("heat_refresh_failures_total", project=FIRST))
        assert page.cells("heat_refresh_interval_seconds", "project") == {FIRST: 0.25, SECOND: 0.25}
        for number in range(2):
            cloud.add_project(f"more-{number}")
        await exporter.when(
            lambda page: [*page.cells("heat_refresh_interval_seconds", "project").values()] == [0.5] * 4
        )
        hold.released.set()


async def test_never_two_refreshes_of_a_project_at_once(cloud: Cloud):
    """While a listing is under way for many intervals, the project is not asked again; others go on."""
    hold = Hold()
    cloud.listing(hold)
    async with cloud.exporter(configuration(refresh={"share": 1})) as exporter:
        await exporter.refreshed(5, SECOND)
        assert cloud.asked(FIRST) == 1
        hold.released.set()
        page = await exporter.refreshed(2, FIRST)
        assert page.value("heat_up", project=FIRST) == 1
    assert cloud.requests.peak(path=f"/heat/v1/{cloud.project().id}/software_deployments") == 1


async def test_missed_turns_are_skipped_and_counted(cloud: Cloud):
    """A refresh that outlasts its interval costs the turns in between: they are counted, not made up for."""
    async with cloud.exporter() as exporter:
        await exporter.refreshed(3)
        hold = Hold()
        cloud.listing(answering(401))  # the renewal that follows is no listing, which would lengthen the interval

        async def held(request: web.BaseRequest) -> None:
            cloud.mend()
            await hold(request)

        cloud.authentication(held)
        await asyncio.wait_for(hold.entered.wait(), DEADLINE)
        before = await exporter.samples()
        await exporter.refreshed(6, SECOND)
        asked = cloud.asked()
        hold.released.set()
        page = await exporter.when(
            lambda page: (
                page.value("heat_refreshes_total", project=FIRST) > before.value("heat_refreshes_total", project=FIRST)
            )
        )
        assert page.value("heat_up", project=FIRST) == 1
        skipped = await exporter.when(lambda page: page.value("heat_refreshes_skipped_total", project=FIRST) >= 3)
        assert not failures(skipped)
        assert cloud.asked() - asked <= skipped.value("heat_refreshes_total", project=FIRST)
        assert skipped.value("heat_refreshes_skipped_total", project=FIRST) >= 3


async def test_backoff_doubles(cloud: Cloud):
    """After the n-th failure in a row the next attempt is not made before 2ⁿ⁻¹ intervals, less a tenth."""
    cloud.listing(answering(500))
    async with cloud.exporter(configuration(refresh={"interval": "50ms"})) as exporter:
        await exporter.when(lambda page: page.get(FAILURES, default=0, project=FIRST, reason="server_error") >= 5)
    asked = arrivals(cloud)
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert len(gaps) >= 4
    for number, gap in enumerate(gaps):
        assert gap >= 0.05 * 2**number * 0.9


async def test_a_success_ends_the_backoff(cloud: Cloud):
    """After a success the next failure begins from one interval again, and data is fresh again."""
    async with cloud.fleet() as fleet:
        await fleet.once()
        watch = watch_of(fleet)
        cloud.listing(answering(500))
        for _ in range(6):
            await watch.refresh()
        assert page_of(fleet).value("heat_projects", state="failing") == 1
        cloud.mend()
        await watch.refresh()
        assert page_of(fleet).value("heat_projects", state="fresh") == 2
        assert failures(page_of(fleet)) == {("orchestration", "server_error"): 6}


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_obeyed(cloud: Cloud, status: int):
    """No attempt comes before the second that Retry-After asks for, though the interval is a tenth of that."""
    cloud.listing(answering(status, headers={"Retry-After": "1"}))
    async with cloud.exporter() as exporter:
        page = await exporter.when(
            lambda page: page.get(FAILURES, default=0, project=FIRST, reason="rate_limited") >= 2
        )
        assert page.value("heat_up", project=SECOND) == 1
    asked = arrivals(cloud)
    assert asked[1] - asked[0] >= 1.0


async def test_retry_after_of_keystone_is_obeyed(cloud: Cloud):
    """Discovery, too, stays away for as long as it is told to."""
    cloud.authentication(answering(429, headers={"Retry-After": "1"}))
    async with cloud.exporter() as exporter:
        await exporter.when(
            lambda page: page.get("heat_discovery_failures_total", default=0, reason="rate_limited") >= 2
        )
    asked = [each.time for each in cloud.requests.select(path="/v3/auth/tokens")]
    assert asked[1] - asked[0] >= 1.0


async def test_concurrency_is_bounded(cloud: Cloud):
    """No more listings are under way at once than `limits.concurrency` says, and as many as it says."""
    names = [FIRST, SECOND, *(cloud.add_project(f"more-{number}").name for number in range(6))]
    holds = [Hold() for _ in names]
    for name, hold in zip(names, holds, strict=True):
        cloud.listing(hold, name)
    async with cloud.exporter(configuration(refresh=ONCE, limits={"concurrency": 3})) as exporter:
        await eventually(lambda: sum(hold.entered.is_set() for hold in holds) == 3)
        for hold in holds:
            hold.released.set()
        await asyncio.wait_for(exporter.fleet.wait_ready(), DEADLINE)
        assert (await exporter.samples()).total("heat_up") == len(names)
    assert cloud.requests.peak(api="orchestration") == 3


async def test_waiting_for_a_turn_is_not_on_the_clock(cloud: Cloud):
    """Refreshes that queue for `concurrency` for longer than `timeout` succeed all the same."""
    names = [FIRST, SECOND, *(cloud.add_project(f"more-{number}").name for number in range(3))]

    async def slow(request: web.BaseRequest) -> None:
        await asyncio.sleep(0.3)

    for name in names:
        cloud.listing(slow, name)
    settings = configuration(refresh={**ONCE, "timeout": "1s", "slow_after": "1h"}, limits={"concurrency": 1})
    async with cloud.fleet(settings) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.total("heat_up") == len(names)
    listings = cloud.requests.select(api="orchestration")
    assert listings[-1].ended is not None
    assert listings[-1].ended - listings[0].time > 1


async def test_waiting_for_the_rate_limit_is_not_on_the_clock(cloud: Cloud):
    """A refresh each of whose requests waits for `requests_per_second` for longer than `timeout` succeeds."""
    clouds = [{"name": "sim", "cloud": "simulator", "projects": "current"}]
    limits = {"requests_per_second": 1.25}
    settings = configuration(refresh={**ONCE, "timeout": "600ms"}, limits=limits, clouds=clouds)
    async with cloud.fleet(settings) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value("heat_up", project=FIRST) == 1
    asked = [each.time for each in cloud.requests]
    assert asked[-1] - asked[0] >= 0.6


# -- the ladder of reasons: what Heat answers


HTML = answering(404, b"<html><body>404 Not Found</body></html>", content_type="text/html")
ANSWERS: dict[str, tuple[Handler, str]] = {
    "401": (answering(401), "auth"),
    "403": (answering(403), "forbidden"),
    "404 as HTML": (HTML, "not_found"),
    "429": (answering(429), "rate_limited"),
    "503 with Retry-After": (answering(503, headers={"Retry-After": "7"}), "rate_limited"),
    "503": (answering(503), "server_error"),
    "500": (answering(500), "server_error"),
    "502 as HTML": (answering(502, b"<html>", content_type="text/html"), "server_error"),
    "400": (answering(400), "client_error"),
    "410": (answering(410), "client_error"),
    "300": (answering(300), "client_error"),
    "204": (answering(204), "decode"),
    "206": (answering(206, LISTING), "decode"),
    "reset before the answer": (hang_up, "connect"),
    "reset inside the body": (cut(LISTING, abort=True), "connect"),
    "body shorter than announced": (cut(LISTING, abort=False), "connect"),
    "chunks without an end": (cut(LISTING, abort=False, chunked=True), "connect"),
    "empty": (answering(200, b""), "decode"),
    "HTML as 200": (answering(200, b"<html>It works!</html>", content_type="text/html"), "decode"),
    "garbage": (answering(200, bytes(range(256))), "decode"),
    "another envelope": (answering(200, b'{"stacks": []}'), "decode"),
    "no list": (answering(200, b'{"software_deployments": null}'), "decode"),
    "an object for a list": (answering(200, b'{"software_deployments": {}}'), "decode"),
    "a list alone": (answering(200, b"[]"), "decode"),
    "an error as 200": (answering(200, b'{"error": {"code": 500}}'), "decode"),
    "a second key": (answering(200, LISTING[:-1] + b', "more": 1}'), "decode"),
    "two envelopes": (answering(200, LISTING + LISTING), "decode"),
    "broken off": (answering(200, LISTING[:-2]), "decode"),
    "NaN": (answering(200, LISTING.replace(b'"UPDATE"', b"NaN")), "decode"),
    "bad UTF-8": (answering(200, LISTING.replace(b"UPDATE", b"\xff\xfe")), "decode"),
    "no usable record": (answering(200, b'{"software_deployments": [{"status": "FAILED"}, null]}'), "decode"),
    "gzip that is none": (answering(200, LISTING, headers={"Content-Encoding": "gzip"}), "decode"),
    "two envelopes as gzip members": (answering(200, gzip.compress(LISTING) * 2, headers=GZIP), "decode"),
    "a gzip member, then garbage": (answering(200, gzip.compress(LISTING) + b"x" * 32, headers=GZIP), "decode"),
    "a gzip member, then a broken one": (answering(200, members(LISTING)[:-24], headers=GZIP), "decode"),
    "two deflate streams": (
        answering(200, zlib.compress(LISTING[:9]) + zlib.compress(LISTING[9:]), headers=ZLIB),
        "decode",
    ),
    "brotli": (answering(200, LISTING, headers={"Content-Encoding": "br"}), "decode"),
    "too large": (answering(200, LISTING + b" " * 100_000), "too_large"),
    "too large once decompressed": (packed(LISTING + b" " * 100_000), "too_large"),
}


async def test_every_answer_of_heat_has_its_reason(cloud: Cloud):
    """Each way in which a listing fails is counted under the one reason that the contract names, and keeps the data."""
    settings = configuration(limits={"response_bytes": "64KiB"})
    async with cloud.fleet(settings) as fleet:
        await fleet.once()
        watch = watch_of(fleet)
        for name, (handler, reason) in ANSWERS.items():
            before = failures(page_of(fleet))
            cloud.mend()
            cloud.listing(handler)
            await asyncio.wait_for(watch.refresh(), DEADLINE)
            page = page_of(fleet)
            assert grown(before, failures(page)) == {("orchestration", reason): 1}, name
            assert page.value("heat_up", project=FIRST) == 0
            assert page.value(DEPLOYMENTS, project=FIRST, status="COMPLETE", action="CREATE") == 1, name
            assert watch.state.error.startswith(f"{reason}: "), name
        cloud.mend()
        await watch.refresh()
        page = page_of(fleet)
    assert page.value("heat_up", project=FIRST) == 1
    assert page.value("heat_refreshes_total", project=FIRST) == len(ANSWERS) + 2
    codes = page.cells("heat_api_requests_total", "code", api="orchestration")
    assert codes["403"] == 1
    assert codes["401"] == 2
    assert codes["error"] == 1
    # A connection that was kept and is gone at its next use is no answer: aiohttp asks once more by itself.
    assert sum(codes.values()) == len(cloud.requests.select(api="orchestration")) - 1


WHOLE: dict[str, Handler] = {
    "plain": answering(200, LISTING),
    "another Content-Type": answering(200, LISTING, content_type="text/plain"),
    "blanks around": answering(200, b"\n " + LISTING.replace(b":", b" : ") + b"\r\n"),
    "gzip": packed(LISTING),
    "x-gzip": packed(LISTING, "x-gzip"),
    "gzip of two members": answering(200, members(LISTING), headers=GZIP),
    "gzip of a member per byte": answering(200, members(LISTING, each=1), headers=GZIP),
    "deflate": packed(LISTING, "deflate", wbits=15),
    "identity": answering(200, LISTING, headers={"Content-Encoding": "identity"}),
}


async def test_a_listing_may_come_in_any_of_these_ways(cloud: Cloud):
    """A whole listing is taken however it is spelt or packed; its size is that of the plain text."""
    async with cloud.fleet() as fleet:
        await fleet.once()
        for name, handler in WHOLE.items():
            cloud.mend()
            cloud.listing(answering(500))
            await watch_of(fleet).refresh()
            cloud.mend()
            cloud.listing(handler)
            await watch_of(fleet).refresh()
            page = page_of(fleet)
            assert page.value("heat_up", project=FIRST) == 1, name
            assert page.value(DEPLOYMENTS, project=FIRST, status="FAILED", action="UPDATE") == 1
            assert len(LISTING) <= page.value("heat_refresh_response_bytes", project=FIRST) < 100


@pytest.mark.parametrize("inside", [True, False], ids=["inside a text", "between records"])
async def test_a_gzip_bomb_is_bounded(cloud: Cloud, inside: bool):
    """A small body that expands to 64 MiB is refused at the limit, without ever being in memory."""
    size = 64 * 1024 * 1024
    head = b'{"software_deployments": [{"id": "a", "status": "' if inside else b'{"software_deployments": ['
    cloud.listing(bomb(head, size))
    async with cloud.fleet(configuration(limits={"response_bytes": "4MiB"})) as fleet:
        await fleet.once()
        tracemalloc.start()
        try:
            await watch_of(fleet).refresh()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert failures(page_of(fleet)) == {("orchestration", "too_large"): 2}
        assert "limits.response_bytes (4MiB)" in watch_of(fleet).state.error
    assert peak < size / 4


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_of_heat_is_not_followed(cloud: Cloud, status: int):
    """A redirect is a failure; where it leads to never sees the token, nor any request."""
    async with Simulator(harness.quiet_world()) as trap:
        cloud.listing(answering(status, headers={"Location": f"{trap.url}/heat/v1/x/software_deployments"}))
        async with cloud.fleet() as fleet:
            await fleet.once()
            assert failures(page_of(fleet)) == {("orchestration", "client_error"): 1}
        assert len(trap.requests) == 0


@pytest.mark.parametrize("path", ["/v3", "/v3/auth/tokens", "/v3/auth/projects"])
async def test_a_redirect_of_keystone_is_not_followed(cloud: Cloud, path: str):
    """Neither password nor token is sent to where Keystone redirects."""
    async with Simulator(harness.quiet_world()) as trap:
        cloud.intercept(answering(307, headers={"Location": f"{trap.url}{path}"}), path)
        async with cloud.fleet() as fleet:
            await fleet.once()
            page = page_of(fleet)
        assert len(trap.requests) == 0
    if path != "/v3":  # without the version document the address itself tells the version
        found = page.cells("heat_discovery_failures_total", "api", "reason")
        assert found == {("identity", "client_error"): 1}


# -- what Keystone answers

KEYSTONE: dict[str, tuple[Handler, str]] = {
    "401": (answering(401, b'{"error": {"code": 401, "message": "no", "title": "Unauthorized"}}'), "auth"),
    "403": (answering(403), "forbidden"),
    "404": (answering(404), "not_found"),
    "429": (answering(429, headers={"Retry-After": "1"}), "rate_limited"),
    "503 with Retry-After": (answering(503, headers={"Retry-After": "1"}), "rate_limited"),
    "503": (answering(503), "server_error"),
    "500": (answering(500, b"<html>", content_type="text/html"), "server_error"),
    "400": (answering(400), "client_error"),
    "302": (answering(302), "client_error"),
    "garbage": (answering(201, b"no json", headers={"X-Subject-Token": "t"}), "decode"),
    "no token": (answering(201, b'{"something": "else"}', headers={"X-Subject-Token": "t"}), "decode"),
    "no header": (answering(201, b'{"token": {}}'), "decode"),
    "a list": (answering(201, b"[]", headers={"X-Subject-Token": "t"}), "decode"),
    "a number": (answering(201, b"5", headers={"X-Subject-Token": "t"}), "decode"),
    "an empty token": (answering(201, b'{"token": {}}', headers={"X-Subject-Token": "t"}), "decode"),
    "a token without a catalog that can be read": (
        answering(
            201,
            b"""{"token": {"expires_at": "2999-01-01T00:00:00Z", "issued_at": "2024-01-01T00:00:00Z", "catalog": 5}}""",
            headers={"X-Subject-Token": "t"},
        ),
        "decode",
    ),
    "times that can't be read": (
        answering(201, b'{"token": {"expires_at": "soon", "issued_at": "now"}}', headers={"X-Subject-Token": "t"}),
        "decode",
    ),
    "reset": (hang_up, "connect"),
}


async def test_every_answer_of_keystone_has_its_reason(cloud: Cloud):
    """A failed authentication is a failed refresh of the API `identity`, under the same reasons; Heat is not asked."""
    async with cloud.fleet() as fleet:
        await fleet.once()
        watch = watch_of(fleet)
        for name, (handler, reason) in KEYSTONE.items():
            before = failures(page_of(fleet))
            cloud.mend()
            cloud.authentication(handler)
            fleet.clouds["sim"].access.forget(cloud.project().id)
            await asyncio.wait_for(watch.refresh(), DEADLINE)
            page = page_of(fleet)
            assert grown(before, failures(page)) == {("identity", reason): 1}, name
            assert page.value(DEPLOYMENTS, project=FIRST, status="COMPLETE", action="CREATE") == 1
        assert cloud.asked() == 1
        cloud.mend()
        await watch.refresh()
        assert page_of(fleet).value("heat_up", project=FIRST) == 1


PROJECT_LISTS: dict[str, tuple[Handler, str]] = {
    "403": (answering(403), "forbidden"),
    "500": (answering(500), "server_error"),
    "204": (answering(204), "decode"),
    "garbage": (answering(200, b"no json"), "decode"),
    "a list": (answering(200, b"[]"), "decode"),
    "projects without ids": (answering(200, b'{"projects": [{"name": "x"}]}'), "decode"),
    "null": (answering(200, b'{"projects": null}'), "decode"),
    "reset": (hang_up, "connect"),
}


async def test_every_answer_to_discovery_has_its_reason(cloud: Cloud):
    """A list of projects that can't be had or read is a failed discovery, under the same reasons."""
    async with cloud.fleet() as fleet:
        watch = fleet.clouds["sim"]
        for name, (handler, reason) in PROJECT_LISTS.items():
            before = page_of(fleet).cells("heat_discovery_failures_total", "api", "reason")
            cloud.mend()
            cloud.intercept(handler, "/v3/auth/projects")
            await asyncio.wait_for(watch.discover(), DEADLINE)
            page = page_of(fleet)
            after = page.cells("heat_discovery_failures_total", "api", "reason")
            assert grown(before, after) == {("identity", reason): 1}, name
            assert page.value("heat_discovery_up", cloud="sim") == 0
            assert page.value("heat_discovery_last_success_timestamp_seconds", cloud="sim") == 0
        cloud.mend()
        await watch.discover()
        page = page_of(fleet)
        assert page.value("heat_discovery_up", cloud="sim") == 1
        assert page.value("heat_discovery_last_success_timestamp_seconds", cloud="sim") > 0


# -- deadlines


@pytest.mark.parametrize(
    "handler", [Hold, lambda: falling_silent(LISTING)], ids=["before the first byte", "inside the body"]
)
async def test_silence_is_a_deadline(cloud: Cloud, handler: Callable[[], Handler]):
    """Silence for longer than `refresh.silence` is a `timeout` whose message names the key and its value."""
    cloud.listing(handler())
    async with cloud.fleet(configuration(refresh={"silence": "300ms"})) as fleet:
        await fleet.once()
        assert failures(page_of(fleet)) == {("orchestration", "timeout"): 1}
        assert "refresh.silence" in watch_of(fleet).state.error
        assert "300ms" in watch_of(fleet).state.error


@pytest.mark.parametrize("handler", [Hold, lambda: trickling(LISTING, pause=0.05)], ids=["silent", "trickling"])
async def test_the_whole_refresh_has_a_deadline(cloud: Cloud, handler: Callable[[], Handler]):
    """A refresh that takes longer than `refresh.timeout` is a `timeout` whose message names the key and its value."""
    cloud.listing(handler())
    async with cloud.fleet(configuration(refresh={"timeout": "500ms"})) as fleet:
        await fleet.once()
        assert failures(page_of(fleet)) == {("orchestration", "timeout"): 1}
        assert "refresh.timeout" in watch_of(fleet).state.error
        assert "500ms" in watch_of(fleet).state.error


@pytest.mark.parametrize("key", ["silence", "timeout"])
async def test_keystone_has_deadlines_too(cloud: Cloud, key: str):
    """A Keystone that says nothing is an `identity` `timeout`, and the message names the key that raises it."""
    async with cloud.fleet(configuration(refresh={key: "500ms"})) as fleet:
        await fleet.once()
        fleet.clouds["sim"].access.forget(cloud.project().id)
        cloud.authentication(Hold())
        await asyncio.wait_for(watch_of(fleet).refresh(), DEADLINE)
        assert failures(page_of(fleet)) == {("identity", "timeout"): 1}
        assert f"refresh.{key}" in watch_of(fleet).state.error


async def test_discovery_has_a_deadline(cloud: Cloud):
    """A list of projects that never comes is a failed discovery with the reason `timeout`, and names the key."""
    cloud.intercept(Hold(), "/v3/auth/projects")
    async with cloud.fleet(configuration(refresh={"timeout": "500ms", "silence": "10s"})) as fleet:
        await asyncio.wait_for(fleet.once(), DEADLINE)
        page = page_of(fleet)
        assert page.cells("heat_discovery_failures_total", "api", "reason") == {("identity", "timeout"): 1}
        assert "refresh.timeout" in fleet.clouds["sim"].state.discovery_error


# -- addresses that lead nowhere


@asynccontextmanager
async def heat_at(cloud: Cloud, url: str, **refresh: str) -> AsyncIterator[Collector]:
    """A fleet that looks for Heat at another address than the catalog's."""
    cloud.write({**cloud.entry(), "orchestration_endpoint_override": f"{url}/heat/v1/%(project_id)s"})
    async with cloud.fleet(configuration(refresh=refresh)) as fleet:
        await asyncio.wait_for(fleet.once(), 2 * DEADLINE)
        yield fleet


async def test_a_refused_connection(cloud: Cloud):
    """A port where nobody listens is `connect`, for Heat and for Keystone."""
    with closed_port() as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        async with heat_at(cloud, url) as fleet:
            assert failures(page_of(fleet)) == {("orchestration", "connect"): 1}
            assert page_of(fleet).value("heat_api_requests_total", api="orchestration", code="error") == 2
        assert await keystone_at(cloud, f"{url}/v3") == {("identity", "connect"): 1}


async def keystone_at(cloud: Cloud, url: str, **refresh: str) -> dict[Any, float]:
    """The failures of a discovery that looks for Keystone at another address."""
    entry = cloud.entry()
    cloud.write({**entry, "auth": {**entry["auth"], "auth_url": url}})
    async with cloud.fleet(configuration(refresh=refresh)) as fleet:
        await asyncio.wait_for(fleet.once(), 2 * DEADLINE)
        return page_of(fleet).cells("heat_discovery_failures_total", "api", "reason")


async def test_a_name_that_does_not_resolve(cloud: Cloud):
    """A host name that nobody knows is `dns`, for Heat and for Keystone."""
    async with heat_at(cloud, "http://heat.invalid:8004") as fleet:
        assert failures(page_of(fleet)) == {("orchestration", "dns"): 1}
    assert await keystone_at(cloud, "http://keystone.invalid:5000/v3") == {("identity", "dns"): 1}


async def test_a_connection_that_is_never_taken(cloud: Cloud):
    """Connecting in vain for longer than `refresh.silence` is a `timeout` that names the key."""
    with ExitStack() as sockets:
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # until the queue of connections is full
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        async with heat_at(cloud, url, silence="500ms") as fleet:
            assert failures(page_of(fleet)) == {("orchestration", "timeout"): 1}
            assert "refresh.silence" in watch_of(fleet).state.error
        assert await keystone_at(cloud, f"{url}/v3", silence="500ms") == {("identity", "timeout"): 1}


async def test_a_certificate_of_an_unknown_authority(cloud: Cloud, tmp_path: Path):
    """TLS that can't be trusted is `tls`, for Heat and for Keystone, and nothing is sent to either."""
    async with tls_front(cloud.simulator, Authority(tmp_path)) as front:
        async with heat_at(cloud, front.url) as fleet:
            assert failures(page_of(fleet)) == {("orchestration", "tls"): 1}
        assert await keystone_at(cloud, f"{front.url}/v3") == {("identity", "tls"): 1}
        assert front.paths == []


async def test_tls_to_a_port_that_speaks_none(cloud: Cloud):
    """`https` in the address of a server without TLS is `tls`."""
    async with heat_at(cloud, cloud.simulator.url.replace("http:", "https:")) as fleet:
        assert failures(page_of(fleet)) == {("orchestration", "tls"): 1}


@pytest.mark.parametrize(
    "change", [{"region_name": "Elsewhere"}, {"interface": "nonsense"}], ids=["region", "interface"]
)
async def test_a_catalog_without_heat(cloud: Cloud, change: dict[str, str]):
    """Where the catalog has no such endpoint, the reason is `catalog` and the message says what was looked for."""
    cloud.write({**cloud.entry(), **change})
    async with cloud.fleet() as fleet:
        await fleet.once()
        page = page_of(fleet)
        assert failures(page) == {("identity", "catalog"): 1}
        assert page.value("heat_discovery_up", cloud="sim") == 1
        assert next(iter(change.values())) in watch_of(fleet).state.error
    assert cloud.requests.count(api="orchestration") == 0


# -- the log


async def test_one_line_when_it_breaks_and_one_when_it_recovers(cloud: Cloud):
    """However often and variously a project fails, the log has one line at the start and one at the end of it."""
    with capture_logs() as logs:
        async with cloud.fleet() as fleet:
            await fleet.once()
            for status in (500, 500, 403, 429, 200, 200):
                cloud.mend()
                if status != 200:
                    cloud.listing(answering(status))
                await watch_of(fleet).refresh()
    lines = [line for line in logs if line.get("project") == FIRST]
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("refresh failed", "warning"),
        ("recovered", "info"),
    ]
    assert lines[0] | {"cloud": "sim", "api": "orchestration", "reason": "server_error"} == lines[0]
    assert "500" in lines[0]["error"]


async def test_one_line_when_discovery_breaks_and_one_when_it_recovers(cloud: Cloud):
    """The same for finding the projects."""
    with capture_logs() as logs:
        async with cloud.fleet() as fleet:
            for status in (500, 500, 403, 200, 200):
                cloud.mend()
                if status != 200:
                    cloud.intercept(answering(status), "/v3/auth/projects")
                await fleet.clouds["sim"].discover()
    lines = [(line["event"], line["log_level"]) for line in logs if "discovery" in line["event"]]
    assert lines == [("discovery failed", "warning"), ("discovery recovered", "info")]


async def test_the_libraries_do_not_log_each_cycle_either(cloud: Cloud):
    """What a process writes while Keystone is broken for many attempts is still one line, on all of stderr."""

    async def broken(request: web.BaseRequest, api: object) -> web.StreamResponse:
        return web.Response(status=500)

    cloud.simulator.intercept = broken
    entry = cloud.entry()
    # Without the version in the address the library depends on the version document, and complains about it.
    cloud.write({**entry, "auth": {**entry["auth"], "auth_url": cloud.simulator.url}})
    async with serving("--config.file", cloud.configure()) as (process, exporter):
        await exporter.when(
            lambda page: page.get("heat_discovery_failures_total", default=0, reason="server_error") >= 4
        )
        said = [line for line in process.lines if "event=listening" not in line]
    assert len(said) == 1, said
    assert 'event="discovery failed"' in said[0]


async def test_a_mistake_of_ours_is_one_reason(cloud: Cloud):
    """What nobody foresaw is `internal` and has its traceback in the log; the loop goes on and recovers."""
    broken = False

    def wall() -> float:
        return 1 / 0 if broken else time.time()

    with capture_logs() as logs:
        async with cloud.exporter(clock=Clock(wall=wall)) as exporter:
            await exporter.refreshed(1)
            broken = True
            page = await exporter.when(
                lambda page: failures(page).get(("orchestration", "internal"), 0) >= 2 and failures(page, SECOND)
            )
            assert page.select(DEPLOYMENTS, project=FIRST)
            broken = False
            await exporter.when(lambda page: page.total("heat_up") == 2)
    errors = [line for line in logs if line["log_level"] == "error"]
    assert errors
    assert all(line["event"] == "internal error" and line["exc_info"] for line in errors)


async def test_records_with_outputs_never_reach_the_log_or_the_page(cloud: Cloud):
    """Users' input and output values, which may hold secrets, are neither logged nor shown, whatever goes wrong."""
    cloud.deploy(status="FAILED", input_values={"password": "input-secret"}, code="output-secret")
    project = cloud.project()
    cloud.world.add_raw(project.id, json.dumps({"id": 5, "output_values": {"deploy_stdout": "raw-secret"}}).encode())
    with capture_logs() as logs:
        async with cloud.fleet() as fleet:
            await fleet.once()
            cloud.world.add_raw(project.id, b'{"id": "x", "input_values": {"a": "raw-secret" oops')
            await watch_of(fleet).refresh()
            shown = fleet.page.plain("openmetrics").decode()
            assert failures(page_of(fleet)) == {("orchestration", "decode"): 1}
            assert "secret" not in watch_of(fleet).state.error
    assert "secret" not in shown
    assert "secret" not in str(logs)
