"""The programs from outside that the tests run, in two releases: the machine's own and the newest.

Uses nothing but the standard library: `.ci/run` calls this module before anything is installed.
"""

import os
import sys
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from tests.programs import newer

OLDEST, NEWEST = "oldest", "newest"
"""The releases: those of Debian 12, installed on the machine, and those of `newer`, in a folder."""

LIBRARIES = Path("/usr/lib") / (sysconfig.get_config_var("MULTIARCH") or "")
LEFT_OUT = "left out: "
"""How the reason of every skip begins that is due to a missing program."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program is there when all of its files are; the Debian packages bring them."""

    name: str
    files: tuple[str, ...]
    packages: tuple[str, ...]
    folder: str = ""
    """Where `newer` has its newest release; none where that is not run."""
    root: Path | None = None
    """The folder that this release is in; None: it is installed on the machine."""

    @property
    def missing(self) -> list[str]:
        """The files that are not there, none for a program that can be run."""
        return [file for file in self.files if not Path(file).exists()]

    def command(self, *arguments: str) -> list[str]:
        """The call that runs its first file; a release in a folder runs there, whatever the machine has installed."""
        call = [self.files[0], *arguments]
        return call if self.root is None else newer.with_our_files(self.root, *call)


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
            "openstack",
        ),
        Program("prometheus", ("/usr/bin/prometheus",), ("prometheus",), "prometheus"),
        Program("promtool", ("/usr/bin/promtool",), ("prometheus",), "prometheus"),
        Program("alertmanager", ("/usr/bin/prometheus-alertmanager",), ("prometheus-alertmanager",), "prometheus"),
        Program("amtool", ("/usr/bin/amtool",), ("prometheus-alertmanager",)),
        Program("curl", ("/usr/bin/curl",), ("curl",)),
        Program("node_exporter", ("/usr/bin/prometheus-node-exporter",), ("prometheus-node-exporter",), "prometheus"),
        Program("victoriametrics", ("/usr/bin/victoria-metrics",), ("victoria-metrics",), "prometheus"),
        Program("python", ("/usr/bin/python3",), ("python3",), "python"),
        Program("mmdebstrap", (newer.MMDEBSTRAP,), ("mmdebstrap",)),
        Program("buildah", ("/usr/bin/buildah", "/usr/bin/mmdebstrap"), ("buildah", "mmdebstrap")),
        Program("npm", ("/usr/bin/node", "/usr/bin/npm"), ("nodejs", "npm")),
        Program("systemd-analyze", ("/usr/bin/systemd-analyze",), ("systemd",)),
        # The program that drives it (Playwright's) needs the library.
        Program("chromium", ("/usr/bin/chromium", f"{LIBRARIES}/libatomic.so.1"), ("chromium", "libatomic1")),
    )
}


BASE_MINUTES = 4.0
"""How long the tests take that need no program, on two cores."""
MINUTES = {"openstack": 0.8, "prometheus": 0.4, "buildah": 0.6, "chromium": 0.3}
"""What each release of a program adds to that; others add less than half a minute."""
FOLDER_MINUTES = 0.7
"""What the folder of some newest releases adds when it is made."""


def require(name: str, release: str = OLDEST) -> Program:
    """The program; without it the calling test is left out."""
    try:
        return find(name, release)
    except newer.NotMade as missing:
        reason = str(missing)
    leave_out(reason)


def leave_out(reason: str) -> NoReturn:
    """Skips the calling test, or fails it where CI=true: there nothing is left out, on any Python."""
    import pytest  # here: `.ci/run` has none yet

    if os.environ.get("CI") == "true":
        pytest.fail(f"{LEFT_OUT}{reason}", pytrace=False)
    pytest.skip(f"{LEFT_OUT}{reason}")


def releases(name: str) -> list[Any]:
    """Both releases, as parameters of a fixture or a test.

    The newest bears the mark `newer`, by which its folder is made before the first test begins.
    """
    import pytest

    return [OLDEST, pytest.param(NEWEST, marks=pytest.mark.newer(PROGRAMS[name].folder))]


def find(name: str, release: str = OLDEST) -> Program:
    """The program with its files where they are; raises `NotMade` where they are not."""
    program = PROGRAMS[name]
    if release == NEWEST:
        try:
            return replace(program, root=newer.folder(program.folder))
        except newer.NotMade as missing:
            raise newer.NotMade(f"{name}, {NEWEST} release: {missing}") from None
    if program.missing:
        raise newer.NotMade(f"{name} is missing (Debian: apt-get install {' '.join(program.packages)})")
    return program


def missing_packages() -> list[str]:
    """The Debian packages of all programs that are missing, each once."""
    return sorted({package for program in PROGRAMS.values() if program.missing for package in program.packages})


def overview() -> list[str]:
    """What a whole run has and lacks, and about how many minutes it takes on two cores."""
    present = [program for program in PROGRAMS.values() if not program.missing]
    newest = [program for program in PROGRAMS.values() if program.folder] if newer.obstacle() is None else []
    minutes = BASE_MINUTES + sum(MINUTES.get(program.name, 0.0) for program in (*present, *newest))
    lines = [f"programs of this machine: {_names(present)}", f"newest releases: {_names(newest)}"]
    if packages := missing_packages():
        lines.append(
            f"tests of the programs that are missing are skipped (Debian: apt-get install {' '.join(packages)})"
        )
    if (reason := newer.obstacle()) is not None:
        lines.append(f"tests of newest releases are skipped: {reason}")
    elif unmade := [each.name for each in newer.FOLDERS.values() if not each.path.exists()]:
        minutes += len(unmade) * FOLDER_MINUTES
        lines.append(f"the newest releases are installed once, into {newer.home()}: {', '.join(unmade)}")
    return [*lines, f"all tests take about {minutes:.0f} minutes on two cores"]


def _names(programs: list[Program]) -> str:
    return ", ".join(program.name for program in programs) or "none"


if __name__ == "__main__":
    sys.stdout.write(" ".join(missing_packages()) + "\n")
