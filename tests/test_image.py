"""The image, built from the Dockerfile and run: by buildah, without a daemon, on a base that may be a stand-in."""

import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from exporter import __version__
from tests.harness import Authority, closed_port
from tests.programs.available import leave_out, require
from tests.programs.image import ROOT, Container, base, build, buildah, container, facts, size
from tests.programs.installed import same_page, serving, simulated
from tests.programs.process import eventually, free_port
from tests.test_packages import sources

EPOCH = 1_767_225_600
UID = 65532
ADDRESS = "HEAT_DEPLOYMENT_EXPORTER_WEB_LISTEN_ADDRESS"
IDENTITY = (f"VERSION={__version__}", "REVISION=0123abcd", "SOURCE=https://example.org/exporter")
"""What a release says about itself."""


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The name of the image of these sources."""
    require("buildah")
    if os.geteuid():
        leave_out("building an image without a daemon needs root")
    name = f"localhost/heat-deployment-exporter:{uuid4().hex}"
    build(name, epoch=EPOCH, arguments=IDENTITY)
    yield name
    buildah("rmi", "--force", name)


@pytest.fixture(scope="module")
def contents(image: str) -> Iterator[Container]:
    """A container to look into."""
    with container(image) as made:
        yield made


@pytest.fixture(scope="module")
def clouds() -> Iterator[Path]:
    """The clouds.yaml of a simulated cloud in which nothing happens."""
    with simulated([sys.executable, "-m", "exporter"]) as path:
        path.chmod(0o644)
        yield path


def listening(port: int) -> psutil.Process:
    """The process that listens on a port."""
    for each in psutil.net_connections("tcp"):
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid:
            return psutil.Process(each.pid)
    raise AssertionError(f"nobody listens on {port}")


def healthy(made: Container, **environment: str) -> bool:
    """What the image's own health check says inside a container."""
    kind, *command = made.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    done = subprocess.run(made.command(*command, **environment), check=False, capture_output=True, timeout=60)
    assert done.returncode in (0, 1), done
    return done.returncode == 0


def test_the_image_serves_what_the_sources_serve(image: str, clouds: Path):
    """Started as the image says, with a clouds.yaml mounted, it runs as nobody, and its page is that of the sources.

    Its health check says yes while it runs, and no once it has ended.
    """
    port, other = free_port(), free_port()
    cloud = {"OS_CLOUD": "simulator"}
    ours = [sys.executable, "-m", "exporter", "serve", f"--web.listen-address=127.0.0.1:{other}"]
    with (
        container(image, f"{clouds}:/etc/openstack/clouds.yaml:ro") as made,
        serving(ours, other, **cloud, OS_CLIENT_CONFIG_FILE=str(clouds), PYTHONPATH=str(ROOT)) as unpackaged,
    ):
        address = {ADDRESS: f"127.0.0.1:{port}"}
        command = made.command(*made.config["Entrypoint"], *made.config["Cmd"], **cloud, **address)
        assert not healthy(made, **address)
        with serving(command, port) as packaged:
            assert "heat_software_deployments" in same_page(packaged, unpackaged)
            process = listening(port)
            assert process.uids().real == process.uids().saved == process.gids().real == UID
            assert healthy(made, **address)
            process.terminate()
            eventually(lambda: not process.is_running(), what="the end of it")
        assert not healthy(made, **address)


def test_a_read_only_root_is_enough(contents: Container, clouds: Path):
    """With its whole file system read-only and nothing mounted but /proc and /dev, `check` reaches the cloud."""
    script = """
        set -eu
        root=$1 clouds=$2; shift 2
        mount --make-rprivate /
        mount --bind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount --bind /dev "$root/dev"
        mount -t tmpfs tmpfs "$root/etc/openstack"
        cp "$clouds" "$root/etc/openstack/clouds.yaml"
        mount -o remount,ro "$root/etc/openstack"
        mount -o remount,bind,ro "$root"
        if touch "$root/tmp/file" 2>/dev/null; then exit 9; fi
        exec chroot --userspec=65532:65532 "$root" "$@"
    """
    (contents.root / "etc" / "openstack").mkdir(exist_ok=True)
    environment = dict(each.split("=", 1) for each in contents.config["Env"])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(contents.root), str(clouds)]
        + [*contents.config["Entrypoint"], "check"],
        env={**environment, "OS_CLOUD": "simulator", "PATH": f"{environment['PATH']}:/usr/sbin:/sbin"},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" fresh ") == 4


def test_the_same_sources_make_the_same_image(image: str, tmp_path: Path):
    """Built again, from a folder with other file times and modes: the same layers, the same settings."""
    other = sources(tmp_path / "other")
    for number, path in enumerate(sorted(other.rglob("*"))):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o600)
            os.utime(path, (number, 86_400 * number))
    name = f"localhost/heat-deployment-exporter:{uuid4().hex}"
    build(name, epoch=EPOCH, context=other, arguments=IDENTITY)
    first, second = facts(image), facts(name)
    buildah("rmi", "--force", name)
    assert first == second
    assert len(first["layers"]["diff_ids"]) >= 2


def test_nothing_in_it_installs_or_compiles(contents: Container):
    """There is no pip, no wheel to get one from, no compiler, and no settings of the machine that built it."""
    tools = re.compile(r"(.+-)?(pip3?|gcc|g\+\+|cc|c\+\+|ld|as|make|cpp|tcc|clang)(-?\d{1,2}(\.\d+)?)?|.+\.whl")
    assert [path for path in contents.root.rglob("*") if tools.fullmatch(path.name)] == []
    # Where the build's settings were mounted a file remains, empty.
    assert not (contents.root / "etc/pip.conf").exists() or (contents.root / "etc/pip.conf").read_text() == ""
    done = subprocess.run(contents.command("python3", "-m", "pip"), check=False, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b"No module named pip" in done.stderr


def test_its_user_can_change_nothing(contents: Container):
    """No file belongs to the image's user, and but for the folders that all may write to none is open to it."""
    shared = {"tmp", "var/tmp", "run/lock", "dev/shm"}
    changeable = set()
    for path in contents.root.rglob("*"):
        status = path.lstat()
        assert status.st_uid != UID, path
        if status.st_mode & stat.S_IWOTH and not path.is_symlink():
            changeable.add(path.relative_to(contents.root).as_posix())
    assert {each for each in changeable if not each.startswith("dev/")} <= shared


def test_bytecode_is_ready(contents: Container):
    """Every module of the exporter is compiled: a read-only file system can't keep what is compiled at each start."""
    [package] = contents.root.glob("opt/heat-deployment-exporter/lib/python3*/site-packages/exporter")
    modules = {path.with_suffix("") for path in package.rglob("*.py")}
    assert len(modules) > 30
    compiled = package.rglob("__pycache__/*.pyc")
    assert {path.parent.parent / path.name.partition(".")[0] for path in compiled} == modules


def test_it_says_what_it_is(contents: Container):
    """A numeric user, the port, the labels of the Open Container Initiative, programs without a shell around them."""
    config = contents.config
    assert config["User"] == f"{UID}:{UID}"
    assert list(config["ExposedPorts"]) == ["19180/tcp"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert {**labels, "title": "heat-deployment-exporter", "licenses": "Apache-2.0", "base.name": base()} == labels
    assert (labels["version"], labels["revision"], labels["source"]) == (
        __version__,
        "0123abcd",
        "https://example.org/exporter",
    )
    assert config["Entrypoint"][0].startswith("/")
    assert config["Healthcheck"]["Retries"] == 3
    done = subprocess.run(
        contents.command(*config["Entrypoint"], "--version"), check=True, capture_output=True, timeout=60
    )
    assert __version__ in done.stdout.decode().split()


def test_it_is_small(image: str, capsys: pytest.CaptureFixture[str]):
    """The exporter and all it needs add less than 100 MB to the base."""
    whole, below = size(image), size(base())
    with capsys.disabled():
        sys.stdout.write(f"\nimage: {whole / 1e6:.0f} MB, of which {below / 1e6:.0f} MB are the base\n")
    assert whole - below < 100e6


# -- the health check alone


@contextmanager
def answering(status: int, certificate: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that answers everything with a status; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/-/healthy" else 503)
            self.end_headers()

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        server.socket = certificate.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def checked(*arguments: str, **environment: str) -> int:
    """The exit status of the health check, run as the image runs it."""
    command = [sys.executable, "-I", str(ROOT / "deploy" / "image" / "healthy.py"), *arguments]
    return subprocess.run(command, env=environment, check=False, capture_output=True, timeout=60).returncode


@pytest.mark.parametrize(("status", "result"), [(200, 0), (401, 0), (500, 1), (503, 1)])
def test_healthy_is_who_answers(status: int, result: int):
    """An answer is health, one that asks for a password too; an error of the server is none."""
    with answering(status) as port:
        assert checked(**{ADDRESS: f"[::]:{port} 127.0.0.1:1"}) == result
        assert checked(f"http://127.0.0.1:{port}/-/healthy") == result


def test_unhealthy_is_who_does_not():
    """A port on which nobody listens, or nobody speaks HTTP, is exit status 1, without a traceback."""
    with closed_port() as closed:
        assert checked(**{ADDRESS: f":{closed.getsockname()[1]}"}) == 1
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up():
            server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        assert checked(f"http://127.0.0.1:{server.getsockname()[1]}/-/healthy") == 1
        thread.join()


def test_health_with_tls(tmp_path: Path):
    """An exporter that speaks TLS is asked by its URL, whatever name its certificate is for."""
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("elsewhere", "192.0.2.1"))
    with answering(200, context) as port:
        assert checked(f"https://127.0.0.1:{port}/-/healthy") == 0
        assert checked(f"http://127.0.0.1:{port}/-/healthy") == 1
