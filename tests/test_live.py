"""The whole chain, running: simulated cloud → exporter → Prometheus with these rules → Alertmanager → a webhook.

The dashboards' queries are put to that Prometheus, and alerts arrive and resolve. The exporter is scraped in both ways
at once, which nobody should do, under jobs of their own.
"""

import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from aiohttp import web

from exporter.simulator import Deployment, Plan, Simulator, build
from tests.programs.alertmanager import Alertmanager, Webhook
from tests.programs.available import releases, require
from tests.programs.process import Process, eventually, free_port
from tests.programs.prometheus import Prometheus
from tests.programs.simulator import running
from tests.queries import (
    ALL,
    DASHBOARDS,
    ROOT,
    RULES,
    Target,
    Values,
    example,
    expand,
    rules,
    variables,
)
from tests.queries import targets as every_target

JOBS = ("heat", "heat-projects", "heat-exporter")
BUSY, QUIET, BROKEN, LEAVING, CLOSING = "web-frontend", "quiet", "broken", "leaving", "closing"
"""Projects: one where things happen, one where only the tests do, one with senseless answers, one whose role goes,
one that is disabled."""

DROPPED, SHRUNK = "dropped", "shrunk"
"""Clouds beside the one that things happen in: one that a reload takes out of the configuration, and one that is put
back with fewer projects than it had."""

TIMES = {"__rate_interval": "61s", "__interval": "1m", "__range": "1m"}

EMPTY = {
    "exporter / Failures by reason / B": "projects can always be looked up",
    "project / Finishing rate / A (the page)": "nothing finishes in the quiet project",
    "project / Time to finish / A (the page)": "nothing finishes in the quiet project",
    "project / Time to finish / B (the page)": "nothing finishes in the quiet project",
}
"""Queries that the scenario has no data for, and why."""


def quick(text: str) -> str:
    """The rules for people in a hurry: what has to last does so for a second, and no window is longer than 20 seconds.

    Nothing else is changed; how long things really take to fire is proven by the cases in prometheus/tests.
    """
    text = re.sub(r"^( +for:) \w+$", r"\1 1s", text, flags=re.MULTILINE)
    return re.sub(r"(\[|offset )\d+[smhd]\b", r"\g<1>20s", text)


@dataclass
class Scene:
    """Everything that runs."""

    simulator: Simulator
    act: Callable[[Callable[[], Any]], Any]
    address: str
    """Where exporters listen, one after the other."""
    launch: Callable[[], Process]
    exporter: Process
    prometheus: Prometheus
    alertmanager: Alertmanager
    webhook: Webhook
    stuck: Deployment
    failed: list[Deployment]

    def reload(self, clouds: Mapping[str, list[str] | None]) -> None:
        """From now on the exporter watches these clouds, of each all projects or those that are listed."""
        file = self.exporter.log.parent / "exporter.yaml"
        settings = yaml.safe_load(file.read_text())
        settings["clouds"] = [
            {"name": name, "cloud": "simulator", **({"projects": projects} if projects else {})}
            for name, projects in clouds.items()
        ]
        file.write_text(yaml.safe_dump(settings))
        os.kill(self.exporter.pid, signal.SIGHUP)
        self.prometheus.wait_until(
            'heat_discovery_up{job="heat"}', lambda found: {each.labels["cloud"] for each in found} == set(clouds)
        )

    def trouble(self, *, refused: Collection[str] = (), identity: bool = True) -> None:
        """From now on the listings of these projects are refused, and without `identity` so is Keystone altogether.

        Those of the broken project never make sense.
        """
        world = self.simulator.world
        listings = {f"/heat/v1/{world.project(name).id}/software_deployments": name for name in (*refused, BROKEN)}

        async def intercept(request: web.BaseRequest, api: Any) -> web.StreamResponse | None:
            name = listings.get(request.path)
            if name in refused:
                return web.Response(status=403)
            if name == BROKEN:
                return web.Response(text="<html>", content_type="text/html")
            return web.Response(status=500) if api == "identity" and not identity else None

        self.simulator.intercept = intercept


@pytest.fixture(scope="module", params=releases("prometheus"))
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All of it, with a history and life in the cloud, once for each release of Prometheus and Alertmanager."""
    for program in ("prometheus", "alertmanager"):
        require(program, request.param)
    folder = tmp_path_factory.mktemp("live")
    world = build(Plan(projects=2, servers=8, deployments=120, churn=4, history=86400))
    monitor = world.user("monitor").id
    for name in (QUIET, BROKEN, LEAVING, CLOSING):
        world.grant(monitor, world.add_project(name).id, "reader")
    simulator = Simulator(world)
    quiet = world.project(QUIET).id
    server = world.add_server(quiet)
    config = world.add_config(quiet, "join-cluster")
    now = world.now()

    def deploy(status: str, age: float, code: int | None) -> Deployment:
        outputs = {"deploy_stdout": "", "deploy_stderr": "", "deploy_status_code": code}
        return world.add_deployment(
            quiet, server, config.id, status=status, created=now - age, updated=now - age, output_values=outputs
        )

    stuck = deploy("IN_PROGRESS", 9000, None)
    failed = [deploy("FAILED", 20000, 127) for _ in range(6)]
    twice = deploy("COMPLETE", 9000, 0)
    world.add_raw(quiet, json.loads(twice.render()))
    world.add_raw(quiet, b'"not an object"')

    settings = {
        "refresh": {"interval": "1s", "discovery": "1s", "timeout": "15s", "silence": "15s"},
        "limits": {"requests_per_second": 1000, "servers": 1},
        "clouds": [
            {"name": "sim", "cloud": "simulator"},
            {"name": DROPPED, "cloud": "simulator", "projects": ["billing"]},
            {"name": SHRUNK, "cloud": "simulator", "projects": ["billing", QUIET]},
        ],
    }
    (folder / "exporter.yaml").write_text(yaml.safe_dump(settings))
    (folder / "rules.yml").write_text(quick(RULES.read_text()))
    address = f"127.0.0.1:{free_port()}"

    with ExitStack() as stack:
        act = stack.enter_context(running(simulator))
        (folder / "clouds.yaml").write_text(simulator.clouds_yaml())
        webhook = stack.enter_context(Webhook())
        alertmanager = stack.enter_context(Alertmanager(receiving(webhook), release=request.param))

        def launch() -> Process:
            command = [sys.executable, "-m", "exporter", "serve", "--config.file", str(folder / "exporter.yaml")]
            environment = {"PYTHONPATH": str(ROOT), "OS_CLIENT_CONFIG_FILE": str(folder / "clouds.yaml")}
            process = Process("exporter", [*command, "--web.listen-address", address], folder, **environment)
            stack.callback(process.stop)
            process.ready(f"http://{address}/-/ready")
            return process

        jobs = example("probes")["scrape_configs"]
        text = json.dumps([{"job_name": "heat", "static_configs": [{"targets": [address]}]}, *jobs])
        jobs = json.loads(text.replace("exporter.example.org:19180", address))
        jobs[1]["http_sd_configs"][0]["refresh_interval"] = "1s"
        assert tuple(job["job_name"] for job in jobs) == JOBS
        prometheus = stack.enter_context(
            Prometheus(
                jobs,
                rule_files=[folder / "rules.yml"],
                alertmanagers=[alertmanager.address],
                features=["exemplar-storage"],
                release=request.param,
            )
        )
        made = Scene(simulator, act, address, launch, launch(), prometheus, alertmanager, webhook, stuck, failed)
        made.trouble()
        yield made


def receiving(webhook: Webhook) -> dict[str, Any]:
    """The documentation's configuration of Alertmanager, without its patience, and everything sent to the webhook."""
    config = example("alertmanager")
    config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    for receiver in config["receivers"]:
        if "webhook_configs" in receiver:
            receiver["webhook_configs"] = [{"url": webhook.url, "send_resolved": True}]
    return config


# -- dashboards


CHOICES = ("the page", "probes")


def choose(scene: Scene, choice: str) -> Values:
    """What somebody chose: one value, several or all, of one way of scraping."""
    world = scene.simulator.world
    if choice == "the page":
        return {"job": ["heat"], "instance": [scene.address], "cloud": ALL, "project": QUIET, "server": ALL}
    return {
        "job": ["heat-projects", "heat-exporter"],
        "instance": ALL,
        "cloud": ["sim", "another (cloud)"],
        "project": BUSY,
        "server": list(world.servers[world.project(BUSY).id]),
    }


def chosen(dashboard: dict[str, Any], values: Values) -> Values:
    """The same for a dashboard that is about one cloud."""
    return values if variables(dashboard)["cloud"]["multi"] else {**values, "cloud": "sim"}


def answer(prometheus: Prometheus, target: Target, values: Values) -> list[float]:
    """The numbers that a query gives, asked as its panel asks it."""
    dashboard = DASHBOARDS[target.dashboard]
    expr = expand(target.expr, dashboard, chosen(dashboard, values), TIMES)
    if target.target.get("instant"):
        found = [each.value for each in prometheus.query(expr)]
    else:
        end = time.time()
        data = prometheus.api("query_range", query=expr, start=str(end - 60), end=str(end), step="5")
        found = [float(value) for series in data["result"] for _, value in series["values"]]
    return [value for value in found if not math.isnan(value)]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_query_returns_data(scene: Scene, choice: str):
    """Every query of every panel is accepted, with one way of scraping as with the other, and gives numbers."""
    values = choose(scene, choice)
    waiting = {
        target.name: target
        for target in every_target()
        if target.name not in EMPTY and name_of(target, choice) not in EMPTY
    }
    for target in every_target():
        answer(scene.prometheus, target, values)  # raises where it is refused

    def done() -> bool:
        for name, target in list(waiting.items()):
            if answer(scene.prometheus, target, values):
                del waiting[name]
        assert not waiting, "; ".join(waiting)
        return True

    eventually(done, interval=0.5)


def name_of(target: Target, choice: str) -> str:
    """What an exception for one choice alone is called."""
    return f"{target.name} ({choice})"


def test_exceptions_are_real():
    """What is said to have no data exists."""
    known = {target.name for target in every_target()}
    assert {re.sub(r" \([^()]*\)$", "", name) for name in EMPTY} <= known


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_every_variable_offers_values(scene: Scene, dashboard: dict[str, Any]):
    """Every variable finds what can be chosen, given what was chosen before it."""
    expected = {"job": set(JOBS), "cloud": {"sim"}, "project": {BUSY, "billing", QUIET, BROKEN, LEAVING, CLOSING}}
    for name, variable in variables(dashboard).items():
        values = chosen(dashboard, {"job": ALL, "instance": ALL, "cloud": ALL, "project": QUIET, "server": ALL})
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", expand(variable["query"], dashboard, values, {}))
        assert match is not None

        def offered(match: re.Match[str] = match, name: str = name) -> bool:
            found = set(scene.prometheus.api(f"label/{match[2]}/values", **{"match[]": match[1]}))
            return found >= expected[name] if name in expected else bool(found)

        eventually(offered, what=f"{name} of {dashboard['uid']}")


def test_recording_rules_record(scene: Scene):
    """Every recorded series is there, and every rule is evaluated without an error."""
    for name in rules("record"):
        scene.prometheus.wait_until(name)
    groups = scene.prometheus.api("rules")["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def test_exemplars_are_there(scene: Scene):
    """Prometheus takes queries of panels with exemplars as questions for these, and has some of how long it took."""
    for target in every_target():
        if target.target["exemplar"]:
            dashboard = DASHBOARDS[target.dashboard]
            values = chosen(dashboard, {**choose(scene, "the page"), "project": BUSY})
            expr = expand(target.expr, dashboard, values, TIMES)

            def found(expr: str = expr) -> Any:
                end = time.time()
                return scene.prometheus.api("query_exemplars", query=expr, start=str(end - 300), end=str(end))

            if "_duration_seconds_bucket" in target.expr:
                series = eventually(found, what=target.name)
                assert all("deployment_id" in each["labels"] for one in series for each in one["exemplars"])
            else:
                assert isinstance(found(), list)


def test_alerts_are_annotations(scene: Scene):
    """What the dashboards ask for as annotations is what fires."""
    (expr,) = {each["expr"] for board in DASHBOARDS.values() for each in board["annotations"]["list"]}
    scene.prometheus.wait_until(expr, lambda found: any(each.labels["alertname"].endswith("Stuck") for each in found))


# -- alerts


TROUBLE = {
    "HeatDeploymentStuck": {"project": QUIET},
    "HeatDeploymentFailedRemains": {"project": QUIET},
    "HeatDeploymentServerFailing": {"project": QUIET},
    "HeatDeploymentConfigFailing": {"project": QUIET, "config_name": "join-cluster"},
    "HeatDeploymentCommandMissing": {"project": QUIET, "deploy_status_code": "127"},
}
"""Alerts about the quiet project, as it is at the beginning."""


def test_alerts_arrive_and_resolve(scene: Scene):
    """Trouble with deployments, credentials, access, configuration and the exporter is told to the webhook, by both
    ways of scraping, with links that lead somewhere; and when it is over, that is told too."""
    webhook = scene.webhook
    for name, labels in TROUBLE.items():
        for job in JOBS[:2]:
            told = webhook.wait_until("firing", name, job=job, **labels)
            assert (told["labels"]["severity"], told["receiver"]) == ("warning", "workday")
            assert told["annotations"]["runbook_url"].endswith(f"/{name}.md")
            assert f"var-project={QUIET}" in told["annotations"]["dashboard_url"]
    for job in JOBS[:2]:
        told = webhook.wait_until("firing", "HeatDeploymentRefreshFailing", job=job, cloud="sim")
        assert told["annotations"]["description"].startswith("1 project(s) of cloud sim")

    # Credentials: refused for a while.
    scene.trouble(refused=[QUIET])
    for job in JOBS[:2]:
        webhook.wait_until("firing", "HeatDeploymentCredentialsRefused", job=job, cloud="sim")
    scene.trouble()
    for job in JOBS[:2]:
        webhook.wait_until("resolved", "HeatDeploymentCredentialsRefused", job=job, cloud="sim")

    # Deployments: all end well at last.
    def mend() -> None:
        outputs = {"deploy_stdout": "", "deploy_stderr": "", "deploy_status_code": 0}
        for each in (scene.stuck, *scene.failed):
            scene.simulator.world.update(each.id, status="COMPLETE", output_values=outputs)

    scene.act(mend)
    for name, labels in TROUBLE.items():
        for job in JOBS[:2]:
            webhook.wait_until("resolved", name, job=job, **labels)

    # Access: a role is taken away, a project is disabled.
    world = scene.simulator.world
    scene.act(lambda: world.revoke(world.user("monitor").id, world.project(LEAVING).id, "reader"))
    scene.act(lambda: setattr(world.project(CLOSING), "enabled", False))
    for job in ("heat", "heat-exporter"):
        webhook.wait_until("firing", "HeatDeploymentProjectGone", job=job, cloud="sim")
    scene.prometheus.wait_until('ALERTS{alertname="HeatDeploymentProjectDisabled", alertstate="firing"}')

    # The configuration: a cloud is taken out; another is too, and comes back without one of its projects.
    # Neither is counted as a removal: what counts them goes with the cloud.
    scene.reload({"sim": None})
    scene.reload({"sim": None, SHRUNK: [QUIET]})
    for job in ("heat", "heat-exporter"):
        webhook.wait_until("firing", "HeatDeploymentCloudMissing", job=job, cloud=DROPPED)
    webhook.wait_until("firing", "HeatDeploymentProjectMissing", job="heat", cloud=SHRUNK, project="billing")
    for job in ("heat", "heat-exporter"):
        assert webhook.latest("HeatDeploymentCloudMissing", job=job, cloud="sim") is None

    # The exporter: gone, and back at its address, but the identity service is down then.
    scene.exporter.stop()
    for job in JOBS:
        told = webhook.wait_until("firing", "HeatDeploymentExporterDown", job=job)
        assert (told["labels"]["severity"], told["receiver"]) == ("critical", "pager")
    scene.trouble(identity=False)
    scene.exporter = scene.launch()
    for job in ("heat", "heat-exporter"):
        webhook.wait_until("resolved", "HeatDeploymentExporterDown", job=job)
        webhook.wait_until("firing", "HeatDeploymentNoProjects", job=job, cloud="sim")
    scene.prometheus.wait_until('ALERTS{alertname="HeatDeploymentDiscoveryFailing", alertstate="firing"}')
    scene.trouble()
    for job in ("heat", "heat-exporter"):
        webhook.wait_until("resolved", "HeatDeploymentNoProjects", job=job, cloud="sim")
    webhook.wait_until("resolved", "HeatDeploymentExporterDown", job="heat-projects")

    # What is for looking at is known to Alertmanager, and told to nobody.
    def known() -> set[str]:
        return {alert["labels"]["alertname"] for alert in scene.alertmanager.alerts()}

    eventually(lambda: "HeatDeploymentSeriesWithheld" in known())
    assert webhook.latest("HeatDeploymentSeriesWithheld") is None
    assert webhook.latest("HeatDeploymentDataAbsent") is None
