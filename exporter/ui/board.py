"""The rows of the landing page: each rendered when what it shows has changed, and numbered, so that a page that is open
somewhere gets what is new to it and no more.

Looking for changes goes in steps, between which the event loop is free; visitors who come meanwhile share one look.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from exporter.collector.collector import Collector
from exporter.deployments.state import ProjectKey, ProjectState
from exporter.ui import pages
from exporter.ui.summary import CloudSummary, Overview, ProjectSummary, cloud_summary, project_summary

STEP: Final = 100
"""So many rows are looked at in one go."""
KEPT_REMOVALS: Final = 1000


class _Kept(NamedTuple):
    """A row, when it last changed, and the very tables that were counted for it: a new count brings new ones."""

    summary: ProjectSummary
    row: pages.Row
    version: int
    counted: tuple[object, object]


class Board:
    """Every project's row. `look` before reading it."""

    def __init__(self, fleet: Collector) -> None:
        self._fleet = fleet
        self._kept: dict[ProjectKey, _Kept] = {}
        self._removed: dict[ProjectKey, int] = {}
        """In the order of their removal: at which version."""
        self._forgotten = 0
        """Removals up to this version are no longer known."""
        self._version = 0
        self._overview: Overview | None = None
        self._overview_version = 0
        self._above: tuple[tuple[CloudSummary, ...], bool] | None = None
        """What the overview shows besides the projects."""
        # The numbers begin anew with each process.
        self._process = secrets.token_hex(4)
        self._looking = asyncio.Lock()
        self._looks = 0

    @property
    def version(self) -> str:
        """What a page that shows all this gives to `changes` later."""
        return f"{self._process}-{self._version}"

    @property
    def overview(self) -> Overview:
        """What stands above the projects."""
        assert self._overview is not None, "look() comes first"
        return self._overview

    @property
    def summaries(self) -> list[ProjectSummary]:
        """Every project, in no particular order."""
        return [kept.summary for kept in self._kept.values()]

    @property
    def rows(self) -> dict[ProjectKey, tuple[ProjectSummary, pages.Row]]:
        """Every project and its row."""
        return {key: (kept.summary, kept.row) for key, kept in self._kept.items()}

    async def look(self) -> None:
        """Take in what has changed up to now."""
        looks = self._looks
        async with self._looking:
            if self._looks > looks:
                return  # one that began after this call
            self._looks += 1
            await self._look()

    async def _look(self) -> None:
        version = self._version + 1
        changed = False
        watched = {watch.key: watch for watch in self._fleet.watches()}
        for number, (key, watch) in enumerate(watched.items(), 1):
            if (new := self._renewed(watch.state, version)) is not None:
                self._kept[key] = new
                self._removed.pop(key, None)
                changed = True
            if number % STEP == 0:
                await asyncio.sleep(0)
        for key in [key for key in self._kept if key not in watched]:
            del self._kept[key]
            self._removed[key] = version
            changed = True
        while len(self._removed) > KEPT_REMOVALS:
            self._forgotten = self._removed.pop(next(iter(self._removed)))
        clouds = tuple(cloud_summary(cloud.current) for cloud in self._fleet.clouds.values())
        above = clouds, self._fleet.state.reload_successful
        if changed or above != self._above:
            self._above = above
            overview = Overview.of(clouds, self.summaries, reload_successful=above[1])
            if overview != self._overview:
                self._overview, self._overview_version = overview, version
            self._version = version

    def _renewed(self, state: ProjectState, version: int) -> _Kept | None:
        """The row of a state, None where the one that is kept is still right."""
        shown = state.shown
        counted = (shown.deployments, shown.stuck) if shown is not None else (None, None)
        kept = self._kept.get(state.key)
        if kept is not None:
            same = all(map(_is, kept.counted, counted))
            was, asked_at = kept.summary, state.snapshot.asked_at if state.snapshot is not None else 0.0
            if (
                same
                and was[1:5] == (state.name, state.condition, asked_at, state.interval)
                and was.error == state.error
            ):
                return None
        summary = project_summary(state)
        if kept is not None and kept.summary == summary:
            self._kept[state.key] = kept._replace(counted=counted)
            return None
        return _Kept(summary, pages.row(summary), version, counted)

    def changes(self, since: str, now: float) -> dict[str, Any] | None:
        """What is new since a version, None where nothing is; everything where the version is not known any more.

        A worker thread may call it.
        """
        process, _, number = since.partition("-")
        # Ours has no more digits than this: Python takes long to read a number of thousands.
        known = process == self._process and len(number) < 20 and number.isascii() and number.isdigit()
        seen = int(number) if known else -1
        full = not self._forgotten <= seen <= self._version
        if seen == self._version and not full:
            return None
        seen = -1 if full else seen
        return {
            "version": self.version,
            "now": now,
            "full": full,
            # Copied at once, because other requests may change them meanwhile.
            "rows": "".join(_new(list(self._kept.values()), seen, now)),
            "gone": []
            if full
            else [pages.row_id(key) for key, version in list(self._removed.items()) if version > seen],
            "overview": pages.overview(self.overview, now) if self._overview_version > seen else "",
        }


def _is(one: object, other: object) -> bool:
    return one is other


def _new(rows: Iterable[_Kept], seen: int, now: float) -> Iterable[str]:
    return (kept.row.html(now) for kept in rows if kept.version > seen)
