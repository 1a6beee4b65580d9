"""The web configuration file: any bytes can be gone by, or are a ConfigError that names the file and no secret."""

import tempfile
from pathlib import Path

from exporter.common.errors import ConfigError
from exporter.web.web_config import Files

_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-web-")
FILE = Path(_FOLDER.name, "web.yaml")
HASH = b"$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
SECRET = "fuzz;secret"
"""It doesn't look like the name of a key, which may be shown."""
SEEDS = (
    b"basic_auth_users: {alice: " + HASH + b"}\n",
    b"basic_auth_users: {alice: fuzz;secret}\n",
    b"tls_server_config: {cert_file: a.pem, key_file: a.key, client_auth_type: RequireAndVerifyClientCert}\n",
    b"tls_server_config:\n  cert: fuzz;secret\n  key: fuzz;secret\n  cipher_suites: [fuzz;secret]\n",
    b"http_server_config: {http2: false, headers: {X-Frame-Options: deny, Strict-Transport-Security: fuzz;secret}}\n",
    b"rate_limit: {interval: 1m30s, burst: 5}\ntls_server_config: {client_allowed_sans: [a]}\n",
    b"a: &a {x: 1}\nrate_limit: {<<: [*a, *a]}\n",
    b"fuzz;secret: fuzz;secret\n? [fuzz;secret]\n: 1\n",
    b"- fuzz;secret\n",
)
WORDS = (
    b"tls_server_config: ", b"http_server_config: ", b"rate_limit: ", b"basic_auth_users: ", b"cert: ", b"key: ",
    b"cert_file: ", b"key_file: ", b"client_ca: ", b"client_auth_type: ", b"NoClientCert", b"min_version: ",
    b"TLS13", b"cipher_suites: ", b"curve_preferences: ", b"headers: ", b"http2: ", b"interval: ", b"burst: ",
    b"fuzz;secret", b"<<: ", b"&a ", b"*a", b"1m30s", b"5", b"~", b"- ", b"{", b"}", b"[", b"]", b"!!binary ",
    b"\n  ", HASH,
)  # fmt: skip


def check(data: bytes) -> None:
    """The file with these bytes is taken or refused, and its secrets stay in it."""
    if b"/" in data.replace(HASH, b""):
        return  # it shall not read this machine's files
    FILE.write_bytes(data)
    files = Files.read(FILE)
    assert files == Files.read(FILE)
    for text in (repr(files), _problem(files)):
        assert SECRET not in text, f"{data!r}: {text}"


def _problem(files: Files) -> str:
    try:
        files.loaded()
    except ConfigError as error:
        for line in str(error).splitlines():
            assert line.startswith(f"{FILE}: "), line
        return str(error)
    return ""
