"""The identity API: version documents, tokens, and the few admin calls that make a cloud change."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from exporter.simulator.answers import json_answer, page, title
from exporter.simulator.authentication import authenticate, describe, forbidden, missing, part, services
from exporter.simulator.world import DEFAULT_DOMAIN, Project, Refused, Token, UnknownToken, World

MESSAGES = {
    401: "The request you have made requires authentication.",
    403: "You are not authorized to perform the requested action.",
}


def unauthorized(url: str) -> dict[str, str]:
    """Return the header that tells where to authenticate."""
    return {"WWW-Authenticate": f'Keystone uri="{url}/v3"'}


class Keystone:
    """Answers identity requests out of a world, as Keystone 22 would."""

    def __init__(self, world: World) -> None:
        """Promise: no state but the world's."""
        self.world = world

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        url = f"{request.scheme}://{request.host}"
        try:
            response = await self._dispatch(request, url)
        except Refused as refused:
            message = refused.message or MESSAGES[refused.code]
            error = {"code": refused.code, "message": message, "title": title(refused.code), **refused.extra}
            response = json_answer(refused.code, {"error": error}, unauthorized(url) if refused.code == 401 else None)
        response.headers["Vary"] = "X-Auth-Token"
        return response

    async def _dispatch(self, request: web.BaseRequest, url: str) -> web.Response:
        known = False
        for method, pattern, name in ROUTES:
            match = pattern.fullmatch(request.path)
            known = known or match is not None
            if match and method == ("GET" if request.method == "HEAD" else request.method):
                response: web.Response = await getattr(self, name)(request, url, **match.groupdict())
                return response
        return json_answer(405, {"message": "The method is not allowed for the requested URL."}) if known else page(404)

    # -- who asks, may they, and for what

    def _caller(self, request: web.BaseRequest) -> Token:
        """Return the token that a request shows; one that ended is a 401, one of a disabled project a 404."""
        try:
            return self.world.token(request.headers.get("X-Auth-Token"))
        except UnknownToken as unknown:
            raise Refused(401) from unknown

    def _allow(self, request: web.BaseRequest, action: str, *, project_id: str = "") -> None:
        """Let an admin pass, and who has a token for this project; refuse others with 403."""
        token = self._caller(request)
        if token.project_id != project_id and "admin" not in self.world.worth(token):
            raise forbidden(f"identity:{action}")

    @staticmethod
    async def _body(request: web.BaseRequest) -> dict[str, Any]:
        text = await request.read()
        if text and request.content_type != "application/json":
            raise missing("application/json", "Content-Type header")
        try:
            body = json.loads(text or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise missing("valid JSON", "request body")
        return body

    # -- version documents

    @staticmethod
    def _version(url: str) -> dict[str, object]:
        media = {"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}
        links = [{"rel": "self", "href": f"{url}/v3/"}]
        about = {"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z"}
        return {**about, "links": links, "media-types": [media]}

    async def versions(self, _request: web.BaseRequest, url: str) -> web.Response:
        """Say which versions there are."""
        return json_answer(300, {"versions": {"values": [self._version(url)]}}, {"Location": f"{url}/v3/"})

    async def version(self, _request: web.BaseRequest, url: str) -> web.Response:
        """Describe version 3."""
        return json_answer(200, {"version": self._version(url)})

    # -- tokens

    async def issue_token(self, request: web.BaseRequest, url: str) -> web.Response:
        """Authenticate."""
        body = await self._body(request)
        if self.world.plan.auth_delay:
            await asyncio.sleep(self.world.plan.auth_delay)
        token = authenticate(self.world, body)
        about = describe(self.world, token, url, catalog="nocatalog" not in request.query)
        return json_answer(201, about, {"X-Subject-Token": token.id})

    def _subject(self, request: web.BaseRequest, action: str) -> Token:
        caller = self._caller(request)
        subject = self.world.token(request.headers.get("X-Subject-Token"))
        if caller.user_id != subject.user_id and "admin" not in self.world.worth(caller):
            raise forbidden(f"identity:{action}")
        return subject

    async def validate_token(self, request: web.BaseRequest, url: str) -> web.Response:
        """Show what a token is worth."""
        subject = self._subject(request, "validate_token")
        about = describe(self.world, subject, url, catalog="nocatalog" not in request.query)
        return json_answer(200, about, {"X-Subject-Token": subject.id})

    async def revoke_token(self, request: web.BaseRequest, _url: str) -> web.Response:
        """End a token."""
        del self.world.tokens[self._subject(request, "revoke_token").id]
        return web.Response(status=204)

    async def auth_catalog(self, request: web.BaseRequest, url: str) -> web.Response:
        """Show the catalog of a token's project."""
        token = self._caller(request)
        if token.project_id is None:
            raise Refused(403)
        links = {"self": f"{url}/v3/auth/catalog"}
        return json_answer(200, {"catalog": services(token.project_id, url), "links": links})

    async def auth_projects(self, request: web.BaseRequest, url: str) -> web.Response:
        """List the projects that a token's user has a role in, disabled ones too."""
        return self._projects(request, url, self.world.projects_of(self._caller(request).user_id))

    # -- projects

    @staticmethod
    def _project_body(project: Project, url: str) -> dict[str, object]:
        return {
            "id": project.id,
            "name": project.name,
            "domain_id": project.domain_id,
            "description": project.description,
            "enabled": project.enabled,
            "parent_id": project.domain_id,
            "is_domain": False,
            "tags": [],
            "options": {},
            "links": {"self": f"{url}/v3/projects/{project.id}"},
        }

    @staticmethod
    def _collection(request: web.BaseRequest, url: str, key: str, bodies: list[dict[str, object]]) -> web.Response:
        links = {"next": None, "self": f"{url}{request.path_qs}", "previous": None}
        return json_answer(200, {key: bodies, "links": links})

    def _projects(self, request: web.BaseRequest, url: str, projects: Iterable[Project]) -> web.Response:
        return self._collection(request, url, "projects", [self._project_body(project, url) for project in projects])

    def _found(self, project_id: str) -> Project:
        if project_id not in self.world.projects:
            raise Refused(404, f"Could not find project: {project_id}.")
        return self.world.projects[project_id]

    async def list_projects(self, request: web.BaseRequest, url: str) -> web.Response:
        """List all projects, for an admin; filtered by name and domain."""
        self._allow(request, "list_projects")
        wanted = {key: request.query[key] for key in ("name", "domain_id") if key in request.query}
        projects = self.world.projects.values()
        matching = [p for p in projects if all(getattr(p, key) == value for key, value in wanted.items())]
        return self._projects(request, url, matching)

    async def show_project(self, request: web.BaseRequest, url: str, project_id: str) -> web.Response:
        """Show a project, to an admin and to who has a token for it."""
        self._allow(request, "get_project", project_id=project_id)
        return json_answer(200, {"project": self._project_body(self._found(project_id), url)})

    async def create_project(self, request: web.BaseRequest, url: str) -> web.Response:
        """Make a project."""
        self._allow(request, "create_project")
        wanted = part(await self._body(request), "project")
        name = part(wanted, "name", str)
        domain_id = wanted.get("domain_id") or DEFAULT_DOMAIN
        if domain_id not in self.world.domains:
            raise Refused(400, f"Could not find domain: {domain_id}.")
        if any((p.name, p.domain_id) == (name, domain_id) for p in self.world.projects.values()):
            raise Refused(409, f"Conflict occurred attempting to store project - name is {name}, and it is taken.")
        project = self.world.add_project(name, domain_id=domain_id, enabled=wanted.get("enabled", True))
        project.description = wanted.get("description") or ""
        return json_answer(201, {"project": self._project_body(project, url)})

    async def update_project(self, request: web.BaseRequest, url: str, project_id: str) -> web.Response:
        """Enable, disable, rename or describe a project."""
        self._allow(request, "update_project")
        wanted = part(await self._body(request), "project")
        project = self._found(project_id)
        for key in ("enabled", "name", "description"):
            setattr(project, key, wanted.get(key, getattr(project, key)))
        return json_answer(200, {"project": {**self._project_body(project, url), "extra": {}}})

    async def delete_project(self, request: web.BaseRequest, _url: str, project_id: str) -> web.Response:
        """Remove a project."""
        self._allow(request, "delete_project")
        self.world.remove_project(self._found(project_id).id)
        return web.Response(status=204)

    # -- users, roles, application credentials

    async def create_user(self, request: web.BaseRequest, url: str) -> web.Response:
        """Make a user."""
        self._allow(request, "create_user")
        wanted = part(await self._body(request), "user")
        name = part(wanted, "name", str)
        domain_id = wanted.get("domain_id") or DEFAULT_DOMAIN
        if any((u.name, u.domain_id) == (name, domain_id) for u in self.world.users.values()):
            raise Refused(409, f"Conflict occurred attempting to store user - Duplicate entry found with name {name}.")
        user = self.world.add_user(name, wanted.get("password"), domain_id=domain_id)
        body = {"id": user.id, "name": name, "domain_id": domain_id, "enabled": True, "password_expires_at": None}
        return json_answer(201, {"user": {**body, "options": {}, "links": {"self": f"{url}/v3/users/{user.id}"}}})

    def _role_body(self, role: str) -> dict[str, object]:
        options = {} if role == "heat_stack_user" else {"immutable": True}
        body = {"id": self.world.roles[role], "name": role, "domain_id": None, "description": None}
        return {**body, "options": options}

    async def list_roles(self, request: web.BaseRequest, url: str) -> web.Response:
        """List roles, by name."""
        self._allow(request, "list_roles")
        names = [name for name in self.world.roles if request.query.get("name", name) == name]
        bodies = [self._role_body(name) for name in names]
        for body in bodies:
            body["links"] = {"self": f"{url}/v3/roles/{body['id']}"}
        return self._collection(request, url, "roles", bodies)

    async def grant(self, request: web.BaseRequest, _url: str, project: str, user: str, role: str) -> web.Response:
        """Give, show or take a user's role in a project."""
        self._allow(request, {"PUT": "create_grant", "DELETE": "revoke_grant"}.get(request.method, "check_grant"))
        name = next((name for name, role_id in self.world.roles.items() if role_id == role), None)
        if name is None:
            raise Refused(404, f"Could not find role: {role}.")
        if user not in self.world.users:
            raise Refused(404, f"Could not find user: {user}.")
        self._found(project)
        if request.method == "PUT":
            self.world.grant(user, project, name)
        elif name not in self.world.grants.get((user, project), ()):
            where = f"user or group: {user}, project, domain, or system: {project}"
            raise Refused(404, f"Could not find role assignment with role: {role}, {where}.")
        elif request.method == "DELETE":
            self.world.revoke(user, project, name)
        return web.Response(status=204)

    async def create_credential(self, request: web.BaseRequest, url: str, user_id: str) -> web.Response:
        """Make an application credential; only its owner may, and not with another one's token."""
        token = self._caller(request)
        if token.user_id != user_id:
            raise forbidden("identity:create_application_credential")
        if token.credential_id is not None:
            what = "managing additional application credentials"
            raise forbidden(f"Using method 'application_credential' is not allowed for {what}.")
        wanted = part(await self._body(request), "application_credential")
        name = part(wanted, "name", str)
        if self.world.credential(user_id, name):
            what = f"application_credential - Duplicate entry found with name {name}"
            raise Refused(409, f"Conflict occurred attempting to store {what}.")
        held = self.world.worth(token)
        names = {role_id: name for name, role_id in self.world.roles.items()}
        roles = [role.get("name") or names.get(role.get("id", "")) for role in wanted.get("roles", ())]
        if not set(roles) <= set(held):
            what = "Cannot create an application credential with unassigned role"
            raise Refused(400, f"Invalid application credential: {what}")
        made = self.world.add_application_credential(user_id, token.project_id, name, secret=wanted.get("secret"))
        made.roles = tuple(role for role in held if not roles or role in roles)
        body = {
            "id": made.id,
            "name": name,
            "description": wanted.get("description"),
            "project_id": made.project_id,
            "user_id": user_id,
            "roles": [self._role_body(role) for role in made.roles],
            "secret": made.secret,
            "expires_at": None,
            "system": None,
            "unrestricted": None,
            "links": {"self": f"{url}/v3/application_credentials/{made.id}"},
        }
        return json_answer(201, {"application_credential": body})


_PROJECT = r"/v3/projects/(?P<project_id>[^/]+)"
_GRANT = r"/v3/projects/(?P<project>[^/]+)/users/(?P<user>[^/]+)/roles/(?P<role>[^/]+)"
ROUTES = tuple(
    (method, re.compile(pattern), handler)
    for method, pattern, handler in (
        ("GET", r"/", "versions"),
        ("GET", r"/v3/?", "version"),
        ("POST", r"/v3/auth/tokens", "issue_token"),
        ("GET", r"/v3/auth/tokens", "validate_token"),
        ("DELETE", r"/v3/auth/tokens", "revoke_token"),
        ("GET", r"/v3/auth/projects", "auth_projects"),
        ("GET", r"/v3/auth/catalog", "auth_catalog"),
        ("GET", r"/v3/projects", "list_projects"),
        ("POST", r"/v3/projects", "create_project"),
        ("GET", _PROJECT, "show_project"),
        ("PATCH", _PROJECT, "update_project"),
        ("DELETE", _PROJECT, "delete_project"),
        ("POST", r"/v3/users", "create_user"),
        ("POST", r"/v3/users/(?P<user_id>[^/]+)/application_credentials", "create_credential"),
        ("GET", r"/v3/roles", "list_roles"),
        ("PUT", _GRANT, "grant"),
        ("GET", _GRANT, "grant"),
        ("DELETE", _GRANT, "grant"),
    )
)
