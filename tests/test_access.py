"""Access to a cloud over sockets: where credentials come from, how tokens are shared and renewed, what TLS checks."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from structlog.testing import capture_logs

from exporter.common.deadline import Deadline
from exporter.common.errors import AnswerError, ConfigError, RefreshError
from exporter.openstack.session import CloudSession
from tests import harness
from tests.harness import (
    DEADLINE,
    FIRST,
    SECOND,
    Authority,
    Cloud,
    Front,
    Hands,
    Hold,
    Samples,
    answering,
    configuration,
    front_of,
    page_of,
    run,
    serving,
    tls_front,
    watch_of,
)

cloud = harness.cloud
pytestmark = harness.sdk_warning

CURRENT = configuration(clouds=[{"name": "sim", "cloud": "simulator", "projects": "current"}])
ENVIRONMENT = configuration(clouds=[{"name": "sim"}])


@asynccontextmanager
async def opened(
    entry: str | None = "simulator", *, hands: Hands | None = None, **limits: float
) -> AsyncIterator[CloudSession]:
    """Access to the simulated cloud."""
    settings: dict[str, Any] = {"requests_per_second": 1000, "timeout": 15, "silence": 15, **limits}
    if hands is not None:
        settings["clock"] = hands.clock.steady
    async with CloudSession(name="sim", entry=entry, **settings) as access:
        yield access


def stopwatch() -> Deadline:
    """A stopwatch that never rings."""
    return Deadline(3600)


async def once(cloud: Cloud, settings: Any = None) -> Samples:
    """The page after one round."""
    async with cloud.fleet(settings) as fleet:
        await fleet.once()
        return page_of(fleet)


# -- where credentials come from


async def test_a_password_of_clouds_yaml(cloud: Cloud):
    """A clouds.yaml entry with user and password is enough to see every project."""
    page = await once(cloud)
    assert page.cells("heat_up", "project") == {FIRST: 1, SECOND: 1}


async def test_an_application_credential_of_clouds_yaml(cloud: Cloud):
    """An application credential gives its one project, and is never sent with a scope."""
    cloud.write(cloud.entry(application_credential=True))
    page = await once(cloud)
    assert page.cells("heat_up", "project") == {FIRST: 1}
    assert cloud.authentications() == 1
    assert page.value("heat_discovery_up", cloud="sim") == 1


async def test_an_application_credential_is_renewed(cloud: Cloud):
    """When its token is refused, an application credential gets another one, without a scope."""
    cloud.write(cloud.entry(application_credential=True))
    async with cloud.fleet() as fleet:
        await fleet.once()
        cloud.revoke()
        await watch_of(fleet).refresh()
        assert page_of(fleet).value("heat_up", project=FIRST) == 1
        assert not page_of(fleet).select("heat_refresh_failures_total")
    assert cloud.authentications() == 2


def bare_token(cloud: Cloud, project: str = FIRST) -> str:
    """A token of the monitor's for one project."""
    return cloud.world.issue(cloud.world.user("monitor").id, cloud.project(project).id).id


async def test_a_token_of_clouds_yaml(cloud: Cloud):
    """A bare token serves while it lasts; its end is an `auth` failure, for nothing can renew it."""
    auth = {"auth_url": cloud.simulator.auth_url, "token": bare_token(cloud), "project_id": cloud.project().id}
    cloud.write({**cloud.entry(), "auth_type": "v3token", "auth": auth})
    async with cloud.fleet(CURRENT) as fleet:
        await fleet.once()
        assert page_of(fleet).cells("heat_up", "project") == {FIRST: 1}
        cloud.revoke()
        await watch_of(fleet).refresh()
        page = page_of(fleet)
        assert page.value("heat_up", project=FIRST) == 0
        assert page.cells("heat_refresh_failures_total", "reason") == {"auth": 1}


async def test_the_environment_alone(cloud: Cloud):
    """`OS_*` variables without any clouds.yaml are enough."""
    cloud.monkeypatch.delenv("OS_CLIENT_CONFIG_FILE")
    (cloud.folder / "clouds.yaml").unlink()
    auth = cloud.entry()["auth"]
    for name, value in {**auth, "identity_api_version": "3", "region_name": "RegionOne"}.items():
        cloud.monkeypatch.setenv(f"OS_{name.upper()}", value)
    page = await once(cloud, ENVIRONMENT)
    assert page.cells("heat_up", "project") == {FIRST: 1, SECOND: 1}


async def test_an_application_credential_of_the_environment(cloud: Cloud):
    """An application credential in `OS_*` variables works like one in clouds.yaml."""
    cloud.monkeypatch.delenv("OS_CLIENT_CONFIG_FILE")
    (cloud.folder / "clouds.yaml").unlink()
    for name, value in cloud.entry(application_credential=True)["auth"].items():
        cloud.monkeypatch.setenv(f"OS_{name.upper()}", value)
    cloud.monkeypatch.setenv("OS_AUTH_TYPE", "v3applicationcredential")
    assert (await once(cloud, ENVIRONMENT)).cells("heat_up", "project") == {FIRST: 1}


async def test_os_cloud_names_the_entry(cloud: Cloud):
    """Without `cloud:` in the configuration, `OS_CLOUD` names the clouds.yaml entry."""
    other = {**cloud.entry(), "auth": {**cloud.entry()["auth"], "password": "wrong"}}
    cloud.write(None, other=other)
    cloud.monkeypatch.setenv("OS_CLOUD", "simulator")
    assert (await once(cloud, ENVIRONMENT)).total("heat_up") == 2
    cloud.monkeypatch.setenv("OS_CLOUD", "other")
    page = await once(cloud, ENVIRONMENT)
    assert page.cells("heat_discovery_failures_total", "api", "reason") == {("identity", "auth"): 1}


async def test_secure_yaml_holds_the_password(cloud: Cloud):
    """The secret may stand in secure.yaml, apart from the rest."""
    entry = cloud.entry()
    password = entry["auth"].pop("password")
    cloud.write(entry)
    secure = {"clouds": {"simulator": {"auth": {"password": password}}}}
    cloud.monkeypatch.setenv("OS_CLIENT_SECURE_FILE", str(cloud.put("secure.yaml", yaml.safe_dump(secure))))
    assert (await once(cloud)).total("heat_up") == 2


@pytest.mark.parametrize("suffix", ["/v3", "/v3/", "", "/"])
async def test_the_address_of_keystone_with_or_without_its_version(cloud: Cloud, suffix: str):
    """`auth_url` may name the version or leave it out, with or without a slash."""
    entry = cloud.entry()
    cloud.write({**entry, "auth": {**entry["auth"], "auth_url": cloud.simulator.url + suffix}})
    assert (await once(cloud)).cells("heat_up", "project") == {FIRST: 1, SECOND: 1}


# -- what can't be used


async def refusal(cloud: Cloud, settings: Any = None) -> str:
    """The text of the ConfigError that opening ends with."""
    with pytest.raises(ConfigError) as caught:
        async with cloud.fleet(settings):
            pytest.fail("it opened")
    return str(caught.value)


async def test_a_cloud_that_is_not_there(cloud: Cloud):
    """A cloud that clouds.yaml does not have is a ConfigError that names both names."""
    text = await refusal(cloud, configuration(clouds=[{"name": "label", "cloud": "nowhere"}]))
    assert "'label'" in text
    assert "nowhere" in text


async def test_no_credentials_at_all(cloud: Cloud):
    """With nothing to go by, the message says what to set."""
    cloud.monkeypatch.delenv("OS_CLIENT_CONFIG_FILE")
    (cloud.folder / "clouds.yaml").unlink()
    text = await refusal(cloud, ENVIRONMENT)
    assert "OS_CLOUD" in text
    assert "OS_AUTH_URL" in text


BROKEN_FILES = {
    "no YAML": "clouds: {simulator: [",
    "another shape": "clouds: [simulator]",
    "an entry that is none": "clouds: {simulator: 5}",
    "credentials that are none": "clouds: {simulator: {auth: 5}}",
    "an unknown kind of credentials": "clouds: {simulator: {auth_type: magic, auth: {auth_url: 'http://127.0.0.1/v3'}}}",
    "no address": "clouds: {simulator: {auth: {username: monitor, password: secret}}}",
    "empty": "",
}


@pytest.mark.parametrize("text", BROKEN_FILES.values(), ids=BROKEN_FILES.keys())
async def test_a_clouds_yaml_that_cannot_be_used(cloud: Cloud, text: str):
    """Whatever is wrong with clouds.yaml, it is a ConfigError that names the cloud, before anything is asked."""
    cloud.put("clouds.yaml", text)
    assert "cloud 'sim': " in await refusal(cloud)
    assert len(cloud.requests) == 0


@pytest.mark.parametrize("key", ["cacert", "cert"])
async def test_certificates_that_are_not_there(cloud: Cloud, key: str):
    """A certificate file that can't be read is a ConfigError that names the file."""
    cloud.write({**cloud.entry(), key: "/nowhere/file.pem"})
    text = await refusal(cloud)
    assert "/nowhere/file.pem" in text
    assert "sim" in text


async def test_a_certificate_that_is_none(cloud: Cloud):
    """A CA bundle that is no certificate is a ConfigError that names the file."""
    path = cloud.put("ca.pem", "nonsense")
    cloud.write({**cloud.entry(), "cacert": str(path)})
    assert str(path) in await refusal(cloud)


# -- tokens


async def test_concurrent_refusals_share_one_renewal(cloud: Cloud):
    """Ten who had the same token refused at the same moment wait for one authentication, and get the same new token."""
    async with opened() as access, stopwatch() as watch:
        refused = await access.token(stopwatch=watch)
        cloud.requests.clear()
        renewed = await asyncio.gather(*(access.token(stopwatch=watch, rejected=refused) for _ in range(10)))
        assert cloud.authentications() == 1
        assert {token.value for token in renewed} == {renewed[0].value}
        assert renewed[0].value != refused.value
        # Who comes late with the old one gets the new one.
        assert await access.token(stopwatch=watch, rejected=refused) is renewed[0]
        assert cloud.authentications() == 1


async def test_concurrent_first_uses_share_one_authentication(cloud: Cloud):
    """Ten who need a project's first token at once cause one authentication, for each project its own."""
    async with opened() as access, stopwatch() as watch:
        ids = [cloud.project(FIRST).id, cloud.project(SECOND).id] * 10
        tokens = await asyncio.gather(*(access.token(project_id, stopwatch=watch) for project_id in ids))
        assert cloud.authentications() == 2
        assert [token.project_id for token in tokens] == ids
        assert access.traffic.authentications == 2


async def test_a_failed_renewal_is_everybodys_and_is_tried_again(cloud: Cloud):
    """All who wait for an authentication that fails get its reason; the next one tries anew."""
    async with opened() as access, stopwatch() as watch:
        cloud.authentication(answering(500))
        results = await asyncio.gather(*(access.token(stopwatch=watch) for _ in range(5)), return_exceptions=True)
        assert cloud.authentications() == 1
        assert {type(result) for result in results} == {AnswerError}
        assert {result.reason for result in results if isinstance(result, RefreshError)} == {"server_error"}
        cloud.mend()
        assert (await access.token(stopwatch=watch)).project_name == FIRST


async def test_a_waiter_that_is_cancelled_cancels_nobody_else(cloud: Cloud):
    """Who gives up waiting for an authentication does not take it away from the others."""
    hold = Hold()
    cloud.authentication(hold)
    async with opened() as access, stopwatch() as watch:
        first = asyncio.create_task(access.token(stopwatch=watch))
        second = asyncio.create_task(access.token(stopwatch=watch))
        await asyncio.wait_for(hold.entered.wait(), DEADLINE)
        first.cancel()
        await asyncio.wait([first], timeout=DEADLINE)
        assert first.cancelled()
        hold.released.set()
        assert (await asyncio.wait_for(second, DEADLINE)).project_name == FIRST
        assert cloud.authentications() == 1


async def test_a_token_is_renewed_before_its_end(cloud: Cloud):
    """A token of an hour is used for 58 minutes and then replaced, without having been refused."""
    hands = Hands()
    async with opened(hands=hands) as access, stopwatch() as watch:
        first = await access.token(stopwatch=watch)
        hands.advance(3600 - 121)
        assert await access.token(stopwatch=watch) is first
        hands.advance(2)
        second = await access.token(stopwatch=watch)
        assert second.value != first.value
        assert cloud.authentications() == 2


async def test_a_short_token_is_used_for_most_of_its_life(cloud: Cloud):
    """A token of a minute is used for 54 seconds, not thrown away at once."""
    cloud.world.plan = harness.Plan(churn=0, token_lifetime=60)
    hands = Hands()
    async with opened(hands=hands) as access, stopwatch() as watch:
        first = await access.token(stopwatch=watch)
        hands.advance(53)
        assert await access.token(stopwatch=watch) is first
        hands.advance(2)
        assert await access.token(stopwatch=watch) is not first


async def test_a_forgotten_project_has_no_token(cloud: Cloud):
    """What is kept for a project is dropped with it."""
    async with opened() as access, stopwatch() as watch:
        second = cloud.project(SECOND).id
        await access.token(second, stopwatch=watch)
        access.forget(second)
        await access.token(second, stopwatch=watch)
        assert cloud.authentications() == 2


async def test_the_entrys_own_project_shares_its_token(cloud: Cloud):
    """Discovery and the entry's own project use one token: one authentication less."""
    async with opened() as access, stopwatch() as watch:
        scope = await access.token(stopwatch=watch)
        assert await access.token(scope.project_id, stopwatch=watch) is scope
        assert cloud.authentications() == 1


async def test_other_projects_need_no_names_of_the_entry(cloud: Cloud):
    """The entry's project, by name and domain, is replaced whole where a token for another project is asked for."""
    elsewhere = cloud.world.add_domain("elsewhere")
    other = cloud.add_project("other", domain_id=elsewhere)
    async with opened() as access, stopwatch() as watch:
        token = await access.token(other.id, stopwatch=watch)
        assert (token.project_id, token.project_name, token.domain_name) == (other.id, "other", "elsewhere")
        assert token.endpoints["orchestration"] == f"{cloud.simulator.url}/heat/v1/{other.id}"


# -- where Heat is


async def catalog(cloud: Cloud, endpoints: list[dict[str, str]]) -> None:
    """Let Keystone's tokens come with these endpoints for Heat."""

    async def authenticate(request: web.BaseRequest) -> web.StreamResponse:
        wanted = json.loads(await request.read())["auth"].get("scope", {}).get("project", {})
        project_id = wanted.get("id") or cloud.project(wanted["name"]).id
        token = cloud.world.issue(cloud.world.user("monitor").id, project_id)
        body = {
            "token": {
                "methods": ["password"],
                "user": {"id": token.user_id, "name": "monitor", "domain": {"id": "default", "name": "Default"}},
                "project": {
                    "id": project_id,
                    "name": cloud.world.projects[project_id].name,
                    "domain": {"id": "default", "name": "Default"},
                },
                "roles": [],
                "issued_at": "2024-01-01T00:00:00.000000Z",
                "expires_at": "2024-01-01T01:00:00.000000Z",
                "catalog": [
                    {
                        "type": "orchestration",
                        "name": "heat",
                        "id": "1",
                        "endpoints": [
                            {
                                **each,
                                "id": "1",
                                "region_id": each["region"],
                                "url": each["url"].replace("PROJECT", project_id),
                            }
                            for each in endpoints
                        ],
                    }
                ],
            }
        }
        answer = web.json_response(body, status=201)
        answer.headers["X-Subject-Token"] = token.id
        return answer

    cloud.authentication(authenticate)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "public-one"),
        ({"region_name": "Two"}, "public-two"),
        ({"interface": "internal"}, "internal-one"),
        ({"interface": "internal", "region_name": "Two"}, "internal-two"),
        ({"orchestration_interface": "internal"}, "internal-one"),
        ({"orchestration_endpoint_override": "OVERRIDE"}, "override"),
    ],
    ids=str,
)
async def test_the_endpoint_is_the_entrys_choice(cloud: Cloud, settings: dict[str, str], expected: str):
    """Region, interface and override of the entry choose among the catalog's endpoints for Heat."""
    await catalog(
        cloud,
        [
            {
                "interface": interface,
                "region": region,
                "url": f"{cloud.simulator.url}/{interface}-{region.lower()}/PROJECT",
            }
            for region in ("One", "Two")
            for interface in ("internal", "admin", "public")
        ],
    )
    entry = {**cloud.entry(), "region_name": "One"}
    override = f"{cloud.simulator.url}/override/%(project_id)s/"
    cloud.write({**entry, **{key: value.replace("OVERRIDE", override) for key, value in settings.items()}})
    async with opened() as access, stopwatch() as watch:
        for name in (FIRST, SECOND):
            token = await access.token(cloud.project(name).id, stopwatch=watch)
            assert token.endpoints["orchestration"] == f"{cloud.simulator.url}/{expected}/{cloud.project(name).id}"


@pytest.mark.parametrize("form", ["%(tenant_id)s", "%(project_id)s", "$(tenant_id)s", "$(project_id)s"])
async def test_an_override_may_have_the_catalogs_placeholders(cloud: Cloud, form: str):
    """An override's placeholder, in each of its spellings, stands for the project that is asked for."""
    cloud.write({**cloud.entry(), "orchestration_endpoint_override": f"{cloud.simulator.url}/heat/v1/{form}"})
    assert (await once(cloud)).cells("heat_up", "project") == {FIRST: 1, SECOND: 1}


# -- TLS


def through(cloud: Cloud, url: str, **settings: Any) -> None:
    """Write an entry that reaches the cloud at another address."""
    entry = cloud.entry()
    cloud.write({**entry, "auth": {**entry["auth"], "auth_url": f"{url}/v3"}, **settings})


async def test_cacert_is_for_our_own_requests_too(cloud: Cloud, tmp_path: Path):
    """With the entry's `cacert`, Keystone and Heat are both reached over TLS, and verified against it."""
    authority = Authority(tmp_path)
    async with tls_front(cloud.simulator, authority) as front:
        through(cloud, front.url, cacert=str(authority.file))
        page = await once(cloud)
        assert page.cells("heat_up", "project") == {FIRST: 1, SECOND: 1}
        assert f"/heat/v1/{cloud.project().id}/software_deployments" in front.paths
        front.paths.clear()
        through(cloud, front.url, cacert=str(Authority(tmp_path, "stranger").file))
        page = await once(cloud)
        assert page.cells("heat_discovery_failures_total", "api", "reason") == {("identity", "tls"): 1}
        assert front.paths == []


async def test_verify_false_is_for_our_own_requests_too(cloud: Cloud, tmp_path: Path):
    """`verify: false` reaches both, whatever their certificate."""
    async with tls_front(cloud.simulator, Authority(tmp_path)) as front:
        through(cloud, front.url, verify=False)
        with pytest.warns(match="Unverified HTTPS request"):
            page = await once(cloud)
        assert page.cells("heat_up", "project") == {FIRST: 1, SECOND: 1}


async def test_the_usual_authorities(cloud: Cloud, tmp_path: Path):
    """Without any setting the machine's authorities are trusted, and no other."""
    cloud.monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    async with tls_front(cloud.simulator, Authority(tmp_path)) as front:
        override = f"{front.url}/heat/v1/%(project_id)s"
        through(cloud, cloud.simulator.url, orchestration_endpoint_override=override)
        page = await once(cloud)
        assert page.cells("heat_refresh_failures_total", "project", "reason") == {(FIRST, "tls"): 1, (SECOND, "tls"): 1}
        assert front.paths == []


async def test_the_environments_ca_bundle(cloud: Cloud, tmp_path: Path):
    """`REQUESTS_CA_BUNDLE` is for both, as `requests` has it."""
    authority = Authority(tmp_path)
    cloud.monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
    async with tls_front(cloud.simulator, authority) as front:
        through(cloud, front.url)
        assert (await once(cloud)).cells("heat_up", "project") == {FIRST: 1, SECOND: 1}


@pytest.mark.parametrize("apart", [True, False], ids=["cert and key", "one file"])
async def test_a_client_certificate_is_for_our_own_requests_too(cloud: Cloud, tmp_path: Path, apart: bool):
    """A cloud that insists on a client certificate gets the entry's with every request."""
    authority, clients = Authority(tmp_path), Authority(tmp_path, "clients")
    cert, key = clients.issue("monitor")
    if not apart:
        cert.write_bytes(cert.read_bytes() + key.read_bytes())
    files = {"cert": str(cert)} | ({"key": str(key)} if apart else {})
    async with tls_front(cloud.simulator, authority, client_authority=clients) as front:
        through(cloud, front.url, cacert=str(authority.file), **files)
        page = await once(cloud)
        assert page.cells("heat_up", "project") == {FIRST: 1, SECOND: 1}
        assert len(front.clients) >= 5
        assert all(client["subject"] == ((("commonName", "monitor"),),) for client in front.clients)
        front.paths.clear()
        through(cloud, front.url, cacert=str(authority.file))
        page = await once(cloud)
        assert page.value("heat_discovery_up", cloud="sim") == 0
        assert front.paths == []


async def test_the_name_in_the_certificate_is_checked(cloud: Cloud, tmp_path: Path):
    """A certificate of the right authority for another host is `tls`, for Keystone and for Heat."""
    authority = Authority(tmp_path)
    async with tls_front(cloud.simulator, authority, listen="127.0.0.2") as wrong:
        through(cloud, wrong.url, cacert=str(authority.file))
        page = await once(cloud)
        assert page.cells("heat_discovery_failures_total", "api", "reason") == {("identity", "tls"): 1}
        override = f"{wrong.url}/heat/v1/%(project_id)s"
        through(cloud, cloud.simulator.url, cacert=str(authority.file), orchestration_endpoint_override=override)
        page = await once(cloud)
        found = page.cells("heat_refresh_failures_total", "project", "api", "reason")
        assert found == {(FIRST, "orchestration", "tls"): 1, (SECOND, "orchestration", "tls"): 1}
        assert wrong.paths == []


async def test_each_cloud_has_its_own_authority(cloud: Cloud, tmp_path: Path):
    """Clouds side by side go each by the `cacert` of its own entry: two over TLS with different authorities and one
    without TLS are refreshed on and on, while two whose authority is another cloud's fail with `tls`, in Keystone and
    in Heat, and not one request of theirs gets through."""
    red, blue = Authority(tmp_path, "red"), Authority(tmp_path, "blue")
    plain = cloud.entry()

    def over(front: Front, authority: Authority) -> dict[str, Any]:
        return {**plain, "auth": {**plain["auth"], "auth_url": f"{front.url}/v3"}, "cacert": str(authority.file)}

    async with (
        tls_front(cloud.simulator, red) as red_front,
        tls_front(cloud.simulator, blue) as blue_front,
        tls_front(cloud.simulator, blue) as unreached,
    ):
        heat = f"{unreached.url}/heat/v1/%(project_id)s"
        entries = {
            "plain": plain,
            "red": over(red_front, red),
            "blue": over(blue_front, blue),
            "wrong": over(unreached, red),
            "wrong-heat": {**plain, "cacert": str(red.file), "orchestration_endpoint_override": heat},
        }
        cloud.write(None, **entries)
        good = ("plain", "red", "blue")
        async with cloud.exporter(configuration(clouds=[{"cloud": name} for name in entries])) as exporter:

            def refreshed(page: Samples, name: str) -> float:
                return page.get("heat_refreshes_total", cloud=name, project=FIRST) or 0

            page = await exporter.when(
                lambda page: bool(
                    page.get("heat_discovery_up", cloud="wrong") == 0
                    and page.get("heat_up", cloud="wrong-heat", project=FIRST) == 0
                    and page.get("heat_up", cloud="wrong-heat", project=SECOND) == 0
                    and all(refreshed(page, name) for name in good)
                )
            )
            before = {name: refreshed(page, name) for name in good}
            page = await exporter.when(lambda page: all(refreshed(page, name) >= before[name] + 3 for name in good))
        for name in good:
            assert page.cells("heat_up", "project", cloud=name) == {FIRST: 1, SECOND: 1}
            assert page.value("heat_discovery_up", cloud=name) == 1
        found = page.cells("heat_discovery_failures_total", "cloud", "api", "reason")
        assert found.keys() == {("wrong", "identity", "tls")}
        found = page.cells("heat_refresh_failures_total", "cloud", "api", "reason")
        assert found.keys() == {("wrong-heat", "orchestration", "tls")}
        for front in (red_front, blue_front):
            assert f"/heat/v1/{cloud.project().id}/software_deployments" in front.paths
        assert unreached.paths == []


# -- proxies


async def test_proxies_of_the_environment_are_used(cloud: Cloud):
    """`HTTP_PROXY` is for Keystone and for Heat alike; `NO_PROXY` takes them out again."""
    async with front_of(cloud.simulator) as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            cloud.monkeypatch.setenv(name, proxy.url)
        assert (await once(cloud)).total("heat_up") == 2
        assert sorted(proxy.paths) == sorted(each.path for each in cloud.requests)
        assert f"/heat/v1/{cloud.project().id}/software_deployments" in proxy.paths
        assert "/v3/auth/tokens" in proxy.paths
        for name in ("NO_PROXY", "no_proxy"):
            cloud.monkeypatch.setenv(name, "127.0.0.1")
        proxy.paths.clear()
        assert (await once(cloud)).total("heat_up") == 2
        assert proxy.paths == []


# -- secrets


async def test_secrets_are_in_no_repr_and_no_error(cloud: Cloud):
    """Neither a token's value nor a password is in the repr of what holds it, nor in an error's text."""
    async with opened() as access, stopwatch() as watch:
        token = await access.token(stopwatch=watch)
        assert token.value in cloud.world.tokens
        assert token.value not in repr(token)
        assert token.value not in str(token)
        assert harness.PASSWORD not in repr(access)
        cloud.authentication(answering(401))
        with pytest.raises(AnswerError) as caught:
            await access.token(stopwatch=watch, rejected=token)
        assert harness.PASSWORD not in str(caught.value)
        assert token.value not in repr(caught.value)
        assert caught.value.__suppress_context__


async def test_secrets_are_in_no_log_and_on_no_page(cloud: Cloud):
    """At level debug, through failures and renewals, the process writes no password, token or user's output."""
    password = "pass-word-7f3a"
    cloud.world.user("monitor").password = password
    cloud.write()
    cloud.deploy(status="FAILED", code=5, input_values={"key": "input-secret"})
    async with serving("--config.file", cloud.configure(), "--log.level", "debug") as (process, exporter):
        await exporter.when(lambda page: page.total("heat_up") == 2)
        values = set(cloud.world.tokens)
        cloud.revoke()
        cloud.listing(answering(401, b"{}"), SECOND)
        await exporter.when(lambda page: page.get("heat_up", project=SECOND) == 0)
        values |= set(cloud.world.tokens)
        await cloud.simulator.stop()
        await exporter.when(lambda page: page.get("heat_up", project=FIRST) == 0)
        pages = [(await exporter.get(path)).text for path in ("/metrics", "/")]
        assert await process.stopped(15) == 0
    assert len(values) >= 3
    text = "\n".join([*process.lines, *process.output, *pages])
    for secret in (password, "input-secret", "secret-output", *values):
        assert secret not in text


async def test_once_and_check_print_no_secret(cloud: Cloud):
    """What the commands print about a refused password or application credential does not repeat it."""
    entry = cloud.entry(application_credential=True)
    auth = {**entry["auth"], "application_credential_secret": "wrong-secret-91c2"}
    cloud.write({**entry, "auth": auth})
    done = await run("check", "--config.file", cloud.configure(), "--log.level", "debug")
    assert done.status == 1
    assert "wrong-secret-91c2" not in done.stdout + done.stderr


def test_the_environment_of_these_tests_is_their_own(cloud: Cloud):
    """No variable of the machine leads these tests to a real cloud."""
    assert {name for name in os.environ if name.startswith("OS_")} == {"OS_CLIENT_CONFIG_FILE"}


async def test_access_is_logged_once_when_bound_to_a_project(cloud: Cloud):
    """With an application credential, `discover` means the current project, which the log says once."""
    cloud.write(cloud.entry(application_credential=True))
    with capture_logs() as logs:
        async with cloud.fleet() as fleet:
            for _ in range(3):
                await fleet.clouds["sim"].discover()
    assert len([line for line in logs if "application credential" in line["event"]]) == 1
