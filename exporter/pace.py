"""When a project is asked next: pure arithmetic on seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

BACKOFF_LIMIT: Final = 300.0
BACKOFF_JITTER: Final = 0.1
STALE_INTERVALS: Final = 3


def interval_in_force(
    interval: float, *, listing_time: float, share: float, requests: int, requests_per_second: float
) -> float:
    """The longest of the configured interval, the one that keeps a listing within its share of the cloud's time, and
    the one that a round of `requests` to the cloud takes at its rate."""
    return max(interval, listing_time / share, requests / requests_per_second)


def retry_delay(failures: int, interval: float, *, retry_after: float, random: Callable[[], float]) -> float:
    """Seconds to wait after the n-th failure in a row: doubling from the interval, bounded, with jitter.

    `random` gives a number from 0 to 1; `retry_after` may lengthen the wait, never shorten it.
    """
    limit = max(BACKOFF_LIMIT, interval)
    delay = min(interval * 2.0 ** min(failures - 1, 30), limit)
    return max(delay * (1 + BACKOFF_JITTER * (2 * random() - 1)), retry_after)


def spread(identity: str) -> float:
    """A number from 0 to 1 that is always the same for the same text, and spreads different ones evenly."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big") / 2**64


def next_turn(last: float, interval: float, now: float) -> tuple[float, int]:
    """When the turn after `last` comes, and how many turns have already been missed by `now`."""
    missed = max(0, int((now - last) // interval)) if interval > 0 else 0
    return last + (missed + 1) * interval, missed


def stale_limit(stale_after: float, interval: float) -> float:
    """The age past which data is withdrawn: a slow project's is given three of its own intervals."""
    return max(stale_after, STALE_INTERVALS * interval)
