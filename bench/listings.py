"""Responses of any size, made on the fly: the same seed gives the same bytes, and no more than a piece is in memory."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any, Final, Literal
from uuid import UUID

from exporter.simulator.outputs import inputs, output

NOW = 1_767_225_600
OUTPUT = ("Reading package lists... Done\nBuilding dependency tree... Done\nok: [localhost]\n" * 12)[:800]
SHARES = (("COMPLETE", 94), ("FAILED", 5), ("IN_PROGRESS", 1))
PIECE = 256 * 1024

Text = Literal["plain", "ansible", "braces", "nested", "unicode", "escaped", "mixed"]
TEXTS: Final[dict[Text, str]] = {
    "plain": "plain text",
    "ansible": "Ansible's JSON on one line",
    "braces": "text with `}, {` in it",
    "nested": "lists of objects in `input_values`",
    "unicode": "text of many scripts in UTF-8",
    "escaped": "text of many scripts, escaped",
    "mixed": "mixed text",
}
"""What deployments print or are given. With each of them a record has 1.8 to 1.9 kB."""


def _values(text: Text, chance: random.Random) -> dict[str, Any]:
    """Input values and output of one deployment."""
    if text == "mixed":
        text = chance.choice(("plain", "ansible", "braces", "nested", "escaped"))
    given: dict[str, Any] | None = {}
    stdout = stderr = ""
    match text:
        case "plain":
            stdout, stderr = OUTPUT, OUTPUT[:600]
        case "ansible":
            stdout = output("ansible", 1250, chance)
        case "braces":
            stdout = output("nested", 1850, chance).replace('"', "")
        case "nested":
            given = inputs("nested", 1650, chance)
        case "unicode":
            stdout = output("unicode", 880, chance)
        case "escaped":
            stdout = output("unicode", 385, chance)
    return {"input_values": given, "output_values": {"deploy_stdout": stdout, "deploy_stderr": stderr}}


def records(deployments: int, servers: int, *, seed: int = 1, text: Text = "plain") -> Iterator[bytes]:
    """Deployments as a Heat lists them, about 1.8 kB each, most of it output."""
    some = [_values(text, random.Random(f"{seed}/{number}")) for number in range(1 if text == "plain" else 64)]
    chance = random.Random(seed)
    ids = [str(UUID(int=chance.getrandbits(128), version=4)) for _ in range(servers)]
    statuses, weights = zip(*SHARES, strict=True)
    for number in range(deployments):
        values = some[number % len(some)]
        status = chance.choices(statuses, weights)[0]
        created = NOW - chance.randrange(60, 30 * 86400)
        deployment = {
            "id": str(UUID(int=chance.getrandbits(128), version=4)),
            "server_id": ids[chance.randrange(servers)],
            "config_id": str(UUID(int=chance.getrandbits(128), version=4)),
            "input_values": values["input_values"],
            "output_values": values["output_values"]
            | {
                "deploy_status_code": 0 if status != "FAILED" else chance.choice((1, 2, 127, 137)),
            },
            "action": "UPDATE" if chance.random() < 0.4 else "CREATE",
            "status": status,
            "status_reason": "Outputs received",
            "creation_time": _time(created),
            "updated_time": _time(created + chance.randrange(1, 60)),
        }
        yield json.dumps(deployment, ensure_ascii=text != "unicode").encode()


def _time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def pieces(deployments: int, servers: int, *, seed: int = 1, text: Text = "plain") -> Iterator[bytes]:
    """A whole response, a quarter of a megabyte at a time."""
    piece = bytearray(b'{"software_deployments": [')
    comma = b""
    for record in records(deployments, servers, seed=seed, text=text):
        piece += comma + record
        comma = b", "
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece + b"]}")


def body(deployments: int, servers: int, *, seed: int = 1, text: Text = "plain") -> bytes:
    """A whole response at once."""
    return b"".join(pieces(deployments, servers, seed=seed, text=text))
