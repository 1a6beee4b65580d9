"""Runs the tests on the newest Python, in the folder that `newer` makes for it: `make test-newest`.

    python -m tests.programs.newest_python [what pytest is to be told]

The checkout is mounted there. Nothing else of the machine is, so tests that need a program of it are left out by name.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.programs import newer, pip

ROOT = Path(__file__).parent.parent.parent
CHECKOUT = "/srv"
"""Where ours is mounted."""
REQUIREMENTS = ("runtime", "build", "test")
MACHINE = ("/etc/resolv.conf", "/etc/hosts", str(pip.AUTHORITIES))
"""Files of the machine by which the network is found and trusted."""


class Python:
    """The newest Python with all that the tests import, from entering the context until leaving it."""

    def __init__(self) -> None:
        """Raises `NotMade` where there is none."""
        self._root = newer.folder("python")
        self.program = newer.FOLDERS["python"].proof[0]
        files = [ROOT / "pyproject.toml", *(ROOT / "requirements" / f"{name}.txt" for name in REQUIREMENTS)]
        made_of = hashlib.sha256(b"\n".join(file.read_bytes() for file in files)).hexdigest()[:12]
        self.venv = f"/opt/venv-{made_of}"

    @contextmanager
    def prepared(self) -> Iterator["Python"]:
        """With an environment of the pinned packages, by hash; it is kept, and nobody's to remove until we end."""
        with tempfile.TemporaryDirectory(prefix="newest-python-") as folder, self._lock(self.venv).open("w") as lock:
            self._temporary = Path(folder)
            (self._temporary / "pip.conf").write_text(pip.settings())
            done = self._root / self.venv[1:] / ".complete"
            fcntl.flock(lock, fcntl.LOCK_SH)
            if not done.exists():
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not done.exists():  # nobody else has made it meanwhile
                    self._remove_others()
                    self._install()
                    done.touch()
                fcntl.flock(lock, fcntl.LOCK_SH)
            yield self

    def _lock(self, venv: str) -> Path:
        return self._root / f"{venv[1:]}.lock"

    def _remove_others(self) -> None:
        for other in (self._root / "opt").glob("venv-*[!k]"):
            with self._lock(f"/opt/{other.name}").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(other)

    def _install(self) -> None:
        self.run(self.program, "-m", "venv", "--clear", self.venv)
        install = ("python", "-m", "pip", "install", "-q", "--no-cache-dir")
        files = (f"-rrequirements/{name}.txt" for name in REQUIREMENTS)
        self.run(*install, "--require-hashes", "--only-binary=:all:", *files)
        self.run(*install, "--no-deps", "--no-build-isolation", "-e", ".")

    def run(self, *command: str, check: bool = True) -> int:
        """The exit status of a command that begins in the checkout and sees the environment; its output is ours."""
        files = [(Path(file), file) for file in MACHINE if Path(file).exists()]
        for _, file in files:
            (self._root / file[1:]).touch()  # what is mounted over something needs it
        mounts = [(ROOT, CHECKOUT), (self._temporary, "/tmp"), *files]
        call = newer.inside(self._root, "/usr/bin/env", f"--chdir={CHECKOUT}", *command, mounts=mounts, processes=True)
        environment = {
            **newer.ENVIRONMENT,
            "PATH": f"{self.venv}/bin:{newer.ENVIRONMENT['PATH']}",
            "HOME": "/tmp",
            "PIP_CONFIG_FILE": "/tmp/pip.conf",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **{name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")},
        }
        return subprocess.run(call, check=check, env=environment).returncode


def main() -> int:
    """Run them; the exit status is pytest's."""
    try:
        newest = Python()
    except newer.NotMade as reason:
        sys.stderr.write(f"the newest Python is not to be had here: {reason}\n")
        return 1
    try:
        with newest.prepared() as python:
            return python.run("python", "-m", "pytest", "-p", "no:cacheprovider", *sys.argv[1:], check=False)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
