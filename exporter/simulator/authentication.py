"""From a request's body to a token, and from a token to the body that describes it."""

from __future__ import annotations

import time
from typing import Any

from exporter.simulator.world import ApplicationCredential, Refused, Token, User, World

METHODS = ("external", "password", "token", "oauth1", "mapped", "application_credential")
SCOPES = {"project", "domain", "unscoped", "system", "OS-TRUST:trust"}
SCOPED_CREDENTIAL = "Error authenticating with application credential: Application credentials cannot request a scope."
DELEGATED = "Using a delegated token to create another token is not allowed."


def iso(seconds: float) -> str:
    """Return a time the way Keystone writes it, with microseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(seconds))


def missing(attribute: str, target: str) -> Refused:
    """Return the 400 for a body that lacks something."""
    reason = "since it is either malformed or otherwise incorrect. The client is assumed to be in error."
    text = f"Expecting to find {attribute} in {target}. The server could not comply with the request {reason}"
    return Refused(400, text)


def forbidden(action: str) -> Refused:
    """Return the 403 for an action."""
    return Refused(403, f"You are not authorized to perform the requested action: {action}.")


def part(body: dict[str, Any], key: str, kind: type = dict) -> Any:
    """Return a required member of an object in a request, or refuse with 400."""
    if key not in body:
        raise Refused(400, f"'{key}' is a required property")
    if not isinstance(body[key], kind):
        raise Refused(400, f"Invalid input for field '{key}': {body[key]!r} is not of the documented type")
    return body[key]


def authenticate(world: World, body: dict[str, Any]) -> Token:
    """Return a new token for the `auth` of a body, by password, token or application credential."""
    if body.get("auth") is None:
        raise missing("auth", "request body")
    auth = body["auth"]
    if not isinstance(auth, dict):
        raise Refused(400, f"{auth!r} is not of type 'object'")
    identity = part(auth, "identity")
    methods: list[str] = list(dict.fromkeys(part(identity, "methods", list)))
    for method in methods:
        if method not in identity:
            raise missing(str(method), "identity")
        if method not in METHODS:
            supported = {"methods": METHODS}
            raise Refused(401, "Attempted to authenticate with an unsupported method.", identity=supported)
    if "application_credential" in methods:
        if "scope" in auth:
            raise Refused(401, SCOPED_CREDENTIAL, identity={})
        credential = _credential(world, part(identity, "application_credential"))
        return world.issue(credential.user_id, credential.project_id, methods=methods, credential_id=credential.id)
    project_id = _scope(world, auth["scope"]) if "scope" in auth else None
    user: User | None = None
    parent: Token | None = None
    for method in methods:
        if method == "password":
            given = part(part(identity, "password"), "user")
            user = _user(world, given)
            if user.password is None or given.get("password") != user.password:
                raise Refused(401)
        elif method == "token":
            parent = world.token(part(part(identity, "token"), "id", str))
            if parent.credential_id is not None:
                raise forbidden(DELEGATED)
            user = world.users[parent.user_id]
    if user is None:
        raise Refused(401)
    # A token that comes of another is known to come of that one's methods too.
    methods += [method for method in (parent.methods if parent else ()) if method not in methods]
    return world.issue(user.id, project_id, methods=methods, parent=parent)


def _domain_id(world: World, holder: dict[str, Any], target: str) -> str:
    if "domain" not in holder:
        raise missing("domain", target)
    domain = part(holder, "domain")
    for domain_id, name in world.domains.items():
        if domain_id == domain.get("id") or name == domain.get("name"):
            return domain_id
    raise Refused(401)


def _user(world: World, given: dict[str, Any]) -> User:
    if "id" not in given and "name" not in given:
        raise Refused(400, "Invalid input for field identity/password/user: id or name must be present.")
    try:
        if "name" in given:
            return world.user(part(given, "name", str), _domain_id(world, given, "user"))
        return world.users[part(given, "id", str)]
    except KeyError as unknown:
        raise Refused(401) from unknown


def _credential(world: World, given: dict[str, Any]) -> ApplicationCredential:
    if "id" in given:
        credential = world.credentials.get(given["id"])
        if credential is None:
            raise Refused(404, f"Could not find Application Credential: {given['id']}.")
    elif "name" in given:
        credential = world.credential(_user(world, part(given, "user")).id, given["name"])
    else:
        raise missing("name or ID", "application credential")
    if credential is None or given.get("secret") != credential.secret:
        raise Refused(401)
    return credential


def _scope(world: World, scope: object) -> str | None:
    """Return the id of the project asked for; tokens for a domain or the system nobody gets here."""
    if scope == "unscoped":
        return None
    if not isinstance(scope, dict):
        raise Refused(400, "Invalid input for field 'scope'")
    if len(SCOPES & scope.keys()) != 1:
        raise missing("system, project, domain, OS-TRUST:trust or unscoped", "scope")
    if "unscoped" in scope:
        return None
    if "project" not in scope:
        raise Refused(401)
    wanted = part(scope, "project")
    if "id" not in wanted and "name" not in wanted:
        raise Refused(400, "Invalid input for field scope/project: id or name must be present.")
    try:
        if "name" in wanted:
            project = world.project(wanted["name"], _domain_id(world, wanted, "project"))
        else:
            project = world.projects[wanted["id"]]
    except KeyError as unknown:
        raise Refused(401) from unknown
    if not project.enabled:
        raise Refused(401)
    return project.id


def describe(world: World, token: Token, url: str, *, catalog: bool) -> dict[str, object]:
    """Return the body about a token, with what it is worth now."""
    user = world.users[token.user_id]
    domain = {"id": user.domain_id, "name": world.domains[user.domain_id]}
    body: dict[str, object] = {
        "methods": token.methods,
        "user": {"domain": domain, "id": user.id, "name": user.name, "password_expires_at": None},
        "audit_ids": token.audit_ids,
        "expires_at": iso(token.expires_at),
        "issued_at": iso(token.issued_at),
    }
    if token.project_id is not None:
        project = world.projects[token.project_id]
        domain = {"id": project.domain_id, "name": world.domains[project.domain_id]}
        body["project"] = {"domain": domain, "id": project.id, "name": project.name}
        body["is_domain"] = False
        if world.admin_project:
            body["is_admin_project"] = project.id == world.admin_project
        body["roles"] = [{"id": world.roles[role], "name": role} for role in world.worth(token)]
        if catalog:
            body["catalog"] = services(project.id, url)
    if token.credential_id is not None:
        credential = world.credentials[token.credential_id]
        body["application_credential"] = {"id": credential.id, "name": credential.name, "restricted": True}
    return {"token": body}


def services(project_id: str, url: str) -> list[dict[str, object]]:
    """Return the catalog, with every URL as the client reached this server, whatever address it listens on."""

    def service(kind: str, name: str, address: str) -> dict[str, object]:
        region = {"region_id": "RegionOne", "region": "RegionOne"}
        endpoints = [
            {"id": _id(name + interface), "interface": interface, "url": address, **region}
            for interface in ("public", "internal", "admin")
        ]
        return {"endpoints": endpoints, "id": _id(name), "type": kind, "name": name}

    return [
        service("identity", "keystone", f"{url}/v3/"),
        service("orchestration", "heat", f"{url}/heat/v1/{project_id}"),
        service("compute", "nova", f"{url}/compute/v2.1"),
    ]


def _id(name: str) -> str:
    return name.encode().hex().ljust(32, "0")
