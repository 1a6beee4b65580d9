"""The Accept-Encoding header: what the RFC says in plain words, and what is answered."""

from exporter.metrics.negotiation import accepts_gzip
from tests.fuzz.headers import TOKEN, elements, made

WORDS = (
    b"gzip", b"x-gzip", b"identity", b"*", b"deflate", b"br", b"GZIP", b",", b", ", b";", b"q=", b"0", b"1", b"0.5",
    b"0.25", b"0.001", b"1.000", b";q=0", b";q=0.5", b";q=1", b" ; Q=0.75", b"\t", b" ", b"=", b'"',
)  # fmt: skip
SEEDS = (b"gzip, deflate, br", b"\0\x00\x11\x07\x02", b"identity;q=0.5, *;q=0.25, gzip;q=0")


def check(data: bytes) -> None:
    """Whether gzip is accepted, and liked no less than no encoding where that is named."""
    header = made(data, WORDS)
    found = accepts_gzip(header)
    read = elements(header, TOKEN)
    if read is None or any(parameters for _, parameters, _ in read):
        return
    weights: dict[str, float] = {}
    for name, _, quality in read:
        coding = "gzip" if name == "x-gzip" else name
        weights[coding] = max(quality, weights.get(coding, 0))
    gzip = weights.get("gzip", weights.get("*", 0))
    expected = gzip > 0 and gzip >= weights.get("identity", 0)
    assert found is expected, f"{header!r}: {found}, by the RFC {expected}"
