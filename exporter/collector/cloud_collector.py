"""One cloud: finding its projects, and watching each of them.

Discovery decides which projects are watched; each project's loop goes by itself. A failed discovery removes nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple

import structlog

from exporter.collector import schedule
from exporter.collector.administrators import SampleIndex
from exporter.collector.concurrency import ConcurrencyLimit
from exporter.collector.name_resolver import NameQueue, NameSettings
from exporter.collector.project_poller import PollerSettings, ProjectPoller
from exporter.common.chunking import in_steps
from exporter.common.clock import Clock
from exporter.common.deadline import Deadline
from exporter.common.errors import RAISE, AdministratorError, AnswerError, DeadlineError, InternalError, RefreshError
from exporter.config.schema import Cloud, Config, NamedProject
from exporter.config.units import format_duration
from exporter.deployments.aggregator import AggregatorOptions, server_filter
from exporter.deployments.state import CloudState, ProjectKey, RemovalReason, added, observed
from exporter.metrics.families import CONFIGS, DURATIONS, FAMILIES, FINISHED, PROBLEMS, SERVERS
from exporter.openstack.session import CloudSession, Project, Token

log = structlog.get_logger("cloud")

# So many projects are taken over at once.
STEP: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudServices:
    """What all clouds share, and how they show what changed."""

    config: Config
    gate: ConcurrencyLimit
    clock: Clock
    families: frozenset[str]
    """The names of those that the page has."""
    changed: Callable[[ProjectKey], asyncio.Future[None]]
    """Called after each change of a project; the result is done when the page shows it."""
    show_cloud: Callable[[str], None]
    """Called after each change of a cloud, by name."""


class _Found(NamedTuple):
    """What discovery found."""

    projects: list[Project]
    """To watch, disabled ones included."""
    missing: list[str]
    """What the configuration names and the cloud does not have."""
    visible: frozenset[str]
    """The ids of all enabled projects that the user has a role in."""
    ambiguous: AnswerError | None = None
    """What the configuration names and the cloud has several of."""


def _found_own(token: Token, others: Iterable[str]) -> _Found:
    """Only the project that a token is scoped to; others are visible and not to be watched."""
    own = Project(token.project_id, token.project_name, "", enabled=True)
    return _Found([own], [], frozenset({own.id, *others}))


class CloudCollector:
    """One cloud: its access, its projects, and the loop that finds them."""

    def __init__(self, config: Cloud, access: CloudSession, stage: CloudServices) -> None:
        self.config = config
        self.access = access
        self.state = CloudState(cloud=config.name)
        self.projects: dict[str, ProjectPoller] = {}
        self.discovered = asyncio.Event()
        """Set once the first attempt to find the projects has ended."""
        self.known: dict[str, ProjectPoller] = {}
        """The projects known when it ended, by id."""
        self.found = False
        """Whether its projects were ever found."""
        self._stage = stage
        self._samples = SampleIndex()
        self._refused: set[str] = set()
        """The ids of projects that are refused because their token is an administrator's."""
        self._counts_all = ""
        """The id of the project that counts the deployments of every project; "" if each counts its own."""
        self._only = ""
        """The id of the only project that a list in the configuration means, once it was found; "" else."""
        self._desk = NameQueue()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures = 0
        self._taken: Cloud | None = None
        """By which configuration the projects were last found."""
        self._told_bound = False
        self._look_again = asyncio.Event()
        self._shared = self._surroundings()

    def _surroundings(self) -> PollerSettings:
        config, stage = self.config, self._stage
        whole = stage.config
        return PollerSettings(
            access=self.access,
            gate=stage.gate,
            refresh=config.refresh,
            limits=config.limits,
            fold=AggregatorOptions(
                age_bounds=whole.age_bounds,
                code_bounds=tuple(float(bound) for bound in whole.buckets.deploy_status_code),
                stuck_after=whole.thresholds.stuck_after,
                servers=config.limits.servers if SERVERS in stage.families else 0,
                problems=config.limits.problems if PROBLEMS in stage.families else 0,
                configs=bool(config.limits.configs) and CONFIGS in stage.families,
                tables=frozenset(each.table for each in FAMILIES if each.table and each.name in stage.families),
                finishes=not stage.families.isdisjoint((FINISHED, DURATIONS)),
                server_filter=server_filter(config.servers.include, config.servers.exclude),
            ),
            clock=stage.clock,
            changed=stage.changed,
            attempted=self._attempted,
            check_token=partial(self._check_token, self.access),
            admit=self._admit,
            servers=config.servers.ids,
            requests_of_a_round=lambda: len(self.projects) * len(config.servers.ids or (None,)),
            families=stage.families,
            duration_bounds=whole.buckets.duration,
            manners=self._manners() if whole.names else None,
        )

    def _manners(self) -> NameSettings:
        refresh, rate = self.config.refresh, self.config.limits.requests_per_second
        return NameSettings(
            access=self.access,
            silence=refresh.silence,
            timeout=refresh.timeout,
            # So that names take no more than a share of the cloud's time, nor of its requests.
            pause=lambda took: max(took, 1 / rate) * (1 / refresh.share - 1),
            desk=self._desk,
        )

    def move(self, config: Cloud, access: CloudSession, stage: CloudServices) -> None:
        """Use another configuration from now on: projects, tokens, data and counters that it does not touch stay."""
        self.config, self.access, self._stage = config, access, stage
        self._shared = self._surroundings()
        self._look_again.set()
        for watch in self.projects.values():
            watch.move(self._shared)

    async def run(self) -> None:
        """Find the projects and watch each, for ever."""
        try:
            await self._run()
        finally:
            for task in self._tasks.values():
                task.cancel()

    async def _run(self) -> None:
        while True:
            self._look_again.clear()
            error = await self.discover()
            self._start_new()
            self.known = self.known if self.discovered.is_set() else dict(self.projects)
            self.discovered.set()
            delay = self.config.refresh.discovery
            if error is not None:
                delay = schedule.retry_delay(
                    self._failures,
                    self.config.refresh.interval,
                    retry_after=error.retry_after,
                    random=random.random,
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._look_again.wait()

    def stop(self) -> CloudSession:
        """Watch nothing any more, and show nothing of it; what is left is the access to close."""
        for watch in list(self.projects.values()):
            self._drop(watch)
        return self.access

    async def discover(self) -> RefreshError | None:
        """One attempt to find the projects: those that appeared are added, those that are gone forgotten."""
        error: RefreshError | None = None
        try:
            async with self.access.in_use(), Deadline(self.config.refresh.timeout) as stopwatch:
                found = await self._find(stopwatch)
            self._taken = self.config
            self.found = True
            await self._take_over(found)
            if found.missing:
                names = ", ".join(map(repr, found.missing))
                error = AnswerError(f"no such project, or no role in it: {names}", api="identity", status=404)
            error = error or found.ambiguous
            for project_id in self._refused:
                self.access.drop_token(project_id)  # its roles may be others now
                self.projects[project_id].readmit()
        except RefreshError as failure:
            error = failure.alone()
        except TimeoutError:
            limit = format_duration(self.config.refresh.timeout)
            text = f"finding projects took longer than refresh.timeout ({limit}), which can be raised {RAISE}"
            error = DeadlineError(text, api="identity")
        except Exception as failure:
            log.exception("internal error", cloud=self.config.name)
            error = InternalError(f"{type(failure).__name__}: {failure}", api="identity")
        state = self.state
        if error is None:
            if state.discovery_up is False:
                log.info("discovery recovered", cloud=self.config.name)
            self._failures = 0
            state = replace(
                state, discovery_up=True, discovery_error="", discovery_last_success=self._stage.clock.wall()
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

    async def _find(self, stopwatch: Deadline) -> _Found:
        wanted = self.config.projects
        if wanted == "current" or (wanted == "discover" and self.access.bound_to_project):
            if wanted == "discover" and not self._told_bound:
                self._told_bound = True
                log.info("an application credential is bound to its one project", cloud=self.config.name)
            token = await self.access.token(stopwatch=stopwatch)
            if not token.project_id:
                raise AnswerError("the cloud entry is not scoped to a project", api="identity", status=404)
            await self._apply_own_token(token)
            # Others were watched only because they were configured.
            before = self.projects if self._taken is not self.config else ()
            return _found_own(token, before)
        listed = await self.access.projects(stopwatch)
        visible = frozenset(project.id for project in listed if project.enabled)
        if wanted == "discover":
            token = await self.access.token(stopwatch=stopwatch)
            await self._apply_own_token(token)
            if self._counts_all:
                return _found_own(token, visible)
            return _Found([project for project in listed if not project.stack_user], [], visible)
        found: dict[str, Project] = {}
        missing: list[str] = []
        ambiguous: AnswerError | None = None
        for each in wanted:
            name = each if isinstance(each, str) else f"{each.name} of domain {each.domain}"
            matches = await self._resolve(each, listed, stopwatch)
            if not matches:
                missing.append(name)
            elif len(matches) > 1:
                advice = "give its id, or its name and domain"
                ambiguous = AnswerError(f"the name {name!r} stands for several: {advice}", api="identity", status=409)
                matches = [project for project in matches if project.id in self.projects]  # nothing is removed
            elif not matches[0].enabled:
                missing.append(f"{name} (disabled)")
            found |= {project.id: project for project in matches}
        self._only = next(iter(found)) if len(found) == 1 and not missing and ambiguous is None else ""
        await self._apply_own_token(await self.access.token(stopwatch=stopwatch))
        return _Found(list(found.values()), missing, visible, ambiguous)

    async def _resolve(
        self, wanted: str | NamedProject, listed: Iterable[Project], stopwatch: Deadline
    ) -> list[Project]:
        """The projects that an entry of the configuration may mean."""
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
        return matches

    async def _take_over(self, found: _Found) -> None:
        """Watch these from now on, and then no others; in steps, because there may be thousands."""
        shard = self._stage.config.shard
        enabled = {
            project.id: project
            for project in found.projects
            if project.enabled and shard.owns(self.config.name, project.id)
        }
        disabled = {project.id for project in found.projects if not project.enabled}
        reasons: dict[str, RemovalReason] = {
            known: "disabled" if known in disabled else "config" if known in found.visible else "gone"
            for known in self.projects
            if known not in enabled
        }
        for some in in_steps(enabled.values(), STEP):
            for project in some:
                if (watch := self.projects.get(project.id)) is not None:
                    watch.rename(project.name)
                    continue
                watch = ProjectPoller(ProjectKey(self.config.name, project.id), project.name, self._shared)
                self.projects[project.id] = watch
                self._stage.changed(watch.key)
            await asyncio.sleep(0)
        await self._remove_each(reasons)
        # A round takes as long as there are projects.
        for watch in self.projects.values():
            watch.repace()

    async def _remove_each(self, reasons: Mapping[str, RemovalReason]) -> None:
        """Remove these one by one, others having a turn in between: thousands take more than a second."""
        for project_id, reason in reasons.items():
            if project_id in self.projects:
                self._remove(project_id, reason)
                self._replace(self.state)  # the number of projects is that of those on the page
                await asyncio.sleep(0)

    def _remove(self, project_id: str, reason: RemovalReason) -> None:
        watch = self.projects[project_id]
        self.state = replace(self.state, removed=added(self.state.removed, {reason: 1}))
        self._drop(watch)
        log.warning(
            "project removed", cloud=self.config.name, project_id=project_id, project=watch.state.name, reason=reason
        )

    def _drop(self, watch: ProjectPoller) -> None:
        project_id = watch.key.project_id
        del self.projects[project_id]
        if (task := self._tasks.pop(project_id, None)) is not None:
            task.cancel()
        watch.attempted.set()  # its first attempt has ended too
        self.known.pop(project_id, None)
        self.access.forget(project_id)
        self._samples.drop(project_id)
        self._refused.discard(project_id)
        self._stage.changed(watch.key)

    def _start_new(self) -> None:
        for project_id, watch in self.projects.items():
            if project_id not in self._tasks:
                self._tasks[project_id] = asyncio.create_task(watch.run(), name=f"refresh {'/'.join(watch.key)}")

    async def _check_token(self, access: CloudSession, token: Token) -> None:
        """Called before Heat is asked with a token; raises AdministratorError if its response must not be counted."""
        own = bool(token.project_id) and token.project_id == access.own_project
        if own and access is self.access and await self._apply_own_token(token):
            self._look_again.set()
        if (error := self._refusal(token)) is not None:
            raise error

    async def _apply_own_token(self, token: Token) -> bool:
        """Go by the newest token of the entry's own scope; whether this changes which projects are watched.

        If it is an administrator's, the other projects are removed before this returns.
        """
        own, wanted = token.project_id, self.config.projects
        counts_all = own if token.administrator and (wanted in ("discover", "current") or self._only == own) else ""
        changed, self._counts_all = counts_all != self._counts_all, counts_all
        if counts_all and changed:
            log.warning(
                "the token is an administrator's: all deployments of the cloud are counted for its own project, and no"
                " other project is watched; to see each project, use a user with the role reader",
                cloud=self.config.name,
                project_id=own,
                project=token.project_name,
            )
        elif changed:
            log.info("the token is no longer an administrator's", cloud=self.config.name, project_id=own)
            # Others count their deployments again.
            for project_id, watch in self.projects.items():
                self._samples.drop(project_id)
                watch.withdraw()
        if counts_all:
            await self._remove_each({known: "config" for known in self.projects if known != own})
        if changed:
            self._replace(self.state)
        return changed

    def _refusal(self, token: Token) -> AdministratorError | None:
        """Why a response to this token must not be counted, if it is an administrator's."""
        if not token.administrator or (token.project_id and token.project_id == self._counts_all):
            return None
        if token.project_id in self.projects:
            self._refused.add(token.project_id)
        return AdministratorError(
            f"the token for project {token.project_name!r} has the role admin, so Heat would list the deployments of"
            " every project",
            api="identity",
        )

    def _admit(self, watch: ProjectPoller, token: Token, sample: tuple[int, ...]) -> AdministratorError | None:
        """Called before the data of a response is shown; the error refuses it. Other projects that list nearly the same
        deployments are refused if this one is admitted."""
        project_id = watch.key.project_id
        if self.projects.get(project_id) is not watch:
            return None  # removed while its last refresh was under way
        if (error := self._refusal(token)) is not None:
            return error  # the own token has changed meanwhile
        own = self.access.own_project
        similar = self._samples.similar(project_id, sample)
        kept = own if own in similar else min(project_id, *similar) if similar and project_id != own else project_id
        if kept != project_id:
            return self._refuse_similar(project_id, kept)
        for other in similar:
            self.projects[other].refuse(self._refuse_similar(other, project_id))
        self._samples.put(project_id, sample)
        self._refused.discard(project_id)
        return None

    def _refuse_similar(self, refused: str, kept: str) -> AdministratorError:
        """Refuse a project that lists nearly the same deployments as another."""
        self._samples.drop(refused)
        self._refused.add(refused)
        name = self.projects[kept].state.name
        return AdministratorError(
            f"Heat lists nearly the same deployments as for project {name!r} ({kept}), so the token has an"
            " administrator's rights",
            api="orchestration",
            until_discovery=True,
        )

    def _attempted(self, duration: float) -> None:
        self.state = replace(self.state, refresh_durations=observed(self.state.refresh_durations, duration))

    @property
    def current(self) -> CloudState:
        """The state with the requests up to now."""
        traffic = self.access.traffic
        return replace(
            self.state,
            admin_token=bool(self._counts_all or self._refused),
            requests=dict(traffic.requests),
            authentications=traffic.authentications,
        )

    def _replace(self, state: CloudState) -> None:
        self.state = state
        self._stage.show_cloud(self.config.name)
