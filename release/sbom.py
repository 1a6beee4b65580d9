"""The software bill of materials: what the pinned runtime requirements bring, as CycloneDX JSON.

`python -m release.sbom > heat-deployment-exporter.cdx.json`. It is made from requirements/runtime.txt alone, so it is
the same on every machine: no environment is looked at, nobody is asked, and the serial number comes from the contents.
"""

import json
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from exporter import __version__

ROOT = Path(__file__).parent.parent
PINS = ROOT / "requirements" / "runtime.txt"

Json = Any


@dataclass(frozen=True, slots=True)
class Pin:
    """One pinned package."""

    name: str
    version: str
    marker: str
    """The environments that need it; empty: all."""
    wanted_by: tuple[str, ...]
    """Names of the packages that depend on it, the project's own among them."""

    @property
    def purl(self) -> str:
        """Its package URL, which is its reference too."""
        return f"pkg:pypi/{self.name}@{self.version}"


def pins(text: str) -> list[Pin]:
    """What a requirements file pins, as `uv pip compile` writes it: a pin, its hashes, who wants it.

    A line that is none of these raises ValueError: a bill must not leave out what it can't read.
    """
    found: list[tuple[re.Match[str], list[str]]] = []
    for line in text.splitlines():
        if match := re.fullmatch(r"([a-z0-9._-]+)==([^ ;]+)(?: ; (.+?))? \\", line):
            found.append((match, []))
        elif found and (wanted := re.fullmatch(r"    #(?: via|  ) ([^ ]+)(?: \(.+\))?", line)):
            found[-1][1].append(wanted[1])
        elif not re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?|    # via|", line):
            raise ValueError(f"neither a pin nor a hash nor who wants it: {line!r}")
    return [Pin(match[1], match[2], match[3] or "", tuple(wanted)) for match, wanted in found]


def timestamp(environment: Mapping[str, str]) -> dict[str, str]:
    """When the bill was made, by SOURCE_DATE_EPOCH; nothing without it, as the clock would make each bill another."""
    epoch = environment.get("SOURCE_DATE_EPOCH")
    return {"timestamp": datetime.fromtimestamp(int(epoch), UTC).isoformat()} if epoch else {}


def bill(text: str, environment: Mapping[str, str]) -> Json:
    """The bill of a requirements file's contents: components, and which of them needs which."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name = project["name"]
    root = f"pkg:pypi/{name}@{__version__}"
    found = pins(text)
    needs: dict[str, list[str]] = {root: [], **{pin.purl: [] for pin in found}}
    purls = {name: root} | {pin.name: pin.purl for pin in found}
    for pin in found:
        for wanting in pin.wanted_by:
            needs[purls[wanting]].append(pin.purl)
    components = [
        {
            "type": "library",
            "bom-ref": pin.purl,
            "name": pin.name,
            "version": pin.version,
            "purl": pin.purl,
            # A package that only some environments need may be missing where this bill is read.
            "scope": "optional" if pin.marker else "required",
        }
        for pin in found
    ]
    itself = {
        "type": "application",
        "bom-ref": root,
        "name": name,
        "version": __version__,
        "description": project["description"],
        "licenses": [{"license": {"id": project["license"]}}],
        "purl": root,
    }
    contents = {
        "metadata": {**timestamp(environment), "component": itself},
        "components": components,
        "dependencies": [{"ref": ref, "dependsOn": sorted(others)} for ref, others in sorted(needs.items())],
    }
    serial = uuid5(NAMESPACE_URL, root + json.dumps(contents, sort_keys=True))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{serial}", "version": 1}
    return {**head, **contents}


def main() -> None:
    """Print the bill of the pinned runtime requirements."""
    sys.stdout.write(json.dumps(bill(PINS.read_text(), os.environ), indent=2) + "\n")


if __name__ == "__main__":
    main()
