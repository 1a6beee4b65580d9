"""Taking out of a message what an address in it may give away: libraries put whole URLs into theirs."""

from __future__ import annotations

import re
from typing import Final

# Up to the last @ of the word: a password that should have been quoted may hold anything.
_USER: Final = re.compile(r"(?<=://)[^\s'\"<>]*@")
_QUERY: Final = re.compile(r"(?<=[\w/.-]\?)[\w.%~+-]+=[^\s'\"<>)]*")


def redacted(message: str) -> str:
    """The message without users, passwords and queries of its URLs."""
    return _QUERY.sub("…", _USER.sub("", message))
