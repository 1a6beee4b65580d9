"""Finding the ends of JSON elements without decoding them."""

import json
import random
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exporter
from exporter.openstack.elements import DeepElement, find_end, replace_surrogates
from tests import oracle

BLANKS = st.text(" \t\n\r", max_size=3)
RESTS = st.sampled_from((",", ', {"id": "a"}', "]", "]}", ",,", ", tru", ', "\x00'))


def text_of(value: Any, *, ascii: bool = True) -> str:
    """The value as JSON; halves of surrogate pairs are escaped, because UTF-8 can't have them."""
    text = json.dumps(value, ensure_ascii=ascii)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def without_halves(value: Any) -> Any:
    """The same value with U+FFFD for each half of a surrogate pair."""
    if isinstance(value, str):
        return oracle.read_text(value)
    if isinstance(value, list):
        return [without_halves(each) for each in value]
    if isinstance(value, dict):
        return {without_halves(key): without_halves(each) for key, each in value.items()}
    return value


@given(value=oracle.ANYTHING, blanks=BLANKS, rest=RESTS, ascii=st.booleans())
@settings(deadline=None)
def test_the_end_is_behind_the_element_and_its_blanks(value: Any, blanks: str, rest: str, ascii: bool) -> None:
    """Whatever an element holds and whatever follows it, its end is where the next comma or bracket is."""
    element = f"{blanks}{text_of(without_halves(value), ascii=ascii)}{blanks}".encode()
    assert find_end(memoryview(element + rest.encode()), final=False) == len(element)
    assert find_end(memoryview(element), final=True) == len(element)


@given(value=oracle.ANYTHING, ascii=st.booleans())
@settings(deadline=None)
def test_an_incomplete_element_has_no_end(value: Any, ascii: bool) -> None:
    """No beginning of an element is taken for a whole one, and none is taken for a mistake."""
    element = text_of(without_halves(value), ascii=ascii).encode()
    for size in range(len(element)):
        assert find_end(memoryview(element[:size]), final=False) is None
    whole = find_end(memoryview(element), final=False)
    assert whole == (None if element[:1] in b"-0123456789" else len(element))


@pytest.mark.parametrize("text", [b"]", b",", b"nulx", b"01,", b"1.,", b'{"a" 1}', b"[1,]", b'"\x01"', b'"\\q"', b"[}"])
def test_what_is_not_json_is_refused(text: bytes) -> None:
    """A mistake is an error as soon as it is there, with the place but without the text."""
    with pytest.raises(msgspec.DecodeError, match=r"byte \d+"):
        find_end(memoryview(text + b" " * 20), final=False)


@given(value=oracle.ANYTHING)
@settings(deadline=None)
def test_halves_of_pairs_are_replaced(value: Any) -> None:
    """Each half becomes U+FFFD, as long as before; pairs and escaped backslashes stay."""
    text = text_of(value).encode()
    replaced = replace_surrogates(text, final=True)
    if replaced is None:
        assert json.loads(text) == without_halves(json.loads(text))
    else:
        assert len(replaced) == len(text)
        assert replaced != text
        assert json.loads(replaced) == without_halves(json.loads(text))


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        (rb'"\ud83d\ude00"', None),
        (rb'"\uD83D\uDE00\uDE00"', rb'"\uD83D\uDE00\ufffd"'),
        (rb'"\ud83d\ud83d\ude00"', rb'"\ufffd\ud83d\ude00"'),
        (rb'"\\ud83d"', None),
        (rb'"\\\ud83d"', rb'"\\\ufffd"'),
        (rb'"\ud83dx"', rb'"\ufffdx"'),
        (rb'"\udc00', rb'"\ufffd'),
    ],
)
def test_what_half_a_pair_is(text: bytes, replaced: bytes | None) -> None:
    """A second half belongs to the first half that stands before it, and an escaped backslash begins no escape."""
    assert replace_surrogates(text, final=True) == replaced


@pytest.mark.parametrize("rest", [b"", b"\\", b"\\u", b"\\ude", b"\\ude0"])
def test_a_pair_may_still_become_whole(rest: bytes) -> None:
    """The first half at the end of what has arrived is left alone."""
    assert replace_surrogates(rb'["\ud83d' + rest, final=False) is None
    assert replace_surrogates(rb'["\ud83d\udcff\udcff\ud83d' + rest, final=False) == (
        rb'["\ud83d\udcff\ufffd\ud83d' + rest
    )


@given(value=st.lists(oracle.ANYTHING) | st.dictionaries(oracle.TEXTS, oracle.ANYTHING), seed=st.integers(0, 2**16))
@settings(deadline=None)
def test_skipping_ends_with_the_element(value: Any, seed: int) -> None:
    """Counting brackets finds the end of an object or array, however its bytes arrive."""
    element = text_of(value).encode()
    body, chance = element + b', {"id": "a"}', random.Random(seed)
    deep, pending, taken = DeepElement(), b"", 0
    while not deep.ended:
        size = chance.randrange(1, 20)
        pending, taken = pending + body[taken : taken + size], taken + size
        pending = pending[deep.skip(pending) :]
    assert deep.size == len(element)


def test_no_pattern_has_a_possessive_group():
    """Python before 3.11.5, which Debian 12 has, mismatches possessive groups; possessive classes are right."""
    group = re.compile(r"(?<!\\)\)(?:[*+?]|\{[\d,]+\})\+")
    root = Path(exporter.__file__).parent
    lines = [(path.name, line) for path in root.rglob("*.py") for line in path.read_text().splitlines()]
    found = [(name, line) for name, line in lines if group.search(line)]
    assert group.search(r"(?:a|b)*+")
    assert not found
