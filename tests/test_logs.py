"""Logs are one line an event, whatever stands in them."""

import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import redirect_stderr
from typing import Any, Self

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.common import logs

LIBRARIES = ("keystoneauth", "urllib3", "openstack", "stevedore", "requests", "aiohttp.access")
FORMATS = ("logfmt", "json")
NASTY = (
    "two\nlines",
    "two\r\nlines",
    "\n",
    "tab\tbed",
    "\x00\x1b[31mred",
    "\x85\u2028\u2029\v\f\x1c",
    'a "quoted" = value',
    'backslash at the end \\"\\',
    "\\n",
    "x\nts=2026-01-01T00:00:00Z level=error event=forged",
    '", "level": "error", "event": "forged',
    "😀 é",
    "\ud800",
    "",
    " ",
    "x" * 10_000,
)
PAIR = re.compile(r'([^ "=]+)=("(?:[^"\\]|\\.)*"|[^ "=]*)(?: |$)')


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging as it was, after each test."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, {name: logging.getLogger(name).level for name in LIBRARIES}
    yield
    root.handlers[:], level, levels = before
    root.setLevel(level)
    for name, each in levels.items():
        logging.getLogger(name).setLevel(each)
    structlog.reset_defaults()


class Written:
    """What is logged while this is open, as lines."""

    def __init__(self, format: Any, level: str = "info") -> None:
        self._format, self._level = format, level
        self._stderr = io.StringIO()

    def __enter__(self) -> Self:
        self._redirected = redirect_stderr(self._stderr)
        self._redirected.__enter__()
        logs.configure(level=self._level, format=self._format)
        return self

    def __exit__(self, *error: object) -> None:
        self._redirected.__exit__(*error)

    @property
    def lines(self) -> list[str]:
        """The lines, by anybody's idea of a line's end."""
        return self._stderr.getvalue().splitlines()

    def only(self) -> dict[str, Any]:
        """The fields of the one line that there is."""
        (line,) = self.lines
        if self._format == "json":
            return json.loads(line)
        found = {match[1]: match[2] for match in PAIR.finditer(line)}
        assert "".join(match[0] for match in PAIR.finditer(line)) == line, "not logfmt"
        return found


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("text", NASTY, ids=lambda text: repr(text)[:20])
def test_texts_stay_within_their_field(format: str, text: str) -> None:
    """A text in an event or a value breaks no line and makes up no field."""
    with Written(format) as written:
        structlog.get_logger("test").warning(f"event {text}", value=text, other="next")
    fields = written.only()
    assert set(fields) == {"ts", "level", "event", "value", "other"}
    assert (fields["level"], fields["other"]) == ("warning", "next")


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30))
def test_any_text_stays_within_its_field(format: str, text: str) -> None:
    """The same for any text at all."""
    with Written(format) as written:
        structlog.get_logger("test").info("event", value=text, other="next")
    fields = written.only()
    assert set(fields) == {"ts", "level", "event", "value", "other"}
    assert fields["other"] == "next"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        17,
        1.5,
        float("nan"),
        ["a\nb", "c"],
        {"a\nb": "c\nd"},
        b"a\nb",
        ValueError("a\r\nb"),
        ("a\n",),
        object,
    ],
    ids=repr,
)
def test_any_value_is_one_line(format: str, value: Any) -> None:
    """A value of any type is one field of one line."""
    with Written(format) as written:
        structlog.get_logger("test").info("event", value=value, other="next")
    fields = written.only()
    assert set(fields) == {"ts", "level", "event", "value", "other"}
    assert fields["other"] == "next"


@pytest.mark.parametrize("format", FORMATS)
def test_plain_values_can_be_read(format: str) -> None:
    """Usual values are readable as they are, and a line says when, how grave and what."""
    with Written(format) as written:
        structlog.get_logger("test").info("refresh failed", cloud="prod", count=3, known=True, missing=None)
    fields = written.only()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", fields["ts"])
    expected = {"level": "info", "event": "refresh failed", "cloud": "prod", "count": 3, "known": True, "missing": None}
    if format == "logfmt":
        expected |= {"event": '"refresh failed"', "count": "3", "known": "true", "missing": ""}
        assert list(fields)[:3] == ["ts", "level", "event"]
    assert {key: fields[key] for key in expected} == expected


@pytest.mark.parametrize("format", FORMATS)
def test_tracebacks_are_one_line(format: str) -> None:
    """An exception is logged with its traceback, and still on one line."""
    with Written(format) as written:
        try:
            raise ValueError("two\nlines") from KeyError("cause")
        except ValueError:
            structlog.get_logger("test").exception("internal error", cloud="prod")
    fields = written.only()
    assert set(fields) == {"ts", "level", "event", "cloud", "exception"}
    assert fields["level"] == "error"
    assert "ValueError: two" in fields["exception"]
    assert "KeyError" in fields["exception"]
    assert "Traceback" in fields["exception"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("stack", [False, True])
def test_libraries_log_the_same_way(format: str, stack: bool) -> None:
    """What a library logs, be it of several lines, with an exception or a stack, is one line of the same kind."""
    with Written(format) as written:
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("library").warning("it's %s:\n%s", "bad", "really", exc_info=True, stack_info=stack)
    fields = written.only()
    assert set(fields) == {"ts", "level", "event", "exception"} | ({"stack_info"} if stack else set())
    assert fields["level"] == "warning"
    assert "it's bad:" in fields["event"]


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(level: str, shown: list[str]) -> None:
    """What is less grave than the level is not logged, be it ours or a library's."""
    assert level in logs.LEVELS
    with Written("json", level) as written:
        for each in logs.LEVELS:
            getattr(structlog.get_logger("test"), each)("event")
            getattr(logging.getLogger("library"), each)("event")
    assert [json.loads(line)["level"] for line in written.lines] == [each for each in shown for _ in range(2)]


@pytest.mark.parametrize("name", LIBRARIES)
def test_chatty_libraries_stay_quiet(name: str) -> None:
    """Even at debug level the libraries that log tokens and bodies say no more than what is grave."""
    with Written("logfmt", "debug") as written:
        logging.getLogger(name).debug("X-Auth-Token: s3cret")
        logging.getLogger(name).info("GET /v3/auth/tokens")
        logging.getLogger(f"{name}.child").debug("X-Auth-Token: s3cret")
        logging.getLogger(name).error("broken")
    assert [line.rpartition("event=")[2] for line in written.lines] == ["broken"]


def test_configuring_again_doubles_nothing() -> None:
    """A second call replaces the first."""
    with Written("logfmt") as first, Written("json") as second:
        structlog.get_logger("test").info("once")
    assert first.lines == []
    assert second.only()["event"] == "once"


def test_a_log_never_fails_for_its_text() -> None:
    """On a real stderr half a character is written as an escape, not as an error in several lines."""
    raw = io.BytesIO()
    with redirect_stderr(io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace")) as stderr:
        logs.configure(level="info", format="json")
        structlog.get_logger("test").info("event", value="\ud800")
        stderr.flush()
        assert raw.getvalue().count(b"\n") == 1
        stderr.detach()


@pytest.mark.parametrize("format", FORMATS)
def test_long_values_are_cut(format: Any) -> None:
    """A value that a cloud or a client makes very long is cut, and costs nothing but its beginning."""
    with Written(format) as written:
        structlog.get_logger("test").warning("event", error="://a " * 10**6, raised=ValueError("y" * 10**6))
    found = written.only()
    assert 9_000 < len(found["error"]) < 11_000
    assert 9_000 < len(found["raised"]) < 11_000
