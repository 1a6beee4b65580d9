"""From the start of the process to the first answer, and its memory then, beside what importing its libraries alone
takes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.processes import resident
from bench.table import Row

PORT = 19194
IMPORTS = "import aiohttp, prometheus_client, pydantic"


@contextmanager
def _nowhere() -> Iterator[dict[str, str]]:
    """The environment of an exporter whose cloud nobody answers for."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        auth = "{auth_url: 'http://127.0.0.1:9/v3', username: u, password: p, project_name: p, user_domain_id: default}"
        clouds = Path(folder) / "clouds.yaml"
        clouds.write_text(f"clouds: {{nowhere: {{auth: {auth}}}}}\n")
        yield os.environ | {"OS_CLIENT_CONFIG_FILE": str(clouds), "OS_CLOUD": "nowhere"}


def _started(environment: Mapping[str, str]) -> tuple[float, int]:
    """Seconds to the first answer, and the memory in use after it."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "exporter", "serve", f"--web.listen-address=127.0.0.1:{PORT}"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5).close()
                return time.perf_counter() - began, resident(process.pid)
            except OSError:
                if process.poll() is not None:
                    sys.exit("the exporter does not start")
                time.sleep(0.002)
    finally:
        process.terminate()
        process.wait(10)


def _imported() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - began


def _memory_imported() -> int:
    program = f"{IMPORTS}; from bench.processes import resident; print(resident())"
    return int(subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True).stdout)


def rows(*, runs: int) -> Iterator[Row]:
    """Time to the first answer of /metrics and memory when idle, with a cloud that nobody answers for."""
    with _nowhere() as environment:
        _started(environment)
        ours, theirs = zip(*((_started(environment), _imported()) for _ in range(runs)), strict=True)
    seconds, memory = (median(figures) for figures in zip(*ours, strict=True))
    peer = f'python -c "{IMPORTS}"'
    yield Row(
        what="start to the first answer of /metrics",
        ours=seconds,
        theirs=median(theirs),
        unit="s",
        peer=peer,
        ratio=seconds / median(theirs),
        target=3,
        limit=True,
    )
    imported = _memory_imported()
    yield Row(
        what="memory when idle",
        ours=memory / 1e6,
        theirs=imported / 1e6,
        unit="MB",
        peer=peer,
        ratio=memory / imported,
    )
