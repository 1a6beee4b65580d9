"""The documentation says what the code does."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from docs.documentation import TABLES, renewed
from exporter.cli import commands
from exporter.collector.collector import Collector
from exporter.common.errors import Reason
from exporter.config import schema
from exporter.metrics.families import FAMILIES
from exporter.web.app import Server
from tests.pages import NODE, PAGES, ROOT, functions_of, rows
from tests.queries import SAMPLES, names, rules, targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_the_code_s(page: Path) -> None:
    """The tables of metrics and of configuration keys are as the code has them."""
    text = page.read_text()
    assert renewed(text) == text, "renew it: python -m docs.documentation"


def test_every_table_is_on_a_page() -> None:
    """Each table that is made from code is on exactly one page."""
    for name in TABLES:
        assert len([page for page in PAGES if f"<!-- begin {name} -->" in page.read_text()]) == 1, name


def test_what_a_few_servers_spare_is_told_alike() -> None:
    """README and docs/scaling.md have the same table of `servers.ids`, each with its command, and docs/configuration.md
    the same figures in a sentence."""
    tables = []
    for page in ("README.md", "docs/scaling.md"):
        text = (ROOT / page).read_text()
        (table,) = re.findall(r"^ *\| \| whole listing \|.*\n(?: *\|.*\n)+", text, re.MULTILINE)
        tables.append([line.strip() for line in table.splitlines()])
        assert "python -m bench.servers" in text
    assert tables[0] == tables[1]
    assert len(tables[0]) == 4
    cells = re.fullmatch(r"\| real Heat 19 \| ([\d.]+) MB in (.+ s) \| (.+ kB) in (.+ s) \|", tables[0][2])
    assert cells is not None
    sentence = f"real Heat 19 {cells[3]} and {cells[4]} instead of {float(cells[1]):.0f} MB and {cells[2]}"
    assert sentence in " ".join((ROOT / "docs" / "configuration.md").read_text().split())


def test_every_family_is_documented() -> None:
    """Every metric family is in docs/metrics.md; the README's overview and all other pages name none that is not."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert [family.name for family in FAMILIES if f"| `{family.name}` |" not in text] == []
    for page in PAGES:
        named = re.findall(r"`(heat_[a-z_]+[a-z])`", page.read_text())
        assert set(named) <= SAMPLES | {family.name for family in FAMILIES}, page


def test_every_reason_is_explained() -> None:
    """Every reason of a failed refresh has a row in docs/metrics.md and one in docs/troubleshooting.md."""
    for page in ("metrics.md", "troubleshooting.md"):
        table = rows(ROOT / "docs" / page, "reason")
        explained = [reason for cells in table for reason in re.findall(r"`([a-z_]+)`", cells[0])]
        assert sorted(explained) == sorted(Reason.__args__), page
        assert all(cell for cells in table for cell in cells)


def test_commands_are_documented() -> None:
    """Every command is in docs/commands.md, every flag with its variable in docs/configuration.md; all have a help."""
    described = commands.main.commands
    table = rows(ROOT / "docs" / "commands.md", "command")
    assert [cells[0] for cells in table] == [f"`{name}`" for name in described]
    text = (ROOT / "docs" / "configuration.md").read_text()
    for command in described.values():
        for option in command.params:
            assert f"| `{option.opts[0]}` | `{option.envvar}` |" in text
    for name in described:
        assert CliRunner().invoke(commands.main, [name, "--help"]).exit_code == 0


def test_a_variable_may_hold_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag that may be repeated has a variable with spaces between its values, and goes before it."""
    monkeypatch.setenv("HEAT_DEPLOYMENT_EXPORTER_WEB_LISTEN_ADDRESS", "127.0.0.1:1 [::1]:2")
    for arguments, expected in (([], ("127.0.0.1:1", "[::1]:2")), (["--web.listen-address", ":3"], (":3",))):
        context = commands.main.commands["serve"].make_context("serve", [*arguments])
        assert context.params["web_listen_address"] == expected


def test_paths_are_documented() -> None:
    """Every path that is served is in docs/http.md, but for what its pages load by themselves."""
    table = rows(ROOT / "docs" / "http.md", "path")
    documented = {path for cells in table for path in re.findall(r"`(?:POST )?(/[^?`]*)", cells[0])}
    application = Server(Collector(schema.Config())).app
    served = {resource.canonical for resource in application.router.resources()}
    assert served - documented == {"/updates", "/assets/{name}"}
    assert documented <= served


def test_only_stable_families_are_relied_on() -> None:
    """Dashboards and rules use no family that may still change."""
    changing = {name for family in FAMILIES if family.stability != "STABLE" for name in family.sample_names()}
    used = {name for rule in (*rules("alert").values(), *rules("record").values()) for name in names(rule["expr"])}
    assert not changing & (used | {name for target in targets() for name in names(target.expr)})


@pytest.mark.parametrize("page", [page for page in PAGES if NODE.search(page.read_text())], ids=lambda page: page.name)
def test_tests_that_are_named_exist(page: Path) -> None:
    """Every test that a page names, by its file and name, is there."""
    for file, name in NODE.findall(page.read_text()):
        assert name in functions_of(file), f"{file}{name}"


@pytest.mark.parametrize(("page", "heading"), [("docs/reliability.md", "promise"), ("SECURITY.md", "claim")])
def test_what_is_promised_is_tested(page: str, heading: str) -> None:
    """Every promise of docs/reliability.md and every claim of SECURITY.md names the test that holds it."""
    table = rows(ROOT / page, heading)
    assert len(table) > 10
    assert [promise for promise, held in table if not NODE.search(held)] == []


def test_nothing_names_a_registry() -> None:
    """No requirements file holds an address, and every line of a pin has its hash."""
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert not re.search(r"https?://|index-url", text), path
        assert len(re.findall(r"^[a-z0-9_.-]+(?:\[[a-z0-9,_-]+\])?==", text, re.MULTILINE)) == len(
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
        "import sys, exporter.metrics.families, exporter.deployments.aggregator, exporter.deployments.snapshot,"
        " exporter.deployments.state, exporter.openstack.decoder;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}"
        " & {'aiohttp', 'click', 'keystoneauth1', 'openstack', 'asyncio'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""
