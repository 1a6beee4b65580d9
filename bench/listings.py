"""Listings of any size, made on the fly: the same seed gives the same bytes, and no more than a piece is in memory."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from uuid import UUID

NOW = 1_767_225_600
OUTPUT = ("Reading package lists... Done\nBuilding dependency tree... Done\nok: [localhost]\n" * 12)[:800]
SHARES = (("COMPLETE", 94), ("FAILED", 5), ("IN_PROGRESS", 1))
PIECE = 256 * 1024


def records(deployments: int, servers: int, *, seed: int = 1) -> Iterator[bytes]:
    """Deployments as a Heat lists them, about 1.8 kB each, most of it output."""
    chance = random.Random(seed)
    ids = [str(UUID(int=chance.getrandbits(128), version=4)) for _ in range(servers)]
    statuses, weights = zip(*SHARES, strict=True)
    for _ in range(deployments):
        status = chance.choices(statuses, weights)[0]
        created = NOW - chance.randrange(60, 30 * 86400)
        deployment = {
            "id": str(UUID(int=chance.getrandbits(128), version=4)),
            "server_id": ids[chance.randrange(servers)],
            "config_id": str(UUID(int=chance.getrandbits(128), version=4)),
            "input_values": {},
            "output_values": {
                "deploy_stdout": OUTPUT,
                "deploy_stderr": OUTPUT[:600],
                "deploy_status_code": 0 if status != "FAILED" else chance.choice((1, 2, 127, 137)),
            },
            "action": "UPDATE" if chance.random() < 0.4 else "CREATE",
            "status": status,
            "status_reason": "Outputs received",
            "creation_time": _time(created),
            "updated_time": _time(created + chance.randrange(1, 60)),
        }
        yield json.dumps(deployment).encode()


def _time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def pieces(deployments: int, servers: int, *, seed: int = 1) -> Iterator[bytes]:
    """A whole listing, a quarter of a megabyte at a time."""
    piece = bytearray(b'{"software_deployments": [')
    comma = b""
    for record in records(deployments, servers, seed=seed):
        piece += comma + record
        comma = b", "
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece + b"]}")


def body(deployments: int, servers: int, *, seed: int = 1) -> bytes:
    """A whole listing at once."""
    return b"".join(pieces(deployments, servers, seed=seed))
