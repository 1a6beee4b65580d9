"""Many 64-bit hashes, eight bytes each: sorted, compared and met with each other in steps.

A set of as many takes ten times the memory, and one call on all of them would hold the interpreter's lock, and with it
the event loop, for as long as it lasts.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from exporter.steps import STEP, in_steps

# Up to so many are looked up one by one.
FEW: Final = 8
# The memory of so many is the system's again as soon as they are let go.
_RUN: Final = 32 * 1024
_COARSE: Final = 128 * 1024
# Sorted at a time, which takes a fraction of a millisecond.
_FINE: Final = 128


class Sum(NamedTuple):
    """By which many hashes are known again, in whatever order they come: as random as they are, others that are as many
    have another sum."""

    size: int
    total: int


class Gathered:
    """Hashes as they come; sorted only where that is asked for, and then they are in memory once."""

    def __init__(self) -> None:
        self._runs: list[array[int]] = []
        self._ordered: array[int] | None = None
        self.sum = Sum(0, 0)
        """Of all so far."""

    def __len__(self) -> int:
        return self.sum.size

    def __iter__(self) -> Iterator[int]:
        return iter(self.ordered())

    def extend(self, hashes: Collection[int]) -> None:
        """Add some more, before they are sorted."""
        assert self._ordered is None
        if not self._runs or len(self._runs[-1]) >= _RUN:
            self._runs.append(array("q"))
        self._runs[-1].extend(array("q", hashes))
        self.sum = Sum(self.sum.size + len(hashes), self.sum.total + sum(hashes))

    def ordered(self) -> array[int]:
        """All of them, sorted."""
        if self._ordered is None:
            result = array("q")
            runs, self._runs = self._runs, []
            bits = (len(self) // _COARSE).bit_length()
            coarse = [[part] for part in reversed(_parted(runs, bits, after=0))] if bits else [runs]
            size = len(self) >> bits
            while coarse:
                for part in _parted(coarse.pop(), max(1, (size // _FINE).bit_length()), after=bits):
                    result.extend(sorted(part))
            self._ordered = result
        return self._ordered


def _parted(runs: list[array[int]], bits: int, *, after: int) -> list[array[int]]:
    """The hashes of some runs, which are let go, by so many of their bits, `after` those that are the same in all."""
    count, shift = 1 << bits, 64 - after - bits
    parts = [array("q") for _ in range(count)]
    mask = count - 1
    while runs:
        for each in runs.pop():
            parts[(each >> shift) & mask].append(each)
    if not after:  # the first bit is the sign: negative ones come first
        parts = parts[count // 2 :] + parts[: count // 2]
    return parts


def ordered(hashes: Iterable[int]) -> array[int]:
    """The hashes, sorted."""
    gathered = Gathered()
    for run in in_steps(hashes):
        gathered.extend(run)
    return gathered.ordered()


def repeated(hashes: array[int]) -> bool:
    """Whether any of the hashes, which are sorted, stands there twice."""
    return any(len(set(run)) < len(run) for run in _runs(hashes, overlap=1))


def without(hashes: array[int], others: array[int]) -> array[int]:
    """Those of the hashes that are not among others; all are sorted, and so is the result."""
    if not others:
        return hashes
    result = array("q")
    for run in _runs(hashes):
        result.extend(sorted(set(run).difference(_between(others, run))))
    return result


def common(hashes: array[int], others: array[int]) -> array[int]:
    """Those of the hashes that are among others; all are sorted, and so is the result."""
    fewer, more = (hashes, others) if len(hashes) <= len(others) else (others, hashes)
    if len(fewer) <= FEW:
        places = ((each, bisect_left(more, each)) for each in fewer)
        return array("q", [each for each, place in places if place < len(more) and more[place] == each])
    result = array("q")
    for run in _runs(fewer):
        result.extend(sorted(set(run).intersection(_between(more, run))))
    return result


def _runs(hashes: array[int], *, overlap: int = 0) -> Iterator[array[int]]:
    for start in range(0, len(hashes), STEP):
        yield hashes[start : start + STEP + overlap]


def _between(hashes: array[int], run: array[int]) -> array[int]:
    """Those of the hashes that lie within a run's span."""
    return hashes[bisect_left(hashes, run[0]) : bisect_right(hashes, run[-1])]
