"""Everything that is watched: the clouds of a configuration, and the page that shows them.

The publisher renders what changes into its own pieces of the page, which are then ready for any number of scrapes.
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
from exporter.collector.cloud_collector import CloudCollector, CloudServices
from exporter.collector.concurrency import ConcurrencyLimit
from exporter.collector.project_poller import ProjectPoller
from exporter.collector.publisher import Publisher
from exporter.common.clock import Clock
from exporter.common.errors import ConfigError
from exporter.common.threads import run_blocking
from exporter.config.schema import Cloud, Config
from exporter.deployments.state import CloudState, ExporterState, ProjectKey, ProjectState
from exporter.metrics.families import chosen
from exporter.metrics.store import Page
from exporter.openstack.session import CloudSession

log = structlog.get_logger("fleet")

EXPIRY_CHECK: Final = 1.0


class Collector:
    """All clouds of a configuration. `open` it, then `run` it for ever or refresh everything `once`."""

    def __init__(self, config: Config, *, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.clouds: dict[str, CloudCollector] = {}
        self._ready = False
        self._checked_at = self.clock.steady()
        """When data was last looked through for what is too old, by the steady clock."""
        self._running: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._opened = asyncio.Event()
        self._reloading = asyncio.Lock()
        self.publisher: Publisher
        self.gate: ConcurrencyLimit
        self._stage: CloudServices
        self._take(config, before=None)
        self.state = ExporterState(
            version=__version__,
            python_version=platform.python_version(),
            config_hash=config.digest(),
            reload_success_timestamp=self.clock.wall(),
        )
        self.publisher.show_exporter(self.state)
        for cloud in config.clouds:
            self.clouds[cloud.name] = CloudCollector(cloud, _access(cloud, self.clock), self._stage)

    def _take(self, config: Config, *, before: Config | None) -> None:
        """Go by a configuration, but for its clouds."""
        self.config = config
        self.families = chosen(config.metrics.include, config.metrics.exclude)
        names = [cloud.name for cloud in config.clouds]
        if before is None:
            self.gate = ConcurrencyLimit(config.limits.concurrency, names)
            self.publisher = Publisher(self.families, series=config.limits.series, source=self)
        else:
            self.gate.resize(config.limits.concurrency, names)
        self._stage = CloudServices(
            config=config,
            gate=self.gate,
            clock=self.clock,
            families=frozenset(family.name for family in self.families),
            changed=self.publisher.changed,
            show_cloud=self.publisher.show_cloud,
        )

    @property
    def page(self) -> Page:
        """What scrapes get."""
        return self.publisher.page

    def project_state(self, key: ProjectKey) -> ProjectState | None:
        """The state of a project; None if it is not watched."""
        cloud = self.clouds.get(key.cloud)
        watch = cloud.projects.get(key.project_id) if cloud is not None else None
        return watch.state if watch is not None else None

    def cloud_state(self, cloud: str) -> CloudState | None:
        """The state of a cloud; None if it is not configured."""
        return self.clouds[cloud].current if cloud in self.clouds else None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Collector]:
        """With every cloud's configuration read and its client session open; ConfigError where one can't be used."""
        try:
            for cloud in self.clouds.values():
                await cloud.access.open()
                self.publisher.show_cloud(cloud.config.name)
            self._opened.set()
            yield self
        finally:
            await self.publisher.close()
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

    def _start(self, cloud: CloudCollector) -> None:
        if self._running is not None:
            name = cloud.config.name
            self._tasks[name] = self._running.create_task(cloud.run(), name=f"discovery {name}")

    async def reload(self, load: Callable[[], Config]) -> None:
        """Read the configuration again and go by it. ConfigError refuses it whole: the one before stays in force.

        Clouds and projects that it does not change keep their tokens, data, counters and turns.
        """
        await self._opened.wait()
        async with self._reloading:
            opened: dict[str, CloudSession] = {}
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
                    self.publisher.show_exporter(self.state)
                raise
            unused = self._apply(config, opened)
            try:
                await self.publisher.settled()
            finally:
                await _each(access.retire() for access in unused)
            log.info("configuration read", config_hash=int(self.state.config_hash))

    def _apply(self, config: Config, opened: Mapping[str, CloudSession]) -> list[CloudSession]:
        """Use a configuration whose clouds were opened; returns the accesses that nothing uses any more."""
        self._ready = self.ready  # what was true stays so, whatever clouds come now
        self._take(config, before=self.config)
        unused: list[CloudSession] = []
        for name in [name for name in self.clouds if name not in opened]:
            if (task := self._tasks.pop(name, None)) is not None:
                task.cancel()
            unused.append(self.clouds.pop(name).stop())
            self.publisher.show_cloud(name)
        for cloud in config.clouds:
            access = opened[cloud.name]
            known = self.clouds.get(cloud.name)
            if known is None:
                new = self.clouds[cloud.name] = CloudCollector(cloud, access, self._stage)
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
            known.move(cloud, access, self._stage)
        self.state = replace(
            self.state,
            config_hash=config.digest(),
            reload_successful=True,
            reload_success_timestamp=self.clock.wall(),
        )
        projects = [watch.key for watch in self.watches()]
        self.publisher.reconfigure(self.families, series=config.limits.series, projects=projects)
        for name in self.clouds:
            self.publisher.show_cloud(name)
        self.publisher.show_exporter(self.state)
        return unused

    async def once(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Find all projects and refresh each of them once; `progress` hears how many are done of how many."""
        await asyncio.gather(*(cloud.discover() for cloud in self.clouds.values()))
        watches = list(self.watches())
        done = 0

        async def refresh(watch: ProjectPoller) -> None:
            nonlocal done
            await watch.refresh()
            done += 1
            progress(done, len(watches))

        progress(0, len(watches))
        await asyncio.gather(*map(refresh, watches))

        async def name(watch: ProjectPoller) -> None:
            async with self.gate.turn(watch.key.cloud, slow=False):
                await watch.ask_for_names(at_once=True)

        await asyncio.gather(*map(name, watches))
        self.publisher.settle()
        await self.publisher.settled()

    def watches(self) -> Iterable[ProjectPoller]:
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
            await self.expire()

    async def expire_if_late(self) -> None:
        """Withdraw it now if that is overdue: the machine may have slept, and nobody is to see what is of before."""
        if self._running is not None and self.clock.steady() - self._checked_at > 2 * EXPIRY_CHECK:
            await self.expire()

    async def expire(self) -> None:
        """Withdraw what has become too old, and wait until it is on no page."""
        self._checked_at = self.clock.steady()
        withdrawn = [watch.key for watch in list(self.watches()) if watch.expire()]
        await asyncio.gather(*map(self.publisher.changed, withdrawn))


async def _each(ending: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Wait for all of them; they come to their end also where nobody waits any more."""
    await asyncio.shield(asyncio.gather(*ending))


def _access(cloud: Cloud, clock: Clock) -> CloudSession:
    return CloudSession(
        name=cloud.name,
        entry=cloud.cloud,
        requests_per_second=cloud.limits.requests_per_second,
        timeout=cloud.refresh.timeout,
        silence=cloud.refresh.silence,
        clock=clock.steady,
    )
