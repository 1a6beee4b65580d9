"""Which deployments have finished since the listing before: events, found by comparing what two listings show.

A finish is a deployment that is COMPLETE or FAILED in a way (status, action, time of change, config) in which it was
not before. To tell, little has to be remembered of each project:

- the finishes of the last hour before the newest change that was seen. What changed earlier than that (by the cloud's
  own clock, as are all times here but one) is old news, however it comes to be in the listing; an hour is ample for
  the clocks of a cloud's engines to differ, and for a deployment to leave the listing and come back.
- what was IN_PROGRESS when it was last listed, and since when. Whatever that ends as is a finish, whatever time it
  bears; and it is how an action other than CREATE comes to have a duration.

What can't be told: several finishes of a deployment between two listings (the last one counts); a second finish within
the same second that is like the first in all that is listed; a finish that is first listed more than an hour after
later ones were.

That is some 150 bytes for each of them, whatever the number of deployments. The one foreign clock is the exporter's,
when it asked: a time that lies after it counts as that time, or one impossible date would make all others old news.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import nlargest
from operator import itemgetter
from typing import Final, NamedTuple

from exporter.deployments.records import Deployment
from exporter.deployments.snapshot import ACTIONS, OTHER, UNDOCUMENTED_LIMIT, Distribution, Exemplar, Tally

WINDOW: Final = timedelta(hours=1)
# Of those that are no longer listed no more are remembered, or as many as are listed where that is more, whatever
# the clocks say.
DEPARTED_LIMIT: Final = 10_000
FINAL: Final = ("COMPLETE", "FAILED")
# OpenMetrics allows an exemplar's labels 128 characters in all. An id that needs escapes, which some parsers can't read
# there, is no UUID and not worth the risk.
_EXEMPLARY: Final = re.compile(rf"[A-Za-z0-9_.:/+-]{{1,{128 - len('deployment_id')}}}")
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CompletionMemory:
    """What is remembered of a project's listings. Deployments' finishes and runs are kept as hashes."""

    floor: datetime
    """Nothing that changed before this is news."""
    settled: bool = True
    """False where no listing had a time yet: the floor is then by the exporter's clock, until one has."""
    known: Mapping[int, datetime] = field(default_factory=dict)
    """The finishes after it, by when they changed."""
    running: Mapping[int, datetime | None] = field(default_factory=dict)
    """What was IN_PROGRESS, and the earliest change that it was seen with."""
    running_ids: frozenset[int] = frozenset()
    """The hashes of the ids of these."""


class Finish(NamedTuple):
    """A deployment that was seen to have finished."""

    mark: int
    """What it is known by from now on."""
    status: str
    action: str
    seconds: float | None
    """How long it took, where its start is known."""
    deployment_id: str


class CompletionsFound(NamedTuple):
    """What one listing shows, as compared with what was remembered."""

    finishes: tuple[Finish, ...] = ()
    marks: Mapping[int, datetime] = {}
    """Every finish that is no old news, known or not."""
    running: Mapping[int, datetime | None] = {}
    running_ids: frozenset[int] = frozenset()
    newest: datetime | None = None
    """The latest change of all."""
    listed: int = 0
    """How many deployments are COMPLETE or FAILED."""
    base: CompletionMemory | None = None
    """What it was compared with; None for a first listing, which is only noted."""


class CompletionSearch:
    """Collects, batch by batch, what one listing shows. Without a memory it only takes note: the first listing after
    a start does not tell what is new."""

    def __init__(self, memory: CompletionMemory | None, *, asked_at: float) -> None:
        self._memory = memory
        self._asked_at = asked_at
        self._finishes: list[Finish] = []
        self._marks: dict[int, datetime] = {}
        self._running: dict[int, datetime | None] = {}
        self._running_ids: set[int] = set()
        self._newest: datetime | None = None
        self._listed = 0

    def revisited(self, hashes: Iterable[int]) -> frozenset[int]:
        """Those of these deployments (hashes of their ids) that were IN_PROGRESS when they were last listed."""
        memory = self._memory
        return memory.running_ids.intersection(hashes) if memory is not None and memory.running_ids else frozenset()

    def add(
        self,
        status: str | None,
        records: Sequence[Deployment],
        *,
        newest: datetime | None,
        timeless: bool,
        revisited: AbstractSet[int],
    ) -> None:
        """Look at deployments with this status: the latest of their changes, whether any has no time of change, and
        which of them (and of others) were IN_PROGRESS."""
        if newest is not None and (self._newest is None or newest > self._newest):
            self._newest = newest
        if status == "IN_PROGRESS":
            self._run(records)
        elif status in FINAL:
            self._listed += len(records)
            floor = self._floor()
            if revisited:
                records = [
                    record
                    for record in records
                    if (at := record.updated_time or record.creation_time) is None
                    or at >= floor
                    or hash(record.id) in revisited
                ]
            elif timeless or (newest is not None and newest >= floor):
                records = [r for r in records if (at := r.updated_time or r.creation_time) is None or at >= floor]
            else:
                return  # nearly always, and why this costs next to nothing
            marked = list(zip(_marks(records), records))
            if not revisited:
                # None is old news that was IN_PROGRESS before: all are of now, and those known are done with.
                self._marks.update((mark, _changed(record) or _LAST) for mark, record in marked)
                known = self._memory.known if self._memory is not None else {}
                marked = [each for each in marked if each[0] not in known]
            if self._memory is not None:
                self._compare(self._memory, marked)

    def _floor(self) -> datetime:
        if self._memory is not None:
            return self._memory.floor
        return _horizon(self._newest, self._asked_at)

    def _run(self, records: Sequence[Deployment]) -> None:
        before = self._memory.running if self._memory is not None else {}
        for record in records:
            run = _run(record)
            self._running[run] = before.get(run) or _changed(record)
            self._running_ids.add(hash(record.id))

    def _compare(self, memory: CompletionMemory, marked: Iterable[tuple[int, Deployment]]) -> None:
        for mark, record in marked:
            changed = _changed(record)
            run = _run(record)
            ran = run in memory.running
            began = memory.running.get(run)
            if mark not in memory.known and not ran and changed is not None and changed < memory.floor:
                continue
            self._marks[mark] = changed or _LAST
            # Known, and IN_PROGRESS in between: the same action has ended twice within a second. An older time is none
            # of that but an answer from a database that lags behind.
            again = ran and began is not None and changed is not None and changed >= began
            if mark in memory.known and not again:
                continue
            start = record.creation_time if record.action == "CREATE" else began
            seconds = max(0.0, (changed - start).total_seconds()) if changed and start else None
            self._finishes.append(Finish(mark, record.status or "", record.action or "", seconds, record.id))

    def result(self) -> CompletionsFound:
        """Everything together."""
        return CompletionsFound(
            tuple(self._finishes),
            self._marks,
            self._running,
            frozenset(self._running_ids),
            self._newest,
            self._listed,
            self._memory,
        )


def _changed(record: Deployment) -> datetime | None:
    return record.updated_time or record.creation_time


def _marks(records: Iterable[Deployment]) -> list[int]:
    # The config is new with each action of a stack: it tells two updates apart that end within the same second.
    return [hash((each.id, each.status, each.action, each.updated_time, each.config_id)) for each in records]


def _run(record: Deployment) -> int:
    return hash((record.id, record.action, record.config_id))


def _horizon(newest: datetime | None, asked_at: float) -> datetime:
    """What lies before this is old news to a listing with this latest change."""
    asked = _EPOCH + timedelta(seconds=asked_at)
    newest = asked if newest is None else min(newest, asked)
    return newest - WINDOW if newest - _FIRST > WINDOW else _FIRST


def remember(memory: CompletionMemory | None, sighted: CompletionsFound, *, asked_at: float) -> CompletionMemory:
    """What to remember after a listing that was asked for at this Unix time."""
    floor, settled = _horizon(sighted.newest, asked_at), sighted.newest is not None
    memory = memory or CompletionMemory(floor, settled=settled)
    if memory.settled:
        floor, settled = max(memory.floor, floor) if settled else memory.floor, True
    departed = {mark: at for mark, at in memory.known.items() if at >= floor and mark not in sighted.marks}
    limit = max(DEPARTED_LIMIT, sighted.listed)
    if len(departed) > limit:
        departed = dict(nlargest(limit, departed.items(), key=itemgetter(1)))
    known = departed | {mark: at for mark, at in sighted.marks.items() if at >= floor}
    return CompletionMemory(floor, settled, known, sighted.running, sighted.running_ids)


class Digest(NamedTuple):
    """Some finishes of one status and action, counted."""

    status: str
    action: str
    tally: Tally
    durations: Distribution


def digest(
    finishes: Iterable[Finish],
    *,
    bounds: tuple[float, ...],
    asked_at: float,
    named: AbstractSet[str] = frozenset(),
) -> tuple[Digest, ...]:
    """The finishes by status and action, and their durations by these upper bounds.

    `named` are the undocumented actions that have a name of their own already; beyond the limit of these the others are
    counted together, so that a response with many different ones takes no memory for it.

    The latest one of each bucket is its exemplar, at the instant of the refresh (Unix time): on the same clock as the
    scrapes, and never out of order.
    """
    groups: defaultdict[tuple[str, str], list[Finish]] = defaultdict(list)
    others = set(named)
    for finish in finishes:
        action = _label(finish.action, others)
        if action not in ACTIONS and action != OTHER:
            others.add(action)
        groups[finish.status, action].append(finish)
    result = []
    for (status, action), group in groups.items():
        sizes = [0] * (len(bounds) + 1)
        exemplars: list[Exemplar | None] = [None] * len(sizes)
        total = 0.0
        last: Exemplar | None = None
        for finish in group:
            fits = _EXEMPLARY.fullmatch(finish.deployment_id) is not None
            if fits:
                last = Exemplar(finish.deployment_id, 1.0, asked_at)
            if finish.seconds is not None:
                place = bisect_left(bounds, finish.seconds)
                sizes[place] += 1
                total += finish.seconds
                if fits:
                    exemplars[place] = Exemplar(finish.deployment_id, finish.seconds, asked_at)
        cumulative = [sum(sizes[: place + 1]) for place in range(len(bounds))]
        durations = Distribution(bounds, tuple(cumulative), sum(sizes), total, tuple(exemplars))
        result.append(Digest(status, action, Tally(len(group), last), durations))
    return tuple(result)


class Events(NamedTuple):
    """What one response told of completions, counted, and what to remember of it."""

    digests: tuple[Digest, ...]
    memory: CompletionMemory


def events(
    sighted: CompletionsFound, *, bounds: tuple[float, ...], asked_at: float, named: AbstractSet[str] = frozenset()
) -> Events:
    """What a response that was asked for at this Unix time told (`named`: as for `digest`)."""
    digests = digest(sighted.finishes, bounds=bounds, asked_at=asked_at, named=named)
    return Events(digests, remember(sighted.base, sighted, asked_at=asked_at))


Cell = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a project's deployments were seen to finish as since the start, by status and action; it only grows."""

    finished: Mapping[Cell, Tally] = field(default_factory=dict)
    durations: Mapping[Cell, Distribution] = field(default_factory=dict)

    def with_more(self, digests: Iterable[Digest]) -> Ledger:
        """The same and these; durations of other bounds than before begin anew."""
        finished, durations = dict(self.finished), dict(self.durations)
        for each in digests:
            cell = each.status, _label(each.action, _undocumented(finished))
            before = finished.get(cell, Tally(0))
            finished[cell] = Tally(before.size + each.tally.size, each.tally.exemplar or before.exemplar)
            if each.durations.size:
                had = durations.get(cell)
                same = had is not None and had.bounds == each.durations.bounds
                durations[cell] = _sum(had, each.durations) if had and same else each.durations
        return Ledger(finished, durations)

    @property
    def undocumented(self) -> frozenset[str]:
        """The undocumented actions that have a name of their own."""
        return _undocumented(self.finished)


def _undocumented(finished: Iterable[Cell]) -> frozenset[str]:
    return frozenset(action for _, action in finished).difference(ACTIONS, (OTHER,))


def _label(action: str, others: AbstractSet[str]) -> str:
    return action if action in ACTIONS or action in others or len(others) < UNDOCUMENTED_LIMIT else OTHER


def _sum(one: Distribution, other: Distribution) -> Distribution:
    return Distribution(
        one.bounds,
        tuple(mine + theirs for mine, theirs in zip(one.cumulative, other.cumulative, strict=True)),
        one.size + other.size,
        one.total + other.total,
        tuple(new or old for old, new in zip(one.exemplars, other.exemplars, strict=True)),
    )
