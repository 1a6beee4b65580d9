"""Every failure has one reason."""

import email.utils
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.common import errors
from exporter.common.errors import (
    AnswerError,
    CatalogError,
    ConfigError,
    DeadlineError,
    DecodeError,
    ExporterError,
    InternalError,
    Reason,
    RefreshError,
    TooLargeError,
    TransportError,
    parse_retry_after,
    reason_of_status,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "auth"),
        (403, "forbidden"),
        (404, "not_found"),
        (429, "rate_limited"),
        (500, "server_error"),
        (501, "server_error"),
        (502, "server_error"),
        (503, "server_error"),
        (504, "server_error"),
        (599, "server_error"),
        (400, "client_error"),
        (402, "client_error"),
        (405, "client_error"),
        (409, "client_error"),
        (410, "client_error"),
        (418, "client_error"),
        (499, "client_error"),
        (300, "client_error"),
        (301, "client_error"),
        (302, "client_error"),
        (304, "client_error"),
        (307, "client_error"),
        (308, "client_error"),
        (201, "decode"),
        (204, "decode"),
        (206, "decode"),
        (999, "decode"),
    ],
)
def test_reasons_of_statuses(status: int, reason: str) -> None:
    """Every status but 200 has the reason that the contract gives it, redirects too."""
    assert reason_of_status(status) == reason
    assert AnswerError("no", api="identity", status=status).reason == reason


@pytest.mark.parametrize(
    ("status", "reason"), [(503, "rate_limited"), (429, "rate_limited"), (500, "server_error"), (403, "forbidden")]
)
def test_retry_after_makes_503_a_limit(status: int, reason: str) -> None:
    """A 503 that says when to come back is a rate limit; no other status changes by that header."""
    assert reason_of_status(status, has_retry_after=True) == reason
    assert AnswerError("no", api="orchestration", status=status, retry_after="5").reason == reason
    assert AnswerError("no", api="orchestration", status=status, retry_after="garbage").reason == reason


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("0000000120", 120),
        ("3600", 3600),
        ("3601", 3600),
        ("9" * 20, 3600),
        ("9" * 5000, 3600),
        ("", 0),
        ("-5", 0),
        ("+5", 0),
        ("1.5", 0),
        ("1e3", 0),
        ("５", 0),
        ("soon", 0),
        ("5 minutes", 0),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60),
        ("Fri, 02 Jan 2026 04:05:05 +0100", 60),
        ("Fri, 02 Jan 2026 03:05:05 -0000", 60),
        ("Friday, 02-Jan-26 03:05:05 GMT", 60),
        ("Fri Jan  2 03:05:05 2026", 60),
        ("Fri, 02 Jan 2026 03:00:00 GMT", 0),
        ("Sat, 03 Jan 2026 03:04:05 GMT", 3600),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 99 Jan 2026 03:05:05 GMT", 0),
        ("Fri, 02 Jan 99999999999999999999 03:05:05 GMT", 0),
        ("Fri, 02 Jan 2026 03:05:05 +99999999999999", 0),
    ],
    ids=lambda value: str(value)[:30],
)
def test_retry_after(header: str | None, seconds: float) -> None:
    """Seconds or a date are obeyed up to an hour; what is past, absent or unreadable asks for nothing."""
    assert parse_retry_after(header, now=NOW) == seconds


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_retry_after_breaks_anything(header: str) -> None:
    """Whatever a cloud writes into the header, the wait is between nothing and an hour."""
    assert 0 <= parse_retry_after(header) <= 3600


@settings(deadline=None)
@given(st.integers(-(10**5), 10**5))
def test_dates_are_waited_for(seconds: int) -> None:
    """A date is as many seconds away as it is, within the bounds."""
    header = email.utils.format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(header, now=NOW) == min(max(seconds, 0), 3600)


def test_a_date_is_compared_with_the_clock() -> None:
    """Without another clock, a date of long ago is past and one of the far future an hour away."""
    assert parse_retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert parse_retry_after("Fri, 01 Jan 9999 00:00:00 GMT") == 3600


@pytest.mark.parametrize(
    ("error", "api", "reason"),
    [
        (AnswerError("x", api="identity", status=401), "identity", "auth"),
        (TransportError("x", api="identity", reason="dns"), "identity", "dns"),
        (TransportError("x", api="orchestration", reason="tls"), "orchestration", "tls"),
        (TransportError("x", api="orchestration", reason="connect"), "orchestration", "connect"),
        (DeadlineError("x", api="identity"), "identity", "timeout"),
        (DecodeError("x"), "orchestration", "decode"),
        (DecodeError("x", api="identity"), "identity", "decode"),
        (TooLargeError("x"), "orchestration", "too_large"),
        (CatalogError("x"), "identity", "catalog"),
        (InternalError("x"), "orchestration", "internal"),
        (InternalError("x", api="identity"), "identity", "internal"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_each_failure_has_its_labels(error: RefreshError, api: str, reason: str) -> None:
    """Every failure says which API failed and why, is one that the refresh loop catches, and keeps its text."""
    assert (error.api, error.reason, str(error), error.retry_after) == (api, reason, "x", 0)
    assert isinstance(error, ExporterError)
    assert reason in get_args(Reason)


def test_an_answer_keeps_what_it_said() -> None:
    """A failure by status knows the status, and how long the cloud wants to be left alone."""
    error = AnswerError("slow down", api="orchestration", status=429, retry_after="30")
    assert (error.status, error.retry_after) == (429, 30)


def test_a_message_is_short() -> None:
    """However much a cloud has to say, no more than its beginning is logged and shown; without a URL's password."""
    text = str(AnswerError(f"no: http://user:pass@host/ {'x' * 10**7}", api="identity", status=500))
    assert len(text) == errors.MESSAGE_LENGTH
    assert text.startswith("no: http://host/ xxx")
    assert text.endswith("x…")


def test_every_reason_can_happen() -> None:
    """The reasons are those of the contract."""
    assert set(get_args(Reason)) == {
        "auth", "forbidden", "not_found", "rate_limited", "client_error", "server_error", "dns", "tls", "connect",
        "timeout", "decode", "too_large", "catalog", "internal",
    }  # fmt: skip


def test_the_tree_in_the_docstring_is_whole() -> None:
    """Every error class stands in the module's docstring, where the tree is drawn."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ExporterError)]
    assert len(classes) >= 9
    assert [each.__name__ for each in classes if each.__name__ not in (errors.__doc__ or "")] == []


def test_a_configuration_error_is_no_refresh_error() -> None:
    """A bad configuration is never counted as a failed refresh."""
    assert issubclass(ConfigError, ExporterError)
    assert not issubclass(ConfigError, RefreshError)
