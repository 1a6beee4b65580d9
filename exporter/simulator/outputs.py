"""Outputs and input values of deployments, in the styles that real clouds store."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final, Literal

Style = Literal["plain", "ansible", "nested", "unicode", "mixed"]
STYLES: Final[tuple[Style, ...]] = ("plain", "ansible", "nested", "unicode", "mixed")

LINES: Final = (
    "Reading package lists... Done",
    "Building dependency tree... Done",
    "changed: [localhost] => (item=/etc/nginx/conf.d/default.conf)",
    "ok: [localhost]",
    "Notice: Applied catalog in 4.31 seconds",
    "Created symlink /etc/systemd/system/multi-user.target.wants/agent.service.",
    "Writing to /var/lib/heat-config/deployed\nWritten to /var/lib/heat-config/deployed",
    "Certificate will not expire within the next 30 days: kept",
)
SCRIPTS: Final = (
    "Grüße aus dem Rechenzentrum ✓",
    "Настройка завершена без ошибок",
    "設定が完了しました",
    "Η εγκατάσταση ολοκληρώθηκε",
    "déploiement terminé — 0 erreur 🎉",
)
TASKS: Final = ("Gathering Facts", "install packages", "write the configuration", "restart nginx", "wait for port 443")
NAMES: Final = ("alice", "bob", "carol", "dave", "eve", "mallory", "peggy", "trent")


def output(style: Style, size: int, chance: random.Random) -> str:
    """Return a deployment's stdout of so many characters; JSON breaks off there."""
    match style:
        case "mixed":
            return output(chance.choice(("plain", "ansible", "nested", "unicode")), size, chance)
        case "ansible":
            return _grown(lambda count: json.dumps(_play(count, chance)), size)
        case "nested":
            return _grown(lambda count: json.dumps(users(count, chance)), size)
        case _:
            lines = LINES if style == "plain" else SCRIPTS
            return _grown(lambda count: "".join(f"{chance.choice(lines)}\n" for _ in range(count)), size)


def inputs(style: Style, size: int, chance: random.Random) -> dict[str, Any] | None:
    """Return a deployment's input values with a list of objects, about so many bytes; None if the style has none."""
    if style == "mixed":
        style = chance.choice(("plain", "ansible", "nested", "unicode"))
    if style != "nested":
        return None
    return {"users": users(1 + size // 80, chance), "notify": True}


def users(count: int, chance: random.Random) -> list[dict[str, Any]]:
    """Return a list of objects whose first key is a deployment's."""
    return [
        {"id": f"{chance.getrandbits(32):08x}", "name": chance.choice(NAMES), "groups": ["wheel", "adm"]}
        for _ in range(count)
    ]


def _play(count: int, chance: random.Random) -> dict[str, Any]:
    """Return what Ansible's callback `json` prints of a play with so many tasks."""
    tasks = [
        {
            "hosts": {"localhost": {"changed": chance.random() < 0.5, "rc": 0, "stdout_lines": ["ok", ""]}},
            "task": {"id": f"{chance.getrandbits(64):016x}", "name": chance.choice(TASKS)},
        }
        for _ in range(count)
    ]
    return {"plays": [{"play": {"name": "all"}, "tasks": tasks}], "stats": {"localhost": {"failures": 0, "ok": count}}}


def _grown(make: Callable[[int], str], size: int) -> str:
    """Return a text that is made larger until it has the size, cut there."""
    count = 1
    while len(text := make(count)) < size:
        count = 2 * count
    return text[:size]
