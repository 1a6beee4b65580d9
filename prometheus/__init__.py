"""Recording rules and alerts, and the forms in which they are handed on; docs/alerting.md has the rest.

The two addresses below stand in the rules as they are. They are placeholders: where the runbooks and Grafana can be
reached is for each installation to say (`python -m prometheus --runbooks … --grafana … FOLDER`, or the mixin's
`_config`).
"""

from pathlib import Path
from typing import Final

RUNBOOKS: Final = "https://runbooks.example.com/heat-deployment-exporter"
"""Where the folder docs/runbooks is served."""
GRAFANA: Final = "https://grafana.example.com"
"""The root of the Grafana that has the dashboards."""

FOLDER: Final = Path(__file__).parent
RULES: Final = FOLDER / "rules.yml"
MANIFEST: Final = FOLDER / "prometheusrule.yaml"

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
