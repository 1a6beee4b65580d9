"""What happens in the simulated cloud: by chance from a seed, as fast as it is asked, and all of it noted.

Time goes by listings: each one that is asked for lets deployments start, end and fail, so that a slow machine sees the
same life as a quick one.
"""

import asyncio
import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from exporter.simulator import Plan, Simulator, build
from exporter.simulator.churn import Churn
from exporter.simulator.server import Api
from exporter.simulator.world import Deployment
from tests.harness import eventually

PROJECTS, MOST_PROJECTS = 4, 7
DEPLOYMENTS = 160
STEP = 4.0
"""Seconds of the cloud's life to one listing."""
STARTS = 2
"""Actions that start with one listing."""
FAULTS = 0.06
"""The share of requests that go wrong by chance."""
REMEMBERED = 20
"""So many projects that are gone, which a page may still show, are remembered."""
SUFFIX = "/software_deployments"
Cell = tuple[str, str]


class TruthfulChurn(Churn):
    """A churn that keeps count of what has finished."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.finished: dict[str, Counter[Cell]] = {}
        """By project: how many runs have ended, by status and action."""

    def finish(self, deployment: Deployment, *, at: float | None = None, failed: bool | None = None) -> None:
        """End a run."""
        super().finish(deployment, at=at, failed=failed)
        ended = self.finished.setdefault(deployment.project_id, Counter())
        ended[deployment.status, deployment.action] += 1

    def settle(self, project_id: str, servers: int) -> None:
        """Let things happen in a project that is new."""
        self._places += [(project_id, self.world.add_server(project_id)) for _ in range(servers)]

    def clear(self, project_id: str) -> None:
        """Let nothing happen any more in a project that is gone."""
        self._places = [place for place in self._places if place[0] != project_id]
        for deployment in self.world.visible(project_id):
            self.world.remove(deployment.id)
        self.world.configs = {id: each for id, each in self.world.configs.items() if each.project_id != project_id}
        self.world.servers.pop(project_id, None)
        self._shared = {key: config for key, config in self._shared.items() if key[0] != project_id}
        self.finished.pop(project_id, None)


@dataclass(eq=False)
class Listing:
    """One listing that was answered in full: what the project held at that instant."""

    arrived: float
    """Unix time."""
    items: list[dict[str, Any]]
    """The records in their order, as JSON has them."""
    size: int
    """Of the body in bytes."""
    configs: dict[str, tuple[str, str]]
    """Name and group of each config, by id."""
    finished: Counter[Cell]
    """All that has truly finished in the project so far."""


@dataclass
class Happening:
    """A project's own troubles."""

    failing: int = 0
    """How many more listings are refused."""
    hanging: int = 0
    """How many more are never answered."""
    raw: list[bytes] = field(default_factory=list)
    """Odd records at the end of the listing."""


class Life:
    """The cloud and what happens in it. Its `answer` is the simulator's `intercept`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        plan = Plan(
            projects=PROJECTS, disabled_projects=1, servers=24, deployments=DEPLOYMENTS, output_bytes=200, churn=1,
            seed=seed, token_lifetime=20.0,
        )  # fmt: skip
        world = build(plan)
        world.plan = replace(plan, churn=0)
        self.world = world
        self.simulator = Simulator(world)
        self.churn = self.simulator.churn = TruthfulChurn(world)
        self.simulator.intercept = self.answer
        self.listings: dict[str, deque[Listing]] = {}
        """By project, all that were answered in full and are not forgotten yet."""
        self.first: Counter[str] = Counter()
        """By project: how many of the oldest were forgotten."""
        self.asked = 0
        """How many listings were asked for."""
        self.arrivals: Counter[Api] = Counter()
        self.authentications = 0
        self.hung: Counter[str] = Counter()
        """By project: how many listings were never answered."""
        self.happening: dict[str, Happening] = {}
        self.down = False
        self.under_way = 0
        self.hanging = 0
        self.names: dict[str, set[str]] = {}
        """Every name that a project has had."""
        self.lost: Counter[str] = Counter()
        """By project: how often there was a reason to watch it no longer."""
        self.faulty = True
        self._nth: Counter[tuple[str, str]] = Counter()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._made = 0
        self._gone: deque[str] = deque()
        self.monitor = world.user("monitor").id
        self._note_names()
        self._first = self.watchable()

    # -- answers

    async def answer(self, request: web.BaseRequest, api: Api) -> web.StreamResponse | None:
        """Note a request, let time pass if it is for a listing, and answer it; None leaves it to the simulator."""
        self.arrivals[api] += 1
        self.authentications += request.method == "POST" and request.path == "/v3/auth/tokens"
        self.under_way += 1
        try:
            if request.path.endswith(SUFFIX):
                return await self._listing(request, request.path.split("/")[-2])
            kind = "token" if request.path == "/v3/auth/tokens" else request.path.split("/")[-1]
            return self._fault(kind, "", share=FAULTS / 2)
        finally:
            self.under_way -= 1

    def _chance(self, kind: str, whose: str) -> random.Random:
        """The same for the n-th time of anything, however the requests of others come in between."""
        self._nth[kind, whose] += 1
        return random.Random(f"{self.seed}/{kind}/{whose}/{self._nth[kind, whose]}")

    def _fault(self, kind: str, whose: str, *, share: float) -> web.Response | None:
        chance = self._chance(kind, whose)
        if self.down:
            return web.Response(status=503, text="down")
        if not self.faulty or chance.random() >= share:
            return None
        return _faulty(chance.choice(("500", "503", "429", "302", "400")))

    async def _listing(self, request: web.BaseRequest, project_id: str) -> web.StreamResponse:
        arrived = time.time()
        self.asked += 1
        for _ in range(STARTS):
            self.churn.start()
        self.churn.step(STEP)
        self._wake()
        happening = self.happening.setdefault(project_id, Happening())
        chance = self._chance("listing", project_id)
        if self.down:
            return web.Response(status=503, text="down")
        if happening.hanging:
            happening.hanging -= 1
            self.hung[project_id] += 1
            self.hanging += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.hanging -= 1
        if happening.failing:
            happening.failing -= 1
            return _faulty(chance.choice(("500", "404", "garbage")))
        if self.faulty and chance.random() < FAULTS:
            kind = chance.choice(("500", "503", "429", "garbage", "half", "cut", "endless", "latin", "reset"))
            if kind in {"half", "cut", "reset"}:
                return await self._cut(request, project_id, kind)
            return _faulty(kind)
        if chance.random() < 0.05:
            await asyncio.sleep(chance.uniform(0, 0.3))  # a slow Heat: this is its slowness, nothing waits for it
        return await self._whole(request, project_id, arrived)

    async def _whole(self, request: web.BaseRequest, project_id: str, arrived: float) -> web.StreamResponse:
        world = self.world
        happening = self.happening[project_id]
        deployments = world.visible(project_id)
        world.clear_raw(project_id)
        for raw in happening.raw:
            world.add_raw(project_id, raw)
        pieces = [each.render() for each in deployments]
        raws = world.raw(project_id)
        items: list[Any] = [each.body() for each in deployments]
        listing = Listing(
            arrived,
            items + [json.loads(raw) for raw in raws],
            len(b'{"software_deployments": []}') + sum(map(len, pieces + raws)) + 2 * max(0, len(pieces + raws) - 1),
            {
                each.id: (each.name or "", each.group or "")
                for each in world.configs.values()
                if each.project_id == project_id
            },
            Counter(self.churn.finished.get(project_id)),
        )
        # From here to the first byte nobody else has a turn: what is noted is what is sent.
        noted = self.listings.setdefault(project_id, deque())
        noted.append(listing)
        status = 0
        try:
            response = await self.simulator._heat.answer(request, request.path.removeprefix("/heat"))
            status = response.status
        finally:
            if status != 200:
                noted.remove(listing)
        return response

    async def _cut(self, request: web.BaseRequest, project_id: str, kind: str) -> web.StreamResponse:
        """A part of the truth and then nothing: the connection ends, or the body claims to be whole."""
        pieces = [each.render() for each in self.world.visible(project_id)]
        body = b'{"software_deployments": [' + b", ".join(pieces) + b"]}"
        if kind == "half":
            return web.Response(body=body[: len(body) // 2], content_type="application/json")
        if kind == "cut":
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.content_length = len(body)
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    def _known(self, project_id: str) -> bool:
        return project_id in self.world.projects

    # -- waiting

    def _wake(self) -> None:
        due = [future for at, future in self._waiting if at <= self.asked]
        self._waiting = [each for each in self._waiting if each[0] > self.asked]
        for future in due:
            if not future.done():
                future.set_result(None)

    async def pass_by(self, listings: int) -> None:
        """Return once so many more listings were asked for."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self.asked + listings, future))
        await future

    # -- what happens

    def _note_names(self) -> None:
        for project in self.world.projects.values():
            self.names.setdefault(project.id, set()).add(project.name)

    def watchable(self) -> list[str]:
        """The projects that the exporter may watch now."""
        return [each.id for each in self.world.projects_of(self.monitor) if each.enabled]

    def may_be_unknown(self, address: str) -> bool:
        """Whether the exporter need not know the project that an address means: it is new, or was away."""
        return not any(project_id in address and not self.lost[project_id] for project_id in self._first)

    def _others(self) -> list[str]:
        """Those but the first, which the credentials are scoped to."""
        first = next(iter(self.world.projects_of(self.monitor))).id
        return [each for each in self.watchable() if each != first]

    def project_comes(self, chance: random.Random) -> None:
        """A new project with servers."""
        if len(self.watchable()) >= MOST_PROJECTS:
            return self.project_goes(chance)
        self._made += 1
        project = self.world.add_project(f"made-{self._made}")
        self.world.grant(self.monitor, project.id, "reader")
        self.churn.settle(project.id, 3)
        self._note_names()
        return None

    def project_goes(self, chance: random.Random) -> None:
        """A project is deleted."""
        if len(others := self._others()) < 3:
            return self.project_comes(chance)
        project_id = chance.choice(others)
        self.lost[project_id] += 1
        self.world.remove_project(project_id)
        self.churn.clear(project_id)
        self._gone.append(project_id)
        if len(self._gone) > REMEMBERED:
            self.listings.pop(forgotten := self._gone.popleft(), None)
            self.happening.pop(forgotten, None)
        return None

    def role_goes(self, chance: random.Random) -> Callable[[], None]:
        """The user loses the role in a project; what is returned gives it back."""
        project_id = chance.choice(self._others())
        self.lost[project_id] += 1
        self.world.revoke(self.monitor, project_id, "reader")

        def back() -> None:
            if self._known(project_id):
                self.world.grant(self.monitor, project_id, "reader")

        return back

    def disabled(self, chance: random.Random) -> Callable[[], None]:
        """A project is disabled; what is returned enables it again."""
        project_id = chance.choice(self._others())
        self.lost[project_id] += 1
        project = self.world.projects[project_id]
        project.enabled = False

        def back() -> None:
            project.enabled = True

        return back

    def renamed(self, chance: random.Random) -> None:
        """A project has another name, one that needs to be escaped."""
        project = self.world.projects[chance.choice(self._others())]
        project.name = f'{project.name.split(" ")[0]} "{chance.randrange(1000)}\\n'
        self._note_names()

    def tokens_end(self, chance: random.Random) -> None:
        """All tokens are revoked."""
        self.world.tokens.clear()

    def fails(self, chance: random.Random) -> None:
        """A project's listing is refused a few times in a row."""
        self.happening.setdefault(chance.choice(self.watchable()), Happening()).failing = chance.randint(1, 6)

    def hangs(self, chance: random.Random) -> None:
        """A project's listing is not answered."""
        self.happening.setdefault(chance.choice(self.watchable()), Happening()).hanging = 1

    def oddities(self, chance: random.Random) -> None:
        """Odd records turn up in a project's listing, or are gone again."""
        project_id = chance.choice(self.watchable())
        happening = self.happening.setdefault(project_id, Happening())
        if happening.raw:
            happening.raw = []
            return
        # No two projects list the same deployments: they would be an administrator's (`collector.administrators`).
        # No deployment comes twice: such a response is requested once more (`deployments.hashes`).
        happening.raw = [raw.replace(b"odd-", project_id.encode() + b"-") for raw in chance.sample(ODD, 4)]

    def erased(self, chance: random.Random) -> None:
        """Some deployments are deleted behind everybody's back."""
        for project_id in chance.sample(self.watchable(), 1):
            listed = self.world.visible(project_id)
            for deployment in chance.sample(listed, len(listed) // 4):
                self.world.remove(deployment.id)

    async def outage(self) -> None:
        """The whole cloud is gone for a moment: refused connections, after everything under way was answered."""
        self.down = True
        await eventually(lambda: self.under_way == self.hanging, "everything under way is answered")
        await self.simulator.stop()
        await asyncio.sleep(0.5)  # that is how long the outage lasts
        await self.simulator.start()
        self.down = False

    def trim(self, project_id: str, keep_from: int) -> None:
        """Forget a project's listings before this one (counted from the first ever)."""
        kept = self.listings[project_id]
        while kept and self.first[project_id] < keep_from:
            kept.popleft()
            self.first[project_id] += 1


ODD = [
    b"7",
    b"null",
    b'{"id": ""}',
    b'{"server_id": "x"}',
    b'{"id": "odd-1", "status": 5, "action": ["x"], "creation_time": "yesterday", "output_values": []}',
    b'{"id": "odd-2", "status": "COMPLETE", "action": "ADOPT", "output_values": {"deploy_status_code": "01"}}',
    b'{"id": "odd-3", "status": "IN_PROGRESS", "action": "CREATE", "creation_time": "2001-01-01T00:00:00+23:59"}',
    b'{"id": "odd-4 \\ud800", "server_id": "a\\"\\\\b\\n", "status": "}, {", "action": "\xc3\xa9"}',
]


def _faulty(kind: str) -> web.Response:
    """An answer of a bad day."""
    match kind:
        case "429":
            return web.Response(status=429, headers={"Retry-After": "0"})
        case "302":
            return web.Response(status=302, headers={"Location": "/elsewhere"})
        case "garbage":
            return web.Response(body=b"<html>", content_type="application/json")
        case "endless":
            return web.Response(body=b'{"software_deployments": [{}]', content_type="application/json")
        case "latin":
            return web.Response(body=b'{"software_deployments": [{"id": "\xff"}]}', content_type="application/json")
        case _:
            return web.Response(status=int(kind), text="a bad day")
