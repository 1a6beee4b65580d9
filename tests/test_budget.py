"""Sharing out a limited number of series."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.deployments.state import ProjectKey
from exporter.metrics.series_budget import OWN_SERIES, SPARE_SHARE, SeriesBudget, ceiling

SIZES = st.lists(st.integers(0, 50), max_size=8)


def key(number: int) -> ProjectKey:
    """A project."""
    return ProjectKey("cloud", f"project-{number}")


def budget_of(sizes: list[int], *, room: int) -> SeriesBudget:
    """A budget with room for so many bounded series, and projects that want so many each; none is shown yet."""
    budget = SeriesBudget(room + OWN_SERIES + 7)
    budget.fix(("exporter",), 7)
    for number, size in enumerate(sizes):
        budget.want(key(number), size)
    return budget


@given(sizes=SIZES, budget=st.integers(-5, 300))
def test_the_ceiling_is_the_largest_that_fits(sizes: list[int], budget: int) -> None:
    """All sizes, cut to the ceiling, fit the budget; cut to one more, they do not, unless none has to be cut."""
    found = ceiling(sizes, budget)
    assert sum(min(size, found) for size in sizes) <= max(0, budget)
    assert found >= max(sizes, default=0) or sum(min(size, found + 1) for size in sizes) > budget


@given(sizes=SIZES, room=st.integers(0, 300), order=st.randoms())
def test_whoever_comes_first_the_page_fits_and_shares_are_fair(sizes: list[int], room: int, order: object) -> None:
    """In whatever order projects are shown, the page stays within the limit; nobody shows more than its share."""
    budget = budget_of(sizes, room=room)
    places = list(range(len(sizes)))
    order.shuffle(places)  # type: ignore[attr-defined]
    for place in places:
        allowed = budget.allowed(key(place))
        budget.show(key(place), bounded=allowed, fixed=0)
        assert budget.excess <= 0
        assert allowed == min(sizes[place], ceiling(sizes, room if sum(sizes) <= room else room - room // SPARE_SHARE))


def test_what_others_show_stays_theirs() -> None:
    """A project that wants more than before gets what is free, until the others are cut to their shares."""
    budget = budget_of([80, 10], room=100)
    budget.show(key(0), bounded=80, fixed=0)
    budget.show(key(1), bounded=10, fixed=0)
    budget.want(key(1), 90)
    assert budget.allowed(key(1)) == 20
    assert budget.allowed(key(0)) == (100 - 100 // SPARE_SHARE) // 2
    budget.show(key(0), bounded=budget.allowed(key(0)), fixed=0)
    assert budget.allowed(key(1)) == (100 - 100 // SPARE_SHARE) // 2


def test_a_project_that_was_not_read_yet_has_an_equal_share() -> None:
    """What is reserved for unread projects is free once the last one was read, and when it is gone."""
    for forget in (False, True):
        budget = budget_of([90], room=100)
        for number in (1, 2):
            budget.expect(key(number))
        assert budget.allowed(key(0)) == 95 // 3
        assert not budget.want(key(1), 5)
        assert budget.drop(key(2), ("project",)) if forget else budget.want(key(2), 5)
        assert budget.allowed(key(0)) == 90


def test_unread_projects_are_expected_to_have_fixed_series() -> None:
    """Their data will have as many fixed series as that of the others on average, which shares leave room for."""
    budget = budget_of([90], room=100)
    budget.show(key(0), bounded=0, fixed=40)
    budget.expect(key(1))
    assert budget.share == 19 // 2


def test_those_that_show_more_than_their_share_come_first() -> None:
    """Projects that do not show their share are named, in the order that makes room before it is taken."""
    budget = budget_of([10, 80, 80, 0], room=100)
    for number, shown in enumerate((10, 20, 60)):
        budget.show(key(number), bounded=shown, fixed=0)
    assert budget.short() == [key(2), key(1)]
    budget.limit = 0
    assert budget.short() == [key(2), key(1)]
    assert budget.allowed(key(2)) == 80
