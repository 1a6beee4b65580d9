"""What fuzzing has found, replayed; and a little fuzzing, the same each time (`tests.fuzz`)."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import fuzz
from tests.programs.available import leave_out

ROOT = Path(__file__).parent.parent
RUNS = {"configuration": 1000, "webconfiguration": 1000, "queries": 2500}
"""How many inputs are tried, of targets that take longer than others."""
KEPT = [(name, path) for name in fuzz.TARGETS for path in fuzz.corpus(name)]


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_where_fuzzing_begins(name: str) -> None:
    """Every target holds for what fuzzing begins with."""
    target = fuzz.target(name)
    for seed in target.seeds:
        target.check(seed)


@pytest.mark.parametrize(("name", "path"), KEPT, ids=[f"{name}-{path.name}" for name, path in KEPT])
def test_what_was_found(name: str, path: Path) -> None:
    """What was wrong once is right, and what is interesting is right too, on every Python."""
    fuzz.target(name).check(path.read_bytes())


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_a_little_fuzzing(name: str, tmp_path: Path) -> None:
    """Some thousand inputs, always the same ones but others on another Python, break nothing."""
    if find_spec("atheris") is None:
        leave_out("atheris is missing (make test installs it where it has a release for this Python)")
    command = [sys.executable, "-m", "tests.fuzz", name, f"-runs={RUNS.get(name, 10_000)}"]
    command += [f"-seed={sys.version_info.minor}", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
