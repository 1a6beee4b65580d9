"""What a release is made of: wheel, sdist and the bill of materials, built and installed for real."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from email.parser import BytesParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from exporter import __version__
from release import sbom
from tests.programs.installed import same_page, serving, simulated, totals
from tests.programs.process import free_port

ROOT = Path(__file__).parent.parent
EPOCH = 1_767_225_600
"""SOURCE_DATE_EPOCH of the builds here."""

NAME = f"heat_deployment_exporter-{__version__}"
PRIVATE = re.compile(rb"/(?:root|home|tmp|work)/[\w.-]|\bpy(?:pi|thonhosted)[.]", re.ASCII)
"""Folders of a machine, and hosts of a registry."""


def sources(folder: Path) -> Path:
    """A copy of the source tree, without what git ignores."""
    shutil.copytree(
        ROOT,
        folder,
        symlinks=True,
        ignore=lambda path, names: {
            name
            for name in names
            if name in {".venv", ".cache", "dist", "__pycache__"}
            or re.search(r"^\.(git|\w+_cache|hypothesis|coverage.*)$", name)
        },
    )
    return folder


def built(source: Path, target: Path, **environment: str) -> list[Path]:
    """The wheel and the sdist of a source tree, with the pinned build requirements and no network to ask."""
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(target)],
        cwd=source,
        env={**os.environ, **offline, "SOURCE_DATE_EPOCH": str(EPOCH), **environment},
        check=True,
        capture_output=True,
        timeout=120,
    )
    return sorted(target.iterdir())


def digests(files: list[Path]) -> dict[str, str]:
    """Name and SHA-256 of files."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


class Packages(NamedTuple):
    """One build."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """The packages of this source tree."""
    folder = tmp_path_factory.mktemp("packages")
    sdist, wheel = sorted(built(sources(folder / "source"), folder / "dist"), key=lambda path: path.suffix)
    return Packages(wheel, sdist)


def test_builds_are_the_same_everywhere(packages: Packages, tmp_path: Path):
    """Another folder, other file times and modes, another umask, time zone and hash seed: the same bytes."""
    other = sources(tmp_path / "a longer name" / "of another folder")
    for number, path in enumerate(sorted(other.rglob("*"))):
        if path.is_file():
            path.chmod(path.stat().st_mode & stat.S_IXUSR | 0o600)
            os.utime(path, (number, 86_400 * number))
    before = os.umask(0o077)
    try:
        second = built(other, tmp_path / "dist", TZ="Pacific/Auckland", PYTHONHASHSEED="7", LC_ALL="C")
    finally:
        os.umask(before)
    assert digests(second) == digests([packages.sdist, packages.wheel])


def test_make_dist_makes_them(packages: Packages, tmp_path: Path):
    """`make dist` makes these very packages and the bill, and their digests are right."""
    source = sources(tmp_path / "source")
    environment = Path(sys.prefix)
    # The environment that runs this test is taken as it is.
    command = ["make", "-o", f"{environment}/.runtime", f"VENV={environment}", "dist"]
    settings = {"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": str(EPOCH)}
    subprocess.run(command, cwd=source, env=settings, check=True, capture_output=True, timeout=120)
    made = {path.name: path for path in (source / "dist").iterdir()}
    assert digests([made[packages.sdist.name], made[packages.wheel.name]]) == digests([packages.sdist, packages.wheel])
    assert made.keys() == {packages.sdist.name, packages.wheel.name, "heat-deployment-exporter.cdx.json", "SHA256SUMS"}
    listed = dict(reversed(line.split()) for line in made.pop("SHA256SUMS").read_text().splitlines())
    assert listed == digests(list(made.values()))


def test_a_wheel_of_the_sdist_is_the_same(packages: Packages, tmp_path: Path):
    """Who builds from the sdist gets the wheel that is released."""
    subprocess.run(["tar", "-xf", packages.sdist, "-C", tmp_path], check=True, timeout=60)
    again = built(tmp_path / NAME, tmp_path / "dist")
    assert digests(again) == digests([packages.sdist, packages.wheel])


def test_files_bear_the_date_of_the_release(packages: Packages):
    """Every file is of SOURCE_DATE_EPOCH, belongs to nobody, and can be read by all."""
    with zipfile.ZipFile(packages.wheel) as archive:
        date = datetime.fromtimestamp(EPOCH, UTC).timetuple()[:6]
        assert {info.date_time for info in archive.infolist()} == {date}
        assert {info.external_attr >> 16 & 0o777 for info in archive.infolist()} <= {0o644, 0o755}
    with tarfile.open(packages.sdist) as archive:
        assert {(info.mtime, info.uid, info.gid, info.uname) for info in archive} == {(EPOCH, 0, 0, "")}
        assert {info.mode & 0o777 for info in archive if info.isfile()} <= {0o644, 0o755}


def test_the_wheel_has_the_exporter_and_nothing_else(packages: Packages):
    """Every module and every asset of the pages, the licence, no tests and no other package."""
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "exporter").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"exporter/ui/web_assets/pages.css", "exporter/ui/web_assets/pages.js"} < expected
    with zipfile.ZipFile(packages.wheel) as archive:
        names = set(archive.namelist())
        metadata = BytesParser().parsebytes(archive.read(f"{NAME}.dist-info/METADATA"))
    information = {name for name in names if name.startswith(f"{NAME}.dist-info/")}
    assert names - information == expected
    assert f"{NAME}.dist-info/licenses/LICENSE" in information
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_sdist_has_what_the_tests_need(packages: Packages):
    """Sources, tests, documentation and pins are in it; what lies about in a working copy is not."""
    with tarfile.open(packages.sdist) as archive:
        names = {info.name.removeprefix(f"{NAME}/") for info in archive if info.isfile()}
    needed = {
        "tests/conftest.py",
        "requirements/runtime.txt",
        "docs/scaling.md",
        "Makefile",
        ".ci/run",
        "LICENSE",
        "SECURITY.md",
    }
    shipped = {"Dockerfile", ".dockerignore", "deploy/image/healthy.py", ".github/workflows/release.yml"}
    shipped |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "deploy" / "systemd").iterdir()}
    assert "deploy/systemd/heat-deployment-exporter.socket" in shipped
    assert needed | shipped | {"exporter/__init__.py", "release/sbom.py", "pyproject.toml", "README.md"} <= names
    assert [
        name for name in names if re.search(r"(^|/)(\.venv|\.git|\.cache|__pycache__|dist)(/|$)|\.pyc$", name)
    ] == []


def test_the_wheel_names_no_machine(packages: Packages):
    """No file of the wheel names a folder of the machine that built it, or a registry."""
    with zipfile.ZipFile(packages.wheel) as archive:
        for name in archive.namelist():
            assert not PRIVATE.search(archive.read(name)), name


def test_the_version_stands_in_one_place():
    """The version is that of exporter/__init__.py; no other file that is released repeats it."""
    places = [ROOT / "pyproject.toml", ROOT / "Makefile", *ROOT.glob("release/*.py"), *ROOT.glob("exporter/**/*.py")]
    assert [path.name for path in places if f'"{__version__}"' in path.read_text()] == ["__init__.py"]


@pytest.fixture(scope="module")
def command(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The command of a virtual environment that has the wheel and, by hash, the pinned runtime requirements."""
    folder = tmp_path_factory.mktemp("venv")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    steps = (
        [sys.executable, "-m", "venv", str(folder)],
        [*pip, "install", "--require-hashes", "--only-binary=:all:", "-r", str(ROOT / "requirements" / "runtime.txt")],
        [*pip, "install", "--no-index", "--no-deps", str(packages.wheel)],
        [*pip, "check"],
    )
    for step in steps:
        # From a folder without the sources: what is imported is what was installed.
        done = subprocess.run(step, cwd=folder, check=False, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
    yield str(folder / "bin" / "heat-deployment-exporter")
    shutil.rmtree(folder)


def test_the_installed_command_works(command: str, tmp_path: Path):
    """The wheel, installed alone, knows its version, checks a cloud, and serves the page that the sources serve."""
    done = subprocess.run([command, "--version"], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60)
    assert __version__ in done.stdout.split()
    with simulated([command]) as clouds:
        cloud = {"OS_CLOUD": "simulator", "OS_CLIENT_CONFIG_FILE": str(clouds)}
        checked = subprocess.run(
            [command, "check"], cwd=tmp_path, env=cloud, check=False, capture_output=True, text=True, timeout=120
        )
        assert checked.returncode == 0, checked.stderr
        assert checked.stdout.count(" fresh ") == 4
        mine, sources_own = free_port(), free_port()
        ours = [sys.executable, "-m", "exporter", "serve", f"--web.listen-address=127.0.0.1:{sources_own}"]
        with (
            serving([command, "serve", f"--web.listen-address=127.0.0.1:{mine}"], mine, **cloud) as installed,
            serving(ours, sources_own, **cloud, PYTHONPATH=str(ROOT)) as unpackaged,
        ):
            assert {"heat_software_deployments", "process_max_fds"} < same_page(installed, unpackaged)
            assert sum(totals(installed).values()) == 400


# -- the bill of materials


@pytest.fixture(scope="module")
def bill() -> Any:
    """The bill of the pinned runtime requirements."""
    return sbom.bill(sbom.PINS.read_text(), {"SOURCE_DATE_EPOCH": str(EPOCH)})


def printed(folder: Path, **environment: str) -> bytes:
    """What `python -m release.sbom` prints, called from a folder."""
    return subprocess.run(
        [sys.executable, "-m", "release.sbom"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), **environment},
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout


def test_the_bill_is_cyclonedx():
    """What is printed is valid by the strict schema of CycloneDX 1.6."""
    text = printed(ROOT, SOURCE_DATE_EPOCH=str(EPOCH)).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert '"timestamp": "2026-01-01T00:00:00+00:00"' in text


def test_the_bill_has_every_pin_and_who_needs_it(bill: Any):
    """Each pinned package is a component, reached from the exporter; the direct ones are those of pyproject.toml."""
    pinned = re.findall(r"^([a-z0-9._-]+)==([^ ;]+)", sbom.PINS.read_text(), re.MULTILINE)
    assert [(each["name"], each["version"]) for each in bill["components"]] == pinned
    needs = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    root = bill["metadata"]["component"]["purl"]
    assert root == f"pkg:pypi/heat-deployment-exporter@{__version__}"
    text = (ROOT / "pyproject.toml").read_text()
    direct = re.findall(r'^    "([\w-]+)[<>=]', text.partition("dependencies = [")[2].partition("]")[0], re.MULTILINE)
    assert {re.sub(r"pkg:pypi/|@.*", "", each) for each in needs[root]} == {name.lower() for name in direct}
    reached, ahead = set(), [root]
    while ahead:
        each = ahead.pop()
        if each not in reached:
            reached.add(each)
            ahead += needs[each]
    assert reached == set(needs) == {root, *(each["purl"] for each in bill["components"])}


def test_the_bill_is_the_same_everywhere(tmp_path: Path):
    """Two folders print the same bill, which names no folder and no registry."""
    first = printed(ROOT)
    assert first == printed(sources(tmp_path / "elsewhere"))
    assert not PRIVATE.search(first)


def test_the_serial_number_is_that_of_the_contents(bill: Any):
    """Another version of a single package is another bill."""
    text = sbom.PINS.read_text()
    other = sbom.bill(re.sub(r"(?m)^idna==\S+", "idna==0.1", text), {"SOURCE_DATE_EPOCH": str(EPOCH)})
    assert other["serialNumber"] != bill["serialNumber"]


def test_a_line_that_is_no_pin_is_refused():
    """A requirement that the bill could not name fails instead of being left out."""
    with pytest.raises(ValueError, match="neither a pin"):
        sbom.pins(sbom.PINS.read_text() + "\nsomething @ file:///somewhere\n")
