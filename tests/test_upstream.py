"""What the upstreams of these tests answer, two releases of a real Keystone and Heat and the simulator: the same.

Everything goes over plain REST, so whatever holds here holds for any client.
"""

import json
import re
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import keystoneauth1.identity
import keystoneauth1.session
import pytest
import requests

from tests.conftest import REAL
from tests.programs.cloud import Cloud, endpoint
from tests.programs.openstack import OpenStack
from tests.programs.simulator import simulated_cloud

HEAT_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
KEYSTONE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
HEX_ID = re.compile(r"[0-9a-f]{32}")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FRESH = {
    "id",
    "server_id",
    "input_values",
    "output_values",
    "action",
    "status",
    "status_reason",
    "config_id",
    "creation_time",
}
"""The keys of a deployment that was never updated."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A project with one user, who has the role reader in it, and a config to make deployments of."""

    cloud: Cloud
    project: str
    name: str
    user: str
    config: str
    password: str

    @property
    def token(self) -> str:
        """The reader's token of this project."""
        return self.cloud.token(self.user, self.password, self.project)

    @property
    def url(self) -> str:
        """The address of the deployments."""
        return f"{self.cloud.heat_url}/{self.project}/software_deployments"

    def deploy(self, server: str = "a-server", **fields: Any) -> str:
        """A new deployment's id."""
        writer = self.cloud.writer(self.project)
        config = fields.pop("config_id", self.config)
        return self.cloud.create_deployment(writer, self.project, config_id=config, server_id=server, **fields)

    def update(self, deployment: str, **fields: Any) -> None:
        """Changes a deployment."""
        self.cloud.update_deployment(self.cloud.writer(self.project), self.project, deployment, **fields)

    def get(self, **query: Any) -> requests.Response:
        """The listing as the reader gets it."""
        return self.cloud.request("GET", self.url, token=self.token, params=query)

    def listed(self, **query: Any) -> dict[str, dict[str, Any]]:
        """The deployments of a listing by id."""
        answer = self.get(**query)
        assert answer.status_code == 200
        return {item["id"]: item for item in answer.json()["software_deployments"]}


def new_tenant(cloud: Cloud) -> Tenant:
    """A tenant that nothing else uses."""
    name = f"project {uuid4().hex}"
    project = cloud.create_project(name)
    password = uuid4().hex
    user = cloud.create_user(f"reader-{uuid4().hex}", password)
    cloud.grant(user, project, "reader")
    config = cloud.create_config(cloud.writer(project), project, "install-agent")
    return Tenant(cloud, project, name, user, config, password)


@pytest.fixture
def tenant(upstream: Cloud) -> Tenant:
    """A tenant of this test alone."""
    return new_tenant(upstream)


def refused(answer: requests.Response, code: int, title: str) -> str:
    """Checks the way Keystone refuses, in Heat's place too when a token is bad; the message."""
    assert answer.status_code == code
    assert answer.headers["Content-Type"] == "application/json"
    error = answer.json()["error"]
    assert (error["code"], error["title"]) == (code, title)
    return str(error["message"])


def refused_by_heat(answer: requests.Response, code: int, title: str) -> None:
    """Checks the way Heat refuses."""
    assert answer.status_code == code
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert (body["code"], body["title"]) == (code, title)
    assert isinstance(body["explanation"], str)
    assert isinstance(body["error"]["type"], str)


class TestIdentity:
    """Keystone."""

    def test_the_address_answers_with_its_version(self, upstream: Cloud) -> None:
        """Clients find out there what they talk to; no token is needed."""
        version = upstream.request("GET", upstream.auth_url).json()["version"]
        assert version["id"].startswith("v3.")
        assert version["status"] == "stable"
        assert {"rel": "self", "href": f"{upstream.auth_url}/"} in version["links"]

    def test_a_scoped_token_says_who_where_and_until_when(self, upstream: Cloud, tenant: Tenant) -> None:
        """It names the user, the project with its domain, the roles, and both times in UTC."""
        answer = upstream.authenticate(tenant.user, tenant.password, tenant.project)
        assert answer.status_code == 201
        assert answer.headers["X-Subject-Token"]
        assert answer.headers["Content-Type"] == "application/json"
        token = answer.json()["token"]
        assert token["methods"] == ["password"]
        assert HEX_ID.fullmatch(token["user"]["id"])
        assert token["user"]["domain"] == {"id": "default", "name": "Default"}
        assert token["project"] == {
            "id": tenant.project,
            "name": tenant.name,
            "domain": {"id": "default", "name": "Default"},
        }
        assert [role["name"] for role in token["roles"]] == ["reader"]
        assert token["is_domain"] is False
        assert KEYSTONE_TIME.fullmatch(token["issued_at"])
        assert KEYSTONE_TIME.fullmatch(token["expires_at"])
        assert token["issued_at"] < token["expires_at"]
        assert all(isinstance(audit_id, str) for audit_id in token["audit_ids"])

    def test_the_catalog_leads_to_heat(self, upstream: Cloud, tenant: Tenant) -> None:
        """The orchestration endpoint's URL ends in the version and the token's own project."""
        token = upstream.authenticate(tenant.user, tenant.password, tenant.project).json()["token"]
        assert endpoint(token).endswith(f"/v1/{tenant.project}")
        assert endpoint(token, "identity").rstrip("/") == upstream.auth_url
        for service in token["catalog"]:
            assert {"id", "type", "name", "endpoints"} <= service.keys()
            for address in service["endpoints"]:
                assert {"id", "interface", "region", "region_id", "url"} <= address.keys()
                assert address["region"] == address["region_id"] == "RegionOne"

    def test_an_admins_token_has_the_implied_roles(self, upstream: Cloud) -> None:
        """An admin is a member and a reader too."""
        answer = upstream.authenticate(upstream.admin_user, upstream.admin_password, upstream.admin_project)
        assert {role["name"] for role in answer.json()["token"]["roles"]} >= {"admin", "member", "reader"}

    def test_an_unscoped_token_has_neither_project_nor_catalog(self, upstream: Cloud, tenant: Tenant) -> None:
        """It only serves to look around and to get a scoped one."""
        answer = upstream.authenticate(tenant.user, tenant.password)
        assert answer.status_code == 201
        token = answer.json()["token"]
        assert not {"project", "roles", "catalog"} & token.keys()
        assert {"methods", "user", "audit_ids", "expires_at", "issued_at"} <= token.keys()

    def test_an_unscoped_token_gets_a_scoped_one(self, upstream: Cloud, tenant: Tenant) -> None:
        """The new one ends when the old one does."""
        first = upstream.authenticate(tenant.user, tenant.password)
        identity = {"methods": ["token"], "token": {"id": first.headers["X-Subject-Token"]}}
        answer = upstream.request_token(identity, {"project": {"id": tenant.project}})
        assert answer.status_code == 201
        token = answer.json()["token"]
        assert token["project"]["id"] == tenant.project
        assert token["expires_at"] == first.json()["token"]["expires_at"]

    def test_names_with_their_domains_do_for_ids(self, upstream: Cloud, tenant: Tenant) -> None:
        """The domain may itself be given by name."""
        user = {"name": upstream.admin_user, "domain": {"name": "Default"}, "password": upstream.admin_password}
        scope = {"project": {"name": upstream.admin_project, "domain": {"name": "Default"}}}
        answer = upstream.request_token({"methods": ["password"], "password": {"user": user}}, scope)
        assert answer.status_code == 201
        assert answer.json()["token"]["project"]["name"] == upstream.admin_project

    @pytest.mark.parametrize("wrong", ["password", "user", "project", "no role", "disabled project"])
    def test_all_that_is_wrong_is_refused_alike(self, upstream: Cloud, tenant: Tenant, wrong: str) -> None:
        """401, and nothing tells which part of it was wrong."""
        user, password, project = tenant.user, tenant.password, tenant.project
        if wrong == "password":
            password = "wrong"
        elif wrong == "user":
            user = uuid4().hex
        elif wrong == "project":
            project = uuid4().hex
        elif wrong == "no role":
            project = new_tenant(upstream).project
        else:
            upstream.set_enabled(project, False)
        message = refused(upstream.authenticate(user, password, project), 401, "Unauthorized")
        assert message == "The request you have made requires authentication."

    def test_what_is_no_request_for_a_token_is_a_bad_request(self, upstream: Cloud) -> None:
        """400, not 401."""
        refused(upstream.request("POST", f"{upstream.auth_url}/auth/tokens", json={"x": 1}), 400, "Bad Request")

    def test_an_application_credential_has_one_project(self, upstream: Cloud, tenant: Tenant) -> None:
        """Its token is scoped without asking; asking for any scope is refused, and so is another token for it."""
        identifier, secret = upstream.application_credential(tenant.user, tenant.password, tenant.project)
        identity = {
            "methods": ["application_credential"],
            "application_credential": {"id": identifier, "secret": secret},
        }
        answer = upstream.request_token(identity)
        assert answer.status_code == 201
        token = answer.json()["token"]
        assert token["methods"] == ["application_credential"]
        assert token["project"]["id"] == tenant.project
        assert token["application_credential"]["id"] == identifier
        assert endpoint(token).endswith(f"/v1/{tenant.project}")

        scope = {"project": {"id": tenant.project}}
        message = refused(upstream.request_token(identity, scope), 401, "Unauthorized")
        assert "Application credentials cannot request a scope." in message
        identity["application_credential"] = {"id": identifier, "secret": "wrong"}
        refused(upstream.request_token(identity), 401, "Unauthorized")
        again = {"methods": ["token"], "token": {"id": answer.headers["X-Subject-Token"]}}
        refused(upstream.request_token(again, scope), 403, "Forbidden")

    def test_projects_of_a_user_with_disabled_ones(self, upstream: Cloud, tenant: Tenant) -> None:
        """Those in which the user has a role, for an unscoped token and a scoped one alike."""
        off = upstream.create_project(f"off {uuid4().hex}", enabled=False)
        upstream.grant(tenant.user, off)
        for token in (upstream.token(tenant.user, tenant.password), tenant.token):
            answer = upstream.request("GET", f"{upstream.auth_url}/auth/projects", token=token)
            assert answer.status_code == 200
            body = answer.json()
            assert {project["id"]: project["enabled"] for project in body["projects"]} == {
                tenant.project: True,
                off: False,
            }
            assert body["links"].keys() == {"next", "previous", "self"}
            assert body["links"]["next"] is None
            for project in body["projects"]:
                assert project["domain_id"] == "default"
                assert isinstance(project["name"], str)
                assert isinstance(project["tags"], list)
                assert project["is_domain"] is False

    @pytest.mark.parametrize("token", [None, "bad"])
    def test_projects_need_a_good_token(self, upstream: Cloud, token: str | None) -> None:
        """401 as everywhere."""
        refused(upstream.request("GET", f"{upstream.auth_url}/auth/projects", token=token), 401, "Unauthorized")

    def test_a_real_client_gets_along(self, upstream: Cloud, tenant: Tenant) -> None:
        """Keystoneauth authenticates, finds Heat in the catalog and lists."""
        deployment = tenant.deploy()
        password = keystoneauth1.identity.Password(
            auth_url=upstream.auth_url, user_id=tenant.user, password=tenant.password, project_id=tenant.project
        )
        session = keystoneauth1.session.Session(auth=password)
        answer = session.get("/software_deployments", endpoint_filter={"service_type": "orchestration"})
        assert [item["id"] for item in answer.json()["software_deployments"]] == [deployment]
        session.session.close()


class TestAccess:
    """Who sees which deployments."""

    def test_a_reader_sees_the_own_project_only(self, upstream: Cloud, tenant: Tenant) -> None:
        """Other projects' deployments are not there."""
        deployment = tenant.deploy()
        new_tenant(upstream).deploy()
        assert list(tenant.listed()) == [deployment]

    def test_another_projects_address_is_forbidden(self, upstream: Cloud, tenant: Tenant) -> None:
        """403 for a project that exists, for one that doesn't, and for a token without a project."""
        for project in (new_tenant(upstream).project, uuid4().hex):
            url = f"{upstream.heat_url}/{project}/software_deployments"
            refused_by_heat(upstream.request("GET", url, token=tenant.token), 403, "Forbidden")
        unscoped = upstream.token(tenant.user, tenant.password)
        refused_by_heat(upstream.request("GET", tenant.url, token=unscoped), 403, "Forbidden")

    @pytest.mark.parametrize("token", [None, "bad"])
    def test_without_a_good_token(self, upstream: Cloud, tenant: Tenant, token: str | None) -> None:
        """401, for paths that don't exist too."""
        for url in (tenant.url, f"{tenant.url}-not"):
            refused(upstream.request("GET", url, token=token), 401, "Unauthorized")

    @pytest.mark.parametrize(
        ("accept", "kind"),
        [
            (None, "text/plain; charset=UTF-8"),
            ("text/plain", "text/plain; charset=UTF-8"),
            ("*/*", "text/html; charset=UTF-8"),
            ("text/*;q=0.5, image/png", "text/html; charset=UTF-8"),
            ("application/json", "application/json"),
            ("application/json, */*;q=0.1", "application/json"),
        ],
    )
    def test_a_wrong_path_is_not_found(self, upstream: Cloud, tenant: Tenant, accept: str | None, kind: str) -> None:
        """404: a page for whoever takes one, JSON for whoever likes that better, plain text for all others."""
        for url in (f"{tenant.url}-not", f"{tenant.url}/", tenant.url.rpartition("/")[0]):
            answer = upstream.request("GET", url, token=tenant.token, headers={"Accept": accept})
            assert (answer.status_code, answer.headers["Content-Type"]) == (404, kind)
            assert "404 Not Found" in answer.text
            assert "The resource could not be found." in answer.text

    def test_an_admin_sees_every_project_at_any_address(self, upstream: Cloud, tenant: Tenant) -> None:
        """The role counts, not the project where it was given, and not the one in the URL."""
        other = new_tenant(upstream)
        both = {tenant.deploy(), other.deploy()}
        boss = upstream.create_user(f"boss-{uuid4().hex}", "secret")
        upstream.grant(boss, other.project, "admin")
        for token in (upstream.admin_token, upstream.token(boss, "secret", other.project)):
            for project in (tenant.project, other.project, uuid4().hex):
                listing = json.loads(upstream.list_deployments(token, project))["software_deployments"]
                assert both <= {item["id"] for item in listing}

    def test_a_stack_users_project_sees_the_deployment_too(self, upstream: Cloud, tenant: Tenant) -> None:
        """One deployment may be in the listings of two projects."""
        other = new_tenant(upstream)
        deployment = tenant.deploy(stack_user_project_id=other.project)
        assert tenant.listed() == other.listed()
        assert tenant.listed().keys() == {deployment}

    def test_access_ends_with_the_last_role(self, upstream: Cloud, tenant: Tenant) -> None:
        """A token that was good is refused from then on."""
        token = tenant.token
        upstream.revoke(tenant.user, tenant.project)
        refused(upstream.request("GET", tenant.url, token=token), 401, "Unauthorized")
        refused(upstream.authenticate(tenant.user, tenant.password, tenant.project), 401, "Unauthorized")

    def test_access_ends_while_the_project_is_disabled(self, upstream: Cloud, tenant: Tenant) -> None:
        """And comes back with it."""
        token = tenant.token
        upstream.set_enabled(tenant.project, False)
        refused(upstream.request("GET", tenant.url, token=token), 401, "Unauthorized")
        upstream.set_enabled(tenant.project, True)
        assert tenant.get().status_code == 200

    def test_access_ends_with_the_project(self, upstream: Cloud, tenant: Tenant) -> None:
        """A deleted project is on nobody's list."""
        token = tenant.token
        upstream.delete_project(tenant.project)
        refused(upstream.request("GET", tenant.url, token=token), 401, "Unauthorized")
        unscoped = upstream.token(tenant.user, tenant.password)
        answer = upstream.request("GET", f"{upstream.auth_url}/auth/projects", token=unscoped)
        assert answer.json()["projects"] == []

    def test_a_revoked_token_is_bad(self, upstream: Cloud, tenant: Tenant) -> None:
        """The user gets a new one."""
        token = tenant.token
        upstream.revoke_token(token)
        refused(upstream.request("GET", tenant.url, token=token), 401, "Unauthorized")
        assert tenant.get().status_code == 200


class TestListing:
    """The list of software deployments as a whole."""

    def test_an_empty_list(self, tenant: Tenant) -> None:
        """An ordinary answer."""
        answer = tenant.get()
        assert answer.status_code == 200
        assert answer.content == b'{"software_deployments": []}'

    def test_it_comes_as_one_plain_body(self, upstream: Cloud, tenant: Tenant) -> None:
        """JSON with a length and Python's separators; not compressed, even when asked for."""
        for _ in range(3):
            tenant.deploy()
        answer = upstream.request(
            "GET", tenant.url, token=tenant.token, headers={"Accept-Encoding": "gzip, deflate", "Accept": "text/xml"}
        )
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["Content-Length"] == str(len(answer.content))
        assert "Content-Encoding" not in answer.headers
        assert "Transfer-Encoding" not in answer.headers
        assert answer.content.startswith(b'{"software_deployments": [{"')
        assert answer.content.endswith(b'"}]}')
        assert answer.content.count(b"}, {") == 2
        assert json.dumps(answer.json()).encode() == answer.content

    def test_parameters_it_does_not_know_change_nothing(self, tenant: Tenant) -> None:
        """There is no pagination, no sorting and no selection of fields."""
        for _ in range(3):
            tenant.deploy()
        query = {"limit": 1, "marker": "x", "sort_keys": "id", "fields": "id", "status": "FAILED"}
        assert tenant.get(**query).content == tenant.get().content

    def test_one_servers_deployments(self, tenant: Tenant) -> None:
        """The server's own ones; all for an empty server_id, none for a server nobody knows."""
        one, two = tenant.deploy("one"), tenant.deploy("two")
        assert tenant.listed(server_id="one").keys() == {one}
        assert tenant.listed(server_id="").keys() == {one, two}
        assert tenant.get(server_id="three").content == b'{"software_deployments": []}'

    def test_of_several_servers_the_last_counts(self, tenant: Tenant) -> None:
        """A repeated server_id never gives more than one server's deployments."""
        tenant.deploy("one")
        two = tenant.deploy("two")
        assert tenant.listed(server_id=["one", "two"]).keys() == {two}
        assert tenant.listed(server_id=["one", "nobody"]) == {}

    def test_other_methods_are_not_allowed(self, upstream: Cloud, tenant: Tenant) -> None:
        """405."""
        refused_by_heat(upstream.request("DELETE", tenant.url, token=tenant.token), 405, "Method Not Allowed")


class TestDeployment:
    """One item of the list, from its creation to its end."""

    def test_a_new_one(self, tenant: Tenant) -> None:
        """No updated_time at all, null for output_values, times in UTC to the second."""
        deployment = tenant.deploy("a-server", status_reason="Deploy data available", input_values={"a": "b"})
        item = tenant.listed()[deployment]
        assert item.keys() == FRESH
        assert UUID.fullmatch(item["id"])
        assert HEAT_TIME.fullmatch(item.pop("creation_time"))
        assert item == {
            "id": deployment,
            "server_id": "a-server",
            "config_id": tenant.config,
            "input_values": {"a": "b"},
            "output_values": None,
            "action": "CREATE",
            "status": "IN_PROGRESS",
            "status_reason": "Deploy data available",
        }

    def test_input_values_default_to_an_empty_object(self, tenant: Tenant) -> None:
        """Not null."""
        deployment = tenant.deploy()
        assert tenant.listed()[deployment]["input_values"] == {}

    def test_no_status_reason_is_the_text_none(self, tenant: Tenant) -> None:
        """Python's None, written out."""
        deployment = tenant.deploy(status_reason=None)
        assert tenant.listed()[deployment]["status_reason"] == "None"

    def test_what_was_not_given_is_null(self, tenant: Tenant) -> None:
        """Action and status may be missing."""
        deployment = tenant.deploy(action=None, status=None)
        item = tenant.listed()[deployment]
        assert item["action"] is None
        assert item["status"] is None

    def test_output_values_are_not_taken_at_creation(self, tenant: Tenant) -> None:
        """They come with the first report."""
        deployment = tenant.deploy(output_values={"deploy_status_code": 0})
        assert tenant.listed()[deployment]["output_values"] is None

    @pytest.mark.parametrize("code", [0, 1, -1, "0", "no number", None, 1.5, True, [0]])
    def test_a_report_is_shown_as_it_came(self, tenant: Tenant, code: Any) -> None:
        """Whatever the status code is; text beyond ASCII is escaped."""
        deployment = tenant.deploy()
        outputs = {"deploy_stdout": "grün\n", "deploy_stderr": "", "deploy_status_code": code}
        tenant.update(deployment, status="COMPLETE", status_reason="Outputs received", output_values=outputs)
        answer = tenant.get()
        item = answer.json()["software_deployments"][0]
        assert item.keys() == FRESH | {"updated_time"}
        assert HEAT_TIME.fullmatch(item["updated_time"])
        assert (item["status"], item["status_reason"]) == ("COMPLETE", "Outputs received")
        assert item["output_values"] == outputs
        assert rb"gr\u00fcn\n" in answer.content

    def test_the_next_action_keeps_the_last_report(self, tenant: Tenant) -> None:
        """Same id, same creation_time, old output_values until new ones come."""
        deployment = tenant.deploy()
        tenant.update(deployment, status="COMPLETE", output_values={"deploy_status_code": 3})
        before = tenant.listed()[deployment]
        tenant.update(deployment, action="UPDATE", status="IN_PROGRESS", status_reason="Deploy data available")
        after = tenant.listed()[deployment]
        assert (after["action"], after["status"]) == ("UPDATE", "IN_PROGRESS")
        assert after["output_values"] == {"deploy_status_code": 3}
        assert after["creation_time"] == before["creation_time"] <= before["updated_time"] <= after["updated_time"]
        tenant.update(deployment, status="FAILED", output_values={"deploy_status_code": 4})
        assert tenant.listed()[deployment]["output_values"] == {"deploy_status_code": 4}

    def test_undocumented_words_are_kept(self, tenant: Tenant) -> None:
        """Heat checks neither status nor action."""
        deployment = tenant.deploy()
        tenant.update(deployment, status="ODD", action="NOVEL")
        item = tenant.listed()[deployment]
        assert (item["status"], item["action"]) == ("ODD", "NOVEL")

    def test_another_config(self, upstream: Cloud, tenant: Tenant) -> None:
        """A deployment made over the API keeps the config it names, until it is given another."""
        deployment = tenant.deploy()
        config = upstream.create_config(upstream.writer(tenant.project), tenant.project, "another")
        tenant.update(deployment, config_id=config)
        assert tenant.listed()[deployment]["config_id"] == config

    def test_deleted(self, upstream: Cloud, tenant: Tenant) -> None:
        """It leaves the list, and there is nothing to change or to delete any more."""
        deployment, other = tenant.deploy(), tenant.deploy()
        writer = upstream.writer(tenant.project)
        upstream.delete_deployment(writer, tenant.project, deployment)
        assert tenant.listed().keys() == {other}
        url = f"{tenant.url}/{deployment}"
        refused_by_heat(upstream.request("DELETE", url, token=writer), 404, "Not Found")
        refused_by_heat(upstream.request("PUT", url, token=writer, json={"status": "FAILED"}), 404, "Not Found")


OWN = {"date", "server", "connection", "content-length", "x-openstack-request-id"}
"""Headers that depend on what serves a service, or name a request."""


def seen(cloud: Cloud) -> dict[str, tuple[int, dict[str, str], Any]]:
    """By name, how a cloud answers all that a client may ask: status, headers, and a body's keys and types."""
    tenant = new_tenant(cloud)
    tenant.deploy()
    token = {"token": tenant.token}
    configs = f"{cloud.heat_url}/{tenant.project}/software_configs"
    identifier, secret = cloud.application_credential(tenant.user, tenant.password, tenant.project)
    credential = {"id": identifier, "secret": secret}
    answers = {
        "services": cloud.request("GET", f"{cloud.heat_url.rpartition('/v1')[0]}/"),
        "identity": cloud.request("GET", cloud.auth_url.removesuffix("v3")),
        "version": cloud.request("GET", cloud.auth_url),
        "token": cloud.authenticate(tenant.user, tenant.password, tenant.project),
        "unscoped token": cloud.authenticate(tenant.user, tenant.password),
        "wrong password": cloud.authenticate(tenant.user, "wrong", tenant.project),
        "credential": cloud.request_token(
            {"methods": ["application_credential"], "application_credential": credential}
        ),
        "no identity": cloud.request("POST", f"{cloud.auth_url}/auth/tokens", json={}),
        "projects": cloud.request("GET", f"{cloud.auth_url}/auth/projects", **token),
        "projects without a token": cloud.request("GET", f"{cloud.auth_url}/auth/projects"),
        "catalog": cloud.request("GET", f"{cloud.auth_url}/auth/catalog", **token),
        "listing": cloud.request("GET", tenant.url, **token),
        "head": cloud.request("HEAD", tenant.url, **token),
        "options": cloud.request("OPTIONS", tenant.url, **token),
        "another method": cloud.request("DELETE", tenant.url, **token),
        "without a token": cloud.request("GET", tenant.url),
        "bad token": cloud.request("GET", tenant.url, token="bad"),
        "another project": cloud.request("GET", tenant.url.replace(tenant.project, "another"), **token),
        "wrong path": cloud.request("GET", f"{tenant.url}-not", **token),
        "unknown deployment": cloud.request("GET", f"{tenant.url}/{uuid4()}", **token),
        "configs": cloud.request("GET", configs, **token),
        "impossible limit": cloud.request("GET", configs, params={"limit": "x"}, **token),
    }
    known = {
        f"{cloud.auth_url.removesuffix('/v3')}/": "<identity>/",
        cloud.auth_url: "<identity>",
        answers["token"].headers["X-Subject-Token"]: "<token>",
    }
    for answer in answers.values():
        known[answer.headers.get("X-Subject-Token", "")] = "<token>"

    def header(text: str) -> str:
        for value, name in known.items():
            text = text.replace(value, name) if value else text
        return text

    return {
        name: (
            answer.status_code,
            {key.lower(): header(value) for key, value in answer.headers.items() if key.lower() not in OWN},
            shape(answer),
        )
        for name, answer in answers.items()
    }


def shape(answer: requests.Response) -> Any:
    """The keys and types of a body of JSON, any other body as it is."""

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: of(each) for key, each in sorted(value.items())}
        return [of(value[0])] if isinstance(value, list) and value else type(value).__name__

    return (
        of(answer.json()) if answer.headers.get("Content-Type") == "application/json" and answer.text else answer.text
    )


@REAL
def test_the_simulator_answers_as_it_does(openstack: OpenStack) -> None:
    """Each answer of a real Keystone and Heat, of either release, has the simulator's status, headers and fields."""
    with simulated_cloud() as simulated:
        expected = seen(simulated)
    found = seen(openstack)
    assert len(found) > 20
    assert found == expected


@REAL
def test_rows_written_into_heats_database_read_like_any_others(openstack: OpenStack) -> None:
    """So that a large listing, which the API would take hours to fill, is a real one."""
    tenant = new_tenant(openstack)
    made = tenant.deploy("a-server")
    tenant.update(made, status="COMPLETE", output_values={"deploy_status_code": 0})
    never = {"updated_time": None, "output_values": None, "status": "IN_PROGRESS", "server_id": "a-server"}
    written = openstack.insert_deployments(tenant.project, 500, row=lambda number: never if number == 7 else {})
    listed = tenant.listed()
    assert listed.keys() == {made, *written}
    assert listed[written[7]].keys() == FRESH
    assert listed[written[8]].keys() == listed[made].keys()
    assert HEAT_TIME.fullmatch(listed[written[8]]["updated_time"])
    assert len(listed[written[8]]["output_values"]["deploy_stdout"]) == 1500
    assert tenant.listed(server_id="a-server").keys() == {made, written[7]}
    openstack.wipe(tenant.project)
    assert tenant.listed() == {}


class TestConfigs:
    """The list of software configs."""

    def test_page_by_page(self, upstream: Cloud, tenant: Tenant) -> None:
        """Each once, with id, name, group and time; what they install is not in the list."""
        writer = upstream.writer(tenant.project)
        for number in range(4):
            upstream.create_config(writer, tenant.project, f"config {number}", group="ansible")
        url = f"{upstream.heat_url}/{tenant.project}/software_configs"
        pages: list[list[dict[str, Any]]] = [[]]
        query: dict[str, Any] = {"limit": 2}
        while len(pages) == 1 or pages[-1]:
            answer = upstream.request("GET", url, token=tenant.token, params=query)
            assert answer.status_code == 200
            assert answer.headers["Content-Type"] == "application/json"
            pages.append(answer.json()["software_configs"])
            query = {"limit": 2, "marker": pages[-1][-1]["id"]} if pages[-1] else {}
        assert [len(page) for page in pages] == [0, 2, 2, 1, 0]
        configs = [config for page in pages for config in page]
        assert {config["name"] for config in configs} == {"install-agent", *(f"config {n}" for n in range(4))}
        assert {config["group"] for config in configs} == {"script", "ansible"}
        for config in configs:
            assert config.keys() == {"id", "name", "group", "creation_time"}
            assert UUID.fullmatch(config["id"])
            assert HEAT_TIME.fullmatch(config["creation_time"])
        everything = upstream.request("GET", url, token=tenant.token).json()["software_configs"]
        assert [config["id"] for config in everything] == [config["id"] for config in configs]

    def test_an_impossible_limit(self, upstream: Cloud, tenant: Tenant) -> None:
        """400."""
        url = f"{upstream.heat_url}/{tenant.project}/software_configs"
        for limit in ("x", "-1"):
            answer = upstream.request("GET", url, token=tenant.token, params={"limit": limit})
            refused_by_heat(answer, 400, "Bad Request")

    def test_other_projects_configs_are_out_of_reach(self, upstream: Cloud, tenant: Tenant) -> None:
        """403, as for deployments."""
        url = f"{upstream.heat_url}/{new_tenant(upstream).project}/software_configs"
        refused_by_heat(upstream.request("GET", url, token=tenant.token), 403, "Forbidden")
