"""What the tests over sockets share: a simulated cloud, exporters in this process and beside it, their pages.

Fixtures are named in a test module that wants them (`cloud = harness.cloud`); nothing here acts by itself.
"""

import asyncio
import datetime as dt
import gzip
import inspect
import ipaddress
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import yaml
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.cli.serve import listening
from exporter.collector.collector import Collector
from exporter.collector.project_poller import ProjectPoller
from exporter.common.clock import Clock
from exporter.config import schema
from exporter.simulator import Deployment, Plan, Project, Requests, Simulator, World, build
from exporter.simulator.build import PASSWORD
from exporter.web.app import Server
from exporter.web.listeners import Address
from tests.programs.newer import GUARD

DEADLINE = 60.0
"""Seconds after which something that does not happen has failed; nothing passes or fails by how long it took."""
__all__ = ["PASSWORD", "Plan", "Simulator"]
FIRST, SECOND = "web-frontend", "billing"
"""The projects of the simulated cloud, in the order of Keystone's list."""
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

SDK_WARNING = "ignore:Support for InfluxDB"
"""openstacksdk 4.22 warns of its own deprecated argument whenever it reads a configuration."""
sdk_warning = pytest.mark.filterwarnings(SDK_WARNING)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse | None]]


async def eventually(check: Callable[[], Any], what: str = "") -> Any:
    """The first true value of `check` (a function or a coroutine function); a failure after the deadline."""
    end = time.monotonic() + DEADLINE
    while True:
        value = check()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"in {DEADLINE:.0f} s it did not happen: {what or inspect.getsource(check).strip()}")
        await asyncio.sleep(0.01)


# -- pages


class Sample(NamedTuple):
    """One sample of a page."""

    name: str
    labels: dict[str, str]
    value: float


class Samples(list[Sample]):
    """The samples of a page, found by their name and by some of their labels."""

    @classmethod
    def of(cls, text: str, *, openmetrics: bool = False) -> "Samples":
        """Those of a text, which prometheus-client has to be able to read."""
        parse = parse_openmetrics if openmetrics else parse_text
        return cls(Sample(each.name, each.labels, each.value) for family in parse(text) for each in family.samples)

    def select(self, name: str, **labels: str) -> "Samples":
        """Those of this name that have these labels."""
        return Samples(each for each in self if each.name == name and labels.items() <= each.labels.items())

    def get(self, name: str, *, default: float | None = None, **labels: str) -> Any:
        """The value of the only such sample, the default where there is none."""
        found = self.select(name, **labels)
        assert len(found) < 2, f"more than one: {found}"
        return found[0].value if found else default

    def value(self, name: str, **labels: str) -> float:
        """The value of the only such sample."""
        found = self.get(name, **labels)
        assert found is not None, f"no {name}{labels}; there are {sorted({each.name for each in self})}"
        return float(found)

    def total(self, name: str, **labels: str) -> float:
        """The sum of all such samples."""
        return sum(each.value for each in self.select(name, **labels))

    def cells(self, name: str, *keys: str, **labels: str) -> dict[Any, float]:
        """The values that are not zero, by these labels' values."""
        return {
            tuple(each.labels[key] for key in keys) if len(keys) > 1 else each.labels[keys[0]]: each.value
            for each in self.select(name, **labels)
            if each.value
        }

    def names(self) -> set[str]:
        """Every sample's name."""
        return {each.name for each in self}


def plain(body: bytes) -> bytes:
    """A page without the lines that differ from scrape to scrape."""
    own = re.compile(rb"(# (HELP|TYPE|UNIT) )?(process|python)_")
    return b"".join(line for line in body.splitlines(keepends=True) if not own.match(line))


# -- the simulated cloud


@dataclass
class Cloud:
    """A simulated cloud, running, and the process's environment that leads to it and to no other."""

    simulator: Simulator
    monkeypatch: pytest.MonkeyPatch
    folder: Path
    passed: float = 0.0
    """How far the cloud's clock is ahead of the machine's."""

    @property
    def world(self) -> World:
        """The cloud's state."""
        return self.simulator.world

    @property
    def requests(self) -> Requests:
        """What was asked of it."""
        return self.simulator.requests

    def project(self, name: str = FIRST) -> Project:
        """The project of that name."""
        return self.world.project(name)

    def add_project(self, name: str, *, enabled: bool = True, domain_id: str = "default") -> Project:
        """A further project that `monitor` may read."""
        project = self.world.add_project(name, enabled=enabled, domain_id=domain_id)
        self.world.grant(self.world.user("monitor").id, project.id, "reader")
        return project

    def deploy(
        self,
        project: str = FIRST,
        *,
        status: Any = "COMPLETE",
        action: Any = "CREATE",
        server: str = "server-1",
        code: Any = 0,
        age: float = 60.0,
        config: str | None = None,
        **fields: Any,
    ) -> Deployment:
        """A deployment that was created so many seconds ago, of the project's first config unless told otherwise."""
        project_id = self.project(project).id
        configs = [each.id for each in self.world.configs.values() if each.project_id == project_id]
        chosen = config or (configs[0] if configs else self.world.add_config(project_id, "install-agent").id)
        outputs = {"deploy_stdout": "secret-output", "deploy_stderr": "", "deploy_status_code": code}
        return self.world.add_deployment(
            project_id,
            server,
            chosen,
            status=status,
            action=action,
            created=self.world.now() - age,
            **{"output_values": outputs, **fields},
        )

    def asked(self, project: str = FIRST, **criteria: Any) -> int:
        """How often the project's deployments were listed."""
        path = f"/heat/v1/{self.project(project).id}/software_deployments"
        return self.requests.count(path=path, **criteria)

    def authentications(self) -> int:
        """How often a token was asked for."""
        return self.requests.count(method="POST", path="/v3/auth/tokens")

    def revoke(self) -> None:
        """End every token that was given out."""
        self.world.tokens.clear()

    def listing(self, handler: Handler, project: str = FIRST) -> None:
        """Let `handler` see the requests for a project's deployments; the cloud answers where it gives None."""
        self.intercept(handler, f"/heat/v1/{self.project(project).id}/software_deployments")

    def authentication(self, handler: Handler) -> None:
        """The same for requests for a token."""
        self.intercept(handler, "/v3/auth/tokens")

    def intercept(self, handler: Handler, path: str) -> None:
        """The same for any path; what was set for others stays."""
        before = self.simulator.intercept

        async def intercepted(request: web.BaseRequest, api: Any) -> web.StreamResponse | None:
            if request.path == path:
                return await handler(request)
            return await before(request, api) if before else None

        self.simulator.intercept = intercepted

    def mend(self) -> None:
        """Answer everything as usual again."""
        self.simulator.intercept = None

    # -- the environment

    def entry(self, **options: Any) -> dict[str, Any]:
        """The clouds.yaml entry that leads here, to be changed and written."""
        found: dict[str, Any] = yaml.safe_load(self.simulator.clouds_yaml(**options))["clouds"]["simulator"]
        return found

    def write(self, entry: dict[str, Any] | None = None, **further: dict[str, Any]) -> Path:
        """Write clouds.yaml: the entry `simulator`, and further ones under their names."""
        path = self.folder / "clouds.yaml"
        entries = {"simulator": entry or self.entry(), **further}
        path.write_text(yaml.safe_dump({"clouds": entries}))
        self.monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(path))
        return path

    def configure(self, **sections: Any) -> Path:
        """Write a configuration file for the command (see `written`)."""
        return self.put("exporter.yaml", written(**sections))

    def put(self, name: str, text: str) -> Path:
        """Write a file."""
        path = self.folder / name
        path.write_text(text)
        return path

    @asynccontextmanager
    async def exporter(
        self, settings: schema.Config | None = None, *, clock: Clock | None = None, refreshing: bool = True
    ) -> AsyncIterator["Exporter"]:
        """An exporter in this process that listens, and unless told otherwise refreshes."""
        fleet = Collector(settings or configuration(), clock=clock)
        async with running(fleet, refreshing=refreshing) as exporter:
            yield exporter

    @asynccontextmanager
    async def fleet(
        self, settings: schema.Config | None = None, *, clock: Clock | None = None
    ) -> AsyncIterator[Collector]:
        """A fleet that is open and does nothing by itself."""
        async with Collector(settings or configuration(), clock=clock).opened() as fleet:
            yield fleet


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Take everything out of the environment that could lead to a real cloud or proxy."""
    for name in list(os.environ):
        if name.startswith(("OS_", "HEAT_DEPLOYMENT_EXPORTER_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.chdir(folder)
    # Reading the machine's hundreds of authorities takes longer than a whole refresh.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Authority(folder, "usual").file))
    # openstacksdk looks for these where the process was when it was imported.
    for name, file in (
        ("CONFIG_FILES", "clouds.yaml"),
        ("SECURE_FILES", "secure.yaml"),
        ("VENDOR_FILES", "public.yaml"),
    ):
        monkeypatch.setattr(f"openstack.config.loader.{name}", [str(folder / file)])


def quiet_world(now: Callable[[], float] = time.time) -> World:
    """Two projects (and a disabled one) without a deployment, in which nothing happens by itself."""
    return build(Plan(projects=2, disabled_projects=1, servers=2, deployments=0, churn=0), now=now)


@pytest.fixture
async def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Cloud]:
    """A cloud of this test alone, with a deployment in each project, and its clouds.yaml in place."""
    isolate(monkeypatch, tmp_path)
    made: list[Cloud] = []
    world = quiet_world(lambda: time.time() + (made[0].passed if made else 0.0))
    async with Simulator(world) as simulator:
        made.append(Cloud(simulator, monkeypatch, tmp_path))
        made[0].deploy(FIRST)
        made[0].deploy(SECOND)
        made[0].write()
        yield made[0]


class Hold:
    """A handler that holds requests back until it is released, then lets the cloud answer."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.released = asyncio.Event()

    async def __call__(self, request: web.BaseRequest) -> None:
        """Wait."""
        self.entered.set()
        await self.released.wait()


def answering(
    status: int, body: bytes = b"", *, content_type: str = "application/json", headers: dict[str, str] | None = None
) -> Handler:
    """A handler that always answers this."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers={"Content-Type": content_type, **(headers or {})})

    return answer


# -- exporters in this process


def configuration(
    *,
    refresh: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    clouds: list[dict[str, Any]] | None = None,
    **sections: Any,
) -> schema.Config:
    """A configuration that asks the simulated cloud ten times a second, unless told otherwise."""
    return schema.parse(written(refresh=refresh, limits=limits, clouds=clouds, **sections), source="test")


def written(
    *,
    refresh: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    clouds: list[dict[str, Any]] | None = None,
    **sections: Any,
) -> str:
    """The same as the text of a configuration file."""
    content = {
        "refresh": {"interval": "100ms", "timeout": "15s", "silence": "15s", "stale_after": "10m", **(refresh or {})},
        "limits": {"requests_per_second": 1000, **(limits or {})},
        "clouds": clouds or [{"name": "sim", "cloud": "simulator"}],
        **sections,
    }
    return yaml.safe_dump(content)


ONCE = {"interval": "1h", "stale_after": "2h"}
"""Refresh settings under which nothing is asked again after the first time."""


@dataclass
class Answer:
    """An answer, its body as it went over the wire."""

    status: int
    headers: Any
    raw: bytes

    @property
    def body(self) -> bytes:
        """The body without its encoding."""
        return gzip.decompress(self.raw) if self.headers.get("Content-Encoding") == "gzip" else self.raw

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


@dataclass
class Exporter:
    """An exporter that listens."""

    url: str
    session: aiohttp.ClientSession
    fleet: Any = None
    server: Any = None

    async def get(self, path: str = "/metrics", *, method: str = "GET", **headers: str) -> Answer:
        """One request; header names with underscores for dashes. Without an Accept header unless one is given."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(
            method, f"{self.url}{path}", headers=sent, skip_auto_headers=("Accept", "Accept-Encoding")
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def samples(self) -> Samples:
        """What /metrics shows now."""
        answer = await self.get()
        assert answer.status == 200
        return Samples.of(answer.text)

    async def when(self, check: Callable[[Samples], Any]) -> Samples:
        """The first page that fulfils the check."""

        async def page() -> Samples | None:
            found = await self.samples()
            return found if check(found) else None

        found: Samples = await eventually(page, inspect.getsource(check).strip())
        return found

    async def refreshed(self, times: int = 1, project: str = FIRST) -> Samples:
        """The first page after so many more refreshes of the project."""
        counter = "heat_refreshes_total"
        before = (await self.samples()).get(counter, project=project, default=0)
        return await self.when(lambda page: page.get(counter, project=project, default=0) >= before + times)


@asynccontextmanager
async def running(fleet: Collector, *, refreshing: bool = True) -> AsyncIterator[Exporter]:
    """A fleet that refreshes, and its web server."""
    server = Server(fleet)
    async with (
        fleet.opened(),
        listening(server, [Address("127.0.0.1", 0)]) as ports,
        scraper() as session,
    ):
        task = asyncio.create_task(fleet.run()) if refreshing else None
        try:
            yield Exporter(f"http://127.0.0.1:{ports[0]}", session, fleet, server)
        finally:
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def scraper() -> AsyncIterator[aiohttp.ClientSession]:
    """A client session that shows bodies as they came."""
    async with aiohttp.ClientSession(auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)) as session:
        yield session


def watch_of(fleet: Collector, name: str = FIRST) -> ProjectPoller:
    """The watch of a project."""
    return next(watch for watch in fleet.watches() if watch.state.name == name)


def page_of(fleet: Collector) -> Samples:
    """What a fleet's page shows."""
    return Samples.of(fleet.page.plain("text").decode())


@dataclass
class Hands:
    """Clocks that stand still until they are moved."""

    wall: float = 1_700_000_000.0
    steady: float = 1000.0

    @property
    def clock(self) -> Clock:
        """What the exporter is given."""
        return Clock(wall=lambda: self.wall, steady=lambda: self.steady)

    def advance(self, seconds: float) -> None:
        """Move both."""
        self.wall += seconds
        self.steady += seconds


# -- the command as a process of its own


@dataclass
class Process:
    """A running command and what it has said so far."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    """Of stderr."""
    output: list[str] = field(default_factory=list)
    """Of stdout."""

    async def said(self, text: str) -> str:
        """The first line of stderr with this text in it."""

        def found() -> str | None:
            line = next((line for line in self.lines if text in line), None)
            assert line or self.process.returncode is None, "\n".join(["it has ended:", *self.lines])
            return line

        return str(await eventually(found, f"says {text}"))

    async def port(self) -> int:
        """Where it listens."""
        match = re.search(r"ports=(\d+)", await self.said("event=listening"))
        assert match is not None
        return int(match[1])

    async def ended(self) -> int:
        """Its exit status."""
        return await asyncio.wait_for(self.process.wait(), DEADLINE)

    async def stopped(self, number: int) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(number)
        return await self.ended()


class Finished(NamedTuple):
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str


def command_line(*args: object) -> list[str]:
    """What starts the command, with warnings as errors."""
    return [sys.executable, "-W", "error", "-W", SDK_WARNING, "-m", "exporter", *map(str, args)]


async def run(*args: object) -> Finished:
    """Run the command to its end."""
    process = await asyncio.create_subprocess_exec(
        *GUARD,
        *command_line(*args),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), 2 * DEADLINE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Finished(process.returncode or 0, stdout.decode(), stderr.decode())


@asynccontextmanager
async def started(*args: object, before: Sequence[str] = (), pass_fds: Sequence[int] = ()) -> AsyncIterator[Process]:
    """Run the command until the end of the block; `before` stands before it on the command line."""
    process = await asyncio.create_subprocess_exec(
        *GUARD,
        *before,
        *command_line(*args),
        pass_fds=pass_fds,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    result = Process(process)

    async def collect(stream: Any, lines: list[str]) -> None:
        while line := await stream.readline():
            lines.append(line.decode().rstrip("\n"))

    readers = [
        asyncio.create_task(collect(process.stdout, result.output)),
        asyncio.create_task(collect(process.stderr, result.lines)),
    ]
    try:
        yield result
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.gather(*readers)


@asynccontextmanager
async def serving(*args: object) -> AsyncIterator[tuple[Process, Exporter]]:
    """Run `serve` on a free port until the end of the block."""
    async with started("serve", "--web.listen-address", "127.0.0.1:0", *args) as process, scraper() as session:
        yield process, Exporter(f"http://127.0.0.1:{await process.port()}", session)


# -- sockets and certificates


def closed_port() -> socket.socket:
    """A socket whose port refuses connections for as long as it is open."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    return holder


@dataclass
class Authority:
    """A certificate authority of this test alone; its files are in a folder."""

    folder: Path
    name: str = "ca"

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, self.name)])
        self._certificate = (
            self._builder(subject, subject, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(_usage(signs=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file = self.folder / f"{self.name}.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *hosts: str, expired: bool = False) -> tuple[Path, Path]:
        """A certificate for these hosts (a client's without any) and its key, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            self._builder(subject, self._certificate.subject, key, expired=expired)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(_usage(signs=False), critical=True)
        )
        if hosts:
            names = [x509.IPAddress(ipaddress.ip_address(host)) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        cert_file, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return cert_file, key_file

    def context(self, name: str, *hosts: str, expired: bool = False) -> ssl.SSLContext:
        """What a server of these hosts shows."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue(name, *hosts, expired=expired))
        return context

    @staticmethod
    def _builder(
        subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, expired: bool = False
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(minutes=-1 if expired else 60))
        )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass
class Front:
    """A server in front of the simulator."""

    url: str
    clients: list[Any] = field(default_factory=list)
    """The client certificate of each request, None where it showed none."""
    paths: list[str] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)


@asynccontextmanager
async def tls_front(
    simulator: Simulator,
    authority: Authority,
    *,
    client_authority: Authority | None = None,
    listen: str = "127.0.0.1",
) -> AsyncIterator[Front]:
    """The simulator over TLS; the addresses in its answers are the front's. It may insist on a client certificate."""
    context = authority.context("front", "127.0.0.1")
    if client_authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_authority.file)
    async with front_of(simulator, context, listen) as front:
        yield front


@asynccontextmanager
async def front_of(
    simulator: Simulator, context: ssl.SSLContext | None = None, listen: str = "127.0.0.1"
) -> AsyncIterator[Front]:
    """A server that hands every request on to the simulator; without TLS it serves as a proxy too."""
    front = Front("")

    async def forward(request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        front.clients.append(transport.get_extra_info("peercert") if transport else None)
        front.paths.append(request.path)
        front.headers.append(request.headers)
        kept = {name: value for name, value in request.headers.items() if name != "Transfer-Encoding"}
        async with session.request(
            request.method,
            f"{simulator.url}{request.path_qs}",
            data=await request.read(),
            headers=kept,
            allow_redirects=False,
        ) as answer:
            body = await answer.read()
            if context is not None:
                body = body.replace(b"http://" + request.host.encode(), b"https://" + request.host.encode())
            sent = {
                name: answer.headers[name] for name in ("Content-Type", "X-Subject-Token") if name in answer.headers
            }
            return web.Response(status=answer.status, body=body, headers=sent)

    async with aiohttp.ClientSession() as session:
        runner = web.ServerRunner(web.Server(forward, access_log=None), shutdown_timeout=0)
        await runner.setup()
        try:
            await web.TCPSite(runner, listen, 0, ssl_context=context).start()
            front.url = f"{'https' if context else 'http'}://{listen}:{runner.addresses[0][1]}"
            yield front
        finally:
            # Closing politely would wait for clients that keep their connections.
            for connection in runner.server.connections if runner.server else ():
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()
