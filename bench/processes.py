"""Processes that are measured from outside: their memory, their CPU, and how long their answers take."""

from __future__ import annotations

import http.client
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def resident(pid: int | str = "self") -> int:
    """Bytes of memory that a process has now."""
    return _status(pid, "VmRSS")


def peak(pid: int | str = "self") -> int:
    """The most that it ever had. Unlike `ru_maxrss`, without what the process that started it had."""
    return _status(pid, "VmHWM")


def _status(pid: int | str, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def cpu(pid: int | str) -> float:
    """Seconds of CPU that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def beside(cloud: Sequence[str]) -> Iterator[dict[str, str]]:
    """The environment of a process beside a cloud: a command that prints its clouds.yaml, and then a line `---`."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        process = subprocess.Popen(cloud, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while (line := process.stdout.readline()) not in ("---\n", ""):
                lines.append(line)
            path = Path(folder) / "clouds.yaml"
            path.write_text("".join(lines))
            yield os.environ | {"OS_CLIENT_CONFIG_FILE": str(path)}
        finally:
            process.terminate()
            process.wait(10)


class Scraper:
    """One connection that is kept open, as Prometheus keeps one, and how long each answer took."""

    def __init__(self, port: int, *, compressed: bool = False, openmetrics: bool = False) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Accept-Encoding": "gzip" if compressed else "identity"}
        if openmetrics:
            self._headers["Accept"] = "application/openmetrics-text;version=1.0.0"
        self.times: list[float] = []

    def scrape(self, path: str = "/metrics") -> bytes:
        """One answer's body."""
        began = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        self.times.append(time.perf_counter() - began)
        assert answer.status == 200, answer.status
        return body

    @property
    def p99(self) -> float:
        """The time within which 99 of 100 answers came, in seconds."""
        return sorted(self.times)[int(len(self.times) * 0.99)]


def until(condition: Callable[[], bool], seconds: float = 120.0, *, pause: float = 0.02) -> None:
    """Wait for it, asking after each pause; AssertionError where it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(pause)
