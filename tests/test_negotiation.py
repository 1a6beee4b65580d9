"""Which format and encoding a client gets."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.metrics.negotiation import accepts_gzip, choose_format
from exporter.metrics.text_format import CONTENT_TYPES, FORMATS

OPENMETRICS = "application/openmetrics-text"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_TEXT = (
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4,"
    "application/openmetrics-text;version=0.0.1;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "format"),
    [
        # Programs.
        (PROMETHEUS_2_42, "openmetrics"),
        (PROMETHEUS_3, "openmetrics"),
        (PROMETHEUS_3_TEXT, "text"),
        (PROMETHEUS_3_PROTOBUF, "openmetrics"),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", "text"),  # VictoriaMetrics
        ("*/*", "text"),  # curl, wget, Python
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text"),  # Firefox, Safari
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8", "text"),
        # Nothing, and nothing of ours.
        (None, "text"),
        ("", "text"),
        (" , ,", "text"),
        ("application/json", "text"),
        ("image/png, text/html", "text"),
        ("*/*;q=0", "text"),
        ("text/plain;q=0, application/openmetrics-text;q=0", "text"),
        ("garbage;;;===,,,q", "text"),
        # Quality.
        (OPENMETRICS, "openmetrics"),
        (f"{OPENMETRICS}; version=1.0.0; charset=utf-8", "openmetrics"),
        (f"{OPENMETRICS};version=0.0.1", "openmetrics"),
        (f'{OPENMETRICS};version="1.0.0"', "openmetrics"),
        ("APPLICATION/OpenMetrics-Text; Version=1.0.0; Q=0.5, Text/Plain; q=0.4", "openmetrics"),
        (f"{OPENMETRICS};q=0.5, text/plain;q=0.5", "text"),
        (f"{OPENMETRICS};q=0.4, text/plain;q=0.5", "text"),
        (f"{OPENMETRICS};q=0.5, text/plain;q=0.4", "openmetrics"),
        (f"text/plain;q=0.4, {OPENMETRICS};q=0.5", "openmetrics"),
        (f"{OPENMETRICS} ; q = 0.5 , text/plain ; q = 0.4", "openmetrics"),
        (f"{OPENMETRICS};q=0, text/plain", "text"),
        (f"{OPENMETRICS};q=0, */*", "text"),
        (f"{OPENMETRICS};q=0.5, */*", "text"),
        (f"{OPENMETRICS}, */*;q=0.5", "openmetrics"),
        ("text/plain;q=0, */*", "openmetrics"),
        ("text/plain;q=0.2, */*;q=0.8", "openmetrics"),
        ("text/*;q=0.5, application/*;q=0.8", "openmetrics"),
        ("text/*;q=0.8, application/*;q=0.5", "text"),
        (f"application/*;q=0.9, {OPENMETRICS};q=0.1, text/plain;q=0.5", "text"),
        (f"text/*;q=0.9, text/plain;q=0.1, {OPENMETRICS};q=0.5", "openmetrics"),
        (f"text/plain;version=0.0.4;q=0.1, text/plain;q=0.9, {OPENMETRICS};q=0.5", "openmetrics"),
        # Commas and semicolons within quoted strings separate nothing.
        (f'text/plain;x="a,b";q=0.1, {OPENMETRICS};q=0.5', "openmetrics"),
        (f'text/plain;x="a;q=0.9";q=0.1, {OPENMETRICS};q=0.5', "openmetrics"),
        (f'text/html;x="\\",{OPENMETRICS};y=\\"", text/plain;q=0.5', "text"),
        (f'{OPENMETRICS};version="1.0\\.0"', "openmetrics"),
        (f'text/html;x="a, {OPENMETRICS}', "openmetrics"),
        (f'text/html;x=", {OPENMETRICS};q=0.5;y=", text/plain;q=0.1', "text"),
        # Versions that are not ours.
        (f"{OPENMETRICS};version=2.0.0", "text"),
        (f"{OPENMETRICS};version=2.0.0, {OPENMETRICS};version=1.0.0;q=0.1", "openmetrics"),
        (f"text/plain;version=1.0.0, {OPENMETRICS};q=0.1", "openmetrics"),
        # Qualities that are none.
        (f"{OPENMETRICS};q=1.5", "text"),
        (f"{OPENMETRICS};q=-1", "text"),
        (f"{OPENMETRICS};q=nan", "text"),
        (f"{OPENMETRICS};q=high", "text"),
        (f"{OPENMETRICS};q=", "text"),
    ],
)
def test_formats(accept: str | None, format: str) -> None:
    """The format with the higher quality is answered; plain text on a tie and to whoever wants neither."""
    assert choose_format(accept) == format


@pytest.mark.parametrize(
    ("header", "gzip"),
    [
        ("gzip", True),  # Prometheus, VictoriaMetrics, Go
        ("gzip, deflate, br, zstd", True),  # browsers
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("gzip;q=0.5", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("gzip, identity", True),
        ("gzip;q=0.5, identity;q=0.5", True),
        ("gzip, identity;q=0", True),
        ("gzip, *;q=0", True),
        ("*", True),
        ("*;q=0.1", True),
        ("identity;q=0, *", True),
        (" gzip ; q=1 ", True),
        (None, False),
        ("", False),
        ("identity", False),
        ("deflate, br", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("identity;q=0", False),
        ("gzip;q=0.5, identity", False),
        ("identity, *;q=0.5", False),
        ("gzip;q=2", False),
        ("gzip;q=nan", False),
        ("gzip;q=x", False),
        ("gzipped", False),
        ("g zip", False),
        (";;,,=", False),
    ],
)
def test_gzip(header: str | None, gzip: bool) -> None:
    """gzip is used where it is accepted and liked no less than no encoding; what is unreadable is not accepted."""
    assert accepts_gzip(header) is gzip


TOKENS = st.sampled_from(
    (OPENMETRICS, "text/plain", "*/*", "text/*", "gzip", "identity", "*", "q", "version", "1.0.0", "0.5", "nan", "inf",
     ";", ",", "=", " ", '"', "\\", "/", "é", "\x00")
)  # fmt: skip
HEADERS = st.one_of(st.text(max_size=50), st.lists(TOKENS, max_size=30).map("".join))


@settings(deadline=None)
@given(HEADERS)
@example("," * 8190)
@example(";" * 8190)
@example('"' * 8189)
@example('"\\' * 4095)
@example(';x="' * 2047)
@example("q=" * 4095)
@example("9" * 8190)
@example("text/plain;q=" + "9" * 8000)
def test_no_header_breaks_anything(header: str) -> None:
    """Whatever a client sends, it gets one of the formats, with or without gzip."""
    assert choose_format(header) in FORMATS
    assert accepts_gzip(header) in {True, False}


@settings(deadline=None)
@given(st.floats(0.001, 1), st.floats(0.001, 1))
def test_the_better_liked_wins(openmetrics: float, text: float) -> None:
    """Between the two formats only their qualities count, not their places."""
    expected = "openmetrics" if openmetrics > text else "text"
    assert choose_format(f"{OPENMETRICS};q={openmetrics!r},text/plain;q={text!r}") == expected
    assert choose_format(f"text/plain;q={text!r},{OPENMETRICS};q={openmetrics!r}") == expected


def test_a_flood_of_elements_is_cut() -> None:
    """A header of very many elements is not read to its end."""
    assert choose_format("image/png," * 64 + OPENMETRICS) == "text"
    assert choose_format("image/png," * 63 + OPENMETRICS) == "openmetrics"


def test_the_version_answered_is_ours() -> None:
    """The content types name the versions that are written, whatever was asked for."""
    assert CONTENT_TYPES == {
        "text": "text/plain; version=0.0.4; charset=utf-8",
        "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
    }
