"""Messages give away nothing that stands in their URLs."""

import pytest

from exporter.common.errors import InternalError
from exporter.common.redaction import MESSAGE_LIMIT, brief, redacted

TOLD = {
    "no URL at all? none=1": "no URL at all? none=1",
    "to http://user:pass@host:5000/v3/auth: refused": "to http://host:5000/v3/auth: refused",
    "('https://user@host/x')": "('https://host/x')",
    "http://us/er:p@ss#word@host/v3": "http://host/v3",
    "http://host/v3?token=abc&x=y and more": "http://host/v3?… and more",
    "with url: /v3?key=abc/v3/auth/tokens (Caused by": "with url: /v3?… (Caused by",
    "http://a:b@one/ 'http://c:d@two/?e=f'": "http://one/ 'http://two/?…'",
    "monitor@example.org": "monitor@example.org",
}


@pytest.mark.parametrize("message", TOLD)
def test_users_passwords_and_queries_are_left_out(message: str) -> None:
    """Of a URL in a message its scheme, host and path stay; the rest of the message stays as it is."""
    assert redacted(message) == TOLD[message]


def test_every_failure_is_redacted() -> None:
    """Whatever text a failure was raised with, it has no password of a URL."""
    assert "pass" not in str(InternalError("can't reach http://user:pass@host/"))


def test_a_long_message_is_cut_before_it_is_read() -> None:
    """A message that a cloud makes very long costs no more than one of the limit's length, and says that it is cut."""
    assert redacted("x" * 10**6) == "x" * MESSAGE_LIMIT + "…"
    assert redacted("x" * MESSAGE_LIMIT) == "x" * MESSAGE_LIMIT


@pytest.mark.parametrize("limit", range(12, 34))
def test_a_cut_password_does_not_show(limit: int) -> None:
    """Wherever a message is cut, a user or password whose `@` is behind the cut is left out."""
    shown = redacted("can't reach http://user:pass@host/: refused", limit=limit)
    assert "us" not in shown
    assert "pa" not in shown
    assert shown.endswith("…")


@pytest.mark.parametrize("part", ["://", "a://b@", "?a", "a?b=", "a?", "/?"])
def test_any_text_is_read_in_one_pass(part: str) -> None:
    """A text of three million characters is read, whatever it repeats. Quadratic work would take hours."""
    shown = redacted(part * (3 * 10**6 // len(part)), limit=10**7)
    assert "@" not in shown
    assert "b=" not in shown


def test_values_are_shown_briefly() -> None:
    """A value that a message shows is cut short, whatever it holds, and so is the work to do so."""
    endless: list[object] = []
    endless += [endless] * 9
    for value in ("x" * 10**6, [["y"] * 10**5] * 10**5, endless, 16**6000, {"a": {"b": {"c": {"d": 1}}}}):
        assert len(brief(value)) <= 101
    assert brief("discover") == "'discover'"
    assert brief(["a", 1, None]) == "['a', 1, None]"
