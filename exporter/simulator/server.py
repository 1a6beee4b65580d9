"""The simulator's server: both APIs on one loopback port, with a log of what was asked and means to break it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import accumulate
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack

import yaml
from aiohttp import web

from exporter.simulator.answers import page, title
from exporter.simulator.build import PASSWORD
from exporter.simulator.churn import Churn
from exporter.simulator.heat import Heat
from exporter.simulator.keystone import Keystone
from exporter.simulator.nova import PREFIX as NOVA_PREFIX
from exporter.simulator.nova import Nova
from exporter.simulator.world import World

Api = Literal["identity", "orchestration", "compute"]
Intercept = Callable[[web.BaseRequest, Api], Awaitable[web.StreamResponse | None]]
PREFIX = "/heat"
SHOW = re.compile(r"/heat/v1/[^/]+/software_deployments/[^/]+")


@dataclass(slots=True)
class Asked:
    """One request: `status` is None while it is under way and if it was cut off."""

    api: Api
    method: str
    path: str
    query: str
    project_id: str | None
    time: float
    status: int | None = None
    ended: float | None = None


class Criteria(TypedDict, total=False):
    """What requests are picked by."""

    api: Api
    method: str
    path: str
    path_suffix: str
    project_id: str | None
    status: int | None


class Requests:
    """The log of requests, the latest 100,000 of them."""

    def __init__(self) -> None:
        """Promise: empty."""
        self._log: deque[Asked] = deque(maxlen=100_000)

    def __iter__(self) -> Iterator[Asked]:
        """Go through the requests in the order of their arrival."""
        return iter(self._log)

    def __len__(self) -> int:
        """Return how many there were."""
        return len(self._log)

    def append(self, asked: Asked) -> None:
        """Add one."""
        self._log.append(asked)

    def clear(self) -> None:
        """Forget them all, to count from here."""
        self._log.clear()

    def select(self, **criteria: Unpack[Criteria]) -> list[Asked]:
        """Return the requests that agree with everything given."""
        suffix = criteria.pop("path_suffix", "")
        return [
            asked
            for asked in self._log
            if asked.path.endswith(suffix) and all(getattr(asked, key) == value for key, value in criteria.items())
        ]

    def count(self, **criteria: Unpack[Criteria]) -> int:
        """Return how many requests agree with everything given."""
        return len(self.select(**criteria))

    @property
    def shows(self) -> int:
        """How often one deployment was asked for, which has side effects on a real Heat."""
        return sum(asked.method == "GET" and SHOW.fullmatch(asked.path) is not None for asked in self._log)

    def peak(self, **criteria: Unpack[Criteria]) -> int:
        """Return how many such requests were under way at once, at most."""
        changes: list[tuple[float, int]] = []
        for asked in self.select(**criteria):
            changes.append((asked.time, 1))
            if asked.ended is not None:
                changes.append((asked.ended, -1))
        return max(accumulate(change for _, change in sorted(changes)), default=0)


class Simulator:
    """A Keystone and a Heat on one port, out of one world.

    An asynchronous context manager; between `stop` and `start` the world and the port stay, so that clients see an
    outage and a recovery. `intercept` may answer any request instead of the services, or hold it back.
    """

    def __init__(self, world: World, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Promise: nothing listens before `start`; port 0 is a free one, chosen once."""
        self.world = world
        self.host = host
        self.port = port
        self.requests = Requests()
        self.intercept: Intercept | None = None
        self.churn = Churn(world)
        self._chance = random.Random(f"{world.plan.seed}/faults")
        self._keystone = Keystone(world)
        self._heat = Heat(world)
        self._nova = Nova(world)
        self._runner: web.ServerRunner | None = None
        self._life: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.host}:{self.port}"

    @property
    def auth_url(self) -> str:
        """Where clients authenticate."""
        return f"{self.url}/v3"

    async def start(self) -> None:
        """Listen, and let the world live if its plan has churn."""
        if self._runner is not None:
            return
        # A client that hangs up ends its request here too, as it does with the services.
        server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        runner = web.ServerRunner(server, shutdown_timeout=0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except OSError:
            await runner.cleanup()
            raise
        self.port = runner.addresses[0][1]
        self._runner = runner
        if self.world.plan.churn:
            self._life = asyncio.create_task(self._live(), name="simulator-churn")

    async def stop(self) -> None:
        """Cut every connection and stop listening; the port is refused until the next `start`."""
        if self._life is not None:
            self._life.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._life
            self._life = None
        if self._runner is not None:
            runner, self._runner = self._runner, None
            self._abort(runner)
            await runner.cleanup()

    def drop_connections(self) -> None:
        """Cut every connection, in the middle of an answer too, and go on listening."""
        if self._runner is not None:
            self._abort(self._runner)

    @staticmethod
    def _abort(runner: web.ServerRunner) -> None:
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()

    async def _live(self) -> None:
        clock = asyncio.get_running_loop().time
        last = clock()
        while True:
            await asyncio.sleep(1)
            last, before = clock(), last
            self.churn.step(last - before)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        clock = asyncio.get_running_loop().time
        root = f"/{request.path.split('/')[1]}"
        api: Api = "orchestration" if root == PREFIX else "compute" if root == NOVA_PREFIX else "identity"
        shown = self.world.tokens.get(request.headers.get("X-Auth-Token", ""))
        project_id = shown.project_id if shown else None
        asked = Asked(api, request.method, request.path, request.query_string, project_id, clock())
        self.requests.append(asked)
        try:
            response = await self._answer(request, api)
            if response is None:
                if request.transport is not None:
                    request.transport.abort()
                return web.Response()
            asked.status = response.status
            return response
        except ConnectionResetError:  # the client went away while the answer was sent: nobody is left to tell
            return web.Response()
        finally:
            asked.ended = clock()

    async def _answer(self, request: web.BaseRequest, api: Api) -> web.StreamResponse | None:
        if self.intercept is not None:
            instead = await self.intercept(request, api)
            if instead is not None:
                return instead
        if self.world.plan.faults and self._chance.random() < self.world.plan.faults:
            return self._fault()
        if api == "orchestration":
            return await self._heat.answer(request, request.path.removeprefix(PREFIX))
        if api == "compute":
            return await self._nova.answer(request, request.path.removeprefix(NOVA_PREFIX))
        return await self._keystone.answer(request)

    def _fault(self) -> web.Response | None:
        """Return what a load balancer says on a bad day; None to cut the connection."""
        status = self._chance.choice((500, 503, 429, 0))
        if status == 0:
            return None
        response = page(status, f"<html><body><h1>{status} {title(status)}</h1></body></html>")
        if status == 429:
            response.headers["Retry-After"] = "1"
        return response

    def clouds_yaml(
        self,
        *,
        user: str = "monitor",
        clouds: Sequence[str] = ("simulator",),
        project: str | None = None,
        application_credential: bool = False,
    ) -> str:
        """Return a clouds.yaml whose entries all lead here, as a user of the built world.

        The project is the one named, else the first that the user has a role in.
        """
        found = self.world.user(user)
        mine = [p for p in self.world.projects_of(found.id) if p.enabled]
        scope = self.world.project(project) if project else mine[0]
        auth: dict[str, str] = {"auth_url": self.auth_url}
        entry: dict[str, Any] = {"auth": auth, "region_name": "RegionOne", "identity_api_version": "3"}
        if application_credential:
            entry["auth_type"] = "v3applicationcredential"
            credential = next(
                c for c in self.world.credentials.values() if (c.user_id, c.project_id) == (found.id, scope.id)
            )
            auth |= {"application_credential_id": credential.id, "application_credential_secret": credential.secret}
        else:
            auth |= {
                "username": user,
                "password": found.password or PASSWORD,
                "user_domain_id": found.domain_id,
                "project_name": scope.name,
                "project_domain_id": scope.domain_id,
            }
        return yaml.safe_dump({"clouds": {name: deepcopy(entry) for name in clouds}}, sort_keys=False)
