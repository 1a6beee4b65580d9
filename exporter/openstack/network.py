"""What our own connections need: TLS settings as requests has them, and name resolution that nothing waits for."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import getproxies, proxy_bypass

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from exporter.common.errors import ConfigError
from exporter.common.threads import run_blocking


class Resolver(AbstractResolver):
    """The system's resolver, in daemon threads: unlike in aiohttp's own, a name server that hangs doesn't keep the
    process from ending."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host; OSError where there are none."""

        def look_up() -> list[Any]:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG)

        return [
            ResolveResult(
                hostname=host,
                # A link-local address is none without its interface.
                host=f"{address[0]}%{address[3]}" if found == socket.AF_INET6 and address[3] else address[0],
                port=address[1],
                family=found,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _, protocol, _, address in await run_blocking(look_up, name=f"resolve-{host}")
        ]

    async def close(self) -> None:
        """Nothing is kept open."""


def proxy_for(url: URL) -> URL | None:
    """The proxy that the environment names for an address: `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`.

    aiohttp's own look for one reads ~/.netrc too, whose passwords no cloud is to be sent.
    """
    if url.host is None or proxy_bypass(url.host):
        return None
    proxy = getproxies().get(url.scheme)
    return URL(proxy) if proxy else None


def fingerprint(entry: Mapping[str, Any]) -> str:
    """A digest of the certificate files that a cloud entry names, so that new contents are told from the same path."""
    digest = hashlib.sha256()
    for key in ("cacert", "cert", "key"):
        try:
            digest.update(Path(str(entry.get(key) or "")).expanduser().read_bytes())
        except OSError:
            digest.update(b"-")
        digest.update(key.encode())
    return digest.hexdigest()


def tls_context(verify: bool | str | None, cert: str | tuple[str, str] | None) -> ssl.SSLContext | bool:
    """What requests would check and present, for our own connections. ConfigError where a file can't be used."""
    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        bundle = verify if isinstance(verify, str) else os.environ.get("REQUESTS_CA_BUNDLE")
        bundle = bundle or os.environ.get("CURL_CA_BUNDLE")
        try:
            if bundle:
                path = Path(bundle)
                context = ssl.create_default_context(
                    cafile=None if path.is_dir() else bundle, capath=bundle if path.is_dir() else None
                )
            else:
                context = ssl.create_default_context()
                import certifi  # what requests trusts without a setting

                context.load_verify_locations(cafile=certifi.where())
        except OSError as error:
            raise ConfigError(f"the CA bundle {bundle!r} can't be read: {error}") from None
    if cert:
        try:
            context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
        except OSError as error:
            raise ConfigError(f"the client certificate {cert!r} can't be read: {error}") from None
    return context
