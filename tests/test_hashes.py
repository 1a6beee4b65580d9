"""Many hashes, sorted and compared in steps, held against sets of them."""

import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.hashes import FEW, Gathered, Sum, common, ordered, repeated, without
from exporter.steps import STEP

SIZES = (0, 1, FEW, FEW + 1, STEP - 1, STEP, STEP + 1, 3 * STEP + 3)
"""Around each size at which another way is taken."""


def hashes(chance: random.Random, size: int) -> set[int]:
    """So many different ones, over all that 64 bits hold."""
    found: set[int] = set()
    while len(found) < size:
        found.add(chance.randrange(-(2**63), 2**63))
    return found


@given(size=st.sampled_from(SIZES), seed=st.integers(0, 100))
def test_hashes_are_sorted(size: int, seed: int) -> None:
    """However many there are, they are sorted as `sorted` does, those that stand there twice too."""
    chance = random.Random(seed)
    some = [*hashes(chance, size), *hashes(random.Random(seed), size // 2)]
    assert ordered(some) == array("q", sorted(some))


@pytest.mark.parametrize("size", [130_000, 140_000, 600_000])
def test_very_many_hashes_are_sorted(size: int) -> None:
    """Also those that are too many to be told apart by their first bits in one step."""
    some = list(hashes(random.Random(size), size))
    assert ordered(some) == array("q", sorted(some))


@given(size=st.sampled_from(SIZES), place=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 100))
def test_a_repetition_is_found(size: int, place: float, seed: int) -> None:
    """One that stands there twice is found wherever it is, also where two steps meet; without one there is none."""
    sorted_ones = ordered(hashes(random.Random(seed), size))
    assert not repeated(sorted_ones)
    if size:
        sorted_ones.insert(int(place * size), sorted_ones[int(place * size)])
        assert repeated(sorted_ones)


def test_a_repetition_between_two_steps() -> None:
    """The last one of a step, once more as the first of the next."""
    some = array("q", range(2 * STEP))
    some[STEP] = some[STEP - 1]
    assert repeated(some)


@given(sizes=st.tuples(*3 * [st.sampled_from(SIZES)]), seed=st.integers(0, 100))
def test_two_are_compared(sizes: tuple[int, int, int], seed: int) -> None:
    """What both have and what only one has is what sets say."""
    chance = random.Random(seed)
    one, other, both = (hashes(chance, size) for size in sizes)
    mine, theirs = ordered(one | both), ordered(other | both)
    assert without(mine, theirs) == ordered((one | both) - (other | both))
    assert common(mine, theirs) == common(theirs, mine) == ordered((one | both) & (other | both))


@given(size=st.sampled_from(SIZES), batch=st.integers(1, 2000), seed=st.integers(0, 100))
def test_hashes_are_gathered(size: int, batch: int, seed: int) -> None:
    """In whatever batches they come, they are counted, and sorted however often that is asked for."""
    some = [*hashes(random.Random(seed), size)] * 2
    gathered = Gathered()
    for start in range(0, len(some), batch):
        gathered.extend(some[start : start + batch])
    assert len(gathered) == len(some)
    assert gathered.ordered() == array("q", sorted(some)) == gathered.ordered()
    assert list(gathered) == sorted(some)


@given(size=st.sampled_from(SIZES), batch=st.integers(1, 2000), seed=st.integers(0, 100))
def test_hashes_are_known_again(size: int, batch: int, seed: int) -> None:
    """Their sum is the same in whatever order and batches they come, and another one where one is another, is missing,
    or stands in another's place."""
    chance = random.Random(seed)
    some = list(hashes(chance, size))
    (other,) = hashes(chance, 1)

    def total(those: list[int]) -> Sum:
        gathered = Gathered()
        for start in range(0, len(those), batch):
            gathered.extend(those[start : start + batch])
        return gathered.sum

    before = total(some)
    chance.shuffle(some)
    assert total(some) == before
    assert total([*some, other]) != before
    if some:
        assert total([*some[1:], other]) != before
        assert total(some[1:]) != before
    if len(some) > 1:
        assert total([*some[1:], some[1]]) != before


def test_hashes_that_are_alike() -> None:
    """Many that begin with the same bits, even all of them, are sorted too."""
    some = [*range(20 * STEP, 0, -1), *(3 * STEP * [7]), -1, 2**63 - 1, -(2**63)]
    assert ordered(some) == array("q", sorted(some))
