"""Sharing out a limited number of series: the biggest are cut first, the small ones stay whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

K = TypeVar("K")


class Account(Generic[K]):
    """A number for each key, with their sum at hand however many there are."""

    def __init__(self) -> None:
        self.numbers: dict[K, int] = {}
        self.total = 0

    def put(self, key: K, number: int) -> None:
        """The key's number from now on; 0 is as good as none."""
        self.total += number - self.numbers.pop(key, 0)
        if number:
            self.numbers[key] = number


def ceiling(sizes: Iterable[int], budget: int) -> int:
    """The largest size that everybody may have so that all together, each cut to it, fit the budget (at least 0)."""
    ascending = sorted(sizes)
    left = max(0, budget)
    for place, size in enumerate(ascending):
        rest = len(ascending) - place
        if size * rest > left:
            return left // rest
        left -= size
    return ascending[-1] if ascending else 0
