"""The orchestration API: software deployments and software configs, as Heat answers, from 19 to 26."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, NoReturn

from aiohttp import web

from exporter.simulator.answers import json_answer, not_found, title
from exporter.simulator.keystone import MESSAGES, unauthorized
from exporter.simulator.world import Config, Deployment, Refused, Token, World, timestamp

EXPLANATIONS = {
    400: "The server could not comply with the request since it is either malformed or otherwise incorrect.",
    403: "Access was denied to this resource.",
    404: "The resource could not be found.",
    405: "The server could not comply with the request since it is either malformed or otherwise incorrect.",
    500: "The server has either erred or is incapable of performing the requested operation.",
}
RENDERED_AT_ONCE = 1000
"""Deployments made into JSON before others have a turn: under 10 ms."""
PIECE = 1 << 18


def refuse(code: int, kind: str, message: str | None = None) -> NoReturn:
    """End the request with an error of the class that Heat would name."""
    raise Refused(code, message or "", type=kind)


class Heat:
    """Answers orchestration requests out of a world."""

    def __init__(self, world: World) -> None:
        """Promise: no state but the world's."""
        self.world = world

    async def answer(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        """Answer one request for a path below the service's root."""
        url = f"{request.scheme}://{request.host}"
        if not re.match(r"/v1(/|$)", path):
            links = [{"rel": "self", "href": f"{url}/heat/v1/"}]
            return json_answer(300, {"versions": [{"id": "v1.0", "status": "CURRENT", "links": links}]})
        try:
            token = self.world.token(request.headers.get("X-Auth-Token"))
        except Refused:
            error = {"code": 401, "title": "Unauthorized", "message": MESSAGES[401]}
            return json_answer(401, {"error": error}, unauthorized(url))
        try:
            return await self._dispatch(request, path, token)
        except Refused as refused:
            error = {"type": refused.extra["type"], "traceback": None}
            if refused.message:
                error["message"] = refused.message
            body = {"code": refused.code, "title": title(refused.code)}
            return json_answer(refused.code, {**body, "explanation": EXPLANATIONS[refused.code], "error": error})

    async def _dispatch(self, request: web.BaseRequest, path: str, token: Token) -> web.StreamResponse:
        for pattern, methods in ROUTES:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if request.method == "OPTIONS":
                return web.Response(status=204, headers={"Allow": ",".join(methods)})
            if request.method not in methods:
                refuse(405, "HTTPMethodNotAllowed", EXPLANATIONS[405])
            found = match.groupdict()
            # An admin's token passes whatever project the URL names, and then sees all of them.
            admin = self.world.is_administrator(token)
            if found.pop("project_id") != token.project_id and not admin:
                refuse(403, "HTTPForbidden", EXPLANATIONS[403])
            sees = None if admin else token.project_id
            handler = getattr(self, methods[request.method])
            response: web.StreamResponse = await handler(request, token, sees, **found)
            return response
        return not_found(request.headers.get("Accept", ""))

    @staticmethod
    async def _body(request: web.BaseRequest) -> dict[str, Any]:
        try:
            body = json.loads(await request.read() or b"null")
        except ValueError as error:
            refuse(400, "HTTPBadRequest", str(error))
        if not isinstance(body, dict):
            refuse(400, "HTTPBadRequest", EXPLANATIONS[400])
        return body

    @staticmethod
    def _last(request: web.BaseRequest, name: str) -> str | None:
        """Return a query parameter; of a repeated one Heat takes the last."""
        values = request.query.getall(name, [])
        return values[-1] if values else None

    # -- deployments

    async def list_deployments(self, request: web.BaseRequest, _token: Token, sees: str | None) -> web.StreamResponse:
        """Send the whole list in one body: silence until it is ready, then as fast as the plan says."""
        server_id = self._last(request, "server_id")
        pieces = []
        escaped = self.world.plan.output_style != "unicode"
        for number, deployment in enumerate(self.world.visible(sees, server_id), 1):
            pieces.append(deployment.render(escaped=escaped))
            if number % RENDERED_AT_ONCE == 0:
                await asyncio.sleep(0)
        pieces += self.world.raw(sees, server_id)
        if self.world.plan.delay_per_deployment:
            await asyncio.sleep(self.world.plan.delay_per_deployment * len(pieces))
        return await self._send(request, b'{"software_deployments": [', pieces, b"]}")

    async def _send(
        self, request: web.BaseRequest, start: bytes, pieces: list[bytes], end: bytes
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(start) + sum(map(len, pieces)) + 2 * max(0, len(pieces) - 1) + len(end)
        await response.prepare(request)
        pace = self.world.plan.bytes_per_second
        await response.write(start)
        chunk: list[bytes] = []
        size = 0
        limit = min(PIECE, max(1, int(pace / 10))) if pace else PIECE
        for index, piece in enumerate(pieces):
            chunk.append(piece)
            size += len(piece)
            last = index == len(pieces) - 1
            if size >= limit or last:
                await response.write(b", ".join(chunk) + (b"" if last else b", "))
                if pace:
                    await asyncio.sleep(size / pace)
                chunk, size = [], 0
        await response.write(end)
        await response.write_eof()
        return response

    def _deployment(self, sees: str | None, id: str) -> Deployment:
        deployment = self.world.deployments.get(id)
        if deployment is None or sees not in (None, deployment.project_id, deployment.stack_user_project_id):
            refuse(404, "NotFound", "Deployment with id {} not found")
        return deployment

    async def show_deployment(
        self, _request: web.BaseRequest, _token: Token, sees: str | None, id: str
    ) -> web.Response:
        """Show one deployment; a real Heat would also fetch signals here, so the exporter never calls it."""
        return json_answer(200, {"software_deployment": self._deployment(sees, id).body()})

    def _check_config(self, config_id: object) -> None:
        if config_id not in self.world.configs:
            refuse(400, "AttributeError")

    async def create_deployment(self, request: web.BaseRequest, token: Token, _sees: str | None) -> web.StreamResponse:
        """Make a deployment; server, status and action are any text."""
        body = await self._body(request)
        if body.get("config_id") is None or body.get("server_id") is None:
            refuse(500, "DBError")
        self._check_config(body["config_id"])
        deployment = self.world.add_deployment(
            token.project_id or "",
            body["server_id"],
            body["config_id"],
            action=body.get("action"),
            status=body.get("status"),
            status_reason=str(body.get("status_reason")),
            input_values=body.get("input_values") or {},
            stack_user_project_id=body.get("stack_user_project_id"),
        )
        return json_answer(200, {"software_deployment": deployment.body()})

    async def update_deployment(
        self, request: web.BaseRequest, _token: Token, sees: str | None, id: str
    ) -> web.Response:
        """Change a deployment; what is empty or absent stays as it was, so old outputs outlive a new run's start."""
        body = await self._body(request)
        deployment = self._deployment(sees, id)
        names = ("config_id", "input_values", "output_values", "action", "status", "status_reason")
        changes = {name: body[name] for name in names if body.get(name)}
        if "config_id" in changes:
            self._check_config(changes["config_id"])
        if "status_reason" in changes:
            changes["status_reason"] = str(changes["status_reason"])
        self.world.update(deployment.id, **changes)
        return json_answer(200, {"software_deployment": deployment.body()})

    async def delete_deployment(
        self, _request: web.BaseRequest, _token: Token, sees: str | None, id: str
    ) -> web.Response:
        """Remove a deployment."""
        self.world.remove(self._deployment(sees, id).id)
        return web.Response(status=204)

    # -- configs

    @staticmethod
    def _config_body(config: Config, *, detail: bool = True) -> dict[str, object]:
        body: dict[str, object] = {
            "id": config.id,
            "name": config.name,
            "group": config.group,
            "creation_time": timestamp(config.created),
        }
        return body | config.detail if detail else body

    async def list_configs(self, request: web.BaseRequest, _token: Token, sees: str | None) -> web.Response:
        """List configs, newest first, a page at a time if a limit is given; an unknown marker is ignored."""
        if (self._last(request, "global_tenant") or "false").lower() == "true":
            refuse(403, "Forbidden", "You are not authorized to use software_configs:global_index.")
        configs = [config for config in self.world.configs.values() if sees in (None, config.project_id)]
        configs.sort(key=lambda config: (config.created, config.id), reverse=True)
        marker = self.world.configs.get(self._last(request, "marker") or "")
        if marker is not None:
            after = (marker.created, marker.id)
            configs = [config for config in configs if (config.created, config.id) < after]
        limit = self._last(request, "limit")
        if limit is not None:
            if not re.fullmatch(r"-?\d+", limit):
                refuse(400, "HTTPBadRequest", "Only integer is acceptable by 'limit'.")
            if int(limit) < 0:
                only = "which only accepts non-negative integer"
                refuse(400, "HTTPBadRequest", f"Value '{limit}' is invalid for 'limit' {only}.")
            configs = configs[: int(limit)]
        bodies = [self._config_body(config, detail=False) for config in configs]
        if sees is None:
            for body, config in zip(bodies, configs, strict=True):
                body["project"] = config.project_id
        return json_answer(200, {"software_configs": bodies})

    def _config(self, sees: str | None, id: str) -> Config:
        config = self.world.configs.get(id)
        if config is None or sees not in (None, config.project_id):
            refuse(404, "NotFound", "Software config with id {} not found")
        return config

    async def show_config(self, _request: web.BaseRequest, _token: Token, sees: str | None, id: str) -> web.Response:
        """Show one config."""
        return json_answer(200, {"software_config": self._config_body(self._config(sees, id))})

    async def create_config(self, request: web.BaseRequest, token: Token, _sees: str | None) -> web.Response:
        """Make a config."""
        body = await self._body(request)
        config = self.world.add_config(token.project_id or "", body.get("name"), body.get("group"))
        config.detail = {
            "config": body.get("config"),
            "inputs": [{"type": "String", **given} for given in body.get("inputs") or ()],
            "outputs": [{"type": "String", "error_output": False, **given} for given in body.get("outputs") or ()],
            "options": body.get("options") or {},
        }
        return json_answer(200, {"software_config": self._config_body(config)})

    async def delete_config(self, _request: web.BaseRequest, _token: Token, sees: str | None, id: str) -> web.Response:
        """Remove a config that no deployment uses."""
        config = self._config(sees, id)
        if any(deployment.config_id == id for deployment in self.world.deployments.values()):
            message = f"Software config with id {id} can not be deleted as it is referenced."
            refuse(500, "InvalidRestrictedAction", message)
        del self.world.configs[config.id]
        return web.Response(status=204)


_ROOT = r"/v1/(?P<project_id>[^/]+)"
ROUTES = tuple(
    (re.compile(_ROOT + pattern), methods)
    for pattern, methods in (
        (r"/software_deployments", {"GET": "list_deployments", "POST": "create_deployment"}),
        (
            r"/software_deployments/(?P<id>[^/]+)",
            {"GET": "show_deployment", "PUT": "update_deployment", "DELETE": "delete_deployment"},
        ),
        (r"/software_configs", {"GET": "list_configs", "POST": "create_config"}),
        (r"/software_configs/(?P<id>[^/]+)", {"GET": "show_config", "DELETE": "delete_config"}),
    )
)
