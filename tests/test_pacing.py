"""The refresh loop over hours and days: in whatever order things happen, it asks when it should and shows what it may.

Time is virtual (`tests.virtual`), everything else is real: the exporter, its sockets and threads, the simulated cloud.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiohttp import web
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from exporter.collector.collector import Collector
from exporter.collector.project_poller import ProjectPoller
from exporter.collector.schedule import spread
from exporter.common.clock import Clock
from exporter.common.threads import WORKERS
from exporter.simulator import Plan, Simulator, World, build
from exporter.simulator.heat import Heat
from tests.harness import Cloud, configuration, eventually, isolate, page_of
from tests.virtual import SLOWLY, VirtualLoop

pytestmark = pytest.mark.filterwarnings("ignore:Support for InfluxDB")

START = 1_750_000_000.0
"""Unix time when the loop's time is 0."""
EPSILON = 1.5
"""Seconds by which an attempt may be off: aiohttp rounds long deadlines up to whole seconds."""
SILENCE = 15.0
AT_ONCE = 1.0
"""Requests of one attempt are closer together than this."""
REASONS = {
    "500": "server_error", "503": "server_error", "403": "forbidden", "404": "not_found", "400": "client_error",
    "302": "client_error", "429": "rate_limited", "garbage": "decode", "reset": "connect", "hang": "timeout",
}  # fmt: skip
"""What each way to fail is called."""
FIVE_MINUTES, HOUR = 300.0, 3600.0


@dataclass
class Attempt:
    """One attempt to refresh the project, as the cloud sees it."""

    start: float
    steady: float
    """The same by the clock that goes on while the machine sleeps."""
    mode: str
    takes: float
    """Seconds until it is answered or given up."""
    retry_after: float
    reason: str | None
    """Why it fails; None where it doesn't."""
    api: str = "orchestration"

    @property
    def end(self) -> float:
        """When it is over."""
        return self.start + self.takes


@dataclass
class Settings:
    """What the configuration says of the pace."""

    interval: float = 60.0
    timeout: float = 45.0
    stale_after: float = 300.0
    share: float = 0.25
    host: str = "127.0.0.1"


@dataclass
class Server:
    """How the cloud behaves, and what it was asked about the project."""

    loop: VirtualLoop
    world: World
    heat: Heat
    project_id: str
    steady: Callable[[], float]
    settings: Settings
    mode: str = "ok"
    takes: float = 0.0
    retry_after: str | None = None
    identity: str = "ok"
    attempts: list[Attempt] = field(default_factory=list)
    waiting: int = 0
    """Requests that are held back on purpose."""
    under_way: int = 0
    most: int = 0
    """So many listings were asked for at once."""

    def _note(self, attempt: Attempt) -> None:
        if self.attempts and attempt.start - self.attempts[-1].start < AT_ONCE:
            self.attempts.pop()  # a token and then the listing, or the listing once more: one attempt
        self.attempts.append(attempt)

    async def authentication(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """A token is asked for: by its id for the project, by name for looking up projects, which always works."""
        if request.method != "POST" or self.project_id.encode() not in await request.read():
            return None
        reason = {"ok": None, "401": "auth", "503": "server_error"}[self.identity]
        self._note(Attempt(self.loop.time(), self.steady(), self.identity, 0.0, 0.0, reason, "identity"))
        return None if self.identity == "ok" else web.Response(status=int(self.identity), text="no")

    async def listing(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """The listing is asked for; one with a token that has ended is no attempt of its own."""
        token = self.world.tokens.get(request.headers.get("X-Auth-Token", ""))
        if token is None:
            return None
        mode, headers = self.mode, {}
        if self.retry_after is not None and mode in {"429", "500", "503"}:
            headers["Retry-After"] = self.retry_after
        takes, reason = self.takes if mode == "ok" else 0.0, REASONS.get(mode)
        if mode == "503" and headers:
            reason = "rate_limited"
        limit = min(self.settings.timeout, SILENCE)
        if mode == "hang" or takes > limit:
            takes, reason = limit, "timeout"
        asked = min(float(headers.get("Retry-After", 0)), HOUR)
        self._note(Attempt(self.loop.time(), self.steady(), mode, takes, asked, reason))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.waiting += 1
        try:
            if mode == "hang":
                await asyncio.Event().wait()
            await asyncio.sleep(self.takes if mode == "ok" else 0)
        finally:
            self.under_way -= 1
            self.waiting -= 1
        match mode:
            case "ok":
                # Heat looks at a token when a request comes, whatever becomes of it before the answer.
                ended = token.id not in self.world.tokens
                self.world.tokens[token.id] = token
                try:
                    return await self.heat.answer(request, request.path.removeprefix("/heat"))
                finally:
                    if ended:
                        self.world.tokens.pop(token.id, None)
            case "garbage":
                return web.Response(body=b"[]", content_type="application/json")
            case "reset":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case _:
                return web.Response(status=int(mode), headers=headers, text="no")


class Pacing(RuleBasedStateMachine):
    """One project of one cloud, refreshed for ever; every rule is followed by the invariants."""

    folder: ClassVar[Path]
    monkeypatch: ClassVar[pytest.MonkeyPatch]

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.settings = Settings()
        self.counters: dict[Any, float] = {}
        self.checked = 0
        """How many attempts were over and looked at."""
        self.begun = 0
        """How many had begun when they should."""
        self.failures = 0
        """In a row."""
        self.listing_time = 0.0
        self.earliest, self.latest = 0.0, 0.0
        """When the next attempt may begin, and has to."""
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.data: Attempt | None = None
        """Which attempt brought the data."""
        self.expired = False
        """Whether it was withdrawn."""
        self.unsettled = 0.0
        """When, by the loop's time, the machine last slept or other settings came."""
        self.place = 0.0
        self.spread = False
        """Whether the project has its place in the interval."""
        self.last: Attempt | None = None
        """The last attempt that is over."""
        self.asleep = 0.0
        """For how long the machine was suspended: its steady clock went on."""
        self.off = 0.0
        """By how much the wall clock was set."""
        self._open = AsyncExitStack()

    # -- the beginning and the end

    @initialize()
    def begin(self) -> None:
        """A cloud with one project, and an exporter that refreshes it."""
        self.loop.run(self._begin())

    async def _begin(self) -> None:
        loop, open_ = self.loop, self._open
        plan = Plan(projects=2, disabled_projects=0, servers=1, deployments=3, churn=0)
        simulator = await open_.enter_async_context(Simulator(build(plan, now=lambda: START + loop.time())))
        self.cloud = Cloud(simulator, self.monkeypatch, self.folder)
        self.cloud.write(self.cloud.entry(project="billing"))
        self.project = self.cloud.project("web-frontend")
        self.server = Server(loop, simulator.world, simulator._heat, self.project.id, self._steady, self.settings)
        self.cloud.listing(self.server.listing)
        self.cloud.authentication(self.server.authentication)
        clock = Clock(wall=lambda: START + loop.time() + self.off, steady=self._steady)
        self.fleet = await open_.enter_async_context(Collector(self._configuration(), clock=clock).opened())

        def busy() -> bool:
            used = sum(each.access._users for each in self.fleet.clouds.values())
            return self._working() or used > self.server.waiting

        loop.look_out(busy)
        task = asyncio.create_task(self.fleet.run())
        open_.push_async_callback(asyncio.gather, task, return_exceptions=True)
        open_.callback(task.cancel)
        await self.fleet.clouds["sim"].discovered.wait()
        self.latest = loop.time() + AT_ONCE

    def _steady(self) -> float:
        return self.loop.time() + self.asleep

    def teardown(self) -> None:
        """Nothing is left."""
        self.loop.look_out(lambda: True)
        self.loop.run(self._open.aclose())
        while self._working():  # whoever asked for a token is told that nobody is there
            self.loop.run(asyncio.sleep(SLOWLY))
        self.loop.run(self._end())
        self.loop.close()

    async def _end(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _working(self) -> bool:
        """Whether threads are at work."""
        return WORKERS.calls > 0

    def _configuration(self) -> Any:
        wanted = self.settings
        return configuration(
            refresh={
                "interval": f"{wanted.interval:.0f}s",
                "timeout": f"{wanted.timeout:.0f}s",
                "silence": f"{SILENCE:.0f}s",
                "stale_after": f"{wanted.stale_after:.0f}s",
                "share": wanted.share,
                "discovery": "5y",
            },
            limits={"requests_per_second": 10_000},
            names=False,
            clouds=[{"name": "sim", "cloud": "simulator", "projects": [self.project.id]}],
        )

    # -- what happens

    @rule(seconds=st.one_of(st.floats(0, 100), st.sampled_from((1.0, 60.0, 200.0, 600.0, 2400.0))))
    def time_passes(self, seconds: float) -> None:
        """A while in which nothing else happens."""
        self.loop.run(asyncio.sleep(seconds))

    @rule(
        mode=st.sampled_from(("ok", "ok", "429", "503", "hang", *REASONS)),
        retry_after=st.sampled_from(("7", "600", "1800", "99999", "0", None)),
    )
    def answers(self, mode: str, retry_after: str | None) -> None:
        """From now on listings are answered so."""
        self.server.mode, self.server.retry_after, self.server.takes = mode, retry_after, 0.0

    @rule(takes=st.sampled_from((0.0, 0.3, 9.0, 14.0, 20.0)))
    def is_slow(self, takes: float) -> None:
        """From now on listings take so long."""
        self.server.mode, self.server.takes = "ok", takes

    @rule(identity=st.sampled_from(("ok", "ok", "401", "503")))
    def tokens_end(self, identity: str) -> None:
        """All tokens end, and from now on Keystone gives new ones or does not."""
        self.server.identity = identity
        self.cloud.revoke()

    @rule(seconds=st.sampled_from((1.0, 200.0, 4000.0)))
    def suspended(self, seconds: float) -> None:
        """The machine sleeps."""
        self.asleep += seconds
        self.unsettled = self.loop.time()

    @rule(seconds=st.sampled_from((-86400.0, -3.0, 5.0, 86400.0)))
    def clock_set(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self.off += seconds

    @rule(name=st.sampled_from(("one", 'two \\ "three"\n', "web-frontend")))
    def renamed(self, name: str) -> None:
        """The project has another name, and the projects are looked up; once more where that was under way already."""
        self.project.name = name
        self.fleet.clouds["sim"]._look_again.set()
        self.loop.run(eventually(lambda: self.watch.state.name == name))

    @rule(
        interval=st.sampled_from((30.0, 60.0, 400.0)),
        timeout=st.sampled_from((10.0, 45.0)),
        stale_after=st.sampled_from((30.0, 300.0, 3600.0)),
        share=st.sampled_from((0.1, 0.25, 1.0)),
        elsewhere=st.booleans(),
    )
    def reloaded(self, interval: float, timeout: float, stale_after: float, share: float, elsewhere: bool) -> None:
        """Another configuration, perhaps of another address of the cloud."""
        self.loop.run(asyncio.sleep(2 * EPSILON))
        self._look()
        self.shows_what_it_may()
        host = "localhost" if elsewhere else "127.0.0.1"
        moved = host != self.settings.host
        entry = self.cloud.entry(project="billing")
        entry["auth"]["auth_url"] = entry["auth"]["auth_url"].replace("127.0.0.1", host)
        self.cloud.write(entry)
        before = self.interval
        self.settings = self.server.settings = Settings(interval, timeout, stale_after, share, host)
        self.unsettled = self.loop.time()
        if moved:
            self.failures = 0  # what went wrong before says nothing of another address
        if self.last is not None and self.last.reason is None:
            if self.interval != pytest.approx(before, rel=0.01):
                begin = self.last.start + self.interval * self.place
                self.earliest = begin + self.interval
                self.latest = max(self.loop.time(), begin) + self.interval
        elif self.last is not None and moved:
            self.earliest, self.latest = 0.0, self.loop.time() + AT_ONCE
        wanted = self._configuration()
        self.loop.run(self.fleet.reload(lambda: wanted))

    # -- what must be so

    @property
    def watch(self) -> ProjectPoller:
        """The exporter's."""
        (watch,) = self.fleet.watches()
        return watch

    @property
    def interval(self) -> float:
        """The one that is in force."""
        return max(self.settings.interval, self.listing_time / self.settings.share)

    @property
    def settled(self) -> bool:
        """Whether every attempt is over and was looked at."""
        return self.checked == len(self.server.attempts)

    def _look(self) -> None:
        """Look at the attempts that are over since the last time, one after the other."""
        now, attempts = self.loop.time(), self.server.attempts
        while self.checked < len(attempts):
            each = attempts[self.checked]
            if self.checked == self.begun:
                assert each.start >= self.earliest - EPSILON, f"{self.earliest - each.start:.1f} s too early: {each}"
                assert each.start <= self.latest + EPSILON, f"{each.start - self.latest:.1f} s too late: {each}"
                self.begun += 1
            if each.end + EPSILON > now:
                return  # perhaps it isn't over yet
            self.checked += 1
            self.last = each
            self._over(each)
        assert now <= self.latest + EPSILON, f"nothing was asked for {now - self.latest:.1f} s too long"

    def _over(self, each: Attempt) -> None:
        if each.reason is not None:
            self.failures += 1
            self.reasons[each.api, each.reason] += 1
            wait = min(2 ** (self.failures - 1) * self.interval, max(FIVE_MINUTES, self.interval))
            self.earliest = each.end + max(0.9 * wait, each.retry_after)
            self.latest = each.end + max(1.1 * wait, each.retry_after)
            return
        self.failures = 0
        self.listing_time = each.takes
        self.data, self.expired = each, False
        # From the first success on, a project has a place of its own in the interval.
        self.place = 0.0 if self.spread else spread(f"sim/{self.project.id}")
        self.spread = True
        turn = each.start + self.interval * (1 + self.place)
        self.earliest, self.latest = turn, max(turn, each.end + self.interval)

    @invariant()
    def asks_at_the_right_time(self) -> None:
        """No attempt comes too early or too late, and there is one at a time."""
        self._look()
        assert self.server.most <= 1

    @invariant()
    def counts_what_has_happened(self) -> None:
        """Every attempt that is over is counted under its reason; no counter goes down."""
        state = self.watch.state
        if self.settled:
            assert state.refreshes == self.checked
            assert dict(state.failures) == self.reasons
            assert state.up == (None if self.last is None else self.last.reason is None)
            assert state.interval == pytest.approx(self.interval, rel=0.01, abs=0.1)
        counters = {
            (each.name, frozenset((key, value) for key, value in each.labels.items() if key != "project")): each.value
            for each in page_of(self.fleet)
            if each.name.endswith(("_total", "_refresh_duration_seconds_bucket", "_refresh_duration_seconds_count"))
        }
        for key, value in self.counters.items():
            assert counters.get(key, -1) >= value, key
        self.counters = counters

    @invariant()
    def shows_what_it_may(self) -> None:
        """The page is that of the state, with data that is not too old, and that is not withdrawn too early."""
        state, page = self.watch.state, page_of(self.fleet)
        shown = bool(page.select("heat_software_deployments"))
        assert shown == (state.shown is not None)
        assert page.cells("heat_projects", "state") == {state.condition: 1}
        assert {each.labels["project"] for each in page if "project" in each.labels} == {self.project.name}
        if not self.settled:
            return
        if self.data is None:
            assert not shown
        else:
            age = self._steady() - self.data.steady
            over = age - max(self.settings.stale_after, 3 * self.interval)
            if over < -EPSILON and not self.expired:
                assert shown, f"withdrawn {-over:.1f} s too early"
            if over > 2 * EPSILON and self.loop.time() - self.unsettled > 2 * EPSILON:
                assert not shown, f"shown for {over:.1f} s too long"
            self.expired = not shown
        kind = "fresh" if self.last is None or self.last.reason is None else "failing"
        assert state.condition == ("pending" if self.last is None else kind if shown else "stale")


@pytest.mark.timeout(900)
def test_pacing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In whatever order things happen, the next attempt is never sooner than the contract has it nor is it forgotten,
    data is withdrawn when it is too old and not before, and every figure is what has happened."""
    isolate(monkeypatch, tmp_path)
    Pacing.folder, Pacing.monkeypatch = tmp_path, monkeypatch
    run_state_machine_as_test(
        Pacing,
        settings=settings(
            max_examples=80,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            phases=[Phase.generate],  # making a failure smaller would take many minutes
        ),
    )
