"""The stream decoder: any body, cut in any way, is what `json.loads` and the oracle make of it, or refused."""

import json
import random

from exporter.common.errors import DecodeError, TooLargeError
from exporter.deployments.aggregator import Aggregator
from exporter.openstack.decoder import ResponseDecoder
from tests import oracle

BATCHES = (1, 2, 16, 64, 200, 4096, 262144)
ENVELOPES = ((b"", b""), (b'{"software_deployments": [', b"]}"), (b'{"software_deployments":[{"id":"a",', b"}]}"))
SEEDS = (
    b'\x00\x00{"software_deployments": [{"id": "a", "status": "COMPLETE", "action": "CREATE"}, {"id": "b"}]}',
    b'\x08\x01{"id": "a", "server_id": "s", "output_values": {"deploy_status_code": "7"}}, 5, null, {"id": ""}',
    b'\x13\x02"creation_time": "2015-01-31T15:12:36Z", "updated_time": "2015-01-31 15:12:36.5+01:30"',
    b'\x2a\x03{"id": "a", "x": "}, {"}, {"id": "b", "x": ["]}", {"y": -1.5e+10}]}, {"id": "a"}',
    b'\x0b\x01{"id": "a", "server_id": "s", "x": [{"id": "b", "server_id": ""}, {"id": "c"}]}, {"id": "d"}',
    b'\x0a\x05{"id": "a", "x": "{\\"plays\\": [{\\"id\\": 1}, {\\"id\\": 2}]}"}, {"id": "b", "x": "}, {\\"id\\": "}',
    b'\x0c\x02{"status": "s", "id": "a"},{"id": "b", "status": "s"} ,\n{"": "", "id": "c"}, {"x}, {": ":", "id": "d"}',
    b'\x0a\x06{"id": "a", "x": "\\ud83d\\ud83d\\ude00 \\\\ud83d"}, {"id": "\\udc00", "status": "\\ud83d\\u0041 more"}',
    b'\x09\x04{"id": "\\ud800\\u00e9", "status": "\xc3\xa9\\n\\"", "status_reason": true}, [[[[]]]], "x\\\\", {}',
)  # fmt: skip
WORDS = (
    b'"software_deployments"', b'"id"', b'"server_id"', b'"status"', b'"action"', b'"config_id"',
    b'"status_reason"', b'"creation_time"', b'"updated_time"', b'"output_values"', b'"deploy_status_code"',
    b'"COMPLETE"', b'"FAILED"', b'"IN_PROGRESS"', b'"CREATE"', b'"2023-11-14T22:13:20Z"', b"null", b"true",
    b"false", b"NaN", b"-0", b"1e999", b"}, {", b"]}", b"[{", b"\\ud83d", b"\\u0000", b'\\"', b"\xef\xbb\xbf",
    b'}, {"id": "', b'", "server_id": "', b'"input_values": [{"id": "', b"\\udc00", b"\\\\", b"\xc3\xa9",
    b"18446744073709551616", b"\xed\xa0\x80",
)  # fmt: skip


def check(data: bytes) -> None:
    """The first byte says how big batches are and what is put around the rest, the second how the body is cut."""
    if len(data) < 2:
        return
    how, seed, inner = data[0], data[1], data[2:]
    start, end = ENVELOPES[how // len(BATCHES) % len(ENVELOPES)]
    body = start + inner + end
    rules = oracle.Rules(problems=3)
    decoder = ResponseDecoder(batch_bytes=BATCHES[how % len(BATCHES)])
    fold = Aggregator(rules.options(), asked_at=oracle.ASKED_AT)
    try:
        for piece in _cut(body, seed):
            for batch in decoder.feed(piece):
                fold.add(batch)
        for batch in decoder.close():
            fold.add(batch)
        refused = ""
    except (DecodeError, TooLargeError) as error:
        refused = f"refused, {error}: "
    if refused:
        assert not _readable(body), f"{refused}{body!r}"
        return
    assert oracle.is_envelope(body), f"accepted: {body!r}"
    found = oracle.fields_of(fold.finish())
    if found["rejected"].get("too_deep"):
        return  # how deep is too deep the oracle doesn't know
    expected = oracle.fields_of(oracle.count(json.loads(body)["software_deployments"], rules))
    assert found == expected, f"{body!r}: {found} instead of {expected}"


def _readable(body: bytes) -> bool:
    try:
        return oracle.is_envelope(body)
    except RecursionError:
        return False


def _cut(body: bytes, seed: int) -> list[bytes]:
    if seed < 8:
        size = (len(body) or 1, 1, 2, 3, 7, 16, 64, 300)[seed]
        return [body[at : at + size] for at in range(0, len(body), size)]
    chance = random.Random(seed)
    at = sorted(chance.randrange(len(body) + 1) for _ in range(chance.randrange(12)))
    return [body[begin:end] for begin, end in zip([0, *at], [*at, len(body)], strict=True)]
