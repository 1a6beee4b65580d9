"""Fixtures of real programs, and a list at the very end of what was left out for want of one."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import hypothesis
import pytest

from tests.programs.available import LEFT_OUT, require
from tests.programs.openstack import OpenStack
from tests.programs.prometheus import Prometheus

# How long an example takes says something of the machine only.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")


@pytest.fixture(scope="session")
def openstack() -> Iterator[OpenStack]:
    """A real Keystone and Heat; tests share it, so each makes projects and users of its own."""
    require("openstack")
    with OpenStack() as cloud:
        yield cloud


class StartPrometheus(Protocol):
    """Starts a Prometheus; it stops at the end of the test."""

    def __call__(self, scrape_configs: list[Any], **options: Any) -> Prometheus:
        """The options are those of `Prometheus`."""


@pytest.fixture
def prometheus() -> Iterator[StartPrometheus]:
    """A function that starts a real Prometheus with the scrape configurations it is given."""
    require("prometheus")
    with ExitStack() as running:

        def start(scrape_configs: list[Any], **options: Any) -> Prometheus:
            return running.enter_context(Prometheus(scrape_configs, **options))

        yield start


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """Names, after everything else, each test that a missing program left out, and the program."""
    yield
    left_out: dict[str, list[str]] = {}
    for report in terminalreporter.getreports("skipped"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if LEFT_OUT in reason:
            left_out.setdefault(reason.partition(LEFT_OUT)[2], []).append(report.nodeid)
    for reason, tests in sorted(left_out.items()):
        terminalreporter.section(f"left out: {reason}", sep="-", red=True)
        for test in tests:
            terminalreporter.line(test)
