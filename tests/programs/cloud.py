"""An OpenStack cloud over its REST API alone, whoever serves it: plain HTTP, nothing of the exporter's own client."""

import threading
from typing import Any
from uuid import uuid4

import requests
import yaml

from tests.programs.process import session

Json = Any


class Cloud:
    """Fills a Keystone and a Heat and asks them, as an administrator would.

    Users and projects are given by id (`admin` alone by name). What is refused raises, but for `request` and
    `authenticate`, which give back whatever the cloud answers. May be used from several threads.
    """

    def __init__(
        self, auth_url: str, admin_password: str, *, admin: str = "admin", admin_project: str = "admin"
    ) -> None:
        self.auth_url = auth_url
        self.admin_user = admin
        self.admin_password = admin_password
        self.admin_project = admin_project
        self._http = session()
        self._tokens: dict[tuple[str, str, str | None], str] = {}
        self._roles: dict[str, str] = {}
        self._user_names: dict[str, str] = {}
        self._writer: tuple[str, str] | None = None
        self._written: set[str] = set()
        self._heat_url = ""
        self._writing = threading.Lock()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    # --- raw requests

    def request(self, method: str, url: str, *, token: str | None = None, **options: Any) -> requests.Response:
        """The answer as it is; redirects are not followed."""
        options = {"timeout": 120, "allow_redirects": False} | options
        if token:
            options["headers"] = options.get("headers", {}) | {"X-Auth-Token": token}
        if method == "GET":
            return self._http.request(method, url, **options)
        with self._writing:  # sqlite behind Heat takes one writer at a time, and says 500 to the second
            return self._http.request(method, url, **options)

    def _ok(self, method: str, url: str, token: str | None = None, **options: Any) -> Json:
        answer = self.request(method, url, token=token, **options)
        if answer.status_code >= 300:
            raise RuntimeError(f"{method} {url}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def _identity(self, method: str, path: str, **options: Any) -> Json:
        return self._ok(method, self.auth_url + path, self.admin_token, **options)

    # --- tokens

    def authenticate(
        self, user: str, password: str, project: str | None = None, *, scope: Json = None
    ) -> requests.Response:
        """Asks for a token of a project (or of `scope`, or of nothing) by password; whatever Keystone answers."""
        identity = {"methods": ["password"], "password": {"user": self._user(user) | {"password": password}}}
        return self.request_token(identity, scope or (self._scope(project) if project else None))

    def request_token(self, identity: Json, scope: Json = None) -> requests.Response:
        """Asks for a token by any `identity`; whatever Keystone answers."""
        auth = {"identity": identity} | ({"scope": scope} if scope else {})
        return self.request("POST", f"{self.auth_url}/auth/tokens", json={"auth": auth})

    def token(self, user: str, password: str, project: str | None = None) -> str:
        """A token of the project, or an unscoped one; kept until access changes."""
        key = (user, password, project)
        if key not in self._tokens:
            answer = self.authenticate(user, password, project)
            if answer.status_code != 201:
                raise RuntimeError(f"no token for {user} in {project}: {answer.status_code} {answer.text[:500]}")
            self._tokens[key] = answer.headers["X-Subject-Token"]
        return self._tokens[key]

    @property
    def admin_token(self) -> str:
        """A token of the administrator, in its own project: Heat shows it the deployments of all projects."""
        return self.token(self.admin_user, self.admin_password, self.admin_project)

    def writer(self, project: str) -> str:
        """A token of a member of the project, to make deployments with."""
        if self._writer is None:
            password = uuid4().hex
            self._writer = (self.create_user(f"writer-{uuid4().hex[:8]}", password), password)
        if project not in self._written:
            self.grant(self._writer[0], project, "member")
            self._written.add(project)
        return self.token(*self._writer, project)

    def revoke_token(self, token: str) -> None:
        """From now on the token is refused, as one that has expired."""
        admin = self.authenticate(self.admin_user, self.admin_password, self.admin_project).headers["X-Subject-Token"]
        answer = self.request("DELETE", f"{self.auth_url}/auth/tokens", token=admin, headers={"X-Subject-Token": token})
        if answer.status_code != 204:
            raise RuntimeError(f"token not revoked: {answer.status_code} {answer.text[:500]}")
        self._forget_tokens()

    def _forget_tokens(self) -> None:
        self._tokens.clear()

    def _user(self, user: str) -> dict[str, Json]:
        return {"name": user, "domain": {"id": "default"}} if user == self.admin_user else {"id": user}

    def _scope(self, project: str) -> dict[str, Json]:
        if project == self.admin_project:
            return {"project": {"name": project, "domain": {"id": "default"}}}
        return {"project": {"id": project}}

    # --- identity

    def create_project(self, name: str, *, enabled: bool = True) -> str:
        """The new project's id."""
        project = {"name": name, "domain_id": "default", "enabled": enabled}
        return str(self._identity("POST", "/projects", json={"project": project})["project"]["id"])

    def set_enabled(self, project: str, enabled: bool) -> None:
        """Switches a project on or off."""
        self._identity("PATCH", f"/projects/{project}", json={"project": {"enabled": enabled}})
        self._forget_tokens()

    def delete_project(self, project: str) -> None:
        """Takes the project away; its deployments stay in Heat, as they do in reality."""
        self._identity("DELETE", f"/projects/{project}")
        self._forget_tokens()

    def create_user(self, name: str, password: str, *, domain: str = "default") -> str:
        """The new user's id."""
        user = {"name": name, "password": password, "domain_id": domain}
        identifier = str(self._identity("POST", "/users", json={"user": user})["user"]["id"])
        self._user_names[identifier] = name
        return identifier

    def grant(self, user: str, project: str, role: str = "reader") -> None:
        """Gives the user a role (admin, member or reader) in the project."""
        self._identity("PUT", f"/projects/{project}/users/{user}/roles/{self._role(role)}")

    def revoke(self, user: str, project: str, role: str = "reader") -> None:
        """Takes the role away again."""
        self._identity("DELETE", f"/projects/{project}/users/{user}/roles/{self._role(role)}")
        self._forget_tokens()

    def _role(self, name: str) -> str:
        if name not in self._roles:
            self._roles = {role["name"]: role["id"] for role in self._identity("GET", "/roles")["roles"]}
        return self._roles[name]

    def application_credential(self, user: str, password: str, project: str) -> tuple[str, str]:
        """Id and secret of a new application credential of the user, bound to the project."""
        answer = self._ok(
            "POST",
            f"{self.auth_url}/users/{user}/application_credentials",
            self.token(user, password, project),
            json={"application_credential": {"name": uuid4().hex}},
        )["application_credential"]
        return answer["id"], answer["secret"]

    # --- orchestration

    @property
    def heat_url(self) -> str:
        """Heat's address as the catalog has it, without the project's id at its end."""
        if not self._heat_url:
            token = self.authenticate(self.admin_user, self.admin_password, self.admin_project).json()["token"]
            url = endpoint(token)
            self._heat_url = url.removesuffix("/" + token["project"]["id"])
        return self._heat_url

    def create_config(self, token: str, project: str, name: str, group: str = "script") -> str:
        """The new software config's id."""
        url = f"{self.heat_url}/{project}/software_configs"
        config = {"name": name, "group": group, "config": "#!/bin/sh\n"}
        return str(self._ok("POST", url, token, json=config)["software_config"]["id"])

    def list_configs(self, token: str, project: str) -> list[Json]:
        """Every software config of the project, without what it does."""
        return list(self._ok("GET", f"{self.heat_url}/{project}/software_configs", token)["software_configs"])

    def create_deployment(
        self,
        token: str,
        project: str,
        *,
        config_id: str,
        server_id: str,
        action: str = "CREATE",
        status: str = "IN_PROGRESS",
        status_reason: str | None = "Deploy data available",
        **fields: Json,
    ) -> str:
        """The new deployment's id. Heat takes no output_values here: they come with `update_deployment`."""
        body = {
            "config_id": config_id,
            "server_id": server_id,
            "action": action,
            "status": status,
            "status_reason": status_reason,
        }
        answer = self._ok("POST", f"{self.heat_url}/{project}/software_deployments", token, json=body | fields)
        return str(answer["software_deployment"]["id"])

    def update_deployment(self, token: str, project: str, deployment: str, **fields: Json) -> None:
        """Changes action, status, output_values, … as the agent on a server or a stack's action does."""
        self._ok("PUT", f"{self.heat_url}/{project}/software_deployments/{deployment}", token, json=fields)

    def delete_deployment(self, token: str, project: str, deployment: str) -> None:
        """Takes the deployment out of the listing."""
        self._ok("DELETE", f"{self.heat_url}/{project}/software_deployments/{deployment}", token)

    def list_deployments(self, token: str, project: str, **query: Json) -> bytes:
        """The body of a listing, as it came."""
        url = f"{self.heat_url}/{project}/software_deployments"
        answer = self.request("GET", url, token=token, params=query)
        if answer.status_code != 200:
            raise RuntimeError(f"GET {url}: {answer.status_code} {answer.text[:500]}")
        return answer.content

    # --- for the program under test

    def clouds_yaml(
        self,
        user: str = "",
        password: str = "",
        project: str | None = None,
        *,
        name: str = "test",
        application_credential: tuple[str, str] | None = None,
        **settings: Json,
    ) -> str:
        """A clouds.yaml with one cloud: of a user, of the administrator, or of an application credential.

        Without a user it is the administrator's. Without a project the token is unscoped.
        """
        entry = self.clouds_entry(user, password, project, application_credential=application_credential)
        return yaml.safe_dump({"clouds": {name: entry | settings}})

    def clouds_entry(
        self,
        user: str = "",
        password: str = "",
        project: str | None = None,
        *,
        application_credential: tuple[str, str] | None = None,
    ) -> dict[str, Json]:
        """One cloud of a clouds.yaml."""
        common: dict[str, Json] = {"region_name": "RegionOne", "interface": "public", "identity_api_version": "3"}
        if application_credential:
            identifier, secret = application_credential
            auth = {"application_credential_id": identifier, "application_credential_secret": secret}
            return common | {"auth_type": "v3applicationcredential", "auth": {"auth_url": self.auth_url} | auth}
        auth = {
            "auth_url": self.auth_url,
            "username": self._user_names[user] if user else self.admin_user,
            "password": password if user else self.admin_password,
            "user_domain_id": "default",
        }
        if project == self.admin_project:
            auth |= {"project_name": project, "project_domain_id": "default"}
        elif project:
            auth |= {"project_id": project}
        return common | {"auth": auth}


def endpoint(token: Json, service: str = "orchestration") -> str:
    """The public URL of a service in the catalog of a token's body."""
    return next(
        str(endpoint["url"])
        for entry in token["catalog"]
        if entry["type"] == service
        for endpoint in entry["endpoints"]
        if endpoint["interface"] == "public"
    )
