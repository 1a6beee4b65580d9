"""Asking Heat for a project's deployments, all of them or one server's: one request, its body decoded as it arrives."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

from exporter.common.errors import DecodeError
from exporter.deployments.records import Batch
from exporter.openstack.decoder import ResponseDecoder
from exporter.openstack.project_request import Request, fetch
from exporter.openstack.session import CloudSession, Token


class Listing:
    """One `GET …/software_deployments`. Iterate over `batches()` once; `size` is then the body's, decompressed.

    With a `server`, only its deployments are asked for; `received` is what the listings of other servers took of the
    limit already.
    """

    def __init__(
        self,
        access: CloudSession,
        token: Token,
        *,
        limit: int,
        silence: float,
        server: str | None = None,
        received: int = 0,
    ) -> None:
        self._access = access
        self._token = token
        self._limit = limit
        self._silence = silence
        self._server = server
        self._received = received
        self._usable = 0
        self._rejected: Counter[str] = Counter()
        self.size = 0
        self.foreign = 0
        """How many records were left out because they are not of the server that was asked for."""

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The records as they arrive. RefreshError for every failure; others run between two batches."""
        request = Request(
            api="orchestration",
            what="list of software deployments" + ("" if self._server is None else f" of server {self._server!r:.80}"),
            url=f"{self._access.endpoint(self._token, 'orchestration')}/software_deployments",
            token=self._token.value,
            limit=self._limit,
            limit_key="limits.response_bytes",
            silence=self._silence,
            query=None if self._server is None else {"server_id": self._server},
            received=self._received,
        )
        decoder = ResponseDecoder()
        async with aclosing(fetch(self._access, request)) as parts:
            async for part in parts:
                self.size += len(part)
                for batch in decoder.feed(part):
                    yield self._wanted(batch)
                    await asyncio.sleep(0)
        for batch in decoder.close():
            yield self._wanted(batch)
        if self._rejected and not self._usable:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self._rejected.items())
            raise DecodeError(f"not one record of the listing is usable ({reasons})")

    def _wanted(self, batch: Batch) -> Batch:
        """The batch without what a cloud that knows no such filter sends of other servers, which is usable all the
        same."""
        self._usable += len(batch.records)
        self._rejected.update(batch.rejected)
        if self._server is None:
            return batch
        records = [record for record in batch.records if record.server_id == self._server]
        self.foreign += len(batch.records) - len(records)
        return batch._replace(records=records)
