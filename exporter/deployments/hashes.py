"""64-bit hashes of many ids, eight bytes each, to find duplicates in a response and to compare it with others.

A set of as many takes ten times the memory, and one call on all of them would hold the interpreter's lock, and with it
the event loop, for as long as it lasts.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection
from typing import Final, NamedTuple

from exporter.common.chunking import STEP

SAMPLE_SIZE: Final = 64
"""How many of the smallest hashes represent a response."""
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


def repeated(hashes: array[int]) -> bool:
    """Whether any of the hashes, which are sorted, occurs twice."""
    runs = (hashes[start : start + STEP + 1] for start in range(0, len(hashes), STEP))
    return any(len(set(run)) < len(run) for run in runs)


class Smallest:
    """Collects the SAMPLE_SIZE smallest different hashes.

    Which they are does not depend on the order, and two collections that share most of their hashes share most of the
    smallest ones.
    """

    __slots__ = ("_limit", "values")

    def __init__(self) -> None:
        self.values: tuple[int, ...] = ()
        """The smallest hashes so far, sorted."""
        self._limit: int | None = None
        """Only a smaller hash is added; None while there are fewer than SAMPLE_SIZE."""

    def add(self, hashes: Collection[int]) -> None:
        """Consider more hashes."""
        if (limit := self._limit) is not None:
            hashes = [each for each in hashes if each < limit]
        if hashes:
            self.values = tuple(sorted({*self.values, *hashes})[:SAMPLE_SIZE])
            if len(self.values) == SAMPLE_SIZE:
                self._limit = self.values[-1]
