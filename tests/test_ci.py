"""`.ci/run`, with suites that are none: what it says of them, and what is left when it is ended."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.programs.process import eventually

ROOT = Path(__file__).parent.parent
MAKEFILE = """\
.PHONY: .venv/.lint newest lint bench-quick test test-newest
.venv/.lint newest lint bench-quick:
	@:
test:
	@{oldest}
test-newest:
	@{newest}
"""
PYTHON = """\
#!/bin/sh
# Nothing is missing.
echo
"""


def started(folder: Path, *, oldest: str, newest: str) -> "subprocess.Popen[str]":
    """The script, at work on a tree whose suites are these commands."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    (folder / "Makefile").write_text(MAKEFILE.format(oldest=oldest, newest=newest))
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").write_text(PYTHON)
    (folder / "bin" / "python3").chmod(0o755)
    return subprocess.Popen(
        ["/bin/bash", folder / ".ci" / "run"],
        env={"PATH": f"{folder}/bin:{os.environ['PATH']}", "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("newest", [0, 3])
@pytest.mark.parametrize("oldest", [0, 3])
def test_each_suite_counts(tmp_path: Path, oldest: int, newest: int) -> None:
    """It fails when either suite does, shows what both say, and says at its end which have failed."""
    process = started(tmp_path, oldest=f"echo one; exit {oldest}", newest=f"echo two; exit {newest}")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == (1 if oldest or newest else 0), said
    lines = said.splitlines()
    assert {"one", "two"} <= set(lines), said
    failed = [f"{name} has failed" for name, status in (("make test", oldest), ("make test-newest", newest)) if status]
    # After all that the suites have said.
    assert [line for line in lines if "has failed" in line or line in {"one", "two"}] == ["one", "two", *failed], said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_it_is_ended(tmp_path: Path, number: int) -> None:
    """Ended in whatever way, it takes both suites along; asked to end, it shows what the other has said."""
    suite = "echo {0}; echo $$$$ >{0}.part; mv {0}.part {0}; exec sleep 600"
    process = started(tmp_path, oldest=suite.format("one"), newest=suite.format("two"))
    files = [tmp_path / "one", tmp_path / "two"]
    eventually(lambda: all(each.exists() for each in files), what="both suites run")
    suites = [psutil.Process(int(each.read_text())) for each in files]
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    eventually(lambda: not any(each.is_running() for each in suites), what="both suites have ended")
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert "one" in said
    assert ("two" in said) == (number != signal.SIGKILL)
