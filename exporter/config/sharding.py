"""Which of several exporters watches a project: rendezvous hashing, so that a change of their number moves as few
projects as it can (one in n+1 when the n+1st is added), and all exporters agree without talking to each other."""

from __future__ import annotations

import hashlib
import re
import socket

from exporter.common.errors import ConfigError


def owner(cloud: str, project_id: str, total: int) -> int:
    """The index, below `total`, of the shard that a project belongs to."""

    def weight(index: int) -> bytes:
        return hashlib.blake2b(f"{cloud}\0{project_id}\0{index}".encode(), digest_size=8).digest()

    return max(range(total), key=weight)


def ordinal(host_name: str | None = None) -> int:
    """The number that ends the host name, as a StatefulSet's pods have it; ConfigError where there is none."""
    name = host_name or socket.gethostname()
    match = re.search(r"(\d+)$", name.split(".")[0])
    if match is None:
        raise ConfigError(f"shard.index: auto: expected a host name that ends in a number, not {name!r}")
    return int(match[1])
