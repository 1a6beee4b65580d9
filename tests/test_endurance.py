"""What once held up, misled or ended an exporter, and must not again."""

import asyncio
import socket
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from exporter.cli.serve import Address, Settings, listening
from exporter.common.deadline import Deadline
from exporter.common.errors import AnswerError, ConfigError, TooLargeError
from exporter.config import schema
from exporter.openstack import network
from exporter.openstack.decoder import RECORD_BYTES, ResponseDecoder
from exporter.openstack.session import CloudSession
from exporter.web.app import Server
from tests import harness
from tests.harness import FIRST, Authority, Cloud, answering, configuration, tls_front, watch_of, written

cloud = harness.cloud


async def test_a_name_is_looked_up_beside_everything_else() -> None:
    """Names are resolved in daemon threads, for which no process waits at its end; one without address is an error."""
    found = await network.Resolver().resolve("localhost", 80, socket.AF_UNSPEC)
    assert {each["host"] for each in found} <= {"127.0.0.1", "::1"}
    assert {each["port"] for each in found} == {80}
    with pytest.raises(OSError, match=r"."):
        await network.Resolver().resolve("nowhere.invalid", 80)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")] == []


async def test_our_requests_use_that_look_up(cloud: Cloud) -> None:
    """A cloud whose addresses are names is refreshed with the exporter's own resolver."""
    entry = cloud.entry()
    entry["auth"]["auth_url"] = entry["auth"]["auth_url"].replace("127.0.0.1", "localhost")
    cloud.write(entry)
    async with cloud.fleet() as fleet:
        await fleet.once()
        assert [watch.state.up for watch in fleet.watches()] == [True, True]
        (access,) = (each.access for each in fleet.clouds.values())
        assert isinstance(access.client.connector._resolver, network.Resolver)


def test_blanks_cost_nothing() -> None:
    """However many blanks stand around the records, none of them is kept, and the records are what they were."""
    record = b'{"id": "a"}'
    decoder = ResponseDecoder(batch_bytes=4096)
    pieces = [b'{"software_deployments": [', record, b",", record.replace(b"a", b"b"), b"]", b"}"]
    blanks = b" \n" * 4096
    found = []
    tracemalloc.start()
    try:
        for piece in pieces:
            for batch in decoder.feed(piece):
                found += batch.records
            for _ in range(500):
                for batch in decoder.feed(blanks):
                    found += batch.records
        for batch in decoder.close():
            found += batch.records
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [each.id for each in found] == ["a", "b"]
    assert peak < 1_000_000


def test_one_giant_record_is_refused() -> None:
    """A record that no Heat would store is too_large before it takes the memory or the time of everything else."""
    decoder = ResponseDecoder()
    list(decoder.feed(b'{"software_deployments": [{"id": "a", "x": "'))
    with pytest.raises(TooLargeError, match="16MiB"):
        for _ in range(2 * RECORD_BYTES // 65536):
            list(decoder.feed(b"x" * 65536))


async def test_a_renewed_certificate_authority_is_taken_up_by_a_reload(cloud: Cloud) -> None:
    """New contents of the file behind `cacert` count with the next reload, under the same path."""
    wrong, right = Authority(cloud.folder, "wrong"), Authority(cloud.folder, "right")
    async with tls_front(cloud.simulator, right) as front:
        bundle = cloud.put("bundle.pem", wrong.file.read_text())
        entry = cloud.entry()
        entry["auth"]["auth_url"] = f"{front.url}/v3"
        cloud.write({**entry, "cacert": str(bundle)})
        text = written()
        async with cloud.exporter(schema.parse(text, source="test")) as exporter:
            await exporter.when(lambda page: page.get("heat_discovery_up") == 0)
            bundle.write_text(right.file.read_text())
            await exporter.fleet.reload(lambda: schema.parse(text, source="test"))
            await exporter.when(lambda page: page.get("heat_up", project=FIRST) == 1)


async def test_readiness_is_latched_without_anybody_asking(cloud: Cloud) -> None:
    """Once everything was attempted, a cloud that a reload adds and that never answers doesn't unset readiness."""
    hung = socket.create_server(("127.0.0.1", 0))
    with hung:
        async with cloud.exporter() as exporter:
            await exporter.fleet.wait_ready()
            entry = cloud.entry()
            entry["auth"]["auth_url"] = f"http://127.0.0.1:{hung.getsockname()[1]}/v3"
            cloud.write(None, hung=entry)
            more = written(clouds=[{"cloud": "simulator"}, {"cloud": "hung"}])
            await exporter.fleet.reload(lambda: schema.parse(more, source="test"))
            assert (await exporter.get("/-/ready")).status == 200


@pytest.mark.parametrize("limit", ["300ms", "10s"])
async def test_a_request_is_counted_once(cloud: Cloud, limit: str) -> None:
    """A silent Heat is one `error`, whichever deadline ends the wait; headers and then silence are the status alone."""
    hold = harness.Hold()
    cloud.listing(hold)
    settings = configuration(refresh={"interval": "1h", "timeout": limit, "silence": "300ms", "stale_after": "1h"})
    async with cloud.fleet(settings) as fleet:
        await fleet.clouds["sim"].discover()
        watch = watch_of(fleet)
        await watch.refresh()
        requests = watch_requests(fleet)
        assert requests == {"error": 1}
        hold.released.set()

        async def headers_only(request: web.BaseRequest) -> web.StreamResponse:
            answer = web.StreamResponse(headers={"Content-Type": "application/json"})
            await answer.prepare(request)
            await answer.write(b"{")
            await asyncio.Event().wait()
            return answer

        cloud.mend()
        cloud.listing(headers_only)
        await watch.refresh()
        assert watch_requests(fleet) == {"error": 1, "200": 1}


def watch_requests(fleet: Any) -> dict[str, int]:
    """The requests to Heat so far, by code."""
    traffic = fleet.clouds["sim"].access.traffic.requests
    return {code: count for (api, code), count in traffic.items() if api == "orchestration"}


async def test_a_refused_token_is_not_tried_again(cloud: Cloud) -> None:
    """A token that Heat refused is never sent again, not even where Keystone gives no new one for a while."""
    cloud.listing(answering(401))
    async with cloud.fleet() as fleet:
        await fleet.clouds["sim"].discover()
        watch = watch_of(fleet)
        cloud.authentication(answering(503))
        access: CloudSession = fleet.clouds["sim"].access
        cloud.mend()
        async with Deadline(10) as stopwatch:
            token = await access.token(cloud.project().id, stopwatch=stopwatch)
        cloud.listing(answering(401))
        cloud.authentication(answering(503))
        before = cloud.asked()
        for _ in range(3):
            await watch.refresh()
        assert cloud.asked() == before + 1
        cloud.mend()
        async with Deadline(10) as stopwatch:
            assert (await access.token(cloud.project().id, stopwatch=stopwatch)).value != token.value


async def test_a_reload_to_another_address_ends_the_wait(cloud: Cloud) -> None:
    """A Retry-After of an hour says nothing of another address: a reload that leads there asks at once."""
    cloud.listing(answering(429, headers={"Retry-After": "3600"}))
    async with cloud.exporter() as exporter:
        await exporter.when(lambda page: page.get("heat_up", project=FIRST) == 0)
        cloud.mend()
        entry = cloud.entry()
        entry["auth"]["auth_url"] = entry["auth"]["auth_url"].replace("127.0.0.1", "localhost")
        cloud.write(entry)
        await exporter.fleet.reload(configuration)
        await exporter.when(lambda page: page.get("heat_up", project=FIRST) == 1)


async def test_a_disabled_project_that_is_asked_for_is_missed(cloud: Cloud) -> None:
    """A project that the configuration lists and the cloud has disabled is a failed discovery that names it."""
    name = next(project.name for project in cloud.world.projects.values() if not project.enabled)
    settings = configuration(clouds=[{"cloud": "simulator", "projects": [FIRST, name]}])
    async with cloud.fleet(settings) as fleet:
        error = await fleet.clouds["simulator"].discover()
        assert isinstance(error, AnswerError)
        assert f"'{name} (disabled)'" in str(error)
        assert [watch.state.name for watch in fleet.watches()] == [FIRST]


async def test_an_accept_header_may_stand_twice(cloud: Cloud) -> None:
    """Two lines of a header are one list, as HTTP has it."""
    async with cloud.exporter(refreshing=False) as exporter:
        _, _, port = exporter.url.rpartition(":")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain;q=0.1\r\nAccept: application/openmetrics-text\r\n"
            b"Connection: close\r\n\r\n"
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert b"Content-Type: application/openmetrics-text; version=1.0.0" in answer


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@host/",
        "http://host/?a=secret",
        "http://host/#secret",
        "http://host:99999/",
        "http://[::1",
        "ftp://host/",
        "host",
        "",
    ],
)
def test_an_external_url_that_can_t_be_used_is_refused(url: str) -> None:
    """Such a URL ends in a clear error, which never repeats what may be a password."""
    with pytest.raises(ConfigError, match=r"--web\.external-url") as raised:
        Settings(addresses=[], external_url=url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "path",
    [
        "metrics",
        "/x}",
        "/{x}",
        "/-/healthy",
        "/-/x",
        "/probe",
        "/sd",
        "/project",
        "/config",
        "/updates",
        "/assets/x",
        "",
    ],
)
def test_a_telemetry_path_that_can_t_be_used_is_refused(path: str) -> None:
    """A path that is none, is taken, or would be a pattern ends in a clear error."""
    with pytest.raises(ConfigError, match=r"--web\.telemetry-path"):
        Settings(addresses=[], telemetry_path=path)


async def test_an_address_that_is_no_name_is_refused(cloud: Cloud) -> None:
    """A host that can't even be looked up ends in a clear error."""
    async with cloud.fleet() as fleet:
        with pytest.raises(ConfigError, match=r"can't listen on a\.\.b:0"):
            async with listening(Server(fleet), [Address("a..b", 0)]):
                pytest.fail("it listens")


def test_a_bound_that_no_double_holds_is_refused(tmp_path: Path) -> None:
    """A bucket's bound beyond what a double holds exactly is a wrong configuration, not a crash."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"buckets": {"deploy_status_code": [10**400]}}))
    with pytest.raises(ConfigError, match=r"buckets.deploy_status_code\[0\]"):
        schema.load(path)
