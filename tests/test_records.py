"""Reading one record: all that is usable is kept, and what a field means does not depend on who reads it."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from exporter.deployments.records import Deployment, Outputs, exit_code, parse_time, salvage
from exporter.openstack.decoder import ResponseDecoder
from tests import oracle

DECODER = msgspec.json.Decoder(Deployment)
SECOND = datetime(2015, 1, 31, 15, 12, 36, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2015-01-31T15:12:36Z", SECOND),
        ("2015-01-31T15:12:36+00:00", SECOND),
        ("2015-01-31T15:12:36-00:00", SECOND),
        ("2015-01-31T16:42:36+01:30", SECOND),
        ("2015-01-31T16:42:36+0130", SECOND),
        ("2015-01-31T05:12:36-10", SECOND),
        ("2015-01-31T15:12:36", SECOND),
        ("2015-01-31 15:12:36Z", SECOND),
        ("2015-01-31t15:12:36z", SECOND),
        ("2015-01-31T15:12Z", SECOND.replace(second=0)),
        ("2015-01-31T15:12:36.5Z", SECOND.replace(microsecond=500_000)),
        ("2015-01-31T15:12:36,5", SECOND.replace(microsecond=500_000)),
        ("2015-01-31T15:12:36.1234564Z", SECOND.replace(microsecond=123_456)),
        ("2015-01-31T15:12:36.1234565Z", SECOND.replace(microsecond=123_457)),
        ("2015-01-31T15:12:36.9999995Z", SECOND + timedelta(seconds=1)),
        ("2015-06-30T23:59:60Z", datetime(2015, 7, 1, tzinfo=UTC)),
        ("2015-06-30T23:59:60.5Z", datetime(2015, 7, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59Z", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_times_that_can_be_read(text: str, time: datetime) -> None:
    """`Z`, any offset and none (UTC), fractions, and a leap second are the instants that they say."""
    assert parse_time(text) == oracle.read_time(text) == time
    assert parse_time(text).tzinfo is not None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "None",
        "yesterday",
        "2015-01-31",
        "15:12:36Z",
        "2015-01-31T15Z",
        "20150131T151236Z",
        "2015-W05-6T15:12:36Z",
        "2015-1-31T15:12:36Z",
        "2015-13-31T15:12:36Z",
        "2015-02-29T15:12:36Z",
        "0000-01-31T15:12:36Z",
        "2015-01-31T24:00:00Z",
        "2015-01-31T15:60:36Z",
        "2015-01-31T15:12:61Z",
        "2015-01-31T15:12:36.Z",
        "2015-01-31T15:12:36+24:00",
        "2015-01-31T15:12:36+10:75",
        "2015-01-31T15:12:36+1",
        "2015-01-31T15:12:36 UTC",
        "2015-01-31T15:12:36Z ",
        " 2015-01-31T15:12:36Z",
        "2015-01-31T15:12:36Z\n",
        "２０１５-01-31T15:12:36Z",
        "9999-12-31T23:59:60Z",
        "9" * 10_000,
        1422717156,
        1422717156.5,
        None,
        True,
        [],
        {},
    ],
    ids=repr,
)
def test_times_that_cannot_be_read(value: Any) -> None:
    """Anything else is no time, and never an error."""
    assert parse_time(value) is oracle.read_time(value) is None


@settings(max_examples=200, deadline=None)
@given(text=oracle.TIMES)
def test_a_time_is_the_same_for_both_readers(text: str) -> None:
    """A time that the quick decoder reads is the very instant that the slow one reads, and the plain way too."""
    slow = parse_time(text)
    assert slow == oracle.read_time(text)
    try:
        quick = DECODER.decode(json.dumps({"id": "a", "creation_time": text})).creation_time
    except msgspec.ValidationError:
        return
    assert quick == slow


@settings(max_examples=150, deadline=None)
@given(item=oracle.RECORDS)
def test_a_record_is_the_same_for_both_readers(item: dict[str, Any]) -> None:
    """A record that the quick decoder takes is the one that `salvage` makes of the decoded object."""
    text = json.dumps(item)
    try:
        quick = DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        quick = None
    slow = salvage(json.loads(text))
    assert isinstance(slow, Deployment) or slow == "id"
    assert quick in {None, slow}


def decoded(*items: dict[str, Any]) -> list[Deployment]:
    """The records of a response with these."""
    decoder = ResponseDecoder()
    body = json.dumps({"software_deployments": items}).encode()
    records = [record for batch in (*decoder.feed(body), *decoder.close()) for record in batch.records]
    return [Deployment(*msgspec.structs.astuple(record)) for record in records]


@pytest.mark.parametrize("field", ["server_id", "config_id", "status", "action"])
@pytest.mark.parametrize("character", ["x", "é", "😀"])
def test_a_text_that_is_too_long_is_unusable(field: str, character: str) -> None:
    """Of 255 characters a text is kept, of more it counts as missing: a cloud can't have long ones kept."""
    for length, kept in ((255, True), (256, False), (10**6, False)):
        item = {"id": "a", field: character * length}
        found = salvage(item)
        assert isinstance(found, Deployment)
        assert (getattr(found, field) is not None) is kept
        assert decoded(item) == [found]


def test_an_id_that_is_too_long_is_rejected() -> None:
    """A deployment is told apart by its id, so one with an id that no Heat stores is rejected."""
    assert salvage({"id": "x" * 256}) == "id"
    assert decoded({"id": "x" * 255}) == [Deployment(id="x" * 255)]
    assert decoded({"id": "x" * 256}, {"id": "a"}) == [Deployment(id="a")]


@pytest.mark.parametrize("item", [None, True, 0, 1.5, "id", [], [{"id": "a"}]], ids=repr)
def test_what_is_no_object_is_rejected(item: Any) -> None:
    """Only an object can be a record."""
    assert salvage(item) == "not_object"


@pytest.mark.parametrize("item", [{}, {"id": None}, {"id": ""}, {"id": 7}, {"id": ["a"]}, {"ID": "a"}], ids=repr)
def test_a_record_needs_an_id(item: Any) -> None:
    """Without a usable id there is no record."""
    assert salvage(item) == "id"


@pytest.mark.parametrize("bad", [None, 7, 1.5, True, [], {}, ["COMPLETE"]], ids=repr)
@pytest.mark.parametrize(
    "field", ["server_id", "config_id", "status", "action", "creation_time", "updated_time", "output_values"]
)
def test_a_bad_field_costs_only_itself(field: str, bad: Any) -> None:
    """A field of a wrong type counts as missing, and all the others are kept."""
    item = {
        "id": "a",
        "server_id": "s",
        "config_id": "c",
        "status": "COMPLETE",
        "action": "CREATE",
        "creation_time": "2015-01-31T15:12:36Z",
        "updated_time": "2015-01-31T15:12:36Z",
        "output_values": {"deploy_status_code": 0},
    }
    good = salvage(item)
    found = salvage(item | {field: bad})
    empty = Outputs() if field == "output_values" and bad == {} else None
    assert found == msgspec.structs.replace(good, **{field: empty})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("\ud800", "\ufffd"),
        ("a\udfffb", "a\ufffdb"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("\ud83d\ude00", "😀"),
        ("\ufeffé", "\ufeffé"),
        ("\x00\n", "\x00\n"),
    ],
)
def test_half_a_character_becomes_the_replacement(text: str, kept: str) -> None:
    """What JSON can spell and UTF-8 can't is replaced; all other text stays as it is."""
    found = salvage({"id": text, "status": text})
    assert (found.id, found.status) == (kept, kept)
    assert found.id.encode().decode() == kept


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "none"),
        (0, 0),
        (-1, -1),
        (2**70, 2**70),
        ("0", 0),
        ("137", 137),
        ("-1", -1),
        ("9" * 4000, int("9" * 4000)),
        ("-0", "invalid"),
        ("+1", "invalid"),
        ("007", "invalid"),
        (" 1", "invalid"),
        ("1\n", "invalid"),
        ("1.0", "invalid"),
        ("1_0", "invalid"),
        ("0x10", "invalid"),
        ("１", "invalid"),
        ("", "invalid"),
        ("none", "invalid"),
        ("9" * 5000, "invalid"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_exit_codes(value: Any, code: Any) -> None:
    """Integers and integers in canonical decimal are codes, null is none, any other text is invalid."""
    assert exit_code(value) == code
    assert type(exit_code(value)) is type(code)


@pytest.mark.parametrize("value", [True, False, 0.0, 1.5, 1e300, [], [1], {}, {"code": 1}], ids=repr)
def test_a_code_of_another_type_is_invalid(value: Any) -> None:
    """A code that is neither an integer nor a text is invalid, not missing."""
    found = salvage({"id": "a", "output_values": {"deploy_status_code": value}})
    assert exit_code(found.output_values.deploy_status_code) == "invalid"


def test_secrets_are_not_kept() -> None:
    """Of the input and output values nothing is kept but the exit code."""
    outputs = {"deploy_stdout": "s3cret", "deploy_stderr": "s3cret", "result": "s3cret", "deploy_status_code": 3}
    item = {"id": "a", "input_values": {"password": "s3cret"}, "output_values": outputs}
    for record in (salvage(item), DECODER.decode(json.dumps(item))):
        assert record.output_values == Outputs(3)
        assert "s3cret" not in repr(record)


def test_offsets_keep_the_instant() -> None:
    """A time with an offset is aware, so that times of several zones can be compared."""
    found = parse_time("2015-01-31T16:42:36+01:30")
    assert found == datetime(2015, 1, 31, 16, 42, 36, tzinfo=timezone(timedelta(hours=1, minutes=30)))
    assert found < parse_time("2015-01-31T15:12:37Z")
