"""Writing families in the two text formats: Prometheus 0.0.4 and OpenMetrics 1.0.0.

What is written equals what prometheus-client would write, value for value (the tests hold it to that); ours exists
because a template per family is an order of magnitude faster and because each project's lines are kept apart.

A family is one or more sections of a page, each with a header of its own: the 0.0.4 format has no gauge histograms
and shows one as a histogram's buckets and two gauges, as prometheus-client does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any, Final, Literal, NamedTuple

from prometheus_client.utils import floatToGoString

from exporter.common.chunking import in_steps
from exporter.deployments.snapshot import Distribution, Exemplar
from exporter.metrics.families import SCOPE_LABELS, Family, Row
from exporter.metrics.gzip_members import GzipMember, piece

Format = Literal["text", "openmetrics"]
FORMATS: Final[tuple[Format, ...]] = ("text", "openmetrics")
CONTENT_TYPES: Final[Mapping[Format, str]] = {
    "text": "text/plain; version=0.0.4; charset=utf-8",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
}
END_OF_OPENMETRICS: Final = b"# EOF\n"

LARGE_BLOCK: Final = 16 * 1024
# So few lines stay in the processor's cache from when they are written until they are bytes.
STEP_LINES: Final = 128
_SPECIAL: Final = re.compile(r'[\\"\n]')
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Block(NamedTuple):
    """One state's lines of one family: a text for each section of the format."""

    text: tuple[bytes, ...]
    openmetrics: tuple[bytes, ...]
    ready: GzipMember | None = None
    """The one text of both formats as a piece of a page, where it is so large that compressing it takes long."""


class _Escaped(dict[Any, str]):
    """Label values as they stand between quotes, each worked out once."""

    def __missing__(self, value: Any) -> str:
        text = str(value)
        escaped = self[value] = text.translate(_ESCAPES) if _SPECIAL.search(text) else text
        return escaped


def number(value: float) -> str:
    """A sample's value: integers without a point, floats as Go writes them."""
    return str(value) if type(value) is int else floatToGoString(value)


def headers(family: Family, format: Format) -> tuple[bytes, ...]:
    """The lines before each section of the family."""
    help_ = family.help_text.replace("\\", r"\\").replace("\n", r"\n")
    name, kind = family.name, family.kind
    if format == "openmetrics":
        name = name.removesuffix("_total") if kind == "counter" else name
        help_ = help_.replace('"', r"\"")  # as in label values; 0.0.4 has quotes as they are
        unit = f"# UNIT {name} {family.unit}\n" if family.unit else ""
        return (f"# HELP {name} {help_}\n# TYPE {name} {kind}\n{unit}".encode(),)
    if kind != "gaugehistogram":
        return (f"# HELP {name} {help_}\n# TYPE {name} {kind}\n".encode(),)
    return (
        f"# HELP {name} {help_}\n# TYPE {name} histogram\n".encode(),
        *(f"# HELP {name}{suffix} {help_}\n# TYPE {name}{suffix} gauge\n".encode() for suffix in ("_gcount", "_gsum")),
    )


def render(family: Family, base: Sequence[str], state: Any) -> Block | None:
    """The lines of one state (`base`: its values of the scope's labels); None where it has no samples."""
    escaped = _Escaped()
    fixed = [f'{label}="{escaped[value]}"' for label, value in zip(SCOPE_LABELS[family.scope], base, strict=True)]
    rows = family.rows(state)
    if family.kind in ("histogram", "gaugehistogram"):
        return _histograms(family, fixed, rows, escaped)
    if family.exemplars:
        return _counters(_template(family, fixed), rows, escaped)
    lines = _Lines(family, fixed, escaped)
    text = BytesIO()
    for some in in_steps(rows, STEP_LINES):
        text.write(_encoded(lines.of(some)))
    written = text.getvalue()
    if not written:
        return None
    return Block((written,), (written,), piece(written) if len(written) > LARGE_BLOCK else None)


def _template(family: Family, fixed: Sequence[str]) -> str:
    """A line with a place for each further label's value and the sample's."""
    # A literal percent sign has to survive.
    labels = ",".join([part.replace("%", "%%") for part in fixed] + [f'{label}="%s"' for label in family.labels])
    return f"{family.name}{{{labels}}} %s\n" if labels else f"{family.name} %s\n"


class _Lines(dict[tuple[Any, ...], str]):
    """Writes one line for each of a family's rows.

    Where there may be many, the first label tells them apart, and what comes between its value and the sample's is one
    of few texts: by the other labels' values, each is worked out once and kept here.
    """

    def __init__(self, family: Family, fixed: Sequence[str], escaped: _Escaped) -> None:
        super().__init__()
        self._escaped = escaped
        self._template = _template(family, fixed)
        self._others = family.labels[1:]
        self._head = f'{family.name}{{{",".join((*fixed, *family.labels[:1]))}="'
        self._of = {1: self._of_one, 2: self._of_two, 3: self._of_three}.get(len(family.labels), self._of_any)

    def __missing__(self, values: tuple[Any, ...]) -> str:
        pairs = zip(self._others, values, strict=True)
        tail = self[values] = '",' + ",".join(f'{label}="{self._escaped[value]}"' for label, value in pairs) + "} "
        return tail

    def of(self, rows: Sequence[Row]) -> list[str]:
        """The lines of some rows."""
        return self._of(rows)

    def _of_one(self, rows: Sequence[Row]) -> list[str]:
        head, escaped = self._head, self._escaped
        return [f'{head}{escaped[a]}"}} {v if type(v) is int else number(v)}\n' for a, v in rows]

    def _of_two(self, rows: Sequence[Row]) -> list[str]:
        head, escaped = self._head, self._escaped
        return [f"{head}{escaped[a]}{self[b,]}{v if type(v) is int else number(v)}\n" for a, b, v in rows]

    def _of_three(self, rows: Sequence[Row]) -> list[str]:
        head, escaped = self._head, self._escaped
        return [f"{head}{escaped[a]}{self[b, c]}{v if type(v) is int else number(v)}\n" for a, b, c, v in rows]

    def _of_any(self, rows: Sequence[Row]) -> list[str]:
        template, escaped = self._template, self._escaped
        return [template % (*(escaped[part] for part in row[:-1]), number(row[-1])) for row in rows]


def _counters(template: str, rows: Iterable[Row], escaped: _Escaped) -> Block | None:
    """Lines of counters whose values are Tallies."""
    text: list[str] = []
    openmetrics: list[str] = []
    for row in rows:
        size, exemplar = row[-1]
        line = template % (*(escaped[part] for part in row[:-1]), number(size))
        text.append(line)
        openmetrics.append(f"{line[:-1]}{_exemplar(exemplar, escaped)}\n")
    return Block((_encoded(text),), (_encoded(openmetrics),)) if text else None


def _exemplar(exemplar: Exemplar | None, escaped: _Escaped) -> str:
    if exemplar is None:
        return ""
    value, timestamp = floatToGoString(exemplar.value), float(exemplar.timestamp)
    return f' # {{deployment_id="{escaped[exemplar.deployment_id]}"}} {value} {timestamp}'


def _histograms(family: Family, fixed: list[str], rows: Iterable[Row], escaped: _Escaped) -> Block | None:
    buckets: list[str] = []
    counts: list[str] = []
    sums: list[str] = []
    together: list[str] = []
    exemplified: list[str] = []
    g = "g" if family.kind == "gaugehistogram" else ""
    for row in rows:
        distribution: Distribution = row[-1]
        parts = fixed + [f'{label}="{escaped[value]}"' for label, value in zip(family.labels, row[:-1], strict=True)]
        labels = ",".join(parts)
        start = f'{family.name}_bucket{{{labels}{"," if labels else ""}le="'
        ends = [*map(floatToGoString, distribution.bounds), "+Inf"]
        sizes = (*distribution.cumulative, distribution.size)
        lines = [f'{start}{end}"}} {count}' for end, count in zip(ends, sizes, strict=True)]
        own = "\n".join((*lines, ""))
        braces = f"{{{labels}}}" if labels else ""
        count = f"{family.name}_{g}count{braces} {distribution.size}\n"
        total = f"{family.name}_{g}sum{braces} {number(distribution.total)}\n"
        buckets.append(own)
        counts.append(count)
        sums.append(total)
        together += (own, count, total)
        if family.exemplars:
            marks = (_exemplar(each, escaped) for each in distribution.exemplars)
            exemplified += (*(f"{line}{mark}\n" for line, mark in zip(lines, marks, strict=True)), count, total)
    if not together:
        return None
    openmetrics = (_encoded(together),)
    if not g:
        return Block(openmetrics, (_encoded(exemplified),) if family.exemplars else openmetrics)
    return Block(tuple(map(_encoded, (buckets, counts, sums))), openmetrics)


def _encoded(lines: Iterable[str]) -> bytes:
    # A name from a cloud may hold half of a surrogate pair, which JSON can spell and UTF-8 can't.
    return "".join(lines).encode("utf-8", "replace")
