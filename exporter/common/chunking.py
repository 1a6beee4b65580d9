"""Long work in short steps: one call on many things would hold the interpreter's lock, and with it the event loop, for
as long as it lasts, also from another thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, zip_longest
from typing import Any, Final, TypeVar

STEP: Final = 4096
"""Of how many things one call sorts or compares at most, but where it merges two runs, which is quickly done."""

T = TypeVar("T")


def in_steps(items: Iterable[T], size: int = STEP) -> Iterator[list[T]]:
    """The same things in lists of so many."""
    source = iter(items)
    while some := list(islice(source, size)):
        yield some


def sorted_in_steps(items: Iterable[T], *, key: Callable[[T], Any]) -> list[T]:
    """What `sorted` makes of them."""
    runs = [sorted(some, key=key) for some in in_steps(items)]
    while len(runs) > 1:
        # Of two runs, one after the other, `sorted` notices that they are sorted, and merges them.
        runs = [sorted(one + (other or []), key=key) for one, other in zip_longest(runs[::2], runs[1::2])]
    return runs[0] if runs else []
