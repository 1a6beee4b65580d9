"""Everything that is watched: the clouds, their projects, and the page that shows them.

A cloud's discovery decides which projects are watched; each project's loop goes by itself. Whatever changes is
rendered at once into its own pieces of the page, which are then ready for any number of scrapes.
"""

from __future__ import annotations

import asyncio
import platform
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import structlog

from exporter import __version__, pace
from exporter.access import CloudAccess, Project
from exporter.clock import Clock
from exporter.config import Cloud, Config, NamedProject
from exporter.errors import AnswerError, DeadlineError, InternalError, RefreshError
from exporter.exposition import Block, render
from exporter.families import Family, Scope, chosen
from exporter.fold import FoldOptions, server_filter
from exporter.gate import Gate
from exporter.page import Page
from exporter.refresh import ProjectWatch, Surroundings
from exporter.snapshot import Snapshot
from exporter.state import CloudState, ExporterState, ProjectKey, ProjectState, RemovalReason, added, observed
from exporter.stopwatch import Stopwatch
from exporter.units import format_duration

log = structlog.get_logger("fleet")

EXPIRY_CHECK: Final = 1.0


class CloudWatch:
    """One cloud: its access, its projects, and the loop that finds them."""

    def __init__(self, config: Cloud, access: CloudAccess, fleet: Fleet) -> None:
        self.config = config
        self.access = access
        self.state = CloudState(cloud=config.name)
        self.projects: dict[str, ProjectWatch] = {}
        self.discovered = asyncio.Event()
        """Set once the first attempt to find the projects has ended."""
        self.known: tuple[ProjectWatch, ...] = ()
        """The projects known when it ended."""
        self._fleet = fleet
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures = 0
        self._told_bound = False
        whole = fleet.config
        per_server = any(family.name == "heat_server_software_deployments" for family in fleet.families)
        self._shared = Surroundings(
            access=access,
            gate=fleet.gate,
            refresh=config.refresh,
            limits=config.limits,
            fold=FoldOptions(
                age_bounds=whole.age_bounds,
                code_bounds=tuple(float(bound) for bound in whole.buckets.deploy_status_code),
                stuck_after=whole.thresholds.stuck_after,
                servers=config.limits.servers if per_server else 0,
                admits=server_filter(config.servers.include, config.servers.exclude),
            ),
            clock=fleet.clock,
            render=fleet.render_data,
            publish=self._project_changed,
            attempted=self._attempted,
            project_count=lambda: len(self.projects),
        )

    async def run(self) -> None:
        """Find the projects and watch each, for ever."""
        try:
            while True:
                error = await self.discover()
                self._start_new()
                self.known = self.known if self.discovered.is_set() else tuple(self.projects.values())
                self.discovered.set()
                if error is None:
                    await asyncio.sleep(self.config.refresh.discovery)
                else:
                    delay = pace.retry_delay(
                        self._failures,
                        self.config.refresh.interval,
                        retry_after=error.retry_after,
                        random=random.random,
                    )
                    await asyncio.sleep(delay)
        finally:
            for task in self._tasks.values():
                task.cancel()

    async def discover(self) -> RefreshError | None:
        """One attempt to find the projects: those that appeared are added, those that are gone forgotten."""
        error: RefreshError | None = None
        try:
            async with Stopwatch(self.config.refresh.timeout) as stopwatch:
                found, missing = await self._find(stopwatch)
            self._take_over(found)
            if missing:
                names = ", ".join(map(repr, missing))
                error = AnswerError(f"no such project, or no role in it: {names}", api="identity", status=404)
        except RefreshError as failure:
            error = failure
        except TimeoutError:
            limit = format_duration(self.config.refresh.timeout)
            error = DeadlineError(f"finding projects took longer than refresh.timeout ({limit})", api="identity")
        except Exception as failure:
            log.exception("internal error", cloud=self.config.name)
            error = InternalError(f"{type(failure).__name__}: {failure}", api="identity")
        state = self.state
        if error is None:
            if state.discovery_up is False:
                log.info("discovery recovered", cloud=self.config.name)
            self._failures = 0
            state = replace(
                state, discovery_up=True, discovery_error="", discovery_last_success=self._fleet.clock.wall()
            )
        else:
            if state.discovery_up is not False:
                log.warning("discovery failed", cloud=self.config.name, reason=error.reason, error=str(error))
            self._failures += 1
            state = replace(
                state,
                discovery_up=False,
                discovery_error=f"{error.reason}: {error}",
                discovery_failures=added(state.discovery_failures, {(error.api, error.reason): 1}),
            )
        self._replace(state)
        return error

    async def _find(self, stopwatch: Stopwatch) -> tuple[list[Project], list[str]]:
        """The projects to watch (disabled ones included), and those of the configuration that can't be found."""
        wanted = self.config.projects
        if wanted == "current" or (wanted == "discover" and self.access.bound_to_project):
            if wanted == "discover" and not self._told_bound:
                self._told_bound = True
                log.info("an application credential is bound to its one project", cloud=self.config.name)
            token = await self.access.token(stopwatch=stopwatch)
            if not token.project_id:
                raise AnswerError("the cloud entry is not scoped to a project", api="identity", status=404)
            return [Project(token.project_id, token.project_name, "", True)], []
        listed = await self.access.projects(stopwatch)
        if wanted == "discover":
            return listed, []
        found: dict[str, Project] = {}
        missing: list[str] = []
        for each in wanted:
            match = await self._resolve(each, listed, stopwatch)
            if match is None:
                missing.append(each if isinstance(each, str) else f"{each.name} of domain {each.domain}")
            else:
                found[match.id] = match
        return list(found.values()), missing

    async def _resolve(
        self, wanted: str | NamedProject, listed: Iterable[Project], stopwatch: Stopwatch
    ) -> Project | None:
        """The project that an entry of the configuration means; None where there is none or more than one."""
        if isinstance(wanted, str):
            by_id = [project for project in listed if project.id == wanted]
            matches = by_id or [project for project in listed if project.name == wanted]
        else:
            matches = [project for project in listed if project.name == wanted.name]
            if by_domain_id := [project for project in matches if project.domain_id == wanted.domain]:
                matches = by_domain_id
            else:
                # The list gives domains by id only; a token tells the name of its project's.
                matches = [
                    project
                    for project in matches
                    if project.enabled
                    and (await self.access.token(project.id, stopwatch=stopwatch)).domain_name == wanted.domain
                ]
        if len(matches) > 1:
            raise AnswerError(
                f"the project name {wanted!r} stands for several; give its id, or its name and domain",
                api="identity",
                status=409,
            )
        return matches[0] if matches else None

    def _take_over(self, found: Iterable[Project]) -> None:
        enabled = {project.id: project for project in found if project.enabled}
        disabled = {project.id for project in found if not project.enabled}
        for project_id in [known for known in self.projects if known not in enabled]:
            self._remove(project_id, "disabled" if project_id in disabled else "gone")
        for project in enabled.values():
            if (watch := self.projects.get(project.id)) is not None:
                watch.rename(project.name)
                continue
            watch = ProjectWatch(ProjectKey(self.config.name, project.id), project.name, self._shared)
            self.projects[project.id] = watch
            self._fleet.publish_project(watch)

    def _remove(self, project_id: str, reason: RemovalReason) -> None:
        watch = self.projects.pop(project_id)
        if (task := self._tasks.pop(project_id, None)) is not None:
            task.cancel()
        self.access.forget(project_id)
        self._fleet.forget_project(watch)
        log.warning(
            "project removed", cloud=self.config.name, project_id=project_id, project=watch.state.name, reason=reason
        )
        self.state = replace(self.state, removed=added(self.state.removed, {reason: 1}))

    def _start_new(self) -> None:
        for project_id, watch in self.projects.items():
            if project_id not in self._tasks:
                self._tasks[project_id] = asyncio.create_task(watch.run(), name=f"refresh {'/'.join(watch.key)}")

    def _attempted(self, duration: float) -> None:
        self.state = replace(self.state, refresh_durations=observed(self.state.refresh_durations, duration))

    def _project_changed(self, watch: ProjectWatch) -> None:
        if self.projects.get(watch.key.project_id) is not watch:
            return  # removed while its last refresh was under way
        self._fleet.publish_project(watch)
        self._replace(self.state)

    def _replace(self, state: CloudState) -> None:
        traffic = self.access.traffic
        self.state = replace(
            state,
            projects=Counter(watch.state.condition for watch in self.projects.values()),
            requests=dict(traffic.requests),
            authentications=traffic.authentications,
        )
        self._fleet.publish_cloud(self)


class Fleet:
    """All clouds of a configuration. `open` it, then `run` it for ever or refresh everything `once`."""

    def __init__(self, config: Config, *, clock: Clock | None = None) -> None:
        self.config = config
        self.clock = clock or Clock()
        self.families = chosen(config.metrics.include, config.metrics.exclude)
        self.page = Page(self.families)
        self.gate = Gate(config.limits.concurrency, [cloud.name for cloud in config.clouds])
        self.state = ExporterState(
            version=__version__, python_version=platform.python_version(), config_hash=config.digest()
        )
        self.clouds = {
            cloud.name: CloudWatch(
                cloud,
                CloudAccess(
                    name=cloud.name,
                    entry=cloud.cloud,
                    requests_per_second=cloud.limits.requests_per_second,
                    timeout=cloud.refresh.timeout,
                    silence=cloud.refresh.silence,
                ),
                self,
            )
            for cloud in config.clouds
        }
        self._by_scope: dict[Scope, tuple[Family, ...]] = {
            scope: tuple(family for family in self.families if family.scope == scope)
            for scope in ("data", "project", "cloud", "exporter")
        }
        self._ready = False
        self.page.put(("exporter",), self._render("exporter", (), self.state))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Fleet]:
        """With every cloud's configuration read and its client session open; ConfigError where one can't be used."""
        try:
            for cloud in self.clouds.values():
                await cloud.access.open()
                self.publish_cloud(cloud)
            yield self
        finally:
            await asyncio.gather(*(cloud.access.close() for cloud in self.clouds.values()))

    async def run(self) -> None:
        """Watch everything until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for cloud in self.clouds.values():
                tasks.create_task(cloud.run(), name=f"discovery {cloud.config.name}")
            tasks.create_task(self._expire(), name="expiry")

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

    def watches(self) -> Iterable[ProjectWatch]:
        """Every project that is watched."""
        return (watch for cloud in self.clouds.values() for watch in cloud.projects.values())

    @property
    def ready(self) -> bool:
        """Whether every cloud was looked up, and every project known then was asked, once; true for ever after."""
        if not self._ready:
            self._ready = all(
                cloud.discovered.is_set() and all(watch.attempted.is_set() for watch in cloud.known)
                for cloud in self.clouds.values()
            )
        return self._ready

    async def wait_ready(self) -> None:
        """Return once `ready` is true."""
        for cloud in self.clouds.values():
            await cloud.discovered.wait()
            for watch in cloud.known:
                await watch.attempted.wait()

    async def _expire(self) -> None:
        shortest = min(cloud.refresh.stale_after for cloud in self.config.clouds)
        while True:
            await asyncio.sleep(min(EXPIRY_CHECK, shortest / 10))
            self.expire()

    def expire(self) -> None:
        """Withdraw what has become too old."""
        for watch in list(self.watches()):
            watch.expire()

    def publish_project(self, watch: ProjectWatch) -> None:
        """Show a project's state as it now is."""
        state = watch.state
        blocks = dict(watch.blocks)
        blocks.update(self._render("project", (*state.key, state.name), state))
        self.page.put(("project", *state.key), blocks)

    def render_data(self, state: ProjectState, snapshot: Snapshot) -> Mapping[str, Block]:
        """The blocks of a project's data."""
        return self._render("data", (*state.key, state.name), snapshot)

    def forget_project(self, watch: ProjectWatch) -> None:
        """Show nothing of a project any more."""
        self.page.drop(("project", *watch.key))

    def publish_cloud(self, cloud: CloudWatch) -> None:
        """Show a cloud's state as it now is."""
        self.page.put(("cloud", cloud.config.name), self._render("cloud", (cloud.config.name,), cloud.state))

    def _render(self, scope: Scope, base: tuple[str, ...], state: object) -> dict[str, Block]:
        rendered = ((family.name, render(family, base, state)) for family in self._by_scope[scope])
        return {name: block for name, block in rendered if block is not None}
