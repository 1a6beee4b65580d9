"""Serving a page of many series, beside nginx with the same bytes as files and a pushgateway with the same series."""

from __future__ import annotations

import asyncio
import gzip
import re
import socketserver
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import peers
from bench.processes import Scraper, resident
from bench.render import BASE, FAMILY, snapshot
from bench.table import Row
from exporter.metrics.gzip_members import gzip_member, piece
from exporter.metrics.text_format import CONTENT_TYPES, render

OURS, NGINX, PUSHGATEWAY, EMPTY, BARE = 19191, 19192, 19193, 19198, 19200
SECONDS = 4
SCRAPES = 5
SERVE = (sys.executable, "-m", "bench.serving")


def page(series: int) -> bytes:
    """The lines of so many series."""
    block = render(FAMILY, BASE, snapshot(series))
    assert block is not None
    return block.text[0]


async def _serve(series: int, port: int) -> None:
    """Our web server with a fleet whose page has just these series, for ever."""
    from exporter.cli.serve import Address, listening
    from exporter.collector.collector import Collector
    from exporter.config.schema import parse
    from exporter.web.app import Server

    fleet = Collector(parse("clouds: [{name: bench}]", source="bench"))
    if (block := render(FAMILY, BASE, snapshot(series))) is not None:
        fleet.page.put(("bench",), {FAMILY.name: block})
    async with listening(Server(fleet), [Address("127.0.0.1", port)]):
        await asyncio.Event().wait()


class _Bare(socketserver.StreamRequestHandler):
    """Answers whatever is asked with the same bytes: as fast as a socket takes them, with no work at all."""

    answer = b""

    def handle(self) -> None:
        """All requests of one connection."""
        while True:
            line = b"-"
            while line.strip():
                line = self.rfile.readline()
            if not line:
                return
            self.connection.sendall(self.answer)


def _bare(series: int, port: int) -> None:
    body = page(series)
    _Bare.answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", port), _Bare) as server:
        server.daemon_threads = True
        server.serve_forever()


@contextmanager
def running(*command: str, url: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A server that ends with the block, once it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    sys.exit(f"{command[0]} does not answer")
                time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(10)


def _requests_per_second(url: str, *, compressed: bool, seconds: int = SECONDS) -> float:
    wrk = peers.path("wrk")
    assert wrk is not None
    headers = ["-H", "Accept-Encoding: gzip"] if compressed else []
    command = [wrk, "-t1", "-c4", f"-d{seconds}s", "--timeout", "30s", *headers, url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert found is not None, text
    assert "Non-2xx" not in text, text
    return float(found[1])


NGINX_CONF = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; sendfile on; default_type "text/plain";
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root {folder}; location / {{ gzip_static on; }} }}
}}
"""


def rows(series: int) -> Iterator[Row]:
    """Requests a second, plain and gzip."""
    plain = page(series)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        folder.chmod(0o755)
        (folder / "metrics").write_bytes(plain)
        (folder / "metrics.gz").write_bytes(gzip_member(piece(plain).deflated))
        assert gzip.decompress((folder / "metrics.gz").read_bytes()) == plain
        (folder / "nginx.conf").write_text(NGINX_CONF.format(folder=folder, port=NGINX))
        ours, nginx = f"http://127.0.0.1:{OURS}/metrics", f"http://127.0.0.1:{NGINX}/metrics"
        stack.enter_context(running(*SERVE, str(series), str(OURS), url=ours))
        stack.enter_context(running(str(peers.path("nginx")), "-c", str(folder / "nginx.conf"), url=nginx))
        found: dict[bool, float] = {}
        for compressed in (False, True):
            mine, theirs = (_requests_per_second(url, compressed=compressed) for url in (ours, nginx))
            found[compressed] = mine
            yield Row(
                what=f"serve {len(plain) / 1e6:.0f} MB of {series:,} series, {_way(compressed)}",
                ours=mine,
                theirs=theirs,
                unit="requests/s",
                peer="nginx, the same files",
                ratio=mine / theirs,
                target=1.0,
                note="what is not sending is aiohttp's work on a request, and `process_*`, read for each scrape",
            )
        yield _by_prometheus(series)
        bare = f"http://127.0.0.1:{BARE}/"
        stack.enter_context(running(*SERVE, str(series), str(BARE), "bare", url=bare))
        most = _requests_per_second(bare, compressed=False)
    yield Row(
        what=f"serve {len(plain) / 1e6:.0f} MB of {series:,} series, plain",
        ours=found[False],
        theirs=most,
        unit="requests/s",
        peer="a bare socket, the same bytes",
        ratio=found[False] / most,
    )
    gateway = f"http://127.0.0.1:{PUSHGATEWAY}"
    with running(
        str(peers.path("prometheus-pushgateway")), f"--web.listen-address=127.0.0.1:{PUSHGATEWAY}", url=gateway
    ):
        header = f"# TYPE {FAMILY.name} gauge\n".encode()
        push = urllib.request.Request(
            f"{gateway}/metrics/job/bench",
            data=header + plain,
            method="PUT",
            headers={"Content-Type": CONTENT_TYPES["text"]},
        )
        urllib.request.urlopen(push, timeout=120).close()
        for compressed, mine in found.items():
            theirs = _requests_per_second(f"{gateway}/metrics", compressed=compressed, seconds=2 * SECONDS)
            theirs = max(theirs, 1 / (2 * SECONDS))
            yield Row(
                what=f"serve {series:,} series, {_way(compressed)}",
                ours=mine,
                theirs=theirs,
                unit="requests/s",
                peer="pushgateway",
                ratio=mine / theirs,
                target=100,
                note=f"a bare socket sends the same bytes {most:.0f} times a second, ours {mine:.0f} times",
            )


def _way(compressed: bool) -> str:
    return "gzip" if compressed else "plain"


def _by_prometheus(series: int) -> Row:
    """How long a Prometheus takes to scrape ours, and nginx's files."""
    from tests.programs.prometheus import Prometheus

    ports = {"ours": OURS, "nginx": NGINX}
    jobs = [{"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for name, port in ports.items()]
    with Prometheus(jobs, interval="2s") as prometheus:
        enough = f"count_over_time(scrape_duration_seconds[5m]) >= {SCRAPES}"
        prometheus.wait_until(enough, lambda found: len(found) == len(jobs), timeout=120)
        assert all(each.value == 1 for each in prometheus.query("min_over_time(up[5m])"))
        assert all(each.value >= series for each in prometheus.query("scrape_samples_scraped"))
        found = prometheus.query("quantile_over_time(0.5, scrape_duration_seconds[5m])")
    seconds = {each.labels["job"]: each.value for each in found}
    return Row(
        what=f"a Prometheus's scrape of {series:,} series, median of {SCRAPES}",
        ours=seconds["ours"] * 1e3,
        theirs=seconds["nginx"] * 1e3,
        unit="ms",
        peer="nginx, the same files",
        ratio=seconds["ours"] / seconds["nginx"],
        limit=True,
    )


def scraped_in_every_way(port: int) -> bytes:
    """The plain page, after scrapes in both formats, plain and compressed."""
    for compressed in (True, False):
        for openmetrics in (True, False):
            scraper = Scraper(port, compressed=compressed, openmetrics=openmetrics)
            for _ in range(3):
                page = scraper.scrape()
    return page


def memory(series: int) -> Row:
    """What so many series take of memory, scraped in both formats, plain and compressed."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(running(*SERVE, str(size), str(port), url=f"http://127.0.0.1:{port}/metrics"))
            for size, port in ((series, OURS), (0, EMPTY))
        ]
        for port in (OURS, EMPTY):
            scraped_in_every_way(port)
        full, empty = (resident(process.pid) for process in processes)
    size = len(page(series))
    return Row(
        what=f"memory of {series:,} series, scraped in every way",
        ours=(full - empty) / 1e6,
        theirs=size / 1e6,
        unit="MB",
        peer="the plain page's bytes",
        ratio=(full - empty) / size,
        target=4,
        limit=True,
    )


if __name__ == "__main__":
    if sys.argv[3:] == ["bare"]:
        _bare(*map(int, sys.argv[1:3]))
    else:
        asyncio.run(_serve(*map(int, sys.argv[1:3])))
