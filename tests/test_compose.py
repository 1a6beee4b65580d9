"""The Compose file: against its schema, and every file that it mounts in the real program that reads it.

Compose itself and Grafana can't be started where the tests run.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft201909Validator
from openstack.config.loader import CONFIG_FILES

from exporter.cli import commands
from tests.programs import compose
from tests.programs.available import require
from tests.programs.compose import FILE, OVERRIDE, YOUNGER, Stack, mounts, published, running, services
from tests.programs.process import eventually
from tests.programs.prometheus import Promtool
from tests.queries import example, groups

ROOT = Path(__file__).parent.parent
SERVICES = services()
RUN_HERE = ("exporter", "alertmanager", "prometheus")

Json = Any


# -- the file


def complaints(content: Json) -> list[str]:
    """What the schema has against a Compose file, but for what it is too old to know."""
    known = {key: value for key, value in content.items() if key not in YOUNGER}
    return [error.message for error in Draft201909Validator(compose.schema()).iter_errors(known)]


@pytest.mark.parametrize("path", [FILE, OVERRIDE], ids=lambda path: path.name)
def test_the_schema_accepts_it(path: Path):
    """Both files are what the Compose Specification asks for; a key that is misspelt would be seen."""
    content = yaml.safe_load(path.read_text())
    assert complaints(content) == []
    wrong = json.loads(json.dumps(content).replace('"command"', '"comand"'))
    assert complaints(wrong)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened(name: str):
    """A read-only root, no capabilities, no new privileges, ports only on loopback, and a health check."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert not {"privileged", "network_mode", "pid", "cap_add", "devices"} & set(service)
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service["ports"])
    assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_mounts_what_is_there(name: str):
    """What is mounted from the checkout exists there and is read-only; what is kept has a volume."""
    for source in mounts(SERVICES[name]).values():
        assert source.exists()
        assert source.is_relative_to(ROOT)
    kept = yaml.safe_load(FILE.read_text())["volumes"]
    named = {volume.partition(":")[0] for volume in SERVICES[name].get("volumes", []) if not volume.startswith(".")}
    assert named <= set(kept)


def test_no_file_is_left_over():
    """Whatever lies in the folder is a Compose file or mounted by one."""
    mounted = {source for service in SERVICES.values() for source in mounts(service).values()}
    assert set(compose.FOLDER.iterdir()) - {FILE, OVERRIDE} == {
        path for path in mounted if path.parent == compose.FOLDER
    }


def test_images_are_pinned():
    """Images from elsewhere are named by a whole version, not a tag that moves; ours is built from the checkout."""
    for name, service in SERVICES.items():
        if "build" in service:
            assert (compose.FOLDER / service["build"]["context"] / "Dockerfile").exists()
        else:
            assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"]), name


def test_the_exporter_is_the_image_s():
    """The health check is the Dockerfile's own, and the demo listens on the port that is published."""
    text = (ROOT / "Dockerfile").read_text()
    match = re.search(r"^ +CMD (\[.*healthy\.py\"\])$", text, re.MULTILINE)
    assert match is not None
    exporter = SERVICES["exporter"]
    assert exporter["healthcheck"]["test"] == ["CMD", *json.loads(match[1])]
    assert exporter["command"] == ["demo", f"--web.listen-address=:{published(exporter)}"]
    assert f"EXPOSE {published(exporter)}" in text


def test_a_cloud_of_your_own():
    """The second file has `serve` read clouds.yaml where openstacksdk looks for it, and listen where the port is."""
    exporter = yaml.safe_load(OVERRIDE.read_text())["services"]["exporter"]
    (volume,) = exporter["volumes"]
    match = re.fullmatch(r"\$\{CLOUDS_YAML:\?[^}]+\}:(/[^:]+):ro", volume)
    assert match is not None
    assert match[1] in CONFIG_FILES
    assert set(exporter["environment"]) == {"OS_CLOUD"}
    assert exporter["command"] == ["serve"]
    assert f":{published(SERVICES['exporter'])}" == commands.DEFAULT_ADDRESS


def test_services_wait_for_services():
    """What a service depends on is another one, with a health check where it waits for health."""
    for service in SERVICES.values():
        for name, how in service.get("depends_on", {}).items():
            assert name in SERVICES
            assert how["condition"] in ("service_started", "service_healthy")


# -- what is mounted


def test_prometheus_gets_the_rules(tmp_path: Path):
    """The rules are prometheus/rules.yml, where the configuration looks for them, and promtool accepts both."""
    require("promtool")
    found = mounts(SERVICES["prometheus"])
    assert found["/etc/prometheus/rules.yml"] == ROOT / "prometheus" / "rules.yml"
    for target, source in found.items():
        (tmp_path / Path(target).name).symlink_to(source)
    status, output = Promtool()("check", "config", str(tmp_path / "prometheus.yml"))
    assert status == 0, output
    assert "SUCCESS: 1 rule files found" in output


def test_alertmanager_s_file():
    """amtool accepts it; it is the documentation's example, with nowhere to send anything."""
    path = mounts(SERVICES["alertmanager"])["/etc/alertmanager/alertmanager.yml"]
    amtool = require("amtool").files[0]
    done = subprocess.run([amtool, "check-config", str(path)], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = example("alertmanager")
    expected["receivers"] = [{"name": receiver["name"]} for receiver in expected["receivers"]]
    assert yaml.safe_load(path.read_text()) == expected


def test_grafana_gets_dashboards_and_a_data_source():
    """Provisioning, dashboards and Prometheus' address are where Grafana and its provisioning files look for them."""
    grafana = SERVICES["grafana"]
    found = mounts(grafana)
    folder = ROOT / "grafana"
    for kind in ("dashboards", "datasources"):
        assert found[f"/etc/grafana/provisioning/{kind}"] == folder / "provisioning" / kind
    (provider,) = yaml.safe_load((folder / "provisioning" / "dashboards" / "heat-deployment.yaml").read_text())[
        "providers"
    ]
    assert found[provider["options"]["path"]] == folder / "dashboards"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (found[str(home.parent)] / home.name).exists()
    (source,) = yaml.safe_load((folder / "provisioning" / "datasources" / "prometheus.yaml").read_text())["datasources"]
    variables = re.findall(r"\$\{(\w+)\}", source["url"])
    assert {name: grafana["environment"][name] for name in variables} == {
        "PROMETHEUS_URL": f"http://prometheus:{published(SERVICES['prometheus'])}"
    }
    prometheus = yaml.safe_load((compose.FOLDER / "prometheus.yml").read_text())
    assert prometheus["global"]["scrape_interval"] == source["jsonData"]["timeInterval"]


def test_addresses_are_services():
    """Every address in Prometheus' file is a service at its own port."""
    text = (compose.FOLDER / "prometheus.yml").read_text()
    known = {f"{name}:{published(service)}" for name, service in SERVICES.items()}
    known.add(f"127.0.0.1:{published(SERVICES['prometheus'])}")
    addresses = set(re.findall(r"[\w.]+:\d{4,5}", text))
    assert addresses <= known
    assert {"exporter:19180", "alertmanager:9093"} <= addresses


# -- what runs


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Exporter, Alertmanager and Prometheus with the arguments and files of the Compose file."""
    for name in ("prometheus", "promtool", "alertmanager", "amtool"):
        require(name)
    with running(RUN_HERE, tmp_path_factory.mktemp("compose")) as made:
        yield made


def test_health_checks(stack: Stack):
    """Every health check that can be run here finds its service well once it runs."""
    for name in RUN_HERE:
        eventually(lambda name=name: stack.healthy(name), timeout=60, what=f"{name} is healthy")  # type: ignore[misc]
        assert stack.processes[name].ended is None


def test_a_health_check_can_fail(tmp_path: Path):
    """Where nobody listens, every health check says so."""
    for name in ("promtool", "amtool"):
        require(name)
    nobody = Stack(dict.fromkeys(RUN_HERE, 9), {}, tmp_path)
    assert [name for name in RUN_HERE if nobody.healthy(name)] == []


def test_prometheus_scrapes_the_demo(stack: Stack):
    """With its own file Prometheus finds every target up, the simulated cloud's projects in it, and Alertmanager."""

    def up() -> bool:
        targets = stack.api("prometheus", "/api/v1/targets")["data"]["activeTargets"]
        assert {each["labels"]["job"] for each in targets} == {"heat", "prometheus"}
        assert [(each["scrapeUrl"], each["lastError"]) for each in targets if each["health"] != "up"] == []
        return True

    eventually(up, timeout=120, what="all targets are up")

    def projects() -> bool:
        found = stack.api("prometheus", "/api/v1/query?query=sum(heat_up)")["data"]["result"]
        return bool(found) and float(found[0]["value"][1]) == 4

    # At the second scrape at the latest: at the first one the demo may not have asked its cloud yet.
    eventually(projects, timeout=120, what="the demo's projects are up")
    active = stack.api("prometheus", "/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
    assert [each["url"] for each in active] == [stack.url("alertmanager", "/api/v2/alerts")]


def test_the_rules_are_loaded(stack: Stack):
    """Every group of rules is evaluated without an error."""

    def evaluated() -> bool:
        found = stack.api("prometheus", "/api/v1/rules")["data"]["groups"]
        assert {each["name"] for each in found} == {each["name"] for each in groups()}
        assert all(rule["health"] == "ok" for each in found for rule in each["rules"])
        return True

    eventually(evaluated, timeout=120, what="all rules are evaluated")


def test_alertmanager_runs_with_its_file(stack: Stack):
    """What amtool accepted is what runs."""
    status = eventually(lambda: stack.api("alertmanager", "/api/v2/status"), timeout=60, what="Alertmanager answers")
    names = {receiver["name"] for receiver in yaml.safe_load(status["config"]["original"])["receivers"]}
    assert names == {"pager", "workday", "nobody"}
