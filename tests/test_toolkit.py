"""The same web configuration files through this exporter and through node_exporter, which has Prometheus' own reader.

Both run as processes of their own and are asked the same things. Where they differ, the reason stands beside it.
"""

import base64
import re
import ssl
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import bcrypt
import pytest
import yaml

from exporter.common.errors import ConfigError
from exporter.web import web_config
from tests.conftest import StartPrometheus
from tests.harness import Authority
from tests.programs.available import OLDEST, releases, require
from tests.programs.process import eventually
from tests.programs.toolkit import Said, WebProgram, ask

PROGRAMS = ("node_exporter", "ours")
PASSWORD, OTHER = "correct horse", "battery staple"


def hashed(password: str) -> str:
    """A hash that takes no time."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def basic(user: str, password: str) -> dict[str, str]:
    """The header of a user."""
    return authorization("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())


def authorization(text: str) -> dict[str, str]:
    """Any such header."""
    return {"Authorization": text}


class Files:
    """Certificates, and the contexts of clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.stranger = Authority(folder, "stranger")
        self.authority.issue("server", "127.0.0.1")
        self.authority.issue("second", "127.0.0.1")
        self.authority.issue("alice", "10.1.2.3")
        self.stranger.issue("mallory", "10.1.2.3")

    def client(
        self,
        certificate: str | None = None,
        *,
        least: ssl.TLSVersion | None = None,
        most: ssl.TLSVersion | None = None,
        ciphers: str | None = None,
        curve: str | None = None,
    ) -> ssl.SSLContext:
        """A client's context that trusts the authority."""
        context = ssl.create_default_context(cafile=str(self.authority.file))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            if least is not None:
                context.minimum_version = least
            if most is not None:
                context.maximum_version = most
        if ciphers:
            context.set_ciphers(ciphers)
        if curve:
            context.set_ecdh_curve(curve)
        if certificate:
            context.load_cert_chain(self.folder / f"{certificate}.pem", self.folder / f"{certificate}.key")
        return context

    def asks(self) -> dict[str, Callable[[int], Said]]:
        """Everything that is asked, by name."""
        old = ssl.TLSVersion.TLSv1
        tls: dict[str, dict[str, Any]] = {
            "tls": {},
            "tls 1.1 at most": {"least": old, "most": ssl.TLSVersion.TLSv1_1, "ciphers": "DEFAULT:@SECLEVEL=0"},
            "tls 1.2 at most": {"most": ssl.TLSVersion.TLSv1_2},
            "tls 1.3": {"least": ssl.TLSVersion.TLSv1_3},
            "tls 1.2 by AES-256": {"most": ssl.TLSVersion.TLSv1_2, "ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384"},
            "tls on P-384": {"curve": "secp384r1"},
            "a certificate": {"certificate": "alice"},
            "a stranger's certificate": {"certificate": "mallory"},
        }
        headers = {
            "user": basic("alice", PASSWORD),
            "number": basic("123", PASSWORD),
            "other password": basic("alice", OTHER),
            "unknown user": basic("mallory", PASSWORD),
            "no password": basic("alice", ""),
            "lower case": authorization(basic("alice", PASSWORD)["Authorization"].replace("Basic", "bAsIC")),
            "no colon": authorization("Basic " + base64.b64encode(b"alice").decode()),
            "not base64": authorization("Basic !!!"),
            "other scheme": authorization("Bearer abc"),
            "empty": authorization(""),
            "two spaces": authorization(basic("alice", PASSWORD)["Authorization"].replace(" ", "  ")),
            "long password": basic("long", "x" * 80),
        }
        asks: dict[str, Callable[[int], Said]] = {
            "plain": ask,
            "plain, landing page": lambda port: ask(port, path="/"),
            "plain, no such page": lambda port: ask(port, path="/nonsense"),
        }
        asks |= {name: _with(tls=self.client(**options)) for name, options in tls.items()}
        asks |= {name: _with(headers=given) for name, given in headers.items()}
        return asks


def _with(**options: Any) -> Callable[[int], Said]:
    return lambda port: ask(port, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The certificates of this module."""
    return Files(tmp_path_factory.mktemp("toolkit"))


TLS = {"cert_file": "server.pem", "key_file": "server.key"}
PLAIN_TO_TLS = "to plain HTTP on a TLS port Go answers 400, OpenSSL ends the connection"
OWN_POLICY = {"plain, landing page": "the pages have a Content-Security-Policy of their own"}


@dataclass(frozen=True)
class Case:
    """A file that both start with, and what is asked then."""

    content: dict[str, Any]
    asked: tuple[str, ...]
    differs: dict[str, str] = field(default_factory=dict)
    """What they answer differently, and why."""


ANY_TLS = ("tls", "tls 1.1 at most", "tls 1.2 at most", "tls 1.3", "plain")
CERTIFICATES = ("tls", "a certificate", "a stranger's certificate")
USERS = {"alice": hashed(PASSWORD), "123": hashed(PASSWORD), "long": hashed("x" * 72)}
ALL_USERS = (
    "user", "number", "other password", "unknown user", "no password", "lower case", "no colon", "not base64",
    "other scheme", "empty", "two spaces", "long password", "plain", "plain, landing page", "plain, no such page",
)  # fmt: skip
BAD_PLAIN = {"plain": PLAIN_TO_TLS}
UNVERIFIED = "Go asks for a certificate and does not look at it; here certificates are verified or not asked for"
CASES = {
    "tls": Case({"tls_server_config": {**TLS, "client_auth_type": "NoClientCert"}}, ANY_TLS + CERTIFICATES, BAD_PLAIN),
    "tls 1.3 alone": Case({"tls_server_config": {**TLS, "min_version": "TLS13"}}, ANY_TLS, BAD_PLAIN),
    "tls 1.2 at most": Case({"tls_server_config": {**TLS, "max_version": "TLS12"}}, ANY_TLS, BAD_PLAIN),
    "old tls": Case({"tls_server_config": {**TLS, "min_version": "TLS10"}}, ANY_TLS, BAD_PLAIN),
    "one cipher and one curve": Case(
        {
            "tls_server_config": {
                **TLS,
                "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
                "curve_preferences": ["CurveP256"],
            }
        },
        ("tls", "tls 1.2 at most", "tls 1.2 by AES-256", "tls on P-384"),
    ),
    "versions without a certificate": Case(
        {"tls_server_config": {"min_version": "TLS13"}}, ("plain", "plain, landing page", "user", "tls"), OWN_POLICY
    ),
    "RequestClientCert": Case({"tls_server_config": {**TLS, "client_auth_type": "RequestClientCert"}}, CERTIFICATES),
    "RequireAnyClientCert": Case(
        {"tls_server_config": {**TLS, "client_auth_type": "RequireAnyClientCert", "client_ca_file": "ca.pem"}},
        CERTIFICATES,
        {"a stranger's certificate": UNVERIFIED},
    ),
    "VerifyClientCertIfGiven": Case(
        {"tls_server_config": {**TLS, "client_auth_type": "VerifyClientCertIfGiven", "client_ca_file": "ca.pem"}},
        CERTIFICATES,
    ),
    "RequireAndVerifyClientCert": Case(
        {"tls_server_config": {**TLS, "client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.pem"}},
        CERTIFICATES,
    ),
    "users": Case({"basic_auth_users": USERS}, ALL_USERS),
    "headers": Case(
        {
            "http_server_config": {
                "http2": False,
                "headers": {
                    "Strict-Transport-Security": "max-age=31536000",
                    "X-Frame-Options": "deny",
                    "X-Content-Type-Options": "nosniff",
                    "X-XSS-Protection": "1; mode=block",
                    "Content-Security-Policy": "default-src 'self'",
                },
            },
            "basic_auth_users": USERS,
        },
        ("user", "plain", "plain, no such page"),
    ),
}


@pytest.fixture(scope="module", params=releases("node_exporter"))
def node_exporter(request: pytest.FixtureRequest) -> str:
    """A release of node_exporter, and so of its toolkit, and then the other."""
    require("node_exporter", request.param)
    return str(request.param)


Answers = dict[str, dict[str, Said]]


def answers(files: Files, program: str, release: str = OLDEST) -> Answers:
    """By case, what a program answers to each thing."""
    asks = files.asks()

    def answered(name: str) -> dict[str, Said]:
        case, index = CASES[name], list(CASES).index(name)
        config = files.folder / f"{index}.yml"
        config.write_text(yaml.safe_dump(case.content))
        with WebProgram(program, config, files.folder / f"{index}-{program}-{release}", release=release) as running:
            assert running.starts(), running.said()
            found = {each: asks[each](running.port) for each in case.asked}
            assert "Traceback" not in running.said()
            return found

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(CASES, pool.map(answered, CASES), strict=True))


@pytest.fixture(scope="module")
def our_answers(files: Files) -> Answers:
    """What is answered here."""
    return answers(files, "ours")


@pytest.fixture(scope="module")
def their_answers(files: Files, node_exporter: str) -> Answers:
    """What node_exporter answers."""
    return answers(files, "node_exporter", node_exporter)


@pytest.mark.parametrize("name", CASES)
def test_both_answer_the_same(our_answers: Answers, their_answers: Answers, name: str) -> None:
    """Status, challenge, added headers, TLS version and refusals are node_exporter's, but where a reason is given."""
    case, theirs, ours = CASES[name], their_answers[name], our_answers[name]
    assert any(said.status for said in ours.values())
    different = {asked: (theirs[asked], ours[asked]) for asked in case.asked if theirs[asked] != ours[asked]}
    assert different.keys() == case.differs.keys(), different


# -- what is refused at the start


REFUSED: dict[str, str] = {
    "no YAML": "tls_server_config: [",
    "a list": "- tls_server_config",
    "an unknown key": "tls_server: {}",
    "an unknown key of TLS": "tls_server_config: {cert_file: server.pem, key_file: server.key, certificate: x}",
    "a key twice": "basic_auth_users: {}\nbasic_auth_users: {}",
    "no key file": "tls_server_config: {cert_file: server.pem}",
    "no certificate": "tls_server_config: {key_file: server.key}",
    "a certificate that is not there": "tls_server_config: {cert_file: none.pem, key_file: server.key}",
    "another certificate's key": "tls_server_config: {cert_file: server.pem, key_file: second.key}",
    "a key that is none": "tls_server_config: {cert_file: server.pem, key_file: server.pem}",
    "an unknown policy": "tls_server_config: {cert_file: server.pem, key_file: server.key, client_auth_type: Yes}",
    "an authority without a policy": (
        "tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem}"
    ),
    "an authority that is not there": (
        "tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: none.pem,"
        " client_auth_type: RequireAndVerifyClientCert}"
    ),
    "an unknown version": "tls_server_config: {cert_file: server.pem, key_file: server.key, min_version: TLS14}",
    "an unknown cipher": "tls_server_config: {cert_file: server.pem, key_file: server.key, cipher_suites: [AES]}",
    "an unknown curve": "tls_server_config: {cert_file: server.pem, key_file: server.key, curve_preferences: [P1]}",
    "a header that may not be added": "http_server_config: {headers: {Server: x}}",
    "a header's name in lower case": "http_server_config: {headers: {x-frame-options: deny}}",
    "a header's wrong value": "http_server_config: {headers: {X-Frame-Options: allow}}",
    "a header's blank value": "http_server_config: {headers: {X-Frame-Options: ''}}",
    "a plain password": "basic_auth_users: {alice: password}",
    "a user without a hash": "basic_auth_users: {alice: }",
    "a flag that is none": "http_server_config: {http2: maybe}",
    "users that are none": "basic_auth_users: [alice]",
}
"""Files with which neither starts."""
ONLY_HERE: dict[str, tuple[str, str]] = {
    "an authority that is none": (
        (
            "tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: server.key,"
            " client_auth_type: RequireAndVerifyClientCert}"
        ),
        "Go takes no certificates for an authority that certifies nobody",
    ),
    "versions the wrong way round": (
        "tls_server_config: {cert_file: server.pem, key_file: server.key, min_version: TLS13, max_version: TLS12}",
        "Go starts, and then refuses every connection",
    ),
    "any certificate, and no authority": (
        "tls_server_config: {cert_file: server.pem, key_file: server.key, client_auth_type: RequireAnyClientCert}",
        "Go lets in whoever made a certificate; Python's TLS can't ask for one without verifying it",
    ),
}
"""Files with which only the other one starts, and why."""


@pytest.fixture(scope="module")
def starts(files: Files, node_exporter: str) -> dict[str, tuple[Path, bool]]:
    """By what is in it: a file, and whether node_exporter starts with it."""
    texts = REFUSED | {name: text for name, (text, _) in ONLY_HERE.items()}

    def started(name: str) -> tuple[Path, bool]:
        number = list(texts).index(name)
        config = files.folder / f"start-{number}.yml"
        config.write_text(texts[name])
        folder = files.folder / f"start-{number}-{node_exporter}"
        with WebProgram("node_exporter", config, folder, release=node_exporter) as running:
            return config, running.starts()

    with ThreadPoolExecutor(3) as pool:
        return dict(zip(texts, pool.map(started, texts), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_neither_starts(starts: dict[str, tuple[Path, bool]], name: str) -> None:
    """What node_exporter refuses at the start is refused here too, by the file's name."""
    config, started = starts[name]
    assert not started
    with pytest.raises(ConfigError, match=re.escape(f"{config}: ")):
        web_config.Files.read(config).loaded()


@pytest.mark.parametrize("name", ONLY_HERE)
def test_some_files_are_refused_here_alone(starts: dict[str, tuple[Path, bool]], name: str) -> None:
    """What node_exporter would start with, to nobody's good, is refused."""
    config, started = starts[name]
    assert started, ONLY_HERE[name][1]
    with pytest.raises(ConfigError, match=re.escape(f"{config}: ")):
        web_config.Files.read(config).loaded()


def test_a_refused_file_ends_the_program(files: Files, node_exporter: str) -> None:
    """Neither program starts with a file that is refused; here the exit status is 2 and there is no traceback."""
    config = files.folder / "refused.yml"
    config.write_text(REFUSED["a plain password"])
    for program in PROGRAMS:
        with WebProgram(
            program, config, files.folder / f"refused-{program}-{node_exporter}", release=node_exporter
        ) as running:
            assert not running.starts()
            assert running.status == (2 if program == "ours" else 1)
            assert "Traceback" not in running.said()
            assert ("basic_auth_users.alice: expected a bcrypt hash" in running.said()) == (program == "ours")


# -- what becomes of a change


@dataclass(frozen=True)
class Change:
    """What the file says from now on, and what each program then answers to whom."""

    content: str
    theirs: dict[str, int | None]
    ours: dict[str, int | None]
    why: str = ""
    """Where they differ."""


def _users(password: str, certificate: str = "server") -> str:
    tls = {"cert_file": f"{certificate}.pem", "key_file": f"{certificate}.key"}
    return yaml.safe_dump({"tls_server_config": tls, "basic_auth_users": {"alice": hashed(password)}})


OLD = {"tls user": 401, "tls other password": 200, "tls": 401, "user": None}
CHANGES = {
    "as started": Change(
        _users(PASSWORD),
        {"tls user": 200, "tls other password": 401, "tls": 401, "user": 400},
        {"tls user": 200, "tls other password": 401, "tls": 401, "user": None},
        PLAIN_TO_TLS,
    ),
    "another password": Change(_users(OTHER, "second"), {**OLD, "user": 400}, OLD, PLAIN_TO_TLS),
    "broken": Change(
        "tls_server_config: [",
        {"tls user": None, "tls other password": None, "tls": None, "user": 400},
        OLD,
        "the toolkit reads the file at each request and answers none while it is broken; here what was good stays",
    ),
    "another certificate's key": Change(
        _users(PASSWORD).replace("server.key", "second.key"),
        {"tls user": None, "tls other password": None, "tls": None, "user": 400},
        OLD,
        "the same",
    ),
    "empty": Change(
        "",
        {"tls user": None, "tls other password": None, "tls": None, "user": 400},
        OLD,
        "an empty file may be one that is being written; the toolkit takes it for one that asks nothing",
    ),
    "no password": Change(
        "tls_server_config: {cert_file: server.pem, key_file: server.key}",
        {"tls user": 200, "tls other password": 200, "tls": 200, "user": 400},
        {"tls user": 200, "tls other password": 200, "tls": 200, "user": None},
        PLAIN_TO_TLS,
    ),
    "no TLS": Change(
        yaml.safe_dump({"basic_auth_users": {"alice": hashed(PASSWORD)}}),
        {"tls user": None, "tls other password": None, "tls": None, "user": 400},
        {"tls user": None, "tls other password": None, "tls": None, "user": 200},
        "the toolkit decides at the start whether it speaks TLS",
    ),
    "TLS again": Change(
        _users(PASSWORD),
        {"tls user": 200, "tls other password": 401, "tls": 401, "user": 400},
        {"tls user": 200, "tls other password": 401, "tls": 401, "user": None},
        PLAIN_TO_TLS,
    ),
}


def test_both_follow_changes(files: Files, node_exporter: str) -> None:
    """A changed file is gone by without a restart; what differs from node_exporter is as it stands beside each change.

    Every refusal is logged once, however often the file was looked at.
    """
    config = files.folder / "changing.yml"
    config.write_text(_users(PASSWORD))
    client = files.client()
    asks = {
        "tls user": _with(tls=client, headers=basic("alice", PASSWORD)),
        "tls other password": _with(tls=client, headers=basic("alice", OTHER)),
        "tls": _with(tls=client),
        "user": _with(headers=basic("alice", PASSWORD)),
    }

    def answered(program: WebProgram) -> dict[str, int | None]:
        return {name: each(program.port).status for name, each in asks.items()}

    with (
        WebProgram(
            "node_exporter", config, files.folder / f"changing-theirs-{node_exporter}", release=node_exporter
        ) as theirs,
        WebProgram("ours", config, files.folder / f"changing-ours-{node_exporter}") as ours,
    ):
        assert theirs.starts()
        assert ours.starts()
        for name, change in CHANGES.items():
            told = ours.said().count("web configuration")
            config.write_text(change.content)
            if name != "as started":
                eventually(lambda told=told: ours.said().count("web configuration") > told, what=name)  # type: ignore[misc]
            assert answered(theirs) == change.theirs, name
            assert answered(ours) == change.ours, name
            assert bool(change.why) == (change.theirs != change.ours)
        lines = [line for line in ours.said().splitlines() if "stays in force" in line]
        assert len(lines) == sum(name in ("broken", "another certificate's key", "empty") for name in CHANGES)
        assert "$2b$" not in ours.said()
        assert "Traceback" not in ours.said()
        assert ours.status is None


def test_prometheus_scrapes_with_a_certificate_and_a_password(files: Files, prometheus: StartPrometheus) -> None:
    """A real Prometheus that shows its certificate and knows the password gets the metrics; one without fails."""
    policy = {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.pem"}
    config = files.folder / "scraped.yml"
    config.write_text(
        yaml.safe_dump({"tls_server_config": {**TLS, **policy}, "basic_auth_users": {"alice": hashed(PASSWORD)}})
    )
    with WebProgram("ours", config, files.folder / uuid4().hex) as running:
        assert running.starts(), running.said()
        certificate = {
            "ca_file": str(files.authority.file),
            "cert_file": str(files.folder / "alice.pem"),
            "key_file": str(files.folder / "alice.key"),
        }
        job = {"scheme": "https", "static_configs": [{"targets": [f"127.0.0.1:{running.port}"]}]}
        user = {"username": "alice", "password": PASSWORD}
        scraping = prometheus(
            [
                {**job, "job_name": "known", "tls_config": certificate, "basic_auth": user},
                {**job, "job_name": "wordless", "tls_config": certificate},
                {**job, "job_name": "bare", "tls_config": {"ca_file": certificate["ca_file"]}, "basic_auth": user},
            ]
        )
        found = scraping.wait_until("up", lambda up: len(up) == 3)
        assert {each.labels["job"]: each.value for each in found} == {"known": 1, "wordless": 0, "bare": 0}
        assert [each.labels["job"] for each in scraping.query("heat_exporter_build_info")] == ["known"]
