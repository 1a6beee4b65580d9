"""Decoding one listing, `{"software_deployments": [ … ]}`, in steps as its bytes arrive.

The bytes are cut into batches of 64 KiB, which stay in the processor's cache, and whose memory the C library keeps at
hand: from 128 KiB on it asks the system for new pages each time, which takes as long as decoding them. A cut is guessed
by searching backwards for the text between two records and proved by decoding: if `[` + batch + `]` is one valid JSON
array and the batch began between two elements of the list, then so does what follows it, because the state of a JSON
parser depends on nothing but the bytes before. A guess that is wrong (inside a string or a nested object) can't
decode, and then the batch is read element by element, which is slow but linear. Memory is one batch, or one record
where that is larger.

Three tiers read a batch: all records at once into `Deployment`; where one does not fit, each by itself; and those
that still do not fit through `salvage`, which keeps all that is usable. What is not JSON ends in DecodeError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from exporter.errors import DecodeError, TooLargeError
from exporter.records import Deployment, DocumentedDeployment, Rejection, salvage
from exporter.units import format_size

BATCH_BYTES: Final = 64 * 1024
# Heat takes no request above 1 MiB, so no honest record comes near this; a longer one would hold up everything else.
RECORD_BYTES: Final = 16 * 1024 * 1024
ENVELOPE_KEY: Final = "software_deployments"

_BLANKS: Final = b" \t\n\r"
_HEAD: Final = re.compile(rb'\{[ \t\n\r]*+("(?:[^"\\\x00-\x1f]|\\.)*+")[ \t\n\r]*+:[ \t\n\r]*+(\[?)')
_HEAD_LIMIT: Final = 4096
_SEPARATOR: Final = re.compile(rb"\}[ \t\n\r]*+,[ \t\n\r]*+\{")
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+("?)|[\[\]{}]', re.DOTALL)
_BLANK_TEXT: Final = re.compile(r"[ \t\n\r]*+")
# How far before the end of an unfinished text Python's decoder may place its complaint (an escape, a literal).
_UNFINISHED: Final = 16
# What may follow an element, or stand in an element's place, before all bytes are there: nothing, the rest of a
# number, the list's end. `close` judges the end.
_UNDECIDED: Final = re.compile(r"(?:[.eE][+-]?|\][ \t\n\r]*+(?:\}[ \t\n\r]*+)?)?")
_GUESSES: Final = 2
_TOO_DEEP: Final = object()
_OPENING, _CLOSING, _COMMA = b"[],"


class Batch(NamedTuple):
    """Some records of a listing, in its order, and why others of the same stretch were rejected."""

    records: list[Deployment]
    rejected: list[Rejection]


def _not_json(name: str) -> NoReturn:
    raise DecodeError(f"the listing is not JSON: {name}")


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts: no exit code either
        return float("inf")


_ORDINARY: Final[msgspec.json.Decoder[list[Deployment]]] = msgspec.json.Decoder(list[DocumentedDeployment])
_RECORDS: Final = msgspec.json.Decoder(list[Deployment])
_RAWS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_RECORD: Final = msgspec.json.Decoder(Deployment)
_PYTHON: Final = json.JSONDecoder(parse_constant=_not_json, parse_int=_integer)


class ListingDecoder:
    """Turns the body of one listing into batches: `feed` each chunk, then `close`; iterate over what they return.

    Both return generators so that the caller can let others run between two batches. DecodeError is raised for
    anything but exactly one documented envelope, TooLargeError for a record of more than RECORD_BYTES.
    """

    def __init__(self, *, batch_bytes: int = BATCH_BYTES) -> None:
        self._batch_bytes = batch_bytes
        self._wanted = batch_bytes  # grows where one record is larger than a batch
        self._buffer = bytearray()
        self._inside = False  # past the `[`
        self._separator: bytes | None = None
        self._any = False  # an element was seen, so a comma must come before the next
        self._comma = False  # a comma was consumed; unless `_any` again, an element must come

    def feed(self, chunk: bytes) -> Iterator[Batch]:
        """The batches that are complete with these bytes."""
        step = self._batch_bytes
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
                        raise TooLargeError(f"one record of the listing is larger than {format_size(RECORD_BYTES)}")
                    self._wanted = 2 * size
                    break
                self._wanted = step

    def close(self) -> Iterator[Batch]:
        """The last batches, once the body has ended."""
        if not self._inside:
            raise DecodeError(f"the answer is not {{{ENVELOPE_KEY!r}: [...]}}: {_excerpt(self._buffer)}")
        tail = self._buffer.rstrip(_BLANKS)
        if not tail.endswith(b"}"):
            raise DecodeError("the listing breaks off or goes on after its end")
        tail = tail[:-1].rstrip(_BLANKS)
        if not tail.endswith(b"]"):
            raise DecodeError("the listing is not closed as it should be, with ]}")
        del tail[-1:]
        self._buffer = tail
        if not tail.strip(_BLANKS):
            if self._comma and not self._any:
                raise DecodeError("the listing is not JSON: a comma at its end")
            return
        self._skip_comma()
        batch = self._decode(bytes(self._buffer)) or self._walk(final=True)
        self._buffer.clear()
        if batch is not None:
            yield batch

    def _open(self) -> bool:
        """Consume the envelope up to the list; False while it is not complete."""
        buffer = self._buffer
        blanks = len(buffer) - len(buffer.lstrip(_BLANKS))
        del buffer[:blanks]
        match = _HEAD.match(buffer)
        if match is None or not match[2]:
            # Complete without a list, or certainly no envelope: say so now rather than collect the rest of it.
            if (match and match.end() < len(buffer)) or len(buffer) > _HEAD_LIMIT or (buffer and buffer[0] != 0x7B):
                raise DecodeError(f"the answer is not {{{ENVELOPE_KEY!r}: [...]}}: {_excerpt(buffer)}")
            return False
        try:
            key = json.loads(match[1])
        except ValueError:
            key = None
        if key != ENVELOPE_KEY:
            raise DecodeError(f"the answer is not {{{ENVELOPE_KEY!r}: [...]}}: {_excerpt(buffer)}")
        end = match.end()
        del match  # it holds on to the buffer, which then could not be resized
        del buffer[:end]
        self._inside = True
        return True

    def _skip_comma(self) -> None:
        """Consume the comma that separates the last batch from the next element, with the blanks around it."""
        if not self._any:
            return
        rest = self._buffer.lstrip(_BLANKS)
        if not rest.startswith(b","):
            raise DecodeError("the listing is not JSON: expected a comma between two elements")
        del rest[:1]
        if not rest.strip(_BLANKS):
            raise DecodeError("the listing is not JSON: a comma at its end")
        self._buffer = rest
        self._any, self._comma = False, True

    def _cut(self) -> Batch | None:
        """One batch from the front of a full buffer, or None where no record is complete."""
        if (batch := self._cut_in_place()) is not None:
            return batch
        self._trim()
        buffer = self._buffer
        if buffer.startswith(b"]"):
            return None  # the list has ended; `close` judges what follows
        if self._any:
            if not buffer.lstrip(_BLANKS + b","):
                return None
            self._skip_comma()
            buffer = self._buffer
        if self._separator is None and (found := _SEPARATOR.search(buffer)):
            self._separator = bytes(found[0])
            del found
        if self._separator is not None:
            end = len(buffer)
            for _ in range(_GUESSES):
                end = buffer.rfind(self._separator, 0, end)
                if end < 0:
                    break
                if (batch := self._decode(bytes(memoryview(buffer)[: end + 1]))) is not None:
                    del buffer[: end + 1]
                    self._any = True
                    return batch
            self._separator = None  # perhaps it was found inside a string: look for another one
        return self._walk(final=False)

    def _cut_in_place(self) -> Batch | None:
        """The ordinary batch, read where it lies: from the comma after the last one, which stands in for `[`, to one
        that is for the moment a `]`. None, with nothing changed, where it is not ordinary."""
        buffer, separator = self._buffer, self._separator
        if not (self._any and separator is not None and separator.startswith(b"},") and buffer.startswith(b",")):
            return None
        end = buffer.rfind(separator) + 1
        if end <= 0 or not buffer.isascii():
            return None
        buffer[0], buffer[end] = _OPENING, _CLOSING
        try:
            with memoryview(buffer) as whole, whole[: end + 1] as array:
                batch = Batch(_ORDINARY.decode(array), [])
        except (msgspec.DecodeError, RecursionError):
            batch = None
        buffer[0] = buffer[end] = _COMMA
        if batch is not None:
            del buffer[:end]
        return batch

    def _trim(self) -> None:
        """Forget blanks between two elements and after the list: however many there are, they mean nothing."""
        if self._buffer.startswith(b"{"):
            return  # nearly always, and of much text no copies are made
        stripped = self._buffer.strip(_BLANKS)
        marks = bytes(stripped[:_UNFINISHED]).translate(None, _BLANKS)
        if len(stripped) < _UNFINISHED and marks in (b"", b",", b"]", b"]}"):
            self._buffer = bytearray(marks)
        else:
            del self._buffer[: len(self._buffer) - len(self._buffer.lstrip(_BLANKS))]

    def _decode(self, elements: bytes) -> Batch | None:
        """All of some whole elements, or None if they are not such (or only the slow way can tell)."""
        array = b"[%b]" % elements
        if not array.isascii():
            try:  # the decoder passes over text that it does not keep without looking at its encoding
                array.decode()
            except UnicodeDecodeError as error:
                raise DecodeError(f"the listing is not UTF-8: {error.reason}") from None
        try:
            return Batch(_RECORDS.decode(array), [])
        except msgspec.ValidationError:
            pass  # valid so far, but one record does not fit
        except (msgspec.DecodeError, RecursionError):
            return None
        try:
            raws = _RAWS.decode(array)
        except (msgspec.DecodeError, RecursionError):
            return None
        batch = Batch([], [])
        for raw in raws:
            try:
                batch.records.append(_RECORD.decode(raw))
            except msgspec.DecodeError:
                try:
                    item = _PYTHON.decode(bytes(raw).decode())
                except RecursionError:  # Python's decoder gives up a few levels earlier
                    batch.rejected.append("too_deep")
                else:
                    self._keep(batch, item)
        return batch

    @staticmethod
    def _keep(batch: Batch, item: Any) -> None:
        found = salvage(item)
        if isinstance(found, Deployment):
            batch.records.append(found)
        else:
            batch.rejected.append(found)

    def _walk(self, *, final: bool) -> Batch | None:
        """Read the buffer element by element; what is incomplete stays in it, None where all is."""
        text = self._text(final=final)
        batch = Batch([], [])
        position = done = 0
        while True:
            start = _BLANK_TEXT.match(text, position).end()  # type: ignore[union-attr]  # it matches everywhere
            if not final and _UNDECIDED.fullmatch(text, start):
                break
            try:
                item, end = _PYTHON.raw_decode(text, start)
            except JSONDecodeError as error:
                unfinished = error.msg.startswith("Unterminated string") or error.pos >= len(text) - _UNFINISHED
                if final or not unfinished:
                    raise DecodeError(f"the listing is not JSON: {error.msg}") from None
                break
            except RecursionError:
                item = _TOO_DEEP
                end = _end_of(text, start)
                if end < 0:
                    if final:
                        raise DecodeError("the listing is not JSON: unbalanced and too deep") from None
                    break
            after = _BLANK_TEXT.match(text, end).end()  # type: ignore[union-attr]
            undecided = not final and _UNDECIDED.fullmatch(text, after)
            if undecided and text[start] not in '{["':
                break  # nothing proves that a number is whole
            if not undecided and after < len(text) and text[after] != ",":
                raise DecodeError("the listing is not JSON: expected a comma between two elements")
            if item is _TOO_DEEP:
                batch.rejected.append("too_deep")
            else:
                self._keep(batch, item)
            done = end
            if undecided or after == len(text):
                break
            position = after + 1
        if done:
            del self._buffer[: len(text[:done].encode())]
            self._any = True
        return batch if done else None

    def _text(self, *, final: bool) -> str:
        try:
            return self._buffer.decode()
        except UnicodeDecodeError as error:
            # A character may still be on its way.
            if final or error.start < len(self._buffer) - 3:
                raise DecodeError(f"the listing is not UTF-8: {error.reason}") from None
            return self._buffer[: error.start].decode()


def _end_of(text: str, start: int) -> int:
    """Where the nested value that starts here ends, by counting brackets; -1 if it does not end within the text."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        match token[0]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
                if depth == 0:
                    return token.end()
            case _ if not token[1]:  # a string that has not ended yet
                return -1
    return -1


def _excerpt(data: bytes | bytearray) -> str:
    """The first few bytes of an answer that is no listing, for a message (it holds no records yet)."""
    return repr(bytes(data[:60]).decode("utf-8", "replace"))
