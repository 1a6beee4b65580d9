"""Reading the configuration again: all of it or nothing, and nothing is lost that did not have to change."""

import asyncio
import gc
import os
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from exporter.common.errors import ConfigError
from exporter.config import schema
from tests import harness
from tests.harness import (
    FIRST,
    ONCE,
    SECOND,
    Cloud,
    Exporter,
    Hold,
    Samples,
    configuration,
    eventually,
    page_of,
    serving,
    watch_of,
    written,
)
from tests.test_fleet import (
    DEPLOYMENTS,
    PER_SERVER,
    REFRESHES,
    beside,
    cycles,
    lines,
    look,
    rows,
    scraping,
    when,
    withheld,
)

cloud = harness.cloud
pytestmark = harness.sdk_warning

SUCCESSFUL = "heat_exporter_config_last_reload_successful"
TIMESTAMP = "heat_exporter_config_last_reload_success_timestamp_seconds"
HASH = "heat_exporter_config_hash"
REMOVED = "heat_projects_removed_total"
SIM = {"name": "sim", "cloud": "simulator"}


async def reload(exporter: Exporter, **sections: Any) -> schema.Config:
    """Go by this configuration from now on."""
    settings = configuration(**sections)
    await exporter.fleet.reload(lambda: settings)
    return settings


def counters(page: Samples) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every counter of the exporter's own, histograms included."""
    return {
        (each.name, frozenset(each.labels.items())): each.value
        for each in page
        if each.name.startswith("heat_") and each.name.endswith(("_total", "_count", "_sum", "_bucket"))
        and "_age_seconds" not in each.name and "deploy_status_code" not in each.name
    }  # fmt: skip


class Watcher:
    """Looks at page after page: no counter goes down, none of these projects is ever without its data."""

    def __init__(self, *projects: str, cloud: str = "sim") -> None:
        self.pages = 0
        self._projects = projects
        self._cloud = cloud
        self._last: dict[Any, float] = {}

    def __call__(self, page: Samples) -> None:
        self.pages += 1
        for name in self._projects:
            assert page.total(DEPLOYMENTS, cloud=self._cloud, project=name) > 0, name
            assert page.value("heat_up", cloud=self._cloud, project=name) == 1
        now = counters(page)
        for key in self._last.keys() & now.keys():
            assert now[key] >= self._last[key], key
        mine = {("cloud", self._cloud)}
        own = {key for key in self._last if mine <= key[1] and dict(key[1]).get("project") in self._projects}
        assert own <= now.keys()
        self._last = now


# -- who may ask, and how


async def test_a_hang_up_signal_reads_the_file_again(cloud: Cloud):
    """After SIGHUP a process goes by what is in its files now, the same process, without a gap."""
    file = cloud.configure(clouds=[{**SIM, "projects": [FIRST]}])
    async with serving("--config.file", file) as (process, exporter):
        before = await exporter.when(lambda page: page.total("heat_up") == 1)
        file.write_text(written(clouds=[{**SIM, "projects": [FIRST, SECOND]}]))
        process.process.send_signal(signal.SIGHUP)
        after = await exporter.when(lambda page: page.total("heat_up") == 2)
        assert after.value(SUCCESSFUL) == 1
        assert after.value(TIMESTAMP) > before.value(TIMESTAMP)
        assert after.value(HASH) != before.value(HASH)
        assert after.value("process_start_time_seconds") == before.value("process_start_time_seconds")
        assert (await exporter.get("/-/reload", method="POST")).status == 403
        assert (await exporter.samples()).value(TIMESTAMP) == after.value(TIMESTAMP)
        assert await process.stopped(signal.SIGTERM) == 0
    assert not [line for line in process.lines if "level=error" in line or "Warning" in line]


async def test_reloading_by_http(cloud: Cloud):
    """With --web.enable-lifecycle a POST reloads and answers when that is done, with what is wrong in a bad file;
    nothing else than a POST does."""
    file = cloud.configure(clouds=[{**SIM, "projects": [FIRST]}])
    async with serving("--config.file", file, "--web.enable-lifecycle") as (process, exporter):
        await exporter.when(lambda page: page.total("heat_up") == 1)
        first = await exporter.samples()
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            assert (await exporter.get("/-/reload", method=method)).status == 405
        assert (await exporter.samples()).value(TIMESTAMP) == first.value(TIMESTAMP)

        file.write_text("refresh: {intervall: 1s}\n")
        answer = await exporter.get("/-/reload", method="POST")
        assert answer.status == 500
        assert str(file) in answer.text
        assert "refresh.intervall" in answer.text
        bad = await exporter.samples()
        assert (bad.value(SUCCESSFUL), bad.value(TIMESTAMP), bad.value(HASH)) == (
            0, first.value(TIMESTAMP), first.value(HASH),
        )  # fmt: skip
        await exporter.refreshed(2)

        file.write_text(written(clouds=[{**SIM, "projects": [FIRST, SECOND]}]))
        assert (await exporter.get("/-/reload", method="POST")).status == 200
        good = await exporter.samples()
        assert good.value(SUCCESSFUL) == 1
        assert good.value(TIMESTAMP) > first.value(TIMESTAMP)
        assert good.value(HASH) != first.value(HASH)
        await exporter.when(lambda page: page.total("heat_up") == 2)
        assert process.process.returncode is None


async def test_a_reload_before_the_first_answer(cloud: Cloud):
    """A reload that comes while the exporter still opens its clouds waits for that, and is done."""
    many = [{"name": f"cloud-{number}", "cloud": "simulator"} for number in range(8)]
    file = cloud.configure(clouds=[*many, SIM])
    async with serving("--config.file", file, "--web.enable-lifecycle") as (process, exporter):
        # The port is known before the clouds are opened, which takes about a second.
        file.write_text(written(clouds=[SIM]))
        answers = await asyncio.gather(*(exporter.get("/-/reload", method="POST") for _ in range(2)))
        assert [answer.status for answer in answers] == [200, 200]
        page = await exporter.when(lambda page: page.total("heat_up", cloud="sim") == 2)
        assert {each.labels["cloud"] for each in page if "cloud" in each.labels} == {"sim"}
        assert await process.stopped(signal.SIGTERM) == 0
    assert not [line for line in process.lines if "rror" in line]


async def test_an_exporter_that_ends_while_it_reloads(cloud: Cloud):
    """Told to end in the middle of a reload it ends well, and complains of nothing that it left open."""
    file = cloud.configure(clouds=[SIM])
    entries = cloud.folder / "clouds.yaml"
    text = entries.read_bytes()

    def reader() -> int | None:
        """The end to write to of a pipe in the place of clouds.yaml, once somebody waits to read it."""
        try:
            return os.open(entries, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None

    async with serving("--config.file", file) as (process, exporter):
        await exporter.when(lambda page: page.total("heat_up") == 2)
        file.write_text(written(clouds=[{"name": "first", "cloud": "simulator"}, SIM]))
        for name in ("one", "two"):
            os.mkfifo(cloud.folder / name)
        (cloud.folder / "one").replace(entries)
        process.process.send_signal(signal.SIGHUP)
        first = await eventually(reader)
        (cloud.folder / "two").replace(entries)
        os.write(first, text)
        os.close(first)
        second = await eventually(reader)  # so the first cloud is open now
        try:
            assert await process.stopped(signal.SIGTERM) == 0
        finally:
            os.close(second)
    assert not [line for line in process.lines if "event=listening" not in line and "event=stopping" not in line]


# -- all or nothing


BAD = {
    "not YAML": lambda cloud, file: file.write_text("refresh: {interval: 1s"),
    "an unknown key": lambda cloud, file: file.write_text("limits: {concurency: 1}"),
    "a wrong type": lambda cloud, file: file.write_text("refresh: {interval: [1s]}"),
    "two clouds of one name": lambda cloud, file: file.write_text(written(clouds=[SIM, SIM])),
    "an unknown entry": lambda cloud, file: file.write_text(written(clouds=[SIM, {"cloud": "nowhere"}])),
    "no file": lambda cloud, file: file.unlink(),
    "a broken clouds.yaml": lambda cloud, file: cloud.put("clouds.yaml", "clouds: {simulator: {auth: "),
    "an entry without credentials": lambda cloud, file: cloud.write({"auth_type": "v3password", "auth": {}}),
}


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_configuration_is_refused_whole(cloud: Cloud, kind: str):
    """Whatever is wrong with a configuration, none of it comes into force, the one before goes on, the metrics and the
    log say so, and the next good one is taken."""
    file = cloud.configure(clouds=[SIM])

    def load() -> schema.Config:
        return schema.load(file)

    with capture_logs() as logs:
        async with cloud.exporter(load()) as exporter:
            page = await when(exporter, lambda page: page.total("heat_up") == 2)
            clients = {each.access.client for each in exporter.fleet.clouds.values()}
            BAD[kind](cloud, file)
            for _ in range(2):
                with pytest.raises(ConfigError):
                    await exporter.fleet.reload(load)
            async with scraping(exporter, Watcher(FIRST, SECOND)):
                refused = await cycles(exporter, 2)
            assert refused.value(SUCCESSFUL) == 0
            assert (refused.value(HASH), refused.value(TIMESTAMP)) == (page.value(HASH), page.value(TIMESTAMP))
            assert {each.access.client for each in exporter.fleet.clouds.values()} == clients
            assert cloud.authentications() == 2
            assert cloud.requests.count(path="/v3/auth/projects") == 1

            cloud.write()
            cloud.configure(clouds=[SIM])
            await exporter.fleet.reload(load)
            accepted = await look(exporter)
            assert accepted.value(SUCCESSFUL) == 1
            assert accepted.value(HASH) == page.value(HASH)
            assert accepted.value(TIMESTAMP) > page.value(TIMESTAMP)
    told = [line for line in logs if "refused" in line["event"]]
    assert [line["log_level"] for line in told] == ["warning"] * 2
    assert all(line["error"] for line in told)


async def test_the_hash_tells_configurations_apart(cloud: Cloud):
    """The hash is that of what is in force: the same for the same settings however they are written, and only then."""
    file = cloud.configure(clouds=[SIM])
    seen = []
    async with cloud.fleet(schema.load(file)) as fleet:
        for text in (
            written(clouds=[SIM]),
            "# the same\n" + written(clouds=[SIM]),
            written(clouds=[SIM], refresh={"interval": "200ms"}),
            written(clouds=[SIM], thresholds={"stuck_after": "1h"}),
        ):
            file.write_text(text)
            await fleet.reload(lambda: schema.load(file))
            assert page_of(fleet).value(HASH) == schema.load(file).digest()
            seen.append(page_of(fleet).value(HASH))
    assert seen[0] == seen[1] == seen[3] != seen[2]


# -- what changes, and what does not


async def test_nothing_that_stays_is_lost(cloud: Cloud):
    """Reloaded again and again under load, with everything changed that can be changed beside them, the projects of a
    cloud keep their data on every page, their tokens and their counters."""
    sections: list[dict[str, Any]] = [
        {"refresh": {"interval": "50ms"}},
        {"limits": {"concurrency": 2, "servers": 1}},
        {"limits": {"concurrency": 20, "requests_per_second": 500}},
        {"clouds": [{"cloud": "other"}, SIM]},
        {"clouds": [SIM, {"cloud": "other", "projects": [SECOND]}]},
        {"thresholds": {"stuck_after": "10m"}},
        {"metrics": {"exclude": [PER_SERVER]}},
        {"refresh": {"timeout": "5s", "silence": "4s"}},
        {"clouds": [{**SIM, "projects": [FIRST, SECOND]}]},
        {"buckets": {"age": ["1m", "1h"]}},
        {"shard": {"index": 0, "total": 1}},
        {},
    ]
    async with beside(cloud, "other"), cloud.exporter() as exporter:
        await cycles(exporter, 2)
        before = await look(exporter)
        tokens = dict(exporter.fleet.clouds["sim"].access._tokens)
        watch = watch_of(exporter.fleet)
        watcher = Watcher(FIRST, SECOND)
        async with scraping(exporter, watcher):
            for each in sections:
                await reload(exporter, **each)
                await cycles(exporter, 2, cloud="sim")
        after = await look(exporter)
        assert watcher.pages > 2 * len(sections)
        assert cloud.authentications() == 2
        assert exporter.fleet.clouds["sim"].access._tokens == tokens
        assert watch_of(exporter.fleet) is watch
        assert not after.select("heat_refresh_failures_total", cloud="sim")
        assert after.total(REMOVED, cloud="sim") == 0
        assert {each.labels["cloud"] for each in after if "cloud" in each.labels} == {"sim"}
        assert after.names() == before.names()


async def test_a_reload_takes_no_turn_away_and_gives_none(cloud: Cloud):
    """Projects whose turn comes in an hour are not asked because of a reload, and their data is shown on."""
    async with cloud.exporter(configuration(refresh=ONCE)) as exporter:
        await exporter.fleet.wait_ready()
        for number, limit in enumerate((5, 6, 7), 2):
            await reload(exporter, refresh=ONCE, limits={"concurrency": limit})
            await eventually(
                lambda number=number: cloud.requests.count(path="/v3/auth/projects", status=200) == number, "discovery"
            )
        assert (cloud.asked(FIRST), cloud.asked(SECOND)) == (1, 1)
        assert (await look(exporter)).total(DEPLOYMENTS) == 2


async def test_a_cloud_is_added_and_taken_away(cloud: Cloud):
    """A new cloud is found and refreshed; one that is no longer configured is shown no more, asked no more, and leaves
    no task and no connection; a cloud beside them goes on."""
    async with beside(cloud, "other") as other, cloud.exporter() as exporter:
        await cycles(exporter, 1)
        for _ in range(2):
            await reload(exporter, clouds=[SIM, {"cloud": "other"}])
            page = await when(exporter, lambda page: page.total("heat_up", cloud="other") == 2)
            assert page.value("heat_discovery_up", cloud="other") == 1
            client = exporter.fleet.clouds["other"].access.client
            tasks = {task for task in asyncio.all_tasks() if "other" in task.get_name()}
            assert len(tasks) == 3
            watcher = Watcher(FIRST, SECOND)
            async with scraping(exporter, watcher):
                await reload(exporter)
                gone = await look(exporter)
                assert not [each for each in gone if each.labels.get("cloud") == "other"]
                await eventually(lambda tasks=tasks: all(task.done() for task in tasks), "its tasks end")
                assert client.closed
                asked = len(other.requests)
                await cycles(exporter, 3)
            assert len(other.requests) == asked
            assert not [each for each in await look(exporter) if each.labels.get("cloud") == "other"]
            assert ("cloud", "other") not in exporter.fleet.page
        assert cloud.authentications() == 2


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        ("discover", [FIRST], {"config": 1}),
        ([FIRST, SECOND], [FIRST], {"config": 1}),
        ("discover", "current", {"config": 1}),
        ([FIRST], "discover", {}),
        ("current", "discover", {}),
        ([SECOND], [FIRST], {"config": 1}),
    ],
)
async def test_other_projects(cloud: Cloud, before: Any, after: Any, gone: dict[str, int]):
    """Projects that a configuration adds are refreshed; those that it leaves out are shown no more and counted as
    removed by the configuration."""

    def names(wanted: Any) -> set[str]:
        return {"discover": {FIRST, SECOND}, "current": {FIRST}}[wanted] if isinstance(wanted, str) else set(wanted)

    async with cloud.exporter(configuration(clouds=[{**SIM, "projects": before}])) as exporter:
        await when(exporter, lambda page: {e.labels["project"] for e in page.select("heat_up")} == names(before))
        await reload(exporter, clouds=[{**SIM, "projects": after}])
        page = await when(
            exporter,
            lambda page: {each.labels["project"] for each in page.select("heat_up") if each.value} == names(after),
        )
        assert page.cells(REMOVED, "reason") == gone
        assert {each.labels["project"] for each in page if "project" in each.labels} == names(after)
        page = await cycles(exporter, 2)
        # Once for each that was ever watched.
        assert cloud.authentications() == len(names(before) | names(after) | {FIRST})


async def test_another_shard(cloud: Cloud):
    """A project that another shard owns from now on is removed by the configuration."""
    async with cloud.exporter() as exporter:
        await when(exporter, lambda page: page.total("heat_up") == 2)
        settings = configuration(shard={"index": 0, "total": 7})
        mine = {name for name in (FIRST, SECOND) if settings.shard.owns("sim", cloud.project(name).id)}
        await exporter.fleet.reload(lambda: settings)
        page = await when(exporter, lambda page: {e.labels["project"] for e in page.select("heat_up")} == mine)
        assert page.cells(REMOVED, "reason") == ({"config": 2 - len(mine)} if len(mine) < 2 else {})
        await reload(exporter)
        await when(exporter, lambda page: page.total("heat_up") == 2)


async def test_other_server_patterns(cloud: Cloud):
    """From the next refresh on, other servers count."""
    for server in ("web-1", "web-2", "db-1"):
        cloud.deploy(server=server)
    async with cloud.exporter() as exporter:
        await when(exporter, lambda page: page.total(DEPLOYMENTS, project=FIRST) == 4)
        for patterns, expected in (
            ({"include": ["web-.*"]}, {"web-1", "web-2"}),
            ({"exclude": ["web-2"]}, {"web-1", "db-1", "server-1"}),
            (None, {"web-1", "web-2", "db-1", "server-1"}),
        ):
            await reload(exporter, clouds=[{**SIM, "servers": patterns} if patterns else SIM])
            page = await when(
                exporter,
                lambda page, expected=expected: (
                    {each.labels["server_id"] for each in page.select(PER_SERVER, project=FIRST)} == expected
                ),
            )
            assert page.total(DEPLOYMENTS, project=FIRST) == len(expected)


async def test_a_shorter_interval_is_in_force_at_once(cloud: Cloud):
    """Projects that would be asked in an hour are asked after the new interval."""
    async with cloud.exporter(configuration(refresh=ONCE)) as exporter:
        await exporter.fleet.wait_ready()
        await reload(exporter)
        page = await cycles(exporter, 3)
        assert page.value("heat_refresh_interval_seconds", project=FIRST) < 60


async def test_a_longer_interval_is_in_force_at_once(cloud: Cloud):
    """Once a cloud's interval is an hour, its projects are asked no more, but for a refresh that is under way."""
    async with beside(cloud, "other"), cloud.exporter(configuration(clouds=[SIM, {"cloud": "other"}])) as exporter:
        await cycles(exporter, 2)
        await reload(exporter, clouds=[{**SIM, "refresh": ONCE}, {"cloud": "other"}])
        before = cloud.asked(FIRST), cloud.asked(SECOND)
        page = await cycles(exporter, 8, cloud="other")
        assert [each.value for each in page.select("heat_refresh_interval_seconds", cloud="sim")] == [3600, 3600]
        assert cloud.asked(FIRST) <= before[0] + 1
        assert cloud.asked(SECOND) <= before[1] + 1


async def test_other_limits_of_series(cloud: Cloud):
    """Limits on servers and on the whole page are in force from the reload or the next refresh on, and taken back."""
    for number in range(60):
        cloud.deploy(server=f"server-{number:02}", status="FAILED" if number % 9 == 0 else "COMPLETE")
    async with cloud.exporter() as exporter:
        await when(exporter, lambda page: rows(page)[FIRST] == 61)
        await reload(exporter, limits={"servers": 10})
        page = await when(exporter, lambda page: rows(page)[FIRST] <= 11)
        assert withheld(page)[FIRST] == 61 - rows(page)[FIRST]
        await reload(exporter)
        await when(exporter, lambda page: not withheld(page))
        limit = lines(exporter.fleet) - 20
        await reload(exporter, limits={"series": limit})
        assert lines(exporter.fleet) <= limit
        page = await cycles(exporter, 2)
        assert len(page) <= limit
        assert withheld(page)[FIRST] == 61 - rows(page)[FIRST] > 0
        assert page.total(DEPLOYMENTS, project=FIRST) == 61
        await reload(exporter, limits={"series": 0})
        await when(exporter, lambda page: not withheld(page))


async def test_names_that_come_while_their_families_are_excluded(cloud: Cloud):
    """A reload that adds families shows the names that came before it, without another refresh."""
    named = asyncio.Event()

    async def hold_names(request: web.BaseRequest, api: str) -> web.StreamResponse | None:
        if request.path.endswith("/software_configs"):
            await named.wait()
        return None

    cloud.simulator.intercept = hold_names
    async with cloud.exporter(configuration(refresh=ONCE)) as exporter:
        await exporter.fleet.wait_ready()
        await reload(exporter, refresh=ONCE, metrics={"include": [DEPLOYMENTS]})
        named.set()
        await eventually(lambda: any(row.config_name for row in watch_of(exporter.fleet).state.shown.configs))
        await reload(exporter, refresh=ONCE)
        page = await look(exporter)
        counted = page.cells("heat_software_config_deployments", "config_name", "status", project=FIRST)
        rows = watch_of(exporter.fleet).state.shown.configs
        assert counted == {(row.config_name, row.status): row.deployments for row in rows}
        assert any(name for name, _ in counted)
        assert cloud.asked(FIRST) == 1


async def test_other_families(cloud: Cloud):
    """Families that are left out go at once, others stay with their data; what was left out comes back."""
    async with cloud.exporter(configuration(refresh=ONCE)) as exporter:
        await exporter.fleet.wait_ready()
        whole = await look(exporter)
        own = {name for name in whole.names() if not name.startswith("heat_")}
        await reload(exporter, refresh=ONCE, metrics={"include": ["heat_software_deployments", "heat_up"]})
        page = await look(exporter)
        assert page.names() == {DEPLOYMENTS, "heat_up"} | own
        assert page.total(DEPLOYMENTS) == 2
        await reload(exporter, refresh=ONCE, metrics={"exclude": ["heat_software_deployment_age_seconds"]})
        page = await look(exporter)
        left_out = {f"heat_software_deployment_age_seconds_{part}" for part in ("bucket", "gcount", "gsum")}
        assert page.names() >= whole.names() - left_out - {PER_SERVER}
        assert not page.names() & left_out
        assert cloud.asked(FIRST) == 1


@pytest.mark.parametrize("interrupted", [False, True])
async def test_other_families_are_drawn_beside_everything_else(cloud: Cloud, interrupted: bool):
    """While the projects are drawn anew one by one, others have their turns, and every page is a whole one: that of
    before, and then the new one, also where nobody waits for it any more. A project that goes meanwhile stays away."""
    left_out = "heat_software_deployments_stuck"
    for number in range(20):
        cloud.add_project(f"project-{number}")
    async with cloud.fleet() as fleet:
        await fleet.once()
        before = fleet.page
        gone = next(iter(fleet.watches()))
        settings = configuration(metrics={"exclude": [left_out]})
        reloading = asyncio.create_task(fleet.reload(lambda: settings))
        turns = 0
        while not reloading.done():
            await asyncio.sleep(0)
            if fleet.config is settings and fleet.page is before:
                turns += 1
                page = page_of(fleet)
                assert page.total("heat_up") == 22
                assert page.select(left_out)
                if turns == 1:
                    del fleet.clouds["sim"].projects[gone.key.project_id]
                    fleet.publisher.changed(gone.key)
                if turns == 5 and interrupted:
                    reloading.cancel()
        assert reloading.cancelled() is interrupted
        await fleet.publisher.settled()
        assert turns >= (5 if interrupted else 20)
        page = page_of(fleet)
    assert not page.select(left_out)
    assert page.total("heat_up") == 21
    assert page.total("heat_software_deployments") == 1
    assert page.value(HASH) == fleet.state.config_hash


@pytest.mark.parametrize("passes", range(4))
async def test_a_reload_that_nobody_waits_for_leaves_nothing_open(cloud: Cloud, passes: int):
    """Broken off as soon as it has taken effect, or a moment later, it still closes what is not used any more."""
    settings = configuration(limits={"servers": 17})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        async with cloud.fleet() as fleet:
            reloading = asyncio.create_task(fleet.reload(lambda: settings))
            while fleet.config is not settings:  # noqa: ASYNC110 - at once, not some time after
                await asyncio.sleep(0)
            for _ in range(passes):
                await asyncio.sleep(0)
            reloading.cancel()
            await asyncio.wait([reloading])
            await fleet.once()
            assert page_of(fleet).total("heat_up") == 2
        del fleet, reloading
        gc.collect()
    assert not [str(each.message) for each in told if each.category is ResourceWarning]


async def test_changed_credentials_are_used(cloud: Cloud):
    """After a reload a cloud is asked with what clouds.yaml says now; data and counters of its projects stay."""
    world = cloud.world
    new = world.add_user("successor", "other-password")
    for name in (FIRST, SECOND):
        world.grant(new.id, cloud.project(name).id, "reader")
    async with cloud.exporter() as exporter:
        await cycles(exporter, 2)
        before = await look(exporter)
        watcher = Watcher(FIRST, SECOND)
        async with scraping(exporter, watcher):
            cloud.write(cloud.entry(user="successor"))
            client = exporter.fleet.clouds["sim"].access.client
            await reload(exporter)
            await cycles(exporter, 3)
            # The one before may go now.
            for project in world.projects_of(world.user("monitor").id):
                world.grants[world.user("monitor").id, project.id].clear()
            world.tokens = {key: token for key, token in world.tokens.items() if token.user_id == new.id}
            page = await cycles(exporter, 3)
        assert client.closed
        assert watcher.pages > 3
        assert page.value("heat_authentications_total") == cloud.authentications()
        # The entry's own project may not be known as such yet when it and discovery ask for a token.
        assert cloud.authentications() in (4, 5)
        assert page.value(REFRESHES, project=FIRST) >= before.value(REFRESHES, project=FIRST) + 6
        assert not page.select("heat_refresh_failures_total")


async def test_changed_credentials_end_a_failure(cloud: Cloud):
    """A cloud whose password was wrong is found after a reload with the right one."""
    wrong = cloud.entry()
    wrong["auth"]["password"] = "wrong"
    cloud.write(wrong)
    async with cloud.exporter(configuration(refresh={"interval": "1h", "stale_after": "2h"})) as exporter:
        await when(exporter, lambda page: page.get("heat_discovery_failures_total", reason="auth") == 1)
        cloud.write()
        await reload(exporter, refresh=ONCE)
        page = await when(exporter, lambda page: page.total("heat_up") == 2)
        assert page.value("heat_discovery_up") == 1


async def test_changed_credentials_while_projects_are_looked_up(cloud: Cloud):
    """A reload while Keystone is being waited for leaves a fleet that goes on finding projects, with the new
    credentials."""
    hold = Hold()
    cloud.authentication(hold)
    async with cloud.exporter(configuration(refresh={"timeout": "1s", "silence": "1s"})) as exporter:
        await asyncio.wait_for(hold.entered.wait(), harness.DEADLINE)
        cloud.write(cloud.entry(application_credential=True, project=SECOND))
        await reload(exporter, refresh={"timeout": "1s", "silence": "1s"})
        hold.released.set()
        page = await when(exporter, lambda page: page.get("heat_up", project=SECOND) == 1)
        assert page.value("heat_discovery_up") == 1
        await cycles(exporter, 2, project=SECOND)


@pytest.mark.parametrize("change", ["nothing", "credentials", "limits", "metrics", "another cloud"])
async def test_a_reload_breaks_no_refresh_that_is_under_way(cloud: Cloud, change: str):
    """Refreshes that began before a reload end as they would have, whatever it changes, and count once."""
    holds = [Hold(), Hold()]
    for name, hold in zip((FIRST, SECOND), holds, strict=True):
        cloud.listing(hold, name)
    sections: dict[str, Any] = {
        "limits": {"limits": {"concurrency": 2, "servers": 3}},
        "metrics": {"metrics": {"exclude": ["heat_software_deployments_stuck"]}},
        "another cloud": {"clouds": [{"cloud": "other"}, SIM]},
    }.get(change, {})
    async with beside(cloud, "other"), cloud.exporter() as exporter:
        await eventually(lambda: all(hold.entered.is_set() for hold in holds))
        if change == "credentials":
            cloud.world.user("monitor").password = "new"
            cloud.write(cloud.entry())
        await reload(exporter, **sections)
        asked = cloud.requests.select(api="orchestration")
        assert len(asked) == 2
        for hold in holds:
            hold.released.set()
        page = await when(exporter, lambda page: page.total("heat_up", cloud="sim") == 2)
        assert [each.status for each in asked] == [200, 200]
        assert not page.select("heat_refresh_failures_total", cloud="sim")
        assert page.total(DEPLOYMENTS, cloud="sim") == 2
        page = await cycles(exporter, 2, project=SECOND) if change != "another cloud" else page
        assert not page.select("heat_refresh_failures_total", cloud="sim")


@pytest.mark.parametrize("concurrency", [3, 4])
async def test_the_limit_on_refreshes_holds_across_reloads(cloud: Cloud, concurrency: int):
    """While the turns of before are still held, reloads that change clouds or the limit give no turn too many."""
    for number in range(6):
        cloud.add_project(f"more-{number}")
    hold = Hold()
    listings: list[web.BaseRequest] = []

    async def held(request: web.BaseRequest, api: str) -> None:
        if api == "orchestration":
            listings.append(request)
            await hold(request)

    def under_way() -> int:
        # A cloud that a reload takes away may have been asked by then: that request is broken off.
        return sum(each.transport is not None and not each.transport.is_closing() for each in listings)

    refresh, limits = {"discovery": "50ms"}, {"concurrency": concurrency}
    settings = configuration(refresh=refresh, limits={"concurrency": 3})
    async with beside(cloud, "other") as other, cloud.exporter(settings) as exporter:
        cloud.simulator.intercept = other.simulator.intercept = held
        await eventually(lambda: under_way() == 3)
        for clouds in ([SIM, {"cloud": "other"}], [SIM], [{"cloud": "other"}, SIM]):
            await reload(exporter, refresh=refresh, limits=limits, clouds=clouds)
        cloud.add_project("late")
        await when(
            exporter, lambda page: page.select(REFRESHES, project="late") and page.select(REFRESHES, cloud="other")
        )
        # Looking for projects needs no turn: whoever thinks that there is room had time to come meanwhile.
        found = other.requests.count(path="/v3/auth/projects")
        await eventually(lambda: other.requests.count(path="/v3/auth/projects") >= found + 10)
        assert under_way() <= concurrency
        hold.released.set()
        await when(exporter, lambda page: page.total("heat_up") == 9 + 2)


async def test_reloads_come_one_after_the_other(cloud: Cloud):
    """However many reloads are asked for at once, each configuration is read after the one before is in force, and the
    last one stays."""
    under_way = 0
    order: list[int] = []

    def load(number: int) -> Callable[[], schema.Config]:
        def loaded() -> schema.Config:
            nonlocal under_way
            under_way += 1
            order.append(number)
            assert under_way == 1
            projects = [FIRST, SECOND] if number % 2 else [FIRST]
            found = configuration(clouds=[{**SIM, "projects": projects}], limits={"concurrency": 2 + number})
            time.sleep(0.01)  # in a thread: others could come in between
            assert under_way == 1
            under_way -= 1
            return found

        return loaded

    async with cloud.exporter() as exporter:
        await cycles(exporter, 1)
        watcher = Watcher(FIRST)
        async with scraping(exporter, watcher):
            await asyncio.gather(*(exporter.fleet.reload(load(number)) for number in range(10)))
        assert order == list(range(10))
        page = await look(exporter)
        assert page.value(HASH) == load(9)().digest()
        await when(exporter, lambda page: page.total("heat_up") == 2)
        assert not (await look(exporter)).select("heat_refresh_failures_total")
        # Nothing of the configurations in between is left.
        assert len([task for task in asyncio.all_tasks() if task.get_name().startswith("discovery")]) == 1


async def test_a_refused_reload_among_others(cloud: Cloud):
    """Of concurrent reloads a refused one stops none of the others."""

    def broken() -> schema.Config:
        raise ConfigError("broken")

    async with cloud.exporter() as exporter:
        await cycles(exporter, 1)
        last = configuration(limits={"concurrency": 3})
        outcomes = await asyncio.gather(
            exporter.fleet.reload(broken), exporter.fleet.reload(lambda: last), exporter.fleet.reload(broken),
            exporter.fleet.reload(lambda: last), return_exceptions=True,
        )  # fmt: skip
        assert [isinstance(each, ConfigError) for each in outcomes] == [True, False, True, False]
        page = await look(exporter)
        assert (page.value(SUCCESSFUL), page.value(HASH)) == (1, last.digest())
        await cycles(exporter, 2)
