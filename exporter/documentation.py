"""The tables of the documentation that come from code: `python -m exporter.documentation FILE…` renews them in place.

A table stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; a test fails when one differs from the code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel

from exporter.config import Cloud, Config
from exporter.families import FAMILIES, SCOPE_LABELS, Scope
from exporter.units import format_duration, format_size

_KINDS: Final = {"gaugehistogram": "gauge histogram"}
_SCOPES: Final[dict[Scope, str]] = {
    "data": "Of the cloud's data; withdrawn while the data is stale.",
    "project": "About fetching a project.",
    "cloud": "About a cloud.",
    "exporter": "About the exporter itself (besides `process_*` and `python_*`).",
}


def metrics_table() -> str:
    """Every metric family as Markdown, by what it is about."""
    lines: list[str] = []
    for scope, title in _SCOPES.items():
        common = ", ".join(f"`{label}`" for label in SCOPE_LABELS[scope]) or "none"
        lines += ["", f"**{title}** Labels of all: {common}.", "", "| family | type | further labels | meaning |"]
        lines.append("| --- | --- | --- | --- |")
        for family in FAMILIES:
            if family.scope == scope:
                labels = ", ".join(f"`{label}`" for label in family.labels)
                kind = _KINDS.get(family.kind, family.kind)
                lines.append(f"| `{family.name}` | {kind} | {labels} | [{family.stability}] {family.help} |")
    return "\n".join([*lines, ""])


def configuration_table() -> str:
    """Every key of the configuration file as Markdown, with its default and meaning."""
    lines = ["", "| key | default | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{path}` | {default} | {meaning} |" for path, default, meaning in _keys(Config, "")]
    return "\n".join([*lines, ""])


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        meaning = (field.description or "").replace("|", "\\|")
        inner = _model(field.annotation)
        if inner is None or (model is Cloud and name in ("refresh", "limits")):
            yield path, _default(field.get_default(call_default_factory=False), name), meaning
        else:
            many = get_origin(field.annotation) is tuple
            yield from _keys(inner, f"{path}[]." if many else f"{path}.")


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation is of, itself or as a tuple's items."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is tuple:
        return _model(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return None
    return _model(get_args(annotation)[0]) if get_args(annotation) and not isinstance(annotation, type) else None


_DURATIONS: Final = frozenset(
    {"interval", "timeout", "silence", "stale_after", "slow_after", "discovery", "stuck_after", "age", "duration"}
)


def _default(value: Any, name: str) -> str:
    def show(each: Any) -> str:
        if name in _DURATIONS:
            return format_duration(each)
        return format_size(each) if name == "response_bytes" else str(each)

    if value is None or value == "" or isinstance(value, BaseModel) or value == ():
        return ""
    text = ", ".join(map(show, value)) if isinstance(value, tuple) else show(value)
    return f"`{text}`"


TABLES: Final[Mapping[str, Callable[[], str]]] = {"metrics": metrics_table, "configuration": configuration_table}


def renewed(text: str) -> str:
    """The text with every table in it as the code has it now."""
    for name, table in TABLES.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        text = pattern.sub(lambda match, table=table: f"{match[1]}{table()}\n{match[2]}", text)  # type: ignore[misc]
    return text


def main(paths: list[str]) -> None:
    """Renew the tables in these files."""
    for path in map(Path, paths):
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
