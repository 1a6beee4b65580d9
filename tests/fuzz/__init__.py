"""Fuzzing: each module is a target whose `check` takes any bytes and fails where something is not as it must be.

    .venv/bin/python -m tests.fuzz listing -max_total_time=600 -seed=7

What is found is kept in `corpus/<target>/`, and replayed by `tests/test_fuzz.py`.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

CORPUS = Path(__file__).parent / "corpus"
TARGETS = ("accept", "configuration", "encoding", "listing", "queries", "retryafter", "times", "webconfiguration")


class Target(NamedTuple):
    """What is fed with bytes, and with which to begin."""

    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]
    """What inputs of this kind are made of."""


def target(name: str) -> Target:
    """The target of this name."""
    module = import_module(f"tests.fuzz.{name}")
    return Target(module.check, module.SEEDS, module.WORDS)


def corpus(name: str) -> list[Path]:
    """The inputs that are kept for a target."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())
