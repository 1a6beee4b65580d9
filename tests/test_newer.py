"""Folders of newer programs: made once, whoever asks; made anew when spoilt; nothing of them left behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import REAL
from tests.programs import available, newer
from tests.programs.alertmanager import Alertmanager
from tests.programs.available import LEFT_OUT, NEWEST, require
from tests.programs.openstack import OpenStack
from tests.programs.process import Process, eventually
from tests.programs.prometheus import Prometheus
from tests.programs.service import Service
from tests.programs.victoriametrics import VictoriaMetrics

ROOT = Path(__file__).parent.parent
SMALL = newer.Folder("small", ("busybox-static",), ("/usr/bin/busybox", "true"), variant="extract")
"""A folder that takes seconds."""

Ask = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Starts a process that asks for the small folder and prints where it is, with a cache of this test's own."""
    try:
        newer.made(SMALL)
    except newer.NotMade as reason:
        available.leave_out(str(reason))

    def start(
        *, before: str = "", then: str = "", handled: str = "()", packages: tuple[str, ...] = SMALL.packages
    ) -> subprocess.Popen[str]:
        code = (
            f"import sys, time; from tests.programs import newer; {before}\n"
            f"newer.FOLDERS['small'] = newer.Folder('small', {packages}, {SMALL.proof}, variant='extract')\n"
            f"try: print(newer.folder('small'), flush=True)\n"
            f"except {handled} as error: print(error, flush=True)\n"
            f"{then}"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def told(process: "subprocess.Popen[str]") -> Path:
    """The folder that a process was given."""
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    return Path(out.strip())


def identity(folder: Path) -> tuple[int, int]:
    """What tells a folder from one that was made later at its place."""
    found = folder.stat()
    return found.st_ino, found.st_mtime_ns


def mounted(folder: Path) -> list[str]:
    """What is mounted below a folder."""
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]


def test_whoever_asks_gets_the_same_folder(ask: Ask, tmp_path: Path) -> None:
    """Two that ask at once get one folder, made once; what is spoilt is made anew; nothing is mounted afterwards."""
    one, two = ask(), ask()
    folder = told(one)
    assert folder == told(two)
    assert folder.is_relative_to(tmp_path / "heat-deployment-exporter")
    first = identity(folder)
    assert told(ask()) == folder
    assert identity(folder) == first
    (folder / "usr" / "bin" / "busybox").write_bytes(b"")
    assert told(ask()) == folder
    assert identity(folder) != first
    assert not mounted(tmp_path)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_other_packages_are_another_folder(ask: Ask) -> None:
    """Where the packages have changed a new folder takes the old one's place, once nobody uses that."""
    user = ask(then="sys.stdin.read()")
    assert user.stdout is not None
    old = Path(user.stdout.readline().strip())
    new = told(ask(packages=("busybox-static", "tzdata")))
    assert new != old
    assert old.is_dir()
    user.communicate(timeout=60)
    newest = told(ask(packages=("busybox-static", "tzdata", "media-types")))
    assert newest.is_dir()
    assert not old.exists()
    assert not new.exists()


def test_one_that_is_killed_leaves_nothing(ask: Ask, tmp_path: Path) -> None:
    """Killed while it makes a folder, a process leaves no process and no mount behind, and the next one makes it."""

    def making() -> list[str]:
        found = []
        for each in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has ended meanwhile
                found += [each.parent.name] if str(tmp_path).encode() in each.read_bytes() else []
        return found

    killed = ask()
    eventually(making, timeout=60, what="mmdebstrap runs")
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    eventually(lambda: not making(), timeout=60, what="nothing runs any more")
    assert not mounted(tmp_path)
    assert told(ask()).is_dir()


def test_a_folder_that_cannot_be_made_keeps_nobody_waiting(ask: Ask) -> None:
    """Each of two processes is told that the mirror cannot be reached, while the other still runs."""
    processes = []
    for _ in range(2):
        process = ask(
            before="newer.mirror = lambda: 'http://127.0.0.1:9'", handled="newer.NotMade", then="sys.stdin.read()"
        )
        processes.append(process)
        assert process.stdout is not None
        assert "mmdebstrap can't make a folder" in process.stdout.readline()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_what_is_not_to_be_had_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no folder can be made, a test that needs one is skipped by program and reason; in CI it fails."""
    monkeypatch.setattr(newer, "MMDEBSTRAP", "/no/such/program")
    monkeypatch.setitem(newer.FOLDERS, SMALL.name, SMALL)
    monkeypatch.setitem(available.PROGRAMS, "busybox", available.Program("busybox", ("/usr/bin/busybox",), (), "small"))
    reason = newer.obstacle()
    assert reason is not None
    told = re.escape(f"{LEFT_OUT}busybox, newest release: {reason}")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=told):
        available.require("busybox", available.NEWEST)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=told):
        available.require("busybox", available.NEWEST)


def runs_in(process: Process, folder: Path) -> bool:
    """Whether a running process has this folder as its root; its path may differ where the tests run in a chroot."""
    return Path(f"/proc/{process.pid}/root").samefile(folder)


@pytest.mark.newer("prometheus")
@pytest.mark.parametrize("name", ["alertmanager", "prometheus", "victoriametrics"])
def test_a_newest_release_uses_no_file_of_the_machine(name: str) -> None:
    """A server of a newest release runs with its folder as its root, whatever the machine has installed."""
    require(name, NEWEST)
    receivers = {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}
    servers: dict[str, Callable[[], Service]] = {
        "alertmanager": lambda: Alertmanager(receivers, release=NEWEST),
        "prometheus": lambda: Prometheus([], release=NEWEST),
        "victoriametrics": lambda: VictoriaMetrics([], release=NEWEST),
    }
    with servers[name]() as server:
        assert runs_in(server.process, newer.folder("prometheus"))


@REAL
def test_keystone_and_heat_use_no_file_of_another_release(openstack: OpenStack) -> None:
    """The newest Keystone and Heat run with their folder as their root, the others with the machine's."""
    expected = newer.folder("openstack") if openstack.release == NEWEST else Path("/")
    assert runs_in(openstack.keystone, expected)
    assert runs_in(openstack.heat, expected)


def test_what_runs_in_a_folder_leaves_nothing(ask: Ask, tmp_path: Path) -> None:
    """A command in a folder sees what is mounted for it; killed, it is gone, and so is every mount."""
    folder = told(ask())
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "file").write_text("a file of ours")
    script = "busybox cat /tmp/file; echo; exec busybox sleep 300"
    command = newer.inside(folder, "/usr/bin/busybox", "sh", "-c", script, mounts=[(tmp_path / "ours", "/tmp")])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "a file of ours\n"
        process.kill()
        # It ends with the last process that holds it.
        assert process.stdout.read() == ""
    assert not mounted(tmp_path)
    assert not (folder / "tmp" / "file").exists()
