"""How the web side speaks TLS: Go's names for things, as a web configuration has them, made an SSLContext of."""

from __future__ import annotations

import os
import re
import ssl
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from exporter.common.errors import ConfigError

# For TLS 1.3 the suites are not chosen, neither here nor in Go; their names are allowed all the same.
CIPHERS: Final[Mapping[str, str]] = {
    "TLS_AES_128_GCM_SHA256": "",
    "TLS_AES_256_GCM_SHA384": "",
    "TLS_CHACHA20_POLY1305_SHA256": "",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
"""Go's cipher suites that are not insecure, and OpenSSL's names of those of TLS 1.2 and below."""
CURVES: Final[Mapping[str, str]] = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
"""Go's curves and OpenSSL's names of them."""
_VERSIONS: Final = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate with what certifies it, and its key, as PEM."""

    chain: bytes
    key: bytes = field(repr=False)


def server_context(
    certificate: Certificate,
    *,
    client_auth: str,
    client_authorities: bytes,
    versions: tuple[str, str],
    ciphers: Sequence[str],
    prefer_own_order: bool,
    curves: Sequence[str],
    note: Callable[[str], None],
) -> ssl.SSLContext:
    """The context for these settings; ConfigError where it can't be had, a note where it is not quite what was asked.

    Nothing of the certificate or its key is in any message.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    _set_versions(context, *versions)
    chosen = [CIPHERS[name] for name in ciphers if CIPHERS[name]]
    if chosen or versions[0] in ("TLS10", "TLS11"):
        # OpenSSL 3 speaks what is older than TLS 1.2 at security level 0 only.
        level = ":@SECLEVEL=0" if versions[0] in ("TLS10", "TLS11") else ""
        context.set_ciphers(":".join(chosen or ["ECDHE+AESGCM", "ECDHE+CHACHA20", "ECDHE+AES"]) + level)
    if not prefer_own_order:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _set_curves(context, curves, note)
    _set_client_auth(context, client_auth, client_authorities)
    with _as_file(certificate.chain) as chain, _as_file(certificate.key) as key:
        try:
            # A key with a password fails, instead of asking for it on a terminal.
            context.load_cert_chain(chain, key, password="")
        except (ssl.SSLError, ValueError, OSError) as error:
            said = getattr(error, "reason", None) or "not PEM"
            raise ConfigError(f"expected a PEM certificate and the key that belongs to it ({said})") from None
    return context


def _set_versions(context: ssl.SSLContext, least: str, most: str) -> None:
    with warnings.catch_warnings():
        # Python warns of TLS 1.0 and 1.1; whoever asks for them by name knows.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = _VERSIONS[least]
        context.maximum_version = _VERSIONS[most]


def _set_curves(context: ssl.SSLContext, curves: Sequence[str], note: Callable[[str], None]) -> None:
    set_groups: Any = getattr(context, "set_groups", None)
    if not curves:
        return
    if set_groups is not None:
        set_groups(":".join(CURVES[name] for name in curves))
    elif len(curves) == 1:
        context.set_ecdh_curve(CURVES[curves[0]])
    else:
        note("curve_preferences: this Python can set one curve or leave OpenSSL's own choice, which is in force")


def _set_client_auth(context: ssl.SSLContext, policy: str, authorities: bytes) -> None:
    if policy in ("RequireAnyClientCert", "RequireClientCert") and not authorities:
        # Python's TLS knows no certificate that is asked for and not verified.
        raise ConfigError(
            f"expected client_ca_file or client_ca for client_auth_type {policy}: certificates are always verified"
        )
    if policy in ("", "NoClientCert", "RequestClientCert"):
        # One that is only requested changes nothing about who is let in, so it isn't asked for.
        context.verify_mode = ssl.CERT_NONE
    else:
        context.verify_mode = ssl.CERT_OPTIONAL if policy == "VerifyClientCertIfGiven" else ssl.CERT_REQUIRED
        if authorities:
            try:
                context.load_verify_locations(
                    cadata="\n".join(each.decode("ascii") for each in _CERTIFICATE.findall(authorities))
                )
            except (ssl.SSLError, ValueError):
                raise ConfigError("client_ca_file or client_ca: expected PEM certificates") from None
        else:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """The name of a file with this content, which is in memory alone where the system can do that."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name


def names_of(certificate: Mapping[str, Any]) -> set[str]:
    """The subject alternative names of a peer's certificate: DNS names, mail addresses, IP addresses and URIs."""
    import ipaddress

    found = set()
    for kind, name in certificate.get("subjectAltName", ()):
        if kind in ("DNS", "email", "URI"):
            found.add(name)
        elif kind == "IP Address":
            found.add(str(ipaddress.ip_address(name)))
    return found
