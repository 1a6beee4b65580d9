"""The state of a simulated cloud: who may do what, and which deployments there are. No sockets, no waiting."""

from __future__ import annotations

import base64
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from exporter.simulator.plan import Plan

IMPLIED = {"admin": ("admin", "member", "reader"), "member": ("member", "reader")}
DEFAULT_DOMAIN = "default"


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault
    """The cloud says no: an HTTP status and a message, which each API dresses in its own way."""

    def __init__(self, code: int, message: str = "", **extra: object) -> None:
        """Promise: what is in `extra` goes into Keystone's error object as it is."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.extra = extra


class UnknownToken(Refused):
    """No such token; a 401 for who shows it, a 404 for who asks about it."""


@dataclass(slots=True)
class Project:
    """A project; tokens for a disabled one are worth nothing until it is enabled again."""

    id: str
    name: str
    domain_id: str = DEFAULT_DOMAIN
    enabled: bool = True
    description: str = ""


@dataclass(slots=True)
class User:
    """A user with a password."""

    id: str
    name: str
    password: str | None
    domain_id: str = DEFAULT_DOMAIN


@dataclass(slots=True)
class ApplicationCredential:
    """A user's rights in one project, cut down to some roles."""

    id: str
    name: str
    secret: str
    user_id: str
    project_id: str | None
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """What was proven; what it is worth is looked up anew each time it is shown, as a Fernet token's is."""

    id: str
    user_id: str
    project_id: str | None
    methods: tuple[str, ...]
    issued_at: float
    expires_at: float
    audit_ids: tuple[str, ...]
    credential_id: str | None = None


NO_DETAIL: dict[str, object] = {"config": None, "inputs": [], "outputs": [], "options": {}}


@dataclass(slots=True)
class Config:
    """A software configuration; `derived` ones belong to a single deployment and go with its next action."""

    id: str
    project_id: str
    name: str | None
    group: str | None
    created: float
    derived: bool = False
    detail: dict[str, object] = field(default_factory=lambda: NO_DETAIL)


@dataclass(slots=True)
class Deployment:
    """A software deployment as Heat keeps it. Change it by `World.update` only: its JSON is cached."""

    id: str
    project_id: str
    server_id: str
    config_id: str
    action: Any
    status: Any
    status_reason: Any
    created: float
    updated: float | None = None
    input_values: Any = field(default_factory=dict)
    output_values: Any = None
    stack_user_project_id: str | None = None
    json: bytes | None = None

    def body(self) -> dict[str, object]:
        """Return the API's view: `updated_time` is absent, not null, until the first update."""
        body: dict[str, object] = {
            "id": self.id,
            "server_id": self.server_id,
            "input_values": self.input_values,
            "output_values": self.output_values,
            "action": self.action,
            "status": self.status,
            "status_reason": self.status_reason,
            "config_id": self.config_id,
            "creation_time": timestamp(self.created),
        }
        if self.updated is not None:
            body["updated_time"] = timestamp(self.updated)
        return body

    def render(self, *, escaped: bool = True) -> bytes:
        """Return the JSON of it, made once per change: ASCII with escapes, as Heat writes it, or UTF-8."""
        if self.json is None:
            self.json = json.dumps(self.body(), ensure_ascii=escaped).encode()
        return self.json


def timestamp(seconds: float) -> str:
    """Return a time the way Heat writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class World:
    """One cloud's users, projects, tokens, configs and deployments.

    `now` is the only clock and the plan's seed the only source of chance.
    """

    def __init__(self, plan: Plan | None = None, *, now: Callable[[], float] = time.time) -> None:
        """Promise: an empty cloud that knows the roles and the default domain; `build` makes one with life in it."""
        self.plan = plan or Plan()
        self.now = now
        # Apart, so that a token issued in between changes neither the ids nor what happens next.
        self._ids = random.Random(f"{self.plan.seed}/ids")
        self._secrets = random.Random(f"{self.plan.seed}/secrets")
        self.domains = {DEFAULT_DOMAIN: "Default"}
        self.roles = {name: self.hex_id() for name in ("admin", "member", "reader", "heat_stack_user")}
        self.administrators = {"admin"}
        """The roles, in lower case, that Heat's policy takes for an administrator's."""
        self.admin_project = ""
        """The id of the one project in which they have such rights (Keystone's `admin_project_name`); "": every one."""
        self.projects: dict[str, Project] = {}
        self.users: dict[str, User] = {}
        self.grants: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.credentials: dict[str, ApplicationCredential] = {}
        self.tokens: dict[str, Token] = {}
        self.servers: dict[str, list[str]] = defaultdict(list)
        """By project, in the order in which they were made."""
        self.server_names: dict[str, str] = {}
        self.configs: dict[str, Config] = {}
        self.deployments: dict[str, Deployment] = {}
        self._seen_by: dict[str, dict[str, Deployment]] = defaultdict(dict)
        self._raw: dict[str, list[tuple[object, bytes]]] = defaultdict(list)
        self._sweep_at = 1000

    # -- ids and secrets

    def hex_id(self) -> str:
        """Return a new id of Keystone's kind."""
        return f"{self._ids.getrandbits(128):032x}"

    def uuid(self) -> str:
        """Return a new id of Heat's and Nova's kind."""
        text = f"{self._ids.getrandbits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"

    def secret(self, size: int = 16) -> str:
        """Return new URL-safe random text; it guards nothing but a toy on loopback."""
        return base64.urlsafe_b64encode(self._secrets.randbytes(size)).decode().rstrip("=")

    # -- identity

    def add_domain(self, name: str) -> str:
        """Add a domain and return its id."""
        domain_id = self.hex_id()
        self.domains[domain_id] = name
        return domain_id

    def add_project(self, name: str, *, domain_id: str = DEFAULT_DOMAIN, enabled: bool = True) -> Project:
        """Add a project."""
        project = Project(self.hex_id(), name, domain_id, enabled)
        self.projects[project.id] = project
        return project

    def remove_project(self, project_id: str) -> None:
        """Remove a project with everybody's roles in it; Heat keeps its deployments, which nobody can list any more."""
        del self.projects[project_id]
        for pair in [pair for pair in self.grants if pair[1] == project_id]:
            del self.grants[pair]

    def add_user(self, name: str, password: str | None, *, domain_id: str = DEFAULT_DOMAIN) -> User:
        """Add a user."""
        user = User(self.hex_id(), name, password, domain_id)
        self.users[user.id] = user
        return user

    def user(self, name: str, domain_id: str = DEFAULT_DOMAIN) -> User:
        """Return the user of that name, KeyError if there is none."""
        for user in self.users.values():
            if (user.name, user.domain_id) == (name, domain_id):
                return user
        raise KeyError(name)

    def project(self, name: str, domain_id: str = DEFAULT_DOMAIN) -> Project:
        """Return the project of that name, KeyError if there is none."""
        for project in self.projects.values():
            if (project.name, project.domain_id) == (name, domain_id):
                return project
        raise KeyError(name)

    def add_role(self, name: str, *, administrator: bool = False) -> None:
        """Add a role, to which Heat's policy may give an administrator's rights."""
        self.roles[name] = self.hex_id()
        if administrator:
            self.administrators.add(name.lower())

    def grant(self, user_id: str, project_id: str, role: str) -> None:
        """Give a user a role in a project."""
        if role not in self.roles:
            raise KeyError(role)
        self.grants[user_id, project_id].add(role)

    def revoke(self, user_id: str, project_id: str, role: str) -> None:
        """Take a role away; tokens for that project end with the last one and live again when it comes back."""
        self.grants[user_id, project_id].remove(role)

    def roles_of(self, user_id: str, project_id: str) -> list[str]:
        """Return the roles of a user in a project, implied ones included."""
        held = self.grants.get((user_id, project_id), ())
        effective = {implied for role in held for implied in IMPLIED.get(role, (role,))}
        return [role for role in self.roles if role in effective]

    def projects_of(self, user_id: str) -> list[Project]:
        """Return the projects in which a user has a role, disabled ones too."""
        held = [project_id for (user, project_id), roles in self.grants.items() if user == user_id and roles]
        return [self.projects[project_id] for project_id in held if project_id in self.projects]

    def add_application_credential(
        self, user_id: str, project_id: str | None, name: str, *, secret: str | None = None
    ) -> ApplicationCredential:
        """Add an application credential with all of the user's roles in the project."""
        roles = tuple(self.roles_of(user_id, project_id)) if project_id else ()
        made = ApplicationCredential(self.hex_id(), name, secret or self.secret(64), user_id, project_id, roles)
        self.credentials[made.id] = made
        return made

    def credential(self, user_id: str, name: str) -> ApplicationCredential | None:
        """Return a user's application credential of that name."""
        mine = (made for made in self.credentials.values() if (made.user_id, made.name) == (user_id, name))
        return next(mine, None)

    def issue(
        self,
        user_id: str,
        project_id: str | None,
        *,
        methods: Iterable[str] = ("password",),
        parent: Token | None = None,
        credential_id: str | None = None,
    ) -> Token:
        """Issue a token; one that comes of another ends when that one does."""
        now = float(int(self.now()))
        token = Token(
            id="gAAAAA" + self.secret(96),
            user_id=user_id,
            project_id=project_id,
            methods=tuple(methods),
            issued_at=now,
            expires_at=parent.expires_at if parent else now + self.plan.token_lifetime,
            audit_ids=(self.secret(), parent.audit_ids[-1]) if parent else (self.secret(),),
            credential_id=credential_id,
        )
        try:
            self.worth(token)
        except UnknownToken as worthless:
            raise Refused(401) from worthless
        # Those that ended are swept when the table has doubled: a client that asks anew each second must not fill it.
        if len(self.tokens) >= self._sweep_at:
            self.tokens = {t.id: t for t in self.tokens.values() if t.expires_at > now}
            self._sweep_at = max(1000, 2 * len(self.tokens))
        self.tokens[token.id] = token
        return token

    def token(self, token_id: str | None) -> Token:
        """Return a token that is good now, else refuse (`UnknownToken` for one that never was or has ended)."""
        token = self.tokens.get(token_id or "")
        if token is None:
            raise UnknownToken(404, "Could not recognize Fernet token" if token_id else "No token in the request")
        if token.expires_at <= self.now():
            raise UnknownToken(404, "Failed to validate token")
        self.worth(token)
        return token

    def worth(self, token: Token) -> list[str]:
        """Return the roles that a token carries now, and refuse one whose user, project or last role is gone."""
        if token.user_id not in self.users:
            raise Refused(404, f"Could not find user: {token.user_id}.")
        if token.credential_id is not None and token.credential_id not in self.credentials:
            raise Refused(404, f"Could not find Application Credential: {token.credential_id}.")
        if token.project_id is None:
            return []
        project = self.projects.get(token.project_id)
        if project is None:
            raise Refused(404, f"Could not find project: {token.project_id}.")
        if not project.enabled:
            raise Refused(404, f"Unable to validate token because project {project.id} is disabled")
        roles = self.roles_of(token.user_id, project.id)
        if token.credential_id is not None:
            allowed = self.credentials[token.credential_id].roles
            roles = [role for role in roles if role in allowed]
        if not roles:
            raise UnknownToken(404, f"Could not find token: {token.id}.")
        return roles

    def is_administrator(self, token: Token) -> bool:
        """Return whether Heat shows everything to a token: an administrator's of the admin project, if there is one."""
        roles = {role.lower() for role in self.worth(token)}
        return self.admin_project in ("", token.project_id) and not self.administrators.isdisjoint(roles)

    # -- orchestration

    def add_server(self, project_id: str, name: str | None = None, *, server_id: str | None = None) -> str:
        """Add a server and return its id; Heat itself takes any string for one, whether the compute service has it."""
        server_id = server_id or self.uuid()
        servers = self.servers[project_id]
        servers.append(server_id)
        project = self.projects.get(project_id)
        self.server_names[server_id] = name or f"{project.name if project else 'server'}-{len(servers):03}"
        return server_id

    def add_config(
        self,
        project_id: str,
        name: str | None,
        group: str | None = "script",
        *,
        created: float | None = None,
        derived: bool = False,
    ) -> Config:
        """Add a software config."""
        made = Config(self.uuid(), project_id, name, group, self.now() if created is None else created, derived)
        self.configs[made.id] = made
        return made

    def add_deployment(
        self,
        project_id: str,
        server_id: str,
        config_id: str,
        *,
        action: object = "CREATE",
        status: object = "IN_PROGRESS",
        status_reason: object = "Deploy data available",
        created: float | None = None,
        updated: float | None = None,
        input_values: object = None,
        output_values: object = None,
        stack_user_project_id: str | None = None,
    ) -> Deployment:
        """Add a deployment; the project whose stack users run it sees it too."""
        deployment = Deployment(
            id=self.uuid(),
            project_id=project_id,
            server_id=server_id,
            config_id=config_id,
            action=action,
            status=status,
            status_reason=status_reason,
            created=self.now() if created is None else created,
            updated=updated,
            input_values=input_values,
            output_values=output_values,
            stack_user_project_id=stack_user_project_id,
        )
        self.deployments[deployment.id] = deployment
        self._seen_by[project_id][deployment.id] = deployment
        if stack_user_project_id:
            self._seen_by[stack_user_project_id][deployment.id] = deployment
        return deployment

    def update(self, deployment_id: str, **changes: object) -> Deployment:
        """Change fields of a deployment; `updated` is now unless it is given."""
        deployment = self.deployments[deployment_id]
        for name, value in {"updated": self.now(), **changes}.items():
            setattr(deployment, name, value)
        deployment.json = None
        return deployment

    def remove(self, deployment_id: str) -> None:
        """Remove a deployment, and its config if that was derived for it."""
        deployment = self.deployments.pop(deployment_id)
        for project_id in {deployment.project_id, deployment.stack_user_project_id or deployment.project_id}:
            del self._seen_by[project_id][deployment_id]
        config = self.configs.get(deployment.config_id)
        if config is not None and config.derived:
            del self.configs[config.id]

    def add_raw(self, project_id: str, record: Mapping[str, object] | bytes) -> None:
        """Put any record at the end of a project's listing: an object of any shape, or bytes that go out untouched."""
        if isinstance(record, bytes):
            self._raw[project_id].append((None, record))
        else:
            self._raw[project_id].append((record.get("server_id"), json.dumps(record).encode()))

    def clear_raw(self, project_id: str) -> None:
        """Take back what `add_raw` put into a project's listing."""
        self._raw.pop(project_id, None)

    def visible(self, project_id: str | None, server_id: str | None = None) -> list[Deployment]:
        """Return the deployments that a project sees (None: every project's), oldest first."""
        found = self.deployments if project_id is None else self._seen_by.get(project_id, {})
        deployments = [d for d in found.values() if not server_id or d.server_id == server_id]
        deployments.sort(key=lambda deployment: deployment.created)
        return deployments

    def raw(self, project_id: str | None, server_id: str | None = None) -> list[bytes]:
        """Return the raw records of a listing."""
        of = self._raw if project_id is None else [project_id]
        return [raw for key in of for server, raw in self._raw.get(key, ()) if not server_id or server == server_id]
