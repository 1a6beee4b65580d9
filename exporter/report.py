"""What a person at a terminal sees of one round: progress while it lasts, a table at its end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from exporter.fleet import Fleet
from exporter.units import format_size


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


def table(fleet: Fleet) -> Table:
    """Every project with what its refresh found."""
    result = Table(box=None, pad_edge=False)
    for heading in ("CLOUD", "PROJECT", "ID", "STATE"):
        result.add_column(heading, overflow="fold")
    for heading in ("DEPLOYMENTS", "FAILED", "STUCK", "SIZE", "SECONDS"):
        result.add_column(heading, justify="right")
    result.add_column("ERROR", overflow="fold")
    for watch in sorted(fleet.watches(), key=lambda watch: (watch.key.cloud, watch.state.name, watch.key)):
        state = watch.state
        found = state.shown
        failed = sum(count for (status, _), count in found.deployments.items() if status == "FAILED") if found else 0
        cells = (
            watch.key.cloud,
            state.name,
            watch.key.project_id,
            state.condition,
            str(found.total) if found else "",
            str(failed) if found else "",
            str(sum(found.stuck.values())) if found else "",
            format_size(found.response_bytes) if found else "",
            f"{state.duration:.2f}" if state.duration is not None else "",
            state.error,
        )
        result.add_row(*map(Text, cells))  # Text: what a cloud sent is not markup
    return result


def _console(file: TextIO) -> Console:
    return Console(file=file, width=None if file.isatty() else 200, soft_wrap=not file.isatty())


def complaints(fleet: Fleet) -> list[str]:
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
    if not lines and not list(fleet.watches()):
        lines.append("there is no project to watch")
    return lines


def summarize(fleet: Fleet, *, to: TextIO) -> bool:
    """Print the table there and the complaints on stderr; whether everything succeeded."""
    if list(fleet.watches()):
        _console(to).print(table(fleet))
    console = _console(sys.stderr)
    for cloud in fleet.clouds.values():
        if cloud.state.admin_token:
            line = (
                f"cloud {cloud.config.name!r}: its token shows other projects' deployments, as an admin's does; each is"
                " counted once; use a user with the role reader"
            )
            console.print(Text(line), highlight=False)
    found = complaints(fleet)
    for line in found:
        console.print(Text(line), highlight=False)
    return not found
