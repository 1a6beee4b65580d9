"""The project's image, built and run by a real buildah without any daemon.

Where the base can't be pulled, one of the same Debian and the same Python is made of Debian's packages. Needs root.
`.ci/run` has it made before anything is installed, so all that is used here is in the standard library.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.programs import newer, pip
from tests.programs.alone import alone
from tests.programs.available import PROGRAMS

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".cache" / "image"
"""Keeps the base between runs."""

Json = Any


def buildah(*arguments: str, timeout: float = 300) -> str:
    """What a buildah call prints; an error with all it said when it fails."""
    done = subprocess.run(
        [*command(), *arguments], check=False, capture_output=True, text=True, timeout=timeout, cwd=ROOT
    )
    if done.returncode:
        raise RuntimeError(f"buildah {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def command() -> list[str]:
    """How every buildah call begins: with a storage of the tests' own."""
    storage = ["--root", str(CACHE / "storage"), "--runroot", str(CACHE / "run"), "--storage-driver", "vfs"]
    return [PROGRAMS["buildah"].files[0], *storage]


def pinned_base() -> str:
    """The base that the Dockerfile names, with its digest."""
    match = re.search(r"^ARG BASE=(\S+@sha256:[0-9a-f]{64})$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert match is not None
    return match[1]


def base() -> str:
    """The name of the base to build on: the pinned one if it can be had, else one made here under its name and tag."""
    pinned = pinned_base()
    name = pinned.partition("@")[0]
    with alone(CACHE / "base"), tempfile.TemporaryDirectory(dir=CACHE) as folder:
        for known in (pinned, name):
            if _there(known):
                return known
        try:
            buildah("pull", "-q", pinned, timeout=120)
        except (RuntimeError, subprocess.TimeoutExpired):
            _make(name, Path(folder) / "base.tar")
            return name
    return pinned


def _there(name: str) -> bool:
    try:
        buildah("inspect", "--type", "image", name)
    except RuntimeError:
        return False
    return True


def _make(name: str, archive: Path) -> None:
    """A base of Debian's packages: the release and the Python that the name's tag says, and no compiler."""
    match = re.fullmatch(r".*:(\d+\.\d+)\.\d+-slim-(\w+)", name)
    assert match is not None, name
    python, release = match.groups()
    subprocess.run(
        [
            PROGRAMS["buildah"].files[1],
            "--quiet",
            "--variant=essential",
            f"--include=python3,python{python},python3-venv,ca-certificates",
            '--aptopt=Acquire::Check-Valid-Until "false"',  # a mirror may be a copy frozen on some day
            *(f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "man", "locale")),
            release,
            str(archive),
            f"deb {newer.mirror()} {release} main",
        ],
        check=True,
        capture_output=True,
        timeout=240,
    )
    container = buildah("from", "scratch")
    try:
        buildah("add", "-q", container, str(archive), "/")
        buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", "--cmd", "python3", container)
        buildah("commit", "-q", container, name)
    finally:
        buildah("rm", container)


def build(name: str, *, epoch: int, context: Path = ROOT, arguments: Iterable[str] = ()) -> None:
    """Builds the image from a source tree under a name.

    The machine's certificates and pip settings are mounted for the build, and are no part of the image.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        settings = Path(folder) / "pip.conf"
        settings.write_text(pip.settings())
        buildah(
            "build",
            "--isolation=chroot",
            "--format=docker",  # OCI's own format has no health check
            "--pull-never",
            f"--timestamp={epoch}",
            f"--build-arg=BASE={base()}",
            f"--build-arg=SOURCE_DATE_EPOCH={epoch}",
            *(f"--build-arg={argument}" for argument in arguments),
            f"--volume={settings}:/etc/pip.conf:ro",
            f"--volume={pip.AUTHORITIES}:{pip.AUTHORITIES}:ro",
            f"--tag={name}",
            str(context),
        )


@dataclass(frozen=True, slots=True)
class Container:
    """A container of an image, with a root file system that is there to be looked at."""

    name: str
    root: Path
    config: Json
    """What the image says about running it, as Docker writes it."""

    def command(self, *arguments: str, **options: str) -> list[str]:
        """The call that runs a program in it, as the image's user, on the machine's own network.

        The options are environment variables.
        """
        environment = [f"--env={key}={value}" for key, value in options.items()]
        return [*command(), "run", "--isolation=chroot", *environment, self.name, "--", *arguments]


@contextmanager
def container(image: str, *volumes: str) -> Iterator[Container]:
    """A container of an image until the end of the block; volumes are `from:to:ro`."""
    name = buildah("from", "--pull-never", *(f"--volume={volume}" for volume in volumes), image)
    try:
        config = json.loads(buildah("inspect", "--type", "container", name))["Docker"]["config"]
        yield Container(name, Path(buildah("mount", name)), config)
    finally:
        buildah("rm", name)


def facts(image: str) -> Json:
    """What decides what an image is: its layers and its settings, without the name of the host that built it."""
    docker = json.loads(buildah("inspect", "--type", "image", image))["Docker"]
    return {"layers": docker["rootfs"], "config": {**docker["config"], "Hostname": ""}, "created": docker["created"]}


def size(image: str) -> int:
    """Bytes of all files of an image, the base's among them."""
    with container(image) as made:
        return sum(path.lstat().st_size for path in made.root.rglob("*") if not path.is_dir() or path.is_symlink())


if __name__ == "__main__":
    # Makes the base, or gets it, and prints its name.
    sys.stdout.write(f"{base()}\n")
