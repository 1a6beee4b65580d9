"""Many projects on a real Keystone and Heat (and on the simulator): found, lost, and counted once whoever looks."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

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


def totals(page: Series) -> dict[str, float]:
    """How many deployments a page shows, by project."""
    found: dict[str, float] = {}
    for (name, labels), value in page.items():
        if name == "heat_software_deployments":
            project = dict(labels)["project_id"]
            found[project] = found.get(project, 0) + value
    return found


def test_an_admin_counts_every_deployment_once(cloud: Cloud, tmp_path: Path) -> None:
    """With a real admin, whose token shows every project's deployments for each project, the sum is the truth."""
    projects = [project_with(cloud, number) for number in (3, 2, 0)]
    token = cloud.authenticate(cloud.admin_user, cloud.admin_password, cloud.admin_project).json()["token"]
    for project in projects:
        cloud.grant(token["user"]["id"], project, "admin")
    listing = cloud.list_deployments(cloud.admin_token, projects[0])
    truth = len(json.loads(listing)["software_deployments"])
    assert truth >= 5
    done = once(tmp_path, cloud.clouds_yaml())
    assert done.returncode == 0, done.stderr.decode()
    page = series(done.stdout.decode())
    shown = totals(page)
    assert set(projects) <= set(shown)
    assert sum(shown.values()) == truth
    # All listings are the same, so the lowest project id has them.
    assert {project for project, total in shown.items() if total} == {min(shown)}
    assert page["heat_cloud_admin_token", frozenset({("cloud", "test")})] == 1
    assert all(value == 1 for (name, _), value in page.items() if name == "heat_up")
    assert done.stderr.decode().count('event="a token shows') == 1
    duplicates = {name: value for (name, _), value in page.items() if name == "heat_duplicate_records_total"}
    assert all(duplicates.values())


def test_an_admin_of_one_project_leaves_the_others_theirs(cloud: Cloud, tmp_path: Path) -> None:
    """A user with the role admin in one project and reader in others: each deployment is shown for its own project."""
    own, others = project_with(cloud, 2), [project_with(cloud, number) for number in (3, 1)]
    user = cloud.create_user(f"mixed-{uuid4().hex[:6]}", PASSWORD)
    cloud.grant(user, own, "admin")
    for project in others:
        cloud.grant(user, project, "reader")
    done = once(tmp_path, cloud.clouds_yaml(user, PASSWORD, others[0]))
    assert done.returncode == 0, done.stderr.decode()
    shown = totals(series(done.stdout.decode()))
    truth = len(json.loads(cloud.list_deployments(cloud.admin_token, own))["software_deployments"])
    assert {project: shown[project] for project in others} == dict(zip(others, (3, 1), strict=True))
    assert sum(shown.values()) == truth


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
