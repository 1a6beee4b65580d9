"""Decoding one response, `{"software_deployments": [ … ]}`, in steps as its bytes arrive.

The bytes are cut into batches of 64 KiB, which stay in the processor's cache, and whose memory the C library keeps at
hand: from 128 KiB on it asks the system for new pages each time, which takes as long as decoding them.

A cut is guessed, and proved by decoding: if `[` + batch + `]` is one valid JSON array and the batch began between two
elements of the list, then so does the rest, because the state of a JSON parser depends on nothing but the bytes
before. The guess is the last place in a batch that looks like the start of an earlier record: `}, {"id": "…",
"server_id"`, with the first two keys of that record. A quote inside a text is escaped, so no text looks like that, but
a nested object can. After one wrong guess the ends of the batch's elements are found one by one (`elements`), at about
a third of the speed. Whatever the response holds, each byte is decoded a few times at most. Memory is one batch, or
one record if that is larger.

A batch whose records are all as documented is decoded in one call, in place. In other batches each record is read by
itself (`read_record`). Bytes that are not JSON end in DecodeError.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Final

import msgspec

from exporter.common.errors import DecodeError, TooLargeError
from exporter.config.units import format_size
from exporter.deployments.records import Batch, Deployment, DocumentedDeployment, read_record
from exporter.openstack.elements import DeepElement, find_end

BATCH_BYTES: Final = 64 * 1024
# Heat takes no request above 1 MiB, so no honest record comes near this; a longer one would hold up everything else.
RECORD_BYTES: Final = 16 * 1024 * 1024
ENVELOPE_KEY: Final = "software_deployments"

_BLANKS: Final = b" \t\n\r"
_HEAD: Final = re.compile(rb'\{[ \t\n\r]*+("[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*")[ \t\n\r]*+:[ \t\n\r]*+(\[?)')
_HEAD_LIMIT: Final = 4096
# Between two records: up to the first key of the second one, and its second key if the first value is a plain text.
_BOUNDARY: Final = re.compile(
    rb'(\}[ \t\n\r]*+,[ \t\n\r]*+\{[ \t\n\r]*+"[^"\\]*+"[ \t\n\r]*+:)'
    rb'(?:[ \t\n\r]*+"[^"\\]*+"[ \t\n\r]*+,[ \t\n\r]*+("[^"\\]*+"))?'
)
_BLANK: Final = re.compile(rb"[ \t\n\r]*+")
_END: Final = re.compile(rb"\][ \t\n\r]*+(?:\}[ \t\n\r]*+)?")
# Elements that are read one by one in a step, at some 5 µs each.
_ONE_BY_ONE: Final = 1000
# Places of a batch that are looked at for a cut, at 0.5 µs each.
_CANDIDATES: Final = 100
_OPENING, _CLOSING, _COMMA = b"[],"

_DOCUMENTED: Final[msgspec.json.Decoder[list[Deployment]]] = msgspec.json.Decoder(list[DocumentedDeployment])
_RECORDS: Final = msgspec.json.Decoder(list[Deployment])
_ELEMENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])


class ResponseDecoder:
    """Turns the body of one response into batches: `feed` each chunk, then `close`; iterate over what they return.

    Both return generators so that the caller can let others run between two batches; a batch may be empty. DecodeError
    is raised for anything but exactly one documented envelope, TooLargeError for a record of more than RECORD_BYTES.
    """

    def __init__(self, *, batch_bytes: int = BATCH_BYTES) -> None:
        self._batch_bytes = batch_bytes
        self._wanted = batch_bytes  # grows if one record is larger than a batch
        # The list from its bracket on; later from the byte behind the last element that was read.
        self._buffer = bytearray()
        self._first = _OPENING  # what the next element follows: the list's bracket, later a comma
        self._inside = False  # past the envelope's key
        self._ascii = True
        self._separator = b""
        self._second_key: bytes | None = None
        self._deep: DeepElement | None = None  # the element under way, if it has too many levels

    def feed(self, chunk: bytes) -> Iterator[Batch]:
        """The batches that are complete with these bytes."""
        step = self._batch_bytes
        self._ascii = self._ascii and chunk.isascii()
        view = memoryview(chunk)
        for start in range(0, len(chunk), step):
            self._buffer += view[start : start + step]
            if not self._inside and not self._open():
                continue
            while len(self._buffer) >= self._wanted:
                size = len(self._buffer)
                if (batch := self._cut()) is not None:
                    yield batch
                if len(self._buffer) == size:  # no record is complete yet
                    if size >= RECORD_BYTES:
                        raise _too_large()
                    self._wanted = 2 * size
                    break
                self._wanted = step

    def close(self) -> Iterator[Batch]:
        """The last batches, once the body has ended."""
        if not self._inside:
            raise DecodeError(f"the response is not {{{ENVELOPE_KEY!r}: [...]}}: {_excerpt(self._buffer)}")
        tail = self._buffer.rstrip(_BLANKS)
        if not tail.endswith(b"}"):
            raise DecodeError("the response is incomplete, or continues after its end")
        tail = tail[:-1].rstrip(_BLANKS)
        if not tail.endswith(b"]"):
            raise DecodeError("the response does not end with ]}")
        del tail[-1:]
        self._buffer = tail
        if self._trim() and self._deep is None and len(tail) <= 2 * self._batch_bytes:
            tail.append(_CLOSING)
            if (batch := self._decode(len(tail) - 1)) is not None:
                yield batch
                return
            del tail[-1:]
        while self._trim():
            yield self._cut_exactly(final=True) or Batch([], [])
        if bytes(self._buffer) not in (b"", b"["):
            raise DecodeError("the response is not JSON: a comma or a bracket at its end")

    def _open(self) -> bool:
        """Consume the envelope up to the list; False while it is not complete."""
        buffer = self._buffer
        blanks = len(buffer) - len(buffer.lstrip(_BLANKS))
        del buffer[:blanks]
        match = _HEAD.match(buffer)
        if match is None or not match[2]:
            # Complete without a list, or certainly no envelope: say so now rather than collect the rest of it.
            if (match and match.end() < len(buffer)) or len(buffer) > _HEAD_LIMIT or (buffer and buffer[0] != 0x7B):
                raise DecodeError(f"the response is not {{{ENVELOPE_KEY!r}: [...]}}: {_excerpt(buffer)}")
            return False
        try:
            key = json.loads(match[1])
        except ValueError:
            key = None
        if key != ENVELOPE_KEY:
            raise DecodeError(f"the response is not {{{ENVELOPE_KEY!r}: [...]}}: {_excerpt(buffer)}")
        start = match.start(2)
        del match  # it holds on to the buffer, which then could not be resized
        del buffer[:start]
        self._inside = True
        return True

    def _cut(self) -> Batch | None:
        """Consume a batch from the front of a full buffer; None if no element is complete."""
        if self._deep is None and (end := self._guess()) and (batch := self._decode(end)) is not None:
            return batch
        return self._cut_exactly(final=False) if self._trim() else None

    def _guess(self) -> int:
        """Return where the last record of a batch seems to end, 0 if no place looks like that."""
        buffer, separator = self._buffer, self._separator
        if not separator or buffer[0] != self._first:
            return 0
        if self._wanted > self._batch_bytes:  # the first record is longer than half of this
            return buffer.find(separator, max(0, self._wanted // 2 - len(separator))) + 1
        end = self._wanted
        for _ in range(_CANDIDATES):
            end = buffer.rfind(separator, 0, end)
            if end < 0:
                return 0
            found = _BOUNDARY.match(buffer, end)
            if found is not None and found[2] == self._second_key:
                return end + 1
        return 0

    def _decode(self, end: int) -> Batch | None:
        """Consume the elements up to here; None if the guess is wrong, or if many elements are not as documented.

        They are decoded in place: the bytes before and behind them are brackets meanwhile.
        """
        buffer = self._buffer
        before, behind = buffer[0], buffer[end]
        buffer[0], buffer[end] = _OPENING, _CLOSING
        try:
            with memoryview(buffer) as whole, whole[: end + 1] as array:
                self._check_encoding(array)
                batch = self._decode_array(array)
        except (msgspec.DecodeError, RecursionError):
            batch = None
        buffer[0], buffer[end] = before, behind
        if batch is not None:
            self._consume(end)
        return batch

    def _consume(self, size: int) -> None:
        del self._buffer[:size]
        self._first = _COMMA

    def _decode_array(self, array: memoryview) -> Batch | None:
        try:
            return Batch(_DOCUMENTED.decode(array), [])
        except msgspec.ValidationError:
            pass  # such as a status that is not documented
        try:
            return Batch(_RECORDS.decode(array), [])
        except msgspec.ValidationError:
            pass  # such as a time without a zone
        elements = _ELEMENTS.decode(array)
        if len(elements) > _ONE_BY_ONE:
            return None
        batch = Batch([], [])
        for element in elements:
            batch.add(read_record(element))
        return batch

    def _check_encoding(self, text: memoryview) -> None:
        """The decoder passes over texts that it does not keep without looking at their encoding."""
        if self._ascii:
            return
        try:
            codecs.utf_8_decode(text, "strict", True)
        except UnicodeDecodeError as error:
            raise DecodeError(f"the response is not UTF-8: {error.reason}") from None

    def _trim(self) -> bool:
        """Drop blanks between two elements, however many there are; whether an element is to be read then."""
        buffer = self._buffer
        if self._deep is not None:
            return True
        del buffer[: _behind_blanks(buffer, 0)]
        start = _behind_blanks(buffer, 1)
        if self._first == _OPENING and buffer[:1] == b"[" and buffer[start : start + 1] == b"]":
            del buffer[:start]  # an empty list
        if buffer[:1] == b"]":
            if not _END.fullmatch(buffer):
                raise DecodeError("the response is incomplete, or continues after its end")
            self._buffer = bytearray(bytes(buffer).translate(None, _BLANKS))
            return False
        if buffer and buffer[0] != self._first:
            raise DecodeError("the response is not JSON: expected a comma between two elements")
        if start >= len(buffer):
            del buffer[1:]
            return False
        return True

    def _cut_exactly(self, *, final: bool) -> Batch | None:
        """Consume a batch, or one larger element, by looking for each element's end; None if no element is complete."""
        if self._deep is not None:
            return self._skip(self._deep, final=final)
        batch = Batch([], [])
        try:
            with memoryview(self._buffer) as view:
                end = self._read_elements(view, batch, final=final)
        except RecursionError:
            self._deep = DeepElement()
            self._consume(1)
            return self._skip(self._deep, final=final)
        if not end:
            return None
        self._consume(end)
        return batch

    def _read_elements(self, view: memoryview, batch: Batch, *, final: bool) -> int:
        """Read elements into the batch; return where the comma or bracket behind the last one is, 0 if there is none.

        RecursionError if the first element has too many levels, DecodeError if it is not JSON.
        """
        end = 0
        size = min(len(view), self._batch_bytes)
        while end < size and (not end or view[end] == _COMMA) and batch.size < _ONE_BY_ONE:
            start = end + 1
            try:
                following = self._end(view, start, final=final)
            except (DecodeError, RecursionError):
                if end:
                    break  # those before it come first
                raise
            if following is None:
                break
            with view[start:following] as element:
                self._check_encoding(element)
                record = read_record(element)
            batch.add(record)
            if not end:
                self._learn(following)
            end = following
        return end

    def _end(self, view: memoryview, start: int, *, final: bool) -> int | None:
        """Return where the comma or bracket behind the element that starts here is, None if it has not arrived."""
        try:
            with view[start:] as elements:
                size = self._find_end(elements, final=final)
        except msgspec.DecodeError as error:
            reason = str(error).removeprefix("JSON is malformed: ").partition(" (byte")[0]
            raise DecodeError(f"the response is not JSON: {reason}") from None
        if size is None:
            return None
        end = start + size
        if end < len(view) and view[end] not in b",]":
            raise DecodeError("the response is not JSON: expected a comma between two elements")
        return end

    def _find_end(self, elements: memoryview, *, final: bool) -> int | None:
        return find_end(elements, final=final)

    def _learn(self, behind: int) -> None:
        """Take what stands between the first record and the next one for what separates records."""
        found = _BOUNDARY.match(self._buffer, self._buffer.rfind(b"}", 0, behind))
        if found is not None:
            self._separator, self._second_key = found[1], found[2]

    def _skip(self, deep: DeepElement, *, final: bool) -> Batch:
        """Consume some of an element with too many levels, at 7 MB/s if it is nothing but brackets."""
        size = deep.skip(bytes(self._buffer[: max(2, self._batch_bytes // 2)]))
        del self._buffer[:size]
        if deep.ended:
            self._deep = None
            return Batch([], ["too_deep"])
        if deep.size > RECORD_BYTES:
            raise _too_large()
        if final and not size:
            raise DecodeError("the response is not JSON: unbalanced and too deep")
        return Batch([], [])


def _behind_blanks(text: bytearray, start: int) -> int:
    return _BLANK.match(text, start).end()  # type: ignore[union-attr]  # it matches everywhere


def _too_large() -> TooLargeError:
    return TooLargeError(f"one record of the response is larger than {format_size(RECORD_BYTES)}")


def _excerpt(data: bytes | bytearray) -> str:
    """The first few bytes of a response that is not one of Heat's, for a message: it holds no records yet."""
    return repr(bytes(data[:60]).decode("utf-8", "replace"))
