"""Many projects on a real Keystone and Heat (and on the simulator): found, lost, and counted once whoever looks."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import yaml

from tests import test_real
from tests.programs.cloud import Cloud
from tests.programs.process import Process, eventually, free_port
from tests.test_real import PASSWORD, Series, environment, get, of_project, once, series

ROOT = Path(__file__).parent.parent


cloud = test_real.cloud


def project_with(cloud: Cloud, deployments: int) -> str:
    """A new project's id, with some deployments in it."""
    project = cloud.create_project(f"fleet-{uuid4().hex[:8]}")
    token = cloud.writer(project)
    config = cloud.create_config(token, project, "install")
    for _ in range(deployments):
        cloud.create_deployment(token, project, config_id=config, server_id=str(uuid4()))
    return project


def totals(page: Series, cloud: str = "test") -> dict[str, float]:
    """How many deployments a page shows of a cloud, by project."""
    found: dict[str, float] = {}
    for (name, labels), value in page.items():
        if name == "heat_software_deployments" and ("cloud", cloud) in labels:
            project = dict(labels)["project_id"]
            found[project] = found.get(project, 0) + value
    return found


def summed(page: Series, name: str, **labels: str) -> float:
    """The sum of the samples with these labels."""
    return sum(value for (each, others), value in page.items() if each == name and labels.items() <= set(others))


def test_an_operator_and_a_reader(cloud: Cloud, tmp_path: Path) -> None:
    """An operator, admin in several projects of a real cloud, sees every deployment once, for the entry's own project,
    with one response per interval; a reader beside it sees its own projects' deployments."""
    projects = [project_with(cloud, number) for number in (3, 2, 0)]
    token = cloud.authenticate(cloud.admin_user, cloud.admin_password, cloud.admin_project).json()["token"]
    for project in projects:
        cloud.grant(token["user"]["id"], project, "admin")
    reader = cloud.create_user(f"reader-{uuid4().hex[:6]}", PASSWORD)
    for project in projects[:2]:
        cloud.grant(reader, project)
    truth = len(json.loads(cloud.list_deployments(cloud.admin_token, projects[0]))["software_deployments"])
    assert truth >= 5
    entries = {
        "operator": cloud.clouds_entry(project=cloud.admin_project),
        "reader": cloud.clouds_entry(reader, PASSWORD, projects[0]),
    }
    clouds = [{"cloud": name} for name in entries]
    settings = {"refresh": {"interval": "1s", "discovery": "1s"}, "names": False, "clouds": clouds}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    variables = environment(tmp_path, yaml.safe_dump({"clouds": entries})) | {"PYTHONPATH": str(ROOT)}
    del variables["PATH"]
    options = (f"--config.file={tmp_path / 'config.yaml'}", f"--web.listen-address={address}")
    with ExitStack() as stack:
        process = Process("exporter", [sys.executable, "-m", "exporter", *options], tmp_path, **variables)
        stack.callback(process.stop)
        process.ready(f"http://{address}/-/ready")

        def page() -> Series | None:
            found = series(get(f"http://{address}/metrics", Accept="text/plain"))
            return found if summed(found, "heat_refreshes_total", cloud="operator") >= 4 else None

        shown = eventually(page)
    own = token["project"]["id"]
    assert totals(shown, "operator") == {own: truth}
    assert totals(shown, "reader") == dict(zip(projects[:2], (3, 2), strict=True))
    assert shown["heat_cloud_admin_token", frozenset({("cloud", "operator")})] == 1
    assert shown["heat_cloud_admin_token", frozenset({("cloud", "reader")})] == 0
    assert all(value == 1 for (name, _), value in shown.items() if name == "heat_up")
    assert summed(shown, "heat_duplicate_records_total") == 0
    # The last refresh may be under way.
    requests = summed(shown, "heat_api_requests_total", cloud="operator", api="orchestration")
    assert requests - summed(shown, "heat_refreshes_total", cloud="operator") in (0, 1)
    log = process.log.read_text()
    assert log.count('event="the token is an administrator') == 1
    assert "Traceback" not in log


def test_an_admin_of_one_project_leaves_the_others_theirs(cloud: Cloud, tmp_path: Path) -> None:
    """A user with the role admin in one project and reader in others: the one is refused unasked, each other shows its
    own deployments."""
    own, others = project_with(cloud, 2), [project_with(cloud, number) for number in (3, 1)]
    user = cloud.create_user(f"mixed-{uuid4().hex[:6]}", PASSWORD)
    cloud.grant(user, own, "admin")
    for project in others:
        cloud.grant(user, project, "reader")
    done = once(tmp_path, cloud.clouds_yaml(user, PASSWORD, others[0]))
    assert done.returncode == 1
    page = series(done.stdout.decode())
    assert totals(page) == dict(zip(others, (3, 1), strict=True))
    assert of_project(page, own, "heat_up") == {("heat_up", frozenset()): 0}
    assert summed(page, "heat_refresh_failures_total", project_id=own, api="identity", reason="forbidden") == 1
    assert page["heat_cloud_admin_token", frozenset({("cloud", "test")})] == 1
    assert b"use a user with the role reader" in done.stderr


def test_projects_come_and_go(cloud: Cloud, tmp_path: Path) -> None:
    """A new project, a lost role and a disabled project are seen by the running exporter, each said in the log once."""
    stays, loses, goes_off = (project_with(cloud, 1) for _ in range(3))
    user = cloud.create_user(f"watcher-{uuid4().hex[:6]}", PASSWORD)
    for project in (stays, loses, goes_off):
        cloud.grant(user, project)
    address = f"127.0.0.1:{free_port()}"
    (tmp_path / "config.yaml").write_text("refresh: {interval: 1s, discovery: 1s}\n")
    variables = environment(tmp_path, cloud.clouds_yaml(user, PASSWORD, stays)) | {"PYTHONPATH": str(ROOT)}
    del variables["PATH"]
    command = [
        sys.executable,
        "-m",
        "exporter",
        f"--config.file={tmp_path / 'config.yaml'}",
        f"--web.listen-address={address}",
    ]

    def shown() -> dict[str, float]:
        return totals(series(get(f"http://{address}/metrics", Accept="text/plain")))

    with ExitStack() as stack:
        process = Process("exporter", command, tmp_path, **variables)
        stack.callback(process.stop)
        process.ready(f"http://{address}/-/ready")
        assert shown() == {stays: 1, loses: 1, goes_off: 1}
        appears = project_with(cloud, 2)
        cloud.grant(user, appears)
        eventually(lambda: shown() == {stays: 1, loses: 1, goes_off: 1, appears: 2})
        cloud.revoke(user, loses)
        eventually(lambda: shown() == {stays: 1, goes_off: 1, appears: 2})
        cloud.set_enabled(goes_off, False)
        eventually(lambda: shown() == {stays: 1, appears: 2})
        page = series(get(f"http://{address}/metrics", Accept="text/plain"))
        assert not [labels for _, labels in page if {("project_id", loses), ("project_id", goes_off)} & labels]
        removed = {
            dict(labels)["reason"]: value
            for (name, labels), value in page.items()
            if name == "heat_projects_removed_total"
        }
        assert removed == {"gone": 1, "disabled": 1, "config": 0}
        assert of_project(page, stays, "heat_up") == {("heat_up", frozenset()): 1}
    log = process.log.read_text()
    assert log.count('event="project removed"') == 2
    assert "Traceback" not in log
