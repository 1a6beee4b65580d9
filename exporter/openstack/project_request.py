"""One GET of a cloud's API with a project's token: the plain bytes of its answer, which has to be a 200."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

import aiohttp

from exporter.common.errors import AnswerError, Api
from exporter.openstack.http_client import Request, exchange, plain
from exporter.openstack.session import CloudSession

__all__ = ["Request", "fetch"]

_SERVICES: Final[Mapping[Api, str]] = {"orchestration": "Heat", "compute": "Nova", "identity": "Keystone"}


async def fetch(access: CloudSession, request: Request) -> AsyncGenerator[bytes, None]:
    """The plain bytes of an answer of 200, others having a turn after each piece; RefreshError for every failure."""
    try:
        async with exchange(access.client, access.traffic.requests, request) as answer:
            if answer.status != 200:
                raise AnswerError(
                    f"{_SERVICES[request.api]} answered {answer.status} {answer.reason or ''}".rstrip(),
                    api=request.api,
                    status=answer.status,
                    retry_after=answer.headers.get("Retry-After"),
                    date=answer.headers.get("Date"),
                )
            async with aclosing(plain(answer, request)) as parts:
                async for part in parts:
                    yield part
                    await asyncio.sleep(0)  # let others run, also where nobody made anything of it
    except aiohttp.InvalidURL:
        raise access.no_endpoint(request.api) from None
