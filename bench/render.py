"""Rendering a page, beside prometheus-client."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from bench.table import Row, side_by_side
from exporter.deployments.snapshot import ServerRow, Snapshot
from exporter.metrics.families import FAMILIES, SERVERS
from exporter.metrics.gzip_members import piece
from exporter.metrics.text_format import render

FAMILY = next(family for family in FAMILIES if family.name == SERVERS)
BASE = ("cloud", "4a772307f925ee1e6d4b1450294b4dc8", "web-frontend")


def snapshot(series: int) -> Snapshot:
    """A snapshot with so many series of servers."""
    return Snapshot(
        asked_at=0.0,
        servers=tuple(
            ServerRow(f"{number // 4:08x}-39b2-4a7f-8f5e-3a6c8d3f1b2a", ("COMPLETE", "FAILED")[number % 2],
                      ("CREATE", "UPDATE")[number // 2 % 2], number)
            for number in range(series)
        ),
    )  # fmt: skip


def rows(series: int, *, runs: int) -> Iterator[Row]:
    """Samples a second, ours against generate_latest of the same series."""
    found = snapshot(series)
    registry = CollectorRegistry()
    gauge = Gauge(SERVERS, FAMILY.help_text, FAMILY.all_labels, registry=registry)
    for row in found.servers:
        gauge.labels(*BASE, *row[:3]).set(row.deployments)
    block = render(FAMILY, BASE, found)
    assert block is not None
    page = block.text[0]
    assert page.count(b"\n") == series
    ours, theirs, compressing = side_by_side(
        runs, lambda: render(FAMILY, BASE, found), lambda: generate_latest(registry), lambda: piece(page)
    )
    yield Row(
        what=f"render {series:,} series",
        ours=series / ours,
        theirs=series / theirs,
        unit="samples/s",
        peer="prometheus-client",
        ratio=theirs / ours,
        target=15,
    )
    yield Row(
        what=f"compress {len(page) / 1e6:.0f} MB of them",
        ours=compressing * 1e3,
        theirs=ours * 1e3,
        unit="ms",
        peer="rendering them",
        ratio=ours / compressing,
    )
