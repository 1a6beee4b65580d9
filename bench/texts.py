"""Decoding responses whose deployments print plain text, JSON, lists of objects, or text of many scripts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import aiohttp
import yaml
from yarl import URL

from bench.decode import WHOLE, options, refresh
from bench.listings import NOW, PIECE, TEXTS, body
from bench.refreshing import environment, measured
from bench.table import Row, side_by_side
from exporter.deployments.aggregator import Aggregator
from exporter.openstack.decoder import ResponseDecoder

SHARE = 0.5
NESTED_SHARE = 0.3


def rows(deployments: int, *, servers: int, runs: int) -> Iterator[Row]:
    """Decode and count each text beside msgspec, which decodes the whole body and counts nothing."""
    bodies = {text: body(deployments, servers, text=text) for text in TEXTS}
    chunks = {
        text: [whole[start : start + PIECE] for start in range(0, len(whole), PIECE)] for text, whole in bodies.items()
    }
    rules = options(servers=0)
    sums = {text: refresh(each, rules).sum for text, each in chunks.items()}
    times = side_by_side(
        runs,
        *(lambda text=text: refresh(chunks[text], rules, before=sums[text]) for text in TEXTS),
        *(lambda whole=whole: _whole(whole) for whole in bodies.values()),
    )
    ours, theirs = dict(zip(TEXTS, times, strict=False)), dict(zip(TEXTS, times[len(TEXTS) :], strict=True))
    speeds = {text: len(bodies[text]) / seconds / 1e6 for text, seconds in ours.items()}
    for text, title in TEXTS.items():
        yield Row(
            what=f"decode and count {deployments:,} deployments, {title}",
            ours=speeds[text],
            theirs=len(bodies[text]) / theirs[text] / 1e6,
            unit="MB/s",
            peer="msgspec, the same fields" + ("" if bodies[text].isascii() else ", and decoding as UTF-8"),
            ratio=theirs[text] / ours[text],
            target=SHARE,
        )
    yield Row(
        what="decode and count lists of objects in `input_values`",
        ours=speeds["nested"],
        theirs=speeds["plain"],
        unit="MB/s",
        peer="plain text",
        ratio=speeds["nested"] / speeds["plain"],
        target=NESTED_SHARE,
    )
    longest = {text: median(_longest_step(chunks[text]) for _ in range(runs)) * 1e3 for text in TEXTS}
    worst = max(longest, key=lambda text: longest[text])
    yield Row(
        what="longest step of decoding and counting, any of these texts",
        ours=longest[worst],
        theirs=longest["plain"],
        unit="ms of CPU",
        peer=f"plain text (the ratio is ms, median of {runs})",
        ratio=longest[worst],
        target=5,
        limit=True,
        note=f"with {TEXTS[worst]}",
    )


def _whole(whole: bytes) -> None:
    WHOLE.decode(whole)
    if not whole.isascii():
        whole.decode()


def _longest_step(chunks: list[bytes]) -> float:
    """Seconds of CPU between two moments at which others can run."""
    fold = Aggregator(options(servers=0), asked_at=float(NOW), compact=True)
    decoder = ResponseDecoder()
    longest, before = 0.0, time.process_time()
    for chunk in chunks:
        for batch in decoder.feed(chunk):
            fold.add(batch)
            now = time.process_time()
            longest, before = max(longest, now - before), now
    return longest


def refreshes(deployments: int, servers: int, runs: int) -> Iterator[Row]:
    """A whole refresh of mixed text, beside reading and decoding the response whole, and beside plain text."""
    ours, plain, theirs = [], [], []
    for _ in range(runs):
        ours.append(measured(deployments, servers=servers, series=0, text="mixed")["cpu"])
        plain.append(measured(deployments, servers=servers, series=0)["cpu"])
        theirs.append(_alone(deployments, servers))
    what = f"CPU of a refresh of {deployments:,} deployments, mixed text"
    yield Row(
        what=what,
        ours=median(ours),
        theirs=median(theirs),
        unit="s",
        peer="reading with aiohttp and decoding whole with msgspec",
        ratio=median(theirs) / median(ours),
        target=0.6,
    )
    yield Row(
        what=what,
        ours=median(ours),
        theirs=median(plain),
        unit="s",
        peer="plain text",
        ratio=median(ours) / median(plain),
    )


def _alone(deployments: int, servers: int) -> float:
    with environment(deployments, servers, text="mixed") as variables:
        (entry,) = yaml.safe_load(Path(variables["OS_CLIENT_CONFIG_FILE"]).read_text())["clouds"].values()
        url = str(URL(entry["auth"]["auth_url"]).origin() / "heat/v1/any/software_deployments")
        command = [sys.executable, "-m", "bench.texts", url]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


async def _read_whole(url: str) -> None:
    """Read a response and decode it whole; print the seconds of CPU that this took."""
    async with aiohttp.ClientSession() as client:
        used = time.process_time()
        async with client.get(url) as response:
            _whole(await response.read())
    print(time.process_time() - used)


if __name__ == "__main__":
    asyncio.run(_read_whole(sys.argv[1]))
