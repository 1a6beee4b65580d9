"""What is told of one round: progress while it lasts, where there is a terminal; a table, or JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from exporter.collector.collector import Collector
from exporter.collector.project_poller import ProjectPoller
from exporter.common.logs import visible
from exporter.config.units import format_size
from exporter.ui.summary import ADMINISTRATOR, Counts, cloud_summary, project_summary

Output = Literal["table", "json"]


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr where that is a terminal, nothing otherwise."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _text(told: str) -> Text:
    """What a cloud sent, which is neither rich's markup nor a terminal's."""
    return Text(visible(told))


def _sorted(fleet: Collector) -> list[ProjectPoller]:
    return sorted(fleet.watches(), key=lambda watch: (watch.key.cloud, watch.state.name, watch.key))


def table(fleet: Collector) -> Table:
    """Every project with what its refresh found."""
    result = Table(box=None, pad_edge=False)
    for heading in ("CLOUD", "PROJECT", "ID", "STATE"):
        result.add_column(heading, overflow="fold")
    for heading in ("DEPLOYMENTS", "FAILED", "STUCK", "SIZE", "SECONDS"):
        result.add_column(heading, justify="right")
    result.add_column("ERROR", overflow="fold")
    for watch in _sorted(fleet):
        state = watch.state
        found = project_summary(state).counts
        cells = (
            watch.key.cloud,
            state.name,
            watch.key.project_id,
            state.condition,
            str(found.deployments) if found else "",
            str(found.failed) if found else "",
            str(found.stuck) if found else "",
            format_size(state.shown.response_bytes) if state.shown else "",
            f"{state.duration:.2f}" if state.duration is not None else "",
            state.error,
        )
        result.add_row(*map(_text, cells))
    return result


def _console(file: TextIO) -> Console:
    return Console(file=file, width=None if file.isatty() else 200, soft_wrap=not file.isatty())


def complaints(fleet: Collector) -> list[str]:
    """What keeps the round from being a success: one line for each project, cloud and absence."""
    lines = [
        f"cloud {cloud.config.name!r}: {cloud.state.discovery_error}"
        for cloud in fleet.clouds.values()
        if cloud.state.discovery_error
    ]
    lines += [
        f"project {watch.state.name!r} ({watch.key.project_id}) of cloud {watch.key.cloud!r}: {watch.state.error}"
        for watch in fleet.watches()
        if watch.state.error
    ]
    # A shard may have no project of its own.
    if not lines and not list(fleet.watches()) and fleet.config.shard.total == 1:
        lines.append("there is no project to watch")
    return lines


def document(fleet: Collector) -> dict[str, Any]:
    """The same for programs. Its shape is stable: keys may come, none changes or goes; what is not known is null."""
    return {
        "ok": not complaints(fleet),
        "complaints": complaints(fleet),
        "clouds": [
            {
                "cloud": summary.name,
                "discovery": summary.discovery,
                "error": summary.error or None,
                "admin_token": summary.admin_token,
                "projects": len(cloud.projects),
            }
            for cloud in fleet.clouds.values()
            for summary in (cloud_summary(cloud.current),)
        ],
        "projects": [_project(watch) for watch in _sorted(fleet)],
    }


def _project(watch: ProjectPoller) -> dict[str, Any]:
    state = watch.state
    summary = project_summary(state)
    counts = summary.counts._asdict() if summary.counts else dict.fromkeys(Counts._fields)
    return {
        "cloud": summary.key.cloud,
        "project_id": summary.key.project_id,
        "project": summary.name,
        "state": summary.condition,
        **counts,
        "asked_at": summary.asked_at or None,
        "response_bytes": state.shown.response_bytes if state.shown else None,
        "duration_seconds": state.duration,
        "error": summary.error or None,
    }


def summarize(fleet: Collector, *, to: TextIO, output: Output = "table") -> bool:
    """Tell there how it went, what makes it no success on stderr beside a table; whether everything succeeded."""
    if output == "json":
        to.write(f"{json.dumps(document(fleet))}\n")
        to.flush()
        return not complaints(fleet)
    console = _console(to)
    if list(fleet.watches()):
        console.print(table(fleet))
    for cloud in fleet.clouds.values():
        if cloud.current.admin_token:
            line = f"cloud {cloud.config.name!r}: {ADMINISTRATOR}"
            console.print(_text(line), highlight=False)
    found = complaints(fleet)
    console = _console(sys.stderr)
    for line in found:
        console.print(_text(line), highlight=False)
    return not found
