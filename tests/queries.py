"""PromQL as it stands in dashboards, rules and runbooks: the families in it, and variables as Grafana expands them."""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from exporter.metrics.families import FAMILIES
from tests.programs.prometheus import Promtool

ROOT = Path(__file__).parent.parent
DASHBOARDS = {
    path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
}
RULES = ROOT / "prometheus" / "rules.yml"

FAMILY_NAMES = [family.name for family in FAMILIES]
SAMPLES = {name for family in FAMILIES for name in family.sample_names()}


@cache
def groups() -> list[dict[str, Any]]:
    """The groups of the rule file."""
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return found


@cache
def rules(kind: str) -> dict[str, dict[str, Any]]:
    """The rules of a kind (`alert` or `record`), by name."""
    return {rule[kind]: rule for group in groups() for rule in group["rules"] if kind in rule}


def names(expr: str) -> set[str]:
    """The metric names of the exporter in an expression, those in matchers of `__name__` too."""
    bare = re.sub(r'(?<!__name__=~)"(?:[^"\\]|\\.)*"', '""', expr)
    return set(re.findall(r"(?<![\w:])heat_\w+(?![\w:])", bare))


def recorded(expr: str) -> set[str]:
    """The recorded series in an expression."""
    return set(re.findall(r"\w+:\w+:\w+", expr))


def example(name: str) -> dict[str, Any]:
    """The YAML of an example of docs/alerting.md."""
    page = (ROOT / "docs" / "alerting.md").read_text()
    text = page.split(f"<!-- begin {name} -->\n```yaml\n")[1].split("```\n")[0]
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def complaints(promtool: Promtool, expressions: Iterable[str]) -> str:
    """What a real parser of PromQL has to say against expressions; nothing where all can be read."""
    made = [{"record": f"test:expression:{number}", "expr": expr} for number, expr in enumerate(expressions)]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump({"groups": [{"name": "test", "rules": made}]}, file)
        file.flush()
        status, output = promtool("check", "rules", file.name)
    return "" if status == 0 else output


# -- dashboards


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel."""

    dashboard: str
    panel: dict[str, Any]
    target: dict[str, Any]

    @property
    def expr(self) -> str:
        """What is asked."""
        return str(self.target["expr"])

    @property
    def name(self) -> str:
        """What it is called in a failure."""
        return f"{self.dashboard} / {self.panel['title']} / {self.target['refId']}"


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The panels of a dashboard, headings left out."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets() -> Iterator[Target]:
    """Every query of every panel."""
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield Target(name, panel, target)


def variables(dashboard: Mapping[str, Any], kind: str = "query") -> dict[str, dict[str, Any]]:
    """The variables of a dashboard of a kind, by name."""
    return {each["name"]: each for each in dashboard["templating"]["list"] if each["type"] == kind}


ALL = "$__all"
Values = Mapping[str, str | list[str]]


def expand(text: str, dashboard: Mapping[str, Any], values: Values, times: Mapping[str, str]) -> str:
    """A text with its variables replaced as Grafana's Prometheus data source does it.

    A variable that can have several values is a regular expression: each value escaped, several in parentheses, All its
    `allValue` as it stands. Any other is put in as it is, quotes and backslashes escaped.
    """
    known = variables(dashboard)

    def replaced(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name in times:
            return times[name]
        if name not in known:
            raise LookupError(f"no variable {name}")
        value, variable = values[name], known[name]
        if value == ALL:
            return str(variable["allValue"])
        if not (variable.get("multi") or variable.get("includeAll")):
            assert isinstance(value, str)
            return value.replace("\\", "\\\\").replace("'", "\\\\'")
        if isinstance(value, str):
            return _escaped(value)
        return _escaped(value[0]) if len(value) == 1 else f"({'|'.join(map(_escaped, value))})"

    return re.sub(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))", replaced, text)


def _escaped(value: str) -> str:
    return re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\\\\\\\"))
