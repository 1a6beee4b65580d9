"""Fixtures of real programs, and a list at the very end of what was left out for want of one."""

import signal
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.programs import newer
from tests.programs.available import LEFT_OUT, overview, releases, require
from tests.programs.cloud import Cloud
from tests.programs.openstack import OpenStack
from tests.programs.prometheus import Prometheus, Promtool
from tests.programs.simulator import simulated_cloud

# How long something takes is never asserted.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


SHARED = frozenset(
    {"address", "chromium", "helm", "image", "lint", "node_exporter", "packages", "scene", "stack", "upstream"}
)
"""The fixtures of a module or of the session that start or make something that takes seconds."""


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C; what tests start does not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", params=[*releases("openstack"), "simulator"])
def upstream(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A cloud to fill over its REST API: a real Keystone and Heat of one release, then of another, then the simulator.

    Tests share it, so each makes projects and users of its own. Each is started once: all tests of one release run in
    one worker.
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


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, object, object]:
    """Lets a worker report a failure that shows half a surrogate pair: what is sent is UTF-8."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _sendable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_sendable, value))
    return value


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Says at the start of a whole run which programs are here and about how long it takes."""
    partial = config.args_source is pytest.Config.ArgsSource.ARGS or config.option.keyword or config.option.markexpr
    return [] if partial else overview()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, object, object]:
    """Puts tests that share a server into one worker, and what takes long to the front.

    Tests of one group run in one worker, so whatever the `SHARED` fixtures start is started once.
    """
    groups = {item: group for item in items if (group := _group(item))}
    sizes = Counter(groups.values())
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))

    def place(item: pytest.Item) -> tuple[bool, int, str]:
        group = groups.get(item, "")
        return item.get_closest_marker("timeout") is None, -sizes[group], group

    items.sort(key=place)
    return (yield)  # a wrapper comes before pytest-xdist, which reads the groups here


def _group(item: pytest.Item) -> str:
    """The servers of one release that a test shares with others; empty if it shares none."""
    names = SHARED.intersection(getattr(item, "fixturenames", ()))
    parameters = getattr(item, "callspec", None)
    values = parameters.params if parameters is not None else {}
    return " ".join(f"{name}={values.get(name, '')}" for name in sorted(names))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Makes the folders of newer programs that a test needs before its timeout begins."""
    for mark in item.iter_markers("newer"):
        for name in mark.args:
            with suppress(newer.NotMade):  # the test is skipped by name, or fails, when it asks for the program
                newer.folder(name)
    return (yield)


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
