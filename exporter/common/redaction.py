"""Messages without what their URLs may give away, for libraries put whole URLs into theirs, and values cut short.

The work is linear in a message's length and bounded by a limit: a cloud or a client may have sent the text.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any, Final

MESSAGE_LIMIT: Final = 10_000
"""The characters of a message that are read."""
# The whole rest of a word at once: an expression that looks for the @ begins anew at each "://", which is quadratic.
_URL: Final = re.compile(r"://([^\s'\"<>]*+)")
_QUERY: Final = re.compile(r"(?<=[\w/.-]\?)[\w.%~+-]++=[^\s'\"<>)]*+")


def redacted(message: str, *, limit: int = MESSAGE_LIMIT) -> str:
    """The message without users, passwords and queries of its URLs; longer ones are cut first, and end in `…`."""
    text = message[:limit]
    cut = len(text) < len(message)

    def bare(url: re.Match[str]) -> str:
        if cut and url.end() == len(text):
            return "://"  # the @ that ends a password may stand behind the cut
        # Up to the last @ of the word: a password that should have been quoted may hold anything.
        return f"://{url[1].rpartition('@')[2]}"

    text = _QUERY.sub("…", _URL.sub(bare, text))
    return f"{text}…" if cut else text


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
