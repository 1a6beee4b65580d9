"""Everything that can be wrong with Keystone or Heat, and what an exporter makes of each of it: one table, one test.

There are two simulated clouds, `sim` and `other`, and an exporter that refreshes both. Then one project's Heat (or one
cloud's Keystone, when its tokens end) gets into trouble, and out of it again.
"""

import asyncio
import gc
import json
import logging
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from exporter.collector.collector import Collector
from exporter.collector.project_poller import ProjectPoller
from exporter.config import schema
from exporter.deployments.state import ProjectKey
from exporter.openstack.keystone_transport import ANSWER_BYTES
from exporter.simulator.answers import json_answer
from exporter.simulator.authentication import authenticate, describe, services
from tests import harness
from tests.harness import (
    FIRST,
    Authority,
    Cloud,
    Front,
    Handler,
    Hands,
    Hold,
    Plan,
    Simulator,
    answering,
    eventually,
    front_of,
    page_of,
    quiet_world,
    written,
)
from tests.programs.gateway import Gateway
from tests.programs.trouble import bomb, cut, endless, hang_up, mismeasured, trickling

cloud = harness.cloud
pytestmark = harness.sdk_warning

Api: TypeAlias = Literal["orchestration", "identity"]
DEPLOYMENTS = "heat_software_deployments"
LISTING = b'{"software_deployments": [{"id": "a", "status": "COMPLETE", "action": "CREATE"}]}'
HTML = b"<html><head><title>Oh no</title></head><body>It works!</body></html>"
JSON = {"Content-Type": "application/json"}
LIFE = 300.0
"""How long tokens of the one cloud last, in seconds."""
LEVELS = 500_000
"""Past what any Python reads: 3.14 goes as deep as its stack is large."""
STALE = 600.0
"""The age past which data is withdrawn."""
CONCURRENCY = 4
"""Refreshes at once: two for each of two clouds."""
LIMIT = 64 * 1024 * 1024
"""The most bytes of a listing."""
LEFT_BEHIND = 2 * 1024 * 1024
"""The most bytes of memory that a fault may leave behind: less than each of its large answers."""


# -- the scene


@dataclass
class Scene:
    """An exporter, its clouds, and the API that gets into trouble: one project's Heat, or one cloud's Keystone."""

    api: Api
    cloud: Cloud
    other: Simulator
    trap: Front
    """Another host, which redirects lead to."""
    authority: Authority
    """The one that the exporter trusts."""
    gateway: Gateway
    """A way to the API that can be closed."""
    settings: schema.Config
    hands: Hands = field(default_factory=Hands)
    fleet: Collector = field(init=False)

    @property
    def watch(self) -> ProjectPoller:
        """The project that suffers."""
        return next(each for each in self.fleet.watches() if (each.key.cloud, each.state.name) == ("sim", FIRST))

    @property
    def others(self) -> list[ProjectPoller]:
        """Those that must not: of the other cloud, and of the same one if only a project's Heat is in trouble."""
        return [
            each
            for each in self.fleet.watches()
            if each.key.cloud == "other" or (self.api == "orchestration" and each.state.name != FIRST)
        ]

    async def others_refreshed(self) -> None:
        """Wait until the others' data is of this moment."""
        await eventually(
            lambda: all(each.fetched_at == self.hands.steady for each in self.others), "the others are refreshed"
        )

    # What the API says when all is well.

    @property
    def status(self) -> int:
        """Its status."""
        return 200 if self.api == "orchestration" else 201

    @property
    def headers(self) -> dict[str, str]:
        """Its headers."""
        return JSON if self.api == "orchestration" else {**JSON, "X-Subject-Token": "a-token"}

    @property
    def body(self) -> bytes:
        """Its body."""
        if self.api == "orchestration":
            return LISTING
        world = self.cloud.world
        token = world.issue(world.user("monitor").id, self.cloud.project().id)
        return json.dumps(describe(world, token, self.cloud.simulator.url, catalog=True)).encode()

    @property
    def opening(self) -> bytes:
        """How its body begins."""
        return b'{"software_deployments": [' if self.api == "orchestration" else b'{"token": {'

    @property
    def limit(self) -> int:
        """The most bytes that are taken from it."""
        return LIMIT if self.api == "orchestration" else ANSWER_BYTES

    def spoilt(self, value: bytes) -> bytes:
        """Its body with this value in a place where nobody looks."""
        place = b'{"id"' if self.api == "orchestration" else b'{"methods"'
        assert self.body.count(place) == 1
        return self.body.replace(place, b'{"input_values": ' + value + b", " + place[1:])

    # How it gets into trouble, and out of it.

    def answer(self, handler: Handler) -> None:
        """Let it answer in this way."""
        if self.api == "orchestration":
            self.cloud.listing(handler)
        else:
            self.cloud.authentication(handler)

    def asked(self) -> int:
        """How often it was asked."""
        return self.cloud.asked() if self.api == "orchestration" else self.cloud.authentications()

    def failed(self) -> int:
        """How many attempts have failed, of all whom it concerns."""
        return sum(sum(each.state.failures.values()) for each in self.fleet.watches())

    def end_tokens(self) -> None:
        """Let the time pass after which the one cloud's tokens have to be renewed."""
        self.hands.advance(LIFE)

    async def lead_to(self, url: str, *, fresh: bool = False) -> None:
        """Let it be found at another address: the one project's catalog, or clouds.yaml, changes."""
        if self.api == "identity":
            self.write(url)
            if not fresh:
                await self.fleet.reload(lambda: self.settings)
            return
        world, project_id = self.cloud.world, self.cloud.project().id

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            token = authenticate(world, json.loads(await request.read()))
            about: dict[str, Any] = describe(world, token, self.cloud.simulator.url, catalog=True)
            if token.project_id == project_id:
                about["token"]["catalog"] = services(project_id, url)
            return json_answer(201, about, {"X-Subject-Token": token.id})

        self.cloud.mend()
        self.cloud.authentication(handler)
        if not fresh:
            self.end_tokens()

    def write(self, keystone: str) -> None:
        """Write a clouds.yaml in which the one cloud's Keystone is at this address."""
        entry, url = self.cloud.entry(), self.cloud.simulator.url
        sim = {
            **entry,
            "auth": {**entry["auth"], "auth_url": f"{keystone}/v3"},
            "cacert": str(self.authority.file),
        }
        if keystone != url:
            sim["orchestration_endpoint_override"] = f"{url}/heat/v1/%(project_id)s"
        self.cloud.write(sim, other={**entry, "auth": {**entry["auth"], "auth_url": self.other.auth_url}})


@asynccontextmanager
async def playing(
    cloud: Cloud, api: Api, *, gateway: Literal["", "http", "https"] = "", refresh: Mapping[str, str]
) -> AsyncIterator[Scene]:
    """A scene in which all is well: every project was refreshed, and connections are as many as they will be."""
    cloud.world.plan = Plan(churn=0, token_lifetime=LIFE)
    settings = schema.parse(
        written(
            refresh={"interval": "50ms", "stale_after": f"{STALE:.0f}s", "share": 1},
            limits={"response_bytes": f"{LIMIT}B", "concurrency": CONCURRENCY},
            clouds=[
                {"name": "sim", "cloud": "simulator", "refresh": dict(refresh)},
                {"name": "other", "cloud": "other"},
            ],
            names=False,
        ),
        source="test",
    )
    authority = Authority(cloud.folder)
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(Simulator(quiet_world()))
        trap = await stack.enter_async_context(front_of(other))
        tls = authority.context("gateway", "127.0.0.1") if gateway == "https" else None
        way = await stack.enter_async_context(Gateway(cloud.simulator.port, tls=tls))
        scene = Scene(api, cloud, other, trap, authority, way, settings)
        scene.write(cloud.simulator.url)
        if gateway:
            await scene.lead_to(way.url, fresh=True)
        exporter = await stack.enter_async_context(cloud.exporter(settings, clock=scene.hands.clock))
        scene.fleet = exporter.fleet
        await asyncio.wait_for(scene.fleet.wait_ready(), harness.DEADLINE)
        assert [each.state.error for each in scene.fleet.watches()] == [""] * 4
        await all_at_once(scene)
        yield scene


@asynccontextmanager
async def between_refreshes(scene: Scene) -> AsyncIterator[None]:
    """A moment at which nothing is asked of the one cloud, so that what changes meanwhile breaks no request off."""
    async with AsyncExitStack() as turns:
        for _ in range(CONCURRENCY // 2):
            await turns.enter_async_context(scene.fleet.gate.turn("sim", slow=False))
        yield


async def all_at_once(scene: Scene) -> None:
    """Hold every listing back until all are under way: from then on there are as many connections as there ever are."""
    simulators = {"sim": scene.cloud.simulator, "other": scene.other}
    wanted = {each.key for each in scene.fleet.watches()}
    released = asyncio.Event()

    def holding(cloud: str, before: Any) -> Any:
        async def intercept(request: web.BaseRequest, api: Any) -> web.StreamResponse | None:
            if request.path.endswith("/software_deployments"):
                wanted.discard(ProjectKey(cloud, request.path.split("/")[-2]))
                await released.wait()
            answer: web.StreamResponse | None = await before(request, api) if before else None
            return answer

        return intercept

    usual = {name: each.intercept for name, each in simulators.items()}
    for name, each in simulators.items():
        each.intercept = holding(name, usual[name])
    await eventually(lambda: not wanted, "all are asked for")
    for name, each in simulators.items():
        each.intercept = usual[name]
    released.set()


# -- what can be wrong

Begin: TypeAlias = Callable[[Scene], Awaitable[None]]


class Fault(NamedTuple):
    """Something that can be wrong: the reason that it is counted under for each API, how it begins and how it ends."""

    heat: str
    keystone: str
    begin: Begin
    end: Begin
    gateway: Literal["", "http", "https"] = ""
    refresh: Mapping[str, str] = {}
    attempts: int = 2
    """How many have to fail before it ends."""
    once: bool = False
    """Whether no attempt asks more than once, to be made sure of."""
    spare: int = 1
    """So many more connections may there be in the end, for what they are kept for differs."""


def answers(heat: str, keystone: str, make: Callable[[Scene], Handler], **options: Any) -> Fault:
    """An API that answers in a wrong way."""

    async def begin(scene: Scene) -> None:
        scene.answer(make(scene))

    async def end(scene: Scene) -> None:
        scene.cloud.mend()

    return Fault(heat, keystone, begin, end, **options)


def status(number: int, reason: str, body: bytes = b"{}", *, attempts: int = 2, **headers: str) -> Fault:
    """An API that answers with this status; of headers, underscores stand for dashes."""
    sent = {"Content-Type": "text/html" if body == HTML else "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return answers(reason, reason, lambda scene: answering(number, body, headers=sent), attempts=attempts)


def says(heat: str, keystone: str, body: Callable[[Scene], bytes]) -> Fault:
    """An API whose answer looks well, but for its body."""
    return answers(heat, keystone, lambda scene: answering(scene.status, body(scene), headers=scene.headers))


def later(seconds: int) -> Handler:
    """An API that wants to be left alone, until a date."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
        return await answering(429, headers={"Retry-After": date})(request)

    return handler


def shows(make: Callable[[Scene], Any]) -> Fault:
    """An API behind a port that was TLS with a good certificate, and then is something else."""

    async def begin(scene: Scene) -> None:
        await scene.gateway.open(make(scene))

    return Fault("tls", "tls", begin, as_at_first, gateway="https")


async def as_at_first(scene: Scene) -> None:
    """The end of what went wrong with a port."""
    await scene.gateway.open(scene.gateway.tls)


async def refusing(scene: Scene) -> None:
    """Nobody listens any more."""
    await scene.gateway.close()


async def nameless(scene: Scene) -> None:
    """Its address has a name that nobody knows."""
    await scene.lead_to("http://nowhere.invalid:8004")


async def named(scene: Scene) -> None:
    """Its address is right again."""
    await scene.lead_to(scene.gateway.url)


def stranger(scene: Scene) -> Any:
    """A certificate of an authority that nobody knows."""
    return Authority(scene.cloud.folder, "stranger").context("gateway", "127.0.0.1")


def redirect(number: int, to: Callable[[Scene, web.BaseRequest], str]) -> Fault:
    """An API that sends away whoever asks."""

    def make(scene: Scene) -> Handler:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=number, headers={"Location": to(scene, request)})

        return handler

    return answers("client_error", "client_error", make, once=True)


PATIENCE = {"silence": "2s"}
FAULTS: dict[str, Fault] = {
    # no connection
    "refused": Fault("connect", "connect", refusing, as_at_first, gateway="http"),
    "no such name": Fault("dns", "dns", nameless, named, gateway="http", spare=4),
    # time
    "never answers": answers("timeout", "timeout", lambda scene: Hold(), refresh=PATIENCE),
    "a byte now and then": answers(
        "timeout",
        "timeout",
        lambda scene: trickling(scene.body, pause=0.05, status=scene.status, headers=scene.headers),
        refresh={"timeout": "2s"},
    ),
    # connections that break, lengths that are wrong
    "hangs up": answers("connect", "connect", lambda scene: hang_up),
    "reset inside the body": answers(
        "connect", "connect", lambda scene: cut(scene.body, abort=True, status=scene.status, headers=scene.headers)
    ),
    "closed inside the body": answers(
        "connect", "connect", lambda scene: cut(scene.body, abort=False, status=scene.status, headers=scene.headers)
    ),
    "chunks without an end": answers(
        "connect",
        "connect",
        lambda scene: cut(scene.body, abort=False, chunked=True, status=scene.status, headers=scene.headers),
    ),
    "Content-Length too large": answers(
        "connect", "connect", lambda scene: mismeasured(scene.body, by=9, status=scene.status, headers=scene.headers)
    ),
    "Content-Length too small": answers(
        "connect", "connect", lambda scene: mismeasured(scene.body, by=-9, status=scene.status, headers=scene.headers)
    ),
    # TLS
    "certificate of another name": shows(lambda scene: scene.authority.context("another", "127.0.0.2")),
    "certificate that has ended": shows(lambda scene: scene.authority.context("ended", "127.0.0.1", expired=True)),
    "certificate of a stranger": shows(stranger),
    "no TLS": shows(lambda scene: None),
    # redirects: never followed
    "redirect to another host": redirect(307, lambda scene, request: f"{scene.trap.url}{request.path}"),
    "redirect that makes it a GET": redirect(303, lambda scene, request: f"{scene.trap.url}{request.path}"),
    "redirect loop": redirect(308, lambda scene, request: str(request.url)),
    # statuses
    "400": status(400, "client_error"),
    "401": status(401, "auth"),
    "403": status(403, "forbidden"),
    "404 with HTML": status(404, "not_found", HTML),
    "409": status(409, "client_error"),
    "413": status(413, "client_error"),
    "429": status(429, "rate_limited"),
    "429 with Retry-After": status(429, "rate_limited", Retry_After="1", attempts=1),
    "429 with a date": answers("rate_limited", "rate_limited", lambda scene: later(2), attempts=1),
    "500": status(500, "server_error"),
    "502 with HTML": status(502, "server_error", HTML),
    "503": status(503, "server_error"),
    "503 with Retry-After": status(503, "rate_limited", Retry_After="1", attempts=1),
    "504": status(504, "server_error"),
    # bodies
    "HTML": status(200, "decode", HTML),
    "an empty body": status(200, "decode", b""),
    "null": status(200, "decode", b"null"),
    "too deep": says("decode", "decode", lambda scene: scene.spoilt(b"[" * LEVELS + b"]" * LEVELS)),
    "a key twice": says("decode", "decode", lambda scene: scene.body[:-1] + b", " + scene.body[1:]),
    "bad UTF-8": says("decode", "decode", lambda scene: scene.spoilt(b'"\xff\xfe"')),
    "NaN": says("decode", "decode", lambda scene: scene.spoilt(b"NaN")),
    "a huge text": says("too_large", "too_large", lambda scene: scene.spoilt(b'"' + b"x" * 40_000_000 + b'"')),
    "without an end": answers(
        "too_large",
        "too_large",
        lambda scene: endless(scene.opening, status=scene.status, headers=scene.headers),
    ),
    "a bomb": answers(
        "too_large",
        "too_large",
        lambda scene: bomb(scene.opening, 4 * scene.limit, status=scene.status, headers=scene.headers),
    ),
}


class Held(NamedTuple):
    """What a process holds on to."""

    descriptors: int
    threads: int
    tasks: int

    @classmethod
    def now(cls) -> "Held":
        """At this moment."""
        return cls(len(list(Path("/proc/self/fd").iterdir())), threading.active_count(), len(asyncio.all_tasks()))

    def within(self, other: "Held", spare: int) -> bool:
        """Whether it is no more than that, but for some descriptors and tasks."""
        return (
            self.descriptors <= other.descriptors + spare
            and self.threads <= other.threads
            and self.tasks <= other.tasks + spare
        )


@contextmanager
def tracing() -> Iterator[Callable[[], int]]:
    """Gives a function that tells how many bytes are held of those that were allocated since the beginning."""

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start(1)
    try:
        yield held
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("api", ["orchestration", "identity"])
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault(cloud: Cloud, name: str, api: Api, caplog: pytest.LogCaptureFixture):
    """A fault is counted under its one reason and told once; the data is kept until it is stale; nobody else suffers;
    when it ends, the next attempt succeeds, which is told once; and nothing of it is left."""
    fault = FAULTS[name]
    reason = fault.heat if api == "orchestration" else fault.keystone
    with capture_logs() as logs, caplog.at_level(logging.WARNING), ExitStack() as stack:
        async with playing(cloud, api, gateway=fault.gateway, refresh=fault.refresh) as scene:
            before = Held.now()
            traced = stack.enter_context(tracing())
            async with between_refreshes(scene):
                cloud.requests.clear()
                attempts = scene.watch.state.refreshes
                await fault.begin(scene)
                if api == "identity":
                    scene.end_tokens()
            await eventually(lambda: sum(scene.watch.state.failures.values()) >= fault.attempts)
            await scene.fleet.publisher.settled()
            page = page_of(scene.fleet)
            shown = page.select(DEPLOYMENTS, cloud="sim", project=FIRST, status="COMPLETE", action="CREATE")
            assert [each.value for each in shown] == [1]
            assert page.value("heat_up", cloud="sim", project=FIRST) == 0

            scene.hands.advance(STALE - LIFE - 10)
            await scene.others_refreshed()
            scene.hands.advance(LIFE - 10)
            await scene.others_refreshed()
            scene.hands.advance(30)
            await scene.fleet.expire()
            page = page_of(scene.fleet)
            assert page.select(DEPLOYMENTS, cloud="sim", project=FIRST) == []
            failures = page.cells("heat_refresh_failures_total", "api", "reason", cloud="sim", project=FIRST)
            assert failures.keys() == {(api, reason)}
            for each in scene.others:
                assert (each.state.condition, each.state.failures, each.state.stale) == ("fresh", {}, False)

            async with between_refreshes(scene):
                await fault.end(scene)
                attempts, made = scene.watch.state.refreshes, scene.watch.state.refreshes - attempts
                failed = sum(scene.watch.state.failures.values())
                assert made == failed
                if fault.once:
                    assert scene.asked() == scene.failed()
            await eventually(lambda: scene.watch.state.refreshes > attempts, "it is tried again")
            assert scene.watch.state.up
            assert sum(scene.watch.state.failures.values()) == failed
            await scene.fleet.publisher.settled()
            page = page_of(scene.fleet)
            assert page.value(DEPLOYMENTS, cloud="sim", project=FIRST, status="COMPLETE", action="CREATE") == 1
            assert scene.trap.paths == []
            spare = fault.spare * (4 if fault.gateway else 2)  # each has a socket at both ends, and a task or two
            await eventually(lambda: Held.now().within(before, spare), "it holds on to no more than before")
            assert traced() < LEFT_BEHIND
    told = [line for line in logs if line.get("project") == FIRST and line["cloud"] == "sim"]
    # A busy machine may be slow to answer, which is told too.
    events = [line["event"] for line in told if not line["event"].startswith("interval ")]
    assert events == ["refresh failed", "data withdrawn, too old", "recovered"]
    assert (told[0]["api"], told[0]["reason"]) == (api, reason)
    libraries = ("asyncio", "aiohttp.client", "urllib3")  # keystoneauth's warnings are left out of every log
    assert [each.getMessage() for each in caplog.records if each.name.startswith(libraries)] == []


@pytest.mark.parametrize("api", ["orchestration", "identity"])
async def test_a_slow_first_byte_is_no_fault(cloud: Cloud, api: Api):
    """An API that takes its time is waited for, for as long as `refresh.silence` allows, while others are refreshed."""
    hold = Hold()
    async with playing(cloud, api, refresh={}) as scene:
        async with between_refreshes(scene):
            scene.answer(hold)
            if api == "identity":
                scene.end_tokens()
            attempts = scene.watch.state.refreshes
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        for _ in range(5):
            scene.hands.advance(1)
            await scene.others_refreshed()
        assert scene.watch.state.refreshes == attempts
        hold.released.set()
        await eventually(lambda: scene.watch.state.refreshes > attempts)
        assert (scene.watch.state.up, scene.watch.state.failures) == (True, {})
