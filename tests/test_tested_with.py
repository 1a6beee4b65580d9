"""The README's table of what this is tested with: each version is the one that the program reports in this very run."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.programs import newer, newest_python
from tests.programs.available import NEWEST, OLDEST, releases, require

ROOT = Path(__file__).parent.parent
PYTHON = "/usr/bin/python3"
PROGRAMS = {
    "keystone": ("Keystone", "openstack", (PYTHON, "/usr/bin/keystone-manage", "--version")),
    "heat": ("Heat", "openstack", (PYTHON, "/usr/bin/heat-manage", "--version")),
    "prometheus": ("Prometheus and promtool", "prometheus", ("/usr/bin/prometheus", "--version")),
    "promtool": ("Prometheus and promtool", "promtool", ("/usr/bin/promtool", "--version")),
    "alertmanager": ("Alertmanager", "alertmanager", ("/usr/bin/prometheus-alertmanager", "--version")),
    # Debian builds it without a version of its own.
    "victoriametrics": (
        "VictoriaMetrics",
        "victoriametrics",
        ("/usr/bin/dpkg-query", "--show", "--showformat=${Version}", "victoria-metrics"),
    ),
    "node_exporter": ("node_exporter", "node_exporter", ("/usr/bin/prometheus-node-exporter", "--version")),
}
"""By name: the row, the program as tests ask for it, and how it tells its version."""


def rows() -> dict[str, dict[str, str]]:
    """The cells of the table, by row and release."""
    section = (ROOT / "README.md").read_text().split("\n## Tested with\n")[1].split("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*", section, re.MULTILINE)
    ]
    return {name: {OLDEST: oldest, NEWEST: newest} for name, oldest, newest in cells[2:]}


def reported(program: str, release: str, command: tuple[str, ...]) -> str:
    """The version that a command of a release prints."""
    call = list(command)
    folder = require(program, release).folder
    if release == NEWEST:
        call = newer.inside(newer.folder(folder), *command)
    done = subprocess.run(
        call, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, env=newer.ENVIRONMENT
    )
    # Warnings and what it was built with stand on lines of their own.
    match = re.search(r"^(?:\w+, version |Python )?(\d+(?:\.\d+)+)", done.stdout.decode(), re.MULTILINE)
    assert match is not None, done.stdout
    return match[1]


def test_the_table_has_these_rows() -> None:
    """Every program that the tests run in two releases has a row, and Python; there are no others."""
    assert set(rows()) == {row for row, _, _ in PROGRAMS.values()} | {"Python"}


@pytest.mark.parametrize("release", releases("prometheus"))
@pytest.mark.parametrize("name", [name for name, (_, program, _) in PROGRAMS.items() if program != "openstack"])
def test_a_version_is_what_the_program_says(name: str, release: str) -> None:
    """Each version of the table, as exact as it stands there, is the one that runs here."""
    row, program, command = PROGRAMS[name]
    assert f"{reported(program, release, command)}.".startswith(f"{rows()[row][release]}.")


@pytest.mark.parametrize("release", releases("openstack"))
@pytest.mark.parametrize("name", ["keystone", "heat"])
def test_a_service_s_version_is_what_it_says(name: str, release: str) -> None:
    """So for Keystone and Heat."""
    test_a_version_is_what_the_program_says(name, release)


def test_the_oldest_python_is_the_oldest_allowed() -> None:
    """The package asks for it, and nothing older runs this."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={rows()['Python'][OLDEST]}"
    assert sys.version_info >= tuple(map(int, rows()["Python"][OLDEST].split(".")))


@pytest.mark.parametrize("release", releases("python")[1:])
def test_the_newest_python_is_the_one_of_make_test_newest(release: str, tmp_path: Path) -> None:
    """It says so, and is a Python of this machine like any other.

    It makes environments whose scripts run on it, trusts the authorities that the machine trusts, and what it starts
    has nothing of its own.
    """
    require("python", release)
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}

    def said(*command: str) -> str:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120, env=environment)
        return done.stdout

    python = str(newest_python.program())
    assert f"{said(python, '--version').split()[1]}.".startswith(f"{rows()['Python'][release]}.")
    said(python, "-m", "venv", str(tmp_path / "venv"))
    assert f"(python {rows()['Python'][release]})" in said(str(tmp_path / "venv" / "bin" / "pip"), "--version")
    code = "import ssl; print(ssl.get_default_verify_paths().capath)"
    assert Path(said(python, "-c", code).strip()).samefile("/etc/ssl/certs")
    code = "import subprocess, sys; subprocess.run(['/usr/bin/env'], check=True)"
    code += "; subprocess.run([sys.executable, '-c', 'import _ssl, sys; print(sys.version)'], check=True)"
    assert said(python, "-c", code) == said("/usr/bin/env") + said(python, "-c", "import sys; print(sys.version)")
