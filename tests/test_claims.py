"""One deployment, one project, whatever listings show it and in whatever order they come."""

from array import array
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.claims import Claims, Guard

Listings = Mapping[str, frozenset[int]]


class Cloud:
    """The claims of a cloud, driven as refreshes drive them, with what its page shows of each project."""

    def __init__(self) -> None:
        self.claims = Claims()
        self.shown: dict[str, frozenset[int]] = {}
        self._contested: dict[str, dict[str, frozenset[int]]] = {}

    def refresh(self, project: str, listing: frozenset[int]) -> None:
        """One whole refresh, nothing else under way."""
        guard = self.claims.guard(project)()
        counted, contested = self._count(listing, guard)
        met = self.claims.met(project, array("q", sorted(counted - set(self.claims.of(project)))))
        if met:
            self.claims.overlapping = True
            if met == len(counted):
                counted = frozenset()
            else:
                guard = self.claims.guard(project)()
                counted, contested = self._count(listing, guard)
        gaining = self.claims.settle(
            project, array("q", sorted(counted)), length=len(listing), guard=guard, contested=contested
        )
        self.shown[project] = counted
        self._contested[project] = contested
        for other in gaining:
            self.shown[other] |= self._contested[other].pop(project)

    @staticmethod
    def _count(listing: frozenset[int], guard: Guard) -> tuple[frozenset[int], dict[str, frozenset[int]]]:
        counted = frozenset(each for each in listing if each not in guard.claimed)
        contested: dict[str, frozenset[int]] = {}
        for each in listing:
            if (claimer := guard.claimed.get(each)) in guard.outranked:
                contested[claimer] = contested.get(claimer, frozenset()) | {each}
        return counted, contested

    def assert_each_is_shown_once(self) -> None:
        """No deployment is shown for two projects."""
        everything = [each for shown in self.shown.values() for each in shown]
        assert len(everything) == len(set(everything))


def owners(listings: Listings) -> dict[str, frozenset[int]]:
    """Who should have what, by the rule's words: the shortest listing, on a tie the lowest project id."""
    ranked = sorted(listings, key=lambda project: (len(listings[project]), project))
    taken: set[int] = set()
    result = {}
    for project in ranked:
        result[project] = frozenset(listings[project] - taken)
        taken |= listings[project]
    return result


LISTINGS = st.dictionaries(
    st.sampled_from("abcde"), st.frozensets(st.integers(0, 30), max_size=31), min_size=1, max_size=5
)


@settings(deadline=None, max_examples=150)
@given(LISTINGS, st.data())
def test_every_deployment_is_counted_once_and_settles_where_it_belongs(listings: Listings, data: st.DataObject) -> None:
    """In any order of refreshes each deployment is shown once at any moment, all are shown once each was refreshed,
    and after a few rounds each is with the project that has the shortest listing."""
    cloud = Cloud()
    for project in data.draw(st.permutations(sorted(listings))):
        cloud.refresh(project, listings[project])
        cloud.assert_each_is_shown_once()
    everything = frozenset().union(*listings.values())
    assert frozenset().union(*cloud.shown.values()) == everything
    for _ in range(2 * len(listings) + 2):
        for project in data.draw(st.permutations(sorted(listings))):
            cloud.refresh(project, listings[project])
            cloud.assert_each_is_shown_once()
            assert frozenset().union(*cloud.shown.values()) == everything
    assert cloud.claims.settled
    assert cloud.shown == owners(listings)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.frozensets(st.integers(0, 12))), max_size=40))
def test_changing_listings_never_count_anything_twice(history: list[tuple[str, frozenset[int]]]) -> None:
    """Whatever listings change to, no deployment is ever shown for two projects."""
    cloud = Cloud()
    for project, listing in history:
        cloud.refresh(project, listing)
        cloud.assert_each_is_shown_once()


@given(LISTINGS)
def test_a_released_project_s_deployments_are_free(listings: Listings) -> None:
    """What a removed project had is counted for others at their next refresh."""
    cloud = Cloud()
    for project, listing in sorted(listings.items()):
        cloud.refresh(project, listing)
    gone = min(listings)
    cloud.claims.release(gone)
    del cloud.shown[gone]
    rest = {project: listing for project, listing in listings.items() if project != gone}
    for _ in range(2 * len(listings) + 2):
        for project, listing in sorted(rest.items()):
            cloud.refresh(project, listing)
    assert cloud.shown == owners(rest)


def test_an_ordinary_cloud_is_not_guarded() -> None:
    """Where no listings meet, no refresh is given anything to leave out."""
    cloud = Cloud()
    for project, start in (("a", 0), ("b", 100), ("a", 1), ("b", 90)):
        cloud.refresh(project, frozenset(range(start, start + 50 if project == "b" else start + 80)))
    assert not cloud.claims.overlapping
    assert cloud.claims.guard("a")() == Guard()


@given(LISTINGS, st.integers(0, 3))
def test_a_guard_is_of_when_it_was_taken(listings: Listings, rounds: int) -> None:
    """However late it is worked out, and whatever was claimed, handed over or released by then."""
    cloud = Cloud()
    projects = sorted(listings)
    for project in projects * rounds:
        cloud.refresh(project, listings[project])
    guards = {project: (cloud.claims.guard(project)(), cloud.claims.guard(project)) for project in projects}
    for project in reversed(projects):
        cloud.refresh(project, listings[project] | {-1})
    cloud.claims.release(projects[0])
    for at_once, late in guards.values():
        assert late() == at_once
