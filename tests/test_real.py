"""The exporter as users run it, against a real Keystone and Heat (and the simulator), and under a real Prometheus.

What it shows is compared, label by label, with an independent count of the raw listings.
"""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from exporter.config.schema import Config
from exporter.metrics.families import FAMILIES
from tests.conftest import REAL
from tests.programs.cloud import Cloud
from tests.programs.process import Process, eventually, free_port, session
from tests.programs.prometheus import Promtool

PASSWORD = "correct horse"
STATUSES = ("COMPLETE", "IN_PROGRESS", "FAILED")
ACTIONS = ("CREATE", "UPDATE", "DELETE", "SUSPEND", "RESUME")

FINISHED = "heat_software_deployment_finished_total"
DURATION = "heat_software_deployment_duration_seconds"
PROBLEMS = "heat_software_deployment_problem_timestamp_seconds"
CONFIG_INFO = "heat_software_config_info"

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="session")
def cloud(upstream: Cloud) -> Cloud:
    """A cloud to fill over its REST API: real ones, and the simulator."""
    return upstream


@pytest.fixture(scope="module")
def filled(cloud: Cloud) -> tuple[str, dict[str, str]]:
    """A reader's id, and by id the names of three projects that it reads, filled over the REST API.

    One has deployments in every state that the API lets a client make, one has a few, one has none.
    """
    mark = uuid4().hex[:6]
    user = cloud.create_user(f"monitor-{mark}", PASSWORD)
    names = {cloud.create_project(f"{name}-{mark}"): f"{name}-{mark}" for name in ("web", "billing", "empty")}
    for project in names:
        cloud.grant(user, project)
    web, billing, _ = names
    token = cloud.writer(web)
    config = cloud.create_config(token, web, "install-agent")
    servers = [str(uuid4()) for _ in range(3)]
    outcomes: list[dict[str, Any]] = [
        {},
        {"status": "COMPLETE", "output_values": {"deploy_stdout": "}, {", "deploy_status_code": 0}},
        {"status": "COMPLETE", "output_values": {"deploy_stdout": 'a "quoted" \\ line\n', "deploy_status_code": "0"}},
        {"status": "FAILED", "output_values": {"deploy_status_code": 1}, "status_reason": "exited 1"},
        {"status": "FAILED", "output_values": {"deploy_status_code": 0}},
        {"status": "FAILED", "output_values": {"deploy_status_code": "127"}},
        {"status": "FAILED", "output_values": {"deploy_status_code": None}},
        {"status": "COMPLETE", "output_values": {"nested": {"list": [{"a": 1}, {"b": 2}]}}},
        {"status": "COMPLETE", "output_values": {"deploy_status_code": "not a number"}},
        {"status": "IN_PROGRESS", "action": "UPDATE"},
    ]
    for number, outcome in enumerate(outcomes):
        deployment = cloud.create_deployment(token, web, config_id=config, server_id=servers[number % 3])
        if outcome:
            cloud.update_deployment(token, web, deployment, **outcome)
    token = cloud.writer(billing)
    config = cloud.create_config(token, billing, "configure")
    for action in ACTIONS:
        cloud.create_deployment(token, billing, config_id=config, server_id="a free string", action=action)
    return user, names


def environment(folder: Path, clouds_yaml: str) -> dict[str, str]:
    """What a user's shell would set."""
    (folder / "clouds.yaml").write_text(clouds_yaml)
    return {"OS_CLIENT_CONFIG_FILE": str(folder / "clouds.yaml"), "OS_CLOUD": "test", "PATH": "/usr/bin:/bin"}


def once(folder: Path, clouds_yaml: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    """`heat-deployment-exporter once`, whole."""
    return subprocess.run(
        [sys.executable, "-m", "exporter", "once", *options],
        env=environment(folder, clouds_yaml),
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        check=False,
        timeout=120,
    )


def key(sample: Sample) -> tuple[str, frozenset[tuple[str, str]]]:
    """What tells a sample from others; a bucket's bound is a number, however it is written."""
    labels = {name: str(float(value)) if name == "le" else value for name, value in sample.labels.items()}
    return sample.name, frozenset(labels.items())


def series(page: str) -> Series:
    """Every sample of a page in the text format."""
    return {key(sample): sample.value for family in parse_text(page) for sample in family.samples}


def of_project(page: Series, project: str, *names: str) -> Series:
    """The samples of some families of one project, without the labels that say so."""
    common = {"cloud", "project_id", "project"}
    return {
        (name, frozenset(pair for pair in labels if pair[0] not in common)): value
        for (name, labels), value in page.items()
        if name.startswith(names) and ("project_id", project) in labels
    }


def count(items: list[dict[str, Any]], configs: list[dict[str, Any]], asked_at: float) -> Series:
    """What the families of the cloud's data have to show of these raw records, counted in the plainest way.

    And of what has finished since the start: nothing.
    """
    names = {config["id"]: {"config_name": config["name"] or "", "group": config["group"] or ""} for config in configs}
    unknown = {"config_name": "", "group": ""}
    problems: dict[str, list[tuple[float, str, dict[str, str]]]] = {"failed": [], "stuck": []}
    found: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()

    def add(name: str, value: float = 1, **labels: str) -> None:
        found[name, frozenset(labels.items())] += value  # type: ignore[assignment]

    def histogram(name: str, bounds: tuple[float, ...], value: float, **labels: str) -> None:
        for bound in bounds:
            add(f"{name}_bucket", value <= bound, le=str(float(bound)), **labels)
        add(f"{name}_bucket", le="inf", **labels)
        add(f"{name}_gcount", **labels)
        add(f"{name}_gsum", value, **labels)

    for status in STATUSES:
        for action in ACTIONS:
            add("heat_software_deployments", 0, status=status, action=action)
    for action in ACTIONS:
        add("heat_software_deployments_stuck", 0, action=action)
    for status, action in product(("COMPLETE", "FAILED"), ACTIONS):
        add("heat_software_deployment_finished_total", 0, status=status, action=action)
    changes: dict[tuple[str, str], list[float]] = {}
    for item in items:
        status, action = item["status"], item["action"]
        created = datetime.fromisoformat(item["creation_time"]).timestamp()
        changed = datetime.fromisoformat(item.get("updated_time", item["creation_time"])).timestamp()
        changes.setdefault((status, action), []).append(changed)
        add("heat_software_deployments", status=status, action=action)
        add("heat_server_software_deployments", server_id=item["server_id"], status=status, action=action)
        stuck = status == "IN_PROGRESS" and asked_at - changed >= 3600
        if stuck:
            add("heat_software_deployments_stuck", action=action)
        add("heat_software_config_deployments", status=status, **names.get(item["config_id"], unknown))
        code = (item["output_values"] or {}).get("deploy_status_code")
        numeric = code is not None and re.fullmatch(r"\d+", str(code))
        label = "none" if code is None else str(code) if numeric else "invalid"
        add("heat_software_deployment_status_codes", status=status, deploy_status_code=label)
        if stuck or status == "FAILED":
            row = {name: item[name] for name in ("server_id", "config_id", "status", "action")}
            row |= {"deployment_id": item["id"], "deploy_status_code": "" if label == "none" else label}
            problem, order = ("stuck", changed) if stuck else ("failed", -changed)
            problems[problem].append((order, item["id"], row))
        if numeric and status != "IN_PROGRESS":
            bounds = tuple(float(bound) for bound in Config().buckets.deploy_status_code)
            histogram("heat_software_deployment_deploy_status_code", bounds, int(code), action=action)
        ages = Config().age_bounds
        histogram("heat_software_deployment_age_seconds", ages, max(0, asked_at - created), status=status)
        histogram("heat_software_deployment_state_age_seconds", ages, max(0, asked_at - changed), status=status)
    room = {"stuck": max(100, 200 - len(problems["failed"])), "failed": max(100, 200 - len(problems["stuck"]))}
    for problem, found_rows in problems.items():
        for order, _, row in sorted(found_rows)[: room[problem]]:
            name = "heat_software_deployment_problem_timestamp_seconds"
            add(name, abs(order), problem=problem, **row)
            if row["config_id"] in names:
                labels = {"config_id": row["config_id"], **names[row["config_id"]]}
                found["heat_software_config_info", frozenset(labels.items())] = 1
    for (status, action), times in changes.items():
        add("heat_software_deployment_oldest_change_timestamp_seconds", min(times), status=status, action=action)
        add("heat_software_deployment_newest_change_timestamp_seconds", max(times), status=status, action=action)
    return dict(found)


DATA = ("heat_software_deployment", "heat_server_software_deployments", "heat_software_config")


def assert_project(page: Series, cloud: Cloud, token: str, project: str) -> None:
    """What the page shows of a project is what its listing says, every series of every family of its data."""
    items = json.loads(cloud.list_deployments(token, project))["software_deployments"]
    (asked_at,) = of_project(page, project, "heat_last_refresh_success_timestamp_seconds").values()
    expected = count(items, cloud.list_configs(token, project), asked_at)
    shown = of_project(page, project, *DATA)
    assert shown.keys() == expected.keys()
    assert shown == pytest.approx(expected, rel=0, abs=0.01)


def test_once_shows_what_the_listings_say(cloud: Cloud, filled: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """`once` prints, for each project of a reader, exactly the numbers of an independent count, and exits 0."""
    user, names = filled
    done = once(tmp_path, cloud.clouds_yaml(user, PASSWORD, next(iter(names))))
    assert done.returncode == 0, done.stderr.decode()
    page = series(done.stdout.decode())
    shown = {dict(labels)["project_id"]: dict(labels)["project"] for name, labels in page if name == "heat_up"}
    assert shown == names
    for project in names:
        assert_project(page, cloud, cloud.token(user, PASSWORD, project), project)
    for name in names.values():
        assert name in done.stderr.decode()


def test_an_application_credential_shows_its_project(
    cloud: Cloud, filled: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """An application credential needs no other setting, and shows the one project that it is bound to."""
    user, names = filled
    project = next(iter(names))
    credential = cloud.application_credential(user, PASSWORD, project)
    done = once(tmp_path, cloud.clouds_yaml(application_credential=credential))
    assert done.returncode == 0, done.stderr.decode()
    page = series(done.stdout.decode())
    assert {dict(labels)["project_id"] for name, labels in page if name == "heat_up"} == {project}
    assert_project(page, cloud, cloud.token(user, PASSWORD, project), project)


def test_a_bare_token_is_enough(cloud: Cloud, filled: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """A token from somewhere else opens the project that it is scoped to."""
    user, names = filled
    project = next(iter(names))
    token = cloud.token(user, PASSWORD, project)
    entry = {"auth_type": "v3token", "auth": {"auth_url": cloud.auth_url, "token": token, "project_id": project}}
    (tmp_path / "config.yaml").write_text("clouds: [{projects: current}]\n")
    done = once(
        tmp_path,
        json.dumps({"clouds": {"test": entry | {"region_name": "RegionOne"}}}),
        f"--config.file={tmp_path / 'config.yaml'}",
    )
    assert done.returncode == 0, done.stderr.decode()
    assert_project(series(done.stdout.decode()), cloud, token, project)


def test_wrong_credentials_fail_aloud(cloud: Cloud, filled: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """A wrong password ends `once` with 1, names the reason, and leaks neither it nor a traceback."""
    user, names = filled
    done = once(tmp_path, cloud.clouds_yaml(user, "wr0ng-secret", next(iter(names))))
    assert done.returncode == 1
    page = series(done.stdout.decode())
    failure = frozenset({"cloud": "test", "api": "identity", "reason": "auth"}.items())
    assert page["heat_discovery_failures_total", failure] == 1
    assert page["heat_discovery_up", frozenset({("cloud", "test")})] == 0
    assert b"auth" in done.stderr
    assert b"wr0ng-secret" not in done.stderr + done.stdout
    assert b"Traceback" not in done.stderr


@pytest.fixture(scope="module")
def serving(
    cloud: Cloud, filled: tuple[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of the exporter serving the filled projects, once it is ready."""
    user, names = filled
    folder = tmp_path_factory.mktemp("serving")
    (folder / "config.yaml").write_text("refresh: {interval: 1s}\n")
    address = f"127.0.0.1:{free_port()}"
    variables = environment(folder, cloud.clouds_yaml(user, PASSWORD, next(iter(names))))
    command = [sys.executable, "-m", "exporter", f"--web.listen-address={address}"]
    variables["PYTHONPATH"] = str(Path(__file__).parent.parent)
    variables["HEAT_DEPLOYMENT_EXPORTER_CONFIG_FILE"] = str(folder / "config.yaml")
    del variables["PATH"]
    with ExitStack() as stack:
        process = Process("exporter", command, folder, **variables)
        stack.callback(process.stop)
        process.ready(f"http://{address}/-/ready")
        yield f"http://{address}"


def get(url: str, **headers: str) -> str:
    """A page of the exporter."""
    with session() as http:
        answer = http.get(url, headers=headers)
        assert answer.status_code == 200
        return answer.text


def test_both_formats_say_the_same(serving: str) -> None:
    """What prometheus-client's parsers read from the two formats of a served page are the same samples."""
    selection = "?" + "&".join(f"name[]={family.name}" for family in FAMILIES if family.scope == "data")
    text = series(get(f"{serving}/metrics{selection}", Accept="text/plain"))
    page = get(f"{serving}/metrics{selection}", Accept="application/openmetrics-text; version=1.0.0")
    openmetrics = {key(sample): sample.value for family in parse_openmetrics(page) for sample in family.samples}
    # A refresh between the two scrapes moves ages and nothing else.
    assert text.keys() == openmetrics.keys()
    steady = {each for each in text if "age_seconds" not in each[0]}
    assert {each: text[each] for each in steady} == {each: openmetrics[each] for each in steady}


def test_promtool_has_nothing_to_say(serving: str, promtool: Promtool) -> None:
    """`promtool check metrics` finds no fault with a served page."""
    assert promtool.check_metrics(get(f"{serving}/metrics", Accept="text/plain").encode()) == (0, "")


def test_promtool_has_nothing_to_say_of_the_demo(promtool: Promtool, tmp_path: Path) -> None:
    """`promtool check metrics` finds no fault with the demo's page."""
    address = f"127.0.0.1:{free_port()}"
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "exporter", "demo", f"--web.listen-address={address}"]
    process = Process("demo", command, tmp_path, PYTHONPATH=str(root))
    with ExitStack() as stack:
        stack.callback(process.stop)
        process.ready(f"http://{address}/-/ready")
        page = get(f"http://{address}/metrics", Accept="text/plain")
    assert 'heat_up{cloud="demo"' in page
    assert promtool.check_metrics(page.encode()) == (0, "")


def test_prometheus_sees_the_same(serving: str, prometheus: Any) -> None:
    """A real Prometheus scrapes the exporter: it is up, its types are the families', its values the page's."""
    target = serving.removeprefix("http://")
    server = prometheus([{"job_name": "heat", "static_configs": [{"targets": [target]}]}])
    server.wait_until('up{job="heat"}', lambda found: [each.value for each in found] == [1.0])
    server.wait_until("heat_software_deployments")
    types = {name: entries[0]["type"] for name, entries in server.metadata().items() if name.startswith("heat_")}
    # Prometheus 2 asks for OpenMetrics; a family is there by its own name, a counter's without _total.
    known = {family.name.removesuffix("_total"): family.kind for family in FAMILIES}
    aliases = {"gaugehistogram": {"gaugehistogram"}}
    for name, type_ in types.items():
        base = name.removesuffix("_total")
        assert type_ in aliases.get(known[base], {known[base]}), name
    shown = {family.name for family in FAMILIES if family.scope in ("data", "cloud", "exporter")}
    missing = {name for name in shown if name.removesuffix("_total") not in {n.removesuffix("_total") for n in types}}
    # No discovery has failed, and the compute service (where there is one) has never heard of these servers.
    assert missing <= {"heat_discovery_failures_total", "heat_server_info"}

    def steady(labels: Mapping[str, str], name: str) -> tuple[str, frozenset[tuple[str, str]]]:
        # To Prometheus an empty label is none.
        kept = {
            label: value for label, value in labels.items() if value and label not in ("__name__", "job", "instance")
        }
        return key(Sample(name, kept, 0))

    def same() -> bool:
        page = {
            steady(dict(labels), name): value
            for (name, labels), value in series(get(f"{serving}/metrics", Accept="text/plain")).items()
            if name.startswith(DATA) and "age_seconds" not in name
        }
        found = server.query('{__name__=~"heat_(software|server)_.*",__name__!~".*age_seconds.*"}')
        assert len(page) > 50
        return page == {steady(each.labels, each.labels["__name__"]): each.value for each in found}

    eventually(same)


def test_deployments_are_followed_through_their_life(
    cloud: Cloud, serving: str, filled: tuple[str, dict[str, str]]
) -> None:
    """A deployment that is made, finishes, is updated and goes away is seen in each of its states; each finish counts
    once, with how long it took; and while it is failed, it is called by its id and its config by its name."""
    _, names = filled
    project = list(names)[2]
    token = cloud.writer(project)

    def page() -> Series:
        return of_project(series(get(f"{serving}/metrics", Accept="text/plain")), project, "heat_")

    def shown(status: str, action: str = "CREATE", family: str = "heat_software_deployments") -> float:
        return page().get((family, frozenset({"status": status, "action": action}.items())), 0)

    def problems() -> set[tuple[str, str]]:
        found = page()
        rows = [dict(labels) for name, labels in found if name == PROBLEMS]
        called = {
            dict(labels)["config_id"]: dict(labels)["config_name"] for name, labels in found if name == CONFIG_INFO
        }
        return {(row["deployment_id"], called.get(row["config_id"], "")) for row in rows}

    def told() -> dict[tuple[str, str], tuple[float, float]]:
        cells = product(("COMPLETE", "FAILED"), ("CREATE", "UPDATE"))
        counts = {cell: (shown(*cell, FINISHED), shown(*cell, f"{DURATION}_count")) for cell in cells}
        return {cell: found for cell, found in counts.items() if found != (0, 0)}

    assert shown("IN_PROGRESS") == 0
    before = told()
    assert before == {}
    config = cloud.create_config(token, project, "life")
    deployment = cloud.create_deployment(token, project, config_id=config, server_id=str(uuid4()))
    eventually(lambda: shown("IN_PROGRESS") == 1)
    cloud.update_deployment(token, project, deployment, status="FAILED", output_values={"deploy_status_code": 3})
    eventually(lambda: (shown("IN_PROGRESS"), shown("FAILED")) == (0, 1))
    assert told() == {("FAILED", "CREATE"): (1, 1)}
    eventually(lambda: problems() == {(deployment, "life")})
    cloud.update_deployment(token, project, deployment, status="IN_PROGRESS", action="UPDATE")
    eventually(lambda: shown("IN_PROGRESS", "UPDATE") == 1)
    assert problems() == set()
    cloud.update_deployment(token, project, deployment, status="COMPLETE")
    eventually(lambda: shown("COMPLETE", "UPDATE") == 1)
    assert told() == {("FAILED", "CREATE"): (1, 1), ("COMPLETE", "UPDATE"): (1, 1)}
    # Another update, all of it between two refreshes or nearly so: it counts, whether or not it was seen to run.
    cloud.update_deployment(token, project, deployment, status="IN_PROGRESS", action="UPDATE")
    cloud.update_deployment(token, project, deployment, status="FAILED")
    eventually(lambda: shown("FAILED", "UPDATE") == 1)
    found = told()
    assert found[("FAILED", "UPDATE")][0] == 1
    cloud.delete_deployment(token, project, deployment)
    eventually(lambda: shown("FAILED", "UPDATE") == 0)
    assert told() == found
    assert problems() == set()


def test_prometheus_keeps_the_exemplars(
    cloud: Cloud, serving: str, filled: tuple[str, dict[str, str]], prometheus: Any
) -> None:
    """A real Prometheus with exemplar storage gives back, from its API, the id of the deployment that finished: for the
    counter and for the histogram's bucket."""
    _, names = filled
    project = list(names)[2]
    token = cloud.writer(project)
    target = serving.removeprefix("http://")
    server = prometheus(
        [{"job_name": "heat", "static_configs": [{"targets": [target]}]}], features=("exemplar-storage",)
    )
    server.wait_until(FINISHED)
    began = datetime.now(UTC) - timedelta(minutes=1)
    config = cloud.create_config(token, project, "exemplary")
    deployment = cloud.create_deployment(token, project, config_id=config, server_id=str(uuid4()))
    cloud.update_deployment(token, project, deployment, status="COMPLETE", output_values={"deploy_status_code": 0})

    def kept(name: str) -> list[dict[str, Any]]:
        until = datetime.now(UTC) + timedelta(minutes=1)
        query = f'{name}{{project_id="{project}",status="COMPLETE",action="CREATE"}}'
        data = server.api("query_exemplars", query=query, start=began.isoformat(), end=until.isoformat())
        found = [each for entry in data for each in entry["exemplars"]]
        # The page may still have one of a deployment before.
        return [each for each in found if each["labels"] == {"deployment_id": deployment}]

    for name in (FINISHED, f"{DURATION}_bucket"):
        eventually(lambda name=name: kept(name), timeout=30, what=name)
        (exemplar,) = kept(name)
        assert began.timestamp() < exemplar["timestamp"] < datetime.now(UTC).timestamp() + 1
    cloud.delete_deployment(token, project, deployment)


@REAL
def test_a_large_listing_of_a_real_heat(openstack: Any, tmp_path: Path) -> None:
    """Ten thousand deployments of a real Heat are counted right, with old, stuck and never updated ones among them."""
    now = datetime.now(UTC).replace(microsecond=0)
    user = openstack.create_user(f"monitor-{uuid4().hex[:6]}", PASSWORD)
    project = openstack.create_project(f"large-{uuid4().hex[:6]}")
    openstack.grant(user, project)

    def row(number: int) -> dict[str, Any]:
        fields: dict[str, Any] = {"creation_time": now - timedelta(minutes=7 * number)}
        fields["updated_time"] = None if number % 5 == 0 else now - timedelta(minutes=number)
        if number % 11 == 0:
            fields |= {"status": "IN_PROGRESS", "action": "UPDATE", "output_values": None}
        elif number % 7 == 0:
            fields |= {"status": "FAILED", "output_values": {"deploy_status_code": number % 200}}
        return fields

    openstack.insert_deployments(project, 10_000, row=row)
    try:
        done = once(tmp_path, openstack.clouds_yaml(user, PASSWORD, project))
        assert done.returncode == 0, done.stderr.decode()
        page = series(done.stdout.decode())
        items = json.loads(openstack.list_deployments(openstack.token(user, PASSWORD, project), project))
        (asked_at,) = of_project(page, project, "heat_last_refresh_success_timestamp_seconds").values()
        configs = openstack.list_configs(openstack.token(user, PASSWORD, project), project)
        expected = count(items["software_deployments"], configs, asked_at)
        families = ("age", "problem")
        shown = of_project(
            page,
            project,
            "heat_software_deployments",
            "heat_server",
            "heat_software_config",
            *(f"heat_software_deployment_{family}" for family in families),
        )
        names = {name for name, _ in shown}
        wanted = {key: value for key, value in expected.items() if key[0] in names}
        assert shown == pytest.approx(wanted, rel=0, abs=1)
        codes = of_project(page, project, "heat_software_deployment_status_codes")
        assert sum(codes.values()) == 10_000
    finally:
        openstack.wipe(project)
