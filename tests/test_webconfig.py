"""The web configuration file by itself: what is taken, what is refused and how that is told."""

import os
import ssl
from pathlib import Path

import bcrypt
import pytest
import yaml

from exporter.common.errors import ConfigError
from exporter.web.web_config import Files, Loaded
from tests.harness import Authority

HASH = bcrypt.hashpw(b"word", bcrypt.gensalt(4)).decode()
TLS = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a certificate and a web configuration file that names it."""
    Authority(tmp_path).issue("server", "127.0.0.1")
    (tmp_path / "web.yml").write_text(TLS)
    return tmp_path


def load(folder: Path, text: str | None = None) -> Loaded:
    """The file, written anew if a text is given."""
    if text is not None:
        (folder / "web.yml").write_text(text)
    return Files.read(folder / "web.yml").loaded()


def refusal(folder: Path, text: str | None = None) -> str:
    """What is said against it."""
    with pytest.raises(ConfigError) as raised:
        load(folder, text)
    return str(raised.value).replace(f"{folder}/web.yml: ", "")


def test_the_documented_keys_are_taken(folder: Path):
    """Every key of the format is known, with its Go names; relative paths are relative to the file."""
    loaded = load(
        folder,
        f"""
tls_server_config:
  cert_file: server.pem
  key_file: {folder}/server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.pem
  client_allowed_sans: [10.1.2.3, host.example.org]
  min_version: TLS12
  max_version: TLS13
  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: false
  curve_preferences: [CurveP256]
http_server_config:
  http2: on
  headers: {{X-Frame-Options: sameorigin, Content-Security-Policy: }}
rate_limit: {{interval: 1m0.5s, burst: 20}}
basic_auth_users: {{alice: {HASH}, 0123: {HASH}}}
""".replace("Content-Security-Policy: }", "Content-Security-Policy: ''}"),
    )
    context = loaded.context
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert {each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.2"} == {
        "ECDHE-ECDSA-AES128-GCM-SHA256"
    }
    assert not context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    assert loaded.names == ("10.1.2.3", "host.example.org")
    assert loaded.config.rate_limit.interval == 60.5
    assert set(loaded.config.basic_auth_users) == {"alice", "0123"}
    assert loaded.notes == ()


def test_an_empty_file_asks_nothing(folder: Path):
    """A file without keys, or with keys without values, starts a plain server for everybody."""
    for text in (
        "",
        "{}",
        "# nothing\n",
        "tls_server_config:\nbasic_auth_users:\n",
        "tls_server_config: {min_version: }",
    ):
        loaded = load(folder, text)
        assert loaded.context is None
        assert not loaded.config.basic_auth_users


def test_inline_certificates(folder: Path):
    """Certificate, key and authority may stand in the file itself."""
    section = {
        "cert": (folder / "server.pem").read_text(),
        "key": (folder / "server.key").read_text(),
        "client_ca": (folder / "ca.pem").read_text(),
        "client_auth_type": "VerifyClientCertIfGiven",
    }
    context = load(folder, yaml.safe_dump({"tls_server_config": section})).context
    assert context is not None
    assert context.verify_mode is ssl.CERT_OPTIONAL
    assert len(context.get_ca_certs()) == 1


def test_several_curves_are_noted(folder: Path):
    """Where this Python can't prefer several curves, the log is told so."""
    text = TLS.replace("server.key}", "server.key, curve_preferences: [X25519, CurveP256]}")
    assert bool(load(folder, text).notes) != hasattr(ssl.SSLContext, "set_groups")


REFUSED = {
    "nonsense: 1": (
        "nonsense: unknown key; expected one of tls_server_config, http_server_config, rate_limit, basic_auth_users"
    ),
    "tls_server_config: {cert: x, kez: y}": "tls_server_config.kez: unknown key; expected one of cert, key, ",
    "rate_limit: {intervall: 1s}": "rate_limit.intervall: unknown key; expected one of interval, burst",
    "tls_server_config: {cert_file: server.pem}": "tls_server_config: expected key_file or key as well",
    "tls_server_config: {key: x}": "tls_server_config: expected cert_file or cert as well",
    "tls_server_config: {cert_file: none, key_file: server.key}": "tls_server_config.cert_file: can't read ",
    "tls_server_config: {client_ca_file: ca.pem, cert_file: server.pem, key_file: server.key}": (
        "tls_server_config: expected a client_auth_type that asks for certificates, where there is a client_ca"
    ),
    TLS.replace("}", ", client_auth_type: RequestClientCert, client_allowed_sans: []}"): (
        "tls_server_config: expected client_auth_type RequireAndVerifyClientCert or RequireAnyClientCert"
    ),
    TLS.replace("}", ", min_version: TLS1}"): "tls_server_config.min_version: expected 'TLS10', 'TLS11', 'TLS12'",
    TLS.replace("}", ", cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]}"): (
        "tls_server_config.cipher_suites: expected names of cipher suites: TLS_AES_128_GCM_SHA256,"
    ),
    TLS.replace("}", ", cipher_suites: TLS_AES_128_GCM_SHA256}"): "tls_server_config.cipher_suites: expected a list",
    TLS.replace("}", ", prefer_server_cipher_suites: 2}"): (
        "tls_server_config.prefer_server_cipher_suites: expected true or false"
    ),
    "http_server_config: {headers: {Set-Cookie: a}}": (
        "http_server_config.headers: expected no headers but Strict-Transport-Security"
    ),
    'http_server_config: {headers: {X-XSS-Protection: "1\\r\\nSet-Cookie: a"}}': (
        "http_server_config.headers: expected X-XSS-Protection to be a line of ASCII text"
    ),
    "rate_limit: {interval: 5 seconds}": "rate_limit.interval: expected a duration such as 100ms, 1s or 1m30s",
    "rate_limit: {burst: -1}": "rate_limit.burst: expected a number from 0",
    "basic_auth_users: {alice: 5}": "basic_auth_users.alice: expected a bcrypt hash",
    "basic_auth_users: alice": "basic_auth_users: expected keys with their values",
    "a: [": "line 1, column 5: not YAML",
    "rate_limit: {}\nrate_limit: {}": "line 2, column 1: a key stands twice",
    "- a": "expected keys such as tls_server_config and basic_auth_users",
}


@pytest.mark.parametrize("text", REFUSED)
def test_refusals_name_the_key_and_what_was_expected(folder: Path, text: str):
    """A mistake is told by the key's path and what was expected there."""
    assert refusal(folder, text).startswith(REFUSED[text])


def test_no_secret_is_ever_shown(folder: Path):
    """No hash, key or password that stands somewhere in a file, rightly or not, is in a message or a repr."""
    key = (folder / "server.key").read_text()
    secret = "s3cr3t-word"
    texts = [
        f"basic_auth_users: {{alice: {secret}}}",
        f"basic_auth_users: {{'{secret} {HASH}': alice}}",
        f"basic_auth_users: [{secret}]",
        f"basic_auth_users: {secret}",
        f"{secret} {HASH}",
        f"basic_auth_users: {{alice: *{secret}}}",
        f"basic_auth_users: {{alice: !{secret} x}}",
        f"basic_auth_users: {{alice: '{HASH}{secret}'}}",
        f"tls_server_config: {{cert_file: server.pem, key: {secret}}}",
        f"tls_server_config: {{cert_file: {secret}, client_auth_type: {secret}}}",
        yaml.safe_dump({"tls_server_config": {"key_file": "server.pem", "cert": key}}),
        yaml.safe_dump({"tls_server_config": {"cert_file": "server.key", "key": [key, secret]}}),
        yaml.safe_dump({"tls_server_config": {"cert_file": "server.pem", key: secret}}),
        f"http_server_config: {{headers: {{'{secret} {HASH}': x}}}}",
    ]
    body = key.splitlines()[1][:20]
    for text in texts:
        said = refusal(folder, text)
        for hidden in (secret, HASH[7:], body):
            assert hidden not in said, text
    fine = f"{TLS}basic_auth_users: {{alice: {HASH}}}"
    shown = repr(load(folder, fine)) + repr(Files.read(folder / "web.yml"))
    assert HASH[7:] not in shown
    inline = {"cert": (folder / "server.pem").read_text(), "key": key}
    assert body not in repr(load(folder, yaml.safe_dump({"tls_server_config": inline})))


def test_a_file_without_an_end_is_refused(folder: Path):
    """What is larger than any such file is not read to its end."""
    assert refusal(folder, TLS.replace("server.pem", "/dev/zero")) == (
        "tls_server_config.cert_file: can't read /dev/zero: larger than 4 MiB"
    )


def test_a_key_with_a_password_is_refused(folder: Path):
    """Nobody is asked for a password on a terminal: such a key is refused."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((folder / "server.key").read_bytes(), None)
    form = serialization.PrivateFormat.PKCS8
    locked = key.private_bytes(serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"word"))
    (folder / "server.key").write_bytes(locked)
    assert "expected a PEM certificate and the key that belongs to it" in refusal(folder)


def test_a_change_of_any_file_is_a_change(folder: Path):
    """What is read is equal as long as nothing changed, in the file or in what it names; its name is no matter."""
    Authority(folder, "second")
    (folder / "web.yml").write_text(
        TLS.replace("}", ", client_ca_file: ca.pem, client_auth_type: VerifyClientCertIfGiven}")
    )
    before = Files.read(folder / "web.yml")
    assert Files.read(folder / "web.yml") == before
    for name in ("web.yml", "server.pem", "server.key", "ca.pem"):
        content = (folder / name).read_bytes()
        times = (folder / name).stat().st_mtime_ns
        changed = content.replace(b"\n", b" ", 1)
        (folder / name).write_bytes(changed)
        os.utime(folder / name, ns=(times, times))
        assert Files.read(folder / "web.yml") != before, name
        (folder / name).unlink()
        assert Files.read(folder / "web.yml") != before, name
        (folder / name).write_bytes(content)
        assert Files.read(folder / "web.yml") == before
