"""Durations and sizes as a configuration writes them: `1m30s`, `365d`, `2GiB`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, PlainSerializer

from exporter.common.redaction import brief

_DURATION_UNITS: Final = {
    "y": 365 * 86400.0,
    "w": 7 * 86400.0,
    "d": 86400.0,
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 0.001,
}
# As Prometheus: each unit at most once, in falling order.
_DURATION: Final = re.compile(
    r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII
)
_DURATION_LIMIT: Final = 292 * 365 * 86400.0
_SIZE_UNITS: Final = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SIZE: Final = re.compile(r"(\d{1,15})\s*(B|KiB|MiB|GiB)", re.ASCII)


def parse_duration(value: Any) -> float:
    """Seconds from a duration as Prometheus writes it (`45s`, `1h30m`, `0`); ValueError says what was expected."""
    text = value if isinstance(value, str) else "0" if value == 0 and not isinstance(value, bool) else None
    match = _DURATION.fullmatch(text) if text else None
    if text == "0":
        return 0.0
    if match is None or not text:
        raise ValueError(f"expected a duration such as 45s, 5m or 1h30m, not {brief(value)}")
    total = sum(
        # A double takes any number of digits.
        float(amount) * seconds
        for amount, seconds in zip(match.groups(), _DURATION_UNITS.values(), strict=True)
        if amount
    )
    if total > _DURATION_LIMIT:
        raise ValueError(f"expected a duration of at most 292y, not {brief(value)}")
    return total


def format_duration(seconds: float) -> str:
    """The duration as Prometheus writes it."""
    rest = round(seconds * 1000)
    text = ""
    # Weeks and years are left out: 7d and 365d are read more easily than 1w and 1y.
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        amount, rest = divmod(rest, size)
        if amount:
            text += f"{amount}{unit}"
    return text or "0s"


def parse_size(value: Any) -> int:
    """Bytes from a size with B, KiB, MiB or GiB; ValueError says what was expected."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"expected a size such as 500MiB or 2GiB, not {brief(value)}")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def format_size(size: int) -> str:
    """The size in the largest unit that divides it."""
    for unit, factor in reversed(_SIZE_UNITS.items()):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


Duration = Annotated[float, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size, return_type=str)]
