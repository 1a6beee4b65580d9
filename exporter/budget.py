"""Sharing out a limited number of series: the biggest are cut first, the small ones stay whole."""

from __future__ import annotations

from collections.abc import Iterable


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
