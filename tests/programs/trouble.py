"""Ways in which a server breaks an answer, as handlers for the simulated cloud or for a server in front of it."""

import asyncio
import zlib
from collections.abc import Iterator, Mapping

from aiohttp import web

from tests.harness import Handler, Hold, answering

PIECE = 1024 * 1024
JSON = {"Content-Type": "application/json"}


async def hang_up(request: web.BaseRequest) -> web.StreamResponse:
    """Answer nothing and reset the connection."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def cut(
    body: bytes, *, abort: bool, chunked: bool = False, status: int = 200, headers: Mapping[str, str] = JSON
) -> Handler:
    """The first half of a body, and then the connection ends: closed properly, or reset."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.abort() if abort else request.transport.close()
        return response

    return handler


def trickling(body: bytes, *, pause: float, status: int = 200, headers: Mapping[str, str] = JSON) -> Handler:
    """A body that comes byte by byte, then blank by blank, and never ends."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        for number in range(10**9):
            await response.write(body[number : number + 1] or b" ")
            await asyncio.sleep(pause)
        return response

    return handler


def falling_silent(body: bytes, *, headers: Mapping[str, str] = JSON) -> Handler:
    """The first half of a body, and then nothing more."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        await Hold()(request)
        return response

    return handler


def packed(
    body: bytes, encoding: str = "gzip", *, wbits: int = 31, status: int = 200, headers: Mapping[str, str] | None = None
) -> Handler:
    """A compressed answer."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    content = packer.compress(body) + packer.flush()
    return answering(status, content, headers={"Content-Encoding": encoding, **(headers or {})})


def bomb(head: bytes, size: int, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Handler:
    """A small compressed answer that expands to a body of more than `size` bytes: its head, then blanks."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = b" " * PIECE
    content = packer.compress(head) + b"".join(packer.compress(block) for _ in range(-(-size // PIECE)))
    content += packer.flush()
    assert len(content) < size / 500
    return answering(status, content, headers={"Content-Encoding": "gzip", **(headers or {})})


def endless(head: bytes, *, status: int = 200, headers: Mapping[str, str] = JSON) -> Handler:
    """A body that goes on, as fast as it is taken, for as long as anybody takes it."""

    def pieces() -> Iterator[bytes]:
        yield head
        while True:
            yield b" " * PIECE

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        for piece in pieces():
            await response.write(piece)
        return response

    return handler


def mismeasured(body: bytes, *, by: int, status: int = 200, headers: Mapping[str, str] = JSON) -> Handler:
    """A whole body whose Content-Length is wrong by so many bytes; then the connection ends."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        lines = [f"HTTP/1.1 {status} OK", f"Content-Length: {len(body) + by}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        assert request.transport is not None
        request.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        request.transport.close()
        return web.Response()

    return handler
