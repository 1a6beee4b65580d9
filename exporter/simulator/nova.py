"""The compute API, as far as names of servers go: `GET /v2.1/servers`, as its reference says that Nova answers."""

from __future__ import annotations

import re

from aiohttp import web

from exporter.simulator.answers import json_answer, title
from exporter.simulator.keystone import MESSAGES, unauthorized
from exporter.simulator.world import Refused, World

PREFIX = "/compute"
MAX_LIMIT = 1000
"""What an operator allows for a page (`[api]max_limit`)."""


class Nova:
    """Answers compute requests out of a world."""

    def __init__(self, world: World) -> None:
        """Promise: no state but the world's."""
        self.world = world

    async def answer(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Answer one request for a path below the service's root."""
        url = f"{request.scheme}://{request.host}"
        try:
            token = self.world.token(request.headers.get("X-Auth-Token"))
        except Refused:
            error = {"code": 401, "title": "Unauthorized", "message": MESSAGES[401]}
            return json_answer(401, {"error": error}, unauthorized(url))
        if (request.method, path) != ("GET", "/v2.1/servers"):
            return json_answer(404, {"itemNotFound": {"code": 404, "message": title(404)}})
        limit, marker = (request.query.get(name, "") for name in ("limit", "marker"))
        if limit and not re.fullmatch(r"\d+", limit):
            return _bad(f"Invalid input for query parameters limit. Value: {limit}.")
        # The newest first, whoever asks: an administrator too sees one project's servers only.
        ids = self.world.servers.get(token.project_id or "", [])[::-1]
        if marker:
            if marker not in ids:
                return _bad(f"marker [{marker}] not found")
            ids = ids[ids.index(marker) + 1 :]
        size = min(int(limit or MAX_LIMIT), MAX_LIMIT)
        page = ids[:size]
        servers = [
            {
                "id": each,
                "name": self.world.server_names[each],
                "links": [{"rel": "self", "href": f"{url}{PREFIX}/v2.1/servers/{each}"}],
            }
            for each in page
        ]
        body: dict[str, object] = {"servers": servers}
        if len(page) < len(ids):
            following = f"{url}{PREFIX}/v2.1/servers?limit={size}&marker={page[-1]}"
            body["servers_links"] = [{"rel": "next", "href": following}]
        return json_answer(200, body)


def _bad(message: str) -> web.Response:
    return json_answer(400, {"badRequest": {"code": 400, "message": message}})
