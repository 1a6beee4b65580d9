"""Where the elements of a JSON array end, found without decoding them.

msgspec reads one value and then complains about the bytes that follow: "trailing characters (byte 1234)". So it skips
an element at its own speed, over 1 GB/s, whatever texts and brackets the element holds. What msgspec refuses although
it is JSON is made acceptable first (half a surrogate pair), or skipped by counting brackets (too many levels).
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

_ANY: Final = msgspec.json.Decoder(msgspec.Raw)
_POSITION: Final = re.compile(r"\(byte (\d+)\)")
_NUMBER: Final = b"-0123456789"
# Text with whole pairs, then perhaps half a pair. Behind a first half, six more bytes prove that no second one follows.
# Python before 3.11.5 mismatches possessive groups, so this one is bounded instead: the next match goes on.
_SURROGATE: Final = re.compile(
    rb"([^\\]*+(?:\\(?:[^u]|u(?![dD][89a-fA-F])|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})[^\\]*+){0,1000})"
    rb"(\\u[dD](?:[c-fC-F][0-9a-fA-F]{2}|[89abAB][0-9a-fA-F]{2}(?=[\s\S]{6})))?"
)
_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_REST_OF_STRING: Final = re.compile(rb'[^"\\]*+(?:\\[\s\S][^"\\]*+)*("?)')
_TOKEN: Final = re.compile(rb'"|[\[{]++|[\]}]++')


def find_end(elements: memoryview, *, final: bool) -> int | None:
    """Return the offset of the first byte behind the first element and its blanks; None if the element is incomplete.

    With `final`, no bytes follow. msgspec.DecodeError if the element is not JSON, RecursionError if it has too many
    levels. Halves of surrogate pairs are replaced in place (`replace_surrogates`).
    """
    try:
        return _skip(elements, final=final)
    except msgspec.DecodeError:
        changed = replace_surrogates(bytes(elements), final=final)
        if changed is None:
            raise
    elements[:] = changed
    return _skip(elements, final=final)


def _skip(elements: memoryview, *, final: bool) -> int | None:
    try:
        value = memoryview(_ANY.decode(elements))
    except msgspec.DecodeError as error:
        message = str(error)
        found = _POSITION.search(message)
        if found is not None and "trailing characters" in message:
            return int(found[1]) - 1
        # Without a position the data "was truncated"; at its end, such as behind the point of a number, it is, too.
        if not final and (found is None or int(found[1]) >= len(elements)):
            return None
        raise
    # More digits may follow those of a number.
    return None if not final and value[0] in _NUMBER else len(elements)


def replace_surrogates(text: bytes, *, final: bool) -> bytes | None:
    """Return JSON text with U+FFFD for each half of a surrogate pair, written as long as before; None if there is none.

    The text begins outside of strings. JSON can spell half a pair, but UTF-8 and msgspec cannot.
    """
    if _HALF.search(text) is None:
        return None
    padding = b" " * 6 if final else b""
    changed = _SURROGATE.sub(lambda found: found[1] + rb"\ufffd" if found[2] else found[0], text + padding)
    changed = changed[: len(text)]
    return None if changed == text else changed


class DeepElement:
    """An element with more levels than any decoder reads: skipped by counting its brackets while its bytes arrive."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes that were skipped."""
        self.ended = False
        self._levels = 0
        self._inside_string = False

    def skip(self, text: bytes) -> int:
        """Return how many of these bytes are the element's, and note whether it ends with them."""
        position = self._scan(text)
        self.size += position
        return position

    def _scan(self, text: bytes) -> int:
        position = 0
        while True:
            if self._inside_string:
                string = _REST_OF_STRING.match(text, position)
                assert string is not None  # it matches everywhere
                position = string.end()
                if not string[1]:  # half an escape may remain
                    return position
                self._inside_string = False
            token = _TOKEN.search(text, position)
            if token is None:
                return len(text)
            position = token.end()
            brackets = token[0]
            if brackets == b'"':
                self._inside_string = True
            elif brackets[0] in b"[{":
                self._levels += len(brackets)
            elif len(brackets) < self._levels:
                self._levels -= len(brackets)
            else:
                self.ended = True
                return token.start() + self._levels
