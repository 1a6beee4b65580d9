"""The newest Python as a program of this machine, out of the folder that `newer` makes of it.

    .venv/bin/python -m tests.programs.newest_python     prints where it is

Only the C library keeps it from running outside of its folder. So there is a copy of it that names the folder's loader
and libraries itself: no variable of the environment has to, and what it starts finds all as if another Python had.
"""

import subprocess
import sys
from pathlib import Path

from tests.programs import newer
from tests.programs.alone import alone

WHEELS = "/usr/share/python-wheels/"
"""Where Debian's Python finds the pip for a new environment; its settings say so."""


def program() -> Path:
    """The interpreter; raises `NotMade` where there is none."""
    root = newer.folder("python")
    inside = root / newer.FOLDERS["python"].proof[0][1:]
    outside = root / "usr" / "outside" / inside.name
    with alone(outside.parent):
        if not outside.exists():
            _let_out(root, inside, outside)
    return outside


def _let_out(root: Path, inside: Path, outside: Path) -> None:
    for settings in (root / "usr" / "lib" / inside.name).glob("_sysconfigdata_*.py"):
        settings.write_text(settings.read_text().replace(f"'{WHEELS}'", f"'{root}{WHEELS}'"))
    loader = Path(f"{root}{_patchelf('--print-interpreter', str(inside))}")
    part = Path(f"{outside.parent}.part")
    # As RPATH, not as RUNPATH, it holds for what its modules need as well.
    rpath = ("--force-rpath", "--set-rpath", str(loader.resolve().parent))
    _patchelf("--set-interpreter", str(loader), *rpath, "--output", str(part), str(inside))
    outside.parent.mkdir(exist_ok=True)
    part.rename(outside)


def _patchelf(*arguments: str) -> str:
    # The package's own: Debian's spoils a program that has no room for a longer path.
    command = [str(Path(sys.executable).with_name("patchelf")), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout.strip()


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{program()}\n")
    except newer.NotMade as reason:
        sys.exit(f"the newest Python is not to be had here: {reason}")
