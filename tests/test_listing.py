"""Decoding a listing: the same records however its bytes are cut, and nothing from what is not a listing."""

import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.common.errors import DecodeError
from exporter.deployments.aggregator import Aggregator
from exporter.deployments.records import Batch
from exporter.deployments.snapshot import Snapshot
from exporter.openstack.decoder import BATCH_BYTES, ResponseDecoder
from exporter.simulator import Plan, build
from exporter.simulator.outputs import STYLES, Style
from tests import oracle

Cut = Callable[[bytes], list[bytes]]

BATCH_SIZES = (1, 2, 16, 64, 200, 4096, BATCH_BYTES)
RULES = st.builds(
    oracle.Rules,
    servers=st.sampled_from((0, 1, 2, 10000)),
    stuck_after=st.sampled_from((60.0, 3600.0, 86400.0 * 365)),
    include=st.sampled_from(((), (), ("web-.*|",), (r"[\s\S]*",))),
    exclude=st.sampled_from(((), (), ("web-2",), (".*",))),
)


def whole(body: bytes) -> list[bytes]:
    """The body in one piece."""
    return [body]


def bytewise(body: bytes) -> list[bytes]:
    """The body byte by byte."""
    return [body[at : at + 1] for at in range(len(body))]


def decoded(pieces: Iterable[bytes], *, batch_bytes: int = BATCH_BYTES) -> Iterator[Batch]:
    """The batches of a body that arrives in these pieces."""
    decoder = ResponseDecoder(batch_bytes=batch_bytes)
    for piece in pieces:
        yield from decoder.feed(piece)
    yield from decoder.close()


def outcome(pieces: Iterable[bytes], **options: Any) -> tuple[list[str], Counter[str]]:
    """The ids of all records in order, and how many were rejected for what."""
    ids: list[str] = []
    rejected: Counter[str] = Counter()
    for batch in decoded(pieces, **options):
        ids += [record.id for record in batch.records]
        rejected.update(batch.rejected)
    return ids, rejected


def snapshot(pieces: Iterable[bytes], rules: oracle.Rules, **options: Any) -> Snapshot:
    """What the exporter makes of a body."""
    fold = Aggregator(rules.options(), asked_at=oracle.ASKED_AT)
    for batch in decoded(pieces, **options):
        fold.add(batch)
    return fold.finish()


def listing(*items: Any) -> bytes:
    """A body with these items, as Heat writes it."""
    return json.dumps({"software_deployments": items}).encode()


# --- any listing, any cut ---


@settings(max_examples=100, deadline=None)
@given(body=oracle.bodies(), cut=oracle.cuts(), rules=RULES)
def test_any_listing_counts_as_json_loads_and_a_model_would(body: bytes, cut: Cut, rules: oracle.Rules) -> None:
    """However a listing is written, cut and batched, each field of its snapshot is as the plain way has it."""
    items = json.loads(body)["software_deployments"]
    expected = oracle.fields_of(oracle.count(items, rules))
    for batch_bytes in BATCH_SIZES:
        for pieces in (whole(body), cut(body)):
            assert oracle.fields_of(snapshot(pieces, rules, batch_bytes=batch_bytes)) == expected
    for batch_bytes in (1, 64, BATCH_BYTES):
        assert oracle.fields_of(snapshot(bytewise(body), rules, batch_bytes=batch_bytes)) == expected


@settings(max_examples=40, deadline=None)
@given(body=oracle.bodies(), cut=oracle.cuts(), batch_bytes=st.sampled_from(BATCH_SIZES))
def test_records_come_in_the_listings_order(body: bytes, cut: Cut, batch_bytes: int) -> None:
    """Records keep their order, none is lost, none comes twice, whatever the batches."""
    items = json.loads(body)["software_deployments"]
    identities = [oracle.read_name(item.get("id")) for item in items if isinstance(item, dict)]
    ids, rejected = outcome(cut(body), batch_bytes=batch_bytes)
    assert ids == [identity for identity in identities if identity]
    assert rejected.total() == len(items) - len(ids)


@pytest.mark.parametrize("cut", [whole, bytewise])
@pytest.mark.parametrize("batch_bytes", [1, 64, BATCH_BYTES])
def test_the_documented_example(cut: Cut, batch_bytes: int) -> None:
    """The API documentation's own example gives its one record, with what the exporter needs of it."""
    body = listing(
        {
            "status": "COMPLETE",
            "server_id": "ec14c864-096e-4e27-bb8a-2c2b4dc6f3f5",
            "config_id": "8da95794-2ad9-4979-8ae5-739ce314c5cd",
            "output_values": {
                "deploy_stdout": "Writing to /tmp/barmy\nWritten to /tmp/barmy\n",
                "deploy_stderr": "+ echo Writing to /tmp/barmy\n",
                "deploy_status_code": 0,
            },
            "input_values": None,
            "action": "CREATE",
            "status_reason": "Outputs received",
            "id": "ef422fa5-719a-419e-a10c-72e3a367b0b8",
            "creation_time": "2015-01-31T15:12:36Z",
            "updated_time": "2015-01-31T15:18:21Z",
        }
    )
    (batch,) = decoded(cut(body), batch_bytes=batch_bytes)
    (record,) = batch.records
    assert batch.rejected == []
    assert (record.id, record.status, record.action) == ("ef422fa5-719a-419e-a10c-72e3a367b0b8", "COMPLETE", "CREATE")
    assert record.server_id == "ec14c864-096e-4e27-bb8a-2c2b4dc6f3f5"
    assert record.config_id == "8da95794-2ad9-4979-8ae5-739ce314c5cd"
    assert record.output_values is not None
    assert record.output_values.deploy_status_code == 0
    assert str(record.creation_time) == "2015-01-31 15:12:36+00:00"
    assert str(record.updated_time) == "2015-01-31 15:18:21+00:00"


@pytest.mark.parametrize("cut", [whole, bytewise])
@pytest.mark.parametrize(
    "body",
    [b'{"software_deployments":[]}', b' {\n"software_deployments" :\t[ ]\r\n} ' + b"\n" * 100],
    ids=["compact", "blanks"],
)
def test_an_empty_listing_has_no_batch(cut: Cut, body: bytes) -> None:
    """An empty listing is a listing."""
    assert list(decoded(cut(body))) == list(decoded(cut(body), batch_bytes=16)) == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_record_larger_than_a_batch(place: int) -> None:
    """One record of several batches' size is read like any other, be it the first, in the middle, or the last."""
    items = [{"id": "a"}, {"id": "b"}, {"id": "c"}]
    items[place]["status_reason"] = "x" * 3 * BATCH_BYTES
    assert outcome(whole(listing(*items))) == (["a", "b", "c"], Counter())


@pytest.mark.parametrize("batch_bytes", range(1, 24))
def test_numbers_are_not_cut_in_two(batch_bytes: int) -> None:
    """A number of which only the beginning has arrived is not taken for a whole one."""
    body = b'{"software_deployments":[1.5e+3,-0.25,2E-7,17,{"id":"a"},1e5]}'
    assert outcome(bytewise(body), batch_bytes=batch_bytes) == (["a"], Counter(not_object=5))


def test_the_envelopes_key_may_be_escaped() -> None:
    """What counts is which key it is, not how it is written."""
    assert outcome(whole(rb'{"software\u005fdeployments": [{"id": "a"}]}')) == (["a"], Counter())


def test_one_bad_record_costs_no_other() -> None:
    """What is no object or has no id is rejected by its reason, and every other record is kept."""
    body = listing({"id": "a"}, None, {"id": None}, {"id": ""}, {}, [], 7, "}, {", {"id": 7}, {"id": "b", "status": 7})
    assert outcome(whole(body)) == (["a", "b"], Counter(not_object=4, id=4))


def test_a_code_of_too_many_digits() -> None:
    """An integer that Python does not convert is no exit code, and costs nothing else."""
    code = b"9" * 5000
    body = b'{"software_deployments":[{"id":"a","output_values":{"deploy_status_code":%b}},{"id":"b"}]}' % code
    for cut in (whole, bytewise):
        for batch_bytes in (64, BATCH_BYTES):
            found = snapshot(cut(body), oracle.Rules(), batch_bytes=batch_bytes)
            assert found.codes == {("", "invalid"): 1, ("", "none"): 1}


# --- what is no listing ---

SMALL = rb' { "software_deployments" : [ { "id" : "a\u00e9\"\\" , "x": [ 1.5e3 , true , null ] } , { "id":"b" } ] } '
MALFORMED = {
    "empty": b"",
    "blank": b" \n",
    "null": b"null",
    "number": b"1",
    "string": b'"software_deployments"',
    "list": b"[]",
    "list of records": b'[{"id": "a"}]',
    "empty object": b"{}",
    "html": b"<!DOCTYPE html><html><body>Bad Gateway</body></html>",
    "text": b"upstream connect error",
    "another envelope": b'{"stacks": [{"id": "a"}]}',
    "an error": b'{"error": {"code": 500}, "code": 500, "title": "Internal Server Error"}',
    "null list": b'{"software_deployments": null}',
    "object for a list": b'{"software_deployments": {"id": "a"}}',
    "string for a list": b'{"software_deployments": "[]"}',
    "byte order mark": b'\xef\xbb\xbf{"software_deployments": [{"id": "a"}]}',
    "UTF-16": '{"software_deployments": [{"id": "a"}]}'.encode("utf-16"),
    "UTF-16 without a mark": '{"software_deployments": [{"id": "a"}]}'.encode("utf-16-le"),
    "single quotes": b"{'software_deployments': []}",
    "no colon": b'{"software_deployments" []}',
    "not closed": b'{"software_deployments": [{"id": "a"}]',
    "list not closed": b'{"software_deployments": [{"id": "a"}}',
    "closed twice": b'{"software_deployments": [{"id": "a"}]}}',
    "list closed twice": b'{"software_deployments": [{"id": "a"}]]}',
    "empty list closed twice": b'{"software_deployments": [    ] ]}',
    "closed the wrong way": b'{"software_deployments": [{"id": "a"]}}',
    "trailing text": b'{"software_deployments": [{"id": "a"}]} x',
    "trailing NUL": b'{"software_deployments": [{"id": "a"}]}\x00',
    "trailing form feed": b'{"software_deployments": [{"id": "a"}]}\x0c',
    "doubled": b'{"software_deployments": [{"id": "a"}]}{"software_deployments": [{"id": "b"}]}',
    "doubled, one a line": b'{"software_deployments": [{"id": "a"}]}\n{"software_deployments": [{"id": "b"}]}\n',
    "second key": b'{"software_deployments": [{"id": "a"}], "next": null}',
    "second list": b'{"software_deployments": [{"id": "a"}], "more": [{"id": "b"}]}',
    "first another key": b'{"next": null, "software_deployments": [{"id": "a"}]}',
    "key twice": b'{"software_deployments": [{"id": "a"}], "software_deployments": [{"id": "b"}]}',
    "trailing comma": b'{"software_deployments": [{"id": "a"},]}',
    "trailing comma after blanks": b'{"software_deployments": [{"id": "a"} ,  ]  } ',
    "trailing comma after no object": b'{"software_deployments": [1,]}',
    "leading comma": b'{"software_deployments": [,{"id": "a"}]}',
    "comma alone": b'{"software_deployments": [,]}',
    "two commas": b'{"software_deployments": [{"id": "a"},,{"id": "b"}]}',
    "comma after the list": b'{"software_deployments": [{"id": "a"}],}',
    "no comma": b'{"software_deployments": [{"id": "a"} {"id": "b"}]}',
    "a form feed in an empty list": b'{"software_deployments": [\x0c]}',
    "a vertical tab after a comma": b'{"software_deployments": [{"id": "a"},\x0b{"id": "b"}]}',
    "a form feed after the list": b'{"software_deployments": [{"id": "a"}]\x0c}',
    "a bracket for a comma": b'{"software_deployments": ["a"["b"]}',
    "a brace for a comma": b'{"software_deployments": [{"id": "a"}{"id": "b"}]}',
    "a bracket for a comma, closed": b'{"software_deployments": [{"id": "a"}[{"id": "b"}]]}',
    "semicolon": b'{"software_deployments": [{"id": "a"};{"id": "b"}]}',
    "comment": b'{"software_deployments": [/* none */]}',
}
"""Bodies that are no envelope."""
MALFORMED_VALUES = {
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "leading zero": b"01",
    "plus": b"+1",
    "point at the end": b"1.",
    "point at the beginning": b".5",
    "no exponent": b"1e",
    "minus alone": b"-",
    "hexadecimal": b"0x1F",
    "capital": b"True",
    "half a literal": b"tru",
    "literal and more": b"nulll",
    "bare word": b"abc",
    "nothing": b"",
    "two values": b"1 2",
    "single quotes": b"'a'",
    "control character": b'"a\x01b"',
    "raw newline": b'"a\nb"',
    "raw tab": b'"a\tb"',
    "raw NUL": b'"\x00"',
    "unknown escape": rb'"\q"',
    "short escape": rb'"\u12"',
    "no hexadecimal escape": rb'"\u12G4"',
    "invalid UTF-8": b'"\xff"',
    "a lone continuation": b'"\x80"',
    "overlong UTF-8": b'"\xc0\xaf"',
    "UTF-8 of a surrogate": b'"\xed\xa0\x80"',
    "UTF-8 past Unicode": b'"\xf4\x90\x80\x80"',
    "half a UTF-8 character": b'"\xe2\x82"',
    "trailing comma in a list": b"[1,]",
    "trailing comma in an object": b'{"a": 1,}',
    "no colon": b'{"a" 1}',
    "a number for a key": b"{1: 2}",
    "brackets crossed": b"[{]}",
    "not closed": b"[1",
}
"""Values that are not JSON, in whatever place."""
PLACES = {
    "a skipped field": b'{"software_deployments": [{"id": "a", "skipped": %b}, {"id": "b"}]}',
    "a skipped output": b'{"software_deployments": [{"id": "a", "output_values": {"stdout": %b}}, {"id": "b"}]}',
    "a kept field": b'{"software_deployments": [{"id": "a", "status": %b}, {"id": "b"}]}',
    "an unfit record": b'{"software_deployments": [{"id": "a", "server_id": 5, "skipped": %b}, {"id": "b"}]}',
    "the last record": b'{"software_deployments": [{"id": "a"}, {"id": "b", "skipped": %b}]}',
    "a rejected record": b'{"software_deployments": [{"id": "a"}, {"skipped": %b}]}',
    "an element": b'{"software_deployments": [{"id": "a"}, [%b, 1], {"id": "b"}]}',
}


def refused(body: bytes) -> None:
    """Holds that a body is refused whatever its pieces and batches."""
    for cut in (whole, bytewise):
        for batch_bytes in (1, 8, 64, BATCH_BYTES):
            with pytest.raises(DecodeError) as caught:
                outcome(cut(body), batch_bytes=batch_bytes)
            assert (caught.value.reason, caught.value.api) == ("decode", "orchestration")


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_no_envelope_no_snapshot(body: bytes) -> None:
    """Anything but exactly one documented envelope is a DecodeError."""
    assert not oracle.is_envelope(body)
    refused(body)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("value", MALFORMED_VALUES.values(), ids=MALFORMED_VALUES)
def test_no_json_no_snapshot(place: bytes, value: bytes) -> None:
    """What is not JSON by the letter is a DecodeError, in fields that are kept and in those that are skipped alike."""
    body = place % value
    if place == PLACES["an element"] and value == b"":
        body = place % b","
    assert not oracle.is_envelope(body)
    refused(body)


@pytest.mark.parametrize("end", range(len(SMALL.rstrip())))
def test_a_listing_that_breaks_off(end: int) -> None:
    """A body without its end, wherever that is, is never taken for a shorter listing."""
    assert oracle.is_envelope(SMALL)
    refused(SMALL[:end])


def damaged(body: bytes, chance: random.Random) -> bytes:
    """The body with a few bytes removed, replaced or inserted."""
    result = bytearray(body)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(result) + 1)
        new = chance.choice((b"", b",", b"]", b"}", b"{", b"[", b'"', b"\\", b" ", b"0", chance.randbytes(1)))
        result[at : at + chance.randrange(3)] = new
    return bytes(result)


@settings(max_examples=60, deadline=None)
@given(body=st.one_of(st.just(SMALL), oracle.bodies()), cut=oracle.cuts(), seed=st.integers(0, 2**32))
def test_damaged_listings_are_judged_by_the_letter(body: bytes, cut: Cut, seed: int) -> None:
    """A listing with a few bytes changed is accepted just where it still is one envelope."""
    chance = random.Random(seed)
    for _ in range(50):
        text = damaged(body, chance)
        batch_bytes = chance.choice(BATCH_SIZES)
        try:
            outcome(cut(text), batch_bytes=batch_bytes)
            accepted = True
        except DecodeError:
            accepted = False
        assert accepted == oracle.is_envelope(text), (text, batch_bytes)


@pytest.mark.parametrize(
    "body", [b'{"' + b"x" * 10**6, b"[" * 10**6, b"{" + b" " * 10**6], ids=["key", "list", "blanks"]
)
def test_what_is_no_listing_is_not_collected(body: bytes) -> None:
    """That a body is no listing is said within its first pieces, not when all of it has been stored."""
    decoder = ResponseDecoder()
    with pytest.raises(DecodeError):
        for start in range(0, 65536, 1024):
            list(decoder.feed(body[start : start + 1024]))


def test_errors_show_little_and_no_records() -> None:
    """An error quotes the beginning of what is no listing, on one line, but never a record's text."""
    with pytest.raises(DecodeError, match="Bad Gateway") as caught:
        outcome(whole(b"<h1>Bad Gateway</h1>\n" + b"x" * 1000))
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "end", [b' "x"}}]}', b"}}", b"}}}", b"}}]", b"}}]}}", b"}} {}]}", b"}},]}", b"\xff", b"\x01", b""]
)
@pytest.mark.parametrize("batch_bytes", [8, BATCH_BYTES])
def test_errors_never_show_a_record(end: bytes, batch_bytes: int) -> None:
    """Records may hold secrets: wherever a listing is broken, the error does not quote them."""
    body = b'{"software_deployments": [{"id": "a"}, {"id": "b", "output_values": {"deploy_stdout": "s3cret"' + end
    with pytest.raises(DecodeError) as caught:
        outcome(bytewise(body), batch_bytes=batch_bytes)
    assert "s3c" not in str(caught.value)
    assert "stdout" not in str(caught.value)


@pytest.mark.parametrize(
    "mistake",
    [b'"\xff"', b'"\x01"', b"NaN", b'"a" "b"', b'"a"}}, {"id"}', b'"a"}]}]', b'"a"}]} x', b'"a"}; {', b'"a"}]}{'],
    ids=repr,
)
def test_a_mistake_is_met_when_it_comes(mistake: bytes) -> None:
    """What is no listing is refused soon after the mistake, not when the rest has been collected."""
    decoder = ResponseDecoder(batch_bytes=4096)
    list(decoder.feed(b'{"software_deployments": [{"id": "a"}, {"id": "b", "x": ' + mistake))
    with pytest.raises(DecodeError):
        for _ in range(100):
            list(decoder.feed(b"y" * 1000))


# --- depth ---

LEVELS = 500_000
"""More than any Python reads: 3.11 gives up at 1,000, the newest where a stack of 8 MiB ends, at 250,000."""
DEEP = {
    "lists": b"[" * LEVELS + b"]" * LEVELS,
    "objects": b'{"a":' * LEVELS + b"1" + b"}" * LEVELS,
    "braces inside strings": rb'{"}]\"{[\\":["}}]]",' * LEVELS + b"1" + b"]}" * LEVELS,
    "look-alikes inside strings": b'{"},{":["},{",' * LEVELS + b"1" + b"]}" * LEVELS,
}


@pytest.mark.parametrize(
    ("template", "nested"),
    [
        *((b'{"id": "deep", "x": %b}', nested) for nested in DEEP.values()),
        (b'{"id": "deep", "status": %b}', DEEP["lists"]),
        (b'{"x": %b}', DEEP["objects"]),
        (b"%b", DEEP["lists"]),
    ],
    ids=[*DEEP, "a kept field", "no id", "no object"],
)
def test_a_record_too_deep_is_rejected_alone(template: bytes, nested: bytes) -> None:
    """A record of half a million levels is rejected as too deep; those before and after it are kept."""
    items = (b'{"id": "a"}', b'{"id": "b"}', template % nested, b'{"id": "c"}', b"7", b'{"id": "d"}')
    body = b'{"software_deployments": [%b]}' % b", ".join(items)
    pieces = [body[start : start + 65536] for start in range(0, len(body), 65536)]
    assert outcome(pieces) == (["a", "b", "c", "d"], Counter(too_deep=1, not_object=1))


@pytest.mark.parametrize("end", [b"", b"]", b"}", b'"', b"]}", b"\\"])
def test_too_deep_and_not_closed(end: bytes) -> None:
    """Depth is no excuse for what is not closed: that is no listing."""
    body = b'{"software_deployments": [{"id": "a"}, {"x": ' + b"[" * LEVELS + end
    with pytest.raises(DecodeError):
        outcome(whole(body))
    with pytest.raises(DecodeError):
        outcome(whole(body + b"]}"))


@pytest.mark.parametrize("start", [b'{"id":"a","x":', b'{"id":1,"x":', b'{"id":"a","server_id":1,"x":', b'{"x":'])
def test_around_the_depth_limit_nothing_breaks(start: bytes) -> None:
    """Whether a depth near the interpreter's limit is too deep or not, its neighbours are kept and nothing fails."""
    for levels in range(900, 1010):
        body = b'{"software_deployments":[' + start + b"[" * levels + b"]" * levels + b'},{"id":"b"}]}'
        ids, rejected = outcome(whole(body))
        assert ids[-1] == "b"
        assert len(ids) + rejected.total() == 2


# --- memory and work ---


def stream(record: bytes, size: int) -> Iterator[bytes]:
    """A listing of this record over and over, in pieces of 64 KiB, without ever holding all of it."""
    yield b'{"software_deployments": ['
    block = record + b", "
    block *= max(1, 65536 // len(block))
    for _ in range(size // len(block)):
        yield block
    yield record + b"]}"


@pytest.mark.parametrize(
    ("stdout", "size"), [("+ echo\n" * 256, 30_000_000), ("},{" * 600, 10_000_000)], ids=["usual", "look-alikes"]
)
def test_memory_is_that_of_a_batch(stdout: str, size: int) -> None:
    """A listing of 30 MB is counted in a few MB, for no record outlives its batch."""
    record = json.dumps({"id": "a", "status": "COMPLETE", "output_values": {"deploy_stdout": stdout}}).encode()
    fold = Aggregator(oracle.Rules().options(), asked_at=oracle.ASKED_AT)
    met = 0
    tracemalloc.start()
    try:
        for batch in decoded(stream(record, size)):
            fold.add(batch)
            met += len(batch.records)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert met > size // len(record) * 0.9
    assert peak < 5_000_000


@pytest.mark.parametrize("status", ["FAILED", "IN_PROGRESS", "COMPLETE"])
def test_long_reasons_are_not_collected(status: str) -> None:
    """Of a reason that is as long as a batch no more is kept than is shown, also of deployments with rows of their own,
    and none for longer than a few batches."""
    reason = "a long story, " * 4096
    times = {"creation_time": "2020-01-01T00:00:00Z", "updated_time": "2020-01-01T00:00:00Z"}
    whole = (json.dumps({"id": f"{n}", "status": status, "status_reason": reason, **times}) for n in range(500))
    fold = Aggregator(oracle.Rules(problems=500).options(), asked_at=oracle.ASKED_AT)
    tracemalloc.start()
    try:
        comma = b'{"software_deployments": ['
        decoder = ResponseDecoder()
        for record in whole:
            for batch in decoder.feed(comma + record.encode()):
                fold.add(batch)
            comma = b", "
        for batch in decoder.feed(b"]}"):
            fold.add(batch)
        for batch in decoder.close():
            fold.add(batch)
        found = fold.finish()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.total == 500
    assert len(found.problems) == (0 if status == "COMPLETE" else 500)
    assert 500 * len(reason) > 25_000_000
    assert peak < 6_000_000


def test_batches_stay_small_after_a_large_record() -> None:
    """A record larger than a batch makes its own batch large, and none of those after it."""
    body = listing({"id": "large", "x": "y" * 400_000}, *({"id": str(number)} for number in range(50_000)))
    pieces = (body[at : at + 1000] for at in range(0, len(body), 1000))
    _, *others = (len(batch.records) for batch in decoded(pieces, batch_bytes=4096))
    assert sum(others) > 25_000
    assert max(others) < 600


class CountingDecoder(ResponseDecoder):
    """Counts the bytes that are decoded or skipped: a measure of work that no clock disturbs."""

    def __init__(self, *, batch_bytes: int) -> None:
        super().__init__(batch_bytes=batch_bytes)
        self.quick = self.slow = 0

    def _decode_array(self, array: memoryview) -> Batch | None:
        self.quick += len(array)
        return super()._decode_array(array)

    def _find_end(self, elements: memoryview, *, final: bool) -> int | None:
        end = super()._find_end(elements, final=final)
        self.slow += len(elements) if end is None else end
        return end


def worked(body: bytes, *, piece: int = 1000, batch_bytes: int = 4096) -> CountingDecoder:
    """A decoder that has read this body."""
    decoder = CountingDecoder(batch_bytes=batch_bytes)
    for start in range(0, len(body), piece):
        for _ in decoder.feed(body[start : start + piece]):
            pass
    for _ in decoder.close():
        pass
    return decoder


def odd(number: int) -> Any:
    """One of several records, each unusual in its own way: its keys' order, its types, its characters."""
    return (
        {"id": "a", "server_id": "s", "x": "y" * 50},
        {"server_id": "s", "id": "b"},
        {"id": "c", "creation_time": "2015-01-31T15:12:36"},
        {"id": "d", "status": 7, "x": "\ud83d" * 5},
        {"x": [{"id": "e"}, {"id": "f"}], "id": "g"},
        {"id": "h", "status_reason": "\udc00 and \\ud800"},
    )[number % 6]


HOSTILE: dict[str, Callable[[int], list[Any]]] = {
    "one string of look-alikes": lambda size: [{"id": "a", "x": "}, {" * (size // 4)}],
    "one string of quotes": lambda size: [{"id": "a", "x": '"}, {"id": "' * (size // 20)}],
    "one list of objects": lambda size: [{"id": "a", "x": [{}] * (size // 4)}],
    "one list of records": lambda size: [{"id": "a", "status": "b", "x": [{"id": "a", "status": "b"}] * (size // 30)}],
    "strings of look-alikes": lambda size: [{"id": "a", "x": "}, {" * 500}] * (size // 2000),
    "lists of objects": lambda size: [{"id": "a", "x": [{"id": "b"}] * 200}] * (size // 2800),
    "lists of records": lambda size: (
        [{"id": "a", "status": "b", "x": [{"id": "a", "status": "b"}] * 90}] * (size // 2800)
    ),
    "large and small in turn": lambda size: [{"id": "a", "x": "}, {" * 5000}, {"id": "b"}] * (size // 20000),
    "large lists and small in turn": lambda size: (
        [{"id": "a", "x": [{"id": "b"}] * 1500}, {"id": "b"}] * (size // 20000)
    ),
    "no objects": lambda size: ["a" * 25] * (size // 30),
    "records of nothing": lambda size: [{"a": "b" * 14}] * (size // 25),
    "quotes and backslashes": lambda size: [{"id": "a", "x": '"\\}, {"' * (size // 10)}],
    "halves of pairs": lambda size: [{"id": "a", "x": "\ud800" * 10}] * (size // 80),
    "one string of halves of pairs": lambda size: [{"id": "a", "x": '"\ud800' * (size // 8)}],
    "odd records": lambda size: [odd(number) for number in range(size // 60)],
    "an empty key": lambda size: [{"": "a", "id": "b", "x": [{"": "a", "id": "c"}]}] * (size // 60),
    "keys like punctuation": lambda size: [{":": "abc", "id": "b", "x": {"x}, {": ":abc"}}] * (size // 60),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_work_is_linear(make: Callable[[int], list[Any]]) -> None:
    """Twice the bytes are no more than about twice the work, however many places look like a boundary."""
    bodies = [listing(*make(size)) for size in (80_000, 160_000, 320_000)]
    once, twice, fourfold = (worked(body).quick + worked(body).slow for body in bodies)
    assert twice < 3 * once
    assert fourfold < 3 * twice
    assert fourfold < 20 * len(bodies[-1])


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_no_record_is_lost_whatever_its_neighbours_hold(make: Callable[[int], list[Any]]) -> None:
    """Of texts and nested objects that look like boundaries nothing is read as a record, and every record is read."""
    items = make(30_000)
    ids = [item["id"] for item in items if isinstance(item, dict) and "id" in item]
    for batch_bytes in (64, 4096, BATCH_BYTES):
        found, rejected = outcome(whole(listing(*items)), batch_bytes=batch_bytes)
        assert found == ids
        assert rejected.total() == len(items) - len(ids)


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_steps_are_small(make: Callable[[int], list[Any]]) -> None:
    """Between two batches no more is read than a few times the bytes of a batch or of its largest record."""
    items = make(400_000)
    largest = max(BATCH_BYTES, *(len(json.dumps(item)) for item in items))
    decoder = CountingDecoder(batch_bytes=BATCH_BYTES)
    body = listing(*items)
    before = 0
    for start in range(0, len(body), BATCH_BYTES):
        for batch in (*decoder.feed(body[start : start + BATCH_BYTES]), None):
            work = decoder.quick + decoder.slow
            assert work - before <= 7 * largest
            assert batch is None or batch.size <= max(1000, len(batch.records))
            before = work
    for _ in decoder.close():
        assert decoder.quick + decoder.slow - before <= 7 * largest


# --- real texts ---


def of_style(style: Style, *, escaped: bool = True) -> list[bytes]:
    """Deployments of a simulated cloud whose output has this style, each as its API writes it."""
    world = build(Plan(projects=1, deployments=400, output_bytes=1500, output_style=style, churn=0), now=lambda: 1.7e9)
    return [each.render(escaped=escaped) for each in world.deployments.values()]


@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "UTF-8"])
@pytest.mark.parametrize("style", STYLES)
def test_no_text_slows_the_decoding(style: Style, escaped: bool) -> None:
    """Whatever deployments print and are given, they are decoded in one pass, all but the first batch of a response."""
    body = b'{"software_deployments": [' + b", ".join(of_style(style, escaped=escaped)) + b"]}"
    assert len(body) > 500_000
    assert body.isascii() or not escaped
    decoder = worked(body, piece=65536, batch_bytes=16384)
    assert decoder.slow <= 2 * 16384
    assert decoder.quick < 1.1 * len(body)


@pytest.mark.parametrize("style", STYLES)
def test_every_text_is_read_however_it_is_cut(style: Style) -> None:
    """Records with real texts keep their order, none is lost and none comes twice, whatever the pieces and batches."""
    for separator in (b",", b", ", b"\n,\r\n\t"):
        body = b'{"software_deployments": [' + separator.join(of_style(style)[:100]) + b"]}"
        ids = [each["id"] for each in json.loads(body)["software_deployments"]]
        for piece in (97, 1000, 65536):
            for batch_bytes in (64, 4096, BATCH_BYTES):
                pieces = [body[start : start + piece] for start in range(0, len(body), piece)]
                assert outcome(pieces, batch_bytes=batch_bytes) == (ids, Counter())


def test_records_that_are_not_as_documented_are_decoded_once() -> None:
    """Times without a zone, or any other type that is not documented, send no batch down a slower way of cutting."""
    items = [{"id": str(n), "creation_time": "2015-01-31T15:12:36", "x": "}, {" * 300} for n in range(300)]
    decoder = worked(listing(*items), piece=65536, batch_bytes=16384)
    assert decoder.slow <= 2 * 16384


def test_the_boundary_is_learnt_anew() -> None:
    """When the keys of records change, one batch is read slowly and the next ones are cut by the new keys."""
    one = [{"id": str(n), "server_id": "s", "x": "y" * 200} for n in range(1000)]
    other = [{"server_id": "s", "id": str(n), "x": "y" * 200} for n in range(1000)]
    body = listing(*one, *other)
    assert worked(body).slow < 0.1 * len(body)


@pytest.mark.parametrize("inside", [b"[" * 10**6 + b"]" * 10**6, b"[]," * 100_000 + b"1"], ids=["deeper", "brackets"])
def test_a_record_too_deep_is_skipped_in_steps(inside: bytes) -> None:
    """Of a record with too many levels nothing is kept, and others have a turn after each 64 KiB of it."""
    nested = b"[" * LEVELS + inside + b"]" * LEVELS
    body = b'{"software_deployments": [{"id": "a", "x": %b}, {"id": "b"}]}' % nested
    decoder = ResponseDecoder()
    steps = 0
    tracemalloc.start()
    try:
        for start in range(0, len(body), BATCH_BYTES):
            for _ in decoder.feed(body[start : start + BATCH_BYTES]):
                steps += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert steps > len(body) / BATCH_BYTES
    assert peak < 1_000_000


def test_a_look_alike_at_the_start_slows_nothing_for_long() -> None:
    """A boundary that was first guessed from inside a string is guessed anew: the rest goes the quick way."""
    plain = [{"id": str(number), "x": "y" * 200} for number in range(2000)]
    body = listing({"id": "a", "x": "},{"}, *plain)
    assert worked(body).slow < 0.05 * len(body)
    assert worked(listing(*plain)).slow < 0.05 * len(body)
