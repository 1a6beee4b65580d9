"""The newest releases of programs that tests run: packages of Debian's next release, in folders of their own.

The machine is left as it is. What runs in a folder has its mounts in a namespace of its own, which ends with it:
nothing is mounted afterwards, however it ended. Folders are kept between runs and shared by those that run at once.

Uses nothing but the standard library: `.ci/run` calls this module before anything is installed.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RELEASE = "forky"
"""The Debian release whose programs are the newest."""

MMDEBSTRAP = "/usr/bin/mmdebstrap"
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
OPTIONS = (
    "--quiet",
    '--aptopt=Acquire::Check-Valid-Until "false"',  # a mirror may be a copy frozen on some day
    *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "man", "locale")),
    "--dpkgopt=force-unsafe-io",  # a folder that a crash spoils is made anew
    # No daemon starts.
    '--setup-hook=cd "$1"/; mkdir -p usr/sbin; echo "#!/bin/sh\nexit 101" | install /dev/stdin usr/sbin/policy-rc.d',
)
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_setpriv = shutil.which("setpriv", path=PATH)
GUARD = (_setpriv, "--pdeathsig", "KILL") if _setpriv else ()
"""How a command begins that ends with the thread that started it: a test run that is killed runs no finalizer."""
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
"""A plain one."""
CHECKOUT = Path(__file__).parent.parent.parent
"""The root of these sources."""
PATIENCE = 900.0
"""How many seconds making a folder may take: a slow mirror is no fault."""


class NotMade(Exception):  # noqa: N818 - a fact about the machine
    """There is no such folder, and why."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A root file system with some packages."""

    name: str
    packages: tuple[str, ...]
    proof: tuple[str, ...]
    """A command that ends well in it when it is whole."""
    variant: str = "apt"
    """What mmdebstrap puts into it besides."""
    release: str = RELEASE
    """The Debian release that the packages are of."""

    @property
    def path(self) -> Path:
        """Where it is kept: another place for other packages or options."""
        made_of = "\n".join((self.release, *OPTIONS, self.variant, *sorted(self.packages)))
        return home() / f"{self.name}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


FOLDERS = {
    folder.name: folder
    for folder in (
        Folder(
            "prometheus",
            (
                "prometheus",
                "promtool",
                "prometheus-alertmanager",
                "prometheus-node-exporter",
                "victoria-metrics",
            ),
            ("/usr/bin/promtool", "--version"),
        ),
        Folder(
            "openstack",
            ("keystone", "heat-api", "heat-engine", "python3-waitress"),
            ("/usr/bin/python3", "-c", "import keystone, heat, waitress"),
        ),
        Folder(
            "python",
            ("python3.14", "python3.14-venv"),
            ("/usr/bin/python3.14", "-c", "import ensurepip, ssl, sqlite3"),
        ),
    )
}


def home() -> Path:
    """The folder of the folders: in the user's cache, outside of the tree."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heat-deployment-exporter" / "newer"


def mirror() -> str:
    """The address that the machine itself has Debian's packages from."""
    for file in SOURCES:
        if file.is_file():
            match = re.search(r"^(?:URIs: *|deb (?:\[.*?\] )?)(\S+)", file.read_text(), re.MULTILINE)
            if match is not None:
                return match[1]
    raise NotMade("the machine's apt sources name no mirror of Debian")


def obstacle() -> str | None:
    """Why this machine can't have any folder, as far as that is known before trying."""
    if os.geteuid() != 0:
        return "only root can make and enter a folder of newer programs (sudo make test)"
    if not Path(MMDEBSTRAP).exists():
        return "mmdebstrap is missing (Debian: apt-get install mmdebstrap)"
    return _forbidden()


@cache
def _forbidden() -> str | None:
    """Why this machine does not let root enter a folder: an unprivileged container forbids mounts."""
    for program in ("mount", "unshare"):
        if shutil.which(program, path=PATH) is None:
            return f"{program} is missing (Debian: apt-get install mount util-linux)"
    tried = subprocess.run(
        [*private(), "mount", "-t", "tmpfs", "none", "/mnt"], check=False, capture_output=True, text=True, timeout=60
    )
    return f"this machine forbids mounts ({tried.stderr.strip()})" if tried.returncode else None


def folder(name: str) -> Path:
    """The folder with these programs, made where it is not there or not whole, and nobody's to remove until we end.

    What keeps it from being made is said by `NotMade`, to everyone who asks; it is tried once.
    """
    found = _answer(name)
    if isinstance(found, NotMade):
        raise found
    return found


@cache
def _answer(name: str) -> Path | NotMade:
    try:
        return made(FOLDERS[name])
    except NotMade as reason:
        return reason


def made(wanted: Folder) -> Path:
    """The path of this folder, made if it is not there or not whole; raises `NotMade`."""
    reason = obstacle()
    if reason is not None:
        raise NotMade(reason)
    path = wanted.path
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)  # open as long as this process is there
    fcntl.flock(lock, fcntl.LOCK_SH)
    try:
        if not _whole(wanted):
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _whole(wanted):  # nobody else has made it meanwhile
                _make(wanted)
            fcntl.flock(lock, fcntl.LOCK_SH)
            _remove_others(wanted)
    except NotMade:
        os.close(lock)  # others wait for it
        raise
    return path


def _whole(wanted: Folder) -> bool:
    if not wanted.path.is_dir():
        return False
    try:
        done = subprocess.run(
            inside(wanted.path, *wanted.proof), check=False, capture_output=True, timeout=60, env=ENVIRONMENT
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _make(wanted: Folder) -> None:
    path, part = wanted.path, Path(f"{wanted.path}.part")
    address = mirror()
    _remove(part)
    command = [
        # Whatever it starts ends with it.
        *private("--pid", "--fork", "--kill-child", "--mount-proc"),
        MMDEBSTRAP,
        *OPTIONS,
        f"--variant={wanted.variant}",
        f"--include={','.join(wanted.packages)}",
        wanted.release,
        str(part),
        f"deb {address} {wanted.release} main",
    ]
    try:
        subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE)
    except subprocess.SubprocessError as error:
        output = (getattr(error, "output", None) or b"").decode(errors="replace").strip()
        _remove(part)
        why = next((line for line in output.splitlines() if line.startswith("E: ")), error)
        raise NotMade(f"mmdebstrap can't make a folder of Debian {wanted.release} ({why})") from None
    _remove(path)
    part.rename(path)
    if not _whole(wanted):
        raise NotMade(f"{path} was made, but {' '.join(wanted.proof)} fails in it")


def _remove_others(wanted: Folder) -> None:
    """Takes away what older versions of this file had made, unless somebody uses it."""
    for other in wanted.path.parent.glob(f"{wanted.name}-{'[0-9a-f]' * 12}.lock"):
        if other.with_suffix("") != wanted.path:
            with other.open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                _remove(other.with_suffix(""))
                _remove(other.with_suffix(".part"))


def _remove(path: Path) -> None:
    # Should anything be mounted in it, that stays.
    subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=True)


# --- what runs in one


def private(*options: str) -> tuple[str, ...]:
    """How a command begins that has mounts of its own, and ends with who called it."""
    return (*GUARD, "unshare", "--mount", *options, "--")


ENTER = """\
root=$1; shift
mkdir -p "$root/dev" "$root/proc"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
while [ "$1" != -- ]; do mkdir -p "$root$2"; mount --rbind "$1" "$root$2"; shift 2; done
shift
exec chroot "$root" "$@"
"""


def inside(root: Path, *command: str, mounts: Iterable[tuple[Path, str]] = ()) -> list[str]:
    """The call that runs a command in a folder; parts of the machine are mounted there: each a path and its place.

    The command has the process id and receives the signals of the call. It starts in the folder's root, and finds
    nothing of the machine but what is mounted, so a program that needs a file that only the machine has fails there.
    """
    pairs = [part for source, target in mounts for part in (str(source), target)]
    return [*private(), "/bin/sh", "-euc", ENTER, "sh", str(root), *pairs, "--", *command]


def with_our_files(root: Path, *command: str) -> list[str]:
    """The call that runs a command in a folder in which the tests' files have the paths that they have outside."""
    ours = {Path(tempfile.gettempdir()).resolve(), CHECKOUT}
    return inside(root, *command, mounts=[(path, str(path)) for path in sorted(ours)])


if __name__ == "__main__":
    # Makes the folders that are named, and prints where they are.
    for asked in sys.argv[1:]:
        try:
            sys.stdout.write(f"{folder(asked)}\n")
        except NotMade as missing:
            sys.exit(str(missing))
