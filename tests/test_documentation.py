"""The documentation says what the code does."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from exporter import cli, config
from exporter.documentation import renewed
from exporter.errors import Reason
from exporter.families import FAMILIES
from exporter.webconfig import WebConfig
from tests.programs.prometheus import Promtool

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_the_code_s(page: Path) -> None:
    """The tables of metrics and of configuration keys are as the code has them."""
    text = page.read_text()
    assert renewed(text) == text, f"renew it: python -m exporter.documentation {page.relative_to(ROOT)}"


def test_readme_has_every_family() -> None:
    """Every metric family is in the README."""
    text = (ROOT / "README.md").read_text()
    assert [family.name for family in FAMILIES if f"| `{family.name}` |" not in text] == []


def test_readme_has_every_reason() -> None:
    """Every reason of a failed refresh is explained in the README."""
    text = (ROOT / "README.md").read_text()
    assert [reason for reason in Reason.__args__ if f"`{reason}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_blocks_are_right(page: Path) -> None:
    """Every YAML block parses, and those that configure the exporter are accepted by it."""
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        content = yaml.safe_load(block)
        if {"clouds", "refresh", "shard"} & set(content):
            config.parse(block, source=page.name)
        if {"tls_server_config", "basic_auth_users"} & set(content):
            WebConfig.model_validate(content)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prometheus_blocks_are_right(page: Path, promtool: Promtool, tmp_path: Path) -> None:
    """Every block that configures Prometheus is accepted by `promtool check config`."""
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    for block in blocks:
        if {"scrape_configs", "remote_write", "global"} & set(yaml.safe_load(block)):
            (tmp_path / "prometheus.yml").write_text(block)
            code, output = promtool("check", "config", str(tmp_path / "prometheus.yml"))
            assert code == 0, output


def test_flags_and_commands_are_in_the_readme() -> None:
    """Every command and every flag of `serve` is in the README, and every flag it names exists."""
    text = (ROOT / "README.md").read_text()
    commands = cli.main.commands
    assert [name for name in commands if f"`{name}`" not in text] == []
    flags = {option for command in commands.values() for each in command.params for option in each.opts}
    assert [option for each in commands["serve"].params for option in each.opts if option not in text] == []
    assert set(re.findall(r"`(--[a-z.-]+)", text)) <= flags | {"--version"}
    for name in commands:
        assert CliRunner().invoke(cli.main, [name, "--help"]).exit_code == 0


def test_make_targets_of_the_readme_exist() -> None:
    """Every `make` command that a page names is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"^make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets


def test_nothing_names_a_registry() -> None:
    """No requirements file holds an address, and every line of a pin has its hash."""
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert not re.search(r"https?://|index-url", text), path
        assert len(re.findall(r"^[a-z0-9_.,[\]-]+==", text, re.MULTILINE)) == len(
            re.findall(r"^[a-z].*\\$", text, re.MULTILINE)
        )


def test_pins_are_within_the_ranges() -> None:
    """Every dependency of pyproject.toml is pinned."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime, test = ((ROOT / f"requirements/{name}.txt").read_text() for name in ("runtime", "test"))
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=]", requirement)[0].lower()
        assert re.search(rf"^{re.escape(name)}==", runtime, re.MULTILINE), name
        assert re.search(rf"^{re.escape(name)}==", test, re.MULTILINE), name


def test_imports_run_one_way() -> None:
    """The core is imported without any of the edge: no sockets, no command line, no client library."""
    code = (
        "import sys, exporter.families, exporter.fold, exporter.snapshot, exporter.state, exporter.listing;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}"
        " & {'aiohttp', 'click', 'keystoneauth1', 'openstack', 'asyncio'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
