"""The page kept as pieces: plain and compressed it is always just what was put, and nothing is made twice."""

import gzip
import shutil
import subprocess
import tracemalloc
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.metrics.families import FAMILIES, Family
from exporter.metrics.gzip_members import GzipMember, deflated, gzip_member, joined, piece, plain
from exporter.metrics.store import BUNDLE_MEMBERS, GROUP_BUNDLES, Page
from exporter.metrics.text_format import FORMATS, LARGE_BLOCK, Block, Format, headers

BY_NAME = {family.name: family for family in FAMILIES}
GAUGE = "heat_software_deployments"
GAUGE_HISTOGRAM = "heat_software_deployment_age_seconds"
COUNTER = "heat_refreshes_total"
HISTOGRAM = "heat_refresh_duration_seconds"
SOME = tuple(BY_NAME[name] for name in (GAUGE, GAUGE_HISTOGRAM, COUNTER, HISTOGRAM))
SIZES = (0, 20, 300, LARGE_BLOCK - 1, LARGE_BLOCK, LARGE_BLOCK + 1, 3 * LARGE_BLOCK)


def whole(parts: Sequence[GzipMember | bytes]) -> bytes:
    """The parts, one after the other."""
    return b"".join(plain(parts))


def lines(owner: int, what: str, size: int) -> bytes:
    """A block's text: it begins with its owner, as no other owner's does, and has this size."""
    start = f"{owner:04} {what} "
    return (start + "x" * size)[: max(size, len(start)) - 1].encode() + b"\n"


def block(owner: int, family: Family, size: int, version: int = 0) -> Block:
    """One owner's lines of a family, in as many parts as the formats have sections."""
    parts = tuple(lines(owner, f"{family.name} {part} {version}", size) for part in range(len(headers(family, "text"))))
    return Block(parts, (b"".join(parts),) if family.kind == "gaugehistogram" else parts)


def blocks(owner: int, sizes: Mapping[str, int], version: int = 0) -> dict[str, Block]:
    """One owner's blocks by family; size 0 is none."""
    return {name: block(owner, BY_NAME[name], size, version) for name, size in sizes.items() if size}


def check(page: Page, shown: Mapping[int, Mapping[str, Block]], format: Format) -> None:
    """Holds that a page is the headers in order, each with its blocks in some order, plain and compressed."""
    plain = page.plain(format)
    rest = plain
    for family in SOME:
        start = rest
        for part, header in enumerate(headers(family, format)):
            pending = [getattr(each[family.name], format)[part] for each in shown.values() if family.name in each]
            if not pending:
                continue
            assert rest.startswith(header)
            rest = rest[len(header) :]
            while pending:
                found = [each for each in pending if rest.startswith(each)]
                assert len(found) == 1
                pending.remove(found[0])
                rest = rest[len(found[0]) :]
        assert whole(page.selected(format, frozenset({family.name}))) == start[: len(start) - len(rest)]
    assert rest == b""
    member = gzip_member(page.deflated(format))
    assert gzip.decompress(member) == plain
    unpacker = zlib.decompressobj(wbits=31)
    assert unpacker.decompress(member) == plain
    assert unpacker.eof
    assert unpacker.unused_data == b""
    for owner, own in shown.items():
        expected = b"".join(
            header + getattr(own[family.name], format)[part]
            for family in SOME
            if family.name in own
            for part, header in enumerate(headers(family, format))
        )
        assert whole(page.owned(owner, format)) == expected
        assert gzip.decompress(gzip_member(deflated(page.owned(owner, format)))) == expected


STEPS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.one_of(st.none(), st.fixed_dictionaries({family.name: st.sampled_from(SIZES) for family in SOME})),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, crowd=st.sampled_from((0, BUNDLE_MEMBERS - 3, 2 * BUNDLE_MEMBERS)))
def test_a_page_is_what_was_put(steps: list[tuple[int, dict[str, int] | None]], crowd: int) -> None:
    """After any puts and drops, with blocks that grow, shrink, come and go, the page is just what is shown now."""
    page = Page(SOME)
    shown: dict[int, dict[str, Block]] = {}
    for owner in range(100, 100 + crowd):
        shown[owner] = blocks(owner, {GAUGE: 30, HISTOGRAM: 30})
        page.put(owner, shown[owner])
    for version, (owner, sizes) in enumerate(steps):
        # Some of the crowd, too, so that changes are met in every bundle.
        owner = 100 + owner * 25 if crowd and version % 2 else owner  # noqa: PLW2901
        if sizes is None:
            page.drop(owner)
            shown.pop(owner, None)
        else:
            shown[owner] = blocks(owner, sizes, version)
            page.put(owner, shown[owner])
        assert (owner in page) == (owner in shown)
    for format in FORMATS:
        check(page, shown, format)


@pytest.mark.parametrize("before", SIZES)
@pytest.mark.parametrize("after", SIZES)
def test_a_block_may_change_its_size(before: int, after: int) -> None:
    """A block that grows past or shrinks below a large one's size, or vanishes, leaves nothing behind."""
    page = Page(SOME)
    shown: dict[int, dict[str, Block]] = {}
    for owner in range(3):
        shown[owner] = blocks(owner, {GAUGE: 50, GAUGE_HISTOGRAM: before})
        page.put(owner, shown[owner])
    for format in FORMATS:
        check(page, shown, format)
    shown[1] = blocks(1, {GAUGE: 50, GAUGE_HISTOGRAM: after}, 1)
    page.put(1, shown[1])
    for format in FORMATS:
        check(page, shown, format)
    page.put(1, {})
    shown[1] = {}
    for format in FORMATS:
        check(page, shown, format)


def pieces_of(page: Page, format: Format) -> list[GzipMember]:
    """Every piece of the page in one format."""
    return [each for section in page._sections[format] for each in section.pieces()]


def pieces(page: Page) -> list[GzipMember]:
    """Every piece of the page in both formats."""
    return [each for format in FORMATS for each in pieces_of(page, format)]


def filled(owners: int, sizes: Mapping[str, int]) -> Page:
    """A page of so many owners."""
    page = Page(SOME)
    for owner in range(owners):
        page.put(owner, blocks(owner, sizes))
    return page


EVERY = {GAUGE: 200, GAUGE_HISTOGRAM: 200, COUNTER: 200, HISTOGRAM: 2 * LARGE_BLOCK}


@pytest.mark.parametrize("format", FORMATS)
def test_an_unchanged_put_makes_nothing_anew(format: Format) -> None:
    """Putting the same again leaves every piece, and the joined page, as it is."""
    page = filled(3, EVERY)
    before, parts, deflated = pieces(page), page.parts(format), page.deflated(format)
    page.put(1, blocks(1, EVERY))
    assert all(ours is theirs for ours, theirs in zip(pieces(page), before, strict=True))
    assert page.parts(format) is parts
    assert page.deflated(format) is deflated


def test_a_change_makes_only_what_it_touches() -> None:
    """One owner's new block costs the piece of its bundle in that family; all the others stay the very same."""
    page = filled(2 * BUNDLE_MEMBERS, {GAUGE: 40, GAUGE_HISTOGRAM: 40})
    before = pieces(page)
    plain = page.plain("text")
    page.put(BUNDLE_MEMBERS, blocks(BUNDLE_MEMBERS, {GAUGE: 40}, 1) | blocks(BUNDLE_MEMBERS, {GAUGE_HISTOGRAM: 40}))
    new = [ours for ours, theirs in zip(pieces(page), before, strict=True) if ours is not theirs]
    # A gauge's lines are the same in both formats, so they are made once.
    assert len({id(each) for each in new}) == 1
    assert page.plain("text") != plain


@pytest.mark.parametrize("size", [40, 400])
def test_groups_of_bundles_come_and_go(size: int) -> None:
    """Whether the first ones, some in between or the last ones are emptied and filled again: the page is the one that
    it would be if it had been so from the beginning."""
    group = GROUP_BUNDLES * BUNDLE_MEMBERS
    page = Page(SOME)
    shown: dict[int, dict[str, Block]] = {}

    def put(owners: range, size: int, version: int) -> None:
        for owner in owners:
            shown[owner] = blocks(owner, {GAUGE: size, GAUGE_HISTOGRAM: size}, version)
            page.put(owner, shown[owner])
        fresh = Page(SOME)
        for owner, each in shown.items():
            fresh.put(owner, each)
        for format in FORMATS:
            assert page.plain(format) == fresh.plain(format)
            assert gzip.decompress(gzip_member(page.deflated(format))) == page.plain(format)

    put(range(3 * group), size, 0)
    for place in range(3):
        put(range(place * group, (place + 1) * group), 0, 0)
        put(range(place * group + 70, place * group + 75), size, 1)
        put(range(place * group, (place + 1) * group), size, 2)
    for format in FORMATS:
        check(page, shown, format)


@pytest.mark.parametrize("format", FORMATS)
def test_a_change_joins_only_what_is_near_it(format: Format) -> None:
    """Of a page of many large groups, those that a change is not in are sent as the very same bytes as before."""
    group = GROUP_BUNDLES * BUNDLE_MEMBERS
    page = filled(3 * group, {GAUGE: 400})
    before = page.parts(format)
    assert len(before) == 3
    page.put(group + 1, blocks(group + 1, {GAUGE: 400}, 1))
    assert [ours is theirs for ours, theirs in zip(page.parts(format), before, strict=True)] == [True, False, True]


def test_a_large_block_is_a_piece_of_its_own() -> None:
    """A large block's change touches no other block, and another's change does not touch it."""
    page = filled(3, {HISTOGRAM: 2 * LARGE_BLOCK})
    before = pieces(page)
    page.put(1, blocks(1, {HISTOGRAM: 2 * LARGE_BLOCK}, 1))
    new = [ours for ours, theirs in zip(pieces(page), before, strict=True) if ours is not theirs]
    assert {each.plain for each in new} == {block(1, BY_NAME[HISTOGRAM], 2 * LARGE_BLOCK, 1).text[0]}


@pytest.mark.parametrize("after", [0, 3 * LARGE_BLOCK])
def test_a_large_block_s_coming_and_going_touches_no_small_one(after: int) -> None:
    """The small blocks beside a large one are not compressed again when that one comes, changes or goes."""
    page = filled(3, {HISTOGRAM: 20})
    page.put(9, blocks(9, {HISTOGRAM: 2 * LARGE_BLOCK}))
    before = pieces(page)
    page.put(9, blocks(9, {HISTOGRAM: after}))
    assert [id(each) for each in pieces(page) if b"0000 " in each.plain] == [
        id(each) for each in before if b"0000 " in each.plain
    ]


def test_the_order_does_not_depend_on_the_past() -> None:
    """Where a block stands follows from its place and its size, not from when it came or grew."""
    sizes = {owner: LARGE_BLOCK * (owner % 50 == 3) + 40 for owner in range(2 * BUNDLE_MEMBERS)}
    grown, fresh = filled(len(sizes), {GAUGE: 40}), Page(SOME)
    for owner in (*reversed(sizes), *sizes):
        grown.put(owner, blocks(owner, {GAUGE: sizes[owner]}))
    for owner, size in sizes.items():
        fresh.put(owner, blocks(owner, {GAUGE: size}))
    assert grown.plain("text") == fresh.plain("text")


def test_both_formats_share_what_is_the_same() -> None:
    """The lines that both formats have in common are kept once."""
    page = filled(3, {GAUGE: 200, COUNTER: 200, HISTOGRAM: 200})
    text, openmetrics = ({id(each) for each in pieces_of(page, format)} for format in FORMATS)
    assert len(text & openmetrics) == 3


def order(page: Page) -> list[int]:
    """The owners in the order of the page."""
    return [int(line[:4]) for line in page.plain("text").splitlines() if line[:4].isdigit()]


def test_each_block_is_kept_once() -> None:
    """The page of many projects with few lines each takes hardly more memory than its bytes."""
    page = Page(SOME)
    tracemalloc.start()
    try:
        for owner in range(300):
            page.put(owner, blocks(owner, {GAUGE: 4000, COUNTER: 2000}))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 300 * 6000 < kept < 1.3 * 300 * 6000


def test_some_families_are_replaced_and_others_stay() -> None:
    """Of families that were not named, an owner goes on showing what it did."""
    page = Page(SOME)
    shown = {owner: blocks(owner, {GAUGE: 300, COUNTER: 20, HISTOGRAM: 20}) for owner in range(3)}
    for owner, own in shown.items():
        page.put(owner, own)
    newer = blocks(1, {COUNTER: 300}, version=1)
    page.put(1, newer, families=frozenset({COUNTER, HISTOGRAM}))
    shown[1] = {GAUGE: shown[1][GAUGE], COUNTER: newer[COUNTER]}
    for format in FORMATS:
        check(page, shown, format)


def test_places_are_used_again() -> None:
    """Who comes gets the place of who has gone: places don't grow with the number of projects ever seen."""
    page = filled(4, {GAUGE: 40})
    page.drop(1)
    assert order(page) == [0, 2, 3]
    page.put(9, blocks(9, {GAUGE: 40}))
    assert order(page) == [0, 9, 2, 3]
    for owner in range(100, 1000):
        page.put(owner, blocks(owner, {GAUGE: 40}))
        page.drop(owner)
    assert order(page) == [0, 9, 2, 3]
    page.put(5, blocks(5, {GAUGE: 40}))
    assert order(page) == [0, 9, 2, 3, 5]
    # The header, and one bundle: no place beyond it was ever used.
    assert len(pieces_of(page, "text")) == 2


def test_a_page_of_nothing() -> None:
    """A page without owners, or whose owners show nothing, is empty, without headers."""
    page = Page(SOME)
    for format in FORMATS:
        check(page, {}, format)
        assert page.plain(format) == b""
    page.put("somebody", {})
    page.drop("nobody")
    assert "somebody" in page
    assert "nobody" not in page
    for format in FORMATS:
        assert page.plain(format) == whole(page.owned("nobody", format)) == b""


def test_families_that_were_not_chosen() -> None:
    """Blocks of families that the page does not have are left out."""
    page = Page([BY_NAME[COUNTER]])
    page.put(1, blocks(1, EVERY))
    assert page.plain("text") == headers(BY_NAME[COUNTER], "text")[0] + block(1, BY_NAME[COUNTER], 200).text[0]


@pytest.mark.parametrize("format", FORMATS)
def test_selections(format: Format) -> None:
    """Any choice of families gives their sections alone, in the page's order."""
    page = filled(3, EVERY)
    every = [whole(page.selected(format, frozenset({family.name}))) for family in SOME]
    assert b"".join(every) == page.plain(format) == whole(page.selected(format, frozenset(EVERY)))
    assert whole(page.selected(format, frozenset({COUNTER, GAUGE}))) == every[0] + every[2]
    assert page.selected(format, frozenset()) == page.selected(format, frozenset({"unknown"})) == []
    chosen = whole(page.owned(1, format, frozenset({COUNTER})))
    assert chosen == headers(BY_NAME[COUNTER], format)[0] + block(1, BY_NAME[COUNTER], 200).text[0]


# --- compression ---


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_pieces_join_in_any_number(parts: list[bytes]) -> None:
    """Any pieces, empty ones too, make one member that holds just their bytes."""
    made = [piece(part) for part in parts]
    whole = b"".join(parts)
    assert gzip.decompress(gzip_member(*(each.deflated for each in made))) == whole
    assert gzip.decompress(gzip_member(joined(each.deflated for each in made))) == whole
    assert joined(each.deflated for each in made)[1:] == (zlib.crc32(whole), len(whole))


def test_a_large_page_is_one_member() -> None:
    """Thousands of blocks, and what is added at scrape time, are one ordinary gzip member of a good ratio."""
    page = filled(2000, {GAUGE: 400, GAUGE_HISTOGRAM: 300})
    own = b"process_cpu_seconds_total 1.5\n"
    for format in FORMATS:
        member = gzip_member(page.deflated(format), piece(own).deflated)
        assert gzip.decompress(member) == page.plain(format) + own
        assert len(member) < len(page.plain(format)) / 10
        unpacker = zlib.decompressobj(wbits=31)
        unpacker.decompress(member)
        assert unpacker.eof
        assert unpacker.unused_data == b""


def test_a_member_can_be_read_bit_by_bit() -> None:
    """A client that reads in tiny steps gets the same."""
    page = filled(5, EVERY)
    member = gzip_member(page.deflated("text"))
    unpacker: Any = zlib.decompressobj(wbits=31)
    found = b"".join(unpacker.decompress(member[at : at + 7]) for at in range(0, len(member), 7))
    assert found == page.plain("text")


@pytest.mark.skipif(shutil.which("gzip") is None, reason="there is no gzip program here")
def test_the_gzip_program_agrees() -> None:
    """The gzip program finds nothing wrong with a member, and the same bytes in it."""
    page = filled(200, {GAUGE: 400, GAUGE_HISTOGRAM: 300, HISTOGRAM: 2 * LARGE_BLOCK})
    member = gzip_member(page.deflated("openmetrics"))
    assert subprocess.run(["gzip", "-t"], input=member, capture_output=True, check=True).stderr == b""
    assert subprocess.run(["gzip", "-dc"], input=member, capture_output=True, check=True).stdout == page.plain(
        "openmetrics"
    )
