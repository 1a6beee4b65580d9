"""The Retry-After header: seconds or a date, within bounds, whatever it says."""

import re
from datetime import UTC, datetime, timedelta

from exporter.common.errors import RETRY_AFTER_LIMIT, parse_retry_after

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WORDS = (
    b"120", b"Thu, 01 Jan 2026 12:00:30 GMT", b"Thu, ", b"Thursday, 01-Jan-26 12:00:30 GMT", b" GMT", b"+0100",
    b"Jan", b"2026", b"12:00:30", b"99999", b"-0000", b"Thu Jan  1 12:00:30 2026", b"-", b"e9", b"(",
)  # fmt: skip
SEEDS = (*WORDS[:4], b"0", b"-5", b"1e3", b"Thu, 01 Jan 2026 13:00:30 +0100", b"999999999999999999999", b"\xb2")


def check(data: bytes) -> None:
    """Never an error, never more than the limit; digits are seconds, and the RFC's own date is that instant."""
    text = data.decode("latin-1")
    found = parse_retry_after(text, now=NOW)
    assert 0 <= found <= RETRY_AFTER_LIMIT, f"{text!r}: {found}"
    if re.fullmatch(r"[0-9]+", text):
        digits = text.lstrip("0")[:9] or "0"
        assert found == (RETRY_AFTER_LIMIT if len(digits) > 8 else min(int(digits), RETRY_AFTER_LIMIT)), text
    if match := re.fullmatch(r"Thu, 01 Jan 2026 ([01]\d|2[0-3]):([0-5]\d):([0-5]\d) GMT", text, re.ASCII):
        hours, minutes, seconds = map(int, match.groups())
        when = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hours, minutes=minutes, seconds=seconds)
        assert found == min(max((when - NOW).total_seconds(), 0), RETRY_AFTER_LIMIT), text
