"""What the chart's objects do: the container's own command runs, with the volumes that a kubelet would make of them."""

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml

from exporter.config.sharding import owner
from tests.harness import Authority, Samples
from tests.programs.available import leave_out
from tests.programs.helm import VALUES, Helm, only, require_helm
from tests.programs.installed import simulated
from tests.programs.pod import Pod, here
from tests.programs.process import eventually, free_port, session

Json = Any
COMMAND = [sys.executable, "-m", "exporter"]


@pytest.fixture(scope="module")
def helm() -> Helm:
    """A real Helm."""
    return require_helm()


@pytest.fixture(scope="module")
def clouds() -> Iterator[dict[str, Json]]:
    """The entries of clouds.yaml that lead to a simulated cloud of four projects."""
    with simulated(COMMAND) as path:
        yield yaml.safe_load(path.read_text())["clouds"]


def settings(clouds: dict[str, Json], **further: str) -> dict[str, str]:
    """Values that have the chart make a Secret and a ConfigMap for this cloud, and a port that is free."""
    return {
        "openstack": json.dumps({"existingSecret": "", "cloud": "", "clouds": clouds}),
        "config": json.dumps({"refresh": {"interval": "5s"}, "clouds": [{"name": "sim", "cloud": "simulator"}]}),
        "containerPort": str(free_port()),
        **further,
    }


def page(pod: Pod, path: str = "/metrics") -> Samples:
    """The page of metrics."""
    with session() as http:
        answer = http.get(f"http://127.0.0.1:{pod.port}{path}", timeout=30)
        answer.raise_for_status()
        return Samples.of(answer.text)


def test_the_deployment_runs(helm: Helm, clouds: dict[str, Json], tmp_path: Path):
    """Arguments, clouds.yaml and the configuration file make an exporter that its probes find well, with all it has."""
    values = settings(clouds, prometheusRule__enabled="true", networkPolicy__enabled="true", web__telemetryPath='"/m"')
    objects = helm.objects(VALUES["minimal"], **values)
    pod = Pod(objects, tmp_path)
    with pod.run() as process:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            pod.well(probe, process)
        samples = page(pod, "/m")
        assert [each.value for each in samples.select("heat_up", cloud="sim")] == [1.0] * 4
        (rule,) = only(objects, "NetworkPolicy")["spec"]["ingress"]
        listening = re.search(r"event=listening .*?ports=(\d+)", process.log.read_text())
        assert listening is not None
        assert rule["ports"] == [{"port": int(listening[1]), "protocol": "TCP"}]
        assert only(objects, "NetworkPolicy")["spec"]["policyTypes"] == ["Ingress"]


def test_one_entry_is_enough(helm: Helm, clouds: dict[str, Json], tmp_path: Path):
    """Without a configuration file, the only entry of the Secret or the one that is named is watched."""
    for cloud in ("", "simulator"):
        openstack = {"existingSecret": "", "cloud": cloud, "clouds": clouds}
        values = settings(clouds, openstack=json.dumps(openstack), config="{}")
        objects = helm.objects(VALUES["minimal"], **values)
        assert not [each for each in objects if each["kind"] == "ConfigMap"]
        folder = tmp_path / (cloud or "none")
        folder.mkdir()
        pod = Pod(objects, folder)
        with pod.run() as process:
            pod.well("readinessProbe", process)
            assert len(page(pod).select("heat_up", cloud=cloud or "envvars")) == 4


def test_a_cloud_that_is_down_keeps_no_pod_from_being_ready(helm: Helm, clouds: dict[str, Json], tmp_path: Path):
    """Where nobody answers, the pod comes to live and to be ready all the same, and its page says what is wrong."""
    entry = {**clouds["simulator"], "auth": {**clouds["simulator"]["auth"], "auth_url": "http://127.0.0.1:9/v3"}}
    pod = Pod(helm.objects(VALUES["minimal"], **settings({"simulator": entry})), tmp_path)
    with pod.run() as process:
        pod.well("startupProbe", process)
        pod.well("readinessProbe", process)
        assert pod.asked("livenessProbe", process)
        assert page(pod).value("heat_discovery_up", cloud="sim") == 0.0


def test_contents_of_your_own(helm: Helm, clouds: dict[str, Json], tmp_path: Path):
    """Secrets and a ConfigMap that the chart did not make work the same; TLS is spoken and a password asked for."""
    authority = Authority(tmp_path)
    certificate, key = (Path(each).read_bytes() for each in authority.issue("exporter", "127.0.0.1"))
    web = {
        "tls_server_config": {"cert_file": "tls.crt", "key_file": "tls.key"},
        "basic_auth_users": {"prometheus": bcrypt.hashpw(b"a-password", bcrypt.gensalt(4)).decode()},
    }

    def secret(name: str, **data: bytes) -> Json:
        encoded = {key.replace("__", "."): base64.b64encode(text).decode() for key, text in data.items()}
        return {"kind": "Secret", "metadata": {"name": name}, "data": encoded}

    yours = [
        secret("openstack-clouds", clouds__yaml=yaml.safe_dump({"clouds": clouds}).encode()),
        secret("heat-deployment-exporter-web", **{"web-config__yaml": yaml.safe_dump(web).encode()}),
        secret("heat-deployment-exporter-tls", tls__crt=certificate, tls__key=key),
        {
            "kind": "ConfigMap",
            "metadata": {"name": "heat-deployment-exporter-config"},
            "data": {"config.yaml": "clouds: [{name: mine, cloud: simulator}]"},
        },
    ]
    objects = helm.objects(VALUES["secrets"], containerPort=str(free_port()))
    assert not [each for each in objects if each["kind"] in ("Secret", "ConfigMap")]
    pod = Pod([*objects, *yours], tmp_path / "pod")
    with pod.run() as process:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert "exec" in pod.container[probe]
            pod.well(probe, process)
        with session() as http:
            url = f"https://127.0.0.1:{pod.port}/metrics"
            http.verify = str(authority.file)
            assert http.get(url, timeout=30).status_code == 401
            answer = http.get(url, timeout=30, auth=("prometheus", "a-password"))
        assert answer.status_code == 200
        (endpoint,) = only(objects, "ServiceMonitor")["spec"]["endpoints"]
        assert url.startswith(endpoint["scheme"] + "://")
        assert url.endswith(endpoint["path"])


def test_tls_without_a_password(helm: Helm, clouds: dict[str, Json], tmp_path: Path):
    """With TLS alone the kubelet asks by HTTPS."""
    authority = Authority(tmp_path)
    certificate, key = (Path(each).read_bytes() for each in authority.issue("exporter", "127.0.0.1"))
    data = {"web-config.yaml": b"tls_server_config: {cert_file: tls.crt, key_file: tls.key}"}
    data |= {"tls.crt": certificate, "tls.key": key}
    encoded = {name: base64.b64encode(text).decode() for name, text in data.items()}
    yours = {"kind": "Secret", "metadata": {"name": "web"}, "data": encoded}
    values = settings(clouds, web__existingSecret='"web"', web__tls="true")
    pod = Pod([*helm.objects(VALUES["minimal"], **values), yours], tmp_path / "pod")
    with pod.run() as process:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert pod.container[probe]["httpGet"]["scheme"] == "HTTPS"
            pod.well(probe, process)


def test_helm_test(helm: Helm, clouds: dict[str, Json], tmp_path: Path):
    """The command of the test pod succeeds where the Service leads to an exporter, and fails where it leads nowhere."""
    objects = helm.objects(VALUES["minimal"], **settings(clouds))
    test = only(objects, "Pod")
    assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert test["spec"]["restartPolicy"] == "Never"
    service = only(objects, "Service")
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc:{service['spec']['ports'][0]['port']}"

    def succeeds() -> bool:
        command = [
            word.replace(host, f"127.0.0.1:{pod.port}") for word in here(test["spec"]["containers"][0]["command"])
        ]
        return subprocess.run(command, check=False, timeout=60).returncode == 0

    pod = Pod(objects, tmp_path)
    assert not succeeds()
    with pod.run() as process:
        pod.well("startupProbe", process)
        assert succeeds()


def test_pods_of_the_statefulset_share_the_projects(helm: Helm, clouds: dict[str, Json], tmp_path: Path):
    """Pods told apart by their names alone have all projects between them, each the ones that are its own."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--uts", "true"], check=False, capture_output=True).returncode:
        leave_out("a host name of its own for a process (unshare --uts is not permitted)")
    seen: list[set[str]] = []
    for number in range(2):
        objects = helm.objects(VALUES["shards"], shards="2", **settings(clouds))
        folder = tmp_path / str(number)
        folder.mkdir()
        pod = Pod(objects, folder)
        name = next(each["metadata"]["name"] for each in objects if each["kind"] == "StatefulSet")
        with pod.run(host_name=f"{name}-{number}") as process:
            pod.well("readinessProbe", process)
            seen.append({each.labels["project_id"] for each in page(pod).select("heat_up")})
            assert all(owner("sim", project, 2) == number for project in seen[-1])
    assert len(seen[0] | seen[1]) == len(seen[0]) + len(seen[1]) == 4


def test_a_changed_config_map_can_be_read_again(helm: Helm, clouds: dict[str, Json], tmp_path: Path):
    """With `web.enableLifecycle`, what a kubelet has put in a volume's place is in force after `POST /-/reload`."""
    values = settings(clouds, web__enableLifecycle="true")
    pod = Pod(helm.objects(VALUES["minimal"], **values), tmp_path)
    with pod.run() as process:
        pod.well("readinessProbe", process)
        before = page(pod).value("heat_exporter_config_hash")
        changed = {"refresh": {"interval": "7s"}, "clouds": [{"name": "sim", "cloud": "simulator"}]}
        pod.objects = helm.objects(VALUES["minimal"], **{**values, "config": json.dumps(changed)})
        pod.mount()
        with session() as http:
            assert http.post(f"http://127.0.0.1:{pod.port}/-/reload", timeout=30).status_code == 200
        eventually(lambda: page(pod).value("heat_exporter_config_hash") != before, what="the new configuration")
        assert page(pod).value("heat_exporter_config_last_reload_successful") == 1.0
