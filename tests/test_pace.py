"""When a project is asked next."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.collector.schedule import IntervalChanges, interval_in_force, next_turn, retry_delay, spread, stale_limit

HOUR = 3600.0


@pytest.mark.parametrize(
    ("listing_time", "requests", "expected"),
    [
        (0.0, 1, 60.0),
        (15.0, 1, 60.0),
        (30.0, 1, 120.0),
        (0.1, 600, 60.0),
        (0.1, 2000, 200.0),
        (100.0, 2000, 400.0),
    ],
)
def test_the_interval_in_force_is_the_longest(listing_time: float, requests: int, expected: float) -> None:
    """A listing keeps within its share of the cloud's time, and a round within the cloud's rate of requests."""
    found = interval_in_force(60.0, listing_time=listing_time, share=0.25, requests=requests, requests_per_second=10.0)
    assert found == expected


def delay(failures: int, interval: float = 60.0, *, retry_after: float = 0.0, chance: float = 0.5) -> float:
    """The wait after so many failures in a row; a chance of one half is no jitter."""
    return retry_delay(failures, interval, retry_after=retry_after, random=lambda: chance)


@pytest.mark.parametrize(("failures", "expected"), [(1, 60), (2, 120), (3, 240), (4, 300), (5, 300), (10**6, 300)])
def test_waits_double_up_to_five_minutes(failures: int, expected: float) -> None:
    """The wait doubles with each failure, from the interval in force to five minutes."""
    assert delay(failures) == expected


@pytest.mark.parametrize("failures", [1, 2, 50])
def test_a_long_interval_is_not_shortened(failures: int) -> None:
    """Where the interval in force is longer than five minutes, that is what failures wait."""
    assert delay(failures, 1800.0) == 1800.0


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 54.0), (0.5, 60.0), (1.0, 66.0)])
def test_jitter_is_a_tenth(chance: float, expected: float) -> None:
    """The wait is up to a tenth shorter or longer, so that failed projects don't come back together."""
    assert delay(1, chance=chance) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("retry_after", "chance", "expected"), [(10.0, 0.0, 54.0), (90.0, 0.0, 90.0), (90.0, 1.0, 90.0), (HOUR, 1.0, HOUR)]
)
def test_retry_after_lengthens_only(retry_after: float, chance: float, expected: float) -> None:
    """What the cloud asks for may lengthen the wait, jitter takes nothing of it, and it never shortens the wait."""
    assert delay(1, retry_after=retry_after, chance=chance) == pytest.approx(expected)


@settings(deadline=None)
@given(
    failures=st.integers(1, 10**9),
    interval=st.floats(0.001, 1e6),
    retry_after=st.floats(0, HOUR),
    chance=st.floats(0, 1),
)
def test_every_wait_is_bounded(failures: int, interval: float, retry_after: float, chance: float) -> None:
    """No wait is shorter than the interval less a tenth or than asked for, none much longer than all of its limits."""
    found = delay(failures, interval, retry_after=retry_after, chance=chance)
    assert found >= max(0.899 * interval, retry_after)
    assert found <= max(1.101 * max(300.0, interval), retry_after)


@settings(deadline=None)
@given(failures=st.integers(1, 100), interval=st.floats(0.001, 1e6))
def test_waits_never_get_shorter(failures: int, interval: float) -> None:
    """One more failure is never waited for less."""
    assert delay(failures + 1, interval) >= delay(failures, interval)


@pytest.mark.parametrize(
    ("now", "turn", "missed"),
    [(100.0, 160.0, 0), (101.0, 160.0, 0), (159.0, 160.0, 0), (167.0, 220.0, 1), (225.0, 280.0, 2), (90.0, 160.0, 0)],
)
def test_missed_turns_are_counted_not_made_up_for(now: float, turn: float, missed: int) -> None:
    """A refresh that outlasts turns is followed by the next one on the grid; those that passed are skipped."""
    assert next_turn(100.0, 60.0, now) == (turn, missed)


@settings(deadline=None)
@given(last=st.integers(0, 10**6), interval=st.integers(1, 10**5), passed=st.integers(0, 10**6))
def test_the_next_turn_is_ahead_and_near(last: int, interval: int, passed: int) -> None:
    """The next turn is never past, at most an interval away, and on the grid or, where one has only just passed, now;
    two turns are never closer than an interval."""
    now = last + passed
    turn, missed = next_turn(last, interval, now)
    assert now <= turn <= now + interval
    assert turn >= last + interval
    if turn == now:
        assert missed == 0
        assert passed <= 1.1 * interval
    else:
        assert turn == last + (missed + 1) * interval


@pytest.mark.parametrize(
    ("now", "turn", "missed"), [(160.0, 160.0, 0), (161.0, 161.0, 0), (166.0, 166.0, 0), (166.1, 220.0, 1)]
)
def test_a_turn_that_has_just_passed_is_taken_late(now: float, turn: float, missed: int) -> None:
    """A refresh that outlasts its interval by no more than a tenth does not cost the turn: it is taken at once."""
    assert next_turn(100.0, 60.0, now) == (turn, missed)


def told(intervals: list[float], usual: float = 60.0) -> list[str | None]:
    """What is told of intervals that come in force one after the other."""
    stretch = IntervalChanges()
    return [stretch.news(interval, usual) for interval in intervals]


@pytest.mark.parametrize(
    ("interval", "usual", "begun"),
    [
        (60.0, 60.0, False),
        (74.9, 60.0, False),
        (75.0, 60.0, True),
        (1.5, 1.0, False),
        (2.0, 1.0, True),
        (0.8, 0.1, False),
        (1.2, 0.1, True),
        (60.0, 120.0, False),
    ],
)
def test_a_stretch_is_worth_a_word(interval: float, usual: float, *, begun: bool) -> None:
    """A stretch is told of from a quarter and a second on."""
    assert told([interval], usual) == ["begun" if begun else None]


def test_a_stretch_is_told_of_once_each_way() -> None:
    """However long and uneven a stretch, there is one word at its beginning and one when it is over."""
    assert told([60, 120, 300, 61, 240, 60, 60, 60, 60]) == [None, "begun", *[None] * 5, "over", None]
    assert told([120, 60, 60, 60, 120]) == ["begun", None, None, "over", "begun"]


@given(st.lists(st.floats(60.0, 74.9)))
def test_little_changes_are_not_told_of(intervals: list[float]) -> None:
    """However an interval wavers by less than a quarter, nothing is said."""
    assert set(told(intervals)) <= {None}


@given(st.lists(st.sampled_from([60.0, 76.0, 120.0]), max_size=20))
def test_what_wavers_is_told_of_once(intervals: list[float]) -> None:
    """An interval that is the usual one for two refreshes at most begins once, and is never over."""
    wavering = [each for interval in intervals for each in (120.0, interval, interval)]
    assert [each for each in told(wavering) if each] == ["begun"] * bool(wavering)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_project_has_a_place(identity: str) -> None:
    """Whatever a project is called, its place is within the interval."""
    assert 0 <= spread(identity) < 1


def test_a_place_is_the_same_in_every_process() -> None:
    """A restart or another replica changes no project's place."""
    assert spread("prod/8da95794") == pytest.approx(0.5961922840, abs=1e-9)


def test_places_are_even() -> None:
    """Ten thousand projects fill every hundredth of the interval about equally."""
    slices = [0] * 100
    for number in range(10_000):
        slices[int(spread(f"prod/{number:032x}") * 100)] += 1
    assert min(slices) > 50
    assert max(slices) < 150


@pytest.mark.parametrize(
    ("stale_after", "interval", "limit"), [(300, 60, 300), (300, 100, 300), (300, 120, 360), (300, 600, 1800)]
)
def test_slow_projects_stay_longer(stale_after: float, interval: float, limit: float) -> None:
    """Data is kept for the configured time, or for three intervals in force where that is longer."""
    assert stale_limit(stale_after, interval) == limit
