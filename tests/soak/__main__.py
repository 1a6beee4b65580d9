"""Runs a soak of any length, and says how to run the same again where it fails."""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
from pathlib import Path

import pytest
import structlog

from tests.harness import isolate
from tests.soak.run import Options, soak


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--refreshes", type=int, default=3000, help="how many listings are asked for")
    length.add_argument("--seconds", type=float, help="how long, instead")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--inside", action="store_true", help="the exporter in this process, its objects counted")
    options = Options(**vars(parser.parse_args()))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    print(options.command, flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        isolate(monkeypatch, folder)
        try:
            print(asyncio.run(soak(options, folder, monkeypatch)))
        except Exception as error:
            print(f"{type(error).__name__}: {error}\nto repeat it: {options.command}\nits files: {folder}")
            sys.exit(1)


if __name__ == "__main__":
    main()
