"""One request to a cloud and its answer: plain bytes in bounded steps, and every failure with one reason."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from yarl import URL

from exporter.common.errors import RAISE, Api, DeadlineError, DecodeError, RefreshError, TooLargeError, TransportError
from exporter.config.units import format_duration, format_size
from exporter.openstack import network

_STEP: Final = 256 * 1024
_GZIP: Final = 31  # zlib's window bits for a gzip header and trailer


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to ask for: `what` names it in messages, `limit` is the most bytes that an answer may have, decompressed
    (`limit_key`: by which key of the configuration), `silence` the longest wait for the next of them, in seconds.
    `query` are parameters to encode, `received` what earlier answers took of the limit already. Its token and its
    body never show in a repr."""

    api: Api
    what: str
    url: str | URL
    token: str | None = field(default=None, repr=False)
    limit: int
    limit_key: str
    silence: float
    query: Mapping[str, str] | None = None
    received: int = 0
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)


@asynccontextmanager
async def exchange(
    client: aiohttp.ClientSession, counted: Counter[tuple[str, str]], request: Request
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to a request, of whatever status, its body still to come (`plain`); no redirect is followed.

    RefreshError for every failure while this lasts; InvalidURL where the address is none. The status is counted, or
    `error` where there was none.
    """
    answered = False
    try:
        async with client.request(
            request.method,
            request.url,
            params=request.query,
            headers={**request.headers, **({} if request.token is None else {"X-Auth-Token": request.token})},
            data=request.body,
            allow_redirects=False,
            proxy=network.proxy_for(URL(request.url)),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=request.silence, sock_read=request.silence),
        ) as answer:
            counted[request.api, str(answer.status)] += 1
            answered = True
            yield answer
    except aiohttp.InvalidURL:
        raise
    except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError) as error:
        raise _failure(request, error) from None
    finally:
        if not answered:
            counted[request.api, "error"] += 1


async def plain(answer: aiohttp.ClientResponse, request: Request) -> AsyncGenerator[bytes, None]:
    """The plain bytes of an answer's body as they arrive; TooLargeError past the limit, DecodeError where they are
    packed in another way than was asked for."""
    body = _Body(answer.headers, request)
    size = request.received
    at_end = False
    while not at_end:
        chunk = await answer.content.readany()
        at_end = not chunk
        for part in body.parts(chunk):
            size += len(part)
            if size > request.limit:
                limit = format_size(request.limit)
                those = ", with those before it," if request.received else ""
                raise TooLargeError(
                    f"the {request.what}{those} is larger than {request.limit_key} ({limit})", api=request.api
                )
            yield part


def _failure(request: Request, error: Exception) -> RefreshError:
    api = request.api
    text = f"can't get the {request.what}: {str(error) or type(error).__name__}"
    match error:
        case aiohttp.ConnectionTimeoutError():
            limit = format_duration(request.silence)
            return DeadlineError(f"{text} (refresh.silence is {limit}; {RAISE})", api=api)
        case TimeoutError():
            return DeadlineError(
                f"can't get the {request.what}: no byte for {format_duration(request.silence)}; a large project may"
                f" need a longer refresh.silence, {RAISE}",
                api=api,
            )
        case aiohttp.ClientConnectorDNSError():
            return TransportError(text, api=api, reason="dns")
        case aiohttp.ClientSSLError():
            return TransportError(text, api=api, reason="tls")
        case _ if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
            return TransportError(text, api=api, reason="tls")
        case _:
            return TransportError(text, api=api, reason="connect")


class _Body:
    """A body's bytes as plain ones, in bounded steps whatever they expand to."""

    def __init__(self, headers: Mapping[str, str], request: Request) -> None:
        self._request = request
        encoding = headers.get("Content-Encoding", "").strip().lower()
        # RFC 1952: a gzip file is a series of members, whose texts follow each other.
        self._members = encoding in ("gzip", "x-gzip")
        match encoding:
            case "identity" | "":
                self._unpacker = None
            case "gzip" | "x-gzip":
                self._unpacker = zlib.decompressobj(wbits=_GZIP)
            case "deflate":
                self._unpacker = zlib.decompressobj()
            case _:
                raise self._error(f"has an encoding that was not asked for: {encoding!r}")

    def _error(self, text: str) -> DecodeError:
        return DecodeError(f"the {self._request.what} {text}", api=self._request.api)

    def parts(self, chunk: bytes) -> Iterator[bytes]:
        """The plain bytes of the next chunk; with an empty chunk, what was held back at the end."""
        if self._unpacker is None:
            yield chunk
            return
        rest = chunk
        try:
            while rest:
                if self._unpacker.eof:
                    if not self._members:
                        raise self._error("goes on, compressed, after its end")
                    self._unpacker = zlib.decompressobj(wbits=_GZIP)
                yield self._unpacker.decompress(rest, _STEP)
                rest = self._unpacker.unconsumed_tail or self._unpacker.unused_data
            if not chunk:
                yield self._unpacker.flush()
        except zlib.error as error:
            raise self._error(f"can't be decompressed: {error}") from None
