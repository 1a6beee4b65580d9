"""Those who connect and behave badly: scrapes of others go on, and what they hold is taken back."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from exporter.cli.serve import Address, listening
from exporter.collector.collector import Collector
from exporter.web.app import Server
from exporter.web.listeners import Bounds
from tests import harness
from tests.harness import Cloud, Exporter, Samples, configuration, eventually, scraper

cloud = harness.cloud
pytestmark = harness.sdk_warning

SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def bounded(**bounds: float) -> AsyncIterator[Exporter]:
    """An exporter that has asked nothing, with these bounds on connections."""
    server = Server(Collector(configuration()))
    async with (
        listening(server, [Address("127.0.0.1", 0)], bounds=Bounds(**bounds)) as ports,  # type: ignore[arg-type]
        scraper() as session,
    ):
        yield Exporter(f"http://127.0.0.1:{ports[0]}", session, server=server)


async def connected(exporter: Exporter, sent: bytes = b"", *, buffer: int = 0) -> socket.socket:
    """A connection on which this was sent, and of which nothing is read."""
    client = socket.socket()
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", int(exporter.url.rpartition(":")[2])))
    await loop.sock_sendall(client, sent)
    return client


async def ended(client: socket.socket) -> bytes:
    """What is sent on a connection until its end."""
    loop, found = asyncio.get_running_loop(), b""

    async def read() -> None:
        nonlocal found
        with contextlib.suppress(ConnectionError):
            while part := await loop.sock_recv(client, 65536):
                found += part

    await asyncio.wait_for(read(), harness.DEADLINE)
    client.close()
    return found


async def test_who_asks_nothing_is_sent_away(cloud: Cloud):
    """A connection without a whole first request is ended, however slowly it sends; one that has asked stays."""
    async with bounded(asking=0.2) as exporter:
        silent = await connected(exporter)
        slow = await connected(exporter, SCRAPE[:20])
        scraping = await connected(exporter, SCRAPE)

        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    await asyncio.get_running_loop().sock_sendall(slow, b"X-A: b\r\n")
                    await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        assert await ended(silent) == b""
        await trickling
        slow.close()
        loop = asyncio.get_running_loop()
        assert (await loop.sock_recv(scraping, 65536)).startswith(b"HTTP/1.1 200")
        assert (await exporter.get()).status == 200
        scraping.close()


async def test_who_does_not_come_back_is_sent_away(cloud: Cloud):
    """A connection that waits too long for its next request is ended, one that was begun included."""
    async with bounded(idle=0.3) as exporter:
        idle, half = await connected(exporter, SCRAPE), await connected(exporter, SCRAPE + SCRAPE[:10])
        for client in (idle, half):
            assert (await ended(client)).startswith(b"HTTP/1.1 200")


def sockets() -> int:
    """How many sockets this process has open, of both sides."""
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found += str(each.readlink()).startswith("socket:")
    return found


async def test_a_reader_that_stops_reading(cloud: Cloud):
    """Who takes nothing of the answers holds up nobody, and is sent away."""
    async with bounded(stalled=0.4) as exporter:
        assert (await exporter.get()).status == 200
        before = sockets()
        stuck = [await connected(exporter, SCRAPE * 2000, buffer=4096) for _ in range(5)]
        await eventually(lambda: sockets() == before + 10)
        for _ in range(20):
            assert Samples.of((await exporter.get()).text).value("heat_exporter_build_info") == 1
        await eventually(lambda: sockets() == before + 5)
        for client in stuck:
            client.close()


async def test_past_the_room_the_idle_make_way(cloud: Cloud):
    """There are never more connections than there is room for; the one that asked nothing for longest makes way."""
    async with bounded(connections=20, asking=3600.0) as exporter:
        oldest = await connected(exporter)
        asked = await connected(exporter, SCRAPE)
        assert (await exporter.get()).status == 200
        crowd = [await connected(exporter) for _ in range(60)]
        assert await ended(oldest) == b""
        async with scraper() as session:
            assert (await Exporter(exporter.url, session).get()).status == 200
        for client in crowd[:30]:
            assert await ended(client) == b""
        for client in (*crowd[30:], asked):
            client.close()


async def test_a_thousand_idle_connections(cloud: Cloud):
    """A thousand connections that ask nothing leave /metrics as it is."""
    async with bounded() as exporter:
        crowd = [await connected(exporter) for _ in range(1000)]
        for _ in range(5):
            async with scraper() as session:
                assert (await Exporter(exporter.url, session).get()).status == 200
        for client in crowd:
            client.close()


async def test_500_scrapes_at_once(cloud: Cloud):
    """500 scrapes at once, each on a connection of its own, are all answered whole."""
    async with bounded() as exporter:
        answers = await asyncio.gather(*(exporter.get() for _ in range(500)))
        assert {each.status for each in answers} == {200}
        assert {harness.plain(each.raw) for each in answers} == {harness.plain(answers[0].raw)}


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % each for each in range(5000)) + b"\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"GET /metrics HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\0" * 5000 + b"\r\n\r\n",
    ],
    ids=["header", "address", "headers", "both lengths", "two lengths", "space", "encoding", "tls", "words", "zeros"],
)
async def test_what_is_no_request_is_refused(cloud: Cloud, sent: bytes, caplog: pytest.LogCaptureFixture):
    """Oversized headers and what could be read in two ways is 400 and the connection's end; the log has none of it."""
    with caplog.at_level(logging.INFO):
        async with bounded() as exporter:
            client = await connected(exporter)
            with contextlib.suppress(ConnectionError):
                await asyncio.get_running_loop().sock_sendall(client, sent)
            found = await ended(client)
            assert found.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 ")) or found == b""
            assert found.count(b"HTTP/1.") <= 1
            assert b"Traceback" not in found
            assert (await exporter.get()).status == 200
    assert [record for record in caplog.records if record.name.startswith("aiohttp")] == []
