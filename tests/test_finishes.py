"""What has finished between two listings: histories of deployments in, counts out."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.deployments.aggregator import Aggregator
from exporter.deployments.completions import DEPARTED_LIMIT, CompletionMemory, Digest, Finish, Ledger, digest, remember
from exporter.deployments.records import Batch, Deployment
from exporter.deployments.snapshot import Distribution, Exemplar, Tally
from tests.oracle import Rules

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
BOUNDS = (5.0, 60.0, 600.0)
OPTIONS = replace(Rules().options(), finishes=True)
HOUR = timedelta(hours=1)


@dataclass
class Watcher:
    """An exporter's view of one project: listings in, a ledger out."""

    memory: CompletionMemory | None = None
    ledger: Ledger = field(default_factory=Ledger)
    found: tuple[Digest, ...] = ()

    def see(self, records: Iterable[Deployment], *, at: datetime = START, batch: int = 7) -> Counter[tuple[str, str]]:
        """What a listing asked for at this instant adds, by status and action."""
        fold = Aggregator(OPTIONS, asked_at=at.timestamp(), memory=self.memory)
        records = list(records)
        for start in range(0, len(records), batch):
            fold.add(Batch(records[start : start + batch], []))
        sighted = fold.sighted()
        self.memory = remember(self.memory, sighted, asked_at=at.timestamp())
        self.found = digest(sighted.finishes, bounds=BOUNDS, asked_at=at.timestamp())
        self.ledger = self.ledger.with_more(self.found)
        return Counter({(each.status, each.action): each.tally.size for each in self.found})


def made(
    id: str = "a",
    status: str | None = "COMPLETE",
    action: str | None = "CREATE",
    *,
    created: float | None = 0,
    updated: float | None = None,
    config: str = "c",
) -> Deployment:
    """A deployment, with times in seconds after the start."""

    def time(seconds: float | None) -> datetime | None:
        return None if seconds is None else START + timedelta(seconds=seconds)

    return Deployment(
        id=id, status=status, action=action, config_id=config, creation_time=time(created), updated_time=time(updated)
    )


def at(seconds: float) -> datetime:
    """An instant after the start."""
    return START + timedelta(seconds=seconds)


def test_the_first_listing_says_nothing_new() -> None:
    """After a start nothing that had finished by then counts, then or later."""
    watcher = Watcher()
    before = [made("a", "COMPLETE"), made("b", "FAILED", updated=50), made("c", "COMPLETE", created=None)]
    assert not watcher.see(before, at=at(60))
    assert not watcher.see(before, at=at(120))
    assert watcher.ledger == Ledger()


def test_a_finish_counts_once() -> None:
    """A deployment that was IN_PROGRESS and is COMPLETE or FAILED counts in the one listing that first shows it."""
    watcher = Watcher()
    watcher.see([made("a", "IN_PROGRESS"), made("b", "IN_PROGRESS", "UPDATE", updated=1)], at=at(5))
    done = [made("a", "COMPLETE", updated=10), made("b", "FAILED", "UPDATE", updated=12)]
    assert watcher.see(done, at=at(15)) == {("COMPLETE", "CREATE"): 1, ("FAILED", "UPDATE"): 1}
    for later in (20, 25, 10**6):
        assert not watcher.see(done, at=at(later))
    durations = watcher.ledger.durations
    assert durations["COMPLETE", "CREATE"][:4] == (BOUNDS, (0, 1, 1), 1, 10.0)
    assert durations["FAILED", "UPDATE"][:4] == (BOUNDS, (0, 1, 1), 1, 11.0)


def test_what_nobody_saw_start() -> None:
    """A deployment, or an update, that starts and ends between two listings counts; only a creation has a duration."""
    watcher = Watcher()
    watcher.see([made("a", "COMPLETE", updated=3)], at=at(5))
    now = [made("a", "COMPLETE", "UPDATE", updated=20, config="d"), made("b", "FAILED", created=8, updated=9)]
    assert watcher.see(now, at=at(30)) == {("COMPLETE", "UPDATE"): 1, ("FAILED", "CREATE"): 1}
    assert watcher.ledger.durations.keys() == {("FAILED", "CREATE")}
    again = [made("a", "COMPLETE", "UPDATE", updated=40, config="e"), now[1]]
    assert watcher.see(again, at=at(60)) == {("COMPLETE", "UPDATE"): 1}


def test_two_finishes_of_one_second() -> None:
    """Two updates that end in the same second are two: the second has a config of its own, or was seen to run."""
    watcher = Watcher()
    watcher.see([made("a", "COMPLETE", "UPDATE", updated=10), made("b", "COMPLETE", "UPDATE", updated=10)], at=at(10))
    again = made("b", "COMPLETE", "UPDATE", updated=10)
    other = made("a", "COMPLETE", "UPDATE", updated=10, config="d")
    assert watcher.see([other, made("b", "IN_PROGRESS", "UPDATE", updated=10)], at=at(10.5)) == {
        ("COMPLETE", "UPDATE"): 1
    }
    assert watcher.see([other, again], at=at(11)) == {("COMPLETE", "UPDATE"): 1}
    assert not watcher.see([other, again], at=at(12))
    assert watcher.ledger.durations["COMPLETE", "UPDATE"].total == 0


def test_a_listing_that_lags_behind() -> None:
    """An older answer, of a replica say, in which a run had not begun yet is no finish, nor is what follows two."""
    watcher = Watcher()
    old, running = made("a", "COMPLETE", "UPDATE", updated=10), made("a", "IN_PROGRESS", "UPDATE", updated=20)
    watcher.see([old], at=at(15))
    watcher.see([running], at=at(25))
    assert not watcher.see([old], at=at(30))
    watcher.see([running], at=at(35))
    assert watcher.see([made("a", "COMPLETE", "UPDATE", updated=40)], at=at(45)) == {("COMPLETE", "UPDATE"): 1}


@pytest.mark.parametrize("away", [60, 3000, 7200, 10**6])
def test_what_leaves_and_comes_back_is_no_news(away: float) -> None:
    """A deployment that leaves the listing and comes back as it was is no new finish, however long it was away."""
    watcher = Watcher()
    watcher.see([], at=at(0))
    done = made("a", "COMPLETE", created=1, updated=2)
    assert watcher.see([done], at=at(5)) == {("COMPLETE", "CREATE"): 1}
    assert not watcher.see([], at=at(10))
    other = made("b", "COMPLETE", created=away, updated=away)
    assert watcher.see([other], at=at(away + 10)) == {("COMPLETE", "CREATE"): 1}
    assert not watcher.see([done, other], at=at(away + 20))


def test_days_without_a_listing() -> None:
    """All that finished while no refresh succeeded counts with the first that does."""
    watcher = Watcher()
    watcher.see([made("a", "IN_PROGRESS")], at=at(1))
    days = [made(str(day), "COMPLETE", created=day * 86400, updated=day * 86400 + 7) for day in range(1, 6)]
    found = watcher.see([made("a", "FAILED", updated=60), *days], at=at(5 * 86400 + 100))
    assert found == {("FAILED", "CREATE"): 1, ("COMPLETE", "CREATE"): 5}


@pytest.mark.parametrize("ahead", [-(10**8), -7200, -60, 0, 60, 7200, 10**8])
def test_any_clock_of_the_exporter(ahead: float) -> None:
    """However far the exporter's clock is off, each finish counts once, with a duration by the cloud's clock."""
    watcher = Watcher()
    watcher.see([made("old", "COMPLETE"), made("a", "IN_PROGRESS")], at=at(10 + ahead))
    for number in range(5):
        now = 100.0 * (number + 1)
        done = made(f"d{number}", "COMPLETE", created=now, updated=now + 8)
        assert watcher.see([done], at=at(now + 10 + ahead)) == {("COMPLETE", "CREATE"): 1}
        assert not watcher.see([done], at=at(now + 20 + ahead))
    assert watcher.ledger.durations["COMPLETE", "CREATE"][2:4] == (5, 40.0)


def test_an_impossible_date() -> None:
    """One deployment from the year 9999 makes no other one old news, and counts once itself."""
    watcher = Watcher()
    watcher.see([], at=at(0))
    bogus = replaced(made("bogus", "COMPLETE"), updated_time=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert watcher.see([bogus], at=at(10)) == {("COMPLETE", "CREATE"): 1}
    done = made("a", "COMPLETE", created=11, updated=12)
    assert watcher.see([bogus, done], at=at(20)) == {("COMPLETE", "CREATE"): 1}
    assert not watcher.see([bogus, done], at=at(30))


def replaced(record: Deployment, **changes: Any) -> Deployment:
    """The record with other fields."""
    return Deployment(**{name: getattr(record, name) for name in Deployment.__struct_fields__} | changes)


def test_an_engine_whose_clock_is_behind() -> None:
    """What was seen to run counts when it ends, also where the engine that ends it is hours behind."""
    watcher = Watcher()
    watcher.see([made("a", "IN_PROGRESS", "UPDATE", updated=9000), made("n", "COMPLETE", updated=9000)], at=at(9001))
    found = watcher.see([made("a", "COMPLETE", "UPDATE", updated=10), made("n", updated=9000)], at=at(9100))
    assert found == {("COMPLETE", "UPDATE"): 1}
    assert watcher.ledger.durations["COMPLETE", "UPDATE"].total == 0.0


def test_deployments_without_a_time() -> None:
    """A deployment whose times can't be read counts when it ends, once, and has no duration."""
    watcher = Watcher()
    watcher.see([made("a", "IN_PROGRESS", created=None)], at=at(0))
    done = [made("a", "COMPLETE", created=None), made("b", "FAILED", created=None)]
    assert watcher.see(done, at=at(10)) == {("COMPLETE", "CREATE"): 1, ("FAILED", "CREATE"): 1}
    assert not watcher.see(done, at=at(20))
    assert not watcher.ledger.durations


def test_a_deletion_is_no_finish() -> None:
    """What is deleted while it runs is gone, and leaves nothing behind."""
    watcher = Watcher()
    watcher.see([made("a", "IN_PROGRESS")], at=at(0))
    assert not watcher.see([], at=at(10))
    assert watcher.memory is not None
    assert not watcher.memory.running


def test_a_run_is_timed_from_its_first_change() -> None:
    """A run that is touched while it is under way has begun when it was first seen, and a new one begins anew."""
    watcher = Watcher()
    for seconds in (10, 30, 50):
        watcher.see([made("a", "IN_PROGRESS", "UPDATE", updated=seconds)], at=at(seconds + 5))
    watcher.see([made("a", "COMPLETE", "UPDATE", updated=70)], at=at(75))
    assert watcher.ledger.durations["COMPLETE", "UPDATE"].total == 60.0
    watcher.see([made("a", "IN_PROGRESS", "UPDATE", updated=100, config="d")], at=at(105))
    watcher.see([made("a", "COMPLETE", "UPDATE", updated=103, config="d")], at=at(115))
    assert watcher.ledger.durations["COMPLETE", "UPDATE"].total == 63.0


@pytest.mark.parametrize("status", ["", "complete", "OUTDATED", None])
def test_other_statuses_are_no_finish(status: str | None) -> None:
    """Only COMPLETE and FAILED are finishes."""
    watcher = Watcher()
    watcher.see([made("a", "IN_PROGRESS")], at=at(0))
    assert not watcher.see([made("a", status, updated=5)], at=at(10))


def test_undocumented_actions_are_bounded() -> None:
    """The first twenty undocumented actions keep their names for good, further ones are together as `other`."""
    watcher = Watcher()
    watcher.see([], at=at(0))
    for number in range(25):
        now = 10.0 * number + 1
        watcher.see([made(str(number), action=f"X{24 - number:02}", created=now)], at=at(now))
    watcher.see([made("again", action="X24", created=500), made("late", action="X00", created=500)], at=at(501))
    actions = Counter({action: tally.size for (_, action), tally in watcher.ledger.finished.items()})
    assert actions == {f"X{number:02}": 1 for number in range(5, 25)} | {"other": 6, "X24": 2}


def test_many_actions_of_one_response_are_few_digests() -> None:
    """However many different actions complete at once, few are counted apart, and those known before are among them."""
    finishes = [Finish(number, "COMPLETE", f"X{number}", 1.0, str(number)) for number in range(1000)]
    known = frozenset({"X500", "X999"})
    found = digest(finishes, bounds=(60.0,), asked_at=0.0, named=known)
    assert len(found) == 21
    assert known < {each.action for each in found}
    assert sum(each.tally.size for each in found) == 1000
    ledger = Ledger({("COMPLETE", action): Tally(1) for action in known}).with_more(found)
    assert ledger.finished["COMPLETE", "X999"].size == 2
    assert len(ledger.finished) == 21


def test_memory_is_of_an_hour() -> None:
    """However many deployments finish over the days, only the finishes of the last hour are remembered."""
    watcher = Watcher()
    records: list[Deployment] = []
    for minute in range(0, 3 * 1440, 10):
        records += [made(f"{minute}-{each}", created=60.0 * minute) for each in range(3)]
        watcher.see(records, at=at(60 * minute + 1), batch=1000)
        assert watcher.memory is not None
        assert len(watcher.memory.known) <= 3 * 7
    assert sum(tally.size for tally in watcher.ledger.finished.values()) == len(records) - 3


def test_memory_is_bounded_where_clocks_are_wrong() -> None:
    """Where all deployments are of the future, no more of those that are gone are remembered than the limit says."""
    watcher = Watcher()
    watcher.see([], at=at(0))
    for number in range(15):
        future = [made(f"{number}-{each}", created=10.0**9 + number) for each in range(1000)]
        assert watcher.see(future, at=at(number), batch=1000) == {("COMPLETE", "CREATE"): 1000}
    assert watcher.memory is not None
    assert len(watcher.memory.known) == DEPARTED_LIMIT + 1000
    assert not watcher.see(future, at=at(20), batch=1000)


@pytest.mark.parametrize(("ahead", "counted"), [(0, 1), (3000, 1), (-(10**7), 2)])
def test_a_first_listing_without_a_time(ahead: float, counted: int) -> None:
    """Where the first listing has no time to go by, the exporter's clock says what is old news, until one has."""
    watcher = Watcher()
    watcher.see([], at=at(ahead))
    old, new = made("old", created=-7200, updated=-7000), made("new", updated=5)
    assert watcher.see([old, new], at=at(10 + ahead)).total() == counted
    assert watcher.see([old, new, made("next", created=15)], at=at(20 + ahead)).total() == 1


# -- counting


def test_exemplars_are_the_latest() -> None:
    """Each bucket's exemplar is the latest deployment in it, and the counter's the latest of all."""
    watcher = Watcher()
    watcher.see([], at=at(0))
    watcher.see([made("a", updated=3), made("b", updated=4), made("c", updated=100)], at=at(101))
    when = at(101).timestamp()
    assert watcher.ledger.durations["COMPLETE", "CREATE"].exemplars == (
        Exemplar("b", 4.0, when), None, Exemplar("c", 100.0, when), None,
    )  # fmt: skip
    assert watcher.ledger.finished["COMPLETE", "CREATE"] == Tally(3, Exemplar("c", 1.0, when))
    watcher.see([made("d", created=200, updated=2000)], at=at(2001))
    later = at(2001).timestamp()
    assert watcher.ledger.durations["COMPLETE", "CREATE"].exemplars[-1] == Exemplar("d", 1800.0, later)
    assert watcher.ledger.durations["COMPLETE", "CREATE"].exemplars[0] == Exemplar("b", 4.0, when)
    assert watcher.ledger.durations["COMPLETE", "CREATE"].cumulative == (2, 2, 3)


@pytest.mark.parametrize(
    ("id", "there"),
    [("x" * 115, True), ("x" * 116, False), ('"', False), ("a\\b", False), ("a b", False), ("é", False)],
)
def test_an_exemplar_is_what_all_can_read(id: str, there: bool) -> None:
    """OpenMetrics allows 128 characters for an exemplar's labels; a longer or an odd id is left out, and counted."""
    watcher = Watcher()
    watcher.see([], at=at(0))
    watcher.see([made(id, updated=3)], at=at(5))
    tally = watcher.ledger.finished["COMPLETE", "CREATE"]
    assert tally.size == 1
    assert (tally.exemplar is not None) == there
    assert any(watcher.ledger.durations["COMPLETE", "CREATE"].exemplars) == there


def test_other_bounds_begin_anew() -> None:
    """A histogram of other bounds than before starts from nothing, as after a restart."""
    ledger = Ledger({}, {("COMPLETE", "CREATE"): Distribution((1.0,), (4,), 9, 99.0, (None, None))})
    watcher = Watcher(ledger=ledger)
    watcher.see([], at=at(0))
    watcher.see([made("a", updated=3)], at=at(5))
    assert watcher.ledger.durations["COMPLETE", "CREATE"][:4] == (BOUNDS, (1, 1, 1), 1, 3.0)


# -- any history


@dataclass
class Life:
    """A deployment as its cloud knows it."""

    id: str
    created: float
    status: str = "IN_PROGRESS"
    action: str = "CREATE"
    updated: float | None = None
    config: str = "c0"
    hidden: bool = False

    def record(self) -> Deployment:
        """What the listing shows of it."""
        return made(self.id, self.status, self.action, created=self.created, updated=self.updated, config=self.config)


@dataclass
class Reference:
    """The same counts by remembering everything: each state that was ever listed, for ever."""

    first: bool = True
    seen: defaultdict[str, set[Any]] = field(default_factory=lambda: defaultdict(set))
    running: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    finished: Counter[tuple[str, str]] = field(default_factory=Counter)
    durations: defaultdict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def see(self, lives: list[Life]) -> None:
        """Take one listing."""
        running: dict[str, tuple[str, str, float]] = {}
        for life in lives:
            changed = life.created if life.updated is None else life.updated
            before = self.running.get(life.id)
            same_run = before is not None and before[:2] == (life.action, life.config)
            if life.status == "IN_PROGRESS":
                running[life.id] = before if before and same_run else (life.action, life.config, changed)
                continue
            state = life.status, life.action, life.updated, life.config
            again = before is not None and same_run and changed >= before[2]
            if (state not in self.seen[life.id] or again) and not self.first:
                self.finished[life.status, life.action] += 1
                if life.action == "CREATE":
                    self.durations[life.status, life.action].append(max(0.0, changed - life.created))
                elif before is not None and same_run:
                    self.durations[life.status, life.action].append(max(0.0, changed - before[2]))
            self.seen[life.id].add(state)
        self.running, self.first = running, False


STEPS = st.lists(
    st.tuples(
        st.sampled_from([*["act"] * 8, *["list"] * 7, "touch", "hide", "show", "delete", "restart"]),
        st.integers(0, 2),
        # How long after the step before: often within the same second, sometimes hours.
        st.sampled_from((0.0, 0.0, 0.1, 0.4, 1.0, 7.0, 60.0, 1500.0, 9000.0, 200000.0)),
        # How far the engine that does it is off.
        st.sampled_from((0, 0, 0, -1, 2, -240, 300)),
        st.booleans(),
    ),
    max_size=120,
)


@settings(max_examples=400, deadline=None)
@given(steps=STEPS, off=st.sampled_from((0.0, 5.0, -5.0, 3000.0, -(10.0**7))), batch=st.sampled_from((1, 3, 1000)))
def test_any_history(steps: list[tuple[str, int, float, int, bool]], off: float, batch: int) -> None:
    """Whatever deployments go through, the counts are those of somebody who remembers everything."""
    now = 0.0
    lives: dict[int, Life] = {}
    watcher, reference = Watcher(), Reference()
    shown: list[Deployment] = []
    configs = 0
    for step, place, later, skew, flag in steps:
        now += later
        stamp = float(int(now + skew))
        life = lives.get(place)
        if step == "list":
            listed = [each for each in lives.values() if not each.hidden]
            watcher.see((each.record() for each in listed), at=at(now + off), batch=batch)
            reference.see(listed)
            shown = [each.record() for each in listed]
        elif step == "restart":
            watcher, reference, shown = Watcher(), Reference(), []
            for each in lives.values():
                each.hidden = False
        elif step == "act" and life is None:
            lives[place] = Life(f"{place}-{configs}", stamp)
            configs += 1
        elif life is None or (life.hidden and step not in ("show", "delete")):
            continue  # what ends hours before it is listed again is no news
        elif step == "act" and life.status == "IN_PROGRESS":
            life.status, life.updated = ("COMPLETE" if flag else "FAILED"), stamp
        elif step == "act":
            configs += flag
            life.action = "UPDATE" if flag or life.action == "CREATE" else life.action
            life.status, life.updated = "IN_PROGRESS", stamp
            life.config = f"c{configs}" if flag else life.config
        elif step == "touch" and life.status == "IN_PROGRESS":
            life.updated = stamp
        elif step == "show" or (step == "hide" and life.record() in shown):
            life.hidden = step == "hide"
        elif step == "delete":
            del lives[place]
    assert {cell: tally.size for cell, tally in watcher.ledger.finished.items()} == dict(reference.finished)
    found = {cell: (each.size, each.total) for cell, each in watcher.ledger.durations.items()}
    assert found == {cell: (len(each), sum(each)) for cell, each in reference.durations.items()}
