"""Long work in short steps has the same result as in one."""

import random
from operator import itemgetter

from hypothesis import given
from hypothesis import strategies as st

from exporter.steps import STEP, in_steps, sorted_in_steps

SIZES = st.sampled_from((0, 1, STEP - 1, STEP, STEP + 1, 2 * STEP, 5 * STEP + 3))


@given(size=SIZES, seed=st.integers(0, 100))
def test_sorted(size: int, seed: int) -> None:
    """However many there are, they are sorted as `sorted` does, those with equal keys in the order that they had."""
    chance = random.Random(seed)
    items = [(chance.randrange(max(1, size // 2)), place) for place in range(size)]
    assert sorted_in_steps(iter(items), key=itemgetter(0)) == sorted(items, key=itemgetter(0))


@given(size=SIZES)
def test_in_steps(size: int) -> None:
    """All of them, in their order, none of the lists longer than a step and none empty."""
    lists = list(in_steps(iter(range(size))))
    assert [each for some in lists for each in some] == list(range(size))
    assert all(0 < len(some) <= STEP for some in lists)
