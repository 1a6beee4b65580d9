"""Many hashes, sorted in steps and sampled, held against lists and sets of them."""

import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.common.chunking import STEP
from exporter.deployments.hashes import SAMPLE_SIZE, Gathered, Smallest, Sum, repeated

SIZES = (0, 1, STEP - 1, STEP, STEP + 1, 3 * STEP + 3)
"""Sizes around each limit at which the code takes another way."""


def hashes(chance: random.Random, size: int) -> set[int]:
    """So many different ones, over all that 64 bits hold."""
    found: set[int] = set()
    while len(found) < size:
        found.add(chance.randrange(-(2**63), 2**63))
    return found


def gathered(some: list[int], batch: int = 200) -> Gathered:
    """The hashes, collected in batches."""
    result = Gathered()
    for start in range(0, len(some), batch):
        result.extend(some[start : start + batch])
    return result


@given(size=st.sampled_from(SIZES), batch=st.integers(1, 2000), seed=st.integers(0, 100))
def test_hashes_are_sorted(size: int, batch: int, seed: int) -> None:
    """However many there are, in whatever batches they come, and how often they occur, they are counted, and sorted as
    `sorted` does, however often that is asked for."""
    some = [*hashes(random.Random(seed), size)] * 2
    found = gathered(some, batch)
    assert len(found) == len(some)
    assert found.ordered() == array("q", sorted(some)) == found.ordered()


@pytest.mark.parametrize("size", [130_000, 140_000, 600_000])
def test_very_many_hashes_are_sorted(size: int) -> None:
    """Also those that are too many to be told apart by their first bits in one step."""
    some = list(hashes(random.Random(size), size))
    assert gathered(some).ordered() == array("q", sorted(some))


@given(size=st.sampled_from(SIZES), place=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 100))
def test_a_repetition_is_found(size: int, place: float, seed: int) -> None:
    """A hash that occurs twice is found wherever it is, also between two steps; without one there is none."""
    sorted_ones = array("q", sorted(hashes(random.Random(seed), size)))
    assert not repeated(sorted_ones)
    if size:
        sorted_ones.insert(int(place * size), sorted_ones[int(place * size)])
        assert repeated(sorted_ones)


def test_a_repetition_between_two_steps() -> None:
    """The last one of a step, once more as the first of the next."""
    some = array("q", range(2 * STEP))
    some[STEP] = some[STEP - 1]
    assert repeated(some)


@given(size=st.sampled_from(SIZES), batch=st.integers(1, 2000), seed=st.integers(0, 100))
def test_hashes_are_known_again(size: int, batch: int, seed: int) -> None:
    """Their sum is the same in whatever order and batches they come, and another one where one is another, is missing,
    or stands in another's place."""
    chance = random.Random(seed)
    some = list(hashes(chance, size))
    (other,) = hashes(chance, 1)

    def total(those: list[int]) -> Sum:
        return gathered(those, batch).sum

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
    assert gathered(some).ordered() == array("q", sorted(some))


@given(size=st.sampled_from((0, 1, SAMPLE_SIZE - 1, SAMPLE_SIZE, 3000)), batch=st.integers(1, 300), seed=st.integers())
def test_the_smallest_hashes_are_a_sample(size: int, batch: int, seed: int) -> None:
    """In whatever order, batches and number they come, the sample is the 64 smallest different ones, sorted."""
    chance = random.Random(seed)
    some = [*hashes(chance, size)] * 2
    chance.shuffle(some)
    smallest = Smallest()
    for start in range(0, len(some), batch):
        smallest.add(some[start : start + batch])
    assert smallest.values == tuple(sorted(set(some))[:SAMPLE_SIZE])
