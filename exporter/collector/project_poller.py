"""Keeping one project's data fresh: one refresh at a time, one ladder from whatever went wrong to one reason.

The loop owns the project's state and replaces it whole after each attempt. It logs once when the project breaks and
once when it recovers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, NamedTuple

import structlog

from exporter.collector import schedule
from exporter.collector.concurrency import ConcurrencyLimit
from exporter.collector.name_resolver import NameResolver, NameSettings
from exporter.common.clock import Clock
from exporter.common.deadline import Deadline
from exporter.common.errors import (
    RAISE,
    AdministratorError,
    AnswerError,
    Api,
    DeadlineError,
    InternalError,
    RefreshError,
)
from exporter.common.threads import run_beside
from exporter.config.schema import CloudLimits, Refresh
from exporter.config.units import format_duration
from exporter.deployments.aggregator import Aggregator, AggregatorOptions
from exporter.deployments.completions import CompletionMemory, Events, Ledger, events
from exporter.deployments.hashes import Sum
from exporter.deployments.names import NO_NAMES, ConfigTally, Names, NameTable, hashed, named
from exporter.deployments.snapshot import ConfigName, Snapshot
from exporter.deployments.state import ProjectKey, ProjectState
from exporter.metrics.families import CONFIG_NAMES, SERVER_NAMES
from exporter.openstack.heat import Listing
from exporter.openstack.session import CloudSession, Token

# A listing of more deployments is finished in a thread, for it could hold up the event loop.
LARGE_LISTING: Final = 2000

log = structlog.get_logger("refresh")


@dataclass(frozen=True, slots=True, kw_only=True)
class PollerSettings:
    """What all projects of a cloud share."""

    access: CloudSession
    gate: ConcurrencyLimit
    refresh: Refresh
    limits: CloudLimits
    fold: AggregatorOptions
    clock: Clock
    changed: Callable[[ProjectKey], asyncio.Future[None]]
    """Called after each change of a project's state; the result is done when the page shows it."""
    attempted: Callable[[float], None]
    """Called with each attempt's duration, before its outcome is published."""
    check_token: Callable[[Token], Awaitable[None]]
    """Called before Heat is asked with a token; raises AdministratorError if it must not be."""
    admit: Callable[[ProjectPoller, Token, tuple[int, ...]], AdministratorError | None]
    """Called with a response's token and sample before its data is shown; the error refuses it."""
    servers: tuple[str, ...] | None
    """The only ones to ask for, each with a request of its own; None: one request for all."""
    requests_of_a_round: Callable[[], int]
    """How many listings the cloud is asked for in an interval, all projects together."""
    families: frozenset[str]
    """The names of those that the page has."""
    duration_bounds: tuple[float, ...]
    manners: NameSettings | None
    """How to ask for names; None: not at all."""
    random: Callable[[], float] = random.random


def _same_finishes(one: PollerSettings, other: PollerSettings) -> bool:
    """Whether what finished is looked for in the same deployments."""
    return (
        one.fold.finishes == other.fold.finishes
        and one.fold.server_filter == other.fold.server_filter
        and frozenset(one.servers or ()) == frozenset(other.servers or ())
    )


class _Found(NamedTuple):
    """What one listing brought."""

    shared: PollerSettings
    """By which settings it was asked for."""
    names: Names
    """Those that were known when it was counted."""
    tally: ConfigTally
    kept: NameTable[ConfigName]
    """The names of configs that are to be kept."""
    events: Events
    size: int
    listing_time: float
    asked_steady: float
    snapshot: Snapshot
    token: Token
    """The response was requested with it."""
    sample: tuple[int, ...]
    """The smallest hashes of the deployments' ids."""
    sum: Sum | None
    """Identifies the ids of a response without duplicates."""
    repeats: bool
    """Whether what was counted is wrong, for the listing shows a deployment twice."""


class ProjectPoller:
    """One project: its state, and the loop that refreshes it until it is cancelled."""

    def __init__(self, key: ProjectKey, name: str, shared: PollerSettings) -> None:
        self.key = key
        self.state = ProjectState(key=key, name=name, interval=shared.refresh.interval)
        self.attempted = asyncio.Event()
        """Set once the first attempt has ended."""
        self.fetched_at = 0.0
        """When the data was asked for, by the steady clock."""
        self._shared = shared
        self._failures = 0
        self._listing_time = 0.0
        self._readmitted = asyncio.Event()
        """Set where a failing project may be asked again at once."""
        self._repaced = asyncio.Event()
        """Set when another interval is in force."""
        self._slow = False
        self._stretch = schedule.IntervalChanges()
        self._unfiltered = False
        """Whether the log has it that the cloud sends what it was not asked for."""
        self._repeats = False
        """Whether a listing showed a deployment twice."""
        self._distinct: Sum | None = None
        """Identifies the ids of the last response, if it had no duplicates."""
        self._memory: CompletionMemory | None = None
        """What is remembered of earlier responses to find completions; None: the next response is as the first."""
        self._administrator = False
        """Whether these were requested with an administrator's token."""
        self._suspended = False
        """Whether Heat is not asked before the next discovery."""
        self._tally = ConfigTally()
        self._named_with = NO_NAMES
        """What was known when it was last named."""
        self._naming = NameResolver(clock=shared.clock.steady)
        self._asking: asyncio.Task[None] | None = None
        self._may_ask = False
        """Whether names are asked for beside the refreshes."""

    async def run(self) -> None:
        """Refresh at the configured pace, for ever."""
        self._may_ask = True
        try:
            await self._run()
        finally:
            self._may_ask = False
            if self._asking is not None:
                self._asking.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        together = True
        while True:
            if self._suspended:
                await self._readmitted.wait()
                together = True
            try:
                started, error = await self.refresh()
            except Exception:
                # A mistake outside of what can fail: say so, and go on like after any failure.
                log.exception("internal error", cloud=self.key.cloud, project_id=self.key.project_id)
                self._failures += 1
                error = InternalError("see the log")
            if self._suspended:
                continue
            if error is not None:
                delay = schedule.retry_delay(
                    self._failures, self.state.interval, retry_after=error.retry_after, random=self._shared.random
                )
                self._readmitted.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._readmitted.wait()
                # What all wait for brings all of them together.
                together = together or self._readmitted.is_set() or error.retry_after > 0
                continue
            # All first refreshes start together; from the next on each has its own place in the interval.
            place = schedule.spread("/".join(self.key)) if together else 0.0
            together = False
            interval = self.state.interval
            turn, missed = schedule.next_turn(started + interval * place, interval, loop.time())
            if missed:
                self._replace(replace(self.state, skipped=self.state.skipped + missed))
            while not await self._slept(turn - loop.time()) and not self._suspended:
                longer, interval = self.state.interval > interval, self.state.interval
                other, _ = schedule.next_turn(started + interval * place, interval, loop.time())
                turn = other if longer else min(turn, other)

    async def _slept(self, seconds: float) -> bool:
        """Whether so many seconds have passed; False as soon as another interval is in force."""
        self._repaced.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._repaced.wait()
        except TimeoutError:
            return True
        return False

    async def refresh(self) -> tuple[float, RefreshError | None]:
        """One attempt: when it started by the loop's clock, and how it failed, if it did."""
        stage: list[Api] = ["identity"]
        error: RefreshError | None = None
        found: _Found | None = None
        async with self._shared.gate.turn(self.key.cloud, slow=self._slow):
            shared = self._shared  # for all of this refresh, whatever is configured meanwhile
            loop = asyncio.get_running_loop()
            started = loop.time()
            stopwatch = Deadline(shared.refresh.timeout)
            try:
                async with shared.access.in_use(), stopwatch:
                    found = await self._fetch(shared, stopwatch, stage)
            except RefreshError as failure:
                error = failure.alone()
            except TimeoutError:
                limit = format_duration(shared.refresh.timeout)
                text = f"the refresh took longer than refresh.timeout ({limit}); a large or slow project may need more,"
                error = DeadlineError(f"{text} {RAISE}", api=stage[0])
            except Exception as failure:
                log.exception("internal error", cloud=self.key.cloud, project_id=self.key.project_id)
                error = InternalError(f"{type(failure).__name__}: {failure}", api=stage[0])
            duration = stopwatch.elapsed()
        shared.attempted(duration)
        refused = shared.admit(self, found.token, found.sample) if found is not None and error is None else None
        if refused is not None and refused.until_discovery:
            self.refuse(refused, duration)
        elif (error := error or refused) is not None:
            self._failed(error, duration)
        elif found is not None:
            self._succeeded(found, duration)
        await shared.changed(self.key)
        self.attempted.set()
        return started, error or refused

    def expire(self) -> bool:
        """Withdraw the data if it has become too old; whether it has."""
        state = self.state
        if state.shown is None:
            return False
        limit = schedule.stale_limit(self._shared.refresh.stale_after, state.interval)
        if self._shared.clock.steady() - self.fetched_at <= limit:
            return False
        log.warning(
            "data withdrawn, too old",
            cloud=self.key.cloud,
            project_id=self.key.project_id,
            project=state.name,
            limit=format_duration(limit),
        )
        self.withdraw()
        return True

    def withdraw(self) -> None:
        """Show no data until the next success."""
        self._tally = ConfigTally()
        self._naming.forget()
        self._replace(replace(self.state, stale=True))

    def refuse(self, error: AdministratorError, duration: float | None = None) -> None:
        """Fail, show no data, and do not ask Heat before the next discovery."""
        self._suspended = True
        self._readmitted.clear()
        self._repaced.set()
        self.withdraw()
        self._failed(error, self.state.duration or 0.0 if duration is None else duration)

    def readmit(self) -> None:
        """Ask Heat again if the project was refused; called after each discovery."""
        if self._suspended:
            self._suspended = False
            self._readmitted.set()

    def rename(self, name: str) -> None:
        """Take over a project's new name."""
        if name != self.state.name:
            self._replace(replace(self.state, name=name))

    async def _fetch(self, shared: PollerSettings, stopwatch: Deadline, stage: list[Api]) -> _Found:
        token = await self._token(shared, stopwatch)
        try:
            stage[0] = "orchestration"
            return await self._list(shared, token, stopwatch)
        except AnswerError as error:
            if error.status != 401:
                raise
        # Revoked, or forgotten by Keystone: one renewal, one more try.
        stage[0] = "identity"
        token = await self._token(shared, stopwatch, rejected=token)
        stage[0] = "orchestration"
        return await self._list(shared, token, stopwatch)

    async def _token(self, shared: PollerSettings, stopwatch: Deadline, *, rejected: Token | None = None) -> Token:
        """The project's token; AdministratorError if Heat must not be asked with it."""
        token = await shared.access.token(self.key.project_id, stopwatch=stopwatch, rejected=rejected)
        if token.administrator and not shared.access.own_project:
            # Whether it is the entry's own token is known only after a login for the entry's own scope.
            await shared.access.token(stopwatch=stopwatch)
        await shared.check_token(token)
        return token

    def move(self, shared: PollerSettings) -> None:
        """Use other settings from now on; data, counters and the time of the next refresh stay, unless the interval
        changes."""
        if shared.access is not self._shared.access:
            # Other credentials or another address: what was wrong with the ones before says nothing of them.
            self._failures = 0
            self._suspended = False
            self._readmitted.set()
            self._naming.reopen()
        if not _same_finishes(shared, self._shared):
            # The next listing may show what it did not before, though it is no news.
            self._memory = None
        if shared.servers != self._shared.servers:
            self._unfiltered = False
        if shared.duration_bounds != self._shared.duration_bounds and self.state.ledger is not None:
            # One family, one set of bounds: the histogram begins anew.
            self._replace(replace(self.state, ledger=Ledger(self.state.ledger.finished)))
        self._shared = shared
        self.repace()

    def repace(self) -> None:
        """Use the effective interval, whatever has changed it."""
        if (interval := self._interval_in_force()) != self.state.interval:
            self._replace(replace(self.state, interval=interval))
            self._repaced.set()

    def _tell_stretched(self, interval: float) -> None:
        """Say it where the time that listings take begins or ceases to stretch the interval in force."""
        usual = self._interval_in_force(listing_time=0.0)
        news = self._stretch.news(interval, usual)
        if news is None:
            return
        begun = news == "begun"
        before, now = (usual, interval) if begun else (self._stretch.longer, usual)
        log.info(
            "interval stretched, for the listing is slow" if begun else "interval as usual again",
            cloud=self.key.cloud,
            project_id=self.key.project_id,
            project=self.state.name,
            listing_time=format_duration(self._listing_time),
            share=self._shared.refresh.share,
            **{"from": format_duration(before), "to": format_duration(now)},
        )

    def _interval_in_force(self, *, listing_time: float | None = None) -> float:
        shared = self._shared
        return schedule.interval_in_force(
            shared.refresh.interval,
            listing_time=self._listing_time if listing_time is None else listing_time,
            share=shared.refresh.share,
            requests=shared.requests_of_a_round(),
            requests_per_second=shared.limits.requests_per_second,
        )

    async def _list(self, shared: PollerSettings, token: Token, stopwatch: Deadline) -> _Found:
        found = await self._list_once(shared, token, stopwatch)
        if found.repeats:
            # No Heat does that. Counted once more, and ever after, in the way that keeps all ids at hand.
            self._repeats = True
            found = await self._list_once(shared, token, stopwatch)
        return found

    async def _list_once(self, shared: PollerSettings, token: Token, stopwatch: Deadline) -> _Found:
        await shared.access.admitted(stopwatch)
        began = stopwatch.elapsed()
        asked_steady = shared.clock.steady()
        names = self._known(shared)
        fold = Aggregator(
            shared.fold,
            asked_at=shared.clock.wall(),
            names=names.matter,
            # What only the one kind of token shows is no news to the other.
            memory=self._memory if token.administrator is self._administrator else None,
            compact=not self._repeats,
        )
        size = foreign = 0
        for number, server in enumerate(shared.servers or (None,)):
            if number:
                await shared.access.admitted(stopwatch)
            listing = Listing(
                shared.access,
                token,
                limit=shared.limits.response_bytes,
                silence=shared.refresh.silence,
                server=server,
                received=size,
            )
            async with aclosing(listing.batches()) as batches:
                async for batch in batches:
                    fold.add(batch)
            size += listing.size
            foreign += listing.foreign
        listing_time = stopwatch.elapsed() - began  # without the waits between requests
        fold.close()
        self._tell_unfiltered(foreign)
        return await self._finish(shared, token, fold, names, size, listing_time, asked_steady)

    def _tell_unfiltered(self, foreign: int) -> None:
        """Say it where the cloud begins or ceases to send deployments of servers that it was not asked for."""
        if bool(foreign) is self._unfiltered:
            return
        self._unfiltered = bool(foreign)
        if foreign:
            log.warning(
                "the cloud sends deployments of other servers than it is asked for; they are not counted, but"
                " servers.include would cost it less than servers.ids",
                cloud=self.key.cloud,
                project_id=self.key.project_id,
                project=self.state.name,
                records=foreign,
            )
        else:
            log.info(
                "the cloud sends what it is asked for again",
                cloud=self.key.cloud,
                project_id=self.key.project_id,
                project=self.state.name,
            )

    async def _finish(
        self,
        shared: PollerSettings,
        token: Token,
        fold: Aggregator,
        names: Names,
        size: int,
        listing_time: float,
        asked_steady: float,
    ) -> _Found:
        """What a fold found, ready to be shown; a large one is finished beside the event loop."""
        # Mostly a response has the same ids as the previous one: then nothing is sorted.
        known = fold.sum is not None and fold.sum == self._distinct

        overgrown = self._naming.overgrown(fold.listed)
        named_actions = (self.state.ledger or Ledger()).undocumented

        def count() -> tuple[Snapshot, ConfigTally, NameTable[ConfigName], Events, bool]:
            tally = fold.tally()
            kept = names.configs.only(tally.unnamed.values()) if overgrown else names.configs
            tally = tally.named_by(names.configs)
            snapshot = self._named(shared, fold.finish(response_bytes=size), tally, names)
            told = events(fold.sighted(), bounds=shared.duration_bounds, asked_at=fold.asked_at, named=named_actions)
            return snapshot, tally, kept, told, not known and fold.repeats()

        large = fold.listed > LARGE_LISTING
        snapshot, tally, kept, told, repeats = await run_beside(large, count, name="count")
        return _Found(
            shared=shared,
            names=names,
            tally=tally,
            kept=kept,
            events=told,
            size=size,
            listing_time=listing_time,
            asked_steady=asked_steady,
            snapshot=snapshot,
            token=token,
            sample=fold.sample,
            sum=fold.sum,
            repeats=repeats,
        )

    def _named(self, shared: PollerSettings, snapshot: Snapshot, tally: ConfigTally, names: Names) -> Snapshot:
        """The snapshot with the names that are known, also for families that only a reload may add."""
        return named(snapshot, tally, names, configs=shared.limits.configs)

    def _renamed(
        self, shared: PollerSettings, snapshot: Snapshot, tally: ConfigTally, names: Names
    ) -> tuple[ConfigTally, Snapshot]:
        """The same with more names."""
        tally = tally.named_by(names.configs)
        return tally, self._named(shared, snapshot, tally, names)

    def _known(self, shared: PollerSettings) -> Names:
        return self._naming.names if shared.manners is not None else NO_NAMES

    async def ask_for_names(self, *, at_once: bool = False) -> None:
        """Find out what the data's configs and servers are called, where that is due, and show it.

        `at_once`: beside other projects, and without pauses.
        """

        def manners() -> NameSettings | None:
            found = self._shared.manners
            return replace(found, pause=lambda took: 0.0) if found is not None and at_once else found

        current = manners()
        if (whole := self.state.shown) is not None and current is not None and self._naming.open(current):
            await self._ask_for_names(manners, whole, at_once=at_once)
        await self._show_names()

    async def _ask_for_names(
        self, manners: Callable[[], NameSettings | None], whole: Snapshot, *, at_once: bool
    ) -> None:
        configs, servers = [*self._tally.unnamed.values()], []
        if CONFIG_NAMES in self._shared.families:
            configs.append(hashed(row.config_id for row in whole.problems))
        if SERVER_NAMES in self._shared.families:
            servers.append(hashed(row.server_id for row in whole.servers))
        try:
            await self._naming.ask(
                manners,
                self.key.project_id,
                configs=configs,
                servers=servers,
                interval=self.state.interval,
                at_once=at_once,
            )
        except Exception:
            log.exception("internal error", cloud=self.key.cloud, project_id=self.key.project_id)
        if self.state.shown is None:
            self._naming.forget()  # the data was withdrawn meanwhile

    async def _show_names(self) -> None:
        """Show the data with the names that are known by now; for large data they are looked up in a worker thread."""
        while (whole := self.state.shown) is not None:
            shared, tally, names = self._shared, self._tally, self._known(self._shared)
            if names.same_as(self._named_with):
                return
            large = whole.total > LARGE_LISTING
            tally, called = await run_beside(large, partial(self._renamed, shared, whole, tally, names), name="names")
            if self.state.shown is whole and self._shared is shared:
                self._tally, self._named_with = tally, names
                self.state = replace(self.state, snapshot=called)
                await shared.changed(self.key)

    def _counted(self, told: Events) -> Ledger | None:
        """The finishes so far with those of a listing."""
        if not self._shared.fold.finishes:
            return None
        self._memory = told.memory
        return (self.state.ledger or Ledger()).with_more(told.digests)

    def _succeeded(self, found: _Found, duration: float) -> None:
        before = self.state
        self._listing_time = found.listing_time
        interval = self._interval_in_force()
        self._tell_stretched(interval)
        self._failures = 0
        self._slow = duration > self._shared.refresh.slow_after
        if before.up is False:
            log.info("recovered", cloud=self.key.cloud, project_id=self.key.project_id, project=before.name)
        self.fetched_at = found.asked_steady
        self._tally, self._named_with = found.tally, found.names
        if found.kept is not found.names.configs:
            self._naming.keep(found.kept, of=found.names.configs)
        self._distinct, self._administrator = found.sum, found.token.administrator
        self._suspended = False
        ledger = self._counted(found.events)
        if not _same_finishes(found.shared, self._shared):
            # Other settings came while it was under way: to the next listing, what this one did not show is no news.
            self._memory = None
        self._replace(before.succeeded(found.snapshot, duration=duration, interval=interval, ledger=ledger))
        if self._may_ask and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self.ask_for_names(), name=f"names {'/'.join(self.key)}")

    def _failed(self, error: RefreshError, duration: float) -> None:
        before = self.state
        self._failures += 1
        self._slow = duration > self._shared.refresh.slow_after
        if before.up is not False:
            log.warning(
                "refresh failed",
                cloud=self.key.cloud,
                project_id=self.key.project_id,
                project=before.name,
                api=error.api,
                reason=error.reason,
                error=str(error),
            )
        self._replace(before.failed(error, duration=duration, interval=self._interval_in_force()))

    def _replace(self, state: ProjectState) -> None:
        self.state = state
        self._shared.changed(self.key)
