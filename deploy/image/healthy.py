"""The image's health check: exit status 0 when the exporter in this container answers, 1 otherwise.

Asks /-/healthy on the first port of HEAT_DEPLOYMENT_EXPORTER_WEB_LISTEN_ADDRESS, or the URL that is its argument, which
may be one of https. Uses nothing but the standard library, and of that little: it runs every few seconds.
"""

import os
import ssl
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

DEADLINE = 5.0
"""Seconds."""


def healthy(url: str) -> bool:
    """Whether somebody answers there, and not with a 5xx: 401 comes from a process that works."""
    target = urlsplit(url)
    host, port = target.hostname or "127.0.0.1", target.port
    if target.scheme == "https":
        # The certificate is for the name by which Prometheus asks, not for the loopback address.
        anyone = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection: HTTPConnection = HTTPSConnection(host, port, timeout=DEADLINE, context=anyone)
    else:
        connection = HTTPConnection(host, port, timeout=DEADLINE)
    try:
        connection.request("GET", target.path or "/-/healthy")
        return connection.getresponse().status < 500
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def address(listening: str) -> str:
    """The URL to ask for where `serve` listens on these addresses, separated by spaces; empty: its default."""
    first = (listening.split() or [":19180"])[0]
    return f"http://127.0.0.1:{first.rpartition(':')[2]}/-/healthy"


if __name__ == "__main__":
    default = address(os.environ.get("HEAT_DEPLOYMENT_EXPORTER_WEB_LISTEN_ADDRESS", ""))
    sys.exit(not healthy(sys.argv[1] if len(sys.argv) > 1 else default))
