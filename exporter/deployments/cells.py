"""The cells of a response's counts: histograms of ages and codes, what is known of one status and action, the labels
that have a cell of their own, and the first deployments by time of change.

What is kept while counting is bounded whatever the response holds: so many labels, so many distinct codes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import timedelta
from itertools import accumulate
from typing import Final

import msgspec

from exporter.deployments.records import Deployment
from exporter.deployments.snapshot import OTHER, REASON_LENGTH, UNDOCUMENTED_LIMIT, Distribution

CODES_LIMIT: Final = 64
"""So many distinct codes have a label of their own; the rarest beyond them are OTHER."""
CODES_KNOWN: Final = 10_000
"""Codes first seen after so many distinct ones are counted as OTHER at once."""
ZERO: Final = timedelta()
# How many times what is wanted is kept before the rest is sorted out.
_SORTED_AT: Final = 8
_MICROSECOND: Final = timedelta(microseconds=1)
# A timedelta holds no more than the sum of some 1,300 ages of two thousand years.
_PORTION: Final = 1024


class Labels:
    """The values of one label that have a name of their own: the documented ones, and of others the first
    UNDOCUMENTED_LIMIT in lexical order; all the rest are OTHER.

    The counts of a value that is kept to the end are complete. It was among the first when it appeared, and it stayed
    so. A displaced value never returns, because only smaller values take its place.
    """

    def __init__(self, documented: Iterable[str]) -> None:
        self._documented = frozenset((*documented, OTHER))
        self._others: frozenset[str] = frozenset()
        self.kept = self._documented
        """Those that have a name of their own now."""

    def admit(self, values: Iterable[str]) -> frozenset[str]:
        """Consider these values too; the result is those that no longer have a name of their own."""
        others = self._others.union(values) - self._documented
        kept = frozenset(sorted(others)[:UNDOCUMENTED_LIMIT])
        displaced = self._others - kept
        self._others = kept
        self.kept = self._documented | kept
        return displaced

    def of(self, value: str | None) -> str:
        """The label of a value; a missing one has the value ""."""
        return text if (text := value or "") in self.kept else OTHER


class Ages:
    """An accumulating histogram of ages; an age below zero (the cloud's clock is ahead) counts as zero."""

    __slots__ = ("bounds", "count", "sizes", "total")

    def __init__(self, bounds: tuple[timedelta, ...]) -> None:
        self.bounds = bounds
        self.sizes = [0] * (len(bounds) + 1)
        """How many are between two bounds, the upper one included."""
        self.count = 0
        self.total = 0  # microseconds

    def add(self, ages: list[timedelta]) -> None:
        """Count ages that are sorted and not empty."""
        bounds, sizes = self.bounds, self.sizes
        # Mostly few of the bounds lie within a group of ages.
        lowest = bisect_left(bounds, ages[0])
        highest = bisect_left(bounds, ages[-1], lowest)
        below = 0
        for place in range(lowest, highest):
            so_far = bisect_right(ages, bounds[place], below)
            sizes[place] += so_far - below
            below = so_far
        sizes[highest] += len(ages) - below
        self.count += len(ages)
        start = 0 if ages[0] >= ZERO else bisect_left(ages, ZERO)
        while start < len(ages):
            self.total += sum(ages[start : start + _PORTION], ZERO) // _MICROSECOND
            start += _PORTION

    def merge(self, other: Ages) -> None:
        """Add what another histogram counted."""
        self.sizes = [mine + theirs for mine, theirs in zip(self.sizes, other.sizes)]
        self.count += other.count
        self.total += other.total

    def distribution(self) -> Distribution:
        """The histogram's content."""
        bounds = tuple(bound.total_seconds() for bound in self.bounds)
        return Distribution(bounds, tuple(accumulate(self.sizes[:-1])), self.count, self.total / 10**6)


class CodeHistogram:
    """A histogram of exit codes, whatever their size."""

    __slots__ = ("bounds", "count", "sizes", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.sizes = [0] * (len(bounds) + 1)
        """How many are between two bounds, the upper one included."""
        self.count = 0
        self.total = 0

    def add(self, code: int, count: int) -> None:
        """Count a code so many times."""
        self.sizes[bisect_left(self.bounds, code)] += count
        self.count += count
        self.total += code * count

    def merge(self, other: CodeHistogram) -> None:
        """Add what another histogram counted."""
        self.sizes = [mine + theirs for mine, theirs in zip(self.sizes, other.sizes)]
        self.count += other.count
        self.total += other.total

    def distribution(self) -> Distribution:
        """The histogram's content."""
        try:
            total = float(self.total)
        except OverflowError:  # an integer that no double holds
            total = float("inf") if self.total > 0 else float("-inf")
        return Distribution(self.bounds, tuple(accumulate(self.sizes[:-1])), self.count, total)


class Codes:
    """Exit codes: exact ones by status, and those that deployments ended with by action, as histograms."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._known: set[int] = set()
        self._counts: defaultdict[str, Counter[int | str]] = defaultdict(Counter)
        """By status, then by code."""
        self._histograms: dict[str, CodeHistogram] = {}
        """By action."""

    def add(self, status: str, action: str, code: int | str, count: int) -> None:
        """Count a code (an integer, `none` or `invalid`) of deployments with this status and action."""
        if isinstance(code, int):
            if status in ("COMPLETE", "FAILED"):
                if (histogram := self._histograms.get(action)) is None:
                    histogram = self._histograms[action] = CodeHistogram(self._bounds)
                histogram.add(code, count)
            if code not in self._known:
                if len(self._known) < CODES_KNOWN:
                    self._known.add(code)
                else:
                    code = OTHER
        self._counts[status][code] += count

    def join_status(self, status: str, target: str) -> None:
        """Count the codes of one status as those of another."""
        self._counts[target].update(self._counts.pop(status, Counter()))

    def join_action(self, action: str, target: str) -> None:
        """Count the codes of one action as those of another."""
        if (histogram := self._histograms.pop(action, None)) is not None:
            if target in self._histograms:
                histogram.merge(self._histograms[target])
            self._histograms[target] = histogram

    def labelled(self) -> dict[tuple[str, str], int]:
        """Deployments by status and code's label; the rarest integers beyond the limit are `other`."""
        frequency: Counter[int] = Counter()
        for counts in self._counts.values():
            frequency.update({code: count for code, count in counts.items() if isinstance(code, int)})
        kept = set(sorted(frequency, key=lambda code: (-frequency[code], code))[:CODES_LIMIT])
        labelled: Counter[tuple[str, str]] = Counter()
        for status, counts in self._counts.items():
            for code, count in counts.items():
                labelled[status, str(code) if isinstance(code, str) or code in kept else OTHER] += count
        return dict(labelled)

    def distributions(self) -> dict[str, Distribution]:
        """The histograms' contents by action."""
        return {action: histogram.distribution() for action, histogram in self._histograms.items()}


class Cell:
    """What is known of the deployments with one status and action."""

    __slots__ = ("ages", "count", "newest", "oldest", "servers", "state_ages", "stuck")

    def __init__(self, bounds: tuple[timedelta, ...]) -> None:
        self.count = 0
        self.ages = Ages(bounds)
        self.state_ages = Ages(bounds)
        self.oldest: timedelta | None = None
        self.newest: timedelta | None = None
        self.stuck = 0
        self.servers: Counter[str] = Counter()

    def merge(self, other: Cell) -> None:
        """Add what another cell counted."""
        self.count += other.count
        self.ages.merge(other.ages)
        self.state_ages.merge(other.state_ages)
        self.spread(other.oldest, other.newest)
        self.stuck += other.stuck
        self.servers.update(other.servers)

    def spread(self, oldest: timedelta | None, newest: timedelta | None) -> None:
        """Widen the span of change ages."""
        if oldest is not None and (self.oldest is None or oldest > self.oldest):
            self.oldest = oldest
        if newest is not None and (self.newest is None or newest < self.newest):
            self.newest = newest


class FirstDeployments:
    """The first so many of some deployments, by a key that is their time of change or its reverse, and by id."""

    __slots__ = ("_entries", "_last", "_limit", "size")

    def __init__(self, limit: int) -> None:
        self.size = 0
        """How many there were."""
        self._limit = limit
        self._entries: list[tuple[timedelta, str, Deployment]] = []
        self._last: timedelta | None = None
        """Whatever comes after this is not among the first."""

    def add(self, keyed: list[tuple[timedelta, Deployment]]) -> None:
        """Consider some more."""
        self.size += len(keyed)
        if (last := self._last) is not None:
            keyed = [each for each in keyed if each[0] <= last]
        self._entries += [(key, record.id, _brief(record)) for key, record in keyed]
        if len(self._entries) > _SORTED_AT * self._limit:
            self._sort()

    def _sort(self) -> None:
        self._entries.sort(key=_place)
        del self._entries[self._limit :]
        if len(self._entries) == self._limit:
            self._last = self._entries[-1][0]

    def first(self, limit: int) -> list[tuple[timedelta, Deployment]]:
        """The first of them, in order."""
        self._sort()
        return [(key, record) for key, _, record in self._entries[:limit]]


def _brief(record: Deployment) -> Deployment:
    """The record with no more of its reason than is ever shown."""
    reason = record.status_reason
    if reason is None or len(reason) <= REASON_LENGTH:
        return record
    return msgspec.structs.replace(record, status_reason=reason[:REASON_LENGTH])


def _place(entry: tuple[timedelta, str, Deployment]) -> tuple[timedelta, str]:
    return entry[:2]
