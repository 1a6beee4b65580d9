"""The README's picture of the landing page, taken of the demo: `python -m docs.screenshot` makes it anew.

Needs Chromium, and what the tests need.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.programs.available import PROGRAMS
from tests.programs.chromium import ARGUMENTS

TARGET = Path(__file__).parent / "images" / "landing.png"
SIZE = {"width": 1280, "height": 640}
SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


def main() -> None:
    """Start the demo on a free port, wait until every project was asked, and take the picture."""
    command = [sys.executable, "-m", "exporter", "demo", "--web.listen-address", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as demo:
        try:
            picture = taken(f"http://127.0.0.1:{port_of(demo)}/")
        finally:
            demo.terminate()
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(packed(picture))
    sys.stdout.write(f"{TARGET}: {TARGET.stat().st_size / 1000:.0f} kB\n")


def port_of(demo: subprocess.Popen[str]) -> int:
    """Where the demo listens, by its log."""
    assert demo.stderr is not None
    for line in demo.stderr:
        if found := re.search(r"ports=(\d+)", line):
            return int(found[1])
    sys.exit("the demo has ended")


def taken(url: str) -> bytes:
    """A picture of the page, as a PNG."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=PROGRAMS["chromium"].files[0], args=[*ARGUMENTS, "--font-render-hinting=none"]
        )
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(url)
        wait(page)
        picture = page.screenshot()
        browser.close()
    return picture


def wait(page: Page) -> None:
    """Return once every project is fresh."""
    expect(page.locator("#projects tbody tr[data-state=fresh]")).to_have_count(4, timeout=60_000)


def packed(picture: bytes) -> bytes:
    """The same PNG, compressed as well as can be."""
    chunks: list[tuple[bytes, bytes]] = []
    place = len(SIGNATURE)
    while place < len(picture):
        (length,) = struct.unpack_from(">I", picture, place)
        chunks.append((picture[place + 4 : place + 8], picture[place + 8 : place + 8 + length]))
        place += length + 12
    data = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    first = [(kind, body) for kind, body in chunks if kind in KEPT[:2]]
    return SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in (*first, (b"IDAT", zlib.compress(data, 9)), (b"IEND", b""))
    )


if __name__ == "__main__":
    main()
