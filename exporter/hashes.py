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
_BITS: Final = 8
_PARTS: Final = 1 << _BITS


def ordered(hashes: Iterable[int]) -> array[int]:
    """The hashes, sorted."""
    # By their first bits: evenly spread, as hashes are, so no part is large.
    parts: list[array[int]] = [array("q") for _ in range(_PARTS)]
    for each in hashes:
        parts[each >> (64 - _BITS)].append(each)
    result = array("q")
    for part in (*parts[_PARTS // 2 :], *parts[: _PARTS // 2]):  # negative ones first
        result.extend(sorted(part))
    return result


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
