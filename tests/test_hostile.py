"""What somebody hostile tries, over real sockets, and does not get; SECURITY.md says who can do what."""

import asyncio
import json
import stat
import sys
from pathlib import Path

import pytest
from aiohttp import web

from exporter.cli import commands
from tests import harness
from tests.harness import FIRST, Cloud, Samples, configuration, eventually, page_of, run
from tests.programs.process import Process
from tests.programs.process import eventually as soon

cloud = harness.cloud
pytestmark = harness.sdk_warning

# -- a cloud


ESCAPES = "a\x1b]0;title\x07b\x1b[2J\x9b31mc\x7f\rd\u2028e\x08f"
"""A name that would rename, wipe and colour a terminal, and write over its lines."""
CONTROLS = {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)} - {"\n"}


@pytest.mark.parametrize("command", ["check", "once"])
async def test_a_name_can_t_steer_the_terminal(cloud: Cloud, command: str):
    """Names and messages of a cloud are shown without a single control character, in the table and among complaints."""
    cloud.deploy(cloud.add_project(ESCAPES).name)
    broken = cloud.add_project(f"{ESCAPES}, broken").name
    cloud.listing(harness.answering(500), broken)
    done = await run(command, "--config.file", cloud.configure(), "--log.level", "error")
    assert done.status == 1
    told = done.stdout if command == "check" else done.stderr
    assert "title" in told
    assert ", broken" in done.stderr
    assert CONTROLS & set(told + done.stderr) == set()
    if command == "once":  # the exposition has the name as it is, but for what the format escapes
        assert ESCAPES in {sample.labels.get("project") for sample in Samples.of(done.stdout)}


async def test_json_for_programs_has_names_as_they_are(cloud: Cloud):
    """The JSON of `check` is one line of plain ASCII, in which a name is what it was."""
    cloud.deploy(cloud.add_project(ESCAPES).name)
    done = await run("check", "--config.file", cloud.configure(), "--output", "json", "--log.level", "error")
    assert done.status == 0
    assert done.stdout.isascii()
    assert CONTROLS & set(done.stdout) == set()
    assert ESCAPES in {each["project"] for each in json.loads(done.stdout)["projects"]}


def token_with(url: str, project: str) -> web.Response:
    """A token whose catalog has this address for Heat."""
    endpoint = {"id": "e", "interface": "public", "region": "r", "region_id": "r", "url": url}
    token = {
        "methods": ["password"],
        "expires_at": "2999-01-01T00:00:00.000000Z",
        "issued_at": "2024-01-01T00:00:00.000000Z",
        "user": {"id": "u", "name": "monitor", "domain": {"id": "default", "name": "Default"}},
        "project": {"id": project, "name": FIRST, "domain": {"id": "default", "name": "Default"}},
        "roles": [{"id": "r", "name": "reader"}],
        "catalog": [{"type": "orchestration", "id": "s", "name": "heat", "endpoints": [endpoint]}],
    }
    return web.json_response({"token": token}, status=201, headers={"X-Subject-Token": "4711"})


@pytest.mark.parametrize("scheme", ["file", "unix", "data", "ftp", "gopher"])
async def test_a_catalog_can_t_make_it_read_a_file(cloud: Cloud, tmp_path: Path, scheme: str):
    """An address that is not HTTP's is no endpoint: nothing of the machine is read, and the refresh has failed."""
    listing = tmp_path / "software_deployments"
    listing.write_text('{"software_deployments": []}')
    project = cloud.project(FIRST).id

    async def authenticated(request: web.BaseRequest) -> web.StreamResponse:
        return token_with(f"{scheme}://{tmp_path}", project)

    cloud.authentication(authenticated)
    async with cloud.fleet(configuration(clouds=[{"cloud": "simulator", "projects": "current"}])) as fleet:
        await fleet.once()
        page = page_of(fleet)
    assert page.value("heat_up", project=FIRST) == 0
    assert page.total("heat_refresh_failures_total", project=FIRST) == 1
    assert not page.select("heat_software_deployments")


async def test_a_cloud_s_cookies_are_not_kept(cloud: Cloud):
    """What a cloud sets as a cookie never comes back to it: requests are told apart by nothing but their token."""
    seen: list[str] = []

    async def listed(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers.get("Cookie", ""))
        body = b'{"software_deployments": []}'
        return web.Response(body=body, headers={"Set-Cookie": "track=me; Path=/", "Content-Type": "application/json"})

    cloud.listing(listed, FIRST)
    async with cloud.exporter():
        await eventually(lambda: len(seen) >= 3)
    assert set(seen) == {""}


# -- a scraper


TRAVERSALS = (
    "/assets/../commands.py",
    "/assets/..%2fcli.py",
    "/assets/%2e%2e/commands.py",
    "/assets/..%5ccli.py",
    "/assets//etc/passwd",
    "/assets/%2fetc%2fpasswd",
    "/assets/pages.css%00.py",
    "/assets/",
    "/assets",
    "//etc/passwd",
)


@pytest.mark.parametrize("path", TRAVERSALS)
async def test_no_path_leads_out_of_the_assets(cloud: Cloud, path: str):
    """Whatever a path says, no file but the pages' own assets is sent."""
    async with cloud.exporter(configuration(refresh=harness.ONCE)) as exporter:
        host, _, port = exporter.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
    assert answer.split()[1] in ("400", "403", "404")
    assert "import" not in answer
    assert "root:" not in answer


async def test_a_reload_is_nobody_s_but_those_who_were_allowed(cloud: Cloud):
    """Without --web.enable-lifecycle no request makes it read its files again, whatever it has in it."""
    async with harness.serving("--config.file", cloud.configure()) as (process, exporter):
        await exporter.refreshed()
        before = await exporter.samples()
        name = "heat_exporter_config_last_reload_success_timestamp_seconds"
        for headers in ({}, {"X_HTTP_Method_Override": "POST"}, {"Authorization": "Basic Og=="}):
            assert (await exporter.get("/-/reload", method="POST", **headers)).status == 403
            assert (await exporter.get("/-/reload", **headers)).status == 405
        assert (await exporter.samples()).value(name) == before.value(name)
        assert "configuration read" not in "\n".join(process.lines)


async def test_no_other_site_may_read_an_answer(cloud: Cloud):
    """No answer lets a browser hand it to a page of another site, whatever the request says of where it comes from."""
    async with cloud.exporter(configuration(refresh=harness.ONCE)) as exporter:
        await exporter.fleet.wait_ready()
        for path in ("/", "/metrics", "/config", "/sd", "/updates", "/-/healthy", "/nothing"):
            for method in ("GET", "OPTIONS"):
                answer = await exporter.get(
                    path, method=method, Origin="http://evil.example.org", Access_Control_Request_Method="GET"
                )
                assert not [name for name in answer.headers if name.lower().startswith("access-control-")], path


# -- a user of the same machine


def test_what_the_demo_writes_is_its_own(tmp_path: Path):
    """The demo's clouds.yaml, which has a password, can be read by its owner alone, and is gone afterwards."""
    command = (sys.executable, "-m", "exporter", "demo", "--web.listen-address", "127.0.0.1:0")
    root = Path(__file__).parent.parent
    before = tmp_path / "temporary"
    before.mkdir(mode=0o755)
    with Process("demo", command, tmp_path, PYTHONPATH=str(root), TMPDIR=str(before)) as process:
        [file] = soon(lambda: list(before.glob("*/clouds.yaml")), timeout=60, what="clouds.yaml")
        soon(lambda: "event=listening" in process.log.read_text(), timeout=60, what="listening")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        arguments = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert "password" not in arguments
    assert list(before.iterdir()) == []


def test_no_flag_takes_a_secret():
    """No flag, which everybody on the machine can read among the processes, is for a password, a token or a key."""
    flags = {option for command in commands.main.commands.values() for each in command.params for option in each.opts}
    assert [flag for flag in flags if any(word in flag for word in ("pass", "secret", "key", "credential"))] == []
    assert {flag for flag in flags if "token" in flag} == {"--token-lifetime"}


def test_what_is_simulated_listens_on_loopback():
    """Unless told otherwise, the demo and the simulated cloud can be reached from their own machine alone."""
    addresses = {
        name: [each.default for each in command.params if "listen-address" in each.opts[0]]
        for name, command in commands.main.commands.items()
    }
    assert addresses["demo"] == [["127.0.0.1:19180"]]
    assert addresses["simulate"] == ["127.0.0.1:0"]
