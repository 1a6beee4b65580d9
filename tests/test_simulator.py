"""The simulator: a world that lives, and a server that tests can watch and break.

That it answers like a real Keystone and Heat is the business of `test_upstream`.
"""

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import openstack.config
import pytest
import yaml
from aiohttp import web

from exporter.cli.commands import simulate
from exporter.simulator import Churn, Deployment, Plan, Refused, Simulator, World, build
from exporter.simulator.outputs import STYLES, Style

STILL = Plan(projects=2, disabled_projects=1, servers=6, deployments=40, churn=0)
NOON = 1_700_000_000.0


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self, seconds: float = NOON) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Client:
    """A user of the simulator over its sockets."""

    http: aiohttp.ClientSession
    simulator: Simulator

    async def authenticate(self, user: str, project: str | None) -> aiohttp.ClientResponse:
        """Ask for a token by password."""
        who = {"name": user, "domain": {"id": "default"}, "password": "secret"}
        auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": who}}}
        if project is not None:
            auth["scope"] = {"project": {"name": project, "domain": {"id": "default"}}}
        return await self.http.post(f"{self.simulator.auth_url}/auth/tokens", json={"auth": auth})

    async def login(self, user: str, project: str) -> tuple[dict[str, str], str]:
        """Return the headers to show, and Heat's address for the project."""
        answer = await self.authenticate(user, project)
        assert answer.status == 201
        catalog = (await answer.json())["token"]["catalog"]
        (heat,) = (service for service in catalog if service["type"] == "orchestration")
        return {"X-Auth-Token": answer.headers["X-Subject-Token"]}, heat["endpoints"][0]["url"]

    async def listing(self, user: str, project: str, **query: str) -> list[dict[str, Any]]:
        """Return the deployments of a fresh token's listing."""
        headers, heat = await self.login(user, project)
        async with self.http.get(f"{heat}/software_deployments", headers=headers, params=query) as answer:
            assert answer.status == 200
            found: list[dict[str, Any]] = (await answer.json())["software_deployments"]
            return found


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A small cloud in which nothing happens by itself."""
    async with Simulator(build(STILL)) as running:
        yield running


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[Client]:
    """A client of that cloud."""
    async with aiohttp.ClientSession() as http:
        yield Client(http, simulator)


def lived(seconds: int, plan: Plan | None = None) -> tuple[World, list[dict[str, Deployment]]]:
    """Return a world after some seconds of churn, and copies of its deployments after each of them."""
    clock = Clock()
    world = build(plan or Plan(churn=2), now=clock)
    churn = Churn(world)
    story = [{d.id: replace(d) for d in world.deployments.values()}]
    for _ in range(seconds):
        clock.seconds += 1
        churn.step(1)
        story.append({d.id: replace(d) for d in world.deployments.values()})
    return world, story


class TestWorld:
    """What `build` makes."""

    def test_it_has_the_size_of_its_plan(self) -> None:
        """Projects, disabled ones, servers and deployments as asked for, beside the admin's own project."""
        world = build(Plan(projects=9, disabled_projects=3, servers=50, deployments=200))
        enabled = [project for project in world.projects.values() if project.enabled]
        assert len(enabled) == 9 + 1
        assert len(world.projects) == 9 + 3 + 1
        assert len({project.name for project in world.projects.values()}) == 13
        assert sum(map(len, world.servers.values())) == 50
        assert len(world.deployments) == 200
        assert {deployment.project_id for deployment in world.deployments.values()} <= {p.id for p in enabled}

    def test_the_seed_decides_everything(self) -> None:
        """The same plan makes the same ids, secrets and deployments; another seed none of them."""
        one, same, other = (build(Plan(seed=seed), now=Clock()) for seed in (1, 1, 2))
        assert [d.render() for d in one.deployments.values()] == [d.render() for d in same.deployments.values()]
        assert [c.secret for c in one.credentials.values()] == [c.secret for c in same.credentials.values()]
        assert not one.deployments.keys() & other.deployments.keys()
        assert not one.projects.keys() & other.projects.keys()

    @pytest.mark.parametrize("style", STYLES)
    def test_the_style_decides_only_texts(self, style: Style) -> None:
        """A style has the same deployments as every other one, with its own texts, and the same texts each time."""
        made, same, plain = (build(Plan(output_style=each), now=Clock()) for each in (style, style, "plain"))
        assert [d.render() for d in made.deployments.values()] == [d.render() for d in same.deployments.values()]
        texts = {"input_values": None, "output_values": None}
        assert [d.body() | texts for d in made.deployments.values()] == [
            d.body() | texts for d in plain.deployments.values()
        ]
        outputs = [d.output_values["deploy_stdout"] for d in made.deployments.values() if d.output_values]
        assert all(200 <= len(text) < 600 for text in outputs)
        inputs = [d.input_values for d in made.deployments.values()]
        nested = sum(bool(each and "users" in each) for each in inputs)
        found = {
            "ansible": sum(text.startswith('{"plays": [{') for text in outputs),
            "nested": sum(text.startswith('[{"id": ') for text in outputs),
            "unicode": sum(not text.isascii() for text in outputs),
        }
        found["plain"] = len(outputs) - sum(found.values())
        if style == "mixed":
            assert all(number > len(outputs) / 8 for number in found.values())
            assert len(inputs) / 8 < nested < len(inputs) / 2
        else:
            assert found[style] == len(outputs)
            assert nested == (len(inputs) if style == "nested" else 0)

    def test_the_flag_offers_every_style(self) -> None:
        """`simulate --output-style` takes the styles that there are, and its default is the plan's."""
        (option,) = (each for each in simulate.params if each.name == "output_style")
        assert tuple(option.type.choices) == STYLES
        assert option.default == Plan().output_style == "mixed"

    def test_a_style_that_is_none_is_refused(self) -> None:
        """By a message that names those that are."""
        with pytest.raises(ValueError, match="plain, ansible, nested, unicode, mixed"):
            Plan(output_style="random")  # type: ignore[arg-type]

    def test_tokens_disturb_nothing(self) -> None:
        """How often clients authenticate changes neither ids nor what happens."""
        quiet, busy = (build(Plan(churn=2), now=Clock()) for _ in range(2))
        for _ in range(3):
            busy.issue(busy.user("monitor").id, busy.project("billing").id)
        for world in (quiet, busy):
            Churn(world).step(60)
        assert [d.body() for d in quiet.deployments.values()] == [d.body() for d in busy.deployments.values()]

    def test_its_history_is_weeks_long_and_mostly_good(self) -> None:
        """Nothing lies in the future or ends before it began; most runs ended well, some did not, a few hang."""
        world = build(Plan(deployments=2000), now=Clock())
        found = list(world.deployments.values())
        assert all(NOON - 30 * 86400 <= d.created <= (d.updated or NOON) <= NOON for d in found)
        status = Counter(d.status for d in found)
        assert status["COMPLETE"] > 0.85 * len(found)
        assert 0.02 * len(found) < status["FAILED"] < 0.15 * len(found)
        assert 0 < status["IN_PROGRESS"] < 0.05 * len(found)
        assert {d.action for d in found} == {"CREATE", "UPDATE", "DELETE", "SUSPEND", "RESUME"}

    def test_it_has_the_oddities_of_a_real_one(self) -> None:
        """Runs that never reported, exit codes of every kind, failures with code 0, configs without a name."""
        world = build(Plan(deployments=3000), now=Clock())
        found = list(world.deployments.values())
        silent = [d for d in found if d.updated is None]
        assert silent
        assert all(d.output_values is None and "updated_time" not in d.body() for d in silent)
        codes = [(d.status, (d.output_values or {}).get("deploy_status_code")) for d in found]
        assert {type(code) for _, code in codes} == {int, str, type(None)}
        assert ("FAILED", 0) in codes
        assert "None" in {d.status_reason for d in found}
        assert {d.input_values is None for d in found} == {True, False}
        assert None in {config.name for config in world.configs.values()}

    def test_most_deployments_have_a_config_of_their_own(self) -> None:
        """Only the config's name says what belongs together, but for what was made by hand."""
        world = build(Plan(deployments=1000))
        uses = Counter(d.config_id for d in world.deployments.values())
        alone = [config_id for config_id, count in uses.items() if count == 1]
        assert len(alone) > 800
        assert max(uses.values()) > 5
        assert len({world.configs[config_id].name for config_id in alone}) < 20

    @pytest.mark.parametrize(
        "wrong", [{"projects": 0}, {"servers": 0}, {"deployments": -1}, {"churn": -1.0}, {"faults": 1.5}]
    )
    def test_an_impossible_plan_is_refused(self, wrong: dict[str, Any]) -> None:
        """At once, not when the first client comes."""
        with pytest.raises(ValueError, match=r"cannot be|at least|between"):
            Plan(**wrong)


class TestTokens:
    """What a token is worth, and for how long."""

    def test_it_ends_with_its_lifetime(self) -> None:
        """To the second; a token that came of it ends then too."""
        clock = Clock()
        world = build(replace(STILL, token_lifetime=60), now=clock)
        first = world.issue(world.user("monitor").id, None)
        clock.seconds += 30
        second = world.issue(first.user_id, world.project("billing").id, parent=first)
        clock.seconds += 29
        assert world.token(first.id) == first
        assert world.token(second.id) == second
        clock.seconds += 1
        for token in (first, second):
            with pytest.raises(Refused):
                world.token(token.id)

    def test_ended_ones_are_not_kept(self) -> None:
        """However often somebody authenticates."""
        clock = Clock()
        world = build(replace(STILL, token_lifetime=10), now=clock)
        for _ in range(5000):
            clock.seconds += 1
            world.issue(world.user("monitor").id, None)
        assert len(world.tokens) <= 1000

    def test_a_credential_gives_no_more_than_its_roles(self) -> None:
        """Roles that its user gets later are not in it, and without any of its own it is worth nothing."""
        world = build(STILL)
        user, project = world.user("monitor"), world.project("billing")
        credential = world.credential(user.id, "monitor-billing")
        assert credential is not None
        world.grant(user.id, project.id, "admin")
        token = world.issue(user.id, project.id, credential_id=credential.id)
        assert world.worth(token) == ["reader"]
        for role in ("admin", "reader"):
            world.revoke(user.id, project.id, role)
        with pytest.raises(Refused):
            world.token(token.id)

    async def test_an_expired_one_is_refused_by_both(self) -> None:
        """With 401, and a new one works."""
        clock = Clock()
        async with Simulator(build(STILL, now=clock)) as simulator, aiohttp.ClientSession() as http:
            client = Client(http, simulator)
            headers, heat = await client.login("monitor", "billing")
            clock.seconds += STILL.token_lifetime
            for url in (f"{heat}/software_deployments", f"{simulator.auth_url}/auth/projects"):
                assert (await http.get(url, headers=headers)).status == 401
            assert await client.listing("monitor", "billing")


class TestChurn:
    """The life of a world."""

    def test_the_same_steps_do_the_same(self) -> None:
        """For the same seed; and without churn nothing starts."""
        assert lived(120)[1] == lived(120)[1]
        _, story = lived(60, Plan(churn=0, deployments=40))
        assert story[0].keys() == story[-1].keys()

    def test_something_happens_every_few_seconds(self) -> None:
        """In the demo's plan, failures within minutes."""
        _, story = lived(300, Plan())
        changed = [before != after for before, after in pairwise(story)]
        assert all(any(changed[start : start + 10]) for start in range(0, 290, 10))
        failed = {d.id for deployments in story for d in deployments.values() if d.status == "FAILED"}
        assert len(failed - {d.id for d in story[0].values() if d.status == "FAILED"}) >= 3

    def test_runs_start_end_and_go(self) -> None:
        """All statuses are reached from IN_PROGRESS only, and what is deleted well goes away."""
        _, story = lived(400)
        moves: Counter[tuple[str, str, str]] = Counter()
        for before, after in pairwise(story):
            for key in before.keys() - after.keys():
                assert (before[key].action, before[key].status) == ("DELETE", "COMPLETE")
                moves["gone", "", ""] += 1
            for key in before.keys() & after.keys():
                moves[before[key].status, after[key].status, after[key].action] += before[key] != after[key]
        assert moves["gone", "", ""]
        for action in ("CREATE", "UPDATE", "DELETE", "SUSPEND", "RESUME"):
            assert moves["IN_PROGRESS", "COMPLETE", action], action
        assert moves["IN_PROGRESS", "FAILED", "CREATE"]
        assert not [move for move in moves if move[:2] == ("IN_PROGRESS", "IN_PROGRESS") and moves[move]]
        assert moves["COMPLETE", "FAILED", "UPDATE"] == moves["FAILED", "COMPLETE", "UPDATE"] == 0

    def test_an_update_keeps_the_deployment_and_renews_its_config(self) -> None:
        """Same id, creation and outputs; a later update time; another config of the same name, the old one gone."""
        clock = Clock()
        world = build(Plan(churn=2), now=clock)
        churn = Churn(world)
        seen = 0
        while seen < 20:
            before = {d.id: replace(d) for d in world.deployments.values()}
            names = {config.id: (config.name, config.derived) for config in world.configs.values()}
            clock.seconds += 1
            churn.step(1)
            for old in before.values():
                new = world.deployments.get(old.id)
                if new is None or (old.status, new.status) not in {
                    ("COMPLETE", "IN_PROGRESS"),
                    ("FAILED", "IN_PROGRESS"),
                }:
                    continue
                seen += 1
                assert (new.created, new.output_values) == (old.created, old.output_values)
                assert new.updated == clock.seconds
                name, derived = names[old.config_id]
                assert world.configs[new.config_id].name == name
                assert (new.config_id != old.config_id) == derived
                assert (old.config_id in world.configs) != derived

    def test_it_neither_grows_nor_leaks(self) -> None:
        """After an hour there are about as many deployments as planned, and no config that was derived for none."""
        world, story = lived(3600, Plan(churn=2, deployments=100, servers=10))
        assert all(80 <= len(deployments) <= 130 for deployments in story)
        used = {d.config_id for d in world.deployments.values()}
        assert {config.id for config in world.configs.values() if config.derived} <= used <= world.configs.keys()

    def test_somebody_elses_changes_do_not_stop_it(self) -> None:
        """Runs that were ended or deleted over the API are left alone."""
        world = build(Plan(deployments=30, churn=2))
        churn = Churn(world)
        churn.step(20)
        running = [d.id for d in world.deployments.values() if d.status == "IN_PROGRESS"]
        assert len(running) >= 2
        world.remove(running[0])
        world.update(running[1], status="FAILED", status_reason="by hand")
        world.plan = replace(world.plan, churn=0)
        churn.step(86400)
        assert running[0] not in world.deployments
        assert world.deployments[running[1]].status_reason == "by hand"

    async def test_the_server_lets_the_world_live(self) -> None:
        """By itself, about once a second, and only while it runs."""
        simulator = Simulator(build(Plan(churn=50)))
        stepped = asyncio.Event()

        class Watched(Churn):
            def step(self, seconds: float) -> None:
                super().step(seconds)
                stepped.set()

        simulator.churn = Watched(simulator.world)
        before = {d.id: d.render() for d in simulator.world.deployments.values()}
        async with simulator, asyncio.timeout(30):
            await stepped.wait()
        assert {d.id: d.render() for d in simulator.world.deployments.values()} != before
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "simulator-churn"]


class TestListing:
    """What Heat lists."""

    async def test_readers_see_one_project_and_admins_all(self, client: Client) -> None:
        """Each deployment once, as it is in the world."""
        world = client.simulator.world
        seen: dict[str, Any] = {}
        for project in ("web-frontend", "billing"):
            listed = await client.listing("monitor", project)
            assert [item["id"] for item in listed] == [d.id for d in world.visible(world.project(project).id)]
            seen |= {item["id"]: item for item in listed}
        assert seen == {d.id: d.body() for d in world.deployments.values()}
        assert {item["id"]: item for item in await client.listing("admin", "admin")} == seen

    async def test_a_stack_users_project_sees_its_deployments_too(self, client: Client) -> None:
        """They belong to another project, and leave both lists when they go."""
        world = client.simulator.world
        owner, other = world.project("web-frontend"), world.project("billing")
        config = world.add_config(owner.id, "install-agent")
        made = world.add_deployment(owner.id, "a-server", config.id, stack_user_project_id=other.id)
        for project in ("web-frontend", "billing"):
            assert made.id in {item["id"] for item in await client.listing("monitor", project)}
        world.remove(made.id)
        for project in ("web-frontend", "billing"):
            assert made.id not in {item["id"] for item in await client.listing("monitor", project)}

    async def test_changes_show_at_once(self, client: Client) -> None:
        """What was rendered for the last listing is not shown again after a change."""
        world = client.simulator.world
        first = (await client.listing("monitor", "billing"))[0]
        world.update(first["id"], status_reason="changed")
        assert (await client.listing("monitor", "billing"))[0]["status_reason"] == "changed"

    async def test_raw_records_go_out_untouched(self, client: Client) -> None:
        """Any object, and bytes that are no JSON at all, at the end of the list; an admin gets them too."""
        world = client.simulator.world
        project = world.project("billing").id
        world.add_raw(project, {"id": 5, "server_id": "s"})
        world.add_raw(project, b'{"id": ]')
        for user, scope in (("monitor", "billing"), ("admin", "admin")):
            headers, heat = await client.login(user, scope)
            async with client.http.get(f"{heat}/software_deployments", headers=headers) as answer:
                assert (await answer.read()).endswith(b'}, {"id": 5, "server_id": "s"}, {"id": ]]}')
        assert await client.listing("monitor", "billing", server_id="s") == [{"id": 5, "server_id": "s"}]
        world.clear_raw(project)
        assert all(isinstance(item["id"], str) for item in await client.listing("monitor", "billing"))

    async def test_a_big_one_comes_whole_with_its_length(self) -> None:
        """Sent in pieces, but as one JSON document of the announced size."""
        plan = Plan(projects=1, servers=100, deployments=3000, output_bytes=2000, churn=0)
        async with Simulator(build(plan)) as simulator, aiohttp.ClientSession() as http:
            headers, heat = await Client(http, simulator).login("monitor", "web-frontend")
            async with http.get(f"{heat}/software_deployments", headers=headers) as answer:
                body = await answer.read()
                assert answer.headers["Content-Length"] == str(len(body))
                assert "Transfer-Encoding" not in answer.headers
        assert len(body) > 5_000_000
        assert json.dumps(json.loads(body)).encode() == body

    @pytest.mark.parametrize("style", STYLES)
    async def test_only_the_style_unicode_is_not_escaped(self, style: Style) -> None:
        """Heat escapes what is not ASCII; other clouds need not, so one style is sent in UTF-8."""
        world = build(Plan(projects=1, output_style=style, churn=0))
        async with Simulator(world) as simulator, aiohttp.ClientSession() as http:
            headers, heat = await Client(http, simulator).login("monitor", "web-frontend")
            async with http.get(f"{heat}/software_deployments", headers=headers) as answer:
                body = await answer.read()
        assert body.isascii() is (style != "unicode")
        outputs = [each["output_values"] for each in json.loads(body)["software_deployments"]]
        assert outputs == [each.output_values for each in world.visible(world.project("web-frontend").id)]
        assert (rb"\u" in body) is (style == "mixed")

    async def test_silence_and_pace_are_the_plans(self, client: Client) -> None:
        """Nothing comes before the delay for every deployment, and then no faster than allowed."""
        world = client.simulator.world
        headers, heat = await client.login("monitor", "web-frontend")
        count = len(world.visible(world.project("web-frontend").id))
        size = sum(len(d.render()) for d in world.visible(world.project("web-frontend").id))
        world.plan = replace(world.plan, delay_per_deployment=0.1 / count, bytes_per_second=size / 0.2)
        begun = time.monotonic()
        async with client.http.get(f"{heat}/software_deployments", headers=headers) as answer:
            assert time.monotonic() - begun >= 0.09
            await answer.read()
        assert time.monotonic() - begun >= 0.28

    async def test_configs_come_in_pages(self, client: Client) -> None:
        """Every one of the project's once, newest first, by following the last id of each page."""
        world = client.simulator.world
        project = world.project("web-frontend").id
        headers, heat = await client.login("monitor", "web-frontend")
        pages: list[list[dict[str, Any]]] = []
        while not pages or pages[-1]:
            query = {"limit": "7"} | ({"marker": pages[-1][-1]["id"]} if pages else {})
            async with client.http.get(f"{heat}/software_configs", headers=headers, params=query) as answer:
                pages.append((await answer.json())["software_configs"])
            assert len(pages) < 20
        assert {len(page) for page in pages[:-2]} == {7}
        found = [config for page in pages for config in page]
        assert len(found) == len({config["id"] for config in found})
        assert {c["id"]: c["name"] for c in found} == {
            c.id: c.name for c in world.configs.values() if c.project_id == project
        }
        times = [config["creation_time"] for config in found]
        assert times == sorted(times, reverse=True)


def password(**who: Any) -> dict[str, Any]:
    """Return an identity by password, the monitor's unless told otherwise."""
    user = {"name": "monitor", "domain": {"id": "default"}, "password": "secret"} | who
    return {"methods": ["password"], "password": {"user": {key: value for key, value in user.items() if value}}}


class TestRefusals:
    """What a real Keystone 22 and Heat 19 answered to requests that are wrong in some way."""

    @pytest.mark.parametrize(
        ("body", "status", "message"),
        [
            ({}, 400, "Expecting to find auth in request body."),
            ([], 400, "Expecting to find valid JSON in request body."),
            ("{", 400, "Expecting to find valid JSON in request body."),
            ({"auth": {}}, 400, "'identity' is a required property"),
            ({"auth": "x"}, 400, "'x' is not of type 'object'"),
            ({"auth": {"identity": {}}}, 400, "'methods' is a required property"),
            ({"auth": {"identity": {"methods": "password"}}}, 400, "methods"),
            ({"auth": {"identity": {"methods": []}}}, 401, "requires authentication"),
            ({"auth": {"identity": {"methods": ["password"]}}}, 400, "Expecting to find password in identity."),
            ({"auth": {"identity": {"methods": ["x"], "x": {}}}}, 401, "unsupported method"),
            ({"auth": {"identity": password(name=None)}}, 400, "id or name must be present"),
            ({"auth": {"identity": password(name=5)}}, 400, "name"),
            ({"auth": {"identity": password(domain=None)}}, 400, "Expecting to find domain in user."),
            ({"auth": {"identity": password(domain={"name": "x"})}}, 401, "requires authentication"),
            ({"auth": {"identity": password(name=None, id="x")}}, 401, "requires authentication"),
            ({"auth": {"identity": password(), "scope": None}}, 400, "scope"),
            ({"auth": {"identity": password(), "scope": {}}}, 400, "domain, OS-TRUST:trust or unscoped in scope."),
            ({"auth": {"identity": password(), "scope": {"project": {}}}}, 400, "id or name must be present"),
            (
                {"auth": {"identity": password(), "scope": {"project": {"name": "billing"}}}},
                400,
                "Expecting to find domain in project.",
            ),
            (
                {"auth": {"identity": password(), "scope": {"domain": {"id": "default"}}}},
                401,
                "requires authentication",
            ),
            (
                {"auth": {"identity": {"methods": ["token"], "token": {"id": "x"}}}},
                404,
                "Could not recognize Fernet token",
            ),
            (
                {"auth": {"identity": {"methods": ["application_credential"], "application_credential": {"id": "x"}}}},
                404,
                "Could not find Application Credential: x.",
            ),
            (
                {"auth": {"identity": {"methods": ["application_credential"], "application_credential": {}}}},
                400,
                "Expecting to find name or ID in application credential.",
            ),
        ],
    )
    async def test_requests_for_a_token(self, client: Client, body: Any, status: int, message: str) -> None:
        """400 for what is malformed, 401 for what is wrong, 404 for tokens and credentials that nobody knows."""
        text = body if isinstance(body, str) else json.dumps(body)
        json_type = {"Content-Type": "application/json"}
        url = f"{client.simulator.auth_url}/auth/tokens"
        async with client.http.post(url, data=text, headers=json_type) as answer:
            assert answer.status == status
            assert ("WWW-Authenticate" in answer.headers) == (status == 401)
            error = (await answer.json())["error"]
        assert (error["code"], message in error["message"]) == (status, True)

    @pytest.mark.parametrize(
        ("user", "call", "body", "status"),
        [
            ("monitor", "GET /v3/projects", None, 403),
            ("monitor", "GET /v3/projects/{other}", None, 403),
            ("monitor", "GET /v3/projects/nowhere", None, 403),
            ("monitor", "GET /v3/projects/{own}", None, 200),
            ("monitor", "GET /v3/roles", None, 403),
            ("monitor", "POST /v3/projects", {"project": {"name": "x"}}, 403),
            ("monitor", "POST /v3/users", {"user": {"name": "x"}}, 403),
            ("monitor", "PUT /v3/projects/{own}/users/{monitor}/roles/{member}", None, 403),
            ("monitor", "PATCH /v3/projects/{own}", {"project": {"enabled": False}}, 403),
            ("monitor", "DELETE /v3/projects/{own}", None, 403),
            ("monitor", "GET /v3/auth/catalog", None, 200),
            ("admin", "GET /v3/projects?name=billing&domain_id=default", None, 200),
            ("admin", "GET /v3/projects/nowhere", None, 404),
            ("admin", "POST /v3/projects", {"project": {"name": "billing"}}, 409),
            ("admin", "POST /v3/projects", {"project": {"name": "x", "domain_id": "nowhere"}}, 400),
            ("admin", "POST /v3/projects", {"project": {}}, 400),
            ("admin", "POST /v3/users", {"user": {"name": "monitor"}}, 409),
            ("admin", "GET /v3/projects/{own}/users/{monitor}/roles/{reader}", None, 204),
            ("admin", "GET /v3/projects/{own}/users/{monitor}/roles/{member}", None, 404),
            ("admin", "DELETE /v3/projects/{own}/users/{monitor}/roles/{member}", None, 404),
            ("admin", "PUT /v3/projects/{own}/users/{monitor}/roles/nothing", None, 404),
            ("admin", "PUT /v3/projects/{own}/users/nobody/roles/{member}", None, 404),
            ("admin", "PUT /v3/projects/nowhere/users/{monitor}/roles/{member}", None, 404),
            (
                "admin",
                "POST /v3/users/{monitor}/application_credentials",
                {"application_credential": {"name": "x"}},
                403,
            ),
            (
                "monitor",
                "POST /v3/users/{monitor}/application_credentials",
                {"application_credential": {"name": "monitor-billing"}},
                409,
            ),
            (
                "monitor",
                "POST /v3/users/{monitor}/application_credentials",
                {"application_credential": {"name": "x", "roles": [{"name": "admin"}]}},
                400,
            ),
            ("admin", "PUT /v3/auth/tokens", None, 405),
            ("admin", "GET /v3/nothing", None, 404),
            ("monitor", "GET /heat/v9", None, 300),
            ("monitor", "GET /heat/v1/{own}", None, 404),
            ("monitor", "PATCH /heat/v1/{own}/software_deployments", None, 405),
            ("monitor", "OPTIONS /heat/v1/{own}/software_deployments", None, 204),
            ("monitor", "GET /heat/v1/{own}/software_deployments/nothing", None, 404),
            ("monitor", "PUT /heat/v1/{own}/software_deployments/nothing", {}, 404),
            ("monitor", "DELETE /heat/v1/{own}/software_deployments/{theirs}", None, 404),
            ("monitor", "PUT /heat/v1/{own}/software_deployments/{ours}", [], 400),
            ("monitor", "PUT /heat/v1/{own}/software_deployments/{ours}", {"config_id": "nothing"}, 400),
            ("monitor", "POST /heat/v1/{own}/software_deployments", {"config_id": "nothing"}, 500),
            ("monitor", "POST /heat/v1/{own}/software_deployments", {"server_id": "s", "config_id": "nothing"}, 400),
            ("monitor", "GET /heat/v1/{own}/software_configs?limit=x", None, 400),
            ("monitor", "GET /heat/v1/{own}/software_configs?limit=-1", None, 400),
            ("monitor", "GET /heat/v1/{own}/software_configs?limit=0", None, 200),
            ("monitor", "GET /heat/v1/{own}/software_configs?marker=nothing", None, 200),
            ("monitor", "GET /heat/v1/{own}/software_configs?global_tenant=true", None, 403),
            ("monitor", "GET /heat/v1/{own}/software_configs/nothing", None, 404),
            ("monitor", "GET /heat/v1/{own}/software_configs/{config}", None, 200),
            ("monitor", "DELETE /heat/v1/{own}/software_configs/{config}", None, 500),
        ],
    )
    async def test_other_requests(self, client: Client, user: str, call: str, body: Any, status: int) -> None:
        """Rights come first, then what there is, then what the body says; nothing is changed by a refusal."""
        method, path = call.split()
        world = client.simulator.world
        own, other = world.project("web-frontend"), world.project("billing")
        ours, theirs = world.visible(own.id)[0], world.visible(other.id)[0]
        names = {"own": own.id, "other": other.id, "monitor": world.user("monitor").id, **world.roles}
        names |= {"ours": ours.id, "theirs": theirs.id, "config": ours.config_id}
        headers, _ = await client.login(user, "web-frontend")
        before = [d.body() for d in world.deployments.values()]
        url = client.simulator.url + path.format(**names)
        async with client.http.request(method, url, headers=headers, json=body, allow_redirects=False) as answer:
            assert answer.status == status
            if answer.content_type == "application/json" and status >= 400 and status != 405:
                about = await answer.json()
                assert about["error" if path.startswith("/v3") else "explanation"]
        assert [d.body() for d in world.deployments.values()] == before
        assert world.roles_of(names["monitor"], own.id) == ["reader"]

    async def test_another_users_token(self, client: Client) -> None:
        """Only an admin may look at it or end it; one that nobody knows is a 404."""
        world = client.simulator.world
        monitor, _ = await client.login("monitor", "billing")
        admin, _ = await client.login("admin", "admin")
        url = f"{client.simulator.auth_url}/auth/tokens"
        for headers, subject, status in (
            (monitor, monitor, 200),
            (monitor, admin, 403),
            (admin, monitor, 200),
            (admin, {"X-Auth-Token": "x"}, 404),
            (admin, {"X-Auth-Token": ""}, 404),
        ):
            shown = {**headers, "X-Subject-Token": subject["X-Auth-Token"]}
            async with client.http.get(f"{url}?nocatalog", headers=shown) as answer:
                assert answer.status == status
                if status == 200:
                    token = (await answer.json())["token"]
                    assert "catalog" not in token
                    assert token["user"]["id"] == world.tokens[subject["X-Auth-Token"]].user_id

    async def test_configs_are_made_and_deleted(self, client: Client) -> None:
        """With what Heat fills in; one that no deployment uses can go."""
        headers, heat = await client.login("monitor", "billing")
        body = {"name": "x", "inputs": [{"name": "a"}], "outputs": [{"name": "b", "error_output": True}]}
        async with client.http.post(f"{heat}/software_configs", headers=headers, json=body) as answer:
            made = (await answer.json())["software_config"]
        assert made["inputs"] == [{"name": "a", "type": "String"}]
        assert made["outputs"] == [{"name": "b", "type": "String", "error_output": True}]
        assert (made["group"], made["config"], made["options"]) == (None, None, {})
        url = f"{heat}/software_configs/{made['id']}"
        assert [(await client.http.delete(url, headers=headers)).status for _ in range(2)] == [204, 404]


class TestClients:
    """The clients that people use."""

    @pytest.mark.parametrize(
        ("options", "project"),
        [
            ({}, "web-frontend"),
            ({"project": "billing"}, "billing"),
            ({"project": "billing", "application_credential": True}, "billing"),
            ({"user": "admin"}, None),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Support for InfluxDB")  # openstacksdk says so to everybody
    async def test_openstacksdk_lists_by_the_clouds_yaml(
        self, simulator: Simulator, tmp_path: Path, options: dict[str, Any], project: str | None
    ) -> None:
        """It authenticates, finds Heat in the catalog, and gets the project's deployments; an admin gets all."""
        file = tmp_path / "clouds.yaml"
        file.write_text(simulator.clouds_yaml(**options))

        def listed() -> set[str]:
            cloud = openstack.config.OpenStackConfig(config_files=[str(file)]).get_one("simulator")
            session = cloud.get_session()
            answer = session.get("/software_deployments", endpoint_filter={"service_type": "orchestration"})
            session.session.close()
            return {item["id"] for item in answer.json()["software_deployments"]}

        world = simulator.world
        expected = world.visible(world.project(project).id if project else None)
        assert await asyncio.to_thread(listed) == {deployment.id for deployment in expected}
        assert simulator.requests.count(api="identity", method="POST", path_suffix="/auth/tokens") == 1
        assert simulator.requests.shows == 0

    def test_the_clouds_yaml_has_every_entry_asked_for(self) -> None:
        """Each on its own, without anchors that some readers don't know."""
        text = Simulator(build(STILL), port=1).clouds_yaml(clouds=("one", "two"))
        clouds = yaml.safe_load(text)["clouds"]
        assert clouds.keys() == {"one", "two"}
        assert clouds["one"] == clouds["two"]
        assert "&" not in text

    async def test_an_empty_projects_catalog_leads_back_to_where_the_client_came_from(self, client: Client) -> None:
        """By whatever name it reached the server."""
        url = f"http://localhost:{client.simulator.port}"
        who = {"name": "monitor", "domain": {"id": "default"}, "password": "secret"}
        scope = {"project": {"name": "billing", "domain": {"name": "Default"}}}
        auth = {"identity": {"methods": ["password"], "password": {"user": who}}, "scope": scope}
        async with client.http.post(f"{url}/v3/auth/tokens", json={"auth": auth}) as answer:
            catalog = (await answer.json())["token"]["catalog"]
        assert {endpoint["url"].startswith(url) for service in catalog for endpoint in service["endpoints"]} == {True}


class TestWatching:
    """The log of requests."""

    async def test_every_request_is_counted(self, client: Client) -> None:
        """By interface, method, path, project and status."""
        requests = client.simulator.requests
        project = client.simulator.world.project("billing").id
        headers, heat = await client.login("monitor", "billing")
        listed = await (await client.http.get(f"{heat}/software_deployments", headers=headers)).json()
        await client.http.get(f"{heat}/software_deployments")
        await client.authenticate("monitor", "nowhere")
        assert requests.count(api="identity", method="POST", path_suffix="/auth/tokens") == 2
        assert requests.count(api="identity", status=401) == 1
        assert requests.count(api="orchestration", path_suffix="/software_deployments") == 2
        assert requests.count(project_id=project, status=200) == 1
        assert requests.count(project_id=None, api="orchestration", status=401) == 1
        assert len(requests) == 4
        assert [asked.status for asked in requests] == [201, 200, 401, 401]
        assert requests.shows == 0
        show = f"{heat}/software_deployments/{listed['software_deployments'][0]['id']}"
        assert (await client.http.get(show, headers=headers)).status == 200
        assert requests.shows == 1
        requests.clear()
        assert len(requests) == requests.count() == 0

    async def test_it_knows_how_many_were_under_way_at_once(self, client: Client) -> None:
        """At most, and since when."""
        requests, arrived, go = client.simulator.requests, asyncio.Semaphore(0), asyncio.Event()

        async def hold(_request: web.BaseRequest, _api: str) -> None:
            arrived.release()
            await go.wait()

        client.simulator.intercept = hold
        asking = [asyncio.create_task(client.authenticate("monitor", "billing")) for _ in range(3)]
        for _ in asking:
            await arrived.acquire()
        assert [asked.status for asked in requests] == [None, None, None]
        go.set()
        await asyncio.gather(*asking)
        await client.authenticate("monitor", "billing")
        assert requests.peak(api="identity") == 3
        assert requests.peak(api="orchestration") == 0
        assert [asked.status for asked in requests] == [201] * 4


class TestBreaking:
    """Faults and outages."""

    async def test_an_intercept_answers_instead(self, client: Client) -> None:
        """For the requests it picks; the others go on to the services."""

        async def intercept(request: web.BaseRequest, api: str) -> web.StreamResponse | None:
            return web.Response(status=418) if api == "orchestration" and "server_id" in request.query else None

        client.simulator.intercept = intercept
        headers, heat = await client.login("monitor", "billing")
        url = f"{heat}/software_deployments"
        assert (await client.http.get(url, headers=headers)).status == 200
        assert (await client.http.get(f"{url}?server_id=x", headers=headers)).status == 418
        client.simulator.intercept = None
        assert (await client.http.get(f"{url}?server_id=x", headers=headers)).status == 200
        assert client.simulator.requests.count(status=418) == 1

    async def test_dropped_connections_are_cut_in_mid_answer(self, client: Client) -> None:
        """And the next request works."""
        world = client.simulator.world
        headers, heat = await client.login("monitor", "web-frontend")
        world.plan = replace(world.plan, bytes_per_second=2000)
        async with client.http.get(f"{heat}/software_deployments", headers=headers) as answer:
            assert answer.status == 200
            client.simulator.drop_connections()
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        world.plan = replace(world.plan, bytes_per_second=0)
        assert await client.listing("monitor", "web-frontend")

    async def test_an_outage_and_a_recovery(self, client: Client) -> None:
        """While it is stopped the port is refused; then the same world is there again, tokens and all."""
        simulator = client.simulator
        headers, heat = await client.login("monitor", "billing")
        before = await client.listing("monitor", "billing")
        await simulator.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.http.get(f"{heat}/software_deployments", headers=headers)
        await simulator.start()
        async with client.http.get(f"{heat}/software_deployments", headers=headers) as answer:
            assert (await answer.json())["software_deployments"] == before

    async def test_stopping_does_not_wait_for_silent_requests(self, client: Client) -> None:
        """They are cut off, and logged without a status."""

        async def silent(_request: web.BaseRequest, _api: str) -> None:
            arrived.set()
            await asyncio.Event().wait()

        arrived = asyncio.Event()
        client.simulator.intercept = silent
        asking = asyncio.create_task(client.authenticate("monitor", "billing"))
        await arrived.wait()
        async with asyncio.timeout(10):
            await client.simulator.stop()
            with pytest.raises(aiohttp.ClientError):
                await asking
        (asked,) = client.simulator.requests
        assert asked.status is None
        assert asked.ended is not None

    async def test_starting_and_stopping_twice_is_harmless(self) -> None:
        """Neither raises, and the port stays the same."""
        simulator = Simulator(build(STILL))
        await simulator.stop()
        await simulator.start()
        port = simulator.port
        await simulator.start()
        await simulator.stop()
        await simulator.stop()
        await simulator.start()
        assert simulator.port == port
        await simulator.stop()

    async def test_a_taken_port_is_an_error(self) -> None:
        """Which says so, and leaves nothing behind."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            simulator = Simulator(build(STILL), port=taken.getsockname()[1])
            with pytest.raises(OSError, match="address already in use"):
                await simulator.start()
            await simulator.stop()

    async def test_faults_come_in_their_share_and_by_the_seed(self) -> None:
        """Of every kind: 500, 503, 429 with Retry-After and a cut connection; the same ones each time."""

        async def run() -> list[int]:
            found = []
            async with Simulator(build(replace(STILL, faults=0.5))) as simulator, aiohttp.ClientSession() as http:
                for _ in range(120):
                    try:
                        async with http.post(f"{simulator.auth_url}/auth/tokens", json={}) as answer:
                            found.append(answer.status)
                            assert ("Retry-After" in answer.headers) == (answer.status == 429)
                    except aiohttp.ClientConnectionError:
                        found.append(0)
            return found

        first = await run()
        assert set(first) == {0, 400, 429, 500, 503}
        assert 30 < first.count(400) < 90
        assert first == await run()

    async def test_authentication_takes_the_plans_time(self, client: Client) -> None:
        """As a real Keystone's does."""
        client.simulator.world.plan = replace(STILL, auth_delay=0.1)
        begun = time.monotonic()
        assert (await client.authenticate("monitor", "billing")).status == 201
        assert time.monotonic() - begun >= 0.09
