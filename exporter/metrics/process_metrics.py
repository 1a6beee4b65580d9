"""The families that are made at scrape time, `process_*` and `python_*`: prometheus-client's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest as generate_text
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from exporter.metrics.text_format import Format


class _Frame(NamedTuple):
    """What prometheus-client wrote, but for the values: these change from scrape to scrape, and nothing else does."""

    samples: Sequence[tuple[str, Mapping[str, str]]]
    """The names and labels of which."""
    texts: Sequence[str]
    """What comes before each value, and after the last one."""


class Own:
    """What this process tells of itself."""

    def __init__(self) -> None:
        # With the names of what its collectors bring, for a page of some of them.
        self._registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._frames: dict[Format, _Frame] = {}

    def write(self, format: Format) -> bytes:
        """Their text, with OpenMetrics' end mark."""
        families = list(self._registry.collect())
        samples = [sample for family in families for sample in family.samples]
        frame = self._frames.get(format)
        if frame is None or frame.samples != [sample[:2] for sample in samples]:
            frame = self._frames[format] = _frame(samples, _written(format, families).decode())
        values = [floatToGoString(sample.value) for sample in samples]
        return "".join([part for pair in zip(frame.texts, (*values, ""), strict=True) for part in pair]).encode()

    def some(self, format: Format, names: list[str]) -> bytes | None:
        """The same of those families only that are named, by themselves or by a sample; None where none is."""
        wanted = set(names)
        found: list[str] = []
        for family in self._registry.collect():
            samples = {sample.name for sample in family.samples}
            if wanted & (samples | {family.name}):
                found += samples
        return _written(format, self._registry.restricted_registry(found).collect()) if found else None


class _Collected(NamedTuple):
    """What was collected already, for writers that ask a registry. Collected twice it might differ: what the system
    tells the first time it may not tell the second."""

    families: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        """Just that."""
        return self.families


def _written(format: Format, families: Iterable[Metric]) -> bytes:
    registry = _Collected(families)
    text: bytes = (generate_openmetrics if format == "openmetrics" else generate_text)(registry)
    return text


def _frame(samples: Sequence[Sample], text: str) -> _Frame:
    """The frame of a text that prometheus-client wrote of these samples, in their order."""
    texts = [""]
    for line in text.splitlines(keepends=True):
        if line.startswith("#"):
            texts[-1] += line
        else:
            start, _, _ = line.rpartition(" ")
            texts[-1] += f"{start} "
            texts.append("\n")
    return _Frame([sample[:2] for sample in samples], texts)
