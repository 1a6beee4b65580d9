"""Runs of the tests that go on side by side are in nobody's way."""

import subprocess
import sys
import textwrap
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


SHARING = """\
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def note(what):
    with (HERE / what).open("a") as file:
        print(os.environ["PYTEST_XDIST_WORKER"], file=file)


@pytest.fixture(scope="session", params=["oldest", "newest"])
def upstream(request):
    note(f"started-{request.param}")
    return request.param


@pytest.mark.parametrize("number", range(10))
def test_one(upstream, number):
    note(f"used-{upstream}")
"""


def test_a_shared_server_starts_once(tmp_path: Path) -> None:
    """Tests that share a server run in one worker, also when there are several, so each release starts once."""
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_collection_modifyitems\n")
    (tmp_path / "test_sharing.py").write_text(textwrap.dedent(SHARING))
    options = ["-p", "no:cacheprovider", "-q", "-n", "3", "--dist", "loadgroup", "--no-loadscope-reorder"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for release in ("oldest", "newest"):
        assert len((tmp_path / f"started-{release}").read_text().split()) == 1
        used = (tmp_path / f"used-{release}").read_text().split()
        assert len(used) == 10
        assert len(set(used)) == 1
