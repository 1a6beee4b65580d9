"""As a service of systemd: sockets that are handed over, and what it is told."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from exporter.common.errors import ConfigError
from exporter.web.systemd import Notifier, activated
from tests import harness
from tests.harness import DEADLINE, Cloud, Exporter, eventually, run, scraper, started

cloud = harness.cloud
pytestmark = harness.sdk_warning

HAND_OVER = """
import os, sys
given = [int(each) for each in sys.argv[1].split(",")]
for number, each in enumerate(given):
    os.dup2(each, 3 + number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)), LISTEN_FDNAMES="x")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Does what systemd does before it starts a service: descriptors from 3 on, and the process that they are for."""


def handing_over(*sockets: socket.socket) -> list[str]:
    """What stands before a command that is to get these."""
    return [sys.executable, "-c", HAND_OVER, ",".join(str(each.fileno()) for each in sockets)]


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """A service manager that listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(address)
        found.setblocking(False)
        yield found


async def told(listener: socket.socket) -> dict[str, str]:
    """The next thing that the manager is told."""
    text = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(listener, 4096), DEADLINE)
    return dict(line.split("=", 1) for line in text.decode().splitlines())


async def until(listener: socket.socket, name: str) -> list[dict[str, str]]:
    """Everything that the manager is told up to this."""
    found = [await told(listener)]
    while name not in found[-1]:
        found.append(await told(listener))
    return found


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
async def test_the_manager_is_told_how_it_goes(cloud: Cloud, tmp_path: Path, abstract: bool):
    """READY once it listens, WATCHDOG again and again, RELOADING and READY around a reload, STOPPING at the end."""
    name = f"exporter-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with manager(f"\0{name}" if abstract else name) as listener:
        cloud.monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        cloud.monkeypatch.setenv("WATCHDOG_USEC", "100000")
        arguments = ("--config.file", cloud.configure(), "--web.listen-address", "127.0.0.1:0")
        async with started("serve", *arguments) as process, scraper() as session:
            first = await told(listener)
            assert first == {"READY": "1"}
            exporter = Exporter(f"http://127.0.0.1:{await process.port()}", session)
            assert (await exporter.get("/-/healthy")).status == 200
            for _ in range(3):
                assert await told(listener) == {"WATCHDOG": "1"}
            process.process.send_signal(signal.SIGHUP)
            reloading = (await until(listener, "RELOADING"))[-1]
            assert reloading["RELOADING"] == "1"
            assert reloading["MONOTONIC_USEC"].isdecimal()
            assert (await until(listener, "READY"))[-1] == {"READY": "1"}
            process.process.send_signal(signal.SIGTERM)
            assert (await until(listener, "STOPPING"))[-1] == {"STOPPING": "1"}
            assert await process.ended() == 0


async def test_what_does_not_start_is_not_ready(cloud: Cloud, tmp_path: Path):
    """A program that can't listen has told nobody that it is ready."""
    name = str(tmp_path / "notify")
    with manager(name) as listener, socket.create_server(("127.0.0.1", 0)) as taken:
        cloud.monkeypatch.setenv("NOTIFY_SOCKET", name)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = await run("serve", "--config.file", cloud.configure(), "--web.listen-address", address)
        assert done.status == 2
        assert "can't listen on" in done.stderr
        with pytest.raises(BlockingIOError):
            listener.recv(4096)


async def test_a_manager_that_is_gone_is_no_worry(cloud: Cloud, tmp_path: Path):
    """Where nobody listens any more, or the address is none, it runs all the same."""
    for address in (str(tmp_path / "nobody"), "x" * 200, "vsock:2:1234"):
        Notifier({"NOTIFY_SOCKET": address}).tell(READY=1)
    cloud.monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    async with started("serve", "--config.file", cloud.configure(), "--web.listen-address", "127.0.0.1:0") as process:
        await process.port()
        assert await process.stopped(signal.SIGTERM) == 0
    assert not [line for line in process.lines if "Traceback" in line]


async def test_the_watchdog_of_another_process_is_left_alone():
    """Without a time, or with one that is another process's, no watchdog is told anything."""
    for environment in ({}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}):
        await asyncio.wait_for(Notifier(environment).alive(), DEADLINE)


@pytest.mark.parametrize("by", ["flag", "variable"])
async def test_sockets_that_are_handed_over(cloud: Cloud, tmp_path: Path, by: str):
    """With --web.systemd-socket, or its variable, it serves the sockets that it was given, of TCP and of Unix, and no
    other address."""
    if by == "variable":
        cloud.monkeypatch.setenv("HEAT_DEPLOYMENT_EXPORTER_WEB_SYSTEMD_SOCKET", "true")
    path = str(tmp_path / "web.sock")
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.socket(socket.AF_UNIX) as second,
        socket.create_server(("127.0.0.1", 0)) as free,
    ):
        second.bind(path)
        second.listen()
        port, unused = first.getsockname()[1], free.getsockname()[1]
        free.close()
        arguments = ("--config.file", cloud.configure(), "--web.listen-address", f"127.0.0.1:{unused}")
        async with (
            started(
                "serve",
                *(["--web.systemd-socket"] if by == "flag" else []),
                *arguments,
                before=handing_over(first, second),
                pass_fds=(first.fileno(), second.fileno()),
            ) as process,
            scraper() as session,
        ):
            assert await process.port() == port
            assert (await Exporter(f"http://127.0.0.1:{port}", session).get()).status == 200
            async with (
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as local,
                local.get("http://here/-/healthy") as answer,
            ):
                assert answer.status == 200
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", unused)
            assert await process.stopped(signal.SIGTERM) == 0
        # The socket is its owner's: who connects now waits for the next start.
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()


async def test_without_sockets_it_does_not_start(cloud: Cloud):
    """Exit status 2 where --web.systemd-socket was asked for and nothing was handed over, or to another process."""
    cloud.configure()
    cloud.monkeypatch.setenv("LISTEN_FDS", "1")
    cloud.monkeypatch.setenv("LISTEN_PID", "1")
    done = await run("serve", "--web.systemd-socket")
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == "--web.systemd-socket: expected sockets from systemd (LISTEN_FDS and LISTEN_PID)\n"


async def test_what_is_no_listening_socket_is_refused(cloud: Cloud):
    """Exit status 2 where a descriptor is something else than a socket that listens."""
    cloud.configure()
    with socket.socket() as idle, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        for each in (idle, datagrams):
            async with started(
                "serve", "--web.systemd-socket", before=handing_over(each), pass_fds=(each.fileno(),)
            ) as process:
                assert await process.ended() == 2
                await eventually(lambda process=process: process.lines)
            assert process.lines == ["--web.systemd-socket: expected descriptor 3 to be a listening stream socket"]


def test_the_environment_forgets():
    """What was handed over is nobody else's afterwards."""
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "NOTIFY_SOCKET": "/x", "HOME": "/"}
    with pytest.raises(ConfigError):
        activated(environment)
    Notifier(environment)
    assert environment == {"HOME": "/"}
