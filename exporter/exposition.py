"""Writing families in the two text formats: Prometheus 0.0.4 and OpenMetrics 1.0.0.

What is written equals what prometheus-client would write, value for value (the tests hold it to that); ours exists
because a template per family is an order of magnitude faster and because each project's lines are kept apart.

A family is one or more sections of a page, each with a header of its own: the 0.0.4 format has no gauge histograms
and shows one as a histogram's buckets and two gauges, as prometheus-client does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from prometheus_client.utils import floatToGoString

from exporter.families import SCOPE_LABELS, Family, Row
from exporter.snapshot import Distribution, Exemplar

Format = Literal["text", "openmetrics"]
FORMATS: Final[tuple[Format, ...]] = ("text", "openmetrics")
CONTENT_TYPES: Final[Mapping[Format, str]] = {
    "text": "text/plain; version=0.0.4; charset=utf-8",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
}
END_OF_OPENMETRICS: Final = b"# EOF\n"

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Block(NamedTuple):
    """One state's lines of one family: a text for each section of the format."""

    text: tuple[bytes, ...]
    openmetrics: tuple[bytes, ...]


class _Escaped(dict[Any, str]):
    """Label values as they stand between quotes, each worked out once."""

    def __missing__(self, value: Any) -> str:
        escaped = self[value] = str(value).translate(_ESCAPES)
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
    # A literal percent sign has to survive the template.
    labels = ",".join([part.replace("%", "%%") for part in fixed] + [f'{label}="%s"' for label in family.labels])
    template = f"{family.name}{{{labels}}} %s\n" if labels else f"{family.name} %s\n"
    if family.exemplars:
        return _counters(template, rows, escaped)
    match len(family.labels):
        case 0:
            lines = [template % number(value) for (value,) in rows]
        case 1:
            lines = [template % (escaped[a], number(value)) for a, value in rows]
        case 2:
            lines = [template % (escaped[a], escaped[b], number(value)) for a, b, value in rows]
        case 3:
            lines = [template % (escaped[a], escaped[b], escaped[c], number(value)) for a, b, c, value in rows]
        case _:
            lines = [template % (*(escaped[part] for part in row[:-1]), number(row[-1])) for row in rows]
    if not lines:
        return None
    text = (_encoded(lines),)
    return Block(text, text)


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
