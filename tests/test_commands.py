"""The command as users run it: a process of its own, its exit status, what it prints where, and how it ends."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import stat
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from exporter import __version__
from tests import harness
from tests.harness import (
    FIRST,
    ONCE,
    SECOND,
    Cloud,
    Hold,
    Samples,
    answering,
    closed_port,
    eventually,
    run,
    serving,
    started,
)

cloud = harness.cloud
pytestmark = harness.sdk_warning

DEPLOYMENTS = "heat_software_deployments"
PATIENT = {**ONCE, "timeout": "1h", "silence": "1h"}
"""Refresh settings under which nothing of a silent cloud ends by itself."""

QUIET = ("--log.level", "error")
"""What leaves stderr to the summary."""


@pytest.fixture
def config_file(cloud: Cloud) -> Path:
    """A configuration file for the simulated cloud."""
    return cloud.configure()


def table(stderr: str) -> dict[str, list[str]]:
    """The rows of the summary by project name."""
    rows = [line.split() for line in stderr.splitlines()]
    return {row[1]: row for row in rows if len(row) > 3 and row[0] == "sim"}


# -- once


async def test_once_prints_the_exposition(cloud: Cloud, config_file: Path):
    """`once` asks each project once, prints the metrics on stdout, a summary on stderr, and exits 0 if all answered."""
    cloud.deploy(status="FAILED")
    cloud.deploy(status="IN_PROGRESS", age=7200)
    cloud.monkeypatch.setenv("TERM", "xterm-256color")
    done = await run("once", "--config.file", config_file)
    assert done.status == 0, done.stderr
    page = Samples.of(done.stdout)
    assert page.total(DEPLOYMENTS, project=FIRST) == 3
    assert page.value("heat_up", project=SECOND) == 1
    rows = table(done.stderr)
    assert rows.keys() == {FIRST, SECOND}
    assert rows[FIRST][3:7] == ["fresh", "3", "1", "1"]
    assert "heat_up" not in done.stderr
    assert cloud.asked(FIRST) == cloud.asked(SECOND) == 1
    # No terminal: no progress bar and no colour.
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr
    assert len(done.stderr.splitlines()) == 3


async def test_once_without_a_project_fails(cloud: Cloud, config_file: Path):
    """Exit status 1 when there is no project at all, and the reason on stderr."""
    cloud.world.add_user("nobody", "secret")
    entry = cloud.entry()
    auth = {"auth_url": cloud.simulator.auth_url, "username": "nobody", "password": "secret"}
    cloud.write({**entry, "auth": {**auth, "user_domain_id": "default"}})
    done = await run("once", "--config.file", config_file)
    assert done.status == 1
    assert "no project" in done.stderr
    assert Samples.of(done.stdout).value("heat_discovery_up", cloud="sim") == 1


async def test_once_prints_the_rest_when_something_fails(cloud: Cloud):
    """Exit status 1 when a project failed or a cloud was not to be found; the rest is printed, the failures named."""
    cloud.listing(answering(403), FIRST)
    with closed_port() as closed:
        entry = cloud.entry()
        auth = {**entry["auth"], "auth_url": f"http://127.0.0.1:{closed.getsockname()[1]}/v3"}
        cloud.write(None, down={**entry, "auth": auth})
        config_file = cloud.configure(clouds=[{"name": "sim", "cloud": "simulator"}, {"name": "off", "cloud": "down"}])
        done = await run("once", "--config.file", config_file)
    assert done.status == 1
    page = Samples.of(done.stdout)
    assert page.value("heat_up", project=FIRST) == 0
    assert page.value("heat_refresh_failures_total", project=FIRST, reason="forbidden") == 1
    assert page.value(DEPLOYMENTS, cloud="sim", project=SECOND, status="COMPLETE", action="CREATE") == 1
    assert page.value("heat_discovery_up", cloud="off") == 0
    assert page.value("heat_discovery_failures_total", cloud="off", api="identity", reason="connect") == 1
    assert f"project {FIRST!r}" in done.stderr
    assert "forbidden: " in done.stderr
    assert "cloud 'off': connect: " in done.stderr
    assert "Traceback" not in done.stderr


async def test_once_fails_when_one_project_does(cloud: Cloud, config_file: Path):
    """One project that fails is enough for exit status 1."""
    cloud.listing(answering(500), SECOND)
    done = await run("once", "--config.file", config_file)
    assert done.status == 1
    assert Samples.of(done.stdout).cells("heat_up", "project") == {FIRST: 1}


BAD_CONFIG = """
colour: red
refresh: {intervall: 1m, interval: 0}
limits: {servers: many, concurrency: 0}
clouds: [{cloud: x, refresh: {interval: soon}, projects: 5}]
"""
COMPLAINTS = (
    "colour: unknown key; expected one of refresh, limits, ",
    "refresh.intervall: unknown key; did you mean refresh.interval?",
    "refresh.interval: ",
    "limits.servers: expected",
    "limits.concurrency: ",
    "clouds[0].refresh.interval: expected a duration",
    "clouds[0].projects: expected discover, current, or a list",
)
COMMANDS = (("serve", "--web.listen-address", "127.0.0.1:0"), ("check",))


async def test_a_bad_configuration_is_refused(cloud: Cloud, config_file: Path):
    """Exit status 2; for each mistake the file, the key's path and what was expected on stderr; nothing is asked."""
    cloud.put("exporter.yaml", BAD_CONFIG)
    for done in await asyncio.gather(*(run(*args, "--config.file", config_file) for args in COMMANDS)):
        assert (done.status, done.stdout) == (2, "")
        for complaint in COMPLAINTS:
            assert f"{config_file}: {complaint}" in done.stderr
        assert "Traceback" not in done.stderr
    assert len(cloud.requests) == 0


async def test_a_configuration_that_is_not_there_is_named(cloud: Cloud):
    """Exit status 2 and the file's name where it can't be read."""
    missing = cloud.folder / "missing.yaml"
    done = await run("check", "--config.file", missing)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{missing}: can't be read: ")


async def test_every_command_refuses_an_unknown_cloud(cloud: Cloud, config_file: Path):
    """Exit status 2 and the entry's name where clouds.yaml has no such entry."""
    cloud.configure(clouds=[{"name": "sim", "cloud": "nowhere"}])
    for done in await asyncio.gather(*(run(*args, "--config.file", config_file) for args in COMMANDS)):
        assert (done.status, done.stdout) == (2, "")
        assert "nowhere" in done.stderr
        assert "Traceback" not in done.stderr


async def test_once_output_file_is_renamed_into_place(cloud: Cloud, config_file: Path):
    """`--output-file` is a new file in the old one's place, whole, readable for others, and nothing beside it.

    Where it can't be written, the message says so and the exit status is 2.
    """
    folder = cloud.folder / "textfile"
    folder.mkdir()
    target, nowhere = folder / "heat.prom", cloud.folder / "no" / "heat.prom"
    target.write_text("old\n")
    with target.open() as old:
        mask = os.umask(0o077)
        try:
            calls = [run("once", "--config.file", config_file, "--output-file", each) for each in (target, nowhere)]
            done, failed = await asyncio.gather(*calls)
        finally:
            os.umask(mask)
        assert done.status == 0, done.stderr
        assert old.read() == "old\n"
        assert os.fstat(old.fileno()).st_ino != target.stat().st_ino
    assert done.stdout == ""
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert list(folder.iterdir()) == [target]
    assert Samples.of(target.read_text()).value("heat_up", project=FIRST) == 1
    assert (failed.status, failed.stdout) == (2, "")
    assert f"--output-file: {nowhere}: can't be written: " in failed.stderr
    assert "Traceback" not in failed.stderr


# -- check


async def test_check_prints_what_would_be_scraped(cloud: Cloud, config_file: Path):
    """`check` exits 0 with a table of the projects, prints no metrics, and listens nowhere."""
    done = await run("check", "--config.file", config_file)
    assert done.status == 0, done.stderr
    assert table(done.stdout).keys() == {FIRST, SECOND}
    assert "heat_up" not in done.stdout


async def test_check_says_what_is_wrong(cloud: Cloud):
    """`check` exits 1 and names each project that is refused and each cloud whose credentials are, with the reason."""
    cloud.listing(answering(403), SECOND)
    entry = cloud.entry()
    cloud.write(None, locked={**entry, "auth": {**entry["auth"], "password": "wrong-4711"}})
    config_file = cloud.configure(clouds=[{"name": "sim", "cloud": "simulator"}, {"cloud": "locked"}])
    done = await run("check", "--config.file", config_file)
    assert done.status == 1
    assert table(done.stdout).keys() == {FIRST, SECOND}
    assert f"project {SECOND!r}" in done.stderr
    assert "forbidden: " in done.stderr
    assert "cloud 'locked': auth: " in done.stderr
    assert "wrong-4711" not in done.stderr


async def test_an_administrator_s_token_is_told_with_the_table(cloud: Cloud):
    """Whoever keeps `check`'s table, or `once`'s on stderr, has below it that a token is an admin's; JSON has it as a
    key. Nothing of it is among the metrics of `once`, and the status is that of success."""
    for name in (FIRST, SECOND):
        cloud.deploy(project=name)
    cloud.write(cloud.entry(user="admin"))
    config_file = cloud.configure()
    checked, once, told = await asyncio.gather(
        run("check", "--config.file", config_file, *QUIET),
        run("once", "--config.file", config_file, *QUIET),
        run("check", "--config.file", config_file, "--output", "json", *QUIET),
    )
    assert (checked.status, once.status, told.status) == (0, 0, 0)
    assert (checked.stderr, told.stderr) == ("", "")
    for shown in (checked.stdout, once.stderr):
        *_, last = shown.splitlines()
        assert table(shown).keys() == {"admin"}
        assert last.startswith("cloud 'sim': An administrator's token is in use, ")
        assert "a user with the role reader" in last
    assert Samples.of(once.stdout).value("heat_cloud_admin_token", cloud="sim") == 1
    assert "role reader" not in once.stdout
    assert [each["admin_token"] for each in json.loads(told.stdout)["clouds"]] == [True]


# -- JSON for programs


async def test_check_as_json(cloud: Cloud):
    """`check --output json` prints one line on stdout and nothing on stderr: every cloud and project, in this shape."""
    cloud.deploy(status="FAILED")
    cloud.deploy(status="IN_PROGRESS", age=7200)
    entry = cloud.entry()
    cloud.write(None, locked={**entry, "auth": {**entry["auth"], "password": "wrong-4711"}})
    cloud.listing(answering(403), SECOND)
    clouds = [{"name": "sim", "cloud": "simulator"}, {"cloud": "locked"}]
    done = await run("check", "--config.file", cloud.configure(clouds=clouds), "--output", "json", *QUIET)
    assert done.status == 1
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
    told = json.loads(done.stdout)
    assert told.keys() == {"ok", "complaints", "clouds", "projects"}
    assert told["ok"] is False
    assert len(told["complaints"]) == 2
    sim, locked = told["clouds"]
    assert sim == {"cloud": "sim", "discovery": "found", "error": None, "admin_token": False, "projects": 2}
    assert locked.pop("error").startswith("auth: ")
    assert locked == {"cloud": "locked", "discovery": "failed", "admin_token": False, "projects": 0}
    second, first = told["projects"]  # by name
    assert first.pop("asked_at") > 1_600_000_000
    assert first.pop("response_bytes") > 100
    assert first.pop("duration_seconds") > 0
    assert first == {
        "cloud": "sim", "project_id": cloud.project(FIRST).id, "project": FIRST, "state": "fresh",
        "deployments": 3, "failed": 1, "stuck": 1, "in_progress": 1, "error": None,
    }  # fmt: skip
    assert second.pop("error").startswith("forbidden: ")
    assert second.pop("duration_seconds") > 0
    assert second == {
        "cloud": "sim", "project_id": cloud.project(SECOND).id, "project": SECOND, "state": "stale", "asked_at": None,
        "deployments": None, "failed": None, "stuck": None, "in_progress": None, "response_bytes": None,
    }  # fmt: skip


async def test_once_as_json(cloud: Cloud, config_file: Path):
    """As JSON, `once` has its summary on stderr while stdout is the exposition's, and on stdout where a file is."""
    target = cloud.folder / "heat.prom"
    cloud.monkeypatch.setenv("HEAT_DEPLOYMENT_EXPORTER_OUTPUT", "json")
    plain, filed = await asyncio.gather(
        run("once", "--config.file", config_file, *QUIET),
        run("once", "--config.file", config_file, "--output-file", target, *QUIET),
    )
    for done, summary in ((plain, plain.stderr), (filed, filed.stdout)):
        assert done.status == 0
        assert len(summary.splitlines()) == 1
        told = json.loads(summary)
        assert (told["ok"], told["complaints"]) == (True, [])
        assert [each["project"] for each in told["projects"]] == [SECOND, FIRST]
    assert filed.stderr == ""
    for exposition in (plain.stdout, target.read_text()):
        assert Samples.of(exposition).value("heat_up", project=FIRST) == 1


async def test_json_where_there_is_nothing_to_tell_of(cloud: Cloud, config_file: Path):
    """Without any project the JSON says so; of a configuration that is refused there is none, only the message."""
    cloud.world.add_user("nobody", "secret")
    auth = {"auth_url": cloud.simulator.auth_url, "username": "nobody", "password": "secret"}
    cloud.write({**cloud.entry(), "auth": {**auth, "user_domain_id": "default"}})
    empty = await run("check", "--config.file", config_file, "--output", "json", *QUIET)
    assert empty.status == 1
    told = json.loads(empty.stdout)
    assert (told["ok"], told["projects"], told["complaints"]) == (False, [], ["there is no project to watch"])
    cloud.configure(nonsense=1)
    refused = await run("check", "--config.file", config_file, "--output", "json")
    assert (refused.status, refused.stdout) == (2, "")
    assert "nonsense" in refused.stderr


# -- simulate and demo


async def test_simulate_prints_a_usable_clouds_yaml(cloud: Cloud, config_file: Path):
    """What `simulate` prints is a clouds.yaml with which `once` works; SIGTERM ends it with status 0."""
    options = ("--projects", 2, "--servers", 3, "--deployments", 12, "--output-style", "nested", "--churn", 0)
    async with started("simulate", *options) as simulator:
        await simulator.said("Simulating a cloud on http://127.0.0.1:")
        entries = "\n".join(
            await eventually(lambda: "" in simulator.output and simulator.output, "a whole clouds.yaml")
        )
        assert yaml.safe_load(entries)["clouds"].keys() == {"simulator"}
        (cloud.folder / "clouds.yaml").write_text(entries)
        done = await run("once", "--config.file", config_file)
        assert done.status == 0, done.stderr
        assert Samples.of(done.stdout).total(DEPLOYMENTS) == 12
        assert await simulator.stopped(signal.SIGTERM) == 0
    assert not simulator.lines[1:]


async def test_demo_answers_and_moves(cloud: Cloud):
    """`demo` serves on the port it is given, whatever cloud the environment names, and its numbers change."""
    cloud.monkeypatch.setenv("OS_CLOUD", "nowhere")
    cloud.monkeypatch.setenv("OS_AUTH_URL", "http://192.0.2.1/v3")
    # With this seed two projects have their place early in the interval, so that there is less to wait for.
    arguments = ("demo", "--web.listen-address", "127.0.0.1:0", "--seed", 5)
    async with started(*arguments) as demo, harness.scraper() as session:
        exporter = harness.Exporter(f"http://127.0.0.1:{await demo.port()}", session)
        first = await exporter.when(lambda page: page.total("heat_up") >= 4)
        assert first.total(DEPLOYMENTS) > 100
        shown = first.select(DEPLOYMENTS)
        later = await exporter.when(lambda page: page.select(DEPLOYMENTS) != shown)
        assert later.total("heat_up") == 4
        assert await demo.stopped(signal.SIGINT) == 0
    assert not [line for line in demo.lines if "level=error" in line or "Traceback" in line]
    assert len(cloud.requests) == 0


# -- flags


async def test_a_bare_call_serves(cloud: Cloud, config_file: Path):
    """Without a command the exporter serves; every flag is an environment variable too. Logs as JSON can be parsed."""
    cloud.monkeypatch.setenv("HEAT_DEPLOYMENT_EXPORTER_CONFIG_FILE", str(config_file))
    cloud.monkeypatch.setenv("HEAT_DEPLOYMENT_EXPORTER_WEB_LISTEN_ADDRESS", "127.0.0.1:0")
    cloud.monkeypatch.setenv("HEAT_DEPLOYMENT_EXPORTER_WEB_TELEMETRY_PATH", "/own")
    cloud.monkeypatch.setenv("HEAT_DEPLOYMENT_EXPORTER_LOG_FORMAT", "json")
    cloud.monkeypatch.setenv("HEAT_DEPLOYMENT_EXPORTER_LOG_LEVEL", "debug")
    cloud.listing(answering(500), cloud.add_project(HOSTILE).name)
    async with started() as process, harness.scraper() as session:
        port = json.loads(await process.said("listening"))["ports"]
        exporter = harness.Exporter(f"http://127.0.0.1:{port}", session)
        assert (await exporter.get("/metrics")).status == 404
        await process.said("refresh failed")
        page = Samples.of((await exporter.get("/own")).text)
        assert page.value("heat_exporter_build_info", version=__version__) == 1
        assert await process.stopped(signal.SIGTERM) == 0
    readable([json.loads(line) for line in process.lines], HOSTILE)


async def test_a_port_in_use_is_named(cloud: Cloud, config_file: Path):
    """Where the address is taken, the program says which and why, and ends; it does not go on without a page."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = await run("serve", "--config.file", config_file, "--web.listen-address", address)
    assert (done.status, done.stdout) == (2, "")
    assert f"can't listen on {address}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert len(cloud.requests) == 0


async def test_no_configuration_file_is_needed(cloud: Cloud):
    """With `OS_CLOUD` and a clouds.yaml in the working directory, `once` watches that cloud under its entry's name."""
    cloud.monkeypatch.delenv("OS_CLIENT_CONFIG_FILE")
    cloud.monkeypatch.setenv("OS_CLOUD", "simulator")
    done = await run("once")
    assert done.status == 0, done.stderr
    assert Samples.of(done.stdout).value("heat_up", cloud="simulator", project=FIRST) == 1


WRONG_CALLS = (
    ("--no.such-flag",),
    ("serve", "--log.level", "loud"),
    ("serve", "--web.listen-address", "127.0.0.1:99999"),
)


async def test_version_and_wrong_calls(cloud: Cloud):
    """`--version` tells it on stdout; what can't be meant ends with status 2 and a message that names it."""
    cloud.monkeypatch.setenv("OS_CLOUD", "simulator")
    version, *results = await asyncio.gather(*(run(*args) for args in (("--version",), *WRONG_CALLS)))
    assert version == (0, f"heat-deployment-exporter {__version__}\n", "")
    for args, done in zip(WRONG_CALLS, results, strict=True):
        assert (done.status, done.stdout) == (2, ""), args
        assert args[-1] in done.stderr
        assert "Traceback" not in done.stderr
    assert len(cloud.requests) == 0


# -- ending


async def test_sigterm_ends_serve_in_the_middle_of_refreshes(cloud: Cloud):
    """SIGTERM ends `serve` with status 0 while Heat is silent, with a client still connected."""
    hold = Hold()
    cloud.listing(hold, FIRST)
    async with serving("--config.file", cloud.configure(refresh=PATIENT)) as (process, exporter):
        assert (await exporter.get("/-/ready")).status == 503
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        await exporter.when(lambda page: page.get("heat_up", project=SECOND) == 1)
        assert await process.stopped(signal.SIGTERM) == 0
    assert not [line for line in process.lines if "Traceback" in line or "level=error" in line]


async def test_sigint_ends_serve_while_keystone_hangs(cloud: Cloud):
    """A call that blocks in Keystone's client holds up nobody: SIGINT ends `serve` with status 0."""
    hold = Hold()
    cloud.authentication(hold)
    async with serving("--config.file", cloud.configure(refresh=PATIENT)) as (process, exporter):
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        assert (await exporter.get("/-/healthy")).status == 200
        assert await process.stopped(signal.SIGINT) == 0
    assert not [line for line in process.lines if "Traceback" in line or "level=error" in line]


async def test_an_interrupted_once_ends(cloud: Cloud):
    """Ctrl-C ends `once` in the middle of a listing with status 130, without a traceback or half a page."""
    hold = Hold()
    cloud.listing(hold, FIRST)
    async with started("once", "--config.file", cloud.configure(refresh=PATIENT)) as process:
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        assert await process.stopped(signal.SIGINT) == 130
    assert process.output == []
    assert "Traceback" not in "\n".join(process.lines)


# -- logs


def logfmt(line: str) -> dict[str, str]:
    """A logfmt line as any reader of the format takes it: key=value, values quoted where they need it."""
    pairs = re.findall(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^ "=]*)(?: |$)', line)
    assert " ".join(f"{key}={value}" for key, value in pairs) == line, line
    return {key: json.loads(value) if value.startswith('"') else value for key, value in pairs}


HOSTILE = 'a "quoted" name\nts=1 level=info event=forged \\ = 雪'


def readable(events: list[dict[str, str]], project: str) -> None:
    """Check what every log of a run with a failing project has, in any format."""
    assert {"listening", "refresh failed", "stopping"} <= {event["event"] for event in events}
    assert "forged" not in {event["event"] for event in events}
    assert all(event["level"] in ("debug", "info", "warning", "error") and event["ts"] for event in events)
    failed = next(event for event in events if event["event"] == "refresh failed")
    assert failed["project"].replace("\\n", "\n") == project
    assert failed["reason"] == "server_error"


async def test_logs_as_logfmt_can_be_parsed(cloud: Cloud, config_file: Path):
    """Each line on stderr is one event with a time and a level, whatever names and messages a cloud sends.

    A call that begins with a flag serves, on each address that is given, and a flag beats its environment variable.
    """
    cloud.monkeypatch.setenv("HEAT_DEPLOYMENT_EXPORTER_CONFIG_FILE", "/nowhere.yaml")
    cloud.listing(answering(500), cloud.add_project(HOSTILE).name)
    flags = ("--config.file", config_file, "--log.level", "debug")
    addresses = ("--web.listen-address", "127.0.0.1:0", "--web.listen-address", "127.0.0.2:0")
    async with started(*flags, *addresses) as process, harness.scraper() as session:
        ports = logfmt(await process.said("event=listening"))["ports"].split(",")
        for host, port in zip(("127.0.0.1", "127.0.0.2"), ports, strict=True):
            assert (await harness.Exporter(f"http://{host}:{port}", session).get("/-/healthy")).status == 200
        await process.said("refresh failed")
        assert await process.stopped(signal.SIGTERM) == 0
    readable([logfmt(line) for line in process.lines], HOSTILE)


async def test_logs_are_quiet_at_warning(cloud: Cloud, config_file: Path):
    """At level `warning` an exporter that works and is ended says nothing."""
    args = ("--config.file", config_file, "--log.level", "warning", "--web.listen-address", "127.0.0.1:0")
    async with started("serve", *args) as process:
        await eventually(lambda: cloud.asked(FIRST, status=200) >= 3 and cloud.asked(SECOND, status=200) >= 3)
        assert await process.stopped(signal.SIGINT) == 0
    assert process.lines == []


# -- terminals


async def test_progress_on_a_terminal(cloud: Cloud, config_file: Path):
    """On a terminal `once` shows how many projects are done while it waits; stdout stays pure exposition."""
    hold = Hold()
    cloud.listing(hold, FIRST)
    cloud.monkeypatch.setenv("TERM", "xterm-256color")
    master, slave = os.openpty()
    seen = bytearray()
    loop = asyncio.get_running_loop()

    def read() -> None:
        with suppress(OSError):  # EIO: the other end is closed
            seen.extend(os.read(master, 65536))

    loop.add_reader(master, read)
    try:
        command = harness.command_line("once", "--config.file", config_file)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=slave
        )
        try:
            await eventually(lambda: b"1/2" in seen, f"{shlex.join(command)} shows progress")
            hold.released.set()
            stdout, _ = await asyncio.wait_for(process.communicate(), harness.DEADLINE)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    finally:
        loop.remove_reader(master)
        os.close(slave)
        os.close(master)
    assert process.returncode == 0
    assert Samples.of(stdout.decode()).value("heat_up", project=FIRST) == 1
    assert b"\x1b" not in stdout
