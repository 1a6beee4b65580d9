"""One deployment, one project: which project of a cloud counts a deployment that several listings show.

An admin's token sees the deployments of every project, whatever project it asks for, and an item does not say
which project it belongs to. So each deployment is claimed by exactly one project: the one with the shortest
listing, on a tie the one with the lowest id. Claims are what the page shows, so that its sums are right at every
moment: a deployment that another project shows already is not counted, and it changes hands only when the numbers
of both projects change at once.

An ordinary cloud, in which no two listings meet, pays for this with eight bytes a deployment and a look for the ids
that are new.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from exporter.hashes import common, ordered
from exporter.steps import in_steps


class Guard(NamedTuple):
    """What a project's refresh has to leave to others."""

    claimed: Mapping[int, str] = {}
    """Deployments (hashes of their ids) that belong to others, and to which project."""
    outranked: frozenset[str] = frozenset()
    """Projects whose claims this one should have: what it meets of them is counted apart."""
    yields: Mapping[str, AbstractSet[int]] = {}
    """What other projects get from this one when its refresh ends."""


class Claims:
    """The claims of one cloud's projects. Hashes are 64-bit ones of deployment ids, of this process only."""

    def __init__(self) -> None:
        self.overlapping = False
        """Whether two listings ever met; from then on every refresh is guarded."""
        self._claims: dict[str, array[int]] = {}  # sorted, replaced whole
        self._lengths: dict[str, int] = {}
        self._wanted: dict[str, dict[str, AbstractSet[int]]] = {}
        """By project that wants them, by project that has them."""

    def guard(self, project: str) -> Callable[[], Guard]:
        """What a refresh of this project that starts now has to leave to others. It is worked out by the call that is
        returned, in any thread, for there may be a million deployments; what is claimed meanwhile changes nothing."""
        if not self.overlapping:
            return Guard
        others = {other: had for other, had in self._claims.items() if other != project}
        outranked = frozenset(other for other in self._claims if self._before(project, other))
        wanting = [other for other in self._wanted if project in self._wanted[other] and self._before(other, project)]
        wanted = {other: self._wanted[other][project] for other in sorted(wanting, key=self._rank)}
        own = self.of(project)

        def work_out() -> Guard:
            yields = _yields(own, wanted)
            claimed: dict[int, str] = {}
            for claims in (others, yields):
                for other, hashes in claims.items():
                    for some in in_steps(hashes):
                        claimed.update(dict.fromkeys(some, other))
            return Guard(claimed, outranked, yields)

        return work_out

    def of(self, project: str) -> array[int]:
        """What a project has claimed, sorted; never changed in place."""
        return self._claims.get(project, _NOTHING)

    def met(self, project: str, new: array[int]) -> int:
        """How many of these deployments (sorted) other projects have claimed by now; none has two claims."""
        return sum(len(common(new, had)) for other, had in self._claims.items() if other != project) if new else 0

    def gained(self, project: str, contested: Mapping[str, AbstractSet[int]]) -> list[str]:
        """Who gave up, while this project's refresh was under way, all that it met of theirs."""
        own = set(self.of(project)) if contested else set()
        return [claimer for claimer, hashes in contested.items() if hashes and hashes <= own]

    def settle(
        self,
        project: str,
        counted: array[int],
        *,
        length: int,
        guard: Guard,
        contested: Mapping[str, AbstractSet[int]],
    ) -> list[str]:
        """A refresh has ended: the project counts these (sorted), its listing has `length` deployments.

        `contested` are those that it counted apart, by who has claimed them. Returns which projects get with this
        what they wanted from it.
        """
        gaining = []
        for other, hashes in guard.yields.items():
            # Unless it was refreshed meanwhile, and met something else.
            if self._wanted.get(other, {}).get(project) == hashes:
                self._claims[other] = ordered({*self.of(other), *hashes})
                gaining.append(other)
        given = {each for other in gaining for each in guard.yields[other]}
        for wanted in self._wanted.values() if given else ():
            if given.intersection(wanted.get(project, ())):
                del wanted[project]
        self._claims[project] = counted
        self._lengths[project] = length
        self._want(project, {each: had for each, had in contested.items() if had and self._before(project, each)})
        return gaining

    def _want(self, project: str, wanted: dict[str, AbstractSet[int]]) -> None:
        # Nearly nobody wants anything, so nothing is kept of those who don't.
        if wanted:
            self._wanted[project] = wanted
        else:
            self._wanted.pop(project, None)

    def release(self, project: str) -> None:
        """A project shows nothing any more."""
        self._claims.pop(project, None)
        self._lengths.pop(project, None)
        self._wanted.pop(project, None)
        for wanted in self._wanted.values():
            wanted.pop(project, None)

    @property
    def settled(self) -> bool:
        """Whether nobody waits for what another project has."""
        return not any(self._wanted.values())

    def _rank(self, project: str) -> tuple[int, str]:
        return self._lengths[project], project

    def _before(self, one: str, other: str) -> bool:
        if one == other or one not in self._lengths or other not in self._lengths:
            return False
        return self._rank(one) < self._rank(other)


def _yields(own: array[int], wanted: Mapping[str, AbstractSet[int]]) -> dict[str, AbstractSet[int]]:
    """Who gets what of a project's own: the best placed come first, and nobody gets what is no longer there whole."""
    had = set(own) if wanted else set()
    given: dict[str, AbstractSet[int]] = {}
    for other, hashes in wanted.items():
        if hashes <= had:
            given[other] = hashes
            had -= hashes
    return given


_NOTHING: Final[array[int]] = array("q")
