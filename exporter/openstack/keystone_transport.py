"""What a thread wants from Keystone, asked for by our own connections: bounded in time and in size."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Final, NamedTuple

import aiohttp
from yarl import URL

from exporter.common.errors import RefreshError, TransportError
from exporter.common.threads import wait_for_loop
from exporter.openstack.http_client import Request, exchange, plain

# Of a token with a large catalog, or of a list of a hundred thousand projects.
ANSWER_BYTES: Final = 32 * 1024 * 1024
# Of an answer whose status says that it failed, as much is read as may explain it, and for so many seconds.
EXPLANATION_BYTES: Final = 64 * 1024
EXPLANATION_TIME: Final = 2.0


class Reply(NamedTuple):
    """An answer, all of it."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class KeystoneTransport:
    """One call in a thread: each of its requests is sent here in the event loop, `admitted` before all but the first.

    `what` it wants is for messages. Made in the event loop; ended there too, and then nothing of it is left: a request
    under way is given up, and the thread gets a RuntimeError.
    """

    def __init__(
        self,
        *,
        what: str,
        silence: float,
        client: aiohttp.ClientSession,
        counted: Counter[tuple[str, str]],
        admitted: Callable[[], Awaitable[None]],
    ) -> None:
        self.what = what
        self.reply: Reply | None = None
        """The latest one."""
        self._silence = silence
        self._client = client
        self._counted = counted
        self._admitted = admitted
        self._loop = asyncio.get_running_loop()
        self._first = True
        self._ended = False
        self._task: asyncio.Task[Reply] | None = None

    def ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Reply:
        """Called in the thread: the answer to a request, of whatever status. RefreshError where there is none."""
        address = URL(url, encoded=True)
        request = Request(
            api="identity",
            what=self.what,
            url=address.with_user(None),  # what stands there is in a header already
            limit=ANSWER_BYTES,
            limit_key="an answer of Keystone may be",
            silence=self._silence,
            method=method,
            headers=headers,
            body=body,
        )
        return wait_for_loop(self._loop, lambda: self._send(request))

    def end(self) -> None:
        """Give up what is under way."""
        self._ended = True
        if self._task is not None:
            self._task.cancel()

    async def _send(self, request: Request) -> Reply:
        if self._ended:
            raise RuntimeError("nobody waits for it any more")
        self._task = asyncio.current_task()
        if not self._first:
            await self._admitted()
        self._first = False
        try:
            async with exchange(self._client, self._counted, request) as answer:
                read = self._explanation if answer.status >= 400 else self._whole
                self.reply = Reply(answer.status, answer.reason or "", answer.headers, await read(answer, request))
                return self.reply
        except aiohttp.InvalidURL as error:
            raise TransportError(
                f"can't get the {self.what}: no address: {error}", api="identity", reason="connect"
            ) from None

    @staticmethod
    async def _whole(answer: aiohttp.ClientResponse, request: Request) -> bytes:
        body = bytearray()
        try:
            async with aclosing(plain(answer, request)) as parts:
                async for part in parts:
                    body += part
        except BaseException:
            body.clear()  # tasks keep the frames that their errors came through
            raise
        return bytes(body)

    @staticmethod
    async def _explanation(answer: aiohttp.ClientResponse, request: Request) -> bytes:
        """As much of the body as there is: the status alone says what to make of the answer."""
        body = bytearray()
        with suppress(TimeoutError, RefreshError, aiohttp.ClientError, OSError, ValueError):
            async with asyncio.timeout(EXPLANATION_TIME), aclosing(plain(answer, request)) as parts:
                async for part in parts:
                    body += part
                    if len(body) >= EXPLANATION_BYTES:
                        break
        return bytes(body[:EXPLANATION_BYTES])
