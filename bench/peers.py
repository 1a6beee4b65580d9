"""The programs that ours is measured beside, and whether they are here."""

from __future__ import annotations

import shutil
import sys

PROGRAMS = {
    "nginx": "nginx-light",
    "wrk": "wrk",
    "prometheus": "prometheus",
    "prometheus-pushgateway": "prometheus-pushgateway",
}
"""By name, the Debian package that brings it."""


def path(name: str) -> str | None:
    """Where a program is, None where it is not."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin")


if __name__ == "__main__":
    # For make: the packages that are missing.
    sys.stdout.write(" ".join(package for name, package in PROGRAMS.items() if path(name) is None) + "\n")
