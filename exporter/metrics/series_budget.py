"""The series budget: how many series each project may show of the families that limits cut, by max-min fair shares."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, repeat
from typing import Final, Generic, TypeVar

from exporter.deployments.state import ProjectKey

# One series in so many stays free if projects are cut: a few more fixed series then force no project to show less.
SPARE_SHARE: Final = 20
# Series of process_* and python_*, which the web server adds to a page.
OWN_SERIES: Final = 20

K = TypeVar("K")
Owner = tuple[str, ...]
"""Who shows something: the exporter, a cloud or a project."""


class Account(Generic[K]):
    """A number for each key, and their sum."""

    def __init__(self) -> None:
        self.numbers: dict[K, int] = {}
        self.total = 0

    def put(self, key: K, number: int) -> None:
        """Replace the key's number; 0 removes it."""
        self.total += number - self.numbers.pop(key, 0)
        if number:
            self.numbers[key] = number


def ceiling(sizes: Iterable[float], budget: int) -> int:
    """The largest size that everybody may have so that all together, each cut to it, fit the budget (at least 0)."""
    ascending = sorted(sizes)
    left = max(0, budget)
    for place, size in enumerate(ascending):
        rest = len(ascending) - place
        if size * rest > left:
            return left // rest
        left -= int(size)
    return int(ascending[-1]) if ascending else 0


class SeriesBudget:
    """What a page shows, wants to show and may show. Fixed series are those of families that no limit cuts."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """The most series that the page may have; 0: any number."""
        self.shown: Account[ProjectKey] = Account()
        """Bounded series on the page."""
        self._wanted: Account[ProjectKey] = Account()
        self._unread: set[ProjectKey] = set()
        self._fixed: Account[Owner] = Account()
        self._fixed_data: Account[ProjectKey] = Account()

    def expect(self, key: ProjectKey) -> None:
        """A project that was not read yet: it counts as wanting an equal share."""
        self._unread.add(key)

    def want(self, key: ProjectKey, series: int) -> bool:
        """Set how many bounded series a project would show if there were room; whether it was the last unread one."""
        last = self._unread == {key}
        self._unread.discard(key)
        self._wanted.put(key, series)
        return last

    def fix(self, owner: Owner, series: int) -> None:
        """Set how many fixed series an owner shows."""
        self._fixed.put(owner, series)

    def show(self, key: ProjectKey, *, bounded: int, fixed: int) -> None:
        """Set how many series a project's data has on the page."""
        self.shown.put(key, bounded)
        self._fixed_data.put(key, fixed)

    def drop(self, key: ProjectKey, owner: Owner) -> bool:
        """Forget a project, whose own series this owner shows; whether it was the last unread one."""
        self.fix(owner, 0)
        self.show(key, bounded=0, fixed=0)
        return self.want(key, 0)

    def clear(self) -> None:
        """Forget what is shown: an empty page takes the place of the previous one."""
        self.shown, self._fixed, self._fixed_data = Account(), Account(), Account()

    @property
    def room(self) -> int:
        """How many bounded series fit beside the fixed ones; negative if not even those fit."""
        return self.limit - OWN_SERIES - self._fixed.total - self._fixed_data.total

    @property
    def excess(self) -> int:
        """How many bounded series the page has to withhold; negative if it has room."""
        return self.shown.total - self.room if self.limit else 0

    @property
    def _shared(self) -> int:
        """How many bounded series the projects share. Those that were not read yet are expected to have as many fixed
        series as the others on average."""
        unread, read = len(self._unread), len(self._fixed_data.numbers)
        return self.room - (unread * self._fixed_data.total // read if read else 0)

    @property
    def share(self) -> int:
        """How many bounded series a project may have at most, by fair shares."""
        shared = self._shared
        if not self._unread and self._wanted.total <= shared:
            return max(self._wanted.numbers.values(), default=0)
        unread = repeat(float("inf"), len(self._unread))
        return ceiling(chain(self._wanted.numbers.values(), unread), shared - shared // SPARE_SHARE)

    def allowed(self, key: ProjectKey, *, fixed: int | None = None) -> int:
        """How many bounded series a project may show now: the smaller of its share and what the others leave free.

        `fixed`: how many fixed series its data will have then; default: as many as now.
        """
        wanted = self._wanted.numbers.get(key, 0)
        if not self.limit:
            return wanted
        before = self._fixed_data.numbers.get(key, 0)
        # Fair shares are never smaller than equal ones, which are quickly computed.
        shared = self._shared
        equal = (shared - shared // SPARE_SHARE) // max(1, len(self._unread) + len(self._wanted.numbers))
        free = self.shown.numbers.get(key, 0) - self.excess + before - (before if fixed is None else fixed)
        return max(0, min(wanted, free) if wanted <= equal else min(wanted, self.share, free))

    def short(self) -> list[ProjectKey]:
        """Projects that do not show what their share allows; those that show more come first, which makes room."""
        share = self.share if self.limit else max(self._wanted.numbers.values(), default=0)
        shown = self.shown.numbers
        differing = {key: shown.get(key, 0) - min(share, wanted) for key, wanted in self._wanted.numbers.items()}
        return sorted((key for key, more in differing.items() if more), key=lambda key: -differing[key])

    def largest(self) -> ProjectKey | None:
        """The project with the most bounded series on the page."""
        return max(self.shown.numbers, key=self.shown.numbers.__getitem__, default=None)
