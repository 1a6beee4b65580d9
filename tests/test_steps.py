"""Long work in short steps has the same result as in one."""

import random
from operator import itemgetter

from hypothesis import given
from hypothesis import strategies as st

from exporter.common.chunking import STEP, in_steps, sorted_in_steps

SIZES = st.sampled_from((0, 1, STEP - 1, STEP, STEP + 1, 2 * STEP, 5 * STEP + 3))


@given(size=SIZES, seed=st.integers(0, 100))
def test_sorted(size: int, seed: int) -> None:
    """However many there are, they are sorted as `sorted` does, those with equal keys in the order that they had."""
    chance = random.Random(seed)
    items = [(chance.randrange(max(1, size // 2)), place) for place in range(size)]
    assert sorted_in_steps(iter(items), key=itemgetter(0)) == sorted(items, key=itemgetter(0))


@given(size=SIZES, step=st.sampled_from((STEP, 128, 1)))
def test_in_steps(size: int, step: int) -> None:
    """All of them, in their order, all lists of one size but for the last, and none empty."""
    lists = list(in_steps(iter(range(size)), step))
    assert [each for some in lists for each in some] == list(range(size))
    assert {len(some) for some in lists[:-1]} <= {step}
    assert all(0 < len(some) <= step for some in lists)
    assert list(in_steps(range(size))) == list(in_steps(range(size), STEP))
