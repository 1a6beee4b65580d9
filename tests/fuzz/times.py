"""Times of records: any text is an instant, the same for every reader, or none; and exit codes beside them."""

import json

import msgspec

from exporter.deployments.records import Deployment, exit_code, parse_time
from tests import oracle

WORDS = (
    b"2015-01-31", b"2024-02-29", b"T", b"15:12:36", b"23:59:60", b".5", b",9999995", b"Z", b"+01:30", b"-0530",
    b"-12", b" ", b"\t", b"9999-12-31", b"0001-01-01", b"t", b"z", b":", b"-", b"0", b"\xd9\xa1",
)  # fmt: skip
SEEDS = (
    b"2015-01-31T15:12:36Z", b"2015-06-30 23:59:60.1234565+14:00", b"2015-01-31T15:12", b"0001-01-01T00:00:00+00:01",
    b"9999-12-31t23:59:60,9999995z", b"-17", b"00", b"2015-01-31T15:12:36.5 -0530",
)  # fmt: skip
_DECODER = msgspec.json.Decoder(Deployment)


def check(data: bytes) -> None:
    """The slow reader and the oracle agree on any text; where the quick one takes it, so does it."""
    text = b"".join(WORDS[byte % len(WORDS)] for byte in data[1:]).decode() if data[:1] == b"\0" else ""
    text = text or data.decode("utf-8", "replace")
    found = parse_time(text)
    expected = oracle.read_time(text)
    assert found == expected, f"{text!r}: {found} instead of {expected}"
    try:
        quick = _DECODER.decode(json.dumps({"id": "a", "creation_time": text})).creation_time
    except msgspec.ValidationError:
        quick = found
    assert quick == found, f"{text!r}: {quick} by msgspec, {found} by the exporter"
    code = exit_code(text)
    assert code == oracle.read_code(text) or (code == "invalid" and len(text) > 4000), f"{text!r}: {code}"
