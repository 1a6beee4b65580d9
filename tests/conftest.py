"""Fixtures of real programs, and a list at the very end of what was left out for want of one."""

import signal
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.programs import newer
from tests.programs.available import LEFT_OUT, releases, require
from tests.programs.cloud import Cloud
from tests.programs.openstack import OpenStack
from tests.programs.prometheus import Prometheus, Promtool
from tests.programs.simulator import simulated_cloud

# How long something takes is never asserted.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C; what tests start does not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", params=[*releases("openstack"), "simulator"])
def upstream(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A cloud to fill over its REST API: a real Keystone and Heat of one release, then of another, then the simulator.

    Tests share it, so each makes projects and users of its own. Each is started once, and has ended when the next one
    starts: pytest runs the tests of the whole session with one after the other.
    """
    if request.param == "simulator":
        with simulated_cloud() as simulated:
            yield simulated
    else:
        require("openstack", request.param)
        with OpenStack(request.param) as real:
            yield real


REAL = pytest.mark.parametrize("upstream", releases("openstack"), indirect=True)
"""Keeps the simulator away from a test."""


@pytest.fixture
def openstack(upstream: Cloud) -> OpenStack:
    """The real Keystone and Heat, for a test that does what only they take; it is marked `REAL`."""
    assert isinstance(upstream, OpenStack)
    return upstream


class StartPrometheus(Protocol):
    """Starts a Prometheus; it stops at the end of the test."""

    def __call__(self, scrape_configs: list[Any], **options: Any) -> Prometheus:
        """The options are those of `Prometheus`."""


@pytest.fixture(params=releases("prometheus"))
def prometheus(request: pytest.FixtureRequest) -> Iterator[StartPrometheus]:
    """A function that starts a real Prometheus, of one release and then another, with scrape configurations."""
    require("prometheus", request.param)
    with ExitStack() as running:

        def start(scrape_configs: list[Any], **options: Any) -> Prometheus:
            return running.enter_context(Prometheus(scrape_configs, release=request.param, **options))

        yield start


@pytest.fixture(params=releases("promtool"))
def promtool(request: pytest.FixtureRequest) -> Promtool:
    """The real promtool of one release, then of another."""
    require("promtool", request.param)
    return Promtool(request.param)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Makes the folders of newer programs that the tests need, before the clock of any test runs."""
    if session.config.option.collectonly:
        return
    needed = {name: None for item in session.items for mark in item.iter_markers("newer") for name in mark.args}

    def make(name: str) -> None:
        # What can't be made is left out by name, or fails, where it is asked for.
        with suppress(newer.NotMade):
            newer.folder(name)

    missing = [name for name in needed if not newer.FOLDERS[name].path.exists()]
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if missing and newer.obstacle() is None and reporter is not None:
        reporter.write_line(f"making folders of newer programs in {newer.home()}, once: {', '.join(missing)} …")
    with ThreadPoolExecutor() as pool:
        list(pool.map(make, needed))


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
