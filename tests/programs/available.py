"""The programs from outside that the tests run, and where to get them.

Uses nothing but the standard library: `.ci/run` calls this file before anything is installed.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

LEFT_OUT = "left out: "
"""How the reason of every skip begins that is due to a missing program."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program is there when all of its files are; the Debian packages bring them."""

    name: str
    files: tuple[str, ...]
    packages: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """The files that are not there, none for a program that can be run."""
        return [file for file in self.files if not Path(file).exists()]


PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "openstack",
            (
                "/usr/bin/keystone-manage",
                "/usr/bin/keystone-wsgi-public",
                "/usr/bin/heat-manage",
                "/usr/bin/heat-all",
                "/etc/heat/api-paste.ini",
            ),
            ("keystone", "heat-api", "heat-engine"),
        ),
        Program("prometheus", ("/usr/bin/prometheus",), ("prometheus",)),
        Program("promtool", ("/usr/bin/promtool",), ("prometheus",)),
        Program("alertmanager", ("/usr/bin/prometheus-alertmanager",), ("prometheus-alertmanager",)),
        Program("amtool", ("/usr/bin/amtool",), ("prometheus-alertmanager",)),
        Program("curl", ("/usr/bin/curl",), ("curl",)),
        Program("node_exporter", ("/usr/bin/prometheus-node-exporter",), ("prometheus-node-exporter",)),
        Program("buildah", ("/usr/bin/buildah", "/usr/bin/mmdebstrap"), ("buildah", "mmdebstrap")),
        Program("npm", ("/usr/bin/node", "/usr/bin/npm"), ("nodejs", "npm")),
        Program("systemd-analyze", ("/usr/bin/systemd-analyze",), ("systemd",)),
        Program("chromium", ("/usr/bin/chromium",), ("chromium",)),
    )
}


def require(name: str) -> Program:
    """The program; without it the calling test is skipped, or fails where CI=true: there nothing is left out."""
    import pytest  # here: `.ci/run` has none yet

    program = PROGRAMS[name]
    if program.missing:
        reason = f"{LEFT_OUT}{name} is missing (Debian: apt-get install {' '.join(program.packages)})"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return program


def missing_packages() -> list[str]:
    """The Debian packages of all programs that are missing, each once."""
    return sorted({package for program in PROGRAMS.values() if program.missing for package in program.packages})


if __name__ == "__main__":
    sys.stdout.write(" ".join(missing_packages()) + "\n")
