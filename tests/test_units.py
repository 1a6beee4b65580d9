"""Durations and sizes as people write them in the configuration file."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.config.units import format_duration, format_size, parse_duration, parse_size

DAY = 86400.0
YEARS_292 = 292 * 365 * DAY


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (0, 0.0),
        (0.0, 0.0),
        ("0s", 0.0),
        ("1ms", 0.001),
        ("100ms", 0.1),
        ("45s", 45.0),
        ("90s", 90.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1d", DAY),
        ("1w", 7 * DAY),
        ("365d", 365 * DAY),
        ("1y", 365 * DAY),
        ("1y1w1d1h1m1s1ms", 373 * DAY + 3661.001),
        ("007s", 7.0),
        ("292y", YEARS_292),
    ],
)
def test_durations(text: Any, seconds: float) -> None:
    """A duration is read as Prometheus reads it."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "", " ", "s", "5", 5, 1.5, "1.5s", "-5s", "+5s", "5 s", " 5s", "5s ", "5s\n", "5S", "5sec", "1m1h", "1s1s",
        "５s", "1h 30m", "PT5S", "inf", "293y", "9" * 400 + "s", "9" * 5000 + "ms", None, True, False, [], {}, b"5s",
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_no_durations(value: Any) -> None:
    """Anything else is refused, and the message says what was expected."""
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "0s"),
        (0.001, "1ms"),
        (0.5, "500ms"),
        (45, "45s"),
        (60.0, "1m"),
        (5400, "1h30m"),
        (7 * DAY, "7d"),
        (365 * DAY, "365d"),
        (61.0005, "1m1s"),
    ],
)
def test_written_durations(seconds: float, text: str) -> None:
    """A duration is written with the units that people read, to the millisecond."""
    assert format_duration(seconds) == text


@settings(deadline=None)
@given(st.integers(0, int(YEARS_292) * 1000))
def test_durations_come_back(milliseconds: int) -> None:
    """What is written is read as the same duration."""
    assert round(parse_duration(format_duration(milliseconds / 1000)) * 1000) == milliseconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("0B", 0), ("5B", 5), ("1KiB", 1024), ("500MiB", 500 * 1024**2), ("2GiB", 2 * 1024**3), ("2 GiB", 2 * 1024**3)],
)
def test_sizes(text: str, size: int) -> None:
    """A size has one of four units."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value",
    [
        "",
        "5",
        5,
        "5b",
        "5KB",
        "5kiB",
        "1.5MiB",
        "-5B",
        "5TiB",
        "5B\n",
        "GiB",
        "５B",
        "9" * 5000 + "GiB",
        None,
        True,
        [],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_no_sizes(value: Any) -> None:
    """Anything else is refused, and the message says what was expected."""
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(value)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (1, "1B"), (1024, "1KiB"), (1025, "1025B"), (3 * 1024**2, "3MiB"), (2 * 1024**3, "2GiB")],
)
def test_written_sizes(size: int, text: str) -> None:
    """A size is written in the largest unit that divides it."""
    assert format_size(size) == text


@settings(deadline=None)
@given(st.integers(0, 2**40))
def test_sizes_come_back(size: int) -> None:
    """What is written is read as the same size."""
    assert parse_size(format_size(size)) == size
