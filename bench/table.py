"""Measurements side by side: ours, a peer's, and their ratio, which is what travels from machine to machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison. `ratio` is better the larger it is, unless `limit` says that it should stay below the target."""

    what: str
    ours: float
    theirs: float | None
    unit: str
    peer: str = ""
    ratio: float
    target: float | None = None
    limit: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.ratio <= self.target if self.limit else self.ratio >= self.target

    def line(self) -> tuple[str, ...]:
        """Its cells."""
        sign = "≤" if self.limit else "≥"
        return (
            self.what,
            f"{self.ours:,.4g} {self.unit}",
            "" if self.theirs is None else f"{self.theirs:,.4g} {self.unit}",
            self.peer,
            f"{self.ratio:,.3g}",
            "" if self.target is None else f"{sign} {self.target:g}",
            {True: "yes", False: "no", None: ""}[self.met],
        )


HEADINGS = ("what", "ours", "theirs", "peer", "ratio", "target", "met")


def shown(rows: list[Row]) -> str:
    """A table for people."""
    lines = [HEADINGS, *(row.line() for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEADINGS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def write(rows: list[Row], path: Path) -> None:
    """The same for programs, with the machine named."""
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    content = {"machine": machine, "rows": [asdict(row) | {"met": row.met} for row in rows]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def side_by_side(runs: int, *work: Callable[[], object], cpu: bool = True) -> list[float]:
    """The median time of each, in seconds of CPU (or of the clock), taken in turns so that all meet the same noise."""
    clock = process_time if cpu else perf_counter
    times: list[list[float]] = [[] for _ in work]
    for each in work:
        each()
    for _ in range(runs):
        for each, found in zip(work, times, strict=True):
            began = clock()
            each()
            found.append(clock() - began)
    return [median(found) for found in times]
