"""Asking Heat for a project's deployments: one request, its body decoded as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from exporter.access import CloudAccess, Token
from exporter.fetch import Request, fetch
from exporter.listing import Batch, ListingDecoder


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
        request = Request(
            api="orchestration",
            what="list of software deployments",
            url=f"{self._access.endpoint(self._token, 'orchestration')}/software_deployments",
            token=self._token.value,
            limit=self._limit,
            limit_key="limits.response_bytes",
            silence=self._silence,
        )
        decoder = ListingDecoder()
        async with aclosing(fetch(self._access, request)) as parts:
            async for part in parts:
                self.size += len(part)
                for batch in decoder.feed(part):
                    yield batch
                    await asyncio.sleep(0)
        for batch in decoder.close():
            yield batch
