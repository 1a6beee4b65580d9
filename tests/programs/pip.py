"""What the machine's own pip goes by, for a pip that runs elsewhere."""

import configparser
import re
import subprocess
import sys
import tempfile
from pathlib import Path

AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
"""The certificates that the machine trusts; they are wanted at the same path."""

HANDED_ON = ("index-url", "trusted-host", "proxy", "timeout", "retries")
"""Settings that mean the same elsewhere."""


def settings() -> str:
    """A pip.conf: the machine's own settings, as far as they hold elsewhere."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    found: dict[str, str] = {}
    for key, value in re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE):
        found[key.removeprefix("default-")] = value
    parser = configparser.RawConfigParser()
    parser["global"] = {
        **{key: found[key] for key in HANDED_ON if key in found},
        "cert": str(AUTHORITIES),
    }
    with tempfile.TemporaryFile("w+") as file:
        parser.write(file)
        file.seek(0)
        return file.read()
