"""Every block of the documentation is run, read by what it is for, or checked against what it names; links lead on.

A block that no rule here is for fails: what nobody checks goes wrong unseen.
"""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import _jsonnet
import click
import jsonschema
import kubernetes_validate
import pytest
import yaml

from docs.documentation import EXAMPLES, WEB_EXAMPLES, Key, keys
from exporter.cli import commands
from exporter.config import schema
from exporter.web.web_config import Files, Loaded, WebConfig
from tests import harness
from tests.conftest import StartPrometheus
from tests.pages import PAGES, ROOT, Block, anchors, blocks, inline, links, rows
from tests.programs.available import PROGRAMS, require
from tests.programs.installed import simulated
from tests.programs.process import Process, eventually, session
from tests.programs.prometheus import Promtool
from tests.queries import FAMILY_NAMES, SAMPLES, complaints, names, recorded, rules

NAME = "heat-deployment-exporter"
OMITTED = "…"
"""What stands for something that an example leaves out."""

PARSED_ONLY = {
    "cosign": "needs a released image, and Sigstore's servers",
    "cp": "would write to folders of the machine",
    "docker": "no daemon runs where the tests do; tests/test_image.py builds and runs the image with buildah",
    "gh": "needs a released package, and GitHub",
    "grep": "reads what a program beside it would say",
    "install": "would write to folders of the machine",
    "journalctl": "systemd is not process 1 where the tests run",
    "kubectl": "there is no cluster where the tests run",
    "mkdir": "would write to folders of the machine",
    "openstack": "asks, and some change, a cloud of the reader's",
    "sha256sum": "needs a release; tests/test_packages.py compares the digests",
    "systemctl": "systemd is not process 1 where the tests run",
    "tail": "reads what a program beside it would say",
}
"""Programs whose commands are read, not run, and why."""

CHART = ROOT / "deploy" / "kubernetes" / "heat-deployment-exporter"


def identify(block: Block) -> str:
    """A block's name in a test's."""
    return str(block)


# -- commands


class Command(NamedTuple):
    """One simple command of a shell's line."""

    variables: dict[str, str]
    words: list[str]

    @property
    def program(self) -> str:
        """The program's name, without its folder."""
        return Path(self.words[0]).name


_BREAKS = frozenset({"|", "||", "&&", ";", "&"})


def parsed(line: str) -> Iterator[Command]:
    """The commands of a line, those in it to be replaced by their output included."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    tokens = iter(lexer)
    for token in tokens:
        if token in _BREAKS:
            yield from _command(words)
            words = []
        elif set(token) <= set("<>&"):
            next(tokens)
            words = words[:-1] if words and words[-1] == "2" else words
        else:
            words.append(token)
    yield from _command(words)


def _command(words: list[str]) -> Iterator[Command]:
    for word in words:
        for inner in re.findall(r"\$\((.*?)\)", word):
            yield from parsed(inner)
    variables: dict[str, str] = {}
    while words and (match := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", words[0])):
        variables[match[1]] = match[2]
        words = words[1:]
    if words[:1] == ["export"]:
        variables |= dict(word.partition("=")[::2] for word in words[1:])
    elif words:
        yield Command(variables, words)
        return
    known_variables(variables)


def lines(block: Block) -> list[str]:
    """The command lines of a block: all of `sh`, of `console` those after a prompt."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        return re.findall(r"^\$ (.*)$", text, re.MULTILINE)
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@cache
def help_of(*command: str) -> str:
    """What a program says of its flags."""
    done = subprocess.run([*command], cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def flags_are_known(words: Iterable[str], told: str) -> None:
    """Every flag among the words is one that the help tells of."""
    for word in words:
        if word.startswith("-"):
            flag = word.partition("=")[0]
            assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", told), word


THANOS = {
    "sidecar": {"prometheus.url", "tsdb.path", "objstore.config-file", "grpc-address", "http-address"},
    "query": {"endpoint", "query.replica-label", "http-address", "grpc-address"},
    "store": {"data-dir", "objstore.config-file", "grpc-address", "http-address"},
    "compact": {
        "wait",
        "data-dir",
        "objstore.config-file",
        "retention.resolution-raw",
        "retention.resolution-5m",
        "retention.resolution-1h",
    },
}
"""Commands of Thanos 0.39 with some of their flags, as its documentation has them: it is not there to be asked."""

OBJECT_STORE = {"bucket", "endpoint", "region", "access_key", "secret_key", "insecure", "http_config"}
"""Keys of Thanos' configuration of an S3 object store."""

MIMIR_LIMITS = {
    "accept_ha_samples",
    "compactor_blocks_retention_period",
    "ingestion_burst_size",
    "ingestion_rate",
    "max_global_exemplars_per_user",
    "max_global_series_per_user",
}
"""Some of Mimir's limits of a tenant, as its documentation has them."""


def own_command(arguments: list[str]) -> None:
    """The exporter's own parser takes these arguments; nothing is run."""
    try:
        with commands.main.make_context(NAME, list(arguments)) as context:
            rest = [*context._protected_args, *context.args]
            name, command, rest = commands.main.resolve_command(context, rest)
            assert command is not None
            command.make_context(name, rest, parent=context)
    except click.exceptions.Exit:
        pass  # --version, --help
    except click.ClickException as error:
        pytest.fail(f"{NAME} {shlex.join(arguments)}: {error.format_message()}")


def known_variables(variables: Mapping[str, str]) -> None:
    """A variable is one of openstacksdk's, of a flag of ours, or of a Compose file."""
    own = {option.envvar for command in commands.main.commands.values() for option in command.params}
    for file in ROOT.glob("deploy/compose/*.yaml"):
        own |= set(re.findall(r"\$\{(\w+)", file.read_text()))
    for name in variables:
        assert name.startswith("OS_") or name in own, name


def make(command: Command) -> None:
    """Its targets are the Makefile's."""
    targets = re.findall(r"^([a-z-]+(?: [a-z-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    known = {target for line in targets for target in line.split()}
    for word in command.words[1:]:
        assert word in known or re.fullmatch(r"[A-Z]+=.*", word), word


def python(command: Command) -> None:
    """The module that it runs is there, and knows the flags."""
    flag, module, *arguments = command.words[1:]
    assert flag == "-m", command
    assert importlib.util.find_spec(module) is not None, module
    if any(word.startswith("-") for word in arguments):
        flags_are_known(arguments, help_of(sys.executable, "-m", module, "--help"))


def pip(command: Command) -> None:
    """pip knows its flags."""
    assert command.words[1] == "install"
    flags_are_known(command.words[2:], help_of(sys.executable, "-m", "pip", "install", "--help"))


def curl(command: Command) -> None:
    """curl knows its flags. Requests to the exporter are made by another test."""
    told = help_of(require("curl").files[0], "--help", "all")
    for word in command.words[1:]:
        if re.fullmatch("-[a-zA-Z]{2,}", word):
            flags_are_known([f"-{letter}" for letter in word[1:]], told)
        elif word.startswith("-"):
            flags_are_known([word], told)


def docker(command: Command) -> None:
    """What an image of ours is run with is a command of the exporter."""
    if command.words[1] == "run":
        own_command(command.words[command.words.index(NAME) + 1 :])


def pre_commit(command: Command) -> None:
    """pre-commit has such a command."""
    told = help_of(sys.executable, "-m", "pre_commit", "--help")
    assert re.search(rf"^ +{re.escape(command.words[1])} ", told, re.MULTILINE), command


def helm(command: Command) -> None:
    """What it sets are values that the chart has. tests/test_chart.py renders releases with a real Helm."""
    assert command.words[1] in ("install", "upgrade", "test"), command
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for flag, setting in pairwise(command.words):
        if flag == "--set":
            found = values
            for part in setting.partition("=")[0].split("."):
                assert part in found, setting
                found = found[part]


def thanos(command: Command) -> None:
    """It is a command of Thanos, with flags that this one has."""
    name, *flags = command.words[1:]
    for flag in flags:
        match = re.fullmatch(r"--([a-z0-9.-]+)(=.+)?", flag)
        assert match, flag
        assert match[1] in THANOS[name], flag


def exporter(command: Command) -> None:
    """The exporter's own parser takes it."""
    known_variables(command.variables)
    own_command(command.words[1:])


CHECKED: Mapping[str, Callable[[Command], None]] = {
    NAME: exporter,
    "curl": curl,
    "docker": docker,
    "helm": helm,
    "make": make,
    "pip": pip,
    "pre-commit": pre_commit,
    "python": python,
    "python3": python,
    "thanos": thanos,
}  # fmt: skip
"""What is to be said against a command of a program."""


def check(line: str) -> None:
    """Every command of a line keeps to the rule for its program, and there is one; files of the tree are there."""
    for command in parsed(line):
        assert command.program in CHECKED or command.program in PARSED_ONLY, f"no rule for {command.program}: {line}"
        if command.program in CHECKED:
            CHECKED[command.program](command)
        for word in command.words[1:]:
            if (ROOT / word.partition("/")[0]).is_dir() and "/" in word and not word.startswith((".", "/", "dist/")):
                assert list(ROOT.glob(word.rstrip("/"))), f"no file {word}"


@pytest.mark.parametrize("block", blocks("sh", "console"), ids=identify)
def test_commands_can_be_meant(block: Block):
    """A shell reads the block, and each command in it is of a known program, with flags and files that there are."""
    script = "\n".join(lines(block))
    done = subprocess.run(["bash", "-n", "-c", script], check=False, capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, done.stderr
    assert script
    for line in script.splitlines():
        check(line)


def test_no_excuse_is_left_over():
    """Every program that is excused from more than being read is on some page."""
    used = {command.program for block in blocks("sh", "console") for line in lines(block) for command in parsed(line)}
    assert set(PARSED_ONLY) - {"docker"} <= used - set(CHECKED)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_prose_can_be_meant(page: Path):
    """The same for what stands in a sentence and begins with a program that there is a rule for."""
    for text in inline(page):
        words = text.split()
        if Path(words[0]).name in CHECKED and len(words) > 1 and OMITTED not in text:
            check(text)
        for variable in re.findall(r"HEAT_DEPLOYMENT_EXPORTER_[A-Z_]+", text):
            known_variables({variable: ""})
        own = {option for command in commands.main.commands.values() for each in command.params for option in each.opts}
        for flag in re.findall(r"(?<!\S)--(?:web|log|config|shard)\.[a-z.-]+", text):
            assert flag in own, flag


# -- what is asked of a running exporter


@contextmanager
def demo(folder: Path) -> Iterator[str]:
    """The demo, as `make demo` runs it, on a port of its own; yields its host and port."""
    command = (sys.executable, "-m", "exporter", "demo", "--web.listen-address", "127.0.0.1:0", "--log.level", "info")
    with Process("demo", command, folder, PYTHONPATH=str(ROOT)) as process:

        def port() -> str:
            match = re.search(r"event=listening ports=(\d+)", process.log.read_text())
            return match[1] if match else ""

        address = f"127.0.0.1:{eventually(port, timeout=60, what='a port')}"
        process.ready(f"http://{address}/-/ready", timeout=60)
        yield address


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo's host and port."""
    with demo(tmp_path_factory.mktemp("demo")) as found:
        yield found


EXPORTERS = re.compile(r"(?:EXPORTER|127\.0\.0\.1|exporter\.example\.org):19180")
ASKING = [
    (block, line)
    for block in blocks("sh", "console")
    for line in lines(block)
    if "curl" in line and EXPORTERS.search(line)
]


@pytest.mark.parametrize(("block", "line"), ASKING, ids=lambda value: str(value) if isinstance(value, Block) else "")
def test_requests_to_the_exporter_are_answered(block: Block, line: str, address: str):
    """Each `curl` that asks an exporter gets an answer from the demo, of a path that there is."""
    require("curl")
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", EXPORTERS.sub(address, line)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    if "/dev/null" not in line:
        assert done.stdout
    with session() as http:
        for path in re.findall(rf"{EXPORTERS.pattern}(/[^\s'\"]*)", line):
            assert http.get(f"http://{address}{path}", timeout=30).status_code != 404, path
    if block.language == "console":
        shown = [line for line in block.text.splitlines() if not line.startswith("$ ")]
        said = [form(each) for each in done.stdout.splitlines()]
        assert [each for each in shown if not any(like(form(each), other) for other in said)] == []


def form(line: str) -> str:
    """A line of a page without what differs from one exporter to the next: values, and ids."""
    return re.sub(r'project_id="[^"]*"', 'project_id=""', line if line.startswith("#") else line.rpartition(" ")[0])


def like(example: str, said: str) -> bool:
    """Whether a line is as an example says, as far as that goes."""
    return said.startswith(example[: -len(OMITTED)]) if example.endswith(OMITTED) else said == example


# -- YAML


class Kind(NamedTuple):
    """A kind of YAML, told by keys of which it has at least one."""

    keys: frozenset[str]
    read: Callable[[str, Path], object]


def exporter_configuration(text: str, folder: Path) -> None:
    """The exporter accepts it."""
    schema.parse(text, source="example", families=FAMILY_NAMES)


def web_configuration(text: str, folder: Path) -> Loaded:
    """The exporter can go by it, with files under the names that it has, and certificates where they are left out."""
    authority = harness.Authority(folder)
    certificate, key = authority.issue("example", "127.0.0.1")
    tls = yaml.safe_load(text).get("tls_server_config", {})
    for name, source in (("cert_file", certificate), ("key_file", key), ("client_ca_file", authority.file)):
        if name in tls:
            (folder / tls[name]).write_bytes(source.read_bytes())
    for name, source in (("CERTIFICATE", certificate), ("PRIVATE KEY", key)):
        text = text.replace(f"'-----BEGIN {name}-----{OMITTED}'", json.dumps(source.read_text()))
    (folder / "web.yml").write_text(text)
    return Files.read(folder / "web.yml").loaded()


def prometheus_configuration(text: str, folder: Path) -> None:
    """promtool accepts it; the rule files that it names are ours."""
    require("promtool")
    content = yaml.safe_load(text)
    if "rule_files" in content:
        assert [Path(name).name for name in content["rule_files"]] == ["heat-deployment.yml"]
        content["rule_files"] = [str(ROOT / "prometheus" / "rules.yml")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(content))
    status, output = Promtool()("check", "config", str(folder / "prometheus.yml"))
    assert status == 0, output


def rule_file(text: str, folder: Path) -> None:
    """promtool accepts it."""
    require("promtool")
    (folder / "rules.yml").write_text(text)
    status, output = Promtool()("check", "rules", str(folder / "rules.yml"))
    assert status == 0, output


def alertmanager_configuration(text: str, folder: Path) -> None:
    """amtool accepts it, and it names alerts that there are."""
    (folder / "alertmanager.yml").write_text(text)
    command = [require("amtool").files[0], "check-config", str(folder / "alertmanager.yml")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r'= "(HeatDeployment\w+)"', text)) <= set(rules("alert"))


def manifest(text: str, folder: Path) -> None:
    """It is an object of Kubernetes, and one of its own kinds fits to its schema; a pod has the volumes that it mounts,
    and runs commands that there are."""
    content = yaml.safe_load(text)
    assert re.fullmatch(r"([a-z0-9.]+/)?v\d\w*", content["apiVersion"])
    assert re.fullmatch(r"[a-z0-9.-]+", content["metadata"]["name"])
    if content["apiVersion"] in ("v1", "apps/v1"):
        kubernetes_validate.validate(content, "1.31", strict=True)
    template = content.get("spec", {}).get("template")
    if template is None:
        return
    labels, selected = template["metadata"]["labels"], content["spec"]["selector"]["matchLabels"]
    assert selected.items() <= labels.items()
    volumes = {each["name"] for each in template["spec"].get("volumes", [])}
    volumes |= {each["metadata"]["name"] for each in content["spec"].get("volumeClaimTemplates", [])}
    for container in template["spec"]["containers"]:
        assert {each["name"] for each in container["volumeMounts"]} <= volumes
        image = container["image"].partition(":")[0].rpartition("/")[2]
        CONTAINERS[image](container)


def own_container(container: Mapping[str, Any]) -> None:
    """The exporter's own parser takes its arguments, and it is asked at paths that are there."""
    own_command(container["args"])
    ports = {each["name"] for each in container["ports"]}
    for probe, path in (("livenessProbe", "/-/healthy"), ("readinessProbe", "/-/ready")):
        assert container[probe]["httpGet"]["path"] == path
        assert container[probe]["httpGet"]["port"] in ports


def prometheus_container(container: Mapping[str, Any]) -> None:
    """A real Prometheus takes its arguments, as far as to look for its configuration, which is not there."""
    assert unstarted(*container["args"]).startswith("Error loading config")
    assert "unknown long flag" in unstarted(*container["args"], "--storage.tsdb.min-block-durations=2h")


def unstarted(*arguments: str) -> str:
    """Why Prometheus does not start with these arguments, its configuration in a folder that is none."""
    nowhere = [re.sub("^(--config.file)=", r"\1=/dev/null", each) for each in arguments]
    command = [require("prometheus").files[0], "--log.format=json", *nowhere]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode in (1, 2), done.stderr
    last = done.stderr.splitlines()[-1]
    return str(json.loads(last)["msg"]) if last.startswith("{") else last


def thanos_container(container: Mapping[str, Any]) -> None:
    """Its arguments are flags of Thanos."""
    thanos(Command({}, ["thanos", *container["args"]]))


CONTAINERS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    NAME: own_container,
    "prometheus": prometheus_container,
    "thanos": thanos_container,
}
"""What is to be said against a container, by its image's name."""


def object_store(text: str, folder: Path) -> None:
    """It is what Thanos needs to know of an object store that speaks S3, and names keys that it has."""
    content = yaml.safe_load(text)
    assert content.keys() == {"type", "config"}
    assert content["type"] == "S3"
    assert {"bucket", "endpoint"} <= content["config"].keys() <= OBJECT_STORE


def mimir_overrides(text: str, folder: Path) -> None:
    """It names limits that Mimir has."""
    content = yaml.safe_load(text)
    assert content.keys() == {"overrides"}
    for limits in content["overrides"].values():
        assert limits.keys() <= MIMIR_LIMITS


def chart_values(text: str, folder: Path) -> None:
    """The chart's schema accepts them, and the exporter the configuration in them. tests/test_chart.py renders them."""
    content = yaml.safe_load(text)
    jsonschema.validate(content, json.loads((CHART / "values.schema.json").read_text()))
    if "config" in content:
        schema.parse(yaml.safe_dump(content["config"]), source="values", families=FAMILY_NAMES)


def clouds_file(text: str, folder: Path) -> None:
    """openstacksdk reads each entry, and finds how to authenticate."""
    import openstack.config

    (folder / "clouds.yaml").write_text(text)
    loader = openstack.config.OpenStackConfig(
        config_files=[str(folder / "clouds.yaml")], load_envvars=False, load_yaml_config=True
    )
    for name in yaml.safe_load(text)["clouds"]:
        assert loader.get_one(name).config["auth"]["auth_url"].startswith("https://")


KINDS = (
    Kind(frozenset({"apiVersion"}), manifest),
    Kind(frozenset({"scrape_configs", "remote_write", "global", "rule_files"}), prometheus_configuration),
    Kind(frozenset({"groups"}), rule_file),
    Kind(frozenset({"type"}), object_store),
    Kind(frozenset({"overrides"}), mimir_overrides),
    Kind(frozenset({"route", "receivers"}), alertmanager_configuration),
    Kind(frozenset({"openstack", "serviceMonitor", "web"}), chart_values),
    Kind(frozenset(WebConfig.model_fields), web_configuration),
    Kind(frozenset(schema.Config.model_fields), exporter_configuration),
)


def kind_of(content: Any) -> Callable[[str, Path], object]:
    """What reads such YAML; a failure where nothing does."""
    if isinstance(content, dict):
        if isinstance(content.get("clouds"), dict):
            return clouds_file
        for each in KINDS:
            if each.keys & set(content):
                return each.read
    pytest.fail(f"no rule for such YAML: {content!r:.200}")


@harness.sdk_warning
@pytest.mark.parametrize("block", blocks("yaml"), ids=identify)
def test_yaml_is_read_by_what_it_is_for(block: Block, tmp_path: Path):
    """Each YAML block is accepted by the program whose file it is, in every document."""
    for text in re.split(r"^---$", block.text, flags=re.MULTILINE):
        kind_of(yaml.safe_load(text))(text, tmp_path)


def test_blocks_of_what_comes_after_one_prometheus_fit_together():
    """On docs/scaling.md the sidecar asks the Prometheus beside it and ships its blocks, which that one leaves alone;
    the querier asks the Service of these pods and merges by a label that tells them apart; Mimir's limits are those of
    the tenant that is sent to, and let the largest fleet that was measured through."""
    page = ROOT / "docs" / "scaling.md"
    texts = [yaml.safe_load(block.text) for block in blocks("yaml") if block.page == page]
    scraping, sending = (next(each for each in texts if key in each) for key in ("global", "remote_write"))
    (workload,) = (each for each in texts if each.get("kind") == "StatefulSet")
    (service,) = (each for each in texts if each.get("kind") == "Service")
    (overrides,) = (each["overrides"] for each in texts if "overrides" in each)
    prometheus, sidecar = workload["spec"]["template"]["spec"]["containers"]
    own, beside = (arguments(each["args"]) for each in (prometheus, sidecar))
    assert own["--storage.tsdb.min-block-duration"] == own["--storage.tsdb.max-block-duration"] == "2h"
    assert own["--storage.tsdb.path"] == beside["--tsdb.path"]
    mounts = [{each["mountPath"]: each["name"] for each in one["volumeMounts"]} for one in (prometheus, sidecar)]
    assert mounts[0][own["--storage.tsdb.path"]] == mounts[1][beside["--tsdb.path"]]
    assert str(Path(own["--config.file"]).parent) in mounts[0]
    assert str(Path(beside["--objstore.config-file"]).parent) in mounts[1]
    assert beside["--prometheus.url"] == f"http://127.0.0.1:{prometheus['ports'][0]['containerPort']}"

    said = [
        command for block in blocks("sh") if block.page == page for line in lines(block) for command in parsed(line)
    ]
    querier, gateway, compactor = (command.words for command in said if command.program == "thanos")
    (label,) = (word.partition("=")[2] for word in querier if word.startswith("--query.replica-label="))
    variable = scraping["global"]["external_labels"][label].strip("${}")
    assert variable in {each["name"] for each in prometheus["env"]}
    assert "expand-external-labels" in own["--enable-feature"].split(",")
    (port,) = service["spec"]["ports"]
    assert service["metadata"]["name"] == workload["spec"]["serviceName"]
    assert service["spec"]["selector"] == workload["spec"]["selector"]["matchLabels"]
    assert port["port"] == sidecar["ports"][0]["containerPort"]
    assert f"--endpoint=dnssrv+_{port['name']}._tcp.{service['metadata']['name']}" in querier
    for words in (gateway, compactor):
        assert f"--objstore.config-file={beside['--objstore.config-file']}" in words

    (remote,) = sending["remote_write"]
    limits = overrides[remote["headers"]["X-Scope-OrgID"]]
    (series,) = (
        int(cells[1].split()[0].replace(",", "")) for cells in rows(page, "what") if cells[0].startswith("series")
    )
    assert limits["max_global_series_per_user"] >= 2 * series
    assert limits["ingestion_rate"] >= series / int(scraping["scrape_configs"][0]["scrape_interval"].removesuffix("s"))
    assert limits["ingestion_burst_size"] >= limits["ingestion_rate"]
    assert remote["send_exemplars"] is bool(limits["max_global_exemplars_per_user"])


def arguments(words: Iterable[str]) -> dict[str, str]:
    """Flags with their values."""
    return {flag: value for flag, _, value in (word.partition("=") for word in words)}


@pytest.mark.parametrize("key", [*keys(WebConfig)], ids=lambda key: key.path)
def test_every_key_of_the_web_configuration_has_its_example(key: Key, tmp_path: Path):
    """The same for the web configuration file, with the files that it names."""
    text = WEB_EXAMPLES[key.path]
    content = yaml.safe_load(text)
    for part in key.path.split("."):
        content = content[part]
    assert web_configuration(text, tmp_path).config != WebConfig()
    assert key.meaning
    assert f"`{text}`" in (ROOT / "docs" / "configuration.md").read_text()


@pytest.mark.parametrize("key", [*keys(schema.Config)], ids=lambda key: key.path)
def test_every_key_has_its_example(key: Key):
    """The example of a key is a configuration that the exporter accepts, with that key in it and not as by default."""
    text = EXAMPLES[key.path]
    content = yaml.safe_load(text)
    for part in key.path.split("."):
        content = content[part.removesuffix("[]")]
        content = content[0] if part.endswith("[]") else content
    accepted = schema.parse(text, source=key.path, families=FAMILY_NAMES)
    if key.path not in ("clouds[].projects", "shard.total"):
        assert accepted != schema.Config()
    assert key.meaning
    assert f"`{text}`" in (ROOT / "docs" / "configuration.md").read_text()


# -- the other languages


@pytest.mark.parametrize("block", blocks("promql"), ids=identify)
def test_queries_can_be_asked(block: Block, promtool: Promtool):
    """A real parser of PromQL reads the block, and every family and recorded series in it exists."""
    assert not complaints(promtool, [block.text])
    assert names(block.text) <= SAMPLES
    assert recorded(block.text) <= set(rules("record"))


UNCERTAIN = ("heat_up == 0", "heat_refresh_failures_total")
"""What has an answer only where something fails."""


def test_queries_are_answered(address: str, prometheus: StartPrometheus):
    """A real Prometheus that scrapes the demo answers each query of docs/metrics.md, with data where there is any."""
    job = {"job_name": "heat", "static_configs": [{"targets": [address]}]}
    server = prometheus([job])
    queries = [block.text for block in blocks("promql") if block.page.name == "metrics.md"]
    assert len(queries) > 10
    server.wait_until("heat_software_deployment_finished_total > 0", timeout=60)
    for query in queries:
        if any(each in query for each in UNCERTAIN):
            server.query(query)
        else:
            server.wait_until(query, timeout=60)


@pytest.mark.parametrize("block", blocks("jsonnet"), ids=identify)
def test_jsonnet_is_evaluated(block: Block):
    """Jsonnet evaluates the block beside the mixin, and its addresses are those in every alert."""
    code = f"({block.text}).prometheusAlerts"
    alerts = _jsonnet.evaluate_snippet("example", code, jpathdir=[str(ROOT / "prometheus")])
    assert alerts.count("your.org") == 2 * len(rules("alert"))


def complete(text: str) -> str:
    """JSON without the mark for what was left out."""
    return re.sub(rf",\s*{OMITTED}", "", text)


@pytest.mark.parametrize("block", blocks("json"), ids=identify)
def test_json_has_the_shape_of_what_is_printed(block: Block, tmp_path: Path):
    """A JSON block, but for what it leaves out, is what `check --output json` prints: the same keys, at every level."""
    example = json.loads(complete(block.text))
    with simulated([sys.executable, "-m", "exporter"]) as clouds:
        done = subprocess.run(
            [sys.executable, "-m", "exporter", "check", "--output", "json"],
            env={"PYTHONPATH": str(ROOT), "OS_CLOUD": "simulator", "OS_CLIENT_CONFIG_FILE": str(clouds)},
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
    printed = json.loads(done.stdout)
    assert example.keys() == printed.keys()
    for name in ("clouds", "projects"):
        assert example[name][0].keys() == printed[name][0].keys(), name


@cache
def events() -> str:
    """The sources, in which each event of the log stands as it is written."""
    return "".join(path.read_text() for path in (ROOT / "exporter").rglob("*.py"))


@pytest.mark.parametrize("block", blocks("text"), ids=identify)
def test_plain_text_is_a_log_or_a_picture(block: Block):
    """Plain text is a picture with arrows, or lines of the log whose events the exporter writes."""
    if "→" in block.text:
        return
    for line in block.text.splitlines():
        match = re.match(r'ts=\S+Z level=(?:info|warning|error) event=("[^"]+"|\w+) ', line)
        assert match, f"no rule for such text: {line}"
        assert json.dumps(match[1].strip('"')) in events(), match[1]
        if "refresh failed" in line:
            fields = re.findall(r" ([a-z_]+)=", line)
            assert fields == ["level", "event", "cloud", "project_id", "project", "api", "reason", "error"]


def test_every_event_that_is_explained_is_written():
    """Each event of the table in docs/troubleshooting.md stands in the sources, word for word."""
    table = rows(ROOT / "docs" / "troubleshooting.md", "event")
    named = [event for cells in table for event in re.findall(r"`([^`]+)`", cells[0])]
    assert len(named) > 10
    assert [event for event in named if f'"{event}' not in events()] == []


def test_no_block_is_without_a_rule():
    """Every block says its language, and there is a test for it."""
    known = {"sh", "console", "yaml", "promql", "jsonnet", "json", "text"}
    assert [str(block) for block in blocks() if block.language not in known] == []
    fences = sum(page.read_text().count("```") for page in PAGES)
    assert fences == 2 * len(blocks())


# -- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    """Every relative link is to a file or folder of the tree, every anchor to a heading that is there."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert target.suffix == ".md", link
            assert anchor in anchors(target), link


def test_every_page_can_be_reached():
    """From the README links lead to every page of the documentation."""
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
        waiting += targets
        for target in targets:
            if target.is_dir():
                waiting += target.glob("*.md")
    assert [page for page in PAGES if page not in seen] == []


def test_programs_are_listed_once():
    """No program is both checked and excused, but docker, of whose commands only a part can be."""
    assert set(CHECKED) & set(PARSED_ONLY) == {"docker"}
    assert {"curl", "amtool"} <= set(PROGRAMS)
