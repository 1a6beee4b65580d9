"""Pieces of a page, plain and compressed: deflate streams that can stand in any order, and one gzip member made
of them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final, NamedTuple

from isal import isal_zlib

_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_BLOCK: Final = b"\x03\x00"


class Deflated(NamedTuple):
    """A deflate stream that ends in a full flush, with the CRC and the size of what it decompresses to."""

    stream: bytes
    crc: int
    size: int


class GzipMember(NamedTuple):
    """Some bytes of a page, plain and compressed."""

    plain: bytes
    deflated: Deflated


def piece(plain: bytes) -> GzipMember:
    """A piece of these bytes."""
    compressor = isal_zlib.compressobj(level=1, wbits=-15)
    stream = compressor.compress(plain) + compressor.flush(isal_zlib.Z_FULL_FLUSH)
    return GzipMember(plain, Deflated(stream, isal_zlib.crc32(plain), len(plain)))


def joined(parts: Iterable[Deflated]) -> Deflated:
    """The parts, one after the other, as one stream."""
    every = list(parts)
    return Deflated(b"".join(part.stream for part in every), *_sums(every))


def _sums(parts: Iterable[Deflated]) -> tuple[int, int]:
    """The CRC and the size of what the parts decompress to, one after the other."""
    crc = size = 0
    for part in parts:
        crc = isal_zlib.crc32_combine(crc, part.crc, part.size)
        size += part.size
    return crc, size


def gzip_parts(*parts: Deflated) -> tuple[bytes, ...]:
    """What has to be sent one after the other to make a `gzip_member` of these parts, whose bytes are not copied."""
    crc, size = _sums(parts)
    trailer = struct.pack("<II", crc & 0xFFFFFFFF, size & 0xFFFFFFFF)
    return (_GZIP_HEADER, *(part.stream for part in parts), _LAST_BLOCK + trailer)


def gzip_member(*parts: Deflated) -> bytes:
    """One gzip member that decompresses to what the parts do, one after the other."""
    return b"".join(gzip_parts(*parts))


def plain(parts: Iterable[GzipMember | bytes]) -> tuple[bytes, ...]:
    """The bytes of some parts."""
    return tuple(part if isinstance(part, bytes) else part.plain for part in parts)


def deflated(parts: Iterable[GzipMember | bytes]) -> Deflated:
    """The same, compressed: what is a piece is so already."""
    streams: list[Deflated] = []
    for ready, group in groupby(parts, lambda part: isinstance(part, GzipMember)):
        if ready:
            streams += (part.deflated for part in group if isinstance(part, GzipMember))
        else:
            streams.append(piece(b"".join(part for part in group if isinstance(part, bytes))).deflated)
    return joined(streams)


def together(parts: Iterable[bytes], *, least: int) -> Iterator[bytes]:
    """The parts, neighbours that are smaller than this joined."""
    small: list[bytes] = []
    for part in parts:
        if len(part) < least:
            small.append(part)
            continue
        if small:
            yield b"".join(small)
            small.clear()
        yield part
    if small:
        yield b"".join(small)
