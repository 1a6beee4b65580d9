"""Lists in header fields, as RFC 9110 has them, read in the plain way; and headers made of bytes."""

import re
from collections.abc import Sequence

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_PARAMETER = re.compile(rf"[ \t]*;[ \t]*(?:({TOKEN})=({TOKEN}|{_QUOTED}))?")
_QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")

Element = tuple[str, dict[str, str], float]
"""A name, its parameters, its quality."""


def elements(header: str, name: str) -> list[Element] | None:
    """The elements of a list whose names look so; None where the header is not by the letter of the RFC, or of many
    elements, or where what it says is said twice."""
    found: list[Element] = []
    place = 0
    pattern = re.compile(rf"[ \t]*(?:({name}))?")
    for _ in range(64):
        match = pattern.match(header, place)
        assert match is not None
        place = match.end()
        if match[1]:
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(header, place):
                place = parameter.end()
                if parameter[1] is None:
                    continue
                key, value = parameter[1].lower(), parameter[2]
                if key in parameters or "q" in parameters:
                    return None  # twice, or behind the weight, where nothing may stand
                parameters[key] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
                if key == "q" and not _QVALUE.fullmatch(value):
                    return None
            found.append((match[1].lower(), parameters, float(parameters.pop("q", "1"))))
        blanks = re.compile(r"[ \t]*").match(header, place)
        place = blanks.end() if blanks else place
        if place == len(header):
            return found
        if header[place] != ",":
            return None
        place += 1
    return None


def made(data: bytes, words: Sequence[bytes]) -> str:
    """A header: the bytes as they are, or after a zero byte words, one to a byte."""
    text = b"".join(words[byte % len(words)] for byte in data[1:]) if data[:1] == b"\0" else data
    return text.decode("latin-1")
