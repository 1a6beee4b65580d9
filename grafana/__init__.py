"""Dashboards as code: `python -m grafana` renews the JSON files in dashboards/; docs/grafana.md has the rest."""

from pathlib import Path
from typing import Final

from grafana import exporter, fleet, project
from grafana.parts import render

FOLDER: Final = Path(__file__).parent / "dashboards"
DASHBOARDS: Final = {"fleet": fleet.dashboard, "project": project.dashboard, "exporter": exporter.dashboard}
"""What builds each, by the name of its file."""


def files() -> dict[Path, str]:
    """The text of every dashboard's file."""
    return {FOLDER / f"{name}.json": render(build()) for name, build in DASHBOARDS.items()}
