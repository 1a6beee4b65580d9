"""Many 64-bit hashes, eight bytes each: sorted, compared and met with each other in steps.

A set of as many takes ten times the memory, and one call on all of them would hold the interpreter's lock, and with it
the event loop, for as long as it lasts.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

from exporter.steps import STEP

# Up to so many are looked up one by one.
FEW: Final = 8
_BITS: Final = 4
_PARTS: Final = 1 << _BITS
_MASK: Final = _PARTS - 1


class Gathered:
    """Hashes that come in any order, kept by their first bits until all are there; sorted they are in memory once."""

    def __init__(self, hashes: Iterable[int] = (), *, shift: int = 64 - _BITS) -> None:
        """`shift`: how many bits come after those that matter; the ones before are the same in all hashes."""
        self._shift = shift
        self._parts: list[array[int]] = [array("q") for _ in range(_PARTS)]
        self._ordered: array[int] | None = None
        self.extend(hashes)

    def __len__(self) -> int:
        return sum(map(len, self._parts)) if self._ordered is None else len(self._ordered)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ordered())

    def extend(self, hashes: Iterable[int]) -> None:
        """Add some more, before they are sorted."""
        assert self._ordered is None
        parts, shift = self._parts, self._shift
        for each in hashes:
            parts[(each >> shift) & _MASK].append(each)

    def ordered(self) -> array[int]:
        """All of them, sorted."""
        if self._ordered is None:
            self._ordered = array("q")
            for part in self.sorted_parts():
                self._ordered.extend(part)
        return self._ordered

    def sorted_parts(self) -> Iterator[list[int]]:
        """All of them, sorted, a part at a time, which is then no longer kept."""
        half = _PARTS // 2
        # The very first bit is the sign: negative ones come first.
        parts = self._parts[half:] + self._parts[:half] if self._shift == 64 - _BITS else self._parts
        self._parts = []
        parts.reverse()
        while parts:
            part = parts.pop()  # out of memory as soon as it is sorted
            if len(part) <= 2 * STEP or self._shift < _BITS:
                yield sorted(part)
            else:
                yield from Gathered(part, shift=self._shift - _BITS).sorted_parts()


def ordered(hashes: Iterable[int]) -> array[int]:
    """The hashes, sorted."""
    return Gathered(hashes).ordered()


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
