"""Recording rules and alerts, and the forms in which they are handed on; docs/alerting.md has the rest.

The two addresses below stand in the rules as they are. They are placeholders: where the runbooks and Grafana can be
reached is for each installation to say (`python -m prometheus --runbooks … --grafana … FOLDER`, or the mixin's
`_config`).
"""

import re
from pathlib import Path
from typing import Final

import yaml

RUNBOOKS: Final = "https://runbooks.example.com/heat-deployment-exporter"
"""Where the folder docs/runbooks is served."""
GRAFANA: Final = "https://grafana.example.com"
"""The root of the Grafana that has the dashboards."""

FOLDER: Final = Path(__file__).parent
RULES: Final = FOLDER / "rules.yml"
MANIFEST: Final = FOLDER / "prometheusrule.yaml"
PAGE: Final = FOLDER.parent / "docs" / "alerting.md"
PAGES: Final = PAGE.parent / "runbooks"

_HEAD: Final = """\
# Generated from rules.yml by `python -m prometheus`: for the Prometheus Operator. Its labels have to be those that your
# Prometheus selects (`ruleSelector`).
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: heat-deployment-exporter
  labels:
    app.kubernetes.io/name: heat-deployment-exporter
spec:
"""


def rules(*, runbooks: str = RUNBOOKS, grafana: str = GRAFANA) -> str:
    """The rule file with links to these addresses."""
    text = RULES.read_text(encoding="utf-8")
    return text.replace(RUNBOOKS, runbooks.rstrip("/")).replace(GRAFANA, grafana.rstrip("/"))


def manifest(rule_file: str) -> str:
    """The PrometheusRule that has the groups of a rule file, with its comments."""
    groups = rule_file[rule_file.index("groups:") :]
    return _HEAD + "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True))


def page() -> str:
    """The documentation with every alert: its severity, how long it waits, and what its runbook says it means."""
    lines = ["| alert | severity | after | means |", "| --- | --- | --- | --- |"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                name = rule["alert"]
                book = (PAGES / f"{name}.md").read_text(encoding="utf-8")
                meaning = book.split("## What it means\n\n")[1].split("\n\n")[0].replace("\n", " ")
                waits = rule.get("for", "at once")
                lines.append(f"| [{name}](runbooks/{name}.md) | {rule['labels']['severity']} | {waits} | {meaning} |")
    table = "\n".join(["", *lines, "", ""])
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(
        r"(?s)(<!-- begin alerts -->\n).*(<!-- end alerts -->)", lambda match: match[1] + table + match[2], text
    )
