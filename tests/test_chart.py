"""The Helm chart: what a real Helm makes of it, judged by Kubernetes' schemas, promtool and the exporter itself."""

import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from exporter import __version__
from exporter.config import schema
from exporter.config.schema import Config
from release import chart
from release.chart import CHART
from tests.programs.available import require
from tests.programs.helm import KEPT, NAMESPACE, VALUES, Helm, RefusedError, kept, only, require_helm
from tests.programs.pod import contents, workload
from tests.programs.prometheus import Promtool
from tests.queries import FAMILY_NAMES, RULES, groups, rules

ROOT = Path(__file__).parent.parent
VERSIONS = ("1.25", "1.31", "1.37")
"""Of Kubernetes: the oldest that the chart asks for, and later ones."""
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
"""Kinds that Kubernetes itself has no schema for."""
MINIMAL = VALUES["minimal"]

Json = Any


@pytest.fixture(scope="module")
def helm() -> Helm:
    """A real Helm."""
    return require_helm()


@pytest.fixture(scope="module")
def renderings(helm: Helm) -> dict[str, list[Json]]:
    """What the chart makes of each values file."""
    return {name: helm.objects(path) for name, path in VALUES.items()}


# -- what it consists of


def test_parts_of_other_files_are_as_these_are():
    """Rules, dashboards, versions and the table of values are what `python -m release.chart` makes, and no more."""
    for path, text in chart.files().items():
        assert path.read_text() == text, f"renew it: python -m release.chart ({path.relative_to(ROOT)})"
    assert {path for path in (CHART / "files").rglob("*") if path.is_file()} == set(chart.copies())
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert about["version"] == about["appVersion"] == __version__


def keys(schema: Json, values: Json, path: str = "") -> Iterator[str]:
    """The paths at which the values and their schema don't have the same keys, below objects of fixed keys."""
    if schema.get("additionalProperties") is not False or "properties" not in schema or not values:
        return
    yield from (f"{path}{key}" for key in set(schema["properties"]) ^ set(values))
    for key in set(schema["properties"]) & set(values):
        yield from keys(schema["properties"][key], values[key], f"{path}{key}.")


def test_the_schema_has_every_value():
    """Schema and values.yaml have the same keys; of `config`, those of the exporter's own file."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    optional = {"resources.limits", "resources.claims", "updateStrategy.rollingUpdate"}
    assert set(keys(schema, values)) - optional == {"enabled"}
    assert set(schema["properties"]["config"]["properties"]) == set(Config.model_fields)
    assert len(chart.values()) > 80


@pytest.mark.parametrize("name", [None, *VALUES])
def test_lint(helm: Helm, name: str | None):
    """`helm lint --strict` finds nothing, with the defaults and with every values file."""
    files = [f"--values={VALUES[name]}"] if name else []
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), *files)


def test_package(helm: Helm, tmp_path: Path):
    """A package has all that the folder has but the values for tests, and makes the same objects."""
    helm("package", str(CHART), f"--destination={tmp_path}")
    package = tmp_path / f"heat-deployment-exporter-{__version__}.tgz"
    with tarfile.open(package) as archive:
        packed = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}  # type: ignore[union-attr]
    folder = {
        f"heat-deployment-exporter/{path.relative_to(CHART)}": path.read_bytes()
        for path in CHART.rglob("*")
        if path.is_file() and path.parent.name != "ci"
    }
    # Helm writes this one itself.
    about = "heat-deployment-exporter/Chart.yaml"
    assert yaml.safe_load(packed.pop(about)) == yaml.safe_load(folder.pop(about))
    assert packed == folder
    full = VALUES["full"]
    assert helm.text(full, chart=package) == helm.text(full)


# -- what it makes


@pytest.mark.parametrize("name", VALUES)
def test_rendering(renderings: dict[str, list[Json]], name: str):
    """Every object is as it was when somebody last looked at it."""
    assert kept(renderings[name]) == (KEPT / f"{name}.yaml").read_text(), "renew it: python -m tests.programs.helm"


def test_no_rendering_is_left_over():
    """Every kept rendering is of a values file, and every values file has one."""
    assert {path.stem for path in KEPT.iterdir()} == set(VALUES)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", VALUES)
def test_kubernetes_accepts_it(renderings: dict[str, list[Json]], name: str, version: str):
    """Every object fits to Kubernetes' own schema, without a field that is not in it."""
    for each in renderings[name]:
        if each["kind"] not in CUSTOM:
            kubernetes_validate.validate(each, version, strict=True)


def test_a_mistake_would_be_seen(renderings: dict[str, list[Json]]):
    """The schemas refuse a misspelt field, so that acceptance means something."""
    wrong = json.loads(json.dumps(workload(renderings["minimal"])).replace("mountPath", "mountPaths"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_default_is_one_deployment(renderings: dict[str, list[Json]]):
    """The least that can be given makes a Deployment with its Service, an account and the pod of `helm test`."""
    made = sorted(each["kind"] for each in renderings["minimal"])
    assert made == ["Deployment", "Pod", "Service", "ServiceAccount"]
    assert workload(renderings["minimal"])["spec"]["replicas"] == 1


def test_shards_are_one_statefulset(renderings: dict[str, list[Json]]):
    """Several shards are a StatefulSet of so many pods that know their own number, with a name for each in the DNS."""
    found = workload(renderings["shards"])
    assert (found["kind"], found["spec"]["replicas"], found["spec"]["podManagementPolicy"]) == (
        "StatefulSet",
        3,
        "Parallel",
    )
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert {"--shard.index=auto", "--shard.total=3"} <= set(container["args"])
    headless = only(renderings["shards"], "Service", found["spec"]["serviceName"])
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["publishNotReadyAddresses"] is True


def pods(objects: list[Json]) -> Iterator[Json]:
    """Every pod that the objects make, `helm test`'s too, as metadata and spec."""
    for each in objects:
        if each["kind"] == "Pod":
            yield each
        elif each["kind"] in ("Deployment", "StatefulSet"):
            yield each["spec"]["template"]


@pytest.mark.parametrize("name", VALUES)
def test_pods_are_restricted(renderings: dict[str, list[Json]], name: str):
    """Every pod is what the profile `restricted` asks for, with the image's user, a read-only root and no token."""
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    found = list(pods(renderings[name]))
    assert len(found) == 2
    for pod in found:
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert [context["runAsUser"], context["runAsGroup"], context["fsGroup"]] == [int(user[1]), *[int(user[2])] * 2]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"]
        allowed = {"configMap", "secret", "projected", "emptyDir"}
        assert all(set(volume) - {"name"} <= allowed for volume in spec.get("volumes", []))


def matches(labels: Json, pod: Json) -> bool:
    """Whether a pod, or any object, has these labels."""
    return bool(labels) and labels.items() <= pod["metadata"]["labels"].items()


@pytest.mark.parametrize("name", VALUES)
def test_selectors_select_the_exporter_s_pods(renderings: dict[str, list[Json]], name: str):
    """Whatever selects pods selects those of the exporter and not that of `helm test`; one Service is monitored."""
    objects = renderings[name]
    exporter, test = workload(objects)["spec"]["template"], only(objects, "Pod")
    selectors = [workload(objects)["spec"]["selector"]["matchLabels"]]
    selectors += [each["spec"]["selector"] for each in objects if each["kind"] == "Service"]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in objects if each["kind"] == "PodDisruptionBudget"]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in objects if each["kind"] == "NetworkPolicy"]
    for selector in selectors:
        assert matches(selector, exporter)
        assert not matches(selector, test)
    for monitor in (each for each in objects if each["kind"] == "ServiceMonitor"):
        (service,) = [
            each
            for each in objects
            if each["kind"] == "Service" and matches(monitor["spec"]["selector"]["matchLabels"], each)
        ]
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert monitor["spec"]["namespaceSelector"]["matchNames"] == [service["metadata"]["namespace"]]


def test_objects_have_names_of_their_own(renderings: dict[str, list[Json]]):
    """No two objects of a rendering are the same, all have the labels that are recommended, and namespaces hold."""
    for objects in renderings.values():
        named = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
        assert len(named) == len(set(named))
        for each in objects:
            if each["metadata"]["name"].endswith("-further"):
                continue
            assert each["metadata"]["labels"]["app.kubernetes.io/version"] == __version__
            assert each["metadata"]["namespace"] in (NAMESPACE, "prometheus", "grafana")
    assert all(
        each["metadata"]["labels"]["team"] == "monitoring"
        for each in renderings["full"]
        if "labels" in each["metadata"]
    )


def test_long_names_stay_names(helm: Helm):
    """Whatever the release is called, names stay short enough for pods, their hosts and what hangs on to them."""
    objects = helm.objects(VALUES["full"], fullnameOverride=json.dumps("a-name-" * 10), shards="200")
    for each in objects:
        assert len(each["metadata"]["name"]) <= 63
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", each["metadata"]["name"])
    # What a StatefulSet's controller adds to it as a label of pods: a hash of ten characters.
    assert len(workload(objects)["metadata"]["name"]) <= 52


def test_one_port(renderings: dict[str, list[Json]]):
    """Exporter, container, Service, NetworkPolicy and `helm test` mean the same port, whichever it is."""
    for objects in renderings.values():
        (container,) = workload(objects)["spec"]["template"]["spec"]["containers"]
        (port,) = container["ports"]
        assert f"--web.listen-address=:{port['containerPort']}" in container["args"]
        service = only(objects, "Service", workload(objects)["metadata"]["name"])
        (served,) = service["spec"]["ports"]
        assert served["targetPort"] == port["name"]
        url = only(objects, "Pod")["spec"]["containers"][0]["command"][-1]
        host = f"{service['metadata']['name']}.{NAMESPACE}.svc"
        path = next(arg.partition("=")[2] for arg in container["args"] if arg.startswith("--web.telemetry-path="))
        assert url.partition("://")[2] == f"{host}:{served['port']}{path}"
        for policy in (each for each in objects if each["kind"] == "NetworkPolicy"):
            (rule,) = policy["spec"]["ingress"]
            assert rule["ports"] == [{"port": port["containerPort"], "protocol": "TCP"}]
            # Nobody is let in by an empty peer.
            assert all(rule["from"])
    (rule,) = only(renderings["full"], "NetworkPolicy")["spec"]["ingress"]
    assert any(
        "podSelector" in each and matches(each["podSelector"]["matchLabels"], only(renderings["full"], "Pod"))
        for each in rule["from"]
    )


def test_not_being_ready_hides_nothing(renderings: dict[str, list[Json]]):
    """Prometheus reaches every pod that runs: readiness is for updates, not for scraping."""
    for objects in renderings.values():
        for service in (each for each in objects if each["kind"] == "Service"):
            assert service["spec"]["publishNotReadyAddresses"] is True


def test_a_change_of_contents_makes_new_pods(helm: Helm):
    """Pods are replaced when the configuration or the credentials that the chart holds change, and only then."""

    def template(**settings: str) -> Json:
        return workload(helm.objects(VALUES["full"], **settings))["spec"]["template"]

    before = template()["metadata"]["annotations"]
    changed = template(config__refresh__interval='"3m"')["metadata"]["annotations"]
    assert {key for key in before if before[key] != changed[key]} == {"checksum/config"}
    changed = template(openstack__clouds__otc__region_name='"eu-nl"')["metadata"]["annotations"]
    assert {key for key in before if before[key] != changed[key]} == {"checksum/openstack"}
    assert template(serviceMonitor__interval='"2m"') == template()


def test_the_image_has_what_is_run_in_it(renderings: dict[str, list[Json]]):
    """What probes and `helm test` run is the image's own health check, under its path there."""
    match = re.search(r"^ +CMD (\[.*healthy\.py\"\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert match is not None
    check = json.loads(match[1])
    for objects in renderings.values():
        assert only(objects, "Pod")["spec"]["containers"][0]["command"][:-1] == check
    (container,) = workload(renderings["secrets"])["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["exec"]["command"][:-1] == check


def test_images(helm: Helm):
    """The image is the chart's version under a plain name, or where a registry, a tag or a digest say it is."""

    def image(**settings: str) -> str:
        return str(workload(helm.objects(MINIMAL, **settings))["spec"]["template"]["spec"]["containers"][0]["image"])

    assert image() == f"heat-deployment-exporter:{__version__}"
    assert (
        image(image__registry='"registry.example.org/"')
        == f"registry.example.org/heat-deployment-exporter:{__version__}"
    )
    assert image(image__repository='"team/heat"', image__tag='"9"') == "team/heat:9"
    assert image(image__registry='"a.example.org"', global__imageRegistry='"b.example.org"').startswith(
        "b.example.org/"
    )
    digest = "sha256:" + "0" * 64
    assert image(image__digest=f'"{digest}"', image__tag='"9"') == f"heat-deployment-exporter@{digest}"


def test_spread_is_that_of_the_pods(renderings: dict[str, list[Json]]):
    """A spread without a selector gets the pods' own; one that is given stays."""
    (spread,) = workload(renderings["shards"])["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert matches(spread["labelSelector"]["matchLabels"], workload(renderings["shards"])["spec"]["template"])
    (spread,) = workload(renderings["full"])["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"] == {"matchLabels": {"tier": "monitoring"}}


def test_updates_of_another_type(helm: Helm):
    """`Recreate` and `OnDelete` come without the settings of a rolling update, which Kubernetes would refuse."""
    assert workload(helm.objects(MINIMAL, strategy__type='"Recreate"'))["spec"]["strategy"] == {"type": "Recreate"}
    found = workload(helm.objects(MINIMAL, shards="2", updateStrategy__type='"OnDelete"'))
    assert found["spec"]["updateStrategy"] == {"type": "OnDelete"}


# -- for Prometheus and Grafana


def test_the_rules_are_the_rule_file_s(helm: Helm):
    """The PrometheusRule has the groups of prometheus/rules.yml, every rule as it is there."""
    rule = only(helm.objects(MINIMAL, prometheusRule__enabled="true"), "PrometheusRule")
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["spec"] == {"groups": groups()}
    assert RULES.read_text() == (CHART / "files" / "rules.yml").read_text()


def test_rules_can_be_changed(renderings: dict[str, list[Json]], tmp_path: Path):
    """Alerts that are disabled are gone, links and labels are those of the values, and promtool accepts the result."""
    rule = only(renderings["full"], "PrometheusRule")
    made = {each["alert"]: each for group in rule["spec"]["groups"] for each in group["rules"] if "alert" in each}
    known = rules("alert")
    assert set(known) - set(made) == {"HeatDeploymentKilled"}
    for name, alert in made.items():
        assert alert["labels"] == known[name]["labels"] | {"team": "monitoring"}
        assert alert["expr"] == known[name]["expr"]
        assert alert["annotations"]["runbook_url"] == f"https://wiki.example.org/heat/{name}.md"
        assert alert["annotations"]["dashboard_url"].startswith("https://graphs.example.org/d/")
    records = {each["record"] for group in rule["spec"]["groups"] for each in group["rules"] if "record" in each}
    assert records == set(rules("record")) | {"job:heat_projects:sum"}
    require("promtool")
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    status, output = Promtool()("check", "rules", "--lint=all", "--lint-fatal", str(file))
    assert status == 0, output


def test_dashboards_are_the_dashboards(renderings: dict[str, list[Json]]):
    """Each dashboard is a ConfigMap that Grafana's sidecar finds, byte by byte the file, and small enough for one."""
    found: dict[str, bytes] = {}
    for each in renderings["full"]:
        if "grafana_dashboard" in each["metadata"].get("labels", {}):
            assert each["kind"] == "ConfigMap"
            assert each["metadata"]["labels"]["grafana_dashboard"] == "1"
            assert each["metadata"]["namespace"] == "grafana"
            assert each["metadata"]["annotations"] == {"grafana_folder": "Software deployments"}
            found |= contents(each)
    assert found == {
        f"heat-deployment-{path.name}": path.read_bytes() for path in (ROOT / "grafana" / "dashboards").iterdir()
    }
    assert all(len(text) < 900_000 for text in found.values())


def test_the_service_monitor(renderings: dict[str, list[Json]]):
    """It scrapes the path that the exporter serves, by the scheme that it speaks, no longer than the interval."""
    (plain,) = only(renderings["shards"], "ServiceMonitor")["spec"]["endpoints"]
    assert plain == {"port": "metrics", "path": "/metrics", "scheme": "http", "interval": "30s", "scrapeTimeout": "25s"}
    (secret,) = only(renderings["secrets"], "ServiceMonitor")["spec"]["endpoints"]
    assert secret["scheme"] == "https"
    assert {"tlsConfig", "basicAuth"} <= set(secret)
    full = only(renderings["full"], "ServiceMonitor")
    assert full["metadata"]["namespace"] == "prometheus"
    assert full["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = full["spec"]["endpoints"]
    assert (endpoint["path"], endpoint["interval"]) == ("/heat/metrics", "1m")
    assert full["spec"]["targetLabels"] == ["tier"]
    service = only(renderings["full"], "Service")
    assert set(full["spec"]["targetLabels"]) <= set(service["metadata"]["labels"])


# -- what it refuses


@pytest.mark.parametrize(
    ("value", "given", "said"),
    [
        ("shards", "0", "at '/shards': minimum: got 0, want 1"),
        ("shards", '"two"', "at '/shards': got string, want integer"),
        ("replicas", "2", "additional properties 'replicas' not allowed"),
        ("image.tagg", '"1"', "at '/image': additional properties 'tagg' not allowed"),
        ("image.digest", '"0000"', "at '/image/digest'"),
        ("config.refrehs", "{}", "at '/config': additional properties 'refrehs' not allowed"),
        ("containerPort", "70000", "at '/containerPort': maximum"),
        ("web.probe", '"http"', "at '/web/probe': value must be one of 'httpGet', 'exec', 'tcpSocket'"),
        ("log.level", '"loud"', "at '/log/level': value must be one of"),
        ("livenessProbe.httpGet", "{}", "at '/livenessProbe': additional properties 'httpGet' not allowed"),
        ("commonLabels.team", "1", "at '/commonLabels/team': got number, want string"),
        ("extraEnv", '[{"value": "x"}]', "at '/extraEnv/0': missing property 'name'"),
        ("serviceMonitor.interval", '"often"', "at '/serviceMonitor/interval'"),
        ("podDisruptionBudget", '{"minAvailable": 1, "maxUnavailable": 1}', "at '/podDisruptionBudget'"),
        ("grafanaDashboards.labels.grafana_dashboard", "null", "at '/grafanaDashboards/labels'"),
    ],
)
def test_a_wrong_value_is_refused(helm: Helm, value: str, given: str, said: str):
    """A value that is unknown, of a wrong type or impossible is refused by its path."""
    with pytest.raises(RefusedError) as refused:
        helm.text(MINIMAL, **{value.replace(".", "__"): given})
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"openstack__existingSecret": '""'}, "no credentials: set openstack.existingSecret"),
        ({"openstack__clouds": '{"a": {}}'}, "openstack.existingSecret: the chart makes no Secret then"),
        ({"config": '{"names": false}', "existingConfigMap": '"x"'}, "existingConfigMap: the chart makes no ConfigMap"),
        ({"config": '{"shard": {"total": 2}}'}, "config.shard: the chart sets it by flags"),
        ({"web__tls": "true"}, "web.tls and web.certificateSecret: TLS is set up by a web configuration"),
        (
            {"openstack": '{"existingSecret": "", "cloud": "c", "clouds": {"b": {}, "a": {}}}'},
            'openstack.cloud: "c" is no entry of openstack.clouds, which has: a, b',
        ),
        (
            {"openstack": '{"existingSecret": "", "cloud": "", "clouds": {"b": {}, "a": {}}}'},
            "openstack.cloud: say which entry of openstack.clouds to watch",
        ),
        (
            {
                "openstack": '{"existingSecret": "", "cloud": "", "clouds": {"a": {}}}',
                "config": '{"clouds": [{"cloud": "d"}]}',
            },
            'config.clouds: "d" is no entry of openstack.clouds, which has: a',
        ),
        (
            {
                "openstack": '{"existingSecret": "", "files": {"a": "b"}}',
                "extraEnvFrom": '[{"secretRef": {"name": "x"}}]',
            },
            "openstack.files: they lie beside",
        ),
        ({"prometheusRule": '{"enabled": true, "disabled": {"HeatUp": true}}'}, "there is no alert HeatUp"),
    ],
)
def test_what_can_not_go_together_is_refused(helm: Helm, settings: dict[str, str], said: str):
    """Values that contradict each other, or lead nowhere, are refused by name before anything is installed."""
    with pytest.raises(RefusedError) as refused:
        helm.text(MINIMAL, **settings)
    assert said in str(refused.value)


def test_credentials_can_come_as_variables(helm: Helm):
    """OS_* variables of a Secret are enough."""
    settings = {"openstack": '{"existingSecret": "", "cloud": ""}', "extraEnvFrom": '[{"secretRef": {"name": "rc"}}]'}
    (container,) = workload(helm.objects(MINIMAL, **settings))["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "rc"}}]
    assert "env" not in container


def test_an_umbrella_chart_may_switch_it(helm: Helm, tmp_path: Path):
    """As a part of another chart it comes and goes by that one's condition, and takes its `global` values."""
    folder = tmp_path / "umbrella"
    (folder / "charts").mkdir(parents=True)
    shutil.copytree(CHART, folder / "charts" / CHART.name)
    (folder / "Chart.yaml").write_text(
        "{apiVersion: v2, name: umbrella, version: 1.0.0, dependencies: [{name: heat-deployment-exporter,"
        f" version: '{__version__}', condition: heat-deployment-exporter.enabled}}]}}"
    )
    values = folder / "values.yaml"
    for enabled, kinds in ((True, 4), (False, 0)):
        values.write_text(
            yaml.safe_dump(
                {
                    "global": {"imageRegistry": "registry.example.org", "theirs": 1},
                    CHART.name: {"enabled": enabled, "openstack": {"existingSecret": "clouds"}},
                }
            )
        )
        objects = [each for each in yaml.safe_load_all(helm.text(values, chart=folder)) if each]
        assert len(objects) == kinds


@pytest.mark.parametrize("name", VALUES)
def test_the_exporter_accepts_its_file(renderings: dict[str, list[Json]], name: str):
    """The configuration files are ones that the exporter takes, and clouds.yaml has what they name."""
    for each in renderings[name]:
        if each["kind"] == "ConfigMap" and "config.yaml" in each["data"]:
            parsed = schema.parse(each["data"]["config.yaml"], source=name, families=FAMILY_NAMES)
            secrets = [contents(other) for other in renderings[name] if other["kind"] == "Secret"]
            if secrets:
                entries = yaml.safe_load(secrets[0]["clouds.yaml"])["clouds"]
                assert {cloud.cloud for cloud in parsed.clouds} <= set(entries)


def blocks() -> list[str]:
    """The values in the documentation."""
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    pages = [(ROOT / "docs" / name).read_text() for name in ("kubernetes.md", "scaling.md")]
    found = [text for page in pages for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    return [text for text in found if set(yaml.safe_load(text)) <= set(known)]


def test_values_of_the_documentation_are_right(helm: Helm, tmp_path: Path):
    """Every example of values is accepted, and `config` in it by the exporter."""
    assert len(blocks()) >= 4
    for text in blocks():
        (tmp_path / "values.yaml").write_text(text)
        objects = helm.objects(MINIMAL, tmp_path / "values.yaml")
        for each in objects:
            if each["kind"] == "ConfigMap" and "config.yaml" in each["data"]:
                schema.parse(each["data"]["config.yaml"], source="documentation", families=FAMILY_NAMES)


def test_the_documentation_names_what_is_made(helm: Helm):
    """The commands of docs/kubernetes.md make a release whose Services are called as its examples call them."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    command = re.search(r"^helm install (\S+) (\S+) --namespace heat ", page, re.MULTILINE)
    assert command is not None
    release, folder = command.groups()
    assert ROOT / folder == CHART
    given = re.findall(r"--set (\S+)", page.partition("helm test")[0])
    text = helm(
        "template", release, str(CHART), "--namespace=heat", *(f"--set={each}" for each in given), "--set=shards=2"
    )
    services = {
        f"{each['metadata']['name']}.{each['metadata']['namespace']}.svc"
        for each in yaml.safe_load_all(text)
        if each and each["kind"] == "Service"
    }
    named = set(re.findall(r"[a-z0-9.-]+\.svc\b", page))
    assert len(named) == 4
    assert {re.sub(r"^heat-deployment-exporter-\d\.", "", each) for each in named} == services


def notes(helm: Helm, name: str) -> str:
    """What Helm prints after an installation."""
    text = helm(
        "install", "heat", str(CHART), f"--values={VALUES[name]}", f"--namespace={NAMESPACE}", "--dry-run=client"
    )
    return text.partition("NOTES:\n")[2]


def test_notes(helm: Helm):
    """What is said after an installation leads to the objects that were made, and names what is still missing."""
    minimal, shards, full = (notes(helm, name) for name in ("minimal", "shards", "full"))
    assert "kubectl --namespace monitoring exec deployment/heat-heat-deployment-exporter -- " in minimal
    assert "Nothing scrapes it yet" in minimal
    assert "http://heat-heat-deployment-exporter.monitoring.svc:19180/metrics" in minimal
    assert "exec statefulset/heat-heat-deployment-exporter" in shards
    assert "--shard.index=auto --shard.total=3" in shards
    assert "Nothing scrapes it yet" not in shards
    assert "19180:8080" in full
    assert "The credentials of openstack.clouds are in this release's own Secret too" in full
    assert "placeholders" not in full
