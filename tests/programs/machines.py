"""Bare Debian 12 machines, as root file systems, to try `make test` on as users would.

    .venv/bin/python -m tests.programs.machines                      every machine, one after the other
    .venv/bin/python -m tests.programs.machines user root            these
    … user --tests tests/test_units.py -x                            with these arguments for pytest

Each run is of a fresh clone of the last commit in a fresh copy of the machine, and ends with the exit status of
`make test`. Needs root and mmdebstrap.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.programs import available, newer, pip

USER = "user"
"""The ordinary user of every machine."""
BASE = ("python3", "python3-venv", "make")
"""What the README asks for."""
SOME_PROGRAMS = ("curl", "prometheus", "prometheus-node-exporter", "systemd", "chromium", "libatomic1", "nodejs", "npm")
ALL_PROGRAMS = sorted({package for program in available.PROGRAMS.values() for package in program.packages})
NOWHERE = "http://127.0.0.1:9/debian"
"""An address of a mirror that nobody answers at."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, and who runs `make test` on it."""

    name: str
    packages: tuple[str, ...] = ()
    """What is installed besides `BASE`."""
    root: bool = True
    mirror: bool = True
    """Whether apt reaches its mirror."""

    @property
    def folder(self) -> newer.Folder:
        """Its root file system."""
        return newer.Folder(
            f"machine-{self.name}",
            (*BASE, *self.packages),
            ("/usr/bin/python3", "-c", "import ensurepip"),
            variant="required",
            release="bookworm",
        )


MACHINES = {
    machine.name: machine
    for machine in (
        Machine("user", root=False),
        Machine("user-with-programs", SOME_PROGRAMS, root=False),
        Machine("root-without-mirror", ("mmdebstrap",), mirror=False),
        Machine("root", ("mmdebstrap",)),
        # Without mmdebstrap there are no newest releases.
        Machine("root-with-programs", tuple(name for name in ALL_PROGRAMS if name != "mmdebstrap")),
    )
}

ENTER = """\
root=$1; shift
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
cp /etc/resolv.conf "$root/etc/resolv.conf"
mkdir -p "$root$(dirname "$4")"
cp "$4" "$root$4"
cp "$2/pip.conf" "$root/etc/pip.conf"
chroot "$root" useradd --create-home user
mv "$2/checkout" "$root$5/"
echo "127.0.0.1 localhost" >"$root/etc/hosts"
if [ -n "$3" ]; then echo "deb $3 bookworm main" >"$root/etc/apt/sources.list"; fi
chroot "$root" chown -R "$6:$6" "$5"
shift 6
exec chroot "$root" "$@"
"""


@contextmanager
def _prepared() -> Iterator[Path]:
    """A folder with a clone of the last commit and pip's settings, and room for what a machine writes."""
    newer.home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="running-", dir=newer.home()) as name:
        folder = Path(name)
        for each in ("upper", "work", "root"):
            (folder / each).mkdir()
        clone = ["git", "clone", "--quiet", "--no-hardlinks", str(newer.CHECKOUT), str(folder / "checkout")]
        subprocess.run(clone, check=True, timeout=120)
        (folder / "pip.conf").write_text(pip.settings())
        yield folder


def run(machine: Machine, *tests: str, timeout: float = 3600.0) -> "subprocess.CompletedProcess[str]":
    """Runs `make test` on the machine; its output has both streams."""
    root = newer.made(machine.folder)
    home = "/root" if machine.root else f"/home/{USER}"
    variables = {"HOME": home, "PATH": newer.PATH, "LANG": "C.UTF-8", "TERM": "dumb"}
    # What tells programs here whom to trust tells them so there.
    variables |= {name: value for name, value in os.environ.items() if value == str(pip.AUTHORITIES)}
    owner = "root" if machine.root else USER
    identity = [] if machine.root else ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups"]
    call = shlex.join(["make", "test", *([f"TESTS={shlex.join(tests)}"] if tests else [])])
    with _prepared() as folder:
        command = [
            *newer.private("--pid", "--fork", "--kill-child"),
            *("/bin/sh", "-euc", ENTER, "sh", str(folder / "root"), str(root), str(folder)),
            *(NOWHERE if not machine.mirror else "", str(pip.AUTHORITIES), home, owner),
            *identity,
            *("env", "-i", *(f"{name}={value}" for name, value in variables.items())),
            *("sh", "-c", f"cd {home}/checkout && {call}"),
        ]
        return subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )


def main() -> int:
    """Runs what the arguments say; the exit status is 1 if `make test` failed anywhere."""
    parser = argparse.ArgumentParser(description="Run make test on bare machines.")
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help=f"of {', '.join(MACHINES)} (default: all)")
    parser.add_argument("--tests", nargs=argparse.REMAINDER, default=(), help="what is handed to pytest, to the end")
    arguments = parser.parse_args()
    failed = []
    for name in arguments.machines or MACHINES:
        done = run(MACHINES[name], *arguments.tests)
        sys.stdout.write(f"{done.stdout}\n{name}: make test ended with {done.returncode}\n")
        if done.returncode:
            failed.append(name)
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else "every machine passed\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
