"""Asking Heat for a project's deployments: one request, its body decoded as it arrives, every failure one reason."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Final

import aiohttp

from exporter.access import CloudAccess, Token
from exporter.errors import AnswerError, DeadlineError, DecodeError, RefreshError, TooLargeError, TransportError
from exporter.listing import Batch, ListingDecoder
from exporter.units import format_duration, format_size

_API: Final = "orchestration"
_STEP: Final = 256 * 1024


class Listing:
    """One `GET …/software_deployments`. Iterate over `batches()` once; `size` is then the body's, decompressed."""

    def __init__(self, access: CloudAccess, token: Token, *, limit: int, silence: float) -> None:
        self._access = access
        self._token = token
        self._limit = limit
        self._silence = silence
        self.size = 0

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The records as they arrive. RefreshError for every failure; others run between two batches."""
        if not self._token.endpoint:
            raise self._access.no_endpoint()
        url = f"{self._token.endpoint}/software_deployments"
        counted = self._access.traffic.requests
        answered = False
        try:
            async with self._access.client.get(
                url,
                headers={"X-Auth-Token": self._token.value},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._silence, sock_read=self._silence),
            ) as answer:
                counted[_API, str(answer.status)] += 1
                answered = True
                if answer.status != 200:
                    raise AnswerError(
                        f"Heat answered {answer.status} {answer.reason or ''}".rstrip(),
                        api=_API,
                        status=answer.status,
                        retry_after=answer.headers.get("Retry-After"),
                    )
                decoder = ListingDecoder()
                body = _Body(answer.headers)
                at_end = False
                while not at_end:
                    chunk = await answer.content.readany()
                    at_end = not chunk
                    for part in body.parts(chunk):
                        self.size += len(part)
                        if self.size > self._limit:
                            raise TooLargeError(
                                f"the listing is larger than limits.response_bytes ({format_size(self._limit)})"
                            )
                        for batch in decoder.feed(part):
                            yield batch
                            await asyncio.sleep(0)
                        await asyncio.sleep(0)  # let others run, also where no batch is complete yet
                for batch in decoder.close():
                    yield batch
        except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            raise self._failure(error) from None
        finally:
            if not answered:
                counted[_API, "error"] += 1

    def _failure(self, error: Exception) -> RefreshError:
        text = f"can't list software deployments: {_said(error)}"
        match error:
            case aiohttp.ConnectionTimeoutError():
                return DeadlineError(f"{text} (refresh.silence is {format_duration(self._silence)})", api=_API)
            case TimeoutError():
                return DeadlineError(
                    f"can't list software deployments: no byte for {format_duration(self._silence)}; a large project"
                    " may need a longer refresh.silence",
                    api=_API,
                )
            case aiohttp.ClientConnectorDNSError():
                return TransportError(text, api=_API, reason="dns")
            case aiohttp.ClientSSLError():
                return TransportError(text, api=_API, reason="tls")
            case aiohttp.InvalidURL():
                return self._access.no_endpoint()
            case _ if isinstance(error, ssl.SSLError) or isinstance(error.__cause__, ssl.SSLError):
                return TransportError(text, api=_API, reason="tls")
            case _:
                return TransportError(text, api=_API, reason="connect")


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


class _Body:
    """A body's bytes as plain ones, in bounded steps whatever they expand to."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        encoding = headers.get("Content-Encoding", "").strip().lower()
        match encoding:
            case "identity" | "":
                self._unpacker = None
            case "gzip" | "x-gzip":
                self._unpacker = zlib.decompressobj(wbits=31)
            case "deflate":
                self._unpacker = zlib.decompressobj()
            case _:
                raise DecodeError(f"the listing has an encoding that was not asked for: {encoding!r}")

    def parts(self, chunk: bytes) -> Iterator[bytes]:
        """The plain bytes of the next chunk; with an empty chunk, what was held back at the end."""
        unpacker = self._unpacker
        if unpacker is None:
            yield chunk
            return
        rest = chunk
        try:
            while rest:
                if unpacker.eof:
                    raise DecodeError("the compressed listing goes on after its end")
                yield unpacker.decompress(rest, _STEP)
                rest = unpacker.unconsumed_tail or unpacker.unused_data
            if not chunk:
                yield unpacker.flush()
        except zlib.error as error:
            raise DecodeError(f"the listing can't be decompressed: {error}") from None
