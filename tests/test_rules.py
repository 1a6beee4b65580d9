"""The recording rules and alerts: what they say in which case, and the forms in which they are handed on."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import _jsonnet
import pytest
import yaml

import prometheus
from exporter.metrics.families import FAMILIES
from tests.programs.prometheus import Promtool
from tests.queries import DASHBOARDS, ROOT, RULES, SAMPLES, complaints, example, groups, names, recorded, rules

ALERTS = rules("alert")
RECORDS = rules("record")
CASES = sorted((ROOT / "prometheus" / "tests").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


# -- what the alerts say


def test_promtool_accepts_the_rules(promtool: Promtool):
    """`promtool check rules` has nothing to complain about, not even of style."""
    status, output = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert status == 0, output
    assert f"{len(ALERTS) + len(RECORDS)} rules found" in output


@pytest.mark.parametrize("file", CASES, ids=lambda path: path.stem)
def test_what_fires_and_what_does_not(file: Path, promtool: Promtool):
    """Every case of the files in prometheus/tests: series go in, exactly these alerts with these texts come out."""
    status, output = promtool("test", "rules", str(file))
    assert status == 0, output


def test_every_alert_has_its_cases():
    """Each alert fires in one case and is over at a later time of it; and in another case it never fires at all."""
    fires, resolves, silent = set(), set(), set()
    for file in CASES:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for alert in {check["alertname"] for check in case["alert_rule_test"]}:
                checks = [check for check in case["alert_rule_test"] if check["alertname"] == alert]
                checks.sort(key=lambda check: _seconds(check["eval_time"]))
                shown = [bool(check["exp_alerts"]) for check in checks]
                if any(shown):
                    fires.add(alert)
                    if not shown[-1]:
                        resolves.add(alert)
                else:
                    silent.add(alert)
    assert fires == set(ALERTS)
    assert resolves == set(ALERTS)
    assert silent == set(ALERTS)


KINDS = ("missing series", "counter reset", "restart")
"""What interrupts series. The name of a case about it begins with it, or with several, and a colon."""

NEVER_LASTS = {
    ("missing series", "HeatDeploymentDataAbsent"): "missing series are what it tells",
    ("restart", "HeatDeploymentDataAbsent"): "an exporter that restarts is there",
    ("restart", "HeatDeploymentExporterDown"): "an exporter that has restarted is up",
    ("restart", "HeatDeploymentConfigReloadFailed"): "with a configuration that it refuses no exporter comes up",
}
"""Alerts that have nothing to tell before and after such an interruption, and why. Silent in one they must be all the
same. (What an alert has no part in is known without a list: one that reads no counter has none to be reset.)"""


@dataclass(frozen=True, slots=True)
class Interruption:
    """A case of a kind, as far as it is about one alert."""

    kind: str
    alert: str
    shown: list[bool]
    """Whether it fires, check by check."""


def interruptions() -> Iterator[Interruption]:
    """All of them; the series of each show what its name says, in families that the alert reads."""
    for file in CASES:
        for case in yaml.safe_load(file.read_text())["tests"]:
            kinds, colon, _ = case["name"].partition(": ")
            if not colon or kinds.split(", ")[0] not in KINDS:
                continue
            for kind in kinds.split(", "):
                found = [each["alertname"] for each in case["alert_rule_test"] if shows(kind, each["alertname"], case)]
                assert found, f"{case['name']}: nothing in it is a {kind}"
                for alert in dict.fromkeys(found):
                    checks = [check for check in case["alert_rule_test"] if check["alertname"] == alert]
                    checks.sort(key=lambda check: _seconds(check["eval_time"]))
                    yield Interruption(kind, alert, [bool(check["exp_alerts"]) for check in checks])


def shows(kind: str, alert: str, case: Mapping[str, Any]) -> bool:
    """Whether something of a kind befalls a family that an alert reads: one is absent or has a gap without a stale
    marker, a counter goes back, a series ends with a marker and one of its family goes on later."""
    read = {name for expr in expressions(alert) for name in {*names(expr), *re.findall(r"\bup\b", expr)}}
    series = [(each["series"].partition("{")[0], samples(each["values"])) for each in case["input_series"]]
    if kind == "missing series":
        return bool(read - {name for name, _ in series}) or any(name in read and gap(values) for name, values in series)
    if kind == "counter reset":
        return any(name in read and name.endswith("_total") and back(values) for name, values in series)
    ends = [(name, values.index("stale")) for name, values in series if name in read and "stale" in values]
    return any(name == ended and set(values[at + 1 :]) - {None} for name, values in series for ended, at in ends)


def expressions(rule: str) -> set[str]:
    """The expression of a rule, and those of the recording rules that it stands on."""
    found: set[str] = set()
    waiting = [(ALERTS | RECORDS)[rule]["expr"]]
    while waiting:
        expr = waiting.pop()
        if expr not in found:
            found.add(expr)
            waiting += [RECORDS[name]["expr"] for name in recorded(expr)]
    return found


def samples(values: str) -> list[str | float | None]:
    """promtool's notation, sample by sample: a number, `stale`, or None where there is none."""
    found: list[str | float | None] = []
    for part in values.split():
        match = re.fullmatch(r"(_|stale|-?\d+)(?:([+-]\d+))?(?:x(\d+))?", part)
        assert match, part
        start, step, times = match[1], float(match[2] or 0), int(match[3] or 0)
        if start == "_":
            found += [None] * max(times, 1)
        elif start == "stale":
            found.append("stale")
        else:
            found += [float(start) + step * number for number in range(times + 1)]
    return found


def gap(values: Sequence[str | float | None]) -> bool:
    """Whether there is nothing between two samples, for longer than Prometheus looks back, and no marker says why."""
    return bool(re.search("1(?:0){6,}1", "".join({None: "0", "stale": "s"}.get(each, "1") for each in values)))


def back(values: Sequence[str | float | None]) -> bool:
    """Whether a value is less than the one before."""
    numbers = [each for each in values if isinstance(each, float)]
    return any(later < earlier for earlier, later in pairwise(numbers))


@pytest.mark.parametrize("kind", KINDS)
def test_every_alert_is_interrupted(kind: str):
    """Each alert has a case of each kind in which nothing is wrong and it never fires; and one in which something is,
    before the interruption and after it, and it fires both times."""
    concerned = set(ALERTS)
    if kind == "counter reset":
        concerned = {name for name in ALERTS if any("increase(" in expr for expr in expressions(name))}
        assert "HeatDeploymentMostFail" in concerned
    found = [each for each in interruptions() if each.kind == kind]
    lasting = {each.alert for each in found if len(each.shown) > 1 and each.shown[0] and each.shown[-1]}
    assert {each.alert for each in found if not any(each.shown)} >= concerned
    assert lasting == concerned - {alert for of, alert in NEVER_LASTS if of == kind}


def test_waiting_is_tested():
    """Where an alert has a `for`, a case looks at it before that is over and sees nothing, and later sees it fire."""
    waited = set()
    for file in CASES:
        for case in yaml.safe_load(file.read_text())["tests"]:
            checks = sorted(case["alert_rule_test"], key=lambda check: _seconds(check["eval_time"]))
            first: dict[str, bool] = {}
            for check in checks:
                if first.setdefault(check["alertname"], bool(check["exp_alerts"])) is False and check["exp_alerts"]:
                    waited.add(check["alertname"])
    assert waited == set(ALERTS)


def test_one_bad_deployment_in_a_thousand_wakes_nobody():
    """The case of that name covers every alert about failures: none is critical, none fires within hours."""
    cases = [case for file in CASES for case in yaml.safe_load(file.read_text())["tests"]]
    (case,) = (case for case in cases if case["name"] == "one in a thousand fails")
    covered = {check["alertname"] for check in case["alert_rule_test"] if not check["exp_alerts"]}
    assert len(covered) == len(case["alert_rule_test"])
    assert covered >= {
        name for name, rule in ALERTS.items() if "failed" in rule["expr"] or "FAILED" in rule["expr"]
    } - {"HeatDeploymentConfigFailing"}


def _seconds(text: str) -> int:
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text))


# -- what an alert consists of


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_complete(name: str):
    """It has a name like the others', a severity that means something, texts, and links that lead somewhere."""
    alert = ALERTS[name]
    assert re.fullmatch(r"HeatDeployment([A-Z][a-z]+)+", name)
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    texts = alert["annotations"]
    assert set(texts) == {"summary", "description", "runbook_url", "dashboard_url"}
    assert len(texts["summary"]) < 100
    assert "\n" not in texts["description"].strip()
    assert texts["runbook_url"] == f"{prometheus.RUNBOOKS}/{name}.md"
    address, _, query = texts["dashboard_url"].partition("?")
    (dashboard,) = (each for each in DASHBOARDS.values() if f"{prometheus.GRAFANA}/d/{each['uid']}" == address)
    known = {variable["name"] for variable in dashboard["templating"]["list"]}
    for part in filter(None, query.split("&")):
        match = re.fullmatch(r"var-(\w+)=\{\{ \$labels\.(\w+) \| urlquery \}\}", part)
        assert match, part
        assert match[1] in known


@pytest.mark.parametrize("name", ALERTS)
def test_a_runbook_says_what_to_do(name: str, promtool: Promtool):
    """Each alert has a page with its severity, what it means, likely causes, and commands or queries; queries parse."""
    page = (RUNBOOKS / f"{name}.md").read_text()
    alert = ALERTS[name]
    waiting = f"after {alert['for']}" if "for" in alert else "at once"
    assert page.startswith(f"# {name}\n\nSeverity `{alert['labels']['severity']}`, {waiting}.\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == ["What it means", "Likely causes", "What to do"]
    blocks = BLOCK.findall(page)
    assert {"sh", "promql"} & {language for language, _ in blocks}
    queries = [text for language, text in blocks if language == "promql"]
    assert not complaints(promtool, queries)
    for query in queries:
        assert names(query) <= SAMPLES
        assert recorded(query) <= set(RECORDS)


def test_no_runbook_is_left_over():
    """Every page is an alert's."""
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == set(ALERTS)


def test_rules_name_families_that_exist():
    """Every metric name in a rule is one that the exporter has, or one that a rule above records."""
    known: set[str] = set()
    for group in groups():
        for rule in group["rules"]:
            assert names(rule["expr"]) <= SAMPLES, rule
            # Within a rule's own expression its past is what it remembers.
            assert recorded(rule["expr"]) <= known | {rule.get("record", "")}, rule
            known.update({rule["record"]} if "record" in rule else ())


def test_no_rule_depends_on_a_job_s_name():
    """What the scrape jobs are called is for each installation to say."""
    assert not re.search(r'\b(job|instance)(=|!=|=~|!~)"', RULES.read_text())


def test_the_page_has_every_alert():
    """docs/alerting.md lists every alert with its severity, and says what its runbook says."""
    assert prometheus.PAGE.read_text() == prometheus.page()


def test_pages_name_alerts_that_exist():
    """Wherever a page names an alert, there is one of that name."""
    for path in (ROOT / "README.md", prometheus.PAGE, *RUNBOOKS.glob("*.md")):
        named = re.findall(r"\bHeatDeployment[A-Z]\w+", path.read_text())
        assert set(named) <= set(ALERTS), path


def test_ways_to_be_missing_are_run():
    """Each alert that docs/alerting.md has for a way to be missing is waited for in the chain that runs."""
    source = (ROOT / "tests" / "test_live.py").read_text()
    cells = re.findall(r"^\| [^|]+ \| (`HeatDeployment[^|]+) \|$", prometheus.PAGE.read_text(), re.MULTILINE)
    told = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert len(told) >= len(cells) > 5
    for name in told:
        assert f'"firing", "{name}"' in source or f'alertname="{name}", alertstate="firing"' in source, name


def test_the_page_selects_what_alerts_need():
    """With probes, the job for the exporter itself that docs/alerting.md shows selects every family that alerts use."""
    (scraping,) = [job for job in example("probes")["scrape_configs"] if "params" in job]
    selected = set(scraping["params"]["name[]"])
    scopes = {family.name: family.scope for family in FAMILIES}
    used = {name for rule in (*ALERTS.values(), *RECORDS.values()) for name in names(rule["expr"])}
    needed = {name for name in used if scopes.get(name) in ("cloud", "exporter")}
    assert len(needed) > 4
    assert needed <= selected


# -- the forms in which they are handed on


def test_the_manifest_is_the_rule_file():
    """The PrometheusRule for the operator is what `python -m prometheus` makes of the rule file, and has its groups."""
    text = prometheus.MANIFEST.read_text()
    assert text == prometheus.manifest(RULES.read_text())
    manifest = yaml.safe_load(text)
    assert (manifest["apiVersion"], manifest["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert manifest["metadata"]["name"] == "heat-deployment-exporter"
    assert manifest["spec"] == {"groups": groups()}


def mixin(path: str, config: str = "{}") -> Any:
    """A part of the mixin, with some of its configuration changed."""
    file = ROOT / "prometheus" / "mixin.libsonnet"
    return json.loads(_jsonnet.evaluate_snippet("test", f"((import '{file}') + {{ _config+:: {config} }}).{path}"))


def test_the_mixin_is_the_rule_file_and_the_dashboards():
    """Its rules and alerts together are the rule file's groups, its dashboards the committed ones."""
    assert mixin("prometheusRules")["groups"] + mixin("prometheusAlerts")["groups"] == groups()
    assert {name.removesuffix(".json"): board for name, board in mixin("grafanaDashboards").items()} == {
        board["uid"]: board for board in DASHBOARDS.values()
    }


def test_the_mixin_s_links_can_be_changed():
    """Its configuration moves runbooks and dashboards, and nothing else."""
    config = "{ runbooks: 'https://wiki/heat', grafana: 'https://graphs' }"
    text = json.dumps(mixin("prometheusAlerts", config))
    assert "example" not in text
    back = text.replace("https://wiki/heat", prometheus.RUNBOOKS).replace("https://graphs", prometheus.GRAFANA)
    assert json.loads(back) == mixin("prometheusAlerts")


def test_links_can_be_changed_on_the_command_line(tmp_path: Path):
    """`python -m prometheus FOLDER` writes both files with links to other addresses; without one it refuses to."""
    command = [sys.executable, "-m", "prometheus", "--runbooks=https://wiki/heat/", "--grafana=https://graphs"]
    assert subprocess.run(command, check=False, cwd=ROOT, capture_output=True).returncode == 2
    subprocess.run([*command, str(tmp_path / "new")], cwd=ROOT, check=True)
    text = (tmp_path / "new" / "rules.yml").read_text()
    assert text == prometheus.rules(runbooks="https://wiki/heat", grafana="https://graphs")
    assert "example" not in text
    assert "https://wiki/heat/HeatDeploymentStuck.md" in text
    assert "https://graphs/d/heat-deployment-project?" in text
    assert yaml.safe_load((tmp_path / "new" / "prometheusrule.yaml").read_text())["spec"] == yaml.safe_load(text)
