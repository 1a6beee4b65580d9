"""From the start of the process to the first answer, beside what importing its libraries alone takes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench.table import Row

PORT = 19194
IMPORTS = "import aiohttp, prometheus_client, pydantic"


def _started(folder: Path) -> float:
    began = time.perf_counter()
    environment = os.environ | {"OS_CLIENT_CONFIG_FILE": str(folder / "clouds.yaml"), "OS_CLOUD": "nowhere"}
    command = [sys.executable, "-m", "exporter", "serve", f"--web.listen-address=127.0.0.1:{PORT}"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5).close()
                return time.perf_counter() - began
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


def rows(*, runs: int) -> Iterator[Row]:
    """Time to the first answer of /metrics, with a cloud that nobody answers for."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        auth = "{auth_url: 'http://127.0.0.1:9/v3', username: u, password: p, project_name: p, user_domain_id: default}"
        (folder / "clouds.yaml").write_text(f"clouds: {{nowhere: {{auth: {auth}}}}}\n")
        _started(folder)
        ours, theirs = zip(*((_started(folder), _imported()) for _ in range(runs)), strict=True)
    yield Row(
        what="start to the first answer of /metrics",
        ours=median(ours),
        theirs=median(theirs),
        unit="s",
        peer=f'python -c "{IMPORTS}"',
        ratio=median(ours) / median(theirs),
        target=3,
        limit=True,
    )
