"""The publisher: the only renderer. It puts onto the page what changed, one project at a time.

`changed` marks a project, whatever changed: a refresh, a new name, names of its servers, a reload. One task renders
what is marked, large snapshots in a worker thread, and lets the event loop run in between. A project's data and state
come onto the page together, cut to what the series budget allows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import structlog

from exporter.common.threads import run_beside
from exporter.deployments.snapshot import Snapshot
from exporter.deployments.state import CloudState, Condition, ExporterState, ProjectKey, ProjectState
from exporter.metrics.families import CONFIG_NAMES, CONFIGS, PROBLEMS, SERVER_NAMES, SERVERS, Family, Scope
from exporter.metrics.gzip_members import GzipMember
from exporter.metrics.rendering import FamilyRenderer, Rendered, lines
from exporter.metrics.series_budget import Owner, SeriesBudget
from exporter.metrics.text_format import Format

# A snapshot with more bounded series, or of a larger response (its texts may be long), is rendered in a worker thread.
LARGE_SERIES: Final = 1000
LARGE_RESPONSE: Final = 1024 * 1024

log = structlog.get_logger("publisher")


class Source(Protocol):
    """Where the publisher reads the current states."""

    def project_state(self, key: ProjectKey) -> ProjectState | None:
        """The state of a project; None if it is not watched."""

    def cloud_state(self, cloud: str) -> CloudState | None:
        """The state of a cloud, without its numbers of projects; None if it is not configured."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the page shows of a project's data."""

    whole: Snapshot | None
    """What it was cut from; None: it has to be rendered again whatever it was."""
    state: ProjectState
    """The state on the page."""
    rendered: Snapshot
    fixed: int


class _Conditions:
    """How many projects of each cloud are on the page in each condition."""

    def __init__(self) -> None:
        self._of: dict[ProjectKey, Condition] = {}
        self._counts: Counter[tuple[str, Condition]] = Counter()

    def put(self, key: ProjectKey, condition: Condition | None) -> None:
        """Set a project's condition; None removes it."""
        if (before := self._of.pop(key, None)) is not None:
            self._counts[key.cloud, before] -= 1
        if condition is not None:
            self._of[key] = condition
            self._counts[key.cloud, condition] += 1
        self._counts = +self._counts

    def of(self, cloud: str) -> dict[Condition, int]:
        """The numbers of one cloud."""
        return {condition: number for (name, condition), number in self._counts.items() if name == cloud}


class Publisher:
    """The page, and the task that renders onto it what was marked."""

    def __init__(self, families: Iterable[Family], *, series: int, source: Source) -> None:
        """`series` is the most that the page may have, or 0."""
        self.budget = SeriesBudget(series)
        self._source = source
        self._canvas = FamilyRenderer(families)
        self.page = self._canvas.page
        """What scrapes get: the canvas's page, or the previous one until everything is on that."""
        self._marked: dict[ProjectKey, asyncio.Future[None]] = {}
        self._withdrawn: dict[ProjectKey, None] = {}
        """Marked projects without data. They come first: the data of others may count the same deployments."""
        self._shown: dict[ProjectKey, _Shown] = {}
        self._conditions = _Conditions()
        self._unsettled = False
        """Whether projects have to get their shares when nothing is marked any more."""
        self._task: asyncio.Task[None] | None = None

    # -- what others say

    def changed(self, key: ProjectKey) -> asyncio.Future[None]:
        """Mark a project; the result is done when the page shows what it is now, or no longer shows it."""
        # A caller that is cancelled takes it from nobody else.
        return asyncio.shield(self._mark(key))

    def _mark(self, key: ProjectKey) -> asyncio.Future[None]:
        state = self._source.project_state(key)
        if (waiting := self._marked.get(key)) is None:
            waiting = asyncio.get_running_loop().create_future()
            if state is None:
                # At once, so that no page counts a removal whose project it still shows.
                self._forget(key)
                _finish(waiting)
                return waiting
            self._marked[key] = waiting
            self._start()
        elif state is None:
            self._forget(key)
        if state is None or state.shown is None:
            self._withdrawn[key] = None
        return waiting

    def show_cloud(self, cloud: str) -> None:
        """Show a cloud's state as it is now, or no longer."""
        within = self.budget.excess <= 0
        self._put_cloud(cloud)
        if within:
            self._keep_limit()

    def show_exporter(self, state: ExporterState) -> None:
        """Show the exporter's own state."""
        self._put_state(("exporter",), "exporter", (), state)

    def reconfigure(self, families: Iterable[Family], *, series: int, projects: Iterable[ProjectKey]) -> None:
        """Show other families, or another number of series, from now on; `projects` are all that are watched.

        A page with other families is drawn beside the previous one, which is shown until all projects are on it.
        """
        families = tuple(families)
        if families == self._canvas.families and series == self.budget.limit:
            return
        self.budget.limit = series
        self._unsettled = True
        if families != self._canvas.families:
            self._canvas = FamilyRenderer(families)
            self._shown.clear()
            self.budget.clear()
            for key in projects:
                self._mark(key)
        self._start()

    def settle(self) -> None:
        """Give every project its share when nothing is marked any more."""
        self._unsettled = True
        self._start()

    async def settled(self) -> None:
        """Wait until nothing is marked, and every project has its share if that was asked for."""
        while self._task is not None and not self._task.done():
            await asyncio.wait((self._task,))

    async def close(self) -> None:
        """Render nothing any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def owned(self, key: ProjectKey, format: Format, families: frozenset[str] | None) -> list[GzipMember | bytes]:
        """What the page shows of one project; only some families if they are given."""
        owner = _owner(key)
        if owner in self.page:
            return self.page.owned(owner, format, families)
        # Discovered a moment ago: it is only marked yet, or only on the page that is being drawn.
        if owner not in self._canvas.page:
            await self.changed(key)
        return self._canvas.page.owned(owner, format, families)

    # -- the task

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="publisher")

    async def _run(self) -> None:
        try:
            while await self._step():  # noqa: ASYNC110 - others run in between, nothing is waited for
                await asyncio.sleep(0)
            self.page = self._canvas.page
        finally:
            for waiting in self._marked.values():
                _finish(waiting)
            self._marked.clear()
            self._withdrawn.clear()

    async def _step(self) -> bool:
        """Do one of the things that are due; False if nothing is."""
        if self.budget.excess > 0 and self._withhold():
            return True
        if self._marked:
            await self._publish_next()
            return True
        if self._unsettled:
            self._unsettled = False
            for key in self.budget.short():
                self._render_again(key)
            return True
        return False

    async def _publish_next(self) -> None:
        key = next(iter(self._withdrawn or self._marked))
        self._withdrawn.pop(key, None)
        waiting = self._marked.pop(key)
        done = True
        try:
            done = await self._publish(key)
        except Exception:
            log.exception("internal error", cloud=key.cloud, project_id=key.project_id)
        finally:
            if done:
                _finish(waiting)
        if not done:
            # Its state changed while it was rendered.
            self._mark(key).add_done_callback(lambda _: _finish(waiting))

    async def _publish(self, key: ProjectKey) -> bool:
        """Put a project onto the page as it is now; False if it changed while it was rendered."""
        if (state := self._source.project_state(key)) is None:
            self._forget(key)
            return True
        canvas, whole, before = self._canvas, state.shown, self._shown.get(key)
        if state.condition == "pending":
            self.budget.expect(key)
        elif self.budget.want(key, canvas.select(whole).bounded if whole is not None else 0):
            self.settle()  # the last one: what was reserved for it is free
        rendered = None
        if whole is not None and (before is None or before.whole is not whole or before.state.name != state.name):
            rendered = await self._rendered(canvas, state, whole)
            now = self._source.project_state(key)
            if now is None or now.shown is not whole or now.name != state.name or self._canvas is not canvas:
                return False
            state = now
        self._put(state, rendered)
        return True

    async def _rendered(self, canvas: FamilyRenderer, state: ProjectState, whole: Snapshot) -> Rendered:
        large = whole.bounded > LARGE_SERIES or whole.response_bytes > LARGE_RESPONSE
        allowed = self.budget.allowed(state.key)
        while True:
            found = await run_beside(large, partial(canvas.render_data, state, whole, allowed), name="render")
            # How many fixed series it has is only known now, and those of others may be more than before.
            allowed = self.budget.allowed(state.key, fixed=found.fixed)
            if found.snapshot.bounded <= allowed:
                return found

    def _put(self, state: ProjectState, rendered: Rendered | None) -> None:
        """Show a state, with its data if that was rendered: all of it at once, for nothing here waits."""
        key, owner = state.key, _owner(state.key)
        if rendered is not None:
            self._canvas.put(owner, "data", rendered.blocks)
            self._shown[key] = _Shown(state.shown, state, rendered.snapshot, rendered.fixed)
            self.budget.show(key, bounded=rendered.snapshot.bounded, fixed=rendered.fixed)
        elif state.shown is None and self._shown.pop(key, None) is not None:
            self._canvas.put(owner, "data", {})
            self.budget.show(key, bounded=0, fixed=0)
        if (shown := self._shown.get(key)) is not None:
            self._shown[key] = replace(shown, state=state)
            state = replace(state, snapshot=shown.rendered)
        self._put_state(owner, "project", (*key, state.name), state)
        self._conditions.put(key, state.condition)
        self._put_cloud(key.cloud)
        self._keep_limit()

    def _put_cloud(self, cloud: str) -> None:
        owner = ("cloud", cloud)
        if (state := self._source.cloud_state(cloud)) is None:
            self._canvas.page.drop(owner)
            self.budget.fix(owner, 0)
        else:
            self._put_state(owner, "cloud", (cloud,), replace(state, projects=self._conditions.of(cloud)))

    def _put_state(self, owner: Owner, scope: Scope, base: tuple[str, ...], state: object) -> None:
        blocks = self._canvas.render(scope, base, state)
        self._canvas.put(owner, scope, blocks)
        self.budget.fix(owner, lines(blocks))

    def _forget(self, key: ProjectKey) -> None:
        self._canvas.page.drop(_owner(key))
        self._shown.pop(key, None)
        self._conditions.put(key, None)
        if self.budget.drop(key, _owner(key)):
            self.settle()
        self._put_cloud(key.cloud)

    # -- the limit on series

    def _render_again(self, key: ProjectKey) -> None:
        if (shown := self._shown.get(key)) is not None:
            self._shown[key] = replace(shown, whole=None)
            self._mark(key)

    def _keep_limit(self) -> None:
        """Withhold families if the last change left too many series on the page."""
        while self.budget.excess > 0 and self._withhold():
            pass
        if self._canvas.overfull is not (overfull := self.budget.excess > 0):
            self._canvas.overfull = overfull
            if overfull:
                log.warning(
                    "families without a limit alone exceed limits.series; no series of servers, configs and problems",
                    limit=self.budget.limit,
                    series=self.budget.limit + self.budget.excess,
                )

    def _withhold(self) -> bool:
        """Withhold one bounded family, with its names, of the project that shows the most, until it gets what is free;
        False if no project shows any."""
        if (key := self.budget.largest()) is None:
            return False
        shown = self._shown[key]
        kept = shown.rendered.withhold()
        gone = frozenset(_bounded(shown.rendered)) - frozenset(_bounded(kept))
        self._canvas.page.put(_owner(key), {}, families=gone)
        self._shown[key] = replace(shown, rendered=kept)
        self.budget.show(key, bounded=kept.bounded, fixed=shown.fixed)
        # Not the newest state, which may have other data.
        state = replace(shown.state, snapshot=kept)
        self._put_state(_owner(key), "project", (*key, state.name), state)
        log.info("series withheld", cloud=key.cloud, project_id=key.project_id, families=",".join(sorted(gone)))
        self._render_again(key)
        return True


def _owner(key: ProjectKey) -> Owner:
    return ("project", *key)


def _finish(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _bounded(snapshot: Snapshot) -> list[str]:
    """The bounded families that a snapshot has series of."""
    rows = {
        SERVERS: snapshot.servers,
        SERVER_NAMES: snapshot.server_names,
        CONFIGS: snapshot.configs,
        PROBLEMS: snapshot.problems,
        CONFIG_NAMES: snapshot.config_names,
    }
    return [family for family, some in rows.items() if some]
