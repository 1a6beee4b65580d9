"""Runs of the tests that go on side by side are in nobody's way."""

import subprocess
import sys
from pathlib import Path

from tests.programs.alone import alone

ROOT = Path(__file__).parent.parent


def another(code: str, *arguments: str) -> "subprocess.Popen[str]":
    """Another run, that does this."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_port_is_given_once() -> None:
    """As long as a run goes on, no other is given a port that it was given, whether it is listened on or not."""
    code = (
        "import sys; from tests.programs.process import free_port;"
        "print(*[free_port() for _ in range(300)], flush=True); sys.stdin.read()"
    )
    with another(code) as one, another(code) as other:
        ports = [port for each in (one, other) for port in each.stdout.readline().split()]
        for each in (one, other):
            each.communicate(timeout=60)
    assert len(set(ports)) == 600


def test_one_after_the_other(tmp_path: Path) -> None:
    """What is done `alone` for a path one run does at a time, and the next one once that has ended in the middle."""
    code = (
        "import sys; from pathlib import Path; from tests.programs.alone import alone; path = Path(sys.argv[1])\n"
        "with alone(path): print(path.exists(), flush=True); sys.stdin.read()"
    )
    path = tmp_path / "folder" / "made"
    with alone(path):
        waiting = another(code, str(path))
        with another(code, str(tmp_path / "other")) as other:
            assert other.communicate(timeout=60)[0] == "False\n"  # by then the first one waits
        path.write_text("made")
    with waiting:
        assert waiting.stdout.readline() == "True\n"
        waiting.kill()
    with alone(path):
        assert path.read_text() == "made"
