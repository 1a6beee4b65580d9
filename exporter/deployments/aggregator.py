"""Counting records into a snapshot, batch by batch; no record outlives a few batches but those with rows of their own.

The work is done by C-level calls over a batch that was grouped by status and action, which takes half the time of one
plain loop; only the grouping itself is a loop over records.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from heapq import nsmallest
from operator import attrgetter, itemgetter
from typing import Final

from exporter.common.chunking import sorted_in_steps
from exporter.deployments.cells import ZERO, Ages, Cell, Codes, FirstDeployments, Labels
from exporter.deployments.completions import CompletionMemory, CompletionSearch, CompletionsFound
from exporter.deployments.hashes import Gathered, Smallest, Sum, repeated
from exporter.deployments.names import UNKNOWN, ConfigTally
from exporter.deployments.records import Batch, Deployment, exit_code
from exporter.deployments.snapshot import (
    ACTIONS,
    OTHER,
    STATUSES,
    TABLES,
    Problem,
    ProblemRow,
    ServerRow,
    Snapshot,
    Table,
)

IDS_LIMIT: Final = 1_000_000
"""So many distinct servers of a project are counted one by one."""
# Records that are counted at a time: fewer would cost more each, and more would hold up whoever waits for a page.
STEP_RECORDS: Final = 200
GROUP_RECORDS: Final = 128
"""So many of the same status and action are counted together."""
GROUPS: Final = 64
"""Of more groups none waits until it has so many."""
BATCHES: Final = 32
"""Nor does any for longer than so many batches: what waits is a few megabytes, however long single texts are."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_config_id: Final = attrgetter("config_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorOptions:
    """What to count: bucket bounds in seconds (ages) or codes, ascending; a limit of 0 means none of these series."""

    age_bounds: tuple[float, ...]
    code_bounds: tuple[float, ...]
    stuck_after: float
    servers: int
    problems: int = 0
    configs: bool = False
    """Whether to count by config."""
    finishes: bool = False
    """Whether to look for what has finished."""
    tables: frozenset[Table] = TABLES
    """Which tables to fill; what only others need is not even looked at."""
    server_filter: ServerFilter | None = None
    """Which servers' deployments count; None: all."""
    distinct_servers: int = IDS_LIMIT
    """Deployments of servers first seen after so many distinct ones count in totals only."""


@dataclass(frozen=True)
class ServerFilter:
    """A test of server ids by fully anchored regular expressions; exclude wins, no include means all.

    Filters with the same patterns are equal.
    """

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    admits: Callable[[str | None], bool] = field(init=False, repr=False, compare=False)
    """Whether a server's deployments count; a missing server has the id ""."""

    def __post_init__(self) -> None:
        """Compile the patterns."""
        wanted = [re.compile(pattern) for pattern in self.include]
        unwanted = [re.compile(pattern) for pattern in self.exclude]

        @lru_cache(maxsize=65536)
        def admits(server_id: str | None) -> bool:
            text = server_id or ""
            if any(pattern.fullmatch(text) for pattern in unwanted):
                return False
            return not wanted or any(pattern.fullmatch(text) for pattern in wanted)

        object.__setattr__(self, "admits", admits)


def server_filter(include: tuple[str, ...], exclude: tuple[str, ...]) -> ServerFilter | None:
    """The filter with these patterns; None without any."""
    return ServerFilter(include, exclude) if include or exclude else None


def _grouped() -> defaultdict[str | None, list[Deployment]]:
    return defaultdict(list)


class Aggregator:
    """Counts the batches of one listing that was asked for at `asked_at` (Unix seconds).

    Ids are kept as 64-bit hashes, which tell deployments apart well enough and cannot be provoked to collide. A
    `compact` fold takes it that the listing shows none twice, which spares it nine tenths of the memory for that: it
    knows only at the end whether that was so (`repeats`), and where it was not, what it counted is wrong.
    """

    def __init__(
        self,
        options: AggregatorOptions,
        *,
        asked_at: float,
        names: bool = False,
        memory: CompletionMemory | None = None,
        compact: bool = False,
    ) -> None:
        """`names`: whether configs have names or will have; `memory` is what is remembered of earlier listings."""
        self._options = options
        self.asked_at = asked_at
        """When the listing was asked for, Unix time."""
        self._now = _EPOCH + timedelta(seconds=asked_at)
        self._bounds = tuple(timedelta(seconds=bound) for bound in options.age_bounds)
        self._stuck_after = timedelta(seconds=options.stuck_after)
        self._codes = None if options.tables.isdisjoint(("codes", "code_distribution")) else Codes(options.code_bounds)
        self._changes = options.finishes or not options.tables.isdisjoint(
            ("state_ages", "oldest_changes", "newest_changes")
        )
        """Whether it matters when deployments changed that are not IN_PROGRESS, nor rows of their own."""
        self._statuses, self._actions = Labels(STATUSES), Labels(ACTIONS)
        self._cells: dict[tuple[str, str], Cell] = {}
        """By the labels of status and action."""
        self._server_ids: dict[str, str] = {}
        """Each server id by itself: every cell counts by the same object."""
        self._unlisted_servers = 0
        """How many deployments are of servers beyond the limit of distinct ones."""
        self._troubled: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._duplicates = 0
        self._seen: set[int] | Gathered = Gathered() if compact else set()
        self._smallest = Smallest()
        self._pending: list[Deployment] = []
        self._batches = 0
        """How many came since no record waited."""
        self._groups: defaultdict[str | None, defaultdict[str | None, list[Deployment]]] = defaultdict(_grouped)
        """Records by status and action, until there are enough of these to be counted. Not by both at once: a pair made
        for each record takes longer."""
        self._names = names
        self._failed = FirstDeployments(options.problems)
        self._stuck = FirstDeployments(options.problems)
        self._configs: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
        """The hashes of the configs by status, one for each deployment: a dictionary of their ids takes ten times the
        memory."""
        self._stuck_configs = array("q")
        self._sightings = CompletionSearch(memory, asked_at=asked_at)
        self._revisited: frozenset[int] = frozenset()
        """The deployments of the batch at hand that were IN_PROGRESS before."""

    def add(self, batch: Batch) -> None:
        """Count one batch, together with the next ones where it is small."""
        self._rejected.update(batch.rejected)
        self._pending += batch.records
        self._batches += 1
        if len(self._pending) >= STEP_RECORDS or self._batches >= BATCHES:
            self._count_pending()

    def close(self) -> None:
        """There are no more batches: what was met and counted is now complete."""
        self._count_pending()
        self._count_groups()

    def _count_pending(self) -> None:
        records, self._pending = self._pending, []
        if not records:
            return
        if (server_filter := self._options.server_filter) is not None:
            admits = server_filter.admits
            records = [record for record in records if admits(record.server_id)]
        groups = self._groups
        for record in self._fresh(records):
            groups[record.status][record.action].append(record)
        if not (
            groups.keys() <= self._statuses.kept and all(each.keys() <= self._actions.kept for each in groups.values())
        ):
            self._relabel()
            groups = self._groups
        at_once = self._revisited or self._batches >= BATCHES or sum(map(len, groups.values())) > GROUPS
        self._count_groups(1 if at_once else GROUP_RECORDS)

    def _relabel(self) -> None:
        """Put waiting records, and what was counted, under the labels that they have now that there are new values."""
        groups, self._groups = self._groups, defaultdict(_grouped)
        for status in self._statuses.admit(status or "" for status in groups):
            for _, action in [key for key in self._cells if key[0] == status]:
                self._join((status, action), (OTHER, action))
            if self._codes is not None:
                self._codes.join_status(status, OTHER)
            if status in self._configs:
                self._configs[OTHER].extend(self._configs.pop(status))
        for action in self._actions.admit(action or "" for actions in groups.values() for action in actions):
            for status, _ in [key for key in self._cells if key[1] == action]:
                self._join((status, action), (status, OTHER))
            if self._codes is not None:
                self._codes.join_action(action, OTHER)
        for value, actions in groups.items():
            labelled = self._groups[self._statuses.of(value)]
            for other, group in actions.items():
                labelled[self._actions.of(other)] += group

    def _join(self, key: tuple[str, str], target: tuple[str, str]) -> None:
        """Count the deployments of one cell in another."""
        cell = self._cells.pop(key)
        if target in self._cells:
            self._cells[target].merge(cell)
        else:
            self._cells[target] = cell

    def _count_groups(self, least: int = 1) -> None:
        """Count the groups that have at least so many records."""
        for status, actions in self._groups.items():
            for action, group in actions.items():
                if len(group) >= least:
                    actions[action] = []
                    self._count(status or "", action or "", group)
        if least == 1:
            self._groups.clear()
            self._batches = 0

    def _fresh(self, records: list[Deployment]) -> list[Deployment]:
        """The records whose id was not met before; the first of an id counts."""
        hashes = [hash(record.id) for record in records]
        self._revisited = self._sightings.revisited(hashes)
        self._smallest.add(hashes)
        seen = self._seen
        if isinstance(seen, Gathered):
            seen.extend(hashes)
            return records
        if seen.isdisjoint(hashes) and len(set(hashes)) == len(hashes):
            seen.update(hashes)
            return records
        fresh = []
        for identity, record in zip(hashes, records):
            if identity not in seen:
                seen.add(identity)
                fresh.append(record)
        self._duplicates += len(records) - len(fresh)
        return fresh

    @property
    def listed(self) -> int:
        """How many different deployments the listing has."""
        return len(self._seen)

    @property
    def sum(self) -> Sum | None:
        """Identifies the ids that a compact fold counted; None if the fold is not compact."""
        return self._seen.sum if isinstance(self._seen, Gathered) else None

    @property
    def sample(self) -> tuple[int, ...]:
        """The smallest hashes of the deployments' ids, sorted: similar responses have similar samples."""
        return self._smallest.values

    def repeats(self) -> bool:
        """Whether a compact fold counted a deployment more than once, because the response contains duplicates."""
        return isinstance(self._seen, Gathered) and repeated(self._seen.ordered())

    def _count(self, status: str, action: str, group: list[Deployment]) -> None:
        options, now = self._options, self._now
        if (cell := self._cells.get((status, action))) is None:
            cell = self._cells[status, action] = Cell(self._bounds)
        cell.count += len(group)
        if "ages" in options.tables and (
            created := [now - time for record in group if (time := record.creation_time) is not None]
        ):
            created.sort()
            cell.ages.add(created)
        if options.servers:
            servers = self._counted_servers([record.server_id or "" for record in group])
            cell.servers.update(servers)
            if status == "FAILED":
                self._troubled.update(servers)
        if self._changes or status == "IN_PROGRESS":
            self._count_changes(cell, status, group)
        if options.problems and status == "FAILED":
            self._failed.add([(now - at, each) for each in group if (at := each.updated_time or each.creation_time)])
        if options.configs and self._names:
            self._configs[status].extend(map(hash, map(_config_id, group)))
        if self._codes is not None:
            self._count_codes(self._codes, status, action, group)

    def _counted_servers(self, servers: list[str]) -> list[str]:
        """The ids of those servers that are counted one by one, each as the object that all cells share."""
        known, limit = self._server_ids, self._options.distinct_servers
        if len(known) + len(servers) <= limit:
            return list(map(known.setdefault, servers, servers))
        counted = [known.setdefault(server, server) for server in servers if server in known or len(known) < limit]
        self._unlisted_servers += len(servers) - len(counted)
        return counted

    def _count_changes(self, cell: Cell, status: str, group: list[Deployment]) -> None:
        options, now = self._options, self._now
        changed = [now - time for record in group if (time := record.updated_time or record.creation_time) is not None]
        if changed:
            changed.sort()
            if "state_ages" in options.tables:
                cell.state_ages.add(changed)
            cell.spread(
                changed[-1] if "oldest_changes" in options.tables else None,
                changed[0] if "newest_changes" in options.tables else None,
            )
            if status == "IN_PROGRESS" and (stuck := len(changed) - bisect_left(changed, self._stuck_after)):
                cell.stuck += stuck
                if options.servers or options.problems or options.configs:
                    self._count_stuck(group)
        if options.finishes:
            self._sightings.add(
                status,
                group,
                newest=self._at(changed[0]) if changed else None,
                timeless=len(changed) < len(group),
                revisited=self._revisited,
            )

    @staticmethod
    def _count_codes(counts: Codes, status: str, action: str, group: list[Deployment]) -> None:
        codes = [None if (outputs := record.output_values) is None else outputs.deploy_status_code for record in group]
        # Mostly all are alike, and else few are distinct: what they mean is worked out once for each.
        first = codes[0]
        if codes.count(first) == len(codes):
            counts.add(status, action, exit_code(first), len(codes))
        else:
            for code, count in Counter(codes).items():
                counts.add(status, action, exit_code(code), count)

    def _count_stuck(self, group: list[Deployment]) -> None:
        """Count those of a group that are stuck where each is one of its own."""
        since = self._now - self._stuck_after
        keyed = [
            (at - self._now, record)
            for record in group
            if (at := record.updated_time or record.creation_time) is not None and at <= since
        ]
        records = [record for _, record in keyed]
        if self._options.servers:
            servers = (record.server_id or "" for record in records)
            self._troubled.update(server for server in servers if server in self._server_ids)
        if self._options.problems:
            self._stuck.add(keyed)
        if self._options.configs and self._names:
            self._stuck_configs.extend(map(hash, map(_config_id, records)))

    def finish(self, *, response_bytes: int = 0) -> Snapshot:
        """The snapshot of all batches added."""
        self.close()
        cells, tables = self._cells, self._options.tables
        ages: dict[str, Ages] = {}
        state_ages: dict[str, Ages] = {}
        stuck: Counter[str] = Counter()
        for (status, action), cell in cells.items():
            for target, source in ((ages, cell.ages), (state_ages, cell.state_ages)):
                if source.count:
                    target.setdefault(status, Ages(self._bounds)).merge(source)
            stuck[action] += cell.stuck
        servers, withheld = self._server_rows()
        problems = self._problem_rows()
        return Snapshot(
            asked_at=self.asked_at,
            deployments={key: cell.count for key, cell in cells.items()},
            stuck=stuck,
            servers=servers,
            servers_withheld=withheld,
            problems=problems,
            problems_withheld=self._failed.size + self._stuck.size - len(problems) if self._options.problems else 0,
            codes=self._codes.labelled() if self._codes is not None and "codes" in tables else {},
            code_distribution=(
                self._codes.distributions() if self._codes is not None and "code_distribution" in tables else {}
            ),
            ages={status: each.distribution() for status, each in ages.items()},
            state_ages={status: each.distribution() for status, each in state_ages.items()},
            oldest_changes={key: self._time(cell.oldest) for key, cell in cells.items() if cell.oldest is not None},
            newest_changes={key: self._time(cell.newest) for key, cell in cells.items() if cell.newest is not None},
            rejected=dict(self._rejected),
            duplicates=self._duplicates,
            response_bytes=response_bytes,
        )

    def tally(self) -> ConfigTally:
        """What was counted by config."""
        self.close()
        if not self._options.configs:
            return ConfigTally()
        if self._names:
            return ConfigTally(unnamed=dict(self._configs), unnamed_stuck=self._stuck_configs)
        tally = ConfigTally()
        for (status, _), cell in self._cells.items():
            tally.counts[UNKNOWN, status] += cell.count
            tally.stuck[UNKNOWN] += cell.stuck
        return tally

    def sighted(self) -> CompletionsFound:
        """What was seen of finishes."""
        self.close()
        return self._sightings.result()

    def _problem_rows(self) -> tuple[ProblemRow, ...]:
        """As many failed and stuck deployments as allowed; both kinds are sure of half the places."""
        limit = self._options.problems
        if not limit:
            return ()
        stuck = min(self._stuck.size, max(limit // 2, limit - self._failed.size))
        chosen: tuple[tuple[Problem, FirstDeployments, int, int], ...] = (
            ("failed", self._failed, limit - stuck, 1),
            ("stuck", self._stuck, stuck, -1),
        )
        return tuple(
            ProblemRow(
                problem,
                record.id,
                record.server_id or "",
                record.config_id or "",
                record.status or "",
                self._actions.of(record.action),
                _code_label(record),
                self._time(key * sign),
                record.status_reason or "",
            )
            for problem, foremost, share, sign in chosen
            for key, record in foremost.first(share)
        )

    def _at(self, age: timedelta) -> datetime:
        """When that was; what only its offset puts before the year 1 or past 9999 is the first or last of all times."""
        try:
            return self._now - age
        except OverflowError:
            return _FIRST if age > ZERO else _LAST

    def _time(self, age: timedelta) -> float:
        return (self._now - _EPOCH - age).total_seconds()

    def _server_rows(self) -> tuple[tuple[ServerRow, ...], int]:
        """The rows of as many servers as allowed, the most troubled first, and how many rows are left out.

        Those of servers beyond the limit of distinct ones can't be told apart: each of their deployments is one.
        """
        limit = self._options.servers
        if not limit:
            return (), 0
        cells = [(key, cell.servers) for key, cell in sorted(self._cells.items(), key=itemgetter(0))]
        rows = [
            ServerRow(server, *key, count)
            for server in self._first_servers(limit)
            for key, counts in cells
            if (count := counts.get(server))
        ]
        return tuple(rows), sum(len(counts) for _, counts in cells) - len(rows) + self._unlisted_servers

    def _first_servers(self, limit: int) -> list[str]:
        """So many servers, the most troubled first."""
        troubled = self._troubled
        others = (server for server in self._server_ids if server not in troubled)
        if len(self._server_ids) <= limit:
            return sorted_in_steps(troubled, key=lambda server: (-troubled[server], server)) + sorted_in_steps(
                others, key=str
            )
        hurt = nsmallest(limit, troubled, key=lambda server: (-troubled[server], server))
        return hurt + nsmallest(limit - len(hurt), others)


def _code_label(record: Deployment) -> str:
    code = exit_code(record.output_values.deploy_status_code if record.output_values is not None else None)
    return "" if code == "none" else str(code)
