"""The page that scrapes get, kept as ready pieces.

Each state's block of each section is kept as plain bytes, once. Small blocks go together into bundles, because a
deflate piece of a few lines compresses badly and joining tens of thousands of them takes time; a large block is a piece
by itself. A change makes only the pieces anew that it touches. A gzip page is one ordinary member: the header, every
piece's deflate stream (each ended by a full flush, so they can stand in any order), an empty last block, and the CRC
combined from the pieces' own.

What is joined for a page is kept until the next change, so that a scrape sends bytes that are there; and of each
section, a few bundles' pieces joined are kept until one of these changes, so that a change of one project among
thousands leaves little to join.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, repeat
from typing import Final, NamedTuple

from exporter.metrics.families import Family
from exporter.metrics.gzip_members import Deflated, GzipMember, joined, piece, together
from exporter.metrics.text_format import FORMATS, LARGE_BLOCK, Block, Format, headers

BUNDLE_MEMBERS: Final = 64
GROUP_BUNDLES: Final = 4
LARGE_PART: Final = 64 * 1024


@dataclass(slots=True)
class _Shelf:
    """The blocks of every owner for one header."""

    sizes: dict[int, int] = field(default_factory=dict)
    """By slot, of its small block."""
    pieces: dict[tuple[int, int], GzipMember] = field(default_factory=dict)
    """By (bundle, -1) for the small blocks of a bundle, (bundle, slot) for a large one; kept in order. Blocks are
    nowhere else: those of a bundle stand in it in the order of their slots."""
    changes: Counter[int] = field(default_factory=Counter)
    """How often pieces changed, by the group of bundles that they are in."""

    def groups(self) -> Iterable[int]:
        """The groups of bundles that have pieces, in order."""
        return dict.fromkeys(map(_group, self.pieces))

    def pieces_of(self, group: int) -> list[GzipMember]:
        """The pieces of one group, in order."""
        return [each for place, each in self.pieces.items() if _group(place) == group]

    def of(self, slot: int) -> GzipMember | bytes | None:
        """The block of a slot, as a piece if large; None where it has none."""
        if (size := self.sizes.get(slot)) is None:
            return self.pieces.get((slot // BUNDLE_MEMBERS, slot))
        start = self._start(slot)
        return self._bundle(slot)[start : start + size]

    def _bundle(self, slot: int) -> bytes:
        found = self.pieces.get((slot // BUNDLE_MEMBERS, -1))
        return b"" if found is None else found.plain

    def _start(self, slot: int) -> int:
        """Where a slot's small block begins, or would begin, in its bundle."""
        first = slot // BUNDLE_MEMBERS * BUNDLE_MEMBERS
        return sum(map(self.sizes.get, range(first, slot), repeat(0)))

    def put(self, slot: int, block: bytes, ready: GzipMember | None) -> bool:
        """Set (or with b"" remove) the block of a slot, `ready` as a piece if large; False where it was just that."""
        bundle = slot // BUNDLE_MEMBERS
        large = self.pieces.get((bundle, slot))
        size = self.sizes.get(slot, 0)
        if len(block) > LARGE_BLOCK:
            if large is not None and large.plain == block:
                return False
            self._set((bundle, slot), block, ready)
            small = b""
        else:
            if large is not None:
                self._set((bundle, slot), b"")
            small = block
        if size or small:
            start, others = self._start(slot), self._bundle(slot)
            if others[start : start + size] == small:
                return False
            self._set((bundle, -1), b"".join((others[:start], small, others[start + size :])))
        if small:
            self.sizes[slot] = len(small)
        else:
            self.sizes.pop(slot, None)
        return large is not None or size > 0 or block != b""

    def _set(self, place: tuple[int, int], plain: bytes, ready: GzipMember | None = None) -> None:
        self.changes[_group(place)] += 1
        if not plain:
            self.pieces.pop(place, None)
            return
        new = place not in self.pieces
        self.pieces[place] = ready or piece(plain)
        if new:
            self.pieces = dict(sorted(self.pieces.items()))


def _group(place: tuple[int, int]) -> int:
    return place[0] // GROUP_BUNDLES


class _Group:
    """The pieces of one group, with the header if it is the first one; put together when that is first asked for."""

    __slots__ = ("_deflated", "_parts", "_pieces", "version")

    def __init__(self, pieces: list[GzipMember], version: tuple[bool, int]) -> None:
        self._pieces = pieces
        self.version = version
        """Whether it is the first one, and how often it had changed by then."""
        self._parts: tuple[bytes, ...] | None = None
        self._deflated: Deflated | None = None

    @property
    def parts(self) -> tuple[bytes, ...]:
        """Their bytes; joined unless that makes less than a large part, which is joined with others then."""
        if self._parts is None:
            parts = tuple(each.plain for each in self._pieces)
            large = sum(map(len, parts)) >= LARGE_PART
            self._parts = tuple(together(parts, least=LARGE_PART)) if large else parts
        return self._parts

    @property
    def deflated(self) -> Deflated:
        """The same, compressed."""
        if self._deflated is None:
            self._deflated = joined(each.deflated for each in self._pieces)
        return self._deflated


@dataclass(slots=True)
class _Section:
    """One header, and the shelf with what stands below it."""

    family: str
    header: GzipMember
    shelf: _Shelf
    kept: dict[int, _Group] = field(default_factory=dict)

    def groups(self) -> Iterable[_Group]:
        """The header and its pieces by groups, those that have not changed as they were; nothing where there are no
        samples."""
        kept: dict[int, _Group] = {}
        for group in self.shelf.groups():
            version = not kept, self.shelf.changes[group]
            found = self.kept.get(group)
            if found is None or found.version != version:
                pieces = self.shelf.pieces_of(group)
                found = _Group([self.header, *pieces] if not kept else pieces, version)
            kept[group] = found
        self.kept = kept
        return kept.values()

    def pieces(self) -> Iterable[GzipMember]:
        """The header and its pieces; nothing where there are no samples."""
        return (self.header, *self.shelf.pieces.values()) if self.shelf.pieces else ()


class _Feed(NamedTuple):
    """Which part of a family's blocks goes on a shelf."""

    family: str
    format: Format
    part: int
    shelf: _Shelf


class Page:
    """The sections of every family in both formats, and the pages joined from them.

    Most families have the same lines in both formats; those share a shelf, so they are kept and compressed once.
    """

    def __init__(self, families: Iterable[Family]) -> None:
        self._sections: dict[Format, list[_Section]] = {format: [] for format in FORMATS}
        self._feeds: list[_Feed] = []
        for family in families:
            shared = None if family.kind == "gaugehistogram" or family.exemplars else _Shelf()
            for format in FORMATS:
                for index, header in enumerate(headers(family, format)):
                    shelf = shared or _Shelf()
                    self._sections[format].append(_Section(family.name, piece(header), shelf))
                    if shared is None or format == "text":
                        self._feeds.append(_Feed(family.name, format, index, shelf))
        self._slots: dict[object, int] = {}
        self._free: list[int] = []
        self._next = count()
        self._parts: dict[Format, tuple[bytes, ...]] = {}
        self._deflated: dict[Format, Deflated] = {}

    def __contains__(self, owner: object) -> bool:
        return owner in self._slots

    def put(self, owner: object, blocks: Mapping[str, Block], *, families: frozenset[str] | None = None) -> None:
        """Replace all that an owner shows, or what it shows of some families, by these blocks, by family name."""
        slot = self._slots.get(owner)
        if slot is None:
            slot = self._slots[owner] = self._free.pop() if self._free else next(self._next)
        self._replace(slot, blocks, families)

    def drop(self, owner: object) -> None:
        """Forget an owner and all that it shows."""
        if (slot := self._slots.pop(owner, None)) is not None:
            self._replace(slot, {}, None)
            self._free.append(slot)

    def _replace(self, slot: int, blocks: Mapping[str, Block], families: frozenset[str] | None) -> None:
        changed = False
        for family, format, part, shelf in self._feeds:
            if families is not None and family not in families:
                continue
            block = blocks.get(family)
            if block is None:
                changed |= shelf.put(slot, b"", None)
            else:
                changed |= shelf.put(slot, getattr(block, format)[part], block.ready)
        if changed:
            self._parts, self._deflated = {}, {}

    def parts(self, format: Format) -> tuple[bytes, ...]:
        """Everything that has been put, in parts to be sent one after the other; large blocks are not copied."""
        if (kept := self._parts.get(format)) is None:
            every = (part for group in self._groups(format) for part in group.parts)
            kept = self._parts[format] = tuple(together(every, least=LARGE_PART))
        return kept

    def plain(self, format: Format) -> bytes:
        """The same in one piece."""
        return b"".join(self.parts(format))

    def deflated(self, format: Format) -> Deflated:
        """The same, compressed; `gzip_member` makes a body of it."""
        if (kept := self._deflated.get(format)) is None:
            kept = self._deflated[format] = joined(each.deflated for each in self._groups(format))
        return kept

    def selected(self, format: Format, families: frozenset[str]) -> list[GzipMember]:
        """The sections of some families."""
        return [each for section in self._sections[format] if section.family in families for each in section.pieces()]

    def owned(self, owner: object, format: Format, families: frozenset[str] | None = None) -> list[GzipMember | bytes]:
        """What one owner shows, under the headers of its families; of some families only where they are given."""
        parts: list[GzipMember | bytes] = []
        if (slot := self._slots.get(owner)) is None:
            return parts
        for section in self._sections[format]:
            if (families is None or section.family in families) and (block := section.shelf.of(slot)) is not None:
                parts += section.header.plain, block
        return parts

    def _groups(self, format: Format) -> Iterator[_Group]:
        for section in self._sections[format]:
            yield from section.groups()
