"""Keeping messages fit to be shown: without what an address in them may give away, for libraries put whole URLs into
theirs, and with no more than a little of a value that may be of any size."""

from __future__ import annotations

import re
import reprlib
from typing import Any, Final

# Up to the last @ of the word: a password that should have been quoted may hold anything.
_USER: Final = re.compile(r"(?<=://)[^\s'\"<>]*@")
_QUERY: Final = re.compile(r"(?<=[\w/.-]\?)[\w.%~+-]+=[^\s'\"<>)]*")


def redacted(message: str) -> str:
    """The message without users, passwords and queries of its URLs."""
    return _QUERY.sub("…", _USER.sub("", message))


_LONGEST: Final = 100
_brief: Final = reprlib.Repr()
_brief.maxlevel, _brief.maxstring, _brief.maxother = 3, _LONGEST, _LONGEST


def brief(value: Any) -> str:
    """A value as a message shows it, cut short; the work is bounded too, whatever the value holds how many times."""
    try:
        text = _brief.repr(value)
    except ValueError:  # an integer of more digits than Python converts
        text = f"a {type(value).__name__} of very many digits"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
