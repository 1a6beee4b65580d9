"""Keystone through keystoneauth1, over sockets: whatever it sends, an exporter gives it neither threads nor memory."""

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from exporter.collector.collector import Collector
from exporter.common.errors import MESSAGE_LENGTH
from exporter.openstack.keystone_transport import ANSWER_BYTES
from tests import harness
from tests.harness import (
    DEADLINE,
    FIRST,
    Cloud,
    Handler,
    answering,
    configuration,
    eventually,
    front_of,
    page_of,
    watch_of,
)
from tests.programs.trouble import bomb, endless, trickling

cloud = harness.cloud
pytestmark = harness.sdk_warning

TOKEN = {"X-Subject-Token": "t", "Content-Type": "application/json"}


@asynccontextmanager
async def renewing(cloud: Cloud, handler: Handler, **refresh: str) -> AsyncIterator[Collector]:
    """A fleet whose first project needs a new token, for which Keystone answers as the handler does."""
    async with cloud.fleet(configuration(refresh=refresh)) as fleet:
        await fleet.once()
        fleet.clouds["sim"].access.forget(cloud.project().id)
        cloud.authentication(handler)
        await asyncio.wait_for(watch_of(fleet).refresh(), DEADLINE)
        yield fleet


def errands() -> list[str]:
    """The threads in which somebody waits for Keystone."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("identity-")]


async def test_a_keystone_that_trickles_keeps_no_thread(cloud: Cloud):
    """A token that comes byte by byte for ever costs one refresh: its thread ends, and the next attempt succeeds."""
    handler = trickling(b'{"token": {', pause=0.05, status=201, headers=TOKEN)
    async with renewing(cloud, handler, timeout="500ms") as fleet:
        assert watch_of(fleet).state.failures == {("identity", "timeout"): 1}
        assert "refresh.timeout" in watch_of(fleet).state.error
        assert "500ms" in watch_of(fleet).state.error
        await eventually(lambda: not errands())
        cloud.mend()
        await eventually(lambda: not fleet.clouds["sim"].access._renewals)
        await watch_of(fleet).refresh()
        assert watch_of(fleet).state.up


async def test_a_renewal_that_nobody_waits_for_ends(cloud: Cloud):
    """Closing an exporter in the middle of an authentication leaves neither its thread nor its connection."""
    hold = harness.Hold()
    async with cloud.fleet() as fleet:
        await fleet.once()
        fleet.clouds["sim"].access.forget(cloud.project().id)
        cloud.authentication(hold)
        refresh = asyncio.create_task(watch_of(fleet).refresh())
        await asyncio.wait_for(hold.entered.wait(), DEADLINE)
        assert errands()
        refresh.cancel()
    await eventually(lambda: not errands())
    await eventually(lambda: all(each.ended for each in cloud.requests), "the request has been given up")


@pytest.mark.parametrize("kind", ["packed", "endless"])
async def test_a_token_without_measure_is_too_large(cloud: Cloud, kind: str):
    """An answer that never ends, or a small one that expands to 256 MiB, is refused at 32 MiB and not kept."""
    head = b'{"token": {"x": "'
    handler = (
        bomb(head, 8 * ANSWER_BYTES, status=201, headers=TOKEN)
        if kind == "packed"
        else endless(head, status=201, headers=TOKEN)
    )
    gc.collect()
    gc.disable()  # nothing large may wait for it, which comes rarely
    tracemalloc.start()
    try:
        async with renewing(cloud, handler) as fleet:
            current, peak = tracemalloc.get_traced_memory()
            assert watch_of(fleet).state.failures == {("identity", "too_large"): 1}
            assert "32MiB" in watch_of(fleet).state.error
    finally:
        tracemalloc.stop()
        gc.enable()
    assert peak < 3 * ANSWER_BYTES
    assert current < ANSWER_BYTES / 2


@pytest.mark.parametrize("kind", ["long", "packed", "endless", "trickling", "odd"])
async def test_an_explanation_is_read_as_far_as_it_helps(cloud: Cloud, kind: str):
    """Whatever comes with a status that says no, the status is the reason, and the message is short."""
    text = b'{"error": {"message": "' + b"x" * 30_000 + b'"}}'
    handlers = {
        "long": answering(503, text),
        "packed": bomb(text, 2 * ANSWER_BYTES, status=503, headers={"Content-Type": "application/json"}),
        "endless": endless(text, status=503),
        "trickling": trickling(text, pause=0.05, status=503),
        "odd": answering(503, b'{"errors": [5]}'),
    }
    async with renewing(cloud, handlers[kind]) as fleet:
        state = watch_of(fleet).state
        assert state.failures == {("identity", "server_error"): 1}
        assert len(state.error) <= MESSAGE_LENGTH + len("server_error: ")


async def test_passwords_of_netrc_are_sent_nowhere(cloud: Cloud):
    """A ~/.netrc with a password for the cloud's host is nobody's business: neither Keystone nor Heat is sent it."""
    netrc = cloud.put(".netrc", "machine 127.0.0.1 login somebody password netrc-secret\n")
    netrc.chmod(0o600)
    seen: list[str] = []

    async def note(request: web.BaseRequest, api: object) -> None:
        seen.append(request.headers.get("Authorization", ""))

    cloud.simulator.intercept = note
    async with cloud.fleet() as fleet:
        await fleet.once()
        assert page_of(fleet).value("heat_up", project=FIRST) == 1
    assert len(seen) >= 5
    assert set(seen) == {""}
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("asyncio_")] == []


async def test_a_proxy_may_want_a_password(cloud: Cloud):
    """The user of a proxy's address is told to the proxy, by Keystone's and Heat's requests alike."""
    async with front_of(cloud.simulator) as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            cloud.monkeypatch.setenv(name, proxy.url.replace("://", "://somebody:proxy-secret@"))
        async with cloud.fleet() as fleet:
            await fleet.once()
            assert page_of(fleet).total("heat_up") == 2
        assert len(proxy.headers) >= 5
        assert {each.get("Proxy-Authorization") for each in proxy.headers} == {"Basic c29tZWJvZHk6cHJveHktc2VjcmV0"}
