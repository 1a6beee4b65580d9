"""Every way in which the exporter can fail, each with the one reason that its metrics show.

::

    ExporterError
    ├── ConfigError              the configuration can't be used; refused before anything starts
    ├── BusyError                too much of this is under way already; to be tried again
    ├── ProjectQueryError        an address means no project that is watched, or not clearly which one
    └── RefreshError             one attempt to fetch from a cloud failed; has `api` and `reason`
        ├── AnswerError          an HTTP status that is not 200
        ├── AdministratorError   Heat lists every project's deployments to the token: forbidden
        ├── TransportError       no complete answer: dns, tls, connect
        ├── DeadlineError        no answer in time: timeout
        ├── DecodeError          an answer that is not exactly one documented envelope: decode
        ├── TooLargeError        an answer larger than allowed: too_large
        ├── CatalogError         the token's catalog has no such endpoint: catalog
        └── InternalError        our own mistake: internal

Whoever raises one knows what went wrong; whoever catches one only counts, logs and waits.
"""

from __future__ import annotations

import email.utils
from datetime import UTC, datetime
from typing import Final, Literal, Self

from exporter.common.redaction import redacted

Api = Literal["identity", "orchestration", "compute"]
Reason = Literal[
    "auth",
    "forbidden",
    "not_found",
    "rate_limited",
    "client_error",
    "server_error",
    "dns",
    "tls",
    "connect",
    "timeout",
    "decode",
    "too_large",
    "catalog",
    "internal",
]

RETRY_AFTER_LIMIT: Final = 3600.0
RAISE: Final = "for all clouds or under this cloud's own `refresh`"
"""Where a deadline can be made longer."""
REMEDY: Final = "use a user with the role reader"
"""How to avoid an administrator's token."""
MESSAGE_LENGTH: Final = 1000
"""So many characters of what a cloud said are enough for a log and a page."""


class ExporterError(Exception):
    """The base of everything that this program raises on purpose."""


class ConfigError(ExporterError):
    """The configuration can't be used; the text names the file, the key's path and what was expected."""


class BusyError(ExporterError):
    """Too much of this is under way already; it may be tried again."""


class ProjectQueryError(ExporterError):
    """An address means no project that is watched, or not clearly which one; `status` is the HTTP status for that."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class RefreshError(ExporterError):
    """One attempt to fetch from a cloud failed.

    Its text is shown and logged, so it is no longer than MESSAGE_LENGTH and never has the users, passwords and queries
    of URLs that libraries put there.
    `api` and `reason` are the labels of the failure metrics, `retry_after` is how many seconds the cloud asked us
    to stay away (0 where it did not).
    """

    reason: Reason

    def __init__(self, message: str, *, api: Api, reason: Reason, retry_after: float = 0.0) -> None:
        super().__init__(_told(message))
        self.api: Api = api
        self.reason = reason
        self.retry_after = retry_after

    def alone(self) -> Self:
        """Itself without its traceback: the frames that it came through keep all that had been read until then."""
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self


class AnswerError(RefreshError):
    """The API answered with an HTTP status that is not 200; the reason follows from it."""

    def __init__(
        self, message: str, *, api: Api, status: int, retry_after: str | None = None, date: str | None = None
    ) -> None:
        """`retry_after` and `date` are the answer's headers."""
        super().__init__(
            message,
            api=api,
            reason=reason_of_status(status, has_retry_after=retry_after is not None),
            retry_after=parse_retry_after(retry_after, now=_date(date)),
        )
        self.status = status


class AdministratorError(RefreshError):
    """Heat lists the deployments of every project to this project's token, so none of them is counted here.

    `until_discovery` is whether the project is not asked again before the next discovery.
    """

    def __init__(self, message: str, *, api: Api, until_discovery: bool = False) -> None:
        super().__init__(f"{message}; {REMEDY}", api=api, reason="forbidden")
        self.until_discovery = until_discovery


class TransportError(RefreshError):
    """No complete answer: the name did not resolve (`dns`), TLS failed (`tls`), the connection did (`connect`)."""


class DeadlineError(RefreshError):
    """A deadline ended the attempt; the text says which one and the key that raises it."""

    def __init__(self, message: str, *, api: Api) -> None:
        super().__init__(message, api=api, reason="timeout")


class DecodeError(RefreshError):
    """The answer is not exactly one documented envelope."""

    def __init__(self, message: str, *, api: Api = "orchestration") -> None:
        super().__init__(message, api=api, reason="decode")


class TooLargeError(RefreshError):
    """The answer, decompressed, is larger than `limits.response_bytes`, or one record of it than any Heat stores."""

    def __init__(self, message: str, *, api: Api = "orchestration") -> None:
        super().__init__(message, api=api, reason="too_large")


class CatalogError(RefreshError):
    """The token's catalog has no endpoint of the wanted type, interface and region."""

    def __init__(self, message: str) -> None:
        super().__init__(message, api="identity", reason="catalog")


class InternalError(RefreshError):
    """A mistake of our own; the traceback is in the log."""

    def __init__(self, message: str, *, api: Api = "orchestration") -> None:
        super().__init__(message, api=api, reason="internal")


def _told(message: str) -> str:
    """A message as it may be shown."""
    text = redacted(message)
    return text if len(text) <= MESSAGE_LENGTH else f"{text[: MESSAGE_LENGTH - 1]}…"


def reason_of_status(status: int, *, has_retry_after: bool = False) -> Reason:
    """The reason for an HTTP status other than 200 (redirects, which are never followed, included)."""
    match status:
        case 401:
            return "auth"
        case 403:
            return "forbidden"
        case 404:
            return "not_found"
        case 429:
            return "rate_limited"
        case 503 if has_retry_after:
            return "rate_limited"
        case _ if 500 <= status < 600:
            return "server_error"
        case _ if 300 <= status < 500:
            return "client_error"
        case _:
            # A 1xx or 2xx other than 200 is not an answer that the API documents.
            return "decode"


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float:
    """Seconds that a Retry-After header (delta seconds or an HTTP date) asks for; 0 if absent, past or unreadable.

    `now` is the time by the clock that the date was made with; our own may be set otherwise.
    """
    if value is None:
        return 0.0
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), RETRY_AFTER_LIMIT)
    when = _date(text)
    if when is None:
        return 0.0
    return min(max(0.0, (when - (now or datetime.now(UTC))).total_seconds()), RETRY_AFTER_LIMIT)


def _date(text: str | None) -> datetime | None:
    """An HTTP date, None where there is none that can be read."""
    try:
        when = email.utils.parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
