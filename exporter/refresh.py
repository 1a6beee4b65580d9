"""Keeping one project's data fresh: one refresh at a time, one ladder from whatever went wrong to one reason.

The loop owns the project's state and replaces it whole after each attempt. It logs once when the project breaks and
once when it recovers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

import structlog

from exporter import pace
from exporter.access import CloudAccess, Token
from exporter.clock import Clock
from exporter.config import CloudLimits, Refresh
from exporter.errors import AnswerError, Api, DeadlineError, InternalError, RefreshError
from exporter.errors import DecodeError as ListingError
from exporter.exposition import Block
from exporter.fold import Fold, FoldOptions
from exporter.gate import Gate
from exporter.orchestration import Listing
from exporter.snapshot import Snapshot
from exporter.state import ProjectKey, ProjectState
from exporter.stopwatch import Stopwatch
from exporter.threads import run_blocking
from exporter.units import format_duration

# A listing of more deployments is finished in a thread, for it could hold up the event loop.
LARGE_LISTING: Final = 2000

log = structlog.get_logger("refresh")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all projects of a cloud share."""

    access: CloudAccess
    gate: Gate
    refresh: Refresh
    limits: CloudLimits
    fold: FoldOptions
    clock: Clock
    render: Callable[[ProjectState, Snapshot], Mapping[str, Block]]
    """The data's blocks by family; runs in a thread for a large snapshot."""
    publish: Callable[[ProjectWatch], None]
    """Called after each change of a watch's state."""
    attempted: Callable[[float], None]
    """Called with each attempt's duration, before its outcome is published."""
    project_count: Callable[[], int]
    random: Callable[[], float] = random.random


class ProjectWatch:
    """One project: its state, and the loop that refreshes it until it is cancelled."""

    def __init__(self, key: ProjectKey, name: str, shared: Surroundings) -> None:
        self.key = key
        self.state = ProjectState(key=key, name=name, interval=shared.refresh.interval)
        self.attempted = asyncio.Event()
        """Set once the first attempt has ended."""
        self.fetched_at = 0.0
        """When the data was asked for, by the steady clock."""
        self.blocks: Mapping[str, Block] = {}
        """The data as the page shows it."""
        self._shared = shared
        self._failures = 0
        self._slow = False

    async def run(self) -> None:
        """Refresh at the configured pace, for ever."""
        loop = asyncio.get_running_loop()
        first = True
        while True:
            try:
                started, error = await self.refresh()
            except Exception:
                # A mistake outside of what can fail: say so, and go on like after any failure.
                log.exception("internal error", cloud=self.key.cloud, project_id=self.key.project_id)
                self._failures += 1
                error = InternalError("see the log")
            interval = self.state.interval
            if error is not None:
                delay = pace.retry_delay(
                    self._failures, interval, retry_after=error.retry_after, random=self._shared.random
                )
                await asyncio.sleep(delay)
                continue
            if first:
                # All first refreshes start together; from the second on each has its own place in the interval.
                started += interval * pace.spread("/".join(self.key))
                first = False
            turn, missed = pace.next_turn(started, interval, loop.time())
            if missed:
                self._replace(replace(self.state, skipped=self.state.skipped + missed))
            await asyncio.sleep(turn - loop.time())

    async def refresh(self) -> tuple[float, RefreshError | None]:
        """One attempt: when it started by the loop's clock, and how it failed, if it did."""
        shared = self._shared
        stage: list[Api] = ["identity"]
        error: RefreshError | None = None
        snapshot: Snapshot | None = None
        async with shared.gate.turn(self.key.cloud, slow=self._slow):
            loop = asyncio.get_running_loop()
            started = loop.time()
            stopwatch = Stopwatch(shared.refresh.timeout)
            listing_time, blocks = 0.0, self.blocks
            try:
                async with stopwatch:
                    snapshot, listing_time, blocks = await self._fetch(stopwatch, stage)
            except RefreshError as failure:
                error = failure
            except TimeoutError:
                limit = format_duration(shared.refresh.timeout)
                error = DeadlineError(f"the refresh took longer than refresh.timeout ({limit})", api=stage[0])
            except Exception as failure:
                log.exception("internal error", cloud=self.key.cloud, project_id=self.key.project_id)
                error = InternalError(f"{type(failure).__name__}: {failure}", api=stage[0])
            duration = stopwatch.elapsed()
        shared.attempted(duration)
        if snapshot is not None:
            self.blocks = blocks
            self._succeeded(snapshot, duration, listing_time)
        elif error is not None:
            self._failed(error, duration)
        self.attempted.set()
        return started, error

    def expire(self) -> None:
        """Withdraw the data where it has become too old."""
        state = self.state
        if state.shown is None:
            return
        limit = pace.stale_limit(self._shared.refresh.stale_after, state.interval)
        if self._shared.clock.steady() - self.fetched_at > limit:
            log.warning(
                "data withdrawn, too old",
                cloud=self.key.cloud,
                project_id=self.key.project_id,
                project=state.name,
                limit=format_duration(limit),
            )
            self.blocks = {}
            self._replace(replace(state, stale=True))

    def rename(self, name: str) -> None:
        """Take over a project's new name."""
        if name != self.state.name:
            state = replace(self.state, name=name)
            if state.shown is not None:
                self.blocks = self._shared.render(state, state.shown)
            self._replace(state)

    async def _fetch(self, stopwatch: Stopwatch, stage: list[Api]) -> tuple[Snapshot, float, Mapping[str, Block]]:
        """The snapshot, how long its listing took, and the page's blocks of it."""
        access = self._shared.access
        token = await access.token(self.key.project_id, stopwatch=stopwatch)
        try:
            stage[0] = "orchestration"
            return await self._list(token, stopwatch)
        except AnswerError as error:
            if error.status != 401:
                raise
        # Revoked, or forgotten by Keystone: one renewal, one more try.
        stage[0] = "identity"
        token = await access.token(self.key.project_id, stopwatch=stopwatch, rejected=token)
        stage[0] = "orchestration"
        return await self._list(token, stopwatch)

    async def _list(self, token: Token, stopwatch: Stopwatch) -> tuple[Snapshot, float, Mapping[str, Block]]:
        shared = self._shared
        await shared.access.admitted(stopwatch)
        began = stopwatch.elapsed()
        asked_steady = shared.clock.steady()
        fold = Fold(shared.fold, asked_at=shared.clock.wall())
        listing = Listing(shared.access, token, limit=shared.limits.response_bytes, silence=shared.refresh.silence)
        async with aclosing(listing.batches()) as batches:
            async for batch in batches:
                fold.add(batch)
        listing_time = stopwatch.elapsed() - began
        if fold.rejected and not fold.usable:
            reasons = ", ".join(f"{count} {reason}" for reason, count in fold.rejected.items())
            raise ListingError(f"not one record of the listing is usable ({reasons})")

        def finish() -> tuple[Snapshot, Mapping[str, Block]]:
            snapshot = fold.finish(response_bytes=listing.size)
            return snapshot, shared.render(self.state, snapshot)

        large = fold.usable > LARGE_LISTING
        snapshot, blocks = await run_blocking(finish, name="finish") if large else finish()
        self.fetched_at = asked_steady
        return snapshot, listing_time, blocks

    def _succeeded(self, snapshot: Snapshot, duration: float, listing_time: float) -> None:
        shared = self._shared
        before = self.state
        interval = pace.interval_in_force(
            shared.refresh.interval,
            listing_time=listing_time,
            share=shared.refresh.share,
            requests=shared.project_count(),
            requests_per_second=shared.limits.requests_per_second,
        )
        self._failures = 0
        self._slow = duration > shared.refresh.slow_after
        if before.up is False:
            log.info("recovered", cloud=self.key.cloud, project_id=self.key.project_id, project=before.name)
        self._replace(before.succeeded(snapshot, duration=duration, interval=interval))

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
        self._replace(before.failed(error, duration=duration))

    def _replace(self, state: ProjectState) -> None:
        self.state = state
        self._shared.publish(self)
