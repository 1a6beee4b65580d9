"""A pod of the chart without a cluster: its volumes as a kubelet makes them, its command on this machine.

The paths of mounts in arguments and variables lead to a folder of the test's. The program is that of this checkout.
"""

import base64
import ssl
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

from tests.programs.process import Process, eventually

ROOT: Final = Path(__file__).parent.parent.parent
PYTHON: Final = "/opt/heat-deployment-exporter/bin/python"
HEALTHY: Final = "/opt/heat-deployment-exporter/share/healthy.py"
"""Where the image has them."""

Json = Any


def workload(objects: Iterable[Json]) -> Json:
    """The Deployment or the StatefulSet."""
    (found,) = [each for each in objects if each["kind"] in ("Deployment", "StatefulSet")]
    return found


def contents(each: Json) -> dict[str, bytes]:
    """What is in a Secret or a ConfigMap, by key."""
    data = each.get("data") or {}
    plain = each["kind"] == "ConfigMap"
    decoded = {name: text.encode() if plain else base64.b64decode(text, validate=True) for name, text in data.items()}
    return decoded | {name: text.encode() for name, text in each.get("stringData", {}).items()}


def here(command: Iterable[str]) -> list[str]:
    """A command of the image that asks for health, as it is run on this machine."""
    known = {PYTHON: sys.executable, HEALTHY: str(ROOT / "deploy" / "image" / "healthy.py")}
    return [known.get(word, word) for word in command]


def answer(url: str) -> int:
    """The status of an answer, without verifying certificates, as a kubelet asks."""
    anyone = ssl._create_unverified_context()  # noqa: S323 - a kubelet verifies nothing
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=anyone))
    try:
        with opener.open(url, timeout=30) as found:
            return int(found.status)
    except HTTPError as error:
        with error:
            return error.code


@dataclass
class Pod:
    """One pod of the objects that the chart makes; others of yours may be among them."""

    objects: list[Json]
    folder: Path

    def __post_init__(self) -> None:
        """Makes the volumes."""
        self.spec = workload(self.objects)["spec"]["template"]["spec"]
        (self.container,) = self.spec["containers"]
        self._round = 0
        self.mount()

    def mount(self) -> None:
        """Writes the volumes, or changes them all at once as a kubelet does: by a link to a folder that is new."""
        self._round += 1
        for mount in self.container.get("volumeMounts", []):
            (volume,) = [each for each in self.spec["volumes"] if each["name"] == mount["name"]]
            path = self._path(mount["mountPath"])
            new = path / f"..{self._round}"
            new.mkdir(parents=True)
            for name, content in self._volume(volume).items():
                (new / name).write_bytes(content)
                if not (path / name).is_symlink():
                    (path / name).symlink_to(f"..data/{name}")
            link = path / "..new"
            link.symlink_to(new.name)
            link.replace(path / "..data")

    def _path(self, mount_path: str) -> Path:
        return self.folder / mount_path.removeprefix("/")

    def _volume(self, volume: Json) -> dict[str, bytes]:
        if "projected" in volume:
            sources = [source["secret"] for source in volume["projected"]["sources"]]
            return {key: text for each in sources for key, text in self._object("Secret", each["name"]).items()}
        if "secret" in volume:
            return self._object("Secret", volume["secret"]["secretName"])
        return self._object("ConfigMap", volume["configMap"]["name"])

    def _object(self, kind: str, name: str) -> dict[str, bytes]:
        (found,) = [each for each in self.objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
        return contents(found)

    def _led(self, text: str) -> str:
        """A text whose mounted paths lead to the folder."""
        for mount in self.container.get("volumeMounts", []):
            path = mount["mountPath"]
            text = text.replace(path, str(self._path(path)))
        return text

    @property
    def command(self) -> list[str]:
        """What the container runs."""
        return [sys.executable, "-m", "exporter", *map(self._led, self.container["args"])]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the container has."""
        return {each["name"]: self._led(each["value"]) for each in self.container.get("env", [])}

    @property
    def port(self) -> int:
        """The container's port."""
        (port,) = self.container["ports"]
        return int(port["containerPort"])

    def run(self, *, host_name: str | None = None) -> Process:
        """The container; with a host name of its own only where `unshare --uts` is permitted."""
        command = self.command
        if host_name is not None:
            script = 'hostname "$0" && exec "$@"'
            command = ["unshare", "--uts", "sh", "-c", script, host_name, *command]
        return Process(host_name or "pod", command, self.folder, **self.environment)

    def asked(self, probe: str, process: Process) -> bool:
        """What a kubelet finds when it asks the container: by HTTP or by a command, from 200 to 399 or 0 is well."""
        action: Mapping[str, Json] = self.container[probe]
        if "exec" in action:
            asking = Process(probe, here(action["exec"]["command"]), self.folder)
            eventually(lambda: asking.ended is not None, timeout=60, what=probe)
            return asking.ended == 0
        get = action["httpGet"]
        (port,) = [each["containerPort"] for each in self.container["ports"] if each["name"] == get["port"]]
        assert process.ended is None, process.tail()
        return answer(f"{get['scheme'].lower()}://127.0.0.1:{port}{get['path']}") < 400

    def well(self, probe: str, process: Process) -> None:
        """Waits until the probe is well."""
        eventually(lambda: self.asked(probe, process), timeout=90, what=f"{probe}; {process.log}")
