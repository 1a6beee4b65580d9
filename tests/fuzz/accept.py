"""The Accept header: what the RFC says in plain words, and what is answered."""

from exporter.metrics.negotiation import choose_format
from exporter.metrics.text_format import FORMATS
from tests.fuzz.headers import TOKEN, elements, made

WORDS = (
    b"application/openmetrics-text", b"text/plain", b"*/*", b"text/*", b"application/*", b";", b",", b" ", b"q=",
    b"version=", b"1.0.0", b"0.0.1", b"0.0.4", b"0.5", b"0.25", b"0.999", b"1", b"0", b"1.000", b'"', b"\\",
    b'"1.0.0"', b'"a,b"', b'"\\","', b"charset=utf-8", b"escaping=allow-utf-8", b'x="', b";q=0.5", b";q=0",
    b";Q=0.75", b"Text/Plain", b"text/html", b"image/png", b";version=0.0.4", b";version=1.0.0", b"\t", b";x=1",
    b"=",
)  # fmt: skip
SEEDS = (
    b"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    b"\0\x00\x1b\x06\x01",
    b'text/plain;x="a,b";q=0.1, application/openmetrics-text;q=0.5',
)


def check(data: bytes) -> None:
    """A format of ours is answered to anything, and the right one to what is by the letter."""
    header = made(data, WORDS)
    found = choose_format(header)
    assert found in FORMATS
    read = elements(header, rf"{TOKEN}/{TOKEN}")
    if read is None:
        return
    text = max(_weights(read, ["*/*", "text/*", "text/plain"], {"0.0.4"}), default=(-1, 0.0))
    openmetrics = _weights(read, ["*/*", "application/*", "application/openmetrics-text"], {"1.0.0", "0.0.1"})
    # Every version of OpenMetrics is the same to who can read one, so the best liked counts.
    best = max(((min(precedence, 2), quality) for precedence, quality in openmetrics), default=(-1, 0.0))
    expected = "openmetrics" if best[1] > text[1] else "text"
    assert found == expected, f"{header!r}: {found}, by the RFC {expected}"


def _weights(
    read: list[tuple[str, dict[str, str], float]], ranges: list[str], versions: set[str]
) -> list[tuple[int, float]]:
    """Precedence and quality of each range that matches; parameters other than the version say nothing to us."""
    return [
        (ranges.index(name) + ("version" in parameters and name == ranges[2]), quality)
        for name, parameters, quality in read
        if name in ranges and (name != ranges[2] or parameters.get("version", "") in {"", *versions})
    ]
