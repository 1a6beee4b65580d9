"""Who gets in, over sockets: what the web configuration file asks of each request, and what becomes of its changes."""

import asyncio
import base64
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import aiohttp
import bcrypt
import pytest
import yaml
from structlog.testing import capture_logs

from exporter.cli.serve import Address, listening
from exporter.collector.collector import Collector
from exporter.common.errors import ConfigError
from exporter.web.app import Server
from exporter.web.auth_middleware import AuthMiddleware, Bucket
from exporter.web.web_config import RateLimit, WebConfig
from tests import harness
from tests.harness import Authority, Cloud, Exporter, Samples, configuration, eventually, run, scraper, serving

cloud = harness.cloud
pytestmark = harness.sdk_warning

TLS = {"cert_file": "server.pem", "key_file": "server.key"}
PATHS = (
    "/metrics", "/", "/-/healthy", "/-/ready", "/probe", "/sd", "/config", "/project", "/updates", "/assets/page.css",
    "/nonsense",
)  # fmt: skip


def hashed(password: str) -> str:
    """A hash that takes no time."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def basic(user: str, password: str) -> str:
    """The header of a user."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


ALICE = basic("alice", "right")


@dataclass
class Guarded:
    """An exporter in this process with a web configuration file."""

    folder: Path
    port: int
    entrance: AuthMiddleware
    session: aiohttp.ClientSession

    @property
    def plain(self) -> Exporter:
        """It, without TLS."""
        return Exporter(f"http://127.0.0.1:{self.port}", self.session)

    def write(self, **sections: object) -> None:
        """Change the file."""
        (self.folder / "web.yml").write_text(yaml.safe_dump(sections))

    async def changed(self, **sections: object) -> None:
        """Change the file, and go by it."""
        self.write(**sections)
        await self.entrance.look()


@asynccontextmanager
async def guarded(folder: Path, **sections: object) -> AsyncIterator[Guarded]:
    """An exporter that has asked nothing, with this web configuration."""
    (folder / "web.yml").write_text(yaml.safe_dump(sections))
    entrance = AuthMiddleware(folder / "web.yml")
    async with (
        listening(Server(Collector(configuration())), [Address("127.0.0.1", 0)], entrance=entrance) as ports,
        scraper() as session,
    ):
        yield Guarded(folder, ports[0], entrance, session)


def client(folder: Path, certificate: str | None = None) -> ssl.SSLContext:
    """A client that trusts the authority, with a certificate if it has one."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if certificate:
        context.load_cert_chain(folder / f"{certificate}.pem", folder / f"{certificate}.key")
    return context


async def test_every_path_is_guarded(cloud: Cloud, tmp_path: Path):
    """Without a user's password every path is 401 with a challenge, health and what is not there included; with one it
    is what it always is."""
    async with guarded(tmp_path, basic_auth_users={"alice": hashed("right")}) as guard:
        for path in PATHS:
            refused = await guard.plain.get(path)
            assert (refused.status, refused.text) == (401, "Unauthorized\n"), path
            assert refused.headers["WWW-Authenticate"] == "Basic"
            assert refused.headers["Content-Type"] == "text/plain; charset=utf-8"
            wrong = await guard.plain.get(path, Authorization=basic("alice", "wrong"))
            assert (wrong.status, wrong.raw, set(wrong.headers)) == (401, refused.raw, set(refused.headers))
            let_in = await guard.plain.get(path, Authorization=ALICE)
            assert let_in.status in (200, 204, 400, 404, 503), path
            assert "WWW-Authenticate" not in let_in.headers
        assert (await guard.plain.get("/-/reload", method="POST")).status == 401
        page = Samples.of((await guard.plain.get(Authorization=ALICE)).text)
        assert page.value("heat_exporter_build_info") == 1


async def test_headers_are_added_to_every_answer(cloud: Cloud, tmp_path: Path):
    """The headers of the file are on every answer, refusals included, and take the place of our own."""
    headers = {"X-Frame-Options": "deny", "Content-Security-Policy": "default-src 'self'", "X-XSS-Protection": ""}
    async with guarded(
        tmp_path, http_server_config={"headers": headers}, basic_auth_users={"alice": hashed("right")}
    ) as guard:
        for path in PATHS:
            for given in ({}, {"Authorization": ALICE}):
                answer = await guard.plain.get(path, **given)
                assert answer.headers.getall("X-Frame-Options") == ["deny"]
                assert answer.headers.getall("Content-Security-Policy") == ["default-src 'self'"]
                assert "X-XSS-Protection" not in answer.headers


async def test_too_many_guesses_are_told_to_come_again(cloud: Cloud, tmp_path: Path):
    """Of a flood of wrong passwords some are 503 with Retry-After, none gets in, and a known scraper gets its page."""
    async with guarded(
        tmp_path, basic_auth_users={"alice": bcrypt.hashpw(b"right", bcrypt.gensalt(8)).decode()}
    ) as guard:
        assert (await guard.plain.get(Authorization=ALICE)).status == 200
        flood = [
            asyncio.create_task(guard.plain.get(Authorization=basic("alice", f"guess-{each}"))) for each in range(200)
        ]
        for _ in range(5):
            assert (await guard.plain.get(Authorization=ALICE)).status == 200
        answers = await asyncio.gather(*flood)
        assert {each.status for each in answers} == {401, 503}
        assert all(each.headers["Retry-After"] == "1" for each in answers if each.status == 503)


def test_a_rate_is_kept():
    """So many requests at once, then one an interval; without an interval any number."""
    now = 100.0
    bucket = Bucket(RateLimit.model_validate({"interval": "2s", "burst": "3"}), lambda: now)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now += 1.9
    assert not bucket.take()
    now += 0.2
    assert [bucket.take() for _ in range(2)] == [True, False]
    now += 1000
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    free = Bucket(RateLimit(), lambda: now)
    assert all(free.take() for _ in range(100))


async def test_past_the_rate_is_429(cloud: Cloud, tmp_path: Path):
    """What comes past the rate is refused, whoever it is."""
    async with guarded(tmp_path, rate_limit={"interval": "1h", "burst": 2}) as guard:
        answers = [await guard.plain.get("/-/healthy") for _ in range(3)]
        assert [each.status for each in answers] == [200, 200, 429]
        assert answers[2].text == "Too Many Requests\n"


# -- client certificates


async def test_names_of_client_certificates(cloud: Cloud, tmp_path: Path):
    """With client_allowed_sans only a certificate with one of the names gets an answer."""
    authority = Authority(tmp_path)
    authority.issue("server", "127.0.0.1")
    authority.issue("alice", "10.1.2.3", "10.1.2.4")
    authority.issue("eve", "10.1.2.5")
    authority.issue("nameless")
    policy = {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.pem"}
    async with guarded(tmp_path, tls_server_config={**TLS, **policy, "client_allowed_sans": ["10.1.2.4"]}) as guard:
        url = f"https://127.0.0.1:{guard.port}/-/healthy"
        async with guard.session.get(url, ssl=client(tmp_path, "alice")) as answer:
            assert answer.status == 200
        for name in ("eve", "nameless", None):
            with pytest.raises(aiohttp.ClientError):
                await guard.session.get(url, ssl=client(tmp_path, name))
        await guard.changed(tls_server_config={**TLS, **policy, "client_allowed_sans": ["10.1.2.5"]})
        async with guard.session.get(url, ssl=client(tmp_path, "eve")) as answer:
            assert answer.status == 200


# -- changes


async def test_a_new_certificate_without_a_gap(cloud: Cloud, tmp_path: Path):
    """While certificates are changed again and again, every new connection is answered, with the old or the new one;
    connections that are there stay."""
    authority = Authority(tmp_path)
    authority.issue("server", "127.0.0.1")
    async with guarded(tmp_path, tls_server_config=TLS) as guard:
        context = client(tmp_path)
        seen: list[bytes] = []
        done = asyncio.Event()

        async def connect() -> None:
            while not done.is_set():
                reader, writer = await asyncio.open_connection("127.0.0.1", guard.port, ssl=context)
                certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                if certificate not in seen:
                    seen.append(certificate)
                writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert b"200 OK" in await reader.readline()
                writer.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", guard.port, ssl=context)
        request = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(request)
        assert b"Healthy\n" in await reader.readuntil(b"Healthy\n")
        clients = [asyncio.create_task(connect()) for _ in range(4)]

        def shown(number: int) -> bool:
            for each in clients:
                if each.done():
                    each.result()  # it only ends by an error before it is told to
            return len(seen) == number

        for number in range(1, 6):
            await eventually(lambda number=number: shown(number))
            authority.issue("server", "127.0.0.1")
            await guard.entrance.look()
        await eventually(lambda: shown(6))
        done.set()
        await asyncio.gather(*clients)
        writer.write(request)
        assert b"Healthy\n" in await reader.readuntil(b"Healthy\n")
        writer.close()


async def test_a_file_that_is_broken_later_changes_nothing(cloud: Cloud, tmp_path: Path):
    """What can't be gone by is refused by name, each time it is asked and once in the log; what was in force stays."""
    users = {"alice": hashed("right")}
    async with guarded(tmp_path, basic_auth_users=users) as guard:
        with capture_logs() as logs:
            for text in ("basic_auth_users: {alice: plain-word}", "", "basic_auth_users: ["):
                (tmp_path / "web.yml").write_text(text)
                for _ in range(3):
                    with pytest.raises(ConfigError, match=r"web\.yml: "):
                        await guard.entrance.look()
                assert (await guard.plain.get(Authorization=ALICE)).status == 200
                assert (await guard.plain.get()).status == 401
            (tmp_path / "web.yml").unlink()
            with pytest.raises(ConfigError, match="can't be read"):
                await guard.entrance.look()
            await guard.changed(basic_auth_users={"alice": hashed("other")})
        assert (await guard.plain.get(Authorization=ALICE)).status == 401
        assert [each["log_level"] for each in logs] == ["warning"] * 4 + ["info"]
        assert "plain-word" not in str(logs)


async def test_a_file_that_keeps_changing_keeps_nobody_waiting(cloud: Cloud, tmp_path: Path):
    """Every caller gets an error while the file keeps changing, and the previous configuration stays; the log says it
    once. When the file stays the same, it is used."""
    alice = hashed("right")
    async with guarded(tmp_path, basic_auth_users={"alice": alice}) as guard:

        async def rewrite() -> None:
            for number in count():
                (tmp_path / "new.yml").write_text(
                    yaml.safe_dump({"basic_auth_users": {"alice": alice, f"u{number}": alice}})
                )
                (tmp_path / "new.yml").replace(tmp_path / "web.yml")
                await asyncio.sleep(0.01)

        with capture_logs() as logs:
            rewriting = asyncio.create_task(rewrite())
            async with asyncio.timeout(30):
                outcomes = await asyncio.gather(*(guard.entrance.look() for _ in range(3)), return_exceptions=True)
            assert [type(each) for each in outcomes] == [ConfigError] * 3
            assert all("web.yml: keeps changing" in str(each) for each in outcomes)
            assert (await guard.plain.get(Authorization=ALICE)).status == 200
            rewriting.cancel()
            await asyncio.wait((rewriting,))
            assert [each["log_level"] for each in logs] == ["warning"]
            # As it was, and yet it is used: what was read meanwhile counts for nothing.
            for name in ("alice", "bob"):
                await guard.changed(basic_auth_users={name: alice})
                assert (await guard.plain.get(Authorization=basic(name, "right"))).status == 200
        assert [each["log_level"] for each in logs] == ["warning", "info", "info"]


async def test_it_is_looked_at_by_itself(cloud: Cloud, tmp_path: Path):
    """A change is gone by without anybody asking for it, also after a refused one."""
    async with guarded(tmp_path, basic_auth_users={"alice": hashed("right")}) as guard:
        (tmp_path / "web.yml").write_text("nonsense: 1")
        with capture_logs() as logs:
            await eventually(lambda: logs)
        guard.write(basic_auth_users={"alice": hashed("other")})

        async def refused() -> bool:
            return (await guard.plain.get(Authorization=ALICE)).status == 401

        await eventually(refused)


# -- the command


async def test_serve_with_a_web_configuration(cloud: Cloud):
    """`serve` goes by the file from its start, and a reload goes by what it says then or tells what is wrong."""
    file = cloud.put("web.yml", yaml.safe_dump({"basic_auth_users": {"alice": hashed("right")}}))
    arguments = ("--config.file", cloud.configure(), "--web.config.file", file, "--web.enable-lifecycle")
    async with serving(*arguments) as (process, exporter):
        assert (await exporter.get("/-/healthy")).status == 401
        assert (await exporter.get("/-/healthy", Authorization=ALICE)).status == 200
        file.write_text("basic_auth_users: {alice: plain-word}")
        answer = await exporter.get("/-/reload", method="POST", Authorization=ALICE)
        assert answer.status == 500
        assert "basic_auth_users.alice: expected a bcrypt hash" in answer.text
        file.write_text(yaml.safe_dump({"basic_auth_users": {"alice": hashed("other")}}))
        assert (await exporter.get("/-/reload", method="POST", Authorization=ALICE)).status in (200, 401)
        answer = await exporter.get("/-/reload", method="POST", Authorization=basic("alice", "other"))
        assert answer.status == 200
        assert (await exporter.get("/-/healthy", Authorization=ALICE)).status == 401
        assert await process.stopped(signal.SIGTERM) == 0
    assert not [line for line in process.lines if "plain-word" in line or "Traceback" in line]


@pytest.mark.parametrize("command", ["serve", "demo"])
async def test_a_broken_file_is_refused_at_the_start(cloud: Cloud, command: str):
    """Exit status 2, the file, the key and what was expected; the file may be named by the environment."""
    file = cloud.put("web.yml", "basic_auth_users: {alice: plain-word}\nusers: {}")
    cloud.monkeypatch.setenv("HEAT_DEPLOYMENT_EXPORTER_WEB_CONFIG_FILE", str(file))
    cloud.configure()
    done = await run(command, "--web.listen-address", "127.0.0.1:0")
    assert (done.status, done.stdout) == (2, "")
    complaints = [line for line in done.stderr.splitlines() if str(file) in line]
    assert complaints == [
        f"{file}: basic_auth_users.alice: expected a bcrypt hash, such as `htpasswd -nBC 10 ''` makes",
        f"{file}: users: unknown key; expected one of {', '.join(WebConfig.model_fields)}",
    ]
    assert "Traceback" not in done.stderr
