"""Versions of our dependencies that are known to be bad: `python -m release.advisories FOLDER DATE` renews the file.

FOLDER is a checkout of the Python Packaging Advisory Database (https://github.com/pypa/advisory-database, CC-BY 4.0),
DATE that of its last commit. What is kept of it is which versions of what we run with an advisory is about, so that no
pin can go back to one of them where nobody can be asked. It knows nothing that is younger than the checkout: `make
audit` asks for that.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

from release.sbom import PINS, pins

FILE = Path(__file__).parent / "advisories.json"


@dataclass(frozen=True, slots=True)
class Advisory:
    """One advisory: each range begins with a version that has it, and ends with one that has not ("": none yet)."""

    id: str
    package: str
    ranges: tuple[tuple[str, str], ...]

    def affects(self, version: str) -> bool:
        """Whether a version has what it is about."""
        asked = Version(version)
        return any(Version(first) <= asked and (not fixed or asked < Version(fixed)) for first, fixed in self.ranges)


def known() -> list[Advisory]:
    """Those of the file."""
    return [
        Advisory(each["id"], each["package"], tuple((first, fixed) for first, fixed in each["ranges"]))
        for each in json.loads(FILE.read_text(encoding="utf-8"))["advisories"]
    ]


def collected(folder: Path) -> Iterator[dict[str, Any]]:
    """The advisories of a checkout about what is pinned to run with, withdrawn ones left out."""
    for name in sorted(pin.name for pin in pins(PINS.read_text(encoding="utf-8"))):
        for path in sorted((folder / "vulns" / name).glob("*.yaml")):
            advisory = yaml.safe_load(path.read_text(encoding="utf-8"))
            ranges = [*_ranges(advisory)]
            if ranges and not advisory.get("withdrawn"):
                yield {"id": advisory["id"], "package": name, "ranges": ranges}


def _ranges(advisory: Any) -> Iterator[tuple[str, str]]:
    for affected in advisory["affected"]:
        for found in affected.get("ranges", ()):
            if found["type"] == "ECOSYSTEM":
                first = ""
                for event in found["events"]:
                    if "introduced" in event:
                        first = event["introduced"]
                    elif "fixed" in event:
                        yield first, event["fixed"]
                        first = ""
                if first:
                    yield first, ""


def main(folder: Path, taken: str) -> None:
    """Write the file; `taken` is the date of the checkout's last commit."""
    head = {"source": "https://github.com/pypa/advisory-database (CC-BY 4.0)", "taken": taken}
    lines = ",\n".join(map(json.dumps, collected(folder)))  # a line each, for whoever compares
    FILE.write_text(f'{json.dumps(head)[:-1]}, "advisories": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
