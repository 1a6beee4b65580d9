"""The exporter beside a real Heat: what the same listing costs both."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from bench.decode import WHOLE
from bench.listings import SHARES
from bench.processes import cpu, until
from bench.serving import running
from bench.table import Row
from tests.programs.available import PROGRAMS
from tests.programs.openstack import OpenStack

PORT = 19199

REFRESHES = 5


def missing() -> bool:
    """Whether there is no real Keystone and Heat here."""
    return bool(PROGRAMS["openstack"].missing)


def rows(deployments: int) -> list[Row]:
    """CPU of the exporter for one refresh, against the time that Heat takes for the listing."""
    with OpenStack() as cloud, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        project = cloud.create_project("bench")
        user = cloud.create_user("bench", "correct horse")
        cloud.grant(user, project)
        cloud.insert_deployments(project, deployments, output_bytes=1500, row=_row)
        clouds, config = Path(folder) / "clouds.yaml", Path(folder) / "config.yaml"
        clouds.write_text(cloud.clouds_yaml(user, "correct horse", project, name="bench"))
        entry = {"cloud": "bench", "projects": "current", "refresh": {"interval": "1s", "share": 1}}
        config.write_text(json.dumps({"names": False, "clouds": [entry]}))
        environment = os.environ | {"OS_CLIENT_CONFIG_FILE": str(clouds)}
        url = f"http://127.0.0.1:{PORT}/metrics"
        command = [
            sys.executable,
            "-m",
            "exporter",
            f"--config.file={config}",
            f"--web.listen-address=127.0.0.1:{PORT}",
        ]

        def refreshed() -> int:
            return _number(url, "heat_refreshes_total")

        with running(*command, "--log.level=error", url=url, env=environment) as process:
            until(lambda: refreshed() >= 1)
            before, taken = refreshed(), cpu(process.pid)
            until(lambda: refreshed() >= before + REFRESHES, 300, pause=3.0)
            each = (cpu(process.pid) - taken) / (refreshed() - before)
            assert _number(url, "heat_software_deployments") == deployments
        token = cloud.token(user, "correct horse", project)
        address = f"{cloud.heat_url}/{project}/software_deployments"
        alone = [asyncio.run(_alone(address, token)) for _ in range(REFRESHES)]
    theirs, reading, decoding = (median(figures) for figures in zip(*alone, strict=True))
    return [
        Row(
            what=f"CPU of a refresh of {deployments:,} deployments",
            ours=each,
            theirs=theirs,
            unit="s",
            peer="a real Heat's time for the same listing",
            ratio=each / theirs,
            target=0.03,
            limit=True,
            note=f"to read these bytes with aiohttp takes {reading * 1e3:.0f} ms by itself, to decode them with msgspec"
            f" {decoding * 1e3:.0f} ms, and Heat is quick here: {theirs:.2f} s",
        )
    ]


def _row(number: int) -> dict[str, Any]:
    """What the n-th deployment is like: as in the other listings here."""
    chance = random.Random(number)
    created = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=chance.randrange(60, 30 * 86400))
    statuses, weights = zip(*SHARES, strict=True)
    return {
        "status": chance.choices(statuses, weights)[0],
        "creation_time": created,
        "updated_time": created + timedelta(seconds=chance.randrange(1, 60)),
    }


async def _alone(url: str, token: str) -> tuple[float, float, float]:
    """How long the listing takes to come, and the CPU of reading it and of decoding it, with nothing else done."""
    parts: list[bytes] = []
    async with aiohttp.ClientSession() as client:
        began, used = time.monotonic(), time.process_time()
        async with client.get(url, headers={"X-Auth-Token": token}) as answer:
            while part := await answer.content.readany():
                parts.append(part)
        lasted, reading = time.monotonic() - began, time.process_time() - used
    body = b"".join(parts)
    used = time.process_time()
    WHOLE.decode(body)
    return lasted, reading, time.process_time() - used


def _number(url: str, family: str) -> int:
    with urllib.request.urlopen(f"{url}?name[]={family}", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return round(sum(float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")))
