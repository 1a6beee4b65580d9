"""One project a scrape: /probe, /sd that tells Prometheus of them, and a real Prometheus that goes by both."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from exporter.cli.serve import Address, listening
from exporter.collector.collector import Collector
from exporter.collector.project_poller import ProjectPoller
from exporter.config.schema import Config
from exporter.deployments.state import ProjectKey
from exporter.metrics.families import FAMILIES
from exporter.metrics.text_format import CONTENT_TYPES
from exporter.web.app import Server
from tests import harness
from tests.harness import (
    FIRST,
    ONCE,
    OPENMETRICS,
    SECOND,
    Cloud,
    Exporter,
    Hands,
    Hold,
    Samples,
    answering,
    configuration,
    eventually,
    page_of,
    scraper,
    watch_of,
)
from tests.test_fleet import DEPLOYMENTS, PER_SERVER, beside
from tests.test_real import key

cloud = harness.cloud
pytestmark = harness.sdk_warning

SIM = {"name": "sim", "cloud": "simulator"}
FORMATS = {"text": "text/plain", "openmetrics": OPENMETRICS}
OF_PROJECTS = {family.name for family in FAMILIES if family.scope in ("data", "project")}


@asynccontextmanager
async def serving(cloud: Cloud, settings: Config | None = None, **options: Any) -> AsyncIterator[Exporter]:
    """An exporter in this process that refreshes and listens, with options of the web server."""
    fleet = Collector(settings or configuration(refresh=ONCE))
    server = Server(fleet, **options)
    async with fleet.opened(), listening(server, [Address("127.0.0.1", 0)]) as ports, scraper() as session:
        task = asyncio.create_task(fleet.run())
        try:
            yield Exporter(f"http://127.0.0.1:{ports[0]}", session, fleet, server)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def settled(exporter: Exporter) -> None:
    """Wait until nothing of the first refreshes is still to come: the names of configs come after them."""
    await exporter.fleet.wait_ready()
    await eventually(lambda: page_of(exporter.fleet).select("heat_software_config_info"))
    await eventually(lambda: not page_of(exporter.fleet).select("heat_software_config_deployments", config_name=""))


def probe(project: str, *names: str, cloud: str = "sim") -> str:
    """The path and query of a probe."""
    return "/probe?" + urlencode([("cloud", cloud), ("project", project), *(("name[]", name) for name in names)])


def fill(cloud: Cloud) -> None:
    """Deployments in every state, so that every family has samples."""
    for name in (FIRST, SECOND):
        for number, (status, code) in enumerate((("FAILED", 1), ("IN_PROGRESS", None), ("COMPLETE", "odd"))):
            cloud.deploy(name, status=status, code=code, server=f"server-{number}-of-{name}", age=9000)


def split(page: str) -> tuple[list[str], list[str]]:
    """A page's lines about families, and those of samples."""
    lines = page.splitlines()
    return [line for line in lines if line.startswith("#")], [line for line in lines if not line.startswith("#")]


# -- /probe


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("by", ["id", "name"])
async def test_a_probe_is_the_project_s_part_of_the_page(cloud: Cloud, form: str, by: str):
    """By id or by name, in both formats, compressed or not, a probe is exactly the lines of /metrics about its project,
    under the headers of their families, and Prometheus' own parsers read it."""
    fill(cloud)
    accept = FORMATS[form]
    async with serving(cloud) as exporter:
        await settled(exporter)
        whole_headers, whole = split((await exporter.get(Accept=accept)).text)
        for name in (FIRST, SECOND):
            project = cloud.project(name).id
            answer = await exporter.get(probe(project if by == "id" else name), Accept=accept)
            assert answer.status == 200
            assert answer.headers["Content-Type"] == CONTENT_TYPES["openmetrics" if form == "openmetrics" else "text"]
            headers, lines = split(answer.text)
            assert lines == [line for line in whole if f'project_id="{project}"' in line]
            assert len(lines) > 60
            assert [line for line in whole_headers if line in headers] == headers
            parse = parse_openmetrics if form == "openmetrics" else parse_text
            families = list(parse(answer.text))
            assert all(family.samples for family in families)
            assert {each.labels["project_id"] for family in families for each in family.samples} == {project}
            packed = await exporter.get(probe(project), Accept=accept, Accept_Encoding="gzip")
            assert packed.headers["Content-Encoding"] == "gzip"
            assert packed.body == answer.body


async def test_the_probes_together_are_the_projects_part_of_the_page(cloud: Cloud):
    """No line about a project is on /metrics alone, and none is on two probes."""
    fill(cloud)
    async with serving(cloud) as exporter:
        await settled(exporter)
        _, whole = split((await exporter.get()).text)
        parts = [split((await exporter.get(probe(name))).text)[1] for name in (FIRST, SECOND)]
    assert sorted(line for part in parts for line in part) == sorted(line for line in whole if "project_id=" in line)


@pytest.mark.parametrize("form", FORMATS)
async def test_a_probe_of_some_families(cloud: Cloud, form: str):
    """`name[]` selects families by their own name or a sample's, unknown ones and other scopes' nothing."""
    fill(cloud)
    accept = FORMATS[form]

    async def names(*wanted: str) -> set[str]:
        answer = await exporter.get(probe(FIRST, *wanted), Accept=accept)
        assert answer.status == 200
        return Samples.of(answer.text, openmetrics=form == "openmetrics").names()

    age = "heat_software_deployment_age_seconds"
    async with serving(cloud) as exporter:
        await exporter.fleet.wait_ready()
        assert await names("heat_up") == {"heat_up"}
        assert await names("heat_up", "heat_refreshes_total") == {"heat_up", "heat_refreshes_total"}
        assert await names(age) == {f"{age}_{part}" for part in ("bucket", "gcount", "gsum")}
        assert await names(f"{age}_gsum") == await names(age)
        assert await names("heat_nonsense") == set()
        assert await names("heat_projects", "process_cpu_seconds_total") == set()
        assert await names("heat_nonsense", DEPLOYMENTS) == {DEPLOYMENTS}


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("?cloud=sim", 400),
        (f"?project={FIRST}", 400),
        (f"?cloud=&project={FIRST}", 400),
        ("?cloud=sim&project=", 400),
        ("?cloud=sim&project=twice", 400),
        ("?cloud=sim&project=nowhere", 404),
        (f"?cloud=nowhere&project={FIRST}", 404),
        ("?cloud=sim&project=admin", 404),
        ("?cloud=sim&project=legacy-crm", 404),
        (f"?cloud=simulator&project={FIRST}", 404),
        (f"?cloud=sim&project={FIRST.upper()}", 404),
        (f"?cloud=sim&project={FIRST}&other=1", 200),
    ],
)
async def test_what_can_t_be_probed(cloud: Cloud, query: str, status: int):
    """A missing parameter and a name that stands for several projects are the caller's mistake; an unknown cloud, and a
    project that is not watched, are not found."""
    other = cloud.world.add_domain("other")
    twins = [cloud.add_project("twice"), cloud.add_project("twice", domain_id=other)]
    async with serving(cloud) as exporter:
        await exporter.fleet.wait_ready()
        answer = await exporter.get(f"/probe{query}")
        assert answer.status == status
        assert ("heat_up" in answer.text) == (status == 200)
        # By id each of them can be.
        for twin in twins:
            page = Samples.of((await exporter.get(probe(twin.id))).text)
            assert page.value("heat_up", project_id=twin.id, project="twice") == 1


@pytest.mark.parametrize("while_drawing", [False, True])
async def test_what_was_only_just_found(while_drawing: bool):
    """A project that was just found can be probed before it is on the page, also while one with other families is
    drawn."""
    fleet = Collector(configuration())
    watch = fleet.clouds["sim"]
    if while_drawing:
        fleet._take(configuration(metrics={"include": ["heat_refresh_interval_seconds"]}), before=fleet.config)
        fleet.publisher.reconfigure(fleet.families, series=0, projects=())
        watch.move(watch.config, watch.access, fleet._stage)
    key = ProjectKey("sim", "id-1")
    watch.projects["id-1"] = ProjectPoller(key, "new", watch._shared)
    async with listening(Server(fleet), [Address("127.0.0.1", 0)]) as ports, scraper() as session:
        exporter = Exporter(f"http://127.0.0.1:{ports[0]}", session, fleet)
        assert "id-1" not in (await exporter.get()).text
        for _ in range(2):
            answer = await exporter.get(probe("new"))
            assert answer.status == 200
            assert 'heat_refresh_interval_seconds{cloud="sim",project_id="id-1",project="new"}' in answer.text
            assert ("heat_refreshes_total" in answer.text) is not while_drawing


@pytest.mark.parametrize("name", ['a "quoted" name', "back\\slash", "ünï ☃", "a&b=c", "50%25", "a+b"])
async def test_odd_names(cloud: Cloud, name: str):
    """Whatever a project's or a cloud's name is made of, it can be probed by it."""
    project = cloud.add_project(name)
    async with serving(
        cloud, configuration(refresh=ONCE, clouds=[{"name": f"{name}/x", "cloud": "simulator"}])
    ) as exporter:
        await exporter.fleet.wait_ready()
        answer = await exporter.get(probe(name, cloud=f"{name}/x"))
        assert answer.status == 200
        page = Samples.of(answer.text)
        assert page.value("heat_up", cloud=f"{name}/x", project=name, project_id=project.id) == 1


async def test_an_id_goes_before_a_name(cloud: Cloud):
    """A project that is named like another's id takes no probe away from that."""
    named = cloud.add_project(cloud.project().id)
    async with serving(cloud) as exporter:
        await exporter.fleet.wait_ready()
        page = Samples.of((await exporter.get(probe(cloud.project().id))).text)
        assert {each.labels["project"] for each in page} == {FIRST}
        page = Samples.of((await exporter.get(probe(named.id))).text)
        assert {each.labels["project_id"] for each in page} == {named.id}


async def test_a_project_without_data_is_probed_all_the_same(cloud: Cloud):
    """Before its first answer, while it fails and when its data is withdrawn, a project's probe is 200 and has the
    exporter's own figures about it, so that what is wrong can be seen."""
    hold = Hold()
    cloud.listing(hold, SECOND)
    hands = Hands()
    async with cloud.exporter(configuration(refresh=ONCE), clock=hands.clock) as exporter:
        await eventually(hold.entered.is_set)
        answer = await exporter.get(probe(SECOND))
        assert answer.status == 200
        page = Samples.of(answer.text)
        assert not page.select("heat_up")
        assert page.value("heat_refreshes_total") == 0
        assert page.value("heat_last_refresh_success_timestamp_seconds") == 0

        cloud.listing(answering(500), FIRST)
        await exporter.when(lambda page: page.get("heat_up", project=FIRST) is not None)
        watch = watch_of(exporter.fleet)
        await watch.refresh()
        page = Samples.of((await exporter.get(probe(FIRST))).text)
        assert page.value("heat_up") == 0
        assert page.value("heat_refresh_failures_total", reason="server_error") >= 1

        cloud.mend()
        await watch.refresh()
        page = Samples.of((await exporter.get(probe(FIRST))).text)
        assert (page.value("heat_up"), page.total(DEPLOYMENTS)) == (1, 1)
        hands.advance(4 * 3600)
        await exporter.fleet.expire()
        for accept in FORMATS.values():
            answer = await exporter.get(probe(FIRST), Accept=accept)
            assert answer.status == 200
            page = Samples.of(answer.text, openmetrics=accept == OPENMETRICS)
            assert page.value("heat_up") == 1
            assert not page.select(DEPLOYMENTS)
            assert not page.select(PER_SERVER)
            assert page.value("heat_refreshes_total") >= 2


async def test_a_project_that_is_gone_is_probed_no_more(cloud: Cloud):
    """A project's probe ends with the project; its twin in another cloud is another one."""
    async with beside(cloud, "other") as other:
        settings = configuration(refresh={"discovery": "50ms"}, clouds=[SIM, {"cloud": "other"}])
        async with serving(cloud, settings) as exporter:
            await exporter.fleet.wait_ready()
            project = cloud.project(SECOND).id
            assert (await exporter.get(probe(project, cloud="other"))).status == 200
            other.world.remove_project(project)

            async def gone() -> bool:
                return (await exporter.get(probe(project, cloud="other"))).status == 404

            await eventually(gone)
            assert (await exporter.get(probe(project))).status == 200


async def test_a_probe_asks_nothing_of_the_cloud(cloud: Cloud):
    """Neither probes nor service discovery send the cloud a request."""
    async with serving(cloud, configuration(refresh=ONCE, names=False)) as exporter:
        await exporter.fleet.wait_ready()
        asked = len(cloud.requests)
        for path in (probe(FIRST), probe("nowhere"), "/sd", "/probe"):
            for _ in range(5):
                await exporter.get(path)
        assert len(cloud.requests) == asked


# -- /sd


async def targets(exporter: Exporter, **headers: str) -> list[dict[str, Any]]:
    """What service discovery answers."""
    answer = await exporter.get("/sd", **headers)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    found: list[dict[str, Any]] = json.loads(answer.text)
    return found


def entry(cloud: Cloud, name: str, target: str, *, scheme: str = "http", path: str = "/probe", of: str = "sim") -> Any:
    """What service discovery has to say of a project."""
    project = cloud.project(name).id
    return {
        "targets": [target],
        "labels": {
            "__scheme__": scheme,
            "__metrics_path__": path,
            "__param_cloud": of,
            "__param_project": project,
            "instance": f"{of}/{project}",
            "__meta_heat_cloud": of,
            "__meta_heat_project_id": project,
            "__meta_heat_project": name,
        },
    }


def by_instance(entries: list[Any]) -> list[Any]:
    """The same in an order of its own."""
    return sorted(entries, key=lambda each: each["labels"]["instance"])


async def test_service_discovery_lists_every_project(cloud: Cloud):
    """One target for each project of each cloud, at the address by which it was asked for; with an instance of its own,
    and without labels that the probe's samples have."""
    async with beside(cloud, "other"):
        settings = configuration(refresh=ONCE, clouds=[SIM, {"cloud": "other", "projects": [SECOND]}])
        async with serving(cloud, settings) as exporter:
            await exporter.fleet.wait_ready()
            for host in (exporter.url.removeprefix("http://"), "exporter.example:8080", "exporter", "[::1]:19180"):
                found = await targets(exporter, Host=host)
                assert by_instance(found) == by_instance(
                    [
                        entry(cloud, FIRST, host),
                        entry(cloud, SECOND, host),
                        entry(cloud, SECOND, host, of="other"),
                    ]
                )
            labels = {label for each in found for label in each["labels"]}
            assert not labels & {"cloud", "project_id", "project"}


@pytest.mark.parametrize(
    ("url", "scheme", "target", "path"),
    [
        ("https://prometheus.example/heat/", "https", "prometheus.example", "/heat/probe"),
        ("https://prometheus.example:8443/a/b", "https", "prometheus.example:8443", "/a/b/probe"),
        ("http://10.0.0.1:19180", "http", "10.0.0.1:19180", "/probe"),
        ("http://[2001:db8::1]:19180/", "http", "[2001:db8::1]:19180", "/probe"),
        ("https://user:secret@prometheus.example/", "https", "prometheus.example", "/probe"),
    ],
)
async def test_the_external_url_goes_before_the_host(cloud: Cloud, url: str, scheme: str, target: str, path: str):
    """--web.external-url decides scheme, address and the path's beginning, whoever asks under what name."""
    async with serving(cloud, external_url=url) as exporter:
        await exporter.fleet.wait_ready()
        found = await targets(exporter, Host="another.example")
    expected = [entry(cloud, name, target, scheme=scheme, path=path) for name in (FIRST, SECOND)]
    assert by_instance(found) == by_instance(expected)
    assert "secret" not in json.dumps(found)


async def test_service_discovery_waits_for_every_cloud(cloud: Cloud):
    """Until the projects of every cloud were found once it is 503, for Prometheus then keeps what it has; after that no
    outage takes a target away."""
    async with beside(cloud, "other") as other:
        other.intercept(answering(500), "/v3/auth/projects")
        settings = configuration(refresh={"discovery": "100ms"}, clouds=[SIM, {"cloud": "other"}])
        async with serving(cloud, settings) as exporter:
            await exporter.when(lambda page: page.get("heat_discovery_up", cloud="other") == 0)
            await exporter.when(lambda page: page.total("heat_up", cloud="sim") == 2)
            assert (await exporter.get("/sd")).status == 503
            other.mend()

            async def found() -> bool:
                return (await exporter.get("/sd")).status == 200

            await eventually(found)
            before = await targets(exporter)
            assert len(before) == 4
            await other.simulator.stop()
            await exporter.when(lambda page: page.value("heat_discovery_up", cloud="other") == 0)
            assert await targets(exporter) == before


async def test_a_new_cloud_is_waited_for_too(cloud: Cloud):
    """After a reload that adds a cloud it is 503 again until that cloud's projects are found."""
    hold = Hold()
    async with beside(cloud, "other") as other, serving(cloud) as exporter:
        await exporter.fleet.wait_ready()
        assert len(await targets(exporter)) == 2
        other.intercept(hold, "/v3/auth/projects")
        settings = configuration(refresh=ONCE, clouds=[SIM, {"cloud": "other"}])
        await exporter.fleet.reload(lambda: settings)
        await eventually(hold.entered.is_set)
        assert (await exporter.get("/sd")).status == 503
        hold.released.set()
        await eventually(lambda: exporter.fleet.clouds["other"].found)
        assert len(await targets(exporter)) == 4


# -- a real Prometheus


async def test_prometheus_discovers_and_probes_every_project(cloud: Cloud, prometheus: Callable[..., Any]):
    """A real Prometheus that knows only /sd scrapes each project by its probe, as a target of its own that is up;
    what it stores is what /metrics says; and it follows projects that come and go."""
    fill(cloud)
    gone = cloud.add_project("gone")
    settings = configuration(refresh={**ONCE, "discovery": "200ms"})
    async with serving(cloud, settings) as exporter:
        await settled(exporter)
        jobs = [{"job_name": "heat", "http_sd_configs": [{"url": f"{exporter.url}/sd", "refresh_interval": "1s"}]}]
        server = prometheus(jobs)

        def instances(found: list[Any]) -> dict[str, float]:
            return {each.labels["instance"]: each.value for each in found}

        def up(*projects: Any) -> Callable[[list[Any]], bool]:
            expected = {f"sim/{project.id}": 1.0 for project in projects}
            return lambda found: instances(found) == expected and len(found) == len(expected)

        first, second = cloud.project(FIRST), cloud.project(SECOND)
        await asyncio.to_thread(server.wait_until, 'up{job="heat"}', up(first, second, gone))
        answer = await exporter.get(Accept=OPENMETRICS)
        page = {
            key(each): each.value
            for family in parse_openmetrics(answer.text)
            for each in family.samples
            if "project_id" in each.labels
        }
        stored = await asyncio.to_thread(server.query, '{__name__=~"heat_.*"}')
        found = {}
        for each in stored:
            labels = dict(each.labels)
            name = labels.pop("__name__")
            assert labels.pop("job") == "heat"
            assert labels.pop("instance") == f"sim/{labels['project_id']}"
            found[key(Sample(name, labels, 0))] = each.value
        # To Prometheus an empty label is none.
        page = {(name, frozenset(pair for pair in labels if pair[1])): value for (name, labels), value in page.items()}
        assert len(page) > 150
        assert found == page

        late = cloud.add_project("late")
        cloud.deploy("late")
        cloud.world.remove_project(gone.id)
        await asyncio.to_thread(server.wait_until, 'up{job="heat"}', up(first, second, late))
        stored = await asyncio.to_thread(server.query, f'sum({DEPLOYMENTS}{{project="late"}})')
        assert [each.value for each in stored] == [1]
