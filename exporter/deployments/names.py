"""The names of configs and servers, as far as they are known; and deployments counted by the name of their config.

A stack gives each action a config of its own, derived from the one that its template names, so the ids of configs say
nothing about what belongs together: their names do. There may be as many configs as deployments, so ids are kept as
64-bit hashes in sorted arrays: a dictionary of their texts takes ten times the memory.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from exporter.deployments.snapshot import ConfigName, ConfigRow, Snapshot

UNKNOWN: Final = ConfigName("", "")
NAMES_LIMIT: Final = 1_000_000
"""The names of so many configs of a project are kept; further ones count as unknown."""
# Of so many ids a dictionary is made at a time, which takes a fraction of a millisecond.
_PART: Final = 2048
# Up to this share of a table's ids, each is searched for by itself.
_FEW: Final = 16

N = TypeVar("N", bound=Hashable)


def hashed(ids: Iterable[str | None]) -> array[int]:
    """The hashes by which ids are known; a missing id has one that no name is kept for."""
    return array("q", map(hash, ids))


_NO_IDS: Final = frozenset(hashed((None, "")))


def _bits(size: int) -> int:
    """How many leading bits divide so many hashes into parts."""
    return max(1, (size // _PART).bit_length())


def _split(items: Iterable[int], hashes: Iterable[int], bits: int, kind: str = "q") -> list[array[int]]:
    """The items in parts by the leading bits of their hashes, in the order of these."""
    half, shift = 1 << bits - 1, 64 - bits
    parts = [array(kind) for _ in range(2 * half)]
    for item, each in zip(items, hashes):
        parts[(each >> shift) + half].append(item)
    return parts


def _together(hashes: Iterable[array[int]]) -> array[int]:
    result = array("q")
    for each in hashes:
        result.extend(each)
    return result


@dataclass(frozen=True, eq=False)
class NameTable(Generic[N]):
    """Names by the hashes of ids, twelve bytes an id and each different name once. Immutable."""

    hashes: array[int] = field(default_factory=lambda: array("q"))
    """Sorted, each once."""
    places: array[int] = field(default_factory=lambda: array("I"))
    """Where the name of each is in `names`."""
    names: tuple[N | None, ...] = ()
    """None is a name that was forgotten."""

    def __len__(self) -> int:
        return len(self.hashes)

    def __contains__(self, id: str) -> bool:
        return self.get(id) is not None

    def get(self, id: str) -> N | None:
        """The name of an id; None if it is not known."""
        place = self._place(hash(id))
        return None if place is None else self.names[place]

    def _place(self, identity: int) -> int | None:
        at = bisect_left(self.hashes, identity)
        return self.places[at] if at < len(self.hashes) and self.hashes[at] == identity else None

    def _parts(self, bits: int) -> Iterator[dict[int, int]]:
        """The places of the names by hash, a dictionary for each part."""
        half, shift, start = 1 << bits - 1, 64 - bits, 0
        gone = self.names.index(None) if None in self.names else None
        for part in range(1 - half, half + 1):
            end = bisect_left(self.hashes, part << shift, start)
            known = dict(zip(self.hashes[start:end], self.places[start:end]))
            yield known if gone is None else {each: place for each, place in known.items() if place != gone}
            start = end

    def count(self, hashes: array[int]) -> tuple[Counter[N], array[int]]:
        """How many of the hashes have each name, and those whose names are not known."""
        if len(hashes) * _FEW < len(self):
            found = [self._place(each) for each in hashes]
            known = [None if place is None else self.names[place] for place in found]
            counts: Counter[Any] = Counter(known)
            counts.pop(None, None)
            return counts, array("q", [each for each, name in zip(hashes, known) if name is None])
        places: Counter[Any] = Counter()
        unknown = array("q")
        bits = _bits(max(len(hashes), len(self)))
        for part, table in zip(_split(hashes, hashes, bits), self._parts(bits)):
            places.update(map(table.get, part))
            if None in places:
                del places[None]
                unknown.extend([each for each in part if each not in table])
        names: Counter[Any] = Counter()
        for place, count in places.items():
            names[self.names[place]] += count
        return names, unknown

    def missing(self, hashes: Iterable[array[int]]) -> array[int]:
        """The hashes that have no name here, sorted, each once, and no more than there is room for."""
        found, together = array("q"), _together(hashes)
        bits = _bits(max(len(together), len(self)))
        for part, known in zip(_split(together, together, bits), self._parts(bits)):
            found.extend(sorted(set(part).difference(known, _NO_IDS)))
        del found[max(0, NAMES_LIMIT - len(self)) :]
        return found

    def with_more(self, hashes: array[int], names: Sequence[N]) -> NameTable[N]:
        """The same with the names of these hashes, in their order."""
        all_names: dict[N | None, int] = {name: place for place, name in enumerate(self.names)}
        found = array("I", [all_names.setdefault(name, len(all_names)) for name in names])
        bits = _bits(len(self) + len(hashes))
        parts, places = _split(hashes, hashes, bits), _split(found, hashes, bits, "I")
        tables = (known | dict(zip(part, place)) for part, place, known in zip(parts, places, self._parts(bits)))
        return _table(tables, tuple(all_names))

    def only(self, hashes: Iterable[array[int]]) -> NameTable[N]:
        """The same without the names of other hashes than these."""
        together = _together(hashes)
        bits = _bits(max(len(together), len(self)))
        parts = _split(together, together, bits)
        tables = (
            {each: known[each] for each in known.keys() & set(part)} for part, known in zip(parts, self._parts(bits))
        )
        return _table(tables, self.names)

    def without(self, name: N) -> NameTable[N]:
        """The same without what has this name."""
        return replace(self, names=tuple(None if each == name else each for each in self.names))


def _table(parts: Iterable[Mapping[int, int]], names: Sequence[N | None]) -> NameTable[N]:
    """A table of some parts, in their order, with no more names than are in use."""
    hashes, places = array("q"), array("I")
    new: dict[int, int] = {}
    for part in parts:
        order = sorted(part)
        hashes.extend(order)
        places.extend([new.setdefault(part[each], len(new)) for each in order])
    return NameTable(hashes, places, tuple(names[place] for place in new))


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one project's configs and servers. Asked for and not found is UNKNOWN, or ""."""

    configs: NameTable[ConfigName] = field(default_factory=NameTable)
    servers: NameTable[str] = field(default_factory=NameTable)
    asking: bool = True
    """Whether anybody will be asked for what is not known: if not, there is no use in keeping an id for that."""

    @property
    def matter(self) -> bool:
        """Whether any config has a name or will have one."""
        return self.asking or len(self.configs) > 0

    def same_as(self, other: Names) -> bool:
        """Whether nothing was learnt or forgotten in between."""
        return self.configs is other.configs and self.servers is other.servers


NO_NAMES: Final = Names(asking=False)
"""Where nobody is asked."""


@dataclass(slots=True)
class ConfigTally:
    """Deployments counted by their config: by its name if that is known, else kept by its hash until it is."""

    counts: Counter[tuple[ConfigName, str]] = field(default_factory=Counter)
    """By config and status (as its label)."""
    stuck: Counter[ConfigName] = field(default_factory=Counter)
    unnamed: Mapping[str, array[int]] = field(default_factory=dict)
    """By status: the configs' hashes, one for each deployment."""
    unnamed_stuck: array[int] = field(default_factory=lambda: array("q"))

    def named_by(self, table: NameTable[ConfigName]) -> ConfigTally:
        """The same with more configs counted by name."""
        if not table:
            return self
        counts, stuck = Counter(self.counts), Counter(self.stuck)
        unnamed = {}
        for status, hashes in self.unnamed.items():
            found, unnamed[status] = table.count(hashes)
            counts.update({(name, status): count for name, count in found.items()})
        found, unnamed_stuck = table.count(self.unnamed_stuck)
        stuck.update(found)
        return ConfigTally(counts, stuck, unnamed, unnamed_stuck)

    def rows(self, *, limit: int) -> tuple[tuple[ConfigRow, ...], int]:
        """The rows of as many configs as allowed, the most troubled first, and how many rows are left out."""
        counts: dict[ConfigName, Counter[str]] = {}
        trouble = Counter(self.stuck)
        trouble[UNKNOWN] += len(self.unnamed_stuck)
        unnamed = {(UNKNOWN, status): len(hashes) for status, hashes in self.unnamed.items() if hashes}
        for (name, status), count in chain(self.counts.items(), unnamed.items()):
            counts.setdefault(name, Counter())[status] += count
            if status == "FAILED":
                trouble[name] += count
        order = sorted(counts, key=lambda name: (-trouble[name], name))
        shown = tuple(
            ConfigRow(*name, status, count) for name in order[:limit] for status, count in sorted(counts[name].items())
        )
        return shown, sum(len(counts[name]) for name in order[limit:])


def named(snapshot: Snapshot, tally: ConfigTally, names: Names, *, configs: int) -> Snapshot:
    """The snapshot with every name that is known; `configs` is how many of them may have rows."""
    rows, withheld = tally.rows(limit=configs) if configs else ((), 0)
    wanted = {row.config_id for row in snapshot.problems}
    shown = {row.server_id for row in snapshot.servers}
    found = {each: names.configs.get(each) for each in wanted}
    return replace(
        snapshot,
        configs=rows,
        configs_withheld=withheld,
        config_names={each: name for each, name in found.items() if name is not None and name != UNKNOWN},
        server_names={each: called for each in shown if (called := names.servers.get(each))},
    )
