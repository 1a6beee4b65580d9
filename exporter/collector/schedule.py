"""When a project is asked next: pure arithmetic on seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, Literal

BACKOFF_LIMIT: Final = 300.0
BACKOFF_JITTER: Final = 0.1
STALE_INTERVALS: Final = 3
# A turn is taken late rather than skipped where a refresh outlasted its interval by no more than this part of it:
# what a refresh does beside its listing must not cost every other turn where `share` is 1.
LATE: Final = 0.1
# From how much on it is worth a word that listings stretch the interval: so many times the usual one, and seconds.
STRETCHED: Final = 1.25
STRETCHED_BY: Final = 1.0
# And after how many refreshes at the usual interval that this is over.
USUAL_AGAIN: Final = 3


def interval_in_force(
    interval: float, *, listing_time: float, share: float, requests: int, requests_per_second: float
) -> float:
    """The longest of the configured interval, the one that keeps a listing within its share of the cloud's time, and
    the one that a round of `requests` to the cloud takes at its rate."""
    return max(interval, listing_time / share, requests / requests_per_second)


class IntervalChanges:
    """Notes when listings begin to stretch the interval in force beyond the usual one, and when that is over.

    A little is not worth a word, and it is over only after a few refreshes in a row at the usual interval: what wavers
    says nothing.
    """

    def __init__(self) -> None:
        self.longer = 0.0
        """The latest interval that was longer than usual."""
        self._begun = False
        self._usual = 0

    def news(self, interval: float, usual: float) -> Literal["begun", "over"] | None:
        """What there is to tell once this interval is in force."""
        if interval > usual:
            self.longer, self._usual = interval, 0
            if self._begun or interval < max(STRETCHED * usual, usual + STRETCHED_BY):
                return None
            self._begun = True
            return "begun"
        self._usual += 1
        if not self._begun or self._usual < USUAL_AGAIN:
            return None
        self._begun = False
        return "over"


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
    """When the turn after `last` comes, and how many turns have already been missed by `now`.

    One that has only just passed is not missed yet: it comes at once.
    """
    if 0 <= now - (last + interval) <= LATE * interval:
        return now, 0
    missed = max(0, int((now - last) // interval)) if interval > 0 else 0
    return last + (missed + 1) * interval, missed


def stale_limit(stale_after: float, interval: float) -> float:
    """The age past which data is withdrawn: a slow project's is given three of its own intervals."""
    return max(stale_after, STALE_INTERVALS * interval)
