"""What the exporter is made of: each dependency pinned by hash, under a licence that is known, none known to be bad."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release import advisories
from release.sbom import PINS, pins
from tests.pages import ROOT
from tests.programs.available import leave_out

FILES = sorted((ROOT / "requirements").glob("*.txt"))


class Pinned(NamedTuple):
    """One entry of a requirements file."""

    requirement: Requirement
    hashes: list[str]


def pinned(text: str) -> Iterator[Pinned]:
    """The entries of a requirements file; what can't be read as one fails."""
    whole = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    for line in whole.splitlines():
        if line.strip():
            requirement, *hashes = re.split(r"\s+--hash=", line.strip())
            yield Pinned(Requirement(requirement), hashes)


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_pin_is_one_version_with_its_hashes(file: Path):
    """Each entry is one exact version with SHA-256 digests; pip takes nothing else, and no address stands there."""
    entries = [*pinned(file.read_text())]
    assert entries
    for requirement, hashes in entries:
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert requirement.url is None
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), requirement
    for python in ("3.11", "3.12", "3.13", "3.14"):
        here = {"python_version": python, "python_full_version": f"{python}.1"}
        chosen = [each for each, _ in entries if each.marker is None or each.marker.evaluate(here)]
        names = [canonicalize_name(each.name) for each in chosen]
        assert len(names) == len(set(names)), python


def test_pip_is_told_to_insist_on_hashes():
    """Wherever pins are installed, by the Makefile, the image or the documentation, pip has to compare the hashes."""
    places = [ROOT / "Makefile", ROOT / "Dockerfile", *ROOT.glob("docs/*.md"), *ROOT.glob(".github/workflows/*.yml")]
    installing = [
        line
        for path in places
        for line in path.read_text().replace("\\\n", " ").splitlines()
        if re.search(r"pip install\b.*-r ", line)
    ]
    assert len(installing) >= 4
    assert [line for line in installing if "--require-hashes" not in line] == []


ALLOWED = frozenset(
    {"apache-2.0", "bsd-2-clause", "bsd-3-clause", "isc", "mit", "mit-0", "mpl-2.0", "psf-2.0"}
)  # fmt: skip
"""Licences that may be combined with Apache-2.0 and distributed in the image."""
SPELLED = {
    "apache 2.0": "apache-2.0",
    "apache software license": "apache-2.0",
    "mit license": "mit",
    "python software foundation license": "psf-2.0",
}
"""What some packages say instead of the licence's identifier."""


def licences(name: str) -> set[str]:
    """The licences of an installed package that all hold or of which one may be chosen."""
    about = metadata(name)
    told = about.get("License-Expression") or about.get("License") or ""
    if not told or "\n" in told or len(told) > 60:
        told = " and ".join(
            each.rpartition("::")[2] for each in about.get_all("Classifier") or [] if each.startswith("License ::")
        )
    found = {each.strip(" ()").lower() for each in re.split(r"\b(?:AND|OR|and|or)\b", told)}
    return {SPELLED.get(each, each) for each in found}


def test_licences_are_known():
    """Every package that the exporter runs with is under a licence of the list."""
    seen = 0
    for pin in pins(PINS.read_text()):
        try:
            found = licences(pin.name)
        except PackageNotFoundError:
            assert pin.marker, pin
            assert not Marker(pin.marker).evaluate(), pin
            continue
        seen += 1
        assert found, pin
        assert found <= ALLOWED, f"{pin.name}: {found - ALLOWED}"
    assert seen > 30


def test_no_pin_is_known_to_be_bad():
    """No version that is pinned to run with, nor the least that pyproject.toml allows, is one of an advisory."""
    known = advisories.known()
    assert len(known) > 40
    versions = {pin.name: [pin.version] for pin in pins(PINS.read_text())}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        versions[canonicalize_name(requirement.name)] += [
            each.version for each in requirement.specifier if each.operator == ">="
        ]
    assert [
        (each.id, each.package, version)
        for each in known
        for version in versions.get(each.package, [])
        if each.affects(version)
    ] == []


@pytest.mark.parametrize(
    ("version", "bad"),
    [("1.7.3", True), ("1.7.4", False), ("1.8", True), ("1.8.2", False), ("0.1", True), ("2.0", False)],
)
def test_ranges_of_advisories(version: str, bad: bool):
    """A range has its first version and not the one that mends it; an advisory may have several."""
    advisory = advisories.Advisory("PYSEC-2021-47", "pydantic", (("1.8", "1.8.2"), ("1.7", "1.7.4"), ("0", "1.6.2")))
    assert advisory.affects(version) is bad
    assert advisories.Advisory("X", "x", (("1.0", ""),)).affects("99")


def test_advisories_are_taken_from_a_checkout(tmp_path: Path):
    """Those about what we run with are kept, with their ranges; others, withdrawn ones and those without ranges not."""

    def advisory(package: str, name: str, events: list[dict[str, str]], **more: str) -> None:
        folder = tmp_path / "vulns" / package
        folder.mkdir(parents=True, exist_ok=True)
        ranges = [{"type": "ECOSYSTEM", "events": events}, {"type": "GIT", "events": [{"introduced": "0"}]}]
        affected = [{"package": {"name": package}, "ranges": ranges}]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"id": name, "affected": affected, **more}))

    advisory("aiohttp", "A-1", [{"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "2.0"}])
    advisory("aiohttp", "A-2", [{"introduced": "0"}], withdrawn="2024-01-01T00:00:00Z")
    advisory("aiohttp", "A-3", [])
    advisory("django", "D-1", [{"introduced": "0"}])
    assert [*advisories.collected(tmp_path)] == [
        {"id": "A-1", "package": "aiohttp", "ranges": [("0", "1.0"), ("2.0", "")]}
    ]


def test_no_pin_was_withdrawn():
    """No version that is pinned to run with was withdrawn (yanked) by its makers; one that was is found."""

    def said(*requirements: str) -> str:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed"]
        done = subprocess.run([*command, *requirements], check=True, capture_output=True, text=True, timeout=240)
        return done.stderr + done.stdout

    try:
        withdrawn = said("attrs==21.1.0")
        found = said(*(f"{pin.name}=={pin.version}" for pin in pins(PINS.read_text()) if not pin.marker))
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        if os.environ.get("CI") == "true":
            raise
        leave_out("the index of packages is missing (pip can't reach it)")
    assert "yanked" in withdrawn
    assert "yanked" not in found


def test_the_audit_is_strict():
    """`make audit` asks about every requirements file, and takes a package that nobody knows for a failure."""
    [recipe] = re.findall(r"^audit:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "for file in requirements/*.txt" in recipe
    assert "--strict" in recipe
    assert "|| failed=1" in recipe
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "audit.yml").read_text())
    assert workflow["permissions"] == {}
    [job] = workflow["jobs"].values()
    assert job["permissions"] == {"contents": "read"}
    assert [step["run"] for step in job["steps"] if "make audit" in step.get("run", "")] == ["make audit"]
    assert "schedule" in workflow[True]  # YAML 1.1 takes the key `on` for a truth value


def test_the_file_of_advisories_says_what_it_is():
    """It names its source, the source's licence and the day, so that its age can be seen."""
    content = json.loads(advisories.FILE.read_text())
    assert "CC-BY" in content["source"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", content["taken"])
