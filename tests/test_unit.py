"""The units for systemd, as systemd itself judges them."""

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.cli import commands
from tests.programs.available import leave_out, require
from tests.programs.installed import serving, simulated, totals
from tests.programs.process import free_port

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy" / "systemd" / "heat-deployment-exporter.service"
SOCKET = UNIT.with_suffix(".socket")
DROP_IN = UNIT.parent / "socket.conf"
PROGRAM = "/opt/heat-deployment-exporter/bin/heat-deployment-exporter"
WORST = 1.5
"""The exposure that the unit may have at most, of 10."""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What systemd-analyze says."""
    program = require("systemd-analyze").files[0]
    command = [program, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env={"LANG": "C.UTF-8"})
    if "Failed to create directory" in done.stderr:
        # It loads units by way of /run/systemd, which root alone can make where systemd has not started.
        leave_out(f"systemd-analyze cannot run on this machine ({done.stderr.strip()})")
    return done


def verified(folder: Path, service: str, socket: str = "", drop_in: str = "") -> list[str]:
    """The complaints of `systemd-analyze verify` about units, whose program is taken to be installed."""
    drop_ins = folder / f"{UNIT.name}.d"
    drop_ins.mkdir(parents=True)
    paths = [folder / UNIT.name]
    paths[0].write_text(service.replace(PROGRAM, sys.executable))
    if socket:
        paths.append(folder / SOCKET.name)
        paths[1].write_text(socket)
    if drop_in:
        (drop_ins / DROP_IN.name).write_text(drop_in)
    said = analyze("verify", "--man=no", *map(str, paths)).stderr
    # It loads the machine's other units too, and has things to say about them.
    return [line for line in said.splitlines() if UNIT.stem in line or str(folder) in line]


def settings(path: Path) -> configparser.RawConfigParser:
    """A unit, section by section."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(path.read_text())
    return parser


def test_systemd_accepts_the_unit(tmp_path: Path):
    """There is no mistake in it that systemd knows; one that is put there is found."""
    text = UNIT.read_text()
    assert verified(tmp_path / "right", text) == []
    assert verified(tmp_path / "wrong", text.replace("WatchdogSec=30", "WatchdogSecs=30"))


def test_systemd_accepts_the_socket(tmp_path: Path):
    """Nor is there one in the socket unit and the drop-in that goes with it; one that is put into either is found."""
    service, socket, drop_in = (path.read_text() for path in (UNIT, SOCKET, DROP_IN))
    assert verified(tmp_path / "right", service, socket, drop_in) == []
    assert verified(tmp_path / "a", service, socket.replace("ListenStream=19180", "ListenStream=191800"), drop_in)
    assert verified(tmp_path / "b", service, socket.replace("ListenStream=", "ListenStreams="), drop_in)
    assert verified(tmp_path / "c", service, socket, drop_in.replace("Environment=", "Environments="))
    # A socket that the service requires has to be there.
    assert verified(tmp_path / "d", service, "", drop_in)


def test_the_socket_is_the_service_s(tmp_path: Path):
    """The drop-in orders the service after the socket of its name, whose port is the exporter's; and the service's own
    command, with the drop-in's environment, serves what systemd hands over: the request that woke it is answered."""
    require("systemd-analyze")
    unit, service = settings(DROP_IN)["Unit"], settings(DROP_IN)["Service"]
    assert (unit["Requires"], unit["After"]) == (SOCKET.name, SOCKET.name)
    (default,) = (each for each in commands.main.commands["serve"].params if each.name == "web_listen_address")
    assert [f":{settings(SOCKET)['Socket']['ListenStream']}"] == list(default.default)
    variable, _, value = service["Environment"].partition("=")
    (tmp_path / "config.yaml").write_text("clouds: [{cloud: simulator}]")
    command = settings(UNIT)["Service"]["ExecStart"].split()
    assert command.pop(0) == PROGRAM
    command[-1] = re.sub("/etc/.*", str(tmp_path / "config.yaml"), command[-1])
    port = free_port()
    with simulated([sys.executable, "-m", "exporter"]) as clouds:
        environment = {"PYTHONPATH": str(ROOT), "OS_CLIENT_CONFIG_FILE": str(clouds), variable: value}
        handed_on = [f"--setenv={name}={content}" for name, content in environment.items()]
        activate = ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", *handed_on]
        with serving([*activate, sys.executable, "-m", "exporter", *command], port) as url:
            assert totals(url)


def test_the_unit_is_hardened(capsys: pytest.CaptureFixture[str]):
    """Its exposure, as systemd scores it without running it, stays low."""
    done = analyze("security", "--offline=true", "--threshold=15", str(UNIT))
    match = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", done.stdout)
    assert match is not None, done.stdout + done.stderr
    with capsys.disabled():
        sys.stdout.write(f"\nexposure of the systemd unit: {match[1]} of 10\n")
    assert float(match[1]) <= WORST
    assert done.returncode == 0
    listed = json.loads(analyze("security", "--offline=true", "--json=short", str(UNIT)).stdout)
    assert {each["name"] for each in listed if each["set"] is False} >= {"PrivateNetwork="}


def test_the_unit_hands_over_credentials_and_signals():
    """clouds.yaml comes as a credential, readiness by notification; a reload is what the exporter takes as one."""
    service = settings(UNIT)["Service"]
    assert (service["Type"], service["DynamicUser"], service["ProtectSystem"]) == ("notify", "yes", "strict")
    name, _, source = service["LoadCredential"].partition(":")
    assert service["Environment"] == f"OS_CLIENT_CONFIG_FILE=%d/{name}"
    assert source == "/etc/heat-deployment-exporter/clouds.yaml"
    assert service["ExecReload"] == "kill -HUP $MAINPID"
    assert service["ExecStart"].startswith(f"{PROGRAM} serve ")
    assert int(service["WatchdogSec"]) >= 10


def test_the_exporter_needs_no_writable_code(tmp_path: Path):
    """Under the kernel's own ban of memory that is written and executed, and without new privileges, `once` works."""
    code = (
        "import ctypes, os, sys\n"
        "prctl = ctypes.CDLL(None, use_errno=True).prctl\n"
        "assert prctl(38, 1, 0, 0, 0) == 0\n"  # PR_SET_NO_NEW_PRIVS
        "if prctl(65, 1, 0, 0, 0):\n"  # PR_SET_MDWE, since Linux 6.3
        "    sys.exit(77)\n"
        "import mmap\n"
        "try:\n"
        "    mmap.mmap(-1, 4096, prot=7)\n"
        "except OSError:\n"
        "    os.execv(sys.executable, [sys.executable, '-m', 'exporter', 'once'])\n"
    )
    with simulated([sys.executable, "-m", "exporter"]) as clouds:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "OS_CLOUD": "simulator", "OS_CLIENT_CONFIG_FILE": str(clouds)},
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
    if done.returncode == 77:
        pytest.skip(f"this kernel ({os.uname().release}) has no such ban")
    assert done.returncode == 0, done.stderr
    assert "heat_software_deployments{" in done.stdout
