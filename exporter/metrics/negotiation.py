"""Which format and encoding to answer with, from the Accept and Accept-Encoding headers' quality values (RFC 9110).

Something that a client did not ask for is better than nothing: an Accept that names no format of ours gets the plain
text format, because an empty page or a 406 would look like an exporter without data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from exporter.metrics.text_format import Format

_OPENMETRICS: Final = "application/openmetrics-text"
_TEXT: Final = "text/plain"
_ELEMENTS_LIMIT: Final = 64
# A quoted string, a quote that begins none, or what may separate.
_PARTS: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*"|[",;]', re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)


def _elements(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Each element of a header: its name, its parameters, and its quality (1 without one, 0 for an unreadable one)."""
    for element in _split(header, ",")[:_ELEMENTS_LIMIT]:
        name, *rest = (part.strip() for part in _split(element, ";"))
        if not name:
            continue
        parameters: dict[str, str] = {}
        for parameter in rest:
            key, _, value = parameter.partition("=")
            parameters[key.strip().lower()] = _unquoted(value.strip())
        yield name.lower(), parameters, _quality(parameters.pop("q", "1"))


def _split(text: str, separator: str) -> list[str]:
    """The parts between separators, of which those within a quoted string are none; a quote without end is no quote."""
    if '"' not in text:
        return text.split(separator)
    parts: list[str] = []
    start = 0
    for match in _PARTS.finditer(text):
        if match[0] == separator:
            parts.append(text[start : match.start()])
            start = match.end()
        elif match[0] == '"':  # without an end, and then so are all that follow
            return parts + text[start:].split(separator)
    return [*parts, text[start:]]


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return _ESCAPE.sub(r"\1", value[1:-1]) if quoted else value.strip('"')


def _quality(text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0.0 <= quality <= 1.0 else 0.0


def choose_format(accept: str | None) -> Format:
    """The format of ours that the client likes best; the text format on a tie or where it likes neither."""
    if not accept:
        return "text"
    # By precedence (RFC 9110, 12.5.1): the most specific range that matches a format decides its quality.
    best: dict[Format, tuple[int, float]] = {"text": (-1, 0.0), "openmetrics": (-1, 0.0)}

    def consider(format: Format, specificity: int, quality: float) -> None:
        known, liked = best[format]
        if specificity > known or (specificity == known and quality > liked):
            best[format] = specificity, quality

    for name, parameters, quality in _elements(accept):
        version = parameters.get("version", "")
        match name:
            case "*/*":
                # Both, so that what asks for anything at all gets what any client can read, by the tie.
                consider("text", 0, quality)
                consider("openmetrics", 0, quality)
            case "text/*":
                consider("text", 1, quality)
            case "application/*":
                consider("openmetrics", 1, quality)
            case "text/plain" if version in ("", "0.0.4"):
                consider("text", 3 if version else 2, quality)
            case "application/openmetrics-text" if version in ("", "1.0.0", "0.0.1"):
                # Versions of OpenMetrics are read by whoever reads one of them; ours is always 1.0.0. The quality
                # is the best that any of them is given.
                consider("openmetrics", 2, quality)
    openmetrics, text = best["openmetrics"][1], best["text"][1]
    return "openmetrics" if openmetrics > text else "text"


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether gzip is acceptable and liked at least as much as no encoding."""
    if not accept_encoding:
        return False
    named: dict[str, float] = {}
    for name, _, quality in _elements(accept_encoding):
        key = "gzip" if name == "x-gzip" else name
        named[key] = max(quality, named.get(key, 0.0))
    anything = named.get("*", 0.0)
    gzip = named.get("gzip", anything)
    # Unless it is named, identity is merely not refused.
    identity = named.get("identity", 0.0)
    return gzip > 0 and gzip >= identity
