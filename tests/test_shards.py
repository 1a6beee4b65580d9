"""Several exporters that share the projects: each watched by exactly one, without their talking to each other."""

import asyncio
import re
import shlex
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from exporter.collector.collector import Collector
from exporter.common.errors import ConfigError
from exporter.config import schema
from exporter.config.sharding import ordinal, owner
from exporter.simulator import Deployment
from tests import harness
from tests.harness import FIRST, SECOND, Cloud, Samples, configuration, page_of, run
from tests.programs.available import leave_out
from tests.test_fleet import DEPLOYMENTS, comparable

cloud = harness.cloud
pytestmark = harness.sdk_warning

IDS = [f"{number:032x}" for number in range(2000)]
FAILURES = "heat_refresh_failures_total"


# -- who owns what


def test_owners_never_change():
    """The owner of a project is the same on every machine and in every version: another one would watch it twice."""
    assert [owner("prod", project, 5) for project in IDS[:12]] == [4, 1, 1, 2, 3, 1, 0, 1, 3, 0, 4, 1]
    assert [owner("prod", IDS[0], total) for total in range(1, 9)] == [0, 1, 1, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("total", [1, 2, 3, 5, 8, 16])
def test_shares_are_even(total: int):
    """Of 2,000 projects every shard has its part, none a quarter more or less than that."""
    shares = Counter(owner("prod", project, total) for project in IDS)
    assert shares.keys() == set(range(total))
    assert all(0.75 < share * total / len(IDS) < 1.25 for share in shares.values())


@pytest.mark.parametrize("total", [1, 2, 3, 5, 8, 15])
def test_a_further_shard_takes_its_part_and_nothing_else_moves(total: int):
    """When a shard is added, hardly more than one project in n+1 moves, and only to the new one."""
    moved = [project for project in IDS if owner("prod", project, total) != owner("prod", project, total + 1)]
    assert {owner("prod", project, total + 1) for project in moved} == {total}
    assert 0.75 < len(moved) * (total + 1) / len(IDS) < 1.25


def test_clouds_are_shared_out_apart():
    """The same id in two clouds may belong to two shards: one cloud's luck is not the other's."""
    same = sum(owner("one", project, 4) == owner("two", project, 4) for project in IDS)
    assert 0.2 < same / len(IDS) < 0.3


# -- which one this is


@pytest.mark.parametrize(
    ("name", "expected"),
    [("exporter-0", 0), ("exporter-12", 12), ("exporter-2.heat.svc.cluster.local", 2), ("node7", 7), ("a-1-2", 2)],
)
def test_the_ordinal_of_a_host_name(name: str, expected: int):
    """The number that ends the host name, before any domain, as the pods of a StatefulSet have it."""
    assert ordinal(name) == expected


@pytest.mark.parametrize("name", ["exporter", "exporter-2a", "exporter.example-3", "2-exporter"])
def test_a_host_name_without_an_ordinal(name: str):
    """A host name that does not end in a number is refused, and named."""
    with pytest.raises(ConfigError, match=f"shard.index.*{re.escape(name)}"):
        ordinal(name)


async def test_this_host_s_name(cloud: Cloud):
    """`auto` goes by the name of the host that the process runs on, and says so where that has no number."""
    name = socket.gethostname()
    match = re.search(r"(\d+)$", name.split(".")[0])
    total = int(match[1]) + 1 if match else 2
    done = await run("check", "--config.file", cloud.configure(), "--shard.index", "auto", "--shard.total", total)
    if match:
        mine = {each.name for each in projects(cloud) if owner("sim", each.id, total) == int(match[1])}
        assert {each for each in (FIRST, SECOND) if each in done.stderr} == mine
    else:
        assert done.status == 2
        assert "shard.index" in done.stderr
        assert repr(name) in done.stderr


def projects(cloud: Cloud) -> list[Any]:
    """The projects that `monitor` reads."""
    return [each for each in cloud.world.projects_of(cloud.world.user("monitor").id) if each.enabled]


async def command(*words: object, stdin: str | None = None) -> tuple[int, str, str]:
    """Exit status and output of a program."""
    process = await asyncio.create_subprocess_exec(
        *map(str, words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await asyncio.wait_for(process.communicate(), 2 * harness.DEADLINE)
    return process.returncode or 0, stdout.decode(), stderr.decode()


async def test_pods_of_a_statefulset(cloud: Cloud):
    """Two pods with the same arguments, told apart by their host names alone, have all projects between them."""
    if (await command("unshare", "--uts", "true"))[0]:
        leave_out("a host name of its own for a process (unshare --uts is not permitted)")
    for number in range(6):
        cloud.add_project(f"more-{number}")
    arguments = harness.command_line(
        "once", "--config.file", cloud.configure(), "--shard.index=auto", "--shard.total=2", "--log.level=error"
    )

    async def pod(number: int) -> Samples:
        script = f"hostname exporter-{number}.example.org && exec {shlex.join(arguments)}"
        status, stdout, stderr = await command("unshare", "--uts", "sh", "-c", script)
        assert status == 0, stderr
        return Samples.of(stdout)

    pages = await asyncio.gather(*map(pod, range(2)))
    for number, page in enumerate(pages):
        expected = {each.id for each in projects(cloud) if owner("sim", each.id, 2) == number}
        assert {each.labels["project_id"] for each in page.select("heat_up")} == expected


# -- all of them together


OWN = re.compile(r"heat_(last_refresh_.*|refresh_interval_seconds|.*_age_seconds_gsum)")
"""Families that tell about one process's refreshes, or about the moment of one."""


def of_projects(*pages: Samples) -> Counter[Any]:
    """The samples of the projects' families, each with how often it is there."""
    return comparable(
        each for page in pages for each in page if "project_id" in each.labels and not OWN.fullmatch(each.name)
    )


async def test_the_shards_together_are_the_whole(cloud: Cloud, monkeypatch: pytest.MonkeyPatch):
    """What three exporters show, configured by flags, by environment variables and by file, is together exactly what
    one shows that watches everything."""
    names = [FIRST, SECOND, *(cloud.add_project(f"more-{number}").name for number in range(8))]
    for number, name in enumerate(names):
        for status in ("COMPLETE", "FAILED", "IN_PROGRESS")[: number % 4]:
            cloud.deploy(name, status=status, server=f"server-{number}", code=number, age=7400)
    cloud.world.remove(next(iter(cloud.world.deployments)))  # the fixture's are on the edge of a bucket
    cloud.world.remove(next(iter(cloud.world.deployments)))
    cloud.world.add_raw(cloud.project(SECOND).id, b"{}")
    file = cloud.configure(shard={"index": 0, "total": 2})
    third = cloud.put("third.yaml", harness.written(shard={"index": 2, "total": 3}))

    async with cloud.fleet() as fleet:
        await fleet.once()
        whole = page_of(fleet)
    by_flags = run("once", "--config.file", file, "--shard.index=0", "--shard.total=3")
    by_file = run("once", "--config.file", third)
    first = asyncio.create_task(by_flags), asyncio.create_task(by_file)
    done = await asyncio.gather(*first)
    monkeypatch.setenv("HEAT_DEPLOYMENT_EXPORTER_SHARD_INDEX", "1")
    monkeypatch.setenv("HEAT_DEPLOYMENT_EXPORTER_SHARD_TOTAL", "3")
    done.append(await run("once", "--config.file", file))
    assert [each.status for each in done] == [0, 0, 0], [each.stderr for each in done]
    pages = [Samples.of(each.stdout) for each in done]
    for index, page in zip((0, 2, 1), pages, strict=True):
        mine = {each.id for each in projects(cloud) if owner("sim", each.id, 3) == index}
        assert {each.labels["project_id"] for each in page.select("heat_up")} == mine
        assert page.value("heat_projects", state="fresh") == len(mine)
    assert of_projects(*pages) == of_projects(whole)
    assert sum(page.total(DEPLOYMENTS) for page in pages) == len(cloud.world.deployments) > 10


def sharded(index: int, total: int) -> schema.Config:
    """The configuration of one of several exporters."""
    return configuration(shard={"index": index, "total": total})


def finishes(*fleets: Collector) -> Counter[tuple[str, str, str]]:
    """What exporters have seen to finish, all together: by project, status and action."""
    found: Counter[tuple[str, str, str]] = Counter()
    for fleet in fleets:
        for each in page_of(fleet).select("heat_software_deployment_finished_total"):
            found[each.labels["project"], each.labels["status"], each.labels["action"]] += int(each.value)
    return +found


async def test_shards_count_each_finish_once(cloud: Cloud):
    """What several exporters see to finish is together what one sees, also when another joins them: a project that
    moves begins anew, and nothing that had finished before is counted for it."""
    names = [FIRST, SECOND, *(cloud.add_project(f"more-{number}").name for number in range(8))]

    async def look(*fleets: Collector) -> None:
        """One refresh of every project that each of them watches."""
        for fleet in fleets:
            await fleet.once()

    def finish(deployments: list[Deployment], status: str) -> None:
        for each in deployments:
            cloud.world.update(each.id, status=status)

    running = [cloud.deploy(name, status="IN_PROGRESS", age=90) for name in names]
    async with (
        cloud.fleet(configuration()) as alone,
        cloud.fleet(sharded(0, 2)) as zero,
        cloud.fleet(sharded(1, 2)) as one,
        cloud.fleet(sharded(2, 3)) as two,
    ):
        await look(alone, zero, one)
        finish(running[::2], "COMPLETE")
        await look(alone, zero, one)
        finish(running[1::2], "FAILED")
        await look(alone, zero, one)
        assert finishes(zero, one) == finishes(alone)
        assert finishes(alone).total() == len(names)
        again = [cloud.deploy(name, status="IN_PROGRESS", age=5) for name in names]
        await zero.reload(lambda: sharded(0, 3))
        await one.reload(lambda: sharded(1, 3))
        await look(alone, zero, one, two)
        assert finishes(two) == {}
        moved = {each.state.name for each in two.watches()}
        assert moved
        assert finishes(zero, one) == Counter({key: n for key, n in finishes(alone).items() if key[0] not in moved})
        before = finishes(alone), finishes(zero, one, two)
        finish(again, "COMPLETE")
        await look(alone, zero, one, two)
        assert finishes(zero, one, two) - before[1] == finishes(alone) - before[0]
        assert (finishes(alone) - before[0]).total() == len(names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard.index=3", "--shard.total=3"], "shard: expected an index below total (3), not 3"),
        (["--shard.index=1"], "shard: expected an index below total (1), not 1"),
        (["--shard.index=-1", "--shard.total=3"], "shard.index: expected a number from 0, or auto"),
        (["--shard.index=one", "--shard.total=3"], "shard.index: expected a number from 0, or auto"),
        (["--shard.total=0"], "--shard.total"),
        (["--shard.total=many"], "--shard.total"),
    ],
)
async def test_impossible_shards_are_refused(cloud: Cloud, arguments: list[str], message: str):
    """A shard that there can't be is refused before anything is asked."""
    done = await run("once", "--config.file", cloud.configure(), *arguments)
    assert done.status == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not len(cloud.requests)


@pytest.mark.parametrize(
    ("text", "given", "expected"),
    [
        ("", {}, (0, 1)),
        ("shard: {index: 1, total: 4}", {}, (1, 4)),
        ("shard: {index: 1, total: 4}", {"index": 2}, (2, 4)),
        ("shard: {index: 1, total: 4}", {"total": 2}, (1, 2)),
        ("shard: {index: 1, total: 4}", {"index": 5, "total": 6}, (5, 6)),
        ("shard: {total: 4}", {"index": 3}, (3, 4)),
        ("shard: {index: 5, total: 4}", {"index": 3}, (3, 4)),
    ],
)
def test_flags_override_the_file(tmp_path: Path, text: str, given: dict[str, int], expected: tuple[int, int]):
    """A flag replaces its key of the file and leaves the other one."""
    (tmp_path / "config.yaml").write_text(text)
    shard = schema.load(tmp_path / "config.yaml", shard=given).shard
    assert (shard.index, shard.total) == expected
