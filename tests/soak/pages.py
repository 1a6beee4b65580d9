"""Reading a page quickly: every sample once, by project, by cloud and for itself."""

import re
from dataclasses import dataclass, field
from functools import lru_cache

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]
Figures = dict[Key, float]

_LINE = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})? (\S+)(?: # \{.*)?')
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"(?:,|$)')
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}
_OWN = ("process_", "python_")


class PageError(AssertionError):
    """A page that no exporter may serve."""


@lru_cache(maxsize=100_000)  # mostly it is a line that was there before
def _sample(line: str) -> tuple[tuple[str, str, str], Key, float]:
    """Cloud, project id and project name of a line; its name and other labels; its value."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise PageError(f"no sample: {line!r}")
    labels = _LABEL.findall(match[2] or "")
    found = {name: re.sub(r"\\.", lambda escape: _ESCAPES[escape[0]], value) for name, value in labels}
    if "le" in found:
        found["le"] = str(float(found["le"]))
    cloud, project_id, project = (found.pop(name, "") for name in ("cloud", "project_id", "project"))
    return (cloud, project_id, project), (match[1], tuple(sorted(found.items()))), float(match[3])


@dataclass
class Page:
    """What one page says."""

    projects: dict[str, Figures] = field(default_factory=dict)
    """By project id."""
    names: dict[str, str] = field(default_factory=dict)
    """Of the projects."""
    cloud: Figures = field(default_factory=dict)
    exporter: Figures = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, *, openmetrics: bool) -> "Page":
        """The page in a text; PageError where a line is none, a sample is there twice, or it has no proper end."""
        page = cls()
        if openmetrics:
            text, mark, rest = text.partition("# EOF\n")
            if not mark or rest:
                raise PageError("an OpenMetrics page ends with its one end mark")
        if text and not text.endswith("\n"):
            raise PageError("the last line is cut off")
        for line in text.splitlines():
            if line.startswith(("#", *_OWN)):
                continue
            (cloud, project_id, project), key, value = _sample(line)
            if project_id:
                figures = page.projects.setdefault(project_id, {})
                if page.names.setdefault(project_id, project) != project:
                    raise PageError(f"one project, two names: {project!r} and {page.names[project_id]!r}")
            else:
                figures = page.cloud if cloud else page.exporter
            if key in figures:
                raise PageError(f"twice on one page: {line}")
            figures[key] = value
        return page


def one(figures: Figures, name: str, **labels: str) -> float | None:
    """The value of one sample, None where it is not there."""
    return figures.get((name, tuple(sorted(labels.items()))))


def cells(figures: Figures, name: str) -> dict[Labels, float]:
    """All samples of a name by their labels."""
    return {labels: value for (sample, labels), value in figures.items() if sample == name}
