"""The benchmark suite: `make bench`, or `make bench-quick` in under two minutes.

Everything is measured in one run beside what a user would use instead, so that ratios mean something on any machine.
It never fails on a figure: it prints them, and writes them to bench/results.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from bench import decode, health, heat, many, memory, peers, refreshing, render, serving, starting, texts
from bench.table import Row, shown, write

RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes and fewer runs; nothing is written")
    quick = parser.parse_args().quick
    rows: list[Row] = []

    def measure(what: str, found: Iterable[Row]) -> None:
        print(f"{what} …", file=sys.stderr, flush=True)
        rows.extend(found)

    runs = 3 if quick else 7
    series = 20_000 if quick else 100_000
    large = 0 if quick else 1_000_000
    for size, servers in ((10_000, 2_000),) if quick else ((1_000, 200), (10_000, 2_000), (100_000, 20_000)):
        measure(f"decoding {size:,} deployments", decode.rows(size, servers=servers, runs=runs))
    measure("ten times the deployments", [decode.growth(1_000 if quick else 10_000, servers=2_000, runs=runs)])
    measure("decoding real texts", texts.rows(1_000 if quick else 10_000, servers=2_000, runs=runs))
    sizes = (10_000, 2_000, 1) if quick else (100_000, 20_000, 3)
    measure("refreshes of mixed text", texts.refreshes(*sizes))
    measure("rendering", render.rows(series, runs=runs))
    measure("memory of refreshes", refreshing.memory(large=large))
    measure("memory in the default configuration", memory.default(large=large))
    measure("memory of distinct statuses", memory.statuses(runs=1 if quick else 3))
    measure("health during the first refreshes", health.rows(30 if quick else 300, 20_000 if quick else 100_000))
    measure("health during many first refreshes", health.rows(100 if quick else 2_000))
    if large:
        measure("scrapes during a refresh", [refreshing.scrapes(large)])
    measure("many projects", [many.refreshing(100 if quick else 2_000)])
    measure("scrapes of many projects", many.scraping(200 if quick else 2_000, scrapes=100 if quick else 400))
    measure("memory of a page", [serving.memory(series)])
    measure("a whole exporter", many.watching(series // 200, scrapes=100 if quick else 400))
    measure("starting", starting.rows(runs=runs))
    if without := [name for name in peers.PROGRAMS if peers.path(name) is None]:
        print(f"left out, for want of {', '.join(without)}: serving", file=sys.stderr)
    else:
        measure("serving", serving.rows(series))
    if heat.missing():
        print("left out, for want of keystone, heat-api and heat-engine: a real Heat", file=sys.stderr)
    elif not quick:
        measure("a real Heat", heat.rows(10_000))
    print(shown(rows))
    if not quick:
        write(rows, RESULTS)


if __name__ == "__main__":
    main()
