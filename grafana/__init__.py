"""Dashboards as code: `python -m grafana` renews the JSON files in dashboards/; docs/grafana.md has the rest."""

import re
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.models.dashboard import Panel

from grafana import exporter, fleet, project
from grafana.parts import render

FOLDER: Final = Path(__file__).parent / "dashboards"
PAGE: Final = Path(__file__).parent.parent / "docs" / "grafana.md"
DASHBOARDS: Final = {"fleet": fleet.dashboard, "project": project.dashboard, "exporter": exporter.dashboard}
"""What builds each, by the name of its file."""


def files() -> dict[Path, str]:
    """The text of every dashboard's file."""
    return {FOLDER / f"{name}.json": render(build()) for name, build in DASHBOARDS.items()}


def page() -> str:
    """The documentation with every panel and what it answers, from the panels' own descriptions."""
    lines: list[str] = []
    for build in DASHBOARDS.values():
        built = build().build()
        lines += [
            "",
            f"### {built.title}",
            "",
            built.description or "",
            "",
            "| picture | what it answers |",
            "| --- | --- |",
        ]
        lines += [
            f"| {panel.title} | {panel.description} |" for panel in built.panels or [] if isinstance(panel, Panel)
        ]
    table = "\n".join([*lines, ""])
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(
        r"(?s)(<!-- begin panels -->\n).*(<!-- end panels -->)", lambda match: match[1] + table + "\n" + match[2], text
    )
