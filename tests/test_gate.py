"""Who may refresh now."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.collector.concurrency import ConcurrencyLimit

CLOUDS = ("a", "b", "c")


class Arena:
    """Projects that ask a gate for turns and hold them until they are told to go."""

    def __init__(self, gate: ConcurrencyLimit) -> None:
        self.gate = gate
        self.inside: list[tuple[str, bool, int]] = []
        """Who holds a turn, in the order in which they got it: cloud, slow, number."""
        self._leave: dict[int, asyncio.Event] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def _visit(self, cloud: str, slow: bool, number: int) -> None:
        async with self.gate.turn(cloud, slow=slow):
            self.inside.append((cloud, slow, number))
            try:
                await self._leave[number].wait()
            finally:
                self.inside.remove((cloud, slow, number))

    async def settle(self) -> None:
        """Let everybody go as far as they can; nothing here waits for time to pass."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def arrive(self, cloud: str, *, slow: bool = False, times: int = 1) -> None:
        """More projects ask for a turn."""
        for _ in range(times):
            number = len(self._tasks)
            self._leave[number] = asyncio.Event()
            self._tasks[number] = asyncio.create_task(self._visit(cloud, slow, number))
        await self.settle()

    async def leave(self, number: int) -> None:
        """A project ends its turn, or will as soon as it has it."""
        self._leave[number].set()
        await self.settle()

    async def cancel(self, number: int) -> None:
        """A project is removed, be it waiting or inside."""
        self._tasks[number].cancel()
        await self.settle()

    async def end(self) -> None:
        """Everybody goes home, and nobody is left behind."""
        for event in self._leave.values():
            event.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        assert self.inside == []

    def count(self, cloud: str | None = None, *, slow: bool | None = None) -> int:
        """How many hold a turn, of a cloud, of a kind."""
        return sum((cloud is None or cloud == each) and (slow is None or slow == kind) for each, kind, _ in self.inside)


@pytest.mark.parametrize(
    ("concurrency", "clouds", "shares"),
    [(8, 1, [8]), (8, 2, [4, 4]), (8, 3, [3, 3, 2]), (3, 3, [1, 1, 1]), (1, 1, [1]), (7, 2, [4, 3])],
)
async def test_a_share_for_each_cloud(concurrency: int, clouds: int, shares: list[int]) -> None:
    """Turns are shared out evenly, and together the shares are all there is."""
    arena = Arena(ConcurrencyLimit(concurrency, CLOUDS[:clouds]))
    for cloud in CLOUDS[:clouds]:
        await arena.arrive(cloud, times=20)
    assert [arena.count(cloud) for cloud in CLOUDS[:clouds]] == shares
    assert arena.count() == sum(shares) == concurrency
    await arena.end()


async def test_fewer_turns_than_clouds() -> None:
    """With fewer turns than clouds the total holds, and each cloud gets its turn as others leave."""
    arena = Arena(ConcurrencyLimit(2, CLOUDS))
    for cloud in CLOUDS:
        await arena.arrive(cloud, times=3)
    assert arena.count() == 2
    assert arena.count("c") == 0
    await arena.leave(0)
    await arena.leave(3)
    assert arena.count() == 2
    assert arena.count("c") == 1
    await arena.end()


@pytest.mark.parametrize("concurrency", [3, 4, 8, 20])
@pytest.mark.parametrize("slow", [False, True])
async def test_a_hung_cloud_takes_no_others_turn(concurrency: int, slow: bool) -> None:
    """However many projects of a cloud hang, those of the others get turns at once."""
    arena = Arena(ConcurrencyLimit(concurrency, CLOUDS))
    await arena.arrive("a", slow=slow, times=100)
    before = arena.count("a")
    for cloud in ("b", "c"):
        await arena.arrive(cloud)
        assert arena.count(cloud) == 1
    assert arena.count("a") == before
    await arena.end()


@pytest.mark.parametrize(("concurrency", "slow", "quick"), [(8, 4, 4), (4, 2, 2), (5, 2, 3), (2, 1, 1), (3, 1, 2)])
async def test_slow_projects_take_half_at_most(concurrency: int, slow: int, quick: int) -> None:
    """However many slow projects wait, quick ones of the same cloud have the other half to themselves."""
    arena = Arena(ConcurrencyLimit(concurrency, ["a"]))
    await arena.arrive("a", slow=True, times=50)
    assert arena.count(slow=True) == slow
    await arena.arrive("a", slow=False, times=50)
    assert (arena.count(slow=True), arena.count(slow=False)) == (slow, quick)
    await arena.end()


async def test_quick_projects_may_use_all_turns() -> None:
    """What slow projects don't use is not kept free for them."""
    arena = Arena(ConcurrencyLimit(8, ["a"]))
    await arena.arrive("a", times=50)
    assert arena.count() == 8
    await arena.arrive("a", slow=True)
    assert arena.count(slow=True) == 0
    await arena.end()


async def test_a_share_of_one_serves_slow_projects_too() -> None:
    """Half of one turn would be none: a slow project of such a cloud gets it like any other."""
    arena = Arena(ConcurrencyLimit(1, ["a"]))
    await arena.arrive("a", slow=True)
    assert arena.count(slow=True) == 1
    await arena.end()


async def test_first_come_first_served() -> None:
    """Projects of a cloud get their turns in the order in which they asked."""
    arena = Arena(ConcurrencyLimit(1, ["a"]))
    await arena.arrive("a", times=5)
    for number in range(5):
        assert arena.inside == [("a", False, number)]
        await arena.leave(number)
    await arena.end()


@pytest.mark.parametrize("slow", [False, True])
async def test_who_stops_waiting_takes_nothing_along(slow: bool) -> None:
    """A project that is removed, waiting or under way, leaves its place to the next."""
    arena = Arena(ConcurrencyLimit(1, ["a"]))
    await arena.arrive("a", slow=slow, times=4)
    await arena.cancel(1)
    await arena.cancel(0)
    assert arena.inside == [("a", slow, 2)]
    await arena.leave(2)
    assert arena.inside == [("a", slow, 3)]
    await arena.end()


async def test_a_failure_gives_the_turn_back() -> None:
    """A refresh that raises ends its turn."""
    gate = ConcurrencyLimit(1, ["a"])
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with gate.turn("a", slow=True):
                raise ZeroDivisionError
    async with asyncio.timeout(5), gate.turn("a", slow=False):
        pass


@settings(max_examples=60, deadline=None)
@given(
    concurrency=st.integers(1, 9),
    clouds=st.integers(1, 3),
    steps=st.lists(st.tuples(st.sampled_from(CLOUDS), st.booleans(), st.integers(0, 40)), max_size=25),
)
def test_limits_hold_and_no_turn_is_wasted(concurrency: int, clouds: int, steps: list[tuple[str, bool, int]]) -> None:
    """At every moment the limits hold, and who waits does so because a limit of its own, or the total, is reached."""

    async def play() -> None:
        names = CLOUDS[:clouds]
        arena = Arena(ConcurrencyLimit(concurrency, names))
        share = {name: max(1, concurrency // clouds + (at < concurrency % clouds)) for at, name in enumerate(names)}
        waiting: Counter[tuple[str, bool]] = Counter()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(arena.end)
            for cloud, slow, leaver in steps:
                if cloud not in share:
                    continue
                await arena.arrive(cloud, slow=slow)
                waiting[cloud, slow] += 1
                if arena.inside and leaver % 3 == 0:
                    gone = arena.inside[leaver % len(arena.inside)]
                    await arena.leave(gone[2])
                    waiting[gone[:2]] -= 1
                assert arena.count() <= concurrency
                for name in names:
                    half = max(1, share[name] // 2)
                    assert arena.count(name) <= share[name]
                    assert arena.count(name, slow=True) <= half
                    full = arena.count() == concurrency or arena.count(name) == share[name]
                    assert full or arena.count(name, slow=False) == waiting[name, False]
                    assert (
                        full
                        or arena.count(name, slow=True) == half
                        or arena.count(name, slow=True) == waiting[name, True]
                    )

    asyncio.run(play())
