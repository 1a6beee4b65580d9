"""What the Helm chart has of other files: `python -m release.chart` renews it, and the table of values in the docs.

A chart can hold no link to what lies outside of its folder, as not everything that fetches one follows it. So these are
copies; a test fails when they differ.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from exporter import __version__

ROOT: Final = Path(__file__).parent.parent
CHART: Final = ROOT / "deploy" / "kubernetes" / "heat-deployment-exporter"
PAGE: Final = ROOT / "docs" / "kubernetes.md"


def files() -> dict[Path, str]:
    """The text of every file of the chart, or of the documentation, that is made of others."""
    chart = CHART / "Chart.yaml"
    versions = re.sub(r"(?m)^version: .*$", f"version: {__version__}", chart.read_text(encoding="utf-8"))
    return {
        chart: re.sub(r"(?m)^appVersion: .*$", f'appVersion: "{__version__}"', versions),
        **copies(),
        PAGE: page(),
    }


def copies() -> dict[Path, str]:
    """The rules and the dashboards, for the chart's folder `files`."""
    sources = {"rules.yml": ROOT / "prometheus" / "rules.yml"} | {
        f"dashboards/{path.name}": path for path in sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
    }
    return {CHART / "files" / name: path.read_text(encoding="utf-8") for name, path in sources.items()}


def page() -> str:
    """The documentation with every value of the chart: its default, and what the comment above it says."""
    lines = ["| value | default | meaning |", "| --- | --- | --- |"]
    for path, default, meaning in values():
        shown = meaning.replace("|", "\\|")
        lines.append(f"| `{path}` | {f'`{default}`' if default else ''} | {shown} |")
    table = "\n".join(["", *lines, "", ""])
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(
        r"(?s)(<!-- begin values -->\n).*(<!-- end values -->)", lambda match: match[1] + table + match[2], text
    )


def values() -> list[tuple[str, str, str]]:
    """Every documented value of values.yaml: path, default in one line (empty where it is empty), meaning."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    return list(_documented(root, "", text.splitlines()))


def _documented(node: yaml.MappingNode, prefix: str, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """The values below a mapping. One without a comment of its own is a section."""
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        comment = lines[key.start_mark.line - 1].strip()
        if comment.startswith("# -- "):
            default = yaml.safe_load(yaml.serialize(value))
            empty = default is None or default in ("", {}, [])
            yield path, "" if empty else _shown(default), comment.removeprefix("# -- ")
        elif isinstance(value, yaml.MappingNode):
            yield from _documented(value, f"{path}.", lines)
        else:
            raise ValueError(f"values.yaml: {path}: expected a line above it that begins with '# -- '")


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def main() -> None:
    """Write them all."""
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
