"""Servers by their ids on a real Keystone and Heat (and on the simulator): only theirs, and all of theirs."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests import test_real
from tests.programs.cloud import Cloud
from tests.test_real import DATA, PASSWORD, count, of_project, once, series

cloud = test_real.cloud


def test_servers_by_their_ids(cloud: Cloud, tmp_path: Path) -> None:
    """`once` with `servers.ids` shows exactly what an independent count of those servers' own records has, whatever
    characters their ids are of, and nothing of a server that Heat knows nothing of."""
    mark = uuid4().hex[:6]
    user, project = cloud.create_user(f"monitor-{mark}", PASSWORD), cloud.create_project(f"servers-{mark}")
    cloud.grant(user, project)
    token = cloud.writer(project)
    config = cloud.create_config(token, project, "install")
    ids = [str(uuid4()), "a free string", "a&server_id=b", "x+y;z=100%", "%41/#?"]
    for number, server in enumerate((*ids, *ids[:2], str(uuid4()), "b", "A")):
        deployment = cloud.create_deployment(token, project, config_id=config, server_id=server)
        status = ("COMPLETE", "FAILED")[number % 2]
        cloud.update_deployment(token, project, deployment, status=status, output_values={"deploy_status_code": number})
    nobody = str(uuid4())
    settings: dict[str, Any] = {"clouds": [{"projects": "current", "servers": {"ids": [*ids, nobody]}}]}
    (tmp_path / "config.yaml").write_text(json.dumps(settings))
    done = once(tmp_path, cloud.clouds_yaml(user, PASSWORD, project), f"--config.file={tmp_path / 'config.yaml'}")
    assert done.returncode == 0, done.stderr.decode()
    page = series(done.stdout.decode())
    listed = json.loads(cloud.list_deployments(cloud.token(user, PASSWORD, project), project))["software_deployments"]
    mine = [item for item in listed if item["server_id"] in ids]
    assert (len(mine), len(listed)) == (7, 10)
    (asked_at,) = of_project(page, project, "heat_last_refresh_success_timestamp_seconds").values()
    expected = count(mine, cloud.list_configs(token, project), asked_at)
    shown = of_project(page, project, *DATA)
    assert shown.keys() == expected.keys()
    assert all(("server_id", nobody) not in labels for _, labels in page)
    assert {key: round(value, 2) for key, value in shown.items()} == {
        key: round(value, 2) for key, value in expected.items()
    }
    (size,) = of_project(page, project, "heat_refresh_response_bytes").values()
    whole = cloud.list_deployments(token, project)
    assert size < len(whole)
