"""Names by the hashes of ids: found again whatever their number, in the memory of a few bytes each."""

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.deployments import names as module
from exporter.deployments.names import UNKNOWN, ConfigTally, NameTable, hashed
from exporter.deployments.snapshot import ConfigName, ConfigRow

IDS = st.integers(0, 40).map(str)


def table_of(known: dict[str, str]) -> NameTable[str]:
    """A table with these names."""
    return NameTable[str]().with_more(hashed(known), list(known.values()))


def content(table: NameTable[str], ids: range = range(41)) -> dict[str, str]:
    """What a table knows of some ids."""
    return {id: name for id in map(str, ids) if (name := table.get(id)) is not None}


@given(
    first=st.dictionaries(IDS, st.sampled_from("abc")),
    more=st.dictionaries(IDS, st.sampled_from("abcd")),
    forgotten=st.sampled_from("abcd"),
    kept=st.sets(IDS),
    part=st.sampled_from((1, 3, 2048)),
)
def test_a_table_is_a_dictionary(
    first: dict[str, str], more: dict[str, str], forgotten: str, kept: set[str], part: int
) -> None:
    """Names that are added, replaced, forgotten and let go are those of a dictionary treated likewise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PART", part)  # the same on any number of ids
        table = table_of(first).without(forgotten)
        known = {id: name for id, name in first.items() if name != forgotten}
        assert content(table) == known
        table, known = table.with_more(hashed(more), list(more.values())), known | more
        assert content(table) == known
        assert list(table.hashes) == sorted(map(hash, known))
        table = table.only([hashed(kept)])
        known = {id: name for id, name in known.items() if id in kept}
        assert content(table) == known
        assert set(table.names) == set(known.values())


@given(known=st.dictionaries(IDS, st.sampled_from("abc")), ids=st.lists(IDS), part=st.sampled_from((1, 3, 2048)))
def test_counting_and_missing(known: dict[str, str], ids: list[str], part: int) -> None:
    """Ids are counted by their names; those without one are told apart, and asked for once each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PART", part)
        table = table_of(known)
        counts, unknown = table.count(hashed(ids))
        assert counts == Counter(known[id] for id in ids if id in known)
        without_name = [id for id in ids if id not in known]
        assert sorted(unknown) == sorted(map(hash, without_name))
        wanted = table.missing([hashed(ids), hashed(["", None, *ids[:2]])])
        assert list(wanted) == sorted(map(hash, set(without_name)))


def test_no_more_names_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of a limited number of configs are asked for; further ones stay unknown, and count as such."""
    monkeypatch.setattr(module, "NAMES_LIMIT", 3)
    table = table_of({"a": "x"})
    assert len(table.missing([hashed("abcdef")])) == 2
    tally = ConfigTally(unnamed={"COMPLETE": hashed("abcdef")})
    named = tally.named_by(NameTable[ConfigName]().with_more(hashed("ab"), [ConfigName("x", "y")] * 2))
    rows, withheld = named.rows(limit=10)
    assert set(rows) == {ConfigRow("x", "y", "COMPLETE", 2), ConfigRow(*UNKNOWN, "COMPLETE", 4)}
    assert withheld == 0


def test_a_name_takes_a_few_bytes() -> None:
    """A hundred thousand ids of a few names take twelve bytes each, and little more while they are counted."""
    ids = [f"00000000-0000-0000-0000-{number:012}" for number in range(100_000)]
    hashes, names = hashed(ids), [ConfigName(f"name-{number % 50}", "script") for number in range(len(ids))]
    tracemalloc.start()
    try:
        table = NameTable[ConfigName]().with_more(hashes, names)
        assert tracemalloc.get_traced_memory()[0] < 1.5e6
        tracemalloc.reset_peak()
        counts, unknown = table.count(hashes)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert len(counts) == 50
    assert not unknown
