"""Everything that is watched: the clouds of a configuration, and the page that shows them.

Whatever changes is rendered at once into its own pieces of the page, which are then ready for any number of scrapes.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import structlog

from exporter import __version__
from exporter.access import CloudAccess
from exporter.budget import Account, ceiling
from exporter.clock import Clock
from exporter.cloud import CloudWatch, Stage
from exporter.config import Cloud, Config
from exporter.errors import ConfigError
from exporter.exposition import Block, Format, render
from exporter.families import Family, Scope, chosen
from exporter.gate import Gate
from exporter.page import Page
from exporter.pieces import Piece
from exporter.refresh import ProjectWatch
from exporter.snapshot import Snapshot
from exporter.state import ExporterState, ProjectKey, ProjectState
from exporter.threads import run_blocking

log = structlog.get_logger("fleet")

EXPIRY_CHECK: Final = 1.0
# One in so many series is left free where the page has to be cut.
SPARE_SHARE: Final = 20
# Series of process_* and python_*, which the web server adds to a page.
OWN_SERIES: Final = 20


class Fleet:
    """All clouds of a configuration. `open` it, then `run` it for ever or refresh everything `once`."""

    def __init__(self, config: Config, *, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.clouds: dict[str, CloudWatch] = {}
        self._ready = False
        self._checked_at = self.clock.steady()
        """When data was last looked through for what is too old, by the steady clock."""
        self._running: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._opened = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._bounded: Account[tuple[str, ...]] = Account()
        """By owner of a part of the page: how many series it shows of families that may be cut,"""
        self._others: Account[tuple[str, ...]] = Account()
        """and how many others."""
        self._wanted: Account[tuple[str, ...]] = Account()
        """By project: how many series of those families it would show if there were room."""
        self._cutting = False
        self._short: set[ProjectKey] = set()
        """Projects whose newest data, being made ready, is cut to less than they may show,"""
        self._lacking: set[ProjectKey] = set()
        """and those that show less, until others have made room."""
        self._uneven = False
        """Whether there may be projects that show more or fewer of them than they may."""
        self._giving: ProjectKey | None = None
        """Whose share is being given: what is cut in doing so has to be, and is no reason to begin anew."""
        self._sharing: asyncio.Task[None] | None = None
        """What gives every project its share of them."""
        self._within = True
        """False from a reload that left too many on the page until every project has been cut to its share."""
        self.page: Page
        """What scrapes get."""
        self._drawing: Page
        """Where everything is put: the same page, but while one with other families is drawn."""
        self.gate: Gate
        self._stage: Stage
        self._take(config, before=None)
        self.state = ExporterState(
            version=__version__,
            python_version=platform.python_version(),
            config_hash=config.digest(),
            reload_success_timestamp=self.clock.wall(),
        )
        self._show_exporter()
        for cloud in config.clouds:
            self.clouds[cloud.name] = CloudWatch(cloud, _access(cloud, self.clock), self._stage)

    def _take(self, config: Config, *, before: Config | None) -> None:
        """Go by a configuration, but for its clouds."""
        self.config = config
        self.families = chosen(config.metrics.include, config.metrics.exclude)
        if before is None or before.metrics != config.metrics:
            self._drawing = Page(self.families)
            if before is None:
                self.page = self._drawing
            self._by_scope: dict[Scope, tuple[Family, ...]] = {
                scope: tuple(family for family in self.families if family.scope == scope)
                for scope in ("data", "project", "cloud", "exporter")
            }
            self._names_by_scope = {
                scope: frozenset(family.name for family in some) for scope, some in self._by_scope.items()
            }
        names = [cloud.name for cloud in config.clouds]
        if before is None:
            self.gate = Gate(config.limits.concurrency, names)
        else:
            self.gate.resize(config.limits.concurrency, names)
        self._stage = Stage(
            config=config,
            gate=self.gate,
            clock=self.clock,
            families=frozenset(family.name for family in self.families),
            show_project=self._show_project,
            forget_project=self._forget_project,
            show_cloud=self._show_cloud,
            fit=self._fit,
            render=self._render_data,
        )

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Fleet]:
        """With every cloud's configuration read and its client session open; ConfigError where one can't be used."""
        try:
            for cloud in self.clouds.values():
                await cloud.access.open()
                self._show_cloud(cloud)
            self._opened.set()
            yield self
        finally:
            if self._sharing is not None:
                self._sharing.cancel()
                await asyncio.wait((self._sharing,))
            await asyncio.gather(*(cloud.access.close() for cloud in self.clouds.values()))

    async def run(self) -> None:
        """Watch everything until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._running:
                for cloud in self.clouds.values():
                    self._start(cloud)
                self._running.create_task(self._expire(), name="expiry")
        finally:
            self._running = None

    def _start(self, cloud: CloudWatch) -> None:
        if self._running is not None:
            name = cloud.config.name
            self._tasks[name] = self._running.create_task(cloud.run(), name=f"discovery {name}")

    async def reload(self, load: Callable[[], Config]) -> None:
        """Read the configuration again and go by it. ConfigError refuses it whole: the one before stays in force.

        Clouds and projects that it does not change keep their tokens, data, counters and turns.
        """
        await self._opened.wait()
        async with self._reloading:
            opened: dict[str, CloudAccess] = {}
            try:
                config = await run_blocking(load, name="config")
                for cloud in config.clouds:
                    opened[cloud.name] = _access(cloud, self.clock)
                    await opened[cloud.name].open()
            except BaseException as error:
                await _each(access.close() for access in opened.values())
                if isinstance(error, ConfigError):
                    log.warning("configuration refused, the one before stays in force", error=str(error))
                    self.state = replace(self.state, reload_successful=False)
                    self._show_exporter()
                raise
            unused, changed = self._apply(config, opened)
            try:
                await self._draw(changed)
                await self._shares_given()
            finally:
                await _each(access.retire() for access in unused)
            log.info("configuration read", config_hash=int(self.state.config_hash))

    def _apply(self, config: Config, opened: Mapping[str, CloudAccess]) -> tuple[list[CloudAccess], list[ProjectWatch]]:
        """Go by a configuration whose clouds were opened; the accesses that nothing uses any more, and the projects
        that are to be shown anew."""
        self._ready = self.ready  # what was true stays so, whatever clouds come now
        self._take(config, before=self.config)
        self._within = self._excess() <= 0
        unused: list[CloudAccess] = []
        changed: list[ProjectWatch] = []
        for name in [name for name in self.clouds if name not in opened]:
            if (task := self._tasks.pop(name, None)) is not None:
                task.cancel()
            self._drawing.drop(("cloud", name))
            self._others.put(("cloud", name), 0)
            unused.append(self.clouds.pop(name).stop())
        for cloud in config.clouds:
            access = opened[cloud.name]
            known = self.clouds.get(cloud.name)
            if known is None:
                new = self.clouds[cloud.name] = CloudWatch(cloud, access, self._stage)
                self._show_cloud(new)
                self._start(new)
                continue
            if known.access.same_as(access):
                known.access.tune(
                    requests_per_second=cloud.limits.requests_per_second,
                    timeout=cloud.refresh.timeout,
                    silence=cloud.refresh.silence,
                )
                unused.append(access)
                access = known.access
            else:
                access.traffic = known.access.traffic
                unused.append(known.access)
            changed += known.move(cloud, access, self._stage)
        self.state = replace(
            self.state,
            config_hash=config.digest(),
            reload_successful=True,
            reload_success_timestamp=self.clock.wall(),
        )
        self._show_exporter()
        if not self._within:
            self._give_share()
        return unused, changed

    async def _draw(self, changed: list[ProjectWatch]) -> None:
        """Show these projects one by one: thousands take seconds. Where the page has other families now, show all, and
        give others the page of before until all is on it."""
        anew = self._drawing is not self.page
        remaining = list(self.watches()) if anew else changed
        try:
            while remaining:
                self._redraw(remaining.pop(), anew=anew)
                await asyncio.sleep(0)
        finally:
            for watch in remaining:  # nobody waits any more
                self._redraw(watch, anew=anew)
            if anew:
                for cloud in self.clouds.values():
                    self._show_cloud(cloud)
                self.page = self._drawing

    def _redraw(self, watch: ProjectWatch, *, anew: bool) -> None:
        if self._watch(watch.key) is not watch:
            return
        if anew:
            watch.redraw()
        else:
            self._show_project(watch)

    def _watch(self, key: ProjectKey) -> ProjectWatch | None:
        """Who watches a project now, if anybody does."""
        cloud = self.clouds.get(key.cloud)
        return cloud.projects.get(key.project_id) if cloud is not None else None

    async def once(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Find all projects and refresh each of them once; `progress` hears how many are done of how many."""
        await asyncio.gather(*(cloud.discover() for cloud in self.clouds.values()))
        watches = list(self.watches())
        done = 0

        async def refresh(watch: ProjectWatch) -> None:
            nonlocal done
            await watch.refresh()
            done += 1
            progress(done, len(watches))

        progress(0, len(watches))
        await asyncio.gather(*map(refresh, watches))

        async def name(watch: ProjectWatch) -> None:
            async with self.gate.turn(watch.key.cloud, slow=False):
                await watch.ask_for_names(at_once=True)

        await asyncio.gather(*map(name, watches))
        await self._shares_given()

    def watches(self) -> Iterable[ProjectWatch]:
        """Every project that is watched."""
        return (watch for cloud in self.clouds.values() for watch in cloud.projects.values())

    @property
    def ready(self) -> bool:
        """Whether every cloud was looked up, and every project known then was asked, once; true for ever after."""
        if not self._ready:
            self._ready = all(
                cloud.discovered.is_set() and all(watch.attempted.is_set() for watch in cloud.known.values())
                for cloud in self.clouds.values()
            )
        return self._ready

    async def wait_ready(self) -> None:
        """Return once `ready` is true."""
        for cloud in self.clouds.values():
            await cloud.discovered.wait()
            for watch in list(cloud.known.values()):
                await watch.attempted.wait()

    async def _expire(self) -> None:
        while True:
            shortest = min(cloud.refresh.stale_after for cloud in self.config.clouds)
            await asyncio.sleep(min(EXPIRY_CHECK, shortest / 10))
            self.expire()

    def expire_if_late(self) -> None:
        """Withdraw it now where that is overdue: the machine may have slept, and nobody is to see what is of before."""
        if self._running is not None and self.clock.steady() - self._checked_at > 2 * EXPIRY_CHECK:
            self.expire()

    def expire(self) -> None:
        """Withdraw what has become too old."""
        self._checked_at = self.clock.steady()
        for watch in list(self.watches()):
            watch.expire()

    def _fit(self, key: ProjectKey, snapshot: Snapshot) -> Snapshot:
        """As much of a snapshot as the page has room for."""
        watched = self._watch(key) is not None  # it may be gone since the listing was asked for
        if watched:
            self._wanted.put(("project", *key), snapshot.bounded)
        self._short.discard(key)
        if not self.config.limits.series or self._wanted.total <= self._budget():
            return snapshot
        share = min(snapshot.bounded, self._ceiling())
        allowed = self._allowed(key, share)
        if watched and allowed < share:
            self._short.add(key)
            self._give_share()
        return snapshot.cut(allowed)

    def _show_project(self, watch: ProjectWatch) -> None:
        """Show a project's state as it now is."""
        state = watch.state
        owner = ("project", *state.key)
        if state.shown is None:
            self._wanted.put(owner, 0)
        if (data := watch.take_blocks()) is not None:
            bounded = state.shown.bounded if state.shown is not None else 0
            self._drawing.put(owner, data, families=self._names_by_scope["data"])
            self._bounded.put(owner, bounded)
            self._others.put(("data", *state.key), _lines(data) - bounded)
            if state.key in self._short:
                self._short.remove(state.key)
                self._give_share(state.key)
        self._show(owner, "project", (*state.key, state.name), state)

    def shown(self, watch: ProjectWatch, format: Format, families: frozenset[str] | None) -> list[Piece | bytes]:
        """What the page shows of one project; of some families only where they are given."""
        owner = ("project", *watch.key)
        if owner in self.page:
            return self.page.owned(owner, format, families)
        # Only just found: it is not on the page yet, or only on the one that is being drawn.
        if owner not in self._drawing:
            watch.redraw()
        return self._drawing.owned(owner, format, families)

    def _show(self, owner: tuple[str, ...], scope: Scope, base: tuple[str, ...], state: object) -> None:
        blocks = self._render(scope, base, state)
        self._drawing.put(owner, blocks, families=self._names_by_scope[scope])
        self._others.put(owner, _lines(blocks))
        self._keep_within_limit(owner)

    def _budget(self) -> int:
        """How many series of families that may be cut the page has room for."""
        return self.config.limits.series - OWN_SERIES - self._others.total

    def _ceiling(self) -> int:
        """How many of those a project may have: where there is not room for all, as many for each, whoever is first."""
        budget = self._budget()
        if self._wanted.total <= budget:
            return max(self._wanted.numbers.values(), default=0)
        # With some room to spare, or each further series would make it necessary to cut everybody again.
        return ceiling(self._wanted.numbers.values(), budget - budget // SPARE_SHARE)

    def _excess(self) -> int:
        """How many series more than it may the page has; negative where it has fewer."""
        return self._bounded.total - self._budget() if self.config.limits.series else 0

    def _size(self, key: ProjectKey) -> int:
        """How many of the series that may be cut a project shows."""
        return self._bounded.numbers.get(("project", *key), 0)

    def _allowed(self, key: ProjectKey, share: int) -> int:
        """How many of them it may show now, with all others as they are."""
        return max(0, min(share, self._size(key) - self._excess())) if self._within else share

    def _keep_within_limit(self, newest: tuple[str, ...]) -> None:
        """Where the page has more series than it may, cut what was shown last; the project with the most where that has
        none to cut, as a cloud."""
        # Each cut shows its project anew, and so comes by here.
        if self._cutting or not self._within:
            return
        sizes = self._bounded.numbers
        self._cutting = True
        try:
            while sizes and (excess := self._excess()) > 0:
                owner = newest if newest in sizes else max(sizes, key=sizes.__getitem__)
                watch = self._watch(ProjectKey(*owner[1:]))
                assert watch is not None, "what is forgotten has no series"
                watch.cut(max(0, sizes[owner] - excess))
                if watch.key != self._giving:
                    self._give_share(watch.key)
        finally:
            self._cutting = False

    def _give_share(self, *lacking: ProjectKey) -> None:
        """Let projects that show less than their share have it soon, and all those that show more too."""
        self._lacking.update(lacking)
        self._uneven = True
        if self._sharing is None or self._sharing.done():
            self._sharing = asyncio.create_task(self._give_shares(), name="series")

    async def _shares_given(self) -> None:
        """Wait until every project has its share."""
        while self._sharing is not None and not self._sharing.done():
            await asyncio.wait((self._sharing,))

    async def _give_shares(self) -> None:
        """Give every project its share, one by one, for hundreds take a second: those that have more come first, which
        makes room for those that lack some."""
        while self._uneven and self.config.limits.series:
            self._uneven = False
            config, share = self.config, self._ceiling()
            for key in (*[each.key for each in self.watches() if self._size(each.key) > share], *self._lacking):
                if (watch := self._watch(key)) is None:
                    continue
                before, self._giving = self._size(key), key
                try:
                    await watch.resize(self._allowed(key, share))
                except Exception:
                    log.exception("internal error", cloud=key.cloud, project_id=key.project_id)
                finally:
                    self._giving = None
                self._uneven |= self._size(key) != before
                await asyncio.sleep(0)
            if not self._within and config is self.config:
                self._within = True
                self._keep_within_limit(())
        self._lacking.clear()

    def _render_data(self, state: ProjectState, snapshot: Snapshot) -> Mapping[str, Block]:
        return self._render("data", (*state.key, state.name), snapshot)

    def _forget_project(self, watch: ProjectWatch) -> None:
        """Show nothing of a project any more."""
        for account in (self._bounded, self._others, self._wanted):
            account.put(("project", *watch.key), 0)
        self._others.put(("data", *watch.key), 0)
        self._short.discard(watch.key)
        self._drawing.drop(("project", *watch.key))

    def _show_cloud(self, cloud: CloudWatch) -> None:
        """Show a cloud's state as it now is."""
        self._show(("cloud", cloud.config.name), "cloud", (cloud.config.name,), cloud.state)

    def _show_exporter(self) -> None:
        self._show(("exporter",), "exporter", (), self.state)

    def _render(self, scope: Scope, base: tuple[str, ...], state: object) -> dict[str, Block]:
        rendered = ((family.name, render(family, base, state)) for family in self._by_scope[scope])
        return {name: block for name, block in rendered if block is not None}


async def _each(ending: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all of them; they come to their end also where nobody waits any more."""
    await asyncio.shield(asyncio.gather(*ending))


def _lines(blocks: Mapping[str, Block]) -> int:
    """How many series they show."""
    return sum(part.count(b"\n") for block in blocks.values() for part in block.text)


def _access(cloud: Cloud, clock: Clock) -> CloudAccess:
    return CloudAccess(
        name=cloud.name,
        entry=cloud.cloud,
        requests_per_second=cloud.limits.requests_per_second,
        timeout=cloud.refresh.timeout,
        silence=cloud.refresh.silence,
        clock=clock.steady,
    )
