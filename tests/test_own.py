"""What the exporter tells of its own process, held against what prometheus-client writes."""

import os
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter.metrics.process_metrics import Own
from exporter.metrics.text_format import FORMATS, Format

WRITERS = {"text": generate_text, "openmetrics": generate_openmetrics}


def masked(text: bytes) -> list[str]:
    """The lines, without the values."""
    lines = text.decode().splitlines(keepends=True)
    return [line if line.startswith("#") else line.rpartition(" ")[0] for line in lines]


def values(text: bytes) -> dict[str, float]:
    """Each sample's value."""
    pairs = (line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


@contextmanager
def no_more_files() -> Iterator[None]:
    """While this lasts, this process can't open any."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.open(os.devnull, os.O_RDONLY)
    os.close(taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("format", FORMATS)
def test_it_is_what_prometheus_client_writes(format: Format) -> None:
    """Every line of it, each time; and the values are those of now."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    own = Own()
    before = own.write(format)
    assert masked(before) == masked(WRITERS[format](registry))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    try:
        after = own.write(format)
    finally:
        for each in opened:
            os.close(each)
    assert masked(after) == masked(before)
    assert values(after)["process_open_fds"] == values(before)["process_open_fds"] + 3
    constant = ("process_start_time_seconds", "process_max_fds")
    for name in constant:
        assert values(after)[name] == values(before)[name] == values(WRITERS[format](registry))[name]


@pytest.mark.parametrize("format", FORMATS)
def test_what_can_not_be_told_is_left_out(format: Format) -> None:
    """Where the system tells nothing for a while, that is left out, and no value stands beside another's name."""
    own = Own()
    before = own.write(format)
    with no_more_files():
        between = own.write(format)
    assert "process_cpu_seconds_total" not in values(between)
    assert values(between).keys() < values(before).keys()
    assert between.endswith(b"# EOF\n") is (format == "openmetrics")
    assert masked(own.write(format)) == masked(before)
    assert [value for name, value in values(between).items() if name.startswith("python_info{")] == [1]


@pytest.mark.parametrize("format", FORMATS)
def test_what_can_be_told_no_more_a_moment_later(format: Format) -> None:
    """Where the system ceases to tell something while it is being collected, that scrape and all later ones are whole:
    what is written is what was collected, once."""
    own = Own()

    class Last:
        """Collected after all others; then no more files can be opened."""

        done = False

        def describe(self) -> list[Metric]:
            return []

        def collect(self) -> list[Metric]:
            if not self.done:
                stack.enter_context(no_more_files())
            self.done = True
            return []

    own._registry.register(Last())
    with ExitStack() as stack:
        before = own.write(format)
    assert "process_cpu_seconds_total" in values(before)
    assert masked(own.write(format)) == masked(before)
